"""The TOML file in which any option of a command can stand."""

import tomllib
from pathlib import Path
from typing import Any

import click

from landscape.cli.types import GRID, Command, Written
from landscape.core.errors import LandscapeError
from landscape.core.fields import did_you_mean
from landscape.core.fields import text as as_text
from landscape.core.reading import read_text

__all__ = ["config_file"]

#: Of what is read of a file of tensors, what is read of one of options: 1 MiB, as it is parsed slowly.
_SHARE = 2**-16

#: Sum over lines of squares of dots, by which the time that their keys take grows.
_DOTS = 4_000_000


def config_file(command: Command) -> Command:
    """`--config FILE.toml`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_config,
        help="TOML file in which any option of this command can stand, by its long name.",
    )(command)


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make a TOML file's values the defaults of the command."""
    if path is None:
        return
    try:
        text = read_text(path, share=_SHARE)
        if sum(line.count(".") ** 2 for line in text.splitlines()) > _DOTS:
            raise ValueError("it has keys nested too deeply")
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise LandscapeError(f"cannot read {path}: {error}") from error
    options = {
        opt.lstrip("-").replace("-", "_"): (param, opt in param.secondary_opts)
        for param in ctx.command.params
        for opt in (*param.opts, *param.secondary_opts)
        if param.name != "config"
    }
    ctx.default_map = {}
    for key, value in values.items():
        if key.replace("-", "_") not in options:
            raise click.UsageError(f"{path}: there is no option '{key}', {did_you_mean(key, options)}")
        param, negated = options[key.replace("-", "_")]
        assert param.name is not None
        try:
            ctx.default_map[param.name] = _as_written(param, value, negated)
        except TypeError as error:
            raise click.UsageError(f"{path}: option '{key}' {error}, not {value!r}") from error


def _as_written(param: click.Parameter, value: Any, negated: bool) -> Any:
    """A value as the command line would give it: text, so that it is converted and checked in the same way."""
    if param.type is click.BOOL or getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise TypeError("is true or false")
        return value != negated
    if isinstance(value, dict) and param.type is GRID:
        return [_axis(key, values) for key, values in value.items()]
    if isinstance(value, list) and isinstance(param.type, Written) and param.type.between:
        return param.type.between.join(map(str, value))
    if getattr(param, "multiple", False) and not isinstance(value, list):
        value = [value]
    if isinstance(value, list) and (getattr(param, "multiple", False) or param.nargs > 1):
        return list(map(str, value))
    if isinstance(value, list | dict):
        raise TypeError("takes a single value")
    return str(value)


def _axis(key: str, values: Any) -> tuple[str, tuple[str, ...]]:
    """A key of a table of a grid and its values, as the command line would give them; a list in it is one value."""
    values = values if isinstance(values, list) else [values]
    if any(isinstance(value, dict) for value in values):
        raise TypeError("has lists of values")
    return key.replace("-", "_"), tuple(map(as_text, values))
