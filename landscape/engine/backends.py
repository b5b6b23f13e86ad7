"""Which networks are evaluated many at once, and which one after another by their own forward."""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from landscape.engine.memory import widest_output
from landscape.engine.program.layers import LAYERS, has_statistics
from landscape.engine.stacked import leaves

__all__ = ["between_operations", "many_at_once", "plain_layers"]

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
        if build is None or build(layer) is None or has_statistics(layer):
            return False
    return plain_layers(module) and between_operations(module, few, samples)


def plain_layers(module: nn.Module) -> bool:
    """Whether a network's layers do what their types say. Stacks know nothing of hooks (old weight and spectral norms
    are some), parametrizations, a `forward` that was exchanged, or an embedding whose forward writes over its weights
    (`max_norm`).
    """
    return not any(
        layer._forward_pre_hooks
        or layer._forward_hooks
        or layer._backward_pre_hooks
        or layer._backward_hooks
        or is_parametrized(layer)
        or "forward" in vars(layer)
        or getattr(layer, "max_norm", None) is not None
        for layer in module.modules()
    )


def between_operations(module: nn.Module, few: torch.Tensor, samples: int) -> bool:
    """Whether a network's own forward on so many samples spends its time between operations."""
    return samples * widest_output(module, few) <= _BETWEEN.get(few.device.type, _BETWEEN["cuda"])
