"""`landscape plot`: figures as PNG and SVG."""

from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from landscape import figures
from landscape.analysis.barriers import DEFINITIONS, barriers, lowest_order
from landscape.cli.options import chosen_problem, output, problem_choice
from landscape.cli.report import remark
from landscape.core.errors import LandscapeError, plural
from landscape.core.files import refuse_existing
from landscape.store.results import Result

__all__ = ["command"]

_definition = click.option(
    "--definition", type=click.Choice(list(DEFINITIONS)), default="above_chord", help="Which barrier to draw."
)


@click.group("plot")
def command() -> None:
    """Draw walks, planes, barriers, outcomes, clusters, success, rules, as PNG and SVG; prints the files' paths."""


@command.command("walk")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--x", type=click.Choice(["l2", "l1", "alpha"]), default="l2", help="Distance from the start, or alpha.")
@_definition
@click.option(
    "--small-multiples", is_flag=True, help="Of a walk per layer or module: a panel for each that moves alone."
)
@click.option("--caption", help="Text below the figure. [default: composed from the files]")
@output("PNG or SVG file. [default: plots/FILE.png, plots/FILE-parts.png]")
def _walk(
    files: tuple[Path, ...], x: Any, definition: str, small_multiples: bool, caption: str | None, **where: Any
) -> None:
    """Loss along the lines of each FILE (one panel each), with the barriers beside."""
    if small_multiples and len(files) > 1:
        raise click.UsageError("--small-multiples draws one FILE")
    curves = [Result.read(file, plane=False) for file in files]
    if small_multiples:
        figure = figures.part_figure(curves[0], definition=definition, caption=caption)
        _save(figure, f"{files[0].stem}-parts", **where)
        return
    _save(figures.walk_figure(curves, x=x, definition=definition, caption=caption), files[0].stem, **where)


@command.command("plane")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--surface", "solid", is_flag=True, help="The loss as a height, in three dimensions.")
@click.option("--caption", help="Text below the figure. [default: composed from the file]")
@output("PNG or SVG file. [default: plots/FILE.png or plots/FILE-surface.png]")
def _plane(file: Path, solid: bool, caption: str | None, **where: Any) -> None:
    """Contours of the loss on the plane of FILE, with the networks marked on it."""
    draw, name = (figures.surface_figure, f"{file.stem}-surface") if solid else (figures.plane_figure, file.stem)
    _save(draw(Result.read(file, plane=True), caption=caption), name, **where)


@command.command("barriers")
@click.argument("file", type=click.Path(path_type=Path))
@_definition
@output("PNG or SVG file. [default: plots/FILE-barriers.png]")
def _barriers(file: Path, definition: str, **where: Any) -> None:
    """Distribution of the barriers along the lines of FILE."""
    curves = Result.read(file, plane=False)
    kept = curves.select(lowest_order(curves))
    title, lines = curves.about.get("title", file.stem), plural(len(kept), "line")
    caption = f"{title}, {lines}. Barrier: {DEFINITIONS[definition]}."
    unit = curves.about.get("loss_unit")
    found = barriers(kept)
    figure = figures.page(
        lambda ax: figures.barrier_distribution(ax, found, definition=definition, unit=unit),
        caption=caption,
        size=(4, 3.6),
    )
    _save(figure, f"{file.stem}-barriers", **where)


@command.command("outcomes")
@click.argument("run", metavar="RUN")
@problem_choice
@output("PNG or SVG file. [default: plots/RUN-outcomes.png]")
def _outcomes(run: str, problem: str | None, options: tuple[str, ...], **where: Any) -> None:
    """How many members of RUN ended at which truth table."""
    from landscape.analysis.outcomes import outcomes
    from landscape.problems.places import run_members

    chosen, stack = run_members(run, chosen_problem(problem, options))
    found = outcomes(chosen, stack)
    caption = f"{chosen.title()}, {len(stack)} seeds; solved: {found.solved}. A bar is a truth table."
    _save(figures.page(lambda ax: figures.outcomes(ax, found), caption=caption), f"{Path(run).name}-outcomes", **where)


