"""Curves of low loss between two points: bends in a path that are trained while its ends stay."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.files import differences, refuse_existing
from landscape.core.provenance import Source
from landscape.core.unfinished import Progress
from landscape.engine.memory import choose_chunk, keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, fingerprint
from landscape.evaluation.evaluate import computation
from landscape.evaluation.routes import Connection, Prepared, Route, prepare
from landscape.evaluation.walk import walk
from landscape.space.family import Bezier, Line, Polyline, grid
from landscape.store.checkpoints import read_tensors, write_stack, write_tensors
from landscape.store.curves import Curves
from landscape.training.optimizers import adam, adam_moments

__all__ = ["Bending", "bend", "bend_files", "connect_route"]

_KINDS: dict[str, type[Bezier] | type[Polyline]] = {"bezier": Bezier, "chain": Polyline}

#: Streams of random numbers: where bends begin, and the alphas of each step.
_START_STREAM, _ALPHA_STREAM = 0x42454E44, 0x42454E45

#: Bends begin beside the straight line, by this share of its length: on it a symmetric loss would never push them off.
_OFF_LINE = 0.01

#: Bytes of the parameters of all points whose gradients are computed at once; at least one line.
_STEP_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bending:
    """How a curve is bent; raises `LandscapeError` for values that make no sense.

    `bezier` is a Bézier curve with `bends` control points between its ends, `chain` a chain of straight segments with
    as many vertices. Adam minimises the mean of the loss over alpha, uniform on [0, 1], from `samples_per_step` alphas
    in each of `steps` steps.
    """

    kind: Literal["bezier", "chain"] = "bezier"
    bends: int = 1
    steps: int = 1000
    lr: float = 1e-2
    samples_per_step: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in {"bends": self.bends, "samples per step": self.samples_per_step}.items():
            if value < 1:
                raise LandscapeError(f"{name} is {value}, it must be at least 1")
        if self.steps < 0:
            raise LandscapeError(f"steps is {self.steps}, it must not be negative")
        if not 0 < self.lr < float("inf"):
            raise LandscapeError(f"lr is {self.lr}, it must be positive and finite")
        if not 0 <= self.seed < 2**63:
            raise LandscapeError(f"{self.seed} is no seed: seeds go from 0 to 2^63 - 1")

    def path(self, controls: tuple[Stack, ...]) -> Bezier | Polyline:
        """The curves with these ends and bends."""
        return _KINDS[self.kind](controls)


@dataclasses.dataclass(eq=False)
class _State:
    """Bends, one row for each bend of each line, bend by bend, and what the optimizer remembers after `step` steps."""

    rows: Float[Tensor, "row parameter"]
    moments: dict[str, Tensor]
    step: int = 0


def bend(
    objective: Objective,
    line: Line,
    bending: Bending,
    *,
    on_progress: Progress = lambda done, total: None,
) -> Bezier | Polyline:
    """Bend all straight lines at once into curves along which the mean loss is low; their ends stay.

    T. Garipov et al., NeurIPS 2018; F. Draxler, K. Veschgini, M. Salmhofer, F. A. Hamprecht, *Essentially no barriers
    in neural network energy landscape*, ICML 2018. The alphas of a step are stratified and the same for all lines, as
    are the directions in which bends begin beside their line: a line's result does not depend on its companions. The
    gradient at each alpha is that of the whole objective.
    """
    line = line.to(objective.device, objective.dtype)
    state = _begin(line, bending)
    _train(_for_training(objective, line, bending), line, bending, state, on_progress)
    _require_finite(line, bending, state)
    return bending.path(_controls(line, bending, state.rows))


def connect_route(
    route: Route,
    bending: Bending,
    *,
    points: int = 51,
    output: Path | None = None,
    force: bool = False,
    resume_every: float = 30.0,
    on_progress: Progress = lambda done, total: None,
    **settings: Any,
) -> Path:
    """Bend the lines of a route and write the loss along the curves, and beside it their bends.

    The file of curves has the loss on the straight lines as `loss_straight`. Each bend is a checkpoint with a member a
    line (`bend_files`), which can be walked via. `settings` are those of `routes.prepare`. Interrupted training goes on
    when it is called again; raises `Mismatch` if what was left belongs to other curves, unless `force` begins anew.
    """
    if route.rays or route.via or route.only or route.per:
        raise LandscapeError("curves are bent between two places, all tensors moving")
    keep_freed_memory()
    prepared = prepare(route, **settings)
    line = prepared.connection.lines
    assert isinstance(line, Line)
    path = output or Path("analyses") / f"{route.name}-{bending.kind}-{bending.bends}.h5"
    line = line.to(prepared.objective.device, prepared.objective.dtype)
    objective = _for_training(prepared.objective, line, bending)
    plan = {
        "ends": [fingerprint({**stack.tensors, **stack.buffers}) for stack in line.stacks],
        "curve": dataclasses.asdict(bending),
        "objective": prepared.attributes,
        "computation": computation(objective),
    }
    resume = path.with_name(f"{path.name}.resume.safetensors")
    state = _taken_up(resume, plan, objective.device, force=force)
    for file in [path] if state else [path, *bend_files(path, bending)]:
        refuse_existing(file, force=force)
    state = state or _begin(line, bending)
    keep = functools.partial(_keep, resume, state, plan)
    try:
        _train(objective, line, bending, state, _every(resume_every, keep, on_progress))
    finally:
        keep()
    try:
        _require_finite(line, bending, state)
    except LandscapeError:
        resume.unlink(missing_ok=True)  # there is nothing to go on with
        raise
    curve = bending.path(_controls(line, bending, state.rows))
    connection = _with_bends(prepared, bending, curve, bend_files(path, bending))
    _evaluate(prepared, connection, bending, points).write(path)
    resume.unlink(missing_ok=True)
    return path


def bend_files(path: Path, bending: Bending) -> list[Path]:
    """The checkpoints that hold the bends of a file of curves, in order: `FILE.bend-1.safetensors` and so on."""
    stem = path.name.removesuffix(".h5")
    return [path.with_name(f"{stem}.bend-{number}.safetensors") for number in range(1, bending.bends + 1)]


def _begin(line: Line, bending: Bending) -> _State:
    """Bends evenly spaced along the straight lines, a little beside them."""
    lines = torch.arange(len(line), device=line.start.device)
    seeds = torch.tensor([bending.seed], device=lines.device)
    parameters = line.start.parameters
    length = line.lengths()[1][:, None]
    rows = []
    for number in range(1, bending.bends + 1):
        alpha = torch.full((len(line),), number / (bending.bends + 1), dtype=torch.float64, device=lines.device)
        aside = philox.normal(seeds, stream=_START_STREAM, step=number, count=parameters)
        on_line = line.at(lines, alpha).flatten()
        rows.append(on_line + (aside * length * (_OFF_LINE / parameters**0.5)).to(on_line.dtype))
    flat = torch.cat(rows)
    return _State(flat, adam_moments(flat))


def _controls(line: Line, bending: Bending, rows: Float[Tensor, "row parameter"]) -> tuple[Stack, ...]:
    """Start, bends and end; the buffers of bends are those of their places on the straight line."""
    lines = torch.arange(len(line), device=rows.device)
    between = []
    for number, part in enumerate(rows.view(bending.bends, len(line), -1), start=1):
        alpha = torch.full((len(line),), number / (bending.bends + 1), dtype=torch.float64, device=rows.device)
        buffers = line.at(lines, alpha).buffers if line.start.buffers else {}
        between.append(dataclasses.replace(line.start.unflatten(part), buffers=buffers))
    return line.start, *between, line.end


def _for_training(objective: Objective, line: Line, bending: Bending) -> Objective:
    """The objective with chunks for gradients."""
    most = len(line) * bending.samples_per_step
    chunk = choose_chunk(objective.network, objective.data, training=True, most=most)
    return dataclasses.replace(objective, chunk=chunk)


def _train(objective: Objective, line: Line, bending: Bending, state: _State, on_progress: Progress) -> None:
    """Take the steps that are left; `state` is that of the last finished step at any time."""
    while state.step < bending.steps:
        gradient = _gradient(objective, line, bending, state)
        moments = dict(state.moments)
        rows = adam(state.rows, gradient, moments, lr=bending.lr, step=state.step)
        state.rows, state.moments, state.step = rows, moments, state.step + 1
        on_progress(state.step, bending.steps)


def _gradient(objective: Objective, line: Line, bending: Bending, state: _State) -> Float[Tensor, "row parameter"]:
    """Derivative of the mean loss over this step's alphas in the bends, by the chain rule from that in the points."""
    count = bending.samples_per_step
    seeds = torch.tensor([bending.seed], device=objective.device)
    drawn = philox.uniform(seeds, stream=_ALPHA_STREAM, step=state.step, count=count)[0].double()
    alphas = (torch.arange(count, device=objective.device) + drawn) / count
    path = bending.path(_controls(line, bending, state.rows))
    weights = (path.weights(alphas)[:, 1:-1] / count).to(objective.dtype)
    rows = state.rows.view(bending.bends, len(line), -1)
    size = max(1, _STEP_BYTES // (count * rows.shape[2] * rows.element_size()))
    parts = []
    for first in range(0, len(line), size):
        lines = torch.arange(first, min(first + size, len(line)), device=objective.device)
        points = path.at(lines.repeat_interleave(count), alphas.repeat(len(lines)))
        slopes = objective.gradient(points, with_loss=False)[1].flatten().view(len(lines), count, -1)
        # One alpha after another: a product of matrices would round by how many lines there are.
        part = torch.zeros_like(rows[:, : len(lines)])
        for slope, weight in zip(slopes.unbind(1), weights, strict=True):
            part = part + weight[:, None, None] * slope
        parts.append(part)
    return torch.cat(parts, dim=1).flatten(0, 1)


def _taken_up(resume: Path, plan: Mapping[str, Any], device: torch.device, *, force: bool) -> _State | None:
    """What interrupted training left behind, if it is of this plan."""
    if not resume.exists():
        return None
    tensors, document = read_tensors(resume)
    different = differences(document["plan"], plan)
    if different and force:
        resume.unlink()
        return None
    if different:
        raise Mismatch(
            f"{resume} keeps the training of other curves: {different}. Repeat that command, choose another output "
            "with -o, or start anew with --force"
        )
    moments = {name: tensor.to(device) for name, tensor in tensors.items()}
    return _State(moments.pop("rows"), moments, document["step"])


def _keep(resume: Path, state: _State, plan: Mapping[str, Any]) -> None:
    """Write what is needed to go on."""
    if state.step:
        document = {"kind": "resume", "step": state.step, "plan": plan}
        write_tensors(resume, {"rows": state.rows, **state.moments}, document)


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


def _require_finite(line: Line, bending: Bending, state: _State) -> None:
    finite = state.rows.isfinite().all(1).view(bending.bends, len(line)).all(0)
    if not finite.all():
        raise LandscapeError(
            f"the bends of {int((~finite).sum())} of {len(line)} lines have become NaN or infinite: lower --lr"
        )


def _with_bends(prepared: Prepared, bending: Bending, curve: Bezier | Polyline, files: list[Path]) -> Connection:
    """Write the bends as checkpoints; the curves with them in the table of members."""
    connection, lines = prepared.connection, list(range(len(curve)))
    sources, via = list(connection.sources), []
    for number, (file, stack) in enumerate(zip(files, curve.stacks[1:-1], strict=True), start=1):
        document = {
            "kind": "checkpoint",
            "step": bending.steps,
            "seeds": lines,
            "data_seeds": lines,
            "problem": prepared.attributes["problem"],
            "bend": {"number": number, **dataclasses.asdict(bending)},
        }
        sha = write_stack(file, stack, document)
        via.append(np.arange(len(lines)) + len(sources))
        sources += [Source(str(file), bending.steps, k, sha, f"bend {number} of line {k}") for k in lines]
    return dataclasses.replace(connection, lines=curve, sources=tuple(sources), via_member=np.stack(via, axis=1))


def _evaluate(prepared: Prepared, connection: Connection, bending: Bending, points: int) -> Curves:
    """The loss along the curves and, at the same alphas, on the straight lines."""
    alphas = grid(points, segments=bending.bends + 1 if bending.kind == "chain" else 1)
    attributes = {**prepared.attributes, "curve": dataclasses.asdict(bending)}
    straight = walk(prepared.objective, prepared.connection, alphas)
    curved = walk(prepared.objective, connection, alphas, attributes=attributes)
    return dataclasses.replace(curved, values={**curved.values, "loss_straight": straight.loss})
