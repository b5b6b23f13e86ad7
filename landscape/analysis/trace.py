"""The trace of the Hessian, the sum of its eigenvalues, part by part too, and its diagonal, with their errors."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError
from landscape.core.intervals import CONFIDENCE
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PARAMETERS, MOST_PRODUCTS, Hessian, Matrix, each_member
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
    Where the result is `exact`, the trace was summed and the interval is a point. The traces of `parts` of the network,
    sums over their entries of the diagonal, add up to it; each has an interval of its own. `diagonal`, where it was
    asked for, has a standard error, `diagonal_se`, from the spread over the probes.
    """

    values: Float[np.ndarray, " member"]
    low: Float[np.ndarray, " member"]
    high: Float[np.ndarray, " member"]
    reached: Bool[np.ndarray, " member"]
    probes: Int[np.ndarray, " member"]
    products: Int[np.ndarray, " member"]
    exact: bool
    parts: tuple[str, ...]
    part_parameters: Int[np.ndarray, " part"]
    part_values: Float[np.ndarray, "member part"]
    part_low: Float[np.ndarray, "member part"]
    part_high: Float[np.ndarray, "member part"]
    diagonal: Float[np.ndarray, "member parameter"] | None
    diagonal_se: Float[np.ndarray, "member parameter"] | None


def trace(
    objective: AnyObjective,
    stack: Stack,
    *,
    rtol: float = 0.05,
    atol: float = 0.0,
    parts: Mapping[str, Collection[str]] = MappingProxyType({}),
    diagonal: bool = False,
    seed: int = 0,
    matrix: Matrix = "hessian",
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

    The diagonal comes from the same products: with the projection P onto that span, H = H P + H (I - P), and over signs
    z the mean of y * H y, y = (I - P) z, entry by entry, is the diagonal of the second (C. Bekas, E. Kokiopoulou, Y.
    Saad, Appl. Numer. Math. 57, 2007; R. A. Baston, Y. Nakatsukasa, arXiv:2201.10684). `parts` names parameters of
    which traces are sums over it.
    """
    place = {name: number for number, part in enumerate(parts.values()) for name in part}
    if missing := [name for name in stack.tensors if parts and name not in place]:
        raise LandscapeError(f"{missing[0]} is in none of the parts, whose traces would not add up")
    labels = torch.cat(
        [torch.full((math.prod(shape),), place.get(name, 0)) for name, shape in stack.shapes.items()]
    ).numpy()
    sums = _Sums(labels, len(parts), diagonal)
    (values, low, high, reached, probes, products, *rest), exact = each_member(
        objective,
        stack,
        lambda each: _summed(each, sums),
        lambda hessian: _hutchpp(hessian, sums, rtol, atol, seed, most_products),
        matrix=matrix,
        whole=whole,
        most=most_products,
        on_progress=on_progress,
    )
    of_parts, alone = rest[:3], rest[3:] if diagonal else (None, None)
    sizes = np.bincount(labels, minlength=1)[: len(parts)]
    return Trace(values, low, high, reached, probes, products, exact, tuple(parts), sizes, *of_parts, *alone)


@dataclasses.dataclass(frozen=True, eq=False)
class _Sums:
    """Which sums of entries of the diagonal are wanted: of `count` parts, by the label of each, and of each alone."""

    labels: Int[np.ndarray, " parameter"]
    count: int
    alone: bool

    def of(self, entries: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, " sum"]:
        """The sum of all, then of each part."""
        parts = np.bincount(self.labels, entries, self.count) if self.count else np.zeros(0)
        return np.concatenate([[entries.sum()], parts])

    def told(self, values: np.ndarray, half: np.ndarray, count: int, reached: bool, products: int, *alone: Any) -> Any:
        """What there is to say of a member."""
        ends = values - half, values + half
        whole = (float(each[0]) for each in (values, *ends))
        parts = (each[1:] for each in (values, *ends))
        return (*whole, reached, count, products, *parts, *(alone if self.alone else ()))


def _summed(matrix: Float[np.ndarray, "parameter parameter"], sums: _Sums) -> Any:
    entries = np.diagonal(matrix).copy()
    values = sums.of(entries)
    return sums.told(values, 0 * values, 0, True, len(matrix), entries, 0 * entries)


def _hutchpp(hessian: Hessian, sums: _Sums, rtol: float, atol: float, seed: int, most: int) -> Any:
    """Traces with the ends of their intervals, whether that of all is narrow enough, numbers of probes and products,
    the diagonal and its standard error.
    """
    sketched = min(_SKETCH_SIZE, hessian.parameters // 2)
    images = hessian.products(_signs(seed, _SKETCH, 0, sketched, hessian.parameters))
    basis = torch.linalg.qr(images.T).Q.T
    inside = (basis * hessian.products(basis)).sum(0).cpu().numpy()
    outside = list[np.ndarray]()
    # Of each entry the mean so far and the sum of squares about it: B. P. Welford, Technometrics 4, 1962.
    mean, squares = np.zeros(hessian.parameters), np.zeros(hessian.parameters if sums.alone else 0)
    wanted = _FIRST_PROBES
    while True:
        while len(outside) < wanted:
            probes = _signs(seed, _PROBES, len(outside), min(_BLOCK, wanted - len(outside)), hessian.parameters)
            probes = probes.to(basis.device)
            probes = probes - (probes @ basis.T) @ basis
            for entries in (probes * hessian.products(probes)).cpu().numpy():
                outside.append(sums.of(entries))
                if sums.alone:
                    off = entries - mean
                    mean += off / len(outside)
                    squares += off * (entries - mean)
        count, found = len(outside), np.stack(outside)
        values = sums.of(inside) + found.mean(0)
        # From the first probes alone, which also decide how many there will be: a spread that is looked at until it is
        # narrow is too narrow.
        reach = scipy.special.stdtrit(_FIRST_PROBES - 1, (1 + CONFIDENCE) / 2)
        spread = reach * found[:_FIRST_PROBES].std(axis=0, ddof=1)
        half, bound = spread / math.sqrt(count), max(atol, rtol * abs(float(values[0])))
        left = most - hessian.count
        if half[0] <= bound or left < 1:
            se = np.sqrt(squares / (count - 1) / count)
            return sums.told(values, half, count, bool(half[0] <= bound), hessian.count, inside + mean, se)
        wanted = count + max(1, int(min(left, (float(spread[0]) / bound) ** 2 + 1 - count if bound else math.inf)))


def _signs(seed: int, stream: int, first: int, count: int, size: int) -> Tensor:
    """Random signs [vector, parameter]: vector i is a pure function of the seed and `first` + i."""
    return torch.stack([philox.signs(seed, stream=stream, step=first + i, count=size) for i in range(count)])
