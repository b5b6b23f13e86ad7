"""Shares of variance in a crossed experiment: the textbook's mean squares, simulations, and tables of one kind only."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from landscape.analysis.crossed import Shares, crossed_shares
from landscape.core.errors import LandscapeError

tables = hnp.arrays(
    float,
    st.tuples(st.integers(3, 6), st.integers(3, 6)),
    elements=st.integers(-50, 50).map(lambda number: number / 8),
)


def estimates(shares: Shares) -> np.ndarray:
    return np.array([shares.rows[0], shares.columns[0], shares.combination[0]])


def intervals(shares: Shares) -> np.ndarray:
    """[part, low and high]."""
    return np.array([part[1:] for part in dataclasses.astuple(shares)])


def mean_squares(table: np.ndarray) -> np.ndarray:
    """Two-way analysis of variance without replication, cell by cell; its mean squares as shares of variance."""
    a, b = table.shape
    every = [float(table[i, j]) for i in range(a) for j in range(b)]
    grand = sum(every) / len(every)
    of_row = [sum(float(table[i, j]) for j in range(b)) / b for i in range(a)]
    of_column = [sum(float(table[i, j]) for i in range(a)) / a for j in range(b)]
    between_rows = b * sum((mean - grand) ** 2 for mean in of_row) / (a - 1)
    between_columns = a * sum((mean - grand) ** 2 for mean in of_column) / (b - 1)
    total = sum((value - grand) ** 2 for value in every)
    rest = (total - (a - 1) * between_rows - (b - 1) * between_columns) / ((a - 1) * (b - 1))
    # Expected mean squares: b rows + rest, a columns + rest, rest.
    components = np.array([(between_rows - rest) / b, (between_columns - rest) / a, rest])
    return components / components.sum()


def simulated(rng: np.random.Generator, shape: tuple[int, int], shares: tuple[float, float, float]) -> np.ndarray:
    """A table of normal effects with these shares of variance."""
    rows, columns, combination = np.sqrt(shares)
    return (
        rows * rng.normal(size=(shape[0], 1))
        + columns * rng.normal(size=(1, shape[1]))
        + combination * rng.normal(size=shape)
    )


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (9, 4), (12, 12)])
def test_shares_are_those_of_the_textbooks_mean_squares(shape: tuple[int, int]) -> None:
    for seed in range(5):
        table = simulated(np.random.default_rng(seed), shape, (0.5, 0.2, 0.3)) + 7
        np.testing.assert_allclose(estimates(crossed_shares(table)), mean_squares(table), rtol=1e-9, atol=1e-12)


def test_the_interval_of_what_columns_decide_beside_the_rest_is_the_f_distributions() -> None:
    """Where rows decide nothing, the share of columns is a function of one ratio of mean squares, whose interval is
    exact.
    """
    table = simulated(np.random.default_rng(1), (400, 8), (0.0, 0.4, 0.6))
    a, b = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    ratio = a * table.mean(0).var(ddof=1) / ((rest**2).sum() / ((a - 1) * (b - 1)))
    over = [(ratio / stats.f.ppf(level, b - 1, (a - 1) * (b - 1)) - 1) / a for level in (0.975, 0.025)]
    np.testing.assert_allclose(crossed_shares(table).columns[1:], [each / (1 + each) for each in over], atol=0.01)


def test_a_table_worked_out_by_hand() -> None:
    # Means of rows 2, 4, 6 and of columns 3, 4, 5; what they leave has squares that add up to 4.
    table = np.array([[1.0, 3, 2], [3, 3, 6], [5, 6, 7]])
    # Mean squares: rows 3 * 4 = 12, columns 3 * 1 = 3, rest 4 / 4 = 1; so 11/3, 2/3 and 1 of 16/3.
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    assert sorted(rest.ravel()) == [-1, -1, 0, 0, 0, 0, 0, 1, 1]
    np.testing.assert_allclose(estimates(crossed_shares(table)), [11 / 16, 2 / 16, 3 / 16])


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "shares"), [((12, 12), (0.2, 0.1, 0.7)), ((40, 5), (0.3, 0.1, 0.6))])
def test_known_shares_are_found_and_lie_in_95_of_100_intervals(
    shape: tuple[int, int], shares: tuple[float, float, float]
) -> None:
    rng, truth = np.random.default_rng(0), np.array(shares)
    found = [crossed_shares(simulated(rng, shape, shares)) for _ in range(300)]
    middle = np.stack([estimates(each) for each in found])
    # A ratio of unbiased components has a bias of the order of one over the levels.
    error = middle.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(abs(middle.mean(0) - truth), 3 * error + 0.5 / min(shape))
    ends = np.stack([intervals(each) for each in found])
    inside = ((ends[:, :, 0] <= truth) & (truth <= ends[:, :, 1])).mean(0)
    assert (inside >= 0.92).all()
    assert (inside <= 0.99).all()


def test_components_are_unbiased() -> None:
    # Shares are ratios, which are not; their sizes come back from that of the combination.
    rng, parts = np.random.default_rng(3), []
    for _ in range(300):
        table = simulated(rng, (5, 7), (0.5, 0.2, 0.3))
        rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        shares = estimates(crossed_shares(table))
        parts.append(shares * ((rest**2).sum() / 24) / shares[2])
    error = np.std(parts, axis=0) / np.sqrt(len(parts))
    np.testing.assert_array_less(abs(np.mean(parts, axis=0) - [0.5, 0.2, 0.3]), 3 * error)


ROWS = np.arange(4.0)[:, None] + np.zeros(5)


@pytest.mark.parametrize(("table", "parts"), [(ROWS, (1, 0, 0)), (ROWS.T, (0, 1, 0)), (-3 * ROWS + 8, (1, 0, 0))])
def test_what_only_rows_or_only_columns_decide(table: np.ndarray, parts: tuple[float, float, float]) -> None:
    found = crossed_shares(table)
    np.testing.assert_allclose(estimates(found), parts, atol=1e-12)
    np.testing.assert_allclose(intervals(found), np.stack([parts, parts], axis=1), atol=1e-12)


def test_what_rows_and_columns_add_up_to_has_no_share_of_their_combination() -> None:
    # Variances of 0 to 3 and of 0, 2, 4, 6, 8: 5/3 and 10.
    found = crossed_shares(ROWS + 2 * np.arange(5.0))
    np.testing.assert_allclose(estimates(found), [1 / 7, 6 / 7, 0], atol=1e-12)
    np.testing.assert_allclose(intervals(found)[2], 0, atol=1e-12)


def test_a_checkerboard_is_all_combination() -> None:
    table = np.array([[(-1.0) ** (i + j) for j in range(6)] for i in range(4)])
    found = crossed_shares(table)
    assert found.combination[0] > 1
    assert found.rows[0] < 0
    assert found.columns[0] < 0
    assert sum(estimates(found)) == pytest.approx(1)
    assert found.rows[1:] == (found.rows[0], 0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 512.0])
def test_the_same_outcome_everywhere_has_no_shares(value: float) -> None:
    assert np.isnan(dataclasses.astuple(crossed_shares(np.full((4, 5), value)))).all()


@pytest.mark.parametrize("shape", [(2, 9), (9, 2), (1, 1), (0, 5)])
def test_a_small_table_is_refused(shape: tuple[int, int]) -> None:
    words = rf"a table of {shape[0]} x {shape[1]} outcomes says too little: cross at least 3 with 3"
    with pytest.raises(LandscapeError, match=words):
        crossed_shares(np.zeros(shape))


def uneven(table: np.ndarray) -> None:
    """Leave out tables that are the same everywhere, or would be without one row or column."""
    for axis in (0, 1):
        for out in range(table.shape[axis]):
            assume(np.delete(table, out, axis).std() > 1e-3)


@given(tables)
def test_shares_add_up_to_1_and_lie_in_their_intervals(table: np.ndarray) -> None:
    uneven(table)
    found = crossed_shares(table)
    assert sum(estimates(found)) == pytest.approx(1)
    ends = intervals(found)
    assert (ends[:, 0] <= estimates(found)).all()
    assert (estimates(found) <= ends[:, 1]).all()
    assert (ends[:, 0] <= 1).all()
    assert (ends[:, 1] >= 0).all()


def close(one: Shares, other: Shares) -> None:
    np.testing.assert_allclose(np.array(dataclasses.astuple(one)), np.array(dataclasses.astuple(other)), atol=1e-6)


@given(tables, st.data())
def test_the_order_of_rows_and_columns_does_not_matter(table: np.ndarray, data: Any) -> None:
    uneven(table)
    rows, columns = (data.draw(st.permutations(range(size))) for size in table.shape)
    close(crossed_shares(table[rows][:, columns]), crossed_shares(table))


@given(tables)
def test_rows_and_columns_may_change_places(table: np.ndarray) -> None:
    uneven(table)
    there, back = crossed_shares(table), crossed_shares(table.T)
    close(Shares(back.columns, back.rows, back.combination), there)


@given(tables, st.floats(0.01, 100), st.booleans(), st.floats(-100, 100))
def test_units_do_not_matter(table: np.ndarray, factor: float, turned: bool, offset: float) -> None:
    uneven(table)
    close(crossed_shares((-factor if turned else factor) * table + offset), crossed_shares(table))


@pytest.mark.parametrize("value", [0.1, -3.3e5, 0.0])
def test_outcomes_that_are_all_the_same_have_no_shares(value: float) -> None:
    assert np.isnan(estimates(crossed_shares(np.full((5, 7), value)))).all()
