"""Drawings in SVG: axes, curves of whole numbers, and cells as paths or, where they are many, as a picture."""

import base64
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from landscape.figures.pages import power
from landscape.figures.scales import floor_below, in_words, on_axis, round_numbers
from landscape.web.markup import Markup, tag

__all__ = ["MOST_CELLS", "SHADES", "UNIT", "Axis", "Frame", "along", "cells", "path", "rgb"]

#: Units of a drawing in a point of its text: whole numbers are then a quarter of a point apart, and short.
UNIT = 4
#: Cells beyond which they are a picture.
MOST_CELLS = 10_000
#: How far, in units, a curve may pass by points that are left out.
_APART = 1.5
#: Colours that cells are rounded to, so that those of one colour are one path.
SHADES = 64
#: Half the length of a dash that is a single point.
_DASH = 2 * UNIT
#: Width of a letter, at most about.
_WIDE = 8 * UNIT
#: Points beside one another, and decades, with a label at most.
_TICKS = 6
#: Decades that a log axis spans at least.
_NARROWEST = 0.3
#: The same of steps, so that between 1 and 2, the fewest, both have a label.
_TWICE = 0.31
#: Fewer labels do not tell a scale.
_FEWEST = 3

Points = Float[np.ndarray, "line point"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Numbers between two ends as places in units, from `start` on over a `length`, which is negative upwards.

    On a `log` axis zeros lie at the low end, where `zeros` says so. Labels of numbers that are `whole` are whole too.
    """

    low: float
    high: float
    start: float
    length: float
    log: bool = False
    zeros: bool = False
    whole: bool = False

    @classmethod
    def of_losses(cls, values: Sequence[Float[np.ndarray, "..."]], start: float, length: float) -> "Axis":
        """A log axis that holds all finite values, zeros on its floor; a linear one if there are negative ones."""
        flat = np.concatenate([each.ravel() for each in values])
        flat = flat[np.isfinite(flat)]
        if not len(flat) or flat.min() < 0:
            return cls.linear(flat, start, length)
        floor, zeros = floor_below([flat]), bool((flat == 0).any())
        low, high = np.log10(floor if zeros else flat.min()), np.log10(max(flat.max(), 1.01 * floor))
        free = max(0.03 * (high - low), 0.5 * (_NARROWEST - (high - low)))
        return cls(float(low if zeros else low - free), float(high + free), start, length, log=True, zeros=zeros)

    @classmethod
    def linear(cls, values: Float[np.ndarray, "..."], start: float, length: float) -> "Axis":
        """A linear axis that holds all finite values, with a margin."""
        flat = values[np.isfinite(values)]
        low, high = (float(flat.min()), float(flat.max())) if len(flat) else (0.0, 1.0)
        free = 0.03 * (high - low) or 0.5 * abs(low) or 0.5
        return cls(low - free, high + free, start, length)

    @classmethod
    def of_steps(cls, steps: Iterable[float], start: float, length: float) -> "Axis":
        """A log axis of steps, on which 0 has a place before the first."""
        every = np.unique(np.array(list(steps), dtype=float))
        positive = every[every > 0]
        first, last = (np.log10(positive[0]), np.log10(positive[-1])) if len(positive) else (0.0, 1.0)
        zeros = bool((every == 0).any())
        low = first - (0.12 * (last - first) or 0.3) * zeros
        high = max(last + 0.03 * (last - first or 1), low + _TWICE)
        return cls(float(low), float(high), start, length, log=True, zeros=zeros, whole=bool((every % 1 == 0).all()))

    def __call__(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Places of values; NaN for what is not finite."""
        if self.log:
            values = np.log10(on_axis(values, 10**self.low))
        else:
            values = np.where(np.isfinite(values), values, np.nan)
        return np.asarray(self.start + self.length * (values - self.low) / (self.high - self.low))

    def at(self, value: float) -> int:
        """The place of one value, to a unit; the far end of the axis for what is not finite."""
        place = float(self(np.array(float(value))))
        return round(place if math.isfinite(place) else self.start + self.length)

    def ticks(self) -> list[tuple[int, str]]:
        """Places with a label: round numbers, on a log axis powers of ten where there are three or more."""
        if not self.log:
            places = MaxNLocator(_TICKS, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
            within = self._whole([float(each) for each in places if self.low <= each <= self.high])
            named = list(zip(within, in_words(within, powers=False), strict=True))
        else:
            near = self.low + self.zeros * 0.06 * (self.high - self.low)
            decades = list(range(int(np.ceil(near)), int(np.floor(self.high)) + 1))
            named = [(10.0**k, power(k)) for k in decades[:: 1 + len(decades) // (_TICKS + 1)]]
            if len(decades) < 3:
                # The first set with three, so that it tells the scale, or else the most.
                sets = [self._whole(each) for each in round_numbers(near, self.high)]
                best = next((each for each in sets if _FEWEST <= len(each) <= 2 * _TICKS), max(sets, key=len))
                named = list(zip(best, in_words(best), strict=True))
            named = [(value, label) for value, label in named if not self.whole or value >= 1]
            named = ([(0.0, "0")] if self.zeros else []) + named
        return [(self.at(value), label) for value, label in named]

    def _whole(self, values: Sequence[float]) -> list[float]:
        return [each for each in values if not self.whole or abs(each - round(each)) < 1e-9 * max(each, 1)]


@dataclasses.dataclass(frozen=True)
class Frame:
    """The axes of a drawing of a size in units, and what they are called."""

    width: int
    height: int
    x: Axis
    y: Axis
    xlabel: str
    ylabel: str
    #: Room left of the axes, below them, right of them and above.
    LEFT, BELOW, RIGHT, ABOVE = 66 * UNIT, 42 * UNIT, 20 * UNIT, 10 * UNIT

    @classmethod
    def sides(cls, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Start and length of the x axis and of the y axis, in a drawing of this size."""
        across, up = width - cls.LEFT - cls.RIGHT, height - cls.BELOW - cls.ABOVE
        return (cls.LEFT, across), (height - cls.BELOW, -up)

    def axes(self) -> Markup:
        """Lines and labels, below what is drawn."""
        left, right = round(self.x.start), round(self.x.start + self.x.length)
        bottom, top = round(self.y.start), round(self.y.start + self.y.length)
        rules = "".join(f"M{left} {at}H{right}" for at, _ in self.y.ticks())
        marks = [
            tag("text", label, x=left - 6 * UNIT, y=at + 4 * UNIT, text_anchor="end") for at, label in self.y.ticks()
        ]
        xs = self.x.ticks()
        marks += [tag("text", label, x=at, y=bottom + 16 * UNIT, text_anchor="middle") for at, label in xs]
        ends = f"M{left} {bottom}H{right}" + "".join(f"M{at} {bottom}v{4 * UNIT}" for at, _ in xs)
        middle = (top + bottom) // 2
        return tag(
            "g",
            tag("path", d=rules, class_="rule"),
            tag("path", d=ends, class_="axis"),
            *marks,
            _label(self.xlabel, right - left, x=(left + right) // 2, y=bottom + 34 * UNIT),
            _label(self.ylabel, bottom - top, transform=f"translate({12 * UNIT} {middle}) rotate(-90)"),
            class_="axes",
            aria_hidden="true",
        )


def _label(words: str, room: int, **place: object) -> Markup:
    """The name of an axis, drawn narrower where it is longer than the axis."""
    narrow = {"textLength": room, "lengthAdjust": "spacingAndGlyphs"} if _WIDE * len(words) > room else {}
    return tag("text", words, text_anchor="middle", **narrow, **place)


def path(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"], *, dots: bool = False) -> str:
    """The curve through places in units, as whole numbers, without points that it passes near; gaps where NaN is. With
    `dots` a point alone is a dash, that it is seen.

    >>> path(np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 2, 90]))
    'M0 0l2 2 1 88'
    """
    there = np.isfinite(x) & np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
    return "".join(
        f"M{x[first] - _DASH:.0f} {y[first]:.0f}l{2 * _DASH} 0"
        if dots and last - first == 1
        else _stroke(x[first:last], y[first:last])
        for first, last in edges.reshape(-1, 2)
    )


def _stroke(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> str:
    kept = _kept(x, y)
    points = np.column_stack([np.rint(x[kept]), np.rint(y[kept])]).astype(np.int64)
    (left, up), moves = points[0].tolist(), np.diff(points, axis=0)
    told = " ".join(f"{across} {down}" for across, down in moves.tolist())
    return f"M{left} {up}" + (f"l{told.replace(' -', '-')}" if told else "")


def _kept(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> Bool[np.ndarray, " point"]:
    """Which points a curve keeps: D. Douglas, T. Peucker, Cartographica 10, 1973, with vertical distances."""
    kept = np.zeros(len(x), dtype=bool)
    kept[[0, -1]] = True
    open_ = [(0, len(x) - 1)]
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        span = x[last] - x[first]
        inside = slice(first + 1, last)
        chord = y[first] + (y[last] - y[first]) * ((x[inside] - x[first]) / span if span else 0.0)
        away = np.abs(y[inside] - chord)
        far = int(np.argmax(away))
        if away[far] > _APART:
            kept[first + 1 + far] = True
            open_ += [(first, first + 1 + far), (first + 1 + far, last)]
    return kept


def along(x: Float[np.ndarray, " point"], low: np.ndarray, high: np.ndarray, *, stairs: bool = False) -> str:
    """The area between two curves, both of places in units."""
    if stairs:
        x, low, high = np.repeat(x, 2)[1:], np.repeat(low, 2)[:-1], np.repeat(high, 2)[:-1]
    there = np.isfinite(low) & np.isfinite(high)
    if not there.any():
        return ""
    x, low, high = x[there], low[there], high[there]
    back = path(x[::-1], high[::-1])
    return f"{path(x, low)}L{back[1:]}z"


def cells(
    shares: Float[np.ndarray, "row column"],
    palette: Float[np.ndarray, "shade 4"],
    box: tuple[int, int, int, int],
) -> Markup:
    """A grid in the colours of a palette, from 0 to 1, the first row on top; what is NaN is left free.

    `box` is its left, top, width and height. Up to `MOST_CELLS` it is drawn, cells of one colour as one path; beyond it
    is a picture.
    """
    rows, columns = shares.shape
    left, top, width, height = box
    last = len(palette) - 1
    shade = np.where(np.isnan(shares), -1, np.rint(np.clip(np.nan_to_num(shares), 0, 1) * last)).astype(np.int64)
    if shares.size > MOST_CELLS:
        colors = np.where((shade < 0)[..., None], 0.0, palette[shade])
        picture = io.BytesIO()
        imsave(picture, colors, format="png", metadata={"Software": None})  # type: ignore[dict-item]
        link = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        return tag("image", href=link, preserveAspectRatio="none", x=left, y=top, width=width, height=height)
    drawn = [
        tag("path", d="".join(_runs(shade == each)), fill=rgb(palette[each]))
        for each in np.unique(shade[shade >= 0]).tolist()
    ]
    scale = f"translate({left} {top}) scale({width / columns:.6g} {height / rows:.6g})"
    return tag("g", *drawn, transform=scale, shape_rendering="crispEdges")


def _runs(where: Bool[np.ndarray, "row column"]) -> Iterable[str]:
    """Cells side by side as one rectangle each."""
    for row, line in enumerate(where):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]])))
        for first, end in edges.reshape(-1, 2).tolist():
            yield f"M{first} {row}h{end - first}v1h{first - end}z"


def rgb(color: Float[np.ndarray, "4"]) -> str:
    """A colour as SVG has it."""
    return "#" + "".join(f"{round(255 * float(each)):02x}" for each in color[:3])
