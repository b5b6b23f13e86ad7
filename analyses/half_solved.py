"""How much of the solution must be given? Success against which blocks start at the known one.

With two steps, either block starts presolved or at random; presolved blocks train on, or are frozen.
"""

from landscape import figures
from landscape.figures.success import BANDS, rate_labels, success_series
from landscape.problems.life import Life
from study import Study

RATES = rate_labels(Life.nouns, 512)

BLOCKS, NAMES = ((), (0,), (1,), (0, 1)), ("none", "first", "second", "both")
FROZEN = ((0,), (1,))  # of none there is nothing to freeze, of both nothing to train


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 1,000 batches of 32 boards: about a minute on two cores",
        full="100 seeds, 10,000 batches of 128 boards: about an hour on a GPU (estimate)",
    )
    seeds, batches, size = (8, 1000, 32) if study.quick else (100, 10_000, 128)
    how = {"data": "batches", "batches": batches, "batch_size": size, "lr": 3e-3}
    tables = {}
    for name, freeze in (("trained on", False), ("frozen", True)):
        tables[name] = study.test(
            study.sweep(
                part=name.replace(" ", "-"),
                grid={"m_factor": (1, 4, 10), "presolve_blocks": FROZEN if freeze else BLOCKS},
                options={"steps": 2},
                seeds=range(seeds),
                training={**how, "freeze": freeze},
            )
        )
        study.keep_rows(tables[name], name.replace(" ", "-"))
    about = (
        "Life B3/S23V, 2 steps, LeakyReLU, sigmoid; blocks that start at the known solution (design hat, filters "
        f"split), the others at random; {seeds} seeds a cell, {batches:,} batches of {size} boards of 10 x 10, Adam "
        "at 3e-3. Tested on the same 1,000 boards of 5 x 5. Of none there is nothing to freeze, of both nothing to "
        "train. "
    )
    for rate, part in (("solved", "success"), ("samples", "boards")):
        panels = []
        for name, rows in tables.items():
            curves = success_series(rows, x="presolve_blocks", by="m_factor", rate=rate, places=BLOCKS)
            panels.append((f"presolved blocks {name}", curves))
        labels = {"xlabel": "blocks that start presolved", "ylabel": RATES[rate], "baseline": "all dead"}
        figure = figures.series_figure(
            panels, xscale="category", categories=NAMES, caption=about + BANDS[rate], **labels
        )
        study.draw(figure, part)
    study.done("; ".join(f"{row.values}: {row.success.share}" for row in tables["trained on"][:4]))


if __name__ == "__main__":
    main()
