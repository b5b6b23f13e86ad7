"""Which features of two members decide whether the straight line between them has no barrier, and what is wrong with
those that fail? For the smallest Life networks.

Signatures are compared on half of the seeds, and what they say is tested on the other half, against bounds of barriers
that hold at every point of each line, between balanced representatives, in the better order of the two filters.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int

from landscape.analysis.clusters import clusters_of
from landscape.analysis.convergence import prepared
from landscape.analysis.levels import LEVELS
from landscape.analysis.mistakes import Mistake, mistakes, one_filter, taken_apart
from landscape.analysis.outcomes import functions, grouped
from landscape.core.errors import LandscapeError, plural
from landscape.core.fields import Field, require
from landscape.core.intervals import FEWEST_NODES, Proportion, pairs_interval, together
from landscape.core.unfinished import Progress
from landscape.engine.stack import Stack, concatenate
from landscape.evaluation.certify import Certifying, bounded
from landscape.evaluation.routes import Lines, Prepared, networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.life.patterns import PATTERNS
from landscape.problems.life.problem import Life
from landscape.problems.life.rules import Rule
from landscape.problems.places import Place
from landscape.space.alignment import balance
from landscape.space.family import line
from landscape.space.symmetry import act, every_order, reorder

__all__ = ["SIGNATURES", "Mechanism", "Pairs", "Population", "Verdict", "mechanism", "signatures", "on_halves"]

#: Bounds of barriers are so near, as a share of the highest loss of the line.
_CERTIFY = 1e-3

#: Counterexamples that are kept of a signature, of each kind.
_SHOWN = 20

#: What two members may have in common, in words: first the trivial, then signatures, each refining one before it.
SIGNATURES = {
    "function": "the same truth table",
    "outputs": "the same group of outputs (root mean square difference of probabilities, 0.05)",
    "parameters": "the same group of parameters (balanced, in the better order; 0.05 of the norm)",
    "distance": "closer than half of all pairs, in the better order of filters",
    "loss": "losses whose ratio is nearer to 1 than that of half of all pairs",
    "stored order": "filters that match in the order in which they are stored",
    "last sign": "sign of the last weight",
    "signs": "signs of the last weight and of those behind the filters",
    "directions": "signs, and that of the sum of each filter's neighbours",
    "centres": "directions, and the sign of each centre",
    "reach": "directions, and whether each filter is active on most of what it points to, too few or too many",
    "reach and centres": "reach, and the sign of each centre",
    "hinges": "signs, and whether each filter is active at too few, right and too many live neighbours",
    "activity": "signs, and on which cases each filter is active",
    "units": "activity, and on which cases the second layer is active",
}


_FIELDS = (
    Field("members", int, 50, at_least=FEWEST_NODES),
    Field("threshold", float, LEVELS["barrier"].threshold, above=0),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Lines between each two of some `members`, symmetric: bounds of the height above the higher end, `low` and `high`,
    of the better order of filters; the lower bound of the `top`, the highest loss there; the L2 length; and whether the
    `stored` order is the better one.
    """

    members: tuple[str, ...]
    low: Float[np.ndarray, "member member"]
    high: Float[np.ndarray, "member member"]
    top: Float[np.ndarray, "member member"]
    length: Float[np.ndarray, "member member"]
    stored: Bool[np.ndarray, "member member"]

    def connected(self, threshold: float) -> Float[np.ndarray, "member member"]:
        """1 where a line is known to rise by no more than the threshold, 0 where by more, else NaN, and of itself."""
        known = np.where(self.high <= threshold, 1.0, np.where(self.low > threshold, 0.0, np.nan))
        np.fill_diagonal(known, np.nan)
        return known


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A signature: how well the same one went with being connected on the first half (`phi`, the correlation of both;
    NaN where it tells no pairs apart), and on the second the shares of pairs that are connected, `same` and
    `different`, with their intervals, and how many pairs there are. `against` lists counterexamples: members, whether
    their signature is the same, and between what their barrier lies; `exceptions` counts them.
    """

    name: str
    phi: float
    same: float
    same_interval: tuple[float, float]
    same_pairs: int
    different: float
    different_interval: tuple[float, float]
    different_pairs: int
    exceptions: int
    against: tuple[tuple[str, str, bool, float, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """Members of one kind, in two halves: `tests` of each signature, and the name of the `best` on the first half.

    On the second half, of `pairs`: the sizes of their connected `components`, and the share of pairs within these that
    a line connects directly (`direct`); `undecided` pairs, left out everywhere; `signature` numbers the best one of
    each member. `crossing` is the lowest of the highest losses on lines whose ends have last weights of unlike signs,
    and `losing` on those whose ends differ only in the signs behind filters; NaN without such lines. `classes` counts
    all members of this kind by their "reach", in words.
    """

    name: str
    found_on: int
    pairs: Pairs
    tests: tuple[Verdict, ...]
    best: str
    signature: Int[np.ndarray, " member"]
    components: tuple[int, ...]
    direct: float
    undecided: int
    crossing: float
    losing: float
    classes: tuple[tuple[str, int], ...] = ()

    @property
    def decided(self) -> int:
        """Pairs of the second half of which it is known whether they are connected."""
        return len(self.pairs.members) * (len(self.pairs.members) - 1) // 2 - self.undecided

    @property
    def exceptions(self) -> int:
        """Pairs of them for which the best signature is wrong."""
        return next(test.exceptions for test in self.tests if test.name == self.best)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Mechanism:
    """What failures of a run compute (`mistakes`, at the limits of their losses), and which signatures tell which
    members are connected, of each of the `populations` at the step that the run is at.

    `solved` members get all right at that step, `later` become so on the way to their limit. `constant` is the lowest
    loss of a network with one answer, which every path passes whose last weight changes its sign, and `one_filter` a
    bound from below on that of networks with one filter, which one passes where a weight behind a filter changes its.
    """

    title: str
    members: int
    step: int | None
    solved: Proportion
    later: int
    mistakes: tuple[Mistake, ...]
    populations: tuple[Population, ...]
    constant: float
    one_filter: float
    threshold: float

    def __repr__(self) -> str:
        best = ", ".join(f"{each.name}: {each.best}" for each in self.populations)
        return f"Mechanism({plural(self.members, 'member')}, {plural(len(self.mistakes), 'mistake')}; {best})"

    def document(self) -> dict[str, Any]:
        """All of it, as a file keeps it; of the tables of pairs upper bounds of the `heights`."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **own,
            "signatures": SIGNATURES,
            "populations": [
                {
                    **{f.name: getattr(each, f.name) for f in dataclasses.fields(each) if f.name != "pairs"},
                    "members": each.pairs.members,
                    "heights": each.pairs.high,
                }
                for each in self.populations
            ],
        }

    def summary(self, fewest: int = 10) -> dict[str, Any]:
        """The same without the names of members, with limits of at least `fewest` members, and with counterexamples of
        the best signatures alone.
        """
        told = self.document()
        told["mistakes"] = [
            {
                "members": each.members,
                "right": each.right,
                "computes": each.computes.text,
                "limits": [
                    {**dataclasses.asdict(limit), "members": len(limit.members)}
                    for limit in each.limits
                    if len(limit.members) >= fewest
                ],
            }
            for each in self.mistakes
        ]
        for each, population in zip(told["populations"], self.populations, strict=True):
            each["members"] = len(population.pairs.members)
            del each["signature"], each["heights"]
            each["tests"] = [
                {key: value for key, value in vars(test).items() if key != "against" or test.name == population.best}
                for test in population.tests
            ]
        return told


