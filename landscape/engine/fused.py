"""The whole loss of a small network on all patterns of a few bits as one compiled loop, member by member, in the cache.

The first layer reads the n bits, pointwise layers follow, as in one step of the Game of Life on its 512 patterns. Sums
of the first layer double pattern by pattern, z[i + 2^j] = z[i] + w_j: one addition each in place of n products.
Exponential and logarithm are polynomials, which the compiler vectorises. A member's numbers are those of its parameters
alone, whatever is evaluated beside it.

numba (extra `fast`) compiles it; the stacked engine is its referee.
"""

import concurrent.futures
import dataclasses
import functools
import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core.errors import Unsupported
from landscape.engine.data import Data
from landscape.engine.program.graph import leaves
from landscape.engine.stacked import Stacked

__all__ = ["Fused"]

#: Bits of a pattern at most, and at least as many as lanes of sums need.
_BITS = range(4, 17)

#: Degrees of exp(r) on |r| <= log(2) / 2 and of 2 atanh(s) / s in s^2 on s <= 1/3, to the rounding of each type.
_DEGREES = {np.float32: (7, 7), np.float64: (13, 15)}

#: Members for which another thread is worth its start.
_PER_THREAD = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
    """Loss (cross-entropy from logits), share and number of right answers of many networks.

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
            raise _refused("its layers are other than convolution, rectifier, convolution, rectifier, convolution")
        first, second, third = (layer for layer in layers if isinstance(layer, nn.Conv2d))
        batch = data.samples(0, len(data))
        inputs = batch.inputs
        whole = network.backend == "stacked" and inputs.shape[0] == 1 and inputs.is_floating_point()
        if not whole or data.weights.device.type != "cpu" or len(set(slopes)) > 1:
            raise _refused("it is on a GPU, or its data is not one set of numbers for all members")
        values = inputs[0].flatten(0, -2).double()
        bits, shift = len(values), -float(values.min())
        codes = ((values + shift).long() * 2 ** torch.arange(bits)[:, None]).sum(0) if bits in _BITS else torch.zeros(1)
        targets = batch.targets.flatten().double()
        if not (
            bits in _BITS
            and sorted(codes.tolist()) == list(range(2**bits))
            and ((values + shift == 0) | (values + shift == 1)).all()
            and ((targets == 0) | (targets == 1)).all()
            and first.weight[0].numel() == bits
            and all(layer.bias is not None and layer.groups == 1 for layer in (first, second, third))
            and (second.weight[0].numel(), third.weight.numel()) == (len(first.weight), len(second.weight))
        ):
            raise _refused("its data is not every pattern of a few bits, each once, that the first layer reads whole")
        if not isinstance(loss, nn.BCEWithLogitsLoss):
            raise _refused("its loss is not the cross-entropy from logits")
        _compiled(real)
        order = codes.argsort()
        side = (2 * targets[order] - 1).numpy().astype(real)
        weights = batch.weights[0].double()[order].numpy().copy()
        return cls(side, weights, len(first.weight), len(second.weight), slopes[0], shift)

    def __call__(self, flat: Float[Tensor, "member parameter"]) -> dict[str, Float[Tensor, " member"]]:
        """`loss`, `accuracy`, how many are `right` and whether that is all of them (`solved`), of members as rows."""
        real: Any = self.side.dtype.type
        rows = np.ascontiguousarray(flat.detach().numpy())
        loop, out = _compiled(real), np.empty((len(rows), 3))
        shape = real(self.slope), self.wide, self.narrow, real(self.shift), self.side, self.weights
        threads = min(torch.get_num_threads(), len(rows) // _PER_THREAD + 1)
        ends = [len(rows) * k // threads for k in range(threads + 1)]
        parts = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:  # the loop lets go of Python's lock
            list(pool.map(lambda part: loop(rows[part], *shape, out[part]), parts))
        loss, accuracy, right = torch.from_numpy(out).unbind(1)
        return {"loss": loss, "accuracy": accuracy, "right": right, "solved": (right == len(self.side)).double()}


def _refused(why: str) -> Unsupported:
    return Unsupported(
        f'`engine="fused"` does not serve this problem ({why}): it is for one step of the Game of Life with relu or '
        'leaky_relu and a sigmoid under bce; use `engine="stacked"`'
    )


@functools.cache
def _compiled(real: Any) -> Callable[..., None]:
    """The loop for parameters of a type: `(flat, slope, wide, narrow, shift, side, weights, out)`; kept on the disk by
    numba, where it can be.

    `flat` holds a member's parameters a row: weights [wide, bits] and biases of the layer that reads patterns, those of
    [narrow, wide] and of [1, narrow]. `side` is 1 for patterns whose target is 1 and -1 for 0, `weights` is the
    patterns', in float64. `out` [member, 3] gets the weighted sums of the cross-entropy from logits and of
    right answers, and the number of these.
    """
    try:
        numba: Any = importlib.import_module("numba")
    except ImportError as error:
        raise Unsupported(
            "`engine=\"fused\"` needs numba, which is not installed: from a clone, pip install '.[fast]', or use "
            '`engine="stacked"`'
        ) from error
    for cache in (True, False):  # where nothing can be written, it is compiled in each process
        try:
            return numba.njit(_loop(real), nogil=True, cache=cache, error_model="numpy", fastmath={"contract"})  # type: ignore[no-any-return]
        except RuntimeError:
            if not cache:
                raise
    raise AssertionError


def _loop(real: Any) -> Callable[..., None]:
    exponents, series = _DEGREES[real]
    whole = np.int32 if real is np.float32 else np.int64
    mantissa, bias = (23, 127) if real is np.float32 else (52, 1023)
    # Added and taken off again it rounds to a whole number, which then stands in the last bits.
    magic = real(1.5 * 2.0**mantissa)
    unit, place = whole(bias << mantissa), whole(mantissa)
    least = real(-55.0 if real is np.float32 else -375.0)
    to_binary = real(1 / math.log(2))
    # log(2) in two parts, of which whole multiples of the first are exact.
    high = real(0.693359375) if real is np.float32 else real(float.fromhex("0x1.62e42fee00000p-1"))
    low = real(-2.12194440e-4) if real is np.float32 else real(1.90821492927058770002e-10)
    single = real is np.float32
    c = tuple(real(1 / math.factorial(k)) for k in range(exponents, -1, -1))
    d = tuple(real(2 / (2 * k + 1)) for k in range(series, -1, -1))
    zero, half, two = real(0), real(0.5), real(2)

    def loop(flat: Any, slope: Any, wide: Any, narrow: Any, shift: Any, side: Any, weights: Any, out: Any) -> None:
        patterns = len(side)
        bits = 0
        while (1 << bits) < patterns:
            bits += 1
        z, h, y = np.empty(patterns, real), np.empty((narrow, patterns), real), np.empty(patterns, real)
        loss, lanes = np.empty(patterns, real), np.empty(16)
        second = wide * (bits + 1)
        third = second + narrow * (wide + 1)
        for member in range(len(flat)):
            row = flat[member]
            for g in range(narrow):
                h[g, :] = row[second + narrow * wide + g]
            for f in range(wide):
                start = row[wide * bits + f]
                for j in range(bits):
                    start -= shift * row[f * bits + j]
                z[0] = start
                for j in range(bits):
                    weight, size = row[f * bits + j], 1 << j
                    for i in range(size):
                        z[size + i] = z[i] + weight
                for i in range(patterns):
                    z[i] = z[i] if z[i] > zero else z[i] * slope
                for g in range(narrow):
                    weight = row[second + g * wide + f]
                    for i in range(patterns):
                        h[g, i] += weight * z[i]
            y[:] = row[third + narrow]
            for g in range(narrow):
                weight = row[third + g]
                for i in range(patterns):
                    value = h[g, i]
                    y[i] += weight * (value if value > zero else value * slope)
            for i in range(patterns):
                ahead = y[i] * side[i]
                # log(1 + exp(-ahead)) = max(-ahead, 0) + log1p(e), e = exp(-|ahead|) = exp(x)^2, which may underflow
                x = -abs(ahead) * half
                x = least if x < least else x
                rounded = x * to_binary + magic
                n = rounded - magic
                r = (x - n * high) - n * low
                if single:
                    p = c[0]
                    p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
                    p = ((p * r + c[5]) * r + c[6]) * r + c[7]
                else:
                    p = c[0]
                    p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
                    p = (((p * r + c[5]) * r + c[6]) * r + c[7]) * r + c[8]
                    p = (((p * r + c[9]) * r + c[10]) * r + c[11]) * r + c[12]
                    p = p * r + c[13]
                p *= whole((real(rounded).view(whole) << place) + unit).view(real)
                e = p * p
                s = e / (two + e)
                q = s * s
                if single:
                    t = d[0]
                    t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
                    t = ((t * q + d[5]) * q + d[6]) * q + d[7]
                else:
                    t = d[0]
                    t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
                    t = (((t * q + d[5]) * q + d[6]) * q + d[7]) * q + d[8]
                    t = (((t * q + d[9]) * q + d[10]) * q + d[11]) * q + d[12]
                    t = ((t * q + d[13]) * q + d[14]) * q + d[15]
                loss[i] = s * t + (-ahead if ahead < zero else zero)
            lanes[:] = 0.0
            for first in range(0, patterns, 16):
                for lane in range(16):
                    lanes[lane] += weights[first + lane] * np.float64(loss[first + lane])
            out[member, 0] = lanes.sum()
            lanes[:] = 0.0
            count = 0
            for first in range(0, patterns, 16):
                for lane in range(16):
                    right = (y[first + lane] > zero) == (side[first + lane] > zero)
                    lanes[lane] += weights[first + lane] if right else 0.0
                    count += right
            out[member, 1], out[member, 2] = lanes.sum(), count

    return loop
