"""Handwritten digits: the data and its split, networks of any size, their symmetry, and runs from the command line."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.stack import Stack
from landscape.evaluation.walk import walk
from landscape.problems import digits
from landscape.problems.digits import TEST, TRAIN, Digits
from landscape.problems.initialisation import initialise
from landscape.problems.places import run_members
from landscape.problems.registry import create
from landscape.space import alignment
from landscape.space import symmetry as align
from landscape.store.checkpoints import Run
from landscape.store.results import Result
from landscape.training.train import Training, train

KINDS = ({"architecture": "mlp", "depth": 1}, {"architecture": "mlp", "depth": 3}, {"architecture": "cnn"})


def test_the_split_is_of_all_images_and_always_the_same() -> None:
    from sklearn.datasets import load_digits

    found = load_digits()
    parts = [Digits().training_data(), Digits().test_data()]
    assert [len(part) for part in parts] == [TRAIN, TEST] == [1297, 500]
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets"))
    ours = sorted((*image, label) for image, label in zip((images * 16).long().tolist(), labels.tolist(), strict=True))
    theirs = zip(found.data.astype(int).tolist(), found.target.tolist(), strict=True)
    assert ours == sorted((*image, label) for image, label in theirs)
    assert (images.min(), images.max()) == (0, 1)
    # A change of the split would silently change every number that is measured on it.
    assert parts[1].targets[:12].tolist() == [3, 5, 0, 3, 1, 1, 4, 7, 7, 5, 0, 3]
    assert parts[0].targets.bincount().min() > 100


def test_both_kinds_of_network_see_the_same_images() -> None:
    flat, image = (Digits(architecture=kind).training_data() for kind in ("mlp", "cnn"))
    assert flat.inputs.shape == (TRAIN, 64)
    assert image.inputs.shape == (TRAIN, 1, 8, 8)
    assert torch.equal(image.inputs.flatten(1), flat.inputs)
    assert torch.equal(image.targets, flat.targets)


def test_random_labels_are_uniform_and_of_their_seed() -> None:
    true = Digits()
    one, again, other = (Digits(labels="random", label_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.training_data().inputs, true.training_data().inputs)
    assert torch.equal(one.training_data().targets, again.training_data().targets)
    for a, b in ((one, other), (one, true)):
        assert 0.07 < (a.training_data().targets == b.training_data().targets).double().mean() < 0.13
    counts = one.training_data().targets.bincount(minlength=10)
    assert ((counts - TRAIN / 10).square() / (TRAIN / 10)).sum() < 27.9  # chi squared with 9 degrees of freedom: 0.1 %
    assert torch.equal(one.test_data().targets, true.test_data().targets)


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("width", [1, 37])
def test_the_loss_is_that_of_the_plain_network(fields: dict[str, Any], width: int) -> None:
    problem = Digits(width=width, **fields)
    network = problem.network()
    stack = initialise(network, [3, 4])
    network.load_state_dict(stack.state_dict(1))
    for on, part in (("train", problem.training_data()), ("test", problem.test_data())):
        outputs = network(part.inputs)
        expected = nn.functional.cross_entropy(outputs, part.targets)
        values = Digits(width=width, on=on, **fields).objective()(stack)
        torch.testing.assert_close(values["loss"][1].float(), expected, rtol=1e-4, atol=1e-6)
        assert values["right"][1] == (outputs.argmax(1) == part.targets).sum()
        assert values["loss_se"].shape == (2,)


@pytest.mark.parametrize("fields", [*KINDS, {"architecture": "cnn_bn"}], ids=str)
def test_other_orders_are_the_same_function(fields: dict[str, Any]) -> None:
    problem = Digits(width=6, **fields)
    network = problem.network().double().eval()
    stack = _with_statistics(problem, [1, 2])
    rng = np.random.default_rng(0)
    orders = tuple(rng.permutation(size) for size in problem.symmetry().sizes)
    other = align.reorder(stack, problem.symmetry(), orders)
    assert not torch.equal(other.flatten(), stack.flatten())
    inputs = problem.test_data().inputs[:20].double()
    for member in range(2):
        before, after = (_outputs(network, each.state_dict(member), inputs) for each in (stack, other))
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    # Matched again it lies where it was, buffers included.
    back = alignment.match(other, stack, problem.symmetry()).stack
    for name, tensor in {**stack.tensors, **stack.buffers}.items():
        assert torch.equal({**back.tensors, **back.buffers}[name], tensor), name
    apart = alignment.distances(_joined(stack, other), problem.symmetry())
    np.testing.assert_allclose(np.diag(apart[:2, 2:]), 0, atol=1e-9)


def test_statistics_are_no_coordinates_of_a_distance() -> None:
    problem = Digits(architecture="cnn_bn", width=4)
    stack = _with_statistics(problem, [1])
    louder = Stack(stack.tensors, {name: 100 * buffer for name, buffer in stack.buffers.items()})
    moved = alignment.match(louder, stack, problem.symmetry()).stack
    assert torch.equal(moved.flatten(), stack.flatten())


def test_units_are_named_by_every_group_once() -> None:
    assert Digits(width=5, depth=3).symmetry().sizes == (5, 5, 5)
    assert Digits(width=5, architecture="cnn").symmetry().sizes == (5, 10)


def test_batchnorm_begins_at_the_same_weights_as_without() -> None:
    problem = Digits(architecture="cnn_bn", width=4)
    stack = problem.initial([7, 8])
    assert stack is not None
    bare = initialise(Digits(architecture="cnn", width=4).network(), [7, 8])
    assert all(torch.equal(stack[name], tensor) for name, tensor in bare.tensors.items())
    assert torch.equal(stack["norm2.weight"], torch.ones(2, 8))
    assert torch.equal(stack["norm1.bias"], torch.zeros(2, 4))
    assert torch.equal(stack.buffers["norm1.running_var"], torch.ones(2, 4))
    problem.network().load_state_dict(stack.state_dict(0))


@pytest.mark.parametrize("fields", [*KINDS, {"architecture": "cnn_bn"}], ids=str)
def test_a_checkpoint_says_its_size(fields: dict[str, Any]) -> None:
    problem = Digits(width=11, **fields)
    shapes = {name: tuple(tensor.shape) for name, tensor in problem.network().state_dict().items()}
    found = Digits.infer(shapes)
    assert found == {"architecture": problem.architecture, "width": 11, "depth": problem.depth}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden1.weight": (8, 63)}, r"expected hidden1.weight \[8, 64\]; found hidden1.weight \[8, 63\]"),
        ({"out.weight": (9, 8)}, r"expected out.weight \[10, 8\]; found out.weight \[9, 8\]"),
        ({"hidden2.bias": None}, r"expected hidden2.bias \[8\]; found none"),
        ({"head.weight": (2, 2)}, r"expected no head.weight; found head.weight \[2, 2\]"),
        ({"hidden1.weight": None}, r"expected hidden1.weight \[width, inputs\].*; found hidden1.bias \[8\]"),
    ],
)
def test_what_is_no_such_network_is_told(changes: dict[str, Any], message: str) -> None:
    shapes: dict[str, Any] = {name: tuple(t.shape) for name, t in Digits(width=8).network().state_dict().items()}
    shapes = {name: shape for name, shape in {**shapes, **changes}.items() if shape is not None}
    with pytest.raises(Mismatch, match=message):
        Digits.infer(shapes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "resnet"}, "`architecture` cannot be 'resnet': it takes one of"),
        ({"activation": "sin"}, "`activation` cannot be 'sin': it takes one of"),
        ({"labels": "wrong"}, "`labels` cannot be 'wrong': it takes one of"),
        ({"on": "all"}, "`on` cannot be 'all': it takes one of"),
        ({"width": 0}, "`width` is 0, it must be at least 1"),
        ({"depth": 0}, "`depth` is 0, it must be at least 1"),
        ({"architecture": "cnn", "depth": 3}, "`depth` is 3, but a cnn has 2 hidden layers: leave it out"),
        ({"label_seed": 3}, '`label_seed` goes with `labels="random"`'),
        ({"labels": "random", "label_seed": -1}, "-1 is no seed"),
    ],
)
def test_senseless_options_are_told(fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # choices are types, and checked before
    with pytest.raises(LandscapeError, match=message):
        Digits(**fields)


def test_without_scikit_learn_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._images.cache_clear()
    with pytest.raises(LandscapeError, match=r"which is not here: pip install '\.\[digits\]' in the clone$"):
        Digits().objective()
    monkeypatch.undo()
    assert len(Digits().training_data()) == TRAIN


def test_titles_and_baselines() -> None:
    assert Digits().title() == "Digits, MLP 2 x 32, relu"
    problem = Digits(architecture="cnn_bn", width=8, labels="random", label_seed=3, on="test")
    assert problem.title() == "Digits, CNN with BatchNorm width 8, relu, random labels 3, test images"
    assert create("digits", problem.config()) == problem
    problem = Digits()
    most = float(problem.test_data().targets.bincount().max()) / TEST
    assert problem.baselines(problem.test_objective()) == {"most frequent digit": (pytest.approx(most),) * 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three seeds, 150 steps. To be read, never to be changed."""
    path = tmp_path_factory.mktemp("digits") / "run"
    return train(Digits(width=16), Training(batches=150), path, seeds=range(3))


