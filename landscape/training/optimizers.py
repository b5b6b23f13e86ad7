"""Steps of optimizers on rows of parameters, each row independent of its companions."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ADAM_MOMENTS", "adam", "adam_moments"]

#: What Adam remembers of a parameter.
ADAM_MOMENTS = ("mean", "square")


def adam_moments(flat: Float[Tensor, "row parameter"]) -> dict[str, Tensor]:
    """What Adam remembers before its first step."""
    return {name: torch.zeros_like(flat) for name in ADAM_MOMENTS}


def adam(
    flat: Float[Tensor, "row parameter"],
    gradient: Float[Tensor, "row parameter"],
    moments: dict[str, Tensor],
    *,
    lr: float,
    step: int,
) -> Float[Tensor, "row parameter"]:
    """The parameters after a step, the first is 0, as in PyTorch; `moments` are updated.

    D. Kingma, J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015. Written out in single additions, products
    and roots, each rounded once: fused kernels round by the place of a number in memory, and a row's result would
    depend on its companions.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    moments["mean"] = moments["mean"] * beta1 + gradient * (1 - beta1)
    moments["square"] = moments["square"] * beta2 + gradient * gradient * (1 - beta2)
    mean = moments["mean"] / (1 - beta1 ** (step + 1))
    square = moments["square"] / (1 - beta2 ** (step + 1))
    return flat - mean * lr / (square.sqrt() + epsilon)
