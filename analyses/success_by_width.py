"""Does width make training succeed? Success and rates against m, for several depths and numbers of steps.

Redoes the success figures of the study's first post (there called per-tile rates: they are rates of whole boards), with
intervals, with the rate of cells, and with what answering that all is dead would get. Agreement is that our Wilson
interval overlaps theirs at the same protocol; shares that do not rise with m refute that width makes for success.
"""

from landscape import figures
from landscape.figures.success import BANDS, NAMES, rate_labels, success_series
from landscape.problems.life import Life
from study import POSTS, Study, in_words

RATES = rate_labels(Life.nouns, 512)

STEPS = (1, 2, 3)
#: By depth factor, the cheapest cells first.
WIDTHS = {1.0: (1, 5, 10, 20, 30, 40, 100), 1.5: (1, 5, 10, 20, 30, 40), 2.0: (1, 5, 10, 20, 30, 40)}
QUICK = {"data": "batches", "batches": 1000, "batch_size": 32, "lr": 3e-3}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m to 20, 1,000 batches of 32 boards at learning rate 3e-3: about 3 minutes on two cores",
        full="20 seeds, m to 40 and 100, 10,000 batches of 128 boards at 1e-3, the study's: 17 hours on one core",
    )
    training, seeds = (QUICK, range(8)) if study.quick else (POSTS, range(20))
    rows, depths = [], (1.0, 2.0) if study.quick else tuple(WIDTHS)
    for d in depths:
        grid = {"d_factor": (d,), "m_factor": WIDTHS[d][:4] if study.quick else WIDTHS[d], "steps": STEPS}
        rows += study.success(grid, f"d{d:g}", seeds=seeds, training=training, engine="fused")
    left = study.not_run(*(f"d{d:g}" for d in depths))
    about = (
        f"Life B3/S23V, LeakyReLU, sigmoid, floor(n d) blocks of width m; {len(seeds)} seeds a cell, "
        f"{in_words(training)}. Tested on the same 1,000 random boards of 5 x 5.{left} "
    )
    drawn = (("solved", "success", "success"), ("samples", "boards", "board_rate"), ("cells", "cells", ""))
    for rate, part, quantity in drawn:
        panels = [
            (
                f"{n} step{'s' if n > 1 else ''}",
                success_series(
                    [row for row in rows if row.values["steps"] == n],
                    x="m_factor",
                    by="d_factor",
                    rate=rate,
                    original=(lambda d, n=n, q=quantity: study.original(q, steps=n, d_factor=d)) if quantity else None,
                ),
            )
            for n in dict.fromkeys(row.values["steps"] for row in rows)
        ]
        look = {"xlabel": NAMES["m_factor"], "ylabel": RATES[rate], "baseline": "all dead", "height": 2.9}
        figure = figures.series_figure(panels, caption=about + BANDS[rate], **look)
        study.draw(figure, part)
    best = max(rows, key=lambda row: row.success.share.value)
    told = "" if study.quick else f"; {study.agreement(rows)}"
    study.done(f"best cell: {best.success.share.value:.0%} at {best.values}{told}")


if __name__ == "__main__":
    main()
