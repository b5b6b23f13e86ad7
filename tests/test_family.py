"""Lines and their grids."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.stack import Stack
from landscape.space.family import Bezier, Line, PartialLine, Polyline, Ray, grid


def stack(*rows: list[float]) -> Stack:
    return Stack({"a": torch.tensor(rows)[:, :1], "b": torch.tensor(rows)[:, 1:]})


def test_points_of_lines() -> None:
    line = Line(stack([0.0, 0, 0], [1, -0.0, float("inf")]), stack([4.0, 8, 0], [float("nan"), 3, 2]))
    lines, alphas = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0.25, 0, 1, 1, 1.5], dtype=torch.float64)
    got = line.at(lines, alphas).flatten()
    np.testing.assert_array_equal(got[0], [1, 2, 0])
    np.testing.assert_array_equal(got[1], [1, -0.0, np.inf])
    assert torch.signbit(got[1, 1])
    np.testing.assert_array_equal(got[2], [np.nan, 3, 2])
    np.testing.assert_array_equal(got[3], [4, 8, 0])
    np.testing.assert_array_equal(got[4], [6, 12, 0])


def test_lengths() -> None:
    l1, l2 = Line(stack([1.0, 1, 1], [0, 0, 0]), stack([4.0, -3, 1], [0, 0, 0])).lengths()
    np.testing.assert_array_equal(l1, [7, 0])
    np.testing.assert_array_equal(l2, [5, 0])


def test_ends_that_make_no_lines() -> None:
    with pytest.raises(Mismatch, match="1 starts and 2 ends make no lines"):
        Line(stack([0.0, 0]), stack([0.0, 0], [1, 1]))
    with pytest.raises(Mismatch, match=r"the start and the end are of different architectures: other shape: b \[1\]"):
        Line(stack([0.0, 0]), stack([0.0, 0, 0]))


@pytest.mark.parametrize("hold", ["start", "end"])
def test_what_does_not_move_is_held_at_an_end(hold: Literal["start", "end"]) -> None:
    buffers = [{"m": torch.tensor([[1.0], [2.0]]), "n": torch.tensor([1, 2])}, {"m": torch.ones(2, 1), "n": [5, 6]}]
    buffers[1]["n"] = torch.tensor([5, 6])
    start, end = (
        Stack(dict(stack(*rows).tensors), more)
        for rows, more in zip(([[0.1, 2, 3], [0, 0, 0]], [[4.3, 5, 6], [7, 8, float("inf")]]), buffers, strict=True)
    )
    sets = (frozenset({"a", "b", "m", "n"}), frozenset({"b", "m"}), frozenset({"a"}))
    partial, full = PartialLine(Line(start, end), sets, hold), Line(start, end)
    assert len(partial) == 6
    alphas = torch.tensor([0.0, 0.3, 1.0, 1.5], dtype=torch.float64)
    still = full.at(torch.tensor([0, 1]), torch.full((2,), float(hold == "end"), dtype=torch.float64))
    for line in range(6):
        for alpha in alphas:
            got = partial.at(torch.tensor([line]), alpha[None]).state_dict(0)
            moved = full.at(torch.tensor([line % 2]), alpha[None]).state_dict(0)
            wanted = {n: (moved if n in sets[line // 2] else still.state_dict(line % 2))[n] for n in got}
            assert all(torch.equal(got[name], wanted[name]) for name in got)
            assert got.keys() == moved.keys()
            if alpha in (0, 1):
                assert all(torch.equal(got[name], partial.ends(line)[int(alpha)][name]) for name in got)
    l1, l2 = partial.lengths()
    np.testing.assert_allclose(l1, [4.2 + 3 + 3, np.inf, 3 + 3, np.inf, 4.2, 7], rtol=1e-7)
    np.testing.assert_allclose(l2[[2, 4, 5]], [18**0.5, 4.2, 7], rtol=1e-7)
    assert partial.to(torch.float64).at(torch.tensor([4]), alphas[:1]).dtype == torch.float64


def test_a_line_on_which_nothing_can_move() -> None:
    line = Line(stack([0.0, 0]), stack([1.0, 1]))
    with pytest.raises(LandscapeError, match="name the tensors that move"):
        PartialLine(line, ())
    buffers = PartialLine(line, (frozenset({"statistics"}),))
    assert torch.equal(buffers.at(torch.tensor([0]), torch.tensor([1.0])).flatten(), line.start.flatten())
    assert [float(length) for length in buffers.lengths()] == [0, 0]


@pytest.mark.parametrize("segments", [2, 3, 6, 7, 49])
def test_a_polyline_goes_through_its_vertices_bit_for_bit(segments: int) -> None:
    generator = np.random.default_rng(segments)
    rows = generator.normal(size=(segments + 1, 2, 3)).astype(np.float32)
    line = Polyline(tuple(stack(*each.tolist()) for each in rows))
    alphas = torch.arange(segments + 1, dtype=torch.float64) / segments
    for member in (0, 1):
        lines = torch.full((segments + 1,), member)
        np.testing.assert_array_equal(line.at(lines, alphas).flatten(), rows[:, member])
    on_grid = grid(51, segments=segments)
    assert set(alphas.tolist()) <= set(on_grid.tolist())
    assert (np.diff(on_grid) > 1e-6).all()
    for alpha in [-0.5, *generator.random(20), 1.25]:
        k = min(max(int(np.floor(alpha * segments)), 0), segments - 1)
        t = alpha * segments - k
        got = line.at(torch.tensor([1]), torch.tensor([alpha], dtype=torch.float64)).flatten()[0]
        np.testing.assert_allclose(got, (1 - t) * rows[k, 1] + t * rows[k + 1, 1], rtol=1e-4, atol=1e-4)
    l1, l2 = line.lengths()
    np.testing.assert_allclose(l1, np.abs(np.diff(rows.astype(float), axis=0)).sum((0, 2)))
    np.testing.assert_allclose(l2, np.linalg.norm(np.diff(rows.astype(float), axis=0), axis=2).sum(0))
    for end, vertex in zip(line.ends(1), (line.vertices[0], line.vertices[-1]), strict=True):
        assert torch.equal(end["a"], vertex["a"][1])


def test_of_two_vertices_it_is_a_line() -> None:
    ends = stack([0.1, 2, 3]), stack([4.3, -5, 6])
    alphas = torch.tensor(grid(201, -1, 2))
    rows = torch.zeros(len(alphas), dtype=torch.int64)
    assert torch.equal(Polyline(ends).at(rows, alphas).flatten(), Line(*ends).at(rows, alphas).flatten())


def test_vertices_that_make_no_polyline() -> None:
    with pytest.raises(Mismatch, match="at least two points"):
        Polyline((stack([0.0, 0]),))
    with pytest.raises(Mismatch, match="1 and 2 and 1 points make no paths"):
        Polyline((stack([0.0, 0]), stack([0.0, 0], [1, 1]), stack([0.0, 0])))
    with pytest.raises(Mismatch, match=r"the start and point 2 of the path are of different .*: other shape: b \[1\]"):
        Polyline((stack([0.0, 0]), stack([0.0, 0]), stack([0.0, 0, 0])))


@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_a_bezier_curve_against_de_casteljau(degree: int) -> None:
    rows = np.random.default_rng(degree).normal(size=(degree + 1, 2, 3)).astype(np.float32)
    curve = Bezier(tuple(stack(*each.tolist()) for each in rows))
    for alpha in (0.0, 0.2, 0.5, 0.9, 1.0, 1.2):
        points = rows.astype(float)
        while len(points) > 1:
            points = (1 - alpha) * points[:-1] + alpha * points[1:]
        got = curve.at(torch.tensor([1, 0]), torch.full((2,), alpha, dtype=torch.float64)).flatten()
        np.testing.assert_allclose(got, points[0, ::-1], rtol=1e-5, atol=1e-5)
        if alpha in (0, 1):
            np.testing.assert_array_equal(got, rows[0 if alpha == 0 else -1, ::-1])
    assert curve.to(torch.float64).controls[0].dtype == torch.float64


def test_the_length_of_a_parabola() -> None:
    """y = 4 h x (1 - x) over [0, 1]: its length has a closed form; in L1 it is the sum of what each coordinate goes."""
    h = 1.0
    curve = Bezier((stack([0.0, 0, 0]), stack([0.5, 2 * h, 0]), stack([1.0, 0, 0])))
    l1, l2 = curve.lengths()
    length = (1 + 16 * h**2) ** 0.5 / 2 + np.arcsinh(4 * h) / (8 * h)
    np.testing.assert_allclose(l1, 1 + 2 * h, rtol=1e-6)
    np.testing.assert_allclose(l2, length, rtol=1e-4)


def test_buffers_of_a_bezier_curve() -> None:
    controls = [
        Stack({"a": torch.zeros(1, 1)}, {"m": torch.tensor([m]), "n": torch.tensor([n])})
        for m, n in ((0.5, 1), (3.0, 2), (1.5, 9))
    ]
    got = Bezier(tuple(controls)).at(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0.5, 0.75, 1]))
    np.testing.assert_array_equal(got.buffers["m"], [0.5, 2, 2, 1.5])
    assert got.buffers["n"].tolist() == [1, 9, 9, 9]


def test_rays() -> None:
    origin = Stack(dict(stack([-0.0, 1, float("inf")], [1, 2, 3]).tensors), {"n": torch.tensor([4, 5])})
    ray = Ray(origin, stack([0.0, 2, float("inf")], [-3, 0, 4]))
    lines, alphas = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, -1, -2, 0.5], dtype=torch.float64)
    got = ray.at(lines, alphas)
    wanted = [[-0.0, 1, np.inf], [-0.0, 3, np.inf], [-0.0, -1, np.nan], [7, 2, -5], [-0.5, 2, 5]]
    np.testing.assert_array_equal(got.flatten(), wanted)
    assert torch.signbit(got["a"][:3]).all()
    assert got.buffers["n"].tolist() == [4, 4, 4, 5, 5]
    assert {name: float(tensor.flatten()[0]) for name, tensor in ray.ends(1)[1].items()} == {"a": -2, "b": 2, "n": 5}
    l1, l2 = ray.lengths()
    assert (float(l1[1]), float(l2[1])) == (7, 5)
    with pytest.raises(Mismatch, match="2 origins and 1 directions make no rays"):
        Ray(origin, stack([0.0, 0, 0]))


@given(points=st.integers(2, 300), low=st.floats(-5, 0), high=st.floats(1, 5))
def test_a_grid_holds_both_ends_and_ascends(points: int, low: float, high: float) -> None:
    alphas = grid(points, low, high)
    assert {0.0, 1.0} <= set(alphas.tolist())
    assert (np.diff(alphas) > 0).all()
    assert points <= len(alphas) <= points + 2
    even = np.linspace(low, high, points)
    assert all(np.abs(alphas - alpha).min() < 1e-11 for alpha in even)


@pytest.mark.parametrize("points", [2, 3, 11, 51, 101, 201])
def test_a_plain_grid_is_even_and_has_no_more_points(points: int) -> None:
    np.testing.assert_allclose(grid(points), np.arange(points) / (points - 1), rtol=0, atol=1e-15)
    assert len(grid(2 * points - 1, -0.5, 1.5)) == 2 * points - 1 + 2 * (points % 2 == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "a line needs at least 2 points, got 1"),
        ((5, 0.1, 1.0), "the range 0.1:1.0 must contain both ends of the line, 0 and 1"),
        ((5, 0.0, 0.5), "must contain both ends"),
        ((5, float("nan"), 1.0), "must contain both ends"),
        ((5, 0.0, float("inf")), "must contain both ends"),
    ],
)
def test_grids_that_make_no_sense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        grid(*arguments)  # type: ignore[arg-type]
