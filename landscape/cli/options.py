"""Options that verbs share: where to compute, samples, problems, and where results go."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from landscape.analysis.levels import LEVELS
from landscape.cli.config import config_file
from landscape.cli.flags import Group
from landscape.cli.terminal import remark, remark_unfinished, say
from landscape.cli.types import SEED, Command, field_options, together
from landscape.core.errors import LandscapeError
from landscape.core.files import is_there, json_text, refuse_existing, write_json

__all__ = [
    "BY",
    "ProblemGroup",
    "Report",
    "asked",
    "engine_option",
    "chosen_fields",
    "chosen_problem",
    "computing",
    "same_options",
    "batchnorm_option",
    "changes",
    "device_option",
    "dtype_option",
    "evaluating",
    "finished_cells",
    "json_flag",
    "key_option",
    "keyed",
    "members_of",
    "of_run",
    "output",
    "problem_choice",
    "problem_fields",
    "reporting",
    "samples_option",
    "tolerance_option",
    "yes_option",
    "sampling",
]


def _device(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """What auto stands for here; raises `LandscapeError` for a device that is not there."""
    from landscape.core.devices import chosen_device

    return str(chosen_device(name))


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", callback=_device, help="Where to compute."
)


def dtype_option(default: str = "float32", *more: str) -> Callable[[Command], Command]:
    """`--dtype`; `more` are choices beside the two."""
    return click.option("--dtype", type=click.Choice(["float32", "float64", *more]), default=default, help="Precision.")


computing = together(device_option, dtype_option())


def engine_option(auto: str, *, fused: str = "") -> Callable[[Command], Command]:
    """`--engine`, of which `auto` says what auto stands for, and `fused` where that engine serves, if it does."""
    more = f" Or {fused} in compiled loops (fused; extra fast)." if fused else ""
    return click.option(
        "--engine",
        type=click.Choice(["auto", "plain", "stacked", "vmap", *["fused"] * bool(fused)]),
        default="auto",
        help="One network after another by its own forward; many at once, layer by layer; or by torch.vmap."
        f"{more} {auto}",
    )


def samples_option(help: str, default: int | None = None) -> Callable[[Command], Command]:
    """`--samples`, which are boards often."""
    kind = click.IntRange(min=1)
    return click.option("--samples", "--boards", "samples", type=kind, default=default, help=help)


#: `--samples` and `--sample-seed`.
sampling = together(
    samples_option(
        "Samples, such as boards, drawn where there is no exact loss; the same for all members and points. "
        "[default: 1000 boards; of other data all]"
    ),
    click.option("--sample-seed", type=SEED, default=0, help="Seed of the sample."),
)


#: `--draws` and `--l2`, of what is done to a loss.
changes = together(
    click.option(
        "--draws",
        type=click.IntRange(min=1),
        help="Average a loss that draws random numbers over so many draws, the same at each point, of --sample-seed.",
    ),
    click.option(
        "--l2",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Add half of this times the sum of squares of what learns to the loss, as weight decay does.",
    ),
)

#: `--tolerance`, of functions that are told apart.
tolerance_option = click.option(
    "--tolerance",
    type=float,
    help="Largest difference of answers that are numbers, as a share of their standard deviation over all members and "
    "samples, up to which two members are the same function. [default: 0.001]",
)

#: `--threshold` and `--tolerance`: when two members are the same.
same_options = together(
    click.option(
        "--threshold",
        type=float,
        help="Two members are the same if they are at most so far apart. [default: "
        + ", ".join(f"{level.threshold:g} of {name}" for name, level in LEVELS.items())
        + "]",
    ),
    tolerance_option,
)

#: Of `--by`, what is compared.
BY = click.Choice(list(LEVELS))

#: `-O`.
problem_fields = click.option(
    "-O", "options", multiple=True, metavar="KEY=VALUE", help="Option of that problem, such as -O m_factor=4."
)

#: `--problem` and `-O`, for checkpoints that do not name their problem.
problem_choice = together(
    click.option("--problem", help="Problem of the checkpoints, if they do not say: life, or pkg.module:NAME."),
    problem_fields,
)


key_option = click.option(
    "--key", metavar="KEY", help="What to read in checkpoint files that hold more: FILE is FILE::KEY, dots go deeper."
)


def batchnorm_option(text: str) -> Callable[[Command], Command]:
    """`--batchnorm`, with what it says."""
    kinds = click.Choice(["recalibrate", "interpolate", "keep"])
    return click.option("--batchnorm", type=kinds, help=f"{text} [default: recalibrate]")


def keyed(key: str | None, *places: str | None) -> list[str | None]:
    """Places with the `--key` behind those that are checkpoint files, or folders of them, and have none yet."""
    from landscape.problems.places import is_landmark

    def chosen(place: str | None) -> str | None:
        if place is None or "::" in place or is_landmark(place):
            return place
        run = Path(re.split("#|/@", place)[0]) / "run.json"
        return place if is_there(run) else f"{place}::{key}"

    found = list(places) if key is None else [chosen(place) for place in places]
    if key is not None and found == list(places):
        raise click.UsageError("--key goes with checkpoint files: landmarks and runs have no keys")
    return found


def evaluating(text: str) -> Callable[[Command], Command]:
    """What `walk` and its kind share: the problem, how its loss is computed, where the result goes, whose help is
    `text`, and the file of options. `asked` makes arguments of the library of them.
    """
    return together(
        problem_choice,
        key_option,
        batchnorm_option(
            "What BatchNorm normalises by at a point: statistics estimated there anew on training data, those of the "
            "ends interpolated, or those of the first place everywhere."
        ),
        engine_option("auto is plain but for small networks, which are faster stacked.", fused="one step of Life"),
        click.option(
            "--autocast",
            type=click.Choice(["bfloat16", "float16"]),
            help="Run the network, but not the loss, in this precision where PyTorch deems it safe.",
        ),
        sampling,
        changes,
        computing,
        output(text),
        yes_option,
        config_file,
    )


def asked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a verb's options as keyword arguments of `landscape.walk` and its kind, as far as they differ."""
    import torch

    rest = dict(values)
    problem = chosen_problem(rest.pop("problem"), rest.pop("options"))
    types = {key: rest[key] and getattr(torch, rest[key]) for key in ("dtype", "autocast")}
    renamed = {"problem": problem, "seed": rest.pop("sample_seed"), "overwrite": rest.pop("force")}
    return rest | types | renamed


