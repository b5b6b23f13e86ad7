"""The committed runs and walks as golden data: what they say must come out again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape.analysis.barriers import barriers, lowest_order
from landscape.analysis.outcomes import outcomes
from landscape.problems.initialisation import initialise
from landscape.problems.registry import create
from landscape.space.family import line as straight
from landscape.store.checkpoints import Run, load
from landscape.store.results import Result

ROOT = Path(__file__).parent.parent
RULES = ("B3S23V", "B3S23")


@pytest.fixture(params=RULES)
def run(request: pytest.FixtureRequest) -> Run:
    return Run.open(ROOT / "checkpoints" / f"one-step-m1-{request.param}")


@pytest.fixture
def curves(run: Run) -> Result:
    return Result.read(
        ROOT / "analyses" / "one_step_m1" / f"{run.path.name.removeprefix('one-step-m1-')}.h5", plane=False
    )


@pytest.fixture
def results(run: Run) -> dict[str, object]:
    name = run.path.name.removeprefix("one-step-m1-")
    found: dict[str, object] = json.loads((ROOT / "analyses" / "one_step_m1" / f"{name}.json").read_text())
    return found


def test_runs_hold_a_thousand_seeds_from_their_first_step(run: Run) -> None:
    assert run.seeds == list(range(1000))
    assert run.steps() == [0, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]
    problem = create(*run.problem)
    assert torch.equal(initialise(problem.network(), run.seeds).flatten(), run.checkpoint(0).stack.flatten())


@pytest.mark.slow
def test_outcomes_are_those_that_are_written_down(run: Run, results: dict[str, object]) -> None:
    problem = create(*run.problem)
    found = outcomes(problem, run.checkpoint().stack)
    assert [found.solved.count, found.solved.total] == [results["solved"][key] for key in ("count", "total")]  # type: ignore[index]
    assert len(found.groups) == results["truth_tables"]
    counts = [group["share"]["count"] for group in results["groups"]]  # type: ignore[attr-defined]
    assert [group.share.count for group in found.groups[:10]] == counts


def test_walks_come_out_again(run: Run, curves: Result) -> None:
    """Each point of every fortieth line, from the checkpoints, to the rounding of another machine."""
    problem = create(*run.problem)
    chosen = np.arange(0, len(curves), 40)
    ends = load(str(run.path)).stack
    assert {source.digest for source in curves.sources[1:1001]} == {load(str(run.path)).sources[0].digest}
    start = problem.landmark("presolve").to(torch.float32)
    objective = problem.objective()
    for line in chosen[curves["from_member"][chosen] == 0]:
        path = straight(start, ends.select([int(curves["to_member"][line]) - 1]))
        points = torch.zeros(len(curves.alpha), dtype=torch.int64)
        values = objective(path.at(points, torch.as_tensor(curves.alpha)))
        np.testing.assert_allclose(values["loss"], curves.loss[line], rtol=1e-3, atol=1e-6)


def test_every_seed_is_walked_to_from_both_orders(curves: Result) -> None:
    assert len(curves) == 2000
    assert curves.done.all()
    lowest = lowest_order(curves)
    assert sorted(curves["to_member"][lowest]) == sorted(set(curves["to_member"].tolist()))
    both = barriers(curves).above_chord.reshape(2, 1000)
    np.testing.assert_array_equal(np.sort(barriers(curves.select(lowest)).above_chord), np.sort(both.min(axis=0)))
