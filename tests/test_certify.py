"""Certified walks: bounds along lines against the plain module, 50 digits, closed forms and narrow peaks."""

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from click.testing import Result as Outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ResNet
from torch import Tensor, nn

import landscape
from landscape import LandscapeError, Problem, Result
from landscape.analysis.barriers import DEFINITIONS, barriers
from landscape.analysis.grid import grid_error
from landscape.cli import main
from landscape.core.errors import Mismatch, Unverified, plural
from landscape.engine.bounds import Bounds, Segments
from landscape.engine.data import Batch
from landscape.engine.objective import BatchNorm, Objective
from landscape.engine.program import enclosures
from landscape.engine.stack import Stack, template_of
from landscape.evaluation import certify
from landscape.problems.life import Life

RUN = str(Path(__file__).parent.parent / "checkpoints" / "one-step-m1-B3S23V")


class Called(nn.Module):
    """Functions in place of layers, sums, and pools that overlap and are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Linear(12, 3)
        self.bent = nn.LeakyReLU(-0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)) + 0.1
        x = F.max_pool2d(x + F.leaky_relu(self.second(x), 0.2), 3, 2, 1)
        x = F.dropout(self.bent(x), 0.5, self.training)
        return self.out(torch.flatten(x.view(x.size(0), 3, -1), 1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.RReLU(), nn.Linear(5, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2)),
        *(nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(5, 3)),
    )


class Mobile(nn.Module):
    """What small networks of images are made of: groups, shuffled channels, hard limits, products with shares."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding="same", padding_mode="reflect"), nn.PReLU(4), nn.Hardtanh()
        )
        self.depthwise = nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Hardsigmoid())
        self.expand, self.out = nn.Conv2d(6, 6, 2, groups=3), nn.Sequential(nn.PReLU(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        kept, x = self.stem(x).chunk(2, dim=1)
        x = self.depthwise(-x)
        x = torch.cat((F.hardswish(kept) / 2, self.squeeze(x) * x), dim=1)
        count, channels, height, width = x.size()
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(count, -1, height, width)
        x = F.max_pool2d(self.expand(F.pad(x, (1, 0, 0, 1), value=0.5)), 3, 2, ceil_mode=True)
        return self.out(torch.flatten(x.clamp(-1, 2) - torch.abs(x), 1))


class UNet(nn.Module):
    """Answers at each place, from what is pooled, transposed, resized and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.pools = nn.ModuleList([nn.MaxPool2d(2), nn.AvgPool2d(2, ceil_mode=True), nn.AdaptiveMaxPool2d(2)])
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.larger = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(0))
        self.out = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down(x)
        small = torch.concat([pool(wide) for pool in self.pools], 1)
        found = [self.up(small[:, :4]), self.larger(small[:, 4:8]) - F.interpolate(small[:, 8:], scale_factor=2)]
        return self.out(torch.cat([wide, *found], dim=1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (4,)),
    "convolutional": (convolutional, (1, 6, 6)),
    "called": (Called, (1, 4, 4)),
    "residual": (ResNet, (2, 4, 4)),
    "mobile": (Mobile, (1, 4, 4)),
    "unet": (UNet, (1, 4, 4)),
}

WEIGHT = torch.tensor([0.5, 2.0, 0.0])

#: PyTorch's losses in settings of theirs, and whether targets are classes.
SETTINGS: dict[str, tuple[nn.Module, bool]] = {
    "class weights": (nn.CrossEntropyLoss(WEIGHT), True),
    "smoothed labels": (nn.CrossEntropyLoss(label_smoothing=0.1), True),
    "ignored targets": (nn.CrossEntropyLoss(ignore_index=1), True),
    "all of these": (nn.CrossEntropyLoss(WEIGHT, ignore_index=0, label_smoothing=0.3), True),
    "all of these, summed": (nn.CrossEntropyLoss(WEIGHT, ignore_index=0, label_smoothing=0.3, reduction="sum"), True),
    "class weights, no reduction": (nn.CrossEntropyLoss(WEIGHT, ignore_index=2, reduction="none"), True),
    "shares of classes": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), False),
    "positive weights": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), False),
    "sum of two classes": (nn.BCEWithLogitsLoss(reduction="sum"), False),
    "sum of squares": (nn.MSELoss(reduction="sum"), False),
}


def drawn(build: Callable[[], nn.Module], seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """A network's tensors as random numbers, variances positive."""
    generator = torch.Generator().manual_seed(seed)

    def random(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        values = torch.randn(tensor.shape, generator=generator) * scale
        return values.square() + 0.1 if name.endswith("running_var") else values

    return {name: random(name, tensor) for name, tensor in build().state_dict().items()}


def problem_of(build: Callable[[], nn.Module], shape: tuple[int, ...], loss: Any, count: int = 7) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=generator)
    y = torch.rand(count, 3, *shape[1:] * (build is UNet), generator=generator)
    classes = loss == "cross_entropy" or (isinstance(loss, nn.Module) and dict(SETTINGS.values())[loss])
    return Problem.from_model(build, (x, y.argmax(1) if classes else y), loss)


def objective_of(problem: Any, batchnorm: BatchNorm | None = None) -> Objective:
    found: Objective = problem.objective(dtype=torch.float64, backend="stacked")
    return dataclasses.replace(found, batchnorm=batchnorm) if found.network.normalises else found


def segments_of(objective: Objective, *ends: dict[str, Tensor], times: int = 1) -> Segments:
    names = template_of(objective.module).tensors
    start, end = (
        Stack(*({k: v.double()[None] for k, v in e.items() if (k in names) == own} for own in (True, False)))
        for e in ends
    )
    return Bounds(objective, times).along(start, end)


def cells(*numbers: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    centre, radius = torch.tensor(numbers, dtype=torch.float64).T
    return torch.zeros(len(numbers), dtype=torch.int64), centre, radius


def plain_loss(objective: Objective, state: dict[str, Tensor], source: Batch, loss: Any) -> Tensor:
    """The module's own forward and PyTorch's own loss."""
    with torch.no_grad():
        outputs = torch.func.functional_call(objective.module.double(), state, (source.inputs[0].movedim(-1, 0),))
    targets = source.targets[0].movedim(-1, 0)
    named = {"bce": F.binary_cross_entropy_with_logits, "mse": F.mse_loss, "cross_entropy": F.cross_entropy}
    function: Any = named[loss] if isinstance(loss, str) else copy.deepcopy(loss).double()
    return torch.as_tensor(function(outputs, targets)).mean()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loss", ["bce", "cross_entropy", "mse"])
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.3, 1.0, 3.0]), halvings=st.integers(1, 30))
def test_the_plain_loss_is_within_the_bounds_everywhere_in_a_cell(
    network: str, loss: str, seed: int, scale: float, halvings: int
) -> None:
    build, shape = NETWORKS[network]
    objective = objective_of(problem_of(build, shape, loss), "interpolate")
    require_within(objective, loss, build, seed, scale, 0.5**halvings)


