"""Where in a convolutional network does dropout belong? Test accuracy by its place and rate.

Question of "Diving deep". Measure: a small convolutional network learns 200 of the handwritten digits, so few that it
overfits; dropout of pixels, of whole channels behind a convolution, of single values there, or of hidden units before
the last layer, at rates from 0.1 to 0.8; share of test images right less that without dropout, paired by seed, with
intervals. Differences whose intervals all hold 0 refute that the place matters.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from landscape import Problem, Training, figures
from landscape.core.intervals import mean_interval
from landscape.problems.registry import create
from study import Study

PLACES = ("pixels", "channels", "values", "hidden units")
RATES = (0.1, 0.3, 0.5, 0.8)


def network(place: str = "", rate: float = 0.0) -> nn.Module:
    """Two convolutions and two dense layers, dropout at one place."""
    at = {name: (nn.Dropout2d if name == "channels" else nn.Dropout)(rate if name == place else 0.0) for name in PLACES}
    convolutions = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    dense = (nn.Linear(256, 64), nn.ReLU(), at["hidden units"], nn.Linear(64, 10))
    return nn.Sequential(
        at["pixels"], *convolutions, at["channels"], at["values"], nn.MaxPool2d(2), nn.Flatten(), *dense
    )


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="8 seeds, rates 0.1 and 0.5, 200 batches: about half a minute on two cores",
        full="20 seeds, 1,000 batches: about half an hour on one core",
    )
    seeds, batches, rates = (8, 200, (0.1, 0.5)) if study.quick else (20, 1000, RATES)
    train, test = (create("digits", {"on": on}).objective().memory.real_alone() for on in ("train", "test"))
    images, labels = train.inputs.movedim(-1, 1)[0].float()[:200], train.targets.movedim(-1, 1)[0].long()[:200]
    others, answers = test.inputs.movedim(-1, 1)[0].float(), test.targets.movedim(-1, 1)[0].long().flatten()
    images, others = (each.view(-1, 1, 8, 8) for each in (images, others))

    def find(place: str, rate: float) -> dict[str, Any]:
        problem = Problem.from_model(lambda: network(place, rate), (images, labels.flatten()), nn.CrossEntropyLoss())
        training = Training(batches=batches, batch_size=50, lr=3e-3, data="batches")
        run, right = study.train(problem, training, f"{place}-{rate}", range(seeds)), []
        for member in range(seeds):
            module = network()
            module.load_state_dict(run.checkpoint().stack.state_dict(member))
            with torch.no_grad():
                right.append(float((module.eval()(others).argmax(1) == answers).float().mean()))
        return {"right": right}

    cells = study.cells({"place": PLACES, "rate": rates}, find, seeds=seeds, batches=batches)
    (none,) = study.cells({"place": ("none",), "rate": (0.0,)}, find, "none", seeds=seeds, batches=batches)
    base, curves = np.array(none["found"]["right"]), []
    for place in PLACES:
        own = [np.array(each["found"]["right"]) - base for each in cells if each["cell"]["place"] == place]
        curves.append(figures.Series.of_seeds(place, rates, 100 * np.stack(own, axis=1)))
    caption = (
        f"200 handwritten digits to learn from (8 x 8), two convolutions of 16 channels and two dense layers; {seeds} "
        f"seeds, {batches:,} batches of 50, Adam at 3e-3. Test images right (500) less those without dropout, "
        f"{100 * base.mean():.1f} % on average, of the same seed. Mean with its 95 % interval; faint: seeds."
    )
    look = {"xlabel": "rate of dropout", "ylabel": "test images right, difference (points)", "percent": False}
    study.draw(figures.series_figure([("", curves)], caption=caption, height=3.2, **look))
    gains = {tuple(each["cell"].values()): np.array(each["found"]["right"]) - base for each in cells}
    best = max(gains, key=lambda cell: gains[cell].mean())
    low, high = mean_interval(gains[best])
    study.done(f"best: {best}, {gains[best].mean():+.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
