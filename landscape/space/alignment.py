"""Of all networks that compute one function, the one that lies closest to another network; distances between classes.

Scales are taken out first: of all positive rescalings the one of least L2 norm is unique (a sum of exponentials of
linear functions is convex in the logarithms of scales). Orders and signs are then found one by one where they are few,
else by matching units.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landscape.engine.stack import Stack, concatenate
from landscape.space.symmetry import (
    EXHAUSTIVE,
    Axis,
    Element,
    Group,
    Move,
    Symmetry,
    act,
    count_elements,
    every_element,
    inverse,
)

__all__ = ["Activity", "Matched", "balance", "distances", "idle", "match"]

#: What the units of groups, by their number, do on samples: rows of mean 0 and length 1, and zero where a unit does
#: nothing at all.
Activity = Mapping[int, Float[np.ndarray, "unit sample"]]

#: Starts of a matching of each kind; of networks with more parameters than this one of each, since each takes seconds.
_STARTS, _SMALL = 6, 2**20

#: A network at this share of the norms from another is a copy of it, but for noise: no further start is tried.
_CLOSE = 0.03

#: A representative that is taken though it is not the closest has a loss in the middle of the line that is lower by
#: more than this share.
_LOWER = 1e-3

#: Balancing ends where no scale changes by more than this share, or after so many rounds.
_BALANCED, _ROUNDS = 1e-11, 2000

#: So many parameters, at most, are balanced at once, and have representatives that are chosen by their loss.
_AT_ONCE = 2**24

#: Units whose incoming numbers have this cosine, or a higher one, are one unit twice.
_PARALLEL = 1 - 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """Representatives that lie close to others, and of each how it was found: `stored` as it was, `exhaustive`,
    `weights` or `activations`.
    """

    stack: Stack
    how: tuple[str, ...]


def balance(stack: Stack, symmetry: Symmetry) -> Element:
    """The rescaling of each member to the least L2 norm in its class; what is on the other side of units without
    numbers on one, which may have any length, gets the length 1.

    Cyclic minimisation over groups, each in closed form where powers are 1 and -1 (P. Stock, B. Graham, R. Gribonval,
    H. Jégou, *Equi-normalization of neural networks*, ICLR 2019).
    """
    size = max(1, _AT_ONCE // stack.parameters)
    parts = [_balance(stack.select(slice(first, first + size)), symmetry) for first in range(0, len(stack), size)]
    return tuple(
        Move(moves[0].group, scales=np.concatenate([move.scales for move in moves if move.scales is not None]))
        for moves in zip(*parts, strict=True)
    )


def _balance(stack: Stack, symmetry: Symmetry) -> Element:
    scaled = [(number, group) for number, group in enumerate(symmetry) if group.scalings]
    squares = {}
    for name in {axis.name for _, group in scaled for axis in group.axes} & stack.tensors.keys():
        dims = sorted({axis.dim + 1 for _, group in scaled for axis in group.axes if axis.name == name})
        square = stack[name].detach().to("cpu", torch.float64).square()
        rest = [dim for dim in range(1, square.ndim) if dim not in dims]
        squares[name] = (dims, square.sum(rest) if rest else square)
    factors = {
        (name, dim): square.new_ones(len(stack), square.shape[k + 1])
        for name, (dims, square) in squares.items()
        for k, dim in enumerate(dims)
    }
    logs = {number: torch.zeros(len(stack), len(group.scalings), group.size).double() for number, group in scaled}
    for _ in range(_ROUNDS):
        largest = 0.0
        for number, group in scaled:
            for row, powers in enumerate(group.scalings):
                along = [(axis, p) for axis, p in zip(group.axes, powers, strict=True) if p and axis.name in squares]
                sums = {
                    1: torch.zeros(len(stack), group.size).double(),
                    -1: torch.zeros(len(stack), group.size).double(),
                }
                for axis, power in along:
                    mass = _mass(*squares[axis.name], axis, factors)
                    sums[1 if power > 0 else -1] += abs(power) * mass[:, axis.places(group.size)].sum(-1)
                # Of a unit with nothing on one side the other gets the length 1: what has no least norm is alike too.
                one, other = (torch.where(sums[side] > 0, sums[side], 1.0) for side in (1, -1))
                both = torch.where((sums[1] > 0) & (sums[-1] > 0), 4.0, 2.0)
                step = (other / one).log() / (both * max((abs(p) for _, p in along), default=1))
                if len({(axis.name, axis.dim) for axis, _ in along}) > len({axis.name for axis, _ in along}):
                    step = step / 2  # units that read each other move at once
                for axis, power in along:
                    factors[axis.name, axis.dim + 1][:, axis.places(group.size)] *= (2 * power * step).exp()[..., None]
                logs[number][:, row] += step
                largest = max(largest, float(step.abs().max()) if step.numel() else 0.0)
        if largest <= _BALANCED:
            break
    return tuple(Move(number, scales=log.exp().numpy()) for number, log in logs.items())


def _mass(
    dims: Sequence[int], square: Tensor, axis: Axis, factors: Mapping[tuple[str, int], Tensor]
) -> Float[Tensor, "member place"]:
    """Sums of squares at each place along an axis, with the present scales."""
    letters = "abcdefgh"[: len(dims)]
    kept = letters[list(dims).index(axis.dim + 1)]
    terms = ",".join(["m" + letters, *("m" + letter for letter in letters)])
    found: Tensor = torch.einsum(f"{terms}->m{kept}", square, *(factors[axis.name, dim] for dim in dims))
    return found


def match(
    stack: Stack,
    reference: Stack,
    symmetry: Symmetry,
    *,
    rows: Int[np.ndarray, "2 pair"] | None = None,
    active: tuple[Sequence[Activity], Sequence[Activity]] | None = None,
    middle: Callable[[Stack, Stack], Tensor] | None = None,
) -> Matched:
    """The representative of each member that lies close (L2) to the same member of `reference`, which stays; a stack of
    one goes with any. With `rows`, pairs of a member and one of `reference`, a representative for each.

    Exhaustive up to 24 orders and signs. Beyond, by weight matching, coordinate descent over the groups (S. Ainsworth,
    J. Hayase, S. Srinivasa, *Git Re-Basin*, ICLR 2023, algorithm 1), a sign with each unit, from several starts: then a
    local optimum. Of the starts one is by each unit's sorted weights, and one by what units do on samples, if `active`
    says that of the members of both stacks (Y. Li, J. Yosinski, J. Clune, H. Lipson, J. Hopcroft, *Convergent
    learning*, ICLR 2016). Each is tried with the member's own scales and with those of the reference, its first.
    With `middle`, which gives the losses in the middle of the lines from representatives to a reference, the lowest of
    those that come closer, and of the network as it is, is taken where they are not all tried, unless the closest is a
    copy. Nothing moves away.
    """
    if rows is None:
        lines = np.arange(max(len(stack), len(reference)))
        rows = np.stack([lines * (len(each) > 1) for each in (stack, reference)])
    rescaled = any(group.scalings for group in symmetry)
    levelled = [balance(each, symmetry) if rescaled else () for each in (stack, reference)]

    def pairs(some: slice) -> tuple[Stack, Stack, tuple[Element, Element] | None]:
        """Members, their references, and what takes scales out of the one and what of the other."""
        ours, theirs = (
            tuple(dataclasses.replace(move, scales=None if move.scales is None else move.scales[row]) for move in each)
            for each, row in zip(levelled, rows[:, some], strict=True)
        )
        one, other = (each.select(row.tolist()) for each, row in zip((stack, reference), rows[:, some], strict=True))
        return one, other, (ours, theirs) if rescaled else None

    if count_elements(symmetry) <= EXHAUSTIVE:
        every = [("exhaustive", element) for element in every_element(symmetry)]
        return _nearest(*pairs(slice(None)), symmetry, every)
    found = []
    for line, (i, j) in enumerate(rows.T):
        one, other, scales = pairs(slice(line, line + 1))
        activity = None if active is None else (active[1][j], active[0][i])
        words: list[tuple[str, Element]] = [("weights", ())]
        if scales is None or one.parameters <= _SMALL:
            words += _words(other, one, symmetry, activity)
        if scales is not None:
            here, there = (
                act(s.to("cpu", torch.float64), symmetry, e) for s, e in zip((one, other), scales, strict=True)
            )
            words += _words(there, here, symmetry, activity)
        judged = middle if one.parameters <= _AT_ONCE else None  # of larger ones copies would fill the memory
        found.append(_nearest(one, other, scales, symmetry, words, judged))
    return Matched(concatenate([each.stack for each in found]), tuple(how for each in found for how in each.how))


def _nearest(
    members: Stack,
    reference: Stack,
    scales: tuple[Element, Element] | None,
    symmetry: Symmetry,
    words: Iterable[tuple[str, Element]],
    middle: Callable[[Stack, Stack], Tensor] | None = None,
) -> Matched:
    """Of each member the closest of all that these elements make of it, each with its own scales and the reference's;
    the first of equally close ones. Of one member, with `middle`, the one with the lowest loss half way, itself too.
    """
    tries: list[tuple[float, str, Stack]] = []
    best, how = members, np.full(len(members), "stored", dtype=object)
    stored = nearest = members.subtract(reference).norms()[1]
    wide = members.to(torch.float64)
    for name, word in words:
        for element in [word] if scales is None else [word, (*scales[0], *word, *inverse(scales[1]))]:
            tried = act(members if element is word else wide, symmetry, element)
            length = tried.subtract(reference).norms()[1]
            closer = length < nearest * (1 - 1e-9)
            if middle is not None and bool(length < stored) and not any(length == each for each, *_ in tries):
                tries.append((float(length), name, tried))
            if bool(closer.any()):
                nearest, how[closer.cpu().numpy()] = torch.where(closer, length, nearest), name
                best = _where(closer, tried, best)
    size = float(reference.flatten().norm())
    if middle is None or not tries or float(nearest) < _CLOSE * size:
        return Matched(best, tuple(how))
    tries = [*sorted(tries, key=lambda each: each[0]), (float(stored), "stored", members)]
    every = concatenate([each.to(torch.float64) for *_, each in tries])
    losses = middle(every, reference).cpu().nan_to_num(nan=math.inf)
    chosen = int(losses.argmin())
    if losses[chosen] < losses[0] * (1 - _LOWER):
        best, how[0] = _where(torch.ones(1, dtype=torch.bool), tries[chosen][2], best), tries[chosen][1]
    return Matched(best, tuple(how))


def _where(chosen: Tensor, one: Stack, other: Stack) -> Stack:
    """Members of one stack where they are `chosen`, in the types of the other."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a.to(b.dtype), b)

    return Stack(
        {name: pick(one[name], tensor) for name, tensor in other.tensors.items()},
        {name: pick(one.buffers[name], tensor) for name, tensor in other.buffers.items()},
    )


