"""Lines to a stated accuracy: how many points, and where, and how many samples is chosen for each line.

A line begins with nine points and few samples. Where its curve, as the points tell it, may rise above the highest of
them by more than a share of what is tolerated (`landscape.core.interpolation`), it gets another point; then as many
samples as its interval needs (`landscape.core.intervals`), the same for all points and lines. The number of interest is
that over the whole data set, of which the samples are drawn without replacement, class by class.
"""

import bisect
import dataclasses
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int

from landscape.core import philox
from landscape.core.errors import LandscapeError, Unsupported, few, plural
from landscape.core.fields import check, option
from landscape.core.interpolation import Curves, first_nodes
from landscape.core.intervals import CONFIDENCE, Nested, Stratified, largest_of, spent, tilt
from landscape.engine.objective import Objective, Share
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import in_order, stack_state_dicts
from landscape.evaluation.evaluate import require_same
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.supervised import Supervised
from landscape.space.family import Family, Known
from landscape.store.results import Result

__all__ = ["Accuracy", "Measured", "reached"]

#: What is measured: the barrier above the chord, or the loss at each alpha.
Quantity = Literal["barrier", "loss"]

#: Samples up to which all are taken at once, and so many times parameters, up to which a part of the samples takes
#: about as long as all; of more so many at first, at least and at most.
_FEW, _CHEAP, _FIRST, _MOST_FIRST = 1000, 2**24, 256, 4096

#: Share of the tolerance that interpolation may take where samples take the rest, and where they leave no error; share
#: of that which the band has between points at least, however well they are met.
_INTERPOLATED, _ALONE, _LEAST = 0.2, 0.9, 0.6

#: Share of what an interval may miss that goes to nodes wrongly held to be lower than the highest.
_RULED_OUT = 0.1

#: Share of all samples from which on all are taken, which leaves no error of theirs; of a class the samples at first
#: that make it a stratum.
_MOSTLY, _STRATUM = 0.75, 4

#: Points of a line, at most; length of a piece between two, at least; bytes of samples' losses that are kept, and that
#: are made at once.
_POINTS, _SHORTEST, _KEPT_BYTES, _BYTES = 257, 2.0**-30, 2**28, 2**26

#: Without a tolerance, within a budget: the first that is tried, and the last.
_LOOSE, _TIGHT = 0.5, 1e-4

#: What is known of barriers and a height; half the width of an interval, as a share of how far from the height it is,
#: at which it probably does not hold it.
_DECISIONS, _DECIDED = ("above", "below", "open"), 0.7

#: Rises up to this share of the loss are rounding.
_ROUNDING = 1e-12

#: Stream of random numbers: the order of samples.
_ORDER = 2**17 + 4

