"""Do six results of the literature about where training ends hold for small networks that read digits?

Each row of RESULTS is stated with its source before any number, and answered by one call, named as on the command line.
It is refuted if our interval lies on the other side of what they found. Small batches take four times as many steps, as
both are meant to fit their images; as curvature falls with the loss, sharpness (here the largest eigenvalue) is
compared at equal training loss too, the higher of both ends', between checkpoints. Lines between networks are asked
about in `literature_lines.py`. Not asked: lottery tickets (J. Frankle, M. Carbin, ICLR 2019), which need masks.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from landscape import Run, Training, curvature
from landscape.core.intervals import Proportion, mean_interval
from landscape.engine.spectrum import eigenpairs
from landscape.problems.digits import Digits
from study import Study, middle

RUNS = {  # problem, images of a batch, times the steps
    "plain": (Digits(), 128, 1),
    "small": (Digits(), 16, 4),
    "large": (Digits(), 1297, 1),
    "random": (Digits(width=128, labels="random"), 128, 2),
}
TEST = "analyse outcomes RUN --problem digits -O on=test"
RESULTS = {  # source, what it found, command
    "large batches end sharper": ("Keskar 2017", "9 to 220 times (another measure)", "analyse curvature RUN"),
    "large batches are worse in test": ("Keskar 2017", "0.2 to 5.3 points", TEST),
    "random labels are fitted": ("Zhang 2017", "99.3 to 100 %", "analyse outcomes RUN"),
    "outliers of the Hessian": ("Sagun 2018, Papyan 2019", "about one a class", "analyse curvature RUN --top 20"),
    "the gradient is in the top 10": ("Gur-Ari 2018", "close to all", "eigenpairs (Python)"),
    "minima are about equally good": ("Choromanska 2015", "small spread", TEST),
}


def accuracy(run: Run, on: str) -> np.ndarray:
    """Share of right images of each seed."""
    return dataclasses.replace(run.trained_on, on=on).objective()(run.checkpoint().stack)["accuracy"].numpy()


def course(run: Run) -> np.ndarray:
    """Logarithms of training loss and largest eigenvalue, by checkpoint, of each seed (last axis)."""
    kept, problem = [run.checkpoint(step) for step in run.steps()], run.trained_on
    sharp = [curvature(each, problem=problem, dtype=torch.float32).eigenvalues[:, 0] for each in kept]
    return np.log([[problem.objective()(each.stack)["loss"].numpy() for each in kept], sharp])


def answer(result: str, runs: Any, last: int) -> dict[str, Any]:
    """Ours: values with their intervals, by what they are."""
    match list(RESULTS).index(result):
        case 0:
            (loss, sharp), (other, flat) = both = [course(runs(k)) for k in ("large", "small")]
            at = -np.maximum(loss[-1], other[-1])
            equal = [[np.interp(x, -each[0, :, k], each[1, :, k]) for k, x in enumerate(at)] for each in both]
            ratios = {"loss, ratio": (loss[-1], other[-1]), "ratio": (sharp[-1], flat[-1]), "at equal loss": equal}
            told = {name: middle(np.exp(np.subtract(*each))) for name, each in ratios.items()}
            return {"sharper": Proportion(int((sharp[-1] > flat[-1]).sum()), len(at)), **told}
        case 1:
            pairs = (("small", "test"), ("large", "test"), ("large", "train"))
            small, large, fitted = (accuracy(runs(k), on) for k, on in pairs)
            told = {"accuracy lost": [(small - large).mean(), *mean_interval(small - large)], "fitted": middle(fitted)}
            return {"worse": Proportion(int((small > large).sum()), len(small)), **told}
        case 2:
            right = accuracy(runs("random"), "train")
            return {"networks above 99 %": Proportion(int((right > 0.99).sum()), len(right)), "images": middle(right)}
        case 3:
            values = curvature(runs("plain"), top=20, dtype=torch.float32).eigenvalues
            return {"above the widest gap": middle(1 + np.argmax(values[:, :-1] / values[:, 1:], axis=1))}
        case 4:
            told = {}
            for step in (last // 10, last):
                stack, objective = runs("plain").checkpoint(step).stack, runs("plain").trained_on.objective()
                slope = objective.gradient(stack)[1].flatten().double().numpy()
                along = np.einsum("mkp,mp->mk", eigenpairs(objective, stack, k=10).vectors, slope)
                told[f"share of its square, step {step}"] = middle((along**2).sum(1) / (slope**2).sum(1))
            return told
        case _:
            right = accuracy(runs("plain"), "test")
            told = {"test accuracy": [right.mean(), *mean_interval(right)]}
            return told | {"lowest": [right.min()], "highest": [right.max()]}


def main() -> None:
    quick, full = "6 seeds, 200 steps: half a minute", "20 seeds, 1,000 steps: 5 minutes on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    count, last = (6, 200) if study.quick else (20, 1000)

    def runs(name: str) -> Run:
        problem, size, times = RUNS[name]
        saved = sorted({last // 10, *(times * last * k // 10 for k in range(1, 11))})
        how = {"data": "batches", "batch_size": size, "batches": times * last, "lr": 3e-3, "save_at": tuple(saved)}
        return study.train(problem, Training(**how), name, range(count))

    cells = study.cells({"result": tuple(RESULTS)}, lambda result: answer(result, runs, last), seeds=count, steps=last)
    caption = (
        f"Handwritten digits, MLP with two hidden layers of 32 (random labels: 128), ReLU; {count} seeds, {last:,} "
        "steps of Adam at 3e-3, batches of 128 (small: 16, four times as many steps; large: all 1,297; random labels: "
        "twice as many steps). Ratio: large over small. Shares, medians or means over seeds; 95 % intervals."
    )
    rows = [("result", "source", "they found", "command", "here")]
    rows += [(c["cell"]["result"], *RESULTS[c["cell"]["result"]], study.told(c["found"])) for c in cells]
    study.draw_table(rows, caption, columns=((0, 20), (0.17, 17), (0.335, 13), (0.455, 26), (0.67, 41)))
    study.done("; ".join(row[-1].replace("\n", ", ") for row in rows[1:]))


if __name__ == "__main__":
    main()
