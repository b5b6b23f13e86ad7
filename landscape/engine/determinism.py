"""Randomness: given on purpose, or else the layer that is to blame."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["culprit", "mixes_samples", "preserved", "reseed", "seeded"]


#: Relative difference up to which answers are the same: products are summed in another order.
_SAME = 1e-3


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Afterwards every generator (PyTorch's on each device, NumPy's, Python's) is at the state of before."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def reseed(*seed: int) -> None:
    """Put every generator at a state that these numbers decide. In microseconds: `torch.manual_seed` looks for devices
    for a hundred.
    """
    state = np.random.SeedSequence([each % 2**32 for each in seed]).generate_state(2, np.uint64)
    numbers = int(state[0] % 2**63), int(state[1])
    torch.default_generator.manual_seed(numbers[0])
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(numbers[0])
    random.seed(numbers[1])
    np.random.seed(numbers[1] % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Every generator at a state that these numbers decide; afterwards at that of before."""
    with preserved():
        reseed(*seed)
        yield


@torch.no_grad()
def culprit(module: nn.Module, call: Callable[[], Any]) -> str:
    """One sentence that names the first layer of a module whose outputs differ between two calls that run it."""
    leaves = {layer: name for name, layer in module.named_modules() if not list(layer.children())}
    runs: list[list[tuple[nn.Module, Tensor]]] = []

    def record(layer: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            runs[-1].append((layer, output.detach().clone()))

    handles = [each.register_forward_hook(record) for each in (*leaves, module)]
    try:
        for _ in range(2):
            runs.append([])
            call()
    finally:
        for handle in handles:
            handle.remove()
    for (layer, first), (other, second) in zip(*runs, strict=False):
        if layer is not other or torch.equal(first.nan_to_num(), second.nan_to_num()):
            continue
        if layer is module and leaves.keys() != {module}:
            break
        return f"Layer {leaves[layer] or 'module'} ({type(layer).__name__}) draws random numbers in evaluation"
    else:
        return "The network is deterministic: look for a loss or metric that draws random numbers, or data that changes"
    name = type(module).__name__
    return f"The forward code of {name} draws random numbers: look for F.dropout without training=self.training"


@torch.no_grad()
def mixes_samples(module: nn.Module, run: Callable[[Tensor], Tensor], inputs: Tensor, *, samples: int = 0) -> str:
    """One sentence if what `run` makes of a sample differs when half of the samples are left out; else empty. The
    axis of samples is that of this number, in inputs and outputs.
    """
    half = inputs.shape[samples] // 2
    if not half:
        return ""
    whole, part = run(inputs).narrow(samples, 0, half), run(inputs.narrow(samples, 0, half))
    whole, part = whole.nan_to_num(), part.nan_to_num()
    scale = max(float(whole.abs().max()), 1e-6)
    if whole.shape == part.shape and float((whole - part).abs().max()) <= _SAME * scale:
        return ""
    return (
        f"the answer of {type(module).__name__} to a sample depends on the samples beside it, so that its loss "
        "depends on how they are batched: look for means over the batch, or BatchNorm(track_running_stats=False)"
    )
