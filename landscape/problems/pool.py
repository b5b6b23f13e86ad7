"""Training data by number: which samples, or which of the user's own batches, make the batch of a step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.core.errors import Unsupported
from landscape.engine.batches import loader_name, mapped
from landscape.problems.batched import Held
from landscape.problems.supervised import Samples

__all__ = ["Pool", "numbered"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """So many samples, and what gives the batch of those at an index; of `own_batches` one at a time is taken."""

    count: int
    take: Callable[[Tensor], Any]
    own_batches: bool = False

    @classmethod
    def of(cls, source: Any, whole: Any = None) -> "Pool":
        """Of samples in memory, of which there may be a `whole`; of a list of batches, or of a loader's dataset.

        Raises `Unsupported` for what has no numbers.
        """
        if isinstance(source, Samples):
            whole = (source.inputs, source.targets, source.weights)
        elif isinstance(source, Held):
            whole = source.whole
            source = source.batches
        if whole is not None and (count := numbered(whole)):
            return cls(count, lambda index: mapped(whole, lambda each: each[index] if each.ndim else each))
        if isinstance(source, list | tuple) and whole is None:
            return cls(len(source), lambda index: source[int(index)], own_batches=True)
        dataset = getattr(source, "dataset", None)
        if dataset is None or isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__"):
            what = "a batch whose tensors differ in their first axis" if whole is not None else loader_name(source)
            raise Unsupported(
                f"training draws samples by number, which {what} does not offer: give `train` tensors with samples "
                "first, a list of batches, or a DataLoader over a dataset with __len__ and __getitem__; or take all "
                'data at each step with `data="exact"`'
            )
        collate = getattr(source, "collate_fn", None) or torch.utils.data.default_collate
        if getattr(source, "batch_size", 1) is None and getattr(source, "batch_sampler", None) is None:
            return cls(len(dataset), lambda index: collate(dataset[int(index)]), own_batches=True)
        return cls(len(dataset), lambda index: collate(_items(dataset, index.tolist())))


def numbered(structure: Any) -> int | None:
    """Number of samples of a batch in memory, if each of its tensors can be read by number."""
    lengths = set[int]()

    def note(tensor: Tensor) -> Tensor:
        lengths.update(tensor.shape[:1])
        return tensor

    mapped(structure, note)
    return lengths.pop() if len(lengths) == 1 else None


def _items(dataset: Any, numbers: list[int]) -> list[Any]:
    """Samples of a dataset, at once where it offers that, as a loader reads them."""
    several = getattr(dataset, "__getitems__", None)
    return list(several(numbers)) if several is not None else [dataset[number] for number in numbers]
