"""Can wide solutions be distilled into the smallest network? Soft answers of a wide solution as targets of a small one.

Question: small networks trained at random mostly fail (the study's first post), and large ones are said to be distilled
up to 100 times. Measure: share of seeds of m = 1, 2 and 4 that get all 512 patterns right, from the same initial
points, budget and optimizer, taught by labels, by probabilities of a solved network of m = 16, and by its logits
divided by 4; differences paired by seed with their intervals. No difference, or a lower share, refutes that it helps.
Beside it the barrier between teacher and student on the straight line, where the student is set into the wide network.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from landscape import Stack, Training, figures
from landscape.core.intervals import Proportion, mean_interval
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.training.optimizers import OPTIMIZERS
from study import Study, barrier, spread

WIDE = 16
TAUGHT = {"labels": None, "probabilities": 1.0, "temperature 4": 4.0}
LAYERS = ("net.0.0", "net.0.2", "net.0.4")
INPUTS, LABELS, WEIGHTS = Life()._pattern_data


def logits(stack: Stack) -> torch.Tensor:
    """What each member says of each pattern before the sigmoid."""
    x = INPUTS[0, 0].flatten(0, 1).float()[None]
    for layer in LAYERS:
        weight, bias = stack.tensors[f"{layer}.weight"].flatten(2), stack.tensors[f"{layer}.bias"][:, :, None]
        x = weight @ x + bias
        x = x if layer == LAYERS[-1] else F.leaky_relu(x)
    return x[:, 0]


def taught(stack: Stack, targets: torch.Tensor, steps: int, temperature: float) -> Stack:
    """Adam at 1e-2 on the cross-entropy with soft targets."""
    adam, flat, options = OPTIMIZERS["adam"], stack.flatten(), Training(lr=1e-2)
    moments = adam.begin(flat)
    for step in range(steps):
        here = flat.detach().requires_grad_()
        losses = F.binary_cross_entropy_with_logits(
            logits(stack.unflatten(here)) / temperature, targets, reduction="none"
        )
        (gradient,) = torch.autograd.grad((losses * WEIGHTS.float()).sum(), here)
        flat = adam.step(flat, gradient, moments, options, step)
    return stack.unflatten(flat)


def widened(stack: Stack, like: Stack) -> Stack:
    """The members as networks of a larger width, whose other units nothing reads."""
    tensors = {name: torch.zeros(len(stack), *shape) for name, shape in like.shapes.items()}
    for name, tensor in stack.tensors.items():
        tensors[name][tuple(slice(0, size) for size in tensor.shape)] = tensor
    return Stack(tensors)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 1,000 steps: about half a minute on two cores",
        full="200 seeds, 10,000 steps: about 20 minutes on one core",
    )
    seeds, budget = (20, 1000) if study.quick else (200, 10_000)
    run = study.train(Life(m_factor=WIDE), Training(batches=3000, save_at=(3000,)), "teachers", range(20))
    teachers, wide = run.checkpoint().stack, Life(m_factor=WIDE).objective()
    teachers = teachers.select((wide(teachers)["right"] == 512).nonzero()[:, 0])
    teachers = teachers.select([k % len(teachers) for k in range(seeds)])

    def find(m_factor: int, by: str) -> dict[str, Any]:
        problem = Life(m_factor=m_factor)
        start, temperature = initialise(problem.prototype, range(seeds)), TAUGHT[by] or 1.0
        soft = (logits(teachers) / temperature).sigmoid() if TAUGHT[by] else LABELS[:, 0, 0].float().expand(seeds, -1)
        student = taught(start, soft, budget, temperature)
        own = problem.objective()(student)
        return {
            "solved": (own["right"] == 512).numpy().astype(int),
            "loss": spread(own["loss"].numpy()),
            "barrier above the higher end": spread(barrier(wide, teachers, widened(student, teachers))),
        }

    cells = study.cells({"m_factor": (1, 2, 4), "by": tuple(TAUGHT)}, find, seeds=seeds, budget=budget)
    solved = {tuple(each["cell"].values()): np.array(each["found"]["solved"]) for each in cells}
    curves = [
        figures.Series.of_proportions(by, (1, 2, 4), [Proportion(int(solved[m, by].sum()), seeds) for m in (1, 2, 4)])
        for by in TAUGHT
    ]
    gains = {
        f"m = {m}, {by}": [
            float((solved[m, by] - solved[m, "labels"]).mean()),
            *mean_interval(solved[m, by] - solved[m, "labels"]),
        ]
        for m in (1, 2, 4)
        for by in list(TAUGHT)[1:]
    }
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, the same for each teacher, {budget:,} "
        f"steps of Adam at 1e-2 over all 512 patterns. Teachers: m = {WIDE}, solved. Solved: all patterns right."
    )
    look = {"xlabel": "width m of the student", "ylabel": "students that solve (%)", "xscale": "log", "height": 3.2}
    study.draw(figures.series_figure([("", curves)], caption=caption, **look))
    study.done("more solved than by labels: " + "; ".join(f"{name}: {value}" for name, value in gains.items()))


if __name__ == "__main__":
    main()
