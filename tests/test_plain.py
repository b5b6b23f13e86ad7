"""One live network: what is written into it is the point, bit for bit, and its own forward is what counts."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape
from landscape import Problem
from landscape.core.errors import LandscapeError, Unsupported, Unverified
from landscape.engine.kernels import plain_attention
from landscape.engine.live import Live, Point, copied, is_spread, mix_into
from landscape.engine.memory import fitting_batch
from landscape.engine.stack import Stack, finite, stack_state_dicts, template_of
from landscape.space import family
from landscape.space.family import Family, Marked


class Net(nn.Module):
    """Convolution with BatchNorm, a buffer of whole numbers, and a layer that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.head, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.head.weight
        self.out = nn.Linear(32, 3)
        self.register_buffer("steps", torch.randint(0, 9, (2,)))
        self.register_buffer("mask", torch.tensor([[0.0, -math.inf], [0.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x[:, None])))
        return self.out(self.again(torch.relu(self.head(x))).flatten(1))


def network(seed: int) -> Net:
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.out.bias.copy_(torch.tensor([0.3, -0.7, 0.1]))  # all networks share it
        net.conv.weight[0] = 1.7
    return net


def stack(*seeds: int) -> Stack:
    stacks = [template_of(network(seed)) for seed in seeds]
    return Stack(
        {name: torch.cat([each.tensors[name] for each in stacks]) for name in stacks[0].tensors},
        {name: torch.cat([each.buffers[name] for each in stacks]) for name in stacks[0].buffers},
    )


def directions(*seeds: int) -> Stack:
    return Stack(dict(stack(*seeds).tensors))


def on_a_plane() -> Family:
    marked = Marked(stack(0, 5), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.25]), torch.tensor([0.0, 0.0]))
    return family.plane(stack(0), directions(1), directions(2), marked)


FAMILIES: dict[str, Callable[[], Family]] = {
    "line": lambda: family.line(stack(0, 1), stack(2, 3)),
    "polyline": lambda: family.polyline([stack(0, 1), stack(2, 3), stack(4, 5)]),
    "bezier": lambda: family.bezier([stack(0, 1), stack(2, 3), stack(4, 5)]),
    "ray": lambda: family.ray(stack(0, 1), directions(2, 3)),
    "slerp": lambda: family.slerp(stack(0, 1), stack(2, 3)),
    "partial slerp": lambda: family.partial(
        family.slerp(stack(0, 1), stack(2, 3)), [frozenset(["out.weight", "steps"])]
    ),
    "partial": lambda: family.partial(family.line(stack(0, 1), stack(2, 3)), [frozenset(["out.weight", "steps"])]),
    "plane": on_a_plane,
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_written_is_the_point_bit_for_bit(kind: str) -> None:
    points = FAMILIES[kind]()
    alphas = torch.tensor([0.0, 0.25, 0.5, 0.7, 1.0, -0.25, 1.25, 0.5], dtype=torch.float64)
    if kind == "plane":
        first, second = alphas.flip(0), alphas
    else:
        first, second = torch.arange(len(alphas)) % 2, alphas
    wanted, live = points.at(first, second), Live(network(7))
    for number, point in enumerate(points.points(first, second).mixtures()):
        live.write(point)
        expected = wanted.state_dict(number)
        written = live.state()
        assert expected.keys() <= written.keys()
        for name, tensor in expected.items():
            assert torch.equal(written[name], tensor), name
        assert live.module.again.weight is live.module.head.weight


def test_types_and_weights_of_all_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    half, single, double = (
        torch.randn(50, generator=generator).to(each) for each in (torch.float16, torch.float32, torch.float64)
    )
    for out in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        target = torch.empty(50, dtype=out)
        mix_into(target, [(0.3, half), (0.5, single), (0.2, double)])
        assert torch.equal(target, (0.3 * half.double() + 0.5 * single.double() + 0.2 * double).to(out))
    complex_ = torch.complex(single, double.float())
    target = torch.empty(50, dtype=torch.complex64)
    mix_into(target, [(0.25, complex_), (0.75, complex_.conj())])
    torch.testing.assert_close(target, torch.complex(single, -0.5 * double.float()))
    whole = torch.empty(3, dtype=torch.int64)
    mix_into(whole, [(0.4, torch.tensor([1, 2, 3])), (0.6, torch.tensor([4, 5, 6]))])
    assert whole.tolist() == [4, 5, 6]


def test_an_infinite_end_does_not_spoil_the_other() -> None:
    live = Live(nn.Linear(1, 1, bias=False))
    ends = {"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[math.inf]])}
    live.write(Point((1.0, 0.0), ends))
    assert live.module.weight.item() == 2
    live.write(Point((0.0, 1.0), ends))
    assert live.module.weight.item() == math.inf


class Spread(nn.Module):
    """Two layers, each on a device of its own."""

    def __init__(self, first: str = "cpu", second: str = "cpu") -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 5, device=first), nn.Linear(5, 3, device=second)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x.to(self.first.weight.device)))
        outputs: Tensor = self.second(hidden.to(self.second.weight.device))
        return outputs.to(x.device)


