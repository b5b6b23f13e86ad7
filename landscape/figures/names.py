"""Names beside points of curves, where no curve runs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import BboxBase

__all__ = ["name_points"]

#: Offsets of a name from its point, and what lies at the point, the best first: below, above, beside, farther.
_PLACES = (
    (3, -6, "top"),
    (4, 4, "bottom"),
    (9, 0, "center"),
    (9, -3, "center"),
    (3, 13, "bottom"),
)
#: Curves are followed in steps of so many points.
_STEP = 2.0


def name_points(
    ax: Axes, names: Sequence[tuple[tuple[float, float], str]], lines: Sequence[Float[np.ndarray, "point 2"]]
) -> None:
    """A name beside each place, within the axes, on the side where the least of `lines` and of other names runs.

    Call it last: the figure is laid out for it as it is.
    """
    figure = ax.figure if isinstance(ax.figure, Figure) else ax.figure.figure
    figure.draw_without_rendering()  # lays the axes out, so that places are known
    pixel, frame = figure.dpi / 72, ax.get_window_extent()
    taken = np.concatenate([np.empty((0, 2)), *(_along(ax, line, _STEP * pixel) for line in lines)])
    for place, text in names:
        labels = [_beside(ax, place, text, offset, side) for side in (1, -1) for offset in _PLACES]
        boxes = [label.get_window_extent() for label in labels]
        costs = [(not _within(box, frame), _inside(box.padded(pixel), taken)) for box in boxes]
        best = min(range(len(labels)), key=costs.__getitem__)
        for k, label in enumerate(labels):
            if k != best:
                label.remove()
        box = boxes[best]
        x, y = np.meshgrid(np.arange(box.x0, box.x1, 2 * pixel), np.arange(box.y0, box.y1, 2 * pixel))
        taken = np.concatenate([taken, np.stack([x.ravel(), y.ravel()], axis=-1)])


def _beside(ax: Axes, place: tuple[float, float], text: str, offset: tuple[int, int, str], side: int) -> Annotation:
    """A name to the right of a place (1) or to the left (-1)."""
    right, up, anchor = offset
    label = ax.annotate(
        *(text, place, (side * right, up)),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va=anchor,
        size="small",
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
        zorder=5,
        gid="name",
    )
    label.set_in_layout(False)
    return label


def _within(box: BboxBase, frame: BboxBase) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _inside(box: BboxBase, places: Float[np.ndarray, "place 2"]) -> int:
    """How many of the places are covered."""
    x, y = places.T
    return int(((box.x0 <= x) & (x <= box.x1) & (box.y0 <= y) & (y <= box.y1)).sum())


def _along(ax: Axes, line: Float[np.ndarray, "point 2"], apart: float) -> Float[np.ndarray, "place 2"]:
    """Places on a line, in pixels, so far apart; gaps are bridged."""
    corners = ax.transData.transform(line[np.isfinite(line).all(axis=1)])
    if len(corners) < 2:
        return np.asarray(corners).reshape(-1, 2)
    way = np.append(0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T)))
    at = np.arange(0, way[-1] + apart, apart)
    return np.stack([np.interp(at, way, corners[:, axis]) for axis in (0, 1)], axis=-1)
