"""Metrics that need all outputs at once: the same function of all outputs and targets by hand is the twin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.problems.model import from_model
from landscape.store.results import Result

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(90, 4, generator=GENERATOR)
Y = ((X[:, 0] + torch.randn(90, generator=GENERATOR)) > 0).float()[:, None]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def area(outputs: Tensor, targets: Tensor) -> float:
    return float(roc_auc_score(targets, outputs))


def correlation(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([outputs.flatten(), targets.flatten()]))[0, 1]


BOTH = {"auc": area, "correlation": correlation}


def with_outputs(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    outputs = model(batch[0])
    loss = F.binary_cross_entropy_with_logits(outputs, batch[1])
    return {"loss": loss, "outputs": outputs, "targets": batch[1], "size": outputs.square().mean()}


@pytest.mark.parametrize(
    "problem",
    [
        lambda: from_model(net, (X, Y), "bce", metrics_all=BOTH, test=(X[:40], Y[:40])),
        lambda: from_model(net, DataLoader(TensorDataset(X, Y), 32), "bce", metrics_all=BOTH, test=(X[:40], Y[:40])),
        lambda: from_model(
            net, (X, Y), batch_loss=with_outputs, metrics_all=BOTH, batch_size=32, test=(X[:40], Y[:40])
        ),
    ],
    ids=["in memory", "streamed", "batch_loss"],
)
def test_a_metric_of_all_is_the_function_of_all_outputs(problem: Callable[[], Any]) -> None:
    ends = [net(), net()]
    found = landscape.walk(*ends, problem=problem(), points=3)
    for place, weight in enumerate((0.0, 0.5, 1.0)):
        states = [each.state_dict() for each in ends]
        between = net()
        between.load_state_dict({name: (1 - weight) * states[0][name] + weight * states[1][name] for name in states[0]})
        outputs = between(X).detach()
        assert found["auc"][0, place] == pytest.approx(roc_auc_score(Y, outputs), rel=1e-6)
        assert found["correlation"][0, place] == pytest.approx(float(correlation(outputs, Y)), rel=1e-4)
        assert found["test_auc"][0, place] == pytest.approx(roc_auc_score(Y[:40], outputs[:40]), rel=1e-6)
    assert "auc_se" not in found.values


def test_one_number_a_batch_is_called_a_mean_over_batches() -> None:
    problem = from_model(net, (X, Y), batch_loss=with_outputs, metrics_all=BOTH, batch_size=32)
    found: Result = landscape.walk(net(), net(), problem=problem, points=3)
    assert found.about["means_over_batches"] == ["loss", "size"]
    whole = from_model(net, (X, Y), batch_loss=with_outputs, metrics_all=BOTH)
    assert "means_over_batches" not in landscape.walk(net(), net(), problem=whole, points=3).about


def test_derivatives_and_training_leave_metrics_of_all_alone() -> None:
    problem = from_model(net, (X, Y), batch_loss=with_outputs, metrics_all=BOTH)
    network = net()
    (_, gradient) = problem.plain().gradient(problem.initial([0]))
    assert gradient.parameters == sum(each.numel() for each in network.parameters())
    plain = from_model(net, (X, Y), "bce")
    few = {"top": 1, "max_products": 20}
    both = [landscape.curvature(network, problem=each, **few).eigenvalues for each in (problem, plain)]  # type: ignore[arg-type]
    assert both[0] == pytest.approx(both[1], rel=1e-3)


def test_metrics_of_all_that_cannot_serve_are_one_line() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    with pytest.raises(LandscapeError, match=r"read the entries outputs and targets of what `batch_loss` gives, which"):
        from_model(net, (X, Y), batch_loss=loss, metrics_all=BOTH)
    with pytest.raises(LandscapeError, match="'loss' cannot name a metric: it is taken"):
        from_model(net, (X, Y), "bce", metrics_all={"loss": area})
    with pytest.raises(LandscapeError, match="`metrics_all` know nothing of weights of samples"):
        from_model(net, (X, Y, torch.ones(90)), "bce", metrics_all=BOTH)
    with pytest.raises(Unsupported, match="`metrics_all` of Sequential read the outputs of one network"):
        landscape.walk(
            net(), net(), problem=from_model(net, (X, Y), "bce", metrics_all=BOTH), points=3, engine="stacked"
        )
    with pytest.raises(Mismatch, match="`metrics_all` auc does not run: ValueError: only so"):
        landscape.walk(net(), net(), problem=from_model(net, (X, Y), "bce", metrics_all={"auc": fails}), points=3)
    with pytest.raises(Unsupported, match=r"`metrics_all` auc gives shape \[90, 1\]: let it give one number"):
        landscape.walk(
            net(), net(), problem=from_model(net, (X, Y), "bce", metrics_all={"auc": lambda o, t: o}), points=3
        )


def fails(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("only so")
