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
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.core.errors import LandscapeError, Unsupported, Unverified, plural
from landscape.core.fields import check, option
from landscape.core.files import replacing
from landscape.core.reading import read_arrays
from landscape.core.unfinished import Progress, Shards
from landscape.engine.bounds import Bounds, Segments
from landscape.engine.objective import Objective
from landscape.engine.plain import PlainObjective
from landscape.evaluation.evaluate import identity
from landscape.evaluation.routes import Prepared
from landscape.problems.model import Model
from landscape.space.family import Family

__all__ = ["ABSOLUTE", "Certifying", "bounded", "certified", "forgotten"]

#: Widths of bounds are at most `certify` times the line's highest loss and this.
ABSOLUTE = 1e-12

#: Pieces of a segment of a line at first; so many cells of a line are halved together; length below which none is.
_PIECES, _TOGETHER, _SHORTEST = 8, 32, 2.0**-40

#: Bytes of what is kept of the first layer for lines that are bounded together, and lines at most.
_BYTES, _LINES = 2**27, 256

#: Seconds from which on no more of them are bounded together: about what an interruption loses.
_SECONDS = 2.0

#: Lines of which short cells are compared with the plain module's own loss, difference at most, relative and absolute
#: (PyTorch's softplus is a straight line from 20 on, which misses 2e-9), and half the length of these cells.
_CHECKED, _TOLERANCE, _SHORT = 16, 1e-10, 2.0**-10

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
        10_000,
        "Pieces into which `certify` parts a line, at most, but 8 a straight part; what is not reached is said.",
        at_least=_PIECES,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.certify is None and self.certify_cells != type(self).certify_cells:
            raise LandscapeError("`certify_cells` is for bounds of the highest loss: ask for them with `certify`")


def certified(
    prepared: Prepared,
    certifying: Certifying,
    *,
    save: Path | None = None,
    overwrite: bool = False,
    keep_seconds: float = 10.0,
    on_progress: Progress = lambda done, total: None,
) -> Prepared:
    """The same lines with bounds as columns: `max_lower` and `max_upper` of the highest loss from alpha 0 to 1,
    `peak_low` and `peak_high` of the alpha where it is; and of the barriers, `above_chord_lower` and so on.

    Bounded is the loss, in exact arithmetic, at all alphas of the lines between the networks as they are stored; the
    rounding of what is computed here in float64 is bounded along with it. Lines with a loss at an end that is not
    finite have NaN, and it is said. Bounds of finished lines are kept beside
    `save`, every `keep_seconds` and when this is interrupted, until they are `forgotten`; `on_progress` is told of
    lines. Raises `Unsupported`, naming it, for what nothing bounds, `Unverified` if the plain module's loss is not
    within the bounds of a point.
    """
    tolerance, lines = certifying.certify, prepared.lines
    assert tolerance is not None
    said = {
        "tolerance": tolerance,
        "absolute": ABSOLUTE,
        "cells": certifying.certify_cells,
        "method": "branch and bound over alpha with Taylor models of degree 2, float64 with its rounding",
    }
    work = bounded(prepared, certifying, on_progress)
    if save is None:
        found = _Bounded.join(list(work([])))
    else:
        plan = {**identity(lines.family), "lines": len(lines), "objective": dict(prepared.about), "certified": said}
        parts = _kept(save).gather(
            plan, work, total=len(lines), force=overwrite, seconds=keep_seconds, on_progress=on_progress
        )
        found = _Bounded.join(parts)
    on_progress(len(lines), len(lines))
    _say_what_is_open(found.columns, tolerance)
    return dataclasses.replace(
        prepared,
        lines=dataclasses.replace(lines, columns={**lines.columns, **found.columns}),
        about={**prepared.about, "certified": said},
    )


def forgotten(save: Path) -> None:
    """Bounds that are kept beside a result are in it now."""
    _kept(save).remove()


