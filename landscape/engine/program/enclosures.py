"""What bounds a layer's outputs along a piece of a line: Taylor models of each unit on each sample.

On a line weights are affine in alpha. In a cell, `alpha = centre + t` with `|t| <= radius`, each unit is enclosed by

    c_0 + c_1 t + c_2 t^2 + [-error, error]

(K. Makino, M. Berz, *Taylor models and other validated functional inclusion methods*, Int. J. Pure Appl. Math. 6,
2003). Coefficients go through products as they are, so that what cancels there cancels here; what they leave out goes
into the error: powers of t from the third on, units whose sign is not certain in the cell, and rounding.

Rounding: with u = 2^-53, a sum of n products rounds, in any order and with fused operations, by at most
n u / (1 - n u) times the sum of magnitudes (N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
section 3.1). Each rule adds that, generously, to its error: in float64 it is some 1e-13 of what it is added to.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.program.functions import FUNCTIONS, MAX_POOL
from landscape.engine.program.graph import Program, Step
from landscape.engine.program.layers import Own, pooled
from landscape.engine.program.layout import by_member, samples_first, samples_last
from landscape.engine.program.products import ceil_div, product, windows
from landscape.engine.stack import Stack

__all__ = ["ROUNDING", "Cells", "Enclosure", "enclose", "require_supported"]

#: Unit roundoff of float64.
ROUNDING = 2.0**-53

#: Operations beside a sum's own whose rounding is added along with it.
_BESIDE = 32

#: Stands for minus infinity around the data of a maximum.
_LOWEST = -1e300

#: What can be bounded, in words.
SUPPORTED = (
    "Linear, Conv2d, ConvTranspose2d, BatchNorm1d and 2d, ReLU, LeakyReLU, PReLU, RReLU, ReLU6, Hardtanh, Hardsigmoid, "
    "Hardswish, pools of maxima and means, Upsample, padding, Dropout, cat, reshapes, sums and products"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Enclosure:
    """Numbers along a cell: `terms`, one to three coefficients of powers of t, [cell, *feature, sample], and the error
    beside them; None: data, which is exact and alike in all cells, [1, *feature, sample].
    """

    terms: tuple[Tensor, ...]
    error: Tensor | None
    radius: Float[Tensor, " cell"]

    @property
    def spread(self) -> Tensor:
        """How far the polynomial gets from its value in the middle, at most."""
        if len(self.terms) == 1:
            return torch.zeros_like(self.terms[0])
        r = _beside(self.radius, self.terms[0])
        inner = (
            self.terms[1].abs() if len(self.terms) == 2 else torch.addcmul(self.terms[1].abs(), self.terms[2].abs(), r)
        )
        return inner.mul_(r)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Enclosure":
        """The same where numbers are only put elsewhere, or added up with positive weights."""
        error = None if self.error is None else change(self.error)
        return dataclasses.replace(self, terms=tuple(map(change, self.terms)), error=error)

    def plus(self, error: Tensor) -> "Enclosure":
        """With more error."""
        return dataclasses.replace(self, error=error if self.error is None else self.error + error)

    def rounded(self, operations: int = _BESIDE) -> "Enclosure":
        """With the rounding of so many operations on each number."""
        size = self.terms[0].abs() + self.spread
        return self.plus((size if self.error is None else size + self.error) * (operations * ROUNDING))

    def shifted(self, number: float) -> "Enclosure":
        """With a number added."""
        return dataclasses.replace(self, terms=(self.terms[0] + number, *self.terms[1:])).rounded()

    def scaled(self, number: float) -> "Enclosure":
        """Times a number."""
        error = None if self.error is None else self.error * abs(number)
        found = dataclasses.replace(self, terms=tuple(term * number for term in self.terms), error=error)
        return found if number == -1 else found.rounded()

    def add(self, other: "Enclosure") -> "Enclosure":
        """The sum; axes of 1 are broadcast."""
        longer, shorter = sorted((self.terms, other.terms), key=len, reverse=True)
        first = longer[0] + shorter[0]
        rest = (a + shorter[k] if k < len(shorter) else a.expand_as(first) for k, a in enumerate(longer[1:], start=1))
        terms = (first, *rest)
        size = [each.terms[0].abs() + each.spread for each in (self, other)]
        errors = [each.error for each in (self, other) if each.error is not None]
        return Enclosure(terms, sum(errors, ROUNDING * _BESIDE * (size[0] + size[1])), self.radius)

    def times(self, other: "Enclosure") -> "Enclosure":
        """The product, number by number."""
        a, b = self.terms, other.terms
        powers: list[Any] = [
            sum(a[i] * b[k - i] for i in range(len(a)) if 0 <= k - i < len(b)) for k in range(len(a) + len(b) - 1)
        ]
        size = [each.terms[0].abs() + each.spread for each in (self, other)]
        r = _beside(self.radius, powers[0])
        error = size[0] * size[1] * (_BESIDE * ROUNDING)
        for k, power in enumerate(powers[3:], start=3):
            error = error + power.abs() * r**k
        for own, by in ((self, size[1]), (other, size[0])):
            error = error if own.error is None else error + own.error * by
        if self.error is not None and other.error is not None:
            error = error + self.error * other.error
        return Enclosure(tuple(powers[:3]), error, self.radius)


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Pieces of straight lines from the members of `start` to those of `start + step`, both float64: of which line each
    piece is, its middle and half its length. `kept` holds what the first product makes of the data, for each line.
    """

    start: Stack
    step: Stack
    line: Int[Tensor, " cell"]
    centre: Float[Tensor, " cell"]
    radius: Float[Tensor, " cell"]
    kept: dict[int, tuple[Tensor, Tensor]]

    def ends(self, step: Step, name: str) -> tuple[Tensor, Tensor]:
        """A tensor of a layer at the start of each line, [line, *shape], and by how much it changes to the end."""
        tensor = step.tensors[name]
        first = tensor.of(self.start).to(torch.float64)
        change = self.step.tensors.get(tensor.name, torch.zeros_like(first))
        shape = (len(self.start), *first.shape[1:])
        return first.expand(shape), change.expand(shape)

    def vector(self, step: Step, name: str, like: Tensor) -> Enclosure:
        """A tensor of one number a channel, along each cell."""
        first, change = (
            each[self.line].view(-1, each.shape[1], *[1] * (like.ndim - 2)) for each in self.ends(step, name)
        )
        size = (first.abs() + change.abs()) * (_BESIDE * ROUNDING)
        return Enclosure((first + _beside(self.centre, first) * change, change), size, self.radius)


