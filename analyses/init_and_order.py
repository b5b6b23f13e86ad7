"""Does the initial point decide where training ends, or the data it sees? Initial seeds crossed with data seeds.

The study's second post claims the first. Measure: each initial network is trained on each sequence of boards; the
variance of the outcome is divided between initial point, data, and their combination, with intervals over both. A share
of the data as large as that of the initial point would refute the claim.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from landscape import Training, figures
from landscape.analysis.crossed import crossed_shares
from landscape.core.intervals import mean_interval, together
from landscape.problems.life import Life
from study import Study

PARTS = {"rows": "initial point", "columns": "data", "combination": "their combination"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="40 initial points x 5 data seeds, 1,500 batches of 32 boards: 20 seconds",
        full="200 x 10 seeds, 10,000 batches of 128 boards: 5 minutes on one core",
    )
    points, orders, batches, size = (40, 5, 1500, 32) if study.quick else (200, 10, 10_000, 128)
    training = {"data": "batches", "batches": batches, "batch_size": size, "lr": 1e-2, "save_at": (batches,)}

    def find(m_factor: int) -> dict[str, Any]:
        problem, how, found = Life(m_factor=m_factor), Training(**training, shared_data=True), []
        for order in range(orders):
            part = f"m_factor={m_factor}/{order}"
            run = study.train(problem, how, part, range(points), data_seeds=[order], engine="fused")
            found.append(problem.objective()(run.checkpoint().stack))
        values = {name: torch.stack([each[name] for each in found], 1) for name in found[0]}  # point, order
        outcomes = {"log loss": values["loss"].log10(), "patterns right": values["right"], "solved": values["solved"]}
        shares = {
            name: dataclasses.asdict(crossed_shares(each.numpy(), together(9))) for name, each in outcomes.items()
        }
        one = values["solved"].mean(1).numpy()  # a share of each initial point's data seeds
        return {**shares, "solved by chance": [float(one.mean()), *mean_interval(one, within=(0.0, 1.0))]}

    found = study.cells({"m_factor": (1, 2, 4)}, find, initial_points=points, data_seeds=orders, training=training)
    rows = [
        (f"m = {each['cell']['m_factor']}: {text}", *each["found"]["log loss"][part])
        for each in found
        for part, text in PARTS.items()
    ]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {points} initial points x {orders} data seeds a width, "
        f"{batches:,} batches of {size} boards of 10 x 10, Adam at 1e-2. Shares of the variance of the final log loss "
        "(exact, over all patterns): two-way random effects, normal; all intervals hold at once with 95 %. "
        "A share below 0 is one that cannot be told from 0."
    )
    study.draw(figures.page(lambda ax: figures.shares(ax, rows), caption=caption, size=(7.2, 3.6)))
    study.done("; ".join(f"{name}: {share:.2f}" for name, share, _, _ in rows if np.isfinite(share)))


if __name__ == "__main__":
    main()
