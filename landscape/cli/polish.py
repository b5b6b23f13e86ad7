"""`landscape polish RUN -o RUN2`: every member to where it can go no further."""

from pathlib import Path
from typing import Any

import click

from landscape.cli.config import config_file
from landscape.cli.options import chosen_problem, engine_option, output, problem_choice
from landscape.cli.terminal import Progress, hint, interruptible, remark, remark_unfinished, say

__all__ = ["command"]


@click.command(
    "polish",
    epilog="""\b
        Example:
          landscape train life --seeds 0:20 -o checkpoints/first
          landscape polish checkpoints/first -o checkpoints/first-polished
          landscape analyse convergence checkpoints/first-polished""",
)
@click.argument("place", metavar="RUN")
@click.option(
    "--steps",
    type=click.IntRange(min=10),
    default=200,
    help="Newton's steps at most; of networks of more than 400 parameters truncated ones, after ten of L-BFGS for "
    "each.",
)
@problem_choice
@engine_option("auto is plain but for small networks, which are faster stacked.")
@output("Run directory. [default: the run's, with -polished behind it]")
@config_file
def command(
    place: str, problem: str | None, options: tuple[str, ...], output: Path | None, force: bool, **settings: Any
) -> None:
    """Take every member of RUN to where it can go no further, or say why not.

    Newton's method in float64 on all data, which keeps to the kinks of rectifiers and knows that rescaling of units
    changes nothing; of networks of more than 400 parameters L-BFGS, then truncated Newton steps. Members whose loss
    falls to 0 at infinity stop at a loss of 1e-9, others where less than 1e-9 of their loss is left. The new run says
    of each member which kind it is (converged, at a kink, towards infinity with its limit, saddle, dead, or still
    falling), its gradient norm and what is left, and whether it has stalled: ten steps gained less than 1e-7 of the
    loss. Prints the run directory.
    """
    from landscape.analysis.polish import polish

    path = output or Path(place.rstrip("/").replace("#", "-").replace("@", "-") + "-polished")
    remark_unfinished(place)
    with interruptible(f"repeat the same command to go on with {path}"):
        run = polish(
            place,
            path,
            problem=chosen_problem(problem, options),
            overwrite=force,
            progress=Progress("polish", "members"),
            **settings,
        )
    members = run.document["polished"]["members"]
    kinds, stalled = [member["kind"] for member in members], sum(member["stalled"] for member in members)
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    remark(", ".join(counts) + (f"; {stalled} stalled" if stalled else ""))
    say(run.path)
    hint(("analyse", "clusters", run.path))
