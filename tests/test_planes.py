"""Planes: coordinates against closed forms, marked points bit for bit, and surfaces that are not transposed."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import landscape
from landscape import plane as plane_of
from landscape.core.errors import LandscapeError, Mismatch, Unverified
from landscape.core.provenance import Source
from landscape.engine.memory import Chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, concatenate, stack_state_dicts
from landscape.engine.stacked import Stacked
from landscape.evaluation import evaluate as evaluating
from landscape.evaluation.evaluate import evaluate
from landscape.evaluation.plane import _grid
from landscape.figures import plane_figure
from landscape.problems.life import Life
from landscape.space import planes
from landscape.space.directions import random_directions
from landscape.space.family import Family, Marked
from landscape.store.checkpoints import Run, load
from landscape.store.results import Mark, Result
from landscape.training.train import Training, train

Program = Callable[..., Outcome]


def points(count: int, *, dtype: torch.dtype = torch.float32, size: int = 12) -> Stack:
    generator = torch.Generator().manual_seed(count)
    flat = torch.randn(count, size, generator=generator, dtype=torch.float64).to(dtype)
    buffers = {"mean": torch.rand(count, 2, generator=generator), "batches": torch.arange(count)}
    return dataclasses.replace(
        Stack({"weight": flat[:, : size - 2].view(count, 2, -1), "bias": flat[:, size - 2 :]}), buffers=buffers
    )


def three(stack: Stack) -> tuple[Stack, Stack, Stack]:
    a, b, c = (stack.select([k]) for k in range(3))
    return a, b, c


def named(count: int) -> list[Mark]:
    return [Mark(f"point {k}", Source("x", None, k, "", "")) for k in range(count)]


def at(plane: Family, x: torch.Tensor, y: torch.Tensor) -> Stack:
    return plane.at(y, x)


def around(plane: Family, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """So many coordinates x and y around what is marked, and those of the marks."""
    assert plane.marked is not None
    x, y = _grid(plane.marked, (columns, rows), None, None)
    return x, y


def marked(plane: Family) -> Marked:
    assert plane.marked is not None
    return plane.marked


def over(objective: Objective, plane: Family, x: np.ndarray, y: np.ndarray, names: int, **options: Any) -> Result:
    return evaluate(objective, plane, {"y": y, "x": x}, marks=named(names), **options)


def bits(stack: Stack) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in (*stack.tensors.values(), *stack.buffers.values()))


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_axes_through_three_points_are_orthonormal(dtype: torch.dtype) -> None:
    stack = points(3, dtype=dtype)
    plane = planes.through(*three(stack))
    along, across = (each.flatten()[0] for each in plane.vertices[1:])
    gram = torch.stack([along, across]) @ torch.stack([along, across]).T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), atol=1e-14, rtol=0)
    # Distances on the plane are distances in parameter space.
    flat = stack.flatten().double()
    places = torch.stack([marked(plane).x, marked(plane).y], 1)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat), rtol=1e-12, atol=1e-12)
    assert marked(plane).x[0] == marked(plane).y[0] == marked(plane).y[1] == 0
    assert marked(plane).y[2] > 0


@given(seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_three_points_are_reproduced_bit_for_bit(seed: int, dtype: torch.dtype) -> None:
    flat = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    flat[:, 0] = torch.tensor([-0.0, 1.0, 0.0])
    stack = Stack({"w": flat}, {"mean": flat[:, :3] ** 2, "batches": torch.tensor([3, 4, 5])})
    plane = planes.through(*three(stack))
    assert bits(at(plane, marked(plane).x, marked(plane).y)) == bits(stack)


def test_other_points_are_mixtures_buffers_too() -> None:
    stack = points(3, dtype=torch.float64)
    plane = planes.through(*three(stack))
    generator = torch.Generator().manual_seed(0)
    u, v = torch.rand(2, 50, generator=generator, dtype=torch.float64) * 4 - 2
    weights = torch.stack([1 - u - v, u, v], 1)
    places = weights @ torch.stack([marked(plane).x, marked(plane).y], 1)
    found = at(plane, places[:, 0], places[:, 1])
    torch.testing.assert_close(found.flatten(), weights @ stack.flatten(), rtol=1e-10, atol=1e-10)
    mixed = (weights @ stack.buffers["mean"].double()).float()
    torch.testing.assert_close(found.buffers["mean"], mixed, rtol=1e-5, atol=1e-6)
    assert not found.buffers["batches"].any(), "whole numbers are those of the first point"


def test_the_plane_of_two_tasks_adds_them() -> None:
    base, a, b = three(points(3, dtype=torch.float32))
    plane = planes.tasks(base, a, b)
    assert [marked(plane).x.tolist(), marked(plane).y.tolist()] == [[0, 1, 0], [0, 0, 1]]
    assert bits(at(plane, marked(plane).x, marked(plane).y)) == bits(points(3, dtype=torch.float32))
    for x, y in ((1.0, 1.0), (-1.0, 0.0), (0.3, 0.4), (0.5, -2.0)):
        found = at(plane, torch.tensor([x]).double(), torch.tensor([y]).double())
        for name in (*base.tensors, "mean"):
            start, one, other = ({**each.tensors, **each.buffers}[name].double() for each in (base, a, b))
            wanted = start + x * (one - start) + y * (other - start)
            torch.testing.assert_close({**found.tensors, **found.buffers}[name].double(), wanted, rtol=1e-6, atol=1e-6)
    for wrong, message in (((base, base, b), "the second point is the base"), ((base, a, base), "the third point is")):
        with pytest.raises(LandscapeError, match=message):
            planes.tasks(*wrong)


@pytest.mark.parametrize("kind", ["through", "tasks"])
def test_a_mask_that_is_infinite_is_the_same_on_a_plane(kind: str) -> None:
    mask = {"mask": torch.tensor([[0.0, -torch.inf]])}
    a, b, c = (dataclasses.replace(each, buffers=mask) for each in three(points(3, dtype=torch.float32)))
    found = at(getattr(planes, kind)(a, b, c), torch.tensor([0.3]).double(), torch.tensor([0.2]).double())
    assert torch.equal(found.buffers["mask"], mask["mask"])


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.7), (0.0, 1.0), (-2.0, 3.0)])
def test_three_points_on_a_line(weights: tuple[float, float]) -> None:
    for dtype in (torch.float32, torch.float64):
        a, b = points(2, dtype=dtype).select([0]), points(2, dtype=dtype).select([1])
        flat = weights[0] * a.flatten() + weights[1] * b.flatten()
        c = dataclasses.replace(a.unflatten(flat), buffers=a.buffers)
        with pytest.raises(LandscapeError, match="three points lie on one line, so they span no plane"):
            planes.through(a, b, c)
        with pytest.raises(LandscapeError, match="three points lie on one line"):
            planes.through(a, a, b)
    with pytest.raises(Mismatch, match="the first point and the third point are of different architectures"):
        planes.through(a, b, Stack({"weight": torch.zeros(1, 3)}))


def test_a_random_plane_is_that_of_two_directions() -> None:
    origin = points(1)
    plane = planes.random(origin, 3)
    directions = random_directions(origin, [6, 7])
    xs, ys = torch.tensor([0.0, 0.5, -1.0]), torch.tensor([0.0, 0.0, 2.0])
    found = at(plane, xs, ys)
    assert bits(found.select([0])) == bits(origin)
    wanted = (
        origin["weight"] + xs.view(3, 1, 1) * directions["weight"][:1] + ys.view(3, 1, 1) * directions["weight"][1:]
    )
    torch.testing.assert_close(found["weight"], wanted)
    assert torch.equal(found["bias"], origin["bias"].expand(3, -1))
    assert torch.equal(found.buffers["mean"], origin.buffers["mean"].expand(3, -1))
    assert found.dtype == torch.float32
    other = planes.random(origin, 4)
    assert not torch.equal(other.vertices[1]["weight"], plane.vertices[2]["weight"])
    with pytest.raises(LandscapeError, match="`direction_seed` lies between 0 and"):
        planes.random(origin, -1)


def test_the_plane_of_a_trajectory_is_the_closest() -> None:
    stack = points(9, dtype=torch.float64)
    plane = planes.trajectory(stack)
    differences = (stack.flatten() - stack.flatten()[-1]).double()
    # By eigenvectors of the scatter matrix, another way than the code's.
    values, vectors = torch.linalg.eigh(differences.T @ differences)
    axes = vectors[:, [-1, -2]].T
    for axis, direction in zip(axes, plane.vertices[1:], strict=True):
        torch.testing.assert_close((axis @ direction.flatten()[0]).abs(), torch.tensor(1.0, dtype=torch.float64))
    explained = marked(plane).explained
    assert explained is not None
    np.testing.assert_allclose(explained, (values[[-1, -2]] / values.sum()).tolist(), rtol=1e-10)
    residual = differences - differences @ axes.T @ axes
    torch.testing.assert_close(marked(plane).off_plane, residual.norm(dim=1), atol=1e-12, rtol=1e-10)
    distance = marked(plane).x ** 2 + marked(plane).y ** 2 + marked(plane).off_plane ** 2
    torch.testing.assert_close(distance, differences.square().sum(1))
    assert marked(plane).x.abs().max() == marked(plane).x.max()
    assert marked(plane).y.abs().max() == marked(plane).y.max()
    assert marked(plane).x[-1] == marked(plane).y[-1] == marked(plane).off_plane[-1] == 0
    projected = at(plane, marked(plane).x, marked(plane).y)
    assert bits(projected.select([8])) == bits(stack.select([8]))
    torch.testing.assert_close((projected.flatten() - stack.flatten()).norm(dim=1), marked(plane).off_plane)
    assert (projected.buffers["batches"] == 8).all(), "buffers are those of the last"


def test_a_trajectory_in_a_plane_lies_on_it() -> None:
    a, b, c = three(points(3, dtype=torch.float64))
    plane = planes.trajectory(concatenate([a, b, c]))
    explained = marked(plane).explained
    assert explained is not None
    assert abs(sum(explained) - 1) < 1e-12
    assert marked(plane).off_plane.max() < 1e-12


def test_trajectories_without_a_plane() -> None:
    one = points(1)
    with pytest.raises(LandscapeError, match="needs at least three checkpoints, not 2: train with more steps"):
        planes.trajectory(points(2))
    with pytest.raises(LandscapeError, match="all checkpoints of the trajectory are equal"):
        planes.trajectory(one.select([0, 0, 0]))
    for dtype in (torch.float32, torch.float64):
        along = torch.tensor([0.0, 0.3, 1.0, 1.7], dtype=dtype)[:, None]
        line = points(1, dtype=dtype).flatten() * along
        with pytest.raises(LandscapeError, match="the checkpoints of the trajectory lie on one line"):
            planes.trajectory(Stack({"w": line}))


def test_grids() -> None:
    assert planes.grid(5, -1, 1).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert planes.grid(3, -1, 1, [0.25, 1e-13, 5, -1]).tolist() == [-1, 1e-13, 0.25, 1]
    with pytest.raises(LandscapeError, match="at least 2 points along each axis, got 1"):
        planes.grid(1, 0, 1)
    for low, high in ((1, -1), (0, 0), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(LandscapeError, match="is empty: write the lower end first"):
            planes.grid(3, low, high)
    plane = planes.through(*three(points(3)))
    x, y = around(plane, 7, 4)
    assert set(marked(plane).x.tolist()) <= set(x.tolist())
    assert set(marked(plane).y.tolist()) <= set(y.tolist())
    assert 4 <= len(y) <= 6 <= 7 <= len(x) <= 10
    assert x[0] < marked(plane).x.min() < marked(plane).x.max() < x[-1]
    x, y = around(planes.random(points(1), 0), 5, 3)
    assert (x[[0, -1]].tolist(), y.tolist()) == ([-1, 1], [-1, 0, 1])


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parabola(squares: Callable[..., Objective]) -> Objective:
    """Loss of w z + b against 3 z on z = 0 and 2: ((b)^2 + (2 w + b - 6)^2) / 2."""
    z = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    made = squares(nn.Sequential(nn.Linear(1, 1)), z, 3 * z)
    return dataclasses.replace(made, chunk=Chunk(16, 32))


def span_of(objective: Objective, w: float = 1.0, b: float = -1.0) -> Family:
    """x moves the weight, y the bias by half as much."""
    template = objective.network.template
    origin, along, across = (
        template.unflatten(torch.tensor([row], dtype=torch.float64)) for row in ([w, b], [1.0, 0.0], [0.0, 0.5])
    )
    return planes.spanned(origin, along, across)


@pytest.mark.parametrize(("columns", "rows"), [(7, 4), (4, 7), (41, 3), (2, 50)])
def test_a_surface_is_not_transposed(
    parabola: Objective, monkeypatch: pytest.MonkeyPatch, columns: int, rows: int
) -> None:
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 0)  # blocks do not grow
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)  # some rows a block, or several pieces a row
    x, y = planes.grid(columns, -1, 4, [0.0]), planes.grid(rows, -3, 2, [0.0])
    told: list[tuple[int, int]] = []
    surface = over(parabola, span_of(parabola), x, y, 1, on_progress=lambda *now: told.append(now))
    assert surface.loss.shape == (len(y), len(x))
    for j, i in np.ndindex(surface.loss.shape):
        w, b = 1 + x[i], -1 + y[j] / 2
        np.testing.assert_allclose(surface.loss[j, i], (b**2 + (2 * w + b - 6) ** 2) / 2, rtol=1e-12, atol=1e-12)
    assert told[-1] == (len(y) * len(x), len(y) * len(x))
    assert len(told) == -(-len(y) // max(1, 16 // len(x)))
    assert (surface.marks[0].loss, surface.marks[0].plane_loss) == (surface.loss[y == 0, x == 0][0],) * 2


def test_the_marked_points_of_a_surface_are_the_networks(life: Life, run: Run) -> None:
    stack = concatenate([life.landmark("presolve").to(torch.float32), run.checkpoint().stack.select([1, 2])])
    plane, objective = planes.through(*three(stack)), life.objective()
    x, y = around(plane, 9, 6)
    surface = over(objective, plane, x, y, 3, about={"plane": {"kind": "through"}})
    for name, wanted in objective(stack).items():
        for k, mark in enumerate(surface.marks):
            assert surface.values[name][y == mark.y, x == mark.x] == wanted[k]
    for k, mark in enumerate(surface.marks):
        assert mark.loss == mark.plane_loss == objective(stack)["loss"][k]
    # A point in between against the plain module.
    precise = life.objective(dtype=torch.float64)
    surface = over(precise, plane, x, y, 3)
    between = at(plane, torch.tensor([x[3]]), torch.tensor([y[2]])).state_dict(0)
    exact = {name: tensor.double() for name, tensor in between.items()}
    np.testing.assert_allclose(surface.loss[2, 3], precise.plain(exact)["loss"], rtol=1e-5)
    assert surface.about["mark_check"] == {"marks": 3, "relative_tolerance": 1e-10}
    assert {"created", "command", "versions", "chunk", "device"} <= surface.about.keys()


def test_a_surface_does_not_depend_on_its_blocks(life: Life, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = dataclasses.replace(life.objective(), chunk=Chunk(16, 512))
    plane = planes.random(run.checkpoint().stack.select([0]), 0)
    x, y = around(plane, 9, 6)
    whole = over(objective, plane, x, y, 1)
    monkeypatch.setattr(evaluating, "_BLOCK_BYTES", 1)
    small = over(objective, plane, x, y, 1)
    assert small.loss.tobytes() == whole.loss.tobytes()


def test_zero_infinite_and_nan_losses_are_values(parabola: Objective) -> None:
    plane = span_of(parabola, w=3.0, b=0.0)  # the minimum: zero
    x = np.array([-1e200, 0.0, 1e200])
    surface = over(parabola, plane, x, np.array([-1.0, 0.0]), 1)
    assert surface.loss[1, 1] == 0
    assert np.isinf(surface.loss[:, [0, 2]]).all()
    assert surface.marks[0].loss == 0


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_wrong_engine_is_caught_at_the_marks(
    life: Life, run: Run, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    right = Stacked.trace

    def wrong(self: Stacked, *arguments: Any, **options: Any) -> Any:
        for name, outputs in right(self, *arguments, **options):
            yield name, outputs + error * (name == "net.0.4")

    objective = life.objective()
    monkeypatch.setattr(Stacked, "trace", wrong)
    plane = planes.random(run.checkpoint().stack.select([0]), 0)
    with pytest.raises(Unverified, match=r"does not reproduce the network marked point 0: .* stacked engine is wrong"):
        over(objective, plane, *around(plane, 3, 2), 1)


def test_a_transposed_plane_is_caught_at_the_marks(life: Life, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is of the grid, not only of the marked networks by themselves."""
    plane = planes.through(*three(run.checkpoint().stack.select([0, 1, 2])))
    right = np.meshgrid

    def transposed(rows: Any, columns: Any, **options: Any) -> Any:
        return [each.reshape(-1, order="F").reshape(each.shape) for each in right(rows, columns, **options)]

    monkeypatch.setattr(np, "meshgrid", transposed)
    with pytest.raises(Unverified, match="does not reproduce the network marked point"):
        over(life.objective(), plane, *around(plane, 5, 4), 3)


