"""`landscape plane`: the loss on a two-dimensional slice."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from landscape.cli.options import asked, evaluating, keyed
from landscape.cli.terminal import Progress, hint, interruptible, remark, remark_unfinished, say
from landscape.cli.types import RANGE, Written, options_of
from landscape.core.fields import fields_of
from landscape.core.shares import Sharing
from landscape.evaluation.accuracy import PlaneAccuracy, reached
from landscape.evaluation.plane import Directions, plane, plane_name
from landscape.evaluation.routes import Route
from landscape.space.planes import MOST_POINTS

__all__ = ["command"]


def _points(written: str) -> tuple[int, int]:
    """`31`, or `41x21`: points along x and along y."""
    pieces = written.split("x")
    numbers = [int(piece) for piece in pieces if piece.strip().isdecimal()]
    if not 1 <= len(numbers) == len(pieces) <= 2:
        raise ValueError(f"'{written}' is no grid: write 31, or 41x21 for 41 points along x and 21 along y")
    if not 2 <= min(numbers) <= max(numbers) <= MOST_POINTS:
        raise ValueError(f"'{written}' has an axis of fewer than 2 points, or of more than {MOST_POINTS}")
    return numbers[0], numbers[-1]


def _three_places(ctx: click.Context, param: click.Parameter, places: tuple[str, ...] | None) -> Any:
    """Three places, and no option that stands where one is missing."""
    if option := next((place for place in places or () if place.startswith("-")), None):
        raise click.BadParameter(f"it takes three places, {param.metavar}: write them before {option}", ctx, param)
    return places


@click.command(
    "plane",
    epilog="""\b
        Examples:
          landscape plane --through presolve 'checkpoints/first#3' 'checkpoints/first#7'
          landscape plane --tasks base.pt one.pt other.pt --problem my_module:PROBLEM --x -0.5:1.5
          landscape plane --at 'checkpoints/first#3' --random 0 --points 51
          landscape plane --at presolve --random 1 --x -0.5:0.5 --y -0.5:0.5 --problem life
          landscape plane --at 'checkpoints/first#3' --directions eigenvectors
          landscape plane --trajectory 'checkpoints/first#3' --points 61x41
          landscape plane --trajectory epochs/ --problem my_module:PROBLEM
          landscape plane --at 'checkpoints/first#3' --tolerance 0.01 -o analyses/near.h5
          landscape plane --at 'checkpoints/first#3' --budget 10s -o analyses/quick.h5
          landscape plot plane analyses/plane-first-3--random-0.h5""",
)
@click.option(
    "--through",
    nargs=3,
    metavar="A B C",
    callback=_three_places,
    help="The plane through three places; axes are L2 distances.",
)
@click.option(
    "--tasks",
    nargs=3,
    metavar="BASE A B",
    callback=_three_places,
    help="BASE + x (A - BASE) + y (B - BASE): x and y are how much is added of what A and B were tuned to.",
)
@click.option(
    "--at", "a", metavar="PLACE", help="The plane of two directions at a place: random ones, as long as its weights."
)
@click.option(
    "--random",
    "direction_seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Seed of those directions. [default: 0]",
)
@click.option(
    "--directions",
    "chosen",
    type=click.Choice(["eigenvectors", "gradient"]),
    help="With --at, in place of random ones: the two leading eigenvectors of the Hessian there, or the gradient and "
    "the leading one; axes are L2 distances.",
)
@click.option(
    "--trajectory",
    metavar="RUN#SEED|DIR",
    help="The plane closest to all steps of a run's member, or to the checkpoints of a folder (PCA).",
)
@click.option("--x", type=RANGE, help="Range of x. [default: around the places; -1:1 with --at]")
@click.option("--y", type=RANGE, help="Range of y. [default: likewise]")
@click.option(
    "--points",
    type=Written("N or NXxNY", _points),
    metavar="N|NXxNY",
    default="31x31",
    help="Points along x and y; the coordinates of places are added to them.",
)
@options_of(
    Route,
    "normalise",
    "all_parameters",
    "align",
    align="With --through and --tasks: in place of B and C take those networks that compute the same and lie close to "
    "the first place.",
    normalise="Random directions have the norms of weights filter by filter, layer by layer, or are standard normal.",
)
@options_of(PlaneAccuracy)
@options_of(Sharing)
@evaluating("HDF5 file. [default: analyses/plane-PLACES.h5]")
def command(
    through: tuple[str, str, str] | None,
    tasks: tuple[str, str, str] | None,
    a: str | None,
    direction_seed: int | None,
    chosen: Directions | None,
    trajectory: str | None,
    output: Path | None,
    **values: Any,
) -> None:
    """Evaluate the loss on a plane: through three places, of two tasks, of directions at one, or along a training.

    A place is a landmark of the problem (presolve), RUN/#seed, RUN/@step#seed, a checkpoint file, or FILE::KEY.
    Prints the file with the surface. An interrupted evaluation goes on when the same command is given again.
    """
    if sum(place is not None for place in (through, tasks, a, trajectory)) != 1:
        raise click.UsageError(
            "choose one plane: --through A B C, --tasks BASE A B, --at PLACE (with --random SEED or --directions), or "
            "--trajectory RUN#SEED (or a folder)"
        )
    if a is None and chosen:
        raise click.UsageError("--directions goes with --at PLACE")
    random = a is not None and chosen is None
    if not random and click.get_current_context().get_parameter_source("normalise") == ParameterSource.COMMANDLINE:
        raise click.UsageError("--normalise goes with --at PLACE, where its directions are random")
    if not random and direction_seed is not None:
        raise click.UsageError("--random goes with --at PLACE, without --directions")
    places = [place or "" for place in keyed(values.pop("key"), *(through or tasks or (a or trajectory,)))]
    kinds: dict[Directions, Any] = {"through": through, "tasks": tasks, "trajectory": trajectory}
    directions = next((kind for kind, given in kinds.items() if given is not None), chosen or "random")
    values |= {"directions": directions, "direction_seed": direction_seed or 0}
    sharing = Sharing(**{name: values[name] for name in fields_of(Sharing)})
    name = plane_name(places, directions, direction_seed or 0, align=values["align"])
    path = output or sharing.named(Path("analyses") / f"{name}.h5")
    remark_unfinished(*places)
    measured = values["tolerance"] is not None or values["budget"] is not None  # whose points depend on one another
    with interruptible("" if measured else "repeat the same command to go on with the finished points"):
        found = plane(*places, **asked(values), save=path, progress=Progress("plane", "points"))
    if "accuracy" in found.about:
        remark(reached(found))
    say(path)
    hint(("plot", "plane", path))
