"""When is it decided where training ends? One training forked at step k into two orders of the data, against k.

Both forks go on from the same parameters, with the same memory of Adam, and see other batches, large or small ones.
Measured between the two ends: the share of seeds without a barrier on the straight line (below 0.01 nats above the
chord); instability, the highest error there above the mean of the ends; the share of inputs answered otherwise. Beside
them ends of unrelated initial points. J. Frankle et al. (ICML 2020) find that large networks become
stable early in training, and S. Fort et al. (NeurIPS 2020) that the basin is chosen in the first epochs. Refuted for a
network if forks late in training still end behind barriers, or the earliest ones already do not.
"""

import dataclasses
from typing import Any

from landscape import Problem, Run, Training, barriers, figures, walk
from landscape.core.intervals import Proportion, mean_interval
from landscape.problems.digits import Digits
from landscape.problems.life import Life
from study import Study, curve, middle

STEPS, LOW, LAST = (1, 3, 10, 30, 100, 300, 1000), 0.01, 2000
LIFE = {f"Life, m = {m}": Life(m_factor=m) for m in (1, 4, 16)}
PROBLEMS: dict[str, Problem] = {**LIFE, "digits": Digits(width=32)}
SIZES, SEEDS = (128, 8), dict(zip(PROBLEMS, (100, 100, 20, 20), strict=True))


def between(one: Run, other: Run, seen: Problem, unrelated: bool = False) -> dict[str, Any]:
    """What lies between the ends of two runs, seed by seed; of `unrelated` ones, of each even seed and the next."""
    near, far = one.checkpoint(), other.checkpoint()
    if unrelated:
        near, far = near.select(range(0, len(near.sources), 2)), far.select(range(1, len(far.sources), 2))
    lines = walk(near, far, problem=one.trained_on, points=51)
    error = 1 - lines["accuracy"]
    instability, height = error.max(1) - (error[:, 0] + error[:, -1]) / 2, barriers(lines).above_chord
    objective = seen.objective()
    unlike = (objective.predictions(near.stack) != objective.predictions(far.stack)).flatten(1).numpy()
    return {
        "no barrier": Proportion(int((height < LOW).sum()), len(height)),
        "same function": Proportion(int((~unlike.any(1)).sum()), len(unlike)),
        "barrier": middle(height),
        "instability": [float(instability.mean()), *mean_interval(instability, within=(0.0, 1.0))],
        "disagreement": [float(unlike.mean()), *mean_interval(unlike.mean(1), within=(0.0, 1.0))],
        "length": middle(lines["l2"]),
    }


def main() -> None:
    quick, full = "12 seeds, 300 steps: half a minute", "20 to 100 seeds, 2,000 steps: about 10 minutes on one core"
    study = Study.from_command_line(__file__, __doc__, quick=quick, full=full)
    steps, last = (STEPS[:5:2], 200) if study.quick else (STEPS, LAST)

    def find(network: str, batch_size: int, k: int) -> dict[str, Any]:
        problem, digits = PROBLEMS[network], network == "digits"
        seeds = range(12 if study.quick else SEEDS[network])
        seen: Problem = dataclasses.replace(problem, on="test") if isinstance(problem, Digits) else problem
        how: dict[str, Any] = {"data": "batches", "batch_size": batch_size, "lr": 3e-3 if digits else 1e-2}

        def go(part: str, until: int, since: int, shift: int) -> Run:
            start = str(study.runs / network / f"{batch_size}" / f"to-{since}") if since else None
            training = Training(batches=until - since, start=start, save_at=(), **how)
            own, engine = [shift + seed for seed in seeds], "auto" if digits else "fused"
            part = f"{network}/{batch_size}/{part}"
            return study.train(problem, training, part, seeds, data_seeds=own, engine=engine)

        for before, step in zip((0, *steps), steps, strict=False):
            if step <= k:
                go(f"to-{step}", step, before, 0)
        one, other = (go(f"from-{k}-{shift}", last, k, shift) for shift in (10_000, 20_000))
        beside = {"unrelated": between(one, other, seen, unrelated=True)} if k == steps[0] else {}
        return {**between(one, other, seen), **beside}

    cells = study.cells({"network": tuple(PROBLEMS), "batch_size": SIZES, "k": steps}, find, last=last)
    panels: dict[str, list[Any]] = {"": [], "instability": []}
    for network in PROBLEMS:
        free, unstable = [], []
        for size in SIZES:
            found = [c["found"] for c in cells if (c["cell"]["network"], c["cell"]["batch_size"]) == (network, size)]
            shares = [Proportion(each["no barrier"]["count"], each["no barrier"]["total"]) for each in found]
            name = f"batches of {size}"
            of_others = [found[0]["unrelated"][key] for key in ("no barrier", "instability")]
            free.append(figures.Series.of_proportions(name, steps, shares, baseline=of_others[0]["value"]))
            drawn = curve(name, steps, [each["instability"] for each in found])
            unstable.append(dataclasses.replace(drawn, baseline=of_others[1][0]))
        for part, each in zip(panels, (free, unstable), strict=True):
            panels[part].append((network, each))
    count = "12 seeds each" if study.quick else "100 seeds for m = 1 and 4, 20 for m = 16 and digits"
    caption = (
        "Life B3/S23V, one step, LeakyReLU, sigmoid, boards of 10 x 10, Adam at 1e-2; digits, MLP of 2 x 32, "
        f"ReLU, Adam at 3e-3; {count}. Training to step {last:,}; from the fork on two orders of the data. "
        f"Barriers: {LOW} nats above the chord, on 51 points, units as they are; instability: the highest error on the "
        "line less the mean of its ends, mean over seeds, 95 % intervals."
    )
    look = {"xlabel": "step at which training is forked", "xscale": "log", "columns": 2}
    look |= {"baseline": "of unrelated initial points", "caption": caption}
    labels = {"": "forks without a barrier (%)", "instability": "instability (% of answers)"}
    for part, label in labels.items():
        study.draw(figures.series_figure(panels[part], ylabel=label, **look), part)
    study.done("no barrier " + ", ".join(f"{100 * each['found']['no barrier']['value']:.0f} %" for each in cells))


if __name__ == "__main__":
    main()