def test_names_must_fit(parabola: Objective) -> None:
    with pytest.raises(Mismatch, match="1 marked networks and 2 names"):
        over(parabola, span_of(parabola), np.array([0.0, 1]), np.array([0.0, 1]), 2)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_surface(life: Life, run: Run) -> None:
    plane = planes.through(*three(run.checkpoint().stack.select([0, 1, 2])))
    x, y = around(plane, 9, 6)
    here, there = (
        over(life.objective(device=device, dtype=torch.float64), plane, x, y, 3) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-10)


# ----------------------------------------------------------------------------------------------------------------------


def same_numbers(one: Result, other: Result) -> bool:
    arrays = ({**each.axes, **each.values, **each.columns} for each in (one, other))
    a, b = ({name: array.tobytes() for name, array in each.items()} for each in arrays)
    return a == b and list(one.marks) == list(other.marks)


def interrupted(path: Path, after: int, *arguments: Any, **options: Any) -> None:
    def on_progress(done: int, total: int) -> None:
        if done >= after * len(arguments[2]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over(*arguments, save=path, on_progress=on_progress, **options)
    assert not path.exists()


@pytest.mark.parametrize("keep_seconds", [0.0, 1e9])
def test_an_interrupted_surface_goes_on_where_it_was(
    life: Life, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_seconds: float
) -> None:
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 0)  # blocks do not grow
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)
    objective = dataclasses.replace(life.objective(), chunk=Chunk(16, 512))
    plane = planes.random(run.checkpoint().stack.select([0]), 0)
    x, y = around(plane, 5, 20)  # 21 rows, three a block
    asked = (objective, plane, x, y, 1)
    whole = over(*asked)
    path, about = tmp_path / "plane.h5", {"problem": {"name": "life"}, "plane": {"explained": (0.5, 0.25)}}
    for after in (3, 10, 12):
        interrupted(path, after, *asked, about=about, keep_seconds=keep_seconds)
    told: list[int] = []
    got = over(*asked, about=about, save=path, on_progress=lambda done, total: told.append(done // len(x)))
    assert told == [18, 21]
    assert same_numbers(got, whole)
    assert same_numbers(Result.read(path, plane=True), whole)
    assert [item.name for item in tmp_path.iterdir()] == ["plane.h5"]


def test_kept_rows_of_another_plane_are_refused(
    life: Life, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 0)  # blocks do not grow
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)
    objective = dataclasses.replace(life.objective(), chunk=Chunk(16, 512))
    stack = run.checkpoint().stack
    plane, other = (planes.random(stack.select([0]), seed) for seed in (0, 1))
    moved = dataclasses.replace(plane, marked=dataclasses.replace(marked(plane), stack=stack.select([1])))
    x, y = around(plane, 5, 8)
    path = tmp_path / "plane.h5"
    interrupted(path, 3, objective, plane, x, y, 1)
    for arguments, message in (
        (
            (objective, other, x, y),
            r"keeps rows of other work: points\.vertex 1 is .* there and .* here; points\.vertex 2 is",
        ),
        ((objective, moved, x, y), r"points\.marked is .* there"),
        ((objective, plane, x, y + 1), r"grid is .* there"),
        ((life.objective(dtype=torch.float64), plane, x, y), r"computation\."),
    ):
        with pytest.raises(Mismatch, match=message):
            over(*arguments, 1, save=path)
    shard = next((tmp_path / "plane.h5.parts").glob("rows-*.h5"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    with pytest.raises(LandscapeError, match=r"rows-00000000\.h5 is damaged"):
        over(objective, plane, x, y, 1, save=path)
    got = over(objective, other, x, y, 1, save=path, overwrite=True)
    assert same_numbers(got, over(objective, other, x, y, 1))
    with pytest.raises(LandscapeError, match=r"plane\.h5 exists: choose another"):
        over(objective, other, x, y, 1, save=path)


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three seeds of the default problem with a checkpoint at many steps."""
    path = tmp_path_factory.mktemp("runs") / "steps"
    return train(life, Training(batches=60, save_at=(0, 2, 5, 10, 30, 60)), path, seeds=range(3))


def test_places_become_planes(life: Life, run: Run, steps: Run) -> None:
    precise: dict[str, Any] = {"points": (6, 4), "dtype": torch.float64}
    surface = plane_of("presolve", f"{run.path}#1", f"{run.path}/@20#1", **precise)
    assert [mark.name for mark in surface.marks] == ["presolve", "seed 1, step 60", "seed 1, step 20"]
    assert surface.about["plane"] == {
        "kind": "through",
        "places": ["presolve", f"{run.path}#1", f"{run.path}/@20#1"],
        "landmarks": {"presolve": life.describe_landmark("presolve")},
    }
    assert surface.about["problem"]["name"] == "life"
    for mark in surface.marks[1:]:
        wanted = life.objective(dtype=torch.float64)(run.checkpoint(mark.source.step).stack.select([1]))["loss"]
        assert surface.loss[surface["y"] == mark.y, surface["x"] == mark.x] == wanted.numpy()

    surface = plane_of(*(f"{run.path}#{k}" for k in (0, 1, 2)), directions="tasks", x=(0, 1), y=(0, 1), **precise)
    assert surface.about["plane"]["kind"] == "tasks"
    assert [(mark.name, mark.x, mark.y) for mark in surface.marks] == [
        ("seed 0", 0, 0),
        ("seed 1", 1, 0),
        ("seed 2", 0, 1),
    ]
    zero, one, two = (run.checkpoint().stack.select([k]) for k in (0, 1, 2))
    summed = zero.unflatten(one.flatten().double() + two.flatten().double() - zero.flatten().double())
    np.testing.assert_allclose(surface.loss[-1, -1], life.objective(dtype=torch.float64)(summed)["loss"], rtol=1e-12)
    drawn = plane_figure(surface)
    assert drawn.axes[0].get_xlabel() == "share of seed 1 minus seed 0 that is added"
    assert "at seed 0 plus multiples of two task vectors, from there to seed 1" in " ".join(
        drawn.get_supxlabel().split()
    )

    surface = plane_of(f"{run.path}#4", direction_seed=2, normalise="layer", **precise)
    assert surface.about["plane"] | {"seed": 2, "normalise": "layer"} == surface.about["plane"]
    assert [(mark.name, mark.x, mark.y) for mark in surface.marks] == [("seed 4", 0, 0)]

    surface = plane_of(f"{steps.path}#1", directions="trajectory", **precise)
    assert [mark.name for mark in surface.trajectory] == [f"step {step}" for step in (0, 2, 5, 10, 30, 60)]
    own = [
        float(life.objective(dtype=torch.float64)(steps.checkpoint(step).stack.select([1]))["loss"])
        for step in steps.steps()
    ]
    assert [mark.loss for mark in surface.trajectory] == own
    assert surface.trajectory[0].plane_loss != surface.trajectory[0].loss
    assert surface.trajectory[0].off_plane > 0
    assert len(surface.about["plane"]["explained"]) == 2
    again = plane_of([f"{steps.path}/@{step}#1" for step in steps.steps()], **precise)
    assert same_numbers(again, surface), "a sequence of places is a trajectory"


def test_places_that_make_no_plane(run: Run) -> None:
    with pytest.raises(Mismatch, match="has 24 members, and a plane is laid through single ones: choose one with"):
        plane_of(str(run.path))
    for whole in (run, str(run.path)):
        with pytest.raises(Mismatch, match="has 24 members"):
            plane_of(whole, directions="trajectory")
    with pytest.raises(LandscapeError, match=r"is no run \(no run\.json\): a trajectory needs RUN#seed"):
        plane_of("presolve", directions="trajectory")
    with pytest.raises(LandscapeError, match="has no member with seed 99"):
        plane_of(f"{run.path}#99", directions="trajectory")
    with pytest.raises(LandscapeError, match="lie on one line"):
        plane_of(f"{run.path}#0", f"{run.path}#0", f"{run.path}#1")


def modules(life: Life, run: Run) -> list[nn.Module]:
    found = []
    for member in (0, 1, 2):
        module = life.network()
        module.load_state_dict(run.checkpoint().stack.state_dict(member))
        found.append(module)
    return found


def test_places_of_every_sort_give_the_same_numbers(
    life: Life, run: Run, steps: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = modules(life, run)
    sorts: list[list[Any]] = [
        networks,
        [network.state_dict() for network in networks],
        [f"{run.path}#{member}" for member in range(3)],
        [run.path / f"#{member}" for member in range(3)],
        [load(f"{run.path}#{member}") for member in range(3)],
    ]
    found = [plane_of(*places, problem=life, points=(5, 4)) for places in sorts]
    assert len({surface.loss.tobytes() for surface in found}) == 1
    assert [mark.name for mark in found[0].marks] == ["a", "b", "c"]
    assert [mark.name for mark in found[2].marks] == ["seed 0", "seed 1", "seed 2"]
    random = [plane_of(places[0], problem=life, points=4) for places in sorts]
    assert len({surface.loss.tobytes() for surface in random}) == 1
    members = [load(f"{steps.path}/@{step}#1") for step in steps.steps()]
    epochs = [member.stack.state_dict(0) for member in members]
    in_memory = plane_of(epochs, problem=life, points=4)
    assert in_memory.loss.tobytes() == plane_of(members, points=4).loss.tobytes()
    assert same_numbers(plane_of(members, points=4), plane_of(f"{steps.path}#1", directions="trajectory", points=4))
    assert not list(tmp_path.iterdir()), "nothing is written unasked"


def test_the_network_at_a_point_of_a_plane(life: Life, run: Run) -> None:
    networks = modules(life, run)
    surface = plane_of(*networks, problem=life, points=(5, 4))
    for j, i in ((0, 0), (3, 1), (1, 4)):
        model = surface.model_at(surface["x"][i], surface["y"][j])
        assert type(model) is type(networks[0])
        np.testing.assert_allclose(life.objective().plain(model.state_dict())["loss"], surface.loss[j, i], rtol=1e-5)
    for mark, network in zip(surface.marks, networks, strict=True):
        found = surface.model_at(mark.x, mark.y).state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in network.state_dict().items())


def test_an_interrupted_plane_without_a_file_gives_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "_BLOCK_BYTES", 1)  # a row a block

    def stop(done: int, total: int) -> None:
        if 3 * done == total:
            raise KeyboardInterrupt

    part = plane_of(f"{run.path}#0", points=(5, 8), progress=stop)
    whole = plane_of(f"{run.path}#0", points=(5, 8))
    assert part.done.tolist() == [True] * 3 + [False] * 6
    assert same_numbers(part.select(part.done), whole.select(slice(0, 3)))
    assert part["y"].tolist() == whole["y"].tolist()


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("width", [4, 40])  # the whole Hessian, and products of it
def test_second_derivatives_along_eigenvectors_are_the_eigenvalues(engine: Any, width: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    module[0].bias.requires_grad_(False)
    data = torch.randn(60, 5), torch.arange(60) % 3
    problem = landscape.Problem.from_model(module, data, "cross_entropy")
    step = 1e-3
    near: dict[str, Any] = {"points": 3, "x": (-step, step), "y": (-step, step), "dtype": torch.float64}
    bent = landscape.curvature(module, problem=problem, top=2)
    parameters = [each for each in module.parameters() if each.requires_grad]
    loss = torch.nn.functional.cross_entropy(module(data[0].double()), data[1])
    slope = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])

    def derivatives(surface: Result) -> tuple[list[float], list[float]]:
        rows = surface.loss[1], surface.loss[:, 1]
        return [(c - a) / 2 / step for a, _, c in rows], [(a - 2 * b + c) / step**2 for a, b, c in rows]

    surface = plane_of(module, problem=problem, directions="eigenvectors", engine=engine, **near)
    first, second = derivatives(surface)
    np.testing.assert_allclose(second, bent.eigenvalues[0], rtol=1e-5)
    np.testing.assert_allclose(surface.about["plane"]["eigenvalues"], bent.eigenvalues[0], rtol=1e-9)
    np.testing.assert_allclose(np.abs(first), np.abs(bent.vectors[0] @ slope.numpy()), atol=1e-6)
    surface = plane_of(module, problem=problem, directions="gradient", engine=engine, **near)
    first, second = derivatives(surface)
    assert second[1] == pytest.approx(bent.eigenvalues[0, 0], rel=1e-5)
    along = float(bent.vectors[0, 0] @ slope.numpy())
    np.testing.assert_allclose(np.abs(first), [math.sqrt(float(slope @ slope) - along**2), abs(along)], atol=1e-6)
    np.testing.assert_allclose(surface.about["plane"]["gradient"], first, atol=1e-6)
    x, y = (Stack({k: v[None] for k, v in surface.model_at(*at).state_dict().items()}) for at in ((step, 0), (0, step)))
    origin = Stack({name: each.detach()[None] for name, each in module.state_dict().items()})
    axes = torch.cat([x.subtract(origin).flatten(), y.subtract(origin).flatten()]) / step
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not x.subtract(origin)["0.bias"].any()
    every = plane_of(module, problem=problem, directions="eigenvectors", all_parameters=True, **near)
    assert every.about["plane"]["eigenvalues"][0] > bent.eigenvalues[0, 0]


def test_without_a_gradient_there_is_no_such_plane() -> None:
    module = nn.Linear(2, 1)
    data = torch.randn(9, 2), torch.zeros(9, 1)
    problem = landscape.Problem.from_model(module, data, "mse")
    still = {name: torch.zeros_like(each) for name, each in module.state_dict().items()}
    with pytest.raises(LandscapeError, match="the gradient is zero or lies along the leading eigenvector"):
        plane_of(still, problem=problem, directions="gradient", points=3)
    surface = plane_of(still, problem=problem, directions="eigenvectors", points=3)
    assert surface.marks[0].name == "a"
    assert "along the leading eigenvectors of the Hessian" in surface.plot().get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize(
    ("places", "options", "message"),
    [
        ("ab", {}, "a plane goes through three places, `a`, `b` and `c`, or through `a` alone"),
        ("abc", {"directions": "random"}, "through three places, `a`, `b` and `c`, or through `a` alone"),
        ("a", {"directions": "through"}, "a plane goes through three places"),
        ("a", {"directions": "gradient", "direction_seed": 1}, "`direction_seed` and `normalise` are for random"),
        ("abc", {"all_parameters": True}, "`all_parameters` is for random directions, eigenvectors and the gradient"),
        ("abc", {"normalise": "none"}, "`direction_seed` and `normalise` are for random"),
        ("abc", {"direction_seed": 1}, "`direction_seed` and `normalise` are for random"),
        ("a", {"direction_seed": -1}, "-1 is no seed: `direction_seed` goes from 0"),
        ("", {}, "there is no place in `a`: a trajectory needs at least three"),
        ("[ab]", {}, "needs at least three checkpoints, not 2"),
        ("[abc]", {"directions": "random"}, "several places in `a` are a trajectory"),
        ("a", {"points": 1}, "a plane needs at least 2 points along each axis, got 1"),
        ("abc", {"points": (3, 1)}, "a plane needs at least 2 points along each axis, got 1"),
        ("abc", {"x": (1.0, 0.0)}, "the range 1:0 is empty: write the lower end first"),
        ("abc", {"y": (0.0, float("inf"))}, "the range 0:inf is empty"),
        ("a", {"dtype": torch.bfloat16}, "`dtype` is torch.bfloat16"),
        ("a", {"seed": -1}, "sample_seed|seed"),
        ("a", {"save": "there.h5"}, r"there\.h5 exists: choose another"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: str,
    options: dict[str, Any],
    message: str,
) -> None:
    def worked(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the objective was asked")

    monkeypatch.setattr(Life, "objective", worked)
    monkeypatch.chdir(tmp_path)
    Path("there.h5").write_text("precious")
    members: list[Any] = [f"{run.path}#{'abc'.index(place)}" for place in places.strip("[]")]
    with pytest.raises(LandscapeError, match=message):
        plane_of(*([members] if places[:1] in ("", "[") else members), **options)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there.h5", "precious")]


def test_foreign_networks_of_one_shape(squares: Callable[..., Objective]) -> None:
    """A small network of state dicts, on the same engine."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)) for _ in range(3)]
        inputs, targets = torch.randn(50, 4), torch.randn(50, 2)
    stack = stack_state_dicts([net.state_dict() for net in nets])
    objective = squares(nets[0], inputs, targets)
    plane = planes.through(*three(stack))
    x, y = around(plane, 8, 5)
    surface = over(objective, plane, x, y, 3)
    for net, mark in zip(nets, surface.marks, strict=True):
        wanted = (net(inputs) - targets).square().sum(1).mean().item()
        np.testing.assert_allclose(surface.loss[y == mark.y, x == mark.x], wanted, rtol=1e-5)


def runs_well(result: Outcome) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.mark.slow
def test_the_program(landscape: Program, run: Run, steps: Run) -> None:
    assert runs_well(landscape("plane", "--at", f"{run.path}#3", "--random", "5", "--points", "6x4")) == [
        f"analyses/plane-{run.path.name}-3--random-5.h5"
    ]
    surface = Result.read(Path(f"analyses/plane-{run.path.name}-3--random-5.h5"), plane=True)
    assert surface.loss.shape == (5, 7), "0 is added to both"
    (path,) = runs_well(
        landscape("plane", "--through", "presolve", f"{run.path}#0", f"{run.path}#1", "--points", "5", "--x", "-1:1")
    )
    assert path == f"analyses/plane-presolve--{run.path.name}-0--{run.path.name}-1.h5"
    assert Result.read(Path(path), plane=True)["x"][[0, -1]].tolist() == [-1, 1]
    (path,) = runs_well(landscape("plane", "--trajectory", f"{steps.path}#2", "--points", "5", "-o", "t.h5"))
    info = runs_well(landscape("info", path))
    assert info[0] == "kind: surface over a plane"
    assert any(line.startswith("  step 60: loss ") for line in info)
    (path,) = runs_well(landscape("plane", "--tasks", *(f"{run.path}#{k}" for k in (0, 1, 2)), "--points", "4x3"))
    assert path == f"analyses/plane-{run.path.name}-0--{run.path.name}-1--{run.path.name}-2--tasks.h5"
    np.testing.assert_allclose(Result.read(Path(path), plane=True)["x"], [-0.2, 0, 4 / 15, 11 / 15, 1, 1.2])
    assert runs_well(landscape("plot", "plane", path))
    assert json.loads(landscape("info", "t.h5", "--json").stdout)["plane"]["kind"] == "trajectory"
    assert runs_well(landscape("plot", "plane", "t.h5")) == ["plots/t.png", "plots/t.svg"]
    assert runs_well(landscape("plot", "plane", "--surface", "t.h5")) == ["plots/t-surface.png", "plots/t-surface.svg"]
    assert "exists" in landscape("plane", "--trajectory", f"{steps.path}#2", "-o", "t.h5").stderr
    for kind in ("eigenvectors", "gradient"):
        (path,) = runs_well(landscape("plane", "--at", f"{steps.path}#2", "--directions", kind, "--points", "3"))
        assert path.endswith(f"--{kind}.h5")
        runs_well(landscape("plot", "plane", path))
    Path("plane.toml").write_text(
        f'through = ["presolve", "{run.path}#0", "{run.path}#1"]\npoints = "4x3"\nx = [0, 1]\n'
    )
    assert runs_well(landscape("plane", "--config", "plane.toml", "-o", "c.h5")) == ["c.h5"]
    np.testing.assert_allclose(Result.read(Path("c.h5"), plane=True)["x"], np.linspace(0, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (
            (),
            "choose one plane: --through A B C, --tasks BASE A B, --at PLACE (with --random SEED or --directions), or",
            2,
        ),
        (("--tasks", "a", "b", "--points", "5"), "it takes three places, BASE A B: write them before --points", 2),
        (
            ("--tasks", "presolve", "presolve", "presolve", "--problem", "life"),
            "the second point is the base itself",
            1,
        ),
        (("--at", "presolve", "--trajectory", "x"), "choose one plane", 2),
        (("--trajectory", "x", "--random", "1"), "--random goes with --at PLACE", 2),
        (("--trajectory", "x", "--directions", "gradient"), "--directions goes with --at PLACE", 2),
        (("--at", "presolve", "--directions", "gradient", "--random", "1"), "--at PLACE, without --directions", 2),
        (
            ("--at", "presolve", "--directions", "gradient", "--normalise", "layer"),
            "--normalise goes with --at PLACE, where its directions are random",
            2,
        ),
        (("--at", "presolve", "--points", "5x"), "'5x' is no grid: write 31, or 41x21", 2),
        (("--at", "presolve", "--points", "1x9"), "has an axis of fewer than 2 points", 2),
        (
            ("--at", "presolve"),
            "presolve does not exist; if it is a landmark, name its problem, such as --problem life",
            1,
        ),
        (
            ("--at", "presolve", "--problem", "life", "--x", "1:0"),
            "the range 1:0 is empty: write the lower",
            1,
        ),
        (("--trajectory", "nothing#0"), "nothing is no run", 1),
        (("--through", "a", "b"), "Option '--through' requires 3 arguments", 2),
        (
            ("--through", "a", "b", "--points", "5"),
            "'--through': it takes three places, A B C: write them before --p",
            2,
        ),
    ],
)
def test_refusals_of_the_program(landscape: Program, arguments: tuple[str, ...], text: str, status: int) -> None:
    result = landscape("plane", *arguments)
    assert (result.exit_code, text in result.stderr) == (status, True), result.stderr
    assert len(result.stderr.splitlines()) == 1 or status == 2


def test_an_interrupted_program_goes_on(landscape: Program, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 0)  # blocks do not grow
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)
    command = ("plane", "--at", f"{run.path}#0", "--points", "5x60", "-o")
    told: list[int] = []

    class Pressed:
        """Ctrl-C after the fourth block."""

        def __init__(self, what: str, unit: str) -> None:
            assert unit == "points"

        def __call__(self, done: int, total: int) -> None:
            told.append(done)
            if len(told) == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr("landscape.cli.plane.Progress", Pressed)
    result = landscape(*command, "p.h5")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "Error: interrupted: repeat the same command to go on with the finished points\n"
    assert runs_well(landscape(*command, "p.h5")) == ["p.h5"]
    assert told == sorted(set(told)), "no row is evaluated twice"
    assert runs_well(landscape(*command, "whole.h5")) == ["whole.h5"]
    assert same_numbers(*(Result.read(Path(name), plane=True) for name in ("p.h5", "whole.h5")))
