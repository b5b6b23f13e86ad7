"""Options that verbs share: types of values, devices, problems, and the TOML file that any of them can stand in."""

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from landscape.core.errors import LandscapeError

__all__ = [
    "BLOCKS",
    "GRID",
    "RANGE",
    "SEEDS",
    "computing",
    "config_file",
    "device",
    "json_flag",
    "output",
    "problem_choice",
    "problem_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])


_MOST_SEEDS = 10_000_000


class _Seeds(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """`0:20`, `3`, `0:5,10,20:30`: half-open ranges and single seeds."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for piece in str(value).split(","):
            first, colon, last = piece.partition(":")
            if not (first.strip().isdecimal() and (last.strip().isdecimal() or not colon)):
                self.fail(
                    f"'{piece}' is no seed: write numbers and half-open ranges, such as 0:20 or 0:5,9", param, ctx
                )
            if colon and int(last) - int(first) > _MOST_SEEDS:
                self.fail(f"'{piece}' has {int(last) - int(first)} seeds: at most {_MOST_SEEDS} fit a run", param, ctx)
            seeds += range(int(first), int(last)) if colon else [int(first)]
        if not seeds:
            self.fail(f"'{value}' is empty: 0:20 means the seeds 0 to 19", param, ctx)
        if max(seeds) >= 2**63:
            self.fail(f"{max(seeds)} is too large for a seed: they end at 2^63 - 1", param, ctx)
        return tuple(seeds)


class _Blocks(click.ParamType):  # type: ignore[type-arg]
    """`none`, `0`, `0,2`, `0+2`."""

    name = "blocks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        pieces = [] if str(value).strip() in ("none", "") else re.split("[,+]", str(value))
        if wrong := [piece for piece in pieces if not piece.strip().isdecimal()]:
            self.fail(f"'{wrong[0]}' is no block: write none, or numbers from 0 on, such as 0,2 or 0+2", param, ctx)
        return tuple(sorted({int(piece) for piece in pieces}))


class _Range(click.ParamType):  # type: ignore[type-arg]
    """`-0.25:1.25`."""

    name = "low:high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        low, _, high = str(value).partition(":")
        try:
            return float(low), float(high)
        except ValueError:
            self.fail(f"'{value}' is no range: write LOW:HIGH, such as -0.25:1.25", param, ctx)


class _Grid(click.ParamType):  # type: ignore[type-arg]
    """`m_factor=1,5,10`: a key, and the texts of its values."""

    name = "key=values"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[str, ...]]:
        if isinstance(value, tuple):
            return value
        key, equals, values = str(value).partition("=")
        pieces = tuple(piece.strip() for piece in values.split(","))
        if not key.strip() or not equals or "" in pieces:
            self.fail(f"'{value}' is no KEY=VALUE,VALUE,...: write such as m_factor=1,5,10", param, ctx)
        return key.strip().lstrip("-").replace("-", "_"), pieces


SEEDS, BLOCKS, RANGE, GRID = _Seeds(), _Blocks(), _Range(), _Grid()

json_flag = click.option("--json", "print_json", is_flag=True, help="Print the whole result as JSON.")


def output(text: str) -> Callable[[Command], Command]:
    """`-o` and `--force`."""

    def add(command: Command) -> Command:
        command = click.option("--force", is_flag=True, help="Replace what is there.")(command)
        return click.option("-o", "--output", type=click.Path(path_type=Path), help=text)(command)

    return add


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make a TOML file's values the defaults of the command."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LandscapeError(f"cannot read {path}: {error}") from error
    options = {
        opt.lstrip("-").replace("-", "_"): (param, opt in param.secondary_opts)
        for param in ctx.command.params
        for opt in (*param.opts, *param.secondary_opts)
        if param.name != "config"
    }
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        if key.replace("-", "_") not in options:
            close = difflib.get_close_matches(key, options, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"{path}: there is no option '{key}'{hint}")
        param, negated = options[key.replace("-", "_")]
        assert param.name is not None
        try:
            defaults[param.name] = _from_toml(param, value, negated)
        except TypeError as error:
            raise click.UsageError(f"{path}: option '{key}' {error}, not {value!r}") from error
    ctx.default_map = defaults


def _from_toml(param: click.Parameter, value: Any, negated: bool) -> Any:
    """A value as the command line would give it: text, so that it is converted and checked in the same way."""
    if param.type is click.BOOL or getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise TypeError("is true or false")
        return value != negated
    if isinstance(value, dict) and param.type is GRID:
        return [_axis_from_toml(key, values) for key, values in value.items()]
    if isinstance(value, list) and param.type in (SEEDS, BLOCKS, RANGE):
        return (":" if param.type is RANGE else ",").join(map(str, value))
    if isinstance(value, list) and param.nargs > 1:
        return list(map(str, value))
    if getattr(param, "multiple", False):
        return list(map(str, value)) if isinstance(value, list) else [str(value)]
    if isinstance(value, list | dict):
        raise TypeError("takes a single value")
    return str(value)


def _axis_from_toml(key: str, values: Any) -> tuple[str, tuple[str, ...]]:
    """A key of a table of a grid and its values, as the command line would give them; a list in it is one value."""
    texts = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, dict):
            raise TypeError("has lists of values")
        if isinstance(value, list):
            texts.append("+".join(map(str, value)) or "none")
        else:
            texts.append(str(value).lower() if isinstance(value, bool) else str(value))
    return key.replace("-", "_"), tuple(texts)


def config_file(command: Command) -> Command:
    """`--config FILE.toml`."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_config,
        help="TOML file in which any option of this command can stand, by its long name.",
    )(command)


def computing(command: Command) -> Command:
    """`--device` and `--dtype`."""
    command = click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Precision.")(
        command
    )
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        callback=device,
        help="Where to compute.",
    )(command)


