"""Layers of many members at once: what PyTorch's modules do, with a member axis in front.

Each function here builds, from a module that it reads for its options alone, a layer: (its part of a pass, data) ->
data. A layer answers `NotImplemented` for data that it does not know; the module itself then runs member by member.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from landscape.core.errors import Mismatch
from landscape.engine.program.layout import Value, align
from landscape.engine.program.products import ceil_div, product, reach, shared_product, unfold

__all__ = ["ELEMENTWISE", "FRESH", "LAYERS", "NORMALISED", "STOCHASTIC", "Draw", "Layer", "Own", "Statistics"]

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


#: Ranks of data with two axes of space, and with one.
_SPACE = {False: range(4, 5), True: range(3, 4)}

#: One layer; `Any` because it may answer NotImplemented.
Layer = Callable[[Own, Value], Any]


def _samples_last(function: Callable[[Own, Tensor], Tensor], ranks: range = range(99)) -> Layer:
    """A layer of numbers whose samples are last, for values of these ranks."""

    def apply(own: Own, value: Value) -> Any:
        return Value(function(own, value.samples_last()), last=True) if value.rank in ranks else NotImplemented

    return apply


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
    def apply(own: Own, value: Value) -> Value:
        if value.rank < 2 or value.shape[-1] != layer.in_features:
            raise Mismatch(
                f"linear layer {own.name or 'module'} reads {layer.in_features} features along the last axis, got data "
                f"of shape {list(value.shape)} (samples first): flatten or move axes first"
            )
        return linear(value, *_weights(own))

    return apply


def linear(value: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """Weights [member, out, in] times the last axis of data; of vectors samples last, of sequences samples first."""
    if value.rank == 2:
        return Value(product(weight, bias, value.samples_last()), last=True)
    x = value.samples_first()
    flat = x.flatten(1, -2)
    flat = flat.expand(len(weight), *flat.shape[1:]) if len(flat) == 1 else flat
    weight = weight.expand(len(flat), *weight.shape[1:])
    result = flat @ weight.mT if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
    return Value(result.view(len(result), *x.shape[1:-1], -1), last=False)


def _pair(number: Any, one_d: bool, other: int) -> tuple[int, int]:
    """An option for height and width, where there is a height."""
    if isinstance(number, int):
        return (other, number) if one_d else (number, number)
    return (other, number[0]) if one_d else tuple(number)


def _conv(layer: nn.Conv1d | nn.Conv2d) -> Layer:
    """Convolution as unfolding and one batched product."""
    one_d = isinstance(layer, nn.Conv1d)
    kernel, stride, dilation = (_pair(each, one_d, 1) for each in (layer.kernel_size, layer.stride, layer.dilation))
    around, padding = _conv_padding(layer, kernel, dilation, one_d)

    def apply(own: Own, x: Tensor) -> Tensor:
        x = x[:, :, None] if one_d else x
        if around is not None:
            x = F.pad(x, around) if layer.padding_mode == "zeros" else _repeat_edges(x, around, layer.padding_mode)
        weight, bias = _weights(own)
        read = unfold(x, kernel, stride, dilation, padding)
        result = (
            _grouped(weight, bias, read, layer.groups)
            if layer.groups > 1
            else product(weight.flatten(2), bias, read.flatten(2))
        )
        result = result.view(*result.shape[:2], *read.shape[2:])
        return result[:, :, 0] if one_d else result

    return _samples_last(apply, _SPACE[one_d])


def _conv_padding(
    layer: nn.Conv1d | nn.Conv2d, kernel: tuple[int, int], dilation: tuple[int, int], one_d: bool
) -> tuple[tuple[int, ...] | None, tuple[int, int]]:
    """What is padded beforehand, as `F.pad` counts it with samples last, and what the unfolding pads with zeros."""
    if layer.padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(each // 2, each - each // 2) for each in total]
    else:
        padding = (0, 0) if layer.padding == "valid" else _pair(layer.padding, one_d, 0)
        sides = [(each, each) for each in padding]
    if layer.padding_mode == "zeros" and all(before == after for before, after in sides):
        return None, (sides[0][0], sides[1][0])
    return (0, 0, *sides[1], *sides[0]), (0, 0)


def _repeat_edges(x: Tensor, around: tuple[int, ...], mode: str) -> Tensor:
    """Padding with what is inside: `reflect`, `replicate` or `circular`, by looking the places up."""
    for axis, sides in ((3, around[2:4]), (2, around[4:6])):
        if any(sides):
            places = torch.arange(x.shape[axis], dtype=torch.float64, device=x.device)
            x = x.index_select(axis, F.pad(places[None, None], sides, mode=mode)[0, 0].long())
    return x


def _grouped(weight: Tensor, bias: Tensor | None, read: Tensor, groups: int) -> Tensor:
    """The product of a convolution in groups: one for each group of each member."""
    members, out = weight.shape[:2]
    weight = weight.view(members, groups, out // groups, -1)
    flat = read.reshape(len(read), groups, weight.shape[-1], -1)
    if len(flat) == 1:  # shared by all members
        result = torch.stack([shared_product(weight[:, group], flat[0, group]) for group in range(groups)], dim=1)
    else:
        result = weight.flatten(0, 1).expand(len(flat) * groups, -1, -1) @ flat.flatten(0, 1)
    result = result.reshape(members, out, -1)
    return result if bias is None else result + bias[..., None]


def embedding(weight: Tensor, codes: Value, padding_idx: int | None) -> Value:
    """Rows of a table [member, row, feature] at whole numbers, samples first."""
    if padding_idx is not None and weight.requires_grad:
        kept = torch.arange(weight.shape[1], device=weight.device) != padding_idx % weight.shape[1]
        weight = torch.where(kept[:, None], weight, weight.detach())
    places = codes.samples_first()
    if len(places) == 1:
        rows = weight.index_select(1, places.flatten())
    else:
        first = torch.arange(len(places), device=places.device).view(-1, *(1 for _ in places.shape[1:]))
        table = weight.expand(len(places), *weight.shape[1:]).flatten(0, 1)
        rows = table.index_select(0, (places + first * weight.shape[1]).flatten())
    return Value(rows.view(-1, *places.shape[1:], weight.shape[2]), last=False)


def _embedding(layer: nn.Embedding) -> Layer | None:
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        return None

    def apply(own: Own, value: Value) -> Value:
        if value.data.is_floating_point():
            raise Mismatch(f"embedding {own.name or 'module'} reads whole numbers, got {value.data.dtype}")
        return embedding(own.tensors["weight"], value, layer.padding_idx)

    return apply


# Normalisations -------------------------------------------------------------------------------------------------------


def _batch_norm(layer: Any) -> Layer:
    running = layer.running_mean is not None

    def apply(own: Own, x: Tensor) -> Tensor:
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

    return _samples_last(apply, range(2, 99))


def affine(layer: Any, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scale and shift, [member, feature], that normalise by these statistics."""
    scale = (tensors["running_var"] + layer.eps).rsqrt()
    if "weight" in tensors:
        scale = scale * tensors["weight"]
    shift = -tensors["running_mean"] * scale
    return scale, shift + tensors["bias"] if "bias" in tensors else shift


