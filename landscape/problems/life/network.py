"""The convolutional networks that learn the Game of Life.

Tensors carry the names of the study's code (`net.0.0.weight`, ...), so that its checkpoints load as they are.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

__all__ = ["ACTIVATIONS", "blocks", "build"]

#: Activation by name. `rrelu` draws its negative slope from [1/8, 1/3] in training; its mean, 11/48, serves otherwise.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "rrelu": nn.RReLU,
}


def blocks(steps: int, d_factor: float) -> int:
    """Number of blocks: floor(steps d_factor)."""
    return math.floor(steps * d_factor)


def build(
    *,
    blocks: int,
    m_factor: int,
    activation: str,
    sigmoid: bool,
    normalize: bool,
    pad: bool = True,
    logits: bool = False,
) -> nn.Sequential:
    """The network: per block Conv3x3(1 -> 2m), Conv1x1(2m -> m), Conv1x1(m -> 1), each with its activation.

    With `sigmoid` the very last activation is a sigmoid, which `logits` leaves out. With `normalize` the input is
    expected shifted by -1/2 and the first block is padded with -1/2, the shifted value of a dead cell; later blocks
    read their predecessor's 0 and 1. Without `pad` each block shrinks its board by one cell a side: fed with 3 x 3
    patterns, one block answers with the single cell in the middle.
    """

    def block(index: int) -> nn.Sequential:
        act = ACTIVATIONS[activation]
        last = index == blocks - 1
        layers: list[tuple[str, nn.Module]] = [
            ("0", nn.Conv2d(1, 2 * m_factor, 3)),
            ("1", act()),
            ("2", nn.Conv2d(2 * m_factor, m_factor, 1)),
            ("3", act()),
            ("4", nn.Conv2d(m_factor, 1, 1)),
        ]
        if not (last and sigmoid):
            layers.append(("5", act()))
        elif not logits:
            layers.append(("5", nn.Sigmoid()))
        if pad:
            dead = -0.5 if normalize and index == 0 else 0.0
            layers.insert(0, ("pad", nn.ConstantPad2d(1, dead)))
        return nn.Sequential(OrderedDict(layers))

    net = nn.Sequential(*(block(index) for index in range(blocks)))
    return nn.Sequential(OrderedDict(net=net))
