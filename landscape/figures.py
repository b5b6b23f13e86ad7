"""Figures of curves, barriers, outcomes, clusters and rules. A function draws into `ax` and returns it.

Nothing here touches pyplot's global state: `page` and `walk_figure` make figures, `save` writes them.
"""

import dataclasses
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.style
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from scipy.cluster import hierarchy

from landscape.analysis.barriers import DEFINITIONS, Barriers, barriers, lowest_per_end
from landscape.curves import Curves, Source
from landscape.errors import LandscapeError, Unsupported
from landscape.files import replacing
from landscape.intervals import Proportion, bootstrap

if TYPE_CHECKING:
    from landscape.analysis.clusters import Clusters
    from landscape.analysis.outcomes import Outcomes
else:
    # Their modules import torch, which a figure does not need.
    Clusters = Outcomes = Any

__all__ = [
    "COLORS",
    "barrier_distribution",
    "dendrogram",
    "outcomes",
    "page",
    "rule_examples",
    "save",
    "walk_curves",
    "walk_figure",
]

Distance = Literal["l2", "l1", "alpha"]

#: Colours of groups (M. Okabe, K. Ito, 2008), solved first; neighbours differ in grey too.
COLORS = ("#0072B2", "#E69F00", "#888888", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")

#: Colours by kind of outcome; the same kinds of ends have the same colours in every figure.
_KINDS = dict(zip(("solved", "partly right", "constant"), COLORS, strict=False))

_STYLE = Path(__file__).with_name("landscape.mplstyle")
_INK, _GREY, _FAINT = "#222222", "#888888", "#BBBBBB"
_WIDTH = 7.2

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

#: Standard errors are drawn as bands around at most this many lines.
_BANDS = 10
#: Fewer values make no bootstrap interval: it would be too narrow.
_FEWEST = 5
#: Curves of more points than this in one figure are pictures in its SVG: as paths they would take more than 300 kB.
_VECTOR_POINTS = 10_500
#: Order of drawing: curves, then their ends; names and medians lie above.
_LINES, _DOTS = 2.0, 3.0
#: Members beyond which a dendrogram shows only its last merges.
_LEAVES = 100


def page(draw: Callable[[Axes], object], *, size: tuple[float, float] = (_WIDTH, 3.6), caption: str = "") -> Figure:
    """A figure of one axes, drawn by `draw`, in the project's style; `size` in inches, to which the caption adds."""
    with matplotlib.style.context(_STYLE):
        figure, (ax,) = _sheet(size, caption, 1)
        draw(ax)
    return figure


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

    Coloured by whether the line's end is solved, where the curves say so, or by `color_by`, indices into `names`; small
    groups lie in front. Exact zeros lie on a dotted line at `floor`; what is not finite leaves a gap. Up to 10 lines of
    sampled losses have a band of one standard error. Raises `LandscapeError` if no loss is finite.
    """
    group, names = _by_end(curves) if color_by is None else (color_by, names)
    group, curves = group[curves.done], curves.select(curves.done)
    if not np.isfinite(curves.loss).any():
        raise LandscapeError("none of the lines has a finite loss: walk again from and to points with finite losses")
    floor = _floor([curves.loss]) if floor is None else floor
    loss, end = _on_axis(curves.loss, floor), curves.inside.stop - 1
    place = curves.alpha * {"l2": curves.l2, "l1": curves.l1, "alpha": np.ones(len(curves))}[x][:, None]
    index, counts = np.unique(group, return_counts=True)
    for rank, i in enumerate(np.argsort(-counts, kind="stable")):
        of, color = group == index[i], _color(index[i])
        segments = list(np.stack([place[of], loss[of]], axis=-1))
        opacity, order = _opacity(counts[i]), _LINES + 0.1 * rank
        lines = LineCollection(segments, colors=color, alpha=opacity, linewidths=0.9, zorder=order)
        ax.add_collection(lines, autolim=False)
        ax.scatter(place[of, end], loss[of, end], s=7, color=color, alpha=max(opacity, 0.5), lw=0, zorder=_DOTS)
    if "loss_se" in curves.values and len(curves) <= _BANDS:
        for line, se in enumerate(curves.values["loss_se"]):
            low, high = (_on_axis(curves.loss[line] + sign * se, floor) for sign in (-1, 1))
            ax.fill_between(place[line], low, high, color=_color(group[line]), alpha=0.25, lw=0, zorder=_LINES - 0.1)
    _mark_start(ax, curves, loss)
    margin = 0.03 * np.ptp(place)
    ax.set_xlim(place.min() - margin, place.max() + margin)
    ax.set_xlabel(_DISTANCES[x])
    _log_axis(ax, curves.loss, floor, [curves.loss])
    ax.set_ylabel(_with_unit("loss", unit or curves.attributes.get("loss_unit")))
    _name_groups(ax, group, names)
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
    interval: bool = True,
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
        place, opacity = strip + jitter, _opacity(len(sample), 0.6)
        ax.scatter(place, _on_axis(sample, floor), s=9, color=_color(index), alpha=opacity, lw=0, zorder=_DOTS)
        _mark_median(ax, strip, sample, floor, interval=interval)
        labels.append(f"{names[index]}\nn = {len(sample)}" if len(names) else f"n = {len(sample)}")
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.5, len(labels) - 0.3)
    _log_axis(ax, values, floor, [values])
    ax.set_ylabel(_with_unit(_BARRIERS[definition], unit))
    return ax


def outcomes(ax: Axes, results: Outcomes, *, most: int = 8, samples: str = "patterns") -> Axes:
    """Share of members (%, with Wilson's interval) that ended at each truth table, the largest first.

    Coloured by kind; beyond `most` tables the rest is one bar. `samples` is what a table has a row for.
    """
    rows = [
        (f"{group.kind}, {group.right} of {results.total}", group.share, _KINDS.get(group.kind, _GREY))
        for group in results.groups[:most]
    ]
    if rest := results.groups[most:]:
        share = Proportion(sum(group.share.count for group in rest), len(results.kind))
        rows.append((f"{len(rest)} more table{'s' if len(rest) > 1 else ''}", share, _FAINT))
    for y, (_, share, color) in enumerate(rows):
        low, high = (100 * bound for bound in share.interval)
        ax.barh(y, 100 * share.value, height=0.7, color=color, alpha=0.85)
        ax.errorbar((low + high) / 2, y, xerr=(high - low) / 2, color=_INK, lw=1.2, capsize=2.5)
        ax.annotate(f"n = {share.count}", (high, y), (6, 0), textcoords="offset points", va="center", size="small")
    ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(len(rows), 4) - 0.4, -0.6)
    ax.set_xlim(0, 112 * max(share.interval[1] for _, share, _ in rows))
    ax.set_xlabel(f"share of {len(results.kind)} networks (%), with 95 % interval")
    ax.set_ylabel(f"truth table: {samples} right")
    return ax


def dendrogram(
    ax: Axes, tree: Clusters, *, names: Sequence[str] = (), solved: int | None = None, most: int = 5
) -> Axes:
    """The tree of members over the distance at which they merge, its cut, and below it the truth table of each leaf.

    Beyond 100 members a leaf is a branch, and its column shows the shares of the tables in it. The `most` largest
    tables have colours and are called by `names`; that of the solution, `solved`, has the colour it has elsewhere.
    """
    members, counts = len(tree.label), np.bincount(tree.group)
    kept = members if members <= _LEAVES else min(members, max(50, len(tree.sizes)))
    drawn = hierarchy.dendrogram(tree.tree, no_plot=True, truncate_mode="lastp", p=kept)
    leaves = drawn["leaves"] or []
    branches = [np.stack(branch, axis=1) for branch in zip(drawn["icoord"], drawn["dcoord"], strict=True)]
    inks = [_INK if branch[:, 1].max() <= tree.cut else _GREY for branch in branches]
    ax.add_collection(LineCollection(branches, colors=inks, linewidths=0.8), autolim=False)
    others = iter([*COLORS[1:], *[_GREY] * most])
    colors = [COLORS[0] if table == solved else next(others) for table in range(min(most, len(counts)))] + [_FAINT]
    top = 1.06 * tree.tree[:, 2].max()
    _table_columns(ax, tree, leaves, colors, top)
    ax.axhline(tree.cut, color=_INK, lw=1, ls=(0, (4, 3)), zorder=1)
    cut = f"cut at {tree.cut:.3g}: {len(tree.sizes)} clusters"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    at = (10.0 * len(leaves), tree.cut)
    ax.annotate(cut, at, (-2, 3), textcoords="offset points", ha="right", size="small", bbox=box)
    ax.set_xlim(0, 10 * len(leaves))
    ax.set_ylim(-0.13 * top, top)
    ax.set_xticks([])
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= top])
    ax.spines["left"].set_bounds(0, top)
    ax.spines["bottom"].set_visible(False)
    ax.set_ylabel("L2 distance at the merge")
    ax.set_xlabel(f"{members} networks{f' in {kept} branches' if kept < members else ''}; bottom: their truth tables")
    titles = [*names, *(f"table {table + 1}" for table in range(len(names), len(counts)))]
    keys = [(color, f"{title} (n = {n})") for color, title, n in zip(colors[:-1], titles, counts, strict=False)]
    if len(counts) > most:
        keys.append((_FAINT, f"{len(counts) - most} more (n = {counts[most:].sum()})"))
    handles = [Patch(color=color, label=label) for color, label in keys]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def rule_examples(
    ax: Axes,
    patterns: Int[np.ndarray, "pattern 3 3"],
    answers: Bool[np.ndarray, " pattern"],
    neighbours: Int[np.ndarray, "3 3"],
) -> Axes:
    """Patches by whether their centre (framed) is live in the next generation: an example of each case.

    A case is a state of the centre and a number of live neighbours. Live cells are dark; hatched ones, where
    `neighbours` is 0, do not count.
    """
    live = (patterns * neighbours).sum(axis=(1, 2))
    for row, answer in enumerate((True, False)):
        cases = {(-patterns[k, 1, 1], live[k]): k for k in np.flatnonzero(answers == answer)[::-1]}
        for column, case in enumerate(sorted(cases)):
            _tile(ax, patterns[cases[case]], neighbours, 4 * column, 5 * row)
            ax.text(4 * column + 1.5, 5 * row + 3.9, f"{case[1]}", ha="center", va="baseline", size="small")
        ax.text(-0.8, 5 * row + 1.5, "live next" if answer else "dead next", ha="right", va="center")
        ax.text(-0.8, 5 * row + 3.9, "live neighbours", ha="right", va="baseline", size="small")
        ax.update_datalim([(-1, 0), (4 * len(cases) - 1, 9)])
    ax.autoscale_view()
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.set_axis_off()
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
    caption says so. Without `caption` it is composed from the attributes of the curves.
    """
    chosen = [_one_order(curves.select(curves.done)) for curves in panels]
    if not chosen:
        raise LandscapeError("a figure of walks needs curves: give at least one file")
    drawn = [curves for curves, _ in chosen]
    heights = [barriers(curves) for curves in drawn]
    text = _caption(drawn, definition) if caption is None else caption
    if (orders := max(count for _, count in chosen)) > 1:
        text += f" Of {orders} filter orders of the start, the line with the lowest barrier is drawn."
    values = [*(curves.loss for curves in drawn), *(getattr(each, definition) for each in heights)]
    floor = _floor(values)
    with matplotlib.style.context(_STYLE):
        figure, axes = _sheet((_WIDTH, 2.9 * len(drawn)), text.strip(), len(drawn), ratios=(2.9, 1))
        for curves, height, left, right in zip(drawn, heights, axes[::2], axes[1::2], strict=True):
            walk_curves(left, curves, x=x, unit=unit, floor=floor)
            left.set_title(_title(curves), pad=19)
            group, names = _by_end(curves)
            # Lines that share an end are not independent.
            single = len(np.unique(curves.to_member)) == len(curves)
            barrier_distribution(
                right, height, definition=definition, color_by=group, names=names, floor=floor, interval=single
            )
            right.set_ylabel("")
            label = _with_unit(_BARRIERS[definition], unit or curves.attributes.get("loss_unit"))
            right.set_title(label.replace(" (", "\n("), weight="normal", pad=5)
            _log_axis(left, curves.loss, floor, values)
            _log_axis(right, getattr(height, definition), floor, values)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG (200 dpi) and SVG side by side, whichever `path` names; the same bytes for the same figure."""
    if path.suffix.lower() in (".pdf", ".eps", ".ps", ".jpg", ".jpeg"):
        raise Unsupported(f"figures are written as PNG and SVG, not {path.suffix}: end the name in .png or .svg")
    base = path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
    drawn = [each for ax in figure.axes for each in ax.collections]
    points = sum(len(path) for each in drawn if isinstance(each, LineCollection) for path in each.get_paths())
    for each in drawn:
        each.set_rasterized(points > _VECTOR_POINTS)
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.style.context(_STYLE):
        # Laid out once: a second time would move everything by a hair.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=110, metadata={"Date": None, "Creator": None})
    # Coordinates to a hundredth of a point: half the size.
    shorter = re.sub(r' (d|x|y)="[^"]*"', lambda place: re.sub(r"(\.\d\d)\d+", r"\1", place[0]), svg.getvalue())
    written = [base.with_name(f"{base.name}.{suffix}") for suffix in ("png", "svg")]
    for target, content in zip(written, (png.getvalue(), shorter.encode()), strict=True):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return written


def _sheet(
    size: tuple[float, float], caption: str, rows: int, ratios: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes]]:
    """An empty figure with its axes row by row and its caption, wrapped, below them."""
    text = textwrap.fill(caption, int(16.2 * size[0]))
    figure = Figure(figsize=(size[0], size[1] + (0.15 * (text.count("\n") + 1) if text else 0)))
    grid = figure.add_gridspec(rows, len(ratios), width_ratios=ratios)
    if text:
        # A label, not a text, because the layout makes room for labels.
        figure.supxlabel(text, x=0.012, ha="left", size=8.5, linespacing=1.25)
    return figure, [figure.add_subplot(grid[row, column]) for row in range(rows) for column in range(len(ratios))]


def _color(index: int | np.integer) -> str:
    return COLORS[index] if index < len(COLORS) else _FAINT


def _opacity(count: int | np.integer, most: float = 1.0) -> float:
    """Few are solid, many shine through one another."""
    return float(np.clip(3.5 / np.sqrt(max(count, 1)), 0.08, most))


def _with_unit(text: str, unit: str | None) -> str:
    return f"{text} ({unit})" if unit else text


def _by_end(curves: Curves) -> tuple[Int[np.ndarray, " line"], Sequence[str]]:
    """Lines by whether they end at a solution; one group without a name if the curves do not say."""
    if "solved" not in curves.values:
        return np.zeros(len(curves), dtype=int), ()
    return np.where(curves.values["solved"][:, curves.inside.stop - 1] == 1, 0, 1), ("solved", "not solved")


def _one_order(curves: Curves) -> tuple[Curves, int]:
    """The lowest line of each end, if its lines differ only in the order of their start's filters; how many orders."""
    ends, lines = np.unique(curves.to_member, return_counts=True)
    if len(set(zip(_starts(curves), curves.to_member.tolist(), strict=True))) == len(ends) < len(curves):
        return curves.select(lowest_per_end(curves)), int(lines.max())
    return curves, 1


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
        ax.axhline(floor, color=_INK, lw=0.8, ls=":", zorder=1, gid="floor")
        ticks[floor] = "≤ 0" if (own < 0).any() else "0"
    ax.set_yscale("log")
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_yticks(10.0**decades, [""] * len(decades), minor=True)
    ax.set_ylim(10**low / 1.7, 10**high * 1.7)


def _starts(curves: Curves) -> list[Source]:
    """The start of each line, whatever the order of its units, which only the label says."""
    return [dataclasses.replace(curves.sources[member], label="") for member in curves.from_member]


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
        ax.plot(*at, marker="*", ms=10, color=_INK, mec="white", mew=0.6, ls="", zorder=5, gid="start")
        # Below the star, where few lines pass, unless that is outside.
        offset, side = ((4, 4), "bottom") if at[1] <= np.nanmin(loss) else ((3, -6), "top")
        ax.annotate(_start(curves), at, offset, textcoords="offset points", va=side, size="small", zorder=5)


def _name_groups(ax: Axes, group: Int[np.ndarray, " line"], names: Sequence[str]) -> None:
    """Each group with its share of the lines, above the axes, where no line can run through it."""
    handles: list[Line2D] = []
    for index in np.unique(group) if len(names) else ():
        share = Proportion(int((group == index).sum()), len(group))
        low, high = (100 * bound for bound in share.interval)
        text = f"{names[index]}: {share.count}"
        # Of two groups the second share follows from the first.
        text += f" of {share.total} (95 % interval {low:.1f} to {high:.1f} %)" if not handles else ""
        handles.append(Line2D([], [], color=_color(index), lw=2, label=text))
    if handles:
        legend = ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles))
        legend.set_in_layout(False)


