"""Surfaces through points that are scattered over a plane, and how far they may be off.

A surface is a sum of polyharmonic splines |p - p_i|^3 or |p - p_i|^5 and a polynomial (J. Duchon, 1977) in the values
or in their logarithm above a floor. What each node is predicted to be by all others needs no further fit (S. Rippa,
Adv. Comput. Math. 11, 1999): by how much these predictions are wrong says which of the surfaces to take, and how far it
may be off nearby. A ridge that is narrower than the spaces between nodes is not seen.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Scattered", "first_nodes", "spread_out"]

#: Exponents of the splines, with the degree of their polynomial; floors of logarithms, as shares of the values' range.
_SPLINES, _FLOORS = ((3, 1), (5, 2)), (0.02, 0.1)

#: By how much more than the wrong predictions of so many nodes around it the error at a place may be. Set on 156 planes
#: of rectifiers (exact Life and digits; random directions, three solutions, trajectories), of which all lie inside 1 %
#: of their range with it; `tests/test_planes_accuracy.py` looks at others.
_SAFETY, _AROUND = 3.0, 8

#: Share of the nodes, those of the worst predictions, by which surfaces are chosen.
_WORST = 0.1

#: A surface that misses its own nodes by more than these shares of their range and their size is lost in rounding.
_ROUNDING, _EXACT = 1e-6, 1e-9

#: Distances that are in memory at once; nodes along an axis at first, every other one in each row.
_DISTANCES, _FIRST = 2**22, 9


def first_nodes(rows: int, columns: int) -> Int[np.ndarray, " node"]:
    """Nodes of a grid to begin with, by their numbers row by row: 5 x 5, and 4 x 4 between them, where it has so many.

    >>> first_nodes(3, 3).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    y, x = (np.round(np.linspace(0, size - 1, _FIRST)).astype(int) for size in (rows, columns))
    pairs = [y[begin::2][:, None] * columns + x[begin::2] for begin in (0, 1)]
    return np.unique(np.concatenate([each.ravel() for each in pairs]))