def distances(stack: Stack, symmetry: Symmetry) -> Float[np.ndarray, "member member"]:
    """L2 distance between members in balanced scales, up to the order and the signs of units, in float64; symmetric,
    zero on the diagonal.

    Exhaustive up to 24 orders and signs, beyond by weight matching of each pair (an upper bound then).
    """
    stack = stack.to("cpu", torch.float64)
    stack = act(stack, symmetry, balance(stack, symmetry))
    flat = stack.flatten()
    if count_elements(symmetry) <= EXHAUSTIVE:
        moved = (act(stack, symmetry, element).flatten() for element in every_element(symmetry))
        # Differences, not inner products: close pairs must not lose their digits.
        each = (torch.cdist(flat, other, compute_mode="donot_use_mm_for_euclid_dist") for other in moved)
        nearest = functools.reduce(torch.minimum, each)
        result = torch.minimum(nearest, nearest.T).numpy()
    else:
        singles = list(stack.chunks(1))
        result = np.zeros((len(stack), len(stack)))
        for i, j in itertools.combinations(range(len(stack)), 2):
            tried = (act(singles[j], symmetry, word) for _, word in _words(singles[i], singles[j], symmetry))
            result[i, j] = result[j, i] = min(float((flat[i] - each.flatten()[0]).norm()) for each in tried)
    np.fill_diagonal(result, 0)
    return result


