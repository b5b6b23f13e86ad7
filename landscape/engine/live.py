"""One live network: points of parameter space written into a module's own tensors, in place."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from landscape.core.errors import Unsupported

__all__ = ["Live", "Mixtures", "Point", "copied", "duplicate", "is_spread", "mix_into", "naming_sparse"]


#: Hooks that compute a weight before each forward.
_RECOMPUTING = (BasePruningMethod, SpectralNorm, WeightNorm)

#: Bytes of a network up to which its tensors are written together.
_TOGETHER_BYTES = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A point of parameter space as a weighted sum of few networks.

    Args:
        weights: How much of each, in the order in which they are summed.
        networks: Their tensors by name; directions, which may lack some, can stand behind the first.
        held: Where the tensors that do not move have their values.
        moving: Names of the tensors that move; None: all.
        affine: Whether weights sum to 1; else networks after the first are directions.
        arcs: In place of `weights`, those of tensors that go a way of their own; they need not sum to 1.
    """

    weights: tuple[float, ...]
    networks: tuple[Mapping[str, Tensor], ...]
    held: Mapping[str, Tensor] | None = None
    moving: Container[str] | None = None
    affine: bool = True
    arcs: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def terms(self, name: str) -> list[tuple[float, Tensor]]:
        """Weights and values of one tensor; where all weight is on one network, that one alone."""
        if self.moving is not None and name not in self.moving:
            assert self.held is not None
            return [(1.0, self.held[name])]
        pairs = zip(self.arcs.get(name, self.weights), self.networks, strict=True)
        found = [(weight, network[name]) for weight, network in pairs if name in network]
        alone = [term for term in found if term[0]]
        return alone if len(alone) == 1 and alone[0][0] == 1 else found


@runtime_checkable
class Mixtures(Protocol):
    """Members that can be told as weighted sums, one after another."""

    def __len__(self) -> int: ...

    def mixtures(self) -> Iterator[Point]:
        """Each member in turn."""


def mix_into(out: Tensor, terms: Sequence[tuple[float, Tensor]], *, same: Tensor | None = None) -> None:
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


def is_spread(module: nn.Module) -> bool:
    """Whether parameters lie on several devices."""
    return len({tensor.device for tensor in module.parameters()}) > 1


def duplicate(module: nn.Module) -> nn.Module:
    """A deep copy of a module, also of one with weights that old `weight_norm`, old `spectral_norm` or `prune` compute
    anew before each forward, which PyTorch does not copy. Embeddings give their gradients dense, which are the same
    numbers: sparse ones have no second derivatives. Raises `Unsupported` for what cannot be copied.
    """
    left_out = {id(layer.__dict__[name]): torch.empty(0) for layer, _, name in _recomputed(module)}
    try:
        made: nn.Module = copy.deepcopy(module, left_out)
    except Exception as error:  # whatever a module holds
        raise Unsupported(
            f"{type(module).__name__} cannot be copied, and points are written into copies: give the function that "
            f"makes it instead ({(str(error).splitlines() or ['no message'])[0][:160]})"
        ) from error
    for layer in made.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False
    with torch.no_grad():
        for layer, hook, _ in _recomputed(made):
            training = layer.training
            layer.training = False  # then a spectral norm takes no step
            hook(layer, ())
            layer.training = training
    return made


@contextlib.contextmanager
def naming_sparse() -> Iterator[None]:
    """Raises `Unsupported` for gradients that a function makes sparse; copies of layers make dense ones."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if "sparse" not in str(error).lower():
            raise
        raise Unsupported(
            "the network's forward makes its gradients sparse, which have no derivatives: write `sparse=False` in its "
            "call of F.embedding"
        ) from error


def _recomputed(module: nn.Module) -> list[tuple[nn.Module, Any, str]]:
    """Layers with the hooks that compute a tensor of theirs before each forward, and its name."""
    return [
        (layer, hook, name)
        for layer in module.modules()
        for hook in layer._forward_pre_hooks.values()
        if isinstance(hook, _RECOMPUTING)
        and (name := str(getattr(hook, "_tensor_name" if isinstance(hook, BasePruningMethod) else "name")))
        and isinstance(layer.__dict__.get(name), Tensor)
    ]


def copied(
    module: nn.Module, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A copy of a module elsewhere, in another type; complex numbers stay complex, unlike in `Module.to`. What lies on
    several devices stays where it is: its forward knows the way between them.
    """
    if is_spread(module):
        device = None

    def move(tensor: Tensor) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else None
        if dtype is not None and tensor.is_complex():
            wanted = dtype.to_complex()
        return tensor.to(device, wanted)

    moved: nn.Module = duplicate(module)._apply(move)  # type: ignore[no-untyped-call]
    return moved