def spread_out(
    wanted: Float[np.ndarray, " place"],
    places: Float[np.ndarray, "place 2"],
    gaps: Float[np.ndarray, " place"],
    least: Float[np.ndarray, " place"],
    most: int,
) -> Int[np.ndarray, " chosen"]:
    """The places that are wanted most, and more than at `least`, of which each makes those nearer than the `gaps`
    around them wanted less, as the square of how near they are.
    """
    chosen, wanted = list[int](), np.nan_to_num(wanted, posinf=1e300)
    for _ in range(most):
        best = int(np.argmax(wanted / least))
        if not wanted[best] > least[best]:
            break
        chosen.append(best)
        away = np.sqrt(((places - places[best]) ** 2).sum(1))
        wanted *= np.minimum(1, away / np.maximum(gaps, 1e-12)) ** 2
    return np.array(chosen, dtype=np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Scattered:
    """A surface through values at nodes, whose coordinates are of the size of 1.

    `caution`, at least 1, is a factor on its error, from values that were predicted before they were known.
    """

    nodes: Float[np.ndarray, "node 2"]
    values: Float[np.ndarray, " node"]
    caution: float = 1.0

    @functools.cached_property
    def _apart(self) -> Float[np.ndarray, " node"]:
        """How far each node is from the next."""
        away = _distances(self.nodes, self.nodes)
        np.fill_diagonal(away, np.inf)
        return np.asarray(away.min(1))

    @functools.cached_property
    def _best(self) -> tuple[int, int, float, np.ndarray, np.ndarray]:
        """Of the surface that predicts its nodes best: exponent, degree, floor (0: no logarithm), coefficients, and by
        how much each node was predicted wrongly.
        """
        count, away = len(self.nodes), _distances(self.nodes, self.nodes)
        found = (0, 0, 0.0, np.zeros(0), np.full(count, np.inf))
        worst = max(1, int(_WORST * count))
        least = np.inf
        for power, degree in _SPLINES:
            below = _monomials(self.nodes, degree)
            whole = np.zeros((count + below.shape[1],) * 2)
            whole[:count, :count], whole[:count, count:], whole[count:, :count] = away**power, below, below.T
            try:
                inverse = np.linalg.inv(whole)
            except np.linalg.LinAlgError:  # all nodes on a curve of that degree
                continue
            for floor in (0.0, *_FLOORS):
                scaled = self._scaled(self.values, floor)
                coefficients = inverse[:, :count] @ scaled
                with np.errstate(all="ignore"):
                    predicted = self._scaled_back(scaled - coefficients[:count] / np.diag(inverse)[:count], floor)
                    wrong = np.abs(predicted - self.values)
                score = float(np.sort(wrong)[-worst:].mean())
                missed = np.abs(whole[:count] @ coefficients - scaled).max()
                if score < least and missed <= _ROUNDING * np.ptp(scaled) + _EXACT * np.abs(scaled).max():
                    least, found = score, (power, degree, floor, coefficients, wrong)
        return found

    def _scaled(self, values: np.ndarray, floor: float) -> np.ndarray:
        if not floor or not np.ptp(self.values):
            return np.asarray(values - self.values[0])
        return np.asarray(np.log(values - self.values.min() + floor * np.ptp(self.values)))

    def _scaled_back(self, scaled: np.ndarray, floor: float) -> np.ndarray:
        if not floor or not np.ptp(self.values):
            return np.asarray(scaled + self.values[0])
        return np.asarray(np.exp(scaled) + self.values.min() - floor * np.ptp(self.values))

    @property
    def wrong(self) -> Float[np.ndarray, " node"]:
        """How far each node is from what all others predict there; infinite where no surface is found."""
        return self._best[-1]

    def __call__(self, places: Float[np.ndarray, "place 2"]) -> Float[np.ndarray, " place"]:
        """The values at places; where no surface is found, their mean."""
        power, degree, floor, coefficients, _ = self._best
        if not power:
            return np.full(len(places), self.values.mean())
        found = [
            np.hstack([_distances(some, self.nodes) ** power, _monomials(some, degree)]) @ coefficients
            for some in self._parts(places)
        ]
        return self._scaled_back(np.concatenate(found), floor)

    def around(self, places: Float[np.ndarray, "place 2"]) -> tuple[np.ndarray, np.ndarray]:
        """The nodes around each place, the nearest first, and how far it is from that one."""
        near, gaps = [], []
        for some in self._parts(places):
            away = _distances(some, self.nodes)
            near.append(np.argsort(away, 1)[:, :_AROUND])
            gaps.append(away.min(1))
        return np.concatenate(near), np.concatenate(gaps)

    def error(self, near: np.ndarray, gaps: Float[np.ndarray, " place"]) -> Float[np.ndarray, " place"]:
        """How far the surface may be off at places that have these nodes `around` them."""
        nearer = np.minimum(1, gaps[:, None] / self._apart[near])
        with np.errstate(invalid="ignore"):
            off = np.where(gaps[:, None] > 0, self.wrong[near] * nearer, 0.0)
        return np.asarray(_SAFETY * self.caution * off.max(1))

    def cautious(self, predicted: np.ndarray, error: np.ndarray, values: np.ndarray) -> float:
        """The caution of a surface with further nodes that this one predicted: what surprises makes cautious, and that
        is forgotten by halves.
        """
        with np.errstate(all="ignore"):
            surprise = np.nan_to_num(np.abs(predicted - values) / np.maximum(error, 1e-12 * np.abs(values)))
        return float(np.clip(max(surprise.max(initial=0.0) * self.caution, self.caution / 2), 1, 10))

    def _parts(self, places: np.ndarray) -> list[np.ndarray]:
        return np.array_split(places, max(1, len(places) * len(self.nodes) // _DISTANCES))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1]))


def _monomials(places: np.ndarray, degree: int) -> np.ndarray:
    x, y = places.T
    return np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)
