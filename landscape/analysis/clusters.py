"""Which members are the same? At four levels: what they predict, their outputs, their parameters, and whether a path
joins them.

At each level two members are the same if they are at most a threshold apart, and groups are what such pairs join:
single linkage. No number of groups is chosen; `Clusters.against_threshold` shows how it depends on the threshold.
"""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float, Int

from landscape.analysis.barriers import barriers, square
from landscape.analysis.levels import LEVELS, By
from landscape.analysis.outcomes import TOLERANCE, Functions, functions, grouped, on_all_samples
from landscape.core.errors import LandscapeError, Unsupported, few, plural
from landscape.core.fields import Field, require
from landscape.core.intervals import Proportion, unseen_mass
from landscape.core.notebook import Listener
from landscape.core.resources import require_memory
from landscape.engine.stack import Stack
from landscape.evaluation.routes import networks
from landscape.evaluation.walk import walk
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import Place, device_of
from landscape.space.alignment import balance
from landscape.space.alignment import distances as distances_of
from landscape.space.symmetry import EXHAUSTIVE, Symmetry, act, count_elements

__all__ = ["Clusters", "Plateau", "adjusted_rand", "clusters", "clusters_of"]

_THRESHOLD = Field("threshold", float | None, None, at_least=0)
_FIELDS = (Field("by", By, "outputs"), _THRESHOLD, TOLERANCE)

#: Points of a line whose barrier is taken.
_POINTS = 51

#: Square matrices of distances at a time, about.
_COPIES = 4

#: Plateaus that are named: as many, from as many times their lower end on, and from this share of the largest
#: distance, below which members are as good as equal.
_PLATEAUS, _WIDE, _LEAST = 3, 1.5, 1e-3


