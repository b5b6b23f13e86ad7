"""Paths through parameter space: from coordinates to stacks."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.errors import LandscapeError, Mismatch
from landscape.params import Stack, lerp, require_same_shapes

__all__ = ["Line", "grid"]


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """Straight lines, one from each member of `start` to the same member of `end`.

    I. Goodfellow, O. Vinyals, A. Saxe, *Qualitatively characterizing neural network optimization problems*, ICLR 2015.
    """

    start: Stack
    end: Stack

    def __post_init__(self) -> None:
        require_same_shapes(self.start, self.end, names=("the start", "the end"))
        if len(self.start) != len(self.end):
            raise Mismatch(f"{len(self.start)} starts and {len(self.end)} ends make no lines")

    def __len__(self) -> int:
        return len(self.start)

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; alpha 0 and 1 are start and end bit for bit."""
        return lerp(self.start.select(lines), self.end.select(lines), alphas)

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 distance from start to end."""
        return self.end.subtract(self.start).norms()


def grid(points: int, low: float = 0.0, high: float = 1.0) -> Float[np.ndarray, " point"]:
    """`points` evenly spaced alphas from low to high; 0 and 1 are added where they are missing.

    >>> grid(4, -0.5, 1.5).round(3).tolist()
    [-0.5, 0.0, 0.167, 0.833, 1.0, 1.5]
    """
    if points < 2:
        raise LandscapeError(f"a line needs at least 2 points, got {points}")
    if not (low <= 0 and high >= 1 and np.isfinite([low, high]).all()):
        raise LandscapeError(f"the range {low}:{high} must contain both ends of the line, 0 and 1")
    alphas = torch.linspace(low, high, points, dtype=torch.float64).numpy()
    # An alpha that misses an end by rounding is that end.
    for end in (0.0, 1.0):
        alphas[np.abs(alphas - end) < 1e-12 * (high - low)] = end
    return np.union1d(alphas, [0.0, 1.0])
