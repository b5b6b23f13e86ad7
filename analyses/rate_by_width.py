"""How does training end from far too small a learning rate to far too large a one, and how does width change that?

Claim 36 ("Diving deep": the best rate for simple problems and its odd behaviour). Outcome of a seed after its budget:
diverged (not finite, or the exact loss above that at the start), solved (all 512 patterns right), still falling (loss
fallen by more than 1 % in the last tenth of the steps), else stuck. Measure: shares of the four by rate, width and
optimizer. That wider networks want smaller rates is refuted for an optimizer if the rate of most successes is no
smaller at m = 8 than at m = 1; that the best rate lies next to divergence, if ten times that rate diverges for less
than half of the seeds.
"""

from typing import Any

import numpy as np

from landscape import figures
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study

LOWEST = {"adam": -4, "sgd": -2}
RATES = {how: [digit * 10.0**k for k in range(low, low + 5) for digit in (1, 3)] for how, low in LOWEST.items()}
NAMES = {"adam": "Adam", "sgd": "gradient descent"}
OUTCOMES = ("solved", "still falling", "stuck", "diverged")


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 1,000 steps, m = 1 and 4: about 20 seconds on a core",
        full="200 seeds, 3,000 steps, m = 1, 2, 4, 8: about 5 minutes on a core",
    )
    seeds, steps, widths = (20, 1000, (1, 4)) if study.quick else (200, 3000, (1, 2, 4, 8))
    saved = (0, steps * 9 // 10, steps)

    def find(optimizer: str, m_factor: int, rate: int) -> dict[str, Any]:
        problem = Life(m_factor=m_factor)
        training = Training(optimizer=optimizer, lr=RATES[optimizer][rate], batches=steps, save_at=saved)
        part = f"{optimizer}/{m_factor}/{rate}"
        run = study.train(problem, training, part, range(seeds), engine="fused")
        values = [problem.objective()(run.checkpoint(step).stack) for step in saved]
        start, before, loss = (each["loss"].numpy() for each in values)
        solved = (values[-1]["right"] == 512).numpy()
        diverged = ~(loss <= start)
        falling = ~diverged & ~solved & (loss < 0.99 * before)
        each = {"solved": solved & ~diverged, "still falling": falling, "diverged": diverged}
        each["stuck"] = ~(solved | falling | diverged)
        return {"lr": training.lr, **{name: Proportion(int(each[name].sum()), seeds) for name in OUTCOMES}}

    grid = {"optimizer": tuple(RATES), "m_factor": widths, "rate": range(len(RATES["adam"]))}
    found = {
        (each["cell"]["optimizer"], each["cell"]["m_factor"], each["cell"]["rate"]): each["found"]
        for each in study.cells(grid, find, seeds=seeds, steps=steps)
    }

    def curve(optimizer: str, m: int, outcome: str) -> figures.Series:
        counts = [Proportion(found[optimizer, m, k][outcome]["count"], seeds) for k in range(len(RATES[optimizer]))]
        return figures.Series.of_proportions(f"m = {m}", RATES[optimizer], counts)

    panels = [
        (f"{NAMES[optimizer]}: {outcome}", [curve(optimizer, m, outcome) for m in widths])
        for optimizer in RATES
        for outcome in ("solved", "stuck", "diverged")
    ]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a point, {steps:,} steps on the exact loss, no "
        "momentum. Solved: all 512 patterns right; diverged: not finite, or a loss above that at the start; stuck: a "
        "loss that fell by less than 1 % in the last tenth; the rest, not drawn, is still falling. Wilson's intervals."
    )
    labels = {"xlabel": "learning rate", "ylabel": "seeds (%)", "xscale": "log", "height": 2.4}
    study.draw(figures.series_figure(panels, caption=caption, **labels))
    best = {
        (how, m): np.argmax([found[how, m, k]["solved"]["count"] for k in range(10)]) for how in RATES for m in widths
    }
    study.done("; ".join(f"{how}, m = {m}: {RATES[how][k]:.2g}" for (how, m), k in best.items()))


if __name__ == "__main__":
    main()
