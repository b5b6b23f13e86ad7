"""Paths through networks with one answer: which layers leave one, the best by closed forms, and what it bounds."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import Checkpoint, Problem, connect, load
from landscape.engine.stack import Stack, in_order, stack_state_dicts, template_of
from landscape.evaluation import bottleneck
from landscape.evaluation.connect import Connecting, _Log, _Search
from landscape.space.family import grid, line

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES = torch.arange(48).remainder(5).clamp(max=2)


class Tied(nn.Module):
    """The last layer's weights are those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.outward.weight = self.inward.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.inward(x).tanh())


class Heads(nn.Module):
    """A sum of two networks: zeros in one leave the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).tanh() * 3 + self.other(x.square()).tanh()


class Backwards(nn.Module):
    """The last layer stands first."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def mlp(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), *more)


def ends(module: nn.Module) -> list[dict[str, Tensor]]:
    """Two networks far apart."""
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(2):
        drawn = {name: 2 * torch.randn(each.shape, generator=generator) for name, each in module.named_parameters()}
        found.append(module.state_dict() | drawn)
    return found


def problem(module: nn.Module, loss: str = "cross_entropy") -> Problem:
    return Problem.from_model(module, (X.float(), CLASSES if loss == "cross_entropy" else X.float()), loss)


def entropy(shares: Tensor) -> float:
    return float(-(shares * shares.log()).sum())


#: Of the default problem, where 0.385 of the targets are alive.
TARGETS = entropy(torch.tensor([0.385, 0.615], dtype=torch.float64))
BASE = entropy(torch.bincount(CLASSES).double() / len(CLASSES))


def led(module: nn.Module, engine: str) -> _Search:
    """What a search finds between two networks before it trains anything, if straight lines count for nothing."""
    made = problem(module)
    objective = (made.objective if engine == "stacked" else made.plain)(dtype=torch.float64)
    stacks = (in_order(stack_state_dicts([end]), template_of(module)).to(torch.float64) for end in ends(module))
    search = _Search(
        *(objective, line(*stacks), grid(101), Connecting(budget=400)),
        measured=False,
        straight_pieces=False,
        log=_Log(),
        on_progress=lambda done, total: None,
    )
    search._answer(search.every)
    return search


@pytest.mark.parametrize("engine", ["stacked", "plain"])
@pytest.mark.parametrize(
    ("module", "level"),
    [
        (mlp(), BASE),
        (mlp(nn.LayerNorm(3)), BASE),
        (Backwards(), BASE),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)), math.log(3)),
    ],
)
def test_the_highest_loss_is_that_of_the_best_answer_or_of_an_end(module: nn.Module, level: float, engine: str) -> None:
    search = led(module, engine)
    assert search.methods() == ["one answer"]
    heights = search._highest(search.every, search.lines, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(search.height) == pytest.approx(max(float(heights), level), rel=1e-6)


@pytest.mark.parametrize("engine", ["stacked", "plain"])
def test_where_no_layer_leaves_one_answer_no_path_is_said_to_lead_through_it(engine: str) -> None:
    search = led(Heads(), engine)
    assert search.methods() == ["straight"]
    assert not search.gradients.any()


def test_the_outer_legs_are_convex_and_the_one_between_them_is_level() -> None:
    found = connect(f"{RUN}/#2", f"{RUN}/#12", budget=400, points=301, dtype=torch.float64)
    assert found["method"].tolist() == ["one answer"]
    assert found["bends"].tolist() == [2]
    loss, alpha = found.loss[0], found.alpha
    np.testing.assert_allclose(loss[(alpha >= 1 / 3) & (alpha <= 2 / 3)], TARGETS, rtol=1e-9)
    for leg in (alpha <= 1 / 3, alpha >= 2 / 3):
        slopes = np.diff(loss[leg]) / np.diff(alpha[leg])
        assert (np.diff(slopes) >= -1e-9 * np.abs(slopes).max()).all()
    assert not found.model_at(0.5).state_dict()["net.0.4.weight"].any()


def test_of_straight_pieces_its_highest_point_is_bounded_too() -> None:
    found = connect(f"{RUN}/#2", f"{RUN}/#12", budget=400, points=31, dtype=torch.float64, certify=1e-6)
    assert found["method"].tolist() == ["one answer"]
    assert found["max_lower"][0] <= TARGETS * (1 + 1e-9)
    assert TARGETS * (1 - 1e-9) <= found["max_upper"][0] <= 0.66646


@pytest.mark.parametrize(("loss", "answer"), [("mse", X.mean(0)), ("cross_entropy", None)])
def test_the_best_answer_is_the_mean_and_the_shares_of_classes(loss: str, answer: Tensor | None) -> None:
    module = mlp()
    for objective in (
        problem(module, loss).objective(dtype=torch.float64),
        problem(module, loss).plain(dtype=torch.float64),
    ):
        like = template_of(module.double()).to(torch.float64)
        layer = next(bottleneck.candidates(module, like))
        found, taken = bottleneck.fitted(objective, like, layer)
        shares = torch.bincount(CLASSES).double() / len(CLASSES)
        bias = found["2.bias"][0]
        if answer is None:
            torch.testing.assert_close(bias.softmax(0), shares, rtol=1e-6, atol=1e-7)
        else:
            torch.testing.assert_close(bias, X.float().double().mean(0), rtol=1e-6, atol=1e-9)
        assert 1 < taken <= bottleneck.MOST_GRADIENTS


def test_layers_are_tried_from_the_last_on_and_tied_tensors_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    stack = template_of(module)
    assert list(bottleneck.candidates(module, stack)) == [
        (("3.weight",), ("3.bias",)),
        (("2.weight",), ()),
        (("1.weight",), ("1.bias",)),
    ]
    assert list(bottleneck.candidates(module, stack.moving({"3.bias", "2.weight"}))) == [(("2.weight",), ())]
    assert list(bottleneck.candidates(Tied(), template_of(Tied()))) == [
        (("inward.weight",), ()),
        (("inward.weight",), ("inward.bias",)),
    ]
    assert not list(bottleneck.candidates(nn.PReLU(), Stack({"other": torch.zeros(1, 1)})))


def test_any_two_members_of_the_default_problem_are_connected_below_the_entropy_of_its_targets() -> None:
    run = load(str(RUN))
    chosen = [
        Checkpoint(run.stack.select(rows), tuple(run.sources[row] for row in rows), run.problem)
        for rows in (list(range(5)), list(range(100, 105)))
    ]
    found = connect(*chosen, pairs="all", budget=400, points=51)
    higher = found.loss[:, [0, -1]].max(1)
    assert (found.loss.max(1) <= np.maximum(higher, TARGETS) + 1e-6).all()
    signs = run.stack["net.0.4.weight"].flatten().sign().numpy()
    one, other = ([found.sources[row].seed for row in found[name]] for name in ("from_member", "to_member"))
    unlike = signs[one] != signs[other]
    assert unlike.any()
    assert (found.loss.max(1)[unlike] >= TARGETS - 1e-6).all(), "where signs differ, no path is lower"
