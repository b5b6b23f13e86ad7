"""Densities, traces by part, diagonals and Gauss-Newton matrices, against dense matrices and plain loops."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome
from objectives import SPECTRA, convolutions, cross_entropy, members, mlp, numbers, objective_of, with_spectrum
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

import landscape
from landscape import LandscapeError, Problem
from landscape.analysis.density import _STREAM, density
from landscape.analysis.trace import trace
from landscape.core import philox
from landscape.engine.hessian import each_whole, hessians, hvp
from landscape.engine.objective import Chunk, Objective
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.spectrum import eigenpairs
from landscape.figures.density import density_figure, spectral_density
from landscape.space.groups import split

Program = Callable[..., Outcome]

LABELS = torch.arange(60) % 3
INPUTS = numbers(60, 4)


def engines(objective: Objective) -> list[AnyObjective]:
    return [objective, PlainObjective.of(objective)]


def classifier(width: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


# Density --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [0, 1])
def test_the_whole_hessian_has_its_moments(engine: int) -> None:
    objective = engines(mlp())[engine]
    stack = members(mlp(), 2)
    found, dense = density(objective, stack), hessians(objective, stack)
    assert (found.exact, found.probes) == (True, 0)
    assert not found.se.any()
    np.testing.assert_allclose(found.nodes[:, 0], np.linalg.eigvalsh(dense), atol=1e-12)
    size, x = stack.parameters, found.grid
    np.testing.assert_allclose(found.mean, np.trace(dense, axis1=1, axis2=2) / size, rtol=1e-9)
    np.testing.assert_allclose(found.mean_square, (dense**2).sum((1, 2)) / size, rtol=1e-9)
    np.testing.assert_allclose(np.trapezoid(found.values, x), 1, rtol=1e-7)
    np.testing.assert_allclose(np.trapezoid(x * found.values, x), found.mean, rtol=1e-6)
    np.testing.assert_allclose(np.trapezoid(x**2 * found.values, x), found.mean_square + found.width**2, rtol=1e-6)


@pytest.mark.parametrize("engine", [0, 1])
def test_the_quadrature_has_the_moments_of_each_probe(engine: int) -> None:
    objective = engines(mlp())[engine]
    stack = members(mlp(), 2)
    found = density(objective, stack, whole=0, probes=4, steps=6, seed=3)
    assert not found.exact
    assert (found.steps == 6).all()
    assert (found.products == 24).all()
    for member, dense in enumerate(hessians(objective, stack)):
        for probe in range(4):
            v = philox.signs(3, stream=_STREAM, step=probe, count=len(dense)).numpy() / math.sqrt(len(dense))
            nodes, weights = found.nodes[member, probe], found.weights[member, probe]
            power = v
            for degree in range(12):  # six nodes are exact to the degree eleven
                scale = np.abs(nodes).max() ** degree
                np.testing.assert_allclose(weights @ nodes**degree / scale, v @ power / scale, atol=1e-11)
                power = dense @ power
    np.testing.assert_allclose(np.trapezoid(found.values, found.grid), 1, rtol=1e-7)


def test_the_density_is_a_sum_of_gaussians() -> None:
    objective, stack = with_spectrum(SPECTRA["a few large"])
    found = density(objective, stack, whole=0, probes=3, steps=20, width=0.5)
    wanted = np.zeros((2, 3, len(found.grid)))
    for (member, probe, k), node in np.ndenumerate(found.nodes):
        bump = np.exp(-((found.grid - node) ** 2) / 2 / 0.5**2) / math.sqrt(2 * math.pi) / 0.5
        wanted[member, probe] += found.weights[member, probe, k] * bump
    np.testing.assert_allclose(found.values, wanted.mean(1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.se, wanted.std(1, ddof=1) / math.sqrt(3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_cumulative_distribution_is_that_of_the_eigenvalues(name: str) -> None:
    spectrum = SPECTRA[name]
    objective, stack = with_spectrum(spectrum)
    found = density(objective, stack, whole=0, probes=30, steps=25, most_products=10_000)
    extent = np.ptp(spectrum)
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        apart = wasserstein_distance(nodes.ravel(), spectrum, weights.ravel())
        assert apart <= 1e-12 + extent * (math.pi / 50 + 2 / math.sqrt(30 * len(spectrum)))


@pytest.mark.slow
def test_the_standard_error_of_a_density_covers() -> None:
    spectrum = SPECTRA["even"]
    objective, stack = with_spectrum(spectrum)
    stack, hits = stack.select([0]), []
    for seed in range(60):
        found = density(objective, stack, whole=0, probes=8, steps=50, width=0.6, seed=seed)
        middle = np.argmin(np.abs(found.grid - 2))
        true = np.exp(-0.5 * ((found.grid[middle] - spectrum) / 0.6) ** 2).mean() / 0.6 / math.sqrt(2 * math.pi)
        hits.append(found.low[0, middle] <= true <= found.high[0, middle])
    # Of 60 intervals at 95 % fewer than 51 hold once in some hundred times.
    assert 51 <= sum(hits) < 60


def test_a_density_that_takes_too_much_is_refused() -> None:
    objective, stack = with_spectrum(SPECTRA["even"])
    with pytest.raises(LandscapeError, match="of 30 probes with 40 steps each takes 1200 products: allow as many with"):
        density(objective, stack, whole=0, probes=30, steps=40)
    with pytest.raises(LandscapeError, match="`density_width` is 1e-09 where eigenvalues lie from -1 to 5"):
        density(objective, stack, width=1e-9)


def test_few_steps_are_enough_where_few_eigenvalues_differ() -> None:
    objective, stack = with_spectrum(SPECTRA["repeated"])
    found = density(objective, stack, whole=0, probes=2, steps=20)
    assert (found.steps == 3).all()
    np.testing.assert_allclose(found.weights.sum(2), 1, rtol=1e-12)


# Gauss-Newton ---------------------------------------------------------------------------------------------------------


def dense_ggn(module: nn.Module, state: dict[str, Tensor], inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """J^T H J of dense matrices, by PyTorch's own functions on the plain module."""
    names, shapes = list(state), [each.shape for each in state.values()]

    def outputs(flat: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes])
        named = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        found: Tensor = torch.func.functional_call(module, named, (inputs,))
        return found.flatten()

    flat = torch.cat([each.flatten() for each in state.values()])
    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    bent = torch.autograd.functional.hessian(loss, outputs(flat))
    return jacobian.T @ bent @ jacobian


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop", "plain"])
@pytest.mark.parametrize("make", [mlp, convolutions])
def test_gauss_newton_against_dense_matrices(make: Callable[..., Objective], backend: str) -> None:
    stacked = make(None if backend == "plain" else backend)
    objective: AnyObjective = PlainObjective.of(stacked) if backend == "plain" else stacked
    stack = members(stacked, 2)
    data = stacked.data
    inputs, per_sample = data.inputs[0].movedim(-1, 0), stacked.metrics["loss"].per_sample  # type: ignore[union-attr]
    vectors = numbers(2, 3, stack.parameters, seed=3)
    got = hvp(objective, stack, vectors, matrix="ggn")
    for i, whole in enumerate(each_whole(objective, stack, matrix="ggn")):
        module = stacked.network.module
        shape = module(inputs[:1].float()).shape[1:]

        def loss(flat: Tensor, shape: Any = shape) -> Tensor:
            outputs = flat.view(len(inputs), *shape).movedim(0, -1)[None]
            return per_sample(outputs, data.targets)[0] @ data.weights[0]  # type: ignore[union-attr]

        dense = dense_ggn(module, stack.state_dict(i), inputs, loss)
        np.testing.assert_allclose(whole, dense, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(got[i], vectors[i] @ dense, rtol=1e-9, atol=1e-11)
        assert not np.allclose(whole, hessians(objective, stack)[i])


@pytest.mark.parametrize("engine", [0, 1])
def test_products_add_up_over_chunks_of_samples_too(engine: int) -> None:
    whole, parts = (engines(each)[engine] for each in (mlp(), mlp(chunk=Chunk(16, 32))))
    stack = members(mlp(), 3)
    vectors = numbers(3, 2, stack.parameters, seed=4)
    got, wanted = (hvp(each, stack, vectors, matrix="ggn") for each in (parts, whole))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_outputs_that_are_no_tensor_have_none() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(x)}

    problem = Problem.from_model(
        Pair(), (INPUTS, LABELS), lambda outputs, targets: F.cross_entropy(outputs["logits"], targets)
    )
    with pytest.raises(LandscapeError, match=r'the network.s forward returns a dict: leave `matrix="ggn"` out'):
        landscape.curvature(Pair(), problem=problem, matrix="ggn")


