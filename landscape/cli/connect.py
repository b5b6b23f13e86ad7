"""`landscape connect --from A --to B`: paths of low loss between two points."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.analysis.barriers import barriers, representatives
from landscape.cli.options import asked, evaluating, keyed
from landscape.cli.terminal import Progress, hint, interruptible, remark, remark_unfinished, say
from landscape.cli.types import options_of
from landscape.core.errors import plural
from landscape.core.fields import fields_of
from landscape.evaluation.certify import Certifying
from landscape.evaluation.connect import Connecting, bend_files, connect
from landscape.evaluation.routes import Route
from landscape.space.family import MOST_POINTS
from landscape.store.results import Result

__all__ = ["command"]


@click.command(
    "connect",
    epilog="""\b
        Examples:
          landscape connect --from 'checkpoints/first/#3' --to 'checkpoints/first/#7'
          landscape connect --from presolve --to checkpoints/first/ --method polyline --bends 3 -o analyses/bent.h5
          landscape connect --from checkpoints/first/ --to checkpoints/first/ --pairs all --align -o analyses/passes.h5
          landscape analyse passes analyses/passes.h5
          landscape plot walk analyses/bent.h5
          landscape walk --from presolve --via analyses/bent.bend-2.safetensors --to checkpoints/first/""",
)
@options_of(Route, "a", a="Where the curves begin.")
@click.option("--to", "b", required=True, metavar="PLACE", help="Where the curves end.")
@options_of(Connecting)
@click.option(
    "--points", type=click.IntRange(2, MOST_POINTS), default=1001, help="Points at which a path is evaluated."
)
@options_of(
    Route,
    "pairs",
    "order",
    "align",
    order="Order of the start's filters: as stored, or each equivalent one with a budget of its own, of which the "
    "lowest path is kept.",
    align="Beside each curve one to that network which computes the same as its end and lies close to the start: units "
    "in another order, other scales and signs where these make no difference.",
)
@options_of(Certifying)
@evaluating("HDF5 file; FILE.bend-1.safetensors go beside it. [default: analyses/FROM--TO-METHOD.h5]")
def command(output: Path | None, **values: Any) -> None:
    """Find paths between two places along which the loss is low: the highest loss on one is an upper bound of the pass.

    Places are those of `landscape walk`. Prints the file with the loss along the paths, which is read as that of a
    walk, and by `landscape analyse passes`, and the checkpoints that hold the bends, to be walked via. An interrupted
    training goes on when the same command is given again.
    """
    values["a"], values["b"] = keyed(values.pop("key"), values["a"], values["b"])
    bent = {name: values.pop(name) for name in fields_of(Connecting)}
    connecting = Connecting(**bent)
    bent["training_seed"] = bent.pop("seed")
    route = Route(**{name: values[name] for name in ("a", "b", "pairs", "order", "align")})
    path = output or Path("analyses") / f"{route.name}-{connecting.name}.h5"
    remark_unfinished(*map(str, route.places))
    with interruptible("repeat the same command to go on with the training"):
        result = connect(
            **bent,
            **asked(values),
            save=path,
            progress=Progress("connect", "steps of Adam"),
        )
    for name, lines in representatives(result).items():
        remark(f"{name}: {_barriers(lines)}" if name else _barriers(lines))
    if connecting.refine:
        remark(_saddles(result))
    for written in (path, *bend_files(path, connecting.most_bends)):
        say(written)
    hint(("analyse", "passes", path), ("plot", "walk", path))


def _saddles(curves: Result) -> str:
    """What the search for saddles has come to, in one line."""
    sought, found = ~np.isnan(curves["saddle_loss"]), curves["saddle_converged"] & curves["saddle_below"]
    losses = curves["saddle_loss"][found]
    text = f", median loss {np.median(losses):.6g}" if len(losses) else ""
    return f"saddles of index 1, no higher than the path: {found.sum()} of {sought.sum()} paths that rise{text}"


def _barriers(curves: Result) -> str:
    """What the search has brought, in one line."""
    straight = dataclasses.replace(curves, values={"loss": curves.values["loss_straight"]})
    each = [barriers(lines).above_chord for lines in (straight, curves)]
    texts = [f"{np.median(heights):.4g} (highest {np.max(heights):.4g})" for heights in each]
    lines = plural(len(curves), "line")
    return f"median barrier above the chord, {lines}: straight {texts[0]}, along the paths {texts[1]}"
