"""Where did training end? What each member computes, and how many seeds ended at the same function.

A function is what a network answers to all samples: a truth table where these are all there are; else its predictions
on the problem's data, classes or sides as they are, numbers up to a tolerance. Targets that the loss ignores, such as
-100, do not count: what is predicted there is nobody's mistake, and tells no functions apart.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int, Shaped

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.fields import Field
from landscape.core.intervals import Proportion
from landscape.engine.answers import Answers
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
    "on_all_samples",
    "outcomes",
    "truth_tables",
]

#: Kinds of outcome; a constant answers the same to every sample. Numbers that are neither right nor wrong vary.
KINDS = ("solved", "partly right", "constant", "varying")

#: Largest difference of answers that are numbers, as a share of their standard deviation over all members and samples,
#: up to which two members are the same function.
TOLERANCE = Field("tolerance", float | None, None, above=0)

_TOLERANCE = 1e-3

#: Members whose answers to all samples are in memory at once.
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Group:
    """Members with the same function: its share of all members, how many samples it gets right and what share of
    targets, with its standard error over samples (None where none is right or wrong), and its members' median loss.
    `wrong` says of each case of samples, where these have names, how many of how many it gets wrong.
    """

    kind: str
    right: int | None
    share: Proportion
    loss: float
    example: int
    wrong: tuple[tuple[str, int, int], ...] = ()
    accuracy: float | None = None
    accuracy_se: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Of each member: `kind` (an index into `KINDS`), `group` (an index into `groups`, the largest first), how many
    samples are `right`, at all their targets that count, and its `loss`. Of the `samples` `total` have targets that
    count, `targets` in all. `compared` says by what members are told apart.

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
    samples: int
    targets: int
    dead: Int[np.ndarray, " member"] | None = None
    curvature: Extremes | None = None
    landmark: Extremes | None = None

    @property
    def solved(self) -> Proportion:
        """Share of members that get every sample right."""
        return Proportion(int((self.kind == 0).sum()), len(self.kind))


class Functions(NamedTuple):
    """What members answer to all samples, at each place that counts, which of them answer alike, and by what they are
    compared.
    """

    rows: Shaped[np.ndarray, "member decision"]
    group: Int[np.ndarray, " member"]
    compared: str
    answers: Answers


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
        Unsupported: Samples without end, or a `batch_loss` without `outputs`.
        LandscapeError: A tolerance for classes, which are alike or not.
    """
    TOLERANCE.check(tolerance)
    objective = on_all_samples(problem, device)
    values = {name: value.cpu().numpy() for name, value in objective(stack).items()}
    ours = not isinstance(problem, Supervised)
    parts, rows, constant = [], [], []
    for block in _blocks(np.arange(len(stack))):
        answers = objective.answers(stack.select(block.tolist()) if len(block) < len(stack) else stack)
        parts.append(_right(answers, {name: value[block] for name, value in values.items()}))
        decisions = answers.decisions.numpy()
        _, first, place = np.unique(answers.place, return_index=True, return_inverse=True)
        constant.append((decisions == decisions[:, first[place]]).all(1))
        rows.append(np.packbits(decisions, axis=1) if decisions.dtype == bool else decisions)
    sides, total, targets = decisions.dtype == bool, parts[0][1], decisions.shape[1]
    group, compared = _alike(problem, np.concatenate(rows), tolerance, sides=sides)
    counts, shares = [part[0] for part in parts if part[0] is not None], [part[2] for part in parts if part[2]]
    right = np.concatenate(counts) if counts else None
    accuracy = [np.concatenate(each) for each in zip(*shares, strict=True)] if shares else None
    precise = problem.objective(device=device, dtype=torch.float64) if ours else objective
    # Decisions are as the networks make them; small losses need more digits, where the formula is ours.
    loss = precise(stack)["loss"].cpu().numpy() if ours else values["loss"]
    kind = np.where(np.concatenate(constant), 2, 3 if right is None else 1)
    if right is not None and total:
        kind[right == total] = 0
    groups = []
    members_of = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    mistakes = _wrong(problem, objective, stack, [int(members[0]) for members in members_of])
    for members, wrong in zip(members_of, mistakes, strict=True):
        one, share = int(members[0]), Proportion(len(members), len(stack))
        hits = None if right is None else int(right[one])
        shown = () if accuracy is None else (float(each[one]) for each in accuracy)
        groups.append(Group(KINDS[kind[one]], hits, share, float(np.median(loss[members])), one, wrong, *shown))
    told = Outcomes(kind, group, right, total, loss, tuple(groups), compared, answers.samples, targets)
    if not isinstance(precise, Objective) or not ours:
        return told
    landmark = problem.landmark("presolve") if "presolve" in problem.landmarks() else None
    return dataclasses.replace(
        told,
        dead=dead_units(precise, stack),
        curvature=extremes(precise, stack),
        landmark=extremes(precise, landmark) if landmark else None,
    )


def _blocks(index: Int[np.ndarray, " member"]) -> Iterator[Int[np.ndarray, " some"]]:
    """So few members at a time that what they answer to all samples fits in memory."""
    yield from (index[first : first + _AT_ONCE] for first in range(0, len(index), _AT_ONCE))


