"""`landscape walk --from A --to B`: the loss along lines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from landscape.cli.options import asked, evaluating, keyed
from landscape.cli.terminal import Progress, hint, interruptible, remark, remark_unfinished, say
from landscape.cli.types import RANGE, options_of
from landscape.core.fields import fields_of
from landscape.core.shares import Sharing
from landscape.evaluation.accuracy import LineAccuracy, reached
from landscape.evaluation.certify import Certifying
from landscape.evaluation.compare import Comparing
from landscape.evaluation.routes import Route
from landscape.evaluation.walk import walk
from landscape.space.family import MOST_POINTS

__all__ = ["command"]


def _progress(certify: bool) -> Callable[[int, int], None]:
    """A bar of the lines that are bounded, if any are, then one of the walk's points, which are more."""
    bars: dict[int, Progress] = {}

    def tell(done: int, total: int) -> None:
        if total not in bars:
            bars[total] = Progress("walk", "points") if bars or not certify else Progress("certify", "lines")
        bars[total](done, total)

    return tell


@click.command(
    "walk",
    epilog="""\b
        Examples:
          landscape walk --from presolve --to checkpoints/first/
          landscape walk --from checkpoints/first/@0 --to checkpoints/first/ --range -0.25:1.25
          landscape walk --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --points 201
          landscape walk --from presolve --to checkpoints/first/ --per layer
          landscape walk --from 'checkpoints/first/#3' --via presolve --to 'checkpoints/first/#7'
          landscape walk --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --path slerp
          landscape walk --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --align
          landscape walk --from 'checkpoints/first/#3' --rays 0:10 --range -1:1
          landscape walk --from run-a/ --to run-b/ --only 'layer4.*' --only 'fc.*' --hold end
          landscape walk --from 'checkpoints/first/#3' --to 'checkpoints/first/#7' --tolerance 0.01 -o analyses/near.h5
          landscape walk --from run-a/ --to run-a/ --pairs all --tolerance 0.05 --above 0.1 -o analyses/sides.h5
          landscape walk --from presolve --to checkpoints/first/ --budget 10s -o analyses/quick.h5
          landscape walk --from presolve --to checkpoints/first/ --certify 1e-6 -o analyses/certain.h5
          landscape walk --from checkpoints/first/ --to checkpoints/first/ --pairs all --workers 2
          landscape walk --from presolve --to checkpoints/first/ --shard 1/2
          landscape walk --from presolve --to folder-of-state-dicts/ --problem life -O m_factor=4""",
)
@options_of(Route)
@click.option("--points", type=click.IntRange(2, MOST_POINTS), default=51, help="Points of a line.")
@click.option("--range", "span", type=RANGE, default="0:1", help="Range of alpha; 0 and 1 are added if missing.")
@options_of(LineAccuracy)
@options_of(Certifying)
@options_of(Comparing)
@options_of(Sharing)
@evaluating("HDF5 file. [default: in analyses/, named for the places, such as FROM--TO.h5, and for what moves]")
def command(output: Path | None, **values: Any) -> None:
    """Evaluate the loss along lines between two places, straight or on arcs, through several, or in random directions.

    A place is a landmark of the problem (presolve), a run directory (its last step, all seeds), RUN/@step, RUN/#seed,
    a checkpoint file, FILE::KEY, or a folder or pattern ('runs/*/last.pt') of several. Prints the file with the curves.
    An interrupted walk goes on when the same command is given again.
    """
    if values["b"] is None and not values["rays"]:
        raise click.UsageError("Missing option '--to': name where the lines end, or random directions with --rays.")
    values["a"], values["b"], *via = keyed(values.pop("key"), values["a"], values["b"], *values["via"])
    values["via"] = tuple(via)
    route = Route(**{name: values[name] for name in fields_of(Route)})
    sharing = Sharing(**{name: values[name] for name in fields_of(Sharing)})
    path = output or sharing.named(Path("analyses") / f"{route.name}.h5")
    remark_unfinished(*map(str, route.places))
    measured = values["tolerance"] is not None or values["budget"] is not None
    what = "lines, which are measured some at a time" if measured else "points"
    with interruptible(f"repeat the same command to go on with the finished {what}"):
        found = walk(**asked(values), save=path, progress=_progress(values["certify"] is not None))
    if "accuracy" in found.about:
        remark(reached(found))
    say(path)
    hint(("analyse", "barriers", path), ("plot", "walk", path))
