"""Runs made of other people's checkpoints, so that what was trained elsewhere is walked and analysed like one's own."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape.curves import Source
from landscape.errors import LandscapeError, Mismatch, Unsupported
from landscape.files import refuse_existing
from landscape.params import Stack, concatenate, fingerprint, require_same_shapes, stack_state_dicts
from landscape.places import fitting
from landscape.problem import Problem, create, find, require_fields
from landscape.store import ENDINGS, Checkpoint, Run, read_state_dict, read_tensors

__all__ = ["OtherNames", "import_run"]

#: The step of an imported run's only checkpoint; how many steps led there the files do not say.
STEP = 0

#: File names of the study's code, now and earlier (bfirner/dnn_game_of_life): the only ones that are read.
_FILE_NAMES = (
    r"gol_model_(?:presolve_)?steps(?P<steps>\d+)_m(?P<m_factor>\d+)_d(?P<d_factor>\d+(?:\.\d+)?)_seed(?P<seed>\d+)\.pyt",
    r"gol_model_(?P<steps>\d+)_(?P<m_factor>\d+)_(?P<d_factor>\d+(?:\.\d+)?)_seed_(?P<seed>\d+)\.pyt",
)


class OtherNames(Mismatch):
    """Raised by a problem's `infer` for tensors of its architecture under other names, which an import then renames.

    `names` leads from a checkpoint's names to the problem's, `fields` are what the names give away, and the message
    says where such names come from.
    """

    def __init__(self, message: str, *, names: Mapping[str, str], fields: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.names, self.fields = dict(names), dict(fields)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What files say beside the given fields: by tensors, by file names; and how tensors are renamed, and why."""

    inferred: Mapping[str, Any]
    named: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remark: str | None = None

    def rename(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its tensors under the problem's names."""
        tensors = {self.renamed.get(name, name): tensor for name, tensor in checkpoint.stack.tensors.items()}
        return dataclasses.replace(checkpoint, stack=Stack(tensors))


def import_run(
    files: Sequence[Path],
    path: Path,
    *,
    problem_name: str = "life",
    options: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    force: bool = False,
) -> Run:
    """Make the run `path` of state dicts, one member a file; a directory stands for the checkpoints in it.

    Fields of the problem are those of `options`, else what names and shapes of the tensors give away, else the
    problem's defaults; the run's `imported` says which is which. Seeds are 0, 1, ... in the order of the files unless
    they are given. Where `options` has no steps and all files are named as the study's code named them, the names say
    steps, depth factor and, if they differ, seeds. Raises `Mismatch` for files of different architectures or of another
    than the problem's, and for a name that its tensors contradict, `LandscapeError` for parameters that are NaN or
    infinite; nothing is written unless all files fit.
    """
    _require_free(path, force=force)
    files = _expanded(files)
    if seeds is not None:
        _require_seeds(seeds, files)
    members = [_member(file) for file in files]
    for file, member in zip(files[1:], members[1:], strict=True):
        require_same_shapes(members[0].stack, member.stack, names=(str(files[0]), str(file)))
    options = dict(options or {})
    problem, found = _problem(problem_name, options, members[0].stack, files)
    in_names = [] if seeds is not None or not found.named else [_name_fields(file)["seed"] for file in files]
    seeds_named = len(set(in_names)) == len(files)
    seeds = in_names if seeds_named else list(range(len(files)) if seeds is None else seeds)
    _require_seeds(seeds, files)
    stack = concatenate([fitting(problem, found.rename(member)).stack for member in members])
    config = problem.config()
    imported = {
        "files": [str(file) for file in files],
        "sha256": [member.sources[0].digest for member in members],
        "given": sorted(options),
        "named": sorted([*found.named, *(["seeds"] if seeds_named else [])]),
        "inferred": sorted(found.inferred),
        "assumed": sorted(config.keys() - options.keys() - found.named.keys() - found.inferred.keys()),
        **({"renamed": dict(found.renamed), "remark": found.remark} if found.renamed else {}),
    }
    document = {
        "problem": {"name": problem.name, "config": config},
        "imported": imported,
        "training": {"imported": True},
        "seeds": seeds,
        "data_seeds": seeds,
        "computation": {},
    }
    return _written(path, document, stack, replace=force)


def _written(path: Path, document: Mapping[str, Any], stack: Stack, *, replace: bool) -> Run:
    """The checkpoint first: what has a `run.json` is a whole run, whenever the writing is interrupted."""
    if replace:
        Run.remove(path)
    run = Run(path, document)
    try:
        run.save(STEP, stack)
        return Run.create(path, document)
    except BaseException:
        run.checkpoint_path(STEP).unlink(missing_ok=True)
        raise


def _require_free(path: Path, *, force: bool) -> None:
    """Raise `LandscapeError` if a new run would replace one without `force`, or mix with something else."""
    if (path / "run.json").exists():
        refuse_existing(path, force=force)
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LandscapeError(f"{path} exists and is no run: choose another directory with -o")


def _expanded(places: Sequence[Path]) -> list[Path]:
    """The files, and those of directories in natural order: 2 before 10."""
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        if (place / "run.json").exists():
            raise Unsupported(f"{place} is a run already: walk to it as it is")
        inside = [file for file in place.iterdir() if file.suffix in ENDINGS and file.is_file()]
        if not inside:
            raise LandscapeError(f"{place} holds no checkpoints ({', '.join(ENDINGS)}): give files, or their folder")
        files += sorted(inside, key=_natural)
    if not files:
        raise LandscapeError("there are no files to import: give checkpoints, or a folder of them")
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise LandscapeError(f"{file} is given twice: leave one out")
        seen.add(file.resolve())
    return files


def _natural(file: Path) -> tuple[list[int | str], str]:
    pieces = re.split(r"(\d+)", file.name)
    return [int(piece) if number % 2 else piece for number, piece in enumerate(pieces)], file.name


def _require_seeds(seeds: Sequence[int], files: Sequence[Path]) -> None:
    if len(seeds) != len(files):
        raise LandscapeError(
            f"{len(seeds)} seeds for {len(files)} files: give one a file, or none for 0 to {len(files) - 1}"
        )
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise LandscapeError(f"{wrong[0]} is no seed: seeds go from 0 to 2^63 - 1")
    if len(set(seeds)) < len(seeds):
        repeated = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise LandscapeError(f"seed {repeated} is repeated: members are told apart by their seeds")


def _member(file: Path) -> Checkpoint:
    if file.suffix == ".safetensors" and read_tensors(file)[1]:
        raise Unsupported(f"{file} belongs to a run already: walk to it as it is")
    state_dict = read_state_dict(file)
    source = Source(str(file), None, None, fingerprint(state_dict), file.stem)
    return Checkpoint(stack_state_dicts([state_dict]), (source,), None)


def _problem(name: str, given: Mapping[str, Any], stack: Stack, files: Sequence[Path]) -> tuple[Problem, _Found]:
    """The problem that the tensors, the file names and the given fields describe, and what was found out."""
    problem = find(name)
    if isinstance(problem, Problem):
        return create(name, given), _Found({})
    require_fields(name, problem, given)
    named = _named(problem, given, stack, files)
    known = {**named, **given}
    try:
        found = _inferred(problem, stack, known)
    except Unsupported as error:
        # Where the tensors say nothing the user has to; a problem without fields has nothing to say.
        if not given and dataclasses.fields(problem):  # type: ignore[arg-type]
            raise Unsupported(f"{files[0]}: {error}") from error
        found = _Found({})
    except Mismatch as error:
        raise Mismatch(f"{files[0]}: {error}") from error
    for key, value in found.inferred.items():
        if key in known and known[key] != value:
            raise Mismatch(
                f"{files[0]}: {key}={known[key]} does not fit its tensors, which say {key}={value}: leave it out"
            )
    inferred = {key: value for key, value in found.inferred.items() if key not in known}
    return create(name, {**inferred, **known}), dataclasses.replace(found, inferred=inferred, named=named)


def _inferred(problem: type[Problem], stack: Stack, known: Mapping[str, Any]) -> _Found:
    """What the tensors say, under the problem's names or under others that it knows."""
    try:
        return _Found(problem.infer(stack.shapes, **known))
    except OtherNames as other:
        shapes = {other.names.get(name, name): shape for name, shape in stack.shapes.items()}
        fields = {**other.fields, **problem.infer(shapes, **known)}
        return _Found(fields, renamed=other.names, remark=str(other))


def _name_fields(file: Path) -> dict[str, Any]:
    """What the name of one of the study's files says; nothing for other names."""
    for pattern in _FILE_NAMES:
        if match := re.fullmatch(pattern, file.name):
            return {key: float(text) if key == "d_factor" else int(text) for key, text in match.groupdict().items()}
    return {}


def _named(problem: type[Problem], given: Mapping[str, Any], stack: Stack, files: Sequence[Path]) -> dict[str, Any]:
    """Steps and depth factor by the names of the files; nothing unless all names agree with tensors and one another.

    Raises `Mismatch` for a name that contradicts the tensors or what is given.
    """
    fields = {field.name for field in dataclasses.fields(problem)}  # type: ignore[arg-type]
    if "steps" in given or not {"steps", "m_factor", "d_factor"} <= fields:
        return {}
    says = []
    for file in files:
        said = _name_fields(file)
        said.pop("seed", None)
        if said and said not in says:
            try:
                _require_agreement(problem, {**said, **given}, stack, file, said)
            except Unsupported:  # nothing to compare it with
                return {}
        says.append(said)
    if not all(says):
        return {}
    for file, said in zip(files, says, strict=True):
        if said != says[0]:
            raise Mismatch(
                f"{files[0]} and {file} are of different problems by their names, {_listed(says[0])} and "
                f"{_listed(said)}: import them apart, or give -O steps=N and names are not read"
            )
    return {key: says[0][key] for key in ("steps", "d_factor") if key not in given}


def _require_agreement(
    problem: type[Problem], known: Mapping[str, Any], stack: Stack, file: Path, said: Mapping[str, Any]
) -> None:
    remedy = "rename the file, or give -O steps=N and names are not read"
    if wrong := {key: known[key] for key in said if known[key] != said[key]}:
        raise Mismatch(f"{file}: its name says {_listed(said)}, not {_listed(wrong)}: {remedy}")
    try:
        inferred = _inferred(problem, stack, known).inferred
    except Mismatch:
        try:
            alone = _inferred(problem, stack, {}).inferred
        except Mismatch as error:
            raise Mismatch(f"{file}: {error}") from error
        inferred = {key: alone[key] for key in ("steps", "m_factor") if key in alone} | {"d_factor": 1.0}
    if any(inferred.get(key, value) != value for key, value in said.items()):
        says = _listed({key: inferred[key] for key in said if key in inferred})
        raise Mismatch(f"{file}: its name says {_listed(said)}, but its tensors {says}: {remedy}")


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in fields.items())
