"""Losses near zero: to their own rounding, and with a referee that shares no formula with them."""

from collections.abc import Callable
from decimal import Decimal, localcontext

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape
from landscape.analysis.outcomes import outcomes
from landscape.core.errors import Unverified
from landscape.engine.kernels import (
    binary_cross_entropy,
    binary_errors,
    binary_reference,
    class_errors,
    class_reference,
    cross_entropy,
)
from landscape.engine.losses import Criterion
from landscape.engine.readings import known_loss, reading_of
from landscape.engine.stack import Stack
from landscape.problems.base import verify
from landscape.problems.life import Life

LOGITS = [0.0, 1e-9, 0.3, 5.0, 13.4, 19.9, 20.1, 30.0, 36.9, 40.0, 120.0, 700.0]
GRID = [(sign * x, t) for x in LOGITS for sign in (1, -1) for t in (0.0, 1.0, 0.25, 0.875)]


def exactly(x: float, t: float) -> tuple[float, float]:
    """The loss and its slope with enough digits."""
    with localcontext() as context:
        context.prec = 40 + int(abs(x))  # digits of 1 + exp(-|x|)
        one, y, s = Decimal(1), Decimal(x), Decimal(t)
        live, dead = (one + (-y).exp()).ln(), (one + y.exp()).ln()
        return float(s * live + (one - s) * dead), float(one / (one + (-y).exp()) - s)


