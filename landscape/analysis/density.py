"""The spectral density of the Hessian: how many of its eigenvalues lie where, at any size, with its error."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from landscape.core import philox
from landscape.core.errors import LandscapeError
from landscape.core.intervals import mean_interval
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PARAMETERS, MOST_PRODUCTS, Hessian, Matrix, each_member
from landscape.engine.plain import AnyObjective
from landscape.engine.spectrum import lanczos
from landscape.engine.stack import Stack

__all__ = ["PROBES", "STEPS", "Density", "density"]

#: Random vectors, and Lanczos steps from each.
PROBES, STEPS = 10, 80

#: Stream of random signs, apart from those of other uses of a seed.
_STREAM = 0x44454E53

#: The grid reaches so many widths beyond the eigenvalues, at so many points a width: sums over it are integrals.
_MARGIN, _FINENESS = 6.0, 4.0

#: Points of the grid at most.
_MOST_POINTS = 100_001


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
    """Of each member the density of the eigenvalues, whose integral is 1, on a `grid` that members share.

    Each eigenvalue is broadened to a Gaussian of standard deviation `width`. `nodes` and `weights` are those of the
    quadrature, padded with weights of zero, whose sums over the last axis are 1: of the matrix itself one row with all
    eigenvalues where the result is `exact`, else one for each random probe. `values` are means over probes, `se` their
    standard error, `low` and `high` the ends of their 95 % intervals (from 8 probes on); what `steps` Lanczos steps do
    not resolve, about the range of the eigenvalues over their number, is in neither. `mean` and `mean_square` are of
    the eigenvalues: trace and squared Frobenius norm over the number of parameters.
    """

    grid: Float[np.ndarray, " point"]
    values: Float[np.ndarray, "member point"]
    se: Float[np.ndarray, "member point"]
    low: Float[np.ndarray, "member point"]
    high: Float[np.ndarray, "member point"]
    width: float
    nodes: Float[np.ndarray, "member probe node"]
    weights: Float[np.ndarray, "member probe node"]
    steps: Int[np.ndarray, " member"]
    products: Int[np.ndarray, " member"]
    exact: bool

    @property
    def probes(self) -> int:
        """Number of random vectors; 0 where none was needed."""
        return 0 if self.exact else self.nodes.shape[1]

    @property
    def mean(self) -> Float[np.ndarray, " member"]:
        """Of the eigenvalues."""
        return np.asarray((self.nodes * self.weights).sum(2).mean(1))

    @property
    def mean_square(self) -> Float[np.ndarray, " member"]:
        """Of their squares."""
        return np.asarray((self.nodes**2 * self.weights).sum(2).mean(1))


def density(
    objective: AnyObjective,
    stack: Stack,
    *,
    probes: int = PROBES,
    steps: int = STEPS,
    width: float | None = None,
    seed: int = 0,
    matrix: Matrix = "hessian",
    whole: int = MOST_PARAMETERS,
    most_products: int = MOST_PRODUCTS,
    on_progress: Progress = lambda done, total: None,
) -> Density:
    """The density of the eigenvalues of the Hessian of the loss at each member; give an objective of dtype float64.

    By stochastic Lanczos quadrature (S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017; of networks B.
    Ghorbani, S. Krishnan, Y. Xiao, ICML 2019; V. Papyan, ICML 2019): from `probes` random vectors v of signs, of norm
    1, so many Lanczos steps each, with full reorthogonalisation. Their Ritz values t_k, weighed by the squares of the
    first entries of the eigenvectors of the tridiagonal matrix, have the same moments as v^T f(H) v, whose mean over v
    is that of f over the eigenvalues. `width` None is the range of the eigenvalues of all members over the steps.
    Raises `LandscapeError` if parameters or products are not finite, or if more products are asked for than allowed.
    """
    if stack.parameters > whole and probes * steps > most_products:
        raise LandscapeError(
            f"a density of {probes} probes with {steps} steps each takes {probes * steps} products: allow as many "
            "with `max_products`, or ask for fewer with `density_probes` and `density_steps`"
        )
    (nodes, weights, taken, products), exact = each_member(
        objective,
        stack,
        lambda each: (*_every(np.linalg.eigvalsh(each)), len(each), len(each)),
        lambda hessian: _quadrature(hessian, probes, steps, seed),
        matrix=matrix,
        whole=whole,
        most=most_products,
        on_progress=on_progress,
    )
    low, high = float(nodes.min()), float(nodes.max())
    width = width or (high - low) / steps or abs(high) / steps or 1.0
    count = int(_FINENESS * ((high - low) / width + 2 * _MARGIN)) + 1
    if count > _MOST_POINTS:
        raise LandscapeError(
            f"`density_width` is {width:g} where eigenvalues lie from {low:.3g} to {high:.3g}: write "
            f"{_FINENESS * (high - low) / _MOST_POINTS:.1g} or more"
        )
    grid = np.linspace(low - _MARGIN * width, high + _MARGIN * width, count)
    each = np.stack([_broadened(grid, *member, width) for member in zip(nodes, weights, strict=True)])
    se = np.zeros_like(each[:, 0]) if exact else each.std(axis=1, ddof=1) / math.sqrt(probes)
    values = each.mean(axis=1)
    # Probes that meet an eigenvector are rare, and give much: densities of probes are skewed.
    ends: np.ndarray = np.stack([values, values], 1) if exact else np.apply_along_axis(mean_interval, 1, each)
    return Density(grid, values, se, ends[:, 0], ends[:, 1], width, nodes, weights, taken, products, exact)


def _every(values: Float[np.ndarray, " value"]) -> tuple[np.ndarray, np.ndarray]:
    return values[None], np.full((1, len(values)), 1 / len(values))


def _quadrature(hessian: Hessian, probes: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Nodes and weights of each probe, the least number of steps of a probe, and the products it took."""
    nodes, weights, taken = np.zeros((probes, steps)), np.zeros((probes, steps)), []
    for probe in range(probes):
        start = philox.signs(seed, stream=_STREAM, step=probe, count=hessian.parameters).numpy()
        values, columns, _ = lanczos(hessian, start, steps)
        nodes[probe] = values[-1]
        nodes[probe, : len(values)], weights[probe, : len(values)] = values, columns[0] ** 2
        taken.append(len(values))
    return nodes, weights, min(taken), hessian.count


def _broadened(
    grid: Float[np.ndarray, " point"],
    nodes: Float[np.ndarray, "probe node"],
    weights: Float[np.ndarray, "probe node"],
    width: float,
) -> Float[np.ndarray, "probe point"]:
    """Sums of Gaussians, one node of all probes after another, which takes little memory."""
    total = np.zeros((len(nodes), len(grid)))
    for at, weight in zip(nodes.T, weights.T, strict=True):
        total += weight[:, None] * np.exp(-0.5 * ((grid - at[:, None]) / width) ** 2)
    return np.asarray(total / (width * math.sqrt(2 * math.pi)))
