"""Does a softmax hide that no class responds? Confidence of classifiers on what is none of their classes.

Question: the study's second post notes that a softmax must name a class even where none responds. Measure: networks
that read digits, with the same initial points, data and budget, once with a softmax (cross-entropy), once with one
sigmoid a class (binary cross-entropy); on test images, on images whose pixels are shuffled and on uniform noise, the
share for which a class gets more than 0.9, and for which no class responds (every sigmoid below 0.5; for the softmax
its largest logit below that of the right class of each training image). A softmax that is no surer than the sigmoids on
what is no digit refutes the claim.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from landscape import Problem, Training, figures
from landscape.core.intervals import mean_interval
from landscape.problems.registry import create
from study import Study

KINDS, ENDS = ("test images", "pixels shuffled", "noise"), ("softmax", "sigmoids")


def network() -> nn.Module:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, 500 batches: about half a minute on two cores",
        full="100 seeds, 5,000 batches: about 15 minutes on one core",
    )
    seeds, batches = (20, 500) if study.quick else (100, 5000)
    train, test = (create("digits", {"on": on}).objective().memory.real_alone() for on in ("train", "test"))
    images, labels, others = (each.movedim(-1, 1)[0].float() for each in (train.inputs, train.targets, test.inputs))
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack(
        [each.flatten()[torch.randperm(64, generator=generator)].view(each.shape) for each in others]
    )
    looked_at = dict(
        zip(KINDS, (others, shuffled, torch.rand(others.shape, generator=generator) * images.max()), strict=True)
    )

    def find(end: str) -> dict[str, Any]:
        classes = labels.long().flatten()
        targets = classes if end == "softmax" else F.one_hot(classes, 10).float()
        loss = nn.CrossEntropyLoss() if end == "softmax" else nn.BCEWithLogitsLoss()
        problem = Problem.from_model(network, (images, targets), loss)
        run = study.train(
            problem, Training(batches=batches, batch_size=128, lr=3e-3, data="batches"), end, range(seeds)
        )
        told: dict[str, Any] = {kind: {"a class above 0.9": [], "no class responds": []} for kind in KINDS}
        for member in range(seeds):
            module = network()
            module.load_state_dict(run.checkpoint().stack.state_dict(member))
            with torch.no_grad():
                right = module(images).gather(1, classes[:, None]).min()
                for kind, each in looked_at.items():
                    logits = module(each)
                    sure = (logits.softmax(1) if end == "softmax" else logits.sigmoid()).amax(1) > 0.9
                    none = logits.amax(1) < (right if end == "softmax" else 0.0)
                    told[kind]["a class above 0.9"].append(float(sure.float().mean()))
                    told[kind]["no class responds"].append(float(none.float().mean()))
        return told

    cells = study.cells({"end": ENDS}, find, seeds=seeds, batches=batches)
    panels = [
        (
            end,
            [
                figures.Series.of_seeds(
                    name, range(3), np.array([each["found"][kind][name] for kind in KINDS]).T, within=(0.0, 1.0)
                )
                for name in ("a class above 0.9", "no class responds")
            ],
        )
        for end, each in zip(ENDS, cells, strict=True)
    ]
    caption = (
        f"Handwritten digits (8 x 8), MLP of two hidden layers of 64; {seeds} seeds, {batches:,} batches of 128, Adam "
        "at 3e-3. No class responds: every sigmoid below 0.5; for the softmax, its largest logit below that of the "
        "right class of every training image. Mean over seeds with its 95 % interval; faint: seeds."
    )
    look = {"xlabel": "images", "ylabel": "images (%)", "xscale": "category", "categories": KINDS, "height": 3.2}
    study.draw(figures.series_figure(panels, caption=caption, **look))
    sure = [np.array(each["found"]["noise"]["a class above 0.9"]) for each in cells]
    low, high = mean_interval(sure[0] - sure[1])
    more = f"{(sure[0] - sure[1]).mean():+.3f} ({low:.3f} to {high:.3f})"
    study.done(f"share of noise that gets a class above 0.9, softmax less sigmoids: {more}")


if __name__ == "__main__":
    main()
