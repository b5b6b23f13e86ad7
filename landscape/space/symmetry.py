"""Symmetry: changes of a network's parameters that leave its function as it is, so points of parameter space come in
classes.

Units of a layer can change their order; some can be multiplied by a positive number, or by -1, where what reads them
takes it back.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack

__all__ = [
    "EXHAUSTIVE",
    "Axis",
    "Element",
    "Group",
    "Move",
    "Orders",
    "Symmetry",
    "act",
    "count_elements",
    "count_orders",
    "every_element",
    "every_order",
    "inverse",
    "reorder",
]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where a tensor lists the units of a group: in its dimension `dim` (of a single member's tensor), unit u of
    `size` at the places `start + (o * size + u) * inner + i`, for each o below `outer` and i below `inner`.

    `inner` is above 1 where each unit has several numbers side by side, as the places of a channel behind a flatten;
    `outer` where the list is repeated.
    """

    name: str
    dim: int
    start: int = 0
    outer: int = 1
    inner: int = 1

    def places(self, size: int) -> Int[np.ndarray, "unit place"]:
        """The indices of each unit along the dimension; shared, not to be written to."""
        return _places(self.start, self.outer, self.inner, size)


@functools.lru_cache(maxsize=4096)
def _places(start: int, outer: int, inner: int, size: int) -> Int[np.ndarray, "unit place"]:
    each, unit, side = np.ogrid[:outer, :size, :inner]
    return (start + (each * size + unit) * inner + side).transpose(1, 0, 2).reshape(size, -1)


