"""What does a barrier to a stated accuracy take, beside the plain loop of 51 points over all samples?

Processor time on one thread. The loop is the one that a user would write: state dicts mixed and loaded, `no_grad`, the
best of three batch sizes; with BatchNorm it estimates the statistics anew at each point, on as many samples as we do.
Ours is the whole call from two modules to the interval: `Problem.from_model`, checks of both ends, first samples,
intervals; the shortest of three (one where the loop takes more than 20 s). `points` is the part of the ratio that comes
from fewer points alone: the same call with all samples. `work` is the same of samples read at all points, statistics
included, as if each point had as many as the one that has most. `bf16` is how many times as fast ours is with
`autocast=torch.bfloat16` for everything, which is more than low precision between the ends could gain. `loop's` is the
barrier of the loop's highest point, below the top between its points; `+-` is half the width of our interval. `spread`
is the standard deviation, over samples, of what each adds to the barrier, over the barrier. Digits are scikit-learn's
1,797; the 50,000 are made of them by shifts, rotations and noise.

Then planes of 31 x 31 points, of the differences of two networks from a third, to 1 % of the range of the loss, beside
the loop over all of them; where it takes more than 20 s it is timed at 34 points. `at` is how many points were
evaluated, `work` by how many times fewer samples were read than all at all points; `off` how far ours is from the loop
at its points, at most, and `+-` half the width of the band, both as shares of the range.

    python benchmarks/accuracy.py [--smoke]
"""

import argparse
import copy
import dataclasses
import functools
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import landscape
from landscape.engine.objective import CALIBRATION_BATCH
from landscape.evaluation import samples as reading
from landscape.problems.supervised import CALIBRATION_SAMPLES, Samples, part_of

__all__ = ["Residual", "augmented", "digits", "main", "trained"]

POINTS, SIZES, RUNS, LONG = 51, (128, 512, 2048), 3, 20.0
ALPHAS = np.linspace(0, 1, POINTS)

HEADS = (
    "tolerance",
    "loop",
    "ours",
    "ratio",
    "points",
    "work",
    "bf16",
    "at",
    "samples",
    "barrier",
    "loop's",
    "+-",
    "spread",
)
WIDTHS = (9, 8, 8, 6, 6, 6, 5, 4, 8, 9, 8, 6, 6)

#: Points of a plane along an axis; the loop is timed at each so manieth of them where it takes long.
SIDE, STRIDE = 31, 29
PLANES = (
    ("tolerance", "loop", "ours", "ratio", "work", "at", "samples", "range", "off", "+-"),
    (9, 8, 8, 6, 6, 5, 8, 9, 7, 7),
)

Data = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.beside = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width, or the same."""
        return F.relu(self.second(F.relu(self.first(x))) + self.beside(x))


class Residual(nn.Sequential):
    """A small ResNet for images of one channel."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            Block(channels, channels, 1),
            Block(channels, 2 * channels, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, 10),
        )


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def convolutional(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * channels, 10),
    )


def digits() -> Data:
    """Images [sample, 1, 8, 8], pixels from 0 to 1, and their digits."""
    found = load_digits()
    return torch.tensor(found.images / 16, dtype=torch.float32)[:, None], torch.tensor(found.target)


def augmented(count: int) -> Data:
    """So many, each one shifted by up to a pixel, turned by up to 20 degrees, with noise of a tenth."""
    images, targets = digits()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.arange(count) % len(images)
    angle = (torch.rand(count, generator=generator) - 0.5) * 2 * np.radians(20)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 2 * 0.25
    rotation = torch.stack([angle.cos(), -angle.sin(), shift[:, 0], angle.sin(), angle.cos(), shift[:, 1]], 1)
    grid = F.affine_grid(rotation.view(-1, 2, 3), [count, 1, 8, 8], align_corners=False)
    moved = F.grid_sample(images[chosen], grid, align_corners=False)
    return moved + 0.1 * torch.randn(moved.shape, generator=generator), targets[chosen]


def trained(make: Callable[[], nn.Module], data: Data, steps: int, seed: int, lr: float = 3e-3) -> nn.Module:
    """A network that Adam has trained briefly on batches of 128."""
    torch.manual_seed(seed)
    network, (images, targets) = make(), data
    optimizer = torch.optim.Adam(network.parameters(), lr)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), targets[batch]).backward()
        optimizer.step()
    return network.eval()