def chosen_problem(name: str | None, options: Sequence[str]) -> Any:
    """The problem that `--problem` and `-O` describe; None without `--problem`."""
    from landscape.problems.registry import made

    if name is None:
        if options:
            raise click.UsageError("-O goes with --problem")
        return None
    found = _named(name)
    return made(name, found, chosen_fields(found, options))


def _named(name: str) -> Any:
    """What `--problem` names; in a file of options it names code that was named on a command line before."""
    from landscape.problems.registry import find, trusted

    if click.get_current_context().get_parameter_source("problem") is not ParameterSource.DEFAULT_MAP:
        return find(name)
    return trusted(name, None, wanted_by="the file given with `config`")


def chosen_fields(found: Any, options: Sequence[str]) -> dict[str, Any]:
    """The fields of a problem that `-O` gives, converted as its own options would be."""
    parsers = {option.name: option for option in field_options(found)} if isinstance(found, type) else {}
    config: dict[str, Any] = {}
    for item in options:
        key, equals, value = item.partition("=")
        key = key.replace("-", "_")
        if not equals:
            raise click.UsageError(f"-O {item}: write KEY=VALUE")
        if not isinstance(found, type) and key not in found.config():
            raise click.UsageError(f"-O {item}: the problem is a ready one, which has no options: leave it out")
        config[key] = parsers[key].type.convert(value, parsers[key], None) if key in parsers else value
    return config


