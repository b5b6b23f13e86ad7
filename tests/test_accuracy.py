"""Lines to a stated accuracy: barriers against all samples at 2,001 points, closed forms, what intervals cover."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape as ls
from landscape import LandscapeError, Problem, Result
from landscape.core.errors import Unsupported, Unverified
from landscape.core.intervals import Proportion
from landscape.engine import plain
from landscape.engine.objective import Objective
from landscape.engine.plain import PlainObjective
from landscape.evaluation import samples
from landscape.evaluation.accuracy import reached
from landscape.problems.digits import Digits
from landscape.problems.life import Life

FINE = np.linspace(0, 1, 2001)


@pytest.fixture(autouse=True)
def _costly(monkeypatch):
    """As if the networks here were so large that fewer samples took less time."""
    monkeypatch.setattr(samples, "_CHEAP", 0)


class Curve(nn.Module):
    """A network whose loss at alpha is a function of it, plus what samples add."""

    def __init__(self, function: Any = None) -> None:
        super().__init__()
        self.alpha, self.function = nn.Parameter(torch.zeros(1, dtype=torch.float64)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.alpha) + self.alpha * (1 - self.alpha) * x


def ends() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return tuple({"alpha": torch.tensor([each], dtype=torch.float64)} for each in (0.0, 1.0))


def closed(function: Any, spread: float = 0.0, count: int = 32, **options: Any) -> Result:
    """A line whose mean loss is the square of a function, or, of samples, near it."""
    x = torch.linspace(-spread, spread, count, dtype=torch.float64)[:, None]
    problem = Problem.from_model(Curve(function), (x, torch.zeros_like(x)), "mse")
    return ls.walk(*ends(), problem=problem, dtype=torch.float64, **options)


def barrier(loss: np.ndarray, alpha: np.ndarray = FINE) -> float:
    return float((loss - (1 - alpha) * loss[0] - alpha * loss[-1]).max())


CURVES = {
    "quadratic": lambda t: 1 + 2 * t * (1 - t),
    "two near-equal peaks": lambda t: 2 - 30 * ((t - 0.25) * (t - 0.75)) ** 2 + 0.01 * t,
    "kink": lambda t: 2 - (t - 0.437).abs(),
    "flat top": lambda t: 1 + (1 - (2 * t - 1) ** 8),
    "many decades": lambda t: torch.exp(-40 * (t - 0.45) ** 2) + 1e-4,
}


@pytest.mark.parametrize("tolerance", [0.05, 0.001])
@pytest.mark.parametrize("name", CURVES)
def test_the_interval_of_exact_data_holds_the_barrier_and_is_as_narrow_as_asked_for(name, tolerance):
    truth = barrier(CURVES[name](torch.as_tensor(FINE)).numpy() ** 2)
    found = closed(CURVES[name], tolerance=tolerance)
    low, high = (float(found[each][0]) for each in ("barrier_low", "barrier_high"))
    assert low - 1e-6 * truth <= truth <= high + 1e-6 * truth
    assert low <= found["barrier"][0] <= high
    assert (high - low) / 2 <= tolerance * found["barrier"][0]
    assert found["reached"][0]
    assert found["points_used"][0] <= (21 if tolerance > 0.01 else 51)
    there = found["loss_error"][0] == 0
    exact = CURVES[name](torch.as_tensor(found.alpha)).numpy() ** 2
    np.testing.assert_allclose(found["loss"][0][there], exact[there], rtol=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_the_whole_curve_is_as_near_as_it_is_said_to_be(name):
    found = closed(CURVES[name], tolerance="0.01:loss", points=401)
    exact = CURVES[name](torch.as_tensor(found.alpha)).numpy() ** 2
    off = np.abs(found["loss"][0] - exact)
    assert (off <= found["loss_error"][0] + 1e-9).all()
    assert found["loss_error"].max() <= 0.01 * np.ptp(exact) * 1.01
    assert found.about["accuracy"]["quantity"] == "loss"


def test_a_line_without_a_barrier_ends_at_the_floor():
    for function in (lambda t: 2 - t, lambda t: 1 + (2 * t - 1) ** 2):
        found = closed(function, tolerance=0.01)
        assert found["reached"][0]
        assert found["barrier"][0] == pytest.approx(0, abs=1e-9)
        assert found["points_used"][0] <= 17


def test_the_path_through_others_has_its_kinks_at_them():
    """The function of alpha is bent where the line is."""
    middle = {"alpha": torch.tensor([3.0], dtype=torch.float64)}
    x = torch.zeros(8, 1, dtype=torch.float64)
    problem = Problem.from_model(Curve(lambda t: 1 + t), (x, x), "mse")
    found = ls.walk(ends()[0], ends()[1], via=[middle], problem=problem, tolerance=0.001, dtype=torch.float64)
    assert found["barrier"][0] == pytest.approx(16 - 2.5, rel=1e-9)
    assert found["peak"][0] == 0.5


# Samples --------------------------------------------------------------------------------------------------------------


@functools.cache
def trained(kind: str, count: int = 4) -> tuple[Problem, list[Any]]:
    """A problem and networks that solve it, more or less."""
    if kind == "life":
        problem: Problem = Life(steps=2, m_factor=1, board="6x6")
        return problem, list(range(count))
    problem = Digits(width=16) if kind == "mlp" else Digits(architecture=kind, width=4)
    images = problem.training_data()
    networks = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = problem.network()
        for layer in network.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images.inputs), images.targets).backward()
            optimizer.step()
        networks.append(network)
    return problem, networks


@functools.cache
def slow_twin(kind: str) -> np.ndarray:
    """The loss on all samples at 2,001 points of a line, by a plain loop."""
    problem, (one, other, *_) = trained(kind)
    images, found = problem.training_data(), []
    module = problem.network()
    for alpha in FINE.tolist():
        state = {name: (1 - alpha) * a + alpha * other.state_dict()[name] for name, a in one.state_dict().items()}
        module.load_state_dict(state)
        with torch.no_grad():
            found.append(float(nn.functional.cross_entropy(module(images.inputs).double(), images.targets)))
    return np.array(found)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("kind", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_networks_on_digits_have_the_barrier_of_a_plain_loop_over_all_samples(kind, engine):
    problem, (one, other, *_) = trained(kind)
    truth = barrier(slow_twin(kind))
    for tolerance in (0.1, 0.02):
        found = ls.walk(one, other, problem=problem, tolerance=tolerance, engine=engine)
        low, high = (float(found[each][0]) for each in ("barrier_low", "barrier_high"))
        assert low - 1e-5 * truth <= truth <= high + 1e-5 * truth
        assert (high - low) / 2 <= tolerance * found["barrier"][0]
        inside = np.interp(found.alpha, FINE, slow_twin(kind))
        assert (np.abs(found["loss"][0] - inside) <= found["loss_error"][0] + 1e-4).all()
    assert found["samples_used"][0] <= 1297


@functools.cache
def rectifiers(kind: str, directory: Any) -> tuple[Problem, str, np.ndarray]:
    """A problem, where networks are that learnt it, and the loss of all lines between them at many points."""
    places = directory / kind
    if kind.startswith("life"):
        problem: Problem = Life(m_factor=int(kind[4:]))
        ls.train(problem, {"batches": 300, "lr": 0.02}, places, seeds=range(100, 112))
    else:
        width = int(kind[3:])
        problem = Digits(width=width) if kind.startswith("mlp") else Digits(architecture="cnn", width=width)
        rate = 2e-3 if width > 64 else 1e-2
        ls.train(problem, {"batches": 100, "lr": rate, "batch_size": 256}, places, seeds=range(100, 104))
    points = FINE if kind not in ("cnn4", "mlp256") else FINE[::5]
    return problem, str(places), ls.walk(places, places, pairs="all", problem=problem, points=points)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["life1", "life4", "mlp16", "mlp64", "mlp256", "cnn4"])
def test_lines_of_rectifiers_lie_inside_their_band_at_each_alpha(kind, monkeypatch, tmp_path_factory):
    """Networks that no factor was set on. Printed with `-rP`."""
    monkeypatch.setattr(samples, "_CHEAP", 2**40)  # all samples: interpolation alone
    problem, places, loss = rectifiers(kind, tmp_path_factory.getbasetemp())
    alpha = np.linspace(0, 1, loss.shape[1])
    rounding, range_of = 4e-7 * np.abs(loss).max(1), np.ptp(loss, axis=1)
    for tolerance in ("0.01:loss", "0.002:loss", 0.02):
        found = ls.walk(places, places, pairs="all", problem=problem, tolerance=tolerance, points=alpha)
        off = np.abs(found["loss"] - loss)
        inside = Proportion(int((off <= found["loss_error"] + rounding[:, None]).all(1).sum()), len(loss))
        # The grid's own barrier is low; the interval's lower end is a point that was evaluated.
        truth = np.maximum([barrier(row, alpha) for row in loss], found["barrier_low"])
        gap = truth - [barrier(row, alpha) for row in loss]
        held = Proportion(int((truth <= found["barrier_high"] + rounding).sum()), len(loss))
        print(
            f"{kind}, {tolerance}: inside everywhere {inside}; off by {np.max(off.max(1) / range_of):.4f} of the range "
            f"at most; barriers inside {held}; {np.median(found['points_used']):g} points (median)"
        )
        assert inside.interval[1] >= 0.95
        assert held.interval[1] >= 0.95
        assert (gap <= 2e-3 * range_of).all()
        if isinstance(tolerance, str):
            assert np.mean(off.max(1) <= float(tolerance.split(":")[0]) * range_of) >= 0.95


def test_more_samples_are_for_the_points_that_may_be_the_highest(monkeypatch):
    """As without: the same barrier, from fewer samples in all."""
    problem, a, b = labelled(6000)
    work = list[int]()

    def losses(self, family, places, levels, of=samples.Samples.losses):
        work.append(len(places) * self.size_of(levels))
        return of(self, family, places, levels)

    monkeypatch.setattr(samples.Samples, "losses", losses)
    found = ls.walk(a, b, problem=problem, tolerance=0.05)
    ours = sum(work)
    work.clear()
    every = ls.walk(a, b, problem=problem, tolerance="0.9:loss")
    assert sum(work) == every["points_used"][0] * every["samples_used"][0]
    assert ours < 0.9 * found["points_used"][0] * found["samples_used"][0]
    full = ls.walk(a, b, problem=problem, points=201)
    truth = barrier(full["loss"][0], full.alpha)
    assert found["barrier_low"][0] - 1e-3 * truth <= truth <= found["barrier_high"][0] + 1e-3 * truth
    assert found["reached"][0]
    spread = np.interp(full.alpha, found.alpha, found["loss_error"][0])
    inside = np.abs(np.interp(full.alpha, found.alpha, found["loss"][0]) - full["loss"][0]) <= spread + 1e-3
    assert inside.all()


def test_where_a_part_of_the_samples_is_read_the_band_is_nowhere_a_small_share_of_what_is_tolerated():
    """Of a loss that a few samples make, a part of them may have none."""
    problem, a, b = labelled(6000)
    found = ls.walk(a, b, problem=problem, tolerance="0.2:loss")
    assert found["samples_used"][0] < 6000
    assert found["loss_error"].min() >= 0.39 * 0.2 * np.ptp(found["loss"])


@pytest.mark.parametrize("cheap", [0, 2**40])
def test_all_pairs_end_where_it_is_sure_on_which_side_of_a_height_they_are(cheap, monkeypatch, tmp_path):
    monkeypatch.setattr(samples, "_CHEAP", cheap)
    problem, networks = trained("mlp")
    for number, network in enumerate(networks):
        torch.save(network.state_dict(), tmp_path / f"{number}.pt")
    places = str(tmp_path / "*.pt")
    full = ls.walk(places, places, problem=problem, pairs="all", points=101)
    truth = np.array([barrier(row, full.alpha) for row in full["loss"]])
    height = float(np.sort(truth)[[2, 3]].mean())
    asked = {"problem": problem, "pairs": "all", "tolerance": 0.005}
    found = ls.walk(places, places, **asked, above=height, save=tmp_path / "out.h5")
    decided = found["decision"] != "open"
    assert (np.where(truth > height, "above", "below")[decided] == found["decision"][decided]).all()
    assert decided.sum() >= 5
    whole = ls.walk(places, places, **asked)
    ours, theirs = (int((each["points_used"] * each["samples_used"]).sum()) for each in (found, whole))
    assert ours < theirs
    said = Result.read(tmp_path / "out.h5").about["accuracy"]
    assert said["decisions"] == {name: int((found["decision"] == name).sum()) for name in ("above", "below", "open")}
    assert "at most 5% of it wrong" in reached(found)


def test_other_metrics_are_said_to_be_left_out_once(caplog):
    problem, a, b = labelled(metrics={"margin": lambda o, t: o.max(1).values})
    ls.walk(a, b, problem=problem, tolerance=0.1)
    said = [each for each in caplog.messages if "without other metrics" in each]
    assert len(said) == 1
    assert "margin" in said[0]


def test_both_engines_and_any_company_give_a_line_the_same_numbers():
    problem, networks = trained("mlp")
    alone = ls.walk(networks[0], networks[1], problem=problem, tolerance=0.1, engine="plain")
    stacked = ls.walk(networks[0], networks[1], problem=problem, tolerance=0.1, engine="stacked")
    np.testing.assert_allclose(alone["loss"], stacked["loss"], rtol=1e-4)
    assert alone["samples_used"].tolist() == stacked["samples_used"].tolist()
    again = ls.walk(networks[0], networks[1], problem=problem, tolerance=0.1, engine="plain")
    np.testing.assert_array_equal(alone["loss"], again["loss"])
    other = ls.walk(networks[0], networks[1], problem=problem, tolerance=0.1, engine="plain", seed=1)
    assert (other["loss"] != alone["loss"]).any()


def test_sampled_boards_mean_their_distribution_and_no_more_of_them_than_there_are(run_of_life):
    problem, run = run_of_life
    found = ls.walk(f"{run}#0", f"{run}#1", problem=problem, tolerance=0.05, samples=2048)
    assert found.about["accuracy"]["population"]
    full = ls.walk(f"{run}#0", f"{run}#1", problem=problem, points=101, samples=8192, seed=5)
    truth = barrier(full["loss"][0], full.alpha)
    assert found["barrier_low"][0] <= truth <= found["barrier_high"][0]
    few = ls.walk(f"{run}#0", f"{run}#1", problem=problem, tolerance=0.001, samples=512)
    assert few["samples_used"][0] == 512
    assert not few["reached"][0]


@pytest.fixture(scope="module")
def run_of_life(tmp_path_factory):
    problem = Life(steps=2, m_factor=1, board="6x6")
    path = tmp_path_factory.mktemp("runs") / "two"
    ls.train(problem, {"batches": 150, "lr": 0.02}, path, seeds=range(2))
    return problem, path


def labelled(count: int = 1500, **options: Any) -> tuple[Problem, nn.Module, nn.Module]:
    torch.manual_seed(3)
    x = torch.randn(count, 6)
    y = (x @ torch.randn(6, 3)).argmax(1)
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters(), 2e-2)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        networks.append(network)
    loss = options.pop("loss", "cross_entropy")
    data = options.pop("data", lambda x, y: (x, y))(x, y)
    return Problem.from_model(networks[0], data, loss, **options), *networks


def ignoring(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.where(torch.arange(len(y)) % 3 == 0, -100, y)


WAYS: dict[str, dict[str, Any]] = {
    "weights of samples": {"data": lambda x, y: (x, y, 0.5 + torch.rand(len(y)))},
    "weights of classes": {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))},
    "ignored targets": {"data": ignoring, "loss": nn.CrossEntropyLoss()},
    "a penalty": {"l2": 1e-2},
    "few samples": {"count": 300},
}


@pytest.mark.parametrize("way", WAYS)
def test_averages_of_every_kind_hold_the_barrier_of_all_points(way):
    problem, a, b = labelled(**WAYS[way])
    full = ls.walk(a, b, problem=problem, points=201)
    for tolerance in (0.2, 0.02):
        found = ls.walk(a, b, problem=problem, tolerance=tolerance)
        truth = barrier(full["loss"][0], full.alpha)
        assert found["barrier_low"][0] - 1e-3 * truth <= truth <= found["barrier_high"][0] + 1e-3 * truth
        assert found["reached"][0]
        assert found["samples_used"][0] == 300 or tolerance < 0.1 or not found.about["accuracy"]["all_samples"]


def own(x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(x, y)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": own}, "no average over samples"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "no average over samples"),
        (
            {"data": lambda x, y: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 500)},
            "streamed data is read whole",
        ),
    ],
)
def test_of_other_losses_and_streams_points_alone_are_chosen_and_it_is_said(options, reason, caplog):
    problem, a, b = labelled(**options)
    found = ls.walk(a, b, problem=problem, tolerance=0.05)
    full = ls.walk(a, b, problem=problem, points=201)
    truth = barrier(full["loss"][0], full.alpha)
    assert found["barrier_low"][0] - 1e-3 * truth <= truth <= found["barrier_high"][0] + 1e-3 * truth
    assert found.about["accuracy"]["all_samples"]
    assert f"{reason}: points alone are chosen" in caplog.text
    assert reason in found.about["accuracy"]["reason"]
    nodes = found["loss_error"][0] == 0
    same = np.isin(full.alpha, found.alpha[nodes])
    np.testing.assert_allclose(
        found["loss"][0][np.isin(found.alpha, full.alpha[same])], full["loss"][0][same], rtol=1e-6
    )


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_statistics_of_batchnorm_are_estimated_once_at_each_point_whatever_samples_are_added(engine, monkeypatch):
    problem, (a, b, *_) = trained("cnn_bn", 2)
    ask = functools.partial(ls.walk, a, b, problem=problem, tolerance=0.15, engine=engine, batchnorm="recalibrate")
    estimate, estimated = plain.calibrate, list[None]()

    def counting(*given):
        estimated.append(None)
        return estimate(*given)

    monkeypatch.setattr(plain, "calibrate", counting)
    found = ask()
    assert found["samples_used"][0] > 256
    assert len(estimated) == (found["points_used"][0] if engine == "plain" else 0)
    kind: Any = PlainObjective if engine == "plain" else Objective
    each = kind.each
    monkeypatch.setattr(kind, "each", lambda self, members, shares, anew: each(self, members, shares))
    slow = ask()
    np.testing.assert_array_equal(found["loss"], slow["loss"])


def test_of_networks_that_cost_little_all_samples_are_taken_at_once(monkeypatch):
    problem, a, b = labelled()
    monkeypatch.undo()
    found = ls.walk(a, b, problem=problem, tolerance=0.1)
    assert found.about["accuracy"]["all_samples"]
    assert found["samples_used"][0] == 1500


def test_a_wrong_engine_is_found_out_on_the_first_samples(monkeypatch):
    problem, a, b = labelled()

    def share(self, level, of=samples.Samples._share):
        found = of(self, level)
        return found._replace(referee=lambda stack: found.referee(stack) + 0.01)

    monkeypatch.setattr(samples.Samples, "_share", share)
    with pytest.raises(Unverified, match=r"on 256 samples line 0 does not reproduce its own end"):
        ls.walk(a, b, problem=problem, tolerance=0.1)


def test_a_loss_that_is_not_finite_is_no_number_and_said(caplog):
    found = closed(lambda t: 1 / (t - 0.5).abs().clamp(min=0), tolerance=0.1)
    assert np.isnan(found["barrier"][0])
    assert not found["reached"][0]
    assert "not finite" in caplog.text


# What is asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0}, "`tolerance` is 0.0, it must be a share between 0 and 1, such as 0.01, or 0.01:loss"),
        ({"tolerance": -0.1}, "must be a share between 0 and 1"),
        ({"tolerance": "0.1:curve"}, "must be a share between 0 and 1"),
        ({"tolerance": 0.1, "certify": 1e-3}, "leave it, or both of them, out"),
        ({"tolerance": 0.1, "span": (-1.0, 1.0)}, "from alpha 0 to 1: leave `span`"),
        ({"tolerance": 0.1, "samples": 500}, "leave `samples` out"),
        ({"tolerance": "0.1:loss", "floor": 0.1}, "leave it out"),
        ({"floor": 0.1}, "`floor` is for lines to a stated accuracy: ask for one with `tolerance` or `budget`"),
        ({"population": True}, "`population` is for lines to a stated accuracy"),
        ({"above": 0.1}, "`above` is a height of barriers, and ends where `tolerance` is reached"),
        ({"above": 0.1, "tolerance": "0.1:loss"}, "give one of the barrier, such as 0.05"),
        ({"budget": -1.0}, "`budget` is -1.0, it must be positive"),
        ({"budget": 1e-9}, "one point takes"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, words, tmp_path):
    problem, a, b = labelled()
    with pytest.raises(LandscapeError) as error:
        ls.walk(a, b, problem=problem, save=tmp_path / "a.h5", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_population_has_no_part_of_an_exact_loss():
    with pytest.raises(Unsupported, match="`population` is of samples that are drawn"):
        ls.walk("presolve:hat", "presolve:post", problem=Life(), tolerance=0.1, population=True)


def test_a_tolerance_that_all_samples_do_not_reach_ends_with_the_width_that_they_do():
    problem, a, b = labelled()
    found = ls.walk(a, b, problem=problem, tolerance=0.01, population=True)
    assert found["samples_used"][0] == 1500
    assert not found["reached"][0]
    half = (found["barrier_high"] - found["barrier_low"])[0] / 2
    assert half > 0.01 * found["barrier"][0]
    assert "not reached" in reached(found)
    exact = ls.walk(a, b, problem=problem, tolerance=0.01)
    assert exact["barrier_low"][0] > found["barrier_low"][0]
    assert exact["barrier_high"][0] < found["barrier_high"][0]


def test_a_budget_gives_the_best_answer_in_its_time():
    problem, a, b = labelled()
    found = ls.walk(a, b, problem=problem, budget=0.5)
    said = found.about["accuracy"]
    assert said["tolerance"] is None
    assert said["seconds"] < 2
    full = ls.walk(a, b, problem=problem, points=201)
    truth = barrier(full["loss"][0], full.alpha)
    assert found["barrier_low"][0] - 1e-3 * truth <= truth <= found["barrier_high"][0] + 1e-3 * truth


def test_many_lines_are_written_and_go_on_after_an_interruption(tmp_path):
    problem, networks = trained("mlp")
    states = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    for number, state in enumerate(states):
        torch.save(state, tmp_path / f"{number}.pt")
    places, save = str(tmp_path / "*.pt"), tmp_path / "out.h5"
    options = {"problem": problem, "pairs": "all", "tolerance": 0.1, "engine": "plain"}
    whole = ls.walk(places, places, **options)
    assert len(whole) == 6

    def stop(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ls.walk(places, places, **options, save=save, progress=stop)
    assert not save.exists()
    again = ls.walk(places, places, **options, save=save)
    for name in ("loss", "loss_error", "barrier", "barrier_low", "barrier_high", "peak"):
        np.testing.assert_array_equal(whole[name], again[name])
    read = Result.read(save)
    assert read.about["accuracy"]["interval"] == [whole["barrier_low"].min(), whole["barrier_high"].max()]
    assert read.about["accuracy"]["lines"] == 6
    assert not list(tmp_path.glob("*.parts"))
    with pytest.raises(KeyboardInterrupt):
        ls.walk(places, places, **options, save=save, overwrite=True, progress=stop)
    other = {**options, "tolerance": 0.2}
    save.unlink()
    with pytest.raises(LandscapeError, match="keeps lines of other work"):
        ls.walk(places, places, **other, save=save)


def test_the_command_line_says_what_was_reached_and_shows_it(landscape, tmp_path):
    _, a, b = labelled()
    for name, network in (("a", a), ("b", b)):
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "mine.py").write_text(
        "import torch, landscape\n"
        "from torch import nn\n"
        "torch.manual_seed(3)\n"
        "x = torch.randn(1500, 6)\n"
        "y = (x @ torch.randn(6, 3)).argmax(1)\n"
        "net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))\n"
        "problem = landscape.Problem.from_model(net, (x, y), 'cross_entropy', title='mine')\n"
    )
    ask = ("walk", "--from", "a.pt", "--to", "b.pt", "--problem", "mine.py:problem", "-o", "out.h5")
    outcome = landscape(*ask, "--tolerance", "0.05")
    assert outcome.exit_code == 0, outcome.output
    assert "tolerance 0.05 of the barrier reached, from" in outcome.output
    assert outcome.stdout == "out.h5\n"
    table = landscape("analyse", "barriers", "out.h5")
    assert "reached" in table.output
    assert "95% each, over the whole data set, tolerance 0.05 of the barrier" in table.output
    document = json.loads(landscape("analyse", "barriers", "out.h5", "--json").stdout)
    found = Result.read(tmp_path / "out.h5")
    assert document["accuracy"]["barrier_low"] == found["barrier_low"].tolist()
    assert landscape("plot", "walk", "out.h5", "-o", "out.svg").exit_code == 0
    drawn = " ".join((tmp_path / "out.svg").read_text().split())
    assert "Measured to 0.05 of the barrier" in drawn
    wrong = landscape(*ask, "--tolerance", "much")
    assert wrong.exit_code == 2
    assert "'much' is no tolerance: write a share such as 0.01, or 0.01:loss" in wrong.output
    wrong = landscape(*ask, "--force", "--budget", "0.000001s")
    assert wrong.exit_code == 1
    assert "give more, at least 9 times that" in wrong.output
    assert len(wrong.output.strip().splitlines()) == 1
    assert landscape(*ask, "--force", "--budget", "1m", "--tolerance", "0.05:loss").exit_code == 0


@pytest.mark.slow
def test_intervals_of_digits_hold_the_barrier_over_all_samples_and_are_not_much_too_wide():
    """Of 6 lines with 40 orders of samples each; ideal is what samples that were never looked at before would give."""
    problem, networks = trained("mlp")
    held, widths, count = 0, list[float](), 0
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        exact = ls.walk(networks[i], networks[j], problem=problem, tolerance=0.002)
        truth = float(exact["barrier"][0])
        for seed in range(40):
            found = ls.walk(networks[i], networks[j], problem=problem, tolerance=0.08, seed=seed)
            held += int(found["barrier_low"][0] - 2e-3 * truth <= truth <= found["barrier_high"][0] + 2e-3 * truth)
            widths.append(float((found["barrier_high"] - found["barrier_low"])[0] / 2 / truth))
            count += 1
    assert Proportion(held, count).interval[1] >= 0.93
    assert held / count >= 0.93 - 2 * (0.93 * 0.07 / count) ** 0.5
    assert np.median(widths) <= 0.08
