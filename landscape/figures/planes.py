"""Contours of surfaces over planes, with the networks marked on them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MaxNLocator

from landscape.core.errors import LandscapeError, printable
from landscape.figures.captions import plane_caption
from landscape.figures.names import AROUND, name_points
from landscape.figures.pages import GREY, INK, SCREEN, Style, literal, power, sheet, with_unit
from landscape.figures.scales import floor_below
from landscape.store.results import Mark, Result

__all__ = [
    "DOTS",
    "FILL",
    "MAP",
    "OUTLINE",
    "PATH",
    "Scale",
    "axis_labels",
    "caption_of",
    "color_of",
    "contours",
    "draw_marks",
    "field",
    "name_marks",
    "plane_figure",
    "ratio_of",
    "same_scale",
    "shown_marks",
]

#: Perceptually uniform, and read alike with and without red-green blindness; dark is low.
MAP = colormaps["viridis"]
#: The scale is logarithmic where the largest loss is more than this times the smallest.
_LOG_RATIO = 20.0
#: About as many levels at most.
_LEVELS = 18
#: Axes have one scale, unless one of them would be more than this times as long as the other.
_STRETCH = 4.0
#: Inches: the longer side of the contours, and what stands beside and above them.
_SIDE, _BESIDE, _AROUND = 4.2, 1.5, 0.75
#: A dark line around what is white, so that it shows on every colour.
OUTLINE: list[AbstractPathEffect] = [withStroke(linewidth=2.6, foreground=INK)]
#: Order of drawing; names lie above.
_HATCH, FILL, _LINES, PATH, DOTS = 0.5, 1.0, 1.5, 3.0, 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Heights of losses: their decimal logarithm, with zeros on a floor, or the losses themselves."""

    log: bool
    levels: Float[np.ndarray, " level"]
    zeros: bool

    @classmethod
    def of(cls, surface: Result) -> "Scale":
        """The scale for the losses on a plane and of its marks; raises `LandscapeError` if none is finite on
        the plane.
        """
        if not np.isfinite(surface.loss).any():
            raise LandscapeError("no loss on the plane is finite: choose other points, or a smaller range")
        losses = np.concatenate([surface.loss.ravel(), [mark.loss for mark in shown_marks(surface)]])
        finite = losses[np.isfinite(losses)]
        positive = finite[finite > 0]
        if finite.min() < 0 or not len(positive) or finite.max() <= _LOG_RATIO * finite.min():
            low, high = float(finite.min()), float(finite.max())
            if high - low <= 1e-9 * abs(high):  # as good as constant: rounding is no landscape
                low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
            even = MaxNLocator(_LEVELS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            return cls(False, np.asarray(even), False)
        low, high = np.log10(positive.min()), np.log10(positive.max())
        # Levels a decade, or decades a level.
        each = next((n for n in (5, 4, 3, 2, 1) if n * (high - low) <= _LEVELS), 1 / np.ceil((high - low) / _LEVELS))
        levels = np.arange(np.floor(each * low), np.ceil(each * high) + 1) / each
        levels = levels if len(levels) > 1 else levels[0] + np.array([0.0, 1.0])
        zeros = bool((finite == 0).any())
        if zeros:
            floor = np.log10(floor_below([finite]))
            levels = np.concatenate([[floor], levels[levels > floor]])
        return cls(True, levels, zeros)

    def __call__(self, losses: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Heights of losses; what is not finite is NaN."""
        finite = np.where(np.isfinite(losses), losses, np.nan)
        return np.asarray(np.log10(np.maximum(finite, 10 ** self.levels[0]))) if self.log else finite

    @property
    def norm(self) -> Normalize:
        """Heights as shares of the colour map."""
        return Normalize(self.levels[0], self.levels[-1])

    def ticks(self, most: int = 7) -> dict[float, str]:
        """Heights with their labels: powers of ten on a logarithmic scale; 1, 2 and 5 times them if they are few."""
        low, high = self.levels[int(self.zeros)], self.levels[-1]
        if not self.log:
            places = MaxNLocator(most).tick_values(low, high)
            return {float(place): f"{place:g}" for place in places if low <= place <= high}
        powers = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
        ticks = {float(k): power(int(k)) for k in powers[:: 1 + len(powers) // most]}
        if len(powers) < 3:
            between = (np.log10(factor) + k for factor in (1, 2, 5) for k in np.arange(np.floor(low), high))
            ticks = {float(k): f"{10**k:.3g}" for k in between if low - 1e-9 <= k <= high + 1e-9}
        return ({float(self.levels[0]): "0"} if self.zeros else {}) | ticks


@literal
def contours(ax: Axes, surface: Result, *, unit: str | None = None) -> Axes:
    """Levels of the loss on a plane, with a colour bar, and the networks marked on it.

    The colour scale is logarithmic where the losses differ much; zeros have its lowest colour then. Where the loss is
    not finite the plane is hatched. A mark is filled with the colour of the network's own loss; marks of a trajectory
    are joined. Raises `LandscapeError` if no loss is finite.
    """
    scale = Scale.of(surface)
    field(ax, surface, scale, unit=unit)
    draw_marks(ax, surface, scale)
    return ax


def field(ax: Axes, surface: Result, scale: Scale, *, unit: str | None = None) -> None:
    """`contours` without the marks."""
    x, y, heights = surface["x"], surface["y"], scale(surface.loss)
    if np.isnan(heights).any():
        corner, size = (x[0], y[0]), (x[-1] - x[0], y[-1] - y[0])
        hatch = Rectangle(corner, *size, facecolor="#EEEEEE", edgecolor=GREY, hatch="////", lw=0, zorder=_HATCH)
        hatch.set_gid("not finite")
        ax.add_patch(hatch)
    masked = np.ma.masked_invalid(heights)
    filled = ax.contourf(x, y, masked, scale.levels, cmap=MAP, norm=scale.norm, zorder=FILL)
    ax.contour(
        x, y, masked, scale.levels[1:], colors="white", linestyles="solid", linewidths=0.5, alpha=0.45, zorder=_LINES
    )
    # Within the axes' frame, so that it stays as high as they are when they have one scale.
    bar = ax.figure.colorbar(filled, cax=ax.inset_axes((1.03, 0, 0.035, 1)))
    ticks = scale.ticks()
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(which="minor", length=0)
    bar.outline.set_visible(False)
    bar.set_label(with_unit("loss", unit or surface.about.get("loss_unit")))
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    if same_scale(surface):
        ax.set_aspect("equal")
    xlabel, ylabel = axis_labels(surface)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel.replace(" (", "\n("))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.spines[["left", "bottom"]].set_visible(False)


def plane_figure(
    surface: Result, *, caption: str | None = None, unit: str | None = None, style: Style = SCREEN
) -> Figure:
    """Contours of a surface on a page of their own; without `caption` it is composed from the attributes."""
    ratio = ratio_of(surface)
    side = min(_SIDE, style.width - _BESIDE)
    size = (max(side * min(1, 1 / ratio) + _BESIDE, 4.6), (side * min(1, ratio) + _AROUND) / style.tall)
    text = caption_of(surface, Scale.of(surface), flat=True) if caption is None else caption
    with sheet(size, text, style=style) as (figure, (ax,)):
        contours(ax, surface, unit=unit)
        ax.set_title(printable(surface.about.get("title", "")))
    return figure


def shown_marks(surface: Result) -> list[Mark]:
    """The marks within the ranges that are drawn."""
    return [
        mark
        for mark in surface.marks
        if surface["x"][0] <= mark.x <= surface["x"][-1] and surface["y"][0] <= mark.y <= surface["y"][-1]
    ]


def same_scale(surface: Result) -> bool:
    """Whether both axes are drawn to one scale; their units are the same on every plane."""
    ratio = np.ptp(surface["x"]) / np.ptp(surface["y"])
    return bool(1 / _STRETCH <= ratio <= _STRETCH)


def ratio_of(surface: Result) -> float:
    """Height of the axes, as a share of their width."""
    return float(np.ptp(surface["y"]) / np.ptp(surface["x"])) if same_scale(surface) else 0.8


def axis_labels(surface: Result) -> tuple[str, str]:
    """Labels of x and y."""
    plane = surface.about.get("plane", {})
    match plane.get("kind"):
        case "through":
            a, b, c = (mark.name for mark in surface.marks)
            return f"from {a} to {b} (L2 distance)", f"towards {c} (L2 distance)"
        case "tasks":
            base, a, b = (mark.name for mark in surface.marks)
            return f"share of {a} minus {base} that is added", f"share of {b} minus {base}"
        case "random":
            return "first random direction", "second random direction"
        case "eigenvectors":
            first, second = (f"{value:.4g}" for value in plane["eigenvalues"])
            return f"first eigenvector, {first} (L2 distance)", f"second eigenvector, {second} (L2 distance)"
        case "gradient":
            first = f"{plane['eigenvalues'][0]:.4g}"
            return "gradient across the eigenvector (L2 distance)", f"first eigenvector, {first} (L2 distance)"
        case "trajectory":
            first, second = (f"{100 * share:.3g}" for share in plane["explained"])
            return f"first principal axis, {first} % (L2 distance)", f"second principal axis, {second} % (L2 distance)"
    return "x", "y"


def caption_of(surface: Result, scale: Scale, *, flat: bool) -> str:
    """The caption of a figure of a surface, `flat` or as heights."""
    shown, one_scale = len(shown_marks(surface)), same_scale(surface)
    return plane_caption(surface, shown=shown, log=scale.log, one_scale=one_scale, flat=flat)


def name_marks(
    ax: Axes,
    surface: Result,
    marks: Sequence[Mark],
    at: Callable[[Mark], tuple[float, float]],
    path: Float[np.ndarray, "point 2"],
    *,
    inner: bool = True,
) -> None:
    """Names beside marks, which lie `at` places of the axes, clear of the trajectory's `path`.

    Within a trajectory they are the step alone, and give way to the others; without `inner` there are none.
    """
    ends = surface.trajectory[:1] + surface.trajectory[-1:]
    within = {id(mark) for mark in surface.trajectory} - {id(mark) for mark in ends}
    names = [
        (at(mark), mark.name, True)
        if id(mark) not in within
        else (at(mark), mark.name if mark.source.step is None else str(mark.source.step), False)
        for mark in sorted(marks, key=lambda mark: id(mark) in within)
        if inner or id(mark) not in within
    ]
    name_points(ax, names, [path], sides=AROUND, dot=4.0, color=INK)


def color_of(scale: Scale, mark: Mark) -> Any:
    """The colour of a mark's own loss; none for one that is not finite."""
    return MAP(scale.norm(scale(np.array(mark.loss)))) if np.isfinite(mark.loss) else "none"


def draw_marks(ax: Axes, surface: Result, scale: Scale) -> None:
    """The trajectory as a line, each mark as a dot in the colour of its own loss, and names where there is room."""
    shown = shown_marks(surface)
    line = np.array([(mark.x, mark.y) for mark in surface.trajectory]).reshape(-1, 2)
    if len(line):
        ax.plot(*line.T, color="white", lw=1.2, path_effects=OUTLINE, zorder=PATH, gid="trajectory")
    for mark in shown:
        color = color_of(scale, mark)
        size = 36 if mark.trajectory is None else 20
        dot = ax.scatter(mark.x, mark.y, size, color=[color], ec="white", lw=1.1, zorder=DOTS, clip_on=False)
        dot.set_path_effects(OUTLINE)
    name_marks(ax, surface, shown, lambda mark: (mark.x, mark.y), line)
