"""The whole loss of a small network on all patterns of a few bits, and the steps of its training, as compiled loops.

The first layer reads the n bits, pointwise layers follow, as in one step of the Game of Life on its 512 patterns. Sums
of the first layer double pattern by pattern, z[i + 2^j] = z[i] + w_j: one addition each in place of n products. The way
back folds them: the derivative in w_j is the sum of the upper half, which is then added to the lower one. Exponential
and logarithm are polynomials, which the compiler vectorises. One member after another is trained, many steps at a time,
so that all of it stays in the cache, and its numbers are those of its parameters alone, whatever is beside it.

Networks of several such blocks, which learn more steps on boards, are trained alike: the first block on the patterns,
whose answers are looked up, the others row by row of a board, with what is forth and back of a row in the cache.

numba (extra `fast`) compiles what is plain Python in `landscape.engine.loops`; the stacked engine is the referee.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.core.resources import require_memory
from landscape.engine import loops
from landscape.engine.data import Data
from landscape.engine.jit import in_threads
from landscape.engine.program.graph import leaves
from landscape.engine.stacked import Stacked

__all__ = ["MOMENTS", "BoardBatches", "Fused", "FusedBoards", "BoardBatch", "refused"]

#: Bits of a pattern.
_BITS = range(4, 17)

#: Of parameters, by what torch calls their type.
_REAL: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}

#: Products that are worth as much of a thread as a step on patterns is.
_PRODUCTS_EACH = 2**14

#: What optimizers remember, of those that are compiled.
MOMENTS = {"adam": ("mean", "square"), "sgd": ("velocity",)}

#: Of Adam, as `training/optimizers.py` has them: decay of both moments, and what keeps its quotient finite.
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class BoardBatches(NamedTuple):
    """Batches of boards, 32 to a word, and the boards to answer with, of which `size` a batch are real."""

    now: Int32[Tensor, "step members height width word"]
    later: Int32[Tensor, "step members height width word"]
    size: int


@runtime_checkable
class BoardBatch(Data, Protocol):
    """A batch of boards of each member, or one for all."""

    @property
    def now(self) -> Int32[Tensor, "members height width word"]:
        """Boards, 32 to a word."""

    @property
    def later(self) -> Int32[Tensor, "members height width word"]:
        """The boards to answer with."""

    @property
    def count(self) -> int:
        """How many are real."""

    def corner(self, boards: int, side: int) -> "BoardBatch":
        """Of some of the boards the cells of one corner, as smaller boards."""


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
    """Loss (cross-entropy from logits), share and number of right answers of many networks, and their training.

    `side` is 1 for patterns whose target is 1 and -1 for 0, in the order of their bits, `weights` are theirs. The first
    layer has `wide` units, the second `narrow`; `slope` is that of both activations below 0, and the bits are -`shift`
    and 1 - `shift`.
    """

    side: np.ndarray
    weights: np.ndarray
    wide: int
    narrow: int
    slope: float
    shift: float

    @classmethod
    def of(cls, network: Stacked, data: Data, loss: nn.Module | None, dtype: torch.dtype) -> "Fused":
        """That of a network on data in memory; raises `Unsupported`, saying why, for others, and without numba."""
        if isinstance(data, BoardBatch):
            raise refused("its data is boards, on which this engine only trains")
        (block,) = _blocks(network, 1)
        batch = data.samples(0, len(data))
        inputs = batch.inputs
        whole = network.backend == "stacked" and inputs.shape[0] == 1 and inputs.is_floating_point()
        if not whole or data.weights.device.type != "cpu":
            raise refused("it is on a GPU, or its data is not one set of numbers for all members")
        shift, targets = _shift(inputs), batch.targets.flatten().double()
        if shift is None or block.bits != len(inputs[0].flatten(0, -2)) or not ((targets == 0) | (targets == 1)).all():
            raise refused("its data is not every pattern of a few bits, in order, that the first layer reads whole")
        _require_cross_entropy(loss)
        loops.losses()
        side = (2 * targets - 1).numpy().astype(_REAL[dtype])
        weights = batch.weights[0].double().numpy().copy()
        return cls(side, weights, block.wide, block.narrow, block.slope, shift)

    def __call__(
        self, flat: Float[Tensor, "member parameter"], weights: Float[Tensor, "some pattern"] | None = None
    ) -> dict[str, Float[Tensor, " member"]]:
        """`loss`, `accuracy`, how many are `right` and whether that is all of them (`solved`), of members as rows; with
        other `weights` of the patterns, the same for all members or those of each.
        """
        rows = np.ascontiguousarray(flat.detach().numpy())
        used = self.weights[None] if weights is None else weights.double().numpy()
        loop, out = loops.losses(), np.empty((len(rows), 3))

        def part(some: slice) -> None:
            loop(rows[some], *self._shape, used if len(used) == 1 else used[some], out[some])

        in_threads(part, len(rows))
        loss, accuracy, right = torch.from_numpy(out).unbind(1)
        return {"loss": loss, "accuracy": accuracy, "right": right, "solved": (right == len(self.side)).double()}

    def descend(
        self,
        flat: Float[Tensor, "member parameter"],
        moments: Mapping[str, Tensor],
        steps: range,
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batches: Float[Tensor, "step some pattern"] | BoardBatches | None = None,
        learns: Bool[Tensor, " parameter"] | None = None,
        loss: Float[Tensor, " member"] | None = None,
    ) -> None:
        """Optimizer steps of these numbers, the first ever is 0, of members as rows, in place, by Adam or sgd as their
        `moments` are; on `batches`, other weights of the patterns at each step, the same for all members or those of
        each. What does not learn stays. `loss`, in float64, becomes that before the first of the steps.
        """
        assert not isinstance(batches, BoardBatches)
        if loss is not None:
            loss.copy_(self(flat, None if batches is None else batches[0])["loss"])
        used = self.weights.astype(self.side.dtype)[None, None] if batches is None else batches.contiguous().numpy()
        how = _Optimizer.of(moments, steps, self.side.dtype.type, lr, momentum, weight_decay)
        how.run(loops.steps(), flat, learns, len(steps), *self._shape, used)

    def gradient(
        self, flat: Float[Tensor, "member parameter"], weights: Float[Tensor, "some pattern"] | None = None
    ) -> Float[Tensor, "member parameter"]:
        """The gradient of the loss of members as rows: what the first step of gradient descent remembers."""
        velocity = torch.zeros_like(flat)
        own = None if weights is None else weights[None]
        self.descend(flat.clone(), {"velocity": velocity}, range(1), lr=1.0, batches=own)
        return velocity

    @property
    def _shape(self) -> tuple[Any, ...]:
        real: Any = self.side.dtype.type
        return real(self.slope), self.wide, self.narrow, real(self.shift), self.side


@dataclasses.dataclass(frozen=True, eq=False)
class FusedBoards:
    """Training of networks of several blocks on boards, under cross-entropy from logits, a mean over cells.

    Each block reads 3 x 3 cells by `wide` filters, then has `narrow` and one; `slope` is that of activations below 0.
    Boards have the cells -`shift` and 1 - `shift`, and dead ones around.
    """

    wide: int
    narrow: int
    blocks: int
    slope: float
    shift: float
    dtype: torch.dtype

    @classmethod
    def of(cls, network: Stacked, data: Data, loss: nn.Module | None, dtype: torch.dtype) -> "FusedBoards":
        """That of a network on boards; raises `Unsupported`, saying why, for others, and without numba, and `TooMuch`
        where memory has no room for what is forth and back of 32 boards.
        """
        if network.backend != "stacked" or network.table is None or not isinstance(data, BoardBatch):
            raise refused("its data is not boards")
        if data.now.device.type != "cpu":
            raise refused("it is on a GPU")
        layers = list(leaves(network.module))
        pads = [float(layer.value) for _, layer in layers if isinstance(layer, nn.ConstantPad2d)]
        blocks = _blocks(network, len(pads))
        shift = _shift(network.table.rows)
        alike = len(set(blocks)) == 1 and blocks[0].bits == 9
        if not alike or shift is None or pads != [-shift] + [0.0] * (len(pads) - 1):
            raise refused("its blocks are not all of one shape, padded with dead cells")
        _require_cross_entropy(loss)
        cells, width = 32 * data.now[0, ..., 0].numel(), blocks[0].wide + blocks[0].narrow
        size = torch.get_num_threads() * len(blocks) * cells * width * dtype.itemsize
        require_memory(size, "compiled loops", 'use `engine="stacked"`, or smaller boards')
        loops.board_steps()
        return cls(blocks[0].wide, blocks[0].narrow, len(blocks), blocks[0].slope, shift, dtype)

    @property
    def work(self) -> int:
        """Products of a step for each cell, forth."""
        return self.blocks * self.wide * (9 + self.narrow)

    def descend(
        self,
        flat: Float[Tensor, "member parameter"],
        moments: Mapping[str, Tensor],
        steps: range,
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batches: Tensor | BoardBatches | None = None,
        learns: Bool[Tensor, " parameter"] | None = None,
        loss: Float[Tensor, " member"] | None = None,
    ) -> None:
        """As `Fused.descend`, on these batches, one a step, of each member or for all."""
        assert isinstance(batches, BoardBatches)
        real: Any = _REAL[self.dtype]
        boards = batches.now.contiguous().numpy(), batches.later.contiguous().numpy(), batches.size
        shape = real(self.slope), self.wide, self.narrow, self.blocks, real(self.shift)
        how = _Optimizer.of(moments, steps, real, lr, momentum, weight_decay)
        losses = np.empty(0) if loss is None else loss.numpy()
        each = len(steps) * max(1, 32 * batches.now[0, 0].numel() * self.work // _PRODUCTS_EACH)
        how.run(loops.board_steps(), flat, learns, each, *shape, *boards, losses)

    def gradient(self, flat: Float[Tensor, "member parameter"], batch: BoardBatch) -> Float[Tensor, "member parameter"]:
        """The gradient of the loss of members as rows on a batch."""
        velocity = torch.zeros_like(flat)
        batches = BoardBatches(batch.now[None], batch.later[None], batch.count)
        self.descend(flat.clone(), {"velocity": velocity}, range(1), lr=1.0, batches=batches)
        return velocity


class _Optimizer(NamedTuple):
    """What the loops read of an optimizer: of Adam the corrections of each step; both moments, the same for sgd."""

    first: np.ndarray
    second: np.ndarray
    corrections: np.ndarray
    adam: bool
    constants: np.ndarray

    @classmethod
    def of(
        cls, moments: Mapping[str, Tensor], steps: range, real: Any, lr: float, momentum: float, weight_decay: float
    ) -> "_Optimizer":
        adam = "mean" in moments
        first, second = (moments[name].numpy() for name in (MOMENTS["adam"] if adam else MOMENTS["sgd"] * 2))
        corrections = np.array([[1 - beta ** (step + 1) for beta in _BETAS] for step in steps]).astype(real)
        constants = np.array([*_BETAS, *(1 - beta for beta in _BETAS), _EPSILON, lr, momentum, weight_decay], real)
        return cls(first, second, corrections, adam, constants)

    def run(self, loop: Any, flat: Tensor, learns: Tensor | None, each: int, *rest: Any) -> None:
        """Call the loop for members as rows, in as many threads as there is work for."""
        rows = flat.numpy()
        learnt = np.ones(rows.shape[1], dtype=bool) if learns is None else learns.numpy()

        def part(some: slice) -> None:
            members = rows[some], self.first[some], self.second[some], some.start
            loop(*members, self.corrections, self.adam, self.constants, learnt, *rest)

        in_threads(part, len(rows), each)


class _Block(NamedTuple):
    """A convolution that reads `bits` numbers by `wide` filters, and pointwise ones with `narrow` and one."""

    bits: int
    wide: int
    narrow: int
    slope: float


def _blocks(network: Stacked, count: int) -> list[_Block]:
    """The blocks of a network that has so many; raises `Unsupported` for others."""
    layers = [each for _, each in leaves(network.module) if not isinstance(each, nn.Identity | nn.ConstantPad2d)]
    kinds = [nn.Conv2d, nn.LeakyReLU] * (3 * count)
    slopes = {getattr(layer, "negative_slope", 0.0) for layer in layers if not isinstance(layer, nn.Conv2d)}
    if len(layers) + 1 != len(kinds) or not all(
        type(layer) is kind or (kind is nn.LeakyReLU and type(layer) is nn.ReLU)
        for layer, kind in zip(layers, kinds, strict=False)
    ):
        raise refused("its layers are other than convolution, rectifier, convolution, rectifier, convolution")
    products = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    found = []
    for first, second, third in zip(*(products[k::3] for k in range(3)), strict=True):
        block = _Block(first.weight[0].numel(), len(first.weight), len(second.weight), max(slopes))
        shapes = [(1, block.bits), (block.wide, block.wide), (block.narrow, block.narrow)]
        if (
            len(slopes) > 1
            or block.wide % 2  # filters are taken in pairs
            or len(third.weight) != 1
            or any(
                layer.bias is None
                or layer.groups != 1
                or layer.padding_mode != "zeros"
                or {*layer.stride, *layer.dilation} != {1}
                or any(layer.padding)
                for layer in (first, second, third)
            )
            or [(layer.weight.shape[1], layer.weight[0].numel()) for layer in (first, second, third)] != shapes
        ):
            raise refused("its convolutions are other than one that reads 3 x 3 cells and two pointwise ones")
        found.append(block)
    return found


def _shift(inputs: Tensor) -> float | None:
    """What is taken off the bits of all patterns of a few of them, in their order; None for other inputs."""
    values = inputs[0].flatten(0, -2).double()
    bits, shift = len(values), -float(values.min())
    if bits not in _BITS or values.shape[1] != 2**bits or not ((values + shift == 0) | (values + shift == 1)).all():
        return None
    codes = ((values + shift).long() * 2 ** torch.arange(bits)[:, None]).sum(0)
    return shift if codes.tolist() == list(range(2**bits)) else None


def _require_cross_entropy(loss: nn.Module | None) -> None:
    if not isinstance(loss, nn.BCEWithLogitsLoss):
        raise refused("its loss is not the cross-entropy from logits")


def refused(why: str) -> Unsupported:
    """The error for a problem that the fused engine does not serve."""
    return Unsupported(
        f'`engine="fused"` does not serve this problem ({why}): it is for the Game of Life with relu or leaky_relu and '
        'a sigmoid under bce, evaluates one step, and trains more of the architecture study; use `engine="stacked"`'
    )
