"""Layers of many members at once: what PyTorch's modules do, with a member axis in front.

Each function here builds, from a module that it reads for its options alone, a layer: (its part of a pass, data) ->
data, samples last. It answers None for options, and the layer `NotImplemented` for data, that it does not know; the
module itself then runs member by member.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.core.errors import Mismatch
from landscape.engine.program.layout import samples_first, samples_last, shape_of
from landscape.engine.program.products import product, reach, windows

__all__ = [
    "ELEMENTWISE",
    "FRESH",
    "LAYERS",
    "NORMALISED",
    "STOCHASTIC",
    "Own",
    "Statistics",
    "has_statistics",
    "pooled",
]

#: Uniform numbers in [0, 1), [member, *shape].
Draw = Callable[[tuple[int, ...]], Tensor]


@dataclasses.dataclass(eq=False)
class Statistics:
    """Asks a pass to normalise by its own batch, as BatchNorm does in training, and collects what it finds.

    `real` tells samples from padding, which is left out of the statistics. `found` holds, under the names of the
    buffers in the state dict, the batch's mean and unbiased variance, [member, feature], detached.
    """

    real: Bool[Tensor, " sample"] | None = None
    found: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def index(self) -> Tensor | None:
        """Places of the real samples, or None if all are."""
        return None if self.real is None or bool(self.real.all()) else self.real.nonzero().flatten()

    def chosen(self, x: Tensor) -> Tensor:
        """The real samples of data whose last axis they are."""
        return x if self.index is None else x.index_select(-1, self.index.to(x.device))

    def record(self, name: str, mean: Tensor, variance: Tensor, members: int) -> None:
        """Keep the mean and the unbiased variance, [1 or member, feature], that the layer of this name has seen."""
        for key, value in (("running_mean", mean), ("running_var", variance)):
            self.found[f"{name}.{key}" if name else key] = value.detach().expand(members, -1)


def has_statistics(module: nn.Module) -> bool:
    """Whether it is a BatchNorm layer with running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@dataclasses.dataclass(slots=True, eq=False)
class Own:
    """A layer's part of a pass: its tensors by short name, [member or 1, *shape], and how the pass is made.

    `draw` gives the randomness of training, None in evaluation. `affine` are scale and shift, [member, out], of a
    normalisation that follows and is done along with the layer. With `overwrite` nobody else reads the layer's data.
    """

    name: str
    members: int
    tensors: Mapping[str, Tensor]
    draw: Draw | None = None
    statistics: Statistics | None = None
    affine: tuple[Tensor, Tensor] | None = None
    overwrite: bool = False


#: One layer; `Any` because it may answer NotImplemented.
Layer = Callable[[Own, Tensor], Any]


def _per_channel(tensor: Tensor, x: Tensor) -> Tensor:
    """[member, channel] beside data of any number of axes."""
    return tensor.view(*tensor.shape, *(1 for _ in range(x.ndim - 2)))


# Products with weights ------------------------------------------------------------------------------------------------


