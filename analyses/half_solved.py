"""How much of the solution must be given? Success against which blocks start at the known one.

Question: with two steps, either block starts presolved or at random; with three and five, the middle, or first and last
(the study's second post leaves the middle as a note). Presolved blocks train on, or are frozen. Measure: share of seeds
right on all test boards, with Wilson's interval, beside starts at random. That blocks given help would be refuted by
shares that do not rise above those of random starts.
"""

from landscape import figures
from landscape.figures.success import BANDS, rate_labels, success_series
from landscape.problems.life import Life
from study import Study

RATES = rate_labels(Life.nouns, 512)
#: By the number of steps: which blocks start presolved, and widths.
BLOCKS = {2: ((), (0,), (1,), (0, 1)), 3: ((), (1,), (0, 2)), 5: ((), (1, 2, 3), (0, 4))}
WIDTHS = {2: (1, 4, 10), 3: (1, 4, 10), 5: (1, 4, 10)}
#: By the part of the name of their figures: the numbers of steps, and what the blocks are called.
FIGURES = {"": ((2,), ("none", "first", "second", "both")), "middle-": ((3, 5), ("none", "middle", "first and last"))}
HOW = {"trained on": False, "frozen": True}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 2 steps, 1,000 batches of 32 boards: about a minute on two cores",
        full="20 seeds, 2, 3 and 5 steps, 10,000 batches of 128 boards: two hours on one core",
    )
    seeds, batches, size = (8, 1000, 32) if study.quick else (20, 10_000, 128)
    training = {"data": "batches", "batches": batches, "batch_size": size, "lr": 3e-3}
    for name, (numbers, categories) in list(FIGURES.items())[: 1 if study.quick else 2]:
        tables, parts = {}, []
        for n in numbers:
            for how, freeze in HOW.items():
                # Of none there is nothing to freeze; of all nothing is left to train.
                blocks = [each for each in BLOCKS[n] if 0 < len(each) < n] if freeze else BLOCKS[n]
                part = f"steps{n}-{how.replace(' ', '-')}"
                rows = study.success(
                    {"m_factor": WIDTHS[n], "presolve_blocks": blocks},
                    part,
                    options={"steps": n},
                    seeds=range(seeds),
                    training={**training, "freeze": freeze},
                    engine="fused",
                )
                parts.append(part)
                if rows:
                    tables[n, how] = rows
        about = (
            "Life B3/S23V, LeakyReLU, sigmoid; blocks that start at the known solution (design hat, filters split) are "
            f"trained on or frozen, the others start at random; {seeds} seeds a cell, {batches:,} batches of {size} "
            "boards of 10 x 10, Adam at 3e-3. Tested on the same 1,000 boards of 5 x 5. Of none there is nothing to "
            f"freeze, of all nothing to train.{study.not_run(*parts)} "
        )
        for rate, part in (("solved", "success"), ("samples", "boards")):
            panels = [
                (
                    f"{n} steps, {how}",
                    success_series(rows, x="presolve_blocks", by="m_factor", rate=rate, places=BLOCKS[n]),
                )
                for (n, how), rows in tables.items()
            ]
            look = {
                "xlabel": "blocks that start presolved",
                "ylabel": RATES[rate],
                "baseline": "all dead",
                "columns": 2,
            }
            figure = figures.series_figure(
                panels, xscale="category", categories=categories, caption=about + BANDS[rate], **look
            )
            study.draw(figure, name + part)
        found = [(row.values, row.success.share) for rows in tables.values() for row in rows]
        study.done("; ".join(f"{values}: {share}" for values, share in found[:4]))


if __name__ == "__main__":
    main()
