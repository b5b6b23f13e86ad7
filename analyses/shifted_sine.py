"""Does learned geometry collapse and form anew when the data shifts, and is it learnt faster the second time?

Claim 33 ("Diving deep": simple functions in slow motion), beside `functions_in_slow_motion`. A perceptron learns
sin(2 pi x) at 33 points of [-1, 0], then of [0, 1], then of [-1, 0] again, Adam anew each time. Measures, per seed and
checkpoint: the squared error on both halves; and how alike what the last hidden layer gives for the left half is to
what it gave when that was learnt first (linear CKA, S. Kornblith et al., ICML 2019; smooth networks of one number are
alike untrained). Refuted: collapse, if it is more alike when the right half is learnt than the untrained network was;
forming anew, if it is no more alike at the end; faster learning, if the second time to an error of 1e-3 over the first
is not below 1 (medians of differences and ratios per seed, 95 % intervals).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import Problem, figures
from landscape.engine.stack import Stack
from landscape.figures.pages import WIDTH, sheet
from landscape.problems.initialisation import mlp
from landscape.training.train import Training
from study import Study, middle

HALVES = {half: torch.linspace(start, start + 1, 33)[:, None] for half, start in (("left", -1.0), ("right", 0.0))}
PHASES = ("left", "right", "left")
GOAL = 1e-3


def hidden(stack: Stack) -> Tensor:
    """What the last hidden layer gives for the left half, [member, point, unit]."""
    at = HALVES["left"].expand(len(stack), -1, -1)
    for layer in ("hidden1", "hidden2"):
        at = (at @ stack[f"{layer}.weight"].mT + stack[f"{layer}.bias"][:, None]).tanh()
    return at.double()


def cka(one: Tensor, two: Tensor) -> np.ndarray:
    """Linear CKA, a member each."""
    a, b = (each - each.mean(1, keepdim=True) for each in (one, two))
    inner = [(x.mT @ y).square().sum((1, 2)) for x, y in ((a, b), (a, a), (b, b))]
    return (inner[0] / (inner[1] * inner[2]).sqrt()).numpy()


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="10 seeds, 500 steps each time: about 15 seconds on a core",
        full="100 seeds, 2,000 steps each time: about 2 minutes on a core",
    )
    seeds, steps = (10, 500) if study.quick else (100, 2000)
    saved = sorted({0, 1, 2, 5, 10, 20, *range(50, steps + 1, 50)})

    def find() -> dict[str, Any]:
        problems = {
            half: Problem.from_model(mlp(1, 32, 2, 1, "tanh"), (x, (2 * torch.pi * x).sin()), "mse")
            for half, x in HALVES.items()
        }
        stacks, start, count = list[Stack](), None, len(saved)
        for number, half in enumerate(PHASES):
            training = Training(batches=steps, lr=3e-3, data="exact", save_at=tuple(saved))
            run = study.train(problems[half], training, f"{number}", range(seeds), start=start)
            stacks += [run.checkpoint(step).stack for step in saved]
            start = stacks[-1]
        losses = {
            half: np.array([p.objective()(each)["loss"].numpy() for each in stacks]) for half, p in problems.items()
        }
        alike = np.array([cka(hidden(stack), hidden(stacks[count - 1])) for stack in stacks])
        reached = [
            np.where((part <= GOAL).any(0), np.array(saved)[(part <= GOAL).argmax(0)], np.inf)
            for part in (losses["left"][:count], losses["left"][2 * count :])
        ]
        return {
            **{half: [middle(each) for each in losses[half]] for half in losses},
            "alike": [middle(each) for each in alike],
            "left over": middle(alike[2 * count - 1] - alike[0]),
            "formed anew": middle(alike[-1] - alike[2 * count - 1]),
            "second over first": middle(reached[1] / reached[0]),
        }

    (row,) = study.cells({}, find, seeds=seeds, steps=steps)
    x = np.array([step + number * steps for number in range(3) for step in saved], dtype=float)

    def curve(label: str, what: str) -> figures.Series:
        value, low, high = np.array(row["found"][what], dtype=float).T
        return figures.Series(label=label, x=x, value=value, low=low, high=high)

    caption = (
        f"sin(2 pi x), MLP 2 x 32, tanh; {seeds} seeds; {steps:,} steps of Adam at 3e-3 on the exact loss on the left "
        "half [-1, 0], on the right one, and on the left one again. Right: linear CKA of what the last hidden layer "
        "gives for the left half with what it gave when that had been learnt first. Medians, bands 95 % each."
    )
    with sheet((WIDTH, 3.2), caption, 2, (1, 1)) as (figure, axes):
        labels = {"xlabel": "step", "percent": False}
        curves = [curve("on the left half", "left"), curve("on the right half", "right")]
        figures.series(axes[0], curves, ylabel="squared error", yscale="log", **labels)
        figures.series(axes[1], [curve("left half's geometry", "alike")], ylabel="CKA", **labels)
    study.draw(figure)
    study.done(", ".join(f"{what}: {row['found'][what]}" for what in ("left over", "formed anew", "second over first")))


if __name__ == "__main__":
    main()
