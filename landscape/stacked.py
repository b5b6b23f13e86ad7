"""A module as a function of a stack: many networks of one architecture evaluated at once.

Data is laid out [member, feature, *space, sample]: a layer is then one batched matrix product over a contiguous axis of
positions and samples, and neighbours in space are long runs in memory. The leading axis is 1 where all members read the
same data, and a first layer that reads it is a single product for all members together.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from landscape.errors import Mismatch, Unsupported
from landscape.params import Stack, require_same_shapes, template_of

__all__ = ["Backend", "Noise", "Stacked", "Table", "features_first", "fold", "leaves", "look_up", "product", "windows"]

Backend = Literal["stacked", "vmap", "loop"]


@runtime_checkable
class Noise(Protocol):
    """Source of a training pass's randomness: uniform numbers in [0, 1), [member, *shape], a stream a layer."""

    def __call__(self, layer: int, shape: tuple[int, ...]) -> Tensor: ...  # noqa: D102


#: One layer: (its tensors by short name, data, noise or None in evaluation) -> data.
Layer = Callable[[Mapping[str, Tensor], Tensor, Callable[[tuple[int, ...]], Tensor] | None], Tensor]


def features_first(
    samples: Shaped[Tensor, "sample *feature"],
) -> Shaped[Tensor, "1 *feature sample"]:
    """A data set in PyTorch's layout as shared data of a stack."""
    return samples.movedim(0, -1)[None].contiguous()


