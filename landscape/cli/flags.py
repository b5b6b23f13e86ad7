"""Flags of a command in the place of the arguments that the library names.

Errors and helps of the library name arguments as Python does, in backticks: `` `overwrite=True` ``, `` `via` ``. On the
command line they are the options of the command that runs: `--force`, `--via`.
"""

import ast
import os
import re
from collections.abc import Sequence
from typing import Any

import click

from landscape.core.errors import printable

__all__ = ["Group", "in_flags", "running"]

#: Options by the name that an argument has in Python, where the parameter of the command is called otherwise.
_ALIASES = {
    "seed": "--sample-seed",
    "training_seed": "--seed",
    "save": "--output",
    "overwrite": "--force",
}

_NAMED = re.compile(r"`([A-Za-z_]\w*)(?:=([^`]*))?`")

_RUNNING = "landscape.running"


class Group(click.Group):
    """A group that remembers which of its commands runs, so that errors can name its flags."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what its errors quote is `printable`."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]
            raise
        except OSError as error:
            error.filename = error.filename and printable(os.fsdecode(error.filename))
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[_RUNNING] = command
        return name, command, rest


def running(ctx: click.Context) -> Sequence[click.Parameter]:
    """The options of the command that runs, or ran last."""
    command: click.Command | None = ctx.meta.get(_RUNNING)
    return () if command is None else command.params


def in_flags(text: str, params: Sequence[click.Parameter]) -> str:
    """The text with arguments in backticks as options; what is no option stays, without backticks.

    >>> option = click.Option(["--filter-order"])
    >>> in_flags('`order="all"` goes with no `via`', [option])
    '--filter-order all goes with no via'
    """
    options = {name: param for param in params for name in (*param.opts, *param.secondary_opts)}
    options |= {param.name: param for param in params if isinstance(param, click.Option) and param.name}
    return _NAMED.sub(lambda match: _flag(match[1], match[2], options) or match[0].strip("`"), text)


def _flag(name: str, value: str | None, options: dict[str, click.Parameter]) -> str | None:
    """An argument as an option, None where the command has none of that name."""
    if name == "directions" and (choice := f"--{_plain(value or '')}") in options:
        return choice  # an option of its own
    own = _ALIASES.get(name, name), name, f"--{name.replace('_', '-')}"
    flag = next((options[each].opts[0] for each in own if each in options), None)
    if flag is None:
        return None
    if value is None:
        return f"{flag} KEY=VALUE" if flag == "-O" else flag
    if value in ("True", "False"):
        return flag if value == "True" else next(iter(options[flag].secondary_opts), flag)
    if flag == "-O":
        return _pairs(value)
    return f"{flag} {_plain(value, getattr(options[flag].type, 'between', '') or ',')}"


def _plain(value: str, between: str = ",") -> str:
    """A value in Python as it is written on the command line."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return between.join(map(str, found)) if isinstance(found, list | tuple) else str(found)


def _pairs(value: str) -> str:
    """Options of a problem, a dictionary in Python."""
    try:
        return " ".join(f"-O {key}={one}" for key, one in dict(ast.literal_eval(value)).items())
    except (ValueError, SyntaxError):
        return f"-O {value}"
