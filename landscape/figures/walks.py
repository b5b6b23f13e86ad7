"""Curves along lines, and the barriers on them."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import matplotlib.style
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from landscape.analysis.barriers import DEFINITIONS, Barriers, barriers, lowest_order
from landscape.core.errors import LandscapeError, Unsupported, plural
from landscape.core.intervals import FEWEST, Proportion, bootstrap
from landscape.core.provenance import Source
from landscape.figures.captions import computed
from landscape.figures.names import name_points
from landscape.figures.pages import GREY, INK, STYLE, WIDTH, group_color, group_opacity, sheet, with_unit
from landscape.figures.scales import floor_below, log_axis, on_axis
from landscape.store.results import Result

__all__ = ["barrier_distribution", "part_figure", "walk_curves", "walk_figure"]

Distance = Literal["l2", "l1", "alpha"]
#: Definitions of barriers as axis labels.
_BARRIERS = {
    "above_chord": "barrier above the chord",
    "above_mean": "barrier above the mean of the ends",
    "above_higher_end": "barrier above the higher end",
}
_DISTANCES = {
    "l2": "distance from the start in parameter space (L2 norm)",
    "l1": "distance from the start in parameter space (L1 norm)",
    "alpha": "alpha (0: start, 1: end of the line)",
}
#: Random directions by how they are normalised.
_DIRECTIONS = {
    "filter": "in random directions, each filter as long as that of the network",
    "layer": "in random directions, each layer as long as that of the network",
    "none": "in random directions, standard normal in each parameter",
}
#: Standard errors are drawn as bands around at most this many lines.
_BANDS = 10
#: Order of drawing: what is compared with, curves, then their ends; names and medians lie above.
_BEHIND, _LINES, _DOTS = 1.5, 2.0, 3.0
#: Panels side by side, and the height of a row of them in inches.
_COLUMNS, _ROW = 4, 1.55
#: Barriers below this share of the loss are rounding.
_ROUNDING = 1e-12
#: A name beside a point is at most so long.
_LONGEST = 28


def walk_curves(
    ax: Axes,
    curves: Result,
    *,
    x: Distance = "l2",
    color_by: Int[np.ndarray, " line"] | None = None,
    names: Sequence[str] = (),
    unit: str | None = None,
    floor: float | None = None,
) -> Axes:
    """Loss (log axis) along each finished line, over the distance from its start in parameter space, or over alpha.

    Paths that are not straight are drawn over alpha, whatever `x` says; diamonds mark the vertices they lead through,
    and behind trained curves the loss on the straight lines lies in grey.
    Coloured by whether the line's end is solved, where the curves say so, or by `color_by`, indices into `names`; small
    groups lie in front. Exact zeros lie on a dotted line at `floor`; what is not finite leaves a gap. Up to 10 lines of
    sampled losses have a band of one standard error. Raises `LandscapeError` if no loss is finite.
    """
    ends = _draw_walk(ax, curves, x=x, color_by=color_by, names=names, unit=unit, floor=floor)
    name_points(ax, ends, _drawn_lines(ax))
    return ax


def _draw_walk(
    ax: Axes,
    curves: Result,
    *,
    x: Distance,
    color_by: Int[np.ndarray, " line"] | None = None,
    names: Sequence[str] = (),
    unit: str | None,
    floor: float | None,
) -> list[tuple[tuple[float, float], str]]:
    """All of `walk_curves` but the names of the ends, which are returned with their places."""
    group, names = _by_end(curves) if color_by is None else (color_by, names)
    group, curves = group[curves.done], curves.select(curves.done)
    _require_finite(curves)
    behind = [curves.values[name] for name in ("loss_straight",) if name in curves.values]
    floor = floor_below([curves.loss, *behind]) if floor is None else floor
    loss, x = on_axis(curves.loss, floor), _distance(curves, x)
    place = curves.alpha * {"l2": curves["l2"], "l1": curves["l1"], "alpha": np.ones(len(curves))}[x][:, None]
    for straight in behind:
        _draw_behind(ax, place, on_axis(straight, floor))
    _draw(ax, curves, place, loss, group)
    if "loss_se" in curves.values and len(curves) <= _BANDS:
        for line, se in enumerate(curves.values["loss_se"]):
            low, high = (on_axis(curves.loss[line] + sign * se, floor) for sign in (-1, 1))
            ax.fill_between(
                place[line], low, high, color=group_color(group[line]), alpha=0.25, lw=0, zorder=_LINES - 0.1
            )
    ends = _mark_ends(ax, curves, place, loss)
    _mark_vertices(ax, curves, loss, group)
    margin = 0.03 * np.ptp(place) or 0.5  # lines from a point to itself have no length
    ax.set_xlim(place.min() - margin, place.max() + margin)
    ax.set_xlabel(_DISTANCES[x])
    log_axis(ax, curves.loss, floor, [curves.loss, *behind])
    ax.set_ylabel(with_unit("loss", unit or curves.about.get("loss_unit")))
    _name_groups(ax, group, names, independent=len(np.unique(curves["to_member"])) == len(curves))
    return ends


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

    A strip a group, with its median and, from 5 lines on, the median's 95 % bootstrap interval; no interval without
    `interval`, where lines share ends and so are not independent. A line without a barrier lies at `floor`.
    Raises `Unsupported` for an unknown definition, `LandscapeError` if no barrier is finite.
    """
    if definition not in DEFINITIONS:
        raise Unsupported(f"there is no barrier '{definition}': choose {', '.join(DEFINITIONS)}")
    values = _noticeable(heights, definition)
    if not np.isfinite(values).any():
        raise LandscapeError("no line has a finite barrier: walk again between points with finite losses")
    group = np.zeros(len(values), dtype=int) if color_by is None else color_by
    floor = floor_below([values]) if floor is None else floor
    labels = []
    for strip, index in enumerate(np.unique(group)):
        sample = np.sort(values[(group == index) & np.isfinite(values)])
        # Multiples of the golden ratio keep neighbours in height apart, the same way each time.
        jitter = 0.44 * ((np.arange(len(sample)) * 0.6180339887) % 1 - 0.5)
        place, opacity = strip + jitter, group_opacity(len(sample), 0.6)
        ax.scatter(place, on_axis(sample, floor), s=9, color=group_color(index), alpha=opacity, lw=0, zorder=_DOTS)
        _mark_median(ax, strip, sample, floor, interval=heights.independent)
        labels.append(f"{names[index]}\nn = {len(sample)}" if len(names) else f"n = {len(sample)}")
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.5, len(labels) - 0.3)
    log_axis(ax, values, floor, [values])
    ax.set_ylabel(with_unit(_BARRIERS[definition], unit))
    return ax