@dataclasses.dataclass(frozen=True)
class Group:
    """`size` units, listed along the `axes`, whose order makes no difference if it is the same on all (`permutes`).

    Each row of `scalings` is an exact rescaling: with any s > 0 a unit, its numbers along each axis times s to the
    power given there keep the function. Each row of `flips` is the same for s = -1, with powers 0 and 1.
    """

    size: int
    axes: tuple[Axis, ...]
    scalings: tuple[tuple[int, ...], ...] = ()
    flips: tuple[tuple[int, ...], ...] = ()
    permutes: bool = True


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """What is known of a network: `groups` of units; what is `refused`, a line each that names the module and says why
    its units are held; and what symmetry there is beyond (`unquotiented`), a line each.
    """

    groups: tuple[Group, ...] = ()
    refused: tuple[str, ...] = ()
    unquotiented: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units of each group."""
        return tuple(group.size for group in self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> Group:
        return self.groups[number]


#: One permutation for each group of a symmetry: new unit i is old unit order[i].
Orders = tuple[Int[np.ndarray, "_"], ...]

#: As many orders, or elements, are tried one by one; beyond, units are matched.
EXHAUSTIVE = 24


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """What is done to the units of one group, by its number: new unit i is old unit `order[i]`, its numbers multiplied
    by what the powers of the group's scalings make of its positive `scales`, and the flips of its `signs`. None leaves
    things as they are. Scales may be each member's own.
    """

    group: int
    order: Int[np.ndarray, " unit"] | None = None
    scales: Float[np.ndarray, "*member scaling unit"] | None = None
    signs: Float[np.ndarray, "flip unit"] | None = None

    def factor(self, group: Group, axis: int) -> Float[np.ndarray, "*member unit"] | None:
        """What the numbers of each unit along an axis, by its number, are multiplied by."""
        kinds = ((group.scalings, self.scales), (group.flips, self.signs))
        used = [
            values[..., row, :] ** float(powers[axis])
            for rows, values in kinds
            if values is not None
            for row, powers in enumerate(rows)
            if powers[axis]
        ]
        return math.prod(used[1:], start=used[0]) if used else None

    def inverse(self) -> "Move":
        """What takes it back, but for the rounding of a product with a scale and one with its reciprocal."""
        back = slice(None) if self.order is None else np.argsort(self.order)
        return Move(
            self.group,
            None if self.order is None else np.argsort(self.order),
            None if self.scales is None else 1 / self.scales[..., back],
            None if self.signs is None else self.signs[..., back],
        )


#: An element of the group that a symmetry is: moves one after another, the first of them first.
Element = tuple[Move, ...]


def inverse(element: Element) -> Element:
    """What takes an element back."""
    return tuple(move.inverse() for move in reversed(element))


def act(stack: Stack, symmetry: Symmetry, element: Element) -> Stack:
    """The same functions by other networks of their classes; buffers that the symmetry names, such as the statistics of
    BatchNorm, go along. Orders and signs are exact; products with scales round once each.
    """
    tensors, buffers = dict(stack.tensors), dict(stack.buffers)
    for move in element:
        group = symmetry[move.group]
        for number, axis in enumerate(group.axes):
            part = tensors if axis.name in tensors else buffers
            if axis.name in part:  # a checkpoint may lack statistics
                part[axis.name] = _moved(part[axis.name], axis, move, move.factor(group, number), group.size)
    return Stack(tensors, buffers)


def _moved(tensor: Tensor, axis: Axis, move: Move, factor: np.ndarray | None, size: int) -> Tensor:
    dim, length = axis.dim + 1, tensor.shape[axis.dim + 1]
    places = axis.places(size)
    if move.order is not None:
        index = np.arange(length)
        index[places] = places[move.order]
        tensor = tensor.index_select(dim, torch.as_tensor(index, device=tensor.device))
    if factor is None:
        return tensor
    every = np.ones((*factor.shape[:-1], length))
    every[..., places] = factor[..., None]
    shape = [1] * tensor.ndim
    shape[0], shape[dim] = every.size // length, length
    return tensor * torch.as_tensor(every, device=tensor.device).to(tensor.dtype).view(shape)


def count_orders(symmetry: Symmetry) -> int:
    """Number of orders of units that leave the function as it is."""
    return math.prod(math.factorial(group.size) for group in symmetry if group.permutes)


def count_elements(symmetry: Symmetry) -> int:
    """Number of orders, each with all choices of signs."""
    signs: int = 2 ** sum(group.size * len(group.flips) for group in symmetry)
    return count_orders(symmetry) * signs


def every_order(symmetry: Symmetry) -> Iterator[Orders]:
    """All orders, the present one first; raises `LandscapeError` if there are more than `EXHAUSTIVE`."""
    if count_orders(symmetry) > EXHAUSTIVE:
        digits = sum(math.lgamma(group.size + 1) for group in symmetry if group.permutes) / math.log(10)
        raise LandscapeError(f"10^{digits:.1f} orders of filters are too many to walk each: ask for `align=True`")
    for orders in itertools.product(*map(_orders, symmetry)):
        yield tuple(np.array(order) for order in orders)


def every_element(symmetry: Symmetry) -> Iterator[Element]:
    """All orders with all signs, without scales; the present ones first. Ask `count_elements` before."""
    choices = [
        [
            Move(number, np.array(order), signs=np.array(signs).reshape(-1, group.size) if signs else None)
            for order in _orders(group)
            for signs in itertools.product((1.0, -1.0), repeat=group.size * len(group.flips))
        ]
        for number, group in enumerate(symmetry)
    ]
    yield from itertools.product(*choices)


def _orders(group: Group) -> Iterator[tuple[int, ...]]:
    units = range(group.size)
    return itertools.permutations(units) if group.permutes else iter([tuple(units)])


def reorder(stack: Stack, symmetry: Symmetry, orders: Sequence[Int[np.ndarray, " _"]]) -> Stack:
    """The same functions with the units of each group in another order."""
    if len(orders) != len(symmetry):
        raise ValueError(f"{len(orders)} orders for {len(symmetry)} groups")
    return act(stack, symmetry, tuple(Move(number, np.asarray(order)) for number, order in enumerate(orders)))
