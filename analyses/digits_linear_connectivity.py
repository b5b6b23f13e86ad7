"""Does the order of hidden units explain the barriers between networks that read digits? Width by width.

Question: R. Entezari et al. (ICLR 2022) conjecture that wide networks trained from different seeds have no barrier
between them once their units are in the same order; S. Ainsworth, J. Hayase, S. Srinivasa (ICLR 2023) match units by
their weights. Measure: mean barrier of all pairs of seeds above the chord, units as stored and aligned, with its
interval over seeds. Aligned barriers that do not fall with the width, or not below the stored ones, refute it here.
"""

from typing import Any

import numpy as np

from landscape import figures
from landscape.analysis.barriers import barriers, representatives, square
from landscape.problems.registry import create
from study import Study

KINDS = {"stored": "as stored", "aligned": "aligned"}


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="6 seeds, widths 8 to 256, 1,000 batches: about 2 minutes on two cores",
        full="20 seeds, widths 8 to 1024, 5,000 batches: about 10 hours on two cores, an hour on a GPU (estimate)",
        cells=False,
    )
    widths = (8, 16, 32, 64, 128, 256) if study.quick else (8, 16, 32, 64, 128, 256, 512, 1024)
    seeds, batches, points = (6, 1000, 25) if study.quick else (20, 5000, 51)
    done = study.sweep("digits", grid={"width": widths}, seeds=range(seeds), training={"batches": batches, "lr": 3e-3})
    found: dict[str, dict[str, list[np.ndarray]]] = {order: {} for order in KINDS}
    ends: dict[str, list[np.ndarray]] = {"loss": [], "test accuracy": []}
    for cell in done.cells():
        width, run = cell.values["width"], str(cell.path)
        test = create("digits", {**cell.problem.config(), "on": "test"})
        how = {"align": True, "pairs": "all"}
        walked = representatives(study.walk(run, run, f"train-{width}", points=points, **how))
        again = representatives(study.walk(run, run, f"test-{width}", points=3, problem=test, **how))
        for kind, pairs in found.items():
            train, tested = walked[kind], again[kind]
            values = {
                "barrier": barriers(train).above_chord,
                "loss": train.loss[:, np.flatnonzero(train.alpha == 0.5)[0]],
                "test accuracy": tested.values["accuracy"][:, 1],
            }
            for name, value in values.items():
                pairs.setdefault(name, []).append(square(value, seeds))
        lines = [k * (k - 1) // 2 for k in range(1, seeds)]  # from the first seed to each of the others
        for name, along in (("loss", train.loss), ("test accuracy", tested.values["accuracy"])):
            ends[name].append(np.array([along[0, 0], *along[lines, -1]]))
    study.keep({"widths": widths, "seeds": seeds, "pairs": found, "ends": ends})
    about = (
        f"Handwritten digits (8 x 8; 1,297 to train on, 500 to test), MLP with two hidden layers, ReLU; {seeds} seeds "
        f"a width, {batches:,} batches of 128, Adam at 3e-3. Straight lines between all pairs of seeds, units as "
        "stored or one end replaced by the network that computes the same and lies close to the other (align). "
    )
    bands = (
        "Means over pairs; bands, from 20 seeds on: over seeds, each with all its pairs; faint: the mean of "
        "each seed's pairs."
    )
    of_pairs = figures.Series.of_pairs
    heights = [of_pairs(label, widths, found[order]["barrier"]) for order, label in KINDS.items()]
    options: dict[str, Any] = {"xlabel": "width", "xscale": "log", "height": 3.2}
    label = "barrier above the chord (nats per image)"
    caption = f"{about}Training loss, {points} points a line: its largest distance above the chord. {bands}"
    study.draw(
        figures.series_figure([("", heights)], ylabel=label, caption=caption, percent=False, yscale="log", **options),
        "barriers",
    )
    kept = {"within": (0.0, 1.0)}
    curves = [
        figures.Series.of_seeds("trained networks", widths, np.array(ends["test accuracy"]).T, **kept),
        *(
            of_pairs(f"middle, {label}", widths, found[order]["test accuracy"], **kept)
            for order, label in KINDS.items()
        ),
    ]
    caption = f"{about}Accuracy on the test images, at the ends of the lines and at alpha = 1/2. {bands}"
    drawn = figures.series_figure([("", curves)], ylabel="test accuracy (%)", caption=caption, **options)
    study.draw(drawn, "accuracy")
    means = [[np.nanmean(each) for each in found[order]["barrier"]] for order in KINDS]
    study.done(", ".join(f"{width}: {a:.2g} to {b:.2g}" for width, a, b in zip(widths, *means, strict=True)))


if __name__ == "__main__":
    main()
