"""Runs and checkpoints on disk; other people's checkpoints are read beside them.

A run is a directory: `run.json` says everything about it, `step-XXXXXXXX.safetensors` hold the stacked parameters of
all members, `resume.safetensors` the state from which an interrupted training goes on, `optimizer.safetensors` what the
optimizer remembered at the end.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from landscape.core import provenance
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported, few, unfinished_in
from landscape.core.fields import MOST_MEMBERS, as_path
from landscape.core.files import (
    Stamp,
    differences,
    is_there,
    json_text,
    refuse_existing,
    require_vacant,
    write_document,
)
from landscape.core.locks import LOCK, writing
from landscape.core.notebook import table
from landscape.core.provenance import Source
from landscape.core.reading import conforming, parsed, read_document, require_schema
from landscape.core.shares import PART
from landscape.engine.stack import (
    Stack,
    aliases,
    fingerprint,
    finite,
    in_order,
    require_same_shapes,
    stack_state_dicts,
    template_of,
)
from landscape.store.formats import (
    ENDINGS,
    INDEX,
    checkpoint_files,
    is_adapter,
    mapped,
    model_weights,
    natural,
    read_safetensors,
    read_state_dict,
    state_dict_of,
    write_safetensors,
)
from landscape.store.hdf5 import is_sealed
from landscape.store.kinds import refuse_others
from landscape.store.names import naming

__all__ = [
    "Checkpoint",
    "Run",
    "code_in",
    "fitted",
    "load",
    "merged_remarks",
    "read_file",
    "read_tensors",
    "together",
    "unfinished",
    "write_stack",
    "write_tensors",
]

SCHEMA = 1

#: Seeds, one a member; many that follow one another as the first and their count, or a million of them fill a document.
_SEEDS = ([int, ...], {"first": int, "count": int})
_MANY = 1000

#: What stands in a `run.json`.
_PROBLEM = {"name": str, "config": dict}
_RUN = {
    "problem": _PROBLEM,
    "training": {"batches?": int, "data?": str, "recorded?": str},
    "seeds": _SEEDS,
    "data_seeds": _SEEDS,
    "computation": {"backend?": str, "device?": str, "dtype?": str, "threads?": int},
    "start?": (str, None),
    "continues?": object,
    "part?": PART,
    "imported?": {
        "files": [str, ...],
        "sha256": [str, ...],
        "steps?": [int],
        "reading?": [str],
        "renamed?": dict,
        "remark?": str,
    },
    "polished?": {"from": str, "sha256": str, "steps": int, "method": str, "members": [dict]},
    "created?": str,
    "command?": [str],
    "versions?": dict,
}

#: What stands in the document of a file of tensors, by its kind.
_TENSORS: Mapping[str, Mapping[str, Any]] = {
    "checkpoint": {
        "step": (int, None),
        "seeds": _SEEDS,
        "data_seeds": _SEEDS,
        "problem": _PROBLEM,
        "buffers?": [str],
        "bend?": {"number": int},
    },
    "resume": {"step": int, "done?": int, "plan?": dict},
    "optimizer": {"optimizer": str, "step": int},
    "polish": {"plan": dict},
}

#: Ends of names of what BatchNorm normalises by.
_STATISTICS = ("running_mean", "running_var")

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Members with their sources, and the problem they were trained on where that is known (name, configuration).

    `code` is the file of that problem's code, and its SHA-256, as far as the checkpoint says them. `remarks` say, a
    line each, what was done to foreign files in reading them. `load` logs them too, as information, and `fitted`, what
    does not fit a network as it is, as warnings. An `adapter` is a part of a network; the rest is the network's own.
    Tensors of large files are mapped: what is written to the file then changes them.
    """

    stack: Stack
    sources: tuple[Source, ...]
    problem: tuple[str, dict[str, Any]] | None
    remarks: tuple[str, ...] = ()
    code: Mapping[str, str] | None = None
    adapter: bool = False
    mapped: tuple[Stamp, ...] = ()

    def __repr__(self) -> str:
        return f"Checkpoint({self.sources[0].path!r}: {self.stack!r})"

    def select(self, index: Sequence[int] | Int[np.ndarray, " index"]) -> "Checkpoint":
        """The members at `index`, in its order, with their sources."""
        chosen = [int(number) for number in index]
        sources = tuple(self.sources[number] for number in chosen)
        return dataclasses.replace(self, stack=self.stack.select(chosen), sources=sources)

    def members(self) -> list["Checkpoint"]:
        """Each member as a checkpoint of its own."""
        return [self.select([number]) for number in range(len(self.sources))]

    def require_finite(self) -> None:
        """Raise `LandscapeError`, naming members and tensors, if a parameter or a statistic is NaN or infinite, a
        variance negative, or another buffer NaN: masks may well be infinite.
        """
        usable = {name: finite(tensor) for name, tensor in self.stack.tensors.items()}
        for name, tensor in self.stack.buffers.items():
            flat = tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))
            usable[name] = finite(tensor) if name.endswith(_STATISTICS) else ~flat.isnan().any(1)
            if name.endswith("running_var"):
                usable[name] &= (flat >= 0).all(1)
        rows = [ok.cpu() for ok in usable.values()]
        bad = torch.stack(rows).all(0).logical_not().nonzero().flatten().tolist() if rows else []
        if bad:
            names = [name for name, ok in usable.items() if not ok[bad[0]]]
            first = self.sources[bad[0]]
            alone = "give another" if first.path == "memory" else "leave that file out"
            remedy = alone if first.seed is None else "choose others with RUN/#seed"
            every = {**self.stack.tensors, **self.stack.buffers}
            what = "negative variances" if every[names[0]][bad[0]].isfinite().all() else "NaN or infinite"
            raise LandscapeError(
                f"{len(bad)} of {len(self.stack)} members of {first.path} have parameters that are {what}, "
                f"first {first.label} in {few(names)}: {remedy}"
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Write tensors with a JSON document beside them, atomically; returns their SHA-256."""
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {**document, "schema": SCHEMA, "names": list(arrays)}
    header["sha256"] = sha = _digest(arrays, header)
    write_safetensors(path, arrays, {"landscape": json.dumps(header, sort_keys=True)})
    return sha


def write_stack(path: Path, stack: Stack, document: Mapping[str, Any]) -> str:
    """Write members of one architecture; the document says which of the tensors are buffers, if there are any."""
    beside = {"buffers": list(stack.buffers)} if stack.buffers else {}
    return write_tensors(path, {**stack.tensors, **stack.buffers}, {**document, **beside})


def _digest(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """SHA-256 of the tensors and of all that the document says of them."""
    text = json.dumps({key: value for key, value in document.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(f"{fingerprint(tensors)} {text}".encode()).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a file of ours, digest checked; an empty document for a foreign safetensors file."""
    tensors, metadata = read_safetensors(path)
    ours = [text for key, text in metadata.items() if key == "landscape" or '"sha256"' in text]
    if not ours:
        return tensors, {}
    document = conforming(parsed(ours[0], path), {"sha256": str}, path)
    if document["sha256"] != _digest(tensors, document):
        raise DamagedFile(f"{path} is damaged: it does not match its SHA-256; restore it or make it again")
    require_schema(document, SCHEMA, path)
    kind = document.get("kind")
    conforming(document, {"names": [str], **(_TENSORS.get(kind, {}) if isinstance(kind, str) else {})}, path)
    if sorted(document["names"]) != sorted(tensors):
        raise DamagedFile(f"{path} is damaged: its tensors are not those that its document names")
    return {name: tensors[name] for name in document["names"]}, document


@dataclasses.dataclass(frozen=True)
class Run:
    """A directory of checkpoints with one configuration.

    `document` is what stands in its `run.json`; `trained_on`, where it was trained in this process, its problem itself.
    """

    path: Path
    document: Mapping[str, Any]
    trained_on: Any = dataclasses.field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {len(self.seeds)} members, {len(self.steps())} steps saved)"

    def _repr_html_(self) -> str:
        """A table: on what it was trained, how, and what is saved."""
        steps, training = self.steps(), self.document.get("training", {})
        return table(
            f"run {self.path}",
            {
                "problem": self.problem[0],
                **{name: value for name, value in self.problem[1].items() if isinstance(value, str | int | float)},
                "members": len(self.seeds),
                "saved steps": f"{len(steps)}, from {steps[0]} to {steps[-1]}" if steps else "none",
                **{name: training[name] for name in ("optimizer", "lr", "batches") if name in training},
                "created": self.document.get("created", "unknown"),
            },
        )

    def __reduce__(self) -> Any:
        return Run, (self.path, self.document)  # another process finds its problem itself

    @classmethod
    def create(cls, path: Path, document: Mapping[str, Any]) -> "Run":
        """Start a run: writes its `run.json`, with schema and provenance added."""
        written = write_document(path / "run.json", {"schema": SCHEMA, **_packed(document), **provenance.stamp()})
        return cls(path, _unpacked(written, path / "run.json"))

    @classmethod
    def remove(cls, path: Path, *, begun: bool = False) -> bool:
        """Delete the files of a run, if one is at `path` or was `begun`, and nothing else there; was there one?"""
        there = is_there(path / "run.json")
        if there or begun:
            cls(path, {}).remove_parts()
            for name in ("step-*.safetensors", "resume.safetensors", "optimizer.safetensors", "log.jsonl", "run.json"):
                for file in path.glob(name):
                    file.unlink()
        return there

    @classmethod
    def require_free(cls, path: Path, *, overwrite: bool) -> None:
        """Raise `LandscapeError` if a new run would replace one without `overwrite`, or mix with something else."""
        if is_there(path / "run.json"):
            if not overwrite:
                refuse_existing(path, force=False, argument="output")
        elif not (path / LOCK).exists():  # and else what lies there may have been begun by a writer that died
            require_vacant(path, "run")

    @classmethod
    @contextlib.contextmanager
    def made(cls, path: Path, *, overwrite: bool) -> Iterator[None]:
        """Within the block a run is made at `path` by this process alone, its `run.json` last; if that fails nothing of
        it stays. What a writer that died had begun there, without a `run.json`, goes first.
        """
        with writing(path, directory=True) as died:
            if is_there(path / "run.json"):
                cls.require_free(path, overwrite=overwrite)
            else:
                if died:
                    cls.remove(path, begun=True)
                require_vacant(path, "run")
            try:
                yield
            except BaseException:
                if not is_there(path / "run.json"):
                    cls.remove(path, begun=True)
                raise

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Run":
        """An existing run; raises `DamagedFile` if its `run.json` is not one."""
        path = as_path(path, "path")
        if path.exists() and not is_there(path / "run.json"):
            refuse_others(path, "a run directory")
            raise LandscapeError(f"{path} is no run, it has no run.json: give a run directory")
        document = _unpacked(read_document(path / "run.json", SCHEMA, _RUN), path / "run.json")
        if len(document["seeds"]) != len(document["data_seeds"]):
            raise DamagedFile(f"{path / 'run.json'} is damaged: it has not as many data_seeds as seeds")
        return cls(path, document)

    @property
    def problem(self) -> tuple[str, dict[str, Any]]:
        """Name and configuration of the problem."""
        return self.document["problem"]["name"], self.document["problem"]["config"]

    @property
    def code(self) -> Mapping[str, str] | None:
        """File and SHA-256 of the code of a problem that is the user's own."""
        return code_in(self.document)

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """Where the members of an imported run came from (`files`, `sha256`, ...); None for one that was trained."""
        return self.document.get("imported")

    @property
    def seeds(self) -> list[int]:
        """Initialisation seed of each member."""
        return list(self.document["seeds"])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what stands in its `run.json`."""
        return hashlib.sha256(json_text(self.document).encode()).hexdigest()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        names = (re.fullmatch(r"step-(\d{8,})\.safetensors", file.name) for file in self.path.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def checkpoint_path(self, step: int) -> Path:
        """File of the checkpoint of a step."""
        return self.path / f"step-{step:08d}.safetensors"

    def save(self, step: int, stack: Stack) -> str:
        """Write the checkpoint of a step; returns its digest. That of an imported run says that its step is unknown,
        unless its files are steps.
        """
        document = {
            "kind": "checkpoint",
            "step": step if self.imported is None or "steps" in self.imported else None,
            "seeds": self.seeds,
            "data_seeds": self.document["data_seeds"],
            **{key: self.document[key] for key in ("problem", "code") if key in self.document},
        }
        return write_stack(self.checkpoint_path(step), stack, _packed(document))

    @property
    def resume_path(self) -> Path:
        """File from which an interrupted training goes on."""
        return self.path / "resume.safetensors"

    @property
    def parts_path(self) -> Path:
        """Directory of the runs of parts of the members, while workers train them."""
        return self.path / "parts"

    def remove_parts(self) -> None:
        """Delete what workers left, if anything."""
        if is_there(self.parts_path / "parts.json"):
            shutil.rmtree(self.parts_path)

    @property
    def optimizer_path(self) -> Path:
        """File of the optimizer's moments at the last step."""
        return self.path / "optimizer.safetensors"

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """All members at a step; the last one that was saved if none is given."""
        steps = self.steps()
        if not steps:
            raise LandscapeError(f"{self.path} is an empty run, it has no checkpoint yet: train it first")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise LandscapeError(f"{self.path} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
        path = self.checkpoint_path(step)
        return _stacked(path, *read_tensors(path))


def load(place: str | PathLike[str]) -> Checkpoint:
    """Members named by a path: a run (last step, all seeds), RUN/@step, RUN/#seed, RUN/@step#seed, a checkpoint file,
    or FILE::KEY, what stands in it under a key, whose dots lead deeper.

    A directory in the Hugging Face layout is one member; one of plain state dicts gives one a file, in natural order, 2
    before 10, and so does a glob pattern of places. What was done to foreign files in reading them is logged, and kept
    as the checkpoint's remarks.
    """
    as_path(place, "place")
    place = fspath(place)  # with the signs at its end that a path drops
    match = re.fullmatch(r"(?P<path>.*?)/*(?:/@(?P<step>\d+))?(?:/?#(?P<seed>-?\d+))?", place)
    path = Path(match["path"] if match else place)
    if match is None or is_there(Path(place)):  # what is there as it is written comes first
        match, path = None, Path(place)
    step, seed = (int(match[key]) if match and match[key] else None for key in ("step", "seed"))
    key = ""
    if not is_there(path):
        file, _, key = place.partition("::")
        if files := sorted(map(Path, glob.glob(file, recursive=True)), key=natural) if glob.has_magic(file) else []:
            return together(place, files, [load(f"{each}::{key}" if key else str(each)) for each in files])
        if not (key and is_there(Path(file))):
            what = "matches no file" if glob.has_magic(file) else "does not exist"
            raise LandscapeError(
                f"{Path(file)} {what}: give a landmark, a run directory, RUN/@step, RUN/#seed, a checkpoint file or "
                "FILE::KEY"
            )
        path, step, seed = Path(file), None, None
    if path.is_dir() and is_there(path / "run.json"):
        if key:
            raise LandscapeError(f"{path} is a run, which has no keys: leave ::{key} out")
        checkpoint = Run.open(path).checkpoint(step)
    elif path.is_dir():
        checkpoint = _read_folder(path, step, key)
    elif step is not None:
        raise LandscapeError(f"{path} is a single checkpoint file and has no steps to choose from")
    else:
        checkpoint = read_file(path, key)
    for remark in checkpoint.remarks:
        _LOG.info("%s: %s", path, remark)
    if seed is None:
        return checkpoint
    places = [i for i, source in enumerate(checkpoint.sources) if source.seed == seed]
    if not places:
        seeds = [source.seed for source in checkpoint.sources if source.seed is not None]
        known = f"it has seeds {min(seeds)} to {max(seeds)}" if seeds else "its members have no known seeds"
        raise LandscapeError(f"{path} has no member with seed {seed}; {known}")
    chosen = tuple(checkpoint.sources[i] for i in places)
    return dataclasses.replace(checkpoint, stack=checkpoint.stack.select(places), sources=chosen)


def read_file(path: Path, key: str = "") -> Checkpoint:
    """The members of a checkpoint file, there under a `key`, or the one of a directory in the Hugging Face layout."""
    files = mapped(path)
    if path.suffix == ".safetensors" and not path.is_dir():
        tensors, document = read_tensors(path)
        if document and key:
            raise LandscapeError(f"{path} is a checkpoint of a run, which has no keys: leave ::{key} out")
        if document:
            return _stacked(path, tensors, document)
        found = dataclasses.replace(state_dict_of(path, tensors, key), adapter=is_adapter(path))
    elif path.is_file() and is_sealed(path):
        raise Unsupported(
            f"{path} is a result, which holds curves and no networks: `landscape info` shows it, landscape.Result.read "
            "gives it; give a run or a checkpoint here"
        )
    else:
        if path.suffix not in ENDINGS and not path.name.endswith(INDEX):
            refuse_others(path, "a run or a checkpoint")
        found = read_state_dict(path, key)
    behind = f"::{key}" if key else ""
    label = (path.name if path.is_dir() else path.stem) + behind
    source = Source(f"{path}{behind}", None, None, fingerprint(found.tensors), label)
    stack = Stack({name: tensor[None] for name, tensor in found.tensors.items()})  # views: large models stay once
    return Checkpoint(stack, (source,), None, found.remarks, adapter=found.adapter, mapped=files)


def _packed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with seeds as they are written."""
    return {key: _short(value) if key in ("seeds", "data_seeds") else value for key, value in document.items()}


def _short(seeds: Sequence[int]) -> Any:
    follow = len(seeds) >= _MANY and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return {"first": seeds[0], "count": len(seeds)} if follow else seeds


def _unpacked(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The document with all seeds; raises `DamagedFile` for more than a run may have."""
    found = dict(document)
    for key in ("seeds", "data_seeds"):
        if isinstance(each := found[key], dict):
            if not 1 <= each["count"] <= MOST_MEMBERS:
                raise DamagedFile(f"{path} is damaged: {key} are {each['count']}, and a run has 1 to {MOST_MEMBERS:,}")
            found[key] = list(range(each["first"], each["first"] + each["count"]))
    return found


def _stacked(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of a run, of what stands in its file."""
    if document.get("kind") != "checkpoint":
        raise DamagedFile(f"{path} is no checkpoint of a run: it is {document.get('kind', 'a foreign file')}")
    document = _unpacked(document, path)
    members = [len(each) if each.ndim else 0 for each in tensors.values()]
    if len({*members, len(document["seeds"]), len(document["data_seeds"])}) > 1:
        raise DamagedFile(f"{path} is damaged: it has not one tensor, seed and data seed a member")
    seeds = zip(document["seeds"], document["data_seeds"], strict=True)
    labels = [f"seed {seed}" if seed == data else f"seed {seed}, data seed {data}" for seed, data in seeds]
    if "bend" in document:
        labels = [f"bend {document['bend']['number']} of line {line}" for line in document["seeds"]]
    sources = tuple(
        Source(str(path), document["step"], seed, document["sha256"], label)
        for seed, label in zip(document["seeds"], labels, strict=True)
    )
    beside = set(document.get("buffers", ()))
    parts = ({name: tensor for name, tensor in tensors.items() if (name in beside) == of} for of in (False, True))
    problem = document["problem"]["name"], document["problem"]["config"]
    return Checkpoint(Stack(*parts), sources, problem, code=code_in(document), mapped=mapped(path))


def code_in(document: Mapping[str, Any]) -> Mapping[str, str] | None:
    """What a file says of its problem's code, if that is what it should be: anybody may have written it."""
    code = document.get("code")
    sound = isinstance(code, dict) and all(isinstance(code.get(key), str) for key in ("file", "sha256"))
    return code if sound else None


def unfinished(place: str) -> str:
    """A line that says so if a place is a run, without a step, whose training has not come to its end; else empty."""
    path = Path(place.partition("#")[0])
    if not is_there(path / "run.json"):
        return ""
    run = Run.open(path)
    last, batches = max(run.steps(), default=0), run.document["training"].get("batches", 0)
    if run.document["training"].get("recorded") == "begun":
        return unfinished_in(path, f"this is its step {last}")
    return f"{path} is not finished: this is its step {last} of {batches}" if last < batches else ""


def _read_folder(path: Path, step: int | None, key: str = "") -> Checkpoint:
    if is_there(path / "sweep.json"):
        cells = sorted(str(file.parent) for file in path.glob("*/run.json"))
        example = f", such as {cells[0]}" if cells else ""
        raise LandscapeError(f"{path} is a sweep, a directory of runs: name one of its cells{example}")
    if model_weights(path):
        if step is not None:
            raise LandscapeError(f"{path} is a single model, no run: it has no steps to choose from")
        return read_file(path, key)
    files = checkpoint_files(path)
    if not files:
        raise LandscapeError(
            f"{path} is no run (no run.json) and holds no checkpoints ({', '.join(ENDINGS)}): "
            "give a run, or a folder of state dicts"
        )
    if step is not None:
        raise LandscapeError(f"{path} is a folder of state dicts, no run: it has no steps to choose from")
    return together(path, files, [read_file(file, key) for file in files])


def together(place: str | Path, files: Sequence[str | Path], parts: Sequence[Checkpoint]) -> Checkpoint:
    """The members of several files as those of one place, labelled so that they are told apart."""
    for file, part in zip(files[1:], parts[1:], strict=True):
        require_same_shapes(parts[0].stack, part.stack, names=(str(files[0]), str(file)))
    problems = [part.problem for part in parts if part.problem]
    if different := [problem for problem in problems if problem != problems[0]]:
        what = differences(*({"problem": name, **config} for name, config in (problems[0], different[0])))
        raise Mismatch(f"{place} holds checkpoints of different problems: {what}. Put them into folders of their own")
    stack = stack_state_dicts([part.stack.state_dict(i) for part in parts for i in range(len(part.stack))])
    sources = tuple(source for part in parts for source in part.sources)
    if len({source.label for source in sources}) < len({source.path for source in sources}):
        sources = tuple(
            dataclasses.replace(s, label=s.path if s.seed is None else f"{s.path}, {s.label}") for s in sources
        )
    code = next((part.code for part in parts if part.code), None)
    adapter = any(part.adapter for part in parts)
    return Checkpoint(stack, sources, problems[0] if problems else None, merged_remarks(parts), code, adapter)


def merged_remarks(parts: Iterable[Checkpoint]) -> tuple[str, ...]:
    """The remarks on many files, each once, with the number of files where it is not for all."""
    parts = list(parts)
    count = Counter(remark for part in parts for remark in dict.fromkeys(part.remarks))
    return tuple(
        remark if files == len(parts) else f"{remark} (in {files} of {len(parts)} files)"
        for remark, files in count.items()
    )


def fitted(
    checkpoint: Checkpoint,
    network: nn.Module,
    *,
    moving: Collection[str] | None = None,
    statistics: bool = True,
    quiet: bool = False,
) -> Checkpoint:
    """The checkpoint with its tensors in the order of the network's, its buffers told apart.

    Names lead to those of the network as `naming` finds it. Tensors that the network lacks are left out; buffers that
    are missing or of another shape, whatever an adapter lacks, and tensors of another shape that are not among the
    `moving`, have the network's own values. Each of these is logged, unless `quiet`, and added to the remarks. Raises
    `Mismatch` listing what parameters are missing, or of another shape, and what is unexpected then; with
    `statistics`, which the network's own are no substitute for, also those of BatchNorm that are missing.
    """
    template, tied = template_of(network), aliases(network)
    there = {**checkpoint.stack.tensors, **checkpoint.stack.buffers}
    files = list(dict.fromkeys(each.label if each.path == "memory" else each.path for each in checkpoint.sources))
    path = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} first"
    ours = {**template.tensors, **template.buffers}
    free = frozenset[str]() if moving is None else ours.keys() - moving
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in there.items()}
    remarks: list[str] = []
    try:
        if found := naming(shapes, template, tied, adapter=checkpoint.adapter, free=free):
            more = [name for name in there if name not in found.own]
            if more and checkpoint.problem is not None:  # a run of ours, of another problem
                raise Mismatch(
                    "the checkpoint and the problem's network are of different architectures: only the checkpoint has "
                    f"{few(more)}"
                )
            there = {own: there[name] for name, own in found.own.items()}
            own = {name: tied.get(name, name) for name in there}
            known = set(own.values())
            needed = {name for name in template.buffers if statistics and name.endswith(_STATISTICS)}
            if lacking := [name for name in template.buffers if name in needed - known]:
                raise Mismatch(
                    f"the checkpoint lacks statistics of BatchNorm: {few(lacking)}; save them too, or estimate them "
                    'anew, `batchnorm="recalibrate"`'
                )
            other = [name for name in own if there[name].shape[1:] != ours[own[name]].shape[1:]]
            held = [name for name in other if own[name] in free]
            stale = [name for name in other if name in template.buffers and name not in free | needed]
            weights, buffers = (
                [name for name in part if name not in known] for part in (template.tensors, template.buffers)
            )
            for name in (*held, *stale, *weights, *buffers):
                value = ours[tied.get(name, name)]
                there[name] = value.expand(len(checkpoint.stack), *value.shape[1:])
            said = {
                "of its tensors, which the network has no place for, left out": more,
                "parameters that an adapter does not have are the network's own": weights,
                "buffers that it lacks are the network's own": buffers,
                "buffers that it has in another shape are the network's own": stale,
                "tensors of another shape, which `only` leaves out, held at the network's own values": held,
            }
            remarks = [found.remark] if found.remark else []
            remarks += [f"{len(names)} {what}: {few(names)}" for what, names in said.items() if names]
        elif checkpoint.adapter:
            raise Mismatch(
                f"the problem's network has no such adapter: it has no place for all of {few(there)}, named default"
            )
        stack = in_order(Stack(there), template, name="the checkpoint", aliases=tied)
    except Mismatch as error:
        raise Mismatch(f"{path}: {error}") from error
    for remark in () if quiet else remarks:
        logging.getLogger("landscape").warning("%s: %s", path, remark)
    return dataclasses.replace(checkpoint, stack=stack, remarks=(*checkpoint.remarks, *remarks))