class Live:
    """A copy of a module whose parameters and buffers are written over, point by point; the module is never changed.

    What two points share is written once. Buffers that are not in the state dict are put back too.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        evaluation: bool = True,
    ) -> None:
        self.module = copied(module, device=device, dtype=dtype).requires_grad_(False)
        if evaluation:
            self.module.eval()
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
        self._together: tuple[Collection[str], list[Tensor], list[list[Tensor]]] | None = None

    @torch.no_grad()
    def write(self, point: Point) -> None:
        """Make the module the network at a point."""
        if not (len(point.networks) == len(self._written) and all(map(_is, point.networks, self._written))):
            self._written, self._same, self._together = point.networks, {}, None
        for layer, key, buffer in self._kept:
            layer._buffers[key] = buffer
        quick = self._write_together(point)
        for name, tensor in self.tensors.items():
            if name in self._unstated:
                tensor.copy_(self._unstated[name])
                continue
            if name in quick:
                continue
            terms = point.terms(name)
            same = self._agree(name, point) if len(terms) > 1 else None
            if same is True:
                terms, same = [(1.0, terms[0][1])], None
            mix_into(tensor, terms, same=same if isinstance(same, Tensor) else None)

    def _write_together(self, point: Point) -> Collection[str]:
        """Write the tensors of a small network that are plain sums, all at once, and give their names: a call for each
        would take longer than its arithmetic. Products and sums are those of `mix_into`.
        """
        if point.moving is not None or sum(map(bool, point.weights)) < 2:
            return ()
        if self._together is None:
            self._together = self._plain_sums(point)
        names, targets, columns = self._together
        if names:
            torch._foreach_copy_(targets, columns[0])
            torch._foreach_mul_(targets, point.weights[0])
            for weight, column in zip(point.weights[1:], columns[1:], strict=True):
                torch._foreach_add_(targets, torch._foreach_mul(column, weight))
        return names

    def _plain_sums(self, point: Point) -> tuple[Collection[str], list[Tensor], list[list[Tensor]]]:
        """Names of tensors that all networks hold in the live one's type, and that agree nowhere, with the tensors."""
        if sum(tensor.nbytes for tensor in self.tensors.values()) > _TOGETHER_BYTES:
            return (), [], []

        def plain(name: str, tensor: Tensor) -> bool:
            same = all(
                name in network and (network[name].dtype, network[name].device) == (tensor.dtype, tensor.device)
                for network in point.networks
            )
            return (
                same
                and tensor.is_floating_point()
                and name not in self._unstated
                and name not in point.arcs
                and self._agree(name, point) is False
            )

        chosen = {name: tensor for name, tensor in self.tensors.items() if plain(name, tensor)}
        return chosen.keys(), list(chosen.values()), [[network[name] for name in chosen] for network in point.networks]

    def _agree(self, name: str, point: Point) -> Tensor | bool:
        """Whether a tensor is the same in all networks of an affine point, or where it is (False: nowhere)."""
        if name not in self._same:
            first, *others = (network[name] for network in point.networks if name in network)
            self._same[name] = False
            if point.affine and (first.is_floating_point() or first.is_complex()):
                agree = functools.reduce(torch.logical_and, (each == first for each in others))
                if bool(agree.all()):
                    self._same[name] = True
                elif name not in point.arcs and bool((agree & (first != 0)).any()):
                    self._same[name] = agree
        return self._same[name]

    def mixes(self, name: str, point: Point) -> bool:
        """Whether a tensor is at a point what none of the networks there has."""
        return len(point.terms(name)) > 1 and self._agree(name, point) is not True

    def buffers(self) -> dict[str, Tensor]:
        """A copy of what its buffers hold now, by name."""
        return {name: tensor.clone() for name, tensor in self.module.named_buffers()}

    def state(self) -> dict[str, Tensor]:
        """A copy of what is written now, by name."""
        return {name: tensor.clone() for name, tensor in self.tensors.items() if name not in self._unstated}


def _is(one: object, other: object) -> bool:
    return one is other