def test_of_a_linear_network_it_is_the_hessian() -> None:
    objective = objective_of(nn.Linear(4, 3), INPUTS, LABELS, cross_entropy)
    stack = members(objective, 1)
    (whole,) = each_whole(objective, stack, matrix="ggn")
    np.testing.assert_allclose(whole, hessians(objective, stack)[0], atol=1e-12)


def test_a_loss_linear_in_the_outputs_has_none() -> None:
    objective = objective_of(nn.Linear(4, 1), INPUTS, numbers(60, 1), lambda o, t: o.flatten(1, -2).sum(1))
    assert not hvp(objective, members(objective, 2), numbers(2, 5), matrix="ggn").any()


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_of_cross_entropy_it_is_the_fisher_information(engine: Any) -> None:
    module = classifier()
    problem = Problem.from_model(module, (INPUTS, LABELS), "cross_entropy")
    found = landscape.curvature(module, problem=problem, matrix="ggn", top=3, trace=True, engine=engine)
    parameters = list(module.parameters())
    size = sum(each.numel() for each in parameters)
    fisher = torch.zeros(size, size, dtype=torch.float64)
    for x in INPUTS.float().double():  # over the network's own answers, not the labels
        logs = module(x).log_softmax(0)
        for answer in range(3):
            slope = torch.cat([g.flatten() for g in torch.autograd.grad(logs[answer], parameters, retain_graph=True)])
            fisher += logs[answer].exp().detach() * torch.outer(slope, slope) / len(INPUTS)
    values = torch.linalg.eigvalsh(fisher).flip(0)[:3]
    np.testing.assert_allclose(found.eigenvalues[0], values, rtol=1e-6)
    assert found.trace is not None
    np.testing.assert_allclose(found.trace.values, fisher.trace(), rtol=1e-6)
    assert "whole generalised Gauss-Newton matrix" in found.caption()


