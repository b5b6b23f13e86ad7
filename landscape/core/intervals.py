"""Intervals that go with numbers: Wilson's for proportions, the bootstrap's for the rest."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped
from scipy import special

__all__ = ["FEWEST", "Proportion", "bootstrap", "bootstrap_pairs"]

#: Two-sided coverage of every interval.
CONFIDENCE = 0.95
#: The bootstrap's interval of fewer independent values would be too narrow: it is not told.
FEWEST = 5

#: Of fewer seeds too few resamples of pairs differ.
_FEWEST_PAIRED = 4


@dataclasses.dataclass(frozen=True)
class Proportion:
    """`count` of `total`, with Wilson's score interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927).

    >>> print(Proportion(20, 20))
    20 of 20 (100.0 %, 95 % interval 83.9 to 100.0 %)
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; NaN of nothing."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; [0, 1] of nothing."""
        if not self.total:
            return 0.0, 1.0
        z = float(special.ndtri((1 + CONFIDENCE) / 2))
        n, p = self.total, self.value
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        # At the ends the formula gives exactly 0 or 1; rounding must not.
        low = 0.0 if self.count == 0 else max(0.0, centre - half)
        high = 1.0 if self.count == n else min(1.0, centre + half)
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.count} of {self.total} ({100 * self.value:.1f} %, "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )


def bootstrap(
    samples: Shaped[np.ndarray, " seed"],
    statistic: Callable[[np.ndarray], float] = np.median,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2"]:
    """Percentile bootstrap interval (95 %) of a statistic, resampling the seeds.

    B. Efron, Ann. Stat. 7, 1979. Give one value a seed: pairs of seeds are not independent.
    """
    if not len(samples):
        return np.array([np.nan, np.nan])
    rng = np.random.default_rng(seed)
    values = [statistic(samples[rng.integers(len(samples), size=len(samples))]) for _ in range(resamples)]
    return np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])


def bootstrap_pairs(
    pairs: Float[np.ndarray, "seed seed"],
    statistic: Callable[[np.ndarray], float] = np.median,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2"]:
    """Percentile bootstrap interval (95 %) of a statistic over pairs of different seeds, resampling the seeds.

    Pairs that share a seed are not independent: with a seed all its pairs are drawn. A seed that is drawn twice makes
    no pair with itself (T. Snijders, S. Borgatti, Connections 22, 1999, who put a random pair there). `pairs` need not
    be symmetric; entries that are NaN, such as the diagonal, are left out. Three seeds or fewer make no interval.
    """
    count = len(pairs)
    if count < _FEWEST_PAIRED:
        return np.array([np.nan, np.nan])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(count, size=count)
        sample = pairs[np.ix_(drawn, drawn)][drawn[:, None] != drawn]
        sample = sample[np.isfinite(sample)]
        values.append(statistic(sample) if len(sample) else np.nan)
    return np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
