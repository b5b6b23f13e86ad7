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

__all__ = ["import_run"]

#: The step of an imported run's only checkpoint; how many steps led there the files do not say.
STEP = 0


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
    they are given. Raises `Mismatch` for files of different architectures or of another than the problem's,
    `LandscapeError` for parameters that are NaN or infinite; nothing is written unless all files fit.
    """
    _require_free(path, force=force)
    files = _expanded(files)
    seeds = _checked_seeds(list(range(len(files)) if seeds is None else seeds), files)
    members = [_member(file) for file in files]
    for file, member in zip(files[1:], members[1:], strict=True):
        require_same_shapes(members[0].stack, member.stack, names=(str(files[0]), str(file)))
    options = dict(options or {})
    problem, inferred = _problem(problem_name, options, members[0].stack, files[0])
    stack = concatenate([fitting(problem, member).stack for member in members])
    config = problem.config()
    imported = {
        "files": [str(file) for file in files],
        "sha256": [member.sources[0].digest for member in members],
        "given": sorted(options),
        "inferred": sorted(inferred),
        "assumed": sorted(config.keys() - options.keys() - inferred.keys()),
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


def _checked_seeds(seeds: list[int], files: Sequence[Path]) -> list[int]:
    if len(seeds) != len(files):
        raise LandscapeError(
            f"{len(seeds)} seeds for {len(files)} files: give one a file, or none for 0 to {len(files) - 1}"
        )
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise LandscapeError(f"{wrong[0]} is no seed: seeds go from 0 to 2^63 - 1")
    if len(set(seeds)) < len(seeds):
        repeated = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise LandscapeError(f"seed {repeated} is repeated: members are told apart by their seeds")
    return seeds


def _member(file: Path) -> Checkpoint:
    if file.suffix == ".safetensors" and read_tensors(file)[1]:
        raise Unsupported(f"{file} belongs to a run already: walk to it as it is")
    state_dict = read_state_dict(file)
    source = Source(str(file), None, None, fingerprint(state_dict), file.stem)
    return Checkpoint(stack_state_dicts([state_dict]), (source,), None)


def _problem(name: str, given: Mapping[str, Any], stack: Stack, file: Path) -> tuple[Problem, dict[str, Any]]:
    """The problem that the tensors and the given fields describe, and the fields that the tensors gave away."""
    found = find(name)
    if isinstance(found, Problem):
        return create(name, given), {}
    require_fields(name, found, given)
    try:
        inferred = found.infer(stack.shapes, **given)
    except Unsupported as error:
        # Where the tensors say nothing the user has to; a problem without fields has nothing to say.
        if not given and dataclasses.fields(found):  # type: ignore[arg-type]
            raise Unsupported(f"{file}: {error}") from error
        inferred = {}
    except Mismatch as error:
        raise Mismatch(f"{file}: {error}") from error
    for key in inferred:
        if key in given and given[key] != inferred[key]:
            raise Mismatch(
                f"{file}: {key}={given[key]} does not fit its tensors, which say {key}={inferred[key]}: leave it out"
            )
    inferred = {key: value for key, value in inferred.items() if key not in given}
    return create(name, {**inferred, **given}), inferred
