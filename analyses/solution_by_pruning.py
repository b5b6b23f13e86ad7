"""Do L1, L2 or dropout force useless parameters to 0, so that one can prune down to the solution of 25 parameters?

Question: the study's second post hopes so (a note), and wide solutions are said to shrink up to 100 times. Measure:
units left of networks that training solved, after removing units while all 512 patterns stay right; after removing
more, one at a time, each followed by retraining, while the network becomes right again; the share that comes down to
three units, two and one, which are the 25 parameters; and the barrier of the line from the wide network to what is left
of it. A penalty that leaves as many units as none, or, for dropout, as the same batches without, refutes its use.
"""

from typing import Any

from landscape import Training, figures
from landscape.analysis.pruning import prune, units
from landscape.core.intervals import Proportion
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from study import LAYERS, Study, barrier, curve, descend, spread, squeezed

WAYS = {"none": {}, "L2 1e-5": {"weight_decay": 1e-5}, "L2 1e-4": {"weight_decay": 1e-4}}
L1 = (1e-3, 1e-2, 1e-1)
WAYS |= {f"L1 {factor:g}": {"l1": factor} for factor in L1}
WAYS |= {name: {"dropout": p} for name, p in (("batches", 0.0), ("dropout 0.1", 0.1), ("0.3", 0.3))}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, m = 4, 2,000 steps: about 2 minutes on two cores",
        full="50 seeds, m = 4 and 8, 5,000 steps: about 20 minutes on one core",
    )
    seeds, budget, widths = (20, 2000, (4,)) if study.quick else (50, 5000, (4, 8))

    def find(m_factor: int, way: str) -> dict[str, Any]:
        problem, how = Life(m_factor=m_factor), WAYS[way]
        objective = problem.objective()
        if "l1" in how:
            wide = descend(objective, initialise(problem.prototype, range(seeds)), budget, **how)
        else:
            learnt = Life(m_factor=m_factor, dropout=how.get("dropout", 0.0))
            batches = {"batch_size": 8, "data": "batches"} if "dropout" in how else {}
            training = Training(batches=budget, save_at=(budget,), weight_decay=how.get("weight_decay", 0.0), **batches)
            wide = study.train(learnt, training, f"{m_factor}-{way}", range(seeds)).checkpoint(budget).stack
        solved = objective(wide)["right"] == objective.samples
        told: dict[str, Any] = {"solved": Proportion(int(solved.sum()), seeds)}
        if not solved.any():
            return told
        wide = wide.select(solved.nonzero()[:, 0])
        pruned = prune(objective, wide, LAYERS)[0]
        small = squeezed(objective, pruned, LAYERS, budget // 10)
        kept = [units(each, LAYERS) for each in (wide, pruned, small)]
        least = (kept[2][:, : 2 * m_factor].sum(1) <= 2) & (kept[2][:, 2 * m_factor :].sum(1) == 1)
        names = ("units", "pruned", "pruned and retrained")
        return told | {
            **{name: spread(each.sum(1).numpy()) for name, each in zip(names, kept, strict=True)},
            "numbers below 1e-3": spread((wide.flatten().abs() < 1e-3).double().mean(1).numpy()),
            "25 parameters or fewer": Proportion(int(least.sum()), len(wide)),
            "barrier above the higher end": spread(barrier(objective, wide, small)),
        }

    cells = study.cells({"m_factor": widths, "way": tuple(WAYS)}, find, seeds=seeds, budget=budget)
    found = {tuple(each["cell"].values()): each["found"] for each in cells}
    places = range(len(WAYS))
    names = ("units", "pruned", "pruned and retrained")
    panels = [
        (f"m = {m}", [curve(name, places, [found[m, way].get(name) for way in WAYS]) for name in names]) for m in widths
    ]
    drawn = ", ".join(f"{1e-2 * budget * factor:g}" for factor in L1)
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; of {seeds} seeds those that got all 512 patterns right, "
        f"{budget:,} steps of Adam at 1e-2 on the exact loss; the last three on batches of 8 boards, without and with "
        f"dropout. L1 is a step of its own beside Adam's, which draws a number towards 0 by at most {drawn} in all. "
        "Units that something reads, after training; after removing those that are not needed; after removing more, "
        f"each followed by {budget // 10:,} steps. Medians with 95 % intervals. The known solution has 3."
    )
    look = {"xlabel": "penalty in training", "ylabel": "hidden units", "xscale": "category", "yscale": "log"}
    look |= {"columns": 1}
    study.draw(figures.series_figure(panels, categories=tuple(WAYS), caption=caption, percent=False, **look))
    least = [(*key, each.get("25 parameters or fewer", {}).get("value")) for key, each in found.items()]
    study.done("come down to 25 parameters or fewer: " + "; ".join(map(str, least)))


if __name__ == "__main__":
    main()
