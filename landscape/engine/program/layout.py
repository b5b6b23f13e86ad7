"""What flows through a network of many members: tensors with a member axis in front, in one of two layouts.

A value has the shape that PyTorch gives it, [sample, *rest] as a rule. Its numbers are laid out either with the first
axis last, [member, *rest, sample], so that a layer of a perceptron or a convolution is one product over a long
contiguous axis, or plainly, [member, sample, *rest], as attention likes it. The layout does not change what a value is:
each operation asks for the one that suits it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Value", "align", "by_member", "expand"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of each member; a leading axis of 1 is shared by all. With `last`, PyTorch's axis 0 is stored last."""

    data: Tensor
    last: bool

    @property
    def rank(self) -> int:
        """Number of axes that PyTorch knows."""
        return self.data.ndim - 1

    @property
    def shape(self) -> torch.Size:
        """The shape that PyTorch knows, without members."""
        shape = self.data.shape
        return torch.Size((shape[-1], *shape[1:-1])) if self.last else shape[1:]

    def samples_last(self) -> Tensor:
        """[member, *rest, sample]."""
        return self.data if self.last else self.data.movedim(1, -1)

    def samples_first(self) -> Tensor:
        """[member, sample, *rest]."""
        return self.data.movedim(-1, 1) if self.last else self.data

    def axis(self, dim: int) -> int:
        """PyTorch's axis, which may count from the end, with negative ones resolved."""
        return dim + self.rank if dim < 0 else dim


def align(values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """The values' numbers in one layout, with axes of 1 put where PyTorch's broadcasting would, and whether samples are
    last: as in the largest of them.
    """
    rank = max(value.rank for value in values)
    last = max((value for value in values if value.rank == rank), key=lambda value: value.data.numel()).last
    return [_padded(value, rank, last) for value in values], last


def _padded(value: Value, rank: int, last: bool) -> Tensor:
    if value.rank == rank:
        return value.samples_last() if last else value.samples_first()
    plain = value.samples_first()
    plain = plain.reshape(len(plain), *itertools.repeat(1, rank - value.rank), *plain.shape[1:])
    return plain.movedim(1, -1) if last else plain


def expand(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with their leading axes of 1 expanded to the largest."""
    members = max(len(tensor) for tensor in tensors)
    return [tensor.expand(members, *tensor.shape[1:]) for tensor in tensors]


def by_member(function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
    """A function of PyTorch's own tensors, applied to the values of each member: by `torch.func.vmap`, or one by one
    where that cannot run it. Tensors in its results become values.
    """
    leaves, spec = pytree.tree_flatten((arguments, keywords))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Value)]
    tensors = [leaves[place].samples_first() for place in places]
    members = max((len(tensor) for tensor in tensors), default=1)

    def call(*numbers: Tensor) -> Any:
        filled = list(leaves)
        for place, number in zip(places, numbers, strict=True):
            filled[place] = number
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return function(*args, **kwargs)

    if members == 1:
        return _values(call(*(tensor[0] for tensor in tensors)), lambda result: result[None])
    shared = [len(tensor) == 1 for tensor in tensors]
    numbers = [tensor[0] if each else tensor for tensor, each in zip(tensors, shared, strict=True)]
    try:
        results = torch.func.vmap(call, in_dims=tuple(None if each else 0 for each in shared))(*numbers)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return _one_by_one(call, expand(tensors))
    return _values(results, lambda result: result)


def _one_by_one(call: Callable[..., Any], tensors: list[Tensor]) -> Any:
    results = [pytree.tree_flatten(call(*(tensor[i] for tensor in tensors))) for i in range(len(tensors[0]))]
    stacked = [
        Value(torch.stack(each), last=False) if isinstance(each[0], Tensor) else each[0]
        for each in zip(*(leaves for leaves, _ in results), strict=True)
    ]
    return pytree.tree_unflatten(stacked, results[0][1])


def _values(results: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map(
        lambda result: Value(change(result), last=False) if isinstance(result, Tensor) else result, results
    )
