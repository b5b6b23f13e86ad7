"""Places to walk from and to, or to analyse: landmarks by name, and checkpoints that fit a problem."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported, few
from landscape.core.files import differences
from landscape.core.provenance import Source
from landscape.engine.stack import Stack, aliases, fingerprint, template_of
from landscape.problems.base import Problem, require_verified, verify
from landscape.problems.registry import name_of, restore
from landscape.space.groups import matching
from landscape.store.checkpoints import Checkpoint, Run, fitted, load, together
from landscape.store.formats import ENDINGS, state_dict_of, unusable

__all__ = [
    "Place",
    "checkpoint_at",
    "device_of",
    "fitting",
    "held",
    "is_landmark",
    "label_of",
    "landmark",
    "place_of",
    "problem_of",
    "run_members",
    "short",
    "verified_landmark",
]


#: A network, its state dict (or what a training script saves around it), what `store.load` reads or the name of a
#: landmark, a run (its last step), a checkpoint.
#: Several in a list are the members of one.
Place = nn.Module | Mapping[str, Any] | str | os.PathLike[str] | Run | Checkpoint | Sequence[Any]


def checkpoint_at(place: Place) -> Checkpoint | None:
    """The members at a place; None for what is named as a landmark."""
    if isinstance(place, Checkpoint):
        return place
    if isinstance(place, Run):
        return place.checkpoint()
    if isinstance(place, str | os.PathLike):
        return None if is_landmark(place) else load(os.fspath(place))
    if not isinstance(place, nn.Module | Mapping | Sequence):
        raise LandscapeError(
            f"{type(place).__name__} is no place: give a network, its state dict, a path, a run or a landmark's name"
        )
    return checkpoint_at(held(place, label_of(place)))


def held(place: Place, name: str) -> Place:
    """What is in memory, a network or its state dict, as a checkpoint of this name, and a list of places as one
    checkpoint; any other place as it is.
    """
    if isinstance(place, Sequence) and not isinstance(place, str):
        named = [f"{name}[{number}]" for number in range(len(place))]
        parts = [checkpoint_at(held(each, label)) for each, label in zip(place, named, strict=True)]
        if not parts or None in parts:
            what = "a landmark" if parts else "nothing"
            raise LandscapeError(f"{name} is a list with {what} in it: give networks or paths")
        return together(name, named, [part for part in parts if part is not None])
    if not isinstance(place, nn.Module | Mapping):
        return place
    state = place.state_dict() if isinstance(place, nn.Module) else place
    remarks: tuple[str, ...] = ()
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()):
        found = state_dict_of(Path(name), state)  # such as what a training script saves
        state, remarks = found.tensors, found.remarks
    if odd := [f"{key} ({kind})" for key, tensor in state.items() if (kind := unusable(tensor))]:
        raise Unsupported(
            f"{name} holds other tensors than dense ones of plain numbers: {few(odd)}; convert them first"
        )
    # Copied: its owner may train it on while a result of it is still asked for networks.
    tensors = {key: tensor.detach().to("cpu", copy=True) for key, tensor in state.items()}
    source = Source("memory", None, None, fingerprint(tensors), name)
    return Checkpoint(Stack({key: tensor[None] for key, tensor in tensors.items()}), (source,), None, remarks)


def label_of(place: Place) -> str:
    """A place in words: what was written, the path of a run or checkpoint, or the class of a network in memory."""
    if isinstance(place, str | os.PathLike):
        return os.fspath(place)
    if isinstance(place, Run):
        return str(place.path)
    if isinstance(place, Checkpoint):
        return place.sources[0].label if len(place.sources) == 1 else place.sources[0].path
    if isinstance(place, Sequence):
        return "list of places"
    return type(place).__name__ if isinstance(place, nn.Module) else "state dict"


def device_of(place: Place) -> torch.device:
    """Where a network in memory is; the CPU for all else."""
    if isinstance(place, nn.Module):
        return next((tensor.device for tensor in place.parameters()), torch.device("cpu"))
    return torch.device("cpu")


def is_landmark(place: Place) -> bool:
    """Whether a place is named as a landmark: no path that exists, and nothing that looks like one."""
    if not isinstance(place, str):
        return False
    return (
        not Path(place).exists()
        and not any(sign in place for sign in ("/", "#", "*", "::"))
        and not place.endswith(ENDINGS)
    )


def problem_of(checkpoints: Mapping[str, Checkpoint], landmarks: Sequence[str] = ()) -> Problem:
    """The one problem that the checkpoints, by their places, were trained on; `landmarks` are places beside them that
    do not exist as files.

    Raises `LandscapeError` if none of them says, `Mismatch` if they differ, `Untrusted` for code not named before.
    """
    problems = [
        restore(*checkpoint.problem, checkpoint.code, wanted_by=place)
        for place, checkpoint in checkpoints.items()
        if checkpoint.problem
    ]
    if not checkpoints:
        lost, one = few(landmarks), len(landmarks) == 1
        what = f"{lost} does not exist; if it is a landmark" if one else f"{lost} do not exist; if they are landmarks"
        raise LandscapeError(f'{what}, name {"its" if one else "their"} problem, such as `problem="life"`')
    if not problems:
        where = next(iter(checkpoints))
        raise LandscapeError(
            f'{where} does not say its problem: name it with `problem`, such as `problem="my_module:NAME"`'
        )
    problem, *others = problems  # fields that were added later have their defaults in runs from before
    for other in others:
        if different := differences(*({"problem": name_of(each), **each.config()} for each in (problem, other))):
            raise Mismatch(
                f"the two ends are of different problems: {different}. Name the one to evaluate with `problem`"
            )
    return problem


def fitting(
    problem: Problem,
    checkpoint: Checkpoint,
    *,
    finite: bool = True,
    only: Sequence[str] = (),
    statistics: bool = True,
    quiet: bool = False,
) -> Checkpoint:
    """The checkpoint with its tensors in the order of the problem's network; with `only`, patterns, those that none of
    them matches may have other shapes; without `statistics`, it may lack those of BatchNorm; `quiet` logs nothing.

    Raises `Mismatch`, listing the tensors that differ, and, where it has to be `finite`, `LandscapeError` if a
    parameter is NaN or infinite.
    """
    network = problem.prototype
    moving = matching(template_of(network), only, aliases=aliases(network)) if only else None
    checkpoint = fitted(checkpoint, network, moving=moving, statistics=statistics, quiet=quiet)
    if finite:
        checkpoint.require_finite()
    return checkpoint


def landmark(problem: Problem, name: str, **settings: Any) -> Checkpoint:
    """A landmark, verified with these settings; raises `Unverified` if it does not solve the problem, `Unsupported` for
    a name that is none, which may be a path mistyped.
    """
    try:
        verification = verify(problem, name, **settings)
    except Unsupported as error:
        if name.startswith(problem.landmarks() or ("presolve",)):
            raise
        raise Unsupported(f"{name} does not exist; as a landmark: {error}") from error
    require_verified(verification, problem.nouns)
    stack = problem.landmark(name)
    sha = fingerprint(stack.tensors)
    return Checkpoint(stack, (Source(f"landmark:{name}", None, None, sha, verification.description),), None)


def verified_landmark(problem: Problem, name: str) -> Stack:
    """A landmark as a stack of one member, in the order of the network's tensors; raises `Unverified` as `landmark`."""
    return fitting(problem, landmark(problem, name)).stack


def place_of(problem: Problem, place: str) -> Stack:
    """The members at a place, a landmark's name or what `store.load` reads; they fit the problem."""
    return verified_landmark(problem, place) if is_landmark(place) else fitting(problem, load(place)).stack


def run_members(place: str, problem: Problem | None = None, *, finite: bool = True) -> tuple[Problem, Stack]:
    """The members at a place, and their problem unless it is given."""
    checkpoint = load(place)
    problem = problem or problem_of({place: checkpoint})
    return problem, fitting(problem, checkpoint, finite=finite).stack


def short(place: str) -> str:
    """A place as part of a file name: `presolve-hat`, `first`, `first@0`, `first-7`."""
    *_, above, last = ["", *place.rstrip("/").split("/")]
    name = above + last if last.startswith(("@", "#", "*")) else last
    return re.sub(r"[^\w.+=@-]+", "-", name).strip("-.") or "here"
