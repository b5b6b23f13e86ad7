"""Planes through parameter space: from two coordinates to stacks, and the networks marked on them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.stack import Stack, concatenate, require_same_shapes
from landscape.space.directions import Normalise, random_directions

__all__ = ["Marked", "Plane", "grid", "random", "span", "spanned", "through", "trajectory"]

#: Three points are on one line if the third is less than this from it, relative to its distance from the first.
_COLLINEAR = 1e-6

#: Margin around what is marked, as a share of the larger extent.
_MARGIN = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
    """Networks with their coordinates on a plane and, for those beside it, their L2 distances from it."""

    stack: Stack
    x: Float[Tensor, " mark"]
    y: Float[Tensor, " mark"]
    off_plane: Float[Tensor, " mark"]

    def __len__(self) -> int:
        return len(self.stack)


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """The points `origin + x x_direction + y y_direction`; each of the three is a stack of one member.

    Buffers move as their direction says; those for which it says nothing are the origin's. `explained`, where the
    plane was fitted, are the shares of the squared distances from the origin along x and y.
    """

    origin: Stack
    x_direction: Stack
    y_direction: Stack
    marked: Marked
    explained: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, direction in (("x", self.x_direction), ("y", self.y_direction)):
            require_same_shapes(self.origin, direction, names=("the origin", f"the direction of {name}"))
        if {len(self.origin), len(self.x_direction), len(self.y_direction)} != {1}:
            raise Mismatch("a plane has one origin and two single directions")

    def at(self, xs: Float[Tensor, " point"], ys: Float[Tensor, " point"]) -> Stack:
        """The point at each pair of coordinates, computed in float64 and rounded once to the origin's element type.

        At the coordinates of a marked network that lies on the plane it is that network, bit for bit.
        """
        xs, ys = (each.to(self.origin.device, torch.float64) for each in (xs, ys))
        exact = (xs[:, None] == self.marked.x) & (ys[:, None] == self.marked.y) & (self.marked.off_plane == 0)
        points = exact.any(1).nonzero()[:, 0]
        marks = exact[points].int().argmax(1)

        def move(start: Tensor, along_x: Tensor | None, along_y: Tensor | None, marked: Tensor) -> Tensor:
            columns = (-1, *[1] * (start.ndim - 1))
            moved = start.expand(len(xs), *start.shape[1:]).clone()
            if along_x is not None and along_y is not None:
                moved = (start + xs.view(columns) * along_x + ys.view(columns) * along_y).to(start.dtype)
            moved[points] = marked[marks].to(start.dtype)
            return moved

        origin, along, across, marked = self.origin, self.x_direction, self.y_direction, self.marked.stack
        return Stack(
            {name: move(start, along[name], across[name], marked[name]) for name, start in origin.tensors.items()},
            {
                name: move(start, along.buffers.get(name), across.buffers.get(name), marked.buffers[name])
                for name, start in origin.buffers.items()
            },
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Plane":
        """The plane on another device, its points in another element type."""
        x, y, off_plane = (each.to(device) for each in (self.marked.x, self.marked.y, self.marked.off_plane))
        marked = Marked(self.marked.stack.to(device, dtype), x, y, off_plane)
        along, across = self.x_direction.to(device), self.y_direction.to(device)
        return Plane(self.origin.to(device, dtype), along, across, marked, self.explained)


def spanned(origin: Stack, x_direction: Stack, y_direction: Stack) -> Plane:
    """The plane of two directions at a network, which is marked at (0, 0)."""
    zero = torch.zeros(1, dtype=torch.float64, device=origin.device)
    return Plane(origin, x_direction, y_direction, Marked(origin, zero, zero, zero))


def random(point: Stack, seed: int, *, normalise: Normalise = "filter") -> Plane:
    """The plane of two random directions at a network; its units are the directions, each as long as the weights.

    H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018,
    section 4. As there, the directions are not made orthogonal: in many dimensions they nearly are. They are those of
    the seeds `2 seed` and `2 seed + 1`, so that planes of different seeds share none.
    """
    if not 0 <= seed < 2**62:
        raise LandscapeError(f"the seed of a plane lies between 0 and 2^62 - 1, got {seed}")
    directions = random_directions(point, [2 * seed, 2 * seed + 1], normalise=normalise)
    return spanned(point, directions.select([0]), directions.select([1]))


def through(a: Stack, b: Stack, c: Stack) -> Plane:
    """The plane through three networks with orthonormal axes, so that coordinates are L2 distances.

    `a` lies at (0, 0), `b` on the x axis and `c` where y is positive: T. Garipov, P. Izmailov, D. Podoprikhin,
    D. Vetrov, A. G. Wilson, *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, NeurIPS 2018, appendix.
    Buffers are the same mixture of the three as the parameters; of whole numbers those of `a` are taken.

    Raises `LandscapeError` if the three lie on one line.
    """
    for name, other in (("the second", b), ("the third", c)):
        require_same_shapes(a, other, names=("the first point", f"{name} point"))
    stack = concatenate([a, b, c])
    to_b, to_c = (other.subtract(a).flatten()[0] for other in (b, c))
    width, length = to_b.norm(), to_c.norm()
    along = to_b / width
    # Projected twice: the first pass leaves a rounding error along x where the angle is small.
    shift = along @ to_c
    across = to_c - shift * along
    correction = along @ across
    shift, across = shift + correction, across - correction * along
    height = across.norm()
    rounding = torch.finfo(stack.dtype).eps * stack.norms()[1].max()
    if not (width > rounding and height > _COLLINEAR * length + rounding):
        raise LandscapeError(
            "the three points lie on one line, so they span no plane: choose three others, or walk the line with "
            "landscape walk"
        )
    slopes: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, start in a.buffers.items():
        if start.is_floating_point():
            slopes[0][name] = (b.buffers[name].double() - start.double()) / width
            slopes[1][name] = (c.buffers[name].double() - start.double() - shift * slopes[0][name]) / height
    directions = [
        dataclasses.replace(a.unflatten(flat[None]), buffers=buffers)
        for flat, buffers in zip((along, across / height), slopes, strict=True)
    ]
    zero = torch.zeros_like(width)
    x, y = torch.stack([zero, width, shift]), torch.stack([zero, zero, height])
    return Plane(stack.select([0]), directions[0], directions[1], Marked(stack, x, y, torch.zeros_like(x)))


def trajectory(checkpoints: Stack) -> Plane:
    """The plane through the last checkpoint that lies closest to all of them; each is projected onto it.

    Its orthonormal axes are the first two right singular vectors of the matrix of differences from the last
    checkpoint: Li et al. 2018 (as in `random`), section 7.2. The paper's code subtracts the mean of the differences
    too; here it is left in, so that the plane is the closest of those through the last checkpoint. Buffers are those
    of the last checkpoint. `explained` are shares of the sum of squared distances from it.

    Raises `LandscapeError` if there are fewer than three checkpoints, or if all lie on one line.
    """
    if len(checkpoints) < 3:
        raise LandscapeError(
            f"a trajectory in a plane needs at least three checkpoints, not {len(checkpoints)}: train with more steps "
            "in --save-at"
        )
    last = checkpoints.select([-1])
    differences = checkpoints.subtract(last).flatten()
    lengths, axes = torch.linalg.svd(differences, full_matrices=False)[1:]
    rounding = torch.finfo(checkpoints.dtype).eps * checkpoints.norms()[1].max()
    if not lengths[0] > rounding:
        raise LandscapeError("all checkpoints of the trajectory are equal: it has no directions to draw")
    if not lengths[1] > _COLLINEAR * lengths[0] + rounding:
        raise LandscapeError(
            "the checkpoints of the trajectory lie on one line, so they span no plane: walk it with landscape walk"
        )
    axes = axes[:2]
    coordinates = differences @ axes.T
    # The largest coordinate along each axis is positive: singular vectors leave the sign open.
    signs = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True)).sign()
    axes, coordinates = axes * signs.T, coordinates * signs + 0.0  # no negative zeros
    off_plane = (differences - coordinates @ axes).norm(dim=1)
    shares = (lengths.square() / lengths.square().sum())[:2].tolist()
    along, across = (last.unflatten(axis[None]) for axis in axes)
    marked = Marked(checkpoints, coordinates[:, 0], coordinates[:, 1], off_plane)
    return Plane(last, along, across, marked, (shares[0], shares[1]))


def span(marked: Marked) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of x and y with a margin of a fifth of the larger extent around the marks; -1 to 1 around a single one."""
    lows, highs = (
        torch.stack([bound(each) for each in (marked.x, marked.y)]).tolist() for bound in (torch.min, torch.max)
    )
    margin = _MARGIN * max(high - low for low, high in zip(lows, highs, strict=True)) or 1.0
    return (lows[0] - margin, highs[0] + margin), (lows[1] - margin, highs[1] + margin)


def grid(
    points: int, low: float, high: float, places: Sequence[float] | Float[np.ndarray, " place"] = ()
) -> Float[np.ndarray, " point"]:
    """`points` evenly spaced coordinates from low to high, and those of `places` that lie between.

    >>> grid(3, -1, 1, [0.25, 7]).tolist()
    [-1.0, 0.0, 0.25, 1.0]
    """
    if points < 2:
        raise LandscapeError(f"a plane needs at least 2 points along each axis, got {points}")
    if not (np.isfinite([low, high]).all() and low < high):
        raise LandscapeError(f"the range {low:g}:{high:g} is empty: write the lower end first, such as -1:1")
    even = torch.linspace(low, high, points, dtype=torch.float64).numpy()
    inside = np.array([place for place in places if low <= place <= high], dtype=np.float64)
    # A coordinate that misses a place by rounding is that place.
    near = np.abs(even[:, None] - inside).min(1, initial=np.inf) < 1e-9 * (high - low)
    return np.union1d(even[~near], inside)
