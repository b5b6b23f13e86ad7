"""Surfaces over planes as heights in three dimensions."""

import textwrap
from collections.abc import Callable

import matplotlib
import numpy as np
import scipy
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D, proj3d

from landscape.core.errors import printable
from landscape.figures import planes
from landscape.figures.pages import FAINT, INK, SCREEN, Style, figure_of, literal, sheet, with_unit
from landscape.store.results import Result

__all__ = ["azimuth", "heights", "surface_figure"]

#: Height of the box, as a share of its longer side.
_TALL = 0.5
#: Elevation, and azimuths to choose from, none along an axis; degrees.
_ELEVATION, _AZIMUTHS = 40.0, (-60, -120, -30, -150, 60, 30, 120, 150)


def surface_figure(
    surface: Result,
    *,
    caption: str | None = None,
    unit: str | None = None,
    view: tuple[float, float] | None = None,
    style: Style = SCREEN,
) -> Figure:
    """`heights` on a page of their own, as large as they get; without `caption` it is composed from the attributes."""
    text = planes.caption_of(surface, planes.Scale.of(surface), flat=False) if caption is None else caption
    with sheet((6.4, 4.5), text, style=style) as (figure, (flat,)):
        place = flat.get_subplotspec()
        assert place is not None
        flat.remove()
        with matplotlib.rc_context({"grid.color": FAINT, "grid.linewidth": 0.4}):
            ax = Axes3D(figure, computed_zorder=False)
            ax.set_subplotspec(place)
            figure.add_axes(ax)
            heights(ax, surface, unit=unit, view=view, zoom=0.92 if style.fit(2) == 2 else 0.78)
        if style.fit(2) < 2:
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_label_text(textwrap.fill(axis.get_label_text(), 18))
                axis.labelpad += 10 * axis.get_label_text().count("\n")  # beyond the numbers
        ax.set_title(printable(surface.about.get("title", "")), loc="center", y=1.02)
    return figure


@literal
def heights(
    ax: Axes3D,
    surface: Result,
    *,
    unit: str | None = None,
    view: tuple[float, float] | None = None,
    zoom: float = 0.92,
) -> Axes3D:
    """The loss as a height over the plane, on a logarithmic scale where the losses differ much.

    Seen from `view` (elevation and azimuth in degrees), else from where the surface is low and hides little. What is
    not finite is a hole. A mark stands at the height of the network's own loss; where the surface hides it, it is pale,
    and a dotted line rises from it to where it can be seen. `zoom` is how large the box is drawn. Raises
    `LandscapeError` if no loss is finite.
    """
    scale = planes.Scale.of(surface)
    at = scale(surface.loss)
    ax.computed_zorder = False
    ax.set_proj_type("ortho")
    ax.view_init(*(view or (_ELEVATION, azimuth(at))))
    faces = _faces(at)
    colors = planes.MAP(scale.norm(faces))
    colors[..., :3] *= _faces(_light(surface, at))[..., None]
    edges = {"linewidth": 0.15, "edgecolor": (1, 1, 1, 0.25), "antialiased": True}
    grid = np.meshgrid(surface["x"], surface["y"])
    drawn = ax.plot_surface(*grid, at, facecolors=colors, rcount=151, ccount=151, shade=False, **edges)
    drawn.set_zorder(planes.FILL)
    drawn.set_rasterized(True)
    ticks = scale.ticks()
    ax.set_zticks(list(ticks), list(ticks.values()))
    ax.set_zlim(scale.levels[0], scale.levels[-1])
    ax.set_xlim(surface["x"][0], surface["x"][-1])
    ax.set_ylim(surface["y"][0], surface["y"][-1])
    sides = np.array([np.ptp(surface["x"]), np.ptp(surface["y"])]) if planes.same_scale(surface) else np.ones(2)
    ax.set_box_aspect((*(sides / sides.max()), _TALL), zoom=zoom)
    for axis, label in zip((ax.xaxis, ax.yaxis), planes.axis_labels(surface), strict=True):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_label_text(label.partition(" (")[0])
    ax.set_zlabel(with_unit("loss", unit or surface.about.get("loss_unit")))
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
    _stand_marks(ax, surface, scale)
    return ax


def _faces(corners: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """The mean of each face's corners at its first; the last row and column begin no face."""
    faces = corners.copy()
    faces[:-1, :-1] = (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]) / 4
    return faces


