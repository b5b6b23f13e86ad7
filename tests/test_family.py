"""Families of points: lines, curves, rays and planes as weighted sums of a few networks, and the grids along them."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.evaluation.evaluate import evaluate
from landscape.space import family as families
from landscape.space.family import Family, Points, Weights, bezier, grid, line, partial, polyline, ray, slerp
from landscape.space.planes import spanned, through


def stack(*rows: list[float]) -> Stack:
    return Stack({"a": torch.tensor(rows)[:, :1], "b": torch.tensor(rows)[:, 1:]})


def at(family: Family, *places: tuple[float, float]) -> Stack:
    """The points at pairs of a line's number and alpha, or of y and x."""
    first, second = zip(*places, strict=True)
    kind = torch.float64 if family.kind == "plane" else torch.int64
    return family.at(torch.tensor(first, dtype=kind), torch.tensor(second, dtype=torch.float64))


def bits(state: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """A state dict as what can be compared bit for bit: minus zero is not zero."""
    return {name: (each.dtype, tuple(each.shape), each.numpy().tobytes()) for name, each in state.items()}


# What is true of every kind -------------------------------------------------------------------------------------------

#: Numbers that all vertices share, and that are zero in directions; members of each vertex.
SHARED, LINES = (-0.0, 1 / 3, 7e5, 1e-42), 3

#: What moves on partial lines.
EVERYTHING, SOME = frozenset({"a", "b", "mean", "batches"}), frozenset({"b", "mean"})


def members(number: int, dtype: torch.dtype, *, direction: bool = False) -> Stack:
    """A vertex; the first numbers of `a`, and the first of the buffer `mean`, are those of all vertices."""
    generator = torch.Generator().manual_seed(number)
    a, b, mean = (
        torch.randn(LINES, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in ((7,), (2, 2), (4,))
    )
    a[:, : len(SHARED)] = 0 if direction else torch.tensor(SHARED, dtype=torch.float64).to(dtype)
    mean[:, 0] = 0.1
    return Stack({"a": a, "b": b}, {} if direction else {"mean": mean, "batches": torch.arange(LINES) + 10 * number})


def made(kind: str, dtype: torch.dtype) -> tuple[Family, list[Stack]]:
    """A family of each kind, and its vertices."""
    vertices = [members(number, dtype) for number in range(4)]
    x, y = (members(number, dtype, direction=True) for number in (8, 9))
    if kind == "plane":
        return spanned(vertices[0].select([0]), x.select([0]), y.select([0])), [vertices[0].select([0])]
    if kind == "plane through three":
        a, b, c = (vertex.select([1]) for vertex in vertices[:3])
        return through(a, b, c), [a, b, c]
    straight = line(*vertices[:2])
    return {
        "line": (straight, vertices[:2]),
        "polyline": (polyline(vertices), vertices),
        "bezier of 2": (bezier(vertices[:2]), vertices[:2]),
        "bezier of 4": (bezier(vertices), [vertices[0], vertices[3]]),
        "ray": (ray(vertices[0], x), vertices[:1]),
        "slerp": (slerp(*vertices[:2]), vertices[:2]),
        "partial slerp": (partial(slerp(*vertices[:2]), (EVERYTHING, SOME)), vertices[:2]),
        "partial": (partial(straight, (EVERYTHING, SOME)), vertices[:2]),
        "partial, held at the end": (partial(straight, (EVERYTHING, SOME), "end"), vertices[:2]),
        "partial polyline": (partial(polyline(vertices), (EVERYTHING, SOME)), vertices),
        "partial bezier": (partial(bezier(vertices), (EVERYTHING, SOME), "end"), [vertices[0], vertices[3]]),
    }[kind]


KINDS = [
    *("line", "polyline", "bezier of 2", "bezier of 4", "ray", "partial", "partial, held at the end"),
    *("partial polyline", "partial bezier", "slerp", "partial slerp", "plane", "plane through three"),
]


def known(family: Family, vertices: list[Stack]) -> Iterator[tuple[tuple[float, float], dict[str, Tensor]]]:
    """Coordinates at which all weight is on one vertex, and that vertex."""
    if family.marked is not None:
        for k, vertex in enumerate(vertices):
            yield (float(family.marked.y[k]), float(family.marked.x[k])), vertex.state_dict(0)
        return
    for number in range(len(family)):
        group, member = divmod(number, LINES)
        for k, vertex in enumerate(vertices):
            moved, still = vertex.state_dict(member), vertices[-1 if family.held else 0].state_dict(member)
            moves = family.moving[group] if family.moving else EVERYTHING
            place = (number, k / max(1, len(vertices) - 1))
            yield place, {name: (moved if name in moves else still)[name] for name in moved}


@pytest.fixture(params=["side by side", "tensor by tensor"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters mixed in one operation, as those of small networks, and each tensor by itself."""
    if request.param == "tensor by tensor":
        monkeypatch.setattr(families, "_FLAT_BYTES", 0)


everywhere = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
of_every_kind = pytest.mark.parametrize("kind", KINDS)


@of_every_kind
@everywhere
def test_a_point_with_all_weight_on_one_vertex_is_that_vertex(kind: str, dtype: torch.dtype, layout: None) -> None:
    family, vertices = made(kind, dtype)
    there = list(known(family, vertices))
    between = [(first, 0.3) for (first, _), _ in there]  # companions that are mixed
    found = at(family, *(place for place, _ in there), *between)
    for k, (_, wanted) in enumerate(there):
        assert bits(found.state_dict(k)) == bits(wanted)
    for k, (place, wanted) in enumerate(there):
        assert bits(at(family, place).state_dict(0)) == bits(wanted), f"alone it is another: {k}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "slerp" not in kind])
@everywhere
def test_what_all_vertices_share_all_points_share(kind: str, dtype: torch.dtype, layout: None) -> None:
    family, _ = made(kind, dtype)
    numbers = np.random.default_rng(0)
    plane = family.kind == "plane"
    places = [
        (numbers.normal() if plane else numbers.integers(len(family)), numbers.uniform(-0.5, 1.5)) for _ in range(100)
    ]
    found = at(family, *places)
    wanted = torch.tensor(SHARED, dtype=torch.float64).to(dtype).expand(100, -1)
    assert bits({"a": found["a"][:, : len(SHARED)].contiguous()}) == bits({"a": wanted.contiguous()})
    assert bool((found.buffers["mean"][:, 0] == torch.tensor(0.1, dtype=torch.float64).to(dtype)).all())
    assert found.dtype == dtype
    assert (found.shapes, list(found.buffers)) == (family.vertices[0].shapes, ["mean", "batches"])


@everywhere
@pytest.mark.parametrize("kind", ["line", "polyline", "bezier of 4", "ray", "plane"])
def test_a_point_is_a_sum_of_weights_times_vertices_from_left_to_right(
    kind: str, dtype: torch.dtype, layout: None
) -> None:
    """The slow twin: one number after another, with weights in Python's floats."""
    family, _ = made(kind, dtype)
    number = np.dtype(str(dtype).removeprefix("torch.")).type
    vertices = [each.state_dict(min(2, len(each) - 1)) for each in family.vertices]

    def weights(alpha: float) -> list[tuple[int, Any]]:
        if kind == "polyline":
            k = min(max(math.floor(alpha * 3), 0), 2)
            t = number(alpha * 3 - k)
            return [(k, number(1) - t), (k + 1, t)]
        if kind == "bezier of 4":
            return [(k, number(math.comb(3, k) * alpha**k * (1 - alpha) ** (3 - k))) for k in range(4)]
        if kind == "ray":
            return [(0, number(1)), (1, number(alpha))]
        if kind == "plane":  # always in float64, rounded once
            return [(0, 1.0), (1, alpha), (2, 0.25)]
        return [(0, number(1) - number(alpha)), (1, number(alpha))]

    for alpha in [*np.random.default_rng(1).uniform(-1, 2, 20).tolist(), 1e-9, 0.1, 0.5]:
        found = at(family, (0.25, alpha) if kind == "plane" else (2, alpha)).state_dict(0)
        for name in ("a", "b", "mean"):
            kept = len(SHARED) if name == "a" else 1 if name == "mean" else 0  # what is shared is not mixed
            parts = [(w, vertices[k][name].flatten()[kept:].numpy()) for k, w in weights(alpha) if name in vertices[k]]
            total = parts[0][0] * parts[0][1]
            for weight, part in parts[1:]:
                total = total + weight * part
            here = found[name].flatten()[kept:].numpy()
            wanted = np.asarray(total, dtype=here.dtype)
            if kind == "bezier of 4":  # PyTorch's powers may round otherwise than Python's
                np.testing.assert_allclose(here, wanted, rtol=16 * np.finfo(number).eps, atol=64 * np.finfo(number).eps)
            else:
                np.testing.assert_array_equal(here, wanted)


def rows(family: Family) -> list[int]:
    return [len(vertex) for vertex in family.vertices]


def test_lines_may_share_members() -> None:
    """Each member is held once, whatever the number of lines; a line is that of its members by themselves."""
    vertices = [members(number, torch.float32) for number in range(3)]
    table = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 2, 1, 0], [0, 0, 1, 1, 2]])
    for many in (polyline(vertices, table), bezier(vertices, table)):
        assert (len(many), rows(many)) == (5, [3, 3, 3])
        for number, (i, j, k) in enumerate(table.T.tolist()):
            parts = [vertex.select([row]) for vertex, row in zip(vertices, (i, j, k), strict=True)]
            single = polyline(parts) if many.kind == "polyline" else bezier(parts)
            for alpha in (0.0, 0.2, 0.5, 0.8, 1.0):
                assert bits(at(many, (number, alpha)).state_dict(0)) == bits(at(single, (0, alpha)).state_dict(0))
        for vertex, picked in enumerate(table):
            assert torch.equal(many.stack(vertex)["b"], vertices[vertex]["b"][picked])


def test_lengths_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    family, _ = made("bezier of 4", torch.float32)
    many = dataclasses.replace(family, rows=family.rows.repeat(1, 7), chords=6)
    whole = torch.stack(many.lengths())
    sizes: list[int] = []
    right = Family.at

    def watched(self: Family, first: Tensor, second: Tensor) -> Stack:
        sizes.append(len(first))
        return right(self, first, second)

    monkeypatch.setattr(Family, "at", watched)
    monkeypatch.setattr(families, "_LENGTH_BYTES", 4 * 8 * family.vertices[0].parameters)
    blocks = torch.stack(many.lengths())
    assert max(sizes) == 4
    torch.testing.assert_close(blocks, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["line", "polyline", "bezier of 4", "ray", "plane"])
def test_what_is_linear_in_the_parameters_may_be_taken_between_the_ends(kind: str) -> None:
    family, _ = made(kind, torch.float64)
    # Directions have no buffers, and only members that are alike lie beside each other.
    family = dataclasses.replace(family, vertices=tuple(Stack(vertex.tensors) for vertex in family.vertices))
    numbers = np.random.default_rng(3)
    first = torch.arange(len(family)).repeat(30)
    first = first.double() if kind == "plane" else first
    points = Points(family, first, torch.tensor(numbers.uniform(-0.5, 1.5, len(first))))
    ends = points.ends
    assert ends is not None
    assert len(ends) == sum(map(len, family.vertices))
    linear = torch.tensor(numbers.normal(size=(family.vertices[0].parameters, 5))) / 1e6
    index = torch.tensor([3, 29, 0, 17])
    found = points.between((ends.flatten() @ linear).view(len(ends), 5, 1), index)
    exact = family.at(first, points.second).flatten()[index] @ linear
    torch.testing.assert_close(found[..., 0], exact, rtol=1e-10, atol=1e-12)
    few = Points(family, first[:9], points.second[:9])
    assert few.ends is None, "of so few points each has its own product"


def arc(a: Stack, b: Stack, centre: Stack) -> Family:
    """Quarters of circles, or of ellipses, around `centre` from each member of `a` to that of `b`."""

    def weigh(dtype: torch.dtype, lines: Tensor, alphas: Tensor) -> Weights:
        x, y = (torch.sin(each * torch.pi / 2) for each in (1 - alphas, alphas))
        return Weights(torch.stack([x, y, 1 - x - y], 1).to(dtype), lines, (0, 1, 2))

    return Family("curve", (a, b, centre), weigh, torch.arange(len(a)).expand(3, -1), chords=100)


class Ring(nn.Module):
    """With a target of 0 and squared error the loss is (|w|^2 - 1)^2: its minima are a circle around a hill."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w.square().sum() - 1).expand(len(x), 1)


def test_a_new_kind_of_path_is_a_function_of_a_few_lines(squares: Callable[..., Objective]) -> None:
    assert len(inspect.getsource(arc).splitlines()) <= 15
    ends = [Stack({"w": torch.tensor(rows, dtype=torch.float64)}) for rows in ([[1.0, 0], [3, 0]], [[0.0, 1], [0, 3]])]
    family = arc(*ends, Stack({"w": torch.zeros(2, 2, dtype=torch.float64)}))
    objective = squares(Ring(), torch.zeros(1, 1), torch.zeros(1, 1), backend="vmap", precision=torch.float64)
    result = evaluate(objective, family, {"line": np.arange(2), "alpha": grid(21)})
    np.testing.assert_allclose(result.loss, np.array([[0.0], [64.0]]) + np.zeros(21), atol=1e-13)
    np.testing.assert_allclose(result["l2"], [np.pi / 2, 3 * np.pi / 2], rtol=1e-4)
    assert (result.kind, result.about["end_check"]["lines"]) == ("curve", 2)
    for alpha, end in ((0.0, ends[0]), (1.0, ends[1])):
        assert torch.equal(at(family, (0, alpha), (1, alpha))["w"], end["w"])


# Arcs -----------------------------------------------------------------------------------------------------------------


@everywhere
def test_an_arc_turns_each_tensor_as_its_formula_says(dtype: torch.dtype) -> None:
    """The slow twin: one tensor of one line after another, the angle from the cosine; buffers go along the line."""
    family, (start, end, *_) = made("slerp", dtype)
    for number, alpha in ((0, 0.3), (1, 0.5), (2, -0.25), (1, 1.25)):
        found = at(family, (number, alpha), (0, 0.9)).state_dict(0)
        for name in ("a", "b"):
            a, b = (each[name][number].double().flatten() for each in (start, end))
            angle = math.acos(float(a @ b / a.norm() / b.norm()))
            wanted = (math.sin((1 - alpha) * angle) * a + math.sin(alpha * angle) * b) / math.sin(angle)
            torch.testing.assert_close(found[name].flatten().double(), wanted, rtol=1e-5, atol=1e-6)
        mean = (each.buffers["mean"][number].double() for each in (start, end))
        torch.testing.assert_close(found["mean"].double(), (1 - alpha) * next(mean) + alpha * next(mean))


def test_an_arc_between_tensors_of_one_norm_keeps_it() -> None:
    a, b = ({"a": torch.nn.functional.normalize(torch.randn(4, 30).double())} for _ in range(2))
    family = slerp(Stack(a), Stack(b))
    for alpha in (0.1, 0.5, 0.9):
        torch.testing.assert_close(at(family, *((k, alpha) for k in range(4)))["a"].norm(dim=1), torch.ones(4).double())
    angles = torch.tensor([torch.arccos(x @ y) for x, y in zip(a["a"], b["a"], strict=True)]).double()
    torch.testing.assert_close(family.lengths()[1], angles, rtol=1e-3, atol=0)


def test_an_arc_of_small_angle_goes_over_into_the_line() -> None:
    torch.manual_seed(0)
    a, other = torch.randn(1, 50).double(), torch.randn(1, 50).double()
    for small in (1e-1, 1e-3, 1e-6, 1e-9, 1e-15, 0.0):
        ends = Stack({"a": a}), Stack({"a": a + small * other})
        arc_, straight = (at(make(*ends), (0, 0.4))["a"] for make in (slerp, line))
        assert float((arc_ - straight).norm()) <= (small**2 + 1e-15) * float(a.norm())


def test_tensors_without_an_arc_go_along_the_line_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    a = Stack({"turned": torch.randn(1, 9), "zero": torch.zeros(1, 3), "one": torch.tensor([[2.0]])})
    b = Stack({"turned": torch.randn(1, 9), "zero": torch.randn(1, 3), "one": torch.tensor([[-1.0]])})
    bent, straight = (at(make(a, b), (0, 0.25)) for make in (slerp, line))
    assert torch.equal(bent["zero"], straight["zero"])
    assert torch.equal(bent["one"], straight["one"])
    assert not torch.equal(bent["turned"], straight["turned"])
    assert "slerp: 2 of 3 tensors go along the line, there is no arc to or from zero" in caplog.text
    assert "opposite: zero, one" in caplog.text


def test_tensors_that_both_ends_share_stay_on_an_arc_as_they_are(layout: None) -> None:
    a = Stack({"same": torch.randn(2, 5), "other": torch.randn(2, 5)}, {"mean": torch.tensor([[0.1], [0.2]])})
    b = Stack({"same": a["same"], "other": torch.randn(2, 5)}, a.buffers)
    found = at(slerp(a, b), (0, 0.3), (1, 0.7))
    assert torch.equal(found["same"], a["same"])
    assert torch.equal(found.buffers["mean"], a.buffers["mean"])


def test_lengths_of_large_networks_are_those_of_small_ones_on_an_arc(monkeypatch: pytest.MonkeyPatch) -> None:
    family, _ = made("slerp", torch.float64)
    small = torch.stack(family.lengths())
    monkeypatch.setattr(families, "_LARGE", 3)
    torch.testing.assert_close(torch.stack(made("slerp", torch.float64)[0].lengths()), small, rtol=1e-9, atol=0)


# Lines ----------------------------------------------------------------------------------------------------------------


def test_points_of_lines() -> None:
    lines = line(stack([0.0, 0, 0], [1, -0.0, float("inf")]), stack([4.0, 8, 0], [float("nan"), 3, 2]))
    got = at(lines, (0, 0.25), (1, 0), (1, 1), (0, 1), (0, 1.5)).flatten()
    np.testing.assert_array_equal(got[0], [1, 2, 0])
    np.testing.assert_array_equal(got[1], [1, -0.0, np.inf])
    assert torch.signbit(got[1, 1])
    np.testing.assert_array_equal(got[2], [np.nan, 3, 2])
    np.testing.assert_array_equal(got[3], [4, 8, 0])
    np.testing.assert_array_equal(got[4], [6, 12, 0])


def test_lengths() -> None:
    l1, l2 = line(stack([1.0, 1, 1], [0, 0, 0]), stack([4.0, -3, 1], [0, 0, 0])).lengths()
    np.testing.assert_array_equal(l1, [7, 0])
    np.testing.assert_array_equal(l2, [5, 0])


def test_ends_that_make_no_lines() -> None:
    with pytest.raises(Mismatch, match="1 and 2 members make no paths: they must pair"):
        line(stack([0.0, 0]), stack([0.0, 0], [1, 1]))
    with pytest.raises(Mismatch, match=r"the start and the end are of different architectures: other shape: b \[1\]"):
        line(stack([0.0, 0]), stack([0.0, 0, 0]))


@pytest.mark.parametrize("hold", ["start", "end"])
def test_what_does_not_move_is_held_at_an_end(hold: Literal["start", "end"]) -> None:
    buffers = (
        {"m": torch.tensor([[1.0], [2.0]]), "n": torch.tensor([1, 2])},
        {"m": torch.ones(2, 1), "n": torch.tensor([5, 6])},
    )
    start, end = (
        Stack(dict(stack(*rows).tensors), more)
        for rows, more in zip(([[0.1, 2, 3], [0, 0, 0]], [[4.3, 5, 6], [7, 8, float("inf")]]), buffers, strict=True)
    )
    sets = (frozenset({"a", "b", "m", "n"}), frozenset({"b", "m"}), frozenset({"a"}))
    full = line(start, end)
    some = partial(full, sets, hold)
    assert len(some) == 6
    ends = {(each.number, each.coordinates[1]): each.network for each in some.known(6)}
    still = at(full, (0, float(hold == "end")), (1, float(hold == "end")))
    for number in range(6):
        for alpha in (0.0, 0.3, 1.0, 1.5):
            got = at(some, (number, alpha)).state_dict(0)
            moved = at(full, (number % 2, alpha)).state_dict(0)
            wanted = {n: (moved if n in sets[number // 2] else still.state_dict(number % 2))[n] for n in got}
            assert all(torch.equal(got[name], wanted[name]) for name in got)
            assert got.keys() == moved.keys()
            if alpha in (0, 1):
                assert all(torch.equal(got[name], ends[number, alpha][name]) for name in got)
    l1, l2 = some.lengths()
    np.testing.assert_allclose(l1, [4.2 + 3 + 3, np.inf, 3 + 3, np.inf, 4.2, 7], rtol=1e-7)
    np.testing.assert_allclose(l2[[2, 4, 5]], [18**0.5, 4.2, 7], rtol=1e-7)
    assert at(some.to("cpu", torch.float64), (4, 0)).dtype == torch.float64


def test_a_line_on_which_nothing_can_move() -> None:
    full = line(stack([0.0, 0]), stack([1.0, 1]))
    with pytest.raises(LandscapeError, match="name the tensors that move"):
        partial(full, ())
    buffers = partial(full, (frozenset({"statistics"}),))
    assert torch.equal(at(buffers, (0, 1)).flatten(), full.stack(0).flatten())
    assert [float(length) for length in buffers.lengths()] == [0, 0]


@pytest.mark.parametrize("segments", [2, 3, 6, 7, 49])
def test_a_polyline_goes_through_its_vertices_bit_for_bit(segments: int) -> None:
    generator = np.random.default_rng(segments)
    rows = generator.normal(size=(segments + 1, 2, 3)).astype(np.float32)
    lines = polyline(tuple(stack(*each.tolist()) for each in rows))
    alphas = torch.arange(segments + 1, dtype=torch.float64) / segments
    for member in (0, 1):
        np.testing.assert_array_equal(lines.at(torch.full((segments + 1,), member), alphas).flatten(), rows[:, member])
    on_grid = grid(51, knots=alphas.tolist())
    assert set(alphas.tolist()) <= set(on_grid.tolist())
    assert (np.diff(on_grid) > 1e-6).all()
    for alpha in [-0.5, *generator.random(20), 1.25]:
        k = min(max(int(np.floor(alpha * segments)), 0), segments - 1)
        t = alpha * segments - k
        got = at(lines, (1, alpha)).flatten()[0]
        np.testing.assert_allclose(got, (1 - t) * rows[k, 1] + t * rows[k + 1, 1], rtol=1e-4, atol=1e-4)
    l1, l2 = lines.lengths()
    np.testing.assert_allclose(l1, np.abs(np.diff(rows.astype(float), axis=0)).sum((0, 2)))
    np.testing.assert_allclose(l2, np.linalg.norm(np.diff(rows.astype(float), axis=0), axis=2).sum(0))
    ends = {each.coordinates: each.network for each in lines.known(2)}
    assert len(ends) == 2 * (segments + 1)
    for alpha, vertex in ((0.0, lines.vertices[0]), (1.0, lines.vertices[-1])):
        assert torch.equal(ends[1, alpha]["a"], vertex["a"][1])


def test_of_two_vertices_it_is_a_line() -> None:
    ends = stack([0.1, 2, 3]), stack([4.3, -5, 6])
    alphas = torch.tensor(grid(201, -1, 2))
    rows = torch.zeros(len(alphas), dtype=torch.int64)
    straight = line(*ends).at(rows, alphas).flatten()
    assert torch.equal(polyline(ends).at(rows, alphas).flatten(), straight)
    np.testing.assert_array_max_ulp(bezier(ends).at(rows, alphas).flatten().numpy(), straight.numpy(), maxulp=64)


def test_vertices_that_make_no_polyline() -> None:
    for made in (polyline, bezier):
        with pytest.raises(Mismatch, match="at least two points"):
            made((stack([0.0, 0]),))
        with pytest.raises(Mismatch, match="1 and 2 and 1 members make no paths"):
            made((stack([0.0, 0]), stack([0.0, 0], [1, 1]), stack([0.0, 0])))
        with pytest.raises(Mismatch, match=r"the start and point 2 of the path are of .*: other shape: b \[1\]"):
            made((stack([0.0, 0]), stack([0.0, 0]), stack([0.0, 0, 0])))


@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_a_bezier_curve_against_de_casteljau(degree: int) -> None:
    rows = np.random.default_rng(degree).normal(size=(degree + 1, 2, 3)).astype(np.float32)
    curve = bezier(tuple(stack(*each.tolist()) for each in rows))
    for alpha in (0.0, 0.2, 0.5, 0.9, 1.0, 1.2):
        points = rows.astype(float)
        while len(points) > 1:
            points = (1 - alpha) * points[:-1] + alpha * points[1:]
        got = at(curve, (1, alpha), (0, alpha)).flatten()
        np.testing.assert_allclose(got, points[0, ::-1], rtol=1e-5, atol=1e-5)
        if alpha in (0, 1):
            np.testing.assert_array_equal(got, rows[0 if alpha == 0 else -1, ::-1])
    assert curve.to("cpu", torch.float64).vertices[0].dtype == torch.float64


@given(alpha=st.floats(-0.5, 1.5), vertices=st.integers(2, 6))
def test_shares_sum_to_one_and_are_what_makes_the_points(alpha: float, vertices: int) -> None:
    flat = np.random.default_rng(vertices).normal(size=(vertices, 1, 3))
    for made in (polyline, bezier):
        family = made([Stack({"w": torch.tensor(row)}) for row in flat])
        share = family.shares(torch.tensor([alpha, 0.0, 1.0], dtype=torch.float64))
        np.testing.assert_allclose(share.sum(1), 1, rtol=1e-12)
        assert share[1:].tolist() == [[1.0] + [0.0] * (vertices - 1), [0.0] * (vertices - 1) + [1.0]]
        np.testing.assert_allclose(share[:1].numpy() @ flat[:, 0], at(family, (0, alpha))["w"], rtol=1e-9, atol=1e-9)


def test_the_length_of_a_parabola() -> None:
    """y = 4 h x (1 - x) over [0, 1]: its length has a closed form; in L1 it is the sum of what each coordinate goes."""
    h = 1.0
    curve = bezier((stack([0.0, 0, 0]), stack([0.5, 2 * h, 0]), stack([1.0, 0, 0])))
    l1, l2 = curve.lengths()
    length = (1 + 16 * h**2) ** 0.5 / 2 + np.arcsinh(4 * h) / (8 * h)
    np.testing.assert_allclose(l1, 1 + 2 * h, rtol=1e-6)
    np.testing.assert_allclose(l2, length, rtol=1e-4)


def test_buffers_go_along_and_whole_numbers_are_those_of_the_heaviest_vertex() -> None:
    controls = [
        Stack({"a": torch.zeros(1, 1)}, {"m": torch.tensor([m]), "n": torch.tensor([n])})
        for m, n in ((0.5, 1), (3.0, 2), (1.5, 9))
    ]
    got = at(bezier(controls), *((0, alpha) for alpha in (0, 0.5, 0.75, 1)))
    np.testing.assert_array_equal(got.buffers["m"], [0.5, 2, 2, 1.5])
    assert got.buffers["n"].tolist() == [1, 2, 9, 9]
    got = at(line(controls[0], controls[1]), *((0, alpha) for alpha in (0, 0.49, 0.5, 1)))
    assert got.buffers["n"].tolist() == [1, 1, 2, 2], "at a tie those of the later one"


def test_rays() -> None:
    origin = Stack(dict(stack([-0.0, 1, float("inf")], [1, 2, 3]).tensors), {"n": torch.tensor([4, 5])})
    rays = ray(origin, stack([0.0, 2, float("inf")], [-3, 0, 4]))
    got = at(rays, (0, 0), (0, 1), (0, -1), (1, -2), (1, 0.5))
    wanted = [[-0.0, 1, np.inf], [-0.0, 3, np.inf], [-0.0, -1, np.nan], [7, 2, -5], [-0.5, 2, 5]]
    np.testing.assert_array_equal(got.flatten(), wanted)
    assert torch.signbit(got["a"][:3]).all()
    assert got.buffers["n"].tolist() == [4, 4, 4, 5, 5]
    ends = {each.coordinates: each.network for each in rays.known(2)}
    assert {name: float(tensor.flatten()[0]) for name, tensor in ends[1, 1.0].items()} == {"a": -2, "b": 2, "n": 5}
    l1, l2 = rays.lengths()
    assert (float(l1[1]), float(l2[1])) == (7, 5)
    with pytest.raises(Mismatch, match="2 and 1 members make no paths"):
        ray(origin, stack([0.0, 0, 0]))
    with pytest.raises(Mismatch, match="the origin and the direction are of different architectures"):
        ray(origin, stack([0.0, 0], [0, 0]))


@pytest.mark.parametrize(("count", "most", "wanted"), [(5, 9, [0, 1, 2, 3, 4]), (5, 3, [0, 2, 4]), (1, 3, [0])])
def test_networks_are_known_on_lines_that_are_evenly_spaced(count: int, most: int, wanted: list[int]) -> None:
    ends = (stack(*([float(n), 0.0, 0.0] for n in range(first, first + count))) for first in (0, 10))
    found = line(*ends).known(most)
    assert [each.number for each in found[::2]] == wanted
    assert [float(each.network["a"]) for each in found] == [x for n in wanted for x in (n, n + 10.0)]


# Grids ----------------------------------------------------------------------------------------------------------------


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


def test_alphas_may_be_given_themselves() -> None:
    for given_ in ([0.3, 0.1, 0.3], (0.1, 0.3), np.array([0.1, 0.3])):
        assert grid(given_).tolist() == [0, 0.1, 0.3, 1]
    assert grid([2.5, -1], knots=(0, 0.5, 1)).tolist() == [-1, 0, 0.5, 1, 2.5]
    assert grid([]).tolist() == [0, 1]
    with pytest.raises(LandscapeError, match="`points` is a whole number of points, or a list of finite alphas"):
        grid([0.5, math.nan])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "a line needs at least 2 points, got 1"),
        ((5, 0.1, 1.0), r"the range 0\.1:1\.0 must contain both ends of the line, 0 and 1"),
        ((5, 0.0, 0.5), "must contain both ends"),
        ((5, float("nan"), 1.0), "must contain both ends"),
        ((5, 0.0, float("inf")), "must contain both ends"),
    ],
)
def test_grids_that_make_no_sense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        grid(*arguments)  # type: ignore[arg-type]
