"""The walk engine: lines x alphas x objective -> curves, in blocks of whole lines, resumable."""

import dataclasses
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from landscape import align, provenance
from landscape.allocator import keep_freed_memory
from landscape.chunks import Chunk
from landscape.curves import Curves, Source, join
from landscape.errors import Mismatch, Unverified
from landscape.files import differences, digest, read_json, refuse_existing, write_json
from landscape.objective import Objective
from landscape.params import concatenate, fingerprint
from landscape.paths import Line, grid
from landscape.places import fitting, is_landmark, landmark, problem_of
from landscape.problem import Problem, Symmetry
from landscape.progress import Progress
from landscape.store import Checkpoint, load

__all__ = ["Connection", "Orders", "Pairing", "blocks", "connect", "walk", "walk_between", "walk_to_file"]

#: How members of two checkpoints become lines: member by member, or each with each.
Pairing = Literal["matched", "all"]

#: Order of the start's units: as stored, every equivalent one, or the one that lies closest to the end.
Orders = Literal["stored", "all", "matched"]

#: Points evaluated in one block of lines, and bytes of their parameters; at least one line.
_BLOCK_POINTS, _BLOCK_BYTES = 8192, 2**28

#: Ends of at most this many lines are re-evaluated by the plain module.
_CHECKED_LINES = 256

#: Tolerance of that check, relative to the loss (and absolute below a loss of 1e-2).
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


@dataclasses.dataclass(frozen=True, eq=False)
class Connection:
    """Lines with the table of members that they connect."""

    lines: Line
    from_member: np.ndarray
    to_member: np.ndarray
    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.lines)


def connect(
    start: Checkpoint,
    end: Checkpoint,
    *,
    pairing: Pairing = "matched",
    orders: Orders = "stored",
    symmetry: Symmetry = (),
) -> Connection:
    """Lines from the members of one checkpoint to those of another.

    `matched` pairs member with member, a single member with all. With `orders` `all` there is a line from every
    equivalent order of the start's units (few units only); with `matched` each start is reordered to lie close to its
    end. Raises `Mismatch` if the members do not pair.
    """
    n, m = len(start.stack), len(end.stack)
    if pairing == "all":
        i, j = np.tile(np.arange(n), m), np.repeat(np.arange(m), n)
    elif n == m or 1 in (n, m):
        lines = np.arange(max(n, m))
        i, j = lines if n > 1 else lines * 0, lines if m > 1 else lines * 0
    else:
        raise Mismatch(f"{n} members and {m} members do not pair: choose single ones with RUN/#seed, or --pairs all")
    starts, ends = start.stack.select(i.tolist()), end.stack.select(j.tolist())
    from_member, to_member, sources = i, j + n, [*start.sources, *end.sources]
    if orders == "matched":
        starts, from_member = align.match(starts, ends, symmetry), np.arange(len(i)) + len(sources)
        sources += [dataclasses.replace(start.sources[k], order="matched") for k in i]
    elif orders == "all":
        every = list(align.every_order(symmetry))
        starts = concatenate([align.reorder(starts, symmetry, order) for order in every])
        ends, to_member = concatenate([ends] * len(every)), np.tile(to_member, len(every))
        for number in range(1, len(every)):
            from_member = np.concatenate([from_member, i + len(sources)])
            sources += [dataclasses.replace(source, order=f"order {number}") for source in start.sources]
    return Connection(Line(starts, ends), from_member, to_member, tuple(sources))


