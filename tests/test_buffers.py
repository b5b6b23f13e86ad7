"""Buffers between networks: what is interpolated is told, and spectral norms divide by the norm of the mixed weight."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, remove_spectral_norm, spectral_norm
from torch.nn.utils.parametrize import remove_parametrizations

import landscape
from landscape import Problem
from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine import spectral
from landscape.engine.live import duplicate
from landscape.engine.spectral import largest, spectral_norms

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop",
    "ignore:.*weight_norm.* is deprecated",
    "ignore:.*spectral_norm.* is deprecated",
)

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X[:, :2])


def old_weight_norm(layer: nn.Module) -> nn.Module:
    made: nn.Module = torch.nn.utils.weight_norm(layer)
    return made


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parametrization": parametrizations.spectral_norm,
    "hook": spectral_norm,
}


def network(norm: Callable[[nn.Module], nn.Module], seed: int) -> nn.Sequential:
    """A convolution and a layer, trained a little, so that singular vectors are those of the weights."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Unflatten(1, (2, 3)), norm(nn.Conv1d(2, 4, 2)), nn.Tanh(), nn.Flatten(), norm(nn.Linear(8, 2))
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(net(X), Y).backward()
        optimizer.step()
    return net.eval()


def loop(a: nn.Module, b: nn.Module, alpha: float) -> float:
    """The slow twin: weights mixed by hand, divided by their largest singular value."""
    one, other = a.state_dict(), b.state_dict()
    mixed = {name: (1 - alpha) * one[name].double() + alpha * other[name].double() for name in one}
    weights = [t for name, t in mixed.items() if name.endswith(("weight_orig", "parametrizations.weight.original"))]
    biases = [t for name, t in mixed.items() if name.endswith("bias")]
    conv, linear = (weight / torch.linalg.matrix_norm(weight.flatten(1), 2) for weight in weights)
    hidden = torch.tanh(F.conv1d(X.double().unflatten(1, (2, 3)), conv, biases[0])).flatten(1)
    return float(F.mse_loss(F.linear(hidden, linear, biases[1]), Y.double()))


@pytest.mark.parametrize("given_as", ["module", "function"])
@pytest.mark.parametrize("kind", NORMS)
def test_a_spectral_norm_between_networks_is_that_of_the_mixed_weight(kind: str, given_as: str) -> None:
    a, b = network(NORMS[kind], 0), network(NORMS[kind], 1)
    model: Any = a if given_as == "module" else lambda: network(NORMS[kind], 2)
    problem = Problem.from_model(model, (X, Y), "mse")
    line = landscape.walk(a, b, problem=problem, points=5, span=(-0.25, 1.25))
    for alpha, loss in zip(line["alpha"].tolist(), line["loss"][0], strict=True):
        if alpha in (0.0, 1.0):  # by the vectors of the checkpoint, which is the number that its owner knows
            with torch.no_grad():
                np.testing.assert_allclose(loss, float(F.mse_loss((b if alpha else a)(X), Y)), rtol=1e-6)
        np.testing.assert_allclose(loss, loop(a, b, alpha), rtol=1e-5 if alpha not in (0.0, 1.0) else 1e-2)
        with torch.no_grad():
            np.testing.assert_allclose(loss, float(F.mse_loss(line.model_at(alpha).eval()(X), Y)), rtol=1e-6)
    assert line.about["backend"] == "plain"
    assert len(line.about["buffers"]["found anew"]) == 4
    arc = landscape.walk(a, b, problem=problem, points=[0.5], path="slerp")
    assert np.isfinite(arc["loss"]).all()
    surface = landscape.plane(a, problem=problem, points=3)
    assert np.isfinite(surface["loss"]).all()
    parts = landscape.walk(a, b, problem=problem, points=3, only=["4.*"])["loss"][0]
    half = copy.deepcopy(a)
    half[4] = copy.deepcopy(b)[4]
    with torch.no_grad():
        np.testing.assert_allclose(parts[2], float(F.mse_loss(half(X), Y)), rtol=1e-6)


