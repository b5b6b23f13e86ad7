"""Do twelve results of the literature hold for small networks that read digits? Their finding, and ours with an interval.

Each row of RESULTS is one question, stated with its source before any number, and answered by one call of the package;
`command` in the result file is the same on the command line, for one run. A row is refuted if our interval lies on the
other side. That early training decides (J. Frankle et al., ICML 2020) is asked in `fork_at_step.py`. Not asked: lottery
tickets (J. Frankle, M. Carbin, ICLR 2019), which need training with masks.
"""

import dataclasses
import textwrap
from typing import Any

import numpy as np
import torch

from landscape import Checkpoint, Run, Stack, Training, barriers, connect, curvature, walk
from landscape.analysis.barriers import representatives, square
from landscape.core.intervals import Proportion, mean_interval, median_interval, pairs_interval
from landscape.engine.spectrum import eigenpairs
from landscape.figures.pages import WIDTH, sheet
from landscape.problems.digits import Digits
from study import Study

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {  # fields of problem and training, times the steps
    "plain": ({}, {}, 1),
    "narrow": ({"width": 8}, {}, 1),
    "wide": ({"width": 128}, {}, 1),
    "small": ({}, {"batch_size": 16}, 4),
    "large": ({}, {"batch_size": 1297}, 1),
    "random": ({"width": 128, "labels": "random"}, {}, 2),
    "batchnorm": ({"architecture": "cnn_bn", "width": 4}, {}, 1),
}
RESULTS = {  # source, what it found, command
    "falls from start to end": ("Goodfellow 2015, Lucas 2021", "nearly all lines", "walk RUN/@0 RUN"),
    "joined once permuted": ("Entezari 2022, Ainsworth 2023", "barrier near 0", "walk RUN RUN --pairs all --align"),
    "wider, lower": ("Entezari 2022", "barrier falls with width", "walk RUN RUN --pairs all --align"),
    "joined by a bend": ("Garipov 2018, Draxler 2018", "barrier near 0", "connect RUN OTHER --method bezier"),
    "large batches: sharper": ("Keskar 2017", "in all networks", "curvature RUN"),
    "large batches: worse": ("Keskar 2017", "in all networks", "analyse outcomes RUN --problem digits:on=test"),
    "random labels are fitted": ("Zhang 2017", "100 % of the images", "analyse outcomes RUN"),
    "averaged along training": ("Izmailov 2018, Wortsman 2022", "lower test loss", "average RUN/@600 RUN/@800 RUN"),
    "statistics renewed": ("Jordan 2023", "lower barrier", "walk RUN OTHER --align --batchnorm recalibrate"),
    "outliers of the Hessian": ("Sagun 2018, Papyan 2019", "about classes - 1 = 9", "curvature RUN --top 20"),
    "gradient in the top 10": ("Gur-Ari 2018", "most of it", "eigenpairs of the Hessian, in Python"),
    "minima are equally good": ("Choromanska 2015", "small spread", "analyse outcomes RUN --problem digits:on=test"),
}


def next_seed(run: Run) -> Checkpoint:
    """The ends of a run, each in the place of the seed before it."""
    whole = run.checkpoint()
    index = np.roll(np.arange(len(whole.sources)), -1)
    return dataclasses.replace(whole, stack=whole.stack.select(index), sources=tuple(whole.sources[k] for k in index))


def middle(values: np.ndarray) -> list[float]:
    """Median over seeds and its interval."""
    return [float(np.median(values)), *median_interval(values)]


def pairs(run: Run, which: str) -> list[float]:
    """Mean barrier between all pairs of seeds, units as they are (`stored`) or `aligned`, and its interval."""
    lines = representatives(walk(run, run, problem=run.trained_on, pairs="all", align=True, points=11))[which]
    between = square(barriers(lines).above_chord, len(run.seeds))
    return [float(np.nanmean(between)), *pairs_interval(between, "mean")]


def test(run: Run, stack: Stack | None = None) -> dict[str, np.ndarray]:
    """Loss and accuracy on the test images."""
    seen = dataclasses.replace(run.trained_on, on="test").objective()
    return {name: value.numpy() for name, value in seen(stack or run.checkpoint().stack).items()}


