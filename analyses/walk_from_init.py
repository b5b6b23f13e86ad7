"""Does the loss fall all the way from the initial point to the solution? Straight lines, as in arXiv 1412.6544.

Question: I. Goodfellow, O. Vinyals and A. Saxe found it to fall monotonically for networks that train well. Here
training often fails: do the lines of failures look different? Measure: share of lines on which the loss never rises by
more than 1/1000 of its range, apart for ends that are solved and that are not. Lines that rise, for most solved ends,
would refute the finding for these networks; shares that cannot be told apart, that failures look different.
"""

from landscape import figures
from landscape.analysis.barriers import COURSES, MONOTONE, barriers
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from landscape.training.train import Training
from study import Study

CASES = ((1, 1), (1, 4), (2, 10))


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="50 seeds (2 steps: 12), 1,500 batches: about half a minute on two cores",
        full="1,000 seeds (2 steps: 100), 10,000 batches: about 15 minutes on one core",
        cells=False,
    )
    batches = 1500 if study.quick else 10_000
    panels, found = [], {}
    for n, m in CASES:
        seeds = (50 if n == 1 else 12) if study.quick else (1000 if n == 1 else 100)
        training = {"batches": batches, "lr": 1e-2} if n == 1 else {"batches": batches, "lr": 3e-3, "batch_size": 32}
        part = f"{n}-{m}"
        study.train(Life(steps=n, m_factor=m), Training(**training), part, range(seeds), engine="fused")
        run = str(study.runs / part)
        curves = study.walk(f"{run}/@0", run, f"steps{n}-m{m}")
        solved = curves.values["solved"][:, -1] == 1
        falls = barriers(curves).course == COURSES.index("falling")
        found[f"{n} steps, m = {m}"] = {
            name: {"monotone": Proportion(int(falls[of].sum()), int(of.sum())), "delta": barriers(curves).delta[of]}
            for name, of in (("solved", solved), ("not solved", ~solved))
        }
        panels.append(curves)
    caption = (
        f"Life B3/S23V, LeakyReLU, sigmoid; {batches:,} steps of Adam: one step on the exact loss at 1e-2, two on 32 "
        "boards of 10 x 10 at 3e-3. Loss (exact; on 1,000 boards for 2 steps) on straight lines from each initial "
        "point (alpha 0) to where training ended (alpha 1, dot), 51 points. Solved: the end gets every pattern, or "
        "each of these boards, right. Right: barrier above the higher end, which the loss climbs if it first rises, "
        "with its median and the median's interval, all of them with 95 % at once."
    )
    study.draw(figures.walk_figure(panels, x="alpha", definition="above_higher_end", caption=caption))
    study.keep({"monotone_up_to": MONOTONE, "cases": found})
    study.done(
        "; ".join(f"{case}: {each['solved']['monotone']} of the solved monotone" for case, each in found.items())
    )


if __name__ == "__main__":
    main()
