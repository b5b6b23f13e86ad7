"""Speed beside other tools that walk straight lines, measured in one run: `make benchmark`, on a quiet machine.

Peers: the package `loss-landscapes`, which evaluates one network after another in a loop, and for data that is streamed
the usual loop over points and a `DataLoader`, as in the code of H. Li et al., *Visualizing the Loss Landscape of Neural
Nets*, NeurIPS 2018. Both get their best: no gradients are recorded, and they compute the loss alone, as ours does here;
what accuracy, counts and standard errors cost, which a walk computes beside it, is told too. What is compared is the
evaluation of points, at the peer's own alphas, after the values have been found equal; a walk's own checks come on top.

Measurements of a pair are interleaved; a ratio is that of two neighbours in time, and its median and range are printed
with the target beside them. `--smoke` does all of it once and small, in seconds, so that the tests notice when it
breaks.
"""

import argparse
import copy
import dataclasses
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import loss_landscapes
import numpy as np
import torch
import torch.nn.functional as F
from loss_landscapes.metrics import Loss
from torch import Tensor, nn

import landscape
from landscape.engine.memory import keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, concatenate, template_of
from landscape.problems.model import from_model
from landscape.space.family import line

SAMPLES, FEATURES, CLASSES, BATCH = 1797, 64, 10, 128

#: How many times as fast as the peer we are to be, by width.
ONE_LINE = {16: 3.0, 64: 1.7, 256: 1.0}
STREAMED = 5.0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured, and how often."""

    widths: tuple[int, ...] = tuple(ONE_LINE)
    points: int = 51
    lines: int = 20
    many: int = 1000
    repeats: int = 15
    judged: bool = True


SIZES = {
    "full": Size(),
    "quick": Size(widths=(16, 64), lines=4, repeats=5),
    "smoke": Size(widths=(16,), points=3, lines=2, many=4, repeats=1, judged=False),
}

#: Relative difference up to which float32 values are the same.
SAME = 1e-4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The same values, computed by a peer and by us; each returns them, [line, point].

    The peer may compute the first lines alone: its time is then scaled to `share`, as many times the lines.
    """

    name: str
    peer: Callable[[], np.ndarray]
    ours: Callable[[], np.ndarray]
    target: float | None
    share: float = 1.0

    def require_same(self) -> None:
        """Exit unless both give the same values: the comparison would be void."""
        theirs = self.peer()
        own = self.ours()[: len(theirs)]
        if not np.allclose(own, theirs, rtol=SAME, atol=1e-6):
            raise SystemExit(f"{self.name}: void, values differ by up to {np.abs(own - theirs).max():.3g}")

    def ratios(self, repeats: int) -> tuple[list[float], float, float]:
        """How many times as fast we are, in each repeat, and the median seconds of both."""
        theirs, own = [], []
        for number in range(repeats):
            # Who comes first changes, so that a machine that gets slower favours neither.
            order = [(self.peer, theirs), (self.ours, own)]
            for function, times in order if number % 2 else reversed(order):
                begun = time.perf_counter()
                function()
                times.append((time.perf_counter() - begun) * (self.share if function is self.peer else 1))
        return [a / b for a, b in zip(theirs, own, strict=True)], statistics.median(theirs), statistics.median(own)

    def report(self, repeats: int) -> bool:
        """Print one line; whether the target is met."""
        self.require_same()
        ratios, theirs, own = self.ratios(repeats)
        middle = statistics.median(ratios)
        met = self.target is None or middle >= self.target
        wanted = "" if self.target is None else f", target {self.target:g} x: {'met' if met else 'MISSED'}"
        print(
            f"  {self.name:34} peer {1e3 * theirs:8.1f} ms, ours {1e3 * own:8.1f} ms: {middle:6.2f} x "
            f"({min(ratios):.2f} to {max(ratios):.2f}){wanted}",
            flush=True,
        )
        return met


def mlp(width: int, seed: int) -> nn.Module:
    """Three layers, with initial parameters of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)]
        return nn.Sequential(*layers)


def data() -> tuple[str, Tensor, Tensor]:
    """The handwritten digits that scikit-learn carries, or numbers of their shape where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(SAMPLES, FEATURES, generator=generator)
        return "random numbers", inputs, torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    inputs, targets = load_digits(return_X_y=True)
    return "scikit-learn's digits", torch.from_numpy(inputs).float() / 16, torch.from_numpy(targets).long()


