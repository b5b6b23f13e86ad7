"""The compiled loop of Life's loss beside the stacked engine and a plain loop; what is said where it cannot serve."""

import importlib.util
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome

import landscape
from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.fused import _compiled
from landscape.engine.stack import Stack
from landscape.problems.digits import Digits
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.training.train import train

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba (extra fast)")

PROBLEMS: dict[str, Life] = {
    "usual": Life(),
    "wide": Life(m_factor=3),
    "relu": Life(activation="relu", m_factor=2),
    "shifted": Life(normalize=True),
    "sparse": Life(density=0.2),
    "paper": Life(architecture="paper", rule="B3/S23"),
}


def spread(problem: Life, count: int, dtype: torch.dtype) -> Stack:
    """Members near their start and far from it."""
    stack = initialise(problem.network(), range(count)).to(torch.float64)
    scales = torch.logspace(-1, 1, count, dtype=torch.float64)
    return stack.map(lambda each: each * scales.view(-1, *[1] * (each.ndim - 1))).to(dtype)


@needs_numba
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_loop_gives_what_the_stacked_engine_gives(name: str, dtype: torch.dtype, near: float) -> None:
    objective = PROBLEMS[name].objective(dtype=dtype)
    stack = spread(PROBLEMS[name], 40, dtype)
    found, wanted = objective.with_fused()(stack), objective(stack)
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found["loss"], wanted["loss"], rtol=near, atol=0)
    if dtype == torch.float64:  # in float32 outputs next to 0 may fall to either side
        torch.testing.assert_close(found["accuracy"], wanted["accuracy"], rtol=1e-12, atol=0)
        torch.testing.assert_close(found["right"], wanted["right"], rtol=0, atol=0)


@needs_numba
def test_the_loss_is_that_of_a_loop_over_patterns_by_another_formula() -> None:
    problem = Life()
    network = problem.network().double().requires_grad_(False)
    inputs, targets, weights = problem._pattern_data
    total = 0.0
    for k in range(512):
        board = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
        board[0, 0, 1:4, 1:4] = inputs[0, 0, :, :, k]
        middle = network(board)[0, 0, 2, 2]
        total += float(weights[0, k] * F.binary_cross_entropy(middle, targets[0, 0, 0, k].double()))
    state = {name: tensor[None] for name, tensor in network.state_dict().items()}
    found = problem.objective(dtype=torch.float64).with_fused()(Stack(state))["loss"].item()
    assert found == pytest.approx(total, rel=1e-12)


@needs_numba
@pytest.mark.parametrize(("dtype", "near", "largest"), [(torch.float32, 3e-6, 80.0), (torch.float64, 1e-14, 700.0)])
def test_losses_keep_their_digits_at_both_ends(dtype: torch.dtype, near: float, largest: float) -> None:
    """A network with one output, x, whatever it sees: weights of zero, and the last bias."""
    problem = Life()
    objective = problem.objective(dtype=dtype).with_fused()
    x = np.concatenate([-np.logspace(-9, np.log10(largest), 60), [0.0], np.logspace(-9, np.log10(largest), 60)])
    zero = objective.template.map(torch.zeros_like)
    stack = zero.select([0] * len(x))
    name = list(stack.tensors)[-1]
    bias = torch.from_numpy(x).to(dtype)[:, None]
    found = objective(Stack({**stack.tensors, name: bias}))["loss"].numpy()
    b = bias[:, 0].double().numpy()
    live = float(problem.objective(dtype=torch.float64).memory.weights[0] @ problem._pattern_data[1].flatten().double())
    wanted = live * np.logaddexp(0, -b) + (1 - live) * np.logaddexp(0, b)
    np.testing.assert_allclose(found, wanted, rtol=near)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_losses_of_the_known_solution_keep_their_digits(dtype: torch.dtype) -> None:
    problem = Life()
    stack = problem.landmark("presolve").to(torch.float64)
    factors = torch.linspace(1, 6, 8, dtype=torch.float64)
    last = list(stack.tensors)[-2:]
    grown = {name: tensor.expand(8, *tensor.shape[1:]).clone() for name, tensor in stack.tensors.items()}
    for name in last:
        grown[name] = grown[name] * factors.view(-1, *[1] * (grown[name].ndim - 1))
    members = Stack(grown).to(dtype)
    wanted = problem.objective(dtype=torch.float64)(members.to(torch.float64))["loss"]
    assert wanted.min() < 1e-8
    found = problem.objective(dtype=dtype).with_fused()(members)["loss"]
    torch.testing.assert_close(found, wanted, rtol=2e-4 if dtype == torch.float32 else 1e-11, atol=0)


@needs_numba
def test_infinite_and_undefined_parameters_have_such_losses() -> None:
    problem = Life()
    objective = problem.objective(dtype=torch.float64)
    stack = spread(problem, 3, torch.float64)
    name = list(stack.tensors)[-1]
    bias = torch.tensor([[torch.inf], [torch.nan], [-torch.inf]], dtype=torch.float64)
    changed = Stack({**stack.tensors, name: bias})
    assert objective.with_fused()(changed)["loss"].tolist() == [
        math.inf,
        pytest.approx(math.nan, nan_ok=True),
        math.inf,
    ]


@needs_numba
@pytest.mark.bitwise
def test_a_member_has_the_same_bits_whatever_the_company_and_the_threads() -> None:
    objective = Life(m_factor=2).objective().with_fused()
    stack = spread(Life(m_factor=2), 601, torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(objective(stack)["loss"])
    finally:
        torch.set_num_threads(threads)
    alone = torch.stack([objective(stack.select([i]))["loss"][0] for i in (0, 5, 600)])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][[0, 5, 600]], alone)


@needs_numba
def test_a_walk_says_by_which_loop_it_was_evaluated(run: Run) -> None:
    stacked, fused = (landscape.walk("presolve", run, points=5, engine=engine) for engine in ("stacked", "fused"))
    assert (stacked.about["backend"], fused.about["backend"]) == ("stacked", "fused")
    np.testing.assert_allclose(fused["loss"], stacked["loss"], rtol=1e-4)


@needs_numba
@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (Life(activation="gelu"), "its layers are other"),
        (Life(loss="mse"), "its loss is not the cross-entropy"),
        (Life(steps=2), "its layers are other"),
        (Digits(), "other metrics|its own metrics"),
    ],
)
def test_other_problems_are_told_what_it_is_for(problem: Any, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        problem.objective().with_fused()


def test_training_does_not_take_it(landscape: Callable[..., Outcome]) -> None:
    with pytest.raises(LandscapeError, match='`engine="fused"` evaluates losses and does not train'):
        train("life", {"batches": 1}, "run", seeds=[0], engine="fused")
    assert landscape("train", "life", "--engine", "fused").exit_code == 2


def test_without_numba_one_line_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(
        Unsupported, match=r"needs numba, which is not installed: from a clone, pip install '\.\[fast\]'"
    ):
        landscape.walk("presolve", run, points=3, engine="fused")
    _compiled.cache_clear()
