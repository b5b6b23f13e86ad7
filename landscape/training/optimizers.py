"""Steps of optimizers on rows of parameters, each row independent of its companions.

Written out in single additions, products and roots, each rounded once: fused kernels round by the place of a number in
memory, and a row's result would depend on its companions.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["OPTIMIZERS", "Optimizer", "Rates", "adam", "adam_moments"]

_Rows = Float[Tensor, "row parameter"]


@runtime_checkable
class Rates(Protocol):
    """What an optimizer may ask of the options of training."""

    @property
    def lr(self) -> float: ...  # noqa: D102

    @property
    def momentum(self) -> float: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What an optimizer remembers of a parameter, all zero before the first step, and its step.

    `step(parameters, gradient, moments, rates, number)` gives the parameters after the step of that number, the first
    is 0; it updates `moments`.
    """

    moments: tuple[str, ...]
    step: Callable[[Tensor, Tensor, dict[str, Tensor], Rates, int], Tensor]


def adam_moments(flat: _Rows) -> dict[str, Tensor]:
    """What Adam remembers before its first step."""
    return {name: torch.zeros_like(flat) for name in OPTIMIZERS["adam"].moments}


def adam(flat: _Rows, gradient: _Rows, moments: dict[str, Tensor], *, lr: float, step: int) -> _Rows:
    """The parameters after a step, the first is 0, as in PyTorch; `moments` are updated.

    D. Kingma, J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    moments["mean"] = moments["mean"] * beta1 + gradient * (1 - beta1)
    moments["square"] = moments["square"] * beta2 + gradient * gradient * (1 - beta2)
    mean = moments["mean"] / (1 - beta1 ** (step + 1))
    square = moments["square"] / (1 - beta2 ** (step + 1))
    return flat - mean * lr / (square.sqrt() + epsilon)


def _adam(flat: Tensor, gradient: Tensor, moments: dict[str, Tensor], rates: Rates, step: int) -> Tensor:
    return adam(flat, gradient, moments, lr=rates.lr, step=step)


def _sgd(flat: Tensor, gradient: Tensor, moments: dict[str, Tensor], rates: Rates, step: int) -> Tensor:
    """Gradient descent with momentum, as in PyTorch."""
    moments["velocity"] = moments["velocity"] * rates.momentum + gradient
    return flat - moments["velocity"] * rates.lr


#: Optimizers of training by name; a new one is an entry here.
OPTIMIZERS = {"adam": Optimizer(("mean", "square"), _adam), "sgd": Optimizer(("velocity",), _sgd)}
