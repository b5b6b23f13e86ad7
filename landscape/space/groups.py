"""Parts of a network by the names of its tensors: what a pattern matches, layer by layer, module by module."""

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from landscape.core.errors import Mismatch
from landscape.engine.stack import Stack

__all__ = ["Per", "frozen", "learning", "matching", "split"]

#: The parts of a network: modules that have parameters of their own, or those at the top.
Per = Literal["layer", "module"]

_log = logging.getLogger("landscape")

#: As many names are listed in an error.
_LISTED = 24


def matching(stack: Stack, patterns: Sequence[str], *, aliases: Mapping[str, str] | None = None) -> frozenset[str]:
    """Names of the parameters that one of the glob patterns matches, and of the buffers of their modules.

    Patterns are those of `fnmatch`, over whole names in the state dict; where tensors are tied, `aliases` leads from
    further names to the one. Raises `Mismatch`, listing what there is, for a pattern that matches no parameter.
    """
    known = {**{name: name for name in stack.tensors}, **(aliases or {})}
    found: set[str] = set()
    for pattern in patterns:
        names = fnmatch.filter(known, pattern)
        if not names:
            more = f", and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            there = ", ".join(list(known)[:_LISTED]) + more
            raise Mismatch(f"'{pattern}' matches no parameter: there are {there}")
        found |= {known[name] for name in names} | set(fnmatch.filter(stack.buffers, pattern))
    return _with_buffers(stack, found)


def learning(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that learn (`requires_grad`); all if none does."""
    every = dict(module.named_parameters())
    return frozenset(name for name, each in every.items() if each.requires_grad) or frozenset(every)


def frozen(module: nn.Module, *, taken: bool = False) -> frozenset[str]:
    """Names of the parameters that do not learn; none if they are `taken` all the same. What there is, is said."""
    tensors = dict(module.named_parameters())
    still = {name: tensors[name] for name in tensors.keys() - learning(module)}
    if taken or not still:
        return frozenset()
    count, total = (sum(each.numel() for each in part.values()) for part in (still, tensors))
    _log.warning(
        "%d of %d parameters are frozen (requires_grad=False) and stay: `all_parameters` takes them too", count, total
    )
    return frozenset(still)


def split(stack: Stack, per: Per) -> dict[str, frozenset[str]]:
    """Names of parameters, and of the buffers of their modules, of each part of a network, in its order.

    A `layer` is a module that has parameters itself, its children not counted. A `module` is a child of the network
    with all that is below; where there is but one, its children are taken in its place.

    >>> import torch
    >>> stack = Stack({name: torch.zeros(1, 1) for name in ("net.0.weight", "net.0.bias", "net.1.a.weight")})
    >>> list(split(stack, "layer")), list(split(stack, "module"))
    (['net.0', 'net.1.a'], ['net.0', 'net.1'])
    """
    depth = _depth(stack)
    parts: dict[str, set[str]] = {}
    for name in stack.tensors:
        part = _owner(name) if per == "layer" else _above(name, depth)
        # A parameter of the network itself is a part of its own.
        parts.setdefault(part or name, set()).add(name)
    for buffer in stack.buffers if per == "module" else ():
        if (part := _above(buffer, depth)) in parts:
            parts[part].add(buffer)
    return {part: _with_buffers(stack, names) for part, names in parts.items()}


def _with_buffers(stack: Stack, names: set[str]) -> frozenset[str]:
    owners = {_owner(name) for name in names}
    return frozenset(names | {buffer for buffer in stack.buffers if _owner(buffer) in owners})


def _depth(stack: Stack) -> int:
    """How deep the topmost modules lie of which there are several."""
    deepest = max(name.count(".") for name in stack.tensors)
    several = (depth for depth in range(1, deepest) if len({_above(name, depth) for name in stack.tensors}) > 1)
    return next(several, max(deepest, 1))


def _owner(name: str) -> str:
    """Name of the module that a tensor belongs to; empty for the network itself."""
    return name.rpartition(".")[0]


def _above(name: str, depth: int) -> str:
    """Name of the module at some depth that a tensor belongs to, or of its own module if that lies above."""
    return ".".join(name.split(".")[:-1][:depth])
