"""How wide must a network be to learn Conway's rule? The success curves of arXiv 2009.01398, in its architecture.

Question: J. Springer and G. Kenyon found that networks several times wider than the smallest one that can do it are
needed. Measure: share of seeds that succeed by width, with Wilson's interval; needed is where it passes one half. The
smallest width passing it would refute them. Their initialisation, edges and test are not known to us: PyTorch's
initialisation, dead edges, and every pattern (one step) or 1,000 boards of 5 x 5 (more) are this project's choice.
"""

from landscape import figures
from landscape.figures.success import NAMES, success_series
from study import Study

PAPER = {"rule": "B3/S23", "architecture": "paper", "activation": "relu", "sigmoid": True}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="1 step: 64 seeds, exact loss; 2 steps: 8 seeds, 1,500 batches of 32 boards: about a minute on two cores",
        full="1 step: 640 seeds; 2 and 3 steps: 64 seeds, m to 8, 50,000 batches: 5 hours on one core",
    )
    many = 8 if study.quick else 64
    exact = {"batches": 3000 if study.quick else 10_000, "lr": 3e-3}
    batches = {"batches": 1500 if study.quick else 50_000, "batch_size": 32, "lr": 3e-3}
    first = study.success(
        {"m_factor": (1, 2, 3, 4, 6, 8)},
        "one-step",
        options=PAPER,
        seeds=range(64 if study.quick else 640),
        training=exact,
        engine="fused",
    )
    rest = study.success(
        {
            "m_factor": (1, 2, 4, 8),
            "steps": (2,) if study.quick else (2, 3),
        },
        "more-steps",
        options=PAPER,
        seeds=range(many),
        training=batches,
    )
    left = study.not_run("one-step", "more-steps")
    panels = [("1 step", success_series(first, x="m_factor", rate="exact", label=lambda _: "networks"))]
    for n in dict.fromkeys(row.values["steps"] for row in rest):
        rows = [row for row in rest if row.values["steps"] == n]
        panels.append((f"{n} steps", success_series(rows, x="m_factor", label=lambda _: "networks")))
    caption = (
        "Life B3/S23 (Conway's), the architecture of arXiv 2009.01398 with ReLU, Adam at 3e-3. 1 step: "
        f"{exact['batches']:,} steps on the exact loss, {len(first[0].success.solved)} seeds, right on "
        f"all 512 patterns. More: {batches['batches']:,} batches of 32 boards of 10 x 10, "
        f"{many} seeds, right on 1,000 boards of 5 x 5. Bands: exact intervals of shares.{left}"
    )
    study.draw(
        figures.series_figure(panels, xlabel=NAMES["m_factor"], ylabel="successful networks (%)", caption=caption)
    )
    study.done("1 step: " + ", ".join(f"m = {row.values['m_factor']}: {row.success.exact_share}" for row in first[:3]))


if __name__ == "__main__":
    main()
