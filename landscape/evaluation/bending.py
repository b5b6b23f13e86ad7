"""Curves are bent: points between the ends of lines are trained while the ends stay."""

import dataclasses
import math
import types
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError
from landscape.core.fields import check, option
from landscape.core.unfinished import Progress
from landscape.engine.memory import choose_chunk
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack
from landscape.space.family import Family, bezier, polyline
from landscape.training.optimizers import OPTIMIZERS

__all__ = ["OFF_LINE", "Bending", "Emphasis", "State", "begin", "bend", "controls", "train"]

#: Streams of random numbers: where bends begin, and the alphas of each step.
_START_STREAM, _ALPHA_STREAM = 0x42454E44, 0x42454E45

#: Bends begin beside the straight line, by this share of its length: on it a symmetric loss would never push them off.
OFF_LINE = 0.01

#: Bytes of the parameters of all points whose gradients are computed at once; at least one line.
_STEP_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bending:
    """How a curve is bent; raises `LandscapeError` for values that make no sense.

    `bezier` is a Bézier curve with `bends` control points between its ends, `polyline` has as many vertices. Adam
    lowers the loss at `samples_per_step` alphas, uniform on [0, 1], in each of `steps` steps.
    """

    kind: Literal["bezier", "polyline"] = "bezier"
    bends: int = option(1, "Points that are trained.", at_least=1, at_most=100)
    steps: int = option(1000, "Steps of Adam.", at_least=0)
    lr: float = option(1e-2, "Learning rate.", above=0)
    samples_per_step: int = option(
        8, "Points of the curve at which the gradient is taken in a step.", at_least=1, at_most=1_000_000
    )
    seed: int = option(0, "Seed of these points.", syntax="seed")

    def __post_init__(self) -> None:
        check(self)

    def family(self, points: Sequence[Stack]) -> Family:
        """The curves with these ends and bends."""
        return dataclasses.replace((bezier if self.kind == "bezier" else polyline)(points), kind="curve")


@dataclasses.dataclass(frozen=True)
class Emphasis:
    """What of a curve counts in its training: without `sharpness` the mean of the loss over alpha, else its top.

    Then the loss l at each alpha of a step has the weight exp(s (l - highest) / (highest - lowest)), over their sum,
    where s grows from the first to the second `sharpness`; what is not above the `floor` of its line does not count. If
    it `settles`, the learning rate falls to 0 along half of a cosine.
    """

    sharpness: tuple[float, float] | None = None
    settles: bool = False
    floor: Float[Tensor, " line"] | None = None

    def weights(
        self, losses: Float[Tensor, "some alpha"], which: Int[Tensor, " some"], done: float
    ) -> Float[Tensor, "some alpha"]:
        """How much each alpha of some lines counts after this share of the steps."""
        assert self.sharpness is not None
        first, last = self.sharpness
        low, high = losses.aminmax(dim=1, keepdim=True)
        rises = (losses - high) / (high - low).clamp(min=torch.finfo(losses.dtype).tiny)
        weights = torch.softmax(first * (last / first) ** done * rises, dim=1)
        return weights if self.floor is None else weights * (losses > self.floor[which, None])


@dataclasses.dataclass(eq=False)
class State:
    """Bends, one row for each bend of each line, bend by bend, and what the optimizer remembers after `step` steps."""

    rows: Float[Tensor, "row parameter"]
    moments: dict[str, Tensor]
    step: int = 0

    @classmethod
    def of(cls, rows: Float[Tensor, "row parameter"]) -> "State":
        """Before the first step."""
        return cls(rows, OPTIMIZERS["adam"].begin(rows))


def bend(
    objective: AnyObjective,
    lines: Family,
    bending: Bending,
    *,
    on_progress: Progress = lambda done, total: None,
) -> Family:
    """Bend all straight lines at once into curves along which the mean loss is low; their ends stay.

    T. Garipov et al., NeurIPS 2018; F. Draxler, K. Veschgini, M. Salmhofer, F. A. Hamprecht, *Essentially no barriers
    in neural network energy landscape*, ICML 2018. The alphas of a step are stratified and the same for all lines, as
    are the directions in which bends begin beside their line: a line's result does not depend on its companions. The
    gradient at each alpha is that of the whole objective.
    """
    lines = lines.to(objective.device, objective.dtype)
    state = State.of(begin(lines, bending))
    train(objective, lines, bending, state, on_progress=on_progress)
    finite = state.rows.isfinite().all(1).view(bending.bends, len(lines)).all(0)
    if not finite.all():
        raise LandscapeError(
            f"the bends of {int((~finite).sum())} of {len(lines)} lines have become NaN or infinite: lower `lr`"
        )
    return bending.family(controls(lines, bending, state.rows))


