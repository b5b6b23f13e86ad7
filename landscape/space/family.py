"""Paths through parameter space: from coordinates to stacks."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.stack import Stack, concatenate, lerp, lerp_rows, require_same_shapes

__all__ = ["Bezier", "Hold", "Line", "PartialLine", "Paths", "Polyline", "Ray", "grid"]

#: Chords that measure the length of a curve: two thousandths of a percent too short for a parabola as wide as high.
_CHORDS = 100

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
        if len(lines) and bool((lines == lines[0]).all()):  # its ends need not be copied for each point
            lines = lines[:1]
        start, end = (rows[lines] for rows in self._rows)
        buffers = {
            name: lerp_rows(buffer[lines], self.end.buffers[name][lines], alphas)
            for name, buffer in self.start.buffers.items()
        }
        return dataclasses.replace(self.start.unflatten(lerp_rows(start, end, alphas)), buffers=buffers)

    @functools.cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Parameters of starts and of ends, a row a line."""
        end = Stack({name: self.end[name] for name in self.start.tensors})
        return self.start.flatten(), end.flatten()

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


@dataclasses.dataclass(frozen=True, eq=False)
class Polyline:
    """Straight segments from each member of the first of `vertices` through the same member of the next to the last.

    Vertex i of k segments is at alpha i / k; beyond 0 and 1 the outer segments go on. Raises `Mismatch` for vertices
    that differ in architecture or number of members, or are fewer than two.
    """

    vertices: tuple[Stack, ...]

    def __post_init__(self) -> None:
        _require_alike(self.vertices)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The vertices."""
        return self.vertices

    @property
    def segments(self) -> int:
        """Number of segments of a line."""
        return len(self.vertices) - 1

    def __len__(self) -> int:
        return len(self.vertices[0])

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; at the float64 nearest to i / k vertex i, bit for bit."""
        place = alphas * self.segments
        # i / k * k can miss i.
        place = torch.where(alphas == place.round() / self.segments, place.round(), place)
        segment = place.floor().clamp(0, self.segments - 1)
        row = segment.long() * len(self) + lines
        return lerp(self._rows.select(row), self._rows.select(row + len(self)), place - segment)

    def weights(self, alphas: Float[Tensor, " point"]) -> Float[Tensor, "point vertex"]:
        """How much each vertex adds to the points at these alphas, from 0 to 1."""
        vertices = torch.arange(self.segments + 1, device=alphas.device)
        return (1 - (alphas[:, None] * self.segments - vertices).abs()).clamp(min=0)

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the first and the last vertex."""
        return self.vertices[0].state_dict(line), self.vertices[-1].state_dict(line)

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 length, summed over segments."""
        l1, l2 = zip(*(b.subtract(a).norms() for a, b in itertools.pairwise(self.vertices)), strict=True)
        return torch.stack(l1).sum(0), torch.stack(l2).sum(0)

    def to(self, *args: Any) -> "Polyline":
        """The same lines on another device or of another element type."""
        return Polyline(tuple(vertex.to(*args) for vertex in self.vertices))

    @functools.cached_property
    def _rows(self) -> Stack:
        """The members of all vertices, vertex by vertex."""
        return concatenate(self.vertices)


@dataclasses.dataclass(frozen=True, eq=False)
class Bezier:
    """Bézier curves with the same member of each of `controls` as control points: the first and the last are the ends.

    T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson, *Loss surfaces, mode connectivity, and fast
    ensembling of DNNs*, NeurIPS 2018. Raises `Mismatch` for control points that differ in architecture or number of
    members, or are fewer than two.
    """

    controls: tuple[Stack, ...]

    def __post_init__(self) -> None:
        _require_alike(self.controls)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The control points."""
        return self.controls

    def __len__(self) -> int:
        return len(self.controls[0])

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each curve; buffers go the same way, of whole numbers those of the nearer end."""
        controls = [stack.select(lines) for stack in self.controls]
        first = controls[0]
        weights = self.weights(alphas.double())

        def mixed(*parts: Tensor) -> Tensor:
            column = (-1, *[1] * (parts[0].ndim - 1))
            if not parts[0].is_floating_point():
                return torch.where(alphas.view(column) < 0.5, parts[0], parts[-1])
            inside = torch.zeros_like(parts[0])
            for weight, part in zip(weights.to(inside.dtype).T, parts, strict=True):
                inside = inside + weight.view(column) * part
            end = torch.where(alphas.view(column) == 1, parts[-1], inside)
            return torch.where(alphas.view(column) == 0, parts[0], end)

        flat = mixed(*(stack.flatten() for stack in controls))
        buffers = {name: mixed(*(stack.buffers[name] for stack in controls)) for name in first.buffers}
        return dataclasses.replace(first.unflatten(flat), buffers=buffers)

    def weights(self, alphas: Float[Tensor, " point"]) -> Float[Tensor, "point control"]:
        """How much each control point adds to the points at these alphas: Bernstein's polynomials."""
        degree = len(self.controls) - 1
        each = [math.comb(degree, k) * alphas**k * (1 - alphas) ** (degree - k) for k in range(degree + 1)]
        return torch.stack(each, dim=1)

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the first and the last control point."""
        return self.controls[0].state_dict(line), self.controls[-1].state_dict(line)

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 length, measured along 100 chords."""
        curve = self.to(torch.float64)
        lines = torch.arange(len(self), device=self.controls[0].device)
        alphas = torch.linspace(0, 1, _CHORDS + 1, dtype=torch.float64, device=lines.device)
        points = (curve.at(lines, alpha.expand(len(self))) for alpha in alphas)
        l1, l2 = zip(*(b.subtract(a).norms() for a, b in itertools.pairwise(points)), strict=True)
        return torch.stack(l1).sum(0), torch.stack(l2).sum(0)

    def to(self, *args: Any) -> "Bezier":
        """The same curves on another device or of another element type."""
        return Bezier(tuple(stack.to(*args) for stack in self.controls))


