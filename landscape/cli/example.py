"""`landscape example`: a module with a problem of one's own."""

from pathlib import Path

import click

from landscape.cli.options import output
from landscape.cli.terminal import hint, say
from landscape.core.errors import LandscapeError
from landscape.core.files import refuse_existing, replacing

__all__ = ["command"]

_TEXT = '''"""A problem of your own: put your network, your data and your loss in the place of these."""

import torch
from torch import nn

from landscape import Problem


def network() -> nn.Module:
    """A new network, with random parameters."""
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and classes: which points of the plane lie where x and y have one sign?"""
    inputs = torch.randn(512, 2, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs.prod(1) > 0).long()


# `test` is what training does not see. A loss of a batch of any structure: `batch_loss=fn` (docs/own_model.md).
PROBLEM = Problem.from_model(network, data(), nn.CrossEntropyLoss(), test=data(1))
'''


@click.command("example", epilog="\b\nExamples:\n  landscape example\n  landscape example -o other.py")
@output("Module. [default: my_model.py]")
def command(output: Path | None, force: bool) -> None:
    """Write a module with a problem of your own, to be changed: network, data and loss.

    The problem is named by the module and its name there, such as my_model.py:PROBLEM.
    """
    path = output or Path("my_model.py")
    if path.suffix != ".py":
        raise LandscapeError(f"{path} cannot be imported: end the name of a module in .py")
    refuse_existing(path, force=force)
    with replacing(path) as place:
        place.write_text(_TEXT)
    say(path)
    hint(("train", f"{path}:PROBLEM", "--seeds", "0:10", "-o", "checkpoints/mine"))
