"""Metrics that need all outputs at once: the same function of all outputs and targets by hand is the twin."""

import re
from collections.abc import Callable
from pathlib import Path
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


def names_of_results() -> list[str]:
    """What results have as axes, values, columns and tables, by the document of their file."""
    text = (Path(__file__).parent.parent / "docs" / "schema.md").read_text()
    rows = text[text.index("| variable | dimensions |") :].split("\n\n")[0].splitlines()[2:]
    names = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows))
    assert {"alpha", "loss_se", "start_stored", "max_lower", "above_chord_upper", "mark_loss"} <= set(names)
    return [*names, "test_loss", "test_auc", "auc_draw_se", "loss_draw_se"]


@pytest.mark.parametrize("name", [*names_of_results(), "two words", "acc/top1", ""])
def test_no_metric_is_called_like_something_that_a_result_has(name: Any) -> None:
    def batched(model: nn.Module, batch: Any) -> dict[Any, Tensor]:
        # A loss is the loss here, and accuracy is nobody else's.
        return {"loss": model(batch[0]).mean(), name: torch.ones(())}

    refusal = f"'{name}' cannot name a metric"
    for given in ({"metrics": {name: lambda o, t: o.mean()}}, {"metrics_all": {name: area}}):
        with pytest.raises(LandscapeError, match=refusal):
            from_model(net, (X, Y), "bce", test=(X, Y), **given)  # type: ignore[arg-type]
    if name not in ("loss", "accuracy"):
        with pytest.raises(LandscapeError, match=refusal):
            from_model(net, (X, Y), batch_loss=batched)


def test_a_metric_may_be_called_accuracy_where_the_loss_has_none_but_never_twice() -> None:
    own = {"accuracy": lambda outputs, targets: ((outputs > 0) == (targets > 0)).double().mean()}
    plain = from_model(net, (X, Y), lambda o, t: (o - t).square().mean(), own)
    assert "accuracy" in landscape.walk(net(), net(), problem=plain, points=3).values
    with pytest.raises(LandscapeError, match="'size' cannot name a metric: it is taken"):
        from_model(net, (X, Y), batch_loss=with_outputs, metrics_all={"size": area})
    with pytest.raises(LandscapeError, match="'auc' cannot name a metric: it is taken"):
        from_model(net, (X, Y), "mse", {"auc": lambda o, t: o.mean()}, metrics_all={"auc": area})


def test_every_name_of_a_result_is_refused() -> None:
    """As results have them, whatever the document says."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1))

    problem = from_model(build, (X, Y), "bce", test=(X, Y))
    line = landscape.walk(build(), build(), problem=problem, points=3, per="layer")
    alone = from_model(build, (X, Y), "bce")
    bounded = landscape.walk(build(), build(), problem=alone, points=3, certify=0.5, batchnorm="interpolate")
    plane = landscape.plane(build(), build(), build(), problem=problem, points=3)
    drawn = landscape.walk(build(), build(), problem=problem, points=3, draws=2)
    names = {name for each in (line, bounded, plane, drawn) for name in (*each.axes, *each.values, *each.columns)}
    assert {"start_stored", "peak_low", "moves", "test_accuracy_draw_se", "y"} <= names
    for name in names:
        with pytest.raises(LandscapeError, match=f"'{name}' cannot name a metric: it is taken"):
            from_model(net, (X, Y), "bce", {name: lambda o, t: o.mean()})


def test_outputs_and_targets_are_no_metrics_though_nothing_reads_them() -> None:
    problem = from_model(net, (X, Y), batch_loss=with_outputs)
    assert set(landscape.walk(net(), net(), problem=problem, points=3).values) == {"loss", "size"}
    with pytest.raises(LandscapeError, match=r"`batch_loss` gives targets without samples: .* call a metric otherwise"):
        from_model(net, (X, Y), batch_loss=lambda model, batch: {"loss": model(batch[0]).mean(), "targets": 3.0})


def fails(outputs: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("only so")