def idle(
    stack: Stack, symmetry: Symmetry, *, active: Sequence[Activity] | None = None
) -> tuple[Int[np.ndarray, " member"], Int[np.ndarray, " member"]]:
    """Of each member how many units are dead, whose incoming or outgoing numbers are all 0, or that do nothing on
    samples; and how many of the others are duplicates of one before them: their incoming numbers are the same but for a
    factor. Order and scale of both are arbitrary.
    """
    dead, double = np.zeros((2, len(stack)), dtype=np.int64)
    for member, single in enumerate(stack.to("cpu", torch.float64).chunks(1)):
        arrays = {name: tensor[0].numpy() for name, tensor in single.tensors.items()}
        for number, group in enumerate(symmetry):
            kinds = [_sides(group, arrays, powers) for powers in group.scalings or (None,)]
            none = np.zeros(group.size, dtype=bool)
            still = np.all(
                [np.any([none, *(~side.any(1) for side in sides if side.shape[1])], 0) for sides in kinds], 0
            )
            if active is not None and number in active[member]:
                still |= ~active[member][number].any(1)
            if group.permutes and not still.all():
                # What no rescaling reaches must be alike too, such as weights in front of a normalisation.
                first = [
                    int(axis.dim == 0 and not any(row[k] for row in group.scalings))
                    for k, axis in enumerate(group.axes)
                ]
                others = _sides(group, arrays, first)
                blocks = [side[~still] for side, _ in [*kinds, others] if side.shape[1] > 1]
                alike = np.all([_parallel(block, group) for block in blocks] or [np.zeros((1, 1), dtype=bool)], 0)
                double[member] += int(np.tril(alike, -1).any(1).sum())
            dead[member] += int(still.sum())
    return dead, double