@dataclasses.dataclass(frozen=True, eq=False)
class Ray:
    """Straight lines from each member of `origin` along the same member of `direction`: origin + alpha direction.

    Buffers are those of the origin. Raises `Mismatch` unless there are as many directions of the same architecture.
    """

    origin: Stack
    direction: Stack

    def __post_init__(self) -> None:
        require_same_shapes(self.origin, self.direction, names=("the origin", "the direction"))
        if len(self.origin) != len(self.direction):
            raise Mismatch(f"{len(self.origin)} origins and {len(self.direction)} directions make no rays")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Origin and direction."""
        return self.origin, self.direction

    def __len__(self) -> int:
        return len(self.origin)

    def at(self, lines: Int[Tensor, " point"], alphas: Float[Tensor, " point"]) -> Stack:
        """The point at each alpha of each line; alpha 0 is the origin bit for bit."""
        origin = self.origin.select(lines)
        start, direction = origin.flatten(), self.direction.select(lines).flatten()
        t = alphas.to(start.dtype)[:, None]
        # Adding zero would turn -0 to 0, and infinity times zero is none.
        flat = torch.where((t == 0) | (direction == 0), start, start + t * direction)
        return dataclasses.replace(origin.unflatten(flat), buffers=origin.buffers)

    def ends(self, line: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the origin and of origin plus direction."""
        origin, direction = self.origin.state_dict(line), self.direction.state_dict(line)
        return origin, {name: there + direction.get(name, 0) for name, there in origin.items()}

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 norm of each direction."""
        return self.direction.norms()

    def to(self, *args: Any) -> "Ray":
        """The same rays on another device or of another element type."""
        return Ray(self.origin.to(*args), self.direction.to(*args))


def _require_alike(stacks: Sequence[Stack]) -> None:
    if len(stacks) < 2:
        raise Mismatch("a path needs at least two points: its start and its end")
    for number, stack in enumerate(stacks[1:], start=1):
        require_same_shapes(stacks[0], stack, names=("the start", f"point {number} of the path"))
    if len({len(stack) for stack in stacks}) > 1:
        raise Mismatch(f"{' and '.join(str(len(stack)) for stack in stacks)} points make no paths")


def grid(points: int, low: float = 0.0, high: float = 1.0, *, segments: int = 1) -> Float[np.ndarray, " point"]:
    """`points` evenly spaced alphas from low to high; 0 and 1 are added where they are missing, and what lies between
    the `segments` of a polyline.

    >>> grid(4, -0.5, 1.5).round(3).tolist()
    [-0.5, 0.0, 0.167, 0.833, 1.0, 1.5]
    """
    if points < 2:
        raise LandscapeError(f"a line needs at least 2 points, got {points}")
    if not (low <= 0 and high >= 1 and np.isfinite([low, high]).all()):
        raise LandscapeError(f"the range {low}:{high} must contain both ends of the line, 0 and 1")
    alphas = torch.linspace(low, high, points, dtype=torch.float64).numpy()
    # An alpha that misses a vertex by rounding is that vertex.
    vertices = np.arange(segments + 1) / segments
    for vertex in vertices:
        alphas[np.abs(alphas - vertex) < 1e-12 * (high - low)] = vertex
    return np.union1d(alphas, vertices)
