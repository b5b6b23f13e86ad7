"""The Hessian's spectrum at any size: leading eigenpairs, and how many eigenvalues are negative.

Networks of up to `whole` parameters have their Hessian computed whole, and all answers are exact. Larger ones are known
by products with vectors alone; every result then says how far it can be trusted. Members are treated one by one.
"""

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int

from landscape.core import philox
from landscape.core.errors import LandscapeError
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PARAMETERS, MOST_PRODUCTS, NEAR_ZERO, Hessian, Matrix, each_member
from landscape.engine.plain import AnyObjective
from landscape.engine.stack import Stack

__all__ = ["Eigenpairs", "NegativeCount", "Which", "eigenpairs", "lanczos", "negative_count"]

#: Of the largest magnitude first; the largest first; the smallest first; from both ends, in ascending order.
Which = Literal["magnitude", "largest", "smallest", "both"]

#: Residuals relative to the largest magnitude, of products in each precision.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}

#: Vectors that are kept in a search at one end, where eigenvalues may lie close.
_BASIS = 60

#: Lanczos steps that count negative eigenvalues, and bytes of their vectors at most.
_STEPS, _BASIS_BYTES = 300, 2**30

#: Stream of random numbers from which Lanczos starts, apart from those of other uses of a seed.
_STREAM = 0x53504543


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Of each member, k eigenvalues of the Hessian and their vectors of L2 norm 1, in the order of `which`.

    `residuals` are ||H v - lambda v||: there is an eigenvalue at most so far from each value. A pair has `converged` if
    its residual is at most `tolerance` times the largest magnitude; values that were not found within the allowed
    products are NaN. That no eigenvalue between the found ones was missed is likely for a random start, but unproven,
    unless the result is `exact`: then the whole Hessian was decomposed.
    """

    values: Float[np.ndarray, "member k"]
    vectors: Float[np.ndarray, "member k parameter"]
    residuals: Float[np.ndarray, "member k"]
    converged: Bool[np.ndarray, "member k"]
    products: Int[np.ndarray, " member"]
    which: Which
    tolerance: float
    exact: bool


@dataclasses.dataclass(frozen=True, eq=False)
class NegativeCount:
    """Of each member, how many eigenvalues of the Hessian are negative: `at_least` so many, and no more where
    `complete`.

    Negative is what lies below -1e-6 times the largest magnitude. `smallest` is the smallest eigenvalue, NaN if it did
    not converge. Where the result is `exact`, the whole Hessian was decomposed; else eigenvalues within the tolerance
    of the bound may count on either side.
    """

    at_least: Int[np.ndarray, " member"]
    complete: Bool[np.ndarray, " member"]
    smallest: Float[np.ndarray, " member"]
    products: Int[np.ndarray, " member"]
    exact: bool


def eigenpairs(
    objective: AnyObjective,
    stack: Stack,
    *,
    k: int = 5,
    which: Which = "magnitude",
    tol: float | None = None,
    seed: int = 0,
    matrix: Matrix = "hessian",
    whole: int = MOST_PARAMETERS,
    most_products: int = MOST_PRODUCTS,
    on_progress: Progress = lambda done, total: None,
) -> Eigenpairs:
    """`k` eigenpairs of the Hessian of the loss at each member.

    By implicitly restarted Lanczos iterations (R. B. Lehoucq, D. C. Sorensen, C. Yang, *ARPACK Users' Guide*, 1998)
    from a random start, to the tolerance `tol` (by default 1e-6 in float64, 1e-3 in float32). Raises `LandscapeError`
    if there are not k eigenvalues, or if parameters or products are not finite.
    """
    exact = stack.parameters <= whole
    if not 1 <= k <= stack.parameters - (not exact):
        raise LandscapeError(
            f"a Hessian of {stack.parameters} x {stack.parameters} has no {k} eigenpairs to find: "
            f"ask for 1 to {stack.parameters - (not exact)}"
        )
    tol = TOLERANCE[objective.dtype] if tol is None else tol
    (values, vectors, residuals, converged, products), _ = each_member(
        objective,
        stack,
        lambda matrix: _decomposed(matrix, k, which),
        lambda hessian: _Lanczos(hessian, tol, seed, most_products).pairs(k, which),
        matrix=matrix,
        whole=whole,
        most=most_products,
        on_progress=on_progress,
    )
    return Eigenpairs(values, vectors, residuals, converged, products, which, 0.0 if exact else tol, exact)


def negative_count(
    objective: AnyObjective,
    stack: Stack,
    *,
    k: int = 10,
    tol: float | None = None,
    seed: int = 0,
    matrix: Matrix = "hessian",
    whole: int = MOST_PARAMETERS,
    most_products: int = MOST_PRODUCTS,
    on_progress: Progress = lambda done, total: None,
) -> NegativeCount:
    """How many eigenvalues of the Hessian of the loss at each member are negative; give an objective of dtype float64.

    For larger networks, negative Ritz values of 300 Lanczos steps are a lower bound. If there are fewer than `k`, the
    `k` smallest eigenvalues are found: the count is complete if the last of them is not negative and another search,
    away from the negative ones, finds none that was missed. Raises `LandscapeError` if parameters or products are not
    finite.
    """
    tol = TOLERANCE[objective.dtype] if tol is None else tol
    (at_least, complete, smallest, products), exact = each_member(
        objective,
        stack,
        _counted,
        lambda hessian: _Lanczos(hessian, tol, seed, most_products).negative(min(k, stack.parameters - 1)),
        matrix=matrix,
        whole=whole,
        most=most_products,
        on_progress=on_progress,
    )
    return NegativeCount(at_least, complete, smallest, products, exact)


def _places(values: Float[np.ndarray, " value"], k: int, which: Which) -> Int[np.ndarray, " k"]:
    """Where among ascending values the k wanted are, in the order of `which`."""
    count = len(values)
    if which == "magnitude":
        return np.argsort(-np.abs(values), kind="stable")[:k]
    if which == "both":
        return np.concatenate([np.arange(k // 2), np.arange(count - (k - k // 2), count)])
    return np.arange(k) if which == "smallest" else np.arange(count)[::-1][:k]


def _decomposed(matrix: Float[np.ndarray, "parameter parameter"], k: int, which: Which) -> tuple[Any, ...]:
    values, columns = np.linalg.eigh(matrix)
    chosen = _places(values, k, which)
    residuals = np.linalg.norm(matrix @ columns - columns * values, axis=0)
    return values[chosen], columns.T[chosen], residuals[chosen], np.ones(k, dtype=bool), len(matrix)


def _counted(matrix: Float[np.ndarray, "parameter parameter"]) -> tuple[int, bool, float, int]:
    values = np.linalg.eigvalsh(matrix)
    return int((values < -NEAR_ZERO * np.abs(values).max()).sum()), True, float(values[0]), len(matrix)


class _Lanczos:
    """Eigenpairs of one member's Hessian, within an allowance of products."""

    def __init__(self, hessian: Hessian, tol: float, seed: int, most: int) -> None:
        self.hessian, self.tol, self.most = hessian, tol, most
        self.size = hessian.parameters
        self.start = philox.normal(torch.tensor([seed]), stream=_STREAM, step=0, count=self.size)[0].numpy()

    def pairs(self, k: int, which: Which) -> tuple[Any, ...]:
        """Values, vectors, residuals, whether they converged, and the products it took."""
        if which == "magnitude":
            values, vectors = self._search(k, "LM", 0.0)
            scale = np.abs(values).max(initial=0.0)
        else:
            scale = self.scale()
            low = k if which == "smallest" else k // 2 if which == "both" else 0
            ends = [self.end(count, side, scale) for count, side in ((low, -1), (k - low, 1)) if count]
            values, vectors = (np.concatenate(each) for each in zip(*ends, strict=True))
        products = self._products(vectors) if len(vectors) else vectors
        residuals = np.linalg.norm(products - values[:, None] * vectors, axis=1)
        order = np.argsort(values)
        order = order[_places(values[order], len(values), which)]
        missing = k - len(values)
        return (
            np.pad(values[order], (0, missing), constant_values=np.nan),
            np.pad(vectors[order], ((0, missing), (0, 0)), constant_values=np.nan),
            np.pad(residuals[order], (0, missing), constant_values=np.nan),
            np.pad(residuals[order] <= self.tol * scale, (0, missing)),
            self.hessian.count,
        )

    def negative(self, k: int) -> tuple[int, bool, float, int]:
        """How many negative eigenvalues there are at least, whether these are all, the smallest, products it took."""
        ritz, errors = self.ritz(min(self.size, _STEPS, self.most // 2))
        scale = float(np.abs(ritz).max())
        count, complete = int((ritz < -NEAR_ZERO * scale).sum()), False
        smallest = float(ritz[0]) if errors[0] <= self.tol * scale else math.nan
        if count < k:
            values, vectors = self.end(k, -1, scale)
            below = values < -NEAR_ZERO * scale
            complete = len(values) == k and not below.all()
            if complete and below.any():  # of equal eigenvalues the search may have met one alone
                missed, _ = self.end(1, -1, scale, away_from=vectors[below])
                complete = len(missed) == 1 and not missed[0] < -NEAR_ZERO * scale
            count = max(count, int(below.sum()))
            smallest = float(values.min()) if len(values) else smallest
        return count, complete, smallest, self.hessian.count

    def ritz(self, steps: int) -> tuple[Float[np.ndarray, " value"], Float[np.ndarray, " value"]]:
        """Ritz values after so many plain Lanczos steps, ascending, and their residuals.

        By Cauchy's interlacing theorem the Hessian has at least as many eigenvalues below any bound, converged or not.
        """
        values, columns, beside = lanczos(self.hessian, self.start, steps)
        return values, np.abs(beside * columns[-1])

    def scale(self) -> float:
        """About the largest magnitude of an eigenvalue; NaN if it was not found within the allowance."""
        values, _ = self._search(1, "LM", 0.0, tol=1e-2)
        return float(np.abs(values[0])) if len(values) else math.nan

    def end(
        self, k: int, side: int, scale: float, away_from: Float[np.ndarray, "vector parameter"] | None = None
    ) -> tuple[Float[np.ndarray, " found"], Float[np.ndarray, "found parameter"]]:
        """The k largest (side 1) or smallest (side -1) eigenvalues, to a tolerance relative to `scale`.

        ARPACK's tolerance is relative to each value, which one near zero never meets. Shifted by twice the scale all
        magnitudes are from once to three times the scale. Vectors to stay `away_from` are lifted to the other end.
        """
        if not scale > 0:  # no direction is bent, or nothing is known
            empty = np.zeros((0, self.size))
            return (np.zeros(0), empty) if math.isnan(scale) else (np.zeros(k), np.eye(k, self.size))
        shift = 2 * side * scale
        values, vectors = self._search(k, "LA" if side > 0 else "SA", shift, away_from)
        return values - shift, vectors

    def _search(
        self,
        k: int,
        which: Literal["LM", "LA", "SA"],
        shift: float,
        away_from: Float[np.ndarray, "vector parameter"] | None = None,
        tol: float | None = None,
    ) -> tuple[Float[np.ndarray, " found"], Float[np.ndarray, "found parameter"]]:
        """Eigenpairs of the shifted Hessian: those that ARPACK found within the allowance."""

        def product(vector: np.ndarray) -> np.ndarray:
            vector = vector.ravel()
            result = self._products(vector[None])[0] + shift * vector
            if away_from is not None:
                result = result - 2 * shift * (away_from.T @ (away_from @ vector))
            return np.asarray(result)

        lanczos = min(self.size, max(2 * k + 1, 20 if which == "LM" else _BASIS))
        restarts = (self.most - self.hessian.count - lanczos) // (lanczos - k)
        if restarts < 1:
            return np.zeros(0), np.zeros((0, self.size))
        if not product(self.start).any():  # which ARPACK refuses: a random vector is no eigenvector but of nothing
            return np.zeros(k), np.eye(k, self.size)
        try:
            values, columns = scipy.sparse.linalg.eigsh(
                scipy.sparse.linalg.LinearOperator((self.size, self.size), matvec=product, dtype=np.float64),
                k,
                which=which,
                v0=self.start,
                ncv=lanczos,
                maxiter=restarts,
                tol=(self.tol if tol is None else tol) / 4,  # of at most three times the scale
            )
        except scipy.sparse.linalg.ArpackNoConvergence as error:
            values, columns = error.eigenvalues, error.eigenvectors
        return np.asarray(values), np.asarray(columns).T

    def _products(self, vectors: Float[np.ndarray, "vector parameter"]) -> Float[np.ndarray, "vector parameter"]:
        return _products(self.hessian, vectors)


def lanczos(
    hessian: Hessian, start: Float[np.ndarray, " parameter"], steps: int
) -> tuple[Float[np.ndarray, " value"], Float[np.ndarray, "step value"], float]:
    """Eigenvalues, ascending, and eigenvectors of the tridiagonal matrix of so many Lanczos steps with full
    reorthogonalisation, and what the next entry beside its diagonal is; of fewer steps where the vectors would not fit
    `_BASIS_BYTES`, or where they span what the Hessian maps to itself.
    """
    basis = np.zeros((max(1, min(steps, len(start), _BASIS_BYTES // (8 * len(start)))), len(start)))
    diagonal, beside = np.zeros(len(basis)), np.zeros(len(basis))
    vector, count = start / np.linalg.norm(start), 0
    for step in range(len(basis)):
        basis[step], count = vector, step + 1
        image = _products(hessian, vector[None])[0]
        size = np.linalg.norm(image)
        diagonal[step] = vector @ image
        for _ in range(2):  # once leaves too much of the earlier vectors
            image -= basis[:count].T @ (basis[:count] @ image)
        beside[step] = np.linalg.norm(image)
        if beside[step] <= 1e-12 * size:  # the span is mapped to itself
            break
        vector = image / beside[step]
    values, columns = scipy.linalg.eigh_tridiagonal(diagonal[:count], beside[: count - 1])
    return values, columns, float(beside[count - 1])


def _products(
    hessian: Hessian, vectors: Float[np.ndarray, "vector parameter"]
) -> Float[np.ndarray, "vector parameter"]:
    return hessian.products(torch.from_numpy(np.ascontiguousarray(vectors))).cpu().numpy()
