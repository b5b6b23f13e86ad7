"""Stacks: the parameters of many networks of one architecture, and their algebra."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from landscape.core.errors import Mismatch, few
from landscape.core.files import digest
from landscape.engine.live import Point

__all__ = [
    "Stack",
    "aliases",
    "concatenate",
    "fingerprint",
    "finite",
    "in_order",
    "names_fit",
    "require_same_shapes",
    "stack_state_dicts",
    "template_of",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Parameters of many networks: named tensors, each with a leading `member` axis.

    `buffers`, such as the statistics of BatchNorm, go along with the members, but they are no coordinates of the
    landscape: neither flattened nor measured. Raises `Mismatch` if the tensors do not all have the same number of
    members.

    >>> Stack({"weight": torch.zeros(3, 2, 5), "bias": torch.zeros(3, 2)}).parameters
    12
    """

    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise Mismatch("a stack needs at least one tensor")
        every = {**self.tensors, **self.buffers}
        members = {name: tensor.shape[0] if tensor.ndim else None for name, tensor in every.items()}
        if len(set(members.values())) > 1 or None in members.values():
            raise Mismatch(f"the tensors of a stack differ in their number of members: {members}")

    def __len__(self) -> int:
        return int(next(iter(self.tensors.values())).shape[0])

    def __repr__(self) -> str:
        return f"Stack({len(self)} x {self.parameters} parameters, {self.dtype}, {self.device})"

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of one member."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Stack":
        """The stack with `change` applied to every tensor, buffers included."""
        return Stack(
            *({name: change(tensor) for name, tensor in part.items()} for part in (self.tensors, self.buffers))
        )

    def moving(self, names: Collection[str]) -> "Stack":
        """The stack with these parameters alone as coordinates; the others are among the buffers."""
        still = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        return Stack({name: self.tensors[name] for name in self.tensors if name in names}, {**still, **self.buffers})

    def rename(self, change: Callable[[str], str]) -> "Stack":
        """The stack with its tensors, buffers included, under other names."""
        return Stack(
            *({change(name): tensor for name, tensor in part.items()} for part in (self.tensors, self.buffers))
        )

    @property
    def parameters(self) -> int:
        """Number of parameters of one member."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter(self.tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the tensors."""
        return next(iter(self.tensors.values())).dtype

    def select(self, index: Int[Tensor, " index"] | slice | Sequence[int]) -> "Stack":
        """The members at `index`, in its order."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        return self.map(lambda tensor: tensor[index])

    def to(self, *args: Any, **kwargs: Any) -> "Stack":
        """Each tensor's `to`: another device or element type; whole numbers stay whole, complex ones complex."""

        def move(tensor: Tensor) -> Tensor:
            if tensor.is_complex():
                return torch.view_as_complex(torch.view_as_real(tensor.resolve_conj()).to(*args, **kwargs))
            moved = tensor.to(*args, **kwargs)
            return moved if tensor.is_floating_point() else moved.to(tensor.dtype)

        return self.map(move)

    def state_dict(self, member: int) -> dict[str, Tensor]:
        """State dict of one member, its buffers last; a negative number counts from the end."""
        return {name: tensor[member] for name, tensor in {**self.tensors, **self.buffers}.items()}

    def mixtures(self) -> Iterator[Point]:
        """Each member as a point."""
        return (Point((1.0,), (self.state_dict(member),)) for member in range(len(self)))

    def chunks(self, size: int) -> Iterator["Stack"]:
        """Stacks of exactly `size` members; the last is filled up with its own last member.

        Equal sizes keep every member's arithmetic the same wherever it stands.
        """
        for start in range(0, len(self), size):
            index = torch.arange(start, start + size, device=self.device).clamp_(max=len(self) - 1)
            yield self.select(slice(start, start + size)) if start + size <= len(self) else self.select(index)

    def flatten(self) -> Float[Tensor, "member parameter"]:
        """One row a member, the tensors in their order."""
        return torch.cat([tensor.reshape(len(self), -1) for tensor in self.tensors.values()], dim=1)

    def unflatten(self, flat: Float[Tensor, "others parameter"]) -> "Stack":
        """Rows laid out as `flatten` lays them out, as a stack without buffers (views of `flat`)."""
        tensors, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            tensors[name] = flat[:, start : start + size].view(len(flat), *shape)
            start += size
        return Stack(tensors)

    def norms(self) -> tuple[Float[Tensor, " member"], Float[Tensor, " member"]]:
        """L1 and L2 norm of each member, summed in float64."""
        flat = self.flatten().double()
        return flat.abs().sum(1), flat.square().sum(1).sqrt()

    def subtract(self, other: "Stack") -> "Stack":
        """Member by member difference, in float64; a stack of one member goes with any."""
        require_same_shapes(self, other)
        return Stack({name: tensor.double() - other[name].double() for name, tensor in self.tensors.items()})


def finite(tensor: Shaped[Tensor, "member *shape"]) -> Bool[Tensor, " member"]:
    """Which members hold finite numbers alone: those of finite sums, in a tenth of the time of looking at each number;
    sums that are not may have overflowed.
    """
    flat = tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))
    sums = flat.sum(1).isfinite()
    return sums if bool(sums.all()) else flat.isfinite().all(1)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    raw = {}
    for name, tensor in tensors.items():
        # Only dense memory can be looked at as bytes, and NumPy does not know every type.
        dense = tensor.detach().cpu().resolve_conj().resolve_neg().flatten()
        if dense.stride() != (1,):
            dense = torch.empty(dense.shape, dtype=dense.dtype).copy_(dense)
        raw[f"{name} {tensor.dtype} {list(tensor.shape)}"] = dense.view(torch.uint8).numpy()
    return digest(raw)