def begin(lines: Family, bending: Bending, aside: float = OFF_LINE) -> Float[Tensor, "row parameter"]:
    """Bends evenly spaced along the straight lines, beside them by this share of their length."""
    numbers = torch.arange(len(lines), device=lines.rows.device)
    seeds = torch.tensor([bending.seed], device=numbers.device)
    parameters = lines.vertices[0].parameters
    length = lines.lengths()[1][:, None]
    rows = []
    for number in range(1, bending.bends + 1):
        away = philox.normal(seeds, stream=_START_STREAM, step=number, count=parameters)
        on_line = lines.at(numbers, _alphas(lines, bending, number)).flatten()
        rows.append(on_line + (away * length * (aside / parameters**0.5)).to(on_line.dtype))
    return torch.cat(rows)


def _alphas(lines: Family, bending: Bending, number: int) -> Float[Tensor, " line"]:
    """Where a bend begins on each line."""
    alpha = number / (bending.bends + 1)
    return torch.full((len(lines),), alpha, dtype=torch.float64, device=lines.rows.device)


def controls(lines: Family, bending: Bending, rows: Float[Tensor, "row parameter"]) -> list[Stack]:
    """Start, bends and end; the buffers of bends are those of their places on the straight line."""
    numbers = torch.arange(len(lines), device=rows.device)
    start, end = lines.stack(0), lines.stack(1)
    between = []
    for number, part in enumerate(rows.view(bending.bends, len(lines), -1), start=1):
        buffers = lines.at(numbers, _alphas(lines, bending, number)).buffers if start.buffers else {}
        between.append(dataclasses.replace(start.unflatten(part), buffers=buffers))
    return [start, *between, end]


def train(
    objective: AnyObjective,
    lines: Family,
    bending: Bending,
    state: State,
    emphasis: Emphasis = Emphasis(),
    *,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Take the steps that are left; `state` is that of the last finished step at any time."""
    if not isinstance(objective, PlainObjective):  # chunks for gradients
        most = len(lines) * bending.samples_per_step
        chunk = choose_chunk(objective.network, objective.data, training=True, most=most)
        objective = dataclasses.replace(objective, chunk=chunk)
    while state.step < bending.steps:
        gradient = _gradient(objective, lines, bending, state, emphasis)
        moments = dict(state.moments)
        falls = (1 + math.cos(math.pi * state.step / bending.steps)) / 2 if emphasis.settles else 1.0
        options = types.SimpleNamespace(lr=bending.lr * falls)
        rows = OPTIMIZERS["adam"].step(state.rows, gradient, moments, options, state.step)
        state.rows, state.moments, state.step = rows, moments, state.step + 1
        on_progress(state.step, bending.steps)


def _gradient(
    objective: AnyObjective, lines: Family, bending: Bending, state: State, emphasis: Emphasis
) -> Float[Tensor, "row parameter"]:
    """Derivative in the bends of the loss at this step's alphas, by the chain rule from that in the points."""
    count, sharp = bending.samples_per_step, emphasis.sharpness is not None
    seeds = torch.tensor([bending.seed], device=objective.device)
    drawn = philox.uniform(seeds, stream=_ALPHA_STREAM, step=state.step, count=count)[0].double()
    alphas = (torch.arange(count, device=objective.device) + drawn) / count
    family = bending.family(controls(lines, bending, state.rows))
    shares = (family.shares(alphas)[:, 1:-1] / (1 if sharp else count)).to(objective.dtype)
    rows = state.rows.view(bending.bends, len(lines), -1)
    size = max(1, _STEP_BYTES // (count * rows.shape[2] * rows.element_size()))
    parts = []
    for first in range(0, len(lines), size):
        some = torch.arange(first, min(first + size, len(lines)), device=objective.device)
        points = family.at(some.repeat_interleave(count), alphas.repeat(len(some)))
        losses, slopes = objective.gradient(points, with_loss=sharp)
        each = slopes.flatten().view(len(some), count, -1)
        if sharp:
            weights = emphasis.weights(losses.view(len(some), count), some, state.step / bending.steps)
            each = each * weights[:, :, None].to(each.dtype)
        # One alpha after another: a product of matrices would round by how many lines there are.
        part = torch.zeros_like(rows[:, : len(some)])
        for slope, share in zip(each.unbind(1), shares, strict=True):
            part = part + share[:, None, None] * slope
        parts.append(part)
    return torch.cat(parts, dim=1).flatten(0, 1)
