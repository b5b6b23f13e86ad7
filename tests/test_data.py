"""Data in memory and data that streams give the same numbers; loaders that are not what they should be are named."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.core.errors import LandscapeError, Mismatch, Unsupported, Unverified
from landscape.engine.data import Batch, Stream
from landscape.engine.memory import Chunk
from landscape.engine.objective import Metric, Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import features_first
from landscape.problems.initialisation import initialise


def numbers(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)


def stream(loader: object) -> Stream:
    return Stream(loader, device="cpu", dtype=torch.float64)  # type: ignore[arg-type]


@given(count=st.integers(1, 90), size=st.integers(1, 40), chunk=st.sampled_from([1, 3, 16]), samples=st.just(32))
@pytest.mark.slow
def test_a_stream_gives_what_memory_gives(
    squares: Callable[..., Objective], count: int, size: int, chunk: int, samples: int
) -> None:
    inputs, targets = (each.double() for each in numbers(count))
    inside = squares(nn.Linear(3, 2), inputs, targets, sampled=True, chunk=Chunk(chunk, samples))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=size)
    streamed = dataclasses.replace(inside, data=stream(loader))
    stack = initialise(nn.Linear(3, 2), range(5)).to(torch.float64)
    expected, found = inside(stack), streamed(stack)
    assert found.keys() == expected.keys() >= {"loss", "loss_se"}
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=1e-14)
    assert streamed.samples == inside.samples == count
    torch.testing.assert_close(streamed.gradient(stack)[1].flatten(), inside.gradient(stack)[1].flatten())
    weights = torch.cat([batch.weights for batch in streamed.batches()], 1)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_data_is_read_once_for_all_members(squares: Callable[..., Objective]) -> None:
    reads = []

    class Counted(list[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            reads.append(1)
            return super().__iter__()

    inputs, targets = numbers(40)
    loader = Counted(zip(inputs.split(7), targets.split(7), strict=True))
    objective = dataclasses.replace(
        squares(nn.Linear(3, 2), inputs, targets), data=stream(loader), precision=torch.float64, chunk=Chunk(2, 32)
    )
    reads.clear()
    objective(initialise(nn.Linear(3, 2), range(33)))
    assert len(reads) == 1


@given(data=st.data(), count=st.integers(2, 40))
def test_weights_are_repetitions(squares: Callable[..., Objective], data: st.DataObject, count: int) -> None:
    times = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    inputs, targets = (each.double() for each in numbers(count))
    repeated = torch.arange(count).repeat_interleave(torch.tensor(times))
    stack = initialise(nn.Linear(3, 2), range(3)).to(torch.float64)
    plain = squares(nn.Linear(3, 2), inputs[repeated], targets[repeated])(stack)["loss"]
    weights = torch.tensor(times, dtype=torch.float64)
    batch = Batch.padded(features_first(inputs), features_first(targets), weights[None] / weights.sum())
    weighed = dataclasses.replace(squares(nn.Linear(3, 2), inputs, targets), data=batch)
    torch.testing.assert_close(weighed(stack)["loss"], plain)
    streamed = dataclasses.replace(weighed, data=stream([(inputs, targets, weights)]))
    torch.testing.assert_close(streamed(stack)["loss"], plain)


def test_the_standard_error_of_a_weighted_mean(squares: Callable[..., Objective]) -> None:
    """Linearised: the root of n / (n - 1) times the sum of w^2 (x - mean)^2, weights that sum to 1."""
    inputs, targets = (each.double() for each in numbers(50))
    weights = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = weights / weights.sum()
    batch = Batch.padded(features_first(inputs), features_first(targets), weights[None])
    objective = dataclasses.replace(squares(nn.Linear(3, 2), inputs, targets, sampled=True), data=batch)
    stack = initialise(nn.Linear(3, 2), [7]).to(torch.float64)
    losses = (torch.func.functional_call(nn.Linear(3, 2), stack.state_dict(0), inputs) - targets).square().sum(1)
    mean = (weights * losses).sum()
    expected = (50 / 49 * (weights.square() * (losses - mean).square()).sum()).sqrt()
    torch.testing.assert_close(objective(stack)["loss_se"][0], expected)


def test_a_loader_that_shuffles_is_named(squares: Callable[..., Objective]) -> None:
    inputs, targets = numbers(64)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True)
    objective = dataclasses.replace(squares(nn.Linear(3, 2), inputs, targets), data=stream(loader))
    expected = r"the DataLoader over TensorDataset gives other data at each pass \(batch 0\).*shuffle=False"
    with pytest.raises(Unverified, match=expected):
        objective.check_deterministic(initialise(nn.Linear(3, 2), [0]).to(torch.float64))


def test_a_loader_that_changes_between_passes_is_named() -> None:
    inputs, targets = numbers(30)
    passes = itertools.count()

    class Growing:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            batches = list(zip(inputs.split(10), targets.split(10), strict=True))
            return iter(batches[: 3 - next(passes)])

    data = stream(Growing())
    list(data)
    with pytest.raises(Unverified, match="the Growing gives other data at each pass: 2 batches after 3"):
        list(data)

    class Augmented:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield inputs + next(passes), targets

    data = stream(Augmented())
    list(data)
    with pytest.raises(Unverified, match=r"other data at each pass \(batch 0\).*random augmentation"):
        list(data)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], LandscapeError, "the list gives no batches: its dataset is empty"),
        (iter([]), Unsupported, "can be read only once"),
        ([torch.zeros(3, 2)], Unsupported, r"batch 0 of the list is Tensor, not \(inputs, targets\) tensors"),
        ([(torch.zeros(3), torch.zeros(3), torch.zeros(3), 1)], Unsupported, "is 4 entries, not"),
        (
            [(torch.zeros(3), torch.zeros(2))],
            Mismatch,
            "batch 0 of the list has 3 inputs and 2 targets: they",
        ),
        ([(torch.zeros(0, 2), torch.zeros(0))], Mismatch, "batch 0 of the list has no samples"),
        ([{"x": torch.zeros(2)}], Unsupported, "batch 0 of the list is dict"),
        ([(torch.zeros(3), torch.tensor(1.0))], Mismatch, "batch 0 of the list has targets that are a single number"),
        (
            [(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))],
            Mismatch,
            r"weights of shape \[3, 1\]: give one",
        ),
    ],
    ids=["empty", "iterator", "inputs", "four entries", "unpaired", "without samples", "dict", "number", "column"],
)
def test_loaders_that_are_none_are_refused(loader: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(stream(loader))


def test_chunks_are_halved_when_memory_runs_out(
    squares: Callable[..., Objective], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, targets = numbers(70)
    objective = squares(nn.Linear(3, 2), inputs, targets, chunk=Chunk(16, 96))
    stack = initialise(nn.Linear(3, 2), range(20))
    expected = objective(stack)["loss"]
    forward = type(objective.network).__call__
    largest = 5 * 96

    def small_device(network: object, part: Stack, data: Tensor, *others: object) -> Tensor:
        if len(part) * data.shape[-1] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, part, data, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(type(objective.network), "__call__", small_device)
    torch.testing.assert_close(objective(stack)["loss"], expected)
    assert objective.chunk == Chunk(4, 96)
    assert "out of memory" in caplog.text
    largest = 32
    torch.testing.assert_close(objective(stack)["loss"], expected)
    assert objective.chunk == Chunk(1, 32)
    largest = 0
    with pytest.raises(LandscapeError, match="one network on 32 samples does not fit the memory of cpu"):
        objective(stack)


def test_other_errors_are_not_taken_for_lack_of_memory(squares: Callable[..., Objective]) -> None:
    objective = squares(nn.Linear(3, 2), *numbers(5))

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("the loss is broken")

    objective = dataclasses.replace(objective, metrics={"loss": Metric(broken)})
    with pytest.raises(RuntimeError, match="the loss is broken"):
        objective(initialise(nn.Linear(3, 2), [0]))


def test_what_draws_random_numbers_is_named(squares: Callable[..., Objective]) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.dropout(self.linear(x), 0.5, True)

    inputs, targets = numbers(40)
    module = nn.Sequential(nn.Linear(3, 2), Noisy())
    objective = squares(module, inputs, targets, backend="loop")
    with pytest.raises(Unverified, match=r"two calls differ in loss\. Layer 1 \(Noisy\) draws random numbers"):
        objective.check_deterministic(initialise(module, [0]))
    objective = squares(Functional(), inputs, targets, backend="loop")
    with pytest.raises(Unverified, match=r"forward code of Functional draws random numbers: look for F\.dropout"):
        objective.check_deterministic(initialise(Functional(), [0]))
