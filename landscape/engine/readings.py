"""Losses and metrics as their users write them, samples first: what each batch adds to a ratio of sums.

A value over the data is the sum of what the batches add to its total over the sum of what they add to its count. For
PyTorch's own losses both are known, with class weights, ignored targets and each reduction: the value is then that of
the loss on all data at once, however it is parted. Any other function is called on whole batches alone.
"""

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from landscape.core.errors import Mismatch, Unsupported
from landscape.engine.answers import Hits
from landscape.engine.batches import joined, mapped, tensors_of
from landscape.engine.kernels import binary_cross_entropy

__all__ = [
    "Gathered",
    "Measure",
    "Reading",
    "Tally",
    "accuracy",
    "entirely",
    "hits_of",
    "known_loss",
    "number",
    "reading_of",
    "sums_of",
    "whole",
]

#: What a batch adds to each metric of a network: a `Tally`, or what is `Gathered`.
Measure = Callable[[nn.Module, Any], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """What some data adds to a metric: the value is `total / count`, a ratio of sums over batches; without a `count` it
    is the total itself.

    For its standard error there are, over `samples`, the sums of squares of what each adds to the total, of products
    with what it adds to the count, and of squares of that.
    """

    total: Tensor
    count: Tensor | float | None = 1.0
    squares: tuple[Tensor | float, Tensor | float, Tensor | float] | None = None
    samples: int = 0

    @classmethod
    def of_samples(cls, numerators: Float[Tensor, " sample"], counts: Tensor | float = 1.0, *, spread: bool) -> "Tally":
        """Of numbers and counts of each sample; with `spread` there will be a standard error."""
        n = numerators.double()
        c = counts.double() if isinstance(counts, Tensor) else counts
        number = len(n)
        total, count = n.sum(), c.sum() if isinstance(c, Tensor) else c * number
        if not spread:
            return cls(total, count, None, number)
        if isinstance(c, Tensor):
            return cls(total, count, (n @ n, n @ c, c @ c), number)
        return cls(total, count, (n @ n, total * c, c * c * number), number)

    @classmethod
    def added(cls, tallies: Sequence["Tally"]) -> "Tally":
        """Those of several batches together: all at once, because a sum takes as long as a small network."""
        if len(tallies) == 1:
            return tallies[0]
        where = tallies[0].total.device

        def total(each: Sequence[Tensor | float]) -> Tensor | float:
            return _stacked(each, where).sum() if any(isinstance(one, Tensor) for one in each) else sum(each)

        counts = [each.count for each in tallies if each.count is not None]
        squares = [each.squares for each in tallies if each.squares is not None]
        spread = None
        if len(squares) == len(tallies):
            one, two, three = map(total, zip(*squares, strict=True))
            spread = (one, two, three)
        return cls(
            _stacked([each.total for each in tallies], where).sum(),
            total(counts) if len(counts) == len(tallies) else None,
            spread,
            sum(each.samples for each in tallies),
        )

    def detach(self) -> "Tally":
        """Without what derivatives would need."""
        count = self.count.detach() if isinstance(self.count, Tensor) else self.count
        return dataclasses.replace(self, total=self.total.detach(), count=count)

    def settled(self) -> "Tally":
        """Itself: a sum needs nothing more."""
        return self

    def value(self) -> Tensor:
        """The metric."""
        return self.total if self.count is None else self.total / self.count

    def standard_error(self) -> Tensor | None:
        """Of a ratio of sums (W. Cochran, *Sampling Techniques*, 1977, section 6.4); None where samples are not known.

        Of equal counts the usual one of a mean.
        """
        if self.squares is None or self.count is None:
            return None
        value, (nn_, nc, cc) = self.value(), map(torch.as_tensor, self.squares)
        spread = (nn_ - 2 * value * nc + value.square() * cc).clamp_(min=0)
        return (spread * (self.samples / max(self.samples - 1, 1))).sqrt() / self.count

    @classmethod
    def stacked(cls, tallies: Sequence["Tally"]) -> "Tally":
        """Those of several points as one, [point]."""
        first = tallies[0]

        column = functools.partial(_stacked, device=first.total.device)

        count = None if first.count is None else column([one.count for one in tallies if one.count is not None])
        squares = None
        if first.squares is not None:
            one, two, three = (column(each) for each in zip(*(t.squares for t in tallies if t.squares), strict=True))
            squares = (one, two, three)
        return cls(column([one.total for one in tallies]), count, squares, first.samples)


def _stacked(each: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """Numbers as one tensor, in float64."""
    if not any(isinstance(one, Tensor) for one in each):
        return torch.tensor(each, dtype=torch.float64, device=device)
    return torch.stack([torch.as_tensor(one, dtype=torch.float64, device=device) for one in each])


@functools.lru_cache(maxsize=1024)
def number(value: float, device: torch.device) -> Float[Tensor, ""]:
    """A number in float64: what it is multiplied with becomes float64, in one operation."""
    return torch.tensor(value, dtype=torch.float64, device=device)


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """Outputs and targets of some data, samples first, of which a function of all makes a metric: in place of a `Tally`
    for what is no ratio of sums, such as an area under a curve.
    """

    name: str
    function: Callable[[Any, Any], Any]
    parts: tuple[tuple[Any, Any], ...]

    @classmethod
    def added(cls, gathered: Sequence["Gathered"]) -> "Gathered":
        """Those of several batches as one."""
        parts = tuple(part for each in gathered for part in each.parts)
        return dataclasses.replace(gathered[0], parts=parts)

    @property
    def total(self) -> Tensor:
        """The outputs as one row, by which two passes are compared."""
        return torch.cat([each.detach().flatten().double() for part, _ in self.parts for each in tensors_of(part)])

    def detach(self) -> "Gathered":
        """Without what derivatives would need."""
        return dataclasses.replace(self, parts=mapped(self.parts, lambda each: each.detach().cpu()))

    def settled(self) -> Tally:
        """The metric of all that was gathered."""
        with torch.no_grad():
            outputs, targets = (joined(each) for each in zip(*self.detach().parts, strict=True))
            try:
                found = torch.as_tensor(self.function(outputs, targets))
            except Exception as error:  # whatever a function of the user's may raise
                line = (str(error).splitlines() or ["no message"])[0]
                raise Mismatch(f"`metrics_all` {self.name} does not run: {type(error).__name__}: {line}") from error
        if found.numel() != 1:
            raise Unsupported(f"`metrics_all` {self.name} gives shape {list(found.shape)}: let it give one number")
        return Tally(found.double().reshape(()), None)


@runtime_checkable
class Reading(Protocol):
    """What outputs and targets of a batch, samples first, add to one or more metrics by name; `weights` are of its
    samples, and with `spread` there will be standard errors.
    """

    def __call__(  # noqa: D102
        self, outputs: Any, targets: Any, weights: Tensor | None = None, *, spread: bool = False
    ) -> dict[str, Tally]: ...


#: From outputs and targets to numbers, [sample, *place].
_Elements = Callable[[Tensor, Tensor], Shaped[Tensor, "sample *place"]]

_PerSample = Callable[[Tensor, Tensor], Float[Tensor, " sample"]]

_INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss)

#: Losses of outputs and targets of one shape, of which PyTorch would broadcast others.
_ALIKE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.KLDivLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
    nn.HingeEmbeddingLoss,
    nn.MultiLabelMarginLoss,
    nn.MultiLabelSoftMarginLoss,
)