def answer(result: str, runs: Any, last: int) -> dict[str, Any]:
    """Ours: values with their intervals, by what they are."""
    plain = runs("plain")
    problem, count = plain.trained_on, len(plain.seeds)
    match result:
        case "falls from start to end":
            course = barriers(walk(plain.checkpoint(0), plain, problem=problem)).courses()
            return {"lines that fall": Proportion(course["falling"], count)}
        case "joined once permuted":
            return {"barrier as stored": pairs(plain, "stored"), "permuted": pairs(plain, "aligned")}
        case "wider, lower":
            return {f"width {k}": pairs(runs(name), "aligned") for name, k in (("narrow", 8), ("wide", 128))}
        case "joined by a bend":
            found = connect(plain, next_seed(plain), problem=problem, method="bezier", steps=last // 4, points=101)
            ends = np.maximum(found.loss[:, 0], found.loss[:, -1])
            rises = {name: found[key].max(1) - ends for name, key in (("straight", "loss_straight"), ("bent", "loss"))}
            return {f"{name}, above the ends": middle(each) for name, each in rises.items()}
        case "large batches: sharper":
            tops = [curvature(runs(name), dtype=torch.float32).eigenvalues[:, 0] for name in ("large", "small")]
            return {"sharper": Proportion(int((tops[0] > tops[1]).sum()), count), "ratio": middle(tops[0] / tops[1])}
        case "large batches: worse":
            large, small = (test(runs(name))["accuracy"] for name in ("large", "small"))
            less = small - large
            return {
                "worse": Proportion(int((less > 0).sum()), count),
                "accuracy lost": [less.mean(), *mean_interval(less)],
            }
        case "random labels are fitted":
            right = runs("random").trained_on.objective()(runs("random").checkpoint().stack)["accuracy"].numpy()
            return {"networks above 99 %": Proportion(int((right > 0.99).sum()), count), "images": middle(right)}
        case "averaged along training":
            steps = [plain.checkpoint(step).stack for step in plain.steps() if step >= 0.6 * last]
            mean = Stack({name: torch.stack([each[name] for each in steps]).mean(0) for name in steps[0].tensors})
            ratio = test(plain, mean)["loss"] / test(plain)["loss"]
            return {"lower": Proportion(int((ratio < 1).sum()), count), "test loss, ratio": middle(ratio)}
        case "statistics renewed":
            one, other = runs("batchnorm"), next_seed(runs("batchnorm"))
            how = {"problem": one.trained_on, "align": True, "points": 11}
            found = {kind: walk(one, other, batchnorm=kind, **how) for kind in ("interpolate", "recalibrate")}
            return {
                kind: middle(barriers(representatives(each)["aligned"]).above_chord) for kind, each in found.items()
            }
        case "outliers of the Hessian":
            values = curvature(plain, top=20, dtype=torch.float32).eigenvalues
            gap = 1 + np.argmax(values[:, :-1] / values[:, 1:], axis=1)  # how many lie above the widest gap
            return {"above the widest gap": middle(gap)}
        case "gradient in the top 10":
            stack, objective = plain.checkpoint(last // 10).stack, problem.objective()
            slope = objective.gradient(stack)[1].flatten().double().numpy()
            top = eigenpairs(objective, stack, k=10).vectors
            share = (np.einsum("mkp,mp->mk", top, slope) ** 2).sum(1) / (slope**2).sum(1)
            return {"share of its square": middle(share)}
        case _:
            right = test(plain)["accuracy"]
            return {
                "test accuracy": [right.mean(), *mean_interval(right)],
                "lowest": [right.min()],
                "highest": [right.max()],
            }


def main() -> None:
    quick, full = "6 seeds, 200 steps: half a minute", "20 seeds, 1,000 steps: about 10 minutes on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    count, last = (6, 200) if study.quick else (20, 1000)

    def runs(name: str) -> Run:
        fields, how, times = RUNS[name]
        saved = tuple(range(0, times * last + 1, times * last // 10))
        training = Training(data="batches", batches=times * last, lr=3e-3, save_at=saved, **how)
        return study.train(Digits(**fields), training, name, range(count))

    cells = study.cells({"result": tuple(RESULTS)}, lambda result: answer(result, runs, last), seeds=count, steps=last)
    caption = (
        f"Handwritten digits (8 x 8), MLP with two hidden layers of 32, ReLU, if nothing else is said; {count} seeds, "
        f"{last:,} steps of Adam at 3e-3 on batches of 128 (small: 16, four times as many steps; large: all 1,297). "
        "Medians, means or shares over seeds, or pairs of seeds, each with its 95 % interval." + study.not_run()
    )
    with sheet((WIDTH, 0.42 * len(cells) + 0.5), caption) as (figure, (ax,)):
        ax.set_axis_off()
        rows = [("result", "source", "they found", "here")]
        for each in cells:
            source, theirs, _ = RESULTS[each["cell"]["result"]]
            rows.append((each["cell"]["result"], source, theirs, "\n".join(map(told, each["found"].items()))))
        for number, row in enumerate(rows):
            for x, text, wide in zip((0.0, 0.22, 0.42, 0.6), row, (24, 20, 20, 60), strict=True):
                shown = "\n".join(textwrap.fill(line, wide) for line in text.split("\n"))
                weight = "normal" if number else "bold"
                ax.text(x, 1 - number / len(rows), shown, size=7.5, va="top", weight=weight, transform=ax.transAxes)
    study.draw(figure)
    study.done("; ".join(f"{each['cell']['result']}: {told(next(iter(each['found'].items())))}" for each in cells))


def told(item: tuple[str, Any]) -> str:
    """A value with its interval in words."""
    name, found = item
    if isinstance(found, dict):
        (low, high), share = found["interval"], f"{found['count']} of {found['total']}"
        return f"{name}: {share} ({100 * low:.0f} to {100 * high:.0f} %)"
    value, *ends = found
    return f"{name}: {value:.3g}" + (f" ({ends[0]:.3g} to {ends[1]:.3g})" if None not in ends and ends else "")


if __name__ == "__main__":
    main()
