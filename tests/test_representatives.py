"""Representatives of networks with data: walks, planes and curves to them, their checks, and what is said of them."""

import copy
import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import symmetries
import torch
from click.testing import Result as Outcome
from torch import nn

import landscape as package
from landscape import Problem, barriers, plane, walk
from landscape.analysis.barriers import representatives
from landscape.core.errors import LandscapeError, Unverified
from landscape.engine.stack import Stack
from landscape.figures import walk_figure
from landscape.problems.compute import Compute
from landscape.problems.registry import create
from landscape.space.alignment import match
from landscape.space.symmetry import Axis, Symmetry, act
from landscape.store.checkpoints import Run
from landscape.store.results import Result


def problem_of(name: str, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> tuple[Problem, nn.Module, Symmetry]:
    """A network of this name with data, whose symmetry is that written out by hand."""
    net, symmetry, inputs = symmetries.made(name, seed)
    with torch.no_grad():
        outputs = net(inputs)
    targets = outputs + 0.1 * torch.randn_like(outputs) * outputs.std()
    problem = Problem.from_model(net, (inputs, targets), "mse")
    monkeypatch.setattr(type(problem), "symmetry", lambda self: symmetry)
    return problem, net, symmetry


@pytest.mark.parametrize("name", symmetries.NETWORKS)
def test_there_is_no_barrier_to_a_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, net, symmetry = problem_of(name, monkeypatch)
    copy = act(symmetries.stack_of(net), symmetry, symmetries.element(symmetry)).state_dict(0)
    how: dict[str, Any] = {"batchnorm": "interpolate"} if "batch" in name or "normalised" in name else {}
    result = walk(net, copy, problem=problem, align=True, points=5, dtype=torch.float64, **how)
    assert result["aligned"].tolist() == [False, True]
    assert result["l2"][1] < 1e-6 * symmetries.stack_of(net).norms()[1][0]
    assert result["l2"][0] > 0.1
    found = barriers(result)
    assert found.above_chord[1] < 1e-9
    assert found.above_chord[0] > 1e-6
    np.testing.assert_allclose(result.loss[1], result.loss[0, 0], rtol=1e-9)
    assert result.about["align"]["groups"] == len(symmetry)


def test_align_gives_back_what_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem, net, symmetry = problem_of("cnn", monkeypatch)
    stack = symmetries.stack_of(net)
    moved = act(stack, symmetry, symmetries.element(symmetry))
    other, _, _ = symmetries.made("cnn")
    other.load_state_dict(moved.state_dict(0))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    inputs = torch.randn(4, 2, 8, 8).double()
    torch.save(moved.state_dict(0), tmp_path / "other.pt")
    for given in (other, moved.state_dict(0), moved, tmp_path / "other.pt"):
        found = package.align(net, given, problem=problem)
        assert found.before[0] > 1
        assert found.after[0] < 1e-9
        assert repr(found) == f"Alignment(L2 {found.before[0]:.4g} -> {found.after[0]:.4g}, up to 11 units, 11 scales)"
        network = found.network
        if isinstance(given, nn.Module):
            assert isinstance(network, type(other))
            torch.testing.assert_close(network(inputs), net(inputs), rtol=1e-9, atol=1e-12)
            network = network.state_dict()
        elif isinstance(given, Stack):
            network = network.state_dict(0)
        elif isinstance(given, Path):
            assert network.sources[0].order == "aligned"
            network = network.stack.state_dict(0)
        assert network.keys() == net.state_dict().keys()
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(network[name], tensor, rtol=1e-8, atol=1e-10)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name])  # what was given is as it was


