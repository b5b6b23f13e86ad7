"""What a network learns by its own forward: the batches of each step, and the loss that the step descends."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.live import copied
from landscape.engine.readings import Tally

__all__ = ["Lessons", "NothingCounts"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Lessons:
    """A network, batches, and its user's own loss of a batch.

    Args:
        module: The network; copies of it are trained.
        loss: The loss of a batch as the user's own loop finds it, a scalar.
        tally: What a batch adds to the loss over all data.
        batch: From seeds, the place of one of them, a step and a number of samples to the batch that this seed sees.
        called: From the same to what an error calls that batch.
        every: Gives all batches of the training data.
        own_batches: Whether batches are the user's own, of sizes of their own.
        learning: Names of the parameters that learn; the others stay as they are.
        l2: Adds so much times half of the square of what learns to the loss.
        in_training: Whether networks are put in training, or left as they are.
        alone: Whether gradients go to the network's parameters and nowhere else, which reentrant checkpoints
            (`torch.utils.checkpoint`) do not allow.
        device: Where to compute.
        dtype: In which numbers.
    """

    module: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    tally: Callable[[nn.Module, Any], Tally]
    batch: Callable[[Sequence[int], int, int, int], Any]
    called: Callable[[Sequence[int], int, int, int], str]
    every: Callable[[], Iterable[Any]]
    own_batches: Callable[[], bool]
    learning: frozenset[str]
    l2: float
    in_training: bool
    device: torch.device
    dtype: torch.dtype
    alone: bool = True

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the module that has loaded a state dict, ready to be trained."""
        made = copied(self.module, device=self.device, dtype=self.dtype)
        made.load_state_dict(state, strict=False)  # what is tied is there once
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(name in self.learning)
        return made.train() if self.in_training else made

    def descend(self, network: nn.Module, batch: Any) -> Tensor:
        """Leave the gradient of a batch's loss in the network's parameters, and none in other tensors; the loss.

        Raises `NothingCounts` for a batch whose count is 0, `Unsupported` if no parameter that learns is reached.
        """
        loss = self.loss(network, batch)
        if not loss.isfinite() and _is_zero(self.tally(network, batch).count):
            raise NothingCounts("the loss of a batch in which nothing counts is 0 / 0")
        self._backward(network, [loss])
        return loss.detach()

    def _backward(self, network: nn.Module, losses: Iterable[Tensor]) -> None:
        own = [each for each in network.parameters() if each.requires_grad]
        for loss in losses:
            if loss.requires_grad:
                torch.autograd.backward(loss, inputs=own if self.alone else None)
        if all(each.grad is None for each in own):
            raise Unsupported(
                "the loss does not depend on any parameter that learns, so it cannot be trained: let it read the model "
                "that it is given"
            )

    def penalty(self, network: nn.Module) -> Tensor:
        """What the parameters that learn add to the loss."""
        squares = [each.detach().square().sum() for name, each in network.named_parameters() if name in self.learning]
        return torch.stack(squares).sum() * (self.l2 / 2)

    def descend_all(self, network: nn.Module) -> tuple[Tensor, Tensor | float]:
        """Leave the gradient of the sum over all data in the network's parameters; that sum, and what it is to be
        divided by. Raises as `descend` does.
        """
        tallies = list[Tally]()

        def totals() -> Iterator[Tensor]:
            for batch in self.every():
                tally = self.tally(network, batch)
                tallies.append(tally.detach())
                yield tally.total

        self._backward(network, totals())
        whole = Tally.added(tallies)
        if _is_zero(whole.count):
            raise NothingCounts("the loss of data in which nothing counts is 0 / 0")
        return whole.total, 1.0 if whole.count is None else whole.count


class NothingCounts(LandscapeError):
    """A loss is a ratio of sums, and what it divides by is 0."""


def _is_zero(count: Tensor | float | None) -> bool:
    return count is not None and float(count) == 0