def output(text: str) -> Callable[[Command], Command]:
    """`-o` and `--force`."""
    return together(
        click.option("-o", "--output", type=click.Path(path_type=Path), help=text),
        click.option("--force", is_flag=True, help="Replace what is there."),
    )


#: `--yes`, of verbs that work long.
yes_option = click.option(
    "--yes",
    is_flag=True,
    help="Go on where memory or disk seem not to be there for it, or time: more than a year.",
)

json_flag = click.option("--json", "print_json", is_flag=True, help="Print the whole result as JSON.")


def reporting(text: str = "JSON file for the whole result.") -> Callable[[Command], Command]:
    """`-o`, `--force` and `--json`, which make a `Report`."""
    return together(output(text), json_flag)


@dataclasses.dataclass(frozen=True)
class Report:
    """Where a result goes: a summary to stdout, or with `print_json` all of it, and all of it to a file too.

    Make it before any work: it raises `LandscapeError` if a file is in the way.
    """

    output: Path | None
    force: bool
    print_json: bool

    def __post_init__(self) -> None:
        if self.output is not None:
            refuse_existing(self.output, force=self.force, argument="output")

    @property
    def whole(self) -> bool:
        """Whether more than the summary is asked for."""
        return self.print_json or self.output is not None

    def show(self, text: Sequence[str], document: Mapping[str, Any]) -> None:
        """Print the summary or the document, and keep the document if a path is given."""
        if self.output is not None:
            write_json(self.output, document)
        say(json_text(document) if self.print_json else "\n".join(text))


#: RUN and what says its problem, for `members_of`.
of_run = together(click.argument("run", metavar="RUN"), problem_choice)


def members_of(
    run: str, problem: str | None, options: Sequence[str], *, dtype: str | None = None, finite: bool = True
) -> tuple[Any, Any]:
    """The problem of RUN and its members, in this precision or their own; they must be `finite`, or need not."""
    import torch

    from landscape.problems.places import run_members

    remark_unfinished(run)
    chosen, stack = run_members(run, chosen_problem(problem, options), finite=finite)
    return chosen, stack if dtype is None else stack.to(getattr(torch, dtype))


def finished_cells(path: Path, problem: str | None, test: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Success of the finished cells of a sweep, tested so, and all its cells; a remark says how many are not finished.

    Raises `LandscapeError` if none is.
    """
    from landscape.analysis.success import of_sweep
    from landscape.training.sweep import Sweep

    sweep = Sweep.open(path, problem=problem)
    rows, cells = of_sweep(sweep, **test), sweep.cells()
    if not rows:
        raise LandscapeError(f"{path} has no finished cell yet: repeat the command that began it")
    if len(rows) < len(cells):
        remark(f"{len(cells) - len(rows)} of {len(cells)} cells are not finished and left out")
    return rows, cells


class ProblemGroup(Group):
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
        """The problems that ship with the package."""
        from landscape.problems.registry import BUILT_IN

        return list(BUILT_IN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The verb for a problem, or for a path."""
        from landscape.problems.registry import BUILT_IN, create, find

        is_place = Path(cmd_name).exists() or ("/" in cmd_name and ".py:" not in cmd_name)
        if self.place is not None and cmd_name not in BUILT_IN and is_place:
            return self.place(cmd_name)
        found = find(cmd_name)
        own = field_options(found) if isinstance(found, type) else []

        def call(**values: Any) -> Any:
            config: Mapping[str, Any] = {option.name: values.pop(option.name) for option in own if option.name}
            assert self.verb.callback is not None
            return self.verb.callback((self.make or create)(cmd_name, config), **values)

        summary = (found.__doc__ or "").strip()
        return click.Command(
            cmd_name, params=[*own, *self.verb.params], callback=call, help=summary, epilog=self.verb.epilog
        )
