"""Curves: the loss along lines, the loss while members learnt, and outcomes against steps."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from landscape.analysis.barriers import DEFINITIONS
from landscape.core.errors import plural
from landscape.figures.captions import obtained, unfinished_caption
from landscape.figures.pages import COLORS, group_opacity, with_unit
from landscape.web.data import Lines, Members, Training
from landscape.web.markup import Markup, tag
from landscape.web.svg import UNIT, Axis, Frame, along, path

__all__ = ["at_the_edge", "drawing", "figure", "incidence_view", "legend", "lines_view", "traces_view"]

#: Size of a wide drawing, and of one of two side by side.
WIDE, HALF = (1120 * UNIT, 400 * UNIT), (560 * UNIT, 360 * UNIT)
#: Quantiles of the bands of many curves, outermost first, and the middle.
_BANDS, _MIDDLE = ((0.05, 0.95), (0.25, 0.75)), 0.5
#: Lines around which bands of their errors are drawn, at most.
_BANDED = 10
#: Values that are looked at together, which bounds the memory.
_BLOCK = 2**23

Rows = Float[np.ndarray, "line point"]


def drawing(size: tuple[int, int], label: str, *inside: object, kind: str, **attributes: object) -> Markup:
    """A drawing that the keyboard reaches, and what is lit in it on top."""
    return tag(
        "svg",
        *inside,
        tag("g", class_="top"),
        viewBox=f"0 0 {size[0]} {size[1]}",
        class_=kind,
        tabindex=0,
        role="application",
        aria_roledescription="interactive figure",
        aria_label=f"{label}. Arrow keys move, Enter keeps, Escape clears.",
        **attributes,
    )


def figure(title: str, caption: str, *inside: object, wide: bool = False) -> Markup:
    """A drawing under its title, and below it what it shows."""
    return tag(
        "figure",
        tag("h3", title),
        *inside,
        tag("figcaption", caption),
        class_="wide" if wide else None,
    )


def legend(entries: Sequence[tuple[int, str]]) -> Markup:
    """What the colours mean; nothing where there is one."""
    keys = (tag("span", tag("i", class_=f"k{_color(index)}"), name) for index, name in entries)
    return tag("p", *keys, class_="legend") if entries else Markup("")


def _color(index: int) -> int:
    """The colour of a group: those beyond the last are alike."""
    return min(index, len(COLORS))


def at_the_edge(axis: Axis) -> str:
    """Where zeros are, if there are any."""
    return " Zeros lie at the lower edge of the log axis." if axis.log and axis.zeros else ""


def lines_view(lines: Lines, members: Members) -> Markup:
    """The loss along each line over alpha; of many lines bands of quantiles, and some of the lines."""
    curves, shown = lines.result, lines.shown
    alpha, loss = curves.alpha, curves.loss[shown]
    behind = curves.values["loss_straight"][shown] if "loss_straight" in curves.values else None
    bands = [] if lines.all_shown else list(_bands(curves.loss))
    across, up = Frame.sides(*WIDE)
    y = Axis.of_losses([loss, *bands, *([] if behind is None else [behind])], *up)
    x = Axis(float(alpha[0]), float(alpha[-1]), *across)
    unit = curves.about.get("loss_unit")
    frame = Frame(*WIDE, x, y, "alpha (0: start, 1: end of the line)", with_unit("loss", unit))
    at, places = x(alpha), y(loss)
    groups = lines.group[shown]
    half = next((curves.values[name][shown] for name in ("loss_error", "loss_se") if name in curves.values), None)
    top = lines.found.peak_alpha[shown], lines.found.peak_loss[shown]
    peaks = zip(*(axis(each).tolist() for axis, each in zip((x, y), top, strict=True)), strict=True)
    points = [None if up != up or left != left else f"{left:.0f} {up:.0f}" for left, up in peaks]
    drawn = []
    if behind is not None:
        straight = "".join(path(at, each) for each in y(behind))
        drawn.append(tag("path", d=straight, class_="behind", opacity=f"{group_opacity(len(shown), 0.6):.2f}"))
    if half is not None and len(shown) <= _BANDED:
        ends = (y(np.maximum(loss + sign * half, 0.0)) for sign in (-1, 1))
        for low, high, group in zip(*ends, groups.tolist(), strict=True):
            drawn.append(tag("path", d=along(at, low, high), class_=f"area k{_color(group)}"))
    index, counts = np.unique(groups, return_counts=True)
    for group in index[np.argsort(-counts, kind="stable")].tolist():
        of = np.flatnonzero(groups == group).tolist()
        paths = (tag("path", d=path(at, places[i]), data_l=lines.first + i, data_p=points[i]) for i in of)
        drawn.append(tag("g", *paths, class_=f"g{_color(group)}", opacity=f"{_opacity(len(of)):.2f}"))
    total = np.bincount(lines.group, minlength=len(lines.names)).tolist()
    names = [
        (number, f"{name}: {count}")
        for number, (name, count) in enumerate(zip(lines.names, total, strict=False))
        if count
    ]
    how = obtained(curves)
    many = "" if lines.all_shown else _aggregated(len(curves), len(shown), "barrier")
    many += "Bands: one standard error. " if "loss_se" in curves.values and len(shown) <= _BANDED else ""
    barrier = DEFINITIONS["above_chord"].formula
    caption = f"{how} {many}Barrier: {barrier}; {_interval(lines)}.{at_the_edge(y)}"
    if lost := int(np.isnan(loss).any(axis=1).sum()):
        caption += f" {plural(lost, 'line')} with NaN on the way: gaps."
    caption += unfinished_caption([lines.unfinished])
    title = f"{plural(len(curves), 'line')} of {lines.name}{', which is not finished' if lines.unfinished else ''}"
    svg = drawing(WIDE, f"{title}: loss against alpha", *_areas(at, y, bands), frame.axes(), *drawn, kind="curves")
    return figure(title, caption, legend(names), svg, wide=True)


def _interval(lines: Lines) -> str:
    """How heights of barriers were obtained."""
    if "barrier_low" in lines.result:
        return "in brackets its 95 % interval"
    if "above_chord" in lines.found.bounds:
        return "in brackets certified bounds of it, which hold between the points too"
    points = len(lines.result.alpha[lines.result.inside])
    return f"read off the {points} points of each line, between which it may be higher"


def _opacity(count: int) -> float:
    return max(group_opacity(count), 0.15)


def _aggregated(total: int, shown: int, what: str) -> str:
    return (
        f"Of {total:,} curves the bands hold 90 % and 50 % at each point, the line is the median; {shown} are drawn, "
        f"at evenly spaced ranks of the {what}. "
    )


def _bands(values: Rows) -> Iterator[Float[np.ndarray, "_ point"]]:
    """Quantiles at each point: of the bands, outermost first, then the middle; NaN does not count."""
    levels = [level for band in _BANDS for level in band] + [_MIDDLE]
    count, points = values.shape
    size = max(1, _BLOCK // count)
    parts = []
    for first in range(0, points, size):
        block = np.asarray(values[:, first : first + size])
        rows = np.sort(np.where(np.isnan(block), np.inf, block), axis=0)
        there = (~np.isnan(block)).sum(axis=0)
        at = np.floor(np.outer(levels, np.maximum(there - 1, 0)) + 0.5).astype(np.int64)
        parts.append(np.where(there, np.take_along_axis(rows, at, axis=0), np.nan))
    found = np.concatenate(parts, axis=1)
    yield from (found[0:2], found[2:4], found[4:5])


def _areas(at: Float[np.ndarray, " point"], y: Axis, bands: Sequence[Float[np.ndarray, "_ point"]]) -> list[Markup]:
    if not bands:
        return []
    *areas, middle = [y(each) for each in bands]
    drawn = [tag("path", d=along(at, *each), class_="band") for each in areas]
    return [*drawn, tag("path", d=path(at, middle[0]), class_="middle")]


def traces_view(of: Training) -> Markup:
    """The loss of each member against steps of training."""
    traces = of.traces
    assert traces is not None
    everyone = len(traces.shown) == len(traces.loss)
    bands = [] if everyone else list(_bands(traces.loss))
    across, up = Frame.sides(*HALF)
    x, y = Axis.of_steps(traces.steps, *across), Axis.of_losses([traces.loss[traces.shown], *bands], *up)
    frame = Frame(*HALF, x, y, "steps of training", "loss")
    at, places = x(traces.steps), y(traces.loss)
    rows = traces.shown.tolist()
    kinds = np.zeros(len(traces.loss), dtype=int) if of.cards is None else of.cards.found.kind
    drawn = []
    for kind in np.unique(kinds[rows])[::-1].tolist():
        own = [row for row in rows if kinds[row] == kind]
        paths = (tag("path", d=path(at, places[row], dots=True), data_m=of.members[row]) for row in own)
        drawn.append(tag("g", *paths, class_=f"g{_color(kind)}", opacity=f"{_opacity(len(own)):.2f}"))
    names = [] if of.cards is None else kinds_legend(kinds)
    many = "" if everyone else _aggregated(len(traces.loss), len(rows), "loss at the end")
    title = f"Training of {of.name}"
    svg = drawing(HALF, f"{title}: loss against steps", *_areas(at, y, bands), frame.axes(), *drawn, kind="curves")
    lost = int((~np.isfinite(traces.loss)).all(axis=1).sum())
    without = f" Not drawn: {plural(lost, 'member')} without a finite loss." if lost else ""
    caption = f"{traces.how[0].upper()}{traces.how[1:]}. {many}{at_the_edge(y).strip()}{without}"
    return figure(title, caption, legend(names), svg)


def kinds_legend(kinds: np.ndarray) -> list[tuple[int, str]]:
    """Kinds of outcomes with their counts."""
    from landscape.analysis.outcomes import KINDS

    return [(kind, f"{KINDS[kind]}: {(kinds == kind).sum()}") for kind in np.unique(kinds).tolist()]


def incidence_view(of: Training) -> Markup:
    """The share of members solved at, and by, each saved step; a point lights up those that were solved first by it."""
    found = of.incidence
    assert found is not None
    across, up = Frame.sides(*HALF)
    steps = np.array(found.steps, dtype=float)
    ends = np.array([each.interval for each in found.at])
    highest = max(float(found.high[0].max()), float(ends.max()), 0.05)
    x, y = Axis.of_steps(steps, *across), Axis(0.0, 103 * min(highest, 1.0), *up)
    frame = Frame(*HALF, x, y, "steps of training (saved ones)", "members (%)")
    at = np.append(x(steps), x.start + x.length)
    drawn = []
    for cause, color in ((1, 2), (0, 0)):
        every = (found.low, found.high, found.by)
        low, high, share = (y(100 * np.append(each[cause], each[cause, -1])) for each in every)
        drawn.append(tag("path", d=along(at, low, high, stairs=True), class_=f"area k{color}"))
        drawn.append(tag("path", d=path(np.repeat(at, 2)[1:], np.repeat(share, 2)[:-1]), class_=f"stairs g{color}"))
    for step, each, (bottom, top) in zip(found.steps, found.at, ends.tolist(), strict=True):
        left, middle = x.at(step), y.at(100 * each.value)
        own = [m for row, m in of.members.items() if found.first[row] == step and found.cause[row] == 0]
        told = f"step {step:,}: {each.count} of {each.total} solved ({100 * bottom:.1f} to {100 * top:.1f} %)"
        bar = tag("path", d=f"M{left} {y.at(100 * bottom)}V{y.at(100 * top)}")
        dot = tag("circle", tag("title", told), cx=left, cy=middle, r=5 * UNIT)
        drawn.append(tag("g", bar, dot, class_="at", data_m=" ".join(map(str, own)), data_t=told))
    title = f"Outcome of {of.name} against steps"
    svg = drawing(HALF, title, frame.axes(), *drawn, kind="marks")
    names = [(0, "solved by"), (1, "solved at"), (2, "dead by")]
    return figure(title, found.caption(), legend(names), svg)
