"""Animations: training on its plane, a checkpoint a frame, as GIF."""

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import scipy
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from landscape.core.errors import LandscapeError, Unsupported, printable
from landscape.core.fields import as_path, check, option, require
from landscape.core.files import refuse_existing, replacing
from landscape.figures import planes
from landscape.figures.pages import COLORS, FAINT, INK, SCREEN, WIDTH, Style, powers_along, sheet, with_unit
from landscape.figures.scales import floor_below, log_axis, on_axis
from landscape.store.results import Mark, Result

__all__ = ["Pace", "animate", "require_free"]

#: Frames at most, and a second; browsers slow down what is faster.
_FRAMES, _FASTEST = 150, 50.0
#: Seconds of a training, and of one of its frames, unless asked for; and how long the last frame stays besides.
_SECONDS, _FRAME, _STAYS = 8.0, (0.05, 0.6), 2.0
#: Dots per inch, and colours at most, one of 256 being left to the format.
_DPI, _COLORS = 110, 255
#: Steps are on a log axis where the last is more than this times the first.
_LOG_STEPS = 30.0

Picture = UInt8[np.ndarray, "row column 3"]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast frames follow one another; raises `LandscapeError` for what no GIF can show."""

    fps: float | None = option(None, "Checkpoints a second, 50 at most.", at_least=0.1, at_most=_FASTEST)
    seconds: float | None = option(
        None,
        "How long the training takes; its last frame stays 2 s more. [default: 8s, but 0.6s a checkpoint at most]",
        above=0,
        at_most=600,
        syntax="seconds",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.fps is not None and self.seconds is not None:
            raise LandscapeError("`fps` and `seconds` say the same twice: leave one out")

    def require(self, steps: int) -> None:
        """Raise `LandscapeError` where so many checkpoints cannot be shown so fast."""
        self.durations(max(1, min(steps, _FRAMES)))

    def durations(self, frames: int) -> list[int]:
        """Milliseconds of each frame, which GIF has in steps of 10."""
        each = float(np.clip(_SECONDS / frames, *_FRAME)) if self.fps is None else 1 / self.fps
        if self.seconds is not None:
            each = self.seconds / frames
            if each < 1 / _FASTEST:
                raise LandscapeError(
                    f"{frames} frames in {self.seconds:g} s are more than {_FASTEST:g} a second: give `seconds` of at "
                    f"least {frames / _FASTEST:g}"
                )
        # Rounded at its end, not by itself, so that all take the time that is asked for.
        ends = np.rint(100 * each * np.arange(frames + 1))
        spans = (10 * np.diff(ends)).astype(int).tolist()
        return [*spans[:-1], spans[-1] + int(1000 * _STAYS)]


def animate(
    result: Result,
    save: str | PathLike[str],
    *,
    fps: float | None = None,
    seconds: float | None = None,
    caption: str | None = None,
    style: Style = SCREEN,
    overwrite: bool = False,
) -> Path:
    """Write a training on its plane as GIF: a checkpoint a frame, its trajectory grows over the loss, its curve beside.

    Nothing is interpolated: a frame shows a checkpoint, and of more than 150 so many, evenly spaced, are shown.

    Args:
        result: A plane with a trajectory, as `landscape.plane(run, directions="trajectory")` gives it.
        save: The file, which ends in .gif.
        fps: Checkpoints a second.
        seconds: Or how long the training takes; the last frame stays 2 s more. None: 8 s, but 0.6 s a checkpoint
            at most.
        caption: Text below; None: composed from the result.
        style: How it is drawn: `figures.SCREEN`, or `figures.paper(1)` or `paper(2)`, without a caption.
        overwrite: Replace what is at `save`.

    Returns:
        The path of the file.

    Raises:
        LandscapeError: The result has no trajectory, no loss is finite, or the file is in the way.
        Unsupported: The file is not called like a GIF.

    >>> import landscape, tempfile, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, x), "mse")
    >>> path = ((0.0, 1.0), (0.5, 0.0), (1.0, 0.1))
    >>> steps = [{"weight": torch.tensor([[w]]), "bias": torch.tensor([b])} for w, b in path]
    >>> result = landscape.plane(steps, problem=problem, points=5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     landscape.animate(result, f"{folder}/training.gif").name
    'training.gif'
    """
    require(animate, locals())
    if not isinstance(style, Style):
        raise LandscapeError(f"`style` is {type(style).__name__}: give figures.SCREEN, figures.paper(1) or paper(2)")
    pace = Pace(fps, seconds)
    path = require_free(save, overwrite=overwrite)
    steps = result.trajectory if result.kind == "plane" else []
    if len(steps) < 2:
        raise LandscapeError(
            "there is no trajectory to animate: landscape plane --trajectory 'RUN#SEED' -o plane.h5 writes a "
            "plane that has one"
        )
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _FRAMES)).round().astype(int)).tolist()
    durations = pace.durations(len(shown))
    film = _Film(result, steps, caption, len(shown), style)
    colors = _Palette(film.frame(shown[0]), film.frame(shown[-1]))
    first, *rest = (colors(film.frame(last)) for last in shown)
    with replacing(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return path


def require_free(save: str | PathLike[str], *, overwrite: bool) -> Path:
    """The file of an animation; raises `LandscapeError` where that cannot be, or is not meant."""
    path = as_path(save, "save")
    if path.suffix.lower() != ".gif":
        raise Unsupported(f"animations are written as GIF, not {path.suffix or path}: end `save` in .gif")
    refuse_existing(path, force=overwrite)
    return path


class _Palette:
    """Colours for all frames, so that what does not move does not flicker, found in some of them."""

    def __init__(self, *frames: Picture) -> None:
        found = Image.fromarray(np.concatenate(frames)).quantize(_COLORS, dither=Image.Dither.NONE)
        self._colors = np.array(found.getpalette()).reshape(-1, 3)
        self._tree = scipy.spatial.cKDTree(self._colors)
        self._nearest = np.full(1 << 24, _COLORS, dtype=np.uint8)  # of every colour, as far as it was met

    def __call__(self, frame: Picture) -> Image.Image:
        """The frame in these colours, the nearest of each; Pillow's own search takes neighbours, also for white."""
        packed = frame.astype(np.int64) @ (1 << np.array([16, 8, 0]))
        new = np.unique(packed[self._nearest[packed] == _COLORS])
        self._nearest[new] = self._tree.query(new[:, None] >> np.array([16, 8, 0]) & 255)[1]
        made = Image.fromarray(self._nearest[packed])
        made.putpalette(self._colors.ravel().tolist())
        return made


class _Film:
    """A page on which some artists move over a picture that is drawn once."""

    def __init__(self, surface: Result, steps: list[Mark], caption: str | None, frames: int, style: Style) -> None:
        self._steps = steps
        self._scale = planes.Scale.of(surface)
        self._shown = {id(mark): planes.color_of(self._scale, mark) for mark in planes.shown_marks(surface)}
        text = _caption(surface, self._scale, steps, frames) if caption is None else caption
        ratio = planes.ratio_of(surface)
        with sheet((WIDTH, min(max(3.0 * ratio, 2.4), 4.4) + 0.75), text, 2, (1.15, 1), style=style) as (figure, axes):
            self._left, self._right = axes
            planes.field(self._left, surface, self._scale)
            others = [mark for mark in planes.shown_marks(surface) if mark.trajectory is None]
            planes.draw_marks(self._left, dataclasses.replace(surface, marks=others), self._scale)
            title = printable(surface.about.get("title", ""))
            figure.suptitle(title, x=0.012, ha="left", size="medium", weight="bold")
            self._x, self._y = _curve(self._right, steps, surface.about.get("loss_unit"))
            self._moving = self._artists()
        with matplotlib.style.context([*style.files]):
            figure.set_dpi(_DPI)
            self._canvas = FigureCanvasAgg(figure)
            self._canvas.draw()  # type: ignore[no-untyped-call]
            figure.set_layout_engine("none")
            self._still = self._canvas.copy_from_bbox(figure.bbox)  # type: ignore[no-untyped-call]
        self._figure: Figure = figure

    def _artists(self) -> dict[str, Any]:
        (line,) = self._left.plot([], [], color="white", lw=1.2, path_effects=planes.OUTLINE, zorder=planes.PATH)
        dots = self._left.scatter([], [], 14, ec=INK, lw=0.7, zorder=planes.DOTS)
        here = self._left.scatter([], [], 60, ec="white", lw=1.6, zorder=planes.DOTS + 1)
        here.set_path_effects(planes.OUTLINE)
        (curve,) = self._right.plot([], [], color=COLORS[0], lw=1.6)
        (point,) = self._right.plot([], [], "o", color=COLORS[0], ms=5, clip_on=False)
        place = (1, 1), (0, 5), "axes fraction", "offset points"
        title = self._right.annotate("", *place, ha="right", va="bottom", annotation_clip=False)
        found = {"line": line, "dots": dots, "here": here, "curve": curve, "point": point, "title": title}
        for artist in found.values():
            artist.set(animated=True, in_layout=False)
        return found

    def frame(self, last: int) -> Picture:
        """The picture once the checkpoint with this number is reached."""
        past = self._steps[: last + 1]
        seen = [mark for mark in past if id(mark) in self._shown]
        self._moving["line"].set_data([mark.x for mark in past], [mark.y for mark in past])
        for name, marks in (("dots", seen), ("here", [mark for mark in seen if mark is past[-1]])):
            self._moving[name].set_offsets(np.array([(mark.x, mark.y) for mark in marks]).reshape(-1, 2))
            self._moving[name].set_facecolors([self._shown[id(mark)] for mark in marks])
        self._moving["curve"].set_data(self._x[: last + 1], self._y[: last + 1])
        self._moving["point"].set_data(self._x[last : last + 1], self._y[last : last + 1])
        self._moving["title"].set_text(f"{past[-1].name}: loss {past[-1].loss:.3g}")
        self._canvas.restore_region(self._still)  # type: ignore[no-untyped-call]
        for artist in self._moving.values():
            artist.axes.draw_artist(artist)
        pixels = self._canvas.buffer_rgba()  # type: ignore[no-untyped-call]
        return np.asarray(pixels)[..., :3].copy()


def _curve(
    ax: Axes, steps: list[Mark], unit: str | None
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """The whole curve, faint, on its axes; returns its places."""
    x, losses = _steps(steps), np.array([mark.loss for mark in steps])
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        raise LandscapeError("no checkpoint on the trajectory has a finite loss: there is no curve to draw")
    if finite.min() < 0:
        y = np.where(np.isfinite(losses), losses, np.nan)
    else:
        floor = floor_below([losses])
        y = on_axis(losses, floor)
        log_axis(ax, losses, floor, [losses])
    ax.plot(x, y, color=FAINT, lw=1.0)
    positive = x[x > 0]
    if len(positive) and x[-1] > _LOG_STEPS * positive[0]:
        ax.set_xscale("symlog", linthresh=float(positive[0]))
        powers_along(ax.xaxis)
        ax.set_xlim(min(x[0], 0.8 * positive[0]), 1.15 * x[-1])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("steps of training" if steps[0].source.step is not None else "checkpoint")
    ax.set_ylabel(with_unit("loss", unit))
    return x, y


def _steps(steps: list[Mark]) -> Float[np.ndarray, " step"]:
    """Steps of training of checkpoints, where all are known and grow; else their numbers."""
    known = [mark.source.step for mark in steps]
    found = np.array([np.nan if step is None else step for step in known], dtype=float)
    return found if (np.diff(found) > 0).all() else np.arange(len(steps), dtype=float)


def _caption(surface: Result, scale: planes.Scale, steps: list[Mark], frames: int) -> str:
    zeros = sum(mark.loss == 0 for mark in steps)
    told = [
        planes.caption_of(surface, scale, flat=True),
        f"Right: the loss of each checkpoint itself{', zeros on the dotted line' if zeros else ''}.",
        f"Of {len(steps)} checkpoints {frames} have a frame." if frames < len(steps) else "",
    ]
    return " ".join(filter(None, told))
