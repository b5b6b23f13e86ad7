"""Paths through parameter space: from coordinates to stacks."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.errors import LandscapeError, Mismatch
from landscape.params import Stack, lerp, require_same_shapes

__all__ = ["Hold", "Line", "PartialLine", "Paths", "grid"]

#: The end at which the tensors that do not move are held.
Hold = Literal["start", "end"]


@runtime_checkable
class Paths(Protocol):
    """Paths of one kind through parameter space, each from alpha 0 to alpha 1."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """What the paths are made of, such as their ends."""

    def __len__(self) -> int:
        """How many there are."""

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; alpha 0 and 1 are the ends bit for bit."""

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of both ends of a line, not computed but read off `stacks`."""

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 length of each line from alpha 0 to 1, in float64."""

    def to(self, *args: Any) -> "Paths":
        """The same paths on another device or of another element type."""


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

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Start and end."""
        return self.start, self.end

    def __len__(self) -> int:
        return len(self.start)

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; alpha 0 and 1 are start and end bit for bit."""
        return lerp(self.start.select(lines), self.end.select(lines), alphas)

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of start and end."""
        return self.start.state_dict(line), self.end.state_dict(line)

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 distance from start to end."""
        return self.end.subtract(self.start).norms()

    def to(self, *args: Any) -> "Line":
        """The same lines on another device or of another element type."""
        return Line(self.start.to(*args), self.end.to(*args))


@dataclasses.dataclass(frozen=True, eq=False)
class PartialLine:
    """Straight lines on which only some tensors move from start to end, and the rest is held at one of the ends.

    For each set of names in `moving`, of parameters and buffers, there are the lines of `line`, one after another: the
    sets follow each other. L. Adilova, M. Andriushchenko, M. Kamp, A. Fischer, M. Jaggi, *Layer-wise linear mode
    connectivity*, ICLR 2024. Raises `LandscapeError` without a set.
    """

    line: Line
    moving: Sequence[frozenset[str]]
    hold: Hold = "start"

    def __post_init__(self) -> None:
        if not self.moving:
            raise LandscapeError("lines on which nothing moves are none: name the tensors that move")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Start and end of the full lines."""
        return self.line.stacks

    def __len__(self) -> int:
        return len(self.line) * len(self.moving)

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; what does not move is that of the end where it is held, bit for bit."""
        pair, group = lines % len(self.line), lines // len(self.line)
        start, end = self.line.start.select(pair), self.line.end.select(pair)
        moved, still = lerp(start, end, alphas), start if self.hold == "start" else end

        def chosen(name: str, moved: Tensor, still: Tensor) -> Tensor:
            moves = torch.tensor([name in names for names in self.moving], device=moved.device)[group]
            return torch.where(moves.view(-1, *[1] * (moved.ndim - 1)), moved, still)

        return Stack(
            {name: chosen(name, tensor, still[name]) for name, tensor in moved.tensors.items()},
            {name: chosen(name, tensor, still.buffers[name]) for name, tensor in moved.buffers.items()},
        )

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of both ends, one of them a whole member and the other a mixture."""
        names = self.moving[line // len(self.line)]
        start, end = self.line.ends(line % len(self.line))
        if self.hold == "start":
            return start, {name: end[name] if name in names else start[name] for name in start}
        return {name: start[name] if name in names else end[name] for name in start}, end

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 distance from start to end."""
        difference = self.line.end.subtract(self.line.start)
        none = Stack({"": torch.zeros(len(self.line), 0, dtype=torch.float64, device=difference.device)})
        parts = [{n: tensor for n, tensor in difference.tensors.items() if n in names} for names in self.moving]
        l1, l2 = zip(*((Stack(part) if part else none).norms() for part in parts), strict=True)
        return torch.cat(l1), torch.cat(l2)

    def to(self, *args: Any) -> "PartialLine":
        """The same lines on another device or of another element type."""
        return dataclasses.replace(self, line=self.line.to(*args))


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
