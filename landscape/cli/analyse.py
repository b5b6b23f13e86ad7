"""`landscape analyse`: barriers of a walk, outcomes, convergence and clusters of a run, success of a run or a sweep."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from landscape.analysis.barriers import COURSES, DEFINITIONS, Barriers, barriers, lowest_order, representatives
from landscape.analysis.levels import By
from landscape.analysis.passes import passes, rows_of
from landscape.cli.curvature import curvature
from landscape.cli.flags import Group, in_flags, running
from landscape.cli.mechanism import mechanism
from landscape.cli.options import (
    BY,
    Report,
    chosen_problem,
    computing,
    device_option,
    engine_option,
    finished_cells,
    members_of,
    of_run,
    problem_choice,
    reporting,
    same_options,
    samples_option,
    tolerance_option,
)
from landscape.cli.terminal import Progress, remark, remark_unfinished, table
from landscape.cli.types import SEED, taken
from landscape.core.errors import LandscapeError, few, loss_in, plural, unfinished_in
from landscape.core.files import is_there, refuse_existing
from landscape.core.intervals import Proportion, quantiles
from landscape.store.results import Result

if TYPE_CHECKING:
    from landscape.analysis.clusters import Clusters
else:
    # Its module imports torch, which other questions do not need.
    Clusters = Any

__all__ = ["command"]

#: Rows of a table of groups; the rest is counted.
_MOST_ROWS = 12
#: Functions of which it is told which cases they get wrong.
_MOST_CASES = 6


@click.group("analyse", cls=Group)
def command() -> None:
    """Barriers of a walk, passes between members; outcomes, convergence, clusters and success of a run; curvature.

    Prints a summary table, or everything with --json; -o keeps everything as a JSON file.
    """


command.add_command(curvature)
command.add_command(mechanism)


@command.command("barriers")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--every-order", is_flag=True, help="Keep all lines, not only the lowest of the filter orders of an end.")
@click.option(
    "--bound-lines",
    type=click.IntRange(0),
    default=20,
    help="Lines, drawn at random, whose highest loss is bounded at every alpha, in 5 s at most, to say by how much the "
    "points are low: where the walk was not certified, its network can be, and its ends are still there. 0: none.",
)
@reporting()
def _barriers(file: Path, every_order: bool, bound_lines: int, **where: Any) -> None:
    """How high, where and how wide: barriers along the lines of FILE, in every definition.

    Heights are read off the points of the file. A line that falls or rises all the way is called so: its height above
    the chord is no barrier. Infinite losses count as infinite, NaN is counted apart.
    """
    report = Report(**where)
    curves = Result.read(file, plane=False)
    curves = dataclasses.replace(curves, values={"loss": curves.loss})
    kept = curves.select(curves.done if every_order else lowest_order(curves))
    found = barriers(kept)
    kinds = {name: barriers(lines) for name, lines in representatives(kept).items()}
    listed = kept if report.whole else kept.select(slice(0))  # a summary needs no line by itself
    parts = [
        {name: listed[name][line] for name in ("moves", "aligned") if name in listed.columns}
        for line in range(len(listed))
    ]
    document = {
        "file": str(file),
        "title": curves.about.get("title"),
        "unfinished": curves.unfinished or None,
        "definitions": {name: definition.formula for name, definition in DEFINITIONS.items()},
        "loss_unit": curves.about.get("loss_unit"),
        "lines": [
            {"from": kept.sources[i].label, "to": kept.sources[j].label, "l1": l1, "l2": l2} | moves
            for i, j, l1, l2, moves in zip(
                *(listed[key] for key in ("from_member", "to_member", "l1", "l2")), parts, strict=True
            )
        ],
        "barriers": {
            **found.quantities,
            "course": [COURSES[number] for number in found.course],
            "independent": found.independent,
        },
        "summary": found.summary(),
        "courses": found.courses(),
    }
    if (low := _low(kept, bound_lines)) is not None:
        document["grid_low_by"] = {"lines": low.lines, "of_highest_loss": low.low_by, "tolerance": low.tolerance}
    if "aligned" in kept.columns:  # medians of both kinds together say nothing
        document |= {
            key: {name: getattr(each, key)() for name, each in kinds.items()} for key in ("summary", "courses")
        }
        document["align"] = kept.about["align"]
    if found.bounds:
        document["certified"] = {**kept.about["certified"], "bounds": found.bounds, "grid_low_by": found.low_by}
    if "barrier_low" in kept.columns:
        document["accuracy"] = {
            **kept.about["accuracy"],
            **{name: kept[name] for name in (*_MEASURED, "decision") if name in kept.columns},
        }
    lowest = len(kept) < (done := int(curves.done.sum())) and "aligned" not in kept.columns
    lines = plural(len(kept), "line") + (f", the lowest of {done} over filter orders" if lowest else "")
    points = plural(len(curves.alpha), "point") + (" each" if len(kept) > 1 else "")
    text = [f"{document['title']}: {lines}, {points}; {loss_in(curves.about.get('loss_unit'))}"]
    if curves.unfinished:
        text.append(unfinished_in(file, curves.unfinished))
    if "loss" in curves.about.get("means_over_batches", ()):
        text.append("the loss is a mean over batches, of one number each")
    summaries = {kind: each.summary() for kind, each in kinds.items()}
    rows = [
        [
            f"{name}, {kind}" if kind else name,
            *(s[key] for key in ("min", "q1", "median")),
            "-" if np.isnan(s["median_interval"]).any() else "{:.4g} to {:.4g}".format(*s["median_interval"]),
            *(s[key] for key in ("q3", "max", "lines")),
        ]
        for name in found.quantities
        for kind, each in summaries.items()
        for s in [each[name]]
    ]
    text.append(table(["quantity", "min", "q1", "median", "95 % interval", "q3", "max", "lines"], rows))
    if "aligned" in kept.columns:
        text.append(_aligned(kept.about["align"]))
    for kind, each in kinds.items():
        text += [f"{kind}: {line}" if kind else line for line in _told(each)]
    if found.bounds:
        text += _certified(kept, found)
    if "barrier_low" in kept.columns:
        text += _measured(kept)
    if low is not None:
        inside = len(curves.alpha[curves.inside])
        text.append(
            f"the highest of {inside} points is low by up to {np.median(low.low_by):.2%} of the highest loss in the "
            f"median, {low.low_by.max():.2%} at most, on {len(low.lines)} of "
            f"{plural(len(kept), 'line')}, drawn at random and bounded to {low.tolerance:g} of it"
        )
    if "moves" in kept.columns:
        text.append(_by_part(kept))
    text += [f"{name}: {definition.formula}" for name, definition in DEFINITIONS.items()]
    report.show(text, document)


def _low(curves: Result, lines: int) -> Any:
    """By how much the points of some lines are low; None where that is known of all, or of none."""
    from landscape.analysis.grid import grid_error

    return grid_error(curves, lines=lines) if lines else None


#: Columns of lines that were measured to an accuracy, and lines of which each is listed.
_MEASURED = ("barrier", "barrier_low", "barrier_high", "peak", "points_used", "samples_used", "reached")
_LISTED = 20


def _aligned(told: Mapping[str, Any]) -> str:
    """Up to what ends were aligned with starts, and what was held."""
    kinds = [f"{told[name]} {name}" for name in ("units", "scales", "signs") if told[name]]
    text = f"aligned: each end the representative close to its start, up to {', '.join(kinds)}"
    text += f"; {plural(len(told['refused']), 'module')} held: {few(told['refused'])}" if told["refused"] else ""
    if told["dead"] or told["duplicates"]:
        count = plural(told["networks"], "network")
        text += f"; {told['dead']} dead units and {told['duplicates']} duplicates in {count}, whose place is arbitrary"
    return text


def _certified(curves: Result, found: Barriers) -> list[str]:
    """What is known of barriers between the points: medians beside the grid's, and how far that is off."""
    top, grid = curves["max_upper"], curves.loss[:, curves.inside].max(axis=1)
    there, lost = ~np.isnan(top), []
    if not there.all():
        count = plural(int((~there).sum()), "line")
        lost = [f"without bounds: {count}, with a loss at an end that is not finite; left out of the bounds' table"]
    if not there.any():
        return lost
    rows = [
        [
            name,
            *(float(np.median(each[there])) for each in (found.heights[name], *found.bounds[name], low)),
            float(np.max(low[there])),
        ]
        for name, (_, low) in found.low_by.items()
    ]
    width, off = (float(np.nanmax(each / np.maximum(top, 1e-300))) for each in (top - curves["max_lower"], top - grid))
    asked = curves.about["certified"]["tolerance"]
    return [
        table(["medians of", "grid", "lower bound", "upper bound", "grid low by at most", "on any line"], rows),
        f"bounds hold at every alpha from 0 to 1; those of a line's highest loss are {width:.2g} of it apart at most "
        f"({asked:g} was asked for), and the highest point is low by {off:.2%} at most",
        *lost,
    ]


