"""How high is what lies between two ends of a line, where is it, and how wide are the valleys at its feet?

All of it is read off the points from alpha 0 to alpha 1, so a peak narrower than the grid is missed; what a walk with
`certify` has bounded holds between the points too. An infinite loss is what it is: what rises to it is infinite. A line
on which a loss is NaN has no numbers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from landscape.core.intervals import median_interval, quantiles
from landscape.core.provenance import Source
from landscape.store.results import Result, require_lines

__all__ = [
    "COURSES",
    "DEFINITIONS",
    "MONOTONE",
    "Barriers",
    "Definition",
    "as_stored",
    "barriers",
    "lowest_order",
    "representatives",
    "square",
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


#: Points of lines that are looked at together, which bounds the memory.
_BLOCK_POINTS = 2**20

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
    alpha, done = curves.alpha[curves.inside], np.flatnonzero(curves.done)
    size = max(1, _BLOCK_POINTS // len(alpha))
    blocks = [_read(alpha, curves.loss[done[i : i + size], curves.inside]) for i in range(0, len(done), size)]
    found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    ends = curves["to_member"][curves.done]
    return Barriers(
        heights={name: found.pop(name) for name in DEFINITIONS},
        course=found.pop("course").astype(np.int64),
        **found,
        independent=len(np.unique(ends)) == len(ends),
        bounds={
            name: np.stack([curves[f"{name}_{side}"][curves.done] for side in ("lower", "upper")])
            for name in DEFINITIONS
            if f"{name}_lower" in curves.columns
        },
    )


def _read(alpha: Float[np.ndarray, " point"], loss: Points) -> dict[str, Float[np.ndarray, " line"]]:
    """What is read off some lines, by name."""
    known = ~np.isnan(loss).any(axis=1)
    loss = np.where(known[:, None], loss, np.nan)
    excess = DEFINITIONS["above_chord"].rises(alpha, loss)
    top = np.argmax(np.where(np.isnan(excess), -np.inf, excess), axis=1)
    # What rounding makes of a straight line is no barrier.
    noticeable = (excess.max(axis=1) > 1e-12 * np.abs(loss).max(axis=1)) & np.isfinite(loss).all(axis=1)
    above = np.where(noticeable[:, None], excess, 0)
    half = above.max(axis=1) / 2
    up, down = (_largest_rise(each) for each in (loss, loss[:, ::-1]))
    results = {
        "peak_alpha": np.where(np.isnan(excess[:, 0]), np.nan, alpha[top]),
        "peak_loss": np.where(np.isnan(excess[:, 0]), np.nan, loss[np.arange(len(loss)), top]),
        "peaks": _count_peaks(loss),
        "delta": up,
        "start_width": _first_crossing(alpha, above, half),
        "end_width": _first_crossing(1 - alpha[::-1], above[:, ::-1], half),
    }
    return {
        **{name: definition.rises(alpha, loss).max(axis=1) for name, definition in DEFINITIONS.items()},
        **{name: np.where(known, values, np.nan) for name, values in results.items()},
        "course": _courses(loss, up, down).astype(np.float64),
    }


def lowest_order(curves: Result) -> Int[np.ndarray, " pair"]:
    """Of the finished lines between the same two members, the one with the lowest barrier above the chord.

    Lines via other members, or on which other tensors move, are others. There are several between two members where
    the start was walked from in every equivalent order of its units. In the order of the lines; lines from a member to
    itself, as there are between all members of a run, are left out beside others.
    """
    height = np.full(len(curves), np.inf)
    height[curves.done] = np.nan_to_num(barriers(curves).above_chord, nan=np.inf)
    place: dict[Source, int] = {}
    of = np.array([place.setdefault(source, len(place)) for source in as_stored(curves.sources)], dtype=int)
    start, end = of[curves["from_member"]], curves["to_member"]
    # A member reordered is itself still, but where the order of an end counts.
    stored = np.array([not source.order for source in curves.sources], dtype=bool)[end]
    trivial = (start == of[end]) & stored & ("via_member" not in curves.columns)
    shown = curves.done & ~trivial if (curves.done & ~trivial).any() else curves.done
    lines = np.flatnonzero(shown)
    moves = np.unique(curves.moves.astype(str), return_inverse=True)[1]
    pairs = np.column_stack([start, end, moves, curves.via_member])[lines]
    by_height = np.argsort(height[lines], kind="stable")
    first = np.unique(pairs[by_height], axis=0, return_index=True)[1]
    return np.sort(lines[by_height[first]]).astype(np.int64)


def as_stored(sources: Sequence[Source]) -> list[Source]:
    """Members whatever the order of their units."""
    return [dataclasses.replace(source, order="") if source.order else source for source in sources]


def square(values: Shaped[np.ndarray, " line"], members: int) -> Float[np.ndarray, "member member"]:
    """Values of the lines between each two members, in the order in which `pairs="all"` walks those of a place with
    itself, as a symmetric matrix whose diagonal is NaN.

    >>> square(np.array([1.0, 2.0, 3.0]), 3).tolist()
    [[nan, 1.0, 2.0], [1.0, nan, 3.0], [2.0, 3.0, nan]]
    """
    found = np.full((members, members), np.nan)
    later, earlier = np.tril_indices(members, -1)
    found[later, earlier] = found[earlier, later] = values
    return found


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
    finite = np.isfinite(loss)
    some = finite.any(axis=1)
    low, high = (each.min(axis=1, where=finite, initial=np.inf) for each in (loss, -loss))
    spread, largest = (np.where(some, each, np.nan) for each in (-high - low, np.maximum(-high, -low)))
    level = np.maximum(up, down) <= 1e-12 * largest
    return np.select([level, up <= MONOTONE * spread, down <= MONOTONE * spread], [2, 0, 1], default=3)


def _count_peaks(loss: Points) -> Float[np.ndarray, " line"]:
    """Of each line the local maxima between its ends whose prominence is enough, a plateau counted once; NaN beside
    infinite points.

    As many as there are times, from start to end, that the loss rises by so much from its lowest point since the last
    peak, and falls by as much from its highest since: between two peaks that stand out it falls so far, and where it
    has fallen so far on both sides the highest point stands out.
    """
    finite = np.isfinite(loss).all(axis=1)
    here = np.where(finite[:, None], loss, 0.0)
    enough = PROMINENCE * np.ptp(here, axis=1)
    # Of two equally high peaks both would count, however small the dent between them; a slight slope breaks ties.
    here = here + np.linspace(0, 1e-3 * PROMINENCE, loss.shape[1]) * np.ptp(here, axis=1)[:, None]
    low, high = here[:, 0].copy(), here[:, 0].copy()
    climbing, peaks = np.zeros(len(loss), dtype=bool), np.zeros(len(loss))
    for value in here.T:
        low, high = np.where(climbing, low, np.minimum(low, value)), np.where(climbing, np.maximum(high, value), high)
        risen = ~climbing & (value - low >= enough) & (enough > 0)
        fallen = climbing & (high - value >= enough)
        peaks += fallen
        low, high = np.where(fallen, value, low), np.where(risen, value, high)
        climbing = (climbing | risen) & ~fallen
    return np.where(finite, peaks, np.nan)


def _first_crossing(
    x: Float[np.ndarray, " point"], y: Points, level: Float[np.ndarray, " line"]
) -> Float[np.ndarray, " line"]:
    """Where each line first reaches a level above 0, linear between points; NaN where the level is 0."""
    after = np.argmax(y >= level[:, None], axis=1)
    before, rows = np.maximum(after - 1, 0), np.arange(len(y))
    low, high = y[rows, before], y[rows, after]
    share = np.divide(level - low, high - low, out=np.full(len(y), np.nan), where=(level > 0) & (high > low))
    return np.asarray(x[before] + share * (x[after] - x[before]))
