"""Saddles above which paths lead: closed forms, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape import Problem, Result, connect
from landscape.core.errors import Unsupported
from landscape.engine.descent import Whole
from landscape.engine.kinks import kinked
from landscape.engine.saddle import follow
from landscape.engine.stack import Stack

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"

X = torch.linspace(-1, 1, 32)[:, None]


class Wells(nn.Module):
    """With a target of 0 and squared error the loss is ((u^2 - 1)^2 + (v - 0.7 (1 - u^2) + 0.2 u)^2) / 2, for u, v
    turned by 30 degrees, whose only saddle is at u = 0, v = 0.7, with the loss 1/2.
    """

    TURN = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])

    def __init__(self, u: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(self.TURN @ torch.tensor([u, -0.2 * u]))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.TURN.to(self.w).T @ self.w
        return torch.stack([u * u - 1, v - 0.7 * (1 - u * u) + 0.2 * u]).expand(len(x), 2)


WELLS = Problem.from_model(Wells, (torch.zeros(1, 1), torch.zeros(1, 2)), "mse")


@pytest.mark.parametrize(
    "options", [{"budget": 400}, {"method": "bezier", "steps": 2}, {"engine": "plain", "budget": 400}]
)
def test_from_the_top_of_a_path_to_the_only_saddle(options: dict[str, Any]) -> None:
    found = connect(Wells(), Wells(-1.0), problem=WELLS, points=101, refine=True, **options)
    assert found["saddle_loss"][0] == pytest.approx(0.5, abs=1e-12)
    assert found["saddle_gradient"][0] <= 1e-8
    assert found["saddle_negative"].tolist() == [1.0]
    assert found["saddle_converged"].tolist() == [True]
    assert found["saddle_below"].tolist() == [True], "no path between two wells is below the only saddle"


def test_a_linear_network_of_two_layers_has_its_saddle_at_zero() -> None:
    """w1 w2 = 1 is a hyperbola; no path between its branches is below the saddle at 0, with the mean of x^2 as loss."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    problem = Problem.from_model(network, (X, X), "mse")
    one, other = ({f"{k}.weight": torch.tensor([[sign * w]]) for k, w in enumerate((0.5, 2.0))} for sign in (1.0, -1.0))
    found = connect(one, other, problem=problem, budget=400, points=64, refine=True)
    assert found["saddle_loss"][0] == pytest.approx(float(X.double().square().mean()), rel=1e-7)
    assert bool(found["saddle_converged"][0])


def test_the_saddle_is_followed_from_all_sides_of_it() -> None:
    surface = Whole(WELLS.objective(dtype=torch.float64), Stack({"w": torch.zeros(1, 2, dtype=torch.float64)}))
    turn = Wells.TURN.double()
    for u, v in ((0.3, 0.1), (-0.2, 1.5), (0.4, 0.5)):
        saddle = follow(surface, turn @ torch.tensor([u, v]).double(), turn @ torch.tensor([1.0, 0.0]).double())
        assert saddle.converged
        torch.testing.assert_close(turn.T @ saddle.flat, torch.tensor([0.0, 0.7]).double(), rtol=0, atol=1e-7)


def test_a_search_that_ends_at_a_minimum_or_nowhere_has_not_converged() -> None:
    bowl = Problem.from_model(nn.Linear(2, 1, bias=False), (torch.eye(2), torch.zeros(2, 1)), "mse")
    surface = Whole(bowl.objective(dtype=torch.float64), Stack({"weight": torch.zeros(1, 1, 2, dtype=torch.float64)}))
    for start in (torch.zeros(2), torch.ones(2)):
        assert not follow(surface, start.double(), torch.tensor([1.0, 0.0]).double(), steps=20).converged


def test_where_an_end_is_highest_there_is_no_saddle() -> None:
    found = connect(Wells(), Wells(), problem=WELLS, points=11, refine=True, budget=400)
    assert np.isnan([found[f"saddle_{name}"][0] for name in ("loss", "gradient", "negative")]).all()
    assert found["saddle_converged"].tolist() == [False]


class Functional(nn.Module):
    """A kink that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).abs()


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), r"1 \(ReLU\) has a kink"),
        (nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.SELU()), nn.Linear(2, 1)), r"1\.0 \(SELU\) has a kink"),
        (Functional(), "the forward of Functional has a kink"),
        (
            nn.Sequential(nn.Linear(1, 300), nn.Tanh(), nn.Linear(300, 1)),
            "up to 400 parameters, and the network has 901",
        ),
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)), "statistics of BatchNorm"),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_kinks_and_what_cannot_be_refined_are_refused_by_name(network: nn.Module, named: str, engine: str) -> None:
    problem = Problem.from_model(network, (X, X), "mse")
    with pytest.raises(Unsupported, match=named):
        connect(network.state_dict(), network.state_dict(), problem=problem, refine=True, budget=400, engine=engine)


@pytest.mark.parametrize(
    "layer", [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.ELU(), nn.CELU(0.5), nn.Sigmoid()]
)
def test_smooth_activations_have_none_and_losses_do_not_count(layer: nn.Module) -> None:
    network, loss = nn.Sequential(nn.Linear(1, 2), layer), nn.L1Loss()
    assert kinked(lambda: loss(network(X), X.expand(-1, 2))) == ""


def test_the_command_line_refuses_kinks_in_one_line_and_writes_nothing(landscape: Callable[..., Outcome]) -> None:
    refused = landscape("connect", "--from", f"{RUN}/#2", "--to", f"{RUN}/#12", "--refine", "-o", "c.h5")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--refine needs smooth activations, and net.0.1 (LeakyReLU) has a kink" in refused.stderr
    assert not list(Path().iterdir())


def test_the_command_line_says_how_many_saddles_there_are(landscape: Callable[..., Outcome]) -> None:
    small = ("--function", "abs", "--width", "2", "--activation", "tanh", "--seeds", "0:2", "--batches", "20")
    assert landscape("train", "functions", *small, "-o", "run").exit_code == 0
    ends = ("--from", "run/#0", "--to", "run/#1", "--budget", "400", "--points", "21")
    result = landscape("connect", *ends, "--refine", "-o", "c.h5")
    assert result.exit_code == 0, result.output
    assert "saddles of index 1, no higher than the path: " in result.stderr
    assert "saddle_loss" in Result.read(Path("c.h5"), plane=False).columns


def test_interrupted_at_a_saddle_the_paths_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"problem": WELLS, "points": 21, "refine": True, "budget": 400}
    with monkeypatch.context() as patched:
        patched.setattr("landscape.evaluation.refine.follow", pressed)
        found = connect(Wells(), Wells(-1.0), **options)
        assert "loss_straight" in found.values
        assert "saddle_loss" not in found.columns
        with pytest.raises(KeyboardInterrupt):
            connect(Wells(), Wells(-1.0), **options, save=tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()
    told: list[int] = []
    again = connect(Wells(), Wells(-1.0), **options, save=tmp_path / "c.h5", progress=lambda *now: told.append(now[0]))
    assert told == [], "what was trained is kept"
    assert "saddle_loss" in again.columns


def test_saddles_are_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    found = connect(Wells(), Wells(-1.0), problem=WELLS, points=21, refine=True, budget=400, save=path)
    read = Result.read(path, plane=False)
    for name in ("saddle_loss", "saddle_gradient", "saddle_negative", "saddle_converged", "saddle_below"):
        np.testing.assert_array_equal(read[name], found[name])
