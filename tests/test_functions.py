"""Functions of one number: targets, known solutions with a loss of exactly zero, and runs from the command line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.problems.base import Problem, verify
from landscape.problems.functions import Functions
from landscape.problems.initialisation import initialise
from landscape.space import alignment
from landscape.space import symmetry as align
from landscape.store.results import Result
from landscape.training.train import Training, train

FORMULAS: dict[str, Callable[[float], float]] = {
    "sine": lambda x: math.sin(2 * math.pi * x),
    "step": lambda x: (x > 0) - (x < 0),
    "abs": abs,
    "hat": lambda x: max(0.0, 1 - 2 * abs(x)),
}


def teacher_by_hand(problem: Functions, x: float) -> float:
    """The teacher's output, unit by unit."""
    tensors, values = problem._teacher, [x]
    for number in range(1, problem.depth + 1):
        weight, bias = (tensors[f"hidden{number}.{kind}"].tolist() for kind in ("weight", "bias"))
        values = [
            max(0.0, sum(w * v for w, v in zip(row, values, strict=True)) + b)
            for row, b in zip(weight, bias, strict=True)
        ]
    (row,), (b,) = tensors["out.weight"].tolist(), tensors["out.bias"].tolist()
    return sum(w * v for w, v in zip(row, values, strict=True)) + b


@pytest.mark.parametrize("function", FORMULAS)
def test_targets_are_the_function(function: Any) -> None:
    problem = Functions(function=function, points=33)
    data, test = problem.data(), problem.test_data()
    assert data.inputs[:, 0].tolist() == pytest.approx(np.linspace(-1, 1, 33).tolist(), abs=1e-15)
    middles = (data.inputs[1:] + data.inputs[:-1]) / 2
    torch.testing.assert_close(test.inputs, middles, rtol=0, atol=1e-15)
    for part in (data, test):
        expected = [FORMULAS[function](x) for x in part.inputs[:, 0].tolist()]
        assert part.targets[:, 0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_teachers_targets_are_its_outputs(depth: int) -> None:
    problem = Functions(depth=depth, teacher_seed=3)
    data = problem.data()
    expected = [teacher_by_hand(problem, x) for x in data.inputs[:, 0].tolist()]
    assert data.targets[:, 0].tolist() == pytest.approx(expected, rel=1e-12)
    assert 0.5 < float(data.targets.square().mean().sqrt()) < 2
    other = Functions(depth=depth, teacher_seed=4).data()
    assert not torch.equal(other.targets, data.targets)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(1, 2),
    teacher=st.integers(1, 4),
    more=st.integers(0, 5),
    spare=st.sampled_from(["", "+split", "+zero"]),
)
def test_the_teacher_is_a_minimum_of_exactly_zero(seed: int, depth: int, teacher: int, more: int, spare: str) -> None:
    """Where nothing is rounded: spare units are zero, or there are 1, 2, 4, ... copies of each."""
    width = teacher + more if spare == "+zero" else teacher * 2 ** (more // 2)
    problem = Functions(width=width, depth=depth, teacher_width=teacher, teacher_seed=seed)
    for dtype in (torch.float32, torch.float64):
        found = verify(problem, f"teacher{spare}", dtype=dtype)
        assert (found.loss, found.gradient_norm, found.exact_outputs) == (0, 0, True)
        assert found.solves
        assert not found.sampled
        assert found.loss_se is None
    assert found.description == f"teacher{spare or '+split'}"


@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "gelu", "tanh"])
@pytest.mark.parametrize("spare", ["split", "zero"])
def test_teachers_of_other_activations_are_minima_but_for_rounding(activation: Any, spare: str) -> None:
    problem = Functions(activation=activation, width=7, depth=2, points=40)
    assert verify(problem, f"teacher+{spare}").loss < 1e-12
    found = verify(problem, f"teacher+{spare}", dtype=torch.float64)
    assert found.loss < 1e-28
    assert found.solves
    assert problem.landmarks() == ("teacher",)


