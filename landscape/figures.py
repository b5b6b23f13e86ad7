"""Figures of curves, barriers, outcomes, clusters and rules. A function draws into `ax` and returns it.

Nothing here touches pyplot's global state: `page` and `walk_figure` make figures, `save` writes them.
"""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from landscape.curves import Curves
from landscape.errors import LandscapeError, Unsupported
from landscape.files import replacing
from landscape.intervals import Proportion, bootstrap

if TYPE_CHECKING:
    from landscape.analysis.clusters import Clusters
    from landscape.analysis.outcomes import Outcomes

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
COLORS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")

_STYLE = Path(__file__).with_name("landscape.mplstyle")
_INK, _FAINT = "#222222", "#BBBBBB"
_WIDTH = 7.2

#: Definitions of barriers as axis labels.
_BARRIERS = {
    "above_chord": "barrier above the chord",
    "above_mean": "barrier above the mean of the ends",
    "above_higher_end": "barrier above the higher end",
}

#: Standard errors are drawn as bands around at most this many lines.
_BANDS = 10
#: Fewer values make no bootstrap interval: it would be too narrow.
_FEWEST = 5
#: Curves with more points than this in one figure are pictures in its SVG, which stays small.
_VECTOR_POINTS = 10_000
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
    """Loss (log axis) along each finished line, over the distance from its start in parameter space or alpha.

    Lines are coloured by whether their end is solved, where the curves say so, or by `color_by`, indices into `names`; the
    fewer the lines of a group, the further in front. Exact zeros lie on a dotted line at `floor`; values that are not
    finite leave a gap. Up to 10 lines of sampled losses have a band of one standard error.
    """
    group, names = _groups(curves) if color_by is None else (color_by, names)
    group, curves = group[curves.done], curves.select(curves.done)
    if not len(curves) or not np.isfinite(curves.loss).any():
        raise LandscapeError("none of the lines has a finite loss: there is nothing to draw")
    floor = _floor([curves.loss]) if floor is None else floor
    loss = _on_axis(curves.loss, floor)
    length = {"l2": curves.l2, "l1": curves.l1, "alpha": np.ones(len(curves))}[x]
    place = curves.alpha * length[:, None]
    end = curves.inside.stop - 1
    for order, index in enumerate(_largest_first(group)):
        of, color = group == index, _color(index)
        lines = np.stack([place[of], loss[of]], axis=-1)
        # Many lines shine through one another, few are solid.
        strength = float(np.clip(3.5 / np.sqrt(of.sum()), 0.08, 1))
        look = {"colors": color, "alpha": strength, "linewidths": 0.9, "zorder": 2 + 0.1 * order}
        ax.add_collection(LineCollection(list(lines), **look), autolim=False)
        ax.scatter(place[of, end], loss[of, end], s=7, color=color, alpha=max(strength, 0.5), lw=0, zorder=3)
        if "loss_se" in curves.values and len(curves) <= _BANDS:
            _bands(ax, place[of], curves.loss[of], curves.values["loss_se"][of], floor, color)
    _mark_start(ax, curves, loss[:, curves.inside.start])
    span = [place.min(), place.max()]
    ax.set_xlim(span[0] - 0.03 * (span[1] - span[0]), span[1] + 0.03 * (span[1] - span[0]))
    _log_axis(ax, [curves.loss], floor)
    ax.set_xlabel(_distance(curves, x))
    ax.set_ylabel(_with_unit("loss", curves.attributes.get("loss_unit") if unit is None else unit))
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

    A strip a group, with its median and the bootstrap interval (95 %) of that; none where `interval` is false because lines
    share ends, or for fewer than 5 lines. A line without any barrier lies at `floor`.
    """
    if definition not in DEFINITIONS:
        raise Unsupported(f"there is no barrier '{definition}': choose {', '.join(DEFINITIONS)}")
    values = getattr(heights, definition)
    if not np.isfinite(values).any():
        raise LandscapeError("no line has a finite barrier: there is nothing to draw")
    group = np.zeros(len(values), dtype=int) if color_by is None else color_by
    floor = _floor([values]) if floor is None else floor
    shown = sorted(set(group.tolist()))
    labels = []
    for strip, index in enumerate(shown):
        # Neighbours in height stand apart: multiples of the golden ratio, in the order of heights.
        sample = np.sort(values[(group == index) & np.isfinite(values)])
        jitter = 0.5 * ((np.arange(len(sample)) * 0.6180339887) % 1 - 0.5)
        ax.scatter(strip + jitter, _on_axis(sample, floor), s=9, color=_color(index), alpha=0.6, lw=0, zorder=2)
        _median(ax, strip, sample, floor, interval=interval)
        name = f"{names[index]}\n" if len(names) else ""
        labels.append(f"{name}n = {len(sample)}")
    ax.set_xticks(range(len(shown)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(shown) - 0.25)
    _log_axis(ax, [values], floor)
    ax.set_ylabel(_with_unit(_BARRIERS[definition], unit))
    return ax


def outcomes(ax: Axes, results: "Outcomes", *, most: int = 8, samples: str = "patterns") -> Axes:
    """Share of members (%, with Wilson's interval) that ended at each truth table, the largest first.

    Coloured by kind; beyond `most` tables the rest is one bar. `samples` says what a table has a row for.
    """
    total = len(results.kind)
    kinds = {kind: color for kind, color in zip(("solved", "partly right", "constant"), COLORS, strict=False)}
    rows = [
        (f"{group.kind}, {group.right} of {results.total}", group.share, kinds.get(group.kind, _INK))
        for group in results.groups[:most]
    ]
    if rest := results.groups[most:]:
        count = sum(group.share.count for group in rest)
        tables = "1 more table" if len(rest) == 1 else f"{len(rest)} more tables"
        rows.append((tables, Proportion(count, total), _FAINT))
    for y, (_, share, color) in enumerate(rows):
        low, high = share.interval
        ax.barh(y, 100 * share.value, height=0.72, color=color, alpha=0.9)
        ax.plot([100 * low, 100 * high], [y, y], color=_INK, lw=3.2, solid_capstyle="butt", zorder=3)
        ax.plot([100 * low, 100 * high], [y, y], color="white", lw=1.6, solid_capstyle="butt", zorder=4)
        ax.annotate(
            f"n = {share.count}", (100 * high, y), (5, 0), textcoords="offset points", va="center", size="small"
        )
    ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, min(112, 112 * max(share.interval[1] for _, share, _ in rows)))
    ax.set_xlabel(f"share of {total} networks (%), with 95 % interval")
    ax.set_ylabel(f"truth table: {samples} right")
    return ax


def dendrogram(ax: Axes, tree: "Clusters", *, names: Sequence[str] = (), most: int = 6) -> Axes:
    """The tree of members over the distance at which they merge, the cut, and below it the truth table of each leaf.

    Beyond 100 members a leaf is a branch, and its column shows which shares of it have which table. The `most` largest
    tables have colours, called by `names` where given.
    """
    members = len(tree.label)
    kept = max(2, min(members, _LEAVES if members <= _LEAVES else max(50, len(tree.sizes))))
    drawn = hierarchy.dendrogram(tree.tree, no_plot=True, truncate_mode="lastp", p=kept, color_threshold=0)
    branches = [np.stack(branch, axis=1) for branch in zip(drawn["icoord"], drawn["dcoord"], strict=True)]
    below = [branch[:, 1].max() <= tree.cut for branch in branches]
    colors = [_INK if within else "#888888" for within in below]
    ax.add_collection(LineCollection(branches, colors=colors, linewidths=0.8), autolim=False)
    top = 1.06 * tree.tree[:, 2].max()
    _leaf_columns(ax, tree, drawn["leaves"], most, top)
    ax.axhline(tree.cut, color=COLORS[1], lw=1.2, ls="--", zorder=1)
    cut = f"cut at {tree.cut:.3g}: {len(tree.sizes)} clusters"
    right = ax.get_yaxis_transform()
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    ax.text(0.995, tree.cut, cut, transform=right, ha="right", va="bottom", size="small", bbox=box, zorder=4)
    ax.set_xlim(0, 10 * len(drawn["leaves"]))
    ax.set_ylim(-0.13 * top, top)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= top])
    ax.set_ylabel("L2 distance at the merge")
    which = "networks" if len(drawn["leaves"]) == members else f"networks in {len(drawn['leaves'])} branches"
    ax.set_xlabel(f"{members} {which}; bottom: truth table")
    tables = int(tree.group.max()) + 1
    labels = [*(names or [f"table {i + 1}" for i in range(tables)])[: min(most, tables)]]
    counts = np.bincount(tree.group)
    handles = [
        Patch(color=_color(i), label=f"{label} (n = {count})") for i, (label, count) in enumerate(zip(labels, counts))
    ]
    if tables > most:
        handles.append(Patch(color=_FAINT, label=f"{tables - most} more tables (n = {counts[most:].sum()})"))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return ax


def rule_examples(
    ax: Axes,
    patterns: Int[np.ndarray, "pattern 3 3"],
    answers: Bool[np.ndarray, " pattern"],
    neighbours: Int[np.ndarray, "3 3"],
) -> Axes:
    """Patches by whether their centre is live in the next generation: one for each state of it and count of live neighbours.

    `neighbours` is 1 where a cell counts; hatched cells do not. Live cells are dark.
    """
    counts = (patterns * neighbours).sum(axis=(1, 2))
    columns = 0
    for row, (alive, label) in enumerate(((True, "live next"), (False, "dead next"))):
        cases = [(-patterns[k, 1, 1], counts[k], -k) for k in np.flatnonzero(np.asarray(answers, bool) == alive)]
        chosen = {case[:2]: -case[2] for case in sorted(cases)}
        for column, ((centre, count), k) in enumerate(chosen.items()):
            _tile(ax, patterns[k], neighbours, 4 * column, 5.4 * row)
            ax.text(4 * column + 1.5, 5.4 * row + 3.25, f"{count}", ha="center", va="top", size="small")
        ax.text(-0.8, 5.4 * row + 1.5, label, ha="right", va="center")
        columns = max(columns, len(chosen))
    ax.set_xlim(-5, 4 * columns - 0.8)
    ax.set_ylim(9.9, -0.2)
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
    if not panels:
        raise LandscapeError("a figure of walks needs curves: give at least one file")
    chosen = [_one_order(curves.select(curves.done)) for curves in panels]
    drawn = [curves for curves, _ in chosen]
    heights = [barriers(curves) for curves in drawn]
    text = _caption(drawn, definition) if caption is None else caption
    if (orders := max(count for _, count in chosen)) > 1:
        text += f" Of {orders} filter orders of the start, the line with the lower barrier is drawn."
    values = [*(curves.loss for curves in drawn), *(getattr(each, definition) for each in heights)]
    floor = _floor(values)
    with matplotlib.style.context(_STYLE):
        figure, axes = _sheet((_WIDTH, 2.9 * len(drawn)), text.strip(), len(drawn), ratios=(3.4, 1))
        for curves, height, left, right in zip(drawn, heights, axes[::2], axes[1::2], strict=True):
            group, names = _groups(curves)
            here = curves.attributes.get("loss_unit") if unit is None else unit
            walk_curves(left, curves, x=x, unit=here, floor=floor)
            one_each = len(np.unique(curves.to_member)) == len(curves)
            look = {"definition": definition, "unit": here, "floor": floor, "interval": one_each}
            barrier_distribution(right, height, color_by=group, names=names, **look)
            left.set_title(_title(curves), pad=20)
            for ax in (left, right):
                _log_axis(ax, values, floor)
            right.tick_params(axis="y", labelleft=False)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG (200 dpi) and SVG side by side, whichever of the two `path` names; the same bytes for the same figure."""
    if path.suffix.lower() in (".pdf", ".eps", ".ps", ".jpg", ".jpeg"):
        raise Unsupported(f"figures are written as PNG and SVG, not {path.suffix}: end the name in .png or .svg")
    base = path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
    curves = figure.findobj(lambda artist: isinstance(artist, LineCollection))
    points = sum(len(segment) for lines in curves for segment in lines.get_segments())
    for lines in curves:
        lines.set_rasterized(points > _VECTOR_POINTS)
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        target = base.with_name(base.name + suffix)
        with matplotlib.style.context(_STYLE), replacing(target) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=200, metadata=metadata)
        written.append(target)
    return written


