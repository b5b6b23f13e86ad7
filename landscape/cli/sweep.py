"""`landscape sweep PROBLEM --grid KEY=V1,V2,...`: a run for every combination of the values of a grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from landscape.cli.config import config_file
from landscape.cli.options import ProblemGroup, output, yes_option
from landscape.cli.terminal import Progress, hint, interruptible, remark, say
from landscape.cli.train import training_options
from landscape.cli.types import GRID, options_of
from landscape.core.fields import fields_of
from landscape.core.shares import Sharing
from landscape.training.sweep import Cell, default_output, sweep
from landscape.training.train import Training

__all__ = ["command"]

#: The values of a grid as they were written, by key.
Texts = dict[str, tuple[str, ...]]


@click.command(
    epilog="""\b
        Examples:
          landscape sweep life --grid m_factor=1,2,4 --grid steps=1,2 --seeds 0:20 -o checkpoints/widths
          landscape walk --from presolve --to checkpoints/widths/m_factor=4,steps=1
          landscape sweep life --grid lr=0.001,0.01 --grid sigmoid=true,false --batches 500
          landscape sweep life --grid m_factor=1,2 --batches 500 --workers 2
          landscape sweep life --steps 2 --grid presolve_blocks=none,0,0+1
          landscape sweep life --config widths.toml --grid steps=1

        \b
        The file widths.toml, options first:
          seeds = "0:20"
          [grid]
          m_factor = [1, 2, 4]
          steps = [1, 2]

        A --grid of the command line takes the place of the same key in the file, or is added to the file's keys."""
)
@click.option(
    "--grid",
    type=GRID,
    multiple=True,
    required=True,
    metavar="KEY=V1,V2,...",
    help="An option below and its values; give it again for more options, the last varies fastest. A value that is "
    "itself a list is written with +: presolve_blocks=none,0,0+1.",
)
@training_options(save_at="Steps to save. [default: 0 and the last]")
@options_of(Sharing)
@output("Directory of the sweep. [default: checkpoints/PROBLEM-sweep-KEYS]")
@yes_option
@config_file
def _verb(
    problem: tuple[str, Mapping[str, Any]],
    *,
    grid: tuple[tuple[str, tuple[str, ...]], ...],
    output: Path | None,
    force: bool,
    **settings: Any,
) -> None:
    name, options = problem
    texts = _merged(click.get_current_context(), grid)
    training = {key: settings.pop(key) for key in fields_of(Training)}
    known = {*options, *training}
    values = {key: _values(key, of) if key in known else of for key, of in texts.items()}
    sharing = Sharing(**{key: settings[key] for key in fields_of(Sharing)})
    path = output or sharing.named(default_output(name, texts))
    progress = Progress("sweep", "batches")
    trained: list[Cell] = []

    def begin(cell: Cell) -> None:
        trained.append(cell)
        progress.what = cell.path.name

    with interruptible(f"repeat the same command{' without --force' if force else ''} to go on with {path}"):
        done = sweep(
            name,
            path,
            grid=values,
            options={key: value for key, value in options.items() if key not in texts},
            training={key: value for key, value in training.items() if key not in texts},
            **settings,
            overwrite=force,
            progress=progress,
            on_cell=begin,
        )
    cells = len(done.cells())
    skipped = f", {cells - len(trained)} skipped: finished before" if cells > len(trained) else ""
    remark(f"{len(trained)} of {cells} cells trained{skipped}")
    say(done.path)
    hint(("analyse", "success", done.path))


def _merged(ctx: click.Context, given: tuple[tuple[str, tuple[str, ...]], ...]) -> Texts:
    """The grid of the file with that of the command line over it; raises `click.UsageError` for a key given twice."""
    texts, from_file = _once(ctx, given), Texts()
    if ctx.get_parameter_source("grid") is ParameterSource.COMMANDLINE:
        table = (ctx.default_map or {}).get("grid", ())
        from_file = _once(ctx, tuple(GRID.convert(item, None, ctx) for item in table))
        on_command_line = set(texts)
    else:
        on_command_line = set()
    options = {param.name: param for param in ctx.command.params}
    for key in (merged := {**from_file, **texts}):
        source = ctx.get_parameter_source(key)
        in_file = source is ParameterSource.DEFAULT_MAP and key not in on_command_line
        if key in options and (source is ParameterSource.COMMANDLINE or in_file):
            where = "in the file" if in_file else f"as {options[key].opts[0]}"
            raise click.UsageError(f"{key} is both in the grid and given {where}: leave one out", ctx)
    return merged


def _once(ctx: click.Context, grid: tuple[tuple[str, tuple[str, ...]], ...]) -> Texts:
    """The grid by key; raises `click.UsageError` for a key that comes twice."""
    keys = [key for key, _ in grid]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise click.UsageError(f"{repeated[0]} is in the grid twice: put all its values into one --grid", ctx)
    return dict(grid)


def _values(key: str, texts: tuple[str, ...]) -> list[Any]:
    """Values as the option of that name would read them."""
    ctx = click.get_current_context()
    option = next(param for param in ctx.command.params if param.name == key)
    try:
        return [option.type.convert(text, option, ctx) for text in texts]
    except click.BadParameter as error:
        raise click.BadParameter(error.message, ctx, param_hint=f"'--grid {key}'") from error


command = ProblemGroup(
    "sweep",
    verb=_verb,
    make=lambda name, options: (name, options),
    subcommand_metavar="PROBLEM --grid KEY=V1,V2,... [OPTIONS]",
    help="""Train a grid over options: a run for every combination of their values.

    Each cell is a run as `landscape train` makes it, in SWEEP/KEY=VALUE,...; all are checked before the first is
    trained. Given again, the command skips finished cells and goes on with an interrupted one. `landscape sweep life
    --help` shows all options.""",
)