def _mark_median(ax: Axes, strip: int, sample: Float[np.ndarray, " line"], floor: float, *, interval: bool) -> None:
    """A bar at the median, its value beside it, its bootstrap interval behind it."""
    if len(sample) < 2:
        return
    middle = max(float(np.median(sample)), floor)
    ax.plot([strip - 0.28, strip + 0.28], [middle, middle], color=_INK, lw=1.6, solid_capstyle="butt", zorder=5)
    if interval and len(sample) >= _FEWEST:
        low, high = _on_axis(bootstrap(sample), floor)
        ax.plot([strip, strip], [low, high], color=_INK, lw=3, alpha=0.75, solid_capstyle="butt", zorder=4)
    text, place = f"{np.median(sample):#.3g}".rstrip("."), (strip + 0.28, middle)
    ax.annotate(text, place, (2, 0), textcoords="offset points", va="center", size="small", zorder=5)


def _table_columns(ax: Axes, tree: Clusters, leaves: Sequence[int], colors: Sequence[str], top: float) -> None:
    """Below each leaf, the shares of truth tables among its members; the last colour is for all the rest."""
    nodes = hierarchy.to_tree(tree.tree, rd=True)[1]
    for place, leaf in enumerate(leaves):
        tables = np.minimum(tree.group[nodes[leaf].pre_order()], len(colors) - 1)
        bottom = -0.03 * top
        for table, count in zip(*np.unique(tables, return_counts=True), strict=True):
            height = 0.09 * top * count / len(tables)
            bottom -= height
            ax.add_patch(Rectangle((10 * place + 0.5, bottom), 9, height, color=colors[table], lw=0))


