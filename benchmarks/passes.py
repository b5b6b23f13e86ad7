"""Is `landscape connect` ever worse than a straight line, or than a plain Bézier curve of equal cost, on 100 pairs?

    python benchmarks/passes.py [--smoke]

Pairs: members i and i + 100 of checkpoints/one-step-m1-B3S23V, i = 0, ..., 99. Plain: one bend, Adam at 1e-2 on the
mean of the loss at 8 alphas a step (T. Garipov et al., NeurIPS 2018), with as many gradients as the search may take.
All maxima are those of 1,001 points; a tie is a difference of up to 1e-6 of the loss.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from landscape import Checkpoint, Result, connect, load

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"
PAIRS, BUDGET, TIE = 100, 8000, 1e-6


def part(first: int, count: int) -> Checkpoint:
    """Some members of the run."""
    every = load(str(RUN))
    rows = list(range(first, first + count))
    return Checkpoint(every.stack.select(rows), [every.sources[row] for row in rows], every.problem)


def highest(found: Result, name: str = "loss") -> np.ndarray:
    """How far the highest loss on each path lies above the higher end."""
    loss = found[name]
    return np.asarray(loss.max(axis=1) - np.maximum(loss[:, 0], loss[:, -1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few pairs, a small budget")
    smoke = parser.parse_args().smoke
    pairs, budget, points = (4, 400, 51) if smoke else (PAIRS, BUDGET, 1001)
    ends = part(0, pairs), part(100, pairs)
    began = time.monotonic()
    found = connect(*ends, budget=budget, points=points)
    middle = time.monotonic()
    plain = connect(*ends, method="bezier", bends=1, steps=budget // 8, points=points)
    took = middle - began, time.monotonic() - middle
    heights = {"straight": highest(found, "loss_straight"), "plain Bézier": highest(plain), "connect": highest(found)}
    costs = {"straight": 0.0, "plain Bézier": plain["gradients"].mean(), "connect": found["gradients"].mean()}
    print(f"{pairs} pairs, {budget} gradient evaluations each at most; height: highest loss above the higher end")
    print(f"{'':14} {'mean height':>12} {'median':>10} {'gradients':>10}   connect lower, alike, higher by at most")
    for name, height in heights.items():
        less, more = heights["connect"] < height - TIE, heights["connect"] > height + TIE
        worst = max(0.0, float((heights["connect"] - height).max()))
        counts = f"{less.sum():5} {pairs - less.sum() - more.sum():5} {more.sum():5} {worst:.2g}"
        print(f"{name:14} {height.mean():12.5f} {np.median(height):10.5f} {costs[name]:10.0f}   {counts}")
    names, counts_of = np.unique(found["method"].astype(str), return_counts=True)
    print("found by: " + ", ".join(f"{name} {count}" for name, count in zip(names, counts_of, strict=True)))
    print(f"time: connect {took[0]:.0f} s, {took[0] / took[1]:.1f} times that of the plain curves")


if __name__ == "__main__":
    main()
