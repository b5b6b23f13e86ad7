"""Barriers, curvature, outcomes, clusters and intervals, where the answer is known beforehand."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom, binomtest, chi2, ttest_1samp
from scipy.stats import t as t_distribution
from torch import nn

import landscape
from landscape.analysis.barriers import COURSES, barriers, lowest_order, square
from landscape.analysis.clusters import Clusters, adjusted_rand, clusters_of
from landscape.analysis.outcomes import dead_units, outcomes, truth_tables
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import (
    Proportion,
    mean_interval,
    median_interval,
    pairs_interval,
    quantiles,
    together,
    unseen_mass,
)
from landscape.core.provenance import Source
from landscape.engine.hessian import extremes, hessians
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, stack_state_dicts
from landscape.problems.compute import Compute
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.life.patterns import PATTERNS, answers
from landscape.problems.life.rules import Rule
from landscape.space import symmetry as align
from landscape.store.checkpoints import Run
from landscape.store.results import Result

QUARTERS = np.linspace(0, 1, 5)
NAN = float("nan")


def lines(*losses: Any, alpha: np.ndarray = QUARTERS, sources: tuple[Source, ...] = (), **columns: Any) -> Result:
    loss = np.array(losses, dtype=float)
    count = len(loss)
    table = {
        "done": np.ones(count, dtype=bool),
        "l1": np.ones(count),
        "l2": np.ones(count),
        "from_member": np.zeros(count, dtype=np.int64),
        "to_member": np.arange(count) + 1,
    }
    named = sources or tuple(Source("x", None, i, "", str(i)) for i in range(count + 1))
    return Result("line", {"line": np.arange(count), "alpha": alpha}, {"loss": loss}, table | columns, {}, named)


#: Loss at alpha 0, 1/4, 1/2, 3/4, 1 and what is to be read off it.
LINES: dict[str, tuple[list[float], dict[str, float]]] = {
    "one peak": (
        [0, 1, 4, 1, 2],
        # The chord is 2 alpha; above it stand 0, .5, 3, -.5, 0. Half of 3 is climbed at 1/4 + 1/4 * 1 / 2.5.
        {"above_chord": 3, "above_mean": 3, "above_higher_end": 2, "peak_alpha": 0.5, "peak_loss": 4, "peaks": 1,
         "delta": 4, "start_width": 0.35, "end_width": 0.25 + 0.25 * 2 / 3.5},
    ),
    "two peaks": (
        [1, 5, 2, 4, 1],
        {"above_chord": 4, "above_mean": 4, "above_higher_end": 4, "peak_alpha": 0.25, "peak_loss": 5, "peaks": 2,
         "delta": 4, "start_width": 0.125, "end_width": 0.25 * 2 / 3},
    ),
    "plateau": (
        [0, 2, 2, 2, 0],
        {"above_chord": 2, "above_mean": 2, "above_higher_end": 2, "peak_alpha": 0.25, "peak_loss": 2, "peaks": 1,
         "delta": 2, "start_width": 0.125, "end_width": 0.125},
    ),
    "falling straight": (
        [4, 3, 2, 1, 0],
        {"above_chord": 0, "above_mean": 2, "above_higher_end": 0, "peak_alpha": 0, "peak_loss": 4, "peaks": 0,
         "delta": 0, "start_width": NAN, "end_width": NAN},
    ),
    "rising, sagging": (
        [0, 0.5, 1, 2, 4],
        {"above_chord": 0, "above_mean": 2, "above_higher_end": 0, "peak_alpha": 0, "peak_loss": 0, "peaks": 0,
         "delta": 4, "start_width": NAN, "end_width": NAN},
    ),
    "falling with a late rise": (
        [8, 2, 1, 3, 0],
        {"above_chord": 1, "above_mean": 4, "above_higher_end": 0, "peak_alpha": 0.75, "peak_loss": 3, "peaks": 1,
         "delta": 2},
    ),
    "constant": (
        [2, 2, 2, 2, 2],
        {"above_chord": 0, "above_mean": 0, "above_higher_end": 0, "peaks": 0, "delta": 0, "start_width": NAN,
         "end_width": NAN},
    ),
    "not a number inside": (
        [0, 1, NAN, 1, 0],
        dict.fromkeys(("above_chord", "peak_alpha", "peaks", "delta", "start_width"), NAN),
    ),
    "infinite inside": (
        [0, 1, np.inf, 1, 0],
        {"above_chord": np.inf, "above_mean": np.inf, "above_higher_end": np.inf, "peak_alpha": 0.5,
         "peak_loss": np.inf, "delta": np.inf, "peaks": NAN, "end_width": NAN},
    ),
    "falling from infinity": (
        [np.inf, np.inf, 3, 1, 2],
        {"above_chord": NAN, "above_mean": NAN, "above_higher_end": NAN, "peak_alpha": NAN, "peak_loss": NAN,
         "delta": 1, "peaks": NAN, "start_width": NAN},
    ),
    "plateau with a dent": (
        [0, 100, 99.999, 100, 0],
        {"above_chord": 100, "peaks": 1, "delta": 100, "start_width": 0.125},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_what_is_read_off_a_line(name: str) -> None:
    loss, wanted = LINES[name]
    found = barriers(lines(loss, [0, 1, 2, 1, 0]))
    assert len(found) == 2
    got = {key: float(getattr(found, key)[0]) for key in wanted}
    assert got == pytest.approx(wanted, nan_ok=True, abs=1e-12)
    assert found.above_chord[1] == 2


@pytest.mark.parametrize("name", LINES)
def test_points_beyond_the_ends_do_not_matter(name: str) -> None:
    loss, wanted = LINES[name]
    found = barriers(lines([1e3, *loss, 1e3], alpha=np.array([-0.5, *QUARTERS, 1.5])))
    assert {key: float(getattr(found, key)[0]) for key in wanted} == pytest.approx(wanted, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.73])
def test_a_triangle_with_its_peak_at_a_given_place(place: float) -> None:
    alpha = np.union1d(np.linspace(0, 1, 101), [place])
    height = np.minimum(alpha / place, (1 - alpha) / (1 - place))
    found = barriers(lines(1 - alpha + 3 * height, alpha=alpha))
    assert found.above_chord[0] == pytest.approx(3, rel=1e-12)
    assert found.peak_alpha[0] == place
    assert found.start_width[0] == pytest.approx(place / 2, abs=1e-9)
    assert found.end_width[0] == pytest.approx((1 - place) / 2, abs=1e-9)


def test_a_straight_line_has_no_barrier_that_rounding_makes() -> None:
    alpha = np.linspace(0, 1, 51)
    found = barriers(lines((1 - alpha) * 0.1 + alpha * 0.7, 0.7 - 0.6 * alpha, np.full(51, 0.1), alpha=alpha))
    np.testing.assert_allclose(found.above_chord, 0, atol=1e-15)
    assert np.isnan(found.start_width).all()
    assert np.isnan(found.end_width).all()


def test_unfinished_lines_are_left_out() -> None:
    done = np.array([True, False, True])
    found = barriers(lines([0, 1, 1, 1, 0], [0, 9, 9, 9, 0], [0, 2, 2, 2, 0], done=done))
    np.testing.assert_array_equal(found.above_chord, [1, 2])
    with pytest.raises(LandscapeError, match="none of the lines is finished: walk again"):
        barriers(lines([0, 1, 1, 1, 0], done=np.zeros(1, dtype=bool)))


def test_the_lowest_line_of_each_pair() -> None:
    start, other = Source("a", None, 0, "", "0"), Source("a", None, 1, "", "1")
    curves = lines(
        *([0, height, 0, 0, 0] for height in (3, 9, 5, 1, 8, NAN, 0.5, 2)),
        sources=(
            start,
            other,
            Source("b", 1, 0, "", "0"),
            Source("b", 1, 1, "", "1"),
            *(dataclasses.replace(source, order="order 1") for source in (start, other)),
        ),
        from_member=np.array([0, 1, 0, 4, 5, 4, 4, 5]),
        to_member=np.array([2, 2, 3, 2, 2, 3, 2, 3]),
        done=np.array([True] * 6 + [False, True]),
    )
    # From 0 to 2 lead lines 0, 3 and the unfinished 6; from 1 to 2 lines 1 and 4; from 0 to 3 lines 2 and 5.
    np.testing.assert_array_equal(lowest_order(curves), [2, 3, 4, 7])


def test_a_summary_counts_what_is_infinite_and_what_is_no_number() -> None:
    heights = (1, 2, 3, 4, np.inf, np.inf, np.inf, NAN)
    summary = barriers(lines(*([0, height, 0, 0, 0] for height in heights))).summary()["above_chord"]
    low, high = summary.pop("median_interval")
    wanted = {"min": 1, "q1": 2.5, "median": 4, "q3": np.inf, "max": np.inf, "lines": 7, "infinite": 3, "nan": 1}
    assert summary == wanted
    assert 1 <= low <= 4
    assert high == np.inf
    empty = barriers(lines([0, NAN, 0, 0, 0])).summary()["delta"]
    assert empty["lines"] == 0
    assert np.isnan(empty["median"])


@pytest.mark.parametrize(
    ("loss", "course"),
    [
        ([4, 3.9, 2, 1, 0], "falling"),
        ([4, 3.9, 2, 2.003, 0], "falling"),  # up to 1/1000 of its range
        ([4, 3.9, 2, 2.005, 0], "neither"),
        ([0, 0, 1, 2, 2], "rising"),
        ([3, 3, 3, 3, 3], "level"),
        ([0, 1, 0, 1, 0], "neither"),
        ([np.inf, 3, 2, 1, 0], "falling"),
        ([0, 3, 2, 1, np.inf], "neither"),
        ([0, 1, 2, np.inf, np.inf], "rising"),
        ([4, NAN, 2, 1, 0], "neither"),
    ],
)
def test_lines_that_go_one_way_are_called_so(loss: list[float], course: str) -> None:
    found = barriers(lines(loss))
    assert found.courses()[course] == 1
    assert COURSES[found.course[0]] == course
    if course != "neither" and np.isfinite(loss).all():
        assert found.above_higher_end[0] == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("count", [1, 5])
def test_fewer_than_six_lines_make_no_interval(count: int) -> None:
    summary = barriers(lines(*([0, 1 + height, 0, 0, 0] for height in range(count)), [0, NAN, 0, 0, 0])).summary()
    assert all(np.isnan(each["median_interval"]).all() for each in summary.values())
    assert summary["above_chord"]["lines"] == count


# ----------------------------------------------------------------------------------------------------------------------


def test_the_hessian_of_a_quadratic(squares: Callable[..., Objective]) -> None:
    module = nn.Sequential(nn.Linear(2, 1))
    numbers = torch.linspace(-2, 2, 30 * 3, dtype=torch.float64).sin().view(30, 3)
    objective = squares(module, numbers[:, :2].contiguous(), numbers[:, 2:].contiguous())
    inputs = torch.cat([numbers[:, :2], torch.ones(30, 1, dtype=torch.float64)], 1)
    wanted = (2 * inputs.T @ inputs / 30).numpy()
    stack = objective.network.template.unflatten(torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3))
    np.testing.assert_allclose(hessians(objective, stack), np.broadcast_to(wanted, (5, 3, 3)), rtol=1e-12, atol=1e-14)
    found = extremes(objective, stack)
    eigenvalues = np.linalg.eigvalsh(wanted)
    np.testing.assert_allclose(found.smallest, eigenvalues[0], rtol=1e-9)
    np.testing.assert_allclose(found.largest, eigenvalues[-1], rtol=1e-9)
    np.testing.assert_array_equal([found.negative, found.near_zero], np.zeros((2, 5)))
    residual = inputs @ stack.flatten().T - numbers[:, 2:]
    gradients = (2 * inputs.T @ residual / 30).T
    np.testing.assert_allclose(found.gradient_norm, gradients.norm(dim=1), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "elu"])
def test_the_hessian_of_the_plain_module(activation: str) -> None:
    problem = Life(activation=activation, m_factor=2)
    objective = problem.objective(dtype=torch.float64)
    stack = initialise(problem.network(), range(2), scale=2.0).to(torch.float64)
    network, data = objective.network.module, objective.data
    whole, found = hessians(objective, stack), extremes(objective, stack)
    for i in range(2):

        def loss(flat: torch.Tensor) -> torch.Tensor:
            state = stack.unflatten(flat[None]).state_dict(0)
            outputs = torch.func.functional_call(network, state, (data.inputs[0].movedim(-1, 0),))[:, 0]
            each = F.binary_cross_entropy_with_logits(outputs[:, 0, 0], data.targets[0, 0, 0], reduction="none")
            return each @ data.weights[0]

        wanted = torch.autograd.functional.hessian(loss, stack.flatten()[i])
        np.testing.assert_allclose(whole[i], wanted, rtol=1e-8, atol=1e-12)
        eigenvalues = np.linalg.eigvalsh(wanted)
        assert found.smallest[i] == pytest.approx(eigenvalues[0], rel=1e-6, abs=1e-10)
        assert found.negative[i] == (eigenvalues < -1e-6 * np.abs(eigenvalues).max()).sum()
        assert found.near_zero[i] == (np.abs(eigenvalues) <= 1e-6 * np.abs(eigenvalues).max()).sum()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu"])
def test_the_hessian_of_two_steps(activation: str) -> None:
    """Through a table, and through windows of boards: against the plain module on plain boards."""
    problem = Life(steps=2, activation=activation, board="4x3")
    objective = problem.objective(dtype=torch.float64, samples=32)
    stack = initialise(problem.network(), [3], scale=2.0).to(torch.float64)
    boards = problem.boards(torch.tensor([0]), 0, 32, torch.float64, codes=False).samples(0, 32)
    inputs, targets = boards.inputs[0].movedim(-1, 0), boards.targets[0].movedim(-1, 0)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        state = stack.unflatten(flat[None]).state_dict(0)
        outputs = torch.func.functional_call(objective.network.module, state, (inputs,))[:, 0]
        return F.binary_cross_entropy_with_logits(outputs, targets)

    wanted = torch.autograd.functional.hessian(loss, stack.flatten()[0])
    np.testing.assert_allclose(hessians(objective, stack)[0], wanted, rtol=1e-8, atol=1e-12)
    on_cells = dataclasses.replace(objective, data=boards)
    np.testing.assert_allclose(hessians(on_cells, stack)[0], wanted, rtol=1e-8, atol=1e-12)


def test_large_networks_have_only_a_gradient() -> None:
    problem = Life(m_factor=12)
    found = extremes(problem.objective(), initialise(problem.network(), [0, 1]))
    assert (found.gradient_norm > 0).all()
    assert np.isnan(found.smallest).all()
    np.testing.assert_array_equal(found.negative, [-1, -1])


# ----------------------------------------------------------------------------------------------------------------------


def known_networks(problem: Life) -> Stack:
    """Three solutions, two networks that say dead, one that says alive."""
    solution = problem.landmark("presolve").to(torch.float32)
    dead = torch.zeros(1, solution.parameters)
    alive, dead[0, -1] = dead.clone(), -3.0
    alive[0, -1] = 3.0
    return solution.unflatten(torch.cat([solution.flatten().expand(3, -1), dead, dead, alive])[[3, 0, 5, 1, 4, 2]])


def test_outcomes_of_known_networks() -> None:
    problem = Life()
    found = outcomes(problem, known_networks(problem))
    live = int(answers(Rule.parse(problem.rule)).sum())
    np.testing.assert_array_equal(found.kind, [2, 0, 2, 0, 2, 0])
    np.testing.assert_array_equal(found.right, [512 - live, 512, live, 512, 512 - live, 512])
    np.testing.assert_array_equal(found.group, [1, 0, 2, 0, 1, 0])
    assert found.total == 512
    assert found.solved == Proportion(3, 6)
    assert [(g.kind, g.right, g.share, g.example) for g in found.groups] == [
        ("solved", 512, Proportion(3, 6), 1),
        ("constant", 512 - live, Proportion(2, 6), 0),
        ("constant", live, Proportion(1, 6), 2),
    ]
    np.testing.assert_array_equal(found.dead, [3, 0, 3, 0, 3, 0])
    np.testing.assert_allclose(found.loss, problem.objective()(known_networks(problem))["loss"])
    assert found.landmark is not None
    np.testing.assert_allclose(found.curvature.largest[1], found.landmark.largest[0], rtol=1e-6)


def test_outcomes_of_many_members_are_those_of_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Life()
    stack = initialise(problem.network(), range(60)).to(torch.float64)
    few = [outcomes(problem, stack.select([i])) for i in range(60)]
    monkeypatch.setattr("landscape.analysis.outcomes._AT_ONCE", 7)
    found = outcomes(problem, stack)
    tables, right, _ = truth_tables(problem, stack)
    assert found.right is not None
    np.testing.assert_array_equal(found.right, right)
    assert [found.groups[g].wrong for g in found.group] == [one.groups[0].wrong for one in few]
    assert found.kind.tolist() == [int(one.kind[0]) for one in few]
    same = [[(a == b).all() for a in tables] for b in tables]
    np.testing.assert_array_equal(found.group[:, None] == found.group, same)
    for number, group in enumerate(found.groups):
        members = np.flatnonzero(found.group == number)
        assert (group.share.count, group.example) == (len(members), members[0])
        assert group.loss == np.median(found.loss[members])


def test_units_that_never_fire() -> None:
    problem = Life(m_factor=2, activation="relu")
    stack = initialise(problem.network(), [0, 1])
    stack["net.0.0.weight"][:] = 1.0
    stack["net.0.0.bias"][:] = torch.tensor([[-8.5, -9.0, -9.5, 0.0], [1.0, 1, 1, 1]])
    stack["net.0.2.weight"][:] = 0.0
    stack["net.0.2.bias"][:] = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(dead_units(problem.objective(), stack), [3, 0])


def test_truth_tables_need_a_single_block() -> None:
    problem = Life(steps=2)
    with pytest.raises(Unsupported, match=r"2 steps.* has no finite table of samples"):
        outcomes(problem, initialise(problem.network(), [0]))


# ----------------------------------------------------------------------------------------------------------------------

LABELS = hnp.arrays(np.int64, st.shared(st.integers(2, 9), key="members"), elements=st.integers(0, 3))


@given(a=LABELS, b=LABELS)
def test_adjusted_rand_by_counting_pairs(a: np.ndarray, b: np.ndarray) -> None:
    pairs = list(itertools.combinations(range(len(a)), 2))
    same_a, same_b = (np.array([labels[i] == labels[j] for i, j in pairs]) for labels in (a, b))
    expected, most = same_a.sum() * same_b.sum() / len(pairs), (same_a.sum() + same_b.sum()) / 2
    wanted = 1.0 if most == expected else ((same_a & same_b).sum() - expected) / (most - expected)
    assert adjusted_rand(a, b) == pytest.approx(wanted)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand(b, a))


def test_a_known_adjusted_rand_index() -> None:
    assert adjusted_rand(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])) == pytest.approx(4 / 7)
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(-0.5)


@pytest.mark.parametrize("m", [1, 4])
def test_planted_clusters_are_found_whatever_the_order_of_filters(m: int) -> None:
    problem = Life(m_factor=m)
    centres = initialise(problem.network(), range(3), scale=3.0)
    planted = np.array([0, 1, 2, 0, 0, 1, 0, 1, 0, 2, 1, 0])
    rng = np.random.default_rng(1)
    members = []
    for centre in planted.tolist():
        orders = tuple(rng.permutation(size) for size in problem.symmetry().sizes)
        flat = align.reorder(centres.select([centre]), problem.symmetry(), orders).flatten()
        members.append(flat + 1e-4 * torch.from_numpy(rng.normal(size=flat.shape)).float())
    stack = centres.unflatten(torch.cat(members))
    found = clusters_of(problem, stack, by="parameters", threshold=0.05)
    np.testing.assert_array_equal(found.label, planted)
    np.testing.assert_array_equal(found.sizes, [6, 4, 2])
    assert found.exhaustive == (m == 1)
    assert found.distances.shape == (66,)
    assert adjusted_rand(found.label, planted) == 1


def test_members_that_predict_the_same_are_a_group(run: Run) -> None:
    problem = Life()
    found = clusters_of(problem, known_networks(problem), by="predictions")
    np.testing.assert_array_equal(found.label, [1, 0, 2, 0, 1, 0])
    np.testing.assert_array_equal(found.predictions, found.label)
    assert found.agreement == 1
    stack = run.checkpoint().stack
    trained = clusters_of(problem, stack, by="predictions")
    assert len(trained.sizes) == len(outcomes(problem, stack).groups)
    assert (np.diff(trained.sizes) <= 0).all()
    rows = truth_tables(problem, stack)[0]
    assert squareform(trained.distances)[3, 7] == (rows[3] != rows[7]).mean()


def test_distances_of_outputs_are_those_of_the_plain_networks_probabilities(run: Run) -> None:
    problem, stack = Life(), run.checkpoint().stack.select(range(6))
    inputs, *_ = problem._pattern_data
    says = []
    for member in range(6):
        network = problem.network()
        network.load_state_dict(stack.state_dict(member))
        says.append(network(inputs[0].movedim(-1, 0))[:, 0, 1, 1].detach().double())
    found = squareform(clusters_of(problem, stack, by="outputs").distances)
    for i, j in itertools.combinations(range(6), 2):
        assert found[i, j] == pytest.approx(float(((says[i] - says[j]) ** 2).mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_distances_of_outputs_of_any_model_and_loss(engine: str, loss: str) -> None:
    x, states = torch.linspace(-1, 1, 40)[:, None], [torch.nn.Linear(1, 3).state_dict() for _ in range(4)]
    y = {"cross_entropy": torch.arange(40) % 3, "mse": torch.randn(40, 3), "bce": torch.rand(40, 3).round()}[loss]
    problem = landscape.Problem.from_model(torch.nn.Linear(1, 3), (x, y), loss)
    found = squareform(landscape.clusters(states, problem=problem).distances)
    raw = torch.stack([x @ state["weight"].T + state["bias"] for state in states]).double()
    soft = {"cross_entropy": raw.softmax(-1), "bce": raw.sigmoid(), "mse": raw / raw.std(correction=0)}[loss]
    for i, j in itertools.combinations(range(4), 2):
        assert found[i, j] == pytest.approx(float(((soft[i] - soft[j]) ** 2).mean().sqrt()), rel=1e-5)
    objective = Compute(engine=engine).objective(problem)  # type: ignore[arg-type]
    scores = torch.cat(list(objective.scores(stack_state_dicts(states))), 1)
    torch.testing.assert_close(scores.double(), (raw if loss == "mse" else soft).flatten(1), rtol=1e-5, atol=1e-6)


def test_barriers_between_all_pairs_join_what_lies_in_one_valley() -> None:
    x = torch.linspace(-1, 1, 32)[:, None]
    problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x), "mse")
    convex = [{"weight": torch.tensor([[a]]), "bias": torch.tensor([0.0])} for a in (1.0, 2.0, 4.0)]
    assert landscape.clusters(convex, problem=problem, by="barrier").label.tolist() == [0, 0, 0]
    wells = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, x), lambda out, t: (out**2 - t**2).square().mean())
    signs = [{"weight": torch.tensor([[a]]), "bias": torch.tensor([0.0])} for a in (1.0, -1.0, 1.1)]
    found = landscape.clusters(signs, problem=wells, by="barrier")
    assert found.label.tolist() == [0, 1, 0]
    top = float((x**4).mean())  # in the middle the network is 0
    assert squareform(found.distances)[0, 1] == pytest.approx(top, rel=1e-3)


def test_levels_say_what_is_held_and_barriers_of_losses_of_ones_own_have_them() -> None:
    x = torch.linspace(-1, 1, 32)[:, None]

    class Sorted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(super().forward(x)[:, :, None])[:, 0]

    def loss(model: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        outputs = model(batch[0])
        return {"loss": ((outputs - batch[0][:, 0]) ** 2).mean(), "outputs": outputs}

    problem = landscape.Problem.from_model(Sorted(1, 3), (x, x), batch_loss=loss)
    states = [Sorted(1, 3).state_dict() for _ in range(3)]
    for by in ("parameters", "barrier"):
        found = landscape.clusters(states, problem=problem, by=by)  # type: ignore[arg-type]
        assert "units as they stand (held: " in found.caption("mine")
    with pytest.raises(LandscapeError, match=r"`threshold` is nan"):
        clusters_of(problem, stack_state_dicts(states), by="barrier", threshold=float("nan"))


def test_the_number_of_groups_against_the_threshold_and_its_plateaus() -> None:
    points = np.array([0.0, 0.01, 0.02, 1.0, 1.01, 50.0])
    tree = hierarchy.linkage(points[:, None], "single")
    found = Clusters(
        members=tuple("abcdef"), by="outputs", unit="distance", tree=tree, distances=pdist(points[:, None]),
        threshold=0.1, label=np.array([0, 0, 0, 1, 1, 2]), predictions=np.array([0, 0, 0, 1, 1, 1]),
    )  # fmt: skip
    assert [(row[0], row[1], row[2]) for row in found.against_threshold([0.001, 0.1, 2.0, 60.0])] == [
        (0.001, 6, 1),
        (0.1, 3, 3),
        (2.0, 2, 5),
        (60.0, 1, 6),
    ]
    assert [each.groups for each in found.plateaus] == [2]  # below a thousandth of the largest distance nothing counts
    assert (found.plateaus[0].low, found.plateaus[0].high) == (pytest.approx(0.98), pytest.approx(48.99))
    np.testing.assert_allclose(found.diameters, [0.02, 0.01, 0.0])
    assert (found.novel.count, found.novel.total) == (3, 3)
    assert found.unseen is not None
    assert found.unseen[0] == 0.0
    assert found.agreement == pytest.approx(adjusted_rand(found.label, np.array([0, 0, 0, 1, 1, 1])))


def test_a_later_member_is_new_if_it_is_far_from_all_of_the_earlier() -> None:
    points = np.array([0.0, 5.0, 5.01, 9.0])[:, None]  # the third is near one of the first two, the fourth near none
    found = Clusters(
        members=tuple("abcd"), by="outputs", unit="distance", tree=hierarchy.linkage(points, "single"),
        distances=pdist(points), threshold=0.1, label=np.array([1, 0, 0, 2]), predictions=None,
    )  # fmt: skip
    assert (found.novel.count, found.novel.total) == (1, 2)


def test_the_matrix_of_all_pairs_has_each_where_it_belongs() -> None:
    x = torch.linspace(-1, 1, 16)[:, None]
    problem = landscape.Problem.from_model(torch.nn.Linear(1, 1, bias=False), (x, x), lambda out, t: (out**4).mean())
    states = [{"weight": torch.tensor([[w]])} for w in (0.5, 1.0, -2.0, 3.0)]
    lines = landscape.walk(states, states, problem=problem, pairs="all", points=5)
    found = square(barriers(lines).above_mean, 4)
    for i, j in itertools.combinations(range(4), 2):
        alone = landscape.walk(states[i], states[j], problem=problem, points=5)
        assert found[i, j] == found[j, i] == pytest.approx(barriers(alone).above_mean[0], rel=1e-6)
    assert len(np.unique(found[np.triu_indices(4, 1)])) > 3


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_outputs_at_targets_that_are_ignored_do_not_count(engine: str) -> None:
    x, y = torch.randn(12, 2), torch.arange(12) % 3
    y[::4] = -100
    problem = landscape.Problem.from_model(torch.nn.Linear(2, 3), (x, y), "cross_entropy")
    net = torch.nn.Linear(2, 3)
    objective = Compute(engine=engine).objective(problem)  # type: ignore[arg-type]
    found = torch.cat(list(objective.scores(stack_state_dicts([net.state_dict()]))), 1)
    torch.testing.assert_close(
        found, net(x[y >= 0]).softmax(1).flatten()[None], rtol=1e-5, atol=1e-6, check_dtype=False
    )


def test_members_whose_outputs_are_not_numbers_are_no_ones_like() -> None:
    x = torch.linspace(-1, 1, 8)[:, None]
    problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, x), "mse")
    states = [{"weight": torch.tensor([[a]]), "bias": torch.tensor([0.0])} for a in (1.0, 1.0, 1e30)]
    states[2]["weight"] *= 1e30  # overflows
    found = clusters_of(problem, stack_state_dicts(states))
    assert found.label.tolist() == [0, 0, 1]


@pytest.mark.parametrize("counts", [[5, 4, 1], [3, 1, 1, 1], [9, 9]])
def test_the_mass_of_what_was_not_seen(counts: list[int]) -> None:
    share, low, high = unseen_mass(np.array(counts))
    once, twice, n = counts.count(1), counts.count(2), sum(counts)
    assert share == once / n
    wide = ((once + 2 * twice + 2) / (once + 1)) ** 0.5
    garwood = (chi2.ppf(0.025, 2 * once) / 2 if once else 0.0, chi2.ppf(0.975, 2 * once + 2) / 2)
    assert low == pytest.approx(max(0.0, once - (once - garwood[0]) * wide) / n)
    assert high == pytest.approx(min(1.0, (once + (garwood[1] - once) * wide) / n))


def test_what_is_wrong_is_told_by_case(run: Run) -> None:
    problem, stack = Life(), run.checkpoint().stack
    found, rows = outcomes(problem, stack), truth_tables(problem, stack)[0]
    live = PATTERNS[:, [0, 1, 1, 2], [1, 0, 2, 1]].sum(1)
    right = answers(Rule.parse("B3/S23V"))
    for group in found.groups:
        missed = rows[group.example] != right
        for name, k, n in group.wrong:
            of = (live == int(name.split()[1])) & (PATTERNS[:, 1, 1] == name.startswith("live"))
            assert (k, n) == (int(missed[of].sum()), int(of.sum()))
        assert sum(k for _, k, _ in group.wrong) == 512 - group.right


def test_clusters_of_a_place(run: Run) -> None:
    found, stack = landscape.clusters(run, by="parameters", threshold=0.5), run.checkpoint().stack
    assert found.members == tuple(source.label for source in run.checkpoint().sources)
    np.testing.assert_array_equal(found.label, clusters_of(Life(), stack, by="parameters", threshold=0.5).label)
    tables = len(outcomes(Life(), stack).groups)
    assert repr(found).startswith(f"Clusters(24 members in {len(found.sizes)} groups of {found.sizes[0]}, ")
    assert repr(found).endswith(f"; parameters within 0.5, {tables} truth tables)")
    rows = found._repr_html_().split("<tr>")[2:]
    assert len(rows) == len(found.sizes)
    assert rows[0].count("seed") == found.sizes[0]
    with pytest.raises(LandscapeError, match=r"`threshold` is -1\.0, it must"):
        landscape.clusters(run, threshold=-1.0)


def test_clusters_of_a_model_of_ones_own_go_by_its_decisions_on_the_data() -> None:
    x = torch.linspace(-1, 1, 40)[:, None]
    problem = landscape.Problem.from_model(torch.nn.Linear(1, 2), (x, (x[:, 0] > 0).long()), "cross_entropy")
    states = [{"weight": torch.tensor([[-a], [a]]), "bias": torch.zeros(2)} for a in (1.0, 1.1, -1.0, -1.2, 1.3)]
    found = clusters_of(problem, stack_state_dicts(states), by="predictions")
    np.testing.assert_array_equal(found.predictions, [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(found.label, found.predictions)


def test_what_makes_no_clusters(run: Run) -> None:
    with pytest.raises(LandscapeError, match="one member makes no clusters"):
        clusters_of(Life(), run.checkpoint().stack.select([0]))


# ----------------------------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilsons_interval_is_scipys(total: int, share: float) -> None:
    count = round(share * total)
    wanted = binomtest(count, total).proportion_ci(method="wilson")
    assert Proportion(count, total).interval == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert Proportion(count, total).value == count / total


@given(total=st.integers(1, 400), share=st.floats(0, 1))
def test_the_interval_of_a_share_beside_others_is_scipys_exact_one(total: int, share: float) -> None:
    count, confidence = round(share * total), together(24)
    wanted = binomtest(count, total).proportion_ci(confidence, method="exact")
    assert Proportion(count, total).interval_at(confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert Proportion(count, total).interval_at(0.95) == Proportion(count, total).interval


def test_the_share_of_nothing() -> None:
    assert Proportion(0, 0).interval == (0, 1)
    assert np.isnan(Proportion(0, 0).value)
    assert Proportion(0, 7).interval[0] == 0
    assert Proportion(7, 7).interval[1] == 1
    assert str(Proportion(1, 2)) == "1 of 2 (50.0 %, 95 % interval 9.5 to 90.5 %)"


def test_the_median_lies_between_order_statistics() -> None:
    """Exact for the pairs of order statistics that a binomial says: of 6, 96.9 % between the ends; of 100, by hand."""
    sample = np.random.default_rng(0).permutation(100.0 * np.arange(100))
    for d in (38, 40, 42):
        exact = 1 - 2 * binom.cdf(d - 1, 100, 0.5)
        np.testing.assert_allclose(median_interval(sample, exact), [100 * (d - 1), 100 * (100 - d)], atol=1e-6)
    np.testing.assert_allclose(median_interval(np.arange(6.0), 1 - 2 * 0.5**6), [0, 5], atol=1e-9)
    assert np.isnan(median_interval(np.arange(5.0))).all()
    assert np.isnan(median_interval(np.arange(6.0), 0.97)).all()
    infinite = median_interval(np.array([1, 2, 3, 4, 5, 6, np.inf, np.inf]))
    assert 1 < infinite[0] < 3
    assert infinite[1] == np.inf
    np.testing.assert_array_equal(median_interval(np.full(9, 2.0)), [2, 2])


def test_without_skewness_the_interval_of_a_mean_is_students() -> None:
    sample = np.array([-3.0, -2, -1, -0.5, 0.5, 1, 2, 3])
    wanted = ttest_1samp(sample, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(sample), [wanted.low, wanted.high], rtol=1e-9)
    np.testing.assert_allclose(mean_interval(sample, within=(-1, 9)), [-1, wanted.high], rtol=1e-9)
    for few in (sample[:7], np.full(9, 0.1), np.append(sample, np.inf)):
        assert np.isnan(mean_interval(few)).all()


def test_skewness_is_transformed_away() -> None:
    """The ends are where Hall's cubic of the studentised mean takes Student's quantiles."""
    sample = np.random.default_rng(2).exponential(size=12)
    n, deviation = len(sample), sample.std(ddof=1)
    g = ((sample - sample.mean()) ** 3).mean() / sample.std() ** 3 * (n * (n - 1)) ** 0.5 / (n - 2)
    for end, wanted in zip(mean_interval(sample), (0.975, 0.025), strict=True):
        w = (sample.mean() - end) / deviation
        cubic = w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n)
        assert n**0.5 * cubic == pytest.approx(t_distribution.ppf(wanted, n - 1))


@pytest.mark.parametrize("of", ["mean", "median"])
def test_pairs_leave_out_a_node_with_all_its_pairs(of: Any) -> None:
    """By hand: a plain loop over the nodes that are left out."""
    rng, n = np.random.default_rng(3), 20
    pairs = rng.exponential(size=(n, n)) + rng.normal(size=n)
    pairs[0, 1] = np.nan
    kept = [(i, j) for i in range(n) for j in range(n) if i != j and (i, j) != (0, 1)]
    values = np.array([pairs[i, j] for i, j in kept])
    numbers = values if of == "mean" else values <= np.median(values)
    pseudo = np.array(
        [
            n * numbers.mean() - (n - 1) * np.mean([numbers[k] for k, pair in enumerate(kept) if node not in pair])
            for node in range(n)
        ]
    )
    wanted = mean_interval(pseudo) + numbers.mean() - pseudo.mean()
    if of == "median":
        reach = t_distribution.ppf(0.975, n - 1) * pseudo.std(ddof=1) / n**0.5
        wanted = np.quantile(values, [0.5 - reach, 0.5 + reach])
    np.testing.assert_allclose(pairs_interval(pairs, of), wanted)
    changed = pairs.copy()
    np.fill_diagonal(changed, 1e9)  # pairs of a node with itself are none
    np.testing.assert_array_equal(pairs_interval(changed, of), pairs_interval(pairs, of))
    assert np.isnan(pairs_interval(pairs[:19, :19], of)).all()


@given(st.lists(st.floats(-5, 5) | st.just(np.inf), min_size=1, max_size=9), st.floats(0, 1))
def test_quantiles_are_numpys_where_all_is_finite(values: list[float], share: float) -> None:
    found = float(quantiles(np.array(values), np.array([share]))[0])
    if np.isfinite(values).all():
        assert found == pytest.approx(float(np.quantile(values, share)), abs=1e-12)
    else:
        below = np.sort(values)[int(np.floor(share * (len(values) - 1)))]
        assert not np.isnan(found)
        assert found >= below


def test_intervals_of_pairs_cover_where_those_of_lines_do_not() -> None:
    """Pairs that share a seed resemble one another: taken one by one, they make intervals much too narrow."""
    rng, hits, naive = np.random.default_rng(1), {"mean": 0, "median": 0}, 0
    for _ in range(300):
        effect = rng.normal(size=20)
        noise = np.triu(rng.normal(size=(20, 20)), 1)
        pairs = effect[:, None] + effect + noise + noise.T
        for of in hits:
            low, high = pairs_interval(pairs, of)  # type: ignore[arg-type]
            hits[of] += bool(low <= 0 <= high)
        low, high = mean_interval(pairs[np.triu_indices(20, 1)])
        naive += bool(low <= 0 <= high)
    assert min(hits.values()) / 300 > 0.92
    assert naive / 300 < 0.6