class Statistics:
    """Placeholder."""

    def __init__(self, real: Tensor | None = None) -> None:
        self.real = real
        self.found: dict[str, Tensor] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """All that the first `layers` layers of a network can see around a place: few things, so that they are evaluated
    once for each instead of at every place.

    `rows` are these things, [1, feature, *window, row], of the size that the layers without their padding reduce to a
    single place. Data can then be given as numbers of rows, [members, 1, *space, sample] of integers: what is seen
    around each place.
    """

    rows: Float[Tensor, "1 feature *window row"]
    layers: int

    def decode(self, codes: Int[Tensor, "members 1 *space sample"]) -> Float[Tensor, "members feature *space sample"]:
        """The plain data: in the middle of what is seen around a place is the place itself."""
        middle = self.rows[0].flatten(1, -2)[:, math.prod(self.rows.shape[2:-1]) // 2]
        return middle.to(codes.device)[:, codes[:, 0].long()].movedim(0, 1)


class Stacked:
    """A module as a function of a stack; the module itself is copied and never changed.

    Backends: `stacked` knows sequences of Conv2d, Linear, padding, Flatten, dropout and elementwise activations;
    `vmap` serves most modules whose forward takes one tensor, `loop` all; they are the referees of the first. Raises
    `Unsupported` if `stacked` is asked for by name and the module holds a layer that it does not know.
    """

    def __init__(self, module: nn.Module, *, backend: Backend | None = None, table: Table | None = None) -> None:
        self.table = table
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.template = template_of(self.module)
        self._layers: list[tuple[str, nn.Module, Layer]] = []
        unknown = None
        for name, layer in leaves(self.module):
            build = _LAYERS.get(type(layer))
            applied = build(layer) if build else None
            if applied is None:
                unknown = unknown or f"{name or 'module'} ({type(layer).__name__})"
            else:
                self._layers.append((name, layer, applied))
        if unknown and backend == "stacked":
            raise Unsupported(f"the stacked backend does not know layer {unknown}: use backend vmap or loop")
        self.normalises: dict[str, float | None] = {}
        self.backend: Backend = backend or ("vmap" if unknown else "stacked")

    def __call__(
        self,
        stack: Stack,
        inputs: Shaped[Tensor, "members feature *space sample"],
        noise: Noise | None = None,
        statistics: Statistics | None = None,
    ) -> Float[Tensor, "member out *outspace sample"]:
        """Outputs of all members; `inputs` has one leading entry for all members or one for each.

        Integers are rows of the network's `table`.

        With `noise` the layers behave as in training (dropout drops, RReLU draws its slopes), else as in evaluation.
        """
        if self.backend != "stacked":
            if noise is not None and self.stochastic:
                raise Unsupported(f"backend {self.backend} cannot draw random numbers for training: use stacked")
            return self._by_module(stack, self.plain_data(inputs, stack.dtype))
        outputs = inputs
        for _, result in self.trace(stack, inputs, noise):
            outputs = result
        return outputs.expand(len(stack), *outputs.shape[1:])

    def plain_data(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """The data as the plain module reads it."""
        if inputs.is_floating_point():
            return inputs
        if self.table is None:
            raise Mismatch("a network without a table reads no whole numbers: convert them to floats first")
        return self.table.decode(inputs).to(dtype)

    @property
    def stochastic(self) -> bool:
        """Whether a layer draws random numbers in training."""
        return any(isinstance(layer, nn.Dropout | nn.Dropout2d | nn.RReLU) for layer in self.module.modules())

    def trace(self, stack: Stack, inputs: Tensor, noise: Noise | None = None) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and outputs in turn (backend `stacked` only).

        What a table is looked up for has no noise: equal rows would share it.
        """
        looked_up = self.table if not inputs.is_floating_point() and noise is None else None
        x = looked_up.rows.to(inputs.device, stack.dtype) if looked_up else self.plain_data(inputs, stack.dtype)
        for number, (name, module, layer) in enumerate(self._layers):
            if looked_up and number < looked_up.layers and isinstance(module, nn.ConstantPad2d):
                continue
            prefix = f"{name}." if name else ""
            tensors = {key: stack[prefix + key] for key in ("weight", "bias") if prefix + key in stack.tensors}
            draw = None if noise is None else _layer_noise(noise, number)
            x = layer(tensors, x, draw)
            if looked_up and number == looked_up.layers - 1:
                x = look_up(x, inputs)
            yield name, x

    def widest(self, inputs: Tensor) -> int:
        """Numbers per sample in the widest activation of one member, what a convolution reads included, which decides
        how many members fit a cache.
        """
        few = self.plain_data(inputs[:1, ..., :1], torch.float32)
        if self.backend != "stacked":
            return max(few.numel(), 1)
        stack = self.template.to(few.device, few.dtype)
        widths = [few.numel()]
        for name, x in self.trace(stack, few):
            weight = stack.tensors.get(f"{name}.weight" if name else "weight")
            read = weight[0, 0].numel() * x[0, 0].numel() if weight is not None and len(widths) > 2 else 0
            widths += [x.numel(), read]
        return max(widths)

    def check(self, stack: Stack, *, name: str = "the checkpoint") -> None:
        """Raise `Mismatch`, listing the tensors that differ, unless the stack is of this architecture."""
        require_same_shapes(stack, self.template, names=(name, "the problem's network"))

    def _by_module(self, stack: Stack, inputs: Tensor) -> Tensor:
        """The module's own forward for each member: by `vmap`, or one by one."""

        def forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = torch.func.functional_call(self.module, params, (x.movedim(-1, 0),))
            return outputs.movedim(0, -1)

        if self.backend == "vmap":
            shared = inputs.shape[0] == 1
            batched = torch.func.vmap(forward, in_dims=(0, None if shared else 0), randomness="different")
            try:
                results: Tensor = batched(dict(stack.tensors), inputs[0] if shared else inputs)
            except RuntimeError as error:
                raise Unsupported(f"torch.func.vmap cannot run this module ({error}): use backend loop") from error
            return results
        data = inputs.expand(len(stack), *inputs.shape[1:])
        return torch.stack([forward(stack.state_dict(i), data[i]) for i in range(len(stack))])


def leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`s in order, with their names in the state dict."""
    if type(module).forward is nn.Sequential.forward:
        # Not `named_children`, which tells a layer that is used twice only once.
        for name, child in module._modules.items():
            assert child is not None
            yield from leaves(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, module


def _layer_noise(noise: Noise, number: int) -> Callable[[tuple[int, ...]], Tensor]:
    return lambda shape: noise(number, shape)


def product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Batched `weight @ x + bias`: [member, out, in] with [1 or member, in, position]."""
    member, out, _ = weight.shape
    if x.shape[0] == 1:
        shared = x[0]
        if bias is not None:  # as one more input that is always 1: spares a pass over the result
            weight = torch.cat([weight, bias[..., None]], dim=2)
            shared = torch.cat([shared, shared.new_ones(1, shared.shape[1])])
        return (weight.flatten(0, 1) @ shared).view(member, out, -1)
    return weight @ x if bias is None else torch.baddbmm(bias[..., None], weight, x)


def _linear(layer: nn.Linear) -> Layer | None:
    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        if x.ndim != 3:
            raise Mismatch(f"a linear layer reads [member, feature, sample], got {x.ndim} axes: flatten first")
        return product(tensors["weight"], tensors.get("bias"), x)

    return apply


#: Kernel, stride, dilation and padding of a convolution that reads each place alone.
_POINTWISE = ((1, 1), (1, 1), (1, 1), (0, 0))


def windows(
    layer: nn.Conv2d, x: Float[Tensor, "members channel height width sample"]
) -> Float[Tensor, "members in out_height out_width sample"]:
    """What each place of a convolution's output reads: its channels, and the places of its kernel, as one axis."""
    where = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    if where == _POINTWISE:
        return x
    read: Tensor = _Unfold.apply(x, *where) if x.requires_grad else _unfold(x, *where)  # type: ignore[no-untyped-call]
    return read


def fold(
    layer: nn.Conv2d, pull: Float[Tensor, "members in out_height out_width sample"], shape: torch.Size
) -> Float[Tensor, "members channel height width sample"]:
    """The adjoint of `windows`: adds each number to the place that it was read from, in data of this `shape`."""
    where = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    return pull if where == _POINTWISE else _fold(pull, shape, *where)


def _unfold(x: Tensor, kernel: Any, stride: Any, dilation: Any, padding: Any) -> Tensor:
    x = (F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])) if any(padding) else x).contiguous()
    members, channels, height, width, samples = x.shape
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip((height, width), dilation, kernel, stride, strict=True)
    ]
    rows, columns = width * samples, samples  # numbers from one row, and one column, to the next
    steps = (height * rows, dilation[0] * rows, dilation[1] * columns, stride[0] * rows, stride[1] * columns)
    read = x.as_strided(
        (members, channels, *kernel, *out, samples), (channels * steps[0], *steps, 1), x.storage_offset()
    )
    return read.reshape(members, -1, *out, samples)


def _fold(pull: Tensor, shape: Any, kernel: Any, stride: Any, dilation: Any, padding: Any) -> Tensor:
    members, channels, height, width, samples = shape
    out = pull.shape[2:4]
    pull = pull.reshape(members, channels, *kernel, *out, samples)
    # Along columns for all rows of the kernel at once, then along rows.
    wide = pull.new_zeros(members, channels, kernel[0], out[0], width + 2 * padding[1], samples)
    for j in range(kernel[1]):
        wide[:, :, :, :, _reach(j, out[1], stride[1], dilation[1])] += pull[:, :, :, j]
    result = pull.new_zeros(members, channels, height + 2 * padding[0], width + 2 * padding[1], samples)
    for i in range(kernel[0]):
        result[:, :, _reach(i, out[0], stride[0], dilation[0])] += wide[:, :, i]
    return result[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def _reach(place: int, out: int, stride: int, dilation: int) -> slice:
    """What one place of the kernel reads along an axis, for each place of the output."""
    first = place * dilation
    return slice(first, first + (out - 1) * stride + 1, stride)


class _Unfold(torch.autograd.Function):
    """`_unfold` for autograd, which would add nine mostly empty tensors of the data's size on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *where: Any) -> Tensor:
        ctx.where, ctx.shape = where, x.shape
        return _unfold(x, *where)

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        folded = _Fold.apply(pulls[0], ctx.shape, *ctx.where)  # type: ignore[no-untyped-call]
        return folded, None, None, None, None


class _Fold(torch.autograd.Function):
    """The adjoint of `_Unfold`, whose own adjoint that is: so derivatives of any order exist."""

    @staticmethod
    def forward(ctx: Any, pull: Tensor, shape: Any, *where: Any) -> Tensor:
        ctx.where = where
        return _fold(pull, shape, *where)

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        return _Unfold.apply(pulls[0], *ctx.where), None, None, None, None, None  # type: ignore[no-untyped-call]


def look_up(
    x: Float[Tensor, "member feature *one row"], codes: Int[Tensor, "members 1 *space sample"]
) -> Float[Tensor, "member feature *space sample"]:
    """At each place what a table's row has become."""
    rows = x.flatten(2)
    if len(codes) == 1:
        return rows.index_select(2, codes.flatten().int()).view(*rows.shape[:2], *codes.shape[2:])
    places = codes.flatten(2).long().expand(-1, rows.shape[1], -1)
    return rows.gather(2, places).view(*rows.shape[:2], *codes.shape[2:])


def _conv2d(layer: nn.Conv2d) -> Layer | None:
    """Convolution as unfolding and one batched product."""
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        read = windows(layer, x)
        result = product(tensors["weight"].flatten(2), tensors.get("bias"), read.flatten(2))
        return result.view(*result.shape[:2], *read.shape[2:])

    return apply


def _elementwise(layer: nn.Module) -> Layer | None:
    layer = copy.deepcopy(layer)
    if getattr(layer, "inplace", False):
        layer.inplace = False  # type: ignore[assignment]  # the data may be shared by all members

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        result: Tensor = layer(x)
        return result

    return apply


def _rrelu(layer: nn.RReLU) -> Layer | None:
    """Slope drawn for each element in training, its mean in evaluation."""

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        if noise is None:
            return F.leaky_relu(x, (layer.lower + layer.upper) / 2)
        slope: Tensor = layer.lower + (layer.upper - layer.lower) * noise(tuple(x.shape[1:]))
        return torch.where(x >= 0, x, slope * x)

    return apply


def _dropout(layer: nn.Dropout | nn.Dropout2d) -> Layer | None:
    """Identity in evaluation; in training zero with probability p, else scaled by 1 / (1 - p).

    `Dropout2d` drops whole channels of a sample.
    """
    whole = isinstance(layer, nn.Dropout2d)

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        if noise is None or layer.p == 0:
            return x
        shape = (x.shape[1], *(1 for _ in x.shape[2:-1]), x.shape[-1]) if whole else tuple(x.shape[1:])
        kept: Tensor = noise(shape) >= layer.p
        return x * kept / (1 - layer.p)

    return apply


def _flatten(layer: nn.Flatten) -> Layer | None:
    """[member, channel, *space, sample] -> [member, feature, sample], features in PyTorch's order."""
    if (layer.start_dim, layer.end_dim) != (1, -1):
        return None
    return lambda tensors, x, noise: x.flatten(1, -2)


def _pad(layer: nn.ConstantPad2d) -> Layer | None:
    return lambda tensors, x, noise: F.pad(x, (0, 0, *layer.padding), value=layer.value)


_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, nn.Tanh,
)  # fmt: skip

_LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.ConstantPad2d: _pad,
    nn.ZeroPad2d: _pad,
    nn.RReLU: _rrelu,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    nn.Flatten: _flatten,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}
