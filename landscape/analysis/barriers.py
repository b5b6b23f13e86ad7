"""How high is what lies between two ends of a line, where is it, and how wide are the valleys at its feet?

All of it is read off the points from alpha 0 to alpha 1, so a peak narrower than the grid is missed; what a walk with
`certify` has bounded holds between the points too. An infinite loss is what it is: what rises to it is infinite. A line
on which a loss is NaN has no numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import find_peaks

from landscape.core.intervals import median_interval, quantiles
from landscape.core.provenance import Source
from landscape.store.results import Result, require_lines

__all__ = [
    "COURSES",
    "DEFINITIONS",
    "MONOTONE",
    "Barriers",
    "Definition",
    "barriers",
    "lowest_order",
    "representatives",
]

#: Values over the points of lines.
Points = Float[np.ndarray, "line point"]


@dataclasses.dataclass(frozen=True)
class Definition:
    """A barrier: how far the loss of a line rises above a `base`, of losses [line, point] and the alphas of points.

    The height is the largest rise, and stands where that is. `label` and `formula`, in which L0 and L1 are the losses
    at the ends, say so in figures and tables.
    """

    label: str
    formula: str
    base: Callable[[Float[np.ndarray, " point"], Points], Points]

    def rises(self, alpha: Float[np.ndarray, " point"], loss: Points) -> Points:
        """How far each point lies above the base; NaN where an end is infinite, as is the base then."""
        with np.errstate(invalid="ignore"):
            rises = np.asarray(loss - self.base(alpha, loss))
        return np.where(np.isfinite(loss[:, :1]) & np.isfinite(loss[:, -1:]), rises, np.nan)


#: Barriers by name; a new one is an entry here.
DEFINITIONS = {
    "above_chord": Definition(
        "barrier above the chord",
        "max over alpha of L(alpha) - ((1 - alpha) L0 + alpha L1)",
        lambda alpha, loss: (1 - alpha) * loss[:, :1] + alpha * loss[:, -1:],
    ),
    "above_mean": Definition(
        "barrier above the mean of the ends",
        "max over alpha of L(alpha) - (L0 + L1) / 2",
        lambda alpha, loss: (loss[:, :1] + loss[:, -1:]) / 2,
    ),
    "above_higher_end": Definition(
        "barrier above the higher end",
        "max over alpha of L(alpha) - max(L0, L1)",
        lambda alpha, loss: np.maximum(loss[:, :1], loss[:, -1:]),
    ),
}

#: A peak counts if it stands out by this share of its line's range of losses.
PROMINENCE = 0.01

#: A line is monotone if it never goes the other way by more than this share of its range of losses.
MONOTONE = 1e-3

#: How lines run from start to end; the last has neither, or a NaN on it.
COURSES = ("falling", "rising", "level", "neither")


#: What barriers say beside quantities of lines.
_NO_QUANTITIES = ("heights", "course", "independent", "bounds")


@dataclasses.dataclass(frozen=True, eq=False)
class Barriers:
    """One number a line; NaN where a loss on the line is NaN, and of a height where an end is infinite. Where a point
    between finite ends is infinite, heights are, and there are no peaks or widths.

    `heights` are the barriers in the units of the loss by their name in `DEFINITIONS`, and attributes of that name:
    `above_chord` (Frankle et al., ICML 2020, without their averaging of the ends), `above_mean`, `above_higher_end`.
    `peak_alpha` and `peak_loss` are the place of the highest point above the chord; `peaks` the number of local maxima
    that stand out by 1 % of the line's range, ends excluded, a plateau counted once. `delta` is the smallest Delta for
    which the line falls Delta-monotonically from start to end, the largest rise between any point and a later one
    (J. Lucas et al., ICML 2021). `start_width` and `end_width` say how far from an end, as a share of the line's
    length, the loss first climbs half of the barrier above the chord: NaN without a barrier. `course` says whether the
    line is monotone, up to 1/1000 of its range: an index into `COURSES`. Of such a line nothing lies above the higher
    end, and what lies above the chord is no barrier but how far the line bends upwards (its concavity). Lines are
    `independent` if no two of them lead to the same member. Of a walk with `certify`, `bounds` has the lower and the
    upper bound of the heights, by their names.
    """

    heights: Mapping[str, Float[np.ndarray, " line"]]
    peak_alpha: Float[np.ndarray, " line"]
    peak_loss: Float[np.ndarray, " line"]
    peaks: Float[np.ndarray, " line"]
    delta: Float[np.ndarray, " line"]
    start_width: Float[np.ndarray, " line"]
    end_width: Float[np.ndarray, " line"]
    course: Int[np.ndarray, " line"]
    independent: bool
    bounds: Mapping[str, Float[np.ndarray, "2 line"]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.peaks)

    def __getattr__(self, name: str) -> Float[np.ndarray, " line"]:
        heights: Mapping[str, Float[np.ndarray, " line"]] = vars(self).get("heights", {})
        if name in heights:
            return heights[name]
        raise AttributeError(f"there is no '{name}' of barriers")

    @property
    def quantities(self) -> dict[str, Float[np.ndarray, " line"]]:
        """All that is known of each line, by name, the heights first."""
        beside = {name: value for name, value in vars(self).items() if name not in _NO_QUANTITIES}
        return {**self.heights, **beside}

    @property
    def low_by(self) -> dict[str, Float[np.ndarray, "2 line"]]:
        """By how much the grid's heights are too low, at least and at most, where they are bounded; negative where the
        walk's rounding has raised them.
        """
        return {name: each - self.heights[name] for name, each in self.bounds.items()}

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of each quantity: median, quartiles and extremes of the `lines` that have it, infinite ones among them; the
        median's 95 % interval over lines, NaN where they are not `independent` or fewer than 6; how many are
        `infinite`, and how many are `nan`, which are left out.
        """
        result = {}
        for name, values in self.quantities.items():
            there = values[~np.isnan(values)]
            quartiles = quantiles(there, np.array([0, 0.25, 0.5, 0.75, 1]))
            result[name] = {
                **dict(zip(("min", "q1", "median", "q3", "max"), quartiles.tolist(), strict=True)),
                "median_interval": median_interval(there).tolist() if self.independent else [np.nan, np.nan],
                "lines": len(there),
                "infinite": int(np.isinf(there).sum()),
                "nan": len(values) - len(there),
            }
        return result

    def courses(self) -> dict[str, int]:
        """How many lines run in each of the `COURSES`."""
        return {name: int((self.course == number).sum()) for number, name in enumerate(COURSES)}


