"""Can wide solutions be distilled into the smallest network? Soft answers of a wide solution as targets of a small one.

Question: small networks trained at random mostly fail (the study's first post), and large ones are said to be
distilled up to 100 times. Measure: share of seeds of m = 1, 2 and 4 that get all 512 patterns right, from the same
initial points, budget and optimizer, taught by labels, by probabilities of a solved network of m = 16, and by its
logits divided by 4; differences paired by seed, with intervals over teachers, each of which has ten students. No
difference, or a lower share, refutes that it helps. Beside it barriers on the straight line from the teacher, and from
what is left of it without the units that it does not need, to the student set into the wide network, as it is and
aligned.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from landscape import Checkpoint, Stack, Training, barriers, figures, walk
from landscape.analysis.barriers import representatives
from landscape.analysis.pruning import prune
from landscape.core.intervals import mean_interval
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from study import LAYERS as HIDDEN
from study import Study, adam, curve, spread

WIDE, WIDTHS = 16, (1, 2, 4)
TAUGHT = {"labels": None, "probabilities": 1.0, "temperature 4": 4.0}
LAYERS = ("net.0.0", "net.0.2", "net.0.4")
DATA = Life().objective().memory.samples(0, 512)
LABELS, WEIGHTS = DATA.targets[:, 0, 0].float(), DATA.weights.float()


def logits(stack: Stack) -> torch.Tensor:
    """What each member says of each pattern before the sigmoid."""
    x = DATA.inputs[0, 0].flatten(0, 1).float()[None]
    for layer in LAYERS:
        weight, bias = stack.tensors[f"{layer}.weight"].flatten(2), stack.tensors[f"{layer}.bias"][:, :, None]
        x = weight @ x + bias if layer == LAYERS[-1] else F.leaky_relu(weight @ x + bias)
    return x[:, 0]


def taught(stack: Stack, targets: torch.Tensor, steps: int, temperature: float) -> Stack:
    """Adam at 1e-2 on the cross-entropy with soft targets."""

    def gradient(flat: torch.Tensor) -> torch.Tensor:
        here = flat.detach().requires_grad_()
        answers = logits(stack.unflatten(here)) / temperature
        losses = F.binary_cross_entropy_with_logits(answers, targets, reduction="none")
        return torch.autograd.grad((losses * WEIGHTS).sum(), here)[0]

    return stack.unflatten(adam(stack.flatten(), steps, gradient))


def widened(stack: Stack, like: Stack) -> Stack:
    """The members as networks of a larger width, whose other units nothing reads."""
    tensors = {name: torch.zeros(len(stack), *shape) for name, shape in like.shapes.items()}
    for name, tensor in stack.tensors.items():
        tensors[name][tuple(slice(0, size) for size in tensor.shape)] = tensor
    return Stack(tensors)


def of_teachers(values: np.ndarray, teachers: int, statistic: Any = np.mean) -> np.ndarray:
    """A statistic of each teacher's students."""
    return np.array([statistic(values[k::teachers]) for k in range(teachers)])


def heights(like: Checkpoint, start: Stack, end: Stack) -> dict[str, np.ndarray]:
    """Barriers above the higher end, as stored and aligned, between wide networks, member by member."""
    sources = (like.sources * len(start))[: len(start)]
    ends = (dataclasses.replace(like, stack=each, sources=sources) for each in (start, end))
    lines = representatives(walk(*ends, problem=Life(m_factor=WIDE), points=51, align=True))
    return {which: barriers(lines[which]).above_higher_end for which in ("stored", "aligned")}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 1,000 steps: about half a minute on two cores",
        full="200 seeds, 10,000 steps: about 7 minutes on one core",
    )
    seeds, budget = (20, 1000) if study.quick else (200, 10_000)
    run = study.train(Life(m_factor=WIDE), Training(batches=3000, save_at=(3000,)), "teachers", range(20))
    all_of_them, wide = run.checkpoint(), Life(m_factor=WIDE).objective()
    solved = (wide(all_of_them.stack)["right"] == 512).nonzero()[:, 0]
    teachers = all_of_them.stack.select(solved[torch.arange(seeds) % len(solved)])
    starts = {"teacher": teachers, "pruned teacher": prune(wide, teachers, HIDDEN)[0]}

    def find(m_factor: int, by: str) -> dict[str, Any]:
        problem = Life(m_factor=m_factor)
        start, temperature = initialise(problem.prototype, range(seeds)), TAUGHT[by] or 1.0
        soft = (logits(teachers) / temperature).sigmoid() if TAUGHT[by] else LABELS.expand(seeds, -1)
        student = taught(start, soft, budget, temperature)
        set_in, found = widened(student, teachers), {}
        for name, each in starts.items():
            for which, height in heights(all_of_them, each, set_in).items():
                found[f"barrier, {name}, {which}"] = spread(of_teachers(height, len(solved), np.median))
        return {"solved": (problem.objective()(student)["right"] == 512).numpy().astype(int), **found}

    cells = study.cells({"m_factor": WIDTHS, "by": tuple(TAUGHT)}, find, seeds=seeds, budget=budget)
    right = {tuple(each["cell"].values()): np.array(each["found"]["solved"]) for each in cells}

    def mean(values: np.ndarray, least: float) -> list[float]:
        return [float(values.mean()), *mean_interval(of_teachers(values, len(solved)), within=(least, 1.0))]

    shares = {by: [mean(right[m, by], 0.0) for m in WIDTHS] for by in TAUGHT}
    gains = {f"m = {m}, {by}": mean(right[m, by] - right[m, "labels"], -1.0) for m in WIDTHS for by in list(TAUGHT)[1:]}
    study.keep({"shares": shares, "more than by labels": gains}, "differences")
    curves = [curve(by, WIDTHS, each) for by, each in shares.items()]
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, the same for each teacher, {budget:,} "
        f"steps of Adam at 1e-2 over all 512 patterns. Teachers: {len(solved)} of m = {WIDE}, solved, each of "
        f"{seeds // len(solved)} students. Solved: all patterns right; intervals, 95 % each, over teachers."
    )
    look = {"xlabel": "width m of the student", "ylabel": "students that solve (%)", "xscale": "log", "height": 3.2}
    study.draw(figures.series_figure([("", curves)], caption=caption, **look))
    study.done("more solved than by labels: " + "; ".join(f"{name}: {value}" for name, value in gains.items()))


if __name__ == "__main__":
    main()
