"""Bent curves: a valley that is known, the chain rule against autograd, and interruptions that leave no trace."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape.analysis.barriers import barriers
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.provenance import Source
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.evaluation import connect as bending_module
from landscape.evaluation.connect import Bending, bend, connect_route
from landscape.evaluation.routes import Connection, Route, connect
from landscape.evaluation.walk import walk
from landscape.problems.life import Life
from landscape.space.family import Line, grid
from landscape.store.checkpoints import Checkpoint, load, write_tensors
from landscape.store.results import Result

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"


class Ring(nn.Module):
    """With a target of 0 and squared error the loss is (|w|^2 - 1)^2: its minima are a circle around a hill."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w.square().sum() - 1).expand(len(x), 1)


@pytest.fixture
def ring(squares: Callable[..., Objective]) -> Objective:
    return squares(Ring(), torch.zeros(1, 1), torch.zeros(1, 1), backend="vmap")


def minima(*angles: float) -> Checkpoint:
    turned = torch.tensor(angles, dtype=torch.float64)
    stack = Stack({"w": torch.stack([turned.cos(), turned.sin()], 1).float()})
    return Checkpoint(stack, tuple(Source("ring", None, i, "", f"{angle}") for i, angle in enumerate(angles)), None)


def opposite(*angles: float) -> tuple[Connection, Line]:
    connection = connect(minima(*angles), minima(*(angle + np.pi for angle in angles)))
    assert isinstance(connection.lines, Line)
    return connection, connection.lines


@pytest.mark.parametrize(
    ("bending", "highest"),
    [
        (Bending(steps=300, lr=0.05), 0.06),
        (Bending(bends=2, steps=300, lr=0.05), 1e-3),
        (Bending(kind="chain", steps=300, lr=0.05), 0.4),
        (Bending(kind="chain", bends=3, steps=300, lr=0.05), 0.04),
    ],
)
def test_curves_around_a_hill(ring: Objective, bending: Bending, highest: float) -> None:
    connection, line = opposite(np.pi, 0.5)
    alphas = grid(51, segments=bending.bends + 1)
    np.testing.assert_allclose(barriers(walk(ring, connection, alphas)).above_chord, 1, atol=1e-5)
    curve = bend(ring, line, bending)
    curves = walk(ring, dataclasses.replace(connection, lines=curve), alphas)
    assert (barriers(curves).above_chord < highest).all()
    for end, alpha in ((line.start, 0.0), (line.end, 1.0)):
        at = curve.at(torch.arange(2), torch.full((2,), alpha, dtype=torch.float64))
        assert torch.equal(at.flatten(), end.flatten())
    # About half the circle, not twice around.
    assert (curves["l2"] > 2.8).all()
    assert (curves["l2"] < 4.5).all()


@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_a_step_follows_the_slope_of_the_mean_loss(ring: Objective, kind: Any) -> None:
    bending = Bending(kind=kind, bends=2, samples_per_step=5, seed=3)
    _, line = opposite(0.3, 1, 2)
    line = line.to(torch.float64)
    objective = dataclasses.replace(ring, precision=torch.float64)
    state = bending_module._begin(line, bending)
    found = bending_module._gradient(objective, line, bending, state).view(2, 3, 2)
    drawn = torch.tensor([1, 3, 5, 7, 9]) / 10  # in the middle of each fifth, where the real ones are within
    seeds = torch.tensor([3])
    uniform = bending_module.philox.uniform(seeds, stream=bending_module._ALPHA_STREAM, step=0, count=5)[0].double()
    alphas = (torch.arange(5) + uniform) / 5
    assert (alphas - drawn).abs().max() <= 0.1
    leaf = state.rows.clone().requires_grad_()
    points = [line.start["w"], *leaf.view(2, 3, 2), line.end["w"]]
    total = torch.zeros((), dtype=torch.float64)
    for t in alphas:
        layer = points
        if kind == "bezier":  # de Casteljau
            while len(layer) > 1:
                layer = [(1 - t) * a + t * b for a, b in itertools.pairwise(layer)]
            here = layer[0]
        else:
            k = int(3 * t)
            here = (k + 1 - 3 * t) * points[k] + (3 * t - k) * points[k + 1]
        total = total + ((here.square().sum(1) - 1) ** 2).sum() / 5
    total.backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad.view(2, 3, 2), rtol=1e-10, atol=1e-12)


