"""Does a network wear out? Perturbed and trained again in cycles, against fresh networks with the same budget.

Claim 34 ("Diving deep": fatigue). Each cycle keeps a share of all parameters, adds noise, a freshly drawn initial
network (of its own size, or scaled to that of the network), and trains anew. Keeping nothing is a fresh network each
time. Measure: share of members that solve the task, by cycle. A network wears out if the share in the last five cycles
is lower than that of fresh networks with the same draws (mean difference per member, 95 % interval below 0) and than in
the first five of its own: refuted, for a way of perturbing, if either is not.
"""

from typing import Any

import numpy as np

from landscape import figures
from landscape.core.intervals import Proportion, mean_interval
from landscape.problems.functions import Functions
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study

TASKS = {
    "Life, m = 2": Life(m_factor=2),
    "Life, m = 4": Life(m_factor=4),
    "hat function": Functions(function="hat", width=16),
}
WAYS = {  # share of the parameters that is kept; whether the noise is as large as the network
    "fresh": (0.0, False),
    "all kept, noise as large as an initial network": (1.0, False),
    "all kept, noise as large as the network": (1.0, True),
    "0.71 kept, noise 0.71 times the network": (0.5**0.5, True),
}
LAST = 5  # cycles compared


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 6 cycles of 300 steps: about 20 seconds on a core",
        full="100 seeds, 30 cycles of 1,000 steps: about 6 minutes on a core",
    )
    seeds, cycles, steps = (20, 6, 300) if study.quick else (100, 30, 1000)
    training = Training(batches=steps, save_at=(steps,))

    def find(task: str) -> dict[str, Any]:
        problem, found, solved = TASKS[task], dict[str, Any](), dict[str, np.ndarray]()
        for way, (kept, relative) in WAYS.items():
            at, norms, rows = None, [], []
            for cycle in range(cycles):
                drawn = initialise(problem.network(), range(cycle * 10_000, cycle * 10_000 + seeds))
                noise, old = drawn.flatten(), drawn.flatten() if at is None else at.flatten()
                if relative:
                    noise = noise * kept * old.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
                start = drawn if at is None else drawn.unflatten(old * kept + noise)
                engine = "fused" if task.startswith("Life") else "auto"
                run = study.train(
                    problem,
                    training,
                    f"{task}/{list(WAYS).index(way)}/{cycle}",
                    range(seeds),
                    start=start,
                    engine=engine,
                )
                at = run.checkpoint().stack
                rows.append((problem.objective()(at)["solved"] > 0.5).numpy())
                norms.append(float(at.flatten().norm(dim=1).median()))
            solved[way] = np.array(rows, dtype=float)
            fresh, late = solved["fresh"][-LAST:].mean(0), solved[way][-LAST:].mean(0)
            differences = {"to fresh": late - fresh, "to the first": late - solved[way][1 : LAST + 1].mean(0)}
            found[way] = {
                "solved": [Proportion(int(row.sum()), seeds) for row in rows],
                "norm": norms,
                **{name: [each.mean(), *mean_interval(each)] for name, each in differences.items()},
            }
        return found

    cells = study.cells({"task": tuple(TASKS)}, find, seeds=seeds, cycles=cycles, steps=steps)

    panels = [
        (
            e["cell"]["task"],
            [
                figures.Series.of_proportions(
                    way, range(cycles), [Proportion(c["count"], seeds) for c in e["found"][way]["solved"]]
                )
                for way in WAYS
            ],
        )
        for e in cells
    ]
    caption = (
        f"{seeds} seeds. Each cycle keeps a share of all parameters, adds noise, and trains for {steps:,} steps of "
        "Adam at 1e-2 on the exact loss. Solved: all 512 patterns of Life B3/S23V, one step; all 65 points of "
        "max(0, 1 - 2|x|) within 1e-3 (squared), MLP 1 x 16."
    )
    study.draw(figures.series_figure(panels, xlabel="cycle", ylabel="seeds that solve it (%)", caption=caption))
    study.done(
        "; ".join(
            f"{e['cell']['task']}, {way}: {e['found'][way]['to fresh'][0]:.2f} to fresh" for e in cells for way in WAYS
        )
    )


if __name__ == "__main__":
    main()
