"""The compiled loops (`--engine fused`, extra `fast`) beside the stacked engine on Life, in one run.

Processor time of a point, and of a seed-step of training, in microseconds, the lowest of some repeats in turns, so that
other work on the machine tells little; with `--threads N` wall time of N threads, on a quiet machine. `limit` is the
share of the machine's rate (that of a product of 1024 x 1024 in the same type) at which the layers' own additions and
products are done, exp and log not counted. `two threads` is by how much these are faster than one, by wall time.
`--smoke` is small.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from landscape.core.errors import Unsupported
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.training.plan import planned
from landscape.training.train import AnyTrainer
from landscape.training.train import _trainer as trained_by

# numba imports a module `coverage` if there is one, and in this folder there is one, of another kind.
sys.path[:] = [folder for folder in sys.path if folder != str(Path(__file__).parent)]


def lowest(functions: list[Callable[[], object]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """The least time of each function, called in turns."""
    found = [float("inf")] * len(functions)
    for _ in range(repeats):
        for place, function in enumerate(functions):
            start = clock()
            function()
            found[place] = min(found[place], clock() - start)
    return found


def training(problem: Life, data: str, dtype: str, members: int, repeats: int, clock: Callable[[], float]) -> str:
    """A row of the table of training: steps of Adam of a run as `landscape train` makes them, without its files."""
    how: dict[str, Any] = {"batches": 100, "data": data, "dtype": dtype}
    plan = planned(problem, how, range(members))
    slow, fast = (trained_by(plan, engine, {}, 1) for engine in ("stacked", "fused"))
    few = range(4)  # soon done, while another core is free
    steps = range(20) if data == "exact" else few

    def go(trainer: AnyTrainer, threads: int, steps: range = steps) -> None:
        torch.set_num_threads(threads)
        for first in range(0, len(steps), trainer.at_once):
            trainer.advance(steps[first : first + trainer.at_once], with_loss=False)

    threads = torch.get_num_threads()
    go(fast, 1)  # compiled
    times = lowest([lambda: go(slow, threads), lambda: go(fast, threads)], repeats, clock)
    one, two = lowest([lambda: go(fast, 1, few), lambda: go(fast, 2, few)], 10 * repeats, time.perf_counter)
    torch.set_num_threads(threads)
    slow_us, fast_us = (1e6 * each / members / len(steps) for each in times)
    what = f"{problem.steps} | {problem.m_factor} | {data} | {dtype}"
    return f"| {what} | {slow_us:.1f} | {fast_us:.2f} | {slow_us / fast_us:.1f} | {one / two:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Small and once: does it run?")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    repeats, members = (1, 50) if given.smoke else (10, 20_000)
    print("| m | type | stacked, us | fused, us | ratio | limit | first call, s |")
    print("|---|---|---|---|---|---|---|")
    for m in (1, 4, 10):
        for dtype in (torch.float32, torch.float64):
            problem, count = Life(m_factor=m), members // m
            stacked = problem.objective(dtype=dtype)
            start = time.perf_counter()
            try:
                fused = stacked.with_fused()
            except Unsupported as error:  # numba is an extra
                print(error)
                return
            first = time.perf_counter() - start
            stack = initialise(problem.network(), range(count)).to(dtype)
            square = torch.randn(1024, 1024, dtype=dtype)
            calls = [lambda s=stacked, x=stack: s(x), lambda f=fused, x=stack: f(x), lambda a=square: a @ a]
            slow, fast, product = lowest(calls, repeats, clock)
            operations = 512 * (2 * m * (1 + 1 + 2 * m) + m * (1 + 2))  # doubling, slope, second layer; slope, third
            limit = operations / (2 * 1024**3 / product) / (fast / count)
            times = f"{1e6 * slow / count:.2f} | {1e6 * fast / count:.2f} | {slow / fast:.1f} | {limit:.0%}"
            print(f"| {m} | {str(dtype).removeprefix('torch.')} | {times} | {first:.2f} |", flush=True)
    print("\n| steps | m | data | type | stacked, us | fused, us | ratio | two threads |")
    print("|---|---|---|---|---|---|---|---|")
    for m in (1, 4, 10):
        for data, dtype in (("exact", "float32"), ("exact", "float64"), ("batches", "float32")):
            print(training(Life(m_factor=m), data, dtype, max(4, members // m // 10), repeats, clock), flush=True)
    for steps, m in ((2, 1), (2, 4), (2, 10), (2, 40), (3, 10)):
        problem = Life(steps=steps, m_factor=m)
        for dtype in ("float32", "float64")[: 2 if m == 10 else 1]:
            print(training(problem, "batches", dtype, max(4, members // 1000), repeats, clock), flush=True)


if __name__ == "__main__":
    main()
