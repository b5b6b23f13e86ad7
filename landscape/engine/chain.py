"""Gradients of chains of layers, written out.

For networks of few parameters the bookkeeping of automatic differentiation costs more than the arithmetic; where
activations fill a cache, what it keeps and copies costs as much again. A chain is a sequence of convolutions, linear
layers, padding and elementwise activations, which may begin with a table; other networks are left to autograd.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landscape.engine.data import Batch
from landscape.engine.program.graph import leaves
from landscape.engine.program.products import fold, product, shared_product, windows
from landscape.engine.stack import Stack, aliases
from landscape.engine.stacked import Stacked, look_up

__all__ = ["Chain"]

#: From the derivative of the loss in a layer's outputs to that in its inputs.
Pull = Callable[[Tensor], Tensor]


class _Activation(NamedTuple):
    """An elementwise activation: its values (written over its inputs where the way back needs only the values), and
    the way back: (pull, inputs, values) -> pull.
    """

    values: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor, Tensor], Tensor]


class Chain:
    """`gradient` of a loss with respect to all parameters of a stack, equal to autograd's but for rounding."""

    def __init__(self, network: Stacked) -> None:
        """Use `Chain.of`, which knows which networks are chains."""
        self._layers = list(leaves(network.module))
        self._table = network.table
        last = network.table.layers if network.table else 0
        self._head = [each for each in self._layers[:last] if not isinstance(each[1], nn.ConstantPad2d)]
        self._tail = self._layers[last:]

    @classmethod
    def of(cls, network: Stacked) -> "Chain | None":
        """The chain that a network is, or None."""
        if network.backend != "stacked" or not network.sequence or aliases(network.module):
            return None
        layers = [layer for _, layer in leaves(network.module)]
        weighs = [isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers]
        for number, layer in enumerate(layers):
            # An activation may write over its inputs only where a product has made them.
            after_product = number > 0 and weighs[number - 1]
            if not (
                (weighs[number] and layer.bias is not None)
                or (isinstance(layer, nn.ConstantPad2d) and min(layer.padding) >= 0)
                or (type(layer) in _ACTIVATIONS and after_product and getattr(layer, "alpha", 0) >= 0)
            ):
                return None
        return cls(network) if any(weighs) else None

    @torch.no_grad()
    def gradient(
        self,
        stack: Stack,
        parts: Iterable[Batch],
        slope: Callable[[Batch, Float[Tensor, "member out *space sample"]], Float[Tensor, "member out *space sample"]],
    ) -> Float[Tensor, "member parameter"]:
        """The gradient of a loss, ordered as by `Stack.flatten`, over data that comes in parts.

        `slope` gives the derivative of the loss in a part's outputs. What a table is looked up for is computed once for
        all parts, forth and back.
        """
        pulls: dict[str, Tensor] = {}
        head: list[Pull] = []
        rows = row_pull = None
        for part in parts:
            inputs = part.inputs
            tape: list[Pull] = []
            if inputs.is_floating_point():
                x = self._forward(self._layers, stack, inputs, pulls, tape, shared=True)
            else:
                if rows is None:
                    assert self._table is not None
                    rows = self._table.rows.to(stack.device, stack.dtype)
                    rows = self._forward(self._head, stack, rows, pulls, head, shared=True)
                    row_pull = torch.zeros_like(rows)
                codes = inputs if len(inputs) == 1 else inputs.long()
                x = look_up(rows, codes)
                x = self._forward(self._tail, stack, x, pulls, tape, shared=False)
            pull = slope(part, x)
            while tape:
                pull = tape.pop()(pull)
            if row_pull is not None:
                places = codes.flatten(2).long().expand(len(stack), row_pull.shape[1], -1)
                row_pull.view(*row_pull.shape[:2], -1).scatter_add_(2, places, pull.flatten(2))
        while head:
            assert row_pull is not None
            row_pull = head.pop()(row_pull)
        return torch.cat([pulls[key].reshape(len(stack), -1) for key in stack.tensors], dim=1)

    @staticmethod
    def _forward(
        layers: Sequence[tuple[str, nn.Module]],
        stack: Stack,
        x: Tensor,
        pulls: dict[str, Tensor],
        tape: list[Pull],
        *,
        shared: bool,
    ) -> Tensor:
        """Outputs of the layers; `tape` gets their ways back, which leave the derivatives of parameters in `pulls`.

        Before the first parameters nothing asks for the way back, unless `x` itself came from some, so is not `shared`.
        """
        asked = not shared
        for name, layer in layers:
            if isinstance(layer, nn.ConstantPad2d):
                x, back = _pad(layer, x)
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                x, back = _weigh(name, layer, x, stack, pulls, asked=asked)
                asked = True
            else:
                x, back = _act(layer, x)
            if asked:
                tape.append(back)
        return x


