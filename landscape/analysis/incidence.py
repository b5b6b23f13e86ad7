"""How many members are solved by how many steps? Cumulative incidence, with dead networks as a competing outcome."""

import dataclasses
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int

from landscape.analysis.convergence import constant
from landscape.core.errors import LandscapeError, Unsupported, plural
from landscape.core.intervals import CONFIDENCE, Proportion
from landscape.engine.plain import AnyObjective
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import fitting, problem_of
from landscape.store.checkpoints import Run

__all__ = ["CAUSES", "Incidence", "aalen_johansen", "incidence"]

#: What ends a member's time; the first that happens counts.
CAUSES = ("solved", "dead")


@dataclasses.dataclass(frozen=True, eq=False)
class Incidence:
    """Outcomes of the members of a run over its saved `steps`.

    `at` says how many are solved at each, whatever was before or comes after. `by`, [cause, step], is the cumulative
    incidence of each of `CAUSES` with its standard error and its 95 % interval (`low`, `high`): the share of members
    for which that has happened first, by then. `first` says at which saved step something happened to a member, -1 for
    nothing, and `cause` what (an index). What happens between two saved steps is known to have happened by the later
    one: both are interval-censored. `lost` counts members that were solved by the last step and are not solved at it.
    """

    title: str
    steps: tuple[int, ...]
    at: tuple[Proportion, ...]
    by: Float[np.ndarray, "cause step"]
    se: Float[np.ndarray, "cause step"]
    low: Float[np.ndarray, "cause step"]
    high: Float[np.ndarray, "cause step"]
    first: Int[np.ndarray, " member"]
    cause: Int[np.ndarray, " member"]
    lost: int

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and a row a saved step."""
        header = ["step", "solved at", "95 % interval"]
        header += [each for cause in CAUSES for each in (f"{cause} by", "95 % interval")]
        rows = []
        for number, (step, at) in enumerate(zip(self.steps, self.at, strict=True)):
            row: list[Any] = [step, at.value, "{:.3f} to {:.3f}".format(*at.interval)]
            for cause in range(len(CAUSES)):
                ends = f"{self.low[cause, number]:.3f} to {self.high[cause, number]:.3f}"
                row += [float(self.by[cause, number]), ends]
            rows.append(row)
        return header, rows

    def caption(self) -> str:
        """What the numbers are."""
        return (
            f"{self.title}, {plural(self.at[0].total, 'member')}. Solved at: at that step (Wilson's intervals, 95 %). "
            "By: cumulative incidence (Aalen-Johansen, 95 %) of what happens first; seen at saved steps alone, it may "
            f"have happened at any step since the one before. Solved by, but not at step {self.steps[-1]}: {self.lost}."
        )


def aalen_johansen(
    times: Float[np.ndarray, " member"], causes: Int[np.ndarray, " member"], at: Float[np.ndarray, " time"], count: int
) -> tuple[Float[np.ndarray, "cause time"], Float[np.ndarray, "cause time"]]:
    """Cumulative incidence of each of `count` causes at some times, and its standard error.

    `times` are when something happened, or, with the cause -1, until when nothing was seen to. The share of a cause k
    by t is the sum over event times s <= t of S(s-) d_k(s) / n(s), with n members at risk, d_k events, and S the share
    to whom nothing has happened; the variance is the delta method's, of Greenwood's kind: without censoring both are
    those of a proportion.

    Source: O. O. Aalen, S. Johansen, Scand. J. Stat. 5, 1978; E. Marubini, M. G. Valsecchi, *Analysing Survival Data*,
    1995, section 10.2.3; O. O. Aalen, Ø. Borgan, H. K. Gjessing, *Survival and Event History Analysis*, 2008.

    >>> share, se = aalen_johansen(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, -1]), np.array([1.0, 2.0]), 2)
    >>> share.tolist()
    [[0.25, 0.5], [0.0, 0.25]]
    """
    events = np.unique(times[causes >= 0])
    risk = (times[:, None] >= events).sum(0).astype(float)
    here = np.stack([((times[:, None] == events) & (causes == k)[:, None]).sum(0) for k in range(count)]).astype(float)
    every = here.sum(0)
    before = np.concatenate([[1.0], np.cumprod(1 - every / risk)])[:-1] if len(events) else np.ones(0)
    steps = before * here / risk if len(events) else here
    shares, errors = np.zeros((count, len(at))), np.zeros((count, len(at)))
    for j, time in enumerate(at):
        past = events <= time
        n, d, s = risk[past], every[past], before[past]
        for k in range(count):
            own, reached = here[k, past], np.cumsum(steps[k, past])
            total = reached[-1] if len(reached) else 0.0
            rest = total - reached
            with np.errstate(divide="ignore", invalid="ignore"):
                first = np.where(rest > 0, rest**2 * d / (n * (n - d)), 0.0)
            variance = first.sum() + (s**2 * (n - own) * own / n**3).sum() - 2 * (rest * s * own / n**2).sum()
            shares[k, j], errors[k, j] = total, np.sqrt(max(variance, 0.0))
    return shares, errors


def incidence(run: Run, problem: Problem | None = None) -> Incidence:
    """Outcomes of a run's members over its saved steps, on the problem's own loss.

    Solved is every target right; dead is the same output for every sample, or parameters that are NaN or infinite, from
    a saved step on to the last. Raises `LandscapeError` for a run with less than one decade of steps, or a problem that
    counts nothing as right.
    """
    steps = run.steps()
    if len(steps) < 2 or steps[-1] < 10 * max(steps[0], 1):
        raise LandscapeError(
            f"{run.path} has saved steps {steps[0]} to {steps[-1]}: outcomes against steps need a decade of them"
            if steps
            else f"{run.path} is an empty run, it has no checkpoint yet: train it first"
        )
    problem = problem or problem_of({str(run.path): run.checkpoint(steps[0])})
    objective = Compute(dtype=torch.float64).objective(problem)
    solved, dead = [], []
    for step in steps:
        right, silent = _states(problem, objective, fitting(problem, run.checkpoint(step), finite=False).stack)
        solved.append(right)
        dead.append(silent)
    is_solved, is_dead = np.stack(solved), np.stack(dead)
    for number in range(len(steps) - 2, -1, -1):  # those that do not come alive again
        is_dead[number] &= is_dead[number + 1]
    happened = np.stack([is_solved, is_dead])
    never = ~happened.any((0, 1))
    first = np.where(never, -1, happened.any(0).argmax(0))
    cause = np.where(never, -1, happened[:, first, np.arange(len(first))].argmax(0))
    grid = np.asarray(steps, float)
    times = np.where(never, grid[-1], grid[first])
    by, se = aalen_johansen(times, cause, grid, len(CAUSES))
    low, high = _interval(by, se, len(first))
    return Incidence(
        title=problem.title(),
        steps=tuple(steps),
        at=tuple(Proportion(int(each.sum()), len(each)) for each in is_solved),
        by=by,
        se=se,
        low=low,
        high=high,
        first=np.where(never, -1, np.asarray(steps)[first]),
        cause=cause,
        lost=int(((cause == 0) & ~is_solved[-1]).sum()),
    )


def _states(
    problem: Problem, objective: AnyObjective, stack: Stack
) -> tuple[Bool[np.ndarray, " member"], Bool[np.ndarray, " member"]]:
    """Which members have every target right, and which are dead."""
    stack = stack.to(torch.float64)
    finite = stack.flatten().isfinite().all(1)
    values = objective(stack)
    if "solved" in values:
        right = values["solved"] > 0
    elif "accuracy" in values:
        right = values["accuracy"] >= 1
    else:
        raise Unsupported(f"{problem.title()} counts no target as right: outcomes are of those that do")
    return (right & finite).cpu().numpy(), (constant(objective, stack) | ~finite).cpu().numpy()


def _interval(
    shares: Float[np.ndarray, "cause time"], se: Float[np.ndarray, "cause time"], members: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals on the scale of log(-log), within [0, 1]; where nothing or all has happened, Wilson's."""
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    inside = (shares > 0) & (shares < 1 - 1e-12) & (se > 0)
    share = np.where(inside, shares, 0.5)
    wide = np.exp(z * np.where(inside, se, 0.0) / (share * np.log(share)))
    ends = share**wide, share ** (1 / wide)
    none, every = Proportion(0, members).interval, Proportion(members, members).interval
    outside = np.where(shares[..., None] <= 0, none, every)
    low, high = (np.where(inside, f(*ends), outside[..., k]) for k, f in enumerate((np.minimum, np.maximum)))
    return low, high
