"""Where on the way from a wide solution to the known small one does a barrier appear? Units removed one at a time.

Question: wide solutions are said to shrink up to 100 times ("unintuitive properties"): is what is left still in the
valley of the wide network? Measure: from networks that training solved, units removed one at a time, first as long as
all 512 patterns stay right, then with retraining after each, while they become right again; how far the straight line
from the wide network rises above its loss, and above the higher end (which without retraining is the pruned network),
by how many units are left; and the barrier between those of three units or fewer and the known solution. Rises that
stay below 0.01 nats per cell down to three units refute that a barrier appears.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import Stack, Training, figures
from landscape.analysis.pruning import prune, units
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.space.alignment import match
from study import LAYERS, Study, along, barrier, curve, spread, squeezed

PHASES = ("without retraining", "with retraining")
WHAT = ("rise above the wide network", "barrier above the higher end")


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="12 seeds, m = 4, 1,000 steps: about 5 seconds on a core",
        full="100 seeds, m = 2 to 16, 3,000 steps: about 3 minutes on one core",
    )
    seeds, budget, widths = (12, 1000, (4,)) if study.quick else (100, 3000, (2, 4, 8, 16))

    def find(m: int) -> dict[str, Any]:
        problem = Life(m_factor=m)
        objective = problem.objective()
        run = study.train(problem, Training(batches=budget, save_at=(budget,)), f"m{m}", range(seeds), engine="fused")
        wide = run.checkpoint(budget).stack
        wide = wide.select((objective(wide)["right"] == objective.samples).nonzero()[:, 0])
        told: dict[str, dict[str, dict[int, list[float]]]] = {
            what: {phase: defaultdict(list) for phase in PHASES} for what in WHAT
        }

        def seen(phase: str, member: Tensor, stack: Stack) -> None:
            if len(member):
                now = stack.select(member)
                losses = along(objective, wide.select(member), now)
                rises = (losses.max(0) - losses[0], losses.max(0) - losses[[0, -1]].max(0))
                for place, count in enumerate(units(now, LAYERS).sum(1).tolist()):
                    for what, own in zip(WHAT, rises, strict=True):
                        told[what][phase][count].append(float(own[place]))

        small, going = wide, torch.arange(len(wide))
        while len(going):
            fewer, there = prune(objective, small, LAYERS, most=1)
            going = (there.sum(1) < units(small, LAYERS).sum(1)).nonzero()[:, 0]
            small = fewer
            seen(PHASES[0], going, small)
        last = squeezed(objective, small, LAYERS, budget // 10, lambda *now: seen(PHASES[1], *now))
        few = last.select((units(last, LAYERS).sum(1) <= 3).nonzero()[:, 0])
        known = problem.landmark("presolve+zero")
        near = match(few, known, problem.symmetry()).stack if len(few) else few
        return {
            "solved": Proportion(len(wide), seeds),
            "three units": Proportion(len(few), len(wide)),
            "units": {
                name: spread(units(each, LAYERS).sum(1).numpy())
                for name, each in (("wide", wide), (PHASES[0], small), (PHASES[1], last))
            },
            **{
                what: {
                    phase: {count: spread(np.array(each[count])) for count in sorted(each)}
                    for phase, each in own.items()
                }
                for what, own in told.items()
            },
            "barrier to the known solution": spread(barrier(objective, known.select([0] * len(few)), near))
            if len(few)
            else None,
        }

    cells = study.cells({"m": widths}, find, seeds=seeds, budget=budget)
    panels = []
    for each in cells:
        own = each["found"][WHAT[0]]
        counts = {phase: [k for k in sorted(own[phase], key=int) if own[phase][k]["members"] > 5] for phase in PHASES}
        curves = [curve(name, [float(k) for k in at], [own[name][k] for k in at]) for name, at in counts.items() if at]
        panels.append((f"m = {each['cell']['m']}", curves))
    caption = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; of {seeds} seeds those that got all 512 patterns right after "
        f"{budget:,} steps of Adam at 1e-2 on the exact loss. Units removed one at a time, the least needed first: as "
        f"long as all patterns stay right without retraining, then with {budget // 10:,} steps after each, of the "
        "networks that became right again. Highest loss on the straight line from the network before any removal, 51 "
        "points, less the loss of that network; medians over the networks that had so many units left, where they were "
        "six or more, with 95 % intervals."
    )
    look = {"xlabel": "hidden units left", "ylabel": "rise (nats per cell)", "yscale": "log", "xscale": "log"}
    study.draw(figures.series_figure(panels, caption=caption, percent=False, columns=2, **look))
    study.done(
        "; ".join(f"m = {each['cell']['m']}: {each['found']['three units']['value']:.0%} to three" for each in cells)
    )


if __name__ == "__main__":
    main()
