"""`landscape export FILE -o NAME.csv`: a result in the formats of other programs."""

from pathlib import Path

import click

from landscape.cli.terminal import say

__all__ = ["command"]


@click.command(
    "export",
    epilog="""\b
        Examples:
          landscape export analyses/presolve--first.h5 -o lines.csv
          landscape export plane.h5 -o plane.vtp""",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="What to write: .csv (a row a point), .npz (arrays of NumPy), .vtp (surface or curves for ParaView), .vts "
    "(the grid of a plane).",
)
@click.option("--height", metavar="METRIC", help="Metric that is the height of .vtp and .vts. [default: loss]")
@click.option("--force", is_flag=True, help="Replace what is there.")
def command(file: Path, output: Path, height: str | None, force: bool) -> None:
    """Write the result in FILE, lines or a plane, for other programs: what --output ends in says how.

    All metrics are in it, with the coordinates of the points and what is known of each line. A plane becomes a surface
    over x and y, in L2 distance; lines become curves over alpha, side by side by number. Prints the file.
    """
    from landscape.store.exports import export
    from landscape.store.results import Result

    export(Result.read(file), output, height=height, overwrite=force)
    say(output)