def backend_option(auto: str) -> Callable[[Command], Command]:
    """`--backend`, None for auto, of which `auto` says what it stands for."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", "stacked", "vmap", "loop"]),
        default="auto",
        callback=lambda ctx, param, name: None if name == "auto" else name,
        help=f"All networks at once, layer by layer; by torch.vmap; or one by one. {auto}",
    )


pairs = click.option(
    "--pairs",
    "pairs",
    type=click.Choice(["matched", "all"]),
    default="matched",
    help="Member by member (a single one goes with all), or each with each.",
)


def evaluating(command: Command) -> Command:
    """What a `Setting` is made of, for `setting_of`: samples, device and precision, BatchNorm's policy, backend."""
    options = (
        click.option(
            "--batchnorm",
            type=click.Choice(["recalibrate", "interpolate", "keep"]),
            help="What BatchNorm normalises by at a point: statistics estimated there anew on training data, those of "
            "the ends interpolated, or those of the first place everywhere. [default: recalibrate]",
        ),
        backend_option("auto is what the problem finds fastest."),
        click.option(
            "--autocast",
            type=click.Choice(["bfloat16", "float16"]),
            help="Run the network, but not the loss, in this precision where PyTorch deems it safe.",
        ),
        sampling,
        computing,
    )
    for option in reversed(options):
        command = option(command)
    return command