@dataclasses.dataclass(frozen=True, eq=False)
class _Bounded:
    """Columns of some consecutive lines."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["max_lower"])

    @classmethod
    def keep(cls, parts: "Sequence[_Bounded]", path: Path) -> None:
        """Write parts to one file, atomically."""
        with replacing(path) as target, target.open("wb") as file:
            np.savez(file, **cls.join(parts).columns)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> "_Bounded":
        try:
            return cls(read_arrays(path))
        except LandscapeError as error:
            raise type(error)(f"{error}: delete it, its lines are bounded again") from error

    @classmethod
    def join(cls, parts: "Sequence[_Bounded]") -> "_Bounded":
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})


def _kept(save: Path) -> Shards[_Bounded]:
    return Shards(save.with_name(save.name + ".bounds"), "lines", _Bounded.read, _Bounded.keep, ending=".npz")


def bounded(
    prepared: Prepared, certifying: Certifying, on_progress: Progress
) -> Callable[[Sequence[_Bounded]], Iterator[_Bounded]]:
    """From what is finished to the bounds of the other lines, some at a time; raises as `certified` does."""
    objective, times = _objective(prepared)
    return functools.partial(
        _groups, Bounds(objective, times), objective, prepared.lines.family, certifying, on_progress
    )


def _groups(
    bounds: Bounds,
    objective: Objective,
    family: Family,
    certifying: Certifying,
    on_progress: Progress,
    finished: Sequence[_Bounded],
) -> Iterator[_Bounded]:
    """The bounds of the lines that are not finished, some lines at a time: as many as take seconds."""
    assert certifying.certify is not None
    family = family.to(objective.device, torch.float64)
    knots = torch.tensor([alpha for alpha, _ in family.knots], dtype=torch.float64, device=objective.device)
    segments, total = len(knots) - 1, len(family)
    most = max(1, min(_LINES, _BYTES // (bounds.kept_bytes * segments)))
    first, size = sum(map(len, finished)), max(1, min(_CHECKED, most // 8))  # few of large networks

    def along(some: Tensor) -> Segments:
        ends = (family.at(some.repeat_interleave(segments), each.repeat(len(some))) for each in (knots[:-1], knots[1:]))
        return bounds.along(*ends)

    if first < total:
        _check(objective, along(torch.linspace(0, total - 1, min(total, most, _CHECKED)).long().to(objective.device)))
    while first < total:
        started = time.monotonic()
        some = torch.arange(first, min(first + size, total), device=objective.device)

        def tell(closed: int, first: int = first) -> None:
            on_progress(first + closed, total)

        columns = _bounded(along(some), knots, certifying.certify, certifying.certify_cells, tell=tell)
        yield _Bounded({name: each.cpu().numpy() for name, each in columns.items()})
        first += len(some)
        size = min(most, 2 * size if time.monotonic() - started < _SECONDS else size)


def _objective(prepared: Prepared) -> tuple[Objective, int]:
    """The problem's objective in float64, layer by layer, and how many times it the loss is, which of a sum over
    samples are these; raises `Unsupported` for what is no function of alpha that bounds are known for.
    """
    compute, problem = prepared.compute, prepared.problem
    averaged = problem.averaged if isinstance(problem, Model) else None
    if compute.autocast is not None:
        raise Unsupported("`certify` bounds the loss in exact arithmetic, not in low precision: leave `autocast` out")
    if compute.draws is not None:
        raise Unsupported("`certify` bounds a loss that draws nothing: leave `draws` out")
    if compute.l2:
        raise Unsupported("`certify` bounds a loss without a penalty: leave `l2` out")
    if prepared.lines.family.kind not in ("line", "polyline", "ray"):
        raise Unsupported("`certify` bounds the loss on straight lines: leave `path` out")
    if prepared.objective.batchnorm == "recalibrate":
        raise Unsupported(
            "`certify` cannot bound a loss with statistics of BatchNorm that are estimated anew at each point: choose "
            '`batchnorm="interpolate"`, or keep'
        )
    if isinstance(prepared.objective, PlainObjective) and not prepared.objective.reads_outputs:
        raise Unsupported("`certify` bounds losses of outputs and targets, and `batch_loss` is another: leave it out")
    try:
        objective = dataclasses.replace(compute, dtype=torch.float64, engine="stacked").stacks(averaged or problem)
    except Unsupported as error:
        reason = str(error).partition(": ")[0]
        raise Unsupported(f"`certify` takes layers one by one, and {reason}: leave `certify` out") from error
    if averaged is not None and getattr(averaged.source, "weights", None) is not None:
        raise Unsupported("`certify` bounds sums of samples that weigh the same: leave their weights out")
    return objective, objective.samples if averaged is not None else 1


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
    group: Segments,
    knots: Float[Tensor, " knot"],
    tolerance: float,
    most: int,
    *,
    tell: Callable[[int], None],
) -> dict[str, Tensor]:
    """Columns of some lines, whose segments follow each other, parted into `most` cells each at most, NaN of those with
    a loss at an end that is not finite; `tell` hears how many are done.
    """
    segments = len(knots) - 1
    count = len(group.start) // segments
    every = torch.arange(len(group.start), device=knots.device)
    zero = knots.new_zeros(count)
    starts = group(every[::segments], zero, zero)
    ends = group(every[segments - 1 :: segments], zero + 1, zero)
    at = torch.stack([starts.terms[0], ends.terms[0]])
    slack = torch.maximum(starts.error, ends.error)
    finite = (at.isfinite() & slack.isfinite()).all(0)  # other lines have no chord, and stay without bounds
    climb = at[1] - at[0]
    best, rise = (at - slack).amax(0).clamp(min=0), torch.zeros_like(slack)
    spent = torch.zeros(count, dtype=torch.int64, device=knots.device)
    going = every[finite.repeat_interleave(segments)]
    segment = going.repeat_interleave(_PIECES)
    low = torch.arange(_PIECES, device=knots.device, dtype=torch.float64).repeat(len(going)) / _PIECES
    high = low + 1 / _PIECES
    shut, waiting = [_Cells(segment[:0], low[:0], low[:0], low[:0], low[:0])], list[_Cells]()
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
        cells = _Cells.join([*waiting, _Cells(segment, low, high, upper[0], upper[1] + slack[line])])
        line, near = cells.segment // segments, tolerance * best + ABSOLUTE
        over = torch.maximum(cells.loss - (best + near)[line], cells.rise - (rise + near)[line])
        open_ = (over > 0) & (cells.high - cells.low > _SHORTEST)
        shut.append(cells.select(~open_))
        cells, line, over = cells.select(open_), line[open_], over[open_]
        # Each half of what is parted now counts, and the highest go first.
        chosen = _place(line, over) < ((most - spent) // 2).clamp(max=_TOGETHER)[line]
        waiting = [cells.select(~chosen)]
        cells = cells.select(chosen)
        middle = (cells.low + cells.high) / 2
        segment = cells.segment.repeat(2)
        low, high = torch.cat([cells.low, middle]), torch.cat([middle, cells.high])
        tell(count - int(torch.bincount(segment // segments).count_nonzero()))
    columns = _columns(_Cells.join([*shut, *waiting]), knots, at, slack, best, rise, spent)
    return {
        name: each if name == "bound_cells" else each.masked_fill(~finite, torch.nan) for name, each in columns.items()
    }


def _place(line: Int[Tensor, " cell"], over: Float[Tensor, " cell"]) -> Int[Tensor, " cell"]:
    """How many cells of its line each has before it, the highest first."""
    order = over.argsort(descending=True)
    order = order[line[order].argsort(stable=True)]
    sorted_ = line[order]
    place = torch.arange(len(line), device=line.device)
    return torch.empty_like(place).scatter_(0, order, place - torch.searchsorted(sorted_, sorted_))


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
    """Raise `Unverified` unless the plain module's loss is within the bounds of short cells at a start, an end and
    between.
    """
    some = torch.linspace(0, len(group.start) - 1, min(len(group.start), _CHECKED)).long().to(objective.device)
    radius = torch.full((len(some),), _SHORT, dtype=torch.float64, device=objective.device)
    for centre in (_SHORT, 0.375, 1 - _SHORT):
        found = group(some, radius * 0 + centre, radius)
        for t in (-_SHORT, _SHORT):
            plain = objective.plain(group.at(some, centre + t))["loss"] * group.bounds.times
            value = found.terms[0] + t * (found.terms[1] + t * found.terms[2])
            off = (plain - value).abs() - found.error - _TOLERANCE * (1 + plain.abs())
            if bool((off > 0).any()):  # of what overflows there is nothing to compare
                worst = int(off.nan_to_num(nan=-np.inf).argmax())
                raise Unverified(
                    f"the bounds at a point are {float(value[worst]):.12g} +- {float(found.error[worst]):.1g}, the "
                    f"plain module's loss is {float(plain[worst]):.12g}: `certify` is wrong for this model, please "
                    "report it"
                )


def _say_what_is_open(columns: Mapping[str, Any], tolerance: float) -> None:
    """A line about lines without bounds, and one about bounds that are wider than was asked for."""
    if len(lost := np.flatnonzero(np.isnan(columns["max_upper"]))):
        _log.warning(
            "%s of %d without bounds, NaN in their columns: the loss at an end of line %d is not finite",
            plural(len(lost), "line"),
            len(columns["max_upper"]),
            lost[0],
        )
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