def walk_figure(
    panels: Sequence[Result],
    *,
    x: Distance = "l2",
    definition: str = "above_chord",
    caption: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Curves of each panel beside the heights of their barriers, all on one axis of losses, with a caption.

    Where several lines lead from orders of one start to the same end, the one with the lowest barrier is drawn, and the
    caption says so. Of walks per layer or module the full lines are drawn (see `part_figure`). Barriers of the straight
    lines stand beside those of trained curves. Where each panel has one line, its barrier is marked on it.
    Without `caption` it is composed from the attributes of the curves.
    """
    if not panels:
        raise LandscapeError("a figure of walks needs curves: give at least one file")
    panels = [_full_lines(curves) for curves in panels]
    drawn = [curves.select(lowest_order(curves)) for curves in panels]
    heights = [barriers(curves) for curves in drawn]
    straight = [barriers(_straight(curves)) if "loss_straight" in curves.values else None for curves in drawn]
    text = _caption(drawn, definition) if caption is None else caption
    text += _orders_drawn([int(curves.done.sum()) // len(kept) for curves, kept in zip(panels, drawn, strict=True)])
    alone = all(len(curves) == 1 for curves in drawn)
    values = [curves.loss for curves in drawn]
    values += [curves.values["loss_straight"] for curves in drawn if "loss_straight" in curves.values]
    if not alone:
        values += [_noticeable(each, definition) for each in heights]
    floor = floor_below(values)
    with matplotlib.style.context(STYLE):
        ratios = (1,) if alone else (2.9, 1)
        figure, axes = sheet((WIDTH, 2.9 * len(drawn)), text.strip(), len(drawn), ratios=ratios)
        named = []
        for row, (curves, own, other) in enumerate(zip(drawn, heights, straight, strict=True)):
            left, *beside = axes[row * len(ratios) : (row + 1) * len(ratios)]
            named.append((left, _draw_walk(left, curves, x=x, unit=unit, floor=floor)))
            left.set_title(_title(curves), pad=19)
            log_axis(left, curves.loss, floor, values)
            if alone:
                _mark_barrier(left, curves, own, other, definition, floor, x=x, unit=unit)
            for right in beside:
                group, names = _by_end(curves)
                height = own
                if other is not None:
                    # The grey of the third group.
                    height, group = _beside(own, other), np.append(group, np.full(len(other), 2))
                    names = (*(names or ("curves", "")), "straight")
                barrier_distribution(right, height, definition=definition, color_by=group, names=names, floor=floor)
                right.set_ylabel("")
                label = with_unit(_BARRIERS[definition], unit or curves.about.get("loss_unit"))
                right.set_title(label.replace(" (", "\n("), weight="normal", pad=5)
                log_axis(right, _noticeable(height, definition), floor, values)
        for left, ends in named:
            name_points(left, ends, _drawn_lines(left))
    return figure


def part_figure(curves: Result, *, definition: str = "above_chord", caption: str | None = None) -> Figure:
    """A panel for each layer or module that moves alone, all on one scale, with the full lines in grey behind.

    Above each panel stand its name and the medians of its barriers and of the loss at the end that is mixed. Raises
    `LandscapeError` unless the curves are of lines on which parts of a network move, or if no loss is finite.
    """
    if "moves" not in curves.columns:
        raise LandscapeError("these lines move as a whole: walk with --per layer, --per module or --only for parts")
    drawn = curves.select(lowest_order(curves))
    _require_finite(drawn)
    parts = [part for part in dict.fromkeys(drawn.moves.tolist()) if part]
    full = drawn.select(drawn.moves == "")
    floor, columns = floor_below([drawn.loss]), _columns(len(parts))
    rows = -(-len(parts) // columns)
    held_at_end = curves.about.get("hold") == "end"
    mixed, at = ("start", curves.inside.start) if held_at_end else ("end", curves.inside.stop - 1)
    caption = _part_caption(drawn, full, parts, definition) if caption is None else caption
    with matplotlib.style.context(STYLE):
        # The page leaves room for a title and the names of groups.
        figure, axes = sheet((WIDTH, _ROW * rows + 0.9), caption, rows, ratios=(1,) * columns)
        for ax in axes[len(parts) :]:
            ax.remove()
        axes = axes[: len(parts)]
        for ax, part in zip(axes, parts, strict=True):
            own = drawn.select(drawn.moves == part)
            height, loss = np.median(_noticeable(barriers(own), definition)), np.median(own.loss[:, at])
            text = f"barrier {height:.3g}, {mixed} {loss:.3g}"
            if len(full):
                _draw_behind(ax, np.tile(full.alpha, (len(full), 1)), on_axis(full.loss, floor))
            _draw(ax, own, np.tile(own.alpha, (len(own), 1)), on_axis(own.loss, floor), _by_end(own)[0])
            ax.set_title(f"{part}\n", size="small", pad=2)
            ax.annotate(text, (0, 1), (0, 3), "axes fraction", "offset points", size="small")
            log_axis(ax, drawn.loss, floor, [drawn.loss])
            ax.set_xlim(drawn.alpha.min() - 0.03, drawn.alpha.max() + 0.03)
        for number, ax in enumerate(axes):
            lowest, first = number + columns >= len(parts), number % columns == 0
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(axis="x", labelbottom=lowest)
            ax.tick_params(axis="y", which="both", labelleft=first)
            ax.set_xlabel("alpha" if lowest else "")
            label = with_unit("loss", curves.about.get("loss_unit"))
            ax.set_ylabel(label.replace(" (", "\n(") if first else "")
        figure.suptitle(_title(full if len(full) else drawn), x=0.012, ha="left", size="medium", weight="bold")
    return figure


def _columns(panels: int) -> int:
    """As many side by side as leave the fewest holes in the last row."""
    if panels <= _COLUMNS:
        return panels
    return min((_COLUMNS, _COLUMNS - 1), key=lambda columns: -panels % columns)


def _draw(
    ax: Axes,
    curves: Result,
    place: Float[np.ndarray, "line point"],
    loss: Float[np.ndarray, "line point"],
    group: Int[np.ndarray, " line"],
) -> None:
    """Each line in the colour of its group, small groups in front, with a dot at its end."""
    end = curves.inside.stop - 1
    index, counts = np.unique(group, return_counts=True)
    for rank, i in enumerate(np.argsort(-counts, kind="stable")):
        of, color = group == index[i], group_color(index[i])
        segments = list(np.stack([place[of], loss[of]], axis=-1))
        opacity, order = group_opacity(counts[i]), _LINES + 0.1 * rank
        lines = LineCollection(segments, colors=color, alpha=opacity, linewidths=0.9, zorder=order)
        ax.add_collection(lines, autolim=False)
        ax.scatter(place[of, end], loss[of, end], s=7, color=color, alpha=max(opacity, 0.5), lw=0, zorder=_DOTS)


def _draw_behind(ax: Axes, place: Float[np.ndarray, "line point"], loss: Float[np.ndarray, "line point"]) -> None:
    """Lines to compare with, in grey."""
    segments = list(np.stack([place, loss], axis=-1))
    opacity = group_opacity(len(segments), 0.6)
    lines = LineCollection(segments, colors=GREY, alpha=opacity, linewidths=0.8, zorder=_BEHIND, gid="behind")
    ax.add_collection(lines, autolim=False)


def _distance(curves: Result, x: Distance) -> Distance:
    """Over alpha where the path is not straight: the file has its whole length only."""
    return x if "via_member" not in curves.columns else "alpha"


def _full_lines(curves: Result) -> Result:
    """Of walks per layer the lines on which everything moves; else all."""
    full = curves.moves == ""
    return curves.select(full) if full.any() else curves


def _straight(curves: Result) -> Result:
    """The straight lines between the ends of trained curves."""
    return dataclasses.replace(curves, values={**curves.values, "loss": curves.values["loss_straight"]})


def _beside(one: Barriers, other: Barriers) -> Barriers:
    """Barriers of one set of lines, then those of the other."""
    names = [field.name for field in dataclasses.fields(Barriers) if field.name != "independent"]
    both = {name: np.append(getattr(one, name), getattr(other, name)) for name in names}
    return Barriers(**both, independent=one.independent and other.independent)


def _noticeable(heights: Barriers, definition: str) -> Float[np.ndarray, " line"]:
    """Heights of barriers; what rounding makes of a line without one is 0, or a log axis would reach down to it."""
    values = getattr(heights, definition)
    return np.where(np.abs(values) <= _ROUNDING * np.abs(heights.peak_loss), 0.0, values)


def _is_bezier(curves: Result) -> bool:
    return bool(curves.about.get("curve", {}).get("kind") == "bezier")


def _require_finite(curves: Result) -> None:
    if not np.isfinite(curves.loss).any():
        raise LandscapeError("none of the lines has a finite loss: walk again from and to points with finite losses")


def _by_end(curves: Result) -> tuple[Int[np.ndarray, " line"], Sequence[str]]:
    """Lines by whether they end at a solution; one group without a name if the curves do not say."""
    # The end of a random direction is no place of its own.
    if "solved" not in curves.values or "normalise" in curves.about:
        return np.zeros(len(curves), dtype=int), ()
    return np.where(curves.values["solved"][:, curves.inside.stop - 1] == 1, 0, 1), ("solved", "not solved")


def _orders_drawn(orders: Sequence[int]) -> str:
    """Which of the equivalent orders of filters are drawn, and in which panels, if that is not the one stored."""
    if max(orders) == 1:
        return ""
    where = [f"panel {number}" for number, count in enumerate(orders, start=1) if count > 1]
    places = "" if len(where) == len(orders) else f"In {' and '.join(where)}, of "
    text = f"{places or 'Of '}{max(orders)} filter orders of the start, the line with the lower barrier is drawn"
    return f" {text}; elsewhere the order is the stored one." if places else f" {text}."


def _starts(curves: Result) -> list[Source]:
    """The start of each line, whatever the order of its units, which only the label says."""
    return [dataclasses.replace(curves.sources[member], order="") for member in curves["from_member"]]


def _start(curves: Result) -> str:
    """The start by its full name, as far as the file knows it."""
    place = curves.about.get("from")
    if place is None:
        return curves.sources[curves["from_member"][0]].label if len(set(_starts(curves))) == 1 else "each start"
    return str(curves.about.get("landmarks", {}).get(place, place))


def _end(curves: Result) -> str:
    """The end by its full name, if all lines have the same."""
    if "normalise" in curves.about or len({curves.sources[member] for member in curves["to_member"]}) > 1:
        return "each end"
    place = curves.about.get("to", curves.sources[curves["to_member"][0]].label)
    return str(curves.about.get("landmarks", {}).get(place, place))


def _mark_ends(
    ax: Axes, curves: Result, place: Float[np.ndarray, "line point"], loss: Float[np.ndarray, "line point"]
) -> list[tuple[tuple[float, float], str]]:
    """A star at the start if all lines have the same; the names of it and of the end, where it is one dot."""
    names, first, last = [], curves.inside.start, curves.inside.stop - 1
    at = (0.0, float(loss[0, first]))
    if len(set(_starts(curves))) == 1 and np.isfinite(at[1]):
        ax.plot(*at, marker="*", ms=10, color=INK, mec="white", mew=0.6, ls="", zorder=5, gid="start")
        names.append((at, _brief(_start(curves))))
    at = (float(place[0, last]), float(loss[0, last]))
    if (end := _end(curves)) != "each end" and np.ptp(place[:, last]) == 0 and np.isfinite(at[1]):
        names.append((at, _brief(end)))
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
    own: Barriers,
    straight: Barriers | None,
    definition: str,
    floor: float,
    *,
    x: Distance,
    unit: str | None,
) -> None:
    """On a single line its barrier, as a bar from what it is measured from to the peak; above the axes what it is."""
    height = float(_noticeable(own, definition)[0])
    alpha, loss = curves.alpha[curves.inside], curves.loss[0, curves.inside]
    unit = unit or curves.about.get("loss_unit") or ""
    text = f"no {_BARRIERS[definition]}"
    if height > 0:
        base = {
            "above_chord": (1 - alpha) * loss[0] + alpha * loss[-1],
            "above_mean": np.full_like(loss, (loss[0] + loss[-1]) / 2),
            "above_higher_end": np.full_like(loss, max(loss[0], loss[-1])),
        }[definition]
        top = int(np.argmax(loss - base))
        at = alpha[top] * {"l2": curves["l2"][0], "l1": curves["l1"][0], "alpha": 1.0}[_distance(curves, x)]
        segment = on_axis(np.array([base[top], loss[top]]), floor)
        ax.plot([at, at], segment, color=INK, lw=0.9, ls=(0, (1, 1.5)), zorder=_BEHIND, gid="barrier")
        text = f"{_BARRIERS[definition]}: {f'{height:.3g} {unit}'.rstrip()} at alpha {alpha[top]:.3g}"
    elif np.isnan(height):
        text += ": not every loss on the line is finite"
    if straight is not None:
        text += f"; of the straight line {float(getattr(straight, definition)[0]):.3g}"
    if legend := ax.get_legend():
        text += f"; the end is {legend.get_texts()[0].get_text()}"
        legend.remove()
    ax.annotate(text, (0, 1), (0, 5), "axes fraction", "offset points", size="small", gid="height")


def _mark_vertices(
    ax: Axes, curves: Result, loss: Float[np.ndarray, "line point"], group: Int[np.ndarray, " line"]
) -> None:
    """A diamond at each vertex between the ends; a Bézier curve does not lead through its bends."""
    if "via_member" not in curves.columns or _is_bezier(curves):
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


def _name_groups(ax: Axes, group: Int[np.ndarray, " line"], names: Sequence[str], *, independent: bool) -> None:
    """Each group with its share of the lines, above the axes, where no line can run through it; with an interval if the
    lines are independent.
    """
    handles: list[Line2D] = []
    for index in np.unique(group) if len(names) else ():
        share = Proportion(int((group == index).sum()), len(group))
        low, high = (100 * bound for bound in share.interval)
        # What a single line is needs no share.
        text = f"{names[index]}: {share.count}" if share.total > 1 else names[index]
        # Of two groups the second share follows from the first.
        if not handles and share.total > 1:
            text += f" of {share.total}" + (f" (95 % interval {low:.1f} to {high:.1f} %)" if independent else "")
        handles.append(Line2D([], [], color=group_color(index), lw=2, label=text))
    if handles:
        legend = ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles))
        legend.set_in_layout(False)


def _mark_median(ax: Axes, strip: int, sample: Float[np.ndarray, " line"], floor: float, *, interval: bool) -> None:
    """A bar at the median, its value beside it, its bootstrap interval behind it."""
    if len(sample) < 2:
        return
    middle = max(float(np.median(sample)), floor)
    ax.plot([strip - 0.28, strip + 0.28], [middle, middle], color=INK, lw=1.6, solid_capstyle="butt", zorder=5)
    if interval and len(sample) >= FEWEST:
        low, high = on_axis(bootstrap(sample), floor)
        ax.plot([strip, strip], [low, high], color=INK, lw=3, alpha=0.75, solid_capstyle="butt", zorder=4)
    text, place = f"{np.median(sample):#.3g}".rstrip("."), (strip + 0.28, middle)
    ax.annotate(text, place, (2, 0), textcoords="offset points", va="center", size="small", zorder=5)


def _title(curves: Result) -> str:
    """The problem and how many lines there are; they are seeds where each leads to one of its own."""
    ends = np.unique(curves["to_member"])
    directions = "normalise" in curves.about
    seeds = not directions and len(ends) == len(curves) and all(curves.sources[end].seed is not None for end in ends)
    what = "seed" if seeds else "direction" if directions else "curve" if "curve" in curves.about else "line"
    count = plural(len(curves), what)
    return f"{curves.about['title']}: {count}" if "title" in curves.about else count


def _caption(panels: Sequence[Result], definition: str) -> str:
    """What is drawn, in sentences, from what the files say of themselves."""
    points = " and ".join(dict.fromkeys(str(len(curves.alpha)) for curves in panels))
    solved = any("solved" in curves.values and "normalise" not in curves.about for curves in panels)
    matched = any(curves.about.get("orders") == "matched" for curves in panels)
    formula = DEFINITIONS[definition].replace(" - ", "\N{NO-BREAK SPACE}-\N{NO-BREAK SPACE}")
    each = "" if all(len(curves) == 1 for curves in panels) else " a line"
    if not each:
        some = any(_noticeable(barriers(curves), definition)[0] > 0 for curves in panels)
        barrier = f"Dotted: the barrier, {formula}." if some else f"The barrier is {formula}."
    else:
        medians = _medians(panels)
        barrier = f"Right: the barrier of each line, {formula}{'; ' if medians else ''}{medians}."
    sentences = [
        f"{_loss(panels)} {_lines_drawn(panels)}, {points} points{each}.",
        computed([curves.about for curves in panels]),
        "Each start has the order of its filters that lies closest to the end." if matched else "",
        "Solved: the end gets every sample right." if solved else "",
        barrier,
        "A barrier's height depends on which representative of a solution the line starts from and ends at.",
    ]
    return " ".join(filter(None, sentences))


def _medians(panels: Sequence[Result]) -> str:
    """What is drawn of the medians of barriers."""
    most, independent = 0, 0
    for curves in panels:
        count = int(np.unique(_by_end(curves)[0], return_counts=True)[1].max())
        most = max(most, count)
        if barriers(curves).independent:
            independent = max(independent, count)
    if independent >= FEWEST:
        return "bars: median and its 95 % bootstrap interval"
    return "bars: median" if most > 1 else ""


def _part_caption(drawn: Result, full: Result, parts: Sequence[str], definition: str) -> str:
    """What is drawn in a figure with a panel for each part."""
    told, count = drawn.about, len(drawn) // (len(parts) + bool(len(full)))
    hold, mixed = ("end", "start") if told.get("hold") == "end" else ("start", "end")
    line = "line" if count == 1 else "lines"
    sentences = [
        f"{_loss([drawn])} on the straight {line} from {_start(drawn)} (alpha 0) to {told.get('to', 'each end')} "
        f"(alpha 1), on which only the {told.get('per', 'part')} above the panel moves and the rest is held at the "
        f"{hold}; {plural(count, 'line')} a panel, {len(drawn.alpha)} points a line.",
        computed([told]),
        f"Grey: the full {line}, on which everything moves." if len(full) else "",
        "Blue: the end gets every sample right; orange: not." if "solved" in drawn.values else "",
        f"Above the panels{'' if count == 1 else ', medians over lines'}: the barrier, {DEFINITIONS[definition]}, and "
        f"the loss at the {mixed}, where the network is mixed.",
    ]
    return " ".join(filter(None, sentences))


def _loss(panels: Sequence[Result]) -> str:
    """Which loss is drawn."""
    sampled = {curves.about.get("samples") for curves in panels if "loss_se" in curves.values}
    counts = [f"{count:,}" if count else "some" for count in sorted(sampled, key=lambda count: count or 0)]
    exact = "Exact loss" if any("loss_se" not in curves.values for curves in panels) else ""
    if not sampled:
        return exact
    return f"{'Exact loss, and loss' if exact else 'Loss'} on {' and '.join(counts)} samples"


def _lines_drawn(panels: Sequence[Result]) -> str:
    """Which lines lead where; said once for all panels that say the same."""
    return "; and ".join(dict.fromkeys(_course(list(group)) for group in _same_kind(panels)))


def _same_kind(panels: Sequence[Result]) -> list[list[Result]]:
    """Panels whose lines are of one kind, together."""
    kinds: dict[str, list[Result]] = {}
    keys = ("via", "curve", "only", "hold", "normalise")
    for curves in panels:
        kinds.setdefault(str([curves.about.get(key) for key in keys]), []).append(curves)
    return list(kinds.values())


def _course(panels: Sequence[Result]) -> str:
    """Where the lines of panels of one kind lead."""
    told = panels[0].about
    starts = " and ".join(dict.fromkeys(_start(curves) for curves in panels))
    star = " (star)" if all(len(set(_starts(curves))) == 1 for curves in panels) else ""
    ends = " and ".join(dict.fromkeys(_end(curves) for curves in panels))
    single = len(panels) == len(panels[0]) == 1
    line, a = ("line", "a ") if single else ("lines", "")
    if "normalise" in told:
        return f"on the straight {line} from {starts}{star} {_DIRECTIONS[told['normalise']]} (dot: alpha 1)"
    if "curve" in told:
        curve = told["curve"]
        bends = plural(curve["bends"], "bend")
        bezier, few = curve["kind"] == "bezier", single and curve["bends"] == 1
        marks = "" if bezier else " (diamond)" if few else " (diamonds)"
        kind = ("Bézier curve" if bezier else "chain") + ("" if single else "s")
        return (
            f"on {a}{kind} with {bends}{marks} from {starts}{star} to {ends} (dot), trained "
            f"to a low mean loss in {curve['steps']} steps of Adam, and on the straight {line} (grey)"
        )
    if "via" in told:
        names = [str(told.get("landmarks", {}).get(place, place)) for place in told["via"]]
        marks = "diamond" if single and len(names) == 1 else "diamonds"
        return f"on straight segments from {starts}{star} via {', '.join(names)} ({marks}) to {ends} (dot)"
    moving = ""
    if "only" in told:
        moving = f", on which only {', '.join(told['only'])} move and the rest is held at the {told['hold']}"
    return f"on the straight {line} in parameter space from {starts}{star} to {ends} (dot){moving}"
