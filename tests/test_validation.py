"""The closed forms hold in every type and backend, and each finds what is wrong with an engine that is spoilt."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor

from landscape.analysis.validation import CHECKS, Check, validate
from landscape.engine import chain
from landscape.engine.data import Batch, Stream
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked
from landscape.problems.compute import Compute, Engine
from landscape.problems.supervised import Samples
from landscape.space import family
from landscape.space.family import Family

ROOT = Path(__file__).parent.parent
DTYPES = (torch.float32, torch.float64)
#: One thread is left to test-quick.
THREADS = [1, *(pytest.param(more, marks=pytest.mark.slow) for more in (2, 3))]
Spoil = Callable[[pytest.MonkeyPatch], None]


def by_name(check: Check) -> str:
    return check.name


# Companions are longest, and have a test below.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("engine", ["plain", "stacked", "vmap"])
@pytest.mark.parametrize(
    "check",
    [pytest.param(each, marks=[pytest.mark.slow] if each.name == "companions" else []) for each in CHECKS],
    ids=by_name,
)
def test_it_holds(check: Check, engine: Engine, dtype: torch.dtype) -> None:
    (finding,) = validate(Compute(dtype=dtype, engine=engine), [check])
    assert finding.ok, finding
    # Far below the tolerance: another machine's rounding has room.
    assert finding.error <= finding.tolerance / 8


@pytest.mark.bitwise
@pytest.mark.parametrize("threads", THREADS, indirect=True)
@pytest.mark.parametrize("engine", ["stacked", "vmap"])
def test_companions_change_nothing_whatever_the_number_of_threads(threads: int, engine: Engine) -> None:
    (check,) = (check for check in CHECKS if check.name == "companions")
    for dtype in DTYPES:
        (finding,) = validate(Compute(dtype=dtype, engine=engine), [check])
        assert finding.ok, finding


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=by_name)
def test_it_holds_on_a_gpu(check: Check, dtype: torch.dtype) -> None:
    (finding,) = validate(Compute(device="cuda", dtype=dtype), [check])
    assert finding.ok, finding


# Engines that are wrong -----------------------------------------------------------------------------------------------


def other_alphas(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Lines whose points lie elsewhere."""

    def line(start: Stack, end: Stack, rows: Tensor | None = None) -> Family:
        right = family.line(start, end, rows)
        return dataclasses.replace(right, weigh=lambda dtype, lines, alphas: right.weigh(dtype, lines, change(alphas)))

    for module in ("evaluation.routes", "analysis.validation"):
        monkeypatch.setattr(f"landscape.{module}.line", line)


def bent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right at the ends, elsewhere a little on."""
    other_alphas(monkeypatch, lambda alphas: torch.where((alphas > 0) & (alphas < 1), alphas.clamp(0) ** 1.001, alphas))


def off_by_one_point(monkeypatch: pytest.MonkeyPatch) -> None:
    other_alphas(monkeypatch, lambda alphas: alphas.roll(1))


def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    other_alphas(monkeypatch, lambda alphas: 1 - alphas)


def from_the_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`start + alpha (end - start)`, whose end is not the end."""

    def mix(columns: Any, share: Tensor, exact: Any, *, agree: Any) -> Tensor:
        start, end = columns
        moved: Tensor = start + share[:, 1].to(start.dtype).view(-1, *[1] * (start.ndim - 1)) * (end - start)
        return moved

    monkeypatch.setattr(family, "_mix", mix)


def other_forward(
    monkeypatch: pytest.MonkeyPatch,
    *,
    stack: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    outputs: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> None:
    """Networks with other tensors, or other outputs."""
    right = Stacked.__call__

    def forward(self: Stacked, members: Stack, *arguments: Any, **options: Any) -> Tensor:
        changed = {name: stack(name, tensor) for name, tensor in members.tensors.items()}
        return outputs(right(self, dataclasses.replace(members, tensors=changed), *arguments, **options))

    monkeypatch.setattr(Stacked, "__call__", forward)


def mirrored_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    other_forward(monkeypatch, stack=lambda name, tensor: tensor.flip(-1) if tensor.ndim > 2 else tensor)


def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    other_forward(monkeypatch, stack=lambda name, tensor: tensor * 0 if name.endswith("bias") else tensor)


def a_class_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    other_forward(monkeypatch, outputs=lambda outputs: torch.cat([outputs, outputs[:, :1]], 1))


def members_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    other_forward(monkeypatch, outputs=lambda outputs: outputs.roll(1, 0))


def last_sample_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Batch.padded

    def padded(inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Batch:
        batch = right(inputs, targets, weights)
        batch.weights[:, inputs.shape[-1] - 1] = 0
        return batch

    monkeypatch.setattr(Batch, "padded", padded)


def gradient_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective.gradient

    def gradient(self: Objective, *arguments: Any, **options: Any) -> tuple[Tensor, Stack]:
        loss, found = right(self, *arguments, **options)
        tensors = {name: tensor * (not name.endswith("bias")) for name, tensor in found.tensors.items()}
        return loss, Stack(tensors)

    monkeypatch.setattr(Objective, "gradient", gradient)


def other_loss(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, Stack], Tensor]) -> None:
    right = Objective.loss

    def loss(self: Objective, stack: Stack, *arguments: Any) -> Tensor:
        return change(right(self, stack, *arguments), stack)

    monkeypatch.setattr(Objective, "loss", loss)