@pytest.mark.parametrize("function", [*FORMULAS, "teacher"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("spare", ["split", "zero"])
def test_presolved_networks_go_through_all_points(function: Any, depth: int, spare: str) -> None:
    problem = Functions(function=function, width=70, depth=depth)
    found = verify(problem, f"presolve+{spare}", dtype=torch.float64)
    assert found.loss < 1e-24
    assert found.solves
    assert verify(problem, f"presolve+{spare}").solves
    assert problem.landmarks() == (("teacher", "presolve") if function == "teacher" else ("presolve",))


@pytest.mark.parametrize(("function", "units"), [("abs", 2), ("hat", 3), ("step", 2)])
@pytest.mark.parametrize("points", [2, 3, 8, 65])
def test_presolved_networks_have_a_unit_a_corner(function: Any, units: int, points: int) -> None:
    """abs is 1 - relu(x + 1) + 2 relu(x); off the points abs and hat are right too."""
    problem = Functions(function=function, width=units, points=points)
    assert verify(problem, "presolve", dtype=torch.float64).loss < 1e-28
    if function != "step":
        tested = problem.test_objective()(problem.landmark("presolve").to(torch.float32))
        assert tested["loss"] < 1e-12
    narrow = Functions(function=function, width=units - 1, points=65)
    with pytest.raises(Unsupported, match=rf"a unit at each of {units} corners, the network has {units - 1}: raise"):
        narrow.landmark("presolve")
    assert narrow.landmarks() == ()


def test_right_is_a_squared_error_of_at_most_the_tolerance() -> None:
    problem = Functions(function="abs", width=2, points=5, tolerance=0.05)
    stack = problem.landmark("presolve")
    stack.tensors["out.bias"].add_(0.2)  # a squared error of 0.04 everywhere
    values = problem.objective(dtype=torch.float64)(stack)
    assert values["loss"].item() == pytest.approx(0.04)
    assert (values["right"], values["accuracy"], values["solved"]) == (5, 1, 1)
    stack.tensors["out.bias"].add_(0.03)  # 0.0529
    values = problem.objective(dtype=torch.float64)(stack)
    assert (values["right"], values["accuracy"], values["solved"]) == (0, 0, 0)
    stack.tensors["out.weight"][0, 0, 0] = -2  # steeper: some points are right by accident
    outputs = problem.objective(dtype=torch.float64)(stack)
    by_hand = [(0.23 + 1 - 2 * max(0.0, x + 1) + 2 * max(0.0, x) - abs(x)) ** 2 for x in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert outputs["loss"].item() == pytest.approx(sum(by_hand) / 5)
    assert outputs["right"] == sum(error <= 0.05 for error in by_hand)


def test_hidden_units_can_be_reordered() -> None:
    problem = Functions(width=6, depth=2)
    stack = initialise(problem.network(), [0, 1]).to(torch.float64)
    rng = np.random.default_rng(0)
    other = align.reorder(stack, problem.symmetry(), tuple(rng.permutation(6) for _ in problem.symmetry()))
    before, after = (problem.objective(dtype=torch.float64)(each)["loss"] for each in (stack, other))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)
    assert torch.equal(alignment.match(other, stack, problem.symmetry()).stack.flatten(), stack.flatten())


def test_a_checkpoint_says_its_size() -> None:
    problem = Functions(width=9, depth=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in problem.network().state_dict().items()}
    assert Functions.infer(shapes) == {"width": 9, "depth": 3}
    with pytest.raises(Mismatch, match=r"expected hidden1.weight \[9, 1\]; found hidden1.weight \[9, 2\]"):
        Functions.infer({**shapes, "hidden1.weight": (9, 2)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"function": "cosine"}, "`function` cannot be 'cosine': it takes one of"),
        ({"activation": "sin"}, "`activation` cannot be 'sin': it takes one of"),
        ({"width": 0}, "`width` is 0, it must be at least 1"),
        ({"teacher_width": 0}, "`teacher_width` is 0"),
        ({"points": 1}, "`points` is 1, it must be at least 2"),
        ({"teacher_seed": -1}, "-1 is no seed"),
        ({"tolerance": 0.0}, "`tolerance` is 0.0, it must be positive and finite"),
    ],
)
def test_senseless_options_are_told(fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # choices are types, and checked before
    with pytest.raises(LandscapeError, match=message):
        Functions(**fields)


@pytest.mark.parametrize(
    ("problem", "name", "message"),
    [
        (Functions(), "solved", "functions has no landmark 'solved': write teacher or presolve"),
        (Functions(), "teacher+noise", "no landmark 'teacher.noise': write teacher or presolve, with .split or .zero"),
        (Functions(function="sine"), "teacher", 'sine has no teacher: there is one with `function="teacher"`'),
        (Functions(width=3), "teacher", "a teacher of width 4 does not fit a student of width 3: raise `width`"),
        (Functions(function="abs", activation="tanh"), "presolve", "made of corners, which tanh has not: use `activat"),
    ],
)
def test_landmarks_that_are_not(problem: Problem, name: str, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        problem.landmark(name)


def test_all_points_are_learnt_at_once(tmp_path: Path) -> None:
    problem = Functions(function="abs", width=16)
    assert problem.training_kinds() == ("exact", "batches")
    done = train(problem, Training(batches=400), tmp_path / "run", seeds=range(3))
    assert done.document["training"]["data"] == "exact"
    values = problem.objective()(done.checkpoint().stack)
    assert (values["loss"] < 1e-3).all()
    assert "loss_se" not in values
    assert "loss_se" in problem.objective(samples=20)(done.checkpoint().stack)


@pytest.mark.slow
def test_all_verbs(landscape: Callable[..., Outcome]) -> None:
    def run(*arguments: str | Path) -> str:
        result = landscape(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = run("verify", "functions", "--teacher-width", "2", "--width", "8")
    assert "teacher 0 of width 2; MLP 1 x 8, relu, all 65 points" in told
    assert "points right" in told
    assert "teacher+split   65 of 65      exact" in told
    run("train", "functions", "--width", "8", "--seeds", "0:3", "--batches", "30", "-o", "run")
    run("walk", "--from", "teacher", "--to", "run", "--points", "5", "--align", "-o", "line.h5")
    curves = Result.read(Path("line.h5"), plane=False)
    assert (curves.loss[:, 0] == 0).all()
    assert curves.about["landmarks"] == {"teacher": "teacher+split"}
    run("sweep", "functions", "--grid", "function=abs,hat", "--seeds", "0:2", "--batches", "3", "-o", "grid")
    assert "0 of 2" in run("analyse", "success", "grid")
    refused = landscape("verify", "functions", "--function", "sine").stderr.splitlines()[-1]
    assert refused == "Error: presolve of sine needs a unit at each of 63 corners, the network has 32: raise --width"
