"""Were the posts' networks of two steps those of their code's `--normalize`? Success and rates with it and without.

Why: at two steps the posts' rates of boards lie below ours at m = 1 and above them from m = 20 on, and their success
rises with the width, where ours does not (`success_by_width`). Their code's option draws weights from N(0, 0.02^2) and
biases from [-1, 1], and drops filters with probability 0.4 in all blocks but the last; which figure used it is not
stored. Measure: that network at the posts' protocol, and whether its intervals reach their values where those of the
plain one do not. If they do no better, the option is not what sets ours and theirs apart.
"""

from landscape import figures
from landscape.figures.success import BANDS, NAMES, rate_labels, success_series
from landscape.problems.life import Life
from study import POSTS, Study, in_words

RATES = rate_labels(Life.nouns, 512)
QUICK = {"data": "batches", "batches": 300, "batch_size": 32, "lr": 3e-3}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m = 1 and 10, 300 batches of 32 boards at 3e-3: about a minute on two cores",
        full="10 seeds, m = 1, 10, 20, 10,000 batches of 128 boards at 1e-3, as the posts: 1.2 hours on one core",
    )
    training, seeds = (QUICK, range(8)) if study.quick else (POSTS, range(10))
    their = {"init": "normal_uniform", "init_std": 0.02}
    options = {"dropout": 0.4, "dropout_last": False}
    grid = {"m_factor": (1, 10) if study.quick else (1, 10, 20), "steps": (2,)}
    rows = study.success(grid, seeds=seeds, training={**training, **their}, options=options)
    if study.quick:
        plain = study.success(grid, "plain", seeds=seeds, training=training, engine="fused")
    else:
        at_two = [row for row in study.rows_of("success_by_width", "d1") if row.values["steps"] == 2]
        plain = [row for row in at_two if row.values["m_factor"] <= 40]  # as far as the posts show rates of boards
    left, many = study.not_run(), plain[0].success.share.total if plain else len(seeds)
    about = (
        f"Life B3/S23V, two steps, two blocks of width m, LeakyReLU, sigmoid; {len(seeds)} seeds a cell with the "
        f"code's --normalize, {many} without, {in_words(training)}. Tested on the same 1,000 random "
        f"boards of 5 x 5.{left} "
    )
    for rate, part, quantity in (("solved", "success", "success"), ("samples", "boards", "board_rate")):
        look = {"x": "m_factor", "rate": rate}
        marks = None if study.quick else study.original(quantity, steps=2, d_factor=1.0)
        curves = [
            *success_series(rows, **look, label=lambda _: "--normalize", original=lambda _, marks=marks: marks),
            *(success_series(plain, **look, label=lambda _: "plain", baseline=None) if plain else ()),
        ]
        figure = figures.series_figure(
            [("2 steps", curves)],
            xlabel=NAMES["m_factor"],
            ylabel=RATES[rate],
            caption=about + BANDS[rate],
            baseline="all dead",
            height=3.2,
        )
        study.draw(figure, part)
    told = "" if study.quick else f"; {study.agreement(rows)}"
    study.done(", ".join(f"{row.values}: {row.success.share.value:.0%}" for row in rows) + told)


if __name__ == "__main__":
    main()