def _beside(each: Float[Tensor, " cell"], like: Tensor) -> Tensor:
    """One number a cell beside tensors of `like`'s shape."""
    return each.view(-1, *[1] * (like.ndim - 1))


#: A rule: from the step, the cells and what the step's function takes to what encloses its result.
Rule = Callable[..., Any]


# Products -------------------------------------------------------------------------------------------------------------


def _product(step: Step, cells: Cells, x: Enclosure) -> Enclosure:
    """W x + b with W = V + (centre + t) D: the coefficient of t^k is W(centre) x_k + D x_(k-1)."""
    layer: Any = step.module
    linear = isinstance(layer, nn.Linear)
    groups = getattr(layer, "groups", 1)

    def read(values: Tensor) -> Tensor:
        return values.movedim(-2, 1) if linear else _windows(layer, values)

    def apart(values: Tensor) -> Tensor:
        """Each group's channels as a product of their own: [cell * group, channel of the group, ...]."""
        return values.reshape(len(values) * groups, values.shape[1] // groups, *values.shape[2:])

    first, change = (_matrix(layer, each) for each in cells.ends(step, "weight"))
    bias = cells.ends(step, "bias") if "bias" in step.tensors else None
    rounding = 2 * (first.shape[2] + _BESIDE) * ROUNDING
    rows = first.abs().sum(2) + change.abs().sum(2)
    if x.error is None and len(x.terms) == 1:
        data = read(x.terms[0])
        shape = tuple(data.shape[2:])
        if step.number not in cells.kept:
            flat, (b, db) = data.flatten(2), bias or (None, None)
            cells.kept[step.number] = _shared(groups, first, b, flat), _shared(groups, change, db, flat)
        ends = [each[cells.line] for each in cells.kept[step.number]]
        terms = [torch.addcmul(ends[0], ends[1], _beside(cells.centre, ends[0])), ends[1]]
        top = x.terms[0].abs().flatten(1, -2).amax(1)
        error = torch.zeros_like(terms[0])
    else:
        x = x.rounded(0) if x.error is None else x
        assert x.error is not None
        count, samples = len(x.terms), x.error.shape[-1]
        every = read(torch.cat([*x.terms, x.error], -1))
        every = every.expand(len(cells.line) if groups > 1 else -1, *every.shape[1:])
        shape = (*every.shape[2:-1], samples)
        parts = every.view(*every.shape[:-1], count + 1, samples).movedim(-2, 0).flatten(3)
        at, by = first[cells.line], change[cells.line]
        at = torch.addcmul(at, by, cells.centre[:, None, None])
        most = apart(at.abs() + cells.radius[:, None, None] * by.abs())
        at, by, flat = apart(at), apart(by), apart(parts[:-1].movedim(0, 2))
        values = (at @ flat.flatten(2)).view(len(cells.line), -1, count, flat.shape[-1])
        moved = (by @ flat.flatten(2)).view_as(values)
        terms = [values[:, :, 0], *(values[:, :, k] + moved[:, :, k - 1] for k in range(1, count)), moved[:, :, -1]]
        error = (most @ apart(parts[-1])).view_as(terms[0])
        if len(terms) > 3:
            error = torch.addcmul(error, terms.pop().abs(), (cells.radius**3)[:, None, None])
        top = (x.terms[0].abs() + x.spread + x.error).flatten(1, -2).amax(1)
    if bias is not None and cells.kept.get(step.number) is None:
        b, db = (each[cells.line][..., None] for each in bias)
        terms[0] = terms[0] + torch.addcmul(b, db, cells.centre[:, None, None])
        terms[1] = terms[1] + db
    # Each output is at most a row's sum of magnitudes times the largest input: [cell, out, 1] and [cell, 1, sample].
    small = rows[cells.line][..., None] * top[:, None]
    if bias is not None:
        small = small + (bias[0].abs() + bias[1].abs())[cells.line][..., None]
    error = (error.view(*error.shape[:2], -1, top.shape[-1]) + rounding * small[:, :, None]).view_as(error)
    results = [each.view(*each.shape[:2], *shape) for each in (*terms, error)]
    results = [each.movedim(1, -2) for each in results] if linear else results
    return Enclosure(tuple(results[:-1]), results[-1], cells.radius)


def _matrix(layer: Any, weight: Tensor) -> Float[Tensor, "line out read"]:
    """What multiplies the windows; of a transposed convolution the kernel turned round, from its outputs."""
    if isinstance(layer, nn.ConvTranspose2d):
        parted = weight.view(len(weight), layer.groups, -1, *weight.shape[2:])
        weight = parted.transpose(2, 3).flatten(1, 2).flip(-2, -1)
    return weight.flatten(2)


def _windows(layer: Any, x: Tensor) -> Tensor:
    """What each output of a convolution reads, of a transposed one after zeros are put between its inputs."""
    if (
        not isinstance(layer, nn.ConvTranspose2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ):
        return windows(layer, x)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    plain = samples_first(x).flatten(0, 1)
    if isinstance(layer, nn.ConvTranspose2d):
        between = plain.new_zeros(
            *plain.shape[:2], *((n - 1) * s + 1 for n, s in zip(plain.shape[2:], stride, strict=True))
        )
        between[:, :, :: stride[0], :: stride[1]] = plain
        rims = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, layer.padding, strict=True)]
        (top, left), (bottom, right) = rims, [rim + out for rim, out in zip(rims, layer.output_padding, strict=True)]
        plain, stride = F.pad(between, (left, right, top, bottom)), (1, 1)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        plain = F.pad(plain, layer._reversed_padding_repeated_twice, mode=mode)
    bare = nn.Conv2d(1, 1, kernel, stride, dilation=dilation, device="meta")
    return windows(bare, samples_last(plain.view(len(x), -1, *plain.shape[1:])))