def ends(width: int, lines: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Networks at which lines begin, and where they end."""
    return [mlp(width, 2 * line) for line in range(lines)], [mlp(width, 2 * line + 1) for line in range(lines)]


def stack_of(networks: list[nn.Module], device: str) -> Stack:
    """Their parameters."""
    return concatenate([template_of(network) for network in networks]).to(device)


def peer_lines(
    starts: list[nn.Module], ends: list[nn.Module], points: int, inputs: Tensor, targets: Tensor
) -> np.ndarray:
    """`loss-landscapes`: a line a call. It evaluates i / K for i = 1 to K."""
    metric = Loss(F.cross_entropy, inputs, targets)
    with torch.no_grad():
        return np.stack(
            [
                loss_landscapes.linear_interpolation(start, end, metric, points, deepcopy_model=True)
                for start, end in zip(starts, ends, strict=True)
            ]
        )


def peer_streamed(start: nn.Module, end: nn.Module, points: int, loader: torch.utils.data.DataLoader) -> np.ndarray:
    """The usual loop: at each point set the weights, go through the loader, add up."""
    network = copy.deepcopy(start)
    losses = []
    with torch.no_grad():
        for alpha in alphas(points).tolist():
            for here, a, b in zip(network.parameters(), start.parameters(), end.parameters(), strict=True):
                here.copy_((1 - alpha) * a + alpha * b)
            total, count = 0.0, 0
            for inputs, targets in loader:
                total += F.cross_entropy(network(inputs), targets, reduction="sum").item()
                count += len(inputs)
            losses.append(total / count)
    return np.array([losses])


def alphas(points: int) -> Tensor:
    """The peer's alphas."""
    return torch.arange(1, points + 1, dtype=torch.float64) / points


def our_lines(objective: Objective, starts: Stack, ends: Stack, points: int) -> np.ndarray:
    """All lines at once."""
    which = torch.arange(len(starts), device=objective.device).repeat_interleave(points)
    along = alphas(points).to(objective.device).repeat(len(starts))
    return objective(line(starts, ends).points(which, along))["loss"].view(len(starts), points).cpu().numpy()


def loss_alone(objective: Objective) -> Objective:
    """The objective without accuracy, counts and standard errors."""
    return dataclasses.replace(objective, metrics={"loss": objective.metrics["loss"]}, sampled=False)


def in_memory(
    width: int, lines: int, points: int, target: float | None, *, device: str, most: int = 20, everything: bool = False
) -> Comparison:
    """Lines on data in memory; the peer walks `most` of them. Ours computes `everything`, or the loss alone."""
    _, inputs, targets = data()
    starts, finishes = ends(width, lines)
    objective = from_model(starts[0], (inputs, targets), "cross_entropy").objective(device=device)
    objective = objective if everything else loss_alone(objective)
    ours = functools.partial(our_lines, objective, stack_of(starts, device), stack_of(finishes, device), points)
    few = [[copy.deepcopy(network).to(device) for network in side[:most]] for side in (starts, finishes)]
    peer = functools.partial(peer_lines, *few, points, inputs.to(device), targets.to(device))
    name = f"{lines} line{'s' * (lines > 1)}, width {width}{', all metrics' * everything}"
    return Comparison(name, peer, ours, target, share=lines / len(few[0]))


def streamed(width: int, points: int, target: float | None, *, device: str) -> Comparison:
    """A line on batches of a `DataLoader`."""
    _, inputs, targets = data()
    (start,), (end,) = ends(width, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=BATCH)
    objective = loss_alone(from_model(start, loader, "cross_entropy").objective(device=device))
    ours = functools.partial(our_lines, objective, stack_of([start], device), stack_of([end], device), points)
    peer = functools.partial(peer_streamed, *(copy.deepcopy(each).to(device) for each in (start, end)), points, loader)
    return Comparison(f"1 line, width {width}, streamed", peer, ours, target)


def comparisons(device: str, size: Size) -> Iterator[Comparison]:
    """On a CPU those with targets; on a GPU, which has none, a thousand lines at once beside them."""
    cpu = device == "cpu"
    judged = cpu and size.judged
    for width in size.widths:
        yield in_memory(width, 1, size.points, ONE_LINE[width] if judged else None, device=device)
    for width in size.widths:
        yield in_memory(width, 1, size.points, None, device=device, everything=True)
    for width in size.widths:
        yield in_memory(width, size.lines, size.points, ONE_LINE[width] if judged else None, device=device)
    for width in size.widths:
        yield streamed(width, size.points, STREAMED if judged else None, device=device)
    if not cpu:
        for width in size.widths:
            yield in_memory(width, size.many, size.points, None, device=device)


def machine() -> str:
    """What measures: processor, versions, and how busy it is."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("loss-landscapes", "torch", "numpy"))
    processor = names[0] if names else platform.processor()
    versions = f"landscape {landscape.__version__}, {packages}, Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores{busy}\n{versions}"


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_const", dest="size", const="quick", help="Less of all: about a minute.")
    sizes.add_argument("--smoke", action="store_const", dest="size", const="smoke", help="Seconds: does it run?")
    name = parser.parse_args().size or "full"
    size = SIZES[name]
    keep_freed_memory()  # as every walk does; the peer gains as well
    print(machine())
    setting = f"{size.points} points a line, 3-layer MLP, {data()[0]} ({SAMPLES} x {FEATURES}), float32"
    print(f"{setting}, {size.repeats} repeat{'s' * (size.repeats > 1)}")
    if name == "smoke":
        print("smoke: everything is small and done once, so that the times below mean nothing")
    default = torch.get_num_threads()
    results = []
    for threads in sorted({1, default}):
        torch.set_num_threads(threads)
        print(f"CPU, {threads} thread{'s' * (threads > 1)}")
        results += [comparison.report(size.repeats) for comparison in comparisons("cpu", size)]
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
        for comparison in comparisons("cuda", size):
            comparison.report(size.repeats)
    else:
        print("GPU: left out, torch.cuda.is_available() is false")
    if size.judged:
        print(f"{sum(results)} of {len(results)} targets met")


if __name__ == "__main__":
    main()