def _sheet(
    size: tuple[float, float], caption: str, rows: int, ratios: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes]]:
    """An empty figure with its axes row by row and its caption, wrapped, below them."""
    text = textwrap.fill(caption, int(16.2 * size[0]))
    figure = Figure(figsize=(size[0], size[1] + 0.15 * (text.count("\n") + 1 if text else 0)))
    grid = figure.add_gridspec(rows, len(ratios), width_ratios=ratios)
    if text:
        # A label, not a text, because the layout makes room for labels.
        figure.supxlabel(text, x=0.012, ha="left", size=8.5, linespacing=1.25)
    return figure, [figure.add_subplot(cell) for cell in grid]


def _color(index: int) -> str:
    return COLORS[index] if index < len(COLORS) else _FAINT


def _largest_first(group: Int[np.ndarray, " line"]) -> list[int]:
    index, counts = np.unique(group, return_counts=True)
    return [int(i) for i in index[np.argsort(-counts, kind="stable")]]


def _groups(curves: Curves) -> tuple[Int[np.ndarray, " line"], tuple[str, ...]]:
    """Lines by whether they end at a solution; one group if the curves do not say."""
    if "solved" not in curves.values:
        return np.zeros(len(curves), dtype=int), ()
    end = curves.values["solved"][:, curves.inside.stop - 1]
    return np.where(end == 1, 0, 1), ("solved", "not solved")


