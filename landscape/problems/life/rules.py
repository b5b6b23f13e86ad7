"""Rules of life-like cellular automata: Golly's rulestrings, and a reference step in integer arithmetic."""

import dataclasses
import re

import numpy as np
from jaxtyping import Bool, Int, Integer

from landscape.core.errors import LandscapeError

__all__ = ["Rule", "KERNELS"]

#: Neighbourhoods: 1 where a cell of the 3 x 3 patch counts as a neighbour of its centre.
KERNELS = {
    "moore": np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]),
    "von Neumann": np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]),
}

_RULESTRING = re.compile(r"B(\d*)/S(\d*)(V?)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A life-like rule: a dead cell with n live neighbours is born if n is in `birth`, a live one survives if
    n is in `survival`. Cells beyond the edge of a board are dead.

    >>> str(Rule.parse("b3/s32v")), Rule.parse("B3/S23").neighbours
    ('B3/S23V', 8)
    """

    birth: frozenset[int]
    survival: frozenset[int]
    neighbourhood: str

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read `B<digits>/S<digits>` with `V` appended for the four orthogonal neighbours.

        Raises `LandscapeError` if the text is no rulestring or counts more neighbours than there are.
        """
        match = _RULESTRING.fullmatch(text.strip())
        if match is None:
            raise LandscapeError(
                f"'{text}' is no rule: write B<digits>/S<digits>, with V at the end for the four orthogonal "
                "neighbours, such as B3/S23V or B3/S23 (Conway's)"
            )
        birth, survival = (frozenset(int(digit) for digit in match[group]) for group in (1, 2))
        rule = cls(birth, survival, "von Neumann" if match[3] else "moore")
        if too_many := sorted(n for n in birth | survival if n > rule.neighbours):
            raise LandscapeError(
                f"rule '{text}' counts {too_many[0]} neighbours, but a cell has {rule.neighbours} "
                f"({rule.neighbourhood} neighbourhood)"
            )
        return rule

    def __str__(self) -> str:
        digits = ["".join(map(str, sorted(counts))) for counts in (self.birth, self.survival)]
        return f"B{digits[0]}/S{digits[1]}" + ("V" if self.neighbourhood == "von Neumann" else "")

    @property
    def kernel(self) -> Int[np.ndarray, "3 3"]:
        """1 where a cell of the patch is a neighbour."""
        return KERNELS[self.neighbourhood]

    @property
    def neighbours(self) -> int:
        """Number of neighbours of a cell: 8 or 4."""
        return int(self.kernel.sum())

    @property
    def table(self) -> Bool[np.ndarray, "2 count"]:
        """`table[c, n]`: is a cell in state c with n live neighbours alive in the next generation?"""
        counts = range(self.neighbours + 1)
        return np.array([[n in born for n in counts] for born in (self.birth, self.survival)])

    def step(self, boards: Integer[np.ndarray, "*boards height width"]) -> Integer[np.ndarray, "*boards height width"]:
        """The next generation of boards of 0 and 1, in integer arithmetic."""
        height, width = boards.shape[-2:]
        padded = np.pad(boards, [(0, 0)] * (boards.ndim - 2) + [(1, 1), (1, 1)])
        live = sum(
            (padded[..., i : i + height, j : j + width] for i, j in np.argwhere(self.kernel)),
            start=np.zeros_like(boards),
        )
        result: np.ndarray = self.table[boards, live].astype(boards.dtype)
        return result

    def steps(
        self, boards: Integer[np.ndarray, "*boards height width"], steps: int
    ) -> Integer[np.ndarray, "*boards height width"]:
        """The board `steps` generations later."""
        for _ in range(steps):
            boards = self.step(boards)
        return boards
