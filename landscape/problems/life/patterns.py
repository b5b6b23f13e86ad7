"""The 512 patterns of a 3 x 3 patch, their probabilities on random boards, and the rule's answer to each.

Pattern q has cell (i, j) live where bit 3 i + j of q is set, so bit 4 is the centre. The next state of a cell
depends on its patch alone; the mean over boards of a one-step loss is therefore a weighted sum over patterns.
"""

import functools
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from landscape.core.errors import LandscapeError
from landscape.problems.life.rules import Rule

__all__ = ["PATTERNS", "answers", "multiplicities", "probabilities"]

#: All patterns, [pattern, row, column] of 0 and 1.
PATTERNS: Int[np.ndarray, "512 3 3"] = ((np.arange(512)[:, None] >> np.arange(9)) & 1).reshape(512, 3, 3)


def answers(rule: Rule) -> Bool[np.ndarray, " 512"]:
    """The next state of the centre of each pattern.

    >>> int(answers(Rule.parse("B3/S23")).sum())
    140
    """
    return rule.step(PATTERNS)[:, 1, 1].astype(bool)


def _edge_classes(length: int) -> list[tuple[int, np.ndarray]]:
    """How many of `length` places in a row have which of (before, itself, after) on the board."""
    if length == 1:
        return [(1, np.array([0, 1, 0]))]
    classes = [(1, np.array([0, 1, 1])), (1, np.array([1, 1, 0])), (length - 2, np.array([1, 1, 1]))]
    return [(count, exists) for count, exists in classes if count]


def _cell_classes(height: int, width: int) -> list[tuple[int, Bool[np.ndarray, "3 3"]]]:
    """How many cells of a board have which of the nine cells of their patch on the board."""
    if height < 1 or width < 1:
        raise LandscapeError(f"a board of {height} x {width} has no cells: both sides must be at least 1")
    return [
        (rows * columns, np.outer(up_down, left_right).astype(bool))
        for rows, up_down in _edge_classes(height)
        for columns, left_right in _edge_classes(width)
    ]


def multiplicities(height: int, width: int) -> Int[np.ndarray, " 512"]:
    """How often each pattern stands around a cell, over all boards of fair independent cells.

    In units of 1 / (512 height width), so that the sum is 512 height width: exact integers.

    >>> int(multiplicities(10, 10)[0])
    448
    """
    total = np.zeros(512, dtype=np.int64)
    for cells, exists in _cell_classes(height, width):
        possible = ~(PATTERNS.astype(bool) & ~exists).any(axis=(1, 2))
        total += cells * 2 ** int((~exists).sum()) * possible
    return total


def probabilities(height: int, width: int, density: float = 0.5) -> Float[np.ndarray, " 512"]:
    """The probability of each pattern around a uniformly chosen cell of a board of independent cells.

    `density` is the probability that a cell of the board is live. Summed in exact rational arithmetic and rounded
    once, so that the result does not depend on the order of summation.
    """
    if not 0 <= density <= 1:
        raise LandscapeError(f"a density of {density} is no probability: choose one from 0 to 1")
    return np.array(_probabilities(height, width, density))


@functools.lru_cache(32)
def _probabilities(height: int, width: int, density: float) -> list[float]:
    live, dead = Fraction(density), 1 - Fraction(density)
    counts = PATTERNS.sum(axis=(1, 2))
    total = [Fraction(0)] * 512
    for cells, exists in _cell_classes(height, width):
        size = int(exists.sum())
        weights = [cells * live**k * dead ** (size - k) / (height * width) for k in range(size + 1)]
        for q in np.flatnonzero(~(PATTERNS.astype(bool) & ~exists).any(axis=(1, 2))):
            total[q] += weights[counts[q]]
    return [float(weight) for weight in total]