def barriers(curves: Result) -> Barriers:
    """How high is what lies on each finished line, where, and how wide are the valleys at its feet?

    Args:
        curves: What `landscape.walk` or `connect` gave; points beyond alpha 0 and 1 do not count.

    Returns:
        A `Barriers`: one number a finished line, in the order of the lines, for each of the `DEFINITIONS`.

    Raises:
        LandscapeError: None of the lines is finished, or what is given has none.

    Source: J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin, ICML 2020 (above the chord); J. Lucas et al., ICML 2021.

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    >>> problem = landscape.Problem.from_model(network, (x, x), "mse")
    >>> one, other = ({f"{i}.weight": torch.tensor([[w]]) for i in (0, 1)} for w in (1.0, -1.0))
    >>> found = landscape.barriers(landscape.walk(one, other, problem=problem, points=5))
    >>> found.above_chord.round(3).tolist(), found.peak_alpha.tolist()
    ([0.355], [0.5])
    """
    require_lines(curves, "barriers")
    alpha, loss = curves.alpha[curves.inside], curves.loss[curves.done][:, curves.inside]
    known = ~np.isnan(loss).any(axis=1)
    loss = np.where(known[:, None], loss, np.nan)
    excess = DEFINITIONS["above_chord"].rises(alpha, loss)
    top = np.argmax(np.where(np.isnan(excess), -np.inf, excess), axis=1)
    # What rounding makes of a straight line is no barrier.
    noticeable = (excess.max(axis=1) > 1e-12 * np.abs(loss).max(axis=1)) & np.isfinite(loss).all(axis=1)
    widths = np.array([_half_widths(alpha, row) for row in np.where(noticeable[:, None], excess, 0)]).reshape(-1, 2)
    up, down = (_largest_rise(each) for each in (loss, loss[:, ::-1]))
    results = {
        "peak_alpha": np.where(np.isnan(excess[:, 0]), np.nan, alpha[top]),
        "peak_loss": np.where(np.isnan(excess[:, 0]), np.nan, loss[np.arange(len(loss)), top]),
        "peaks": np.array([_count_peaks(row) for row in loss], dtype=float),
        "delta": up,
        "start_width": widths[:, 0],
        "end_width": widths[:, 1],
    }
    ends = curves["to_member"][curves.done]
    return Barriers(
        heights={name: definition.rises(alpha, loss).max(axis=1) for name, definition in DEFINITIONS.items()},
        **{name: np.where(known, values, np.nan) for name, values in results.items()},
        course=_courses(loss, up, down),
        independent=len(np.unique(ends)) == len(ends),
        bounds={
            name: np.stack([curves[f"{name}_{side}"][curves.done] for side in ("lower", "upper")])
            for name in DEFINITIONS
            if f"{name}_lower" in curves.columns
        },
    )


