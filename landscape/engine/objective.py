"""The landscape's height: a function from a stack of parameters to numbers, one a member.

Members and samples are evaluated in chunks that keep activations in the cache of a CPU and within a bound on a GPU,
whatever the number of members; data that is streamed is read once for all members. Sums run in float64.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported, Unverified
from landscape.engine.answers import Answers, Hits, as_numbers
from landscape.engine.chain import Chain
from landscape.engine.data import SAMPLE_MULTIPLE, Batch, Data, Stream
from landscape.engine.determinism import culprit, mixes_samples
from landscape.engine.fused import BoardBatch, Fused, FusedBoards, refused
from landscape.engine.live import naming_sparse
from landscape.engine.memory import AUTOMATIC, Chunk, choose_chunk
from landscape.engine.stack import Stack, in_order
from landscape.engine.stacked import Backend, Noise, Stacked, Statistics

__all__ = ["BatchNorm", "Between", "Members", "Metric", "Objective", "PerSample", "Sampling", "Share"]

#: What stands for the statistics of BatchNorm at a point between checkpoints: they are estimated anew at each point;
#: those of the ends, interpolated; or those that the stack brings along, whatever its parameters.
BatchNorm = Literal["recalibrate", "interpolate", "keep"]

#: Samples of one batch in which statistics are estimated.
CALIBRATION_BATCH = 512

#: So many members for each end make it worth while to go between; and bytes at most.
_MANY, _ENTERED_BYTES = 4, 2**27

#: Boards and their side, at most, on which gradients of the compiled loop are compared, since rounding grows with the
#: cells; and the least number beside which they are, as derivatives in the outputs, numbers near 1, may cancel.
_BOARDS, _SIDE, _SLANT = 64, 16, 1e-2

#: From outputs and targets, samples last.
PerSample = Callable[..., Tensor]

_log = logging.getLogger("landscape")
T = TypeVar("T")
P = ParamSpec("P")


@runtime_checkable
class Members(Protocol):
    """Points of parameter space, a chunk of which at a time is needed as a stack; a `Stack` is one."""

    def __len__(self) -> int: ...

    def chunks(self, size: int) -> Iterator[Stack]:
        """Stacks of exactly `size` members; the last is filled up with its own last member."""


@runtime_checkable
class Between(Members, Protocol):
    """Members that lie on straight lines between few `ends`."""

    @property
    def ends(self) -> Stack | None: ...  # noqa: D102

    def between(self, values: Tensor, index: Tensor) -> Tensor:
        """For the members at an index what is affine in the parameters, from its values at the ends."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number for each sample, and how samples become one number a member.

    `per_sample(outputs, targets)` gives [member, sample]. `mean` weighs the samples; `count` adds them up, each
    real sample once; `all`, for samples that are 0 or 1, is 1 where every real one is. Metrics with one `per_sample`
    compute it once. With `counts(targets)`, [1 or member, sample], a mean is the ratio of both sums.
    `slope(outputs, targets)`, where it is given, is the derivative of each sample's number
    in the outputs, in their shape; training then needs no autograd for it. `known` is the one of PyTorch's losses,
    in its setting, that it is, if any. `reference` is the same number by another formula, which the referee takes
    (`Objective.plain`): an error of the first is no error of both.
    """

    per_sample: PerSample
    reduction: Literal["mean", "count", "all"] = "mean"
    slope: PerSample | None = None
    counts: Callable[[Tensor], Tensor] | None = None
    known: nn.Module | None = None
    reference: PerSample | None = None


class Share(NamedTuple):
    """Some of the samples of a data set: their `data`, as an objective's `each` reads it, the loss of stacks on them by
    the `referee`, and what all that `each` says of them is multiplied with, to be that of the whole data.
    """

    data: Any
    referee: Callable[[Stack], Float[Tensor, " member"]]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Sampling:
    """A data set in memory of which a part may be taken, because its loss is an average over samples: how many these
    are, their `classes`, where targets are some, whether they were `drawn` independently, so that parts of them are
    consecutive ones, from multiples of 32 on, and a `share` of them by their numbers.
    """

    samples: int
    classes: Int[Tensor, " sample"] | None
    drawn: bool
    share: Callable[[Int[Tensor, " index"]], Share]


class _Sums(NamedTuple):
    """Sums over samples of the numbers of each member: weighed, of real samples alone, and, weighed by squared weights,
    of the numbers and of their squares.
    """

    weighed: Tensor
    real: Tensor
    first: Tensor
    second: Tensor


def _within_memory(method: Callable[Concatenate["Objective", P], T]) -> Callable[Concatenate["Objective", P], T]:
    """The method, tried again with half the chunk each time that the device runs out of memory."""

    @functools.wraps(method)
    def call(self: "Objective", /, *arguments: P.args, **options: P.kwargs) -> T:
        while True:
            try:
                return method(self, *arguments, **options)
            except (MemoryError, RuntimeError) as error:
                full = isinstance(error, MemoryError | torch.OutOfMemoryError)
                if not full and "can't allocate memory" not in str(error):
                    raise
                if (smaller := self.chunk.halved()) is None:
                    raise LandscapeError(
                        f"one network on {self.chunk.samples} samples does not fit the memory of {self.device}: choose "
                        "another device, or a smaller network"
                    ) from error
            _log.warning("out of memory with chunks of %s: going on with %s", self.chunk, smaller)
            self.chunk = smaller
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()

    return call


@dataclasses.dataclass(eq=False, kw_only=True)
class Objective:
    """A network, weighted data, a loss and metrics: `objective(stack)` gives a dict of float64 tensors, one a member.

    `metrics` holds at least `loss`, a weighted mean. Where the data is a `sampled` part of what is meant, each mean
    comes with its standard error over samples, under its name and `_se`. `predict` turns outputs into decisions,
    [member, *target, sample], `soften` into probabilities, [member, *target, value, sample], and `hits` says which are
    right and which count. `unit` is that of the loss. An `AUTOMATIC` chunk has a size chosen for the device; where
    memory runs out it is halved for all that follows. With `precision` None the type of the data's numbers is taken;
    with `autocast` the network, but not the loss, runs in this type where PyTorch deems it safe.

    A network with BatchNorm has a policy, `batchnorm`: with `recalibrate` each point gets statistics of its own,
    estimated on the samples of `calibration`; else they are those of the stack's buffers.

    What is `fused` gives all metrics in one loop, or trains in one; derivatives and outputs are still the network's.
    """

    network: Stacked
    data: Data | Stream
    metrics: Mapping[str, Metric]
    predict: Callable[[Tensor], Tensor]
    soften: Callable[[Tensor], Tensor] = as_numbers
    hits: Hits | None = None
    sampled: bool = False
    unit: str = ""
    chunk: Chunk = AUTOMATIC
    precision: torch.dtype | None = None
    autocast: torch.dtype | None = None
    batchnorm: BatchNorm | None = None
    calibration: Batch | None = None
    fused: Fused | FusedBoards | None = None

    def __post_init__(self) -> None:
        if "loss" not in self.metrics or self.metrics["loss"].reduction != "mean":
            raise LandscapeError("an objective needs a metric 'loss' whose samples are averaged")
        if self.network.normalises and self.batchnorm is None:
            self.batchnorm = "recalibrate" if self.calibration is not None else "interpolate"
        if self.batchnorm == "recalibrate" and self.calibration is None:
            raise LandscapeError("statistics of BatchNorm cannot be recalibrated without data to estimate them on")
        if self.chunk == AUTOMATIC:
            self.chunk = choose_chunk(self.network, self.data)

    @property
    def device(self) -> torch.device:
        """Where the data is, and where stacks are evaluated."""
        return self.data.device if isinstance(self.data, Stream) else self.data.weights.device

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Element type of the computation."""
        if self.precision is not None:
            return self.precision
        data = self.data.first if isinstance(self.data, Stream) else self.data
        dtype = data.samples(0, SAMPLE_MULTIPLE).inputs.dtype
        return dtype if dtype.is_floating_point else torch.float32

    @property
    def module(self) -> nn.Module:
        """The plain module; it is never changed."""
        return self.network.module

    @property
    def template(self) -> Stack:
        """The module's own parameters and buffers."""
        return self.network.template

    @property
    def backend(self) -> str:
        """How it is computed."""
        return "fused" if self.fused is not None else self.network.backend

    @property
    def streamed(self) -> bool:
        """Whether the data is read anew at each pass."""
        return isinstance(self.data, Stream)

    @property
    def shares_first_layer(self) -> bool:
        """Whether members between others may take their first layer's sums from those of these."""
        return self.network.entrance is not None

    @property
    def one_chunk(self) -> bool:
        """Whether all data is a chunk of samples."""
        return not isinstance(self.data, Stream) and self.chunk.samples >= len(self.data)

    @property
    def memory(self) -> Data:
        """The data, if it is in memory; raises `Unsupported` for a stream."""
        if isinstance(self.data, Stream):
            raise Unsupported("this needs all data at once, which is streamed here: give it as tensors")
        return self.data

    @functools.cached_property
    def samples(self) -> int:
        """Number of real samples; of streamed data known after reading it once."""
        return sum(int((data.weights > 0).any(0).sum()) for data in self._parts())

    @property
    def calibration_samples(self) -> int:
        """Number of samples on which statistics of BatchNorm are estimated."""
        return int(self.calibration.real.sum()) if self.calibration is not None else 0

    def with_backend(self, backend: Backend | None, chunk: Chunk = AUTOMATIC) -> "Objective":
        """The same objective, computed otherwise; itself where nothing else is asked for."""
        if backend in (None, self.backend) and chunk in (AUTOMATIC, self.chunk):
            return self
        network = Stacked(self.network.module, backend=backend, table=self.network.table)
        return dataclasses.replace(self, network=network, chunk=chunk, fused=None)

    def with_fused(self, *, training: bool = False) -> "Objective":
        """The same objective by one compiled loop, which is compared with this one first, as its gradients are for
        `training`; on boards it only trains, and values are this one's. Raises `Unsupported` where network, data or
        loss are not of its kind, and `Unverified` if it does not agree.
        """
        if self.autocast is not None:
            raise Unsupported('`engine="fused"` computes in full precision alone: use `engine="stacked"`')
        if self.metrics.keys() != {"loss", "accuracy", "right", "solved"}:
            raise refused("it has other metrics")
        data, known = self.memory, self.metrics["loss"].known
        flat = self.template.to(self.device, self.dtype).flatten()
        near = 1e-4 if self.dtype == torch.float32 else 1e-10
        if training and isinstance(data, BoardBatch):
            boards = FusedBoards.of(self.network, data, known, self.dtype)
            some = data.corner(_BOARDS, _SIDE)
            gradient, referee = boards.gradient(flat, some), self.gradient(self.template, some, None, with_loss=False)
            made = dataclasses.replace(self, fused=boards)
        else:
            fused = Fused.of(self.network, data, known, self.dtype)
            made = dataclasses.replace(self, fused=fused)
            found, wanted = made(self.template), self(self.template)
            for name, value in wanted.items():
                if not torch.allclose(found[name], value, rtol=near, atol=0):
                    numbers = f"{name} {float(found[name]):.9g}, the stacked one {float(value):.9g}"
                    raise Unverified(f"the fused engine gives {numbers}: use another, and please report it")
            if not training:
                return made
            gradient, referee = fused.gradient(flat), self.gradient(self.template, data, None, with_loss=False)
        slope = referee[1].flatten()
        error = (gradient - slope).abs().max()
        if not error <= near * max(float(slope.abs().max()), _SLANT):
            raise Unverified(
                f"the fused engine gives a gradient that is off by {float(error):.3g}: use another, and please report "
                "it"
            )
        return made

    @_within_memory
    def __call__(self, members: Members) -> dict[str, Float[Tensor, " member"]]:
        """Loss and metrics of each member."""
        if isinstance(self.fused, Fused):
            parts = members.chunks(len(members)) if isinstance(members, Stack) else members.chunks(self.chunk.members)
            rows = [part.to(self.device, self.dtype).flatten() for part in parts]
            return self.fused(torch.cat(rows)[: len(members)])
        return self._values(members, self.network)

    def plain(self, members: Members | Mapping[str, Tensor]) -> dict[str, Float[Tensor, " member"]]:
        """The same numbers from the plain module's own forward, one network after another: the referee of every fast
        path. Takes a state dict too. Metrics that have a `reference` are computed by it.
        """
        if isinstance(members, Mapping):
            single = Stack({name: tensor[None] for name, tensor in members.items()})
            members = in_order(single, self.network.template, name="the state dict")
        others = {
            name: dataclasses.replace(metric, per_sample=metric.reference or metric.per_sample)
            for name, metric in self.metrics.items()
        }
        return dataclasses.replace(self, metrics=others)._values(members, self._plain_network)

    @torch.no_grad()
    def predictions(self, stack: Stack) -> Shaped[Tensor, "member *target sample"]:
        """The decision of each member on each real sample."""
        parts = []
        for _, part in self.chunks(stack):
            decisions = [
                self.predict(self._forward(part, batch.inputs))[..., batch.weights[0] > 0] for batch in self.batches()
            ]
            parts.append(torch.cat(decisions, -1))
        return torch.cat(parts)[: len(stack)]

    @torch.no_grad()
    def answers(self, stack: Stack) -> Answers:
        """The decisions of each member at each place that counts, and which are right."""
        found = list[Answers]()
        for _, part in self.chunks(stack):
            batches = list[list[Answers]]()
            for batch in self.batches():
                real = batch.weights[0] > 0
                outputs = self._forward(part, batch.inputs)[..., real]
                targets = batch.targets[0][..., real].movedim(-1, 0)
                decisions = zip(self.predict(outputs).movedim(-1, 1), outputs.movedim(-1, 1), strict=True)
                batches.append([Answers.of(each, self.hits and self.hits(out, targets)) for each, out in decisions])
            found.append(Answers.stacked([Answers.joined(each) for each in zip(*batches, strict=True)]))
        return Answers.stacked(found).of_first(len(stack))

    @torch.no_grad()
    def scores(self, stack: Stack) -> Iterator[Float[Tensor, "member value"]]:
        """The probabilities that members give, or their outputs, at all places that count, a batch at a time."""
        for batch in self.batches():
            real, found = batch.weights[0] > 0, list[Tensor]()
            targets = batch.targets[0][..., real].movedim(-1, 0)
            for _, part in self.chunks(stack):
                outputs = self._forward(part, batch.inputs)[..., real]
                for made, out in zip(self.soften(outputs).movedim(-1, 1), outputs.movedim(-1, 1), strict=True):
                    counted = self.hits(out, targets)[1] if self.hits else None
                    found.append(Answers.soft(made, counted).decisions)
            yield torch.cat(found[: len(stack)])

    @property
    def sampling(self) -> Sampling | None:
        """How to take a part of the data; None where it is exact, or streamed."""
        if not self.sampled or isinstance(self.data, Stream):
            return None
        data = self.data
        targets = data.targets[0, data.real] if isinstance(data, Batch) and data.targets.ndim == 2 else None

        def share(index: Tensor) -> Share:
            part = data.part(index)
            alone = dataclasses.replace(self, data=part, chunk=AUTOMATIC)
            return Share(part, lambda stack: alone.plain(stack)["loss"], float(data.weights[0, index].sum()))

        classes = targets if targets is not None and targets.dtype == torch.int64 else None
        return Sampling(self.samples, classes, not isinstance(data, Batch), share)

    @_within_memory
    @torch.no_grad()
    def each(
        self, members: Members, shares: Sequence[Data], anew: Sequence[dict[str, Tensor]] | None = None
    ) -> tuple[Float[Tensor, "member sample"], Float[Tensor, " sample"]]:
        """What each sample of some shares of the data adds to the loss of each member, and to what that divides by: the
        loss on these samples is the ratio of both sums. Of each member `anew` holds the statistics of BatchNorm that
        were estimated when it was evaluated before, or is filled with them.
        """
        metric, rows, counts = self.metrics["loss"], list[Tensor](), list[Tensor]()
        for index, part in self._chunks(members, self.network):
            kept = [{} if anew is None else anew[place] for place in index.tolist()]
            if all(kept):
                found_anew = {name: torch.stack([each[name] for each in kept]) for name in kept[0]}
                part = dataclasses.replace(part, buffers={**part.buffers, **found_anew})
            elif self.batchnorm == "recalibrate":
                part = self._calibrated(part, self.network)
                for row, each in enumerate(kept):
                    each.update({name: tensor[row] for name, tensor in part.buffers.items()})
            found = list[Tensor]()
            for batch in (batch for data in shares for batch in self._sample_chunks(data)):
                real, weights = batch.real, batch.weights[0]
                losses = metric.per_sample(self._forward(part, batch.inputs), batch.targets)
                found.append((losses.double() * weights)[:, real])
                if not rows:
                    count = weights if metric.counts is None else weights * metric.counts(batch.targets)[0]
                    counts.append(count[real])
            rows.append(torch.cat(found, 1))
        return torch.cat(rows)[: len(members)], torch.cat(counts)

    @_within_memory
    def gradient(
        self,
        stack: Stack,
        batch: Data | None = None,
        noise: Callable[[Tensor], Noise] | None = None,
        *,
        with_loss: bool = True,
        statistics: dict[str, Tensor] | None = None,
        reached: set[str] | None = None,
    ) -> tuple[Float[Tensor, " member"], Stack]:
        """Loss of each member (NaN unless it is asked for) and its gradient, on another batch if one is given.

        `noise`, if given, makes the source of randomness of the members at an index. With a dict of `statistics`,
        BatchNorm normalises as in training, by the batch itself, whose statistics the dict is filled with. `reached` is
        filled with the names of the parameters on which the loss depends.
        """
        losses, gradients, found = [], [], list[dict[str, Tensor]]()
        for index, part in self._chunks(stack, self.network):
            source, collected = noise(index) if noise else None, dict[str, Tensor]()
            if batch is None:
                part, batches, counts = self._calibrated(part, self.network), self.batches(), self._all_counts
            else:
                own = batch.members(index)
                batches, counts = self._sample_chunks(own), self._loss_counts([own.samples(0, len(own))])
            training = collected if statistics is not None else None
            loss, gradient = self._gradient(part, batches, counts, source, with_loss, training, reached)
            losses.append(loss)
            gradients.append(gradient)
            found.append(collected)
        if statistics is not None:
            statistics |= {name: torch.cat([each[name] for each in found])[: len(stack)] for name in found[0]}
        return torch.cat(losses)[: len(stack)], stack.unflatten(torch.cat(gradients)[: len(stack)])

    def loss(
        self,
        stack: Stack,
        batch: Batch | None = None,
        noise: Noise | None = None,
        statistics: Statistics | None = None,
    ) -> Float[Tensor, " member"]:
        """Loss of each member as one differentiable graph, unchunked: for derivatives of any order.

        Statistics of BatchNorm are those of the stack's buffers, held fixed.
        """
        batch = self.memory.samples(0, len(self.memory)) if batch is None else batch
        return self._weighed_loss(batch, self._forward(stack, batch.inputs, noise, statistics), self._all_counts)

    def parted_loss(self, stack: Stack, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The loss of each member taken apart: outputs, as they hang on the parameters, the same held as leaves of a
        graph of their own, and the loss of these.
        """
        outputs = self._forward(stack, batch.inputs)
        held = outputs.detach().requires_grad_()
        return [outputs], [held], self._weighed_loss(batch, held, self._all_counts)

    def loss_of(self, outputs: Float[Tensor, "member *out sample"], batch: Batch) -> Float[Tensor, " member"]:
        """What a batch adds to the loss of each member, of outputs that are known."""
        return self._weighed_loss(batch, outputs, self._all_counts)

    def batches(self) -> Iterator[Batch]:
        """All data in batches of the size of a chunk, whose weights sum to 1 over all batches."""
        for data in self._parts():
            for batch in self._sample_chunks(data):
                if isinstance(self.data, Stream):
                    batch = dataclasses.replace(batch, weights=batch.weights / self._total_weight)
                yield batch

    def check_deterministic(self, stack: Stack) -> None:
        """Raise `Unverified`, naming the cause, if the same call does not give the same numbers twice, or if the answer
        to a sample depends on the samples beside it.

        Of streamed data two batches are tried; all of it is compared with the first pass whenever it is read again.
        """
        part = stack.to(self.device, self.dtype)
        few = [data for data, _ in zip(self._parts(), range(2), strict=False)]
        network = self._plain_network
        run = functools.partial(network, part.select([0]))
        first, second = (self._values(stack, self.network, parts=few) for _ in range(2))
        if isinstance(self.data, Stream):
            for _ in zip(self._parts(), few, strict=False):
                pass
        for name, values in first.items():
            if not torch.equal(values.nan_to_num(), second[name].nan_to_num()):
                cause = culprit(network.module, lambda: run(few[0].samples(0, SAMPLE_MULTIPLE).inputs[:1]))
                raise Unverified(f"the objective is not deterministic: two calls differ in {name}. {cause}")
        alone = few[0].samples(0, SAMPLE_MULTIPLE).real_alone().inputs[:1]
        if reason := mixes_samples(network.module, run, alone, samples=-1):
            raise Unverified(reason)

    def statistics(self, stack: Stack) -> dict[str, Tensor]:
        """By name what BatchNorm normalises by at a single member, where that is not what its buffers say."""
        if self.batchnorm != "recalibrate":
            return {}
        single = dataclasses.replace(self, chunk=Chunk(1, self.chunk.samples))
        return {name: each[0] for _, part in single.chunks(stack) for name, each in part.buffers.items()}

    def chunks(self, members: Members) -> Iterator[tuple[Tensor, Stack]]:
        """Chunks of the members on the objective's device, each with the places of its members; with `recalibrate`
        their buffers hold statistics of their own.
        """
        for index, part in self._chunks(members, self.network):
            yield index, self._calibrated(part, self.network)

    def _chunks(self, members: Members, network: Stacked) -> Iterator[tuple[Tensor, Stack]]:
        if not len(members):
            raise Mismatch("an empty stack has no values")
        size = 1 if network.backend == "loop" else self.chunk.members
        for number, part in enumerate(members.chunks(size)):
            index = torch.arange(number * size, (number + 1) * size, device=self.device).clamp_(max=len(members) - 1)
            yield index, part.to(self.device, self.dtype)

    def _parts(self) -> Iterable[Data]:
        """The data as it is read: at once from memory, or batch by batch."""
        return self.data if isinstance(self.data, Stream) else (self.data,)

    def _sample_chunks(self, data: Data) -> Iterator[Batch]:
        for start in range(0, len(data), self.chunk.samples):
            yield data.samples(start, min(start + self.chunk.samples, len(data)))

    def _shown(self, data: Data, network: Stacked) -> Iterator[Batch]:
        """The chunks of samples as a network sees them: the plain module never sees padding."""
        for batch in self._sample_chunks(data):
            padded = network.backend == "loop" and not bool((batch.weights > 0).any(0).all())
            yield batch.real_alone() if padded else batch

    def _forward(
        self,
        stack: Stack,
        inputs: Tensor,
        noise: Noise | None = None,
        statistics: Statistics | None = None,
        network: Stacked | None = None,
    ) -> Tensor:
        network = network or self.network
        if self.autocast is None:
            return network(stack, inputs, noise, statistics)
        with torch.autocast(self.device.type, dtype=self.autocast):
            return network(stack, inputs, noise, statistics).to(self.dtype)

    @torch.no_grad()
    def _calibrated(self, part: Stack, network: Stacked) -> Stack:
        """A chunk with statistics of BatchNorm estimated at each of its members: means over batches of the
        calibration data of each batch's mean and unbiased variance (as `torch.optim.swa_utils.update_bn`, but that
        batches weigh by their size and that dropout is off).
        """
        if self.batchnorm != "recalibrate":
            return part
        assert self.calibration is not None
        size = _calibration_members(network, self.calibration, self.device)
        groups = [self._statistics(group, network) for group in part.chunks(min(size, len(part)))]
        found = {name: torch.cat([group[name] for group in groups])[: len(part)] for name in groups[0]}
        return dataclasses.replace(part, buffers={**part.buffers, **found})

    def _statistics(self, part: Stack, network: Stacked) -> dict[str, Tensor]:
        assert self.calibration is not None
        data, total, sums = self.calibration, 0, dict[str, Tensor]()
        for start in range(0, len(data), CALIBRATION_BATCH):
            batch = data.samples(start, min(start + CALIBRATION_BATCH, len(data)))
            if (count := int(batch.real.sum())) < 2:  # one sample has no variance
                continue
            collector = Statistics(batch.real)
            self._forward(part, batch.inputs, None, collector, network)
            for name, value in collector.found.items():
                sums[name] = sums.get(name, 0) + value.double() * count
            total += count
        return {name: (value / total).to(self.dtype) for name, value in sums.items()}

    @torch.no_grad()
    def _values(self, members: Members, network: Stacked, parts: Iterable[Data] | None = None) -> dict[str, Tensor]:
        """Values of all members: parts of the data outermost, so that what is streamed is read once."""
        # Metrics that reduce the same numbers share them.
        functions = set(self._reductions)
        totals: list[dict[PerSample, _Sums]] = []
        buffers: list[Mapping[str, Tensor]] = []
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # of weights, and of their squares
        real = 0
        for number, data in enumerate(self._parts() if parts is None else parts):
            entered = self._entered(members, data, network)
            for place, (index, part) in enumerate(self._chunks(members, network)):
                if number == 0:
                    part = self._calibrated(part, network)
                    buffers.append(part.buffers)
                    zeros = torch.zeros(4, len(part), dtype=torch.float64, device=self.device)
                    totals.append({each: _Sums(*zeros.clone()) for each in functions})
                part = dataclasses.replace(part, buffers=buffers[place])
                first = (members.between(each, index) for each in entered) if isinstance(members, Between) else ()
                self._add(totals[place], part, data, network, first)
            weights = data.weights[0].double()
            sums += torch.stack([weights.sum(), weights.square().sum()])
            real += int((weights > 0).sum())
        every = {each: zip(*(total[each] for total in totals), strict=True) for each in functions}
        joined = {each: _Sums(*(torch.cat(parts)[: len(members)] for parts in found)) for each, found in every.items()}
        return self._reduced(joined, real, sums)

    def _add(
        self,
        totals: Mapping[PerSample, _Sums],
        part: Stack,
        data: Data,
        network: Stacked,
        entered: Iterable[Tensor],
    ) -> None:
        """Add a chunk of members over some data to their sums. What has `entered` the network may be known."""
        padded = isinstance(self.data, Stream) or self.samples != len(data)
        for batch, first in zip_longest(self._shown(data, network), entered):
            if first is None:
                outputs = self._forward(part, batch.inputs, network=network)
            else:
                outputs = network(part, batch.inputs, entered=first)
            weights = batch.weights[0].double()
            exists, square = (weights > 0).double(), weights.square()
            for per_sample, total in totals.items():
                if per_sample in self._counting:
                    values = per_sample(batch.targets).double().expand(len(outputs), -1)
                else:
                    values = per_sample(outputs, batch.targets).double()
                    if padded:  # zero times infinity would be no number
                        values = values.where(batch.weights[0] > 0, 0.0)
                reductions = self._reductions[per_sample]
                if reductions != {"mean"}:
                    total.real.add_(values @ exists)
                if "mean" in reductions:
                    total.weighed.add_(values @ weights)
                if "mean" in reductions and self.sampled and per_sample not in self._counting:
                    total.first.add_(values @ square)
                    total.second.add_(values.square_() @ square)

    @torch.no_grad()
    def _entered(self, members: Members, data: Data, network: Stacked) -> list[Tensor]:
        """For members between few ends what the first layer makes of each chunk of samples at these ends: sums of
        products are affine in the parameters, so that points between need no products of their own. Nothing where that
        saves little, takes much memory, or is not finite.
        """
        ends = members.ends if isinstance(members, Between) else None
        if ends is None or self.autocast is not None or network.entrance is None or len(members) < _MANY * len(ends):
            return []
        ends, entered, size = ends.to(self.device, self.dtype), list[Tensor](), 0
        for batch in self._sample_chunks(data):
            if batch.inputs.shape[0] > 1:
                return []
            entered.append(network.enter(ends, batch.inputs))
            size += entered[-1].numel() * entered[-1].itemsize
            if size > _ENTERED_BYTES or not entered[-1].isfinite().all():
                return []
        return entered

    def _reduced(self, totals: Mapping[PerSample, _Sums], real: int, sums: Tensor) -> dict[str, Tensor]:
        """Each metric from the sums over all samples. Standard errors are those of a weighted mean, a ratio estimator
        (W. Cochran, *Sampling Techniques*, 1977, section 6.4); of equal weights the usual one.
        """
        weight, squares = sums if isinstance(self.data, Stream) else (1.0, sums[1])
        result = {}
        for name, metric in self.metrics.items():
            total = totals[metric.per_sample]
            if metric.counts is not None:
                result[name] = total.weighed / totals[metric.counts].weighed
                continue
            mean = total.weighed / weight
            result[name] = {"mean": mean, "count": total.real, "all": (total.real == real).double()}[metric.reduction]
            if self.sampled and metric.reduction == "mean":
                spread = (total.second - 2 * mean * total.first + mean.square() * squares).clamp_(min=0)
                result[f"{name}_se"] = (spread * (real / max(real - 1, 1))).sqrt() / weight
        return result

    def _gradient(
        self,
        stack: Stack,
        batches: Iterator[Batch],
        counts: Tensor | None,
        noise: Noise | None,
        with_loss: bool,
        statistics: dict[str, Tensor] | None,
        reached: set[str] | None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and flat gradient of one chunk of members, accumulated over chunks of samples."""
        loss = torch.full((len(stack),), 0.0 if with_loss else math.nan, dtype=self.dtype, device=self.device)
        whole = stack.tensors.keys() == self.template.tensors.keys()
        if self._chain and whole and noise is None and self.autocast is None:

            def slope(part: Batch, outputs: Tensor) -> Tensor:
                nonlocal loss
                if with_loss:
                    loss = loss + self._weighed_loss(part, outputs, counts)
                return self._pull(part, outputs, counts)

            gradient = self._chain.gradient(stack, batches, slope)
            if reached is not None:
                reached.update(stack.tensors)
            return loss, gradient
        gradient = torch.zeros(len(stack), stack.parameters, dtype=stack.dtype, device=stack.device)
        nothing = {name: torch.zeros_like(tensor) for name, tensor in stack.tensors.items()}
        for number, batch in enumerate(batches):
            if statistics is not None and number:
                raise Mismatch("statistics of BatchNorm are those of a batch: choose a chunk with all its samples")
            source = _own_streams(noise, number) if noise else None
            collector = Statistics(batch.real) if statistics is not None else None
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in stack.tensors.items()}
            outputs = self._forward(Stack(leaves, stack.buffers), batch.inputs, source, collector)
            part_loss = self._weighed_loss(batch, outputs, counts)
            if not part_loss.requires_grad:
                raise Unsupported("the loss does not depend on any parameter of the network, so it has no gradient")
            with naming_sparse():
                pieces = torch.autograd.grad(part_loss.sum(), list(leaves.values()), allow_unused=True)
            found = {name: piece for name, piece in zip(leaves, pieces, strict=True) if piece is not None}
            gradient = gradient + Stack({name: found.get(name, zeros) for name, zeros in nothing.items()}).flatten()
            if reached is not None:
                reached.update(found)
            loss = loss + part_loss.detach()
            if statistics is not None and collector is not None:
                statistics |= collector.found
        return loss, gradient

    @functools.cached_property
    def _total_weight(self) -> float:
        return sum(float(data.weights[0].sum()) for data in self._parts())

    @functools.cached_property
    def _reductions(self) -> dict[PerSample, set[str]]:
        """What is asked of the numbers of each function."""
        asked: dict[PerSample, set[str]] = {}
        for metric in self.metrics.values():
            for function in (metric.per_sample, metric.counts):
                if function is not None:
                    asked.setdefault(function, set()).add(metric.reduction)
        return asked

    @functools.cached_property
    def _counting(self) -> frozenset[Any]:
        """The functions that count."""
        return frozenset(metric.counts for metric in self.metrics.values()) - {None}

    def _loss_counts(self, data: Iterable[Batch]) -> Tensor | None:
        """What the loss over some data divides by, [1 or member, 1]; None where that is 1."""
        counts = self.metrics["loss"].counts
        if counts is None:
            return None
        sums = [(counts(each.targets).double() * each.weights).sum(1, keepdim=True) for each in data]
        return torch.stack(sums).sum(0)

    def uncounted(self, data: Data) -> int | None:
        """The first member for which nothing counts in some data, whose loss would be 0 / 0; None if there is none."""
        counts = self._loss_counts([data.samples(0, len(data))])
        empty = [] if counts is None else (counts[:, 0] == 0).nonzero()[:, 0].tolist()
        return empty[0] if empty else None

    @functools.cached_property
    def _all_counts(self) -> Tensor | None:
        return self._loss_counts(self.batches())

    @functools.cached_property
    def _chain(self) -> Chain | None:
        return Chain.of(self.network)

    @functools.cached_property
    def _plain_network(self) -> Stacked:
        return Stacked(self.network.module, backend="loop", table=self.network.table)

    def _weighed_loss(
        self, batch: Batch, outputs: Float[Tensor, "member *out sample"], counts: Tensor | None
    ) -> Tensor:
        losses, weights = self.metrics["loss"].per_sample(outputs, batch.targets), batch.weights
        weights = weights if counts is None else weights / counts
        # Not `losses @ weights[0]`, which sums a few members otherwise than many.
        return (losses * weights.to(losses.dtype)).sum(1)

    def _pull(self, batch: Batch, outputs: Float[Tensor, "member *out sample"], counts: Tensor | None) -> Tensor:
        """Derivative of the weighed loss in the outputs."""
        slope = self.metrics["loss"].slope
        if slope is not None:
            weights = batch.weights.to(outputs.dtype)
            return slope(outputs, batch.targets) * weights.view(len(weights), *[1] * (outputs.ndim - 2), -1)
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (pull,) = torch.autograd.grad(self._weighed_loss(batch, leaf, counts).sum(), leaf)
        return pull


def _calibration_members(network: Stacked, data: Batch, device: torch.device) -> int:
    """How many members a pass over a whole batch of calibration data takes at once: on a CPU a few megabytes."""
    bytes_of_one = network.widest(data.samples(0, SAMPLE_MULTIPLE).inputs) * 4 * min(CALIBRATION_BATCH, len(data))
    return max(1, (2**22 if device.type == "cpu" else 2**30) // bytes_of_one)


def _own_streams(noise: Noise, number: int) -> Noise:
    """The noise of one chunk of samples: other streams than those of the rest."""
    return lambda layer, shape: noise(layer + 4096 * number, shape)
