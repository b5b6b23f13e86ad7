"""`landscape plot`: figures as PNG, PDF and SVG."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from click.core import ParameterSource
from matplotlib.figure import Figure

from landscape import figures
from landscape.analysis.barriers import DEFINITIONS, barriers, lowest_order, representatives
from landscape.analysis.levels import By
from landscape.cli.flags import Group
from landscape.cli.mechanism import conditions, progress
from landscape.cli.options import (
    BY,
    chosen_problem,
    finished_cells,
    members_of,
    of_run,
    output,
    problem_choice,
    same_options,
    samples_option,
)
from landscape.cli.terminal import Progress, remark_unfinished, say
from landscape.cli.types import Command, options_of, taken, together
from landscape.core.errors import LandscapeError, plural
from landscape.core.fields import option
from landscape.core.files import is_there, refuse_existing
from landscape.core.locks import lock_of, writing
from landscape.figures.captions import courses_caption, unfinished_caption, zeros_caption
from landscape.figures.walks import noticeable
from landscape.store.kinds import document_of, is_document
from landscape.store.results import Result

__all__ = ["Look", "command"]


def drawing(name: str, kinds: str = "PNG, PDF or SVG file") -> Callable[[Command], Command]:
    """`-o`, `--force`, and how it is drawn, which make a `Canvas`."""
    return together(output(f"{kinds}. [default: {name}]"), options_of(Canvas, "format", "style", "columns"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How a figure is drawn."""

    style: Literal["screen", "paper"] = option(
        "screen", "For a screen, with a caption; or for a paper, as wide as its columns and with its letters."
    )
    columns: Literal["1", "2"] | None = option(
        None, "With --style paper: columns that the figure is wide, 3.5 or 7.2 inches. [default: 2]"
    )

    def __post_init__(self) -> None:
        if self.columns is not None and self.style != "paper":
            raise click.UsageError("--columns goes with --style paper")
        if self.style == "paper" and click.get_current_context().params.get("caption") is not None:
            raise click.UsageError("a paper has captions of its own: leave --caption or --style paper out")

    @property
    def look(self) -> figures.Style:
        """The style that is meant."""
        return figures.SCREEN if self.style == "screen" else figures.paper(int(self.columns or 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Canvas(Look):
    """Where a figure goes: to a file of its own name unless another is asked for.

    Make it before any work: it raises `LandscapeError` if the file that is asked for is in the way.
    """

    output: Path | None
    force: bool
    format: tuple[figures.Format, ...] = option((), "Write this; several may be named. [default: png and svg]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and not is_there(lock_of(self.output)):
            self._require_free(self.output)

    def save(self, figure: Figure, name: str) -> None:
        """Write the figure, and print its files."""
        path = self.output or Path("plots") / f"{name}.{(*self.format, 'png')[0]}"
        with writing(path) as died:
            if not died:  # and else what is there was begun, and is replaced
                self._require_free(path)
            written = figures.save(figure, path, formats=self.format, style=self.look)
        for each in written:
            say(each)

    def _require_free(self, path: Path) -> None:
        for target in figures.targets(path, self.format):
            refuse_existing(target, force=self.force, argument="output")


_definition = click.option(
    "--definition", type=click.Choice(list(DEFINITIONS)), default="above_chord", help="Which barrier to draw."
)


@click.group("plot", cls=Group)
def command() -> None:
    """Draw walks, planes, densities, barriers, passes, outcomes, incidence, clusters, mechanism, success, rules."""


@command.command("walk")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--x", type=click.Choice(["l2", "l1", "alpha"]), default="l2", help="Distance from the start, or alpha.")
@_definition
@click.option(
    "--ends",
    type=click.Choice(["both", "stored", "aligned"]),
    default="both",
    help="Of a walk with --align: lines to ends as they are, to their representatives close to the start, or both.",
)
@click.option(
    "--small-multiples", is_flag=True, help="Of a walk per layer or module: a panel for each that moves alone."
)
@click.option(
    "--draw",
    type=click.Choice(["auto", "lines", "bands"]),
    default="auto",
    help="Each line by itself, or median and middle 50 and 90 % over alpha; auto: bands of more than 100 lines.",
)
@click.option("--caption", help="Text below the figure. [default: composed from the files]")
@drawing("plots/FILE.png, plots/FILE-parts.png")
def _walk(
    files: tuple[Path, ...],
    x: Any,
    definition: str,
    ends: str,
    small_multiples: bool,
    draw: figures.Draw,
    caption: str | None,
    **where: Any,
) -> None:
    """Loss along the lines of each FILE (one panel each), with the barriers beside."""
    canvas = Canvas(**where)
    if small_multiples and len(files) > 1:
        raise click.UsageError("--small-multiples draws one FILE")
    curves = [_ending(Result.read(file, plane=False), ends, file) for file in files]
    if small_multiples:
        figure = figures.part_figure(curves[0], definition=definition, caption=caption, draw=draw, style=canvas.look)
        canvas.save(figure, f"{files[0].stem}-parts")
        return
    figure = figures.walk_figure(curves, x=x, definition=definition, caption=caption, draw=draw, style=canvas.look)
    canvas.save(figure, files[0].stem)


def _ending(curves: Result, ends: str, file: Path) -> Result:
    """The lines to ends of one kind, or all."""
    if ends == "both":
        return curves
    kinds = representatives(curves)
    if ends not in kinds:
        raise LandscapeError(f"{file} was walked without --align, all its ends are as they are: leave --ends out")
    columns = {name: column for name, column in kinds[ends].columns.items() if name != "aligned"}
    return dataclasses.replace(kinds[ends], columns=columns, about={**curves.about, "ends": ends})


@command.command("plane")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--surface", is_flag=True, help="The loss as a height, in three dimensions.")
@click.option(
    "--interactive",
    is_flag=True,
    help="As a height that turns under the pointer, in an HTML page of 5 MB that needs no network (extra interactive).",
)
@click.option("--caption", help="Text below the figure. [default: composed from the file]")
@drawing("plots/FILE.png, plots/FILE-surface.png or plots/FILE.html", kinds="PNG, PDF or SVG file, or an HTML page")
def _plane(file: Path, surface: bool, interactive: bool, caption: str | None, **where: Any) -> None:
    """Contours of the loss on the plane of FILE, with the networks marked on it."""
    if interactive:
        _turning(file, caption, **where)
        return
    canvas = Canvas(**where)
    draw, name = (figures.surface_figure, f"{file.stem}-surface") if surface else (figures.plane_figure, file.stem)
    canvas.save(draw(Result.read(file, plane=True), caption=caption, style=canvas.look), name)


def _turning(file: Path, caption: str | None, *, output: Path | None, force: bool, **look: Any) -> None:
    """`plot plane --interactive`."""
    context = click.get_current_context()
    for each in ("surface", "format", "style", "columns"):
        if context.get_parameter_source(each) != ParameterSource.DEFAULT:
            raise click.UsageError(f"--interactive is a page, not a figure: leave --{each} out")
    from landscape.web.report import require_free
    from landscape.web.solid import interactive

    save = output or Path("plots") / f"{file.stem}.html"
    with writing(save) as died:
        require_free(save, overwrite=force or died)
        say(interactive(Result.read(file, plane=True), save, caption=caption, overwrite=True))


@command.command("density")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--caption", help="Text below the figure. [default: composed from the file]")
@drawing("plots/FILE-density.png")
def _density(file: Path, caption: str | None, **where: Any) -> None:
    """Density of the Hessian's eigenvalues in FILE, which `analyse curvature --density -o FILE.json` wrote."""
    canvas = Canvas(**where)
    figure = figures.density_figure(document_of(file, "curvature"), caption=caption, style=canvas.look)
    canvas.save(figure, f"{file.stem}-density")


@command.command("barriers")
@click.argument("file", type=click.Path(path_type=Path))
@_definition
@click.option(
    "--ends",
    type=click.Choice(["stored", "aligned"]),
    help="Of a walk with --align: lines to ends as they are, or to their representatives. [default: aligned]",
)
@drawing("plots/FILE-barriers.png")
def _barriers(file: Path, definition: str, ends: str | None, **where: Any) -> None:
    """Distribution of the barriers along the lines of FILE."""
    canvas = Canvas(**where)
    kinds = representatives(Result.read(file, plane=False))
    if ends is not None and ends not in kinds:
        raise click.UsageError(f"--ends {ends} is for a walk with --align: {file} has one kind of line")
    ends = ends or next(reversed(kinds))
    curves = kinds[ends]
    kept = curves.select(lowest_order(curves))
    title, lines = curves.about.get("title", file.stem), plural(len(kept), f"{ends} line".strip())
    found, unit = barriers(kept), curves.about.get("loss_unit")
    caption = f"{title}, {lines}. Barrier: {DEFINITIONS[definition].formula}; bar: the median, with its 95 % interval "
    caption += "where lines are independent and at least 6." + courses_caption([{"": found}], definition)
    caption += zeros_caption([noticeable(found, definition)]) + unfinished_caption([curves.unfinished])
    figure = figures.page(
        lambda ax: figures.barrier_distribution(ax, found, definition=definition, unit=unit),
        caption=caption,
        size=(4, 3.6),
        style=canvas.look,
    )
    canvas.save(figure, f"{file.stem}-barriers")


@command.command("passes")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--caption", help="Text below the figure. [default: composed from the files]")
@drawing("plots/FILE-passes.png")
def _passes(files: tuple[Path, ...], caption: str | None, **where: Any) -> None:
    """Disconnectivity graph of the members in FILE: from known paths, and beside it from straight lines."""
    from landscape.analysis.passes import passes

    canvas = Canvas(**where)
    found = passes(*(Result.read(file, plane=False) for file in files))
    canvas.save(figures.passes_figure(found, caption=caption, style=canvas.look), f"{files[0].stem}-passes")


@command.command("outcomes")
@of_run
@drawing("plots/RUN-outcomes.png")
def _outcomes(**given: Any) -> None:
    """How many members of RUN ended at which function: truth table, or predictions on all samples."""
    from landscape.analysis.outcomes import outcomes

    canvas = taken(Canvas, given)
    problem, stack = members_of(**given)
    found = outcomes(problem, stack)
    seeds = f"{problem.title()}, {len(stack)} seeds"
    solved = "" if found.right is None else f"; solved: {found.solved}"
    caption = f"{seeds}{solved}. A bar is a function: {found.compared}."
    figure = figures.page(
        lambda ax: figures.outcomes(ax, found, samples=problem.nouns.all), caption=caption, style=canvas.look
    )
    canvas.save(figure, f"{Path(given['run']).name}-outcomes")


@command.command("groups")
@of_run
@click.option("--most", type=click.IntRange(1, 20), default=6, help="Functions that are shown, the largest first.")
@drawing("plots/RUN-groups.png")
def _groups(most: int, **given: Any) -> None:
    """A card for each function of RUN: how many members, their loss, filters of the first layer, what is wrong.

    For problems whose samples are all there are and have names of their cases, as those of the Game of Life have with
    one step.
    """
    from landscape.analysis.cards import cards

    canvas = taken(Canvas, given)
    problem, stack = members_of(**given)
    if problem.strata() is None or stack[next(iter(stack.tensors))].ndim != 5:
        raise LandscapeError(f"{problem.title()} has no named cases of samples: cards are drawn of one step of Life")
    drawn = cards(problem, stack, most=most)
    assert drawn.kernels is not None
    caption = (
        f"{problem.title()}, {plural(len(stack), 'seed')}, {drawn.found.solved} solved. Filters of one member each, of "
        "the representative that lies closest to the known solution. Cases: state of the centre, live neighbours."
    )
    figure = figures.group_cards(
        drawn.found, drawn.kernels, drawn.cases, known=drawn.known, most=most, caption=caption, style=canvas.look
    )
    canvas.save(figure, f"{Path(given['run']).name}-groups")


@command.command("incidence")
@of_run
@drawing("plots/RUN-incidence.png")
def _incidence(**given: Any) -> None:
    """Which share of the members of RUN is solved at, and by, how many steps of training."""
    from landscape.analysis.incidence import incidence
    from landscape.store.checkpoints import Run

    canvas = taken(Canvas, given)
    found = incidence(Run.open(given["run"]), chosen_problem(given["problem"], given["options"]))
    figure = figures.page(lambda ax: figures.incidence(ax, found), caption=found.caption(), style=canvas.look)
    canvas.save(figure, f"{Path(given['run']).name}-incidence")


@command.command("clusters")
@of_run
@click.option("--by", type=BY, default="outputs", help="What is compared.")
@same_options
@drawing("plots/RUN-clusters.png")
def _clusters(by: By, threshold: float | None, tolerance: float | None, **given: Any) -> None:
    """Which members of RUN are the same? Tree of the members, and the number of groups against the threshold."""
    from landscape.analysis.clusters import clusters_of
    from landscape.analysis.outcomes import outcomes

    canvas = taken(Canvas, given)
    problem, stack = members_of(**given)
    progress = Progress("walk", "points")
    found = clusters_of(problem, stack, by=by, threshold=threshold, tolerance=tolerance, progress=progress)
    groups = outcomes(problem, stack, tolerance=tolerance).groups if found.predictions is not None else ()
    names = [group.kind if group.right is None else f"{group.kind}, {group.right} right" for group in groups]
    solved = next((number for number, group in enumerate(groups) if group.kind == "solved"), None)
    figure = figures.clusters_figure(
        found, names=names, solved=solved, caption=found.caption(problem.title()), style=canvas.look
    )
    canvas.save(figure, f"{Path(given['run']).name}-clusters")


#: Kinds of members that are drawn, the first of `landscape analyse mechanism`.
_PANELS = 4


@command.command("mechanism")
@click.argument("place", metavar="FILE|RUN")
@conditions
@problem_choice
@click.option("--caption", help="Text below the figure. [default: composed of what was found]")
@drawing("plots/FILE-mechanism.png, plots/RUN-mechanism.png")
def _mechanism(place: str, problem: str | None, options: tuple[str, ...], caption: str | None, **given: Any) -> None:
    """Heights between each two members, sorted by the signature that tells best which are connected.

    Of FILE, which `landscape analyse mechanism -o FILE.json` wrote; or of RUN, which takes as long as that does.
    """
    canvas = taken(Canvas, given)
    if is_document(Path(place)):
        context = click.get_current_context()
        default, params = ParameterSource.DEFAULT, context.command.params
        for name in (*given, "problem", "options"):
            if context.get_parameter_source(name) != default:
                flag = next(each.opts[0] for each in params if each.name == name)
                raise click.UsageError(f"{place} says how it was found: leave {flag} out")
        found = document_of(Path(place), "mechanism")
    else:
        from landscape.analysis.mechanism import mechanism

        remark_unfinished(place)
        chosen = chosen_problem(problem, options)
        found = mechanism(place, problem=chosen, progress=progress, **given).document()
    shown = found["populations"][:_PANELS]
    if not all("heights" in each for each in shown):
        raise LandscapeError(f"{place} holds no heights, it is of an older version: analyse the run again")
    tables = [
        figures.BarrierTable(np.array(each["heights"], dtype=float), np.array(each["signature"]), each["best"])
        for each in shown
    ]
    if caption is None:
        more = len(found["populations"]) - len(shown)
        rest = f" ({plural(more, 'more kind')} of members not drawn)" if more else ""
        caption = (
            f"{found['title']}, {plural(found['members'], 'member')}, of which up to "
            f"{max(len(table.signature) for table in tables)} with odd seeds are shown a panel{rest}. Upper bounds of "
            "the height above the higher end at every point of the straight lines between balanced representatives, in "
            "the better order of filters. Framed: the same signature, the one that told connected pairs best on even "
            "seeds."
        )
    panels = [(each["name"], table) for each, table in zip(shown, tables, strict=True)]
    figure = figures.mechanism_figure(panels, caption=caption, style=canvas.look)
    canvas.save(figure, f"{Path(place).stem}-mechanism")


@command.command("success")
@click.argument("place", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--x", help="Option along the axis. [default: the last that the sweep varies]")
@click.option("--by", help="Option with a curve for each value. [default: the one before, if there is one]")
@click.option("--panels", help="Option with a panel for each value. [default: the one before that, if there is one]")
@click.option(
    "--rate",
    type=click.Choice(["solved", "exact", "samples", "cells"]),
    default="solved",
    help="Networks right on all test boards, or on all patterns; share of test boards entirely right, or of cells.",
)
@samples_option("Random test boards, the same for all.", default=1000)
@click.option("--problem", help="Problem of the sweep, if its code is not known yet, or lies elsewhere now.")
@drawing("plots/SWEEP-RATE.png")
def _success(
    place: Path,
    x: str | None,
    by: str | None,
    panels: str | None,
    rate: Any,
    samples: int,
    problem: str | None,
    **where: Any,
) -> None:
    """Success of the finished cells of SWEEP over what it varied, with intervals and the score of dead boards."""
    from landscape.analysis.success import definitions
    from landscape.figures.success import BANDS, NAMES, is_number, rate_labels, success_series, text_of

    canvas = Canvas(**where)
    rows, cells = finished_cells(place, problem, {"samples": samples})
    missing = f" {len(cells) - len(rows)} of {len(cells)} cells are not finished." if len(rows) < len(cells) else ""
    swept = cells[0].problem
    everything = swept.objective() if rate == "exact" else None
    ylabel = rate_labels(swept.nouns, everything.samples if everything else None)[rate]
    x, by, panels = _axes(place, list(rows[0].values), x, by, panels)
    places = list(dict.fromkeys(row.values[x] for row in rows))
    label = None if by else lambda _: ylabel.removesuffix(" (%)")
    drawn = []
    for value in dict.fromkeys(row.values[panels] if panels else None for row in rows):
        own = [row for row in rows if panels is None or row.values[panels] == value]
        title = f"{NAMES.get(panels, panels)} = {text_of(value)}" if panels else ""
        drawn.append((title, success_series(own, x=x, by=by, rate=rate, places=places, label=label)))
    caption = (
        f"{place}, its first cell: {swept.title()}. {len(rows[0].success.solved)} members a cell.{missing} "
        f"Drawn: {definitions(swept.nouns)[_DEFINED[rate]]}. {samples} test {swept.nouns.drawn}. {BANDS[rate]}"
    )
    numbers = all(map(is_number, places))
    figure = figures.series_figure(
        drawn,
        xlabel=NAMES.get(x, x),
        ylabel=ylabel,
        xscale="linear" if numbers else "category",
        categories=() if numbers else [text_of(each) for each in places],
        caption=caption,
        baseline=next(iter(rows[0].success.baselines), ""),
        style=canvas.look,
    )
    canvas.save(figure, f"{place.name}-{rate}")


def _axes(
    place: Path, varied: Sequence[str], x: str | None, by: str | None, panels: str | None
) -> tuple[str, str | None, str | None]:
    """What goes along the axis, has curves, has panels: as asked, the rest from the last that the sweep varies on."""
    asked = (x, by, panels)
    for key in filter(None, asked):
        if key not in varied:
            raise LandscapeError(f"{place} does not vary '{key}': it varies {', '.join(varied)}")
        if asked.count(key) > 1:
            raise LandscapeError(f"{key} is asked for twice: --x, --by and --panels take different options")
    left = [key for key in varied if key not in asked]
    if x is None and not left:
        raise LandscapeError(f"{place} varies nothing but {', '.join(varied)}: leave one for --x")
    x = x or left.pop()
    by, panels = (each or (left.pop() if left else None) for each in (by, panels))
    if left:
        raise LandscapeError(f"{place} varies {', '.join(left)} too: a figure shows three options, sweep fewer")
    return x, by, panels


#: Which definition a rate has.
_DEFINED = {"solved": "solved", "exact": "exact", "samples": "sample_rate", "cells": "cell_rate"}


@command.command("rule")
@click.argument("rule")
@drawing("plots/rule-RULE.png")
def _rule(rule: str, **where: Any) -> None:
    """Patterns of the Game of Life whose centre is live in the next generation, and such whose centre is dead."""
    from landscape.problems.life.patterns import PATTERNS, answers
    from landscape.problems.life.rules import Rule

    canvas = Canvas(**where)
    canvas.look.require_wide("patterns of a rule")
    parsed = Rule.parse(rule)
    live = answers(parsed)
    caption = (
        f"{parsed}: {live.sum()} of the 512 patterns have a live centre in the next generation; one example for each "
        f"state of the centre and number of live neighbours ({parsed.neighbourhood} neighbourhood, hatched cells do "
        "not count)."
    )
    figure = figures.page(
        lambda ax: figures.rule_examples(ax, PATTERNS, live, parsed.kernel),
        caption=caption,
        size=(7.2, 2.4),
        style=canvas.look,
    )
    canvas.save(figure, f"rule-{parsed}".replace("/", ""))
