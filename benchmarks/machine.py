"""What this machine can do at most: products of matrices, and copies; and what a call asks of it."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclasses.dataclass(frozen=True)
class Machine:
    """Operations a second of products of matrices, by type, and bytes a second of a copy, read and written ones."""

    float32: float
    bfloat16: float
    copied: float

    def __str__(self) -> str:
        return (
            f"products {self.float32 / 1e9:.0f} GFLOP/s in float32, {self.bfloat16 / 1e9:.0f} in bfloat16; copies "
            f"{self.copied / 1e9:.1f} GB/s"
        )

    def seconds(self, operations: float, moved: float = 0) -> float:
        """The least that so many operations, and bytes read and written, can take, one after the other."""
        return operations / self.float32 + moved / self.copied


def _best(call: Callable[[], Any], times: int = 7) -> float:
    call()
    found = []
    for _ in range(times):
        start = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        call()
        found.append((time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()) - start)
    return min(found)


@functools.cache
def machine() -> Machine:
    """This machine, with as many threads as torch uses now."""
    square = torch.randn(1024, 1024)
    small = square.bfloat16()
    large, there = torch.zeros(2**25), torch.empty(2**25)
    work = 2 * 1024**3
    return Machine(
        work / _best(lambda: square @ square),
        work / _best(lambda: small @ small),
        2 * large.nbytes / _best(lambda: there.copy_(large)),
    )


def operations(call: Callable[[], Any]) -> float:
    """Operations of the products, convolutions and attention of a call, by their formulas, of nothing else; NaN for one
    that differentiates on the way, which torch's counter does not follow.
    """
    try:
        with FlopCounterMode(display=False) as counter:
            call()
    except RuntimeError:
        return math.nan
    return float(counter.get_total_flops())
