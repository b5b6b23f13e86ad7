"""Functions of one number, learnt by a perceptron from points: landscapes that can be understood, with known minima.

With a teacher, the targets are the outputs of a network of the student's kind (E. Gardner, B. Derrida, *J. Phys. A* 22,
1989); its weights, embedded into the student, are a global minimum. Where the activation is ReLU, a piecewise linear
function through the points is one too.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core import philox
from landscape.core.errors import Unsupported
from landscape.core.fields import check
from landscape.engine.losses import Criterion
from landscape.engine.objective import Metric
from landscape.engine.stack import Stack, template_of
from landscape.problems.base import Nouns, option
from landscape.problems.initialisation import (
    Activation,
    mlp,
    mlp_size,
    require_shapes,
)
from landscape.problems.supervised import Samples, Supervised

__all__ = ["Functions"]

Function = Literal["teacher", "sine", "step", "abs", "hat"]

#: Stream of the random numbers that make a teacher.
_TEACHER = 2**17 + 4

#: Weights of a teacher are multiples of this: with points at multiples of a power of two, and ReLU, no number of its
#: computation is rounded, and the student that equals it has a loss of exactly 0.
_QUANTUM = 1 / 16

_FORMULAS = {
    "sine": "sin(2 pi x)",
    "step": "sign of x",
    "abs": "|x|",
    "hat": "max(0, 1 - 2 |x|)",
}


@dataclasses.dataclass(frozen=True)
class Functions(Supervised):
    """A perceptron that learns a function of x from -1 to 1, squared error, from evenly spaced points, which are all
    there is: the loss is exact. Test points lie in the middle between them.

    Targets: of a random teacher network of the same kind; sine, sin(2 pi x); step, the sign of x; abs, |x|; hat,
    max(0, 1 - 2 |x|). With Adam at the usual --lr 1e-2 most seeds learn abs and hat, half of them the first teacher;
    sine wants --depth 2 --activation tanh --lr 3e-3.
    """

    nouns: ClassVar[Nouns] = Nouns("points", "points")
    sampled: ClassVar[bool] = False

    function: Function = option("teacher", "What is learnt.")
    width: int = option(32, "Hidden units of each layer.", at_least=1)
    depth: int = option(1, "Hidden layers.", at_least=1)
    activation: Activation = option("relu", "Activation function, also the teacher's.")
    points: int = option(65, "Points that are learnt, the ends -1 and 1 included.", at_least=2)
    teacher_width: int = option(4, "Hidden units of each of the teacher's layers.", at_least=1)
    teacher_seed: int = option(0, "Seed of the teacher's weights.", syntax="seed")
    tolerance: float = option(1e-3, "Squared error up to which a point counts as right.", above=0)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        """Width and depth; raises `Mismatch` for tensors of another network."""
        fields: dict[str, Any] = mlp_size(shapes)
        require_shapes(shapes, cls(**fields).network())
        return fields

    def title(self) -> str:
        """The function, width, depth and activation."""
        what = _FORMULAS.get(self.function, f"teacher {self.teacher_seed} of width {self.teacher_width}")
        return f"Function: {what}; MLP {self.depth} x {self.width}, {self.activation}"

    def network(self) -> nn.Module:
        """x in, one number out."""
        return mlp(1, self.width, self.depth, 1, self.activation)

    def criterion(self) -> Criterion:
        """Squared error; `right` counts the points whose squared error is at most the tolerance."""

        def right(outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs - targets).square() <= self.tolerance).flatten(1, -2).all(1)

        nothing = torch.zeros(1, 1)
        squares = Criterion.of("mse", outputs=nothing, targets=nothing)
        counts = {"accuracy": Metric(right), "right": Metric(right, "count"), "solved": Metric(right, "all")}
        return dataclasses.replace(squares, metrics={**squares.metrics, **counts})

    def data(self) -> Samples:
        """All points, in float64."""
        return self._samples(torch.linspace(-1, 1, self.points, dtype=torch.float64))

    def training_data(self) -> Samples:
        """All points."""
        return self.data()

    def test_data(self) -> Samples:
        """The middles between the points."""
        step = 2 / (self.points - 1)
        return self._samples(-1 + step * (torch.arange(self.points - 1, dtype=torch.float64) + 0.5))

    def training_kinds(self) -> tuple[str, ...]:
        """All points, unless batches of them are asked for."""
        return ("exact", "batches")

    def exactness(self) -> Metric:
        """Is every output equal to its target?"""
        return Metric(lambda outputs, targets: (outputs == targets).flatten(1, -2).all(1), "all")

    def landmarks(self) -> tuple[str, ...]:
        """`teacher` where there is one; `presolve`, a piecewise linear function, where the network can be it."""
        names = []
        for name in ("teacher", "presolve"):
            try:
                self.landmark(name)
            except Unsupported:
                continue
            names.append(name)
        return tuple(names)

    def landmark(self, name: str) -> Stack:
        """`teacher[+SPARE]` or `presolve[+SPARE]`, in float64; what spare units of a wide network do: `split` (the
        default), each a copy of a needed one, which share its outgoing weight evenly, or `zero`.

        `presolve` goes linearly from knot to knot: the corners of abs and hat, the two points beside the jump of
        step, for the others all points. Raises `Unsupported`, with the reason, where there is no such network.
        """
        kind, spare = _landmark_parts(name)
        if kind == "teacher":
            if self.function != "teacher":
                raise Unsupported(f'{self.function} has no teacher: there is one with `function="teacher"`')
            if self.teacher_width > self.width:
                raise Unsupported(
                    f"a teacher of width {self.teacher_width} does not fit a student of width {self.width}: "
                    "raise `width`"
                )
            narrow = self._teacher
        else:
            narrow = self._interpolation()
        embedded = _embedded(narrow, self.width, self.depth, split=spare == "split")
        names = template_of(self.network()).tensors
        return Stack({key: embedded[key][None] for key in names})

    def describe_landmark(self, name: str) -> str:
        """Its name with what spare units do, such as `teacher+split`."""
        return "+".join(_landmark_parts(name))

    def values(self, x: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
        """The function itself, in float64."""
        x = x.double()
        if self.function == "teacher":
            network = mlp(1, self.teacher_width, self.depth, 1, self.activation).double()
            with torch.no_grad():
                found: Tensor = torch.func.functional_call(network, self._teacher, (x[:, None],))
            return found[:, 0]
        if self.function == "sine":
            return torch.sin(2 * torch.pi * x)
        return {"step": x.sign(), "abs": x.abs(), "hat": (1 - 2 * x.abs()).clamp(min=0)}[self.function]

    def _samples(self, x: Float[Tensor, " point"]) -> Samples:
        return Samples(x[:, None], self.values(x)[:, None])

    @functools.cached_property
    def _teacher(self) -> dict[str, Tensor]:
        """Standard normal weights and biases, rounded to multiples of 1/16; the last layer's then scaled by a power of
        two, so that the outputs are about 1.
        """
        network = mlp(1, self.teacher_width, self.depth, 1, self.activation).double()
        template = template_of(network)
        keys = torch.tensor([self.teacher_seed])
        draws = philox.normal(keys, stream=_TEACHER, step=0, count=template.parameters)
        tensors = template.unflatten((draws / _QUANTUM).round() * _QUANTUM).state_dict(0)
        with torch.no_grad():
            x = torch.linspace(-1, 1, 257, dtype=torch.float64)[:, None]
            size = float(torch.func.functional_call(network, tensors, (x,)).square().mean().sqrt())
        factor = 2.0 ** -round(math.log2(size)) if size else 1.0
        return {name: tensor * factor if name.startswith("out.") else tensor for name, tensor in tensors.items()}

    def _interpolation(self) -> dict[str, Tensor]:
        """A narrow network that goes linearly from knot to knot: a unit wherever the slope changes, and layers that
        pass these units on, which ReLU does, since none is negative.
        """
        if self.activation != "relu":
            raise Unsupported(f'presolve is made of corners, which {self.activation} has not: use `activation="relu"`')
        knots = self._knots()
        y = self.values(torch.tensor(knots)).numpy()
        slopes = np.diff(y) / np.diff(knots)
        changes = np.diff(slopes, prepend=0.0)
        corners = np.flatnonzero(changes) if changes.any() else np.array([0])
        if len(corners) > self.width:
            raise Unsupported(
                f"presolve of {self.function} needs a unit at each of {len(corners)} corners, the network has "
                f"{self.width}: raise `width`"
            )
        count = len(corners)
        layers: dict[str, tuple[np.ndarray, np.ndarray]] = {"hidden1": (np.ones((count, 1)), -knots[:-1][corners])}
        for number in range(2, self.depth + 1):
            layers[f"hidden{number}"] = (np.eye(count), np.zeros(count))
        layers["out"] = (changes[corners][None], y[:1])
        return {
            f"{name}.{kind}": torch.from_numpy(array)
            for name, pair in layers.items()
            for kind, array in zip(("weight", "bias"), pair, strict=True)
        }

    def _knots(self) -> Float[np.ndarray, " knot"]:
        if self.function == "abs":
            return np.array([-1.0, 0.0, 1.0])
        if self.function == "hat":
            return np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
        points = np.linspace(-1, 1, self.points)
        if self.function != "step":
            return points
        beside = [points[points < 0][-1:], points[points == 0], points[points > 0][:1]]
        return np.unique(np.concatenate([points[[0, -1]], *beside]))


def _landmark_parts(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(teacher|presolve)(?:\+(split|zero))?", name)
    if match is None:
        raise Unsupported(
            f"functions has no landmark '{name}': write teacher or presolve, with +split or +zero for spare units"
        )
    return match[1], match[2] or "split"


def _embedded(narrow: Mapping[str, Tensor], width: int, depth: int, *, split: bool) -> dict[str, Tensor]:
    """A narrow network as a wide one of the same function: each unit is there once, or in several equal copies, which
    share its outgoing weight.
    """
    units = len(narrow["hidden1.bias"])
    copies = torch.eye(units, dtype=torch.float64)[torch.arange(width) % units]
    if not split:
        copies[units:] = 0
    shares = copies / copies.sum(0)
    wide = {"hidden1.weight": copies @ narrow["hidden1.weight"], "out.bias": narrow["out.bias"]}
    wide["out.weight"] = narrow["out.weight"] @ shares.T
    for number in range(1, depth + 1):
        wide[f"hidden{number}.bias"] = copies @ narrow[f"hidden{number}.bias"]
        if number > 1:
            wide[f"hidden{number}.weight"] = copies @ narrow[f"hidden{number}.weight"] @ shares.T
    return wide
