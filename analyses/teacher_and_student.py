"""How much wider than its teacher must a student be to learn the teacher's function exactly?

The first of "Diving deep"'s pairs of extremes (claim 31), and claims 9 and 30: training needs several times the width
that suffices. Teachers: networks of one step of Life with m = 1 to 4, all weights and biases drawn from N(0, 1), whose
answer to each of the 512 patterns is whether the logit is above its median: a function that students from that width on
can be. Measure: share of students that get all 512 right, mean over teachers with its interval over teachers, by both
widths. Refuted if half of the students as wide as their teacher learn it; the ratio is the smallest width at which half
do, over the teacher's.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from landscape import figures
from landscape.core.intervals import mean_interval
from landscape.engine.objective import Objective
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study


@dataclasses.dataclass(frozen=True)
class Taught(Life):
    """One step of Life in which the 512 next states are a teacher's."""

    table: tuple[bool, ...] = ()

    def objective(self, **how: Any) -> Objective:
        """That of Life with other targets."""
        found = super().objective(**how)
        data = found.memory.samples(0, 512)
        targets = torch.tensor(self.table).to(data.targets).view_as(data.targets)
        return dataclasses.replace(found, data=dataclasses.replace(data, targets=targets))


def table(m: int, seed: int) -> tuple[bool, ...]:
    """The answers of a random teacher: half of them are 1."""
    problem = Life(m_factor=m)
    teacher = initialise(problem.network(), [seed], scheme="normal", std=1.0).to(torch.float64)
    chances = next(iter(problem.objective(dtype=torch.float64).scores(teacher)))[0].numpy()
    found = tuple((chances > np.median(chances)).tolist())
    assert sum(found) == 256, "logits so large that chances are equal"
    return found


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="4 teachers x 5 students, m = 1, 2 and 1, 2, 8, 1,000 steps: about 30 seconds on a core",
        full="20 teachers x 10 students, m = 1 to 4 and 1 to 16, 3,000 steps: about 6 minutes on a core",
    )
    taught, learners, steps = (4, 5, 1000) if study.quick else (20, 10, 3000)
    widths, students = ((1, 2), (1, 2, 8)) if study.quick else ((1, 2, 3, 4), (1, 2, 3, 4, 6, 8, 12, 16))
    training = Training(batches=steps, save_at=(steps,))

    def find(teacher: int, student: int) -> dict[str, Any]:
        shares = []
        for seed in range(taught):
            problem = Taught(m_factor=student, table=table(teacher, 100 * teacher + seed))
            part = f"{teacher}/{student}/{seed}"
            run = study.train(problem, training, part, range(learners), engine="fused")
            shares.append(float((problem.objective()(run.checkpoint().stack)["right"] == 512).double().mean()))
        ends = mean_interval(np.array(shares), within=(0, 1))
        return {"share": [np.mean(shares), *ends], "of teachers": shares}

    rows = study.cells({"teacher": widths, "student": students}, find, teachers=taught, learners=learners, steps=steps)

    def curve(teacher: int) -> figures.Series:
        own = np.array([e["found"]["share"] for e in rows if e["cell"]["teacher"] == teacher], dtype=float)
        value, low, high = own.T
        return figures.Series(
            label=f"teacher m = {teacher}", x=np.array(students, float), value=value, low=low, high=high
        )

    curves = [curve(teacher) for teacher in widths]
    caption = (
        "One step of Life's networks, LeakyReLU. Teachers: all parameters from N(0, 1); the 512 patterns whose logit "
        f"is above its median are to be answered by 1. {taught} teachers a width, {learners} students of each, "
        f"{steps:,} steps of Adam at 1e-2 on the exact loss. Learnt: all 512 right. Means; bands over teachers, 95 % "
        "each."
    )
    labels = {"xlabel": "student's width m", "ylabel": "students that learn it (%)", "xscale": "log", "height": 3.2}
    study.draw(figures.series_figure([("", curves)], caption=caption, **labels))
    study.done("; ".join(f"{e['cell']}: {e['found']['share'][0]:.2f}" for e in rows))


if __name__ == "__main__":
    main()
