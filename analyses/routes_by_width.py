"""Do bent routes join solutions that straight lines do not? Passes between solved networks against width.

Question: the study's second post says that no route through several valleys connects its minima, and that more
parameters join them; T. Garipov et al. and F. Draxler et al. (2018) that curves do. Measure, at one step, on disjoint
pairs of seeds that solve it, and from the known solution to one of each pair: the share joined, with a loss that climbs
less than 0.01 nats per cell above the chord, by the straight line and by the lowest path that `connect` finds with
8,000 gradients a line; to the end as stored or to its representative close by, whichever is lower. Shares of paths no
higher than those of straight lines would support the first claim, shares that do not rise with the width refute the
second.
What no path joins may still be joined by one that was not found.
"""

from typing import Any

import numpy as np

from landscape import Training, connect, figures
from landscape.analysis.barriers import DEFINITIONS
from landscape.core.intervals import Proportion
from landscape.figures.success import NAMES
from landscape.problems.life import Life
from study import Study, curve, spread

LOW = 0.01
BETWEEN = {"known": "from the known solution", "pairs": "between seeds"}
WAYS = {"straight": "straight line", "path": "lowest path found"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="2 pairs, m = 2 and 4, 400 gradients: about 15 seconds on two cores",
        full="20 pairs, m = 1, 2, 4 and 8: about 8 minutes on one core",
    )
    widths, many, pairs, budget = ((2, 4), 30, 2, 400) if study.quick else ((1, 2, 4, 8), 400, 20, 8000)

    def find(m_factor: int) -> dict[str, Any]:
        problem, training = Life(m_factor=m_factor), Training(batches=3000)

        def trained(name: str, seeds: list[int]) -> Any:
            return study.train(problem, training, f"m{m_factor}/{name}", seeds, engine="fused")

        right = problem.objective()(trained("all", list(range(many))).checkpoint().stack)["solved"]
        solved = right.nonzero()[:, 0].tolist()[: 2 * pairs]
        halves = [str(trained(name, solved[k::2]).path) for k, name in enumerate(("starts", "ends"))]
        told: dict[str, Any] = {"solved": Proportion(int(right.sum()), many), "seeds": solved}
        for name, start in (("known", "presolve"), ("pairs", halves[0])):
            found = connect(start, halves[1], budget=budget, points=201, align=True)
            for way, loss in (("straight", found.values["loss_straight"]), ("path", found.loss)):
                rises = DEFINITIONS["above_chord"].rises(found.alpha, loss).max(1)
                heights = np.minimum(rises[found["aligned"]], rises[~found["aligned"]])
                share = Proportion(int((heights < LOW).sum()), len(heights))
                told[f"{name}, {way}"] = {"joined": share, "height": spread(heights)}
            told[f"{name}, methods"] = dict(
                zip(*np.unique(found["method"].astype(str), return_counts=True), strict=True)
            )
        return told

    cells = study.cells({"m_factor": widths}, find, seeds=many, pairs=pairs, budget=budget)
    m = [each["cell"]["m_factor"] for each in cells]
    panels = [
        (
            title,
            [
                curve(label, m, [each["found"][f"{name}, {way}"]["joined"] for each in cells])
                for way, label in WAYS.items()
            ],
        )
        for name, title in BETWEEN.items()
    ]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; the first {pairs} disjoint pairs of {many} seeds that get all "
        "512 patterns right after 3,000 steps of Adam at 1e-2 on the exact loss. Joined: the loss climbs less than "
        f"{LOW} nats per cell above the chord, on 201 points; paths with a budget of {budget:,} gradients. Bands: "
        "Wilson's, 95 % each."
    )
    look = {"xlabel": NAMES["m_factor"], "ylabel": "joined (%)", "xscale": "log", "height": 3}
    study.draw(figures.series_figure(panels, caption=caption, **look))
    study.done("; ".join(f"m = {k}: {each['found']}" for k, each in zip(m, cells, strict=True)))


if __name__ == "__main__":
    main()