_MODULES = (*_INDEXED, *_ALIKE, nn.MultiMarginLoss)

#: Classes up to which cross-entropy is found by its formula.
_FEW_CLASSES = 64

#: Losses by name, and what else PyTorch calls them.
_NAMES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss}
_FUNCTIONS: Mapping[Any, Any] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.kl_div: nn.KLDivLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
}


def known_loss(loss: Any) -> nn.Module | None:
    """PyTorch's own loss that is meant by a name, a module, a function or a partial one; None for any other."""
    if isinstance(loss, str):
        if loss not in _NAMES:
            raise Unsupported(f"there is no loss '{loss}': choose {', '.join(_NAMES)}, or give a function")
        named: nn.Module = _NAMES[loss]()
        return named
    if isinstance(loss, nn.Module):
        changed = loss._forward_hooks or loss._forward_pre_hooks or "forward" in vars(loss)
        known: nn.Module | None = copy.deepcopy(loss) if type(loss) in _MODULES and not changed else None
        return known
    if isinstance(loss, functools.partial) and not loss.args and loss.func in _FUNCTIONS:
        kind = _FUNCTIONS[loss.func]
        if loss.keywords.keys() <= inspect.signature(kind).parameters.keys():
            made: nn.Module = kind(**loss.keywords)
            return made
    kind = next((kind for function, kind in _FUNCTIONS.items() if loss is function), None)
    return kind and kind()


