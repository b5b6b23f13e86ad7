"""How narrow may a bottleneck be and still carry the task, and is that narrower than what PCA needs?

Claim 45 ("Diving deep": the smallest dimension that carries a task). Perceptrons with one narrow linear layer of k
units between hidden layers of 64, ReLU. Tasks: to give back digits, or hats max(0, 1 - 4 |x - c|) at 65 points, which
have one parameter c; and to read digits. Measure: the share of the test data's variance that is lost, and of test
images read wrong. Referee: PCA of k components, the best that linear layers can do; of reading, the same network behind
it. A width carries the task if the median over seeds is at most 5 %. Refuted: that training finds the narrowest code,
if one unit does not carry the hats; that it finds a narrower one than PCA, if its smallest k is no smaller.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape import Problem, figures
from landscape.problems.digits import Digits
from landscape.training.train import Training
from study import Study, middle

HIDDEN = 64
TASKS = {"digits": "give back digits", "hats": "give back hats", "read": "read digits"}


def samples(task: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and targets to train on, and to test on."""
    if task == "hats":
        x, places = torch.linspace(-1, 1, 65), (torch.linspace(-1, 1, 1001), torch.linspace(-0.999, 0.999, 500))
        made = [(1 - 4 * (x - c).abs()).clamp(min=0) for c in (each[:, None] for each in places)]
        return made[0], made[0], made[1], made[1]
    train, test = Digits().training_data(), Digits().test_data()
    if task == "digits":
        return train.inputs, train.inputs, test.inputs, test.inputs
    return train.inputs, train.targets, test.inputs, test.targets


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="6 seeds, 300 steps, k = 1, 2, 8: about 40 seconds on a core",
        full="20 seeds, 1,000 steps, k = 1, 2, 3, 4, 6, 8, 16: about 4 minutes on a core",
    )
    seeds, steps, widths = (6, 300, (1, 2, 8)) if study.quick else (20, 1000, (1, 2, 3, 4, 6, 8, 16))

    def find(task: str, k: int) -> dict[str, Any]:
        inputs, targets, new, truth = samples(task)
        mean = inputs.mean(0)
        axes = torch.linalg.svd((inputs - mean).double())[2][:k].float().T

        def lost(inside: int, data: dict[str, Any], part: str) -> list[float]:
            """By a network with k units between hidden layers, or of two hidden layers behind PCA."""
            before = [nn.Linear(inside, HIDDEN), nn.ReLU(), *([nn.Linear(HIDDEN, k)] if inside != k else [])]
            out = 10 if task == "read" else new.shape[1]
            network = nn.Sequential(
                *before, nn.Linear(HIDDEN if inside == k else k, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out)
            )
            problem = Problem.from_model(network, data, "cross_entropy" if task == "read" else "mse")
            training = Training(batches=steps, lr=3e-3, data="batches", save_at=(steps,))
            run = study.train(problem, training, f"{task}/{k}/{part}", range(seeds))
            found = problem.test_objective()(run.checkpoint().stack)
            share = (
                1 - found["accuracy"].numpy()
                if task == "read"
                else found["loss"].numpy() / float(truth.var(0, correction=0).mean())
            )
            return middle(share)

        found = {"network": lost(inputs.shape[1], {"train": (inputs, targets), "test": (new, truth)}, "network")}
        codes = [(each - mean) @ axes for each in (inputs, new)]
        if task == "read":
            return {**found, "PCA": lost(k, {"train": (codes[0], targets), "test": (codes[1], truth)}, "PCA")}
        error = (codes[1] @ axes.T + mean - new).square().mean() / new.var(0, correction=0).mean()
        return {**found, "PCA": [float(error)] * 3}

    rows = study.cells({"task": tuple(TASKS), "k": widths}, find, seeds=seeds, steps=steps)

    def curve(task: str, by: str) -> figures.Series:
        value, low, high = np.array([e["found"][by] for e in rows if e["cell"]["task"] == task], dtype=float).T
        return figures.Series(label=by, x=np.array(widths, dtype=float), value=value, low=low, high=high)

    panels = [(title, [curve(task, by) for by in ("network", "PCA")]) for task, title in TASKS.items()]
    caption = (
        f"Perceptrons with a linear layer of k units between ReLU layers of {HIDDEN}; {seeds} seeds, {steps:,} steps "
        "of Adam at 3e-3 on batches of 128. Lost: share of the test data's variance; of reading, images read wrong, "
        "PCA's by a network of two hidden layers behind it. Medians, bands 95 % each; PCA's own errors are exact. Hats "
        "have one parameter."
    )
    labels = {"xlabel": "width k", "ylabel": "lost", "xscale": "log", "yscale": "log", "percent": False}
    study.draw(figures.series_figure(panels, caption=caption, **labels))
    study.done("; ".join(f"{e['cell']['task']}, k = {e['cell']['k']}: {e['found']['network'][0]:.3f}" for e in rows))


if __name__ == "__main__":
    main()