@command.command("clusters")
@click.argument("run", metavar="RUN")
@click.option("--cut", type=float, help="Distance of the cut. [default: as many clusters as truth tables]")
@problem_choice
@output("PNG or SVG file. [default: plots/RUN-clusters.png]")
def _clusters(run: str, cut: float | None, problem: str | None, options: tuple[str, ...], **where: Any) -> None:
    """Dendrogram of the members of RUN, with their truth tables below."""
    from landscape.analysis.clusters import clusters
    from landscape.analysis.outcomes import outcomes
    from landscape.problems.places import run_members

    chosen, stack = run_members(run, chosen_problem(problem, options))
    found, groups = clusters(chosen, stack, cut=cut), outcomes(chosen, stack).groups
    names = [f"{group.kind}, {group.right} right" for group in groups]
    solved = next((number for number, group in enumerate(groups) if group.kind == "solved"), None)
    caption = (
        f"{chosen.title()}, {len(stack)} seeds. Average linkage of L2 distances up to the order of filters; agreement "
        f"of clusters and truth tables (adjusted Rand index): {found.agreement:.2f}."
    )
    figure = figures.page(
        lambda ax: figures.dendrogram(ax, found, names=names, solved=solved), caption=caption, size=(7.2, 4.2)
    )
    _save(figure, f"{Path(run).name}-clusters", **where)


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
@click.option("--boards", type=click.IntRange(min=1), default=1000, help="Random test boards, the same for all.")
@output("PNG or SVG file. [default: plots/SWEEP-RATE.png]")
def _success(
    place: Path, x: str | None, by: str | None, panels: str | None, rate: Any, boards: int, **where: Any
) -> None:
    """Success of the finished cells of SWEEP over what it varied, with intervals and the score of dead boards."""
    from landscape.analysis.success import DEFINITIONS, of_sweep
    from landscape.figures.success import BANDS, NAMES, RATES, is_number, success_series, text_of
    from landscape.training.sweep import Sweep

    sweep = Sweep.open(place)
    rows = of_sweep(sweep, samples=boards)
    cells = sweep.cells()
    if not rows:
        raise LandscapeError(f"{place} has no finished cell yet: repeat the command that began it")
    missing = f" {len(cells) - len(rows)} of {len(cells)} cells are not finished." if len(rows) < len(cells) else ""
    if missing:
        remark(missing.strip())
    varied = list(rows[0].values)
    for key in (x, by, panels):
        if key is not None and key not in varied:
            raise LandscapeError(f"{place} does not vary '{key}': it varies {', '.join(varied)}")
        if key is not None and (x, by, panels).count(key) > 1:
            raise LandscapeError(f"{key} is asked for twice: --x, --by and --panels take different options")
    left = [key for key in varied if key not in (x, by, panels)]
    if x is None and not left:
        raise LandscapeError(f"{place} varies nothing but {', '.join(varied)}: leave one for --x")
    x = x or left.pop()
    by = by or (left.pop() if left else None)
    panels = panels or (left.pop() if left else None)
    if left:
        raise LandscapeError(f"{place} varies {', '.join(left)} too: a figure shows three options, sweep fewer")
    places = list(dict.fromkeys(row.values[x] for row in rows))
    drawn = []
    for value in dict.fromkeys(row.values[panels] if panels else None for row in rows):
        own = [row for row in rows if panels is None or row.values[panels] == value]
        title = f"{NAMES.get(panels, panels)} = {text_of(value)}" if panels else ""
        drawn.append((title, success_series(own, x=x, by=by, rate=rate, places=places)))
    caption = (
        f"{place}, its first cell: {cells[0].problem.title()}. {len(rows[0].success.solved)} members a cell.{missing} "
        f"Drawn: {DEFINITIONS[_DEFINED[rate]]}. {boards} test boards. {BANDS[rate]}"
    )
    numbers = all(map(is_number, places))
    figure = figures.series_figure(
        drawn,
        xlabel=NAMES.get(x, x),
        ylabel=RATES[rate],
        xscale="linear" if numbers else "category",
        categories=() if numbers else [text_of(each) for each in places],
        caption=caption,
        baseline="all dead",
    )
    _save(figure, f"{place.name}-{rate}", **where)


#: Which definition a rate has.
_DEFINED = {"solved": "solved", "exact": "exact", "samples": "sample_rate", "cells": "cell_rate"}


@command.command("rule")
@click.argument("rule")
@output("PNG or SVG file. [default: plots/rule-RULE.png]")
def _rule(rule: str, **where: Any) -> None:
    """Patterns whose centre is live in the next generation, and such whose centre is dead."""
    from landscape.problems.life.patterns import PATTERNS, answers
    from landscape.problems.life.rules import Rule

    parsed = Rule.parse(rule)
    live = answers(parsed)
    caption = (
        f"{parsed}: {live.sum()} of the 512 patterns have a live centre in the next generation; one example for each "
        f"state of the centre and number of live neighbours ({parsed.neighbourhood} neighbourhood, hatched cells do "
        "not count)."
    )
    figure = figures.page(
        lambda ax: figures.rule_examples(ax, PATTERNS, live, parsed.kernel), caption=caption, size=(7.2, 2.4)
    )
    _save(figure, f"rule-{parsed}".replace("/", ""), **where)


def _save(figure: Figure, name: str, *, output: Path | None, force: bool) -> None:
    path = output or Path("plots") / f"{name}.png"
    for suffix in (".png", ".svg"):
        refuse_existing(path.with_suffix(suffix), force=force)
    for written in figures.save(figure, path):
        click.echo(written)