def _measured(curves: Result) -> list[str]:
    """What is known of the barriers of lines that were measured to an accuracy: of each of a few, or the extremes."""
    asked, few_lines = curves.about["accuracy"], len(curves) <= _LISTED
    shown = [curves[name] for name in _MEASURED]
    rows = [
        [
            f"{curves.sources[i].label} to {curves.sources[j].label}",
            *(value.item() for value in values[:6]),
            "reached" if values[6] else f"width so far {values[2] - values[1]:.3g}",
        ]
        for i, j, *values in zip(curves["from_member"], curves["to_member"], *shown, strict=True)
    ]
    if asked.get("above") is not None:
        rows = [[*row[:-1], str(word)] for row, word in zip(rows, curves["decision"], strict=True)]
    elif asked["tolerance"] is None:
        rows = [[*row[:-1], f"none; width {row[3] - row[2]:.3g}"] for row in rows]
    if not few_lines:
        extremes = (("lowest", np.min), ("median", np.median), ("highest", np.max))
        done = f"reached on {int(curves['reached'].sum())} of {len(curves)}"
        if asked.get("above") is not None:
            done = ", ".join(f"{count} {name}" for name, count in asked["decisions"].items())
        rows = [[name, *(float(of(each)) for each in shown[:6]), done] for name, of in extremes]
    header = ["line", "barrier", "low", "high", "peak at", "points", "samples", "tolerance"]
    if asked.get("above") is not None:
        header[-1] = f"than {asked['above']:g}"
    of = "the distribution behind the data" if asked["population"] else "the whole data set"
    tolerance = (
        ""
        if asked["tolerance"] is None
        else f", tolerance {asked['tolerance']:g} of the "
        + ("barrier" if asked["quantity"] == "barrier" else "range of losses")
    )
    return [
        table(header, rows),
        f"barriers above the chord with intervals of {asked['level']:.0%} each, over {of}{tolerance}; the table "
        "above is of the curves between the points",
    ]


