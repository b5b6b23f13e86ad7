"""Has training come to an end? Kinds of members against dense matrices, planted ends and scipy."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import optimize
from torch import Tensor, nn

import landscape
from landscape import LandscapeError, Problem, Stack
from landscape.analysis.convergence import KINDS, prepared
from landscape.cli import main
from landscape.engine.descent import Whole, _box, descend
from landscape.engine.hessian import hessians
from landscape.engine.pieces import Pieces
from landscape.engine.truncated import _within, lbfgs, newton
from landscape.problems.life import Life
from landscape.store.checkpoints import Run


def life_stack(members: int = 4, seed: int = 0, **fields: Any) -> tuple[Any, Stack]:
    problem = Life(**fields)
    generator = torch.Generator().manual_seed(seed)
    template = problem.objective().template
    tensors = {
        name: torch.randn(members, *shape, generator=generator, dtype=torch.float64)
        for name, shape in template.shapes.items()
    }
    return problem.objective(dtype=torch.float64), Stack(tensors)


def perceptron(*widths: int, slope: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(widths):
        layers += [nn.Linear(into, out), nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def planted(network: nn.Module, inputs: Tensor, targets: Tensor, loss: str) -> Problem:
    return Problem.from_model(network, (inputs, targets), loss)


@pytest.mark.parametrize("fields", [{}, {"m_factor": 2}, {"activation": "relu"}, {"loss": "mse"}])
def test_the_hessian_of_pieces_is_the_dense_one_of_autograd(fields: dict[str, Any]) -> None:
    objective, stack = life_stack(**fields)
    pieces = Pieces.of(objective)
    assert pieces is not None
    here = pieces.at(stack.flatten())
    torch.testing.assert_close(here.loss, objective(stack)["loss"])
    torch.testing.assert_close(here.gradient, objective.gradient(stack)[1].flatten())
    torch.testing.assert_close(here.hessian, torch.from_numpy(hessians(objective, stack)), rtol=1e-9, atol=1e-12)


def test_pieces_of_a_network_with_several_outputs_have_the_dense_hessian() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(50, 3), torch.randint(0, 4, (50,))
    problem = planted(perceptron(3, 5, 4, 4, slope=0.2), x, y, "cross_entropy")
    objective = problem.objective(dtype=torch.float64)
    stack = Stack({k: torch.randn(2, *s, dtype=torch.float64) for k, s in objective.template.shapes.items()})
    pieces = Pieces.of(objective)
    assert pieces is not None
    here = pieces.at(stack.flatten())
    torch.testing.assert_close(here.hessian, torch.from_numpy(hessians(objective, stack)), rtol=1e-9, atol=1e-12)


def test_kinks_have_the_gradients_and_jumps_that_differences_find() -> None:
    objective, stack = life_stack(1)
    pieces = Pieces.of(objective)
    assert pieces is not None
    flat = stack.flatten().requires_grad_()
    here = pieces.at(flat)
    near = here.distances.topk(6, largest=False)[1]
    normals = here.normals(near).detach()
    for number, kink in enumerate(near[0].tolist()):
        (slope,) = torch.autograd.grad(here.kinks[0, kink], flat, retain_graph=True)
        torch.testing.assert_close(normals[:, number], slope)
        # Gradients with the kink on one side and on the other, all else as it is.
        low, high = here.sides.clone(), here.sides.clone()
        low[0, kink], high[0, kink] = 0, 1
        jump = pieces.at(flat.detach(), high).gradient - pieces.at(flat.detach(), low).gradient
        torch.testing.assert_close(here.jumps[0, kink].detach() * normals[0, number], jump[0])


def test_a_balanced_network_is_the_same_function_and_does_not_move_along_rescalings() -> None:
    objective, stack = life_stack(3)
    pieces = Pieces.of(objective)
    assert pieces is not None
    flat = stack.flatten()
    balanced = pieces.balanced(flat)
    torch.testing.assert_close(pieces.at(balanced).outputs, pieces.at(flat).outputs)
    here, along = pieces.at(balanced), pieces.scalings(balanced)
    assert float((along @ here.gradient[..., None]).abs().max()) < 1e-12
    # Of balanced networks weights into and out of a unit have one norm, which no rescaling changes at first order.
    assert float((along * balanced[:, None]).sum(2).abs().max()) < 1e-6
    scaled = flat.clone()
    first, second = pieces.layers[:2]
    scaled[:, first.places[0]] *= 7
    scaled[:, second.places[:, 0]] /= 7
    torch.testing.assert_close(pieces.balanced(scaled), balanced, rtol=1e-5, atol=1e-6)


def test_shares_of_kinks_are_those_of_a_bounded_least_squares_problem() -> None:
    rng = np.random.default_rng(0)
    rows, linear = rng.normal(size=(2, 30, 5)), rng.normal(size=(2, 30))
    found = _box(torch.tensor(rows), torch.tensor(linear)).numpy()
    for r, c, s in zip(rows, linear, found, strict=True):
        best = optimize.minimize(
            lambda v, r=r, c=c: (0.5 * np.sum((r.T @ v) ** 2) - c @ v, r @ (r.T @ v) - c),
            np.full(30, 0.5),
            jac=True,
            bounds=[(0, 1)] * 30,
            options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-12},
        )
        assert 0.5 * np.sum((r.T @ s) ** 2) - c @ s <= best.fun + 1e-9


def test_a_member_does_not_depend_on_its_companions() -> None:
    objective, stack = life_stack(5)
    pieces = Pieces.of(objective)
    assert pieces is not None
    together = descend(pieces, stack.flatten(), steps=6)
    for member in (0, 3):
        alone = descend(pieces, stack.flatten()[member : member + 1], steps=6)
        assert torch.equal(alone.flat[0], together.flat[member])
        assert torch.equal(alone.fall[0], together.fall[member])


def test_the_scale_of_the_last_layer_decides_nothing_about_a_network_that_has_all_right() -> None:
    problem = Life()
    solution = problem.landmark("presolve").state_dict(0)
    last = {name: 3 * each if name.startswith("net.0.4") else each for name, each in solution.items()}
    norms = []
    for place in (solution, last):
        found = landscape.convergence(place, problem=problem)
        assert found.kinds == ["towards infinity"]
        assert found.limit[0] == 0
        assert found.radial[0] < -5
        norms.append(found.gradient_norm[0])
    assert norms[1] < 1e-8 * norms[0]


def regression() -> tuple[Problem, dict[str, Tensor], Tensor, Tensor]:
    """A smooth network whose targets are its own answers but for noise: it has a minimum near by."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    values = {"0.weight": [[2.0], [-1.0]], "0.bias": [0.5, 1.5], "2.weight": [[1.5, 2.0]], "2.bias": [0.3]}
    network.load_state_dict({name: torch.tensor(each) for name, each in values.items()})
    x = torch.linspace(-3, 3, 200, dtype=torch.float64)[:, None]
    y = network(x).detach() + 0.05 * torch.randn(200, 1, dtype=torch.float64)
    return planted(network, x.float(), y.float(), "mse"), network.state_dict(), x.float().double(), y.float().double()


