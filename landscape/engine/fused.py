"""The whole loss of a small network on all patterns of a few bits, and the steps of its training, as compiled loops.

The first layer reads the n bits, pointwise layers follow, as in one step of the Game of Life on its 512 patterns. Sums
of the first layer double pattern by pattern, z[i + 2^j] = z[i] + w_j: one addition each in place of n products. The way
back folds them: the derivative in w_j is the sum of the upper half, which is then added to the lower one. Exponential
and logarithm are polynomials, which the compiler vectorises. One member after another is trained, many steps at a time,
so that all of it stays in the cache, and its numbers are those of its parameters alone, whatever is beside it.

numba (extra `fast`) compiles what is plain Python here; the stacked engine is its referee.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.data import Data
from landscape.engine.jit import by_type, compiled, helpers, in_threads
from landscape.engine.program.graph import leaves
from landscape.engine.stacked import Stacked

__all__ = ["MOMENTS", "Fused", "refused"]

#: Bits of a pattern.
_BITS = range(4, 17)

#: Degrees of exp(r) on |r| <= log(2) / 2 and of 2 atanh(s) / s in s^2 on s <= 1/3, to the rounding of each type.
_DEGREES = {"float32": (7, 7), "float64": (13, 15)}

#: What optimizers remember, of those that are compiled.
MOMENTS = {"adam": ("mean", "square"), "sgd": ("velocity",)}

#: Of Adam, as `training/optimizers.py` has them: decay of both moments, and what keeps its quotient finite.
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
    """Loss (cross-entropy from logits), share and number of right answers of many networks, and their training.

    `side` is 1 for patterns whose target is 1 and -1 for 0, in the order of their bits, `weights` are theirs. The first
    layer has `wide` units, the second `narrow`; `slope` is that of both activations below 0, and the bits are -`shift`
    and 1 - `shift`.
    """

    side: np.ndarray
    weights: np.ndarray
    wide: int
    narrow: int
    slope: float
    shift: float

    @classmethod
    def of(cls, network: Stacked, data: Data, loss: nn.Module | None, dtype: torch.dtype) -> "Fused":
        """That of a network on data in memory; raises `Unsupported`, saying why, for others, and without numba."""
        real: Any = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
        layers = [module for _, module in leaves(network.module) if not isinstance(module, nn.Identity)]
        kinds = [nn.Conv2d, nn.LeakyReLU, nn.Conv2d, nn.LeakyReLU, nn.Conv2d]
        slopes = [getattr(layer, "negative_slope", 0.0) for layer in layers if not isinstance(layer, nn.Conv2d)]
        if len(layers) != len(kinds) or not all(
            type(layer) is kind or (kind is nn.LeakyReLU and type(layer) is nn.ReLU)
            for layer, kind in zip(layers, kinds, strict=True)
        ):
            raise refused("its layers are other than convolution, rectifier, convolution, rectifier, convolution")
        first, second, third = (layer for layer in layers if isinstance(layer, nn.Conv2d))
        batch = data.samples(0, len(data))
        inputs = batch.inputs
        whole = network.backend == "stacked" and inputs.shape[0] == 1 and inputs.is_floating_point()
        if not whole or data.weights.device.type != "cpu" or len(set(slopes)) > 1:
            raise refused("it is on a GPU, or its data is not one set of numbers for all members")
        values = inputs[0].flatten(0, -2).double()
        bits, shift = len(values), -float(values.min())
        codes = ((values + shift).long() * 2 ** torch.arange(bits)[:, None]).sum(0) if bits in _BITS else torch.zeros(1)
        targets = batch.targets.flatten().double()
        if not (
            bits in _BITS
            and codes.tolist() == list(range(2**bits))
            and ((values + shift == 0) | (values + shift == 1)).all()
            and ((targets == 0) | (targets == 1)).all()
            and first.weight[0].numel() == bits
            and all(layer.bias is not None and layer.groups == 1 for layer in (first, second, third))
            and len(first.weight) % 2 == 0  # filters are taken in pairs
            and (second.weight[0].numel(), third.weight.numel()) == (len(first.weight), len(second.weight))
        ):
            raise refused("its data is not every pattern of a few bits, in order, that the first layer reads whole")
        if not isinstance(loss, nn.BCEWithLogitsLoss):
            raise refused("its loss is not the cross-entropy from logits")
        _compiled()
        side = (2 * targets - 1).numpy().astype(real)
        weights = batch.weights[0].double().numpy().copy()
        return cls(side, weights, len(first.weight), len(second.weight), slopes[0], shift)

    def __call__(
        self, flat: Float[Tensor, "member parameter"], weights: Float[Tensor, "some pattern"] | None = None
    ) -> dict[str, Float[Tensor, " member"]]:
        """`loss`, `accuracy`, how many are `right` and whether that is all of them (`solved`), of members as rows; with
        other `weights` of the patterns, the same for all members or those of each.
        """
        rows = np.ascontiguousarray(flat.detach().numpy())
        used = self.weights[None] if weights is None else weights.double().numpy()
        loop, out = _compiled()[0], np.empty((len(rows), 3))

        def part(some: slice) -> None:
            loop(rows[some], *self._shape, used if len(used) == 1 else used[some], out[some])

        in_threads(part, len(rows))
        loss, accuracy, right = torch.from_numpy(out).unbind(1)
        return {"loss": loss, "accuracy": accuracy, "right": right, "solved": (right == len(self.side)).double()}

    def descend(
        self,
        flat: Float[Tensor, "member parameter"],
        moments: Mapping[str, Tensor],
        steps: range,
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        weights: Float[Tensor, "step some pattern"] | None = None,
    ) -> None:
        """Optimizer steps of these numbers, the first ever is 0, of members as rows, in place, by Adam or sgd as their
        `moments` are; with other `weights` of the patterns at each step, the same for all members or those of each.
        """
        real: Any = self.side.dtype.type
        adam = "mean" in moments
        first, second = (moments[name].numpy() for name in (MOMENTS["adam"] if adam else MOMENTS["sgd"] * 2))
        corrections = np.array([[1 - beta ** (step + 1) for beta in _BETAS] for step in steps]).astype(real)
        constants = np.array([*_BETAS, *(1 - beta for beta in _BETAS), _EPSILON, lr, momentum, weight_decay], real)
        used = self.weights.astype(real)[None, None] if weights is None else weights.contiguous().numpy()
        rows, loop = flat.numpy(), _compiled()[1]

        def part(some: slice) -> None:
            members = rows[some], first[some], second[some], some.start
            loop(*members, corrections, adam, constants, *self._shape, used)

        in_threads(part, len(rows), len(steps))

    def gradient(
        self, flat: Float[Tensor, "member parameter"], weights: Float[Tensor, "some pattern"] | None = None
    ) -> Float[Tensor, "member parameter"]:
        """The gradient of the loss of members as rows: what the first step of gradient descent remembers."""
        velocity = torch.zeros_like(flat)
        own = None if weights is None else weights[None]
        self.descend(flat.clone(), {"velocity": velocity}, range(1), lr=1.0, weights=own)
        return velocity

    @property
    def _shape(self) -> tuple[Any, ...]:
        real: Any = self.side.dtype.type
        return real(self.slope), self.wide, self.narrow, real(self.shift), self.side


def refused(why: str) -> Unsupported:
    """The error for a problem that the fused engine does not serve."""
    return Unsupported(
        f'`engine="fused"` does not serve this problem ({why}): it is for one step of the Game of Life with relu or '
        'leaky_relu and a sigmoid under bce; use `engine="stacked"`'
    )


@functools.cache
def _compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """`_losses` and `_steps`, compiled when they are first called."""
    helpers(_double, _rectify, _enter, _pass, _add, _mix, _mix_two, _pull, _cross_entropy)
    helpers(_forward, _backward, inline=False)
    helpers(_fold, _total, _dot, _dots, _dots_two, _weighed, _right, sums=True)
    by_type(_decay, _decay_of)
    by_type(_log1p, _log1p_of)
    return compiled(_losses), compiled(_steps)


# What follows is compiled; arrays are of the type of the parameters, but for weights of losses. A row of parameters
# holds weights [wide, bits] and biases of the layer that reads patterns, those of [narrow, wide] and of [1, narrow].


def _losses(flat: Any, slope: Any, wide: Any, narrow: Any, shift: Any, side: Any, weights: Any, out: Any) -> None:
    """`out` [member, 3] gets the sums of cross-entropy and right answers, weighed [1 or member, pattern], in float64,
    and the number of these. `side` is 1 for patterns whose target is 1 and -1 for 0.
    """
    patterns = len(side)
    z, h = np.empty((wide, patterns), flat.dtype), np.empty((narrow, patterns), flat.dtype)
    y, loss = np.empty(patterns, flat.dtype), np.empty(patterns, flat.dtype)
    for member in range(len(flat)):
        own = weights[member % len(weights)]
        _forward(flat[member], slope, shift, z, h, y)
        _cross_entropy(y, side, loss)
        out[member, 0] = _weighed(loss, own)
        out[member, 1], out[member, 2] = _right(y, side, own)


def _steps(
    flat: Any,
    first: Any,
    second: Any,
    begin: Any,
    corrections: Any,
    adam: Any,
    constants: Any,
    slope: Any,
    wide: Any,
    narrow: Any,
    shift: Any,
    side: Any,
    weights: Any,
) -> None:
    """A step for each row of `corrections` of each member's parameters and moments, a row a member, in place; `weights`
    are [1 or step, 1 or member, pattern], of members from `begin` on.
    """
    patterns, count = len(side), flat.shape[1]
    z, h = np.empty((wide, patterns), flat.dtype), np.empty((narrow, patterns), flat.dtype)
    y, d, gradient = np.empty(patterns, flat.dtype), np.empty(patterns, flat.dtype), np.empty(count, flat.dtype)
    beta1, beta2, rest1, rest2, epsilon, lr, momentum, decay = constants
    for member in range(len(flat)):
        row, m, v = flat[member], first[member], second[member]
        for step in range(len(corrections)):
            _forward(row, slope, shift, z, h, y)
            _pull(y, side, weights[step % len(weights), (begin + member) % weights.shape[1]])
            _backward(row, slope, shift, z, h, y, d, gradient)
            c1, c2 = corrections[step, 0], corrections[step, 1]
            for k in range(count):
                slant = gradient[k] + row[k] * decay
                if adam:
                    m[k] = m[k] * beta1 + slant * rest1
                    v[k] = v[k] * beta2 + slant * slant * rest2
                    row[k] -= m[k] / c1 * lr / (np.sqrt(v[k] / c2) + epsilon)
                else:
                    m[k] = m[k] * momentum + slant
                    row[k] -= m[k] * lr


def _forward(row: Any, slope: Any, shift: Any, z: Any, h: Any, y: Any) -> None:
    """What the layers make of all patterns: `z` [wide, pattern] and `h` [narrow, pattern] rectified, and `y`."""
    wide, narrow = len(z), len(h)
    bits = (len(row) - 1 - narrow * (wide + 2)) // wide - 1
    second = wide * (bits + 1)
    third = second + narrow * (wide + 1)
    for f in range(wide):
        start = row[wide * bits + f]
        for j in range(bits):
            start -= shift * row[f * bits + j]
        z[f, 0] = start
        for j in range(bits):
            size = 1 << j
            _double(z[f, :size], z[f, size : 2 * size], row[f * bits + j])
        _rectify(z[f], slope)
    for g in range(narrow):
        h[g, :] = row[second + narrow * wide + g]
    for f in range(0, wide, 2):
        for g in range(0, narrow - 1, 2):
            p = second + g * wide + f
            q = p + wide
            _mix_two(h[g], h[g + 1], z[f], z[f + 1], row[p], row[p + 1], row[q], row[q + 1])
        if narrow % 2:
            p = second + (narrow - 1) * wide + f
            _mix(h[narrow - 1], z[f], z[f + 1], row[p], row[p + 1])
    for g in range(narrow):
        _rectify(h[g], slope)
    y[:] = row[third + narrow]
    for g in range(0, narrow - 1, 2):
        _mix(y, h[g], h[g + 1], row[third + g], row[third + g + 1])
    if narrow % 2:
        _add(y, h[narrow - 1], row[third + narrow - 1])


def _backward(row: Any, slope: Any, shift: Any, z: Any, h: Any, y: Any, d: Any, gradient: Any) -> None:
    """The gradient from derivatives of the loss in the outputs, `y`; writes over `h` and `d` [pattern]."""
    wide, narrow, patterns = len(z), len(h), len(y)
    bits = (len(row) - 1 - narrow * (wide + 2)) // wide - 1
    second = wide * (bits + 1)
    third = second + narrow * (wide + 1)
    gradient[third + narrow] = _total(y)
    for g in range(narrow):
        gradient[third + g] = _dot(y, h[g])
        _enter(h[g], y, row[third + g], slope)
        gradient[second + narrow * wide + g] = _total(h[g])
    for f in range(0, wide, 2):
        for g in range(0, narrow - 1, 2):
            p = second + g * wide + f
            q = p + wide
            gradient[p], gradient[p + 1], gradient[q], gradient[q + 1] = _dots_two(h[g], h[g + 1], z[f], z[f + 1])
        if narrow % 2:
            p = second + (narrow - 1) * wide + f
            gradient[p], gradient[p + 1] = _dots(h[narrow - 1], z[f], z[f + 1])
    for f in range(wide):
        p = second + f
        d[:] = slope - slope
        for g in range(0, narrow - 1, 2):
            _mix(d, h[g], h[g + 1], row[p + g * wide], row[p + (g + 1) * wide])
        if narrow % 2:
            _add(d, h[narrow - 1], row[p + (narrow - 1) * wide])
        _pass(d, z[f], slope)
        size = patterns
        for j in range(bits - 1, -1, -1):
            size >>= 1
            gradient[f * bits + j] = _fold(d[:size], d[size : 2 * size])
        for j in range(bits):
            gradient[f * bits + j] -= shift * d[0]
        gradient[wide * bits + f] = d[0]


def _double(low: Any, high: Any, weight: Any) -> None:
    for i in range(len(low)):
        high[i] = low[i] + weight


def _fold(low: Any, high: Any) -> Any:
    """The sum of `high`, which is added to `low`."""
    total = low.dtype.type(0)
    for i in range(len(low)):
        total += high[i]
        low[i] += high[i]
    return total


def _rectify(a: Any, slope: Any) -> None:
    zero = a.dtype.type(0)
    for i in range(len(a)):
        a[i] = a[i] if a[i] > zero else a[i] * slope


def _enter(a: Any, pull: Any, weight: Any, slope: Any) -> None:
    """Put the derivative in what was rectified to `a` in its place."""
    zero = a.dtype.type(0)
    for i in range(len(a)):
        x = weight * pull[i]
        a[i] = x if a[i] > zero else x * slope


def _pass(pull: Any, a: Any, slope: Any) -> None:
    zero = a.dtype.type(0)
    for i in range(len(a)):
        pull[i] = pull[i] if a[i] > zero else pull[i] * slope


def _add(to: Any, a: Any, weight: Any) -> None:
    for i in range(len(to)):
        to[i] += weight * a[i]


def _mix(to: Any, a: Any, b: Any, in_a: Any, in_b: Any) -> None:
    for i in range(len(to)):
        to[i] += in_a * a[i] + in_b * b[i]


def _mix_two(p: Any, q: Any, a: Any, b: Any, p_a: Any, p_b: Any, q_a: Any, q_b: Any) -> None:
    for i in range(len(p)):
        p[i] += p_a * a[i] + p_b * b[i]
        q[i] += q_a * a[i] + q_b * b[i]


def _total(a: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i]
    return total


def _dot(p: Any, a: Any) -> Any:
    total = p.dtype.type(0)
    for i in range(len(p)):
        total += p[i] * a[i]
    return total


def _dots(p: Any, a: Any, b: Any) -> Any:
    first = second = p.dtype.type(0)
    for i in range(len(p)):
        first += p[i] * a[i]
        second += p[i] * b[i]
    return first, second


def _dots_two(p: Any, q: Any, a: Any, b: Any) -> Any:
    first = second = third = fourth = p.dtype.type(0)
    for i in range(len(p)):
        first += p[i] * a[i]
        second += p[i] * b[i]
        third += q[i] * a[i]
        fourth += q[i] * b[i]
    return first, second, third, fourth


def _weighed(values: Any, weights: Any) -> Any:
    total = 0.0
    for i in range(len(values)):
        total += weights[i] * np.float64(values[i])
    return total


def _right(y: Any, side: Any, weights: Any) -> Any:
    zero, total, count = y.dtype.type(0), 0.0, 0
    for i in range(len(y)):
        right = (y[i] > zero) == (side[i] > zero)
        total += weights[i] if right else 0.0
        count += 1 if right else 0
    return total, count


def _cross_entropy(y: Any, side: Any, loss: Any) -> None:
    """log(1 + exp(-ahead)) = max(-ahead, 0) + log1p(exp(-|ahead|))"""
    zero = y.dtype.type(0)
    for i in range(len(y)):
        ahead = y[i] * side[i]
        loss[i] = _log1p(_decay(ahead)) + (-ahead if ahead < zero else zero)


def _pull(y: Any, side: Any, weights: Any) -> None:
    """Put the derivative of the weighed loss in its place: 1 / (1 + exp(ahead)), with all digits at both ends."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for i in range(len(y)):
        ahead = y[i] * side[i]
        e = _decay(ahead)
        y[i] = -side[i] * weights[i] * ((one if ahead < zero else e) / (one + e))


