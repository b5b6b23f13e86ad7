"""`landscape completion SHELL`: what a shell needs to complete commands."""

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

_FILES = {
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc",
    "fish": "~/.config/fish/completions/landscape.fish",
}


@click.command("completion", epilog="\b\nExample:\n  landscape completion bash")
@click.argument("shell", type=click.Choice(list(_FILES)))
def command(shell: str) -> None:
    """Print the lines that let a shell complete verbs, options, choices and files.

    They belong at the end of ~/.bashrc or ~/.zshrc, or into ~/.config/fish/completions/landscape.fish.
    """
    from landscape.cli.commands import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "landscape", "_LANDSCAPE_COMPLETE").source())
