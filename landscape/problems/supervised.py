"""Problems in which a network learns from labelled samples: what all of them share."""

import abc
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from landscape.core import philox
from landscape.core.errors import LandscapeError, Unsupported, Unverified
from landscape.engine.backends import many_at_once
from landscape.engine.data import Batch, Data, Stream, labelled, require_paired
from landscape.engine.live import is_spread
from landscape.engine.losses import Criterion
from landscape.engine.objective import Metric, Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Backend, Stacked, features_first
from landscape.problems.base import Problem
from landscape.space.derivation import derived
from landscape.space.symmetry import Symmetry

__all__ = ["CALIBRATION_SAMPLES", "FOLLOWED", "Samples", "Source", "Supervised", "part_of"]

#: Samples on which statistics of BatchNorm are estimated, at most.
CALIBRATION_SAMPLES = 4096

#: Samples with which the symmetry of a network is derived.
FOLLOWED = 2

#: Streams of random numbers: the order of an epoch, samples of a part of the data.
_ORDER, _PART = 2**17, 2**17 + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Labelled samples in memory, in PyTorch's layout: [sample, *feature], [sample, *target], and weights [sample],
    which need not sum to 1. Raises `LandscapeError` or `Mismatch` for data that is none.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        require_paired(self.inputs, self.targets, self.weights, "the data")
        for name, each in (("inputs", self.inputs), ("targets", self.targets), ("weights", self.weights)):
            if each is not None and each.is_floating_point() and not each.isfinite().all():
                raise LandscapeError(f"the data's {name} are NaN or infinite in places: clean them")
        if self.weights is not None and not ((self.weights >= 0).all() and self.weights.sum() > 0):
            raise LandscapeError("the data's weights must be at least 0, and not all 0")

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, index: Tensor) -> "Samples":
        """The samples at `index`."""
        weights = None if self.weights is None else self.weights[index]
        return Samples(self.inputs[index], self.targets[index], weights)

    def parts(self, size: int | None) -> Iterator["Samples"]:
        """They in their order, so many at a time, or all at once."""
        return map(self.select, torch.split(torch.arange(len(self)), size or len(self)))

    def batch(self, device: str | torch.device, dtype: torch.dtype) -> Batch:
        """All of them as data of an objective; numbers that are not whole get this type."""
        inputs, targets = (
            features_first(each.to(device, dtype if each.is_floating_point() else None))
            for each in (self.inputs, self.targets)
        )
        weights = None
        if self.weights is not None:
            weights = (self.weights.double() / self.weights.double().sum()).to(device)[None]
        return Batch.padded(inputs, targets, weights)


#: Samples in memory, or what gives batches of them at each pass, such as a `DataLoader`.
Source = Samples | Iterable[Any]


