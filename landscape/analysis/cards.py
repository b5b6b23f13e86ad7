"""A card a function that members compute: filters of one of them, and which cases of samples they get wrong."""

import dataclasses

import numpy as np
from jaxtyping import Float

from landscape.analysis.outcomes import Outcomes, outcomes
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.places import landmark
from landscape.space.alignment import match

__all__ = ["Cards", "cards"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cards:
    """Outcomes of some members and, where the first layer filters images, of an example of each of the largest groups
    the filters, and those of the `known` solution; `cases` are the names of those of samples, empty if they have none.
    """

    found: Outcomes
    kernels: Float[np.ndarray, "card filter row column"] | None
    cases: tuple[str, ...]
    known: Float[np.ndarray, "filter row column"] | None = None


def cards(problem: Problem, stack: Stack, *, most: int = 6) -> Cards:
    """What the members of a stack compute, the `most` common functions as cards; raises as `outcomes`.

    Each example is the representative (order, signs and scales of its units) that lies closest to the known solution,
    where the problem has one.
    """
    found = outcomes(problem, stack)
    cases = problem.strata()
    first = next(iter(stack.tensors))
    if stack[first].ndim != 5:
        return Cards(found, None, tuple(sorted(set(cases or ()))))
    examples = stack.select([group.example for group in found.groups[:most]])
    known = landmark(problem, "presolve").stack.to(examples.dtype) if "presolve" in problem.landmarks() else None
    if known is not None:
        examples = match(examples, known, problem.symmetry()).stack
    kernels, *solution = (each[first].flatten(1, 2).cpu().numpy() for each in (examples, *([known] if known else [])))
    return Cards(found, kernels, tuple(sorted(set(cases or ()))), solution[0][0] if solution else None)