@pytest.mark.parametrize("network", ["perceptron", "unet"])
@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.3, 1.0, 3.0]), halvings=st.integers(1, 30))
def test_losses_in_each_setting_are_within_the_bounds(
    network: str, setting: str, seed: int, scale: float, halvings: int
) -> None:
    (build, shape), loss = NETWORKS[network], SETTINGS[setting][0]
    problem = problem_of(build, shape, loss)
    summed = loss.reduction == "sum"
    require_within(objective_of(problem.averaged if summed else problem), loss, build, seed, scale, 0.5**halvings)


def require_within(
    objective: Objective, loss: Any, build: Callable[[], nn.Module], seed: int, scale: float, radius: float
) -> None:
    """The plain module's loss is within the bounds of some cells, at 9 points of each."""
    times = objective.samples if getattr(loss, "reduction", "mean") == "sum" else 1
    segments = segments_of(objective, drawn(build, seed, scale), drawn(build, seed + 1, scale), times=times)
    centres = [radius, 1 - radius, 0.5, min(0.3 + radius, 1 - radius)]
    line, centre, r = cells(*((c, radius) for c in centres))
    found = segments(line, centre, r)
    source = objective.memory.samples(0, len(objective.memory)).real_alone()
    for share in np.linspace(-1, 1, 9).tolist():
        t = r * share
        states = [segments.at(line[:1], float(alpha)).state_dict(0) for alpha in centre + t]
        plain = torch.stack([plain_loss(objective, state, source, loss) for state in states])
        value = found.terms[0] + t * (found.terms[1] + t * found.terms[2])
        assert bool(((plain - value).abs() <= found.error + 1e-13 * (1 + plain.abs())).all())


