"""The loss at points on a growing part of the samples, drawn without replacement class by class, and what it takes.

The number of interest is that over the whole data set, or over the distribution behind it. All points see the first of
the same samples, and only as many as they need.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from landscape.core import philox
from landscape.core.errors import LandscapeError, Unsupported, few
from landscape.core.intervals import CONFIDENCE, Nested, Stratified
from landscape.engine.objective import Objective, Share
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import in_order, stack_state_dicts
from landscape.evaluation.accuracy import Accuracy
from landscape.evaluation.evaluate import require_same
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.supervised import Supervised
from landscape.space.family import Family, Known

__all__ = ["LOOSE", "TIGHT", "Samples"]

#: Samples up to which all are taken at once, and so many times parameters, up to which a part of the samples takes
#: about as long as all; of more so many at first, at least and at most.
_FEW, _CHEAP, _FIRST, _MOST_FIRST = 1000, 2**24, 256, 4096

#: Without a tolerance, within a budget: the first that is tried, and the last.
LOOSE, TIGHT = 0.5, 1e-4

#: Share of all samples from which on all are taken, which leaves no error of theirs; of a class the samples at first
#: that make it a stratum.
_MOSTLY, _STRATUM = 0.75, 4

#: Bytes of samples' losses that are made at once.
_BYTES = 2**26

#: Stream of random numbers: the order of samples.
_ORDER = 2**17 + 4

_log = logging.getLogger("landscape")


class Samples:
    """Reads the loss at points of a family on the samples of levels 0, 1, ..., each of which adds to those before it.

    Args:
        objective: The loss.
        accuracy: What is asked for.
        problem, compute: Whose loss it is, and how it is computed: the `sample_seed` decides the order of samples.
    """

    def __init__(self, objective: AnyObjective, accuracy: Accuracy, problem: Problem, compute: Compute) -> None:
        self.started = time.monotonic()
        self.objective: AnyObjective = objective
        if isinstance(objective, PlainObjective) and objective.further:  # metrics of test data are not asked for
            self.objective = dataclasses.replace(objective, further=())
        sampling = objective.sampling if not compute.draws else None
        if compute.samples is not None and isinstance(problem, Supervised):
            raise Unsupported("`tolerance` chooses how many samples there are: leave `samples` out")
        drawn = sampling is not None and not isinstance(problem, Supervised)
        #: Whether intervals are of the distribution behind the data.
        self.population = sampling is not None and (accuracy.population or drawn)
        if accuracy.population and sampling is None:
            raise Unsupported(
                "`population` is of samples that are drawn, and this loss is exact, or no average over samples in "
                "memory: leave it out"
            )
        self.count = objective.samples
        small = self.count < _FEW or self.count * objective.template.parameters <= _CHEAP
        self._sampling = sampling if self.population or not small else None
        #: Why all samples are used at each point although fewer might do.
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
        #: How many samples there are at each level.
        self.levels = [self.count]
        self._shares: list[Share] = []
        self._counts: list[np.ndarray] = []
        self._stratum, self._sizes = np.zeros(self.count, dtype=np.int64), np.array([self.count])
        if self._sampling is not None:
            self._order_samples(compute.sample_seed, accuracy)
        #: Of each point the statistics of BatchNorm, and what else belongs to it whatever samples are read.
        self._anew: dict[tuple[float, float], dict[str, torch.Tensor]] = {}
        #: Seconds, and samples that were read in them at all points.
        self._seconds, self._work = 0.0, 0.0
        names = objective.metrics if isinstance(objective, Objective) else objective.names()
        self._others = [name for name in names if name != "loss"]

    @property
    def whole(self) -> bool:
        """Whether all samples are used at each point, so that points have the numbers of any walk."""
        return self._sampling is None

    def leaves_error(self, rows: Sequence[np.ndarray]) -> bool:
        """Whether the samples of some points leave an error."""
        return not self.whole and (self.population or any(len(row) < self.count for row in rows))

    def asked(self, accuracy: Accuracy) -> dict[str, Any]:
        """What was asked for, and what else decides the numbers."""
        return {
            "quantity": accuracy.quantity,
            "tolerance": accuracy.share,
            "level": CONFIDENCE,
            "population": self.population,
            "budget": accuracy.budget,
            "all_samples": self.whole,
            **({"reason": self.reason} if self.reason else {}),
        }

    def used(self) -> dict[str, Any]:
        """Of how many samples in which precision, and in how much time, values were found."""
        return {
            "of_samples": self.count,
            "precision": str(self.objective.autocast or self.objective.dtype).removeprefix("torch."),
            "seconds": round(time.monotonic() - self.started, 3),
        }

    def first(
        self,
        family: Family,
        places: Sequence[tuple[float, float]],
        budget: float | None,
        *,
        least: int,
        times: float = 1.0,
        what: str,
        instead: str,
    ) -> np.ndarray:
        """The losses of the first points, `least` of them at least, that all work needs so many `times`; raises
        `LandscapeError`, saying `what` takes too long and what to do `instead`, where the budget is too short for it.
        What is kept of other points is forgotten. That no other metrics are found is said, once.
        """
        self._anew.clear()
        if budget is None or self._work:
            found = self.losses(family, places, [0])
        else:
            one = self.losses(family, places[:1], [0])
            if self._seconds > budget:
                raise LandscapeError(
                    f"one point takes {self._seconds:.2g} s, and `budget` is {budget:g} s: give more, at least {least} "
                    "times that"
                )
            started = time.monotonic()
            found = np.concatenate([one, self.losses(family, places[1:], [0])])
            took = (time.monotonic() - started) * times
            if took > 2 * budget:
                raise LandscapeError(f"{what} take {took:.2g} s, and `budget` is {budget:g} s: give more, or {instead}")
        if self._others:
            _log.warning("the loss alone is found to an accuracy, without other metrics: %s", few(self._others))
            self._others = []
        return found

    def losses(
        self, family: Family, places: Sequence[tuple[float, float]], levels: Sequence[int]
    ) -> Float[np.ndarray, "point value"]:
        """At points the losses of the samples that some levels add, or the mean of all."""
        device, started = self.objective.device, time.monotonic()
        first = torch.as_tensor(np.array([each[0] for each in places]), device=device)
        second = torch.as_tensor(np.array([each[1] for each in places], dtype=np.float64), device=device)
        if self._sampling is None:
            found = self.objective(family.points(first, second))["loss"].cpu().numpy()[:, None]
        else:
            parts = []
            for level in levels:
                share, most = self._share(level), max(1, _BYTES // (8 * self.size_of([level])))
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
        self._work += len(first) * self.size_of(levels)
        return found

    def size_of(self, levels: Sequence[int]) -> int:
        """How many samples some levels add."""
        return sum(self.levels[k] - (self.levels[k - 1] if k else 0) for k in levels)

    def fits(self, points: int, levels: Sequence[int], until: float | None) -> bool:
        """Whether there is time for that."""
        if until is None:
            return True
        return time.monotonic() + points * self.size_of(levels) * self._seconds / self._work <= until

    def nested(self, rows: Sequence[np.ndarray], level: int) -> Nested:
        """The means of points with as many samples as they have, those of a level at most."""
        counts, count = np.concatenate(self._counts[: level + 1]), self.levels[level]
        return Nested(rows, counts, self._stratum[:count], self._sizes, self.population)

    def means(self, rows: np.ndarray, level: int) -> Float[np.ndarray, " node"]:
        """The loss at points that have the samples of a level."""
        if self.whole:
            return rows[:, 0].astype(np.float64)
        counts, count = np.concatenate(self._counts[: level + 1]), self.levels[level]
        return Stratified(rows.astype(np.float64), counts, self._stratum[:count], self._sizes).mean

    def enough(self, level: int, now: float, aim: float) -> int:
        """The level whose samples make half the width of an interval, which is `now` that of a `level`, what it is to
        be: as errors of means go, of samples without replacement.
        """
        last, n = len(self.levels) - 1, self.levels[level]
        whole, need = 0.0 if self.population else 1 / self.count, self.count
        if aim > 0 and now > 0:
            need = math.ceil(1.1 / ((aim / now) ** 2 * (1 / n - whole) + whole))
        return next((k for k in range(level + 1, last) if self.levels[k] >= need), last)

    def referee(self, known: Sequence[tuple[Known, np.ndarray, str, str]]) -> None:
        """Raise `Unverified` unless the first samples have the plain module's own loss at networks that are known, of
        each of which there are its rows, and in words what they are and where. Where all samples are used, `evaluate`
        looks at the whole loss.
        """
        if self.whole or not known:
            return
        groups = [[each] for each in known] if self.objective.backend == "plain" else [list(known)]
        share, counts = self._share(0), self._counts[0]
        for group in groups:
            stack = in_order(stack_state_dicts([each.network for each, *_ in group]), self.objective.template)
            wanted = share.referee(stack)
            if isinstance(self.objective, PlainObjective) and self.objective.l2:
                wanted = wanted + self.objective.penalty(stack).to(wanted.device)
            for (_, rows, what, where), plain in zip(group, wanted.tolist(), strict=True):
                found = float(rows[: len(counts)].sum(dtype=np.float64) / counts.sum())
                require_same(self.objective, found, plain, f"on {len(counts)} samples {what}", where)

    def _order_samples(self, seed: int, accuracy: Accuracy) -> None:
        """The order in which samples are taken: any first part of it has its share of each class. And how many are
        taken at the levels: half as many again, or a third, until all.
        """
        assert self._sampling is not None
        tolerated = accuracy.share or LOOSE
        first = _FIRST if accuracy.decides else int(np.clip(0.5 / tolerated**2, _FIRST, _MOST_FIRST))
        if 2 * first > self.count or (self.count < _FEW):
            first = self.count
        self.levels, size = [], first
        while size < _MOSTLY * self.count:
            self.levels.append(-(-size // 32) * 32)
            size = first * 2 ** (len(self.levels) // 2) * (3 if len(self.levels) % 2 else 2) // 2
        self.levels.append(self.count)
        if self._sampling.drawn:
            self._order = np.arange(self.count)
            return
        draws = philox.words(torch.tensor([seed]), stream=_ORDER, step=0, count=self.count)[0].numpy()
        classes = np.zeros(self.count, dtype=np.int64)
        if self._sampling.classes is not None:
            _, classes = np.unique(self._sampling.classes.cpu().numpy(), return_inverse=True)
            sizes = np.bincount(classes)
            small = sizes * (self.levels[0] / self.count) < _STRATUM
            if sizes[small].sum() * (self.levels[0] / self.count) < _STRATUM and small.any():
                small[np.argsort(sizes)[: int(small.sum()) + 1]] = True
            classes = np.where(small[classes], len(sizes), classes)  # rare ones are one stratum
            _, classes = np.unique(classes, return_inverse=True)
        self._sizes = np.bincount(classes)
        by_class = np.lexsort([draws, classes])
        rank = np.empty(self.count)
        rank[by_class] = np.concatenate([(np.arange(size) + 0.5) / size for size in self._sizes])
        self._order = np.lexsort([draws, rank])
        self._stratum = classes[self._order]

    def _share(self, level: int) -> Share:
        """The samples that a level adds to those before it."""
        assert self._sampling is not None
        while len(self._shares) <= level:
            begin = self.levels[len(self._shares) - 1] if self._shares else 0
            index = torch.as_tensor(self._order[begin : self.levels[len(self._shares)]], device=self.objective.device)
            self._shares.append(self._sampling.share(index))
        return self._shares[level]