def _told(found: Barriers) -> list[str]:
    """What the numbers do not say by themselves: lines that are monotone, infinite, or not a number."""
    courses, heights = found.courses(), next(iter(found.heights.values()))
    text = [
        f"course: {', '.join(f'{count} {name}' for name, count in courses.items() if count)} (up to 1/1000 of a line's "
        "range)"
    ]
    if courses["falling"] + courses["rising"]:
        text.append(
            "a falling or rising line has no barrier above its higher end; above the chord it has its concavity, how "
            "far it bends upwards"
        )
    if infinite := int(np.isinf(heights).sum()):
        text.append(f"infinite: the loss of {plural(infinite, 'line')} between its ends; counted as infinite heights")
    if lost := int(np.isnan(heights).sum()):
        text.append(
            f"without a height: {plural(lost, 'line')}, with NaN on it or an infinite end; left out of the table"
        )
    return text


@command.command("passes")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@reporting()
def _passes(files: tuple[Path, ...], **where: Any) -> None:
    """The lowest known path of each pair of members in what `landscape connect` or `walk` wrote.

    Heights are those of the highest loss above the higher end: of the straight line, of the lowest path of the pair,
    and of the lowest chain of paths, which may lead through other members. All are upper bounds. A pair without a path
    is missing, and counts as not connected unless others connect it.
    """
    report = taken(Report, where)
    results = [Result.read(file, plane=False) for file in files]
    found = passes(*results)
    missing = found.missing
    rows = rows_of(found) if report.whole or len(found) <= _MOST_ROWS else ()
    named = [[found.members[i], found.members[j]] for i, j in (missing if report.whole else missing[:_MOST_ROWS])]
    document = {
        "files": list(map(str, files)),
        "title": found.about.get("title"),
        "loss_unit": found.about.get("loss_unit"),
        "members": [{"name": name, "loss": loss} for name, loss in zip(found.members, found.loss, strict=True)],
        "pairs": rows,
        "missing": named,
        "merges": [dataclasses.asdict(merge) for merge in found.merges],
        "straight_merges": [dataclasses.asdict(merge) for merge in found.straight_merges],
    }
    text = [
        f"{document['title']}: {len(found.members)} members, {plural(len(found), 'pair')} with a known path; "
        f"{loss_in(found.about.get('loss_unit'))}, heights above the higher end"
    ]
    text += [unfinished_in(file, each.unfinished) for file, each in zip(files, results, strict=True) if each.unfinished]
    heights = {"straight": found.straight, "known": found.known, "through others": found.through}
    summary = []
    for name, values in heights.items():
        above = found.barrier(values)[~np.isnan(values)]
        quartiles = quantiles(above, np.array([0, 0.25, 0.5, 0.75, 1])).tolist()
        summary.append([name, *quartiles, len(above)])
    text.append(table(["height", "min", "q1", "median", "q3", "max", "pairs"], summary))
    if not report.whole and rows:
        columns = ("from", "to", "straight", "known", "through_others", "method", "gradients")
        text.append(table([name.replace("_", " ") for name in columns], [[row[c] for c in columns] for row in rows]))
    counts = sorted(((found.method.count(name), name) for name in set(found.method)), reverse=True)
    text.append(f"found by: {', '.join(f'{name} {count}' for count, name in counts)}")
    text.append(f"cost: {int(found.gradients.sum()):,} gradients of the loss, with all that was tried")
    lost = len(found.members) - 1 - len(found.merges)
    text.append(
        f"merged: {plural(len(found.members), 'member')} in {plural(lost + 1, 'group')} at the top"
        + (f", at {found.merges[-1].height:.4g} at the latest" if found.merges else "")
    )
    if len(missing):
        some = ", ".join(f"{one} to {other}" for one, other in named[:_MOST_ROWS])
        rest = f", and {len(missing) - _MOST_ROWS} more" if len(missing) > _MOST_ROWS else ""
        text.append(f"missing: {plural(len(missing), 'pair')} without a path of their own: {some}{rest}")
    report.show(text, document)


