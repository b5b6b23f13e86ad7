"""Values over what was varied: curves with their intervals, seeds and published values."""

import dataclasses
import functools
import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import (
    CONFIDENCE,
    Proportion,
    Statistic,
    mean_interval,
    median_interval,
    pairs_interval,
    together,
)
from landscape.figures.captions import zeros_caption
from landscape.figures.pages import (
    COLORS,
    GREY,
    INK,
    SCREEN,
    WIDTH,
    Style,
    figure_of,
    group_opacity,
    literal,
    points,
    powers_along,
    sheet,
)
from landscape.figures.scales import floor_below, log_axis, on_axis

__all__ = ["Series", "series", "series_figure"]

XScale = Literal["linear", "log", "category"]
YScale = Literal["linear", "log"]
#: Low and high ends of the intervals at all places, for a coverage of each.
Ends = Callable[[float], Float[np.ndarray, "2 place"]]
#: Looks of the curves of one figure, by turns; yellow is too pale for a line. Shapes differ where colours do not print.
_COLORS = tuple(COLORS[k] for k in (0, 1, 4, 6, 3, 2))
_MARKERS, _SIZES = ("o", "s", "^", "D", "v", "P", "X"), (5.0, 4.6, 5.6, 4.4, 5.6, 5.6, 5.4)
#: Legend of the open marks.
_ORIGINAL = "original study (read off its plots)"
#: Up to so many places each has a tick; up to so many, each has a mark.
_TICKED, _MARKED = 8, 24
#: Seeds of which more are drawn as a band.
_SEPARATE = 100
#: Marks at one place coincide if they are closer than this share of the axis.
_NEAR = 0.04
#: They then stand apart by at most this share of the way to the next place on the axis.
_ROOM = 0.2
#: Order of drawing, from the back; published values lie behind the study's own, as rings around them.
_BAND, _SEEDS, _OPEN, _LINE = 1.5, 1.8, 2.2, 2.6


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """One curve: a value at each x with its interval, the seeds behind it, and the original study's values.

    What is NaN leaves a gap; an interval may be NaN where there is none. `seeds` are drawn as faint lines, more
    than 100 as the pale band of their middle 90 %, `original`
    (x and value, read off the study's published plots) as open marks, `baseline` (what a trivial answer scores) as a
    dotted line. Where the intervals were made here, `ends` makes them with another coverage. Raises `LandscapeError` if
    lengths differ or no value is finite.
    """

    label: str
    x: Float[np.ndarray, " place"]
    value: Float[np.ndarray, " place"]
    low: Float[np.ndarray, " place"]
    high: Float[np.ndarray, " place"]
    seeds: Float[np.ndarray, "seed place"] | None = None
    original: tuple[Float[np.ndarray, " mark"], Float[np.ndarray, " mark"]] | None = None
    baseline: float | None = None
    ends: Ends | None = None

    def __post_init__(self) -> None:
        name, lengths = f"the curve '{self.label}'", [len(each) for each in (self.x, self.value, self.low, self.high)]
        if len(set(lengths)) > 1:
            told = "{} x, {} values, {} low and {} high ends".format(*lengths)
            raise LandscapeError(f"{name} has {told}: give one of each for every place")
        if not lengths[0]:
            raise LandscapeError(f"{name} is empty: give it at least one place")
        if self.seeds is not None and self.seeds.shape[1:] != self.x.shape:
            raise LandscapeError(f"{name} has seeds of shape {self.seeds.shape}: give [seed, {lengths[0]} places]")
        if self.original is not None and len(self.original[0]) != len(self.original[1]):
            raise LandscapeError(f"{name} has {len(self.original[0])} x but {len(self.original[1])} original values")
        if not np.isfinite(self.x).all():
            raise LandscapeError(f"{name} has an x that is not finite: leave that place out")
        if not np.isfinite(self.value).any():
            raise LandscapeError(f"{name} has no finite value: leave the curve out")
        if (self.low > self.high).any():
            raise LandscapeError(f"{name} has a low end above its high end: exchange the two")

    @classmethod
    def of_proportions(
        cls,
        label: str,
        x: Sequence[float] | Shaped[np.ndarray, " place"],
        proportions: Sequence[Proportion],
        **more: Any,
    ) -> "Series":
        """Shares with Wilson's interval; a proportion of nothing leaves a gap. `more` are other fields.

        Raises `LandscapeError` as `Series` does.
        """
        value = np.array([share.value for share in proportions], dtype=float)
        return cls._with(label, x, value, [share.interval_at for share in proportions], more)

    @classmethod
    def of_seeds(
        cls,
        label: str,
        x: Sequence[float] | Shaped[np.ndarray, " _"],
        seeds: Float[np.ndarray, "seed place"],
        *,
        statistic: Statistic = "mean",
        within: tuple[float, float] = (-np.inf, np.inf),
        **more: Any,
    ) -> "Series":
        """Mean or median of the seeds at each place with its 95 % interval, and the seeds: of means from 8 seeds on,
        cut to the range `within` which they must lie; of medians from 6.

        Seeds that are NaN at a place do not count there; infinite ones do. `more` are other fields. Raises
        `LandscapeError` as `Series` does, `Unsupported` for an unknown statistic.
        """
        of, columns = _statistic(statistic), [column[~np.isnan(column)] for column in seeds.T]
        value = np.array([of(column) if len(column) else np.nan for column in columns], dtype=float)
        one = median_interval if statistic == "median" else functools.partial(mean_interval, within=within)
        return cls._with(
            label, x, value, [functools.partial(one, column) for column in columns], {"seeds": seeds, **more}
        )

    @classmethod
    def of_pairs(
        cls,
        label: str,
        x: Sequence[float] | Shaped[np.ndarray, " place"],
        pairs: Sequence[Float[np.ndarray, "seed seed"]],
        *,
        statistic: Statistic = "mean",
        within: tuple[float, float] = (-np.inf, np.inf),
        **more: Any,
    ) -> "Series":
        """Mean or median over the pairs of different seeds at each place with its 95 % interval, from 20 seeds on, and
        for each seed that of its own pairs, from it and to it.

        Pairs that are NaN do not count; `within` and `more` are as for `of_seeds`, which raises as this does.
        """
        of, value, seeds = _statistic(statistic), [], []
        for each in pairs:
            kept = ~np.isnan(each) & ~np.eye(len(each), dtype=bool)
            value.append(of(each[kept]) if kept.any() else np.nan)
            own = [np.concatenate([each[k][kept[k]], each[:, k][kept[:, k]]]) for k in range(len(each))]
            seeds.append([of(numbers) if len(numbers) else np.nan for numbers in own])
        ends = [functools.partial(pairs_interval, each, statistic, within=within) for each in pairs]
        return cls._with(label, x, np.array(value, dtype=float), ends, {"seeds": np.array(seeds).T, **more})

    @classmethod
    def _with(
        cls,
        label: str,
        x: Any,
        value: Float[np.ndarray, " place"],
        each: Sequence[Callable[[float], Any]],
        more: Mapping[str, Any],
    ) -> "Series":
        """A curve with what makes the interval at each place."""

        def ends(confidence: float) -> Float[np.ndarray, "2 place"]:
            return np.array([one(confidence) for one in each], dtype=float).reshape(-1, 2).T

        low, high = ends(CONFIDENCE)
        return cls(label=label, x=np.asarray(x, dtype=float), value=value, low=low, high=high, ends=ends, **more)

    @property
    def intervals(self) -> int:
        """Number of places that have one."""
        return int((np.isfinite(self.value) & ~np.isnan(self.low) & ~np.isnan(self.high)).sum())

    def covering(self, confidence: float) -> "Series":
        """The same curve with intervals that hold with another probability each, if they were made here."""
        if self.ends is None:
            return self
        low, high = self.ends(confidence)
        return dataclasses.replace(self, low=low, high=high)

    @property
    def _drawn(self) -> Float[np.ndarray, " number"]:
        """All finite heights in the picture."""
        parts = (self.value, self.low, self.high, self.seeds, self.original and self.original[1], self.baseline)
        heights = np.concatenate([np.ravel(part).astype(float) for part in parts if part is not None])
        return np.asarray(heights[np.isfinite(heights)])

    @property
    def _places(self) -> Float[np.ndarray, " number"]:
        """All x in the picture."""
        return np.concatenate([self.x, self.original[0]]) if self.original else self.x


