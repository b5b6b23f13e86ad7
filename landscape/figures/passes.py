"""Disconnectivity graphs: from which loss on members are connected."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from landscape.core.errors import LandscapeError, plural
from landscape.figures.captions import unfinished_caption, zeros_caption
from landscape.figures.pages import (
    COLORS,
    GREY,
    INK,
    ON_PAPER,
    SCREEN,
    WIDTH,
    Style,
    branch_width,
    literal,
    sheet,
    with_unit,
)
from landscape.figures.scales import floor_below, log_axis, on_axis

if TYPE_CHECKING:
    from landscape.analysis.passes import Merge, Passes
else:
    Merge = Passes = Any  # figures take what analyses give

__all__ = ["disconnectivity", "branch_sizes", "large_branches", "merge_order", "passes_figure"]

#: Members up to which each is named, and names longer than this are cut.
_NAMED, _LONGEST = 40, 14
#: Share of the members that a branch has at least whose number is told.
_LARGE = 0.03
#: Share of the axis that such a branch is long at least.
_LONG = 0.03
#: Share of an axis that their numbers are apart.
_ASIDE = 0.07


def passes_figure(found: Passes, *, caption: str | None = None, style: Style = SCREEN) -> Figure:
    """Two disconnectivity graphs on one axis of losses: from known paths, and from straight lines alone."""
    graphs = [(found.merges, "from known paths"), (found.straight_merges, "from straight lines")]
    if caption is None:
        caption = _caption(found)
    with sheet((WIDTH, 4.0), caption, 2, (1, 1), style=style) as (figure, axes):
        for ax, (merges, title) in zip(axes, graphs, strict=True):
            disconnectivity(ax, found, merges)
            ax.set_title(title, pad=16 if ax is axes[0] and found.solved is not None else None)
        if style.fit(2) == 2:
            axes[1].set_ylabel("")
            axes[1].tick_params(axis="y", which="both", labelleft=False)
        if found.solved is not None:
            kinds = [(COLORS[0], "solved", found.solved), (COLORS[1], "not solved", ~found.solved)]
            handles = [
                Line2D([], [], color=color, marker="os"[number], ls="", ms=4, label=f"{name}: {of.sum()}")
                for number, (color, name, of) in enumerate(kinds)
                if of.any()
            ]
            axes[0].legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2).set_in_layout(False)
    return figure


@literal
def disconnectivity(ax: Axes, found: Passes, merges: Sequence[Merge]) -> Axes:
    """The tree of `merges` over the loss (log axis): a leg stands on each member's own loss and ends where it merges.

    O. M. Becker, M. Karplus, J. Chem. Phys. 106, 1997. Members are dots, or squares where they are not solved, and are
    called by their names where there are up to 40. Branches are wider with more members (by area), and large ones have
    their number. What no path connects stays apart, its leg open at the top. Raises
    `LandscapeError` if no loss is finite.
    """
    shared = [merge.height for merge in (*found.merges, *found.straight_merges)]  # so that both graphs have one axis
    every = np.array([*found.loss[np.isfinite(found.loss)], *shared])
    if not len(every):
        raise LandscapeError("no loss is finite: connect members with finite losses")
    floor = floor_below([every])
    count = len(found.members)
    order = merge_order(count, merges, found.loss)
    place = dict(zip(order, range(count), strict=True))
    x = [float(place[member]) for member in range(count)]
    foot = found.loss.tolist()
    top = float(every.max()) * 1.5
    legs: list[list[tuple[float, float]]] = []
    size = branch_sizes(count, merges)
    wide: list[float] = []
    for merge in merges:
        ends = [(x[each], foot[each]) for each in (merge.first, merge.second)]
        wide += [*branch_width(size[[merge.first, merge.second]], count).tolist(), float(branch_width(1, count))]
        legs.append([(ends[0][0], ends[0][1]), (ends[0][0], merge.height)])
        legs.append([(ends[1][0], ends[1][1]), (ends[1][0], merge.height)])
        legs.append([(ends[0][0], merge.height), (ends[1][0], merge.height)])
        x.append((ends[0][0] + ends[1][0]) / 2)
        foot.append(merge.height)
    merged = {each for merge in merges for each in (merge.first, merge.second)}
    roots = [each for each in range(len(x)) if each not in merged]
    open_ = [[(x[each], foot[each]), (x[each], top)] for each in roots] if len(roots) > 1 else []
    for lines, color, style, widths in ((legs, INK, "-", wide), (open_, GREY, ":", [0.8])):
        drawn = [[(at, max(height, floor)) for at, height in leg] for leg in lines]
        branches = LineCollection(drawn, colors=color, linewidths=widths, linestyles=style, capstyle="butt")
        ax.add_collection(branches, autolim=False)
    solved = np.ones(count, dtype=bool) if found.solved is None else found.solved
    dot = float(np.clip(600 / count, 2, 16))
    for of, color, marker in ((solved, COLORS[0], "o"), (~solved, COLORS[1], "s")):
        where = np.flatnonzero(of)
        ax.scatter(
            [x[i] for i in where], on_axis(found.loss[where], floor), s=dot, color=color, marker=marker, lw=0, zorder=3
        )
    log_axis(ax, found.loss, floor, [every, np.array([top])] if open_ else [every])
    _count_branches(ax, count, merges, x, foot, top)
    ax.set_xlim(-1, count)
    if count <= _NAMED:
        ax.set_xticks(range(count), [_short(found.members[member]) for member in order], rotation=90, size="small")
        ax.tick_params(axis="x", length=0)
    else:
        ax.set_xticks([])
    ax.set_xlabel(f"{count} members, in the order in which they merge")
    ax.set_ylabel(with_unit("loss", found.about.get("loss_unit")))
    return ax


def merge_order(count: int, merges: Sequence[Merge], loss: np.ndarray) -> list[int]:
    """Members side by side so that no legs cross, the branch with the lowest member first."""
    inside = [[member] for member in range(count)]
    for merge in merges:
        both = sorted((inside[merge.first], inside[merge.second]), key=lambda of: min(loss[i] for i in of))
        inside.append([*both[0], *both[1]])
    merged = {each for merge in merges for each in (merge.first, merge.second)}
    roots = [inside[each] for each in range(len(inside)) if each not in merged]
    return [member for root in sorted(roots, key=lambda of: (-len(of), min(loss[i] for i in of))) for member in root]


def _count_branches(
    ax: Axes, count: int, merges: Sequence[Merge], x: Sequence[float], foot: Sequence[float], top: float
) -> None:
    """Numbers of members beside the upper ends of large branches that are long enough."""
    ends = {each: merge.height for merge in merges for each in (merge.first, merge.second)}
    sizes, (low, high) = branch_sizes(count, merges), np.log10(ax.get_ylim())
    named: list[tuple[float, float]] = []
    for node in sorted(large_branches(count, merges), key=lambda each: -sizes[each]):
        end = ends.get(node, top)
        place = x[node] / count, float(np.log10(end)) / (high - low)
        if any(abs(place[0] - across) < _ASIDE and abs(place[1] - up) < _ASIDE for across, up in named):
            continue
        if np.log10(end) - np.log10(max(foot[node], 10**low)) < _LONG * (high - low):
            continue
        named.append(place)
        away = 2 + float(branch_width(sizes[node], count)) / 2
        number = ax.annotate(
            f"{sizes[node]}",
            (x[node], end),
            (-away, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            size="small",
            zorder=5,
            gid="members",
        )
        number.set_path_effects(ON_PAPER)


def branch_sizes(count: int, merges: Sequence[Merge]) -> Int[np.ndarray, " branch"]:
    """How many members each branch holds: the members themselves, then what merges make."""
    sizes = [1] * count
    for merge in merges:
        sizes.append(sizes[merge.first] + sizes[merge.second])
    return np.array(sizes)


def large_branches(count: int, merges: Sequence[Merge]) -> list[int]:
    """Branches whose number of members is told: where two large ones meet, and those that stay apart."""
    sizes, least = branch_sizes(count, merges), max(3, _LARGE * count)
    meeting = [(merge.first, merge.second) for merge in merges]
    found = [each for pair in meeting if min(sizes[[*pair]]) >= least for each in pair]
    roots = set(range(len(sizes))) - {each for pair in meeting for each in pair}
    return found + [each for each in sorted(roots) if len(roots) > 1 and sizes[each] >= least]


def _short(name: str) -> str:
    """Of a long name the end."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= _LONGEST else f"...{name[-_LONGEST + 3 :]}"


def _caption(found: Passes) -> str:
    """What is drawn, what it is a bound of, and what is missing."""
    missing, dotted = len(found.missing), len(found.merges) < len(found.members) - 1
    title = f"{found.about['title']}: " if "title" in found.about else ""
    solved = "" if found.solved is None else " Blue dots: solved; orange squares: not."
    large = any(large_branches(len(found.members), merges) for merges in (found.merges, found.straight_merges))
    return (
        f"{title}{plural(len(found.members), 'member')}, {plural(len(found), 'pair')} with a known path, {missing} "
        "without. Two members are connected from the loss on at which their legs meet: the lowest, over all chains of "
        "paths, that the highest loss on the way can be, an upper bound of the pass. Paths are read at their points. "
        f"Branches are wider with more members{', and large ones have their number' if large else ''}."
        f"{zeros_caption([found.loss])}{solved}{unfinished_caption(found.unfinished)}"
        f"{' Dotted: not connected by any path that is known.' if dotted else ''}"
    )
