"""Runs made of other people's checkpoints, so that what was trained elsewhere is walked and analysed like one's own."""

import dataclasses
import glob
import itertools
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.fields import require_seeds
from landscape.core.files import is_there
from landscape.engine.stack import Stack, aliases, names_fit, require_same_shapes, template_of
from landscape.problems.base import Problem, Renaming
from landscape.problems.places import fitting
from landscape.problems.registry import Found, find, made, record, require_fields
from landscape.store.checkpoints import Checkpoint, Run, merged_remarks, read_file, together
from landscape.store.formats import ENDINGS, checkpoint_files, leading, model_weights, natural

__all__ = ["import_run"]

#: The step of an imported run's only checkpoint; how many steps led there the files do not say.
STEP = 0

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The problem of some files, how their tensors are renamed, and which fields tensors and file names said."""

    problem: Problem
    renaming: Renaming = Renaming()
    inferred: Collection[str] = ()
    named: Collection[str] = ()
    seeds: Sequence[int] = ()


def import_run(
    places: Sequence[str | Path],
    path: Path,
    *,
    problem: str,
    options: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    taken_as: Literal["members", "steps"] = "members",
    overwrite: bool = False,
) -> Run:
    """Make a run of state dicts, one member a file, or one step of a single member.

    Args:
        places: Checkpoints; a directory, or a pattern, stands for those in it, or, in the Hugging Face layout, for one
            member. With `::KEY` behind it, what stands in each under a key.
        path: Directory of the run.
        problem: Name of the problem that they are of.
        options: Fields of the problem. Others are what names and shapes of the tensors give away, then what all file
            names say if they are of a form that the problem knows, then defaults; `imported` in the run says which.
        seeds: Seeds of the members; without them those of the file names where they differ, else 0, 1, ... in order.
        taken_as: With `steps` the files, in natural order, are the steps of one member: those that the last numbers in
            their names say where these ascend, else 0, 1, ...
        overwrite: Replace a run that is there.

    Returns:
        The run, with one checkpoint, or one a step.

    Raises:
        Mismatch: For files of different architectures or of another than the problem's, and for a name that its
            tensors contradict.
        LandscapeError: For parameters that are NaN or infinite. Nothing is written unless all files fit.
    """
    Run.require_free(path, overwrite=overwrite)
    keys, stepped = _expanded(places), taken_as == "steps"
    files = sorted(keys, key=natural) if stepped else list(keys)
    if stepped:
        if seeds is not None and len(seeds) != 1:
            raise LandscapeError(f"{len(seeds)} seeds for the steps of one member: give one, or none for 0")
    elif seeds is not None:
        _require_seeds(seeds, files)
    members = [_member(file, keys[file]) for file in files]
    remarks = merged_remarks(members)
    for file, member in zip(files[1:], members[1:], strict=True):
        require_same_shapes(members[0].stack, member.stack, names=(str(files[0]), str(file)))
    options, found = dict(options or {}), find(problem)
    if isinstance(found, type):
        require_fields(problem, found, options)
    if attribute := _attribute(found, options, members[0].stack):
        unwrapped = [one.stack.rename(lambda name: name.removeprefix(attribute)) for one in members]
        members = [dataclasses.replace(one, stack=stack) for one, stack in zip(members, unwrapped, strict=True)]
        remarks += (f"all names begin with {attribute} and fit the problem without it",)
    if isinstance(found, Problem):
        reading = _Reading(made(problem, found, options))
    else:
        reading = _read(found, options, members[0].stack, files)
    seeds_named = seeds is None and bool(reading.seeds) and not stepped
    if stepped:
        seeds = [0] if seeds is None else list(seeds)
        require_seeds(*seeds)
    else:
        seeds = list((reading.seeds or range(len(files))) if seeds is None else seeds)
        _require_seeds(seeds, files)
    renaming, config = reading.renaming, reading.problem.config()
    renamed = [dataclasses.replace(one, stack=Stack(renaming.apply(one.stack.tensors))) for one in members]
    whole = dataclasses.replace(together(path, files, renamed), remarks=remarks)
    fit = fitting(reading.problem, whole)
    stack, said = fit.stack, fit.remarks
    steps = _steps(files) if stepped else [STEP]
    imported = {
        "files": [f"{file}::{keys[file]}" if keys[file] else str(file) for file in files],
        "sha256": [member.sources[0].digest for member in members],
        **({"steps": steps} if stepped else {}),
        "given": sorted(options),
        "named": sorted([*reading.named, *(["seeds"] if seeds_named else [])]),
        "inferred": sorted(reading.inferred),
        # Of a ready problem nothing else can be asked for.
        "assumed": []
        if isinstance(found, Problem)
        else sorted(config.keys() - {*options, *reading.named, *reading.inferred}),
        **({"renamed": dict(renaming.names), "remark": renaming.remark} if renaming.names else {}),
        **({"reading": list(said)} if said else {}),
    }
    document = {
        **record(reading.problem),
        "imported": imported,
        "training": {"imported": True},
        "seeds": seeds,
        "data_seeds": seeds,
        "computation": {},
    }
    for remark in remarks:
        _LOG.info("%s: %s", files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} first", remark)
    with Run.made(path, overwrite=overwrite):
        Run.remove(path)
        run = Run(path, document)
        for number, step in enumerate(steps):
            run.save(step, stack.select([number]) if stepped else stack)
        return Run.create(path, document)


def _expanded(places: Sequence[str | Path]) -> dict[Path, str]:
    """The files, those of directories and patterns in natural order, 2 before 10, with the key under which to look."""
    keys: dict[Path, str] = {}
    for each in places:
        name, key = str(each), ""
        if not Path(name).exists():
            name, _, key = name.partition("::")
        found = [Path(name)]
        if not found[0].exists() and glob.has_magic(name):
            found = sorted(map(Path, glob.glob(name, recursive=True)), key=natural)
            if not found:
                raise LandscapeError(f"{name} matches no file: give checkpoints, or a folder of them")
        for file in _inside(found):
            if os.path.realpath(file) in map(os.path.realpath, keys):  # which knows what to do with links in a circle
                raise LandscapeError(f"{file} is given twice: leave one out")
            keys[file] = key
    if not keys:
        raise LandscapeError("there are no files to import: give checkpoints, or a folder of them")
    return keys


def _inside(places: Sequence[Path]) -> list[Path]:
    """The files, and those of directories."""
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        if is_there(place / "run.json"):
            raise Unsupported(f"{place} is a run already: walk to it as it is")
        if model_weights(place):
            files.append(place)
            continue
        inside = checkpoint_files(place)
        if not inside:
            raise LandscapeError(f"{place} holds no checkpoints ({', '.join(ENDINGS)}): give files, or their folder")
        files += inside
    return files


def _steps(files: Sequence[Path]) -> list[int]:
    """The last numbers in the names of files, where all have one and they ascend, else 0, 1, ..."""
    numbers = [int(found[-1]) for file in files if (found := re.findall(r"\d+", str(file.with_suffix(""))))]
    ascend = len(numbers) == len(files) and all(a < b for a, b in itertools.pairwise(numbers))
    return numbers if ascend else list(range(len(files)))


def _require_seeds(seeds: Sequence[int], files: Sequence[Path]) -> None:
    if len(seeds) != len(files):
        raise LandscapeError(
            f"{len(seeds)} seeds for {len(files)} files: give one a file, or none for 0 to {len(files) - 1}"
        )
    require_seeds(*seeds)
    if len(set(seeds)) < len(seeds):
        repeated = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise LandscapeError(f"seed {repeated} is repeated: members are told apart by their seeds")


def _member(file: Path, key: str) -> Checkpoint:
    """A foreign checkpoint, or what stands in it under a key."""
    member = read_file(file, key)
    if member.problem is not None:
        raise Unsupported(f"{file} belongs to a run already: walk to it as it is")
    return member


def _attribute(found: Found, given: Mapping[str, Any], stack: Stack) -> str:
    """The leading attribute of all tensors without which, and only then, they are the problem's; else empty."""
    candidates = ["", *leading(stack.shapes)]
    shapes = ({key.removeprefix(prefix): shape for key, shape in stack.shapes.items()} for prefix in candidates)
    return next((prefix for prefix, each in zip(candidates, shapes, strict=True) if _is_of(found, given, each)), "")