def test_bounds_fall_with_a_power_of_the_length_of_cells() -> None:
    build, shape = NETWORKS["convolutional"]
    segments = segments_of(
        objective_of(problem_of(build, shape, "cross_entropy"), "keep"), drawn(build, 0), drawn(build, 1)
    )
    wide, narrow = (segments(*cells(*((c, r) for c in np.linspace(0.1, 0.9, 33)))).error.mean() for r in (2e-3, 2e-5))
    assert narrow < 1e-3 * wide


def exact_loss(state: dict[str, Tensor], x: Tensor, y: Tensor, loss: Any) -> mpmath.mpf:
    """The perceptron's mean loss in 50 digits, a plain loop."""

    def layer(name: str, values: list[Any]) -> list[Any]:
        rows = zip(state[f"{name}.weight"], state[f"{name}.bias"], strict=True)
        return [mpmath.mpf(b) + mpmath.fsum(w * v for w, v in zip(row, values, strict=True)) for row, b in rows]

    total, counted = mpmath.mpf(0), mpmath.mpf(0)
    for image, target in zip(x.double().tolist(), y.double().tolist(), strict=True):
        hidden = [max(v, mpmath.mpf(0)) for v in layer("0", [mpmath.mpf(v) for v in image])]
        slope = mpmath.mpf((1 / 8 + 1 / 3) / 2)  # in float64, as PyTorch has it
        hidden = [v if v > 0 else slope * v for v in layer("2", hidden)]
        z = layer("4", hidden)
        if isinstance(loss, nn.Module):
            each, weight = exact_in_setting(loss, z, target)
            total, counted = total + each, counted + weight
        elif loss == "cross_entropy":
            total += mpmath.log(mpmath.fsum(map(mpmath.exp, z))) - z[int(target)]
        elif loss == "bce":
            total += mpmath.fsum(mpmath.log(1 + mpmath.exp(v)) - t * v for v, t in zip(z, target, strict=True)) / 3
        else:
            total += mpmath.fsum((v - t) ** 2 for v, t in zip(z, target, strict=True)) / 3
    return total / (counted or len(x))


def exact_in_setting(known: Any, z: list[Any], target: Any) -> tuple[mpmath.mpf, mpmath.mpf]:
    """What a sample adds to one of PyTorch's losses and to what that is divided by, from its documentation."""
    one = mpmath.mpf(1)
    count = one / (1 if known.reduction != "sum" else 7)  # samples are as many
    if isinstance(known, nn.MSELoss):
        return mpmath.fsum((v - t) ** 2 for v, t in zip(z, target, strict=True)), count
    if isinstance(known, nn.BCEWithLogitsLoss):
        positive = one if known.pos_weight is None else mpmath.mpf(float(known.pos_weight))
        sides = [positive * t * mpmath.log(1 + mpmath.exp(-v)) + (1 - t) * mpmath.log(1 + mpmath.exp(v))
                 for v, t in zip(z, map(mpmath.mpf, target), strict=True)]  # fmt: skip
        return mpmath.fsum(sides), count if known.reduction == "sum" else mpmath.mpf(3)
    weights = [one] * 3 if known.weight is None else list(map(mpmath.mpf, known.weight.tolist()))
    top, smooth = mpmath.log(mpmath.fsum(map(mpmath.exp, z))), mpmath.mpf(known.label_smoothing)
    costs = [w * (top - v) for w, v in zip(weights, z, strict=True)]
    if isinstance(target, list):
        shares = [(1 - smooth) * mpmath.mpf(t) + smooth / 3 for t in target]
        return mpmath.fsum(s * c for s, c in zip(shares, costs, strict=True)), count
    there = int(target) != known.ignore_index
    if known.reduction == "mean":
        count = weights[int(target)] * there
    return there * ((1 - smooth) * costs[int(target)] + smooth * mpmath.fsum(costs) / 3), count


