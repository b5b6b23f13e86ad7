"""Curves of low loss between two points: bends in a path that are trained while its ends stay."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.fields import Field, check, option, require
from landscape.core.files import differences, refuse_existing
from landscape.core.provenance import Source
from landscape.core.unfinished import Progress
from landscape.engine.memory import choose_chunk, keep_freed_memory
from landscape.engine.objective import BatchNorm
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack, fingerprint
from landscape.evaluation.evaluate import computation
from landscape.evaluation.routes import Lines, Pairs, Prepared, Route, along, prepare
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place, held
from landscape.space.family import Family, bezier, grid, polyline
from landscape.store.checkpoints import read_tensors, write_stack, write_tensors
from landscape.store.results import Result, target
from landscape.training.optimizers import OPTIMIZERS

__all__ = ["Bending", "bend", "bend_files", "connect"]

_log = logging.getLogger("landscape")

#: Streams of random numbers: where bends begin, and the alphas of each step.
_START_STREAM, _ALPHA_STREAM = 0x42454E44, 0x42454E45

#: Bends begin beside the straight line, by this share of its length: on it a symmetric loss would never push them off.
_OFF_LINE = 0.01

#: Bytes of the parameters of all points whose gradients are computed at once; at least one line.
_STEP_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bending:
    """How a curve is bent; raises `LandscapeError` for values that make no sense.

    `bezier` is a Bézier curve with `bends` control points between its ends, `polyline` has as many vertices. Adam
    minimises the mean of the loss over alpha, uniform on [0, 1], from `samples_per_step` alphas in each of `steps`
    steps.
    """

    kind: Literal["bezier", "polyline"] = option("bezier", "Bézier curve, or straight segments.")
    bends: int = option(1, "Points that are trained.", at_least=1, at_most=100)
    steps: int = option(1000, "Steps of Adam.", at_least=0)
    lr: float = option(1e-2, "Learning rate.", above=0)
    samples_per_step: int = option(
        8, "Points of the curve at which the gradient is taken in a step.", at_least=1, at_most=1_000_000
    )
    seed: int = option(0, "Seed of these points.", syntax="seed")

    def __post_init__(self) -> None:
        check(self)

    def family(self, controls: Sequence[Stack]) -> Family:
        """The curves with these ends and bends."""
        return dataclasses.replace((bezier if self.kind == "bezier" else polyline)(controls), kind="curve")


@dataclasses.dataclass(eq=False)
class _State:
    """Bends, one row for each bend of each line, bend by bend, and what the optimizer remembers after `step` steps."""

    rows: Float[Tensor, "row parameter"]
    moments: dict[str, Tensor]
    step: int = 0


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
    state = _begin(lines, bending)
    _train(_for_training(objective, lines, bending), lines, bending, state, on_progress)
    return _finished(lines, bending, state)[0]


def connect(
    a: Place,
    b: Place,
    *,
    problem: Problem | str | None = None,
    kind: Literal["bezier", "polyline"] = Bending.kind,
    bends: int = Bending.bends,
    steps: int = Bending.steps,
    lr: float = Bending.lr,
    samples_per_step: int = Bending.samples_per_step,
    training_seed: int = Bending.seed,
    points: int | Sequence[float] | np.ndarray = 51,
    pairs: Pairs = "matched",
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
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
    keep_seconds: float = 30.0,
    progress: Progress | None = None,
) -> Result:
    """Find curves of low loss from `a` to `b`: bends in a path are trained while its ends stay.

    Args:
        a, b: Places, as in `landscape.walk`.
        problem: Model, data and loss. None: that of the run or checkpoint.
        kind: A Bézier curve with `bends` control points, or a `polyline` with as many vertices.
        bends: Points that are trained.
        steps, lr: Steps of Adam, and its learning rate.
        samples_per_step: Points of the curve at which the gradient is taken in a step.
        training_seed: Seed of these points, and of where bends begin.
        points: How many evenly spaced alphas are evaluated, or the alphas themselves.
        pairs, align: As in `landscape.walk`; with `align` there is a curve to each end as it is, and one to its
            representative.
        device, dtype, batchnorm, engine, autocast, samples, seed, draws, l2, overwrite: As in `landscape.walk`.
        save: HDF5 file to write; beside it the bends as checkpoints (`bend_files`), which can be walked via, and while
            it trains, every `keep_seconds`, what is needed to go on.
        progress: Called with (steps done, steps in all).

    Returns:
        A result over `line` and `alpha`, of kind `curve`, with the loss on the straight lines as `loss_straight`.
        Interrupted (Ctrl-C) without `save`, the curves as far as they were trained, or evaluated (then without
        `loss_straight`).

    Raises:
        Mismatch: What was left beside `save` belongs to other curves, and `overwrite` is not given.
        LandscapeError: In one line, what is wrong and what to write instead.
    """
    require(connect, locals(), Field("keep_seconds", float, 30.0, at_least=0))
    bending = Bending(kind=kind, bends=bends, steps=steps, lr=lr, samples_per_step=samples_per_step, seed=training_seed)
    route = Route(a=held(a, "a"), b=held(b, "b"), pairs=pairs, align=align)
    vertices = bending.bends + 1 if kind == "polyline" else 1
    alphas = grid(points, knots=[i / vertices for i in range(vertices + 1)])
    path = None if save is None else target(save, overwrite=overwrite)
    resume = None if path is None else path.with_name(f"{path.name}.resume.safetensors")
    files = [] if path is None else bend_files(path, bending)
    if resume is not None and not resume.exists():
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
    prepared = prepare(route, compute, problem=problem)
    if isinstance(prepared.objective, PlainObjective) and prepared.objective.spectral:
        raise Unsupported(
            "curves are not trained through spectral norms, whose singular vectors belong to one network each: take "
            "the norms off (torch.nn.utils.parametrize.remove_parametrizations, or remove_spectral_norm), or walk lines"
        )
    curve, bending = _trained(
        prepared, bending, resume, keep_seconds, overwrite, progress or (lambda done, total: None)
    )
    lines = _with_bends(prepared, bending, curve, files)
    about = {**prepared.about, "curve": dataclasses.asdict(bending)}
    result = along(prepared.objective, lines, alphas, about=about)
    if result.done.all():  # and else what is interrupted goes no further
        straight = along(prepared.objective, prepared.lines, alphas)
        result = dataclasses.replace(
            result,
            values={**result.values, "loss_straight": straight.loss},
            columns={**result.columns, "done": straight.done},
        )
    if path is not None and resume is not None:
        if not result.done.all():
            raise KeyboardInterrupt
        result.save(path, overwrite=overwrite)
        resume.unlink(missing_ok=True)
    return result


def _trained(
    prepared: Prepared, bending: Bending, resume: Path | None, seconds: float, overwrite: bool, on_progress: Progress
) -> tuple[Family, Bending]:
    """The curves of a route and how they were bent, from where an interrupted training left them; it keeps its state in
    the file `resume`.
    """
    lines = prepared.lines.family.to(prepared.objective.device, prepared.objective.dtype)
    objective = _for_training(prepared.objective, lines, bending)
    if resume is None:
        state = _begin(lines, bending)
        try:
            _train(objective, lines, bending, state, on_progress)
        except KeyboardInterrupt:
            if not state.step:
                raise
            _log.warning("interrupted: the curves are those after %d of %d steps", state.step, bending.steps)
        return _finished(lines, bending, state)
    plan = {
        "ends": [fingerprint({**end.tensors, **end.buffers}) for end in (lines.stack(0), lines.stack(1))],
        "curve": dataclasses.asdict(bending),
        "objective": prepared.about,
        "computation": computation(objective),
    }
    state = _taken_up(resume, plan, objective.device, force=overwrite) or _begin(lines, bending)
    keep = functools.partial(_keep, resume, state, plan)
    try:
        _train(objective, lines, bending, state, _every(seconds, keep, on_progress))
    finally:
        keep()
    try:
        return _finished(lines, bending, state)
    except LandscapeError:
        resume.unlink(missing_ok=True)  # there is nothing to go on with
        raise


def bend_files(path: Path, bending: Bending) -> list[Path]:
    """The checkpoints that hold the bends of a file of curves, in order: `FILE.bend-1.safetensors` and so on."""
    stem = path.name.removesuffix(".h5")
    return [path.with_name(f"{stem}.bend-{number}.safetensors") for number in range(1, bending.bends + 1)]


def _begin(lines: Family, bending: Bending) -> _State:
    """Bends evenly spaced along the straight lines, a little beside them."""
    numbers = torch.arange(len(lines), device=lines.rows.device)
    seeds = torch.tensor([bending.seed], device=numbers.device)
    parameters = lines.vertices[0].parameters
    length = lines.lengths()[1][:, None]
    rows = []
    for number in range(1, bending.bends + 1):
        aside = philox.normal(seeds, stream=_START_STREAM, step=number, count=parameters)
        on_line = lines.at(numbers, _alphas(lines, bending, number)).flatten()
        rows.append(on_line + (aside * length * (_OFF_LINE / parameters**0.5)).to(on_line.dtype))
    flat = torch.cat(rows)
    return _State(flat, OPTIMIZERS["adam"].begin(flat))


def _alphas(lines: Family, bending: Bending, number: int) -> Float[Tensor, " line"]:
    """Where a bend begins on each line."""
    alpha = number / (bending.bends + 1)
    return torch.full((len(lines),), alpha, dtype=torch.float64, device=lines.rows.device)


def _controls(lines: Family, bending: Bending, rows: Float[Tensor, "row parameter"]) -> list[Stack]:
    """Start, bends and end; the buffers of bends are those of their places on the straight line."""
    numbers = torch.arange(len(lines), device=rows.device)
    start, end = lines.stack(0), lines.stack(1)
    between = []
    for number, part in enumerate(rows.view(bending.bends, len(lines), -1), start=1):
        buffers = lines.at(numbers, _alphas(lines, bending, number)).buffers if start.buffers else {}
        between.append(dataclasses.replace(start.unflatten(part), buffers=buffers))
    return [start, *between, end]


def _for_training(objective: AnyObjective, lines: Family, bending: Bending) -> AnyObjective:
    """The objective with chunks for gradients."""
    if isinstance(objective, PlainObjective):
        return objective
    most = len(lines) * bending.samples_per_step
    chunk = choose_chunk(objective.network, objective.data, training=True, most=most)
    return dataclasses.replace(objective, chunk=chunk)


def _train(objective: AnyObjective, lines: Family, bending: Bending, state: _State, on_progress: Progress) -> None:
    """Take the steps that are left; `state` is that of the last finished step at any time."""
    while state.step < bending.steps:
        gradient = _gradient(objective, lines, bending, state)
        moments = dict(state.moments)
        rows = OPTIMIZERS["adam"].step(state.rows, gradient, moments, bending, state.step)
        state.rows, state.moments, state.step = rows, moments, state.step + 1
        on_progress(state.step, bending.steps)


def _gradient(
    objective: AnyObjective, lines: Family, bending: Bending, state: _State
) -> Float[Tensor, "row parameter"]:
    """Derivative of the mean loss over this step's alphas in the bends, by the chain rule from that in the points."""
    count = bending.samples_per_step
    seeds = torch.tensor([bending.seed], device=objective.device)
    drawn = philox.uniform(seeds, stream=_ALPHA_STREAM, step=state.step, count=count)[0].double()
    alphas = (torch.arange(count, device=objective.device) + drawn) / count
    family = bending.family(_controls(lines, bending, state.rows))
    weights = (family.shares(alphas)[:, 1:-1] / count).to(objective.dtype)
    rows = state.rows.view(bending.bends, len(lines), -1)
    size = max(1, _STEP_BYTES // (count * rows.shape[2] * rows.element_size()))
    parts = []
    for first in range(0, len(lines), size):
        some = torch.arange(first, min(first + size, len(lines)), device=objective.device)
        points = family.at(some.repeat_interleave(count), alphas.repeat(len(some)))
        slopes = objective.gradient(points, with_loss=False)[1].flatten().view(len(some), count, -1)
        # One alpha after another: a product of matrices would round by how many lines there are.
        part = torch.zeros_like(rows[:, : len(some)])
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
            "with `save`, or start anew with `overwrite=True`"
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


def _finished(lines: Family, bending: Bending, state: _State) -> tuple[Family, Bending]:
    """The curves as they are, and how they were bent; raises `LandscapeError` if they are not finite."""
    finite = state.rows.isfinite().all(1).view(bending.bends, len(lines)).all(0)
    if not finite.all():
        raise LandscapeError(
            f"the bends of {int((~finite).sum())} of {len(lines)} lines have become NaN or infinite: lower `lr`"
        )
    return bending.family(_controls(lines, bending, state.rows)), dataclasses.replace(bending, steps=state.step)


def _with_bends(prepared: Prepared, bending: Bending, curve: Family, files: Sequence[Path]) -> Lines:
    """The curves with their bends in the table of members, which are written as checkpoints if there are files."""
    sources, lines = list(prepared.lines.sources), list(range(len(curve)))
    via = []
    for number, stack in enumerate(curve.vertices[1:-1], start=1):
        document = {
            "kind": "checkpoint",
            "step": bending.steps,
            "seeds": lines,
            "data_seeds": lines,
            **{key: prepared.about[key] for key in ("problem", "code") if key in prepared.about},
            "bend": {"number": number, **dataclasses.asdict(bending)},
        }
        sha = write_stack(files[number - 1], stack, document) if files else fingerprint(stack.tensors)
        path = str(files[number - 1]) if files else "memory"
        via.append(np.arange(len(lines)) + len(sources))
        sources += [Source(path, bending.steps, k, sha, f"bend {number} of line {k}") for k in lines]
    columns = {**prepared.lines.columns, "via_member": np.stack(via, axis=1)}
    return Lines(curve, columns, tuple(sources))
