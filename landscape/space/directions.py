"""Random directions in parameter space, at the scale of the network that they start from."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.stack import Stack

__all__ = ["Normalise", "random_directions"]

#: How long a random direction is: as long as the weights filter by filter, tensor by tensor, or as it was drawn.
Normalise = Literal["filter", "layer", "none"]

_STREAM = 0x44495245  # "DIRE": apart from the streams of other uses of a seed


def random_directions(
    stack: Stack, seeds: Sequence[int], *, normalise: Normalise = "filter", still: Collection[str] = ()
) -> Stack:
    """One Gaussian direction for each seed at the single member of `stack`, in its element type, at least float32, and
    without buffers.

    `filter` scales each filter of a direction, an entry along dimension 0 of a tensor of two or more (a row of a
    linear layer), to the norm of the same filter of the network: H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein,
    *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018, section 4. `layer` scales each such tensor to the
    norm of the network's. Both leave out biases and the parameters of BatchNorm, tensors of one dimension at most, as
    the paper's code does with its option `biasbn`: their directions are zero. `none` is standard normal in every
    parameter. What is zero in the network, as a whole filter or tensor, has the direction zero, and so have those that
    are to be `still`.

    The numbers are a pure function of seed, tensor and place in it. Raises `Mismatch` unless there is one member,
    `LandscapeError` without a seed, `Unsupported` for another `normalise`.

    >>> stack = Stack({"weight": torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), "bias": torch.ones(1, 2)})
    >>> direction = random_directions(stack, [0])
    >>> direction["weight"].norm(dim=-1).tolist(), direction["bias"].tolist()
    ([[5.0, 0.0]], [[0.0, 0.0]])
    """
    if len(stack) != 1:
        raise Mismatch(f"random directions belong to one network, and here are {len(stack)}: choose one with RUN/#seed")
    if not len(seeds):
        raise LandscapeError("random directions need at least one seed")
    if normalise not in get_args(Normalise):
        raise Unsupported(f"directions are not normalised by '{normalise}': choose {', '.join(get_args(Normalise))}")
    keys = torch.tensor(list(seeds), dtype=torch.int64, device=stack.device)
    directions = {}
    for number, (name, weights) in enumerate(stack.tensors.items()):
        shape, kind = (len(keys), *weights.shape[1:]), torch.promote_types(weights.dtype, torch.float32)
        if name in still or (normalise != "none" and weights.ndim <= 2):
            directions[name] = weights.new_zeros(shape, dtype=kind)
            continue
        # A step for each tensor: no more is drawn at once, and a tensor's numbers do not depend on the others' sizes.
        drawn = philox.normal(keys, stream=_STREAM, step=number, count=math.prod(weights.shape[1:])).view(shape)
        if normalise != "none":
            drawn = _scaled(drawn, weights.double(), leading=2 if normalise == "filter" else 1)
        directions[name] = drawn.to(kind)
    return Stack(directions)


def _scaled(drawn: Tensor, weights: Tensor, *, leading: int) -> Tensor:
    """The drawn numbers with the norm of the weights over all axes but the `leading` ones; never NaN for zeros."""
    axes = tuple(range(leading, weights.ndim))
    length, wanted = (torch.linalg.vector_norm(each, dim=axes, keepdim=True) for each in (drawn, weights))
    return drawn * torch.where(length > 0, wanted / length, 0)