def test_a_planted_minimum_is_where_scipy_finds_it_from_perturbed_starts_and_its_hessian_is_positive(
    tmp_path: Path,
) -> None:
    problem, start, x, y = regression()
    assert landscape.convergence(start, problem=problem).kinds == ["falling"]
    run = landscape.polish(start, tmp_path / "end", problem=problem)
    said = run.document["polished"]["members"][0]
    assert said["kind"] == "converged"
    assert said["gradient_norm"] < 1e-8
    objective, end = problem.objective(dtype=torch.float64), run.checkpoint().stack
    assert np.linalg.eigvalsh(hessians(objective, end))[0, 0] > 0

    def loss(flat: np.ndarray) -> float:
        w1, b1, w2, b2 = flat[:2, None], flat[2:4], flat[4:6], flat[6]
        return float(np.mean((np.tanh(x.numpy() @ w1.T + b1) @ w2 + b2 - y.numpy()[:, 0]) ** 2))

    flat, rng = end.flatten()[0].numpy(), np.random.default_rng(0)
    for _ in range(3):
        best = optimize.minimize(loss, flat + 0.02 * rng.normal(size=7), options={"gtol": 1e-9})
        assert abs(best.fun - said["loss"]) < 1e-9
        np.testing.assert_allclose(best.x, flat, atol=1e-3)
    again = landscape.convergence(run)
    assert again.kinds == ["converged"]
    assert again.fall[0] < 1e-6
    assert abs(again.radial[0]) < 1e-6