def _by_part(curves: Result) -> str:
    """Barriers and lengths apart for what moves."""
    rows = []
    for part in dict.fromkeys(curves.moves):
        own = curves.select(curves.moves == part)
        found = barriers(own).summary()
        chord, end = found["above_chord"], found["above_higher_end"]
        rows.append([part or "everything", len(own), float(np.median(own["l2"])), chord["median"], chord["max"]])
        rows[-1].append(end["median"])
    header = ["moves", "lines", "median l2", "median above_chord", "highest", "median above_higher_end"]
    return table(header, rows)


@command.command("outcomes")
@of_run
@tolerance_option
@computing
@reporting()
def _outcomes(tolerance: float | None, device: str, **given: Any) -> None:
    """What each member of RUN computes, and which compute the same function.

    A function is what a network answers to all samples of the problem's data: classes, or sides of 0, as they are,
    numbers up to --tolerance. Of the Game of Life with one block, whose samples are all there are, it is a truth table;
    there alone dead units are counted, and gradient and eigenvalues of the Hessian are told where it ended (of other
    problems `landscape analyse curvature` does).

    Targets that the loss ignores (ignore_index, -100) do not count, nor does what is predicted there: a sample is right
    if all its targets that count are, and a network is solved by that. Where samples have several targets, such as
    tokens, the share of right ones stands beside, with its standard error over samples. A `batch_loss` says what is
    predicted by entries `outputs` and `targets`: scores of classes beside whole-number targets (the highest decides;
    those below 0 do not count), whole numbers and truth values as they are, else numbers, of which none is right or
    wrong.
    """
    from landscape.analysis.outcomes import KINDS, outcomes

    report = taken(Report, given)
    problem, stack = members_of(**given)
    title = problem.title()
    found = outcomes(problem, stack, device=device, tolerance=tolerance)
    text = [f"{title}: {len(stack)} members" + ("" if found.right is None else f", solved by {found.solved}")]
    shown = found.groups[:_MOST_ROWS]
    rows = [[*_answers(g, found), g.share.count, "{:.3f} to {:.3f}".format(*g.share.interval), g.loss] for g in shown]
    exact = found.curvature is not None
    right = [] if found.right is None else ["right"] if exact else ["right", "95 % interval of accuracy"]
    if _several(found):
        right = ["samples right", "95 % interval of their share", "accuracy of targets"]
    header = ["truth table" if exact else "function", *right, "members", "95 % interval of share", "median loss"]
    text.append(table(header, rows))
    mistakes = [
        f"{g.share.count} members: wrong at " + ", ".join(f"{name} ({k} of {n})" for name, k, n in g.wrong)
        for g in shown
        if g.wrong
    ]
    if rest := found.groups[len(shown) :]:
        what = "truth tables" if exact else "functions"
        text.append(f"and {len(rest)} more {what} with {sum(g.share.count for g in rest)} members")
    text += mistakes[:_MOST_CASES]
    if exact:
        text.append(_ends(found, KINDS))
    else:
        ignored = f"the {found.total} of {found.samples} samples that have targets that count"
        where = f"all {found.total} samples" if found.total == found.samples else ignored
        text.append(f"functions are told apart by {found.compared} on {where}")
        if _several(found):
            text.append(
                f"a sample is right if all its targets that count are; accuracy is over all {found.targets} of these, "
                "± its standard error over samples"
            )
    report.show(text, {"run": given["run"], "title": title, "kinds": KINDS, "solved": found.solved, "outcomes": found})