def test_a_model_on_several_devices_stays_where_it_is() -> None:
    """The meta device has no numbers, but a place."""
    made = copied(Spread("cpu", "meta"), device="cpu", dtype=torch.float64)
    assert [(each.device.type, each.dtype) for each in made.parameters()][1:3] == [
        ("cpu", torch.float64),
        ("meta", torch.float64),
    ]
    assert is_spread(made)
    assert {each.device.type for each in copied(Spread(), device="meta").parameters()} == {"meta"}


@pytest.mark.gpu
def test_a_model_on_several_devices_has_the_numbers_of_one_on_a_single_one() -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 3
    a, b = Spread().state_dict(), Spread().state_dict()
    found = [
        landscape.walk(a, b, problem=Problem.from_model(make, (x, y), "cross_entropy"), points=5, engine="plain")[
            "loss"
        ]
        for make in (Spread, lambda: Spread("cuda", "cpu"), lambda: Spread("cpu", "cuda"), Spread("cuda", "cpu"))
    ]
    for each in found[1:]:
        np.testing.assert_allclose(each, found[0], rtol=1e-5)


def test_the_module_that_is_given_is_never_changed() -> None:
    net = network(0)
    before = copy.deepcopy(net.state_dict())
    x, y = torch.randn(40, 8), torch.arange(40) % 3
    problem = Problem.from_model(net, (x, y), "cross_entropy")
    landscape.walk(network(1), network(2), problem=problem, points=5, engine="plain")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert net.norm.momentum == 0.1


@pytest.mark.parametrize("path", ["straight", "slerp"])
@pytest.mark.parametrize("batchnorm", ["recalibrate", "interpolate"])
@pytest.mark.parametrize("streamed", [False, True])
def test_it_agrees_with_the_stacked_engine(path: Any, batchnorm: Any, streamed: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(90, 8), torch.arange(90) % 3
    data: Any = DataLoader(TensorDataset(x, y), batch_size=32) if streamed else (x, y)
    problem = Problem.from_model(Net, data, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])))
    lines = [
        landscape.walk(network(1), network(2), problem=problem, path=path, points=7, engine=engine, batchnorm=batchnorm)
        for engine in ("plain", "stacked")
    ]
    for name in lines[1].values:
        np.testing.assert_allclose(lines[0][name], lines[1][name], rtol=2e-5)
    point = lines[0].model_at(0.5)
    with torch.no_grad():
        loss = F.cross_entropy(point.eval()(x), y, weight=torch.tensor([1.0, 2.0, 0.5]))
    assert lines[0]["loss"][0, 3] == pytest.approx(float(loss), rel=1e-5)


def test_a_policy_of_batchnorm_that_is_left_as_it_is_is_refused() -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 3
    problem = Problem.from_model(Net, (x, y), "cross_entropy", mode="as_is")
    with pytest.raises(Unsupported, match="BatchNorm of Net is left as it is: leave `batchnorm` out"):
        landscape.walk(network(1), network(2), problem=problem, points=3, batchnorm="interpolate")


