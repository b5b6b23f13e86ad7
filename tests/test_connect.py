"""Bent curves: a valley that is known, the chain rule against autograd, and interruptions that leave no trace."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape import connect
from landscape.analysis.barriers import barriers
from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.provenance import Source
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.evaluation import bending as bending_module
from landscape.evaluation.bending import Bending, Emphasis, bend
from landscape.evaluation.routes import Lines, along
from landscape.evaluation.routes import connect as lines_between
from landscape.problems.life import Life
from landscape.problems.registry import create
from landscape.space.family import grid, line
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


def opposite(*angles: float) -> Lines:
    return lines_between(minima(*angles), minima(*(angle + np.pi for angle in angles)))


@pytest.mark.parametrize(
    ("bending", "highest"),
    [
        (Bending(steps=300, lr=0.05), 0.06),
        pytest.param(Bending(bends=2, steps=300, lr=0.05), 1e-3, marks=pytest.mark.slow),
        pytest.param(Bending(kind="polyline", steps=300, lr=0.05), 0.4, marks=pytest.mark.slow),
        (Bending(kind="polyline", bends=3, steps=300, lr=0.05), 0.04),
    ],
)
def test_curves_around_a_hill(ring: Objective, bending: Bending, highest: float) -> None:
    straight = opposite(np.pi, 0.5)
    alphas = grid(51, knots=[k / (bending.bends + 1) for k in range(bending.bends + 2)])
    np.testing.assert_allclose(barriers(along(ring, straight, alphas)).above_chord, 1, atol=1e-5)
    curve = bend(ring, straight.family, bending)
    curves = along(ring, dataclasses.replace(straight, family=curve), alphas)
    assert (barriers(curves).above_chord < highest).all()
    for end, alpha in ((straight.family.stack(0), 0.0), (straight.family.stack(1), 1.0)):
        at = curve.at(torch.arange(2), torch.full((2,), alpha, dtype=torch.float64))
        assert torch.equal(at.flatten(), end.flatten())
    # About half the circle, not twice around.
    assert (curves["l2"] > 2.8).all()
    assert (curves["l2"] < 4.5).all()


@pytest.mark.parametrize("kind", ["bezier", "polyline"])
def test_a_step_follows_the_slope_of_the_mean_loss(ring: Objective, kind: Any) -> None:
    bending = Bending(kind=kind, bends=2, samples_per_step=5, seed=3)
    lines = opposite(0.3, 1, 2).family.to("cpu", torch.float64)
    objective = dataclasses.replace(ring, precision=torch.float64)
    state = bending_module.State.of(bending_module.begin(lines, bending))
    found = bending_module._gradient(objective, lines, bending, state, Emphasis()).view(2, 3, 2)
    drawn = torch.tensor([1, 3, 5, 7, 9]) / 10  # in the middle of each fifth, where the real ones are within
    seeds = torch.tensor([3])
    uniform = philox.uniform(seeds, stream=bending_module._ALPHA_STREAM, step=0, count=5)[0].double()
    alphas = (torch.arange(5) + uniform) / 5
    assert (alphas - drawn).abs().max() <= 0.1
    leaf = state.rows.clone().requires_grad_()
    points = [lines.stack(0)["w"], *leaf.view(2, 3, 2), lines.stack(1)["w"]]
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
    total.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad.view(2, 3, 2), rtol=1e-10, atol=1e-12)


@pytest.mark.bitwise
def test_a_line_does_not_depend_on_its_companions(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    members = load(str(RUN)).stack
    lines = line(members.select([2, 13, 18, 32, 40]), members.select([41, 43, 46, 58, 68]))
    bending = Bending(bends=2, steps=20)
    whole = bend(life.objective(), lines, bending)
    monkeypatch.setattr(bending_module, "_STEP_BYTES", 2 * 8 * 25 * 4)  # two lines at once
    some = bend(life.objective(), dataclasses.replace(lines, rows=lines.rows[:, [3, 1, 4]]), bending)
    for k in range(4):
        assert torch.equal(whole.stack(k).flatten()[[3, 1, 4]], some.stack(k).flatten())


@pytest.mark.slow
def test_solved_seeds_are_connected_better_than_by_a_line(life: Life) -> None:
    """Two solutions of the default problem, about as far apart as others; the straight line has a barrier of 2.7."""
    both = load(str(RUN))
    ends = [Checkpoint(both.stack.select([i]), (both.sources[i],), both.problem) for i in (2, 75)]
    lines = lines_between(*ends)
    straight = along(life.objective(), lines, grid(51))
    assert straight.values["solved"][0, [0, -1]].tolist() == [1, 1]
    curve = bend(life.objective(), lines.family, Bending(lr=0.03, steps=600))
    curved = along(life.objective(), dataclasses.replace(lines, family=curve), grid(51))
    assert barriers(straight).above_chord[0] > 1
    assert barriers(curved).above_chord[0] < 0.5 * barriers(straight).above_chord[0]


# ----------------------------------------------------------------------------------------------------------------------


def call(*more: str) -> tuple[str, ...]:
    return (
        "connect",
        "--from",
        f"{RUN}/#2",
        "--to",
        f"{RUN}/#13",
        "--method",
        "bezier",
        "--steps",
        "12",
        "--points",
        "5",
        *more,
    )


@pytest.mark.slow
def test_from_curves_to_walks_through_their_bends(landscape: Callable[..., Outcome]) -> None:
    result = landscape(*call("--method", "polyline", "--bends", "2", "-o", "c.h5"))
    assert result.exit_code == 0, result.output
    assert result.stdout == "c.h5\nc.bend-1.safetensors\nc.bend-2.safetensors\n"
    assert "median barrier above the chord, 1 line: straight " in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == sorted(result.stdout.split())
    curves = Result.read(Path("c.h5"), plane=False)
    assert curves.about["curve"] == {
        "method": "polyline",
        "budget": None,
        "bends": 2,
        "steps": 12,
        "lr": 0.01,
        "samples_per_step": 8,
        "seed": 0,
        "refine": False,
    }
    assert [curves.sources[i].label for i in curves.via_member[0]] == ["bend 1 of line 0", "bend 2 of line 0"]
    through = ("--via", "c.bend-1.safetensors", "--via", "c.bend-2.safetensors", "--points", "5", "-o", "w.h5")
    assert landscape("walk", "--from", f"{RUN}/#2", *through, "--to", f"{RUN}/#13").exit_code == 0
    again = Result.read(Path("w.h5"), plane=False)
    assert again.loss.tobytes() == curves.loss.tobytes()
    assert again["l2"].tobytes() == curves["l2"].tobytes()
    assert [again.sources[i].digest for i in again.via_member[0]] == [
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


ENDS = (f"{RUN}/#2", f"{RUN}/#13")


def stop(done: int, total: int) -> None:
    if done == 7:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_training_goes_on_where_it_was(tmp_path: Path) -> None:
    curve: dict[str, Any] = {"method": "bezier", "bends": 2, "steps": 12, "points": 5}
    connect(*ENDS, **curve, save=tmp_path / "whole.h5")
    whole = Result.read(tmp_path / "whole.h5", plane=False)
    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        connect(*ENDS, **curve, save=path, progress=stop)
    assert sorted(file.name for file in tmp_path.glob("c.*")) == ["c.h5.resume.safetensors"]
    for other, message in (
        ({"steps": 13}, r"curve\.steps is 12 there and 13 here"),
        ({"lr": 0.1}, r"keeps the training of other curves: curve\.lr is 0\.01 there"),
    ):
        with pytest.raises(Mismatch, match=message):
            connect(*ENDS, **{**curve, **other}, save=path)
    told: list[int] = []
    connect(*ENDS, **curve, save=path, progress=lambda done, _: told.append(done))
    assert told == [8, 9, 10, 11, 12]
    found = Result.read(path, plane=False)
    for name in ("loss", "loss_straight", "l2"):
        assert found[name].tobytes() == whole[name].tobytes()
    assert [source.digest for source in found.sources] == [source.digest for source in whole.sources]
    assert len(list(tmp_path.glob("c.*"))) == 3
    with pytest.raises(KeyboardInterrupt):
        connect(*ENDS, **curve, save=path, overwrite=True, progress=stop)
    connect(*ENDS, **{**curve, "steps": 2}, save=path, overwrite=True)
    assert Result.read(path, plane=False).about["curve"]["steps"] == 2


def test_interrupted_without_a_file_it_gives_the_curves_as_far_as_they_are_trained() -> None:
    part = connect(*ENDS, method="bezier", steps=12, points=5, progress=stop)
    whole = connect(*ENDS, method="bezier", steps=7, points=5)
    assert part.loss.tobytes() == whole.loss.tobytes()
    assert part.about["curve"]["steps"] == 7


@pytest.mark.parametrize("call", [3, 7])
def test_interrupted_while_it_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C after two of four curves, or of four straight lines: no file says that it is whole."""
    every = load(str(RUN))
    four = Checkpoint(every.stack.select([2, 13, 18, 32]), every.sources[:4], every.problem)
    curve: dict[str, Any] = {"a": four, "b": f"{RUN}/#41", "method": "bezier", "steps": 2, "points": 5}
    whole = connect(**curve)
    right, calls = Objective.__call__, 0

    def pressed(self: Objective, members: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return right(self, members)

    with monkeypatch.context() as patched:
        patched.setattr("landscape.evaluation.evaluate._BLOCK_BYTES", 1)  # a line a block
        patched.setattr(Objective, "__call__", pressed)
        part = connect(**curve)
        assert part.done.tolist() == [True, True, False, False]
        assert np.array_equal(part.loss[:2], whole.loss[:2])
        assert ("loss_straight" in part.values) == (call > 4), "what is interrupted goes no further"
        calls = 0
        with pytest.raises(KeyboardInterrupt):
            connect(**curve, save=tmp_path / "c.h5")
    assert not (tmp_path / "c.h5").exists()
    told: list[int] = []
    again = connect(**curve, save=tmp_path / "c.h5", progress=lambda *now: told.append(now[0]))
    assert told == [], "what was trained is kept"
    assert again.loss.tobytes() == whole.loss.tobytes()


@pytest.mark.slow
def test_places_of_every_sort_give_the_same_curves(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    members = [load(end) for end in ENDS]
    modules = []
    for member in members:
        module = life.network()
        module.load_state_dict(member.stack.state_dict(0))
        modules.append(module)
    sorts: list[list[Any]] = [
        list(ENDS),
        list(map(Path, ENDS)),
        members,
        modules,
        [module.state_dict() for module in modules],
    ]
    problem = create(*members[0].problem)  # type: ignore[misc]
    found = [connect(*ends, problem=problem, method="bezier", bends=2, steps=3, points=7) for ends in sorts]
    for name in ("loss", "loss_straight", "l2"):
        assert len({result[name].tobytes() for result in found}) == 1
    assert found[0].kind == "curve"
    for k, alpha in enumerate(found[0].alpha):
        model = found[0].model_at(alpha)
        loss = problem.objective().plain(model.state_dict())["loss"]
        np.testing.assert_allclose(loss, found[0].loss[0, k], rtol=1e-5, atol=1e-7)
    assert not list(tmp_path.iterdir()), "nothing is written unasked"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "a line needs at least 2 points, got 1"),
        ({"bends": 0}, "`bends` is 0, it must be at least 1"),
        ({"lr": 0.0}, r"`lr` is 0\.0, it must be positive and finite"),
        ({"steps": -1}, "`steps` is -1, it must be at least 0"),
        ({"samples_per_step": 0}, "`samples_per_step` is 0"),
        ({"training_seed": -1}, "-1 is no seed"),
        ({"method": "auto"}, '`steps` is for one curve: choose `method="bezier"`, or leave it out'),
        ({"budget": 800}, "`budget` is for the method auto: one curve takes `steps` x `samples_per_step`"),
        ({"method": "auto", "steps": None, "budget": 10}, "`budget` is 10, it must be at least 400"),
        ({"certify": 1e-3}, "`certify` bounds the loss on straight pieces: choose the `method` auto or polyline"),
        ({"dtype": torch.float16}, "`dtype` is torch.float16"),
        ({"save": "there.h5"}, r"there\.h5 exists: choose another"),
        ({"save": "free.h5"}, r"free\.bend-1\.safetensors exists: choose another"),
        ({"b": "nowhere/"}, "nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    def worked(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the objective was asked")

    monkeypatch.setattr(Life, "objective", worked)
    monkeypatch.chdir(tmp_path)
    for name in ("there.h5", "free.bend-1.safetensors"):
        Path(name).write_text("precious")
    with pytest.raises(LandscapeError, match=message):
        connect(**{"a": ENDS[0], "b": ENDS[1], "method": "bezier", "steps": 3, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free.bend-1.safetensors", "there.h5"]


def test_bends_of_many_lines(landscape: Callable[..., Outcome]) -> None:
    members = load(str(RUN))
    document = {"kind": "checkpoint", "step": 1, "seeds": [7, 8, 9], "data_seeds": [7, 8, 9]}
    for name, rows in (("a", [2, 13, 18]), ("b", [41, 43, 46])):
        problem = {"name": members.problem[0], "config": members.problem[1]}  # type: ignore[index]
        write_tensors(Path(f"{name}.safetensors"), members.stack.select(rows).tensors, document | {"problem": problem})
    ends = ("--from", "a.safetensors", "--to", "b.safetensors", "--points", "3")
    assert (
        landscape("connect", *ends, "--method", "bezier", "--steps", "3", "--pairs", "all", "-o", "c.h5").exit_code == 0
    )
    curves = Result.read(Path("c.h5"), plane=False)
    assert len(curves) == 9
    assert len(np.unique(curves.via_member)) == 9
    assert len(load("c.bend-1.safetensors").stack) == 9


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (("--lr", "0"), "--lr is 0.0, it must be positive and finite", 1),
        (("--bends", "0"), "0 is not in the range", 2),
        (("--method", "spline"), "'spline' is not one of", 2),
        (("--method", "auto"), "--steps is for one curve: choose --method bezier, or leave it out", 1),
        (("--budget", "800"), "--budget is for the method auto: one curve takes --steps x --samples-per-step", 1),
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
        ({"bends": 0}, "`bends` is 0, it must be at least 1"),
        ({"samples_per_step": 0}, "`samples_per_step` is 0"),
        ({"steps": -1}, "`steps` is -1, it must be at least 0"),
        ({"seed": -1}, "-1 is no seed"),
    ):
        with pytest.raises(LandscapeError, match=message):
            Bending(**settings)  # type: ignore[arg-type]
    assert not {"via", "rays", "only", "per"} & inspect.signature(connect).parameters.keys(), "all tensors move"


@pytest.mark.gpu
def test_a_gpu_bends_the_same_curves(life: Life, tmp_path: Path) -> None:
    members = load(str(RUN)).stack.to(torch.float64)
    lines, bending = line(members.select([2, 13, 18]), members.select([75, 43, 46])), Bending(bends=2, steps=30)
    here, there = (
        bend(life.objective(device=device, dtype=torch.float64), lines, bending).to("cpu", torch.float64)
        for device in ("cpu", "cuda")
    )
    for one, other in zip(here.vertices, there.vertices, strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten(), rtol=1e-7, atol=1e-9)
    curve: dict[str, Any] = {"method": "bezier", "bends": 2, "steps": 30, "device": "cuda", "save": tmp_path / "c.h5"}
    with pytest.raises(KeyboardInterrupt):
        connect(*ENDS, **curve, progress=stop)
    connect(*ENDS, **curve)
