"""What each operation does to the units of its arguments: a rule an operation of ATen, by its name.

A rule says which dimensions must be permuted alike, and how the powers of a rescaling pass. What no rule is for freezes
what it reads.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from landscape.space.units import Dim, Powers, Units, blocks, fixed, product, together

__all__ = ["RULES", "STRUCTURAL", "Call", "Value"]


@dataclasses.dataclass(eq=False)
class Value:
    """What is known of a tensor: its dimensions, of which one along which all entries are equal is None.

    Args:
        shape: Its sizes.
        dims: A `Dim` for each.
        learned: Whether it depends on parameters.
        zero: Whether it is a constant 0, which any power fits.
        shared: Whether other tensors lie in the same memory.
        spoiled: Dimensions that are to be frozen if it is read, since it is no function of classes of units.
    """

    shape: tuple[int, ...]
    dims: list[Dim | None]
    learned: bool = False
    zero: bool = False
    shared: bool = False
    spoiled: tuple[Dim, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """An operation that was performed.

    Args:
        name: Of its packet of overloads, without the underscore of those that write over an argument.
        arguments: By the names of its schema, tensors as `Value`.
        shapes: Of what it gave.
        powers: Where relations between powers go.
        apart: Whether the outermost factor of a dimension that it factors is known to be an index of parts.
        outer: Where it notes the outermost factor of a dimension that it factors.
        summed: Where it notes over which units it sums products.
        held: Where it notes how many units it holds because it goes by their places.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    powers: Powers
    apart: bool = False
    outer: list[Units] = dataclasses.field(default_factory=list)
    summed: list[Units] = dataclasses.field(default_factory=list)
    held: list[int] = dataclasses.field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.shapes[0]

    def value(self, name: str) -> Value:
        """An argument that is a tensor or a number."""
        found = self.arguments[name]
        return found if isinstance(found, Value) else Value((), [], zero=found == 0)

    def given(self, name: str) -> bool:
        """Whether an argument that can be left out is there."""
        return self.arguments.get(name) is not None

    def hold(self, dim: Dim | None) -> None:
        """Freezes a dimension to whose places the operation goes."""
        if dim is not None:
            self.held.extend(leaf.size for leaf in dim.units.leaves())
            dim.units.freeze()

    def made(self, dims: Sequence[Dim | None], shape: tuple[int, ...] | None = None) -> Value:
        """A result."""
        return Value(self.shape if shape is None else shape, list(dims))


Rule = Callable[[Call], "Value | Sequence[Value] | None"]

RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def _present(dims: Sequence[Dim | None]) -> list[Dim]:
    return [dim for dim in dims if dim is not None]


def _whole(dims: Sequence[Dim | None], shape: Sequence[int]) -> list[Dim]:
    """Dimensions along which entries are equal stay as they are."""
    return [Dim(fixed(size)) if dim is None else dim for dim, size in zip(dims, shape, strict=True)]


def _freeze(*values: Value) -> None:
    for value in values:
        for dim in _present(value.dims):
            dim.units.freeze()


#: Operations that leave alone what another dimension tells apart.
STRUCTURAL = frozenset(
    ("alias", "clone", "contiguous", "detach", "permute", "select", "squeeze", "t", "transpose", "unbind", "unsqueeze")
)

# Element by element ---------------------------------------------------------------------------------------------------


def _columns(shape: Sequence[int], values: Sequence[Value]) -> list[list[Dim | None]]:
    """For each dimension of the result those of the values, which are permuted alike; None where one is spread."""
    columns = []
    for place, size in enumerate(shape):
        here = list[Dim | None]()
        for value in values:
            own = place - len(shape) + len(value.shape)
            dim = value.dims[own] if own >= 0 else None
            if dim is not None and dim.units.size != size:
                dim.units.freeze()
                dim = None
            here.append(dim)
        for dim in (present := _present(here))[1:]:
            together(present[0].units, dim.units)
        columns.append(here)
    return columns


def _alike(call: Call, shape: Sequence[int], values: Sequence[Value]) -> list[Dim | None]:
    """Values that are added, or chosen from: each has the same powers; one that is spread over a dimension, 0."""
    counted = [value for value in values if not value.zero]
    found = list[Dim | None]()
    for here in _columns(shape, counted):
        present = _present(here)
        for dim in present[1:]:
            call.powers.equal(present[0], dim)
        if present and len(present) < len(here):
            call.powers.zero(present[0])
            present[0].units.bend()
        found.append(present[0] if present else None)
    return found


def _times(call: Call, shape: Sequence[int], values: Sequence[Value], powers: Sequence[int]) -> list[Dim | None]:
    """A product of powers of values."""
    if any(value.zero for value in values):
        return [None] * len(shape)
    found = list[Dim | None]()
    for here in _columns(shape, values):
        there = [(power, dim) for power, dim in zip(powers, here, strict=True) if dim is not None]
        if not there or (len(there) == 1 and there[0][0] == 1):
            found.append(there[0][1] if there else None)
            continue
        made = Dim(there[0][1].units)
        made.units.bend()
        call.powers.relate((1, (made,), False), *((-power, (dim,), False) for power, dim in there))
        found.append(made)
    return found


