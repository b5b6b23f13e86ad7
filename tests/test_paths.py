"""Lines and their grids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landscape.errors import LandscapeError, Mismatch
from landscape.params import Stack
from landscape.paths import Line, grid


def stack(*rows: list[float]) -> Stack:
    return Stack({"a": torch.tensor(rows)[:, :1], "b": torch.tensor(rows)[:, 1:]})


def test_points_of_lines() -> None:
    line = Line(stack([0.0, 0, 0], [1, -0.0, float("inf")]), stack([4.0, 8, 0], [float("nan"), 3, 2]))
    lines, alphas = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0.25, 0, 1, 1, 1.5], dtype=torch.float64)
    got = line.at(lines, alphas).flatten()
    np.testing.assert_array_equal(got[0], [1, 2, 0])
    np.testing.assert_array_equal(got[1], [1, -0.0, np.inf])
    assert torch.signbit(got[1, 1])
    np.testing.assert_array_equal(got[2], [np.nan, 3, 2])
    np.testing.assert_array_equal(got[3], [4, 8, 0])
    np.testing.assert_array_equal(got[4], [6, 12, 0])


def test_lengths() -> None:
    l1, l2 = Line(stack([1.0, 1, 1], [0, 0, 0]), stack([4.0, -3, 1], [0, 0, 0])).lengths()
    np.testing.assert_array_equal(l1, [7, 0])
    np.testing.assert_array_equal(l2, [5, 0])


def test_ends_that_make_no_lines() -> None:
    with pytest.raises(Mismatch, match="1 starts and 2 ends make no lines"):
        Line(stack([0.0, 0]), stack([0.0, 0], [1, 1]))
    with pytest.raises(Mismatch, match=r"the start and the end are of different architectures: other shape: b \[1\]"):
        Line(stack([0.0, 0]), stack([0.0, 0, 0]))


@given(points=st.integers(2, 300), low=st.floats(-5, 0), high=st.floats(1, 5))
def test_a_grid_holds_both_ends_and_ascends(points: int, low: float, high: float) -> None:
    alphas = grid(points, low, high)
    assert {0.0, 1.0} <= set(alphas.tolist())
    assert (np.diff(alphas) > 0).all()
    assert points <= len(alphas) <= points + 2
    even = np.linspace(low, high, points)
    assert all(np.abs(alphas - alpha).min() < 1e-11 for alpha in even)


@pytest.mark.parametrize("points", [2, 3, 11, 51, 101, 201])
def test_a_plain_grid_is_even_and_has_no_more_points(points: int) -> None:
    np.testing.assert_allclose(grid(points), np.arange(points) / (points - 1), rtol=0, atol=1e-15)
    assert len(grid(2 * points - 1, -0.5, 1.5)) == 2 * points - 1 + 2 * (points % 2 == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "a line needs at least 2 points, got 1"),
        ((5, 0.1, 1.0), "the range 0.1:1.0 must contain both ends of the line, 0 and 1"),
        ((5, 0.0, 0.5), "must contain both ends"),
        ((5, float("nan"), 1.0), "must contain both ends"),
        ((5, 0.0, float("inf")), "must contain both ends"),
    ],
)
def test_grids_that_make_no_sense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        grid(*arguments)  # type: ignore[arg-type]
