"""Symmetry: changes of a network's parameters that leave its function as it is, so points of parameter space come in
classes.

Units of a layer can change their order; some can be multiplied by a positive number, or by -1, where what reads them
takes it back.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack, concatenate

__all__ = ["Axis", "Group", "Symmetry", "count_orders", "distances", "every_order", "match", "reorder"]


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
        """The indices of each unit along the dimension."""
        outer, unit, inner = np.ogrid[: self.outer, :size, : self.inner]
        return (self.start + (outer * size + unit) * self.inner + inner).transpose(1, 0, 2).reshape(size, -1)


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

#: As many orders are tried one by one; beyond, units are matched.
EXHAUSTIVE = 24

#: Starts of a matching.
_STARTS = 6


def count_orders(symmetry: Symmetry) -> int:
    """Number of orders of units that leave the function as it is."""
    return math.prod(map(math.factorial, symmetry.sizes))


def every_order(symmetry: Symmetry) -> Iterator[Orders]:
    """All orders, the present one first; raises `LandscapeError` if there are more than `EXHAUSTIVE`."""
    if count_orders(symmetry) > EXHAUSTIVE:
        digits = sum(math.lgamma(size + 1) for size in symmetry.sizes) / math.log(10)
        raise LandscapeError(f"10^{digits:.1f} orders of filters are too many to walk each: ask for the matched one")
    for orders in itertools.product(*(itertools.permutations(range(size)) for size in symmetry.sizes)):
        yield tuple(np.array(order) for order in orders)


def reorder(stack: Stack, symmetry: Symmetry, orders: Orders) -> Stack:
    """The same functions with their units in another order; buffers that the symmetry names, such as the statistics of
    BatchNorm, go along.
    """
    tensors, buffers = dict(stack.tensors), dict(stack.buffers)
    for group, order in zip(symmetry, orders, strict=True):
        for axis in group.axes:
            part = tensors if axis.name in tensors else buffers
            tensor = part[axis.name]
            index = torch.as_tensor(_index(axis, order, tensor.shape[axis.dim + 1]), device=tensor.device)
            part[axis.name] = tensor.index_select(axis.dim + 1, index)
    return Stack(tensors, buffers)


def match(stack: Stack, reference: Stack, symmetry: Symmetry) -> Stack:
    """Each member reordered to lie close (L2) to the same member of `reference`; a stack of one goes with any.

    Exhaustive up to 24 orders, beyond by weight matching, coordinate descent over the groups (S. Ainsworth, J. Hayase,
    S. Srinivasa, *Git Re-Basin*, ICLR 2023, algorithm 1): then a local optimum.
    """
    count = max(len(stack), len(reference))
    members = stack.select([0] * count) if len(stack) == 1 else stack
    if count_orders(symmetry) <= EXHAUSTIVE:
        candidates = [reorder(members, symmetry, orders) for orders in every_order(symmetry)]
        lengths = torch.stack([candidate.subtract(reference).norms()[1] for candidate in candidates])
        best = lengths.argmin(0)
        rows = torch.arange(count, device=best.device)
        every = concatenate(candidates)  # order by order, the members of each
        return every.select(best * count + rows)
    a, b = ({name: tensor.double().cpu().numpy() for name, tensor in s.tensors.items()} for s in (reference, members))
    matched = []
    for i in range(count):
        target = {name: array[i if len(reference) > 1 else 0] for name, array in a.items()}
        orders = _weight_matching(target, {name: array[i] for name, array in b.items()}, symmetry)
        matched.append(reorder(members.select([i]), symmetry, orders))
    return concatenate(matched)


def distances(stack: Stack, symmetry: Symmetry) -> Float[np.ndarray, "member member"]:
    """L2 distance between members up to the order of units, in float64; symmetric, zero on the diagonal.

    Exhaustive up to 24 orders, beyond by weight matching of each pair (an upper bound then).
    """
    stack = stack.to("cpu", torch.float64)
    flat = stack.flatten()
    if count_orders(symmetry) <= EXHAUSTIVE:
        moved = (reorder(stack, symmetry, orders).flatten() for orders in every_order(symmetry))
        # Differences, not inner products: close pairs must not lose their digits.
        each = (torch.cdist(flat, other, compute_mode="donot_use_mm_for_euclid_dist") for other in moved)
        nearest = functools.reduce(torch.minimum, each)
        result = torch.minimum(nearest, nearest.T).numpy()
    else:
        arrays = [{name: tensor[i].numpy() for name, tensor in stack.tensors.items()} for i in range(len(stack))]
        result = np.zeros((len(stack), len(stack)))
        for i, j in itertools.combinations(range(len(stack)), 2):
            orders = _weight_matching(arrays[i], arrays[j], symmetry)
            moved_j = reorder(stack.select([j]), symmetry, orders).flatten()[0]
            result[i, j] = result[j, i] = float((flat[i] - moved_j).norm())
    np.fill_diagonal(result, 0)
    return result


def _weight_matching(target: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray], symmetry: Symmetry) -> Orders:
    """Orders that bring one network's units close to another's: the best of coordinate descents from several starts.

    The starts differ in the order of the smallest group, all of them if they are few: with two groups, of which each
    assignment is solved exactly given the other, the result is then the closest of all.
    """
    groups = sorted(range(len(symmetry)), key=lambda group: symmetry[group].size)
    smallest = symmetry[groups[0]].size
    if math.factorial(smallest) <= _STARTS:
        starts = [np.array(order) for order in itertools.permutations(range(smallest))]
    else:
        generator = np.random.default_rng(0)
        starts = [np.arange(smallest), *(generator.permutation(smallest) for _ in range(_STARTS - 1))]
    found = []
    for start in starts:
        orders = [np.arange(size) for size in symmetry.sizes]
        orders[groups[0]] = start
        found.append(_descend(target, source, symmetry, orders, groups[::-1]))
    return min(found, key=lambda each: each[0])[1]


def _descend(
    target: Mapping[str, np.ndarray],
    source: Mapping[str, np.ndarray],
    symmetry: Symmetry,
    orders: list[np.ndarray],
    groups: Sequence[int],
) -> tuple[float, Orders]:
    """Match group after group until nothing changes; the negative similarity of the last match, and the orders."""
    best = -np.inf
    while True:
        for group in groups:
            size = symmetry[group].size
            similarity = np.zeros((size, size))
            for axis in symmetry[group].axes:
                if axis.name not in target:  # a buffer, which is no coordinate
                    continue
                moved = _moved(source[axis.name], axis.name, symmetry, orders, except_group=group)
                similarity += _units(target[axis.name], axis, size) @ _units(moved, axis, size).T
            orders[group] = linear_sum_assignment(similarity, maximize=True)[1]
        total = _similarity(target, source, symmetry, orders)
        if total <= best + 1e-12 * abs(best) or len(groups) == 1:
            return -max(total, best), tuple(orders)
        best = total


def _similarity(
    target: Mapping[str, np.ndarray],
    source: Mapping[str, np.ndarray],
    symmetry: Symmetry,
    orders: Sequence[np.ndarray],
) -> float:
    """Inner product of one network with the other reordered; the distance is least where it is largest."""
    return float(sum((target[name] * _moved(source[name], name, symmetry, orders)).sum() for name in target))


def _index(axis: Axis, order: Int[np.ndarray, " unit"], length: int) -> Int[np.ndarray, " place"]:
    """Indices along the whole dimension that bring units into an order and leave what is none of theirs."""
    index, places = np.arange(length), axis.places(len(order))
    index[places] = places[order]
    return index


def _units(array: np.ndarray, axis: Axis, size: int) -> np.ndarray:
    """One row a unit."""
    rows: np.ndarray = np.moveaxis(array, axis.dim, 0)[axis.places(size)]
    return rows.reshape(size, -1)


def _moved(
    array: np.ndarray,
    name: str,
    symmetry: Symmetry,
    orders: Sequence[np.ndarray],
    *,
    except_group: int | None = None,
) -> np.ndarray:
    """A tensor with all groups in their present order, or all but one."""
    for number, group in enumerate(symmetry):
        for axis in group.axes:
            if axis.name == name and number != except_group:
                array = np.take(array, _index(axis, orders[number], array.shape[axis.dim]), axis.dim)
    return array
