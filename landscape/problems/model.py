"""A problem made of anybody's model, data and loss: what `landscape.Problem.from_model` gives."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.fields import Field, require
from landscape.core.files import digest
from landscape.engine.backends import between_operations, plain_layers
from landscape.engine.batches import common_length, parted, tensors_of
from landscape.engine.data import Batch, Stream
from landscape.engine.lessons import Lessons
from landscape.engine.live import copied, duplicate
from landscape.engine.losses import Criterion, Loss, Measure, counted, require_names
from landscape.engine.memory import Chunk
from landscape.engine.objective import CALIBRATION_BATCH, BatchNorm, Objective, Sampling, Share
from landscape.engine.plain import PlainObjective
from landscape.engine.program.layers import has_statistics
from landscape.engine.readings import Tally, known_loss, whole
from landscape.engine.stack import Stack, concatenate, fingerprint, finite, template_of
from landscape.engine.stacked import Stacked
from landscape.problems.batched import (
    BatchLoss,
    Held,
    dataset_loader,
    raw_source,
    require_a_number,
    require_no_size,
)
from landscape.problems.pool import Pool, numbered
from landscape.problems.reader import Named, Part, Reader, drawn, referee, rows_of
from landscape.problems.supervised import CALIBRATION_SAMPLES, FOLLOWED, Samples, Source, Supervised
from landscape.space.derivation import derived
from landscape.space.groups import learning
from landscape.space.symmetry import Symmetry

__all__ = ["Model", "from_model"]

#: Samples on which a model and a loss are tried out, and those that tell whether a loss is a mean over samples.
_TRIED, _LOOKED_AT = 8, 2048

#: What can be done about a problem that stacks do not serve.
_ALONE = 'it is evaluated one network after another, and so trained (`engine="plain"`); many at once it cannot be'


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Model(Supervised):
    """A model of one's own; `from_model` makes and checks it. `build` gives it anew, with fresh initial parameters."""

    build: Callable[[], nn.Module]
    source: Any
    training_source: Any
    test_source: Any
    chosen: Criterion | None
    batch_loss: BatchLoss | None = None
    batch_size: int | None = None
    evaluation: bool = True
    l2: float = 0.0
    metrics_all: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    over_batches: tuple[str, ...] = ()
    label: str
    name: str | None = None

    def __repr__(self) -> str:
        return f"Problem({self.label!r}: {self._identity['parameters']} parameters)"

    @property
    def evaluates_more(self) -> bool:
        """Whether there is test data."""
        return self.test_source is not None

    def title(self) -> str:
        """What it was called, or the name of its class."""
        return self.label

    def network(self) -> nn.Module:
        """The model; where a function makes it, the one that it makes with the seed 0."""
        return duplicate(self.prototype)

    @functools.cached_property
    def prototype(self) -> nn.Module:
        """The same, made once and never changed."""
        return _original(self.build)

    def initial(self, seeds: Sequence[int]) -> Stack:
        """The model as it begins with each seed, by its own initialisation."""
        return concatenate([template_of(_seeded(lambda: started(self.build), seed)) for seed in seeds])

    def criterion(self) -> Criterion:
        """Loss and metrics; raises `Unsupported` where stacks of networks cannot be evaluated."""
        if self.chosen is None:
            raise Unsupported(f"{self.label} is given with `batch_loss`, which reads one network: {_ALONE}")
        if self.chosen.refusal:
            raise Unsupported(f"{self.chosen.refusal}: {_ALONE}")
        if not self.evaluation:
            raise Unsupported(f"{self.label} is left as it is, not in evaluation: {_ALONE}")
        if self.l2:
            raise Unsupported(f"the loss of {self.label} has a penalty of its parameters: {_ALONE}")
        return self._criterion

    @functools.cached_property
    def _criterion(self) -> Criterion:
        """What stacks need, from all targets, and as many outputs as it takes to tell whether the loss is a mean."""
        assert self.chosen is not None
        few = _first(self.source, _TRIED if self.chosen.parts else _LOOKED_AT)
        outputs = _outputs(self.prototype, few.inputs)
        complete, targets = isinstance(self.source, Samples), few.targets
        if self.chosen.parts and complete:
            targets = self.source.targets
            # Targets elsewhere may be ignored where none is here.
            others = [each for each in (self.training_source, self.test_source) if each is not None]
            complete = all(isinstance(each, Samples) and counted(each.targets) for each in others)
        try:
            return self.chosen.looked_at_again(outputs, targets, complete=complete)
        except Unsupported as error:
            raise Unsupported(f"{error}: {_ALONE}") from error

    @property
    def averaged(self) -> "Model | None":
        """Of a loss that is a sum over samples the same problem with their mean as its loss; None of any other."""
        if self.chosen is None or self.chosen.summands is None:
            return None
        metrics = dict(self.chosen.summands)
        found = dataclasses.replace(self.chosen, metrics=metrics, refusal="", again=lambda *data, complete: metrics)
        return dataclasses.replace(self, chosen=found)

    def prefers_stacks(self, device: torch.device) -> bool:
        """Whether the network is small, its loss known, and no further data is looked at."""
        known = (
            self.chosen is not None
            and self.chosen.parts
            and not self.chosen.refusal
            and self.evaluation
            and not self.l2
            and not self.metrics_all
        )
        return known and self.test_source is None and super().prefers_stacks(device)

    def plain(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
        batchnorm: BatchNorm | None = None,
        autocast: torch.dtype | None = None,
    ) -> PlainObjective:
        """The height by the network's own forward and the loss as it was given, on the data and, under names that begin
        with `test_`, on the test data.
        """
        device, module = torch.device(device), self.prototype
        reader = self._reader(device, dtype, autocast)
        if batchnorm is not None and not self.evaluation:
            raise Unsupported(f"BatchNorm of {self.label} is left as it is: leave `batchnorm` out")
        normalises = any(map(has_statistics, module.modules()))
        policy = (batchnorm or "recalibrate") if normalises and self.evaluation else None
        running = reader.fresh(module, {})
        source = drawn(self.source, samples, seed)
        parts = [
            Part(each, reader, running, self.batch_size) for each in (source, self.test_source) if each is not None
        ]
        few = Part(self._few(device, dtype), reader, running, self.batch_size) if policy == "recalibrate" else ()
        held = [("", each) for each in few]
        trusted = functools.partial(referee, module, reader, parts[0], held)
        if self.chosen is not None and not self.chosen.parts and isinstance(source, Samples) and not self.batch_size:
            reader = dataclasses.replace(reader, rows=rows_of(running, reader, next(iter(parts[0]))[0]))
        of_samples = self.chosen is not None and self.chosen.each is not None and self.evaluation

        def share(index: Tensor) -> Share:
            part = Part(source.select(index), reader, running, self.batch_size)
            trusted = functools.partial(referee, module, reader, part, held)
            return Share(
                Named(part, ""),
                lambda stack: trusted(stack, lambda _: contextlib.nullcontext(), policy == "recalibrate")["loss"],
            )

        sampling = None
        if of_samples and isinstance(source, Samples):
            classes = source.targets if source.targets.ndim == 1 and source.targets.dtype == torch.int64 else None
            sampling = Sampling(len(source), classes, False, share)
        return PlainObjective(
            module=module,
            measure=reader.measure,
            data=Named(parts[0], ""),
            further=Named(parts[1], "test_") if parts[1:] else (),
            forward=reader.forward,
            referee=trusted,
            size=lambda batch: reader.size(batch[1]),
            device=device,
            dtype=dtype,
            samples=parts[0].samples(),
            chunk=Chunk(1, parts[0].batch_size),
            streamed=any(part.streamed for part in parts),
            sampled=True,
            ours=(lambda batch: batch[1][0]) if parts[0].ours else None,
            unit=self.chosen.unit if self.chosen is not None else "",
            autocast=autocast,
            differentiates=self.batch_loss is not None and self.batch_loss.differentiates,
            reads_outputs=self.batch_loss is None,
            evaluation=self.evaluation,
            batchnorm=policy,
            calibration=held,
            over_batches=self.over_batches,
            l2=self.l2,
            learning=learning(self.prototype),
            each_of=reader.each if of_samples else None,
            sampling=sampling,
            answer=reader.answer if self.batch_loss is None or "outputs" in self.batch_loss.kept else None,
        )

    def _reader(self, device: torch.device, dtype: torch.dtype, autocast: torch.dtype | None = None) -> Reader:
        """How the model and a batch are read."""
        return Reader(
            self.chosen,
            self.batch_loss,
            autocast,
            device,
            dtype,
            self.evaluation,
            foreign={each.dtype for each in self.prototype.parameters()} != {dtype},
            metrics_all=self.metrics_all,
        )

    def objective(self, **given: Any) -> Objective:
        """The height for stacks of networks; raises `Unsupported` for metrics that these do not have."""
        if self.metrics_all:
            raise Unsupported(f"`metrics_all` of {self.label} read the outputs of one network: {_ALONE}")
        return super().objective(**given)

    def trains_in_stacks(self, data: str, size: int, device: torch.device) -> bool:
        """Whether stacks can be trained, as the model itself would be, and are faster on batches of this size."""
        source = self.training_source
        if data == "exact" and not isinstance(source, Samples):
            return False
        try:
            self.criterion()
            pool = Pool.of(source)
            if pool.own_batches:
                return False
            if (
                not plain_layers(self.prototype)
                or _further_state(self.prototype)
                or Stacked(self.prototype).backend != "stacked"
            ):
                return False
        except Unsupported:
            return False
        module, few = self.network().to(device).eval(), _first(source, 2).inputs.to(device)
        few = few.to(next(module.parameters()).dtype) if few.is_floating_point() else few
        return between_operations(module, few, pool.count if data == "exact" else min(size, pool.count))

    def lessons(self, *, device: torch.device, dtype: torch.dtype) -> Lessons:
        """The model's own forward and loss on batches of the training data; raises `Unsupported` for data that has no
        numbers when a batch is asked for.
        """
        reader, source = self._reader(device, dtype), self.training_source
        own = self.chosen.own if self.chosen is not None else None
        if isinstance(own, nn.Module):
            own = copied(own, device=device, dtype=dtype)
        pool = functools.cache(lambda: Pool.of(source))

        def index(seeds: Sequence[int], place: int, step: int, size: int) -> Tensor:
            count = pool().count
            size = 1 if pool().own_batches else min(size, count)
            epoch, slot = divmod(step, count // size)
            return self._order(tuple(seeds), epoch, count)[place, slot * size : (slot + 1) * size]

        def batch(seeds: Sequence[int], place: int, step: int, size: int) -> Any:
            return reader.ready(pool().take(index(seeds, place, step, size)), source, step)

        def called(seeds: Sequence[int], place: int, step: int, size: int) -> str:
            own = f" (batch {int(index(seeds, place, step, size))} of the data)" if pool().own_batches else ""
            return f"the batch of step {step} of seed {seeds[place]}{own}"

        def tally(module: nn.Module, given: Any) -> Tally:
            with reader.within():
                if reader.batch_loss is not None:
                    found: Tally = reader.batch_loss.measure(module, given)["loss"]
                    return found
                assert reader.criterion is not None
                inputs, targets, weights = given
                return reader.criterion.readings[0](module(inputs), targets, weights)["loss"]

        def loss(module: nn.Module, given: Any) -> Tensor:
            with reader.within():
                if reader.batch_loss is not None:
                    return reader.batch_loss.loss(module, given)
                if own is None or given[2] is not None:
                    return tally(module, given).value()
                found = own(module(given[0]), given[1])
                return found.mean() if found.ndim else found

        @functools.cache
        def every() -> Part:
            normalises = isinstance(source, Samples) and any(map(has_statistics, self.prototype.modules()))
            size = self.batch_size or (len(source) if normalises else None)
            return Part(source, reader, reader.fresh(self.prototype, {}), size)

        return Lessons(
            module=self.prototype,
            loss=loss,
            tally=tally,
            batch=batch,
            called=called,
            every=every,
            own_batches=lambda: pool().own_batches,
            learning=learning(self.prototype),
            l2=self.l2,
            in_training=self.evaluation,
            device=device,
            dtype=dtype,
        )

    def drops(self) -> bool:
        """Whether dropout is on in training; as the model is, where it is left so."""
        layers = [each for each in self.prototype.modules() if isinstance(each, _DropoutNd) and each.p > 0]
        return any(self.evaluation or each.training for each in layers)

    def training_kinds(self) -> tuple[str, ...]:
        """Batches, unless all training data is asked for at each step, or is one batch that has no samples."""
        source = self.training_source
        alone = isinstance(source, Held) and source.whole is not None and not numbered(source.whole)
        return ("exact", "batches") if alone else ("batches", "exact")

    def data(self) -> Source:
        """What the height of the landscape is measured on."""
        source: Source = self.source
        return source

    def training_data(self) -> Source:
        """What training sees, and what statistics of BatchNorm are estimated on."""
        source: Source = self.training_source
        return source

    def test_data(self) -> Source | None:
        """What neither has seen, if there is any."""
        source: Source | None = self.test_source
        return source

    def _few(self, device: torch.device, dtype: torch.dtype) -> Held:
        """What statistics of BatchNorm are estimated on: training samples in random order, or the first batches."""
        if self.batch_loss is None:
            batch = self._calibration(device, dtype).real_alone()
            inputs, targets = (each[0].movedim(-1, 0).contiguous() for each in (batch.inputs, batch.targets))
            return Held(tuple(parted((inputs, targets, None), CALIBRATION_BATCH)))
        if isinstance(self.training_source, Held):
            return self.training_source
        found, count = [], 0
        for each in self.training_source:
            found.append(each)
            count += common_length(each) or 1
            if count >= CALIBRATION_SAMPLES:
                break
        return Held(tuple(found))

    @functools.cached_property
    def _symmetry(self) -> Symmetry:
        if self.batch_loss is None:
            return derived(self.prototype, _first(self.source, FOLLOWED).inputs, evaluation=self.evaluation)
        return self.batch_loss.symmetry(self.prototype, next(iter(self.source)), evaluation=self.evaluation)

    def config(self) -> dict[str, Any]:
        """What tells this problem from another: the model's tensors, and the data as far as it is in memory."""
        return dict(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        template = template_of(self.prototype)
        identity: dict[str, Any] = {"title": self.label, "parameters": template.parameters}
        identity |= {"l2": self.l2} if self.l2 else {}
        if self.batch_loss is not None:
            identity["loss"] = self.batch_loss.name
        if isinstance(self.source, Samples):
            arrays = {"inputs": self.source.inputs.numpy(), "targets": self.source.targets.numpy()}
            identity |= {"samples": len(self.source), "data": digest(arrays)[:16]}
        elif isinstance(self.source, Held):
            tensors = {str(number): each for number, each in enumerate(tensors_of(self.source.batches))}
            identity["data"] = fingerprint(tensors)[:16]
        return identity


_LIMITS = (
    Field("batch_size", int | None, None, at_least=1),
    Field("l2", float, 0.0, at_least=0),
)


def from_model(
    model: Any,
    data: Any,
    loss: Loss | str | None = None,
    metrics: Mapping[str, Measure] | None = None,
    *,
    metrics_all: Mapping[str, Measure] | None = None,
    batch_loss: Callable[[nn.Module, Any], Any] | str | None = None,
    batch_weight: Callable[[Any], float] | None = None,
    batch_size: int | None = None,
    weights: bool = False,
    mode: str = "eval",
    l2: float = 0.0,
    train: Any = None,
    test: Any = None,
    title: str | None = None,
    unit: str | None = None,
    name: str | None = None,
) -> Model:
    """A problem of one's own: a model, the data on which its loss is measured, and the loss.

    The value over the data is a ratio of sums over batches. It is that of PyTorch on all data at once for its own
    losses, with weights of classes, ignored targets and every reduction. Other functions are called on whole batches
    and never parted: data in memory is one batch unless there is a `batch_size`.

    Args:
        model: A module, which is copied and never changed, or the class or function that makes it (then each training
            seed gets a model of its own).
        data: With `loss`, (inputs, targets) or (inputs, targets, weights), arrays or tensors with samples first; or a
            `Dataset`, a `DataLoader` or whatever else gives (inputs, targets) batches at each pass. With `batch_loss`,
            batches of any structure, or tensors in a tuple or dict, which are a batch in memory. A dict of `train` and
            `test` is both.
        loss: `cross_entropy`, `mse` or `bce` (of logits), a module such as `nn.CrossEntropyLoss()`, or a function of
            outputs and targets that gives one number a sample, or one for the batch.
        metrics: Further such functions by name.
        metrics_all: Functions by name that need all outputs and targets at once, such as an area under a curve; each
            gives one number. With `batch_loss` they get its entries `outputs` and `targets`, of all batches joined.
        batch_loss: In place of `loss`, a function of a model and a batch that gives the loss, or a dict with `loss` and
            further metrics; each is a scalar (a result calls it a mean over batches), or a pair of a sum and its count.
            Its entries `outputs` and `targets` are no metrics: they say what a network predicts (see `landscape analyse
            outcomes`). `own`: the loss that the model returns.
        batch_weight: What a scalar of a batch weighs; None: the number of its samples.
        batch_size: Samples of a batch of data in memory, and of a `Dataset`.
        weights: Whether a third tensor of a `Dataset` or loader weighs the samples.
        mode: Whether the network is put in evaluation, and for training in training, or left `as_is`, with dropout on
            if it is (see `draws` of `landscape.walk`).
        l2: Adds `l2 / 2` times the sum of squares of the parameters that learn to the loss, as weight decay does;
            `test_loss` goes without.
        train: What training sees and what statistics of BatchNorm are estimated on; None: `data`.
        test: Further data, whose loss and metrics are found along with those of `data`, as `test_loss` and so on.
        title: What figures call it; None: the name of the model's class.
        unit: Unit of the loss.
        name: Where the problem can be found again, as `pkg.module:NAME`; the command line knows it by itself.

    Returns:
        A `Problem`.

    Raises:
        LandscapeError: Or one of its children, before anything is computed: a model that does not run on the data,
            parameters that are NaN, what is no loss, a loader without batches.

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> def loss(model, batch):
    ...     return (model(batch["x"]) - batch["y"]).abs().mean()
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), {"x": x, "y": 2 * x}, batch_loss=loss)
    >>> ends = ({"weight": torch.tensor([[w]]), "bias": torch.zeros(1)} for w in (0.0, 2.0))
    >>> landscape.walk(*ends, problem=problem, points=3)["loss"].round(3).tolist()
    [[1.143, 0.571, 0.0]]
    """
    require(from_model, locals(), *_LIMITS)
    if isinstance(data, Mapping) and data.keys() == {"train", "test"} and test is None:
        data, test = data["train"], data["test"]
    if mode not in ("eval", "as_is"):
        raise LandscapeError(f'`mode` is {mode!r}: choose "eval" or "as_is"')
    if isinstance(data, Mapping) and data.keys() == {"train", "test"}:
        raise LandscapeError("`data` has a `test` of its own: leave `test` out")
    if (loss is None) == (batch_loss is None):
        raise LandscapeError("give `loss`, a function of outputs and targets, or `batch_loss`, of a model and a batch")
    if isinstance(model, nn.Module):
        kept = copied(model, device="cpu")
        build: Callable[[], nn.Module] = functools.partial(duplicate, kept)
    elif callable(model):
        build = model
    else:
        raise Unsupported(f"{type(model).__name__} is no model: give an nn.Module, or what makes one")
    try:
        made = _original(build)
    except TypeError as error:
        raise LandscapeError(f"what should make the model does not run without arguments: {error}") from error
    _check_parameters(made)
    for what, functions in (("metrics", metrics), ("metrics_all", metrics_all)):
        if not isinstance(functions, Mapping | None):
            raise LandscapeError(f"`{what}` is {type(functions).__name__}: give functions by name, {{name: function}}")
    metrics_all = dict(metrics_all or {})
    if metrics_all and weights:
        raise LandscapeError("`metrics_all` know nothing of weights of samples: leave `metrics_all` or `weights` out")
    common: dict[str, Any] = {
        "build": build,
        "batch_size": batch_size,
        "evaluation": mode == "eval",
        "l2": l2,
        "metrics_all": metrics_all,
        "label": title or type(made).__name__,
        "name": name,
    }
    if batch_loss is not None:
        if metrics or weights:
            raise LandscapeError("metrics and weights are what `batch_loss` gives: leave `metrics` and `weights` out")
        sources = [None if each is None else raw_source(each, batch_size) for each in (data, train, test)]
        reading = BatchLoss.of(made, batch_loss, batch_weight, sources[0], metrics_all)
        _require_no_closure(reading.tried, model)
        reading = dataclasses.replace(reading, tried=None)
        source, training, test = sources
        return Model(
            source=source,
            training_source=source if training is None else training,
            test_source=test,
            chosen=None,
            batch_loss=reading,
            over_batches=reading.over_batches,
            **common,
        )
    if batch_weight is not None:
        raise LandscapeError("`batch_weight` is for `batch_loss`: here a third tensor of the data weighs samples")
    assert loss is not None
    source = _source(data, "data", weights=weights, batch_size=batch_size)
    few = _first(source)
    outputs = _outputs(made, few.inputs)
    if callable(loss) and not isinstance(loss, type) and known_loss(loss) is None:
        with torch.enable_grad():
            _require_no_closure(whole(loss, "the loss")(outputs, few.targets)["loss"].total, model)
    chosen = Criterion.of(loss, metrics, outputs=outputs, targets=few.targets, unit=unit)
    _require_a_number(made, chosen, few, source, batch_size)
    if metrics_all and isinstance(source, Samples) and source.weights is not None:
        raise LandscapeError("`metrics_all` know nothing of weights of samples: give inputs and targets alone")
    tallies = chosen.tallies(outputs, few.targets)
    require_names(metrics_all, tallies)
    scalars = tuple(key for key, each in tallies.items() if each.count is not None and each.squares is None)
    return Model(
        source=source,
        training_source=source if train is None else _source(train, "train", weights=weights, batch_size=batch_size),
        test_source=None if test is None else _source(test, "test", weights=weights, batch_size=batch_size),
        chosen=chosen,
        over_batches=scalars,
        **common,
    )


def _require_a_number(
    module: nn.Module, chosen: Criterion, few: Samples, source: Source, batch_size: int | None
) -> None:
    """Raise `LandscapeError` if the loss of the model as it is is NaN: on the first samples, or where nothing counts
    there, or a loss that is no mean needs its whole batch, on those that come after, as a ratio of sums.
    """

    def tally(samples: Samples) -> Tally:
        return chosen.readings[0](_outputs(module, samples.inputs), samples.targets)["loss"].detach()

    if not tally(few).value().isnan():
        return
    size = _LOOKED_AT if chosen.parts else batch_size
    batches = source.parts(size) if isinstance(source, Samples) else (_samples(each) for each in _streamed(source))
    require_a_number(map(tally, batches), "samples")


def _further_state(module: nn.Module) -> list[str]:
    """Names of buffers of real numbers, statistics of BatchNorm apart, that a forward in training may change."""
    return [
        f"{prefix}.{name}".lstrip(".")
        for prefix, layer in module.named_modules()
        if not has_statistics(layer)
        for name, buffer in layer.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]


def _require_no_closure(loss: Any, model: Any) -> None:
    """Raise `LandscapeError` if a loss was computed from parameters of the very model that was given, of which copies
    are evaluated: what comes of them would be the same at each point.
    """
    if not isinstance(loss, Tensor) or not isinstance(model, nn.Module):
        return
    names = {id(each): name for name, each in model.named_parameters()}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (name := names.get(id(getattr(node, "variable", None)))) is not None:
            raise LandscapeError(
                f"the loss reads {name} of the model that was given, of which copies are evaluated: it would be the "
                "same at each point. Write `batch_loss`, which gets the model as an argument"
            )
        nodes += [each for each, _ in node.next_functions]


def started(build: Callable[[], nn.Module]) -> nn.Module:
    """A model with new random parameters: what makes models does so, of a copy every layer that learns is reset.

    Raises `Unsupported` for a layer that cannot be reset.
    """
    module = build()
    if not _copies(build):
        return module
    learns = learning(module)
    for name, layer in module.named_modules():
        own = {f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters(recurse=False)}
        if own and not own & learns:
            continue
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise Unsupported(
                f"layer {name or 'module'} ({type(layer).__name__}) has no reset_parameters to start a seed with: give "
                "the class or function that makes the model instead of the model, or begin at a checkpoint with `start`"
            )
    return module


def _copies(build: Callable[[], nn.Module]) -> bool:
    """Whether it copies a model that was given."""
    return isinstance(build, functools.partial) and build.func is duplicate


def _original(build: Callable[[], nn.Module]) -> nn.Module:
    """The model of which copies are made, or else the one that is made with the seed 0."""
    if _copies(build):
        given: nn.Module = build.args[0]  # type: ignore[attr-defined]
        return given
    return _seeded(build, 0)


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module made with PyTorch's random state at `seed`; the state of others is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = make()
    if not isinstance(made, nn.Module):
        raise Unsupported(f"what should make the model gives {type(made).__name__}, not an nn.Module")
    return made


def _check_parameters(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise Unsupported("TorchScript modules cannot be evaluated for many parameters: give the module it was made of")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise Unsupported(f"the model is wrapped in {type(module).__name__}: give its .module")
    if lazy := [name for name, tensor in module.named_parameters() if isinstance(tensor, nn.UninitializedParameter)]:
        raise Unsupported(f"parameters {', '.join(lazy)} have no shape yet: run the model on a batch first")
    parameters = dict(module.named_parameters())
    if not parameters:
        raise LandscapeError(f"{type(module).__name__} has no parameters: there is no landscape")
    if odd := [name for name, tensor in parameters.items() if not tensor.is_floating_point()]:
        raise Unsupported(f"parameters {', '.join(odd)} are not real numbers: only such can be walked")
    if bad := [name for name, tensor in parameters.items() if not finite(tensor[None])]:
        raise LandscapeError(f"parameters {', '.join(bad)} of the model are NaN or infinite: load other ones")


def _source(data: Any, what: str, *, weights: bool, batch_size: int | None) -> Source:
    """Data in memory as `Samples`, everything else as what gives batches."""
    if isinstance(data, Samples):
        return data
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
        if len(data) == 3 and not weights:
            raise Unsupported(
                f"{what} is a TensorDataset of 3: say `weights=True` if the third weighs the samples, or give "
                "`batch_loss` if it is another input or target"
            )
    if isinstance(data, tuple | list) and len(data) in (2, 3) and all(_is_array(each) for each in data):
        if weights and len(data) == 2:
            raise LandscapeError(f"{what} has inputs and targets alone, and no weights: leave `weights` out")
        return Samples(*(_tensor_of(each).detach().cpu() for each in data))
    if isinstance(data, tuple | list) and data and all(_is_array(each) for each in data):
        raise Unsupported(f"{what} is a {type(data).__name__} of {len(data)}: give (inputs, targets), or `batch_loss`")
    made_here = dataset_loader(data, batch_size)
    data = data if made_here is None else made_here
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Tensor | np.ndarray | Mapping):
        raise Unsupported(
            f"{what} is {type(data).__name__}: give (inputs, targets), a Dataset, or a DataLoader of such batches; or "
            "`batch_loss`, which reads batches of any kind"
        )
    if made_here is None:
        require_no_size(data, batch_size)
    if weights and not _third(data):
        raise LandscapeError(f"{what} gives batches of inputs and targets alone, and no weights: leave `weights` out")
    if not weights and (found := _third(data)):
        raise Unsupported(
            f"{what} gives batches of 3: say `weights=True` if the third weighs the samples, or give `batch_loss` if "
            f"it is another input or target ({found})"
        )
    return data


def _third(loader: Iterable[Any]) -> str:
    """What the third entry of a loader's batches is, if there is one."""
    if isinstance(loader, Iterator):
        return ""
    batch = next(iter(loader), None)
    return type(batch[2]).__name__ if isinstance(batch, tuple | list) and len(batch) == 3 else ""


def _tensor_of(value: Any) -> Tensor:
    """An array as a tensor; those that run backwards are copied, which PyTorch cannot hold."""
    return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _first(source: Source, count: int = _TRIED) -> Samples:
    """Some samples of data in memory, or the first ones, to try things out."""
    if isinstance(source, Samples):
        return source.select(torch.linspace(0, len(source) - 1, min(count, len(source))).round().long())
    return _samples(next(iter(_streamed(source))), count)


def _streamed(source: Iterable[Any]) -> Stream:
    return Stream(source, device="cpu", dtype=torch.float32)


def _samples(batch: Batch, count: int | None = None) -> Samples:
    """The first samples of a batch that are no padding, or all."""
    few = batch.real.nonzero()[:count, 0]
    return Samples(*(each[0][..., few].movedim(-1, 0) for each in (batch.inputs, batch.targets)))


@torch.no_grad()
def _outputs(module: nn.Module, inputs: Shaped[Tensor, "sample *feature"]) -> Any:
    """What the model answers; raises an error that says why it does not."""
    name = type(module).__name__
    inputs = inputs.to(next(module.parameters()).dtype) if inputs.is_floating_point() else inputs
    try:
        outputs = copied(module).eval()(inputs)
    except LandscapeError:
        raise
    except Exception as error:
        raise Mismatch(
            f"{name} does not run on inputs of shape {list(inputs.shape)} ({inputs.dtype}): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        ) from error
    if isinstance(outputs, Tensor) and (not outputs.ndim or len(outputs) != len(inputs)):
        raise Mismatch(f"{name} gives outputs of shape {list(outputs.shape)} for {len(inputs)} samples, not one each")
    return outputs
