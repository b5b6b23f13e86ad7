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
from landscape.curves import Curves, Source
from landscape.errors import LandscapeError, Unsupported
from landscape.figures.pages import GREY, INK, STYLE, WIDTH, group_color, group_opacity, sheet, with_unit
from landscape.intervals import Proportion, bootstrap

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
#: Fewer values make no bootstrap interval: it would be too narrow.
_FEWEST = 5
#: Order of drawing: what is compared with, curves, then their ends; names and medians lie above.
_BEHIND, _LINES, _DOTS = 1.5, 2.0, 3.0
#: Panels side by side, and the height of a row of them in inches.
_COLUMNS, _ROW = 4, 1.55
#: A name beside a point is at most so long.
_LONGEST = 28


def walk_curves(
    ax: Axes,
    curves: Curves,
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
    group, names = _by_end(curves) if color_by is None else (color_by, names)
    group, curves = group[curves.done], curves.select(curves.done)
    _require_finite(curves)
    behind = [curves.values[name] for name in ("loss_straight",) if name in curves.values]
    floor = _floor([curves.loss, *behind]) if floor is None else floor
    loss, x = _on_axis(curves.loss, floor), _distance(curves, x)
    place = curves.alpha * {"l2": curves.l2, "l1": curves.l1, "alpha": np.ones(len(curves))}[x][:, None]
    for straight in behind:
        _draw_behind(ax, place, _on_axis(straight, floor))
    _draw(ax, curves, place, loss, group)
    if "loss_se" in curves.values and len(curves) <= _BANDS:
        for line, se in enumerate(curves.values["loss_se"]):
            low, high = (_on_axis(curves.loss[line] + sign * se, floor) for sign in (-1, 1))
            ax.fill_between(
                place[line], low, high, color=group_color(group[line]), alpha=0.25, lw=0, zorder=_LINES - 0.1
            )
    _mark_start(ax, curves, loss)
    _mark_vertices(ax, curves, loss, group)
    margin = 0.03 * np.ptp(place) or 0.5  # lines from a point to itself have no length
    ax.set_xlim(place.min() - margin, place.max() + margin)
    ax.set_xlabel(_DISTANCES[x])
    _log_axis(ax, curves.loss, floor, [curves.loss, *behind])
    ax.set_ylabel(with_unit("loss", unit or curves.attributes.get("loss_unit")))
    _name_groups(ax, group, names, independent=len(np.unique(curves.to_member)) == len(curves))
    return ax


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
    values = getattr(heights, definition)
    if not np.isfinite(values).any():
        raise LandscapeError("no line has a finite barrier: walk again between points with finite losses")
    group = np.zeros(len(values), dtype=int) if color_by is None else color_by
    floor = _floor([values]) if floor is None else floor
    labels = []
    for strip, index in enumerate(np.unique(group)):
        sample = np.sort(values[(group == index) & np.isfinite(values)])
        # Multiples of the golden ratio keep neighbours in height apart, the same way each time.
        jitter = 0.44 * ((np.arange(len(sample)) * 0.6180339887) % 1 - 0.5)
        place, opacity = strip + jitter, group_opacity(len(sample), 0.6)
        ax.scatter(place, _on_axis(sample, floor), s=9, color=group_color(index), alpha=opacity, lw=0, zorder=_DOTS)
        _mark_median(ax, strip, sample, floor, interval=heights.independent)
        labels.append(f"{names[index]}\nn = {len(sample)}" if len(names) else f"n = {len(sample)}")
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.5, len(labels) - 0.3)
    _log_axis(ax, values, floor, [values])
    ax.set_ylabel(with_unit(_BARRIERS[definition], unit))
    return ax


