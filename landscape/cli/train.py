"""`landscape train PROBLEM`: train and checkpoint many seeds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from landscape.cli.options import BLOCKS, SEEDS, Command, ProblemGroup, backend_option, computing, config_file, output
from landscape.cli.report import Progress, remark, remark_unfinished
from landscape.core.errors import LandscapeError
from landscape.core.intervals import Proportion
from landscape.engine.stacked import Backend
from landscape.problems.base import Problem
from landscape.training.train import Training, train

__all__ = ["command", "training_options"]


def training_options(*, saved: str) -> Callable[[Command], Command]:
    """Seeds, every option of training, and where to compute; `saved` says which steps are saved by default."""
    options = (
        click.option(
            "--seeds", type=SEEDS, default="0:20", help="Initialisation seeds, one member each; 0:20 is 0 to 19."
        ),
        click.option("--data-seeds", type=SEEDS, help="Data seeds: as many, or one for all. [default: the seeds]"),
        click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", help="Optimizer."),
        click.option("--lr", type=float, default=1e-2, help="Learning rate."),
        click.option("--momentum", type=float, default=0.0, help="Momentum of sgd."),
        click.option("--weight-decay", type=float, default=0.0, help="L2 penalty, added to the gradient."),
        click.option("--batches", type=click.IntRange(min=0), default=3000, help="Optimizer steps."),
        click.option(
            "--data",
            type=click.Choice(["auto", "exact", "batches"]),
            default="auto",
            help="Gradient of the loss on all there is, or on random batches; auto is exact where the loss is.",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=128, help="Samples of a batch."),
        click.option("--shared-data", is_flag=True, help="All members see the batches of the first data seed."),
        click.option(
            "--init",
            type=click.Choice(["default", "normal", "normal_uniform"]),
            default="default",
            help="PyTorch's default; N(0, std^2); or weights N(0, std^2) and biases uniform within 1, which with "
            "--init-std 0.02 is what the study's --normalize does.",
        ),
        click.option(
            "--init-std", type=float, default=0.1, help="Standard deviation of --init normal and normal_uniform."
        ),
        click.option("--init-scale", type=float, default=1.0, help="Factor on all initial parameters."),
        click.option(
            "--start",
            metavar="PLACE",
            help="Begin at a landmark (presolve), a run, RUN/@step, RUN/#seed or a checkpoint file, not at random; "
            "optimizers begin anew. The study's --presolve and --resume_from.",
        ),
        click.option(
            "--presolve-blocks",
            type=BLOCKS,
            default="none",
            help="Blocks that begin at the known solution, such as 0,2 or 0+2; the rest begins at random. The study's "
            "--solve_layers.",
        ),
        click.option("--freeze", is_flag=True, help="Keep the blocks of --presolve-blocks as they are."),
        click.option("--save-at", type=SEEDS, help=f"Steps to save. [default: {saved}]"),
        click.option(
            "--resume-every", type=click.FloatRange(min=0), default=30.0, help="Seconds between resume states."
        ),
        computing,
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@training_options(saved="0, 1-2-5 per decade, and the last")
@backend_option("auto is the first that can train the network.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb"]),
    help="Tell losses here too; log.jsonl in the run has them always. Repeatable.",
)
@output("Run directory. [default: checkpoints/PROBLEM-...]")
@config_file
def _verb(
    problem: Problem,
    *,
    seeds: tuple[int, ...],
    data_seeds: tuple[int, ...] | None,
    resume_every: float,
    logs: tuple[str, ...],
    backend: Backend | None,
    device: str,
    output: Path | None,
    force: bool,
    **settings: Any,
) -> None:
    training = Training(**settings)
    path = output or Path("checkpoints") / _default_name(problem)
    steps = Progress("train", "steps")
    try:
        if training.start:
            remark_unfinished(training.start)
        run = train(
            problem,
            training,
            path,
            seeds=seeds,
            data_seeds=data_seeds,
            device=device,
            resume_every=resume_every,
            logs=logs,
            backend=backend,
            force=force,
            on_progress=steps,
        )
    except KeyboardInterrupt as error:
        raise LandscapeError(f"interrupted: repeat the same command to go on with {path}") from error
    values = problem.objective(device=device)(run.checkpoint().stack)
    diverged = sum(not row.isfinite().all() for row in run.checkpoint().stack.flatten())
    if diverged:
        remark(f"{diverged} of {len(seeds)} members diverged: their parameters are NaN or infinite. Lower --lr")
    rate = f", accuracy {float(values['accuracy'].median()):.1%}" if "accuracy" in values else ""
    if "solved" not in values:
        remark(f"{problem.title()}: median loss {float(values['loss'].median()):.4g}{rate} over {len(seeds)} members")
    else:
        remark(f"{problem.title()}: solved by {Proportion(int(values['solved'].sum()), len(seeds))}")
    click.echo(run.path)


def _default_name(problem: Problem) -> str:
    """Name of the problem and of what is not as usual in it."""
    usual = {field.name: field.default for field in dataclasses.fields(problem)}  # type: ignore[arg-type]
    unusual = [f"{key}={value}" for key, value in problem.config().items() if key in usual and value != usual[key]]
    return "-".join([problem.name, *unusual]).replace("/", "").replace(":", "-")


command = ProblemGroup(
    "train",
    verb=_verb,
    subcommand_metavar="PROBLEM [OPTIONS]",
    help="""Train and checkpoint many seeds of a problem at once.

    Each member is a pure function of its own seeds, whatever is trained beside it. An interrupted run goes on when
    the same command is given again. `landscape train life --help` shows all options.""",
)
