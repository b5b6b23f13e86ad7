"""Runs and checkpoints on disk; other people's checkpoints are read beside them.

A run is a directory: `run.json` says everything about it, `step-XXXXXXXX.safetensors` hold the stacked parameters of
all members, `resume.safetensors` the state from which an interrupted training goes on.
"""

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from landscape.core import provenance
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported, few
from landscape.core.fields import as_path
from landscape.core.files import differences, is_there, read_document, replacing, write_json
from landscape.core.provenance import Source
from landscape.engine.stack import (
    Stack,
    aliases,
    fingerprint,
    in_order,
    names_fit,
    require_same_shapes,
    stack_state_dicts,
    template_of,
)
from landscape.store.formats import (
    ENDINGS,
    WRAPPERS,
    checkpoint_files,
    leading,
    model_weights,
    read_safetensors,
    read_state_dict,
    state_dict_of,
)

__all__ = [
    "Checkpoint",
    "Run",
    "code_in",
    "fitted",
    "load",
    "merged_remarks",
    "read_file",
    "read_tensors",
    "unfinished",
    "write_stack",
    "write_tensors",
]

SCHEMA = 1

#: What stands in a `run.json`.
_RUN = {
    "problem": {"name": object, "config": object},
    "training": object,
    "seeds": [int],
    "data_seeds": [int],
    "computation": object,
}

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Members with their sources, and the problem they were trained on where that is known (name, configuration).

    `code` is the file of that problem's code, and its SHA-256, as far as the checkpoint says them. `remarks` say, a
    line each, what was done to foreign files in reading them. `load` and `fitted` log them too, as information.
    """

    stack: Stack
    sources: tuple[Source, ...]
    problem: tuple[str, dict[str, Any]] | None
    remarks: tuple[str, ...] = ()
    code: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({self.sources[0].path!r}: {self.stack!r})"

    def require_finite(self) -> None:
        """Raise `LandscapeError`, naming members and tensors, if a parameter or a statistic is NaN or infinite, a
        variance negative, or another buffer NaN: masks may well be infinite.
        """
        usable = {name: tensor.isfinite() for name, tensor in self.stack.tensors.items()}
        for name, tensor in self.stack.buffers.items():
            statistic = name.endswith(("running_mean", "running_var"))
            usable[name] = tensor.isfinite() if statistic else ~tensor.isnan()
            if name.endswith("running_var"):
                usable[name] &= tensor >= 0
        finite = {name: ok.reshape(len(ok), math.prod(ok.shape[1:])).all(1) for name, ok in usable.items()}
        bad = [i for i in range(len(self.stack)) if not all(ok[i] for ok in finite.values())]
        if bad:
            names = [name for name, ok in finite.items() if not ok[bad[0]]]
            first = self.sources[bad[0]]
            remedy = "leave that file out" if first.seed is None else "choose others with RUN/#seed"
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
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(arrays, temporary, metadata={"landscape": json.dumps(header, sort_keys=True)})
        except safetensors.SafetensorError as error:  # such as a full disk
            raise LandscapeError(f"cannot write {path}: {error}") from error
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
    try:
        document = json.loads(ours[0])
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged ({error}): restore it or make it again") from error
    if not isinstance(document, dict) or document.get("sha256") != _digest(tensors, document):
        raise DamagedFile(f"{path} is damaged: it does not match its SHA-256; restore it or make it again")
    if document["schema"] != SCHEMA:
        raise Unsupported(f"{path} has schema {document['schema']}, this version reads {SCHEMA}: update landscape")
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

    @classmethod
    def create(cls, path: Path, document: Mapping[str, Any]) -> "Run":
        """Start a run: writes its `run.json`, with schema and provenance added."""
        document = {"schema": SCHEMA, **document, **provenance.stamp()}
        write_json(path / "run.json", document)
        return cls(path, document)

    @classmethod
    def remove(cls, path: Path) -> bool:
        """Delete the files of a run, if there is one at `path`, and nothing else that lies there; was there one?"""
        there = (path / "run.json").exists()
        if there:
            for name in ("step-*.safetensors", "resume.safetensors", "log.jsonl", "run.json"):
                for file in path.glob(name):
                    file.unlink()
        return there

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Run":
        """An existing run; raises `DamagedFile` if its `run.json` is not one."""
        path = as_path(path, "path")
        return cls(path, read_document(path / "run.json", SCHEMA, _RUN, "its problem or its seeds"))

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

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        names = (re.fullmatch(r"step-(\d{8,})\.safetensors", file.name) for file in self.path.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def checkpoint_path(self, step: int) -> Path:
        """File of the checkpoint of a step."""
        return self.path / f"step-{step:08d}.safetensors"

    def save(self, step: int, stack: Stack) -> str:
        """Write the checkpoint of a step; returns its digest. That of an imported run says that its step is unknown."""
        document = {
            "kind": "checkpoint",
            "step": step if self.imported is None else None,
            "seeds": self.seeds,
            "data_seeds": self.document["data_seeds"],
            **{key: self.document[key] for key in ("problem", "code") if key in self.document},
        }
        return write_stack(self.checkpoint_path(step), stack, document)

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
    """Members named by a path: a run (last step, all seeds), RUN/@step, RUN/#seed, RUN/@step#seed, or a checkpoint
    file.

    A directory in the Hugging Face layout is one member; one of plain state dicts gives one a file, in the order of
    names. What was done to foreign files in reading them is logged, and kept as the checkpoint's remarks.
    """
    as_path(place, "place")
    place = fspath(place)  # with the signs at its end that a path drops
    match = re.fullmatch(r"(?P<path>.*?)/*(?:/@(?P<step>\d+))?(?:/?#(?P<seed>-?\d+))?", place)
    path = Path(match["path"] if match else place)
    if match is None or is_there(Path(place)):  # what is there as it is written comes first
        match, path = None, Path(place)
    step, seed = (int(match[key]) if match and match[key] else None for key in ("step", "seed"))
    if not is_there(path):
        raise LandscapeError(
            f"{path} does not exist: give a landmark, a run directory, RUN/@step, RUN/#seed or a checkpoint file"
        )
    if path.is_dir():
        checkpoint = Run.open(path).checkpoint(step) if (path / "run.json").exists() else _read_folder(path, step)
    elif step is not None:
        raise LandscapeError(f"{path} is a single checkpoint file and has no steps to choose from")
    else:
        checkpoint = read_file(path)
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


def read_file(path: Path) -> Checkpoint:
    """The members of a checkpoint file, or the one of a directory in the Hugging Face layout."""
    if path.suffix == ".safetensors" and not path.is_dir():
        tensors, document = read_tensors(path)
        if document:
            return _stacked(path, tensors, document)
        found = state_dict_of(path, tensors)
    else:
        found = read_state_dict(path)
    source = Source(str(path), None, None, fingerprint(found.tensors), path.name if path.is_dir() else path.stem)
    stack = Stack({name: tensor[None] for name, tensor in found.tensors.items()})  # views: large models stay once
    return Checkpoint(stack, (source,), None, found.remarks)


def _stacked(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of a run, of what stands in its file."""
    if document.get("kind") != "checkpoint":
        raise DamagedFile(f"{path} is no checkpoint of a run: it is {document.get('kind', 'a foreign file')}")
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
    return Checkpoint(Stack(*parts), sources, problem, code=code_in(document))