def _is_of(found: Found, given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors are a problem's: by what it infers from them, or, where it cannot tell, by their names."""
    if not isinstance(found, Problem):
        try:
            found.infer(found.rename(shapes, **given).apply(shapes), **given)
            return True
        except Mismatch:
            return False
        except Unsupported:
            found = found(**given)
    network = found.network()
    return names_fit(shapes, template_of(network), aliases(network))


def _read(problem: type[Problem], given: Mapping[str, Any], stack: Stack, files: Sequence[Path]) -> _Reading:
    """What the given fields, the tensors and the file names say."""
    renaming = problem.rename(stack.shapes, **given)
    shapes = renaming.apply(stack.shapes)

    def infer(**known: Any) -> dict[str, Any]:
        try:
            return problem.infer(shapes, **known)
        except (Mismatch, Unsupported) as error:
            raise type(error)(f"{files[0]}: {error}") from error

    inferred, named, seeds = dict(renaming.fields), dict[str, Any](), list[int]()
    try:
        named, seeds = _named(problem, given, infer, files)
        inferred |= infer(**named, **given)
    except Unsupported:
        # Where the tensors say nothing the user has to; a problem without fields has nothing to say.
        if not given and dataclasses.fields(problem):  # type: ignore[arg-type]
            raise
    known = {**named, **given}
    for key, value in inferred.items():
        if key in known and known[key] != value:
            raise Mismatch(
                f"{files[0]}: {key}={known[key]} does not fit its tensors, which say {key}={value}: leave it out"
            )
    return _Reading(problem(**{**inferred, **known}), renaming, inferred.keys() - known.keys(), named, seeds)


def _named(
    problem: type[Problem], given: Mapping[str, Any], infer: Callable[..., dict[str, Any]], files: Sequence[Path]
) -> tuple[dict[str, Any], list[int]]:
    """What the file names say beside tensors and given fields, and seeds; nothing unless all names say the same fields.

    Raises `Mismatch` for a name that contradicts the tensors or what is given.
    """
    says = [problem.named_fields(file.name) for file in files]
    seeds = [said.pop("seed", None) for said in says]
    if any(next(iter(said), None) in given for said in says):
        return {}, []
    for number, (file, said) in enumerate(zip(files, says, strict=True)):
        if said and said not in says[:number] and (other := _contradiction(problem, given, infer, said)):
            raise Mismatch(f"{file}: its name says {_listed(said)}, {other}: rename the file, or {_unread(said)}")
    if not all(says):
        return {}, []
    for file, said in zip(files, says, strict=True):
        if said != says[0]:
            raise Mismatch(
                f"{files[0]} and {file} are of different problems by their names, {_listed(says[0])} and "
                f"{_listed(said)}: import them apart, or {_unread(said)}"
            )
    said = {**says[0], **given}
    named = {key: said[key] for key in said.keys() - infer(**said).keys() - given.keys()}
    return named, seeds if None not in seeds and len(set(seeds)) == len(seeds) else []


def _contradiction(
    problem: type[Problem], given: Mapping[str, Any], infer: Callable[..., dict[str, Any]], said: Mapping[str, Any]
) -> str:
    """What is given, or what the tensors say, against what a file name says; empty if nothing is."""
    if wrong := {key: given[key] for key in said if key in given and given[key] != said[key]}:
        return f"not {_listed(wrong)}"
    try:
        inferred = infer(**{**said, **given})
    except Mismatch:
        inferred = problem(**infer()).config()
    inferred = {key: inferred[key] for key in said if key in inferred}
    return "" if inferred.items() <= said.items() else f"but its tensors {_listed(inferred)}"


def _unread(said: Mapping[str, Any]) -> str:
    return f'give `options={{"{next(iter(said))}": "N"}}` and names are not read'


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in fields.items())
