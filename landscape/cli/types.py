"""Types of what is written on the command line, and options made of the fields of a configuration."""

import re
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click

from landscape.cli.flags import in_flags
from landscape.core.fields import LAST_SEED, MOST_MEMBERS, Field, fields_of, text

__all__ = [
    "GRID",
    "NUMBERS",
    "RANGE",
    "SEED",
    "SEEDS",
    "Command",
    "Written",
    "field_options",
    "options_of",
    "taken",
    "together",
]

C = TypeVar("C")
Command = TypeVar("Command", bound=Callable[..., Any])


class Written(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A value that a function reads from its text; lists of a TOML file become text with `between` between items."""

    def __init__(self, name: str, read: Callable[[str], Any], between: str = "") -> None:
        self.name, self.read, self.between = name, read, between

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, unless it is one already; what the function says of text that is none is the error."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _seeds(written: str) -> tuple[int, ...]:
    """`0:20`, `3`, `0:5,10,20:30`: half-open ranges and single seeds, in a grid with + between them."""
    seeds: list[int] = []
    for piece in re.split("[,+]", written):
        first, colon, last = piece.partition(":")
        if not (first.strip().isdecimal() and (last.strip().isdecimal() or not colon)):
            raise ValueError(f"'{piece}' is no seed: write numbers and half-open ranges, such as 0:20 or 0:5,9")
        if colon and int(last) - int(first) > MOST_MEMBERS:
            raise ValueError(f"'{piece}' has {int(last) - int(first)} seeds: at most {MOST_MEMBERS} fit a run")
        seeds += range(int(first), int(last)) if colon else [int(first)]
    if not seeds:
        raise ValueError(f"'{written}' is empty: 0:20 means the seeds 0 to 19")
    if max(seeds) > LAST_SEED:
        raise ValueError(f"{max(seeds)} is too large for a seed: they end at 2^63 - 1")
    return tuple(seeds)


def _blocks(written: str) -> tuple[int, ...]:
    """`none`, `0`, `0,2`, `0+2`."""
    pieces = [] if written.strip() in ("none", "") else re.split("[,+]", written)
    if wrong := [piece for piece in pieces if not piece.strip().isdecimal()]:
        raise ValueError(f"'{wrong[0]}' is no block: write none, or numbers from 0 on, such as 0,2 or 0+2")
    return tuple(sorted({int(piece) for piece in pieces}))


def _range(written: str) -> tuple[float, float]:
    """`-0.25:1.25`."""
    low, _, high = written.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise ValueError(f"'{written}' is no range: write LOW:HIGH, such as -0.25:1.25") from None


def _numbers(written: str) -> tuple[float, ...]:
    """`0.5,0.3,0.2`."""
    try:
        return tuple(float(piece) for piece in written.split(","))
    except ValueError:
        raise ValueError(f"'{written}' is no list of numbers: write such as 0.5,0.3,0.2") from None


def _tolerance(written: str) -> float | str:
    """`0.01`, or `0.01:loss`."""
    share, colon, _ = written.partition(":")
    try:
        return written if colon else float(share)
    except ValueError:
        raise ValueError(f"'{written}' is no tolerance: write a share such as 0.01, or 0.01:loss") from None


def _seconds(written: str) -> float:
    """`60s`, `1.5m`, `2h`, or seconds alone."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([smh]?)\s*", written)
    try:
        return float(found[1] if found else "") * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2] if found else ""]
    except ValueError:
        raise ValueError(f"'{written}' is no time: write such as 60s, 10m or 2h") from None


def _grid(written: str) -> tuple[str, tuple[str, ...]]:
    """`m_factor=1,5,10`: a key, and the texts of its values."""
    key, equals, values = written.partition("=")
    pieces = tuple(piece.strip() for piece in values.split(","))
    if not key.strip() or not equals or "" in pieces:
        raise ValueError(f"'{written}' is no KEY=VALUE,VALUE,...: write such as m_factor=1,5,10")
    return key.strip().lstrip("-").replace("-", "_"), pieces


SEEDS, NUMBERS = Written("seeds", _seeds, ","), Written("numbers", _numbers, ",")
RANGE, GRID = Written("low:high", _range, ":"), Written("key=values", _grid)
SEED = click.IntRange(0, LAST_SEED)

_SYNTAX = {
    "seed": SEED,
    "seeds": SEEDS,
    "blocks": Written("blocks", _blocks, ","),
    "tolerance": Written("tolerance", _tolerance),
    "seconds": Written("time", _seconds),
}


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def field_options(configuration: type, *names: str, **helps: str) -> list[click.Option]:
    """One option a field of a configuration, or of its fields of these names; `helps` says another help of some."""
    fields = {name: field for name, field in fields_of(configuration).items() if name in names or not names}
    options = [_option(field, helps.get(name, field.help)) for name, field in fields.items()]
    for option in options:
        option.help = in_flags(option.help or "", options)
    return options


def options_of(configuration: type, *names: str, **helps: str) -> Callable[[Command], Command]:
    """`field_options` as a decorator."""
    return together(*(_decorator(option) for option in field_options(configuration, *names, **helps)))


def taken(configuration: type[C], values: dict[str, Any]) -> C:
    """A configuration of the values that its options gave, which are taken out."""
    return configuration(**{name: values.pop(name) for name in fields_of(configuration)})


def _decorator(option: click.Option) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        command.__dict__.setdefault("__click_params__", []).append(option)
        return command

    return add


def _option(field: Field, help: str) -> click.Option:
    name = field.flag or field.name.replace("_", "-")
    how: dict[str, Any] = {"help": help or None, "show_default": True, "metavar": field.metavar}
    how |= {"required": True} if field.required else {"default": field.default}
    if field.hint is bool:
        return click.Option([f"--{name}/--no-{name}", field.name], type=bool, **how)
    if isinstance(field.default, tuple):
        if not field.syntax:
            how["multiple"] = True
        elif field.default or field.syntax == "blocks":
            how["default"] = text(field.default)
    return click.Option([f"--{name}", field.name], type=_type(field), **how)


def _type(field: Field) -> Any:
    """The type of click that takes what a field holds. Limits of numbers that are not whole are the field's own."""
    if field.syntax:
        return _SYNTAX[field.syntax]
    if field.choices is not None:
        return click.Choice(list(field.choices))
    hint, of = field.hint, typing.get_args(field.hint)
    if type(None) in of or typing.get_origin(hint) is tuple:
        # An optional value is written as that value, a list as its items.
        hint = next(each for each in of if each is not type(None))
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if hint is int and (field.at_least is not None or field.at_most is not None):
        low, high = (None if limit is None else int(limit) for limit in (field.at_least, field.at_most))
        return click.IntRange(low, high)
    return hint if hint in (int, float, str) else None
