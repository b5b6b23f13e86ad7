"""Losses that read a model and a batch of any structure: what `from_model(..., batch_loss=...)` is given."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.batches import common_length, loader_name, mapped, moved, parted, renewed, tensors_of
from landscape.engine.live import copied
from landscape.engine.losses import require_names
from landscape.engine.readings import Gathered, Tally, number
from landscape.space.derivation import derived
from landscape.space.symmetry import Symmetry

__all__ = ["BatchLoss", "Held", "dataset_loader", "raw_source", "require_a_number", "require_no_size"]

#: Entries of what a loss gives that are no metrics.
_KEPT = ("outputs", "targets")

#: Samples a batch of a dataset.
_BATCH = 256

#: Samples with which the symmetry of a network is derived, if a loss can do with them.
_FOLLOWED = 4

#: Relative difference up to which the parts of a batch give the loss of the whole.
_SAME = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Batches in memory, and what they are parts of, unless they were made apart."""

    batches: tuple[Any, ...]
    whole: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def raw_source(data: Any, batch_size: int | None) -> Any:
    """Tensors in a tuple, a mapping or a dataclass as a batch in memory, or several of `batch_size`; else what gives
    batches.
    """
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
    if (loader := dataset_loader(data, batch_size)) is not None:
        return loader
    if _is_batch(data):
        batch = mapped(data, lambda tensor: tensor.detach())
        return Held(tuple(parted(batch, batch_size)) if batch_size else (batch,), batch)
    if isinstance(data, list | tuple) and data:
        if batch_size:
            raise LandscapeError("`batch_size` parts data in memory, and these are batches already: leave it out")
        return Held(tuple(data))
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise Unsupported(f"the data is {type(data).__name__}: give a batch, a list of them, a Dataset or a DataLoader")
    require_no_size(data, batch_size)
    return data


def dataset_loader(data: Any, batch_size: int | None) -> Iterable[Any] | None:
    """What reads a dataset in batches, in its order; None for anything else."""
    if not isinstance(data, torch.utils.data.Dataset) or isinstance(data, torch.utils.data.IterableDataset):
        return None
    return torch.utils.data.DataLoader(data, batch_size=batch_size or _BATCH, shuffle=False)


def require_no_size(loader: Iterable[Any], batch_size: int | None) -> None:
    """Raise `LandscapeError` for a size of batches that are made elsewhere."""
    if batch_size is not None:
        raise LandscapeError(f"{loader_name(loader)} has batches of its own: leave `batch_size` out")


def _is_batch(data: Any) -> bool:
    """Whether it is tensors, and not a list of batches."""
    if isinstance(data, Tensor | np.ndarray | Mapping) or dataclasses.is_dataclass(data):
        return True
    if isinstance(data, tuple | list):
        arrays = [isinstance(each, Tensor | np.ndarray) for each in data]
        # Batches are alike; what has tensors beside other structures, such as ((image, numbers), target), is one batch.
        return bool(data) and (all(arrays) or (isinstance(data, tuple) and any(arrays)))
    return hasattr(data, "to") and bool(tensors_of(data))


