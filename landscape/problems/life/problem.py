"""The Game of Life as a problem: learn the state of a board some generations later.

With a single step and block the output at a cell depends on its 3 x 3 patch alone, and the objective is exact: a
weighted data set of 512 patterns. With more, boards are sampled.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.fields import check
from landscape.core.resources import require_memory
from landscape.engine.answers import as_numbers
from landscape.engine.data import Batch, Data
from landscape.engine.fused import BoardBatches
from landscape.engine.kernels import binary_cross_entropy, binary_errors, binary_reference
from landscape.engine.memory import fitting_network
from landscape.engine.objective import Metric, Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Backend, Stacked, Table, features_first, leaves
from landscape.problems.base import Nouns, Problem, Renaming, option
from landscape.problems.life import boards, counting, infer, network, patterns, presolved
from landscape.problems.life.rules import Rule
from landscape.space.derivation import derived
from landscape.space.symmetry import Symmetry

__all__ = ["Life"]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "rrelu"]

#: Longest side of a board.
LARGEST_SIDE = 4096

#: Steps, and blocks of the deepest network.
MOST_BLOCKS = 1000

#: Bytes that a cell of a board takes while boards are made: drawn, for each binary digit of the density; advanced; and
#: counted, as patterns.
_DRAWN, _ADVANCED, _COUNTED = 2, 2, 20

#: Boards of the sampled objective where the caller does not say.
BOARDS = 1000

#: The step of training, never reached, whose boards serve as test.
_TEST_STEP = 2**62


@dataclasses.dataclass(frozen=True)
class Life(Problem):
    """A convolutional network that learns a life-like rule; the default is a variant of Conway's Game of Life in which
    only the four orthogonal neighbours count (Conway's own is `B3/S23`).
    """

    nouns: ClassVar[Nouns] = Nouns("boards", "patterns", "cells")

    rule: str = option("B3/S23V", "Golly rulestring; with V the four orthogonal neighbours count, without all eight.")
    steps: int = option(1, "Generations between input and target.", at_least=1)
    m_factor: int = option(1, "Width: a block has 2m, m and 1 filters.", at_least=1, at_most=100_000_000)
    d_factor: float = option(1.0, "Depth: floor(steps * d) blocks.", at_least=0)
    activation: Activation = option("leaky_relu", "Activation function (the study's --activation_fun).")
    sigmoid: bool = option(
        True,
        "End in a sigmoid (the study's --use_sigmoid), cross-entropy from logits; else bce clamps outputs to [0, 1].",
    )
    loss: Literal["bce", "mse"] = option("bce", "Cross-entropy or squared error.")
    normalize: bool = option(
        False,
        "Shift the input, and the padding of the first block, by -1/2, as the study meant its --normalize; what that "
        "did instead: --init normal_uniform --init-std 0.02 --dropout 0.4 --no-dropout-last.",
    )
    architecture: Literal["study", "paper"] = option(
        "study",
        "Three layers a block, the last with one filter; or, as in arXiv 2009.01398, two a block and one at the end.",
    )
    dropout: float = option(
        0.0, "Probability with which training drops a filter of a 3 x 3 layer on a board.", at_least=0, below=1
    )
    dropout_last: bool = option(
        True, "Drop filters of the last block too; the study's --normalize spared it.", added=True
    )
    board: str = option("10x10", "HEIGHTxWIDTH of the boards; cells beyond the edge are dead.")
    density: float = option(0.5, "Probability that a cell of a board is live.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", str(Rule.parse(self.rule)))
        check(self)
        if self.blocks < 1:
            raise LandscapeError(
                f"floor({self.steps} x {self.d_factor}) leaves no block: raise `d_factor` to {1 / self.steps:g} or more"
            )
        if max(self.steps, self.blocks) > MOST_BLOCKS:
            raise LandscapeError(
                f"{self.steps:,} steps, floor({self.steps} x {self.d_factor:g}) blocks, are too many, a network has up "
                f"to {MOST_BLOCKS:,} of each: lower `steps` or `d_factor`"
            )
        if not self.dropout_last and (self.dropout == 0 or self.blocks == 1):
            raise LandscapeError(
                f"`dropout_last` is False, but no dropout is there for it to spare the last block from, with `dropout` "
                f"{self.dropout:g} and {self.blocks} block{'s' if self.blocks > 1 else ''}: leave it out, or give both "
                "a dropout and two blocks or more"
            )
        patterns.probabilities(*self.board_size, self.density)

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        """Architecture, width and depth, from tensors named as the study's; raises `Mismatch` where they are not."""
        return infer.fields_of(shapes, given)

    @classmethod
    def rename(cls, names: Collection[str], /, **given: Any) -> Renaming:
        """The names that the study's --normalize shifted."""
        return infer.renaming(names, given)

    @classmethod
    def named_fields(cls, file_name: str) -> dict[str, Any]:
        """Steps, width, depth factor and seed, from names of the study's code."""
        return infer.named_fields(file_name)

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

    @property
    def receptive_field(self) -> int:
        """Side of the square of cells on which a cell's answer and the network's depend."""
        return 2 * max(self.steps, self.blocks) + 1

    def title(self) -> str:
        """Rule, steps, width and activation."""
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        depth = "" if self.blocks == self.steps else f", {self.blocks} block{'s' if self.blocks > 1 else ''}"
        head = " + sigmoid" if self.sigmoid else ""
        paper = ", paper's architecture" if self.architecture == "paper" else ""
        return f"Life {self.rule}, {steps}{depth}, m = {self.m_factor}, {self.activation}{head}{paper}"

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
        backend: Backend | None = None,
    ) -> Objective:
        """Exact for a single block and step, sampled boards (1000 unless told) for more; stacked unless told.

        Metrics: `loss`; `accuracy`, the probability that a cell is right; `right`, patterns (exact) or boards (sampled)
        that are entirely right; `solved`, all of them.
        """
        if self.exact:
            inputs, targets, weights = self._pattern_data
            data: Data = Batch.padded(inputs.to(device, dtype), targets.to(device, dtype), weights.to(device))
        else:
            self._require_room(BOARDS if samples is None else samples)
            keys = torch.tensor([seed], device=device)
            data = self.boards(keys, 0, BOARDS if samples is None else samples, dtype)
        return self._objective(data, dtype).with_backend(backend)

    def test_objective(
        self,
        *,
        samples: int = BOARDS,
        seed: int = 0,
        device: str | torch.device = "cpu",
        board: str = "5x5",
        density: float = 0.5,
        **conditions: Any,
    ) -> Objective:
        """Random boards that no training has seen, of 5 x 5 fair cells as in the study unless told."""
        if conditions:
            raise Unsupported(
                f"life is tested under `board` and `density`, not {', '.join(conditions)}: leave that out"
            )
        keys = torch.tensor([seed], device=device)
        test = dataclasses.replace(self, board=board, density=density)
        test._require_room(samples)
        return self._objective(test.boards(keys, _TEST_STEP, samples, torch.float32), torch.float32)

    def test_remark(self, *, board: str = "5x5", **conditions: Any) -> str:
        """Are boards smaller than what a cell's answer depends on?"""
        side = self.receptive_field
        if min(dataclasses.replace(self, board=board).board_size) >= side:
            return ""
        return (
            f"boards of {board} are smaller than the {side}x{side} cells on which a cell's answer depends: success on "
            f'them does not say that larger boards are right; try `board="{2 * side}x{2 * side}"`'
        )

    def baselines(self, objective: Objective) -> dict[str, tuple[float, float]]:
        """What answering that all is dead gets right."""
        data = objective.memory.samples(0, len(objective.memory))
        real, live = data.weights[0] > 0, data.targets[0].flatten(0, 1) > 0.5
        live = live[:, real]
        return {"all dead": (float((~live).all(0).double().mean()), float((~live).double().mean()))}

    def _objective(self, data: Data, dtype: torch.dtype) -> Objective:
        """The objective on patterns or, where the data is packed, on boards."""
        on_boards = isinstance(data, boards.PackedBoards)
        per_board = self._all_right if on_boards else self._cells_right
        # A loss of logits with a sigmoid, of outputs as they are without.
        losses = {("bce", True): nn.BCEWithLogitsLoss(), ("mse", False): nn.MSELoss()}
        known = losses.get((self.loss, self.sigmoid))
        slope = _slope if known and self.loss == "bce" else None
        metrics = {
            "loss": Metric(self._losses, slope=slope, known=known, reference=self._reference),
            "accuracy": Metric(self._cells_right),
            "right": Metric(per_board, "count"),
            "solved": Metric(per_board, "all"),
        }
        return Objective(
            network=self._stacked(on_boards=on_boards),
            data=data,
            metrics=metrics,
            predict=self._predict,
            hits=self._hits,
            soften=lambda outputs: as_numbers(self._output(outputs)),
            sampled=on_boards,
            unit="nats per cell" if self.loss == "bce" else "squared error per cell",
            precision=dtype,
        )

    def training_objective(self, data: str, *, device: str | torch.device, dtype: torch.dtype) -> Objective:
        """The exact objective; on boards that of `objective`, or, where layers draw random numbers, one that draws them
        for each cell, not for each pattern.
        """
        objective = self.objective(device=device, dtype=dtype)
        if data == "exact" or not self.exact or not objective.network.stochastic:
            return objective
        return dataclasses.replace(objective, network=self._stacked(on_boards=True))

    def training_batch(
        self, seeds: Int[Tensor, " member"], step: int, size: int, *, device: str | torch.device, dtype: torch.dtype
    ) -> Data:
        """`size` fresh boards a seed; where one step is learnt without randomness, their counts of the 512 patterns as
        weights, whose gradient is that of the boards.
        """
        seeds = seeds.to(device)
        random = self.dropout > 0 or self.activation == "rrelu"
        if not self.exact or random:
            return self.boards(seeds, step, size, dtype, codes=not random)
        height, width = self.board_size
        counts = boards.pattern_counts(seeds, step, size, height, width, self.density)
        inputs, targets, _ = self._pattern_data
        weights = counts.to(dtype) / (size * height * width)
        return Batch(inputs.to(device, dtype), targets.to(device, dtype), weights)

    def fused_batches(
        self, seeds: Int[Tensor, " member"], steps: range, size: int, dtype: torch.dtype
    ) -> Float[Tensor, "step member sample"] | BoardBatches:
        """BoardBatches, or where one step is learnt the same counts by a compiled loop."""
        if not self.exact or self.density in (0, 1):  # of which nothing is drawn
            return super().fused_batches(seeds, steps, size, dtype)
        return counting.pattern_shares(seeds, steps, size, *self.board_size, self.density, dtype)

    def batch_bytes(self, members: int, size: int) -> int:
        """Boards of one member after another where they are counted, else of all."""
        digits = 16 - (round(self.density * 2**16) & -round(self.density * 2**16)).bit_length() + 1
        counted = self.exact and not (self.dropout > 0 or self.activation == "rrelu")
        each = _DRAWN * digits + (_COUNTED if counted else _ADVANCED * members)
        return each * size * math.prod(self.board_size)

    def _require_room(self, samples: int) -> None:
        what = f"{samples:,} boards of {self.board}"
        require_memory(self.batch_bytes(1, samples), what, "take fewer `samples`, or smaller boards")

    def boards(
        self, seeds: Int[Tensor, " member"], step: int, count: int, dtype: torch.dtype, *, codes: bool = True
    ) -> boards.PackedBoards:
        """Random boards of each seed with the boards `steps` generations later.

        A GPU rather convolves than looks up `codes`, whose way back would add in no fixed order.
        """
        if count < 1:
            raise LandscapeError(f"{count} boards are no sample: ask for at least 1")
        now = boards.random_words(seeds, step, count, *self.board_size, self.density)
        later = boards.advance(now, Rule.parse(self.rule), self.steps)
        shift = -0.5 if self.normalize else 0.0
        return boards.PackedBoards(now, later, count, dtype, codes and seeds.device.type == "cpu", shift)

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
        _ = self.prototype  # if memory has room for it
        tensors = presolved.presolved(
            Rule.parse(self.rule),
            steps=self.steps,
            blocks=self.blocks,
            m_factor=self.m_factor,
            activation=self.activation,
            sigmoid=self.sigmoid,
            normalize=self.normalize,
            architecture=self.architecture,
            design=design,
            spare=spare,
        )
        return Stack({key: tensor[None] for key, tensor in tensors.items()})

    def describe_landmark(self, name: str) -> str:
        """Its name with design and spare filters, such as `presolve:hat+split`."""
        design, spare = self._landmark_parts(name)
        return f"presolve:{design}" + (f"+{spare}" if self.m_factor > 1 else "")

    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The tensors of each block; the paper's last layer belongs to its last block."""
        names = self._build().state_dict()
        last = self.blocks - 1
        return tuple(
            tuple(name for name in names if name.startswith(f"net.{block}.") or (block == last and name[:4] == "out."))
            for block in range(self.blocks)
        )

    def symmetry(self) -> Symmetry:
        """In each block the filters of the first and of the second layer, and what passes between blocks."""
        return self._symmetry

    @functools.cached_property
    def _symmetry(self) -> Symmetry:
        return derived(self.prototype, torch.eye(5)[None, None])

    def strata(self) -> Sequence[str] | None:
        """Of each pattern the state of its centre and the number of live neighbours, those that the rule counts."""
        if not self.exact:
            return None
        live = (patterns.PATTERNS * Rule.parse(self.rule).kernel).sum((1, 2))
        centres = patterns.PATTERNS[:, 1, 1]
        return [f"{'live' if centre else 'dead'}, {n} live" for centre, n in zip(centres, live, strict=True)]

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
        design = match[1] or presolved.default_design(
            Rule.parse(self.rule),
            steps=self.steps,
            m_factor=self.m_factor,
            activation=self.activation,
            architecture=self.architecture,
        )
        return design, match[2] or "split"

    def _build(self, **options: Any) -> nn.Sequential:
        make = functools.partial(
            network.build,
            blocks=self.blocks,
            m_factor=self.m_factor,
            activation=self.activation,
            sigmoid=self.sigmoid,
            normalize=self.normalize,
            architecture=self.architecture,
            dropout=self.dropout,
            dropout_last=self.dropout_last,
            **options,
        )
        return fitting_network(make, "choose a smaller `m_factor`")

    def _stacked(self, *, on_boards: bool) -> Stacked:
        """The network as a function of a stack: of boards, or of patterns."""
        module = self._build(pad=on_boards, logits=True)
        in_first_block = sum(name.startswith("net.0.") for name, _ in leaves(module))
        return Stacked(module, table=Table(self._pattern_data[0], in_first_block) if on_boards else None)

    @functools.cached_property
    def _pattern_data(self) -> tuple[Tensor, Tensor, Tensor]:
        """The 512 patterns [1, 1, 3, 3, sample], the next states [1, 1, 1, sample] and probabilities [1, sample]."""
        inputs = torch.tensor(patterns.PATTERNS[:, None], dtype=torch.float32) - (0.5 if self.normalize else 0.0)
        targets = torch.tensor(patterns.answers(Rule.parse(self.rule)), dtype=torch.float32)[None, None, None]
        weights = torch.tensor(patterns.probabilities(*self.board_size, self.density))[None]
        return features_first(inputs), targets, weights

    def _output(self, outputs: Tensor) -> Tensor:
        """Network outputs [member, 1, height, width, sample] as values of cells."""
        return outputs.squeeze(1).sigmoid() if self.sigmoid else outputs.squeeze(1)

    def _predict(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1) > (0 if self.sigmoid else 0.5)

    def _hits(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which cells are right, and which count, samples first."""
        right = self._predict(outputs) == (targets > 0.5)
        return right, torch.ones_like(right)

    def _cells_right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of the cells of each sample that are right."""
        return _per_sample(self._predict(outputs) == (targets > 0.5))

    def _all_right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Is each cell of a sample right?"""
        return _all_cells(self._predict(outputs) == (targets > 0.5))

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, the mean over its cells."""
        cells = outputs.squeeze(1)
        if self.loss == "mse":
            losses = (binary_errors(cells, targets) if self.sigmoid else cells - targets).square()
        elif self.sigmoid:
            losses = binary_cross_entropy(cells, targets)
        else:
            losses = F.binary_cross_entropy(cells.clamp(0, 1), targets.expand_as(cells), reduction="none")
        return _per_sample(losses)

    def _reference(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same by other formulas, in float64, for targets of 0 and 1."""
        cells, live = outputs.squeeze(1).double(), targets > 0.5
        if self.sigmoid and self.loss == "bce":
            return _per_sample(binary_reference(cells, targets))
        # What each cell lacks: the odds against a live one are exp(-x) to 1.
        wrong = torch.where(live, -cells, cells)
        if self.loss == "mse":
            return _per_sample(
                1 / (1 + (-wrong).exp()).square() if self.sigmoid else (cells - targets.double()).square()
            )
        right = torch.where(live, cells, 1 - cells).clamp(0, 1)
        return _per_sample(-right.log().clamp(min=-100))


def _slope(outputs: Tensor, targets: Tensor) -> Tensor:
    """Derivative of the cross-entropy from logits."""
    return binary_errors(outputs, targets[:, None]) / math.prod(targets.shape[1:-1])


def _per_sample(cells: Tensor) -> Tensor:
    """Mean over the cells of each sample: [member, height, width, sample] -> [member, sample]."""
    return cells.flatten(1) if cells.shape[1:3] == (1, 1) else cells.mean((1, 2), dtype=torch.float64)


def _all_cells(right: Tensor) -> Tensor:
    return right.flatten(1, 2).all(1)
