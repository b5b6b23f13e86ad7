"""Curvature at places and along lines, against dense Hessians, closed forms and spectra that are known beforehand."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import SPECTRA, convolutions, cross_entropy, members, mlp, numbers, objective_of, squared, with_spectrum
from torch import Tensor, nn

import landscape
from landscape.analysis.line_curvature import line_curvature
from landscape.analysis.trace import trace
from landscape.core.errors import LandscapeError
from landscape.core.provenance import Source
from landscape.engine.hessian import extremes, hessians, hvp
from landscape.engine.objective import Batch, Chunk, Objective
from landscape.engine.spectrum import Which, eigenpairs, negative_count
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.space.family import line
from landscape.store.checkpoints import Run
from landscape.store.results import Result

Program = Callable[..., Outcome]


# Products -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize("make", [mlp, convolutions])
def test_products_against_the_dense_hessian_of_the_plain_module(make: Callable[..., Objective], backend: str) -> None:
    objective = make(backend)
    stack = members(objective, 3)
    vectors = numbers(3, 2, stack.parameters, seed=3)
    got, one_each, whole = (
        hvp(objective, stack, vectors),
        hvp(objective, stack, vectors[:, 0]),
        hessians(objective, stack),
    )
    data, module = objective.data, objective.network.module
    for i in range(3):

        def loss(flat: Tensor, i: int = i) -> Tensor:
            state = stack.unflatten(flat[None]).state_dict(0)
            outputs = torch.func.functional_call(module, state, (data.inputs[0].movedim(-1, 0),)).movedim(0, -1)[None]
            return objective.metrics["loss"].per_sample(outputs, data.targets)[0] @ data.weights[0]

        dense = torch.autograd.functional.hessian(loss, stack.flatten()[i])
        torch.testing.assert_close(got[i], vectors[i] @ dense, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(whole[i], dense, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(one_each[i], got[i, 0], rtol=1e-12, atol=1e-14)


def test_the_statistics_of_each_member_are_its_own() -> None:
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    objective = objective_of(module, numbers(40, 5), numbers(40, 2, seed=2), squared, backend="loop")
    stack = members(objective, 2)
    means = numbers(2, 3, seed=3)
    buffers = {"1.running_mean": means, "1.running_var": means.exp(), "1.num_batches_tracked": torch.ones(2).long()}
    vectors = numbers(2, stack.parameters, seed=4)
    got = hvp(objective, Stack(stack.tensors, buffers), vectors)
    for i in range(2):
        own = {name: buffer[[i]] for name, buffer in buffers.items()}

        def loss(flat: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            return objective.loss(dataclasses.replace(stack.unflatten(flat[None]), buffers=own))[0]

        dense = torch.autograd.functional.hessian(loss, stack.flatten()[i])
        torch.testing.assert_close(got[i], vectors[i] @ dense, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(
        hvp(objective, Stack(stack.tensors, {**buffers, "1.running_mean": means * 0}), vectors), got
    )


def test_products_of_logistic_regression() -> None:
    inputs, labels = numbers(50, 4), (numbers(50, 1, seed=2) > 0).double()

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(outputs, targets.expand_as(outputs), reduction="none")
        return each.flatten(1, -2).sum(1)

    objective = objective_of(nn.Linear(4, 1, bias=False), inputs, labels, per_sample)
    stack, vectors = members(objective, 6), numbers(6, 4, seed=5)
    p = torch.sigmoid(inputs @ stack.flatten().T)
    wanted = torch.einsum("nm,na,nb->mab", p * (1 - p), inputs, inputs) / 50
    torch.testing.assert_close(hvp(objective, stack, vectors), (wanted @ vectors[..., None])[..., 0])
    whole = trace(objective, stack)
    assert whole.exact
    np.testing.assert_allclose(whole.values, wanted.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10)


def test_products_add_up_over_chunks_of_samples() -> None:
    whole, parts = mlp(), mlp(chunk=Chunk(16, 32))
    stack = members(whole, 20)
    vectors = numbers(20, 3, stack.parameters, seed=4)
    torch.testing.assert_close(hvp(parts, stack, vectors), hvp(whole, stack, vectors), rtol=1e-12, atol=1e-14)


@pytest.mark.bitwise
@pytest.mark.parametrize("width", [6, 50])
def test_a_product_is_bitwise_the_same_in_any_company(width: int) -> None:
    module = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    objective = objective_of(module, numbers(70, 5).float(), torch.arange(70) % 3, cross_entropy)
    stack = members(objective, 40).to(torch.float32)
    vectors = numbers(40, stack.parameters, seed=4)
    every = hvp(objective, stack, vectors)
    some = [31, 2, 2, 17]
    assert torch.equal(hvp(objective, stack.select(some), vectors[some]), every[some])


def test_extremes_of_many_members_are_those_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Life()
    objective = problem.objective(dtype=torch.float64)
    stack = initialise(problem.network(), range(9)).to(torch.float64)
    monkeypatch.setattr("landscape.engine.hessian._DECOMPOSED", 2)
    found = extremes(objective, stack)
    for i in range(9):
        alone = extremes(objective, stack.select([i]))
        assert (found.smallest[i], found.largest[i]) == (alone.smallest[0], alone.largest[0])


def test_a_loss_that_is_linear_in_the_parameters_is_not_bent() -> None:
    module = nn.Linear(3, 1)
    objective = objective_of(
        module, numbers(10, 3), numbers(10, 1), lambda outputs, targets: outputs.flatten(1, -2).sum(1)
    )
    stack = members(objective, 2)
    assert not hvp(objective, stack, numbers(2, 4)).any()
    assert negative_count(objective, stack).at_least.tolist() == [0, 0]


@given(a=st.integers(0, 99), b=st.integers(100, 199), factor=st.floats(-3, 3))
@settings(max_examples=10)
def test_products_are_linear_and_symmetric(a: int, b: int, factor: float) -> None:
    objective = mlp()
    stack = members(objective, 1, seed=a)
    u, v = numbers(1, stack.parameters, seed=a), numbers(1, stack.parameters, seed=b)
    hu, hv = hvp(objective, stack, u), hvp(objective, stack, v)
    torch.testing.assert_close((u * hv).sum(), (v * hu).sum(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(hvp(objective, stack, u + factor * v), hu + factor * hv, rtol=1e-9, atol=1e-10)


# Spectra --------------------------------------------------------------------------------------------------------------


def chosen(values: np.ndarray, k: int, which: str) -> np.ndarray:
    values = np.sort(values)
    if which == "both":
        return np.concatenate([values[: k // 2], values[-(k - k // 2) :]])
    return {"magnitude": values[np.argsort(-np.abs(values))], "largest": values[::-1], "smallest": values}[which][:k]


@pytest.mark.parametrize("which", ["magnitude", "largest", "smallest", "both"])
@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_of_a_known_spectrum(name: str, which: Which) -> None:
    spectrum = SPECTRA[name]
    objective, stack = with_spectrum(spectrum)
    scale, wanted = np.abs(spectrum).max(), chosen(spectrum, 5, which)
    exact, found = (eigenpairs(objective, stack, k=5, which=which, whole=whole) for whole in (400, 0))
    assert (exact.exact, found.exact) == (True, False)
    for pairs in (exact, found):
        assert pairs.converged.all()
        # An order by magnitude does not tell a value from its negative.
        sign = np.abs if which == "magnitude" else np.asarray
        np.testing.assert_allclose(sign(pairs.values), np.tile(sign(wanted), (2, 1)), atol=1e-6 * scale + 1e-12)
        np.testing.assert_allclose(np.linalg.norm(pairs.vectors, axis=2), 1, rtol=1e-9)
        products = hvp(objective, stack, torch.from_numpy(pairs.vectors.copy())).numpy()
        residuals = np.linalg.norm(products - pairs.values[..., None] * pairs.vectors, axis=2)
        np.testing.assert_allclose(pairs.residuals, residuals, atol=1e-13 * (1 + scale))
        assert (residuals <= 1e-6 * scale + 1e-12).all()
    assert exact.products.tolist() == [50, 50]
    assert (found.products > 0).all()


def test_eigenpairs_are_a_function_of_the_seed_and_the_member_alone() -> None:
    objective = mlp()
    stack = members(objective, 3)
    one, other = (eigenpairs(objective, part, k=3, whole=0, seed=7) for part in (stack, stack.select([2])))
    np.testing.assert_array_equal(one.vectors[2:], other.vectors)
    assert one.products[2] == other.products[0]


@pytest.mark.slow
def test_samples_in_several_chunks_have_the_same_spectrum() -> None:
    one, several = mlp(), mlp(chunk=Chunk(1, 32))
    stack = members(one, 1)
    for find in (eigenpairs, trace):
        a, b = (find(objective, stack, whole=0).values for objective in (one, several))
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_float32_has_a_tolerance_of_its_own() -> None:
    objective, stack = with_spectrum(SPECTRA["even"], dtype=torch.float32)
    found = eigenpairs(objective, stack, k=3, whole=0)
    assert found.tolerance == 1e-3
    assert found.converged.all()
    np.testing.assert_allclose(found.values, np.tile(chosen(SPECTRA["even"], 3, "magnitude"), (2, 1)), rtol=1e-5)


def test_convergence_is_judged_by_the_residual_itself() -> None:
    # Products of float32 are never so exact, whatever the iteration believes.
    objective, stack = with_spectrum(SPECTRA["a few large"], dtype=torch.float32)
    found = eigenpairs(objective, stack, k=3, whole=0, tol=1e-11)
    np.testing.assert_allclose(found.values, np.tile([30, 8, -3], (2, 1)), rtol=1e-5)
    assert (found.residuals > 1e-11 * 30).all()
    assert not found.converged.any()


def test_what_does_not_converge_is_said() -> None:
    objective, stack = with_spectrum(np.linspace(0, 1, 300))
    found = eigenpairs(objective, stack, k=12, whole=0, tol=1e-12, most_products=120)
    assert not found.converged.all()
    assert (found.products <= 120 + 12).all()
    np.testing.assert_array_equal(np.isnan(found.values), np.isnan(found.residuals))
    np.testing.assert_array_equal(found.converged & np.isnan(found.values), False)
    spent = eigenpairs(objective, stack, k=12, whole=0, most_products=5)
    assert np.isnan(spent.values).all()
    assert not spent.converged.any()
    assert not negative_count(objective, stack, whole=0, most_products=5).complete.any()


@pytest.mark.parametrize(("k", "whole", "most"), [(0, 400, 50), (51, 400, 50), (50, 0, 49)])
def test_there_are_only_so_many_eigenpairs(k: int, whole: int, most: int) -> None:
    objective, stack = with_spectrum(SPECTRA["even"])
    message = f"a Hessian of 50 x 50 has no {k} eigenpairs to find: ask for 1 to {most}"
    with pytest.raises(LandscapeError, match=message):
        eigenpairs(objective, stack, k=k, whole=whole)


@pytest.mark.parametrize("name", SPECTRA)
def test_negative_eigenvalues_are_counted(name: str) -> None:
    spectrum = SPECTRA[name]
    objective, stack = with_spectrum(spectrum)
    wanted = int((spectrum < -1e-6 * np.abs(spectrum).max()).sum())
    exact = negative_count(objective, stack)
    assert exact.exact
    assert (exact.at_least == wanted).all()
    assert exact.complete.all()
    np.testing.assert_allclose(exact.smallest, spectrum.min(), atol=1e-12)
    found = negative_count(objective, stack, k=10, whole=0)
    assert (found.at_least <= wanted).all()
    assert (found.at_least >= min(wanted, 10)).all()
    assert (found.complete == (wanted < 10)).all()
    np.testing.assert_allclose(found.smallest, spectrum.min(), atol=1e-6 * np.abs(spectrum).max())


@pytest.mark.slow
def test_a_bound_on_the_negative_eigenvalues_of_a_network() -> None:
    module = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3))
    objective = objective_of(module, numbers(70, 5), torch.arange(70) % 3, cross_entropy)
    stack = members(objective, 1)
    assert stack.parameters > 400
    exact, bound = negative_count(objective, stack, whole=1000), negative_count(objective, stack)
    assert 20 < bound.at_least[0] <= exact.at_least[0]
    assert not bound.complete[0]
    assert bound.smallest[0] == pytest.approx(exact.smallest[0], rel=1e-6)


@pytest.mark.slow
def test_the_trace_and_its_interval() -> None:
    spectrum = np.concatenate([np.geomspace(10, 0.5, 10), np.linspace(0.2, -0.02, 50)])
    objective, stack = with_spectrum(spectrum)
    stack = stack.select([0])
    hits, probes = [], []
    for seed in range(120):
        found = trace(objective, stack, rtol=0.008, seed=seed, whole=0)
        assert found.reached.all()
        assert found.high[0] - found.low[0] <= 2 * 0.008 * abs(found.values[0]) * (1 + 1e-12)
        hits.append(bool(found.low[0] <= spectrum.sum() <= found.high[0]))
        probes.append(int(found.probes[0]))
    # Of 120 intervals at 95 % fewer than 107 hold the trace once in a hundred times; hardly ever do all.
    assert 107 <= sum(hits) < 120
    assert min(probes) >= 32 < max(probes)


def test_the_trace_of_a_few_directions_is_exact() -> None:
    objective, stack = with_spectrum(SPECTRA["repeated"])
    found = trace(objective, stack, whole=0)
    np.testing.assert_allclose([found.low, found.values, found.high], 11, rtol=1e-10)


@pytest.mark.slow
def test_a_trace_that_stays_uncertain_says_so() -> None:
    objective, stack = with_spectrum(np.linspace(-1, 1, 80))
    found = trace(objective, stack, whole=0, most_products=300)
    assert not found.reached.any()
    assert (found.products == 300).all()
    assert (found.low < 0).all()
    assert (found.high > 0).all()
    np.testing.assert_array_equal(found.products - found.probes, 40)
    near = trace(objective, stack, whole=0, atol=3.0)
    assert near.reached.all()
    assert (near.high - near.low <= 6).all()
    again = trace(objective, stack.select([1]), whole=0, atol=3.0)
    assert again.values[0] == near.values[1]
    assert trace(objective, stack, whole=0, atol=3.0, seed=1).values[0] != near.values[0]


@pytest.mark.parametrize("whole", [0, 400])
@pytest.mark.parametrize("find", [eigenpairs, negative_count, trace])
def test_what_is_not_finite_has_no_spectrum(find: Callable[..., Any], whole: int) -> None:
    objective = mlp()
    stack = members(objective, 3)
    broken = stack.flatten().clone()
    broken[1, 4] = float("nan")
    with pytest.raises(LandscapeError, match="member 1 has parameters that are NaN or infinite: leave it out"):
        find(objective, stack.unflatten(broken), whole=whole)
    steep = objective_of(nn.Linear(5, 1), 1e200 * numbers(70, 5), numbers(70, 1), squared)
    with pytest.raises(LandscapeError, match="the Hessian at member 0 is not finite: its loss overflows"):
        find(steep, members(steep, 2), whole=whole)


def test_so_have_curvature_and_products_of_it() -> None:
    objective = mlp()
    stack = members(objective, 20)
    broken = stack.flatten().clone()
    broken[17, 4] = float("inf")
    for use in (extremes, hessians, lambda *each: hvp(*each, broken)):
        with pytest.raises(LandscapeError, match="member 17 has parameters that are NaN or infinite"):
            use(objective, stack.unflatten(broken))


def test_progress_goes_to_the_end() -> None:
    objective, stack = with_spectrum(SPECTRA["even"])
    calls: list[tuple[int, int]] = []
    for find in (eigenpairs, negative_count, trace):
        for whole, total in ((400, 2), (0, 2000)):
            calls.clear()
            find(objective, stack, whole=whole, on_progress=lambda done, total: calls.append((done, total)))
            assert calls == sorted(calls)
            assert {among for _, among in calls} == {total}
            assert calls[-1][0] > total // 2 - 1


@pytest.mark.gpu
def test_spectra_on_a_gpu_are_those_on_a_cpu() -> None:
    here = mlp()
    data = here.data
    assert isinstance(data, Batch)
    moved = Batch(*(getattr(data, field.name).cuda() for field in dataclasses.fields(data)))
    there = dataclasses.replace(here, data=moved, chunk=AUTOMATIC)
    stack = members(here, 2)
    for whole in (0, 400):
        one, other = (eigenpairs(objective, stack, k=3, whole=whole) for objective in (here, there))
        np.testing.assert_allclose(other.values, one.values, rtol=1e-6)
        one_trace, other_trace = (trace(objective, stack, whole=whole) for objective in (here, there))
        np.testing.assert_allclose(other_trace.values, one_trace.values, rtol=1e-6)


# Lines ----------------------------------------------------------------------------------------------------------------


def curves_of(
    alpha: Any, *losses: Any, l2: Any = 1.0, se: Any = None, dtype: str = "float64", done: Any = True
) -> Result:
    loss = np.array(losses, dtype=float)
    count = len(loss)
    values = {"loss": loss} | ({} if se is None else {"loss_se": np.array(se, dtype=float)})
    columns = {
        "done": np.broadcast_to(np.array(done), (count,)),
        "l1": np.ones(count),
        "l2": np.broadcast_to(np.array(l2, dtype=float), (count,)),
        "from_member": np.zeros(count, dtype=np.int64),
        "to_member": np.arange(count) + 1,
    }
    about = {"title": "test", "loss_unit": "nats", "dtype": dtype}
    sources = tuple(Source("x", None, i, "", f"seed {i}") for i in range(count + 1))
    axes = {"line": np.arange(count), "alpha": np.array(alpha, dtype=float)}
    return Result("line", axes, values, columns, about, sources)


UNEVEN = st.lists(st.integers(1, 20), min_size=4, max_size=12).map(
    lambda steps: np.concatenate([[0.0], np.cumsum(steps) / np.sum(steps)])
)


@given(alpha=UNEVEN, a=st.floats(-5, 5), b=st.floats(-5, 5), length=st.floats(0.1, 30))
def test_curvature_of_polynomials_on_uneven_grids(alpha: np.ndarray, a: float, b: float, length: float) -> None:
    alpha[-1] = 1.0
    found = line_curvature(curves_of(alpha, a * alpha**2 + b * alpha, l2=length))
    np.testing.assert_allclose(found.values[0] * length**2, 2 * a, atol=1e-9)
    np.testing.assert_allclose(found.discretisation[0, 1:-1] * length**2, 0, atol=1e-8)
    assert np.isnan(found.discretisation[0, [0, -1]]).all()
    # Of a quartic the five-point derivative is exact, so its distance is the very error.
    found = line_curvature(curves_of(alpha, a * alpha**4 + b * alpha**3))
    error = np.abs(found.values[0] - (12 * a * alpha**2 + 6 * b * alpha)[1:-1])
    np.testing.assert_allclose(found.discretisation[0, 1:-1], error[1:-1], atol=1e-7)


def test_the_error_of_the_steps_is_that_of_richardson() -> None:
    alpha = np.linspace(-0.5, 1.5, 41)
    found = line_curvature(curves_of(alpha, np.sin(3 * alpha)))
    once = (np.sin(3 * (alpha + 0.05)) - 2 * np.sin(3 * alpha) + np.sin(3 * (alpha - 0.05))) / 0.05**2
    twice = (np.sin(3 * (alpha + 0.1)) - 2 * np.sin(3 * alpha) + np.sin(3 * (alpha - 0.1))) / 0.1**2
    np.testing.assert_allclose(found.values[0], once[1:-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.discretisation[0, 1:-1], np.abs(twice - once)[2:-2] / 3, rtol=1e-6, atol=1e-9)
    error = np.abs(found.values[0] + 9 * np.sin(3 * alpha[1:-1]))
    np.testing.assert_allclose(found.discretisation[0, 1:-1], error[1:-1], rtol=0.02, atol=1e-9)
    np.testing.assert_array_equal(found.alpha, alpha[1:-1])


def test_curvature_along_a_line_is_the_hessian_in_its_direction() -> None:
    objective = mlp()
    start, end = members(objective, 1, seed=1), members(objective, 1, seed=2)
    alpha = np.unique(np.concatenate([np.arange(401) * 4, 480 + np.arange(321)])) / 1600
    points = line(start, end).at(torch.zeros(len(alpha), dtype=torch.int64), torch.from_numpy(alpha))
    step = end.flatten() - start.flatten()
    length = float(step.norm())
    found = line_curvature(curves_of(alpha, objective(points)["loss"].numpy(), l2=length))
    direction = (step / length).expand(len(alpha), -1)
    wanted = (hvp(objective, points, direction) * direction).sum(1).numpy()[1:-1]
    np.testing.assert_allclose(found.values[0], wanted, atol=2e-3 * np.abs(wanted).max())
    error = np.abs(found.values[0] - wanted)[1:-1]
    allowed = 1.5 * found.discretisation[0, 1:-1] + 10 * found.rounding[0, 1:-1] + 1e-9
    assert (error <= allowed).mean() > 0.95


def test_what_a_line_of_no_length_and_losses_that_are_not_finite_show() -> None:
    found = line_curvature(
        curves_of(
            np.linspace(0, 1, 6),
            [0, 1, 4, 9, 16, 25],
            [0, 1, np.inf, 9, 16, 25],
            [1, 1, 1, 1, 1, 1],
            [5, 5, 5, 5, 5, 5],
            l2=[2, 2, 0, 2],
            done=[True, True, True, False],
        )
    )
    assert len(found) == 3
    np.testing.assert_allclose(found.values[0], 2 * 25 / 4)
    np.testing.assert_array_equal(np.isnan(found.values[1]), [True, True, True, False])
    for each in (found.values, found.discretisation, found.rounding):
        assert np.isnan(each[2]).all()
    assert found.se is None


def test_errors_of_sampling_and_rounding() -> None:
    alpha = np.linspace(0, 1, 11)
    loss, se = np.full(11, 3.0), np.full(11, 0.1)
    found = line_curvature(curves_of(alpha, loss, se=[se], l2=2.0))
    assert found.se is not None
    np.testing.assert_allclose(found.se, 0.1 * 6**0.5 / 0.01 / 4)
    np.testing.assert_allclose(found.rounding, 2.0**-53 * 12 / 0.01 / 4)
    coarse = line_curvature(curves_of(alpha, loss, dtype="float32"))
    np.testing.assert_allclose(coarse.rounding, 2.0**-24 * 12 / 0.01)


def test_curves_that_show_no_curvature() -> None:
    with pytest.raises(LandscapeError, match="2 points a line show no curvature: walk again with `points=3` or more"):
        line_curvature(curves_of([0, 1], [1, 2]))
    with pytest.raises(LandscapeError, match="none of the lines is finished: walk again to complete them"):
        line_curvature(curves_of([0, 0.5, 1], [1, 2, 3], done=False))


# The verb -------------------------------------------------------------------------------------------------------------


def test_a_place_has_the_curvature_of_its_members(run: Run) -> None:
    found = landscape.curvature(run, top=3, trace=True, negative=True)
    objective, checkpoint = Life().objective(dtype=torch.float64), run.checkpoint()
    stack = checkpoint.stack.to(torch.float64)
    assert found.members == tuple(source.label for source in checkpoint.sources)
    np.testing.assert_array_equal(found.eigenvalues, eigenpairs(objective, stack, k=3).values)
    loss, gradient = objective.gradient(stack)
    np.testing.assert_array_equal(found.loss, loss)
    np.testing.assert_array_equal(found.gradient_norm, gradient.norms()[1])
    assert found.trace is not None
    np.testing.assert_array_equal(found.trace.values, trace(objective, stack).values)
    assert found.negative is not None
    np.testing.assert_array_equal(found.negative.at_least, negative_count(objective, stack).at_least)
    assert (found.vectors.shape, found.residuals.shape, found.converged.all()) == ((24, 3, 25), (24, 3), True)
    assert repr(found) == (
        "Curvature(24 members of 25 parameters; loss, gradient_norm, 3 eigenvalues, negative, trace; whole Hessian)"
    )
    assert found._repr_html_().count("<tr>") == 25
    one = landscape.curvature(f"{run.path}/#3", top=3)
    np.testing.assert_array_equal(one.eigenvalues[0], found.eigenvalues[3])
    assert (len(one), one.trace, one.negative) == (1, None, None)


def test_a_network_in_memory_is_such_a_place() -> None:
    inputs = numbers(40, 3).float()
    module = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 12))
    problem = landscape.Problem.from_model(module, (inputs, numbers(40, 12, seed=1).float()), "mse")
    told: list[tuple[int, int]] = []
    found, again = (
        landscape.curvature(place, problem=problem, top=2, trace=True, rtol=1e-9, max_products=90, progress=progress)
        for place, progress in ((module, None), (module.state_dict(), lambda *each: told.append(each)))
    )
    assert found.members == ("Sequential",)
    np.testing.assert_array_equal(again.eigenvalues, found.eigenvalues)
    assert told == sorted(told)
    assert {total for _, total in told} == {2 * 90}
    assert "the trace of 1 member is less certain than 1e-09 of it: allow more `max_products`" in found.remarks()
    header, (row,) = found.table()
    assert header[3:] == ["eigenvalue 1", "eigenvalue 2", "residual", "converged", "trace", "95 % interval"]
    assert row[0] == "Sequential"
    assert all(remark.replace(">", "&gt;") in found._repr_html_() for remark in found.remarks())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "`top` is 0, it must be at least 1"),
        ({"count_to": 0}, "`count_to` is 0, it must be at least 1"),
        ({"max_products": 0}, "`max_products` is 0, it must be at least 1"),
        ({"rtol": 0.0}, "`rtol` is 0.0, it must be positive"),
        ({"tolerance": -1.0}, "`tolerance` is -1.0, it must be positive"),
        ({}, 'presolve does not exist; if it is a landmark, name its problem, such as `problem="life"`'),
    ],
)
def test_what_has_no_curvature(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        landscape.curvature("presolve", **options)


# The program ----------------------------------------------------------------------------------------------------------


def test_the_program_at_places(landscape: Program, run: Run) -> None:
    result = landscape("analyse", "curvature", run.path, "--top", 2, "--negative", "--trace", "-o", "bent.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "24 members of 25 parameters, loss in nats per cell; whole Hessian" in lines[0]
    assert lines[1].split() == (
        ["member", "loss", "|gradient|", "eigenvalue", "1", "eigenvalue", "2", "smallest", "negative", "trace"]
    )
    assert len(lines) == 3 + 24
    document = json.loads(Path("bent.json").read_text())
    assert len(document["eigenpairs"]["values"]) == len(document["members"]) == 24
    assert "vectors" not in document["eigenpairs"]
    assert document["negative"]["complete"] == [True] * 24
    again = landscape("analyse", "curvature", run.path, "-o", "bent.json")
    assert again.exit_code == 1
    assert "bent.json exists" in again.stderr


@pytest.mark.slow
def test_the_program_at_a_larger_landmark(landscape: Program) -> None:
    arguments = ("analyse", "curvature", "presolve", "--problem", "life", "-O", "m_factor=12", "--negative", "--trace")
    result = landscape(*arguments, "--top", 3, "--count-to", 2)
    assert result.exit_code == 0, result.output
    assert (
        "1 member of 553 parameters, loss in nats per cell; Hessian-vector products, residuals to 1e-06"
        in result.stdout
    )
    assert "3 of 3" in result.stdout
    assert "at least 35" in result.stdout
    assert "1 member may have more negative eigenvalues" in result.stderr
    result = landscape(*arguments, "--top", 3, "--products", 30, "--rtol", 1e-4, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trace"]["reached"] == [False]
    assert "the trace of 1 member is less certain than 0.0001 of it: allow more --products" in result.stderr


def test_the_program_along_lines(landscape: Program) -> None:
    alpha = np.linspace(0, 1, 6)
    curves_of(alpha, alpha**2, -(alpha**2), np.full(6, np.nan), l2=2.0).save("walk.h5")
    result = landscape("analyse", "curvature", "walk.h5")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "test: 3 lines, 6 points each; nats per L2^2"
    assert lines[3].split()[:6] == ["seed", "0", "to", "seed", "1", "0.5"]
    assert lines[5].split()[5:] == ["-"] * 7
    document = json.loads(landscape("analyse", "curvature", "walk.h5", "--json").stdout)
    np.testing.assert_allclose(document["curvature"]["values"][1], -0.5)
    assert document["lines"][1] == {"from": "seed 0", "to": "seed 2", "l2": 2.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("presolve",), "presolve does not exist; if it is a landmark, name its problem, such as --problem life"),
        (("presolve", "--problem", "life", "--top", 300), "has no 300 eigenpairs to find: ask for 1 to 25"),
        (("./none",), "none does not exist"),
        (("none.h5",), "none.h5 does not exist"),
        (
            ("walk.h5", "--trace"),
            "walk.h5 holds curves: leave out --trace, which say how places are looked at",
        ),
    ],
)
def test_what_the_program_refuses(landscape: Program, arguments: tuple[Any, ...], message: str) -> None:
    curves_of([0, 0.5, 1], [1, 2, 3]).save("walk.h5")
    result = landscape("analyse", "curvature", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