@pytest.mark.parametrize("loss", ["bce", "cross_entropy", "mse", *SETTINGS])
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e5])
def test_rounding_is_within_the_bounds_in_50_digits(loss: str, scale: float) -> None:
    """Also where weights of opposite ends, and losses of a size of 1e10, cancel."""
    meant: Any = SETTINGS[loss][0] if loss in SETTINGS else loss
    problem = problem_of(perceptron, (4,), meant)
    summed = loss in SETTINGS and meant.reduction == "sum"
    ends = drawn(perceptron, 3), {k: -v + 1e-3 for k, v in drawn(perceptron, 3).items()}
    ends = tuple({k: v * (scale if k == "4.weight" else 1) for k, v in end.items()} for end in ends)
    segments = segments_of(objective_of(problem.averaged if summed else problem), *ends, times=7 if summed else 1)
    places = [0.0, 1.0, 0.5, 0.5 - 1e-9, 1 / 3, 0.8125]
    found = segments(*cells(*((place, 0.0) for place in places)))
    source = problem.data()
    with mpmath.workdps(50):
        for number, alpha in enumerate(places):
            a = mpmath.mpf(alpha)
            state: Any = {
                k: np.vectorize(lambda p, q, a=a: (1 - a) * mpmath.mpf(p) + a * mpmath.mpf(q), otypes=[object])(
                    ends[0][k].double().numpy(), ends[1][k].double().numpy()
                )
                for k in ends[0]
            }
            exact = exact_loss(state, source.inputs, source.targets, meant)
            assert abs(exact - mpmath.mpf(float(found.terms[0][number]))) <= float(found.error[number])
    assert bool((found.error <= 1e-10 * (found.terms[0].abs() + scale)).all())


def test_small_losses_keep_their_digits() -> None:
    """Cross-entropies of 1e-40, which a difference of logarithms makes 0."""
    x = torch.ones(2, 1)
    for loss, y in (("cross_entropy", torch.tensor([0, 0])), ("bce", torch.tensor([[1.0, 0.0]] * 2))):
        problem = Problem.from_model(lambda: nn.Linear(1, 2, bias=False), (x, y), loss)
        end = {"weight": torch.tensor([[92.0], [0.0 if loss == "cross_entropy" else -92.0]])}
        segments = segments_of(objective_of(problem), end, end)
        assert float(segments(*cells((0.5, 0.0))).terms[0]) == pytest.approx(float(np.exp(-92.0)), rel=1e-12)


def certified(*ends: Any, problem: Any, **given: Any) -> Result:
    return landscape.walk(*ends, problem=problem, **{"certify": 1e-6, "points": 3, **given})


def test_the_maximum_of_two_linear_layers_is_the_closed_form() -> None:
    """A product w of weights 1 - 2 alpha has the loss (1 - w^2)^2 mean x^2: the mean of squares in the middle."""
    x = torch.linspace(-1, 1, 32)[:, None]
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    problem = Problem.from_model(network, (x, x), "mse")
    one, other = ({f"{i}.weight": torch.tensor([[w]]) for i in (0, 1)} for w in (1.0, -1.0))
    found = certified(one, other, problem=problem, points=4, certify=1e-10)
    peak = float(x.double().square().mean())
    for name in ("max", *DEFINITIONS):
        assert found[f"{name}_lower"][0] <= peak <= found[f"{name}_upper"][0] <= peak * (1 + 1.1e-10)
    assert found["peak_low"][0] <= 0.5 <= found["peak_high"][0]
    assert found["peak_high"][0] - found["peak_low"][0] < 3e-3
    low, high = barriers(found).low_by["above_chord"][:, 0]  # no point of the grid is in the middle
    assert 0 < low <= high
    assert high == pytest.approx(peak - peak * (1 - 1 / 9) ** 2, abs=1e-6)