def walk_figure(
    panels: Sequence[Curves],
    *,
    x: Distance = "l2",
    definition: str = "above_chord",
    caption: str | None = None,
    unit: str | None = None,
) -> Figure:
    """Curves of each panel beside the heights of their barriers, all on one axis of losses, with a caption.

    Where several lines lead from orders of one start to the same end, the one with the lowest barrier is drawn, and the
    caption says so. Of walks per layer or module the full lines are drawn (see `part_figure`). Barriers of the straight
    lines stand beside those of trained curves. Without `caption` it is composed from the attributes of the curves.
    """
    if not panels:
        raise LandscapeError("a figure of walks needs curves: give at least one file")
    panels = [_full_lines(curves) for curves in panels]
    drawn = [curves.select(lowest_order(curves)) for curves in panels]
    heights = [barriers(curves) for curves in drawn]
    straight = [barriers(_straight(curves)) if "loss_straight" in curves.values else None for curves in drawn]
    text = _caption(drawn, definition) if caption is None else caption
    text += _orders_drawn([int(curves.done.sum()) // len(kept) for curves, kept in zip(panels, drawn, strict=True)])
    values = [*(curves.loss for curves in drawn), *(getattr(each, definition) for each in heights)]
    values += [curves.values["loss_straight"] for curves in drawn if "loss_straight" in curves.values]
    floor = _floor(values)
    with matplotlib.style.context(STYLE):
        figure, axes = sheet((WIDTH, 2.9 * len(drawn)), text.strip(), len(drawn), ratios=(2.9, 1))
        for curves, own, other, left, right in zip(drawn, heights, straight, axes[::2], axes[1::2], strict=True):
            walk_curves(left, curves, x=x, unit=unit, floor=floor)
            left.set_title(_title(curves), pad=19)
            group, names = _by_end(curves)
            height = own
            if other is not None:
                # The grey of the third group.
                height, group = _beside(own, other), np.append(group, np.full(len(other), 2))
                names = (*(names or ("curves", "")), "straight")
            barrier_distribution(right, height, definition=definition, color_by=group, names=names, floor=floor)
            right.set_ylabel("")
            label = with_unit(_BARRIERS[definition], unit or curves.attributes.get("loss_unit"))
            right.set_title(label.replace(" (", "\n("), weight="normal", pad=5)
            _log_axis(left, curves.loss, floor, values)
            _log_axis(right, getattr(height, definition), floor, values)
    return figure


def part_figure(curves: Curves, *, definition: str = "above_chord", caption: str | None = None) -> Figure:
    """A panel for each layer or module that moves alone, all on one scale, with the full lines in grey behind.

    Above each panel stand its name and the medians of its barriers and of the loss at the end that is mixed. Raises
    `LandscapeError` unless the curves are of lines on which parts of a network move, or if no loss is finite.
    """
    if curves.moves is None:
        raise LandscapeError("these lines move as a whole: walk with --per layer, --per module or --only for parts")
    drawn = curves.select(lowest_order(curves))
    _require_finite(drawn)
    assert drawn.moves is not None
    parts = [part for part in dict.fromkeys(drawn.moves.tolist()) if part]
    full = drawn.select(drawn.moves == "")
    floor, columns = _floor([drawn.loss]), min(_COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    held_at_end = curves.attributes.get("hold") == "end"
    mixed, at = ("start", curves.inside.start) if held_at_end else ("end", curves.inside.stop - 1)
    caption = _part_caption(drawn, full, parts, definition) if caption is None else caption
    with matplotlib.style.context(STYLE):
        # The page leaves room for a title and the names of groups.
        figure, axes = sheet((WIDTH, _ROW * rows + 0.9), caption, rows, ratios=(1,) * columns)
        for ax, part in zip(axes, parts, strict=False):
            own = drawn.select(drawn.moves == part)
            height, loss = np.median(getattr(barriers(own), definition)), np.median(own.loss[:, at])
            text = f"barrier {height:.3g}, {mixed} {loss:.3g}"
            if len(full):
                _draw_behind(ax, np.tile(full.alpha, (len(full), 1)), _on_axis(full.loss, floor))
            _draw(ax, own, np.tile(own.alpha, (len(own), 1)), _on_axis(own.loss, floor), _by_end(own)[0])
            ax.set_title(f"{part}\n", size="small", pad=2)
            ax.annotate(text, (0, 1), (0, 3), "axes fraction", "offset points", size="small")
            _log_axis(ax, drawn.loss, floor, [drawn.loss])
            ax.set_xlim(drawn.alpha.min() - 0.03, drawn.alpha.max() + 0.03)
        for number, ax in enumerate(axes):
            ax.set_visible(number < len(parts))
            ax.tick_params(axis="y", which="both", labelleft=number % columns == 0)
            if number // columns == rows - 1:
                ax.set_xlabel("alpha")
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(axis="x", labelbottom=number + columns >= len(parts))
        axes[(rows - 1) // 2 * columns].set_ylabel(with_unit("loss", curves.attributes.get("loss_unit")))
        figure.suptitle(_title(full if len(full) else drawn), x=0.012, ha="left", size="medium", weight="bold")
    return figure


def _draw(
    ax: Axes,
    curves: Curves,
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


def _distance(curves: Curves, x: Distance) -> Distance:
    """Over alpha where the path is not straight: the file has its whole length only."""
    return x if curves.via_member is None else "alpha"


def _full_lines(curves: Curves) -> Curves:
    """Of walks per layer the lines on which everything moves; else all."""
    full = np.ones(len(curves), dtype=bool) if curves.moves is None else curves.moves == ""
    return curves.select(full) if full.any() else curves


def _straight(curves: Curves) -> Curves:
    """The straight lines between the ends of trained curves."""
    return dataclasses.replace(curves, values={**curves.values, "loss": curves.values["loss_straight"]})


def _beside(one: Barriers, other: Barriers) -> Barriers:
    """Barriers of one set of lines, then those of the other."""
    names = [field.name for field in dataclasses.fields(Barriers) if field.name != "independent"]
    both = {name: np.append(getattr(one, name), getattr(other, name)) for name in names}
    return Barriers(**both, independent=one.independent and other.independent)


def _is_bezier(curves: Curves) -> bool:
    return bool(curves.attributes.get("curve", {}).get("kind") == "bezier")


def _require_finite(curves: Curves) -> None:
    if not np.isfinite(curves.loss).any():
        raise LandscapeError("none of the lines has a finite loss: walk again from and to points with finite losses")


def _by_end(curves: Curves) -> tuple[Int[np.ndarray, " line"], Sequence[str]]:
    """Lines by whether they end at a solution; one group without a name if the curves do not say."""
    # The end of a random direction is no place of its own.
    if "solved" not in curves.values or "normalise" in curves.attributes:
        return np.zeros(len(curves), dtype=int), ()
    return np.where(curves.values["solved"][:, curves.inside.stop - 1] == 1, 0, 1), ("solved", "not solved")


def _floor(values: Sequence[Float[np.ndarray, "..."]]) -> float:
    """Where zeros go on a log axis: well below the smallest positive value."""
    flat = np.concatenate([each.ravel() for each in values])
    positive = flat[(flat > 0) & np.isfinite(flat)]
    return float(10 ** (np.floor(np.log10(positive.min())) - 0.7)) if len(positive) else 0.1


def _on_axis(values: Float[np.ndarray, "..."], floor: float) -> Float[np.ndarray, "..."]:
    """Zeros on the floor; what is not finite is a gap."""
    return np.where(np.isfinite(values), np.maximum(values, floor), np.nan)


def _log_axis(
    ax: Axes, own: Float[np.ndarray, "..."], floor: float, shared: Sequence[Float[np.ndarray, "..."]]
) -> None:
    """A log axis for all `shared` values, so that axes agree; a dotted line for zeros where its `own` have any."""
    flat = np.concatenate([each.ravel() for each in shared])
    finite = flat[np.isfinite(flat)]
    low = np.log10(floor if (finite <= 0).any() else finite.min())
    high = np.log10(max(finite.max(), 10**low * 10))
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    # Labels a line's height apart from one another and from the floor's.
    labelled = [k for k in decades[:: 1 + len(decades) // 8] if k - low > 0.07 * (high - low) or low > np.log10(floor)]
    ticks = {10.0**k: f"$10^{{{k:.0f}}}$" for k in labelled}
    for old in [line for line in ax.lines if line.get_gid() == "floor"]:
        old.remove()
    if (own <= 0).any():
        ax.axhline(floor, color=INK, lw=0.8, ls=":", zorder=1, gid="floor")
        ticks[floor] = "≤ 0" if (own < 0).any() else "0"
    ax.set_yscale("log")
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_yticks(10.0**decades, [""] * len(decades), minor=True)
    ax.set_ylim(10**low / 1.7, 10**high * 1.7)


def _orders_drawn(orders: Sequence[int]) -> str:
    """Which of the equivalent orders of filters are drawn, and in which panels, if that is not the one stored."""
    if max(orders) == 1:
        return ""
    where = [f"panel {number}" for number, count in enumerate(orders, start=1) if count > 1]
    places = "" if len(where) == len(orders) else f"In {' and '.join(where)}, of "
    text = f"{places or 'Of '}{max(orders)} filter orders of the start, the line with the lower barrier is drawn"
    return f" {text}; elsewhere the order is the stored one." if places else f" {text}."


def _starts(curves: Curves) -> list[Source]:
    """The start of each line, whatever the order of its units, which only the label says."""
    return [dataclasses.replace(curves.sources[member], order="") for member in curves.from_member]


def _start(curves: Curves) -> str:
    """The start by its full name, as far as the file knows it."""
    place = curves.attributes.get("from")
    if place is None:
        return curves.sources[curves.from_member[0]].label if len(set(_starts(curves))) == 1 else "each start"
    return str(curves.attributes.get("landmarks", {}).get(place, place))


def _mark_start(ax: Axes, curves: Curves, loss: Float[np.ndarray, "line point"]) -> None:
    """A star and a name, if all lines start at one point."""
    at = (0.0, float(loss[0, curves.inside.start]))
    if len(set(_starts(curves))) == 1 and np.isfinite(at[1]):
        ax.plot(*at, marker="*", ms=10, color=INK, mec="white", mew=0.6, ls="", zorder=5, gid="start")
        # Below the star, where few lines pass, unless that is outside.
        offset, side = ((4, 4), "bottom") if at[1] <= 3 * np.nanmin(loss) else ((3, -6), "top")
        name = _start(curves)
        if len(name) > _LONGEST:
            *_, above, last = ["", *name.rstrip("/").split("/")]
            name = f"{above}/{last}" if last.startswith(("@", "#")) else last
        ax.annotate(name, at, offset, textcoords="offset points", va=side, size="small", zorder=5)


def _mark_vertices(
    ax: Axes, curves: Curves, loss: Float[np.ndarray, "line point"], group: Int[np.ndarray, " line"]
) -> None:
    """A diamond at each vertex between the ends; a Bézier curve does not lead through its bends."""
    if curves.via_member is None or _is_bezier(curves):
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
        text = f"{names[index]}: {share.count}"
        # Of two groups the second share follows from the first.
        if not handles:
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
    if interval and len(sample) >= _FEWEST:
        low, high = _on_axis(bootstrap(sample), floor)
        ax.plot([strip, strip], [low, high], color=INK, lw=3, alpha=0.75, solid_capstyle="butt", zorder=4)
    text, place = f"{np.median(sample):#.3g}".rstrip("."), (strip + 0.28, middle)
    ax.annotate(text, place, (2, 0), textcoords="offset points", va="center", size="small", zorder=5)


def _title(curves: Curves) -> str:
    """The problem and how many lines there are; they are seeds where each leads to one of its own."""
    ends = np.unique(curves.to_member)
    directions = "normalise" in curves.attributes
    seeds = not directions and len(ends) == len(curves) and all(curves.sources[end].seed is not None for end in ends)
    what = "seeds" if seeds else "directions" if directions else "curves" if "curve" in curves.attributes else "lines"
    count = f"{len(curves)} {what}"
    return f"{curves.attributes['title']}: {count}" if "title" in curves.attributes else count


def _caption(panels: Sequence[Curves], definition: str) -> str:
    """What is drawn, in sentences, from what the files say of themselves."""
    points = " and ".join(dict.fromkeys(str(len(curves.alpha)) for curves in panels))
    solved = any("solved" in curves.values and "normalise" not in curves.attributes for curves in panels)
    solved_text = " Solved: the end gets every sample right." if solved else ""
    matched = any(curves.attributes.get("orders") == "matched" for curves in panels)
    order = " Each start has the order of its filters that lies closest to the end." if matched else ""
    formula = DEFINITIONS[definition].replace(" - ", "\N{NO-BREAK SPACE}-\N{NO-BREAK SPACE}")
    return (
        f"{_loss(panels)} {_lines_drawn(panels)}, {points} points a line.{order}{solved_text} Right: the barrier of "
        f"each line, {formula}; bars: median and its 95 % bootstrap interval. A barrier's height depends on which "
        "representative of a solution the line starts from and ends at."
    )


def _part_caption(drawn: Curves, full: Curves, parts: Sequence[str], definition: str) -> str:
    """What is drawn in a figure with a panel for each part."""
    told = drawn.attributes
    grey = " Grey: the full lines, on which everything moves." if len(full) else ""
    solved = " Blue: the end gets every sample right; orange: not." if "solved" in drawn.values else ""
    hold, mixed = ("end", "start") if told.get("hold") == "end" else ("start", "end")
    ends = f"{_start(drawn)} (alpha 0) to {told.get('to', 'each end')} (alpha 1)"
    count = f"{len(drawn) // (len(parts) + bool(len(full)))} lines a panel, {len(drawn.alpha)} points a line"
    return (
        f"{_loss([drawn])} on the straight lines from {ends}, on which only the {told.get('per', 'part')} above the "
        f"panel moves and the rest is held at the {hold}; {count}.{grey}{solved} Above the panels, medians over lines: "
        f"the barrier, {DEFINITIONS[definition]}, and the loss at the {mixed}, where the network is mixed."
    )


def _loss(panels: Sequence[Curves]) -> str:
    """Which loss is drawn."""
    sampled = {curves.attributes.get("samples", "some") for curves in panels if "loss_se" in curves.values}
    return f"Loss on {' and '.join(sorted(map(str, sampled)))} samples" if sampled else "Exact loss"


def _lines_drawn(panels: Sequence[Curves]) -> str:
    """Which lines lead where; said once for all panels that say the same."""
    return "; and ".join(dict.fromkeys(_course(list(group)) for group in _same_kind(panels)))


def _same_kind(panels: Sequence[Curves]) -> list[list[Curves]]:
    """Panels whose lines are of one kind, together."""
    kinds: dict[str, list[Curves]] = {}
    keys = ("via", "curve", "only", "hold", "normalise")
    for curves in panels:
        kinds.setdefault(str([curves.attributes.get(key) for key in keys]), []).append(curves)
    return list(kinds.values())


def _course(panels: Sequence[Curves]) -> str:
    """Where the lines of panels of one kind lead."""
    told = panels[0].attributes
    starts = " and ".join(dict.fromkeys(_start(curves) for curves in panels))
    star = " (star)" if all(len(set(_starts(curves))) == 1 for curves in panels) else ""
    if "normalise" in told:
        return f"on the straight lines from {starts}{star} {_DIRECTIONS[told['normalise']]} (dot: alpha 1)"
    if "curve" in told:
        curve = told["curve"]
        bends = f"{curve['bends']} bend{'s' if curve['bends'] > 1 else ''}"
        kind = f"Bézier curves with {bends}" if curve["kind"] == "bezier" else f"chains with {bends} (diamonds)"
        return (
            f"on {kind} from {starts}{star} to each end (dot), trained to a low mean loss in {curve['steps']} steps of "
            "Adam, and on the straight lines (grey)"
        )
    if "via" in told:
        names = [str(told.get("landmarks", {}).get(place, place)) for place in told["via"]]
        return f"on straight segments from {starts}{star} via {', '.join(names)} (diamonds) to each end (dot)"
    moving = ""
    if "only" in told:
        moving = f", on which only {', '.join(told['only'])} move and the rest is held at the {told['hold']}"
    return f"on the straight lines in parameter space from {starts}{star} to each end (dot){moving}"
