"""What a network learns by its own forward: the batches of each step, and the loss that the step descends."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.live import copied
from landscape.engine.readings import Tally

__all__ = ["Lessons"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Lessons:
    """A network, batches, and its user's own loss of a batch.

    Args:
        module: The network; copies of it are trained.
        loss: The loss of a batch as the user's own loop finds it, a scalar.
        tally: What a batch adds to the loss over all data.
        batch: From seeds, the place of one of them, a step and a number of samples to the batch that this seed sees.
        every: Gives all batches of the training data.
        own_batches: Whether batches are the user's own, of sizes of their own.
        learning: Names of the parameters that learn; the others stay as they are.
        l2: Adds so much times half of the square of what learns to the loss.
        in_training: Whether networks are put in training, or left as they are.
        device: Where to compute.
        dtype: In which numbers.
    """

    module: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    tally: Callable[[nn.Module, Any], Tally]
    batch: Callable[[Sequence[int], int, int, int], Any]
    every: Callable[[], Iterable[Any]]
    own_batches: Callable[[], bool]
    learning: frozenset[str]
    l2: float
    in_training: bool
    device: torch.device
    dtype: torch.dtype

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the module that has loaded a state dict, ready to be trained."""
        made = copied(self.module, device=self.device, dtype=self.dtype)
        made.load_state_dict(state, strict=False)  # what is tied is there once
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(name in self.learning)
        return made.train() if self.in_training else made

    def descend(self, network: nn.Module, batch: Any) -> Tensor:
        """Leave the gradient of a batch's loss in the network's parameters; the loss."""
        loss = self.loss(network, batch)
        _backward(loss)
        return loss.detach()

    def penalty(self, network: nn.Module) -> Tensor:
        """What the parameters that learn add to the loss."""
        squares = [each.detach().square().sum() for name, each in network.named_parameters() if name in self.learning]
        return torch.stack(squares).sum() * (self.l2 / 2)

    def descend_all(self, network: nn.Module) -> tuple[Tensor, Tensor | float]:
        """Leave the gradient of the sum over all data in the network's parameters; that sum, and what it is to be
        divided by.
        """
        tallies = []
        for batch in self.every():
            tally = self.tally(network, batch)
            _backward(tally.total)
            tallies.append(tally.detach())
        whole = Tally.added(tallies)
        return whole.total, 1.0 if whole.count is None else whole.count


def _backward(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise Unsupported("the loss does not depend on any parameter that learns, so it cannot be trained")
    torch.autograd.backward(loss)
