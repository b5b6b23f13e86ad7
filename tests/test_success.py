"""Success on test boards: counted once more with the plain network, board by board; tables, files and remarks."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome

from landscape.analysis.success import Row, as_csv, as_document, definitions, success
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import Proportion
from landscape.engine.stack import Stack, concatenate
from landscape.problems.base import Problem
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.life.boards import random_boards
from landscape.problems.life.rules import Rule
from landscape.training.train import Training, train

Program = Callable[..., Outcome]


def solved_and_not(problem: Life) -> Stack:
    """The known solution, itself disturbed, networks at random, and those that say dead and alive."""
    solution = problem.landmark("presolve").to(torch.float32)
    disturbed = solution.unflatten(solution.flatten() + 0.3 * torch.linspace(-3, 3, solution.parameters).sin())
    constant = torch.zeros(2, solution.parameters)
    constant[:, -1] = torch.tensor([-3.0, 3.0])
    return concatenate([solution, disturbed, initialise(problem.network(), range(3)), solution.unflatten(constant)])


def board_by_board(
    problem: Life, stack: Stack, count: int, seed: int, size: tuple[int, int], density: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which cells [member, board, row, column] the plain network gets right, and the answers."""
    boards = random_boards(torch.tensor([seed]), 2**62, count, *size, density)[0].movedim(-1, 0)
    later = Rule.parse(problem.rule).steps(boards.numpy().astype(int), problem.steps)
    right = []
    for member in range(len(stack)):
        network = problem.network().eval()
        network.load_state_dict(stack.state_dict(member))
        with torch.no_grad():
            outputs = network(boards[:, None].float() - 0.5 * problem.normalize)[:, 0]
        right.append((outputs.numpy() > 0.5) == (later == 1))
    return np.array(right), later


@pytest.mark.parametrize(
    ("problem", "conditions"),
    [
        (Life(), {}),
        (Life(steps=2), {}),
        (Life(steps=2, normalize=True, sigmoid=False, activation="relu", rule="B3/S23"), {"board": "4x7"}),
        (Life(m_factor=2, board="3x3", density=0.1), {"density": 0.3, "seed": 5}),
    ],
    ids=["one step", "two steps", "other boards", "other density"],
)
def test_every_cell_counted_once_more(problem: Life, conditions: dict[str, Any]) -> None:
    stack = solved_and_not(problem)
    found = success(problem, stack, samples=90, **conditions)
    height, width = map(int, conditions.get("board", "5x5").split("x"))
    size, density = (height, width), conditions.get("density", 0.5)
    right, later = board_by_board(problem, stack, 90, conditions.get("seed", 0), size, density)
    boards = right.all((2, 3))
    assert found.samples == 90
    np.testing.assert_array_equal(found.sample_rate, boards.mean(1))
    np.testing.assert_array_equal(found.solved, boards.all(1))
    np.testing.assert_allclose(found.cell_rate, right.mean((1, 2, 3)), rtol=1e-6)
    assert found.solved[0]
    assert not found.solved[1:].all()
    assert found.share == Proportion(int(boards.all(1).sum()), len(stack))
    assert found.baselines == {"all dead": pytest.approx(((later == 0).all((1, 2)).mean(), (later == 0).mean()))}
    assert found.sample_rate[-2] == found.baselines["all dead"][0]
    if problem.exact:
        everything = problem.objective()(stack)["solved"].numpy() == 1
        assert found.exact is not None
        np.testing.assert_array_equal(found.exact, everything)
        assert found.exact_share == Proportion(int(everything.sum()), len(stack))
    else:
        assert found.exact is None
        assert found.exact_share is None


def test_boards_are_the_same_for_all_and_others_with_another_seed() -> None:
    problem = Life(steps=2)
    stack = solved_and_not(problem)
    first = success(problem, stack, samples=50)
    again = success(problem, stack.select([4, 2]), samples=50)
    np.testing.assert_array_equal(again.cell_rate, first.cell_rate[[4, 2]])
    other = success(problem, stack, samples=50, seed=1)
    assert other.baselines != first.baselines
    trained = problem.boards(torch.tensor([0]), 0, 50, torch.float32).now
    tested = problem.test_objective(samples=50, board=problem.board).data.now  # type: ignore[attr-defined]
    assert not torch.equal(tested, trained)