def test_training_learns_and_generalises(trained: Run) -> None:
    values = Digits(width=16).objective()(trained.checkpoint().stack)
    assert (values["accuracy"] > 0.93).all()
    assert (Digits(width=16).test_objective()(trained.checkpoint().stack)["accuracy"] > 0.88).all()


def test_convolutions_learn_too(tmp_path: Path) -> None:
    problem = Digits(architecture="cnn", width=4)
    done = train(problem, Training(batches=60), tmp_path / "run", seeds=[0])
    assert problem.test_objective()(done.checkpoint().stack)["accuracy"] > 0.7


@pytest.mark.slow
def test_all_verbs(landscape: Callable[..., Outcome], trained: Run) -> None:
    def run(*arguments: str | Path) -> str:
        result = landscape(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("train", "digits", "--width", "8", "--depth", "1", "--seeds", "0:2", "--batches", "5", "-o", "small")
    run("walk", "--from", f"{trained.path}/@0", "--to", trained.path, "--points", "5", "-o", "line.h5")
    curves = Result.read(Path("line.h5"), plane=False)
    assert curves.loss.shape == (3, 5)
    assert curves.about["title"] == "Digits, MLP 2 x 16, relu"
    how = ("--pairs", "all", "--align", "--problem", "digits", "-O", "width=16", "-O", "on=test")
    run("walk", "--from", trained.path, "--to", trained.path, "--points", "3", *how, "-o", "pairs.h5")
    curves = Result.read(Path("pairs.h5"), plane=False)
    assert curves.about["samples"] == TEST
    assert curves["aligned"].tolist() == [False] * 3 + [True] * 3  # each two members once, and once more aligned
    np.testing.assert_allclose(curves.loss[:3, [0, -1]], curves.loss[3:, [0, -1]], rtol=1e-5)
    run("sweep", "digits", "--grid", "width=4,8", "--seeds", "0:2", "--batches", "3", "-o", "grid")
    told = run("analyse", "success", "grid")
    assert "most frequent digit: images" in told
    assert "0 of 2" in told
    refused = landscape("verify", "digits").stderr.splitlines()[-1]
    assert refused.startswith("Error: Digits, MLP 2 x 32, relu has no known solutions, so no 'presolve': give a run")


@pytest.mark.slow
def test_batchnorm_is_trained_walked_and_reordered(tmp_path: Path) -> None:
    problem = Digits(architecture="cnn_bn", width=4)
    done = train(problem, Training(batches=60, save_at=(0, 60)), tmp_path / "run", seeds=range(2))
    first, stack = (run_members(f"{done.path}/@{step}")[1] for step in (0, 60))
    assert stack.buffers["norm1.running_mean"].shape == (2, 4)
    assert not torch.equal(stack.buffers["norm1.running_mean"], first.buffers["norm1.running_mean"])
    assert (problem.test_objective()(stack)["accuracy"] > 0.7).all()
    run = str(done.path)
    line = walk(f"{run}/@0", run, points=5)
    assert (line.loss[:, -1] < line.loss[:, 0]).all()
    # In another order of its channels a network is the same, with the statistics that went along.
    rng = np.random.default_rng(0)
    orders = tuple(rng.permutation(size) for size in problem.symmetry().sizes)
    other = align.reorder(stack, problem.symmetry(), orders)
    kept = dataclasses.replace(problem.objective(), batchnorm="keep")
    torch.testing.assert_close(kept(other)["loss"], kept(stack)["loss"], rtol=1e-4, atol=1e-6)


def _with_statistics(problem: Digits, seeds: list[int]) -> Stack:
    """Random parameters, and statistics that differ from channel to channel, in float64."""
    start = problem.initial(seeds)
    stack = (initialise(problem.network(), seeds) if start is None else start).to(torch.float64)
    generator = torch.Generator().manual_seed(0)

    def changed(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor + noise if tensor.is_floating_point() else tensor

    return stack.map(changed)


def _outputs(network: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(network, state, (inputs,))
    return found


def _joined(one: Stack, other: Stack) -> Stack:
    return Stack(
        *(
            {name: torch.cat([a[name], b[name]]) for name in a}
            for a, b in ((one.tensors, other.tensors), (one.buffers, other.buffers))
        )
    )
