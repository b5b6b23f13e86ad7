"""What a run holds for a page: what its members compute, their losses while they learnt, and when they were solved."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float

from landscape.analysis.cards import Cards, cards
from landscape.analysis.incidence import incidence
from landscape.core.errors import DamagedFile, LandscapeError
from landscape.core.files import is_there
from landscape.core.reading import parsed, read_bytes
from landscape.engine.plain import AnyObjective
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import fitting
from landscape.store.checkpoints import Checkpoint, Run
from landscape.web.data import CARDS, SAMPLE, Members, Section, Traces, Training, few, spread

__all__ = ["trained"]


def trained(section: Section, name: str, run: Run, members: Members, problem: Problem | None, most: int) -> Training:
    """A run with what can be found of it, the rest as remarks of its section; an empty one raises `LandscapeError`."""
    checkpoint = run.checkpoint()
    found: Cards | None = None
    happened = None
    if problem is not None:
        found = section.tried(
            f"{name}, what its members compute", lambda: cards(problem, fitting(problem, checkpoint).stack, most=CARDS)
        )
        if found is not None and found.found.right is not None:
            happened = section.tried(f"{name}, outcomes against steps", lambda: incidence(run, problem))
    traces = section.tried(f"{name}, training curves", lambda: _traces(run, problem, most))
    count = len(checkpoint.sources)
    rank = found.found.loss if found is not None else np.arange(count, dtype=float)
    shown = spread(rank, most if traces is None or len(traces.shown) == count else SAMPLE)
    if traces is not None:
        traces = dataclasses.replace(traces, shown=shown)
    numbers = {row: members.of(checkpoint.sources[row]) for row in shown.tolist()}
    if found is not None:
        _tell(members, numbers, found)
    return Training(name, run, checkpoint.sources, numbers, found, happened, traces)


def _tell(members: Members, numbers: dict[int, int], cards: Cards) -> None:
    """What is known of the members of a run."""
    found = cards.found
    for row, member in numbers.items():
        group = found.groups[found.group[row]]
        facts = {"loss": float(found.loss[row]), "outcome": group.kind, "function": int(found.group[row]) + 1}
        if found.right is not None:
            facts["right"] = f"{found.right[row]} of {found.total}"
        members.tell(member, surely=True, **facts)


def _traces(run: Run, problem: Problem | None, most: int) -> Traces:
    """Losses as training logged them, else those at the saved steps; `LandscapeError` where there are neither."""
    log = run.path / "log.jsonl"
    if is_there(log):
        rows = [row for line in read_bytes(log).splitlines() if (row := _logged(line, len(run.seeds))) is not None]
        if not rows:
            raise LandscapeError(f"{log} has no losses of these members")
        steps, loss = np.array([step for step, _ in rows]), np.stack([losses for _, losses in rows], axis=1)
        how = "loss of each member on its batch, as training logged it"
    elif problem is None:
        raise LandscapeError("there is no log.jsonl, and no loss without the problem")
    elif len(run.steps()) < 2:
        raise LandscapeError(f"{run.path} has one saved step and no log.jsonl: there is no curve to draw")
    else:
        steps = np.array(run.steps(), dtype=float)
        objective = Compute(dtype=torch.float64).objective(problem)
        loss = np.stack([_loss(problem, objective, run.checkpoint(step)) for step in run.steps()], axis=1)
        exact = "on samples" if objective.sampled else "exact"
        how = f"loss at the saved steps ({exact}), as there is no log"
    count = len(run.seeds)
    return Traces(steps, loss, np.arange(count if few(count, len(steps), most) else min(SAMPLE, count)), how)


def _logged(line: bytes, members: int) -> tuple[float, Float[np.ndarray, " member"]] | None:
    """Step and losses of a line of the log; None for one cut short, or of somebody else's."""
    try:
        row = parsed(line, "a line")
        step, losses = float(row["step"]), np.array(row["loss"], dtype=float)  # null is NaN
    except (DamagedFile, TypeError, ValueError, KeyError):
        return None
    return (step, losses) if losses.shape == (members,) and step >= 0 else None


def _loss(problem: Problem, objective: AnyObjective, checkpoint: Checkpoint) -> Float[np.ndarray, " member"]:
    stack = fitting(problem, checkpoint, finite=False).stack.to(torch.float64)
    return np.asarray(objective(stack)["loss"].cpu().numpy())