def code_in(document: Mapping[str, Any]) -> Mapping[str, str] | None:
    """What a file says of its problem's code, if that is what it should be: anybody may have written it."""
    code = document.get("code")
    sound = isinstance(code, dict) and all(isinstance(code.get(key), str) for key in ("file", "sha256"))
    return code if sound else None


def unfinished(place: str) -> str:
    """A line that says so if a place is a run, without a step, whose training has not come to its end; else empty."""
    path = Path(place.partition("#")[0])
    if not (path / "run.json").exists():
        return ""
    run = Run.open(path)
    last, batches = max(run.steps(), default=0), run.document["training"].get("batches", 0)
    return f"{path} is not finished: this is its step {last} of {batches}" if last < batches else ""


def _read_folder(path: Path, step: int | None) -> Checkpoint:
    if (path / "sweep.json").exists():
        cells = sorted(str(file.parent) for file in path.glob("*/run.json"))
        example = f", such as {cells[0]}" if cells else ""
        raise LandscapeError(f"{path} is a sweep, a directory of runs: name one of its cells{example}")
    if model_weights(path):
        if step is not None:
            raise LandscapeError(f"{path} is a single model, no run: it has no steps to choose from")
        return read_file(path)
    files = sorted(checkpoint_files(path))
    if not files:
        raise LandscapeError(
            f"{path} is no run (no run.json) and holds no checkpoints ({', '.join(ENDINGS)}): "
            "give a run, or a folder of state dicts"
        )
    if step is not None:
        raise LandscapeError(f"{path} is a folder of state dicts, no run: it has no steps to choose from")
    parts = [read_file(file) for file in files]
    for file, part in zip(files[1:], parts[1:], strict=True):
        require_same_shapes(parts[0].stack, part.stack, names=(str(files[0]), str(file)))
    problems = [part.problem for part in parts if part.problem]
    if different := [problem for problem in problems if problem != problems[0]]:
        what = differences(*({"problem": name, **config} for name, config in (problems[0], different[0])))
        raise Mismatch(f"{path} holds checkpoints of different problems: {what}. Put them into folders of their own")
    stack = stack_state_dicts([part.stack.state_dict(i) for part in parts for i in range(len(part.stack))])
    sources = tuple(source for part in parts for source in part.sources)
    code = next((part.code for part in parts if part.code), None)
    return Checkpoint(stack, sources, problems[0] if problems else None, merged_remarks(parts), code)


