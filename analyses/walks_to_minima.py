"""What lies between the known solution and where training ended? The study's walk figures, on a verified solution.

Straight lines from the presolved weights of the activation in use (checked to solve the problem; the study walked to
weights that it had trained on for 1,000 batches and not checked) to each seed, for four combinations of steps and
width; to the end as stored, as the study walked, and to its representative close by. Measure: the share of lines that
climb 0.01 nats per cell or more above their chord (the study sees peaks that separate zones; a share near 0 would
refute it), and the share of pairs of ends less than a tenth of their norm apart, whatever the order and scales of their
filters (the study sees several lines that end at nearly the same place; a share of 0 would refute it).
"""

import dataclasses
from typing import Any

import numpy as np

from landscape import Training, figures
from landscape.analysis.barriers import barriers, representatives
from landscape.core.intervals import Proportion, pairs_interval
from landscape.problems.life import Life
from landscape.space.alignment import balance, distances
from landscape.space.symmetry import act
from study import POSTS, Study, in_words

CASES = ((1, 1), (1, 5), (2, 1), (2, 5))
QUICK: dict[str, Any] = {"data": "batches", "batches": 200, "batch_size": 32, "lr": 3e-3}
LOW, NEAR = 0.01, 0.1
ENDS = {"stored": "each seed as stored", "aligned": "each seed's representative close by"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="6 seeds, 200 batches of 32 boards at learning rate 3e-3: about 20 seconds on two cores",
        full="20 seeds, 10,000 batches of 128 boards at 1e-3, as in the study: about 8 minutes on one core",
        cells=False,
    )
    training, seeds = (QUICK, 6) if study.quick else (POSTS, 20)
    lines, found = {name: [] for name in ENDS}, {}
    for n, m in CASES:
        problem, part = Life(steps=n, m_factor=m), f"{n}-{m}"
        run = study.train(problem, Training(**training), part, range(seeds), **({"engine": "fused"} if n == 1 else {}))
        walked = study.walk("presolve", str(run.path), f"steps{n}-m{m}", align=True)
        stack, symmetry = run.checkpoint().stack, problem.symmetry()
        norm = act(stack, symmetry, balance(stack, symmetry)).norms()[1].numpy()
        apart = distances(stack, symmetry) / ((norm[:, None] + norm) / 2)
        near = np.where(np.eye(seeds), np.nan, apart < NEAR)
        told: dict[str, Any] = {
            "solved": Proportion(int(walked.values["solved"][:seeds, -1].sum()), seeds),
            "end_loss": walked.loss[:seeds, -1],
            "pairs of ends that are near": [np.nanmean(near), *pairs_interval(near, "mean", within=(0, 1))],
            "closest pair": np.min(apart + 9 * np.eye(seeds)),
        }
        for name, some in representatives(walked).items():
            columns = {key: values for key, values in some.columns.items() if key != "aligned"}
            lines[name].append(dataclasses.replace(some, columns=columns))  # drawn by what the ends are
            heights = barriers(some)
            told[name] = {
                "with a barrier": Proportion(int((heights.above_chord >= LOW).sum()), len(heights)),
                "l1": some["l1"],
                "barriers": heights.summary(),
            }
        found[f"{n} steps, m = {m}"] = told
    for name, ends in ENDS.items():
        caption = (
            f"Life B3/S23V, LeakyReLU, sigmoid; {seeds} seeds each, trained on {in_words(training)}. Loss "
            "(exact for 1 step; on 1,000 boards for 2) on straight lines from the presolved weights (star; design hat, "
            f"verified) to {ends} (dot), "
            "51 points, over the L1 distance from the presolved weights. Solved: the end gets every pattern, or every "
            "one of these boards, right. Right: barrier above the chord, with its median and the median's interval, "
            "all of them with 95 % at once."
        )
        study.draw(figures.walk_figure(lines[name], x="l1", caption=caption), name)
    study.keep({"cases": found, "training": training, "barrier from": LOW, "near below": NEAR})
    solved = (f"{case}: {each['solved'].count} of {seeds}" for case, each in found.items())
    study.done(f"solved: {', '.join(solved)}")


if __name__ == "__main__":
    main()
