"""Figures of surfaces: what is drawn where, read back from the artists; files that are the same each time."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

import landscape
from landscape import figures
from landscape.core.errors import LandscapeError
from landscape.core.provenance import Source
from landscape.figures.planes import Scale
from landscape.figures.solids import _rise
from landscape.store.results import Mark, Result

X, Y = np.linspace(-2, 3, 41), np.linspace(-1, 2, 27)
VALLEY = (X - 1) ** 2 + 4 * (Y[:, None] - 0.5) ** 2 + 0.01


def mark(name: str, x: float, y: float, loss: float = 0.1, trajectory: int | None = None, step: int = 0) -> Mark:
    return Mark(name, Source("run", step, 3, "ab", "seed 3"), trajectory, x, y, loss, 0.2, 0.5)


def surface(loss: np.ndarray = VALLEY, marks: tuple[Mark, ...] = (), **plane: Any) -> Result:
    about = {"title": "Hills", "loss_unit": "nats", "plane": plane}
    columns = {"done": np.ones(len(Y), dtype=bool)}
    return Result("plane", {"y": Y, "x": X}, {"loss": loss}, columns, about, marks=marks)


def path_of(count: int) -> tuple[Mark, ...]:
    turn = np.linspace(0, 5, count)
    return tuple(
        mark(f"step {10 * k}", float(1 + np.cos(t)), float(0.5 + np.sin(t)), 0.1 + k, trajectory=k, step=10 * k)
        for k, t in enumerate(turn)
    )


def through() -> Result:
    marks = (mark("a", 0, 0), mark("b", 2, 0), mark("c", 1, 1.5))
    return surface(VALLEY, marks, kind="through", places=["a", "run#1", "run#2"], landmarks={"a": "a:full"})


def trajectory(count: int = 6) -> Result:
    return surface(VALLEY, path_of(count), kind="trajectory", places=["run#3"], explained=[0.75, 0.2])


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def caption(figure: Figure) -> str:
    label = figure.get_supxlabel()
    return flat(label)


def fill(ax: Axes) -> QuadContourSet:
    (found,) = (each for each in ax.collections if isinstance(each, QuadContourSet) and each.filled)
    return found


def names(ax: Axes) -> dict[str, Annotation]:
    return {each.get_text(): each for each in ax.texts if isinstance(each, Annotation)}


def dots(ax: Axes) -> list[PathCollection]:
    return [each for each in ax.collections if isinstance(each, PathCollection)]


def test_contours_lie_where_the_loss_is() -> None:
    """Not transposed, not mirrored: the lowest level is a small ellipse around the minimum, longer along x."""
    figure = figures.plane_figure(surface())
    ax = figure.axes[0]
    drawn = fill(ax)
    paths = [path for path in drawn.get_paths() if len(path.vertices)]
    lowest = paths[0].vertices
    middle, size = (lowest.max(0) + lowest.min(0)) / 2, np.ptp(lowest, axis=0)
    np.testing.assert_allclose(middle, (1, 0.5), atol=0.1)
    assert size[0] > 1.5 * size[1]
    assert ax.get_xlim() == (-2, 3)
    assert ax.get_ylim() == (-1, 2)
    assert ax.get_aspect() == 1
    assert ax.get_title(loc="left") == "Hills"


def test_a_colour_scale_that_shows_the_range() -> None:
    assert Scale.of(surface(VALLEY + 100)).log is False
    assert Scale.of(surface(VALLEY - 1)).log is False, "a logarithm knows no negative numbers"
    scale = Scale.of(surface())
    assert scale.log
    np.testing.assert_allclose(10 ** scale(VALLEY), VALLEY)
    assert 10 <= len(scale.levels) <= 20
    assert set(scale.ticks()) >= {-2.0, -1.0, 0.0, 1.0}
    decades = Scale.of(surface(10 ** (VALLEY * 10)))
    assert len(decades.levels) <= 20
    few = Scale.of(surface(np.clip(VALLEY, 0.2, 5)))
    assert {round(10**place, 6): text for place, text in few.ticks().items()} == {
        0.2: "0.2",
        0.5: "0.5",
        1: "1",
        2: "2",
        5: "5",
    }
    constant = Scale.of(surface(np.full_like(VALLEY, 0.3)))
    assert constant.levels[0] < 0.3 < constant.levels[-1]
    # Marks count too: their own losses have to have a colour.
    assert Scale.of(surface(VALLEY, (mark("low", 0, 0, 1e-6),))).levels[0] <= -6
    assert Scale.of(surface(VALLEY, (mark("outside", 9, 0, 1e-6),))).levels[0] >= -2


def test_zeros_have_a_floor_of_their_own() -> None:
    scale = Scale.of(surface(np.where(VALLEY < 0.5, 0, VALLEY)))
    assert scale.ticks()[float(scale.levels[0])] == "0"
    assert scale.levels[0] < np.log10(0.05)
    assert (scale(np.array([0.0, 1.0])) == [scale.levels[0], 0]).all()
    assert "The loss is exactly zero at" in caption(figures.plane_figure(surface(np.where(VALLEY < 0.5, 0, VALLEY))))
    everywhere = figures.plane_figure(surface(np.zeros_like(VALLEY)))
    assert "linear scale" in caption(everywhere)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_what_is_not_finite_is_hatched(missing: float) -> None:
    loss = VALLEY.copy()
    loss[20:, 30:] = missing
    figure = figures.plane_figure(surface(loss))
    (hatch,) = (patch for patch in figure.axes[0].patches if patch.get_gid() == "not finite")
    assert hatch.get_hatch()
    assert hatch.get_zorder() < fill(figure.axes[0]).get_zorder()
    covered = [p.contains_point((X[35], Y[23])) for p in fill(figure.axes[0]).get_paths()]
    assert not any(covered)
    assert f"Hatched: the loss is not finite ({7 * 11} points)" in caption(figure)
    assert "hatch" not in caption(figures.plane_figure(surface())).lower()
    assert "Holes: the loss is not finite" in caption(figures.surface_figure(surface(loss)))
    for draw in (figures.plane_figure, figures.surface_figure):
        with pytest.raises(LandscapeError, match="no loss on the plane is finite"):
            draw(surface(np.full_like(VALLEY, missing)))


def test_marks_have_their_own_losses_colour() -> None:
    ax = figures.plane_figure(trajectory()).axes[0]
    scale = Scale.of(trajectory())
    for drawn, each in zip(dots(ax), trajectory().marks, strict=True):
        np.testing.assert_allclose(drawn.get_offsets(), [(each.x, each.y)])
        wanted = figures.planes.MAP(scale.norm(np.log10(each.loss)))
        np.testing.assert_allclose(drawn.get_facecolor()[0], wanted)
    (line,) = (line for line in ax.lines if line.get_gid() == "trajectory")
    np.testing.assert_allclose(line.get_xydata(), [(each.x, each.y) for each in trajectory().marks])


def test_a_mark_without_a_finite_loss_is_hollow() -> None:
    ax = figures.plane_figure(surface(VALLEY, (mark("lost", 0, 0, np.nan),))).axes[0]
    assert len(dots(ax)[0].get_facecolor()) == 0 or dots(ax)[0].get_facecolor()[0, 3] == 0
    assert "lost" in names(ax)


@pytest.mark.slow
def test_names_cover_nothing() -> None:
    figure = figures.plane_figure(trajectory(30))
    ax = figure.axes[0]
    figure.draw_without_rendering()
    found = names(ax)
    assert {"step 0", "step 290"} < found.keys()
    assert 5 < len(found) < 30, "as many as there is room for"
    boxes = [label.get_window_extent() for label in found.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for drawn in dots(ax):
        place = ax.transData.transform(drawn.get_offsets()[0])
        assert not any(Bbox([place - 2, place + 2]).overlaps(box) for box in boxes)
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 for box in boxes)


def test_places_are_named_however_close_they_are() -> None:
    close = tuple(mark(name, 0.02 * k, 0) for k, name in enumerate("abc"))
    assert names(figures.plane_figure(surface(VALLEY, close)).axes[0]).keys() == set("abc")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plane", "policy", "said"),
    [
        ("through", {"policy": "interpolate"}, "interpolated between the networks."),
        ("through", {"policy": "keep"}, "kept as at the first network: only there the loss is the network's own."),
        ("random", {"policy": "interpolate"}, "kept as at the network: only there the loss is the network's own."),
        (
            "random",
            {"policy": "recalibrate", "samples": 20},
            "estimated anew at each point on 20 training samples.",
        ),
    ],
)
def test_captions_tell_what_batchnorm_normalised_by(plane: str, policy: dict[str, Any], said: str) -> None:
    random = {"kind": "random", "seed": 0, "normalise": "layer", "places": ["x"]}
    found = through() if plane == "through" else surface(VALLEY, (mark("seed 3", 0, 0),), **random)
    found = dataclasses.replace(found, about={**found.about, "batchnorm": policy})
    for draw in (figures.plane_figure, figures.surface_figure):
        assert f". Statistics of BatchNorm {said} Grid of" in caption(draw(found))


@pytest.mark.slow
def test_captions_say_what_is_drawn() -> None:
    text = caption(figures.plane_figure(through()))
    assert text == (
        "Exact loss on the plane through a:full, b and c, with orthonormal axes (L2 distances). "
        "Grid of 41 x 27 points; logarithmic scale. Dots: the networks, in the colour of their own loss."
    )
    ax = figures.plane_figure(through()).axes[0]
    assert (ax.get_xlabel(), flat(ax.get_ylabel())) == ("from a to b (L2 distance)", "towards c (L2 distance)")
    text = caption(figures.plane_figure(trajectory()))
    assert "through step 50 of run#3 that lies closest to all its 6 checkpoints: it holds 95 % of their squared" in text
    assert "The checkpoints are projected: they lie up to 0.5 off the plane" in text
    assert figures.plane_figure(trajectory()).axes[0].get_xlabel() == "first principal axis, 75 % (L2 distance)"
    random = {"kind": "random", "places": ["run#3"], "landmarks": {}, "seed": 7}
    for normalise, words in (
        ("filter", "each filter as long as the network's own; biases and BatchNorm stay as they are"),
        ("layer", "each tensor as long as the network's own; biases and BatchNorm stay as they are"),
        ("none", "standard normal in every parameter."),
    ):
        text = caption(figures.plane_figure(surface(VALLEY, (mark("seed 3", 0, 0),), **random, normalise=normalise)))
        assert f"at seed 3 plus multiples of two random directions (seed 7), {words}" in text
    sampled = dataclasses.replace(
        surface(), values={"loss": VALLEY, "loss_se": VALLEY}, about={"samples": 500, "plane": {}}
    )
    assert caption(figures.plane_figure(sampled)).startswith("Loss on 500 samples on a plane.")
    outside = surface(VALLEY, (mark("in", 0, 0), mark("out", 9, 0)))
    assert "1 of 2 networks lie outside of the ranges." in caption(figures.plane_figure(outside))
    assert caption(figures.plane_figure(surface(), caption="Mine.")) == "Mine."


def test_a_long_plane_is_not_drawn_to_one_scale() -> None:
    long = dataclasses.replace(surface(), axes={"y": Y / 100, "x": X})
    figure = figures.plane_figure(long)
    assert figure.axes[0].get_aspect() == "auto"
    assert "The axes are not drawn to one scale." in caption(figure)


def test_heights_are_the_losses() -> None:
    figure = figures.surface_figure(through())
    ax = figure.axes[0]
    assert isinstance(ax, Axes3D)
    (drawn,) = (each for each in ax.collections if isinstance(each, Poly3DCollection))
    corners = np.concatenate([np.asarray(face) for face in drawn._faces])
    assert len(drawn._faces) == 40 * 26
    wanted = np.log10((corners[:, 0] - 1) ** 2 + 4 * (corners[:, 1] - 0.5) ** 2 + 0.01)
    np.testing.assert_allclose(corners[:, 2], wanted, atol=1e-9)
    # A face has the colour of its middle, not of one of its corners.
    middle = np.array([np.mean(np.asarray(face)[:, 2]) for face in drawn._faces[:: 26 * 2]])
    hue = figures.planes.MAP(Scale.of(through()).norm(middle))[:, :3]
    colors = drawn._facecolor3d[:: 26 * 2, :3]
    brightness = colors.sum(1) / hue.sum(1)
    np.testing.assert_allclose(colors, hue * brightness[:, None], atol=0.02)
    assert (brightness <= 1).all()
    assert (brightness > 0.6).all()
    assert names(ax).keys() == {"a", "b", "c"}
    assert "at their own loss; pale below a dotted stem: hidden" in caption(figure)
    own = [line.get_data_3d() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([float(z[0]) for _, _, z in own], np.log10(0.1))


def test_what_the_surface_hides() -> None:
    """A wall between the eye and the place: hidden below the line of sight over the wall's edge, seen above it."""
    wall = np.where(Y[:, None] < 0, 3.0, 1.0) + 0 * X
    figure = Figure()
    ax = Axes3D(figure)
    figure.add_axes(ax)
    ax.view_init(45, -90)  # from the side of low y
    ax.set_zlim(1, 3)
    rise = _rise(ax, surface(wall), wall)
    # At 45 degrees, in a box half as tall as it is long: 2 of height are 2.5 along y.
    edge = Y[Y < 0].max()
    for y in (0.3, 1.0, 2.0):
        assert abs(rise(0.0, y, 1.0) - (3 - 1 - (y - edge) * 2 / 2.5)) < 0.05
    assert rise(0.0, 1.0, 2.9) == 0
    ax.view_init(75, -90)
    assert _rise(ax, surface(wall), wall)(0.0, 1.0, 1.0) == 0, "from high above"
    ax.view_init(45, 90)
    assert _rise(ax, surface(wall), wall)(0.0, 0.3, 1.0) == 0


