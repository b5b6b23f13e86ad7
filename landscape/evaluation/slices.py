"""The engine of planes: plane x grid x objective -> surface, in blocks of whole rows, resumable."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core import provenance
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.files import digest, refuse_existing
from landscape.core.provenance import Source
from landscape.core.unfinished import Progress, Shards
from landscape.engine.memory import keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, concatenate, fingerprint
from landscape.evaluation.evaluate import Points, as_before, computation, require_same, streamed, tolerance
from landscape.problems.base import Problem
from landscape.problems.places import fitting, is_landmark, landmark, problem_of, short
from landscape.problems.setting import Setting
from landscape.space import planes
from landscape.space.directions import Normalise
from landscape.space.planes import Marked, Plane
from landscape.store.checkpoints import Checkpoint, Run, load
from landscape.store.surfaces import Mark, Surface, join

__all__ = [
    "Evaluation",
    "Grid",
    "Label",
    "evaluate",
    "evaluate_to_file",
    "slice_along",
    "slice_at",
    "slice_through",
]

#: Chunks of members in one block of rows, and bytes of the parameters of those that are made at once; at least one.
_BLOCK_CHUNKS, _BLOCK_BYTES = 16, 2**28

#: At most this many marked networks are re-evaluated by the plain module.
_CHECKED_MARKS = 256


@dataclasses.dataclass(frozen=True)
class Label:
    """What a marked network is called, where it came from, and its place on the trajectory if it lies on one."""

    name: str
    source: Source
    trajectory: int | None = None


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points along x and y, and their ranges in units of the axes; None: around what is marked, or -1 to 1."""

    points: tuple[int, int] = (31, 31)
    x: tuple[float, float] | None = None
    y: tuple[float, float] | None = None

    def of(self, marked: Marked) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"]]:
        """Coordinates of the columns and of the rows; those of the marks that lie on the plane are among them."""
        on_plane = (marked.off_plane == 0).cpu().numpy()
        axes = zip(self.points, (self.x, self.y), planes.span(marked), (marked.x, marked.y), strict=True)
        x, y = (
            planes.grid(count, *(given or default), places=place.cpu().numpy()[on_plane])
            for count, given, default, place in axes
        )
        return x, y


