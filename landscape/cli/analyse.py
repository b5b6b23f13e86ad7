"""`landscape analyse`: barriers of a walk, outcomes and clusters of a run."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.analysis.barriers import DEFINITIONS, barriers, lowest_order
from landscape.cli.options import chosen_problem, computing, json_flag, output, problem_choice
from landscape.cli.report import table
from landscape.curves import Curves
from landscape.files import json_text, refuse_existing, write_json

__all__ = ["command"]


@click.group("analyse")
def command() -> None:
    """Barriers of a walk; outcomes and clusters of a run.

    Prints a summary table, or everything with --json; -o keeps everything as a JSON file.
    """


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
    curves = Curves.read(file)
    kept = curves.select(curves.done if every_order else lowest_order(curves))
    found = barriers(kept)
    document = {
        "file": str(file),
        "title": curves.attributes.get("title"),
        "definitions": DEFINITIONS,
        "loss_unit": curves.attributes.get("loss_unit"),
        "lines": [
            {"from": kept.sources[i].label, "to": kept.sources[j].label, "l1": l1, "l2": l2}
            for i, j, l1, l2 in zip(kept.from_member, kept.to_member, kept.l1, kept.l2, strict=True)
        ],
        "barriers": found,
        "summary": found.summary(),
    }
    lines = f"{len(kept)} lines" + (
        "" if len(kept) == len(curves) else f", the lowest of {len(curves)} over filter orders"
    )
    text = [f"{document['title']}: {lines}, {len(curves.alpha)} points each; loss in {document['loss_unit']}"]
    rows = [
        [
            name,
            s["min"],
            s["q1"],
            s["median"],
            "{:.4g} to {:.4g}".format(*s["median_interval"]),
            s["q3"],
            s["max"],
            s["lines"],
        ]
        for name, s in found.summary().items()
    ]
    text.append(table(["quantity", "min", "q1", "median", "95 % interval", "q3", "max", "lines"], rows))
    text += [f"{name}: {definition}" for name, definition in DEFINITIONS.items()]
    _finish(text, document, output, force, print_json)


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


def _members(run: str, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Problem and stack of a run, and what the options say of device and printing."""
    import torch

    from landscape.places import run_members

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
