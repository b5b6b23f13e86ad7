"""Steps of a training by each network's own forward and its user's own loss, one member after another."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.fields import fields_of
from landscape.engine.determinism import preserved, reseed
from landscape.engine.lessons import Lessons, NothingCounts
from landscape.engine.live import is_spread
from landscape.engine.stack import Stack
from landscape.training.optimizers import OPTIMIZERS
from landscape.training.plan import Plan, Training, initial_moments, learning_names, nothing_counts, trial

__all__ = ["PlainTrainer"]


class PlainTrainer:
    """A live network a member, whose parameters that learn are views of one row, as the optimizer reads them.

    Batches and all random numbers of a step are those of a member's data seed and of the step alone. Raises `Mismatch`,
    before anything is written, for a loss that does not run in training.
    """

    #: Steps that `advance` takes at once.
    at_once = 1

    def __init__(self, plan: Plan, lessons: Lessons) -> None:
        self.training, self.lessons, self.initial = plan.training, lessons, plan.initial
        self.continued = plan.continued
        self.optimizer = OPTIMIZERS[plan.training.optimizer]
        shared, exact = plan.training.shared_data, plan.training.data == "exact"
        self.seeds = plan.all.data_seeds[:1] * len(plan.data_seeds) if shared or exact else plan.data_seeds
        template = plan.initial
        self.names = [name for name in template.tensors if name in learning_names(plan)]
        ends = itertools.accumulate(template.tensors[name][0].numel() for name in self.names)
        starts = itertools.chain([0], ends)
        self.segments = [slice(*pair) for pair in itertools.pairwise(starts)]
        self.loss = torch.zeros(0)
        self._try()

    @property
    def teacher(self) -> Lessons:
        """What is descended."""
        return self.lessons

    @property
    def computation(self) -> Mapping[str, Any]:
        """Device and backend."""
        return {"device": self.lessons.device.type, "backend": "plain"}

    def begin(self, initial: Stack) -> int:
        """Start at the first step, which is returned."""
        self.networks = [self.lessons.network(initial.state_dict(member)) for member in range(len(initial))]
        self.parameters = [dict(network.named_parameters()) for network in self.networks]
        self.rows = [self._row(parameters) for parameters in self.parameters]
        begun = map(self.optimizer.begin, self.rows)
        self.moments = [initial_moments(each, self.continued, member) for member, each in enumerate(begun)]
        return 0

    def _row(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The parameters that learn in one row, of which they become views."""
        row = torch.cat([parameters[name].detach().flatten() for name in self.names])[None]
        for name, segment in zip(self.names, self.segments, strict=True):
            parameters[name].data = row[0, segment].view(parameters[name].shape)
        return row

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> int:
        """Take up what `state` gave; returns the next step."""
        self.begin(self.initial)
        given = dict(tensors)
        for member, row in enumerate(self.rows):
            row.copy_(given["parameters"][member])
            for name, moment in self.moments[member].items():
                moment.copy_(given[name][member])
        beside = {name: each for name, each in given.items() if name in self.initial.buffers}
        for member, network in enumerate(self.networks):
            network.load_state_dict({name: each[member] for name, each in beside.items()}, strict=False)
        return int(document["step"])

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: one row a member of parameters and of each moment, and buffers."""
        moments = {name: torch.cat([each[name] for each in self.moments]) for name in self.optimizer.moments}
        return {"parameters": torch.cat(self.rows), **moments, **self.stack.buffers}

    @property
    def stack(self) -> Stack:
        """The networks as they are now."""
        states = [network.state_dict() for network in self.networks]

        def column(name: str) -> Tensor:
            return torch.stack([state[name].detach() for state in states])

        return Stack(*({name: column(name) for name in part} for part in (self.initial.tensors, self.initial.buffers)))

    def advance(self, steps: range, *, with_loss: bool) -> None:
        """One optimizer step of every member; `loss` is then that of the batch before it, if it is asked for."""
        step = steps.start + (self.continued.step if self.continued else 0)
        losses = [self._step(member, step, with_loss) for member in range(len(self.networks))]
        self.loss = torch.stack(losses)

    def _step(self, member: int, step: int, with_loss: bool) -> Tensor:
        network, row, moments = self.networks[member], self.rows[member], self.moments[member]
        parameters = [self.parameters[member][name] for name in self.names]
        for parameter in parameters:
            parameter.grad = None
        loss, count = self._descend(network, member, step)
        decay = self.training.weight_decay + self.lessons.l2
        with torch.no_grad():
            gradient = torch.cat([_dense(each) for each in parameters])[None]
            if count is not None:
                gradient, loss = gradient / count, loss / count
            if with_loss and self.lessons.l2:
                loss = loss + self.lessons.penalty(network)
            if decay:
                gradient = gradient + row * decay
            # As in PyTorch, a parameter without a gradient stays, and so does what is remembered of it; one with a
            # penalty has one.
            idle = [part for part, each in zip(self.segments, parameters, strict=True) if each.grad is None]
            idle = [] if self.lessons.l2 else idle
            kept = [(each, part, each[:, part].clone()) for part in idle for each in (row, *moments.values())]
            self.optimizer.advance(row, gradient, moments, self.training, step)
            for each, part, before in kept:
                each[:, part] = before
        return loss

    def _descend(self, network: nn.Module, member: int, step: int) -> tuple[Tensor, Tensor | float | None]:
        """Leave the gradient of a step in the network; the loss there, and what both are to be divided by."""
        reseed(self.seeds[member] % 2**32, self.seeds[member] >> 32, step)
        exact, which = self.training.data == "exact", (self.seeds, member, step, self.training.batch_size)
        try:
            if exact:
                return self.lessons.descend_all(network)
            return self.lessons.descend(network, self.lessons.batch(*which)), None
        except NothingCounts as error:
            raise nothing_counts(None if exact else self.lessons.called(*which)) from error

    def _try(self) -> None:
        """Raise an error of one line for what cannot be trained."""
        if self.training.data != "exact" and self.lessons.own_batches():
            usual = fields_of(Training)["batch_size"].default
            if self.training.batch_size != usual:
                raise LandscapeError("the training data is batches of its own, one a step: leave `batch_size` out")
        network = self.lessons.network(self.initial.state_dict(0))
        if is_spread(network):
            raise Unsupported("the network lies on several devices, where it is not trained: give it on one")
        first = self.continued.step if self.continued else 0
        with preserved(), trial():
            try:
                self._descend(network, 0, first)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                self.lessons = dataclasses.replace(self.lessons, alone=False)
                self._descend(network, 0, first)


def _dense(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in one row; zero where it has none."""
    if parameter.grad is None:
        return torch.zeros_like(parameter).flatten()
    return (parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad).flatten()