def azimuth(heights: Float[np.ndarray, "y x"]) -> float:
    """The one of eight views, none along an axis, that looks over the lowest side of the surface."""
    known = np.where(np.isfinite(heights), heights, np.nanmean(heights))
    rows, columns = (np.linspace(-1, 1, size) for size in known.shape)
    slope = np.array([(known * columns).mean(), (known * rows[:, None]).mean()])
    views = np.radians(_AZIMUTHS)
    return float(np.degrees(views[np.argmin(np.round(np.stack([np.cos(views), np.sin(views)], 1) @ slope, 12))]))


def _light(surface: Result, heights: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Brightness of the surface under a light from the upper left, 1 where it falls on it straight."""
    box = np.nan_to_num(heights, nan=np.nanmin(heights)) / (np.ptp(heights[np.isfinite(heights)]) or 1.0)
    slopes = np.gradient(box, surface["y"] / np.ptp(surface["y"]), surface["x"] / np.ptp(surface["x"]))
    normal = np.stack([-slopes[1], -slopes[0], np.full_like(box, 2.0)])
    light = np.array([-1.0, 1.0, 2.0]) / np.sqrt(6)
    cosine = np.tensordot(light, normal / np.linalg.norm(normal, axis=0), axes=1)
    return np.asarray(0.7 + 0.3 * np.clip(cosine, 0, 1))


def _stand_marks(ax: Axes3D, surface: Result, scale: planes.Scale) -> None:
    """Marks at the height of their own loss, with the trajectory's line through them, and names."""
    own = {id(mark): float(scale(np.array(mark.loss))) for mark in surface.marks}
    line = np.array([(mark.x, mark.y, own[id(mark)]) for mark in surface.trajectory]).reshape(-1, 3)
    ax.plot(*line.T, color="white", lw=1.2, path_effects=planes.OUTLINE, zorder=planes.PATH)
    standing = [mark for mark in planes.shown_marks(surface) if np.isfinite(own[id(mark)])]
    rise = _rise(ax, surface, scale(surface.loss))
    for mark in standing:
        height = own[id(mark)]
        hidden = rise(mark.x, mark.y, height)
        if hidden > 0:
            stem = [height, height + hidden]
            ax.plot([mark.x] * 2, [mark.y] * 2, stem, color=INK, lw=0.9, ls=":", zorder=planes.PATH, gid="stem")
        look = {
            "ms": 5,
            "mfc": planes.MAP(scale.norm(height)),
            "mec": "white",
            "mew": 1.0,
            "path_effects": planes.OUTLINE,
        }
        ax.plot([mark.x], [mark.y], [height], "o", zorder=planes.DOTS, alpha=0.6 if hidden > 0 else 1.0, **look)
    figure_of(ax).draw_without_rendering()  # sets the projection

    def flat(x: float, y: float, z: float) -> tuple[float, float]:
        right, up, _ = proj3d.proj_transform(x, y, z, ax.M)
        return right, up

    path = np.array([flat(*place) for place in line]).reshape(-1, 2)
    planes.name_marks(ax, surface, standing, lambda mark: flat(mark.x, mark.y, own[id(mark)]), path, inner=False)


def _rise(ax: Axes3D, surface: Result, heights: Float[np.ndarray, "y x"]) -> Callable[[float, float, float], float]:
    """How far above a place it is first seen over the surface, or 0 where it is seen itself; holes hide nothing."""
    azimuth, elevation = np.radians(ax.azim), np.radians(ax.elev)
    low, high = ax.get_zlim()
    sides = np.array([np.ptp(surface["x"]), np.ptp(surface["y"])])
    across = sides.max() if planes.same_scale(surface) else sides
    towards = np.array([np.cos(azimuth), np.sin(azimuth)]) * across
    climb = np.tan(elevation) * (high - low) / _TALL
    over = scipy.interpolate.RegularGridInterpolator(
        (surface["y"], surface["x"]), np.nan_to_num(heights, nan=low - 1e6), bounds_error=False
    )

    def rise(x: float, y: float, height: float) -> float:
        # From a little before the place on, because it lies on the surface itself.
        steps = np.linspace(0.01, 1.5, 300)
        above = over(np.stack([y + steps * towards[1], x + steps * towards[0]], axis=1)) - height - steps * climb
        hidden = float(np.nan_to_num(above).max())  # NaN beyond the surface
        return hidden if hidden > 0.01 * (high - low) else 0.0

    return rise
