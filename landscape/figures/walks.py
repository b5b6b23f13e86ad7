"""Curves along lines, and the barriers on them."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from landscape.analysis.barriers import DEFINITIONS, Barriers, barriers, lowest_order, representatives
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import FEWEST, Proportion, fewest, median_interval, together
from landscape.figures import captions
from landscape.figures.names import Name, name_points
from landscape.figures.pages import (
    GREY,
    INK,
    SCREEN,
    WIDTH,
    Style,
    figure_of,
    group_color,
    group_opacity,
    literal,
    sheet,
    with_unit,
)
from landscape.figures.scales import floor_below, log_axis, on_axis
from landscape.store.results import Result

__all__ = ["Draw", "barrier_distribution", "by_end", "noticeable", "part_figure", "walk_curves", "walk_figure"]

Distance = Literal["l2", "l1", "alpha"]
#: The group of each line, and the names of the groups, which may have none.
Groups = tuple[Int[np.ndarray, " line"], Sequence[str]]
#: Each line by itself, or quantiles of all; auto: of many.
Draw = Literal["auto", "lines", "bands"]
#: Values over the points of lines.
Points = Float[np.ndarray, "line point"]
_DISTANCES = {
    "l2": "distance from the start in parameter space (L2 norm)",
    "l1": "distance from the start in parameter space (L1 norm)",
    "alpha": "alpha (0: start, 1: end of the line)",
}
#: Standard errors are drawn as bands around at most this many lines.
_BANDS = 10
#: Order of drawing: what is compared with, curves, then their ends; names and medians lie above.
_BEHIND, _LINES, _DOTS = 1.5, 2.0, 3.0
#: Panels side by side, and the height of a row of them in inches.
_COLUMNS, _ROW = 4, 1.55
#: Barriers below this share of the loss are rounding.
_ROUNDING = 1e-12
#: Lines, and dots of a strip, of which more are drawn evenly thinned; medians are those of all.
_MOST = 2000
#: Lines of which more are drawn as bands, and of a group of them at least so many, so that a tail is a line.
_MANY, _FEWEST_BANDED = 100, 20
#: Shares of the lines below the edges of bands, outermost first, and the median.
_EDGES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
#: What a caption says of bands.
_BANDED = (
    f" Where there are many lines, groups of {_FEWEST_BANDED} and more are drawn over alpha: their median, and the "
    "ranges of their middle 50 % and 90 %, at each alpha by itself."
)
#: A name beside a point is at most so long.
_LONGEST = 28


@literal
def walk_curves(
    ax: Axes,
    curves: Result,
    *,
    x: Distance = "l2",
    color_by: Int[np.ndarray, " line"] | None = None,
    names: Sequence[str] = (),
    unit: str | None = None,
    floor: float | None = None,
    draw: Draw = "auto",
) -> Axes:
    """Loss (log axis) along each finished line, over the distance from its start in parameter space, or over alpha.

    Paths that are not straight are drawn over alpha, whatever `x` says; diamonds mark the vertices they lead through,
    and behind trained curves the loss on the straight lines lies in grey.
    Coloured by whether the line's end is solved, where the curves say so, or by `color_by`, indices into `names`; small
    groups lie in front. Exact zeros lie on a dotted line at `floor`; what is not finite leaves a gap. Up to 10 lines of
    sampled losses have a band of one standard error, of lines to a stated accuracy that of 95 %.

    Of more than 100 lines, or where `draw` says `bands`, each group of 20 and more is drawn over alpha as its median,
    and the ranges of its middle 50 % and 90 %, at each alpha by itself. Raises `LandscapeError` if no loss is finite.
    """
    groups = by_end(curves) if color_by is None else (color_by, names)
    ends = _draw_walk(ax, curves, groups, x=x, unit=unit, floor=floor, banded=_banded(curves, draw))
    name_points(ax, ends, _drawn_lines(ax))
    return ax


@literal
def barrier_distribution(
    ax: Axes,
    heights: Barriers,
    *,
    definition: str = "above_chord",
    color_by: Int[np.ndarray, " line"] | None = None,
    names: Sequence[str] = (),
    unit: str | None = None,
    floor: float | None = None,
) -> Axes:
    """The barrier of each line as a dot on a vertical log axis, which the losses of `walk_curves` can share.

    A strip a group, with its median and, from 6 lines on, the median's interval, all of them with 95 % at once; none
    where lines share ends and so are not independent. A line without a barrier lies at `floor`; infinite ones count in
    the median, and stand with those that are NaN below the strip. Raises `Unsupported` for an unknown definition,
    `LandscapeError` if no barrier is finite.
    """
    values = noticeable(heights, definition)
    groups = (np.zeros(len(values), dtype=int) if color_by is None else color_by, names)
    count = intervals_of([groups[0]]) if heights.independent else 0
    _draw_heights(ax, values, groups, floor, confidence=together(count) if count else None)
    ax.set_ylabel(with_unit(DEFINITIONS[definition].label, unit))
    return ax


def _banded(curves: Result, draw: Draw) -> bool:
    return draw == "bands" or (draw == "auto" and int(curves.done.sum()) > _MANY)


def _thinned(count: int) -> Int[np.ndarray, " line"]:
    """Numbers of the lines that are drawn."""
    return np.linspace(0, count - 1, min(count, _MOST)).astype(np.int64)


def intervals_of(groups: Sequence[Int[np.ndarray, " _"]]) -> int:
    """How many groups of lines have as many as the interval of a median needs."""
    return sum(int(count >= FEWEST) for group in groups for count in np.bincount(group))


def _draw_heights(
    ax: Axes, values: Float[np.ndarray, " line"], groups: Groups, floor: float | None, *, confidence: float | None
) -> None:
    """Strips; the intervals of their medians each with a coverage, if there are to be any."""
    if not np.isfinite(values).any():
        raise LandscapeError("no line has a finite barrier: walk again between points with finite losses")
    (group, names), labels = groups, []
    floor = floor_below([values]) if floor is None else floor
    for strip, index in enumerate(np.unique(group)):
        of = values[group == index]
        every = np.sort(of[~np.isnan(of)])
        finite = every[np.isfinite(every)]
        sample = finite[_thinned(len(finite))]
        # Multiples of the golden ratio keep neighbours in height apart, the same way each time.
        jitter = 0.44 * ((np.arange(len(sample)) * 0.6180339887) % 1 - 0.5)
        place, opacity = strip + jitter, group_opacity(len(sample), 0.6)
        ax.scatter(place, on_axis(sample, floor), s=9, color=group_color(index), alpha=opacity, lw=0, zorder=_DOTS)
        _mark_median(ax, strip, every, floor, confidence=confidence)
        counts = {"inf": len(every) - len(finite), "NaN": len(of) - len(every)}
        label = f"n = {len(every)}" + "".join(f"\n{number} {name}" for name, number in counts.items() if number)
        labels.append(f"{names[index]}\n{label}" if len(names) else label)
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.5, len(labels) - 0.3)
    log_axis(ax, values, floor, [values])


def walk_figure(
    panels: Sequence[Result],
    *,
    x: Distance = "l2",
    definition: str = "above_chord",
    caption: str | None = None,
    unit: str | None = None,
    draw: Draw = "auto",
    style: Style = SCREEN,
) -> Figure:
    """Curves of each panel beside the heights of their barriers, all on one axis of losses, with a caption.

    Where several lines lead from orders of one start to the same end, the one with the lowest barrier is drawn, and the
    caption says so. Of walks per layer or module the full lines are drawn (see `part_figure`). Barriers of the straight
    lines stand beside those of trained curves. Where each panel has one line, its barrier is marked on it.
    Many lines are drawn as bands, as `draw` says (see `walk_curves`). Without `caption` it is composed from the
    attributes of the curves.
    """
    if not panels:
        raise LandscapeError("a figure of walks needs curves: give at least one file")
    whole = [curves.select(full) if (full := curves.moves == "").any() else curves for curves in panels]
    panels = [curves.select(lowest_order(curves)) for curves in whole]
    # Of each panel: barriers along its lines and, of trained curves, along the straight ones.
    heights = [
        [barriers(dataclasses.replace(curves, values={"loss": loss})) for loss in _losses(curves)] for curves in panels
    ]
    groups = [by_end(curves) for curves in panels]
    alone = all(len(curves) == 1 for curves in panels)
    banded = [_banded(curves, draw) for curves in panels]
    few = [
        (curves.select(some), some)
        for curves, all_of_them in zip(panels, banded, strict=True)
        for some in [np.arange(len(curves)) if all_of_them else _thinned(len(curves))]
    ]
    shared = [loss for curves, _ in few for loss in _losses(curves)]
    if not alone:
        shared += [noticeable(own, definition) for own, *_ in heights]
    floor = floor_below(shared)
    # Strips of curves have those of the straight lines beside them.
    drawn = [(group, own[0].independent) for (group, _), own in zip(groups, heights, strict=True) for _ in own]
    confidence = together(intervals_of([group for group, independent in drawn if independent]))
    if caption is None:
        some = any(noticeable(own, definition)[0] > 0 for own, *_ in heights)
        strips = [(int(np.bincount(group).max()), independent) for group, independent in drawn]
        caption = captions.walk_caption(panels, definition, barrier=some, bars=_bars(strips, confidence))
    caption += captions.orders_caption(
        [int(every.done.sum()) // len(kept) for every, kept in zip(whole, panels, strict=True)]
    )
    caption += captions.unfinished_caption([curves.unfinished for curves in whole])
    caption += captions.courses_caption(
        [
            {name: barriers(each) for name, each in kinds.items()} if len(kinds) > 1 else dict.fromkeys(kinds, own)
            for curves, (own, *_) in zip(panels, heights, strict=True)
            for kinds in [representatives(curves)]
        ],
        definition,
    )
    drawn_values = [loss for curves in panels for loss in (*_losses(curves), *_tests(curves))]
    drawn_values += [] if alone else [noticeable(each, definition) for own in heights for each in own]
    caption += captions.zeros_caption(drawn_values)
    if any(banded):
        caption += _BANDED
    if all(banded):
        caption = caption.replace(" (dot)", "")  # lines have one, at their ends
    if any(len(curves) > _MOST and not of for curves, of in zip(panels, banded, strict=True)):
        caption += f" Of more than {_MOST} lines so many are drawn, evenly spaced; medians are those of all."
    ratios = (1,) if alone else (2.9, 1)
    size, count = (WIDTH, 2.9 * len(panels)), len(panels) * len(ratios)
    with sheet(size, caption.strip(), count, ratios, style=style) as (figure, axes):
        named = []
        for row, curves in enumerate(panels):
            left, *right = axes[row * len(ratios) : (row + 1) * len(ratios)]
            shown, index = few[row]
            of = groups[row][0][index], groups[row][1]
            ends = _draw_walk(left, shown, of, x=x, unit=unit, floor=floor, banded=banded[row])
            named.append((left, ends))
            log_axis(left, shown.loss, floor, shared)
            left.set_title(captions.walk_title(curves), pad=19)
            if alone:
                _mark_barrier(left, curves, heights[row], definition, floor, x=x, unit=unit)
                continue
            group, names = groups[row]
            values = [noticeable(each, definition) for each in heights[row]]
            if len(values) > 1:  # the straight lines in the grey of the third group
                aligned = "aligned" in curves.columns
                straight = ("straight, aligned", "straight, stored") if aligned else ("straight",)
                group = np.append(group, group + 2 if aligned else np.full(len(group), 2))
                names = (*(names or ("curves", "")), *straight)
            told = confidence if heights[row][0].independent else None
            _draw_heights(right[0], np.concatenate(values), (group, names), floor, confidence=told)
            log_axis(right[0], np.concatenate(values), floor, shared)
            label = with_unit(DEFINITIONS[definition].label, unit or curves.about.get("loss_unit"))
            right[0].set_title(textwrap.fill(label, 24), weight="normal", pad=5)
        for left, ends in named:
            name_points(left, ends, _drawn_lines(left))
    return figure


def _bars(strips: Sequence[tuple[int, bool]], confidence: float) -> str:
    """What is drawn of the medians of barriers, of strips with so many lines, independent or not."""
    if any(independent and size >= fewest(confidence) for size, independent in strips):
        return "; bars: median and its interval, all of them with 95 % at once"
    return "; bars: median" if max(strips)[0] > 1 else ""


def part_figure(
    curves: Result,
    *,
    definition: str = "above_chord",
    caption: str | None = None,
    draw: Draw = "auto",
    style: Style = SCREEN,
) -> Figure:
    """A panel for each layer or module that moves alone, all on one scale, with the full lines in grey behind.

    Above each panel stand its name and the medians of its barriers and of the loss at the end that is mixed. Raises
    `LandscapeError` unless the curves are of lines on which parts of a network move, or if no loss is finite.
    """
    if not any(curves.moves):
        raise LandscapeError('these lines move as a whole: walk with `per="layer"`, `per="module"` or `only` for parts')
    drawn = curves.select(lowest_order(curves))
    _require_finite(drawn)
    parts = [part for part in dict.fromkeys(drawn.moves.tolist()) if part]
    full = drawn.select(drawn.moves == "")
    floor, columns = floor_below([drawn.loss]), _columns(len(parts), style.fit(_COLUMNS))
    rows = -(-len(parts) // columns)
    held_at_end = curves.about.get("hold") == "end"
    mixed, at = ("start", curves.inside.start) if held_at_end else ("end", curves.inside.stop - 1)
    heights = [barriers(drawn.select(drawn.moves == part)) for part in parts]
    if caption is None:
        others = [found.summary()["above_higher_end"]["median"] for found in heights]
        caption = captions.part_caption(drawn, parts, definition, full=len(full) > 0, others=others)
        caption += captions.zeros_caption([drawn.loss]) + captions.unfinished_caption([curves.unfinished])
        if any(_banded(drawn.select(drawn.moves == part), draw) for part in parts):
            caption += _BANDED
    # The page leaves room for a title and the names of groups.
    with sheet((WIDTH, _ROW * rows + 0.9), caption, len(parts), (1,) * columns, style=style) as (figure, axes):
        for number, (ax, part) in enumerate(zip(axes, parts, strict=True)):
            own = drawn.select(drawn.moves == part)
            known = noticeable(heights[number], definition)
            lost, known = int(np.isnan(known).sum()), known[~np.isnan(known)]
            height, loss = np.median(known) if len(known) else np.nan, np.median(own.loss[:, at])
            text = f"barrier {height:.3g}, {mixed} {loss:.3g}" + (f", {lost} NaN" if lost else "")
            if len(full):
                _draw_behind(ax, _places(full, "alpha"), on_axis(full.loss, floor))
            _draw_lines(ax, own, _places(own, "alpha"), floor, by_end(own)[0], banded=_banded(own, draw))
            ax.set_title(f"{part}\n", size="small", pad=2)
            ax.annotate(text, (0, 1), (0, 3), "axes fraction", "offset points", size="small")
            log_axis(ax, drawn.loss, floor, [drawn.loss])
            ax.set_xlim(drawn.alpha.min() - 0.03, drawn.alpha.max() + 0.03)
            lowest, first = number + columns >= len(parts), number % columns == 0
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(axis="x", labelbottom=lowest)
            ax.tick_params(axis="y", which="both", labelleft=first)
            ax.set_xlabel("alpha" if lowest else "")
            label = with_unit("loss", curves.about.get("loss_unit"))
            ax.set_ylabel(label.replace(" (", "\n(") if first else "")
        figure.suptitle(
            captions.walk_title(full if len(full) else drawn), x=0.012, ha="left", size="medium", weight="bold"
        )
    return figure


def _columns(panels: int, most: int) -> int:
    """As many side by side as leave the fewest holes in the last row."""
    if panels <= most:
        return panels
    return min((most, max(1, most - 1)), key=lambda columns: -panels % columns)


def _draw_walk(
    ax: Axes, curves: Result, groups: Groups, *, x: Distance, unit: str | None, floor: float | None, banded: bool
) -> list[Name]:
    """All of `walk_curves` but the names of the ends, which are returned."""
    group, curves = groups[0][curves.done], curves.select(curves.done)
    _require_finite(curves)
    losses = _losses(curves)
    tests = _tests(curves)
    floor = floor_below([*losses, *tests]) if floor is None else floor
    loss, *behind = (on_axis(each, floor) for each in losses)
    x = "alpha" if banded else _distance(curves, x)
    place = _places(curves, x)
    for straight in behind:
        _draw_behind(ax, place, straight)
    _draw_lines(ax, curves, place, floor, group, banded=banded)
    for test in tests:
        segments, colors = list(np.stack([place, on_axis(test, floor)], axis=-1)), [group_color(each) for each in group]
        opacity = group_opacity(len(segments))
        look: dict[str, Any] = {
            "alpha": opacity,
            "linewidths": 0.9,
            "linestyles": "--",
            "zorder": _LINES,
            "gid": "test",
        }
        ax.add_collection(LineCollection(segments, colors=colors, **look), autolim=False)
    band = next((name for name in ("loss_error", "loss_se") if name in curves.values), None)
    if band is not None and len(curves) <= _BANDS:
        for line, half in enumerate(curves.values[band]):
            low, high = (on_axis(np.maximum(curves.loss[line] + sign * half, 0), floor) for sign in (-1, 1))
            ax.fill_between(
                place[line], low, high, color=group_color(group[line]), alpha=0.25, lw=0, zorder=_LINES - 0.1
            )
    ends = _mark_ends(ax, curves, place, loss)
    if not banded:
        _mark_vertices(ax, curves, loss, group)
    margin = 0.03 * np.ptp(place) or 0.5  # lines from a point to itself have no length
    ax.set_xlim(place.min() - margin, place.max() + margin)
    ax.set_xlabel(_DISTANCES[x])
    log_axis(ax, curves.loss, floor, [*losses, *tests])
    ax.set_ylabel(with_unit("loss", unit or curves.about.get("loss_unit")))
    independent = len(np.unique(curves["to_member"])) == len(curves)
    _name_groups(ax, group, groups[1], independent=independent, shares="aligned" not in curves.columns)
    return ends


def _draw_lines(
    ax: Axes, curves: Result, place: Points, floor: float, group: Int[np.ndarray, " line"], *, banded: bool
) -> None:
    """Each line in the colour of its group, small groups in front, with a dot at its end; `banded` large groups as
    bands.
    """
    end, loss = curves.inside.stop - 1, on_axis(curves.loss, floor)
    index, counts = np.unique(group, return_counts=True)
    for rank, i in enumerate(np.argsort(-counts, kind="stable")):
        of, color = group == index[i], group_color(index[i])
        if banded and counts[i] >= _FEWEST_BANDED:
            low, lower, middle, upper, high = on_axis(_quantiles(curves.loss[of]), floor)
            look: dict[str, Any] = {"color": color, "lw": 0, "zorder": _LINES + 0.1 * rank}
            ax.fill_between(curves.alpha, low, high, alpha=0.15, gid="90 %", **look)
            ax.fill_between(curves.alpha, lower, upper, alpha=0.3, gid="50 %", **look)
            ax.plot(curves.alpha, middle, **{**look, "lw": 1.4}, gid="median")
            continue
        segments = list(np.stack([place[of], loss[of]], axis=-1))
        opacity, order = group_opacity(counts[i]), _LINES + 0.1 * rank
        lines = LineCollection(segments, colors=color, alpha=opacity, linewidths=0.9, zorder=order)
        ax.add_collection(lines, autolim=False)
        ax.scatter(place[of, end], loss[of, end], s=7, color=color, alpha=max(opacity, 0.5), lw=0, zorder=_DOTS)


def _quantiles(loss: Points) -> Float[np.ndarray, "edge point"]:
    """At each point the smallest values that so many lines do not exceed; infinite ones count, NaN do not."""
    known = (~np.isnan(loss)).sum(0)
    rank = np.maximum(np.ceil(_EDGES[:, None] * known).astype(np.int64) - 1, 0)
    return np.take_along_axis(np.sort(loss, axis=0), rank, axis=0)  # NaN come last


def _draw_behind(ax: Axes, place: Points, loss: Points) -> None:
    """Lines to compare with, in grey."""
    segments = list(np.stack([place, loss], axis=-1))
    opacity = group_opacity(len(segments), 0.6)
    lines = LineCollection(segments, colors=GREY, alpha=opacity, linewidths=0.8, zorder=_BEHIND, gid="behind")
    ax.add_collection(lines, autolim=False)


def _losses(curves: Result) -> list[Points]:
    """The loss along the lines and, behind trained curves, along the straight ones."""
    return [curves.values[name] for name in ("loss", "loss_straight") if name in curves.values]


def _distance(curves: Result, x: Distance) -> Distance:
    """Over alpha where the path is not straight: the file has its whole length only."""
    return "alpha" if curves.via_member.shape[1] else x


def _tests(curves: Result) -> list[Points]:
    """Losses on the test data, where they are known."""
    return [curves["test_loss"]] if "test_loss" in curves.values else []


def _places(curves: Result, x: Distance) -> Points:
    """How far each point is from the start of its line."""
    lengths = np.ones(len(curves)) if x == "alpha" else curves[x]
    return np.asarray(curves.alpha * lengths[:, None])


def noticeable(heights: Barriers, definition: str) -> Float[np.ndarray, " line"]:
    """Heights of barriers; what rounding makes of a line without one is 0, or a log axis would reach down to it."""
    if definition not in DEFINITIONS:
        raise Unsupported(f"there is no barrier '{definition}': choose {', '.join(DEFINITIONS)}")
    values = heights.heights[definition]
    rounding = np.isfinite(values) & (np.abs(values) <= _ROUNDING * np.abs(heights.peak_loss))
    return np.where(rounding, 0.0, values)


def _require_finite(curves: Result) -> None:
    if not np.isfinite(curves.loss).any():
        raise LandscapeError("none of the lines has a finite loss: walk again from and to points with finite losses")


def by_end(curves: Result) -> Groups:
    """Lines by whether their end is a representative that was chosen, else whether it is a solution; one group without
    a name if the curves do not say.
    """
    if (
        "aligned" in curves.columns
    ):  # in the colours of their own ranks: those to representatives are what is looked for
        return np.where(curves["aligned"], 0, 1), ("aligned", "stored")
    # The end of a random direction is no place of its own.
    if "solved" not in curves.values or "normalise" in curves.about:
        return np.zeros(len(curves), dtype=int), ()
    return np.where(curves.values["solved"][:, curves.inside.stop - 1] == 1, 0, 1), ("solved", "not solved")


def _mark_ends(ax: Axes, curves: Result, place: Points, loss: Points) -> list[Name]:
    """A star at the start if all lines have the same; the names of it and of the end, where it is one dot."""
    names: list[Name] = []
    first, last = curves.inside.start, curves.inside.stop - 1
    at = (0.0, float(loss[0, first]))
    if len(set(captions.starts_of(curves))) == 1 and np.isfinite(at[1]):
        ax.plot(*at, marker="*", ms=10, color=INK, mec="white", mew=0.6, ls="", zorder=5, gid="start")
        names.append((at, _brief(captions.start_of(curves)), True))
    at = (float(place[0, last]), float(loss[0, last]))
    if (end := captions.end_of(curves)) != "each end" and np.ptp(place[:, last]) == 0 and np.isfinite(at[1]):
        names.append((at, _brief(end), True))
    return names


def _brief(name: str) -> str:
    """Of a long path the end."""
    if len(name) <= _LONGEST:
        return name
    *_, above, last = ["", *name.rstrip("/").split("/")]
    return f"{above}/{last}" if last.startswith(("@", "#")) else last


def _drawn_lines(ax: Axes) -> list[Float[np.ndarray, "point 2"]]:
    return [
        np.asarray(path.vertices)
        for each in ax.collections
        if isinstance(each, LineCollection)
        for path in each.get_paths()
    ]


def _mark_barrier(
    ax: Axes,
    curves: Result,
    heights: Sequence[Barriers],
    definition: str,
    floor: float,
    *,
    x: Distance,
    unit: str | None,
) -> None:
    """On a single line its barrier, as a bar from what it is measured from to the peak; above the axes what it is."""
    height, *straight = (float(noticeable(each, definition)[0]) for each in heights)
    alpha, loss = curves.alpha[curves.inside], curves.loss[0, curves.inside]
    unit = unit or curves.about.get("loss_unit") or ""
    text = f"no {DEFINITIONS[definition].label}"
    if height == np.inf:
        text = f"{DEFINITIONS[definition].label}: infinite, at alpha {heights[0].peak_alpha[0]:.3g}"
    elif height > 0:
        rises = DEFINITIONS[definition].rises(alpha, loss[None])[0]
        top = int(np.argmax(rises))
        at = _places(curves, _distance(curves, x))[0, curves.inside][top]
        segment = on_axis(np.array([loss[top] - rises[top], loss[top]]), floor)
        ax.plot([at, at], segment, color=INK, lw=0.9, ls=(0, (1, 1.5)), zorder=_BEHIND, gid="barrier")
        text = f"{DEFINITIONS[definition].label}: {f'{height:.3g} {unit}'.rstrip()} at alpha {alpha[top]:.3g}"
        other = "above_higher_end" if definition != "above_higher_end" else "above_chord"
        if loss[0] != loss[-1] and not straight:  # there is one line of room
            text += f" ({DEFINITIONS[other].label.removeprefix('barrier ')}: {noticeable(heights[0], other)[0]:.3g})"
    elif np.isnan(height):
        text += ": a loss on the line is NaN, or one at its ends infinite"
    if straight:
        text += f"; of the straight line {straight[0]:.3g}"
    if legend := ax.get_legend():
        text += f"; the end is {legend.get_texts()[0].get_text()}"
        legend.remove()
    ax.annotate(text, (0, 1), (0, 5), "axes fraction", "offset points", size="small", gid="height")


def _mark_vertices(ax: Axes, curves: Result, loss: Points, group: Int[np.ndarray, " line"]) -> None:
    """A diamond at each vertex between the ends; a Bézier curve does not lead through its bends, and where the lowest
    of several paths was kept each line has vertices of its own.
    """
    curve = curves.about.get("curve", {})
    if (curve.get("method") or curve.get("kind")) in ("bezier", "auto"):
        return
    segments = curves.via_member.shape[1] + 1
    for vertex in range(1, segments):
        at = int(np.flatnonzero(curves.alpha == vertex / segments)[0])
        for index in np.unique(group):
            of = group == index
            ax.plot(
                *(np.full(of.sum(), curves.alpha[at]), loss[of, at]),
                marker="D",
                ms=3.5,
                mfc="white",
                mec=group_color(index),
                mew=0.9,
                ls="",
                alpha=max(group_opacity(int(of.sum())), 0.5),
                zorder=_DOTS,
                gid="vertex",
            )


def _name_groups(
    ax: Axes, group: Int[np.ndarray, " line"], names: Sequence[str], *, independent: bool, shares: bool
) -> None:
    """Each group with its share of the lines, if they are `shares`, above the axes, where no line can run through it;
    with an interval if the lines are independent.
    """
    handles: list[Line2D] = []
    for index in np.unique(group) if len(names) else ():
        share = Proportion(int((group == index).sum()), len(group))
        low, high = (100 * bound for bound in share.interval)
        # What a single line is needs no share.
        text = f"{names[index]}: {share.count}" if share.total > 1 and shares else names[index]
        # Of two groups the second share follows from the first.
        if not handles and share.total > 1 and shares:
            text += f" of {share.total}" + (f" (95 % interval {low:.1f} to {high:.1f} %)" if independent else "")
        handles.append(Line2D([], [], color=group_color(index), lw=2, label=text))
    if not handles:
        return
    for _ in range(2):
        legend = ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles))
        legend.set_in_layout(False)
        if legend.get_window_extent().width <= figure_of(ax).bbox.width - ax.get_window_extent().x0:
            return
        handles[0].set_label(str(handles[0].get_label()).partition(" (")[0])  # there is no room for the interval


def _mark_median(
    ax: Axes, strip: int, sample: Float[np.ndarray, " line"], floor: float, *, confidence: float | None
) -> None:
    """A bar at the median, its value beside it, its interval behind it, which reaches no higher than the lines."""
    if len(sample) < 2 or np.isinf(np.median(sample)):
        return
    middle = max(float(np.median(sample)), floor)
    ax.plot([strip - 0.28, strip + 0.28], [middle, middle], color=INK, lw=1.6, solid_capstyle="butt", zorder=5)
    if confidence is not None:
        low, high = np.maximum(median_interval(sample, confidence), floor)
        high = sample[np.isfinite(sample)].max() if np.isinf(high) else high
        ax.plot([strip, strip], [low, high], color=INK, lw=3, alpha=0.75, solid_capstyle="butt", zorder=4)
    text, place = f"{np.median(sample):#.3g}".rstrip("."), (strip + 0.28, middle)
    ax.annotate(text, place, (2, 0), textcoords="offset points", va="center", size="small", zorder=5)