def _wrong(
    problem: Problem, objective: AnyObjective, stack: Stack, members: Sequence[int]
) -> list[tuple[tuple[str, int, int], ...]]:
    """How many samples of each case each of these gets wrong, of how many; of cases without a mistake nothing."""
    names = problem.strata()
    found = list[tuple[tuple[str, int, int], ...]]()
    for block in _blocks(np.array(members)) if names is not None else ():
        answers = objective.answers(stack.select(block.tolist()))
        if answers.hits is None:
            break
        cases, place = np.unique(np.asarray(names)[answers.sample.numpy()], return_inverse=True)
        missed, of = answers.hits.logical_not().numpy(), [place == number for number in range(len(cases))]
        wrong, total = np.stack([missed[:, each].sum(1) for each in of], axis=1), [int(each.sum()) for each in of]
        for row in wrong.tolist():
            found.append(tuple((str(name), k, n) for name, k, n in zip(cases, row, total, strict=True) if k))
    return found or [()] * len(members)


def _right(
    answers: Answers, values: Mapping[str, np.ndarray]
) -> tuple[Int[np.ndarray, " member"] | None, int, tuple[np.ndarray, np.ndarray] | None]:
    """How many samples each member gets right at all places that count, of how many that have one; and the share of
    right places with its standard error over samples, a ratio of sums as `Tally` has it.
    """
    if answers.hits is None:  # of samples some problems know it all the same
        return values["right"].astype(np.int64) if "right" in values else None, answers.samples, None
    hits, counts = (each.numpy() for each in answers.of_samples())
    with np.errstate(invalid="ignore"):  # no target may count
        share = hits.sum(1) / counts.sum()
        spread = ((hits - share[:, None] * counts) ** 2).sum(1) * (len(counts) / max(len(counts) - 1, 1))
        return (hits == counts).sum(1), len(counts), (share, np.sqrt(spread) / counts.sum())


def functions(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu", tolerance: float | None = None
) -> Functions:
    """What each member answers to all samples of the problem's data, and which answer alike."""
    return _functions(problem, on_all_samples(problem, device), stack, tolerance)


def on_all_samples(problem: Problem, device: str | torch.device) -> AnyObjective:
    """The height on all samples, at networks as they were trained."""
    objective = Compute(device=device).objective(problem)
    if objective.sampled and not isinstance(problem, Supervised):
        raise Unsupported(f"{problem.title()} has no finite table of samples, which truth tables need")
    return dataclasses.replace(objective, batchnorm="interpolate") if objective.batchnorm else objective


def _functions(problem: Problem, objective: AnyObjective, stack: Stack, tolerance: float | None) -> Functions:
    TOLERANCE.check(tolerance)
    answers = objective.answers(stack)
    rows = answers.decisions.numpy()
    group, compared = _alike(problem, rows, tolerance, sides=rows.dtype == bool)
    return Functions(rows, group, compared, answers)


def _alike(
    problem: Problem, rows: Shaped[np.ndarray, "member decision"], tolerance: float | None, *, sides: bool
) -> tuple[Int[np.ndarray, " member"], str]:
    """Which members answer alike, and by what they are compared; `sides` may be packed into bits."""
    if np.issubdtype(rows.dtype, np.floating):
        share = _TOLERANCE if tolerance is None else tolerance
        numbers = rows.astype(np.float64)
        finite = numbers[np.isfinite(numbers).all(1)]
        limit = share * float(finite.std()) if finite.size else 0.0
        return _close(numbers, limit), f"outputs to within {limit:.3g}"
    if tolerance is not None:
        raise LandscapeError("the answers are classes, which are alike or not: leave `tolerance` out")
    predicted = "predicted sides" if sides else "predicted classes"
    return grouped(rows), predicted if isinstance(problem, Supervised) else "truth tables"


def _close(rows: Float[np.ndarray, "member decision"], limit: float) -> Int[np.ndarray, " member"]:
    """Numbers of groups in which no two rows differ by more than the limit anywhere (complete linkage); those that are
    not finite are one.
    """
    if len(rows) < 2:
        return np.zeros(len(rows), dtype=np.int64)
    finite = np.isfinite(rows).all(1)
    apart = 2 * np.abs(rows[finite]).max(initial=0.0) + 2 * limit + 1
    tree = scipy.cluster.hierarchy.linkage(np.where(finite[:, None], rows, apart), "complete", metric="chebyshev")
    return grouped(scipy.cluster.hierarchy.fcluster(tree, limit, criterion="distance").astype(np.int64))


def truth_tables(
    problem: Problem, stack: Stack, *, device: str | torch.device = "cpu"
) -> tuple[Bool[np.ndarray, "member sample"], Int[np.ndarray, " member"], Float[np.ndarray, " member"]]:
    """Decisions on every sample, how many of them are right, and the loss."""
    objective = on_all_samples(problem, device)
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
    if rows.ndim > 1:  # compared as bytes: column by column takes a hundred times as long
        if not rows.shape[1]:
            return np.zeros(len(rows), dtype=np.int64)
        rows = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}")[:, 0]
    _, first, inverse, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse.reshape(-1)]