def spike(place: float, width: float) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """A line whose loss is a peak of height 4 at a place, and 1 elsewhere: three units of steep input weights."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))

    problem = Problem.from_model(build, (torch.ones(1, 1), torch.full((1, 1), -1.0)), "mse")
    offsets = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    one, other = (
        {
            "0.weight": (a - place) / width + offsets,
            "2.weight": torch.tensor([[1.0, -2.0, 1.0]]),
            "2.bias": torch.zeros(1),
        }
        for a in (0, 1)
    )
    return problem, one, other


@pytest.mark.parametrize(("place", "width"), [(0.5171, 1e-3), (0.123456, 1e-6), (0.98999, 1e-4)])
def test_a_peak_that_51_points_miss_is_found(place: float, width: float) -> None:
    problem, one, other = spike(place, width)
    found = landscape.walk(one, other, problem=problem, dtype=torch.float64, certify=1e-6)
    assert found.loss.max() == pytest.approx(1)
    assert 4 - 5e-6 <= found["max_lower"][0] <= 4 + 1e-7
    assert 4 - 1e-7 <= found["max_upper"][0] <= 4 + 5e-6
    assert found["peak_low"][0] <= place <= found["peak_high"][0]
    assert found["peak_high"][0] - found["peak_low"][0] < width
    assert barriers(found).low_by["above_chord"][:, 0] == pytest.approx([3, 3], abs=1e-5)


@pytest.mark.slow
def test_no_upper_bound_is_below_the_maximum_of_5001_points() -> None:
    """In every definition, for lines from the presolved network of Life to trained ones."""
    found = landscape.walk(
        "presolve", [f"{RUN}/#{seed}" for seed in range(40)], points=5001, dtype=torch.float64, certify=1e-6
    )
    fine = barriers(found)
    assert (found.loss.max(1) <= found["max_upper"]).all()
    assert (found["max_upper"] - found["max_lower"] <= 1e-6 * found["max_lower"] + 1.1e-12).all()
    assert (found["max_lower"] - found.loss.max(1) <= 2e-3 * found["max_upper"]).all()
    for name in DEFINITIONS:
        assert (getattr(fine, name) <= fine.bounds[name][1]).all()
    highest = found.alpha[found.loss.argmax(1)]
    assert ((found["peak_low"] - 2e-4 <= highest) & (highest <= found["peak_high"] + 2e-4)).all()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("network", ["mobile", "unet"])
def test_no_upper_bound_is_below_the_maximum_of_5001_points_in_any_setting(network: str, setting: str) -> None:
    (build, shape), loss = NETWORKS[network], SETTINGS[setting][0]
    problem, ends = problem_of(build, shape, loss), [drawn(build, seed) for seed in (7, 8)]
    options: dict[str, Any] = {"batchnorm": "interpolate"} if network == "mobile" else {}
    found = certified(*ends, problem=problem, points=5001, dtype=torch.float64, certify=1e-3, **options)
    for name in ("max", "above_chord"):
        assert (
            found[f"{name}_lower"][0]
            <= found[f"{name}_upper"][0]
            <= found[f"{name}_lower"][0] + 1e-3 * found.loss.max()
        )
    assert found["max_lower"][0] * (1 - 1e-4) <= found.loss.max() <= found["max_upper"][0] * (1 + 1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_many_points_of_random_networks_stay_below_the_upper_bound(network: str, seed: int) -> None:
    build, shape = NETWORKS[network]
    problem, ends = problem_of(build, shape, "cross_entropy"), [drawn(build, seed + i) for i in range(2)]
    options = {"batchnorm": "interpolate"} if network in ("convolutional", "residual", "mobile") else {}
    found = certified(
        *ends, problem=problem, points=501, dtype=torch.float64, certify=1e-3, engine="stacked", **options
    )
    assert found.loss.max() <= found["max_upper"][0]
    assert found["max_upper"][0] <= found["max_lower"][0] * (1 + 1.01e-3)
    assert found["max_lower"][0] <= found.loss.max() * 1.05


def test_lines_through_places_random_directions_and_parts_are_bounded() -> None:
    problem = problem_of(perceptron, (4,), "mse")
    a, b, c = (drawn(perceptron, seed) for seed in range(3))
    options: dict[str, Any] = {"problem": problem, "points": 1001, "dtype": torch.float64, "certify": 1e-4}
    for found in (
        landscape.walk(a, b, via=[c], **options),
        landscape.walk(a, rays=[0, 1, 2], **options),
        landscape.walk(a, b, only=["2.*"], **options),
        landscape.walk(a, b, per="layer", hold="end", **options),
        landscape.walk(a, b, span=(-1, 2), **options),
    ):
        inside = found.loss[:, found.inside]
        assert (inside.max(1) <= found["max_upper"]).all()
        assert (inside.max(1) >= found["max_lower"] * (1 - 1e-3)).all()
        place = found.alpha[found.inside][inside.argmax(1)]
        assert ((found["peak_low"] - 2e-3 <= place) & (place <= found["peak_high"] + 2e-3)).all()
        for name, (low, high) in barriers(found).bounds.items():
            height = getattr(barriers(found), name)
            assert (height <= high).all()
            assert (low <= height + 2e-3 * found["max_upper"]).all()


def test_lines_that_are_bounded_are_told_and_kept_and_the_same_walk_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: Any = ("presolve", [f"{RUN}/#{seed}" for seed in range(9)])
    given: dict[str, Any] = {"points": 5, "certify": 1e-4, "save": tmp_path / "x.h5"}
    bounded, told, called = certify._bounded, list[tuple[int, int]](), list[int]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        called.append(1)
        if len(called) == 3:  # after one line and two
            raise KeyboardInterrupt
        return bounded(*arguments, **options)

    monkeypatch.setattr(certify, "_bounded", interrupted)
    monkeypatch.setattr(certify, "_CHECKED", 1)  # one line at first, then two
    with pytest.raises(KeyboardInterrupt):
        landscape.walk(*ends, **given, progress=lambda *each: told.append(each))
    assert told[-1] == (3, 9)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lines-00000000.npz", "plan.json", "x.h5.bounds"]
    with pytest.raises(Mismatch, match=r"x\.h5\.bounds keeps lines of other work: .*tolerance"):
        landscape.walk(*ends, **{**given, "certify": 1e-5})

    def afterwards(*arguments: Any, **options: Any) -> Any:
        columns = bounded(*arguments, **options)
        again.append(len(columns["max_lower"]))
        return columns

    again = list[int]()
    told.clear()
    monkeypatch.setattr(certify, "_bounded", afterwards)
    found = landscape.walk(*ends, **given, progress=lambda *each: told.append(each))
    lines, points = ([each for each in told if each[1] == total] for total in (9, 45))
    assert sum(again) == 6  # the others were kept
    assert told == lines + points
    assert sorted(lines) == lines
    assert (lines[-1], points[-1]) == ((9, 9), (45, 45))
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    monkeypatch.setattr(certify, "_bounded", bounded)
    straight = landscape.walk(*ends, **{**given, "save": None})
    for name in ("max_lower", "max_upper", "peak_low", "above_chord_upper", "bound_cells"):
        assert found[name].tolist() == straight[name].tolist()


def test_the_budget_is_kept_and_what_is_not_reached_is_said(caplog: pytest.LogCaptureFixture) -> None:
    build, shape = NETWORKS["called"]
    problem, ends = problem_of(build, shape, "cross_entropy"), [drawn(build, seed, 3) for seed in range(2)]
    found = certified(*ends, problem=problem, certify_cells=16)
    assert re.search(r"not reached on 1 line of 1; on line 0 the bounds are .* after 1[0-6] cells", caplog.text)
    assert found["bound_cells"][0] <= 16
    fine = landscape.walk(*ends, problem=problem, points=501, dtype=torch.float64)
    assert max(found["max_lower"][0], fine.loss.max()) <= found["max_upper"][0]


@pytest.mark.parametrize("lost", [(1,), (0, 1, 2)])
def test_a_loss_that_is_not_finite_at_an_end_leaves_the_bounds_of_other_lines(
    lost: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Products of weights of 1e200 overflow; the other lines have the bounds that they have alone."""
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    problem = Problem.from_model(perceptron, (x, torch.arange(20) % 3), "cross_entropy")
    starts = [{name: each.double() for name, each in drawn(perceptron, seed).items()} for seed in range(3)]
    for number in lost:
        starts[number] = {name: each * 1e200 for name, each in starts[number].items()}
    how: dict[str, Any] = {"problem": problem, "points": 5, "certify": 1e-3, "dtype": torch.float64}
    end = drawn(perceptron, 9)
    found = landscape.walk(starts, [end], **how, save=tmp_path / "walk.h5")
    assert f"{plural(len(lost), 'line')} of 3 without bounds" in caplog.text
    assert f"the loss at an end of line {lost[0]} is not finite" in caplog.text
    bounds = ("max_lower", "max_upper", "peak_low", "above_chord_lower", "above_mean_upper", "above_higher_end_upper")
    for number in range(3):
        alone = None if number in lost else landscape.walk([starts[number]], [end], **how)
        for name in bounds:
            assert np.isnan(found[name][number]) if alone is None else found[name][number] == alone[name][0]
    shown = CliRunner().invoke(main, ["analyse", "barriers", str(tmp_path / "walk.h5")])
    assert shown.exit_code == 0, shown.output
    assert f"without bounds: {len(lost)} line" in shown.stdout
    assert "nan" not in shown.stdout.partition("medians of")[2].partition("without")[0]