class Supervised(Problem):
    """A network, labelled data, and what is measured. Where the data is a sample of what is meant (`sampled`), means
    over it have a standard error; else it is all there is.
    """

    sampled: ClassVar[bool] = True

    @abc.abstractmethod
    def criterion(self) -> Criterion:
        """Loss and metrics."""

    @abc.abstractmethod
    def data(self) -> Source:
        """What the height of the landscape is measured on."""

    @abc.abstractmethod
    def training_data(self) -> Source:
        """What training sees, and what statistics of BatchNorm are estimated on."""

    @abc.abstractmethod
    def test_data(self) -> Source | None:
        """What neither has seen, if there is any."""

    def training_kinds(self) -> tuple[str, ...]:
        """Batches, unless all training data is asked for at each step."""
        return ("batches", "exact")

    def objective(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
        backend: Backend | None = None,
    ) -> Objective:
        """Loss and metrics on `data`, or on so many `samples` drawn from it; by a backend that serves unless told."""
        return self._objective(self.data(), device, dtype, samples=samples, seed=seed).with_backend(backend)

    def prefers_stacks(self, device: torch.device) -> bool:
        """Whether the network and the data are small."""
        source = self.data()
        if isinstance(source, Samples):
            few, samples = source.inputs[:2], len(source)
        else:
            batch = Stream(source, device="cpu", dtype=torch.float32).first.real_alone()
            few, samples = batch.inputs[0].movedim(-1, 0)[:2], len(batch)
        module = self.network()
        if is_spread(module):
            return False
        module = module.to(device).eval()
        few = few.to(device, next(module.parameters()).dtype if few.is_floating_point() else None)
        return many_at_once(module, few, samples)

    def training_objective(self, data: str, *, device: str | torch.device, dtype: torch.dtype) -> Objective:
        """Loss and metrics on the training data."""
        return self._objective(self.training_data(), device, dtype)

    def test_objective(
        self, *, samples: int | None = None, seed: int = 0, device: str | torch.device = "cpu", **conditions: Any
    ) -> Objective:
        """Loss and metrics on samples that training has not seen."""
        self.refuse_conditions(conditions)
        if (source := self.test_data()) is None:
            raise Unsupported(f"{self.title()} has no test data: give it some with `test`")
        return self._objective(source, device, torch.float32, samples=samples, seed=seed)

    def training_batch(
        self, seeds: Int[Tensor, " member"], step: int, size: int, *, device: str | torch.device, dtype: torch.dtype
    ) -> Data:
        """Batches without replacement: each seed goes through the data in an order of its own for each epoch; what is
        left over at an epoch's end makes no batch.
        """
        source = self.training_data()
        count = len(source) if isinstance(source, Samples) else len(_dataset(source))
        size = min(size, count)
        epoch, place = divmod(step, count // size)
        index = self._order(tuple(seeds.tolist()), epoch, count)[:, place * size : (place + 1) * size]
        if isinstance(source, Samples):
            whole = self._batch(device, dtype)
            places = index.to(whole.inputs.device)
            inputs, targets = (
                each[0].movedim(-1, 0)[places].movedim(1, -1).contiguous() for each in (whole.inputs, whole.targets)
            )
            weights = None
            if source.weights is not None:
                weights = whole.weights[0][places]
                weights = weights / weights.sum(1, keepdim=True)
            return Batch.padded(inputs, targets, weights)
        rows = [_collated(source, row.tolist()).batch(device, dtype) for row in index]
        inputs, targets = (torch.cat([getattr(row, name) for row in rows]) for name in ("inputs", "targets"))
        return Batch(inputs, targets, rows[0].weights)

    def landmarks(self) -> tuple[str, ...]:
        """None, unless a problem knows better."""
        return ()

    def landmark(self, name: str) -> Stack:
        """Raises `Unsupported`: there is none."""
        raise Unsupported(f"{self.title()} has no known solutions, so no '{name}': give a run or a checkpoint file")

    def describe_landmark(self, name: str) -> str:
        """Its name."""
        return name

    def symmetry(self) -> Symmetry:
        """Derived from what the network's forward does to a few training samples; without groups, and with the reason
        in `refused`, where it cannot be.
        """
        return self._symmetry

    @functools.cached_property
    def _symmetry(self) -> Symmetry:
        source = self.training_data()
        inputs = source.inputs if isinstance(source, Samples) else labelled(next(iter(source)), source, 0)[0]
        return derived(self.prototype, inputs[:FOLLOWED])

    def exactness(self) -> Metric | None:
        """None: targets of real data are seldom met exactly."""
        return None

    def _objective(
        self,
        source: Source,
        device: str | torch.device,
        dtype: torch.dtype,
        *,
        samples: int | None = None,
        seed: int = 0,
    ) -> Objective:
        criterion, network = self.criterion(), Stacked(self.network().to(device))
        if isinstance(source, Samples):
            data: Data | Stream = part_of(source, samples, seed).batch(device, dtype)
        elif samples is not None:
            raise Unsupported("a part of data that is streamed cannot be drawn: leave the number of samples out")
        else:
            data = Stream(source, device=device, dtype=dtype)
        calibration = self._calibration(device, dtype) if network.normalises else None
        return Objective(
            network=network,
            data=data,
            metrics=criterion.metrics,
            predict=criterion.predict,
            soften=criterion.soften,
            hits=criterion.hits,
            sampled=self.sampled or samples is not None,
            unit=criterion.unit,
            precision=dtype,
            calibration=calibration,
        )

    @functools.cached_property
    def _kept(self) -> dict[Any, Any]:
        """Training data by device and type, and the last orders of epochs."""
        return {}

    def _batch(self, device: str | torch.device, dtype: torch.dtype) -> Batch:
        key = (str(device), dtype)
        if key not in self._kept:
            source = self.training_data()
            assert isinstance(source, Samples)
            self._kept[key] = source.batch(device, dtype)
        batch: Batch = self._kept[key]
        return batch

    def _order(self, seeds: tuple[int, ...], epoch: int, count: int) -> Int[Tensor, "member sample"]:
        """For each seed the order of samples in an epoch."""
        if (seeds, epoch) not in self._kept:
            for old in [key for key in self._kept if key[0] == seeds]:
                del self._kept[old]
            draws = philox.words(torch.tensor(seeds), stream=_ORDER, step=epoch, count=count)
            self._kept[seeds, epoch] = draws.argsort(dim=1, stable=True)
        order: Tensor = self._kept[seeds, epoch]
        return order

    def _calibration(self, device: str | torch.device, dtype: torch.dtype) -> Batch:
        """Training samples in random order, since data sorted by class makes batches of one class."""
        source = self.training_data()
        if isinstance(source, Samples):
            chosen = dataclasses.replace(part_of(source, min(CALIBRATION_SAMPLES, len(source)), 0), weights=None)
            return chosen.batch(device, dtype)
        if (dataset := getattr(source, "dataset", None)) is not None and hasattr(dataset, "__getitem__"):
            return self._calibration_by_number(source, len(dataset), device, dtype)
        parts, count = list[Batch](), 0
        for batch in Stream(source, device=device, dtype=dtype):
            parts.append(batch.select(batch.real.nonzero()[:, 0]))
            count += int(batch.real.sum())
            if count >= CALIBRATION_SAMPLES:
                break
        real = [part.real for part in parts]
        inputs, targets = (
            torch.cat([getattr(part, name)[..., of] for part, of in zip(parts, real, strict=True)], -1)
            for name in ("inputs", "targets")
        )
        return Batch.padded(inputs, targets).select(_order_of(inputs.shape[-1], 0).to(inputs.device))

    @staticmethod
    def _calibration_by_number(
        loader: Iterable[Any], count: int, device: str | torch.device, dtype: torch.dtype
    ) -> Batch:
        """Samples of a loader's dataset, which may shuffle: always the same ones; raises `Unverified` where a sample is
        not always the same.
        """
        index = _order_of(count, 0)[:CALIBRATION_SAMPLES].tolist()
        again = _collated(loader, index[:16])
        if not torch.equal(again.inputs, _collated(loader, index[:16]).inputs):
            raise Unverified(
                "the training data gives other samples at each reading, and statistics of BatchNorm would depend on "
                'chance: give `train` without random augmentation, or `batchnorm="interpolate"`'
            )
        return dataclasses.replace(_collated(loader, index), weights=None).batch(device, dtype)


def part_of(source: Samples, samples: int | None, seed: int) -> Samples:
    """So many samples in an order of the seed; all as they stand if no number is asked for."""
    if samples is None:
        return source
    if samples > len(source):
        raise LandscapeError(f"{samples} samples are asked for, the data has {len(source)}: ask for fewer, or for all")
    return source.select(_order_of(len(source), seed)[:samples])


def _order_of(count: int, seed: int) -> Int[Tensor, " sample"]:
    """An order of samples, drawn from the seed."""
    return philox.words(torch.tensor([seed]), stream=_PART, step=0, count=count)[0].argsort(stable=True)


def _dataset(loader: Iterable[Any]) -> Any:
    """What a loader draws from; raises `Unsupported` where samples have no numbers."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__"):
        raise Unsupported(
            f"training draws samples by number, which {type(loader).__name__} does not offer: give `train` tensors, or "
            "a DataLoader over a dataset with __len__ and __getitem__"
        )
    return dataset


def _collated(loader: Iterable[Any], index: Sequence[int]) -> Samples:
    """Samples of a loader's dataset by number."""
    collate = getattr(loader, "collate_fn", None) or torch.utils.data.default_collate
    dataset = _dataset(loader)
    inputs, targets = collate([dataset[number] for number in index])[:2]
    return Samples(*(torch.as_tensor(each) if isinstance(each, np.ndarray) else each for each in (inputs, targets)))
