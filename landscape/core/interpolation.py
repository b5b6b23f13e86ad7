"""Curves through points that are placed one after another, many lines at once, and how far they may be off.

Between two nodes a curve is the polynomial of degree 5 through the six nodes around them. That of degree 3 through the
inner four, and the straight line, say how fast it converges: with differences D3 and D5 of one degree and the next the
error is about D5 where D5 is small beside D3, and about D3 where the curve has a kink, which no degree resolves.
"""

import dataclasses
import functools
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["PLACES", "Curves", "first_nodes"]

#: Places in a cell, as shares of it, at which curves and errors are looked at.
PLACES = np.arange(1, 32) / 32

#: Nodes of a polynomial, and how many of them those of lower degree use.
_WINDOW, _INNER, _LINE = 6, 4, 2

#: Ratio of the highest to the lowest value from which on the logarithm is interpolated.
_DECADE = 10.0

#: By how much the error estimate is more than the difference of the last two degrees, where these fall fast and where
#: they do not; by how much a cell is more bent than those beyond its neighbours where it has a kink.
_SAFETY, _MOST_SAFETY, _KINK = 3.0, 8.0, 4.0

#: By how much more than this estimate an error that is to hold in all cells at once is, and the share of it that each
#: next cell has at least: what lies in one can look smooth by chance. Set on 300 lines of rectifiers (exact Life and
#: digits) such that 98 % lie inside everywhere; `tests/test_accuracy.py` looks at others.
_ANYWHERE, _DECAY = 6.0, 0.5

#: Nodes that a piece between two knots has at first, at least.
_FIRST = 9


