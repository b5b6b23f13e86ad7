"""The one loop: an objective over a family of points, in blocks, with the plain module as its referee, resumable."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from landscape.core import provenance
from landscape.core.errors import LandscapeError, Mismatch, Unverified
from landscape.core.files import differences, digest, is_there, refuse_existing, replacing
from landscape.core.locks import writing
from landscape.core.provenance import Source
from landscape.core.reading import read_arrays
from landscape.core.resources import paced, require_memory
from landscape.core.shares import Sharing
from landscape.core.shares import in_order as shards_in_order
from landscape.core.unfinished import Progress, Shards
from landscape.core.workers import Call, Crew, Perform, Tell
from landscape.engine.live import duplicate
from landscape.engine.memory import Chunk, keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import fingerprint, in_order, stack_state_dicts
from landscape.space.family import Family, Known, Points
from landscape.store.results import LARGE, Mark, Result, join, require_room, save_joined, target, unfinished

__all__ = [
    "Measuring",
    "Work",
    "computation",
    "evaluate",
    "evaluated",
    "identity",
    "merge",
    "require_same",
]

#: Chunks of members in the first block, bytes of the parameters of a block's points, and seconds: blocks grow until
#: they take so long. At least one line, or row of a plane.
_BLOCK_CHUNKS, _BLOCK_BYTES, _BLOCK_SECONDS = 16, 2**28, 0.5

#: Points of a line, or row, that are evaluated together.
_PIECE = 2**17
#: Seconds that a worker's task is to take, at least one line.
_TASK_SECONDS = 1.0

#: Bytes of a block's parameters up to which its points are made together, which costs small networks least.
_LAZY_BYTES = 2**22

#: Lines whose known points, and marks, are evaluated by the plain module too, at most.
_CHECKED = 256

#: How far a fast path may be from the plain module, relative to the loss (and absolute below a loss of 1e-2).
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
_AUTOCAST_TOLERANCE = 5e-2

#: Absolute differences that do not count where the loss has a second formula that is exact for small ones: those of
#: outputs, which in float32 two orders of summing make, move a loss of exp(-x) by as large a share of it.
_EXACT = {torch.float32: 1e-8, torch.float64: 1e-30}

#: Relative difference that recalibrated statistics make at an end, from which on it is said.
_NOTICEABLE = 0.01

#: Points of a line that are measured to an accuracy, at first.
_MEASURED = 9

_log = logging.getLogger("landscape")


@runtime_checkable
class Measuring(Protocol):
    """What finds the loss along lines or over a plane to an accuracy, not at each point: `landscape.evaluation.lines`
    and `surfaces`.
    """

    @property
    def whole(self) -> bool:
        """Whether known points are read on all samples, so that they can be compared as they are."""

    @property
    def lines(self) -> int | None:
        """How many lines are measured together, at most; None: all lines, or rows, are."""

    def asked(self) -> Mapping[str, Any]:
        """What is asked for."""

    def said(self, columns: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """What was found, of the columns of all lines."""

    def __call__(
        self,
        family: Family,
        places: np.ndarray,
        along: np.ndarray,
        known: Sequence[Known],
        tell: Callable[[int], None],
        /,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of some lines at the alphas, or of all rows, and columns; `tell` hears how many are finished."""


