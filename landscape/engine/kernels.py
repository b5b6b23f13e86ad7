"""Which of PyTorch's kernels a network's forward runs on."""

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["plain_attention"]


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
