"""Does a solution need 32 detectors? What each filter of a trained network responds to, and which it can do without.

Question: the study's second post argues that 32 inputs must be told apart (a cell and its four neighbours), so that a
network with 30 detectors learnt is stuck. Measure, over networks that training solved at each width: filters that are
active on exactly one of the 32 inputs (on average over the four corners, which do not count), and filters left after
removing, one at a time, those without which all 512 patterns stay right; medians with their intervals. 32 filters left
would support the argument; fewer than 32, or solved networks with fewer than 16 m, refute it.
"""

from typing import Any

import numpy as np

from landscape import Training, figures
from landscape.analysis.pruning import prune
from landscape.core.intervals import Proportion
from landscape.figures.success import NAMES
from landscape.problems.life import Life
from landscape.problems.life.patterns import PATTERNS
from study import Study, spread

FILTERS = (("net.0.0.weight", "net.0.0.bias"), "net.0.2.weight")
WIDTHS = (1, 2, 4, 8, 16, 32)


def detected(stack: Any) -> np.ndarray:
    """How many of the 32 inputs each filter of each member is active on."""
    patterns = PATTERNS.reshape(512, 9).astype(float)
    weight, bias = (stack.tensors[name].double().numpy() for name in FILTERS[0])
    before = weight.reshape(*weight.shape[:2], 9) @ patterns.T + bias[:, :, None]
    number = patterns[:, [1, 3, 4, 5, 7]] @ 2 ** np.arange(5)  # of the centre and the four that count
    means = np.stack([before[:, :, number == k].mean(2) for k in range(32)], axis=2)
    return (means > 0).sum(2)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, m to 16, 3,000 steps: about half a minute on two cores",
        full="100 seeds, m to 32, 10,000 steps: about 20 minutes on one core",
    )
    seeds, budget = (20, 3000) if study.quick else (100, 10_000)

    def find(m_factor: int) -> dict[str, Any]:
        problem = Life(m_factor=m_factor)
        run = study.train(problem, Training(batches=budget, save_at=(0, budget)), f"m{m_factor}", range(seeds))
        objective, stack = problem.objective(), run.checkpoint(budget).stack
        solved = objective(stack)["right"] == objective.samples
        own = stack.select(solved.nonzero()[:, 0])
        told = {"solved": Proportion(int(solved.sum()), seeds)}
        if len(own):
            counts, kept = detected(own), prune(objective, own, [FILTERS])[1]
            told |= {
                "detectors of one input": spread((counts == 1).sum(1)),
                "filters left": spread(kept.sum(1).numpy()),
                "distribution of filters left": np.bincount(kept.sum(1).numpy()),
                "share of filters by inputs they are active on": np.bincount(counts.ravel(), minlength=33)
                / counts.size,
            }
        return told

    cells = study.cells({"m_factor": WIDTHS[:5] if study.quick else WIDTHS}, find, seeds=seeds, budget=budget)
    curves = []
    for name in ("detectors of one input", "filters left"):
        own = [each for each in cells if name in each["found"]]
        points = [
            (each["cell"]["m_factor"], *(each["found"][name][key] for key in ("median", "low", "high"))) for each in own
        ]
        x, value, low, high = np.array(points, dtype=float).T
        curves.append(figures.Series(label=name, x=x, value=value, low=low, high=high))
    m = np.array([each["cell"]["m_factor"] for each in cells], dtype=float)
    nothing = np.full(len(m), np.nan)
    curves.append(figures.Series(label="filters", x=m, value=2 * m, low=nothing, high=nothing))
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, {budget:,} steps of Adam at 1e-2 on the "
        "exact loss; those that got all 512 patterns right. Median over them with its 95 % interval. Left: after "
        "removing, one at a time, filters without which all patterns stay right."
    )
    look = {"xlabel": NAMES["m_factor"], "ylabel": "filters of the first layer", "xscale": "log", "yscale": "log"}
    study.draw(figures.series_figure([("", curves)], caption=caption, percent=False, height=3.2, **look))
    study.done(", ".join(f"m = {each['cell']['m_factor']}: {each['found'].get('filters left')}" for each in cells))


if __name__ == "__main__":
    main()