def evaluate(
    objective: AnyObjective,
    family: Family,
    axes: Mapping[str, np.ndarray],
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    sources: Sequence[Source] = (),
    marks: Sequence[Mark] = (),
    about: Mapping[str, Any] | None = None,
    save: Path | None = None,
    overwrite: bool = False,
    keep_seconds: float = 10.0,
    measuring: Measuring | None = None,
    yes: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Result:
    """Evaluate an objective at each point of a grid over a family.

    Checked on the way: the objective gives the same numbers twice, and at networks that are known (the ends of up to
    256 lines, or as many marks on a plane) it agrees with the plain module's own forward within a tolerance.

    Args:
        objective: What is evaluated; the point of a line that it is given is one member.
        family: The points.
        axes: Coordinates of the grid by name: `line` (0, 1, ...) and `alpha`, or `y` and `x`.
        columns, sources: What the result says of each line (see `Result`), beside their lengths.
        marks: Names and sources of the networks that are marked on a plane.
        about: What the result says of how it was obtained, beside device, type, chunks and who made it.
        save: HDF5 file for the result. Long work keeps what is finished beside it, in `FILE.parts/`, every
            `keep_seconds` and when it is interrupted; evaluating again goes on from there with the same chunks.
        overwrite: Replace what is at `save`.
        yes: Go on where memory, disk or time seem not to be there.
        measuring: Finds the loss to an accuracy, in place of all metrics at each point.
        on_progress: Called with how many points are done, and how many there are.

    Returns:
        The result. Interrupted (Ctrl-C) without `save`, what is finished by then, if anything is: the points of a line
        that is not `done` too, the rest of it being NaN.

    Raises:
        TooMuch: The values are too many for the disk of `save`, or without it for the memory, or would take years.
        Unverified: The objective is not deterministic, or does not reproduce a known network.
        Mismatch: What is kept beside `save` belongs to other work; it says what differs.
    """
    work = Work(objective, family, axes, columns or {}, sources, marks, about or {}, measuring, yes=yes)
    return evaluated(work, save=save, overwrite=overwrite, keep_seconds=keep_seconds, on_progress=on_progress)


def evaluated(
    work: "Work",
    *,
    save: Path | None = None,
    overwrite: bool = False,
    keep_seconds: float = 10.0,
    sharing: Sharing = Sharing(),  # noqa: B008
    again: Call | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Result:
    """What `evaluate` gives of some work: of all of it, or of one shard, by this process or by workers, which make the
    work `again` for themselves, by `serving`.
    """
    on_progress = paced(on_progress, "take fewer lines or `points`", yes=work.yes)
    if save is not None:
        refuse_existing(save, force=overwrite)
    family, (first, places) = work.family, next(iter(work.axes.items()))
    if work.objective.batchnorm == "keep" and len(family.vertices) > 1:
        _log.warning(
            "statistics of BatchNorm are kept as they are at the first place: everywhere else, at the other ends too, "
            "the loss is not that of the network as it was trained"
        )
    if len(work.marks) != (len(family.marked) if family.marked is not None else 0):
        raise Mismatch(f"{len(family.marked) if family.marked else 0} marked networks and {len(work.marks)} names")
    if work.measuring is not None:
        work = dataclasses.replace(work, about={**work.about, "accuracy": dict(work.measuring.asked())})
    unit = "rows" if first == "y" else "lines"
    shards = None
    if save is not None:
        keep = functools.partial(save_joined, overwrite=True)
        shards = Shards(save.with_name(save.name + ".parts"), unit=unit, read=Result.read, save=keep)
        work = dataclasses.replace(work, objective=_as_before(work.objective, shards.recorded()))
    part = sharing.part(len(places), unit=work.unit, what=unit)
    plan = {
        **identity(family),
        "grid": digest(dict(work.axes)),
        first: len(places),
        "objective": work.about,
        "computation": computation(work.objective),
    }
    if sharing.shard is not None:
        whole = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        said = {"shard": sharing.shard, "begin": part.start, "end": part.stop, "of": len(places), "work": whole}
        work = dataclasses.replace(work, about={**work.about, "part": said})
        plan["objective"] = work.about
    each = math.prod(len(axis) for axis in work.axes.values()) // max(1, len(places))
    work = dataclasses.replace(work, part=part, on_progress=on_progress, save=save)
    with contextlib.ExitStack() as stack:
        points = _Kept(None, lambda: None, math.inf)
        if shards is not None:
            points = _Kept(shards.path, functools.partial(shards.begin, plan), keep_seconds)
        crew = None
        if sharing.workers > 1:
            assert again is not None
            threads = torch.get_num_threads()
            crew = stack.enter_context(Crew(again, workers=sharing.workers, threads=threads))

        def blocks(done: int) -> Iterator[Result]:
            begin = part.start + done
            return work.blocks(begin, points) if crew is None else work.spread(begin, points, crew)

        if shards is None:
            return _in_memory(work, blocks(0), points, each)
        assert save is not None
        with writing(save):
            parts = shards.gather(
                plan,
                lambda finished: blocks(sum(map(len, finished))),
                total=len(part),
                force=overwrite,
                seconds=keep_seconds,
                on_progress=lambda done, total: on_progress(done * each, total * each),
            )
            parts = work.said(work.completed(parts))
            save_joined(parts, save, overwrite=overwrite)
            large = sum(value.nbytes for part in parts for value in part.values.values()) >= LARGE
            result = Result.read(save) if large else join(parts)
            shards.remove()
        return dataclasses.replace(result, models=work.models)  # files of finished parts hold none


def serving(make: Callable[..., "Work"], **arguments: Any) -> Perform:
    """What a worker does for `Work.spread`, with the same work, which it makes itself."""
    work = make(**arguments)
    keep_freed_memory()
    here = work.family.to(work.objective.device, work.objective.dtype)
    opened, same = (here, here.known(_CHECKED)), identity(work.family)

    def perform(task: "_Task", tell: Tell) -> Iterator[tuple[Any, "_Task | None"]]:
        objective = _as_before(work.objective, task.same["computation"])
        if different := differences(task.same, {**same, "computation": computation(objective)}):
            raise Mismatch(f"a worker comes to other work than its parent, {different}: has a file changed?")
        mine = dataclasses.replace(
            work, objective=objective, part=range(task.begin, task.end), on_progress=lambda done, total: tell(done)
        )
        kept = _Kept(task.folder, lambda: None, task.seconds)
        since = time.monotonic()
        for index, values in mine.values(task.begin, kept, opened):
            seconds, since = time.monotonic() - since, time.monotonic()
            rest = dataclasses.replace(task, begin=index.stop) if index.stop < task.end else None
            yield (index, values, seconds), rest

    return perform


@dataclasses.dataclass(frozen=True)
class _Task:
    """Consecutive lines, or rows, where their unfinished points are kept, and what must be the same in a worker."""

    begin: int
    end: int
    folder: Path | None
    seconds: float
    same: Mapping[str, Any]


def merge(paths: Sequence[Path], save: Path, *, overwrite: bool = False) -> None:
    """Write the result of which files are shards, as if it had been evaluated at once, but for time and command.

    Raises:
        Mismatch: One is missing, there twice, or of other work; it says which.
    """
    save = target(save, overwrite=overwrite)
    parts = [Result.read(path) for path in paths]
    order = shards_in_order([(str(path), part.about.get("part")) for path, part in zip(paths, parts, strict=True)])
    first = parts[order[0]]
    own = ("part", "created", "command")
    for number in order:
        there, here = ({k: v for k, v in each.about.items() if k not in own} for each in (first, parts[number]))
        if different := differences(there, here):
            raise Mismatch(f"{paths[order[0]]} and {paths[number]} are not of one kind: {different}")
    about = {key: value for key, value in first.about.items() if key != "part"} | provenance.stamp()
    with writing(save):
        save_joined(
            [dataclasses.replace(first, about=about), *(parts[number] for number in order[1:])],
            save,
            overwrite=overwrite,
        )


def identity(family: Family) -> dict[str, Any]:
    """What tells a family from another in plans of unfinished work: its networks, and which make each line."""
    stacks = {f"vertex {k}": vertex for k, vertex in enumerate(family.vertices)}
    stacks |= {"marked": family.marked.stack} if family.marked is not None else {}
    return {
        "points": {name: fingerprint({**stack.tensors, **stack.buffers}) for name, stack in stacks.items()},
        "rows": digest({"rows": family.rows.cpu().numpy()}),
        "kind": family.kind,
    }


def _in_memory(work: "Work", blocks: Iterator[Result], points: "_Kept", each: int) -> Result:
    parts: list[Result] = []
    first, places = next(iter(work.axes.items()))
    places = np.arange(len(work.part)) if first == "line" else places[work.part.start : work.part.stop]
    try:
        for part in blocks:
            parts.append(part)
            work.on_progress(sum(map(len, parts)) * each, len(places) * each)
    except KeyboardInterrupt:
        if points.part is not None:
            parts.append(points.part)
        if not parts:
            raise
        done = sum(int(part["done"].sum()) for part in parts)
        if done < len(places):
            _log.warning("interrupted: %d of %d are finished, the rest of the result is not done", done, len(places))
        return unfinished(work.said(work.completed(parts)), places)
    return join(work.said(work.completed(parts)))


@dataclasses.dataclass(eq=False)
class _Kept:
    """The finished points of a block that is not finished: in a `folder`, which `make` makes, written every `seconds`,
    and, made by `whole`, as an unfinished `part` of the result.
    """

    folder: Path | None
    make: Callable[[], Any]
    seconds: float
    part: Result | None = None
    whole: Callable[..., Result] | None = None
    last: float = dataclasses.field(default_factory=time.monotonic)

    def read(self, begin: int) -> dict[str, np.ndarray]:
        """What is kept of the block that begins at a line, by name, a number a point."""
        if (path := self._path(begin)) is None or not is_there(path):
            return {}
        try:
            return read_arrays(path)
        except LandscapeError as error:
            raise type(error)(f"{error}: delete it, its points are evaluated again") from error

    def write(self, begin: int, values: Mapping[str, np.ndarray], *, now: bool = False) -> None:
        """Keep the first points of the block, if it is time."""
        if (target := self._path(begin)) is not None and (now or time.monotonic() - self.last >= self.seconds):
            self.make()
            with replacing(target) as path, path.open("wb") as file:
                np.savez(file, **values)  # type: ignore[arg-type]
            self.last = time.monotonic()

    def forget(self, begin: int) -> None:
        """The block is finished."""
        self.part = None
        if (path := self._path(begin)) is not None:
            path.unlink(missing_ok=True)

    def _path(self, begin: int) -> Path | None:
        return None if self.folder is None else self.folder / f"points-{begin:08d}.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What is evaluated, and what the result says of it: of the lines, or rows, in `part`."""

    objective: AnyObjective
    family: Family
    axes: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    sources: Sequence[Source]
    marks: Sequence[Mark]
    about: Mapping[str, Any]
    measuring: Measuring | None = None
    comparing: Callable[[Points], Mapping[str, torch.Tensor]] | None = None
    yes: bool = False
    part: range = range(0)
    on_progress: Progress = lambda done, total: None
    save: Path | None = None

    def said(self, parts: list[Result]) -> list[Result]:
        """The parts, the first of which, whose words are those of all, says what was found of all lines."""
        if self.measuring is None:
            return parts
        every = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        about = {**parts[0].about, "accuracy": dict(self.measuring.said(every))}
        return [dataclasses.replace(parts[0], about=about), *parts[1:]]

    @property
    def unit(self) -> int:
        """Lines, or rows, that are evaluated together wherever that can change a number."""
        return self._most(_BLOCK_CHUNKS * self.objective.chunk.members) if self.objective.shares_first_layer else 1

    def _most(self, points: int) -> int:
        """Lines, or rows, of a block of so many points, or of as many as have room; one at least."""
        _, along = self.axes.values()
        first = self.family.vertices[0]
        itemsize = self.objective.dtype.itemsize
        each = len(along) if self.measuring is None else _MEASURED
        most = max(1, min(points, _BLOCK_BYTES // (first.parameters * itemsize)) // each)
        if self.measuring is None:
            return most
        return len(self.part) if self.measuring.lines is None else min(most, self.measuring.lines)

    def _opened(self) -> tuple[Family, list[Known]]:
        """The family where it is evaluated, and what is known of it, once the objective has proved deterministic."""
        keep_freed_memory()
        here = self.family.to(self.objective.device, self.objective.dtype)
        (_, places), (_, along) = self.axes.items()
        begins = self._tensors(places[:1], along[:1] * 0)
        self._require_room(here, begins)
        if isinstance(self.objective, Objective):
            self.objective.check_deterministic(here.at(*begins))
        else:
            self.objective.check_deterministic(here.points(*begins))
        return here, here.known(_CHECKED)

    def _head(self, here: Family, known: Sequence[Known]) -> Callable[..., Result]:
        """Makes a block of the result, of the `index` of its lines or rows, its values, and what else was found; what
        was known of them before, sources and columns, is not in it (see `completed`).
        """
        objective, measuring = self.objective, self.measuring
        (first, places), (second, along) = self.axes.items()
        columns = dict[str, np.ndarray]()
        if first == "line":
            columns |= dict(zip(("l1", "l2"), (each.cpu().numpy() for each in self.family.lengths()), strict=True))
        columns["done"] = np.ones(len(places), dtype=bool)
        marks = self._marked(here)
        checked = {"marks": min(len(marks), _CHECKED)} if marks else {"lines": min(len(places), _CHECKED)}
        about = {
            **self.about,
            **computation(objective),
            "mark_check" if marks else "end_check": {**checked, "relative_tolerance": _tolerance(objective)},
            **provenance.stamp(),
        }
        if first == "line" and objective.batchnorm == "recalibrate" and (measuring is None or measuring.whole):
            columns |= self._with_stored_statistics(known, len(places))

        def block(index: slice, values: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Result:
            if index.start == self.part.start and "start_stored" in columns:
                _say_what_recalibrating_changes(columns, places[index], along, values["loss"])
            return Result(
                self.family.kind,
                {first: places[index], second: along},
                values,
                {**{name: column[index] for name, column in columns.items()}, **found},
                about=about,
                marks=marks,
                models=self.models,
            )

        return block

    def blocks(self, begin: int, kept: _Kept) -> Iterator[Result]:
        """The result on consecutive lines, or rows, from number `begin` on, a block at a time."""
        here, known = self._opened()
        block = self._head(here, known)
        kept.whole = block
        for index, (values, found) in self.values(begin, kept, (here, known)):
            yield block(index, values, found)
            kept.forget(index.start)

    def spread(self, begin: int, kept: _Kept, crew: Crew) -> Iterator[Result]:
        """The same, of tasks that are given to workers in order; what comes too early waits."""
        if begin >= self.part.stop:
            return
        kept.make()  # workers keep points there, which belong to its plan
        same = {**identity(self.family), "computation": computation(self.objective)}
        along, total, unit = len(list(self.axes.values())[1]), self.part.stop, self.unit
        line = [0.0]  # seconds that one takes

        def tasks() -> Iterator[_Task]:
            at = begin
            while at < total:
                left = -(-(total - at) // unit)
                fair = max(1, left // (2 * crew.workers))
                if self.objective.streamed:  # read once for all lines of a task
                    fair = -(-(total - begin) // unit // crew.workers)
                elif line[0]:
                    fair = min(fair, max(1, int(_TASK_SECONDS / line[0] / unit)))
                else:
                    fair = min(fair, max(1, self._most(_BLOCK_CHUNKS * self.objective.chunk.members) // unit))
                end = min(total, at + fair * unit)
                yield _Task(at, end, kept.folder, kept.seconds, same)
                at = end

        def named(task: _Task) -> str:
            return f"{'row' if 'y' in self.axes else 'line'} {task.begin}"

        block: Callable[..., Result] | None = None
        waiting: dict[int, tuple[slice, Any]] = {}
        inside: dict[int, int] = {}  # points that are done of blocks that are not
        at = begin
        for task, is_answer, said in crew.perform(tasks(), named):
            if not is_answer:
                inside[task.begin] = said
            else:
                index, values, seconds = said
                inside.pop(index.start, None)
                waiting[index.start] = index, values
                line[0] = seconds / (index.stop - index.start)
            block = block or self._head(*self._opened())
            while at in waiting:
                index, (values, found) = waiting.pop(at)
                yield block(index, values, found)
                kept.forget(index.start)
                at = index.stop
            done = sum((index.stop - index.start) for index, _ in waiting.values()) + at - self.part.start
            self.on_progress(done * along + sum(inside.values()), len(self.part) * along)

    def values(
        self, begin: int, kept: _Kept, opened: tuple[Family, Sequence[Known]]
    ) -> Iterator[tuple[slice, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]]:
        """Values on consecutive lines, or rows, from number `begin` on, and other columns of them, a block at a time;
        of the family where it is evaluated, and of what is known of it.
        """
        here, known = opened
        objective, measuring, end = self.objective, self.measuring, self.part.stop
        places, along = self.axes.values()
        bytes_of_one = here.vertices[0].parameters * here.dtype.itemsize
        streamed = objective.streamed  # read once for all points
        points = _BLOCK_CHUNKS * objective.chunk.members
        while begin < end:
            started = time.monotonic()
            index = slice(begin, end if streamed else min(end, begin + self._most(points)))
            grid = np.meshgrid(places[index], along, indexing="ij")
            coordinates = self._tensors(*(each.ravel() for each in grid))
            # Points of large networks are made a chunk at a time, in the cache.
            lazy = streamed or objective.shares_first_layer
            lazy = lazy or bytes_of_one * grid[0].size > _LAZY_BYTES
            found: dict[str, np.ndarray] = {}
            if measuring is not None:
                tell = functools.partial(self._tell, begin)
                values, found = measuring(here, places[index], along, known, tell)
            elif objective.backend == "plain" and not streamed:
                values = self._point_by_point(here, coordinates, kept, index)
            else:
                pieces = list[dict[str, torch.Tensor]]()
                for few in torch.split(torch.arange(grid[0].size), grid[0].size if streamed else _PIECE):
                    some = [each[few[0] : few[-1] + 1] for each in coordinates]
                    pieces.append(objective(here.points(*some) if lazy else here.at(*some)))
                    if len(pieces) > 1 or len(few) < grid[0].size:  # a long line
                        done = begin * len(along) + int(few[-1]) + 1
                        self.on_progress(done, len(places) * len(along))
                flat = {name: torch.cat([each[name] for each in pieces]) for name in pieces[0]}
                values = {name: value.view(grid[0].shape).cpu().numpy() for name, value in flat.items()}
            if measuring is None or measuring.whole:
                self._check(known, places[index], along, values["loss"])
            if begin == self.part.start:
                self._require_dependence(here, values["loss"], coordinates)
            yield index, (values, found)
            begin = index.stop
            # Whether a first layer is shared may depend on the size of a block: then it must not depend on time.
            points *= 2 if not objective.shares_first_layer and time.monotonic() - started < _BLOCK_SECONDS else 1

    def _tell(self, begin: int, finished: int) -> None:
        """That some lines after number `begin` are finished."""
        points = len(list(self.axes.values())[1])
        self.on_progress((begin - self.part.start + finished) * points, len(self.part) * points)

    def completed(self, blocks: Sequence[Result]) -> list[Result]:
        """The blocks with what is known of their lines beforehand. Files of unfinished work go without,
        each of which would hold the sources of all lines.
        """
        columns = {name: np.asarray(column) for name, column in self.columns.items()}
        found, begin = list[Result](), self.part.start
        for block in blocks:
            own = {name: column[begin : begin + len(block)] for name, column in columns.items()}
            found.append(dataclasses.replace(block, columns={**own, **block.columns}, sources=self.sources))
            begin += len(block)
        return found

    def _require_room(self, here: Family, begins: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Raise `LandscapeError` if the values of all points do not fit on the disk or, if nothing is saved, in memory:
        they are there twice while they are put together.
        """
        points = math.prod(map(len, self.axes.values()))
        if points * 8 < LARGE:
            return
        metrics = len(self.objective(here.points(*begins)))
        size = points * metrics * 8
        if self.save is not None:
            require_room(self.save, 2 * size, yes=self.yes)  # finished parts, and what is made of them
        else:
            what = f"{points:,} points with {metrics} metrics"
            instead = "write them to a file with `save`, or take fewer lines or `points`"
            require_memory(2 * size, what, instead, yes=self.yes, estimated=True)

    def _point_by_point(
        self,
        family: Family,
        coordinates: tuple[torch.Tensor, torch.Tensor],
        kept: _Kept,
        index: slice,
    ) -> dict[str, np.ndarray]:
        """The values of a block whose points take long: what is finished of them is kept."""
        total, along, begin = len(coordinates[0]), len(list(self.axes.values())[1]), index.start
        values, step = {name: each[:total] for name, each in kept.read(begin).items()}, 1
        done = len(next(iter(values.values()))) if values else 0
        try:
            while done < total:
                started = time.monotonic()
                few = slice(done, done + step)
                points = family.points(*(each[few] for each in coordinates))
                found = self.objective(points)
                found |= {} if self.comparing is None else self.comparing(points)
                parts = {name: value.cpu().numpy() for name, value in found.items()}
                values = {name: np.append(values.get(name, part[:0]), part) for name, part in parts.items()}
                done = min(done + step, total)
                if done < total:
                    kept.write(begin, values)
                    self.on_progress((begin - self.part.start) * along + done, len(self.part) * along)
                step *= 2 if time.monotonic() - started < _BLOCK_SECONDS else 1
        except BaseException:
            if done:
                kept.write(begin, values, now=True)
                if kept.whole is not None:
                    rest = np.full(total - done, np.nan)
                    filled = {name: np.append(each, rest).reshape(-1, along) for name, each in values.items()}
                    finished = np.arange(total // along) < done // along
                    kept.part = kept.whole(index, filled, {"done": finished})
            raise
        return {name: each.reshape(-1, along) for name, each in values.items()}

    def _require_dependence(self, family: Family, loss: np.ndarray, places: Any) -> None:
        """Raise `Unverified` if the loss is the same at all points, and at one that is elsewhere: then it is that of
        another network, such as the one that a function holds on to.
        """
        if loss.size < 2 or (loss != loss.flat[0]).any() or not np.isfinite(loss.flat[0]):
            return
        points = family.at(*(each[[0, -1]] for each in places))
        if all(bool((tensor[0] == tensor[1]).all()) for tensor in points.tensors.values()):
            return
        generator = torch.Generator().manual_seed(0)
        moved = points.select([0]).map(
            lambda each: (
                each + (1 + each.abs()) * torch.randn(each.shape, generator=generator).to(each) * 0.1
                if each.is_floating_point()
                else each
            )
        )
        if (
            float(self.objective(dataclasses.replace(moved, buffers=points.select([0]).buffers))["loss"])
            == loss.flat[0]
        ):
            raise Unverified(
                f"the loss is {loss.flat[0]:.9g} at each point, whatever the parameters: it is computed from another "
                "network than the one that is given, or from none. Look for a forward that was patched on an instance, "
                "hooks or closures that hold on to the original; `batch_loss` gets the model as an argument"
            )

    def _tensors(self, first: np.ndarray, second: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.objective.device
        return torch.as_tensor(first, device=device), torch.as_tensor(second, dtype=torch.float64, device=device)

    def models(self, first: float, second: float) -> torch.nn.Module:
        """The network at a point of the part's result, whose lines are counted from its first."""
        return self.model(first if self.family.kind == "plane" else self.part.start + first, second)

    def model(self, first: float, second: float) -> torch.nn.Module:
        """The network at a point, with the statistics that it had there: a copy of the caller's."""
        kind = np.int64 if self.family.kind != "plane" else np.float64
        wide = torch.promote_types(self.family.dtype, self.objective.dtype)  # half precision is mixed as evaluated
        here = self.family.to(self.family.rows.device, wide)
        place = torch.as_tensor(np.array([first], dtype=kind)), torch.tensor([second], dtype=torch.float64)
        point = here.at(*place)
        state = point.state_dict(0)
        if isinstance(self.objective, PlainObjective):
            state |= self.objective.statistics(here.points(*place))  # which tell what is mixed
        else:
            state |= self.objective.statistics(point)
        module = duplicate(self.objective.module)
        module.load_state_dict(state, strict=False)  # what is tied is there once
        return module.requires_grad_().eval()

    def _with_stored_statistics(self, known: Sequence[Known], lines: int) -> dict[str, np.ndarray]:
        """The losses that the ends of lines have with the statistics of BatchNorm that they bring along, which are the
        numbers that their owner knows; compared with the plain module's own, and NaN where that was not done.
        """
        stored = dataclasses.replace(self.objective, batchnorm="interpolate")
        found = {name: np.full(lines, np.nan) for name in ("start_stored", "end_stored")}
        for each in known:
            number, alpha = each.coordinates
            if alpha not in (0.0, 1.0):
                continue
            stack = in_order(stack_state_dicts([each.network]), self.objective.template)
            loss, plain = (float(value["loss"][0]) for value in (stored(stack), stored.plain(stack)))
            what = f"with its stored statistics line {each.number} does not reproduce its own end"
            require_same(self.objective, loss, plain, what, f"at alpha {alpha:g}")
            found["end_stored" if alpha else "start_stored"][int(number)] = loss
        return found

    def _check(self, known: Sequence[Known], places: np.ndarray, along: np.ndarray, loss: np.ndarray) -> None:
        """Raise `Unverified` unless the losses at known networks are the plain module's own."""
        rows = [np.flatnonzero(places == each.coordinates[0]).tolist() for each in known]
        columns = [np.flatnonzero(along == each.coordinates[1]).tolist() for each in known]
        found = zip(known, rows, columns, strict=True)
        here = [(each, row[0], column[0]) for each, row, column in found if row and column]
        if not here:
            return
        states = [each.network for each, _, _ in here]
        # Of large networks no copy is made.
        groups = [[state] for state in states] if self.objective.backend == "plain" else [states]
        stacks = (in_order(stack_state_dicts(group), self.objective.template) for group in groups)
        plain = [loss for stack in stacks for loss in self.objective.plain(stack)["loss"].tolist()]
        for (each, row, column), wanted in zip(here, plain, strict=True):
            if self.marks:
                self._require_same(float(loss[row, column]), wanted, self.marks[each.number].name, each.coordinates)
                continue
            what = f"line {each.number} does not reproduce its own end"
            require_same(self.objective, float(loss[row, column]), wanted, what, f"at alpha {each.coordinates[1]:g}")

    def _marked(self, family: Family) -> list[Mark]:
        """The marks with their own losses, which are compared with the plain module's, and those of the points of the
        plane below them.
        """
        marked = family.marked
        if marked is None or not self.marks:
            return []
        own = self.objective(marked.stack)["loss"].tolist()
        below = self.objective(family.points(marked.y, marked.x))["loss"].tolist()
        checked = sorted(set(np.linspace(0, len(marked) - 1, min(len(marked), _CHECKED)).astype(int).tolist()))
        plain = self.objective.plain(marked.stack.select(checked))["loss"].tolist()
        numbers = (marked.x.tolist(), marked.y.tolist(), own, below, marked.off_plane.tolist())
        found = [
            dataclasses.replace(mark, x=x, y=y, loss=loss, plane_loss=plane_loss, off_plane=off_plane)
            for mark, x, y, loss, plane_loss, off_plane in zip(self.marks, *numbers, strict=True)
        ]
        for k, wanted in zip(checked, plain, strict=True):
            self._require_same(own[k], wanted, found[k].name, (found[k].y, found[k].x))
        return found

    def _require_same(self, loss: float, plain: float, mark: str, place: tuple[float, float]) -> None:
        what = f"the plane does not reproduce the network marked {mark}"
        require_same(self.objective, loss, plain, what, f"at x {place[1]:g}, y {place[0]:g}")


def _say_what_recalibrating_changes(
    columns: Mapping[str, np.ndarray], lines: np.ndarray, along: np.ndarray, loss: np.ndarray
) -> None:
    """The two numbers of an end, where they differ most; its owner knows the first of them."""
    pairs = [
        (columns[name][lines], loss[:, np.flatnonzero(along == alpha)[0]], alpha)
        for name, alpha in (("start_stored", 0.0), ("end_stored", 1.0))
        if (along == alpha).any()
    ]
    differences = [np.abs(anew - stored) / np.maximum(np.abs(stored), 1e-12) for stored, anew, _ in pairs]
    largest = [float(np.nanmax(each, initial=0.0)) for each in differences]
    if max(largest, default=0.0) < _NOTICEABLE:
        return
    stored, anew, alpha = pairs[int(np.argmax(largest))]
    line = int(np.nanargmax(differences[int(np.argmax(largest))]))
    _log.warning(
        "BatchNorm: at alpha %g of line %d the loss is %.6g with the statistics of the checkpoint, %.6g with those "
        "that are estimated anew at each point (`batchnorm`); both are in the result",
        alpha,
        lines[line],
        stored[line],
        anew[line],
    )


def computation(objective: AnyObjective) -> dict[str, Any]:
    """How the numbers were computed: all that can change their rounding."""
    return {
        "device": objective.device.type,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "autocast": str(objective.autocast).removeprefix("torch.") if objective.autocast else None,
        "backend": objective.backend,
        "chunk": dataclasses.asdict(objective.chunk),
    }


def _as_before(objective: AnyObjective, recorded: Mapping[str, Any] | None) -> AnyObjective:
    """The objective with the chunk of a computation that is to go on, which may have been halved for want of memory."""
    if not recorded or isinstance(objective, PlainObjective) or objective.backend != recorded["backend"]:
        return objective
    return dataclasses.replace(objective, chunk=Chunk(**recorded["chunk"]))


def _tolerance(objective: AnyObjective) -> float:
    """Relative difference up to which the engine agrees with the plain module."""
    return _AUTOCAST_TOLERANCE if objective.autocast else _TOLERANCE[objective.dtype]


def require_same(objective: AnyObjective, found: float, plain: float, what: str, where: str) -> None:
    """Raise `Unverified`, naming `what` and `where`, unless the engine's loss is the plain module's own."""
    near = _tolerance(objective)
    remedy = (
        "its forward or its loss reads something beside the tensors of its state dict"
        if objective.backend == "plain"
        else f'the {objective.backend} engine is wrong for this model: try `engine="plain"`, and please report it'
    )
    exact = isinstance(objective, Objective) and objective.metrics["loss"].reference and not objective.autocast
    least = _EXACT[objective.dtype] if exact else near * 1e-2
    if not np.isclose(found, plain, rtol=near, atol=least, equal_nan=True):
        raise Unverified(f"{what}: the walk gives loss {found:.9g} {where}, the plain module {plain:.9g}: {remedy}")