def test_a_line_has_the_same_numbers_in_any_company() -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 3
    problem = Problem.from_model(Net, (x, y), "cross_entropy")
    places = [network(seed).state_dict() for seed in range(4)]
    together = problem.plain()(stack_state_dicts(places))["loss"]
    for number in (2, 0, 3):
        assert torch.equal(problem.plain()(stack_state_dicts([places[number]]))["loss"], together[number : number + 1])


class Remembering(nn.Linear):
    """One whose answers depend on those before."""

    def __init__(self) -> None:
        super().__init__(8, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x) * (1 + self.seen)


def test_a_forward_that_remembers_is_named() -> None:
    problem = Problem.from_model(Remembering, (torch.randn(9, 8), torch.arange(9) % 3), "cross_entropy")
    with pytest.raises(Unverified, match=r"not deterministic|changes seen"):
        landscape.walk(Remembering(), Remembering(), problem=problem, points=3, engine="plain")


def test_a_forward_that_replaces_a_buffer_still_gets_each_points() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 3)
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x) * self.scale
            self.scale = self.scale * 1.0
            return found

    x, y = torch.randn(9, 8), torch.arange(9) % 3
    a, b = Counting(), Counting()
    b.scale.fill_(3.0)
    problem = Problem.from_model(Counting, (x, y), "cross_entropy")
    found = landscape.walk(a, b, problem=problem, points=3, engine="plain")["loss"][0]
    assert found[2] == pytest.approx(F.cross_entropy(b(x), y).item(), rel=1e-6)


# Derivatives ----------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def labelled(count: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator), torch.randint(0, 2, (count,), generator=generator)


def hessian_by_hand(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    module = copy.deepcopy(module).double()
    names, tensors = zip(*module.named_parameters(), strict=True)

    def height(flat: Tensor) -> Tensor:
        pieces = flat.split([each.numel() for each in tensors])
        state = {name: piece.view_as(each) for name, piece, each in zip(names, pieces, tensors, strict=True)}

        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module

            def forward(self) -> Tensor:
                return loss(self.inner)

        return torch.func.functional_call(Wrapped(), {f"inner.{name}": each for name, each in state.items()}, ())

    flat = torch.cat([each.detach().flatten() for each in tensors])
    return torch.autograd.functional.hessian(height, flat)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_curvature_of_a_loss_that_reads_a_model_and_a_batch(batch_size: int | None) -> None:
    x, y = labelled()

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"].to(next(model.parameters()).dtype)), batch["y"])

    torch.manual_seed(0)
    net = Small()
    problem = Problem.from_model(net, {"x": x, "y": y}, batch_loss=loss, batch_size=batch_size)
    found = landscape.curvature(net, problem=problem, top=3, trace=True)
    matrix = hessian_by_hand(net, lambda model: F.cross_entropy(model(x.double()), y))
    values = torch.linalg.eigvalsh(matrix)
    largest = values[values.abs().argsort(descending=True)][:3]
    np.testing.assert_allclose(found.eigenvalues[0], largest, rtol=1e-9)
    assert found.trace is not None
    assert found.trace.values[0] == pytest.approx(float(values.sum()), rel=1e-9)
    named = Problem.from_model(net, (x, y), "cross_entropy")
    for engine in ("plain", "stacked"):
        other = landscape.curvature(net, problem=named, top=3, engine=engine)
        np.testing.assert_allclose(other.eigenvalues, found.eigenvalues, rtol=1e-9)
        np.testing.assert_allclose(other.gradient_norm, found.gradient_norm, rtol=1e-9)


def test_second_derivatives_of_attention() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.out = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(x[:, None] * torch.ones(1, 3, 8)).mean(1))

    torch.manual_seed(0)
    net, (x, y) = Reader(), labelled(12)
    problem = Problem.from_model(net, (x[:, :1], y), "cross_entropy")
    found = landscape.curvature(net, problem=problem, tolerance=1e-8, engine="plain")
    with plain_attention():  # the fused one has no second derivative
        matrix = hessian_by_hand(net.eval(), lambda model: F.cross_entropy(model(x[:, :1].double()), y))
    values = torch.linalg.eigvalsh(matrix)
    assert found.eigenvalues[0, 0] == pytest.approx(float(values[values.abs().argmax()]), rel=1e-6)


