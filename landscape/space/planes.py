"""Planes through parameter space: where their axes lie, and the networks marked on them."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack, concatenate, require_same_shapes
from landscape.space.directions import Normalise, random_directions
from landscape.space.family import Family, Marked, plane

__all__ = ["MOST_POINTS", "grid", "random", "span", "spanned", "tasks", "through", "trajectory"]

#: Three points are on one line if the third is less than this from it, relative to its distance from the first.
_COLLINEAR = 1e-6

#: Points along an axis, at most.
MOST_POINTS = 100_001

#: Margin around what is marked, as a share of the larger extent.
_MARGIN = 0.2


def spanned(origin: Stack, x_direction: Stack, y_direction: Stack) -> Family:
    """The plane of two directions at a network, which is marked at (0, 0)."""
    zero = torch.zeros(1, dtype=torch.float64, device=origin.device)
    return plane(origin, x_direction, y_direction, Marked(origin, zero, zero, zero))


def random(point: Stack, seed: int, *, normalise: Normalise = "filter", still: Collection[str] = ()) -> Family:
    """The plane of two random directions at a network; its units are the directions, each as long as the weights.

    H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018,
    section 4. As there, the directions are not made orthogonal: in many dimensions they nearly are. They are those of
    the seeds `2 seed` and `2 seed + 1`, so that planes of different seeds share none. What is `still` does not move.
    """
    if not 0 <= seed < 2**62:
        raise LandscapeError(f"`direction_seed` lies between 0 and 2^62 - 1, got {seed}")
    directions = random_directions(point, [2 * seed, 2 * seed + 1], normalise=normalise, still=still)
    return spanned(point, directions.select([0]), directions.select([1]))


def through(a: Stack, b: Stack, c: Stack) -> Family:
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
            slopes[0][name] = _moved(b.buffers[name], start) / width
            slopes[1][name] = (_moved(c.buffers[name], start) - shift * slopes[0][name]) / height
    directions = [
        dataclasses.replace(a.unflatten(flat[None]), buffers=buffers)
        for flat, buffers in zip((along, across / height), slopes, strict=True)
    ]
    zero = torch.zeros_like(width)
    x, y = torch.stack([zero, width, shift]), torch.stack([zero, zero, height])
    return plane(stack.select([0]), directions[0], directions[1], Marked(stack, x, y, torch.zeros_like(x)))


def tasks(base: Stack, a: Stack, b: Stack) -> Family:
    """The networks `base + x (a - base) + y (b - base)`: coordinates are how much of each task vector is added.

    The base lies at (0, 0), `a` at (1, 0), `b` at (0, 1), the sum of both tasks at (1, 1), and negation is to the left
    and below. G. Ilharco, M. T. Ribeiro, M. Wortsman, S. Gururangan, L. Schmidt, H. Hajishirzi, A. Farhadi, *Editing
    models with task arithmetic*, ICLR 2023. Float buffers go the same way; whole numbers are those of the base.

    Raises `LandscapeError` if one of the two is the base itself.
    """
    directions = []
    for name, tuned in (("the second", a), ("the third", b)):
        require_same_shapes(base, tuned, names=("the base", f"{name} point"))
        direction = tuned.subtract(base)
        if not any(bool(each.any()) for each in direction.tensors.values()):
            raise LandscapeError(f"{name} point is the base itself: give a network that was trained from the base")
        pairs = ((key, tuned.buffers[key], start) for key, start in base.buffers.items() if start.is_floating_point())
        directions.append(dataclasses.replace(direction, buffers={key: _moved(*pair) for key, *pair in pairs}))
    x, y = torch.eye(3, dtype=torch.float64, device=base.device)[1:]
    return plane(base, directions[0], directions[1], Marked(concatenate([base, a, b]), x, y, torch.zeros_like(x)))


def _moved(end: Tensor, start: Tensor) -> Tensor:
    """The difference of two buffers in float64; none where they agree, be that on an infinite mask."""
    return torch.where(end == start, 0.0, end.double() - start.double())


def trajectory(checkpoints: Stack) -> Family:
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
            "in `save_at`"
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
    marked = Marked(checkpoints, coordinates[:, 0], coordinates[:, 1], off_plane, (shares[0], shares[1]))
    return plane(last, along, across, marked)


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
    if not 2 <= points <= MOST_POINTS:
        raise LandscapeError(
            f"a plane needs at least 2 points along each axis, got {points}: `points` goes up to {MOST_POINTS}"
        )
    if not (np.isfinite([low, high]).all() and low < high):
        raise LandscapeError(f"the range {low:g}:{high:g} is empty: write the lower end first, such as `x=(-1, 1)`")
    even = torch.linspace(low, high, points, dtype=torch.float64).numpy()
    inside = np.array([place for place in places if low <= place <= high], dtype=np.float64)
    # A coordinate that misses a place by rounding is that place.
    near = np.abs(even[:, None] - inside).min(1, initial=np.inf) < 1e-9 * (high - low)
    return np.union1d(even[~near], inside)