@literal
def series(
    ax: Axes,
    curves: Sequence[Series],
    *,
    xlabel: str,
    ylabel: str,
    percent: bool = True,
    xscale: XScale = "linear",
    yscale: YScale = "linear",
    categories: Sequence[str] = (),
    baseline: str = "baseline",
    floor: float | None = None,
    title: str = "",
) -> Axes:
    """Curves with their intervals over what was varied; the legend stands above the axes.

    An interval is a band, or a bar at a lone place and over categories, which no line connects. With `percent`, values
    are shares from 0 to 1, drawn in %. `categories` name x = 0, 1, ...; without names each x is a category of its own.
    `baseline` is what the dotted lines are called. On a log y axis, zeros lie on a dotted line at `floor`. Marks that
    would coincide stand a few points beside their x. Raises `LandscapeError` for curves that cannot be drawn so.
    """
    frame = _Frame([curves], percent, xscale, yscale, categories, baseline, floor)
    _draw(ax, curves, frame)
    _draw_baselines(ax, curves, frame)
    ax.set_xlabel(xlabel)
    _label_y(ax, ylabel)
    _finish(ax, title, frame.handles(curves))
    return ax


def series_figure(
    panels: Sequence[tuple[str, Sequence[Series]]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    columns: int | None = None,
    height: float = 2.5,
    style: Style = SCREEN,
    **options: Any,
) -> Figure:
    """Panels of `series`, each with its title, on one y axis, up to 3 in a row, with a caption below.

    Intervals that `Series` made of shares, seeds or pairs are made to hold all at once with 95 %, and the caption says
    so. A label has one look in all panels. One legend stands on top if some panel has all the labels, else each panel
    has its own. `height` is that of a row, in inches; other `options` are those of `series`. Raises as `series` does.
    """
    if not panels:
        raise LandscapeError("a figure of series needs panels: give at least one")
    drawn, told = _all_at_once([curves for _, curves in panels])
    panels = [(title, curves) for (title, _), curves in zip(panels, drawn, strict=True)]
    infinite = sum(int(np.isinf(curve.value).sum()) for curves in drawn for curve in curves)
    told += f" {infinite} infinite values are not drawn." if infinite else ""
    caption += told if caption else ""
    frame = _Frame(drawn, **options)
    across = min(len(panels), style.fit(columns or 3))
    rows = -(-len(panels) // across)
    shared = any({curve.label for curve in curves} == set(frame.labels) for curves in frame.panels)
    if caption and frame.yscale == "log":
        caption += zeros_caption([frame.heights])
    if caption and frame.xscale != "category" and frame.crowded:
        caption += " Marks of several curves at one place stand side by side."
    size, ratios = (WIDTH, height * rows + 0.25), (1,) * across
    with sheet(size, caption, len(panels), ratios, style=style) as (figure, axes):
        for number, (ax, (title, curves)) in enumerate(zip(axes, panels, strict=True)):
            row, column = divmod(number, across)
            _draw(ax, curves, frame)
            # The dotted lines of a row look the same: the last one names them all.
            rest = frame.panels[number + 1 : (row + 1) * across]
            _draw_baselines(ax, curves, frame, named=all(one.baseline is None for each in rest for one in each))
            ax.tick_params(axis="y", labelleft=column == 0)
            if column == 0:
                _label_y(ax, ylabel)
            label = _wrapped(xlabel, ax.get_window_extent().width, ax)
            if row == rows - 1:
                ax.set_xlabel(label)
            elif number + across >= len(panels):
                # Into the empty place below, without moving the rows apart.
                place = (0.5, 0), (0, -20), "axes fraction", "offset points"
                letters = ax.xaxis.label.get_fontsize()
                ax.annotate(label, *place, ha="center", va="top", size=letters).set_in_layout(False)
            _finish(ax, title, () if shared else frame.handles(curves))
        if shared:
            width = 0.97 * figure.bbox.width
            _legend(figure, frame.handles(frame.curves), width, loc="outside upper left", borderaxespad=0.7)
    return figure


def _all_at_once(panels: Sequence[Sequence[Series]]) -> tuple[list[Sequence[Series]], str]:
    """The curves with intervals that hold all at once with 95 %, and what a caption says of it."""
    count = sum(curve.intervals for curves in panels for curve in curves if curve.ends is not None)
    if not any(curve.ends for curves in panels for curve in curves):
        return list(panels), ""
    if count < 2:
        return list(panels), " The interval: 95 %." if count else " No intervals: too few seeds."
    wide: list[Sequence[Series]] = [[curve.covering(together(count)) for curve in curves] for curves in panels]
    left = sum(curve.intervals for curves in wide for curve in curves if curve.ends is not None)
    lacking = f"; of {count - left} there are too few seeds for that" if left < count else ""
    if not left:
        return list(panels), f" The {count} intervals hold with 95 % each: too few seeds for all at once."
    return wide, f" The {left} intervals hold all at once with 95 % (Bonferroni){lacking}."


def _statistic(name: Statistic) -> Callable[..., Any]:
    """A mean or median, of infinite values too."""
    statistics: Mapping[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median}
    if name not in statistics:
        raise Unsupported(f"there is no statistic '{name}': choose {' or '.join(statistics)}")
    return statistics[name]


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """What the panels of one figure share: scales, the range of y, and how each label looks."""

    panels: Sequence[Sequence[Series]]
    percent: bool = True
    xscale: XScale = "linear"
    yscale: YScale = "linear"
    categories: Sequence[str] = ()
    baseline: str = "baseline"
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.percent and self.yscale == "log":
            raise Unsupported("per cent have no log axis: give percent=False or yscale='linear'")
        if self.categories and self.xscale != "category":
            raise Unsupported("categories name the places of a categorical axis: give xscale='category' too")
        for curves in self.panels:
            if not curves:
                raise LandscapeError("there are no curves to draw: give at least one")
            names = [curve.label for curve in curves]
            if twice := [name for name in names if names.count(name) > 1]:
                raise LandscapeError(f"two curves are called '{twice[0]}': give each a label of its own")
        for curve in self.curves:
            self._check(curve)

    def _check(self, curve: Series) -> None:
        heights, places = curve._drawn, curve._places
        if self.percent and not (heights.min() >= -1e-9 and heights.max() <= 1 + 1e-9):
            raise LandscapeError(
                f"the curve '{curve.label}' reaches from {heights.min():g} to {heights.max():g}, but per cent are "
                "drawn of shares from 0 to 1: divide the values, or give percent=False"
            )
        if self.xscale == "log" and places.min() <= 0:
            raise LandscapeError(f"the curve '{curve.label}' has x = {places.min():g}, which no log axis has")
        if self.categories and not np.isin(places, np.arange(len(self.categories))).all():
            count = len(self.categories)
            raise LandscapeError(f"the curve '{curve.label}' has an x that is none of the {count} categories")

    @property
    def curves(self) -> list[Series]:
        """Those of all panels."""
        return [curve for curves in self.panels for curve in curves]

    @property
    def labels(self) -> list[str]:
        """Each label once, in the order of the panels."""
        return list(dict.fromkeys(curve.label for curve in self.curves))

    @property
    def heights(self) -> Float[np.ndarray, " number"]:
        """All heights of all panels, as drawn on a linear axis."""
        return (100.0 if self.percent else 1.0) * np.concatenate([curve._drawn for curve in self.curves])

    @property
    def ylim(self) -> tuple[float, float]:
        """The range of a linear y axis."""
        low, high = (0.0, 100.0) if self.percent else (float(self.heights.min()), float(self.heights.max()))
        margin = 0.045 * (high - low) or 0.5
        return low - margin, high + margin

    def height(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values as drawn: in %, or with zeros on the floor of a log axis."""
        if self.yscale == "linear":
            return (100.0 if self.percent else 1.0) * values
        return on_axis(values, floor_below([self.heights]) if self.floor is None else self.floor)

    @property
    def crowded(self) -> bool:
        """Whether marks of two curves of a panel would coincide."""
        return any(self._coincide(*pair) for curves in self.panels for pair in itertools.combinations(curves, 2))

    def _coincide(self, one: Series, other: Series) -> bool:
        """Whether marks at the same x are closer in height than a share of the axis."""
        if len(other.x) > _MARKED:
            return False
        _, at, its = np.intersect1d(one.x, other.x, return_indices=True)
        heights, ends = self.height(np.stack([one.value[at], other.value[its]])), np.array(self.ylim)
        if self.yscale == "log":
            heights, ends = np.log10(heights), np.log10(self.height(self.heights))
        return bool((abs(heights[0] - heights[1]) <= _NEAR * np.ptp(ends)).any())

    def pointwise(self, curves: Iterable[Series]) -> bool:
        """Whether places stand apart, so that no line connects them."""
        return self.xscale == "category" or len(np.unique(np.concatenate([curve.x for curve in curves]))) == 1

    def look(self, label: str) -> dict[str, Any]:
        """Colour and mark of a label; dashed when the colours come round again."""
        rank = self.labels.index(label)
        turn = rank % len(_MARKERS)
        line = "-" if rank < len(_COLORS) else (0, (4, 1.5))
        return {"color": _COLORS[rank % len(_COLORS)], "marker": _MARKERS[turn], "ms": _SIZES[turn], "ls": line}

    def handles(self, curves: Sequence[Series]) -> list[Line2D]:
        """The legend's entries: each label once, then the open marks."""
        drawn, bare = {curve.label for curve in curves}, {"ls": ""} if self.pointwise(curves) else {}
        found = [
            Line2D([], [], lw=1.6, mec="white", mew=0.5, **(self.look(label) | bare), label=label)
            for label in self.labels
            if label and label in drawn
        ]
        if any(curve.original for curve in curves):
            found.append(Line2D([], [], ls="", marker="o", ms=6.2, mfc="white", mec=GREY, mew=1.1, label=_ORIGINAL))
        return found


def _draw(ax: Axes, curves: Sequence[Series], frame: _Frame) -> None:
    """The curves and their axes, without words."""
    names = {float(place): name for place, name in enumerate(frame.categories)}
    if frame.xscale == "category" and not names:
        names = {float(place): _plain(place) for place in np.unique(np.concatenate([each._places for each in curves]))}
    _x_axis(ax, curves, frame, names)
    if frame.yscale == "log":
        own = np.concatenate([curve._drawn for curve in curves])
        log_axis(ax, own, float(frame.height(np.zeros(1))[0]), [frame.heights])
    else:
        ax.set_ylim(frame.ylim)
    if frame.percent:
        ax.set_yticks(range(0, 101, 20))
        ax.spines["left"].set_bounds(0, 100)
    ax.grid(axis="y", color="#EEEEEE", lw=0.7)
    alone, step = frame.pointwise(curves), 0.0
    if len(curves) > 1 and (alone or frame.crowded):
        room = 0.6 * points(ax, ax.get_window_extent().width) / max(len(names), 1) if alone else _aside(ax, curves)
        step = min(13.0 if alone else 4.0, room / (len(curves) - 1))
    for rank, curve in enumerate(curves):
        # Some points to the right, whatever the scale: the data of an artist stay what they are.
        right = step * (rank - (len(curves) - 1) / 2)
        aside = ax.transData + ScaledTranslation(right / 72, 0, figure_of(ax).dpi_scale_trans)
        _draw_curve(ax, curve, frame, list(names), aside, alone=alone)


def _aside(ax: Axes, curves: Sequence[Series]) -> float:
    """How far, in points, marks may stand apart that would coincide: no curve is to seem shifted along x."""
    places = np.unique(np.concatenate([curve._places for curve in curves]))
    at = ax.transData.transform(np.column_stack([places, np.broadcast_to(ax.get_ylim()[1], places.shape)]))[:, 0]
    return min(9.0, _ROOM * points(ax, float(np.diff(at).min()))) if len(at) > 1 else 9.0


def _draw_curve(
    ax: Axes, curve: Series, frame: _Frame, names: Sequence[float], aside: Transform, *, alone: bool
) -> None:
    order = np.argsort(curve.x, kind="stable")
    x, value = _position(curve.x[order], names), frame.height(curve.value[order])
    low, high = (np.where(np.isfinite(value), frame.height(each[order]), np.nan) for each in (curve.low, curve.high))
    look = frame.look(curve.label) | ({"ls": ""} if alone else {})
    shared: dict[str, Any] = {"color": look["color"], "transform": aside}
    if curve.seeds is not None:
        seeds = frame.height(curve.seeds[:, order])
        faint = shared | {"alpha": group_opacity(len(seeds), 0.25), "zorder": _SEEDS, "gid": "seed"}
        if len(seeds) > _SEPARATE and not alone:
            ends = np.quantile(seeds, (0.05, 0.95), axis=0, method="inverted_cdf")
            ax.fill_between(x, *ends, lw=0, **shared | {"alpha": 0.08, "zorder": _BAND - 0.1, "gid": "seeds"})
        elif alone:
            ax.plot(x, seeds.T, ls="", marker="_", ms=9, mew=0.8, **faint)
        else:
            lines = [np.stack([x, seed], axis=1) for seed in seeds]
            ax.add_collection(LineCollection(lines, linewidths=0.5, **faint), autolim=False)
    # A band has no width where its neighbours are missing.
    there = np.isfinite(low) & np.isfinite(high)
    beside = np.append(False, there[:-1]) | np.append(there[1:], False)
    bars = there & (alone | ~beside)
    if not alone:
        ax.fill_between(x, low, high, alpha=0.16, lw=0, zorder=_BAND, **shared)
    if bars.any():
        middle, half = (high + low)[bars] / 2, (high - low)[bars] / 2
        ax.errorbar(x[bars], middle, yerr=half, fmt="none", elinewidth=1.3, capsize=2.5, zorder=_LINE - 0.1, **shared)
    if curve.original is not None:
        at, height = _position(curve.original[0], names), frame.height(curve.original[1])
        ring = look | {"ls": "", "ms": look["ms"] + 2.2, "mfc": "white", "mec": look["color"], "mew": 1.1}
        ax.plot(at, height, **ring, transform=aside, zorder=_OPEN, gid="original")
    every = -(-len(x) // (_MARKED // 3)) if len(x) > _MARKED else None
    line = look | {"lw": 1.6, "mec": "white", "mew": 0.5, "markevery": every}
    ax.plot(x, value, **line, transform=aside, zorder=_LINE, gid="value")


def _x_axis(ax: Axes, curves: Sequence[Series], frame: _Frame, names: Mapping[float, str]) -> None:
    """The range of x, and a tick at each place if there are few; on a log axis always, in plain numbers."""
    if names:
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xticks(range(len(names)), list(names.values()))
        ax.tick_params(axis="x", length=0)
        return
    places = np.unique(np.concatenate([curve._places for curve in curves]))
    along = np.log10(places) if frame.xscale == "log" else places
    margin = 0.075 * np.ptp(along) or 0.5
    left, right = along[0] - margin, along[-1] + margin
    ax.set_xscale(frame.xscale)
    if frame.xscale == "log":
        powers_along(ax.xaxis)
    ax.set_xlim(*(10.0 ** np.array([left, right]) if frame.xscale == "log" else (left, right)))
    if frame.xscale == "linear" and len(places) > _TICKED:
        return
    texts = [_plain(place) for place in places]
    at = (along - left) / (right - left) * points(ax, ax.get_window_extent().width)
    needs = [5.5 * len(text) + 3 for text in texts]
    kept: list[int] = []
    # Labels at both ends, and between them those that have room.
    for k in dict.fromkeys([0, len(places) - 1, *range(len(places))]):
        if all(abs(at[k] - at[other]) > (needs[k] + needs[other]) / 2 for other in kept):
            kept.append(k)
    rest = [k for k in range(len(places)) if k not in kept]
    ax.set_xticks(places[kept], [texts[k] for k in kept])
    ax.set_xticks(places[rest], [""] * len(rest), minor=True)


def _position(x: Float[np.ndarray, " place"], names: Sequence[float]) -> Float[np.ndarray, " place"]:
    """Places on the axis: categories stand one apart."""
    return np.searchsorted(np.array(names), x).astype(float) if names else x


def _draw_baselines(ax: Axes, curves: Sequence[Series], frame: _Frame, *, named: bool = True) -> None:
    """Dotted lines, and their name at their right end, outside the axes; once where several lie together."""
    levels = {curve.label: curve.baseline for curve in curves if curve.baseline is not None}
    last = -np.inf
    for label, level in sorted(levels.items(), key=lambda item: item[1]):
        y = float(frame.height(np.array([level]))[0])
        color = INK if len(set(levels.values())) == 1 else frame.look(label)["color"]
        ax.axhline(y, color=color, lw=1, ls=":", zorder=_BAND + 0.1, gid="baseline")
        up = ax.transAxes.inverted().transform(ax.transData.transform((ax.get_xlim()[0], y)))[1]
        if named and frame.baseline and up - last > 0.09:
            place = (1.0, y), (4, 0), ax.get_yaxis_transform(), "offset points"
            ax.annotate(textwrap.fill(frame.baseline, 14), *place, va="center", size="small", linespacing=1.1)
            last = up


def _finish(ax: Axes, title: str, handles: Sequence[Line2D]) -> None:
    """The legend above the axes, the title above the legend."""
    pad = 6.0
    if handles:
        legend = _legend(ax, handles, ax.get_window_extent().width, loc="lower left", bbox_to_anchor=(0, 1))
        pad += points(ax, legend.get_window_extent().height) + 2
    if title:
        ax.set_title(title, pad=pad)


def _legend(host: Axes | Figure, handles: Sequence[Line2D], width: float, **place: Any) -> Legend:
    """A legend of as few rows as fit into a width in pixels."""
    for columns in range(len(handles), 0, -1):
        legend = host.legend(handles=handles, ncols=columns, **place)
        if columns == 1 or legend.get_window_extent().width <= width:
            break
        legend.remove()
    return legend


def _wrapped(text: str, length: float, ax: Axes) -> str:
    """An axis label in lines of a length in pixels."""
    return textwrap.fill(text, max(12, int(points(ax, length) / 4.8)))


def _label_y(ax: Axes, text: str) -> None:
    ax.set_ylabel(_wrapped(text, ax.get_window_extent().height, ax))


def _plain(number: float | Int[np.ndarray, ""] | Float[np.ndarray, ""]) -> str:
    """A number as people write it, without an exponent."""
    return np.format_float_positional(float(f"{number:.6g}"), trim="-")
