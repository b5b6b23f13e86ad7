"""Configurations: frozen dataclasses whose fields say once what they hold, what they default to, and what they are for.

Python, JSON, the axes of a sweep and the command line (`cli/options.py`) read the same description. An example:

>>> @dataclasses.dataclass(frozen=True)
... class Cooking:
...     minutes: int = option(8, "How long the egg is cooked.", at_least=0)
...     yolk: Literal["soft", "hard"] = option("soft", "What comes out.")
>>> fields_of(Cooking)["yolk"].convert("hard")
'hard'
>>> make(Cooking, {"minuts": 3})
Traceback (most recent call last):
    ...
landscape.core.errors.LandscapeError: there is no option 'minuts' of Cooking: did you mean minutes?
"""

import collections.abc
import dataclasses
import difflib
import functools
import json
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from landscape.core.errors import LandscapeError

__all__ = [
    "LAST_SEED",
    "MOST_MEMBERS",
    "Field",
    "as_json",
    "as_path",
    "as_written",
    "axis",
    "check",
    "converted",
    "did_you_mean",
    "fields_of",
    "make",
    "option",
    "require",
    "require_known",
    "require_seeds",
    "text",
]

C = TypeVar("C")

#: Seeds are keys of Philox, which are kept as signed integers of 64 bits.
LAST_SEED = 2**63 - 1

#: Members of a run: headers of its files, which name the seeds of all, have their bounds (100 MB in safetensors).
MOST_MEMBERS = 2_000_000

#: Where a field of a dataclass keeps what `option` says of it.
_DESCRIBED = "landscape"

#: Whether a number keeps to a limit, by the name of the limit.
_HOLDS = {"at_least": operator.ge, "at_most": operator.le, "above": operator.gt, "below": operator.lt}

#: How the types of options are called in errors.
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a configuration.

    Args:
        name, hint, default: What it is called, its type, and its value unless it is given.
        help: What it is for.
        at_least, at_most, above, below: Limits of a number, which `check` holds it to.
        choices: What a text may be, where its type does not say that: the keys of a table.
        syntax: What numbers are, and so how a command line writes them: a `seed`; `seeds`, written `0:20,30`;
            `blocks`, written `none` or `0,2`; a `tolerance`, written `0.01:loss`; `seconds`, written `60s` or `10m`.
        metavar: What stands for its value in the help, such as PLACE.
        flag: How the option is called, if not as the field is.
        added: Whether it is younger than files that name the configuration: at its default it is not written, so that
            they are of the same one.
    """

    name: str
    hint: Any
    default: Any = dataclasses.MISSING
    help: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Collection[str] | None = None
    syntax: str | None = None
    metavar: str | None = None
    flag: str | None = None
    added: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    def written(self, value: Any) -> bool:
        """Whether a file says this value: all but the default of a field that was added."""
        return not (self.added and value == self.default)

    def convert(self, value: Any) -> Any:
        """The value as the field holds it: of its type, lists as tuples, whole numbers as floats where floats belong.

        Raises `LandscapeError` for a value of another kind.
        """
        try:
            return _as(self.hint, value) if self.choices is None else _one_of(self.choices, value)
        except TypeError as error:
            raise LandscapeError(f"`{self.name}` cannot be {_brief(value)}: it takes {error}") from error

    def check(self, value: Any) -> Any:
        """The value as the field holds it; raises `LandscapeError` for one of another kind, or outside its limits."""
        value = self.convert(value)
        if self.syntax == "seed":
            require_seeds(value, name=self.name)
        limits = {name: limit for name in _HOLDS if (limit := getattr(self, name)) is not None}
        if not limits or value is None:
            return value
        # NaN keeps to no limit, and infinity is outside where no end is named.
        if math.isfinite(value) and all(_HOLDS[name](value, limit) for name, limit in limits.items()):
            return value
        words = [f"{name.replace('_', ' ')} {limit:g}" for name, limit in limits.items() if math.isfinite(limit)]
        words = ["positive" if each == "above 0" else each for each in words]
        if isinstance(value, float) and self.at_most is None and self.below is None:
            words.append("finite")
        raise LandscapeError(f"`{self.name}` is {value}, it must be {' and '.join(words)}")


def option(default: Any, text: str, **described: Any) -> Any:
    """A field of a configuration that the command line offers as an option.

    Args:
        default: Its value unless it is given; `dataclasses.MISSING` if it must be.
        text: What it is for, the help of the option.
        described: What else a `Field` says: limits, choices, syntax, metavar, flag, added.
    """
    return dataclasses.field(default=default, metadata={_DESCRIBED: {"help": text, **described}})


def fields_of(configuration: type) -> dict[str, Field]:
    """The fields of a dataclass by name."""
    hints = typing.get_type_hints(configuration)
    found = {}
    for field in dataclasses.fields(configuration):
        if not field.init:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found[field.name] = Field(field.name, hints[field.name], default, **field.metadata.get(_DESCRIBED, {}))
    return found


def as_written(configuration: Any) -> dict[str, Any]:
    """What files say of a configuration: every field by name, defaults included, but as `Field.written` says."""
    described = fields_of(type(configuration))
    every = dataclasses.asdict(configuration)
    return {key: value for key, value in every.items() if key not in described or described[key].written(value)}


def check(configuration: Any) -> None:
    """Let the fields of a frozen configuration hold what they are given in their types; raises `LandscapeError` for
    what they cannot hold.
    """
    for name, field in fields_of(type(configuration)).items():
        object.__setattr__(configuration, name, field.check(getattr(configuration, name)))


def require(verb: Callable[..., Any], given: Mapping[str, Any], *described: Field) -> None:
    """Raise `LandscapeError` for an argument of a function that is not of the kind that it is annotated with, or not
    what the field of its name says; `given` are its `locals()`.
    """
    for name, field in {**_arguments(verb), **{each.name: each for each in described}}.items():
        field.check(given[name])


@functools.cache
def _arguments(verb: Callable[..., Any]) -> dict[str, Field]:
    """The arguments of a function, by its annotations; what is called a seed is one."""
    hints = {name: hint for name, hint in typing.get_type_hints(verb).items() if name != "return"}
    return {
        name: Field(name, hint, None, syntax="seed" if name.endswith("seed") else None) for name, hint in hints.items()
    }


def as_path(path: Any, name: str) -> Path:
    """The argument of this name as a path; raises `LandscapeError` for what is none."""
    return Path(Field(name, str | os.PathLike[str], None).convert(path))


def make(configuration: type[C], values: Mapping[str, Any]) -> C:
    """A configuration of values as JSON, TOML or a caller gives them.

    Raises `LandscapeError` for a name that there is not, with the nearest that there is, and for a value of another
    kind.
    """
    fields = fields_of(configuration)
    require_known(values, fields, f"of {configuration.__name__}")
    return configuration(**converted(values, fields))


def converted(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Values as these fields hold them, those of no field as they are; raises `LandscapeError` as `Field.convert`."""
    return {key: fields[key].convert(value) if key in fields else value for key, value in values.items()}


