"""`landscape average PLACE... -o FILE`: the weighted mean of networks, as a checkpoint."""

from pathlib import Path

import click

from landscape.cli.config import config_file
from landscape.cli.options import key_option, keyed
from landscape.cli.terminal import say
from landscape.cli.types import NUMBERS

__all__ = ["command"]


@click.command(
    "average",
    epilog="""\b
        Examples:
          landscape average 'checkpoints/first/#3' 'checkpoints/first/#7' -o soup.safetensors
          landscape average 'seed*.pt' -o seeds.safetensors
          landscape walk --from seed0.pt --to seeds.safetensors --problem my_module:PROBLEM
          landscape average base.pt one.pt other.pt --weights=-1,1,1 -o both-tasks.safetensors
          landscape average base.pt one.pt --weights=2,-1 -o without-the-task.safetensors""",
)
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option(
    "--weights",
    type=NUMBERS,
    metavar="W,W,...",
    help="One a network, with the sum 1. [default: all alike]",
)
@key_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The safetensors file to write.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@config_file
def command(
    places: tuple[str, ...], weights: tuple[float, ...] | None, key: str | None, output: Path, force: bool
) -> None:
    """Average networks: a soup of fine-tuned ones, or a base with task vectors added or subtracted.

    A PLACE is a checkpoint file, FILE::KEY, a run directory (its last step, all seeds), RUN/#seed, or a folder or
    pattern ('runs/*/last.pt') of several; each member is a network. All have the same tensors. Statistics of BatchNorm
    are averaged too, but walks estimate them anew. Prints the file, which is a place to walk to.
    """
    from landscape.problems.averaging import average

    average(keyed(key, *places), weights=weights, save=output, overwrite=force)
    say(output)
