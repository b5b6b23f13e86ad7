"""Families of points of parameter space: weighted sums of a few networks, from coordinates to stacks.

A kind of path, or plane, is a function of a few lines that returns a `Family`: it says how much of each network a point
has. All of them share one formula, `sum of weight_k vertex_k` from left to right, which rounds once an operation.
"""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from landscape.core.errors import LandscapeError, Mismatch, few
from landscape.core.files import Stamp
from landscape.engine.live import Point
from landscape.engine.stack import Stack, concatenate, require_same_shapes
from landscape.store.results import Kind

__all__ = [
    "MOST_POINTS",
    "Family",
    "Hold",
    "Known",
    "Marked",
    "Points",
    "Weights",
    "bent",
    "bezier",
    "grid",
    "line",
    "partial",
    "plane",
    "polyline",
    "ray",
    "slerp",
]

#: Chords that measure the length of a curve: two thousandths of a percent too short for a parabola as wide as high.
_CHORDS = 100

#: Chords of curves and polylines side by side: each up to 6 segments, and 8, has its corners at ends of chords.
_BENT_CHORDS = 120

#: The same of an arc: less than a two thousandth too short for a quarter of a circle.
_ARC_CHORDS = 16

#: Radians from the very opposite up to which two directions have no arc between them: rounding would choose it.
_OPPOSITE = 1e-3

#: Bytes of a vertex up to which its tensors lie side by side, so that small networks are mixed in one operation; and of
#: the points of which lengths are measured at once.
_FLAT_BYTES, _LENGTH_BYTES = 2**26, 2**28

#: Parameters of a network from which on lengths are measured tensor by tensor.
_LARGE = 2**20

#: Points of a line for each of its vertices from which on what is linear is taken between these.
_DENSE = 4

#: Points of a line, at most.
MOST_POINTS = 1_000_001

_log = logging.getLogger("landscape")

