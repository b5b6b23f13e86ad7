"""Networks with one answer, whatever they are given: a last layer whose weights are zero, and the best bias.

Between any two networks a path leads through them. While the last layer of either goes to that answer, all else held,
the loss is convex if it is convex in the outputs, and these are linear in the layer; between the two networks with
one answer all else may change for free. So the pass is at most the highest loss of both ends and of the best answer.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from landscape.engine.plain import AnyObjective
from landscape.engine.stack import Stack, aliases

__all__ = ["MOST_GRADIENTS", "Layer", "answering", "candidates", "fitted"]

#: Names of the parameters of a layer that are zero with one answer, and of those that are the answer.
Layer = tuple[tuple[str, ...], tuple[str, ...]]

#: Gradients that the best answer of a network takes at most.
MOST_GRADIENTS = 30

#: Layers that are tried.
_LAYERS = 3


def candidates(module: nn.Module, moving: Stack) -> Iterator[Layer]:
    """Weights and biases of the last layers, the last first, as they stand in the module: whether one of them leaves
    one answer is for whoever asks to find out. A tied tensor belongs to the last layer that has it.
    """
    first = aliases(module)
    tried = 0
    for owner, layer in reversed(list(module.named_modules())):
        names = [f"{owner}.{name}" if owner else name for name, _ in layer.named_parameters(recurse=False)]
        own = {name: first.get(name, name) for name in names}
        weights = tuple(own[name] for name in names if not name.endswith("bias"))
        if weights and moving.tensors.keys() >= set(own.values()):
            yield weights, tuple(own[name] for name in names if name.endswith("bias"))
            tried += 1
        if tried == _LAYERS:
            return


def answering(stack: Stack, layer: Layer, answer: dict[str, Tensor]) -> Stack:
    """The same networks with a layer of zeros but for this answer."""
    weights, biases = layer
    changed = {name: torch.zeros_like(stack[name]) for name in (*weights, *biases)}
    for name, value in answer.items():
        changed[name] = value.expand_as(stack[name])
    return Stack({name: changed.get(name, each) for name, each in stack.tensors.items()}, stack.buffers)


def fitted(objective: AnyObjective, network: Stack, layer: Layer) -> tuple[dict[str, Tensor], int]:
    """The best answer of a network, a stack of one member, and the gradients that this has taken; none without a bias.

    Gradient descent in the bias alone, from zero, with the steps of J. Barzilai, J. M. Borwein, IMA J. Numer. Anal. 8,
    1988: the secant method where it is one number.
    """
    if not layer[1]:
        return {}, 0
    still = answering(network, layer, {}).moving(layer[1])
    here = still.flatten().double()
    best, lowest, taken = here, torch.inf, 0
    before: tuple[Tensor, Tensor] | None = None
    while taken < MOST_GRADIENTS:
        taken += 1
        point = Stack(still.unflatten(here.to(still.dtype)).tensors, still.buffers)
        losses, slopes = objective.gradient(point)
        loss, slope = float(losses[0]), slopes.flatten().double().to(here.device)
        if loss < lowest:
            best, lowest = here, loss
        moved, turned = (here - before[0], slope - before[1]) if before else (slope, slope)
        curvature = float((moved * turned).sum())
        if not loss < torch.inf or not slope.any() or not curvature > 0:
            break
        before = here, slope
        here = here - slope * (float(moved.square().sum()) / curvature)
    return dict(still.unflatten(best.to(still.dtype)).tensors), taken
