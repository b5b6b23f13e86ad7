"""The compiled loops of Life's loss and training beside the stacked engine, a plain loop and PyTorch's optimizers; what
is said where they cannot serve.
"""

import functools
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome

import landscape
from landscape.core.errors import Mismatch, Unsupported, Unverified
from landscape.core.files import is_there
from landscape.engine import jit, loops
from landscape.engine.data import Batch
from landscape.engine.fused import BoardBatches, Fused, FusedBoards
from landscape.engine.stack import Stack
from landscape.problems.compute import Engine
from landscape.problems.digits import Digits
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.training.optimizers import OPTIMIZERS
from landscape.training.train import Training, train
from landscape.training.trainer import Trainer

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba (extra fast)")

PROBLEMS: dict[str, Life] = {
    "usual": Life(),
    "wide": Life(m_factor=3),
    "relu": Life(activation="relu", m_factor=2),
    "shifted": Life(normalize=True),
    "sparse": Life(density=0.2),
    "paper": Life(architecture="paper", rule="B3/S23"),
}


BOARDS: dict[str, Life] = {
    "two steps": Life(steps=2),
    "even": Life(steps=2, m_factor=2, rule="B3/S23"),
    "odd": Life(steps=2, m_factor=3),
    "wide": Life(steps=2, m_factor=5),
    "three steps": Life(steps=3, m_factor=2),
    "relu": Life(steps=2, m_factor=2, activation="relu"),
    "shifted": Life(steps=2, m_factor=2, normalize=True),
    "deep": Life(steps=1, m_factor=2, d_factor=2.0),
    "shallow": Life(steps=2, m_factor=2, d_factor=0.5),
    "small": Life(steps=2, m_factor=2, board="1x1"),
    "oblong": Life(steps=3, m_factor=2, board="3x7", density=0.3),
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
        (Life(steps=2), "its data is boards, on which this engine only trains"),
        (Life(steps=2, d_factor=0.5), "its data is boards"),
        (Digits(), "it has other metrics"),
    ],
)
def test_other_problems_are_told_what_it_is_for(problem: Any, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        problem.objective().with_fused()


def pytorchs(network: torch.nn.Module, how: Training) -> torch.optim.Optimizer:
    """PyTorch's own optimizer of a network."""
    make = torch.optim.Adam if how.optimizer == "adam" else functools.partial(torch.optim.SGD, momentum=how.momentum)
    return make(network.parameters(), lr=how.lr, weight_decay=how.weight_decay)


def descended(problem: Life, stack: Stack, weights: torch.Tensor | None, steps: range, how: Training) -> torch.Tensor:
    """Steps of one member after another by autograd and PyTorch's own optimizers."""
    rows = []
    inputs, targets, exact = problem._pattern_data
    for member in range(len(stack)):
        network = problem._build(pad=False, logits=True).to(stack.dtype)
        network.load_state_dict(stack.state_dict(member))
        optimizer = pytorchs(network, how)
        for step in steps:
            own = exact[0] if weights is None else weights[step % len(weights), member % weights.shape[1]]
            logits = network(inputs[0].permute(3, 0, 1, 2).to(stack.dtype))[:, 0, 0, 0]
            losses = F.binary_cross_entropy_with_logits(logits, targets[0, 0, 0].to(stack.dtype), reduction="none")
            optimizer.zero_grad()
            (losses * own).sum().backward()
            optimizer.step()
        rows.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    return torch.stack(rows)


def fused_steps(problem: Life, stack: Stack, weights: torch.Tensor | None, steps: range, how: Training) -> torch.Tensor:
    flat = stack.flatten()
    names = ("mean", "square") if how.optimizer == "adam" else ("velocity",)
    moments = {name: torch.zeros_like(flat) for name in names}
    options = {name: getattr(how, name) for name in ("lr", "momentum", "weight_decay")}
    loop = problem.objective(dtype=stack.dtype).with_fused().fused
    assert isinstance(loop, Fused)
    loop.descend(flat, moments, steps, **options, batches=weights)
    return flat


@needs_numba
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_are_those_of_the_stacked_engine(name: str, dtype: torch.dtype, near: float) -> None:
    """Of each member, beside the largest of its numbers."""
    objective = PROBLEMS[name].objective(dtype=dtype)
    stack = spread(PROBLEMS[name], 12, dtype)
    wanted = objective.gradient(stack, objective.memory)[1].flatten()
    fused = objective.with_fused().fused
    assert isinstance(fused, Fused)
    error = (fused.gradient(stack.flatten()) - wanted).abs().amax(1) / wanted.abs().amax(1)
    assert error.max() < near


@needs_numba
@pytest.mark.parametrize("weighed", ["exact", "of a step", "of each member"])
@pytest.mark.parametrize("how", [{}, {"weight_decay": 0.1}, {"optimizer": "sgd", "momentum": 0.5, "lr": 0.1}])
@pytest.mark.parametrize("name", ["usual", "wide", "paper"])
def test_steps_are_those_of_autograd_and_of_the_optimizers_of_pytorch(
    name: str, how: dict[str, Any], weighed: str
) -> None:
    problem, training = PROBLEMS[name], Training(**how)
    stack = initialise(problem.network(), range(3)).to(torch.float64)
    shape = {"exact": None, "of a step": (4, 1, 512), "of each member": (4, 3, 512)}[weighed]
    weights = shape and torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 256
    found = fused_steps(problem, stack, weights, range(4), training)
    wanted = descended(problem, stack, weights, range(4), training)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@needs_numba
@pytest.mark.bitwise
def test_a_trained_member_has_the_same_bits_whatever_the_company_the_threads_and_the_steps_at_once() -> None:
    problem, training = Life(m_factor=3), Training()
    stack = initialise(problem.network(), range(301))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(fused_steps(problem, stack, None, range(5), training))
    finally:
        torch.set_num_threads(threads)
    chosen = [0, 7, 300]
    alone = torch.cat([fused_steps(problem, stack.select([i]), None, range(5), training) for i in chosen])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][chosen], alone)