def _linear(call: Call, value: Value) -> list[Dim | None]:
    return value.dims


def _rectified(call: Call, value: Value) -> list[Dim | None]:
    """f(s x) = s f(x) for s > 0."""
    for dim in _present(value.dims):
        call.powers.zero(dim, "flip")
        dim.units.bend()
    return value.dims


def _odd(call: Call, value: Value) -> list[Dim | None]:
    """f(-x) = -f(x)."""
    for dim in _present(value.dims):
        call.powers.zero(dim, "scale")
        dim.units.bend()
    return value.dims


def _smooth(call: Call, value: Value) -> list[Dim | None]:
    """No rescaling passes."""
    for dim in _present(value.dims):
        call.powers.zero(dim)
        dim.units.bend()
    return value.dims


def _even(call: Call, value: Value, power: Fraction | None = None) -> list[Dim | None]:
    """f(-x) = f(x), and f(s x) = s^power f(x) if there is one."""
    found = list[Dim | None]()
    for dim in value.dims:
        if dim is None:
            found.append(None)
            continue
        dim.units.bend()
        made = Dim(dim.units)
        if power is None:
            call.powers.zero(dim, "scale")
            call.powers.zero(made)
        else:
            over, under = power.as_integer_ratio()
            call.powers.relate((under, (made,), False), (-over, (dim,), False), only="scale")
            call.powers.zero(made, "flip")
        found.append(made)
    return found


Unary = Callable[[Call, Value], "list[Dim | None]"]


def _unary(kind: Unary, names: str) -> None:
    for name in names.split():
        RULES[name] = lambda call: call.made(kind(call, call.value("self")))


_unary(
    _linear,
    "alias clone contiguous detach lift_fresh neg negative positive conj resolve_conj resolve_neg "
    "lift dropout feature_dropout alpha_dropout view_as_real_copy",
)
_unary(_rectified, "relu leaky_relu")
_unary(
    _odd,
    "tanh sin asin arcsin atan arctan sinh asinh arcsinh atanh arctanh tan erf erfinv sign sgn round trunc fix "
    "softshrink hardshrink",
)
_unary(_even, "cos cosh isnan isinf isfinite")
_unary(lambda call, value: _even(call, value, Fraction(1)), "abs absolute")
_unary(
    _smooth,
    "sigmoid gelu silu elu celu selu exp exp2 expm1 log log2 log10 log1p softplus log_sigmoid mish hardswish "
    "hardsigmoid erfc logit acos arccos acosh arccosh lgamma digamma floor ceil frac nan_to_num logical_not "
    "bitwise_not isposinf isneginf softmax _softmax _safe_softmax log_softmax _log_softmax threshold",
)


@_rule("_to_copy", "to")
def _converted(call: Call) -> Value:
    value, wanted = call.value("self"), call["dtype"]
    real = wanted is None or wanted.is_floating_point or wanted.is_complex
    return call.made(value.dims if real else _smooth(call, value))


@_rule("log_sigmoid_forward")
def _log_sigmoid(call: Call) -> Sequence[Value]:
    value = call.value("self")
    return [call.made(_smooth(call, value)), _spoilt(call, 1, value)]


@_rule("rrelu_with_noise")
def _rrelu(call: Call) -> Value | None:
    return None if call["training"] else call.made(_rectified(call, call.value("self")))


