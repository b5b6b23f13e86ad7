"""Is a place a minimum? Gradient and the ends of the Hessian's spectrum, because a flat place need not be one."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float

from landscape.objective import Objective
from landscape.params import Stack

__all__ = ["Curvature", "curvature", "hessians"]

#: Up to this many parameters the whole Hessian is computed.
MOST_PARAMETERS = 400

#: An eigenvalue counts as zero below this share of the largest magnitude.
NEAR_ZERO = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature:
    """Of each member: L2 norm of the gradient, extreme eigenvalues of the Hessian, how many of its eigenvalues are
    negative and how many near zero (below 1e-6 of the largest magnitude). Eigenvalues are NaN, and counts -1, where the
    network has more than `MOST_PARAMETERS` parameters.
    """

    gradient_norm: Float[np.ndarray, " member"]
    smallest: Float[np.ndarray, " member"]
    largest: Float[np.ndarray, " member"]
    negative: np.ndarray
    near_zero: np.ndarray


def curvature(objective: Objective, stack: Stack) -> Curvature:
    """Curvature at each member; give an objective of dtype float64 for eigenvalues that can be told from zero."""
    gradient_norm = objective.gradient(stack)[1].norms()[1].cpu().numpy()
    if stack.parameters > MOST_PARAMETERS:
        nothing = np.full(len(stack), np.nan)
        return Curvature(gradient_norm, nothing, nothing, np.full(len(stack), -1), np.full(len(stack), -1))
    eigenvalues = np.linalg.eigvalsh(hessians(objective, stack))
    magnitude = np.abs(eigenvalues).max(axis=1, keepdims=True)
    zero = np.abs(eigenvalues) <= NEAR_ZERO * magnitude
    return Curvature(
        gradient_norm,
        eigenvalues[:, 0],
        eigenvalues[:, -1],
        ((eigenvalues < 0) & ~zero).sum(axis=1),
        zero.sum(axis=1),
    )


def hessians(objective: Objective, stack: Stack) -> Float[np.ndarray, "member parameter parameter"]:
    """Hessian of the loss at each member, in the order of `Stack.flatten`, by differentiating each gradient entry.

    Where an activation has a kink, this is the Hessian of the smooth piece that the member lies on.
    """
    rows = []
    for _, part in objective.chunks(stack):
        flat = part.flatten().requires_grad_()
        (gradient,) = torch.autograd.grad(objective.loss(part.unflatten(flat)).sum(), flat, create_graph=True)
        columns = [torch.autograd.grad(gradient[:, i].sum(), flat, retain_graph=True)[0] for i in range(flat.shape[1])]
        rows.append(torch.stack(columns, dim=1).cpu())
    result = torch.cat(rows)[: len(stack)].double()
    return ((result + result.mT) / 2).numpy()
