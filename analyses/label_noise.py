"""What changes from true to random labels: what is learnt by heart, what is read right, and the way between solutions?

Two extremes and all between (claim 31), and claim 52: networks memorise random labels (C. Zhang et al., ICLR 2017). A
share q of the training labels of digits is drawn uniformly anew, those of a smaller q among them. Measures, per seed:
share of the labels it was given that a network gives back, share of test images read right, and on the straight line
from the network of the same seed that saw true labels, the barrier of the loss with true labels above the higher end.
Refuted: that random labels are learnt by heart, if the median gives back less than 99 %; that training is robust, if
fewer test images are read right than training labels are true; that noise parts the solutions, if the median barrier is
below 0.01 nats at every q. (From density 0.1 to 0.9: `paper_density`.)
"""

from typing import Any

import numpy as np
import torch

from landscape import Problem, figures, walk
from landscape.analysis.barriers import barriers
from landscape.problems.digits import Digits
from landscape.training.train import Training
from study import Study, middle

WIDTH = 128


def made(share: float) -> Problem:
    """Digits of which so many have random labels."""
    train, test = Digits().training_data(), Digits().test_data()
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train.targets), generator=draws)
    labels, random = train.targets.clone(), torch.randint(10, train.targets.shape, generator=draws)
    some = order[: round(share * len(order))]
    labels[some] = random[some]
    data = {"train": (train.inputs, labels), "test": (test.inputs, test.targets)}
    return Problem.from_model(Digits(width=WIDTH).network(), data, "cross_entropy")


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="6 seeds, 300 steps, 3 shares: about 40 seconds on a core",
        full="20 seeds, 2,000 steps, 7 shares: about 5 minutes on a core",
    )
    seeds, steps, shares = (
        (6, 300, (0.0, 0.5, 1.0)) if study.quick else (20, 2000, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0))
    )
    training = Training(batches=steps, lr=3e-3, data="batches", batch_size=64, save_at=(steps,))

    def run(share: float) -> Any:
        return study.train(made(share), training, f"{share}", range(seeds))

    def find(share: float) -> dict[str, Any]:
        problem, stack = made(share), run(share).checkpoint().stack
        values = {
            "labels given back": problem.objective()(stack)["accuracy"].numpy(),
            "test images": problem.test_objective()(stack)["accuracy"].numpy(),
        }
        if share:
            lines = walk(str(run(0.0).path), str(run(share).path), problem=made(0.0), points=25)
            values["barrier"] = barriers(lines).above_higher_end
        return {name: middle(each) for name, each in values.items()}

    rows = study.cells({"share": shares}, find, seeds=seeds, steps=steps)

    def curve(what: str) -> figures.Series:
        own = [(e["cell"]["share"], e["found"][what]) for e in rows if what in e["found"]]
        value, low, high = np.array([found for _, found in own], dtype=float).T
        return figures.Series(label=what, x=np.array([share for share, _ in own]), value=value, low=low, high=high)

    x, none = np.array(shares), np.full(len(shares), np.nan)
    true = figures.Series(label="training labels that are true (about)", x=x, value=1 - 0.9 * x, low=none, high=none)
    caption = (
        f"Digits, MLP 2 x {WIDTH}, ReLU; {seeds} seeds, {steps:,} steps of Adam at 3e-3 on batches of 64. Labels "
        "that the network gives back, random ones among them, and test images read right: medians, bands 95 % each."
    )
    labels = {"xlabel": "share of random labels", "ylabel": "right (%)", "height": 3.0}
    curves = [curve("labels given back"), curve("test images"), true]
    study.draw(figures.series_figure([("", curves)], caption=caption, **labels))
    study.done("; ".join(f"{e['cell']['share']}: {e['found']}" for e in rows))


if __name__ == "__main__":
    main()