def _shared(groups: int, weight: Tensor, bias: Tensor | None, data: Tensor) -> Tensor:
    """The product of each group with data that all cells share."""
    biases = [None] * groups if bias is None else bias.chunk(groups, 1)
    parts = zip(weight.chunk(groups, 1), biases, data.chunk(groups, 1), strict=True)
    return torch.cat([product(*part) for part in parts], 1)


def _batch_norm(step: Step, cells: Cells, x: Enclosure) -> Enclosure:
    """(x - mean) (variance + eps)^(-1/2) weight + bias, all of which are affine in t but the root: of that the Taylor
    polynomial of degree 2, with the largest third derivative in the cell.
    """
    layer: Any = step.module
    if "running_mean" not in step.tensors:
        raise Unsupported(f"{_name(step)} has no running statistics, so that outputs are bounded by no layer's weights")
    like = x.terms[0]
    variance = cells.vector(step, "running_var", like)
    v, dv = variance.terms
    assert variance.error is not None
    v, r = v + layer.eps, _beside(cells.radius, v)
    least = v - r * dv.abs() - 2 * variance.error - layer.eps * _BESIDE * ROUNDING
    if not bool((least > 0).all()):
        raise Unsupported(f"{_name(step)} has a variance that is not positive on the line: its root has no bound there")
    root = v.rsqrt()
    error = (
        15 / 48 * least**-3.5 * (r * dv.abs()) ** 3
        + least**-1.5 * variance.error
        + 2 * _BESIDE * ROUNDING * least.rsqrt()
    )
    scale = Enclosure((root, -(root**3) * dv / 2, 3 / 8 * root**5 * dv**2), error, cells.radius)
    mean = cells.vector(step, "running_mean", like)
    if "weight" in step.tensors:
        scale = scale.times(cells.vector(step, "weight", like))
    result = x.add(dataclasses.replace(mean, terms=tuple(-term for term in mean.terms))).times(scale)
    return result.add(cells.vector(step, "bias", like)) if "bias" in step.tensors else result


