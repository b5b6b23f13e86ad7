"""How likely is each outcome of training the smallest networks, and how many functions do they end at?

Question: of random initial points, which share is solved, gives the same output to everything from the start (dead at
the start), comes to do so (dying), or ends at another wrong function (stuck)? Measure: Wilson intervals of these shares
at three budgets (+-0.3 points with 100,000 seeds), the number of distinct functions, and the probability that one more
seed computes a new one (I. J. Good 1953; W. W. Esty 1983). The claims of the study's first post, that the smallest
network very likely fails and that width helps, would be refuted by most solved at m = 1, or shares that do not rise.
"""

import functools
from typing import Any

import numpy as np

from landscape import Run, Training, figures
from landscape.analysis.convergence import constant
from landscape.analysis.outcomes import grouped, truth_tables
from landscape.core.intervals import Proportion, unseen_mass
from landscape.problems.life import Life
from study import Study

FATES = ("solved", "stuck", "dying", "dead at the start")
RULES, NAMES = ("B3/S23V", "B3/S23"), {"leaky_relu": "LeakyReLU", "relu": "ReLU"}
#: Of each part the grid, the last key drawn along the axis, and that axis's label.
PARTS = {
    "seeds": ({"rule": RULES}, ""),
    "width": ({"rule": RULES, "m_factor": (1, 2, 3, 4, 6, 8)}, "width m"),
    "scale": (
        {"activation": ("leaky_relu", "relu"), "rule": RULES, "init_scale": (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)},
        "factor on initial parameters",
    ),
}


def answers(problem: Life, run: Run, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each member its truth table, in bits; whether it is right; whether it gives everything the same output."""
    stack, objective, parts = run.checkpoint(step).stack, problem.objective(), []
    for first in range(0, len(stack), 4096):
        some = stack.select(range(first, min(first + 4096, len(stack))))
        tables, right, _ = truth_tables(problem, some)
        parts.append((np.packbits(tables, axis=1), right == tables.shape[1], constant(objective, some).numpy()))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="1,000 seeds a rule, 100 a cell, 1,000 steps: about half a minute on two cores",
        full="100,000 seeds a rule, 10,000 a cell, 10,000 steps: about three hours on one core",
    )
    many, some, budgets = (1000, 100, (100, 300, 1000)) if study.quick else (100_000, 10_000, (1000, 3000, 10_000))

    def census(part: str, seeds: int, init_scale: float = 1.0, **cell: Any) -> dict[str, Any]:
        problem, name = Life(**cell), ",".join(map(str, [*cell.values(), init_scale])).replace("/", "")
        training = Training(batches=budgets[-1], save_at=(0, *budgets), init_scale=init_scale)
        run = study.train(problem, training, f"{part}/{name}", range(seeds), engine="fused")
        start, found = answers(problem, run, 0)[2], {}
        for step in budgets:
            tables, solved, dead = answers(problem, run, step)
            counts = np.bincount(grouped(tables))
            fates = (solved, ~solved & ~dead, dead & ~start, dead & start)
            found[str(step)] = {
                **{fate: Proportion(int(each.sum()), seeds) for fate, each in zip(FATES, fates, strict=True)},
                "functions": len(counts),
                "largest functions": counts[:8],
                "one more seed computes a new one": unseen_mass(counts),
            }
        return found

    for part, (grid, label) in PARTS.items():
        seeds = some if label else many
        cells = study.cells(grid, functools.partial(census, part, seeds), part, seeds=seeds, budgets=budgets)
        panels: dict[str, dict[str, list[Any]]] = {}
        for each in cells:
            values = [each["cell"][key] for key in grid]
            for fate in FATES:
                share = each["found"][str(budgets[-1])][fate]
                point = (values[-1], Proportion(share["count"], share["total"]))
                panels.setdefault(", ".join(NAMES.get(value, value) for value in values[:-1]), {}).setdefault(
                    fate, []
                ).append(point)
        if not label:
            study.done("; ".join(f"{place}: solved {share}" for place, share in panels[""]["solved"]))
            continue
        caption = (
            f"Life, one step, sigmoid{'' if part == 'width' else ', m = 1'}; {seeds:,} seeds a cell, {budgets[-1]:,} "
            "steps of Adam at 1e-2 on the exact loss. Solved: all 512 patterns right. Dead: the same output for all "
            "patterns, at the start or not; stuck: the rest. Bands: Wilson's intervals."
        )
        drawn = [
            (name, [figures.Series.of_proportions(fate, *zip(*points, strict=True)) for fate, points in curves.items()])
            for name, curves in panels.items()
        ]
        look = {"xlabel": label, "ylabel": "networks (%)", "xscale": "log", "columns": 2, "caption": caption}
        study.draw(figures.series_figure(drawn, **look), part)


if __name__ == "__main__":
    main()
