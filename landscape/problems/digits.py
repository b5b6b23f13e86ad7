"""Real handwritten digits, 8 x 8 pixels: small enough for a laptop, and a landscape of real data.

E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998 (CC BY 4.0,
doi 10.24432/C50P49), as scikit-learn has them: 1797 images of 10 classes, which the package itself does not hold.
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landscape.core import philox
from landscape.core.errors import LandscapeError
from landscape.core.fields import check
from landscape.engine.losses import Criterion
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, template_of
from landscape.problems.base import Nouns, option
from landscape.problems.initialisation import (
    ACTIVATIONS,
    Activation,
    initialise,
    mlp,
    mlp_size,
    require_shapes,
)
from landscape.problems.supervised import Samples, Supervised

__all__ = ["TEST", "TRAIN", "Digits"]

#: Images that training sees, the first in an order drawn from the seed 0, and the rest, for tests.
TRAIN, TEST = 1297, 500

#: Streams of random numbers: the order of the images, random labels.
_ORDER, _LABELS = 2**17 + 2, 2**17 + 3

_CLASSES, _SIDE = 10, 8

Architecture = Literal["mlp", "cnn", "cnn_bn"]


@dataclasses.dataclass(frozen=True)
class Digits(Supervised):
    """A network that reads handwritten digits of 8 x 8 pixels (scikit-learn's, UCI 1998): 1297 images to train on, 500
    to test on, pixels from 0 to 1. It needs scikit-learn: pip install '.[digits]' in the clone.

    Adam at the usual --lr 1e-2 gets 97 % of the test images or more right from width 32 on (measured to 256). Random
    labels are learnt by heart from about width 128 on with --lr 3e-3.
    """

    nouns: ClassVar[Nouns] = Nouns("images", "images")

    architecture: Architecture = option(
        "mlp",
        "Multilayer perceptron; or two 3 x 3 convolutions, the second with stride 2, and a linear layer; or these with "
        "BatchNorm.",
    )
    width: int = option(
        32, "Hidden units of each layer; channels of the first convolution, half of the second's.", at_least=1
    )
    depth: int = option(2, "Hidden layers of the perceptron; the convolutional networks have two.", at_least=1)
    activation: Activation = option("relu", "Activation function.")
    labels: Literal["true", "random"] = option(
        "true", "Labels to train on: the digits, or uniformly random ones. Test images keep the true ones."
    )
    label_seed: int = option(0, "Seed of the random labels.", syntax="seed")
    on: Literal["train", "test"] = option("train", "Images on which the height of the landscape is measured.")

    def __post_init__(self) -> None:
        check(self)
        if self.architecture != "mlp" and self.depth != 2:
            raise LandscapeError(
                f"`depth` is {self.depth}, but a {self.architecture} has 2 hidden layers: leave it out"
            )
        if self.label_seed and self.labels != "random":
            raise LandscapeError('`label_seed` goes with `labels="random"`: true labels are not drawn')

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        """Architecture, width and depth; raises `Mismatch` for tensors of another network."""
        if "conv1.weight" in shapes:
            normalised = "norm1.weight" in shapes
            fields: dict[str, Any] = {"width": shapes["conv1.weight"][0], "depth": 2}
            fields["architecture"] = "cnn_bn" if normalised else "cnn"
        else:
            fields = {"architecture": "mlp", **mlp_size(shapes)}
        require_shapes(shapes, cls(**fields).network())
        return fields

    def title(self) -> str:
        """Architecture, width, activation, labels, and what the height is measured on."""
        size = f"{self.depth} x {self.width}" if self.architecture == "mlp" else f"width {self.width}"
        kind = self.architecture.upper().replace("_BN", " with BatchNorm")
        labels = f", random labels {self.label_seed}" if self.labels == "random" else ""
        return f"Digits, {kind} {size}, {self.activation}{labels}{', test images' if self.on == 'test' else ''}"

    def network(self) -> nn.Module:
        """Images in, logits of the 10 digits out."""
        if self.architecture == "mlp":
            return mlp(_SIDE**2, self.width, self.depth, _CLASSES, self.activation)
        return self._convolutional(normalised=self.architecture == "cnn_bn")

    def initial(self, seeds: Sequence[int]) -> Stack | None:
        """With BatchNorm the same weights as without it, and its own factors 1 and shifts 0."""
        if self.architecture != "cnn_bn":
            return None
        bare = initialise(dataclasses.replace(self, architecture="cnn").network(), seeds)
        template = template_of(self.network())
        every = template.map(lambda tensor: tensor.repeat(len(seeds), *[1] * (tensor.ndim - 1)))
        return Stack({name: bare.tensors.get(name, own) for name, own in every.tensors.items()}, every.buffers)

    def criterion(self) -> Criterion:
        """Cross-entropy, accuracy, and counts of right images."""
        return Criterion.of(
            "cross_entropy", outputs=torch.zeros(1, _CLASSES), targets=torch.zeros(1, dtype=torch.int64)
        )

    def data(self) -> Samples:
        """The images named by `on`."""
        return self.training_data() if self.on == "train" else self.test_data()

    def training_data(self) -> Samples:
        """1297 images, [sample, 64] for a perceptron, [sample, 1, 8, 8] for convolutions, with the labels chosen."""
        return self._parts[0]

    def test_data(self) -> Samples:
        """The other 500 images, with their true labels."""
        return self._parts[1]

    def baselines(self, objective: Objective) -> dict[str, tuple[float, float]]:
        """What answering with the most frequent digit gets right."""
        data = objective.memory.samples(0, len(objective.memory))
        most = float(data.targets[0, data.weights[0] > 0].bincount().max()) / objective.samples
        return {"most frequent digit": (most, most)}

    def _convolutional(self, *, normalised: bool) -> nn.Sequential:
        """The last layer reads all places of all channels, as a convolution: its weights then have an axis of channels.

        A convolution keeps its bias before BatchNorm, which takes it away again, so that both networks start alike.
        """
        layers, channels = OrderedDict[str, nn.Module](), (1, self.width, 2 * self.width)
        for number, stride in ((1, 1), (2, 2)):
            layers[f"conv{number}"] = nn.Conv2d(channels[number - 1], channels[number], 3, stride, padding=1)
            if normalised:
                layers[f"norm{number}"] = nn.BatchNorm2d(channels[number])
            layers[f"activation{number}"] = ACTIVATIONS[self.activation]()
        layers["out"] = nn.Conv2d(channels[2], _CLASSES, _SIDE // 2)
        layers["flatten"] = nn.Flatten()
        return nn.Sequential(layers)

    @functools.cached_property
    def _parts(self) -> tuple[Samples, Samples]:
        """Training and test data."""
        images, digits = _images()
        inputs = images.flatten(1) if self.architecture == "mlp" else images
        order = philox.words(torch.tensor([0]), stream=_ORDER, step=0, count=len(digits))[0].argsort(stable=True)
        training, test = order[:TRAIN], order[TRAIN:]
        labels = digits[training]
        if self.labels == "random":
            draws = philox.words(torch.tensor([self.label_seed]), stream=_LABELS, step=0, count=TRAIN)[0]
            labels = draws % _CLASSES
        return Samples(inputs[training], labels), Samples(inputs[test], digits[test])


@functools.cache
def _images() -> tuple[Float[Tensor, "sample 1 8 8"], Int[Tensor, " sample"]]:
    """All images, pixels from 0 to 1, and their digits; raises `LandscapeError` where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise LandscapeError(
            "digits takes its images from scikit-learn, which is not here: pip install '.[digits]' in the clone"
        ) from error
    found = load_digits()
    if len(found.target) != TRAIN + TEST:
        raise LandscapeError(f"scikit-learn has {len(found.target)} digits, not {TRAIN + TEST}: install another one")
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    return images, torch.tensor(found.target, dtype=torch.int64)