def half_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    other_loss(monkeypatch, lambda loss, stack: loss / 2)


def weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    other_loss(monkeypatch, lambda loss, stack: loss + 1e-4 * stack.flatten().square().sum(1))


def weights_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Samples.batch

    def batch(self: Samples, *arguments: Any) -> Batch:
        return right(dataclasses.replace(self, weights=None), *arguments)

    monkeypatch.setattr(Samples, "batch", batch)


def batches_weigh_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stream._batch

    def batch(self: Stream, *arguments: Any) -> Batch:
        made = right(self, *arguments)
        return dataclasses.replace(made, weights=made.weights / made.weights.sum())

    monkeypatch.setattr(Stream, "_batch", batch)


def last_batch_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stream.__iter__

    def iterate(self: Stream) -> Iterator[Batch]:
        yield from list(right(self))[:-1]

    monkeypatch.setattr(Stream, "__iter__", iterate)


def stale_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stack brings them along."""
    monkeypatch.setattr(Objective, "_calibrated", lambda self, part, network: part)


def statistics_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """One member's statistics for all."""
    right = Objective._calibrated

    def calibrated(self: Objective, part: Stack, network: Stacked) -> Stack:
        found = right(self, part, network)
        buffers = {name: buffer[:1].expand_as(buffer).clone() for name, buffer in found.buffers.items()}
        return dataclasses.replace(found, buffers=buffers)

    monkeypatch.setattr(Objective, "_calibrated", calibrated)


def biased_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective._statistics

    def statistics(self: Objective, part: Stack, network: Stacked) -> dict[str, Tensor]:
        assert self.calibration is not None
        count = int(self.calibration.real.sum())
        found = right(self, part, network)
        return {name: each * (1 - 1 / count) if name.endswith("var") else each for name, each in found.items()}

    monkeypatch.setattr(Objective, "_statistics", statistics)


def opposite_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective.predictions
    monkeypatch.setattr(Objective, "predictions", lambda self, stack: ~right(self, stack))