def evaluate(
    objective: Objective,
    plane: Plane,
    x: Float[np.ndarray, " x"],
    y: Float[np.ndarray, " y"],
    labels: Sequence[Label],
    *,
    attributes: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Surface:
    """Evaluate the objective at each point of a grid on the plane; `labels` name its marks, `attributes` are kept.

    Checked on the way: the objective gives the same numbers twice, and at marked networks, where the grid has a point
    at them, the surface agrees with the plain module's own forward within a tolerance (up to 256 marks, evenly
    spaced; elsewhere their own loss does). Raises `Unverified` otherwise. `on_progress` is told of rows.
    """
    parts = []
    for part in _rows(objective, plane, x, y, labels, attributes=attributes):
        parts.append(part)
        on_progress(sum(map(len, parts)), len(y))
    return join(parts)


def evaluate_to_file(
    path: Path,
    objective: Objective,
    plane: Plane,
    x: Float[np.ndarray, " x"],
    y: Float[np.ndarray, " y"],
    labels: Sequence[Label],
    *,
    attributes: Mapping[str, Any] | None = None,
    force: bool = False,
    shard_seconds: float = 10.0,
    on_progress: Progress = lambda done, total: None,
) -> Surface:
    """`evaluate`, written to an HDF5 file.

    Long work keeps its finished rows in `FILE.parts/` every `shard_seconds`, and when it is interrupted. Evaluating
    again goes on from there with the same chunk sizes; raises `Mismatch`, saying what differs, if what is kept belongs
    to other work. An existing file is replaced only with `force`.
    """
    refuse_existing(path, force=force)
    shards = Shards(path.with_name(path.name + ".parts"), unit="rows", read=Surface.read, join=join)
    objective = as_before(objective, shards.recorded())
    stacks = {"origin": plane.origin, "along": plane.x_direction, "across": plane.y_direction}
    stacks["marked"] = plane.marked.stack
    plan = {
        "plane": {name: fingerprint({**stack.tensors, **stack.buffers}) for name, stack in stacks.items()},
        "grid": digest({"x": x, "y": y}),
        "objective": dict(attributes or {}),
        "computation": computation(objective),
    }

    def go_on(finished: Sequence[Surface]) -> Iterator[Surface]:
        return _rows(objective, plane, x, y, labels, attributes=attributes, first=sum(map(len, finished)))

    surface = shards.gather(plan, go_on, total=len(y), force=force, seconds=shard_seconds, on_progress=on_progress)
    surface.write(path)
    shards.remove()
    return surface


def _rows(
    objective: Objective,
    plane: Plane,
    x: Float[np.ndarray, " x"],
    y: Float[np.ndarray, " y"],
    labels: Sequence[Label],
    *,
    attributes: Mapping[str, Any] | None,
    first: int = 0,
) -> Iterator[Surface]:
    """The surface on consecutive rows from row `first` on, a block at a time."""
    if len(labels) != len(plane.marked):
        raise Mismatch(f"{len(plane.marked)} marked networks and {len(labels)} labels")
    keep_freed_memory()
    plane = plane.to(objective.device, objective.dtype)
    objective.check_deterministic(plane.origin)
    marks = _marks(objective, plane, labels)
    checked = _plain_losses(objective, plane, marks)
    stamp = provenance.stamp()
    mark_check = {"marks": len(checked), "relative_tolerance": tolerance(objective)}
    assert objective.chunk is not None
    rows = len(y) if streamed(objective) else max(1, _BLOCK_CHUNKS * objective.chunk.members // len(x))
    for begin in range(first, len(y), rows):
        here = y[begin : begin + rows]
        # Row by row: x varies fastest.
        across, along = (torch.as_tensor(each.ravel()) for each in np.meshgrid(here, x, indexing="ij"))
        flat = objective(Points(plane.at, along, across))
        values = {name: value.view(len(here), len(x)).cpu().numpy() for name, value in flat.items()}
        for mark, plain in checked.items():
            row, column = np.flatnonzero(here == marks[mark].y), np.flatnonzero(x == marks[mark].x)
            if len(row) and len(column) and marks[mark].off_plane == 0:
                _require_same(objective, marks[mark], float(values["loss"][row[0], column[0]]), plain)
        yield Surface(
            x=x,
            y=here,
            values=values,
            marks=marks,
            attributes={**(attributes or {}), **computation(objective), "mark_check": mark_check, **stamp},
        )


def _marks(objective: Objective, plane: Plane, labels: Sequence[Label]) -> list[Mark]:
    """The marks with their own losses and those of the points of the plane below them."""
    marked = plane.marked
    own, below = objective(marked.stack)["loss"], objective(Points(plane.at, marked.x, marked.y))["loss"]
    columns: list[Tensor] = [marked.x, marked.y, own, below, marked.off_plane]
    rows = zip(*(column.double().tolist() for column in columns), strict=True)
    return [
        Mark(label.name, x, y, loss, below, off_plane, label.trajectory, label.source)
        for label, (x, y, loss, below, off_plane) in zip(labels, rows, strict=True)
    ]


def _plain_losses(objective: Objective, plane: Plane, marks: Sequence[Mark]) -> dict[int, float]:
    """The plain module's losses of up to 256 marks, with which those of the engine have been compared."""
    checked = np.linspace(0, len(marks) - 1, min(len(marks), _CHECKED_MARKS)).astype(int).tolist()
    losses = dict(zip(checked, objective.plain(plane.marked.stack.select(checked))["loss"].tolist(), strict=True))
    for mark, loss in losses.items():
        _require_same(objective, marks[mark], marks[mark].loss, loss)
    return losses


def _require_same(objective: Objective, mark: Mark, loss: float, plain: float) -> None:
    """Raise `Unverified` unless the engine's loss at a mark is the plain module's own."""
    what = f"the plane does not reproduce the network marked {mark.name}"
    require_same(objective, loss, plain, what, f"at x {mark.x:g}, y {mark.y:g}")


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a slice is evaluated, and the file that it goes to; `output` None: a name in `analyses/`."""

    grid: Grid = Grid()
    setting: Setting = Setting()
    output: Path | None = None
    force: bool = False
    on_progress: Progress = lambda done, total: None


def slice_through(a: str, b: str, c: str, *, problem: Problem | None = None, how: Evaluation | None = None) -> Path:
    """Evaluate the plane through three places and write the surface to a file; returns its path.

    A place is a landmark's name or what `store.load` reads; the problem is that of the checkpoints unless one is given.
    Raises `Unverified` for a landmark that does not solve it, `Mismatch` for a checkpoint of another architecture or
    for several members at a place, `LandscapeError` for one that holds NaN or for three on one line.
    """
    how, places = how or Evaluation(), (a, b, c)
    problem, points = _points(places, problem, how)
    sources = [point.sources[0] for point in points]
    labels = [Label(name, source) for name, source in zip(_names(places, sources), sources, strict=True)]
    about: dict[str, Any] = {"kind": "through", "places": list(places), "landmarks": _landmarks(problem, places)}
    plane = planes.through(*_kept([point.stack for point in points], how))
    return _evaluated(problem, plane, labels, about, f"plane-{'--'.join(map(short, places))}", how)


def slice_at(
    place: str,
    *,
    seed: int = 0,
    normalise: Normalise = "filter",
    problem: Problem | None = None,
    how: Evaluation | None = None,
) -> Path:
    """The same for the plane of two random directions at a place."""
    how = how or Evaluation()
    problem, (point,) = _points([place], problem, how)
    labels = [Label(name, point.sources[0]) for name in _names([place], point.sources)]
    about: dict[str, Any] = {"kind": "random", "places": [place], "landmarks": _landmarks(problem, [place])}
    about |= {"seed": seed, "normalise": normalise}
    plane = planes.random(point.stack, seed, normalise=normalise)
    return _evaluated(problem, plane, labels, about, f"plane-{short(place)}--random-{seed}", how)


def slice_along(place: str, *, problem: Problem | None = None, how: Evaluation | None = None) -> Path:
    """The same for the plane closest to all checkpoints of one member of a run, RUN#seed, through its last."""
    path, _, seed = place.partition("#")
    folder = path.rstrip("/")
    if not (Path(folder) / "run.json").exists():
        raise LandscapeError(
            f"{path} is no run (no run.json): a trajectory needs RUN#seed, such as checkpoints/first#0"
        )
    steps = Run.open(Path(folder)).steps()
    found = [load(f"{folder}/@{step}" + (f"#{seed}" if seed else "")) for step in steps]
    problem = problem or problem_of({place: found[0]} if found else {})
    points = [fitting(problem, _require_single(place, checkpoint)) for checkpoint in found]
    labels = [
        Label(f"step {step}", point.sources[0], trajectory=order)
        for order, (step, point) in enumerate(zip(steps, points, strict=True))
    ]
    how = how or Evaluation()
    stacks = _kept([point.stack for point in reversed(points)], how)
    plane = planes.trajectory(concatenate(stacks[::-1]))
    about: dict[str, Any] = {"kind": "trajectory", "places": [place], "landmarks": {}, "explained": plane.explained}
    return _evaluated(problem, plane, labels, about, f"plane-{short(place)}--trajectory", how)


def _evaluated(
    problem: Problem, plane: Plane, labels: Sequence[Label], about: Mapping[str, Any], name: str, how: Evaluation
) -> Path:
    """The file with the surface on a plane."""
    objective = how.setting.objective(problem)
    path = how.output or Path("analyses") / f"{name}.h5"
    attributes = {**how.setting.describe(problem, objective), "plane": dict(about)}
    x, y = how.grid.of(plane.marked)
    evaluate_to_file(
        path, objective, plane, x, y, labels, attributes=attributes, force=how.force, on_progress=how.on_progress
    )
    return path


def _points(places: Sequence[str], problem: Problem | None, how: Evaluation) -> tuple[Problem, list[Checkpoint]]:
    """The problem, and the single network at each place."""
    loaded = {place: _require_single(place, load(place)) for place in places if not is_landmark(place)}
    problem = problem or problem_of(loaded)
    return problem, [
        fitting(problem, loaded[place] if place in loaded else landmark(problem, place, **how.setting.drawn))
        for place in places
    ]


def _kept(stacks: list[Stack], how: Evaluation) -> list[Stack]:
    """The stacks, all with the buffers of the first where these are to be kept."""
    if how.setting.batchnorm != "keep":
        return stacks
    return [dataclasses.replace(stack, buffers=stacks[0].buffers) for stack in stacks]


def _require_single(place: str, checkpoint: Checkpoint) -> Checkpoint:
    if len(checkpoint.stack) != 1:
        raise Mismatch(
            f"{place} has {len(checkpoint.stack)} members, and a plane is laid through single ones: choose one with "
            "RUN/#seed"
        )
    return checkpoint


def _landmarks(problem: Problem, places: Sequence[str]) -> dict[str, str]:
    """Full names of the landmarks among places."""
    return {place: problem.describe_landmark(place) for place in places if is_landmark(place)}


def _names(places: Sequence[str], sources: Sequence[Source]) -> list[str]:
    """What networks are called on a figure: as briefly as it tells them apart."""
    brief = [place if is_landmark(place) else source.label for place, source in zip(places, sources, strict=True)]
    steps = [
        name if source.step is None else f"{name}, step {source.step}"
        for name, source in zip(brief, sources, strict=True)
    ]
    return next((names for names in (brief, steps) if len(set(names)) == len(names)), [*map(short, places)])