def _one_order(curves: Curves) -> tuple[Curves, int]:
    """The lowest line of each end if the others differ in the order of the start's filters alone; number of orders."""
    ends = set(curves.to_member.tolist())
    starts = [(s.path, s.step, s.seed, s.digest) for s in (curves.sources[i] for i in curves.from_member)]
    if len(set(zip(starts, curves.to_member.tolist(), strict=True))) == len(ends) < len(curves):
        return curves.select(lowest_per_end(curves)), len(curves) // len(ends)
    return curves, 1


def _floor(values: Sequence[Float[np.ndarray, "..."]]) -> float:
    """Where zeros go on a log axis: well below the smallest positive value."""
    positive = np.concatenate([each[(each > 0) & np.isfinite(each)] for each in values] + [np.array([np.inf])])
    return float(10 ** (np.floor(np.log10(positive.min())) - 0.5)) if np.isfinite(positive.min()) else 0.1


def _on_axis(values: Float[np.ndarray, "..."], floor: float) -> Float[np.ndarray, "..."]:
    """Zeros on the floor; what is not finite is a gap."""
    return np.where(np.isfinite(values), np.maximum(values, floor), np.nan)


def _log_axis(ax: Axes, values: Sequence[Float[np.ndarray, "..."]], floor: float) -> None:
    """A log axis that shows all values, and a line for zeros if there are any."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    zeros, top = bool((finite <= 0).any()), max(float(finite.max()), 10 * floor)
    bottom = floor if zeros else float(finite.min())
    first, last = int(np.ceil(np.log10(floor if zeros else bottom))), int(np.floor(np.log10(top)))
    decades = range(first, last + 1, 1 + (last - first) // 7)
    ax.set_yscale("log")
    ax.set_yticks([10.0**k for k in range(first, last + 1)], minor=True, labels=[""] * (last - first + 1))
    ticks, labels = [10.0**k for k in decades], [f"$10^{{{k}}}$" for k in decades]
    if zeros:
        ax.axhline(floor, color=_INK, lw=0.8, ls=":", zorder=1, gid="floor")
        ticks, labels = [floor, *ticks], ["exactly 0", *labels]
    ax.set_yticks(ticks, labels)
    ax.set_ylim(bottom / 1.7, top * 1.7)


def _bands(
    ax: Axes,
    place: Float[np.ndarray, "line point"],
    loss: Float[np.ndarray, "line point"],
    error: Float[np.ndarray, "line point"],
    floor: float,
    color: str,
) -> None:
    for x, y, se in zip(place, loss, error, strict=True):
        low, high = _on_axis(y - se, floor), _on_axis(y + se, floor)
        ax.fill_between(x, low, high, color=color, alpha=0.25, lw=0, zorder=1.9)


def _mark_start(ax: Axes, curves: Curves, loss: Float[np.ndarray, " line"]) -> None:
    """A star and a name where all lines start at one point, up to the order of its units."""
    if not np.isfinite(loss[0]) or not np.allclose(loss, loss[0], rtol=1e-3):
        return
    ax.plot(0, loss[0], marker="*", ms=10, color=_INK, mec="white", mew=0.6, ls="", zorder=5, gid="start")
    ax.annotate(_start(curves), (0, loss[0]), (7, -3), textcoords="offset points", va="top", size="small", zorder=5)


def _start(curves: Curves) -> str:
    """The start by its full name, as far as the file knows it."""
    label = curves.sources[curves.from_member[0]].label
    return str(curves.attributes.get("landmark") or curves.attributes.get("from") or label)


def _distance(curves: Curves, x: Distance) -> str:
    if x == "alpha":
        return "alpha (0: start, 1: end of the line)"
    return f"distance from the start in parameter space ({x.upper()} norm)"


def _with_unit(text: str, unit: str | None) -> str:
    return f"{text} ({unit})" if unit else text


def _name_groups(ax: Axes, group: Int[np.ndarray, " line"], names: Sequence[str]) -> None:
    """Above the axes, where no line can run through it: each group with its share of the lines."""
    if not len(names):
        return
    shown = sorted(set(group.tolist()))
    shares = [Proportion(int((group == index).sum()), len(group)) for index in shown]
    # Of two groups the second share follows from the first.
    texts = [f"{names[i]}: {s if k == 0 else s.count}" for k, (i, s) in enumerate(zip(shown, shares, strict=True))]
    handles = [Line2D([], [], color=_color(i), lw=2, label=text) for i, text in zip(shown, texts, strict=True)]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles))


def _median(ax: Axes, strip: int, sample: Float[np.ndarray, " line"], floor: float, *, interval: bool) -> None:
    """A bar at the median, its bootstrap interval as a whisker, its value beside it."""
    if not len(sample):
        return
    middle = float(np.median(sample))
    at = _on_axis(np.array([middle]), floor)[0]
    ax.plot([strip - 0.3, strip + 0.3], [at, at], color=_INK, lw=1.6, solid_capstyle="butt", zorder=4)
    if interval and len(sample) >= _FEWEST:
        low, high = _on_axis(bootstrap(sample), floor)
        ax.plot([strip, strip], [low, high], color=_INK, lw=3, alpha=0.7, solid_capstyle="butt", zorder=3)
    ax.annotate(
        f"{middle:.2g}", (strip + 0.3, at), (2, 0), textcoords="offset points", va="center", size="small", zorder=5
    )


def _leaf_columns(ax: Axes, tree: "Clusters", leaves: Sequence[int], most: int, top: float) -> None:
    """Below each leaf, the shares of truth tables among its members."""
    nodes = hierarchy.to_tree(tree.tree, rd=True)[1]
    for place, leaf in enumerate(leaves):
        tables = np.minimum(tree.group[nodes[leaf].pre_order()], most)
        bottom = -0.03 * top
        for table, count in zip(*np.unique(tables, return_counts=True), strict=True):
            height = 0.09 * top * count / len(tables)
            color = _FAINT if table == most else _color(int(table))
            ax.add_patch(Rectangle((10 * place + 0.5, bottom - height), 9, height, color=color, lw=0))
            bottom -= height


def _tile(
    ax: Axes, pattern: Int[np.ndarray, "3 3"], neighbours: Int[np.ndarray, "3 3"], left: float, top: float
) -> None:
    """One patch, its centre framed."""
    for (i, j), cell in np.ndenumerate(pattern):
        counts = bool(neighbours[i, j]) or (i, j) == (1, 1)
        look = {"facecolor": _INK if cell else "white", "edgecolor": "#888888", "lw": 0.6}
        if not counts:
            look |= {"facecolor": "#EEEEEE", "hatch": "/////", "edgecolor": _FAINT}
        ax.add_patch(Rectangle((left + j, top + i), 1, 1, **look))
    ax.add_patch(Rectangle((left + 1, top + 1), 1, 1, fill=False, edgecolor=COLORS[1], lw=1.8, zorder=3))


def _title(curves: Curves) -> str:
    """The problem and how many lines there are."""
    seeded = all(curves.sources[end].seed is not None for end in np.unique(curves.to_member))
    ends = len(np.unique(curves.to_member))
    count = f"{ends} seeds" if seeded and ends == len(curves) else f"{len(curves)} lines"
    title = curves.attributes.get("title")
    return f"{title}: {count}" if title else count


def _caption(panels: Sequence[Curves], definition: str) -> str:
    """What is drawn, in sentences, from what the files say of themselves."""
    starts = _listed(_start(curves) for curves in panels)
    points = _listed(str(len(curves.alpha)) for curves in panels)
    sampled = {"loss_se" in curves.values for curves in panels}
    loss = "Loss" if len(sampled) > 1 else "Sampled loss" if sampled == {True} else "Exact loss"
    sentences = [
        f"{loss} on the straight lines in parameter space from {starts} (star) to each end (dots), {points} points a line.",
        f"Right: the barrier of each line, {DEFINITIONS[definition]}; bars: median and its 95 % bootstrap interval.",
        "A barrier's height depends on which representative of a solution the line starts from and ends at.",
    ]
    if any("solved" in curves.values for curves in panels):
        sentences.insert(1, "Solved: the end gets every sample right.")
    return " ".join(sentences)


def _listed(texts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(texts))