def test_curves_and_planes_of_a_loss_that_reads_a_model_and_a_batch() -> None:
    x, y = labelled()
    torch.manual_seed(0)
    a, b, c = Small(), Small(), Small()
    problem = Problem.from_model(a, (x, y), batch_loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    named = Problem.from_model(a, (x, y), "cross_entropy")
    curves = [
        landscape.connect(a, b, problem=each, method="bezier", steps=20, points=5, engine="plain")
        for each in (problem, named)
    ]
    stacked = landscape.connect(a, b, problem=named, method="bezier", steps=20, points=5, engine="stacked")
    np.testing.assert_allclose(curves[0]["loss"], stacked["loss"], rtol=1e-4)
    np.testing.assert_allclose(curves[1]["loss"], curves[0]["loss"], rtol=1e-5)
    plane = landscape.plane(a, b, c, problem=problem, points=5)
    np.testing.assert_allclose(
        plane["loss"], landscape.plane(a, b, c, problem=named, points=5, engine="stacked")["loss"], rtol=1e-5
    )


def test_the_hessian_of_some_parameters_is_a_block_of_the_whole() -> None:
    torch.manual_seed(0)
    net, (x, y) = Small(), labelled()
    matrix = hessian_by_hand(net, lambda model: F.cross_entropy(model(x.double()), y))
    problem = Problem.from_model(net, (x, y), "cross_entropy")
    block = torch.linalg.eigvalsh(matrix[16:, 16:])  # second.weight and second.bias
    wanted = block[block.abs().argsort(descending=True)][:2]
    for engine in ("plain", "stacked"):
        found = landscape.curvature(net, problem=problem, only=["second.*"], top=2, engine=engine)
        np.testing.assert_allclose(found.eigenvalues[0], wanted, rtol=1e-9)
        assert "of 10 of 26 (second.*) parameters" in repr(found)
        assert "on 30 samples" in found.caption()


def test_frozen_parameters_stay_unless_they_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net, (x, y) = Small(), labelled()
    net.first.requires_grad_(False)
    problem = Problem.from_model(net, (x, y), "cross_entropy")
    few, every = (landscape.curvature(net, problem=problem, all_parameters=each) for each in (False, True))
    assert (few.parameters, every.parameters) == (10, 26)
    assert "16 of 26 parameters are frozen" in caplog.text
    for moves in (False, True):
        line = landscape.walk(net, problem=problem, rays=[3], points=3, normalise="none", all_parameters=moves)
        state = line.model_at(1.0).state_dict()
        assert torch.equal(state["first.weight"], net.first.weight) == (not moves)
        assert not torch.equal(state["second.weight"], net.second.weight)
        plane = landscape.plane(net, problem=problem, points=3, all_parameters=moves)
        assert torch.equal(plane.model_at(1.0, 1.0).state_dict()["first.weight"], net.first.weight) == (not moves)
    other = Small()
    half = landscape.walk(net, other, problem=problem, points=3).model_at(0.5).state_dict()["first.weight"]
    torch.testing.assert_close(half, (net.first.weight + other.first.weight) / 2)
    net.requires_grad_(False)
    assert landscape.curvature(net, problem=Problem.from_model(net, (x, y), "cross_entropy")).parameters == 26


# Randomness on purpose ------------------------------------------------------------------------------------------------


def noisy(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss that is quadratic in the weights for each draw."""
    extra = np.random.rand() + torch.rand(()).item()  # noqa: NPY002
    return (model(batch) * torch.randn(len(batch), 1) - extra).square().mean()


def test_each_point_sees_the_same_random_numbers() -> None:
    x = labelled()[0]
    problem = Problem.from_model(nn.Linear(3, 1), x, batch_loss=noisy)
    torch.manual_seed(0)
    a, b = nn.Linear(3, 1), nn.Linear(3, 1)
    with pytest.raises(Unverified, match="`draws` gives each point the same random numbers"):
        landscape.walk(a, b, problem=problem, points=5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    lines = [landscape.walk(a, b, problem=problem, points=9, draws=count, seed=4) for count in (1, 6)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    for line in lines:
        second = np.diff(line["loss"][0], 2)
        np.testing.assert_allclose(second, second[0], rtol=1e-3)
    assert "loss_draw_se" not in lines[0].values
    assert (lines[1]["loss_draw_se"] > 0).all()
    assert lines[1].about["draws"] == {"count": 6, "seed": 4}
    again = landscape.walk(a, b, problem=problem, points=9, draws=6, seed=4)
    assert np.array_equal(again["loss"], lines[1]["loss"])
    assert not np.allclose(landscape.walk(a, b, problem=problem, points=9, draws=6, seed=5)["loss"], again["loss"])


@pytest.mark.slow
def test_each_batch_draws_numbers_of_its_own() -> None:
    def chance(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return torch.rand(()) + 0 * model(batch["x"]).sum()

    x = labelled()[0]
    stack = template_of(nn.Linear(3, 1))
    found = []
    for batches in (1, 2):
        problem = Problem.from_model(nn.Linear(3, 1), [{"x": x}] * batches, batch_loss=chance)
        objective = dataclasses.replace(problem.plain(), draws=1, draw_seed=3)
        found.append(float(objective(stack)["loss"]))
        assert found[-1] == float(objective.plain(stack)["loss"])
    assert found[0] != found[1]


def test_the_error_of_draws_is_their_spread() -> None:
    x = labelled()[0]
    problem = Problem.from_model(nn.Linear(3, 1), x, batch_loss=noisy)
    a = nn.Linear(3, 1)
    found = [landscape.walk(a, a, problem=problem, points=2, draws=40, seed=seed) for seed in range(30)]
    means = np.array([line["loss"][0, 0] for line in found])
    errors = np.array([line["loss_draw_se"][0, 0] for line in found])
    assert means.std(ddof=1) == pytest.approx(errors.mean(), rel=0.4)


@pytest.mark.slow
def test_dropout_that_is_left_on() -> None:
    torch.manual_seed(0)
    x, y = labelled()
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 2)).train()
    left = Problem.from_model(net, (x, y), "cross_entropy", mode="as_is")
    usual = Problem.from_model(net, (x, y), "cross_entropy")
    with pytest.raises(Unverified, match=r"Layer 2 \(Dropout\) draws random numbers"):
        landscape.walk(net, net, problem=left, points=2)
    found = landscape.walk(net, net, problem=left, points=2, draws=200)
    calm = landscape.walk(net, net, problem=usual, points=2)["loss"][0, 0]
    assert found["loss"][0, 0] > calm
    net.train()
    with torch.no_grad():
        drawn = np.array([F.cross_entropy(net(x), y).item() for _ in range(400)])
    assert found["loss"][0, 0] == pytest.approx(drawn.mean(), abs=5 * drawn.std() / 200**0.5)
    assert landscape.curvature(net, problem=left, draws=20, only=["3.*"]).eigenvalues[0, 0] > 0


# Long lines -----------------------------------------------------------------------------------------------------------


def test_a_line_goes_on_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.evaluation.evaluate._BLOCK_SECONDS", 0)  # a point at a time
    x, y = labelled()
    torch.manual_seed(0)
    a, b = Small(), Small()
    calls: list[int] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return F.cross_entropy(model(batch[0]), batch[1])

    problem = Problem.from_model(Small, (x, y), batch_loss=loss)
    whole = landscape.walk(a, b, problem=problem, points=11)

    def stop(done: int, total: int) -> None:
        assert total == 11
        if done == 4:
            raise KeyboardInterrupt

    path = tmp_path / "line.h5"
    with pytest.raises(KeyboardInterrupt):
        landscape.walk(a, b, problem=problem, points=11, save=path, progress=stop)
    assert sorted(item.name for item in (tmp_path / "line.h5.parts").iterdir()) == ["plan.json", "points-00000000.npz"]
    told: list[int] = []
    calls.clear()
    again = landscape.walk(a, b, problem=problem, points=11, save=path, progress=lambda done, _: told.append(done))
    assert told == [*range(5, 12)]
    assert np.array_equal(again["loss"], whole["loss"])
    assert [item.name for item in tmp_path.iterdir()] == ["line.h5"]
    with pytest.raises(KeyboardInterrupt):
        landscape.walk(a, b, problem=problem, points=11, save=path, progress=stop, overwrite=True)
    points = tmp_path / "line.h5.parts" / "points-00000000.npz"
    points.write_bytes(points.read_bytes()[:150])
    with pytest.raises(LandscapeError, match=r"is damaged .*: delete it, its points are evaluated again"):
        landscape.walk(a, b, problem=problem, points=11, save=path, overwrite=True)
    part = landscape.walk(a, b, problem=problem, points=11, progress=stop)
    assert np.array_equal(part["loss"][0, :4], whole["loss"][0, :4])
    assert np.isnan(part["loss"][0, 4:]).all()
    assert not part.done.any()
    plane = landscape.plane(a, b, Small(), problem=problem, points=(3, 4), progress=lambda *now: told.append(now[1]))
    assert plane["done"].all()
    assert told[-1] == plane["loss"].size


@pytest.mark.parametrize("kind", [name for name in FAMILIES if name != "plane"])
def test_lengths_of_large_networks_are_those_of_small_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = FAMILIES[kind]()
    wanted = lines.lengths()
    monkeypatch.setattr("landscape.space.family._LARGE", 7)
    for got, expected in zip(lines.lengths(), wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12 if kind != "bezier" else 1e-6, atol=0)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_the_ends_keep_the_number_that_their_owner_knows(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    x, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    a, b = network(1), network(2)
    problem = Problem.from_model(Net, (x, y), "cross_entropy")
    found = landscape.walk(a, b, problem=problem, points=3, engine=engine)
    with torch.no_grad():
        wanted = [F.cross_entropy(each.eval()(x), y).item() for each in (a, b)]
    assert [found["start_stored"][0], found["end_stored"][0]] == pytest.approx(wanted, rel=1e-5)
    assert abs(found["loss"][0, 0] - wanted[0]) > 0.01 * wanted[0]
    assert "with the statistics of the checkpoint" in caplog.text
    other = landscape.walk(a, b, problem=problem, points=3, engine=engine, batchnorm="interpolate")
    assert [other["loss"][0, 0], other["loss"][0, 2]] == pytest.approx(wanted, rel=1e-5)
    assert "start_stored" not in other.columns


def test_complex_buffers_keep_their_imaginary_part() -> None:
    class Turning(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.register_buffer("turn", torch.polar(torch.ones(2), torch.tensor([0.4, 1.1])))

        def forward(self, x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(super().forward(x).view(-1, 2, 2))
            return torch.view_as_real(pairs * self.turn).flatten(1)[:, :2]

    torch.manual_seed(0)
    x, y = labelled()
    a, b = Turning(), Turning()
    b.turn.mul_(torch.tensor(0.6 + 0.8j))
    half = copy.deepcopy(a)
    half.load_state_dict({name: (each + b.state_dict()[name]) / 2 for name, each in a.state_dict().items()})
    for dtype in (torch.float32, torch.float64):
        problem = Problem.from_model(Turning, (x, y), "cross_entropy")
        found = landscape.walk(a, b, problem=problem, points=3, engine="plain", dtype=dtype)
        for place, net in enumerate((a, half, b)):
            assert found["loss"][0, place] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)
        torch.testing.assert_close(found.model_at(0.5).turn, half.turn)


def test_finite_numbers_whose_sum_is_not_are_finite() -> None:
    tensor = torch.tensor([[3e38, 3e38], [1.0, torch.nan], [torch.inf, -torch.inf], [0.0, 0.0]])
    assert finite(tensor).tolist() == [True, False, False, True]


def test_a_batch_has_as_many_activations_as_there_are_parameters() -> None:
    """Each batch reads all parameters from memory: of few samples that would take longer than the products."""
    small, large = (nn.Sequential(nn.Flatten(), nn.Linear(2**14, width)) for width in (1, 256))
    inputs = torch.zeros(2, 2**14)
    with torch.no_grad():
        assert fitting_batch(small, inputs) == 32  # 2^19 numbers in a core's cache, 2^14 each
        activations = 2**14 + 256 + 256
        assert fitting_batch(large, inputs) == 2**14 * 256 // activations // 32 * 32
