"""What engines beyond one process cost and bring: workers, submitit's processes and Dask.

Prints two tables in Markdown: seconds until an engine is there and of small tasks that do nothing, and how many times
as fast two workers are as one, each with one thread, in runs that take turns. Run it with nothing else on the machine,
as `python -m benchmarks.engines`. `--smoke` does little of it, in a minute.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import engines
from landscape.core.clusters import opened
from landscape.core.errors import LandscapeError
from landscape.core.workers import Call, Crew, Perform, Tell


def nothing() -> None:
    """A small task."""


def serving() -> Perform:
    """What a worker does for one."""

    def perform(task: int, tell: Tell) -> Iterator[tuple[Any, None]]:
        yield task, None

    return perform


def of_workers(count: int, workers: int) -> tuple[float, float]:
    """Seconds of a crew until its first answer, and of the other tasks."""
    start = time.perf_counter()
    with Crew(Call(engines.serving, {}), workers=workers, threads=1) as crew:
        answers = crew.perform(iter(range(count)), str)
        next(answers)
        first = time.perf_counter()
        rest = sum(1 for _ in answers)
        assert rest == count - 1
        return first - start, time.perf_counter() - first


def of_cluster(on: Any, count: int, workers: int) -> tuple[float, float]:
    """Those of a cluster."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cluster = opened(on, Path(folder), processors=1, minutes=60, at_once=workers, address=None, options={})
        try:
            cluster.submit(dict.fromkeys(range(count), nothing))
            ends = cluster.ended()
            next(ends)
            first = time.perf_counter()
            rest = sum(1 for _ in ends)
            assert rest == count - 1
            return first - start, time.perf_counter() - first
        finally:
            cluster.close(cancel=True)


def seconds(arguments: list[str], folder: Path) -> float:
    """Of a whole command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "landscape", *arguments], cwd=folder, env=environment, capture_output=True, check=True
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Little of it: does it run?")
    given = parser.parse_args()
    count, jobs, times, scale = (20, 2, 1, 1) if given.smoke else (1000, 16, 2, 20)

    print("| engine, 2 processes | until the first answer, s | small tasks | s a thousand |\n|---|---|---|---|")
    for name, tasks, measure in (
        ("`--workers 2`", count, lambda: of_workers(count, 2)),
        ("`submit --on dask`", count, lambda: of_cluster("dask", count, 2)),
        ("`submit --on local`", jobs, lambda: of_cluster("local", jobs, 2)),
    ):
        try:
            first, rest = measure()
        except LandscapeError as error:
            print(f"| {name} | {error} | | |")
            continue
        print(f"| {name} | {first:.2f} | {tasks} | {rest / (tasks - 1) * 1000:.3g} |", flush=True)

    print("\n| command | 1 worker, s | 2 workers, s | times as fast |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = "train life --m-factor 4"
        seconds(f"{train} --steps 2 --seeds 0:{4 * scale} --batches 2 -o run".split(), folder)
        seconds(f"train digits --width 256 --seeds 0:{scale // 2 + 2} --batches 2 -o digits".split(), folder)
        commands = {
            "walk, Life m = 4, 2 steps, 1,000 boards": "walk --from run/@0 --to run/ --samples 1000 --points 51",
            "all pairs, digits W = 256": "walk --from digits --to digits --pairs all --points 25",
            "train, Life m = 4, own boards": f"{train} --data batches --seeds 0:64 --batches {20 * scale}",
        }
        for label, command in commands.items():
            found: dict[int, list[float]] = {1: [], 2: []}
            for turn in range(times):
                for workers in (1, 2):
                    output = f"out-{label.split(',')[0]}-{turn}-{workers}" + (".h5" if "walk" in command else "")
                    arguments = [*command.split(), "--workers", str(workers), "-o", output]
                    found[workers].append(seconds(arguments, folder))
            one, two = (statistics.median(found[workers]) for workers in (1, 2))
            print(f"| {label} | {one:.1f} | {two:.1f} | {one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
