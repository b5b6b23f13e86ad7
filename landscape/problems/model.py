"""A problem made of anybody's model, data and loss: what `landscape.Problem.from_model` gives."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.files import digest
from landscape.engine.data import Stream
from landscape.engine.losses import Criterion, Loss, Measure
from landscape.engine.stack import Stack, concatenate, template_of
from landscape.problems.supervised import Samples, Source, Supervised

__all__ = ["Model", "from_model"]

#: Samples on which a model and a loss are tried out.
_TRIED = 8

#: Samples a batch of a dataset that is not in memory.
_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Model(Supervised):
    """A model of one's own; `from_model` makes and checks it. `build` gives it anew, with fresh initial parameters."""

    build: Callable[[], nn.Module]
    source: Source
    training_source: Source
    test_source: Source | None
    chosen: Criterion
    label: str
    name: str | None = None

    def __repr__(self) -> str:
        return f"Problem({self.label!r}: {self._identity['parameters']} parameters)"

    def title(self) -> str:
        """What it was called, or the name of its class."""
        return self.label

    def network(self) -> nn.Module:
        """The model; where a function makes it, the one that it makes with the seed 0."""
        return _seeded(self.build, 0)

    def initial(self, seeds: Sequence[int]) -> Stack:
        """The model as it begins with each seed, by its own initialisation."""
        return concatenate([template_of(_seeded(lambda: fresh(self.build), seed)) for seed in seeds])

    def criterion(self) -> Criterion:
        """Loss and metrics."""
        return self.chosen

    def data(self) -> Source:
        """What the height of the landscape is measured on."""
        return self.source

    def training_data(self) -> Source:
        """What training sees, and what statistics of BatchNorm are estimated on."""
        return self.training_source

    def test_data(self) -> Source | None:
        """What neither has seen, if there is any."""
        return self.test_source

    def config(self) -> dict[str, Any]:
        """What tells this problem from another: the model's tensors, and the data as far as it is in memory."""
        return dict(self._identity)

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        template = template_of(self.network())
        identity: dict[str, Any] = {"title": self.label, "parameters": template.parameters}
        if isinstance(self.source, Samples):
            arrays = {"inputs": self.source.inputs.numpy(), "targets": self.source.targets.numpy()}
            identity |= {"samples": len(self.source), "data": digest(arrays)[:16]}
        return identity


def from_model(
    model: Any,
    data: Any,
    loss: Loss | str,
    metrics: Mapping[str, Measure] | None = None,
    *,
    train: Any = None,
    test: Any = None,
    title: str | None = None,
    unit: str | None = None,
    name: str | None = None,
) -> Model:
    """A problem of one's own: a model, the data on which its loss is measured, and the loss.

    `model` is a module, which is copied and never changed, or the class or function that makes it (then each training
    seed gets a model of its own). `data` is (inputs, targets) or (inputs, targets, weights), arrays or tensors with
    samples first, which stay on the device; or a `Dataset`, a `DataLoader` or whatever else gives (inputs, targets)
    batches at each pass, which is streamed. `loss` is `cross_entropy`, `mse` or `bce` (of logits), a module such as
    `nn.CrossEntropyLoss()`, or a function of outputs and targets that gives one number a sample, or their mean;
    `metrics` are further such functions by name. `train`, by default `data`, is what training sees and what statistics
    of BatchNorm are estimated on; `test` is for `test_objective`. `name`, as `pkg.module:NAME`, is where the problem
    can be found again; the command line knows it by itself.

    Raises `LandscapeError` or one of its children, before anything is computed, for a model that does not run on the
    data, parameters that are NaN, a loss that is no mean over samples, or a loader without batches.
    """
    if isinstance(model, nn.Module):
        kept = copy.deepcopy(model).cpu()
        build: Callable[[], nn.Module] = functools.partial(copy.deepcopy, kept)
    elif callable(model):
        build = model
    else:
        raise Unsupported(f"{type(model).__name__} is no model: give an nn.Module, or what makes one")
    made = _seeded(build, 0)
    _check_parameters(made)
    source = _source(data, "data")
    few = _first(source)
    outputs = _outputs(made, few.inputs)
    return Model(
        build=build,
        source=source,
        training_source=source if train is None else _source(train, "train"),
        test_source=None if test is None else _source(test, "test"),
        chosen=Criterion.of(loss, metrics, outputs=outputs, targets=few.targets, unit=unit),
        label=title or type(made).__name__,
        name=name,
    )


def fresh(build: Callable[[], nn.Module]) -> nn.Module:
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


def _source(data: Any, what: str) -> Source:
    """Data in memory as `Samples`, everything else as what gives batches."""
    if isinstance(data, Samples):
        return data
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
    if isinstance(data, tuple | list) and len(data) in (2, 3) and all(_is_array(each) for each in data):
        return Samples(*(torch.as_tensor(each).detach().cpu() for each in data))
    if isinstance(data, tuple | list) and data and all(_is_array(each) for each in data):
        raise Unsupported(f"{what} is a {type(data).__name__} of {len(data)}: give (inputs, targets)")
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        return torch.utils.data.DataLoader(data, batch_size=_BATCH, shuffle=False)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Tensor | np.ndarray | Mapping):
        raise Unsupported(
            f"{what} is {type(data).__name__}: give (inputs, targets), a Dataset, or a DataLoader of such batches"
        )
    return data


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _first(source: Source) -> Samples:
    """The first samples, to try things out."""
    if isinstance(source, Samples):
        return source.select(torch.arange(min(_TRIED, len(source))))
    batch = Stream(source, device="cpu", dtype=torch.float32).first
    few = batch.real.nonzero()[:_TRIED, 0]
    return Samples(*(each[0][..., few].movedim(-1, 0) for each in (batch.inputs, batch.targets)))


@torch.no_grad()
def _outputs(module: nn.Module, inputs: Shaped[Tensor, "sample *feature"]) -> Tensor:
    """What the model answers; raises an error that says why it does not."""
    name = type(module).__name__
    inputs = inputs.to(next(module.parameters()).dtype) if inputs.is_floating_point() else inputs
    try:
        outputs = copy.deepcopy(module).eval()(inputs)
    except Exception as error:
        raise Mismatch(
            f"{name} does not run on inputs of shape {list(inputs.shape)} ({inputs.dtype}): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise Unsupported(
            f"{name} gives {type(outputs).__name__}, not a tensor: wrap it in a module whose forward returns the "
            "tensor that the loss reads"
        )
    if not outputs.ndim or len(outputs) != len(inputs):
        raise Mismatch(f"{name} gives outputs of shape {list(outputs.shape)} for {len(inputs)} samples, not one each")
    return outputs
