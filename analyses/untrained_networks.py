"""What do networks that were never trained make of their inputs, by depth and scale of their weights?

Claim 32 ("Diving deep": dynamics of untrained networks). Perceptrons of width 100 without biases, weights normal with
variance g^2 / fan-in, on digits. Measure: the cosine between what a layer gives for two images, mean over pairs (1: it
tells no two apart), against depth, by gain g. Expected, and refuted if intervals say otherwise: with ReLU the cosine
rises toward 1 whatever the gain (Y. Cho, L. Saul, NIPS 2009: with c of one layer that of the next is
(sqrt(1 - c^2) + c (pi - arccos c)) / pi); with tanh up to g = 1 images grow alike, beyond they are torn apart (B. Poole
et al., NIPS 2016). And pictures, of one network each: what a layer's unit gives on a circle of inputs.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape import figures
from landscape.problems.digits import Digits
from study import Study, curve, middle

SHOWN, AROUND = (2, 8, 32), torch.linspace(0, 2 * torch.pi, 401, dtype=torch.float64)
WIDTH, IMAGES, KINDS = 100, 200, {"ReLU": torch.relu, "tanh": torch.tanh}
GAINS = {"g = 0.5": 0.5, "1 (Glorot)": 1.0, "√2 (He)": 2**0.5, "2": 2.0, "4": 4.0}


def layer(at: Tensor, gain: float, draws: torch.Generator) -> Tensor:
    """What enters the activations of the next layer."""
    weight = torch.randn(at.shape[1], WIDTH, generator=draws, dtype=torch.float64)
    return at @ weight * (gain / at.shape[1] ** 0.5)


def function(kind: str, gain: str, depth: int) -> figures.Series:
    """A random function of an angle: a unit of that layer, less its mean, over its spread."""
    draws, at = torch.Generator().manual_seed(0), torch.stack([AROUND.cos(), AROUND.sin()], 1)
    for _ in range(depth):
        at = KINDS[kind](entering := layer(at, GAINS[gain], draws))
    value = ((entering[:, 0] - entering[:, 0].mean()) / entering[:, 0].std()).numpy()
    none = np.full(len(value), np.nan)
    return figures.Series(label=f"g = {GAINS[gain]:g}", x=AROUND.numpy(), value=value, low=none, high=none)


def main() -> None:
    study = Study.from_command_line(
        __file__,
        __doc__,
        quick="20 seeds, to depth 32: about 10 seconds on a core",
        full="200 seeds, to depth 128: about a minute on a core",
    )
    seeds, places = (20, (1, 2, 4, 8, 16, 32)) if study.quick else (200, (1, 2, 4, 8, 16, 32, 64, 128))
    images = Digits().training_data().inputs[:IMAGES].double()

    def find(kind: str, gain: str) -> dict[str, Any]:
        draws, cosines, spreads = torch.Generator().manual_seed(0), [], []
        for _ in range(seeds):
            at, cosine, spread = images, [], []
            for depth in range(1, places[-1] + 1):
                entering = layer(at, GAINS[gain], draws)
                at = KINDS[kind](entering)
                if depth in places:
                    total = F.normalize(at, dim=1, eps=1e-300).sum(0).square().sum()
                    cosine.append(float((total - IMAGES) / (IMAGES * (IMAGES - 1))))
                    spread.append(float(entering.square().mean().sqrt()))
            cosines.append(cosine)
            spreads.append(spread)
        return {
            name: [middle(column) for column in np.array(each).T]
            for name, each in (("cosine", cosines), ("spread", spreads))
        }

    rows = study.cells({"kind": tuple(KINDS), "gain": tuple(GAINS)}, find, seeds=seeds, places=places)

    about = (
        f"Perceptrons of width {WIDTH} that were never trained, no biases, weights normal with variance g² / fan-in, "
        f"on {IMAGES} digits; medians of {seeds} seeds, bands: 95 % each. "
    )
    said = {
        "cosine": "Cosine between what a layer gives for two images, mean over pairs: at 1 it tells no two apart. With "
        "ReLU the gain changes scales alone: curves coincide.",
        "spread": "Root mean square of what enters the activations of a layer, over units and images.",
    }
    labels = {"cosine": ("", "cosine of two images", "linear"), "spread": ("spread", "spread before activation", "log")}
    for what, (part, label, yscale) in labels.items():
        panels = [
            (kind, [curve(e["cell"]["gain"], places, e["found"][what]) for e in rows if e["cell"]["kind"] == kind])
            for kind in KINDS
        ]
        look = {"xlabel": "layer", "ylabel": label, "xscale": "log", "yscale": yscale, "percent": False}
        study.draw(figures.series_figure(panels, caption=about + said[what], height=2.8, **look), part)
    panels = [
        (f"{kind}, layer {depth}", [function(kind, gain, depth) for gain in ("4", "2", "1 (Glorot)")])
        for kind in KINDS
        for depth in SHOWN
    ]
    look = {"xlabel": "angle of the input (radians)", "ylabel": "what a unit adds up", "percent": False}
    words = "One unit of one network, on a circle of inputs, less its mean, over its spread; ReLU's curves coincide."
    study.draw(figures.series_figure(panels, caption=about.split(", on")[0] + ". " + words, **look), "functions")
    study.done("; ".join(f"{e['cell']['kind']}, {e['cell']['gain']}: {e['found']['cosine'][-1][0]:.3f}" for e in rows))


if __name__ == "__main__":
    main()
