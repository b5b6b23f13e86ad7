"""Sweeps: a grid over options of a problem and of its training, each cell of which is a run of its own."""

import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from landscape.core import provenance
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.files import differences, read_json, write_json
from landscape.core.unfinished import Progress
from landscape.engine.stack import Stack, fingerprint
from landscape.problems.base import Problem, create, find, require_fields
from landscape.problems.places import fitting
from landscape.store.checkpoints import SCHEMA, Run
from landscape.training.train import Training, check, train

__all__ = ["Cell", "Sweep", "sweep"]

#: The file that makes a directory a sweep.
_FILE = "sweep.json"

#: Longest text of a value, and of a cell, in the name of a directory; file systems allow 255 bytes.
_LONGEST_VALUE, _LONGEST_NAME = 40, 200

#: How the types of options are called in errors.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of a grid's values, what is trained there, and the directory of its run."""

    values: Mapping[str, Any]
    path: Path
    problem: Problem
    training: Training

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
        return differences({key: run.document.get(key) for key in wanted}, wanted)

    def _document(self) -> dict[str, Any]:
        """Problem and training as they stand in a `run.json`."""
        problem = {"name": self.problem.name, "config": self.problem.config()}
        return {"problem": problem, "training": dataclasses.asdict(self.training)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A directory of runs, one a cell of a grid. `document` is what stands in its `sweep.json`."""

    path: Path
    document: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Sweep":
        """An existing sweep; raises `LandscapeError` if there is none, `DamagedFile` if its `sweep.json` is not one."""
        file = path / _FILE
        if not _is_there(file):
            raise LandscapeError(f"{path} is no sweep, it has no {_FILE}: give the directory of a sweep")
        try:
            document = read_json(file)
        except DamagedFile as error:
            raise DamagedFile(f"{error}: restore it, or begin the sweep in another directory with -o") from error
        needed = {"schema", "problem", "training", "grid", "seeds", "data_seeds"}
        if lacks := needed - document.keys() if isinstance(document, dict) else needed:
            raise DamagedFile(f"{file} is damaged: it lacks {', '.join(sorted(lacks))}")
        if document["schema"] != SCHEMA:
            raise Unsupported(f"{file} has schema {document['schema']}, this version reads {SCHEMA}: update landscape")
        if not _is_sound(document):
            raise DamagedFile(f"{file} is damaged: its options, its grid or its seeds are not what they should be")
        return cls(path, document)

    def cells(self) -> list[Cell]:
        """Every cell, in the order of the grid, the last key fastest.

        Raises `LandscapeError`, naming the cell, for values that make no sense.
        """
        name = self.document["problem"]["name"]
        fields = _problem_fields(name)
        # A ready instance takes no options; its configuration is in the document for the reader.
        config = {} if isinstance(find(name), Problem) else self.document["problem"]["config"]
        found: list[Cell] = []
        for path, values in self._places():
            with _naming(path):
                own = {key: value for key, value in values.items() if key in fields}
                rest = {key: value for key, value in values.items() if key not in fields}
                problem = create(name, _converted({**config, **own}, fields))
                training = _training({**self.document["training"], **rest})
                found.append(Cell(_converted(values, fields | _training_fields()), path, problem, training))
        return found

    def _places(self) -> list[tuple[Path, dict[str, Any]]]:
        """Directory and values of every cell; a problem that cannot be made any more does not matter here."""
        axes = [[(axis["key"], value) for value in axis["values"]] for axis in self.document["grid"]]
        texts = [_texts(axis["values"]) for axis in self.document["grid"]]
        places = []
        for values, pieces in zip(itertools.product(*axes), itertools.product(*texts), strict=True):
            name = ",".join(f"{key}={text}" for (key, _), text in zip(values, pieces, strict=True))
            places.append((self.path / _short(name, _LONGEST_NAME), dict(values)))
        return places


def sweep(
    problem: str,
    path: Path,
    *,
    grid: Mapping[str, Sequence[Any]],
    problem_options: Mapping[str, Any] = types.MappingProxyType({}),
    training: Mapping[str, Any] = types.MappingProxyType({}),
    seeds: Sequence[int],
    data_seeds: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    resume_every: float = 30.0,
    force: bool = False,
    on_progress: Progress = lambda done, total: None,
    on_cell: Callable[[Cell], None] = lambda cell: None,
) -> Sweep:
    """Train a run for every combination of the grid's values; the keys are fields of the problem or of `Training`.

    Cells are what `train` makes of the same options; where `save_at` is not given, each saves step 0 and its last. All
    cells are checked before the first is trained. A sweep that is there already goes on: finished cells are skipped.
    `on_progress` is told of optimizer steps of all cells, `on_cell` of each cell that is about to be trained.

    Raises `LandscapeError`, naming the cell, for options that make no sense, and `Mismatch`, saying what differs, if
    the directory holds another sweep, unless `force` removes the runs of that sweep first, and nothing else.
    """
    document = _document(problem, grid, problem_options, training, seeds, data_seeds)
    new = Sweep(path, document)
    cells = new.cells()
    _require_different(cells)
    old = _there_already(path)
    if old is not None and not force and (different := _differences(old.document, document)):
        raise Mismatch(
            f"{path} holds another sweep: {different}. Choose another directory with -o, or replace it with --force"
        )
    replaced = [place for place, _ in old._places() if _is_there(place / "run.json")] if old and force else []
    todo = _checked(cells, document, device=device, replaced=replaced)
    for place in replaced:
        Run.remove(place)
        with contextlib.suppress(OSError):  # something else lies there, and stays
            place.rmdir()
    if old is None or force:
        new = Sweep(path, {"schema": SCHEMA, **document, **provenance.stamp()})
        write_json(path / _FILE, new.document)
    else:
        new = old
    # Else these would be taken for directories of something else altogether.
    for cell in cells:
        if cell.path in replaced and cell.path.exists():
            own = {"seeds": document["seeds"], "data_seeds": document["data_seeds"], "computation": {}}
            Run.create(cell.path, {**cell._document(), **own})
    total = sum(cell.training.batches for cell in cells)
    done = total - sum(cell.training.batches for cell in todo)
    for cell in todo:
        on_cell(cell)
        for left_over in cell.path.glob(".run.json.*.tmp"):  # of a writer that was killed
            left_over.unlink()
        train(
            cell.problem,
            cell.training,
            cell.path,
            seeds=document["seeds"],
            data_seeds=document["data_seeds"],
            device=device,
            resume_every=resume_every,
            force=_is_bare(cell.path),
            on_progress=_after(done, total, on_progress),
        )
        done += cell.training.batches
    return new


def _after(before: int, total: int, on_progress: Progress) -> Progress:
    """What a cell's training is to tell, so that all cells are counted as one."""
    return lambda step, _: on_progress(before + step, total)


def _document(
    problem: str,
    grid: Mapping[str, Sequence[Any]],
    problem_options: Mapping[str, Any],
    training: Mapping[str, Any],
    seeds: Sequence[int],
    data_seeds: Sequence[int] | None,
) -> dict[str, Any]:
    """What says all of a sweep, in JSON's types: options that are not swept with their defaults, and the grid."""
    found = find(problem)
    own, usual = _problem_fields(problem), _training_fields()
    if both := own.keys() & usual.keys():
        raise Unsupported(f"problem '{problem}' has options that training has too, {', '.join(both)}: rename them")
    if isinstance(found, Problem):
        config = create(problem, problem_options).config()
    else:
        require_fields(problem, found, problem_options)
        config = _defaults(found)
    _require_known(training, usual, "of training")
    _require_known(grid, own | usual, "to sweep")
    if not grid:
        raise LandscapeError("there is nothing to sweep: give at least one option with its values, --grid KEY=V1,V2")
    for key in grid:
        if key in problem_options or key in training:
            raise LandscapeError(f"{key} is both in the grid and given on its own: leave one out")
    axes = [{"key": key, "values": _axis(key, values, own | usual)} for key, values in grid.items()]
    config |= _converted(problem_options, own)
    settings = _defaults(Training) | _converted(training, usual)
    seeds = [int(seed) for seed in seeds]
    data_seeds = seeds if data_seeds is None else [int(seed) for seed in data_seeds]
    document = {
        "problem": {"name": found.name, "config": {k: v for k, v in config.items() if k not in grid}},
        "training": {k: v for k, v in settings.items() if k not in grid},
        "grid": axes,
        "seeds": seeds,
        "data_seeds": data_seeds * len(seeds) if len(data_seeds) == 1 else data_seeds,
    }
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def _problem_fields(name: str) -> dict[str, Any]:
    """Options of a problem, with their types; a ready instance has none."""
    found = find(name)
    return {} if isinstance(found, Problem) else _types(found)


def _training_fields() -> dict[str, Any]:
    """Options of training, with their types."""
    return _types(Training)


def _types(of: type) -> dict[str, Any]:
    hints = typing.get_type_hints(of)
    return {field.name: hints[field.name] for field in dataclasses.fields(of)}


def _defaults(of: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(of)}


def _require_known(keys: Iterable[str], known: Mapping[str, Any], what: str) -> None:
    """Raise `LandscapeError`, with the nearest that there is, for an option that there is not."""
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            if key in ("seeds", "data_seeds"):
                hint = "every cell has the same seeds, its members"
            raise LandscapeError(f"there is no option '{key}' {what}: {hint}")


def _axis(key: str, values: Sequence[Any], kinds: Mapping[str, Any]) -> list[Any]:
    """The values of a key of the grid; raises `LandscapeError` if there are none, or one twice."""
    if isinstance(values, str):
        raise LandscapeError(f"the values of {key} are the text {values!r}: give a list of values")
    found: list[Any] = []
    for value in values:
        (value,) = _converted({key: value}, kinds).values()
        if value in found:
            raise LandscapeError(f"{key} has the value {_text(value)} twice in the grid: leave one out")
        found.append(value)
    if not found:
        raise LandscapeError(f"{key} has no values to sweep: give at least one, or leave it out of the grid")
    return found


def _converted(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Values as fields of these types hold them; raises `LandscapeError` for one of another kind."""
    converted = {}
    for key, value in values.items():
        try:
            converted[key] = _as(kinds.get(key), value.item() if isinstance(value, np.generic) else value)
        except TypeError as error:
            raise LandscapeError(f"{key} cannot be {value!r}: it takes {error}") from error
    return converted


def _as(hint: Any, value: Any) -> Any:
    """The value in a type; raises `TypeError` with the words for what that type holds. An unknown type holds all."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in choices:
            return None
        return _as(next(choice for choice in choices if choice is not types.NoneType), value)
    if origin is Literal:
        if value not in choices:
            raise TypeError(f"one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple and choices[1:] == (...,):
        if not isinstance(value, list | tuple):
            raise TypeError("a list of values")
        return tuple(_as(choices[0], item) for item in value)
    if hint not in _KINDS:
        return value
    fits = isinstance(value, int | float) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise TypeError(_KINDS[hint])
    return float(value) if hint is float else value


def _training(options: Mapping[str, Any]) -> Training:
    """The training of a cell; where nothing is said of what to save, step 0 and the last."""
    _require_known(options, _training_fields(), "of training")
    training = Training(**_converted(options, _training_fields()))
    if options.get("save_at") is None:
        training = dataclasses.replace(training, save_at=tuple(dict.fromkeys((0, training.batches))))
    return training


def _text(value: Any) -> str:
    """A value as a reader would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value)) or "none"
    return str(value)


def _texts(values: Sequence[Any]) -> list[str]:
    """The values of a key, short and safe in the name of a directory, and different from one another there."""
    texts = [_short(re.sub(r"[^A-Za-z0-9._+-]", "", _text(value)), _LONGEST_VALUE) for value in values]
    # Some file systems do not tell small letters from capitals.
    folded = [text.lower() for text in texts]
    return [
        f"{text}~{_hash(json.dumps(value))}" if not text or folded.count(text.lower()) > 1 else text
        for text, value in zip(texts, values, strict=True)
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 9]}~{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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


def _is_there(path: Path) -> bool:
    """Whether something is there; raises `LandscapeError` where that cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from error
    return True


def _holds_something(path: Path) -> bool:
    """Whether a path is taken, by more than an empty directory or what a killed writer left there."""
    if not _is_there(path):
        return False
    return not path.is_dir() or any(not re.fullmatch(r"\..*\.tmp", file.name) for file in path.iterdir())


def _there_already(path: Path) -> Sweep | None:
    """The sweep that a directory holds; raises `LandscapeError` for one that holds something else."""
    if _is_there(path / _FILE):
        return Sweep.open(path)
    if _holds_something(path):
        raise LandscapeError(f"{path} exists and is no sweep: choose another directory with -o")
    return None


def _run_at(path: Path) -> Run | None:
    return Run.open(path) if _is_there(path / "run.json") else None


def _is_bare(path: Path) -> bool:
    """Whether a run was begun and nothing of it saved, so that it can as well begin anew."""
    run = _run_at(path)
    return run is not None and not run.steps() and not _is_there(path / "resume.safetensors")


def _checked(
    cells: Sequence[Cell], document: Mapping[str, Any], *, device: str | torch.device, replaced: Sequence[Path]
) -> list[Cell]:
    """The cells that are to be trained; raises `LandscapeError`, naming the cell, if one could not be.

    Cells in `replaced` have runs that are going to be removed.
    """
    seeds, data_seeds = document["seeds"], document["data_seeds"]
    runs = [None if cell.path in replaced else _run_at(cell.path) for cell in cells]
    todo = []
    for cell, run in zip(cells, runs, strict=True):
        if run is not None and (different := cell._differs(run, seeds=seeds, data_seeds=data_seeds)):
            raise Mismatch(
                f"{cell.path} holds another run: {different}. Move it elsewhere, or choose another directory with -o"
            )
        if run is None and cell.path not in replaced and _holds_something(cell.path):
            raise LandscapeError(
                f"{cell.path} exists and is no run: move it elsewhere, or choose another directory with -o"
            )
        if run is None or cell.training.batches not in run.steps():
            todo.append(cell)
    # A place where cells began may be gone once all are finished; before that it must be the same for all.
    for cell, run in zip(cells, runs, strict=True) if todo else ():
        with _naming(cell.path):
            start = _checked_start(cell, seeds, data_seeds, device)
            if run is not None and run.steps() and run.document.get("start") != start:
                raise Mismatch(
                    f"{cell.training.start} has changed since this cell began there: begin anew with --force"
                )
    return todo


def _checked_start(
    cell: Cell, seeds: Sequence[int], data_seeds: Sequence[int], device: str | torch.device
) -> str | None:
    """Digest of the place where a cell starts, if it names one; raises what `train` would before its first step."""
    _, start, _ = check(cell.problem, cell.training, seeds, data_seeds, device=device)
    return None if start is None else fingerprint(start.tensors)


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Whether the parts of a `sweep.json` are of the kinds they should be."""
    problem, training, grid = document["problem"], document["training"], document["grid"]
    lists = [document["seeds"], document["data_seeds"]]
    if not (isinstance(problem, dict) and isinstance(problem.get("name"), str) and isinstance(training, dict)):
        return False
    if not isinstance(problem.get("config"), dict) or not isinstance(grid, list) or not grid:
        return False
    if not all(isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds) for seeds in lists):
        return False
    return all(
        isinstance(axis, dict)
        and isinstance(axis.get("key"), str)
        and isinstance(axis.get("values"), list)
        and bool(axis["values"])
        for axis in grid
    )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between the documents of two sweeps, in words; empty if nothing does."""
    old, new = ({axis["key"]: axis["values"] for axis in document["grid"]} for document in (there, here))
    parts = [
        f"{key} is swept only {'there' if key in old else 'here'}" for key in old | new if (key in old) != (key in new)
    ]
    for key in (key for key in old if key in new):
        only = [
            f"{', '.join(_text(value) for value in values if value not in others)} only {where}"
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
        options = {**document["problem"]["config"], **document["training"]}
        options = {key: value for key, value in options.items() if key not in old and key not in new}
        return {"problem": document["problem"]["name"], **options, **{k: document[k] for k in ("seeds", "data_seeds")}}

    parts += [rest] if (rest := differences(fixed(there), fixed(here))) else []
    return "; ".join(parts)
