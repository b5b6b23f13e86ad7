"""The program `landscape` and its verbs, each loaded when it is called, so that `--help` answers at once."""

import contextlib
import functools
import gc
import importlib
import keyword
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from landscape import __version__
from landscape.cli.flags import Group, in_flags, running
from landscape.cli.terminal import Failure, Interruption, remark
from landscape.core.errors import Idle, LandscapeError, plural
from landscape.core.interrupts import listening
from landscape.core.resources import exhausted, free_memory, in_words

__all__ = ["main"]

# Before torch starts its threads: on a busy machine, threads that spin long while they wait for one another cost
# several times what they compute; a short spin is as fast as a long one on a quiet machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

#: What each verb does; its command is in the module of its name.
_VERBS = {
    "train": "Train and checkpoint many seeds of a problem at once.",
    "sweep": "Train a grid over options: a run for every combination.",
    "import": "Make a run of other people's checkpoints.",
    "walk": "Evaluate the loss along lines: straight, on arcs, through places, layer by layer, random.",
    "connect": "Find curves of low loss between two points.",
    "plane": "Evaluate the loss on a plane through points, of tasks, or of random directions.",
    "submit": "Divide a command among jobs: of SLURM, of Dask, or of this machine.",
    "merge": "Make one result, run or sweep of shards.",
    "average": "Average networks: soups, and sums of task vectors, as a checkpoint.",
    "polish": "Take every member of a run to where it can go no further.",
    "verify": "Is every landmark of a problem what it says it is?",
    "validate": "Does this installation reproduce what is known in closed form?",
    "analyse": "Barriers of a walk; outcomes, convergence, clusters, success and curvature.",
    "plot": "Draw walks, planes, barriers, outcomes, incidence, clusters, mechanism, success and rules.",
    "animate": "Training on its plane, as GIF.",
    "report": "One interactive page of runs and results: lines, barriers, groups, training, all linked.",
    "export": "Write a result as a table, as arrays, or as geometry for ParaView.",
    "info": "What is this file, who made it, and how?",
    "example": "Write a module with a problem of your own, ready to be changed.",
    "completion": "Let a shell complete verbs, options and files.",
}


class _Remarks(logging.Handler):
    """Tells what the library logs, such as how a foreign file was read: each line once, on stderr."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.tell_once = functools.cache(remark)

    def emit(self, record: logging.LogRecord) -> None:
        context = click.get_current_context(silent=True)
        self.tell_once(in_flags(record.getMessage(), running(context) if context else ()))


@contextlib.contextmanager
def _remarked() -> Iterator[None]:
    """Within the block, what the library logs is told."""
    log, handler = logging.getLogger("landscape"), _Remarks()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within the block torch is imported, if it was not yet. Its many objects stay as long as the program does: to look
    through them for garbage, again and again, takes longer than to load all of our own.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class _Verbs(Group):
    """A group whose verbs are imported on use, in which whatever goes wrong is one line: exit status 1 for an error,
    2 for a command that makes no sense, and those of `Interruption`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            if cmd_name.startswith("-") or ctx.resilient_parsing:
                return None
            raise click.exceptions.NoSuchCommand(cmd_name, possibilities=_VERBS, ctx=ctx)
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        with _uncollected():
            command: click.Command = importlib.import_module(f"landscape.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs, in the order of use"):
            formatter.write_dl(list(_VERBS.items()))

    def main(self, *args: Any, **options: Any) -> Any:
        for number in range(3):  # a file that is opened would take the number of a stream that is closed, and its text
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _remarked(), listening():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()  # a full disk is told here, and not after the end
                return result
        except Idle as error:  # of an array of jobs with more than there is to do, this one is done
            remark(in_flags(" ".join(str(error).split()), running(ctx)))
        except LandscapeError as error:
            raise Failure(in_flags(" ".join(str(error).split()), running(ctx))) from error
        except BrokenPipeError:  # whoever read has read enough: click ends quietly
            raise
        except OSError as error:
            place = error.filename or "standard output"
            raise Failure(f"cannot read or write {place}: {error.strerror or error}") from error
        except KeyboardInterrupt as error:
            raise Interruption(error) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get("LANDSCAPE_DEBUG"):
                raise
            if exhausted(error):
                free = in_words(free_memory())
                raise Failure(
                    f"this takes more memory than there is, of which {free} are free: take fewer members, points or "
                    "samples at a time, or a smaller network"
                ) from error
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise Failure(
                f"unexpected, {said}. This is a mistake in landscape: please report it to its authors, with what the "
                "command shows with LANDSCAPE_DEBUG=1 before it"
            ) from error


def _version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import torch

    where = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    count = torch.get_num_threads()
    click.echo(f"landscape, version {__version__}")
    click.echo(f"torch {torch.__version__} on {', '.join(where) or 'the CPU'} with {plural(count, 'thread')}")
    ctx.exit()


@click.command(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="""\b
        Example:
          landscape train life --seeds 0:20 -o checkpoints/first
          landscape walk --from presolve --to checkpoints/first
          landscape analyse barriers analyses/presolve--first.h5
          landscape plot walk analyses/presolve--first.h5""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the versions of landscape and of torch, where it computes, and exit.",
)
@click.option(
    "--max-bytes",
    metavar="BYTES",
    help="Largest file that is read, such as 200G; other limits of what is read go with it. [default: 64G]",
)
@click.pass_context
def main(ctx: click.Context, max_bytes: str | None) -> None:
    """What lies between the solutions that training finds?

    Trains many networks at once, walks lines, planes and curves between known solutions, checkpoints and random
    directions, and shows the valleys, the peaks and the clusters. Any PyTorch model is served: --problem
    pkg.module:NAME names what landscape.Problem.from_model made.
    """
    if max_bytes is not None:
        from landscape.core.reading import VARIABLE, most_bytes

        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = max_bytes  # what this process starts reads as much
        ctx.call_on_close(lambda: _restored(VARIABLE, before))
        most_bytes()


def _restored(variable: str, before: str | None) -> None:
    """The limit as it was, for what else this process does."""
    if before is None:
        del os.environ[variable]
    else:
        os.environ[variable] = before
