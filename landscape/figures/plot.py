"""`landscape.plot`: the figure of a result."""

import inspect
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from landscape.core.errors import LandscapeError
from landscape.core.fields import require_known
from landscape.figures.planes import contours, plane_figure
from landscape.figures.solids import heights
from landscape.figures.walks import walk_curves, walk_figure
from landscape.store.results import Result

__all__ = ["plot"]


def plot(result: Result, ax: Axes | None = None, **options: Any) -> Figure | Axes:
    """Draw a result: curves along lines with their barriers beside, or contours of a plane.

    Args:
        result: What `landscape.walk`, `plane` or `connect` gave, or `Result.read`.
        ax: Matplotlib axes to draw into, of planes with `projection="3d"` too; None: a figure of its own, with a
            caption.
        options: Those of `figures.walk_figure` and `plane_figure`, or with `ax` of `walk_curves`, `contours` and
            `heights`.

    Returns:
        The figure, or `ax`.

    Raises:
        LandscapeError: No loss is finite.
    """
    if not isinstance(result, Result):
        raise LandscapeError(f"`result` is {type(result).__name__}: give what `landscape.walk` or `Result.read` gave")
    if not isinstance(ax, Axes | None):
        raise LandscapeError(f"`ax` is {type(ax).__name__}: give matplotlib axes, or leave it out")
    draw: Callable[..., Figure | Axes] = plane_figure if result.kind == "plane" else walk_figure
    if ax is not None:
        draw = walk_curves if result.kind != "plane" else heights if isinstance(ax, Axes3D) else contours
    require_known(options, inspect.signature(draw).parameters, f"of the figure of a {result.kind}")
    if ax is not None:
        return draw(ax, result, **options)
    return draw(result if result.kind == "plane" else [result], **options)