@pytest.mark.bitwise
def test_a_line_does_not_depend_on_its_companions(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    members = load(str(RUN)).stack
    line = Line(members.select([2, 13, 18, 32, 40]), members.select([41, 43, 46, 58, 68]))
    bending = Bending(bends=2, steps=20)
    whole = bend(life.objective(), line, bending)
    monkeypatch.setattr(bending_module, "_STEP_BYTES", 2 * 8 * 25 * 4)  # two lines at once
    some = bend(life.objective(), Line(line.start.select([3, 1, 4]), line.end.select([3, 1, 4])), bending)
    for one, other in zip(whole.stacks, some.stacks, strict=True):
        assert torch.equal(one.flatten()[[3, 1, 4]], other.flatten())


def test_solved_seeds_are_connected_better_than_by_a_line(life: Life) -> None:
    """Two solutions of the default problem, about as far apart as others; the straight line has a barrier of 2.7."""
    both = load(str(RUN))
    ends = [Checkpoint(both.stack.select([i]), (both.sources[i],), both.problem) for i in (2, 75)]
    connection = connect(*ends)
    assert isinstance(connection.lines, Line)
    straight = walk(life.objective(), connection, grid(51))
    assert straight.values["solved"][0, [0, -1]].tolist() == [1, 1]
    curve = bend(life.objective(), connection.lines, Bending(lr=0.03, steps=600))
    curved = walk(life.objective(), dataclasses.replace(connection, lines=curve), grid(51))
    assert barriers(straight).above_chord[0] > 1
    assert barriers(curved).above_chord[0] < 0.5 * barriers(straight).above_chord[0]


# ----------------------------------------------------------------------------------------------------------------------


def call(*more: str) -> tuple[str, ...]:
    return ("connect", "--from", f"{RUN}/#2", "--to", f"{RUN}/#13", "--steps", "12", "--points", "5", *more)


def test_from_curves_to_walks_through_their_bends(landscape: Callable[..., Outcome]) -> None:
    result = landscape(*call("--kind", "chain", "--bends", "2", "-o", "c.h5"))
    assert result.exit_code == 0, result.output
    assert result.stdout == "c.h5\nc.bend-1.safetensors\nc.bend-2.safetensors\n"
    assert "median barrier above the chord, 1 line: straight " in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == sorted(result.stdout.split())
    curves = Result.read(Path("c.h5"), plane=False)
    assert curves.about["curve"] == {
        "kind": "chain",
        "bends": 2,
        "steps": 12,
        "lr": 0.01,
        "samples_per_step": 8,
        "seed": 0,
    }
    assert "via_member" in curves.columns
    assert [curves.sources[i].label for i in curves.via_member[0]] == ["bend 1 of line 0", "bend 2 of line 0"]
    through = ("--via", "c.bend-1.safetensors", "--via", "c.bend-2.safetensors", "--points", "5", "-o", "w.h5")
    assert landscape("walk", "--from", f"{RUN}/#2", *through, "--to", f"{RUN}/#13").exit_code == 0
    again = Result.read(Path("w.h5"), plane=False)
    assert again.loss.tobytes() == curves.loss.tobytes()
    assert again["l2"].tobytes() == curves["l2"].tobytes()
    assert [again.sources[i].digest for i in again.via_member[0]] == [  # type: ignore[index]
        curves.sources[i].digest for i in curves.via_member[0]
    ]
    assert landscape("walk", "--from", f"{RUN}/#2", "--to", f"{RUN}/#13", "--points", "5", "-o", "s.h5").exit_code == 0
    straight = Result.read(Path("s.h5"), plane=False)
    on_both = np.isin(curves.alpha, straight.alpha)
    np.testing.assert_array_equal(curves.values["loss_straight"][:, on_both], straight.loss)
    for verb in (("analyse", "barriers"), ("plot", "walk"), ("info",)):
        assert landscape(*verb, "c.h5").exit_code == 0
    assert landscape("info", "c.bend-1.safetensors").exit_code == 0


def test_default_names_and_nothing_replaced_without_force(landscape: Callable[..., Outcome]) -> None:
    names = "analyses/one-step-m1-B3S23V-2--one-step-m1-B3S23V-13-bezier-1"
    assert landscape(*call()).stdout == f"{names}.h5\n{names}.bend-1.safetensors\n"
    again = landscape(*call())
    assert again.exit_code == 1
    assert f"{names}.h5 exists: choose another output with -o" in again.stderr
    Path(f"{names}.h5").unlink()
    assert f"{names}.bend-1.safetensors exists" in landscape(*call()).stderr
    assert landscape(*call("--force")).exit_code == 0


def test_interrupted_training_goes_on_where_it_was(tmp_path: Path) -> None:
    route, bending = Route(start=f"{RUN}/#2", end=f"{RUN}/#13"), Bending(bends=2, steps=12)
    whole = Result.read(connect_route(route, bending, points=5, output=tmp_path / "whole.h5"), plane=False)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        connect_route(route, bending, points=5, output=path, on_progress=stop)
    assert sorted(file.name for file in tmp_path.glob("c.*")) == ["c.h5.resume.safetensors"]
    for other, message in (
        (Bending(bends=2, steps=13), r"curve\.steps is 12 there and 13 here"),
        (Bending(bends=2, steps=12, lr=0.1), r"keeps the training of other curves: curve\.lr is 0\.01 there"),
    ):
        with pytest.raises(Mismatch, match=message):
            connect_route(route, other, points=5, output=path)
    told: list[int] = []
    connect_route(route, bending, points=5, output=path, on_progress=lambda done, _: told.append(done))
    assert told == [8, 9, 10, 11, 12]
    assert Result.read(path, plane=False).loss.tobytes() == whole.loss.tobytes()
    assert [source.digest for source in Result.read(path, plane=False).sources] == [
        source.digest for source in whole.sources
    ]
    assert len(list(tmp_path.glob("c.*"))) == 3
    with pytest.raises(KeyboardInterrupt):
        connect_route(route, bending, points=5, output=path, force=True, on_progress=stop)
    connect_route(route, dataclasses.replace(bending, steps=2), points=5, output=path, force=True)
    assert Result.read(path, plane=False).about["curve"]["steps"] == 2


def test_bends_of_many_lines(landscape: Callable[..., Outcome]) -> None:
    members = load(str(RUN))
    document = {"kind": "checkpoint", "step": 1, "seeds": [7, 8, 9], "data_seeds": [7, 8, 9]}
    for name, rows in (("a", [2, 13, 18]), ("b", [41, 43, 46])):
        problem = {"name": members.problem[0], "config": members.problem[1]}  # type: ignore[index]
        write_tensors(Path(f"{name}.safetensors"), members.stack.select(rows).tensors, document | {"problem": problem})
    ends = ("--from", "a.safetensors", "--to", "b.safetensors", "--points", "3")
    assert landscape("connect", *ends, "--steps", "3", "--pairs", "all", "-o", "c.h5").exit_code == 0
    curves = Result.read(Path("c.h5"), plane=False)
    assert len(curves) == 9
    assert "via_member" in curves.columns
    assert len(np.unique(curves.via_member)) == 9
    assert len(load("c.bend-1.safetensors").stack) == 9


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (("--lr", "0"), "lr is 0.0, it must be positive and finite", 1),
        (("--bends", "0"), "0 is not in the range", 2),
        (("--kind", "spline"), "'spline' is not one of", 2),
        (("--filter-order", "all"), "'all' is not one of", 2),
        (("--to", "nowhere/"), "nowhere does not exist", 1),
        (("--lr", "1e38", "--steps", "3"), "lines have become NaN or infinite: lower --lr", 1),
    ],
)
def test_bad_input(landscape: Callable[..., Outcome], options: tuple[str, ...], message: str, status: int) -> None:
    result = landscape(*call(*options))
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert not list(Path().rglob("*.*"))