@dataclasses.dataclass(frozen=True, eq=False)
class BatchLoss:
    """A function of a model and a batch, and what a scalar that it gives weighs.

    `differentiates` says whether it takes derivatives itself, `name` what it is called, `tried` what it gave once.
    `kept` are those of the entries `outputs` and `targets` that it gives, which are no metrics; `over_batches` are the
    metrics that are one number a batch.
    """

    function: Callable[[nn.Module, Any], Any]
    weight: Callable[[Any], float] | None
    differentiates: bool
    name: str
    tried: Any = None
    kept: tuple[str, ...] = ()
    over_batches: tuple[str, ...] = ()

    def measure(
        self, module: nn.Module, batch: Any, metrics_all: Mapping[str, Callable[[Any, Any], Any]] | None = None
    ) -> dict[str, Any]:
        """What a batch adds to each metric."""
        # Containers of its own: what a loss takes out of a batch is there again at the next point.
        found = self.function(module, renewed(batch))
        if type(found) is Tensor and not found.ndim:
            weight = self.weigh(batch)
            return {"loss": Tally(found * number(weight, found.device), weight)}
        every = found if isinstance(found, Mapping) else {"loss": found}
        tallies = {name: self._tally(name, each, batch) for name, each in every.items() if name not in _KEPT}
        return {**tallies, **(gathered(metrics_all, *(every[name] for name in _KEPT)) if metrics_all else {})}

    def entries(self, module: nn.Module, batch: Any) -> tuple[Any, Any]:
        """The outputs and targets of a batch; None for targets that it does not give."""
        found = self.function(module, renewed(batch))
        return found["outputs"], found.get("targets")

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch as its user's own loop reads it: what does not weigh it."""
        found = self.function(module, renewed(batch))
        found = found["loss"] if isinstance(found, Mapping) else found
        plain = isinstance(found, Tensor) and not found.ndim
        return found if plain else self._tally("loss", found, batch).value()

    def _tally(self, name: str, found: Any, batch: Any) -> Tally:
        if isinstance(found, tuple | list) and len(found) == 2:
            total, count = (torch.as_tensor(each).double() for each in found)
            return Tally(total.sum(), count.detach().sum())
        if not isinstance(found, Tensor | float | int):
            raise Unsupported(
                f"`batch_loss` gives {name} of type {type(found).__name__}: let it give a scalar, or a pair of a sum "
                "and its count"
            )
        value = torch.as_tensor(found).double()
        if value.ndim:
            raise Unsupported(
                f"`batch_loss` gives {name} of shape {list(value.shape)}: let it give a scalar, or a pair of a sum and "
                "its count"
            )
        weight = self.weigh(batch)
        return Tally(value * weight, weight)

    def weigh(self, batch: Any) -> float:
        """What a scalar of the batch weighs."""
        if self.weight is not None:
            found = self.weight(batch)
            if isinstance(found, Tensor) and found.numel() != 1:
                raise LandscapeError(
                    f"`batch_weight` gives a tensor of shape {list(found.shape)} for a batch: let it give one number"
                )
            weight = float(found)
            if not 0 <= weight < math.inf:
                raise LandscapeError(
                    f"`batch_weight` gives {weight:g} for a batch: let it give how much the batch counts"
                )
            return weight
        return float(common_length(batch) or 1)

    def symmetry(self, module: nn.Module, batch: Any, *, evaluation: bool) -> Symmetry:
        """The symmetry of a network as this reads it on a few samples of a batch, or on all if it needs them; where it
        takes derivatives, of the network's own forward as it calls it.
        """
        if (common_length(batch) or 0) > _FOLLOWED:
            few = self._followed(module, next(iter(parted(batch, _FOLLOWED))), evaluation)
            if few:
                return few
        return self._followed(module, batch, evaluation)

    def _followed(self, module: nn.Module, batch: Any, evaluation: bool) -> Symmetry:
        if not self.differentiates:
            return derived(module, batch, through=self.function, evaluation=evaluation)
        calls: list[tuple[Any, Any]] = []
        network = copied(module).eval() if evaluation else copied(module)
        network.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
        try:
            self.function(network, renewed(batch))
        except Exception as error:  # whatever a loss of the user's may raise
            return Symmetry(refused=(_does_not_run(error),))
        given = mapped(calls, lambda tensor: tensor.detach())
        return derived(module, given, through=_repeated, evaluation=evaluation)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        function: Callable[[nn.Module, Any], Any] | str,
        weight: Callable[[Any], float] | None,
        source: Any,
        metrics_all: Collection[str] = (),
    ) -> "BatchLoss":
        """One that has been tried on the first batches of some data, whose outputs and targets `metrics_all` read;
        raises an error that says why it cannot serve.
        """
        if isinstance(function, str) and function != "own":
            raise LandscapeError('`batch_loss` is a function of a model and a batch, or "own"')
        called: Callable[[nn.Module, Any], Any] = _own_loss if isinstance(function, str) else function
        name = "own" if function == "own" else getattr(function, "__qualname__", type(function).__name__)
        few = _few(source)
        several = len(few) > 1
        if several and weight is None and any(common_length(batch) is None for batch in few):
            raise LandscapeError(
                "the tensors of a batch differ in the length of their first axis, so its number of samples is not "
                "known: give `batch_weight`, or let `batch_loss` give pairs of a sum and its count"
            )
        dtype = next(module.parameters()).dtype
        batch = moved(few[0], torch.device("cpu"), dtype if dtype.is_floating_point else None)
        found, differentiates = _tried(copied(module).eval(), called, batch)
        if function == "own" and (shift := _shift(copied(module).eval(), batch)) is not None:
            called = functools.partial(_own_loss, shift=shift)
            found, differentiates = _tried(copied(module).eval(), called, batch)
        tried = found.get("loss") if isinstance(found, Mapping) else found
        tried = tried[0] if isinstance(tried, tuple | list) and tried else tried
        every = found if isinstance(found, Mapping) else {"loss": found}
        kept = tuple(each for each in _KEPT if each in every)
        if wrong := [each for each in kept if not any(tensor.ndim for tensor in tensors_of(every[each]))]:
            raise LandscapeError(
                f"`batch_loss` gives {wrong[0]} without samples: its entries outputs and targets are those of the "
                "samples, which are no metrics; call a metric otherwise"
            )
        if missing := [each for each in _KEPT if metrics_all and each not in kept]:
            raise LandscapeError(
                f"`metrics_all` read the entries outputs and targets of what `batch_loss` gives, which has no "
                f"{missing[0]}: let it give both beside the loss"
            )
        names = [each for each in every if each not in kept]
        scalars = tuple(each for each in names if not isinstance(every[each], tuple | list))
        made = cls(called, weight, differentiates, name, tried, kept, scalars)
        if "loss" not in names:
            raise LandscapeError(f"`batch_loss` gives {', '.join(map(str, names))}, but no `loss`")
        require_names(each for each in names if each != "loss")
        require_names(metrics_all, names)
        tallies = {key: made._tally(key, every[key], batch) for key in names}
        if tallies["loss"].value().isnan():  # nothing may count in the first batch
            made._require_a_number(copied(module).eval(), source, dtype if dtype.is_floating_point else None)
        if function == "own" and several:
            made._require_a_mean(copied(module).eval(), batch)
        return made

    def _require_a_number(self, module: nn.Module, source: Any, dtype: torch.dtype | None) -> None:
        batches = (moved(each, torch.device("cpu"), dtype) for each in source)
        with torch.set_grad_enabled(self.differentiates):
            require_a_number((self.measure(module, each)["loss"].detach() for each in batches), "batches")

    def _require_a_mean(self, module: nn.Module, batch: Any) -> None:
        """Raise `LandscapeError` unless parts of unequal size give the loss of the whole."""
        length = common_length(batch) or 1
        if length < 2:
            return
        with torch.set_grad_enabled(self.differentiates):
            whole = self.measure(module, batch)["loss"].value()
            parts = parted(batch, 2 * length // 3 + 1)
            joined = Tally.added([self.measure(module, part)["loss"] for part in parts]).value()
        if not math.isclose(float(whole), float(joined), rel_tol=_SAME, abs_tol=1e-12):
            raise LandscapeError(
                f"the model's own loss of a batch is {float(whole):.7g}, that of its parts together "
                f"{float(joined):.7g}: it is no mean over samples. Give `batch_weight`, such as the number of tokens "
                'that count: lambda batch: (batch["labels"][:, 1:] != -100).sum()'
            )


def _repeated(module: nn.Module, calls: Sequence[tuple[Any, Any]]) -> list[Any]:
    """What a network gives in each of some calls."""
    return [module(*positional, **named) for positional, named in calls]


def require_a_number(tallies: Iterable[Tally], of: str) -> None:
    """Raise `LandscapeError` if the loss of a model as it is is NaN on the first batches, a ratio of sums over as many
    as it takes until something counts.
    """
    found = list[Tally]()
    for tally in tallies:
        found.append(tally)
        value = Tally.added(found)
        if value.total.isnan():
            raise LandscapeError(f"the loss of the model as it is is NaN on its first {of}")
        if not value.value().isnan():
            return
    raise LandscapeError(
        f"nothing counts in the data: over all its {of} the loss is 0 / 0; look at targets and weights"
    )


def gathered(metrics_all: Mapping[str, Callable[[Any, Any], Any]], outputs: Any, targets: Any) -> dict[str, Gathered]:
    """What a batch adds to metrics of all data."""
    return {name: Gathered(name, function, ((outputs, targets),)) for name, function in metrics_all.items()}


def _few(source: Any) -> list[Any]:
    """The first two batches."""
    batches = source.batches if isinstance(source, Held) else source
    found = [batch for batch, _ in zip(batches, range(2), strict=False)]
    if not found:
        raise LandscapeError(f"{loader_name(batches)} gives no batches: its dataset is empty, or was read already")
    return found


def _tried(module: nn.Module, function: Callable[[nn.Module, Any], Any], batch: Any) -> tuple[Any, bool]:
    """What the loss gives, with the graph of what it was computed from, and whether it needs derivatives for that."""
    module.requires_grad_(False)
    needs = False
    try:
        with torch.no_grad():
            function(module, renewed(batch))
    except RuntimeError as error:
        if "require" not in str(error) or "grad" not in str(error):
            raise Mismatch(_does_not_run(error)) from error
        needs = True
    except Exception as error:  # whatever a loss of the user's may raise
        raise Mismatch(_does_not_run(error)) from error
    try:
        with torch.enable_grad():
            return function(module, renewed(batch)), needs
    except Exception as error:
        raise Mismatch(_does_not_run(error)) from error


def _does_not_run(error: Exception) -> str:
    line = (str(error).splitlines() or ["no message"])[0]
    return f"`batch_loss` does not run on the first batch: {type(error).__name__}: {line}"


def _own_loss(module: nn.Module, batch: Any, shift: int | None = None) -> Any:
    """The loss that a model returns itself: `outputs.loss`, `outputs["loss"]`, or the scalar of a pair; with a `shift`
    beside its logits and the labels so many places later.
    """
    outputs: Any = module(**batch) if isinstance(batch, Mapping) else module(*batch)
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if found is None and isinstance(outputs, tuple | list):
        found = next((each for each in outputs if isinstance(each, Tensor) and not each.ndim), None)
    if found is None and isinstance(outputs, Tensor) and not outputs.ndim:
        found = outputs
    if not isinstance(found, Tensor):
        raise Unsupported(f"the model returns {type(outputs).__name__} without a loss: does the batch have labels?")
    if shift is None:
        return found
    logits, labels = _labelled(outputs, batch)
    logits, labels = (logits[:, :-shift], labels[:, shift:]) if shift else (logits, labels)
    return {"loss": found, "outputs": logits, "targets": labels}


def _labelled(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits that a model returns, and labels of a batch."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple | list):
        logits = next((each for each in outputs if isinstance(each, Tensor) and each.ndim > 1), None)
    labels = batch.get("labels", batch.get("targets")) if isinstance(batch, Mapping) else batch[-1]
    return torch.as_tensor(logits), torch.as_tensor(labels)


def _shift(module: nn.Module, batch: Any) -> int | None:
    """By how many places the labels of a model stand behind its logits, of which its loss is the cross-entropy: 1 in
    models that predict the next token; None where that is not its loss.
    """
    for shift in (0, 1):
        try:
            with torch.no_grad():
                found = _own_loss(module, renewed(batch), shift)
                logits, labels = found["outputs"], found["targets"]
                again = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        if logits.shape[:-1] == labels.shape and torch.isclose(again, found["loss"].to(again), rtol=1e-4):
            return shift
    return None
