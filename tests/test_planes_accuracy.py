"""Planes to a stated accuracy: against full planes on all samples, closed forms, refits by hand, what bands cover."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape as ls
from landscape import LandscapeError, Problem, Result
from landscape.core.errors import Unsupported, Unverified
from landscape.core.intervals import Proportion
from landscape.core.scattered import Scattered, first_nodes, spread_out
from landscape.evaluation import samples, surfaces
from landscape.evaluation.accuracy import reached
from landscape.figures.captions import plane_caption
from landscape.problems.digits import Digits
from landscape.problems.life import Life


@pytest.fixture(autouse=True)
def _costly(monkeypatch):
    """As if the networks here were so large that fewer samples took less time."""
    monkeypatch.setattr(samples, "_CHEAP", 0)


# Surfaces through scattered points -----------------------------------------------------------------------------------


def scattered(function: Any, count: int = 40) -> Scattered:
    nodes = np.random.default_rng(0).uniform(-1, 1, (count, 2))
    return Scattered(nodes, function(*nodes.T))


def test_what_each_node_is_predicted_to_be_is_what_a_surface_without_it_says():
    whole = scattered(lambda x, y: np.exp(-2 * x) + x * y)
    power, degree, floor = whole._best[:3]
    scaled = whole._scaled(whole.values, floor)
    for k in range(len(scaled)):
        rest = np.arange(len(scaled)) != k
        nodes = whole.nodes[rest]
        monomials = [
            [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)] for x, y in whole.nodes.tolist()
        ]
        below = np.array(monomials)
        kernel = np.linalg.norm(nodes[:, None] - nodes[None], axis=2) ** power
        zero = np.zeros((below.shape[1],) * 2)
        matrix = np.block([[kernel, below[rest]], [below[rest].T, zero]])
        solved = np.linalg.solve(matrix, np.append(scaled[rest], np.zeros(len(zero))))
        there = np.append(np.linalg.norm(nodes - whole.nodes[k], axis=1) ** power, below[k]) @ solved
        assert whole.wrong[k] == pytest.approx(
            abs(whole._scaled_back(np.array(there), floor) - whole.values[k]), abs=1e-9
        )


def test_a_polynomial_of_the_second_degree_is_met_and_nodes_are():
    surface = scattered(lambda x, y: 1 + x - 2 * y + x * y + 3 * y**2)
    places = np.random.default_rng(1).uniform(-1, 1, (50, 2))
    x, y = places.T
    np.testing.assert_allclose(surface(places), 1 + x - 2 * y + x * y + 3 * y**2, atol=1e-10)
    assert surface.wrong.max() < 1e-9
    np.testing.assert_allclose(surface(surface.nodes), surface.values, atol=1e-9)
    assert surface.error(*surface.around(surface.nodes)).max() == 0


def test_many_decades_are_interpolated_as_logarithms():
    surface = scattered(lambda x, y: np.exp(4 * x + 2 * y), 80)
    assert surface._best[2] > 0


def test_nodes_on_one_line_have_no_surface_and_say_so():
    nodes = np.stack([np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)], 1)
    surface = Scattered(nodes, np.arange(9.0) ** 3)
    assert np.isinf(surface.wrong).all()
    assert surface(np.array([[0.0, 1.0]])) == surface.values.mean()
    assert np.isinf(surface.error(*surface.around(np.array([[0.0, 1.0]]))))


def test_points_that_are_wanted_most_are_chosen_apart_from_each_other():
    places = np.stack([np.linspace(-1, 1, 21), np.zeros(21)], 1)
    wanted = 1 - np.abs(places[:, 0])
    chosen = spread_out(wanted, places, np.full(21, 0.35), np.full(21, 0.1), 5)
    assert chosen[0] == 10
    assert np.diff(np.sort(places[chosen, 0])).min() > 0.15
    assert not len(spread_out(wanted, places, np.full(21, 0.35), np.full(21, 1.0), 5))


def test_the_first_nodes_are_a_grid_with_points_between():
    found = first_nodes(31, 31)
    assert len(found) == 41
    assert {0, 30, 30 * 31, 31 * 31 - 1, 15 * 31 + 15} <= set(found.tolist())
    assert first_nodes(2, 3).tolist() == [0, 1, 2, 3, 4, 5]


# Closed forms --------------------------------------------------------------------------------------------------------


class Plane(nn.Module):
    """A network whose loss at (x, y) is the square of a function of them, plus what samples add."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.place, self.function = nn.Parameter(torch.zeros(2, dtype=torch.float64)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*self.place) + self.place[0] * (1 - self.place[1]) * x