def walk_between(
    start: str,
    end: str,
    *,
    problem: Problem | None = None,
    points: int = 51,
    span: tuple[float, float] = (0.0, 1.0),
    pairing: Pairing = "matched",
    orders: Orders = "stored",
    samples: int | None = None,
    sample_seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    output: Path | None = None,
    force: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Path:
    """Walk between two places, each a landmark's name or what `store.load` reads, and write the curves to a file.

    The problem is that of the checkpoints unless one is given. Raises `Unverified` for a landmark that does not solve
    it, `Mismatch` for a checkpoint of another architecture, `LandscapeError` for one that holds NaN.
    """
    loaded = {place: load(place) for place in (start, end) if not is_landmark(place)}
    problem = problem or problem_of(loaded)
    settings: dict[str, Any] = {"device": device, "dtype": dtype, "samples": samples, "seed": sample_seed}
    objective = problem.objective(**settings)
    ends = [
        fitting(problem, loaded[place]) if place in loaded else landmark(problem, place, **settings)
        for place in (start, end)
    ]
    landmarks = {place: problem.describe_landmark(place) for place in (start, end) if place not in loaded}
    connection = connect(*ends, pairing=pairing, orders=orders, symmetry=problem.symmetry())
    path = output or Path("analyses") / f"{_short(start)}--{_short(end)}.h5"
    attributes = {
        "problem": {"name": problem.name, "config": problem.config()},
        "title": problem.title(),
        "from": start,
        "to": end,
        "landmarks": landmarks,
        "orders": orders,
        "sampled": objective.sampled,
        "samples": objective.samples,
        "sample_seed": sample_seed if objective.sampled else None,
        "loss_unit": objective.unit,
    }
    alphas = grid(points, *span)
    walk_to_file(path, objective, connection, alphas, attributes=attributes, force=force, on_progress=on_progress)
    return path


def _short(place: str) -> str:
    """A place as part of a file name: `presolve-hat`, `first`, `first@0`, `first-7`."""
    *_, above, last = ["", *place.rstrip("/").split("/")]
    name = above + last if last.startswith(("@", "#")) else last
    return re.sub(r"[^\w.+=@-]+", "-", name).strip("-.") or "here"


def walk(
    objective: Objective,
    connection: Connection,
    alphas: Float[np.ndarray, " point"],
    *,
    attributes: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Curves:
    """Evaluate the objective at each alpha of each line; `attributes` are kept with the curves.

    Checked on the way: the objective gives the same numbers twice, and at the ends of lines it agrees with the plain
    module's own forward within `TOLERANCE` (up to 256 lines, evenly spaced). Raises `Unverified` otherwise.
    """
    parts = []
    for part in blocks(objective, connection, alphas, attributes=attributes):
        parts.append(part)
        on_progress(sum(map(len, parts)), len(connection))
    return join(parts)


def walk_to_file(
    path: Path,
    objective: Objective,
    connection: Connection,
    alphas: Float[np.ndarray, " point"],
    *,
    attributes: Mapping[str, Any] | None = None,
    force: bool = False,
    shard_seconds: float = 10.0,
    on_progress: Progress = lambda done, total: None,
) -> Curves:
    """`walk`, written to an HDF5 file.

    Long work keeps its finished lines in `FILE.parts/` every `shard_seconds`, and when it is interrupted. Walking again
    goes on from there with the same chunk sizes; raises `Mismatch`, saying what differs, if what is kept belongs to
    another walk. An existing file is replaced only with `force`.
    """
    refuse_existing(path, force=force)
    shards = _Shards(path.with_name(path.name + ".parts"))
    plan = {
        "ends": [fingerprint(side.tensors) for side in (connection.lines.start, connection.lines.end)],
        "alpha": digest({"alpha": alphas}),
        "lines": len(connection),
        "objective": dict(attributes or {}),
        "computation": _computation(objective),
    }
    finished = shards.open(plan, force=force)
    if finished:
        objective = dataclasses.replace(objective, chunk=Chunk(**finished[0].attributes["chunk"]))
    fresh: list[Curves] = []
    last_kept = time.monotonic()
    try:
        for part in blocks(objective, connection, alphas, attributes=attributes, first=sum(map(len, finished))):
            fresh.append(part)
            on_progress(sum(map(len, finished + fresh)), len(connection))
            if time.monotonic() - last_kept >= shard_seconds:
                kept = shards.keep(plan, sum(map(len, finished)), fresh)
                finished, fresh, last_kept = [*finished, kept], [], time.monotonic()
    except BaseException:
        if fresh:
            shards.keep(plan, sum(map(len, finished)), fresh)
        raise
    curves = join(finished + fresh)
    curves.write(path)
    shards.remove()
    return curves


def blocks(
    objective: Objective,
    connection: Connection,
    alphas: Float[np.ndarray, " point"],
    *,
    attributes: Mapping[str, Any] | None = None,
    first: int = 0,
) -> Iterator[Curves]:
    """The curves of consecutive lines from line `first` on, a block at a time."""
    keep_freed_memory()
    start, end = (side.to(objective.device, objective.dtype) for side in (connection.lines.start, connection.lines.end))
    lines = Line(start, end)
    lengths = [length.cpu().numpy() for length in connection.lines.lengths()]
    objective.check_deterministic(start.select(slice(0, 1)))
    checked = np.linspace(0, len(lines) - 1, min(len(lines), _CHECKED_LINES)).astype(int)
    header = {
        **(attributes or {}),
        **_computation(objective),
        "end_check": {"lines": len(checked), "relative_tolerance": TOLERANCE[objective.dtype]},
        **provenance.stamp(),
    }
    most = min(_BLOCK_POINTS, _BLOCK_BYTES // (start.parameters * start.dtype.itemsize))
    size = max(1, most // len(alphas))
    for begin in range(first, len(lines), size):
        index = np.arange(begin, min(begin + size, len(lines)))
        which = torch.as_tensor(index, device=objective.device).repeat_interleave(len(alphas))
        along = torch.as_tensor(alphas, device=objective.device).repeat(len(index))
        flat = objective(lines.at(which, along))
        values = {name: value.view(len(index), -1).cpu().numpy() for name, value in flat.items()}
        for line in np.intersect1d(index, checked):
            _check_ends(objective, lines, int(line), alphas, values["loss"][line - begin])
        yield Curves(
            alpha=alphas,
            values=values,
            done=np.ones(len(index), dtype=bool),
            l1=lengths[0][index],
            l2=lengths[1][index],
            from_member=connection.from_member[index],
            to_member=connection.to_member[index],
            sources=connection.sources,
            attributes=header,
        )


def _check_ends(
    objective: Objective, lines: Line, line: int, alphas: Float[np.ndarray, " point"], loss: Float[np.ndarray, " point"]
) -> None:
    """Raise `Unverified` unless the walk's loss at both ends is the plain module's own."""
    tolerance = TOLERANCE[objective.dtype]
    for alpha, stack in ((0, lines.start), (1, lines.end)):
        plain, walked = float(objective.plain(stack.state_dict(line))["loss"]), float(loss[alphas == alpha][0])
        if not np.isclose(walked, plain, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True):
            raise Unverified(
                f"line {line} does not reproduce its own end: the walk gives loss {walked:.9g} at alpha {alpha}, "
                f"the plain module {plain:.9g}. The {objective.network.backend} backend is wrong for this model: "
                "please report it"
            )


def _computation(objective: Objective) -> dict[str, Any]:
    """How the numbers were computed: all that can change their rounding."""
    return {
        "device": objective.device.type,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "backend": objective.network.backend,
        "chunk": dataclasses.asdict(objective.chunk) if objective.chunk else None,
    }


@dataclasses.dataclass(frozen=True)
class _Shards:
    """Finished lines of an unfinished walk: a directory with its plan and files of consecutive lines."""

    path: Path

    def open(self, plan: Mapping[str, Any], *, force: bool) -> list[Curves]:
        """What is kept, from the first line on, if it belongs to this plan; nothing if there is no directory."""
        if not (self.path / "plan.json").exists():
            return []
        there = read_json(self.path / "plan.json")
        if force and differences(there, plan):
            self.remove()
            return []
        if different := differences(there, plan):
            raise Mismatch(
                f"{self.path} keeps lines of another walk: {different}. Repeat that walk, choose another output "
                "with -o, or start anew with --force"
            )
        shards: list[Curves] = []
        while (file := self._file(sum(map(len, shards)))).exists():
            shards.append(Curves.read(file))
        return shards

    def keep(self, plan: Mapping[str, Any], first: int, lines: list[Curves]) -> Curves:
        """Write lines that begin with line `first`."""
        if not (self.path / "plan.json").exists():
            write_json(self.path / "plan.json", plan)
        shard = join(lines)
        shard.write(self._file(first))
        return shard

    def remove(self) -> None:
        """Forget all."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def _file(self, first: int) -> Path:
        return self.path / f"lines-{first:08d}.h5"
