"""Functions and methods of tensors in a network's forward, for values of many members at once.

A function here takes its part of a pass and then what the original takes. It answers `NotImplemented` for what it does
not know; the original then runs member by member.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.engine.program.attention import attend, multihead
from landscape.engine.program.layers import LAYERS, Own, embedding, layer_norm, linear, prelu
from landscape.engine.program.layout import Value, align, expand

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "RANDOM", "without_in_place"]

Function = Callable[..., Any]


def _each(function: Callable[..., Any]) -> Function:
    """A function of each number alone, broadcast as PyTorch does."""

    def apply(own: Own, *args: Any, **kwargs: Any) -> Any:
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        given = [*args, *kwargs.values()]
        places = [place for place, each in enumerate(given) if isinstance(each, Value)]
        if not places:
            result = function(*args, **kwargs)
            return Value(result[None], last=False) if isinstance(result, Tensor) else result
        if len(places) == 1:
            tensors, last = [given[places[0]].data], given[places[0]].last
        else:
            tensors, last = align([given[place] for place in places])
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        return Value(function(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True))), last)

    return apply


def _axes(value: Value, dims: Sequence[int]) -> tuple[Tensor, list[int], bool]:
    """The value's numbers where these axes can be worked on, where the axes are there, and whether samples are last."""
    resolved = [value.axis(dim) for dim in dims]
    if value.last and 0 not in resolved:
        return value.data, resolved, True
    return value.samples_first(), [dim + 1 for dim in resolved], False


