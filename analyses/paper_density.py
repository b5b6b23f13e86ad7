"""Is there a density of training boards at which small networks learn best? After arXiv 2009.01398.

Question: the paper reports a critical density. Here the loss at each density is exact, a weighted sum over the 512
patterns, and so is the test: density changes nothing but the weights of the patterns, and every density has the same
solutions. Measure: share of seeds right on all patterns, by density, with Wilson's interval. A share that is as high at
the ends, or nowhere higher than elsewhere, refutes it; where it is highest is told only as far as intervals are apart.
"""

from landscape import figures
from landscape.figures.success import NAMES, success_series
from study import Study

DENSITIES = (0.1, 0.2, 0.3, 0.38, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="100 seeds, 2,000 steps: about a minute on two cores",
        full="1,000 seeds, 10,000 steps: about a quarter of an hour on one core",
    )
    seeds, batches = (100, 2000) if study.quick else (1000, 10_000)
    rows = study.success(
        {"m_factor": (1, 2, 4), "density": DENSITIES},
        options={"rule": "B3/S23", "architecture": "paper", "activation": "relu"},
        seeds=range(seeds),
        training={"batches": batches, "lr": 3e-3},
        engine="fused",
    )
    curves = success_series(rows, x="density", by="m_factor", rate="exact")
    caption = (
        f"Life B3/S23 (Conway's), one step, the architecture of arXiv 2009.01398 with ReLU; {seeds} seeds at each "
        f"density and width, {batches:,} steps of Adam at 3e-3 on the exact loss over boards of 10 x 10 of that "
        "density. Success: right on all 512 patterns. Bands: exact intervals of shares."
    )
    study.draw(
        figures.series_figure(
            [("", curves)], xlabel=NAMES["density"], ylabel="successful networks (%)", caption=caption, height=3.2
        )
    )
    best = {
        m: max((row for row in rows if row.values["m_factor"] == m), key=lambda row: row.success.exact_share.value)
        for m in (1, 2, 4)
    }
    study.done(
        "best: "
        + "; ".join(f"m = {m} at {row.values['density']}: {row.success.exact_share}" for m, row in best.items())
    )


if __name__ == "__main__":
    main()
