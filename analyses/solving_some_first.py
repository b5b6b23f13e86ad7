"""Are failures stuck because inputs conflict, and does solving some of them first free the others? Patterns in parts.

Question: the study's second post says both. Measure: failures of the smallest network (the reference runs, 100,000
steps) are trained on, by 2,000 steps on a part of the 512 patterns alone: those that are wrong, half of these with all
that are right, the right ones, or a random half; then by 10,000 steps on all. Counted: networks that get their part
right, which conflicts with nothing else then, and networks that end solved, less those that end solved when all
patterns are trained on for as long, paired by seed. No part that ends solved more often refutes that solving some
frees others.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import Run, figures
from landscape.core.intervals import Proportion, mean_interval
from landscape.problems.life import Life
from study import Study, adam, curve

RULES = ("B3/S23V", "B3/S23")
#: By the part trained on alone, the patterns in it, of which are wrong and a random half; `some wrong`: with all right.
PARTS = {
    "all": lambda wrong, half: torch.ones_like(wrong),
    "wrong": lambda wrong, half: wrong,
    "some wrong": lambda wrong, half: ~wrong | half,
    "right": lambda wrong, half: ~wrong,
    "random": lambda wrong, half: half,
}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="30 failures a rule, 300 and 1,000 steps: about 10 seconds on a core",
        full="490 and 301 failures, 2,000 and 10,000 steps: about 3 minutes on a core",
    )
    most, first, then = (30, 300, 1000) if study.quick else (1000, 2000, 10_000)

    def find(rule: str, part: str) -> dict[str, Any]:
        problem = Life(rule=rule)
        objective = problem.objective().with_fused(training=True)
        stack = Run.open(f"checkpoints/one-step-m1-{rule.replace('/', '')}").checkpoint().stack
        stack = stack.select((objective(stack)["right"] < 512).nonzero()[:most, 0])
        weights = torch.tensor(objective.fused.weights, dtype=torch.float32)

        def answers(flat: Tensor) -> Tensor:
            return objective.predictions(stack.unflatten(flat)).flatten(1)

        def wrong(flat: Tensor) -> Tensor:
            return answers(flat) != objective.memory.targets.flatten()

        half = torch.rand(len(stack), 512, generator=torch.Generator().manual_seed(0)) < 0.5
        own = PARTS[part](wrong(stack.flatten()), half)
        between = adam(stack.flatten(), first, lambda flat: objective.fused.gradient(flat, own * weights))
        ended = adam(between, then, lambda flat: objective.fused.gradient(flat, weights[None]))
        return {
            "part right": Proportion(int((~wrong(between) | ~own).all(1).sum()), len(stack)),
            "one answer to all": Proportion(int((answers(between).diff(dim=1) == 0).all(1).sum()), len(stack)),
            "all right then": Proportion(int((~wrong(between)).all(1).sum()), len(stack)),
            "solved": (~wrong(ended)).all(1).int().tolist(),
        }

    cells = study.cells({"rule": RULES, "part": tuple(PARTS)}, find, most=most, steps=(first, then))
    solved = {tuple(each["cell"].values()): np.array(each["found"]["solved"]) for each in cells}
    more = {key: each - solved[key[0], "all"] for key, each in solved.items()}
    gains = {", ".join(key): [each.mean(), *mean_interval(each)] for key, each in more.items()}
    study.keep({"more solved than by all": gains}, "differences")
    panels = []
    for rule in RULES:
        own = [each["found"]["part right"] for each in cells if each["cell"]["rule"] == rule]
        part = curve("part right after it", range(len(own)), own)
        shares = [Proportion(int(solved[rule, name].sum()), len(solved[rule, name])) for name in PARTS]
        panels.append((rule, [part, figures.Series.of_proportions("all right in the end", range(len(PARTS)), shares)]))
    caption = (
        "Networks of 25 parameters, one step, LeakyReLU, sigmoid, that did not get all 512 patterns right in 100,000 "
        f"steps: {first:,} steps of a fresh Adam at 1e-2 on the exact loss of a part of the patterns, then {then:,} "
        "on that of all. Part right: patterns trained on first, right after these steps, 95 % each; some wrong: half "
        "of these, with all right ones."
    )
    look = {"xlabel": "patterns trained on first", "ylabel": "networks (%)", "xscale": "category"}
    study.draw(figures.series_figure(panels, categories=tuple(PARTS), caption=caption, height=3.2, **look))
    study.done("; ".join(f"{', '.join(key)}: {each.mean():.2f}" for key, each in solved.items()))


if __name__ == "__main__":
    main()
