"""A module as a function of a stack: many networks of one architecture evaluated at once.

Data is laid out features-first, [member, feature, sample, *space]: a layer is then one batched matrix product over a
contiguous axis of samples and positions. The leading axis is 1 where all members read the same data, and a first layer
that reads it is a single product for all members together.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landscape.errors import Mismatch, Unsupported
from landscape.params import Stack, require_same_shapes

__all__ = ["Backend", "Noise", "Stacked", "features_first", "leaves", "windows"]

Backend = Literal["stacked", "vmap", "loop"]


@runtime_checkable
class Noise(Protocol):
    """Source of a training pass's randomness: uniform numbers in [0, 1), [member, *shape], a stream a layer."""

    def __call__(self, layer: int, shape: tuple[int, ...]) -> Tensor: ...  # noqa: D102


#: One layer: (its tensors by short name, data, noise or None in evaluation) -> data.
Layer = Callable[[Mapping[str, Tensor], Tensor, Callable[[tuple[int, ...]], Tensor] | None], Tensor]


def features_first(
    samples: Float[Tensor, "sample feature *space"],
) -> Float[Tensor, "1 feature sample *space"]:
    """A data set in PyTorch's layout as shared data of a stack."""
    return samples.movedim(0, 1)[None].contiguous()


class Stacked:
    """A module as a function of a stack; the module itself is copied and never changed.

    Backends: `stacked` knows sequences of Conv2d, Linear, padding, Flatten, dropout and elementwise activations;
    `vmap` serves most modules whose forward takes one tensor, `loop` all; they are the referees of the first. Raises
    `Unsupported` if `stacked` is asked for by name and the module holds a layer that it does not know.
    """

    def __init__(self, module: nn.Module, *, backend: Backend | None = None) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.template = Stack({name: tensor[None] for name, tensor in self.module.state_dict().items()})
        self._layers: list[tuple[str, Layer]] = []
        unknown = None
        for name, layer in leaves(self.module):
            build = _LAYERS.get(type(layer))
            applied = build(layer) if build else None
            if applied is None:
                unknown = unknown or f"{name or 'module'} ({type(layer).__name__})"
            else:
                self._layers.append((name, applied))
        if unknown and backend == "stacked":
            raise Unsupported(f"the stacked backend does not know layer {unknown}: use backend vmap or loop")
        self.backend: Backend = backend or ("vmap" if unknown else "stacked")

    def __call__(
        self,
        stack: Stack,
        inputs: Float[Tensor, "members feature sample *space"],
        noise: Noise | None = None,
    ) -> Float[Tensor, "member out sample *outspace"]:
        """Outputs of all members; `inputs` has one leading entry for all members or one for each.

        With `noise` the layers behave as in training (dropout drops, RReLU draws its slopes), else as in evaluation.
        """
        if self.backend != "stacked":
            if noise is not None and self.stochastic:
                raise Unsupported(f"backend {self.backend} cannot draw random numbers for training: use stacked")
            return self._by_module(stack, inputs)
        outputs = inputs
        for _, result in self.trace(stack, inputs, noise):
            outputs = result
        return outputs.expand(len(stack), *outputs.shape[1:])

    @property
    def stochastic(self) -> bool:
        """Whether a layer draws random numbers in training."""
        return any(isinstance(layer, nn.Dropout | nn.RReLU) for layer in self.module.modules())

    def trace(self, stack: Stack, inputs: Tensor, noise: Noise | None = None) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and outputs in turn (backend `stacked` only)."""
        x = inputs
        for number, (name, layer) in enumerate(self._layers):
            prefix = f"{name}." if name else ""
            tensors = {key: stack[prefix + key] for key in ("weight", "bias") if prefix + key in stack.tensors}
            draw = None if noise is None else _layer_noise(noise, number)
            x = layer(tensors, x, draw)
            yield name, x

    def widest(self, inputs: Tensor) -> int:
        """Numbers per sample in the widest activation of one member, which decides how many members fit a cache."""
        if self.backend != "stacked":
            return max(math.prod(inputs.shape[1:]) // inputs.shape[2], 1)
        few = inputs[:1, :, :1]
        stack = self.template.to(few.device, few.dtype)
        return max(x.numel() for _, x in self.trace(stack, few))

    def check(self, stack: Stack, *, name: str = "the checkpoint") -> None:
        """Raise `Mismatch`, listing the tensors that differ, unless the stack is of this architecture."""
        require_same_shapes(stack, self.template, names=(name, "the problem's network"))

    def _by_module(self, stack: Stack, inputs: Tensor) -> Tensor:
        """The module's own forward for each member: by `vmap`, or one by one."""

        def forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
            samples = x.movedim(1, 0)
            outputs: Tensor = torch.func.functional_call(self.module, params, (samples,))
            return outputs.movedim(0, 1)

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


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
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
        return _product(tensors["weight"], tensors.get("bias"), x)

    return apply


def windows(layer: nn.Conv2d, x: Tensor) -> tuple[Float[Tensor, "members in position"], tuple[int, int, int]]:
    """What each place of a convolution's output reads, [channel and place in the kernel] x [sample and place]; and the
    number of samples, height and width of the output.
    """
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    assert not isinstance(layer.padding, str)
    ph, pw = layer.padding
    x = F.pad(x, (pw, pw, ph, ph)) if ph or pw else x
    members, channels, samples, height, width = x.shape
    out_h, out_w = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    if (kh, kw, sh, sw) != (1, 1, 1, 1):
        rows, columns = (out_h - 1) * sh + 1, (out_w - 1) * sw + 1
        x = torch.stack(
            [x[..., i * dh : i * dh + rows : sh, j * dw : j * dw + columns : sw] for i in range(kh) for j in range(kw)],
            dim=2,
        )
    return x.reshape(members, channels * kh * kw, -1), (samples, out_h, out_w)


def _conv2d(layer: nn.Conv2d) -> Layer | None:
    """Convolution as unfolding and one batched product."""
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        read, shape = windows(layer, x)
        result = _product(tensors["weight"].flatten(2), tensors.get("bias"), read)
        return result.view(*result.shape[:2], *shape)

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


def _dropout(layer: nn.Dropout) -> Layer | None:
    """Identity in evaluation; in training zero with probability p, else scaled by 1 / (1 - p)."""

    def apply(tensors: Mapping[str, Tensor], x: Tensor, noise: Any) -> Tensor:
        if noise is None or layer.p == 0:
            return x
        kept: Tensor = noise(tuple(x.shape[1:])) >= layer.p
        return x * kept / (1 - layer.p)

    return apply


def _flatten(layer: nn.Flatten) -> Layer | None:
    """[member, channel, sample, *space] -> [member, feature, sample], features in PyTorch's order."""
    if (layer.start_dim, layer.end_dim) != (1, -1):
        return None
    return lambda tensors, x, noise: x.flatten(3).movedim(2, 3).flatten(1, 2) if x.ndim > 3 else x


def _pad(layer: nn.ConstantPad2d) -> Layer | None:
    return lambda tensors, x, noise: F.pad(x, layer.padding, value=layer.value)


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
    nn.Flatten: _flatten,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}
