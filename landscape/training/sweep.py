"""Sweeps: a grid over options of a problem and of its training, each cell of which is a run of its own."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from landscape.core import provenance
from landscape.core.devices import chosen_device
from landscape.core.errors import DamagedFile, Idle, LandscapeError, Mismatch, TooMuch, Unsupported
from landscape.core.fields import Field, as_json, axis, converted, fields_of, make, require_known, text
from landscape.core.files import differences, is_there, refuse_existing, require_vacant, write_document
from landscape.core.locks import LOCK, writing
from landscape.core.reading import read_document
from landscape.core.resources import announced, paced
from landscape.core.shares import PART, Sharing, in_order, parts_of, threads_each
from landscape.core.unfinished import Progress
from landscape.core.workers import Call, Crew, Perform, Tell
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.places import fitting
from landscape.problems.registry import (
    Found,
    Sent,
    code_of,
    find,
    made,
    name_of,
    received,
    require_fields,
    sent,
    trusted,
)
from landscape.store.checkpoints import SCHEMA, Run, code_in
from landscape.store.kinds import refuse_others
from landscape.training.plan import Training, completed, planned, save_steps
from landscape.training.train import train, unusual

__all__ = ["Cell", "Sweep", "default_output", "merge", "sweep"]

#: The files that make a directory a sweep, and a run.
_FILE, _RUN = "sweep.json", "run.json"

#: What stands in it.
_DOCUMENT = {
    "problem": {"name": str, "config": dict},
    "training": dict,
    "grid": [{"key": str, "values": [object, ...]}, ...],
    "seeds": [int, ...],
    "data_seeds": [int, ...],
    "part?": PART,
}

#: Longest text of a value, and of a cell, in the name of a directory; file systems allow 255 bytes.
_LONGEST_VALUE, _LONGEST_NAME = 40, 200

#: Cells of a grid unless more are asked for.
_MOST_CELLS = 100_000

_NO_OPTIONS: Mapping[str, Any] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of a grid's values, what is trained there, and the directory of its run. `problem_name` is the
    one in the sweep's document, where its problem was found under another.
    """

    values: Mapping[str, Any]
    path: Path
    problem: Problem
    training: Training
    problem_name: str | None = None

    @property
    def finished(self) -> bool:
        """Whether this cell's run is there and has its last step; raises `DamagedFile` for a run that is damaged."""
        run = _run_at(self.path)
        return run is not None and not self._differs(run) and self.training.batches in run.steps()

    def stack(self) -> Stack:
        """Parameters of the cell's members after their last step, finite or not; raises `LandscapeError` if it is not
        finished.
        """
        return fitting(self.problem, Run.open(self.path).checkpoint(self.training.batches), finite=False).stack

    def _differs(self, run: Run, **more: Any) -> str:
        """What differs between a run and this cell, in words; empty if nothing does."""
        wanted = self._document() | more
        trained = wanted["training"]
        if trained["data"] == "auto":  # a run says what that came to
            trained["data"] = run.document["training"].get("data")
        there = {key: run.document.get(key) for key in wanted}
        return differences({**there, "training": completed(there["training"])}, wanted)

    def _document(self) -> dict[str, Any]:
        """Problem and training as they stand in a `run.json`."""
        problem = {"name": self.problem_name or name_of(self.problem), "config": self.problem.config()}
        return {"problem": problem, "training": as_json(self.training)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A directory of runs, one a cell of a grid. `document` is what stands in its `sweep.json`; `problem` is the name
    of its problem if its user names it, whose code then runs.
    """

    path: Path
    document: Mapping[str, Any]
    problem: str | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, problem: str | None = None) -> "Sweep":
        """An existing sweep; raises `LandscapeError` if there is none, `DamagedFile` if its `sweep.json` is not one."""
        path = Path(path)
        file = path / _FILE
        if not is_there(path):
            raise LandscapeError(f"{path} does not exist: give the directory of a sweep")
        if not is_there(file):
            refuse_others(path, "the directory of a sweep")
            raise LandscapeError(f"{path} is no sweep, it has no {_FILE}: give the directory of a sweep")
        try:
            document = read_document(file, SCHEMA, _DOCUMENT)
        except DamagedFile as error:
            raise DamagedFile(f"{error}: restore it, or begin the sweep in another directory with `output`") from error
        return cls(path, document, problem)

    def cells(self) -> list[Cell]:
        """Every cell, in the order of the grid, the last key fastest.

        Raises `LandscapeError`, naming the cell, for values that make no sense, `Untrusted` for code not named before.
        """
        there: str = self.document["problem"]["name"]
        name = self.problem or there
        what = find(name) if self.problem else trusted(name, code_in(self.document), wanted_by=str(self.path))
        own, usual = _problem_fields(what), fields_of(Training)
        # A ready instance takes no options; its configuration is in the document for the reader.
        config = {} if isinstance(what, Problem) else self.document["problem"]["config"]
        found: list[Cell] = []
        for path, values in self.places():
            with _naming(path):
                options = config | {key: value for key, value in values.items() if key in own}
                rest = {key: value for key, value in values.items() if key not in own}
                problem = made(name, what, converted(options, own))
                training = _training({**self.document["training"], **rest})
                found.append(Cell(converted(values, own | usual), path, problem, training, there))
        return found

    def places(self) -> list[tuple[Path, dict[str, Any]]]:
        """Directory and values of every cell; of the problem nothing is needed."""
        axes = [[(axis["key"], value) for value in axis["values"]] for axis in self.document["grid"]]
        texts = [_texts(axis["values"]) for axis in self.document["grid"]]
        places = []
        for values, pieces in zip(itertools.product(*axes), itertools.product(*texts), strict=True):
            name = ",".join(f"{key}={piece}" for (key, _), piece in zip(values, pieces, strict=True))
            places.append((self.path / _short(name, _LONGEST_NAME), dict(values)))
        if part := self.document.get("part"):  # cells that differ in the first keys take most different times
            return places[part["begin"] :: parts_of(part)]
        return places


def sweep(
    problem: Problem | str,
    output: str | os.PathLike[str] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]],
    options: Mapping[str, Any] = _NO_OPTIONS,
    training: Training | Mapping[str, Any] = _NO_OPTIONS,
    seeds: Sequence[int] = range(20),
    data_seeds: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    resume_every: float = 10.0,
    workers: int = 1,
    shard: str | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: Progress = lambda done, total: None,
    on_cell: Callable[[Cell], None] = lambda cell: None,
) -> Sweep:
    """Train a run for every combination of a grid's values.

    Cells are what `train` makes of the same options; where `save_at` is not given, each saves step 0 and its last. All
    cells are checked before the first is trained. A sweep that is there already goes on: finished cells are skipped.

    Args:
        problem: What is learnt, or its name; it must be one that can be found again by its name.
        output: Directory of the sweep; without it `checkpoints/`, named for the problem and the keys of the grid.
        grid: Values by key, fields of the problem or of `Training`; the last key varies fastest.
        options: Fields of the problem that all cells share.
        training: The training that all cells share, or a mapping of fields of `Training`.
        seeds: The members of each cell, as in `train`.
        data_seeds: Seeds of their data: as many, or one for all; without them the seeds.
        device: Where to compute: auto, cpu or cuda; the CPU if none is given.
        resume_every: Seconds between resume states.
        workers: Processes that share the cells and this machine's threads; one that dies is replaced. Cells are those
            of one process with as many threads.
        shard: Only a part of the cells, such as `1/4`, every fourth from the first on; `landscape merge` makes one
            sweep of all.
        yes: As in `train`; and whether there may be more than 100,000 cells.
        overwrite: Remove the runs of another sweep that is there first, and nothing else.
        progress: Called with (optimizer steps done, in all), of all cells together.
        on_cell: Called with each cell that is about to be trained.

    Returns:
        The sweep, all its cells finished.

    Raises:
        LandscapeError: For options that make no sense; it names the cell.
        Mismatch: If the directory holds another sweep; it says what differs.

    Example:
        >>> import tempfile
        >>> done = sweep("life", tempfile.mkdtemp(), grid={"lr": [0.1, 0.01]}, training={"batches": 1}, seeds=[0])
        >>> [cell.path.name for cell in done.cells()]
        ['lr=0.1', 'lr=0.01']
    """
    sharing = Sharing(workers=workers, shard=shard)
    device = chosen_device(device)
    name = problem if isinstance(problem, str) else name_of(problem)
    if isinstance(problem, Problem):
        options = {key: value for key, value in unusual(problem).items() if key not in grid} | dict(options)
    if isinstance(training, Training):
        usual = {"save_at": list(save_steps(training.batches))}
        training = {k: v for k, v in as_json(training).items() if k not in grid and v != usual.get(k)}
    document = _document(name, grid, options, training, seeds, data_seeds)
    if shard is not None:
        document |= {"part": _part(sharing, document)}
    path = sharing.named(default_output(name, grid)) if output is None else Path(output)
    count = math.prod(len(axis["values"]) for axis in document["grid"])
    if count > _MOST_CELLS and not yes:
        raise TooMuch(
            f"the grid has {count:,} cells, each a directory of its own, of which a sweep has {_MOST_CELLS:,} at most: "
            "give fewer values in `grid`, or go on all the same with `yes=True`"
        )
    progress = paced(progress, "give fewer values in `grid`, or take fewer `batches`", yes=yes)
    with writing(path, directory=True):
        done, todo = _opened(Sweep(path, document), device=device, overwrite=overwrite, yes=yes)
        cells = done.cells()
        for cell in cells:
            if cell not in todo:
                Run(cell.path, {}).resume_path.unlink(missing_ok=True)  # a kill left it
        total = sum(cell.training.batches for cell in cells)
        before = total - sum(cell.training.batches for cell in todo)
        if workers > 1:
            _shared(todo, document, device, resume_every, sharing, _after(before, total, progress), on_cell)
            return done
        for cell in todo:
            on_cell(cell)
            _train(cell, document, device, resume_every, _after(before, total, progress), yes=yes)
            before += cell.training.batches
    return done


def _train(
    cell: Cell,
    document: Mapping[str, Any],
    device: torch.device,
    resume_every: float,
    progress: Progress,
    *,
    yes: bool,
) -> None:
    train(
        cell.problem,
        cell.training,
        cell.path,
        seeds=document["seeds"],
        data_seeds=document["data_seeds"],
        device=device,
        resume_every=resume_every,
        overwrite=_is_bare(cell.path),
        yes=yes,
        progress=progress,
    )


def _shared(
    todo: Sequence[Cell],
    document: Mapping[str, Any],
    device: torch.device,
    resume_every: float,
    sharing: Sharing,
    progress: Progress,
    on_cell: Callable[[Cell], None],
) -> None:
    """Let workers train the cells."""

    def tasks() -> Iterator[_Task]:
        for cell in todo:
            on_cell(cell)
            yield _Task(cell.values, cell.path, sent(cell.problem), cell.training)

    own = {key: document[key] for key in ("seeds", "data_seeds")}
    call = Call(serving, {"document": own, "device": device, "resume_every": resume_every})
    steps: dict[Path, int] = {}
    threads = threads_each(sharing.workers, torch.get_num_threads())
    with Crew(call, workers=sharing.workers, threads=threads) as crew:
        for task, is_answer, step in crew.perform(tasks(), lambda task: f"cell {task.path.name}"):
            steps[task.path] = task.training.batches if is_answer else step
            progress(sum(steps.values()), 0)


@dataclasses.dataclass(frozen=True)
class _Task:
    """A cell, for a worker."""

    values: Mapping[str, Any]
    path: Path
    problem: Problem | Sent
    training: Training


def serving(document: Mapping[str, Any], device: torch.device, resume_every: float) -> Perform:
    """What a worker does for a sweep."""

    def perform(task: _Task, tell: Tell) -> Iterator[tuple[Any, None]]:
        cell = Cell(task.values, task.path, received(task.problem), task.training)
        if not cell.finished:
            _train(cell, document, device, resume_every, lambda done, total: tell(done), yes=True)
        yield True, None

    return perform


def _part(sharing: Sharing, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep says of itself that has a part of the cells of another."""
    assert sharing.shard is not None
    number, parts = map(int, sharing.shard.split("/"))
    count = math.prod(len(axis["values"]) for axis in document["grid"])
    if number > count:
        raise Idle(f"`shard={sharing.shard!r}` has nothing to do: there are {count} cells: take {count} parts")
    work = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return {"shard": f"{number}/{parts}", "begin": number - 1, "of": count, "work": work}


def merge(paths: Sequence[Path], output: Path, *, overwrite: bool = False) -> Sweep:
    """Make the sweep of which sweeps are shards; the runs of their cells are copied.

    Raises:
        LandscapeError: A cell is not finished.
        Mismatch: A shard is missing, there twice, or of another sweep; it says which.
    """
    shards = [Sweep.open(path) for path in paths]
    order = in_order([(str(shard.path), shard.document.get("part")) for shard in shards])
    parts = [shards[number] for number in order]
    cells = [(place, values) for part in parts for place, values in part.places()]
    for place, _ in cells:
        run = _run_at(place)
        if run is None or run.document["training"]["batches"] not in run.steps():
            raise LandscapeError(f"{place} is not finished: repeat the command that began it")
    document = {key: value for key, value in parts[0].document.items() if key not in ("part", "sha256")}
    with writing(output, directory=True):
        there = _there_already(output)
        missing = [place for place, _ in cells if not is_there(output / place.name)]
        if there is not None and (overwrite or _differences(there.document, document) or not missing):
            refuse_existing(output / _FILE, force=overwrite, argument="output")
            for place, _ in there.places():
                if Run.remove(place):
                    with contextlib.suppress(OSError):  # something else lies there, and stays
                        place.rmdir()
        document = write_document(output / _FILE, document)
        for place, _ in cells:
            if not is_there(output / place.name):  # else a merge that was killed has copied it
                copy = output / f".{place.name}.tmp"
                shutil.copytree(place, copy, ignore=shutil.ignore_patterns(LOCK), dirs_exist_ok=True)
                copy.rename(output / place.name)
    return Sweep(output, document)


def _after(before: int, total: int, progress: Progress) -> Progress:
    """What a cell's training is to tell, so that all cells are counted as one."""
    return lambda step, _: progress(before + step, total)


def default_output(problem: str, grid: Mapping[str, Any]) -> Path:
    """Where a sweep goes that is given no place: named for the problem and for what is swept."""
    return Path("checkpoints") / "-".join([problem, "sweep", *grid]).replace("/", "").replace(":", "-")


def _opened(new: Sweep, *, device: torch.device, overwrite: bool, yes: bool) -> tuple[Sweep, list[Cell]]:
    """The sweep on disk, new or that which is there already, and the cells that are to be trained.

    Nothing is written or removed before all is checked.
    """
    cells = new.cells()
    _require_different(cells)
    old = _there_already(new.path)
    if old is not None and not overwrite and (different := _differences(old.document, new.document)):
        raise Mismatch(
            f"{new.path} holds another sweep: {different}. Choose another directory with `output`, or replace it with "
            "`overwrite=True`"
        )
    replaced = [place for place, _ in old.places() if is_there(place / _RUN)] if old and overwrite else []
    todo = _checked(cells, new.document, device=device, replaced=replaced, yes=yes)
    for place in replaced:
        Run.remove(place)
        with contextlib.suppress(OSError):  # something else lies there, and stays
            place.rmdir()
    if old is not None and not overwrite:
        return old, todo
    document = write_document(new.path / _FILE, {"schema": SCHEMA, **new.document, **provenance.stamp()})
    done = Sweep(new.path, document)
    # Else these would be taken for directories of something else altogether.
    for cell in cells:
        if cell.path in replaced and cell.path.exists():
            own = {key: new.document[key] for key in ("seeds", "data_seeds")}
            Run.create(cell.path, {**cell._document(), **code_of(cell.problem), **own, "computation": {}})
    return done, todo


def _document(
    problem: str,
    grid: Mapping[str, Sequence[Any]],
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    seeds: Sequence[int],
    data_seeds: Sequence[int] | None,
) -> dict[str, Any]:
    """What says all of a sweep, in JSON's types: options that are not swept with their defaults, and the grid."""
    found = find(problem)
    own, usual = _problem_fields(found), fields_of(Training)
    if both := own.keys() & usual.keys():
        raise Unsupported(f"problem '{problem}' has options that training has too, {', '.join(both)}: rename them")
    if isinstance(found, Problem):
        config = made(problem, found, options).config()
    else:
        require_fields(problem, found, options)
        every = _defaults(own) | converted(options, own)
        config = {key: value for key, value in every.items() if own[key].written(value)}
    for key in ("seeds", "data_seeds"):
        if key in grid or key in training:
            raise LandscapeError(f"there is no option '{key}' to sweep: every cell has the same seeds, its members")
    require_known(training, usual, "of training")
    require_known(grid, own | usual, "to sweep")
    if not grid:
        raise LandscapeError("there is nothing to sweep: give at least one option with its values in `grid`")
    for key in grid:
        if key in options or key in training:
            raise LandscapeError(f"{key} is both in the grid and given on its own: leave one out")
    axes = [{"key": key, "values": axis(key, values, own | usual)} for key, values in grid.items()]
    settings = _defaults(usual) | converted(training, usual)
    seeds = [int(seed) for seed in seeds]
    data_seeds = seeds if data_seeds is None else [int(seed) for seed in data_seeds]
    document = {
        "problem": {"name": name_of(found), "config": {k: v for k, v in config.items() if k not in grid}},
        "training": {k: v for k, v in settings.items() if k not in grid},
        "grid": axes,
        "seeds": seeds,
        "data_seeds": data_seeds * len(seeds) if len(data_seeds) == 1 else data_seeds,
        **code_of(found),
    }
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _problem_fields(found: Found) -> dict[str, Field]:
    """Options of a problem; a ready instance has none."""
    return {} if isinstance(found, Problem) else fields_of(found)


def _defaults(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: field.default for name, field in fields.items()}


def _training(options: Mapping[str, Any]) -> Training:
    """The training of a cell; where nothing is said of what to save, step 0 and the last."""
    training = make(Training, options)
    if options.get("save_at") is None:
        training = dataclasses.replace(training, save_at=tuple(dict.fromkeys((0, training.batches))))
    return training


def _texts(values: Sequence[Any]) -> list[str]:
    """The values of a key, short and safe in the name of a directory, and different from one another there."""
    texts = [_short(re.sub(r"[^A-Za-z0-9._+-]", "", text(value)), _LONGEST_VALUE) for value in values]
    # Some file systems do not tell small letters from capitals.
    folded = [each.lower() for each in texts]
    return [
        f"{each}~{_hash(json.dumps(value))}" if not each or folded.count(each.lower()) > 1 else each
        for each, value in zip(texts, values, strict=True)
    ]


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 9]}~{_hash(name)}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error say which cell it is about."""
    try:
        yield
    except LandscapeError as error:
        raise type(error)(f"cell {path.name}: {error}") from error


def _require_different(cells: Sequence[Cell]) -> None:
    """Raise `LandscapeError` for values that are written differently and mean the same."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(json.dumps(cell._document(), sort_keys=True), cell)
        if other is not cell:
            raise LandscapeError(f"cells {other.path.name} and {cell.path.name} are the same: leave one out")


