"""What decides the outcome, where training began or the data it saw? Shares of variance in a crossed experiment."""

import dataclasses

import numpy as np
import scipy
from jaxtyping import Float, Int

from landscape.core.errors import LandscapeError
from landscape.core.intervals import CONFIDENCE

__all__ = ["Shares", "crossed_shares"]

#: Draws of the pivots, each both ways round.
_DRAWS = 5000


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the variance of an outcome that rows, columns and their combination explain, each with its interval.

    They add up to 1. Estimates below 0 happen where the true share is near 0; NaN if all outcomes are the same.
    """

    rows: tuple[float, float, float]
    columns: tuple[float, float, float]
    combination: tuple[float, float, float]


def crossed_shares(outcomes: Float[np.ndarray, "row column"], confidence: float = CONFIDENCE) -> Shares:
    """Variance components of a two-way table with one outcome a cell, as shares: (estimate, low, high).

    Rows and columns are random effects, estimated from the mean squares (S. R. Searle, G. Casella, C. E. McCulloch,
    *Variance Components*, 1992, ch. 4). Intervals (95 % unless told) are quantiles of generalised pivots: each sum of
    squares over a draw of its chi-squared distribution, components below 0 set to 0 (S. Weerahandi, J. Am. Stat. Assoc.
    88, 1993), for normal effects; two-valued ones they hold more often. They hold the estimate too where that lies
    outside of [0, 1]. Raises `LandscapeError` for a table with fewer than three rows or columns.

    >>> crossed_shares(np.arange(4.0)[:, None] + np.zeros(5)).rows[0]
    1.0
    """
    count, width = outcomes.shape
    if min(count, width) < 3:
        raise LandscapeError(f"a table of {count} x {width} outcomes says too little: cross at least 3 with 3")
    if np.ptp(outcomes) <= 1e-12 * np.abs(outcomes).max():
        return Shares(*[(np.nan, np.nan, np.nan)] * 3)
    whole = _shares(outcomes)
    low, high = np.quantile(_pivots(outcomes), [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    low, high = np.minimum(low, whole), np.maximum(high, whole)
    parts = [(float(whole[k]), float(low[k]), float(high[k])) for k in range(3)]
    return Shares(*parts)


def _shares(outcomes: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "3"]:
    """Shares of rows, columns and combination."""
    squares, freedom = _squares(outcomes)
    components = _components(squares / freedom, outcomes.shape)
    total = components.sum()
    return components / total if total > 0 else np.full(3, np.nan)


def _pivots(outcomes: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "3 draw"]:
    """Shares as they would be with sums of squares whose chi-squared numbers are drawn."""
    one, other, rest = np.random.default_rng(0).random((3, _DRAWS))
    # Each draw of rows and columns both ways round: then they may change places.
    chances = np.stack([np.append(one, other), np.append(other, one), np.append(rest, rest)])
    squares, freedom = _squares(outcomes)
    mean = squares[:, None] / scipy.special.chdtri(freedom[:, None], chances)
    components = np.maximum(_components(mean, outcomes.shape), 0)
    shares: Float[np.ndarray, "3 draw"] = components / components.sum(0)
    return shares


def _squares(outcomes: Float[np.ndarray, "row column"]) -> tuple[Float[np.ndarray, "3"], Int[np.ndarray, "3"]]:
    """Sums of squares of rows, columns and what they leave, with their degrees of freedom."""
    count, width = outcomes.shape
    rows, columns = outcomes.mean(1), outcomes.mean(0)
    rest = outcomes - rows[:, None] - columns + outcomes.mean()
    squares = (
        width * ((rows - rows.mean()) ** 2).sum(),
        count * ((columns - columns.mean()) ** 2).sum(),
        (rest**2).sum(),
    )
    return np.array(squares), np.array([count - 1, width - 1, (count - 1) * (width - 1)])


def _components(mean: Float[np.ndarray, "3 *draw"], shape: tuple[int, ...]) -> Float[np.ndarray, "3 *draw"]:
    """Variance components from mean squares, whose expectations are width rows + rest, count columns + rest, rest."""
    return np.stack([(mean[0] - mean[2]) / shape[1], (mean[1] - mean[2]) / shape[0], mean[2]])
