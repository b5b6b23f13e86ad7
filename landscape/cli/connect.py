"""`landscape connect --from A --to B`: curves of low loss between two points."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.analysis.barriers import barriers, representatives
from landscape.cli.options import asked, evaluating, keyed
from landscape.cli.report import Progress, interruptible, remark, remark_unfinished
from landscape.cli.types import options_of, taken
from landscape.core.errors import plural
from landscape.evaluation.connect import Bending, bend_files, connect
from landscape.evaluation.routes import Route
from landscape.space.family import MOST_POINTS
from landscape.store.results import Result

__all__ = ["command"]


@click.command(
    "connect",
    epilog="""\b
        Examples:
          landscape connect --from 'checkpoints/first/#3' --to 'checkpoints/first/#7'
          landscape connect --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --align
          landscape connect --from presolve --to checkpoints/first/ --kind polyline --bends 3 -o analyses/bent.h5
          landscape plot walk analyses/bent.h5
          landscape walk --from presolve --via analyses/bent.bend-2.safetensors --to checkpoints/first/""",
)
@options_of(Route, "a", a="Where the curves begin.")
@click.option("--to", "b", required=True, metavar="PLACE", help="Where the curves end.")
@options_of(Bending)
@click.option("--points", type=click.IntRange(2, MOST_POINTS), default=51, help="Points at which a curve is evaluated.")
@options_of(
    Route,
    "pairs",
    "align",
    align="Beside each curve one to that network which computes the same as its end and lies close to the start: units "
    "in another order, other scales and signs where these make no difference.",
)
@evaluating("HDF5 file; FILE.bend-1.safetensors go beside it. [default: analyses/FROM--TO-KIND-BENDS.h5]")
def command(output: Path | None, **values: Any) -> None:
    """Find curves between two places along which the loss is low: bends in a path are trained while its ends stay.

    Places are those of `landscape walk`. Prints the file with the loss along the curves, which is read as that of a
    walk, and the checkpoints that hold the bends, to be walked via. An interrupted training goes on when the same
    command is given again.
    """
    values["a"], values["b"] = keyed(values.pop("key"), values["a"], values["b"])
    bending = taken(Bending, values)
    bent = dataclasses.asdict(bending)  # all of them: one that the verb does not know is an error
    bent["training_seed"] = bent.pop("seed")
    route = Route(**{name: values[name] for name in ("a", "b", "pairs", "align")})
    path = output or Path("analyses") / f"{route.name}-{bending.kind}-{bending.bends}.h5"
    remark_unfinished(*map(str, route.places))
    with interruptible("repeat the same command to go on with the training"):
        result = connect(**bent, **asked(values), save=path, progress=Progress("connect", "steps"))
    for name, lines in representatives(result).items():
        remark(f"{name}: {_barriers(lines)}" if name else _barriers(lines))
    for written in (path, *bend_files(path, bending)):
        click.echo(written)


def _barriers(curves: Result) -> str:
    """What bending has brought, in one line."""
    straight = dataclasses.replace(curves, values={"loss": curves.values["loss_straight"]})
    each = [barriers(lines).above_chord for lines in (straight, curves)]
    texts = [f"{np.median(heights):.4g} (highest {np.max(heights):.4g})" for heights in each]
    lines = plural(len(curves), "line")
    return f"median barrier above the chord, {lines}: straight {texts[0]}, along the curves {texts[1]}"