def test_the_constant_answer_where_it_is_known() -> None:
    """Under B/S all is dead one step later, whatever was; under B01234/S01234 of four neighbours nothing is."""
    for rule, rates in (("B/SV", (1, 1)), ("B01234/S01234V", (0, 0))):
        found = success(Life(rule=rule), initialise(Life().network(), [0]), samples=33)
        assert found.baselines == {"all dead": rates}


def test_right_on_the_test_but_not_on_everything() -> None:
    """Sparse boards leave out most patterns: who says dead is right there."""
    problem = Life()
    says_dead = solved_and_not(problem).select([5])
    found = success(problem, says_dead, samples=20, density=0.01, board="3x3")
    assert found.solved.tolist() == [True]
    assert found.exact is not None
    assert found.exact.tolist() == [False]


def test_conditions_that_a_problem_has_not(life: Life) -> None:
    stack = initialise(life.network(), [0])
    with pytest.raises(
        Unsupported, match="life is tested under `board` and `density`, not temperature: leave that out"
    ):
        success(life, stack, temperature=3)
    with pytest.raises(LandscapeError, match="'5' is no board"):
        success(life, stack, board="5")
    with pytest.raises(LandscapeError, match="no probability"):
        success(life, stack, density=1.5)
    with pytest.raises(Unsupported, match=r"Life B3/S23V, .* is not tested under board: leave that out"):
        Problem.test_objective(life, board="5x5")
    assert Problem.baselines(life, life.objective()) == {}
    assert Problem.test_remark(life) == ""


def test_a_remark_on_boards_that_are_too_small() -> None:
    assert Life().test_remark() == ""
    assert Life(steps=2).test_remark(density=0.3) == ""
    words = "boards of 5x5 are smaller than the 7x7 cells on which a cell's answer depends"
    assert Life(steps=3).test_remark().startswith(words)
    assert Life(steps=2, d_factor=1.5).test_remark().startswith(words)
    assert Life(steps=3).test_remark().endswith('larger boards are right; try `board="14x14"`')
    assert Life(steps=3).test_remark(board="7x9") == ""
    assert Life().test_remark(board="2x9").startswith("boards of 2x9 are smaller than the 3x3 cells")


# ----------------------------------------------------------------------------------------------------------------------


def rows() -> list[Row]:
    """A cell whose truth can be enumerated and one where it cannot, of many members and of few."""
    one, two = Life(), Life(steps=2)
    few = success(two, solved_and_not(two).select([0, 3]), samples=40)
    many = concatenate([solved_and_not(one), initialise(one.network(), [3])])
    return [Row({"steps": 1}, success(one, many, samples=40)), Row({"steps": 2}, few)]


def test_rows_as_documents() -> None:
    first, second = as_document(rows())
    found = rows()[0].success
    assert (first["steps"], first["members"], first["samples"]) == (1, 8, 40)
    assert first["solved"] == found.share
    assert first["exact"] == found.exact_share
    assert first["cell_rate"]["mean"] == pytest.approx(found.cell_rate.mean())
    low, high = first["cell_rate"]["interval"]
    assert low <= first["cell_rate"]["mean"] <= high
    np.testing.assert_array_equal(first["sample_rate"]["of_members"], found.sample_rate)
    assert first["baselines"]["all dead"] == dict(
        zip(("sample_rate", "cell_rate"), found.baselines["all dead"], strict=True)
    )
    assert second["exact"] is None
    assert np.isnan(second["cell_rate"]["interval"]).all()  # two members make no interval
    assert set(definitions(Life.nouns)) <= set(first)


