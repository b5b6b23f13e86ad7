"""Runs and checkpoints on disk, and other people's checkpoint formats.

A run is a directory: `run.json` says everything about it, `step-XXXXXXXX.safetensors` hold the stacked parameters of
all members, `resume.safetensors` the state from which an interrupted training goes on.
"""

import dataclasses
import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from landscape import provenance
from landscape.curves import Source
from landscape.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.files import differences, read_json, replacing, write_json
from landscape.params import (
    Stack,
    aliases,
    fingerprint,
    in_order,
    require_same_shapes,
    stack_state_dicts,
    template_of,
)

__all__ = ["Checkpoint", "Run", "load", "read_state_dict", "read_tensors", "unfinished", "write_tensors"]

SCHEMA = 1

#: File endings that are read as checkpoints.
ENDINGS = (".safetensors", ".pt", ".pth", ".pyt", ".ckpt")

#: Keys under which training scripts keep the state dict.
_WRAPPERS = ("state_dict", "model", "model_dict", "model_state_dict")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Members with their sources, and the problem they were trained on where that is known (name, configuration)."""

    stack: Stack
    sources: tuple[Source, ...]
    problem: tuple[str, dict[str, Any]] | None

    def require_finite(self) -> None:
        """Raise `LandscapeError`, naming members and tensors, if a parameter is NaN or infinite."""
        finite = {
            name: tensor.isfinite().reshape(len(tensor), -1).all(1) for name, tensor in self.stack.tensors.items()
        }
        bad = [i for i in range(len(self.stack)) if not all(ok[i] for ok in finite.values())]
        if bad:
            names = [name for name, ok in finite.items() if not ok[bad[0]]]
            first = self.sources[bad[0]]
            remedy = "leave that file out" if first.seed is None else "choose others with RUN/#seed"
            raise LandscapeError(
                f"{len(bad)} of {len(self.stack)} members of {first.path} have parameters that are NaN or infinite, "
                f"first {first.label} in {', '.join(names)}: {remedy}"
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


def _digest(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """SHA-256 of the tensors and of all that the document says of them."""
    text = json.dumps({key: value for key, value in document.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(f"{fingerprint(tensors)} {text}".encode()).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a file of ours, digest checked; an empty document for a foreign safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        ours = [text for key, text in metadata.items() if key == "landscape" or '"sha256"' in text]
        document = json.loads(ours[0]) if ours else {}
    except FileNotFoundError as error:
        raise LandscapeError(f"{path} does not exist") from error
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged or no safetensors file ({error}): restore it or make it again") from error
    if not ours:
        return tensors, {}
    if not isinstance(document, dict) or document.get("sha256") != _digest(tensors, document):
        raise DamagedFile(f"{path} is damaged: it does not match its SHA-256; restore it or make it again")
    if document["schema"] != SCHEMA:
        raise Unsupported(f"{path} has schema {document['schema']}, this version reads {SCHEMA}: update landscape")
    return {name: tensors[name] for name in document["names"]}, document


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in somebody's checkpoint: at top level or under one of the usual keys; `module.` prefixes go.

    Pickles are read with `weights_only=True`; what else they want to run is refused by name.
    """
    if path.suffix == ".safetensors":
        found: Any = read_tensors(path)[0]
    else:
        found = _read_pickle(path)
        for key in _WRAPPERS:
            if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
                found = found[key]
                break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise Unsupported(f"{path} holds no state dict, neither at top level nor under {', '.join(_WRAPPERS)}")
    if odd := [str(name) for name, tensor in found.items() if tensor.is_complex()]:
        raise Unsupported(f"{path} holds complex numbers in {', '.join(odd)}: only real parameters can be walked")
    return {str(name).removeprefix("module."): tensor.detach() for name, tensor in found.items()}


