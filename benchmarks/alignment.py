"""Barriers between independently trained networks, as they are and aligned, beside a published implementation.

Networks that read handwritten digits are trained from several seeds; the loss is walked between all pairs of them, on
test data. The peer is `rebasin` (PyPI), weight matching by coordinate descent after S. Ainsworth, J. Hayase, S.
Srinivasa, *Git Re-Basin*, ICLR 2023; where it is not installed its column says so. `orders` is our matching without
scales and signs. Printed are means over pairs with the lowest and the highest (too few seeds for intervals), and on how
many pairs the aligned barrier is lower than the peer's.

`--smoke` does all of it once and small, in seconds.
"""

import argparse
import copy
import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import landscape
from landscape.engine.stack import Stack
from landscape.problems.base import Problem
from landscape.problems.registry import create
from landscape.space.alignment import match
from landscape.space.symmetry import Symmetry

try:
    from rebasin import PermutationCoordinateDescent
except ImportError:
    PermutationCoordinateDescent = None


@dataclasses.dataclass(frozen=True)
class Size:
    """Which networks, how many seeds of each, for how long they train, and points of a line."""

    networks: tuple[Mapping[str, Any], ...] = (
        {"width": 8},
        {"width": 64},
        {"width": 256},
        {"architecture": "cnn", "width": 16},
        {"architecture": "cnn_bn", "width": 16},
    )
    seeds: int = 6
    batches: int = 1000
    points: int = 25


SIZES = {"full": Size(), "smoke": Size(({"width": 4}, {"architecture": "cnn", "width": 2}), 2, 5, 3)}


def orders_alone(problem: Problem, a: Stack, b: Stack) -> Stack:
    """The matching of units, without scales and signs."""
    plain = (dataclasses.replace(group, scalings=(), flips=()) for group in problem.symmetry())
    return match(b, a, Symmetry(tuple(plain))).stack


def by_rebasin(problem: Problem, a: Stack, b: Stack) -> Stack:
    """What the peer makes of the second network; it learns the layers from a batch."""
    one, other = (_module(problem, stack) for stack in (a, b))
    few = problem.training_data().inputs[:32]  # type: ignore[attr-defined]
    PermutationCoordinateDescent(one, other, few).rebasin()
    state = other.state_dict()
    return Stack(*({name: state[name][None] for name in part} for part in (b.tensors, b.buffers)))


def _module(problem: Problem, stack: Stack) -> nn.Module:
    module = copy.deepcopy(problem.network())
    module.load_state_dict(stack.state_dict(0))
    return module.eval()


def compare(fields: Mapping[str, Any], size: Size, folder: Path) -> None:
    """Train, walk between all pairs and print a row a way of choosing representatives."""
    problem = create("digits", dict(fields))
    test = create("digits", {**fields, "on": "test"})
    run = landscape.train(problem, {"batches": size.batches, "lr": 3e-3}, folder, seeds=range(size.seeds))
    members = [each.stack for each in run.checkpoint().members()]
    ways: dict[str, Callable[[Stack, Stack], Stack]] = {
        "stored": lambda a, b: b,
        "orders": lambda a, b: orders_alone(problem, a, b),
        "aligned": lambda a, b: landscape.align(a, b, problem=problem).network,
    }
    if PermutationCoordinateDescent is not None:
        ways["rebasin"] = lambda a, b: by_rebasin(problem, a, b)
    heights = {name: np.full((size.seeds, size.seeds), np.nan) for name in ways}
    lengths = {name: np.full((size.seeds, size.seeds), np.nan) for name in ways}
    for i, j in itertools.combinations(range(size.seeds), 2):
        for name, choose in ways.items():
            ends = (members[i].state_dict(0), choose(members[i], members[j]).state_dict(0))
            line = landscape.walk(*ends, problem=test, points=size.points)
            heights[name][i, j] = heights[name][j, i] = landscape.barriers(line).above_chord[0]
            lengths[name][i, j] = lengths[name][j, i] = line["l2"][0]
    print(f"{problem.title()}, {size.seeds} seeds, {size.batches} batches, test data:")
    for name in ways:
        print(f"  {name:8} barrier {_mean(heights[name])} nats, length {_mean(lengths[name])}")
    if "rebasin" not in ways:
        print("  rebasin  is not installed: pip install -c constraints.txt '.[benchmark]'")
        return
    ours, peer = (heights[name][np.triu_indices(size.seeds, 1)] for name in ("aligned", "rebasin"))
    print(f"  ours lower on {(ours < peer).sum()} of {len(ours)} pairs, as high on {(ours == peer).sum()}")


def _mean(pairs: np.ndarray) -> str:
    return f"{np.nanmean(pairs):.3g} ({np.nanmin(pairs):.3g} to {np.nanmax(pairs):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="once and small")
    size = SIZES["smoke" if parser.parse_args().smoke else "full"]
    logging.getLogger("landscape").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, fields in enumerate(size.networks):
            compare(fields, size, Path(folder) / str(number))


if __name__ == "__main__":
    main()
