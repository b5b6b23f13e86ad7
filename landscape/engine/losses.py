"""Losses as people write them, samples first, as metrics of a stack, samples last and one number a sample."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.objective import Metric, PerSample

__all__ = ["Criterion", "Loss", "Measure"]

#: A loss by name, a module such as `nn.CrossEntropyLoss()`, or a function of outputs and targets, samples first, that
#: gives one number a sample or their mean.
Loss = Literal["cross_entropy", "mse", "bce"] | Callable[[Any, Any], Tensor]

#: A further function of outputs and targets, samples first, that gives one number a sample or their mean.
Measure = Callable[[Any, Any], Tensor]

#: Names that a result has for something else.
TAKEN = frozenset(
    [
        "loss",
        "loss_straight",
        "line",
        "alpha",
        "x",
        "y",
        "done",
        "l1",
        "l2",
        "from_member",
        "to_member",
        "via_member",
        "moves",
        "via",
        "source",
        "mark",
    ]
)

#: Relative difference up to which a loss counts as the mean of its samples' losses.
_MEAN = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Criterion:
    """What is measured of a network's outputs: a loss and metrics, decisions, and the unit of the loss."""

    metrics: Mapping[str, Metric]
    predict: Callable[[Tensor], Tensor]
    unit: str = ""

    @classmethod
    def of(
        cls,
        loss: Loss | str,
        metrics: Mapping[str, Measure] | None = None,
        *,
        outputs: Shaped[Tensor, "sample *out"],
        targets: Shaped[Tensor, "sample *target"],
        unit: str | None = None,
    ) -> "Criterion":
        """The criterion of a loss, tried out on some outputs and targets in PyTorch's layout.

        Cross-entropy of class numbers, and binary cross-entropy of logits, have accuracy and counts of right samples
        beside them. Raises `Unsupported` for a loss that is no mean over samples, `Mismatch` for targets that do not
        fit.
        """
        if isinstance(loss, type):
            raise Unsupported(f"{loss.__name__} is a class: give a loss made of it, {loss.__name__}()")
        name = loss if isinstance(loss, str) else _known(loss)
        if name is not None and name not in _NAMED:
            raise Unsupported(f"there is no loss '{name}': choose {', '.join(_NAMED)}, or give a function")
        if name is not None:
            own = _NAMED[name][0](targets)
        else:
            assert not isinstance(loss, str)
            own = cls({"loss": _metric(loss, outputs, targets, "the loss")}, _as_is)
        _try(own.metrics["loss"], loss, outputs, targets)
        further = {key: _metric(each, outputs, targets, f"metric {key}") for key, each in (metrics or {}).items()}
        if wrong := [key for key in further if key in TAKEN or key.endswith("_se") or not key.isidentifier()]:
            raise LandscapeError(f"'{wrong[0]}' cannot name a metric: it is taken, or no plain word")
        return dataclasses.replace(own, metrics={**own.metrics, **further}, unit=own.unit if unit is None else unit)


def _as_is(outputs: Tensor) -> Tensor:
    return outputs


def _cross_entropy(targets: Tensor) -> Criterion:
    """Of class numbers, or of probabilities of classes; where there is space, its mean over places."""
    if targets.is_floating_point():
        return Criterion({"loss": Metric(_class_losses)}, _classes, "nats per sample")
    loss = Metric(_class_losses, slope=_class_slope)
    return Criterion({"loss": loss, **_counts(_hits, places=targets.ndim > 1)}, _classes, "nats per sample")


def _classes(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)


def _class_losses(
    outputs: Float[Tensor, "member class *space sample"], targets: Tensor
) -> Float[Tensor, "member sample"]:
    return _mean(F.cross_entropy(outputs, targets.expand(len(outputs), *targets.shape[1:]), reduction="none"))


def _class_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    """Softmax less the indicator of the class."""
    slope = outputs.softmax(1)
    index = targets.expand(len(outputs), *targets.shape[1:])[:, None]
    slope.scatter_add_(1, index, -torch.ones_like(slope[:, :1]))
    return slope / math.prod(outputs.shape[2:-1])


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
    return Criterion({"loss": Metric(_squares, slope=_squares_slope)}, _as_is, "squared error")


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    _require_like(outputs, targets)
    return _mean((outputs - targets).square())


def _squares_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) * (2 / math.prod(outputs.shape[1:-1]))


def _binary(targets: Tensor) -> Criterion:
    """Binary cross-entropy of logits."""
    metrics = {"loss": Metric(_binary_losses, slope=_binary_slope), **_counts(_sides, places=True)}
    return Criterion(metrics, lambda outputs: outputs > 0, "nats per output")


def _binary_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    _require_like(outputs, targets)
    return _mean(F.softplus(outputs) - outputs * targets)


def _binary_slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.sigmoid() - targets) / math.prod(outputs.shape[1:-1])


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


#: What makes the criterion of each loss, and what else PyTorch calls it.
_NAMED: dict[str, tuple[Callable[[Tensor], Criterion], Callable[..., Tensor], type[nn.Module]]] = {
    "cross_entropy": (_cross_entropy, F.cross_entropy, nn.CrossEntropyLoss),
    "mse": (_squared_error, F.mse_loss, nn.MSELoss),
    "bce": (_binary, F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
}


def _known(loss: Callable[..., Tensor]) -> str | None:
    """The name of a loss that is one of the named ones in its default setting."""
    kind: Any = type(loss)
    for name, (_, function, module) in _NAMED.items():
        if loss is function or (kind is module and repr(vars(loss)) == repr(vars(kind()))):
            return name
    return None


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
    """A function in PyTorch's layout as a metric of a stack."""
    by_sample = _by_sample(measure, outputs, targets, what)

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        members, samples = outputs.shape[0], outputs.shape[-1]
        targets = targets.expand(members, *targets.shape[1:])
        flat = (each.movedim(-1, 1).flatten(0, 1) for each in (outputs, targets))
        return by_sample(*flat).view(members, samples)

    return Metric(per_sample)


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


def _try(metric: Metric, loss: Loss | str, outputs: Tensor, targets: Tensor) -> None:
    """Raise an error unless the metric can read the data, and its mean is what the loss says of all samples."""
    last = (each.movedim(0, -1)[None] for each in (outputs, targets))
    with _reading("the loss", outputs, targets):
        values = metric.per_sample(*last)
    if values.isnan().all():
        raise LandscapeError(f"the loss of the model as it is is NaN on all of the first {len(outputs)} samples")
    if isinstance(loss, str):
        return
    whole = loss(outputs, targets)
    mean = float(whole.double().mean())
    if not math.isclose(float(values.double().mean()), mean, rel_tol=_MEAN, abs_tol=1e-6) and math.isfinite(mean):
        raise Unsupported(
            f"the loss of {len(outputs)} samples is {mean:.6g}, the mean of their losses {float(values.mean()):.6g}: "
            "give a loss that is the mean of its samples' losses (weights of samples go with the data)"
        )
