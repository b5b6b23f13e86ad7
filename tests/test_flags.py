"""Errors name arguments, and the command line the flags of the command that runs."""

import inspect
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from landscape.cli import main
from landscape.cli.flags import Group, in_flags
from landscape.cli.types import RANGE, options_of
from landscape.core.errors import LandscapeError
from landscape.core.fields import fields_of
from landscape.evaluation.routes import Route
from landscape.evaluation.walk import walk
from landscape.training.train import Training

Program = Callable[..., Result]


def options(*names: str) -> list[click.Parameter]:
    ctx = click.Context(main)
    command: click.Command | None = main
    for name in names:
        assert isinstance(command, click.Group)
        command = command.get_command(ctx, name)
    assert command is not None
    return command.params


@pytest.mark.parametrize(
    ("names", "text", "told"),
    [
        (("walk",), "name `b`, or `rays`", "name --to, or --rays"),
        (("walk",), '`via` goes with `order="all"`', "--via goes with --filter-order all"),
        (("walk",), 'or `pairs="all"`', "or --pairs all"),
        (("walk",), "choose another with `save`, or `overwrite=True`", "choose another with -o, or --force"),
        (("walk",), 'try `engine="plain"` and another `seed`', "try --engine plain and another --sample-seed"),
        (("walk",), "give `span=(0, 1)`", "give --range 0:1"),
        (("walk",), '`problem="life"` with `options={"m_factor": 4}`', "--problem life with -O m_factor=4"),
        (("walk",), "name it in `options`", "name it in -O KEY=VALUE"),
        (("walk",), "`trace=True` is of another verb", "trace=True is of another verb"),
        (("plane",), 'leave `a` and `directions="random"` out', "leave --at and --random out"),
        (("train", "life"), "`shared_data=False`, `sigmoid=False`", "--no-shared-data, --no-sigmoid"),
        (("train", "life"), "`d_factor` and `save_at=(0, 9)`", "--d-factor and --save-at 0,9"),
        (("train", "digits"), "`d_factor` is of another problem", "d_factor is of another problem"),
        (("analyse", "curvature"), "leave `trace=True` out", "leave --trace out"),
        (("verify", "life"), "see `landscape verify`", "see `landscape verify`"),
    ],
)
def test_arguments_are_told_as_flags(names: tuple[str, ...], text: str, told: str) -> None:
    assert in_flags(text, options(*names)) == told


def test_what_says_a_route_is_an_option_of_walk_and_an_argument_of_the_library() -> None:
    """So a kind of path is written down once for the command line: as a field of `Route`."""
    arguments = set(inspect.signature(walk).parameters)
    assert set(fields_of(Route)) <= {option.name for option in options("walk")} & arguments


def test_without_a_command_only_the_backticks_go() -> None:
    assert in_flags("`via` and `overwrite=True`", ()) == "via and overwrite=True"


def test_ranges_and_lists_are_written_as_their_option_reads_them() -> None:
    wide = click.Option(["--x"], type=RANGE)
    assert in_flags("`x=(-0.5, 0.5)`, `x=wide`", [wide]) == "--x -0.5:0.5, --x wide"


def groups(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return []
    context = click.Context(command)
    children = [command.get_command(context, name) for name in command.list_commands(context)]
    return [command, *(group for child in children if child is not None for group in groups(child))]


def test_every_group_knows_which_of_its_commands_runs() -> None:
    assert len(groups(main)) > 4
    assert [group.name for group in groups(main) if not isinstance(group, Group)] == []


def test_an_error_is_told_in_the_flags_of_the_command_that_raised_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group in a group, and by its class as well as by its words."""

    @click.group(cls=Group)
    def inner() -> None:
        pass

    @inner.command()
    @click.option("--via")
    def leaf(via: str) -> None:
        raise LandscapeError("`via` is\nwrong, and so is `b`")

    real = type(main).get_command
    monkeypatch.setattr(
        type(main), "get_command", lambda self, ctx, name: inner if name == "inner" else real(self, ctx, name)
    )
    result = CliRunner().invoke(main, ["inner", "leaf"])
    assert (result.exit_code, result.stderr) == (1, "Error: --via is wrong, and so is b\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--steps", "2", "--data", "exact"), "use --data batches"),
        (("--dropout", "0.2", "--data", "exact"), "use --data batches, or --dropout 0"),
        (("--freeze",), "name the blocks with --presolve-blocks"),
        (("--start", "presolve", "--init", "normal"), "--start presolve leaves nothing to --init and --init-scale"),
        (("--start", "presolve"), "or each its own batches with --data batches"),
        (("--seeds", "0:2", "-o", "taken"), "taken exists and is no run: choose another directory with -o"),
    ],
)
def test_errors_of_training_as_the_command_line_tells_them(
    landscape: Program, arguments: tuple[str, ...], words: str
) -> None:
    Path("taken").mkdir()
    Path("taken/notes").touch()
    result = landscape("train", "life", "--batches", "1", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert "`" not in result.stderr
    assert [path.name for path in Path().iterdir()] == ["taken"]


def test_options_say_what_their_fields_say() -> None:
    @click.command()
    @options_of(Training, save_at="Saved.")
    def command(**values: object) -> None:
        Training(**values)  # type: ignore[arg-type]

    found = {option.name: option for option in command.params if isinstance(option, click.Option)}
    assert list(found) == list(Training.__dataclass_fields__)
    assert found["batches"].default == 3000
    assert found["save_at"].help == "Saved."
    assert found["freeze"].help == "Keep the blocks of --presolve-blocks as they are."
    result = CliRunner().invoke(command, ["--presolve-blocks", "0+2", "--freeze", "--save-at", "0:3"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(command, ["--batch-size", "0"]).exit_code == 2
