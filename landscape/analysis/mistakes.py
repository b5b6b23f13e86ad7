"""What do failures of the smallest Life networks compute instead, and how low can their loss be?

The network with one step and m = 1 is b3 + w3 r(b2 + w2 . r(h)), with two filters h on the nine cells of a pattern and
the rectifier r. While no pattern changes the side of a rectifier, and no weight behind the filters its sign, it is
linear in products of its parameters: such a cell of parameter space is a convex cone of those, the loss on it is
convex, and what it can reach there has a bound from below. With the probability p of a live answer to each pattern,

    loss >= sum over patterns of weight x H(p),   H(p) = -p ln p - (1 - p) ln(1 - p),

holds everywhere in the cell if the gradient that p gives is one that the cell's walls take up (Fenchel's dual of
logistic regression). A limit of training that meets the bound is the infimum of its cell, written as entropies:
patterns that stay pooled on one level keep theirs, all others go to 0.
"""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int

from landscape.analysis.convergence import KINDS, Descent
from landscape.analysis.outcomes import grouped
from landscape.analysis.polish import polished
from landscape.core.errors import Unsupported
from landscape.core.unfinished import Progress
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.life.patterns import PATTERNS
from landscape.problems.life.problem import Life
from landscape.problems.life.rules import Rule

__all__ = [
    "Anatomy",
    "Floor",
    "Formula",
    "Limit",
    "Mistake",
    "floor",
    "formula",
    "mistakes",
    "one_filter",
    "pooled",
    "taken_apart",
]

#: Limits that differ by no more than this are one; a limit is explained if the bound of its cell is as near.
SAME = 1e-6
EXPLAINED = 5e-7

#: Outputs whose logits lie no farther than this above the next lower one are on its level: a slope of 0.01 tells them
#: apart, but hardly.
LEVEL = 0.25

#: Members of a limit that are bounded; Newton's steps to the limits.
_BOUNDED, _STEPS = 10, 200

#: Largest residual of a bound's gradient, beyond which it is none.
_RESIDUAL = 1e-13


class Formula(NamedTuple):
    """A truth table in words: its `kind`, and the `text` that says when a cell lives on. `c` is the centre (0 or 1),
    `n` the number of live neighbours that the rule counts, `r` the rectifier.
    """

    kind: str
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
    """Members taken apart, and the 512 patterns with the `weights` that they have in the loss."""

    cells: Float[np.ndarray, "pattern 9"]
    targets: Bool[np.ndarray, " pattern"]
    weights: Float[np.ndarray, " pattern"]
    slope: float
    kernels: Float[np.ndarray, "member 2 9"]
    offsets: Float[np.ndarray, "member 2"]
    second: Float[np.ndarray, "member 2"]
    second_offset: Float[np.ndarray, " member"]
    last: Float[np.ndarray, " member"]
    last_offset: Float[np.ndarray, " member"]

    def __len__(self) -> int:
        return len(self.last)

    def rectified(self, x: np.ndarray) -> np.ndarray:
        """The activation."""
        return np.asarray(x * np.where(x > 0, 1.0, self.slope))

    @property
    def filters(self) -> Float[np.ndarray, "member 2 pattern"]:
        """Inputs of the first activation."""
        return np.asarray(np.einsum("mfc,pc->mfp", self.kernels, self.cells) + self.offsets[:, :, None])

    @property
    def middle(self) -> Float[np.ndarray, "member pattern"]:
        """Inputs of the second activation."""
        read = np.einsum("mf,mfp->mp", self.second, self.rectified(self.filters))
        return np.asarray(read + self.second_offset[:, None])

    @property
    def outputs(self) -> Float[np.ndarray, "member pattern"]:
        """Logits of a live cell."""
        return np.asarray(self.last[:, None] * self.rectified(self.middle) + self.last_offset[:, None])

    def losses(self) -> Float[np.ndarray, " member"]:
        """Cross-entropy of each member, in nats per cell."""
        return np.asarray(scipy.special.softplus(np.where(self.targets, -1, 1) * self.outputs) @ self.weights)


