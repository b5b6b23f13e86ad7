"""`landscape.connect`: the lowest path that is found between two points, an upper bound of the pass between them.

Several ways are tried on one budget of gradient evaluations: the straight line, Bézier curves of several degrees from
several starts, and a polyline through what they led to, whose top is lowered, with one more vertex where it is highest.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.fields import LAST_SEED, Field, check, option, require
from landscape.core.files import differences, digest, is_there, refuse_existing
from landscape.core.locks import lock_of, writing
from landscape.core.notebook import Listener, listening_to
from landscape.core.provenance import Source
from landscape.core.resources import paced, require_memory
from landscape.core.unfinished import Progress
from landscape.engine.hessian import alone
from landscape.engine.memory import keep_freed_memory
from landscape.engine.objective import BatchNorm
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import fingerprint
from landscape.evaluation import bottleneck
from landscape.evaluation.bending import OFF_LINE, Bending, Emphasis, State, begin, controls, train
from landscape.evaluation.certify import Certifying, certified
from landscape.evaluation.evaluate import computation
from landscape.evaluation.refine import require_smooth, saddles
from landscape.evaluation.routes import Lines, Order, Pairs, Prepared, Route, along, prepare
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place, held
from landscape.space.family import Family, bent, grid, polyline
from landscape.store.checkpoints import read_tensors, write_stack, write_tensors
from landscape.store.results import Result, target

__all__ = ["Connecting", "bend_files", "connect"]

_log = logging.getLogger("landscape")

#: Gradient evaluations for each line, all tries together.
_BUDGET = 8000

#: What is tried first: bends of Bézier curves, how far beside the line they begin, as a share of its length, and
#: learning rates. The first seed is the user's, further ones follow. The last is trained for its mean, by steps that do
#: not throw it off where the loss hardly rises along the line.
_TRIES = ((3, OFF_LINE, 3e-2), (3, 0.3, 3e-2), (5, 0.3, 3e-2), (1, OFF_LINE, 3e-2), (1, OFF_LINE, 1e-3))

#: Gradients from which on several tries are worth their shares; fewer go to one curve.
_SEVERAL = 1600

#: From so many gradients on it is said how many there will be.
_LONG = 10_000_000

#: Shares of the budget for these tries, for going on with the best of a line, and for lowering the top of a polyline;
#: alphas of a step, the learning rate of the last, and how sharply the top counts, from one stage to the next.
_SHARES, _ALPHAS, _RATE, _SHARPNESS = (0.4, 0.25, 0.35), (8, 8, 16), 1e-2, (1.0, 5.0, 20.0, 40.0)

#: Vertices of the polyline before and after one is put in where it is highest. Corners are at eighths in the end.
_VERTICES, _MOST_VERTICES = 6, 7

#: Points by which tries are compared, and points whose parameters are made at once.
_COARSE, _AT_ONCE = 101, 2**17

#: Copies of bends while they are trained: they, their gradient, two moments and the lowest so far; and bytes of a
#: point of a path: what is found there, and on the straight line.
_COPIES, _POINT_BYTES = 5, 64

#: Where a path through networks with one answer has its corners, and how far losses between may differ by rounding.
_CORNERS, _ROUNDING = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64), 1e-5

#: Streams of data: a curve is chosen on other samples than it is reported on, of which the seed is this far away.
_SEARCH_SEED = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connecting:
    """How paths are sought; raises `LandscapeError` for options that do not go together.

    What is for one training, `bends`, `steps`, `lr` and `samples_per_step`, is None with the method auto, as is
    `budget` with the others.
    """

    method: Literal["auto", "bezier", "polyline"] = option(
        "auto",
        "Try several ways within `budget`, and keep the lowest path, of the straight line too; or train one Bézier "
        "curve, or one polyline, to a low mean of the loss.",
    )
    budget: int | None = option(
        None,
        f"With the method auto: gradient evaluations for each line, all tries together. [default: {_BUDGET}]",
        at_least=400,
    )
    bends: int | None = option(None, "Of one curve: points that are trained. [default: 1]", at_least=1, at_most=100)
    steps: int | None = option(None, "Of one curve: steps of Adam. [default: 1000]", at_least=0)
    lr: float | None = option(None, "Of one curve: learning rate. [default: 0.01]", above=0)
    samples_per_step: int | None = option(
        None,
        "Of one curve: points at which the gradient is taken in a step. [default: 8]",
        at_least=1,
        at_most=1_000_000,
    )
    seed: int = option(0, "Seed of these points, and of where bends begin.", syntax="seed")
    refine: bool = option(
        False,
        "From the highest point of each path go to the saddle nearby, up along the path's direction and down along all "
        "others; for smooth activations, and networks of up to 400 parameters.",
    )

    def __post_init__(self) -> None:
        check(self)
        single = {name: getattr(self, name) for name in ("bends", "steps", "lr", "samples_per_step")}
        if self.method != "auto":
            if self.budget is not None:
                raise LandscapeError("`budget` is for the method auto: one curve takes `steps` x `samples_per_step`")
            for name, value in single.items():
                object.__setattr__(self, name, getattr(Bending, name) if value is None else value)
            return
        if given := [name for name, value in single.items() if value is not None]:
            raise LandscapeError(f'`{given[0]}` is for one curve: choose `method="bezier"`, or leave it out')
        object.__setattr__(self, "budget", _BUDGET if self.budget is None else self.budget)

    @property
    def one(self) -> Bending:
        """The training of one curve."""
        assert self.method != "auto"
        single = {name: getattr(self, name) for name in ("bends", "steps", "lr", "samples_per_step", "seed")}
        return Bending(kind=self.method, **single)

    @property
    def most_bends(self) -> int:
        """Bends that a path has at most."""
        return _MOST_VERTICES if self.method == "auto" else self.one.bends

    @property
    def name(self) -> str:
        """The method as part of a file's name."""
        return "auto" if self.method == "auto" else f"{self.method}-{self.bends}"


