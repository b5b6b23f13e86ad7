"""Philox4x32-10: its published known answers, and what the package makes of its words."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from landscape.core.philox import bernoulli_words, normal, philox4x32, uniform, words

SEEDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6)


def slow(counter: list[int], key: list[int]) -> list[int]:
    """The paper's algorithm in Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    c, k, wanted = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    got = philox4x32(tuple(map(torch.tensor, c)), tuple(map(torch.tensor, k)))  # type: ignore[arg-type]
    assert [int(word) for word in got] == slow(c, k) == wanted


@given(
    seeds=SEEDS,
    stream=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**64 - 1),
    count=st.integers(0, 11),
    more=st.integers(0, 9),
)
def test_words_are_a_function_of_seed_stream_step_and_index(
    seeds: list[int], stream: int, step: int, count: int, more: int
) -> None:
    got = words(torch.tensor(seeds), stream=stream, step=step, count=count + more)
    for row, seed in zip(got.tolist(), seeds, strict=True):
        key = [seed % 2**32, seed // 2**32 % 2**32]
        whole = [w for block in range(6) for w in slow([block, stream, step % 2**32, step // 2**32], key)]
        assert row == whole[: count + more]
    assert torch.equal(words(torch.tensor(seeds), stream=stream, step=step, count=count), got[:, :count])


@pytest.mark.parametrize("draw", [words, uniform, normal, lambda seeds, **at: bernoulli_words(seeds, 0.3, **at)])
@given(seeds=SEEDS, index=st.integers(0, 5))
def test_companions_change_nothing(draw, seeds: list[int], index: int) -> None:
    alone = seeds[index % len(seeds)]
    together = draw(torch.tensor(seeds), stream=3, step=5, count=7)[index % len(seeds)]
    assert torch.equal(draw(torch.tensor([alone]), stream=3, step=5, count=7)[0], together)


def test_the_global_random_state_is_left_alone() -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for draw in (words, uniform, normal):
        draw(torch.tensor([1]), stream=0, step=0, count=100)
    bernoulli_words(torch.tensor([1]), 0.3, stream=0, step=0, count=100)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


@pytest.mark.parametrize("probability", [0.0, 1.0, 0.5, 0.25, 0.3, 0.9, 2.0**-16, 1 - 2.0**-16])
def test_the_rate_of_bernoulli_bits(probability: float) -> None:
    drawn = bernoulli_words(torch.tensor([7, 8]), probability, stream=1, step=0, count=20_001)
    assert drawn.shape == (2, 20_001)
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    rates = np.array([[(row >> bit & 1).double().mean() for bit in range(32)] for row in drawn])
    rate = round(probability * 2**16) / 2**16
    error = (rate * (1 - rate)) ** 0.5
    if error**2 * 20_001 > 50 or error == 0:  # each bit by itself
        assert np.abs(rates - rate).max() <= 4.5 * error / 20_001**0.5
    assert abs(rates.mean() - rate) <= 4 * error / (64 * 20_001) ** 0.5


def test_uniform_and_normal_numbers_are_that() -> None:
    u = uniform(torch.arange(10), stream=0, step=0, count=20_000)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.001
    z = normal(torch.arange(10), stream=0, step=0, count=20_000)
    assert z.dtype == torch.float64
    assert z.isfinite().all()
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.001
    correlation = np.corrcoef(z.numpy()) - np.eye(10)
    assert np.abs(correlation).max() < 4.5 / 20_000**0.5
