"""Which members compute the same function, where functions are predictions on the data of any problem."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape import figures
from landscape.analysis.clusters import clusters_of
from landscape.analysis.outcomes import functions, outcomes
from landscape.analysis.success import success
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import Proportion
from landscape.engine.answers import Answers, decided
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


#: Of four tokens a sample, of three classes; the last two, and all of each third sample, are ignored.
TOKENS = torch.stack([X.argmax(1), X.argmin(1), *torch.full((2, 60), -100)], 1)
TOKENS[::3] = -100


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).view(-1, 3, 4)  # [sample, class, token]


def token_members() -> Stack:
    """One that is right at the tokens that count; one that differs at ignored tokens alone; one that is half right."""
    solved = torch.zeros(3, 4, 3)  # [class, token, feature]
    solved[:, 0], solved[:, 1] = torch.eye(3), -torch.eye(3)
    other, half = solved.clone(), solved.clone()
    other[:, 2], half[:, 1] = torch.eye(3), torch.eye(3)
    weight = torch.stack([solved, other, half]).reshape(3, 12, 3)
    return Stack({"each.weight": weight, "each.bias": torch.zeros(3, 12)})


def test_a_network_that_is_right_where_targets_count_is_solved() -> None:
    y = torch.where(torch.arange(60) % 3 == 0, -100, Y)
    found = outcomes(from_model(linear, (X, y), "cross_entropy"), FOUR)
    assert found.right is not None
    assert (found.right.tolist(), found.total) == ([40, int((y == 0).sum()), 40, 0], 40)
    assert found.solved == Proportion(2, 4)
    assert (found.samples, found.targets) == (60, 40)
    weighed = from_model(linear, (X, Y, (torch.arange(60) % 3 != 0).double()), "cross_entropy")
    assert outcomes(weighed, FOUR).total == 40


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("streamed", [False, True])
def test_of_tokens_a_sample_is_right_whose_tokens_are_and_accuracy_is_that_of_the_metric(
    engine: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "prefers_stacks", lambda self, device: engine == "stacked")
    data: Any = [(X[:50], TOKENS[:50]), (X[50:], TOKENS[50:])] if streamed else (X, TOKENS)
    problem, stack = from_model(Tokens, data, "cross_entropy"), token_members()
    found = outcomes(problem, stack)
    assert found.group.tolist() == [0, 0, 1]
    assert found.right is not None
    assert found.right.tolist() == [40, 40, 0]
    assert (found.samples, found.total, found.targets) == (60, 40, 80)
    assert [group.kind for group in found.groups] == ["solved", "partly right"]
    values = problem.plain()(stack)
    assert [group.accuracy for group in found.groups] == pytest.approx(values["accuracy"][[0, 2]].tolist())
    # Samples without a target that counts are among the metric's 60.
    exact = [float(each) * (59 / 60 * 40 / 39) ** 0.5 for each in values["accuracy_se"][[0, 2]]]
    assert [group.accuracy_se for group in found.groups] == pytest.approx(exact, abs=1e-12)
    assert values["accuracy"][2] == 0.5


def test_one_network_after_another_is_judged_as_stacks_are() -> None:
    for problem, stack in (
        (from_model(Tokens, (X, TOKENS), "cross_entropy"), token_members()),
        (from_model(linear, (X, (X > 0).float()), "bce"), FOUR),
    ):
        plain, stacked = problem.plain().answers(stack), problem.objective().answers(stack)
        for name in ("decisions", "hits", "sample", "place"):
            assert torch.equal(getattr(plain, name), getattr(stacked, name)), name


def test_success_counts_no_ignored_target_as_a_mistake() -> None:
    y = torch.where(torch.arange(60) % 3 == 0, -100, Y)
    found = success(from_model(linear, (X, Y), "cross_entropy", test=(X, y)), FOUR)
    assert found.solved.tolist() == [True, False, True, False]
    assert found.samples == 40
    assert found.sample_rate.tolist()[0] == 1


def with_outputs(model: nn.Module, batch: Any) -> dict[str, Any]:
    logits = model(batch[0])
    return {"loss": nn.functional.cross_entropy(logits, batch[1]), "outputs": logits, "targets": batch[1]}


def test_a_batch_loss_that_gives_outputs_and_targets_has_the_functions_of_its_loss() -> None:
    for build, targets, stack in ((linear, Y, FOUR), (Tokens, TOKENS, token_members())):
        given = from_model(build, (X, targets), batch_loss=with_outputs, batch_size=25)
        known = outcomes(from_model(build, (X, targets), "cross_entropy"), stack)
        found = outcomes(given, stack)
        for one, two in zip(found.groups, known.groups, strict=True):
            assert dataclasses.replace(one, loss=0) == dataclasses.replace(two, loss=0)
        assert found.compared == known.compared == "predicted classes"
        assert (found.total, found.targets) == (known.total, known.targets)
        assert set(given.plain()(stack)) == {"loss"}


def test_what_outputs_decide_depends_on_the_targets_beside_them() -> None:
    scores, labels = torch.randn(6, 4, 5, generator=GENERATOR), torch.randint(0, 4, (6, 5), generator=GENERATOR)
    labels[0, 0], labels[1] = -1, -100
    for outputs in (scores, scores.movedim(1, -1), scores.argmax(1)):
        found = decided(outputs, labels)
        assert found.decisions[0].tolist() == scores.argmax(1)[labels >= 0].tolist()
        assert found.hits is not None
        assert found.hits[0].tolist() == (scores.argmax(1) == labels)[labels >= 0].tolist()
        assert found.of_samples()[1].tolist() == [4, 5, 5, 5, 5]
    for targets in (None, torch.rand(6), torch.full((6, 5), 4), torch.rand(6, 4, 5)):
        found = decided(scores, targets)
        assert found.hits is None
        assert torch.equal(found.decisions[0], scores.flatten())
    sides = decided(scores > 0, scores > 1)
    assert sides.hits is not None
    assert sides.hits[0].tolist() == ((scores > 0) == (scores > 1)).flatten().tolist()
    with pytest.raises(
        Unsupported, match=r"outputs of shape \[2, 3, 3\] for targets of shape \[2, 3\] may have classes"
    ):
        decided(scores[:2, :3, :3], labels[:2, :3].clamp(max=2))
    with pytest.raises(Unsupported, match="the entry `outputs` that `batch_loss` gives is dict"):
        decided({"logits": scores}, labels)
    with pytest.raises(Unsupported, match="outputs and targets are of one kind in some batches"):
        Answers.joined([decided(scores, labels), decided(scores)])


class Causal(nn.Module):
    """Logits and the loss of the next token, as Hugging Face's models return them."""

    def __init__(self, shift: int = 1) -> None:
        super().__init__()
        self.embed, self.out, self.shift = nn.Embedding(7, 4), nn.Linear(4, 7), shift

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(self.embed(input_ids))
        until = logits.shape[1] - self.shift
        loss = nn.functional.cross_entropy(logits[:, :until].flatten(0, 1), labels[:, self.shift :].flatten())
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("shift", [0, 1])
def test_of_a_models_own_loss_it_is_found_out_which_label_a_logit_answers(shift: int) -> None:
    ids = torch.randint(0, 7, (20, 6), generator=GENERATOR)
    labels = torch.where(torch.arange(6) < 4, ids, -100)
    problem = from_model(lambda: Causal(shift), {"input_ids": ids, "labels": labels}, batch_loss="own")
    stack = problem.initial([0, 1])
    found = outcomes(problem, stack)
    assert found.targets == 20 * (4 - shift)
    for member in range(2):
        network = problem.network()
        network.load_state_dict(stack.state_dict(member))
        says = network(ids, labels)["logits"].argmax(-1)[:, : 6 - shift]
        hits = (says == labels[:, shift:])[labels[:, shift:] != -100]
        assert found.groups[found.group[member]].accuracy == pytest.approx(float(hits.double().mean()))