def test_members_are_bounded_alike_alone_and_together() -> None:
    together = landscape.walk("presolve", [f"{RUN}/#{seed}" for seed in range(12)], points=2, certify=1e-5)
    alone = landscape.walk("presolve", f"{RUN}/#7", points=2, certify=1e-5)
    for name in ("max_lower", "max_upper", "above_chord_lower", "above_chord_upper", "peak_low", "peak_high"):
        assert alone[name].tolist() == together[name][7:8].tolist()


def test_a_wrong_rule_is_found_by_the_plain_module(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, ends = problem_of(perceptron, (4,), "mse"), [drawn(perceptron, seed) for seed in range(2)]
    monkeypatch.setitem(enclosures.RULES, nn.ReLU, lambda step, cells, x: x)  # type: ignore[call-overload]
    with pytest.raises(Unverified, match=r"the plain module's loss is .*`certify` is wrong for this model"):
        certified(*ends, problem=problem)


X = torch.linspace(-1, 1, 8)[:, None]


def of(*layers: nn.Module, loss: Any = "mse", y: Tensor = X, **given: Any) -> Any:
    return Problem.from_model(lambda: nn.Sequential(nn.Linear(1, 1), *layers), (X, y), loss, **given)


class Scaled(nn.Module):
    """A quotient of units."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x + 3)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "smooth activations": (lambda: of(nn.Tanh()), {}, r"1 \(Tanh\) has no bound along a line: `certify` knows Linear"),
    "quotients of units": (lambda: of(Scaled()), {}, r"truediv has no bound along a line"),
    "layers that make a difference": (lambda: of(nn.LayerNorm(1)), {}, r"1 \(LayerNorm\) has no bound"),
    "other losses": (lambda: of(loss=nn.HuberLoss()), {}, "with weights, .*and HuberLoss is another"),
    "losses of one's own": (lambda: of(loss=lambda o, t: ((o - t) ** 4).mean(1)), {}, "and this loss is another"),
    "sums of samples with weights": (
        lambda: Problem.from_model(nn.Linear(1, 1), (X, X, torch.ones(8)), nn.MSELoss(reduction="sum")),
        {},
        "samples that weigh the same: leave their weights out",
    ),
    "weights below 0": (
        lambda: of(nn.Linear(1, 2), loss=nn.CrossEntropyLoss(torch.tensor([1.0, -1.0])), y=torch.arange(8) % 2),
        {},
        "with weights and shares that are not below 0",
    ),
    "targets beyond 0 and 1": (lambda: of(loss="bce"), {}, "targets from 0 to 1"),
    "penalties": (lambda: of(l2=0.1), {}, "has a penalty of its parameters: leave `certify` out"),
    "losses of batches": (
        lambda: Problem.from_model(nn.Linear(1, 1), (X, X), batch_loss=lambda model, batch: model(batch[0]).sum()),
        {},
        "losses of outputs and targets, and `batch_loss` is another",
    ),
    "streams": (
        lambda: Problem.from_model(nn.Linear(1, 1), torch.utils.data.DataLoader([(x, x) for x in X]), "mse"),
        {},
        "all data at once, which is streamed here",
    ),
    "statistics that are estimated anew": (lambda: of(nn.BatchNorm1d(1)), {}, "`batchnorm=.interpolate.`, or keep"),
    "low precision": (lambda: of(), {"autocast": torch.bfloat16}, "leave `autocast` out"),
    "draws": (lambda: of(nn.Dropout(0.5), mode="as_is"), {"draws": 2}, "leave `draws` out"),
    "arcs": (lambda: of(), {"path": "slerp"}, "on straight lines: leave `path` out"),
    "penalties of the walk": (lambda: of(), {"l2": 0.1}, "a loss without a penalty: leave `l2` out"),
    "boards": (lambda: Life(steps=2, m_factor=1), {}, "not of boards or whole numbers"),
    "shares beyond 1": (lambda: of(), {"certify": 2.0}, "`certify` is 2.0, it must be positive and below 1"),
    "a budget alone": (lambda: of(), {"certify": None, "certify_cells": 50}, "ask for them with `certify`"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_bound_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    make, given, words = REFUSED[what]
    problem = make()
    ends = [template_of(problem.network()).state_dict(0) for _ in range(2)]
    with pytest.raises(LandscapeError, match=words) as error:
        certified(*ends, problem=problem, save=tmp_path / "x.h5", **given)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_variance_that_falls_to_0_is_bounded_by_its_eps() -> None:
    problem = of(nn.BatchNorm1d(1))
    ends = [template_of(problem.network()).state_dict(0) for _ in range(2)]
    ends[1]["1.running_var"] = torch.zeros(1)
    found = certified(*ends, problem=problem, batchnorm="interpolate", points=501, dtype=torch.float64)
    assert found.loss.max() <= found["max_upper"][0] <= found["max_lower"][0] * (1 + 1.01e-6)


def test_a_table_of_a_grid_says_by_how_much_some_lines_are_low(
    landscape: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    path, sure = tmp_path / "grid.h5", tmp_path / "sure.h5"
    walk = ("walk", "--from", "presolve", "--to", run, "--points", "11")
    landscape(*walk, "-o", path)
    landscape(*walk, "-o", sure, "--certify", "1e-4")
    curves, bounds = Result.read(path), Result.read(sure)["max_upper"]
    found = grid_error(curves, lines=30)
    assert found is not None
    assert len(set(found.lines.tolist())) == 30
    low = 1 - curves.loss.max(1)[found.lines] / bounds[found.lines]
    assert found.low_by == pytest.approx(low.clip(min=0), abs=2e-4)
    every = grid_error(curves.select(slice(0, 5)), lines=100)
    assert every is not None
    assert sorted(every.lines.tolist()) == list(range(5))
    shown = landscape("analyse", "barriers", path).stdout
    assert re.search(
        r"the highest of 11 points is low by up to .* at most, on 20 of 1000 lines, drawn at random", shown
    )
    told = json.loads(landscape("analyse", "barriers", path, "--json").stdout)["grid_low_by"]
    assert len(told["lines"]) == len(told["of_highest_loss"]) == 20
    assert "drawn at random" not in landscape("analyse", "barriers", path, "--bound-lines", "0").stdout
    # Nothing is told of what is known already, takes too long, is of another loss, or whose ends are gone.
    assert grid_error(Result.read(sure)) is None
    assert grid_error(curves, seconds=0) is None
    assert grid_error(dataclasses.replace(curves, values={"loss": curves.loss * 2})) is None
    run.rename(tmp_path / "elsewhere")
    assert grid_error(curves) is None
    assert "drawn at random" not in landscape("analyse", "barriers", path).stdout


def test_nothing_is_told_of_lines_that_cannot_be_walked_again() -> None:
    ends: list[Any] = [f"{RUN}/#0", f"{RUN}/#1"]
    alone = grid_error(landscape.walk(*ends, points=5))
    assert alone is not None
    beside = grid_error(landscape.walk(*ends, points=5, align=True))  # of the line to the end as it is
    assert beside is not None
    np.testing.assert_array_equal(beside.low_by, alone.low_by)
    more: list[dict[str, Any]] = [{"rays": [0]}, {"via": [f"{RUN}/#2"]}, {"per": "layer"}]
    for options in more:
        places = ends[:1] if "rays" in options else ends
        assert grid_error(landscape.walk(*places, points=5, **options)) is None
    problem = problem_of(perceptron, (4,), "mse")
    held = landscape.walk(*(drawn(perceptron, seed) for seed in (0, 1)), problem=problem, points=5)
    assert grid_error(held) is None  # in no file


def test_a_file_keeps_the_bounds_and_the_command_line_shows_them(
    landscape: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = tmp_path / "line.h5"
    landscape("walk", "--from", "presolve", "--to", f"{RUN}/#3", "--certify", "1e-5", "--points", "11", "-o", path)
    found = Result.read(path)
    assert found.about["certified"]["tolerance"] == 1e-5
    assert found["max_upper"][0] <= found["max_lower"][0] * (1 + 1.01e-5)
    shown = landscape("analyse", "barriers", path).stdout
    assert "grid low by at most" in shown
    assert "(1e-05 was asked for)" in shown
    refused = landscape("walk", "--from", "presolve", "--to", f"{RUN}/#3", "--certify", "2", "-o", tmp_path / "no.h5")
    assert refused.exit_code == 1
    assert "--certify is 2.0, it must be positive and below 1" in refused.stderr
