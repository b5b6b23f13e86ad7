"""Losses as people write them, samples first, as metrics of a stack, samples last and one number a sample."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.answers import Hits, as_numbers
from landscape.engine.kernels import (
    binary_cross_entropy,
    binary_errors,
    binary_reference,
    class_errors,
    class_reference,
    cross_entropy,
)
from landscape.engine.objective import Metric, PerSample
from landscape.engine.readings import (
    Reading,
    Tally,
    accuracy,
    added,
    entirely,
    hits_of,
    known_loss,
    reading_of,
    sums_of,
    whole,
)

__all__ = ["Criterion", "Loss", "Measure", "counted", "require_names"]

#: A loss by name, a module such as `nn.CrossEntropyLoss()`, or a function of outputs and targets, samples first, that
#: gives one number a sample or their mean.
Loss = Literal["cross_entropy", "mse", "bce"] | Callable[[Any, Any], Tensor]

#: A further function of outputs and targets, samples first, that gives one number a sample or their mean.
Measure = Callable[[Any, Any], Tensor]

#: Names that a result has for something else, and a figure or analysis reads it by.
_TAKEN = frozenset(
    [
        "loss",
        "loss_error",
        "loss_error_most",
        "loss_low",
        "loss_high",
        "samples_read",
        "evaluated",
        "disagreement_start",
        "disagreement_end",
        "loss_straight",
        "right",
        "solved",
        "line",
        "alpha",
        "x",
        "y",
        "done",
        "l1",
        "l2",
        "start_stored",
        "end_stored",
        "from_member",
        "to_member",
        "via_member",
        "moves",
        "aligned",
        "method",
        "bends",
        "gradients",
        "evaluations",
        "peak_low",
        "peak_high",
        "bound_cells",
        "barrier",
        "barrier_low",
        "barrier_high",
        "peak",
        "points_used",
        "samples_used",
        "reached",
        "decision",
        "via",
        "source",
        "mark",
    ]
)

#: How names begin that stand for test data, and for the tables of a result; how those of errors and bounds end.
_BEGINNINGS, _ENDINGS = ("test_", "source_", "mark_", "saddle_"), ("_se", "_lower", "_upper")

#: Relative difference up to which a loss counts as the mean of its samples' losses.
_MEAN = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Criterion:
    """What is measured of a network's outputs.

    Args:
        metrics: The loss and metrics for stacks; empty where `refusal` says why there are none.
        predict: From outputs to decisions.
        soften: From outputs to probabilities, or to the outputs themselves, on an axis before the samples.
        hits: From outputs and targets, samples first, which targets are hit and which count; None of other losses.
        unit: Unit of the loss.
        readings: The same for whole batches in PyTorch's layout.
        own: The loss as it was given, which is the referee.
        parts: Whether batches may be parted without changing the loss.
        summands: Of a loss that is a sum over samples the metrics of their mean.
        refusal: Why stacks of networks cannot be evaluated.
        each: What a sample adds to a loss that is an average over samples, and to what that divides by.
    """

    metrics: Mapping[str, Metric]
    predict: Callable[[Tensor], Tensor]
    unit: str = ""
    soften: Callable[[Tensor], Tensor] = as_numbers
    readings: Sequence[Reading] = ()
    own: Callable[[Any, Any], Tensor] | None = None
    parts: bool = True
    refusal: str = ""
    summands: Mapping[str, Metric] | None = None
    again: Callable[..., dict[str, Metric]] | None = None
    hits: Hits | None = None
    each: tuple[PerSample, PerSample] | None = None

    def tallies(self, outputs: Any, targets: Any, weights: Tensor | None = None) -> dict[str, Tally]:
        """What a batch adds to the loss and each metric."""
        found: dict[str, Tally] = {}
        for reading in self.readings:
            found |= reading(outputs, targets, weights, spread=True)
        return found

    def looked_at_again(self, outputs: Any, targets: Any, *, complete: bool) -> "Criterion":
        """The same with the metrics for stacks made for more outputs and targets; where they are not `complete`, later
        ones may be ignored. Raises `Unsupported` where these show that the loss is no mean over samples.
        """
        assert self.again is not None
        return dataclasses.replace(self, metrics=self.again(outputs, targets, complete=complete))

    @classmethod
    def of(
        cls,
        loss: Loss | str,
        metrics: Mapping[str, Measure] | None = None,
        *,
        outputs: Any,
        targets: Any,
        unit: str | None = None,
    ) -> "Criterion":
        """The criterion of a loss, tried out on some outputs and targets in PyTorch's layout.

        Losses of classes, and binary cross-entropy of logits, have accuracy and counts of right samples beside them.
        Raises `Unsupported` for what is no loss, `Mismatch` for targets that do not fit.
        """
        if isinstance(loss, type):
            raise Unsupported(f"{loss.__name__} is a class: give a loss made of it, {loss.__name__}()")
        known = known_loss(loss)
        function: Any = known if known is not None else loss
        hits = hits_of(known, targets)
        require_names(metrics or (), ["accuracy"] if hits else ())
        further = {name: _read(each, f"metric {name}", name) for name, each in (metrics or {}).items()}
        if known is not None and not isinstance(outputs, Tensor):
            raise Unsupported(
                f"the model gives {type(outputs).__name__}, not a tensor that {type(known).__name__} could read: give "
                'a function of outputs and targets, such as lambda out, y: F.cross_entropy(out["logits"], y)'
            )
        readings = [_read(loss, "the loss", "loss"), *accuracy(known, targets), *further.values()]
        for reading in readings:
            reading(outputs, targets)
        predict, soften, own_unit = _decisions(known, targets)
        again = functools.partial(_for_stacks, known, loss, metrics or {})
        try:
            stacked, refusal = again(outputs, targets), ""
        except (Unsupported, Mismatch) as error:
            stacked, refusal = {}, str(error)
        parts = known is not None and all(known_loss(each) is not None for each in (metrics or {}).values())
        unit = own_unit if unit is None else unit
        summands = None
        if known is not None and known.reduction == "sum":
            summands = {"loss": Metric(_of_members(sums_of(known)[0]), known=known)}
        each = sums_of(known) if known is not None and known.reduction != "sum" else None
        return cls(stacked, predict, unit, soften, readings, function, parts, refusal, summands, again, hits, each)


def require_names(metrics: Iterable[Any], further: Collection[str] = ()) -> None:
    """Raise `LandscapeError` for a metric that is called like what a result, or `further` metrics, have already."""
    for name in metrics:
        if not isinstance(name, str) or not name.isidentifier():
            raise LandscapeError(f"'{name}' cannot name a metric: write one word of letters, digits and _")
        if name in _TAKEN or name in further or name.startswith(_BEGINNINGS) or name.endswith(_ENDINGS):
            raise LandscapeError(f"'{name}' cannot name a metric: it is taken by something else in a result")


def _read(loss: Any, what: str, name: str) -> Reading:
    known = known_loss(loss)
    return reading_of(known, name) if known is not None else whole(loss, what, name)


def _decisions(
    known: nn.Module | None, targets: Any
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str]:
    """What outputs decide, with which probabilities, and the unit of a loss."""
    if isinstance(known, nn.CrossEntropyLoss):
        return _classes, lambda outputs: outputs.softmax(1).movedim(1, -2), "nats per sample"
    if isinstance(known, nn.NLLLoss):
        if targets.is_floating_point():
            return _as_is, as_numbers, "nats per sample"
        return _classes, lambda outputs: outputs.exp().movedim(1, -2), "nats per sample"
    if isinstance(known, nn.BCEWithLogitsLoss):
        return lambda outputs: outputs > 0, lambda outputs: as_numbers(outputs.sigmoid()), "nats per output"
    return _as_is, as_numbers, "squared error" if isinstance(known, nn.MSELoss) else ""


def _for_stacks(
    known: nn.Module | None,
    loss: Any,
    metrics: Mapping[str, Measure],
    outputs: Any,
    targets: Any,
    *,
    complete: bool = True,
) -> dict[str, Metric]:
    """Metrics of many networks at once; raises `Unsupported` where a loss is no mean over samples."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise Unsupported("outputs or targets are no tensors")
    usual = known is not None and type(known) in _DEFAULTS and repr(vars(known)) == repr(vars(type(known)()))
    if known is not None and usual and (not isinstance(known, nn.CrossEntropyLoss) or (complete and counted(targets))):
        found = dict(_DEFAULTS[type(known)](targets).metrics)
    elif known is not None:
        found = _summed(known, targets)
    else:
        if not complete and not loss(outputs, targets).ndim:
            raise Unsupported("a loss that gives one number for a batch cannot be parted where data is streamed")
        found = {"loss": _metric(loss, outputs, targets, "the loss")}
    return found | {name: _metric(each, outputs, targets, f"metric {name}") for name, each in metrics.items()}