def _tile(
    ax: Axes, pattern: Int[np.ndarray, "3 3"], neighbours: Int[np.ndarray, "3 3"], left: float, top: float
) -> None:
    for (i, j), cell in np.ndenumerate(pattern):
        counts = neighbours[i, j] or (i, j) == (1, 1)
        face, edge, hatch = (_INK if cell else "white", _GREY, None) if counts else ("#EEEEEE", _FAINT, "/////")
        ax.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=face, edgecolor=edge, hatch=hatch, lw=0.6))
    ax.add_patch(Rectangle((left + 1, top + 1), 1, 1, fill=False, edgecolor=COLORS[1], lw=1.8, zorder=3))


def _title(curves: Curves) -> str:
    """The problem and how many lines there are; they are seeds where each leads to one of its own."""
    ends = np.unique(curves.to_member)
    seeds = len(ends) == len(curves) and all(curves.sources[end].seed is not None for end in ends)
    count = f"{len(curves)} {'seeds' if seeds else 'lines'}"
    return f"{curves.attributes['title']}: {count}" if "title" in curves.attributes else count


def _caption(panels: Sequence[Curves], definition: str) -> str:
    """What is drawn, in sentences, from what the files say of themselves."""
    sampled = {curves.attributes.get("samples", "some") for curves in panels if "loss_se" in curves.values}
    loss = f"Loss on {' and '.join(sorted(map(str, sampled)))} samples" if sampled else "Exact loss"
    starts = " and ".join(dict.fromkeys(_start(curves) for curves in panels))
    star = " (star)" if all(len(set(_starts(curves))) == 1 for curves in panels) else ""
    points = " and ".join(dict.fromkeys(str(len(curves.alpha)) for curves in panels))
    solved = " Solved: the end gets every sample right." if any("solved" in curves.values for curves in panels) else ""
    matched = any(curves.attributes.get("orders") == "matched" for curves in panels)
    order = " Each start has the order of its filters that lies closest to the end." if matched else ""
    formula = DEFINITIONS[definition].replace(" - ", "\N{NO-BREAK SPACE}-\N{NO-BREAK SPACE}")
    return (
        f"{loss} on the straight lines in parameter space from {starts}{star} to each end (dot), {points} points a "
        f"line.{order}{solved} Right: the barrier of each line, {formula}; bars: median and its 95 % "
        "bootstrap interval. A barrier's height depends on which representative of a solution the line starts from "
        "and ends at."
    )
