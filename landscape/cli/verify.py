"""`landscape verify RUN|PROBLEM`: is every landmark what it says it is?"""

from typing import Any

import click
import torch

from landscape.cli.config import config_file
from landscape.cli.options import ProblemGroup, computing, json_flag, sampling
from landscape.cli.terminal import say, table
from landscape.core.errors import LandscapeError
from landscape.core.files import json_text
from landscape.problems.base import Problem, Verification, verify
from landscape.problems.places import problem_of
from landscape.store.checkpoints import load

__all__ = ["command"]


@click.command()
@click.option("--landmark", "names", multiple=True, help="Only this one, such as presolve:bump+zero; repeatable.")
@sampling
@computing
@json_flag
@config_file
def _verb(
    problem: Problem,
    *,
    names: tuple[str, ...],
    samples: int | None,
    sample_seed: int,
    device: str,
    dtype: str,
    print_json: bool,
) -> None:
    precision = getattr(torch, dtype)
    names = names or problem.landmarks() or ("presolve",)  # where there is none, the problem says why
    found = [verify(problem, name, device=device, dtype=precision, samples=samples, seed=sample_seed) for name in names]
    if print_json:
        say(json_text([{**vars(one), "solves": one.solves} for one in found]))
    else:
        sample = problem.nouns.drawn if found[0].sampled else problem.nouns.all
        say(f"{problem.title()}, {f'sampled {sample}' if found[0].sampled else f'all {found[0].right.total} {sample}'}")
        header = ["landmark", "design", f"{sample} right", "95 % interval", "loss", "s.e.", "|gradient|"]
        say(table([*header, "outputs exact", "solves"], list(map(_row, found))))
    if wrong := [one for one in found if not one.solves]:
        raise LandscapeError(
            f"{', '.join(one.landmark for one in wrong)} does not solve the problem: "
            f"{wrong[0].right.total - wrong[0].right.count} of {wrong[0].right.total} wrong"
        )


def _row(one: Verification) -> list[Any]:
    """The columns of a landmark."""
    return [
        one.landmark,
        one.description,
        f"{one.right.count} of {one.right.total}",
        "{:.4f} to {:.4f}".format(*one.right.interval) if one.sampled else "exact",
        one.loss,
        one.loss_se,
        one.gradient_norm,
        one.exact_outputs,
        one.solves,
    ]


def _of_place(place: str) -> click.Command:
    """The verb for the problem of a run or checkpoint."""

    def call(**values: Any) -> None:
        checkpoint = load(place)
        if checkpoint.problem is None:
            raise LandscapeError(f"{place} does not say its problem: verify the problem by name, such as `verify life`")
        assert _verb.callback is not None
        _verb.callback(problem_of({place: checkpoint}), **values)

    return click.Command(place, params=_verb.params, callback=call, help="Verify the landmarks of this run's problem.")


command = ProblemGroup(
    "verify",
    verb=_verb,
    place=_of_place,
    subcommand_metavar="RUN|PROBLEM [OPTIONS]",
    help="""Is every landmark what it says it is?

    Evaluates each known solution of a problem on all 512 patterns (one step) or on sampled boards (more): how many
    are right, the loss and its gradient. Exit status 1 if one does not solve its problem. The Game of Life and the
    functions have known solutions; other problems say that they have none. RUN is a run directory or a
    checkpoint; a problem takes its own options: `landscape verify life --steps 3 --activation elu`.""",
)
