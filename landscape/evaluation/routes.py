"""Routes: which lines, by the places that they connect, and the lines with the members at their ends."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, few
from landscape.core.fields import check, option, require_seeds
from landscape.core.provenance import Source
from landscape.core.resources import announced, require_memory
from landscape.engine.plain import AnyObjective
from landscape.engine.program.layers import has_statistics
from landscape.engine.spectral import spectral_norms
from landscape.engine.stack import Stack, aliases, concatenate, fingerprint
from landscape.evaluation.evaluate import evaluate
from landscape.evaluation.representatives import Aligner
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import Place, checkpoint_at, fitting, is_landmark, label_of, landmark, problem_of, short
from landscape.problems.registry import chosen
from landscape.space.directions import Normalise, random_directions
from landscape.space.family import Family, Hold, line, partial, polyline, ray, slerp
from landscape.space.groups import Per, frozen, matching, split
from landscape.space.symmetry import Symmetry, every_order, reorder
from landscape.store.checkpoints import Checkpoint, Run
from landscape.store.results import Result

__all__ = [
    "Lines",
    "Order",
    "Pairs",
    "Path",
    "Prepared",
    "Route",
    "along",
    "buffers_between",
    "connect",
    "networks",
    "parts",
    "prepare",
    "rays",
    "with_statistics",
]

#: Ends of names of what normalisations keep of the data they have seen.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

#: Bytes of memory that a line takes whatever its points are: its ends, lengths and what else is known of it.
_LINE_BYTES = 128

#: Copies of a random direction while it is made, in its type and in float64, and bytes of what is said of one.
_DIRECTION_COPIES, _SOURCE_BYTES = 6, 1000

_log = logging.getLogger("landscape")

#: How members of checkpoints become lines: member by member, or each with each.
Pairs = Literal["matched", "all"]

#: How a line goes from its start to its end: straight, or with each tensor turning evenly.
Path = Literal["straight", "slerp"]

#: Order of the start's units: as stored, or every equivalent one.
Order = Literal["stored", "all"]

#: Chooses for each pair of a member of one stack and one of another a representative of the first, close to the second.
Align = Callable[[Stack, Stack, Int[np.ndarray, "2 pair"]], Stack]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """Which lines to walk, from place `a` to place `b`: landmarks, checkpoints, or networks themselves.

    Lines go straight through the places `via`, in their order, or on arcs to `b` (`path`). With `only`, glob patterns,
    the tensors that they match move and the rest is held at one end (`hold`); with `per` there is a line for each part
    of the network, on which only that one moves, after the full line. With `rays`, seeds, lines lead from `a` in random
    directions (`normalise`) to no other place. Raises `LandscapeError` for options that do not go together.
    """

    a: Place = option(dataclasses.MISSING, "Where the lines begin.", flag="from", metavar="PLACE")
    b: Place | None = option(None, "Where the lines end.", flag="to", metavar="PLACE")
    via: tuple[Place, ...] = option((), "Lead the lines straight through this place, too. Repeatable.", metavar="PLACE")
    path: Path = option(
        "straight",
        "How lines lead there: straight, or with each tensor on the arc from its start to its end (slerp).",
    )
    rays: tuple[int, ...] = option(
        (), "In place of `b`: random directions, such as 0:10, a line a seed.", syntax="seeds", metavar="SEEDS"
    )
    normalise: Normalise = option(
        "filter", "Length of random directions: that of each filter of the start, of each layer, or as drawn."
    )
    all_parameters: bool = option(False, "Random directions move frozen parameters (requires_grad=False) too.")
    pairs: Pairs = option(
        "matched",
        "Member by member (a single one with all), or each with each, of a place with itself each two members once.",
    )
    order: Order = option(
        "stored",
        "Order of the start's filters: as stored, or a line from every equivalent one, where they are few.",
        flag="filter-order",
    )
    align: bool = option(
        False,
        "Beside each line one to that network which computes the same as its end, with its units in another order, and "
        "with other scales and signs where these make no difference, and lies close to the start.",
    )
    only: tuple[str, ...] = option(
        (),
        "Let only these tensors move, such as 'layer4.*'; with the BatchNorm statistics of their modules. Repeatable.",
        metavar="PATTERN",
    )
    per: Per | None = option(
        None,
        "Beside the full line one for each layer, or each module at the top, on which only that one moves.",
    )
    hold: Hold = option("start", "Where the rest is held with `only` and `per`.")

    def __post_init__(self) -> None:
        check(self)
        require_seeds(*self.rays, name="rays")
        one_way = self.via or self.only or self.per or self.order != "stored" or self.align or self.pairs != "matched"
        checks = {
            "lines need an end: name it with `b`, or random directions with `rays`": self.b is None and not self.rays,
            "`rays` lead from the start to no other place: leave `b` out, or `rays`": self.rays and self.b is not None,
            '`path="slerp"` leads from one place to another: leave `via` and `rays` out': self.path != "straight"
            and (self.via or self.rays),
            "`rays` go straight from each start: leave `via`, `only`, `per`, `pairs`, `order` and `align` out": bool(
                self.rays and one_way
            ),
            "`normalise` is for random directions: give them with `rays`": self.normalise != "filter" and not self.rays,
            "`all_parameters` is for random directions: give them with `rays`": self.all_parameters and not self.rays,
            "`only` and `per` both say what moves: leave one of them out": self.only and self.per,
            "`hold` says where the rest is held: name what moves with `only` or `per`": self.hold != "start"
            and not (self.only or self.per),
            "with `via` everything moves: leave `only` and `per` out": self.via and (self.only or self.per),
            "`via` goes with the `order` stored, not with all": self.via and self.order == "all",
            '`align` chooses one order, `order="all"` takes all: leave one of them out': self.align
            and self.order == "all",
        }
        for message, wrong in checks.items():
            if wrong:
                raise LandscapeError(message)

    @property
    def places(self) -> tuple[Place, ...]:
        """All places of the route, in its order."""
        return self.a, *self.via, *([] if self.b is None else [self.b])

    @property
    def name(self) -> str:
        """The route as a file name, without an ending."""
        what = [f"per-{self.per}"] if self.per else ["only", *map(short, self.only)] if self.only else []
        what = [f"rays-{self.normalise}"] if self.rays else what
        what += [self.path] if self.path != "straight" else []
        what += ["aligned"] if self.align else []
        held = ["hold-end"] if self.hold == "end" else []
        return "-".join(["--".join(short(label_of(place)) for place in self.places), *what, *held])

    def about(self) -> dict[str, Any]:
        """What curves along the route say of it; options that were not used are left out."""
        end = None if self.b is None else label_of(self.b)
        said: dict[str, Any] = {"from": label_of(self.a), "to": end, "orders": self.order}
        if self.rays:
            said["normalise"] = self.normalise
        if self.path != "straight":
            said["path"] = self.path
        if self.via:
            said["via"] = list(map(label_of, self.via))
        if self.only or self.per:
            said |= {"only": list(self.only)} if self.only else {"per": self.per}
            said["hold"] = self.hold
        return said


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """Lines with the table of members that they connect.

    `columns` are those of a `Result`: `from_member` and `to_member`, rows of `sources`; `via_member`, those in between
    in order; `moves`, which names what moves on each line and is empty if all does; `aligned`, whether the line leads
    to representatives that were chosen.
    """

    family: Family
    columns: Mapping[str, np.ndarray]
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.family)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a route leads to: its problem's objective, its lines, and what the curves along them say of both."""

    problem: Problem
    compute: Compute
    objective: AnyObjective
    lines: Lines
    about: Mapping[str, Any]