def few_summed_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As matrix libraries do with products of few rows."""
    right = chain.shared_product

    def shared_product(rows: Tensor, shared: Tensor) -> Tensor:
        return right(rows, shared) * (1 + 1e-6 * (len(rows) < 8))

    monkeypatch.setattr(chain, "shared_product", shared_product)


def mean_over_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Objective._weighed_loss

    def loss(self: Objective, batch: Batch, outputs: Tensor, counts: Tensor | None) -> Tensor:
        return right(self, batch, outputs, counts) + 1e-6 * outputs.mean()

    monkeypatch.setattr(Objective, "_weighed_loss", loss)


#: What each check must find.
SPOILT: Mapping[str, tuple[Spoil, ...]] = {
    "ends": (from_the_start_alone, backwards),
    "end-losses": (from_the_start_alone, off_by_one_point, backwards),
    "linear-loss": (bent, off_by_one_point, mirrored_weights, no_bias, members_mixed_up, last_sample_lost),
    "linear-gradient": (gradient_without_bias, last_sample_lost),
    "linear-hessian": (half_the_loss, weight_decay, last_sample_lost),
    "logistic-gradient": (gradient_without_bias, last_sample_lost),
    "logistic-hessian": (half_the_loss, weight_decay, last_sample_lost),
    "zero-weights": (off_by_one_point, a_class_too_many, members_mixed_up),
    "deep-linear": (bent, off_by_one_point, members_mixed_up),
    "deep-linear-power": (bent, mirrored_weights, members_mixed_up, last_sample_lost),
    "rescaled-relu": (bent, off_by_one_point, mirrored_weights, members_mixed_up),
    "weights": (weights_ignored, bent, no_bias, last_sample_lost),
    "stream": (batches_weigh_the_same, last_batch_lost, bent, no_bias, last_sample_lost),
    "batchnorm-ends": (stale_statistics, statistics_of_the_first, biased_variance),
    "batchnorm-scale": (stale_statistics, statistics_of_the_first, biased_variance),
    "life-solution": (no_bias, off_by_one_point, opposite_predictions),
    "companions": (few_summed_otherwise, mean_over_all_members),
}


def test_every_check_is_put_to_the_test() -> None:
    assert list(SPOILT) == [check.name for check in CHECKS]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [(name, spoil) for name, spoils in SPOILT.items() for spoil in spoils],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_it_fails_where_the_engine_is_wrong(name: str, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32, whose tolerance hides more. The numbers alone must tell: the walk's own look at the ends, which would
    # find some of it, is left out.
    monkeypatch.setattr("landscape.evaluation.evaluate.Work._check", lambda *arguments: None)
    spoil(monkeypatch)
    (check,) = (check for check in CHECKS if check.name == name)
    (finding,) = validate(Compute(engine="stacked"), [check])
    assert not finding.reason
    assert not finding.ok
    assert finding.error > 3 * finding.tolerance


# Findings -------------------------------------------------------------------------------------------------------------


def a_check(expected: Any, measured: Any, roundings: int = 1) -> Check:
    return Check("a", "is b", lambda setting: (np.asarray(expected), np.asarray(measured)), roundings)


def test_the_largest_error_is_shown_relative_to_the_largest_number() -> None:
    (finding,) = validate(Compute(), [a_check([4.0, 1.0], [4.0, 1.5])])
    assert (finding.expected, finding.measured, finding.error) == (1.0, 1.5, 0.125)
    assert not finding.ok


def test_of_zeros_it_is_absolute() -> None:
    (finding,) = validate(Compute(), [a_check([0.0, 0.0], [0.0, 1e-30], 0)])
    assert finding.error == 1e-30
    assert not finding.ok


def test_nan_is_no_agreement() -> None:
    (finding,) = validate(Compute(), [a_check([1.0, 2.0], [1.0, np.nan])])
    assert finding.expected == 2
    assert not finding.reason
    assert not finding.ok


def test_what_goes_wrong_is_a_finding() -> None:
    def fail(setting: Compute) -> tuple[np.ndarray, np.ndarray]:
        raise ValueError("no such device\nat all")

    first, second, third = validate(Compute(), [Check("a", "b", fail, 1), a_check([1.0], [1.0, 2.0]), a_check(1.0, 1)])
    assert (first.ok, first.reason) == (False, "ValueError: no such device")
    assert (second.ok, second.reason) == (False, "[1] numbers are expected, there are [2]")
    assert third.ok


# The program ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_of_it_is_a_table() -> None:
    """By the program as a user runs it: backends are measured for each check, which is long with shapes checked."""
    command = [sys.executable, "-m", "landscape", "validate", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    about, header, _, *rows = result.stdout.splitlines()
    assert about == f"torch {torch.__version__}, cpu, 1 threads, engine auto"
    assert header.split() == ["check", "type", "expected", "measured", "error", "tolerance", "what", "is", "known"]
    assert [row.split()[:2] for row in rows] == [
        [check.name, dtype] for dtype in ("float32", "float64") for check in CHECKS
    ]
    assert all(row.split()[6] == "ok" for row in rows)


def test_one_of_it_as_json(landscape: Callable[..., Outcome]) -> None:
    result = landscape("validate", "--only", "zero-weights", "--dtype", "float64", "--engine", "plain", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["name"] == "zero-weights"
    assert found["claim"] == "softmax regression with zero weights: L = log C"
    assert (found["dtype"], found["engine"], found["ok"], found["reason"]) == ("float64", "plain", True, "")
    np.testing.assert_allclose([found["expected"], found["measured"]], np.log(4))
    assert found["error"] <= found["tolerance"]


def test_a_failure_is_exit_status_1(landscape: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    half_the_loss(monkeypatch)
    result = landscape("validate", "--only", "linear-hessian", "--only", "ends", "--dtype", "float32")
    assert result.exit_code == 1
    assert [row.split()[6] for row in result.stdout.splitlines()[3:]] == ["FAIL", "ok"]
    assert "1 of 2 checks fail (linear-hessian). Do not trust walks in this setting: try another --engine" in (
        result.stderr
    )


def test_what_cannot_be_computed_says_why(landscape: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stacked.__call__

    def forward(self: Stacked, *arguments: Any, **options: Any) -> Tensor:
        return right(self, *arguments, **options) * (2 if self.backend == "stacked" else 1)

    monkeypatch.setattr(Stacked, "__call__", forward)
    result = landscape("validate", "--only", "linear-loss", "--engine", "stacked", "--dtype", "float32")
    assert result.exit_code == 1
    assert re.search(
        r"linear-loss +float32 +nan +nan +nan .* FAIL +Unverified: line 0 does not reproduce", result.stdout
    )
    assert "1 of 1 checks fail (linear-loss): Unverified: line 0 does not reproduce its own end" in result.stderr


def test_an_unknown_check(landscape: Callable[..., Outcome]) -> None:
    result = landscape("validate", "--only", "linear-los")
    assert result.exit_code == 1
    assert "there is no check 'linear-los': did you mean linear-loss?" in result.stderr
