"""Where do 1,000 seeds of the smallest network end, and what lies between there and the known solution?

For the four-neighbour rule of the study, B3/S23V, and for Conway's, B3/S23: trains the reference runs, walks from the
presolved weights (in both orders of the two filters) to each seed, and draws the curves and the outcomes.
"""

import argparse
import os
import sys
from pathlib import Path

from landscape import Result, Run, Training, figures, walk
from landscape.analysis.barriers import barriers, lowest_order
from landscape.analysis.clusters import clusters_of
from landscape.analysis.outcomes import outcomes
from landscape.cli.terminal import Progress
from landscape.core.files import write_json
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.training.train import train

ROOT = Path(__file__).parent.parent
RULES = ("B3/S23V", "B3/S23")
#: Saved steps; the last is the budget. That of the quick setting is the demo's.
STEPS = (0, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
QUICK = STEPS[:5]


def study(rule: str, seeds: int, steps: tuple[int, ...], places: tuple[Path, Path, Path], *, force: bool) -> Result:
    """Train, walk and analyse one rule; what is there already is kept unless forced."""
    problem, name, (runs, results, plots) = Life(rule=rule), rule.replace("/", ""), places
    run, walks = runs / f"one-step-m1-{name}", results / f"{name}.h5"
    if force:
        walks.unlink(missing_ok=True)
    if force or not (run / "run.json").exists() or steps[-1] not in Run.open(run).steps():
        training = Training(batches=steps[-1], save_at=steps)
        train(problem, training, run, seeds=range(seeds), overwrite=force, progress=Progress(f"train {rule}", "steps"))
    if not walks.exists():
        walk("presolve", run, order="all", save=walks, progress=Progress("walk", "lines"))
    curves, stack = Result.read(walks, plane=False), Run.open(run).checkpoint().stack
    found, same = outcomes(problem, stack), clusters_of(problem, stack, by="outputs")
    lowest = curves.select(lowest_order(curves))
    heights = barriers(lowest)
    joined = heights.above_chord[lowest.values["solved"][:, -1] == 1] < 0.01
    summary = {
        "title": problem.title(),
        "solved": found.solved,
        "groups": found.groups[:10],
        "truth_tables": len(found.groups),
        "solved_without_barrier": Proportion(int(joined.sum()), len(joined)),  # below 0.01 nats per cell
        "barriers": heights.summary(),
        "unseen_truth_tables": same.unseen,
        "groups_of_outputs": {
            "within": same.threshold,
            "sizes": same.sizes[:10],
            "agreement_against_threshold": [(row[0], row[1], row[3]) for row in same.against_threshold()],
        },
        "budget": steps[-1],
    }
    write_json(results / f"{name}.json", summary)
    how = f"{seeds} seeds, {steps[-1]:,} steps of Adam at 1e-2 on the exact loss"
    caption = f"{problem.title()}, {how}; solved: {found.solved}. Bars are functions, not places."
    figures.save(
        figures.page(lambda ax: figures.outcomes(ax, found, samples="patterns"), caption=caption),
        plots / f"one_step_m1-outcomes-{name}.png",
    )
    print(
        f"{problem.title()}: solved by {found.solved}, of these joined with presolve without a barrier "
        f"{summary['solved_without_barrier']}; {len(found.groups)} truth tables, the commonest with "
        f"{found.groups[0].share}",
        file=sys.stderr,
    )
    return curves


def main() -> None:
    about = "full setting: 1,000 seeds, 100,000 steps: half an hour on two cores"
    parser = argparse.ArgumentParser(description=__doc__, epilog=about)
    parser.add_argument(
        "--quick", action="store_true", help="50 seeds, 3,000 steps, into analyses/quick/: about 20 seconds"
    )
    parser.add_argument("--force", action="store_true", help="make everything anew")
    options = parser.parse_args()
    os.chdir(ROOT)
    runs, results, plots = Path("checkpoints"), Path("analyses/one_step_m1"), Path("plots")
    if options.quick:
        runs = results = plots = Path("analyses/quick")
    seeds, steps = (50, QUICK) if options.quick else (1000, STEPS)
    panels = [study(rule, seeds, steps, (runs, results, plots), force=options.force) for rule in RULES]
    for path in figures.save(figures.walk_figure(panels, draw="lines"), plots / "one_step_m1.png"):
        print(path)


if __name__ == "__main__":
    main()
