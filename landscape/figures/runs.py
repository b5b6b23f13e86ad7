"""Where the members of a run ended, how they cluster, what explains it, and what a rule asks of them."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullFormatter, ScalarFormatter
from matplotlib.transforms import blended_transform_factory

from landscape.core.errors import LandscapeError
from landscape.core.intervals import Proportion, together
from landscape.figures.pages import (
    COLORS,
    FAINT,
    GREY,
    INK,
    ON_PAPER,
    SCREEN,
    WIDTH,
    Style,
    branch_width,
    literal,
    powers_along,
    sheet,
)

if TYPE_CHECKING:
    from landscape.analysis.clusters import Clusters
    from landscape.analysis.outcomes import Outcomes
else:
    # Their modules import torch, which a figure does not need.
    Clusters = Outcomes = Any

__all__ = [
    "clusters_figure",
    "dendrogram",
    "group_cards",
    "groups_against_threshold",
    "outcomes",
    "rule_examples",
    "shares",
]

#: Colours by kind of outcome; the same kinds of ends have the same colours in every figure.
_KINDS = dict(zip(("solved", "partly right", "constant", "varying"), COLORS, strict=False))
#: Members beyond which a dendrogram shows only its last merges.
_LEAVES = 100
#: Share of the members that a leaf has at least whose number is told.
_COUNTED = 0.005


@literal
def outcomes(ax: Axes, results: Outcomes, *, most: int = 8, samples: str = "samples") -> Axes:
    """Share of members (%) that ended at each function, the largest first; the intervals hold all at once with 95 %.

    Coloured by kind; beyond `most` tables the rest is one bar. `samples` is what a table has a row for.
    """
    named = [
        (name if right is None else f"{name}, {right} of {results.total}", group.share, _KINDS.get(name, GREY))
        for group in results.groups[:most]
        for name, right in [(group.kind, group.right)]
    ]
    if rest := results.groups[most:]:
        share = Proportion(sum(group.share.count for group in rest), len(results.kind))
        named.append((f"{len(rest)} more function{'s' if len(rest) > 1 else ''}", share, FAINT))
    labels, shares, colors = zip(*named, strict=True)
    rows = [
        (label, share.value, *share.interval_at(together(len(shares))))
        for label, share in zip(labels, shares, strict=True)
    ]
    _bars(ax, rows, colors, [f"n = {share.count}" for share in shares])
    ax.set_xlim(0, 112 * max(high for *_, high in rows))
    ax.set_xlabel(f"share of {len(results.kind)} networks (%); intervals: all of them with 95 % at once")
    ax.set_ylabel("function" if results.right is None else f"function: {samples} right")
    return ax


@literal
def shares(
    ax: Axes,
    rows: Sequence[tuple[str, float, float, float]],
    *,
    xlabel: str = "share of the outcome explained (%), with its interval",
    unit: str = " %",
    title: str = "",
) -> Axes:
    """Shares as bars (%), a row each: its name, value, low and high end, from 0 to 1, the first on top; `unit` stands
    behind each number.

    An estimate may lie below zero; an interval of NaN is not drawn. Raises `LandscapeError` if there are no rows or a
    value is no share.
    """
    if not rows:
        raise LandscapeError("there are no shares to draw: give at least one row")
    for name, value, low, high in rows:
        if not abs(value) <= 1 or max(abs(low), abs(high)) > 1 or not (low <= high or np.isnan([low, high]).any()):
            raise LandscapeError(
                f"the share '{name}' is {value:g} with an interval from {low:g} to {high:g}: give shares of at most 1"
            )
    colors = [COLORS[0]] * len(rows)
    texts = [
        f"{100 * value:z.{0 if abs(value) >= 0.0995 or value == 0 else 1}f}{unit}".replace("-", "\N{MINUS SIGN}")
        for _, value, *_ in rows
    ]
    _bars(ax, rows, colors, texts, height=0.62)
    numbers = 100 * np.array([row[1:] for row in rows], dtype=float)
    top, bottom = max(np.nanmax(numbers), 1.0), min(np.nanmin(numbers), 0.0)
    ax.set_xlim(bottom and bottom - 0.02 * (top - bottom), top + 0.12 * (top - bottom))
    if bottom < 0:
        ax.spines["left"].set_visible(False)
        ax.axvline(0, color=INK, lw=0.7, zorder=1)
    ax.set_xlabel(xlabel)
    ax.set_title(title)
    return ax


@literal
def dendrogram(
    ax: Axes, found: Clusters, *, names: Sequence[str] = (), solved: int | None = None, most: int = 5
) -> Axes:
    """The tree of members over the distance at which they are joined, the threshold, and below it what each leaf
    predicts, where that is known. Branches are wider with more members (by area).

    Beyond 100 members a leaf is a branch, the largest with its number of members, and its column shows the shares of
    the tables in it. The `most` largest
    tables have colours and are called by `names`; that of the solution, `solved`, has the colour it has elsewhere.
    """
    members, group = len(found.label), found.predictions
    counts = np.bincount(group) if group is not None else np.zeros(0, dtype=int)
    heights = found.tree[:, 2]
    top = float(heights[-1]) or 1.0
    floor = max(min(found.threshold or top, top) / 50, 1e-4 * top)
    # What is joined below the axis is one branch.
    kept = members if members <= _LEAVES else int(np.clip((heights > floor).sum() + 1, 2, _LEAVES))
    drawn = scipy.cluster.hierarchy.dendrogram(
        found.tree, no_plot=True, truncate_mode="lastp", p=kept, link_color_func=str
    )
    leaves = drawn["leaves"] or []
    size = np.concatenate([np.ones(members), found.tree[:, 3]])
    for x, y, node in zip(drawn["icoord"], drawn["dcoord"], map(int, drawn["color_list"] or []), strict=True):
        ends = np.maximum(y, floor)
        ink = INK if y[1] <= found.threshold else GREY
        ax.plot(x[1:3], ends[1:3], color=ink, lw=0.8, solid_capstyle="butt")
        for child, leg in zip(found.tree[node - members, :2].astype(int), (slice(0, 2), slice(2, 4)), strict=True):
            ax.plot(x[leg], ends[leg], color=ink, lw=float(branch_width(size[child], members)), solid_capstyle="butt")
    others = [color for color in COLORS[1:] if color != GREY]  # beside the faint one of all the rest it looks alike
    most = min(most, len(counts), len(others) + (solved is not None and solved < most))
    own = iter(others)
    colors = [COLORS[0] if table == solved else next(own) for table in range(most)] + [FAINT]
    ax.set_yscale("log")
    powers_along(ax.yaxis)
    ax.set_ylim(floor, 1.2 * top)
    if group is not None:
        _table_columns(ax, found, group, leaves, colors)
    if found.threshold > floor:
        ax.axhline(found.threshold, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        text = f"{found.threshold:.3g}: {len(found.sizes)} groups"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        at = (10.0 * len(leaves), found.threshold)
        ax.annotate(text, at, (-2, 3), textcoords="offset points", ha="right", size="small", bbox=box)
    ax.set_xlim(0, 10 * len(leaves))
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.set_ylabel(_wrapped(found.unit))
    below = "; bottom: what they predict" if group is not None else ""
    if kept < members:
        _count_leaves(ax, [(10 * place + 5, int(size[leaf])) for place, leaf in enumerate(leaves)], members)
    in_branches = f" in {kept} branches" if kept < members else ""
    ax.set_xlabel(f"{members} networks{in_branches}; wider: more members{below}")
    ax.xaxis.labelpad = 24 if group is not None else 4
    titles = [*names, *(f"table {table + 1}" for table in range(len(names), len(counts)))][:most]
    titles = [
        title if titles.count(title) == 1 else f"{title}, no. {titles[: place + 1].count(title)}"
        for place, title in enumerate(titles)
    ]
    keys = [(color, f"{title} (n = {n})") for color, title, n in zip(colors[:-1], titles, counts, strict=False)]
    if len(counts) > most:
        keys.append((FAINT, f"{len(counts) - most} more (n = {counts[most:].sum()})"))
    handles = [Patch(color=color, label=label) for color, label in keys]
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


@literal
def groups_against_threshold(ax: Axes, found: Clusters) -> Axes:
    """Number of groups at each threshold, its widest plateaus named, and the agreement with predictions (right)."""
    heights = found.tree[:, 2]
    top = float(heights[-1]) or 1.0
    low = 1e-4 * top
    x = np.concatenate([[low], np.clip(heights, low, None), [2 * top]])
    groups = len(heights) + 1 - np.arange(len(x) - 1)
    ax.stairs(np.maximum(groups, 1), x, baseline=None, color=COLORS[0], lw=1.6)
    for each in found.plateaus:
        middle = np.sqrt(max(each.low, low) * each.high)
        ax.annotate(
            str(each.groups), (middle, each.groups), (0, 3), textcoords="offset points", ha="center", color=COLORS[0]
        )
    ax.axvline(found.threshold, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    ax.set_xscale("log")
    powers_along(ax.xaxis)
    ax.set_yscale("log")
    ax.set_xlim(low, 2 * top)
    decades = 10 ** np.arange(np.ceil(np.log10(len(heights) + 1)) + 1, dtype=int)
    factors = (1, 2, 5) if len(heights) < 100 else (1,)
    ticks = sorted(factor * decade for decade in decades.tolist() for factor in factors)
    ax.set_yticks([tick for tick in ticks if tick <= len(heights) + 1])
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("threshold: " + found.unit)
    ax.set_ylabel("groups", color=COLORS[0])
    if found.predictions is not None:
        right = ax.twinx()
        at = np.geomspace(low, 2 * top, 200).tolist()
        agreement = [row[3] or 0.0 for row in found.against_threshold(at)]
        right.plot(at, agreement, color=COLORS[1], lw=1.4, ls=(0, (5, 1.5)))
        right.set_ylim(min(-0.05, *agreement), 1.05)
        right.set_ylabel("adjusted Rand index with predictions", color=COLORS[1])
        right.spines["right"].set_visible(True)
    return ax


def clusters_figure(
    found: Clusters,
    *,
    names: Sequence[str] = (),
    solved: int | None = None,
    caption: str = "",
    style: Style = SCREEN,
) -> Figure:
    """The tree of members, and the number of groups against the threshold.

    Raises `Unsupported` for a style that has not the width for it.
    """
    style.require_wide("trees of members")
    if caption and (found.tree[:, 2] == 0).any():
        caption += " Members at a distance of zero meet at the lower edge of the log axis."
    with sheet((WIDTH, 6.4), caption, 2, style=style) as (figure, (tree, curve)):
        dendrogram(tree, found, names=names, solved=solved)
        groups_against_threshold(curve, found)
    return figure


def group_cards(
    results: Outcomes,
    kernels: Float[np.ndarray, "card filter row column"],
    cases: Sequence[str],
    *,
    known: Float[np.ndarray, "filter row column"] | None = None,
    most: int = 6,
    caption: str = "",
    style: Style = SCREEN,
) -> Figure:
    """A card a function, the largest first: members and median loss, the filters of its first member's first layer (a
    card on its own scale, zero white; the `known` solution's above all), and the share of each case of samples that it
    gets wrong. Raises `Unsupported` for a style that has not the width for it.
    """
    style.require_wide("cards")
    groups = results.groups[:most]
    tiles = [*([known] if known is not None else []), *kernels[: len(groups)]]
    names = ["known solution"] * (known is not None)
    names += [f"{group.kind}: n = {group.share.count}\nmedian loss {group.loss:.2g}" for group in groups]
    wrong = np.zeros((len(tiles), len(cases)))
    for row, group in enumerate(groups, start=len(tiles) - len(groups)):
        for name, k, n in group.wrong:
            wrong[row, list(cases).index(name)] = k / n
    size = WIDTH, 0.62 * len(tiles) + 1.5
    with sheet(size, caption, 2, (1, 2.2), style=style) as (figure, (left, right)):
        filters, height, width = tiles[0].shape
        gap = 0.6
        for row, tile in enumerate(tiles):
            scale = float(np.abs(tile).max()) or 1.0
            for k in range(filters):
                x, y = k * (width + gap), row * (height + gap)
                left.imshow(
                    tile[k] / scale, cmap="RdBu_r", vmin=-1, vmax=1, extent=(x, x + width, y + height, y), zorder=2
                )
                left.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=GREY, lw=0.6, zorder=3))
        left.set_xlim(-gap, filters * (width + gap))
        left.set_ylim(len(tiles) * (height + gap), -gap)
        middles = [row * (height + gap) + height / 2 for row in range(len(tiles))]
        left.set_yticks(middles, names)
        left.set_xticks([])
        left.tick_params(length=0)
        for spine in left.spines.values():
            spine.set_visible(False)
        left.set_title(
            "filters of the first layer, each row\non its own scale; red above 0, blue below",
            size="small",
            fontweight="normal",
        )
        shown = right.imshow(
            100 * wrong,
            cmap="Greys",
            vmin=0,
            vmax=100,
            aspect="auto",
            extent=(0, len(cases), len(tiles) * (height + gap) - gap / 2, -gap / 2),
        )
        right.set_xticks(np.arange(len(cases)) + 0.5, cases, rotation=90)
        right.set_ylim(left.get_ylim())
        right.set_yticks([])
        for x in range(1, len(cases)):
            right.axvline(x, color=FAINT, lw=0.4)
        for row in range(1, len(tiles)):
            right.axhline(row * (height + gap) - gap / 2, color=FAINT, lw=0.4)
        figure.colorbar(shown, ax=right, label="wrong (%)", fraction=0.03, pad=0.02)
    return figure


@literal
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


def _bars(
    ax: Axes,
    rows: Sequence[tuple[str, float, float, float]],
    colors: Sequence[str],
    texts: Sequence[str],
    *,
    height: float = 0.7,
) -> None:
    """Horizontal bars (%), the first on top: name, value, low and high end of each, shares of 1, with a text behind.

    An interval of NaN is not drawn.
    """
    for y, ((_, *share), color, text) in enumerate(zip(rows, colors, texts, strict=True)):
        value, low, high = (100 * each for each in share)
        ax.barh(y, value, height=height, color=color, alpha=0.85)
        if np.isfinite(high - low):
            ax.errorbar((low + high) / 2, y, xerr=(high - low) / 2, color=INK, lw=1.2, capsize=2.5)
        end = (np.nanmax([value, low, high, 0]), y)
        ax.annotate(text, end, (6, 0), textcoords="offset points", va="center", size="small")
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(len(rows), 4) - 0.4, -0.6)


def _table_columns(
    ax: Axes,
    found: Clusters,
    group: Int[np.ndarray, " member"],
    leaves: Sequence[int],
    colors: Sequence[str],
) -> None:
    """Below each leaf, the shares of truth tables among its members; the last colour is for all the rest."""
    nodes = scipy.cluster.hierarchy.to_tree(found.tree, rd=True)[1]
    across = blended_transform_factory(ax.transData, ax.transAxes)
    for place, leaf in enumerate(leaves):
        tables = np.minimum(group[nodes[leaf].pre_order()], len(colors) - 1)
        bottom = -0.02
        for table, count in zip(*np.unique(tables, return_counts=True), strict=True):
            height = 0.08 * count / len(tables)
            bottom -= height
            box = Rectangle((10 * place + 0.5, bottom), 9, height, color=colors[table], lw=0, clip_on=False)
            box.set_transform(across)
            ax.add_patch(box)


def _count_leaves(ax: Axes, leaves: Sequence[tuple[int, int]], members: int) -> None:
    """Numbers beside the largest leaves, so many as do not touch."""
    named: list[int] = []
    for place, count in sorted(leaves, key=lambda leaf: -leaf[1]):
        if count < max(2, _COUNTED * members) or any(abs(place - other) < 25 for other in named):
            continue
        named.append(place)
        away = 1.5 + float(branch_width(count, members)) / 2
        number = ax.annotate(
            f"{count}",
            (place, ax.get_ylim()[0]),
            (-away, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            rotation=90,
            size="small",
            gid="members",
        )
        number.set_path_effects(ON_PAPER)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 44)


def _tile(
    ax: Axes, pattern: Int[np.ndarray, "3 3"], neighbours: Int[np.ndarray, "3 3"], left: float, top: float
) -> None:
    for (i, j), cell in np.ndenumerate(pattern):
        counts = neighbours[i, j] or (i, j) == (1, 1)
        face, edge, hatch = (INK if cell else "white", GREY, None) if counts else ("#EEEEEE", FAINT, "/////")
        ax.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=face, edgecolor=edge, hatch=hatch, lw=0.6))
    ax.add_patch(Rectangle((left + 1, top + 1), 1, 1, fill=False, edgecolor=COLORS[1], lw=1.8, zorder=3))