#: The end at which the tensors that do not move are held.
Hold = Literal["start", "end"]


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """How much of which networks some points have.

    Args:
        share: The weight of each of the k vertices of a point, in the order in which they are summed.
        line: The line that each point is on: which member of a vertex it has.
        vertex: The k vertices, alike for all points, or of each.
        group: Of lines on which only some tensors move: which set of names moves.
        arcs: In place of `share`, those of the tensors that go a way of their own; they need not sum to 1.
    """

    share: Float[Tensor, "point k"]
    line: Int[Tensor, " point"]
    vertex: tuple[int, ...] | Int[Tensor, "point k"]
    group: Int[Tensor, " point"] | None = None
    arcs: Mapping[str, Float[Tensor, "point k"]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
    """Networks with their coordinates on a plane and, for those beside it, their L2 distances from it.

    `explained`, where the plane was fitted to them, are the shares of squared distances from its origin along x and y.
    """

    stack: Stack
    x: Float[Tensor, " mark"]
    y: Float[Tensor, " mark"]
    off_plane: Float[Tensor, " mark"]
    explained: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.stack)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A network at known coordinates, as a state dict that no weighing made: what values there are compared with.

    `number` is that of its line, or of its mark on a plane.
    """

    number: int
    coordinates: tuple[float, float]
    network: dict[str, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Points that are weighted sums of a few networks, on many lines at once or on a plane.

    Args:
        kind: What the points lie on.
        vertices: The few networks, of each a stack of members. Directions may stand among them.
        weigh: From an element type and coordinates (a line's number and alpha, or y and x) to weights.
        rows: Of each vertex the member that each line has; lines may share members.
        knots: The alphas of lines at which the network is known, with its vertex (None: the sum of all).
        chords: Straight pieces between two knots, which measure the length.
        affine: Whether weights, but those of `arcs`, sum to 1; else vertices after the first are directions.
        apart: Whether weights may be those of one tensor, `arcs`.
        moving: Sets of names of tensors that move, the rest being held at vertex `held`; empty: all move.
        marked: Networks on a plane; where they lie on it, the points there are they, bit for bit.
        mapped: Files that hold vertices and must stay as they are.

    A point all of whose weight is on one vertex is that vertex bit for bit, and what all its vertices share it shares
    bit for bit. Buffers go the same way; of whole numbers those of the heaviest vertex are taken.
    """

    kind: Kind
    vertices: tuple[Stack, ...]
    weigh: Callable[[torch.dtype, Tensor, Tensor], Weights]
    rows: Int[Tensor, "vertex line"]
    knots: tuple[tuple[float, int | None], ...] = ((0.0, 0), (1.0, 1))
    chords: int = 1
    affine: bool = True
    apart: bool = False
    moving: Sequence[frozenset[str]] = ()
    held: int = 0
    marked: Marked | None = None
    mapped: tuple[Stamp, ...] = ()

    def __len__(self) -> int:
        return self.rows.shape[1] * max(1, len(self.moving))

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the points."""
        return self.vertices[0].dtype

    def stack(self, vertex: int) -> Stack:
        """A vertex of all lines, a member a line."""
        return self.vertices[vertex].select(self.rows[vertex])

    def at(self, first: Tensor, second: Tensor) -> Stack:
        """The points at pairs of coordinates: a line's number and alpha, or y and x of a plane."""
        self.require_unchanged()
        weights = self.weigh(self.dtype, first, second)
        share = weights.share
        picks = [self._picks(weights, k) for k in range(share.shape[1])]
        exact = _alone(share)
        pinned, marks = self.on_marks(first, second)
        mixed = {}
        for name in self._sheets[0]:
            columns = [self._column(name, pick, len(share)) for pick in picks]
            if name in weights.arcs:
                own = weights.arcs[name]
                mixed[name] = _mix(columns, own, _alone(own), agree=_all_equal)
            else:
                mixed[name] = _mix(columns, share, exact, agree=_equal if self.affine else _zero)
            if weights.group is not None:
                still = self._sheets[self.held][name][self.rows[self.held][weights.line]]
                mixed[name] = torch.where(self._moves(name, weights.group, still), mixed[name], still)
            if len(pinned) and self.marked is not None:
                mixed[name][pinned] = self._sheet(self.marked.stack)[name][marks]
        buffers = {name: mixed.pop(name) for name in self.vertices[0].buffers}
        found = self.vertices[0].unflatten(mixed[""]) if "" in mixed else Stack(mixed)
        return dataclasses.replace(found, buffers=buffers)

    def require_unchanged(self) -> None:
        """Raise `LandscapeError` if a file that holds a vertex has changed."""
        for file in self.mapped:
            file.require_unchanged()

    def points(self, first: Tensor, second: Tensor) -> "Points":
        """The same points, made when they are needed."""
        return Points(self, first, second)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Family":
        """The family on another device, its points in another element type; the directions of a plane stay float64."""
        vertices = tuple(
            stack.to(device, torch.float64 if k and self.kind == "plane" else dtype)
            for k, stack in enumerate(self.vertices)
        )
        marked = self.marked
        if marked is not None:
            places = {name: getattr(marked, name).to(device) for name in ("x", "y", "off_plane")}
            marked = dataclasses.replace(marked, stack=marked.stack.to(device, dtype), **places)
        return dataclasses.replace(self, vertices=vertices, rows=self.rows.to(device), marked=marked)

    def lengths(self) -> tuple[Float[Tensor, " line"], Float[Tensor, " line"]]:
        """L1 and L2 length of each line from alpha 0 to 1, in float64, along chords between its points."""
        each = self.chords
        alphas = [
            a + (b - a) * step / each for (a, _), (b, _) in itertools.pairwise(self.knots) for step in range(each)
        ]
        if self.vertices[0].parameters > _LARGE:
            places = torch.tensor([*alphas, 1.0], dtype=torch.float64)
            measured = torch.stack([self._length(number, places) for number in range(len(self))])
            return measured[:, 0], measured[:, 1]
        precise = dataclasses.replace(self, vertices=tuple(stack.to(torch.float64) for stack in self.vertices))
        size = max(1, _LENGTH_BYTES // (8 * self.vertices[0].parameters))
        found = []
        for lines in torch.split(torch.arange(len(self), device=self.rows.device), size):
            points = (precise._at_one(lines, alpha) for alpha in [*alphas, 1.0])
            steps = (self._moved(end.subtract(start), lines) for start, end in itertools.pairwise(points))
            pieces = [torch.stack(step.norms()) for step in steps]
            found.append(torch.stack(pieces).sum(0))
        l1, l2 = torch.cat(found, 1)
        return l1, l2

    def _length(self, number: int, alphas: Float[Tensor, " point"]) -> Float[Tensor, " two"]:
        """Lengths of one line of large networks, a piece of a tensor at a time: no point is ever made."""
        group, line = divmod(number, self.rows.shape[1])
        weights = self.weigh(torch.float64, torch.full_like(alphas, number, dtype=torch.int64), alphas)
        l1, squares = torch.zeros(2, len(alphas) - 1, dtype=torch.float64, device=self.rows.device)
        for name in self.vertices[0].tensors:
            if self.moving and name not in self.moving[group]:
                continue
            columns = [self.network(k, line).get(name) for k in range(len(self.vertices))]
            split = [() if each is None else torch.split(each.flatten(), _LARGE) for each in columns]
            steps = self._spread(weights, name).diff(dim=0)
            for pieces in itertools.zip_longest(*split):
                (first, piece), *others = [(k, piece.double()) for k, piece in enumerate(pieces) if piece is not None]
                for i, step in enumerate(steps):
                    moved = step[first] * piece
                    for k, other in others:
                        moved.add_(other * step[k])
                    l1[i] += torch.linalg.vector_norm(moved, 1)
                    squares[i] += moved @ moved
        return torch.stack([l1.sum(), squares.sqrt().sum()])

    def _at_one(self, lines: Int[Tensor, " line"], alpha: float) -> Stack:
        """The points of some lines at one alpha: at a knot the network there, which nothing is computed for."""
        vertex = None if self.moving else dict(self.knots).get(alpha)
        if vertex is None:
            return self.at(lines, torch.full_like(lines, alpha, dtype=torch.float64))
        stack, rows = self.vertices[vertex], self.rows[vertex][lines]
        return stack if rows.tolist() == list(range(len(stack))) else stack.select(rows)

    def shares(self, alphas: Float[Tensor, " point"]) -> Float[Tensor, "point vertex"]:
        """How much each vertex adds to the points at these alphas, in float64, where that is the same on all lines."""
        return self._spread(self.weigh(torch.float64, torch.zeros_like(alphas, dtype=torch.int64), alphas))

    def _spread(self, weights: Weights, name: str = "") -> Float[Tensor, "point vertex"]:
        """How much each vertex adds to a tensor at some points."""
        share = weights.arcs.get(name, weights.share)
        vertex = torch.as_tensor(weights.vertex, device=share.device).expand(share.shape)
        return share.new_zeros(len(share), len(self.vertices)).scatter_add(1, vertex, share)

    def known(self, most: int) -> list[Known]:
        """Networks at known coordinates: those at the knots of up to `most` lines, or as many marks on a plane, evenly
        spaced.
        """
        if self.marked is not None:
            marked = self.marked
            return [
                Known(k, (float(marked.y[k]), float(marked.x[k])), marked.stack.state_dict(k))
                for k in _evenly(len(marked), most)
                if marked.off_plane[k] == 0
            ]
        return [
            Known(number, (number, alpha), self._network(number, vertex))
            for number in _evenly(len(self), most)
            for alpha, vertex in self.knots
        ]

    def _network(self, number: int, vertex: int | None) -> dict[str, Tensor]:
        """State dict of a line at one of its vertices, or where all are added up."""
        group, number = divmod(number, self.rows.shape[1])
        rows = self.rows[:, number].tolist()
        states = [stack.state_dict(row) for stack, row in zip(self.vertices, rows, strict=True)]
        if vertex is None:
            return {name: sum((s[name] for s in states[1:] if name in s), there) for name, there in states[0].items()}
        if not self.moving:
            return states[vertex]
        return {name: states[vertex if name in self.moving[group] else self.held][name] for name in states[vertex]}

    @functools.cached_property
    def _sheets(self) -> tuple[dict[str, Tensor], ...]:
        """Tensors and buffers of each vertex by name, a row a member."""
        return tuple(map(self._sheet, self.vertices))

    def _sheet(self, stack: Stack) -> dict[str, Tensor]:
        """A stack's tensors and buffers; parameters of small networks lie side by side, as one tensor of no name."""
        tensors = {name: stack[name] for name in self.vertices[0].tensors}
        small = all(len(each) * each.parameters * each.dtype.itemsize <= _FLAT_BYTES for each in self.vertices)
        together = small and not self.moving and not self.apart
        return ({"": Stack(tensors).flatten()} if together else tensors) | dict(stack.buffers)

    def _picks(self, weights: Weights, k: int) -> list[tuple[int, Tensor | slice, Tensor | slice]]:
        """Of vertex k of each point: which it is, its rows, and the points that have it; one row if all share it."""
        if isinstance(weights.vertex, tuple):
            which, used = None, [weights.vertex[k]]
        else:
            which = weights.vertex[:, k]
            used = torch.unique(which).tolist()
        found: list[tuple[int, Tensor | slice, Tensor | slice]] = []
        for vertex in used:
            points = slice(None) if which is None or len(used) == 1 else (which == vertex).nonzero()[:, 0]
            rows = self.rows[vertex][weights.line[points]]
            single = len(used) == 1 and len(rows) and bool((rows == rows[0]).all())
            # A view: it need not be copied for each point.
            found.append((vertex, slice(int(rows[0]), int(rows[0]) + 1) if single else rows, points))
        return found

    def _column(
        self, name: str, picks: Sequence[tuple[int, Tensor | slice, Tensor | slice]], points: int
    ) -> Tensor | None:
        """One tensor of what was picked, a row a point or one for all; None where a direction does not have it."""
        vertex, rows, _ = picks[0]
        if name not in self._sheets[vertex]:
            return None
        if len(picks) == 1:
            return self._sheets[vertex][name][rows]
        tensor = self._sheets[vertex][name]
        column = tensor.new_empty(points, *tensor.shape[1:])
        for vertex, rows, places in picks:
            column[places] = self._sheets[vertex][name][rows]
        return column

    def _moves(self, name: str, group: Tensor, like: Tensor) -> Tensor:
        """Whether a tensor moves in each group, beside tensors of `like`'s shape."""
        return _column_of(torch.tensor([name in names for names in self.moving], device=group.device)[group], like)

    def _moved(self, difference: Stack, lines: Int[Tensor, " line"]) -> Stack:
        """The difference of two points of some lines without what does not move, be that infinite."""
        if not self.moving:
            return difference
        group = lines // self.rows.shape[1]
        each = difference.tensors.items()
        return Stack({name: torch.where(self._moves(name, group, step), step, 0) for name, step in each})

    def network(self, vertex: int, line: int) -> Mapping[str, Tensor]:
        """Tensors and buffers of a vertex of a line by name: the same object while no other line is asked for."""
        row = int(self.rows[vertex, line])
        if self._last.get(vertex, (-1,))[0] != row:
            self._last[vertex] = row, self.vertices[vertex].state_dict(row)
        return self._last[vertex][1]

    @functools.cached_property
    def _last(self) -> dict[int, tuple[int, Mapping[str, Tensor]]]:
        return {}

    def on_marks(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points that are marked networks on the plane, and which."""
        if self.marked is None:
            return y[:0], y[:0]
        here = (x[:, None] == self.marked.x) & (y[:, None] == self.marked.y) & (self.marked.off_plane == 0)
        points = here.any(1).nonzero()[:, 0]
        return points, here[points].int().argmax(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Points of a family at pairs of coordinates, made a chunk at a time: never all are in memory."""

    family: Family
    first: Tensor
    second: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def chunks(self, size: int) -> Iterator[Stack]:
        """Stacks of exactly `size` points; the last is filled up with its own last point."""
        for start in range(0, len(self), size):
            index = torch.arange(start, start + size, device=self.first.device).clamp_(max=len(self) - 1)
            yield self.family.at(self.first[index], self.second[index])

    def mixtures(self) -> Iterator[Point]:
        """Each point in turn, as a weighted sum of networks."""
        family, weights = self.family, self._weights
        share, lines = weights.share.tolist(), weights.line.tolist()
        group = None if weights.group is None else weights.group.tolist()
        arcs = {name: each.tolist() for name, each in weights.arcs.items()}
        vertex = torch.as_tensor(weights.vertex).expand(weights.share.shape).tolist()
        pinned = dict(zip(*(each.tolist() for each in family.on_marks(self.first, self.second)), strict=True))
        for point, line in enumerate(lines):
            family.require_unchanged()
            if point in pinned:
                assert family.marked is not None
                yield Point((1.0,), (family.marked.stack.state_dict(pinned[point]),))
                continue
            networks = tuple(family.network(each, line) for each in vertex[point])
            own = {name: tuple(each[point]) for name, each in arcs.items()}
            if group is None:
                yield Point(tuple(share[point]), networks, affine=family.affine, arcs=own)
            else:
                held, moving = family.network(family.held, line), family.moving[group[point]]
                yield Point(tuple(share[point]), networks, held, moving, family.affine, own)

    @functools.cached_property
    def ends(self) -> Stack | None:
        """The members that make these points, of small families; None where points are no plain sums, or are few."""
        family = self.family
        alike = len({(stack.dtype, tuple(stack.buffers)) for stack in family.vertices}) == 1
        # Of one line, or row: whether its numbers are rounded in this way must not depend on its companions.
        dense = len(self) >= _DENSE * len(family.vertices) * len(torch.unique(self.first))
        if family.moving or family.apart or not alike or not dense:
            return None
        vertex, row = self._used[0]
        parts = [stack.select(row[vertex == number]) for number, stack in enumerate(family.vertices)]
        size = sum(len(stack) * stack.parameters * stack.dtype.itemsize for stack in parts)
        return concatenate([stack for stack in parts if len(stack)]) if size <= _FLAT_BYTES else None

    def between(self, values: Float[Tensor, "end *shape"], index: Int[Tensor, " point"]) -> Tensor:
        """At some points what is linear in the parameters, from its values at `ends`."""
        share, rows = self._weights.share[index].to(values.dtype), self._used[1][index]
        rows = rows[:1] if bool((rows == rows[:1]).all()) else rows
        total = _column_of(share[:, 0], values) * values[rows[:, 0]]
        for k in range(1, share.shape[1]):
            total.addcmul_(_column_of(share[:, k], values), values[rows[:, k]])
        return total

    @functools.cached_property
    def _weights(self) -> Weights:
        return self.family.weigh(self.family.dtype, self.first, self.second)

    @functools.cached_property
    def _used(self) -> tuple[Int[Tensor, "2 end"], Int[Tensor, "point k"]]:
        """Vertex and row of each member that makes the points, vertex by vertex, and those of each point among them."""
        weights, rows = self._weights, self.family.rows
        vertex = torch.as_tensor(weights.vertex, device=rows.device).expand(weights.share.shape)
        most = int(rows.max()) + 1
        codes = vertex * most + rows[vertex, weights.line[:, None]]
        used, inverse = torch.unique(codes, return_inverse=True)
        return torch.stack([used // most, used % most]), inverse


def _mix(
    columns: Sequence[Tensor | None],
    share: Float[Tensor, "point k"],
    exact: Sequence[Tensor],
    *,
    agree: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The weighted sum of one tensor of several vertices, each of one row or of one a point: in the widest of their
    types, rounded to the first's. `exact` are the points that each vertex is alone; where others `agree` with the first
    the point is the first.
    """
    there = [(column, share[:, k]) for k, column in enumerate(columns) if column is not None]
    (first, heaviest), *others = there
    shape = (len(share), *first.shape[1:])
    if not (first.is_floating_point() or first.is_complex()):
        chosen = first.expand(shape).clone()
        for column, weight in others:
            chosen = torch.where(_column_of(weight >= heaviest, column), column, chosen)
            heaviest = torch.maximum(heaviest, weight)
        return chosen
    if not others:
        return first.expand(shape).clone()
    widest = functools.reduce(torch.promote_types, [column.dtype for column, _ in there])
    total = _column_of(heaviest.to(widest), first) * first
    for column, weight in others:
        total.add_(_column_of(weight.to(widest), column) * column)
    same = functools.reduce(torch.logical_and, (agree(column, first) for column, _ in others))
    # Where all vertices agree, or no direction moves anything, so do the points: the product would round.
    if same.any():
        total = torch.where(same, first.to(widest), total)
    total = total.to(first.dtype)
    for places, vertex in zip(exact, columns, strict=False):
        if vertex is not None and len(places):
            total[places] = vertex.expand(shape)[places].to(first.dtype)
    return total


def _equal(other: Tensor, first: Tensor) -> Tensor:
    return other == first


def _zero(direction: Tensor, first: Tensor) -> Tensor:
    return direction == 0


def _all_equal(other: Tensor, first: Tensor) -> Tensor:
    """Where a whole tensor is the same: on an arc no number stays as it is."""
    same = (other == first).flatten(1).all(1)
    return _column_of(same, first)


def _alone(share: Float[Tensor, "point k"]) -> list[Tensor]:
    """Of each vertex the points that have all their weight on it; empty if there are none."""
    alone = (share == 1) & ((share != 0).sum(1, keepdim=True) == 1)
    return [each.nonzero()[:, 0] for each in alone.T] if alone.any() else []


def _column_of(each: Shaped[Tensor, " point"], like: Tensor) -> Tensor:
    """One number a point beside tensors of `like`'s shape."""
    return each.view(-1, *[1] * (like.ndim - 1))


def _evenly(count: int, most: int) -> list[int]:
    """Up to `most` of so many numbers, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


# Kinds of families ----------------------------------------------------------------------------------------------------


def line(start: Stack, end: Stack, rows: Int[Tensor, "vertex line"] | None = None) -> Family:
    """Straight lines, one from each member of `start` to the same member of `end`, or between the members in `rows`.

    I. Goodfellow, O. Vinyals, A. Saxe, *Qualitatively characterizing neural network optimization problems*, ICLR 2015.
    """

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        t = alphas.to(dtype)
        return Weights(torch.stack([1 - t, t], 1), lines, (0, 1))

    return Family("line", (start, end), weigh, _rows((start, end), rows, names=("the start", "the end")))


def slerp(start: Stack, end: Stack, rows: Int[Tensor, "vertex line"] | None = None) -> Family:
    """Arcs from each member of `start` to the same member of `end`, on which each tensor of parameters turns evenly:

        sin((1 - t) angle) / sin(angle) a + sin(t angle) / sin(angle) b

    with the angle between the two, as vectors, so that a tensor whose norm is that of the other end keeps it. Tensor by
    tensor, as those do who merge models (mergekit). As the angle vanishes the formula becomes that of the line, without
    a threshold. A tensor that is zero at an end, or there the opposite of what it is at the other, has no arc and goes
    along the line, which is logged; buffers go along the line too.

    K. Shoemake, *Animating rotation with quaternion curves*, SIGGRAPH 1985.
    """
    rows = _rows((start, end), rows, names=("the start", "the end"))
    angles = {name: _angles(tensor, end[name], rows) for name, tensor in start.tensors.items()}
    if straight := [name for name, each in angles.items() if bool(each.isnan().any())]:
        _log.warning(
            "slerp: %d of %d tensors go along the line, there is no arc to or from zero, nor to the opposite: %s",
            len(straight),
            len(angles),
            few(straight),
        )

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        t = alphas.to(dtype)
        arcs = {}
        for name, each in angles.items():
            turn = each.nan_to_num(0.0).to(alphas.device)[lines] / torch.pi  # sinc(x) is sin(pi x) / (pi x), 1 at 0
            parts = [s * torch.sinc(s * turn) / torch.sinc(turn) for s in (1 - alphas.double(), alphas.double())]
            arcs[name] = torch.stack(parts, 1).to(dtype)
        return Weights(torch.stack([1 - t, t], 1), lines, (0, 1), arcs=arcs)

    return Family("arc", (start, end), weigh, rows, chords=_ARC_CHORDS, apart=True)


def _angles(start: Tensor, end: Tensor, rows: Int[Tensor, "vertex line"]) -> Float[Tensor, " line"]:
    """Angle in radians between a tensor of members and that of others, of each line; NaN where there is none.

    W. Kahan's formula, which is accurate near 0 and pi: *How futile are mindless assessments of roundoff*, 2006, p. 46.
    """

    def pieces(tensor: Tensor) -> Iterator[Tensor]:  # of a large tensor no copy in float64 is made
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        return (piece.double() for piece in torch.split(real.flatten(), _LARGE))

    def norm(parts: Iterator[Tensor]) -> float:
        return math.sqrt(sum(float(each.square().sum()) for each in parts))

    found = []
    for one, other in ((start[i], end[j]) for i, j in rows.T.tolist()):
        a, b, angle = norm(pieces(one)), norm(pieces(other)), math.nan
        if a and b:
            near, far = (
                norm(x / a + sign * y / b for x, y in zip(pieces(one), pieces(other), strict=True)) for sign in (-1, 1)
            )
            angle = 2 * math.atan2(near, far)
        found.append(angle if angle < math.pi - _OPPOSITE else math.nan)
    return torch.tensor(found, dtype=torch.float64, device=rows.device)


def polyline(vertices: Sequence[Stack], rows: Int[Tensor, "vertex line"] | None = None) -> Family:
    """Straight segments from each member of the first of `vertices` through the same member of the next to the last.

    Vertex i of k segments is at alpha i / k; beyond 0 and 1 the outer segments go on.
    """
    segments = len(vertices) - 1

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        place = alphas * segments
        place = torch.where(alphas == place.round() / segments, place.round(), place)  # i / k * k can miss i
        segment = place.floor().clamp(0, segments - 1)
        t, vertex = (place - segment).to(dtype), segment.long()
        return Weights(torch.stack([1 - t, t], 1), lines, torch.stack([vertex, vertex + 1], 1))

    knots = tuple((i / segments, i) for i in range(segments + 1)) if segments else ()
    return Family("polyline", tuple(vertices), weigh, _rows(vertices, rows), knots)


def bezier(controls: Sequence[Stack], rows: Int[Tensor, "vertex line"] | None = None) -> Family:
    """Bézier curves with the same member of each of `controls` as control points: the first and the last are the ends.

    T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson, *Loss surfaces, mode connectivity, and fast
    ensembling of DNNs*, NeurIPS 2018. Weights are Bernstein's polynomials.
    """
    degree = len(controls) - 1

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        t = alphas.double()
        each = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
        return Weights(torch.stack(each, 1).to(dtype), lines, tuple(range(degree + 1)))

    knots = ((0.0, 0), (1.0, degree))
    return Family("curve", tuple(controls), weigh, _rows(controls, rows), knots, chords=_CHORDS)


def bent(controls: Sequence[Stack], bends: Int[Tensor, " line"], curved: Bool[Tensor, " line"]) -> Family:
    """Of each line a Bézier curve, where it is `curved`, or straight segments through its `bends`, which are so many of
    the first of `controls` after the start; the end is the last. What is left of the controls has no weight.
    """
    ends = len(controls) - 1

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        here = lines.to(bends.device)
        kinds = 2 * bends[here] + curved[here]
        share = torch.zeros(len(alphas), ends + 1, dtype=torch.float64, device=alphas.device)
        for kind in torch.unique(kinds).tolist():
            own = [*range(kind // 2 + 1), ends]
            family = (bezier if kind % 2 else polyline)([controls[k] for k in own])
            some = (kinds == kind).nonzero()[:, 0].to(alphas.device)
            share[some[:, None], torch.tensor(own, device=alphas.device)] = family.shares(alphas[some])
        return Weights(share.to(dtype), lines, tuple(range(ends + 1)))

    return Family("curve", tuple(controls), weigh, _rows(controls, None), ((0.0, 0), (1.0, ends)), chords=_BENT_CHORDS)


def ray(origin: Stack, direction: Stack, rows: Int[Tensor, "vertex line"] | None = None) -> Family:
    """Straight lines from each member of `origin` along the same member of `direction`: origin + alpha direction."""

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        t = alphas.to(dtype)
        return Weights(torch.stack([torch.ones_like(t), t], 1), lines, (0, 1))

    rows = _rows((origin, direction), rows, names=("the origin", "the direction"))
    return Family("ray", (origin, direction), weigh, rows, ((0.0, 0), (1.0, None)), affine=False)


def plane(origin: Stack, x_direction: Stack, y_direction: Stack, marked: Marked) -> Family:
    """The points `origin + x x_direction + y y_direction`, each of the three a stack of one member; in float64, rounded
    once to the origin's element type. Buffers for which a direction says nothing are the origin's.
    """
    vertices = (origin, x_direction.to(torch.float64), y_direction.to(torch.float64))

    def weigh(dtype: torch.dtype, y: Tensor, x: Tensor) -> Weights:
        share = torch.stack([torch.ones_like(x, dtype=torch.float64), x.double(), y.double()], 1)
        return Weights(share, torch.zeros_like(x, dtype=torch.int64), (0, 1, 2))

    names = ("the origin", "the direction of x", "the direction of y")
    return Family("plane", vertices, weigh, _rows(vertices, None, names=names), (), affine=False, marked=marked)


def partial(lines: Family, moving: Sequence[frozenset[str]], hold: Hold = "start") -> Family:
    """The lines of a family, for each set of names of parameters and buffers, with those alone moving: the sets follow
    each other. The rest is held at one of the ends.

    L. Adilova, M. Andriushchenko, M. Kamp, A. Fischer, M. Jaggi, *Layer-wise linear mode connectivity*, ICLR 2024.
    """
    if not moving:
        raise LandscapeError("lines on which nothing moves are none: name the tensors that move")
    count = len(lines)

    def weigh(dtype: torch.dtype, numbers: Tensor, alphas: Tensor) -> Weights:
        weights = lines.weigh(dtype, numbers % count, alphas)
        return dataclasses.replace(weights, group=numbers // count)

    held = 0 if hold == "start" else len(lines.vertices) - 1
    return dataclasses.replace(lines, weigh=weigh, moving=tuple(moving), held=held)


def _rows(
    vertices: Sequence[Stack], rows: Int[Tensor, "vertex line"] | None, names: tuple[str, ...] = ()
) -> Int[Tensor, "vertex line"]:
    """Rows of the vertices, member by member unless they are given; raises `Mismatch` for vertices that do not fit."""
    names = names or ("the start", *(f"point {number} of the path" for number in range(1, len(vertices))))
    if len(vertices) < 2:
        raise Mismatch("a path needs at least two points: its start and its end")
    for name, stack in zip(names[1:], vertices[1:], strict=True):
        require_same_shapes(vertices[0], stack, names=(names[0], name))
    if rows is not None:
        return rows
    if len({len(stack) for stack in vertices}) > 1:
        raise Mismatch(f"{' and '.join(str(len(stack)) for stack in vertices)} members make no paths: they must pair")
    return torch.arange(len(vertices[0]), device=vertices[0].device).expand(len(vertices), -1)


def grid(
    points: int | Sequence[float] | np.ndarray,
    low: float = 0.0,
    high: float = 1.0,
    *,
    knots: Sequence[float] = (0.0, 1.0),
) -> Float[np.ndarray, " point"]:
    """`points` evenly spaced alphas from low to high, or the alphas that are given; 0, 1 and other `knots`, such as the
    vertices of a polyline, are added where they are missing.

    >>> grid(4, -0.5, 1.5).round(3).tolist()
    [-0.5, 0.0, 0.167, 0.833, 1.0, 1.5]
    """
    if not isinstance(points, int | np.integer):
        try:
            given = np.asarray(np.nan if isinstance(points, str | bytes) else points, dtype=np.float64)
        except (TypeError, ValueError):
            given = np.array(np.nan)
        if given.ndim != 1 or not np.isfinite(given).all():
            raise LandscapeError("`points` is a whole number of points, or a list of finite alphas")
        if (low, high) != (0, 1):
            raise LandscapeError("`span` is for a number of `points`: alphas that are given themselves need none")
        return np.union1d(given, knots)
    if not 2 <= points <= MOST_POINTS:
        raise LandscapeError(f"a line needs at least 2 points, got {points}: `points` goes up to {MOST_POINTS}")
    if not (low <= 0 and high >= 1 and np.isfinite([low, high]).all()):
        raise LandscapeError(f"the range {low}:{high} must contain both ends of the line, 0 and 1: widen `span`")
    alphas = torch.linspace(low, high, int(points), dtype=torch.float64).numpy()
    # An alpha that misses a knot by rounding is that knot.
    for knot in knots:
        alphas[np.abs(alphas - knot) < 1e-12 * (high - low)] = knot
    return np.union1d(alphas, knots)