class Plateau(NamedTuple):
    """A number of groups, and the thresholds from which to which there are so many."""

    groups: int
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clusters:
    """Groups of `members` that are the same at a level, `by`: joined by pairs at most `threshold` apart.

    `distances` are those of scipy's condensed form, what they are says `unit`, and `tree` is their single linkage.
    `label` numbers the group of each member, the largest first. `predictions` numbers what it predicts on all samples,
    likewise (None where that is not known), and `compared` says how these are told apart. Of parameters `exhaustive`
    says that every order and sign of units was tried; else distances are upper bounds, by weight matching.
    `symmetry` is what was known of the network, with `parameters` and `barrier`, where it counts.
    """

    members: tuple[str, ...]
    by: By
    unit: str
    tree: Float[np.ndarray, "merge 4"]
    distances: Float[np.ndarray, " pair"]
    threshold: float
    label: Int[np.ndarray, " member"]
    predictions: Int[np.ndarray, " member"] | None
    compared: str | None = "truth tables"
    exhaustive: bool = True
    symmetry: Symmetry | None = None

    @property
    def sizes(self) -> Int[np.ndarray, " group"]:
        """Number of members of each group, descending."""
        return np.bincount(self.label)

    @property
    def agreement(self) -> float | None:
        """Adjusted Rand index of groups and predictions: 1 if they divide the members alike, 0 as expected by chance;
        None where predictions are not known.
        """
        return None if self.predictions is None else adjusted_rand(self.label, self.predictions)

    @property
    def diameters(self) -> Float[np.ndarray, " group"]:
        """Largest distance within each group: that of a chain of near pairs may be above the threshold."""
        square = scipy.spatial.distance.squareform(self.distances, checks=False)
        return np.array([square[np.ix_(of, of)].max() for of in map(self._of, range(len(self.sizes)))])

    def _of(self, group: int) -> Int[np.ndarray, " _"]:
        return np.flatnonzero(self.label == group)

    def at(self, threshold: float) -> Int[np.ndarray, " member"]:
        """The group of each member at another threshold."""
        return _groups(self.tree, threshold)

    def against_threshold(
        self, thresholds: Sequence[float] | None = None
    ) -> list[tuple[float, int, int, float | None]]:
        """Rows of a threshold, the number of groups at it, the size of the largest, and its agreement with predictions;
        at 1, 2, 5, 10, ... over the range of distances, and at the own threshold, if none are given.
        """
        if thresholds is None:
            high = float(self.tree[-1, 2]) or 1.0
            low = float(self.tree[self.tree[:, 2] >= _LEAST * high, 2].min(initial=high))
            powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
            steps = (float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5))
            thresholds = sorted({self.threshold, *(step for step in steps if low / 2.5 <= step <= 2.5 * high)})
        rows = []
        for threshold in thresholds:
            label = self.at(threshold)
            agreement = None if self.predictions is None else adjusted_rand(label, self.predictions)
            rows.append((float(threshold), int(label.max()) + 1, int(np.bincount(label)[0]), agreement))
        return rows

    @property
    def plateaus(self) -> tuple[Plateau, ...]:
        """The widest ranges of thresholds, as ratios, over which the number of groups stays the same and is neither 1
        nor that of members; at most three, the widest first.
        """
        heights = self.tree[:, 2]
        found = [
            Plateau(len(heights) - i, float(heights[i]), float(heights[i + 1]))
            for i in range(len(heights) - 1)
            if heights[i] >= _LEAST * heights[-1] > 0 and heights[i + 1] >= _WIDE * heights[i]
        ]
        return tuple(sorted(found, key=lambda each: each.low / each.high)[:_PLATEAUS])

    @property
    def unseen(self) -> tuple[float, float, float] | None:
        """Probability that one more member predicts what none does so far, and its 95 % interval; None where
        predictions are not known.
        """
        return None if self.predictions is None else unseen_mass(np.bincount(self.predictions))

    @property
    def novel(self) -> Proportion:
        """Of the later half of the members, those that are farther than the threshold from all of the earlier half."""
        square, half = scipy.spatial.distance.squareform(self.distances, checks=False), len(self) // 2
        return Proportion(int((square[half:, :half].min(1) > self.threshold).sum()), len(self) - half)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.sizes[:8])) + (", ..." if len(self.sizes) > 8 else "")
        found = f"{plural(len(self), 'member')} in {plural(len(self.sizes), 'group')} of {sizes}"
        known = "predictions unknown" if self.predictions is None else f"{self.predictions.max() + 1} {self.compared}"
        return f"Clusters({found}; {self.by} within {self.threshold:.4g}, {known})"

    def _repr_html_(self) -> str:
        """A row a group: its size, its predictions, its members."""
        lines = f"<tr><th>group</th><th>size</th><th>{self.compared or 'predictions'}</th><th>members</th></tr>"
        for number, size in enumerate(self.sizes):
            of = self._of(number)
            names = html.escape(", ".join(self.members[member] for member in of))
            told = "unknown" if self.predictions is None else len(np.unique(self.predictions[of]))
            lines += "<tr>" + "".join(f"<td>{cell}</td>" for cell in (number, size, told, names)) + "</tr>"
        return f"<table><caption>{html.escape(repr(self))}</caption>{lines}</table>"

    def caption(self, title: str) -> str:
        """What was divided, and how."""
        how = ""
        if self.symmetry is not None:
            bound = "" if self.exhaustive or self.by == "barrier" else " (matched: an upper bound)"
            how = f" up to order, signs and scales of units{bound}" if self.symmetry else ", units as they stand"
            how += f" (held: {few(self.symmetry.refused)})" if self.symmetry.refused else ""
        text = (
            f"{title}, {plural(len(self), 'member')}: {self.unit}{how}; groups are joined by pairs at "
            f"most {self.threshold:.3g} apart (single linkage)."
        )
        if self.agreement is not None:
            text += f" Agreement with {self.compared} (adjusted Rand index) there: {self.agreement:.2f}."
        return text

    def document(self) -> dict[str, Any]:
        """All of it but the distances, which grow as members squared."""
        left_out = ("distances", "members", "label", "predictions", "symmetry")
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        predicted = [None] * len(self) if self.predictions is None else self.predictions.tolist()
        rows = zip(self.members, self.label.tolist(), predicted, strict=True)
        columns = ("threshold", "groups", "largest", "agreement")
        return {
            **{name: value for name, value in told.items() if name not in left_out},
            "groups": [
                {"size": int(size), "diameter": float(wide)}
                for size, wide in zip(self.sizes, self.diameters, strict=True)
            ],
            "agreement": self.agreement,
            "against_threshold": [dict(zip(columns, row, strict=True)) for row in self.against_threshold()],
            "plateaus": [each._asdict() for each in self.plateaus],
            "unseen": None if self.unseen is None else dict(zip(("share", "low", "high"), self.unseen, strict=True)),
            "novel": self.novel,
            "members": [dict(zip(("member", "group", "predictions"), row, strict=True)) for row in rows],
        }