def sums_of(loss: Any) -> tuple[_PerSample, _PerSample]:
    """What each sample adds to one of PyTorch's own losses before its reduction, and to what that divides by, in
    float64; nothing is divided under the reduction `sum`.
    """
    elements = _elements(loss)

    def numerators(outputs: Tensor, targets: Tensor) -> Tensor:
        if isinstance(loss, _ALIKE):
            _require_alike(outputs, targets)
        return added(elements(outputs, targets))

    def counts(outputs: Tensor, targets: Tensor) -> Tensor:
        if loss.reduction not in ("mean", "none"):
            return torch.ones(len(outputs), dtype=torch.float64, device=outputs.device)
        # Without a reduction it is the mean of what the loss gives, whatever the loss itself divides by.
        indexed = isinstance(loss, _INDEXED) and not targets.is_floating_point() and loss.reduction != "none"
        if not indexed:
            places = outputs.shape[2:] if isinstance(loss, _INDEXED) else elements(outputs[:1], targets[:1]).shape[1:]
            return torch.full((len(outputs),), math.prod(places), dtype=torch.float64, device=outputs.device)
        there = torch.ne(targets, int(loss.ignore_index))
        if loss.weight is None:
            return added(there)
        weight = torch.as_tensor(loss.weight, device=targets.device).double()
        return added(weight[torch.where(there, targets, 0)] * there)

    return numerators, counts


def reading_of(loss: nn.Module, name: str = "loss") -> Reading:
    """The reading of one of PyTorch's own losses (see `known_loss`)."""
    numerators, counts = sums_of(loss)
    known = WeakTensorKeyDictionary()  # targets in memory are read at each point

    def read(outputs: Any, targets: Any, weights: Tensor | None = None, *, spread: bool = False) -> dict[str, Tally]:
        with _said(outputs, targets):
            each = numerators(outputs, targets)
            if targets not in known:
                known[targets] = _constant(counts(outputs, targets))
        count = known[targets]
        if weights is not None:
            each, count = each * weights, weights * count
        if loss.reduction == "sum":
            return {name: Tally(each.sum(), None, None, len(each))}
        return {name: Tally.of_samples(each, count, spread=spread)}

    return read


def _constant(counts: Tensor) -> Tensor | float:
    """One number, where it is the same for all samples."""
    return float(counts[0]) if len(counts) and bool((counts == counts[0]).all()) else counts


def _elements(loss: nn.Module) -> _Elements:
    """The loss without its reduction; its tensors, such as weights of classes, go where the outputs are."""
    unreduced: Any = copy.deepcopy(loss)
    unreduced.reduction = "none"
    usual = type(loss) is nn.CrossEntropyLoss and (loss.weight is None or not loss.label_smoothing)

    def elements(outputs: Tensor, targets: Tensor) -> Tensor:
        for name, buffer in list(unreduced.named_buffers()):
            if (buffer.device, buffer.dtype) != (outputs.device, outputs.dtype):
                setattr(unreduced, name, buffer.to(outputs.device, outputs.dtype))
        if targets.is_floating_point() and targets.dtype != outputs.dtype:
            targets = targets.to(outputs.dtype)
        if (
            usual
            and outputs.ndim == 2
            and targets.ndim == 1
            and outputs.shape[1] <= _FEW_CLASSES
            and targets.dtype == torch.int64
        ):
            return _few_classes(outputs, targets, unreduced)
        if type(loss) is nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None:
            return binary_cross_entropy(outputs, targets)
        found: Tensor = unreduced(outputs, targets)
        return found

    return elements


def _few_classes(outputs: Tensor, targets: Tensor, loss: Any) -> Tensor:
    """Cross-entropy of few classes by its formula, with weights of classes or smoothed labels: PyTorch's kernel, made
    for many, takes three times as long.
    """
    if outputs.device.type != "cpu":
        return torch.as_tensor(loss(outputs, targets))
    there = targets != loss.ignore_index
    index = torch.where(there, targets, 0)  # `gather` refuses those that are no classes
    top = outputs.detach().amax(1, keepdim=True)
    own = outputs.gather(1, index[:, None])
    spread = (outputs - top).exp().sum(1, keepdim=True).log()
    each = spread + (top - own)
    if share := loss.label_smoothing:
        each = (1 - share) * each + share * (spread + (top - outputs.mean(1, keepdim=True)))
    found = torch.where(there, each[:, 0], 0)
    return found if loss.weight is None else found * loss.weight[index]


