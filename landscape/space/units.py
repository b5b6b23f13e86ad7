"""Units along dimensions: which permutations a dimension admits, found by unification, and by which powers they scale.

A dimension's permutations are a tree: leaves are units that permute freely, are pinned (told apart, yet perhaps
rescaled) or are fixed; a `sum` lists parts side by side, a `product` is nested, outer to inner, and `blocks` are a sum
whose parts of one size can change places too.
"""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Int

__all__ = ["Change", "Dim", "Occurrence", "Powers", "Units", "blocks", "fixed", "independent", "product", "together"]

Kind = Literal["free", "pinned", "fixed", "sum", "product", "blocks"]

_COMPOSITE = ("sum", "product", "blocks")

#: Repetitions of a fixed factor that are written out side by side.
_MOST_COPIES = 256


class Units:
    """Some units in their order along a dimension; what is learnt of them later changes the object in place."""

    __slots__ = ("bent", "kind", "link", "parts", "size")

    def __init__(self, size: int, kind: Kind = "free", parts: Sequence["Units"] = ()) -> None:
        self.size, self.kind, self.parts = size, kind, list(parts)
        self.link: Units | None = None
        #: Whether an operation acts on each of the units by itself in a way that is not linear.
        self.bent = False

    def root(self) -> "Units":
        """What they were found to be equal to."""
        node = self
        while node.link is not None:
            node = node.link
        while self.link is not None and self.link is not node:
            self.link, self = node, self.link
        return node

    def leaves(self) -> Iterator["Units"]:
        """Leaves that are not fixed, each as often as it occurs."""
        node = self.root()
        if node.kind in _COMPOSITE:
            for part in node.parts:
                yield from part.leaves()
        elif node.kind != "fixed":
            yield node

    def nested(self) -> Iterator[tuple["Units", list["Units"]]]:
        """Of blocks among them, the units that the blocks are, and the leaves inside each."""
        node = self.root()
        if node.kind == "blocks":
            yield node.parts[0].root(), [part.root() for part in node.parts[1:]]
        if node.kind in _COMPOSITE:
            for part in node.parts:
                yield from part.nested()

    def freeze(self) -> None:
        """Neither permuted nor rescaled."""
        for leaf in list(self.leaves()):
            leaf.kind = "fixed"

    def pin(self) -> None:
        """Not permuted."""
        for leaf in list(self.leaves()):
            leaf.kind = "pinned"

    def bend(self) -> None:
        """Not mixed with one another by a linear map."""
        for leaf in list(self.leaves()):
            leaf.bent = True

    def _terms(self) -> list["Units"]:
        """They as parts side by side; a product is so if its outermost factor is."""
        node = self.root()
        if node.kind == "sum":
            return [term for part in node.parts for term in part._terms()]
        if node.kind == "product":
            first, *rest = node.parts
            terms = first._terms()
            if len(terms) > 1:
                return [product([term, *rest]) for term in terms]
            if terms[0].kind == "fixed" and terms[0].size <= _MOST_COPIES:
                inner = product(rest)
                if len(inner._terms()) > 1:
                    return [term for _ in range(first.size) for term in inner._terms()]
        return [node]

    def _beside(self) -> list["Units"]:
        """The same, blocks that change places opened."""
        if self.root().kind == "blocks":
            self.root()._open()
        return self._terms()

    def _factors(self) -> list["Units"]:
        node = self.root()
        return [f for part in node.parts for f in part._factors()] if node.kind == "product" else [node]

    def split(self, sizes: Sequence[int]) -> list["Units"]:
        """Parts of these sizes, side by side, that make them up; where they cannot be, all is frozen."""
        node = self.root()
        if len(sizes) == 1:
            return [node]
        if node.kind == "fixed":
            return [fixed(size) for size in sizes]
        if node.kind in ("free", "pinned"):
            node.parts = [_leaf(size, node) for size in sizes]
            node.kind = "sum"
            return list(node.parts)
        if node.kind == "blocks":
            node._open()
        if node.kind == "product":
            first, *rest = node._factors()
            inner = math.prod(factor.size for factor in rest)
            if all(size % inner == 0 for size in sizes):
                return [product([part, *rest]) for part in first.split([size // inner for size in sizes])]
            if not (first.kind == "fixed" and first.size <= _MOST_COPIES):
                node.freeze()
                return [fixed(size) for size in sizes]
            terms = [product(rest)] * first.size
        else:
            terms = node._terms()
        found, terms = list[Units](), terms[::-1]
        for size in sizes:
            taken, left = list[Units](), size
            while left:
                term = terms.pop()
                if term.size > left:
                    here, there = term.split([left, term.size - left])
                    terms.append(there)
                    term = here
                taken.append(term)
                left -= term.size
            found.append(taken[0] if len(taken) == 1 else Units(size, "sum", taken))
        return found

    def factor(self, sizes: Sequence[int]) -> list["Units"]:
        """Factors of these sizes, outer to inner, whose product they are; where they cannot be, all is frozen."""
        node, wanted = self.root(), [size for size in sizes if size != 1]
        if len(wanted) == 1:
            factors = [node]
        elif node.kind in ("free", "pinned") and wanted:
            node.parts = [_leaf(size, node) for size in wanted]
            node.kind = "product"
            factors = list(node.parts)
        else:
            found = node._composite_factors(wanted)
            if found is None:
                node.freeze()
                found = [fixed(size) for size in wanted]
            factors = found
        if node.size == 1:
            node.freeze()
        given = iter(factors)
        return [next(given) if size != 1 else fixed(1) for size in sizes]

    def _composite_factors(self, wanted: Sequence[int]) -> list["Units"] | None:
        if self.kind == "blocks":
            self._close()
        if self.kind == "sum":
            first = wanted[0]
            parts = self.split([self.size // first] * first)
            for part in parts[1:]:
                together(parts[0], part)
            return [fixed(first), *parts[0].factor(wanted[1:])]
        if self.kind != "product":
            return None
        found, factors = list[Units](), self._factors()[::-1]
        for size in wanted:
            taken, left = list[Units](), size
            while left > 1:
                if not factors:
                    return None
                factor = factors.pop()
                if factor.size > left and factor.size % left == 0:
                    here, there = factor.factor([left, factor.size // left])
                    factors.append(there)
                    factor = here
                if left % factor.size:
                    return None
                taken.append(factor)
                left //= factor.size
            found.append(product(taken))
        return found

    def _open(self) -> None:
        """Blocks that keep their places."""
        self.parts[0].freeze()
        self.kind, self.parts = "sum", self.parts[1:]

    def _close(self) -> None:
        """Blocks that all have one order inside."""
        outer, *inner = self.parts
        for other in inner[1:]:
            together(inner[0], other)
        self.kind, self.parts = "product", [outer, inner[0]]

    def occurrences(self) -> list["Occurrence"]:
        """Where each leaf that is not fixed has its units, leaf by leaf, in the tree's order."""
        node = self.root()
        if node.kind == "fixed":
            return []
        if node.kind in ("free", "pinned"):
            return [Occurrence(node, np.arange(node.size)[:, None])]
        if node.kind == "sum":
            return _side_by_side(node.parts)
        if node.kind == "blocks":
            outer, *inner = node.parts
            return [each.nested(outer.size, 1, inner[0].size) for each in outer.occurrences()] + _side_by_side(inner)
        found, outside = list[Occurrence](), 1
        for part in node.parts:
            inside = node.size // (outside * part.size)
            found += [each.nested(part.size, outside, inside) for each in part.occurrences()]
            outside *= part.size
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Occurrence:
    """A leaf of a dimension, and the places of its units there."""

    leaf: Units
    places: Int[np.ndarray, "unit place"]

    def nested(self, size: int, outside: int, inside: int) -> "Occurrence":
        """The same in a product, in which they are a factor of this size."""
        outer, inner = np.ogrid[:outside, :inside]
        every = (outer * size * inside + inner).ravel()
        places = self.places[:, :, None] * inside + every
        return Occurrence(self.leaf, np.sort(places.reshape(len(self.places), -1), axis=1))

    def shifted(self, start: int) -> "Occurrence":
        """The same behind `start` other places."""
        return Occurrence(self.leaf, self.places + start)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Start, outer and inner of the fewest `Axis` that have these places."""
        first, size = self.places[0], len(self.places)
        gap = np.flatnonzero(np.diff(first) != 1)
        inner = int(gap[0]) + 1 if len(gap) else len(first)
        if size > 1:
            inner = math.gcd(inner, int(self.places[1, 0] - first[0]))
        starts = first[::inner]
        steps = np.diff(starts)
        if len(starts) > 1 and (steps == size * inner).all():
            yield int(starts[0]), len(starts), inner
        else:
            for start in starts:
                yield int(start), 1, inner


@dataclasses.dataclass(frozen=True, eq=False)
class Dim:
    """A dimension of a tensor, with powers of its own: rescaling unit u by s multiplies what is there by a power of s.

    Tensors that must have the same powers share it. Where another dimension, `over`, tells parts of a tensor apart,
    such as the queries, keys and values of a packed weight, each of these has a `Dim` of its own until `joined`.
    """

    units: Units
    parts: tuple["Dim", ...] = ()
    over: "Dim | None" = None

    def leaves(self) -> Iterator[Units]:
        """Leaves of all parts that are not fixed."""
        for dim in self.parts or (self,):
            yield from dim.units.leaves()

    def joined(self, powers: "Powers") -> "Dim":
        """One for all parts, which are permuted alike from here on."""
        for part in self.parts[1:]:
            together(self.parts[0].units, part.units)
            powers.equal(self.parts[0], part)
        return self.parts[0] if self.parts else self


#: A coefficient, dimensions, and whether these are parts of one dimension side by side, else its factors.
Term = tuple[int, Sequence[Dim], bool]

#: Rescalings by s > 0, and by s = -1.
Change = Literal["scale", "flip"]

_CHANGES: tuple[Change, Change] = ("scale", "flip")


class Powers:
    """Linear relations between the powers of dimensions, and their solutions, leaf by leaf."""

    def __init__(self) -> None:
        self._relations: dict[Change, list[tuple[Term, ...]]] = {"scale": [], "flip": []}
        self._partly = list[tuple[Dim, tuple[Units, ...]]]()
        self._numbers: dict[Dim, list[tuple[Occurrence, int]]] = {}
        self._count = 0

    def relate(self, *terms: Term, only: Change | None = None) -> None:
        """At every place the powers of each unit, with the coefficients, sum to 0."""
        for change in _CHANGES:
            if only in (None, change):
                self._relations[change].append(terms)

    def equal(self, one: Dim, other: Dim) -> None:
        """Both have the same powers."""
        if one is not other:
            self.relate((1, (one,), False), (-1, (other,), False))

    def zero(self, dim: Dim, only: Change | None = None, of: Sequence[Units] = ()) -> None:
        """No power but 0, of these units or of all."""
        if of:
            self._partly.append((dim, tuple(of)))
        else:
            self.relate((1, (dim,), False), only=only)

    def occurrences(self, dim: Dim) -> list[tuple[Occurrence, int]]:
        """The leaves of a dimension, with the number of the unknown power of each."""
        if dim not in self._numbers:
            found = dim.units.occurrences()
            self._numbers[dim] = list(zip(found, range(self._count, self._count + len(found)), strict=True))
            self._count += len(found)
        return self._numbers[dim]

    def solve(self, change: Change, wanted: Mapping[Units, Sequence[int]]) -> dict[Units, tuple[tuple[int, ...], ...]]:
        """For each leaf a basis of the powers that its unknowns can have together; call it when all units are known."""
        system = _System(2 if change == "flip" else 0)
        seen = set[tuple[tuple[int, int], ...]]()
        for terms in self._relations[change]:
            for row in self._rows(terms):
                if row and row not in seen:
                    seen.add(row)
                    system.add(dict(row))
        for dim, of in self._partly:
            leaves = {leaf for units in of for leaf in units.leaves()}
            for each, number in self.occurrences(dim):
                if each.leaf in leaves:
                    system.add({number: 1})
        return {leaf: system.basis(unknowns) for leaf, unknowns in wanted.items()}

    def _rows(self, terms: Sequence[Term]) -> Iterator[tuple[tuple[int, int], ...]]:
        sides = [(coefficient, self._entries(dims, beside)) for coefficient, dims, beside in terms]
        first = sides[0][1]
        for _, other in sides[1:]:
            if len(other) != len(first) or any(
                a.leaf is not b.leaf or not np.array_equal(a.places, b.places)
                for (a, _), (b, _) in zip(first, other, strict=True)
            ):
                yield from _place_by_place(sides)
                return
        for each in zip(*(entries for _, entries in sides), strict=True):
            yield _row((number, sides[k][0]) for k, (_, number) in enumerate(each))

    def _entries(self, dims: Sequence[Dim], beside: bool) -> list[tuple[Occurrence, int]]:
        if len(dims) == 1:
            return self.occurrences(dims[0])
        found, done = list[tuple[Occurrence, int]](), 0 if beside else 1
        total = math.prod(dim.units.size for dim in dims)
        for dim in dims:
            size = dim.units.size
            for each, number in self.occurrences(dim):
                moved = each.shifted(done) if beside else each.nested(size, done, total // (done * size))
                found.append((moved, number))
            done = done + size if beside else done * size
        return found


def _place_by_place(sides: Sequence[tuple[int, list[tuple[Occurrence, int]]]]) -> set[tuple[tuple[int, int], ...]]:
    """Relations of terms whose trees differ in shape."""
    found = defaultdict[tuple[int, int, int], list[tuple[int, int]]](list)
    for coefficient, entries in sides:
        for each, number in entries:
            for unit, places in enumerate(each.places.tolist()):
                for place in places:
                    found[place, id(each.leaf), unit].append((number, coefficient))
    return {_row(terms) for terms in found.values()}


def _row(terms: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    row = defaultdict[int, int](int)
    for number, coefficient in terms:
        row[number] += coefficient
    return tuple(sorted((number, coefficient) for number, coefficient in row.items() if coefficient))


class _System:
    """Homogeneous linear equations, solved as they come, over the rational numbers or modulo 2."""

    def __init__(self, modulus: int) -> None:
        self._modulus = modulus
        self._solved: dict[int, dict[int, Fraction]] = {}

    def add(self, row: Mapping[int, int]) -> bool:
        """One more equation, coefficients of the unknowns; whether it says anything new."""
        left = self._reduced({number: Fraction(coefficient) for number, coefficient in row.items()})
        if new := bool(left):
            last = max(left)
            pivot = left.pop(last)
            self._solved[last] = self._kept({number: -value / pivot for number, value in left.items()})
        return new

    def _kept(self, row: Mapping[int, Fraction]) -> dict[int, Fraction]:
        if self._modulus:
            row = {number: value % self._modulus for number, value in row.items()}
        return {number: value for number, value in row.items() if value}

    def _reduced(self, row: Mapping[int, Fraction]) -> dict[int, Fraction]:
        """In terms of unknowns that are free."""
        row = self._kept(row)
        while bound := [number for number in row if number in self._solved]:
            for number in bound:
                value, short = row.pop(number), self._solved[number]
                for other, share in short.items():
                    row[other] = row.get(other, Fraction(0)) + value * share
            row = self._kept(row)
        return row

    def basis(self, unknowns: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Of the values that these unknowns can have together, in lowest whole numbers."""
        for number in unknowns:
            if number in self._solved:
                self._solved[number] = self._reduced(self._solved[number])
        each = [self._reduced({number: Fraction(1)}) for number in unknowns]
        rows = [[one.get(number, Fraction(0)) for one in each] for number in sorted(set().union(*each))]
        found = list[list[Fraction]]()
        for column in range(len(unknowns)):
            pivot = next((row for row in rows if row[column]), None)
            if pivot is None:
                continue
            rows.remove(pivot)
            pivot = self._less(pivot, pivot, 1 - 1 / pivot[column])
            rows = [self._less(row, pivot, row[column]) for row in rows]
            found = [*(self._less(row, pivot, row[column]) for row in found), pivot]
        scales = [math.lcm(*(value.denominator for value in row)) for row in found]
        return tuple(tuple(int(v * scale) for v in row) for row, scale in zip(found, scales, strict=True))

    def _less(self, row: list[Fraction], other: list[Fraction], times: Fraction) -> list[Fraction]:
        found = [a - times * b for a, b in zip(row, other, strict=True)]
        return [value % self._modulus for value in found] if self._modulus else found


def independent(
    rows: Sequence[tuple[int, ...]], known: Sequence[tuple[int, ...]], change: Change
) -> tuple[tuple[int, ...], ...]:
    """The rows that are no combination of others before them, nor of known ones."""
    system = _System(2 if change == "flip" else 0)
    for row in known:
        system.add(dict(enumerate(row)))
    return tuple(row for row in rows if system.add(dict(enumerate(row))))


def _leaf(size: int, like: Units) -> Units:
    made = Units(size, like.kind)
    made.bent = like.bent
    return made


def fixed(size: int) -> Units:
    """Units that stay as they are."""
    return Units(size, "fixed")


def product(factors: Sequence[Units]) -> Units:
    """Nested units, outer to inner; those of size 1 among others are frozen."""
    kept = [factor for factor in factors if factor.size != 1]
    if len(factors) > 1:
        for factor in factors:
            if factor.size == 1:
                factor.freeze()
    if len(kept) == 1:
        return kept[0].root()
    if not kept:
        return factors[0].root() if factors else fixed(1)
    return Units(math.prod(factor.size for factor in kept), "product", kept)


def blocks(units: Units, count: int) -> tuple[Units, list[Units]]:
    """The units as so many blocks that can change places, each with an order of its own: outer and inner units."""
    node, size = units.root(), units.size // count
    if node.kind == "blocks" and node.parts[0].size == count:
        return node.parts[0], node.parts[1:]
    if size == 1:
        return node, [fixed(1)] * count
    if node.kind in ("free", "pinned"):
        outer, inner = _leaf(count, node), [_leaf(size, node) for _ in range(count)]
        node.kind, node.parts = "blocks", [outer, *inner]
        return outer, inner
    if node.kind == "product" and node._factors()[0].size == count:
        first, *rest = node._factors()
        return first, [product(rest)] * count
    return fixed(count), node.split([size] * count)


def together(one: Units, other: Units) -> None:
    """Permuted alike from here on; what cannot be is frozen."""
    a, b = one.root(), other.root()
    if a is b:
        return
    assert a.size == b.size, f"{a.size} units cannot be {b.size}"
    if "fixed" in (a.kind, b.kind):
        a.freeze()
        b.freeze()
        return
    if b.kind in ("free", "pinned"):
        a, b = b, a
    if a.kind in ("free", "pinned"):
        if a.kind == "pinned":
            b.pin()
        if a.bent:
            b.bend()
        a.link = b
        return
    if a.kind == "blocks" and b.kind == "blocks" and a.parts[0].size == b.parts[0].size:
        pairs = list(zip(a.parts, b.parts, strict=True))
    elif "sum" not in (a.kind, b.kind):
        for node in (a, b):
            if node.kind == "blocks":
                node._close()
        sizes = _chain([[f.size for f in node._factors()] for node in (a, b)])
        if sizes is None:
            a.freeze()
            b.freeze()
            return
        pairs = list(zip(a.factor(sizes), b.factor(sizes), strict=True))
    else:
        cuts = np.unique(np.concatenate([np.cumsum([term.size for term in node._beside()]) for node in (a, b)]))
        sizes = np.diff(cuts, prepend=0).tolist()
        pairs = list(zip(a.split(sizes), b.split(sizes), strict=True))
    for x, y in pairs:
        together(x, y)
    a, b = a.root(), b.root()
    if a is not b and a.kind in _COMPOSITE and b.kind in _COMPOSITE:
        if a.kind == "sum":  # its parts may differ in their powers
            a, b = b, a
        a.link = b


def _chain(sizes: Sequence[Sequence[int]]) -> list[int] | None:
    """The coarsest factors of which both are products, outer to inner."""
    cuts = sorted({int(each) for one in sizes for each in np.cumprod(one)})
    if any(after % before for before, after in itertools.pairwise(cuts)):
        return None
    return [after // before for before, after in itertools.pairwise([1, *cuts])]


def _side_by_side(parts: Sequence[Units]) -> list[Occurrence]:
    found, start = list[Occurrence](), 0
    for part in parts:
        found += [each.shifted(start) for each in part.occurrences()]
        start += part.size
    return found
