"""Gradients that are written out, against autograd's."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from landscape.engine.chain import Chain
from landscape.engine.memory import Chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked
from landscape.problems.life import Life


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


def test_a_perceptron_of_sequences(squares: Callable[..., Objective]) -> None:
    generator = torch.Generator().manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.Linear(4, 3)).double()
    inputs, targets = (torch.randn(40, 6, width, generator=generator, dtype=torch.float64) for width in (5, 3))
    assert_gradient_is_autograds(squares(module, inputs, targets))


def test_several_chunks_of_samples_add_up(squares: Callable[..., Objective]) -> None:
    generator = torch.Generator().manual_seed(3)
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1)).double()
    inputs = torch.randn(200, 2, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(200, 1, 6, 6, generator=generator, dtype=torch.float64)
    assert_gradient_is_autograds(squares(module, inputs, targets))


ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu")

#: Every activation with either head and either loss; the other options take turns.
DEEP = [
    Life(
        steps=2 + number % 2,
        m_factor=1 + (number + number // 4) % 2,
        d_factor=1.5 if number % 5 == 0 else 1.0,
        activation=activation,
        sigmoid=sigmoid,
        loss=loss,
        normalize=bool(number // 2 % 2),
        architecture="paper" if number % 3 == 1 else "study",
        rule="B3/S23" if number % 2 else "B3/S23V",
        board="4x3",
    )
    for number, (activation, sigmoid, loss) in enumerate(itertools.product(ACTIVATIONS, (True, False), ("bce", "mse")))
]


@pytest.mark.parametrize("life", DEEP, ids=lambda life: f"{life.title()} {life.loss} {life.normalize}")
def test_life_networks_of_many_steps(life: Life) -> None:
    """On boards as numbers of patterns and as cells, of all members or of each, in three chunks of samples."""
    objective = dataclasses.replace(life.objective(dtype=torch.float64, samples=70), chunk=Chunk(4, 32))
    assert Chain.of(objective.network) is not None
    stack = random_stack(objective, 3)
    for codes, seeds in itertools.product((True, False), ([5], [5, 6, 7])):
        boards = life.boards(torch.tensor(seeds), 2, 70, torch.float64, codes=codes)
        batch = boards.samples(0, 96)
        assert batch.inputs.dtype == (torch.int16 if codes else torch.float64)
        loss, gradient = objective.gradient(stack, boards)
        flat = stack.flatten().requires_grad_()
        wanted = objective.loss(stack.unflatten(flat), batch)
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=1e-14)
        (wanted_gradient,) = torch.autograd.grad(wanted.sum(), flat)
        assert wanted_gradient.count_nonzero() > 0
        torch.testing.assert_close(gradient.flatten(), wanted_gradient, rtol=1e-9, atol=1e-12)


def test_the_deep_networks_have_every_option() -> None:
    for field, values in {
        "steps": {2, 3},
        "m_factor": {1, 2},
        "d_factor": {1.0, 1.5},
        "normalize": {True, False},
    }.items():
        assert {getattr(life, field) for life in DEEP} == values
    for activation in ACTIVATIONS:
        assert {life.architecture for life in DEEP if life.activation == activation} == {"study", "paper"}


def test_the_gradient_alone_has_no_loss() -> None:
    objective = Life(steps=2, board="4x3").objective(samples=40)
    stack = random_stack(objective, 5)
    (loss, both), (nothing, alone) = objective.gradient(stack), objective.gradient(stack, with_loss=False)
    assert loss.isfinite().all()
    assert nothing.shape == (5,)
    assert nothing.isnan().all()
    assert torch.equal(both.flatten(), alone.flatten())


@pytest.mark.parametrize("life", [Life(), Life(steps=2, board="3x5")], ids=Life.title)
def test_the_slope_of_a_loss_is_autograds(life: Life) -> None:
    objective = life.objective(dtype=torch.float64, samples=32)
    loss, batch = objective.metrics["loss"], objective.data.samples(0, 32)
    assert loss.slope is not None
    outputs = (3 * objective.network(random_stack(objective, 4), batch.inputs)).requires_grad_()
    (wanted,) = torch.autograd.grad(loss.per_sample(outputs, batch.targets).sum(), outputs)
    torch.testing.assert_close(loss.slope(outputs.detach(), batch.targets), wanted, rtol=1e-12, atol=1e-15)


CONVOLUTIONS = {
    "strides": nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)),
        nn.Tanh(),
        nn.Conv2d(3, 2, 3, dilation=(1, 2), stride=2),
        nn.GELU("tanh"),
        nn.Conv2d(2, 2, 1, stride=2),
    ),
    "padded again and again": nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.ConstantPad2d((0, 1, 0, 1), -1.0),
        nn.Conv2d(2, 3, 2),
        nn.ELU(alpha=0.7),
        nn.ConstantPad2d((0, 2, 1, 0), 0.5),
        nn.Conv2d(3, 2, 1, padding=1),
        nn.LeakyReLU(-0.2),
        nn.Conv2d(2, 1, 3, padding=1),
        nn.Sigmoid(),
    ),
    "gaps": nn.Sequential(
        nn.Conv2d(2, 2, 2, stride=3), nn.RReLU(), nn.Conv2d(2, 2, 2, dilation=2, padding=2), nn.ELU()
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_kind(name: str, squares: Callable[..., Objective]) -> None:
    module = CONVOLUTIONS[name].double().eval()
    inputs = torch.linspace(-2, 2, 40 * 2 * 9 * 8, dtype=torch.float64).sin().view(40, 2, 9, 8)
    targets = torch.cos(3 * module(inputs)).detach()
    assert_gradient_is_autograds(squares(module, inputs, targets, chunk=Chunk(16, 32)))


OTHERS = {
    "activation first": nn.Sequential(nn.ReLU(), nn.Linear(3, 1)),
    "activation after activation": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU(), nn.Linear(3, 1)),
    "no bias": nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)),
    "dropout": nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1)),
    "another activation": nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.Linear(3, 1)),
    "an elu that falls": nn.Sequential(nn.Linear(3, 3), nn.ELU(alpha=-0.5), nn.Linear(3, 1)),
    "flattened": nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 1)),
    "cropped": nn.Sequential(nn.Conv2d(3, 2, 1), nn.ZeroPad2d(-1), nn.Conv2d(2, 1, 1)),
    "in groups": nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()),
    "padded to the same size": nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()),
    "padded with what is inside": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    "normalised": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "one layer twice": nn.Sequential(*[nn.Linear(3, 3)] * 2),
    "life with dropout": Life(steps=2, dropout=0.2).network(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_left_to_autograd(name: str) -> None:
    assert Stacked(OTHERS[name]).backend == "stacked"
    assert Chain.of(Stacked(OTHERS[name])) is None
    assert Chain.of(Stacked(Life().network(), backend="vmap")) is None
