"""Stacks and their algebra: closed forms, and the ends of a line bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from landscape.core.errors import Mismatch
from landscape.engine.stack import Stack, concatenate, require_same_shapes, stack_state_dicts
from landscape.space.family import line

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
MODERATE = st.floats(-1e3, 1e3, width=32)


def numbers(elements: st.SearchStrategy[float], rows: int = 3) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, (rows, 7), elements=elements)


def stack(flat: np.ndarray | Tensor) -> Stack:
    """Seven parameters a member: a matrix and a vector."""
    flat = torch.as_tensor(flat)
    return Stack({"weight": flat[:, :6].reshape(-1, 2, 3), "bias": flat[:, 6:]})


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().view({4: torch.int32, 8: torch.int64}[tensor.element_size()]).flatten().tolist()


@given(flat=numbers(ANY))
def test_flatten_and_unflatten_undo_each_other(flat: np.ndarray) -> None:
    whole = stack(flat)
    assert bits(whole.flatten()) == bits(torch.from_numpy(flat))
    again = whole.unflatten(whole.flatten())
    assert {name: bits(tensor) for name, tensor in again.tensors.items()} == {
        name: bits(tensor) for name, tensor in whole.tensors.items()
    }
    assert (len(whole), whole.parameters, whole.shapes) == (3, 7, {"weight": (2, 3), "bias": (1,)})


def lerp(start: Stack, end: Stack, alphas: torch.Tensor) -> Stack:
    """Member by member between two stacks."""
    return line(start, end).at(torch.arange(len(start)), alphas)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(start=numbers(ANY, 2), end=numbers(ANY, 2))
def test_the_ends_of_a_line_bit_for_bit(dtype: torch.dtype, start: np.ndarray, end: np.ndarray) -> None:
    tricky = np.array([[np.inf, -np.inf, -0.0, 1e-45, np.nan, 3.4e38, 0.1]] * 2, dtype=np.float32)
    for a, b in ((start, end), (tricky, end), (start, tricky), (tricky, -tricky)):
        one, other = (stack(x).to(dtype) for x in (a, b))
        got = lerp(one, other, torch.tensor([0.0, 1.0], dtype=torch.float64)).flatten()
        assert bits(got[0]) == bits(one.flatten()[0])
        assert bits(got[1]) == bits(other.flatten()[1])


@given(start=numbers(MODERATE), end=numbers(MODERATE), alpha=st.floats(-1, 2, width=32))
def test_a_line_is_linear(start: np.ndarray, end: np.ndarray, alpha: float) -> None:
    got = lerp(stack(start).to(torch.float64), stack(end).to(torch.float64), torch.full((3,), alpha).double()).flatten()
    a, b = start.astype(float), end.astype(float)
    np.testing.assert_allclose(got, a + alpha * (b - a), rtol=1e-12, atol=1e-9)


def test_each_member_has_its_own_alpha_and_the_middle_is_the_mean() -> None:
    start, end = np.zeros((3, 7), np.float32), np.full((3, 7), 8, np.float32)
    got = lerp(stack(start), stack(end), torch.tensor([0.25, 0.5, 1.5])).flatten()
    np.testing.assert_array_equal(got[:, 0], [2, 4, 12])
    np.testing.assert_array_equal(got, got[:, :1].expand(3, 7))


def test_the_order_of_names_does_not_matter_to_a_line() -> None:
    start = Stack({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)})
    end = Stack({"b": torch.full((1, 2), 2.0), "a": torch.ones(1, 2)})
    got = lerp(start, end, torch.tensor([1.0]))
    assert (got["a"].tolist(), got["b"].tolist()) == ([[1, 1]], [[2, 2]])


def test_norms_are_summed_in_float64() -> None:
    flat = np.array([[3, -4, 0, 0, 0, 0, 0], [1e30, 0, 0, 0, 0, 0, -1e30]], dtype=np.float32)
    l1, l2 = stack(flat).norms()
    assert l1.dtype == l2.dtype == torch.float64
    np.testing.assert_allclose(l1, [7, 2e30], rtol=1e-7)
    np.testing.assert_allclose(l2, [5, 2**0.5 * 1e30], rtol=1e-7)
    difference = stack(flat).subtract(stack(flat[:1]))
    np.testing.assert_array_equal(difference.flatten()[0], np.zeros(7))
    assert difference.dtype == torch.float64


@given(size=st.integers(1, 9), members=st.integers(1, 20))
def test_chunks_are_of_one_size_and_end_in_copies(size: int, members: int) -> None:
    whole = stack(torch.arange(7.0 * members).view(members, 7))
    parts = list(whole.chunks(size))
    assert [len(part) for part in parts] == [size] * -(-members // size)
    joined = torch.cat([part.flatten() for part in parts])
    assert torch.equal(joined[:members], whole.flatten())
    assert torch.equal(joined[members:], whole.flatten()[-1:].expand(len(joined) - members, 7))


def test_selecting_and_joining() -> None:
    whole = stack(torch.arange(35.0).view(5, 7))
    for index in ([4, 0, 0], torch.tensor([4, 0, 0])):
        assert torch.equal(whole.select(index).flatten(), whole.flatten()[[4, 0, 0]])
    assert len(whole.select([])) == 0
    assert torch.equal(concatenate([whole.select(slice(0, 2)), whole.select([2, 3, 4])]).flatten(), whole.flatten())
    again = stack_state_dicts([whole.state_dict(i) for i in range(5)])
    assert torch.equal(again.flatten(), whole.flatten())
    assert torch.equal(whole.state_dict(-1)["bias"], whole["bias"][4])


def test_state_dicts_in_another_order_of_names_join() -> None:
    one = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    joined = stack_state_dicts([one, {"b": torch.tensor([4.0]), "a": torch.tensor([3.0])}])
    assert joined.flatten().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "a stack needs at least one tensor"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(3)}, r"differ in their number of members: .*'a': 2, 'b': 3"),
        ({"a": torch.tensor(1.0)}, r"differ in their number of members: .*None"),
    ],
)
def test_what_makes_no_stack(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(Mismatch, match=message):
        Stack(tensors)


def test_different_architectures_are_told_apart() -> None:
    one = Stack({"a": torch.zeros(1, 2), "b": torch.zeros(1, 3)})
    other = Stack({"a": torch.zeros(1, 4), "c": torch.zeros(1, 3)})
    wanted = (
        r"here and there are of different .*: only in here: b; only in there: c; other shape: a \[2\] against \[4\]"
    )
    with pytest.raises(Mismatch, match=wanted):
        require_same_shapes(one, other, names=("here", "there"))
    many = Stack({str(number): torch.zeros(1, 1) for number in range(20)})
    with pytest.raises(Mismatch, match=r"only in one: a, b; only in the other: 0, 1, 2, 3, 4, 5 and 14 more$"):
        require_same_shapes(one, many)
    for call in (
        lambda: lerp(one, other, torch.zeros(1)),
        lambda: one.subtract(other),
        lambda: concatenate([one, other]),
        lambda: stack_state_dicts([one.state_dict(0), other.state_dict(0)]),
    ):
        with pytest.raises(Mismatch, match="different architectures"):
            call()
    with pytest.raises(Mismatch, match="at least one state dict"):
        stack_state_dicts([])


def test_a_stack_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        stack(torch.zeros(1, 7)).tensors = {}  # type: ignore[misc]