def lowest_order(curves: Result) -> Int[np.ndarray, " pair"]:
    """Of the finished lines between the same two members, the one with the lowest barrier above the chord.

    Lines via other members, or on which other tensors move, are others. There are several between two members where
    the start was walked from in every equivalent order of its units. In the order of the lines; lines from a member to
    itself, as there are between all members of a run, are left out beside others.
    """
    height = np.full(len(curves), np.inf)
    height[curves.done] = np.nan_to_num(barriers(curves).above_chord, nan=np.inf)
    stored = [dataclasses.replace(source, order="") for source in curves.sources]
    starts = [stored[member] for member in curves["from_member"]]
    moves, via = curves.moves.tolist(), curves.via_member.tolist()
    lowest: dict[tuple[Source, int, str, tuple[int, ...]], int] = {}
    trivial = np.array(
        [source == stored[member] for source, member in zip(starts, curves["to_member"], strict=True)],
        dtype=bool,
    ) & ("via_member" not in curves.columns)
    shown = curves.done & ~trivial if (curves.done & ~trivial).any() else curves.done
    for line in np.flatnonzero(shown).tolist():
        pair = starts[line], int(curves["to_member"][line]), moves[line], tuple(via[line])
        if height[line] < height[lowest.setdefault(pair, line)]:
            lowest[pair] = line
    return np.array(sorted(lowest.values()), dtype=np.int64)


def representatives(curves: Result) -> dict[str, Result]:
    """Of a walk with `align` the lines to ends as they are stored, and those to their representatives; else all lines,
    without a name.
    """
    if "aligned" not in curves.columns:
        return {"": curves}
    kinds = {"stored": ~curves["aligned"], "aligned": curves["aligned"]}
    return {name: curves.select(lines) for name, lines in kinds.items() if lines.any()}


def _largest_rise(loss: Points) -> Float[np.ndarray, " line"]:
    """From any point to a later one; there is none from an infinite point to another."""
    lowest = np.minimum.accumulate(loss, axis=1)
    rises = np.subtract(loss, lowest, out=np.zeros(loss.shape), where=loss != lowest)
    return np.asarray(rises.max(axis=1))


def _courses(
    loss: Points, up: Float[np.ndarray, " line"], down: Float[np.ndarray, " line"]
) -> Int[np.ndarray, " line"]:
    """Of each line an index into `COURSES`, from its largest rise and its largest fall."""
    finite = [row[np.isfinite(row)] for row in loss]
    spread, largest = np.array([(np.ptp(row), np.abs(row).max()) if len(row) else (np.nan, np.nan) for row in finite]).T
    level = np.maximum(up, down) <= 1e-12 * largest
    return np.select([level, up <= MONOTONE * spread, down <= MONOTONE * spread], [2, 0, 1], default=3)


def _count_peaks(loss: Float[np.ndarray, " point"]) -> float:
    """Local maxima between the ends; `find_peaks` finds a plateau once and never an end. NaN beside infinite points."""
    if not np.isfinite(loss).all():
        return np.nan
    if (spread := float(np.ptp(loss))) == 0:
        return 0
    # Of two equally high peaks scipy counts both, however small the dent between them; a slight slope breaks ties.
    sloped = loss + np.linspace(0, 1e-3 * PROMINENCE * spread, len(loss))
    return len(find_peaks(sloped, prominence=PROMINENCE * spread)[0])


def _half_widths(alpha: Float[np.ndarray, " point"], excess: Float[np.ndarray, " point"]) -> tuple[float, float]:
    """From each end, how far to where the excess first reaches half its maximum (linear between points)."""
    if excess.max() <= 0:
        return np.nan, np.nan
    half = excess.max() / 2
    return _first_crossing(alpha, excess, half), _first_crossing(1 - alpha[::-1], excess[::-1], half)


def _first_crossing(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"], level: float) -> float:
    after = int(np.argmax(y >= level))
    share = (level - y[after - 1]) / (y[after] - y[after - 1])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))
