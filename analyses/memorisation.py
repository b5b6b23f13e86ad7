"""Do networks learn random labels by heart, and do those that could still generalise? Flipped labels of 512 patterns.

Question: C. Zhang et al. (ICLR 2017) found that networks fit random labels and, with more parameters than samples,
generalise where labels are true. Measure, on the 512 patterns of one step of Life, each weighing the same, against m
(2 m^2 + 22 m + 1 parameters): the share of seeds that fit all labels, of which some are flipped, others for each seed;
the barrier above the chord of the straight line from where the same initial point ends without flips; and, trained on a
random half with the same share of flips, what is right of the other half. No width at which nearly all seeds fit labels
half of which are flipped would refute the first; a rate without flips that falls beyond 256 parameters the second.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import figures
from landscape.analysis.barriers import DEFINITIONS
from landscape.core.intervals import Proportion, mean_interval
from landscape.engine.fused import Fused
from landscape.figures.success import NAMES
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from study import Study, curve, spread

FLIPPED = (0, 4, 16, 64, 256)  # of 512
FITS, BARRIERS = ("fits all 512", "fits its half"), ("true labels", "labels learnt")
ALPHA = torch.linspace(0, 1, 51)


def taught(own: Fused, start: Tensor, batches: int) -> Tensor:
    """One network, [1, parameter], after Adam at 1e-2, for the last fifth at 1e-3, on these labels and weights."""
    flat, late = start.clone(), batches * 4 // 5
    moments = {name: torch.zeros_like(flat) for name in ("mean", "square")}
    own.descend(flat, moments, range(late), lr=1e-2)
    own.descend(flat, moments, range(late, batches), lr=1e-3)
    return flat


def measured(fused: Fused, start: Tensor, seed: int, batches: int) -> list[list[float]]:
    """For each number of flips: fits all, fits its half, share right of the other half, and both barriers."""
    place = np.random.default_rng(seed).permutation(512)  # patterns are flipped, or learnt, whose place is low
    half, rows, known = (place < 256) / 256, list[list[float]](), torch.empty(0)

    def labelled(flips: int, weights: np.ndarray) -> Fused:
        return dataclasses.replace(fused, side=np.where(place < flips, -fused.side, fused.side), weights=weights)

    for flips in FLIPPED:
        own, some = labelled(flips, np.full(512, 1 / 512)), labelled(flips // 2, half)
        end, other = taught(own, start, batches), taught(some, start, batches)
        known = known if rows else end
        line = torch.lerp(known, end, ALPHA[:, None])
        losses = np.stack([labelled(n, own.weights)(line)["loss"] for n in (0, flips)])
        heights = DEFINITIONS["above_chord"].rises(ALPHA.numpy(), losses).max(1)
        fits = [float(own(end)["solved"]), float(some(other)["accuracy"] > 1 - 1e-9)]
        rows.append([*fits, float(labelled(0, 1 / 256 - half)(other)["accuracy"]), *heights])
    return rows


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, m to 4, 1,500 steps: about 10 seconds on two cores",
        full="100 seeds, 20 from m = 16 on, m to 32, 5,000 steps: about 4 minutes on one core",
    )
    widths, batches, seeds = ((1, 2, 4), 1500, 8) if study.quick else ((1, 2, 4, 8, 16, 32), 5000, 100)

    def find(m_factor: int) -> dict[str, Any]:
        problem, count = Life(m_factor=m_factor), seeds if m_factor < 16 else seeds // 5
        fused = problem.objective().with_fused(training=True).fused
        assert fused is not None
        starts = initialise(problem.network(), range(count)).flatten().split(1)
        rows = np.array([measured(fused, start, seed, batches) for seed, start in enumerate(starts)])
        told: dict[str, Any] = {}
        for flips, (fits, of_half, held_out, *heights) in zip(FLIPPED, np.moveaxis(rows, 0, 2), strict=True):
            both = (fits * rows[:, 0, 0]).astype(bool)  # the line joins two that fit their labels
            fitted = zip(FITS, (fits, of_half), strict=True)
            own = told[str(flips)] = {name: Proportion(int(each.sum()), count) for name, each in fitted}
            own["held out"] = [held_out.mean(), *mean_interval(held_out, within=(0, 1))]
            if flips and any(both):
                own |= {name: spread(each[both]) for name, each in zip(BARRIERS, heights, strict=True)}
        return told

    cells = study.cells({"m_factor": widths}, find, batches=batches)
    m = [each["cell"]["m_factor"] for each in cells]

    def curves(of: str) -> list[figures.Series]:
        rows = {n: [each["found"][str(n)].get(of) for each in cells] for n in reversed(FLIPPED)}
        return [curve(f"{n} of 512 flipped", m, row) for n, row in rows.items() if any(row)]

    about = (
        f"Life B3/S23V, one step, LeakyReLU, sigmoid; {seeds} seeds a width, {seeds // 5} from m = 16 on, {batches:,} "
        "steps of Adam at 1e-2, the last fifth at 1e-3; flipped labels are others for each seed. "
    )
    look: dict[str, Any] = {"xlabel": NAMES["m_factor"], "xscale": "log", "height": 3}
    shares = "Right: mean over seeds, trained on a random half with the same share flipped. Bands: 95 % each."
    panels = [("fit all their labels", curves(FITS[0])), ("right of the other half, true labels", curves("held out"))]
    study.draw(figures.series_figure(panels, ylabel="share (%)", caption=about + shares, **look))
    lines = "Straight lines, 51 points, from the same initial point's end without flips, where both fit: medians, 95 %."
    look |= {"ylabel": "barrier above the chord (nats)", "percent": False, "yscale": "log"}
    panels = [(f"loss on {name}", curves(name)) for name in BARRIERS if curves(name)]
    if panels:
        study.draw(figures.series_figure(panels, caption=about + lines, **look), "barriers")
    study.done("; ".join(f"m = {each['cell']['m_factor']}: {each['found']['256'][FITS[0]]}" for each in cells))


if __name__ == "__main__":
    main()
