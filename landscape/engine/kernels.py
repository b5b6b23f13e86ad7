"""Formulas in place of PyTorch's kernels: where these lose digits, or know no second derivative."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["binary_cross_entropy", "binary_errors", "binary_reference", "plain_attention"]


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """PyTorch's attention by its formula: the fused kernels have no second derivative, and `vmap` knows them not."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy from logits, element by element, to the rounding of the loss: -log sigmoid(x) of targets of 1, and
    -log sigmoid(-x) of 0; in between u y - log sigmoid(y), y = +-x with the sign of t - 1/2, u = min(t, 1 - t).

    PyTorch's is (1 - t) x - log sigmoid(x), right to the rounding of x: in float32 a loss of 3e-5 may be off by half a
    per cent. The derivative is PyTorch's.
    """
    live = targets >= 0.5
    side = live.to(logits.dtype) * 2 - 1
    y = logits * side
    return torch.where(live, 1 - targets, targets) * y - F.logsigmoid(y)


def binary_errors(logits: Tensor, targets: Tensor) -> Tensor:
    """sigmoid(x) - t, the slope of that loss; in float64 to the rounding of the error itself where t is 0 or 1.

    In float32 it is PyTorch's own difference, so that trainings stay what they were, bit for bit.
    """
    if logits.dtype != torch.float64:
        return logits.sigmoid() - targets
    return logits.sigmoid() * (1 - targets) - logits.neg().sigmoid() * targets


def binary_reference(logits: Tensor, targets: Tensor) -> Tensor:
    """The same loss in float64 by another formula, max(x, 0) - x t + log(1 + exp(-|x|)), which is as exact for targets
    of 0 and 1: the referee of `binary_cross_entropy`.
    """
    x, t = logits.double(), targets.double()
    return x.clamp(min=0) - x * t + x.abs().neg().exp().log1p()
