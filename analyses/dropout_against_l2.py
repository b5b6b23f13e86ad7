"""Dropout against L2: which joins valleys, and what does extreme dropout do? From one to the other, and rates to 0.9.

Question: "Diving deep" asks how the two differ, and what rates of dropout from 0 to the extreme do. Measure, at one
step and m = 4, for settings on the straight line from dropout 0.3 without L2 to an L2 penalty of 1e-3 without dropout,
and for rates of dropout alone, 0 being neither: the share of seeds that get all 512 patterns right, and the share of
pairs of seeds, one replaced by its representative close by, on whose straight line the exact loss, without either,
climbs less than 0.01 nats per cell above the chord. One joins valleys more where the interval of the difference of
shares, over seeds, does not hold 0; success that does not fall toward 0.9 would refute that extreme dropout hurts.
"""

from typing import Any

import numpy as np

from landscape import Training, figures, walk
from landscape.analysis.barriers import barriers, representatives, square
from landscape.core.intervals import Proportion, pairs_interval
from landscape.figures.pages import WIDTH, sheet
from landscape.problems.life import Life
from study import Study, curve

RATE, DECAY, LOW = 0.3, 1e-3, 0.01
ALONG = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the way from dropout to L2
RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def table(joined: list[list[int]], seeds: int) -> np.ndarray:
    """Which pairs are joined, from the earlier seeds that each is joined to."""
    found = np.zeros((seeds, seeds))
    for k, others in enumerate(joined):
        found[k, others] = found[others, k] = 1
    return np.where(np.eye(seeds), np.nan, found)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="6 seeds, 50 steps: about 20 seconds on two cores",
        full="24 seeds, 3,000 steps: about 6 minutes on one core",
    )
    seeds, batches = (6, 50) if study.quick else (24, 3000)

    def find(setting: tuple[float, float]) -> dict[str, Any]:
        dropout, weight_decay = setting
        training = Training(data="batches", batches=batches, batch_size=8, weight_decay=weight_decay)
        part = f"{dropout:g},{weight_decay:g}"
        run = study.train(Life(m_factor=4, dropout=dropout, board="5x5"), training, part, range(seeds))
        problem = Life(m_factor=4)
        solved = problem.objective()(run.checkpoint().stack)["solved"].numpy()
        lines = walk(str(run.path), str(run.path), problem=problem, pairs="all", align=True)
        heights = square(barriers(representatives(lines)["aligned"]).above_chord, seeds)
        joined = np.where(np.isnan(heights), np.nan, heights < LOW)
        both = np.where(np.outer(solved, solved) > 0, joined, np.nan)
        return {
            "solved": Proportion(int(solved.sum()), seeds),
            "joined": [np.nanmean(joined), *pairs_interval(joined, "mean", within=(0, 1))],
            "pairs of solved seeds": int(np.isfinite(both).sum() // 2),
            "joined, both solved": int(np.nansum(both) // 2),
            "median barrier": [np.nanmedian(heights), *pairs_interval(heights)],
            "joined to": [[int(k) for k in np.flatnonzero(row > 0)] for row in np.tril(np.nan_to_num(joined))],
        }

    along = [(round(RATE * (1 - t), 3), round(DECAY * t, 6)) for t in ALONG]
    rates = [(rate, 0.0) for rate in RATES]
    cells = study.cells({"setting": tuple(dict.fromkeys(along + rates))}, find, seeds=seeds, batches=batches)
    found = {tuple(each["cell"]["setting"]): each["found"] for each in cells}
    first, last, none = (table(found[setting]["joined to"], seeds) for setting in (along[0], along[-1], rates[0]))
    compared = {"dropout less L2": first - last, "dropout less neither": first - none, "L2 less neither": last - none}
    differences = {
        name: [float(np.nanmean(each)), *pairs_interval(each, "mean", within=(-1, 1))]
        for name, each in compared.items()
    }
    study.keep({"differences of the share joined": differences}, "differences")
    caption = (
        f"Life B3/S23V, one step, m = 4, LeakyReLU, sigmoid; {seeds} seeds a setting, {batches:,} steps of Adam at "
        "1e-2 on batches of 8 boards of 5 x 5. Dropout of filters of the first layer. Joined: pairs of seeds, one "
        f"replaced by its representative close by, whose straight line has a barrier below {LOW} nats per cell of the "
        "exact loss, on 51 points. Bands: 95 % each; of pairs over seeds, none where all are alike."
    )
    panels = (
        (along, ALONG, f"from dropout {RATE:g} (0) to L2 {DECAY:g} (1)"),
        (rates, RATES, "rate of dropout, no L2"),
    )
    with sheet((WIDTH, 3.2), caption, 2, (1, 1)) as (figure, axes):
        for ax, (settings, x, label) in zip(axes, panels, strict=True):
            names = {"solved": "solved seeds", "joined": "pairs joined"}
            curves = [curve(name, x, [found[each][of] for each in settings]) for of, name in names.items()]
            figures.series(ax, curves, xlabel=label, ylabel="share (%)")
    study.draw(figure)
    study.done(f"share joined: {differences}")


if __name__ == "__main__":
    main()
