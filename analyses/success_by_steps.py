"""How does success fall with the number of steps, and is the rate of right boards more than that of dead ones?

Redoes the study's figures for many steps (second post): there, rates of whole boards rise from 5 steps on because most
boards of 5 x 5 are dead by then; the dotted line is what answering that all is dead gets. Success that does not
fall, or rates above that line without success, would refute the two.
"""

from landscape import figures
from landscape.figures.success import BANDS, NAMES, rate_labels, success_series
from landscape.problems.life import Life
from study import POSTS, Study, in_words

RATES = rate_labels(Life.nouns, 512)

MANY, WIDTHS = (5, 10, 20), (1, 5, 10, 20, 40, 80, 150)
QUICK = {"data": "batches", "batches": 1000, "batch_size": 32, "lr": 3e-3}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m to 10, steps to 10, 1,000 batches of 32 boards at 3e-3: about 2 minutes on two cores",
        full="20 seeds, 5, 10 and 20 steps (fewer: success_by_width), 10,000 batches of 128 boards at 1e-3: m to 10 "
        "takes 2 hours on one core, 40 some 15, 150 some 200",
    )
    training, seeds = (QUICK, range(8)) if study.quick else (POSTS, range(20))
    grid = {"m_factor": WIDTHS[:3] if study.quick else WIDTHS, "steps": (1, 2, 3, 5, 10) if study.quick else MANY}
    rows = study.success(grid, seeds=seeds, training=training, engine="fused")
    told = ""
    if not study.quick:
        told = f"; {study.agreement(rows)}"
        rows = study.rows_of("success_by_width", "d1") + rows
    about = (
        f"Life B3/S23V, LeakyReLU, sigmoid, n blocks of width m; {len(seeds)} seeds a cell, {in_words(training)}. "
        f"Tested on the same 1,000 random boards of 5 x 5.{study.not_run()} "
    )
    original = {"solved": "success", "samples": "board_rate"}
    for rate, part in (("solved", "success"), ("samples", "boards"), ("cells", "cells")):
        panels = [
            (
                f"{n} step{'s' if n > 1 else ''}",
                success_series(
                    [row for row in rows if row.values["steps"] == n],
                    x="m_factor",
                    rate=rate,
                    original=(lambda _, n=n, q=original[rate]: study.original(q, steps=n, d_factor=1.0))
                    if rate in original
                    else None,
                ),
            )
            for n in sorted({row.values["steps"] for row in rows})
        ]
        look = {"xlabel": NAMES["m_factor"], "ylabel": RATES[rate], "baseline": "all dead", "height": 2.9}
        figure = figures.series_figure(panels, caption=about + BANDS[rate], **look)
        study.draw(figure, part)
    study.done("solved: " + ", ".join(f"{row.values}: {row.success.share.value:.0%}" for row in rows[:6]) + told)


if __name__ == "__main__":
    main()
