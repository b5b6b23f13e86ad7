"""From a place near a pass to the saddle there: up along one eigenvector of the Hessian, down along all others."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.engine.descent import Whole
from landscape.engine.hessian import NEAR_ZERO
from landscape.engine.truncated import GRADIENT

__all__ = ["Saddle", "follow"]

#: The longest steps, at first and at all; and how far the change of the loss may be from what its quadratic model says,
#: as a share of the model's terms, so that a step is taken, or the next one may be longer.
_RADIUS, _FARTHEST, _WRONG, _RIGHT = 0.1, 1.0, 0.5, 0.1

#: Steps shorter than this share of where they lead from come to nothing.
_NOWHERE = 1e-14


@dataclasses.dataclass(frozen=True, eq=False)
class Saddle:
    """Where a search for a saddle ended: its `loss`, the L2 norm of its `gradient`, how many eigenvalues of its Hessian
    are `negative` (those below 1e-6 of the largest magnitude are zero), and whether it `converged`: to a vanishing
    gradient, and to one of them.
    """

    flat: Float[Tensor, " parameter"]
    loss: float
    gradient: float
    negative: int

    @property
    def converged(self) -> bool:
        """Whether it is a saddle of index one."""
        return self.gradient <= GRADIENT and self.negative == 1


def follow(
    surface: Whole, start: Float[Tensor, " parameter"], along: Float[Tensor, " parameter"], *, steps: int = 200
) -> Saddle:
    """The saddle that is reached from `start` up along the eigenvector closest to the direction `along`, which is then
    that closest to the one before, or, while its curvature is positive, that of the lowest curvature; a step is no
    longer than a radius within which the loss is what its quadratic model says.

    C. J. Cerjan, W. H. Miller, J. Chem. Phys. 75, 1981; A. Banerjee, N. Adams, J. Simons, R. Shepard, J. Phys. Chem.
    89, 1985.
    """
    flat, radius = start, _RADIUS
    for step in range(steps + 1):
        here = surface.at(flat[None])
        loss, gradient = float(here.loss[0]), here.gradient[0]
        values, vectors = torch.linalg.eigh(here.hessian[0])
        most = float(values.abs().max())
        if float(gradient.norm()) <= GRADIENT or step == steps:
            break
        up = int((vectors.T @ along).abs().argmax())
        if values[up] > 0:  # there it would climb for ever
            up = 0
        along = vectors[:, up]
        slopes = vectors.T @ gradient
        ways = -slopes
        ways[up] = slopes[up]
        while True:
            moved = _within(ways, values.abs() + 1e-12 * most, radius)
            terms = torch.stack([slopes * moved, values * moved.square() / 2])
            there = flat + vectors @ moved
            change = float(surface.at(there[None]).loss[0]) - loss
            error = abs(change - float(terms.sum())) / max(float(terms.abs().sum()), 1e-14 * abs(loss))
            if error <= _WRONG or radius <= _NOWHERE * (1 + float(flat.norm())):
                break
            radius = min(radius, float(moved.norm())) / 4
        if error > _WRONG:
            break
        flat, radius = there, min(2 * radius, _FARTHEST) if error <= _RIGHT else radius
    return Saddle(flat, loss, float(gradient.norm()), int((values < -NEAR_ZERO * most).sum()))


def _within(ways: Tensor, curvatures: Tensor, radius: float) -> Tensor:
    """Newton's step in each eigenvector, with as much added to all curvatures as makes it no longer than a radius."""
    step = ways / curvatures
    if float(step.norm()) <= radius:
        return step
    low, high = 0.0, float(ways.norm()) / radius
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((ways / (curvatures + middle)).norm()) > radius else (low, middle)
    return ways / (curvatures + high)
