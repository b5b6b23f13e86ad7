"""Does width smooth the surface and join valleys? Barriers and the number of valleys against m.

The study's second post claims both. Here: the barrier from the known solution to each seed, and between seeds; and
valleys, sets of seeds joined by straight lines without a barrier. One end of each walk is replaced by the network that
computes the same and lies close to the other: filters in another order, with other scales.
"""

import numpy as np
from scipy.sparse.csgraph import connected_components

from landscape import figures
from landscape.analysis.barriers import barriers, representatives, square
from landscape.analysis.outcomes import truth_tables
from landscape.figures.success import NAMES
from landscape.problems.places import run_members
from study import Study

LOW = 0.01  # nats per cell; a barrier below is none


def valleys(joined: np.ndarray, of: np.ndarray) -> int:
    """Number of sets of these seeds that lines without a barrier join."""
    return int(connected_components(joined[np.ix_(of, of)], directed=False)[0])


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="24 seeds, m to 32: about a minute on two cores",
        full="100 seeds, m to 64: about a day on two cores, half an hour on a GPU (estimate)",
    )
    widths = (1, 2, 4, 8, 16, 32) if study.quick else (1, 2, 4, 8, 16, 32, 64)
    seeds = 24 if study.quick else 100
    done = study.sweep(grid={"m_factor": widths}, seeds=range(seeds), training={"batches": 3000, "lr": 1e-2})
    rng, rows = np.random.default_rng(0), {}
    for cell in done.cells():
        m, run = cell.values["m_factor"], str(cell.path)
        known, between = (
            representatives(study.walk(start, run, f"{name}-m{m}", align=True, pairs=pairing))["aligned"]
            for start, name, pairing in (("presolve", "known", "matched"), (run, "pairs", "all"))
        )
        heights = square(barriers(between).above_chord, seeds)
        joined = heights < LOW
        problem, stack = run_members(run)
        rows[m] = {
            "height": barriers(known).above_chord,
            "between": heights,
            "joined": joined,
            "valleys": valleys(joined, np.arange(seeds)),
            "valleys_of_halves": [valleys(joined, rng.permutation(seeds)[: seeds // 2]) for _ in range(400)],
            "functions": len(np.unique(truth_tables(problem, stack)[0], axis=0)),
            "solved": int(known.values["solved"][:, -1].sum()),
        }
    told = {m: {key: value for key, value in row.items() if key != "joined"} for m, row in rows.items()}
    study.keep({"no_barrier_below": LOW, "seeds": seeds, "widths": told})
    between, joined = ([rows[m][key].astype(float) for m in widths] for key in ("between", "joined"))
    known = np.stack([rows[m]["height"] for m in widths], axis=1)
    halves = np.array([np.quantile(rows[m]["valleys_of_halves"], (0.025, 0.5, 0.975)) for m in widths]) / (seeds // 2)
    heights = [
        figures.Series.of_seeds("from the known solution", widths, known, statistic="median"),
        figures.Series.of_pairs("between seeds", widths, between, statistic="median"),
    ]
    low, middle, high = halves.T
    shares = [
        figures.Series.of_pairs("pairs of seeds without a barrier", widths, joined, within=(0.0, 1.0)),
        figures.Series(label="valleys / seeds", x=np.array(widths, dtype=float), value=middle, low=low, high=high),
    ]
    about = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, 3,000 steps of Adam at 1e-2 on the exact "
        "loss. Straight lines of 51 points, order and scales of filters chosen to lie close. "
    )
    drawn = {
        "heights": (heights, "barrier above the chord (nats per cell)", {"percent": False, "yscale": "log"}),
        "valleys": (shares, "share (%)", {}),
    }
    captions = {
        "heights": "Medians; faint: seeds (between: of the lines from and to it); bands: over seeds, each with all its "
        "pairs.",
        "valleys": f"No barrier: below {LOW} nats per cell. Valleys: seeds joined by such lines; median over random "
        "halves of the seeds, band: 95 % of the halves, no interval. Pairs: their share; faint: seeds; band: over "
        "seeds, each with all its pairs.",
    }
    for part, (curves, label, options) in drawn.items():
        options |= {"xlabel": NAMES["m_factor"], "ylabel": label, "xscale": "log", "height": 3.2}
        study.draw(figures.series_figure([("", curves)], caption=about + captions[part], **options), part)
    study.done(", ".join(f"m = {m}: {row['valleys']} valleys, {row['functions']} functions" for m, row in rows.items()))


if __name__ == "__main__":
    main()