def setting_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Setting` that the options of `evaluating` gave."""
    import torch

    types = {key: values[key] and getattr(torch, values[key]) for key in ("dtype", "autocast")}
    kept = {key: values[key] for key in ("device", "sample_seed", "batchnorm", "backend")}
    return {**kept, **types, "samples": values["boards"]}


def asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as keyword arguments of `landscape.walk` and the other evaluating verbs."""
    fields = setting_of(values)
    renamed = {"engine": fields.pop("backend") or "auto", "seed": fields.pop("sample_seed")}
    return fields | renamed


def device(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Callback of `--device`: what auto stands for here; raises `LandscapeError` for a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LandscapeError("there is no CUDA device here: use --device cpu, or auto")
    return name


def sampling(command: Command) -> Command:
    """`--boards` and `--boards-seed`."""
    command = click.option("--sample-seed", type=click.IntRange(min=0), default=0, help="Seed of the sample.")(command)
    return click.option(
        "--samples",
        "--boards",
        "boards",
        type=click.IntRange(min=1),
        help="Samples, such as boards, drawn where there is no exact loss; the same for all members and points. "
        "[default: 1000 boards; of other data all]",
    )(command)


def problem_fields(command: Command) -> Command:
    """`-O`."""
    return click.option(
        "-O", "options", multiple=True, metavar="KEY=VALUE", help="Option of that problem, such as -O m_factor=4."
    )(command)


def problem_choice(command: Command) -> Command:
    """`--problem` and `-O`, for checkpoints that do not name their problem."""
    command = problem_fields(command)
    return click.option("--problem", help="Problem of the checkpoints, if they do not say: life, or pkg.module:NAME.")(
        command
    )


def chosen_problem(name: str | None, options: Sequence[str]) -> Any:
    """The problem that `--problem` and `-O` describe; None without `--problem`."""
    from landscape.problems.base import create

    if name is None:
        if options:
            raise click.UsageError("-O goes with --problem")
        return None
    return create(name, chosen_fields(name, options))


def chosen_fields(name: str, options: Sequence[str]) -> dict[str, Any]:
    """The fields of a problem that `-O` gives, converted as its own options would be."""
    from landscape.problems.base import find

    found = find(name)
    config: dict[str, Any] = {}
    parsers = {p.name: p for p in problem_options(found)} if isinstance(found, type) else {}
    for item in options:
        key, equals, value = item.partition("=")
        key = key.replace("-", "_")
        if not equals:
            raise click.UsageError(f"-O {item}: write KEY=VALUE")
        parser = parsers.get(key)
        config[key] = parser.type.convert(value, parser, None) if parser else value
    return config


def problem_options(problem: type) -> list[click.Option]:
    """One option a field of a problem's dataclass."""
    hints = typing.get_type_hints(problem)
    return [_field_option(field, hints[field.name]) for field in dataclasses.fields(problem)]


def _field_option(field: Any, hint: Any) -> click.Option:
    name = field.name.replace("_", "-")
    settings: dict[str, Any] = {"default": field.default, "help": field.metadata.get("help"), "show_default": True}
    if hint is bool:
        return click.Option([f"--{name}/--no-{name}", field.name], type=bool, **settings)
    kind = click.Choice(typing.get_args(hint)) if typing.get_origin(hint) is Literal else hint
    return click.Option([f"--{name}", field.name], type=kind, **settings)


class ProblemGroup(click.Group):
    """A verb whose subcommands are problems, each with its own options beside those of the verb.

    `verb` is the command with the verb's options; its callback takes the problem first, or what `make` makes of its
    name and its options. Where `place` is given, it makes the command for a first argument that is a path.
    """

    def __init__(
        self,
        *args: Any,
        verb: click.Command,
        place: Callable[[str], click.Command] | None = None,
        make: Callable[[str, Mapping[str, Any]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.verb, self.place, self.make = verb, place, make

    def list_commands(self, ctx: click.Context) -> list[str]:
        from landscape.problems.base import BUILT_IN

        return list(BUILT_IN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        from landscape.problems.base import BUILT_IN, create, find

        if self.place is not None and cmd_name not in BUILT_IN and ("/" in cmd_name or Path(cmd_name).exists()):
            return self.place(cmd_name)
        found = find(cmd_name)
        own = problem_options(found) if isinstance(found, type) else []

        def call(**values: Any) -> Any:
            config: Mapping[str, Any] = {option.name: values.pop(option.name) for option in own if option.name}
            assert self.verb.callback is not None
            return self.verb.callback((self.make or create)(cmd_name, config), **values)

        summary = (found.__doc__ or "").strip()
        return click.Command(
            cmd_name, params=[*own, *self.verb.params], callback=call, help=summary, epilog=self.verb.epilog
        )
