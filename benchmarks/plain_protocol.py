"""Speed and memory beside a plain implementation of the study's protocol, measured in one run.

The plain protocol walks with one network at a time, 1000 batches of 128 random boards of 10 x 10 for each of 51
points of a line, and trains one network at a time with Adam on batches of the same kind. Times are medians; the plain
walk is timed on 100 batches and scaled, the rest in full. Models with a loss of one's own are trained beside the loop
that their user would write. Run with nothing else on the machine: `make benchmark`.
`--smoke` does all of it once and small, in seconds, so that the tests notice when it breaks.
"""

import argparse
import dataclasses
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from landscape import Problem
from landscape.core.provenance import Source
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, template_of
from landscape.evaluation.routes import Lines, along, connect
from landscape.problems.life import Life, boards
from landscape.space.family import grid
from landscape.store.checkpoints import Checkpoint
from landscape.training.train import Training, train

POINTS, BATCHES, BATCH, SIDE = 51, 1000, 128, 10
KERNEL = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured, and how often at most."""

    repeats: int
    lines: int
    members: int
    seeds: int
    fresh: int
    batches: int
    widths: tuple[int, ...]
    many_steps: tuple[tuple[int, int], ...]

    def median_time(self, function: Callable[[], object], repeats: int) -> float:
        """Median seconds of a call, after one to warm up."""
        function()
        times = []
        for _ in range(min(repeats, self.repeats)):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


FULL = Size(
    repeats=300,
    lines=100,
    members=100_000,
    seeds=1024,
    fresh=128,
    batches=20,
    widths=(1, 4, 10),
    many_steps=tuple((steps, m) for steps in (2, 3) for m in (1, 10, 40)),
)
SMOKE = Size(repeats=1, lines=4, members=500, seeds=8, fresh=4, batches=2, widths=(1, 4), many_steps=((2, 1), (3, 10)))


def plain_batch(steps: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random boards and what follows by B3/S23V, by convolution."""
    later = now = torch.randint(0, 2, (BATCH, 1, SIDE, SIDE)).float()
    for _ in range(steps):
        count = F.conv2d(later, KERNEL, padding=1)
        later = ((count == 3) | ((count == 2) & (later == 1))).float()
    return now, later


def plain_loss(network: torch.nn.Module) -> float:
    """The loss on one batch, by the plain protocol."""
    with torch.no_grad():
        now, later = plain_batch()
        return F.binary_cross_entropy(network(now), later).item()


def require_same(problem: Life, batches: int = 200) -> None:
    """Exit unless the plain loss is ours, up to its sampling error: what is timed would not be the same thing."""
    network = problem.network().eval()
    plain = torch.tensor([plain_loss(network) for _ in range(batches)], dtype=torch.float64)
    error = plain.std().item() / batches**0.5
    ours = problem.objective()(template_of(network))["loss"].item()
    if abs(plain.mean().item() - ours) > 5 * error:
        raise SystemExit(f"void: the plain loss is {plain.mean():.6f} +- {error:.6f}, ours {ours:.6f}")
    print(f"loss of a fresh network: plain {plain.mean():.4f} +- {error:.4f}, ours {ours:.4f}")


def plain_walk_seconds(problem: Life, size: Size) -> float:
    """One 51-point line by the plain protocol, scaled up from 100 batches."""
    network = problem.network().eval()
    return size.median_time(lambda: plain_loss(network), 100) * BATCHES * POINTS


def plain_step_seconds(problem: Life, size: Size) -> float:
    """One Adam step of one network, its data included."""
    network = problem.network()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        now, later = plain_batch(problem.steps)
        optimizer.zero_grad()
        F.binary_cross_entropy(network(now), later).backward()
        optimizer.step()

    return size.median_time(step, 300)