def prepare(
    route: Route,
    compute: Compute,
    *,
    problem: Problem | str | None = None,
    room: Callable[[int], None] = lambda count: None,
) -> Prepared:
    """Load the places of a route and connect their members; the problem is that of the checkpoints unless given. `room`
    is called with the number of pairs before there is a table of them, and may raise `TooMuch`.

    With `batchnorm="keep"` each line has its start's statistics everywhere. Raises `Unverified` for a landmark that
    does not solve the problem, `Mismatch` for a checkpoint of another architecture, members that do not pair or a
    pattern that matches nothing, `LandscapeError` for parameters that are NaN.
    """
    problem, places = networks(route.places, compute, problem, only=route.only)
    symmetry = problem.symmetry() if route.order == "all" else Symmetry()
    if route.order != "stored" and not symmetry:
        why = f" ({symmetry.refused[0]})" if symmetry.refused else ""
        raise LandscapeError(
            f"no symmetry of {problem.title()} is known{why}, so its units have no other order: leave `order` out"
        )
    network = problem.prototype
    aligner = Aligner.of(problem, compute) if route.align else None
    lines = _lines(route, places, symmetry, aligner, network, room, keep=compute.batchnorm == "keep")
    objective = compute.objective(problem)
    family = lines.family
    states = [
        {name: tensor[rows] for name, tensor in vertex.buffers.items()}
        for vertex, rows in zip(family.vertices, family.rows, strict=True)
    ]
    about = {**compute.describe(problem, objective), **_named(problem, route)}
    about |= buffers_between(states, network, moving=frozenset().union(*family.moving) if family.moving else None)
    about |= {"align": aligner.about()} if aligner is not None else {}
    return Prepared(problem, compute, objective, lines, about)


