"""A problem made of anybody's model, data and loss: what `landscape.Problem.from_model` gives."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.files import digest
from landscape.engine.batches import Reread, common_length, loader_name, mapped, moved, parted
from landscape.engine.casting import running_in
from landscape.engine.data import SAMPLE_MULTIPLE, Stream, labelled
from landscape.engine.determinism import mixes_samples
from landscape.engine.live import copied
from landscape.engine.losses import Criterion, Loss, Measure
from landscape.engine.memory import Chunk, fitting_batch
from landscape.engine.objective import CALIBRATION_BATCH, BatchNorm
from landscape.engine.plain import PlainObjective, Seeded, calibrate, fresh
from landscape.engine.program.layers import has_statistics
from landscape.engine.program.products import ceil_div
from landscape.engine.readings import Tally, known_loss
from landscape.engine.stack import Stack, concatenate, template_of
from landscape.problems.batched import BatchLoss, Held, raw_source
from landscape.problems.supervised import CALIBRATION_SAMPLES, Samples, Source, Supervised, part_of

__all__ = ["Model", "from_model"]

#: Samples on which a model and a loss are tried out, and those that tell whether a loss is a mean over samples.
_TRIED, _LOOKED_AT = 8, 2048

#: What can be done about a problem that stacks do not serve.
_ALONE = "it is evaluated one network after another; many at once, as in training and clusters, it cannot be"

#: Samples a batch of a dataset that is not in memory.
_BATCH = 256


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
    label: str
    name: str | None = None

    def __repr__(self) -> str:
        return f"Problem({self.label!r}: {self._identity['parameters']} parameters)"

    def title(self) -> str:
        """What it was called, or the name of its class."""
        return self.label

    def network(self) -> nn.Module:
        """The model; where a function makes it, the one that it makes with the seed 0."""
        return copy.deepcopy(self._made)

    @functools.cached_property
    def _made(self) -> nn.Module:
        """The same, made once and never changed: large models take long to be initialised."""
        return _seeded(self.build, 0)

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
        few = _first(self.source, 8 if self.chosen.parts else _LOOKED_AT)
        outputs = _outputs(self.network(), few.inputs)
        targets = self.source.targets if self.chosen.parts and isinstance(self.source, Samples) else few.targets
        try:
            return self.chosen.looked_at_again(outputs, targets, complete=isinstance(self.source, Samples))
        except Unsupported as error:
            raise Unsupported(f"{error}: {_ALONE}") from error

    def prefers_stacks(self, device: torch.device) -> bool:
        """Whether the network is small, its loss known, and no further data is looked at."""
        known = (
            self.chosen is not None
            and self.chosen.parts
            and not self.chosen.refusal
            and self.evaluation
            and not self.l2
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
        device, module = torch.device(device), self._made
        reader = _Reader(
            self.chosen,
            self.batch_loss,
            autocast,
            device,
            dtype,
            self.evaluation,
            self.l2,
            learning(module),
            foreign={each.dtype for each in module.parameters()} != {dtype},
        )
        normalises = any(map(has_statistics, module.modules()))
        policy = (batchnorm or "recalibrate") if normalises and self.evaluation else None
        running = reader.fresh(module, {})
        source = _drawn(self.source, samples, seed)
        parts = [_Part(each, self, reader, running) for each in (source, self.test_source) if each is not None]
        few = _Part(self._few(device, dtype), self, reader, running) if policy == "recalibrate" else ()
        held = [("", each) for each in few]
        referee = functools.partial(_referee, module, reader, parts[0], held)
        if self.chosen is not None and not self.chosen.parts and isinstance(source, Samples) and not self.batch_size:
            reader = dataclasses.replace(reader, rows=_rows(running, reader, next(iter(parts[0]))[0]))
        return PlainObjective(
            module=module,
            measure=reader.measure,
            data=_Named(parts[0], ""),
            further=_Named(parts[1], "test_") if parts[1:] else (),
            forward=reader.forward,
            referee=referee,
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
            evaluation=self.evaluation,
            batchnorm=policy,
            calibration=held,
            within=reader.within,
        )

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

    def config(self) -> dict[str, Any]:
        """What tells this problem from another: the model's tensors, and the data as far as it is in memory."""
        return dict(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        template = template_of(self._made)
        identity: dict[str, Any] = {"title": self.label, "parameters": template.parameters}
        identity |= {"l2": self.l2} if self.l2 else {}
        if self.batch_loss is not None:
            identity["loss"] = self.batch_loss.name
        if isinstance(self.source, Samples):
            arrays = {"inputs": self.source.inputs.numpy(), "targets": self.source.targets.numpy()}
            identity |= {"samples": len(self.source), "data": digest(arrays)[:16]}
        return identity


def from_model(
    model: Any,
    data: Any,
    loss: Loss | str | None = None,
    metrics: Mapping[str, Measure] | None = None,
    *,
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
        batch_loss: In place of `loss`, a function of a model and a batch that gives the loss, or a dict with `loss` and
            further metrics; each is a scalar, or a pair of a sum and its count. `own`: the loss that the model returns.
        batch_weight: What a scalar of a batch weighs; None: the number of its samples.
        batch_size: Samples of a batch of data in memory, and of a `Dataset`.
        weights: Whether a third tensor of a `Dataset` or loader weighs the samples.
        mode: Whether the network is put in evaluation, or left `as_is`, with dropout on if it is (see `draws` of
            `landscape.walk`).
        l2: Adds `l2 / 2` times the sum of squares of the parameters that learn to the loss, as weight decay does.
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
    if isinstance(data, Mapping) and data.keys() == {"train", "test"} and test is None:
        data, test = data["train"], data["test"]
    if mode not in ("eval", "as_is"):
        raise LandscapeError(f'`mode` is {mode!r}: choose "eval" or "as_is"')
    if isinstance(data, Mapping) and data.keys() == {"train", "test"}:
        raise LandscapeError("`data` has a `test` of its own: leave `test` out")
    if not 0 <= l2 < math.inf:
        raise LandscapeError(f"`l2` is {l2}: give a number of at least 0")
    if (loss is None) == (batch_loss is None):
        raise LandscapeError("give `loss`, a function of outputs and targets, or `batch_loss`, of a model and a batch")
    if isinstance(model, nn.Module):
        kept = copied(model, device="cpu")
        build: Callable[[], nn.Module] = functools.partial(copy.deepcopy, kept)
    elif callable(model):
        build = model
    else:
        raise Unsupported(f"{type(model).__name__} is no model: give an nn.Module, or what makes one")
    try:
        made = _seeded(build, 0)
    except TypeError as error:
        raise LandscapeError(f"what should make the model does not run without arguments: {error}") from error
    _check_parameters(made)
    common: dict[str, Any] = {
        "build": build,
        "batch_size": batch_size,
        "evaluation": mode == "eval",
        "l2": l2,
        "label": title or type(made).__name__,
        "name": name,
    }
    if batch_loss is not None:
        if metrics or weights:
            raise LandscapeError("metrics and weights are what `batch_loss` gives: leave `metrics` and `weights` out")
        sources = [None if each is None else raw_source(each, batch_size) for each in (data, train, test)]
        reading = BatchLoss.of(made, batch_loss, batch_weight, sources[0])
        _require_no_closure(reading.tried, model)
        reading = dataclasses.replace(reading, tried=None)
        source, training, test = sources
        return Model(
            source=source,
            training_source=source if training is None else training,
            test_source=test,
            chosen=None,
            batch_loss=reading,
            **common,
        )
    if batch_weight is not None:
        raise LandscapeError("`batch_weight` is for `batch_loss`: here a third tensor of the data weighs samples")
    assert loss is not None
    source = _source(data, "data", weights=weights, batch_size=batch_size)
    few = _first(source)
    outputs = _outputs(made, few.inputs)
    if callable(loss) and known_loss(loss) is None and not isinstance(loss, type):
        with torch.enable_grad(), contextlib.suppress(Exception):  # what is wrong with it is said below
            tried = loss(outputs, few.targets)
        _require_no_closure(locals().get("tried"), model)
    return Model(
        source=source,
        training_source=source if train is None else _source(train, "train", weights=weights, batch_size=batch_size),
        test_source=None if test is None else _source(test, "test", weights=weights, batch_size=batch_size),
        chosen=Criterion.of(loss, metrics, outputs=outputs, targets=few.targets, unit=unit),
        **common,
    )


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
    """A model with new random parameters: what makes models does so, of a copy every layer is reset.

    Raises `Unsupported` for a layer that cannot be reset.
    """
    module = build()
    if not (isinstance(build, functools.partial) and build.func is copy.deepcopy):
        return module
    for name, layer in module.named_modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise Unsupported(
                f"layer {name or 'module'} ({type(layer).__name__}) has no reset_parameters to start a seed with: give "
                "the class or function that makes the model instead of the model"
            )
    return module


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module made with PyTorch's random state at `seed`; the state of others is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = make()
    if not isinstance(made, nn.Module):
        raise Unsupported(f"what should make the model gives {type(made).__name__}, not an nn.Module")
    return made


def learning(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that learn; all if none does."""
    every = dict(module.named_parameters())
    return frozenset(name for name, each in every.items() if each.requires_grad) or frozenset(every)


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
    if bad := [name for name, tensor in parameters.items() if not tensor.isfinite().all()]:
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
    made_here = isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset)
    if made_here:
        data = torch.utils.data.DataLoader(data, batch_size=batch_size or _BATCH, shuffle=False)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Tensor | np.ndarray | Mapping):
        raise Unsupported(
            f"{what} is {type(data).__name__}: give (inputs, targets), a Dataset, or a DataLoader of such batches; or "
            "`batch_loss`, which reads batches of any kind"
        )
    if batch_size is not None and not made_here:
        raise LandscapeError(f"{loader_name(data)} has batches of its own: leave `batch_size` out")
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
    batch = Stream(source, device="cpu", dtype=torch.float32).first
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


# The plain engine's view of it ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
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
    l2: float
    learning: frozenset[str]
    foreign: bool
    rows: int = 0

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

    def measure(self, module: nn.Module, batch: tuple[str, Any]) -> dict[str, Tally]:
        """What the batch adds to each metric of a network."""
        prefix, given = batch
        with self.within():
            found = self._found(module, given) if self.batch_loss is None else self.batch_loss.measure(module, given)
        if self.l2 and not prefix:
            found = {**found, "loss": found["loss"].shifted(self.penalty(module))}
        return {prefix + name: tally for name, tally in found.items()} if prefix else found

    def penalty(self, module: nn.Module) -> Tensor:
        """What the parameters add to the loss."""
        named = module.named_parameters()
        squares = [each.double().square().sum() for name, each in named if name in self.learning]
        return torch.stack(squares).sum() * (self.l2 / 2)

    def _found(self, module: nn.Module, batch: Any) -> dict[str, Tally]:
        assert self.criterion is not None
        inputs, targets, weights = batch
        parts = inputs.split(self.rows) if self.rows else [inputs]
        outputs = module(inputs) if len(parts) == 1 else torch.cat([module(part) for part in parts])
        if self.autocast is None:
            return self.criterion.tallies(outputs, targets, weights)
        with torch.autocast(self.device.type, enabled=False):
            wide = mapped(outputs, lambda each: each.to(self.dtype) if each.is_floating_point() else each)
            return self.criterion.tallies(wide, targets, weights)

    def size(self, batch: Any) -> int:
        """Number of samples."""
        return common_length(batch) or 1


def _rows(module: nn.Module, reader: _Reader, inputs: Tensor) -> int:
    """Samples of which a network's outputs are found at once where its loss reads those of all: as many as are fast; 0,
    all, if an answer depends on the samples beside it.
    """
    few = inputs[: 2 * SAMPLE_MULTIPLE]
    with torch.no_grad(), reader.within():
        if not isinstance(module(few), Tensor) or mixes_samples(module, module, few):
            return 0
        return fitting_batch(module, inputs)


class _Part:
    """The batches of one source, as a network reads them."""

    def __init__(self, source: Any, problem: Model, reader: _Reader, module: nn.Module) -> None:
        self._source, self._reader = source, reader
        self.streamed = not isinstance(source, Samples | Held)
        known = problem.chosen is not None and problem.chosen.parts and problem.evaluation
        self.ours = isinstance(source, Samples) and known
        self.batch_size = 0
        self._kept: list[Any] = []
        self._stream = Reread(source) if self.streamed else None
        if isinstance(source, Held):
            self._kept = [moved(each, reader.device, reader.dtype) for each in source.batches]
        elif isinstance(source, Samples):
            every = (source.inputs, source.targets, None if source.weights is None else source.weights.double())
            whole = moved(every[:2], reader.device, reader.dtype)
            whole = (*whole, None if every[2] is None else every[2].to(reader.device))
            self.batch_size = problem.batch_size or len(source)
            once = problem.l2 > 0 and problem.chosen is not None and problem.chosen.adds_up  # the penalty is added once
            if once:
                self.batch_size = len(source)
            elif self.ours and problem.batch_size is None:
                with reader.within():
                    fitting = fitting_batch(module, whole[0])
                self.batch_size = ceil_div(len(source), ceil_div(len(source), fitting))  # a short last one is slow
            self._kept = list(parted(whole, self.batch_size))

    def __iter__(self) -> Iterator[Any]:
        if self._stream is None:
            return iter(self._kept)
        return (self._labelled(number, raw) for number, raw in enumerate(self._stream))

    def _labelled(self, number: int, raw: Any) -> Any:
        if self._reader.batch_loss is None:
            inputs, targets, weights = labelled(raw, self._source, number)
            raw = (inputs, targets, None if weights is None else weights.double())
            given = moved(raw[:2], self._reader.device, self._reader.dtype)
            return (*given, None if raw[2] is None else raw[2].to(self._reader.device))
        return moved(raw, self._reader.device, self._reader.dtype)

    def samples(self) -> int:
        """Number of samples, of streamed data by reading it once where its dataset does not say."""
        dataset = getattr(self._source, "dataset", None)
        whole = isinstance(self._source, torch.utils.data.DataLoader) and not self._source.drop_last
        usual = isinstance(getattr(self._source, "sampler", None), torch.utils.data.SequentialSampler)
        if whole and usual and hasattr(dataset, "__len__"):
            return len(dataset)  # type: ignore[arg-type]
        return sum(self._reader.size(batch) for batch in self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Named:
    """The batches of a part, with a prefix for what is measured on them."""

    part: _Part
    prefix: str

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((self.prefix, batch) for batch in self.part)


def _drawn(source: Any, samples: int | None, seed: int) -> Any:
    if samples is None:
        return source
    if not isinstance(source, Samples):
        raise Unsupported("a part of these data cannot be drawn: leave `samples` out")
    return part_of(source, samples, seed)


def _referee(
    module: nn.Module,
    reader: _Reader,
    part: _Part,
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
            losses.append(functools.reduce(operator.add, itertools.starmap(read, enumerate(part))).value())
            continue
        assert reader.criterion is not None
        with torch.no_grad(), reader.within():
            outputs = torch.cat(list(itertools.starmap(read, enumerate(part))))
            targets = torch.cat([targets for _, targets, _ in part])
            weights = [each for _, _, each in part if each is not None]
            if weights:
                loss = reader.criterion.tallies(outputs, targets, torch.cat(weights))["loss"].value()
                losses.append(loss + reader.penalty(network) if reader.l2 else loss)
            else:
                assert reader.criterion.own is not None
                loss = reader.criterion.own(outputs, targets).double().mean()
                losses.append(loss + reader.penalty(network) if reader.l2 else loss)
    return {"loss": torch.stack(losses).double()}
