"""The Game of Life as a problem: learn the state of a board some generations later.

With a single step and block the output at a cell depends on its 3 x 3 patch alone, and the objective is exact: a
weighted data set of 512 patterns. With more, boards are sampled.
"""

import dataclasses
import functools
import re
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from landscape.errors import LandscapeError, Unsupported
from landscape.objective import Batch, Metric, Objective
from landscape.params import Stack
from landscape.problem import Problem, Symmetry, option
from landscape.problems.life import boards, network, patterns, presolved
from landscape.problems.life.rules import Rule
from landscape.stacked import Stacked, features_first

__all__ = ["Life"]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "rrelu"]

#: Longest side of a board.
LARGEST_SIDE = 4096

#: Boards of the sampled objective where the caller does not say.
BOARDS = 1000


@dataclasses.dataclass(frozen=True)
class Life(Problem):
    """A convolutional network that learns a life-like rule; the default is a variant of Conway's Game of Life in which
    only the four orthogonal neighbours count (Conway's own is `B3/S23`).
    """

    name: ClassVar[str] = "life"

    rule: str = option("B3/S23V", "Golly rulestring; with V the four orthogonal neighbours count, without all eight.")
    steps: int = option(1, "Generations between input and target.")
    m_factor: int = option(1, "Width: a block has 2m, m and 1 filters.")
    d_factor: float = option(1.0, "Depth: floor(steps * d) blocks.")
    activation: Activation = option("leaky_relu", "Activation function.")
    sigmoid: bool = option(
        True, "End in a sigmoid, with cross-entropy from logits; else the output is clamped to [0, 1]."
    )
    loss: Literal["bce", "mse"] = option("bce", "Cross-entropy or squared error.")
    normalize: bool = option(False, "Shift the input, and the padding of the first block, by -1/2.")
    board: str = option("10x10", "HEIGHTxWIDTH of the boards; cells beyond the edge are dead.")
    density: float = option(0.5, "Probability that a cell of a board is live.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", str(Rule.parse(self.rule)))
        for field, least in (("steps", 1), ("m_factor", 1), ("d_factor", 0)):
            if not least <= getattr(self, field) < float("inf"):
                raise LandscapeError(f"{field} is {getattr(self, field)}, it must be at least {least} and finite")
        if self.blocks < 1:
            raise LandscapeError(
                f"floor({self.steps} x {self.d_factor}) leaves no block: raise --d-factor to {1 / self.steps:g} or more"
            )
        if self.activation not in get_args(Activation):
            raise LandscapeError(f"unknown activation '{self.activation}': choose {', '.join(get_args(Activation))}")
        if self.loss not in ("bce", "mse"):
            raise LandscapeError(f"unknown loss '{self.loss}': choose bce or mse")
        patterns.probabilities(*self.board_size, self.density)

    @property
    def blocks(self) -> int:
        """Number of blocks of the network."""
        return network.blocks(self.steps, self.d_factor)

    @property
    def board_size(self) -> tuple[int, int]:
        """Height and width of a board."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.board)
        height, width = (int(match[1]), int(match[2])) if match else (0, 0)
        if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
            raise LandscapeError(f"'{self.board}' is no board: write HEIGHTxWIDTH, such as 10x10, up to {LARGEST_SIDE}")
        return height, width

    @property
    def exact(self) -> bool:
        """Whether network and rule both see a patch of 3 x 3 cells, so that 512 patterns say everything."""
        return self.steps == self.blocks == 1

    def title(self) -> str:
        """Rule, steps, width and activation."""
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        depth = "" if self.blocks == self.steps else f", {self.blocks} block{'s' if self.blocks > 1 else ''}"
        head = " + sigmoid" if self.sigmoid else ""
        return f"Life {self.rule}, {steps}{depth}, m = {self.m_factor}, {self.activation}{head}"

    def network(self) -> nn.Module:
        """The network as the study had it: boards in, cells out."""
        return self._build()

    def objective(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
    ) -> Objective:
        """Exact for a single block and step, sampled boards (1000 unless told) for more.

        Metrics: `loss`; `accuracy`, the probability that a cell is right; `right`, patterns (exact) or boards (sampled)
        that are entirely right; `solved`, all of them.
        """
        if self.exact:
            inputs, targets, weights = self._pattern_data
            data = Batch.padded(features_first(inputs.to(device, dtype)), targets.to(device, dtype), weights.to(device))
        else:
            seeds = torch.tensor([seed], device=device)
            data = self._board_data(seeds, 0, BOARDS if samples is None else samples, dtype)
        metrics = {
            "loss": Metric(self._losses),
            "accuracy": Metric(self._cells_right),
            "right": Metric(self._cells_right if self.exact else self._all_right, "count"),
            "solved": Metric(self._cells_right if self.exact else self._all_right, "all"),
        }
        return Objective(
            network=Stacked(self._build(pad=not self.exact, logits=True)),
            data=data,
            metrics=metrics,
            predict=self._predict,
            sampled=not self.exact,
            unit="nats per cell" if self.loss == "bce" else "squared error per cell",
        )

    def training_batch(
        self, seeds: Int[Tensor, " member"], step: int, size: int, *, device: str | torch.device, dtype: torch.dtype
    ) -> Batch:
        """`size` fresh boards a seed; where the objective is exact, their counts of the 512 patterns as weights.

        The gradient is that of the boards. (RReLU and dropout then draw their numbers for each pattern, not each cell.)
        """
        seeds = seeds.to(device)
        if not self.exact:
            return self._board_data(seeds, step, size, dtype)
        height, width = self.board_size
        counts = boards.pattern_counts(seeds, step, size, height, width, self.density)
        inputs, targets, _ = self._pattern_data
        weights = counts.to(dtype) / (size * height * width)
        return Batch(features_first(inputs.to(device, dtype)), targets.to(device, dtype), weights)

    def landmarks(self) -> tuple[str, ...]:
        """`presolve`, and each design that exists for this activation, rule and depth."""
        names = []
        for name in ("presolve", *(f"presolve:{design}" for design in presolved.DESIGNS)):
            try:
                self.landmark(name)
            except Unsupported:
                continue
            names.append(name)
        return tuple(names)

    def landmark(self, name: str) -> Stack:
        """`presolve[:DESIGN][+SPARE]`: a design of the known solution, and what spare filters of a wide network do.

        Designs: post, bump, hat, trapezoid. Spare filters: split (default), zero, noise:EPS.
        """
        design, spare = self._landmark_parts(name)
        tensors = presolved.presolved(
            Rule.parse(self.rule),
            steps=self.steps,
            blocks=self.blocks,
            m_factor=self.m_factor,
            activation=self.activation,
            sigmoid=self.sigmoid,
            normalize=self.normalize,
            design=design,
            spare=spare,
        )
        return Stack({key: tensor[None] for key, tensor in tensors.items()})

    def describe_landmark(self, name: str) -> str:
        """Its name with design and spare filters, such as `presolve:hat+split`."""
        design, spare = self._landmark_parts(name)
        return f"presolve:{design}" + (f"+{spare}" if self.m_factor > 1 else "")

    def symmetry(self) -> Symmetry:
        """In each block, the filters of the first and of the second layer."""
        groups = []
        for block in range(self.blocks):
            for size, layer in ((2 * self.m_factor, 0), (self.m_factor, 2)):
                here, following = f"net.{block}.{layer}", f"net.{block}.{layer + 2}"
                groups.append((size, ((f"{here}.weight", 0), (f"{here}.bias", 0), (f"{following}.weight", 1))))
        return tuple(groups)

    def exactness(self) -> Metric:
        """Is every cell's output exactly 0 or 1, as its target?"""
        return Metric(lambda outputs, targets: _all_cells(self._output(outputs) == targets), "all")

    def _landmark_parts(self, name: str) -> tuple[str, str]:
        match = re.fullmatch(r"presolve(?::(\w+))?(?:\+(.+))?", name)
        if match is None:
            raise Unsupported(
                f"life has no landmark '{name}': write presolve, presolve:DESIGN ({', '.join(presolved.DESIGNS)}) or "
                "presolve+SPARE (split, zero, noise:EPS)"
            )
        default = presolved.default_design(
            Rule.parse(self.rule), steps=self.steps, m_factor=self.m_factor, activation=self.activation
        )
        return match[1] or default, match[2] or "split"

    def _build(self, **options: Any) -> nn.Sequential:
        return network.build(
            blocks=self.blocks,
            m_factor=self.m_factor,
            activation=self.activation,
            sigmoid=self.sigmoid,
            normalize=self.normalize,
            **options,
        )

    def _shift(self, boards: Tensor) -> Tensor:
        return boards - 0.5 if self.normalize else boards

    @functools.cached_property
    def _pattern_data(self) -> tuple[Tensor, Tensor, Tensor]:
        """The 512 patterns [sample, 1, 3, 3], the next states [1, sample, 1, 1] and probabilities [1, sample]."""
        inputs = self._shift(torch.tensor(patterns.PATTERNS[:, None], dtype=torch.float32))
        targets = torch.tensor(patterns.answers(Rule.parse(self.rule)), dtype=torch.float32)[None, :, None, None]
        weights = torch.tensor(patterns.probabilities(*self.board_size, self.density))[None]
        return inputs, targets, weights

    def _board_data(self, seeds: Tensor, step: int, count: int, dtype: torch.dtype) -> Batch:
        """Random boards of each seed and the boards `steps` generations later."""
        if count < 1:
            raise LandscapeError(f"{count} boards are no sample: ask for at least 1")
        now = boards.random_boards(seeds, step, count, *self.board_size, self.density)
        table = torch.tensor(patterns.answers(Rule.parse(self.rule)).astype(np.uint8), device=seeds.device)
        later = now
        for _ in range(self.steps):
            later = table[boards.pattern_codes(later).long()]
        return Batch.padded(self._shift(now[:, None].to(dtype)), later.to(dtype))

    def _output(self, outputs: Tensor) -> Tensor:
        """Network outputs [member, 1, sample, height, width] as values of cells."""
        return outputs.squeeze(1).sigmoid() if self.sigmoid else outputs.squeeze(1)

    def _predict(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1) > (0 if self.sigmoid else 0.5)

    def _cells_right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of the cells of each sample that are right."""
        return _per_sample(self._predict(outputs) == (targets > 0.5))

    def _all_right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Is each cell of a sample right?"""
        return _all_cells(self._predict(outputs) == (targets > 0.5))

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, the mean over its cells."""
        targets = targets.expand(outputs.shape[0], *targets.shape[1:])
        if self.loss == "mse":
            losses = F.mse_loss(self._output(outputs), targets, reduction="none")
        elif self.sigmoid:
            losses = F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
        else:
            losses = F.binary_cross_entropy(outputs.squeeze(1).clamp(0, 1), targets, reduction="none")
        return _per_sample(losses)


def _per_sample(cells: Tensor) -> Tensor:
    """Mean over the cells of each sample: [member, sample, height, width] -> [member, sample]."""
    return cells.flatten(1) if cells.shape[2:] == (1, 1) else cells.mean((2, 3), dtype=torch.float64)


def _all_cells(right: Tensor) -> Tensor:
    return right.flatten(2).all(2)
