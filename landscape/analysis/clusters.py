"""Do seeds fall into the same few places? Hierarchical clusters of final parameters, up to the order of units."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from landscape.analysis.outcomes import truth_tables
from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.space import symmetry as align

__all__ = ["Clusters", "adjusted_rand", "clusters"]


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Average-linkage `tree` (scipy's format) over L2 distances up to the order of units, cut at distance `cut`.

    `label` numbers each member's cluster, the largest first; `group` its truth table likewise. `agreement` is the
    adjusted Rand index between the two: 1 if they divide the members alike, 0 as expected by chance.
    """

    tree: Float[np.ndarray, "merge 4"]
    distances: Float[np.ndarray, " pair"]
    cut: float
    label: Int[np.ndarray, " member"]
    group: Int[np.ndarray, " member"]
    exhaustive: bool

    @property
    def sizes(self) -> Int[np.ndarray, " cluster"]:
        """Number of members of each cluster, descending."""
        return np.bincount(self.label)

    @property
    def agreement(self) -> float:
        """Adjusted Rand index of clusters and truth tables."""
        return adjusted_rand(self.label, self.group)


def clusters(
    problem: Problem, stack: Stack, *, cut: float | None = None, device: str | torch.device = "cpu"
) -> Clusters:
    """Cluster the members of `stack`.

    Without `cut` the tree is cut where it has as many clusters as there are truth tables among the members, so that the
    two divisions can be compared.
    """
    if len(stack) < 2:
        raise LandscapeError("one member makes no clusters: give a run with at least two seeds")
    if cut is not None and not cut > 0:
        raise LandscapeError(f"a cut at distance {cut} makes no clusters: choose a positive distance")
    symmetry = problem.symmetry()
    tables = truth_tables(problem, stack, device=device)[0]
    group = _by_size(np.unique(tables, axis=0, return_inverse=True)[1].reshape(-1))
    distances = squareform(align.distances(stack, symmetry), checks=False)
    tree = hierarchy.linkage(distances, method="average")
    if cut is None:
        merges = np.concatenate([[0.0], tree[:, 2], [tree[-1, 2] * 2]])
        here = len(stack) - int(group.max() + 1)
        cut = float((merges[here] + merges[here + 1]) / 2)
    label = _by_size(hierarchy.fcluster(tree, cut, criterion="distance"))
    exhaustive = align.count_orders(symmetry) <= align.EXHAUSTIVE
    return Clusters(tree, distances, cut, label, group, exhaustive)


def adjusted_rand(a: Int[np.ndarray, " member"], b: Int[np.ndarray, " member"]) -> float:
    """Adjusted Rand index of two divisions of the same members (L. Hubert, P. Arabie, J. Classification 2, 1985).

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, in_a, in_b, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(a)]))
    if not total:
        return 1.0
    expected, most = in_a * in_b / total, (in_a + in_b) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _by_size(labels: Int[np.ndarray, " member"]) -> Int[np.ndarray, " member"]:
    """The same division, numbered from 0, the largest part first (the earliest member first among equals)."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse.reshape(-1)]
