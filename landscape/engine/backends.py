"""Which networks are evaluated many at once, and which one after another by their own forward."""

import torch
from torch import nn

from landscape.engine.memory import widest_output
from landscape.engine.program.layers import LAYERS, has_statistics
from landscape.engine.stacked import leaves

__all__ = ["between_operations", "many_at_once"]

#: Numbers in the widest activation of a whole evaluation up to which a network's own forward spends its time between
#: operations, on a CPU and on a GPU; more are evaluated as fast one after another (see `benchmarks/layers.py`).
_BETWEEN = {"cpu": 2**15, "cuda": 2**22}


def many_at_once(module: nn.Module, few: torch.Tensor, samples: int) -> bool:
    """Whether stacks of a network are evaluated faster than its own forward on so many samples, of which `few` are
    given; by the network, the data and the device alone: a member's numbers may depend neither on its companions nor on
    a busy moment.
    """
    for _, layer in leaves(module):
        build = LAYERS.get(type(layer))
        hooked = layer._forward_pre_hooks or layer._forward_hooks  # such as those of old weight_norm
        if build is None or build(layer) is None or has_statistics(layer) or hooked:
            return False
    return between_operations(module, few, samples)


def between_operations(module: nn.Module, few: torch.Tensor, samples: int) -> bool:
    """Whether a network's own forward on so many samples spends its time between operations."""
    return samples * widest_output(module, few) <= _BETWEEN.get(few.device.type, _BETWEEN["cuda"])
