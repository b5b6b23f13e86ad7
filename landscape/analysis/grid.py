"""By how much are the points of a walk low? From bounds of some of its lines, whose ends are read again."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from landscape.core.errors import LandscapeError
from landscape.core.provenance import Source
from landscape.evaluation.certify import Certifying, bounded
from landscape.evaluation.routes import Prepared, connect
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import fitting, landmark
from landscape.problems.registry import restore
from landscape.store.checkpoints import Checkpoint, load, together
from landscape.store.results import Result

__all__ = ["TOLERANCE", "GridError", "grid_error"]

#: How far apart the bounds are, as a share of a line's highest loss.
TOLERANCE = 1e-4

#: Seed of the draw of lines, and the columns of their ends.
_SEED, _ENDS = 0, ("from_member", "to_member")


@dataclasses.dataclass(frozen=True, eq=False)
class GridError:
    """Of some `lines` of a result, drawn at random, by what share of the highest loss the highest point may be low."""

    lines: Int[np.ndarray, " line"]
    low_by: Float[np.ndarray, " line"]
    tolerance: float = TOLERANCE


def grid_error(curves: Result, *, lines: int = 20, seconds: float = 5.0) -> GridError | None:
    """Bound the highest loss of some of a result's lines, to say by how much its grid may miss it.

    Args:
        curves: Lines that were walked without `certify` or `tolerance`.
        lines: How many are drawn, at most; all that are finished, if they are no more.
        seconds: After which no other line is begun, and one that is not done is left out.

    Returns:
        A `GridError`, of a walk with `align` of the lines to ends as they are; None where nothing can be told: of lines
        that bend, go through places or move in part, of ends that are no longer where they were, of networks and losses
        that nothing bounds, or where no line was done.

    Source: `landscape.evaluation.certify`.
    """
    about = curves.about
    left_out = ("draws", "l2", "autocast", "means_over_batches")
    partial = {"moves", "via_member", "max_lower", "barrier_low"} & curves.columns.keys()
    if not lines or curves.kind != "line" or partial or any(about.get(each) for each in left_out):
        return None
    until = time.monotonic() + seconds
    naive = curves.done & ~curves.columns.get("aligned", np.zeros(len(curves), dtype=bool))
    naive &= np.isfinite(curves.loss[:, curves.inside][:, [0, -1]]).all(axis=1)  # other lines have no bounds
    drawn = np.random.default_rng(_SEED).permutation(np.flatnonzero(naive))[:lines]
    grid, found = curves.loss[:, curves.inside].max(axis=1), list[float]()
    log = logging.getLogger("landscape")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        problem = restore(about["problem"]["name"], about["problem"]["config"], about.get("code"), wanted_by="the file")
        policy = about.get("batchnorm", {}).get("policy")
        compute = Compute(dtype=torch.float64, batchnorm=policy)
        objective = compute.objective(problem)
        if objective.samples != about["samples"]:
            return None
        read = functools.cache(functools.partial(_read, problem))
        ends = [_members(problem, [curves.sources[k] for k in curves[key][drawn]], read) for key in _ENDS]
        prepared = Prepared(problem, compute, objective, connect(*ends, keep_statistics=policy == "keep"), {})
        for part in bounded(prepared, Certifying(certify=TOLERANCE), _stop(until))([]):
            found += part.columns["max_upper"].tolist()
    except _Late:
        pass
    except (LandscapeError, OSError, KeyError):
        return None
    finally:
        log.setLevel(level)
    top, points = np.array(found), grid[drawn[: len(found)]]
    if not found or (top < points * (1 - 1e-3)).any():
        return None  # of another loss than the file's
    return GridError(drawn[: len(found)], (1 - points / np.maximum(top, 1e-300)).clip(min=0))


def _read(problem: Problem, path: str) -> Checkpoint:
    name = path.removeprefix("landmark:")
    return load(path) if name == path else landmark(problem, name)


def _members(problem: Problem, sources: Sequence[Source], read: Callable[[str], Checkpoint]) -> Checkpoint:
    """The networks that lines say they begin or end at; raises `KeyError` if one is not there any more."""
    found = []
    for source in sources:
        checkpoint = read(source.path)
        if source not in checkpoint.sources:
            raise KeyError(source)
        place = checkpoint.sources.index(source)
        found.append(dataclasses.replace(checkpoint, stack=checkpoint.stack.select([place]), sources=(source,)))
    return fitting(problem, together("ends", [source.label for source in sources], found))


class _Late(Exception):
    """Time is over."""


def _stop(until: float) -> Callable[[int, int], None]:
    """Progress that ends at a time."""

    def tell(done: int, total: int) -> None:
        if time.monotonic() > until:
            raise _Late

    return tell