def _read_pickle(path: Path) -> Any:
    # The study's checkpoints carry the states of NumPy's random generators; its arrays can hold data only.
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    harmless: list[Any] = [
        *((reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        type(np.dtype(np.uint32)),
    ]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LandscapeError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        try:
            wanted = [str(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
        except Exception:
            wanted = []
        if wanted:
            raise Unsupported(
                f"{path} is refused: its pickle wants to run {', '.join(wanted)}; save model.state_dict() alone instead"
            ) from error
        raise DamagedFile(f"{path} is damaged or no PyTorch checkpoint: restore it or save it again") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise DamagedFile(
            f"{path} is damaged or no PyTorch checkpoint ({type(error).__name__}): save it again"
        ) from error


@dataclasses.dataclass(frozen=True)
class Run:
    """A directory of checkpoints with one configuration. `document` is what stands in its `run.json`."""

    path: Path
    document: Mapping[str, Any]

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
            for file in [
                *path.glob("step-*.safetensors"),
                path / "resume.safetensors",
                path / "log.jsonl",
                path / "run.json",
            ]:
                file.unlink(missing_ok=True)
        return there

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run; raises `DamagedFile` if its `run.json` is not one."""
        document = read_json(path / "run.json")
        needed = {"schema", "problem", "training", "seeds", "data_seeds", "computation"}
        lacks = needed - document.keys() if isinstance(document, dict) else needed
        if lacks:
            raise DamagedFile(f"{path / 'run.json'} is damaged: it lacks {', '.join(sorted(lacks))}")
        if document["schema"] != SCHEMA:
            raise Unsupported(f"{path} has schema {document['schema']}, this version reads {SCHEMA}: update landscape")
        problem, lists = document["problem"], [document["seeds"], document["data_seeds"]]
        if not (isinstance(problem, dict) and {"name", "config"} <= problem.keys()) or not all(
            isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds) for seeds in lists
        ):
            raise DamagedFile(f"{path / 'run.json'} is damaged: its problem or its seeds are not what they should be")
        return cls(path, document)

    @property
    def problem(self) -> tuple[str, dict[str, Any]]:
        """Name and configuration of the problem."""
        return self.document["problem"]["name"], self.document["problem"]["config"]

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
            "problem": self.document["problem"],
        }
        return write_tensors(self.checkpoint_path(step), {**stack.tensors, **stack.buffers}, document)

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """All members at a step; the last one that was saved if none is given."""
        steps = self.steps()
        if not steps:
            raise LandscapeError(f"{self.path} is an empty run, it has no checkpoint yet: train it first")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise LandscapeError(f"{self.path} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
        return _read_stacked(self.checkpoint_path(step))


def load(place: str) -> Checkpoint:
    """Members named by a path: a run (last step, all seeds), RUN/@step, RUN/#seed, RUN/@step#seed, or a checkpoint
    file.

    A directory of plain state dicts gives one member a file, in the order of names.
    """
    match = re.fullmatch(r"(?P<path>.*?)/*(?:/@(?P<step>\d+))?(?:/?#(?P<seed>-?\d+))?", place)
    path = Path(match["path"] if match else place)
    if match is None or Path(place).exists():  # what is there as it is written comes first
        match, path = None, Path(place)
    step, seed = (int(match[key]) if match and match[key] else None for key in ("step", "seed"))
    if not path.exists():
        raise LandscapeError(
            f"{path} does not exist: give a landmark, a run directory, RUN/@step, RUN/#seed or a checkpoint file"
        )
    if path.is_dir():
        checkpoint = Run.open(path).checkpoint(step) if (path / "run.json").exists() else _read_folder(path, step)
    elif step is not None:
        raise LandscapeError(f"{path} is a single checkpoint file and has no steps to choose from")
    else:
        checkpoint = _read_file(path)
    if seed is None:
        return checkpoint
    places = [i for i, source in enumerate(checkpoint.sources) if source.seed == seed]
    if not places:
        seeds = [source.seed for source in checkpoint.sources if source.seed is not None]
        known = f"it has seeds {min(seeds)} to {max(seeds)}" if seeds else "its members have no known seeds"
        raise LandscapeError(f"{path} has no member with seed {seed}; {known}")
    return Checkpoint(checkpoint.stack.select(places), tuple(checkpoint.sources[i] for i in places), checkpoint.problem)


def _read_stacked(path: Path) -> Checkpoint:
    tensors, document = read_tensors(path)
    if document.get("kind") != "checkpoint":
        raise DamagedFile(f"{path} is no checkpoint of a run: it is {document.get('kind', 'a foreign file')}")
    seeds = zip(document["seeds"], document["data_seeds"], strict=True)
    labels = [f"seed {seed}" if seed == data else f"seed {seed}, data seed {data}" for seed, data in seeds]
    sources = tuple(
        Source(str(path), document["step"], seed, document["sha256"], label)
        for seed, label in zip(document["seeds"], labels, strict=True)
    )
    return Checkpoint(Stack(tensors), sources, (document["problem"]["name"], document["problem"]["config"]))


def _read_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors" and read_tensors(path)[1]:
        return _read_stacked(path)
    state_dict = read_state_dict(path)
    sha = fingerprint(state_dict)
    return Checkpoint(stack_state_dicts([state_dict]), (Source(str(path), None, None, sha, path.stem),), None)


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
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
    if not files:
        raise LandscapeError(
            f"{path} is no run (no run.json) and holds no checkpoints ({', '.join(ENDINGS)}): "
            "give a run, or a folder of state dicts"
        )
    if step is not None:
        raise LandscapeError(f"{path} is a folder of state dicts, no run: it has no steps to choose from")
    parts = [_read_file(file) for file in files]
    for file, part in zip(files[1:], parts[1:], strict=True):
        require_same_shapes(parts[0].stack, part.stack, names=(str(files[0]), str(file)))
    problems = [part.problem for part in parts if part.problem]
    if different := [problem for problem in problems if problem != problems[0]]:
        what = differences(*({"problem": name, **config} for name, config in (problems[0], different[0])))
        raise Mismatch(f"{path} holds checkpoints of different problems: {what}. Put them into folders of their own")
    stack = stack_state_dicts([part.stack.state_dict(i) for part in parts for i in range(len(part.stack))])
    sources = tuple(source for part in parts for source in part.sources)
    return Checkpoint(stack, sources, problems[0] if problems else None)


def require_same_architecture(checkpoint: Checkpoint, network: nn.Module) -> Stack:
    """The checkpoint's stack in the network's order of tensors; raises `Mismatch` listing what differs."""
    try:
        return in_order(checkpoint.stack, template_of(network), name="the checkpoint", aliases=aliases(network))
    except Mismatch as error:
        raise Mismatch(f"{checkpoint.sources[0].path}: {error}") from error
