"""Which choices of network and training make success more frequent? Each against the default, seed by seed.

Question: the study's first post says that a sigmoid, LeakyReLU, normalised input and large batches do. Measure, at one
step: the share of seeds that get all 512 patterns right after as many steps of Adam, less that of the default with the
same initial points, with the interval of the mean difference over seeds; a choice is better, or worse, where that does
not hold 0. Networks and L2 penalties are compared on the exact loss with LeakyReLU and a sigmoid, batches of boards
with batches of 128. A default that ReLU, no sigmoid or smaller batches beat, or a shift of the input that does not
help, would refute the claim. Dropout: `dropout_against_l2`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape import Training, figures
from landscape.core.intervals import Proportion, mean_interval
from landscape.figures.pages import WIDTH, sheet
from landscape.problems.life import Life
from study import Study

#: Fields of the problem, fields of its training, and the name of what it is compared with.
Choice = tuple[Mapping[str, Any], Mapping[str, Any], str]
CHOICES: dict[str, Choice] = {
    "default": ({}, {}, ""),
    "no sigmoid": ({"sigmoid": False}, {}, "default"),
    "ReLU": ({"activation": "relu"}, {}, "default"),
    "ELU": ({"activation": "elu"}, {}, "default"),
    "GELU": ({"activation": "gelu"}, {}, "default"),
    "input shifted": ({"normalize": True}, {}, "default"),
    "L2 1e-4": ({}, {"weight_decay": 1e-4}, "default"),
    "L2 1e-3": ({}, {"weight_decay": 1e-3}, "default"),
    "batches of 128": ({}, {"data": "batches"}, "default"),
    **{f"batches of {n}": ({}, {"data": "batches", "batch_size": n}, "batches of 128") for n in (8, 32, 512)},
}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="10 seeds, m = 1 and 4, 300 steps: about 10 seconds on two cores",
        full="100 seeds, m = 1, 2 and 4, 3,000 steps: about 5 minutes on one core",
    )
    widths, seeds, batches = ((1, 4), 10, 300) if study.quick else ((1, 2, 4), 100, 3000)

    def solved(choice: str, m_factor: int) -> np.ndarray:
        of_problem, of_training, _ = CHOICES[choice]
        problem = Life(m_factor=m_factor, **of_problem)
        fused = problem.sigmoid and problem.activation in ("relu", "leaky_relu")
        training = Training(batches=batches, save_at=(0, batches), **of_training)
        engine = {"engine": "fused"} if fused else {}
        run = study.train(problem, training, f"{choice},{m_factor}".replace(" ", "-"), range(seeds), **engine)
        return problem.objective()(run.checkpoint(batches).stack)["solved"].numpy()

    def find(choice: str, m_factor: int) -> dict[str, Any]:
        own, other = solved(choice, m_factor), CHOICES[choice][2]
        told: dict[str, Any] = {"solved": Proportion(int(own.sum()), seeds)}
        if other:
            differences = own - solved(other, m_factor)
            told["difference"] = [differences.mean(), *mean_interval(differences, within=(-1, 1))]
            told["solved alone, and by the other alone"] = [int((differences == sign).sum()) for sign in (1, -1)]
        return told

    cells = study.cells({"choice": tuple(CHOICES), "m_factor": widths}, find, seeds=seeds, batches=batches)
    share = {(each["cell"]["choice"], each["cell"]["m_factor"]): each["found"]["solved"] for each in cells}
    told = ", ".join(
        f"m = {m}: {share['default', m]['count']} and {share['batches of 128', m]['count']}" for m in widths
    )
    caption = (
        f"Life B3/S23V, one step; {seeds} seeds a bar, {batches:,} steps of Adam at 1e-2 on the exact loss or on "
        "batches of boards of 10 x 10. Share that gets all 512 patterns right less that of the default: LeakyReLU, "
        "sigmoid, exact loss (above), batches of 128 boards (three below); over the same initial points. Intervals: "
        f"95 % each, none where no seed differs. Solved with the default, and with batches of 128, of {seeds}: {told}."
    )
    with sheet((WIDTH, 3.6), caption, len(widths), (1,) * len(widths)) as (figure, axes):
        for ax, m in zip(axes, widths, strict=True):
            own = [each for each in cells if each["cell"]["m_factor"] == m and "difference" in each["found"]]
            rows = [(each["cell"]["choice"], *np.array(each["found"]["difference"], dtype=float)) for each in own]
            figures.shares(ax, rows, xlabel="difference (points)", unit="", title=f"m = {m}")
            if ax is not axes[0]:
                ax.set_yticklabels([])
    study.draw(figure)
    study.done(f"default {told}")


if __name__ == "__main__":
    main()
