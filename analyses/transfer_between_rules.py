"""Which rules help to learn which others? Training begun where it ended for another rule, against a random start.

Ten rules whose births and survivals are intervals are learnt from random initial points; from each end each rule is
learnt again, by a fresh optimizer. Measured: the share of seeds that solve the second rule within the budget, less that
from the same seeds' random initial points: a difference that is paired by seed. Refuted if starts at ends for other
rules are no better than random ones. D. Erhan et al. (JMLR 2010: pre-training helps).
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from landscape import Training
from landscape.core.intervals import Proportion, mean_interval, together
from landscape.figures.pages import INK, WIDTH, sheet
from landscape.problems.life import Life
from study import Study

RULES = (
    "B3/S23",
    "B3/S12",
    "B3/S1234",
    "B3/S012345678",
    "B2/S",
    "B2/S0",
    "B234/S",
    "B34/S34",
    "B345/S5",
    "B5678/S45678",
)


def mean(values: np.ndarray, many: int = 1) -> list[float]:
    """Mean over seeds with its interval, one of so many at once; without one where all seeds are alike."""
    return [float(values.mean()), *mean_interval(values, together(many), within=(-1.0, 1.0))]


def show(ax: Axes, found: dict[str, Any], rules: tuple[str, ...]) -> Any:
    """Differences as a map, the first rule down, the second across; a dot where the interval leaves out 0."""
    gain = np.array([[found["gain"][one][two] for two in rules] for one in rules], dtype=float)
    drawn = ax.imshow(100 * gain[..., 0], cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
    ax.plot(*np.argwhere(gain[..., 1] * gain[..., 2] > 0).T[::-1], ls="", marker="o", ms=2.5, color=INK)
    ax.set_xticks(range(len(rules)), rules, rotation=90, size="small")
    return drawn


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="3 rules, 24 seeds, 300 steps, m = 1 and 2: half a minute",
        full="10 rules, 60 seeds, 3,000 steps for the first and 1,000 for the second, m to 4: 5 minutes on one core",
    )
    rules, count, widths = (RULES[:3], 24, (1, 2)) if study.quick else (RULES, 60, (1, 2, 3, 4))
    steps, budget = (300, 300) if study.quick else (3000, 1000)

    def find(m: int) -> dict[str, Any]:
        names, solved = {rule: rule.replace("/", "") for rule in rules}, dict[tuple[str, str], np.ndarray]()

        def train(one: str, two: str, **how: Any) -> None:
            problem = Life(rule=two, m_factor=m)
            run = study.train(problem, Training(**how), f"m{m}/{one}-{names[two]}", range(count), engine="fused")
            solved[one, two] = problem.objective()(run.checkpoint(budget).stack)["solved"].numpy()

        for two in rules:
            train("random", two, batches=steps, save_at=(budget, steps))
        for one, two in itertools.product(rules, rules):
            begin = str(study.runs / f"m{m}" / f"random-{names[one]}")
            train(one.replace("/", ""), two, batches=budget, save_at=(budget,), start=begin, reset_optimizer=True)
        solved |= {(one, two): solved[names[one], two] for one, two in itertools.product(rules, rules)}
        gain = {one: {two: solved[one, two] - solved["random", two] for two in rules} for one in rules}
        others = {one: np.mean([gain[one][two] for two in rules if two != one], axis=0) for one in rules}
        return {
            "random": {two: Proportion(int(solved["random", two].sum()), count) for two in rules},
            "gain": {one: {two: mean(each, len(rules) ** 2) for two, each in row.items()} for one, row in gain.items()},
            "gain of the others, from": {one: mean(each) for one, each in others.items()},
            "gain of the others": mean(np.mean([*others.values()], axis=0)),
            "gain of the others without": {
                rule: mean(
                    np.mean([gain[a][b] for a, b in itertools.permutations(rules, 2) if rule not in (a, b)], axis=0)
                )
                for rule in rules
            },
        }

    cells = study.cells({"m": widths}, find, rules=rules, seeds=count, steps=steps, budget=budget)
    caption = (
        f"One step of Life, LeakyReLU, sigmoid; {count} seeds; {steps:,} steps of Adam at 1e-2, exact loss, on the "
        f"first rule, {budget:,} on the second. Success there, less that after {budget:,} steps from random points of "
        "the same seeds. Dots: 95 % intervals, all of a map at once, leave out 0."
    )
    size = (WIDTH, 5.6 if len(cells) > 2 else 3.4)
    with sheet(size, caption, len(cells), (1, 1)) as (figure, axes):
        for number, (ax, each) in enumerate(zip(axes, cells, strict=True)):
            drawn = show(ax, each["found"], rules)
            ax.set(title=f"m = {each['cell']['m']}", xlabel="second rule")
            ax.set_yticks(range(len(rules)), [""] * len(rules) if number % 2 else rules, size="small")
            ax.set_ylabel("" if number % 2 else "first rule")
        figure.colorbar(drawn, ax=axes, label="difference (points)", shrink=0.8)
    study.draw(figure)
    told = (f"m = {each['cell']['m']}: {each['found']['gain of the others'][0]:+.2f}" for each in cells)
    study.done("gain on average over pairs of rules: " + ", ".join(told))


if __name__ == "__main__":
    main()
