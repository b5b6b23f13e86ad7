"""Where did training end? What each member computes, and how many seeds ended at the same function."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from landscape.core.errors import Unsupported
from landscape.core.intervals import Proportion
from landscape.engine.hessian import Extremes, extremes
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.problems.base import Problem

__all__ = ["KINDS", "Group", "Outcomes", "dead_units", "decisions", "grouped", "outcomes", "truth_tables"]

#: Kinds of outcome; a constant answers the same to every sample.
KINDS = ("solved", "partly right", "constant")


@dataclasses.dataclass(frozen=True)
class Group:
    """Members with the same truth table: its share of all members, what it gets right, and its members' median loss."""

    kind: str
    right: int
    share: Proportion
    loss: float
    example: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Of each member: `kind` (an index into `KINDS`), `group` (an index into `groups`, the largest first), how many
    samples are `right` of `total`, its `loss`, the number of `dead` units, and the `curvature` where it ended; that
    of the landmark `presolve`, if there is one, for comparison.
    """

    kind: Int[np.ndarray, " member"]
    group: Int[np.ndarray, " member"]
    right: Int[np.ndarray, " member"]
    total: int
    loss: Float[np.ndarray, " member"]
    dead: Int[np.ndarray, " member"]
    curvature: Extremes
    landmark: Extremes | None
    groups: tuple[Group, ...]

    @property
    def solved(self) -> Proportion:
        """Share of members that get every sample right."""
        return Proportion(int((self.kind == 0).sum()), len(self.kind))


def outcomes(problem: Problem, stack: Stack, *, device: str | torch.device = "cpu") -> Outcomes:
    """Outcomes of the members of `stack`.

    Truth tables compare decisions on all samples of the problem's exact objective; raises `Unsupported` if it has none.
    """
    tables, right, loss = truth_tables(problem, stack, device=device)
    total = tables.shape[1]
    kind = np.where(right == total, 0, np.where((tables == tables[:, :1]).all(axis=1), 2, 1))
    group, groups = grouped(tables), []
    for number in range(int(group.max(initial=-1)) + 1):
        members = np.flatnonzero(group == number)
        example, share = int(members[0]), Proportion(len(members), len(group))
        groups.append(Group(KINDS[kind[example]], int(right[example]), share, float(np.median(loss[members])), example))
    precise = problem.objective(device=device, dtype=torch.float64)
    landmark = problem.landmark("presolve") if "presolve" in problem.landmarks() else None
    return Outcomes(
        kind=kind,
        group=group,
        right=right,
        total=total,
        loss=loss,
        dead=dead_units(precise, stack),
        curvature=extremes(precise, stack),
        landmark=extremes(precise, landmark) if landmark else None,
        groups=tuple(groups),
    )


def truth_tables(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu"
) -> tuple[Bool[np.ndarray, "member sample"], Int[np.ndarray, " member"], Float[np.ndarray, " member"]]:
    """Decisions on every sample, how many of them are right, and the loss."""
    objective = problem.objective(device=device)
    if objective.sampled:
        raise Unsupported(f"{problem.title()} has no finite table of samples, which truth tables need")
    values = objective(stack)
    return decisions(objective, stack), values["right"].cpu().numpy().astype(np.int64), values["loss"].cpu().numpy()


def decisions(objective: Objective, stack: Stack) -> Shaped[np.ndarray, "member decision"]:
    """What each member decides on all samples of an objective: the class, the side, or the output itself."""
    return objective.predictions(stack).flatten(1).cpu().numpy()


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
