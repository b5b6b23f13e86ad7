"""The walk engine: lines x alphas x objective -> curves, in blocks of whole lines, resumable."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from landscape import provenance
from landscape.allocator import keep_freed_memory
from landscape.chunks import Chunk
from landscape.curves import Curves, join
from landscape.errors import Mismatch, Unverified
from landscape.files import differences, digest, read_json, refuse_existing, write_json
from landscape.objective import Objective
from landscape.params import fingerprint
from landscape.paths import Paths, grid
from landscape.progress import Progress
from landscape.routes import Connection, Orders, Pairing, Route, prepare

__all__ = ["blocks", "computation", "walk", "walk_between", "walk_route", "walk_to_file"]

#: Points evaluated in one block of lines, and bytes of their parameters; at least one line.
_BLOCK_POINTS, _BLOCK_BYTES = 8192, 2**28

#: Ends of at most this many lines are re-evaluated by the plain module.
_CHECKED_LINES = 256

#: Tolerance of that check, relative to the loss (and absolute below a loss of 1e-2).
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def walk_route(
    route: Route,
    *,
    points: int = 51,
    span: tuple[float, float] = (0.0, 1.0),
    output: Path | None = None,
    force: bool = False,
    on_progress: Progress = lambda done, total: None,
    **settings: Any,
) -> Path:
    """Walk a route and write the curves to a file, `analyses/` and the route's name unless `output` is given.

    `settings` are those of `routes.prepare`: the problem, samples, device and element type. Raises what it raises.
    """
    prepared = prepare(route, **settings)
    path = output or Path("analyses") / f"{route.name}.h5"
    walk_to_file(
        path,
        prepared.objective,
        prepared.connection,
        grid(points, *span, segments=len(route.via) + 1),
        attributes=prepared.attributes,
        force=force,
        on_progress=on_progress,
    )
    return path


def walk_between(
    start: str, end: str, *, pairing: Pairing = "matched", orders: Orders = "stored", **options: Any
) -> Path:
    """`walk_route` along the straight lines between two places."""
    return walk_route(Route(start=start, end=end, pairing=pairing, orders=orders), **options)


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
        "path": type(connection.lines).__name__,
        "ends": [fingerprint({**stack.tensors, **stack.buffers}) for stack in connection.lines.stacks],
        "alpha": digest({"alpha": alphas}),
        "lines": len(connection),
        "objective": dict(attributes or {}),
        "computation": computation(objective),
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
    lines = connection.lines.to(objective.device, objective.dtype)
    lengths = [length.cpu().numpy() for length in connection.lines.lengths()]
    first_line, start = (torch.zeros(1, dtype=dtype, device=objective.device) for dtype in (torch.int64, torch.float64))
    objective.check_deterministic(lines.at(first_line, start))
    checked = np.linspace(0, len(lines) - 1, min(len(lines), _CHECKED_LINES)).astype(int)
    header = {
        **(attributes or {}),
        **computation(objective),
        "end_check": {"lines": len(checked), "relative_tolerance": TOLERANCE[objective.dtype]},
        **provenance.stamp(),
    }
    stack = lines.stacks[0]
    most = min(_BLOCK_POINTS, _BLOCK_BYTES // (stack.parameters * stack.dtype.itemsize))
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
            via_member=None if connection.via_member is None else connection.via_member[index],
            moves=None if connection.moves is None else connection.moves[index],
            sources=connection.sources,
            attributes=header,
        )


def _check_ends(
    objective: Objective,
    lines: Paths,
    line: int,
    alphas: Float[np.ndarray, " point"],
    loss: Float[np.ndarray, " point"],
) -> None:
    """Raise `Unverified` unless the walk's loss at both ends is the plain module's own."""
    tolerance = TOLERANCE[objective.dtype]
    for alpha, end in enumerate(lines.ends(line)):
        plain, walked = float(objective.plain(end)["loss"]), float(loss[alphas == alpha][0])
        if not np.isclose(walked, plain, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True):
            raise Unverified(
                f"line {line} does not reproduce its own end: the walk gives loss {walked:.9g} at alpha {alpha}, "
                f"the plain module {plain:.9g}. The {objective.network.backend} backend is wrong for this model: "
                "please report it"
            )


def computation(objective: Objective) -> dict[str, Any]:
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
