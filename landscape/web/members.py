"""Members: which are joined at which height, and what groups of them compute."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps

from landscape.analysis.passes import Passes, passes
from landscape.core.errors import plural
from landscape.figures.captions import unfinished_caption
from landscape.figures.pages import branch_width, power, with_unit
from landscape.figures.passes import branch_sizes, large_branches, merge_order
from landscape.figures.planes import MAP
from landscape.web.curves import HALF, at_the_edge, drawing, figure, legend
from landscape.web.data import CARDS, MOST_PASSES, Lines, Members, Section, Training
from landscape.web.markup import Markup, number, tag
from landscape.web.svg import MOST_CELLS, SHADES, UNIT, Axis, Frame, cells

__all__ = ["PALETTE", "cards_view", "color_bar", "ends_view", "passes_views"]

PALETTE = MAP(np.linspace(0, 1, SHADES))
#: Members up to which each is named in a drawing, and of which more are drawn with thin legs.
_NAMED, _CROWD = 30, 200
#: Length of a branch that has room for its number, in units.
_ROOM = 16 * UNIT
#: Filters of a card, and cases of samples on it.
_FILTERS, _CASES = 12, 6
#: Share of the pairs of members that must have a path for a matrix.
_SHARE = 0.2


def passes_views(section: Section, members: Members) -> list[Markup]:
    """The matrix of barriers between members, and their disconnectivity graph, of all lines between members."""
    eligible = [each.result for each in section.lines if each.result.kind != "ray" and not any(each.result.moves)]
    if not eligible:
        return []
    count = len({source for each in eligible for source in each.sources})
    if count > MOST_PASSES:
        section.remarks.append(
            f"disconnectivity graph and matrix: {count:,} members, and they are drawn of up to {MOST_PASSES:,}"
        )
        return []
    found = section.tried("disconnectivity graph and matrix", lambda: passes(*eligible))
    if found is None or len(found.members) < 3:
        return []
    found = dataclasses.replace(found, unfinished=tuple(each.unfinished for each in section.lines))
    order = merge_order(len(found.members), found.merges, found.loss)
    views = [_graph(found, order, members)]
    if len(found) >= max(_SHARE * len(order) * (len(order) - 1) / 2, len(order)):  # more than a star has
        views.insert(0, _matrix(found, order, members))
    return views


def _matrix(found: Passes, order: Sequence[int], members: Members) -> Markup:
    """Barriers of the lowest known paths, members in the order in which they merge."""
    place = np.argsort(order)
    heights = np.full((len(order), len(order)), np.nan)
    rows, columns = place[found.pairs].T
    heights[rows, columns] = heights[columns, rows] = found.barrier(found.known)
    shares, ticks = _shares(heights)
    side = HALF[1] - 60 * UNIT
    left, top = 110 * UNIT, 10 * UNIT
    numbers = [members.known(source) for source in found.sources]
    ids = [-1 if (known := numbers[each]) is None else known for each in order]
    names, step = [], side / len(order)
    size = round(min(12 * UNIT, 0.8 * step))
    for row, each in enumerate(order if len(order) <= _NAMED else ()):
        at = round(top + (row + 0.5) * step + 0.35 * size)
        names.append(tag("text", _short(found.members[each]), x=left - 6 * UNIT, y=at, text_anchor="end"))
    title = f"Barriers between {plural(len(order), 'member')}"
    box = (left, top, side, side)
    label = tag("text", "members, as they merge", x=left + side // 2, y=top + side + 18 * UNIT, text_anchor="middle")
    grid = cells(shares, PALETTE, box)
    bar = color_bar(ticks, HALF[0] - 110 * UNIT, top, side)
    svg = drawing(
        HALF,
        title,
        tag("rect", x=left, y=top, width=side, height=side, class_="paper"),
        grid,
        tag("g", *names, class_="names", font_size=size, aria_hidden="true"),
        tag("g", label, class_="axes", aria_hidden="true"),
        bar,
        kind="matrix",
        data_members=" ".join(map(str, ids)),
        data_box=" ".join(map(str, box)),
    )
    what = "how far the highest loss on the lowest known path lies above the higher end"
    unit = with_unit(what, found.about.get("loss_unit"))
    missing = f" Blank: {plural(len(found.missing), 'pair')} without a path." if len(found.missing) else ""
    picture = " Many cells: a picture." if heights.size > MOST_CELLS else ""
    caption = f"Colour: {unit}, read at the points of paths. Order: as groups merge.{missing}{picture}"
    return figure(title, caption + unfinished_caption(found.unfinished), svg)


def _shares(heights: Float[np.ndarray, "row column"]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights as shares of a palette, on a log scale where they differ much, and the ticks of that."""
    known = heights[np.isfinite(heights)]
    positive = known[known > 0]
    if not len(positive):
        return np.where(np.isnan(heights), np.nan, 0.0), [(0.0, "0")]
    high = float(positive.max())
    low = max(float(positive.min()), 1e-4 * high)
    if low > 0.1 * high:
        return np.clip(heights / high, 0, 1), [(0.0, "0"), (0.5, f"{high / 2:.2g}"), (1.0, f"{high:.2g}")]
    axis = Axis(float(np.log10(low)), float(np.log10(high)), 0.0, 1.0, log=True)
    finite = np.where(np.isposinf(heights), high, heights)
    decades = range(int(np.ceil(axis.low)), int(np.floor(axis.high)) + 1)
    ticks = [((k - axis.low) / (axis.high - axis.low), power(k)) for k in decades]
    return axis(finite), [(0.0, f"≤ {low:.1g}"), *[each for each in ticks if each[0] > 0.08]]