def _weights(own: Own) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, with those of the normalisation that follows multiplied in."""
    weight, bias = own.tensors["weight"], own.tensors.get("bias")
    if own.affine is None:
        return weight, bias
    scale, shift = own.affine
    return weight * _per_channel(scale, weight), shift if bias is None else torch.addcmul(shift, bias, scale)


def _linear(layer: nn.Linear) -> Layer:
    def apply(own: Own, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-2] != layer.in_features:
            raise Mismatch(
                f"linear layer {own.name or 'module'} reads {layer.in_features} features along the last axis, got data "
                f"of shape {list(shape_of(x))} (samples first): flatten or move axes first"
            )
        read = x.movedim(-2, 1)
        result = product(*_weights(own), read.flatten(2))
        return result.view(*result.shape[:2], *read.shape[2:]).movedim(1, -2)

    return apply


def _conv(layer: nn.Conv2d) -> Layer | None:
    """Convolution of all channels, with zeros around the data, as unfolding and one batched product."""
    if layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None

    def apply(own: Own, x: Tensor) -> Any:
        if x.ndim != 5:
            return NotImplemented
        weight, bias = _weights(own)
        read = windows(layer, x)
        result = product(weight.flatten(2), bias, read.flatten(2))
        return result.view(*result.shape[:2], *read.shape[2:])

    return apply


def _embedding(layer: nn.Embedding) -> Layer | None:
    """Rows of a table at whole numbers."""
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        return None

    def apply(own: Own, codes: Tensor) -> Tensor:
        if codes.is_floating_point():
            raise Mismatch(f"embedding {own.name or 'module'} reads whole numbers, got {codes.dtype}")
        weight, places = own.tensors["weight"], samples_first(codes)
        if layer.padding_idx is not None:
            kept = torch.arange(weight.shape[1], device=weight.device) != layer.padding_idx
            weight = torch.where(kept[:, None], weight, weight.detach())
        if len(places) == 1:
            rows = weight.index_select(1, places.flatten())
        else:
            first = torch.arange(len(places), device=places.device).view(-1, *(1 for _ in places.shape[1:]))
            table = weight.expand(len(places), *weight.shape[1:]).flatten(0, 1)
            rows = table.index_select(0, (places + first * weight.shape[1]).flatten())
        return samples_last(rows.view(-1, *places.shape[1:], weight.shape[2]))

    return apply


# Normalisations -------------------------------------------------------------------------------------------------------


def _batch_norm(layer: Any) -> Layer:
    running = layer.running_mean is not None

    def apply(own: Own, x: Tensor) -> Any:
        if x.ndim < 3:
            return NotImplemented
        if running and own.statistics is None:
            scale, shift = affine(layer, own.tensors)
        else:
            statistics = own.statistics or Statistics()
            seen = statistics.chosen(x)
            axes = tuple(range(2, x.ndim))
            count = math.prod(seen.shape[2:])
            if count < 2:
                raise Mismatch(f"BatchNorm layer {own.name or 'module'} needs two numbers or more of each feature")
            variance, mean = torch.var_mean(seen, axes, correction=0)
            if running:
                statistics.record(own.name, mean, variance * (count / (count - 1)), own.members)
            scale, shift = affine(layer, {**own.tensors, "running_mean": mean, "running_var": variance})
        return torch.addcmul(_per_channel(shift, x), x, _per_channel(scale, x))

    return apply


def affine(layer: Any, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale and shift, [member, feature], that normalise by these statistics."""
    scale = (tensors["running_var"] + layer.eps).rsqrt()
    if "weight" in tensors:
        scale = scale * tensors["weight"]
    shift = -tensors["running_mean"] * scale
    return scale, shift + tensors["bias"] if "bias" in tensors else shift


def _layer_norm(layer: nn.LayerNorm) -> Layer:
    count = len(layer.normalized_shape)

    def apply(own: Own, x: Tensor) -> Any:
        if x.ndim < count + 2:
            return NotImplemented
        variance, mean = torch.var_mean(x, tuple(range(-1 - count, -1)), correction=0, keepdim=True)
        x = (x - mean) * (variance + layer.eps).rsqrt()
        # [member, *shape] beside [member, *others, *shape, sample].
        weight, bias = (
            own.tensors[key].view(-1, *(1,) * (x.ndim - count - 2), *layer.normalized_shape, 1)
            if key in own.tensors
            else None
            for key in ("weight", "bias")
        )
        if weight is None:
            return x
        return x * weight if bias is None else torch.addcmul(bias, x, weight)

    return apply


# Pooling --------------------------------------------------------------------------------------------------------------


