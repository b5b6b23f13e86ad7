"""What do bounds of a line's highest loss cost, and by how much is a grid of 51 points low?

A row a problem: milliseconds of one processor a line for the bounds alone, amortised over the lines, the shorter of two
runs; into how many cells a line is parted; how far apart the bounds are, as a share of the highest loss, at most; and
by what share of it the highest of 51 points is low, in the median and at most.

    python benchmarks/certified.py [--smoke]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import landscape
from landscape.evaluation.certify import Certifying, certified
from landscape.evaluation.routes import Route, prepare
from landscape.problems.compute import Compute
from landscape.problems.digits import Digits
from landscape.problems.places import held

__all__ = ["main"]

RUNS = 2

REFERENCE = Path(__file__).parent.parent / "checkpoints" / "one-step-m1-B3S23V"


def row(name: str, route: Route, tolerance: float) -> None:
    """Certify the lines of a route, and print what it took."""
    compute = Compute(batchnorm="interpolate" if "BatchNorm" in name else None)
    prepared = prepare(route, compute)
    times = []
    for _ in range(RUNS):
        begun = time.process_time()
        found = certified(prepared, Certifying(certify=tolerance)).lines.columns
        times.append(time.process_time() - begun)
    options = {"batchnorm": compute.batchnorm} if compute.batchnorm else {}
    grid = landscape.walk(route.a, route.b, dtype=torch.float64, **options).loss.max(1)
    width = (found["max_upper"] - found["max_lower"]) / found["max_upper"]
    low = (found["max_upper"] - grid) / found["max_upper"]
    lines = len(width)
    print(
        f"{name:28} {tolerance:9.0e} {lines:6} {1e3 * min(times) / lines:10.1f} {found['bound_cells'].mean():6.0f} "
        f"{width.max():9.1e} {np.median(low):9.2%} {low.max():9.2%}",
        flush=True,
    )


def main() -> int:
    """Print a row a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="Show that it runs: few lines, short trainings.")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    print("1 thread, CPU, float64")
    heads = (f"{head:>{size}}" for head, size in (("cells", 6), ("apart", 9), ("51 low", 9), ("at most", 9)))
    print(f"{'problem':28} {'tolerance':>9} {'lines':>6} {'ms a line':>10}", *heads)
    lines = [f"{REFERENCE}/#{seed}" for seed in range(4 if smoke else 100)]
    for tolerance in (1e-4, 1e-6):
        row("Life m = 1, from presolve", Route(a="presolve", b=held(lines, "b")), tolerance)
    kinds = [
        ("Digits MLP 2 x 32", Digits()),
        ("Digits MLP 2 x 64", Digits(width=64)),
        ("Digits CNN 4", Digits(architecture="cnn", width=4)),
        ("Digits CNN 4, BatchNorm", Digits(architecture="cnn_bn", width=4)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, problem) in enumerate(kinds):
            training = {"batches": 5 if smoke else 500}
            run = landscape.train(problem, training, f"{folder}/{number}", seeds=range(4))
            route = Route(a=f"{run.path}/#0", b=f"{run.path}/#1")
            for tolerance in (1e-2,) if smoke else (1e-4, 1e-6):
                row(name, route, tolerance)
    return 0


if __name__ == "__main__":
    sys.exit(main())
