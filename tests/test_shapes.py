"""The checks of shapes that all tests run under: what they check in each test, and what they let pass."""

import dataclasses
import os
from typing import Any

import beartype
import jaxtyping
import pytest
import shapes
import torch
from jaxtyping import Float
from torch import Tensor

checked = shapes.decorator(typechecker=beartype.beartype)


@checked
def columns(rows: Float[Tensor, "row column"], over: int = 0, *, wrong: bool = False) -> Float[Tensor, " column"]:
    return rows.sum(1 if wrong else over)


@checked
@dataclasses.dataclass
class Pair:
    one: Float[Tensor, " size"]
    other: Float[Tensor, " size"]


class Holder:
    @classmethod
    @checked
    def of(cls, numbers: Float[Tensor, " size"]) -> Float[Tensor, " 3"]:
        return numbers

    @checked
    @property
    def alone(self) -> int:
        return "a word"


def wrong(call: Any, *arguments: Any, **options: Any) -> bool:
    try:
        call(*arguments, **options)
    except (jaxtyping.TypeCheckError, beartype.roar.BeartypeCallHintViolation):
        return True
    return False


def test_each_kind_of_call_is_checked_once_in_a_test() -> None:
    assert not wrong(columns, torch.ones(3, 4))
    assert not wrong(columns, torch.ones(4, 4), wrong=True)  # 4 columns, as many as rows
    assert not wrong(columns, torch.ones(3, 4), wrong=False)
    assert wrong(columns, torch.ones(3, 4), wrong=True)
    assert wrong(columns, torch.ones(3))
    assert wrong(columns, torch.ones(3, 4).int())
    assert wrong(columns, 3)


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_checks_anew(again: int) -> None:
    assert not wrong(Pair, torch.ones(3), torch.ones(3))
    assert wrong(Pair, torch.ones(3), torch.ones(2))
    assert wrong(Holder.of, torch.ones(4))
    assert wrong(lambda: Holder().alone)


def test_later_calls_of_one_kind_are_checked_now_and_then() -> None:
    calls = [wrong(columns, torch.ones(3, 4), over) for over in [0] + [1] * 200]
    assert not calls[0]
    assert 3 <= sum(calls) <= 5


@pytest.mark.skipif(bool(os.environ.get("LANDSCAPE_UNCHECKED")), reason="the package goes without checks")
def test_the_package_is_checked() -> None:
    from landscape.engine.stack import Stack

    stack = Stack({"weight": torch.ones(3, 2)})
    assert wrong(stack.unflatten, torch.ones(3))