def clusters(
    a: Place,
    *,
    by: By = "outputs",
    problem: Problem | str | None = None,
    threshold: float | None = None,
    tolerance: float | None = None,
    device: str | torch.device | None = None,
    progress: Listener = None,
) -> Clusters:
    """Which members of a place are the same, at one of four levels.

    Args:
        a: A place of at least two members, such as a run.
        by: What is compared. `predictions`: the share of all answers, on all samples, that differ. `outputs`: the root
            mean square difference over all samples of the probabilities that they give, or of outputs that are numbers,
            in their standard deviations over members and samples. `parameters`: the L2 distance up to the order of
            units, in balanced scales, over the members' median norm. `barrier`: the height above the chord on the
            straight line between them, also aligned where that is known, in the unit of the loss.
        problem: Model, data and loss. None: that of the run or checkpoint.
        threshold: Two members are the same if they are at most so far apart. None: 0 of predictions, 0.05 of outputs
            and parameters, 0.01 of barriers.
        tolerance: Largest difference of answers that are numbers, as a share of their standard deviation, up to which
            two members predict the same; None: 0.001.
        device: Where to compute; None: where the module `a` is, else the CPU.
        progress: A function, called with (points done, points in all), or True for a bar (extra `progress`, tqdm), of
            the walks between all pairs, with `by="barrier"`.

    Returns:
        A `Clusters`: `label` of each member, `sizes`, the `tree`, `agreement` with predictions, `plateaus`, ...

    Raises:
        LandscapeError: There is one member, or the threshold is negative.
        Unsupported: `by` needs predictions or outputs, which are not known.

    >>> import landscape, tempfile
    >>> run = landscape.train("life", {"batches": 2}, tempfile.mkdtemp(), seeds=range(6))
    >>> len(landscape.clusters(run).label)
    6
    """
    require(clusters, locals(), *_FIELDS)
    device = device_of(a) if device is None else device
    problem, (place,) = networks([a], Compute(device=device), problem)
    names = [each.label for each in place.sources]
    return clusters_of(
        problem,
        place.stack,
        by=by,
        threshold=threshold,
        tolerance=tolerance,
        device=device,
        names=names,
        progress=progress,
    )


def clusters_of(
    problem: Problem,
    stack: Stack,
    *,
    by: By = "outputs",
    threshold: float | None = None,
    tolerance: float | None = None,
    device: str | torch.device = "cpu",
    names: Sequence[str] | None = None,
    progress: Listener = None,
) -> Clusters:
    """`clusters` of the members of a stack, called by `names`, else by their numbers."""
    if len(stack) < 2:
        raise LandscapeError("one member makes no clusters: give a run with at least two seeds")
    _THRESHOLD.check(threshold)
    what = f"distances of {len(stack):,} members, each from each,"
    instead = "compare fewer of them, such as a run of fewer seeds"
    require_memory(_COPIES * len(stack) ** 2 * 8, what, instead)
    try:
        found: Functions | None = functions(problem, stack, device=device, tolerance=tolerance)
    except Unsupported:
        if by in ("predictions", "outputs") or tolerance is not None:
            raise
        found = None
    unit = LEVELS[by].distance
    symmetry = problem.symmetry() if by in ("parameters", "barrier") else None
    if by == "predictions":
        assert found is not None
        distances = _differing(found)
    elif by == "outputs":
        distances, what = _of_outputs(problem, stack, device)
        unit = unit.replace("outputs", what)
    elif by == "parameters":
        assert symmetry is not None
        norm = float(act(stack, symmetry, balance(stack, symmetry)).norms()[1].median())
        distances = scipy.spatial.distance.squareform(distances_of(stack, symmetry), checks=False) / (norm or 1.0)
    else:
        distances = _barriers(problem, stack, device, progress)
        loss_unit = Compute(device=device).objective(problem).unit
        unit += f" ({loss_unit})" if loss_unit else ""
    tree = scipy.cluster.hierarchy.linkage(_finite(distances), method="single")
    threshold = LEVELS[by].threshold if threshold is None else threshold
    return Clusters(
        members=tuple(map(str, range(len(stack)))) if names is None else tuple(names),
        by=by,
        unit=unit,
        tree=tree,
        distances=distances,
        threshold=threshold,
        label=_groups(tree, threshold),
        predictions=None if found is None else found.group,
        compared=None if found is None else found.compared,
        exhaustive=by != "parameters" or symmetry is None or count_elements(symmetry) <= EXHAUSTIVE,
        symmetry=symmetry,
    )


