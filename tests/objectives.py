"""Objectives whose second derivatives are known, or soon found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.engine.objective import Batch, Metric, Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked, features_first


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def objective_of(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    per_sample: Callable[[Tensor, Tensor], Tensor],
    *,
    backend: Any = None,
    **options: Any,
) -> Objective:
    return Objective(
        network=Stacked(module, backend=backend),
        data=Batch.padded(features_first(inputs), targets.movedim(0, -1)[None].contiguous()),
        metrics={"loss": Metric(per_sample)},
        predict=lambda outputs: outputs > 0,
        **options,
    )


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets.expand(len(outputs), -1), reduction="none")


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1, -2).sum(1)


def members(objective: Objective, count: int, seed: int = 1, scale: float = 0.7) -> Stack:
    template = objective.network.template
    return template.unflatten(scale * numbers(count, template.parameters, seed=seed))


def with_spectrum(eigenvalues: Any, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Objective, Stack]:
    """A loss whose Hessian has these eigenvalues everywhere: mean over samples i of n lambda_i (q_i . w)^2 / 2."""
    values = torch.as_tensor(np.array(eigenvalues, dtype=float))
    count = len(values)
    basis = torch.linalg.qr(numbers(count, count, seed=seed)).Q * count**0.5

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        return (0.5 * targets * outputs.square()).flatten(1, -2).sum(1)

    module = nn.Linear(count, 1, bias=False)
    objective = objective_of(module, basis.to(dtype), values[:, None].to(dtype), per_sample)
    return objective, members(objective, 2).to(dtype)


def mlp(backend: Any = None, **options: Any) -> Objective:
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    return objective_of(
        module, numbers(70, 5), torch.arange(70) % 3, cross_entropy, backend=backend, precision=torch.float64, **options
    )


def convolutions(backend: Any = None) -> Objective:
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GELU(), nn.Conv2d(2, 1, 2, stride=2), nn.SiLU())
    return objective_of(module, numbers(9, 1, 4, 6), numbers(9, 1, 2, 3, seed=2), squared, backend=backend)


SPECTRA = {
    "even": np.linspace(-1, 5, 50),
    "a few large": np.concatenate([[30.0, 8, -3], np.linspace(-0.1, 0.2, 47)]),
    "falling fast": np.geomspace(1, 1e-8, 50),
    "equal": np.full(50, 2.0),
    "repeated": np.repeat([-1.0, 0.0, 5.0], [4, 43, 3]),
    "rank one": np.eye(1, 50)[0] * 3,
    "all negative": -np.linspace(1, 2, 50),
    "nothing": np.zeros(50),
}