def closed(function: Any, spread: float = 0.0, count: int = 32, **options: Any) -> Result:
    """On -1 to 1, the first axis and the second."""
    noise = torch.linspace(-spread, spread, count, dtype=torch.float64)[:, None]
    problem = Problem.from_model(Plane(function), (noise, torch.zeros_like(noise)), "mse")
    places = [{"place": torch.tensor(each, dtype=torch.float64)} for each in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    window: dict[str, Any] = {"x": (-1, 1), "y": (-1, 1), "dtype": torch.float64, "directions": "tasks"}
    return ls.plane(*places, problem=problem, **{**window, **options})


def exact(function: Any, found: Result) -> np.ndarray:
    x, y = (torch.as_tensor(each) for each in np.meshgrid(found["x"], found["y"]))
    return np.asarray(function(x, y).numpy() ** 2)


PLANES = {
    "quadratic": lambda x, y: 1 + x * x + 0.5 * x * y + 2 * y * y,
    "peak": lambda x, y: 1 + torch.exp(-8 * ((x - 0.2) ** 2 + (y + 0.3) ** 2)),
    "kink": lambda x, y: 2 + (x - 0.3 * y - 0.137).abs() + y,
    "corner": lambda x, y: 1 + torch.maximum(torch.maximum(x, y), 0.2 - x - y),
    "many decades": lambda x, y: torch.exp(3 * x - 2 * y),
    "nearly flat": lambda x, y: 1 + 1e-9 * x,
}


@pytest.mark.parametrize("tolerance", [0.03, 0.003])
@pytest.mark.parametrize("name", PLANES)
def test_closed_forms_are_as_near_as_they_are_said_to_be(name, tolerance):
    found = closed(PLANES[name], tolerance=tolerance)
    wanted = exact(PLANES[name], found)
    off, said = np.abs(found["loss"] - wanted), found.about["accuracy"]
    assert (off <= found["loss_error"] + 1e-9 * wanted.max()).all()
    assert off.max() <= tolerance * np.ptp(wanted) + 1e-12
    assert said["reached"]
    assert said["error"] == found["loss_error"].max() <= tolerance * np.ptp(wanted) * 1.01
    assert said["points"] == found["evaluated"].sum() == found["points_used"].sum()
    assert said["points"] < (0.3 if tolerance == 0.03 else 0.75) * wanted.size
    there = found["evaluated"]
    np.testing.assert_allclose(found["loss"][there], wanted[there], rtol=1e-12)
    assert (found["loss_error"][there] == 0).all()
    low, high = said["interval"]
    assert low <= wanted.min() <= wanted.max() <= high + 1e-9


def test_where_nothing_can_be_interpolated_all_points_are_evaluated():
    torch.manual_seed(0)
    rough = torch.rand(64, 64, dtype=torch.float64)
    function = lambda x, y: rough[((x + 1) * 31).long(), ((y + 1) * 31).long()]  # noqa: E731
    found = closed(function, tolerance=0.01, points=16)
    assert found["evaluated"].all()
    assert found["loss_error"].max() == 0
    np.testing.assert_allclose(found["loss"], exact(function, found), rtol=1e-12)
    assert "reached, from 289 of 289 points" in reached(found)


def test_a_surface_has_so_many_points_at_most_and_what_is_reached_is_said(monkeypatch):
    monkeypatch.setattr(surfaces, "_POINTS", 50)
    found = closed(PLANES["kink"], tolerance=0.0005)
    said = found.about["accuracy"]
    assert not said["reached"]
    assert said["points"] < 65
    off = np.abs(found["loss"] - exact(PLANES["kink"], found))
    assert (off <= found["loss_error"] + 1e-9).all()
    assert "not reached" in reached(found)


def test_a_loss_that_is_not_finite_has_no_surface_and_all_points_are_evaluated(caplog):
    function = lambda x, y: 1 / (x.abs() - 0.5).clamp(min=0)  # noqa: E731
    found = closed(function, tolerance=0.01, points=9)
    assert found["evaluated"].all()
    np.testing.assert_array_equal(found["loss"], exact(function, found))
    assert "not finite: nothing is interpolated" in caplog.text


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Problems and runs of them."""

    @functools.cache
    def made(kind: str) -> tuple[Problem, str]:
        path = str(tmp_path_factory.mktemp("runs") / kind)
        if kind.startswith("life"):
            problem: Problem = Life(m_factor=int(kind[4:]))
            training: dict[str, Any] = {"batches": 200, "lr": 0.02, "save_at": (0, 20, 50, 100, 200)}
        else:
            width = int(kind[3:])
            problem = Digits(width=width) if kind.startswith("mlp") else Digits(architecture="cnn", width=width)
            training = {"batches": 60, "lr": 1e-2, "batch_size": 128, "save_at": (0, 5, 15, 30, 60)}
        ls.train(problem, training, path, seeds=range(500, 504))
        return problem, path

    return made


def asked(path: str, which: str, seed: int = 500) -> dict[str, Any]:
    if which == "through":
        return {"a": f"{path}#{seed}", "b": f"{path}#{seed + 1}", "c": f"{path}#{seed + 2}"}
    more: dict[str, Any] = {"directions": "trajectory"} if which == "trajectory" else {"direction_seed": seed}
    return {"a": f"{path}#{seed}", **more}


@pytest.mark.parametrize("which", ["random", "through", "trajectory"])
@pytest.mark.parametrize("kind", ["life1", "mlp16", pytest.param("cnn2", marks=pytest.mark.slow)])
def test_planes_of_networks_are_the_full_ones_to_the_tolerance(kind, which, learnt, monkeypatch):
    monkeypatch.setattr(samples, "_CHEAP", 2**40)
    problem, path = learnt(kind)
    full = ls.plane(problem=problem, **asked(path, which))
    found = ls.plane(problem=problem, tolerance=0.01, **asked(path, which))
    off, range_of = np.abs(found["loss"] - full["loss"]), np.ptp(full["loss"])
    rounding = 1e-5 * full["loss"].max()
    assert off.max() <= 0.01 * range_of
    assert (off <= found["loss_error"] + rounding).mean() > 0.98
    there = found["evaluated"]
    np.testing.assert_allclose(found["loss"][there], full["loss"][there], rtol=1e-4, atol=1e-7)
    assert found.about["accuracy"]["points"] < (0.25 if kind != "life1" else 0.8) * full["loss"].size
    for mark, other in zip(found.marks, full.marks, strict=True):
        assert (mark.loss, mark.plane_loss) == pytest.approx((other.loss, other.plane_loss), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["life1", "life4", "mlp16", "mlp64", "cnn2"])
def test_planes_of_networks_that_no_factor_was_set_on_lie_inside_their_band(kind, learnt, monkeypatch):
    """Printed with `-rP`."""
    monkeypatch.setattr(samples, "_CHEAP", 2**40)
    problem, path = learnt(kind)
    near, inside, count = 0, 0, 0
    for which in ("random", "through", "trajectory"):
        for seed in (500, 501) if kind != "mlp64" else (500,):
            full = ls.plane(problem=problem, **asked(path, which, seed))
            range_of, rounding = np.ptp(full["loss"]), 1e-5 * full["loss"].max()
            for tolerance in (0.03, 0.01):
                found = ls.plane(problem=problem, tolerance=tolerance, **asked(path, which, seed))
                off = np.abs(found["loss"] - full["loss"])
                near += int(off.max() <= tolerance * range_of)
                inside += int((off <= found["loss_error"] + rounding).all())
                count += 1
                print(f"{kind} {which} {tolerance}: {off.max() / range_of:.4f}, {found.about['accuracy']['points']}")
    print(f"within the tolerance {Proportion(near, count)}; inside everywhere {Proportion(inside, count)}")
    assert near == count
    assert Proportion(inside, count).interval[1] >= 0.95


# Samples -------------------------------------------------------------------------------------------------------------


@functools.cache
def labelled(count: int = 6000) -> tuple[Problem, list[nn.Module]]:
    torch.manual_seed(3)
    x = torch.randn(count, 6)
    y = (x @ torch.randn(6, 3)).argmax(1)
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters(), 2e-2)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        networks.append(network)
    return Problem.from_model(networks[0], (x, y), "cross_entropy"), networks


@functools.cache
def full_plane() -> Result:
    problem, networks = labelled()
    return ls.plane(*networks, problem=problem)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_a_part_of_the_samples_gives_the_plane_of_all_of_them(engine, monkeypatch):
    problem, networks = labelled()
    full, work = full_plane(), list[int]()

    def losses(self, family, places, levels, of=samples.Samples.losses):
        work.append(len(places) * self.size_of(levels))
        return of(self, family, places, levels)

    monkeypatch.setattr(samples.Samples, "losses", losses)
    found = ls.plane(*networks, problem=problem, tolerance=0.03, engine=engine)
    off, said = np.abs(found["loss"] - full["loss"]), found.about["accuracy"]
    assert off.max() <= 0.03 * np.ptp(full["loss"])
    assert (off <= found["loss_error"]).mean() >= 0.99
    assert said["reached"]
    assert said["of_samples"] == 6000
    assert said["read"] < 0.05
    marks = 3 * 6000
    assert sum(work) - marks <= said["read"] * full["loss"].size * 6000 <= sum(work)
    for mark in full.marks:
        at = int(np.argmin(np.abs(full["y"] - mark.y))), int(np.argmin(np.abs(full["x"] - mark.x)))
        assert found["loss"][at] == pytest.approx(full["loss"][at], rel=1e-5)
        assert (found["loss_error"][at], found["evaluated"][at]) == (0, True)
    assert f"of {full['loss'].size:,} points on up to {said['samples']:,} of 6,000 samples" in reached(found)


@pytest.mark.slow
def test_bands_of_samples_hold_the_full_plane_at_all_points_at_once():
    problem, networks = labelled()
    full, held, near, orders = ls.plane(*networks, problem=problem, points=13), 0, 0, 40
    for seed in range(orders):
        found = ls.plane(*networks, problem=problem, tolerance=0.05, points=13, seed=seed)
        off = np.abs(found["loss"] - full["loss"])
        held += int((off <= found["loss_error"] + 1e-6).all())
        near += int(off.max() <= 0.05 * np.ptp(full["loss"]))
    print(f"inside everywhere {Proportion(held, orders)}, within the tolerance {Proportion(near, orders)}")
    assert near >= 0.93 * orders
    assert Proportion(held, orders).interval[1] >= 0.95


def test_other_orders_of_samples_give_other_numbers_and_the_same_ones_the_same():
    problem, networks = labelled()
    ask = functools.partial(ls.plane, *networks, problem=problem, tolerance=0.05)
    first, again, other = ask(), ask(), ask(seed=1)
    np.testing.assert_array_equal(first["loss"], again["loss"])
    assert (first["loss"] != other["loss"]).any()


def test_a_population_is_not_known_from_all_samples():
    problem, networks = labelled()
    found = ls.plane(*networks, problem=problem, tolerance=0.005, population=True)
    said = found.about["accuracy"]
    assert said["population"]
    assert not said["reached"]
    assert said["samples"] == 6000
    assert (found["loss_error"] > 0).all()
    assert said["error"] > 0.005 * np.ptp(found["loss"])


def test_a_wrong_engine_is_found_out_on_the_first_samples(monkeypatch):
    problem, networks = labelled()

    def share(self, level, of=samples.Samples._share):
        found = of(self, level)
        return found._replace(referee=lambda stack: found.referee(stack) + 0.01)

    monkeypatch.setattr(samples.Samples, "_share", share)
    with pytest.raises(Unverified, match=r"on 256 samples the plane does not reproduce mark 0.* at x 0, y 0"):
        ls.plane(*networks, problem=problem, tolerance=0.05)


def test_of_other_losses_points_alone_are_chosen_and_it_is_said(caplog):
    _, networks = labelled()
    x, y = torch.randn(300, 6), torch.randint(0, 3, (300,))
    problem = Problem.from_model(networks[0], (x, y), lambda out, target: nn.functional.cross_entropy(out, target))
    found = ls.plane(*networks, problem=problem, tolerance=0.02, points=21)
    full = ls.plane(*networks, problem=problem, points=21)
    assert np.abs(found["loss"] - full["loss"]).max() <= 0.02 * np.ptp(full["loss"])
    assert "points alone are chosen, all samples are used" in caplog.text
    assert found.about["accuracy"]["all_samples"]


# What is asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0.0}, "`tolerance` is 0.0, it must be positive and below 1"),
        ({"tolerance": 1.5}, "`tolerance` is 1.5, it must be positive and below 1"),
        ({"tolerance": 0.1, "samples": 500}, "leave `samples` out"),
        ({"population": True}, "`population` is for planes to a stated accuracy: ask for one with `tolerance` or"),
        ({"tolerance": 0.1, "workers": 2}, "look at the whole plane in one process: leave them out, or `workers`"),
        ({"budget": 9.0, "shard": "1/2"}, "look at the whole plane in one process: leave them out, or `workers`"),
        ({"budget": -1.0}, "`budget` is -1.0, it must be positive"),
        ({"budget": 1e-9}, "one point takes"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, words, tmp_path):
    problem, networks = labelled()
    with pytest.raises(LandscapeError) as error:
        ls.plane(*networks, problem=problem, save=tmp_path / "a.h5", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_population_has_no_part_of_an_exact_loss():
    with pytest.raises(Unsupported, match="`population` is of samples that are drawn"):
        ls.plane("presolve", problem=Life(), tolerance=0.1, population=True)


def test_a_budget_gives_the_narrowest_band_in_its_time():
    problem, networks = labelled()
    found = ls.plane(*networks, problem=problem, budget=1.0)
    said = found.about["accuracy"]
    assert said["tolerance"] is None
    assert said["seconds"] < 4
    off = np.abs(found["loss"] - full_plane()["loss"])
    assert (off <= found["loss_error"] + 1e-6).mean() >= 0.98
    assert "tolerance" not in reached(found)
    ended = closed(PLANES["quadratic"], budget=60.0, points=9)
    assert ended.about["accuracy"]["seconds"] < 20
    assert ended.about["accuracy"]["error"] <= 1e-4 * np.ptp(ended["loss"])


def test_the_command_line_says_what_was_reached_and_files_and_figures_show_it(landscape, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(samples, "_CHEAP", 2**40)
    _, networks = labelled()
    for name, network in zip("abc", networks, strict=True):
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "mine.py").write_text(
        "import torch, landscape\n"
        "from torch import nn\n"
        "torch.manual_seed(3)\n"
        "x = torch.randn(600, 6)\n"
        "y = (x @ torch.randn(6, 3)).argmax(1)\n"
        "net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))\n"
        "problem = landscape.Problem.from_model(net, (x, y), 'cross_entropy', title='mine')\n"
    )
    ask = ("plane", "--through", "a.pt", "b.pt", "c.pt", "--problem", "mine.py:problem", "-o", "out.h5")
    outcome = landscape(*ask, "--tolerance", "0.02")
    assert outcome.exit_code == 0, outcome.output
    assert "tolerance 0.02 of the range of losses reached, from" in outcome.output
    assert outcome.stdout == "out.h5\n"
    found = Result.read(tmp_path / "out.h5")
    assert found["evaluated"].dtype == bool
    assert found.about["accuracy"]["points"] == found["evaluated"].sum()
    document = json.loads(landscape("info", "out.h5", "--json").stdout)
    assert document["accuracy"] == found.about["accuracy"]
    assert document["accuracy"]["quantity"] == "loss"
    assert landscape("plot", "plane", "out.h5", "-o", "out.svg").exit_code == 0
    drawn = " ".join((tmp_path / "out.svg").read_text().split())
    assert "Measured to 0.02 of the range of losses" in drawn
    text = plane_caption(found, shown=3, log=False, one_scale=True, flat=True)
    assert f"losses: {found['evaluated'].sum()} points were evaluated, the rest is interpolated; each is within" in text
    wrong = landscape(*ask, "--force", "--budget", "0.000001s")
    assert wrong.exit_code == 1
    assert "one point takes" in wrong.output
    assert len(wrong.output.strip().splitlines()) == 1
    wrong = landscape(*ask, "--force", "--tolerance", "0.1", "--workers", "2")
    assert "leave them out, or --workers and --shard" in wrong.output
    assert landscape(*ask, "--force", "--budget", "1m", "--tolerance", "0.05").exit_code == 0