def _several(found: Any) -> bool:
    """Whether samples have several targets each, of which some may be right."""
    return found.right is not None and found.groups[0].accuracy is not None and found.targets > found.total


def _answers(group: Any, found: Any) -> list[str]:
    """What kind of function it is, and what it gets right, with an interval where the samples are not all there are."""
    if group.right is None:
        return [group.kind]
    right = Proportion(group.right, found.total)
    sampled = [] if found.curvature is not None else ["{:.3f} to {:.3f}".format(*right.interval)]
    share = [f"{group.accuracy:.3f} ± {group.accuracy_se:.2g}"] if _several(found) else []
    return [group.kind, f"{right.count} of {right.total}", *sampled, *share]


def _ends(found: Any, names: Sequence[str]) -> str:
    """Where members of each kind ended."""
    kinds = [(kind, found.kind == number) for number, kind in enumerate(names) if (found.kind == number).any()]
    rows = [
        [kind, int(of.sum()), *(float(np.median(q[of])) for q in (found.loss, found.dead, *_columns(found.curvature)))]
        for kind, of in kinds
    ]
    if found.landmark is not None:
        rows.append(["presolve", 1, None, None, *(float(q[0]) for q in _columns(found.landmark))])
    header = ["medians of", "members", "loss", "dead units", "|gradient|"]
    return table([*header, "smallest eigenvalue", "largest", "negative", "near zero"], rows)


def _columns(bend: Any) -> tuple[np.ndarray, ...]:
    return bend.gradient_norm, bend.smallest, bend.largest, bend.negative, bend.near_zero


@command.command("convergence")
@click.argument("place", metavar="RUN")
@problem_choice
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Members whose loss a continued descent makes fall by more than this share of it are falling. "
    "[default: 0.001, of a polished run 1e-6]",
)
@click.option("--steps", type=click.IntRange(min=1), default=30, help="Newton's steps of that descent at most.")
@engine_option("auto is plain but for small networks, which are faster stacked.")
@reporting()
def _convergence(place: str, problem: str | None, options: tuple[str, ...], **settings: Any) -> None:
    """Has training come to an end? The kind of each member of RUN, and its outcome against steps.

    \b
    converged         nothing left to gain
    falling           a continued descent gains more than the tolerance
    towards infinity  the loss falls to its limit as the outputs grow without end
    at a kink         held where a rectifier's input is zero
    saddle            nothing left along the gradient, but along a negative curvature
    dead              the same output for every sample, though samples differ

    A small gradient decides nothing: the last layer times three makes it as small as one likes. Float64, on all data;
    gradients are those of networks balanced by rescaling of units, where that is known to change nothing (chains of
    fully connected layers and ReLU or LeakyReLU). Of a run with a decade of saved steps there is the cumulative
    incidence of solved and dead members too. Each member is a row of the JSON.
    """
    from landscape.analysis.convergence import KINDS, convergence

    report = taken(Report, settings)
    remark_unfinished(place)
    chosen = chosen_problem(problem, options)
    found = convergence(place, problem=chosen, progress=Progress("convergence", "members"), **settings)
    text = [found.caption(), table(*found.table())]
    text += [f"{kind}: {KINDS[kind]}" for kind in found.counts]
    document = {"place": place, **found.document()}
    if is_there(Path(place) / "run.json"):
        from landscape.analysis.incidence import incidence
        from landscape.store.checkpoints import Run

        try:
            outcome = incidence(Run.open(place), chosen)
        except LandscapeError as error:  # without a decade of steps, or of nothing that is right
            remark(in_flags(f"no outcome against steps: {error}", running(click.get_current_context())))
        else:
            text += [outcome.caption(), table(*outcome.table())]
            document["incidence"] = outcome
    report.show(text, document)


