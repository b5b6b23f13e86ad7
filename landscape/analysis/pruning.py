"""Which units can a network do without? Greedy removal while every sample stays right."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from landscape.core.errors import LandscapeError
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack

__all__ = ["left", "prune", "units"]

#: Networks that are tried at once.
_AT_ONCE = 8192

#: A hidden layer: the tensors whose rows are its units (weights, bias), and the one whose columns read them.
Layer = tuple[Sequence[str], str]


def prune(
    objective: Objective, stack: Stack, layers: Sequence[Layer], *, most: int | None = None, right: bool = True
) -> tuple[Stack, Bool[Tensor, "member unit"]]:
    """Remove units one at a time, each time the one without which the loss is lowest, while every sample stays right.

    A unit is removed by setting to zero what makes it and what reads it; one that nothing reads is not there to begin
    with. Of a member that is not right to begin with nothing is removed.

    Args:
        objective: What is asked; it must count samples as `right`.
        stack: The networks.
        layers: Hidden layers, each as the names of the tensors whose rows are its units, and of the one that reads
            them.
        most: Units to remove at most; None: as many as can be.
        right: Whether every sample must stay right; else `most` units go from every member, whatever it costs.

    Returns:
        The networks, and which units are still there, those of one layer after those of another.

    Raises:
        LandscapeError: If the objective has no `right`.

    Source: after M. Mozer, P. Smolensky, *Skeletonization*, NeurIPS 1988, with the loss itself for relevance.

    Example:
        >>> from landscape.problems.life import Life
        >>> life = Life(m_factor=3)
        >>> layers = [(("net.0.0.weight", "net.0.0.bias"), "net.0.2.weight")]
        >>> _, there = prune(life.objective(), life.landmark("presolve+split"), layers)
        >>> int(there.sum())
        2
    """
    if "right" not in objective.metrics:
        raise LandscapeError("the objective counts no samples as `right`: give one of a problem that does")
    there = units(stack, layers)
    one = torch.eye(there.shape[1], dtype=torch.bool)
    going = (objective(stack)["right"].cpu() == objective.samples) | (not right)
    for _ in range(there.shape[1] if most is None else most):
        member, unit = (there & going[:, None]).nonzero(as_tuple=True)
        loss = torch.full(there.shape, torch.inf, dtype=torch.float64)
        for row, column in zip(torch.split(member, _AT_ONCE), torch.split(unit, _AT_ONCE), strict=True):
            values = objective(left(stack.select(row), layers, ~one[column]))
            fine = (values["right"].cpu() == objective.samples) | (not right)
            loss[row, column] = torch.where(fine, values["loss"].cpu().double(), torch.inf)
        lowest, chosen = loss.min(1)
        going = lowest.isfinite()
        if not going.any():
            break
        there[going, chosen[going]] = False
        stack = left(stack, layers, there)
    return stack, there


def units(stack: Stack, layers: Sequence[Layer]) -> Bool[Tensor, "member unit"]:
    """Which units something reads, those of one layer after those of another."""
    read = [(stack.tensors[reader] != 0).flatten(2) for _, reader in layers]
    sizes = [stack.tensors[reader].shape[2] for _, reader in layers]
    return torch.cat(
        [each.view(*each.shape[:2], size, -1).any(3).any(1) for each, size in zip(read, sizes, strict=True)], 1
    ).cpu()


def left(stack: Stack, layers: Sequence[Layer], there: Bool[Tensor, "member unit"]) -> Stack:
    """The networks with the units that are not `there` set to zero."""
    tensors, first = dict(stack.tensors), 0
    for rows, reader in layers:
        own = there[:, first : first + tensors[rows[0]].shape[1]].to(stack.device)
        first += own.shape[1]
        for name, axis in (*((row, 1) for row in rows), (reader, 2)):
            shape = [len(own), *(own.shape[1] if place == axis else 1 for place in range(1, tensors[name].ndim))]
            tensors[name] = torch.where(own.view(shape), tensors[name], 0.0)
    return Stack(tensors)
