"""What failures compute and which features connect members: closed forms, planted networks, plain walks."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression, minimize
from scipy.special import softplus

import landscape
from landscape import LandscapeError, Run, Stack, figures
from landscape.analysis.convergence import prepared
from landscape.analysis.mechanism import Pairs, Population, _lines, _phi, _share, mechanism, on_halves, signatures
from landscape.analysis.mistakes import Anatomy, Mistake, floor, formula, mistakes, one_filter, pooled, taken_apart
from landscape.cli import main
from landscape.core.errors import Unsupported
from landscape.core.files import write_json
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.problems.life.patterns import PATTERNS, answers
from landscape.problems.life.rules import Rule
from landscape.space.alignment import balance
from landscape.space.symmetry import act, every_order, reorder

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"
RULE = Rule.parse("B3/S23V")
CENTRE, LIVE = PATTERNS[:, 1, 1], (PATTERNS * RULE.kernel).sum((1, 2))


def reference(*seeds: int) -> Stack:
    return Run.open(RUN).checkpoint().stack.select(list(seeds)).to("cpu", torch.float64)


def random_stack(problem: Life, count: int, seed: int = 0) -> Stack:
    generator = torch.Generator().manual_seed(seed)
    one = problem.landmark("presolve")
    return Stack(
        {
            name: torch.randn((count, *tensor.shape[1:]), generator=generator, dtype=torch.float64)
            for name, tensor in one.tensors.items()
        }
    )


def ended(*seeds: int) -> tuple[tuple[Mistake, ...], int]:
    descent = prepared(str(RUN), None)
    labels = tuple(f"seed {seed}" for seed in seeds)
    return mistakes(dataclasses.replace(descent, stack=descent.stack.select(list(seeds)), labels=labels))


@pytest.mark.parametrize("problem", [Life(), Life(rule="B3/S23", activation="relu"), Life(normalize=True)])
def test_the_parts_of_a_network_make_its_outputs_and_its_loss(problem: Life) -> None:
    stack = random_stack(problem, 3)
    own, objective = taken_apart(problem, stack), problem.objective(dtype=torch.float64)
    np.testing.assert_allclose(own.losses(), objective(stack)["loss"].numpy(), rtol=1e-12)
    probability = np.concatenate([part.numpy() for part in objective.scores(stack)], 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-own.outputs)), probability, atol=1e-12)


@pytest.mark.parametrize(
    "problem",
    [
        Life(steps=2),
        Life(m_factor=2),
        Life(activation="gelu"),
        Life(sigmoid=False),
        Life(loss="mse"),
        Life(architecture="paper"),
    ],
)
def test_other_networks_are_refused_by_their_title(problem: Life) -> None:
    with pytest.raises(Unsupported, match=r"with steps=1, m_factor=1.*this is Life B3/S23V") as error:
        taken_apart(problem, Life().landmark("presolve"))
    assert "\n" not in str(error.value)


def test_pooled_levels_have_the_least_loss_of_a_grid_of_their_answers() -> None:
    rng = np.random.default_rng(0)
    outputs = np.repeat([-3.0, 0.0, 2.0], 4) + rng.uniform(0, 0.1, 12)
    targets, weights = rng.random(12) < 0.4, rng.dirichlet(np.ones(12))
    value, levels = pooled(outputs, targets, weights)
    answers_ = np.linspace(1e-6, 1 - 1e-6, 20_001)
    least = 0.0
    for level in range(3):
        of = slice(4 * level, 4 * level + 4)
        live, dead = weights[of][targets[of]].sum(), weights[of][~targets[of]].sum()
        least += (-live * np.log(answers_) - dead * np.log(1 - answers_)).min()
    assert levels == 3
    assert 0 <= least - value < 1e-5
    assert pooled(outputs, targets, weights, within=0.0)[0] == 0


def cell_of(own: Anatomy, member: int) -> np.ndarray:
    sides = np.concatenate([own.filters[member], own.middle[member][None]]) > 0
    return np.concatenate([sides.ravel(), own.second[member] > 0, [own.last[member] > 0]])


@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_no_network_of_a_cell_has_a_loss_below_its_bound(activation: str) -> None:
    problem = Life(activation=activation)  # type: ignore[arg-type]
    own = taken_apart(problem, reference(0, 9, 15, 34))
    rng, seen = np.random.default_rng(0), 0
    for member in range(len(own)):
        found = floor(own, member)
        assert found.bound <= found.loss + 1e-12 or np.isnan(found.bound)
        for size in np.repeat([1e-3, 0.1], 20):
            near = {
                field.name: getattr(own, field.name)
                * np.exp(size * rng.standard_normal(getattr(own, field.name).shape))
                for field in dataclasses.fields(own)
                if field.name not in ("cells", "targets", "weights", "slope")
            }
            other = dataclasses.replace(own, **near)
            if (cell_of(other, member) == cell_of(own, member)).all():
                seen += 1
                assert not other.losses()[member] < found.bound - 1e-12
    assert seen > 20


def test_the_limit_of_one_threshold_is_the_least_loss_of_its_two_numbers() -> None:
    (mistake,), solved = ended(9)
    (limit,) = mistake.limits
    data = taken_apart(Life(), reference(9))
    total = CENTRE + LIVE - 3.0
    bent = np.where(total > 0, 0.01 * total, total)  # what the second rectifier reads stays above 0 from 3 live on
    right = np.where(data.targets, -1, 1)

    def loss(at: np.ndarray) -> float:
        return float(softplus(right * (at[0] + at[1] * bent)) @ data.weights)

    least = minimize(loss, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 4000})
    assert solved == 0
    assert mistake.computes.text == "live if c + n >= 3"
    assert mistake.wrong == (("dead, 4 live", 16, 16), ("live, 4 live", 16, 16))
    assert limit.explained
    assert limit.value == pytest.approx(least.fun, abs=1e-9)
    assert limit.floor == pytest.approx(least.fun, abs=1e-9)
    assert sum(share for _, share in limit.cases) == pytest.approx(limit.floor, rel=1e-12)


def test_the_limit_of_a_network_of_one_piece_is_that_of_logistic_regression() -> None:
    (mistake,), _ = ended(33)
    (limit,) = mistake.limits
    data = taken_apart(Life(), reference(33))
    cells = np.concatenate([data.cells, np.ones((512, 1))], 1)
    theta = np.zeros(10)
    for _ in range(50):  # Newton's method
        p = 1 / (1 + np.exp(-cells @ theta))
        gradient = cells.T @ (data.weights * (p - data.targets))
        theta -= np.linalg.solve(cells.T @ ((data.weights * p * (1 - p))[:, None] * cells), gradient)
    least = float(softplus(np.where(data.targets, -1, 1) * (cells @ theta)) @ data.weights)
    assert limit.value == pytest.approx(least, abs=1e-8)
    assert limit.pieces == 1


def test_members_of_one_limit_are_together_and_their_cells_explain_it() -> None:
    (mistake,), solved = ended(0, 1, 78)
    assert solved == 0
    assert [(len(each.members), round(each.value, 6)) for each in mistake.limits] == [(2, 0.086478), (1, 0.087533)]
    assert mistake.limits[0].explained
    assert mistake.limits[0].members == ("seed 0", "seed 1")
    assert dict(mistake.limits[0].kinds) == {"at a kink": 2}


def test_who_gets_all_right_on_the_way_is_no_mistake() -> None:
    assert ended(2) == ((), 1)


TABLES: list[tuple[np.ndarray, str, str]] = [
    (answers(RULE), "an interval", "live if 5 <= c + 2n <= 7"),
    (CENTRE + LIVE >= 3, "one threshold", "live if c + n >= 3"),
    (LIVE <= 1, "one threshold", "live if n <= 1"),
    (CENTRE == 1, "one threshold", "live if c >= 1"),
    (CENTRE == 0, "one threshold", "live if c <= 0"),
    ((CENTRE == 1) & (LIVE <= 2), "one threshold", "live if -3c + n <= -1"),
    (LIVE == 2, "an interval", "live if 2 <= n <= 2"),
    (PATTERNS[:, 0, 0] + PATTERNS[:, 2, 2] == 2, "one threshold of cells", ""),
    (LIVE < 0, "constant", "always dead"),
    (LIVE >= 0, "constant", "always live"),
]


@pytest.mark.parametrize(("alive", "kind", "text"), TABLES, ids=[f"{kind}-{text}" for _, kind, text in TABLES])
def test_truth_tables_are_put_in_words(alive: np.ndarray, kind: str, text: str) -> None:
    found = formula(alive, RULE)
    assert found is not None
    assert found.kind == kind
    assert found.text == text or not text


def test_a_threshold_of_cells_in_words_is_the_table() -> None:
    kernel = np.array([[3, -2, 0], [1, 5, 0], [0, -1, 2]])
    alive = (PATTERNS * kernel).sum((1, 2)) >= 4
    found = formula(alive, RULE)
    assert found is not None
    sums, least = found.text.removeprefix("live if the sum of cells x ").split(" >= ")
    assert (((PATTERNS * np.array(json.loads(sums))).sum((1, 2)) >= int(least)) == alive).all()


def test_what_no_threshold_says_has_none() -> None:
    assert formula((PATTERNS[:, 0, 0] ^ PATTERNS[:, 2, 2]).astype(bool), RULE) is None


def test_signatures_are_those_of_any_order_and_scale_of_units() -> None:
    problem = Life()
    stack = random_stack(problem, 6)
    symmetry = problem.symmetry()
    before = signatures(problem, stack)
    for order in every_order(symmetry):
        assert signatures(problem, reorder(stack, symmetry, order)) == before
    assert signatures(problem, act(stack, symmetry, balance(stack, symmetry))) == before


def flipped(stack: Stack, name: str, unit: int) -> Stack:
    tensor = stack.tensors[name].clone()
    tensor[:, unit] *= -1
    return Stack({**stack.tensors, name: tensor})


def test_planted_changes_are_seen_by_the_signatures_that_are_about_them() -> None:
    problem = Life()
    stack = problem.landmark("presolve")
    own = signatures(problem, stack)
    last = signatures(problem, flipped(stack, "net.0.4.weight", 0))
    assert all(own[name] != last[name] for name in own)
    bias = {**stack.tensors, "net.0.0.bias": stack.tensors["net.0.0.bias"] - 1000.0}  # no filter is active anywhere
    silent = signatures(problem, Stack(bias))
    assert {name for name in own if own[name] != silent[name]} >= {"reach", "hinges", "activity", "units"}
    assert all(own[name] == silent[name] for name in ("last sign", "signs", "directions", "centres"))
    turned = signatures(problem, flipped(stack, "net.0.0.weight", 0))
    assert own["signs"] == turned["signs"]
    assert own["directions"] != turned["directions"]


def planted(classes: np.ndarray, wrong: tuple[int, int] | None = None) -> Pairs:
    same = classes[:, None] == classes
    if wrong is not None:
        same = same.copy()
        same[wrong] = same[wrong[::-1]] = not same[wrong]
    low = np.where(same, 0.0, 1.0)
    names = tuple(f"seed {k}" for k in range(len(classes)))
    return Pairs(names, low, low + 1e-3, low + 2, low + 1, same)


def test_a_planted_signature_is_found_on_one_half_and_has_no_exception_on_the_other() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 3, 40) for _ in range(2))
    same = [{"true": k[:, None] == k, "coarse": (k[:, None] > 0) == (k > 0)} for k in (one, other)]
    tests = on_halves((same[0], planted(one).connected(0.01)), (same[1], planted(other)), 0.01)
    true, coarse = tests
    assert true.phi == pytest.approx(1)
    assert (true.same, true.different, true.exceptions, true.against) == (1.0, 0.0, 0, ())
    assert true.same_pairs + true.different_pairs == 40 * 39 // 2
    assert 0.6 < true.same_interval[0] < true.same_interval[1] == 1
    assert coarse.phi < 1
    assert coarse.different == 0
    assert coarse.exceptions == sum(
        (other[i] != other[j]) and (other[i] > 0) == (other[j] > 0) for i in range(40) for j in range(i)
    )


def test_an_exception_is_listed_with_both_members_and_its_bounds() -> None:
    classes = np.arange(40) % 2
    same = {"true": classes[:, None] == classes}
    (test,) = on_halves((same, planted(classes).connected(0.01)), (same, planted(classes, wrong=(3, 8))), 0.01)
    assert test.exceptions == 1
    assert test.against == (("seed 3", "seed 8", False, 0.0, 1e-3),)


def test_a_pair_between_its_bounds_is_undecided() -> None:
    low, high = np.array([[0, 0.005], [0.005, 0]]), np.array([[0, 0.02], [0.02, 0]])
    pairs = Pairs(("a", "b"), low, high, high, high, high > 0)
    assert np.isnan(pairs.connected(0.01)).all()
    assert pairs.connected(0.02)[0, 1] == 1
    assert pairs.connected(0.004)[0, 1] == 0


def test_pairs_that_are_all_alike_count_as_many_as_share_no_member() -> None:
    ones = np.ones((30, 30))
    np.fill_diagonal(ones, np.nan)
    value, interval, count = _share(ones, 0.95)
    assert (value, count) == (1.0, 435)
    assert interval == pytest.approx(Proportion(15, 15).interval_at(0.95))


def test_phi_is_one_for_equal_tables_and_unknown_where_a_table_is_the_same_for_all() -> None:
    classes = np.arange(6) % 2
    same = classes[:, None] == classes
    assert _phi(same, same.astype(float)) == pytest.approx(1)
    assert _phi(same, (~same).astype(float)) == pytest.approx(-1)
    assert np.isnan(_phi(np.ones((6, 6), bool), same.astype(float)))


def test_bounds_of_pairs_hold_the_better_of_plain_walks_in_both_orders() -> None:
    problem, stack = Life(), reference(2, 46, 72, 12)
    told: list[int] = []
    pairs = _lines(problem, stack, list("abcd"), lambda done, total: told.append(done))
    ends = act(stack, problem.symmetry(), balance(stack, problem.symmetry()))
    for i in range(4):
        for j in range(i):
            heights = []
            for order in every_order(problem.symmetry()):
                start = reorder(ends.select([j]), problem.symmetry(), order)
                walk = landscape.walk(
                    start.state_dict(0), ends.state_dict(i), problem=problem, points=401, dtype=torch.float64
                )
                heights.append(landscape.barriers(walk).above_higher_end[0])
            assert min(heights) <= pairs.high[i, j] + 1e-9
            assert min(heights) >= pairs.low[i, j] - 2e-3 * (1 + pairs.low[i, j])
            assert pairs.low[i, j] == pairs.low[j, i]
    assert told


def test_a_path_between_last_weights_of_unlike_signs_passes_what_answers_all_alike() -> None:
    data = taken_apart(Life(), reference(0))
    answers_ = np.linspace(0.001, 0.999, 100_000)
    live = data.weights @ data.targets
    least = (-live * np.log(answers_) - (1 - live) * np.log(1 - answers_)).min()
    found = pooled(np.zeros(512), data.targets, data.weights)[0]
    assert found == pytest.approx(least, abs=1e-8)


@pytest.mark.parametrize("rule", ["B3/S23V", "B3/S23", "B2/S13V", "B36/S23"])
def test_no_monotone_answer_to_a_weighted_sum_of_cells_is_better_than_the_bound_for_one_filter(rule: str) -> None:
    problem, rng = Life(rule=rule), np.random.default_rng(0)
    own = taken_apart(problem, random_stack(Life(), 1))
    bound, cells = one_filter(Rule.parse(rule), own.weights), PATTERNS.reshape(512, 9)
    counted = Rule.parse(rule).kernel.reshape(-1)
    least = np.inf
    for number in range(300):
        kernel = rng.integers(-3, 4, 9) * (1 if number % 2 else counted)
        if number % 4 == 0:
            kernel = rng.choice([-1, 1]) * counted
        kernel[4] = rng.integers(-4, 5)
        _, place = np.unique(cells @ kernel, return_inverse=True)
        whole, live = np.bincount(place, own.weights), np.bincount(place, own.weights * own.targets)
        for increasing in (True, False):  # the best answer of all, by pooling adjacent violators
            best = isotonic_regression(live / whole, weights=whole, increasing=increasing).x.clip(1e-300, 1 - 1e-16)
            least = min(least, float(-(live * np.log(best) + (whole - live) * np.log1p(-best)).sum()))
    assert 0 < bound < least


@pytest.fixture(scope="module")
def small() -> landscape.Checkpoint:
    whole = Run.open(RUN).checkpoint()
    return whole.select(range(44))


def test_a_whole_run_is_told_and_drawn(
    small: landscape.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []

    def progress(name: str) -> Callable[[int, int], None]:
        pieces.append(name)
        return lambda done, total: None

    found = mechanism(small, members=22, progress=progress)
    assert pieces == ["limits", *2 * ["lines, all members"]]
    (population,) = found.populations
    assert isinstance(population, Population)
    assert found.solved.total == 44
    assert sum(each.members for each in found.mistakes) + found.later + found.solved.count == 44
    assert found.mistakes[0].computes.text == "live if c + n >= 3"
    signs = {test.name: test for test in population.tests}
    assert signs["last sign"].different == 0
    assert population.crossing > found.constant
    assert sum(population.components) == 22
    assert population.decided == 231
    assert json.loads(json.dumps(found.summary(), default=lambda value: getattr(value, "__dict__", str(value))))
    assert repr(found).startswith("Mechanism(44 members, ")
    figure = figures.mechanism_figure(
        [("title", figures.BarrierTable(population.pairs.high, population.signature, population.best))], caption="words"
    )
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_xlabel() == f"22 members, by {population.best}"
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert "10⁻⁴" in labels
    assert not [label for label in labels if "$" in label]
    with pytest.raises(LandscapeError, match="nothing to draw"):
        figures.mechanism_figure([])
    write_json(tmp_path / "found.json", found.document())
    monkeypatch.setattr("landscape.analysis.mechanism.mechanism", lambda *arguments, **options: found)
    for place in (RUN, tmp_path / "found.json"):  # of a run it is what would be analysed
        drawn = CliRunner().invoke(main, ["plot", "mechanism", str(place), "-o", str(tmp_path / Path(place).stem)])
        assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / f"{Path(RUN).stem}.png").read_bytes() == (tmp_path / "found.png").read_bytes()


def test_too_few_members_of_a_half_are_refused(small: landscape.Checkpoint) -> None:
    few = small.select(range(30))
    with pytest.raises(LandscapeError, match="15 finite members with even seeds and 15 with odd ones are too few"):
        mechanism(few)


def test_the_command_refuses_in_one_line_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "wide"
    landscape.train(Life(m_factor=2), {"batches": 1}, path, seeds=range(2))
    result = CliRunner().invoke(main, ["analyse", "mechanism", str(path), "-o", str(tmp_path / "found.json")])
    assert result.exit_code == 1
    assert result.stderr.strip().count("\n") == 0
    assert "m_factor=1" in result.stderr
    assert "m = 2" in result.stderr
    assert not (tmp_path / "found.json").exists()
    wrong = CliRunner().invoke(main, ["analyse", "mechanism", str(path), "--members", "3"])
    assert wrong.exit_code == 2
    with pytest.raises(LandscapeError, match="threshold"):
        mechanism(path, threshold=0.0)


def test_the_command_prints_tables_and_keeps_all_of_it(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "found.json"
    landscape.train(Life(), {"batches": 300}, run, seeds=range(40))
    result = CliRunner().invoke(main, ["analyse", "mechanism", str(run), "--members", "20", "-o", str(kept)])
    assert result.exit_code == 0, result.stderr
    assert "40 members after 300 steps, solved by" in result.stdout
    assert "what it computes" in result.stdout
    assert "connected if same" in result.stdout
    document = json.loads(kept.read_text())
    assert {"mistakes", "populations", "constant", "signatures", "solved"} <= document.keys()
    assert len(document["populations"][0]["tests"]) == len(document["signatures"])
    drawn = CliRunner().invoke(main, ["plot", "mechanism", str(kept), "-o", str(tmp_path / "drawn.png")])
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout.split() == [str(tmp_path / f"drawn.{kind}") for kind in ("png", "svg")]
    whole = json.loads(kept.read_text())
    heights = np.array(whole["populations"][0]["heights"])
    assert heights.shape == (20, 20)
    np.testing.assert_array_equal(heights, heights.T)
    refused = CliRunner().invoke(main, ["plot", "mechanism", str(kept), "--members", "30"])
    assert (refused.exit_code, "says how it was found: leave --members out" in refused.stderr) == (2, True)
    del whole["populations"][0]["heights"]
    kept.write_text(json.dumps(whole))
    older = CliRunner().invoke(main, ["plot", "mechanism", str(kept), "-o", str(tmp_path / "older.png")])
    assert (older.exit_code, "holds no heights" in older.stderr) == (1, True)
