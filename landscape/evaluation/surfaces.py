"""A plane to a stated accuracy: at which points the loss is evaluated, and on how many samples, is chosen for it.

It begins with some forty points and few samples. Where the surface through them (`landscape.core.scattered`) may be off
by more than its share of what is tolerated there are further points of the grid; then each point gets as many samples
as it needs. What is tolerated is a share of the range of the loss over the plane, the same everywhere.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int

from landscape.core.intervals import CONFIDENCE, largest_of, spent, tilt
from landscape.core.scattered import Scattered, first_nodes, spread_out
from landscape.engine.plain import AnyObjective
from landscape.evaluation.accuracy import PlaneAccuracy
from landscape.evaluation.samples import LOOSE, TIGHT, Samples
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.space.family import Family, Known

__all__ = ["Surface"]

#: Share of the tolerance that interpolation may take where samples take the rest, and where they leave no error; shares
#: of both that the band has at least, however well its points are met.
_INTERPOLATED, _ALONE, _LEAST, _LEAST_SAMPLED = 0.3, 0.9, 0.8, 0.5

#: Share of the grid's points from which on all of them are evaluated; points, at most, of a surface; further ones at a
#: time, at least, and as a share of those that there are; those evaluated together where nothing is interpolated.
_MOSTLY, _POINTS, _FURTHER, _MORE, _TOGETHER = 0.7, 2048, 12, 0.2, 64

#: Marks that are nearer than this to a point of the first ones stand in its place.
_NEAR = 0.02

#: Rounding of a loss, in units of its type's.
_ROUNDING = 16

_log = logging.getLogger("landscape")


class Surface:
    """Finds the loss over a plane to an accuracy; what `evaluate` asks of a `Measuring`.

    Args:
        objective: The loss.
        accuracy: What is asked for.
        problem, compute: Whose loss it is, and how it is computed: the `sample_seed` decides the order of samples.
        total: Number of points of the grid.
    """

    #: Known points are read on all samples; no row is found without the others.
    whole, lines = True, None

    def __init__(
        self, objective: AnyObjective, accuracy: PlaneAccuracy, problem: Problem, compute: Compute, *, total: int
    ) -> None:
        self.accuracy, self.total = accuracy, total
        self.samples = Samples(objective, accuracy, problem, compute)

    def asked(self) -> dict[str, Any]:
        """What was asked for, and what else decides the numbers."""
        return {**self.samples.asked(self.accuracy), "marks": "on all samples"}

    def said(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What was found, of all rows."""
        low, high, error = columns["loss_low"], columns["loss_high"], columns["loss_error_most"]
        return {
            **self.asked(),
            "interval": [float(np.fmin.reduce(low)), float(np.fmax.reduce(high))],
            "error": float(np.fmax.reduce(error)),
            "reached": bool(columns["reached"].all()),
            "points": int(columns["points_used"].sum()),
            "samples": int(columns["samples_used"].max()),
            "read": float(columns["samples_read"].sum()) / (self.samples.count * self.total),
            **self.samples.used(),
        }

    def __call__(
        self,
        family: Family,
        places: Float[np.ndarray, " y"],
        along: Float[np.ndarray, " x"],
        known: Sequence[Known],
        tell: Callable[[int], None],
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The loss over the plane, half the width of its band, where it was evaluated, and columns of rows."""
        plane = _Plane(self.accuracy, self.samples, family, places, along, known)
        goal, told = self.accuracy.share or LOOSE, 0
        while plane.refined(goal):
            plane.look(goal)
            if (near := int(plane.near.mean() * len(places))) > told and not plane.reached:
                tell(told := near)
            if plane.reached and self.accuracy.share is None and goal > TIGHT and not plane.over:
                goal = max(goal / 2, TIGHT)
            elif plane.reached or plane.over or not plane.grown(goal):
                break
        else:
            _log.warning("some losses are not finite: nothing is interpolated")
            plane.everywhere()
        return plane.values(), plane.columns()


class _Plane:
    """What is known of a plane: of the nodes, numbers of points of the grid row by row, the losses of their samples (of
    all of them the mean alone), so far for as many levels as `level` says; and what a look at it says.
    """

    def __init__(
        self,
        accuracy: PlaneAccuracy,
        samples: Samples,
        family: Family,
        places: Float[np.ndarray, " y"],
        along: Float[np.ndarray, " x"],
        known: Sequence[Known],
    ) -> None:
        self.accuracy, self.samples, self.family = accuracy, samples, family
        self.until = None if accuracy.budget is None else samples.started + accuracy.budget
        self.shape = len(places), len(along)
        self.points = [(float(y), float(x)) for y in places for x in along]
        y, x = ((axis - axis[0]) / np.ptp(axis) * 2 - 1 for axis in (places, along))
        self.grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        number = {point: k for k, point in enumerate(self.points)}
        self.marks = {number[each.coordinates]: each for each in known if each.coordinates in number}
        self.looks, self.caution, self.interpolated = 0, 1.0, True
        self.rounding = _ROUNDING * torch.finfo(samples.objective.dtype).eps
        self._begin()

    def _begin(self) -> None:
        """The first nodes: those of a grid, and the marks."""
        marks, first = np.array(list(self.marks), dtype=np.int64), first_nodes(*self.shape)
        away = np.hypot(*(self.grid[first][:, None] - self.grid[marks]).transpose(2, 0, 1))
        self.nodes = np.concatenate([marks, first[away.min(1, initial=np.inf) > _NEAR]])
        rows = self.samples.first(
            self.family,
            [self.points[k] for k in self.nodes],
            self.accuracy.budget,
            least=len(self.nodes),
            what=f"the first {len(self.nodes)} points of the plane",
            instead="take fewer samples",
        )
        self.rows, self.level = list(rows), np.zeros(len(rows), dtype=np.int64)
        self.samples.referee(
            [
                (each, row, f"the plane does not reproduce mark {each.number}", f"at x {x:g}, y {y:g}")
                for row, each in zip(self.rows, self.marks.values(), strict=False)
                for y, x in [each.coordinates]
            ]
        )
        self._fit()

    @property
    def over(self) -> bool:
        """Whether the time is."""
        return self.until is not None and time.monotonic() >= self.until

    @property
    def sampled(self) -> bool:
        """Whether samples leave an error."""
        return self.samples.leaves_error(self.rows)

    def _fit(self) -> None:
        """The surface through the nodes, what it says at the points of the grid, and how far it may be off there."""
        if self.samples.whole:
            self.y = np.array([float(row[0]) for row in self.rows])
        else:
            self.part = self.samples.nested(self.rows, int(self.level.max()))
            self.y = self.part.mean
        if not np.isfinite(self.y).all():
            self.interpolated = False
            return
        surface = Scattered(self.grid[self.nodes], self.y, self.caution)
        self.around, self.gaps = surface.around(self.grid)
        self.loss, self.error = surface(self.grid), surface.error(self.around, self.gaps)
        self.loss[self.nodes], self.error[self.nodes] = self.y, 0.0
        self.surface = surface

    def _tolerated(self, goal: float) -> float:
        """A share of the range of losses; what rounding leaves open at least."""
        return max(goal * float(np.ptp(self.loss)), self.rounding * float(np.abs(self.loss).max()))

    def _allowed(self, goal: float) -> Float[np.ndarray, " point"]:
        """How far interpolation may be off."""
        tolerated = self._tolerated(goal)
        if not self.sampled:
            return np.full(len(self.points), _ALONE * tolerated)
        left = _INTERPOLATED * tolerated
        return np.maximum(left, _ALONE * tolerated - self.band) if self.looks else np.full(len(self.points), left)

    def refined(self, goal: float) -> bool:
        """Add points until interpolation takes its share of what is tolerated, or there is no time; returns whether
        all losses are finite.
        """
        while self.interpolated and len(self.nodes) < len(self.points):
            allowed = self._allowed(goal)
            self.near = self.error <= allowed
            if self.near.all():
                break
            if len(self.nodes) > _MOSTLY * len(self.points):
                chosen = np.setdiff1d(np.arange(len(self.points)), self.nodes)
            elif len(self.nodes) < _POINTS:
                most = max(_FURTHER, int(_MORE * len(self.nodes)))
                chosen = spread_out(self.error, self.grid, self.gaps, allowed, most)
            else:
                break
            if not self._add(chosen):
                break
        self.near = self.error <= self._allowed(goal) if self.interpolated else np.zeros(len(self.points), dtype=bool)
        return self.interpolated

    def _add(self, chosen: Int[np.ndarray, " point"]) -> bool:
        """Further nodes, each on as many samples as the nearest one, if there is time."""
        level = self.level[self.around[chosen, 0]]
        if not self.samples.fits(len(chosen), range(int(level.max()) + 1), self.until):
            return False
        rows = [np.zeros(0)] * len(chosen)
        for each in np.unique(level):
            here = np.flatnonzero(level == each)
            found = self.samples.losses(self.family, [self.points[chosen[k]] for k in here], range(each + 1))
            for k, row in zip(here, found, strict=True):
                rows[k] = row
        before, predicted, error = len(self.nodes), self.loss[chosen], self.error[chosen]
        self.nodes, self.level = np.append(self.nodes, chosen), np.append(self.level, level)
        self.rows += rows
        surface = self.surface
        self._fit()
        if self.interpolated:
            self.caution = surface.cautious(predicted, error, self.y[before:])
            self.error *= self.caution / self.surface.caution
        return True

    def look(self, goal: float) -> None:
        """How wide the band is, for all points at once: of samples at nodes, and at points of the grid that of those
        around them; and with what interpolation adds.
        """
        tolerated = self._tolerated(goal)
        alone = self.accuracy.share is None or self.samples.whole
        tail = 1 - CONFIDENCE if alone else spent(self.looks)
        self.looks += 1
        spread, share = np.zeros(len(self.nodes)), _ALONE
        if self.sampled:
            share = _INTERPOLATED
            heavier = scipy.special.stdtrit(self.part.freedom, 1 - tail / 2) / scipy.special.ndtri(1 - tail / 2)
            reach = float(heavier) * largest_of(self.part.covariance, tail, sides=2)
            skewed = np.abs(tilt(self.part.skewness(np.eye(len(self.nodes))), reach))
            spread = (reach + skewed) * np.sqrt(np.maximum(np.diag(self.part.covariance), 0))
            # The spread of few samples, rarely of which one counts, may look smaller than it is.
            spread = np.maximum(spread, _LEAST_SAMPLED * (1 - share) * tolerated)
        self.spread = spread
        self.band = spread[self.around].max(1)
        self.band[self.nodes] = spread
        least = np.where(self.gaps > 0, _LEAST * share * tolerated, 0.0)
        self.half = self.band + np.maximum(self.error, least)
        self.tolerated = tolerated

    @property
    def reached(self) -> bool:
        """Whether the band is as narrow as was asked for."""
        return bool((self.half <= self.tolerated).all())

    def grown(self, goal: float) -> bool:
        """Give nodes the samples that they need, if there are more and there is time; returns whether any got some."""
        if not self.sampled:
            return False
        aim = (1 - _INTERPOLATED) * self._tolerated(goal)
        later = 1.0
        if self.accuracy.share is not None:  # the next look is at another level
            later = float(scipy.special.ndtri(spent(self.looks) / 2) / scipy.special.ndtri(spent(self.looks - 1) / 2))
        wanted, last = self.level.copy(), len(self.samples.levels) - 1
        for k in np.flatnonzero((self.spread > aim) & (self.level < last)):
            wanted[k] = self.samples.enough(int(self.level[k]), later * self.spread[k], aim)
        some = False
        for before, after in sorted(set(zip(self.level.tolist(), wanted.tolist(), strict=True))):
            here, levels = np.flatnonzero((self.level == before) & (wanted == after)), range(before + 1, after + 1)
            if before == after or not self.samples.fits(len(here), levels, self.until):
                continue
            found = self.samples.losses(self.family, [self.points[self.nodes[k]] for k in here], levels)
            for k, row in zip(here, found, strict=True):
                self.rows[k], some = np.append(self.rows[k], row), True
            self.level[here] = after
        if some:
            self._fit()
        return some

    def everywhere(self) -> None:
        """All points on all samples, as far as there is time: a loss that is not finite has no surface through it."""
        levels, count = range(len(self.samples.levels)), len(self.points)
        self.loss, self.half, self.tolerated = np.full(count, np.nan), np.full(count, np.nan), np.inf
        self.nodes = np.zeros(0, dtype=np.int64)
        for some in np.array_split(np.arange(count), -(-count // _TOGETHER)):
            if not self.samples.fits(len(some), levels, self.until):
                break
            rows = self.samples.losses(self.family, [self.points[k] for k in some], levels)
            self.loss[some], self.half[some] = self.samples.means(rows, levels[-1]), 0.0
            self.nodes = np.append(self.nodes, some)
        self.level = np.full(len(self.nodes), levels[-1])

    def _read_marks(self) -> None:
        """The loss at marks on all samples."""
        last = len(self.samples.levels) - 1
        for k, mark in enumerate(self.marks):
            rest = range(int(self.level[k]) + 1, last + 1)
            row = self.rows[k]
            if rest:
                row = np.append(row, self.samples.losses(self.family, [self.points[mark]], rest)[0])
            self.loss[mark] = self.samples.means(row[None], last)[0]
            if not self.samples.population:
                self.half[mark] = 0.0

    def values(self) -> dict[str, np.ndarray]:
        """The loss at the points of the grid, half the width of its band, and whether it was evaluated there."""
        if self.interpolated:
            self._read_marks()
        evaluated = np.zeros(len(self.points), dtype=bool)
        evaluated[self.nodes] = True
        found = {"loss": self.loss, "loss_error": self.half, "evaluated": evaluated}
        return {name: each.reshape(self.shape) for name, each in found.items()}

    def columns(self) -> dict[str, np.ndarray]:
        """What was found of each row."""
        low, high, half = (
            each.reshape(self.shape) for each in (self.loss - self.half, self.loss + self.half, self.half)
        )
        used = np.zeros(len(self.points), dtype=np.int64)
        used[self.nodes] = np.array(self.samples.levels)[self.level]
        used = used.reshape(self.shape)
        return {
            "loss_low": np.fmin.reduce(low, 1),
            "loss_high": np.fmax.reduce(high, 1),
            "loss_error_most": np.fmax.reduce(half, 1),
            "points_used": (used > 0).sum(1),
            "samples_used": used.max(1),
            "samples_read": used.sum(1),
            "reached": (half <= self.tolerated).all(1),
        }