@needs_numba
@pytest.mark.parametrize("data", ["exact", "batches"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_ends_near_that_of_the_stacked_engine_and_says_which_trained_it(
    data: str, dtype: str, tmp_path: Path
) -> None:
    how = {"batches": 50, "data": data, "dtype": dtype, "batch_size": 16}
    engines: list[Engine] = ["stacked", "fused"]
    stacked, fused = (train("life", how, tmp_path / each, seeds=range(5), engine=each) for each in engines)
    assert [each.document["computation"]["backend"] for each in (stacked, fused)] == ["stacked", "fused"]
    assert fused.steps() == stacked.steps()
    near = 1e-4 if dtype == "float32" else 1e-11
    for step in fused.steps():
        a, b = (each.checkpoint(step).stack.flatten() for each in (fused, stacked))
        torch.testing.assert_close(a, b, rtol=near, atol=near)
    lines = [
        [json.loads(line) for line in (each.path / "log.jsonl").read_text().splitlines()] for each in (fused, stacked)
    ]
    assert [each["step"] for each in lines[0]] == [each["step"] for each in lines[1]]
    losses = [[each["loss"] for each in line] for line in lines]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4 if dtype == "float32" else 1e-10)


@needs_numba
@pytest.mark.bitwise
@pytest.mark.parametrize("data", ["exact", "batches"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits_by_the_same_engine_alone(data: str, tmp_path: Path) -> None:
    how = {"batches": 60, "data": data, "batch_size": 8, "save_at": [40]}
    whole = train("life", how, tmp_path / "whole", seeds=range(3), engine="fused")

    def stop(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("life", how, tmp_path / "parts", seeds=range(3), engine="fused", progress=stop)
    with pytest.raises(Mismatch, match="begun elsewhere: backend"):
        train("life", how, tmp_path / "parts", seeds=range(3), engine="stacked")
    parts = train("life", how, tmp_path / "parts", seeds=range(3))
    assert torch.equal(parts.checkpoint().stack.flatten(), whole.checkpoint().stack.flatten())
    assert not is_there(parts.resume_path)


@needs_numba
@pytest.mark.parametrize(
    ("board", "size", "density"),
    [("10x10", 128, 0.5), ("3x7", 37, 0.3), ("1x1", 5, 0.5), ("1x4", 33, 0.8125), ("4x1", 32, 1.0)],
)
def test_patterns_are_counted_as_on_the_boards_themselves(board: str, size: int, density: float) -> None:
    problem = Life(board=board, density=density)
    seeds, steps = torch.tensor([0, 5, 2**63 - 1, 12345678901]), range(2**33 + 1, 2**33 + 4)
    for dtype in (torch.float32, torch.float64):
        found = problem.fused_batches(seeds, steps, size, dtype)
        assert isinstance(found, torch.Tensor)
        for step, row in zip(steps, found, strict=True):
            batch = problem.training_batch(seeds, step, size, device="cpu", dtype=dtype)
            assert isinstance(batch, Batch)
            assert torch.equal(row, batch.weights)


@needs_numba
@pytest.mark.bitwise
@pytest.mark.parametrize("problem", [Life(), BOARDS["even"]], ids=["patterns", "boards"])
def test_a_training_goes_on_from_a_fused_run_as_if_it_had_not_ended(problem: Life, tmp_path: Path) -> None:
    whole = train(problem, {"batches": 30}, tmp_path / "whole", seeds=range(3), engine="fused")
    first = train(problem, {"batches": 20}, tmp_path / "first", seeds=range(3), engine="fused")
    before = first.checkpoint().stack.flatten()
    rest = train(problem, {"batches": 10, "start": str(first.path)}, tmp_path / "rest", seeds=range(3), engine="fused")
    assert torch.equal(rest.checkpoint().stack.flatten(), whole.checkpoint().stack.flatten())
    assert torch.equal(first.checkpoint().stack.flatten(), before)


@needs_numba
@pytest.mark.bitwise
@pytest.mark.parametrize("problem", [Life(), BOARDS["even"]], ids=["patterns", "boards"])
def test_members_see_their_own_boards_or_shared_ones_whatever_the_company(problem: Life, tmp_path: Path) -> None:
    for shared in (False, True):
        how = {"batches": 12, "data": "batches", "batch_size": 8, "shared_data": shared}
        runs = [
            train(problem, how, tmp_path / f"{shared}{len(seeds)}", seeds=seeds, data_seeds=data, engine="fused")
            for seeds, data in ((range(5), [0]), ([3], [0]))
        ]
        few, one = (run.checkpoint().stack.flatten() for run in runs)
        assert torch.equal(few[3:4], one)


@needs_numba
@pytest.mark.parametrize("problem", [Life(), BOARDS["even"]], ids=["patterns", "boards"])
def test_diverged_members_are_told_of_and_touch_no_other(
    problem: Life, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stack = initialise(problem.network(), range(3))
    bad = {name: tensor.clone() for name, tensor in stack.tensors.items()}
    next(iter(bad.values()))[1] = torch.nan
    whole, broken = (
        train(problem, {"batches": 5}, tmp_path / name, seeds=range(3), start=start, engine="fused")
        for name, start in (("whole", stack), ("broken", Stack(bad)))
    )
    a, b = (run.checkpoint().stack.flatten() for run in (whole, broken))
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not b[1].isfinite().any()
    assert "1 of 3 members diverged" in caplog.text


@needs_numba
def test_a_gradient_that_the_stacked_engine_does_not_find_stops_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Fused.gradient
    monkeypatch.setattr(Fused, "gradient", lambda *given: true(*given) * 1.01)
    with pytest.raises(Unverified, match="gives a gradient that is off by"):
        train("life", {"batches": 1}, tmp_path / "run", seeds=[0], engine="fused")
    assert not (tmp_path / "run").exists()


@needs_numba
@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (Life(dropout=0.5), "its layers are other"),
        (Life(steps=2, dropout=0.5), "its layers are other"),
        (Life(steps=2, architecture="paper"), "its layers are other"),
        (Life(steps=2, sigmoid=False), "its layers are other"),
        (Life(steps=2, loss="mse"), "its loss is not the cross-entropy"),
        (Life(steps=2, activation="elu"), "its layers are other"),
    ],
)
def test_other_trainings_are_refused_before_anything_is_written(problem: Life, why: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=why):
        train(problem, {"batches": 1}, tmp_path / "run", seeds=[0], engine="fused")
    assert not (tmp_path / "run").exists()


def on_boards(problem: Life, dtype: torch.dtype) -> FusedBoards:
    loop = problem.training_objective("batches", device="cpu", dtype=dtype).with_fused(training=True).fused
    assert isinstance(loop, FusedBoards)
    return loop


@needs_numba
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("count", [5, 64, 70])
@pytest.mark.parametrize("name", BOARDS)
def test_gradients_on_boards_are_those_of_the_stacked_engine(
    name: str, count: int, dtype: torch.dtype, near: float
) -> None:
    """Of each member, beside the largest of its numbers, on boards of its own or shared ones."""
    problem = BOARDS[name]
    stack = spread(problem, 6, dtype)
    for keys in (torch.arange(6), torch.tensor([3])):
        batch = problem.boards(keys, 7, count, dtype)
        wanted = problem.objective(dtype=dtype).gradient(stack, batch)[1].flatten()
        found = on_boards(problem, dtype).gradient(stack.flatten(), batch)
        error = (found - wanted).abs().amax(1) / wanted.abs().amax(1)
        assert error.max() < near


@needs_numba
@pytest.mark.parametrize("how", [{}, {"weight_decay": 0.1}, {"optimizer": "sgd", "momentum": 0.5, "lr": 0.1}])
@pytest.mark.parametrize("name", ["odd", "shifted", "oblong"])
def test_steps_on_boards_are_those_of_autograd_and_of_the_optimizers_of_pytorch(name: str, how: dict[str, Any]) -> None:
    """On boards of floats, read by the plain network, under PyTorch's loss of its output; that of the first is told."""
    problem, training, size = BOARDS[name], Training(**how), 20
    stack = initialise(problem.network(), range(3)).to(torch.float64)
    keys, steps = torch.arange(3), range(2, 6)
    batches = problem.fused_batches(keys, steps, size, torch.float64)
    assert isinstance(batches, BoardBatches)
    names = ("mean", "square") if training.optimizer == "adam" else ("velocity",)
    flat, moments = stack.flatten(), {each: torch.zeros_like(stack.flatten()) for each in names}
    options = {each: getattr(training, each) for each in ("lr", "momentum", "weight_decay")}
    learns = torch.ones(stack.parameters, dtype=torch.bool)
    learns[-3:] = False
    counted = range(4)  # of the optimizer, which begins here
    first = torch.zeros(3, dtype=torch.float64)
    loop = on_boards(problem, torch.float64)
    loop.descend(flat, moments, counted, **options, batches=batches, learns=learns, loss=first)
    rows = []
    for member in range(3):
        network = problem.network().double()
        network.load_state_dict(stack.state_dict(member))
        optimizer = pytorchs(network, training)
        before = torch.cat([each.detach().flatten() for each in network.parameters()])
        for step in steps:
            batch = problem.boards(keys[member : member + 1], step, size, torch.float64, codes=False).samples(0, 32)
            cells = network(batch.inputs[0].permute(3, 0, 1, 2)[:size])[:, 0]
            loss = F.binary_cross_entropy(cells, batch.targets[0].permute(2, 0, 1)[:size].double())
            if step == steps.start:
                torch.testing.assert_close(first[member], loss.detach(), rtol=1e-10, atol=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after = torch.cat([each.detach().flatten() for each in network.parameters()])
            for each, kept in zip(_tail(network, 3), before[-3:], strict=True):
                each.copy_(kept)
            assert not torch.equal(after, before)
        rows.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    torch.testing.assert_close(flat, torch.stack(rows), rtol=1e-9, atol=1e-11)


def _tail(network: torch.nn.Module, count: int) -> list[torch.Tensor]:
    """The last numbers of a network, as views of its parameters."""
    every = [number for each in network.parameters() for number in each.detach().view(-1)]
    return every[-count:]


@needs_numba
@pytest.mark.bitwise
def test_a_member_trained_on_boards_has_the_same_bits_whatever_the_company_and_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 batches three are logged at a time, so that steps are taken several at once; two threads are there."""
    how = {"batches": 300, "batch_size": 40}
    threads, found, pools, taken = torch.get_num_threads(), [], [], set[int]()
    pool, advance = jit.concurrent.futures.ThreadPoolExecutor, Trainer.advance
    monkeypatch.setattr(jit.concurrent.futures, "ThreadPoolExecutor", lambda n: pools.append(n) or pool(n))
    monkeypatch.setattr(
        Trainer, "advance", lambda self, steps, **how: taken.add(len(steps)) or advance(self, steps, **how)
    )
    try:
        for count, seeds in ((1, range(9)), (2, range(9)), (1, [8])):
            torch.set_num_threads(count)
            run = train(BOARDS["odd"], how, tmp_path / f"{count}{len(seeds)}", seeds=seeds, engine="fused")
            found.append(run.checkpoint().stack.flatten())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][8:], found[2])
    assert 2 in pools
    assert max(taken) > 1


@needs_numba
@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_on_boards_ends_near_that_of_the_stacked_engine(frozen: bool, tmp_path: Path) -> None:
    how = {"batches": 30, "batch_size": 16, "dtype": "float64", "presolve_blocks": [1], "freeze": frozen}
    engines: list[Engine] = ["stacked", "fused"]
    runs = [train(BOARDS["three steps"], how, tmp_path / each, seeds=range(4), engine=each) for each in engines]
    assert [each.document["computation"]["backend"] for each in runs] == engines
    for step in runs[0].steps():
        a, b = (each.checkpoint(step).stack for each in runs)
        torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-11)
    middle = BOARDS["three steps"].parts()[1]
    begun, ended = (runs[1].checkpoint(step).stack for step in (0, 30))
    assert all(torch.equal(begun[name], ended[name]) == frozen for name in middle)
    lines = [[json.loads(line) for line in (each.path / "log.jsonl").read_text().splitlines()] for each in runs]
    losses = [[each["loss"] for each in line] for line in lines]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


@needs_numba
@pytest.mark.bitwise
def test_a_run_on_boards_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    how = {"batches": 360, "batch_size": 8, "save_at": [0, 40]}
    whole = train(BOARDS["even"], how, tmp_path / "whole", seeds=range(3), engine="fused")

    def stop(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(BOARDS["even"], how, tmp_path / "parts", seeds=range(3), engine="fused", progress=stop)
    parts = train(BOARDS["even"], how, tmp_path / "parts", seeds=range(3))
    assert torch.equal(parts.checkpoint().stack.flatten(), whole.checkpoint().stack.flatten())


@needs_numba
@pytest.mark.parametrize(("board", "density"), [("100x100", 0.05), ("200x200", 0.5)])
def test_large_boards_are_no_reason_to_refuse(board: str, density: float) -> None:
    """The referee's float32 sums over all of their cells would be."""
    problem = Life(steps=2, board=board, density=density)
    for seed in range(4):
        torch.manual_seed(seed)
        objective = problem.objective(samples=64).with_fused(training=True)
        assert objective.backend == "fused"


@needs_numba
def test_derivatives_of_a_pattern_keep_their_digits_over_many_cells() -> None:
    """Most cells of sparse boards have one pattern: sums over all of them in float32 would be off by 1 %."""
    problem = Life(steps=2, m_factor=2, board="60x60", density=0.01)
    stack = initialise(problem.network(), range(2))
    batch = problem.boards(torch.arange(2), 0, 128, torch.float32)
    found = on_boards(problem, torch.float32).gradient(stack.flatten(), batch)
    wanted = on_boards(problem, torch.float64).gradient(stack.to(torch.float64).flatten(), batch)
    first = sum(stack.tensors[name][0].numel() for name in problem.parts()[0])
    error = (found.double() - wanted)[:, :first].abs().amax(1) / wanted[:, :first].abs().amax(1)
    assert error.max() < 1e-4


@needs_numba
def test_a_gradient_on_boards_that_the_stacked_engine_does_not_find_stops_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = FusedBoards.gradient
    monkeypatch.setattr(FusedBoards, "gradient", lambda *given: true(*given) * 1.01)
    with pytest.raises(Unverified, match="gives a gradient that is off by"):
        train(Life(steps=2), {"batches": 1}, tmp_path / "run", seeds=[0], engine="fused")
    assert not (tmp_path / "run").exists()


@needs_numba
def test_an_optimizer_that_is_not_compiled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "other", OPTIMIZERS["sgd"])
    with pytest.raises(Unsupported, match="knows adam and sgd, not other"):
        train("life", {"batches": 1, "optimizer": "other"}, tmp_path / "run", seeds=[0], engine="fused")
    assert not (tmp_path / "run").exists()


@needs_numba
@pytest.mark.slow
@pytest.mark.bitwise
@pytest.mark.parametrize("problem", [Life(), BOARDS["even"]], ids=["patterns", "boards"])
def test_workers_train_to_the_bits_of_one_process(problem: Life, tmp_path: Path) -> None:
    how = {"batches": 30, "data": "batches", "batch_size": 8}
    one = train(problem, how, tmp_path / "one", seeds=range(7), engine="fused")
    two = train(problem, how, tmp_path / "two", seeds=range(7), engine="fused", workers=2)
    assert torch.equal(one.checkpoint().stack.flatten(), two.checkpoint().stack.flatten())


@needs_numba
def test_the_command_line_trains_by_it(landscape: Callable[..., Outcome], tmp_path: Path) -> None:
    at = str(tmp_path / "run")
    assert landscape("train", "life", "--engine", "fused", "--batches", 3, "-o", at).exit_code == 0
    assert Run.open(Path(at)).document["computation"]["backend"] == "fused"


def test_without_numba_one_line_says_what_to_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (jit.numba, loops._prepared, loops.losses, loops.steps, loops.board_steps)
    for each in caches:
        each.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    for call in (
        lambda: landscape.walk("presolve", run, points=3, engine="fused"),
        lambda: train("life", {"batches": 1}, tmp_path / "run", seeds=[0], engine="fused"),
        lambda: train(Life(steps=2), {"batches": 1}, tmp_path / "run", seeds=[0], engine="fused"),
    ):
        with pytest.raises(
            Unsupported, match=r"needs numba, which is not installed: from a clone, pip install '\.\[fast\]'"
        ):
            call()
    assert not (tmp_path / "run").exists()
    for each in caches:
        each.cache_clear()
