"""The maximum of the loss on straight lines, between bounds: branch and bound over alpha.

A line is parted into cells. In each the loss is within an error of a parabola (`engine.bounds`), so its maximum is that
of the parabola to within the error, which falls with the cube of a cell's length where no unit changes its sign, and
with its square where many do. The highest of the lower bounds is one for the line. Cells whose upper bound is within
the tolerance of it are done, the others are halved; the highest upper bound of all cells is that of the line, and the
maximum lies in a cell whose upper bound reaches the line's lower one. No roots are computed.

R. E. Moore, R. B. Kearfott, M. J. Cloud, *Introduction to Interval Analysis*, SIAM 2009, chapter 5 (the method); K.
Makino, M. Berz, Int. J. Pure Appl. Math. 6, 2003 (the models of units).
"""

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import LandscapeError, Unsupported, Unverified, plural
from landscape.core.fields import check, option
from landscape.engine.bounds import Bounds, Segments
from landscape.engine.objective import Objective
from landscape.evaluation.routes import Prepared

__all__ = ["ABSOLUTE", "Certifying", "certified"]

#: Widths of bounds are at most `certify` times the line's highest loss and this.
ABSOLUTE = 1e-12

#: Pieces of a segment of a line at first; halvings after which a cell is left as it is.
_PIECES, _HALVINGS = 8, 40

#: Bytes of what is kept of the first layer for lines that are bounded together, and lines at most.
_BYTES, _LINES = 2**27, 256

#: Lines of which the middles of cells are compared with the plain module's own loss, and relative difference at most.
_CHECKED, _TOLERANCE = 16, 1e-10

_log = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certifying:
    """To which tolerance the maxima of lines are bounded, and at what cost at most; raises `LandscapeError` for values
    that make no sense.
    """

    certify: float | None = option(
        None,
        "Beside the points, bound the highest loss of each line from below and above, and with it the barriers, until "
        "the bounds are this share of that loss (and 1e-12) apart, such as 1e-6. For networks of ReLUs.",
        above=0,
        below=1,
    )
    certify_cells: int = option(
        10_000, "Pieces into which `certify` parts a line, at most; what is then reached is said.", at_least=_PIECES
    )

    def __post_init__(self) -> None:
        check(self)
        if self.certify is None and self.certify_cells != type(self).certify_cells:
            raise LandscapeError("`certify_cells` is for bounds of the highest loss: ask for them with `certify`")