# Kinks ----------------------------------------------------------------------------------------------------------------


def _kink(x: Enclosure, slope: float) -> Enclosure:
    """max(x, 0) + slope min(x, 0).

    Where x may be anything from -b < 0 to a > 0, max(x, 0) lies between its chord, share x + share b with
    share = a / (a + b), and what is share b below that: the chord's slope for x, and half of share b as an error.
    """
    spread = x.spread
    wide = (spread if x.error is None else spread + x.error) * (1 + _BESIDE * ROUNDING)
    above, below = (x.terms[0] + wide).clamp_(min=0), (wide - x.terms[0]).clamp_(min=0)
    share = above / (above + below).clamp_(min=1e-300)
    half = below.mul_(share).mul_(0.5 * (1 - slope))
    share = share.mul_(1 - slope).add_(slope) if slope else share
    terms = [term * share for term in x.terms]
    terms[0] = terms[0] + half
    size = x.terms[0].abs().add_(wide).mul_(1 + abs(slope))
    error = torch.add(half.abs(), size, alpha=_BESIDE * ROUNDING)
    if x.error is not None:
        error = torch.addcmul(error, x.error, share.abs() if slope < 0 else share)
    return Enclosure(tuple(terms), error, x.radius)


def _larger(x: Enclosure, y: Enclosure) -> Enclosure:
    """max(x, y) = x + max(y - x, 0), with the chord of `_kink` for the difference: a mixture of both."""
    count = max(len(x.terms), len(y.terms))
    (a, b) = ([*each.terms, *[torch.zeros_like(each.terms[0])] * (count - len(each.terms))] for each in (x, y))
    assert x.error is not None
    assert y.error is not None
    difference = Enclosure(tuple(q - p for p, q in zip(a, b, strict=True)), None, x.radius)
    size = a[0].abs() + b[0].abs() + x.spread + y.spread + x.error + y.error
    wide = difference.spread + x.error + y.error + _BESIDE * ROUNDING * size
    above, below = (difference.terms[0] + wide).clamp_(min=0), (wide - difference.terms[0]).clamp_(min=0)
    share, open_ = above / (above + below).clamp_(min=1e-300), (above > 0) & (below > 0)
    half = torch.where(open_, share * below / 2, 0)
    terms = [torch.where(open_, p + share * (q - p), torch.where(above > 0, q, p)) for p, q in zip(a, b, strict=True)]
    terms[0] = terms[0] + half
    either = torch.maximum(x.error, y.error) + half + _BESIDE * ROUNDING * size
    error = torch.where(open_, either, torch.where(above > 0, y.error, x.error))
    return Enclosure(tuple(terms), error, x.radius)


def _clipped(x: Enclosure, low: float | None, high: float | None) -> Enclosure:
    """min(max(x, low), high): one kink after the other, so that what is beyond the second forgets the errors of x."""
    if low is not None:
        x = _kink(x.shifted(-low), 0.0).shifted(low)
    return x if high is None else _kink(x.scaled(-1).shifted(high), 0.0).scaled(-1).shifted(high)


