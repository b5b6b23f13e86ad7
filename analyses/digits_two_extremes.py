"""What lies between two extremes of training? From the initial point, from random labels, from large batches.

Question: straight lines on handwritten digits, beyond both ends: I. Goodfellow, O. Vinyals, A. Saxe (ICLR 2015); random
labels as C. Zhang et al. (ICLR 2017); large and small batches as N. Keskar et al. (ICLR 2017) and H. Li et al. (NeurIPS
2018). Measure: how far the loss rises above the higher end, and at which alpha it is lowest on training and on test
images, medians over seeds with intervals. Refuted: the first by lines that rise, the second and third by lines that
do not.
"""

from landscape import figures
from landscape.analysis.barriers import barriers
from landscape.problems.places import run_members
from landscape.problems.registry import create
from study import Study, middle

RUNS = {
    "small": ({"labels": ["true"]}, {"batch_size": 16}),
    "large": ({"labels": ["true"]}, {"batch_size": 1297}),
    "random": ({"labels": ["random"]}, {"batch_size": 128}),
    "true": ({"labels": ["true"]}, {"batch_size": 128}),
}
LINES = {
    "initial point to solution": ("true", "@0", "true"),
    "random to true labels": ("random", "", "true"),
    "large to small batches": ("large", "", "small"),
}
IMAGES = {"train": "training images", "test": "test images"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 2,000 batches: about 2 minutes on two cores",
        full="50 seeds, 20,000 batches: about 5 hours on two cores, 20 minutes on a GPU (estimate)",
        cells=False,
    )
    seeds, batches, width = (8, 2000, 128) if study.quick else (50, 20_000, 128)
    runs = {}
    for name, (grid, training) in RUNS.items():
        how = {"batches": batches, "lr": 3e-3, **training}
        cells = study.sweep(
            "digits", name, grid=grid, options={"width": width}, seeds=range(seeds), training=how
        ).cells()
        runs[name] = str(cells[0].path)
    panels, found = [], {}
    for title, (start, step, end) in LINES.items():
        curves, found[title] = [], {}
        for images, label in IMAGES.items():
            problem = create("digits", {"width": width, "on": images})
            part = f"{title.split()[0]}-{images}"
            walked = study.walk(
                f"{runs[start]}/{step}".rstrip("/"), runs[end], part, problem=problem, points=81, span=(-0.5, 1.5)
            )
            curves.append(figures.Series.of_seeds(label, walked.alpha, walked.loss, statistic="median"))
            heights, ends = barriers(walked), walked.alpha.searchsorted([0, 1])
            height = heights.above_higher_end  # above the chord of a falling line is its concavity, no barrier
            found[title][images] = {
                "above the higher end": height,
                "median": middle(height),
                "above the chord": heights.above_chord,
                "course": heights.courses(),
                "loss at the ends": walked.loss[:, ends],
                "accuracy at the ends": walked.values["accuracy"][:, ends],
            }
        panels.append((title, curves))
    problem, stack = run_members(runs["random"])
    fitted = problem.objective(device=study.device)(stack)["accuracy"].cpu().numpy()
    caption = (
        f"Handwritten digits (8 x 8; 1,297 to train on, 500 to test), MLP with two hidden layers of {width}, ReLU; "
        f"{seeds} seeds, both ends of a line from the same one, {batches:,} steps of Adam at 3e-3 on batches of 128; "
        "large: all 1,297, small: 16, so 81 times fewer images. Cross-entropy with the true labels along straight "
        "lines through both ends, alpha 0 and 1, 81 points from -0.5 to 1.5. Random labels: uniform, for the training "
        f"images, which each network gets to {100 * fitted.min():.1f} % or more right. Medians over seeds; "
        "faint: seeds."
    )
    study.keep({"seeds": seeds, "batches": batches, "random_labels_fitted": fitted, "lines": found})
    study.draw(
        figures.series_figure(
            panels,
            xlabel="alpha",
            ylabel="loss, true labels (nats per image)",
            caption=caption,
            height=3,
            percent=False,
            yscale="log",
        )
    )
    study.done(
        "; ".join(f"{title}: {each['train']['median'][0]:.3g} above the higher end" for title, each in found.items())
    )


if __name__ == "__main__":
    main()