def merged_remarks(parts: Iterable[Checkpoint]) -> tuple[str, ...]:
    """The remarks on many files, each once, with the number of files where it is not for all."""
    parts = list(parts)
    count = Counter(remark for part in parts for remark in dict.fromkeys(part.remarks))
    return tuple(
        remark if files == len(parts) else f"{remark} (in {files} of {len(parts)} files)"
        for remark, files in count.items()
    )


def fitted(checkpoint: Checkpoint, network: nn.Module) -> Checkpoint:
    """The checkpoint with its tensors in the order of the network's, its buffers told apart.

    Where its names do not fit, but do without one leading attribute common to all, as Lightning modules keep their
    network under one, they are read without it; that is logged, and added to the remarks. Raises `Mismatch` listing
    what is missing, unexpected or of another shape.
    """
    template, tied = template_of(network), aliases(network)
    path = checkpoint.sources[0].path
    names = [*checkpoint.stack.tensors, *checkpoint.stack.buffers]

    def fits(names: list[str]) -> bool:
        return names_fit(names, template, tied)

    drop = add = ""
    if not fits(names):
        drop = next((prefix for prefix in leading(names) if fits(_without(names, prefix))), "")
        # A network that is compiled, say, has the prefix in names of its own.
        add = next((prefix for prefix in WRAPPERS if fits([prefix + name for name in names])), "")
    stack, remarks = checkpoint.stack, checkpoint.remarks
    if drop:
        remark = f"all names begin with {drop} and fit the network without it"
        _LOG.info("%s: %s", path, remark)
        remarks = (*remarks, remark)
    if drop or add:
        stack = stack.rename(lambda name: add + name.removeprefix(drop))
    try:
        stack = in_order(stack, template, name="the checkpoint", aliases=tied)
    except Mismatch as error:
        heads = () if drop else dict.fromkeys(name.partition(".")[0] + "." for name in names)
        part = next((prefix for prefix in heads if fits(_without(names, prefix))), "")
        hint = f"; what stands under {part} alone fits by name: save that part" if part else ""
        raise Mismatch(f"{path}: {error}{hint}") from error
    return dataclasses.replace(checkpoint, stack=stack, remarks=remarks)


def _without(names: Iterable[str], prefix: str) -> list[str]:
    """The names that begin with a prefix, without it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
