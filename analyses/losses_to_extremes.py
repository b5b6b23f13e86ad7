"""Which losses of the probability p of the right answer train, from 1 - p to 1/p^5, and why?

Claim 44 ("Diving deep"): -log p and 1/sqrt p train with a home-made optimizer, 1/p and 1 - p do not; Adam trains 1/p,
1/p^3, 1/p^5. Each is a function f of the cross-entropy h = -log p, and weighs a sample's gradient by f'(h): p,
2p(1 - p), 1, 1/(2 sqrt p), 1/p, 3/p^3, 5/p^5. Measure: share of seeds that train (Life: 512 patterns right; digits:
95 % of the test images), at that of five rates at which most of 8 other seeds do; plain descent's are divided by f'(h)
of a guess, so that all start alike. Refuted if it trains 1/p or not 1/sqrt p, or Adam not 1/p to 1/p^5. Why: gradients.
"""

import functools
import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape import Problem, figures
from landscape.core.intervals import Proportion, median_interval
from landscape.problems.digits import Digits
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study

LOSSES: dict[str, Any] = {
    "1 - p": lambda h: -torch.expm1(-h),
    "(1 - p)²": lambda h: torch.expm1(-h).square(),
    "-log p": lambda h: h,
    "1/√p": lambda h: (h / 2).exp(),
    "1/p": torch.exp,
    "1/p³": lambda h: (3 * h).exp(),
    "1/p⁵": lambda h: (5 * h).exp(),
}
RATES = {"Adam": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), "plain descent": (0.03, 0.1, 0.3, 1.0, 3.0)}


@functools.cache
def made(task: str, loss: str) -> Problem:
    if task == "digits":
        train, test = Digits().training_data(), Digits().test_data()
        data = {"train": (train.inputs, train.targets), "test": (test.inputs, test.targets)}

        def digits(out: Tensor, y: Tensor) -> Tensor:
            return LOSSES[loss](F.cross_entropy(out, y, reduction="none"))

        return Problem.from_model(Digits().network(), data, digits, {"hit": lambda out, y: out.argmax(1) == y})
    m, seen = int(task[-1]), Life().objective().memory.samples(0, 512)
    patterns = seen.inputs[0].movedim(-1, 0), seen.targets[0].movedim(-1, 0).flatten(1), seen.weights[0]
    layers = nn.Conv2d(1, 2 * m, 3), nn.LeakyReLU(), nn.Conv2d(2 * m, m, 1), nn.LeakyReLU(), nn.Conv2d(m, 1, 1)

    def life(out: Tensor, y: Tensor) -> Tensor:
        return LOSSES[loss](F.binary_cross_entropy_with_logits(out, y, reduction="none")[:, 0])

    right = {"hit": lambda out, y: ((out > 0) == (y > 0.5))[:, 0]}
    return Problem.from_model(nn.Sequential(*layers, nn.Flatten()), patterns, life, right)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="10 seeds, 200 steps, Life m = 1 and digits, a rate each: about half a minute on a core",
        full="40 seeds, 1,500 steps of Life, 1,000 of digits: about 12 minutes on a core",
    )
    seeds, tasks = (10, ("Life, m = 1", "digits")) if study.quick else (40, ("digits", "Life, m = 4", "Life, m = 1"))
    rates = {"Adam": (1e-2,), "plain descent": (1e-1,)} if study.quick else RATES

    def find(task: str, how: str, loss: str) -> dict[str, Any]:
        problem, digits = made(task, loss), task == "digits"
        last, need = 200 if study.quick else 1000 if digits else 1500, 0.95 if digits else 1 - 1e-9
        options = {"batches": last, "save_at": (0, 10, 100, last), "data": "batches" if digits else "exact"}

        def run(lr: float, members: range) -> tuple[Any, np.ndarray]:
            guess = torch.tensor(10.0 if digits else 2.0).log()
            scale = 1.0 if how == "Adam" else float(torch.func.grad(LOSSES[loss])(guess))
            training = Training(lr=lr / scale, optimizer="adam" if how == "Adam" else "sgd", **options)
            done = study.train(problem, training, f"{task}/{how}/{list(LOSSES).index(loss)}/{lr}/{members[0]}", members)
            stack = done.checkpoint().stack
            right = (problem.test_objective() if digits else problem.objective())(stack)["hit"].numpy()
            return done, np.where(stack.flatten().isfinite().all(1), right, 0.0)

        tried = {lr: run(lr, range(1000, 1008))[1] for lr in rates[how]}
        best = max(tried, key=lambda lr: ((tried[lr] >= need).sum(), tried[lr].mean()))
        done, right = run(best, range(seeds))
        stacks = {step: done.checkpoint(step).stack for step in options["save_at"]}
        norms = {step: problem.objective().gradient(each)[1].flatten().norm(dim=1) for step, each in stacks.items()}
        slopes = {step: [float(each.median()), *median_interval(each.numpy())] for step, each in norms.items()}
        trained = Proportion(int((right >= need).sum()), seeds)
        return {"lr": best, "trained": trained, "right": right.mean(), "gradient after": slopes}

    cells = study.cells({"task": tasks, "how": tuple(rates), "loss": tuple(LOSSES)}, find, seeds=seeds)
    panels = dict[str, list[figures.Series]]()
    for task, how in itertools.product(tasks, rates):
        if own := [each for each in cells if {task, how} <= set(each["cell"].values())]:
            places = [list(LOSSES).index(each["cell"]["loss"]) for each in own]
            counts = [Proportion(each["found"]["trained"]["count"], seeds) for each in own]
            panels.setdefault(task, []).append(figures.Series.of_proportions(how, places, counts))
    caption = (
        "p: probability of the right answer. Life B3/S23V, one step, LeakyReLU, exact loss; digits: MLP 2 x 32, "
        f"batches of 128. {seeds} seeds, {'200' if study.quick else '1,500 (digits 1,000)'} steps at the rate at which "
        "most of 8 other seeds train. Trained: all 512 patterns right; 95 % of the test images."
    )
    labels = {"xlabel": "loss", "ylabel": "seeds that train (%)", "xscale": "category", "categories": tuple(LOSSES)}
    study.draw(figures.series_figure([*panels.items()], caption=caption, columns=2, **labels))
    study.done("; ".join(f"{t}: " + ", ".join(f"{c.label} {c.value}" for c in curves) for t, curves in panels.items()))


if __name__ == "__main__":
    main()
