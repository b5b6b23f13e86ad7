"""Gradients that are written out, against autograd's."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from landscape.chain import Chain
from landscape.objective import Objective
from landscape.params import Stack
from landscape.problems.life import Life
from landscape.stacked import Stacked


def random_stack(objective: Objective, members: int) -> Stack:
    generator = torch.Generator().manual_seed(1)
    shapes = objective.network.template.shapes
    return Stack(
        {k: torch.randn(members, *shape, generator=generator, dtype=torch.float64) for k, shape in shapes.items()}
    )


def assert_gradient_is_autograds(objective: Objective) -> None:
    assert Chain.of(objective.network) is not None
    stack = random_stack(objective, 20)
    loss, gradient = objective.gradient(stack)
    flat = stack.flatten().requires_grad_()
    wanted = objective.loss(stack.unflatten(flat))
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient.flatten(), torch.autograd.grad(wanted.sum(), flat)[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "life",
    [
        Life(),
        Life(m_factor=3, activation="relu", sigmoid=False),
        Life(m_factor=2, activation="rrelu", normalize=True),
        Life(activation="leaky_relu", sigmoid=False, loss="mse"),
    ],
    ids=Life.title,
)
def test_life_networks_of_rectifiers(life: Life) -> None:
    assert_gradient_is_autograds(life.objective(dtype=torch.float64))


def test_a_perceptron(squares: Callable[..., Objective]) -> None:
    generator = torch.Generator().manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.Linear(4, 3)).double()
    inputs, targets = (torch.randn(50, width, generator=generator, dtype=torch.float64) for width in (5, 3))
    assert_gradient_is_autograds(squares(module, inputs, targets))


def test_several_chunks_of_samples_add_up(squares: Callable[..., Objective]) -> None:
    generator = torch.Generator().manual_seed(3)
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1)).double()
    inputs = torch.randn(200, 2, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(200, 1, 6, 6, generator=generator, dtype=torch.float64)
    assert_gradient_is_autograds(squares(module, inputs, targets))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 3), nn.ELU(), nn.Linear(3, 1)),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3)),
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1)),
        Life(steps=2).network(),
    ],
    ids=lambda module: " ".join(type(layer).__name__ for layer in module.modules())[:60],
)
def test_other_networks_are_left_to_autograd(module: nn.Module) -> None:
    assert Chain.of(Stacked(module)) is None
