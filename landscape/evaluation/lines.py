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
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from landscape.core.errors import plural
from landscape.core.interpolation import Curves, first_nodes
from landscape.core.intervals import CONFIDENCE, Nested, largest_of, spent, tilt
from landscape.engine.plain import AnyObjective
from landscape.evaluation.accuracy import LineAccuracy
from landscape.evaluation.samples import LOOSE, TIGHT, Samples
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.space.family import Family, Known

__all__ = ["Lines"]

#: Share of the tolerance that interpolation may take where samples take the rest, and where they leave no error; share
#: of that which the band has between points at least, however well they are met.
_INTERPOLATED, _ALONE, _LEAST = 0.2, 0.9, 0.6

#: Share of what samples may take of the tolerance that the band has at least where not all were read: of a small loss,
#: which few samples make, a part of them says too little of how far it may be off.
_LEAST_SAMPLED = 0.5

#: Share of what an interval may miss that goes to nodes wrongly held to be lower than the highest.
_RULED_OUT = 0.1

#: Points of a line, at most; length of a piece between two, at least; bytes of samples' losses that are kept.
_POINTS, _SHORTEST, _KEPT_BYTES = 257, 2.0**-30, 2**28

#: What is known of barriers and a height; half the width of an interval, as a share of how far from the height it is,
#: at which it probably does not hold it.
_DECISIONS, _DECIDED = ("above", "below", "open"), 0.7

#: Rises up to this share of the loss are rounding.
_ROUNDING = 1e-12

_log = logging.getLogger("landscape")


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