@dataclasses.dataclass(eq=False)
class _Log:
    """The trainings of a search that are finished, in order, and the state of the one that is not."""

    done: list[Float[Tensor, "row parameter"]] = dataclasses.field(default_factory=list)
    state: State | None = None


class _Search:
    """A search for low paths along some lines, and the lowest so far of each line: its bends in `rows`, [bend, line,
    parameter], how many `bends` they are, whether they are those of a Bézier curve (`curved`) or lead through a network
    with one answer (`level`), its `height`, which is the highest loss on it; and what it has cost, in `gradients` and
    `evaluations` of the loss.
    """

    def __init__(
        self,
        objective: AnyObjective,
        lines: Family,
        alphas: Float[np.ndarray, " alpha"],
        connecting: Connecting,
        *,
        measured: bool,
        straight_pieces: bool,
        log: _Log,
        on_progress: Progress,
    ) -> None:
        if not isinstance(objective, PlainObjective):  # nothing else is asked for
            objective = dataclasses.replace(objective, metrics={"loss": objective.metrics["loss"]})
        self.objective, self.lines, self.connecting = objective, lines, connecting
        self.measured, self.straight_pieces, self.log, self.on_progress = measured, straight_pieces, log, on_progress
        device = lines.rows.device
        self.every = torch.arange(len(lines), device=device)
        self.fine = torch.from_numpy(alphas[(alphas >= 0) & (alphas <= 1)]).to(device)
        few = torch.linspace(0, len(self.fine) - 1, min(_COARSE, len(self.fine)), device=device)
        self.coarse = self.fine[few.round().long()]
        self.gradients, self.evaluations, self.bends = (torch.zeros_like(self.every) for _ in range(3))
        self.curved, self.level = (torch.zeros_like(self.every, dtype=torch.bool) for _ in range(2))
        end = lines.stack(1).flatten()
        self.rows = end.expand(connecting.most_bends, *end.shape).clone()
        self.height = torch.full((len(lines),), torch.inf, dtype=torch.float64, device=device)
        self.trainings = self.steps = self.total = 0

    def run(self) -> None:
        """Find paths. Interrupted it raises `KeyboardInterrupt`, and what was lowest by then is there."""
        if self.connecting.method != "auto":
            self._one(self.connecting.one)
            return
        losses = self._losses(self.every, self.lines, self.coarse)
        self.height, self.ends = losses.amax(1), losses[:, [0, -1]].amax(1)
        self._look_closely(self.height == self.ends)
        left = (self.connecting.budget or 0) - bottleneck.MOST_GRADIENTS
        if left < _SEVERAL - bottleneck.MOST_GRADIENTS:
            self._plain(left // _ALPHAS[0])
            return
        spent = [share * left / alphas for share, alphas in zip(_SHARES, _ALPHAS, strict=True)]
        first, second, third = (max(1, int(steps)) for steps in (spent[0] / len(_TRIES), spent[1], spent[2] / 2))
        self.total = len(_TRIES) * (first + second) + 2 * third
        self._answer(self._open(self.every))
        if len(open_ := self._open(self.every)):
            curves = self._go_on(open_, self._try(open_, first), second)
            still = self.height[open_] > self.ends[open_]
            if still.any():
                self._lower(open_[still], curves[:, still], third)
            self._look_closely((self.bends == 0) & (self.height > self.ends))

    def _plain(self, steps: int) -> None:
        """With few gradients: the straight line, one through networks with one answer, and one curve for its mean."""
        self.total = steps
        self._answer(self._open(self.every))
        if len(which := self._open(self.every)):
            kind: Literal["bezier", "polyline"] = "polyline" if self.straight_pieces else "bezier"
            bending = Bending(kind=kind, steps=steps, lr=_RATE, samples_per_step=_ALPHAS[0], seed=self.connecting.seed)
            rows = self._trained(which, bending, begin(self._some(which), bending), Emphasis())
            self._keep(which, bending, rows, self._highest(which, self._family(which, bending, rows), self.fine))
        self._look_closely((self.bends == 0) & (self.height > self.ends))

    def _look_closely(self, straight: Bool[Tensor, " line"]) -> None:
        """Measure these lines, of which few points are known, at all."""
        which = self.every[straight]
        if len(which):
            self.height[which] = self._highest(which, self._some(which), self.fine)

    def methods(self) -> list[str]:
        """How each path was found."""
        kinds = zip(self.bends.tolist(), self.curved.tolist(), self.level.tolist(), strict=True)
        return [
            "one answer" if level else f"{'bezier' if curved else 'polyline'} {bends}" if bends else "straight"
            for bends, curved, level in kinds
        ]

    def _one(self, bending: Bending) -> None:
        """Train one curve, which is then the path whatever its height."""
        self.total = bending.steps
        begun = begin(self.lines, bending)
        try:
            rows = self._trained(self.every, bending, begun, Emphasis())
        except KeyboardInterrupt:
            if (state := self.log.state) is not None and state.step:
                self._keep(self.every, bending, state.rows, torch.zeros_like(self.height))
            raise
        if not (finite := rows.isfinite().all(1).view(bending.bends, -1).all(0)).all():
            raise LandscapeError(
                f"the bends of {int((~finite).sum())} of {len(finite)} lines have become NaN or infinite: lower `lr`"
            )
        heights = torch.zeros_like(self.height)
        if self.measured:
            heights = self._highest(self.every, self._family(self.every, bending, rows), self.fine)
        self._keep(self.every, bending, rows, heights.clamp(max=torch.finfo(heights.dtype).max))

    def _answer(self, which: Int[Tensor, " some"]) -> None:
        """Lead lines through networks with one answer, where a layer of zeros makes such: there alone the loss does not
        change from one end's other parameters to the other's.
        """
        bending = Bending(kind="polyline", bends=2)
        for layer in bottleneck.candidates(self.objective.module, self.lines.vertices[0]):
            if not len(which):
                break
            family = self._family(which, bending, self._through(which, layer, {}))
            own = which[_level(self._losses(which, family, _CORNERS.to(which.device)))]
            if not len(own):
                continue
            answer, taken = bottleneck.fitted(alone(self.objective), self._some(own[:1]).stack(0), layer)
            self.gradients[own] += taken
            rows = self._through(own, layer, answer)
            losses = self._losses(own, self._family(own, bending, rows), self.fine)
            flat = _level(losses[:, (self.fine >= _CORNERS[0]) & (self.fine <= _CORNERS[1])])
            self._keep(own, bending, rows, losses.amax(1).where(flat, torch.inf), level=True)
            which = which[~torch.isin(which, own)]

    def _through(self, which: Int[Tensor, " some"], layer: bottleneck.Layer, answer: dict[str, Tensor]) -> Tensor:
        """The ends of some lines with one answer, as bends."""
        ends = (self._some(which).stack(vertex) for vertex in (0, 1))
        return torch.cat([bottleneck.answering(end, layer, answer).flatten() for end in ends])

    def _open(self, which: Int[Tensor, " some"]) -> Int[Tensor, " open"]:
        """Of some lines those on whose path the loss rises above both ends."""
        return which[self.height[which] > self.ends[which]]

    def _try(self, which: Int[Tensor, " some"], steps: int) -> list[tuple[Bending, Tensor, Tensor]]:
        """Short trainings of curves of several degrees, each from a start of its own: with their bends and heights."""
        found = []
        for number, (bends, aside, rate) in enumerate(_TRIES):
            bending = self._bending("bezier", bends, steps, 0, number, rate)
            plain = number == len(_TRIES) - 1
            begun = begin(self._some(which), bending, aside)
            rows = self._trained(which, bending, begun, Emphasis() if plain else self._emphasis(0, which))
            found.append((bending, rows, self._heights(which, bending, rows)))
        return found

    def _go_on(
        self, which: Int[Tensor, " some"], tries: Sequence[tuple[Bending, Tensor, Tensor]], steps: int
    ) -> Float[Tensor, "vertex some parameter"]:
        """Train the best try of each line further; points of its curve, evenly spaced in alpha."""
        best = torch.stack([heights for *_, heights in tries]).argmin(0)
        vertices = self.rows[:_VERTICES, which].clone()
        for number, (tried, rows, heights) in enumerate(tries):
            here = (best == number).nonzero()[:, 0]
            if not len(here):
                self._skip(steps)
                continue
            own, bending = which[here], self._bending("bezier", tried.bends, steps, 1, len(_TRIES), tried.lr)
            begun = rows.view(tried.bends, len(which), -1)[:, here].flatten(0, 1)
            self._offer(own, bending, begun, heights[here])
            found = self._better(own, bending, begun, self._emphasis(1, own), heights[here])
            family = self._family(own, bending, found)
            for vertex in range(_VERTICES):
                alpha = torch.full_like(here, (vertex + 1) / (_VERTICES + 1), dtype=torch.float64)
                vertices[vertex, here] = family.at(torch.arange(len(here), device=here.device), alpha).flatten()
        return vertices

    def _better(
        self, which: Int[Tensor, " some"], bending: Bending, begun: Tensor, emphasis: Emphasis, before: Tensor
    ) -> Tensor:
        """Bends after a training; where their path is higher than it was before, those that it began with."""
        found = self._trained(which, bending, begun, emphasis)
        heights = self._heights(which, bending, found)
        self._offer(which, bending, found, heights)
        return torch.where((heights > before).repeat(bending.bends)[:, None], begun, found)

    def _lower(self, which: Int[Tensor, " some"], vertices: Float[Tensor, "vertex some parameter"], steps: int) -> None:
        """Lower the top of polylines, and again with one more vertex where they are highest."""
        for number in (_VERTICES, _MOST_VERTICES):
            bending = self._bending("polyline", number, steps, 2, number, _RATE)
            if number > len(vertices):
                vertices = self._with_vertex(which, vertices)
            rows = vertices.flatten(0, 1)
            before = self._heights(which, bending, rows)
            rows = self._better(which, bending, rows, self._emphasis(2, which), before)
            vertices = rows.view(number, len(which), -1)

    def _with_vertex(
        self, which: Int[Tensor, " some"], vertices: Float[Tensor, "vertex some parameter"]
    ) -> Float[Tensor, "more some parameter"]:
        """The same polylines with one vertex more, where they are highest between the ends."""
        count = len(vertices)
        family = self._family(which, Bending(kind="polyline", bends=count), vertices.flatten(0, 1))
        alpha = self.coarse[1:-1][self._losses(which, family, self.coarse[1:-1]).argmax(1)]
        segment = (alpha * (count + 1)).long()[:, None]
        new = family.at(torch.arange(len(which), device=which.device), alpha).flatten()
        places = [
            torch.where(segment > k, vertices[min(k, count - 1)], torch.where(segment == k, new, vertices[k - 1]))
            for k in range(count + 1)
        ]
        return torch.stack(places)

    def _emphasis(self, stage: int, which: Int[Tensor, " some"]) -> Emphasis:
        """The top counts, above the higher end: the pass is no lower than that."""
        return Emphasis((_SHARPNESS[stage], _SHARPNESS[stage + 1]), settles=stage > 0, floor=self.ends[which])

    def _bending(self, kind: Any, bends: int, steps: int, stage: int, number: int, lr: float) -> Bending:
        seed = (self.connecting.seed + number) % (LAST_SEED + 1)
        return Bending(kind=kind, bends=bends, steps=steps, lr=lr, samples_per_step=_ALPHAS[stage], seed=seed)

    def _trained(self, which: Int[Tensor, " some"], bending: Bending, begun: Tensor, emphasis: Emphasis) -> Tensor:
        """Bends after a training, which may have been done before an interruption."""
        number, self.trainings = self.trainings, self.trainings + 1
        if number < len(self.log.done):
            rows = self.log.done[number]
        else:
            state = self.log.state = self.log.state or State.of(begun)
            before = self.steps
            try:
                train(
                    *(self.objective, self._some(which), bending, state, emphasis),
                    on_progress=lambda done, _: self.on_progress(before + done, self.total),
                )
            except KeyboardInterrupt:
                self.gradients[which] += state.step * bending.samples_per_step
                raise
            rows, self.log.state = state.rows, None
            self.log.done.append(rows)
        self.gradients[which] += bending.steps * bending.samples_per_step
        self.steps += bending.steps
        return rows

    def _skip(self, steps: int) -> None:
        self.steps += steps

    def _some(self, which: Int[Tensor, " some"]) -> Family:
        return dataclasses.replace(self.lines, rows=self.lines.rows[:, which])

    def _family(self, which: Int[Tensor, " some"], bending: Bending, rows: Tensor) -> Family:
        return bending.family(controls(self._some(which), bending, rows))

    def _losses(self, which: Int[Tensor, " some"], family: Family, alphas: Tensor) -> Float[Tensor, "some alpha"]:
        """The loss along some paths, NaN being infinite."""
        self.evaluations[which] += len(alphas)
        found = []
        for some in torch.split(torch.arange(len(family), device=alphas.device), max(1, _AT_ONCE // len(alphas))):
            points = family.points(some.repeat_interleave(len(alphas)), alphas.repeat(len(some)))
            found.append(self.objective(points)["loss"].view(len(some), -1).double())
        return torch.cat(found).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _highest(self, which: Int[Tensor, " some"], family: Family, alphas: Tensor) -> Float[Tensor, " some"]:
        return self._losses(which, family, alphas).amax(1)

    def _heights(self, which: Int[Tensor, " some"], bending: Bending, rows: Tensor) -> Float[Tensor, " some"]:
        """The highest loss at few points of some paths."""
        return self._highest(which, self._family(which, bending, rows), self.coarse)

    def _offer(self, which: Int[Tensor, " some"], bending: Bending, rows: Tensor, heights: Tensor) -> None:
        """Take these paths where they are lower at all points, of which those of their `heights` are some."""
        lower = (heights < self.height[which]).nonzero()[:, 0]
        if len(lower) and (bending.kind == "polyline" or not self.straight_pieces):
            own, rows = which[lower], rows.view(bending.bends, len(which), -1)[:, lower].flatten(0, 1)
            self._keep(own, bending, rows, self._highest(own, self._family(own, bending, rows), self.fine))

    def _keep(
        self, which: Int[Tensor, " some"], bending: Bending, rows: Tensor, heights: Tensor, *, level: bool = False
    ) -> None:
        """Take these paths where they are lower."""
        better = heights < self.height[which]
        lines, own = which[better], rows.view(bending.bends, len(which), -1)[:, better]
        self.rows[: bending.bends, lines] = own
        self.rows[bending.bends :, lines] = self.lines.stack(1).flatten()[lines]
        self.bends[lines], self.curved[lines] = bending.bends, bending.kind == "bezier"
        self.level[lines] = level
        self.height[lines] = heights[better]

    def paths(self, chosen: Int[Tensor, " pair"], *, straight_pieces: bool) -> Family:
        """The paths of some lines; with `straight_pieces` as polylines, of which all have as many."""
        bending, lines = Bending(kind="polyline", bends=len(self.rows)), self._some(chosen)
        rows, bends = self.rows[:, chosen], self.bends[chosen]
        if straight_pieces:
            on_line = begin(lines, bending, 0.0).view(rows.shape)
            rows = torch.where((bends == 0)[:, None], on_line, rows)
            return polyline(controls(lines, bending, rows.flatten(0, 1)))
        if self.connecting.method != "auto":
            return self.connecting.one.family(controls(lines, bending, rows.flatten(0, 1)))
        return bent(controls(lines, bending, rows.flatten(0, 1)), bends, self.curved[chosen])


def connect(
    a: Place,
    b: Place,
    *,
    problem: Problem | str | None = None,
    method: Literal["auto", "bezier", "polyline"] = Connecting.method,
    budget: int | None = None,
    bends: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    samples_per_step: int | None = None,
    training_seed: int = Connecting.seed,
    refine: bool = Connecting.refine,
    points: int | Sequence[float] | np.ndarray = 1001,
    pairs: Pairs = "matched",
    order: Order = "stored",
    align: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batchnorm: BatchNorm | None = None,
    engine: Engine = "auto",
    autocast: torch.dtype | None = None,
    samples: int | None = None,
    seed: int = 0,
    draws: int | None = None,
    l2: float = 0.0,
    certify: float | None = None,
    certify_cells: int = Certifying.certify_cells,
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
    keep_seconds: float = 30.0,
    yes: bool = False,
    progress: Listener = None,
) -> Result:
    """Find paths of low loss from `a` to `b`: the highest loss on one is an upper bound of the pass between its ends.

    Args:
        a, b: Places, as in `landscape.walk`.
        problem: Model, data and loss. None: that of the run or checkpoint.
        method: `auto` tries the straight line, a path through networks with one answer, Bézier curves of 1, 3 and 5
            bends from several starts, and a polyline along the best of them with a vertex more where it is highest,
            trained for its highest loss, and keeps the lowest. The second is tried where one of the last three layers
            leaves one answer to all inputs when its weights are zero, which is looked at on both ends; its bias is
            then the best constant. Of a budget below 1600 all goes to one curve. `bezier` and `polyline` train one
            curve for its mean loss.
        budget: Of `auto`: gradient evaluations for each line, all tries together. None: 8000.
        bends: Of one curve: points that are trained. None: 1.
        steps, lr: Of one curve: steps of Adam, and its learning rate. None: 1000 and 0.01.
        samples_per_step: Of one curve: points of it at which the gradient is taken in a step. None: 8.
        training_seed: Seed of these points, and of where bends begin.
        refine: From the highest point of each path, where it lies above both ends, go to the saddle nearby by
            eigenvector following, in float64; for smooth activations, and networks of up to 400 parameters.
        points: How many evenly spaced alphas are evaluated, or the alphas themselves.
        pairs, order, align: As in `landscape.walk`. With the `order` all each is tried on a budget of its own, and the
            lowest path of each pair kept; with `align` there is a path to each end as it is, and one to its
            representative.
        device, dtype, batchnorm, engine, autocast, samples, seed, draws, l2, overwrite, yes: As in `landscape.walk`.
            Where data is sampled, paths are sought on other samples than those of `seed`, which they are reported on.
        certify, certify_cells: As in `landscape.walk`; paths are then straight lines or polylines.
        save: HDF5 file to write; beside it the bends as checkpoints (`bend_files`), which can be walked via, and while
            it trains, every `keep_seconds`, what is needed to go on.
        progress: A function, called with (steps done, steps in all), or True for a bar (extra `progress`, tqdm).

    Returns:
        A result over `line` and `alpha`, of kind `curve` (`polyline` with `certify`), with the loss on the straight
        lines as `loss_straight`; of each line the `method` that found it, the number of its `bends`, and its cost, with
        all that was tried: `gradients`, and `evaluations` of the loss that chose. With `refine` also `saddle_loss`,
        `saddle_gradient` (its L2 norm), `saddle_negative` (negative eigenvalues of the Hessian), NaN where an end is
        highest, `saddle_converged`, to a vanishing gradient and one of these, and `saddle_below`, no higher than the
        path. Interrupted (Ctrl-C) without `save`, the lowest paths by then, or evaluated so far (then without
        `loss_straight` and saddles).

    Raises:
        Mismatch: What was left beside `save` belongs to other curves, and `overwrite` is not given.
        LandscapeError: In one line, what is wrong and what to write instead.

    Source: T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson, NeurIPS 2018 (Bézier curves, polylines);
    F. Draxler, K. Veschgini, M. Salmhofer, F. A. Hamprecht, *Essentially no barriers in neural network energy
    landscape*, ICML 2018 (the highest loss, vertices that are put in).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> network = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> problem = landscape.Problem.from_model(network, (x, x), "mse")
    >>> units = torch.eye(2)[:, :, None]
    >>> one, other = ({"0.weight": unit, "1.weight": unit.T} for unit in units)
    >>> found = landscape.connect(one, other, problem=problem, budget=400, points=51)
    >>> bool(found.loss.max() < found["loss_straight"].max()), int(found["gradients"][0]) <= 400
    (True, True)
    """
    require(connect, locals(), Field("keep_seconds", float, 30.0, at_least=0))
    connecting = Connecting(
        method=method,
        budget=budget,
        bends=bends,
        steps=steps,
        lr=lr,
        samples_per_step=samples_per_step,
        seed=training_seed,
        refine=refine,
    )
    certifying = Certifying(certify=certify, certify_cells=certify_cells)
    pieces = certify is not None
    if pieces and method == "bezier":
        raise LandscapeError("`certify` bounds the loss on straight pieces: choose the `method` auto or polyline")
    route = Route(a=held(a, "a"), b=held(b, "b"), pairs=pairs, order=order, align=align)
    vertices = 1 if method == "bezier" else connecting.most_bends + 1
    alphas = grid(points, knots=[i / vertices for i in range(vertices + 1)])
    path = None if save is None else target(save, overwrite=overwrite)
    resume = None if path is None else path.with_name(f"{path.name}.resume.safetensors")
    files = [] if path is None else bend_files(path, connecting.most_bends)
    # What a writer that died had begun is replaced.
    if path is not None and resume is not None and not (is_there(resume) or is_there(lock_of(path))):
        for file in files:
            refuse_existing(file, force=overwrite)
    compute = Compute.chosen(
        a,
        device=device,
        dtype=dtype,
        batchnorm=batchnorm,
        engine=engine,
        autocast=autocast,
        samples=samples,
        seed=seed,
        draws=draws,
        l2=l2,
    )
    keep_freed_memory()

    def room(count: int, row: int = 0) -> None:
        """Is there memory for so many paths, with bends of so many bytes each?"""
        what = f"{count:,} paths of up to {connecting.most_bends} bends and {len(alphas):,} points"
        instead = "choose fewer members with RUN/#seed, or connect a part of them at a time"
        size = count * (row * (_COPIES * connecting.most_bends + 2) + _POINT_BYTES * len(alphas))
        require_memory(size, what, instead, yes=yes, estimated=True)

    prepared = prepare(route, compute, problem=problem, room=room)
    compute.require_drawing(prepared.problem, prepared.objective)
    if isinstance(prepared.objective, PlainObjective) and prepared.objective.spectral:
        raise Unsupported(
            "curves are not trained through spectral norms, whose singular vectors belong to one network each: take "
            "the norms off (torch.nn.utils.parametrize.remove_parametrizations, or remove_spectral_norm), or walk lines"
        )
    if refine:
        require_smooth(prepared)
    paths = len(prepared.lines)
    each = connecting.budget or (connecting.steps or 0) * (connecting.samples_per_step or 0)
    if paths * each >= _LONG:
        _log.warning("%d paths of up to %d gradients of the loss each: %.1g in all", paths, each, float(paths * each))
    room(paths, prepared.lines.family.vertices[0].parameters * dtype.itemsize)
    told = paced(listening_to(progress), "take fewer lines or less of a `budget`", yes=yes)
    with writing(path):
        search = _searched(
            prepared,
            alphas,
            connecting,
            pieces,
            resume,
            keep_seconds,
            overwrite,
            told,
        )
        chosen = _lowest(prepared.lines, search)
        straight = _of(prepared.lines, chosen)
        lines = _with_bends(prepared, straight, search, chosen, pieces, files)
        about = {**prepared.about, "curve": {**dataclasses.asdict(connecting), "steps": search.steps}}
        prepared = dataclasses.replace(prepared, lines=lines, about=about)
        if pieces:
            prepared = certified(prepared, certifying)
        result = along(prepared.objective, prepared.lines, alphas, about=prepared.about, yes=yes)
        if result.done.all():  # and else what is interrupted goes no further
            beside = along(prepared.objective, straight, alphas, yes=yes)
            result = dataclasses.replace(
                result,
                values={**result.values, "loss_straight": beside.loss},
                columns={**result.columns, "done": beside.done},
            )
        if refine and result.done.all():
            try:
                result = dataclasses.replace(result, columns={**result.columns, **saddles(prepared, result)})
            except KeyboardInterrupt:
                if path is not None:
                    raise
                _log.warning("interrupted: the paths are whole, and there are no saddles")
        if path is not None and resume is not None:
            if not result.done.all():
                raise KeyboardInterrupt
            result.save(path, overwrite=overwrite)
            resume.unlink(missing_ok=True)
        return result


def _searched(
    prepared: Prepared,
    alphas: Float[np.ndarray, " alpha"],
    connecting: Connecting,
    pieces: bool,
    resume: Path | None,
    seconds: float,
    overwrite: bool,
    on_progress: Progress,
) -> _Search:
    """The paths of a route, from where an interrupted search left them; it keeps its state in the file `resume`.

    Samples, where they are drawn, are others than those of the route's objective.
    """
    objective = prepared.objective
    if objective.sampled:
        other = dataclasses.replace(prepared.compute, sample_seed=prepared.compute.sample_seed ^ _SEARCH_SEED)
        objective = other.objective(prepared.problem)
    lines = prepared.lines.family.to(objective.device, objective.dtype)
    log = _Log()
    several = any(source.order.startswith("order") for source in prepared.lines.sources)
    search = _Search(
        *(objective, lines, alphas, connecting),
        measured=several,
        straight_pieces=pieces,
        log=log,
        on_progress=on_progress,
    )
    if resume is None:
        try:
            search.run()
        except KeyboardInterrupt:
            if connecting.method != "auto" and not search.bends.any():
                raise
            search.steps += 0 if log.state is None else log.state.step
            _log.warning("interrupted: the paths are the lowest after %d of %d steps", search.steps, search.total)
        return search
    plan = {
        "ends": [fingerprint({**end.tensors, **end.buffers}) for end in (lines.stack(0), lines.stack(1))],
        "curve": dataclasses.asdict(connecting),
        "straight_pieces": pieces,
        "grid": digest({"alpha": alphas}),
        "objective": prepared.about,
        "computation": computation(objective),
    }
    _take_up(log, resume, plan, objective.device, force=overwrite)

    def keep() -> None:
        _keep(resume, log, plan)

    search.on_progress = _every(seconds, keep, on_progress)
    try:
        search.run()
    except LandscapeError:
        resume.unlink(missing_ok=True)  # there is nothing to go on with
        raise
    except BaseException:
        keep()
        raise
    keep()
    return search


def _level(losses: Float[Tensor, "line alpha"]) -> Bool[Tensor, " line"]:
    """Whether the loss is one number along each line."""
    low, high = losses.aminmax(dim=1)
    return losses.isfinite().all(1) & (high - low <= _ROUNDING * high.abs())


def _lowest(lines: Lines, search: _Search) -> Int[Tensor, " pair"]:
    """Of each pair the line with the lowest path: of several orders of the start's units, which follow each other; its
    cost is then that of all.
    """
    stored = sum(not lines.sources[member].order.startswith("order") for member in lines.columns["from_member"])
    pairs = torch.arange(stored, device=search.height.device)
    best = search.height.view(-1, stored).argmin(0)
    for cost in (search.gradients, search.evaluations):
        cost.copy_(cost.view(-1, stored).sum(0).repeat(len(cost) // stored))
    return best * stored + pairs


def _of(lines: Lines, chosen: Int[Tensor, " pair"]) -> Lines:
    """Some of the lines."""
    family = dataclasses.replace(lines.family, rows=lines.family.rows[:, chosen.to(lines.family.rows.device)])
    columns = {name: column[chosen.cpu().numpy()] for name, column in lines.columns.items()}
    return Lines(family, columns, lines.sources)


def bend_files(path: Path, bends: int) -> list[Path]:
    """The checkpoints that hold the bends of a file of paths, in order: `FILE.bend-1.safetensors` and so on."""
    stem = path.name.removesuffix(".h5")
    return [path.with_name(f"{stem}.bend-{number}.safetensors") for number in range(1, bends + 1)]


def _take_up(log: _Log, resume: Path, plan: Mapping[str, Any], device: torch.device, *, force: bool) -> None:
    """Fill the log with what an interrupted search left behind, if it is of this plan."""
    if not is_there(resume):
        return
    tensors, document = read_tensors(resume)
    different = differences(document["plan"], plan)
    if different and force:
        resume.unlink()
        return
    if different:
        raise Mismatch(
            f"{resume} keeps the training of other curves: {different}. Repeat that command, choose another output "
            "with `save`, or start anew with `overwrite=True`"
        )
    kept = {name: tensor.to(device) for name, tensor in tensors.items()}
    log.done = [kept.pop(f"done {number}") for number in range(document["done"])]
    if "rows" in kept:
        log.state = State(kept.pop("rows"), kept, document["step"])


def _keep(resume: Path, log: _Log, plan: Mapping[str, Any]) -> None:
    """Write what is needed to go on."""
    state = log.state
    going = {} if state is None or not state.step else {"rows": state.rows, **state.moments}
    tensors = {f"done {number}": rows for number, rows in enumerate(log.done)} | going
    document = {"kind": "resume", "done": len(log.done), "step": state.step if state else 0, "plan": plan}
    write_tensors(resume, tensors, document)  # of no training too: it says whose the bends beside it are


def _every(seconds: float, keep: Callable[[], None], on_progress: Progress) -> Progress:
    """Progress that is kept at most so many seconds apart."""
    last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        on_progress(done, total)
        if time.monotonic() - last >= seconds:
            keep()
            last = time.monotonic()

    return tick


def _with_bends(
    prepared: Prepared,
    straight: Lines,
    search: _Search,
    chosen: Int[Tensor, " pair"],
    pieces: bool,
    files: Sequence[Path],
) -> Lines:
    """The paths with their bends in the table of members, which are written as checkpoints if there are files."""
    family = search.paths(chosen, straight_pieces=pieces)
    sources, lines = list(straight.sources), list(range(len(family)))
    via = []
    for number, stack in enumerate(family.vertices[1:-1], start=1):
        document = {
            "kind": "checkpoint",
            "step": search.steps,
            "seeds": lines,
            "data_seeds": lines,
            **{key: prepared.about[key] for key in ("problem", "code") if key in prepared.about},
            "bend": {"number": number, **dataclasses.asdict(search.connecting)},
        }
        sha = write_stack(files[number - 1], stack, document) if files else fingerprint(stack.tensors)
        path = str(files[number - 1]) if files else "memory"
        via.append(np.arange(len(lines)) + len(sources))
        sources += [Source(path, search.steps, k, sha, f"bend {number} of line {k}") for k in lines]
    index = chosen.cpu().numpy()
    columns = {
        **straight.columns,
        "via_member": np.stack(via, axis=1),
        "method": np.array(search.methods(), dtype=object)[index],
        "bends": search.bends.cpu().numpy()[index],
        "gradients": search.gradients.cpu().numpy()[index],
        "evaluations": search.evaluations.cpu().numpy()[index],
    }
    return Lines(family, columns, tuple(sources))
