"""The order of filters: no change of the function, the nearest order found, distances up to it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.space import symmetry as align

PROBLEMS = {m: Life(m_factor=m) for m in (1, 2, 4)}


def members(m: int, seeds: range = range(6)) -> Stack:
    return initialise(PROBLEMS[m].network(), seeds).to(torch.float64)


def shuffled(stack: Stack, m: int, seed: int = 0) -> Stack:
    """Each member in another order of its own."""
    rng = np.random.default_rng(seed)
    symmetry = PROBLEMS[m].symmetry()
    parts = [
        align.reorder(stack.select([i]), symmetry, tuple(rng.permutation(size) for size in symmetry.sizes)).flatten()
        for i in range(len(stack))
    ]
    return stack.unflatten(torch.cat(parts))


def nearest(one: Stack, other: Stack, m: int) -> float:
    """Brute force over every order of one network against another."""
    groups = [itertools.permutations(range(size)) for size in PROBLEMS[m].symmetry().sizes]
    candidates = [
        align.reorder(other, PROBLEMS[m].symmetry(), tuple(np.array(order) for order in orders)).flatten()
        for orders in itertools.product(*groups)
    ]
    return min(float((one.flatten() - candidate).norm()) for candidate in candidates)


@pytest.mark.slow
@pytest.mark.parametrize("m", PROBLEMS)
@given(seed=st.integers(0, 10**6))
def test_another_order_is_the_same_function(m: int, seed: int) -> None:
    stack = members(m)
    other = shuffled(stack, m, seed)
    assert other.tensors.keys() == stack.tensors.keys()
    assert torch.equal(other.flatten().sort().values, stack.flatten().sort().values)
    objective = PROBLEMS[m].objective(dtype=torch.float64)
    torch.testing.assert_close(objective(other)["loss"], objective(stack)["loss"], rtol=1e-12, atol=0)


def test_new_unit_i_is_old_unit_order_i() -> None:
    stack = members(2)
    symmetry = PROBLEMS[2].symmetry()
    got = align.reorder(stack, symmetry, (np.array([2, 0, 3, 1]), np.array([1, 0])))
    assert torch.equal(got["net.0.0.bias"], stack["net.0.0.bias"][:, [2, 0, 3, 1]])
    assert torch.equal(got["net.0.2.weight"], stack["net.0.2.weight"][:, [1, 0]][:, :, [2, 0, 3, 1]])
    assert torch.equal(got["net.0.4.weight"], stack["net.0.4.weight"][:, :, [1, 0]])
    assert torch.equal(got["net.0.4.bias"], stack["net.0.4.bias"])


def test_every_order_begins_with_the_present_one() -> None:
    orders = list(align.every_order(PROBLEMS[1].symmetry()))
    assert [[list(order) for order in each] for each in orders] == [[[0, 1], [0]], [[1, 0], [0]]]
    two_steps = Life(steps=2).symmetry()
    assert align.count_orders(two_steps) == len(list(align.every_order(two_steps))) == 4
    with pytest.raises(LandscapeError, match=r"10\^6\.0 orders of filters are too many to walk each"):
        next(align.every_order(Life(m_factor=4).symmetry()))


@pytest.mark.parametrize("m", PROBLEMS)
def test_a_permuted_copy_comes_back_exactly(m: int) -> None:
    stack = members(m, range(20))
    assert torch.equal(align.match(shuffled(stack, m), stack, PROBLEMS[m].symmetry()).flatten(), stack.flatten())
    one = stack.select([3])
    got = align.match(shuffled(one, m), stack, PROBLEMS[m].symmetry())
    assert torch.equal(got.flatten()[3], one.flatten()[0])
    assert len(got) == 20
    got = align.match(shuffled(stack, m), one, PROBLEMS[m].symmetry())
    assert torch.equal(got.flatten()[3], one.flatten()[0])


def test_the_exhaustive_match_is_the_nearest() -> None:
    stack, reference = members(1), members(1, range(10, 16))
    got = align.match(stack, reference, PROBLEMS[1].symmetry())
    for i in range(6):
        found = float((got.flatten()[i] - reference.flatten()[i]).norm())
        assert found == pytest.approx(nearest(reference.select([i]), stack.select([i]), 1), rel=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_weight_matching_never_moves_away(m: int) -> None:
    stack, reference = members(m), members(m, range(10, 16))
    got = align.match(stack, reference, PROBLEMS[m].symmetry())
    before, after = ((s.flatten() - reference.flatten()).norm(dim=1) for s in (stack, got))
    assert (after <= before + 1e-12).all()
    assert torch.equal(got.flatten().sort().values, stack.flatten().sort().values)


@pytest.mark.parametrize("m", PROBLEMS)
def test_distances(m: int) -> None:
    stack = members(m)
    pairs = align.distances(stack, PROBLEMS[m].symmetry())
    assert pairs.shape == (6, 6)
    assert pairs.dtype == np.float64
    np.testing.assert_array_equal(pairs, pairs.T)
    np.testing.assert_array_equal(np.diag(pairs), np.zeros(6))
    straight = torch.cdist(stack.flatten(), stack.flatten()).numpy()
    assert (pairs <= straight + 1e-9).all()
    assert (pairs + np.eye(6) > 0.1).all()
    if m <= 2:  # 2 and 48 orders
        best = np.array([[nearest(stack.select([i]), stack.select([j]), m) for j in range(6)] for i in range(6)])
        assert (pairs >= best - 1e-12).all()
        if m == 1:
            np.testing.assert_allclose(pairs, best, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("m", PROBLEMS)
def test_permuted_copies_are_at_distance_zero(m: int) -> None:
    stack = members(m)
    copies = stack.unflatten(torch.cat([stack.flatten(), shuffled(stack, m).flatten()]))
    pairs = align.distances(copies, PROBLEMS[m].symmetry())
    np.testing.assert_array_equal(pairs[:6, 6:].diagonal(), np.zeros(6))


def test_distances_of_close_members_keep_their_digits() -> None:
    stack = members(1).select([0, 0])
    moved = stack.flatten().clone()
    moved[1, 0] += 1e-9
    wanted = float(moved[1, 0] - moved[0, 0])
    assert align.distances(stack.unflatten(moved), PROBLEMS[1].symmetry())[0, 1] == pytest.approx(wanted, rel=1e-12)