def mechanism(
    a: Place,
    *,
    problem: Problem | str | None = None,
    members: int = 50,
    threshold: float = 0.01,
    progress: Callable[[str], Progress] | None = None,
) -> Mechanism:
    """Tell what failures compute and why their losses end where they do, and which features decide connectivity.

    Members that fail are taken to their limits (`landscape.polish`); of each function the limits are compared with the
    bound of the cell of parameter space that they lie in (`analysis.mistakes`). Signatures are found on the even seeds
    and tested on the odd ones; intervals hold for all of them at once, and respect that pairs share members.

    Args:
        a: A place, as in `landscape.walk`, of many members.
        problem: None: that of the run or checkpoint.
        members: Members of each half, at most, of all and of each function that has 20 in both.
        threshold: Two members are connected if the straight line rises by no more than this above its higher end, in
            nats per cell.
        progress: Called with the name of a piece of work, it gives a function of (what is done, in all).

    Returns:
        A `Mechanism`: `mistakes`, `populations`.

    Raises:
        Unsupported: The problem is not Life with one step, m = 1, ReLU or LeakyReLU, a sigmoid and cross-entropy.
        LandscapeError: Fewer than 20 finite members in a half.

    Source: C. D. Freeman, J. Bruna, ICLR 2017 (connected level sets of half-rectified networks); D. R. Cox, Biometrika
    62, 1975 (finding and testing on halves); G. U. Yule, J. R. Stat. Soc. 75, 1912 (phi).

    >>> problem = Life(steps=2)
    >>> try:
    ...     mechanism(problem.network(), problem=problem)
    ... except LandscapeError as error:
    ...     print(str(error)[:68])
    what a network computes is derived for Life with steps=1, m_factor=1
    """
    require(mechanism, locals(), *_FIELDS)
    tell = progress or (lambda name: lambda done, total: None)
    chosen, (place,) = networks([a], Compute(dtype=torch.float64), problem, finite=False)
    stack = place.stack.to("cpu", torch.float64)
    taken_apart(chosen, stack.select([]))
    sources = place.sources
    labels = [source.label for source in sources]
    seeds = [number if source.seed is None else source.seed for number, source in enumerate(sources)]
    finite = stack.flatten().isfinite().all(1).numpy()
    halves = [[k for k in np.flatnonzero(finite).tolist() if seeds[k] % 2 == odd] for odd in (0, 1)]
    if min(map(len, halves)) < FEWEST_NODES:
        raise LandscapeError(
            f"{plural(len(halves[0]), 'finite member')} with even seeds and {len(halves[1])} with odd ones are too few "
            f"to find signatures on one half and test them on the other: give {FEWEST_NODES} of each, or more"
        )
    told = functions(chosen, stack)
    assert told.answers.hits is not None  # cells are right or wrong
    right = told.answers.hits.sum(1).numpy()
    some = np.flatnonzero((right < told.answers.samples) & finite).tolist()
    descent = prepared(a, chosen)
    descent = dataclasses.replace(
        descent, stack=descent.stack.select(some), labels=tuple(descent.labels[k] for k in some)
    )
    failures, later = mistakes(descent, progress=tell("limits")) if some else ((), 0)
    populations = []
    for number in range(-1, int(told.group.max()) + 1):
        of = told.group >= 0 if number < 0 else told.group == number
        parts = [[k for k in half if of[k]][:members] for half in halves]
        if min(map(len, parts)) < FEWEST_NODES:
            continue
        name = "all members" if number < 0 else f"{right[of][0]} of {told.answers.samples} right, group {number}"
        ends = [_half(chosen, stack.select(part), [labels[k] for k in part], tell(f"lines, {name}")) for part in parts]
        found = _population(name, ends[0], ends[1], threshold)
        populations.append(
            dataclasses.replace(found, classes=_classes(chosen, stack.select(np.flatnonzero(of & finite).tolist())))
        )
    anatomy = taken_apart(chosen, stack.select([0]))
    assert isinstance(chosen, Life)
    share = float(anatomy.weights @ anatomy.targets)
    return Mechanism(
        title=chosen.title(),
        members=len(stack),
        step=sources[0].step,
        solved=Proportion(int((right == told.answers.samples).sum()), len(stack)),
        later=later,
        mistakes=failures,
        populations=tuple(populations),
        constant=float(scipy.special.entr(share) + scipy.special.entr(1 - share)),
        one_filter=one_filter(Rule.parse(chosen.rule), anatomy.weights),
        threshold=threshold,
    )


