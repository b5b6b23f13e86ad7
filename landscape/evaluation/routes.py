"""Routes: which lines to walk, by the names of places, and the lines with the members that they connect."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.provenance import Source
from landscape.engine.objective import Objective
from landscape.engine.stack import aliases, concatenate, fingerprint
from landscape.problems.base import Problem
from landscape.problems.places import fitting, is_landmark, landmark, problem_of, short
from landscape.problems.setting import Setting
from landscape.space import symmetry as align
from landscape.space.directions import Normalise, random_directions
from landscape.space.family import Hold, Line, PartialLine, Paths, Polyline, Ray
from landscape.space.groups import Per, matching, split
from landscape.space.symmetry import Symmetry
from landscape.store.checkpoints import Checkpoint, load

__all__ = ["Connection", "Orders", "Pairing", "Prepared", "Route", "connect", "partial", "prepare", "rays"]

#: How members of checkpoints become lines: member by member, or each with each.
Pairing = Literal["matched", "all"]

#: Order of the start's units: as stored, every equivalent one, or the one that lies closest to the end.
Orders = Literal["stored", "all", "matched"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """Which lines to walk, from one place to another: each a landmark's name or what `store.load` reads.

    Lines go straight through the places `via`, in their order. With `only`, glob patterns, the tensors that they match
    move and the rest is held at one end (`hold`); with `per` there is a line for each part of the network, on which
    only that one moves, after the full line. With `rays`, seeds, lines lead from the start in random directions
    (`normalise`) to no other place. Raises `LandscapeError` for options that do not go together.
    """

    start: str
    end: str | None = None
    via: tuple[str, ...] = ()
    rays: tuple[int, ...] = ()
    normalise: Normalise = "filter"
    pairing: Pairing = "matched"
    orders: Orders = "stored"
    only: tuple[str, ...] = ()
    per: Per | None = None
    hold: Hold = "start"

    def __post_init__(self) -> None:
        if self.end is None and not self.rays:
            raise LandscapeError("lines need an end: name it with --to, or random directions with --rays")
        if self.rays and self.end is not None:
            raise LandscapeError("--rays lead from the start to no other place: leave --to out, or --rays")
        if self.rays and (self.via or self.only or self.per or self.orders != "stored" or self.pairing != "matched"):
            raise LandscapeError(
                "--rays go straight from each start: leave --via, --only, --per, --pairs and --filter-order out"
            )
        if self.normalise != "filter" and not self.rays:
            raise LandscapeError("--normalise is for random directions: give them with --rays")
        if self.only and self.per:
            raise LandscapeError("--only and --per both say what moves: leave one of them out")
        if self.hold != "start" and not (self.only or self.per):
            raise LandscapeError("--hold says where the rest is held: name what moves with --only or --per")
        if self.via and (self.only or self.per):
            raise LandscapeError("with --via everything moves: leave --only and --per out")
        if self.via and self.orders == "all":
            raise LandscapeError("--via goes with --filter-order stored or matched, not with all")

    @property
    def places(self) -> tuple[str, ...]:
        """All places of the route, in its order."""
        return self.start, *self.via, *([] if self.end is None else [self.end])

    @property
    def name(self) -> str:
        """The route as a file name, without an ending."""
        what = [f"per-{self.per}"] if self.per else ["only", *map(short, self.only)] if self.only else []
        what = [f"rays-{self.normalise}"] if self.rays else what
        held = ["hold-end"] if self.hold == "end" else []
        return "-".join(["--".join(map(short, self.places)), *what, *held])

    def attributes(self) -> dict[str, Any]:
        """What curves along the route say of it; options that were not used are left out."""
        told: dict[str, Any] = {"from": self.start, "to": self.end, "orders": self.orders}
        if self.rays:
            told["normalise"] = self.normalise
        if self.via:
            told["via"] = list(self.via)
        if self.only or self.per:
            told |= {"only": list(self.only)} if self.only else {"per": self.per}
            told["hold"] = self.hold
        return told


@dataclasses.dataclass(frozen=True, eq=False)
class Connection:
    """Lines with the table of members that they connect.

    `via_member` are those in between, in order; `moves` names what moves on each line, empty if all does.
    """

    lines: Paths
    from_member: Int[np.ndarray, " line"]
    to_member: Int[np.ndarray, " line"]
    sources: tuple[Source, ...]
    via_member: Int[np.ndarray, "line via"] | None = None
    moves: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a route leads to: its problem's objective, its lines, and what the curves along them say of both."""

    problem: Problem
    objective: Objective
    connection: Connection
    attributes: Mapping[str, Any]


def prepare(route: Route, *, problem: Problem | None = None, **chosen: Any) -> Prepared:
    """Load the places of a route and connect their members; the problem is that of the checkpoints unless given.

    What is `chosen` are fields of a `Setting`. With `batchnorm="keep"` each line has its start's buffers everywhere.
    Raises `Unverified` for a landmark that does not solve the problem, `Mismatch` for a checkpoint of another
    architecture, members that do not pair or a pattern that matches nothing, `LandscapeError` for parameters that are
    NaN.
    """
    loaded = {place: load(place) for place in route.places if not is_landmark(place)}
    problem = problem or problem_of(loaded)
    setting = Setting(**chosen)
    objective = setting.objective(problem)
    places = [
        fitting(problem, loaded[place]) if place in loaded else landmark(problem, place, **setting.drawn)
        for place in route.places
    ]
    keep = setting.batchnorm == "keep"
    connection = _connection(route, places, problem.symmetry(), aliases(objective.network.module), keep=keep)
    attributes = {
        **setting.describe(problem, objective),
        **route.attributes(),
        "landmarks": {place: problem.describe_landmark(place) for place in route.places if place not in loaded},
    }
    return Prepared(problem, objective, connection, attributes)


