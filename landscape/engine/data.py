"""Data that an objective is evaluated on: weighted samples in memory, or a stream of batches read anew at each pass."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from landscape.core.errors import Mismatch, Unsupported
from landscape.engine.batches import Reread, loader_name
from landscape.engine.stacked import features_first

__all__ = ["SAMPLE_MULTIPLE", "Batch", "Data", "Stream", "labelled", "require_paired"]

#: Sample axes are padded to a multiple of this with weight zero: vector units then never treat a member's numbers
#: differently for its place.
SAMPLE_MULTIPLE = 32


@runtime_checkable
class Data(Protocol):
    """Weighted samples, of which a part at a time is needed as a `Batch`.

    `weights` sum to 1 over real samples; a sample of weight zero is padding and counts nowhere.
    """

    @property
    def weights(self) -> Float[Tensor, "members_of_weights sample"]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def members(self, index: Tensor) -> "Data":
        """The part that belongs to the members at `index`."""

    def samples(self, start: int, stop: int) -> "Batch":
        """A range of samples; both ends are multiples of 32, or the last end is that of all."""

    def part(self, index: Tensor) -> "Data":
        """The samples of these numbers as data of their own, whose weights keep their ratios; of data that is kept more
        compactly than a `Batch` consecutive ones, from a multiple of 32 on.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Data in memory, samples last; a leading axis of 1 is shared by all members.

    Inputs that are integers stand for rows of the network's table (see `landscape.engine.stacked.Table`), or without
    one for what the network reads as whole numbers, such as tokens.
    """

    inputs: Shaped[Tensor, "members *feature sample"]
    targets: Shaped[Tensor, "members_of_targets *target sample"]
    weights: Float[Tensor, "members_of_weights sample"]

    @classmethod
    def padded(cls, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> "Batch":
        """A batch whose sample axis is filled up to a multiple of 32 with samples of weight zero.

        Without `weights` each sample weighs the same.
        """
        count = inputs.shape[-1]
        if weights is None:
            weights = torch.full((1, count), 1 / count, dtype=torch.float64, device=inputs.device)
        extra = -count % SAMPLE_MULTIPLE
        if extra:
            inputs, targets = (
                torch.cat([each, each[..., :1].repeat_interleave(extra, -1)], -1) for each in (inputs, targets)
            )
            weights = torch.cat([weights, weights.new_zeros(weights.shape[0], extra)], 1)
        return cls(inputs, targets, weights)

    def __len__(self) -> int:
        return self.inputs.shape[-1]

    def members(self, index: Tensor) -> "Batch":
        """The part that belongs to the members at `index`."""
        return self._map(lambda tensor: tensor if tensor.shape[0] == 1 else tensor[index])

    def samples(self, start: int, stop: int) -> "Batch":
        """A range of samples."""
        return self._map(lambda tensor: tensor[..., start:stop])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.inputs), change(self.targets), change(self.weights))

    @property
    def real(self) -> Tensor:
        """Which samples are not padding: [sample]."""
        return (self.weights > 0).any(0)

    def real_alone(self) -> "Batch":
        """The samples that are not padding."""
        index = self.real.nonzero()[:, 0]
        return self._map(lambda tensor: tensor[..., index])

    def part(self, index: Tensor) -> "Batch":
        """The samples at `index`, alike for all members, as data of their own."""
        weights = self.weights[..., index]
        return Batch.padded(self.inputs[..., index], self.targets[..., index], weights / weights.sum(1, keepdim=True))

    def select(self, index: Tensor) -> "Batch":
        """The samples at `index`, alike for all members, as a batch of their own in which each weighs the same."""
        return Batch.padded(self.inputs[..., index], self.targets[..., index])


class Stream:
    """Batches of a `torch.utils.data.DataLoader`, or of anything that yields (inputs, targets) at each pass.

    Batches are in PyTorch's layout, samples first; a third entry weighs the samples (1 each without). Only one batch
    at a time is on the device. Raises `LandscapeError` for a loader without batches, `Unverified` when a later pass
    does not give what the first one gave: all members and points must see the same data.
    """

    def __init__(self, loader: Iterable[Any], *, device: str | torch.device, dtype: torch.dtype) -> None:
        self.loader, self.device, self.dtype = loader, torch.device(device), dtype
        self._raw = Reread(loader)
        self._first: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        for number, raw in enumerate(self._raw):
            yield self._batch(*labelled(raw, self.loader, number))

    @property
    def first(self) -> Batch:
        """The first batch, kept: what the data looks like."""
        if self._first is None:
            self._first = next(iter(self))
        return self._first

    def _batch(self, inputs: Tensor, targets: Tensor, weights: Tensor | None) -> Batch:
        inputs, targets = (
            features_first(each.to(self.device, self.dtype if each.is_floating_point() else None, non_blocking=True))
            for each in (inputs, targets)
        )
        if weights is None:
            weights = torch.ones(inputs.shape[-1])
        return Batch.padded(inputs, targets, weights.to(self.device, torch.float64)[None])


def labelled(raw: Any, loader: object, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, targets and weights of one batch of a loader."""
    good = isinstance(raw, tuple | list) and len(raw) in (2, 3)
    tensors = [torch.as_tensor(each) if isinstance(each, np.ndarray) else each for each in raw] if good else []
    if not good or not all(isinstance(each, Tensor) for each in tensors):
        what = f"{len(raw)} entries" if isinstance(raw, tuple | list) and not good else type(raw).__name__
        raise Unsupported(
            f"batch {number} of {loader_name(loader)} is {what}, not (inputs, targets) tensors: give `batch_loss` "
            "in place of `loss`, which reads batches of any kind"
        )
    inputs, targets = tensors[:2]
    weights = tensors[2] if len(tensors) == 3 else None
    require_paired(inputs, targets, weights, f"batch {number} of {loader_name(loader)}")
    return inputs, targets, weights


def require_paired(inputs: Tensor, targets: Tensor, weights: Tensor | None, what: str) -> None:
    """Raise `Mismatch` unless these have as many samples, one or more, on their first axes, and weights a number each;
    `what` has them.
    """
    named = {"inputs": inputs, "targets": targets} | ({} if weights is None else {"weights": weights})
    for name, each in named.items():
        if not each.ndim:
            raise Mismatch(f"{what} has {name} that are a single number: give tensors whose first axis is the samples")
    counts = [len(each) for each in named.values()]
    if weights is not None and (weights.ndim > 1 or weights.is_complex()):
        kind = " of complex numbers" if weights.is_complex() else ""
        raise Mismatch(f"{what} has weights of shape {[*weights.shape]}{kind}: give one number a sample, [{counts[0]}]")
    if len(set(counts)) > 1:
        told = [f"{count} {name}" for count, name in zip(counts, named, strict=True)]
        raise Mismatch(f"{what} has {' and '.join(told)}: they must pair")
    if not counts[0]:
        raise Mismatch(f"{what} has no samples")
