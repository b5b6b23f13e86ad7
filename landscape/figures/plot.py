"""`landscape.plot`: the figure of a result."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.planes import contours, plane_figure
from landscape.figures.walks import walk_curves, walk_figure
from landscape.store.results import Result

__all__ = ["plot"]


def plot(result: Result, ax: Axes | None = None, **options: Any) -> Figure | Axes:
    """Draw a result: curves along lines with their barriers beside, or contours of a plane.

    Args:
        result: What `landscape.walk`, `plane` or `connect` gave, or `Result.read`.
        ax: Matplotlib axes to draw into; None: a figure of its own, with a caption.
        options: Those of `figures.walk_figure` and `plane_figure`, or with `ax` of `walk_curves` and `contours`.

    Returns:
        The figure, or `ax`.

    Raises:
        LandscapeError: No loss is finite.
    """
    if result.kind == "plane":
        return plane_figure(result, **options) if ax is None else contours(ax, result, **options)
    return walk_figure([result], **options) if ax is None else walk_curves(ax, result, **options)