def test_an_infimum_at_infinity_that_is_positive_is_named_with_its_error(tmp_path: Path) -> None:
    """One input has both answers: the best logit there is 0, the loss log 2; those of the others grow without end."""
    network = nn.Linear(1, 1)
    x = torch.tensor([[0.0], [0.0], [1.0], [-1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    problem = planted(network, x, y, "bce")
    infimum = math.log(2) / 2
    place = {"weight": torch.tensor([[9.0]], dtype=torch.float64), "bias": torch.zeros(1, dtype=torch.float64)}
    found = landscape.convergence(place, problem=problem)
    assert found.kinds == ["towards infinity"]
    assert abs(found.limit[0] - infimum) <= found.limit_error[0] <= 1e-6
    run = landscape.polish({**place, "weight": torch.ones(1, 1)}, tmp_path / "far", problem=problem)
    said = run.document["polished"]["members"][0]
    assert said["kind"] == "towards infinity"
    assert abs(said["limit"] - infimum) < 1e-8
    assert abs(said["loss"] - infimum) < 1e-8


def hinge(dip: float) -> tuple[Problem, dict[str, Tensor], float]:
    """A rectifier through (-2, 0), (-1, 0), (0, -dip), (1, 1), (2, 2), close to its best: its corner is then at 0, and
    what lies below it there pulls the rest down by c = 5 dip / 16. And the loss there.
    """
    x, y = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [-dip], [1.0], [2.0]])
    problem = planted(perceptron(1, 1, 1), x, y, "mse")
    values = {"0.weight": [[1.1]], "0.bias": [0.1], "2.weight": [[0.9]], "2.bias": [0.05]}
    place = {name: torch.tensor(each, dtype=torch.float64) for name, each in values.items()}
    c = -5 * dip / 16
    r1, r2 = 2 * c / 5, -c / 5
    return problem, place, (2 * c**2 + (c + dip) ** 2 + r1**2 + r2**2) / 5


@pytest.mark.parametrize("dip", [0.4, 0.01])
def test_a_planted_kink_is_found_where_its_closed_form_says(dip: float, tmp_path: Path) -> None:
    problem, place, loss = hinge(float(torch.tensor(dip)))
    assert landscape.convergence(place, problem=problem).kinds == ["falling"]
    run = landscape.polish(place, tmp_path / "kink", problem=problem)
    said = run.document["polished"]["members"][0]
    assert said["kind"] == "at a kink"
    assert said["kinks"] == 1
    assert said["loss"] == pytest.approx(loss, rel=1e-8)
    again = landscape.convergence(run)
    assert again.kinds == ["at a kink"]
    assert again.pull[0] < 1e-4 * again.gradient_norm[0]
    # The Hessian of the smooth piece knows nothing of it, and the slopes on both sides point to the kink.
    objective, end = problem.objective(dtype=torch.float64), run.checkpoint().stack
    for side in (1, -1):
        moved = Stack({**end.tensors, "0.bias": end["0.bias"] + 1e-6 * side})
        assert float(objective(moved)["loss"][0]) > said["loss"]
        assert float(objective.gradient(moved)[1]["0.bias"][0, 0]) * side > 0


@pytest.mark.slow
def test_polished_members_of_life_have_no_lower_neighbour() -> None:
    """Neither random directions nor scipy's simplex, which needs no gradient, find one that is lower by a millionth."""
    problem = Life()
    run = Run.open(Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V")
    descent = prepared(run, None)
    right = problem.objective(dtype=torch.float64)(descent.stack)["solved"] > 0
    some = descent.stack.select((~right).nonzero()[:8, 0])
    columns, ends = descent.judged(some, tolerance=0.5, steps=100, whole=True, on_progress=lambda done, total: None)
    kinds = [list(KINDS)[int(number)] for number in columns["kind"]]
    assert "at a kink" in kinds
    rng = np.random.default_rng(0)
    for member, kind in enumerate(kinds):
        if kind not in ("at a kink", "converged"):
            continue
        flat, loss = ends.flatten()[member], float(columns["loss"][member])
        directions = torch.from_numpy(rng.normal(size=(500, 25)))
        near = flat + 1e-4 * directions / directions.norm(dim=1, keepdim=True)
        values = descent.objective(descent.stack.select([0] * 500).unflatten(near))["loss"]
        assert float(values.min()) > loss * (1 - 1e-6)

        def height(v: np.ndarray) -> float:
            return float(descent.objective(some.select([0]).unflatten(torch.from_numpy(v)[None]))["loss"][0])

        found = optimize.minimize(height, flat.numpy(), method="Nelder-Mead", options={"maxfev": 300})
        assert found.fun > loss * (1 - 1e-6)


def test_a_planted_saddle_is_left_along_its_negative_curvature_and_called_one(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1))
    x = torch.linspace(-1, 1, 11)[:, None]
    problem = planted(network, x, torch.tanh(2 * x), "mse")
    place = {name: torch.zeros_like(each, dtype=torch.float64) for name, each in network.state_dict().items()}
    objective = problem.objective(dtype=torch.float64)
    stack = Stack({name: each[None] for name, each in place.items()})
    assert np.linalg.eigvalsh(hessians(objective, stack))[0, 0] < -0.1
    assert float(objective.gradient(stack)[1].flatten().norm()) < 1e-7
    assert landscape.convergence(place, problem=problem).kinds == ["saddle"]
    run = landscape.polish(place, tmp_path / "left", problem=problem)
    said = run.document["polished"]["members"][0]
    assert said["kind"] == "converged"
    assert said["loss"] < 1e-6


def test_members_that_are_not_finite_have_diverged(tmp_path: Path) -> None:
    problem, start, _, _ = regression()
    broken = {name: each * torch.nan for name, each in start.items()}
    found = landscape.convergence([start, broken], problem=problem)
    assert found.kinds == ["falling", "diverged"]
    run = landscape.polish([start, broken], tmp_path / "run", problem=problem)
    assert [each["kind"] for each in run.document["polished"]["members"]] == ["converged", "diverged"]


def test_lbfgs_finds_what_scipy_finds_on_a_smooth_and_a_kinked_function() -> None:
    def smooth(v: Tensor) -> tuple[float, Tensor]:
        value, slope = optimize.rosen(v.numpy()), optimize.rosen_der(v.numpy())
        return float(value), torch.from_numpy(slope)

    end, losses = lbfgs(smooth, torch.zeros(5, dtype=torch.float64), steps=200)
    torch.testing.assert_close(end, torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert losses == sorted(losses, reverse=True)
    weights = torch.tensor([1.0, 10.0, 3.0], dtype=torch.float64)

    def kinked(v: Tensor) -> tuple[float, Tensor]:
        return float((weights * v.abs()).sum() + (v[0] - 0.3) ** 2), weights * v.sign() + torch.tensor(
            [2 * (v[0] - 0.3), 0, 0], dtype=torch.float64
        )

    end, losses = lbfgs(kinked, torch.tensor([2.0, 1.0, -3.0], dtype=torch.float64), steps=300)
    assert abs(losses[-1] - 0.09) < 1e-6


class Point(nn.Module):
    """A place; the losses below are of its coordinates alone."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(size))


def of_coordinates(size: int, height: Callable[[Tensor], Tensor]) -> Problem:
    return Problem.from_model(Point(size), torch.zeros(2, 1), batch_loss=lambda model, batch: height(model.at))


def ended(problem: Problem, place: Any, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    run = landscape.polish(place, path, problem=problem)
    return run.document["polished"]["members"][0], run.checkpoint().stack.state_dict(0)


#: Parameters below and above those of which the whole Hessian is taken.
sizes = pytest.mark.parametrize("size", [7, 450])


@sizes
def test_a_convex_problem_ends_where_its_normal_equations_say(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3 * size, size), torch.randn(3 * size, 1)
    said, end = ended(planted(nn.Linear(size, 1), x, y, "mse"), nn.Linear(size, 1), tmp_path / "run")
    columns = torch.cat([x, torch.ones(3 * size, 1)], 1).double()
    best = torch.linalg.lstsq(columns, y.double()).solution
    assert said["kind"] == "converged"
    assert said["sure"]
    assert not said["stalled"]
    assert said["negative"] == 0
    assert said["gradient_norm"] < 1e-8
    assert said["loss"] == pytest.approx(float((columns @ best - y).square().mean()), rel=1e-12)
    torch.testing.assert_close(torch.cat([end["weight"][0], end["bias"]]), best[:, 0], rtol=1e-6, atol=1e-8)


@sizes
def test_separable_classes_go_towards_infinity_with_the_limit_zero(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, size)
    y = (x @ torch.randn(size, 1) > 0).float()
    problem = planted(nn.Linear(size, 1), x, y, "bce")
    zero = {"weight": torch.zeros(1, size), "bias": torch.zeros(1)}
    said, end = ended(problem, zero, tmp_path / "run")
    assert (said["kind"], said["limit"], said["sure"]) == ("towards infinity", 0, True)
    assert said["loss"] == pytest.approx(1e-9, rel=1e-6)
    assert bool(((x.double() @ end["weight"].T + end["bias"] > 0) == (y > 0)).all())
    assert landscape.convergence(end, problem=problem).kinds == ["towards infinity"]


def test_inputs_with_two_answers_leave_a_large_network_their_entropy(tmp_path: Path) -> None:
    """Of a perceptron of 2,203 parameters: all else is answered as surely as one likes, so that log 2 is left of each
    sample of a pair that is answered differently.
    """
    torch.manual_seed(0)
    x = torch.randn(100, 10)
    y = torch.cat([labels := torch.randint(0, 3, (100,)), other := torch.randint(0, 3, (20,))])
    layers = [nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)]
    problem = planted(nn.Sequential(*layers), torch.cat([x, x[:20]]), y, "cross_entropy")
    infimum = 2 * int((labels[:20] != other).sum()) * math.log(2) / 120
    said, _ = ended(problem, nn.Sequential(*layers), tmp_path / "run")
    assert said["kind"] == "towards infinity"
    assert abs(said["limit"] - infimum) < 1e-6 * infimum
    assert said["loss"] == pytest.approx(infimum, rel=1e-6)
    assert landscape.convergence(str(tmp_path / "run"), problem=problem).kinds == ["towards infinity"]


@sizes
def test_a_kink_of_an_absolute_value_is_one(size: int, tmp_path: Path) -> None:
    wanted = torch.linspace(-1, 1, size - 1, dtype=torch.float64)
    problem = of_coordinates(size, lambda at: 1 + at[0].abs() + (at[1:] - wanted.to(at.dtype)).square().sum() / 2)
    said, end = ended(problem, {"at": torch.full((size,), 0.3)}, tmp_path / "run")
    assert (said["kind"], said["kinks"]) == ("at a kink", -1)
    assert said["loss"] == pytest.approx(1, abs=1e-6)
    assert abs(float(end["at"][0])) < 1e-6


@sizes
def test_a_saddle_of_closed_form_is_one_and_is_left_for_its_minimum(size: int, tmp_path: Path) -> None:
    def height(at: Tensor) -> Tensor:
        return 1 - at[0] ** 2 / 2 + at[0] ** 4 / 4 + (at[1:].square() * torch.linspace(1, 3, size - 1)).sum()

    problem, place = of_coordinates(size, height), {"at": torch.zeros(size)}
    found = landscape.convergence(place, problem=problem)
    assert found.kinds == ["saddle"]
    said, end = ended(problem, place, tmp_path / "run")
    assert (said["kind"], said["negative"]) == ("converged", 0)
    assert said["loss"] == pytest.approx(0.75, rel=1e-9)
    assert abs(float(end["at"][0])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("width", [3, 200])
def test_dead_networks_are_a_kind_of_their_own(width: int) -> None:
    network = perceptron(2, width, 1)
    x, y = torch.randn(20, 2).abs(), torch.randint(0, 2, (20, 1)).float()
    y[0], y[1] = 0, 1
    problem = planted(network, x, y, "bce")
    place = {name: torch.full_like(each, -1.0) for name, each in network.state_dict().items()}
    place["2.bias"] = torch.tensor([float(torch.logit(y.mean()))])
    assert landscape.convergence(place, problem=problem).kinds == ["dead"]


def test_a_dead_network_whose_loss_can_still_fall_is_falling() -> None:
    """Its rectifiers are off, and the bias of its last layer is not yet where it belongs."""
    network = perceptron(2, 3, 1)
    x, y = torch.randn(20, 2).abs(), torch.arange(20)[:, None] % 2 * 1.0
    place = {name: torch.full_like(each, -1.0) for name, each in network.state_dict().items()}
    found = landscape.convergence(place, problem=planted(network, x, y, "bce"))
    assert found.kinds == ["falling"]
    assert found.fall[0] > 0.1


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_samples_that_are_alike_make_no_network_dead(bias: float) -> None:
    """Whatever the parameters are, all inputs have one output: the least loss is the variance of the targets."""
    network = perceptron(2, 3, 1)
    y = torch.tensor([[-1.0], [1.0]]).repeat(10, 1)
    place = {name: torch.full_like(each, -1.0) for name, each in network.state_dict().items()}
    place["2.bias"] = torch.tensor([bias])
    found = landscape.convergence(place, problem=planted(network, torch.ones(20, 2), y, "mse"))
    assert found.kinds == ["falling" if bias else "converged"]
    assert found.fall[0] == pytest.approx(bias**2 / (1 + bias**2), abs=1e-6)


@pytest.mark.parametrize("size", [1, 3, 450])
@pytest.mark.parametrize("x", [0.5, 2.0])
def test_where_a_gradient_jumps_a_member_is_held_at_a_kink(size: int, x: float) -> None:
    """(|b| + x)^2 is least at b = 0, where automatic differentiation says that its gradient is 0; b^2 + x has none."""
    for height, kind in (
        (lambda at: (at.abs().sum() + x) ** 2, "at a kink"),
        (lambda at: (at.square().sum() + x) ** 2, "converged"),
        (lambda at: at.square().sum(), "converged"),
        (lambda at: at.pow(4).sum() + x, "converged"),
    ):
        found = landscape.convergence({"at": torch.zeros(size)}, problem=of_coordinates(size, height))
        assert found.kinds == [kind]
        assert found.fall[0] == 0


@pytest.mark.slow
def test_what_polish_says_of_small_rectifier_networks_is_what_convergence_says_of_its_file(tmp_path: Path) -> None:
    """Also of members that stay at kinks, stall, or fall on; of all together and of one alone."""
    network = perceptron(4, 8, 3)
    torch.manual_seed(1)
    problem = planted(network, torch.randn(40, 4), torch.randn(40, 3), "mse")
    starts = [perceptron(4, 8, 3).state_dict() for _ in range(20)]
    run = landscape.polish(starts, tmp_path / "run", problem=problem, steps=20)
    said = [member["kind"] for member in run.document["polished"]["members"]]
    assert landscape.convergence(run, problem=problem).kinds == said
    assert landscape.convergence(f"{run.path}/#7", problem=problem).kinds == said[7:8]
    assert len(set(said)) > 1


def test_a_large_network_that_falls_says_so_after_few_steps() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 10), torch.randint(0, 3, (40,))
    network = perceptron(10, 40, 3)
    found = landscape.convergence(network, problem=planted(network, x, y, "cross_entropy"), steps=3)
    assert found.kinds == ["falling"]
    assert found.sure[0]
    assert "L-BFGS" in found.caption()


def test_truncated_newton_steps_find_what_scipy_finds_and_what_a_dense_matrix_says() -> None:
    def slope(at: Tensor) -> tuple[float, Tensor]:
        return float(optimize.rosen(at.numpy())), torch.from_numpy(optimize.rosen_der(at.numpy()))

    def curved(at: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda vector: torch.from_numpy(optimize.rosen_hess_prod(at.numpy(), vector.numpy()))

    start = torch.full((20,), -1.2, dtype=torch.float64)
    came = newton(slope, curved, start, steps=300, at_end=1e-9)
    assert came.ended
    found = optimize.minimize(
        lambda at: optimize.rosen(at),
        start.numpy(),
        jac=optimize.rosen_der,
        hessp=optimize.rosen_hess_prod,
        method="trust-ncg",
        options={"gtol": 1e-8, "maxiter": 2000},
    )
    assert float(came.gradient.norm()) < 1e-8
    assert abs(came.loss - float(found.fun)) < 1e-12
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    for values in (np.linspace(1, 9, 12), np.linspace(-1, 9, 12)):
        matrix, gradient = torch.from_numpy(turn * values @ turn.T), torch.from_numpy(rng.normal(size=12))
        step, fall, solved = _within(gradient, lambda v, m=matrix: m @ v, 10.0 if values[0] > 0 else 0.5, 1e-10)
        assert fall == pytest.approx(-float(gradient @ step) - float(step @ matrix @ step) / 2)
        assert solved == (values[0] > 0)
        if solved:
            torch.testing.assert_close(step, -torch.linalg.solve(matrix, gradient), rtol=1e-7, atol=1e-9)
        else:  # as far as is trusted, and lower than straight down the gradient
            assert float(step.norm()) == pytest.approx(0.5)
            down = -0.5 * gradient / gradient.norm()
            assert fall >= -float(gradient @ down) - float(down @ matrix @ down) / 2 - 1e-12


def test_samples_for_which_a_layer_is_silent_share_one_kink_which_has_the_jump_of_all() -> None:
    torch.manual_seed(0)
    network = perceptron(1, 2, 2, 1).double()
    values = {
        "0.weight": [[1.0], [2.0]], "0.bias": [-0.1, 0.2],  # silent below -0.1
        "2.weight": [[1.0, -0.5], [0.5, 1.0]], "2.bias": [1e-9, 0.4],
        "4.weight": [[1.0, 1.0]], "4.bias": [0.1],
    }  # fmt: skip
    x = torch.linspace(-2, 1, 12)[:, None]
    problem = planted(network, x, x.square(), "mse")
    objective = problem.objective(dtype=torch.float64)
    stack = Stack({name: torch.tensor(each, dtype=torch.float64)[None] for name, each in values.items()})
    pieces = Pieces.of(objective)
    assert pieces is not None
    here = pieces.at(stack.flatten())
    silent = int((x < -0.1).sum())
    near = here.distances < 1e-6
    assert int(near.sum()) == 1
    assert int(here.distances[0].isinf().sum()) - int((~pieces.real).sum()) * 4 == 2 * (silent - 1)
    kink = near.nonzero()[:, 1][None]
    jump = (here.jumps.gather(1, kink)[..., None] * here.normals(kink))[0, 0]
    ends = [
        objective.gradient(Stack({**stack.tensors, "2.bias": stack["2.bias"] + torch.tensor([[side, 0.0]])}))[1]
        for side in (-1e-7, 1e-7)
    ]
    torch.testing.assert_close(jump, (ends[1].flatten() - ends[0].flatten())[0], rtol=1e-5, atol=1e-5)


def test_a_flat_minimum_is_approached_as_far_as_its_loss_can_tell(tmp_path: Path) -> None:
    problem = of_coordinates(2, lambda at: 1 + at[0] ** 6 + at[1] ** 2)
    said, end = ended(problem, {"at": torch.ones(2)}, tmp_path / "run")
    assert said["kind"] == "converged"
    assert abs(said["limit"] - 1) <= said["limit_error"] < 1e-8
    assert abs(float(end["at"][0])) < 0.1


def test_steps_that_gain_next_to_nothing_stop_and_say_what_ten_of_them_gained() -> None:
    """A Hessian that is said to be a thousand million times too large makes each step as much too short."""
    start = torch.ones(3, dtype=torch.float64)
    came = newton(
        lambda at: (1 + float(at.square().sum()), 2 * at),
        lambda at: lambda vector: 1e9 * vector,
        start,
        steps=100,
        at_end=1e-9,
    )
    assert (came.ended, came.stalled, came.steps) == (False, True, 10)
    assert came.fall <= 10 * (4 - came.loss)
    assert came.loss < 4


def test_members_that_stall_are_not_sure_and_cost_no_further_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.engine.descent.STALL", 1.0)  # whatever ten steps gain is next to nothing
    problem, start, _, _ = regression()
    descent = prepared(start, problem)
    flat = descent.stack.flatten() + torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    surface = descent.surface()
    assert surface is not None
    end = descend(surface, flat, steps=200, at_end=0.0)
    assert bool(end.stalled[0])
    assert int(end.steps[0]) <= 21
    assert bool(torch.isfinite(end.fall[0]))


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    _, start, x, y = regression()

    class Half(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
            self[0].requires_grad_(False)

    frozen = planted(Half(), x.float(), y.float(), "mse")
    run = landscape.polish(start, tmp_path / "half", problem=frozen)
    end = run.checkpoint().stack.state_dict(0)
    assert torch.equal(end["0.weight"], start["0.weight"])
    assert not torch.equal(end["2.weight"], start["2.weight"])
    # The rest is a linear problem, which has one solution.
    hidden = torch.cat([torch.tanh(x @ start["0.weight"].T + start["0.bias"]), torch.ones(200, 1).double()], 1)
    best = torch.linalg.lstsq(hidden, y).solution[:, 0]
    torch.testing.assert_close(torch.cat([end["2.weight"][0], end["2.bias"]]), best, rtol=1e-6, atol=1e-8)


def test_sampled_and_random_losses_are_refused_by_name(tmp_path: Path) -> None:
    sampled = Life(steps=2, m_factor=2)
    with pytest.raises(LandscapeError, match="samples that are drawn"):
        landscape.convergence("presolve", problem=sampled)
    with pytest.raises(LandscapeError, match="samples that are drawn"):
        landscape.polish("presolve", tmp_path / "no", problem=sampled)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x) + torch.randn_like(x[:, :1])

    noisy = planted(Noisy(), torch.randn(8, 2), torch.randn(8, 1), "mse")
    with pytest.raises(LandscapeError, match="Noisy"):
        landscape.convergence(Noisy(), problem=noisy)
    with pytest.raises(LandscapeError, match="at least 10"):
        landscape.polish(Noisy(), tmp_path / "no", problem=noisy, steps=9)
    assert not (tmp_path / "no").exists()


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "short"
    return landscape.train("life", {"batches": 100}, path, seeds=range(6))


def test_polishing_goes_on_where_it_was_interrupted(
    short_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.analysis.polish._TOGETHER", 2)
    whole = landscape.polish(short_run, tmp_path / "whole", steps=10)

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        landscape.polish(short_run, tmp_path / "parts", steps=10, progress=stop)
    kept = tmp_path / "parts.resume.safetensors"
    assert kept.exists()
    with pytest.raises(LandscapeError, match="keeps members of other work: steps"):
        landscape.polish(short_run, tmp_path / "parts", steps=11)
    parts = landscape.polish(short_run, tmp_path / "parts", steps=10)
    assert not kept.exists()
    assert torch.equal(parts.checkpoint().stack.flatten(), whole.checkpoint().stack.flatten())
    assert parts.document["polished"]["members"] == whole.document["polished"]["members"]
    assert parts.checkpoint().stack.dtype == torch.float64
    assert parts.steps() == [100]
    with pytest.raises(LandscapeError, match="exists"):
        landscape.polish(short_run, tmp_path / "parts", steps=10)


def test_the_command_line_prints_kinds_and_polishes(short_run: Run, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "polished"
    result = runner.invoke(main, ["polish", str(short_run.path), "-o", str(out), "--steps", "10"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    result = runner.invoke(main, ["analyse", "convergence", str(short_run.path), "--steps", "3", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["members"]) == 6
    assert {each["kind"] for each in document["members"]} <= KINDS.keys()
    assert document["incidence"]["steps"] == short_run.steps()
    text = runner.invoke(main, ["analyse", "convergence", str(short_run.path), "--steps", "3"]).stdout
    assert "solved by" in text
    result = runner.invoke(main, ["analyse", "convergence", str(out), "--steps", "3"])
    assert result.exit_code == 0, result.output
    assert "a decade" in result.stderr
    result = runner.invoke(main, ["polish", "presolve", "--problem", "life", "-O", "steps=2", "-O", "m_factor=2"])
    assert result.exit_code == 1
    assert result.stderr.strip().count("\n") == 0


def test_a_network_of_any_kind_has_its_outputs_and_no_rescalings_known() -> None:
    problem, start, _, _ = regression()
    descent = prepared(start, problem)
    surface = descent.surface()
    assert isinstance(surface, Whole)
    flat = descent.stack.flatten()
    assert surface.at(flat).outputs.shape[0] == 1
    assert surface.scalings(flat).shape[1] == 0
    assert float(surface.at(flat).loss[0]) == pytest.approx(float(descent.objective(descent.stack)["loss"][0]))


def test_a_parameter_without_dimensions_has_a_kind() -> None:
    class Scale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.w * x

    x = torch.tensor([[-1.0], [1.0], [2.0]])
    problem = landscape.Problem.from_model(Scale(), (x, (x > 0).float()), "bce")
    assert landscape.convergence(Scale(), problem=problem).kinds == ["towards infinity"]
