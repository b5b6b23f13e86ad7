"""Members: which are joined at which height, and what groups of them compute."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps

from landscape.analysis.passes import Passes, passes
from landscape.core.errors import plural
from landscape.figures.pages import power, with_unit
from landscape.figures.passes import merge_order
from landscape.figures.planes import MAP
from landscape.web.curves import HALF, drawing, figure, legend
from landscape.web.data import CARDS, MOST_PASSES, Lines, Members, Section, Training
from landscape.web.markup import Markup, number, tag
from landscape.web.svg import MOST_CELLS, SHADES, UNIT, Axis, Frame, cells

__all__ = ["PALETTE", "cards_view", "color_bar", "ends_view", "passes_views"]

PALETTE = MAP(np.linspace(0, 1, SHADES))
#: Members up to which each is named in a drawing, filters of a card, and cases of samples on it.
_NAMED, _FILTERS, _CASES = 30, 12, 6
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
    order = merge_order(len(found.members), found.merges, found.loss)
    views = [_graph(found, order, members)]
    if len(found) >= max(_SHARE * len(order) * (len(order) - 1) / 2, 3):
        views.insert(0, _matrix(found, order, members))
    return views


def _numbers(found: Passes, members: Members) -> list[int | None]:
    return [members.known(source) for source in found.sources]


def _matrix(found: Passes, order: Sequence[int], members: Members) -> Markup:
    """Barriers of the lowest known paths, members in the order in which they merge."""
    place = np.argsort(order)
    heights = np.full((len(order), len(order)), np.nan)
    rows, columns = place[found.pairs].T
    heights[rows, columns] = heights[columns, rows] = found.barrier(found.known)
    shares, ticks = _shares(heights)
    side = HALF[1] - 60 * UNIT
    left, top = 110 * UNIT, 10 * UNIT
    ids = [number if number is not None else -1 for number in (_numbers(found, members)[each] for each in order)]
    names = []
    if len(order) <= _NAMED:
        step = side / len(order)
        for row, each in enumerate(order):
            at = round(top + (row + 0.5) * step + 4 * UNIT)
            names.append(tag("text", _short(found.members[each]), x=left - 6 * UNIT, y=at, text_anchor="end"))
    title = f"Barriers between {plural(len(order), 'member')}"
    box = (left, top, side, side)
    label = tag(
        "text", "members, as they merge", x=left + side // 2, y=top + side + 18 * UNIT, text_anchor="middle"
    )
    grid = cells(shares, PALETTE, box)
    bar = color_bar(ticks, HALF[0] - 110 * UNIT, top, side)
    svg = drawing(
        HALF,
        title,
        tag("rect", x=left, y=top, width=side, height=side, class_="paper"),
        grid,
        tag("g", *names, label, class_="axes", aria_hidden="true"),
        bar,
        kind="matrix",
        data_members=" ".join(map(str, ids)),
        data_box=" ".join(map(str, box)),
    )
    unit = with_unit("how far the highest loss on the lowest known path lies above the higher end", found.about.get("loss_unit"))
    missing = f" Blank: {plural(len(found.missing), 'pair')} without a path." if len(found.missing) else ""
    picture = " Many cells: a picture." if heights.size > MOST_CELLS else ""
    return figure(title, f"Colour: {unit}, read at the points of paths. Order: as groups merge (right).{missing}{picture}", svg)


def _shares(heights: Float[np.ndarray, "row column"]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights as shares of a palette, on a log scale where they differ much, and the ticks of that."""
    known = heights[np.isfinite(heights)]
    positive = known[known > 0]
    if not len(positive):
        return np.where(np.isnan(heights), np.nan, 0.0), [(0.0, "0")]
    high = float(positive.max())
    low = max(float(positive.min()), 1e-4 * high)
    if low > 0.1 * high:
        axis = Axis(0.0, high, 0.0, 1.0)
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
    x = Axis(-1.0, float(len(order)), *across)
    frame = Frame(*HALF, x, y, f"{plural(len(order), 'member')}, as they merge", with_unit("loss", found.about.get("loss_unit")))
    at = [float(place) for place in np.argsort(order)]
    foot = found.loss.tolist()
    legs: dict[int, str] = {}
    bars = []

    def point(place: float, height: float) -> tuple[int, int]:
        down = float(y(np.array(height)))
        return round(float(x(np.array(place)))), round(down if down == down else y.start + y.length)

    for merge in found.merges:
        ends = [point(at[each], merge.height) for each in (merge.first, merge.second)]
        for each, (left, high) in zip((merge.first, merge.second), ends, strict=True):
            legs[each] = f"M{left} {point(at[each], foot[each])[1]}V{high}"
        bars.append(f"M{ends[0][0]} {ends[0][1]}H{ends[1][0]}")
        at.append((at[merge.first] + at[merge.second]) / 2)
        foot.append(merge.height)
    free = [each for each in range(len(at)) if each not in legs]
    dotted = [f"M{left} {low}V{point(0, top)[1]}" for left, low in (point(at[each], foot[each]) for each in free)]
    numbers = _numbers(found, members)
    leaves = []
    radius = round(UNIT * float(np.clip(120 / len(order), 1.2, 4)))
    for each in order:
        left, low = point(at[each], foot[each])
        kind = 0 if found.solved is None or found.solved[each] else 1
        dot = tag("circle", cx=left, cy=low, r=radius)
        leaves.append(tag("g", tag("path", d=legs.get(each, f"M{left} {low}v0")), dot, class_=f"k{kind}", data_m=numbers[each], data_t=found.members[each]))
    inner = "".join(leg for each, leg in legs.items() if each >= len(order))
    title = f"Disconnectivity graph of {plural(len(order), 'member')}"
    svg = drawing(
        HALF,
        title,
        frame.axes(),
        tag("path", d="".join(bars) + inner, class_="legs"),
        tag("path", d="".join(dotted), class_="open") if roots else "",
        *leaves,
        kind="marks graph",
    )
    names = [] if found.solved is None else [(0, f"solved: {found.solved.sum()}"), (1, f"not solved: {(~found.solved).sum()}")]
    caption = (
        "Two members are connected from the loss on at which their legs meet: the lowest, over all chains of known "
        f"paths, of the highest loss on the way, an upper bound of the pass. {plural(len(found), 'pair')} with a known path, "
        f"{len(found.missing)} without. Paths are read at their points."
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
        said = [f"{100 * group.share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f} %), median loss {number(group.loss, 3)}"]
        tiles = [] if kernels is None else [_filters(kernels[place])]
        wrong = sorted(group.wrong, key=lambda each: -each[1])
        rows = [
            tag("li", tag("meter", value=k, max=n, aria_hidden="true"), f" {name}: {k} of {n}") for name, k, n in wrong[:_CASES]
        ]
        more = f" and {len(wrong) - _CASES} more kinds of samples" if len(wrong) > _CASES else ""
        heading = f"{place + 1}. {plural(group.share.count, 'member')}: {group.kind}{right}"
        mistakes = [tag("p", "wrong:"), tag("ul", *rows), more] if rows else []
        drawn.append(_card(heading, own, int(found.kind[group.example]), *(tag("p", line) for line in said), *tiles, *mistakes))
    rest = found.groups[CARDS:]
    if rest:
        drawn.append(tag("p", f"{len(rest)} more functions of {sum(each.share.count for each in rest)} members."))
    known = of.cards.known
    reference = [tag("div", tag("p", "Filters of the known solution:"), _filters(known), class_="reference")] if known is not None else []
    caption = (
        f"{found.solved} solved. A card is a function: {found.compared}; intervals 95 %, each alone. "
        + ("Filters of the first layer of one member, each row on its own scale, red above 0 and blue below. " if kernels is not None else "")
    )
    return figure(f"What members of {of.name} compute", caption, tag("div", *drawn, class_="cards"), *reference, wide=True)


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
    drawn = [cells(0.5 + 0.5 * each / scale, colors, (wide * k + 1, 1, 10 * columns, 10 * rows)) for k, each in enumerate(kernels[:count])]
    frames = [tag("rect", x=wide * k + 1, y=1, width=10 * columns, height=10 * rows, class_="frame") for k in range(count)]
    size = f"0 0 {wide * count} {10 * rows + 2}"
    more = f", {len(kernels) - count} more not shown" if len(kernels) > count else ""
    label = f"{plural(count, 'filter')} of {rows} x {columns}{more}"
    return tag("svg", *drawn, *frames, viewBox=size, class_="filters", role="img", aria_label=label, width=wide * count, height=10 * rows + 2)


def ends_view(lines: Lines) -> Markup:
    """Without a run: a card a kind of end, with what is known of its lines."""
    drawn = []
    first = lines.result.inside.stop - 1
    for place, name in enumerate(lines.names):
        of = np.flatnonzero(lines.group == place)
        if not len(of):
            continue
        own = [lines.ends[k][1] for k, line in enumerate(lines.shown.tolist()) if lines.group[line] == place]
        barrier, loss = (float(np.nanmedian(each)) for each in (lines.found.above_chord[of], lines.result.loss[of, first]))
        said = f"median loss at the end {number(loss, 3)}, median barrier above the chord {number(barrier, 3)}"
        drawn.append(_card(f"{plural(len(of), 'line')}: {name}", own, place, tag("p", said)))
    return figure(f"Groups of lines of {lines.name}", "By where a line ends.", tag("div", *drawn, class_="cards"))