def test_losses_alone_have_no_functions_and_clusters_of_parameters_need_none() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    problem: Model = from_model(linear, (X, Y), batch_loss=loss)
    refusal = "what a network predicts is not known where `batch_loss` gives its loss alone"
    with pytest.raises(Unsupported, match=refusal):
        outcomes(problem, FOUR)
    with pytest.raises(Unsupported, match=refusal):
        clusters_of(problem, FOUR)
    with pytest.raises(Unsupported, match=refusal):
        clusters_of(problem, FOUR, by="parameters", tolerance=0.1)
    found = clusters_of(problem, FOUR, by="parameters")
    known = clusters_of(from_model(linear, (X, Y), "cross_entropy"), FOUR, by="parameters")
    assert found.label.tolist() == known.label.tolist()
    assert found.predictions is found.agreement is found.compared is None
    assert repr(found).endswith("parameters within 0.05, predictions unknown)")
    assert "unknown" in found._repr_html_()
    _, ax = plt.subplots()
    assert figures.dendrogram(ax, found).get_legend() is None
    plt.close()


def test_clusters_are_compared_with_the_same_functions() -> None:
    found = clusters_of(from_model(linear, (X, Y), "cross_entropy"), concatenate([FOUR, FOUR]))
    assert found.predictions.tolist() == [0, 1, 0, 2] * 2
    assert found.compared == "predicted classes"
    assert repr(found).endswith("3 predicted classes)")