def test_a_wrong_symmetry_is_found_and_the_module_named(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, net, symmetry = problem_of("mlp", monkeypatch)
    first, second, third = symmetry
    wrong = dataclasses.replace(
        second, axes=(second.axes[0], Axis("2.bias", 0), Axis("0.weight", 1)), size=5, scalings=()
    )
    other = symmetries.stack_of(symmetries.made("mlp", 7)[0]).state_dict(0)
    monkeypatch.setattr(type(problem), "symmetry", lambda self: Symmetry((first, wrong, third)))
    message = (
        r"does not compute what the network computes: outputs differ by .* because of the units of 2, 0: leave `align`"
    )
    with pytest.raises(Unverified, match=message):
        package.align(net, other, problem=problem)
    with pytest.raises(Unverified, match=message):
        walk(net, other, problem=problem, align=True)


def test_units_that_are_held_are_told_and_stored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem, net, symmetry = problem_of("mlp", monkeypatch)
    told = Symmetry(symmetry.groups, ("2: its units are read by code that is not known",), ("0: rotations",))
    monkeypatch.setattr(type(problem), "symmetry", lambda self: told)
    other = symmetries.stack_of(symmetries.made("mlp", 7)[0])
    with torch.no_grad():
        other["4.weight"][:, 2], other["4.bias"][:, 2] = -1.0, -100.0  # never active
        net[6].weight[:, 1] = 0  # read by nobody
    with caplog.at_level(logging.INFO, logger="landscape"):
        result = walk(net, other.state_dict(0), problem=problem, align=True, points=3)
    assert "units of 1 module stay as they are: 2: its units are read by code that is not known" in caplog.text
    assert "aligned up to the order of 24 units, 24 positive scales, in 3 groups" in caplog.text
    assert (
        "dead units and 0 duplicates in 2 networks, on 20 samples: their order and scale are arbitrary" in caplog.text
    )
    about = result.about["align"]
    assert (about["refused"], about["unquotiented"]) == (list(told.refused), list(told.unquotiented))
    assert about["dead"] >= 2
    assert about["networks"] == 2
    assert sum(about["found_by"].values()) == 1


def test_networks_without_a_known_symmetry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, net, _ = problem_of("mlp", monkeypatch)
    monkeypatch.setattr(type(problem), "symmetry", lambda self: Symmetry(refused=("0: it is called twice",)))
    with pytest.raises(LandscapeError, match=r"is known \(0: it is called twice\), .* leave `align` out"):
        walk(net, net, problem=problem, align=True)


def test_all_pairs_are_aligned_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _, _ = problem_of("odd_mlp", monkeypatch)
    members = [symmetries.made("odd_mlp", seed)[0] for seed in range(3)]
    result = walk(members, members, problem=problem, align=True, pairs="all", points=3, dtype=torch.float64)
    assert result.loss.shape == (6, 3)  # each two members once, and once more to representatives
    aligned = representatives(result)["aligned"]
    for line, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        alone = package.align(members[i], members[j], problem=problem)
        assert aligned["l2"][line] == pytest.approx(alone.after[0], rel=1e-12)
    assert result.about["align"]["networks"] == 3


def test_planes_and_curves_lead_to_representatives(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, net, symmetry = problem_of("mlp", monkeypatch)
    b, c = (symmetries.stack_of(symmetries.made("mlp", seed)[0]) for seed in (1, 2))
    moved = [act(each, symmetry, symmetries.element(symmetry, 3)).state_dict(0) for each in (b, c)]
    naive = plane(net, *moved, problem=problem, points=3)
    aligned = plane(net, *moved, problem=problem, points=3, align=True)
    assert [mark.source.order for mark in aligned.marks] == ["", "aligned", "aligned"]
    assert aligned.marks[1].x < naive.marks[1].x
    assert aligned.marks[1].x == pytest.approx(package.align(net, moved[0], problem=problem).after[0], rel=1e-5)
    assert [m.loss for m in aligned.marks] == pytest.approx([m.loss for m in naive.marks], rel=1e-5)
    assert aligned.about["plane"]["align"]["groups"] == 3
    with pytest.raises(LandscapeError, match="`align` moves places towards the first of three"):
        plane(net, problem=problem, align=True)
    curves = package.connect(net, moved[0], problem=problem, align=True, points=3, method="bezier", steps=2)
    assert curves["aligned"].tolist() == [False, True]
    assert curves["loss_straight"].shape == (2, 3)


def test_both_kinds_of_lines_are_printed_and_drawn(landscape: Callable[..., Outcome], run: Run, tmp_path: Path) -> None:
    called = landscape("walk", "--from", "presolve", "--to", str(run.path), "--align", "--points", "5")
    assert called.exit_code == 0, called.output
    path = Path(called.stdout.strip())
    assert path.name == "presolve--small-aligned.h5"
    result = Result.read(path)
    assert result["aligned"].tolist() == [False] * 24 + [True] * 24
    told = landscape("analyse", "barriers", str(path)).stdout
    assert "above_chord, stored" in told
    assert "above_chord, aligned" in told
    assert "aligned: each end the representative close to its start, up to 3 units" in told
    kinds = representatives(result)
    assert (kinds["aligned"]["l2"] <= kinds["stored"]["l2"]).all()
    figure = walk_figure([result])
    left, right = figure.axes
    legend = left.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["aligned", "stored"]
    assert [text.get_text().split("\n")[0] for text in right.get_xticklabels()] == ["aligned", "stored"]
    assert "24 seeds" in left.get_title(loc="left")
    assert "Aligned: the end is another network" in " ".join(figure.get_supxlabel().split())


def test_outputs_of_any_structure_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss of a batch that gives outputs, and of data of which no part can be taken."""
    problem, net, symmetry = problem_of("mlp", monkeypatch)
    inputs = torch.randn(8, 5).double()

    def loss(model: nn.Module, batch: Any) -> Any:
        out = model(batch["x"])
        return {"loss": out.square().mean() * batch["scale"].mean(), "outputs": out}

    other = Problem.from_model(net, [{"x": inputs, "scale": torch.ones(3).double()}], batch_loss=loss)
    monkeypatch.setattr(type(other), "symmetry", lambda self: symmetry)
    moved = act(symmetries.stack_of(net), symmetry, symmetries.element(symmetry))
    assert package.align(net, moved, problem=other).after[0] < 1e-9
    ((found, _),) = other.plain(dtype=torch.float64).looked_at(moved, 4)
    assert found
    assert Compute().objective(problem) is not None


def test_a_figure_shows_the_ends_that_are_asked_for(landscape: Callable[..., Outcome]) -> None:
    made = landscape("train", "life", "--seeds", "0:2", "--batches", "2", "-o", "run")
    assert made.exit_code == 0, made.stderr
    for name, more in (("both", ("--align",)), ("naive", ())):
        landscape("walk", "--from", "presolve", "--to", "run", "--points", "3", *more, "-o", f"{name}.h5")
    for ends in ("both", "stored", "aligned"):
        drawn = landscape("plot", "walk", "both.h5", "--ends", ends, "-o", f"{ends}.png")
        assert drawn.exit_code == 0, drawn.stderr
    refused = landscape("plot", "walk", "naive.h5", "--ends", "aligned", "-o", "no.png")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "Error: naive.h5 was walked without --align, all its ends are as they are: leave --ends out\n"
    )


def test_the_representative_is_the_better_one_half_way() -> None:
    """Of trained networks: the loss in the middle is never above that of the closest one, nor above that of the network
    as it is, in a plain module.
    """
    problem = create("digits", {"width": 8})
    torch.manual_seed(0)
    nets = [problem.network() for _ in range(4)]
    samples = problem.training_data()
    for net in nets:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(samples.inputs), samples.targets).backward()
            optimizer.step()

    def middle(one: nn.Module, other: Mapping[str, torch.Tensor]) -> float:
        half = copy.deepcopy(one).double()
        half.load_state_dict({name: (t.double() + other[name].double()) / 2 for name, t in one.state_dict().items()})
        with torch.no_grad():
            return float(nn.functional.cross_entropy(half(samples.inputs.double()), samples.targets))

    lower = 0
    for one, other in itertools.combinations(nets, 2):
        stacks = [Stack({name: t.detach()[None] for name, t in net.state_dict().items()}) for net in (one, other)]
        closest = match(stacks[1], stacks[0], problem.symmetry()).stack.state_dict(0)
        found = package.align(one, other, problem=problem).network.state_dict()
        stored = {name: t.detach() for name, t in other.state_dict().items()}
        assert middle(one, found) <= min(middle(one, closest), middle(one, stored)) * (1 + 2e-3)
        lower += middle(one, found) < 0.99 * middle(one, closest)
    assert lower > 0
