"""Is what training reached a property of the landscape, or of the budget? Kinds and outcomes against steps.

Measure: seeds of the smallest network for two rules, each judged at every saved step (converged, falling, towards
infinity, ...); how many are solved, and how many are still of the same kind after ten times as many steps. Shares that
no longer change after some step would say that from there on it is the landscape's.
"""

from landscape import Run, Training, convergence, figures
from landscape.analysis.convergence import KINDS
from landscape.analysis.incidence import incidence
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.training.train import train
from study import Study

RULES = ("B3/S23V", "B3/S23")
FACTOR = 10  # by which the budget grows between two judgements that are compared


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="48 seeds, to 10,000 steps: about a minute on two cores",
        full="200 seeds, to 300,000 steps: about a quarter of an hour on two cores",
        cells=False,
    )
    seeds, budget = (48, 10_000) if study.quick else (200, 300_000)
    steps = tuple(step for k in range(2, 6) for step in (10**k, 3 * 10**k) if step <= budget)
    told, kinds, outcomes = {}, [], []
    for rule in RULES:
        problem, part = Life(rule=rule), rule.replace("/", "")
        path = study.runs / part
        training = Training(batches=budget, save_at=(0, *steps))
        how = {"overwrite": study.force, "keep": True, "progress": study.progress(f"train {rule}", "steps")}
        train(problem, training, path, seeds=range(seeds), device=study.device, **how)
        found = {
            step: convergence(f"{path}/@{step}", progress=study.progress(f"judge {step}", "members")) for step in steps
        }
        solved = incidence(Run.open(path), problem)
        later = [step for step in steps if step * FACTOR <= budget]
        same = [Proportion(int((found[t].kind == found[t * FACTOR].kind).sum()), seeds) for t in later]
        told[rule] = {
            "kinds": {step: {kind: each.share(kind) for kind in each.counts} for step, each in found.items()},
            f"same_kind_after_{FACTOR}_times_as_many_steps": dict(zip(later, same, strict=True)),
            "solved_at": dict(zip(solved.steps, solved.at, strict=True)),
            "solved_by": dict(zip(solved.steps, solved.by[0].tolist(), strict=True)),
        }
        there = [kind for kind in KINDS if any(kind in each.counts for each in found.values())]
        shares = {kind: [found[step].share(kind) for step in steps] for kind in there}
        kinds.append((rule, [figures.Series.of_proportions(kind, steps, each) for kind, each in shares.items()]))
        at = [share for step, share in zip(solved.steps, solved.at, strict=True) if step]
        name = f"of the same kind after {FACTOR} times as many steps"
        curves = [figures.Series.of_proportions("solved at that step", steps, at)]
        outcomes.append((rule, [*curves, figures.Series.of_proportions(name, later, same)]))
    study.keep({"seeds": seeds, "budget": budget, "rules": told})
    about = f"Life, one step, 25 parameters, {seeds} seeds a rule, Adam at 1e-2 on the exact loss. "
    captions = {
        "kinds": "Kinds as `landscape analyse convergence` judges them from each saved step on: falling is a member "
        "whose loss a continued descent lowers by more than 0.1 %.",
        "outcomes": "Solved: all 512 patterns right.",
    }
    for part, panels in (("kinds", kinds), ("outcomes", outcomes)):
        look = {"xlabel": "steps of training", "ylabel": "members (%)", "xscale": "log", "height": 3.2}
        study.draw(figures.series_figure(panels, caption=about + captions[part], **look), part)
    study.done(", ".join(f"{rule}: solved at {budget}: {told[rule]['solved_at'][budget]}" for rule in RULES))


if __name__ == "__main__":
    main()