def _weigh(
    name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, stack: Stack, pulls: dict[str, Tensor], *, asked: bool
) -> tuple[Tensor, Pull]:
    """A product with weights; its derivative in the data only where that is `asked` for."""
    prefix = f"{name}." if name else ""
    weight, bias = stack[f"{prefix}weight"].flatten(2), stack[f"{prefix}bias"]
    # Of sequences, the features are PyTorch's last axis.
    read = windows(layer, x) if isinstance(layer, nn.Conv2d) else x.movedim(-2, 1)
    flat = read.flatten(2)
    values = product(weight, bias, flat)

    def back(pull: Tensor) -> Tensor:
        pull = (pull if isinstance(layer, nn.Conv2d) else pull.movedim(-2, 1)).flatten(2)
        if flat.shape[0] == 1:  # shared by all members: a further row of ones is for the bias
            both = shared_product(pull, torch.cat([flat[0], torch.ones_like(flat[0, :1])]).T)
            in_weight, in_bias = both[..., :-1], both[..., -1]
        else:
            in_weight, in_bias = pull @ flat.mT, pull.sum(2)
        for key, derivative in ((f"{prefix}weight", in_weight), (f"{prefix}bias", in_bias)):
            pulls[key] = pulls[key] + derivative if key in pulls else derivative
        if not asked:
            return pull
        pulled = (weight.mT @ pull).view(len(stack), *read.shape[1:])
        return fold(layer, pulled, x.shape) if isinstance(layer, nn.Conv2d) else pulled.movedim(1, -2)

    values = values.view(*values.shape[:2], *read.shape[2:])
    return values if isinstance(layer, nn.Conv2d) else values.movedim(1, -2), back


def _act(layer: nn.Module, x: Tensor) -> tuple[Tensor, Pull]:
    activation = _ACTIVATIONS[type(layer)](layer)
    values = activation.values(x)
    return values, lambda pull: activation.back(pull, x, values)


def _pad(layer: nn.ConstantPad2d, x: Tensor) -> tuple[Tensor, Pull]:
    left, right, top, bottom = layer.padding
    height, width = x.shape[2:4]
    values = F.pad(x, (0, 0, left, right, top, bottom), value=layer.value)
    return values, lambda pull: pull[:, :, top : top + height, left : left + width]


def _rectifier(slope: float) -> _Activation:
    """From the output, which has the sign of the input."""
    if slope < 0:
        return _Activation(
            lambda x: F.leaky_relu(x, slope),
            lambda pull, x, y: torch.ops.aten.leaky_relu_backward(pull, x, slope, False),
        )
    return _Activation(
        lambda x: torch.ops.aten.leaky_relu_(x, slope),
        lambda pull, x, y: torch.ops.aten.leaky_relu_backward(pull, y, slope, True),
    )


_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda layer: _rectifier(0.0),
    nn.LeakyReLU: lambda layer: _rectifier(layer.negative_slope),
    nn.RReLU: lambda layer: _rectifier((layer.lower + layer.upper) / 2),
    nn.ELU: lambda layer: _Activation(
        lambda x: F.elu_(x, layer.alpha),
        lambda pull, x, y: torch.ops.aten.elu_backward(pull, layer.alpha, 1.0, 1.0, True, y),
    ),
    nn.GELU: lambda layer: _Activation(
        lambda x: F.gelu(x, approximate=layer.approximate),
        lambda pull, x, y: torch.ops.aten.gelu_backward(pull, x, approximate=layer.approximate),
    ),
    nn.Sigmoid: lambda layer: _Activation(
        lambda x: x.sigmoid_(), lambda pull, x, y: torch.ops.aten.sigmoid_backward(pull, y)
    ),
    nn.Tanh: lambda layer: _Activation(lambda x: x.tanh_(), lambda pull, x, y: torch.ops.aten.tanh_backward(pull, y)),
}
