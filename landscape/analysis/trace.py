"""The trace of the Hessian, the sum of its eigenvalues, with an interval."""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor

from landscape.core import philox
from landscape.core.intervals import CONFIDENCE
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PARAMETERS, MOST_PRODUCTS, Hessian, each_member
from landscape.engine.plain import AnyObjective
from landscape.engine.stack import Stack

__all__ = ["Trace", "trace"]

#: Streams of random signs, apart from those of other uses of a seed.
_SKETCH, _PROBES = 0x54524143, 0x54524144

#: Vectors of the sketch, probes of the first stage, and probes at once.
_SKETCH_SIZE, _FIRST_PROBES, _BLOCK = 20, 32, 8


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Of each member, the trace of the Hessian (the sum of its eigenvalues) with a 95 % interval.

    `reached` says whether the interval is as narrow as was asked for; `probes` counts the random vectors it rests on.
    Where the result is `exact`, the trace was summed and the interval is a point.
    """

    values: Float[np.ndarray, " member"]
    low: Float[np.ndarray, " member"]
    high: Float[np.ndarray, " member"]
    reached: Bool[np.ndarray, " member"]
    probes: Int[np.ndarray, " member"]
    products: Int[np.ndarray, " member"]
    exact: bool


def trace(
    objective: AnyObjective,
    stack: Stack,
    *,
    rtol: float = 0.05,
    atol: float = 0.0,
    seed: int = 0,
    whole: int = MOST_PARAMETERS,
    most_products: int = MOST_PRODUCTS,
    on_progress: Progress = lambda done, total: None,
) -> Trace:
    """Trace of the Hessian of the loss at each member, until half the width of the 95 % interval is at most `atol` or
    `rtol` times the magnitude of the trace.

    By Hutch++ (R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, SOSA 2021): on the span of 20 sketched directions,
    where most of the large eigenvalues act, the trace is exact; on the rest it is Hutchinson's mean over random signs.
    The spread of the first 32 gives the interval and decides how many more there are within `most_products` (the two
    stages of C. Stein, Ann. Math. Stat. 16, 1945); the least is 72 products. All members see the same signs, which
    `seed` alone decides. Raises `LandscapeError` if parameters or products are not finite.
    """
    (values, low, high, reached, probes, products), exact = each_member(
        objective,
        stack,
        lambda matrix: (*[float(np.trace(matrix))] * 3, True, 0, len(matrix)),
        lambda hessian: _hutchpp(hessian, rtol, atol, seed, most_products),
        whole=whole,
        most=most_products,
        on_progress=on_progress,
    )
    return Trace(values, low, high, reached, probes, products, exact)


def _hutchpp(
    hessian: Hessian, rtol: float, atol: float, seed: int, most: int
) -> tuple[float, float, float, bool, int, int]:
    """Trace, the ends of its interval, whether it is narrow enough, numbers of probes and products."""
    sketched = min(_SKETCH_SIZE, hessian.parameters // 2)
    images = hessian.products(_signs(seed, _SKETCH, 0, sketched, hessian.parameters))
    basis = torch.linalg.qr(images.T).Q.T
    inside = float((basis * hessian.products(basis)).sum())
    outside = np.zeros(0)
    wanted = _FIRST_PROBES
    while True:
        while len(outside) < wanted:
            probes = _signs(seed, _PROBES, len(outside), min(_BLOCK, wanted - len(outside)), hessian.parameters)
            probes = probes.to(basis.device)
            probes = probes - (probes @ basis.T) @ basis
            outside = np.append(outside, (probes * hessian.products(probes)).sum(1).cpu().numpy())
        count = len(outside)
        value = inside + float(outside.mean())
        # From the first probes alone, which also decide how many there will be: a spread that is looked at until it is
        # narrow is too narrow.
        spread = float(stdtrit(_FIRST_PROBES - 1, (1 + CONFIDENCE) / 2) * outside[:_FIRST_PROBES].std(ddof=1))
        half, bound = spread / math.sqrt(count), max(atol, rtol * abs(value))
        left = most - hessian.count
        if half <= bound or left < 1:
            return value, value - half, value + half, half <= bound, count, hessian.count
        wanted = count + max(1, int(min(left, (spread / bound) ** 2 + 1 - count if bound else math.inf)))


def _signs(seed: int, stream: int, first: int, count: int, size: int) -> Tensor:
    """Random signs [vector, parameter]: vector i is a pure function of the seed and `first` + i."""
    words = [
        philox.words(torch.tensor([seed]), stream=stream, step=step, count=size) for step in range(first, first + count)
    ]
    return torch.cat(words).remainder(2).mul(2).sub(1).double()