def _rectified(
    step: Step, cells: Cells, x: Enclosure, negative_slope: float = 0.01, inplace: bool = False
) -> Enclosure:
    layer: Any = step.module
    if isinstance(layer, nn.RReLU):
        return _kink(x, (layer.lower + layer.upper) / 2)
    if layer is not None:
        return _kink(x, getattr(layer, "negative_slope", 0.0))
    return _kink(x, negative_slope if step.called is F.leaky_relu else -1.0 if _kind(step) in _ABSOLUTE else 0.0)


def _prelu(step: Step, cells: Cells, x: Enclosure) -> Enclosure:
    """max(x, 0) - slope max(-x, 0), where the slopes move along the line: exact where the sign is certain."""
    slope = cells.vector(step, "weight", x.terms[0])
    return _kink(x, 0.0).add(slope.times(_kink(x.scaled(-1), 0.0)).scaled(-1))


def _hard(step: Step, cells: Cells, x: Enclosure, *limits: Any, **named: Any) -> Enclosure:
    """Hardtanh and ReLU6, which are between two numbers; Hardsigmoid, relu6(x + 3) / 6; and Hardswish, x times it."""
    layer: Any = step.module
    if _kind(step) in _SIGMOIDS:
        share = _clipped(x.shifted(3), 0, 6).scaled(1 / 6)
        return x.times(share) if _kind(step) in (nn.Hardswish, F.hardswish) else share
    if layer is not None:
        return _clipped(x, layer.min_val, layer.max_val)
    if step.called is F.relu6:
        return _clipped(x, 0, 6)
    names = ("min_val", "max_val") if step.called is F.hardtanh else ("min", "max")
    usual = dict.fromkeys(names) if "min" in names else {"min_val": -1.0, "max_val": 1.0}
    between = {**usual, **dict(zip(names, limits, strict=False)), **named}
    low, high = (between[name] for name in names)
    if isinstance(low, Enclosure | Tensor) or isinstance(high, Enclosure | Tensor):
        raise Unsupported(_refusal(step))
    return _clipped(x, low, high)


