"""Does BatchNorm keep what layers are fed with from shifting, along training and on lines between solutions?

Claim 38 ("Diving deep"), said by S. Ioffe and C. Szegedy (ICML 2015), denied by S. Santurkar et al. (NeurIPS 2018).
Convolutional networks that read digits, with and without BatchNorm, from the same initial weights. What enters the
second and the last layer has a mean and a spread in each channel, over all training images (BatchNorm by these).
Measures: the shift of the means from one checkpoint to the next, twice as late, over the spread (both root mean square
over channels); and the spread on the straight line between two seeds, over the mean of its ends (K. Jordan et al., ICLR
2023: it collapses, and BatchNorm whose statistics are estimated anew restores it). Refuted: that BatchNorm removes the
shift, if the interval of the median ratio of shifts, with over without, per seed, does not lie below 1.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import figures
from landscape.engine.stack import Stack
from landscape.problems.digits import Digits
from landscape.training.train import Training
from study import Study, middle

KINDS = {"cnn": "without BatchNorm", "cnn_bn": "with BatchNorm"}
LAYERS = {"conv2": "enters the second layer", "out": "enters the last layer"}
ALPHAS = np.linspace(0, 1, 11)


@torch.no_grad()
def entering(problem: Digits, stack: Stack) -> dict[str, tuple[Tensor, Tensor]]:
    """Means and spreads [member, channel] of what enters each layer."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in LAYERS}
    for member in range(len(stack)):
        network, at = problem.network().train(), problem.training_data().inputs
        network.load_state_dict(stack.state_dict(member))
        for name, layer in network.named_children():
            if name in LAYERS:
                found[name].append((at.mean((0, 2, 3)), at.std((0, 2, 3))))
            at = layer(at)
    return {name: tuple(map(torch.stack, zip(*each, strict=True))) for name, each in found.items()}


def told(values: Any) -> list[list[float]]:
    """Medians over seeds, a row each, with their intervals, a column of the values each."""
    return [middle(column) for column in np.asarray(values, dtype=float).T]


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 128 steps: about 30 seconds on a core",
        full="20 seeds, 512 steps: about 2 minutes on a core",
    )
    seeds, last = (8, 7) if study.quick else (20, 9)
    saved = [0, *(2**k for k in range(last + 1))]
    training = Training(batches=saved[-1], lr=3e-3, data="batches", save_at=tuple(saved))

    def find() -> dict[str, Any]:
        shifts, found = {}, {}
        for kind in KINDS:
            problem = Digits(architecture=kind, width=8)
            run = study.train(problem, training, kind, range(seeds))
            steps = [entering(problem, run.checkpoint(step).stack) for step in saved]
            ends = run.checkpoint().stack
            one, two = (ends.select(list(range(k, seeds, 2))) for k in (0, 1))
            between = [one.unflatten(one.flatten() * (1 - a) + two.flatten() * a) for a in ALPHAS]
            line = [entering(problem, Stack(each.tensors, one.buffers)) for each in between]
            for layer in LAYERS:
                pairs = zip([step[layer] for step in steps[:-1]], [step[layer] for step in steps[1:]], strict=True)
                moved = [(after[0] - before[0]).norm(dim=1) / before[1].norm(dim=1) for before, after in pairs]
                shifts[kind, layer] = torch.stack(moved, 1).numpy()
                spread = torch.stack([each[layer][1].mean(1) for each in line], 1).numpy()
                relative = 2 * spread / (spread[:, :1] + spread[:, -1:])
                found[f"{kind} {layer}"] = {"shift": told(shifts[kind, layer]), "spread": told(relative)}
        for layer in LAYERS:
            ratio = shifts["cnn_bn", layer].mean(1) / shifts["cnn", layer].mean(1)
            found[f"ratio {layer}"] = told(ratio[:, None])[0]
        return found

    (row,) = study.cells({}, find, seeds=seeds, steps=saved[-1])

    def curve(kind: str, layer: str, what: str, x: Any) -> figures.Series:
        value, low, high = np.array(row["found"][f"{kind} {layer}"][what], dtype=float).T
        return figures.Series(label=KINDS[kind], x=np.array(x, dtype=float), value=value, low=low, high=high)

    def draw(what: str, x: Any, caption: str, **labels: Any) -> None:
        panels = [(title, [curve(kind, layer, what, x) for kind in KINDS]) for layer, title in LAYERS.items()]
        study.draw(figures.series_figure(panels, caption=about + caption, percent=False, **labels), what)

    about = f"Digits, two convolutions, width 8, ReLU; {seeds} seeds, Adam at 3e-3 on batches of 128; bands 95 % each. "
    caption = (
        "Shift of the channels' means since the checkpoint before, at half the steps, over their spreads there (both "
        "root mean square over channels), over all training images, by which BatchNorm normalises; medians."
    )
    draw("shift", saved[1:], caption, xlabel="step", ylabel="shift (spreads)", xscale="log", yscale="log")
    caption = (
        f"Straight lines between {seeds // 2} pairs of seeds after {saved[-1]:,} steps: spread, mean over channels, "
        "over the mean of both ends; BatchNorm by the training images at each point. Medians."
    )
    draw("spread", ALPHAS, caption, xlabel="alpha", ylabel="spread (ends: 1)")
    study.done("; ".join(f"{layer}: shift {row['found'][f'ratio {layer}']}" for layer in LAYERS))


if __name__ == "__main__":
    main()