def color_bar(ticks: Sequence[tuple[float, str]], left: int, top: int, height: int) -> Markup:
    """What colours mean: a bar with its ticks, shares of it."""
    width = 14 * UNIT
    bar = cells(np.linspace(1, 0, SHADES)[:, None], PALETTE, (left, top, width, height))
    labels = [
        tag("text", label, x=left + width + 6 * UNIT, y=round(top + (1 - share) * height + 4 * UNIT))
        for share, label in ticks
    ]
    return tag("g", bar, *labels, class_="axes", aria_hidden="true")


def _short(name: str) -> str:
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= 14 else f"…{name[-13:]}"


def _graph(found: Passes, order: Sequence[int], members: Members) -> Markup:
    """The tree of merges over the loss: a leg stands on each member's own loss and ends where it merges."""
    across, up = Frame.sides(*HALF)
    heights = np.array([merge.height for merge in found.merges])
    top = 1.5 * float(np.nanmax(np.where(np.isfinite(each := np.append(heights, found.loss)), each, np.nan)))
    roots = len(order) - 1 > len(found.merges)
    y = Axis.of_losses([found.loss, heights, np.array([top] if roots else [])], *up)
    x = Axis(-0.7, len(order) - 0.3, *across, whole=True)
    unit = with_unit("loss", found.about.get("loss_unit"))
    frame = Frame(*HALF, x, y, f"{plural(len(order), 'member')}, as they merge", unit)
    at = [float(place) for place in np.argsort(order)]
    foot = found.loss.tolist()
    legs: dict[int, str] = {}
    bars = []

    def point(place: float, height: float) -> tuple[int, int]:
        return x.at(place), y.at(height)

    for merge in found.merges:
        ends = [point(at[node], merge.height) for node in (merge.first, merge.second)]
        for node, (left, high) in zip((merge.first, merge.second), ends, strict=True):
            legs[node] = f"M{left} {point(at[node], foot[node])[1]}V{high}"
        bars.append(f"M{ends[0][0]} {ends[0][1]}H{ends[1][0]}")
        at.append((at[merge.first] + at[merge.second]) / 2)
        foot.append(merge.height)
    free = [each for each in range(len(at)) if each not in legs]
    dotted = [f"M{left} {low}V{point(0, top)[1]}" for left, low in (point(at[each], foot[each]) for each in free)]
    leaves = []
    radius = round(UNIT * float(np.clip(120 / len(order), 1.2, 4)))
    for member in order:
        left, low = point(at[member], foot[member])
        kind = 0 if found.solved is None or found.solved[member] else 1
        leg, dot = tag("path", d=legs.get(member, f"M{left} {low}v0")), tag("circle", cx=left, cy=low, r=radius)
        leaves.append(tag("g", leg, dot, class_=f"k{kind}", data_m=members.known(found.sources[member])))
    sizes = branch_sizes(len(order), found.merges)
    width = np.rint(branch_width(sizes, len(order))).astype(int)
    wide = {
        size: "".join(leg for each, leg in legs.items() if each >= len(order) and width[each] == size)
        for size in range(7)
    }
    meets = {node: merge.height for merge in found.merges for node in (merge.first, merge.second)}
    numbers = []
    for node in large_branches(len(order), found.merges):
        left, high = point(at[node], meets.get(node, top))
        if point(0, foot[node])[1] - high > _ROOM:
            away = left - 4 * UNIT - 2 * int(width[node])
            numbers.append(tag("text", sizes[node], x=away, y=high + 13 * UNIT, text_anchor="end"))
    title = f"Disconnectivity graph of {plural(len(order), 'member')}"
    svg = drawing(
        HALF,
        title,
        frame.axes(),
        tag("path", d="".join(bars), class_="legs"),
        *(tag("path", d=drawn, class_=f"legs w{size}") for size, drawn in wide.items() if drawn),
        tag("path", d="".join(dotted), class_="open") if roots else "",
        *leaves,
        tag("g", *numbers, class_="axes counts", aria_hidden="true"),
        kind="marks graph" if len(order) <= _CROWD else "marks graph crowd",
    )
    solved = np.zeros(0, dtype=bool) if found.solved is None else found.solved
    counts = ("solved", solved.sum()), ("not solved", (~solved).sum())
    names = [(kind, f"{name}: {count}") for kind, (name, count) in enumerate(counts) if count]
    caption = (
        "Two members are connected from the loss on at which their legs meet: the lowest, over all chains of known "
        f"paths, of the highest loss on the way, an upper bound of the pass. {plural(len(found), 'pair')} with a known "
        f"path, {len(found.missing)} without. Paths are read at their points. Branches are wider with more members"
        f"{', and large ones have their number' if numbers else ''}.{at_the_edge(y)}"
        f"{unfinished_caption(found.unfinished)}"
    )
    return figure(title, caption + (" Dotted: not connected by any." if roots else ""), legend(names), svg)


