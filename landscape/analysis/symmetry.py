"""Which changes of a network's parameters leave its function as it is? What is derived, shown."""

import math
from typing import Any

import torch

from landscape.core.errors import LandscapeError, few, plural
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import Place
from landscape.problems.registry import chosen
from landscape.space.symmetry import Symmetry, count_orders

__all__ = ["HEADER", "caption", "rows", "symmetry"]

#: Of `rows`.
HEADER = ("group", "units", "in any order", "scales", "signs", "tensors")


def symmetry(a: Place | None = None, *, problem: Problem | str | None = None) -> Symmetry:
    """The symmetry of a place's networks: units of which order, scale or sign makes no difference to the outputs.

    It is derived from the operations of the network's own forward on a few samples of the problem's data, and tried in
    float64 (`landscape.space.derivation.derive`, which takes a module and its inputs).

    Args:
        a: A place, such as a run; None: networks of the `problem`.
        problem: Model, data and loss. None: that of the run or checkpoint.

    Returns:
        A `Symmetry`: its groups, what is `refused` and why, and what symmetry there is beyond (`unquotiented`). Where
        nothing can be derived it has no groups, and says why.

    Raises:
        LandscapeError: Neither a place nor a problem is given, or the place is none.

    >>> import landscape
    >>> landscape.symmetry(problem="life").sizes
    (2, 1)
    """
    if a is None:
        if problem is None:
            raise LandscapeError("networks have a symmetry: name a place, or a `problem`")
        return chosen(problem).symmetry()
    return networks([a], Compute(device=torch.device("cpu")), problem)[0].symmetry()


def caption(found: Symmetry) -> str:
    """How much there is of it, in a line."""
    if not found:
        return "no units are known whose order, scale or sign could be changed"
    orders = count_orders(Symmetry(tuple(group for group in found if group.permutes)))
    several = f"10^{math.log10(orders):.1f} orders" if orders > 1e6 else plural(orders, "order")
    scales = sum(len(group.scalings) * group.size for group in found)
    signs = sum(len(group.flips) * group.size for group in found)
    return (
        f"{plural(len(found), 'group')} of {plural(sum(found.sizes), 'unit')}: {several}, "
        f"{plural(scales, 'scale')} and {plural(signs, 'sign')} that are free"
    )


def rows(found: Symmetry) -> list[list[Any]]:
    """A row a group: its number and size, whether its units permute, scales and signs of each unit, its tensors."""
    return [
        [
            number,
            group.size,
            "yes" if group.permutes else "no",
            len(group.scalings),
            len(group.flips),
            few(list(dict.fromkeys(axis.name for axis in group.axes)), most=3),
        ]
        for number, group in enumerate(found)
    ]
