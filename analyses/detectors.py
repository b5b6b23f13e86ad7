"""Does a solution need 32 detectors? What each filter of a trained network responds to, and which it can do without.

Question: the study's second post argues that 32 inputs must be told apart (a cell and its four neighbours), so that a
network with 30 detectors learnt is stuck. Measure, over networks that training solved at each width: filters that are
active on exactly one of the 32 inputs (on average over the four corners, which do not count), which inputs filters are
active on, and filters left after removing, one at a time, those without which all 512 patterns stay right; medians
with their intervals. 32 filters left would support the argument; fewer, or solved networks with fewer than 32 filters
(m = 16 has exactly enough), refute it.
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


KINDS = ("none", "all", "one", "more live neighbours", "fewer live neighbours", "others")


def detected(stack: Any) -> np.ndarray:
    """Which of the 32 inputs each filter of each member is active on."""
    patterns = PATTERNS.reshape(512, 9).astype(float)
    weight, bias = (stack.tensors[name].double().numpy() for name in FILTERS[0])
    before = weight.reshape(*weight.shape[:2], 9) @ patterns.T + bias[:, :, None]
    number = patterns[:, [1, 3, 4, 5, 7]] @ 2 ** np.arange(5)  # of the centre and the four that count
    return np.stack([before[:, :, number == k].mean(2) for k in range(32)], axis=2) > 0


def kinds(active: np.ndarray) -> dict[str, float]:
    """The shares of filters by the inputs that they are active on: with each that is active, all those with more live
    neighbours, or with fewer, and the same centre.
    """
    count, numbers = active.sum(2), np.arange(32)
    neighbours = [(numbers[numbers >> bit & 1 == 0], 1 << bit) for bit in (0, 1, 3, 4)]  # bit 2 is the centre
    more = np.all([(active[:, :, at] <= active[:, :, at + cell]).all(2) for at, cell in neighbours], axis=0)
    fewer = np.all([(active[:, :, at] >= active[:, :, at + cell]).all(2) for at, cell in neighbours], axis=0)
    which = np.select([count == 0, count == 32, count == 1, more, fewer], range(5), 5)
    return dict(zip(KINDS, (np.bincount(which.ravel(), minlength=6) / which.size).tolist(), strict=True))


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
        run = study.train(
            problem, Training(batches=budget, save_at=(0, budget)), f"m{m_factor}", range(seeds), engine="fused"
        )
        objective, stack = problem.objective(), run.checkpoint(budget).stack
        solved = objective(stack)["right"] == objective.samples
        own = stack.select(solved.nonzero()[:, 0])
        told = {"solved": Proportion(int(solved.sum()), seeds)}
        if len(own):
            active, kept = detected(own), prune(objective, own, [FILTERS])[1]
            counts = active.sum(2)
            told |= {
                "detectors of one input": spread((counts == 1).sum(1)),
                "filters left": spread(kept.sum(1).numpy()),
                "distribution of filters left": np.bincount(kept.sum(1).numpy()),
                "share of filters by inputs they are active on": kinds(active),
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
