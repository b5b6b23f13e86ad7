"""Do more parameters smooth the surface? Roughness of lines, monotone lines and curvature at the ends against width.

Question: the study's second post says that they do; Y. Dauphin et al. (NIPS 2014) that saddles are what training meets.
Measure, over 100 seeds a width: along straight lines of 101 points to each end from the initial point, and from the
known solution, of which the representative close by is taken and the spare filters are copies or 0, the total variation
of the loss beyond that of a monotone line, the share of lines with several peaks, and of monotone ones; at the ends the
largest eigenvalue of the Hessian, the share of eigenvalues beyond 1/1000 of it, and of ends with such a negative one.
Roughness that does not fall with the width, or monotone lines that do not become more, would refute the claim.
Barriers: `barriers_by_width`.
"""

from typing import Any

import numpy as np

from landscape import Result, Training, curvature, figures, walk
from landscape.analysis.barriers import barriers, representatives
from landscape.core.intervals import Proportion
from landscape.figures.pages import WIDTH, sheet
from landscape.figures.success import NAMES
from landscape.problems.life import Life
from study import Study, curve, spread

KNOWN = {"known, filters copied": "presolve", "known, spare filters 0": "presolve+zero"}
LINES = (*KNOWN, "initial point")
PANELS = {
    "variation": "variation beyond monotone (nats)",
    "monotone": "monotone lines (%)",
    "several peaks": "lines with several peaks (%)",
}
LARGEST = {"largest eigenvalue": "largest eigenvalue of the Hessian"}


def rough(lines: Result) -> dict[str, Any]:
    """How far lines are from monotone ones."""
    found, loss = barriers(lines), lines.loss
    beyond = np.abs(np.diff(loss, axis=1)).sum(1) - np.abs(loss[:, -1] - loss[:, 0])
    shares = {"several peaks": found.peaks > 1, "monotone": np.isin(found.course, (0, 1))}
    return {
        "variation": spread(beyond),
        **{name: Proportion(int(each.sum()), len(each)) for name, each in shares.items()},
    }


def bent(run: str, parameters: int) -> dict[str, Any]:
    """Curvature at the ends: all of it up to m = 8, else the largest eigenvalue."""
    whole = parameters <= 305
    found = curvature(run, top=parameters if whole else 1)
    largest = found.eigenvalues.max(1)
    told = {"largest eigenvalue": spread(largest)}
    if whole:
        beyond = found.eigenvalues / largest[:, None]
        negative = (beyond < -1e-3).any(1)
        told |= {
            "eigenvalues beyond 1/1000": spread((np.abs(beyond) > 1e-3).mean(1)),
            "ends with a negative one": Proportion(int(negative.sum()), len(negative)),
            "negative ones": spread((beyond < -1e-3).mean(1)),
        }
    return told


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="10 seeds, m to 4, 1,000 steps: about 10 seconds on two cores",
        full="100 seeds, m to 32, 3,000 steps: about 3 minutes on one core",
    )
    widths, seeds, batches = ((1, 2, 4), 10, 1000) if study.quick else ((1, 2, 4, 8, 16, 32), 100, 3000)

    def find(m_factor: int) -> dict[str, Any]:
        problem, part = Life(m_factor=m_factor), f"m{m_factor}"
        run = study.train(problem, Training(batches=batches, save_at=(0, batches)), part, range(seeds), engine="fused")
        lines = [
            representatives(walk(str(run.path), name, points=101, align=True))["aligned"] for name in KNOWN.values()
        ]
        lines.append(walk(f"{run.path}/@0", str(run.path), points=101))
        solved = int(lines[-1].values["solved"][:, -1].sum())
        return {
            "solved": Proportion(solved, seeds),
            **dict(zip(LINES, map(rough, lines), strict=True)),
            **bent(str(run.path), 2 * m_factor**2 + 22 * m_factor + 1),
        }

    cells = study.cells({"m_factor": widths}, find, batches=batches, seeds=seeds)
    m = [each["cell"]["m_factor"] for each in cells]
    lines = {of: [curve(name, m, [each["found"][name][of] for each in cells]) for name in LINES] for of in PANELS}
    lines["largest eigenvalue"] = [curve("at the ends", m, [each["found"]["largest eigenvalue"] for each in cells])]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, {batches:,} steps of Adam at 1e-2 on the "
        "exact loss. Straight lines of 101 points to the ends, from the known solution's representative close by. "
        "Medians over seeds, or shares. Monotone: up to 1/1000 of the line's range; peaks: by 1/100 of it. Hessian of "
        "the exact loss, which scales of filters change. Bands: 95 % each, over seeds."
    )
    with sheet((WIDTH, 5.6), caption, 4, (1, 1)) as (figure, axes):
        for ax, (of, label) in zip(axes, (PANELS | LARGEST).items(), strict=True):
            share = of in ("monotone", "several peaks")
            look = {"percent": share, "yscale": "log" if of in LARGEST else "linear"}
            figures.series(ax, lines[of], xlabel=NAMES["m_factor"], ylabel=label, xscale="log", **look)
    study.draw(figure)
    study.done("; ".join(f"m = {k}: {each['found'][LINES[0]]}" for k, each in zip(m, cells, strict=True)))


if __name__ == "__main__":
    main()