def test_rows_as_comma_separated_values() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(rows())))
    found = [row.success for row in rows()]
    assert list(first)[:3] == ["steps", "members", "samples"]
    for line, cell in zip((first, second), found, strict=True):
        assert int(line["solved_count"]) == cell.share.count
        assert float(line["solved"]) == cell.share.value
        assert (float(line["solved_low"]), float(line["solved_high"])) == cell.share.interval
        assert float(line["sample_rate"]) == pytest.approx(cell.sample_rate.mean())
        assert float(line["all dead cell_rate"]) == cell.baselines["all dead"][1]
    assert found[0].exact_share is not None
    assert int(first["exact_count"]) == found[0].exact_share.count
    assert second["exact"] == ""
    assert float(first["cell_rate_low"]) <= float(first["cell_rate"]) <= float(first["cell_rate_high"])


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seeds of three steps that begin at the solution."""
    path = tmp_path_factory.mktemp("runs") / "deep"
    problem = Life(steps=3, board="8x8", activation="relu", sigmoid=False)
    training = Training(batches=0, start="presolve")
    return train(problem, training, path, seeds=range(6)).path


def test_success_at_the_command_line(landscape: Program, run: Any) -> None:
    result = landscape("analyse", "success", run.path, "--boards", "60", "-o", "found.json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    header, _, line = result.stdout.splitlines()
    for column in ("solved", "95 % interval", "exact", "boards right", "cells right", "all dead: boards"):
        assert column in header
    found = success(Life(), run.checkpoint().stack, samples=60)
    assert found.exact_share is not None
    assert f"{found.share.count} of 24" in line
    assert f"{found.exact_share.count} of 24" in line
    assert f"{found.cell_rate.mean():.4g}" in line
    document = json.loads(Path("found.json").read_text())
    assert document["test"]["samples"] == 60
    assert document["title"] == Life().title()
    assert document["definitions"] == definitions(Life.nouns)
    assert document["definitions"]["cell_rate"].startswith("share of the cells of all test boards that are right")
    assert definitions(Problem.nouns)["solved"] == "share of members that get all test samples entirely right"
    (cell,) = document["cells"]
    assert cell["solved"]["count"] == found.share.count
    assert cell["sample_rate"]["of_members"] == found.sample_rate.tolist()
    assert Path("found.csv").read_text() == as_csv([Row({}, found)])
    printed = landscape("analyse", "success", run.path, "--boards", "60", "--json")
    assert json.loads(printed.stdout) == document


def test_success_is_not_written_over(landscape: Program, run: Any) -> None:
    asked = ("analyse", "success", run.path, "--boards", "5", "-o", "found.json")
    Path("found.csv").write_text("mine")
    result = landscape(*asked)
    assert result.exit_code == 1
    assert "found.csv" in result.stderr.splitlines()[-1]
    assert Path("found.csv").read_text() == "mine"
    assert not Path("found.json").exists()
    Path("found.csv").unlink()
    assert landscape(*asked).exit_code == 0
    refused = landscape(*asked)
    assert refused.exit_code == 1
    assert refused.stderr.count("Error: ") == 1
    assert landscape(*asked, "--force").exit_code == 0


def test_success_on_boards_that_are_too_small(landscape: Program, deep: Path) -> None:
    small = landscape("analyse", "success", deep, "--boards", "40")
    assert small.exit_code == 0, small.output
    assert "boards of 5x5 are smaller than the 7x7 cells on which a cell's answer depends" in small.stderr
    assert "6 of 6" in small.stdout
    large = landscape("analyse", "success", deep, "--boards", "40", "--board", "7x7", "--density", "0.3", "--json")
    assert large.stderr == ""
    document = json.loads(large.stdout)
    assert document["cells"][0]["solved"]["count"] == 6
    assert document["cells"][0]["exact"] is None
    assert document["test"]["board"] == "7x7"
    wrong = landscape("analyse", "success", deep, "--board", "seven")
    assert wrong.exit_code == 1
    assert "'seven' is no board: write HEIGHTxWIDTH" in wrong.stderr


def test_members_that_diverged_get_nothing_right() -> None:
    problem = Life()
    stack = problem.landmark("presolve").to(torch.float32).select([0, 0])
    spoilt = stack.flatten().clone()
    spoilt[1, 3] = float("nan")
    found = success(problem, stack.unflatten(spoilt), samples=50)
    assert found.solved.tolist() == [True, False]
    assert found.exact is not None
    assert found.exact.tolist() == [True, False]
    assert found.sample_rate.tolist() == [1, 0]
    assert found.cell_rate[1] == 0