@dataclasses.dataclass(frozen=True, eq=False)
class Floor:
    """A `bound` from below on the loss of every network in one member's cell, the sum of the `entropies` of patterns in
    nats, and that member's `loss`. `pieces` counts the patterns' combinations of active rectifiers: a network of one
    piece is a logistic regression on the nine cells. The bound is NaN where it could not be made exact.
    """

    loss: float
    bound: float
    pieces: int
    entropies: Float[np.ndarray, " pattern"]


@dataclasses.dataclass(frozen=True)
class Limit:
    """Members of one function whose loss ends at the same `value`, by their kinds. `floor` is the highest bound of the
    cells of up to 10 of them, `explained` whether it is within 5e-7; `pooled` what the loss could be if outputs stayed
    on their `levels` and these went where they like. `cases` says what each case adds to the bound, the most first.
    """

    value: float
    members: tuple[str, ...]
    kinds: Mapping[str, int]
    floor: float
    explained: bool
    pieces: int
    pooled: float
    levels: int
    cases: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Members that compute one wrong function: their number, how many patterns are `right`, which cases they get
    `wrong` (name, how many, of how many), what they compute instead, and their `limits`, the commonest first.
    """

    members: int
    right: int
    wrong: tuple[tuple[str, int, int], ...]
    computes: Formula
    limits: tuple[Limit, ...]


def taken_apart(problem: Problem, stack: Stack) -> Anatomy:
    """The parts of each member; raises `Unsupported` for another network than the one that is taken apart here."""
    if not isinstance(problem, Life) or not (
        problem.exact
        and problem.m_factor == 1
        and problem.activation in ("relu", "leaky_relu")
        and problem.architecture == "study"
        and problem.sigmoid
        and problem.loss == "bce"
    ):
        raise Unsupported(
            "what a network computes is derived for Life with steps=1, m_factor=1, the study's architecture, relu or "
            f"leaky_relu, a sigmoid and bce: this is {problem.title()}"
        )
    batch = problem.objective(dtype=torch.float64).memory.samples(0, len(PATTERNS))
    real = len(PATTERNS)  # what follows fills up
    weights = batch.weights[0, :real].double().numpy()
    tensors = {name: tensor.double().cpu().numpy() for name, tensor in stack.tensors.items()}
    return Anatomy(
        cells=batch.inputs[0, 0, :, :, :real].reshape(9, -1).T.double().numpy(),
        targets=batch.targets.reshape(-1)[:real].numpy() > 0.5,
        weights=weights / weights.sum(),
        slope=0.01 if problem.activation == "leaky_relu" else 0.0,
        kernels=tensors["net.0.0.weight"].reshape(len(stack), 2, 9),
        offsets=tensors["net.0.0.bias"],
        second=tensors["net.0.2.weight"].reshape(len(stack), 2),
        second_offset=tensors["net.0.2.bias"].reshape(-1),
        last=tensors["net.0.4.weight"].reshape(-1),
        last_offset=tensors["net.0.4.bias"].reshape(-1),
    )


def floor(anatomy: Anatomy, member: int) -> Floor:
    """Bound the loss in the cell of a member from below, and tell what each pattern adds.

    The gradient at the member's own probabilities is written with the walls' normals (non-negative least squares);
    probabilities and shares of walls are then changed by least squares until nothing of it is left, which makes the
    bound hold, to rounding.

    Source: S. Boyd, L. Vandenberghe, *Convex Optimization*, 2004, sections 5.7 and 8.6; C. L. Lawson, R. J. Hanson,
    *Solving Least Squares Problems*, 1974, chapter 23.
    """
    own = _only(anatomy, member)
    filters, middle, outputs = own.filters[0], own.middle[0], own.outputs[0]
    loss, count = float(own.losses()[0]), len(outputs)
    active = np.stack([*filters, middle]) > 0
    pieces = len(np.unique(active, axis=1).T)
    nothing = Floor(loss, np.nan, pieces, np.full(count, np.nan))
    if not (own.last[0] and own.second.all()):
        return nothing  # dead: on no side of what it could be
    one, two, last = np.where(active, 1.0, own.slope)
    cells = np.concatenate([own.cells, np.ones((count, 1))], 1)
    none = np.zeros_like(cells)
    # Products: b3, w3 b2, and w3 w2 times the numbers of each filter, in which outputs and sides are linear.
    linear = np.concatenate([np.ones((count, 1)), last[:, None], (last * one)[:, None] * cells], 1)
    linear = np.concatenate([linear, (last * two)[:, None] * cells], 1)
    sides = np.where(active, 1.0, -1.0) * np.append(np.sign(own.second[0]), 1.0)[:, None] * np.sign(own.last[0])
    zero = np.zeros((count, 1))
    walls = np.unique(
        np.concatenate(
            [
                sides[0][:, None] * np.concatenate([zero, zero, cells, none], 1),
                sides[1][:, None] * np.concatenate([zero, zero, none, cells], 1),
                sides[2][:, None] * np.concatenate([zero, zero + 1, one[:, None] * cells, two[:, None] * cells], 1),
            ]
        ),
        axis=0,
    )
    walls /= np.linalg.norm(walls, axis=1, keepdims=True)
    right = np.where(own.targets, 1.0, -1.0)
    per = (own.weights * right)[:, None] * linear  # by how much the gradient falls with what a pattern lacks
    lacks = scipy.special.expit(-right * outputs)
    try:
        shares = scipy.optimize.nnls(walls.T, -per.T @ lacks, maxiter=50 * len(walls))[0]
    except RuntimeError:
        return nothing
    for _ in range(10):
        left = -per.T @ lacks - walls.T @ shares
        if np.abs(left).max() <= _RESIDUAL / 100:
            break
        room, held = np.sqrt(lacks * (1 - lacks) / own.weights), shares > 0
        step = np.linalg.lstsq(np.concatenate([per.T * room, walls[held].T * shares[held]], 1), left, rcond=1e-15)[0]
        lacks = np.clip(lacks + room * step[:count], 0, 1)
        shares[held] = np.maximum(shares[held] * (1 + step[count:]), 0)
    if np.abs(-per.T @ lacks - walls.T @ shares).max() > _RESIDUAL:
        return nothing
    entropies = own.weights * (scipy.special.entr(lacks) + scipy.special.entr(1 - lacks))
    return Floor(loss, float(entropies.sum()), pieces, entropies)


def pooled(
    outputs: Float[np.ndarray, " pattern"],
    targets: Bool[np.ndarray, " pattern"],
    weights: Float[np.ndarray, " pattern"],
    within: float = LEVEL,
) -> tuple[float, int]:
    """The infimum of the loss over what a network answers on each of its levels, and how many there are: the best
    probability of a level is the weighted share of its live targets, so that it is a sum of weights times entropies.
    An output is on the level of the next lower one if it is at most `within` higher.

    >>> pooled(np.array([0.0, 0.0, 3.0]), np.array([True, False, True]), np.array([0.25, 0.25, 0.5]))
    (0.34657359027997264, 2)
    """
    order = np.argsort(outputs)
    level = np.empty(len(outputs), dtype=int)
    level[order] = np.append(0, np.cumsum(np.diff(outputs[order]) > within))
    whole, live = np.bincount(level, weights), np.bincount(level, weights * targets)
    share = np.clip(live / whole, 0, 1)
    return float((whole * (scipy.special.entr(share) + scipy.special.entr(1 - share))).sum()), len(whole)


def one_filter(rule: Rule, weights: Float[np.ndarray, " pattern"]) -> float:
    """A bound from below on the loss of every network whose answer is monotone in one weighted sum of the cells, as it
    is with one filter: where a weight behind a filter changes its sign, a path passes one. 0 if it cannot be told.

    Let k live neighbours be right, and k - 1 and k + 1 wrong. From a pattern with the k neighbours S, adding one or
    taking one away leads to a dead one; unless S are those that count against a live answer and the others those that
    count for it, one of these steps does not lower the answer. Both patterns then lose at least what they would on one
    level. What k + 1 neighbours (of N: N - k + 1) lead to shares its weight among them, and one S is left out.

    Args:
        rule: What is right.
        weights: Of the 512 patterns, in the loss.

    >>> from landscape.problems.life.patterns import probabilities
    >>> [round(one_filter(Rule.parse(rule), probabilities(10, 10)), 6) for rule in ("B3/S23V", "B3/S23", "B34/S23")]
    [0.039921, 0.048271, 0.0]
    """
    total, counted = 0.0, np.flatnonzero(rule.kernel.reshape(-1)).tolist()
    live, mask = (PATTERNS * rule.kernel).sum((1, 2)), sum(1 << cell for cell in counted)
    for centre, right in enumerate((rule.birth, rule.survival)):
        bounds = [0.0]
        for k in right:
            if k in (0, rule.neighbours) or {k - 1, k + 1} & right:
                continue
            costs: defaultdict[int, float] = defaultdict(float)
            for pattern in np.flatnonzero((live == k) & (PATTERNS[:, 1, 1] == centre)).tolist():
                shares = [
                    weights[pattern ^ (1 << cell)] / (rule.neighbours - k + 1 if pattern >> cell & 1 else k + 1)
                    for cell in counted
                ]
                both = np.array([weights[pattern], min(shares)])
                costs[pattern & mask] += float(both.sum() * scipy.special.entr(both / max(both.sum(), 1e-300)).sum())
            bounds.append(sum(costs.values()) - max(costs.values()))
        total += max(bounds)
    return total


def formula(alive: Bool[np.ndarray, " pattern"], rule: Rule) -> Formula | None:
    """What a truth table over the 512 patterns says, if one threshold or one interval of a weighted sum says it; each
    is tried on all of them, the plainest first. None: it takes two rectified sums.

    >>> from landscape.problems.life.patterns import answers
    >>> formula(answers(Rule.parse("B3/S23")), Rule.parse("B3/S23")).text
    'live if 5 <= c + 2n <= 7'
    """
    if alive.all() or not alive.any():
        return Formula("constant", "always live" if alive.all() else "always dead")
    centre, live = PATTERNS[:, 1, 1], (PATTERNS * rule.kernel).sum((1, 2))
    most = 2 * rule.neighbours
    sums = sorted(itertools.product(range(-most, most + 1), range(3)), key=lambda ab: (abs(ab[0]) + ab[1], ab[0] < 0))
    for sides in (1, 2):
        for a, b in sums:
            value = a * centre + b * live
            low, high = int(value[alive].min()), int(value[alive].max())
            if (alive != ((value >= low) & (value <= high))).any():
                continue
            bounds = [low] * bool(low > value.min()) + [high] * bool(high < value.max())
            if len(bounds) == sides:
                return Formula("one threshold" if sides == 1 else "an interval", _words(a, b, low, high, value))
    return _of_cells(alive)


def _words(a: int, b: int, low: int, high: int, value: Int[np.ndarray, " pattern"]) -> str:
    """The inequality, such as `live if c + n >= 3`."""
    terms = [
        ("-" if number < 0 else "") + (str(abs(number)) if abs(number) > 1 else "") + name
        for number, name in ((a, "c"), (b, "n"))
        if number
    ]
    total = " + ".join(terms)
    if low > value.min() and high < value.max():
        return f"live if {low} <= {total} <= {high}"
    return f"live if {total} >= {low}" if low > value.min() else f"live if {total} <= {high}"


def _of_cells(alive: Bool[np.ndarray, " pattern"]) -> Formula | None:
    """One threshold of a sum over the nine cells, in whole numbers if small ones do; by linear programming."""
    cells = PATTERNS.reshape(-1, 9).astype(float)
    rows = np.where(alive, -1.0, 1.0)[:, None] * np.concatenate([cells, -np.ones((len(cells), 1))], 1)
    found = scipy.optimize.linprog(np.zeros(10), A_ub=rows, b_ub=-np.ones(len(rows)), bounds=(None, None))
    if found.x is None:
        return None
    for scale in (*range(1, 30), 1e6):
        weights = np.round(scale * found.x[:9] / np.abs(found.x[:9]).max())
        value = cells @ weights
        if value[alive].min() > value[~alive].max():
            kernel, least = weights.astype(int).reshape(3, 3).tolist(), int(value[alive].min())
            return Formula("one threshold of cells", f"live if the sum of cells x {kernel} >= {least}")
    return None


def _of_network(own: Anatomy, alive: Bool[np.ndarray, " pattern"], label: str) -> Formula:
    """The two rectified sums of a member, whose threshold is the middle of the gap between its answers."""
    up = np.sign(own.last[0])
    value = up * (own.middle[0] - own.second_offset[0])
    low, high = value[~alive].max(), value[alive].min()
    assert low < high  # r is monotone, so the network is a threshold of this sum
    one, two = up * own.second[0]
    return Formula(
        "two rectified sums", f"live if {one:.4g} r(h1) + {two:.4g} r(h2) >= {(low + high) / 2:.4g}, filters of {label}"
    )


def mistakes(descent: Descent, *, progress: Progress | None = None) -> tuple[tuple[Mistake, ...], int]:
    """Take members down to their limits, and tell of each function that is wrong there what it is and why its loss ends
    where it does, the commonest first; and how many members get all right there.
    """
    taken_apart(descent.problem, descent.stack.select([]))
    stack, columns = polished(descent, _STEPS, progress=progress)
    anatomy = taken_apart(descent.problem, stack)
    outputs, names = anatomy.outputs, np.array(descent.problem.strata())
    alive = outputs > 0
    whole = np.isfinite(columns["limit"])
    wrong = np.flatnonzero(whole & (alive != anatomy.targets).any(1))
    group = grouped(alive[wrong])
    rule = Rule.parse(descent.problem.config()["rule"])
    found = []
    for number in range(int(group.max(initial=-1)) + 1):
        members = wrong[group == number]
        table = alive[members[0]]
        missed = Counter(names[table != anatomy.targets].tolist())
        said = formula(table, rule) or _of_network(_only(anatomy, int(members[0])), table, descent.labels[members[0]])
        cases = tuple((case, missed[case], int((names == case).sum())) for case in sorted(missed))
        found.append(
            Mistake(
                members=len(members),
                right=int((table == anatomy.targets).sum()),
                wrong=cases,
                computes=said,
                limits=_limits(anatomy, members, columns, descent.labels, names),
            )
        )
    return tuple(found), int((whole & (alive == anatomy.targets).all(1)).sum())


def _limits(
    anatomy: Anatomy,
    members: Int[np.ndarray, " some"],
    columns: Mapping[str, np.ndarray],
    labels: Sequence[str],
    names: np.ndarray,
) -> tuple[Limit, ...]:
    """The limits of members, those that are the same together, the commonest first."""
    limits = columns["limit"][members]
    order = np.argsort(limits)
    place = np.append(0, np.cumsum(np.diff(limits[order]) > SAME))
    found = []
    for number in range(place[-1] + 1):
        some = members[order[place == number]]
        value = float(columns["limit"][some].min())
        floors = [floor(anatomy, int(member)) for member in some[:_BOUNDED]]
        known = [each for each in floors if np.isfinite(each.bound)] or floors[:1]
        best = max(known, key=lambda each: each.bound)
        first = int(some[0])
        what, levels = pooled(anatomy.outputs[first], anatomy.targets, anatomy.weights)
        parts = {case: float(best.entropies[names == case].sum()) for case in dict.fromkeys(names.tolist())}
        kinds = Counter(list(KINDS)[int(columns["kind"][member])] for member in some)
        found.append(
            Limit(
                value=value,
                members=tuple(labels[member] for member in sorted(some)),
                kinds=dict(kinds.most_common()),
                floor=best.bound,
                explained=bool(abs(value - best.bound) <= EXPLAINED),
                pieces=best.pieces,
                pooled=what,
                levels=levels,
                cases=tuple(sorted(parts.items(), key=lambda each: -each[1])),
            )
        )
    return tuple(sorted(found, key=lambda each: (-len(each.members), each.value)))


def _only(anatomy: Anatomy, member: int) -> Anatomy:
    """One member of it."""
    shared = ("cells", "targets", "weights", "slope")
    own = [field.name for field in dataclasses.fields(anatomy) if field.name not in shared]
    changed: dict[str, Any] = {name: getattr(anatomy, name)[member : member + 1] for name in own}
    return dataclasses.replace(anatomy, **changed)
