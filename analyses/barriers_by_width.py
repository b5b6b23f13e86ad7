"""Does width smooth the surface and join valleys? Barriers and the number of valleys against m.

The study's second post claims both. Measure: the barrier between each seed and the known solution, whose spare filters
are copies of the others or 0, and between seeds; and valleys, sets of seeds joined by straight lines that climb less
than 0.01 nats per cell above their chord. One end of each walk is replaced by the network that computes the same and
lies close to the other: filters in another order, with other scales. Barriers that do not fall with the width, or as
many valleys as seeds at each, would refute the claim.
"""

from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from landscape import Training, figures, walk
from landscape.analysis.barriers import barriers, representatives, square
from landscape.analysis.outcomes import truth_tables
from landscape.core.intervals import Proportion, pairs_interval
from landscape.figures.success import NAMES
from landscape.problems.life import Life
from study import Study, curve, spread

KNOWN = {"known, filters copied": "presolve", "known, spare filters 0": "presolve+zero"}
LOW = 0.01  # nats per cell; a barrier below is none


def valleys(joined: np.ndarray, of: np.ndarray) -> int:
    """Number of sets of these seeds that lines without a barrier join."""
    return int(connected_components(joined[np.ix_(of, of)], directed=False)[0])


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m to 8, 1,000 steps: about 15 seconds on two cores",
        full="100 seeds, 40 from m = 4 and 24 from m = 16 on, m to 64, 3,000 steps: about 6 minutes on one core",
    )
    widths, many, batches = ((1, 2, 4, 8), 8, 1000) if study.quick else ((1, 2, 4, 8, 16, 32, 64), 100, 3000)

    def find(m_factor: int) -> dict[str, Any]:
        problem, seeds = Life(m_factor=m_factor), min(many, 100 if m_factor < 4 else 40 if m_factor < 16 else 24)
        run = study.train(problem, Training(batches=batches), f"m{m_factor}", range(seeds), engine="fused")
        lines = representatives(walk(str(run.path), str(run.path), align=True, pairs="all"))["aligned"]
        heights, stack = square(barriers(lines).above_chord, seeds), run.checkpoint().stack
        joined = np.where(np.eye(seeds), np.nan, heights < LOW)
        table, rng = joined > 0, np.random.default_rng(0)
        halves = [valleys(table, rng.permutation(seeds)[: seeds // 2]) / (seeds // 2) for _ in range(400)]
        return {
            "solved": Proportion(int(problem.objective()(stack)["solved"].sum()), seeds),
            "functions": len(np.unique(truth_tables(problem, stack)[0], axis=0)),
            "between seeds": [np.nanmedian(heights), *pairs_interval(heights)],
            "pairs joined": [np.nanmean(joined), *pairs_interval(joined, "mean", within=(0, 1))],
            "valleys": valleys(table, np.arange(seeds)),
            "valleys / seeds, of halves": np.quantile(halves, (0.5, 0.025, 0.975)),
        }

    def find_known(m_factor: int) -> dict[str, Any]:
        run, told = str(study.runs / f"m{m_factor}"), {}
        for name, known in KNOWN.items():
            heights = barriers(representatives(walk(run, known, align=True))["aligned"]).above_chord
            told[name] = spread(heights)
            told[f"joined, {name}"] = Proportion(int((heights < LOW).sum()), len(heights))
        return told

    setting = {"seeds": many, "batches": batches, "no_barrier_below": LOW}
    cells = study.cells({"m_factor": widths}, find, **setting)
    for each, other in zip(cells, study.cells({"m_factor": widths}, find_known, "known", **setting), strict=True):
        each["found"] |= other["found"]
    m = [each["cell"]["m_factor"] for each in cells]
    drawn = {
        "heights": {**{name: name for name in KNOWN}, "between seeds": "between seeds"},
        "valleys": {
            **{f"joined, {name}": name for name in KNOWN},
            "pairs joined": "pairs of seeds",
            "valleys / seeds, of halves": "valleys / seeds",
        },
    }
    about = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {many} seeds a width, at most 40 from m = 4 and 24 from m = "
        f"16 on, {batches:,} steps of Adam at 1e-2 on the exact loss. Straight lines of 51 points, order and scales of "
        "filters chosen to lie close. "
    )
    captions = {
        "heights": "Medians; bands: 95 % each, over seeds, between them each with all its pairs.",
        "valleys": f"Joined: a barrier below {LOW} nats per cell. Valleys: seeds joined by such lines; median over "
        "random halves of the seeds, band: 95 % of the halves, no interval. Other bands: 95 % each, of pairs over "
        "seeds, each with all its pairs.",
    }
    for part, names in drawn.items():
        curves = [curve(name, m, [each["found"][of] for each in cells]) for of, name in names.items()]
        look: dict[str, Any] = {
            "xlabel": NAMES["m_factor"],
            "xscale": "log",
            "height": 3.2,
            "ylabel": "joined, or valleys / seeds (%)",
        }
        if part == "heights":
            look |= {"ylabel": "barrier above the chord (nats per cell)", "percent": False, "yscale": "log"}
        study.draw(figures.series_figure([("", curves)], caption=about + captions[part], **look), part)
    told = (f"m = {k}: {each['found']['valleys']} valleys" for k, each in zip(m, cells, strict=True))
    study.done(", ".join(told))


if __name__ == "__main__":
    main()
