"""Gradients of small chains of layers, written out.

For networks of a few parameters, the bookkeeping of automatic differentiation costs more than the arithmetic, and large
chunks, which would make up for it, no longer fit a core's cache. A chain here is a product that reads shared data, then
products without neighbourhoods (Linear, Conv 1 x 1) and rectifiers; any other network is left to autograd.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.params import Stack
from landscape.stacked import Stacked, leaves, windows

__all__ = ["Chain"]


class Chain:
    """`gradient` of a loss with respect to all parameters of a stack, equal to autograd's but for rounding."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        """Use `Chain.of`, which knows which networks are chains."""
        self._first = layers[0][1]
        # Products by name, each with the slope below zero of the rectifier behind it; None where there is none.
        self._steps: list[tuple[str, float | None]] = []
        for name, layer in layers:
            if _slope(layer) is None:
                self._steps.append((name, None))
            else:
                self._steps[-1] = (self._steps[-1][0], _slope(layer))

    @classmethod
    def of(cls, network: Stacked) -> "Chain | None":
        """The chain that a network is, or None."""
        if network.backend != "stacked":
            return None
        layers = list(leaves(network.module))
        products = [isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None for _, layer in layers]
        alternating = all(a or b for a, b in itertools.pairwise(products))
        known = all(product or _slope(layer) is not None for product, (_, layer) in zip(products, layers, strict=True))
        local = all(
            isinstance(layer, nn.Linear) or _is_pointwise(layer) for _, layer in layers[1:] if _slope(layer) is None
        )
        return cls(layers) if products[0] and alternating and known and local else None

    def prepare(self, inputs: Float[Tensor, "1 feature sample *space"]) -> Float[Tensor, "in position"]:
        """What the first product reads, with a last row of ones for its bias; the same for all members."""
        shared = windows(self._first, inputs)[0][0] if isinstance(self._first, nn.Conv2d) else inputs[0]
        return torch.cat([shared, shared.new_ones(1, shared.shape[1])])

    @torch.no_grad()
    def gradient(
        self,
        stack: Stack,
        prepared: Float[Tensor, "in position"],
        loss: Callable[[Float[Tensor, "member out position"]], Float[Tensor, " member"]],
    ) -> tuple[Float[Tensor, " member"], Float[Tensor, "member parameter"]]:
        """Loss of each member, computed by `loss` from the outputs, and its gradient, ordered as by `Stack.flatten`."""
        weights = [stack[f"{name}.weight"].flatten(2) for name, _ in self._steps]
        biases = [stack[f"{name}.bias"] for name, _ in self._steps]
        joined = torch.cat([weights[0], biases[0][..., None]], dim=2)
        value = (joined.flatten(0, 1) @ prepared).view(len(stack), -1, prepared.shape[1])
        values = []
        for number, (_, slope) in enumerate(self._steps):
            if number:
                value = torch.baddbmm(biases[number][..., None], weights[number], value)
            if slope is not None:
                torch.ops.aten.leaky_relu_(value, slope)
            values.append(value)
        with torch.enable_grad():
            losses = loss(value.requires_grad_())
            (pull,) = torch.autograd.grad(losses.sum(), value)
        pulls: dict[str, Tensor] = {}
        for number in reversed(range(len(self._steps))):
            name, slope = self._steps[number]
            if slope is not None:
                # From the rectifier's output, which has the sign of its input.
                pull = torch.ops.aten.leaky_relu_backward(pull, values[number].detach(), slope, True)
            if number:
                pulls[f"{name}.weight"] = pull @ values[number - 1].mT
                pulls[f"{name}.bias"] = pull.sum(2)
                pull = weights[number].mT @ pull
            else:
                both = (pull.flatten(0, 1) @ prepared.T).view(len(stack), -1, len(prepared))
                pulls[f"{name}.weight"], pulls[f"{name}.bias"] = both[..., :-1], both[..., -1]
        return losses.detach(), torch.cat([pulls[key].reshape(len(stack), -1) for key in stack.tensors], dim=1)


def _slope(layer: nn.Module) -> float | None:
    """Slope below zero of a rectifier in evaluation; None for other layers."""
    if isinstance(layer, nn.LeakyReLU) and layer.negative_slope >= 0:
        return float(layer.negative_slope)
    if isinstance(layer, nn.RReLU):
        return (layer.lower + layer.upper) / 2
    return 0.0 if isinstance(layer, nn.ReLU) else None


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride, layer.padding) == ((1, 1), (1, 1), (0, 0))
