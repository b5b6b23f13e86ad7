"""Losses as people write them give, sample by sample, what they give on the whole."""

import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.losses import Criterion


def classes(*space: int, samples: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    outputs = torch.randn(samples, 5, *space, generator=generator, dtype=torch.float64)
    return outputs, torch.randint(0, 5, (samples, *space), generator=generator)


def numbers(samples: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    outputs, targets = (torch.randn(samples, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return outputs, targets.sigmoid()


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs, targets)


def own_per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().sum(1)


LOSSES: list[tuple[Any, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]] = [
    ("cross_entropy", F.cross_entropy, classes()),
    ("cross_entropy", F.cross_entropy, classes(3, 2)),
    ("cross_entropy", F.cross_entropy, (classes()[0], classes()[0].softmax(1))),
    (nn.CrossEntropyLoss(), F.cross_entropy, classes()),
    (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1), classes()),
    (F.cross_entropy, F.cross_entropy, classes()),
    ("mse", F.mse_loss, numbers()),
    (nn.MSELoss(), F.mse_loss, numbers()),
    (nn.SmoothL1Loss(), F.smooth_l1_loss, numbers()),
    ("bce", F.binary_cross_entropy_with_logits, numbers()),
    (nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, numbers()),
    (huber, F.huber_loss, numbers()),
    (lambda o, t: ((o - t) ** 2).mean(), F.mse_loss, numbers()),
    (own_per_sample, lambda o, t: own_per_sample(o, t).mean(), numbers()),
]


@pytest.mark.parametrize(("loss", "whole", "data"), LOSSES)
def test_the_mean_of_the_samples_is_the_loss_of_all(loss: Any, whole: Any, data: tuple[Tensor, Tensor]) -> None:
    outputs, targets = data
    criterion = Criterion.of(loss, outputs=outputs, targets=targets)
    many = torch.stack([outputs, 2 * outputs + 1]).movedim(1, -1)
    values = criterion.metrics["loss"].per_sample(many, targets.movedim(0, -1)[None])
    assert values.shape == (2, len(outputs))
    torch.testing.assert_close(values[0].mean(), whole(outputs, targets))
    torch.testing.assert_close(values[1].mean(), whole(2 * outputs + 1, targets))


@pytest.mark.parametrize(("loss", "data"), [("cross_entropy", classes(3)), ("mse", numbers()), ("bce", numbers())])
def test_slopes_are_derivatives(loss: Any, data: tuple[Tensor, Tensor]) -> None:
    outputs, targets = data
    metric = Criterion.of(loss, outputs=outputs, targets=targets).metrics["loss"]
    many, shared = torch.stack([outputs, 1 - outputs]).movedim(1, -1), targets.movedim(0, -1)[None]
    leaf = many.clone().requires_grad_()
    (expected,) = torch.autograd.grad(metric.per_sample(leaf, shared).sum(), leaf)
    assert metric.slope is not None
    torch.testing.assert_close(metric.slope(many, shared), expected)


@given(data=st.data(), samples=st.integers(1, 9))
def test_right_is_argmax_with_ties_too(data: st.DataObject, samples: int) -> None:
    values = data.draw(st.lists(st.integers(0, 2), min_size=6 * samples, max_size=6 * samples))
    outputs = torch.tensor(values, dtype=torch.float64).view(2, 3, samples)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=samples, max_size=samples)))[None]
    criterion = Criterion.of("cross_entropy", outputs=outputs[0].T, targets=targets[0])
    expected = outputs.argmax(1) == targets
    assert torch.equal(criterion.metrics["right"].per_sample(outputs, targets), expected)
    assert torch.equal(criterion.metrics["accuracy"].per_sample(outputs, targets), expected.double())
    assert torch.equal(criterion.predict(outputs), outputs.argmax(1))


def test_metrics_of_one_s_own() -> None:
    outputs, targets = classes()

    def top2(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.topk(2, 1).indices == targets[:, None]).any(1)

    def margin(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.max(1).values.mean()

    criterion = Criterion.of("cross_entropy", {"top2": top2, "margin": margin}, outputs=outputs, targets=targets)
    many, shared = torch.stack([outputs, -outputs]).movedim(1, -1), targets[None]
    found = criterion.metrics["top2"].per_sample(many, shared)
    torch.testing.assert_close(found[1], top2(-outputs, targets).float())
    torch.testing.assert_close(criterion.metrics["margin"].per_sample(many, shared)[0].mean(), margin(outputs, targets))
    for name in ("loss", "top2_se", "two words"):
        with pytest.raises(LandscapeError, match=f"'{name}' cannot name a metric"):
            Criterion.of("cross_entropy", {name: top2}, outputs=outputs, targets=targets)


@pytest.mark.parametrize(
    ("loss", "data", "error", "message"),
    [
        ("hinge", numbers(), Unsupported, "there is no loss 'hinge': choose cross_entropy, mse, bce"),
        (lambda o, t: torch.zeros(3), numbers(), Unsupported, r"shape \[3\] for 7 samples: let it give one number"),
        (lambda o, t: 0.5, numbers(), Unsupported, "gives float, not a tensor"),
        (
            lambda o, t: o @ t,
            numbers(),
            Mismatch,
            r"cannot read outputs \[7, 4\] \(torch.float64\) and targets \[7, 4\]",
        ),
        (
            "mse",
            (numbers()[0][:, :1], numbers()[1][:, 0]),
            Mismatch,
            r"outputs of shape \[1\] a sample do not fit",
        ),
        ("cross_entropy", (classes()[0], classes()[1] + 9), Mismatch, "the loss cannot read outputs"),
    ],
)
def test_losses_that_are_none_are_refused(loss: Any, data: Any, error: type[Exception], message: str) -> None:
    outputs, targets = data
    with pytest.raises(error, match=message):
        Criterion.of(loss, outputs=outputs, targets=targets)


@pytest.mark.parametrize(
    ("loss", "data", "message"),
    [
        (nn.MSELoss(reduction="sum"), numbers(), r"MSELoss\(reduction='sum'\) is no mean over samples"),
        (lambda o, t: o @ o.T, classes(), "gives a sample another number when other samples are left out"),
        (lambda o, t: o.mean() if o.sum() > 0 else o.sum(), numbers(), "cannot be computed sample by sample"),
        (lambda o, t: F.cross_entropy(o, t, weight=torch.arange(5.0).double()), classes(), "the mean of what it gives"),
    ],
)
def test_losses_that_are_no_means_over_samples_are_read_whole(loss: Any, data: Any, message: str) -> None:
    outputs, targets = data
    criterion = Criterion.of(loss, outputs=outputs, targets=targets)
    assert not criterion.metrics
    assert re.search(message, criterion.refusal)
    expected = loss(outputs, targets).double().mean()
    torch.testing.assert_close(criterion.tallies(outputs, targets)["loss"].value(), expected)
