"""Do deeper networks fail because the learning rate does not suit them? Success at d = 1, 1.5 and 2 against it.

Question: the study's first post finds that more blocks than steps learn worse, and blames the learning rate, of which
it tried one. Measure: share of seeds right on all test boards, and of boards, at each rate and depth, with intervals.
More blocks that at their best rate succeed less often than as many as steps at theirs would refute the blame.
"""

from landscape import figures
from landscape.figures.success import BANDS, NAMES, rate_labels, success_series
from landscape.problems.life import Life
from study import Study

RATES = rate_labels(Life.nouns, 512)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m = 10, 1,000 batches of 32 boards: about a minute on two cores",
        full="20 seeds, 10,000 batches of 128 boards: about an hour and a half on one core",
    )
    seeds, batches, size = (8, 1000, 32) if study.quick else (20, 10_000, 128)
    rates = (1e-3, 3e-3, 1e-2, 3e-2) if study.quick else (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    rows = study.success(
        {"lr": rates, "d_factor": (1.0, 1.5, 2.0)},
        options={"steps": 2, "m_factor": 10},
        seeds=range(seeds),
        training={"data": "batches", "batches": batches, "batch_size": size},
        engine="fused",
    )
    about = (
        f"Life B3/S23V, 2 steps, LeakyReLU, sigmoid, floor(2 d) blocks of width 10; {seeds} seeds a cell, {batches:,} "
        f"batches of {size} boards of 10 x 10, Adam. Tested on the same 1,000 boards of 5 x 5.{study.not_run()} "
    )
    for rate, part in (("solved", "success"), ("samples", "boards")):
        curves = success_series(rows, x="lr", by="d_factor", rate=rate)
        labels = {"xlabel": "learning rate of Adam", "ylabel": RATES[rate], "baseline": "all dead"}
        study.draw(
            figures.series_figure([("", curves)], xscale="log", height=3.2, caption=about + BANDS[rate], **labels), part
        )
    best = max(rows, key=lambda row: row.success.sample_rate.mean())
    study.done(
        f"most boards right: {best.success.sample_rate.mean():.2f} at {best.values}, {NAMES['lr']} among {rates}"
    )


if __name__ == "__main__":
    main()