_log = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How accurate a line is to be, or how long it may take; raises `LandscapeError` for values that make no sense."""

    tolerance: float | str | None = option(
        None,
        "In place of the loss at each point, find each line's barrier above the chord to this share of it, such as "
        "0.01, or, written 0.01:loss, its loss everywhere to this share of its range: half the width of a 95 % "
        "interval. Points and samples are chosen for it; `points` are those that the curve is drawn with.",
        syntax="tolerance",
        metavar="SHARE[:loss]",
    )
    floor: float = option(
        1e-3,
        "Share of a line's range of losses that is tolerated whatever its barrier is, so that a line without one ends.",
        above=0,
        below=1,
    )
    above: float | None = option(
        None,
        "With a tolerance: decide of each line, such as those of all pairs, whether its barrier is above this height, "
        "and end where that is sure (at most 5 % of the decisions are wrong).",
        at_least=0,
        metavar="HEIGHT",
    )
    budget: float | None = option(
        None,
        "In place of a tolerance, or with it: the time that all lines may take, such as 60s, 10m or 2h, for as narrow "
        "intervals as that allows.",
        above=0,
        syntax="seconds",
        metavar="TIME",
    )
    population: bool = option(
        False,
        "Intervals of the loss over the distribution that the data is a sample of, not over the data itself.",
    )

    def __post_init__(self) -> None:
        check(self)
        share = self.share
        if self.tolerance is not None and (share is None or not 0 < share < 1):
            raise LandscapeError(
                f"`tolerance` is {self.tolerance}, it must be a share between 0 and 1, such as 0.01, or 0.01:loss"
            )
        beside = {"floor": self.floor != type(self).floor, "population": self.population}
        for name in (name for name, given in beside.items() if given and not self):
            raise LandscapeError(
                f"`{name}` is for lines to a stated accuracy: ask for one with `tolerance` or `budget`"
            )
        if self.above is not None and (self.tolerance is None or self.quantity == "loss"):
            raise LandscapeError(
                "`above` is a height of barriers, and ends where `tolerance` is reached at the latest: give one of the "
                "barrier, such as 0.05"
            )
        if self.floor != type(self).floor and self.quantity == "loss":
            raise LandscapeError("`floor` is for barriers, and this `tolerance` is of the range already: leave it out")

    def __bool__(self) -> bool:
        return self.tolerance is not None or self.budget is not None

    @property
    def share(self) -> float | None:
        """What is tolerated; None where it is not said, or not well."""
        if isinstance(self.tolerance, str):
            found = re.fullmatch(r"([^:]+)(?::(?:loss|barrier))?", self.tolerance)
            try:
                return float(found[1]) if found else None
            except ValueError:
                return None
        return self.tolerance

    @property
    def quantity(self) -> Quantity:
        """What is measured."""
        return "loss" if isinstance(self.tolerance, str) and self.tolerance.endswith(":loss") else "barrier"


@dataclasses.dataclass(eq=False)
class _Line:
    """What is known of a line: its points, and of each the losses of some samples (`level` says how many they are where
    it matters most), or of all their mean alone.
    """

    number: int
    x: Float[np.ndarray, " node"]
    y: Float[np.ndarray, " node"]
    rows: list[np.ndarray] | None
    level: int = 0
    looks: int = 0
    caution: float = 1.0
    finished: bool = False
    estimate: "_Estimate | None" = None

    def add(self, x: Float[np.ndarray, " node"], y: Float[np.ndarray, " node"], rows: np.ndarray) -> None:
        """Further points."""
        order = np.argsort(np.concatenate([self.x, x]), kind="stable")
        self.x, self.y = (np.concatenate(pair)[order] for pair in ((self.x, x), (self.y, y)))
        if self.rows is not None:
            every = [*self.rows, *rows]
            self.rows = [every[k] for k in order]


@dataclasses.dataclass(frozen=True)
class _Estimate:
    """What a look at a line says: its barrier with an interval and its place, half the widths of what is asked for (of
    all, and of interpolation alone), what is tolerated, how accurate the loss is at each node, and at which it must be
    known better for what is asked for.
    """

    barrier: float
    low: float
    high: float
    peak: float
    half: float
    interpolated: float
    tolerated: float
    spread: Float[np.ndarray, " node"]
    wanting: Bool[np.ndarray, " node"]

    def decision(self, above: float) -> str:
        """Whether the barrier is above a height, as far as is known."""
        return "above" if self.low > above else "below" if self.high < above else "open"

    @property
    def reached(self) -> bool:
        """Whether the interval is as narrow as was asked for."""
        return self.half <= self.tolerated


class Measured:
    """Finds the values of lines to an accuracy; what `evaluate` asks of a `Measuring`.

    Args:
        objective: The loss.
        accuracy: What is asked for.
        problem, compute: Whose loss it is, and how it is computed: the `sample_seed` decides the order of samples.
        total: Number of all lines, between which the budget is divided.
    """

    def __init__(
        self, objective: AnyObjective, accuracy: Accuracy, problem: Problem, compute: Compute, *, total: int
    ) -> None:
        self.accuracy, self.left, self.started = accuracy, total, time.monotonic()
        self.objective: AnyObjective = objective
        if isinstance(objective, PlainObjective) and objective.further:  # metrics of test data are not asked for
            self.objective = dataclasses.replace(objective, further=())
        sampling = objective.sampling if not compute.draws else None
        if compute.samples is not None and isinstance(problem, Supervised):
            raise Unsupported("`tolerance` chooses how many samples there are: leave `samples` out")
        drawn = sampling is not None and not isinstance(problem, Supervised)
        self.population = sampling is not None and (accuracy.population or drawn)
        if accuracy.population and sampling is None:
            raise Unsupported(
                "`population` is of samples that are drawn, and this loss is exact, or no average over samples in "
                "memory: leave it out"
            )
        self.samples = objective.samples
        small = self.samples < _FEW or self.samples * objective.template.parameters <= _CHEAP
        self.sampling = sampling if self.population or not small else None
        self.reason = (
            ""
            if sampling is not None or not objective.sampled
            else "streamed data is read whole"
            if objective.streamed
            else "the loss draws random numbers batch by batch"
            if compute.draws
            else "the loss is no average over samples"
        )
        if self.reason:
            _log.warning("%s: points alone are chosen, all samples are used", self.reason)
        self.levels = [self.samples]
        self._shares: list[Share] = []
        self._counts: list[np.ndarray] = []
        self._stratum, self._sizes = np.zeros(self.samples, dtype=np.int64), np.array([self.samples])
        if self.sampling is not None:
            self._order_samples(compute.sample_seed)
        #: Of each point the statistics of BatchNorm, and what else belongs to it whatever samples are read.
        self._anew: dict[tuple[int, float], dict[str, torch.Tensor]] = {}
        self._seconds, self._work = 0.0, 0.0
        names = objective.metrics if isinstance(objective, Objective) else objective.names()
        self._others = [name for name in names if name != "loss"]

    # What `evaluate` asks for -----------------------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all samples are used at each point, so that points have the numbers of any walk."""
        return self.sampling is None

    @property
    def lines(self) -> int:
        """How many lines are measured together, at most."""
        return max(1, _KEPT_BYTES // (4 * 16 * self.samples)) if not self.whole else 2**14

    def asked(self) -> dict[str, Any]:
        """What was asked for, and what else decides the numbers."""
        asked = self.accuracy
        return {
            "quantity": asked.quantity,
            "tolerance": asked.share,
            "floor": asked.floor if asked.quantity == "barrier" else None,
            "above": asked.above,
            "level": CONFIDENCE,
            "population": self.population,
            "budget": asked.budget,
            "all_samples": self.whole,
            "ends": "on all samples" if self.whole else "on the samples of their lines",
            **({"reason": self.reason} if self.reason else {}),
        }

    def said(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What was found, of all lines."""
        done = columns["done"]

        def ends(name: str) -> Any:
            values = columns[name][done]
            return [values.min().item(), values.max().item()] if len(values) > 1 else values[0].item()

        low, high = columns["barrier_low"][done], columns["barrier_high"][done]
        decision = columns.get("decision", done)[done]
        return {
            **self.asked(),
            "interval": [float(np.min(low)), float(np.max(high))] if len(low) else None,
            "barrier": ends("barrier") if len(low) else None,
            "points": ends("points_used") if len(low) else None,
            "samples": ends("samples_used") if len(low) else None,
            "of_samples": self.samples,
            "precision": str(self.objective.autocast or self.objective.dtype).removeprefix("torch."),
            "reached": int(columns["reached"][done].sum()),
            **(
                {"decisions": {name: int((decision == name).sum()) for name in _DECISIONS}}
                if self.accuracy.above is not None
                else {}
            ),
            "lines": int(done.sum()),
            "seconds": round(time.monotonic() - self.started, 3),
        }

    def __call__(
        self,
        family: Family,
        numbers: Int[np.ndarray, " line"],
        alphas: Float[np.ndarray, " alpha"],
        known: Sequence[Known],
        tell: Callable[[int], None],
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The loss of some lines at the alphas, half the width of its band there, and columns of what was found."""
        until = None
        if self.accuracy.budget is not None:
            left = self.started + self.accuracy.budget - time.monotonic()
            until = time.monotonic() + max(0.0, left) * len(numbers) / self.left
        self.knots = np.array([alpha for alpha, _ in family.knots])
        self._anew.clear()
        lines = self._begin(family, numbers)
        if self._others:
            _log.warning("the loss alone is found to an accuracy, without other metrics: %s", few(self._others))
            self._others = []
        self._referee(lines, known)
        finite = [line for line in lines if np.isfinite(line.y).all()]
        if len(finite) < len(lines):
            _log.warning(
                "%s with losses that are not finite: nothing is interpolated", plural(len(lines) - len(finite), "line")
            )
        goal = self.accuracy.share or _LOOSE
        while active := [line for line in finite if not line.finished]:
            self._refine(family, active, goal, until)
            self._look(family, active, goal, until)
            over = until is not None and time.monotonic() >= until
            for line in active:
                assert line.estimate is not None
                decided = self.accuracy.above is not None and line.estimate.decision(self.accuracy.above) != "open"
                line.finished = line.estimate.reached or decided or over
            if self.accuracy.share is None and not over and goal > _TIGHT and all(line.finished for line in active):
                goal = max(goal / 2, _TIGHT)
                for line in active:
                    line.finished = False
                continue
            self._grow(family, [line for line in active if not line.finished], until)
            tell(len(lines) - sum(not line.finished for line in finite))
        if self.accuracy.share is None:
            self._look(family, finite, goal, until, last=True)
        self.left -= len(numbers)
        return self._values(lines, alphas), self._columns(lines)

    # Samples ----------------------------------------------------------------------------------------------------------

    def _order_samples(self, seed: int) -> None:
        """The order in which samples are taken: any first part of it has its share of each class. And how many are
        taken at the levels: half as many again, or a third, until all.
        """
        assert self.sampling is not None
        tolerated = self.accuracy.share or _LOOSE
        first = int(np.clip(0.5 / tolerated**2, _FIRST, _MOST_FIRST)) if self.accuracy.above is None else _FIRST
        if 2 * first > self.samples or (self.samples < _FEW):
            first = self.samples
        self.levels, size = [], first
        while size < _MOSTLY * self.samples:
            self.levels.append(-(-size // 32) * 32)
            size = first * 2 ** (len(self.levels) // 2) * (3 if len(self.levels) % 2 else 2) // 2
        self.levels.append(self.samples)
        if self.sampling.drawn:
            self.order = np.arange(self.samples)
            return
        draws = philox.words(torch.tensor([seed]), stream=_ORDER, step=0, count=self.samples)[0].numpy()
        classes = np.zeros(self.samples, dtype=np.int64)
        if self.sampling.classes is not None:
            _, classes = np.unique(self.sampling.classes.cpu().numpy(), return_inverse=True)
            sizes = np.bincount(classes)
            small = sizes * (self.levels[0] / self.samples) < _STRATUM
            if sizes[small].sum() * (self.levels[0] / self.samples) < _STRATUM and small.any():
                small[np.argsort(sizes)[: int(small.sum()) + 1]] = True
            classes = np.where(small[classes], len(sizes), classes)  # rare ones are one stratum
            _, classes = np.unique(classes, return_inverse=True)
        self._sizes = np.bincount(classes)
        by_class = np.lexsort([draws, classes])
        rank = np.empty(self.samples)
        rank[by_class] = np.concatenate([(np.arange(size) + 0.5) / size for size in self._sizes])
        self.order = np.lexsort([draws, rank])
        self._stratum = classes[self.order]

    def _share(self, level: int) -> Share:
        """The samples that a level adds to those before it."""
        assert self.sampling is not None
        while len(self._shares) <= level:
            begin = self.levels[len(self._shares) - 1] if self._shares else 0
            index = torch.as_tensor(self.order[begin : self.levels[len(self._shares)]], device=self.objective.device)
            self._shares.append(self.sampling.share(index))
        return self._shares[level]

    def _losses(
        self, family: Family, places: Sequence[tuple[int, float]], levels: Sequence[int]
    ) -> Float[np.ndarray, "point value"]:
        """At points the losses of the samples that some levels add, or the mean of all."""
        device, started = self.objective.device, time.monotonic()
        first = torch.as_tensor(np.array([line for line, _ in places]), device=device)
        second = torch.as_tensor(np.array([alpha for _, alpha in places], dtype=np.float64), device=device)
        if self.sampling is None:
            found = self.objective(family.points(first, second))["loss"].cpu().numpy()[:, None]
        else:
            parts = []
            for level in levels:
                share, most = self._share(level), max(1, _BYTES // (8 * self._sizes_of([level])))
                pieces = []
                for begin in range(0, len(first), most):
                    some = slice(begin, begin + most)
                    anew = [self._anew.setdefault(place, {}) for place in places[some]]
                    rows, counts = self.objective.each(family.points(first[some], second[some]), [share.data], anew)
                    pieces.append((rows * share.weight).float().cpu().numpy())
                if level == len(self._counts):
                    self._counts.append((counts * share.weight).cpu().numpy())
                parts.append(np.concatenate(pieces))
            found = np.concatenate(parts, 1)
        self._seconds += time.monotonic() - started
        self._work += len(first) * self._sizes_of(levels)
        return found

    def _sizes_of(self, levels: Sequence[int]) -> int:
        return sum(self.levels[k] - (self.levels[k - 1] if k else 0) for k in levels)

    def _fits(self, points: int, levels: Sequence[int], until: float | None) -> bool:
        """Whether there is time for that."""
        if until is None:
            return True
        return time.monotonic() + points * self._sizes_of(levels) * self._seconds / self._work <= until

    def _nested(self, line: _Line) -> Nested:
        assert line.rows is not None
        counts, count = np.concatenate(self._counts[: line.level + 1]), self.levels[line.level]
        return Nested(line.rows, counts, self._stratum[:count], self._sizes, self.population)

    def _means(self, rows: np.ndarray, level: int) -> Float[np.ndarray, " node"]:
        """The loss at points that have the samples of a level."""
        if self.whole:
            return rows[:, 0].astype(np.float64)
        counts, count = np.concatenate(self._counts[: level + 1]), self.levels[level]
        return Stratified(rows.astype(np.float64), counts, self._stratum[:count], self._sizes).mean

    # Points -----------------------------------------------------------------------------------------------------------

    def _begin(self, family: Family, numbers: Int[np.ndarray, " line"]) -> list[_Line]:
        """All lines with their first points and samples; raises `LandscapeError` where the budget is too short."""
        nodes, budget = first_nodes(self.knots), self.accuracy.budget
        places = [(int(number), float(alpha)) for number in numbers for alpha in nodes]
        found = list[np.ndarray]()
        if budget is not None and not self._work:
            found.append(self._losses(family, places[:1], [0]))
            if self._seconds > budget:
                raise LandscapeError(
                    f"one point takes {self._seconds:.2g} s, and `budget` is {budget:g} s: give more, at least "
                    f"{len(nodes)} times that"
                )
            started = time.monotonic()
        rest = places[len(found) :]
        found.append(self._losses(family, rest, [0]))
        if budget is not None and len(rest) < len(places):
            whole = (time.monotonic() - started) / len(numbers) * self.left
            if whole > 2 * budget:
                raise LandscapeError(
                    f"{len(nodes)} points on each of {plural(self.left, 'line')} take {whole:.2g} s, and `budget` is "
                    f"{budget:g} s: give more, or walk fewer lines"
                )
        every = np.concatenate(found).reshape(len(numbers), len(nodes), -1)
        lines = []
        for number, rows in zip(numbers, every, strict=True):
            lines.append(_Line(int(number), nodes, self._means(rows, 0), None if self.whole else list(rows)))
        if finite := [line for line in lines if np.isfinite(line.y).all()]:
            x, y = nodes, np.stack([line.y for line in finite])
            coarse = Curves(np.tile(x[::2], (len(y), 1)), y[:, ::2], self.knots, np.ones(len(y)))
            better = coarse.with_nodes(np.tile(x[1::2], (len(y), 1)), y[:, 1::2])
            for line, caution in zip(finite, better.caution, strict=True):
                line.caution = float(caution)
        return lines

    def _curves(self, lines: Sequence[_Line]) -> Curves:
        most = max(len(line.x) for line in lines)
        x, y = np.full((len(lines), most), np.inf), np.zeros((len(lines), most))
        for row, line in enumerate(lines):
            x[row, : len(line.x)], y[row, : len(line.x)] = line.x, line.y
        return Curves(x, y, self.knots, np.array([line.caution for line in lines]))

    def _refine(self, family: Family, lines: Sequence[_Line], goal: float, until: float | None) -> None:
        """Add points until interpolation takes its share of what is tolerated, or there is no time."""
        active = list(lines)
        while active:
            curves = self._curves(active)
            wanted = _wanted(
                curves, goal, self.accuracy, self._share_of_points(active), exact=not self._sampled(active)
            )
            points = int(np.isfinite(wanted).sum())
            if not points or not self._fits(points, range(max(line.level for line in active) + 1), until):
                return
            values = np.full(wanted.shape, np.nan)
            for level in sorted({line.level for line in active}):
                here = [row for row, line in enumerate(active) if line.level == level]
                place = [(row, column) for row in here for column in np.flatnonzero(np.isfinite(wanted[row]))]
                if not place:
                    continue
                alphas = [float(wanted[each]) for each in place]
                numbers = [active[row].number for row, _ in place]
                found = self._losses(family, list(zip(numbers, alphas, strict=True)), range(level + 1))
                for row in here:
                    line, mine = active[row], [k for k, (other, _) in enumerate(place) if other == row]
                    if not mine:
                        continue
                    new = self._means(found[mine], level)
                    values[row, [place[k][1] for k in mine]] = new
                    line.add(np.array([alphas[k] for k in mine]), new, found[mine])
                    if not self.whole:
                        line.y = self._nested(line).mean
            caution = curves.with_nodes(wanted, values).caution
            for row, line in enumerate(active):
                line.caution = float(caution[row])
            active = [
                line
                for row, line in enumerate(active)
                if np.isfinite(wanted[row]).any() and len(line.x) < _POINTS and np.isfinite(line.y).all()
            ]

    def _share_of_points(self, lines: Sequence[_Line]) -> float:
        """The share of the tolerance that interpolation may take."""
        return _INTERPOLATED if self._sampled(lines) else _ALONE

    def _sampled(self, lines: Sequence[_Line]) -> bool:
        """Whether samples leave an error of their own."""
        return not self.whole and (
            self.population or any(len(row) < self.samples for line in lines for row in line.rows or ())
        )

    # Intervals --------------------------------------------------------------------------------------------------------

    def _look(
        self, family: Family, lines: Sequence[_Line], goal: float, until: float | None, *, last: bool = False
    ) -> None:
        """Estimate what is asked for, with its interval; at the `last` look, which time alone decided, nothing is spent
        on looks before. What turns out to want the samples that other points of its line have gets them.
        """
        rest = list(lines)
        while rest:
            curves = self._curves(rest)
            for row, line in enumerate(rest):
                tail = 1 - CONFIDENCE if last or self.accuracy.share is None or self.whole else spent(line.looks)
                line.estimate = self._estimate(line, curves, row, goal, tail)
            rest = self._add_samples(family, {line.number: (line, line.level) for line in rest}, until)
        for line in lines:
            line.looks += 1

    def _estimate(self, line: _Line, curves: Curves, row: int, goal: float, tail: float) -> _Estimate:
        count = len(line.x)
        x, y = line.x, line.y
        chord = np.eye(count) - np.outer(1 - x, np.eye(count)[0]) - np.outer(x, np.eye(count)[-1])
        above, band, upwards, lift = chord @ y, np.zeros(count), np.zeros(count), np.zeros(count)
        top = int(np.argmax(above))
        lowest = float(above[top])
        if self._sampled([line]):
            part, out, tail = self._nested(line), _RULED_OUT * tail, (1 - _RULED_OUT) * tail
            heavier = float(scipy.special.stdtrit(part.freedom, 1 - tail / 2) / scipy.special.ndtri(1 - tail / 2))
            every, below = part.covariance, chord @ part.covariance @ chord.T
            spread, skewed = np.sqrt(np.maximum(np.diag(below), 0)), part.skewness(chord)
            # The highest node is not known: an upper bound is that of the one it is, a lower one that of all it may be.
            reach = heavier * -float(scipy.special.ndtri(tail / 2))
            upwards = (reach + tilt(skewed, reach)) * spread
            apart = np.sqrt(np.maximum(spread**2 + spread[top] ** 2 - 2 * below[top], 0))
            near = above + 2 * reach * apart >= above[top]
            outward = -heavier * float(scipy.special.ndtri(out / count))
            lift = (outward + tilt(part.skewness(chord - chord[top]), outward)) * apart
            reach = heavier * largest_of(below[np.ix_(near, near)], tail / 2, sides=1)
            lowest = float((above - (reach - tilt(skewed, reach)) * spread)[near].max())
            reach = heavier * largest_of(every, tail / (1 - _RULED_OUT), sides=2)  # the band rules nothing out
            band = (reach + np.abs(tilt(part.skewness(np.eye(count)), reach))) * np.sqrt(np.maximum(np.diag(every), 0))
        # Of each cell the places, and its nodes, beside which there is the error of the cell.
        errors = curves.anywhere if self.accuracy.quantity == "loss" else curves.error
        cells, t = errors[row, : count - 1], np.column_stack([x[:-1], curves.places[row, : count - 1], x[1:]])
        values, error = np.column_stack([y[:-1], curves.values[row, : count - 1], y[1:]]), cells[:, None]
        rise = values - ((1 - t) * y[0] + t * y[-1])
        # Where it is highest the curve is looked at again, closer by.
        cell, place = np.unravel_index(int(np.argmax(rise)), t.shape)
        near_by = np.clip(t[cell, place] + np.linspace(-1, 1, 65) * (t[cell, 1] - t[cell, 0]), 0, 1)
        alone = self._curves([line])
        summit = alone(near_by[None])[0] - ((1 - near_by) * y[0] + near_by * y[-1])
        off = alone.error[0, alone.cell(near_by[None])[0]]
        best, peak = int(np.argmax(summit)), (above[top], x[top])
        if summit[best] > peak[0] + _ROUNDING * np.abs(y).max():
            peak = (summit[best], near_by[best])
        # Cells that are surely lower than the highest node need not be known as well as it is.
        surely = (rise + error).max(1) + np.maximum(lift[:-1], lift[1:]) < above[top]
        rising = np.where(surely[:, None], -np.inf, rise + error)
        reaching = (rising + np.interp(t, x, upwards)).max(1)
        highest = max(float(reaching.max()), float((summit + off + np.interp(near_by, x, upwards)).max()))
        bent = max(float(rising.max()), float((summit + off).max())) - float(above[top])
        spread_of_loss = float(np.ptp(np.append(y, values)))
        wanting = np.ones(count, dtype=bool)
        if self.accuracy.quantity == "loss":
            bent, tolerated = float(cells.max()), goal * spread_of_loss
            half = max(float((np.interp(t, x, band) + error).max()), float(band.max()))
        else:
            half, bent = (highest - max(lowest, 0.0)) / 2, bent / 2
            tolerated = max(goal * float(peak[0]), self.accuracy.floor * spread_of_loss)
            # More samples are for the cells that may be higher than the interval is to reach.
            high = reaching > max(lowest, 0.0) + tolerated
            high[[max(top - 1, 0), min(top, count - 2)]] = True
            wanting = np.append(True, high) | np.append(high, True)  # and the ends
        low = max(lowest, 0.0)
        return _Estimate(float(peak[0]), low, highest, float(peak[1]), half, bent, tolerated, band, wanting)

    def _grow(self, family: Family, lines: Sequence[_Line], until: float | None) -> None:
        """Add the samples that lines need; what cannot have more is finished."""
        wanted = dict[int, tuple[_Line, int]]()
        for line in lines:
            level = self._level(line)
            points = sum(len(each.x) for each in lines)
            while level > line.level and not self._fits(points, range(line.level + 1, level + 1), until):
                level -= 1
            if level == line.level:
                line.finished = True
            else:
                wanted[line.number] = line, level
        self._add_samples(family, wanted, None)

    def _add_samples(self, family: Family, wanted: Mapping[int, tuple[_Line, int]], until: float | None) -> list[_Line]:
        """Give points that want them the samples of a level, line by line's number, if there is time; returns the lines
        that got any.
        """
        groups = dict[tuple[int, int], list[tuple[_Line, int]]]()
        for line, level in wanted.values():
            assert line.estimate is not None
            for node in np.flatnonzero(line.estimate.wanting):
                if line.rows is None:
                    break
                own = bisect.bisect_left(self.levels, len(line.rows[node]))
                if own < level:
                    groups.setdefault((own, level), []).append((line, int(node)))
        grown = dict[int, _Line]()
        for (before, level), some in groups.items():
            levels = range(before + 1, level + 1)
            if not self._fits(len(some), levels, until):
                continue
            found = self._losses(family, [(line.number, float(line.x[node])) for line, node in some], levels)
            for (line, place), row in zip(some, found, strict=True):
                assert line.rows is not None
                line.rows[place], line.level = np.append(line.rows[place], row), level
                grown[line.number] = line
        for line in grown.values():
            line.y = self._nested(line).mean
        return list(grown.values())

    def _level(self, line: _Line) -> int:
        """The level whose samples make the interval as narrow as is asked for, by what is known of their spread; that
        of the line where it has all.
        """
        assert line.estimate is not None
        last = len(self.levels) - 1
        if line.level == last or not self._sampled([line]):
            return line.level
        found, n, most = line.estimate, self.levels[line.level], self.samples
        enough = found.tolerated
        if self.accuracy.above is not None:
            enough = max(enough, _DECIDED * abs(found.barrier - self.accuracy.above))
        now, aim = found.half - found.interpolated, enough - found.interpolated
        if self.accuracy.share is not None:  # the next look is at another level
            now *= float(scipy.special.ndtri(spent(line.looks) / 2) / scipy.special.ndtri(spent(line.looks - 1) / 2))
        whole = 0.0 if self.population else 1 / most
        need = most
        if aim > 0 and now > 0:
            need = math.ceil(1.1 / ((aim / now) ** 2 * (1 / n - whole) + whole))
        return next((k for k in range(line.level + 1, last) if self.levels[k] >= need), last)

    # What is told -----------------------------------------------------------------------------------------------------

    def _values(self, lines: Sequence[_Line], alphas: Float[np.ndarray, " alpha"]) -> dict[str, np.ndarray]:
        """The loss, and half the width of its band, at the alphas of lines."""
        loss, error = (np.full((len(lines), len(alphas)), np.nan) for _ in range(2))
        rows = [row for row, line in enumerate(lines) if line.estimate is not None]
        if rows:
            curves = self._curves([lines[row] for row in rows])
            t = np.tile(alphas, (len(rows), 1))
            loss[rows] = curves(t)
            off = np.take_along_axis(curves.anywhere, curves.cell(t), 1)
            for place, row in enumerate(rows):
                line = lines[row]
                assert line.estimate is not None
                least = _LEAST * self._share_of_points([line]) * line.estimate.tolerated
                error[row] = np.where(np.isin(alphas, line.x), 0.0, np.maximum(off[place], least))
                error[row] += np.interp(alphas, line.x, line.estimate.spread)
        for row, line in enumerate(lines):
            if line.estimate is None:  # what is known, and nothing between
                at = np.searchsorted(line.x, alphas).clip(max=len(line.x) - 1)
                loss[row] = np.where(line.x[at] == alphas, line.y[at], np.nan)
        return {"loss": loss, "loss_error": error}

    def _columns(self, lines: Sequence[_Line]) -> dict[str, np.ndarray]:
        """What was found of each line."""
        nan = math.nan
        nothing = _Estimate(nan, nan, nan, nan, nan, nan, nan, np.zeros(0), np.zeros(0, dtype=bool))
        found, above = [line.estimate or nothing for line in lines], self.accuracy.above
        return {
            "barrier": np.array([each.barrier for each in found]),
            "barrier_low": np.array([each.low for each in found]),
            "barrier_high": np.array([each.high for each in found]),
            "peak": np.array([each.peak for each in found]),
            "points_used": np.array([len(line.x) for line in lines], dtype=np.int64),
            "samples_used": np.array([self.levels[line.level] for line in lines], dtype=np.int64),
            "reached": np.array([each.reached for each in found]),
            **(
                {"decision": np.array([each.decision(above) for each in found], dtype=object)}
                if above is not None
                else {}
            ),
        }

    def _referee(self, lines: Sequence[_Line], known: Sequence[Known]) -> None:
        """Raise `Unverified` unless the first samples have the plain module's own loss where networks are known; where
        all samples are used, `evaluate` looks at the whole loss.
        """
        if self.whole:
            return
        place = {line.number: line for line in lines}
        here = [each for each in known if each.coordinates[0] in place]
        groups = [[each] for each in here] if self.objective.backend == "plain" else [here] if here else []
        share, counts = self._share(0), self._counts[0]
        for group in groups:
            stack = in_order(stack_state_dicts([each.network for each in group]), self.objective.template)
            wanted = share.referee(stack)
            if isinstance(self.objective, PlainObjective) and self.objective.l2:
                wanted = wanted + self.objective.penalty(stack).to(wanted.device)
            for each, plain in zip(group, wanted.tolist(), strict=True):
                number, alpha = each.coordinates
                line = place[int(number)]
                assert line.rows is not None
                rows = line.rows[int(np.flatnonzero(line.x == alpha)[0])][: len(counts)]
                found = float(rows.sum(dtype=np.float64) / counts.sum())
                what = f"on {len(counts)} samples line {each.number} does not reproduce its own end"
                require_same(self.objective, found, plain, what, f"at alpha {alpha:g}")


def reached(result: Result) -> str:
    """In a line what lines that were measured to an accuracy reached, and from what."""
    said = result.about["accuracy"]
    of_one = said["lines"] == 1
    noun = "barrier" if said["quantity"] == "barrier" else "loss"

    def span(name: str) -> str:
        low, high = (said[name], said[name]) if of_one else said[name]
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    text = f"{noun} of {plural(said['lines'], 'line')}"
    if of_one:
        done = result.select(result.done)
        low, high = said["interval"]
        text = (
            f"barrier {said['barrier']:.4g} ({said['level']:.0%} interval {low:.4g} to {high:.4g}) at alpha "
            f"{done['peak'][0]:.3g}"
        )
    if said["above"] is not None:
        counts = ", ".join(f"{count} {name}" for name, count in said["decisions"].items())
        text += f": against the height {said['above']:g} {counts}, at most {1 - said['level']:.0%} of it wrong"
    elif said["tolerance"] is not None:
        share = f"tolerance {said['tolerance']:g} of the {'barrier' if noun == 'barrier' else 'range of losses'}"
        text += f": {share} " + ("" if said["reached"] == said["lines"] else "not ") + "reached"
        text += "" if of_one else f" on {said['reached']} of {said['lines']}"
    of_samples = "all" if said["all_samples"] else f"{span('samples')} of {said['of_samples']:,}"
    return f"{text}, from {span('points')} points on {of_samples} samples in {said['seconds']:.3g} s"


def _wanted(
    curves: Curves, goal: float, asked: Accuracy, share: float, *, exact: bool
) -> Float[np.ndarray, "line node"]:
    """Where further points are needed, NaN where none is: where a curve may be off, or above the highest point, by more
    than a share of what is tolerated, unless `exact` values decide what is asked.
    """
    there = curves.there[:, 1:]
    first, last = curves.y[:, 0], np.take_along_axis(curves.y, curves.there.sum(1)[:, None] - 1, 1)[:, 0]
    y = np.where(curves.there, curves.y, curves.y[:, :1])
    with np.errstate(invalid="ignore"):
        width = np.where(there, np.diff(curves.x), 0.0)
    values = np.where(there[..., None], curves.values, curves.y[:, :1, None])
    low, high = np.minimum(y.min(1), values.min((1, 2))), np.maximum(y.max(1), values.max((1, 2)))
    t = curves.places
    if asked.quantity == "loss":
        over, pick = (
            curves.anywhere - share * (goal * (high - low))[:, None],
            np.full(there.shape, t.shape[2] // 2),
        )
    else:
        x = np.where(curves.there, curves.x, 0.0)
        heights = np.where(curves.there, y - ((1 - x) * first[:, None] + x * last[:, None]), -np.inf)
        above = heights.max(1)
        rise = values - ((1 - t) * first[:, None, None] + t * last[:, None, None])
        tolerated = np.maximum(goal * above, asked.floor * (high - low))
        nodes = np.maximum(heights[:, :-1], heights[:, 1:])
        over = np.maximum(rise.max(2), nodes) + curves.error - above[:, None] - 2 * share * tolerated[:, None]
        if asked.above is not None and exact:
            highest = np.where(there, np.maximum(rise.max(2), nodes) + curves.error, -np.inf).max(1)
            over[(above > asked.above) | (highest < asked.above)] = 0.0
        pick = np.clip(rise.argmax(2), t.shape[2] // 8, t.shape[2] - 1 - t.shape[2] // 8)
    needed = there & (over > 0) & (width > _SHORTEST)
    found = np.where(needed, np.take_along_axis(t, pick[..., None], 2)[..., 0], np.nan)
    return np.asarray(found)