def columns(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x, t = torch.tensor(GRID, dtype=dtype).T
    return x, t


def test_cross_entropy_of_two_classes_is_exact_at_both_tails() -> None:
    x, t = columns()
    wanted = torch.tensor([exactly(*each) for each in GRID], dtype=torch.float64)
    torch.testing.assert_close(binary_cross_entropy(x, t), wanted[:, 0], rtol=2e-15, atol=0)
    torch.testing.assert_close(binary_errors(x, t)[t % 1 == 0], wanted[t % 1 == 0, 1], rtol=2e-15, atol=0)
    torch.testing.assert_close(binary_errors(x, t), wanted[:, 1], rtol=2e-15, atol=2e-16)
    hard = t % 1 == 0
    torch.testing.assert_close(binary_reference(x, t)[hard], wanted[hard, 0], rtol=2e-15, atol=0)
    single = columns(torch.float32)
    wanted = torch.tensor(
        [exactly(float(a), b) for a, (_, b) in zip(single[0], GRID, strict=True)], dtype=torch.float64
    )
    here = wanted[:, 0] > 1e-37
    found = binary_cross_entropy(*single).double()[here]
    torch.testing.assert_close(found, wanted[here, 0], rtol=5e-7, atol=0)


def test_it_is_pytorchs_to_the_rounding_of_the_logits_and_so_are_its_derivatives() -> None:
    x, t = columns()
    torch.testing.assert_close(
        binary_cross_entropy(x, t), F.binary_cross_entropy_with_logits(x, t, reduction="none"), rtol=1e-15, atol=2e-13
    )
    leaf = torch.tensor([0.0, 1.0, -30.0, 25.0], dtype=torch.float64, requires_grad=True)
    for targets in (torch.zeros(4, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)):
        torch.autograd.gradcheck(lambda y, t=targets: binary_cross_entropy(y, t), leaf, atol=1e-8)
        torch.autograd.gradgradcheck(lambda y, t=targets: binary_cross_entropy(y, t), leaf, atol=1e-8)
        slope = torch.autograd.grad(binary_cross_entropy(leaf, targets).sum(), leaf)[0]
        torch.testing.assert_close(slope, binary_errors(leaf.detach(), targets), rtol=1e-12, atol=1e-16)
    assert torch.equal(binary_errors(x.float(), t.float()), x.float().sigmoid() - t.float())  # trainings stay the same


def test_every_engine_reads_it_so() -> None:
    x, t = columns()
    hard = t % 1 == 0
    x, t = x[hard, None], t[hard, None]
    wanted = sum(exactly(float(a), float(b))[0] for a, b in zip(x, t, strict=True)) / len(x)
    criterion = Criterion.of("bce", outputs=x, targets=t)
    many = criterion.metrics["loss"].per_sample(x.movedim(0, -1)[None], t.movedim(0, -1)[None])
    known = known_loss(nn.BCEWithLogitsLoss())
    assert known is not None
    assert float(many.mean()) == pytest.approx(wanted, rel=1e-14)
    assert float(reading_of(known)(x, t)["loss"].value()) == pytest.approx(wanted, rel=1e-14)


def class_columns(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits [1, class, sample] whose class leads by 0 to 80, and classes."""
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(1, 5, 96, generator=generator), torch.randint(0, 5, (1, 96), generator=generator)
    leads = torch.linspace(-40, 80, 96)[None, None]
    return (z * 3 + 10 + torch.zeros_like(z).scatter(1, y[:, None], leads)).to(dtype), y


def class_loss(z: list[float], y: int) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """-log softmax and its slope with 60 digits."""
    with mpmath.workdps(60):
        powers = [mpmath.exp(mpmath.mpf(each)) for each in z]
        shares = [each / mpmath.fsum(powers) for each in powers]
        return -mpmath.log(shares[y]), [share - (k == y) for k, share in enumerate(shares)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_classes_is_exact_near_0(dtype: torch.dtype) -> None:
    z, y = class_columns(dtype)
    exact = [class_loss(row, label) for row, label in zip(z[0].T.tolist(), y[0].tolist(), strict=True)]
    wanted = torch.tensor([[float(loss) for loss, _ in exact]], dtype=torch.float64)
    found = cross_entropy(z, y)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=5e-6 if dtype == torch.float32 else 2e-14, atol=0)
    small = wanted < 0.06
    rounding = 5e-6 if dtype == torch.float32 else 1e-14  # of a difference of 80
    torch.testing.assert_close(found.double()[small], wanted[small], rtol=rounding, atol=0)
    assert int(small.sum()) > 40
    torch.testing.assert_close(class_reference(z, y), wanted, rtol=1e-14, atol=0)
    assert (F.cross_entropy(z, y, reduction="none") == 0).any()  # which loses them
    if dtype == torch.float64:
        slope = torch.tensor([[float(each) for each in slope] for _, slope in exact], dtype=torch.float64).T[None]
        torch.testing.assert_close(class_errors(z, y), slope, rtol=1e-13, atol=0)


def test_derivatives_of_cross_entropy_are_pytorchs() -> None:
    z, y = class_columns(torch.float64)
    leaf, picked = z[..., ::7].clone().requires_grad_(), y[:, ::7]
    torch.autograd.gradcheck(lambda each: cross_entropy(each, picked), leaf, atol=1e-7)
    torch.autograd.gradgradcheck(lambda each: cross_entropy(each, picked), leaf, atol=1e-6)
    slope = torch.autograd.grad(cross_entropy(leaf, picked).sum(), leaf)[0]
    torch.testing.assert_close(slope, class_errors(leaf.detach(), picked), rtol=1e-12, atol=1e-300)
    single = z.float().requires_grad_()
    assert torch.equal(cross_entropy(single, y), F.cross_entropy(single, y, reduction="none"))  # so do trainings
    assert torch.equal(class_errors(z.float(), y), z.float().softmax(1) - F.one_hot(y, 5).movedim(-1, 1).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stacked_engine_has_small_losses_of_classes_and_the_plain_one_its_users(dtype: torch.dtype) -> None:
    z, y = class_columns(torch.float32)
    x, labels = z[0].T[40:].contiguous(), y[0, 40:]
    problem = landscape.Problem.from_model(nn.Linear(5, 5, bias=False), (x, labels), "cross_entropy")
    ends = [{"weight": torch.eye(5) * scale} for scale in (1.0, 1.25)]
    stacked = landscape.walk(*ends, problem=problem, points=2, dtype=dtype, engine="stacked")["loss"][0]
    plain = landscape.walk(*ends, problem=problem, points=2, dtype=dtype, engine="plain")["loss"][0]
    for end, found, own in zip(ends, stacked, plain, strict=True):
        outputs = F.linear(x.to(dtype), end["weight"].to(dtype))
        exact = [class_loss(row, label)[0] for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)]
        assert found == pytest.approx(float(mpmath.fsum(exact) / len(x)), rel=2e-6 if dtype == torch.float32 else 1e-13)
        users = F.cross_entropy(outputs, labels, reduction="none").double().mean()
        assert own == pytest.approx(float(users), abs=torch.finfo(dtype).eps)  # to the rounding of 1


def test_a_cross_entropy_that_loses_digits_is_caught_by_the_referee(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.eye(4) * 14, torch.arange(4)
    problem = landscape.Problem.from_model(nn.Linear(4, 4, bias=False), (x, y), "cross_entropy")
    ends = [{"weight": torch.eye(4) * scale} for scale in (0.7, 0.8)]
    landscape.walk(*ends, problem=problem, points=3, engine="stacked")

    def torchs(logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, classes, reduction="none")

    monkeypatch.setattr("landscape.engine.losses.cross_entropy", torchs)
    with pytest.raises(Unverified, match="line 0 does not reproduce its own end"):
        landscape.walk(*ends, problem=problem, points=3, engine="stacked")


def scaled(factor: float) -> Stack:
    """The known solution with its last layer times a factor: the same decisions, at smaller losses."""
    known = Life().landmark("presolve")
    return Stack({name: t * factor if ".4." in name else t for name, t in known.tensors.items()})


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_the_loss_of_a_known_solution_by_the_sum_over_its_patterns(loss: str, factor: int) -> None:
    problem = Life(loss=loss)
    stack = scaled(factor)
    objective = problem.objective(dtype=torch.float64)
    data = objective.memory.samples(0, 512)
    logits = objective.network(stack, data.inputs).flatten().tolist()
    wanted = 0.0
    for x, t, weight in zip(logits, data.targets.flatten().tolist(), data.weights.flatten().tolist(), strict=True):
        cross, error = exactly(x, t)
        wanted += weight * (cross if loss == "bce" else error**2)
    assert float(objective(stack)["loss"]) == pytest.approx(wanted, rel=1e-13)
    assert float(objective.plain(stack)["loss"]) == pytest.approx(wanted, rel=1e-12)
    single = problem.objective()
    for found in (single(stack.to(torch.float32)), single.plain(stack.to(torch.float32))):
        assert float(found["loss"]) == pytest.approx(wanted, rel=1e-5 * factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_told_of_a_landmark_and_of_ends_is_the_number_of_float64(dtype: torch.dtype) -> None:
    found = verify(Life(), "presolve", dtype=dtype)
    assert found.loss == pytest.approx(2.92832167e-5, rel=1e-8)
    assert float(outcomes(Life(), scaled(1)).loss[0]) == found.loss
    assert float(Life().objective()(scaled(1))["loss"]) == pytest.approx(found.loss, rel=1e-6)
    assert found.loss / verify_scaled(2) == pytest.approx(25_840, abs=1)


def verify_scaled(factor: float) -> float:
    return float(Life().objective(dtype=torch.float64)(scaled(factor))["loss"])


def softplus_of_torch(x: Tensor, t: Tensor) -> Tensor:
    """Above a logit of 20 PyTorch's softplus is the logit itself."""
    return F.softplus(x) - x * t


def torchs(x: Tensor, t: Tensor) -> Tensor:
    """(1 - t) x - log sigmoid(x), which for dead cells takes the loss from the logit."""
    return F.binary_cross_entropy_with_logits(x, t.expand_as(x), reduction="none")


@pytest.mark.parametrize(
    ("old", "dtype", "factor"),
    [
        (softplus_of_torch, torch.float64, 3.0),
        (torchs, torch.float64, 3.0),
        (torchs, torch.float32, 1.0),
        (softplus_of_torch, torch.float32, 1.0),
    ],
)
def test_a_formula_that_loses_digits_is_caught_by_the_referee(
    old: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = scaled(factor).to(dtype).state_dict(0), scaled(factor + 0.5).to(dtype).state_dict(0)
    landscape.walk(start, end, problem=Life(), points=3, dtype=dtype)
    monkeypatch.setattr("landscape.problems.life.problem.binary_cross_entropy", old)
    with pytest.raises(Unverified, match="line 0 does not reproduce its own end"):
        landscape.walk(start, end, problem=Life(), points=3, dtype=dtype)