def test_interpolated_vectors_would_show_a_barrier_of_their_own_making() -> None:
    a, b = network(parametrizations.spectral_norm, 0), network(parametrizations.spectral_norm, 1)
    with torch.no_grad():  # the other sign of both is as good
        for name, buffer in b.named_buffers():
            if name.endswith(("_u", "_v")):
                buffer.neg_()
    line = landscape.walk(a, b, problem=Problem.from_model(a, (X, Y), "mse"), points=5)
    assert line["loss"].max() < 2
    mixed = {n: (t + b.state_dict()[n]) / 2 for n, t in a.state_dict().items()}
    naive = copy.deepcopy(a)
    naive.load_state_dict(mixed)
    with torch.no_grad():
        assert not float(F.mse_loss(naive(X), Y)) < 10 * line["loss"].max()


@pytest.mark.parametrize("kind", NORMS)
def test_streamed_batches_see_the_same_spectral_norms(kind: str) -> None:
    a, b = network(NORMS[kind], 0), network(NORMS[kind], 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=16)
    found = [
        landscape.walk(a, b, problem=Problem.from_model(a, data, "mse"), points=4)["loss"] for data in ((X, Y), loader)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_a_spectral_norm_behind_another_parametrization_is_that_of_what_enters_it() -> None:
    layer = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(6, 4)))
    (found,) = spectral_norms(layer)
    g, v = layer.parametrizations.weight.parameters()  # type: ignore[union-attr]
    wanted = g * v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.matrix(), wanted)
    assert len(found.weights) == 2


