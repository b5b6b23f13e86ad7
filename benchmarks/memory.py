"""Peak memory of a line of a large network: by the plain loop, and by `landscape.walk`.

Each in a process of its own, from two checkpoints on disk; a perceptron with weights of 5,000 x 5,000.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--smoke]
"""

import argparse
import functools
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["main"]

POINTS = 5


def network(width: int) -> nn.Module:
    """A perceptron with two hidden layers."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def loop(folder: Path, width: int) -> None:
    """What its user writes."""
    x, y = torch.load(folder / "data.pt")
    a, b = (torch.load(folder / name) for name in ("a.pt", "b.pt"))
    model = network(width)
    with torch.no_grad():
        for alpha in torch.linspace(0, 1, POINTS).tolist():
            model.load_state_dict({name: (1 - alpha) * a[name] + alpha * b[name] for name in a})
            F.cross_entropy(model(x), y)


def ours(folder: Path, width: int) -> None:
    """The same by the toolkit."""
    import landscape

    data = tuple(torch.load(folder / "data.pt"))
    problem = landscape.Problem.from_model(functools.partial(network, width), data, "cross_entropy")
    landscape.walk(folder / "a.pt", folder / "b.pt", problem=problem, points=POINTS)


def imports(folder: Path, width: int) -> None:
    """The modules alone."""
    import landscape

    _ = landscape.walk


SIDES = {"imports": imports, "loop": loop, "ours": ours}


def main() -> int:
    """Print a line a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Show that it runs: a small network.")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, folder, width = arguments.side
        SIDES[name](Path(folder), int(width))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return 0
    width = 200 if arguments.smoke else 5000
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.pt", "b.pt"):
            torch.save(network(width).state_dict(), Path(folder, name))
        torch.save((torch.randn(64, 64), torch.randint(0, 10, (64,))), Path(folder, "data.pt"))
        size = Path(folder, "a.pt").stat().st_size / 2**20
        print(f"a network of {size:.0f} MiB, {POINTS} points; peak memory of a process, MiB")
        for name in SIDES:
            command = [sys.executable, __file__, "--side", name, folder, str(width)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"{name:8} {found.stdout.split()[-1]:>6}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
