"""`landscape analyse curvature`: eigenvalues and trace of the Hessian at places, second derivatives along curves."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.cli.flags import in_flags, running
from landscape.cli.options import (
    Report,
    batchnorm_option,
    changes,
    chosen_problem,
    device_option,
    dtype_option,
    key_option,
    keyed,
    problem_choice,
    reporting,
    sampling,
)
from landscape.cli.terminal import Progress, remark, remark_unfinished, table
from landscape.cli.types import SEED, taken
from landscape.core.errors import LandscapeError, plural, unfinished_in
from landscape.core.fields import fields_of
from landscape.store.results import Result

__all__ = ["curvature"]

#: Rows of a table; the rest is in the whole result.
_MOST_ROWS = 40


#: By policy, what the loss and its derivatives are computed with.
_STATISTICS = {
    "recalibrate": "estimated anew at the place",
    "interpolate": "those of the checkpoint",
    "keep": "those of the checkpoint",
}


@click.command("curvature")
@click.argument("place", metavar="PLACE|FILE")
@click.option("--top", type=click.IntRange(min=1), default=5, help="Eigenvalues of the largest magnitude to find.")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="The Hessian of these parameters alone, such as 'head.*'. Repeatable.",
)
@click.option("--all-parameters", is_flag=True, help="Take frozen parameters (requires_grad=False) into it too.")
@click.option(
    "--matrix",
    type=click.Choice(["hessian", "ggn"]),
    default="hessian",
    help="The Hessian, or the generalised Gauss-Newton matrix: without what the network itself is bent; of "
    "cross-entropy without weights it is the Fisher information.",
)
@click.option("--trace", is_flag=True, help="The trace too, with a 95 % interval.")
@click.option(
    "--trace-per",
    type=click.Choice(["layer", "module"]),
    help="The trace, and those of the blocks of each layer, or each module at the top, which add up to it.",
)
@click.option("--diagonal", is_flag=True, help="The trace and the diagonal, with its standard error (in the JSON).")
@click.option(
    "--density",
    is_flag=True,
    help="The density of all eigenvalues too (in the JSON, which landscape plot density draws).",
)
@click.option(
    "--density-probes",
    type=click.IntRange(min=2),
    default=10,
    help="Random vectors that it rests on, in larger networks; their spread is its standard error.",
)
@click.option(
    "--density-steps",
    type=click.IntRange(min=2),
    default=80,
    help="Lanczos steps from each; eigenvalues closer than about their range over the steps are not told apart.",
)
@click.option(
    "--density-width",
    type=click.FloatRange(0, min_open=True),
    help="Standard deviation of the Gaussian that each eigenvalue is drawn as. [default: that range over the steps]",
)
@click.option(
    "--rtol", type=click.FloatRange(0, min_open=True), default=0.05, help="Half width of that interval, relative."
)
@click.option("--negative", is_flag=True, help="How many eigenvalues are negative, too.")
@click.option(
    "--count-to",
    type=click.IntRange(min=1),
    default=10,
    help="Fewer negative eigenvalues than this are all counted; of more there is a lower bound, in larger networks.",
)
@click.option(
    "--tol",
    "tolerance",
    type=click.FloatRange(0, min_open=True),
    help="Residuals of eigenpairs, relative to the largest. [default: 1e-6, in float32 1e-3]",
)
@click.option(
    "--products",
    "max_products",
    type=click.IntRange(min=1),
    default=1000,
    help="Hessian-vector products at most, for each member and quantity (a trace takes 72 at least).",
)
@click.option("--seed", "probe_seed", type=SEED, default=0, help="Seed of start vectors and probes.")
@sampling
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    help="Find eigenvalues and trace on so many draws of --samples, for their standard error.",
)
@changes
@batchnorm_option(
    "What BatchNorm normalises by, held fixed: statistics estimated at the place anew on training data, or "
    "(interpolate, keep) those of the checkpoint."
)
@problem_choice
@key_option
@device_option
@dtype_option("float64")
@reporting()
def curvature(place: str, problem: str | None, options: tuple[str, ...], key: str | None, **settings: Any) -> None:
    """How is the loss bent at the members of PLACE, or along the lines of FILE?

    PLACE is a run, RUN/@step, RUN/#seed, a checkpoint or a landmark (presolve, with --problem): eigenvalues of the
    Hessian of the loss. Networks of up to 400 parameters have their whole Hessian computed; of larger ones the table
    says what converged. Where activations have kinks, it is the Hessian of the smooth piece around a member.

    FILE.h5 holds curves of a walk: the second derivative of the loss by the distance along each line, read off its
    points. The options of places have no meaning there.
    """
    report = taken(Report, settings)
    if Path(place).suffix in (".h5", ".hdf5"):
        context, shared = click.get_current_context(), {"place", *fields_of(Report)}
        given = [
            each.opts[0]
            for each in context.command.params
            if each.name and each.name not in shared
            if context.get_parameter_source(each.name) is not click.core.ParameterSource.DEFAULT
        ]
        if given:
            raise LandscapeError(
                f"{place} holds curves: leave out {', '.join(given)}, which say how places are looked at"
            )
        report.show(*_along_lines(Path(place)))
    else:
        (place,) = (each or "" for each in keyed(key, place))
        report.show(*_at_places(place, chosen_problem(problem, options), **settings))


def _along_lines(path: Path) -> tuple[list[str], dict[str, Any]]:
    from landscape.analysis.line_curvature import DEFINITION, line_curvature

    curves = Result.read(path, plane=False)
    found = line_curvature(curves)
    kept = curves.select(curves.done)
    moves = [f" ({part} alone)" if part else "" for part in kept.moves]
    ends = [
        (kept.sources[i].label, kept.sources[j].label + part)
        for i, j, part in zip(kept["from_member"], kept["to_member"], moves, strict=True)
    ]
    document = {
        "file": str(path),
        "title": curves.about.get("title"),
        "definition": DEFINITION,
        "loss_unit": curves.about.get("loss_unit"),
        "lines": [{"from": a, "to": b, "l2": l2} for (a, b), l2 in zip(ends, kept["l2"], strict=True)],
        "curvature": found,
    }
    errors = ["discretisation", "rounding", *(["se"] if found.se is not None else [])]
    rows = [
        [f"{a} to {b}", *_extremes(found.alpha, found.values[i]), *(_largest(getattr(found, e)[i]) for e in errors)]
        for i, (a, b) in enumerate(ends[:_MOST_ROWS])
    ]
    text = [
        f"{document['title']}: {plural(len(found), 'line')}, {len(curves.alpha)} points each; "
        f"{document['loss_unit'] or 'loss'} per L2^2",
        *([unfinished_in(path, curves.unfinished)] if curves.unfinished else []),
        table(["line", "smallest", "at alpha", "largest", "at alpha", "below 0", *errors], rows),
        *_rest(len(found), "lines"),
        f"curvature: {DEFINITION}, by second differences at all points but the first and last of the grid",
        "below 0: share of these points; last columns: the largest error on the line from steps, rounding"
        + (" and sampling" if found.se is not None else ""),
    ]
    return text, document


def _extremes(alpha: np.ndarray, values: np.ndarray) -> list[float | None]:
    if not np.isfinite(values).any():
        return [None] * 5
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    below = float((values[np.isfinite(values)] < 0).mean())
    return [float(values[low]), float(alpha[low]), float(values[high]), float(alpha[high]), below]


def _largest(values: np.ndarray) -> float | None:
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _at_places(
    place: str, problem: Any, *, sample_seed: int, dtype: str, **asked: Any
) -> tuple[list[str], dict[str, Any]]:
    import torch

    from landscape.analysis.curvature import curvature as curvature_at

    remark_unfinished(place)
    found = curvature_at(
        place,
        problem=problem,
        dtype=getattr(torch, dtype),
        seed=sample_seed,
        progress=Progress("curvature", "steps at most"),
        **asked,
    )
    for line in found.remarks():
        remark(in_flags(line, running(click.get_current_context())))
    header, rows = found.table()
    policy = found.about.get("batchnorm", {}).get("policy")
    text = [
        found.caption(),
        table(header, rows[:_MOST_ROWS]),
        *_rest(len(found), "members"),
        *_further(found),
        *([f"statistics of BatchNorm: {_STATISTICS[policy]}, held fixed"] if policy else []),
    ]
    return text, {"place": place, "batchnorm": policy, **found.document()}


def _further(found: Any) -> list[str]:
    """What does not fit a row a member."""
    text = []
    if found.trace and found.trace.parts:
        header, rows = found.parts_table()
        text += [table(header, rows[:_MOST_ROWS]), *_rest(len(rows), "rows")]
    if found.diagonal:
        se = float(np.median(found.trace.diagonal_se))
        text.append("diagonal: with --json or -o; " + (f"median standard error {se:.3g}" if se else "exact"))
    if density := found.density:
        how = "all eigenvalues" if density.exact else f"{density.probes} probes of {density.steps.min()} steps"
        text.append(f"density: {how}, each eigenvalue {density.width:.3g} wide; draw it with landscape plot density")
    return text


def _rest(count: int, what: str) -> list[str]:
    return [f"and {count - _MOST_ROWS} more {what}: all with --json or -o"] if count > _MOST_ROWS else []
