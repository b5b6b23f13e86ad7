"""What walks and slices share: points made when they are needed, the plain module as referee, how it was computed."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import Unverified
from landscape.engine.data import Stream
from landscape.engine.memory import Chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, concatenate
from landscape.space.family import Line

__all__ = ["Points", "as_before", "computation", "require_same", "streamed", "tolerance"]

#: How far a fast path may be from the plain module, relative to the loss (and absolute below a loss of 1e-2).
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
_AUTOCAST_TOLERANCE = 5e-2


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Points of a path or a plane, `at` their two coordinates, made a chunk at a time: never all are in memory.

    Of points on straight lines, number `first` at alpha `second`, `ends` holds all starts, then all ends.
    """

    at: Callable[[Tensor, Tensor], Stack]
    first: Tensor
    second: Tensor
    ends: Stack | None = None

    @classmethod
    def on(cls, lines: Line, which: Tensor, alphas: Tensor) -> "Points":
        """Points of straight lines."""
        return cls(lines.at, which, alphas, concatenate([lines.start, lines.end]))

    def between(self, values: Float[Tensor, "end *shape"], index: Int[Tensor, " point"]) -> Tensor:
        """At some points what is affine in the parameters, from its values at `ends`."""
        lines, alphas = self.first[index], self.second[index].to(values.dtype)
        if bool((lines == lines[0]).all()):
            lines = lines[:1]
        start, end = values[lines], values[lines + len(values) // 2]
        alphas = alphas.view(-1, *[1] * (values.ndim - 1))
        return ((1 - alphas) * start).addcmul_(alphas, end)

    def __len__(self) -> int:
        return len(self.first)

    def chunks(self, size: int) -> Iterator[Stack]:
        """Stacks of exactly `size` points; the last is filled up with its own last point."""
        for start in range(0, len(self), size):
            index = torch.arange(start, start + size, device=self.first.device).clamp_(max=len(self) - 1)
            yield self.at(self.first[index], self.second[index])


def streamed(objective: Objective) -> bool:
    """Whether the data is read batch by batch: then all points are evaluated together, and it is read once for all."""
    return isinstance(objective.data, Stream)


def computation(objective: Objective) -> dict[str, Any]:
    """How the numbers were computed: all that can change their rounding."""
    return {
        "device": objective.device.type,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "autocast": str(objective.autocast).removeprefix("torch.") if objective.autocast else None,
        "backend": objective.network.backend,
        "chunk": dataclasses.asdict(objective.chunk) if objective.chunk else None,
    }


def as_before(objective: Objective, recorded: Mapping[str, Any] | None) -> Objective:
    """The objective with backend and chunk of a computation that is to go on: both may depend on a measurement."""
    if not recorded:
        return objective
    chunk = Chunk(**recorded["chunk"])
    if objective.network.backend == recorded["backend"]:
        return dataclasses.replace(objective, chunk=chunk)
    return objective.with_backend(recorded["backend"], chunk)


def tolerance(objective: Objective) -> float:
    """Relative difference up to which the engine agrees with the plain module."""
    return _AUTOCAST_TOLERANCE if objective.autocast else _TOLERANCE[objective.dtype]


def require_same(objective: Objective, walked: float, plain: float, what: str, where: str) -> None:
    """Raise `Unverified`, naming `what` and `where`, unless the engine's loss is the plain module's own."""
    near = tolerance(objective)
    if not np.isclose(walked, plain, rtol=near, atol=near * 1e-2, equal_nan=True):
        raise Unverified(
            f"{what}: the walk gives loss {walked:.9g} {where}, the plain module {plain:.9g}. The "
            f"{objective.network.backend} backend is wrong for this model: try --backend loop, and please report it"
        )