def buffers_between(
    states: Sequence[Mapping[str, Tensor]],
    network: nn.Module,
    *,
    moving: Collection[str] | None = None,
    fate: str = "interpolated",
) -> dict[str, Any]:
    """What a result says of buffers of real numbers that differ between networks and are no statistics of BatchNorm,
    what is logged of it: their `fate`, that of parameters unless told, and that singular vectors of spectral norms are
    found anew. Empty where none differ.
    """
    first, *others = states
    every = {name: [other[name] for other in others if name in other] for name in first}
    statistics = {
        f"{name}.{key}" if name else key
        for name, layer in network.named_modules()
        if has_statistics(layer)
        for key in ("running_mean", "running_var")
    }
    differ = [
        name
        for name, values in every.items()
        if (first[name].is_floating_point() or first[name].is_complex())
        and name not in statistics
        and (moving is None or name in moving)
        and not all(torch.equal(value, first[name]) for value in values)
    ]
    vectors = {name for each in spectral_norms(network) for name in (each.u, each.v)}
    found = {fate: [n for n in differ if n not in vectors], "found anew": [n for n in differ if n in vectors]}
    if rest := found[fate]:
        _log.warning("buffers differ between the networks and are %s: %s", fate, few(rest))
    if anew := found["found anew"]:
        _log.info("singular vectors of spectral norms are found anew wherever a weight is mixed: %s", few(anew))
    return {"buffers": {key: names for key, names in found.items() if names}} if differ else {}


def with_statistics(stack: Stack, of: Mapping[str, Tensor]) -> Stack:
    """A stack with the running statistics of others' buffers."""
    kept = {name: tensor for name, tensor in of.items() if name.endswith(_STATISTICS)}
    return dataclasses.replace(stack, buffers={**stack.buffers, **kept})


def networks(
    places: Sequence[Place],
    compute: Compute,
    problem: Problem | str | None,
    *,
    only: Sequence[str] = (),
    finite: bool = True,
) -> tuple[Problem, list[Checkpoint]]:
    """The problem, that of the checkpoints unless given (also by its name), and the members at each place, in its
    network's order, `finite` unless that does not matter; with `only`, tensors that it leaves out may have other
    shapes, and where statistics of BatchNorm are estimated anew, checkpoints may lack them.
    """
    problem = None if problem is None else chosen(problem)
    loaded = [checkpoint_at(place) for place in places]
    named = {label_of(place): found for place, found in zip(places, loaded, strict=True) if found is not None}
    trained_on = (place.trained_on for place in places if isinstance(place, Run))
    lost = list(dict.fromkeys(label_of(place) for place, found in zip(places, loaded, strict=True) if found is None))
    problem = problem or next((each for each in trained_on if each is not None), None) or problem_of(named, lost)
    read = compute.batchnorm in ("interpolate", "keep")
    return problem, [
        landmark(problem, str(place), **compute.drawn)
        if found is None
        else fitting(problem, found, finite=finite, only=only, statistics=read)
        for place, found in zip(places, loaded, strict=True)
    ]


def along(objective: AnyObjective, lines: Lines, alphas: np.ndarray, **options: Any) -> Result:
    """`evaluate` on lines: at each of the `alphas` of each."""
    axes = {"line": np.arange(len(lines)), "alpha": alphas}
    return evaluate(objective, lines.family, axes, columns=lines.columns, sources=lines.sources, **options)


def _named(problem: Problem, route: Route) -> dict[str, Any]:
    names = [label_of(place) for place in route.places if is_landmark(place)]
    return {**route.about(), "landmarks": {name: problem.describe_landmark(name) for name in names}}


