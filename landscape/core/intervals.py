"""Intervals that go with numbers. `benchmarks/coverage.py` prints how often each of them holds the truth.

Of fewer values than it needs to hold what it says, a statistic has no interval: its ends are NaN.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Float, Int, Shaped

__all__ = [
    "CONFIDENCE",
    "FEWEST",
    "FEWEST_NODES",
    "FEWEST_OF_MEANS",
    "Nested",
    "Proportion",
    "Statistic",
    "Stratified",
    "fewest",
    "fewest_of_means",
    "largest_of",
    "mean_interval",
    "median_interval",
    "pairs_interval",
    "quantiles",
    "spent",
    "tilt",
    "together",
    "unseen_mass",
]

Statistic = Literal["mean", "median"]

#: Two-sided coverage of an interval that stands alone.
CONFIDENCE = 0.95

#: Of fewer values the smallest and the largest do not hold the median so often: 2 * 2**-5 is more than 5 %.
FEWEST = 6

#: Of fewer values the interval of a mean, and of fewer nodes that of a statistic of their pairs, covers too seldom.
FEWEST_OF_MEANS, FEWEST_NODES = 8, 20

_NONE = np.array([np.nan, np.nan])

#: Share of the largest eigenvalue below which one is none, where nodes are regressed on others.
_SINGULAR = 1e-9


def together(count: int) -> float:
    """The coverage of each of `count` intervals that all hold at once with 95 %, whatever they have in common (C. E.
    Bonferroni).
    """
    return 1 - (1 - CONFIDENCE) / max(1, count)


#: What the looks at an interval that is looked at until it is narrow enough may miss: the first, which decides how many
#: values there will be, the second, at which it mostly is, and the rest, by halves.
_LOOKS = (0.1, 0.8, 0.1)


def spent(look: int) -> float:
    """The share of cases that the interval of a look, 0, 1, ..., may miss, so that all of them together hold the truth
    with 95 %, whenever the looking ends: it is too narrow too often that is looked at until it is narrow.

    Source: K. K. G. Lan, D. L. DeMets, Biometrika 70, 1983 (spending of errors).
    """
    shares = [*_LOOKS[:2], *(_LOOKS[2] * 0.5**k for k in range(1, look))]
    return (1 - CONFIDENCE) * shares[look]


@functools.cache
def _normal(nodes: int) -> Float[np.ndarray, "draw node"]:
    """Draws that all simulated quantiles share."""
    return np.asarray(np.random.Generator(np.random.PCG64(0)).standard_normal((2**13, nodes)))


def largest_of(covariance: Float[np.ndarray, "node node"], tail: float, *, sides: Literal[1, 2]) -> float:
    """The value that the largest of some correlated standard normal variables (two `sides`: their largest magnitude)
    exceeds with the probability `tail`; between that of a single one and Bonferroni's bound.

    Source: V. Chernozhukov, D. Chetverikov, K. Kato, Ann. Stat. 41, 2013 (multiplier bootstrap of maxima, which with
    normal multipliers is this).

    >>> [round(largest_of(np.eye(k), 0.05, sides=2), 1) for k in (1, 3)]
    [2.0, 2.4]
    """
    scale = np.sqrt(np.diag(covariance))
    there = scale > 0
    count = int(there.sum())
    one, every = (-float(scipy.special.ndtri(tail / sides / k)) for k in (1, max(1, count)))
    if count < 2:
        return one
    scale = scale[there]
    values, vectors = np.linalg.eigh(covariance[np.ix_(there, there)] / np.outer(scale, scale))
    drawn = _normal(count) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    top = (np.abs(drawn) if sides == 2 else drawn).max(1)
    return float(np.clip(np.quantile(top, 1 - tail), one, every))


@dataclasses.dataclass(frozen=True, eq=False)
class Stratified:
    """Ratios of means over a finite data set, from a part of it that was drawn without replacement in each stratum.

    Args:
        rows: What each sample that was drawn adds to the numerators of some ratios.
        counts: What it adds to their common denominator; 1 where they are plain means.
        stratum: Its stratum.
        sizes: Number of samples of each stratum in the whole data set.
        population: Whether the distribution behind the data is meant, not the data set itself.

    `mean` is exact where all samples were drawn; the `covariance` is then 0, unless the distribution is meant.

    Source: W. Cochran, *Sampling Techniques*, 1977, chapters 5 and 6 (strata, combined ratios, finite populations).
    """

    rows: Float[np.ndarray, "node sample"]
    counts: Float[np.ndarray, " sample"]
    stratum: Int[np.ndarray, " sample"]
    sizes: Int[np.ndarray, " stratum"]
    population: bool = False

    @functools.cached_property
    def _drawn(self) -> Int[np.ndarray, " stratum"]:
        return np.asarray(np.bincount(self.stratum, minlength=len(self.sizes)))

    @functools.cached_property
    def _share(self) -> Float[np.ndarray, " stratum"]:
        """Of the data set, in each stratum."""
        return np.asarray(self.sizes / self.sizes.sum())

    def _means(self, rows: Float[np.ndarray, "node sample"]) -> Float[np.ndarray, "node stratum"]:
        sums = [np.bincount(self.stratum, row, len(self.sizes)) for row in rows]
        return np.asarray(np.stack(sums) / np.maximum(self._drawn, 1))

    @functools.cached_property
    def mean(self) -> Float[np.ndarray, " node"]:
        """The ratios."""
        below = self._means(self.counts[None]) @ self._share
        return np.asarray(self._means(self.rows) @ self._share / below)

    @functools.cached_property
    def _off(self) -> Float[np.ndarray, "node sample"]:
        """By how much the rows differ from what the ratios make of their counts."""
        below = float((self._means(self.counts[None]) @ self._share)[0])
        return np.asarray((self.rows - self.mean[:, None] * self.counts) / below)

    @functools.cached_property
    def _within(self) -> Float[np.ndarray, "node sample"]:
        """The same without the means of strata."""
        return np.asarray(self._off - self._means(self._off)[:, self.stratum])

    @functools.cached_property
    def covariance(self) -> Float[np.ndarray, "node node"]:
        """That of the errors of the ratios."""
        drawn = self._drawn
        left = np.ones(len(drawn)) if self.population else 1 - drawn / np.maximum(self.sizes, 1)
        each = self._share**2 * left / np.maximum(drawn * (drawn - 1), 1)
        found = (self._within * each[self.stratum]) @ self._within.T
        if self.population and len(drawn) > 1:  # how many of each stratum there are is chance then, too
            means = self._means(self._off)
            found = found + (means * self._share) @ means.T / self.sizes.sum()
        return np.asarray(found)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variances."""
        return max(1, int(self.rows.shape[1]) - int((self._drawn > 0).sum()))

    def skewness(self, of: Float[np.ndarray, "sum node"]) -> Float[np.ndarray, " sum"]:
        """That of the errors of weighted sums of the ratios: of their samples, over the root of how many these are."""
        off = of @ self._within
        squares = off * off
        spread = np.sqrt(squares.mean(1))
        left = 1.0 if self.population else max(0.0, 1 - off.shape[1] / float(self.sizes.sum()))
        third = np.einsum("ij,ij->i", squares, off) / off.shape[1]
        skewed = np.divide(third, spread**3, out=np.zeros(len(off)), where=spread > 0)
        return np.asarray(skewed * (left / off.shape[1]) ** 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class Nested:
    """The same where each node has as many of the first samples as it needs: those with few of them are regressed, on
    their own samples, on nodes with more, whose errors they share the more, the more alike their samples' losses are.

    Args:
        rows: Of each node what each of its samples adds; some nodes have all that others have, and more.
        counts, stratum, sizes, population: As for `Stratified`, of as many samples as the longest row has.

    Source: W. Cochran, *Sampling Techniques*, 1977, section 12.6 (regression estimates by double sampling).
    """

    rows: Sequence[np.ndarray]
    counts: Float[np.ndarray, " sample"]
    stratum: Int[np.ndarray, " sample"]
    sizes: Int[np.ndarray, " stratum"]
    population: bool = False

    @functools.cached_property
    def _parts(self) -> list[tuple[Int[np.ndarray, " known"], Int[np.ndarray, " node"], Stratified]]:
        """From the most samples down: nodes that have more, those that have these, and both on these samples."""
        lengths, found = np.array([len(row) for row in self.rows]), []
        for n in np.unique(lengths)[::-1]:
            known, here = np.flatnonzero(lengths > n), np.flatnonzero(lengths == n)
            rows = np.stack([self.rows[k][:n] for k in [*known, *here]]).astype(np.float64)
            part = Stratified(rows, self.counts[:n], self.stratum[:n], self.sizes, self.population)
            found.append((known, here, part))
        return found

    @functools.cached_property
    def _moments(self) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, "node node"]]:
        mean, covariance = np.zeros(len(self.rows)), np.zeros((len(self.rows),) * 2)
        for known, here, part in self._parts:
            k, within = len(known), part.covariance
            slopes = within[k:, :k] @ np.linalg.pinv(within[:k, :k], _SINGULAR, hermitian=True)
            rest = within[k:, k:] - slopes @ within[:k, k:]
            mean[here] = part.mean[k:] + slopes @ (mean[known] - part.mean[:k])
            across = slopes @ covariance[np.ix_(known, known)]
            covariance[np.ix_(here, known)], covariance[np.ix_(known, here)] = across, across.T
            fitted = part.freedom / max(1, part.freedom - k)  # the slopes are those of these samples
            covariance[np.ix_(here, here)] = across @ slopes.T + fitted * rest
        return mean, covariance

    @property
    def mean(self) -> Float[np.ndarray, " node"]:
        """The ratios."""
        return self._moments[0]

    @property
    def covariance(self) -> Float[np.ndarray, "node node"]:
        """That of their errors."""
        return self._moments[1]

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variances, at least."""
        return self._parts[-1][2].freedom

    def skewness(self, of: Float[np.ndarray, "node node"]) -> Float[np.ndarray, " node"]:
        """As `Stratified.skewness`, of sums, one a node, over that node and others with no fewer samples."""
        found = np.zeros(len(self.rows))
        for known, here, part in self._parts:
            found[here] = part.skewness(of[np.ix_(here, np.append(known, here))])
        return found


def tilt(skewness: Float[np.ndarray, " sum"], reach: float) -> Float[np.ndarray, " sum"]:
    """By how many standard errors an interval of `reach` of them moves up because of the errors' skewness; at most by
    half of it.

    Source: N. J. Johnson, J. Am. Stat. Assoc. 73, 1978.
    """
    return np.asarray(np.clip(skewness * (1 + 2 * reach**2) / 6, -reach / 2, reach / 2))


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
        z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
        n, p = self.total, self.value
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        # At the ends the formula gives exactly 0 or 1; rounding must not.
        low = 0.0 if self.count == 0 else max(0.0, centre - half)
        high = 1.0 if self.count == n else min(1.0, centre + half)
        return low, high

    def interval_at(self, confidence: float) -> tuple[float, float]:
        """Wilson's for 95 %; for more, such as `together` gives, the exact one: that far out Wilson's holds too seldom.

        C. J. Clopper, E. S. Pearson, Biometrika 26, 1934; [0, 1] of nothing.
        """
        if confidence == CONFIDENCE:
            return self.interval
        tail, k, n = (1 - confidence) / 2, self.count, self.total
        low = float(scipy.special.betaincinv(k, n - k + 1, tail)) if k else 0.0
        return low, float(scipy.special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.count} of {self.total} ({100 * self.value:.1f} %, "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )


def unseen_mass(counts: Int[np.ndarray, " kind"]) -> tuple[float, float, float]:
    """Probability that one more value is of a kind that none is of so far, and its 95 % interval.

    Of n values f1 kinds have one and f2 two: the estimate is f1 / n (I. J. Good, Biometrika 40, 1953), the interval
    that of a Poisson count f1 (F. Garwood, Biometrika 28, 1936), as much wider as f1 + 2 f2 is more than f1 (W. W.
    Esty, Ann. Stat. 11, 1983; with one added to each), which holds where no kind has one value as well: then it is
    [0, 3.7 / n] or wider.

    >>> unseen_mass(np.array([60, 30, 4, 2, 1, 1, 1, 1]))[0]
    0.04
    """
    n, once, twice = (int(each) for each in (counts.sum(), (counts == 1).sum(), (counts == 2).sum()))
    tail = (1 - CONFIDENCE) / 2
    low = float(scipy.special.gammaincinv(once, tail)) if once else 0.0
    high = float(scipy.special.gammaincinv(once + 1, 1 - tail))
    wider = ((once + 2 * twice + 2) / (once + 1)) ** 0.5
    ends = max(0.0, once - (once - low) * wider), min(n, once + (high - once) * wider)
    return once / n, ends[0] / n, ends[1] / n


def fewest(confidence: float) -> int:
    """Number of values from which on `median_interval` has this coverage: the smallest and the largest have it then."""
    return max(FEWEST, math.ceil(1 - math.log2(1 - confidence)))


def fewest_of_means(confidence: float) -> int:
    """Number of values from which on `mean_interval` has this coverage: 8 for 95 %, 24 for each of 24 together. Of
    fewer all may come from one part of their distribution.
    """
    return max(FEWEST_OF_MEANS, math.ceil(-5 * math.log(1 - confidence) - 7))


def quantiles(
    values: Shaped[np.ndarray, " value"], shares: Shaped[np.ndarray, " share"]
) -> Shaped[np.ndarray, " share"]:
    """Quantiles between order statistics, as numpy's, of which some values may be infinite: so is then what lies
    between a finite and an infinite one. NaN of nothing.

    >>> quantiles(np.array([1.0, 2.0, np.inf, np.inf]), np.array([0.0, 0.25, 0.5, 1.0])).tolist()
    [1.0, 1.75, inf, inf]
    """
    if not len(values):
        return np.full(len(shares), np.nan)
    ordered, place = np.sort(values), np.asarray(shares) * (len(values) - 1)
    low = np.floor(place).astype(int)
    return _between(ordered[low], ordered[np.ceil(place).astype(int)], place - low)


def median_interval(samples: Shaped[np.ndarray, " value"], confidence: float = CONFIDENCE) -> Float[np.ndarray, "2"]:
    """Interval of the median of independent values, from 6 on (from more, for more than 95 %).

    Between two order statistics whatever the distribution: how many values lie below the median is binomial.
    Interpolated between the pair that covers too much and the next (T. P. Hettmansperger, S. J. Sheather, Statistics &
    Probability Letters 4, 1986). Infinite values are what they are.

    >>> median_interval(np.arange(6.0)).round(2).tolist()
    [0.36, 4.64]
    """
    count = len(samples)
    # Of the interval from the d-th smallest to the d-th largest value, d = 1, 2, ...
    coverage = 1 - 2 * scipy.special.bdtr(np.arange((count + 1) // 2), count, 0.5)
    if count < fewest(confidence):
        return _NONE
    d = int((coverage >= confidence).sum())
    after = coverage[d] if d < len(coverage) else 0.0
    share = (coverage[d - 1] - confidence) / (coverage[d - 1] - after)
    inner = (count - d) * share / (d + (count - 2 * d) * share)
    ordered = np.sort(samples).astype(float)
    # Of an odd number the innermost pair is the middle alone.
    outer, inward = [d - 1, count - d], [min(d, count - 1), max(count - d - 1, 0)]
    return _between(ordered[outer], ordered[inward], inner)


def mean_interval(
    samples: Shaped[np.ndarray, " value"],
    confidence: float = CONFIDENCE,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Float[np.ndarray, "2"]:
    """Interval of the mean of independent values, from 8 on (from more, for more than 95 %), cut to the range `within`
    which they must lie.

    Student's, after a transformation that takes their skewness out (P. Hall, J. R. Stat. Soc. B 54, 1992). Values that
    are all the same, or not all finite, have none: they do not say how far others may be.
    """
    values = np.asarray(samples, dtype=float)
    if (
        len(values) < fewest_of_means(confidence)
        or not np.isfinite(values).all()
        or np.ptp(values) <= 1e-12 * abs(values).max()
    ):
        return _NONE
    ends = float(values.mean()) + _student(values, confidence)
    return np.clip(ends, *within)


def pairs_interval(
    pairs: Shaped[np.ndarray, "node node"],
    of: Statistic = "median",
    confidence: float = CONFIDENCE,
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Float[np.ndarray, "2"]:
    """Interval of a statistic over pairs of different nodes, such as seeds, from 20 nodes on.

    Pairs that share a node are not independent: what is left out at a time is a node with all its pairs. Of a mean the
    jackknife's pseudo-values, one a node, have `mean_interval` (J. N. Arvesen, Ann. Math. Stat. 40, 1969). Of a median,
    the share of pairs that lie below has one by the jackknife, whose ends are read off the pairs' own quantiles (R. S.
    Woodruff, J. Am. Stat. Assoc. 47, 1952). `within` is as for `mean_interval`. `pairs` need not be
    symmetric; what is NaN, and the diagonal, is left out.
    """
    if len(pairs) < FEWEST_NODES:
        return _NONE
    kept = ~np.isnan(pairs) & ~np.eye(len(pairs), dtype=bool)
    if of == "mean":
        mean, pseudo = _jackknife(np.where(kept, pairs, 0.0), kept)
        return np.asarray(np.clip(mean_interval(pseudo, confidence) + (mean - pseudo.mean()), *within))
    values = pairs[kept]
    if not len(values):
        return _NONE
    _, pseudo = _jackknife(kept & (pairs <= np.median(values)), kept)
    reach = float(scipy.special.stdtrit(len(pairs) - 1, (1 + confidence) / 2)) * pseudo.std(ddof=1) / len(pairs) ** 0.5
    return quantiles(values, np.clip([0.5 - reach, 0.5 + reach], 0, 1))


def _between(
    low: Shaped[np.ndarray, "..."], high: Shaped[np.ndarray, "..."], share: float | Float[np.ndarray, "..."]
) -> Shaped[np.ndarray, "..."]:
    """The point at a share of the way; from a finite to an infinite value it is infinite."""
    share = np.broadcast_to(share, np.shape(low))
    found = np.where(share >= 1, high, low).astype(float)
    inside = (share > 0) & (share < 1) & (low != high)
    found[inside] = low[inside] * (1 - share[inside]) + high[inside] * share[inside]
    return found


def _student(values: Float[np.ndarray, " value"], confidence: float) -> Float[np.ndarray, "2"]:
    """How far the ends lie from the mean: (low, high)."""
    count, off = len(values), values - values.mean()
    deviation = float(values.std(ddof=1))
    skewness = float((off**3).mean() / values.std() ** 3) * (count * (count - 1)) ** 0.5 / (count - 2)
    reach = float(scipy.special.stdtrit(count - 1, (1 + confidence) / 2)) / count**0.5
    ends = np.array([reach, -reach])
    if abs(skewness) > 1e-6:
        ends = 3 / skewness * (np.cbrt(1 + skewness * (ends - skewness / (6 * count))) - 1)
    return -deviation * ends


def _jackknife(
    values: Shaped[np.ndarray, "node node"], kept: Shaped[np.ndarray, "node node"]
) -> tuple[float, Float[np.ndarray, " node"]]:
    """The mean of what is kept of a table, and its pseudo-values, one a node that is left out with all its pairs."""
    count, total = kept.sum(), values.sum()
    left = count - kept.sum(0) - kept.sum(1)
    without = (total - values.sum(0) - values.sum(1)) / np.maximum(left, 1)
    mean = float(total / max(count, 1))
    return mean, len(values) * mean - (len(values) - 1) * without