def require_same_shapes(a: Stack, b: Stack, *, names: tuple[str, str] = ("one", "the other")) -> None:
    """Raise `Mismatch`, listing what differs, unless two stacks hold the same architecture."""
    if a.shapes == b.shapes:
        return
    words = (f"only in {names[0]}", f"only in {names[1]}", "other shape: ", "{} {} against {}")
    raise Mismatch(f"{names[0]} and {names[1]} are of different architectures: {_differences(a, b, *words)}")


def _differences(a: Stack, b: Stack, only_one: str, only_other: str, other_shape: str, shape: str) -> str:
    """Names only in one stack, names only in the other, and names with both shapes where these differ, in words; empty
    if nothing differs.
    """
    one, other = a.shapes, b.shapes
    alone = {
        only_one: [name for name in one if name not in other],
        only_other: [name for name in other if name not in one],
    }
    both = [(name, list(one[name]), list(other[name])) for name in one if name in other and one[name] != other[name]]
    parts = [f"{word}: {few(names)}" for word, names in alone.items() if names]
    return "; ".join([*parts, other_shape + few([shape.format(*each) for each in both])] if both else parts)


def template_of(module: nn.Module) -> Stack:
    """A module's own parameters and buffers as a stack of one member; what is tied is there once."""
    parameters = dict(module.named_parameters())
    once = parameters.keys() | aliases(module)
    buffers = {name: tensor for name, tensor in module.state_dict().items() if name not in once}
    return Stack(*({name: tensor.detach()[None] for name, tensor in each.items()} for each in (parameters, buffers)))


def aliases(module: nn.Module) -> dict[str, str]:
    """Names in the state dict that stand for a parameter of another name, which they lead to: tied parameters."""
    first = {id(tensor): name for name, tensor in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name}


def in_order(
    stack: Stack, template: Stack, *, name: str = "the stack", aliases: Mapping[str, str] | None = None
) -> Stack:
    """The stack with its tensors in the template's order, told apart from buffers; `aliases` are dropped.

    Raises `Mismatch` if they are not of one architecture, or if tied tensors differ.
    """
    there = {**stack.tensors, **stack.buffers}
    for alias, first in (aliases or {}).items():
        if alias in there:
            tied = there.pop(alias)
            if not _identical(there.setdefault(first, tied), tied):
                raise Mismatch(f"{name}: {alias} and {first} differ, but the problem's network ties them to be one")
    for counter in template.buffers.keys() - there.keys():
        if counter.endswith("num_batches_tracked"):  # which older checkpoints lack, and evaluation never reads
            there[counter] = template.buffers[counter].expand(len(stack)).clone()
    ours = {**template.tensors, **template.buffers}
    if there.keys() == ours.keys():
        there = {name: there[name] for name in ours}
    _require_fits(Stack(there), Stack(ours), name)
    real = [n for n in ours if ours[n].is_floating_point()]
    odd = {
        "whole": [
            n for n in real if n in template.tensors and not (there[n].is_floating_point() or there[n].is_complex())
        ],
        "complex": [n for n in real if there[n].is_complex()],
    }
    for kind, names in odd.items():
        if names:
            raise Mismatch(f"{name}: {few(names)} hold {kind} numbers, the network's are real: convert them first")
    return Stack(*({name: there[name] for name in part} for part in (template.tensors, template.buffers)))


def _identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is as NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _require_fits(stack: Stack, network: Stack, name: str) -> None:
    """Raise `Mismatch`, in the words of PyTorch's `load_state_dict`, unless the stack has the network's tensors."""
    words = ("missing", "unexpected", "", "{0} has shape {2} where the network has {1}")
    if different := _differences(network, stack, *words):
        raise Mismatch(f"{name} and the problem's network are of different architectures: {different}")


def names_fit(names: Collection[str], template: Stack, aliases: Mapping[str, str]) -> bool:
    """Whether tensors of these names are those of a template, as far as `in_order` asks for them."""
    there = {aliases.get(name, name) for name in names}
    wanted = template.tensors.keys() | template.buffers.keys()
    return there <= wanted and all(name.endswith("num_batches_tracked") for name in wanted - there)


def stack_state_dicts(state_dicts: Iterable[Mapping[str, Tensor]]) -> Stack:
    """A stack with one member for each state dict, in their order; names in the order of the first."""
    dicts = list(state_dicts)
    if not dicts:
        raise Mismatch("a stack needs at least one state dict")
    singles = [Stack({name: dicts[0][name][None] for name in dicts[0]})]
    for number, other in enumerate(dicts[1:], start=1):
        names = dicts[0] if other.keys() == dicts[0].keys() else other
        single = Stack({name: other[name][None] for name in names})
        require_same_shapes(singles[0], single, names=("member 0", f"member {number}"))
        singles.append(single)
    return concatenate(singles)


def concatenate(stacks: Sequence[Stack]) -> Stack:
    """The members of several stacks of one architecture, one after another; a single stack as it is."""
    if len(stacks) == 1:
        return stacks[0]
    for other in stacks[1:]:
        require_same_shapes(stacks[0], other)
    return Stack(
        {name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0].tensors},
        {name: torch.cat([stack.buffers[name] for stack in stacks]) for name in stacks[0].buffers},
    )
