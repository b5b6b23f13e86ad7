"""Does the initial point decide where training ends, or the data it sees? Initial seeds crossed with data seeds.

The study's second post claims the first. Each initial network is trained on each sequence of boards; the variance of
the outcome is divided between initial point, data, and their combination.
"""

import numpy as np

from landscape import figures
from landscape.analysis.crossed import crossed_shares
from landscape.core.intervals import together
from landscape.problems.places import run_members
from study import Study

PARTS = {"rows": "initial point", "columns": "data", "combination": "their combination"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="40 initial points x 5 data seeds, 1,500 batches of 32 boards: about half a minute on two cores",
        full="200 x 20 seeds, 10,000 batches of 128 boards: 12 hours on two cores, half an hour on a GPU (estimate)",
    )
    points, orders, batches, size = (40, 5, 1500, 32) if study.quick else (200, 20, 10_000, 128)
    done = study.sweep(
        grid={"m_factor": (1, 2, 4)},
        seeds=[i for i in range(points) for _ in range(orders)],
        data_seeds=list(range(orders)) * points,
        training={"data": "batches", "batches": batches, "batch_size": size, "lr": 1e-2},
    )
    rows, found = [], {}
    for cell in done.cells():
        m = cell.values["m_factor"]
        values = cell.problem.objective()(run_members(str(cell.path))[1])
        outcomes = {"log loss": values["loss"].log10(), "patterns right": values["right"], "solved": values["solved"]}
        found[f"m = {m}"] = {"solved": float(values["solved"].mean())}
        for name, values in outcomes.items():
            shares = crossed_shares(values.view(points, orders).numpy(), together(9))
            found[f"m = {m}"][name] = shares
            if name == "log loss":
                rows += [(f"m = {m}: {text}", *getattr(shares, part)) for part, text in PARTS.items()]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {points} initial points x {orders} data seeds a width, "
        f"{batches:,} batches of {size} boards of 10 x 10, Adam at 1e-2. Shares of the variance of the final log loss "
        "(exact, over all patterns): two-way random effects, normal; all intervals hold at once with 95 %. "
        "A share below 0 is one that cannot be told from 0."
    )
    study.draw(figures.page(lambda ax: figures.shares(ax, rows), caption=caption, size=(7.2, 3.6)))
    study.keep({"initial_points": points, "data_seeds": orders, "widths": found})
    study.done("; ".join(f"{name}: {share:.2f}" for name, share, _, _ in rows if np.isfinite(share)))


if __name__ == "__main__":
    main()