def certified(prepared: Prepared, certifying: Certifying) -> Prepared:
    """The same lines with bounds as columns: `max_lower` and `max_upper` of the highest loss from alpha 0 to 1,
    `peak_low` and `peak_high` of the alpha where it is; and of the barriers, `above_chord_lower` and so on.

    Bounded is the loss, in exact arithmetic, at all alphas of the lines between the networks as they are stored; the
    rounding of what is computed here in float64 is bounded along with it. Raises `Unsupported`, naming it, for what nothing bounds, `Unverified`
    if the plain module's loss is not within the bounds of a point.
    """
    tolerance, lines = certifying.certify, prepared.lines
    assert tolerance is not None
    objective = _objective(prepared)
    bounds = Bounds(objective)
    family = lines.family.to(objective.device, torch.float64)
    knots = torch.tensor([alpha for alpha, _ in family.knots], dtype=torch.float64, device=objective.device)
    segments = len(knots) - 1
    size = max(1, min(_LINES, _BYTES // (bounds.kept_bytes * segments)))
    parts: list[dict[str, Tensor]] = []
    for some in torch.split(torch.arange(len(family), device=objective.device), size):
        ends = [family.at(some.repeat_interleave(segments), each.repeat(len(some))) for each in (knots[:-1], knots[1:])]
        group = bounds.along(*ends)
        if not parts:
            _check(objective, group)
        parts.append(_bounded(group, knots, tolerance, certifying.certify_cells, first=int(some[0])))
    columns = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    _say_what_is_open(columns, tolerance)
    said = {
        "tolerance": tolerance,
        "absolute": ABSOLUTE,
        "cells": certifying.certify_cells,
        "method": "branch and bound over alpha with Taylor models of degree 2, float64 with its rounding",
    }
    return dataclasses.replace(
        prepared,
        lines=dataclasses.replace(lines, columns={**lines.columns, **columns}),
        about={**prepared.about, "certified": said},
    )


def _objective(prepared: Prepared) -> Objective:
    """The problem's objective in float64, layer by layer; raises `Unsupported` for what is no function of alpha that
    bounds are known for.
    """
    compute = prepared.compute
    if compute.autocast is not None:
        raise Unsupported("`certify` bounds the loss in exact arithmetic, not in low precision: leave `autocast` out")
    if compute.draws is not None:
        raise Unsupported("`certify` bounds a loss that draws nothing: leave `draws` out")
    if prepared.objective.batchnorm == "recalibrate":
        raise Unsupported(
            "`certify` cannot bound a loss with statistics of BatchNorm that are estimated anew at each point: choose "
            '`batchnorm="interpolate"`, or keep'
        )
    wanted = dataclasses.replace(compute, dtype=torch.float64, engine="stacked")
    try:
        objective = wanted.objective(prepared.problem)
    except Unsupported as error:
        reason = str(error).partition(": ")[0]
        raise Unsupported(f"`certify` takes layers one by one, and {reason}: leave `certify` out") from error
    if not isinstance(objective, Objective):
        raise Unsupported(f"`certify` takes layers one by one, which {prepared.problem.title()} does not: leave it out")
    return objective


@dataclasses.dataclass(eq=False)
class _Cells:
    """Pieces of segments: which segment, from where to where, and upper bounds of the loss and of its rise above the
    chord in each.
    """

    segment: Int[Tensor, " cell"]
    low: Float[Tensor, " cell"]
    high: Float[Tensor, " cell"]
    loss: Float[Tensor, " cell"]
    rise: Float[Tensor, " cell"]

    def select(self, index: Tensor) -> "_Cells":
        return _Cells(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @staticmethod
    def join(parts: "list[_Cells]") -> "_Cells":
        return _Cells(*(torch.cat([getattr(each, f.name) for each in parts]) for f in dataclasses.fields(_Cells)))


def _bounded(
    group: Segments, knots: Float[Tensor, " knot"], tolerance: float, most: int, *, first: int
) -> dict[str, Tensor]:
    """Columns of some lines, whose segments follow each other, parted into `most` cells each at most."""
    segments = len(knots) - 1
    count = len(group.start) // segments
    every = torch.arange(len(group.start), device=knots.device)
    zero = knots.new_zeros(count)
    starts = group(every[::segments], zero, zero)
    ends = group(every[segments - 1 :: segments], zero + 1, zero)
    at = torch.stack([starts.terms[0], ends.terms[0]])
    slack = torch.maximum(starts.error, ends.error)
    if not bool((at.isfinite() & slack.isfinite()).all()):
        wrong = first + int((~(at.isfinite() & slack.isfinite()).all(0)).nonzero()[0])
        raise LandscapeError(f"the loss at an end of line {wrong} is not finite, and has no bound: leave `certify` out")
    climb = at[1] - at[0]
    best, rise = (at - slack).amax(0), torch.zeros_like(slack)
    spent = torch.zeros(count, dtype=torch.int64, device=knots.device)
    done: list[_Cells] = []
    segment = every.repeat_interleave(_PIECES)
    low = torch.arange(_PIECES, device=knots.device, dtype=torch.float64).repeat(len(every)) / _PIECES
    high, halvings = low + 1 / _PIECES, 0
    while len(segment):
        line, length = segment // segments, knots.diff()[segment % segments]
        centre, radius = (low + high) / 2, (high - low) / 2
        found = group(segment, centre, radius)
        spent += torch.bincount(line, minlength=count)
        above = found.terms.clone()
        above[0] -= at[0][line] + climb[line] * (knots[segment % segments] + length * centre)
        above[1] -= climb[line] * length
        tops = [_top(found.terms, radius), _top(above, radius)]
        error = found.error.nan_to_num(nan=np.inf)
        best = best.scatter_reduce(0, line, (tops[0] - error).nan_to_num(nan=-np.inf), "amax")
        rise = rise.scatter_reduce(0, line, (tops[1] - error - slack[line]).nan_to_num(nan=-np.inf), "amax")
        upper = [(top + error).nan_to_num(nan=np.inf) for top in tops]
        cells = _Cells(segment, low, high, upper[0], upper[1] + slack[line])
        near = tolerance * best + ABSOLUTE
        open_ = (cells.loss > (best + near)[line]) | (cells.rise > (rise + near)[line])
        # Twice as many cells as are open come next: a line stops before it has more than it may.
        more = 2 * torch.bincount(line[open_], minlength=count)
        open_ &= (spent + more <= most)[line] & (halvings < _HALVINGS)
        done.append(cells.select(~open_))
        cells, halvings = cells.select(open_), halvings + 1
        middle = (cells.low + cells.high) / 2
        segment = cells.segment.repeat(2)
        low, high = torch.cat([cells.low, middle]), torch.cat([middle, cells.high])
    return _columns(_Cells.join(done), knots, at, slack, best, rise, spent)


def _top(terms: Float[Tensor, "3 cell"], radius: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """The maximum of a parabola over |t| <= radius."""
    value, slope, bend = terms
    end = value + slope.abs() * radius + bend * radius.square()
    crest = (-slope / (2 * bend)).clamp(-radius, radius)
    return torch.where(bend < 0, value + slope * crest + bend * crest.square(), end)


def _columns(
    cells: _Cells, knots: Tensor, at: Tensor, slack: Tensor, best: Tensor, rise: Tensor, spent: Tensor
) -> dict[str, Tensor]:
    """What is known in the end; upper bounds are at least the lower ones."""
    segments = len(knots) - 1
    line, place = cells.segment // segments, cells.segment % segments
    upper, risen = (
        below.scatter_reduce(0, line, each, "amax") for below, each in ((best, cells.loss), (rise, cells.rise))
    )
    alphas = [knots[place] + knots.diff()[place] * each for each in (cells.low, cells.high)]
    reach = cells.loss >= best[line]
    lowest = torch.ones_like(best).scatter_reduce(0, line[reach], alphas[0][reach], "amin")
    highest = torch.zeros_like(best).scatter_reduce(0, line[reach], alphas[1][reach], "amax")
    mean, higher = at.mean(0), at.amax(0)
    return {
        "max_lower": best,
        "max_upper": upper,
        "peak_low": lowest,
        "peak_high": highest,
        "above_chord_lower": rise,
        "above_chord_upper": risen,
        "above_mean_lower": best - mean - slack,
        "above_mean_upper": upper - mean + slack,
        "above_higher_end_lower": (best - higher - slack).clamp(min=0),
        "above_higher_end_upper": (upper - higher + slack).clamp(min=0),
        "bound_cells": spent,
    }


def _check(objective: Objective, group: Segments) -> None:
    """Raise `Unverified` unless the plain module's loss is within the bounds of points at a start, within and at an
    end.
    """
    some = torch.linspace(0, len(group.start) - 1, min(len(group.start), _CHECKED)).long().to(objective.device)
    for share in (0.0, 0.375, 1.0):
        at = torch.full((len(some),), share, dtype=torch.float64, device=objective.device)
        found = group(some, at, torch.zeros_like(at))
        plain = objective.plain(group.at(some, share))["loss"]
        off = (plain - found.terms[0]).abs() - found.error - _TOLERANCE * plain.abs() - ABSOLUTE
        if bool((off > 0).any()):
            worst = int(off.argmax())
            raise Unverified(
                f"the bounds at a point are {float(found.terms[0][worst]):.12g} +- {float(found.error[worst]):.1g}, "
                f"the plain module's loss is {float(plain[worst]):.12g}: `certify` is wrong for this model, please "
                "report it"
            )


def _say_what_is_open(columns: dict[str, Any], tolerance: float) -> None:
    """A line about bounds that are wider than was asked for."""
    wide = np.maximum(
        columns["max_upper"] - columns["max_lower"], columns["above_chord_upper"] - columns["above_chord_lower"]
    )
    missed = wide > (tolerance * columns["max_lower"] + ABSOLUTE) * (1 + 1e-9)
    if missed.any():
        worst = int(np.argmax(np.where(missed, wide, 0)))
        _log.warning(
            "`certify` is not reached on %s of %d; on line %d the bounds are %.3g apart, %.3g of the loss, after %d "
            "cells: they hold, and more `certify_cells` make them narrower",
            plural(int(missed.sum()), "line"),
            len(wide),
            worst,
            wide[worst],
            wide[worst] / max(columns["max_lower"][worst], ABSOLUTE),
            columns["bound_cells"][worst],
        )