def counted(targets: Tensor) -> bool:
    """Whether no target is one that cross-entropy ignores."""
    return targets.is_floating_point() or bool((targets >= 0).all())


def _summed(known: nn.Module, targets: Tensor) -> dict[str, Metric]:
    """One of PyTorch's own losses in another setting than the usual one, with accuracy over the targets that count."""
    if known.reduction == "sum":
        raise Unsupported(f"{type(known).__name__}(reduction='sum') is no mean over samples, which stacks need")
    numerators, counts = sums_of(known)
    hits = hits_of(known, targets)
    if hits is None or isinstance(known, nn.BCEWithLogitsLoss) or known.reduction == "none":  # as many in each sample
        found = {"loss": Metric(_of_members(lambda o, t: numerators(o, t) / counts(o, t)), known=known)}
    else:
        found = {"loss": Metric(_of_members(numerators), counts=_of_targets(lambda t: counts(t, t)), known=known)}
    if hits is not None:
        shared = _of_targets(lambda t: added(hits(t[:, None], t)[1]))
        found |= {
            "accuracy": Metric(_of_members(lambda o, t: added(hits(o, t)[0])), counts=shared),
            "right": Metric(_of_members(lambda o, t: entirely(*hits(o, t)).double()), "count"),
        }
    return found


