"""`landscape analyse curvature`: eigenvalues and trace of the Hessian at places, second derivatives along curves."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from landscape.cli.options import (
    SEED,
    Report,
    chosen_problem,
    device_option,
    dtype_option,
    problem_choice,
    reporting,
    sampling,
)
from landscape.cli.report import Progress, remark, remark_unfinished, table
from landscape.core.errors import LandscapeError, plural
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
@reporting()
@click.argument("place", metavar="PLACE|FILE")
@click.option("--top", type=click.IntRange(min=1), default=5, help="Eigenvalues of the largest magnitude to find.")
@click.option("--trace", is_flag=True, help="The trace too, with a 95 % interval.")
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
    type=click.FloatRange(0, min_open=True),
    help="Residuals of eigenpairs, relative to the largest. [default: 1e-6, in float32 1e-3]",
)
@click.option(
    "--products",
    type=click.IntRange(min=1),
    default=1000,
    help="Hessian-vector products at most, for each member and quantity (a trace takes 72 at least).",
)
@click.option("--seed", type=SEED, default=0, help="Seed of start vectors and probes.")
@sampling
@problem_choice
@device_option
@dtype_option("float64")
def curvature(place: str, problem: str | None, options: tuple[str, ...], report: Report, **settings: Any) -> None:
    """How is the loss bent at the members of PLACE, or along the lines of FILE?

    PLACE is a run, RUN/@step, RUN/#seed, a checkpoint or a landmark (presolve, with --problem): eigenvalues of the
    Hessian of the loss. Networks of up to 400 parameters have their whole Hessian computed; of larger ones the table
    says what converged. Where activations have kinks, it is the Hessian of the smooth piece around a member.

    FILE.h5 holds curves of a walk: the second derivative of the loss by the distance along each line, read off its
    points. The options of places have no meaning there.
    """
    if Path(place).suffix in (".h5", ".hdf5"):
        if problem or options or settings["trace"] or settings["negative"]:
            raise LandscapeError(f"{place} holds curves: leave out --trace, --negative, --problem and -O")
        report.show(*_along_lines(Path(place)))
    else:
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
        f"{document['loss_unit']} per L2^2",
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
    place: str,
    problem: Any,
    *,
    top: int,
    trace: bool,
    rtol: float,
    negative: bool,
    count_to: int,
    tol: float | None,
    products: int,
    seed: int,
    samples: int | None,
    sample_seed: int,
    device: str,
    dtype: str,
) -> tuple[list[str], dict[str, Any]]:
    import torch

    from landscape.analysis.hessian import MOST_PARAMETERS
    from landscape.analysis.spectrum import eigenpairs, negative_count
    from landscape.analysis.trace import trace as trace_of

    where: dict[str, Any] = {
        "device": device,
        "dtype": getattr(torch, dtype),
        "samples": samples,
        "seed": sample_seed,
    }
    problem, checkpoint = _checkpoint(place, problem, where)
    objective, stack = problem.objective(**where), checkpoint.stack.to(where["dtype"])
    allowed: dict[str, Any] = {"seed": seed, "most_products": products}
    unit = "members" if stack.parameters <= MOST_PARAMETERS else "products at most"
    loss, gradient = objective.gradient(stack)
    pairs = eigenpairs(objective, stack, k=top, tol=tol, on_progress=Progress("eigenvalues", unit), **allowed)
    count = total = None
    if negative:
        progress = Progress("smallest eigenvalues", unit)
        count = negative_count(objective, stack, k=count_to, tol=tol, on_progress=progress, **allowed)
    if trace:
        total = trace_of(objective, stack, rtol=rtol, on_progress=Progress("trace", unit), **allowed)
    found = {
        "members": [source.label for source in checkpoint.sources],
        "loss": loss.cpu().numpy(),
        "gradient_norm": gradient.norms()[1].cpu().numpy(),
        "negative": count,
        "trace": total,
    }
    _remark_limits(pairs, count, total, rtol, products)
    members = len(found["members"])
    how = "whole Hessian" if pairs.exact else f"Hessian-vector products, residuals to {pairs.tolerance:g}"
    text = [
        f"{problem.title()}: {plural(members, 'member')} of {stack.parameters} parameters, "
        f"loss{' in ' + objective.unit if objective.unit else ''}; {how}",
        _table_of_members(pairs, **found),
        *_rest(members, "members"),
        *([f"statistics of BatchNorm: {_STATISTICS[objective.batchnorm]}, held fixed"] if objective.batchnorm else []),
    ]
    document = {
        "place": place,
        "title": problem.title(),
        "batchnorm": objective.batchnorm,
        "parameters": stack.parameters,
        "loss_unit": objective.unit,
        "sampled": objective.sampled,
        "computation": {"device": device, "dtype": dtype, "seed": seed, "products": products},
        "eigenpairs": {key: value for key, value in vars(pairs).items() if key != "vectors"},
        **found,
    }
    return text, document


def _checkpoint(place: str, problem: Any, where: dict[str, Any]) -> tuple[Any, Any]:
    """The problem, and the members at a place: a verified landmark, or what a run or a file holds."""
    from landscape.problems.places import fitting, is_landmark, landmark, problem_of
    from landscape.store.checkpoints import load

    if is_landmark(place):
        if problem is None:
            raise LandscapeError(
                f"{place} does not exist; if it is a landmark, name its problem, such as --problem life -O m_factor=4"
            )
        return problem, landmark(problem, place, **where)
    remark_unfinished(place)
    checkpoint = load(place)
    problem = problem or problem_of({place: checkpoint})
    return problem, fitting(problem, checkpoint)


def _table_of_members(
    pairs: Any, *, members: list[str], loss: np.ndarray, gradient_norm: np.ndarray, negative: Any, trace: Any
) -> str:
    top = pairs.values.shape[1]
    header = ["member", "loss", "|gradient|", *(f"eigenvalue {i + 1}" for i in range(top))]
    header += [] if pairs.exact else ["residual", "converged"]
    header += ["smallest", "negative"] if negative else []
    header += (["trace"] if trace.exact else ["trace", "95 % interval"]) if trace else []
    rows = []
    for i, label in enumerate(members[:_MOST_ROWS]):
        row = [label, float(loss[i]), float(gradient_norm[i]), *_numbers(pairs.values[i])]
        if not pairs.exact:
            row += [_largest(pairs.residuals[i]), f"{int(pairs.converged[i].sum())} of {top}"]
        if negative:
            least = int(negative.at_least[i])
            row += [*_numbers(negative.smallest[[i]]), least if negative.complete.all() else _at_least(negative, i)]
        if trace:
            row += [float(trace.values[i]), *([] if trace.exact else [f"{trace.low[i]:.4g} to {trace.high[i]:.4g}"])]
        rows.append(row)
    return table(header, rows)


def _at_least(count: Any, member: int) -> str:
    return ("" if count.complete[member] else "at least ") + str(count.at_least[member])


def _remark_limits(pairs: Any, count: Any, total: Any, rtol: float, products: int) -> None:
    """What was not reached, on stderr: a reader of the table alone could miss it."""
    if lost := int((~pairs.converged.all(axis=1)).sum()):
        remark(
            f"eigenvalues of {plural(lost, 'member')} did not converge in {products} products: allow more --products"
        )
    if count and (more := int((~count.complete).sum())):
        remark(f"{plural(more, 'member')} may have more negative eigenvalues: allow more --count-to and --products")
    if total and (wide := int((~total.reached).sum())):
        remark(f"the trace of {plural(wide, 'member')} is less certain than {rtol:g} of it: allow more --products")


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _rest(count: int, what: str) -> list[str]:
    return [f"and {count - _MOST_ROWS} more {what}: all with --json or -o"] if count > _MOST_ROWS else []