def first_nodes(knots: Float[np.ndarray, " knot"]) -> Float[np.ndarray, " node"]:
    """Evenly spaced nodes to begin with, in each piece between two knots an odd number.

    >>> first_nodes(np.array([0.0, 1.0])).tolist()
    [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    """
    cells = max(4, 2 * -(-(_FIRST - 1) // (2 * (len(knots) - 1))))
    pieces = [np.linspace(low, high, cells + 1) for low, high in itertools.pairwise(knots)]
    return np.unique(np.concatenate(pieces))


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Curves of many lines through nodes of their own, in pieces between `knots`, which are nodes of all.

    `x` increases; lines with fewer nodes than others have infinite ones at the end, whose `y` does not count. Where all
    values of a line are positive and span a decade their logarithm is interpolated. `caution`, at least 1, are factors
    on the error of each line, from points that were predicted before they were known (`surprise`).
    """

    x: Float[np.ndarray, "line node"]
    y: Float[np.ndarray, "line node"]
    knots: Float[np.ndarray, " knot"]
    caution: Float[np.ndarray, " line"]

    @property
    def there(self) -> Bool[np.ndarray, "line node"]:
        """Which nodes there are."""
        return np.asarray(np.isfinite(self.x))

    @functools.cached_property
    def _count(self) -> Int[np.ndarray, " line"]:
        return np.asarray(self.there.sum(1))

    @functools.cached_property
    def logarithmic(self) -> Bool[np.ndarray, " line"]:
        """Of which lines the logarithm is interpolated."""
        low = self.y.min(1, where=self.there, initial=np.inf)
        return np.asarray((low > 0) & (self.y.max(1, where=self.there, initial=-np.inf) > _DECADE * low))

    @functools.cached_property
    def _newton(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each cell the nodes of its polynomial, the inner ones first, and its divided differences."""
        lines, nodes = self.x.shape
        cell = np.broadcast_to(np.arange(nodes - 1), (lines, nodes - 1))
        middle = (self.x[:, :-1] + np.where(self.there[:, 1:], self.x[:, 1:], self.x[:, :-1])) / 2
        piece = np.clip(np.searchsorted(self.knots, middle, side="right") - 1, 0, len(self.knots) - 2)
        begins = (self.x[:, None] < self.knots[:, None]).sum(2)  # the knots' own nodes
        low, high = np.take_along_axis(begins, piece, 1), np.take_along_axis(begins, piece + 1, 1)

        def first(size: int) -> np.ndarray:
            return np.asarray(np.clip(cell - (size // 2 - 1), low, np.maximum(high - size + 1, low)))

        place = first(_WINDOW)[..., None] + np.arange(_WINDOW)
        inner = [
            (place >= first(size)[..., None]) & (place < first(size)[..., None] + size) for size in (_INNER, _LINE)
        ]
        order = np.argsort(-(inner[0] + 2 * inner[1] - 4 * (place > high[..., None])), axis=2, kind="stable")
        place = np.take_along_axis(place, order, 2)
        used = place <= high[..., None]
        rows, place = np.arange(lines)[:, None, None], np.minimum(place, nodes - 1)
        # What is not used lies far off, each at another place, and its differences are left out.
        x = np.where(used & self.there[rows, place], self.x[rows, place], 1e3 + np.arange(_WINDOW))
        with np.errstate(all="ignore"):
            values = np.where(self.logarithmic[:, None], np.log(np.where(self.there, self.y, 1.0)), self.y)
            table = [np.where(used, values[rows, place], 0.0)]
            for k in range(1, _WINDOW):
                table.append(np.diff(table[-1], axis=2) / (x[..., k:] - x[..., :-k]))
        return x, np.where(used, np.stack([each[..., 0] for each in table], 2), 0.0)

    def _degrees(self, cell: Int[np.ndarray, "line place"], t: Float[np.ndarray, "line place"]) -> list[np.ndarray]:
        """The straight line, and the polynomials of degree 3 and 5, at places in cells."""
        x, differences = self._newton
        rows = np.arange(len(cell))[:, None]
        total, factor, found = differences[rows, cell, 0], 1.0, []
        with np.errstate(all="ignore"):
            for k in range(1, _WINDOW):
                factor = factor * (t - x[rows, cell, k - 1])
                total = total + factor * differences[rows, cell, k]
                if k + 1 in (_LINE, _INNER, _WINDOW):
                    found.append(np.where(self.logarithmic[:, None], np.exp(total), total))
        return found

    def cell(self, t: Float[np.ndarray, "line place"]) -> Int[np.ndarray, "line place"]:
        """The cell of each place: the number of the node before it."""
        found = np.stack([np.searchsorted(x, at, side="right") - 1 for x, at in zip(self.x, t, strict=True)])
        return np.asarray(np.clip(found, 0, self._count[:, None] - 2))

    def __call__(self, t: Float[np.ndarray, "line place"]) -> Float[np.ndarray, "line place"]:
        """The values at places; at nodes those that were given."""
        cell = self.cell(t)
        found = self._degrees(cell, t)[-1]
        for node in (cell, cell + 1):
            here = np.take_along_axis(self.x, node, 1) == t
            found = np.where(here, np.take_along_axis(self.y, node, 1), found)
        return found

    @functools.cached_property
    def places(self) -> Float[np.ndarray, "line cell place"]:
        """`PLACES` of each cell."""
        ends = np.where(self.there, self.x, self.x.max(1, where=self.there, initial=-np.inf)[:, None])
        return np.asarray(ends[:, :-1, None] + np.diff(ends)[..., None] * PLACES)

    @functools.cached_property
    def _looked_at(self) -> list[np.ndarray]:
        lines, cells, places = self.places.shape
        cell = np.broadcast_to(np.arange(cells)[:, None], (cells, places)).ravel()
        found = self._degrees(np.broadcast_to(cell, (lines, len(cell))), self.places.reshape(lines, -1))
        return [each.reshape(lines, cells, places) for each in found]

    @property
    def values(self) -> Float[np.ndarray, "line cell place"]:
        """The curves at `places`."""
        return self._looked_at[-1]

    @functools.cached_property
    def error(self) -> Float[np.ndarray, "line cell"]:
        """How far the curves may be off in each cell; 0 behind the last node."""
        line, cubic, quintic = self._looked_at
        there = self.there[:, 1:]
        with np.errstate(all="ignore"):
            coarse, fine = (np.abs(a - b).max(2) for a, b in ((cubic, line), (quintic, cubic)))
            ratio = np.where(coarse > 0, fine / coarse, 0.0)
            bend = np.where(there, coarse / np.where(there, np.diff(self.x), 1.0) ** 2, 0.0)
        smooth = np.where(there, _SAFETY * fine * np.clip(4 * ratio, 1, _MOST_SAFETY), 0.0)
        # A kink bends its cell alone: the cells behind those beside it are straighter. At an end there is one of them.
        beyond = np.pad(bend, ((0, 0), (2, 2)))
        before, behind = beyond[:, :-4], beyond[:, 4:]
        last = self._count[:, None] - 2
        cell = np.arange(bend.shape[1])
        before, behind = np.where(cell < 2, _KINK * behind, before), np.where(cell > last - 2, _KINK * before, behind)
        kink = there & (bend > _KINK * np.maximum(before, behind))
        own = np.maximum(smooth, np.where(kink, _SAFETY * coarse, 0.0))
        beside = np.pad(own, ((0, 0), (1, 1)))
        found = np.maximum(own, np.maximum(beside[:, :-2], beside[:, 2:]))
        return np.asarray(np.where(there, self.caution[:, None] * found, 0.0))

    @functools.cached_property
    def anywhere(self) -> Float[np.ndarray, "line cell"]:
        """How far the curves may be off in each cell, such that this holds in all of them at once."""
        found = _ANYWHERE * self.error
        for k in range(1, found.shape[1]):
            found[:, k] = np.maximum(found[:, k], _DECAY * found[:, k - 1])
        for k in range(found.shape[1] - 1, 0, -1):
            found[:, k - 1] = np.maximum(found[:, k - 1], _DECAY * found[:, k])
        return np.asarray(np.where(self.there[:, 1:], found, 0.0))

    def surprise(
        self, t: Float[np.ndarray, "line place"], y: Float[np.ndarray, "line place"]
    ) -> Float[np.ndarray, " line"]:
        """By how much more than their estimate, without caution, predictions of new values were off; NaN stands for no
        place, and 0 is returned where there is none.
        """
        there = np.isfinite(t)
        at = np.where(there, t, 0.0)
        told = np.take_along_axis(self.error, self.cell(at), 1) / self.caution[:, None]
        with np.errstate(all="ignore"):
            off = np.abs(self(at) - y) / np.maximum(told, 1e-12 * np.abs(y))
        return np.asarray(np.where(there, np.nan_to_num(off), 0.0).max(1, initial=0.0))

    def with_nodes(self, t: Float[np.ndarray, "line place"], y: Float[np.ndarray, "line place"]) -> "Curves":
        """The curves through further nodes; NaN stands for none. What surprises makes cautious, and that is forgotten
        by halves.
        """
        caution = np.clip(np.maximum(self.surprise(t, y), self.caution / 2), 1, 10)
        x = np.concatenate([self.x, np.where(np.isfinite(t), t, np.inf)], 1)
        order = np.argsort(x, axis=1, kind="stable")[:, : int(np.isfinite(x).sum(1).max())]
        values = np.concatenate([self.y, np.where(np.isfinite(t), y, 0.0)], 1)
        return Curves(np.take_along_axis(x, order, 1), np.take_along_axis(values, order, 1), self.knots, caution)
