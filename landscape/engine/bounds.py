"""Bounds of the loss along pieces of straight lines: of each a parabola, and how far the loss may be from it.

Units are enclosed by `engine.program.enclosures`. Each sample's loss l(P(t) + e) is the Taylor polynomial of degree 2
of l(P(t)), whose coefficients add up over samples, so that what cancels between samples cancels here; beside it are, at
most, r^3 / 6 times the largest third derivative in the cell, or how far the loss gets from its value in the middle,
whichever is less; and, by the mean value theorem, e times the largest slope. Third derivatives, with P'' = 2 c_2:

    BCE             s = sigmoid(z):  s' (1 - 2 s) P'^3 + 3 s' P' P'', where s' (1 - 2 s) is 1 / (6 sqrt 3) at most
    cross-entropy   p = softmax(z):  the third central moment of P' under p, and 3 cov_p(P', P''); a moment is at most
                    range times variance, and range^3 / (6 sqrt 3), which a distribution on two points attains
    MSE             polynomials, multiplied out

Weights of classes, of places and of positive targets multiply these bounds. Cross-entropy of any shares q of classes,
as of smoothed labels, is, with Q = sum of q and y the class of the largest share, a multiple of that of y and a linear
function, whose coefficients are those of the outputs:

    sum_c q_c (-log p_c)  =  Q (-log p_y)  +  sum_c q_c (z_y - z_c)
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.data import Batch
from landscape.engine.objective import Objective
from landscape.engine.program.enclosures import ROUNDING, Cells, Enclosure, enclose, require_supported
from landscape.engine.program.graph import Program
from landscape.engine.stack import Stack

__all__ = ["Bounds", "Parabola", "Segments"]

#: Largest third derivative of softplus, 1 / (6 sqrt 3), rounded up.
_THIRD = 0.09623

#: Operations on each number of a loss whose rounding is counted: elementary functions are taken to be right to 4 units
#: in the last place.
_OPERATIONS = 64

#: Numbers of the widest activation of the cells, and of the samples of one cell, that are computed at once.
_CACHED, _WIDEST = 2**18, 2**20


class Parabola(NamedTuple):
    """The loss in some cells: within `error` of `terms[0] + terms[1] t + terms[2] t^2`."""

    terms: Float[Tensor, "3 cell"]
    error: Float[Tensor, " cell"]


class Bounds:
    """Bounds of the loss of an objective in float64, times a whole number.

    Raises `Unsupported`, naming it, for what nothing bounds: a layer, a loss, or data.
    """

    def __init__(self, objective: Objective, times: int = 1) -> None:
        known = objective.metrics["loss"].known
        if type(known) not in _LOSSES:
            what = "this loss is another" if known is None else f"{type(known).__name__} is another"
            raise Unsupported(
                "`certify` bounds cross-entropy, binary cross-entropy of logits and squared error, with weights, "
                f"ignored targets, smoothed labels and each reduction, and {what}: leave `certify` out"
            )
        if objective.streamed:
            raise Unsupported("`certify` needs all data at once, which is streamed here: give it as tensors")
        data = objective.memory
        self.data = data.samples(0, len(data))  # with samples that weigh nothing, up to a multiple of 32
        if self.data.inputs.dtype != torch.float64:
            raise Unsupported("`certify` bounds networks of real inputs, not of boards or whole numbers: leave it out")
        self.program = Program.of(objective.module)
        require_supported(self.program)
        targets = self.data.targets
        if isinstance(known, nn.BCEWithLogitsLoss) and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise Unsupported("`certify` bounds binary cross-entropy of targets from 0 to 1, and some are beyond")
        self.known: Any = known
        self.loss = _LOSSES[type(known)]
        self.times = times
        self.counted = _counted(self.known, self.data)
        self.width = objective.network.widest(self.data.inputs)

    def along(self, start: Stack, end: Stack) -> "Segments":
        """Straight lines from the members of one stack to those of another, both float64."""
        moves = {
            name: tensor - begin[name]
            for begin, ends in ((start.tensors, end.tensors), (start.buffers, end.buffers))
            for name, tensor in ends.items()
            if tensor.is_floating_point()
        }
        return Segments(self, start, Stack(moves))

    @property
    def kept_bytes(self) -> int:
        """Of what is kept for a line, about."""
        return 16 * self.width * len(self.data)


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Straight lines from the members of `start` to those of `start + step`."""

    bounds: Bounds
    start: Stack
    step: Stack
    kept: dict[int, dict[int, tuple[Tensor, Tensor]]] = dataclasses.field(default_factory=dict)

    def at(self, line: Int[Tensor, " point"], share: float) -> Stack:
        """The points of some lines at one share of their ends."""
        moved = self.step.tensors

        def of(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: each[line] + share * moved[k][line] if k in moved else each[line] for k, each in part.items()}

        return Stack(of(self.start.tensors), of(self.start.buffers))

    @torch.no_grad()
    def __call__(
        self, line: Int[Tensor, " cell"], centre: Float[Tensor, " cell"], radius: Float[Tensor, " cell"]
    ) -> Parabola:
        """The loss where the share of the end is within a `radius` of a `centre`, both included; points have radius 0.

        Cells lie within [0, 1].
        """
        data, width = self.bounds.data, self.bounds.width
        many = max(1, min(len(data), _WIDEST // width))
        size = max(1, _CACHED // (width * many))
        parts = []
        for first in range(0, len(line), size):
            cells = slice(first, first + size)
            found = [
                self._part(range(begin, min(begin + many, len(data))), line[cells], centre[cells], radius[cells])
                for begin in range(0, len(data), many)
            ]
            parts.append(torch.stack(found).sum(0))
        *terms, error, magnitude = torch.cat(parts, 1)
        # What adding up samples rounds, and what they count.
        error = error + magnitude * ((len(data) + _OPERATIONS) * 3 * ROUNDING)
        return Parabola(torch.stack(terms) * self.bounds.times, error * self.bounds.times)

    def _part(self, samples: range, line: Tensor, centre: Tensor, radius: Tensor) -> Float[Tensor, "5 cell"]:
        """What some samples add to the coefficients, the error, and the magnitudes whose sum rounds."""
        batch = self.bounds.data.samples(samples.start, samples.stop)
        cells = Cells(self.start, self.step, line, centre, radius, self.kept.setdefault(samples.start, {}))
        outputs = enclose(self.bounds.program, cells, batch.inputs)
        found = self.bounds.loss(self.bounds.known, outputs, batch.targets)
        divisor = math.prod(found.shape[2:-1]) if self.bounds.counted is None else self.bounds.counted
        found = (found.flatten(2, -2).sum(2) if found.ndim > 3 else found) / divisor  # over the places of a sample
        return (found * batch.weights[0]).sum(-1)  # a product with a matrix would sum few cells otherwise than many


# Losses ---------------------------------------------------------------------------------------------------------------


def _parts(outputs: Enclosure) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Coefficients, error with the rounding of the loss's argument, spread, and the radius beside them."""
    z = [*outputs.terms, *[torch.zeros_like(outputs.terms[0])] * (3 - len(outputs.terms))]
    spread = outputs.spread
    assert outputs.error is not None
    error = outputs.error + (z[0].abs() + spread) * (_OPERATIONS * ROUNDING)
    radius = outputs.radius.view(-1, *[1] * (z[0].ndim - 1))
    return z[0], z[1], z[2], error, spread, radius


def _counted(known: Any, data: Batch) -> Tensor | None:
    """What the sum over the places of samples is divided by; None: by the number of places of each."""
    if known.reduction == "sum":
        return torch.ones((), dtype=torch.float64)
    if not _indexed(known, data.targets) or known.reduction == "none":
        return None
    weights = _weights_of_classes(known, data.targets)[1]
    weights = weights.flatten(1, -2).sum(1) if weights.ndim > 2 else weights
    return (weights * data.weights).sum()


def _indexed(known: Any, targets: Tensor) -> bool:
    return isinstance(known, nn.CrossEntropyLoss) and not targets.is_floating_point()


def _weights_of_classes(known: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each target, and its weight: 0 where it is ignored."""
    there = targets != known.ignore_index
    index = torch.where(there, targets, 0)
    return index, there.double() if known.weight is None else known.weight.to(targets.device).double()[index] * there


def _beside(known: Any, name: str, z: Tensor) -> Tensor | float:
    """A weight of the loss, of numbers of PyTorch's layout, beside outputs [cell, *place, sample]; 1 without it."""
    weight: Tensor | None = getattr(known, name)
    if weight is None:
        return 1.0
    places = z.shape[1:-1]
    _require_positive(known, weight)
    if weight.numel() == 1:
        return weight.to(z).flatten()[0]
    return weight.to(z).view(*[1] * (len(places) + 1 - weight.ndim), *weight.shape, 1)


def _require_positive(known: Any, each: Tensor) -> None:
    if not bool((each >= 0).all()):
        raise Unsupported(f"`certify` bounds {type(known).__name__} with weights and shares that are not below 0")


def _binary(known: Any, outputs: Enclosure, targets: Tensor) -> Tensor:
    """a softplus(-z) + b softplus(z), with b = 1 - y and a = y times the weight of positive targets: [5, cell, *place,
    sample].
    """
    z, z1, z2, error, spread, r = _parts(outputs)
    y = targets.view(targets.shape[0], *z.shape[1:])
    a, b = y * _beside(known, "pos_weight", z), 1 - y
    both = a + b
    tail = torch.exp(-z.abs())
    value = both * torch.log1p(tail) + a * (-z).clamp_(min=0) + b * z.clamp(min=0)
    low = tail / (1 + tail)  # sigmoid(-|z|)
    slope = torch.where(z > 0, b - both * low, both * low - a)
    wide = spread + error
    near = torch.exp(-(z.abs() - wide).clamp_(min=0))  # of the place in the cell where the loss bends most
    bend = (near / (1 + near).square()) * (1 + _OPERATIONS * ROUNDING)
    steep = torch.minimum(slope.abs() + both * bend * wide, torch.maximum(a, b))
    fast, turn = z1.abs() + 2 * r * z2.abs(), 2 * z2.abs()
    third = both * (bend.clamp(max=_THIRD) * fast**3 + 3 * bend * fast * turn)
    curved = both * (low * (1 - low) * z1.square() / 2) + slope * z2
    found = _sampled(value, slope * z1, curved, third, steep * spread, steep * error, fast, turn, r, scale=both)
    return found * _beside(known, "weight", z)


def _sampled(
    value: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor,
    flat: Tensor,
    error: Tensor,
    fast: Tensor,
    turn: Tensor,
    r: Tensor,
    summed: int = 1,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Coefficients, error and magnitude of the loss of each place, [5, cell, *place, sample]. Where the parabola says
    less than the middle's value alone, from which the loss is `flat` at most, that is taken. `fast` and `turn` bound P'
    and P'', and so what rounds, where the loss bends by `scale` at most; each number is a sum of so many.
    """
    rest = third * (r**3 / 6)
    wild = rest > flat
    first, second = first.masked_fill(wild, 0.0), second.masked_fill(wild, 0.0)
    size = value + (r * fast * (1 + r * fast) + r.square() * turn) * scale
    places = math.prod(value.shape[1:-1])
    size = size * (1 + (summed + places) / _OPERATIONS)
    return torch.stack([value, first, second, torch.minimum(rest, flat) + error, size])


def _classes(known: Any, outputs: Enclosure, targets: Tensor) -> Tensor:
    """Cross-entropy of the class of each place, or of shares of classes, weighed: [5, cell, *place, sample]."""
    classes = outputs.terms[0].shape[1]
    smooth, weight = known.label_smoothing, known.weight
    own = targets.new_ones(classes, dtype=torch.float64) if weight is None else weight.to(targets.device).double()
    _require_positive(known, own)
    own = own.view(-1, *[1] * (outputs.terms[0].ndim - 2))
    if _indexed(known, targets):
        index, weights = _weights_of_classes(known, targets)
        found = _class(outputs, index)
        if not smooth:
            return found * weights
        there = (targets != known.ignore_index)[:, None]
        shares = (smooth / classes * own * there).scatter_add(1, index[:, None], (1 - smooth) * weights[:, None])
    else:
        _require_positive(known, targets)
        shares = ((1 - smooth) * targets + smooth / classes) * own
        index = shares.argmax(1)
        found = _class(outputs, index)
    # What is linear in the outputs.
    z, z1, z2, error, spread, _ = _parts(outputs)
    y = index[:, None].expand(len(z), 1, *z.shape[2:])

    def added(each: Tensor, sign: int) -> Tensor:
        found: Tensor = (shares * (each.gather(1, y) + sign * each)).sum(1)
        return found

    size = added(z.abs() + spread, 1) * (1 + classes / _OPERATIONS)
    linear = [*(added(each, -1) for each in (z, z1, z2)), added(error, 1), size]
    result: Tensor = found * shares.sum(1) + torch.stack(linear)
    return result


def _class(outputs: Enclosure, index: Tensor) -> Tensor:
    """log sum exp(z - z_y) of the classes, of each place: [5, cell, *place, sample]."""
    z, z1, z2, error, spread, r = _parts(outputs)
    y = index[:, None].expand(len(z), 1, *z.shape[2:])
    # Differences to the output of the class: what is common to all classes moves no loss.
    ahead = z - z.gather(1, y)
    top, best = ahead.max(1, keepdim=True)
    powers = torch.exp(ahead - top).scatter_(1, best, 0.0)
    others = powers.sum(1, keepdim=True)
    value = (top + torch.log1p(others))[:, 0]
    share = powers.scatter_(1, best, 1.0) / (1 + others)
    slope = share.scatter_add(1, y, -torch.ones_like(share[:, :1]))
    wide = spread + error
    # The largest share of each class in the cell: its output highest, those of the others lowest.
    high = torch.exp(ahead - top + wide)
    low = torch.exp(ahead - top - wide)
    rest = (low.sum(1, keepdim=True) - low).clamp_(min=0)
    most = (high / (high + rest)).nan_to_num_(1.0) * (1 + _OPERATIONS * ROUNDING)
    rest = high.sum(1, keepdim=True) - high
    least = (low / (low + rest)).nan_to_num_(0.0) * (1 - _OPERATIONS * ROUNDING)
    hit = torch.zeros_like(share).scatter_(1, y, 1.0)
    steep = torch.maximum((most - hit).abs(), (least - hit).abs()) + _OPERATIONS * ROUNDING
    # Variances are bounded about the likeliest class in the middle, sums taken about the target, whose slope is the sum
    # of the others': what the differences round is then counted with it.
    fast, turn = ((each - each.gather(1, best)).abs() for each in (z1, z2))
    fast, turn = fast + 2 * r * turn, 2 * turn
    first, second = (each - each.gather(1, y) for each in (z1, z2))
    width = 2 * fast.amax(1)

    def variance(each: Tensor) -> Tensor:
        """That of numbers under any distribution of the cell, at most."""
        return torch.minimum((most * each.square()).sum(1), each.amax(1).square())

    bend = variance(fast)
    third = torch.minimum(width * bend, _THIRD * width**3) + 3 * (bend * variance(turn)).sqrt()
    mean = (share * first).sum(1, keepdim=True)
    curved = (share * (first - mean).square()).sum(1) / 2 + (slope * second).sum(1)
    first, flat, slack = ((a * b).sum(1) for a, b in ((slope, first), (steep, spread), (steep, error)))
    return _sampled(value, first, curved, third, flat, slack, width, turn.amax(1), r[:, 0], summed=z.shape[1])


def _squares(known: Any, outputs: Enclosure, targets: Tensor) -> Tensor:
    """(z - y)^2 of each place: [5, cell, *place, sample]."""
    z, z1, z2, error, spread, r = _parts(outputs)
    q = z - targets.view(targets.shape[0], *z.shape[1:])
    third = 12 * (z1 * z2).abs() + 6 * z2.square() * r  # so that r^3 / 6 of it is what powers of t from t^3 on are
    slack = (2 * (q.abs() + spread) + error) * error
    curved = z1.square() + 2 * q * z2
    flat = (2 * q.abs() + spread) * spread
    return _sampled(
        q.square(), 2 * q * z1, curved, third, flat, slack, 2 * (q.abs() + 1) * z1.abs(), 2 * q.abs() * z2.abs(), r
    )


#: Of PyTorch's losses: from the loss in its setting, the outputs and the targets to what each place adds.
_LOSSES: Mapping[type, Callable[[Any, Enclosure, Tensor], Tensor]] = {
    nn.BCEWithLogitsLoss: _binary,
    nn.CrossEntropyLoss: _classes,
    nn.MSELoss: _squares,
}
