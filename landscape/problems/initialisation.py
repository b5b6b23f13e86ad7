"""Initial parameters of many networks, each a pure function of its own seed."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from landscape.core import philox
from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.stack import Stack, template_of

__all__ = ["Scheme", "initialise"]

Scheme = Literal["default", "normal", "normal_uniform"]

_STREAM = 0


def initialise(
    network: nn.Module,
    seeds: Sequence[int],
    *,
    scheme: Scheme = "default",
    std: float = 0.1,
    scale: float = 1.0,
) -> Stack:
    """A stack with one freshly initialised network for each seed, float32 on the CPU.

    `default` draws as PyTorch's Conv and Linear layers do: weights and biases uniform within 1 / sqrt(fan-in) (the
    distribution is PyTorch's, the numbers are not: they come from Philox, so that a seed gives the same network in any
    company). `normal` draws all from N(0, std^2); `normal_uniform` only the weights, and biases
    uniform within 1 (with std 0.02 what the study's code calls `--normalize`). All is then multiplied by `scale`.

    Raises `Unsupported` for `default` if a parameter belongs to no Conv or Linear layer.
    """
    if not std > 0 or not scale > 0:
        raise LandscapeError(f"initialisation needs a positive std and scale, got {std} and {scale}")
    template = template_of(network)
    keys = torch.tensor(list(seeds), dtype=torch.int64)
    if scheme == "normal":
        flat = philox.normal(keys, stream=_STREAM, step=0, count=template.parameters) * std
    else:
        ones = scheme == "normal_uniform"
        limits = [1.0] * len(template.tensors) if ones else _bounds(network)
        bounds = torch.cat(
            [torch.full((math.prod(s),), b) for s, b in zip(template.shapes.values(), limits, strict=True)]
        )
        u = philox.uniform(keys, stream=_STREAM, step=0, count=template.parameters)
        flat = (2 * u - 1) * bounds
    if scheme == "normal_uniform":
        # Numbers of another step than the biases, which would be made of the same words.
        gaussian = philox.normal(keys, stream=_STREAM, step=1, count=template.parameters) * std
        weights = [torch.full((math.prod(s),), len(s) > 1) for s in template.shapes.values()]
        flat = torch.where(torch.cat(weights), gaussian, flat.double())
    buffers = {name: buffer.repeat(len(keys), *[1] * (buffer.ndim - 1)) for name, buffer in template.buffers.items()}
    return dataclasses.replace(template.unflatten((flat * scale).float()), buffers=buffers)


def _bounds(network: nn.Module) -> list[float]:
    """1 / sqrt(fan-in) of the layer that each tensor belongs to."""
    bounds: dict[str, float] = {}
    for prefix, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            fan_in = math.prod(layer.weight.shape[1:])
            bounds |= {
                f"{prefix}.{name}".lstrip("."): fan_in**-0.5 for name, _ in layer.named_parameters(recurse=False)
            }
    names = [name for name, _ in network.named_parameters()]
    for name in names:
        if name not in bounds:
            raise Unsupported(
                f"PyTorch's default initialisation is known for Conv and Linear layers, not for {name}: use normal"
            )
    return [bounds[name] for name in names]
