"""What the plain engine reads of a model of one's own: its batches, what each adds to a metric, and the referee."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.answers import Answers, decided
from landscape.engine.batches import Reread, common_length, mapped, moved, parted
from landscape.engine.casting import running_in
from landscape.engine.data import SAMPLE_MULTIPLE, labelled
from landscape.engine.determinism import mixes_samples
from landscape.engine.losses import Criterion
from landscape.engine.memory import fitting_batch
from landscape.engine.plain import Seeded, calibrate, fresh
from landscape.engine.program.products import ceil_div
from landscape.engine.readings import Tally
from landscape.engine.stack import Stack
from landscape.problems.batched import BatchLoss, Held, gathered
from landscape.problems.supervised import Samples, part_of

__all__ = ["Named", "Part", "Reader", "drawn", "referee", "rows_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """How a network and a batch are read; batches come with a prefix for the names of what is measured on them.

    `foreign` says whether the model is of another type, for which its code and its loss were written; `rows`, unless it
    is 0, of how many samples outputs are found at once for a loss that reads all.
    """

    criterion: Criterion | None
    batch_loss: BatchLoss | None
    autocast: torch.dtype | None
    device: torch.device
    dtype: torch.dtype
    evaluation: bool
    foreign: bool
    rows: int = 0
    metrics_all: Mapping[str, Callable[[Any, Any], Any]] = dataclasses.field(default_factory=dict)

    def within(self) -> contextlib.AbstractContextManager[None]:
        """In which the model and the loss are called."""
        return running_in(self.dtype) if self.foreign else contextlib.nullcontext()

    def fresh(self, module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the module with other tensors."""
        return fresh(module, state, device=self.device, dtype=self.dtype, evaluation=self.evaluation)

    def forward(self, module: nn.Module, batch: tuple[str, Any]) -> Any:
        """The outputs, or the loss where nobody else sees outputs."""
        with self.within():
            return module(batch[1][0]) if self.batch_loss is None else self.batch_loss.measure(module, batch[1])

    def measure(self, module: nn.Module, batch: tuple[str, Any]) -> dict[str, Any]:
        """What the batch adds to each metric of a network."""
        prefix, given = batch
        with self.within():
            found: dict[str, Any] = (
                self._found(module, given)
                if self.batch_loss is None
                else self.batch_loss.measure(module, given, self.metrics_all)
            )
        return {prefix + name: tally for name, tally in found.items()} if prefix else found

    def answer(self, module: nn.Module, batch: tuple[str, Any], soft: bool = False) -> Answers:
        """What a network decides on the batch, or with which probabilities (`soft`); raises `Unsupported` for outputs
        that are not one tensor.
        """
        given = batch[1]
        with self.within():
            if self.batch_loss is not None:
                return decided(*self.batch_loss.entries(module, given), soft=soft)
            outputs = self._outputs(module, given[0])
        assert self.criterion is not None
        if not isinstance(outputs, Tensor):
            raise Unsupported(
                f"the network's forward returns a {type(outputs).__name__}, and what it predicts is read from one "
                "tensor: give `batch_loss`, which gives a dict of `loss`, `outputs` (such as logits) and `targets`"
            )
        make = self.criterion.soften if soft else self.criterion.predict
        made = make(outputs.movedim(0, -1)[None])[0].movedim(-1, 0)
        judged = self.criterion.hits and self.criterion.hits(outputs, given[1])
        return Answers.soft(made, judged and judged[1], given[2]) if soft else Answers.of(made, judged, given[2])

    def _outputs(self, module: nn.Module, inputs: Any) -> Any:
        parts = inputs.split(self.rows) if self.rows else [inputs]
        outputs = module(inputs) if len(parts) == 1 else torch.cat([module(part) for part in parts])
        if self.autocast is not None:
            outputs = mapped(outputs, lambda each: each.to(self.dtype) if each.is_floating_point() else each)
        return outputs

    def _found(self, module: nn.Module, batch: Any) -> dict[str, Any]:
        assert self.criterion is not None
        inputs, targets, weights = batch
        outputs = self._outputs(module, inputs)
        with torch.autocast(self.device.type, enabled=False) if self.autocast else contextlib.nullcontext():
            found = self.criterion.tallies(outputs, targets, weights)
        return {**found, **gathered(self.metrics_all, outputs, targets)}

    def each(self, module: nn.Module, batch: tuple[str, Any]) -> tuple[Tensor, Tensor]:
        """What each sample of the batch adds to one of PyTorch's own losses, and to what that divides by."""
        assert self.criterion is not None
        assert self.criterion.each is not None
        inputs, targets, weights = batch[1]
        with self.within():
            outputs = self._outputs(module, inputs)
            with torch.autocast(self.device.type, enabled=False) if self.autocast else contextlib.nullcontext():
                each, counts = (function(outputs, targets) for function in self.criterion.each)
        return (each, counts) if weights is None else (each * weights, counts * weights)

    def ready(self, raw: Any, source: object, number: int) -> Any:
        """A batch of a source as it is read, in its place and type: of labelled samples inputs, targets and weights."""
        if self.batch_loss is not None:
            return moved(raw, self.device, self.dtype)
        inputs, targets, weights = raw if isinstance(source, Samples | Held) else labelled(raw, source, number)
        weights = None if weights is None else weights.double().to(self.device)
        return (*moved((inputs, targets), self.device, self.dtype), weights)

    def size(self, batch: Any) -> int:
        """Number of samples."""
        return common_length(batch) or 1


