"""Bounds of the loss along pieces of straight lines: of each a parabola, and how far the loss may be from it.

Units are enclosed by `engine.program.enclosures`. Each sample's loss l(P(t) + e) is the Taylor polynomial of degree 2
of l(P(t)), whose coefficients add up over samples, so that what cancels between samples cancels here; beside it are, at
most, r^3 / 6 times the largest third derivative in the cell, or how far the loss gets from its value in the middle,
whichever is less; and, by the mean value theorem, e times the largest slope. Third derivatives, with P'' = 2 c_2:

    BCE             s = sigmoid(z):  s' (1 - 2 s) P'^3 + 3 s' P' P'', where s' (1 - 2 s) is 1 / (6 sqrt 3) at most
    cross-entropy   p = softmax(z):  the third central moment of P' under p, and 3 cov_p(P', P''); a moment is at most
                    range times variance, and range^3 / (6 sqrt 3), which a distribution on two points attains
    MSE             polynomials, multiplied out
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import Unsupported
from landscape.engine.objective import Formula, Objective
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
    """Bounds of the loss of an objective in float64.

    Raises `Unsupported`, naming it, for what nothing bounds: a layer, a loss, or data.
    """

    def __init__(self, objective: Objective) -> None:
        formula = objective.metrics["loss"].formula
        if formula is None:
            raise Unsupported(
                "`certify` bounds binary cross-entropy of logits, cross-entropy of class numbers and squared error in "
                "their usual settings, and this loss is another: leave `certify` out"
            )
        if objective.streamed:
            raise Unsupported("`certify` needs all data at once, which is streamed here: give it as tensors")
        data = objective.memory
        self.data = data.samples(0, len(data))  # with samples that weigh nothing, up to a multiple of 32
        if self.data.inputs.dtype != torch.float64:
            raise Unsupported("`certify` bounds networks of real inputs, not of boards or whole numbers: leave it out")
        self.program = Program.of(objective.module)
        require_supported(self.program)
        if formula == "bce" and not bool(((self.data.targets >= 0) & (self.data.targets <= 1)).all()):
            raise Unsupported("`certify` bounds binary cross-entropy of targets from 0 to 1, and some are beyond")
        self.loss = _LOSSES[formula]
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
        # What adding up samples rounds.
        return Parabola(torch.stack(terms), error + magnitude * ((len(data) + _OPERATIONS) * 2 * ROUNDING))

    def _part(self, samples: range, line: Tensor, centre: Tensor, radius: Tensor) -> Float[Tensor, "5 cell"]:
        """What some samples add to the coefficients, the error, and the magnitudes whose sum rounds."""
        batch = self.bounds.data.samples(samples.start, samples.stop)
        cells = Cells(self.start, self.step, line, centre, radius, self.kept.setdefault(samples.start, {}))
        outputs = enclose(self.bounds.program, cells, batch.inputs)
        found = self.bounds.loss(outputs, batch.targets)  # [5, cell, sample]
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


def _binary(outputs: Enclosure, targets: Tensor) -> Tensor:
    """y softplus(-z) + (1 - y) softplus(z), the mean over a sample's places: [5, cell, sample]."""
    z, z1, z2, error, spread, r = _parts(outputs)
    y = targets.view(targets.shape[0], *z.shape[1:])
    tail = torch.exp(-z.abs())
    value = torch.log1p(tail) + y * (-z).clamp_(min=0) + (1 - y) * z.clamp(min=0)
    low = tail / (1 + tail)  # sigmoid(-|z|)
    slope = torch.where(z > 0, (1 - y) - low, low - y)
    wide = spread + error
    near = torch.exp(-(z.abs() - wide).clamp_(min=0))  # of the place in the cell where the loss bends most
    bend = (near / (1 + near).square()) * (1 + _OPERATIONS * ROUNDING)
    steep = (slope.abs() + bend * wide).clamp_(max=1.0)
    fast, turn = z1.abs() + 2 * r * z2.abs(), 2 * z2.abs()
    third = bend.clamp(max=_THIRD) * fast**3 + 3 * bend * fast * turn
    curved = low * (1 - low) * z1.square() / 2 + slope * z2
    return _sampled(value, slope * z1, curved, third, steep * spread, steep * error, fast, turn, r)


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
) -> Tensor:
    """Coefficients, error and magnitude of each sample's loss, [5, cell, sample], from those of its places, of which
    they are the mean. Where the parabola says less than the middle's value alone, from which the loss is `flat` at
    most, that is taken. `fast` and `turn` bound P' and P'', and so what rounds; each number is a sum of so many.
    """
    rest = third * (r**3 / 6)
    wild = rest > flat
    first, second = first.masked_fill(wild, 0.0), second.masked_fill(wild, 0.0)
    size = value + r * fast * (1 + r * fast) + r.square() * turn
    places = math.prod(value.shape[1:-1])
    size = size * (1 + (summed + places) / _OPERATIONS)
    found = torch.stack([value, first, second, torch.minimum(rest, flat) + error, size])
    return found.flatten(2, -2).mean(2) if found.ndim > 3 else found


def _classes(outputs: Enclosure, targets: Tensor) -> Tensor:
    """log sum exp(z - z_y) of the classes, the mean over a sample's places: [5, cell, sample]."""
    z, z1, z2, error, spread, r = _parts(outputs)
    y = targets[:, None].expand(len(z), 1, *z.shape[2:])
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


def _squares(outputs: Enclosure, targets: Tensor) -> Tensor:
    """(z - y)^2, the mean over a sample's places: [5, cell, sample]."""
    z, z1, z2, error, spread, r = _parts(outputs)
    q = z - targets.view(targets.shape[0], *z.shape[1:])
    third = 12 * (z1 * z2).abs() + 6 * z2.square() * r  # so that r^3 / 6 of it is what powers of t from t^3 on are
    slack = (2 * (q.abs() + spread) + error) * error
    curved = z1.square() + 2 * q * z2
    flat = (2 * q.abs() + spread) * spread
    return _sampled(
        q.square(), 2 * q * z1, curved, third, flat, slack, 2 * (q.abs() + 1) * z1.abs(), 2 * q.abs() * z2.abs(), r
    )


_LOSSES: Mapping[Formula, Callable[[Enclosure, Tensor], Tensor]] = {
    "bce": _binary,
    "cross_entropy": _classes,
    "mse": _squares,
}