def _standardised(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    variance, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return (x - mean) * (variance + eps).rsqrt()


def layer_norm(value: Value, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    """Layer normalisation over the last axes; weight and bias are [member, *shape]."""
    count = len(shape)
    if value.rank <= count:
        return NotImplemented
    if value.last:
        x = _standardised(value.data, range(value.data.ndim - 1 - count, value.data.ndim - 1), eps)
    else:
        x = F.layer_norm(value.data, tuple(shape), eps=eps)
    (x, *both), last = align(
        [Value(x, value.last), *(Value(each, last=False) for each in (weight, bias) if each is not None)]
    )
    if len(both) == 2:
        return Value(torch.addcmul(both[1], x, both[0]), last)
    return Value(x if not both else x * both[0] if weight is not None else x + both[0], last)


def _layer_norm(layer: nn.LayerNorm) -> Layer:
    return lambda own, value: layer_norm(
        value, layer.normalized_shape, own.tensors.get("weight"), own.tensors.get("bias"), layer.eps
    )


def _group_norm(layer: Any) -> Layer | None:
    """In groups of channels; an instance is a group of one channel."""
    if getattr(layer, "track_running_stats", False):
        return None

    named = isinstance(layer, nn.GroupNorm)

    def apply(own: Own, x: Tensor) -> Tensor:
        groups = layer.num_groups if named else x.shape[1]
        grouped = torch.unflatten(x, 1, (groups, -1))
        result = _standardised(grouped, range(2, grouped.ndim - 1), layer.eps).view(x.shape)
        if "weight" in own.tensors:
            weight, bias = (_per_channel(own.tensors[key], x) for key in ("weight", "bias"))
            result = torch.addcmul(bias, result, weight)
        return result

    return _samples_last(apply, range(2 if named else 3, 99))


# Pooling --------------------------------------------------------------------------------------------------------------


def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    reached = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return reached // stride + 1
    out = ceil_div(reached, stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out  # the last window starts inside, or before


def _pool(layer: Any, fill: float, reduce: Callable[[list[Tensor]], Tensor]) -> Layer:
    """What `reduce` makes of the numbers at each place of all windows; an average divides by how many there are."""
    one_d, average = isinstance(layer, nn.MaxPool1d | nn.AvgPool1d), isinstance(layer, nn.AvgPool1d | nn.AvgPool2d)
    kernel, padding = _pair(layer.kernel_size, one_d, 1), _pair(layer.padding, one_d, 0)
    stride = _pair(layer.kernel_size if layer.stride is None else layer.stride, one_d, 1)
    ways = list(zip(kernel, stride, padding, _pair(getattr(layer, "dilation", 1), one_d, 1), strict=True))

    def apply(own: Own, x: Tensor) -> Tensor:
        x = x[:, :, None] if one_d else x
        sizes = x.shape[2:4]
        outs = [_pooled_size(size, *way, layer.ceil_mode) for size, way in zip(sizes, ways, strict=True)]
        after = [
            max((out - 1) * stride + dilation * (kernel - 1) + 1 - size - padding, 0)
            for size, out, (kernel, stride, padding, dilation) in zip(sizes, outs, ways, strict=True)
        ]
        rows, columns = (
            [reach(place, out, way[1], way[3]) for place in range(way[0])] for out, way in zip(outs, ways, strict=True)
        )

        def pooled(x: Tensor) -> Tensor:
            return reduce([x[:, :, row, column] for row in rows for column in columns])

        if any((*padding, *after)):
            x = F.pad(x, (0, 0, padding[1], after[1], padding[0], after[0]), value=fill)
        result = pooled(x)
        if average and getattr(layer, "divisor_override", None):
            result = result / layer.divisor_override
        elif average:
            around = (0, 0, padding[1], padding[1], padding[0], padding[0])
            counted = F.pad(x.new_ones(1, 1, *sizes, 1), around, value=float(layer.count_include_pad))
            result = result / pooled(F.pad(counted, (0, 0, 0, after[1] - padding[1], 0, after[0] - padding[0])))
        return result[:, :, 0] if one_d else result

    return _samples_last(apply, _SPACE[one_d])


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


def _max_pool(layer: nn.MaxPool1d | nn.MaxPool2d) -> Layer | None:
    return None if layer.return_indices else _pool(layer, -math.inf, _largest)


def _avg_pool(layer: nn.AvgPool1d | nn.AvgPool2d) -> Layer:
    return _pool(layer, 0.0, functools.partial(functools.reduce, torch.add))


def _adaptive_avg_pool(layer: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d) -> Layer:
    count = 1 if isinstance(layer, nn.AdaptiveAvgPool1d) else 2
    size: Any = layer.output_size
    outs = size if isinstance(size, tuple) else (size,) * count

    def apply(own: Own, x: Tensor) -> Tensor:
        if all(out == 1 for out in outs):
            return x.mean(tuple(range(2, count + 2)), keepdim=True)
        for axis, out in enumerate(outs, start=2):
            x = x if out is None else _adaptive_mean(x, axis, out)
        return x

    return _samples_last(apply, _SPACE[count == 1])


def _adaptive_mean(x: Tensor, axis: int, out: int) -> Tensor:
    size = x.shape[axis]
    if size % out == 0:
        return x if size == out else torch.unflatten(x, axis, (out, -1)).mean(axis + 1)
    starts = [place * size // out for place in range(out)]
    stops = [ceil_div((place + 1) * size, out) for place in range(out)]
    parts = [
        x.narrow(axis, start, stop - start).mean(axis, keepdim=True) for start, stop in zip(starts, stops, strict=True)
    ]
    return torch.cat(parts, axis)


def _upsample(layer: nn.Upsample) -> Layer | None:
    """Each number repeated: `nearest`, by a whole factor."""
    factor: Any = layer.scale_factor
    factors = factor if isinstance(factor, tuple) else (factor,) * 2
    if layer.mode != "nearest" or factor is None or any(each != int(each) for each in factors) or len(factors) != 2:
        return None

    down, right = (int(each) for each in factors)

    def apply(own: Own, x: Tensor) -> Tensor:
        members, channels, height, width, samples = x.shape
        wide = x[:, :, :, None, :, None].expand(members, channels, height, down, width, right, samples)
        return wide.reshape(members, channels, height * down, width * right, samples)

    return _samples_last(apply, _SPACE[False])


# Elementwise ----------------------------------------------------------------------------------------------------------


def _elementwise(layer: nn.Module) -> Layer:
    """An activation; written over its data where nobody else reads it, which changes no bit of the result."""
    apart, over = copy.deepcopy(layer), copy.deepcopy(layer)
    if hasattr(layer, "inplace"):
        apart.inplace, over.inplace = False, True  # type: ignore[assignment]
    in_place = _IN_PLACE.get(type(layer), over if hasattr(layer, "inplace") else apart)

    def apply(own: Own, value: Value) -> Value:
        return Value((in_place if own.overwrite else apart)(value.data), value.last)

    return apply


_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: torch.sigmoid_,
    nn.Tanh: torch.tanh_,
}


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Slopes [member, channel or 1] below zero."""
    return torch.where(x > 0, x, _per_channel(slope, x) * x)


def _prelu(layer: nn.PReLU) -> Layer:
    return _samples_last(lambda own, x: prelu(x, own.tensors["weight"]), range(2, 99))


def _rrelu(layer: nn.RReLU) -> Layer:
    """Slope drawn for each element in training, its mean in evaluation."""

    def apply(own: Own, x: Tensor) -> Tensor:
        if own.draw is None:
            return F.leaky_relu(x, (layer.lower + layer.upper) / 2)
        slope: Tensor = layer.lower + (layer.upper - layer.lower) * own.draw(tuple(x.shape[1:]))
        return torch.where(x >= 0, x, slope * x)

    return _samples_last(apply)


def dropped(x: Tensor, uniform: Tensor, p: float) -> Tensor:
    """Dropout by uniform numbers: zero with probability p, else scaled by 1 / (1 - p)."""
    kept = uniform >= p
    return x * kept / (1 - p) if p < 1 else x * 0.0


def _alpha_dropped(x: Tensor, uniform: Tensor, p: float) -> Tensor:
    """Dropout to the value that SELU saturates at, rescaled to keep mean and variance (G. Klambauer, NIPS 2017)."""
    saturation = -1.7580993408473766
    scale: float = ((1 - p) * (1 + p * saturation**2)) ** -0.5
    return scale * (torch.where(uniform >= p, x, saturation) - p * saturation)


def _dropping(drop: Callable[[Tensor, Tensor, float], Tensor], *, channels: bool = False) -> Callable[[Any], Layer]:
    """Dropout in training, of single numbers or of whole channels of a sample; nothing in evaluation."""

    def build(layer: Any) -> Layer:
        def apply(own: Own, value: Value) -> Value:
            if own.draw is None or layer.p == 0:
                return value
            x = value.samples_last() if channels else value.data
            drawn = (x.shape[1], *(1 for _ in x.shape[2:-1]), x.shape[-1]) if channels else tuple(x.shape[1:])
            return Value(drop(x, own.draw(drawn), layer.p), channels or value.last)

        return apply

    return build


#: Activations that treat each number alone, as PyTorch's modules.
ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardshrink, nn.Softshrink, nn.Threshold,
)  # fmt: skip

#: Layers whose results are memory of their own.
FRESH: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip

#: Layers that draw random numbers in training.
STOCHASTIC: tuple[type[nn.Module], ...] = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU,
)  # fmt: skip

#: Products that a BatchNorm which follows can be done along with.
NORMALISED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)

#: How to build each layer; None for options that it does not know.
LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.Upsample: _upsample,
    nn.PReLU: _prelu,
    nn.RReLU: _rrelu,
    nn.Dropout: _dropping(dropped),
    nn.AlphaDropout: _dropping(_alpha_dropped),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), _conv),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d), _group_norm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d), _max_pool),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _avg_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _adaptive_avg_pool),
    **dict.fromkeys((nn.Dropout1d, nn.Dropout2d), _dropping(dropped, channels=True)),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}
