"""Which networks are evaluated many at once, and which one after another by their own forward."""

import torch
from torch import nn

from landscape.engine.program.layers import LAYERS, has_statistics
from landscape.engine.stacked import leaves

__all__ = ["many_at_once"]

#: Outputs of the widest layer up to which products of many networks at once are faster than each network's own, on a
#: CPU (see `benchmarks/`); on a GPU, bytes of a network up to which its own would leave the device idle.
_NARROW, _SMALL_BYTES = 32, 2**20


def many_at_once(module: nn.Module, device: torch.device) -> bool:
    """Whether stacks of a network are evaluated faster than its own forward, by the network and the device alone: a
    member's numbers may depend neither on its companions nor on a busy moment.
    """
    for _, layer in leaves(module):
        build = LAYERS.get(type(layer))
        if build is None or build(layer) is None or has_statistics(layer):
            return False
    tensors = list(module.parameters())
    if device.type != "cpu":
        return sum(tensor.nbytes for tensor in tensors) <= _SMALL_BYTES
    return max((len(tensor) for tensor in tensors if tensor.ndim > 1), default=0) <= _NARROW