@dataclasses.dataclass(frozen=True)
class Loop:
    """What a user would write."""

    ends: tuple[nn.Module, ...]
    data: Data
    size: int
    anew: bool

    @functools.cached_property
    def module(self) -> nn.Module:
        return copy.deepcopy(self.ends[0])

    @functools.cached_property
    def calibration(self) -> Tensor:
        """The images that we estimate statistics on, so that both have the same loss."""
        found: Tensor = part_of(Samples(*self.data), min(CALIBRATION_SAMPLES, len(self.data[0])), 0).inputs
        return found

    def load(self, *shares: float) -> None:
        """The first network and so much of the differences of others from it."""
        first, *others = (end.state_dict() for end in self.ends)
        mixed = {
            name: (1 - sum(shares)) * tensor
            + sum(share * other[name] for share, other in zip(shares, others, strict=True))
            if tensor.is_floating_point()
            else tensor
            for name, tensor in first.items()
        }
        self.module.load_state_dict(mixed)
        if self.anew:
            layers = [layer for layer in self.module.modules() if isinstance(layer, nn.BatchNorm2d)]
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
            self.module.train()
            for batch in self.calibration.split(CALIBRATION_BATCH):
                self.module(batch)
            self.module.eval()

    def loss(self, *shares: float) -> float:
        self.load(*shares)
        images, targets = self.data
        total = 0.0
        for batch, wanted in zip(images.split(self.size), targets.split(self.size), strict=True):
            total += float(F.cross_entropy(self.module(batch), wanted, reduction="sum"))
        return total / len(images)

    def each(self, *shares: float) -> np.ndarray:
        self.load(*shares)
        parts = zip(self.data[0].split(self.size), self.data[1].split(self.size), strict=True)
        found = [F.cross_entropy(self.module(batch), wanted, reduction="none") for batch, wanted in parts]
        return torch.cat(found).double().numpy()


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it gives."""
    begun = time.process_time()
    found = call()
    return time.process_time() - begun, found


def fastest(ends: tuple[nn.Module, ...], data: Data, anew: bool, *at: float) -> Loop:
    """The loop with the best of its batch sizes."""
    loops = [Loop(ends, data, size, anew) for size in SIZES]
    return min(loops, key=lambda loop: (loop.loss(*at), seconds(lambda: loop.loss(*at))[0])[1])


@torch.no_grad()
def looped(ends: tuple[nn.Module, nn.Module], data: Data, anew: bool) -> tuple[float, np.ndarray, float]:
    """Time and losses of the loop at the best of its batch sizes, and the spread of what samples add to the barrier."""
    best = fastest(ends, data, anew, 0.5)
    took, found = seconds(lambda: np.array([best.loss(alpha) for alpha in ALPHAS]))
    if took < LONG:
        took = min(took, *(seconds(lambda: [best.loss(alpha) for alpha in ALPHAS])[0] for _ in range(RUNS - 1)))
    above = found - (1 - ALPHAS) * found[0] - ALPHAS * found[-1]
    top = float(ALPHAS[above.argmax()])
    adds = best.each(top) - (1 - top) * best.each(0.0) - top * best.each(1.0)
    return took, found, float(adds.std() / adds.mean())


def rows(smoke: bool) -> Iterator[tuple[str, Callable[[], nn.Module], Data, int, float, dict[str, Any]]]:
    """Name, network, data, steps of training, tolerance, options of the walk."""
    few = digits()
    many = augmented(1500 if smoke else 50_000)
    steps = 5 if smoke else 300
    for width in (64, 256) if smoke else (64, 256, 1024):
        yield f"digits, MLP 64-{width}-{width}-10", functools.partial(perceptron, width), few, steps, 0.05, {}
    yield "digits, CNN of 16 and 32 channels", functools.partial(convolutional, 16), few, steps, 0.05, {}
    for policy in ("recalibrate", "interpolate"):
        yield (
            f"{len(many[0]):,} images, ResNet, BatchNorm: {policy}",
            functools.partial(Residual, 4 if smoke else 16),
            many,
            steps,
            0.02,
            {"batchnorm": policy},
        )


@torch.no_grad()
def plane_row(ends: tuple[nn.Module, ...], data: Data, options: dict[str, Any], tolerance: float) -> str:
    """The plane of the differences of two networks from a third, beside the loop."""
    problem = landscape.Problem.from_model(ends[0], data, "cross_entropy")
    span = np.linspace(-0.2, 1.2, SIDE)
    places = [(float(y), float(x)) for y in span for x in span]
    best = fastest(ends, data, options.get("batchnorm") == "recalibrate", 0.5, 0.5)
    one = seconds(lambda: best.loss(0.5, 0.5))[0]
    some = places[:: 1 if one * len(places) < LONG else STRIDE]
    loop, losses = seconds(lambda: np.array([best.loss(x, y) for y, x in some]))
    loop *= len(places) / len(some)

    def ours() -> Any:
        return landscape.plane(*ends, directions="tasks", problem=problem, points=SIDE, tolerance=tolerance, **options)

    took, found = min((seconds(ours) for _ in range(1 if loop > LONG else RUNS)), key=lambda each: each[0])
    at = [(np.abs(found["y"] - y).argmin(), np.abs(found["x"] - x).argmin()) for y, x in some]
    ranged, said = float(np.ptp(found["loss"])), found.about["accuracy"]
    off = max(abs(found["loss"][k] - loss) for k, loss in zip(at, losses, strict=True))
    return (
        f"{tolerance:9.0%} {loop:7.2f}s {took:7.3f}s {loop / took:6.1f} {1 / said['read']:6.1f} {said['points']:5}"
        f" {said['samples']:8,} {ranged:9.4f} {off / ranged:7.2%} {said['error'] / ranged:7.2%}"
        f"{'' if said['reached'] else '  not reached'}"
    )


def main() -> int:
    """Print a row a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Show that it runs: little data, short trainings.")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    logging.getLogger("landscape").setLevel(logging.ERROR)
    print("1 thread, CPU, float32, processor time")
    heads = (f"{head:>{size}}" for head, size in zip(HEADS, WIDTHS, strict=True))
    print(f"{'problem':44}", *heads)
    kept: dict[Any, tuple[nn.Module, ...]] = {}
    for name, make, data, steps, tolerance, options in rows(smoke):
        key = (make.func, make.args, len(data[0]))  # type: ignore[attr-defined]
        if key not in kept:
            kept[key] = tuple(trained(make, data, steps, seed) for seed in range(3))
        ends, anew = kept[key][:2], options.get("batchnorm") == "recalibrate"
        loop, losses, spread = looped(ends, data, anew)

        def ours(ends: Any = ends, data: Data = data, tolerance: float = tolerance, options: Any = options) -> Any:
            problem = landscape.Problem.from_model(ends[0], data, "cross_entropy")
            return landscape.walk(*ends, problem=problem, tolerance=tolerance, **options)

        runs = 1 if loop > LONG else RUNS
        took, found = min((seconds(ours) for _ in range(runs)), key=lambda each: each[0])
        with mock.patch.object(reading, "_CHEAP", 2**62):
            whole = min(seconds(ours)[0] for _ in range(runs))
        half = min(
            seconds(functools.partial(ours, options={**options, "autocast": torch.bfloat16}))[0] for _ in range(runs)
        )
        points, samples = int(found["points_used"][0]), int(found["samples_used"][0])
        again = min(CALIBRATION_SAMPLES, len(data[0])) if anew else 0
        work = POINTS * (len(data[0]) + again) / (points * (samples + again))
        barrier, low, high = (float(found[each][0]) for each in ("barrier", "barrier_low", "barrier_high"))
        above = losses - (1 - ALPHAS) * losses[0] - ALPHAS * losses[-1]
        outside = not low - 0.005 * barrier <= above.max() <= high
        print(
            f"{name:44} {tolerance:9.0%} {loop:7.2f}s {took:7.3f}s {loop / took:6.1f} {loop / whole:6.1f} {work:6.1f}"
            f" {took / half:5.2f} {points:4} {samples:8,} {barrier:9.4f} {above.max():8.4f}"
            f" {(high - low) / 2 / barrier:6.1%} {spread:6.2f}{'  the loop has another barrier' * outside}",
            flush=True,
        )
    print(f"\n{'planes of ' + f'{SIDE} x {SIDE} points':44}", *(f"{h:>{w}}" for h, w in zip(*PLANES, strict=True)))
    for name, make, data, *_, options in itertools.islice(rows(smoke), 1 if smoke else None):
        ends = kept[make.func, make.args, len(data[0])]  # type: ignore[attr-defined]
        print(f"{name:44} {plane_row(ends, data, options, 0.01)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