def test_the_view_is_from_the_low_side() -> None:
    for heights, wanted in (
        (0 * VALLEY + Y[:, None], {-60.0, -120.0}),
        (0 * VALLEY - Y[:, None], {60.0, 120.0}),
        (0 * VALLEY + X, {150.0, -150.0}),
        (0 * VALLEY - X, {30.0, -30.0}),
    ):
        assert round(figures.solids.azimuth(heights)) in wanted
    holes = np.where(Y[:, None] > 0, np.nan, X + 0 * VALLEY)
    assert round(figures.solids.azimuth(holes)) in {150.0, -150.0}


@pytest.mark.slow
@pytest.mark.parametrize("draw", [figures.plane_figure, figures.surface_figure])
def test_files_are_the_same_each_time(tmp_path: Path, draw: Any) -> None:
    contents = []
    for name in ("one", "two"):
        png, svg = figures.save(draw(trajectory()), tmp_path / f"{name}.png")
        contents.append((png.read_bytes(), svg.read_bytes()))
    assert contents[0] == contents[1]
    assert imread(tmp_path / "one.png").shape[1] > 900
    assert len(contents[0][1]) < 500_000
    assert "<text" in contents[0][1].decode()


def test_heights_are_drawn_into_axes_of_three_dimensions() -> None:
    ax = Figure().add_subplot(projection="3d")
    assert landscape.plot(through(), ax=ax) is ax
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["a", "b", "c"]
    assert ax.get_zlabel() == "loss (nats)"


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("draw", [figures.plane_figure, figures.surface_figure])
def test_planes_fit_the_columns_of_a_paper(draw: Any, columns: int) -> None:
    figure = draw(trajectory(), style=figures.paper(columns))
    assert figure.get_size_inches()[0] <= {1: 3.5, 2: 7.2}[columns]
    assert figure.get_supxlabel() == ""
