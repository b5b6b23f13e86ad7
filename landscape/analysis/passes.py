"""Passes between members: the lowest known path of each pair, also through others, and the graph of how they merge.

A path's highest loss is an upper bound of the pass, the lowest that the highest loss on any path can be. Of a chain of
paths it is the largest of theirs, so the lowest over all chains is that of single linkage: pairs are joined from the
lowest path on, and two members are connected from the height on at which their groups merge.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from landscape.analysis.barriers import as_stored
from landscape.core.errors import Mismatch, Unsupported
from landscape.core.provenance import Source
from landscape.store.results import Result, require_lines

__all__ = ["Merge", "Passes", "passes"]

#: Points of paths that are looked at together.
_BLOCK_POINTS = 2**20

#: How far the loss of a member may differ between files, relative and absolute.
_ALIKE, _ALIKE_SMALL = 1e-3, 1e-6


@dataclasses.dataclass(frozen=True)
class Merge:
    """Two groups of members that become one at a `height`, a loss: each a member, from 0 on, or behind these an earlier
    merge.
    """

    first: int
    second: int
    height: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Passes:
    """What is known of the passes between some members.

    Args:
        sources: Where they came from.
        loss: Their losses.
        pairs: Of each pair with a known path its two members, as rows of these, the earlier first.
        straight: The highest loss on the straight line, NaN where none is known.
        known: The highest loss on the lowest known path.
        through: The same on the lowest chain of known paths, which may lead through other members.
        method: What found the lowest path: `straight`, `one answer` (through networks that give all inputs one),
            `bezier 3`, `polyline 7`, `via`; `aligned` is one to a network that computes the same as its end (`align`).
        gradients: What that took, in gradients of the loss, with all that was tried.
        merges, straight_merges: How groups merge, from the lowest on: along known paths, and along straight lines.
        solved: Which members are solved, None where that is not known.
        about: What the result says of how it was obtained.
        unfinished: What results that are not finished say of that, in words.
    """

    sources: tuple[Source, ...]
    loss: Float[np.ndarray, " member"]
    pairs: Int[np.ndarray, "pair 2"]
    straight: Float[np.ndarray, " pair"]
    known: Float[np.ndarray, " pair"]
    through: Float[np.ndarray, " pair"]
    method: tuple[str, ...]
    gradients: Int[np.ndarray, " pair"]
    merges: tuple[Merge, ...]
    straight_merges: tuple[Merge, ...]
    solved: np.ndarray | None
    about: Mapping[str, Any]
    unfinished: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(source.label for source in self.sources)

    @property
    def missing(self) -> Int[np.ndarray, "pair 2"]:
        """Pairs of members without a known path, which count as unconnected unless others connect them."""
        count = len(self.members)
        there = np.zeros((count, count), dtype=bool)
        there[self.pairs[:, 0], self.pairs[:, 1]] = True
        return np.argwhere(np.triu(~there, 1)).astype(np.int64)

    def barrier(self, heights: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
        """How far heights of pairs lie above the higher of their two members."""
        return np.asarray(np.maximum(heights - self.loss[self.pairs].max(axis=1), 0.0))

    def groups(self, height: float) -> int:
        """How many groups there are below a loss: members whose own loss is above it do not count."""
        below = int((self.loss <= height).sum())
        return below - sum(merge.height <= height for merge in self.merges)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Passes({len(self.members)} members, {len(self)} pairs with a known path, {len(self.missing)} without)"


def passes(*results: Result) -> Passes:
    """The lowest known path of each pair of members, and of each chain of pairs.

    Args:
        results: What `landscape.connect` or `walk` gave, on the same data; of several the lowest path of a pair counts.

    Returns:
        A `Passes`; its heights are losses, `barrier` is how far they lie above the higher end.

    Raises:
        Mismatch: Results are of several problems, or a member has another loss in one result than in another.
        Unsupported: Lines on which only parts of a network move, or in random directions.

    Source: O. M. Becker, M. Karplus, *The topology of multidimensional potential energy surfaces*, J. Chem. Phys. 106,
    1997 (disconnectivity graphs); F. Draxler et al., ICML 2018 (minimax over known paths).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1, bias=False), (x, x), "mse")
    >>> one, other = ({"weight": torch.tensor([[w]])} for w in (0.0, 2.0))
    >>> found = landscape.passes(landscape.walk(one, other, problem=problem, points=5))
    >>> found.known.round(3).tolist(), found.method
    ([0.355], ('straight',))
    """
    if not results:
        raise Mismatch("passes need at least one result")
    rows: dict[Source, int] = {}
    loss: list[float] = []
    solved: list[bool] | None = []
    lowest: dict[tuple[int, int], tuple[float, str, int]] = {}
    straight: dict[tuple[int, int], float] = {}
    for result in results:
        require_lines(result, "passes")
        for key in ("title", "loss_unit"):
            if result.about.get(key) != results[0].about.get(key):
                raise Mismatch(
                    f"the results are of several problems, `{key}` is {results[0].about.get(key)!r} in one and "
                    f"{result.about.get(key)!r} in another: passes are compared on the same one"
                )
        if result.kind == "ray" or "moves" in result.columns:
            raise Unsupported("passes lead from member to member: leave out random directions, and parts that move")
        heights, beside = (_highest(result, name) for name in ("loss", "loss_straight"))
        if "max_upper" in result.columns:
            heights = np.where(np.isnan(result["max_upper"]), heights, result["max_upper"])
        gradients = result.columns.get("gradients", np.zeros(len(result), dtype=np.int64))
        methods = result.columns.get("method", np.full(len(result), _method(result), dtype=object))
        first, last = result.inside.start, result.inside.stop - 1
        answers = result.values.get("solved")
        aligned = result.columns.get("aligned", np.zeros(len(result), dtype=bool))
        of = as_stored(result.sources)
        for line in np.flatnonzero(result.done).tolist():
            ends = []
            for name, at in (("from_member", first), ("to_member", last)):
                source, value = of[result[name][line]], float(result.loss[line, at])
                row = rows.setdefault(source, len(rows))
                if row == len(loss):
                    loss.append(value)
                    if answers is None:
                        solved = None
                    if solved is not None and answers is not None:
                        solved.append(bool(answers[line, at] == 1))
                elif abs(value - loss[row]) > _ALIKE * abs(loss[row]) + _ALIKE_SMALL:
                    raise Mismatch(
                        f"{source.label} has the loss {loss[row]:.6g} on one line and {value:.6g} on another: passes "
                        "are compared on the same data"
                    )
                ends.append(row)
            if ends[0] == ends[1]:
                continue
            pair = min(ends), max(ends)
            height, method = float(heights[line]), str(methods[line])
            if aligned[line]:
                method += ", aligned"
            elif method == "straight" or not np.isnan(beside[line]):
                own = height if method == "straight" else float(beside[line])
                straight[pair] = min(straight.get(pair, np.inf), own)
            before = lowest.get(pair, (np.inf, "", 0))
            cost = before[2] + int(gradients[line])
            best = (height, method) if not before[1] or height < before[0] else before[:2]
            lowest[pair] = (*best, cost)
    if not lowest:
        raise Mismatch("there is no line between two members: passes are between several")
    pairs = np.array(list(lowest), dtype=np.int64)
    known, methods_of, costs = zip(*lowest.values(), strict=True)
    lines = np.array([straight.get(pair, np.nan) for pair in lowest])
    merges, through = _merged(len(rows), pairs, np.array(known))
    with_line = ~np.isnan(lines)
    return Passes(
        sources=tuple(rows),
        loss=np.array(loss),
        pairs=pairs,
        straight=lines,
        known=np.array(known),
        through=through,
        method=methods_of,
        gradients=np.array(costs, dtype=np.int64),
        merges=merges,
        straight_merges=_merged(len(rows), pairs[with_line], lines[with_line])[0],
        solved=None if solved is None else np.array(solved),
        about=results[0].about,
        unfinished=tuple(result.unfinished for result in results if result.unfinished),
    )


def _method(result: Result) -> str:
    """What the lines of a walk are."""
    return {"line": "straight", "polyline": "via", "arc": "slerp"}.get(result.kind, "curve")


def _highest(result: Result, name: str) -> Float[np.ndarray, " line"]:
    """The highest loss of each line between its ends; NaN on a line counts as infinite, a metric that is not there is
    NaN.
    """
    if name not in result.values:
        return np.full(len(result), np.nan)
    size = max(1, _BLOCK_POINTS // len(result.alpha))
    parts = [result[name][i : i + size, result.inside] for i in range(0, len(result), size)]
    return np.concatenate([np.where(np.isnan(part), np.inf, part).max(axis=1) for part in parts])


def _merged(
    count: int, pairs: Int[np.ndarray, "pair 2"], heights: Float[np.ndarray, " pair"]
) -> tuple[tuple[Merge, ...], Float[np.ndarray, " pair"]]:
    """Merges of single linkage, from the lowest on, and the height at which the members of each pair are connected.

    J. B. Kruskal, Proc. Am. Math. Soc. 7, 1956: only what merges two groups changes anything.
    """
    group, inside = list(range(count)), [[member] for member in range(count)]
    name = list(range(count))
    through = np.full((count, count), np.inf)
    merges: list[Merge] = []
    for index in np.argsort(heights, kind="stable").tolist():
        one, other = (group[member] for member in pairs[index])
        if one == other or not np.isfinite(heights[index]):
            continue
        height = float(heights[index])
        merges.append(Merge(name[one], name[other], height))
        through[np.ix_(inside[one], inside[other])] = through[np.ix_(inside[other], inside[one])] = height
        if len(inside[one]) < len(inside[other]):
            one, other = other, one
        for member in inside[other]:
            group[member] = one
        inside[one] += inside[other]
        name[one] = count + len(merges) - 1
        if len(merges) == count - 1:
            break
    return tuple(merges), through[pairs[:, 0], pairs[:, 1]]


def rows_of(found: Passes) -> Sequence[Mapping[str, Any]]:
    """A dictionary a pair."""
    straight, known, through = (found.barrier(each) for each in (found.straight, found.known, found.through))
    return [
        {
            "from": found.members[i],
            "to": found.members[j],
            "straight": straight[k],
            "known": known[k],
            "through_others": through[k],
            "method": found.method[k],
            "gradients": int(found.gradients[k]),
        }
        for k, (i, j) in enumerate(found.pairs.tolist())
    ]
