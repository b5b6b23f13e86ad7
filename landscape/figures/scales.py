"""Log axes of losses: where zeros lie, and ticks that can be read on few decades and on many."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from landscape.figures.pages import INK, points, power

__all__ = ["floor_below", "in_words", "log_axis", "on_axis", "round_numbers"]

#: Fewer labelled ticks do not tell the scale.
_FEWEST = 3
#: Labels are so far apart, in points, from the middle of one to that of the next; powers of ten, which are even, less.
_APART, _APART_EVEN = 13.0, 9.0
#: Decades that are left free above and below what is drawn, at most and as a share of it.
_FREE, _SHARE = float(np.log10(1.7)), 0.15
#: Decades that an axis spans at least, so that nearly equal losses look so; and with zeros below.
_NARROWEST, _NARROWEST_ABOVE_ZERO = float(np.log10(2.0)), 1.0


def floor_below(values: Sequence[Float[np.ndarray, "..."]]) -> float:
    """Where zeros go on a log axis: well below the smallest positive value."""
    flat = np.concatenate([each.ravel() for each in values])
    positive = flat[(flat > 0) & np.isfinite(flat)]
    return float(10 ** (np.floor(np.log10(positive.min())) - 0.7)) if len(positive) else 0.1


def on_axis(values: Float[np.ndarray, "..."], floor: float) -> Float[np.ndarray, "..."]:
    """Zeros on the floor; what is not finite is a gap."""
    return np.where(np.isfinite(values), np.maximum(values, floor), np.nan)


def log_axis(ax: Axes, own: Float[np.ndarray, "..."], floor: float, shared: Sequence[Float[np.ndarray, "..."]]) -> None:
    """A log axis for all `shared` values, so that axes agree; a dotted line for zeros where its `own` have any.

    Ticks are powers of ten where there are three or more, else plain numbers.
    """
    flat = np.concatenate([each.ravel() for each in shared])
    finite = flat[np.isfinite(flat)]
    zeros = bool((finite <= 0).any())
    low, high = np.log10(floor if zeros else finite.min()), np.log10(max(finite.max(), floor))
    if zeros:
        high = max(high, low + _NARROWEST_ABOVE_ZERO)
    elif (lacking := _NARROWEST - (high - low)) > 0:
        low, high = low - lacking / 2, high + lacking / 2
    free = min(_FREE, _SHARE * (high - low))
    labelled, minor = _ticks(ax, low, high, free, zeros=zeros)
    ticks = dict(labelled)
    for old in [line for line in ax.lines if line.get_gid() == "floor"]:
        old.remove()
    if (own <= 0).any():
        ax.axhline(floor, color=INK, lw=0.8, ls=":", zorder=1, gid="floor")
        ticks[floor] = "≤ 0" if (own < 0).any() else "0"
    ax.set_yscale("log")
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_yticks(minor, [""] * len(minor), minor=True)
    ax.set_ylim(10 ** (low - free), 10 ** (high + free))


def _ticks(ax: Axes, low: float, high: float, free: float, *, zeros: bool) -> tuple[dict[float, str], list[float]]:
    """Labelled ticks between two decimal logarithms, and the places of the others; `free` is the margin about them."""
    point = (high - low + 2 * free) / points(ax, ax.get_window_extent().height)  # about: it may not be laid out yet
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    every = max(1 + len(decades) // 8, int(np.ceil(_APART_EVEN * point)))
    # Labels a line's height apart from the floor's.
    nearest = max(0.07 * (high - low), _APART_EVEN * point) if zeros else -free
    powers = {10.0**k: power(int(k)) for k in decades[::every] if k > low + nearest}
    if len(powers) >= _FEWEST:
        return powers, list(10.0**decades)
    lowest = low + (_APART * point if zeros else -free)
    best: list[float] = []
    for places in round_numbers(lowest, high + free):
        gaps = np.diff(np.log10(places))
        if len(places) > len(best) and (not len(gaps) or gaps.min() >= _APART * point):
            best = places
        if len(best) >= _FEWEST:
            break
    if len(best) <= len(powers):
        return powers, list(10.0**decades)
    return dict(zip(best, in_words(best), strict=True)), []


def round_numbers(low: float, high: float) -> Iterator[list[float]]:
    """Sets of round numbers between two decimal logarithms, the best first."""
    for factors in ((1, 2, 5), (1, 3), (1,), (1, 2, 3, 5), range(1, 10)):
        powers = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
        yield _between([float(factor * power) for power in powers for factor in factors], low, high)
    for most in (6, 5, 4, 3, 2):
        even = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(10**low, 10**high)
        yield _between([float(place) for place in even if place > 0], low, high)


def _between(places: Sequence[float], low: float, high: float) -> list[float]:
    return [place for place in places if low - 1e-9 <= np.log10(place) <= high + 1e-9]


def in_words(places: Sequence[float], *, powers: bool = True) -> list[str]:
    """Plain numbers, or with `powers` multiples of powers of ten where one would have many zeros; in as many digits as
    tell them apart.
    """
    for digits in range(6, 16):
        if powers and not all(1e-3 <= place < 1e5 for place in places):
            parts = [f"{place:.{digits}e}".split("e") for place in places]
            factors = ["" if float(factor) == 1 else f"{float(factor):.{digits}g}" for factor, _ in parts]
            words = [power(int(exponent), factor) for factor, (_, exponent) in zip(factors, parts, strict=True)]
        else:
            words = [f"{place:.{digits}g}" for place in places]
        if len(set(words)) == len(places):
            break
    return words