def _decay(x: Any) -> Any:
    """exp(-|x|); `_decay_of` makes it."""
    raise NotImplementedError


def _log1p(e: Any) -> Any:
    """log(1 + e) for e from 0 to 1; `_log1p_of` makes it."""
    raise NotImplementedError


def _decay_of(type_name: str) -> Callable[[Any], Any]:
    real: Any = np.dtype(type_name).type
    single, exponents = real is np.float32, _DEGREES[type_name][0]
    whole = np.int32 if single else np.int64
    mantissa, bias = (23, 127) if single else (52, 1023)
    # Added and taken off again it rounds to a whole number, which then stands in the last bits.
    magic = real(1.5 * 2.0**mantissa)
    unit, place = whole(bias << mantissa), whole(mantissa)
    least, half = real(-55.0 if single else -375.0), real(0.5)
    to_binary = real(1 / math.log(2))
    # log(2) in two parts, of which whole multiples of the first are exact.
    high = real(0.693359375) if single else real(float.fromhex("0x1.62e42fee00000p-1"))
    low = real(-2.12194440e-4) if single else real(1.90821492927058770002e-10)
    c = tuple(real(1 / math.factorial(k)) for k in range(exponents, -1, -1))

    def decay(x: Any) -> Any:
        x = -abs(x) * half  # exp(x) = exp(x / 2)^2, which may underflow
        x = least if x < least else x
        rounded = x * to_binary + magic
        n = rounded - magic
        r = (x - n * high) - n * low
        p = c[0]
        if single:
            p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
            p = ((p * r + c[5]) * r + c[6]) * r + c[7]
        else:
            p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
            p = (((p * r + c[5]) * r + c[6]) * r + c[7]) * r + c[8]
            p = (((p * r + c[9]) * r + c[10]) * r + c[11]) * r + c[12]
            p = p * r + c[13]
        p *= whole((real(rounded).view(whole) << place) + unit).view(real)
        return p * p

    return decay


def _log1p_of(type_name: str) -> Callable[[Any], Any]:
    real: Any = np.dtype(type_name).type
    single, two = real is np.float32, real(2)
    d = tuple(real(2 / (2 * k + 1)) for k in range(_DEGREES[type_name][1], -1, -1))

    def log1p(e: Any) -> Any:
        s = e / (two + e)
        q = s * s
        t = d[0]
        if single:
            t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
            t = ((t * q + d[5]) * q + d[6]) * q + d[7]
        else:
            t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
            t = (((t * q + d[5]) * q + d[6]) * q + d[7]) * q + d[8]
            t = (((t * q + d[9]) * q + d[10]) * q + d[11]) * q + d[12]
            t = ((t * q + d[13]) * q + d[14]) * q + d[15]
        return s * t

    return log1p
