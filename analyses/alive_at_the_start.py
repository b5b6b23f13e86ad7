"""What keeps training alive: does the scale of the first weights, or normalisation, by depth?

Claims 37 and 42 ("Diving deep": mean and spread after affine layers; Glorot's initialisation). Perceptrons of width 32,
ReLU, on digits. Measures: mean and spread of what enters the last activation before training, the share of units that
are 0 for all images, and that of seeds that read 90 % of the test images after training, by scale (PyTorch's own;
X. Glorot, Y. Bengio, AISTATS 2010; K. He et al., ICCV 2015), depth, with and without BatchNorm. Refuted: that He's
scale keeps training alive and Glorot's does not, if at depth 24 as many seeds train with Glorot's; that BatchNorm makes
the scale indifferent, if the shares still differ with it.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape import Problem, figures
from landscape.core.intervals import Proportion
from landscape.problems.digits import Digits
from landscape.training.train import Training
from study import Study, middle

WIDTH, NAMES = 32, ("dead", "mean", "spread")
SCALES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "PyTorch's": None,
    "Glorot": nn.init.xavier_normal_,
    "He": functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


def network(depth: int, scale: str, normed: bool) -> nn.Sequential:
    """Drawn by PyTorch's generator; biases begin at 0, but for PyTorch's own scale."""
    layers: list[nn.Module] = []
    for before in (64, *[WIDTH] * (depth - 1)):
        layers += [nn.Linear(before, WIDTH), *[nn.BatchNorm1d(WIDTH)] * normed, nn.ReLU()]
    layers.append(nn.Linear(WIDTH, 10))
    for layer in layers:
        if (draw := SCALES[scale]) and isinstance(layer, nn.Linear):
            draw(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, depths 2 and 8, 100 steps: about half a minute on a core",
        full="20 seeds, depths 2, 8, 24, 1,000 steps: about 10 minutes on a core",
    )
    seeds, depths, steps = (8, (2, 8), 100) if study.quick else (20, (2, 8, 24), 1000)
    train, test = Digits().training_data(), Digits().test_data()
    data = {"train": (train.inputs, train.targets), "test": (test.inputs, test.targets)}

    @torch.no_grad()
    def begun(seed: int, *how: Any) -> tuple[float, float, float]:
        """Dead units; mean and spread before the last activation; BatchNorm by all images."""
        torch.manual_seed(seed)
        dead, at = [], train.inputs
        for layer in network(*how)[:-1]:
            before, at = at, layer(at)
            dead += [(at == 0).all(0).float().mean()] * isinstance(layer, nn.ReLU)
        return float(torch.stack(dead).mean()), float(before.mean()), float(before.std())

    def find(depth: int, scale: str, normed: bool) -> dict[str, Any]:
        problem = Problem.from_model(functools.partial(network, depth, scale, normed), data, "cross_entropy")
        training = Training(batches=steps, lr=1e-3, data="batches", batch_size=64, save_at=(0, steps))
        run = study.train(problem, training, f"{scale}/{depth}{'/normed' * normed}", range(seeds))
        right = problem.test_objective()(run.checkpoint().stack)["accuracy"].numpy()
        columns = np.array([begun(seed, depth, scale, normed) for seed in range(seeds)]).T
        found = {name: middle(each) for name, each in zip(NAMES, columns, strict=True)}
        return {"trained": Proportion(int((right >= 0.9).sum()), seeds), "right": right.mean(), **found}

    grid = {"depth": depths, "scale": tuple(SCALES), "normed": (False, True)}
    rows = study.cells(grid, find, seeds=seeds, steps=steps)

    def curve(what: str, scale: str, normed: bool) -> figures.Series:
        own = [e["found"][what] for e in rows if (e["cell"]["scale"], e["cell"]["normed"]) == (scale, normed)]
        if what == "trained":
            return figures.Series.of_proportions(scale, depths, [Proportion(each["count"], seeds) for each in own])
        value, low, high = np.array(own, dtype=float).T
        return figures.Series(label=scale, x=np.array(depths, dtype=float), value=value, low=low, high=high)

    panels = [
        (
            f"{title}, {'with BatchNorm' if normed else 'no normalisation'}",
            [curve(what, each, normed) for each in SCALES],
        )
        for what, title in (("dead", "dead at the start"), ("trained", "trained"))
        for normed in (False, True)
    ]
    caption = (
        f"Perceptrons of width {WIDTH}, ReLU, on digits; {seeds} seeds. Dead: units that are 0 for all training "
        "images, before training (medians, bands 95 % each). Trained: 90 % of the test images right after "
        f"{steps:,} steps of Adam at 1e-3 on batches of 64."
    )
    labels = {"xlabel": "hidden layers", "ylabel": "share (%)", "xscale": "log"}
    study.draw(figures.series_figure(panels, caption=caption, columns=2, **labels))
    titles = enumerate(("no normalisation", "with BatchNorm"))
    panels = [(title, [curve("spread", each, bool(normed)) for each in SCALES]) for normed, title in titles]
    caption = (
        "The same networks before training: standard deviation, over units and training images, of what enters the "
        f"last activation; medians of {seeds} seeds, bands 95 % each."
    )
    labels |= {"ylabel": "spread before the last activation", "yscale": "log", "percent": False}
    study.draw(figures.series_figure(panels, caption=caption, columns=2, **labels), "spread")
    study.done("; ".join(f"{e['cell']}: {e['found']['trained']['count']}" for e in rows))


if __name__ == "__main__":
    main()