def test_weights_of_classes_and_a_penalty_are_in_it() -> None:
    module = classifier()
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    problem = Problem.from_model(module, (INPUTS, LABELS), nn.CrossEntropyLoss(weight=weight), l2=0.1)
    found = landscape.curvature(module, problem=problem, matrix="ggn", top=2)
    state = {name: each.detach() for name, each in module.named_parameters()}
    dense = dense_ggn(
        module, state, INPUTS.float().double(), lambda flat: F.cross_entropy(flat.view(-1, 3), LABELS, weight)
    )
    wanted = np.linalg.eigvalsh(dense + 0.1 * torch.eye(len(dense)))[::-1][:2]
    np.testing.assert_allclose(found.eigenvalues[0], wanted, rtol=1e-6)


def test_a_function_of_all_outputs_has_one_and_a_batch_loss_none() -> None:
    module = classifier()

    def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs / outputs.std(), targets)

    problem = Problem.from_model(module, (INPUTS, LABELS), scaled)
    found = landscape.curvature(module, problem=problem, matrix="ggn", top=1)
    state = {name: each.detach() for name, each in module.named_parameters()}
    dense = dense_ggn(module, state, INPUTS.float().double(), lambda flat: scaled(flat.view(-1, 3), LABELS))
    values = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(found.eigenvalues[0, 0], values[np.abs(values).argmax()], rtol=1e-5)
    batch = Problem.from_model(
        module, (INPUTS, LABELS), batch_loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    )
    with pytest.raises(LandscapeError, match=r'`batch_loss` reads the network itself: .* or leave `matrix="ggn"` out'):
        landscape.curvature(module, problem=batch, matrix="ggn")


# Traces by part, and the diagonal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["layer", "module"])
@pytest.mark.parametrize("engine", [0, 1])
def test_traces_of_parts_add_up_and_are_those_of_blocks(engine: int, per: Any) -> None:
    objective = engines(mlp())[engine]
    stack = members(mlp(), 2)
    parts = split(stack, per)
    dense = np.diagonal(hessians(objective, stack), axis1=1, axis2=2)
    names = np.repeat(list(stack.shapes), [math.prod(shape) for shape in stack.shapes.values()])
    wanted = np.stack([dense[:, np.isin(names, list(part))].sum(1) for part in parts.values()], axis=1)
    exact, found = (trace(objective, stack, parts=parts, diagonal=True, whole=whole) for whole in (400, 0))
    assert exact.parts == found.parts == ("0", "2")
    assert exact.part_parameters.tolist() == [36, 21]
    np.testing.assert_allclose(exact.part_values, wanted, rtol=1e-10)
    np.testing.assert_allclose(exact.diagonal, dense, atol=1e-12)
    assert exact.diagonal_se is not None
    assert not exact.diagonal_se.any()
    np.testing.assert_allclose(found.part_values.sum(1), found.values, rtol=1e-10)
    assert found.diagonal is not None
    np.testing.assert_allclose(found.diagonal.sum(1), found.values, rtol=1e-10)
    alone = trace(objective, stack, whole=0)
    np.testing.assert_allclose(found.values, alone.values, rtol=1e-12)
    assert (alone.parts, alone.diagonal) == ((), None)
    with pytest.raises(LandscapeError, match=r"2\.weight is in none of the parts"):
        trace(objective, stack, parts={"first": ["0.weight", "0.bias"]})


