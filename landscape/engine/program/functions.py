"""Functions and methods of tensors in a network's forward, for tensors of many members at once, samples last.

A function here takes its part of a pass and then what the original takes. It answers `NotImplemented` for what it does
not know; the original then runs member by member.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.engine.program.layers import LAYERS, Own
from landscape.engine.program.layout import align, expand, samples_first, samples_last, shape_of

__all__ = ["FUNCTIONS", "MAX_POOL", "METHODS", "MODULES", "RANDOM"]

Function = Callable[..., Any]


def _each(function: Callable[..., Any]) -> Function:
    """A function of each number alone, broadcast as PyTorch does."""

    def apply(own: Own, *args: Any, **kwargs: Any) -> Any:
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        given = [*args, *kwargs.values()]
        places = [place for place, each in enumerate(given) if isinstance(each, Tensor)]
        if len(places) > 1:
            for place, tensor in zip(places, align([given[place] for place in places]), strict=True):
                given[place] = tensor
        return function(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))

    return apply


def _axis(x: Tensor, dim: int) -> int:
    """Where PyTorch's axis is, which may count from the end: its first is the last."""
    dim = dim + x.ndim - 1 if dim < 0 else dim
    return dim if dim else x.ndim - 1


def _reduce(function: Callable[..., Tensor]) -> Function:
    """A function that takes axes together: all, or those of `dim`."""

    def apply(own: Own, x: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim < 2:
            return NotImplemented
        dims = (dim,) if isinstance(dim, int) else dim or range(x.ndim - 1)
        result = function(x, [_axis(x, each) for each in dims], keepdim=True, **options)
        if keepdim:
            return result
        taken = tuple(each % (x.ndim - 1) + 1 for each in dims)
        return samples_last(samples_first(result).squeeze(taken))

    return apply


def _along(function: Callable[..., Tensor]) -> Function:
    """A function along one axis that keeps it."""

    def apply(own: Own, x: Tensor, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
        return function(x, _axis(x, dim), dtype=dtype) if isinstance(dim, int) and x.ndim > 1 else NotImplemented

    return apply


# Shapes ---------------------------------------------------------------------------------------------------------------


def _reshape(own: Own, x: Tensor, *sizes: Any) -> Any:
    sizes = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return NotImplemented  # another type of numbers
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple(math.prod(x.shape[1:]) // known if size == -1 else size for size in sizes)
    if x.ndim > 1 and sizes[0] == x.shape[-1]:
        return x.reshape(len(x), *sizes[1:], sizes[0])
    return samples_last(samples_first(x).reshape(len(x), *sizes))


def _flatten(own: Own, x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    shape = shape_of(x)
    start, end = (dim % max(len(shape), 1) for dim in (start_dim, end_dim))
    return _reshape(own, x, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def _cat(own: Own, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return torch.cat(expand(tensors), _axis(tensors[0], dim))


def _pad(own: Own, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode != "constant" or len(pad) // 2 >= x.ndim - 1:
        return NotImplemented
    return F.pad(x, (0, 0, *pad), value=value or 0.0)


def _getitem(own: Own, x: Any, index: Any) -> Any:
    if not isinstance(x, Tensor):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(each, int | slice) for each in index):
        return NotImplemented
    return samples_last(samples_first(x)[(slice(None), *index)])


def _size(own: Own, x: Tensor, dim: int | None = None) -> Any:
    return shape_of(x) if dim is None else shape_of(x)[dim]


def _getattr(own: Own, x: Any, name: str) -> Any:
    if not isinstance(x, Tensor) or name in ("dtype", "device"):
        return getattr(x, name)
    return shape_of(x) if name == "shape" else x.ndim - 1 if name == "ndim" else NotImplemented


# Functions that are modules too ---------------------------------------------------------------------------------------


def _twin(module: type[nn.Module], *names: str) -> Function:
    """A function whose options, in this order, are those of a module."""

    def apply(own: Own, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = LAYERS[module](module(**dict(zip(names, args, strict=False)), **kwargs))
        return NotImplemented if layer is None else layer(own, x)

    return apply


def _dropout_twin(module: type[nn.Module]) -> Function:
    def apply(own: Own, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return x
        layer = LAYERS[module](module(p=p))
        return NotImplemented if own.draw is None or layer is None else layer(own, x)

    return apply


_NAMES_EACH = (
    "abs", "neg", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "sin", "cos", "tanh", "atan", "sigmoid",
    "relu", "erf", "sign", "reciprocal", "clamp", "add", "sub", "mul", "div", "pow", "maximum", "minimum",
    "masked_fill", "where", "zeros_like", "ones_like", "clone", "detach",
)  # fmt: skip

_METHODS_EACH = ("float", "double", "to", "contiguous")

_OPERATORS_EACH = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.neg, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.sigmoid,
    F.logsigmoid, F.tanh, F.tanhshrink, F.hardtanh, F.hardswish, F.hardsigmoid, F.hardshrink, F.softshrink, F.threshold,
)  # fmt: skip

#: Functions and methods of the same name and arguments.
_BOTH: dict[str, Function] = {
    "mean": _reduce(torch.mean),
    "sum": _reduce(torch.sum),
    "amax": _reduce(torch.amax),
    "amin": _reduce(torch.amin),
    "softmax": _along(torch.softmax),
    "log_softmax": _along(torch.log_softmax),
    "reshape": _reshape,
    "flatten": _flatten,
}

#: Options of pooling functions, in their order.
MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

#: Functions of a forward, by themselves.
FUNCTIONS: dict[Any, Function] = {
    **{getattr(torch, name): _each(getattr(torch, name)) for name in _NAMES_EACH},
    **{function: _each(function) for function in _OPERATORS_EACH},
    **{getattr(torch, name): function for name, function in _BOTH.items()},
    operator.getitem: _getitem,
    getattr: _getattr,
    torch.cat: _cat,
    F.softmax: _along(torch.softmax),
    F.log_softmax: _along(torch.log_softmax),
    F.pad: _pad,
    F.dropout: _dropout_twin(nn.Dropout),
    F.dropout2d: _dropout_twin(nn.Dropout2d),
    F.max_pool2d: _twin(nn.MaxPool2d, *MAX_POOL),
    F.avg_pool2d: _twin(nn.AvgPool2d, *_AVG_POOL),
    F.adaptive_avg_pool2d: _twin(nn.AdaptiveAvgPool2d, "output_size"),
}

#: Methods of tensors, by name.
METHODS: dict[str, Function] = {
    **{name: _each(getattr(Tensor, name)) for name in (*_NAMES_EACH, *_METHODS_EACH) if hasattr(Tensor, name)},
    **_BOTH,
    "view": _reshape,
    "size": _size,
    "dim": lambda own, x: x.ndim - 1,
    "numel": lambda own, x: math.prod(x.shape[1:]),
}

#: Modules that are functions of the table above.
MODULES: dict[type[nn.Module], Callable[[Any], Function | None]] = {
    nn.Softmax: lambda layer: functools.partial(_along(torch.softmax), dim=layer.dim),
    nn.LogSoftmax: lambda layer: functools.partial(_along(torch.log_softmax), dim=layer.dim),
    nn.Flatten: lambda layer: functools.partial(_flatten, start_dim=layer.start_dim, end_dim=layer.end_dim),
    **dict.fromkeys(
        (nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d),
        lambda layer: functools.partial(_pad, pad=layer.padding, value=layer.value),
    ),
}

#: Functions and methods that draw random numbers, by name.
RANDOM = frozenset({
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
    "rrelu", "bernoulli", "normal", "rand_like", "randn_like", "randint_like", "multinomial", "gumbel_softmax",
})  # fmt: skip