class Lines:
    """Finds the values of lines to an accuracy; what `evaluate` asks of a `Measuring`.

    Args:
        objective: The loss.
        accuracy: What is asked for.
        problem, compute: Whose loss it is, and how it is computed: the `sample_seed` decides the order of samples.
        total: Number of all lines, between which the budget is divided.
    """

    def __init__(
        self, objective: AnyObjective, accuracy: LineAccuracy, problem: Problem, compute: Compute, *, total: int
    ) -> None:
        self.accuracy, self.left = accuracy, total
        self.samples = Samples(objective, accuracy, problem, compute)

    # What `evaluate` asks for -----------------------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all samples are used at each point, so that points have the numbers of any walk."""
        return self.samples.whole

    @property
    def lines(self) -> int:
        """How many lines are measured together, at most."""
        return max(1, _KEPT_BYTES // (4 * 16 * self.samples.count)) if not self.whole else 2**14

    def asked(self) -> dict[str, Any]:
        """What was asked for, and what else decides the numbers."""
        asked = self.accuracy
        return {
            **self.samples.asked(asked),
            "floor": asked.floor if asked.quantity == "barrier" else None,
            "above": asked.above,
            "ends": "on all samples" if self.whole else "on the samples of their lines",
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
            "reached": int(columns["reached"][done].sum()),
            **(
                {"decisions": {name: int((decision == name).sum()) for name in _DECISIONS}}
                if self.accuracy.above is not None
                else {}
            ),
            "lines": int(done.sum()),
            **self.samples.used(),
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
            left = self.samples.started + self.accuracy.budget - time.monotonic()
            until = time.monotonic() + max(0.0, left) * len(numbers) / self.left
        self.knots = np.array([alpha for alpha, _ in family.knots])
        lines = self._begin(family, numbers)
        self._referee(lines, known)
        finite = [line for line in lines if np.isfinite(line.y).all()]
        if len(finite) < len(lines):
            _log.warning(
                "%s with losses that are not finite: nothing is interpolated", plural(len(lines) - len(finite), "line")
            )
        goal = self.accuracy.share or LOOSE
        while active := [line for line in finite if not line.finished]:
            self._refine(family, active, goal, until)
            self._look(family, active, goal, until)
            over = until is not None and time.monotonic() >= until
            for line in active:
                assert line.estimate is not None
                decided = self.accuracy.above is not None and line.estimate.decision(self.accuracy.above) != "open"
                line.finished = line.estimate.reached or decided or over
            if self.accuracy.share is None and not over and goal > TIGHT and all(line.finished for line in active):
                goal = max(goal / 2, TIGHT)
                for line in active:
                    line.finished = False
                continue
            self._grow(family, [line for line in active if not line.finished], until)
            tell(len(lines) - sum(not line.finished for line in finite))
        if self.accuracy.share is None:
            self._look(family, finite, goal, until, last=True)
        self.left -= len(numbers)
        return self._values(lines, alphas), self._columns(lines)

    # Points -----------------------------------------------------------------------------------------------------------

    def _begin(self, family: Family, numbers: Int[np.ndarray, " line"]) -> list[_Line]:
        """All lines with their first points and samples; raises `LandscapeError` where the budget is too short."""
        nodes = first_nodes(self.knots)
        places = [(int(number), float(alpha)) for number in numbers for alpha in nodes]
        found = self.samples.first(
            family,
            places,
            self.accuracy.budget,
            least=len(nodes),
            times=self.left / len(numbers),
            what=f"{len(nodes)} points on each of {plural(self.left, 'line')}",
            instead="walk fewer lines",
        )
        every = found.reshape(len(numbers), len(nodes), -1)
        lines = []
        for number, rows in zip(numbers, every, strict=True):
            lines.append(_Line(int(number), nodes, self.samples.means(rows, 0), None if self.whole else list(rows)))
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
            if not points or not self.samples.fits(points, range(max(line.level for line in active) + 1), until):
                return
            values = np.full(wanted.shape, np.nan)
            for level in sorted({line.level for line in active}):
                here = [row for row, line in enumerate(active) if line.level == level]
                place = [(row, column) for row in here for column in np.flatnonzero(np.isfinite(wanted[row]))]
                if not place:
                    continue
                alphas = [float(wanted[each]) for each in place]
                numbers = [active[row].number for row, _ in place]
                found = self.samples.losses(family, list(zip(numbers, alphas, strict=True)), range(level + 1))
                for row in here:
                    line, mine = active[row], [k for k, (other, _) in enumerate(place) if other == row]
                    if not mine:
                        continue
                    new = self.samples.means(found[mine], level)
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
        return self.samples.leaves_error([row for line in lines for row in line.rows or ()])

    def _nested(self, line: _Line) -> Nested:
        assert line.rows is not None
        return self.samples.nested(line.rows, line.level)

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
        tolerated = goal * spread_of_loss
        if self.accuracy.quantity == "barrier":
            tolerated = max(goal * float(peak[0]), self.accuracy.floor * spread_of_loss)
        band = np.where(band > 0, np.maximum(band, _LEAST_SAMPLED * (1 - _INTERPOLATED) * tolerated), 0.0)
        if self.accuracy.quantity == "loss":
            bent = float(cells.max())
            half = max(float((np.interp(t, x, band) + error).max()), float(band.max()))
        else:
            half, bent = (highest - max(lowest, 0.0)) / 2, bent / 2
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
            while level > line.level and not self.samples.fits(points, range(line.level + 1, level + 1), until):
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
                own = bisect.bisect_left(self.samples.levels, len(line.rows[node]))
                if own < level:
                    groups.setdefault((own, level), []).append((line, int(node)))
        grown = dict[int, _Line]()
        for (before, level), some in groups.items():
            levels = range(before + 1, level + 1)
            if not self.samples.fits(len(some), levels, until):
                continue
            found = self.samples.losses(family, [(line.number, float(line.x[node])) for line, node in some], levels)
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
        last = len(self.samples.levels) - 1
        if line.level == last or not self._sampled([line]):
            return line.level
        found = line.estimate
        enough = found.tolerated
        if self.accuracy.above is not None:
            enough = max(enough, _DECIDED * abs(found.barrier - self.accuracy.above))
        now, aim = found.half - found.interpolated, enough - found.interpolated
        if self.accuracy.share is not None:  # the next look is at another level
            now *= float(scipy.special.ndtri(spent(line.looks) / 2) / scipy.special.ndtri(spent(line.looks - 1) / 2))
        return self.samples.enough(line.level, now, aim)

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
            "samples_used": np.array([self.samples.levels[line.level] for line in lines], dtype=np.int64),
            "reached": np.array([each.reached for each in found]),
            **(
                {"decision": np.array([each.decision(above) for each in found], dtype=object)}
                if above is not None
                else {}
            ),
        }

    def _referee(self, lines: Sequence[_Line], known: Sequence[Known]) -> None:
        """Raise `Unverified` unless the first samples have the plain module's own loss at the ends."""
        place, found = {line.number: line for line in lines}, []
        for each in known:
            number, alpha = each.coordinates
            if (line := place.get(int(number))) is not None and line.rows is not None:
                rows = line.rows[int(np.flatnonzero(line.x == alpha)[0])]
                found.append((each, rows, f"line {each.number} does not reproduce its own end", f"at alpha {alpha:g}"))
        self.samples.referee(found)


def _wanted(
    curves: Curves, goal: float, asked: LineAccuracy, share: float, *, exact: bool
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
