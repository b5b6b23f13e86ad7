"""`landscape merge SHARDS...`: one result, run or sweep of the parts that jobs have made."""

from collections.abc import Sequence
from pathlib import Path

import click

from landscape.cli.options import output
from landscape.cli.terminal import say
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.files import is_there

__all__ = ["command", "merged"]


@click.command(
    "merge",
    epilog="""\b
        Examples:
          landscape walk --from presolve --to checkpoints/first/ --shard 1/2
          landscape walk --from presolve --to checkpoints/first/ --shard 2/2
          landscape merge analyses/presolve--first-shard-1-of-2.h5 analyses/presolve--first-shard-2-of-2.h5 -o whole.h5
          landscape train life --seeds 0:40 --data batches --shard 1/2 -o checkpoints/part-1
          landscape train life --seeds 0:40 --data batches --shard 2/2 -o checkpoints/part-2
          landscape merge checkpoints/part-1 checkpoints/part-2 -o checkpoints/whole""",
)
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@output("What all of them make. [required]")
def command(shards: tuple[Path, ...], output: Path | None, force: bool) -> None:
    """Make one result, run or sweep of SHARDS, what the same command wrote with --shard 1/N to N/N.

    It is that of the command without --shard, but for the time and the command that it says. A shard that is missing,
    doubled or of other work is refused.
    """
    if output is None:
        raise click.UsageError("Missing option '-o': name what the shards are to make.")
    merged(shards, output, force=force)
    say(output)


def merged(shards: Sequence[Path], output: Path, *, force: bool) -> None:
    """Make one of shards, of whatever kind."""
    kinds = [_kind(shard) for shard in shards]
    if output in shards:
        raise LandscapeError(f"{output} is one of the shards: choose another output with `output`")
    if other := next((number for number, kind in enumerate(kinds) if kind != kinds[0]), None):
        raise Mismatch(f"{shards[0]} is a {kinds[0]}, and {shards[other]} a {kinds[other]}: give shards of one kind")
    if kinds[0] == "sweep":
        from landscape.training import sweep

        sweep.merge(shards, output, overwrite=force)
    elif kinds[0] == "run":
        from landscape.training import train

        train.merge(shards, output, overwrite=force)
    else:
        from landscape.evaluation import evaluate

        evaluate.merge(shards, output, overwrite=force)


def _kind(path: Path) -> str:
    if not is_there(path):
        raise LandscapeError(f"{path} does not exist")
    if path.is_dir():
        return "sweep" if is_there(path / "sweep.json") else "run"
    return "result"