def _max_pooled(step: Step, cells: Cells, x: Enclosure, *options: Any, **named: Any) -> Enclosure:
    """The largest of windows' numbers, two at a time."""
    layer: Any = step.module
    if _kind(step) in _ADAPTIVE:
        out = layer.output_size if layer is not None else (*options, *named.values())[0]
        sizes = list(zip(x.terms[0].shape[2:4], (out, out) if isinstance(out, int) else out, strict=True))
        if any(o is not None and n % o for n, o in sizes):
            raise Unsupported(_refusal(step))
        layer = nn.MaxPool2d(tuple(n // (o or n) for n, o in sizes))
    elif layer is None:
        layer = nn.MaxPool2d(**dict(zip(MAX_POOL, options, strict=False)), **named)
    if x.terms[0].ndim != 5 or layer.return_indices:
        raise Unsupported(_refusal(step))
    x = x if x.error is not None else x.rounded(0)
    assert x.error is not None
    rim = _rim(layer, x.terms[0].shape[2:4]) if layer.ceil_mode else (0, 0)

    def collect(values: Tensor, fill: float) -> list[Tensor]:
        return pooled(layer, F.pad(values, (0, 0, 0, rim[1], 0, rim[0]), value=fill) if any(rim) else values, fill)

    places = [collect(x.terms[0], _LOWEST), *(collect(term, 0.0) for term in x.terms[1:]), collect(x.error, 0.0)]
    each = [Enclosure(tuple(terms), error, x.radius) for *terms, error in zip(*places, strict=True)]
    return functools.reduce(_larger, each)


def _rim(layer: nn.MaxPool2d, sizes: Sequence[int]) -> tuple[int, ...]:
    """What windows that begin on the data, or on the padding before it, reach beyond its other end."""
    options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    rims = []
    for size, k, s, p, d in zip(
        sizes, *((each, each) if isinstance(each, int) else each for each in options), strict=True
    ):
        last = min(ceil_div(size + 2 * p - d * (k - 1) - 1, s), ceil_div(size + p, s) - 1)
        rims.append(max(0, last * s + d * (k - 1) + 1 - size - 2 * p))
    return tuple(rims)


# Sums and arrangements ------------------------------------------------------------------------------------------------


def _arranged(step: Step, cells: Cells, x: Enclosure, *rest: Any, **keywords: Any) -> Any:
    """Numbers that are put elsewhere, or added up with positive weights: what the layer does, to each coefficient."""
    own = Own(step.own_name, 0, {})
    every = (*rest, *keywords.values(), getattr(step.module, "mode", None))
    if not isinstance(x, Enclosure) or any(isinstance(each, Enclosure) or each == "bicubic" for each in every):
        raise Unsupported(_refusal(step))

    def change(values: Tensor) -> Any:
        found = step.function(own, values, *rest, **keywords)
        return by_member(step.original, ({}, (values, *rest), keywords)) if found is NotImplemented else found

    found = change(x.terms[0])
    if isinstance(found, Sequence) and all(isinstance(each, Tensor) for each in found):
        return [x.map(lambda values, k=k: change(values)[k]) for k in range(len(found))]  # type: ignore[misc]
    if not isinstance(found, Tensor):
        raise Unsupported(_refusal(step))
    if _kind(step) in _PADS:
        # The number that is put around is none of the other coefficients'.
        around = change(torch.zeros_like(x.terms[0]))
        result = x.map(lambda values: change(values) - around)
        return dataclasses.replace(result, terms=(found, *result.terms[1:]))
    result = x.map(change)
    if _kind(step) not in _AVERAGES:
        return result
    many = math.prod(x.terms[0].shape[1:-1]) + _BESIDE
    return result.plus(change(x.terms[0].abs() + x.spread) * (many * ROUNDING))


def _same(step: Step, cells: Cells, x: Enclosure, *rest: Any, **keywords: Any) -> Enclosure:
    """What drops nothing in evaluation."""
    if step.module is None and step.called in _DROPOUTS:
        dropped = step.function(Own(step.own_name, 0, {}), x.terms[0], *rest, **keywords)
        if not isinstance(dropped, Tensor):
            raise Unsupported(_refusal(step))
    return x


def _joined(step: Step, cells: Cells, tensors: Any, *axis: int, **named: int) -> Enclosure:
    """One after another along an axis."""
    if not all(isinstance(each, Enclosure) for each in tensors):
        raise Unsupported(_refusal(step))
    count = max(len(each.terms) for each in tensors)

    def join(parts: Sequence[Tensor]) -> Tensor:
        found: Tensor = FUNCTIONS[torch.cat](Own(step.own_name, 0, {}), parts, *axis, **named)
        return found

    every = [(*each.terms, *[torch.zeros_like(each.terms[0])] * (count - len(each.terms))) for each in tensors]
    errors = [torch.zeros_like(each.terms[0]) if each.error is None else each.error for each in tensors]
    return Enclosure(tuple(map(join, zip(*every, strict=True))), join(errors), cells.radius)


def _size(step: Step, cells: Cells, *arguments: Any, **keywords: Any) -> Any:
    """Of shapes and numbers alone."""
    given = [each.terms[0] if isinstance(each, Enclosure) else each for each in arguments]
    found = step.function(Own(step.own_name, 0, {}), *given, **keywords)
    if found is NotImplemented or isinstance(found, Tensor):
        raise Unsupported(_refusal(step))
    return found


def _item(step: Step, cells: Cells, x: Any, index: Any) -> Any:
    """Of a shape, of several results, or of numbers."""
    return _arranged(step, cells, x, index) if isinstance(x, Enclosure) else x[index]


def _pair(operation: Callable[[Any, Any], Any]) -> Rule:
    """A sum, difference, product or quotient of numbers along cells with each other, or with numbers that are known."""

    def apply(step: Step, cells: Cells, *pair: Any, **options: Any) -> Any:
        enclosed = [each for each in pair if isinstance(each, Enclosure)]
        fitting = len({each.terms[0].ndim for each in enclosed}) < 2
        if len(pair) != 2 or options or not fitting:
            raise Unsupported(_refusal(step))
        if not enclosed:
            return step.function(Own(step.own_name, 0, {}), *pair)  # of sizes
        if not all(isinstance(each, Enclosure | int | float) for each in pair):
            raise Unsupported(_refusal(step))
        found = operation(*pair)
        if found is None:
            raise Unsupported(_refusal(step))
        return found

    return apply


def _sum(x: Any, y: Any) -> Enclosure:
    x, y = (x, y) if isinstance(x, Enclosure) else (y, x)
    found: Enclosure = x.add(y) if isinstance(y, Enclosure) else x.shifted(y)
    return found


def _difference(x: Any, y: Any) -> Enclosure:
    return _sum(x, y.scaled(-1) if isinstance(y, Enclosure) else -y)


def _times(x: Any, y: Any) -> Enclosure:
    x, y = (x, y) if isinstance(x, Enclosure) else (y, x)
    found: Enclosure = x.times(y) if isinstance(y, Enclosure) else x.scaled(y)
    return found


def _quotient(x: Any, y: Any) -> Enclosure | None:
    """By a number alone."""
    return None if isinstance(y, Enclosure) else x.scaled(1 / y)


def _negative(step: Step, cells: Cells, x: Any) -> Any:
    return x.scaled(-1) if isinstance(x, Enclosure) else -x


_ABSOLUTE = (torch.abs, "abs")
_ADAPTIVE = (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d)
_SIGMOIDS = (nn.Hardsigmoid, F.hardsigmoid, nn.Hardswish, F.hardswish)
_DROPOUTS = (F.dropout, F.dropout2d)
_PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, F.pad)
_AVERAGES = (
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
    *(torch.mean, "mean", torch.sum, "sum", nn.Upsample, nn.UpsamplingBilinear2d, F.interpolate),
)

#: Rules by the class of a layer, by PyTorch's function, or by the name of a tensor's method.
RULES: Mapping[Any, Rule] = {
    **dict.fromkeys((nn.Linear, nn.Conv2d, nn.ConvTranspose2d), _product),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.RReLU, F.relu, torch.relu, "relu", F.leaky_relu), _rectified),
    **dict.fromkeys(_ABSOLUTE, _rectified),
    nn.PReLU: _prelu,
    **dict.fromkeys((nn.Hardtanh, nn.ReLU6, F.hardtanh, F.relu6, torch.clamp, "clamp", *_SIGMOIDS), _hard),
    **dict.fromkeys((nn.MaxPool2d, F.max_pool2d, *_ADAPTIVE), _max_pooled),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add"), _pair(_sum)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub"), _pair(_difference)),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul"), _pair(_times)),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _pair(_quotient)),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negative),
    **dict.fromkeys((*_AVERAGES, *_PADS, nn.UpsamplingNearest2d, nn.PixelShuffle, nn.ChannelShuffle), _arranged),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, torch.flatten, "flatten", torch.reshape, "reshape", "view"), _arranged),
    **dict.fromkeys((torch.transpose, "transpose", torch.permute, "permute"), _arranged),
    **dict.fromkeys((torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze"), _arranged),
    **dict.fromkeys((torch.chunk, "chunk", torch.split, "split"), _arranged),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _same),
    **dict.fromkeys((*_DROPOUTS, "contiguous", torch.clone, "clone"), _same),
    **dict.fromkeys((torch.cat, torch.concat), _joined),
    **dict.fromkeys(("size", "dim", getattr, operator.floordiv), _size),
    operator.getitem: _item,
}