def _sides(
    group: Group, arrays: Mapping[str, np.ndarray], powers: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Incoming and outgoing numbers of each unit: those that grow with it and those that shrink, where it can be
    rescaled; else those in the first dimension of tensors, as layers have their outputs, and the others.
    """
    parts: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for number, axis in enumerate(group.axes):
        power = powers[number] if powers is not None else 1 if axis.dim == 0 else -1
        if axis.name in arrays and power:
            parts[0 if power > 0 else 1].append(_units(arrays[axis.name], axis, group.size))
    one, other = (np.concatenate([np.zeros((group.size, 0)), *each], 1) for each in parts)
    return one, other


def _parallel(rows: Float[np.ndarray, "unit number"], group: Group) -> Bool[np.ndarray, "unit unit"]:
    """Which rows are the same but for a positive factor, or any where signs may change."""
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines = rows @ rows.T
    return np.asarray((np.abs(cosines) if group.flips else cosines) >= _PARALLEL)


def _words(
    target: Stack, source: Stack, symmetry: Symmetry, active: tuple[Activity, Activity] | None = None
) -> list[tuple[str, Element]]:
    """Elements that bring one network's units close to another's: of each kind of start the best coordinate descent.

    Some start with another order of the smallest group, all of them if they are few: with two groups, of which each
    assignment is solved exactly given the other, the result is then the closest of all.
    """
    a, b = ({name: t[0].double().cpu().numpy() for name, t in s.tensors.items()} for s in (target, source))
    groups = sorted(range(len(symmetry)), key=lambda group: symmetry[group].size)
    free = [group for group in groups if symmetry[group].permutes and symmetry[group].size > 1]
    many = sum(array.size for array in a.values()) <= _SMALL

    def starts() -> Iterator[tuple[str, _Matching]]:
        # Where there are signs, of which those of blocks and of what is inside depend on each other, from several.
        for seed in range(_STARTS if many and any(group.flips for group in symmetry) else 1):
            yield "weights", _Matching(a, b, symmetry).by_sorted_weights(seed).descend(groups[::-1], orders=False)
        if active is not None:
            yield "activations", _Matching(a, b, symmetry).by_activity(*active)
        for order in _first_orders(symmetry[free[0]].size) if free else [None]:
            moves = [] if order is None else [Move(free[0], order)]
            yield "weights", functools.reduce(_Matching.move, moves, _Matching(a, b, symmetry))
            if not many:
                return

    best: dict[str, tuple[float, list[Move]]] = {}
    for name, start in starts():
        found = start.descend(groups[::-1])
        if name not in best or found.total() > best[name][0]:
            best[name] = found.total(), found.moves
        if found.apart() < _CLOSE:  # a copy, which no other start brings closer
            break
    return [(name, tuple(moves)) for name, (_, moves) in sorted(best.items(), key=lambda item: -item[1][0])]


def _first_orders(size: int) -> list[Int[np.ndarray, " unit"]]:
    if math.factorial(size) <= _STARTS:
        return [np.array(order) for order in itertools.permutations(range(size))]
    generator = np.random.default_rng(0)
    return [np.arange(size), *(generator.permutation(size) for _ in range(_STARTS - 1))]


class _Matching:
    """One network that is moved, group by group, until it is close to another."""

    def __init__(self, target: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray], symmetry: Symmetry) -> None:
        self.target, self.state, self.symmetry = target, dict(source), symmetry
        self.moves: list[Move] = []
        norms = (math.sqrt(sum(float(np.vdot(x, x)) for x in each.values())) for each in (target, source))
        one, other = norms
        self._noise, self._most = 1e-12 * one * other, one**2 + other**2

    def total(self, names: Iterable[str] | None = None) -> float:
        """Inner product of the two, or of some tensors; the distance is least where it is largest."""
        return float(sum(np.vdot(self.target[name], self.state[name]) for name in names or self.target))

    def apart(self) -> float:
        """Distance of the two as a share of both norms."""
        return math.sqrt(max(0.0, self._most - 2 * self.total()) / (self._most or 1.0))

    def move(self, move: Move) -> "_Matching":
        """Do it."""
        group = self.symmetry[move.group]
        for number, axis in enumerate(group.axes):
            if axis.name in self.state:  # a buffer is no coordinate
                array, places = self.state[axis.name], axis.places(group.size)
                if move.order is not None:
                    index = np.arange(array.shape[axis.dim])
                    index[places] = places[move.order]
                    array = np.take(array, index, axis.dim)
                if (factor := move.factor(group, number)) is not None:
                    every = np.ones(array.shape[axis.dim])
                    every[places] = factor[:, None]
                    array = array * every.reshape(-1, *[1] * (array.ndim - axis.dim - 1))
                self.state[axis.name] = array
        self.moves.append(move)
        return self

    def descend(self, groups: Sequence[int], *, orders: bool = True) -> "_Matching":
        """Match group after group until nothing changes; without `orders` signs alone."""
        while sum(self._improved(group, orders) for group in groups):  # each of them, every time
            pass
        return self

    def by_sorted_weights(self, seed: int) -> "_Matching":
        """Match each group by its units' numbers without signs in the order of their size, which no order of other
        groups changes; those whose units have the most numbers first, since those may have the others inside. Signs are
        drawn, but for seed 0.
        """
        generator = np.random.default_rng(seed)
        sizes = {n: sum(a.inner * a.outer for a in group.axes) for n, group in enumerate(self.symmetry)}
        for number in sorted(sizes, key=lambda each: -sizes[each]):
            group = self.symmetry[number]
            if group.flips and seed:
                self.move(Move(number, signs=generator.choice([-1.0, 1.0], (len(group.flips), group.size))))
            if not group.permutes:
                continue
            likeness = np.zeros((group.size, group.size))
            for axis in group.axes:
                if axis.name in self.target:
                    one, other = (
                        np.sort(np.abs(_units(each[axis.name], axis, group.size)), 1)
                        for each in (self.target, self.state)
                    )
                    likeness += one @ other.T
            self.move(Move(number, _assigned(likeness)))
        return self

    def by_activity(self, target: Activity, source: Activity) -> "_Matching":
        """Match the groups of which both activities are known by correlations on samples."""
        for number in target.keys() & source.keys():
            group = self.symmetry[number]
            likeness = target[number] @ source[number].T
            strength = np.abs(likeness) if group.flips else likeness
            order = _assigned(strength) if group.permutes else np.arange(group.size)
            self.move(Move(number, order))
        return self

    def _improved(self, number: int, orders: bool) -> bool:
        """Give the units of one group the order, unless it is to stay, and signs that are best while all else stays;
        whether it is closer.
        """
        group = self.symmetry[number]
        parts: dict[tuple[int, ...], np.ndarray] = {}
        for k, axis in enumerate(group.axes):
            if axis.name in self.target:
                likeness = _units(self.target[axis.name], axis, group.size)
                likeness = likeness @ _units(self.state[axis.name], axis, group.size).T
                parity = tuple(flip[k] % 2 for flip in group.flips)
                parts[parity] = parts[parity] + likeness if parity in parts else likeness
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(group.flips))))
        every = np.stack([sum(part * np.prod(sign**parity) for parity, part in parts.items()) for sign in signs])
        best = every.max(0)
        free = group.permutes and orders
        order = _assigned(best) if free else np.arange(group.size)
        chosen = signs[every.argmax(0)[np.arange(group.size), order]].T
        if (order == np.arange(group.size)).all() and (chosen > 0).all():
            return False
        names = {axis.name for axis in group.axes} & self.target.keys()
        before, state = self.total(names), self.state.copy()
        self.move(Move(number, order, signs=chosen if group.flips else None))
        # With a tensor that lists the units twice, what was best while all else stays may be worse.
        if self.total(names) > before + self._noise:
            return True
        self.state = state
        self.moves.pop()
        return False


def _assigned(likeness: Float[np.ndarray, "unit unit"]) -> Int[np.ndarray, " unit"]:
    """The order of columns whose entries have the largest sum."""
    return np.asarray(scipy.optimize.linear_sum_assignment(likeness, maximize=True)[1])


def _units(array: np.ndarray, axis: Axis, size: int) -> np.ndarray:
    """One row a unit."""
    rows: np.ndarray = np.moveaxis(array, axis.dim, 0)[axis.places(size)]
    return rows.reshape(size, -1)