def _reduce(function: Callable[..., Tensor]) -> Function:
    """A function that takes axes together: all, or those of `dim`."""

    def apply(own: Own, value: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        if not isinstance(value, Value) or not isinstance(keepdim, bool) or value.rank == 0:
            return NotImplemented
        if dim is None or dim == ():
            dims: Sequence[int] = range(value.rank)
        else:
            dims = (dim,) if isinstance(dim, int) else tuple(dim)
        x, axes, last = _axes(value, dims)
        options = {key: option for key, option in options.items() if option is not None}
        return Value(function(x, axes, keepdim=keepdim, **options), last)

    return apply


def _along(function: Callable[..., Tensor]) -> Function:
    """A function along one axis that keeps it."""

    def apply(own: Own, value: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
        if not isinstance(value, Value) or not isinstance(dim, int):
            return NotImplemented
        x, (axis,), last = _axes(value, [dim])
        return Value(function(x, axis, dtype=dtype), last)

    return apply


# Shapes ---------------------------------------------------------------------------------------------------------------


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes or axes that are given one by one, or as one sequence."""
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes


def _reshape(own: Own, value: Any, *sizes: Any, shape: Any = None) -> Any:
    sizes = _sizes(sizes) if shape is None else tuple(shape)
    if not isinstance(value, Value) or not all(isinstance(size, int) for size in sizes):
        return NotImplemented  # another type of numbers
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple(math.prod(value.shape) // known if size == -1 else size for size in sizes)
    if value.last and sizes and sizes[0] == value.shape[0]:
        return Value(value.data.reshape(len(value.data), *sizes[1:], sizes[0]), last=True)
    plain = value.samples_first()
    return Value(plain.reshape(len(plain), *sizes), last=False)


def _flatten(own: Own, value: Value, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = value.axis(start_dim), value.axis(end_dim)
    if value.rank == 0:
        return NotImplemented
    shape = value.shape
    return _reshape(own, value, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def _unflatten(own: Own, value: Value, dim: Any, sizes: Sequence[int]) -> Any:
    if not isinstance(dim, int):
        return NotImplemented
    x, (axis,), last = _axes(value, [dim])
    return Value(torch.unflatten(x, axis, tuple(sizes)), last)


def _transpose(own: Own, value: Value, dim0: int, dim1: int) -> Value:
    x, axes, last = _axes(value, [dim0, dim1])
    return Value(x.transpose(*axes), last)


def _swap(own: Own, value: Value) -> Value:
    """`t()`, `.T` and `.mT` of matrices."""
    return value if value.rank < 2 else _transpose(own, value, -2, -1)


def _permute(own: Own, value: Value, *dims: Any) -> Value:
    resolved = [value.axis(dim) for dim in _sizes(dims)]
    if value.last and resolved[0] == 0:
        return Value(value.data.permute(0, *resolved[1:], value.rank), last=True)
    return Value(value.samples_first().permute(0, *(dim + 1 for dim in resolved)), last=False)


def _unsqueeze(own: Own, value: Value, dim: int) -> Value:
    place = dim + value.rank + 1 if dim < 0 else dim
    if value.last and place > 0:
        return Value(value.data.unsqueeze(place), last=True)
    return Value(value.samples_first().unsqueeze(place + 1), last=False)


def _squeeze(own: Own, value: Value, dim: Any = None) -> Any:
    if not isinstance(dim, int):
        return NotImplemented
    x, (axis,), last = _axes(value, [dim])
    return Value(x.squeeze(axis), last)


def _expand(own: Own, value: Value, *sizes: Any) -> Value:
    sizes = _sizes(sizes)
    plain = value.samples_first()
    plain = plain.reshape(len(plain), *(1 for _ in range(len(sizes) - value.rank)), *plain.shape[1:])
    return Value(plain.expand(len(plain), *sizes), last=False)


def _getitem(own: Own, value: Any, index: Any) -> Any:
    if not isinstance(value, Value):
        return value[index]
    index = index if isinstance(index, tuple) else (index,)
    if not all(each is None or each is Ellipsis or isinstance(each, int | slice) for each in index):
        return NotImplemented
    if any(each is Ellipsis for each in index):
        place = next(place for place, each in enumerate(index) if each is Ellipsis)
        taken = sum(each is not None and each is not Ellipsis for each in index)
        index = (*index[:place], *(slice(None) for _ in range(value.rank - taken)), *index[place + 1 :])
    if value.last and index and index[0] == slice(None):
        return Value(value.data[(slice(None), *index[1:])], last=True)
    return Value(value.samples_first()[(slice(None), *index)], last=False)


def _cat(own: Own, tensors: Sequence[Any], dim: int = 0) -> Any:
    if not all(isinstance(each, Value) for each in tensors):
        return NotImplemented
    largest = max(tensors, key=lambda value: value.data.numel())
    axis = largest.axis(dim)
    if largest.last and axis != 0:
        return Value(torch.cat(expand([each.samples_last() for each in tensors]), axis), last=True)
    return Value(torch.cat(expand([each.samples_first() for each in tensors]), axis + 1), last=False)


def _stack(own: Own, tensors: Sequence[Any], dim: int = 0) -> Any:
    if not all(isinstance(each, Value) for each in tensors):
        return NotImplemented
    place = dim + tensors[0].rank + 1 if dim < 0 else dim
    return _cat(own, [_unsqueeze(own, each, place) for each in tensors], place)


def _parts(function: Callable[..., Sequence[Tensor]]) -> Function:
    """`chunk` and `split`."""

    def apply(own: Own, value: Any, how: Any, dim: int = 0) -> Any:
        if not isinstance(value, Value):
            return NotImplemented
        x, (axis,), last = _axes(value, [dim])
        return tuple(Value(part, last) for part in function(x, how, axis))

    return apply


def _unbind(own: Own, value: Value, dim: int = 0) -> Any:
    x, (axis,), last = _axes(value, [dim])
    return tuple(Value(part, last) for part in x.unbind(axis))


def _size(own: Own, value: Value, dim: int | None = None) -> Any:
    return value.shape if dim is None else value.shape[dim]


_ATTRIBUTES: dict[str, Callable[[Own, Value], Any]] = {
    "shape": lambda own, value: value.shape,
    "ndim": lambda own, value: value.rank,
    "dtype": lambda own, value: value.data.dtype,
    "device": lambda own, value: value.data.device,
    "T": lambda own, value: _swap(own, value) if value.rank <= 2 else NotImplemented,
    "mT": _swap,
}


def _getattr(own: Own, value: Any, name: str) -> Any:
    if not isinstance(value, Value):
        return getattr(value, name)
    return _ATTRIBUTES[name](own, value) if name in _ATTRIBUTES else NotImplemented


# Products -------------------------------------------------------------------------------------------------------------


def _matmul(own: Own, a: Any, b: Any) -> Any:
    if not isinstance(a, Value) or not isinstance(b, Value) or min(a.rank, b.rank) < 2:
        return NotImplemented
    if b.rank == 2:
        return linear(a, b.samples_first().mT, None)
    rank = max(a.rank, b.rank)
    both = [each.samples_first() for each in (a, b)]
    both = [x.reshape(len(x), *(1 for _ in range(rank + 1 - x.ndim)), *x.shape[1:]) for x in both]
    return Value(both[0] @ both[1], last=False)


def _linear(own: Own, x: Value, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, Value) or weight.rank != 2 or x.rank < 2:
        return NotImplemented
    tensors = expand([each.samples_first() for each in (weight, bias) if each is not None])
    return linear(x, tensors[0], tensors[1] if bias is not None else None)


def _embedding(own: Own, codes: Any, weight: Any, padding_idx: int | None = None, *others: Any, **options: Any) -> Any:
    if any(others) or any(options.values()) or not isinstance(codes, Value) or not isinstance(weight, Value):
        return NotImplemented
    return embedding(weight.samples_first(), codes, padding_idx)


def _layer_norm(
    own: Own, value: Value, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    both = [each.samples_first() if each is not None else None for each in (weight, bias)]
    return layer_norm(value, shape, both[0], both[1], eps)


# Functions that are modules too ---------------------------------------------------------------------------------------


def _twin(module: type[nn.Module], *names: str) -> Function:
    """A function whose options, in this order, are those of a module."""

    def apply(own: Own, value: Any, *args: Any, **kwargs: Any) -> Any:
        options = dict(zip(names, args, strict=False)) | kwargs
        if not isinstance(value, Value) or options.keys() - set(names):
            return NotImplemented
        layer = LAYERS[module](module(**options))
        return NotImplemented if layer is None else layer(own, value)

    return apply


def _dropout_twin(module: type[nn.Module]) -> Function:
    def apply(own: Own, value: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return value
        layer = LAYERS[module](module(p=p))
        return NotImplemented if own.draw is None or layer is None else layer(own, value)

    return apply


def _pad(own: Own, data: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if not isinstance(data, Value) or mode != "constant" or len(pad) // 2 >= data.rank:
        return NotImplemented
    around = (0, 0, *pad) if data.last else tuple(pad)
    return Value(F.pad(data.data, around, value=value or 0.0), data.last)


def _interpolate(
    own: Own, value: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **other: Any
) -> Any:
    if size is not None or mode != "nearest" or any(other.values()):
        return NotImplemented
    layer = LAYERS[nn.Upsample](nn.Upsample(scale_factor=scale_factor, mode=mode))
    return NotImplemented if layer is None else layer(own, value)


def _prelu(own: Own, value: Any, weight: Any) -> Any:
    if not isinstance(weight, Value) or not isinstance(value, Value) or value.rank < 2:
        return NotImplemented
    return Value(prelu(value.samples_last(), weight.samples_first()), last=True)


def _module(function: Function, **options: str) -> Callable[[Any], Function]:
    """A module that is a function; its attributes of these names are the function's options."""

    def build(layer: Any) -> Function:
        given = {option: getattr(layer, name) for option, name in options.items()}
        return lambda own, value: function(own, value, **given)

    return build


_NAMES_EACH = (
    "abs", "neg", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "sin", "cos",
    "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "sigmoid", "relu", "erf", "erfc", "floor", "ceil",
    "round", "trunc", "sign", "reciprocal", "clamp", "clamp_min", "clamp_max", "add", "sub", "mul", "div",
    "true_divide", "floor_divide", "pow", "maximum", "minimum", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_not", "isnan", "isinf", "isfinite", "nan_to_num", "lerp", "addcmul",
    "addcdiv", "fmod", "remainder", "atan2", "hypot", "zeros_like", "ones_like", "full_like", "where", "xlogy",
    "logit", "celu", "selu", "clone", "detach",
)  # fmt: skip

_METHODS_EACH = ("float", "double", "half", "bool", "long", "int", "to", "type", "contiguous", "type_as")

_OPERATORS_EACH = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.neg, operator.pos, operator.abs, operator.invert, operator.and_, operator.or_, operator.xor, operator.eq,
    operator.ne, operator.lt, operator.le, operator.gt, operator.ge, math.sqrt,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.sigmoid,
    F.logsigmoid, F.tanh, F.tanhshrink, F.hardtanh, F.hardswish, F.hardsigmoid, F.hardshrink, F.softshrink, F.threshold,
)  # fmt: skip

#: Functions and methods of the same name and arguments.
_BOTH: dict[str, Function] = {
    "mean": _reduce(torch.mean),
    "sum": _reduce(torch.sum),
    "amax": _reduce(torch.amax),
    "amin": _reduce(torch.amin),
    "logsumexp": _reduce(torch.logsumexp),
    "softmax": _along(torch.softmax),
    "log_softmax": _along(torch.log_softmax),
    "cumsum": _along(torch.cumsum),
    "reshape": _reshape,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "t": _swap,
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "chunk": _parts(torch.chunk),
    "split": _parts(torch.split),
    "unbind": _unbind,
    "matmul": _matmul,
    "bmm": _matmul,
}

_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

#: Functions of a forward, by themselves.
FUNCTIONS: dict[Any, Function] = {
    **{getattr(torch, name): _each(getattr(torch, name)) for name in _NAMES_EACH if hasattr(torch, name)},
    **{function: _each(function) for function in _OPERATORS_EACH},
    **{getattr(torch, name): function for name, function in _BOTH.items()},
    operator.matmul: _matmul,
    operator.getitem: _getitem,
    getattr: _getattr,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.stack: _stack,
    F.softmax: _along(torch.softmax),
    F.log_softmax: _along(torch.log_softmax),
    F.linear: _linear,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.prelu: _prelu,
    F.pad: _pad,
    F.interpolate: _interpolate,
    F.scaled_dot_product_attention: attend,
    F.dropout: _dropout_twin(nn.Dropout),
    torch.dropout: _dropout_twin(nn.Dropout),
    F.dropout1d: _dropout_twin(nn.Dropout1d),
    F.dropout2d: _dropout_twin(nn.Dropout2d),
    F.alpha_dropout: _dropout_twin(nn.AlphaDropout),
    F.max_pool1d: _twin(nn.MaxPool1d, *_MAX_POOL),
    F.max_pool2d: _twin(nn.MaxPool2d, *_MAX_POOL),
    F.avg_pool1d: _twin(nn.AvgPool1d, *_AVG_POOL[:-1]),
    F.avg_pool2d: _twin(nn.AvgPool2d, *_AVG_POOL),
    F.adaptive_avg_pool1d: _twin(nn.AdaptiveAvgPool1d, "output_size"),
    F.adaptive_avg_pool2d: _twin(nn.AdaptiveAvgPool2d, "output_size"),
}

#: Methods of tensors, by name.
METHODS: dict[str, Function] = {
    **{name: _each(getattr(Tensor, name)) for name in (*_NAMES_EACH, *_METHODS_EACH) if hasattr(Tensor, name)},
    **_BOTH,
    "view": _reshape,
    "expand": _expand,
    "size": _size,
    "dim": lambda own, value: value.rank,
    "numel": lambda own, value: math.prod(value.shape),
    "__getitem__": _getitem,
}

#: Modules that are functions of the table above, or take more than one value.
MODULES: dict[type[nn.Module], Callable[[Any], Function | None]] = {
    nn.Softmax: _module(_along(torch.softmax), dim="dim"),
    nn.LogSoftmax: _module(_along(torch.log_softmax), dim="dim"),
    nn.Flatten: _module(_flatten, start_dim="start_dim", end_dim="end_dim"),
    nn.Unflatten: _module(_unflatten, dim="dim", sizes="unflattened_size"),
    **dict.fromkeys(
        (nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d), _module(_pad, pad="padding", value="value")
    ),
    nn.MultiheadAttention: multihead,
}

#: Functions and methods that draw random numbers, by name.
RANDOM = frozenset({
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
    "rrelu", "bernoulli", "normal", "uniform", "exponential", "rand", "randn", "randint", "rand_like", "randn_like",
    "randint_like", "randperm", "multinomial", "gumbel_softmax", "normal_", "uniform_", "bernoulli_", "exponential_",
})  # fmt: skip


def without_in_place(name: str) -> str:
    """The name of a method or function that makes a new tensor instead."""
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    return name[:-1] if in_place else name
