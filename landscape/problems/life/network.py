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
    architecture: str = "study",
    dropout: float = 0.0,
    dropout_last: bool = True,
    pad: bool = True,
    logits: bool = False,
) -> nn.Sequential:
    """The network.

    Per block Conv3x3(. -> 2m), dropout of whole channels (in the last block if `dropout_last`), Conv1x1(2m -> m), and
    in the `study` architecture Conv1x1(m -> 1), each with its activation. The `paper` architecture (J. Springer, G.
    Kenyon, arXiv 2009.01398) hands all m channels to the next block and has a single Conv1x1(m -> 1) at the end, `out`.

    With `sigmoid` the very last activation is a sigmoid, which `logits` leaves out. With `normalize` the input is
    expected shifted by -1/2 and the first block is padded with -1/2, the shifted value of a dead cell; later blocks
    read their predecessor's 0 and 1. Without `pad` each block shrinks its board by one cell a side: fed with 3 x 3
    patterns, one block answers with the single cell in the middle.
    """

    last = () if sigmoid and logits else (nn.Sigmoid() if sigmoid else ACTIVATIONS[activation](),)

    def block(index: int) -> nn.Sequential:
        act = ACTIVATIONS[activation]
        read = 1 if architecture == "study" or index == 0 else m_factor
        layers: dict[str, nn.Module] = {}
        if pad:
            layers["pad"] = nn.ConstantPad2d(1, -0.5 if normalize and index == 0 else 0.0)
        layers["0"] = nn.Conv2d(read, 2 * m_factor, 3)
        if dropout and (dropout_last or index < blocks - 1):
            layers["dropout"] = nn.Dropout2d(dropout)
        layers |= {"1": act(), "2": nn.Conv2d(2 * m_factor, m_factor, 1), "3": act()}
        if architecture == "study":
            layers["4"] = nn.Conv2d(m_factor, 1, 1)
            layers.update(zip("5", [act()] if index < blocks - 1 else last, strict=False))
        return nn.Sequential(OrderedDict(layers))

    parts: dict[str, nn.Module] = {"net": nn.Sequential(*(block(index) for index in range(blocks)))}
    if architecture == "paper":
        parts["out"] = nn.Conv2d(m_factor, 1, 1)
        parts.update(zip(["act"], last, strict=False))
    return nn.Sequential(OrderedDict(parts))