def _kind(step: Step) -> Any:
    return type(step.module) if step.module is not None else step.called


def _name(step: Step) -> str:
    kind = type(step.module).__name__ if step.module is not None else getattr(step.called, "__name__", step.called)
    return f"{step.name} ({kind})" if step.name and step.name != kind else str(kind or step.name)


def _refusal(step: Step) -> str:
    return (
        f"{_name(step)} has no bound along a line: `certify` knows {SUPPORTED}, in their usual settings; leave "
        "`certify` out"
    )


def require_supported(program: Program) -> None:
    """Raise `Unsupported`, naming it, for a step that nothing bounds."""
    for step in program.steps:
        if _kind(step) not in RULES:
            raise Unsupported(_refusal(step))


def enclose(program: Program, cells: Cells, inputs: Float[Tensor, "1 *feature sample"]) -> Enclosure:
    """What encloses the outputs of a network along some cells, [cell, *feature, sample]; inputs are float64."""
    results: dict[int, Any] = {-1: Enclosure((inputs,), None, cells.radius)}
    for step in program.steps:
        arguments, keywords = step.given(results)
        results[step.number] = RULES[_kind(step)](step, cells, *arguments, **keywords)
        for number in step.dead:
            results.pop(number, None)
    result: Enclosure = results[program.output]
    return result.rounded(0) if result.error is None else result
