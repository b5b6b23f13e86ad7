"""Outcome against steps: the estimator against closed forms, a plain loop and simulation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import landscape
from landscape import LandscapeError, Stack
from landscape.analysis.incidence import _interval, aalen_johansen, incidence
from landscape.cli import main
from landscape.problems.life import Life
from landscape.store.checkpoints import Run


def by_loop(times: np.ndarray, causes: np.ndarray, at: float, count: int) -> list[float]:
    """The estimator as it is defined, one event time after another."""
    alive, shares = 1.0, [0.0] * count
    for time in sorted(set(times[causes >= 0])):
        if time > at:
            break
        risk = sum(each >= time for each in times)
        here = [sum((times == time) & (causes == k)) for k in range(count)]
        shares = [share + alive * d / risk for share, d in zip(shares, here, strict=True)]
        alive *= 1 - sum(here) / risk
    return shares


def test_the_estimator_is_that_of_a_plain_loop_with_ties_and_censoring() -> None:
    rng = np.random.default_rng(0)
    times, causes = rng.integers(1, 12, 80).astype(float), rng.integers(-1, 3, 80)
    grid = np.arange(0.0, 13.0)
    shares, _ = aalen_johansen(times, causes, grid, 3)
    for j, at in enumerate(grid):
        np.testing.assert_allclose(shares[:, j], by_loop(times, causes, at, 3), atol=1e-14)


def test_without_censoring_it_is_a_proportion_with_its_binomial_error() -> None:
    rng = np.random.default_rng(1)
    times, causes = rng.integers(1, 6, 60).astype(float), rng.integers(0, 2, 60)
    shares, se = aalen_johansen(times, causes, np.arange(1.0, 6.0), 2)
    for j, at in enumerate(np.arange(1.0, 6.0)):
        for cause in range(2):
            p = np.mean((times <= at) & (causes == cause))
            assert shares[cause, j] == pytest.approx(p)
            assert se[cause, j] == pytest.approx(np.sqrt(p * (1 - p) / 60))


def test_its_error_and_interval_are_those_that_simulated_censored_runs_show() -> None:
    rng = np.random.default_rng(2)
    found, told, covered = [], [], 0
    truth = 0.6 * (1 - np.exp(-1.0))
    for _ in range(1000):
        event, cause, censored = rng.exponential(1, 60), rng.random(60) > 0.6, rng.exponential(2, 60)
        seen = event <= censored
        times, causes = np.where(seen, event, censored), np.where(seen, cause.astype(int), -1)
        share, se = aalen_johansen(times, causes, np.array([1.0]), 2)
        low, high = _interval(share, se, 60)
        found.append(share[0, 0])
        told.append(se[0, 0])
        covered += low[0, 0] <= truth <= high[0, 0]
    assert np.mean(found) == pytest.approx(truth, abs=0.006)
    assert np.mean(told) == pytest.approx(np.std(found), rel=0.07)
    assert covered / 1000 > 0.93


def test_nothing_that_happened_has_wilsons_interval() -> None:
    low, high = _interval(np.zeros((1, 1)), np.zeros((1, 1)), 50)
    assert low[0, 0] == 0
    assert 0.05 < high[0, 0] < 0.1


def run_of(path: Path, steps: dict[int, Stack]) -> Run:
    problem = Life()
    members = len(next(iter(steps.values())))
    document = {
        "problem": {"name": "life", "config": problem.config()},
        "training": {"batches": max(steps)},
        "seeds": list(range(members)),
        "data_seeds": list(range(members)),
        "computation": {},
    }
    run = Run.create(path, document)
    for step, stack in steps.items():
        run.save(step, stack)
    return run


def test_solved_at_and_by_part_where_members_lose_what_they_had_and_dead_ones_compete(tmp_path: Path) -> None:
    right = Life().landmark("presolve")
    wrong = right.map(lambda tensor: -tensor)
    dead = right.map(torch.zeros_like)
    broken = right.map(lambda tensor: tensor * torch.nan)

    def members(*stacks: Stack) -> Stack:
        return Stack({name: torch.cat([each[name] for each in stacks]) for name in right.tensors})

    run = run_of(
        tmp_path / "run",
        {
            0: members(wrong, wrong, wrong, dead, wrong),
            1: members(right, wrong, wrong, wrong, wrong),
            10: members(wrong, wrong, dead, wrong, wrong),
            100: members(right, wrong, dead, right, broken),
        },
    )
    found = incidence(run)
    assert found.steps == (0, 1, 10, 100)
    assert [each.count for each in found.at] == [0, 1, 0, 2]
    # The third is dead from step 10 on; the fourth, dead at first, came alive again.
    assert found.first.tolist() == [1, -1, 10, 100, 100]
    assert found.cause.tolist() == [0, -1, 1, 0, 1]
    np.testing.assert_allclose(found.by, [[0, 0.2, 0.2, 0.4], [0, 0, 0.2, 0.4]])
    assert found.lost == 0
    header, rows = found.table()
    assert len(header) == len(rows[0])
    result = CliRunner().invoke(
        main, ["plot", "incidence", str(run.path), "-o", str(tmp_path / "figure.png")], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figure.svg").exists()


def test_a_run_of_less_than_a_decade_has_no_outcome_against_steps(tmp_path: Path) -> None:
    run = landscape.train("life", {"batches": 3, "save_at": (3,)}, tmp_path / "run", seeds=range(2))
    with pytest.raises(LandscapeError, match="need a decade"):
        incidence(run)
    result = CliRunner().invoke(main, ["plot", "incidence", str(run.path)])
    assert result.exit_code == 1
    assert result.stderr.strip().count("\n") == 0