@pytest.mark.slow
def test_intervals_of_parts_and_of_the_diagonal_cover() -> None:
    objective = mlp()
    stack = members(objective, 1)
    parts = split(stack, "layer")
    (dense,) = np.diagonal(hessians(objective, stack), axis1=1, axis2=2)
    wanted = np.array([dense[:36].sum(), dense[36:].sum()])
    hits, off = [], []
    for seed in range(60):
        found = trace(objective, stack, rtol=1e-9, parts=parts, diagonal=True, seed=seed, whole=0, most_products=80)
        hits.append((found.part_low[0] <= wanted) & (wanted <= found.part_high[0]))
        assert found.diagonal is not None
        assert found.diagonal_se is not None
        off.append((found.diagonal[0] - dense) / found.diagonal_se[0])
    assert (np.sum(hits, axis=0) >= 51).all()
    assert 0.9 < np.std(off) < 1.15
    assert abs(np.mean(off)) < 0.1


# The verb -------------------------------------------------------------------------------------------------------------


def test_curvature_has_it_all() -> None:
    module = classifier()
    problem = Problem.from_model(module, (INPUTS, LABELS), "cross_entropy")
    found = landscape.curvature(module, problem=problem, trace_per="layer", diagonal=True, density=True)
    assert repr(found).endswith("gradient_norm, 1 eigenvalues, trace, diagonal, density; whole Hessian)")
    assert {name: each.shape for name, each in found.diagonal.items()} == {
        "0.weight": (1, 5, 4),
        "0.bias": (1, 5),
        "2.weight": (1, 3, 5),
        "2.bias": (1, 3),
    }
    assert not any(each.any() for each in found.diagonal_se.values())
    header, rows = found.parts_table()
    assert header == ["member", "part", "parameters", "trace"]
    assert [row[1:3] for row in rows] == [["0", 25], ["2", 18]]
    assert found.trace is not None
    assert sum(row[3] for row in rows) == pytest.approx(found.trace.values[0])
    assert sum(each.sum() for each in found.diagonal.values()) == pytest.approx(found.trace.values[0])
    plain = landscape.curvature(module, problem=problem)
    assert plain.diagonal == {}
    for ask in (plain.parts_table, plain.plot):
        with pytest.raises(LandscapeError, match=r"there are no parts|there is no density of eigenvalues: ask"):
            ask()
    with pytest.raises(LandscapeError, match="are of a density: ask for it with `density`"):
        landscape.curvature(module, problem=problem, density_probes=4)


def test_repeats_are_other_draws_of_the_samples() -> None:
    module = classifier()
    problem = Problem.from_model(module, (INPUTS, LABELS), "cross_entropy")
    options: dict[str, Any] = {"problem": problem, "samples": 20, "top": 2, "trace": True}
    told: list[tuple[int, int]] = []
    found = landscape.curvature(module, **options, repeats=3, seed=5, progress=lambda *each: told.append(each))
    singles = [landscape.curvature(module, **options, seed=seed) for seed in (5, 6, 7)]
    assert found.repeats is not None
    assert found.repeats.seeds == (5, 6, 7)
    np.testing.assert_array_equal(found.eigenvalues, singles[0].eigenvalues)
    values = np.stack([each.eigenvalues for each in singles])
    np.testing.assert_allclose(found.repeats.eigenvalues, values, rtol=1e-10)
    np.testing.assert_allclose(found.repeats.loss, np.stack([each.loss for each in singles]), rtol=1e-10)
    header, (row,) = found.table()
    assert header[3:] == ["eigenvalue 1", "eigenvalue 2", "se 1", "se 2", "trace", "se of trace"]
    np.testing.assert_allclose(row[5:7], values[:, 0].std(axis=0, ddof=1), rtol=1e-9)
    traces = [each.trace.values[0] for each in singles if each.trace]
    assert row[-1] == pytest.approx(np.std(traces, ddof=1))
    assert "on 20 samples (se: standard deviation over 3 draws of them)" in found.caption()
    assert told == sorted(told)
    assert told[-1] == (6, 6)
    with pytest.raises(LandscapeError, match="`repeats` draw samples anew: say how many with `samples`"):
        landscape.curvature(module, problem=problem, repeats=2)
    with pytest.raises(LandscapeError, match="is exact, and no samples are drawn: leave `samples` out"):
        landscape.curvature("presolve", problem="life", samples=5, repeats=2)