def cards_view(of: Training) -> Markup:
    """A card a function that members of a run compute, the largest first."""
    assert of.cards is not None
    found, kernels = of.cards.found, of.cards.kernels
    drawn = []
    for place, group in enumerate(found.groups[:CARDS]):
        own = [member for row, member in of.members.items() if found.group[row] == place]
        low, high = group.share.interval
        right = "" if group.right is None else f", {group.right} of {found.total} right"
        share = f"{100 * group.share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"
        said = tag("p", f"{share}, median loss {number(group.loss, 3)}")
        tiles = [] if kernels is None else [_filters(kernels[place])]
        wrong = sorted(group.wrong, key=lambda each: -each[1])
        rows = [
            tag("li", tag("progress", value=k, max=n, aria_hidden="true"), f" {name}: {k} of {n}")
            for name, k, n in wrong[:_CASES]
        ]
        more = f" and {len(wrong) - _CASES} more kinds of samples" if len(wrong) > _CASES else ""
        heading = f"{place + 1}. {plural(group.share.count, 'member')}: {group.kind}{right}"
        mistakes = [tag("p", "wrong:"), tag("ul", *rows), more] if rows else []
        drawn.append(_card(heading, own, int(found.kind[group.example]), said, *tiles, *mistakes))
    rest = found.groups[CARDS:]
    if rest:
        drawn.append(tag("p", f"{len(rest)} more functions of {sum(each.share.count for each in rest)} members."))
    known = of.cards.known
    reference = []
    if known is not None:
        reference = [tag("div", tag("p", "Filters of the known solution:"), _filters(known), class_="reference")]
    caption = f"{found.solved} solved. A card is a function: {found.compared}; intervals 95 %, each alone."
    if kernels is not None:
        caption += " Filters of the first layer of one member, each card on its own scale, red above 0, blue below."
    title = f"What members of {of.name} compute"
    return figure(title, caption, tag("div", *drawn, class_="cards"), *reference, wide=True)


def _card(heading: str, own: Sequence[int], color: int, *inside: object) -> Markup:
    return tag(
        "article",
        tag("h4", tag("i", class_=f"k{color}"), heading),
        *inside,
        class_="card",
        tabindex=0,
        data_m=" ".join(map(str, own)),
        data_t=heading,
    )


def _filters(kernels: Float[np.ndarray, "filter row column"]) -> Markup:
    """Filters as small images on one scale."""
    count, rows, columns = min(len(kernels), _FILTERS), *kernels.shape[1:]
    scale = float(np.abs(kernels).max()) or 1.0
    colors = colormaps["RdBu_r"](np.linspace(0, 1, SHADES))
    wide = 10 * columns + 6
    drawn = []
    for k, each in enumerate(kernels[:count]):
        left, top, width, height = box = (wide * k + 1, 1, 10 * columns, 10 * rows)
        frame = tag("rect", x=left, y=top, width=width, height=height, class_="frame")
        drawn += [cells(0.5 + 0.5 * each / scale, colors, box), frame]
    size = {"width": wide * count, "height": 10 * rows + 2}
    view = f"0 0 {size['width']} {size['height']}"
    more = f", {len(kernels) - count} more not shown" if len(kernels) > count else ""
    label = f"{plural(count, 'filter')} of {rows} x {columns}{more}"
    return tag("svg", *drawn, viewBox=view, class_="filters", role="img", aria_label=label, **size)


def ends_view(lines: Lines) -> Markup:
    """Without a run: a card a kind of end, with what is known of its lines."""
    drawn = []
    first = lines.result.inside.stop - 1
    for place, name in enumerate(lines.names):
        of = np.flatnonzero(lines.group == place)
        if not len(of):
            continue
        own = [lines.ends[k][1] for k, line in enumerate(lines.shown.tolist()) if lines.group[line] == place]
        both = lines.found.above_chord[of], lines.result.loss[of, first]
        barrier, loss = (
            float(np.median(each[~np.isnan(each)])) if not np.isnan(each).all() else np.nan for each in both
        )
        said = f"median loss at the end {number(loss, 3)}, median barrier above the chord {number(barrier, 3)}"
        drawn.append(_card(f"{plural(len(of), 'line')}: {name}", own, place, tag("p", said)))
    return figure(f"Groups of lines of {lines.name}", "By where a line ends.", tag("div", *drawn, class_="cards"))
