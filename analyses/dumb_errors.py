"""Do small changes of the input fool networks that are nearly right, and do all of them err on the same inputs?

The smallest networks after 100,000 steps (the reference runs), exactly, over all 512 patterns. A flip of a cell is dumb
if the right answer stays the same, and a network that was right is wrong after it. Compared: flips until a network is
wrong, and until the right answer changes; errors and dumb flips that seeds share, against errors at random; p of wrong
answers, and where inputs are no patterns. Refuted if errors lie as random ones do. C. Szegedy et al. (ICLR 2014).
"""

import dataclasses
import functools
import itertools
from collections import Counter
from typing import Any

import numpy as np
import scipy
import torch

from landscape import figures
from landscape.analysis.outcomes import grouped
from landscape.core.intervals import Proportion, mean_interval, pairs_interval, together, unseen_mass
from landscape.engine.data import Batch
from landscape.engine.stacked import features_first
from landscape.problems.life.patterns import PATTERNS
from landscape.problems.places import run_members
from study import Study

REACH = np.arange(1.0, 6)
APART = (PATTERNS.reshape(512, 1, 9) != PATTERNS.reshape(1, 512, 9)).sum(2)  # flips between each two patterns
SHARED = ("errors", "errors, other functions", "dumb flips", "dumb flips, other functions")
FLIPS, HOW = ("a wrong input", "as many wrong inputs at random", "another right answer"), ("shared", "by chance")


def seeds(values: np.ndarray) -> list[float]:
    """Mean over seeds, with its interval, which holds for 20 at once."""
    return [float(values.mean()), *mean_interval(values, together(20), within=(0.0, 1.0))]


def shared(these: np.ndarray, which: np.ndarray) -> dict[str, list[float]]:
    """Of what is true of one seed the share that is of another, as it is and by chance, over pairs that are not NaN."""
    count = np.where(these.any(1), these.sum(1), np.nan)[:, None] + np.where(np.eye(len(these)), np.nan, which)
    both, chance = these.astype(float) @ these.T / count, these.mean(1) + 0 * count
    every = {"shared": both, "by chance": chance, "more": both - chance}
    ends = {name: pairs_interval(each, "mean", together(20), within=(-1.0, 1.0)) for name, each in every.items()}
    return {name: [float(np.nanmean(each)), *ends[name]] for name, each in every.items()}


def errors(rule: str, count: int) -> dict[str, Any]:
    """What is asked about the failures among the first seeds of a rule's reference run."""
    problem, stack = run_members(f"checkpoints/one-step-m1-{rule.replace('/', '')}")
    stack, objective, cases = stack.select(range(count)), problem.objective(dtype=torch.float64), problem.strata()
    right = objective.memory.samples(0, 512).targets.flatten().numpy() > 0.5
    gives = torch.cat(list(objective.scores(stack)), 1).numpy()
    failed, alike = ((gives > 0.5) != right).any(1), right == right[:, None]
    wrong, surety = ((gives > 0.5) != right)[failed], np.maximum(gives, 1 - gives)[failed]
    function, nearest = grouped(wrong), np.where(wrong[:, None], APART, 10).min(2)
    sizes, every = np.bincount(function), np.zeros((len(wrong),) * 2)
    unlike = np.where(function[:, None] == function, np.nan, every)
    within = (APART[0] <= REACH[:, None]).sum(1) - 1  # other patterns so near, of which random errors may be none
    one, other = np.nonzero((APART == 1) & alike)  # flips after which the right answer is the same
    dumb = ~wrong[:, one] & wrong[:, other]
    told = [Counter(np.array(cases)[wrong[function == k][0]].tolist()) for k in range(min(6, len(sizes)))]
    found: dict[str, Any] = {
        "failed": Proportion(int(failed.sum()), count),
        "functions": [len(sizes), *unseen_mass(sizes)],  # how many, and the probability that one more is another
        "wrong": [{"of": Proportion(int(n), len(wrong)), "at": each} for n, each in zip(sizes, told, strict=False)],
        FLIPS[0]: [seeds(((nearest <= r) & ~wrong).sum(1) / (~wrong).sum(1)) for r in REACH],
        FLIPS[1]: [seeds(1 - scipy.stats.hypergeom.pmf(0, 511, wrong.sum(1), near)) for near in within],
        FLIPS[2]: [[float((np.where(alike, 10, APART).min(1) <= r).mean()), None, None] for r in REACH],
        "a dumb flip": seeds((~wrong & (wrong @ ((APART == 1) & alike))).sum(1) / (~wrong).sum(1)),
    }
    for name, (of, which) in zip(SHARED, itertools.product((wrong, dumb), (every, unlike)), strict=True):
        found[name] = shared(of, which)
    for kind, of in (("wrong", wrong), ("right", ~wrong)):
        found |= {f"{kind}, p > {p}": seeds(((surety > p) & of).sum(1) / of.sum(1)) for p in (0.9, 0.99)}
    for low, high in ((0, 1), (-10, 10)):  # no patterns
        drawn = torch.rand(992, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        batch = Batch(features_first(low + (high - low) * drawn), torch.zeros(1, 1, 1, 992), torch.ones(1, 992))
        gives = torch.cat(list(dataclasses.replace(objective, data=batch).scores(stack)), 1).numpy()
        most = (np.abs(gives - 0.5) > 0.49).mean(1)
        found[f"cells from {low} to {high}, p > 0.99"] = {"failed": seeds(most[failed]), "solved": seeds(most[~failed])}
    return found


def main() -> None:
    quick, full = "the first 200 seeds: 10 seconds", "1,000 seeds: half a minute on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    count = 200 if study.quick else 1000
    cells = study.cells({"rule": ("B3/S23V", "B3/S23")}, lambda rule: errors(rule, count), seeds=count)
    found, panels = {each["cell"]["rule"]: each["found"] for each in cells}, []
    for rule, each in found.items():
        ends = [(name, *np.array(each[name], dtype=float).T) for name in FLIPS]
        panels.append((rule, [figures.Series(label=n, x=REACH, value=v, low=a, high=b) for n, v, a, b in ends]))
    rows = [(f"{r}: {name}, {how}", *e[name][how]) for r, e in found.items() for name in SHARED for how in HOW]
    failures = " and ".join(f"{each['failed']['count']} failures ({rule})" for rule, each in found.items())
    about = f"Life, one step, 25 parameters, {failures} of {count:,} seeds each after 100,000 steps of Adam at 1e-2; "
    about += "intervals over seeds, those of a figure at once. "
    flips = about + "Of the inputs that a network gets right, the share with such an input within so many flips."
    look: dict[str, Any] = {"xlabel": "cells flipped, at most", "ylabel": "right inputs (%)", "height": 3.0}
    study.draw(figures.series_figure(panels, caption=flips, **look), "flips")
    both = about + "Of the wrong inputs, or dumb flips, of one seed, the share that another has too; by chance: that "
    both += "other's share of all inputs, or of all flips that leave the right answer as it is. Dumb: then the network "
    both += "becomes wrong. Other functions: pairs of seeds whose wrong inputs differ."
    bars = functools.partial(figures.shares, rows=rows, xlabel="share (%), with its interval")
    study.draw(figures.page(bars, caption=both, size=(7.2, 4.4)), "shared")
    study.done("; ".join(f"{rule}: {each['errors']['shared'][0]:.2f} of errors shared" for rule, each in found.items()))


if __name__ == "__main__":
    main()