@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["", "low", "diag"]),
    small=st.sampled_from([0, 99]),
)
def test_the_largest_singular_value_is_that_of_the_dense_decomposition(
    rows: int, columns: int, seed: int, kind: str, small: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if kind == "low":
        matrix = matrix[:, :1] @ matrix[:1]
    if kind == "diag":
        matrix = torch.zeros_like(matrix)
        matrix.diagonal().copy_(torch.arange(min(rows, columns)) + 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral, "_SMALL", small)
        found = largest(matrix)
    if not matrix.any():
        assert found is None
        return
    assert found is not None
    u, v = found
    wanted = torch.linalg.matrix_norm(matrix, 2)
    torch.testing.assert_close(u @ matrix @ v, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.stack([u.norm(), v.norm()]), torch.ones(2, dtype=torch.float64))


def test_what_is_zero_or_not_finite_has_no_singular_vectors() -> None:
    assert largest(torch.zeros(3, 2)) is None
    assert largest(torch.tensor([[1.0, float("inf")]])) is None


@pytest.mark.parametrize("engine", ["stacked", "vmap"])
def test_other_engines_refuse_spectral_norms(engine: Any) -> None:
    a, b = network(spectral_norm, 0), network(spectral_norm, 1)
    with pytest.raises(Unsupported, match="found anew at each point by the plain engine alone: leave `engine="):
        landscape.walk(a, b, problem=Problem.from_model(a, (X, Y), "mse"), points=3, engine=engine)


def test_curves_are_not_trained_through_spectral_norms() -> None:
    a, b = network(spectral_norm, 0), network(spectral_norm, 1)
    with pytest.raises(Unsupported, match="curves are not trained through spectral norms"):
        landscape.connect(a, b, problem=Problem.from_model(a, (X, Y), "mse"), method="bezier", steps=1)
    for net in (a, b):
        remove_spectral_norm(net[1])
        remove_spectral_norm(net[4])
    landscape.connect(a, b, problem=Problem.from_model(a, (X, Y), "mse"), method="bezier", steps=1, points=3)
    layer = remove_parametrizations(parametrizations.spectral_norm(nn.Linear(2, 2)), "weight")
    assert not spectral_norms(layer)


# Networks that PyTorch does not copy ----------------------------------------------------------------------------------


def pruned(layer: nn.Module) -> nn.Module:
    made: nn.Module = prune.l1_unstructured(layer, "weight", amount=0.5)
    return made


@pytest.mark.parametrize("norm", [old_weight_norm, pruned])
@pytest.mark.parametrize("engine", ["auto", "plain", "stacked", "vmap"])
@pytest.mark.parametrize("given_as", ["module", "function"])
def test_weights_that_are_computed_before_each_forward_are_left_out_of_copies(
    norm: Callable[[nn.Module], nn.Module], engine: Any, given_as: str
) -> None:
    a, b = network(norm, 0), network(norm, 1)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(a)
    before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    model: Any = a if given_as == "module" else lambda: network(norm, 2)
    problem = Problem.from_model(model, (X, Y), "mse")
    line = landscape.walk(a.state_dict(), b.state_dict(), problem=problem, points=3, engine=engine)
    half = network(norm, 3)
    half.load_state_dict({n: (t + b.state_dict()[n]) / 2 for n, t in before.items()})
    with torch.no_grad():
        wanted = [float(F.mse_loss(net(X), Y)) for net in (a, half, b)]
        assert float(F.mse_loss(line.model_at(0.5)(X), Y)) == pytest.approx(wanted[1], rel=1e-5)
    if norm is old_weight_norm:  # masks of what is pruned are buffers
        np.testing.assert_allclose(line["loss"][0], wanted, rtol=1e-5)
    else:
        np.testing.assert_allclose(line["loss"][0], wanted, rtol=1e-5)
        assert line.about["buffers"] == {"interpolated": ["1.weight_mask", "4.weight_mask"]}
    assert all(torch.equal(tensor, before[name]) for name, tensor in a.state_dict().items())
    landscape.curvature(a, problem=problem, top=1, max_products=5, tolerance=0.9)


def test_what_else_cannot_be_copied_asks_for_what_makes_it() -> None:
    net = nn.Linear(6, 2)
    net.cached = net.weight * 2  # type: ignore[assignment]
    with pytest.raises(Unsupported, match=r"Linear cannot be copied, .*: give the function that makes it instead"):
        duplicate(net)


# Buffers that differ --------------------------------------------------------------------------------------------------


class Averaging(nn.Module):
    """A network with a moving average, as those of vector quantisation have, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 2), nn.BatchNorm1d(2)
        self.register_buffer("average", torch.rand(2))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("count", torch.randint(9, ()))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.norm(self.layer(x)) + self.average
        return outputs


def averaging(seed: int) -> Averaging:
    torch.manual_seed(seed)
    net = Averaging()
    net(torch.randn(20, 6))
    return net.eval()


def test_buffers_that_differ_are_interpolated_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = (averaging(seed) for seed in range(3))
    problem = Problem.from_model(Averaging, (X, Y), "mse")
    line = landscape.walk(a, b, problem=problem, points=3)
    assert line.about["buffers"] == {"interpolated": ["average"]}
    assert "buffers differ between the networks and are interpolated: average" in caplog.text
    torch.testing.assert_close(line.model_at(0.5).average, (a.average + b.average) / 2)
    surface = landscape.plane(a, b, c, problem=problem, points=3)
    assert surface.about["buffers"] == {"interpolated": ["average"]}
    steps = landscape.plane([a, b, c], problem=problem, points=3)
    assert steps.about["buffers"] == {"those of the last checkpoint": ["average"]}
    assert torch.equal(steps.model_at(steps["x"][1], steps["y"][1]).average, c.average)
    b.average.copy_(a.average)  # type: ignore[operator]
    for same in (
        landscape.walk(a, b, problem=problem, points=3),
        landscape.walk(a, c, problem=problem, points=3, only=["layer.*"]),
        landscape.walk(a, problem=problem, points=3, rays=[0]),
        landscape.plane(a, problem=problem, points=3),
    ):
        assert "buffers" not in same.about


def test_statistics_that_are_kept_are_those_of_batchnorm_alone() -> None:
    a, b = averaging(0), averaging(1)
    line = landscape.walk(a, b, problem=Problem.from_model(Averaging, (X, Y), "mse"), points=3, batchnorm="keep")
    found = line.model_at(1.0)
    assert torch.equal(found.average, b.average)
    assert torch.equal(found.norm.running_mean, a.norm.running_mean)  # type: ignore[arg-type]


def test_the_program_says_what_becomes_of_buffers(
    landscape: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("averaging_net.py").write_text(
        "import torch\nfrom test_buffers import Averaging\nfrom landscape import Problem\n"
        "X = torch.linspace(-1, 1, 48).reshape(8, 6)\n"
        'PROBLEM = Problem.from_model(Averaging, (X, X[:, :2]), "mse")\n'
    )
    for seed in (0, 1):
        torch.save(averaging(seed).state_dict(), f"{seed}.pt")
    call = ("walk", "--from", "0.pt", "--to", "1.pt", "--problem", "averaging_net.py:PROBLEM", "--points", "3")
    result = landscape(*call, "-o", "w.h5")
    assert result.exit_code == 0, result.output
    assert "buffers differ between the networks and are interpolated: average" in result.stderr


def test_a_network_that_cannot_be_read_is_an_error_of_its_own() -> None:
    with pytest.raises(LandscapeError):
        landscape.walk(nn.Linear(2, 2), nn.Linear(2, 2), problem=Problem.from_model(averaging(0), (X, Y), "mse"))
