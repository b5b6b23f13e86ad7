"""What networks of several problems share: activations by name; multilayer perceptrons, their sizes and symmetry."""

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.stack import template_of
from landscape.space.symmetry import Symmetry

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "mlp",
    "mlp_size",
    "mlp_symmetry",
    "require_choice",
    "require_positive",
    "require_shapes",
]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "tanh"]

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def mlp(inputs: int, width: int, depth: int, outputs: int, activation: Activation) -> nn.Sequential:
    """`depth` hidden layers of `width` units each, `hidden1` to `hiddenN`, and a linear one, `out`.

    >>> list(mlp(64, 8, 1, 10, "relu").state_dict())
    ['hidden1.weight', 'hidden1.bias', 'out.weight', 'out.bias']
    """
    layers = OrderedDict[str, nn.Module]()
    for number in range(1, depth + 1):
        layers[f"hidden{number}"] = nn.Linear(inputs if number == 1 else width, width)
        layers[f"activation{number}"] = ACTIVATIONS[activation]()
    layers["out"] = nn.Linear(width, outputs)
    return nn.Sequential(layers)


def mlp_symmetry(width: int, depth: int) -> Symmetry:
    """The units of each hidden layer."""
    names = [*(f"hidden{number}" for number in range(1, depth + 1)), "out"]
    return tuple(
        (width, ((f"{here}.weight", 0), (f"{here}.bias", 0), (f"{following}.weight", 1)))
        for here, following in itertools.pairwise(names)
    )


def mlp_size(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Width and depth of the perceptron that tensors of these names and shapes may make; `require_shapes` makes sure.

    Raises `Mismatch` if there is no `hidden1.weight`.
    """
    first = shapes.get("hidden1.weight", ())
    if len(first) != 2 or not first[0]:
        there = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4])
        raise Mismatch(
            "a checkpoint whose architecture cannot be inferred: expected hidden1.weight [width, inputs], "
            f"hidden2.weight, ... and out.weight, with their biases; found {there}"
        )
    return {"width": first[0], "depth": sum(bool(re.fullmatch(r"hidden\d+\.weight", name)) for name in shapes)}


def require_shapes(shapes: Mapping[str, tuple[int, ...]], network: nn.Module) -> None:
    """Raise `Mismatch`, naming the first that differs, unless these are a network's tensors; buffers may be there."""
    template = template_of(network)
    for name in [*template.shapes, *(name for name in shapes if name not in template.shapes)]:
        expected, found = template.shapes.get(name), shapes.get(name)
        if found != expected and name not in template.buffers:
            raise Mismatch(
                "a checkpoint whose architecture cannot be inferred: expected "
                f"{f'{name} {list(expected)}' if expected is not None else f'no {name}'}; found "
                f"{f'{name} {list(found)}' if found is not None else 'none'}"
            )


def require_choice(field: str, value: str, choices: Any) -> None:
    """Raise `LandscapeError` unless a value is one of a `Literal`'s."""
    if value not in get_args(choices):
        raise LandscapeError(f"unknown {field} '{value}': choose {', '.join(get_args(choices))}")


def require_positive(**values: float) -> None:
    """Raise `LandscapeError` for a field below 1."""
    for field, value in values.items():
        if not value >= 1:
            raise LandscapeError(f"{field} is {value}, it must be at least 1")
