"""The walk engine: lines x alphas x objective -> curves, in blocks of whole lines, resumable."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core import provenance
from landscape.core.files import digest, refuse_existing
from landscape.core.unfinished import Progress, Shards
from landscape.engine.memory import keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import fingerprint, in_order, stack_state_dicts
from landscape.evaluation.evaluate import Points, as_before, computation, require_same, streamed, tolerance
from landscape.evaluation.routes import Connection, Orders, Pairing, Route, prepare
from landscape.space.family import Line, Paths, grid
from landscape.store.curves import Curves, join

__all__ = ["blocks", "walk", "walk_between", "walk_route", "walk_to_file"]

#: Points evaluated in one block of lines, and bytes of their parameters; at least one line.
_BLOCK_POINTS, _BLOCK_BYTES = 8192, 2**28

#: Bytes of a block's parameters up to which its points are made together, which costs small networks least.
_LAZY_BYTES = 2**22

#: Ends of at most this many lines are re-evaluated by the plain module.
_CHECKED_LINES = 256


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
    path = output or Path("analyses") / f"{route.name}.h5"
    refuse_existing(path, force=force)
    prepared = prepare(route, **settings)
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
    module's own forward within a tolerance (up to 256 lines, evenly spaced). Raises `Unverified` otherwise.
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
    shards = Shards(path.with_name(path.name + ".parts"), unit="lines", read=Curves.read, join=join)
    objective = as_before(objective, shards.recorded())
    plan = {
        "ends": [fingerprint({**stack.tensors, **stack.buffers}) for stack in connection.lines.stacks],
        "path": type(connection.lines).__name__,
        "alpha": digest({"alpha": alphas}),
        "lines": len(connection),
        "objective": dict(attributes or {}),
        "computation": computation(objective),
    }

    def go_on(finished: Sequence[Curves]) -> Iterator[Curves]:
        return blocks(objective, connection, alphas, attributes=attributes, first=sum(map(len, finished)))

    curves = shards.gather(
        plan, go_on, total=len(connection), force=force, seconds=shard_seconds, on_progress=on_progress
    )
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
    stamp = provenance.stamp()
    end_check = {"lines": len(checked), "relative_tolerance": tolerance(objective)}
    stack = lines.stacks[0]
    most = min(_BLOCK_POINTS, _BLOCK_BYTES // (stack.parameters * stack.dtype.itemsize))
    size = len(lines) if streamed(objective) else max(1, most // len(alphas))
    # Points of large networks are made a chunk at a time, in the cache.
    lazy = (
        streamed(objective)
        or objective.network.entrance is not None
        or stack.parameters * stack.dtype.itemsize * size * len(alphas) > _LAZY_BYTES
    )
    for begin in range(first, len(lines), size):
        index = np.arange(begin, min(begin + size, len(lines)))
        which = torch.as_tensor(index, device=objective.device).repeat_interleave(len(alphas))
        along = torch.as_tensor(alphas, device=objective.device).repeat(len(index))
        flat = objective(_points(lines, which, along) if lazy else lines.at(which, along))
        values = {name: value.view(len(index), -1).cpu().numpy() for name, value in flat.items()}
        _check_ends(objective, lines, np.intersect1d(index, checked).tolist(), alphas, begin, values["loss"])
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
            attributes={**(attributes or {}), **computation(objective), "end_check": end_check, **stamp},
        )


def _points(lines: Paths, which: Tensor, along: Tensor) -> Points:
    """Points that are made when they are needed."""
    return Points.on(lines, which, along) if isinstance(lines, Line) else Points(lines.at, which, along)


def _check_ends(
    objective: Objective, lines: Paths, checked: Sequence[int], alphas: np.ndarray, first: int, loss: Any
) -> None:
    """Raise `Unverified` unless the walk's losses at both ends are the plain module's own: `loss` of the lines from
    line `first` on.
    """
    ends = [end for line in checked for end in lines.ends(line)]
    if not ends:
        return
    plain = objective.plain(in_order(stack_state_dicts(ends), objective.network.template))["loss"].view(-1, 2).tolist()
    for line, both in zip(checked, plain, strict=True):
        for alpha, end in enumerate(both):
            walked = float(loss[line - first][alphas == alpha][0])
            require_same(objective, walked, end, f"line {line} does not reproduce its own end", f"at alpha {alpha}")
