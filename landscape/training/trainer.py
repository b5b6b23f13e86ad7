"""The steps of a training: gradients of all members, what the optimizer remembers, and their own random numbers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import Unsupported
from landscape.engine.data import Data
from landscape.engine.determinism import preserved
from landscape.engine.fused import MOMENTS, BoardBatches, Fused, FusedBoards
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Noise
from landscape.training.optimizers import OPTIMIZERS
from landscape.training.plan import Plan, initial_moments, learning_names, nothing_counts, trial

__all__ = ["Trainer"]

#: Stream of the random numbers of layer 0 in training (dropout, RReLU); layer n has the n-th after it.
_NOISE_STREAM = 2**16

#: BoardBatches, or other samples, drawn at once for as many members as they serve: bounds the memory of a step.
_DRAWN = 2**17

#: What the fused engine does at once, a tenth of a second: numbers that steps change; boards, or other samples, drawn
#: to be counted, and how many a batch counts for at least, as its weights take memory too; products on boards, and
#: batches of boards, whose drawing takes a moment each.
_CHANGED, _SEEN, _LEAST, _MULTIPLIED, _DRAWN_AT_ONCE = 2**22, 2**19, 128, 2**29, 128


class Trainer:
    """Parameters of all members, one row each, and what the optimizer remembers of them."""

    def __init__(self, plan: Plan, objective: Objective) -> None:
        self.problem, self.training, self.objective = plan.problem, plan.training, objective
        self.continued = plan.continued
        self.masks: dict[frozenset[str], Tensor] = {}
        self.optimizer = OPTIMIZERS[plan.training.optimizer]
        if objective.fused is not None and self.optimizer.moments != MOMENTS.get(plan.training.optimizer):
            raise Unsupported(
                f'`engine="fused"` knows {" and ".join(MOMENTS)}, not {plan.training.optimizer}: use `engine="stacked"`'
            )
        self.keys = torch.tensor(plan.data_seeds, dtype=torch.int64, device=objective.device)
        self.shared = torch.tensor(plan.all.data_seeds[:1], dtype=torch.int64, device=objective.device)
        chunk = objective.chunk.members
        self.group = max(chunk, _DRAWN // self.training.batch_size // chunk * chunk)
        template = objective.network.template
        frozen = template.tensors.keys() - learning_names(plan)
        self.frozen = frozenset(frozen)
        self.loss = torch.zeros(0)
        self.begin(plan.initial)
        first = self.continued.step if self.continued else 0
        with preserved(), trial():  # before anything is written, and of the fused engine also before time is measured
            if objective.fused is None:
                self._gradient(slice(0, 1), first, False)
            else:
                drawn = self._drawn(range(first, first + 1), slice(0, 1))
                self.cells = 32 * drawn.now[0, 0].numel() if isinstance(drawn, BoardBatches) else 0

    @property
    def teacher(self) -> Objective:
        """What is descended."""
        return self.objective

    @property
    def computation(self) -> Mapping[str, Any]:
        """Device, backend and chunks; the fused engine knows none."""
        found = {"device": self.objective.device.type, "backend": self.objective.backend}
        return found if self.objective.fused else {**found, "chunk": dataclasses.asdict(self.objective.chunk)}

    def begin(self, initial: Stack) -> int:
        """Start at the first step, which is returned."""
        self.flat = initial.flatten().to(self.objective.device, self.objective.dtype)
        begun = initial_moments(self.optimizer.begin(self.flat), self.continued)
        self.moments = {name: each.clone() for name, each in begun.items()}  # they are changed in place
        self.buffers = dict(initial.to(self.objective.device, self.objective.dtype).buffers)
        return 0

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> int:
        """Take up what `state` gave; returns the next step."""
        moved = {name: tensor.to(self.objective.device, copy=True) for name, tensor in tensors.items()}
        self.flat = moved.pop("parameters")
        self.moments = {name: moved.pop(name) for name in self.optimizer.moments}
        self.buffers = moved
        return int(document["step"])

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: one row a member of parameters and of each moment, and buffers."""
        return {"parameters": self.flat, **self.moments, **self.buffers}

    @property
    def stack(self) -> Stack:
        """The parameters as they are now."""
        return dataclasses.replace(self.objective.network.template.unflatten(self.flat), buffers=self.buffers)

    @property
    def at_once(self) -> int:
        """Steps that `advance` takes at once: of the fused engine so many that they take a moment."""
        if self.objective.fused is None:
            return 1
        if isinstance(self.objective.fused, FusedBoards):
            return min(_DRAWN_AT_ONCE, max(1, _MULTIPLIED // (self.cells * len(self.flat) * self.objective.fused.work)))
        if self.training.data == "batches":
            return max(1, _SEEN // (max(_LEAST, self.training.batch_size) * min(len(self.flat), self.group)))
        return max(1, _CHANGED // self.flat.numel())

    def advance(self, steps: range, *, with_loss: bool) -> None:
        """Optimizer steps of every member, `at_once` at most; `loss` is then that of the batch before the first, if it
        is asked for.
        """
        before = self.continued.step if self.continued else 0
        steps = range(steps.start + before, steps.stop + before)
        if self.objective.fused is not None:
            self._descend(self.objective.fused, steps, with_loss)
        else:
            self._step(steps.start, with_loss)

    def _descend(self, fused: Fused | FusedBoards, steps: range, with_loss: bool) -> None:
        """The steps of all members, in place."""
        size = len(self.flat) if self.training.data == "exact" else self.group
        if isinstance(fused, FusedBoards):  # of large networks few, so that Ctrl-C is heard between them
            size = min(size, max(torch.get_num_threads(), _MULTIPLIED // (self.cells * fused.work)))
        still, self.loss = self._mask(self.frozen), torch.empty(len(self.flat) if with_loss else 0, dtype=torch.float64)
        for first in range(0, len(self.flat), size):
            group = slice(first, min(first + size, len(self.flat)))
            batches = self._drawn(steps, group)
            flat, moments = self.flat[group], {name: each[group] for name, each in self.moments.items()}
            fused.descend(
                flat,
                moments,
                steps,
                lr=self.training.lr,
                momentum=self.training.momentum,
                weight_decay=self.training.weight_decay,
                batches=batches,
                learns=None if still is None else ~still[0],
                loss=self.loss[group] if with_loss else None,
            )

    def _drawn(self, steps: range, group: slice) -> Tensor | BoardBatches | None:
        """What the fused engine reads of the batches of a group; None for the objective's own data."""
        if self.training.data == "exact":
            return None
        keys = self.shared if self.training.shared_data else self.keys[group]
        return self.problem.fused_batches(keys, steps, self.training.batch_size, self.objective.dtype)

    def _step(self, step: int, with_loss: bool) -> None:
        found = [
            self._gradient(slice(first, first + self.group), step, with_loss)
            for first in range(0, len(self.flat), self.group)
        ]
        losses, gradients, statistics, reached = zip(*found, strict=True)
        gradient, self.loss = torch.cat(gradients), torch.cat(losses)
        if statistics[0]:
            self._follow({name: torch.cat([each[name] for each in statistics]) for name in statistics[0]})
        if self.training.weight_decay:  # as all else in single operations, each rounded once
            gradient = gradient + self.flat * self.training.weight_decay
        # As in PyTorch, what the loss does not reach stays, and so does what is remembered of it.
        still = self._mask(self.frozen | (self.objective.network.template.tensors.keys() - set().union(*reached)))
        before = {name: each.clone() for name, each in self.moments.items()} if still is not None else {}
        flat = self.optimizer.step(self.flat, gradient, self.moments, self.training, step)
        if still is not None:
            flat = torch.where(still, self.flat, flat)
            self.moments = {name: torch.where(still, each, self.moments[name]) for name, each in before.items()}
        self.flat = flat

    def _mask(self, names: frozenset[str]) -> Tensor | None:
        """Which numbers of a row belong to these parameters; None if there are none."""
        if names and names not in self.masks:
            template = self.objective.network.template
            flags = {name: torch.full_like(tensor, name in names) for name, tensor in template.tensors.items()}
            self.masks = {names: Stack(flags).flatten().bool().to(self.objective.device)}  # the next step has the same
        return self.masks[names] if names else None

    def _gradient(self, group: slice, step: int, with_loss: bool) -> tuple[Tensor, Tensor, dict[str, Tensor], set[str]]:
        """Loss and gradient of a group of members on its data, the statistics of BatchNorm there, and which parameters
        the loss reaches.
        """
        random = self.training.data == "batches" and self.objective.network.stochastic
        noise = self._noise(step, self.keys[group]) if random else None
        buffers = {name: tensor[group] for name, tensor in self.buffers.items()}
        stack = dataclasses.replace(self.objective.network.template.unflatten(self.flat[group]), buffers=buffers)
        statistics, reached, batch = dict[str, Tensor](), set[str](), self._batch(step, group)
        if (empty := self.objective.uncounted(batch)) is not None:
            exact = self.training.data == "exact"
            raise nothing_counts(None if exact else f"the batch of step {step} of seed {self.keys[group][empty]}")
        loss, gradient = self.objective.gradient(
            stack,
            batch,
            noise,
            with_loss=with_loss,
            statistics=statistics if self.objective.network.normalises else None,
            reached=reached,
        )
        return loss, gradient.flatten(), statistics, reached

    def _follow(self, statistics: Mapping[str, Tensor]) -> None:
        """Running statistics of BatchNorm, as PyTorch keeps them."""
        for layer, momentum in self.objective.network.momentum.items():
            prefix = f"{layer}." if layer else ""
            counter = self.buffers[f"{prefix}num_batches_tracked"] = self.buffers[f"{prefix}num_batches_tracked"] + 1
            share = 1 / counter[:, None] if momentum is None else momentum
            for name in (f"{prefix}running_mean", f"{prefix}running_var"):
                self.buffers[name] = self.buffers[name] * (1 - share) + statistics[name] * share

    def _batch(self, step: int, group: slice) -> Data:
        if self.training.data == "exact":
            return self.objective.memory
        # A batch with a leading axis of 1 is shared by all. A lone member's own batch comes twice, so that its
        # numbers go the way of many members' own batches.
        keys = self.shared if self.training.shared_data else self.keys[group]
        if len(keys) == 1 and not self.training.shared_data:
            keys = keys.repeat(2)
        return self.problem.training_batch(
            keys, step, self.training.batch_size, device=self.objective.device, dtype=self.objective.dtype
        )

    def _noise(self, step: int, all_keys: Tensor) -> Callable[[Tensor], Noise]:
        def of_members(index: Tensor) -> Noise:
            keys = all_keys[index]

            def draw(layer: int, shape: tuple[int, ...]) -> Tensor:
                count = torch.Size(shape).numel()
                numbers = philox.uniform(keys, stream=_NOISE_STREAM + layer, step=step, count=count)
                return numbers.view(len(keys), *shape)

            return draw

        return of_members
