"""Models as people have them: what broke in `benchmarks/zoo.py`, by torch alone."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape
from landscape.engine.casting import running_in
from landscape.engine.readings import reading_of

WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


def samples(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def two(make):
    torch.manual_seed(0)
    return make(), make()


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) + self.other(y)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("inputs", ["tuple", "dict"])
def test_inputs_in_a_tuple_beside_targets_are_one_batch(batch_size, inputs):
    x, y, target = torch.randn(12, 4), torch.randn(12, 2), torch.randn(12, 1)

    def loss(model, batch):
        given, wanted = batch
        return F.mse_loss(model(**given) if isinstance(given, dict) else model(*given), wanted)

    given = (x, y) if inputs == "tuple" else {"x": x, "y": y}
    a, b = two(Pair)
    problem = landscape.Problem.from_model(a, (given, target), batch_loss=loss, batch_size=batch_size)
    found = landscape.walk(a, b, problem=problem, points=3)["loss"][0]
    with torch.no_grad():
        ends = [float(F.mse_loss(each(x, y), target)) for each in (a, b)]
    np.testing.assert_allclose(found[[0, -1]], ends, rtol=1e-6)


def test_batches_in_a_tuple_are_still_batches():
    a, b = two(perceptron)
    x, y = samples()
    batches = tuple(zip(x.split(8), y.split(8), strict=True))
    problem = landscape.Problem.from_model(
        a, batches, batch_loss=lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])
    )
    found = landscape.walk(a, b, problem=problem, points=2)["loss"][0]
    np.testing.assert_allclose(found, [F.cross_entropy(each(x), y).item() for each in (a, b)], rtol=1e-6)


def test_a_loss_that_closes_over_float32_has_a_hessian_in_float64():
    network, _ = two(perceptron)
    known = landscape.Problem.from_model(network, samples(), nn.CrossEntropyLoss(weight=WEIGHTS))
    closed = landscape.Problem.from_model(network, samples(), lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS))
    one, other = (landscape.curvature(network, problem=each, engine="plain").eigenvalues for each in (known, closed))
    np.testing.assert_allclose(one, other, rtol=1e-9)


class Recurrent(nn.Module):
    """State that begins at zeros of the default type, and a constant that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)
        self.mixing = torch.eye(5) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.cell(x[:, None], torch.zeros(1, len(x), 5))
        return self.head(outputs[:, -1] @ self.mixing)


@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_batch", [False, True])
def test_constants_of_a_forward_follow_the_type_of_a_walk(own, dtype, by_batch):
    torch.set_default_dtype(own)
    try:
        a, b = two(Recurrent)
        x, y = samples()
        x = x.to(own)
        ends = [F.cross_entropy(each(x), y).item() for each in (a, b)]
        given = {"batch_loss": lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])} if by_batch else {}
        problem = landscape.Problem.from_model(a, (x, y), **given or {"loss": "cross_entropy"})
        found = landscape.walk(a, b, problem=problem, points=3, dtype=dtype, engine="plain")["loss"][0]
        assert torch.get_default_dtype() == own
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found[[0, -1]], ends, rtol=1e-6)


def test_running_in_another_type():
    wide, narrow = torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2)
    with running_in(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        assert (wide @ narrow).dtype == torch.float64
        out = torch.zeros(2, 2, dtype=torch.float32)
        out.scatter_add_(0, torch.zeros(2, 2, dtype=torch.long), wide)
        assert out.tolist() == [[2, 2], [0, 0]]
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            wide @ torch.ones(3, 3)
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            wide @ torch.ones(3, 3, dtype=torch.float64)
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(RuntimeError, match="dtype"):
        wide @ narrow


class Seen(nn.Module):
    """Notes of how many samples it is called; `mixing` subtracts the mean of the batch."""

    counts: ClassVar[list[int]] = []

    def __init__(self, mixing: bool) -> None:
        super().__init__()
        self.mixing, self.widened, self.end = mixing, nn.Identity(), nn.Linear(20_000, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.counts.append(len(x))
        wide = self.widened(x.repeat(1, 5_000))
        return self.end(wide - wide.mean(0) if self.mixing else wide)


@pytest.mark.parametrize("mixing", [False, True])
def test_a_loss_of_all_samples_reads_outputs_that_were_found_in_parts(mixing):
    (x, y), weights = samples(100), WEIGHTS
    torch.manual_seed(0)
    a, b = Seen(mixing), Seen(mixing)
    problem = landscape.Problem.from_model(a, (x, y), lambda o, t: F.cross_entropy(o, t, weight=weights))
    objective = problem.plain()
    Seen.counts.clear()
    objective(problem.initial([0]))
    assert sum(Seen.counts) == 100
    assert Seen.counts == [100] if mixing else max(Seen.counts) < 50
    found = landscape.walk(a, b, problem=problem, points=3)["loss"][0]
    with torch.no_grad():
        ends = [float(F.cross_entropy(each(x), y, weight=weights)) for each in (a, b)]
    np.testing.assert_allclose(found[[0, -1]], ends, rtol=1e-6)


def test_the_model_that_a_problem_gives_is_the_callers_own():
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(perceptron())
        return made[-1]

    problem = landscape.Problem.from_model(make, samples(), "cross_entropy")
    a, b = problem.network(), problem.network()
    with torch.no_grad():
        a[0].weight.zero_()
    assert b[0].weight.any()
    assert problem.network()[0].weight.any()
    before = len(made)
    landscape.walk(a, b, problem=problem, points=2)
    assert len(made) - before <= 1


@pytest.mark.parametrize(
    "given", [{"label_smoothing": 0.1}, {"weight": WEIGHTS}, {"weight": WEIGHTS, "label_smoothing": 0.1}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_few_classes_is_that_of_pytorch(given, dtype):
    outputs, (_, targets) = 30 * torch.randn(24, 3, dtype=dtype), samples()
    targets[::5] = -100
    outputs.requires_grad_()
    loss = nn.CrossEntropyLoss(**given)
    read = reading_of(loss)
    found = read(outputs, targets)["loss"].value()
    wanted = nn.CrossEntropyLoss(**{k: v.to(dtype) if k == "weight" else v for k, v in given.items()})(outputs, targets)
    near = {"rtol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(found.item(), wanted.item(), **near)
    one, other = (torch.autograd.grad(each, outputs)[0].numpy() for each in (found, wanted))
    np.testing.assert_allclose(one, other, atol=1e-7 if dtype == torch.float32 else 1e-14)
