"""The objective: a member's numbers depend on the member alone; means, errors and gradients against slow twins."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import printed
from torch import Tensor, nn

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch, Unverified
from landscape.engine.data import Batch, Data
from landscape.engine.memory import Chunk, choose_chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.life.boards import random_boards
from landscape.problems.life.rules import Rule

MEMBERS = 24
#: One thread is left to test-quick.
THREADS = [1, *(pytest.param(more, marks=pytest.mark.slow) for more in (2, 3))]
PLACES = st.lists(st.integers(0, MEMBERS - 1), min_size=1, max_size=150)

PROBLEMS = {
    "m=1": Life(),
    "m=4": Life(m_factor=4, activation="elu"),
    "m=10": Life(m_factor=10, activation="gelu", sigmoid=False),
    "two steps": Life(steps=2, board="5x4", activation="relu"),
}


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view({4: torch.int32, 8: torch.int64}[values.element_size()])


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


def everything(objective: Objective, stack: Stack, batch: Data | None = None) -> dict[str, Tensor]:
    """Values and gradient, one row a member."""
    loss, gradient = objective.gradient(stack, batch)
    return {**objective(stack), "gradient of": loss, "gradient": gradient.flatten()}


def one_by_one(objective: Objective, stack: Stack, batch: Data) -> dict[str, Tensor]:
    """The numbers of each network without the others; twice itself, since a batch of one would be shared data."""
    twice = [[i, i] for i in range(len(stack))]
    rows = [everything(objective, stack.select(i), batch.members(torch.tensor(i))) for i in twice]
    for i, row in enumerate(rows):
        single = objective(stack.select([i]))
        assert same_bits(single, {name: row[name][:1] for name in single})
    return {name: torch.cat([row[name][:1] for row in rows]) for name in rows[0]}


@functools.cache
def alone(name: str, threads: int) -> tuple[Objective, Stack, Data, dict[str, Tensor]]:
    """An objective, networks, a batch for each, and all numbers of each network when it is evaluated alone."""
    problem = PROBLEMS[name]
    objective = problem.objective(samples=45)
    stack = initialise(problem.network(), range(MEMBERS), scale=2.0)
    batch = problem.training_batch(torch.arange(MEMBERS), 3, 20, device="cpu", dtype=torch.float32)
    return objective, stack, batch, one_by_one(objective, stack, batch)


@pytest.mark.bitwise
@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("name", PROBLEMS)
@given(places=PLACES)
def test_a_member_is_bitwise_the_same_in_any_company(name: str, threads: int, places: list[int]) -> None:
    objective, stack, batch, reference = alone(name, threads)
    index = torch.tensor(places if len(places) > 1 else places * 2)
    got = everything(objective, stack.select(index), batch.members(index))
    assert same_bits(got, {key: value[index] for key, value in reference.items()})


BOARDS_OF_THEIR_OWN = {
    "two steps": Life(steps=2, board="5x4", activation="relu"),
    "m=10, paper": Life(steps=2, m_factor=10, architecture="paper", activation="gelu", board="3x4"),
    "dropout": Life(steps=2, m_factor=2, dropout=0.3, board="4x4"),
}


@functools.cache
def trained_alone(name: str, threads: int) -> tuple[Objective, Stack, Data, Tensor]:
    """As training evaluates it: few members at once, each with its own boards; the gradient of each alone."""
    problem = BOARDS_OF_THEIR_OWN[name]
    objective = problem.training_objective("batches", device="cpu", dtype=torch.float32)
    boards = problem.training_batch(torch.arange(12), 3, 70, device="cpu", dtype=torch.float32)
    chunk = choose_chunk(objective.network, boards, training=True)
    objective = dataclasses.replace(objective, chunk=dataclasses.replace(chunk, samples=32, members=6))
    stack = initialise(problem.network(), range(12), scale=2.0)
    rows = [gradient_of(objective, stack, boards, torch.tensor([i, i]))[:1] for i in range(12)]
    return objective, stack, boards, torch.cat(rows)


def gradient_of(objective: Objective, stack: Stack, boards: Data, index: Tensor) -> Tensor:
    noise = None
    if objective.network.stochastic:

        def noise(among: Tensor) -> Callable[[int, tuple[int, ...]], Tensor]:
            seeds = index[among]
            return lambda layer, shape: philox.uniform(
                seeds, stream=layer, step=0, count=torch.Size(shape).numel()
            ).view(len(seeds), *shape)

    return objective.gradient(stack.select(index), boards.members(index), noise, with_loss=False)[1].flatten()


@pytest.mark.bitwise
@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("name", BOARDS_OF_THEIR_OWN)
@settings(max_examples=4)
@given(places=st.lists(st.integers(0, 11), min_size=2, max_size=30))
def test_so_is_one_with_boards_of_its_own(name: str, threads: int, places: list[int]) -> None:
    objective, stack, boards, reference = trained_alone(name, threads)
    assert reference.isfinite().all()
    assert objective.chunk.members % threads == 0
    index = torch.tensor(places)
    assert torch.equal(bits(gradient_of(objective, stack, boards, index)), bits(reference[index]))


@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softplus, nn.Tanh, nn.SiLU])
@given(order=st.permutations(range(40)), split=st.integers(1, 39))
def test_nor_do_shuffling_and_splitting_change_an_mlp(
    activation: type[nn.Module], threads: int, order: list[int], split: int, squares: Callable[..., Objective]
) -> None:
    module = nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 3), activation())
    numbers = torch.linspace(-3, 3, 37 * 8).sin().view(37, 8)
    objective = squares(module, numbers[:, :5].contiguous(), numbers[:, 5:].contiguous())
    stack = initialise(module, range(40), scale=3.0)
    whole = everything(objective, stack)
    parts = [everything(objective, stack.select(part)) for part in (order[:split], order[split:])]
    joined = {name: torch.cat([part[name] for part in parts]) for name in whole}
    assert same_bits(joined, {name: value[order] for name, value in whole.items()})


def test_standard_error_is_that_of_the_mean_over_boards() -> None:
    problem = Life(steps=2, board="5x4")
    objective = problem.objective(samples=50, seed=7, dtype=torch.float64)
    stack = initialise(problem.network(), range(3)).to(torch.float64)
    boards = random_boards(torch.tensor([7]), 0, 50, 5, 4, 0.5)[0].movedim(-1, 0)
    later = torch.from_numpy(Rule.parse(problem.rule).steps(boards.numpy().astype(int), 2)).double()
    values = objective(stack)
    for i in range(3):
        network = problem.network().double()
        network.load_state_dict(stack.state_dict(i))
        with torch.no_grad():
            outputs = network(boards[:, None].double())[:, 0]
        losses = F.binary_cross_entropy(outputs, later, reduction="none").mean((1, 2)).numpy()
        right = ((outputs > 0.5) == (later > 0.5)).numpy()
        np.testing.assert_allclose(values["loss"][i], losses.mean(), rtol=1e-12)
        np.testing.assert_allclose(values["loss_se"][i], losses.std(ddof=1) / 50**0.5, rtol=1e-9)
        np.testing.assert_allclose(values["accuracy"][i], right.mean(), rtol=1e-12)
        assert values["right"][i] == right.all((1, 2)).sum()
        assert values["solved"][i] == right.all()


@pytest.mark.parametrize("name", ["m=4", "two steps"])
def test_chunks_of_samples_add_up_to_the_whole(name: str) -> None:
    problem = PROBLEMS[name]
    objective = problem.objective(samples=130, dtype=torch.float64)
    stack = initialise(problem.network(), range(20)).to(torch.float64)
    small, large = (dataclasses.replace(objective, chunk=Chunk(16, samples)) for samples in (32, 1024))
    for key, value in everything(small, stack).items():
        np.testing.assert_allclose(value, everything(large, stack)[key], rtol=1e-12, atol=1e-14, err_msg=key)


def test_padding_counts_nowhere(squares: Callable[..., Objective]) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    inputs, targets = torch.linspace(-1, 1, 74).view(37, 2).double(), torch.linspace(0, 1, 37)[:, None].double()
    stack = initialise(module, range(5)).to(torch.float64)
    objective = squares(module, inputs, targets, sampled=True)
    assert len(objective.data) == 64
    absurd = objective.data.targets.clone()
    absurd[..., 37:] = 1e9
    spoilt = dataclasses.replace(objective, data=dataclasses.replace(objective.data, targets=absurd))
    assert same_bits(everything(objective, stack), everything(spoilt, stack))
    bare = Batch(objective.data.inputs[..., :37], objective.data.targets[..., :37], objective.data.weights[:, :37])
    for key, value in everything(dataclasses.replace(objective, data=bare), stack).items():
        np.testing.assert_allclose(value, everything(objective, stack)[key], rtol=1e-12, err_msg=key)
    assert objective.predictions(stack).shape == (5, 1, 37)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu"])
def test_gradient_from_pattern_counts_is_that_on_the_boards(activation: str, normalize: bool) -> None:
    problem = Life(m_factor=2, activation=activation, normalize=normalize, board="6x5", density=0.3)
    seeds, step, size = torch.tensor([5, 2**40]), 9, 13
    stack = initialise(problem.network(), [0, 1]).to(torch.float64)
    batch = problem.training_batch(seeds, step, size, device="cpu", dtype=torch.float64)
    losses, gradients = problem.objective(dtype=torch.float64).gradient(stack, batch)
    boards = random_boards(seeds, step, size, 6, 5, 0.3).movedim(-1, 1)
    for i in range(2):
        network = problem.network().double()
        network.load_state_dict(stack.state_dict(i))
        later = torch.from_numpy(Rule.parse(problem.rule).step(boards[i].numpy().astype(int))).double()
        loss = F.binary_cross_entropy(network(boards[i][:, None].double() - 0.5 * normalize)[:, 0], later)
        loss.backward()
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-12)
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(gradients[name][i], parameter.grad, rtol=1e-9, atol=1e-14)


class Restless(nn.Module):
    """Leaves its dropout on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, training=True)


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_a_stochastic_module_is_refused(backend: str, squares: Callable[..., Objective]) -> None:
    # Samples that differ: which of them are dropped, not only how many, then shows in the loss.
    inputs = torch.linspace(1, 3, 400).reshape(200, 2) ** 3
    objective = squares(Restless(), inputs, torch.ones(200, 1), backend=backend)
    with pytest.raises(Unverified, match=r"not deterministic.*dropout"):
        objective.check_deterministic(objective.network.template)


def test_a_deterministic_one_passes_even_with_nan(life: Life) -> None:
    stack = initialise(life.network(), [0])
    life.objective().check_deterministic(stack)
    life.objective().check_deterministic(stack.unflatten(torch.full((1, 25), float("nan"))))


def test_what_makes_no_objective(life: Life) -> None:
    objective = life.objective()
    with pytest.raises(LandscapeError, match="needs a metric 'loss'"):
        dataclasses.replace(objective, metrics={"right": objective.metrics["right"]})
    with pytest.raises(Mismatch, match="an empty stack has no values"):
        objective(initialise(life.network(), [0]).select(slice(0)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_members() -> None:
    program = """
import torch
from landscape.problems.life import Life
objective = Life().objective()
stack = objective.network.template.unflatten(torch.linspace(-1, 1, 2_500_000).view(100_000, 25))
assert len(objective(stack)["loss"]) == 100_000
print(peak())
"""
    assert 0 < printed(program) < 1e9