def hits_of(loss: nn.Module | None, targets: Tensor) -> Hits | None:
    """Which targets are hit, for losses of classes; None for others."""
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return lambda outputs, targets: ((outputs > 0) == (targets > 0.5), torch.ones_like(targets, dtype=torch.bool))
    if not isinstance(loss, _INDEXED) or targets.is_floating_point():
        return None
    ignored = loss.ignore_index

    def hits(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        there = torch.ne(targets, int(ignored))
        # The first of equal maxima, as argmax gives it, in half the time.
        return (outputs.max(1).indices == targets) & there, there

    return hits


def accuracy(loss: nn.Module | None, targets: Tensor) -> list[Reading]:
    """For losses of classes: the share of targets that are hit, over those that count, and how many samples are
    entirely right.
    """
    if (hits := hits_of(loss, targets)) is None:
        return []
    known = WeakTensorKeyDictionary()

    def read(outputs: Any, targets: Any, weights: Tensor | None = None, *, spread: bool = False) -> dict[str, Tally]:
        found, there = hits(outputs, targets)
        if targets not in known:
            known[targets] = _constant(added(there))
        hit, count = added(found), known[targets]
        alone = found.ndim == 1 and isinstance(count, float) and count == 1
        right = hit.sum() if alone else entirely(found, there).sum().double()
        if weights is not None:
            hit, count = hit * weights, weights * count
        share = Tally.of_samples(hit, count, spread=spread)
        return {"accuracy": share, "right": Tally(right, None, None, len(found))}

    return [read]


def entirely(found: Tensor, there: Tensor) -> Tensor:
    """Which samples are hit at all places that count, of which there is at least one."""
    found, there = (each.flatten(1) if each.ndim > 1 else each[:, None] for each in (found, there))
    return (found | ~there).all(1) & there.any(1)


def whole(function: Callable[[Any, Any], Any], what: str, name: str = "loss") -> Reading:
    """The reading of any function: called on whole batches; a number it gives weighs as much as the batch has samples,
    one number a sample is averaged.
    """

    def tally(outputs: Any, targets: Any, weights: Tensor | None, spread: bool) -> Tally:
        with _said(outputs, targets, what):
            found = function(outputs, targets)
        if not isinstance(found, Tensor):
            raise Unsupported(f"{what} gives {type(found).__name__}, not a tensor: let it give a mean, or one a sample")
        samples = _length(targets, outputs)
        if not found.ndim:
            if weights is not None:
                raise Unsupported(f"{what} gives one number for samples that have weights: let it give one each")
            return Tally(found.double() * samples, float(samples), None, samples)
        if found.shape[0] != samples:
            raise Unsupported(
                f"{what} gives a tensor of shape {list(found.shape)} for {samples} samples: let it give one number a "
                "sample, or their mean"
            )
        each = found.flatten(1).double().mean(1) if found.ndim > 1 else found.double()
        if weights is not None:
            return Tally.of_samples(each * weights, weights, spread=spread)
        return Tally.of_samples(each, spread=spread)

    def read(outputs: Any, targets: Any, weights: Tensor | None = None, *, spread: bool = False) -> dict[str, Tally]:
        return {name: tally(outputs, targets, weights, spread)}

    return read


def _length(*structures: Any) -> int:
    """Number of samples of the first tensor."""
    for each in structures:
        if isinstance(each, Tensor) and each.ndim:
            return len(each)
    raise Unsupported(
        "neither outputs nor targets are tensors with samples first: give `batch_loss` in place of `loss`"
    )


def added(elements: Shaped[Tensor, "sample *place"]) -> Float[Tensor, " sample"]:
    """Sums over the places of each sample, in float64."""
    return elements.flatten(1).sum(1, dtype=torch.float64) if elements.ndim > 1 else elements.double()


class _said:
    """Raises `Mismatch` where a function cannot read the data."""

    def __init__(self, outputs: Any, targets: Any, what: str = "the loss") -> None:
        self.given = outputs, targets, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError | ValueError | IndexError | TypeError):
            outputs, targets, what = self.given
            raise Mismatch(
                f"{what} cannot read outputs {_shape(outputs)} and targets {_shape(targets)}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error


def _shape(value: Any) -> str:
    return f"{list(value.shape)} ({value.dtype})" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def _require_alike(outputs: Tensor, targets: Tensor) -> None:
    """Raise `Mismatch` where subtraction would broadcast: outputs [1] and targets [] make a square of samples."""
    if outputs.shape != targets.shape:
        raise Mismatch(
            f"outputs of shape {list(outputs.shape[1:])} a sample do not fit targets of shape "
            f"{list(targets.shape[1:])}: reshape the targets"
        )
