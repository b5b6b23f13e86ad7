"""Where did training end? What each member computes, and how many seeds ended at the same function.

A function is what a network answers to all samples: a truth table where these are all there are; else its predictions
on the problem's data, classes or sides as they are, numbers up to a tolerance.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.cluster import hierarchy

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.fields import Field
from landscape.core.intervals import Proportion
from landscape.engine.hessian import Extremes, extremes
from landscape.engine.objective import Objective
from landscape.engine.plain import AnyObjective
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.supervised import Supervised

__all__ = [
    "KINDS",
    "TOLERANCE",
    "Functions",
    "Group",
    "Outcomes",
    "dead_units",
    "functions",
    "grouped",
    "outcomes",
    "truth_tables",
]

#: Kinds of outcome; a constant answers the same to every sample. Numbers that are neither right nor wrong vary.
KINDS = ("solved", "partly right", "constant", "varying")

#: Largest difference of answers that are numbers, as a share of their standard deviation over all members and samples,
#: up to which two members are the same function.
TOLERANCE = Field("tolerance", float | None, None, above=0)

_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Group:
    """Members with the same function: its share of all members, how many samples it gets right (None where none is
    right or wrong), and its members' median loss.
    """

    kind: str
    right: int | None
    share: Proportion
    loss: float
    example: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Of each member: `kind` (an index into `KINDS`), `group` (an index into `groups`, the largest first), how many
    samples are `right` of `total`, and its `loss`. `compared` says by what members are told apart.

    Where the samples are all there are, also the number of `dead` units and the `curvature` where it ended; that of the
    landmark `presolve`, if there is one, for comparison.
    """

    kind: Int[np.ndarray, " member"]
    group: Int[np.ndarray, " member"]
    right: Int[np.ndarray, " member"] | None
    total: int
    loss: Float[np.ndarray, " member"]
    groups: tuple[Group, ...]
    compared: str
    dead: Int[np.ndarray, " member"] | None = None
    curvature: Extremes | None = None
    landmark: Extremes | None = None

    @property
    def solved(self) -> Proportion:
        """Share of members that get every sample right."""
        return Proportion(int((self.kind == 0).sum()), len(self.kind))


class Functions(NamedTuple):
    """What members answer to all samples, which of them answer alike, and by what they are compared."""

    rows: Shaped[np.ndarray, "member decision"]
    group: Int[np.ndarray, " member"]
    compared: str


def outcomes(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu", tolerance: float | None = None
) -> Outcomes:
    """Outcomes of the members of `stack`, on all samples of the problem's data, with the statistics of BatchNorm that
    the members bring along; losses of the Game of Life, whose formula is ours, in float64.

    Args:
        problem: What they learnt.
        stack: The members.
        device: Where to compute.
        tolerance: Largest difference of answers that are numbers, as a share of their standard deviation over all
            members and samples, up to which two members are the same function; None: 0.001.

    Returns:
        An `Outcomes`: `group`, `kind`, `right` and `loss` of each member, and the `groups`.

    Raises:
        Unsupported: Samples without end, or a loss that reads outputs itself.
        LandscapeError: A tolerance for classes, which are alike or not.
    """
    objective = _objective(problem, device)
    found = _functions(problem, objective, stack, tolerance)
    rows, values = found.rows, {name: value.cpu().numpy() for name, value in objective(stack).items()}
    ours = not isinstance(problem, Supervised)
    precise = problem.objective(device=device, dtype=torch.float64) if ours else objective
    # Decisions are as the networks make them; small losses need more digits, where the formula is ours.
    loss, total = precise(stack)["loss"].cpu().numpy() if ours else values["loss"], objective.samples
    right = values["right"].astype(np.int64) if "right" in values else None
    constant = (rows.reshape(len(rows), -1, total) == rows.reshape(len(rows), -1, total)[:, :, :1]).all(axis=(1, 2))
    kind = np.where(constant, 2, 3 if right is None else 1)
    if right is not None:
        kind[right == total] = 0
    groups = []
    for number in range(int(found.group.max(initial=-1)) + 1):
        members = np.flatnonzero(found.group == number)
        first, share = int(members[0]), Proportion(len(members), len(stack))
        hits = None if right is None else int(right[first])
        groups.append(Group(KINDS[kind[first]], hits, share, float(np.median(loss[members])), first))
    told = Outcomes(kind, found.group, right, total, loss, tuple(groups), found.compared)
    if not isinstance(precise, Objective) or not ours:
        return told
    landmark = problem.landmark("presolve") if "presolve" in problem.landmarks() else None
    return dataclasses.replace(
        told,
        dead=dead_units(precise, stack),
        curvature=extremes(precise, stack),
        landmark=extremes(precise, landmark) if landmark else None,
    )


