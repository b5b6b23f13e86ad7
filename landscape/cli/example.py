"""`landscape example`: a module with a problem of one's own."""

import importlib.machinery
import keyword
import sys
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


def _require_importable(path: Path) -> None:
    """Raise `LandscapeError` for a file whose module has no name, or that of another."""
    name = path.stem
    if not name.isidentifier() or keyword.iskeyword(name):
        raise LandscapeError(f"{path} cannot be imported: call a module by letters, digits and _, such as my_model.py")
    folders = [each for each in sys.path if each and Path(each).resolve() != path.absolute().parent.resolve()]
    if name in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(name, folders) is not None:
        raise LandscapeError(f"{path} would hide the installed module {name}: choose another name, such as my_model.py")


@click.command("example", epilog="\b\nExamples:\n  landscape example\n  landscape example -o other.py")
@output("Module. [default: my_model.py]")
def command(output: Path | None, force: bool) -> None:
    """Write a module with a problem of your own, to be changed: network, data and loss.

    The problem is named by the module and its name there, such as my_model.py:PROBLEM.
    """
    path = output or Path("my_model.py")
    if path.suffix != ".py":
        raise LandscapeError(f"{path} cannot be imported: end the name of a module in .py")
    _require_importable(path)
    refuse_existing(path, force=force)
    with replacing(path) as place:
        place.write_text(_TEXT)
    say(path)
    hint(("train", f"{path}:PROBLEM", "--seeds", "0:10", "-o", "checkpoints/mine"))
