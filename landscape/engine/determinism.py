"""Why does the same call give other numbers? Names the layer that is to blame."""

from typing import Any

import torch
from torch import Tensor, nn

from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked

__all__ = ["culprit", "mixes_samples"]


#: Relative difference up to which answers are the same: products are summed in another order.
_SAME = 1e-3


@torch.no_grad()
def culprit(network: Stacked, stack: Stack, inputs: Tensor) -> str:
    """One sentence that names the first layer whose outputs differ between two calls of the plain module."""
    leaves = {module: name for name, module in network.module.named_modules() if not list(module.children())}
    calls: list[list[tuple[nn.Module, Tensor]]] = []

    def record(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            calls[-1].append((module, output.detach().clone()))

    handles = [module.register_forward_hook(record) for module in leaves]
    try:
        outputs = []
        for _ in range(2):
            calls.append([])
            outputs.append(network(stack, inputs[:1]))
    finally:
        for handle in handles:
            handle.remove()
    for (module, first), (other, second) in zip(*calls, strict=False):
        if module is other and not torch.equal(first.nan_to_num(), second.nan_to_num()):
            return f"Layer {leaves[module] or 'module'} ({type(module).__name__}) draws random numbers in evaluation"
    if not torch.equal(outputs[0].nan_to_num(), outputs[1].nan_to_num()):
        name = type(network.module).__name__
        return f"The forward code of {name} draws random numbers: look for F.dropout without training=self.training"
    return "The network is deterministic: look for a loss or metric that draws random numbers, or data that changes"


@torch.no_grad()
def mixes_samples(network: Stacked, stack: Stack, inputs: Tensor) -> str:
    """One sentence if the plain module answers a sample otherwise when half of the samples are left out; else empty."""
    half = inputs.shape[-1] // 2
    if not half:
        return ""
    whole, part = network(stack, inputs)[..., :half].nan_to_num(), network(stack, inputs[..., :half]).nan_to_num()
    scale = max(float(whole.abs().max()), 1e-6)
    if whole.shape == part.shape and float((whole - part).abs().max()) <= _SAME * scale:
        return ""
    return (
        f"the answer of {type(network.module).__name__} to a sample depends on the samples beside it, so that its loss "
        "depends on how they are batched: look for means over the batch, or BatchNorm(track_running_stats=False)"
    )