def signatures(problem: Problem, stack: Stack) -> dict[str, list[Hashable]]:
    """Of each member `SIGNATURES` names of its parts; alike whatever the order of filters and the scale of units."""
    anatomy = taken_apart(problem, stack)
    assert isinstance(problem, Life)
    kernel = Rule.parse(problem.rule).kernel
    centre, live = PATTERNS[:, 1, 1], (PATTERNS * kernel).sum((1, 2))
    case, plenty = centre * (len(kernel.reshape(-1))) + live, np.zeros(len(live), dtype=int)
    for state in (0, 1):  # too few, right, too many; where none is right all are too few
        at = live[(centre == state) & anatomy.targets]
        edges = [at.min(), at.max() + 1] if len(at) else [np.inf, np.inf]
        plenty[centre == state] = np.digitize(live[centre == state], edges)
    neighbours = kernel.reshape(-1).astype(bool)
    sums = anatomy.kernels[:, :, neighbours].sum(2) > 0
    centres = anatomy.kernels[:, :, 4] > 0
    second, last = anatomy.second > 0, anatomy.last > 0
    filters, middle = anatomy.filters > 0, anatomy.middle > 0
    by_plenty, by_case = (_majority(filters, anatomy.weights, each) for each in (plenty, case))
    reach = np.where(sums, by_plenty[..., -1], by_plenty[..., 0])  # many neighbours, or few
    of_middle = _majority(middle, anatomy.weights, case)

    def both(member: int, *parts: np.ndarray) -> Hashable:
        """The last sign, and of each filter its parts, whichever comes first."""
        units = [tuple(np.concatenate([np.ravel(part[member, unit]) for part in parts]).tolist()) for unit in (0, 1)]
        return bool(last[member]), tuple(sorted(units))

    every = range(len(stack))
    return {
        "last sign": [bool(last[k]) for k in every],
        "signs": [both(k, second) for k in every],
        "directions": [both(k, second, sums) for k in every],
        "centres": [both(k, second, sums, centres) for k in every],
        "reach": [both(k, second, sums, reach) for k in every],
        "reach and centres": [both(k, second, sums, reach, centres) for k in every],
        "hinges": [both(k, second, by_plenty) for k in every],
        "activity": [both(k, second, by_case) for k in every],
        "units": [(both(k, second, by_case), tuple(of_middle[k].tolist())) for k in every],
    }