def test_the_program_writes_a_density_and_draws_it(landscape: Program) -> None:
    arguments = ("analyse", "curvature", "presolve", "--problem", "life", "--top", 2)
    result = landscape(*arguments, "--density", "--trace-per", "layer", "--diagonal", "-o", "bent.json")
    assert result.exit_code == 0, result.output
    assert "diagonal: with --json or -o; exact" in result.stdout
    assert "density: all eigenvalues" in result.stdout
    assert "0 to" not in result.stdout
    assert "part     parameters" in result.stdout
    document = json.loads(Path("bent.json").read_text())
    assert sum(document["trace"]["part_values"][0]) == pytest.approx(document["trace"]["values"][0])
    assert len(document["trace"]["diagonal"][0]) == document["parameters"] == 25
    result = landscape("plot", "density", "bent.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["plots/bent-density.png", "plots/bent-density.svg"]
    landscape(*arguments, "-o", "other.json")
    Path("none.json").write_text("[]")
    for file, words in (
        ("other.json", "there is no density of eigenvalues: ask curvature for it with density"),
        ("none.json", "none.json is a JSON file of something else; give what landscape analyse curvature -o wrote"),
        ("missing.json", "missing.json"),
    ):
        result = landscape("plot", "density", file)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    result = landscape(*arguments, "--density-steps", 5)
    assert "ask for it with --density" in result.stderr


# The figure -----------------------------------------------------------------------------------------------------------


def test_the_figure_says_what_it_draws() -> None:
    module = classifier(60)
    problem = Problem.from_model(module, (INPUTS, LABELS), "cross_entropy", title="three classes")
    found = landscape.curvature(
        module, problem=problem, density=True, density_probes=8, density_steps=20, top=2, max_products=300
    )
    figure = found.plot()
    (ax,) = figure.axes
    assert (ax.get_yscale(), ax.get_title("left")) == ("log", "three classes")
    text = figure.get_supxlabel().replace("\n", " ")
    assert "Density of the 483 eigenvalues of the Hessian at Sequential, loss on 60 samples" in text
    assert "By stochastic Lanczos quadrature, 8 probes of 20 steps; band: 95 %" in text
    assert found.density is not None
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_ydata(), found.density.values[0])
    marks = next(each for each in ax.lines if each.get_gid() == "leading")
    np.testing.assert_array_equal(marks.get_xdata(), found.eigenvalues[0])
    one = next(each for each in ax.lines if each.get_gid() == "one")
    height = 1 / 483 / found.density.width / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(one.get_ydata(), height)
    assert any(each.get_gid() == "band" for each in ax.collections)
    again = spectral_density(matplotlib.figure.Figure().add_subplot(), found.document())
    assert found.plot(again) is again
    again.figure.draw_without_rendering()
    kept = json.loads(landscape_json(found.document()))
    assert density_figure(kept).get_supxlabel() == figure.get_supxlabel()


def test_many_members_share_a_figure() -> None:
    objective, stack = with_spectrum(SPECTRA["even"])
    found, pairs = density(objective, stack), eigenpairs(objective, stack, k=1)
    for count in (1, 3):
        document = {
            "title": "even",
            "parameters": 50,
            "sampled": False,
            "matrix": "ggn",
            "members": [f"seed {k}" for k in range(2 * count)],
            "density": {
                **vars(found),
                **{key: np.tile(getattr(found, key), (count, 1)) for key in ("values", "se", "low", "high")},
            },
            "eigenpairs": {"values": np.tile(pairs.values, (count, 1))},
        }
        figure = density_figure(document)
        text = figure.get_supxlabel().replace("\n", " ")
        assert f"of the generalised Gauss-Newton matrix at {2 * count} members;" in text
        assert "All are known" in text
        assert (figure.axes[0].get_legend() is None) == (count == 3)
        assert ("Triangles" in text) == (count == 1)


def landscape_json(document: Any) -> str:
    from landscape.core.files import json_text

    return json_text(document)
