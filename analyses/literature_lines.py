"""Do six results of the literature about lines between networks hold for small ones that read digits?

Each row of RESULTS is stated with its source before any number, and answered by one call, named as on the command line.
It is refuted if our interval lies on the other side of what they found. What is found at ends of training is asked in
`literature_ends.py`, that early training decides (J. Frankle et al., ICML 2020) in `fork_at_step.py`.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from landscape import Checkpoint, Run, Stack, Training, barriers, connect, walk
from landscape.analysis.barriers import representatives, square
from landscape.core.intervals import Proportion, pairs_interval
from landscape.problems.digits import Digits
from study import Study, middle

RUNS = {  # fields of the problem
    "plain": Digits(),
    "narrow": Digits(width=8),
    "wide": Digits(width=128),
    "batchnorm": Digits(architecture="cnn_bn", width=4),
}
PAIRS = "walk --from RUN --to RUN --pairs all --align"
RESULTS = {  # source, what it found, command
    "the loss falls from the initial point to the end": ("Goodfellow 2015", "no obstacle", "walk --from RUN/@0"),
    "a permutation joins": ("Entezari 2022, Ainsworth 2023", "barrier 0", PAIRS),
    "width lowers barriers": ("Entezari 2022", "barrier to 0", PAIRS),
    "a bend joins": ("Garipov 2018", "error 7, not 90 %", "connect --from RUN --to OTHER --method bezier"),
    "a mean of weights is better": ("Izmailov 2018", "by 1.3 points", "average RUN/@600/#0 ... RUN/@1000/#0"),
    "new statistics lower barriers": ("Jordan 2023", "by 60 to 100 %", "walk --align --batchnorm recalibrate ..."),
}


def next_seed(run: Run) -> Checkpoint:
    """The ends of a run, each in the place of the seed before it."""
    whole = run.checkpoint()
    return whole.select(np.roll(np.arange(len(whole.sources)), -1))


def of_ring(values: np.ndarray) -> list[float]:
    """Median over pairs of a seed with the next one, and its interval, left out a seed with both of its pairs."""
    table = np.where(np.roll(np.eye(len(values), dtype=bool), 1, axis=1), values[:, None], np.nan)
    return [float(np.median(values)), *pairs_interval(table)]


def pairs(run: Run, which: str) -> list[float]:
    """Mean barrier between all pairs of seeds, units as they are (`stored`) or `aligned`, and its interval."""
    lines = representatives(walk(run, run, problem=run.trained_on, pairs="all", align=True, points=11))[which]
    between = square(barriers(lines).above_chord, len(run.seeds))
    return [float(np.nanmean(between)), *pairs_interval(between, "mean")]


def answer(result: str, runs: Any, last: int) -> dict[str, Any]:
    """Ours: values with their intervals, by what they are."""
    plain = runs("plain")
    problem, count = plain.trained_on, len(plain.seeds)
    match list(RESULTS).index(result):
        case 0:
            course = barriers(walk(plain.checkpoint(0), plain, problem=problem)).courses()
            return {"lines that fall": Proportion(course["falling"], count)}
        case 1:
            return {"barrier as stored": pairs(plain, "stored"), "permuted": pairs(plain, "aligned")}
        case 2:
            return {f"barrier, width {k}": pairs(runs(name), "aligned") for name, k in (("narrow", 8), ("wide", 128))}
        case 3:
            found = connect(plain, next_seed(plain), problem=problem, method="bezier", steps=last // 4, points=101)
            ends = np.maximum(found.loss[:, 0], found.loss[:, -1])
            names = {"straight": "loss_straight", "bent": "loss"}
            return {f"{name}, above the ends": of_ring(found[key].max(1) - ends) for name, key in names.items()}
        case 4:
            steps = [plain.checkpoint(step).stack for step in plain.steps() if step >= 0.6 * last]
            mean = Stack({name: torch.stack([each[name] for each in steps]).mean(0) for name in steps[0].tensors})
            test = dataclasses.replace(problem, on="test").objective()
            ratio = (test(mean)["loss"] / test(steps[-1])["loss"]).numpy()
            return {"lower": Proportion(int((ratio < 1).sum()), count), "test loss, ratio": middle(ratio)}
        case _:
            one, how = runs("batchnorm"), {"align": True, "points": 11, "problem": runs("batchnorm").trained_on}
            walked = {kind: walk(one, next_seed(one), batchnorm=kind, **how) for kind in ("interpolate", "recalibrate")}
            heights = {kind: barriers(representatives(each)["aligned"]).above_chord for kind, each in walked.items()}
            less = of_ring(heights["recalibrate"] / heights["interpolate"])
            return {**{f"barrier, {kind}": of_ring(each) for kind, each in heights.items()}, "ratio": less}


def main() -> None:
    quick, full = "6 seeds, 200 steps: half a minute", "20 seeds, 1,000 steps: 5 minutes on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    count, last = (6, 200) if study.quick else (20, 1000)

    def runs(name: str) -> Run:
        training = Training(data="batches", batches=last, lr=3e-3, save_at=tuple(range(0, last + 1, last // 10)))
        return study.train(RUNS[name], training, name, range(count))

    cells = study.cells({"result": tuple(RESULTS)}, lambda result: answer(result, runs, last), seeds=count, steps=last)
    caption = (
        "Handwritten digits, MLP with two hidden layers of 32, ReLU, or as said, or two convolutions with BatchNorm; "
        f"{count} seeds, {last:,} steps of Adam at 3e-3, batches of 128; 51 points on a line, 11 for rows 2, 3, 6. "
        "Shares of seeds, medians over seeds (each with the next), means over all pairs (rows 2 and 3), in nats; each "
        "with its 95 % interval."
    )
    rows = [("result", "source", "they found", "command", "here")]
    rows += [(c["cell"]["result"], *RESULTS[c["cell"]["result"]], study.told(c["found"])) for c in cells]
    study.draw_table(rows, caption, columns=((0, 22), (0.19, 18), (0.345, 14), (0.465, 24), (0.67, 41)))
    study.done("; ".join(row[-1].replace("\n", ", ") for row in rows[1:]))


if __name__ == "__main__":
    main()