MODULE = """
import torch
from torch import nn
from landscape import Problem
X = torch.eye(3).repeat(8, 1)
Y = torch.stack([X.argmax(1), X.argmin(1), torch.full((24,), -100)], 1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.each = nn.Linear(3, 9)
    def forward(self, x):
        return self.each(x).view(-1, 3, 3)
TOKENS = Problem.from_model(Net, (X, Y), "cross_entropy")
ALONE = Problem.from_model(Net, (X, Y), batch_loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))
"""


def test_the_command_line_says_of_what_the_accuracy_is_and_what_to_write_instead(
    landscape: Callable[..., Outcome],
) -> None:
    Path("mine.py").write_text(MODULE)
    for name in ("TOKENS", "ALONE"):
        made = landscape("train", f"mine.py:{name}", "--seeds", "0:2", "--batches", "2", "-o", name)
        assert made.exit_code == 0, made.stderr
    result = landscape("analyse", "outcomes", "TOKENS")
    assert "samples right  95 % interval of their share  accuracy of targets" in result.stdout
    assert "accuracy is over all 48 of these" in result.stdout
    for verb in ("outcomes", "clusters"):
        refused = landscape("analyse", verb, "ALONE")
        assert refused.exit_code == 1
        assert refused.stderr.count("\n") == 1
        assert "a dict of loss, outputs (such as logits) and targets" in refused.stderr
    alone = landscape("analyse", "clusters", "ALONE", "--by", "parameters", "--threshold", "1", "-o", "clusters.json")
    assert "groups are joined by pairs at most 1 apart" in alone.stdout
    assert json.loads(Path("clusters.json").read_text())["levels"][0]["agreement"] is None
    drawn = landscape("plot", "clusters", "ALONE", "--by", "parameters", "--threshold", "1", "-o", "clusters.png")
    assert drawn.exit_code == 0, drawn.stderr
    both = landscape("analyse", "clusters", "TOKENS", "--by", "outputs", "--by", "parameters", "--by", "barrier")
    assert "agreement between levels (adjusted Rand index)" in both.stdout
    mixed = landscape("analyse", "clusters", "TOKENS", "--by", "outputs", "--by", "barrier", "--threshold", "1")
    assert (mixed.exit_code, "give one --by with it" in mixed.stderr) == (1, True)


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
    assert "Agreement with predicted classes" in clusters.stdout
    for figure in ("outcomes", "clusters"):
        drawn = landscape("plot", figure, "run", "-o", f"{figure}.png")
        assert drawn.exit_code == 0, drawn.stderr
    refused = landscape("analyse", "outcomes", "run", "--tolerance", "0.1")
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "leave --tolerance out" in refused.stderr