def _of_targets(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of targets in PyTorch's layout for those of a stack, one row for all members or one for each."""

    def of_targets(targets: Tensor) -> Tensor:
        return function(targets.movedim(-1, 1).flatten(0, 1)).view(targets.shape[0], targets.shape[-1])

    return of_targets


def _of_members(function: PerSample) -> PerSample:
    """A function of samples in PyTorch's layout for all members of a stack."""

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        members, samples = outputs.shape[0], outputs.shape[-1]
        targets = targets.expand(members, *targets.shape[1:])
        flat = (each.movedim(-1, 1).flatten(0, 1) for each in (outputs, targets))
        return function(*flat).view(members, samples)

    return per_sample


def _as_is(outputs: Tensor) -> Tensor:
    return outputs


def _cross_entropy(targets: Tensor) -> Criterion:
    """Of class numbers, or of probabilities of classes; where there is space, its mean over places."""
    if targets.is_floating_point():
        return Criterion({"loss": Metric(_share_losses, known=nn.CrossEntropyLoss())}, _classes, "nats per sample")
    loss = Metric(_class_losses, slope=_class_slope, known=nn.CrossEntropyLoss(), reference=_class_again)
    return Criterion({"loss": loss, **_counts(_hits, places=targets.ndim > 1)}, _classes, "nats per sample")


def _classes(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)


def _share_losses(
    outputs: Float[Tensor, "member class *space sample"], targets: Tensor
) -> Float[Tensor, "member sample"]:
    return _mean(F.cross_entropy(outputs, _for_each(outputs, targets), reduction="none"))


def _class_losses(
    outputs: Float[Tensor, "member class *space sample"], targets: Tensor
) -> Float[Tensor, "member sample"]:
    return _mean(cross_entropy(outputs, _for_each(outputs, targets)))


def _class_again(outputs: Tensor, targets: Tensor) -> Tensor:
    return _mean(class_reference(outputs, _for_each(outputs, targets)))


def _class_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return class_errors(outputs, _for_each(outputs, targets)) / math.prod(outputs.shape[2:-1])


def _for_each(outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets of each member."""
    return targets.expand(len(outputs), *targets.shape[1:])


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """`outputs.argmax(1) == targets`, but that PyTorch's argmax over an inner axis is 50 times slower than its maximum:
    is the class's output above the highest of the others?

    Of equally likely classes the first counts, as in argmax: a network that says nothing must not be right.
    """
    index = targets.expand(len(outputs), *targets.shape[1:])[:, None]
    own, others = outputs.gather(1, index), outputs.scatter(1, index, -math.inf).amax(1, keepdim=True)
    if not ((own > others) | (own < others)).all():  # ties, or NaN
        return outputs.argmax(1) == targets
    return (own > others)[:, 0]


def _squared_error(targets: Tensor) -> Criterion:
    return Criterion({"loss": Metric(_squares, slope=_squares_slope, known=nn.MSELoss())}, _as_is, "squared error")


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    _require_like(outputs, targets)
    return _mean((outputs - targets).square())


def _squares_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) * (2 / math.prod(outputs.shape[1:-1]))


def _binary(targets: Tensor) -> Criterion:
    """Binary cross-entropy of logits."""
    loss = Metric(_binary_losses, slope=_binary_slope, known=nn.BCEWithLogitsLoss(), reference=_binary_again)
    metrics = {"loss": loss, **_counts(_sides, places=True)}
    return Criterion(metrics, lambda outputs: outputs > 0, "nats per output")


def _binary_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    _require_like(outputs, targets)
    return _mean(binary_cross_entropy(outputs, targets))


def _binary_again(outputs: Tensor, targets: Tensor) -> Tensor:
    return _mean(binary_reference(outputs, targets))


def _binary_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_errors(outputs, targets) / math.prod(outputs.shape[1:-1])


def _sides(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs > 0) == (targets > 0.5)


def _counts(hits: PerSample, *, places: bool) -> dict[str, Metric]:
    """Share of what is hit, and samples that are hit at all places; without places these are one, and computed once."""

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        found = hits(outputs, targets)
        return found.flatten(1, -2).all(1) if found.ndim > 2 else found

    def share(outputs: Tensor, targets: Tensor) -> Tensor:
        return _mean(hits(outputs, targets).to(outputs.dtype))

    return {"accuracy": Metric(share if places else right), "right": Metric(right, "count")}


#: What makes the metrics of each loss in its usual setting.
_DEFAULTS: Mapping[type[nn.Module], Callable[[Tensor], Criterion]] = {
    nn.CrossEntropyLoss: _cross_entropy,
    nn.MSELoss: _squared_error,
    nn.BCEWithLogitsLoss: _binary,
}


def _mean(values: Float[Tensor, "member *target sample"]) -> Float[Tensor, "member sample"]:
    """Over all places of a sample."""
    return values.flatten(1, -2).mean(1) if values.ndim > 2 else values


def _require_like(outputs: Tensor, targets: Tensor) -> None:
    """Raise `Mismatch` where subtraction would broadcast: outputs [1] and targets [] make a square of samples."""
    if outputs.shape[1:] != targets.shape[1:]:
        raise Mismatch(
            f"outputs of shape {list(outputs.shape[1:-1])} a sample do not fit targets of shape "
            f"{list(targets.shape[1:-1])}: reshape the targets"
        )


def _metric(measure: Measure, outputs: Tensor, targets: Tensor, what: str) -> Metric:
    """A function in PyTorch's layout as a metric of a stack: one that is the mean of what samples give alone."""
    metric = Metric(_of_members(_by_sample(measure, outputs, targets, what)))
    last = (each.movedim(0, -1)[None] for each in (outputs, targets))
    values = metric.per_sample(*last)[0].double()
    for part in (slice(None), slice(0, len(outputs) // 3 + 1), slice(len(outputs) // 2, None)):
        whole = float(measure(outputs[part], targets[part]).double().mean())
        if not math.isclose(float(values[part].mean()), whole, rel_tol=_MEAN, abs_tol=1e-6) and math.isfinite(whole):
            raise Unsupported(
                f"{what} of {len(values[part])} samples is {whole:.6g}, the mean of what it gives each "
                f"{float(values[part].mean()):.6g}"
            )
    return metric


def _by_sample(
    measure: Measure, outputs: Tensor, targets: Tensor, what: str
) -> Callable[[Tensor, Tensor], Float[Tensor, " sample"]]:
    """One number a sample: what the function gives without its reduction, or for each sample alone."""
    plain: Callable[..., Any] = measure
    if isinstance(measure, nn.Module) and getattr(measure, "reduction", "none") != "none":
        unreduced: Any = copy.deepcopy(measure)
        unreduced.reduction = "none"
        plain = unreduced
    elif not isinstance(measure, nn.Module) and _reduces(measure):
        plain = functools.partial(plain, reduction="none")
    with _reading(what, outputs, targets):
        found = plain(outputs, targets)
    if not isinstance(found, Tensor):
        raise Unsupported(f"{what} gives {type(found).__name__}, not a tensor with one number a sample")
    if found.ndim and found.shape[0] == len(outputs):
        half = max(1, len(outputs) // 2)
        part = plain(outputs[:half], targets[:half])
        if part.shape != found[:half].shape or not torch.allclose(part, found[:half], rtol=_MEAN, equal_nan=True):
            raise Unsupported(
                f"{what} gives a sample another number when other samples are left out: let it give one number a "
                "sample, of that sample alone"
            )
        return lambda o, t: _numbers(plain(o, t))
    if found.ndim:
        raise Unsupported(
            f"{what} gives a tensor of shape {list(found.shape)} for {len(outputs)} samples: let it give one number a "
            "sample, or their mean"
        )

    alone = torch.func.vmap(lambda output, target: plain(output[None], target[None]))
    try:
        alone(outputs, targets)
    except Exception as error:
        raise Unsupported(
            f"{what} cannot be computed sample by sample ({type(error).__name__}): let it give one number a sample "
            "instead of their mean, without branches on numbers and without chance"
        ) from error
    return lambda o, t: _numbers(alone(o, t))


@contextlib.contextmanager
def _reading(what: str, outputs: Tensor, targets: Tensor) -> Iterator[None]:
    """Raises `Mismatch` where a function cannot read the data."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise Mismatch(
            f"{what} cannot read outputs {list(outputs.shape)} and targets {list(targets.shape)} ({targets.dtype}): "
            f"{str(error).splitlines()[0]}"
        ) from error


def _numbers(values: Tensor) -> Float[Tensor, " sample"]:
    values = values if values.is_floating_point() else values.float()
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def _reduces(measure: Measure) -> bool:
    try:
        return "reduction" in inspect.signature(measure).parameters
    except (TypeError, ValueError):
        return False