def rows_of(module: nn.Module, reader: Reader, inputs: Tensor) -> int:
    """Samples of which a network's outputs are found at once where its loss reads those of all: as many as are fast; 0,
    all, if an answer depends on the samples beside it.
    """
    few = inputs[: 2 * SAMPLE_MULTIPLE]
    with torch.no_grad(), reader.within():
        if not isinstance(module(few), Tensor) or mixes_samples(module, module, few):
            return 0
        return fitting_batch(module, inputs)


class Part:
    """The batches of one source, as a network reads them."""

    def __init__(self, source: Any, reader: Reader, module: nn.Module, batch_size: int | None) -> None:
        self._source, self._reader = source, reader
        self.streamed = not isinstance(source, Samples | Held)
        criterion = reader.criterion
        known = criterion is not None and criterion.parts and reader.evaluation
        self.ours = isinstance(source, Samples) and known
        self.batch_size = 0
        self._kept: list[Any] = []
        self._stream = Reread(source) if self.streamed else None
        if isinstance(source, Held):
            self._kept = [reader.ready(each, source, number) for number, each in enumerate(source.batches)]
        elif isinstance(source, Samples):
            whole = reader.ready((source.inputs, source.targets, source.weights), source, 0)
            self.batch_size = batch_size or len(source)
            if self.ours and batch_size is None:
                with reader.within():
                    fitting = fitting_batch(module, whole[0])
                self.batch_size = ceil_div(len(source), ceil_div(len(source), fitting))  # a short last one is slow
            self._kept = list(parted(whole, self.batch_size))

    def __iter__(self) -> Iterator[Any]:
        if self._stream is None:
            return iter(self._kept)
        return (self._reader.ready(raw, self._source, number) for number, raw in enumerate(self._stream))

    def samples(self) -> int:
        """Number of samples, of streamed data by reading it once where its dataset does not say."""
        dataset = getattr(self._source, "dataset", None)
        whole = isinstance(self._source, torch.utils.data.DataLoader) and not self._source.drop_last
        usual = isinstance(getattr(self._source, "sampler", None), torch.utils.data.SequentialSampler)
        if whole and usual and hasattr(dataset, "__len__"):
            return len(dataset)  # type: ignore[arg-type]
        return sum(self._reader.size(batch) for batch in self)


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """The batches of a part, with a prefix for what is measured on them."""

    part: Part
    prefix: str

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((self.prefix, batch) for batch in self.part)


def drawn(source: Any, samples: int | None, seed: int) -> Any:
    """So many samples of data in memory; all if no number is asked for."""
    if samples is None:
        return source
    if not isinstance(source, Samples):
        raise Unsupported("a part of these data cannot be drawn: leave `samples` out")
    return part_of(source, samples, seed)


def referee(
    module: nn.Module,
    reader: Reader,
    part: Part,
    calibration: Sequence[tuple[str, Any]],
    stack: Stack,
    seeded: Seeded,
    anew: bool,
) -> dict[str, Tensor]:
    """The loss of each member as its user would find it: a fresh module that has loaded its parameters, and the loss as
    it was given, on all data at once where it is in memory. Statistics of BatchNorm are its own, or estimated `anew`.
    """
    losses = []
    whole = reader.batch_loss is not None or part.streamed or not part.ours
    for member in range(len(stack)):
        network = reader.fresh(module, stack.state_dict(member))
        if anew:
            with seeded(-1):
                calibrate(network, calibration, reader.forward, lambda batch: reader.size(batch[1]))

        def read(number: int, batch: Any, network: nn.Module = network) -> Any:
            with seeded(number):
                return reader.measure(network, ("", batch))["loss"] if whole else reader.forward(network, ("", batch))

        if whole:
            losses.append(Tally.added(list(itertools.starmap(read, enumerate(part)))).value())
            continue
        assert reader.criterion is not None
        with torch.no_grad(), reader.within():
            outputs = torch.cat(list(itertools.starmap(read, enumerate(part))))
            targets = torch.cat([targets for _, targets, _ in part])
            weights = [each for _, _, each in part if each is not None]
            if weights:
                losses.append(reader.criterion.tallies(outputs, targets, torch.cat(weights))["loss"].value())
            else:
                assert reader.criterion.own is not None
                losses.append(reader.criterion.own(outputs, targets).double().mean())
    return {"loss": torch.stack(losses).double()}
