"""Batches of any structure, the same at each pass."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.core.errors import LandscapeError, Unsupported, Unverified

__all__ = ["Reread", "common_length", "joined", "loader_name", "mapped", "moved", "parted", "renewed", "tensors_of"]


def mapped(structure: Any, change: Callable[[Tensor], Any]) -> Any:
    """The structure with `change` applied to each tensor (arrays become tensors): mappings, tuples, lists and
    dataclasses, however nested; what else there is stays as it is.
    """
    if isinstance(structure, Tensor):
        return change(structure)
    if isinstance(structure, np.ndarray) and structure.dtype.kind in "biufc":
        return change(torch.as_tensor(np.ascontiguousarray(structure)))
    if isinstance(structure, Mapping):
        changed = {key: mapped(each, change) for key, each in structure.items()}
        return changed if type(structure) is dict else type(structure)(changed)  # type: ignore[call-arg]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(mapped(each, change) for each in structure))
    if isinstance(structure, tuple | list):
        return type(structure)(mapped(each, change) for each in structure)
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        fields = [field.name for field in dataclasses.fields(structure) if field.init]
        return dataclasses.replace(structure, **{name: mapped(getattr(structure, name), change) for name in fields})
    return structure


def renewed(structure: Any) -> Any:
    """The structure in containers of its own, with the same tensors: what is taken out of it stays in the other."""
    if _flat(structure) is not None:
        return structure.copy() if isinstance(structure, dict | list) else structure
    return mapped(structure, lambda tensor: tensor)


def _flat(structure: Any) -> Iterable[Tensor] | None:
    """The tensors of a plain dict, tuple or list of tensors, as most batches are: a loss of a small network takes less
    time than to look through all kinds of structures.
    """
    kind = type(structure)
    found = structure.values() if kind is dict else structure if kind is tuple or kind is list else ()
    for each in found:
        if type(each) is not Tensor:
            return None
    return found or None


def tensors_of(structure: Any) -> list[Tensor]:
    """All tensors of a structure, in order; of an object that only knows how to move, those among its attributes."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(structure, collect)
    if not found and hasattr(structure, "__dict__"):
        mapped(dict(vars(structure)), collect)
    return found


def moved(structure: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """The structure on a device; tensors that hold real numbers get this type."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)

    known = isinstance(structure, Tensor | np.ndarray | Mapping | tuple | list) or dataclasses.is_dataclass(structure)
    return structure.to(device) if not known and hasattr(structure, "to") else mapped(structure, move)


def common_length(structure: Any) -> int | None:
    """Number of samples of a batch: the length of the first axis, if its tensors agree on it."""
    tensors = _flat(structure) or tensors_of(structure)
    lengths = {tensor.shape[0] for tensor in tensors if tensor.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def joined(structures: Sequence[Any]) -> Any:
    """Batches of one structure as one, along the first axis of each tensor."""
    columns = iter([torch.cat(each) for each in zip(*map(tensors_of, structures), strict=True)])
    return mapped(structures[0], lambda _: next(columns))


def parted(structure: Any, size: int) -> Iterator[Any]:
    """The structure in parts of so many samples, along the first axis of each tensor that has one."""
    length = common_length(structure)
    if length is None:
        raise Unsupported("the tensors of the data differ in their number of samples, which cannot be parted")

    def part(tensor: Tensor, start: int) -> Tensor:
        return tensor[start : start + size] if tensor.ndim else tensor

    for start in range(0, length, size):
        yield mapped(structure, functools.partial(part, start=start))


class Reread:
    """What a loader gives, at each pass compared with the first: all points must see the same data.

    Raises `LandscapeError` for a loader without batches, `Unsupported` for what can be read only once, `Unverified` for
    a pass that gives other data.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if isinstance(loader, Iterator):
            raise Unsupported(f"{loader_name(loader)} can be read only once: give what makes it, such as a DataLoader")
        self.loader = loader
        #: Checksums of the batches read so far; are they all?
        self._seen, self._complete = list[int](), False

    def __iter__(self) -> Iterator[Any]:
        number = -1
        for number, batch in enumerate(self.loader):
            self._compare(number, _checksum(tensors_of(batch)))
            yield batch
        if number < 0:
            raise LandscapeError(
                f"{loader_name(self.loader)} gives no batches: its dataset is empty, or was read already"
            )
        if number + 1 < len(self._seen):
            raise Unverified(
                f"{loader_name(self.loader)} gives other data at each pass: {number + 1} batches after "
                f"{len(self._seen)}"
            )
        self._complete = True

    def _compare(self, number: int, checksum: int) -> None:
        if number == len(self._seen) and not self._complete:
            self._seen.append(checksum)
        if number < len(self._seen) and self._seen[number] == checksum:
            return
        shuffles = isinstance(getattr(self.loader, "sampler", None), torch.utils.data.RandomSampler)
        remedy = "give DataLoader(..., shuffle=False)" if shuffles else "look for random augmentation, or shuffling"
        raise Unverified(
            f"{loader_name(self.loader)} gives other data at each pass (batch {number}), but all points must see the "
            f"same: {remedy}"
        )


def loader_name(loader: object) -> str:
    """A loader as messages name it."""
    dataset = getattr(loader, "dataset", None)
    return f"the {type(loader).__name__}" + (f" over {type(dataset).__name__}" if dataset is not None else "")


def _checksum(tensors: Iterable[Tensor]) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(repr(tuple(tensor.shape)).encode(), value)
        value = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, value)
    return value