@command.command("clusters")
@of_run
@click.option(
    "--by",
    type=BY,
    multiple=True,
    default=("outputs",),
    help="What is compared. Repeatable: then the agreement between any two is told.",
)
@same_options
@computing
@reporting()
def _clusters(by: tuple[By, ...], threshold: float | None, tolerance: float | None, device: str, **given: Any) -> None:
    """Which members of RUN are the same, by what they predict, their outputs, their parameters, or a path?

    \b
    predictions  share of all answers that differ
    outputs      root mean square difference of output probabilities, or of outputs in standard deviations
    parameters   L2 distance up to order, signs and scales of units, over the median norm of the members
    barrier      height above the chord on the straight line between two, also aligned

    Two members are the same if they are at most the threshold apart, and groups are what such pairs join (single
    linkage); no number of groups is chosen. A table says how it depends on the threshold, and how far groups agree with
    predictions, which are those of `landscape analyse outcomes`. Where no symmetry is known, units keep their order
    (`landscape analyse symmetry`).
    """
    from landscape.analysis.clusters import adjusted_rand, clusters_of

    report = taken(Report, given)
    if threshold is not None and len(by) > 1:
        raise LandscapeError("`threshold` is of one level, each has its own: give one `by` with it")
    problem, stack = members_of(**given)
    how: dict[str, Any] = {"threshold": threshold, "tolerance": tolerance, "device": device}
    found = {
        level: clusters_of(problem, stack, by=level, progress=Progress("walk", "points"), **how)
        for level in dict.fromkeys(by)
    }
    text = [line for each in found.values() for line in _groups(each, problem.title())]
    between = {(a, b): adjusted_rand(found[a].label, found[b].label) for a in found for b in found}
    if len(found) > 1:
        rows = [[a, *(between[a, b] for b in found)] for a in found]
        text += ["agreement between levels (adjusted Rand index)", table(["", *found], rows)]
    document = {
        "run": given["run"],
        "title": problem.title(),
        "levels": [each.document() for each in found.values()],
        "agreement": [{"by": [a, b], "adjusted_rand": value} for (a, b), value in between.items() if a < b],
    }
    report.show(text, document)


def _groups(found: Clusters, title: str) -> list[str]:
    """Groups at one level, and how they depend on its threshold."""
    header, known = ["group", "members", "largest distance"], found.predictions is not None
    rows: list[list[Any]] = [
        [number, int(size), float(wide)]
        for number, (size, wide) in enumerate(zip(found.sizes[:_MOST_ROWS], found.diameters, strict=False))
    ]
    if found.predictions is not None:
        tables = [np.bincount(found.predictions[found.label == number]) for number in range(len(rows))]
        rows = [[*row, len(counts[counts > 0]), int(counts.max())] for row, counts in zip(rows, tables, strict=True)]
        header += [found.compared or "predictions", "members of its commonest"]
    text = [found.caption(title), table(header, rows)]
    if rest := found.sizes[len(rows) :].tolist():
        text.append(f"and {len(rest)} more groups with {sum(rest)} members")
    agreement = [f"agreement with {found.compared}"] if known else []
    against = [list(row if known else row[:-1]) for row in found.against_threshold()]
    text.append(table(["threshold", "groups", "members of the largest", *agreement], against))
    text += [f"{each.groups} groups from {each.low:.3g} to {each.high:.3g}" for each in found.plateaus]
    if found.unseen is not None and found.by == "predictions":
        text.append(
            "probability that one more member predicts what none does here (Good-Turing): {:.3f}, 95 % interval {:.3f} "
            "to {:.3f}".format(*found.unseen)
        )
    else:
        text.append(
            f"of the later half of the members farther than the threshold from all of the earlier: {found.novel}"
        )
    return text


