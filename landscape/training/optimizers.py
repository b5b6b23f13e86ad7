"""Steps of optimizers on rows of parameters, each row independent of its companions.

Written out in single additions, products and roots, each rounded once: fused kernels round by the place of a number in
memory, and a row's result would depend on its companions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["OPTIMIZERS", "Optimizer"]

#: Numbers of a row that are stepped at once.
_PART = 2**17

_Rows = Float[Tensor, "row parameter"]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What an optimizer remembers of a parameter, all zero before the first step, and its step.

    `step(parameters, gradient, moments, options, number)` gives the parameters after the step of that number, the first
    is 0; it updates `moments`. Of `options` it takes what it needs, such as `lr`. Where each number is stepped
    `alone`, a row can be parted.
    """

    moments: tuple[str, ...]
    step: Callable[[Tensor, Tensor, dict[str, Tensor], Any, int], Tensor]
    alone: bool = False

    def begin(self, flat: _Rows) -> dict[str, Tensor]:
        """What is remembered before the first step."""
        return {name: torch.zeros_like(flat) for name in self.moments}

    def advance(self, flat: _Rows, gradient: _Rows, moments: dict[str, Tensor], options: Any, number: int) -> None:
        """The same step in place; a long row in parts that stay in a cache, which is twice as fast."""
        size = _PART if self.alone else max(1, flat.shape[1])
        for start in range(0, flat.shape[1], size):
            part = slice(start, start + size)
            views = {name: moment[:, part] for name, moment in moments.items()}
            own = dict(views)
            flat[:, part] = self.step(flat[:, part], gradient[:, part], own, options, number)
            for name, view in views.items():
                if own[name] is not view:
                    view.copy_(own[name])


def _adam(flat: _Rows, gradient: _Rows, moments: dict[str, Tensor], options: Any, step: int) -> _Rows:
    """D. Kingma, J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015; as in PyTorch."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    moments["mean"].mul_(beta1).add_(gradient * (1 - beta1))
    moments["square"].mul_(beta2).add_((gradient * gradient).mul_(1 - beta2))
    mean = moments["mean"] / (1 - beta1 ** (step + 1))
    square = moments["square"] / (1 - beta2 ** (step + 1))
    return flat - mean.mul_(float(options.lr)).div_(square.sqrt_().add_(epsilon))


def _sgd(flat: _Rows, gradient: _Rows, moments: dict[str, Tensor], options: Any, step: int) -> _Rows:
    """Gradient descent with momentum, as in PyTorch."""
    moments["velocity"].mul_(float(options.momentum)).add_(gradient)
    return flat - moments["velocity"] * float(options.lr)


#: Optimizers of training by name; a new one is an entry here.
OPTIMIZERS = {
    "adam": Optimizer(("mean", "square"), _adam, alone=True),
    "sgd": Optimizer(("velocity",), _sgd, alone=True),
}
