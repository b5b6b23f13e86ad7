"""One live network: points of parameter space written into a module's own tensors, in place."""

import copy
import dataclasses
import functools
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Live", "Mixtures", "Point", "mix_into"]


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A point of parameter space as a weighted sum of few networks.

    Args:
        weights: How much of each, in the order in which they are summed.
        networks: Their tensors by name; directions, which may lack some, can stand behind the first.
        held: Where the tensors that do not move have their values.
        moving: Names of the tensors that move; None: all.
        affine: Whether weights sum to 1; else networks after the first are directions.
    """

    weights: tuple[float, ...]
    networks: tuple[Mapping[str, Tensor], ...]
    held: Mapping[str, Tensor] | None = None
    moving: Container[str] | None = None
    affine: bool = True

    def terms(self, name: str) -> list[tuple[float, Tensor]]:
        """Weights and values of one tensor; where all weight is on one network, that one alone."""
        if self.moving is not None and name not in self.moving:
            assert self.held is not None
            return [(1.0, self.held[name])]
        pairs = zip(self.weights, self.networks, strict=True)
        found = [(weight, network[name]) for weight, network in pairs if name in network]
        alone = [term for term in found if term[0]]
        return alone if len(alone) == 1 and alone[0][0] == 1 else found


@runtime_checkable
class Mixtures(Protocol):
    """Members that can be told as weighted sums, one after another."""

    def __len__(self) -> int: ...

    def mixtures(self) -> Iterator[Point]:
        """Each member in turn."""


def mix_into(
    out: Tensor, terms: Sequence[tuple[float, Tensor]], *, affine: bool = True, same: Tensor | None = None
) -> None:
    """Write a weighted sum over a tensor: `sum of weight_k tensor_k` from left to right, rounded once an operation.

    Whole numbers are those of the heaviest term. Where all tensors agree (`same`), so does the sum: the product would
    round.
    """
    (weight, first), *others = terms
    if not others and weight == 1:
        out.copy_(first)
        return
    if not (out.is_floating_point() or out.is_complex()):
        out.copy_(max(reversed(terms), key=lambda term: term[0])[1])  # of equally heavy ones the last
        return
    widest = functools.reduce(torch.promote_types, [tensor.dtype for _, tensor in terms])
    total = out if widest == out.dtype and first.device == out.device else torch.empty_like(out, dtype=widest)
    torch.mul(first.to(total.device, widest), weight, out=total)
    for share, tensor in others:
        total.add_(tensor.to(total.device, widest) * share)
    if same is not None:
        torch.where(same, first.to(total.device, widest), total, out=total)
    if total is not out:
        out.copy_(total)


class Live:
    """A copy of a module whose parameters and buffers are written over, point by point; the module is never changed.

    What two points share is written once. Buffers that are not in the state dict are put back too.
    """

    def __init__(
        self, module: nn.Module, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ):
        self.module = copy.deepcopy(module).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        #: Where buffers are kept, since a forward may put others in their place.
        self._kept = [
            (layer, key, buffer)
            for layer in self.module.modules()
            for key, buffer in layer._buffers.items()
            if buffer is not None
        ]
        stated = self.module.state_dict(keep_vars=True).keys()
        self._unstated = {name: tensor.clone() for name, tensor in self.module.named_buffers() if name not in stated}
        self._written: tuple[Mapping[str, Tensor], ...] = ()
        self._same: dict[str, Tensor | bool] = {}

    @torch.no_grad()
    def write(self, point: Point) -> None:
        """Make the module the network at a point."""
        if not (len(point.networks) == len(self._written) and all(map(_is, point.networks, self._written))):
            self._written, self._same = point.networks, {}
        for layer, key, buffer in self._kept:
            layer._buffers[key] = buffer
        for name, tensor in self.tensors.items():
            if name in self._unstated:
                tensor.copy_(self._unstated[name])
                continue
            terms = point.terms(name)
            same = self._agree(name, point) if len(terms) > 1 else None
            if same is True:
                terms, same = [(1.0, terms[0][1])], None
            mix_into(tensor, terms, same=same if isinstance(same, Tensor) else None)

    def _agree(self, name: str, point: Point) -> Tensor | bool:
        """Whether a tensor is the same in all networks of an affine point, or where it is (False: nowhere)."""
        if name not in self._same:
            first, *others = (network[name] for network in point.networks if name in network)
            self._same[name] = False
            if point.affine and (first.is_floating_point() or first.is_complex()):
                agree = functools.reduce(torch.logical_and, (each == first for each in others))
                if bool(agree.all()):
                    self._same[name] = True
                elif bool((agree & (first != 0)).any()):
                    self._same[name] = agree
        return self._same[name]

    def state(self) -> dict[str, Tensor]:
        """A copy of what is written now, by name."""
        return {name: tensor.clone() for name, tensor in self.tensors.items() if name not in self._unstated}


def _is(one: object, other: object) -> bool:
    return one is other
