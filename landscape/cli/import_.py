"""`landscape import FILE... -o RUN`: make a run of other people's checkpoints."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from landscape.cli.options import chosen_fields, key_option, keyed, output, problem_fields
from landscape.cli.terminal import hint, remark, say
from landscape.cli.types import SEEDS
from landscape.core.errors import plural
from landscape.problems.importing import import_run
from landscape.problems.places import short
from landscape.problems.registry import find
from landscape.store.checkpoints import Run

__all__ = ["command"]

#: Seeds that a remark names.
_LISTED = 6


@click.command(
    "import",
    epilog="""\b
        Examples:
          landscape import theirs/ --problem life -O activation=relu -O steps=2
          landscape import net-3.pyt net-5.pyt --problem life --seeds 3,5 -o checkpoints/nets
          landscape import net-3.pyt net-5.pyt --problem life --as steps -o checkpoints/epochs""",
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=str)
@key_option
@click.option("--problem", required=True, help="Problem that they were trained on, such as life, or pkg.module:NAME.")
@problem_fields
@click.option("--seeds", type=SEEDS, help="Seeds of the members, one a file. [default: 0, 1, ... in the files' order]")
@click.option(
    "--as",
    "taken_as",
    type=click.Choice(["members", "steps"]),
    default="members",
    help="What the files are: members of a run, or, in natural order, the steps of one.",
)
@output("Run directory. [default: checkpoints/FOLDER, or the first file's name]")
def command(
    files: tuple[str, ...],
    key: str | None,
    problem: str,
    options: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    taken_as: Literal["members", "steps"],
    output: Path | None,
    force: bool,
) -> None:
    """Make a run of other people's checkpoints, to be walked and analysed like one's own.

    A FILE is a state dict, or a checkpoint that holds one (.pt, .pth, .pyt, .ckpt, .bin, .safetensors), a model's
    directory in the Hugging Face layout, a folder of such files, a pattern, or FILE::KEY, what it has under a key;
    all of one architecture, which is read off the tensors. What tensors do not say, such as the activation or the rule,
    is the problem's default unless -O says otherwise. Names as the study's code gave them, such as
    gol_model_steps2_m5_d1.0_seed3.pyt, say steps, d and seed, unless -O says the steps. Prints the run directory.
    """
    first = Path(os.path.realpath(files[0].partition("::")[0]))
    path = output or Path("checkpoints") / (first.name if first.is_dir() else short(first.stem))
    run = import_run(
        [each or "" for each in keyed(key, *files)],
        path,
        problem=problem,
        options=chosen_fields(find(problem), options),
        seeds=seeds,
        taken_as=taken_as,
        overwrite=force,
    )
    for line in _remarks(run, seeds_given=seeds is not None):
        remark(line)
    say(run.path)
    hint(("info", run.path), ("analyse", "outcomes", run.path))


def _remarks(run: Run, *, seeds_given: bool) -> list[str]:
    """Where members, seeds and the fields of the problem come from: a wrong one changes the function silently."""
    imported = run.imported
    assert imported is not None
    config = run.problem[1]
    names = imported["files"]
    order = f" ({names[0]} first, {names[-1]} last)" if len(names) > 1 else ""
    by_order = not seeds_given and "seeds" not in imported["named"]
    seeds = f"; seeds 0 to {len(names) - 1} in the order of the files{order}" if by_order else ""
    if "steps" in imported:
        seeds = f" as the steps {_shortened(imported['steps'])} of one member{order}"
    known = [
        f"{how}: {_fields(config, imported[key])}"
        for how, key in (("inferred from the tensors", "inferred"), ("given", "given"))
        if imported[key]
    ]
    lines = ["; ".join([f"{plural(len(names), 'file')} imported{seeds}", *known])]
    if imported["named"]:
        read = [_fields(config, imported["named"])]
        if "seeds" in imported["named"]:
            read.append(f"seeds {_shortened(run.seeds)}")
        lines.append(f"read off the file names: {', '.join(read)}")
    if remark_on_names := imported.get("remark"):
        lines.append(remark_on_names)
    if imported["assumed"]:
        assumed = _fields(config, imported["assumed"])
        lines.append(f"assumed, because tensors do not say: {assumed}; name others with -O KEY=VALUE")
    return lines


def _shortened(numbers: Sequence[int]) -> str:
    few = [str(number) for number in numbers]
    return ", ".join(few if len(few) <= _LISTED else [*few[: _LISTED - 1], "...", few[-1]])


def _fields(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={config[key]}" for key in config if key in keys)
