"""Where do stacks of networks pay? Values and gradients of 64 members, stacked beside each network's own forward.

A row a kind of layer or forward, in small networks as they are trained by the hundred. A kind that is nowhere 1.3 times
as fast has no place in the stacked engine: rows with a star have layers that are not in its tables, and run member by
member at their place.

    python benchmarks/layers.py [--smoke]
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from landscape.engine.plain import PlainObjective
from landscape.problems.model import from_model

__all__ = ["main"]

MEMBERS, SAMPLES, RUNS = 64, 256, 3


class Residual(nn.Module):
    """Blocks with a connection around them, traced."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.begin = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()) for _ in range(2)
        )
        self.end = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        for block in self.blocks:
            x = x + block(x)
        return self.end(x.mean((2, 3)))


class Attention(nn.Module):
    """A transformer encoder over tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.end = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layer(self.embed(x)).mean(1))


class Traced(nn.Module):
    """A perceptron whose forward is code of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.end = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.end(x + torch.tanh(self.second(x)))


def perceptron(width: int, between: Callable[[], list[nn.Module]]) -> nn.Module:
    """Two hidden layers with something between them."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), *between(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def convolutional(channels: int, between: Callable[[], list[nn.Module]]) -> nn.Module:
    """Two convolutions of 8 x 8 images with something between them."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        *between(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


def nothing() -> list[nn.Module]:
    """Nothing."""
    return []


FLAT, IMAGES = torch.randn(SAMPLES, 64), torch.randn(SAMPLES, 1, 8, 8)
TOKENS, LABELS = torch.randint(0, 20, (SAMPLES, 8)), torch.randint(0, 10, (SAMPLES,))

#: What makes each network, and its inputs.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "Linear 16": (lambda: perceptron(16, nothing), FLAT),
    "Linear 64": (lambda: perceptron(64, nothing), FLAT),
    "BatchNorm1d 16": (lambda: perceptron(16, lambda: [nn.BatchNorm1d(16)]), FLAT),
    "LayerNorm 16": (lambda: perceptron(16, lambda: [nn.LayerNorm(16)]), FLAT),
    "PReLU 16": (lambda: perceptron(16, lambda: [nn.PReLU()]), FLAT),
    "Softmax 16": (lambda: perceptron(16, lambda: [nn.Softmax(1)]), FLAT),
    "forward of its own 16": (lambda: Traced(16), FLAT),
    "forward of its own 64": (lambda: Traced(64), FLAT),
    "Conv2d 8": (lambda: convolutional(8, nothing), IMAGES),
    "Conv2d 32": (lambda: convolutional(32, nothing), IMAGES),
    "BatchNorm2d 8": (lambda: convolutional(8, lambda: [nn.BatchNorm2d(8)]), IMAGES),
    "GroupNorm 8 *": (lambda: convolutional(8, lambda: [nn.GroupNorm(2, 8)]), IMAGES),
    "MaxPool2d 8": (lambda: convolutional(8, lambda: [nn.MaxPool2d(2)]), IMAGES),
    "AvgPool2d 8": (lambda: convolutional(8, lambda: [nn.AvgPool2d(2)]), IMAGES),
    "Upsample 8 *": (lambda: convolutional(8, lambda: [nn.MaxPool2d(2), nn.Upsample(scale_factor=2)]), IMAGES),
    "residual 8": (lambda: Residual(8, lambda _: nn.Identity()), IMAGES),
    "residual BatchNorm 8": (lambda: Residual(8, nn.BatchNorm2d), IMAGES),
    "Conv1d 8 *": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 64)),
            nn.Conv1d(1, 8, 5),
            nn.ReLU(),
            nn.Conv1d(8, 8, 5),
            nn.Flatten(),
            nn.Linear(448, 10),
        ),
        FLAT,
    ),
    "Embedding 16": (
        lambda: nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10)),
        TOKENS,
    ),
    "attention 16 *": (lambda: Attention(16), TOKENS),
    "attention 64 *": (lambda: Attention(64), TOKENS),
}


def seconds(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """The shortest of some runs of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(runs):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return {name: min(each) for name, each in times.items()}


def main() -> int:
    """Print a row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Show that it runs: two members, one run.")
    parser.add_argument("--only", help="Rows whose name contains this.")
    arguments = parser.parse_args()
    members, runs = (2, 1) if arguments.smoke else (MEMBERS, RUNS)
    print(f"plain / stacked, {members} members, {SAMPLES} samples, {torch.get_num_threads()} threads, CPU")
    print(f"{'network':24} {'values':>8} {'gradients':>10}   plain: ms a member")
    for name, (make, inputs) in NETWORKS.items():
        if arguments.only and arguments.only not in name:
            continue
        torch.manual_seed(0)
        problem = from_model(make, (inputs, LABELS), "cross_entropy")
        stack = problem.initial(range(members))
        plain: Any = problem.plain(batchnorm="interpolate" if "BatchNorm" in name else None)
        stacked: Any = problem.objective(backend="stacked")
        if isinstance(plain, PlainObjective) and plain.batchnorm:
            stacked.batchnorm = "interpolate"
        both = {"plain": plain, "stacked": stacked}
        values = seconds({key: functools.partial(each, stack) for key, each in both.items()}, runs)
        slopes = seconds({key: functools.partial(each.gradient, stack) for key, each in both.items()}, runs)
        ratios = [times["plain"] / times["stacked"] for times in (values, slopes)]
        alone = [1e3 * times["plain"] / members for times in (values, slopes)]
        print(f"{name:24} {ratios[0]:8.2f} {ratios[1]:10.2f}   {alone[0]:.2f}, {alone[1]:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