def _connection(
    route: Route, places: Sequence[Checkpoint], symmetry: Symmetry, aliases: Mapping[str, str], *, keep: bool
) -> Connection:
    """The lines of a route through its places; with `keep` they have their starts' buffers."""
    if route.rays:
        return rays(places[0], route.rays, normalise=route.normalise)
    start, *via, end = places
    lines = connect(
        start, end, via=via, pairing=route.pairing, orders=route.orders, symmetry=symmetry, keep_buffers=keep
    )
    if route.only:
        names = matching(start.stack, route.only, aliases=aliases)
        return partial(lines, {", ".join(route.only): names}, hold=route.hold)
    if route.per:
        everything = frozenset([*start.stack.tensors, *start.stack.buffers])
        return partial(lines, {"": everything, **split(start.stack, route.per)}, hold=route.hold)
    return lines


def connect(
    start: Checkpoint,
    end: Checkpoint,
    *,
    via: Sequence[Checkpoint] = (),
    pairing: Pairing = "matched",
    orders: Orders = "stored",
    symmetry: Symmetry = (),
    keep_buffers: bool = False,
) -> Connection:
    """Lines from the members of one checkpoint to those of another, straight or `via` those of others.

    `matched` pairs member with member, a single member with all. With `orders` `all` there is a line from every
    equivalent order of the start's units (few units only, straight lines only); with `matched` each start is reordered
    to lie close to its end, and so is each member on the way, from the last on, to the one behind it. With
    `keep_buffers` the buffers of a line's start are those of all its points. Raises `Mismatch` if the members do not
    pair.
    """
    places = [start, *via, end]
    rows = _pair([len(place.stack) for place in places], pairing)
    stacks = [place.stack.select(row.tolist()) for place, row in zip(places, rows, strict=True)]
    sources = [source for place in places for source in place.sources]
    offsets = np.cumsum([0, *(len(place.sources) for place in places[:-1])])
    members = [row + offset for row, offset in zip(rows, offsets, strict=True)]
    if orders == "matched":
        for k in reversed(range(len(places) - 1)):
            stacks[k] = align.match(stacks[k], stacks[k + 1], symmetry)
            members[k] = np.arange(len(rows[k])) + len(sources)
            sources += [dataclasses.replace(places[k].sources[row], order="matched") for row in rows[k]]
    elif orders == "all":
        if via:
            raise Mismatch("lines via other members start in one order of their units: not in all")
        every = list(align.every_order(symmetry))
        stacks[0] = concatenate([align.reorder(stacks[0], symmetry, order) for order in every])
        stacks[1], members[1] = concatenate([stacks[1]] * len(every)), np.tile(members[1], len(every))
        for number in range(1, len(every)):
            members[0] = np.concatenate([members[0], rows[0] + len(sources)])
            sources += [dataclasses.replace(source, order=f"order {number}") for source in start.sources]
    if keep_buffers:
        stacks = [dataclasses.replace(stack, buffers=stacks[0].buffers) for stack in stacks]
    lines: Paths = Polyline(tuple(stacks)) if via else Line(*stacks)
    between = np.stack(members[1:-1], axis=1) if via else None
    return Connection(lines, members[0], members[-1], tuple(sources), via_member=between)


def _pair(sizes: Sequence[int], pairing: Pairing) -> list[Int[np.ndarray, " line"]]:
    """For each place the member through which each line leads."""
    if pairing == "all":
        first, *between, last = sizes
        if max(between, default=1) > 1:
            raise Mismatch(
                f"each with each goes via single members, not {max(between)}: choose one with RUN/#seed, or --pairs "
                "matched"
            )
        single = [np.zeros(first * last, dtype=np.int64)] * len(between)
        return [np.tile(np.arange(first), last), *single, np.repeat(np.arange(last), first)]
    if len(several := dict.fromkeys(size for size in sizes if size > 1)) > 1:
        counts = " and ".join(f"{size} members" for size in several)
        raise Mismatch(f"{counts} do not pair: choose single ones with RUN/#seed, or --pairs all")
    lines = np.arange(max(sizes))
    return [lines if size > 1 else lines * 0 for size in sizes]


def partial(connection: Connection, parts: Mapping[str, frozenset[str]], *, hold: Hold = "start") -> Connection:
    """The straight lines of a connection once for each part of the network, with only that one moving."""
    assert isinstance(connection.lines, Line)
    return Connection(
        PartialLine(connection.lines, tuple(parts.values()), hold),
        np.tile(connection.from_member, len(parts)),
        np.tile(connection.to_member, len(parts)),
        connection.sources,
        moves=np.repeat(np.array(list(parts), dtype=object), len(connection)),
    )


def rays(start: Checkpoint, seeds: Sequence[int], *, normalise: Normalise = "filter") -> Connection:
    """Lines from each member of a checkpoint in a random direction for each seed, to alpha 1 as long as that is.

    Lines follow each other seed by seed, then member by member; what they lead to is a source for each seed.
    """
    members = len(start.stack)
    towards = [random_directions(start.stack.select([i]), seeds, normalise=normalise) for i in range(members)]
    sources = list(start.sources)
    for number, seed in enumerate(seeds):
        sha = fingerprint(concatenate([each.select([number]) for each in towards]).tensors)
        sources.append(Source(f"direction:{normalise}", None, seed, sha, f"direction {seed}"))
    i = np.repeat(np.arange(members), len(seeds))
    return Connection(
        Ray(start.stack.select(i.tolist()), concatenate(towards)),
        i,
        members + np.tile(np.arange(len(seeds)), members),
        tuple(sources),
    )
