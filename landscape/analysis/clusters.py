"""Do seeds fall into the same few places? Hierarchical clusters of final parameters, up to the order of units."""

import dataclasses
import html
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from landscape.analysis.outcomes import TOLERANCE, functions, grouped
from landscape.core.errors import LandscapeError, Unsupported, plural
from landscape.core.fields import Field, require
from landscape.engine.stack import Stack
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import Place, device_of
from landscape.space.symmetry import EXHAUSTIVE, count_orders
from landscape.space.symmetry import distances as distances_of

__all__ = ["Clusters", "adjusted_rand", "clusters", "clusters_of"]

_CUT = Field("cut", float | None, None, above=0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clusters:
    """Average-linkage `tree` (scipy's format) over L2 distances up to the order of units, cut at distance `cut`.

    `label` numbers the cluster of each of the `members`, which are called as their place calls them, the largest first;
    `group` its function, what it answers to all samples, likewise; `compared` says by what these are told apart: truth
    tables, predicted classes, outputs to a tolerance. `agreement` is the adjusted Rand index between
    the two: 1 if they divide the members alike, 0 as expected by chance. All three are None where functions are not
    known. The distances are `exhaustive` if every order of units was tried, else upper bounds by weight matching.
    """

    members: tuple[str, ...]
    tree: Float[np.ndarray, "merge 4"]
    distances: Float[np.ndarray, " pair"]
    cut: float
    label: Int[np.ndarray, " member"]
    group: Int[np.ndarray, " member"] | None
    exhaustive: bool
    compared: str | None = "truth tables"

    @property
    def sizes(self) -> Int[np.ndarray, " cluster"]:
        """Number of members of each cluster, descending."""
        return np.bincount(self.label)

    @property
    def agreement(self) -> float | None:
        """Adjusted Rand index of clusters and functions."""
        return None if self.group is None else adjusted_rand(self.label, self.group)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.sizes[:8])) + (", ..." if len(self.sizes) > 8 else "")
        found = f"{plural(len(self), 'member')} in {plural(len(self.sizes), 'cluster')} of {sizes}"
        functions = "functions unknown" if self.group is None else f"{int(self.group.max() + 1)} {self.compared}"
        return f"Clusters({found}; cut at {self.cut:.4g}, {functions})"

    def _repr_html_(self) -> str:
        """A row a cluster: its size, its functions, its members."""
        lines = f"<tr><th>cluster</th><th>size</th><th>{self.compared or 'functions'}</th><th>members</th></tr>"
        for number, size in enumerate(self.sizes):
            of = self.label == number
            names = html.escape(", ".join(name for name, here in zip(self.members, of, strict=True) if here))
            cells = (number, size, "unknown" if self.group is None else len(np.unique(self.group[of])), names)
            lines += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><caption>{html.escape(repr(self))}</caption>{lines}</table>"


def clusters(
    a: Place,
    *,
    problem: Problem | str | None = None,
    cut: float | None = None,
    tolerance: float | None = None,
    device: str | torch.device | None = None,
) -> Clusters:
    """Cluster the members of a place by their L2 distances up to the order of units (average linkage).

    Args:
        a: A place of at least two members, such as a run.
        problem: Model, data and loss. None: that of the run or checkpoint.
        cut: Distance at which the tree is cut; None: where it has as many clusters as there are functions among the
            members, so that the two divisions can be compared.
        tolerance: Largest difference of answers that are numbers, as a share of their standard deviation, up to which
            two members are the same function; None: 0.001.
        device: Where to compute functions; None: where the module `a` is, else the CPU.

    Returns:
        A `Clusters`: `label` of each member, `sizes`, the `tree`, `agreement` with the functions, ...

    Raises:
        LandscapeError: There is one member, or the cut is not positive.
        Unsupported: What a network predicts is not known, and there is no `cut`.

    >>> import landscape, tempfile
    >>> run = landscape.train("life", {"batches": 2}, tempfile.mkdtemp(), seeds=range(6))
    >>> len(landscape.clusters(run).label)
    6
    """
    require(clusters, locals(), _CUT, TOLERANCE)
    device = device_of(a) if device is None else device
    problem, (place,) = networks([a], Compute(device=device), problem)
    names = [each.label for each in place.sources]
    return clusters_of(problem, place.stack, cut=cut, tolerance=tolerance, device=device, names=names)


def clusters_of(
    problem: Problem,
    stack: Stack,
    *,
    cut: float | None = None,
    tolerance: float | None = None,
    device: str | torch.device = "cpu",
    names: Sequence[str] | None = None,
) -> Clusters:
    """`clusters` of the members of a stack, called by `names`, else by their numbers."""
    if len(stack) < 2:
        raise LandscapeError("one member makes no clusters: give a run with at least two seeds")
    _CUT.check(cut)
    symmetry = problem.symmetry()
    try:
        found = functions(problem, stack, device=device, tolerance=tolerance)
    except Unsupported as error:
        if cut is None:
            raise Unsupported(f"{error}; or give `cut`, a distance, which needs no functions") from error
        if tolerance is not None:
            raise
        found = None
    distances = squareform(distances_of(stack, symmetry), checks=False)
    tree = hierarchy.linkage(distances, method="average")
    if cut is None:
        assert found is not None
        merges = np.concatenate([[0.0], tree[:, 2], [tree[-1, 2] * 2]])
        here = len(stack) - int(found.group.max() + 1)
        cut = float((merges[here] + merges[here + 1]) / 2)
    label = grouped(hierarchy.fcluster(tree, cut, criterion="distance").astype(np.int64))
    members = tuple(map(str, range(len(stack)))) if names is None else tuple(names)
    exhaustive = count_orders(symmetry) <= EXHAUSTIVE
    group, compared = (None, None) if found is None else (found.group, found.compared)
    return Clusters(members, tree, distances, cut, label, group, exhaustive, compared)


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