def test_settings_that_make_no_sense() -> None:
    for settings, message in (
        ({"bends": 0}, "bends is 0, it must be at least 1"),
        ({"samples_per_step": 0}, "samples_per_step is 0"),
        ({"steps": -1}, "steps is -1, it must be at least 0"),
        ({"seed": -1}, "-1 is no seed"),
    ):
        with pytest.raises(LandscapeError, match=message):
            Bending(**settings)  # type: ignore[arg-type]
    with pytest.raises(LandscapeError, match="curves are bent between two places, all tensors moving"):
        connect_route(Route(start="a", end="b", per="layer"), Bending())


@pytest.mark.gpu
def test_a_gpu_bends_the_same_curves(life: Life, tmp_path: Path) -> None:
    members = load(str(RUN)).stack.to(torch.float64)
    line, bending = Line(members.select([2, 13, 18]), members.select([75, 43, 46])), Bending(bends=2, steps=30)
    here, there = (
        bend(life.objective(device=device, dtype=torch.float64), line, bending).to("cpu") for device in ("cpu", "cuda")
    )
    for one, other in zip(here.stacks, there.stacks, strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten(), rtol=1e-7, atol=1e-9)

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    route = Route(start=f"{RUN}/#2", end=f"{RUN}/#13")
    with pytest.raises(KeyboardInterrupt):
        connect_route(route, bending, output=tmp_path / "c.h5", device="cuda", on_progress=stop)
    connect_route(route, bending, output=tmp_path / "c.h5", device="cuda")
