"""Formulas in place of PyTorch's kernels: where these lose digits, or know no second derivative."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = [
    "binary_cross_entropy",
    "binary_errors",
    "binary_reference",
    "class_errors",
    "class_reference",
    "cross_entropy",
    "plain_attention",
]

#: Cross-entropies below which they are found by a formula of their own: the class then leads all others.
_SMALL = 0.0625


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


def cross_entropy(
    logits: Float[Tensor, "member class *place sample"], classes: Int[Tensor, "member *place sample"]
) -> Float[Tensor, "member *place sample"]:
    """Cross-entropy of class numbers: PyTorch's where it is not small, else log(1 + sum of exp(z_j - z_y)) over the
    other classes, to the rounding of z_j - z_y, which is that of the logits.

    PyTorch's is a difference of logarithms, right to the rounding of 1: in float32 it is 0 from a lead of 17 on. Where
    a derivative in float32 is asked for it is PyTorch's own, so that trainings stay what they were, bit for bit.
    """
    found = F.cross_entropy(logits, classes, reduction="none")
    if logits.requires_grad and logits.dtype != torch.float64:
        return found
    small = found < _SMALL
    if logits.device.type == "cpu" and not small.any():
        return found
    index = classes[:, None]
    # Where it is small all others are behind.
    others = (logits - logits.gather(1, index)).clamp_(max=0).exp().scatter(1, index, 0.0)
    return torch.where(small, others.sum(1).log1p(), found)


def class_errors(
    logits: Float[Tensor, "member class *place sample"], classes: Int[Tensor, "member *place sample"]
) -> Float[Tensor, "member class *place sample"]:
    """Softmax less the indicator of the class, the slope of that loss; in float64 that of the class is what the others
    have, to its own rounding. In float32 it is PyTorch's own difference.
    """
    slope, index = logits.softmax(1), classes[:, None]
    if logits.dtype != torch.float64:
        return slope.scatter_add_(1, index, -torch.ones_like(slope[:, :1]))
    slope = slope.scatter(1, index, 0.0)
    return slope.scatter(1, index, -slope.sum(1, keepdim=True))


def class_reference(
    logits: Float[Tensor, "member class *place sample"], classes: Int[Tensor, "member *place sample"]
) -> Float[Tensor, "member *place sample"]:
    """The same loss in float64 by another formula, that of two classes at the lead of the class over the logarithm of
    the sum of the others: the referee of `cross_entropy`.
    """
    wide, index = logits.double(), classes[:, None]
    ahead = wide - wide.gather(1, index)
    behind = ahead.scatter(1, index, -torch.inf).logsumexp(1)
    loss = behind.clamp(min=0) + behind.abs().neg().exp().log1p()
    return loss.where(logits.isfinite().all(1), F.cross_entropy(wide, classes, reduction="none"))