def _classes(problem: Problem, stack: Stack) -> tuple[tuple[str, int], ...]:
    """How many members have each reach, in words, the most first."""
    counts: Counter[str] = Counter()
    reach: list[Any] = signatures(problem, stack)["reach"]
    for last, units in reach:
        filters = [
            f"{'+' if weight else '-'} {'many' if many else 'few'}{'' if active else ' (leaks)'}"
            for weight, many, active in units
        ]
        counts[f"last {'+' if last else '-'}, filters {', '.join(filters)}"] += 1
    return tuple(counts.most_common())


def _majority(
    active: Bool[np.ndarray, "*units pattern"],
    weights: Float[np.ndarray, " pattern"],
    place: Int[np.ndarray, " pattern"],
) -> Bool[np.ndarray, "*units place"]:
    """Whether patterns of more than half of the weight of a place are active."""
    shares = [active[..., place == k] @ weights[place == k] / weights[place == k].sum() for k in np.unique(place)]
    return np.asarray(np.stack(shares, -1) > 0.5 + 1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class _Half:
    """Lines between members, and of each signature which pairs have the same."""

    pairs: Pairs
    same: Mapping[str, Bool[np.ndarray, "member member"]]


def _half(problem: Problem, stack: Stack, labels: Sequence[str], progress: Progress) -> _Half:
    """The members of a half: what is between them, and what they have in common."""
    pairs = _lines(problem, stack, labels, progress)
    loss = np.log(np.maximum(taken_apart(problem, stack).losses(), 1e-300))
    gap, upper = np.abs(loss[:, None] - loss), np.triu_indices(len(labels), 1)
    classes: dict[str, Sequence[Hashable]] = {
        "function": functions(problem, stack).group.tolist(),
        "outputs": clusters_of(problem, stack, by="outputs").label.tolist(),
        "parameters": clusters_of(problem, stack, by="parameters").label.tolist(),
        **signatures(problem, stack),
    }
    same = {name: _equal(each) for name, each in classes.items()}
    same |= {
        "distance": pairs.length <= np.median(pairs.length[upper]),
        "loss": gap <= np.median(gap[upper]),
        "stored order": pairs.stored,
    }
    return _Half(pairs, {name: same[name] for name in SIGNATURES})


def _equal(labels: Sequence[Hashable]) -> Bool[np.ndarray, "member member"]:
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    row = np.array([numbers[label] for label in labels])
    return np.asarray(row[:, None] == row)


def _lines(problem: Problem, stack: Stack, labels: Sequence[str], progress: Progress) -> Pairs:
    """Bounds on the straight lines between each two balanced representatives, in every order of the one's filters."""
    symmetry, count = problem.symmetry(), len(stack)
    ends = act(stack, symmetry, balance(stack, symmetry))
    orders = list(every_order(symmetry))
    i, j = np.triu_indices(count, 1)
    start = concatenate([reorder(ends, symmetry, order) for order in orders])
    rows = np.stack([np.concatenate([i + count * k for k in range(len(orders))]), np.tile(j, len(orders))])
    lines = Lines(line(start, ends, torch.from_numpy(rows)), {}, ())
    compute = Compute(dtype=torch.float64)
    prepared = Prepared(problem, compute, compute.objective(problem), lines, {})
    parts = [part.columns for part in bounded(prepared, Certifying(certify=_CERTIFY), progress)([])]

    def of(name: str) -> Float[np.ndarray, "order pair"]:
        return np.concatenate([part[name] for part in parts]).reshape(len(orders), -1)

    high = of("above_higher_end_upper")
    best, pair = high.argmin(0), np.arange(len(i))
    one, other = start.flatten()[rows[0]], ends.flatten()[rows[1]]
    length = (one - other).norm(dim=1).numpy().reshape(len(orders), -1)

    def table(values: np.ndarray) -> np.ndarray:
        whole = np.zeros((count, count), dtype=values.dtype)
        whole[i, j] = whole[j, i] = values
        return whole

    return Pairs(
        members=tuple(labels),
        low=table(of("above_higher_end_lower")[best, pair]),
        high=table(high[best, pair]),
        top=table(of("max_lower")[best, pair]),
        length=table(length[best, pair]),
        stored=table(best == 0),
    )


def on_halves(
    found: tuple[Mapping[str, Bool[np.ndarray, "one one"]], Float[np.ndarray, "one one"]],
    test: tuple[Mapping[str, Bool[np.ndarray, "other other"]], Pairs],
    threshold: float,
) -> tuple[Verdict, ...]:
    """Each signature's correlation with being connected on one half, and its shares on the other: tables of which pairs
    have the same, and which are connected (1, 0, NaN where that is not known), of the other with its lines.
    """
    connected = test[1].connected(threshold)
    confidence = together(2 * len(test[0]))
    tests = []
    for name, same in test[0].items():
        shares = [_share(np.where(of, connected, np.nan), confidence) for of in (same, ~same)]
        wrong = np.triu(np.isfinite(connected) & (same != (connected == 1)), 1)
        listed = [
            (*(test[1].members[k] for k in pair), bool(same[pair]), float(test[1].low[pair]), float(test[1].high[pair]))
            for of in (same, ~same)
            for pair in list(zip(*(rows.tolist() for rows in np.nonzero(wrong & of)), strict=True))[:_SHOWN]
        ]
        phi, exceptions = _phi(found[0][name], found[1]), int(wrong.sum())
        tests.append(Verdict(name, phi, *shares[0], *shares[1], exceptions, tuple(listed)))
    return tuple(tests)


def _share(pairs: Float[np.ndarray, "member member"], confidence: float) -> tuple[float, tuple[float, float], int]:
    """The share of ones in a table with NaN, its interval, and the number of pairs.

    Pairs that are all alike do not say how far others may be. Then those that share no member are independent, and as
    many of them as are found one after another have an interval of their own.
    """
    values = pairs[np.triu_indices(len(pairs), 1)]
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, (np.nan, np.nan), 0
    low, high = pairs_interval(pairs, "mean", confidence, within=(0, 1))
    if np.ptp(values) == 0:
        taken, count = set[int](), 0
        for i, j in np.argwhere(np.isfinite(np.triu(pairs, 1)) & np.triu(np.ones(pairs.shape, bool), 1)).tolist():
            if not {i, j} & taken:
                taken |= {i, j}
                count += 1
        low, high = Proportion(count * int(values[0]), count).interval_at(confidence)
    return float(values.mean()), (float(low), float(high)), len(values)


def _phi(same: Bool[np.ndarray, "member member"], connected: Float[np.ndarray, "member member"]) -> float:
    """Correlation of two tables of pairs of zeros and ones; NaN where one of them is the same for all."""
    upper = np.triu_indices(len(same), 1)
    one, other = same[upper].astype(float), connected[upper]
    known = np.isfinite(other)
    one, other = one[known], other[known]
    if not len(one) or not (np.ptp(one) and np.ptp(other)):
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _population(name: str, found: _Half, test: _Half, threshold: float) -> Population:
    """What the signatures say of both halves."""
    connected = test.pairs.connected(threshold)
    tests = on_halves((found.same, found.pairs.connected(threshold)), (test.same, test.pairs), threshold)
    best = max(tests, key=lambda each: -2.0 if np.isnan(each.phi) else each.phi)
    _, label = scipy.sparse.csgraph.connected_components(connected == 1, directed=False)
    inside = (label[:, None] == label) & np.isfinite(connected)
    across = ~test.same["last sign"]

    def lowest(of: Bool[np.ndarray, "member member"]) -> float:
        return float(test.pairs.top[of].min()) if of.any() else float("nan")

    return Population(
        name=name,
        found_on=len(found.pairs.members),
        pairs=test.pairs,
        tests=tests,
        best=best.name,
        signature=grouped(test.same[best.name].argmax(1)),
        components=tuple(sorted(np.bincount(label).tolist(), reverse=True)),
        direct=float(connected[inside].mean()) if inside.any() else float("nan"),
        undecided=int(np.isnan(connected[np.triu_indices(len(label), 1)]).sum()),
        crossing=lowest(across),
        losing=lowest(~test.same["signs"] & ~across),
    )
