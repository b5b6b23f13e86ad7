"""Does training stay at the known solution, and from how far does it come back?

Question: presolved weights are said to give loss 0 and to stay (the study's first post), and the initial point to
decide where training ends. Measure: the known solution of 25 parameters, each multiplied by 1 + r z with z normal, and
trained on; share of seeds that get all 512 patterns right at the start and after the budget, by r, with Wilson's
intervals, for the study's numbers (ReLU without a sigmoid, loss exactly 0) and for the default (LeakyReLU and sigmoid,
whose loss falls further). That the solution holds what is near it is refuted by seeds lost at r = 0.001.
"""

from typing import Any

import torch

from landscape import Training, figures
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from study import Study, spread

SIZES = (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
PROBLEMS = {
    "ReLU, no sigmoid (post)": (Life(activation="relu", sigmoid=False), "presolve:post"),
    "LeakyReLU, sigmoid (hat)": (Life(), "presolve:hat"),
}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="100 seeds, 500 steps: about 20 seconds on two cores",
        full="200 seeds, 3,000 steps: about 10 minutes on one core",
    )
    seeds, budget = (100, 500) if study.quick else (200, 3000)

    def find(network: str, size: float) -> dict[str, Any]:
        problem, landmark = PROBLEMS[network]
        known, generator = problem.landmark(landmark).to(torch.float32), torch.Generator().manual_seed(1)
        noise = torch.randn(seeds, known.flatten().shape[1], generator=generator)
        start = known.unflatten(known.flatten() * (1 + size * noise))
        training = Training(batches=budget, save_at=(0, budget))
        fused = {"engine": "fused"} if problem.sigmoid else {}
        run = study.train(problem, training, f"{landmark[9:]}-{size:g}", range(seeds), start=start, **fused)
        told = {}
        for name, step in (("at the start", 0), ("after training", budget)):
            values = problem.objective()(run.checkpoint(step).stack)
            told[name] = Proportion(int((values["right"] == 512).sum()), seeds)
            told[f"loss {name}"] = spread(values["loss"].numpy())
        return told

    cells = study.cells({"network": tuple(PROBLEMS), "size": SIZES}, find, seeds=seeds, budget=budget)
    panels = []
    for network in PROBLEMS:
        own = [each for each in cells if each["cell"]["network"] == network]
        curves = []
        for name in ("at the start", "after training"):
            shares = [Proportion(each["found"][name]["count"], seeds) for each in own]
            curves.append(figures.Series.of_proportions(name, range(len(own)), shares))
        panels.append((network, curves))
    caption = (
        f"Life B3/S23V, one step, the known solution's 25 parameters, each times 1 + r z, z normal; {seeds:,} seeds, "
        f"{budget:,} steps of Adam at 1e-2 on the exact loss. Solved: all 512 patterns right. Wilson's intervals."
    )
    look = {"xlabel": "relative noise r", "ylabel": "solved (%)", "xscale": "category", "height": 3.2}
    study.draw(figures.series_figure(panels, categories=[f"{size:g}" for size in SIZES], caption=caption, **look))
    ends = [(each["cell"]["size"], each["found"]["after training"]["value"]) for each in cells]
    study.done("solved after training, by noise: " + ", ".join(f"{size:g}: {share:.0%}" for size, share in ends))


if __name__ == "__main__":
    main()
