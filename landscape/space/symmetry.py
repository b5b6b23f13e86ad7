"""Symmetry: the order of a layer's units does not change its function, so points of parameter space come in classes."""

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

__all__ = ["Axis", "Symmetry", "count_orders", "distances", "every_order", "match", "reorder"]

#: One axis of one tensor: (name, axis of a single member's tensor).
Axis = tuple[str, int]

#: Groups of interchangeable units: their number, and the axes along which each tensor enumerates them.
Symmetry = tuple[tuple[int, tuple[Axis, ...]], ...]

#: One permutation for each group of a symmetry: new unit i is old unit order[i].
Orders = tuple[Int[np.ndarray, "_"], ...]

#: As many orders are tried one by one; beyond, units are matched.
EXHAUSTIVE = 24

#: Starts of a matching.
_STARTS = 6


def count_orders(symmetry: Symmetry) -> int:
    """Number of orders of units that leave the function as it is."""
    return math.prod(math.factorial(size) for size, _ in symmetry)


def every_order(symmetry: Symmetry) -> Iterator[Orders]:
    """All orders, the present one first; raises `LandscapeError` if there are more than `EXHAUSTIVE`."""
    if count_orders(symmetry) > EXHAUSTIVE:
        digits = sum(math.lgamma(size + 1) for size, _ in symmetry) / math.log(10)
        raise LandscapeError(f"10^{digits:.1f} orders of filters are too many to walk each: ask for the matched one")
    for orders in itertools.product(*(itertools.permutations(range(size)) for size, _ in symmetry)):
        yield tuple(np.array(order) for order in orders)


def reorder(stack: Stack, symmetry: Symmetry, orders: Orders) -> Stack:
    """The same functions with their units in another order; buffers that the symmetry names, such as the statistics of
    BatchNorm, go along.
    """
    tensors, buffers = dict(stack.tensors), dict(stack.buffers)
    for (_, axes), order in zip(symmetry, orders, strict=True):
        for name, axis in axes:
            part = tensors if name in tensors else buffers
            part[name] = part[name].index_select(axis + 1, torch.as_tensor(order, device=part[name].device))
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
    groups = sorted(range(len(symmetry)), key=lambda group: symmetry[group][0])
    smallest = symmetry[groups[0]][0]
    if math.factorial(smallest) <= _STARTS:
        starts = [np.array(order) for order in itertools.permutations(range(smallest))]
    else:
        generator = np.random.default_rng(0)
        starts = [np.arange(smallest), *(generator.permutation(smallest) for _ in range(_STARTS - 1))]
    found = []
    for start in starts:
        orders = [np.arange(size) for size, _ in symmetry]
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
            similarity = np.zeros((symmetry[group][0],) * 2)
            for name, axis in symmetry[group][1]:
                if name not in target:  # a buffer, which is no coordinate
                    continue
                moved = _moved(source[name], name, symmetry, orders, except_group=group)
                similarity += _units(target[name], axis) @ _units(moved, axis).T
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


def _units(array: np.ndarray, axis: int) -> np.ndarray:
    """One row a unit."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _moved(
    array: np.ndarray,
    name: str,
    symmetry: Symmetry,
    orders: Sequence[np.ndarray],
    *,
    except_group: int | None = None,
) -> np.ndarray:
    """A tensor with all groups in their present order, or all but one."""
    for group, (_, axes) in enumerate(symmetry):
        for other, axis in axes:
            if other == name and group != except_group:
                array = np.take(array, orders[group], axis)
    return array
