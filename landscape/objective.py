"""The landscape's height: a function from a stack of parameters to numbers, one a member.

Members and samples are evaluated in chunks that keep activations in the cache of a CPU and within a bound on a GPU,
whatever the number of members. Sums run in float64.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from landscape.chain import Chain
from landscape.errors import LandscapeError, Mismatch, Unverified
from landscape.params import Stack
from landscape.stacked import Noise, Stacked

__all__ = ["Batch", "Chunk", "Data", "Metric", "Objective", "choose_chunk"]

#: Bytes of the widest activation of a chunk: about a core's cache on a CPU, a small share of the memory on a GPU.
ACTIVATION_BYTES = {"cpu": 2**20, "cuda": 2**28}

#: The same in training on a CPU where each member has data of its own, and how many members then make a chunk at most.
OWN_BYTES, OWN_MEMBERS = 10 * 2**20, 20

#: Sample axes are padded to a multiple of this with weight zero, and members come in multiples of at least this half:
#: vector units then never treat a member's numbers differently for its place.
SAMPLE_MULTIPLE = 32
MEMBER_MULTIPLE = 16


@runtime_checkable
class Data(Protocol):
    """Weighted samples, of which a part at a time is needed as a `Batch`.

    `weights` sum to 1 over real samples; a sample of weight zero is padding and counts nowhere.
    """

    @property
    def weights(self) -> Float[Tensor, "members_of_weights sample"]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def members(self, index: Tensor) -> "Data":
        """The part that belongs to the members at `index`."""

    def samples(self, start: int, stop: int) -> "Batch":
        """A range of samples; both ends are multiples of 32, or the last end is that of all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Data in memory, samples last; a leading axis of 1 is shared by all members.

    Inputs that are integers stand for rows of the network's table (see `landscape.stacked.Table`).
    """

    inputs: Shaped[Tensor, "members feature *space sample"]
    targets: Shaped[Tensor, "members_of_targets *target sample"]
    weights: Float[Tensor, "members_of_weights sample"]

    @classmethod
    def padded(cls, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> "Batch":
        """A batch whose sample axis is filled up to a multiple of 32 with samples of weight zero.

        Without `weights` each sample weighs the same.
        """
        count = inputs.shape[-1]
        if weights is None:
            weights = torch.full((1, count), 1 / count, dtype=torch.float64, device=inputs.device)
        extra = -count % SAMPLE_MULTIPLE
        if extra:
            inputs, targets = (
                torch.cat([each, each[..., :1].repeat_interleave(extra, -1)], -1) for each in (inputs, targets)
            )
            weights = torch.cat([weights, weights.new_zeros(weights.shape[0], extra)], 1)
        return cls(inputs, targets, weights)

    def __len__(self) -> int:
        return self.inputs.shape[-1]

    def members(self, index: Tensor) -> "Batch":
        """The part that belongs to the members at `index`."""
        inputs, targets, weights = (
            tensor if tensor.shape[0] == 1 else tensor[index] for tensor in (self.inputs, self.targets, self.weights)
        )
        return Batch(inputs, targets, weights)

    def samples(self, start: int, stop: int) -> "Batch":
        """A range of samples."""
        return Batch(self.inputs[..., start:stop], self.targets[..., start:stop], self.weights[:, start:stop])


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number for each sample, and how samples become one number a member.

    `per_sample(outputs, targets)` gives [member, sample]. `mean` weighs the samples; `count` adds them up, each
    real sample once; `all`, for samples that are 0 or 1, is 1 where every real one is. Metrics with one `per_sample`
    compute it once. `slope(outputs, targets)`, where it is given, is the derivative of each sample's number
    in the outputs, in their shape; training then needs no autograd for it.
    """

    per_sample: Callable[[Tensor, Tensor], Tensor]
    reduction: Literal["mean", "count", "all"] = "mean"
    slope: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Members and samples that are evaluated at once; stored with every result, since rounding can depend on it."""

    members: int
    samples: int


def choose_chunk(network: Stacked, data: Data, *, training: bool = False, most: int | None = None) -> Chunk:
    """Sizes at which the widest activation of a chunk has about `ACTIVATION_BYTES`, and a bounded number of members on
    a CPU: small chunks waste little on a short last one (a line of 51 points).

    For `training` chunks are larger: a backward pass has more operations to pay for. Where each member has data of its
    own, products are member by member anyway, and chunks have few members, as many in each. There are at `most` so many
    members: no chunk is larger than it takes for them.
    """
    inputs = data.samples(0, SAMPLE_MULTIPLE).inputs
    device = inputs.device.type
    budget = ACTIVATION_BYTES.get(device, ACTIVATION_BYTES["cuda"]) * (2 if training else 1)
    width = network.widest(inputs) * (inputs.dtype.itemsize if inputs.is_floating_point() else 4)
    threads = torch.get_num_threads() if device == "cpu" else 1
    if training and inputs.shape[0] > 1:
        return _own_chunk(width, len(data), math.lcm(2, threads), device, most)
    fitting = 4 * budget // (MEMBER_MULTIPLE * width)
    samples = min(len(data), max(SAMPLE_MULTIPLE, fitting // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE))
    # A multiple of the thread count too: elementwise operations split a chunk evenly over threads, and a split inside a
    # vector would make rounding depend on the place.
    multiple = math.lcm(MEMBER_MULTIPLE, threads)
    members = round(budget / (samples * width) / multiple) * multiple
    if device == "cpu":
        members = min(members, (256 if training else 64) // multiple * multiple, _filled(most, multiple))
    return Chunk(max(multiple, members), samples)


def _filled(most: int | None, multiple: int) -> int:
    """The smallest multiple that holds `most`."""
    return 2**62 // multiple * multiple if most is None else -(-most // multiple) * multiple


def _own_chunk(width: int, samples: int, multiple: int, device: str, all_members: int | None) -> Chunk:
    """Members with data of their own: up to twenty on a CPU, as many in each chunk; on a GPU all that fit."""
    budget, most = (OWN_BYTES, OWN_MEMBERS) if device == "cpu" else (ACTIVATION_BYTES["cuda"] * 4, 2**16)
    members = max(multiple, min(most, 8 * budget // (SAMPLE_MULTIPLE * width)) // multiple * multiple)
    # Samples as for a full chunk: how they are parted decides how a member's gradient is summed, and its noise.
    fitting = budget // (members * width) // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE
    if all_members is not None:
        members = _filled(-(-all_members // -(-all_members // members)), multiple)
    return Chunk(members, min(samples, max(SAMPLE_MULTIPLE, fitting)))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """A network, weighted data, a loss and metrics: `objective(stack)` gives a dict of float64 tensors, one a member.

    `metrics` holds at least `loss`, a weighted mean. Where the data is a `sampled` part of what is meant, each mean
    comes with its standard error over samples, under its name and `_se`. `predict` turns outputs into decisions,
    [member, *target, sample]. `unit` is that of the loss. With `chunk` None a size is chosen for the device, with
    `precision` None the type of the data's numbers is taken.
    """

    network: Stacked
    data: Data
    metrics: Mapping[str, Metric]
    predict: Callable[[Tensor], Tensor]
    sampled: bool = False
    unit: str = ""
    chunk: Chunk | None = None
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        if "loss" not in self.metrics or self.metrics["loss"].reduction != "mean":
            raise LandscapeError("an objective needs a metric 'loss' whose samples are averaged")
        if self.chunk is None:
            object.__setattr__(self, "chunk", choose_chunk(self.network, self.data))

    @property
    def device(self) -> torch.device:
        """Where the data is, and where stacks are evaluated."""
        return self.data.weights.device

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Element type of the computation."""
        dtype = self.data.samples(0, SAMPLE_MULTIPLE).inputs.dtype
        return self.precision or (dtype if dtype.is_floating_point else torch.float32)

    def __call__(self, stack: Stack) -> dict[str, Float[Tensor, " member"]]:
        """Loss and metrics of each member."""
        parts = [self._reduce(part, self.data, self.network) for _, part in self.chunks(stack)]
        return {name: torch.cat([part[name] for part in parts])[: len(stack)] for name in parts[0]}

    @torch.no_grad()
    def predictions(self, stack: Stack) -> Shaped[Tensor, "member *target sample"]:
        """The decision of each member on each real sample."""
        parts = []
        for _, part in self.chunks(stack):
            decisions = [self.predict(self.network(part, some.inputs)) for some in self._sample_chunks(self.data)]
            parts.append(torch.cat(decisions, -1)[..., self.data.weights[0] > 0])
        return torch.cat(parts)[: len(stack)]

    def gradient(
        self,
        stack: Stack,
        batch: Data | None = None,
        noise: Callable[[Tensor], Noise] | None = None,
        *,
        with_loss: bool = True,
    ) -> tuple[Float[Tensor, " member"], Stack]:
        """Loss of each member (NaN unless it is asked for) and its gradient, on another batch if one is given.

        `noise`, if given, makes the source of randomness of the members at an index.
        """
        batch = self.data if batch is None else batch
        parts = [
            self._gradient(part, batch.members(index), noise(index) if noise else None, with_loss)
            for index, part in self.chunks(stack)
        ]
        losses, gradients = zip(*parts, strict=True)
        return torch.cat(losses)[: len(stack)], stack.unflatten(torch.cat(gradients)[: len(stack)])

    def loss(self, stack: Stack, batch: Batch | None = None, noise: Noise | None = None) -> Float[Tensor, " member"]:
        """Loss of each member as one differentiable graph, unchunked: for derivatives of any order."""
        batch = self.data.samples(0, len(self.data)) if batch is None else batch
        return self._weighed_loss(batch, self.network(stack, batch.inputs, noise))

    def plain(self, state_dict: Mapping[str, Tensor]) -> dict[str, float]:
        """The same numbers from the plain module's own forward: the referee of every fast path."""
        stack = Stack({name: tensor[None].to(self.device, self.dtype) for name, tensor in state_dict.items()})
        values = self._reduce(stack, self.data, self._plain_network)
        return {name: float(value[0]) for name, value in values.items()}

    @functools.cached_property
    def _plain_network(self) -> Stacked:
        return Stacked(self.network.module, backend="loop", table=self.network.table)

    def check_deterministic(self, stack: Stack) -> None:
        """Raise `Unverified` if the same call does not give the same numbers twice."""
        first, second = self(stack), self(stack)
        for name, values in first.items():
            if not torch.equal(values.nan_to_num(), second[name].nan_to_num()):
                raise Unverified(
                    f"the objective is not deterministic: two calls differ in {name}. Look for dropout or BatchNorm in "
                    "training mode, or data drawn anew at each call"
                )

    def chunks(self, stack: Stack) -> Iterator[tuple[Tensor, Stack]]:
        """Chunks of the stack on the objective's device, each with the places of its members."""
        assert self.chunk is not None
        if not len(stack):
            raise Mismatch("an empty stack has no values")
        last = len(stack) - 1
        for number, part in enumerate(stack.chunks(self.chunk.members)):
            start = number * self.chunk.members
            index = torch.arange(start, start + self.chunk.members, device=self.device).clamp_(max=last)
            yield index, part.to(self.device, self.dtype)

    def _sample_chunks(self, data: Data) -> Iterator[Batch]:
        assert self.chunk is not None
        for start in range(0, len(data), self.chunk.samples):
            yield data.samples(start, min(start + self.chunk.samples, len(data)))

    @torch.no_grad()
    def _reduce(self, stack: Stack, batch: Data, network: Stacked) -> dict[str, Tensor]:
        """Values of one chunk of members over all samples."""
        # Metrics that reduce the same numbers share them: weighted sum, sum over real samples, weighted sum of squares.
        functions = {metric.per_sample for metric in self.metrics.values()}
        totals = {each: torch.zeros(3, len(stack), dtype=torch.float64, device=self.device) for each in functions}
        real = int((batch.weights > 0).sum())
        for part in self._sample_chunks(batch):
            outputs = network(stack, part.inputs)
            weights = part.weights[0].double()
            exists = (weights > 0).double()
            for per_sample, total in totals.items():
                values = per_sample(outputs, part.targets).double()
                total[0] += values @ weights
                total[1] += values @ exists
                if self.sampled:
                    total[2] += values.square() @ weights
        result = {}
        for name, metric in self.metrics.items():
            mean, count, square = totals[metric.per_sample]
            result[name] = {"mean": mean, "count": count, "all": (count == real).double()}[metric.reduction]
            if self.sampled and metric.reduction == "mean":
                variance = (square - mean.square()).clamp_(min=0)
                result[f"{name}_se"] = (variance / max(real - 1, 1)).sqrt()
        return result

    def _gradient(self, stack: Stack, data: Data, noise: Noise | None, with_loss: bool) -> tuple[Tensor, Tensor]:
        """Loss and flat gradient of one chunk of members, accumulated over chunks of samples."""
        loss = torch.full((len(stack),), 0.0 if with_loss else math.nan, dtype=self.dtype, device=self.device)
        if self._chain and noise is None:

            def slope(part: Batch, outputs: Tensor) -> Tensor:
                nonlocal loss
                if with_loss:
                    loss = loss + self._weighed_loss(part, outputs)
                return self._pull(part, outputs)

            gradient = self._chain.gradient(stack, self._sample_chunks(data), slope)
            return loss, gradient
        gradient = torch.zeros(len(stack), stack.parameters, dtype=stack.dtype, device=stack.device)
        for number, part in enumerate(self._sample_chunks(data)):
            source = _own_streams(noise, number) if noise else None
            leaves = Stack({name: tensor.detach().requires_grad_() for name, tensor in stack.tensors.items()})
            part_loss = self.loss(leaves, part, source)
            pieces = torch.autograd.grad(part_loss.sum(), list(leaves.tensors.values()))
            gradient = gradient + torch.cat([piece.flatten(1) for piece in pieces], dim=1)
            loss = loss + part_loss.detach()
        return loss, gradient

    @functools.cached_property
    def _chain(self) -> Chain | None:
        return Chain.of(self.network)

    def _weighed_loss(self, batch: Batch, outputs: Float[Tensor, "member out *space sample"]) -> Tensor:
        return self._weigh(self.metrics["loss"].per_sample(outputs, batch.targets), batch)

    def _pull(self, batch: Batch, outputs: Float[Tensor, "member out *space sample"]) -> Tensor:
        """Derivative of the weighed loss in the outputs."""
        slope = self.metrics["loss"].slope
        if slope is not None:
            weights = batch.weights.to(outputs.dtype)
            return slope(outputs, batch.targets) * weights.view(len(weights), *[1] * (outputs.ndim - 2), -1)
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (pull,) = torch.autograd.grad(self._weighed_loss(batch, leaf).sum(), leaf)
        return pull

    def _weigh(self, losses: Float[Tensor, "member sample"], batch: Batch) -> Float[Tensor, " member"]:
        weights = batch.weights.to(losses.dtype)
        return losses @ weights[0] if len(weights) == 1 else (losses * weights).sum(1)


def _own_streams(noise: Noise, number: int) -> Noise:
    """The noise of one chunk of samples: other streams than those of the rest."""
    return lambda layer, shape: noise(layer + 4096 * number, shape)