@_rule("hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
def _clamped(call: Call) -> Value | None:
    value = call.value("self")
    low, high = (
        next((call[name] for name in names if call.given(name)), None)
        for names in (("min", "min_val"), ("max", "max_val"))
    )
    if isinstance(low, Value) or isinstance(high, Value):
        return None
    if {low, high} == {0, None}:
        return call.made(_rectified(call, value))
    return call.made((_odd if low is not None and high is not None and low == -high else _smooth)(call, value))


@_rule("_prelu_kernel", "prelu")
def _prelu(call: Call) -> Value:
    value, slope = call.value("self"), call.value("weight")
    if slope.shape != (1,) * len(slope.shape) and len(slope.shape) == 1 and len(value.shape) > 1:
        slope = _along(slope, 1, value)
    _columns(call.shape, [value, slope])
    _smooth(call, slope)
    return call.made(_rectified(call, value))


@_rule("pow", "square", "sqrt", "rsqrt", "reciprocal")
def _powered(call: Call) -> Value | None:
    named = {"square": 2, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1}
    power = named.get(call.name, call.arguments.get("exponent"))
    if not isinstance(power, int | float) or not isinstance(call["self"], Value):
        return None
    value, exact = call["self"], Fraction(power)
    if exact == 1:
        return call.made(value.dims)
    if exact.denominator == 1 and exact % 2 == 0:
        return call.made(_even(call, value, exact))
    if exact.denominator == 1:
        return call.made(_times(call, call.shape, [value], [int(exact)]))
    for dim in _present(value.dims):
        call.powers.zero(dim, "flip")
    return call.made(_even(call, value, exact))


@_rule("add", "sub", "rsub", "subtract")
def _added(call: Call) -> Value:
    return call.made(_alike(call, call.shape, [call.value("self"), call.value("other")]))


@_rule("maximum", "minimum", "fmax", "fmin", "hypot")
def _larger(call: Call) -> Value:
    dims = _alike(call, call.shape, [call.value("self"), call.value("other")])
    return call.made(_rectified(call, Value(call.shape, dims)))


@_rule("mul", "multiply")
def _multiplied(call: Call) -> Value:
    factors = [call.value("self"), call.value("other")]
    made = call.made(_times(call, call.shape, factors, [1, 1]))
    made.zero = any(each.zero for each in factors)
    return made


@_rule("div", "divide", "true_divide")
def _divided(call: Call) -> Value:
    value = call.value("self")
    if call.arguments.get("rounding_mode") is not None:
        _smooth(call, value)
        _smooth(call, call.value("other"))
    return call.made(_times(call, call.shape, [value, call.value("other")], [1, -1]))


@_rule("addcmul")
def _added_product(call: Call) -> Value:
    dims = _times(call, call.shape, [call.value("tensor1"), call.value("tensor2")], [1, 1])
    return call.made(_alike(call, call.shape, [call.value("self"), Value(call.shape, dims)]))


@_rule("lerp")
def _between(call: Call) -> Value:
    ends = _alike(call, call.shape, [call.value("self"), call.value("end")])
    weight = call.value("weight")
    _columns(call.shape, [Value(call.shape, ends), weight])
    _smooth(call, weight)
    for dim in _present(weight.dims):
        dim.units.bend()
    return call.made(ends)


_COMPARED = "gt ge lt le eq ne greater greater_equal less less_equal"


@_rule(
    *_COMPARED.split(),
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "floor_divide",
    "remainder",
    "fmod",
    "atan2",
)
def _compared(call: Call) -> Value:
    value, other = call.value("self"), call.value("other")
    columns = _columns(call.shape, [value, other])
    if not (call.name in _COMPARED.split() and other.zero):
        _smooth(call, value)
        _smooth(call, other)
    dims = list[Dim | None]()
    for here in columns:
        present = _present(here)
        for dim in present:
            call.powers.zero(dim, "flip")
            dim.units.bend()
        made = Dim(present[0].units) if present else None
        if made is not None:
            call.powers.zero(made)
        dims.append(made)
    return call.made(dims)


@_rule("where")
def _chosen(call: Call) -> Value | None:
    if "self" not in call.arguments:
        return None
    return _masked(call, call.value("condition"), [call.value("self"), call.value("other")])


@_rule("masked_fill")
def _filled(call: Call) -> Value:
    return _masked(call, call.value("mask"), [call.value("self"), call.value("value")])


def _masked(call: Call, mask: Value, values: Sequence[Value]) -> Value:
    _smooth(call, mask)
    dims = _alike(call, call.shape, values)
    for here in _columns(call.shape, [Value(call.shape, dims), mask]):
        if here[1] is not None and here[0] is not None:
            here[1].units.bend()
    merged = [dim if dim is not None else of for dim, of in _columns(call.shape, [Value(call.shape, dims), mask])]
    return call.made(merged)


# Sums over dimensions -------------------------------------------------------------------------------------------------


def _contracted(call: Call, shape: tuple[int, ...], labels: str, *operands: tuple[Value, str]) -> Value:
    """Einstein's sum: a letter a dimension; "." is one that nothing permutes."""
    if any(value.zero for value, _ in operands):
        return Value(shape, [None] * len(shape), zero=True)
    found = dict[str, Dim | None]()
    for letter in dict.fromkeys("".join([labels, *(each for _, each in operands)])):
        here = [value.dims[each.index(letter)] for value, each in operands if letter in each]
        present = _present(here)
        if letter == ".":
            for value, each in operands:
                for dim in _present([d for d, at in zip(value.dims, each, strict=True) if at == "."]):
                    dim.units.freeze()
            continue
        for dim in present[1:]:
            together(present[0].units, dim.units)
        found[letter] = None
        if not present:
            continue
        if letter in labels and len(present) == 1:
            found[letter] = present[0]
            continue
        terms = [(1, (dim,), False) for dim in present]
        if letter in labels:
            found[letter] = Dim(present[0].units)
            terms.append((-1, (found[letter],), False))  # type: ignore[arg-type]
        else:
            call.summed.append(present[0].units)
        if letter in labels or len(present) < 2:
            present[0].units.bend()
        call.powers.relate(*terms)
    dims = [Dim(fixed(size)) if letter == "." else found[letter] for letter, size in zip(labels, shape, strict=True)]
    return Value(shape, dims)


@_rule("mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv", "addbmm")
def _multiplied_matrices(call: Call) -> Value | None:
    names = {
        "mm": ("mat2", "ab", "bc", "ac"),
        "bmm": ("mat2", "zab", "zbc", "zac"),
        "mv": ("vec", "ab", "b", "a"),
        "dot": ("tensor", "b", "b", ""),
        "vdot": ("other", "b", "b", ""),
    }
    if call.name in names:
        second, *labels = names[call.name]
        return _contracted(
            call, call.shape, labels[2], (call.value("self"), labels[0]), (call.value(second), labels[1])
        )
    added = {
        "addmm": ("mat1", "mat2", "ab", "bc", "ac"),
        "baddbmm": ("batch1", "batch2", "zab", "zbc", "zac"),
        "addmv": ("mat", "vec", "ab", "b", "a"),
    }
    if call.name not in added:
        return None
    first, second, *labels = added[call.name]
    inner = _contracted(call, call.shape, labels[2], (call.value(first), labels[0]), (call.value(second), labels[1]))
    if call["beta"] == 0:
        return inner
    return call.made(_alike(call, call.shape, [inner, call.value("self")]))


@_rule("linear")
def _affine(call: Call) -> Value:
    value, letters = call.value("input"), "bdefghij"[: len(call.shape) - 1]
    made = _contracted(call, call.shape, letters + "o", (value, letters + "c"), (call.value("weight"), "oc"))
    return call.made(_alike(call, call.shape, [made, call.value("bias")])) if call.given("bias") else made


@_rule("convolution")
def _convolved(call: Call) -> Value:
    value, weight, count = call.value("input"), call.value("weight"), call["groups"]
    places, taps, transposed = "." * (len(call.shape) - 2), "." * (len(weight.shape) - 2), call["transposed"]
    if count == 1:
        kernel = ("co" if transposed else "oc") + taps
        made = _contracted(call, call.shape, "bo" + places, (value, "bc" + places), (weight, kernel))
    else:
        read, kept = value.shape[1] // count, call.shape[1] // count
        inner = read if transposed else kept
        split = _viewed(call, value, (value.shape[0], count, read, *value.shape[2:]))
        kernels = _viewed(call, weight, (count, inner, *weight.shape[1:]))
        apart = (call.shape[0], count, kept, *call.shape[2:])
        kernel = ("zco" if transposed else "zoc") + taps
        made = _contracted(call, apart, "bzo" + places, (split, "bzc" + places), (kernels, kernel))
        made = _viewed(call, made, call.shape)
    if call.given("bias"):
        made = call.made(_alike(call, call.shape, [made, _along(call.value("bias"), 1, made)]))
    return made


def _along(value: Value, place: int, other: Value) -> Value:
    """A vector along a dimension of another value."""
    shape = (*value.shape, *(1 for _ in other.shape[place + 1 :]))
    return Value(shape, [*value.dims, *(None for _ in shape[len(value.shape) :])], value.learned, value.zero)


def _places(call: Call, value: Value, name: str = "dim") -> list[int]:
    """Numbers of the dimensions that an operation is over; all if it names none."""
    given = call.arguments.get(name)
    if given is None or given == []:
        return list(range(len(value.shape)))
    return [each % max(len(value.shape), 1) for each in ([given] if isinstance(given, int) else given)]


def _reduced(call: Call, value: Value, dims: Sequence[Dim | None], places: Sequence[int]) -> Value:
    """What is left when some dimensions are summed, or the like: these have no power."""
    for place in places:
        if place < len(value.dims) and (dim := value.dims[place]) is not None:
            call.powers.zero(dim)
            dim.units.bend()
    keep = len(call.shape) == len(value.shape)
    left = [Dim(fixed(1)) if place in places else dim for place, dim in enumerate(dims) if keep or place not in places]
    return call.made(left)


@_rule("sum", "mean", "nansum")
def _summed(call: Call) -> Value:
    value = call.value("self")
    return _reduced(call, value, value.dims, _places(call, value))


@_rule("amax", "amin", "logsumexp", "var", "std", "prod", "linalg_vector_norm", "norm", "any", "all", "max", "min")
def _aggregated(call: Call) -> Value | Sequence[Value] | None:
    value = call.value("self")
    if call.name in ("max", "min") and ("dim" in call.arguments or "other" in call.arguments):
        if "other" in call.arguments:
            return _larger(call)
        places = _places(call, value)
        indices = _spoilt(call, 1, value)
        return [_reduced(call, value, _rectified(call, value), places), indices]
    places = _places(call, value)
    others = [d for place, d in enumerate(value.dims) if place not in places]
    kept = Value((), others)
    kind = {"amax": _rectified, "amin": _rectified, "max": _rectified, "min": _rectified, "std": _even_one,
            "linalg_vector_norm": _even_one, "norm": _even_one, "var": _even_two}.get(call.name, _smooth)  # fmt: skip
    if call.name in ("linalg_vector_norm", "norm") and call.arguments.get("dtype") is not None:
        kind = _smooth
    given = iter(kind(call, kept))
    dims = [dim if place in places else next(given) for place, dim in enumerate(value.dims)]
    return _reduced(call, value, dims, places)


def _even_one(call: Call, value: Value) -> list[Dim | None]:
    return _even(call, value, Fraction(1))


def _even_two(call: Call, value: Value) -> list[Dim | None]:
    return _even(call, value, Fraction(2))


@_rule(
    "argmax",
    "argmin",
    "topk",
    "sort",
    "argsort",
    "cumsum",
    "cumprod",
    "flip",
    "roll",
    "tril",
    "triu",
    "gather",
    "index_select",
)
def _in_order(call: Call) -> Value | Sequence[Value] | None:
    """Operations to which the order along a dimension matters."""
    value = call.value("self")
    if call.name in ("tril", "triu"):
        places = [len(value.shape) - 2, len(value.shape) - 1]
    else:
        places = _places(call, value, "dims" if call.name in ("flip", "roll") else "dim")
    if call.name in ("argmax", "argmin", "topk", "sort", "argsort", "cumprod", "gather"):
        return None
    for place in places:
        call.hold(value.dims[place])
    if call.name == "index_select":
        _freeze(call.value("index"))
    dims = [Dim(fixed(call.shape[place])) if place in places else dim for place, dim in enumerate(value.dims)]
    return call.made(dims)


def _spoilt(call: Call, number: int, *sources: Value) -> Value:
    """A further result that nobody reads as a rule."""
    shape = call.shapes[number]
    spoiled = tuple(dim for value in sources for dim in _present(value.dims))
    return Value(shape, [Dim(fixed(size)) for size in shape], spoiled=spoiled)


# Layers ---------------------------------------------------------------------------------------------------------------


@_rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(call: Call) -> Value | Sequence[Value]:
    value, count = call.value("input"), len(call["normalized_shape"])
    for dim in _present(value.dims[-count:]):
        call.powers.zero(dim)
        dim.units.bend()
    dims = _odd(call, value)
    made = _scaled(call, Value(value.shape, dims), call.arguments.get("weight"), call.arguments.get("bias"))
    return [made, *(_spoilt(call, k, value) for k in range(1, len(call.shapes)))] if len(call.shapes) > 1 else made


def _scaled(call: Call, value: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        value = Value(value.shape, _times(call, value.shape, [value, weight], [1, 1]))
    return value if bias is None else Value(value.shape, _alike(call, value.shape, [value, bias]))


@_rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "cudnn_batch_norm",
)
def _batch_norm(call: Call) -> Sequence[Value]:
    """(x - mean) / sqrt(var + eps): nothing next to eps is rescaled; x and mean can be flipped together."""
    value = call.value("input")
    mean, variance = (
        _along(call.value(name), 1, value) if call.given(name) else None for name in ("running_mean", "running_var")
    )
    if mean is not None:
        value = Value(value.shape, _alike(call, value.shape, [value, mean]))
    for place, dim in enumerate(value.dims):
        if place != 1 and dim is not None:
            call.powers.zero(dim)
            dim.units.bend()
    if variance is not None:
        _columns(value.shape, [value, variance])
        _smooth(call, variance)
    affine = (_along(call[name], 1, value) if call.given(name) else None for name in ("weight", "bias"))
    made = _scaled(call, Value(value.shape, _odd(call, value)), *affine)
    return [made, *(_spoilt(call, k, value) for k in range(1, len(call.shapes)))]


@_rule("native_group_norm", "group_norm")
def _group_norm(call: Call) -> Value | Sequence[Value]:
    """Units change places within their group, and whole groups, which can be flipped too."""
    value, count = call.value("input"), call.arguments.get("group", call.arguments.get("num_groups"))
    for place, dim in enumerate(value.dims):
        if dim is None:
            continue
        if place == 1:
            _, inner = blocks(dim.units, count)
            call.powers.zero(dim, of=inner)
        elif place:
            call.powers.zero(dim)
    weight, bias = (_along(call[name], 1, value) if call.given(name) else None for name in ("weight", "bias"))
    made = _scaled(call, Value(value.shape, _odd(call, value)), weight, bias)
    return [made, *(_spoilt(call, k, value) for k in range(1, len(call.shapes)))] if len(call.shapes) > 1 else made


def _spatial(kind: Unary, count: int, names: str) -> None:
    """Operations over the last dimensions, alike for each of the others."""

    def rule(call: Call) -> Value | Sequence[Value]:
        value = call.value("self" if "self" in call.arguments else "input")
        for dim in value.dims[-count:]:
            call.hold(dim)
        dims = kind(call, Value(value.shape[:-count], value.dims[:-count]))
        made = call.made([*dims, *(Dim(fixed(size)) for size in call.shape[-count:])])
        return [made, _spoilt(call, 1, value)] if len(call.shapes) > 1 else made

    RULES.update(dict.fromkeys(names.split(), rule))


for _count in (1, 2, 3):
    _spatial(
        _rectified,
        _count,
        f"max_pool{_count}d max_pool{_count}d_with_indices adaptive_max_pool{_count}d mkldnn_max_pool{_count}d",
    )
    _spatial(
        _linear,
        _count,
        f"avg_pool{_count}d adaptive_avg_pool{_count}d _adaptive_avg_pool{_count}d mkldnn_adaptive_avg_pool{_count}d "
        f"reflection_pad{_count}d replication_pad{_count}d upsample_nearest{_count}d _upsample_nearest_exact{_count}d",
    )
_spatial(_linear, 1, "upsample_linear1d")
_spatial(_linear, 2, "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa")
_spatial(_linear, 3, "upsample_trilinear3d")


@_rule("embedding")
def _embedded(call: Call) -> Value:
    weight, indices = call.value("weight"), call.value("indices")
    _freeze(indices)
    if (first := weight.dims[0]) is not None:
        first.units.freeze()
    return call.made([*(Dim(fixed(size)) for size in indices.shape), *weight.dims[1:]])


@_rule("index")
def _indexed(call: Call) -> Value | None:
    value, indices = call.value("self"), call["indices"]
    if any(each is not None and each.shape and each.learned for each in indices):
        return None
    at = [place for place, each in enumerate(indices) if each is not None]
    if len(at) != 1 or len(indices[at[0]].shape) == 0:
        whole = len(call.shape) - (len(value.shape) - len(at))
        if at != list(range(at[0], at[0] + len(at))) or whole < 0:
            return None
        count, first = whole, at[0]
    else:
        count, first = len(indices[at[0]].shape), at[0]
    for place in at:
        _freeze(indices[place])
        if (dim := value.dims[place]) is not None:
            dim.units.freeze()
    rest = value.dims[at[-1] + 1 :]
    dims = [*value.dims[:first], *(Dim(fixed(s)) for s in call.shape[first : first + count]), *rest]
    return call.made(dims) if len(dims) == len(call.shape) else None


@_rule("_weight_norm_interface")
def _weight_norm(call: Call) -> Sequence[Value]:
    """g v / |v|, the norm over all dimensions but one."""
    v, g, kept = call.value("v"), call.value("g"), call["dim"]
    direction = list[Dim | None]()
    for place, dim in enumerate(v.dims):
        if dim is None or place != kept % len(v.dims):
            if dim is not None:
                call.powers.zero(dim)
                dim.units.bend()
            direction.append(dim)
            continue
        made = Dim(dim.units)
        call.powers.zero(made, "scale")
        call.powers.relate((1, (made,), False), (-1, (dim,), False), only="flip")
        direction.append(made)
    return [call.made(_times(call, call.shape, [Value(v.shape, direction), g], [1, 1])), _spoilt(call, 1, v, g)]


# Views ----------------------------------------------------------------------------------------------------------------


def _viewed(call: Call, value: Value, shape: tuple[int, ...], *, parts: bool = False) -> Value:
    """The same entries in another shape: dimensions are factored, or multiplied; with `parts` the outermost factor may
    be an index of parts.
    """
    if math.prod(shape) == 0:
        _freeze(value)
        return Value(shape, [Dim(fixed(size)) for size in shape])
    given, dims = list(zip(value.shape, value.dims, strict=True))[::-1], list[Dim | None]()
    wanted = list(shape)[::-1]
    while given or wanted:
        if wanted and given and wanted[-1] == given[-1][0]:
            dims.append(given.pop()[1])
            wanted.pop()
        elif given and given[-1][0] == 1:
            _, dim = given.pop()
            if dim is not None:
                dim.units.freeze()
        elif wanted and wanted[-1] == 1:
            dims.append(Dim(fixed(wanted.pop())))
        else:
            old, new = [given.pop()], [wanted.pop()]
            while (left := math.prod(size for size, _ in old)) != (right := math.prod(new)):
                if left < right:
                    old.append(given.pop())
                else:
                    new.append(wanted.pop())
            if parts and len(old) == 1 and (dim := old[0][1]) is not None and any(True for _ in dim.units.leaves()):
                if call.apart and len(new) > 1:
                    dims += _apart(call, dim, new)
                    continue
                outermost = dim.units.factor(new)[0]
                if any(True for _ in outermost.leaves()):
                    call.outer.append(outermost)
            before = _whole([dim for _, dim in old], [size for size, _ in old])
            after = [Dim(units) for units in product([dim.units for dim in before]).factor(new)]
            call.powers.relate((1, tuple(after), False), (-1, tuple(before), False))
            dims += after
    return Value(shape, dims)


def _apart(call: Call, dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """A dimension factored, the outermost factor being an index of parts that have nothing to do with one another."""
    count, *inner = sizes
    index, rows = Dim(fixed(count)), list[list[Dim]]()
    for part in _present(_parts(call, dim, [dim.units.size // count] * count)):
        factors = [Dim(units) for units in part.units.factor(inner)]
        call.powers.relate((1, tuple(factors), False), (-1, (part,), False))
        rows.append(factors)
    return [index, *(Dim(each[0].units, tuple(each), index) for each in zip(*rows, strict=True))]


def _joined_at(call: Call, value: Value, place: int) -> Dim | None:
    """A dimension, for what does not leave it alone."""
    dim = value.dims[place]
    if dim is not None and dim.parts:
        dim = value.dims[place] = dim.joined(call.powers)
    return dim


def _selected(dims: Sequence[Dim | None], place: int, number: int) -> list[Dim | None]:
    """Without an index of parts: those of the part with a number."""
    index = dims[place]
    rest = [*dims[:place], *dims[place + 1 :]]
    return [dim.parts[number] if dim is not None and dim.parts and dim.over is index else dim for dim in rest]


@_rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")
def _reshaped(call: Call) -> Value | None:
    if "dtype" in call.arguments:
        return None
    return _viewed(call, call.value("self"), call.shape, parts=True)


@_rule("unsqueeze", "squeeze", "squeeze_copy", "unsqueeze_copy")
def _squeezed(call: Call) -> Value:
    value = call.value("self")
    if call.name.startswith("un"):
        place = call["dim"] % len(call.shape)
        return call.made([*value.dims[:place], Dim(fixed(1)), *value.dims[place:]])
    gone = [place for place in _places(call, value) if value.shape and value.shape[place] == 1]
    _freeze(Value((), [_joined_at(call, value, place) for place in gone]))
    return call.made([dim for place, dim in enumerate(value.dims) if place not in gone])


@_rule("permute", "transpose", "t", "numpy_T", "movedim")
def _transposed(call: Call) -> Value | None:
    value, order = call.value("self"), list(range(len(call.shape)))
    if call.name == "permute":
        order = [each % len(order) for each in call["dims"]]
    elif call.name == "transpose":
        one, other = call["dim0"], call["dim1"]
        if order:
            order[one], order[other] = order[other], order[one]
    elif call.name == "t":
        order = order[::-1]
    else:
        return None
    return call.made([value.dims[place] for place in order])


@_rule("expand", "broadcast_to", "expand_copy")
def _expanded(call: Call) -> Value:
    value = call.value("self")
    return call.made([here[0] for here in _columns(call.shape, [value])])


@_rule("copy")
def _copied(call: Call) -> Value:
    """What is written over another tensor."""
    source = call.value("src")
    made = call.made([here[0] for here in _columns(call.shape, [source])])
    made.zero = source.zero
    return made


@_rule("fill", "zero")
def _made_constant(call: Call) -> Value | None:
    value = call.arguments.get("value", 0)
    if isinstance(value, Value):
        return None
    made = call.made([None] * len(call.shape))
    made.zero = value == 0
    return made


@_rule("repeat")
def _repeated(call: Call) -> Value:
    value = call.value("self")
    dims = [None] * (len(call.shape) - len(value.dims)) + value.dims
    found = list[Dim | None]()
    for dim, size in zip(dims, call.shape, strict=True):
        if dim is None or dim.units.size == size:
            found.append(dim)
            continue
        made = Dim(product([fixed(size // dim.units.size), dim.units]))
        call.powers.relate((1, (made,), False), (-1, (Dim(fixed(size // dim.units.size)), dim), False))
        found.append(made)
    return call.made(found)


def _parts(call: Call, dim: Dim | None, sizes: Sequence[int]) -> list[Dim | None]:
    """A dimension in parts side by side."""
    if dim is None or len(sizes) == 1:
        return [dim] * len(sizes)
    there = [size for size in sizes if size]
    found = [Dim(units) for units in dim.units.split(there)]
    call.powers.relate((1, (dim,), False), (-1, tuple(found), True))
    given = iter(found)
    return [next(given) if size else Dim(fixed(0)) for size in sizes]


@_rule("slice", "narrow", "select")
def _cut(call: Call) -> Value:
    value = call.value("self")
    place = call["dim"] % len(value.shape)
    length, dim = value.shape[place], _joined_at(call, value, place)
    if call.name == "select":
        start, size, step = call["index"] % length, 1, 1
    else:
        start = call["start"] or 0
        start, size, step = (
            max(start + length, 0) if start < 0 else start,
            call.shape[place],
            call.arguments.get("step", 1),
        )
    if dim is not None and step != 1:
        dim.units.freeze()
    part = Dim(fixed(size))
    if dim is None:
        cut: Dim | None = None
    elif size == length:
        cut = dim
    elif any(True for _ in dim.units.leaves()) and size:
        cut = _parts(call, dim, [start, size, length - start - size])[1]
    else:
        cut = part
    if call.name != "select":
        return call.made([*value.dims[:place], cut, *value.dims[place + 1 :]])
    if cut is not None:
        cut.units.freeze()
    return call.made(_selected(value.dims, place, start))


@_rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "tensor_split")
def _split(call: Call) -> Sequence[Value]:
    value = call.value("self")
    place = call["dim"] % len(value.shape)
    parts = _parts(call, value.dims[place], [shape[place] for shape in call.shapes])
    rest = (value.dims[:place], value.dims[place + 1 :])
    return [Value(shape, [*rest[0], part, *rest[1]]) for shape, part in zip(call.shapes, parts, strict=True)]


@_rule("glu")
def _gated(call: Call) -> Value:
    value = call.value("self")
    place = call["dim"] % len(value.shape)
    halves = _parts(call, value.dims[place], [value.shape[place] // 2] * 2)
    first, second = (Value(call.shape, [*value.dims[:place], half, *value.dims[place + 1 :]]) for half in halves)
    _smooth(call, second)
    return call.made(_times(call, call.shape, [first, second], [1, 1]))


@_rule("unbind")
def _unbound(call: Call) -> Sequence[Value]:
    value = call.value("self")
    place = call["dim"] % len(value.shape)
    if (dim := _joined_at(call, value, place)) is not None:
        dim.units.freeze()
    return [Value(shape, _selected(value.dims, place, number)) for number, shape in enumerate(call.shapes)]


@_rule("cat", "concat", "concatenate", "stack")
def _joined(call: Call) -> Value:
    values = [each for each in call["tensors"] if each.shape != (0,)]
    place = call.arguments.get("dim", 0) % len(call.shape)
    if call.name == "stack":
        index = Dim(fixed(call.shape[place]))
        columns = list(zip(*(value.dims for value in values), strict=True))
        if any(value.zero for value in values) or any(dim is None or dim.parts for each in columns for dim in each):
            dims = _alike(call, values[0].shape, values)
        else:
            dims = [_stacked(each, index) for each in columns]
        return call.made([*dims[:place], index, *dims[place:]])
    found = list[Dim | None]()
    for number in range(len(call.shape)):
        shape = (call.shape[number],)
        if number != place:
            found += _alike(call, shape, [Value(shape, [value.dims[number]], zero=value.zero) for value in values])
            continue
        parts = [_part(call, value.dims[number], value.shape[number], zero=value.zero) for value in values]
        found.append(_side(call, [part for part in parts if part.units.size]))
    return call.made(found)


def _stacked(dims: Sequence[Dim], index: Dim) -> Dim:
    """A dimension of stacked tensors, of each of which it is a part until something reads them together."""
    return dims[0] if all(dim is dims[0] for dim in dims) else Dim(dims[0].units, tuple(dims), index)


def _part(call: Call, dim: Dim | None, size: int, *, zero: bool) -> Dim:
    """A part of a dimension; equal entries are units in any order, and 0 has any power."""
    if dim is None:
        dim = Dim(Units(size))
        if not zero:
            call.powers.zero(dim)
    return dim


def _side(call: Call, parts: Sequence[Dim]) -> Dim:
    if len(parts) == 1:
        return parts[0]
    if not any(True for part in parts for _ in part.units.leaves()):
        return Dim(fixed(sum(part.units.size for part in parts)))
    made = Dim(Units(sum(part.units.size for part in parts), "sum", [part.units for part in parts]))
    call.powers.relate((1, (made,), False), (-1, tuple(parts), True))
    return made


@_rule("constant_pad_nd", "pad")
def _padded(call: Call) -> Value | None:
    value, pad, zero = call.value("self"), call["pad"], call.arguments.get("value") in (0, None)
    if call.name == "pad" and call.arguments.get("mode", "constant") != "constant":
        return None
    found = list[Dim | None]()
    for place, dim in enumerate(value.dims):
        number = 2 * (len(value.dims) - 1 - place)
        before, after = pad[number : number + 2] if number < len(pad) else (0, 0)
        if dim is None or (before, after) == (0, 0):
            if dim is not None and not zero and any(pad):
                call.powers.zero(dim)
                dim.units.bend()
            found.append(dim if not (before or after) else Dim(fixed(call.shape[place])))
            continue
        if before < 0 or after < 0:
            dim.units.freeze()
            found.append(Dim(fixed(call.shape[place])))
            continue
        around = [_part(call, None, size, zero=zero) if size else None for size in (before, after)]
        found.append(_side(call, _present([around[0], dim, around[1]])))
    return call.made(found)


@_rule("pixel_shuffle")
def _shuffled(call: Call) -> Value:
    value, factor = call.value("self"), call["upscale_factor"] ** 2
    *batch, channels, _, _ = value.shape
    apart = _viewed(call, value, (*batch, channels // factor, factor, *value.shape[-2:]))
    for dim in _present(apart.dims[-3:]):
        dim.units.freeze()
    return call.made([*apart.dims[:-3], Dim(fixed(call.shape[-2])), Dim(fixed(call.shape[-1]))])
