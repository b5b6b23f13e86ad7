"""`landscape animate FILE -o NAME.gif`: training on its plane."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from landscape import figures
from landscape.cli.flags import in_flags
from landscape.cli.options import output as output_option
from landscape.cli.plot import Look
from landscape.cli.terminal import say
from landscape.cli.types import options_of, taken
from landscape.core.errors import LandscapeError
from landscape.core.locks import writing
from landscape.figures.animation import require_free
from landscape.store.results import Result

__all__ = ["command"]


@contextlib.contextmanager
def _usage(context: click.Context) -> Iterator[None]:
    """Within the block, an error is of how the command is used, as those of options are that cannot be read."""
    try:
        yield
    except LandscapeError as error:
        raise click.UsageError(in_flags(str(error), context.command.params), context) from error


@click.command(
    "animate",
    epilog="""\b
        Example:
          landscape train life --seeds 0:20 --save-at 0,1,10,100,1000,3000 -o checkpoints/first
          landscape plane --trajectory 'checkpoints/first/#0' -o plane.h5
          landscape animate plane.h5 -o training.gif""",
)
@click.argument("file", type=click.Path(path_type=Path))
@output_option("The GIF file. [default: plots/FILE.gif]")
@options_of(figures.Pace)
@click.option("--caption", help="Text below the figure. [default: composed from the file]")
@options_of(Look)
def command(file: Path, output: Path | None, force: bool, caption: str | None, **given: object) -> None:
    """Training on its plane, which `plane --trajectory` wrote to FILE: a checkpoint a frame, nothing between them.

    The trajectory grows over the loss on the plane, and beside it the loss of each checkpoint itself, against its step,
    or its number where steps are not known.
    Some 15 checkpoints make a file of about 0.1 MB, and 150 frames, which are the most, one of about 0.3 MB. Prints the
    file.
    """
    context = click.get_current_context()
    look = taken(Look, given).look
    with _usage(context):
        pace = taken(figures.Pace, given)
    save = output or Path("plots") / f"{file.stem}.gif"
    with writing(save) as died:
        require_free(save, overwrite=force or died)
        surface = Result.read(file, plane=True)
        with _usage(context):
            pace.require(len(surface.trajectory))
        say(
            figures.animate(
                surface, save, fps=pace.fps, seconds=pace.seconds, caption=caption, style=look, overwrite=True
            )
        )