def _differing(found: Functions) -> Float[np.ndarray, " pair"]:
    """Share of the answers of two members that differ; of answers that are numbers, whether they do at all."""
    if np.issubdtype(found.rows.dtype, np.floating):
        return scipy.spatial.distance.pdist(found.group[:, None], "hamming")
    return scipy.spatial.distance.pdist(found.rows, "hamming")


def _of_outputs(problem: Problem, stack: Stack, device: str | torch.device) -> tuple[Float[np.ndarray, " pair"], str]:
    """Root mean square difference of outputs over all samples, and what they are; a batch of samples at a time."""
    squares, count = torch.zeros(len(stack), len(stack), dtype=torch.float64), 0
    sums = torch.zeros(2, dtype=torch.float64)
    bounded, finite = True, torch.ones(len(stack), dtype=torch.bool)
    for scores in on_all_samples(problem, device).scores(stack):
        rows = scores.double().cpu()
        finite &= rows.isfinite().all(1)
        rows = rows.where(finite[:, None], 0.0)
        # Differences, not inner products: close pairs must not lose their digits.
        squares += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        count += rows.shape[1]
        sums += torch.stack([rows.sum(), (rows**2).sum()])
        bounded &= bool(((rows >= 0) & (rows <= 1)).all())
    rms = (squares / max(count, 1)).sqrt().numpy()
    total = max(count * int(finite.sum()), 1)
    spread = 1.0 if bounded else float((sums[1] / total - (sums[0] / total) ** 2).clamp(min=0).sqrt()) or 1.0
    rms[~finite.numpy()] = rms[:, ~finite.numpy()] = np.inf  # of members that are no numbers
    np.fill_diagonal(rms, 0)
    what = "output probabilities" if bounded else "outputs, in standard deviations"
    return scipy.spatial.distance.squareform(rms, checks=False) / spread, what


def _barriers(
    problem: Problem, stack: Stack, device: str | torch.device, progress: Listener
) -> Float[np.ndarray, " pair"]:
    """Height above the chord between each two members; the lower of those to the end as it is and aligned."""
    members = [stack.state_dict(number) for number in range(len(stack))]
    align = bool(problem.symmetry())
    curves = walk(
        members, members, problem=problem, pairs="all", align=align, device=device, progress=progress, points=_POINTS
    )
    height = barriers(curves).above_chord.reshape(1 + align, -1)  # to ends as they are, and to representatives
    return square(height.min(0), len(stack))[np.triu_indices(len(stack), 1)]


def _finite(distances: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """With those that are not finite, of members that are not, beyond all others."""
    known = np.isfinite(distances)
    return np.where(known, distances, 2 * np.where(known, distances, 0).max(initial=0.5))


def _groups(tree: Float[np.ndarray, "merge 4"], threshold: float) -> Int[np.ndarray, " member"]:
    return grouped(scipy.cluster.hierarchy.fcluster(tree, threshold, criterion="distance"))


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
