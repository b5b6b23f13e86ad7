"""What flows through a network of many members: tensors with a member axis in front, and samples last.

Each stands for the tensor [sample, *rest] that PyTorch's own forward has, as [member, *rest, sample]: a layer of a
perceptron or a convolution is then one product over a long contiguous axis. Parameters that a forward reads are no
exception: PyTorch's first axis is the last. A leading axis of 1 is shared by all members.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["align", "by_member", "expand", "samples_first", "samples_last", "shape_of"]


def samples_first(tensor: Tensor) -> Tensor:
    """[member, sample, *rest]."""
    return tensor.movedim(-1, 1) if tensor.ndim > 2 else tensor


def samples_last(tensor: Tensor) -> Tensor:
    """[member, *rest, sample]."""
    return tensor.movedim(1, -1) if tensor.ndim > 2 else tensor


def shape_of(tensor: Tensor) -> torch.Size:
    """The shape that PyTorch's own forward sees."""
    return samples_first(tensor).shape[1:]


def align(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with axes of 1 put where PyTorch's broadcasting would."""
    most = max(tensor.ndim for tensor in tensors)
    aligned = []
    for tensor in tensors:
        if missing := most - tensor.ndim:
            plain = samples_first(tensor)
            tensor = samples_last(plain.reshape(len(plain), *(1,) * missing, *plain.shape[1:]))
        aligned.append(tensor)
    return aligned


def expand(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with their leading axes of 1 expanded to the largest."""
    members = max(len(tensor) for tensor in tensors)
    return [tensor.expand(members, *tensor.shape[1:]) for tensor in tensors]


def by_member(function: Callable[..., Any], arguments: Any, *, apart: bool = False) -> Any:
    """A function of nested PyTorch tensors, samples first, applied to those of each member: by `torch.func.vmap`, or
    one by one where that cannot run it, and where they are to be kept `apart`.
    """
    leaves, spec = pytree.tree_flatten(arguments)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [samples_first(leaves[place]) for place in places]

    def call(*numbers: Tensor) -> Any:
        filled = list(leaves)
        for place, number in zip(places, numbers, strict=True):
            filled[place] = number
        return function(*pytree.tree_unflatten(filled, spec))

    if all(len(tensor) == 1 for tensor in tensors):
        return _each_tensor(call(*(tensor[0] for tensor in tensors)), lambda result: samples_last(result[None]))
    ways = tuple(None if len(tensor) == 1 else 0 for tensor in tensors)
    numbers = [tensor[0] if way is None else tensor for tensor, way in zip(tensors, ways, strict=True)]
    try:
        if apart:
            raise NotImplementedError
        results = torch.func.vmap(call, in_dims=ways)(*numbers)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        every = [pytree.tree_flatten(call(*each)) for each in zip(*expand(tensors), strict=True)]
        stacked = [
            torch.stack(each) if isinstance(each[0], Tensor) else each[0]
            for each in zip(*(found for found, _ in every), strict=True)
        ]
        results = pytree.tree_unflatten(stacked, every[0][1])
    return _each_tensor(results, samples_last)


def _each_tensor(results: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map(lambda result: change(result) if isinstance(result, Tensor) else result, results)
