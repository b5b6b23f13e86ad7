"""`landscape train PROBLEM`: train and checkpoint many seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from landscape.cli.config import config_file
from landscape.cli.options import ProblemGroup, device_option, engine_option, output, yes_option
from landscape.cli.terminal import Progress, hint, interruptible, remark, remark_unfinished, say
from landscape.cli.types import SEEDS, Command, options_of, taken, together
from landscape.core.fields import fields_of
from landscape.core.intervals import Proportion
from landscape.core.shares import Sharing
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.training.train import Training, default_output, train

__all__ = ["command", "training_options"]


def training_options(**helps: str) -> Callable[[Command], Command]:
    """Seeds, every option of training, and where to compute; `helps` says another help of some."""
    return together(
        click.option(
            "--seeds", type=SEEDS, default="0:20", help="Initialisation seeds, one member each; 0:20 is 0 to 19."
        ),
        click.option("--data-seeds", type=SEEDS, help="Data seeds: as many, or one for all. [default: the seeds]"),
        options_of(Training, **helps),
        click.option(
            "--resume-every", type=click.FloatRange(min=0), default=10.0, help="Seconds between resume states."
        ),
        device_option,
    )


@click.command()
@training_options()
@engine_option("auto is stacked for small networks that stacks can train, else the first.", fused="Life")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb"]),
    help="Tell losses here too; log.jsonl in the run has them always. Repeatable.",
)
@options_of(Sharing)
@output("Run directory. [default: checkpoints/PROBLEM-...]")
@yes_option
@config_file
def _verb(problem: Problem, *, output: Path | None, force: bool, **values: Any) -> None:
    training = taken(Training, values)
    sharing = Sharing(**{name: values[name] for name in fields_of(Sharing)})
    path = output or sharing.named(default_output(problem))
    with interruptible(f"repeat the same command{' without --force' if force else ''} to go on with {path}"):
        if training.start:
            remark_unfinished(training.start)
        run = train(problem, training, path, **values, overwrite=force, progress=Progress("train", "steps"))
    stack = run.checkpoint().stack
    found = Compute(device=values["device"]).objective(problem)(stack)
    rate = f", accuracy {float(found['accuracy'].median()):.1%}" if "accuracy" in found else ""
    if "solved" not in found:
        remark(f"{problem.title()}: median loss {float(found['loss'].median()):.4g}{rate} over {len(stack)} members")
    else:
        remark(f"{problem.title()}: solved by {Proportion(int(found['solved'].sum()), len(stack))}")
    say(run.path)
    known = "presolve" in problem.landmarks()
    hint(("walk", "--from", "presolve" if known else run.path, "--to", run.path, *["--pairs", "all"] * (not known)))


command = ProblemGroup(
    "train",
    verb=_verb,
    subcommand_metavar="PROBLEM [OPTIONS]",
    help="""Train and checkpoint many seeds of a problem at once.

    Each member is a pure function of its own seeds, whatever is trained beside it. An interrupted run goes on when
    the same command is given again. `landscape train life --help` shows all options.""",
)