@command.command("symmetry")
@click.argument("place", metavar="[RUN]", required=False)
@problem_choice
@reporting()
def _symmetry(place: str | None, problem: str | None, options: tuple[str, ...], **where: Any) -> None:
    """Which changes of parameters leave the function of RUN's networks, or of those of --problem, as it is?

    \b
    in any order  units of a layer that can change places
    scales        of each unit: what makes it, times s > 0, and what reads it, times a power of s
    signs         the same for s = -1

    All is derived from the operations that the network's own forward performs, never guessed, and tried on the
    network. Held units are named with the reason: an operation without a rule, a constant that tells them apart. What
    symmetry there is beyond, such as linear maps between queries and keys of attention, is named too. Weights of
    which a loss has a penalty are no part of it: a penalty tells scales apart.
    """
    from landscape.analysis.symmetry import HEADER, caption, rows, symmetry

    report = taken(Report, where)
    found = symmetry(place, problem=chosen_problem(problem, options))
    text, listed = [caption(found)], rows(found)
    if listed:
        text.append(table(HEADER, listed[:_MOST_ROWS]))
    if len(listed) > _MOST_ROWS:
        text.append(f"and {plural(len(listed) - _MOST_ROWS, 'more group')}")
    for told, lines in (("held", found.refused), ("beyond", found.unquotiented)):
        text += [f"{told}: {line}" for line in lines[:_MOST_ROWS]]
        if len(lines) > _MOST_ROWS:
            text.append(f"{told}: {len(lines) - _MOST_ROWS} more")
    report.show(text, {"place": place, "symmetry": found})


@command.command("success")
@click.argument("place", metavar="RUN|SWEEP")
@samples_option(
    "Test boards, or other samples, the same for all. [default: 1000, or all that the problem keeps for tests]"
)
@click.option("--board", help="HEIGHTxWIDTH of the Game of Life's test boards. [default: 5x5]")
@click.option("--density", type=click.FloatRange(0, 1), help="Probability that a cell of them is live. [default: 0.5]")
@click.option("--sample-seed", type=SEED, default=0, help="Seed of the test boards.")
@device_option
@problem_choice
@reporting("JSON file for the whole result; a CSV table goes beside it.")
def _success(
    place: str,
    samples: int | None,
    sample_seed: int,
    device: str,
    problem: str | None,
    options: tuple[str, ...],
    **conditions: Any,
) -> None:
    """How many members of RUN, or of each finished cell of SWEEP, get random test boards (else the test data) right.

    Whole boards and cells are counted apart, and what answering that all is dead would get stands beside them: with
    several steps most of a board dies out by itself. Where all there is can be enumerated, the exact answer stands too.
    """
    from landscape.analysis.success import Row, as_csv, as_document, definitions, success
    from landscape.core.files import replacing

    report = taken(Report, conditions)
    beside = report.output and report.output.with_suffix(".csv")
    if beside is not None:
        if report.output == beside:
            raise LandscapeError(f"{beside} would be both the table and the whole result: name a .json file with -o")
        refuse_existing(beside, force=report.force, argument="output")
    given = {key: value for key, value in conditions.items() if value is not None}
    test = {"samples": samples, "seed": sample_seed, "device": device, **given}
    if is_there(Path(place) / "sweep.json"):
        if options:
            raise LandscapeError(f"{place} says the options of its problem itself: leave -O out")
        rows, cells = finished_cells(Path(place), problem, test)
        tested = [cell.problem for cell in cells]
    else:
        found, stack = members_of(place, problem, options, finite=False)
        rows, tested = [Row({}, success(found, stack, **test))], [found]
    for warning in dict.fromkeys(each.test_remark(**given) for each in tested):
        if warning:
            remark(in_flags(warning, running(click.get_current_context())))
    document = {
        "place": place,
        "title": tested[0].title() if len(tested) == 1 else None,
        "definitions": definitions(tested[0].nouns),
        "test": test,
        "cells": as_document(rows),
    }
    report.show([_success_table(rows, tested[0].nouns)], document)
    if beside is not None:
        with replacing(beside) as temporary:
            temporary.write_text(as_csv(rows))


def _success_table(rows: Sequence[Any], nouns: Any) -> str:
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
    kinds = (nouns.drawn, nouns.outputs)
    rates = [f"{name}: {kind}" for name in names for kind in kinds]
    return table([*keys, "solved", "95 % interval", "exact", *(f"{kind} right" for kind in kinds), *rates], text)
