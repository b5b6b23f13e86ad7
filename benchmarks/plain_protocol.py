"""Speed and memory beside a plain implementation of the study's protocol, measured in one run.

The plain protocol walks with one network at a time, 1000 batches of 128 random boards of 10 x 10 for each of 51
points of a line, and trains one network at a time with Adam on batches of the same kind. Times are medians; the plain
walk is timed on 100 batches and scaled, the rest in full. Run with nothing else on the machine: `make benchmark`.
"""

import dataclasses
import functools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from landscape.core.provenance import Source
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.evaluation.routes import Connection, connect
from landscape.evaluation.walk import walk
from landscape.problems.life import Life, boards
from landscape.space.family import grid
from landscape.store.checkpoints import Checkpoint
from landscape.training.train import Training, train

POINTS, BATCHES, BATCH, SIDE = 51, 1000, 128, 10
KERNEL = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


def median_time(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def plain_batch(steps: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random boards and what follows by B3/S23V, by convolution."""
    later = now = torch.randint(0, 2, (BATCH, 1, SIDE, SIDE)).float()
    for _ in range(steps):
        count = F.conv2d(later, KERNEL, padding=1)
        later = ((count == 3) | ((count == 2) & (later == 1))).float()
    return now, later


def plain_walk_seconds(problem: Life) -> float:
    """One 51-point line by the plain protocol, scaled up from 100 batches."""
    network = problem.network().eval()

    def one_batch() -> float:
        with torch.no_grad():
            now, later = plain_batch()
            return F.binary_cross_entropy(network(now), later).item()

    return median_time(one_batch, 100) * BATCHES * POINTS


def plain_step_seconds(problem: Life) -> float:
    """One Adam step of one network, its data included."""
    network = problem.network()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        now, later = plain_batch(problem.steps)
        optimizer.zero_grad()
        F.binary_cross_entropy(network(now), later).backward()
        optimizer.step()

    return median_time(step, 300)


def members(problem: Life, count: int) -> Checkpoint:
    """Random members with a table of sources."""
    generator = torch.Generator().manual_seed(0)
    shapes = problem.objective().network.template.shapes
    stack = Stack({name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()})
    return Checkpoint(stack, tuple(Source("random", None, i, "", f"seed {i}") for i in range(count)), None)


def evaluate(objective: Objective, connection: Connection, points: tuple[torch.Tensor, torch.Tensor]) -> object:
    """Values at all points of all lines."""
    return objective(connection.lines.at(*points))


def walk_ratios(plain: float) -> None:
    """Evaluation of lines, and the whole command."""
    problem = Life()
    objective = problem.objective()
    presolve = Checkpoint(problem.landmark("presolve").to(torch.float32), members(problem, 1).sources, None)
    for lines in (1, 100):
        connection = connect(presolve, members(problem, lines))
        points = torch.arange(lines).repeat_interleave(POINTS), torch.as_tensor(grid(POINTS)).repeat(lines)
        ours = median_time(functools.partial(evaluate, objective, connection, points), 20) / lines
        ratio = f"plain {plain:.1f} s, ours {1e3 * ours:.3f} ms a line: {plain / ours:,.0f} x"
        print(f"walk, m = 1, {lines:3} lines at once: {ratio}")
    checked = median_time(functools.partial(walk, objective, connection, grid(POINTS)), 3)
    print(f"walk, m = 1, 100 lines with all checks: {checked:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        run = train(problem, Training(batches=10), Path(folder) / "run", seeds=range(100))
        command = [sys.executable, "-m", "landscape", "walk", "--from", "presolve", "--to", str(run.path), "--force"]
        command += ["-o", f"{folder}/walk.h5"]
        whole = median_time(lambda: subprocess.run(command, check=True, capture_output=True), 3)
    print(f"walk, m = 1, 100 lines, the whole command from start to exit: {whole:.2f} s")


def many_steps_ratios(plains: dict[tuple[int, int], float]) -> None:
    """A step of one of 20 seeds on several generations, each seed with fresh boards of its own."""
    for (steps, m), plain in plains.items():
        training = Training(batches=3 if m > 1 else 6, data="boards", batch_size=BATCH, save_at=(0,))
        ours = step_seconds(Life(steps=steps, m_factor=m), training, range(20))
        both = f"plain {1e3 * plain:.2f} ms, ours {1e3 * ours:.3f} ms a seed-step"
        print(f"train, {steps} steps, m = {m:2}: {both}: {plain / ours:.1f} x")


def train_ratios(plains: dict[int, float]) -> None:
    """A step of one seed, in a stack of 1024."""
    for m, plain in plains.items():
        problem = Life(m_factor=m)
        for data in ("exact", "boards"):
            seeds = range(1024 if data == "exact" else 128)
            ours = step_seconds(problem, Training(batches=20 if m == 1 else 10, data=data, save_at=(0,)), seeds)
            ratio = plain / ours
            both = f"plain {1e3 * plain:.2f} ms, ours {1e6 * ours:.1f} us a seed-step"
            print(f"train, m = {m:2}, {data:6}: {both}: {ratio:,.0f} x")


def step_seconds(problem: Life, training: Training, seeds: range) -> float:
    """Seconds a seed-step, from the slope between a short and a long run: set-up cancels out."""

    def run(batches: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            train(problem, dataclasses.replace(training, batches=batches), Path(folder) / "run", seeds=seeds)
            return time.perf_counter() - start

    run(2)
    slopes = [(run(3 * training.batches) - run(training.batches)) / (2 * training.batches) for _ in range(5)]
    return statistics.median(slopes) / len(seeds)


def counting() -> None:
    """Pattern counts of a batch of boards."""
    seeds = torch.arange(64)
    ours = median_time(lambda: boards.pattern_counts(seeds, 0, BATCH, SIDE, SIDE, 0.5), 20) / len(seeds)
    print(f"pattern counts of {BATCH} boards of {SIDE} x {SIDE}: {1e3 * ours:.3f} ms a seed")


def memory() -> None:
    """Peak memory of evaluating 100,000 members, in a process of its own."""
    code = "import benchmarks.plain_protocol as b; b.evaluate_many()"
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    print(result.stdout.strip())


def evaluate_many(count: int = 100_000) -> None:
    """Evaluate many members and print the process's peak memory, libraries included."""
    problem = Life()
    objective = problem.objective()
    stack = members(problem, count).stack
    start = time.perf_counter()
    objective(stack)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count:,} members: {seconds:.2f} s, peak memory of the whole process {peak:.2f} GiB")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    plain_walk, plain_steps = plain_walk_seconds(Life()), {m: plain_step_seconds(Life(m_factor=m)) for m in (1, 4, 10)}
    plain_more = {(n, m): plain_step_seconds(Life(steps=n, m_factor=m)) for n in (2, 3) for m in (1, 10, 40)}
    walk_ratios(plain_walk)
    train_ratios(plain_steps)
    many_steps_ratios(plain_more)
    counting()
    memory()
