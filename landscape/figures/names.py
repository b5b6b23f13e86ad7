"""Names beside points, where they cover least."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox, BboxBase

from landscape.figures.pages import ON_PAPER, figure_of

__all__ = ["ASIDE", "AROUND", "Name", "name_points"]

#: A name: its place in data coordinates, its text, and whether it must stand there.
Name = tuple[tuple[float, float], str, bool]
#: An offset from a point in points, and how text is aligned there.
Side = tuple[float, float, str, str]

#: Sides of the end of a curve, the best first: below, above, beside, farther; to the right, then to the left.
ASIDE: tuple[Side, ...] = tuple(
    (side * right, up, "left" if side > 0 else "right", anchor)
    for side in (1, -1)
    for right, up, anchor in ((3, -6, "top"), (4, 4, "bottom"), (9, 0, "center"), (9, -3, "center"), (3, 13, "bottom"))
)
#: Sides of a dot, the best first: right, left, the corners, above, below.
AROUND: tuple[Side, ...] = tuple(
    (right * away, up * away, ("center", "left", "right")[right], ("center", "bottom", "top")[up])
    for right, up in ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
    for away in (4.6 if right and up else 6.0,)
)
#: What is covered is counted in squares of so many points a side.
_STEP = 2.0
#: A name that need not stand keeps so many points between its dot and one with a name.
_NEAR = 12.0


def name_points(
    ax: Axes,
    names: Sequence[Name],
    lines: Sequence[Float[np.ndarray, "point 2"]],
    *,
    sides: Sequence[Side] = ASIDE,
    dot: float = 0.0,
    color: str = "black",
) -> None:
    """A name beside each place, within the axes, on the one of `sides` where it covers the least.

    What it may cover are the `lines`, other names, and dots of a radius of `dot` points at all places. A name that need
    not stand is left out where it would cover anything, or beside a dot with a name. Call it last: the figure is laid
    out for it as it is.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()  # lays the axes out, so that places are known
    pixel, frame = figure.dpi / 72, ax.get_window_extent()
    dots = [ax.transData.transform(place) for place, _, _ in names]
    taken = np.concatenate([np.empty((0, 2)), *(_along(ax, line, _STEP * pixel) for line in lines)])
    if dot:
        around = (Bbox([at - dot * pixel, at + dot * pixel]) for at in dots)
        taken = np.concatenate([taken, *(_squares(box, pixel) for box in around)])
    named: list[Float[np.ndarray, "2"]] = []
    for at, (place, text, needed) in zip(dots, names, strict=True):
        if not needed and any(np.hypot(*(at - other)) < _NEAR * pixel for other in named):
            continue
        labels = [
            ax.annotate(
                *(text, place, (right, up)),
                textcoords="offset points",
                ha=across,
                va=anchor,
                size="small",
                color=color,
                path_effects=ON_PAPER,
                zorder=5,
                gid="name",
            )
            for right, up, across, anchor in sides
        ]
        boxes = [label.get_window_extent() for label in labels]
        costs = [(not _within(box, frame), _inside(box.padded(pixel), taken)) for box in boxes]
        best = min(range(len(labels)), key=costs.__getitem__)
        stands = needed or not any(costs[best])
        for k, label in enumerate(labels):
            label.set_in_layout(False)
            if k != best or not stands:
                label.remove()
        if stands:
            taken = np.concatenate([taken, _squares(boxes[best], pixel)])
            named.append(at)


def _within(box: BboxBase, frame: BboxBase) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _inside(box: BboxBase, places: Float[np.ndarray, "place 2"]) -> int:
    """How many of the places are covered."""
    x, y = places.T
    return int(((box.x0 <= x) & (x <= box.x1) & (box.y0 <= y) & (y <= box.y1)).sum())


def _squares(box: BboxBase, pixel: float) -> Float[np.ndarray, "place 2"]:
    """Middles of the squares that a box is made of."""
    x, y = (np.arange(low + pixel, high, _STEP * pixel) for low, high in (box.intervalx, box.intervaly))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _along(ax: Axes, line: Float[np.ndarray, "point 2"], apart: float) -> Float[np.ndarray, "place 2"]:
    """Places on a line, in pixels, so far apart; gaps are bridged."""
    corners = ax.transData.transform(line[np.isfinite(line).all(axis=1)])
    if len(corners) < 2:
        return np.asarray(corners).reshape(-1, 2)
    way = np.append(0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T)))
    at = np.arange(0, way[-1] + apart, apart)
    return np.stack([np.interp(at, way, corners[:, axis]) for axis in (0, 1)], axis=-1)
