"""Convolution against dense layers: what does a network gain from seeing every cell through the same filters?

Question of "Diving deep". Measure: one step of B3/S23V on boards of 5 x 5, learnt from N boards, tested on 4,096
others: share of cells right and of seeds that get every test board right, for the convolutional network (m = 8: 305
parameters) and a dense one (two hidden layers of 256: 78,873), by N, with intervals over seeds, at the same number of
steps, beside what answering that all cells are dead gets. A dense network as good at the same N refutes the gain.
"""

from typing import Any

import torch
from torch import nn

from landscape import Problem, Training, figures
from landscape.core.intervals import Proportion
from landscape.problems.life import Life
from study import Study

LIFE = Life(m_factor=8, board="5x5")
BOARDS = (16, 64, 256, 1024, 4096)


def dense() -> nn.Module:
    """A board in, a board out."""
    hidden = (nn.Linear(25, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 25))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Unflatten(1, (1, 5, 5)), nn.Sigmoid())


def sample(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random boards and the same a step later."""
    batch = LIFE.boards(torch.tensor([seed]), 0, count, torch.float32, codes=False).samples(0, count)
    inputs = batch.inputs[0].movedim(-1, 0)
    return inputs, batch.targets.movedim(-1, 0).reshape(inputs.shape).float()


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, 300 steps, to 1,024 boards: about half a minute on two cores",
        full="20 seeds, 3,000 steps: about half an hour on one core",
    )
    seeds, steps, counts = (8, 300, BOARDS[:4]) if study.quick else (20, 3000, BOARDS)
    others, later = sample(1, 4096)

    def find(network: str, boards: int) -> dict[str, Any]:
        make = dense if network == "dense" else LIFE.network
        problem = Problem.from_model(make, sample(0, boards), nn.BCELoss())
        training = Training(batches=steps, batch_size=min(boards, 128), lr=3e-3, data="batches")
        run, right = study.train(problem, training, f"{network}-{boards}", range(seeds)), []
        for member in range(seeds):
            module = make()
            module.load_state_dict(run.checkpoint().stack.state_dict(member))
            with torch.no_grad():
                right.append(((module(others) > 0.5) == (later > 0.5)).flatten(1))
        cells = torch.stack(right)
        solved = cells.flatten(1).all(1)
        return {"cells": cells.float().mean((1, 2)).tolist(), "solved": Proportion(int(solved.sum()), seeds)}

    names = ("convolution", "dense")
    cells = study.cells({"network": names, "boards": counts}, find, seeds=seeds, steps=steps)
    curves = []
    for name in names:
        own = [each["found"]["cells"] for each in cells if each["cell"]["network"] == name]
        rates = torch.tensor(own).T.double().numpy()
        dead = 1 - float(later.mean())
        curves.append(figures.Series.of_seeds(name, counts, rates, within=(0.0, 1.0), baseline=dead))
    caption = (
        f"Life B3/S23V, one step, boards of 5 x 5; {seeds} seeds, {steps:,} steps of Adam at 3e-3 on batches of up to "
        "128 of these boards. Convolution: m = 8, LeakyReLU, 305 parameters; dense: two hidden layers of 256, 78,873. "
        "Tested on 4,096 other boards. Mean over seeds with its 95 % interval; faint: seeds."
    )
    look = {
        "xlabel": "boards to learn from",
        "ylabel": "cells of other boards right (%)",
        "xscale": "log",
        "height": 3.2,
    }
    study.draw(figures.series_figure([("", curves)], caption=caption, baseline="all dead", **look))
    told = [(*each["cell"].values(), each["found"]["solved"]["count"]) for each in cells]
    study.done("seeds right on all other boards: " + ", ".join(f"{name} {n}: {count}" for name, n, count in told))


if __name__ == "__main__":
    main()