def _there_already(path: Path) -> Sweep | None:
    """The sweep that a directory holds; raises `LandscapeError` for one that holds something else."""
    if is_there(path / _FILE):
        return Sweep.open(path)
    require_vacant(path, "sweep")
    return None


def _run_at(path: Path) -> Run | None:
    return Run.open(path) if is_there(path / _RUN) else None


def _is_bare(path: Path) -> bool:
    """Whether a run was begun and nothing of it saved, so that it can as well begin anew."""
    run = _run_at(path)
    return run is not None and not run.steps() and not is_there(path / "resume.safetensors")


def _checked(
    cells: Sequence[Cell], document: Mapping[str, Any], *, device: torch.device, replaced: Sequence[Path], yes: bool
) -> list[Cell]:
    """The cells that are to be trained; raises `LandscapeError`, naming the cell, if one could not be.

    Cells in `replaced` have runs that are going to be removed.
    """
    seeds, data_seeds = document["seeds"], document["data_seeds"]
    runs = [(cell, None if cell.path in replaced else _run_at(cell.path)) for cell in cells]
    elsewhere = "ove it elsewhere, or choose another directory with `output`"
    for cell, run in runs:
        if run is not None and (different := cell._differs(run, seeds=seeds, data_seeds=data_seeds)):
            raise Mismatch(f"{cell.path} holds another run: {different}. M{elsewhere}")
        if run is None and cell.path not in replaced:
            require_vacant(cell.path, "run", f"m{elsewhere}")
    todo = [cell for cell, run in runs if run is None or cell.training.batches not in run.steps()]
    # A place where cells began may be gone once all are finished; before that it must be the same for all.
    tell = announced("all cells are checked", len(runs))
    for number, (cell, run) in enumerate(runs if todo else ()):
        tell(number)
        with _naming(cell.path):
            plan = planned(cell.problem, cell.training, seeds, data_seeds, device=device, yes=yes)
            start = plan.document()["start"]
            if run is not None and run.steps() and run.document.get("start") != start:
                raise Mismatch(
                    f"{cell.training.start} has changed since this cell began there: begin anew with `overwrite=True`"
                )
    return todo


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between the documents of two sweeps, in words; empty if nothing does."""
    old, new = ({axis["key"]: axis["values"] for axis in document["grid"]} for document in (there, here))
    parts = [
        f"{key} is swept only {'there' if key in old else 'here'}" for key in old | new if (key in old) != (key in new)
    ]
    for key in (key for key in old if key in new):
        only = [
            f"{', '.join(text(value) for value in values if value not in others)} only {where}"
            for values, others, where in ((old[key], new[key], "there"), (new[key], old[key], "here"))
            if any(value not in others for value in values)
        ]
        if only:
            parts.append(f"{key} is {' and '.join(only)}")
        elif old[key] != new[key]:
            parts.append(f"{key} has its values in another order")
    if not parts and list(old) != list(new):
        parts.append(f"the keys are {', '.join(old)} there and {', '.join(new)} here")

    def fixed(document: Mapping[str, Any]) -> dict[str, Any]:
        """What is swept in neither."""
        options = {**document["problem"]["config"], **completed(document["training"])}
        options = {key: value for key, value in options.items() if key not in old and key not in new}
        return {"problem": document["problem"]["name"], **options, **{k: document[k] for k in ("seeds", "data_seeds")}}

    if there.get("part") != here.get("part"):
        shards = [(each.get("part") or {}).get("shard", "whole") for each in (there, here)]
        parts.append(f"shard is {shards[0]} there and {shards[1]} here")
    parts += [rest] if (rest := differences(fixed(there), fixed(here))) else []
    return "; ".join(parts)
