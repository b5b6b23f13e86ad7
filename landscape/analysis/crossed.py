"""What decides the outcome, where training began or the data it saw? Shares of variance in a crossed experiment."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from landscape.core.errors import LandscapeError
from landscape.core.intervals import CONFIDENCE

__all__ = ["Shares", "crossed_shares"]


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the variance of an outcome that rows, columns and their combination explain, each with its interval.

    They add up to 1. Estimates below 0 happen where the true share is near 0; NaN if all outcomes are the same.
    """

    rows: tuple[float, float, float]
    columns: tuple[float, float, float]
    combination: tuple[float, float, float]


def crossed_shares(outcomes: Float[np.ndarray, "row column"]) -> Shares:
    """Variance components of a two-way table with one outcome a cell, as shares: (estimate, low, high).

    Rows and columns are random effects, estimated from the mean squares (S. R. Searle, G. Casella, C. E. McCulloch,
    *Variance Components*, 1992, ch. 4). Intervals (95 %, Student's t) from the jackknife, leaving out one row and one
    column at a time, cut to [0, 1]; with few rows or columns they hold the truth somewhat less often than they say, as
    the tests' simulations show. Raises `LandscapeError` for a table with fewer than three rows or columns.

    >>> crossed_shares(np.arange(4.0)[:, None] + np.zeros(5)).rows[0]
    1.0
    """
    count, width = outcomes.shape
    if min(count, width) < 3:
        raise LandscapeError(f"a table of {count} x {width} outcomes says too little: cross at least 3 with 3")
    if np.ptp(outcomes) <= 1e-12 * np.abs(outcomes).max():
        return Shares(*[(np.nan, np.nan, np.nan)] * 3)
    whole = _shares(outcomes)
    without_row = np.array([_shares(np.delete(outcomes, i, 0)) for i in range(count)])
    without_column = np.array([_shares(np.delete(outcomes, j, 1)) for j in range(width)])
    variance = sum(
        (len(each) - 1) / len(each) * ((each - each.mean(0)) ** 2).sum(0) for each in (without_row, without_column)
    )
    # Student's t, as there may be few of either; where leaving one out leaves nothing to explain, nothing can be said.
    reach = float(special.stdtrit(min(count, width) - 1, (1 + CONFIDENCE) / 2)) * np.sqrt(variance)
    reach = np.where(np.isnan(reach), np.inf, reach)
    low, high = (np.clip(end, 0, 1) for end in (whole - reach, whole + reach))
    low, high = np.minimum(low, whole), np.maximum(high, whole)
    parts = [(float(whole[k]), float(low[k]), float(high[k])) for k in range(3)]
    return Shares(*parts)


def _shares(outcomes: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "3"]:
    """Shares of rows, columns and combination."""
    count, width = outcomes.shape
    rows, columns = outcomes.mean(1), outcomes.mean(0)
    rest = outcomes - rows[:, None] - columns + outcomes.mean()
    combination = (rest**2).sum() / ((count - 1) * (width - 1))
    of_rows = rows.var(ddof=1) - combination / width
    of_columns = columns.var(ddof=1) - combination / count
    total = of_rows + of_columns + combination
    if not total > 0:
        return np.full(3, np.nan)
    shares: Float[np.ndarray, "3"] = np.array([of_rows, of_columns, combination]) / total
    return shares
