"""Intervals that go with numbers: Wilson's for proportions, the bootstrap's for the rest."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special

__all__ = ["FEWEST", "Proportion", "bootstrap", "bootstrap_pairs"]

#: Two-sided coverage of every interval.
CONFIDENCE = 0.95
_ENDS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2

#: The bootstrap's interval of fewer independent values would be too narrow: it is not told.
FEWEST = 5

#: Of fewer seeds too few resamples of pairs differ.
_FEWEST_PAIRED = 4

#: Numbers of resamples that are in memory at once, about.
_AT_ONCE = 2**20


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
    statistic: Callable[..., np.ndarray] = np.median,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2"]:
    """Percentile bootstrap interval (95 %) of a statistic, resampling the seeds.

    B. Efron, Ann. Stat. 7, 1979. Give one value a seed: pairs of seeds are not independent. The statistic is one of
    numpy's, or takes an `axis` as they do.
    """
    if not len(samples):
        return np.array([np.nan, np.nan])
    drawn = _draws(len(samples), resamples, seed, len(samples))
    values = np.concatenate([statistic(samples[index], axis=1) for index in drawn])
    return np.asarray(np.quantile(values, _ENDS))


def bootstrap_pairs(
    pairs: Float[np.ndarray, "seed seed"],
    statistic: Callable[..., np.ndarray] = np.median,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2"]:
    """Percentile bootstrap interval (95 %) of a statistic over pairs of different seeds, resampling the seeds.

    Pairs that share a seed are not independent: with a seed all its pairs are drawn. A seed that is drawn twice makes
    no pair with itself (T. Snijders, S. Borgatti, Connections 22, 1999, who put a random pair there). `pairs` need not
    be symmetric; entries that are NaN, such as the diagonal, are left out. Three seeds or fewer make no interval.
    """
    if len(pairs) < _FEWEST_PAIRED:
        return np.array([np.nan, np.nan])
    values = []
    for index in _draws(len(pairs), resamples, seed, len(pairs) ** 2):
        rows, columns = index[:, :, None], index[:, None, :]
        sample = pairs[rows, columns].reshape(len(index), -1)
        kept = (rows != columns).reshape(sample.shape) & np.isfinite(sample)
        found, counts = np.full(len(index), np.nan), kept.sum(1)
        for count in np.unique(counts[counts > 0]):  # as many pairs are left of each: a table again
            of = counts == count
            found[of] = statistic(sample[of][kept[of]].reshape(-1, count), axis=1)
        values.append(found)
    return np.asarray(np.nanquantile(np.concatenate(values), _ENDS))


def _draws(count: int, resamples: int, seed: int, size: int) -> Iterator[Int[np.ndarray, "resample drawn"]]:
    """Which of `count` each resample draws, so many resamples at once that their `size` numbers each fit in memory."""
    rng = np.random.default_rng(seed)
    most = max(1, _AT_ONCE // size)
    for first in range(0, resamples, most):
        yield rng.integers(count, size=(min(most, resamples - first), count))
