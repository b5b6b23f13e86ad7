"""Which networks are evaluated many at once, and which one after another by their own forward."""

import math

import torch

from landscape.engine.stacked import Stacked

__all__ = ["many_at_once"]

#: Outputs of the widest layer up to which products of many networks at once are faster than each network's own, on a
#: CPU (see `benchmarks/`); on a GPU, bytes of a network up to which its own would leave the device idle.
_NARROW, _SMALL_BYTES = 32, 2**20


def many_at_once(network: Stacked, device: torch.device) -> bool:
    """Whether stacks of a network are evaluated faster than its own forward, by the network and the device alone: a
    member's numbers may depend neither on its companions nor on a busy moment.
    """
    if network.table is not None:
        return True
    if not network.sequence or network.backend != "stacked" or network.normalises:
        return False
    shapes = network.template.shapes.values()
    if device.type != "cpu":
        return 4 * sum(map(math.prod, shapes)) <= _SMALL_BYTES
    return max((shape[0] for shape in shapes if len(shape) > 1), default=0) <= _NARROW