def _lines(
    route: Route,
    places: Sequence[Checkpoint],
    symmetry: Symmetry,
    align: Align | None,
    network: nn.Module,
    room: Callable[[int], None],
    *,
    keep: bool,
) -> Lines:
    """The lines of a route through its places; with `keep` they have their starts' buffers."""
    if route.rays:
        still = frozen(network, taken=route.all_parameters)
        return rays(places[0], route.rays, normalise=route.normalise, still=still)
    start, *via, end = places
    lines = connect(
        start,
        end,
        via=via,
        path=route.path,
        pairs=route.pairs,
        order=route.order,
        symmetry=symmetry,
        align=align,
        keep_statistics=keep,
        room=room,
    )
    if route.only:
        names = matching(start.stack, route.only, aliases=aliases(network))
        return parts(lines, {", ".join(route.only): names}, hold=route.hold)
    if route.per:
        everything = frozenset([*start.stack.tensors, *start.stack.buffers])
        return parts(lines, {"": everything, **split(start.stack, route.per)}, hold=route.hold)
    return lines


def connect(
    start: Checkpoint,
    end: Checkpoint,
    *,
    via: Sequence[Checkpoint] = (),
    path: Path = "straight",
    pairs: Pairs = "matched",
    order: Order = "stored",
    symmetry: Symmetry = Symmetry(),  # noqa: B008
    align: Align | None = None,
    keep_statistics: bool = False,
    room: Callable[[int], None] = lambda count: None,
) -> Lines:
    """Lines from the members of one checkpoint to those of another, straight, on arcs, or `via` those of others.

    `matched` pairs member with member, a single member with all; `all` each with each, of a place with itself each two
    members once. With the `order` all there is a line from every equivalent order of the start's units (few units only,
    straight lines only). With `align` all lines follow once more to representatives: that of each member after the
    start lies close to the one before it on the line. With
    `keep_statistics` those of a line's start are those of all its points. Raises `Mismatch` if the members do not
    pair.
    """
    places = [start, *via, end]
    itself = pairs == "all" and _same(start, end)
    rows = _pair([len(place.stack) for place in places], pairs, room, itself=itself)
    stacks = [place.stack for place in places]
    tables = [place.sources for place in (places[:-1] if itself else places)]
    sources = [source for table in tables for source in table]
    offsets = np.cumsum([0, *map(len, tables)])[: len(places)]
    offsets[-1] *= not itself  # a member stands there once
    members = [row + offset for row, offset in zip(rows, offsets, strict=True)]
    if align is not None:
        lines = len(rows[0])
        for k in range(1, len(places)):
            each = np.stack([rows[k][:lines], rows[k - 1][-lines:]])
            moved = align(stacks[k], stacks[k - 1], each)
            rows[k] = np.append(rows[k], np.arange(lines) + len(stacks[k]))
            stacks[k] = concatenate([stacks[k], moved])
            members[k] = np.append(members[k], np.arange(lines) + len(sources))
            sources += [dataclasses.replace(places[k].sources[row], order="aligned") for row in each[0]]
        rows[0], members[0] = np.tile(rows[0], 2), np.tile(members[0], 2)
    elif order == "all":
        if via:
            raise Mismatch("lines via other members start in one order of their units: not in all")
        every = list(every_order(symmetry))
        count = len(stacks[0])
        stacks[0] = concatenate([reorder(stacks[0], symmetry, each) for each in every])
        members[0] = np.concatenate(
            [members[0], *(rows[0] + len(sources) + count * number for number in range(len(every) - 1))]
        )
        sources += [
            dataclasses.replace(source, order=f"order {number}")
            for number in range(1, len(every))
            for source in start.sources
        ]
        rows[0] = np.concatenate([rows[0] + count * number for number in range(len(every))])
        members[1], rows[1] = (np.tile(each[1], len(every)) for each in (members, rows))
    if keep_statistics:
        buffers = stacks[0].select(rows[0].tolist()).buffers
        stacks = [with_statistics(stack.select(row.tolist()), buffers) for stack, row in zip(stacks, rows, strict=True)]
        rows = [np.arange(len(rows[0]))] * len(rows)
    table = torch.from_numpy(np.stack(rows)).to(stacks[0].device)
    family = polyline(stacks, table) if via else (line if path == "straight" else slerp)(stacks[0], stacks[1], table)
    family = dataclasses.replace(family, mapped=tuple(file for place in places for file in place.mapped))
    columns = {"from_member": members[0], "to_member": members[-1]}
    if via:
        columns["via_member"] = np.stack(members[1:-1], axis=1)
    if align is not None:
        columns["aligned"] = np.repeat([False, True], len(rows[0]) // 2)
    return Lines(family, columns, tuple(sources))


def _same(start: Checkpoint, end: Checkpoint) -> bool:
    """Whether two places have the same members, however they are called."""
    one, other = ({**each.stack.tensors, **each.stack.buffers} for each in (start, end))
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _require_table(lines: int) -> None:
    """Raise `LandscapeError` if even the list of lines, with what is said of each, does not fit in memory."""
    instead = "choose fewer members with RUN/#seed, or walk a part of them at a time"
    require_memory(lines * _LINE_BYTES, f"{lines:,} lines", instead)


def _pair(
    sizes: Sequence[int], pairs: Pairs, room: Callable[[int], None] = lambda count: None, *, itself: bool = False
) -> list[Int[np.ndarray, " line"]]:
    """For each place the member through which each line leads; where the last place is the first `itself`, of each two
    members the later is an end.
    """
    if pairs == "all":
        first, *between, last = sizes
        count = first * (first - 1) // 2 if itself else first * last
        room(count)
        _require_table(count)
        if not count:
            raise Mismatch("a place of one member has no pairs with itself: choose a run with several")
        if max(between, default=1) > 1:
            raise Mismatch(
                f"each with each goes via single members, not {max(between)}: choose one with RUN/#seed, or "
                '`pairs="matched"`'
            )
        single = [np.zeros(count, dtype=np.int64)] * len(between)
        if itself:
            later, earlier = np.tril_indices(first, -1)
            return [earlier, *single, later]
        return [np.tile(np.arange(first), last), *single, np.repeat(np.arange(last), first)]
    if len(several := dict.fromkeys(size for size in sizes if size > 1)) > 1:
        counts = " and ".join(f"{size} members" for size in several)
        raise Mismatch(f'{counts} do not pair: choose single ones with RUN/#seed, or `pairs="all"`')
    lines = np.arange(max(sizes))
    return [lines if size > 1 else lines * 0 for size in sizes]


def parts(lines: Lines, moving: Mapping[str, frozenset[str]], *, hold: Hold = "start") -> Lines:
    """Lines once for each part of the network, by name, with only that one moving."""
    columns = {name: np.tile(column, len(moving)) for name, column in lines.columns.items()}
    columns["moves"] = np.repeat(np.array(list(moving), dtype=object), len(lines))
    return Lines(partial(lines.family, tuple(moving.values()), hold), columns, lines.sources)


def rays(
    start: Checkpoint, seeds: Sequence[int], *, normalise: Normalise = "filter", still: Collection[str] = ()
) -> Lines:
    """Lines from each member of a checkpoint in a random direction for each seed, to alpha 1 as long as that is.

    Lines follow each other seed by seed, then member by member; what they lead to is a source for each seed.
    """
    members = len(start.stack)
    lines, parameters = members * len(seeds), start.stack.parameters
    size = lines * (_LINE_BYTES + _DIRECTION_COPIES * parameters * start.stack.dtype.itemsize)
    require_memory(size + len(seeds) * _SOURCE_BYTES, f"{lines:,} random directions", "take fewer of them at a time")
    towards = [
        random_directions(start.stack.select([i]), seeds, normalise=normalise, still=still) for i in range(members)
    ]
    sources = list(start.sources)
    tell = announced("random directions are numbered and signed", len(seeds))
    for number, seed in enumerate(seeds):
        tell(number)
        sha = fingerprint(concatenate([each.select([number]) for each in towards]).tensors)
        sources.append(Source(f"direction:{normalise}", None, seed, sha, f"direction {seed}"))
    i, k = np.repeat(np.arange(members), len(seeds)), np.arange(members * len(seeds))
    directions: Stack = concatenate(towards)
    family = ray(start.stack, directions, torch.from_numpy(np.stack([i, k])).to(start.stack.device))
    family = dataclasses.replace(family, mapped=start.mapped)
    return Lines(
        family, {"from_member": i, "to_member": members + np.tile(np.arange(len(seeds)), members)}, tuple(sources)
    )