def pooled(layer: nn.MaxPool2d | nn.AvgPool2d, x: Tensor, fill: float) -> list[Tensor]:
    """The numbers at each place of all windows, one tensor a place; around the data is `fill`."""
    kernel, stride, padding, dilation = (
        (each, each) if isinstance(each, int) else each
        for each in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
    )
    if any(padding):
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]), value=fill)
    rows, columns = (
        [reach(place, (size - d * (k - 1) - 1) // s + 1, s, d) for place in range(k)]
        for size, k, s, d in zip(x.shape[2:4], kernel, stride, dilation, strict=True)
    )
    return [x[:, :, row, column] for row in rows for column in columns]


def _pool(layer: nn.MaxPool2d | nn.AvgPool2d, fill: float, reduce: Callable[[list[Tensor]], Tensor]) -> Layer | None:
    """What `reduce` makes of the numbers at each place of all windows."""
    if layer.ceil_mode:
        return None
    return lambda own, x: reduce(pooled(layer, x, fill)) if x.ndim == 5 else NotImplemented


def _largest(places: list[Tensor]) -> Tensor:
    """The largest of windows' numbers; of equal ones the derivative goes to the first, as in PyTorch."""
    best = places[0]
    if torch.is_grad_enabled() and best.requires_grad:
        for place in places[1:]:
            best = torch.where((place > best) | place.isnan(), place, best)
        return best
    best = best.clone() if len(places) == 1 else torch.maximum(*places[:2])
    for place in places[2:]:
        torch.maximum(best, place, out=best)
    return best


def _max_pool(layer: nn.MaxPool2d) -> Layer | None:
    return None if layer.return_indices else _pool(layer, -math.inf, _largest)


def _avg_pool(layer: nn.AvgPool2d) -> Layer | None:
    padded = layer.padding not in (0, (0, 0))
    if layer.divisor_override or (padded and not layer.count_include_pad):
        return None
    return _pool(layer, 0.0, lambda places: functools.reduce(torch.add, places) / len(places))


def _adaptive_avg_pool(layer: nn.AdaptiveAvgPool2d) -> Layer | None:
    """To a single place."""
    if layer.output_size not in (1, (1, 1)):
        return None
    return lambda own, x: x.mean((2, 3), keepdim=True) if x.ndim == 5 else NotImplemented


# Elementwise ----------------------------------------------------------------------------------------------------------


def _elementwise(layer: nn.Module) -> Layer:
    """An activation; written over its data where nobody else reads it, which changes no bit of the result."""
    apart, over = copy.deepcopy(layer), copy.deepcopy(layer)
    if hasattr(layer, "inplace"):
        apart.inplace, over.inplace = False, True  # type: ignore[assignment]
    in_place = _IN_PLACE.get(type(layer), over if hasattr(layer, "inplace") else apart)

    return lambda own, x: (in_place if own.overwrite else apart)(x)


_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: torch.sigmoid_,
    nn.Tanh: torch.tanh_,
}


def _prelu(layer: nn.PReLU) -> Layer:
    """Slopes [member, channel or 1] below zero."""

    def apply(own: Own, x: Tensor) -> Any:
        return torch.where(x > 0, x, _per_channel(own.tensors["weight"], x) * x) if x.ndim > 2 else NotImplemented

    return apply


def _rrelu(layer: nn.RReLU) -> Layer:
    """Slope drawn for each element in training, its mean in evaluation."""

    def apply(own: Own, x: Tensor) -> Tensor:
        if own.draw is None:
            return F.leaky_relu(x, (layer.lower + layer.upper) / 2)
        slope: Tensor = layer.lower + (layer.upper - layer.lower) * own.draw(tuple(x.shape[1:]))
        return torch.where(x >= 0, x, slope * x)

    return apply


def _dropout(layer: Any) -> Layer:
    """In training zero with probability p, else scaled by 1 / (1 - p): each number, or whole channels of a sample."""
    channels = not isinstance(layer, nn.Dropout)

    def apply(own: Own, x: Tensor) -> Tensor:
        if own.draw is None or layer.p == 0:
            return x
        drawn = (x.shape[1], *(1 for _ in x.shape[2:-1]), x.shape[-1]) if channels else tuple(x.shape[1:])
        kept = own.draw(drawn) >= layer.p
        return x * kept / (1 - layer.p) if layer.p < 1 else x * 0.0

    return apply


#: Activations that treat each number alone, as PyTorch's modules.
ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardshrink, nn.Softshrink, nn.Threshold,
)  # fmt: skip

#: Layers whose results are memory of their own.
FRESH: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm,
)  # fmt: skip

#: Layers that draw random numbers in training.
STOCHASTIC: tuple[type[nn.Module], ...] = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU,
)  # fmt: skip

#: Products that a BatchNorm which follows can be done along with.
NORMALISED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)

#: How to build each layer; None for options that it does not know.
LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
    nn.PReLU: _prelu,
    nn.RReLU: _rrelu,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _dropout),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}
