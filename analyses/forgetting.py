"""Does a network that learns a second task forget the first one, and what keeps it? Ends in the plane of both losses.

Conway's rule, then HighLife (B36/S23), which differ where a dead cell has six live neighbours, probability P: with an
answer x there, losses are at least -P log(1 - x) and -P log x. And Conway's rule on dead, then on live cells, which a
network can do. Measured: both losses, is the first task right where both agree, barrier of the mean loss; back again,
with rehearsal, and with L2 towards the first end. Refuted if only P is lost. M. McCloskey, N. Cohen (1989).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.analysis.barriers import DEFINITIONS
from landscape.core.intervals import Proportion
from landscape.engine.fused import Fused
from landscape.figures.pages import COLORS, INK, WIDTH, powers_along, sheet
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.life.patterns import PATTERNS
from study import Study, adam, middle

LIVE, ALPHA = torch.tensor(PATTERNS[:, 1, 1] == 1), np.linspace(0, 1, 51)
PAIRS = {"Life, then HighLife": ("B3/S23", "B36/S23"), "dead, then live cells": ("B3/S23", "B3/S23")}
ENDS = {  # shares of both losses, L2 towards where it begins, and where that is
    "first alone": (1.0, 0.0, 0.0, "start"),
    "second alone": (0.0, 1.0, 0.0, "first alone"),
    "and back": (1.0, 0.0, 0.0, "second alone"),
    "10 % rehearsal": (0.1, 0.9, 0.0, "first alone"),
    "L2, 0.1": (0.0, 1.0, 0.1, "first alone"),
    "both": (0.5, 0.5, 0.0, "first alone"),
    "both from the start": (0.5, 0.5, 0.0, "start"),
}
Task = tuple[Fused, Tensor]


def task(pair: str, number: int, m: int) -> Task:
    """The first or second task of a pair: a loss, and what patterns weigh, to a mean."""
    fused = Life(rule=PAIRS[pair][number], m_factor=m).objective().with_fused(training=True).fused
    weights = torch.tensor(fused.weights[None], dtype=torch.float32)
    weights = weights if pair.startswith("Life") else weights * (LIVE if number else ~LIVE)
    return fused, weights / weights.sum()


def solved(of: Task, flat: Tensor, where: Tensor | float = 1.0) -> np.ndarray:
    """Whether each seed is right wherever it counts."""
    return np.asarray(of[0](flat, of[1] * where)["accuracy"] > (of[1] * where).double().sum() * (1 - 1e-9))


def descend(start: Tensor, steps: int, parts: list[tuple[Task, float]], l2: float) -> Tensor:
    """Where steps of Adam lead on a sum of losses, with L2 towards the start."""

    def gradient(flat: Tensor) -> Tensor:
        return l2 * (flat - start) + sum(k * fused.gradient(flat, each) for (fused, each), k in parts if k)

    return adam(start, steps, gradient)


def ends(pair: str, m: int, seeds: int, steps: int) -> dict[str, Any]:
    """All ends of a pair, seed by seed from the same initial points."""
    both = one, two = task(pair, 0, m), task(pair, 1, m)
    agree = torch.tensor(one[0].side == two[0].side)
    places, found = {"start": initialise(Life(m_factor=m).network(), range(seeds)).flatten()}, dict[str, Any]()
    for name, (first, second, l2, begin) in ENDS.items():
        flat = places[name] = descend(places[begin], steps, [(one, first), (two, second)], l2)
        line = [torch.lerp(places["first alone"], flat, float(alpha)) for alpha in ALPHA]
        losses = np.array([[fused(point, weights)["loss"].numpy() for point in line] for fused, weights in both])
        rises = DEFINITIONS["above_chord"].rises(ALPHA, losses.mean(0).T).max(1)
        right = [Proportion(int(solved(each, flat, agree).sum()), seeds) for each in both]
        values = [middle(each) for each in (*losses[:, -1], rises)]
        found[name] = {"losses": values[:2], "right": right, "barrier": values[2], "line": np.median(losses, 2)[:, ::5]}
    return found | {"disputed": float((~agree * one[1]).sum())}


def main() -> None:
    quick, full = "24 seeds, 300 steps, m = 4: half a minute", "100 seeds, 3,000 steps, m to 8: 10 minutes on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    count, steps, widths = (24, 300, (4,)) if study.quick else (100, 3000, (2, 4, 8))
    how = {"seeds": count, "steps": steps}
    cells = study.cells({"pair": tuple(PAIRS), "m": widths}, lambda **k: ends(**k, **how), **how)
    caption = (
        f"One step of Life, {count} seeds; for each name {steps:,} steps of Adam at 1e-2, exact loss; medians with "
        "95 % intervals over seeds. Lines: straight from the first task alone to the second alone, to rehearsal, to L2 "
        "and to both; medians of each loss at 11 points, which need not keep to the bound. Black: no network is below."
    )
    with sheet((WIDTH, 2.5 * len(PAIRS)), caption, len(cells), (1,) * len(widths)) as (figure, axes):
        for ax, (cell, found) in zip(axes, ((each["cell"], each["found"]) for each in cells), strict=True):
            if lost := found["disputed"]:
                x = np.linspace(0.002, 0.998, 1000)
                ax.plot(-lost * np.log1p(-x), -lost * np.log(x), color=INK, lw=1)
            for name, color, marker in zip(ENDS, (*COLORS[:5], COLORS[6], INK), "os^DvPX", strict=True):
                if ENDS[name][3] == "first alone":
                    ax.plot(*np.array(found[name]["line"]), color=color, lw=1)
                (x, *wide), (y, *high) = found[name]["losses"]
                bars = {"xerr": [[x - wide[0]], [wide[1] - x]], "yerr": [[y - high[0]], [high[1] - y]]}
                ax.errorbar(x, y, **bars, color=color, marker=marker, ms=5, ls="", label=name)
            ax.set(xscale="log", yscale="log", xlabel="loss, first task", ylabel="loss, second task")
            ax.set_title(f"{cell['pair']}\nm = {cell['m']}")
            powers_along(ax.xaxis)
            powers_along(ax.yaxis)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    study.draw(figure)
    study.done("; ".join(f"{c['cell']}: {c['found']['second alone']['right'][0]['value']:.2f} right" for c in cells))


if __name__ == "__main__":
    main()
