"""Configurations described once: what their fields take, in words that help whoever gave something else."""

import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest

from landscape.core.errors import LandscapeError
from landscape.core.fields import (
    as_json,
    axis,
    check,
    converted,
    did_you_mean,
    fields_of,
    make,
    option,
    require_known,
    require_seeds,
    text,
)
from landscape.problems.life import Life


@dataclasses.dataclass(frozen=True)
class Oven:
    """What a test bakes with."""

    heat: float = option(180.0, "Degrees.", above=0, below=300)
    minutes: int = option(40, "How long.", at_least=0)
    yeast: float = option(1.0, "How much.", above=0)
    fan: bool = option(False, "With it on.")
    kind: Literal["bread", "cake"] = option("bread", "What it is.")
    racks: tuple[int, ...] = option((1,), "Where.", syntax="blocks")
    turn_at: tuple[int, ...] | None = option(None, "When to turn.", syntax="seeds")
    note: str | None = option(None, "A remark.", metavar="TEXT")
    parts: Any = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)


FIELDS = fields_of(Oven)


def test_fields_say_what_they_are() -> None:
    assert list(FIELDS) == [field.name for field in dataclasses.fields(Oven)]
    assert (FIELDS["heat"].help, FIELDS["heat"].default, FIELDS["heat"].below) == ("Degrees.", 180.0, 300)
    assert (FIELDS["racks"].syntax, FIELDS["note"].metavar) == ("blocks", "TEXT")
    assert FIELDS["parts"].default == {}


@pytest.mark.parametrize(
    ("name", "given", "held"),
    [
        ("heat", 200, 200.0),
        ("heat", np.float32(0.5), 0.5),
        ("minutes", np.int64(3), 3),
        ("racks", [1, 2], (1, 2)),
        ("racks", [], ()),
        ("turn_at", None, None),
        ("turn_at", [5], (5,)),
        ("note", None, None),
        ("parts", {"any": "thing"}, {"any": "thing"}),
    ],
)
def test_values_are_held_in_the_type_of_their_field(name: str, given: Any, held: Any) -> None:
    value = FIELDS[name].convert(given)
    assert value == held
    assert type(value) is type(held)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("minutes", "two", "`minutes` cannot be 'two': it takes a whole number"),
        ("minutes", True, "`minutes` cannot be True: it takes a whole number"),
        ("minutes", 1.0, "`minutes` cannot be 1.0: it takes a whole number"),
        ("heat", "hot", "`heat` cannot be 'hot': it takes a number"),
        ("fan", 1, "`fan` cannot be 1: it takes true or false"),
        ("note", 3, "`note` cannot be 3: it takes a text"),
        ("kind", "pie", "`kind` cannot be 'pie': it takes one of bread, cake"),
        ("racks", 1, "`racks` cannot be 1: it takes a list of values"),
        ("turn_at", ["x"], r"`turn_at` cannot be \['x'\]: it takes a whole number"),
    ],
)
def test_values_of_another_kind_are_refused(name: str, given: Any, words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        make(Oven, {name: given})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heat": 0.0}, "`heat` is 0.0, it must be positive and below 300"),
        ({"heat": 300.0}, "`heat` is 300.0, it must be positive and below 300"),
        ({"heat": float("nan")}, "`heat` is nan, it must be positive and below 300"),
        ({"minutes": -1}, "`minutes` is -1, it must be at least 0$"),
        ({"yeast": float("inf")}, "`yeast` is inf, it must be positive and finite"),
    ],
)
def test_numbers_keep_to_their_limits(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        Oven(**options)


def test_an_unknown_name_gets_the_nearest_that_there_is() -> None:
    with pytest.raises(LandscapeError, match=r"no option .minuts. of Oven: did you mean minutes\?"):
        make(Oven, {"minuts": 3})
    with pytest.raises(LandscapeError, match="there is no option 'q' here: there are heat, minutes"):
        require_known(["heat", "q"], FIELDS, "here")
    assert did_you_mean("q", ["a", "b"], "it has") == "it has a, b"


def test_there_and_back_through_json() -> None:
    oven = Oven(racks=(1, 3), turn_at=(10,), heat=200.0)
    assert make(Oven, json.loads(json.dumps(as_json(oven)))) == oven
    assert as_json(oven)["racks"] == [1, 3]
    assert converted({"heat": 1, "of the caller": [2]}, FIELDS) == {"heat": 1.0, "of the caller": [2]}


def test_the_axis_of_a_sweep() -> None:
    assert axis("racks", [[], [1, 2]], FIELDS) == [(), (1, 2)]
    for values, words in (
        ("abc", "the values of note are the text 'abc': give a list"),
        ([], "note has no values to sweep"),
        (["a", "a"], "note has the value a twice in the grid"),
    ):
        with pytest.raises(LandscapeError, match=words):
            axis("note", values, FIELDS)


def test_values_in_a_word() -> None:
    assert [text(value) for value in (False, None, 1e-5, "B3/S23", [0, 1], [])] == [
        "false", "none", "1e-05", "B3/S23", "0+1", "none"
    ]  # fmt: skip


def test_one_check_of_seeds() -> None:
    require_seeds(0, 2**63 - 1)
    for seed in (-1, 2**63):
        with pytest.raises(LandscapeError, match=rf"{seed} is no seed: `seeds` goes from 0 to 2\^63 - 1"):
            require_seeds(3, seed)


def test_what_was_added_later_is_written_only_where_it_is_no_default() -> None:
    """Else a run from before would be of another problem than one from after."""
    assert "dropout_last" not in Life(dropout=0.4).config()
    ours = Life(steps=2, dropout=0.4, dropout_last=False)
    assert ours.config() == {**Life(steps=2, dropout=0.4).config(), "dropout_last": False}
    assert Life(**ours.config()) == ours