def functions(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu", tolerance: float | None = None
) -> Functions:
    """What each member answers to all samples of the problem's data, and which answer alike."""
    return _functions(problem, _objective(problem, device), stack, tolerance)


def _objective(problem: Problem, device: str | torch.device) -> AnyObjective:
    """The height on all samples, at networks as they were trained."""
    objective = Compute(device=device).objective(problem)
    if objective.sampled and not isinstance(problem, Supervised):
        raise Unsupported(f"{problem.title()} has no finite table of samples, which truth tables need")
    return dataclasses.replace(objective, batchnorm="interpolate") if objective.batchnorm else objective


def _functions(problem: Problem, objective: AnyObjective, stack: Stack, tolerance: float | None) -> Functions:
    TOLERANCE.check(tolerance)
    rows = objective.predictions(stack).flatten(1).cpu().numpy()
    if np.issubdtype(rows.dtype, np.floating):
        share = _TOLERANCE if tolerance is None else tolerance
        limit = share * float(np.nanstd(rows.astype(np.float64)))
        return Functions(rows, _alike(rows.astype(np.float64), limit), f"outputs to within {limit:.3g}")
    if tolerance is not None:
        raise LandscapeError("the answers are classes, which are alike or not: leave `tolerance` out")
    predicted = "predicted sides" if rows.dtype == bool else "predicted classes"
    return Functions(rows, grouped(rows), predicted if isinstance(problem, Supervised) else "truth tables")


def _alike(rows: Float[np.ndarray, "member decision"], limit: float) -> Int[np.ndarray, " member"]:
    """Numbers of groups in which no two rows differ by more than the limit anywhere (complete linkage); those that are
    not finite are one.
    """
    if len(rows) < 2:
        return np.zeros(len(rows), dtype=np.int64)
    finite = np.isfinite(rows).all(1)
    apart = 2 * np.abs(rows[finite]).max(initial=0.0) + 2 * limit + 1
    tree = hierarchy.linkage(np.where(finite[:, None], rows, apart), "complete", metric="chebyshev")
    return grouped(hierarchy.fcluster(tree, limit, criterion="distance").astype(np.int64))


def truth_tables(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu"
) -> tuple[Bool[np.ndarray, "member sample"], Int[np.ndarray, " member"], Float[np.ndarray, " member"]]:
    """Decisions on every sample, how many of them are right, and the loss."""
    objective = _objective(problem, device)
    values = objective(stack)
    rows = _functions(problem, objective, stack, None).rows
    return rows, values["right"].cpu().numpy().astype(np.int64), values["loss"].cpu().numpy()


def dead_units(objective: Objective, stack: Stack) -> Int[np.ndarray, " member"]:
    """Number of hidden units whose input to the activation is positive on no sample."""
    counts = []
    inputs = objective.memory.samples(0, len(objective.memory)).inputs
    for _, part in objective.chunks(stack):
        with torch.no_grad():
            traced = [x for name, x in objective.network.trace(part, inputs) if f"{name}.weight" in part.tensors]
        silent = [(x.flatten(2).amax(2) <= 0).sum(1) for x in traced[:-1]]
        counts.append(torch.stack(silent).sum(0) if silent else torch.zeros(len(part), dtype=torch.int64))
    return torch.cat(counts)[: len(stack)].cpu().numpy()


def grouped(
    rows: Shaped[np.ndarray, "member decision"] | Int[np.ndarray, " member"],
) -> Int[np.ndarray, " member"]:
    """Equal rows have the same number, from 0, the most frequent first (that of the earliest member among equals)."""
    _, first, inverse, counts = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse.reshape(-1)]
