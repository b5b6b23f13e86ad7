"""`landscape analyse`: barriers of a walk, outcomes and clusters of a run, success of a run or a sweep."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.analysis.barriers import DEFINITIONS, barriers, lowest_order
from landscape.cli.curvature import curvature
from landscape.cli.options import chosen_problem, computing, device, json_flag, output, problem_choice
from landscape.cli.report import remark, remark_unfinished, table
from landscape.core.errors import LandscapeError, plural
from landscape.core.files import json_text, refuse_existing, write_json
from landscape.store.results import Result

__all__ = ["command"]


@click.group("analyse")
def command() -> None:
    """Barriers of a walk; outcomes and clusters of a run; success of a run or a sweep; curvature of places and walks.

    Prints a summary table, or everything with --json; -o keeps everything as a JSON file.
    """


command.add_command(curvature)


def _run_argument(function: Any) -> Any:
    """RUN and the options that say what it is and where to compute."""
    for decorator in (output("JSON file for the whole result."), json_flag, computing, problem_choice):
        function = decorator(function)
    return click.argument("run", metavar="RUN")(function)


@command.command("barriers")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--every-order", is_flag=True, help="Keep all lines, not only the lowest of the filter orders of an end.")
@output("JSON file for the whole result.")
@json_flag
def _barriers(file: Path, every_order: bool, output: Path | None, force: bool, print_json: bool) -> None:
    """How high, where and how wide: barriers along the lines of FILE, in three definitions."""
    curves = Result.read(file, plane=False)
    kept = curves.select(curves.done if every_order else lowest_order(curves))
    found = barriers(kept)
    parts = [{"moves": part} if "moves" in kept.columns else {} for part in kept.moves]
    document = {
        "file": str(file),
        "title": curves.about.get("title"),
        "definitions": DEFINITIONS,
        "loss_unit": curves.about.get("loss_unit"),
        "lines": [
            {"from": kept.sources[i].label, "to": kept.sources[j].label, "l1": l1, "l2": l2} | moves
            for i, j, l1, l2, moves in zip(
                kept["from_member"], kept["to_member"], kept["l1"], kept["l2"], parts, strict=True
            )
        ],
        "barriers": found,
        "summary": found.summary(),
    }
    lines = plural(len(kept), "line") + (
        "" if len(kept) == len(curves) else f", the lowest of {len(curves)} over filter orders"
    )
    points = plural(len(curves.alpha), "point") + (" each" if len(kept) > 1 else "")
    text = [f"{document['title']}: {lines}, {points}; loss in {document['loss_unit']}"]
    rows = [
        [
            name,
            s["min"],
            s["q1"],
            s["median"],
            "-" if np.isnan(s["median_interval"]).any() else "{:.4g} to {:.4g}".format(*s["median_interval"]),
            s["q3"],
            s["max"],
            s["lines"],
        ]
        for name, s in found.summary().items()
    ]
    text.append(table(["quantity", "min", "q1", "median", "95 % interval", "q3", "max", "lines"], rows))
    if "moves" in kept.columns:
        text.append(_by_part(kept))
    text += [f"{name}: {definition}" for name, definition in DEFINITIONS.items()]
    _finish(text, document, output, force, print_json)


def _by_part(curves: Result) -> str:
    """Barriers and lengths apart for what moves."""
    rows = []
    for part in dict.fromkeys(curves.moves):
        own = curves.select(curves.moves == part)
        height = barriers(own).above_chord
        rows.append([part or "everything", len(own), *(float(np.median(each)) for each in (own["l2"], height))])
        rows[-1].append(float(np.max(height)))
    return table(["moves", "lines", "median l2", "median above_chord", "highest"], rows)


@command.command("outcomes")
@_run_argument
def _outcomes(run: str, **options: Any) -> None:
    """What each member of RUN computes: truth tables, dead units, loss, and whether it sits in a minimum."""
    from landscape.analysis.outcomes import KINDS, outcomes

    problem, stack, settings = _members(run, options)
    found = outcomes(problem, stack, device=settings["device"])
    text = [f"{problem.title()}: {len(stack)} members, solved by {found.solved}"]
    shown = found.groups[:12]
    rows = [
        [g.kind, f"{g.right} of {found.total}", g.share.count, "{:.3f} to {:.3f}".format(*g.share.interval), g.loss]
        for g in shown
    ]
    text.append(table(["truth table", "right", "members", "95 % interval of share", "median loss"], rows))
    if rest := found.groups[len(shown) :]:
        text.append(f"and {len(rest)} more truth tables with {sum(g.share.count for g in rest)} members")
    bend = found.curvature
    kinds = [(kind, found.kind == number) for number, kind in enumerate(KINDS) if (found.kind == number).any()]
    rows = [
        [kind, int(of.sum()), *(float(np.median(q[of])) for q in (found.loss, found.dead, *_columns(bend)))]
        for kind, of in kinds
    ]
    if found.landmark is not None:
        rows.append(["presolve", 1, None, None, *(float(q[0]) for q in _columns(found.landmark))])
    header = ["medians of", "members", "loss", "dead units", "|gradient|"]
    text.append(table([*header, "smallest eigenvalue", "largest", "negative", "near zero"], rows))
    document = {"run": run, "title": problem.title(), "kinds": KINDS, "solved": found.solved, "outcomes": found}
    _finish(text, document, *settings["printing"])


@command.command("clusters")
@click.option("--cut", type=float, help="Distance of the cut. [default: as many clusters as truth tables]")
@_run_argument
def _clusters(run: str, cut: float | None, **options: Any) -> None:
    """Do the members of RUN fall into few places? Clusters of parameters up to the order of filters."""
    from landscape.analysis.clusters import clusters

    problem, stack, settings = _members(run, options)
    found = clusters(problem, stack, cut=cut, device=settings["device"])
    how = "over every order" if found.exhaustive else "by weight matching, an upper bound"
    text = [
        f"{problem.title()}: {len(stack)} members, L2 distances up to the order of filters ({how})",
        f"{len(found.sizes)} clusters at distance {found.cut:.4g}, {found.group.max() + 1} truth tables; "
        f"agreement (adjusted Rand index) {found.agreement:.3f}",
    ]
    rows = [
        [
            number,
            int(size),
            len(np.unique(found.group[found.label == number])),
            int(np.bincount(found.group[found.label == number]).max()),
        ]
        for number, size in enumerate(found.sizes[:12])
    ]
    text.append(table(["cluster", "members", "truth tables", "members of its commonest"], rows))
    if rest := found.sizes[len(rows) :].tolist():
        text.append(f"and {len(rest)} more clusters with {sum(rest)} members")
    document = {"run": run, "title": problem.title(), "clusters": found, "agreement": found.agreement}
    _finish(text, document, *settings["printing"])


@command.command("success")
@click.argument("place", metavar="RUN|SWEEP")
@click.option(
    "--boards",
    type=click.IntRange(min=1),
    help="Test boards, or other samples, the same for all. [default: 1000, or all that the problem keeps for tests]",
)
@click.option("--board", help="HEIGHTxWIDTH of the test boards. [default: 5x5]")
@click.option("--density", type=click.FloatRange(0, 1), help="Probability that a cell of them is live. [default: 0.5]")
@click.option("--sample-seed", type=click.IntRange(min=0), default=0, help="Seed of the test boards.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", callback=device, help="Where.")
@problem_choice
@output("JSON file for the whole result; a CSV table goes beside it.")
@json_flag
def _success(
    place: str,
    boards: int | None,
    sample_seed: int,
    device: str,
    problem: str | None,
    options: tuple[str, ...],
    output: Path | None,
    force: bool,
    print_json: bool,
    **conditions: Any,
) -> None:
    """How many members of RUN, or of each finished cell of SWEEP, get random test boards right.

    Whole boards and cells are counted apart, and what answering that all is dead would get stands beside them: with
    several steps most of a board dies out by itself. Where all there is can be enumerated, the exact answer stands too.
    """
    from landscape.analysis.success import DEFINITIONS, Row, as_csv, as_document, of_sweep, success
    from landscape.core.files import replacing
    from landscape.problems.places import run_members
    from landscape.training.sweep import Sweep

    if output is not None:
        if output.suffix == ".csv":
            raise LandscapeError(f"{output} would be both the table and the whole result: name a .json file with -o")
        for path in (output, output.with_suffix(".csv")):
            refuse_existing(path, force=force)
    settings: dict[str, Any] = {"samples": boards, "seed": sample_seed, "device": device}
    settings |= _given(conditions)
    if (Path(place) / "sweep.json").exists():
        if problem or options:
            raise LandscapeError(f"{place} says its problem itself: leave --problem and -O out")
        cells = Sweep.open(Path(place)).cells()
        rows = of_sweep(Sweep.open(Path(place)), **settings)
        tested = [cell.problem for cell in cells]
        if not rows:
            raise LandscapeError(f"{place} has no finished cell yet: repeat the command that began it")
        if len(rows) < len(cells):
            remark(f"{len(cells) - len(rows)} of {len(cells)} cells are not finished and left out")
    else:
        remark_unfinished(place)
        chosen, stack = run_members(place, chosen_problem(problem, options), finite=False)
        rows, tested = [Row({}, success(chosen, stack, **settings))], [chosen]
    for warning in dict.fromkeys(each.test_remark(**_given(conditions)) for each in tested):
        if warning:
            remark(warning)
    document = {
        "place": place,
        "title": tested[0].title() if len(tested) == 1 else None,
        "definitions": DEFINITIONS,
        "test": settings,
        "cells": as_document(rows),
    }
    _finish([_success_table(rows, tested[0].nouns[0])], document, output, force, print_json)
    if output is not None:
        with replacing(output.with_suffix(".csv")) as temporary:
            temporary.write_text(as_csv(rows))


def _given(conditions: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in conditions.items() if value is not None}


def _success_table(rows: list[Any], noun: str) -> str:
    from landscape.figures.success import is_number, text_of

    keys = list(rows[0].values)
    names = list(rows[0].success.baselines)
    text = []
    for row in rows:
        found = row.success
        share, exact = found.share, found.exact_share
        text.append(
            [
                *(row.values[key] if is_number(row.values[key]) else text_of(row.values[key]) for key in keys),
                f"{share.count} of {share.total}",
                "{:.3f} to {:.3f}".format(*share.interval),
                "-" if exact is None else f"{exact.count} of {exact.total}",
                float(found.sample_rate.mean()),
                float(found.cell_rate.mean()),
                *(rate for name in names for rate in found.baselines[name]),
            ]
        )
    kinds = (noun, "cells" if noun == "boards" else "outputs")
    rates = [f"{name}: {kind}" for name in names for kind in kinds]
    return table([*keys, "solved", "95 % interval", "exact", *(f"{kind} right" for kind in kinds), *rates], text)


def _members(run: str, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Problem and stack of a run, and what the options say of device and printing."""
    import torch

    from landscape.problems.places import run_members

    remark_unfinished(run)
    problem, stack = run_members(run, chosen_problem(options["problem"], options["options"]))
    printing = (options["output"], options["force"], options["print_json"])
    return problem, stack.to(getattr(torch, options["dtype"])), {"device": options["device"], "printing": printing}


def _columns(bend: Any) -> tuple[np.ndarray, ...]:
    return bend.gradient_norm, bend.smallest, bend.largest, bend.negative, bend.near_zero


def _finish(text: list[str], document: dict[str, Any], path: Path | None, force: bool, print_json: bool) -> None:
    """Print the summary or the document, and keep the document if a path is given."""
    if path is not None:
        refuse_existing(path, force=force)
        write_json(path, document)
    click.echo(json_text(document) if print_json else "\n".join(text))
