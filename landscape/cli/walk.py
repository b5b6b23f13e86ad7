"""`landscape walk --from A --to B`: the loss along straight lines."""

from pathlib import Path
from typing import Any

import click

from landscape.cli.options import (
    RANGE,
    SEEDS,
    asked,
    chosen_problem,
    config_file,
    evaluating,
    output,
    pairs,
    problem_choice,
)
from landscape.cli.report import Progress, interruptible, remark_unfinished
from landscape.evaluation.routes import Order, Pairs, Route
from landscape.evaluation.walk import walk
from landscape.space.directions import Normalise
from landscape.space.family import MOST_POINTS, Hold
from landscape.space.groups import Per

__all__ = ["command"]


@click.command(
    "walk",
    epilog="""\b
        Examples:
          landscape walk --from presolve --to checkpoints/first/
          landscape walk --from checkpoints/first/@0 --to checkpoints/first/ --range -0.25:1.25
          landscape walk --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --points 201
          landscape walk --from presolve --to checkpoints/first/ --per layer
          landscape walk --from 'checkpoints/first/#3' --via presolve --to 'checkpoints/first/#7'
          landscape walk --from 'checkpoints/first/#3' --rays 0:10 --range -1:1
          landscape walk --from run-a/ --to run-b/ --only 'layer4.*' --only 'fc.*' --hold end
          landscape walk --from presolve --to folder-of-state-dicts/ --problem life -O m_factor=4""",
)
@click.option("--from", "a", required=True, metavar="PLACE", help="Where the lines begin.")
@click.option("--to", "b", metavar="PLACE", help="Where the lines end.")
@click.option(
    "--via", multiple=True, metavar="PLACE", help="Lead the lines straight through this place, too. Repeatable."
)
@click.option(
    "--rays",
    type=SEEDS,
    metavar="SEEDS",
    help="In place of --to: random directions, such as 0:10, a line a seed.",
)
@click.option(
    "--normalise",
    type=click.Choice(["filter", "layer", "none"]),
    default="filter",
    help="Length of random directions: that of each filter of the start, of each layer, or as drawn.",
)
@click.option("--points", type=click.IntRange(2, MOST_POINTS), default=51, help="Points of a line.")
@click.option("--range", "span", type=RANGE, default="0:1", help="Range of alpha; 0 and 1 are added if missing.")
@pairs
@click.option(
    "--filter-order",
    "order",
    type=click.Choice(["stored", "all", "matched"]),
    default="stored",
    help="Order of the start's filters: as stored, a line from every equivalent one, or the one closest to the end.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Let only these tensors move, such as 'layer4.*'; with the BatchNorm statistics of their modules. Repeatable.",
)
@click.option(
    "--per",
    type=click.Choice(["layer", "module"]),
    help="Beside the full line one for each layer, or each module at the top, on which only that one moves.",
)
@click.option(
    "--hold", type=click.Choice(["start", "end"]), default="start", help="Where the rest is held with --only and --per."
)
@problem_choice
@evaluating
@output("HDF5 file. [default: in analyses/, named for the places, such as FROM--TO.h5, and for what moves]")
@config_file
def command(
    a: str,
    b: str | None,
    via: tuple[str, ...],
    rays: tuple[int, ...] | None,
    normalise: Normalise,
    points: int,
    span: tuple[float, float],
    pairs: Pairs,
    order: Order,
    only: tuple[str, ...],
    per: Per | None,
    hold: Hold,
    problem: str | None,
    options: tuple[str, ...],
    output: Path | None,
    force: bool,
    **computed: Any,
) -> None:
    """Evaluate the loss along straight lines between two places, through several, or in random directions.

    A place is a landmark of the problem (presolve), a run directory (its last step, all seeds), RUN/@step, RUN/#seed,
    or a checkpoint file. Prints the file with the curves. An interrupted walk goes on when the same command is given
    again.
    """
    if b is None and not rays:
        raise click.UsageError("Missing option '--to': name where the lines end, or random directions with --rays.")
    lines: dict[str, Any] = {"via": via, "rays": rays or (), "normalise": normalise, "pairs": pairs, "order": order}
    lines |= {"only": only, "per": per, "hold": hold}
    path = output or Path("analyses") / f"{Route(a=a, b=b, **lines).name}.h5"
    remark_unfinished(a, *via, *([b] if b else []))
    with interruptible("repeat the same command to go on with the finished lines"):
        walk(
            a,
            b,
            problem=chosen_problem(problem, options),
            points=points,
            span=span,
            save=path,
            overwrite=force,
            progress=Progress("walk", "lines"),
            **lines,
            **asked(computed),
        )
    click.echo(path)
