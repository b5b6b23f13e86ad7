"""Curves through few points and their errors, and intervals of parts of a data set, against closed forms and loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape.core.interpolation import PLACES, Curves, first_nodes
from landscape.core.intervals import Nested, Stratified, largest_of, spent, tilt

ENDS = np.array([0.0, 1.0])
FINE = np.linspace(0, 1, 2001)


def curve(function, nodes=None, knots=ENDS):
    x = first_nodes(knots) if nodes is None else np.asarray(nodes)
    return Curves(x[None], function(x)[None], knots, np.ones(1))


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_a_polynomial_of_degree_5_is_met(coefficients):
    polynomial = np.polynomial.Polynomial([*coefficients[:5], coefficients[5] - 10])
    values = polynomial(FINE) - 20  # below zero: no logarithm
    found = curve(lambda x: polynomial(x) - 20)
    np.testing.assert_allclose(found(FINE[None])[0], values, atol=1e-9)


def test_the_polynomial_of_a_cell_is_that_of_the_six_nodes_around_it():
    x = np.array([0, 0.05, 0.2, 0.25, 0.4, 0.6, 0.61, 0.8, 1.0])
    found = curve(lambda t: np.sin(9 * t) - 3, x)
    windows = {0: (0, 6), 1: (0, 6), 2: (0, 6), 3: (1, 7), 4: (2, 8), 5: (3, 9), 6: (3, 9), 7: (3, 9)}
    for cell, (first, last) in windows.items():
        t = x[cell] + PLACES * (x[cell + 1] - x[cell])
        there = np.polynomial.Polynomial.fit(x[first:last], np.sin(9 * x[first:last]) - 3, 5)
        np.testing.assert_allclose(found.values[0, cell], there(t), atol=1e-9)
        np.testing.assert_allclose(found(t[None])[0], there(t), atol=1e-9)


def test_values_that_span_decades_are_interpolated_by_their_logarithm():
    found = curve(lambda t: np.exp(-12 * t))
    assert found.logarithmic.tolist() == [True]
    np.testing.assert_allclose(found(FINE[None])[0], np.exp(-12 * FINE), rtol=1e-10)


def test_nodes_keep_their_values_and_lines_their_own_nodes():
    one, other = np.linspace(0, 1, 9), np.array([0, 0.1, 0.2, 0.5, 1])
    x, y = np.full((2, 9), np.inf), np.zeros((2, 9))
    x[0], x[1, :5], y[0], y[1, :5] = one, other, np.cos(one), np.exp(other)
    together = Curves(x, y, ENDS, np.ones(2))
    for row, (nodes, function) in enumerate(((one, np.cos), (other, np.exp))):
        alone = curve(function, nodes)
        np.testing.assert_array_equal(together(np.stack([nodes[:5], nodes[:5]]))[row], function(nodes[:5]))
        np.testing.assert_allclose(together(np.stack([FINE, FINE]))[row], alone(FINE[None])[0], rtol=1e-12)
        np.testing.assert_allclose(together.error[row, : len(nodes) - 1], alone.error[0], atol=1e-15)
    assert (together.error[1, 4:] == 0).all()


def test_pieces_between_knots_do_not_see_each_other():
    knots = np.array([0, 0.5, 1.0])
    found = curve(lambda t: np.abs(t - 0.5) - 2, knots=knots)
    np.testing.assert_allclose(found(FINE[None])[0], np.abs(FINE - 0.5) - 2, atol=1e-12)
    assert found.error.max() < 1e-12


@pytest.mark.parametrize("place", [0.31, 0.437, 0.777, 0.93])
def test_the_error_of_a_kink_is_not_less_than_it_is_said_to_be(place):
    found = curve(lambda t: -np.abs(t - place))
    off = np.abs(found(FINE[None])[0] + np.abs(FINE - place)).max()
    assert off <= found.error.max() <= 40 * off


@pytest.mark.parametrize("function", [lambda t: np.sin(7 * t) - 2, lambda t: t**2 - 1, lambda t: 1 / (1 + 3 * t)])
def test_the_error_of_a_smooth_curve_falls_with_its_nodes(function):
    coarse, fine = (curve(function, np.linspace(0, 1, count)) for count in (9, 17))
    for each in (coarse, fine):
        assert np.abs(each(FINE[None])[0] - function(FINE)).max() <= each.error.max() + 1e-12
    assert fine.error.max() <= max(coarse.error.max() / 4, 1e-12)


def test_a_surprise_makes_cautious_for_a_while():
    found = curve(lambda t: t**2 - 1)
    at, value = np.array([[0.3, np.nan]]), np.array([[0.3**2 - 0.9, np.nan]])
    assert found.surprise(at, value)[0] > 10
    after = found.with_nodes(at, value)
    assert after.x.shape == (1, 10)
    assert after.caution[0] == 10
    nothing = np.full((1, 1), np.nan)
    assert after.with_nodes(nothing, nothing).caution[0] == 5


# Samples --------------------------------------------------------------------------------------------------------------


def drawn(part, rows, counts, stratum, **options):
    return Stratified(rows[:, part], counts[part], stratum[part], np.bincount(stratum), **options)


def test_all_parts_of_a_data_set_have_its_mean_and_the_spread_that_is_said_on_average():
    """Each part of 4 of 3 + 3 samples that has 2 of each stratum."""
    rows = np.random.default_rng(0).normal([[1], [5]], size=(2, 6))
    stratum, ones = np.array([0, 0, 0, 1, 1, 1]), np.ones(6)
    pairs = list(itertools.combinations(range(3), 2))
    found = [drawn([*a, *(np.array(b) + 3)], rows, ones, stratum) for a in pairs for b in pairs]
    means = np.stack([each.mean for each in found])
    np.testing.assert_allclose(means.mean(0), rows.mean(1))
    np.testing.assert_allclose(np.cov(means.T, bias=True), np.mean([each.covariance for each in found], 0))


def test_all_samples_have_no_error_but_for_the_distribution_behind_them():
    rows, stratum = np.random.default_rng(1).exponential(size=(3, 40)), np.repeat([0, 1], 20)
    counts = np.random.default_rng(2).uniform(1, 2, 40)
    every = drawn(slice(None), rows, counts, stratum)
    np.testing.assert_allclose(every.mean, rows.sum(1) / counts.sum())
    assert (every.covariance == 0).all()
    one = np.zeros(40, dtype=int)
    beyond = drawn(slice(None), rows, np.ones(40), one, population=True)
    np.testing.assert_allclose(beyond.covariance, np.cov(rows) / 40)
    parted = drawn(slice(None), rows, np.ones(40), stratum, population=True)
    np.testing.assert_allclose(parted.covariance, np.cov(rows) / 40, rtol=0.2)


def test_a_ratio_has_the_variance_of_its_residuals():
    rng = np.random.default_rng(3)
    rows, counts, one = rng.exponential(size=(1, 60)), rng.uniform(1, 3, 60), np.zeros(60, dtype=int)
    found = Stratified(rows, counts, one, np.array([600]))
    off = (rows[0] - found.mean[0] * counts) / counts.mean()
    np.testing.assert_allclose(found.covariance[0, 0], 0.9 * off.var(ddof=1) / 60)


def test_intervals_of_skewed_samples_move_up():
    rows, one = np.random.default_rng(4).exponential(size=(1, 100)), np.zeros(100, dtype=int)
    few = Stratified(rows, np.ones(100), one, np.array([10**6]))
    expected = ((rows - rows.mean()) ** 3).mean() / rows.std() ** 3 / 10 * (1 + 2 * 4) / 6
    np.testing.assert_allclose(tilt(few.skewness(np.eye(1)), 2.0), expected, rtol=1e-3)
    assert (tilt(few.skewness(-np.eye(1)), 2.0) < 0).all()


def test_the_largest_of_independent_variables_is_sidaks_and_of_equal_ones_that_of_one():
    from scipy.stats import norm

    for count, sides in itertools.product((1, 5, 20), (1, 2)):
        sidak = norm.isf((1 - 0.95 ** (1 / count)) / sides)
        assert largest_of(np.eye(count) * 4, 0.05, sides=sides) == pytest.approx(sidak, abs=0.05)
        alike = largest_of(np.ones((count, count)), 0.05, sides=sides)
        assert alike == pytest.approx(norm.isf(0.05 / sides), abs=0.04)
    assert largest_of(np.zeros((3, 3)), 0.05, sides=2) == pytest.approx(1.96, abs=0.01)


def test_looks_spend_no_more_than_there_is():
    assert 0.049 < sum(map(spent, range(40))) <= 0.05


def nested(lengths, rows, stratum=None, **options):
    size = rows.shape[1]
    stratum = np.zeros(size, dtype=int) if stratum is None else stratum
    most, sizes = max(lengths), np.bincount(stratum) * options.pop("whole", 1)
    parts = [row[:n] for row, n in zip(rows, lengths, strict=True)]
    return Nested(parts, np.ones(most), stratum[:most], sizes, **options)


def test_nodes_that_all_have_the_same_samples_are_those_of_one_part():
    rows = np.random.default_rng(5).exponential(size=(3, 40))
    stratum = np.arange(40) % 2
    for population in (False, True):
        found = nested([20, 20, 20], rows, stratum, population=population)
        one = Stratified(rows[:, :20], np.ones(20), stratum[:20], np.array([20, 20]), population)
        np.testing.assert_allclose(found.mean, one.mean)
        np.testing.assert_allclose(found.covariance, one.covariance)
        np.testing.assert_allclose(found.skewness(np.eye(3)), one.skewness(np.eye(3)))
        assert found.freedom == one.freedom


def test_a_node_whose_samples_are_those_of_another_up_to_a_line_is_known_as_well_as_it():
    rows = np.random.default_rng(6).normal(size=(1, 400))
    rows = np.concatenate([rows, 3 - 2 * rows])
    found = nested([400, 16], rows, whole=5)
    np.testing.assert_allclose(found.mean[1], 3 - 2 * rows[0].mean())
    np.testing.assert_allclose(found.covariance, np.outer([1, -2], [1, -2]) * 0.8 * rows[0].var(ddof=1) / 400)


def test_nodes_with_few_samples_have_on_average_the_spread_that_is_said():
    """Three nodes of a population of 600, of which the first has 200 samples, the others 50 and 20."""
    rng = np.random.default_rng(7)
    common = rng.normal(size=600)
    every = np.stack([common + share * rng.normal(size=600) + node for node, share in enumerate((0.2, 0.5, 1.0))])
    found = [nested([200, 50, 20], every[:, rng.permutation(600)][:, :200], whole=3) for _ in range(800)]
    means = np.stack([each.mean for each in found])
    np.testing.assert_allclose(means.mean(0), every.mean(1), atol=0.03)
    said = np.mean([each.covariance for each in found], 0)
    np.testing.assert_allclose(np.cov(means.T), said, rtol=0.25, atol=2e-3)
    alone = (1 / 20 - 1 / 600) * every[2].var(ddof=1)
    assert said[2, 2] < 0.65 * alone


@pytest.mark.parametrize("place", [0.31, 0.5005, 0.93])
def test_beside_a_kink_no_cell_is_believed_to_be_smooth(place):
    found = curve(lambda t: -np.abs(t - place))
    cell = int(place * 8)
    for k, anywhere in enumerate(found.anywhere[0]):
        assert anywhere >= found.anywhere[0, cell] * 0.5 ** abs(k - cell) * (1 - 1e-12)
    assert (found.anywhere >= 6 * found.error).all()