def members(problem: Life, count: int) -> Checkpoint:
    """Random members with a table of sources."""
    generator = torch.Generator().manual_seed(0)
    shapes = problem.objective().network.template.shapes
    stack = Stack({name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()})
    return Checkpoint(stack, tuple(Source("random", None, i, "", f"seed {i}") for i in range(count)), None)


def evaluate(objective: Objective, lines: Lines, points: tuple[torch.Tensor, torch.Tensor]) -> object:
    """Values at all points of all lines."""
    return objective(lines.family.at(*points))


def walk_ratios(plain: float, size: Size) -> None:
    """Evaluation of lines, and the whole command."""
    problem = Life()
    objective = problem.objective()
    presolve = Checkpoint(problem.landmark("presolve").to(torch.float32), members(problem, 1).sources, None)
    for lines in (1, size.lines):
        connection = connect(presolve, members(problem, lines))
        points = torch.arange(lines).repeat_interleave(POINTS), torch.as_tensor(grid(POINTS)).repeat(lines)
        ours = size.median_time(functools.partial(evaluate, objective, connection, points), 20) / lines
        ratio = f"plain {plain:.1f} s, ours {1e3 * ours:.3f} ms a line: {plain / ours:,.0f} x"
        print(f"walk, m = 1, {lines:3} lines at once: {ratio}")
    checked = size.median_time(functools.partial(along, objective, connection, grid(POINTS)), 3)
    print(f"walk, m = 1, {size.lines} lines with all checks: {checked:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        run = train(problem, Training(batches=10), Path(folder) / "run", seeds=range(size.lines))
        command = [sys.executable, "-m", "landscape", "walk", "--from", "presolve", "--to", str(run.path), "--force"]
        command += ["-o", f"{folder}/walk.h5"]
        whole = size.median_time(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 3)
    print(f"walk, m = 1, {size.lines} lines, the whole command from start to exit: {whole:.2f} s")


def train_ratios(size: Size) -> None:
    """A step of one seed in a stack of 1024, on the exact loss, and of one of 128 with fresh boards of its own."""
    for m in size.widths:
        problem = Life(m_factor=m)
        plain = plain_step_seconds(problem, size)
        for data, seeds in (("exact", size.seeds), ("batches", size.fresh)):
            training = Training(batches=size.batches if m == 1 else size.batches // 2, data=data, save_at=(0,))
            ours = step_seconds(problem, training, range(seeds), size)
            both = f"plain {1e3 * plain:.2f} ms, ours {1e6 * ours:.1f} us a seed-step"
            print(f"train, m = {m:2}, {data:7}: {both}: {plain / ours:,.0f} x")


def many_steps_ratios(size: Size) -> None:
    """A step of one of 20 seeds on several generations, each seed with fresh boards of its own."""
    for steps, m in size.many_steps:
        problem = Life(steps=steps, m_factor=m)
        plain = plain_step_seconds(problem, size)
        training = Training(batches=3 if m > 1 else 6, data="batches", batch_size=BATCH, save_at=(0,))
        ours = step_seconds(problem, training, range(min(20, size.fresh)), size)
        both = f"plain {1e3 * plain:.2f} ms, ours {1e3 * ours:.3f} ms a seed-step"
        print(f"train, {steps} steps, m = {m:2}: {both}: {plain / ours:.1f} x")


def classified(network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss of one's own, of which nothing is known."""
    return F.cross_entropy(network(batch["x"]), batch["y"])


def perceptron(width: int) -> nn.Module:
    """Of two hidden layers."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def convolutional(channels: int) -> nn.Module:
    """Of two layers with BatchNorm, on 8 x 8."""
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def own_ratios(size: Size) -> None:
    """Processor time of a step with a loss of one's own, in its user's loop and by the plain module."""
    models = {"perceptron": perceptron, "CNN, BatchNorm": convolutional}
    for name, width, batches in own_sizes(size):
        make = functools.partial(models[name], width)
        x, y = torch.randn(1024, 64), torch.randint(10, (1024,))
        problem = Problem.from_model(make, {"x": x, "y": y}, batch_loss=classified)
        training = Training(batches=batches, batch_size=64, save_at=(0,))
        plain, ours = [], []
        for _ in range(min(5, size.repeats)):  # in turns, since other work makes both slower
            plain.append(loop_seconds(make, x, y, 2 * batches))
            ours.append(step_seconds(problem, training, range(1), dataclasses.replace(size, repeats=1)))
        both = f"loop {1e3 * statistics.median(plain):.2f} ms, ours {1e3 * statistics.median(ours):.2f} ms a step"
        print(f"train, {name} {width}, batch_loss: {both}: {statistics.median(plain) / statistics.median(ours):.2f} x")


def own_sizes(size: Size) -> list[tuple[str, int, int]]:
    """Models, their width, and the steps that are timed."""
    if size.repeats == 1:
        return [("perceptron", 16, 3), ("CNN, BatchNorm", 4, 3)]
    return [("perceptron", 64, 300), ("perceptron", 1024, 40), ("CNN, BatchNorm", 8, 100), ("CNN, BatchNorm", 32, 60)]


def loop_seconds(make: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """A step of the loop that its user writes."""
    network = make().train()
    optimizer = torch.optim.Adam(network.parameters())
    start = time.process_time()
    for step in range(steps):
        place = 64 * (step % 16)
        if not place:
            order = torch.randperm(1024)
        index = order[place : place + 64]
        optimizer.zero_grad()
        classified(network, {"x": x[index], "y": y[index]}).backward()
        optimizer.step()
    return (time.process_time() - start) / steps


def step_seconds(problem: Problem, training: Training, seeds: range, size: Size) -> float:
    """Seconds a seed-step (the processor's, of a model of one's own), from the slope between a short and a long run:
    set-up cancels out.
    """
    clock = time.perf_counter if isinstance(problem, Life) else time.process_time

    def run(batches: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = clock()
            train(problem, dataclasses.replace(training, batches=batches), Path(folder) / "run", seeds=seeds)
            return clock() - start

    run(2)
    repeats = range(min(5, size.repeats))
    slopes = [(run(3 * training.batches) - run(training.batches)) / (2 * training.batches) for _ in repeats]
    return statistics.median(slopes) / len(seeds)


def counting(size: Size) -> None:
    """Pattern counts of a batch of boards."""
    seeds = torch.arange(min(64, size.seeds))
    count = functools.partial(boards.pattern_counts, seeds, 0, BATCH, SIDE, SIDE, 0.5)
    ours = size.median_time(count, 20) / len(seeds)
    print(f"pattern counts of {BATCH} boards of {SIDE} x {SIDE}: {1e3 * ours:.3f} ms a seed")


def memory(count: int) -> None:
    """Peak memory of evaluating many members, in a process of its own."""
    code = f"import benchmarks.plain_protocol as b; b.evaluate_many({count})"
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    print(result.stdout.strip())


def evaluate_many(count: int) -> None:
    """Evaluate many members and print the process's peak memory, libraries included. Not `ru_maxrss`, which begins with
    that of the process that started this one.
    """
    from benchmarks.zoo import resident  # found from the root alone, where `memory` calls this

    problem = Life()
    objective = problem.objective()
    stack = members(problem, count).stack
    start = time.perf_counter()
    objective(stack)
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") / 2**30
    print(f"{count:,} members: {seconds:.2f} s, peak memory of the whole process {peak:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Everything once and small, in seconds: does it run?")
    smoke = parser.parse_args().smoke
    size = SMOKE if smoke else FULL
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if smoke:
        print("smoke: everything is small and done once, so that the times below mean nothing")
    require_same(Life())
    walk_ratios(plain_walk_seconds(Life(), size), size)
    train_ratios(size)
    many_steps_ratios(size)
    own_ratios(size)
    counting(size)
    memory(size.members)


if __name__ == "__main__":
    main()
