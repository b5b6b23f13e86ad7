"""Contours of surfaces over planes, with the networks marked on them."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from landscape.core.errors import LandscapeError
from landscape.figures.captions import computed
from landscape.figures.pages import GREY, INK, STYLE, sheet, with_unit
from landscape.figures.scales import floor_below
from landscape.store.results import Mark, Result

__all__ = ["contours", "plane_figure"]

Place = tuple[float, float]

#: Perceptually uniform, and read alike with and without red-green blindness; dark is low.
_MAP = colormaps["viridis"]
#: The scale is logarithmic where the largest loss is more than this times the smallest.
_LOG_RATIO = 20.0
#: About as many levels at most.
_LEVELS = 18
#: Axes have one scale, unless one of them would be more than this times as long as the other.
_STRETCH = 4.0
#: Inches: the longer side of the contours, and what stands beside and above them.
_SIDE, _BESIDE, _AROUND = 4.2, 1.5, 0.75
#: Sides of a dot on which its name may stand, the best first: right of it (1) or left (-1), above or below.
_SIDES = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
#: A dark line around what is white, so that it shows on every colour.
_OUTLINE: list[AbstractPathEffect] = [withStroke(linewidth=2.6, foreground=INK)]
#: Order of drawing.
_HATCH, _FILL, _LINES, _PATH, _DOTS, _NAMES = 0.5, 1.0, 1.5, 3.0, 4.0, 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Scale:
    """Heights of losses: their decimal logarithm, with zeros on a floor, or the losses themselves."""

    log: bool
    levels: Float[np.ndarray, " level"]
    zeros: bool

    @classmethod
    def of(cls, surface: Result) -> "_Scale":
        """The scale for the losses on a plane and of its marks; raises `LandscapeError` if none is finite."""
        losses = np.concatenate([surface.loss.ravel(), [mark.loss for mark in _shown(surface)]])
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            raise LandscapeError("no loss on the plane is finite: choose other points, or a smaller range")
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
        ticks = {float(k): f"$10^{{{int(k)}}}$" for k in powers[:: 1 + len(powers) // most]}
        if len(powers) < 3:
            between = (np.log10(factor) + k for factor in (1, 2, 5) for k in np.arange(np.floor(low), high))
            ticks = {float(k): f"{10**k:.3g}" for k in between if low - 1e-9 <= k <= high + 1e-9}
        return ({float(self.levels[0]): "0"} if self.zeros else {}) | ticks


def contours(ax: Axes, surface: Result, *, unit: str | None = None) -> Axes:
    """Levels of the loss on a plane, with a colour bar, and the networks marked on it.

    The colour scale is logarithmic where the losses differ much; zeros have its lowest colour then. Where the loss is
    not finite the plane is hatched. A mark is filled with the colour of the network's own loss; marks of a trajectory
    are joined. Raises `LandscapeError` if no loss is finite.
    """
    shown = _shown(surface)
    scale = _Scale.of(surface)
    x, y, heights = surface["x"], surface["y"], scale(surface.loss)
    if np.isnan(heights).any():
        corner, size = (x[0], y[0]), (x[-1] - x[0], y[-1] - y[0])
        hatch = Rectangle(corner, *size, facecolor="#EEEEEE", edgecolor=GREY, hatch="////", lw=0, zorder=_HATCH)
        hatch.set_gid("not finite")
        ax.add_patch(hatch)
    masked = np.ma.masked_invalid(heights)
    filled = ax.contourf(x, y, masked, scale.levels, cmap=_MAP, norm=scale.norm, zorder=_FILL)
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
    if _same_scale(surface):
        ax.set_aspect("equal")
    xlabel, ylabel = _axes(surface)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel.replace(" (", "\n("))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.spines[["left", "bottom"]].set_visible(False)
    _draw_marks(ax, surface, shown, scale)
    return ax


def plane_figure(surface: Result, *, caption: str | None = None, unit: str | None = None) -> Figure:
    """Contours of a surface on a page of their own; without `caption` it is composed from the attributes."""
    width, height = float(np.ptp(surface["x"])), float(np.ptp(surface["y"]))
    ratio = height / width if _same_scale(surface) else 0.8
    size = (_SIDE * min(1, 1 / ratio) + _BESIDE, _SIDE * min(1, ratio) + _AROUND)
    with matplotlib.style.context(STYLE):
        text = _caption(surface, flat=True) if caption is None else caption
        figure, (ax,) = sheet((max(size[0], 4.6), size[1]), text, 1)
        contours(ax, surface, unit=unit)
        ax.set_title(surface.about.get("title", ""))
    return figure


def _shown(surface: Result) -> list[Mark]:
    """The marks within the ranges that are drawn."""
    return [
        mark
        for mark in surface.marks
        if surface["x"][0] <= mark.x <= surface["x"][-1] and surface["y"][0] <= mark.y <= surface["y"][-1]
    ]


def _same_scale(surface: Result) -> bool:
    """Whether both axes are drawn to one scale; their units are the same on every plane."""
    ratio = np.ptp(surface["x"]) / np.ptp(surface["y"])
    return bool(1 / _STRETCH <= ratio <= _STRETCH)


def _plane(surface: Result) -> dict[str, Any]:
    """What the file says of its plane."""
    return dict(surface.about.get("plane", {}))


def _axes(surface: Result) -> tuple[str, str]:
    """Labels of x and y."""
    plane = _plane(surface)
    if plane.get("kind") == "through":
        a, b, c = (mark.name for mark in surface.marks)
        return f"from {a} to {b} (L2 distance)", f"towards {c} (L2 distance)"
    if plane.get("kind") == "random":
        return "first random direction", "second random direction"
    if plane.get("kind") == "trajectory":
        first, second = (f"{100 * share:.3g}" for share in plane["explained"])
        return f"first principal axis, {first} % (L2 distance)", f"second principal axis, {second} % (L2 distance)"
    return "x", "y"


def _draw_marks(ax: Axes, surface: Result, shown: Sequence[Mark], scale: _Scale) -> None:
    """The trajectory as a line, each mark as a dot in the colour of its own loss, and names where there is room."""
    line = [(mark.x, mark.y) for mark in surface.trajectory]
    if line:
        ax.plot(*zip(*line, strict=True), color="white", lw=1.2, path_effects=_OUTLINE, zorder=_PATH, gid="trajectory")
    for mark in shown:
        color = _MAP(scale.norm(scale(np.array(mark.loss)))) if np.isfinite(mark.loss) else "none"
        size = 36 if mark.trajectory is None else 20
        dot = ax.scatter(mark.x, mark.y, size, color=[color], ec="white", lw=1.1, zorder=_DOTS, clip_on=False)
        dot.set_path_effects(_OUTLINE)
    _name(ax, [((mark.x, mark.y), text, needed) for mark, text, needed in _texts(surface, shown)], line)


def _texts(surface: Result, marks: Sequence[Mark]) -> list[tuple[Mark, str, bool]]:
    """Marks with what stands beside them, and whether it must: names, and within the trajectory the step alone.

    Those that must come first, so that the others give way.
    """
    ends = {id(mark) for mark in surface.trajectory[:1] + surface.trajectory[-1:]}
    inner = {id(mark) for mark in surface.trajectory} - ends
    texts = [
        (mark, str(mark.source.step) if id(mark) in inner and mark.source.step is not None else mark.name)
        for mark in marks
    ]
    return sorted(((mark, text, id(mark) not in inner) for mark, text in texts), key=lambda each: not each[2])


def _name(ax: Axes, names: Sequence[tuple[Place, str, bool]], line: Sequence[Place] = ()) -> None:
    """Names beside dots, each on the first of eight sides where it covers no other name, no dot and no `line`.

    One that has no such side, or whose dot lies close to one with a name, is left out, unless it must stand there.
    """
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # lays the axes out, so that places are known
    pixel, frame = figure.dpi / 72, ax.get_window_extent()
    dots = [ax.transData.transform(place) for place, _, _ in names]
    taken = [Bbox([dot - 4 * pixel, dot + 4 * pixel]) for dot in dots]
    taken += [Bbox([place - pixel, place + pixel]) for place in _along(ax, line, 4 * pixel)]
    named: list[Any] = []
    for dot, (place, text, needed) in zip(dots, names, strict=True):
        if not needed and any(np.hypot(*(dot - other)) < 12 * pixel for other in named):
            continue
        labels = [_beside(ax, place, text, side) for side in _SIDES]
        boxes = [label.get_window_extent() for label in labels]
        free = [
            k
            for k, box in enumerate(boxes)
            if frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if not any(box.overlaps(other) for other in taken)
        ]
        chosen = free[0] if free else 0 if needed else None
        for k, label in enumerate(labels):
            if k != chosen:
                label.remove()
        if chosen is not None:
            taken.append(boxes[chosen])
            named.append(dot)


def _beside(ax: Axes, place: Place, text: str, side: tuple[int, int]) -> Annotation:
    """A name on one side of a dot: to the right (1), left (-1) or neither, and above, below or neither."""
    right, up = side
    away = 4.6 if right and up else 6.0
    label = ax.annotate(
        text,
        place,
        (away * right, away * up),
        textcoords="offset points",
        ha=("center", "left", "right")[right],
        va=("center", "bottom", "top")[up],
        size="small",
        color=INK,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
        zorder=_NAMES,
    )
    label.set_in_layout(False)
    return label


def _along(ax: Axes, line: Sequence[Place], apart: float) -> list[Any]:
    """Places on a line, in pixels, about so far apart."""
    corners = [ax.transData.transform(place) for place in line]
    return [
        place
        for start, end in itertools.pairwise(corners)
        for place in np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / apart))
    ]


def _caption(surface: Result, *, flat: bool) -> str:
    """What is drawn, in sentences, from what the file says of itself."""
    sampled = "loss_se" in surface.values
    loss = f"Loss on {surface.about.get('samples', 'some')} samples" if sampled else "Exact loss"
    log, shown = _Scale.of(surface).log, _shown(surface)
    missing, zeros = (~np.isfinite(surface.loss)).sum(), (surface.loss == 0).sum() if log else 0
    own = "their own loss"
    if surface.about.get("batchnorm", {}).get("policy") == "keep":
        own = "their loss with these statistics"
    dots = f"in the colour of {own}" if flat else f"at {own}; pale below a dotted stem: hidden"
    sentences = [
        f"{loss} {_where(surface)}.",
        _computed(surface),
        f"Grid of {len(surface['x'])} x {len(surface['y'])} points; {'logarithmic' if log else 'linear'} scale.",
        f"Dots: the networks, {dots}." if shown else "",
        f"{'Hatched' if flat else 'Holes'}: the loss is not finite ({missing} points)." if missing else "",
        f"The loss is exactly zero at {zeros} points." if zeros else "",
        f"{len(surface.marks) - len(shown)} of {len(surface.marks)} networks lie outside of the ranges."
        if len(shown) < len(surface.marks)
        else "",
        "" if _same_scale(surface) else "The axes are not drawn to one scale.",
    ]
    return " ".join(filter(None, sentences))


def _computed(surface: Result) -> str:
    """By which statistics BatchNorm normalised; with random directions there are those of one network alone."""
    told = surface.about
    if _plane(surface).get("kind") == "random" and told.get("batchnorm", {}).get("policy") == "interpolate":
        told = {**told, "batchnorm": {"policy": "keep"}}
    start = "the network" if _plane(surface).get("kind") == "random" else "the first network"
    return computed([told], between="the networks", start=start)


def _where(surface: Result) -> str:
    """Which plane it is, and what its axes are."""
    plane, marks = _plane(surface), surface.marks
    full = plane.get("landmarks", {})
    names = [full.get(place, mark.name) for place, mark in zip(plane.get("places", []), marks, strict=False)]
    if plane.get("kind") == "through":
        return f"on the plane through {names[0]}, {names[1]} and {names[2]}, with orthonormal axes (L2 distances)"
    if plane.get("kind") == "random":
        kept = "; biases and BatchNorm stay as they are" if plane["normalise"] != "none" else ""
        norms = {
            "filter": "each filter as long as the network's own",
            "layer": "each tensor as long as the network's own",
            "none": "standard normal in every parameter",
        }[plane["normalise"]]
        return f"at {names[0]} plus multiples of two random directions (seed {plane['seed']}), {norms}{kept}"
    if plane.get("kind") == "trajectory":
        farthest, path = max(mark.off_plane for mark in marks), surface.trajectory
        return (
            f"on the plane through {path[-1].name} of {plane['places'][0]} that lies closest to all its {len(path)} "
            f"checkpoints: it holds {100 * sum(plane['explained']):.3g} % of their squared distances from that step. "
            f"The checkpoints are projected: they lie up to {farthest:.3g} off the plane, where losses differ"
        )
    return "on a plane"