def axis(key: str, values: Sequence[Any], fields: Mapping[str, Field]) -> list[Any]:
    """The values over which a field is swept; raises `LandscapeError` if there are none, or one twice."""
    if isinstance(values, str):
        raise LandscapeError(f"the values of {key} are the text {values!r}: give a list of values")
    found: list[Any] = []
    for value in values:
        (value,) = converted({key: value}, fields).values()
        if value in found:
            raise LandscapeError(f"{key} has the value {text(value)} twice in the grid: leave one out")
        found.append(value)
    if not found:
        raise LandscapeError(f"{key} has no values to sweep: give at least one, or leave it out of the grid")
    return found


def as_json(configuration: Any) -> dict[str, Any]:
    """Every field of a configuration, defaults included, in JSON's types."""
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(configuration)))
    return document


def text(value: Any) -> str:
    """A value in a word, as the command line takes it within a grid.

    >>> [text(value) for value in (True, None, 0.1, (0, 2), ())]
    ['true', 'none', '0.1', '0+2', 'none']
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return "+".join(map(text, value)) or "none"
    return str(value)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "there are") -> str:
    """What to say of a name that there is not: the nearest that there is, or all of them.

    >>> did_you_mean("lif", ["life", "digits"]), did_you_mean("q", ["life", "digits"])
    ('did you mean life?', 'there are life, digits')
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise} {', '.join(known)}"


def require_known(keys: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise `LandscapeError`, with the nearest that there is, for an option that there is not."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise LandscapeError(f"there is no option '{key}' {what}: {did_you_mean(str(key), known)}")


def require_seeds(*seeds: int, name: str = "seeds") -> None:
    """Raise `LandscapeError` for a number that is no seed, in the argument of this name."""
    if seeds and not 0 <= min(seeds) <= max(seeds) <= LAST_SEED:
        wrong = next(seed for seed in seeds if not 0 <= seed <= LAST_SEED)
        raise LandscapeError(f"{wrong} is no seed: `{name}` goes from 0 to 2^63 - 1")


def _as(hint: Any, value: Any) -> Any:
    """The value in a type, a number of NumPy's or PyTorch's as one of Python's; raises `TypeError` with the words for
    what that type holds. An unknown type holds all.
    """
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(choices, value)
    if origin is Literal:
        return _one_of(choices, value)
    if origin in (tuple, collections.abc.Sequence):
        return _as_list(choices, value)
    if origin is collections.abc.Callable and not callable(value):
        raise TypeError("a function")
    if origin is os.PathLike and not isinstance(value, str | os.PathLike):
        raise TypeError("a path")
    if hint not in _KINDS:
        return value
    fits = isinstance(value, int | float) if hint is float else isinstance(value, hint)
    if not fits or (isinstance(value, bool) and hint is not bool):
        raise TypeError(_KINDS[hint])
    return float(value) if hint is float else value


def _one_of(choices: Collection[Any], value: Any) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise TypeError(f"one of {', '.join(map(str, choices))}")
    return value


def _as_one_of(hints: Sequence[Any], value: Any) -> Any:
    """The value in the first of some types that holds it."""
    words = []
    for hint in hints:
        if value is None and hint is types.NoneType:
            return None
        try:
            if hint is not types.NoneType:
                return _as(hint, value)
        except TypeError as error:
            words.append(str(error))
    raise TypeError(" or ".join(words))


def _as_list(hints: Sequence[Any], value: Any) -> tuple[Any, ...]:
    """The value as a tuple whose items are in their types: as many as there are of these, or any number."""
    if not isinstance(value, list | tuple | range | np.ndarray):
        raise TypeError("a list of values" if len(hints) != 2 or hints[1] is ... else "a pair of values")
    if len(hints) == 2 and hints[1] is not ... and len(value) != 2:
        raise TypeError("a pair of values")
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, range) or (hints[0] is int and set(map(type, items)) == {int}):  # seeds may be a million
        return tuple(items)
    return tuple(_as(hints[0], item) for item in items)


def _brief(value: Any) -> str:
    """A value in a few words, on one line."""
    written = repr(value)
    return written if len(written) <= 60 and "\n" not in written else f"of type {type(value).__name__}"
