"""Which members compute the same function, where functions are predictions on the data of any problem."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape.analysis.clusters import clusters_of
from landscape.analysis.outcomes import functions, outcomes
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import Proportion
from landscape.engine.stack import Stack, concatenate
from landscape.problems.digits import Digits
from landscape.problems.model import Model, from_model

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, generator=GENERATOR)
Y = X.argmax(1)


def linear() -> nn.Module:
    return nn.Linear(3, 3)


def members(*weights: Tensor) -> Stack:
    return Stack({"weight": torch.stack(weights), "bias": torch.zeros(len(weights), 3)})


#: Of classes: the solution, all the first class, the solution made steeper, its negative.
FOUR = members(torch.eye(3), torch.zeros(3, 3), 5 * torch.eye(3), -torch.eye(3))


@pytest.mark.parametrize("streamed", [False, True])
def test_functions_of_classifiers_are_the_classes_they_predict(streamed: bool) -> None:
    data: Any = [(X[:50], Y[:50]), (X[50:], Y[50:])] if streamed else (X, Y)
    found = outcomes(from_model(linear, data, nn.CrossEntropyLoss()), FOUR)
    plain = [(X @ weight.T).argmax(1) for weight in FOUR["weight"]]
    right = [int((each == Y).sum()) for each in plain]
    assert found.compared == "predicted classes"
    assert found.right is not None
    assert found.right.tolist() == right == [60, int((Y == 0).sum()), 60, 0]
    assert found.group.tolist() == [0, 1, 0, 2]
    assert [group.kind for group in found.groups] == ["solved", "constant", "partly right"]
    assert found.groups[0].share == Proportion(2, 4)
    assert found.solved == Proportion(2, 4)
    assert found.curvature is found.dead is None
    np.testing.assert_allclose(found.loss[1], np.log(3), rtol=1e-6)


def test_one_network_after_another_answers_as_stacks_do() -> None:
    problem = from_model(linear, (X, Y), "cross_entropy")
    assert torch.equal(problem.plain().answers(FOUR).decisions, problem.objective().answers(FOUR).decisions)


def test_statistics_of_batchnorm_are_those_that_members_bring_along() -> None:
    """Estimated anew, they would make the two alike."""
    problem = from_model(lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), (X, Y), "cross_entropy")
    stack = problem.initial([0]).select([0, 0])
    stack["1.weight"][:] = torch.eye(3)
    stack["1.bias"][:] = 0
    stack.buffers["0.running_mean"][1] = torch.tensor([9.0, 0.0, 0.0])
    assert outcomes(problem, stack).group.tolist() == [0, 1]


def test_functions_that_are_numbers_are_alike_up_to_a_tolerance() -> None:
    problem = from_model(linear, (X, 2 * X), "mse")
    stack = members(*(scale * torch.eye(3) for scale in (1.0, 1.00001, 1.1, 1.1001, -3.0)))
    found = outcomes(problem, stack)
    assert found.group.tolist() == [0, 0, 1, 1, 2]
    assert found.right is None
    assert {group.kind for group in found.groups} == {"varying"}
    rows = functions(problem, stack).rows.astype(np.float64)
    assert found.compared == f"outputs to within {rows.std() / 1000:.3g}"
    assert outcomes(problem, stack, tolerance=1.0).group.tolist() == [0, 0, 0, 0, 1]
    exact = outcomes(problem, stack, tolerance=1e-9)
    assert len(exact.groups) == 5
    with pytest.raises(LandscapeError, match=r"`tolerance` is 0.0, it must be positive"):
        outcomes(problem, stack, tolerance=0.0)
    with pytest.raises(LandscapeError, match="the answers are classes, which are alike or not: leave `tolerance` out"):
        outcomes(from_model(linear, (X, Y), "cross_entropy"), FOUR, tolerance=0.1)


def test_no_two_of_a_group_are_further_apart_than_the_tolerance() -> None:
    """A chain of small differences makes no group."""
    problem = from_model(linear, (X, 2 * X), "mse")
    stack = members(*(torch.eye(3) * (1 + 0.0006 * k) for k in range(6)))
    found = functions(problem, stack)
    limit = float(found.compared.split()[-1])
    for number in range(found.group.max() + 1):
        own = found.rows[found.group == number]
        assert np.abs(own[:, None] - own).max() <= 1.01 * limit
    assert found.group.max() > 0


def test_losses_that_read_outputs_themselves_have_no_functions() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    problem: Model = from_model(linear, (X, Y), batch_loss=loss)
    with pytest.raises(Unsupported, match="what a network predicts is not known where `batch_loss` gives its loss alone"):
        outcomes(problem, FOUR)


def test_clusters_are_compared_with_the_same_functions() -> None:
    found = clusters_of(from_model(linear, (X, Y), "cross_entropy"), concatenate([FOUR, FOUR]))
    assert found.group.tolist() == [0, 1, 0, 2] * 2
    assert found.compared == "predicted classes"
    assert repr(found).endswith("3 predicted classes)")


@pytest.mark.slow
def test_outcomes_of_any_run_on_the_command_line(landscape: Callable[..., Outcome]) -> None:
    run = ("train", "digits", "--seeds", "0:3", "--batches", "3", "-o", "run")
    assert landscape(*run).exit_code == 0
    result = landscape("analyse", "outcomes", "run")
    assert result.exit_code == 0, result.stderr
    assert "95 % interval of accuracy" in result.stdout
    assert f"functions are told apart by predicted classes on all {len(Digits().data())} samples" in result.stdout
    landscape("analyse", "outcomes", "run", "-o", "outcomes.json")
    document = json.loads(Path("outcomes.json").read_text())
    assert document["outcomes"]["compared"] == "predicted classes"
    clusters = landscape("analyse", "clusters", "run")
    assert "functions (predicted classes)" in clusters.stdout
    for figure in ("outcomes", "clusters"):
        drawn = landscape("plot", figure, "run", "-o", f"{figure}.png")
        assert drawn.exit_code == 0, drawn.stderr
    refused = landscape("analyse", "outcomes", "run", "--tolerance", "0.1")
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "leave --tolerance out" in refused.stderr
