"""Is there a density of training boards at which small networks learn best? After arXiv 2009.01398.

Question: the paper reports a critical density. Here the loss at each density is exact, a weighted sum over the 512
patterns, and so is the test: density changes nothing but the weights of the patterns, and every density has the same
solutions. Measure: share of seeds right on all patterns, by density, with Wilson's interval. A share that is as high at
the ends, or nowhere higher than elsewhere, refutes it; where it is highest is told only as far as intervals are apart.
"""

from typing import Any

from landscape import Training, figures
from landscape.core.intervals import Proportion
from landscape.figures.success import NAMES
from landscape.problems.life import Life
from study import Study

WIDTHS, DENSITIES = (1, 2, 4), (0.1, 0.2, 0.3, 0.38, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="100 seeds, 2,000 steps: about a minute on two cores",
        full="1,000 seeds, 10,000 steps: about a quarter of an hour on one core",
    )
    seeds, batches = (100, 2000) if study.quick else (1000, 10_000)
    training = {"batches": batches, "lr": 3e-3}

    def find(m_factor: int, density: float) -> dict[str, Any]:
        problem = Life(rule="B3/S23", architecture="paper", activation="relu", m_factor=m_factor, density=density)
        run = study.train(problem, Training(**training), f"m{m_factor}-{density}", range(seeds), engine="fused")
        right = problem.objective()(run.checkpoint().stack)["right"]
        return {"successful": Proportion(int((right == 512).sum()), seeds)}

    cells = study.cells({"m_factor": WIDTHS, "density": DENSITIES}, find, seeds=seeds, training=training)
    shares: dict[int, dict[float, Proportion]] = {m: {} for m in WIDTHS}
    for each in cells:
        share = each["found"]["successful"]
        shares[each["cell"]["m_factor"]][each["cell"]["density"]] = Proportion(share["count"], share["total"])
    curves = [
        figures.Series.of_proportions(f"width m = {m}", tuple(own), list(own.values()))
        for m, own in shares.items()
        if own
    ]
    caption = (
        f"Life B3/S23 (Conway's), one step, the architecture of arXiv 2009.01398 with ReLU; {seeds} seeds at each "
        f"density and width, {batches:,} steps of Adam at 3e-3 on the exact loss over boards of 10 x 10 of that "
        "density. Success: right on all 512 patterns. Bands: exact intervals of shares."
    )
    look = {"xlabel": NAMES["density"], "ylabel": "successful networks (%)", "height": 3.2}
    study.draw(figures.series_figure([("", curves)], caption=caption, **look))
    best = {m: max(own.items(), key=lambda place: place[1].value) for m, own in shares.items() if own}
    study.done("best: " + "; ".join(f"m = {m} at {density}: {share}" for m, (density, share) in best.items()))


if __name__ == "__main__":
    main()
