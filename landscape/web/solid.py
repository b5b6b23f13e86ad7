"""A surface that turns: the loss over a plane as a height, drawn by plotly, in one page (extra `interactive`)."""

import html
import itertools
import json
import re
import textwrap
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from landscape import __version__
from landscape.core.errors import Unsupported, printable
from landscape.core.fields import require
from landscape.core.files import replacing
from landscape.figures.pages import INK, with_unit
from landscape.figures.planes import MAP, Scale, axis_labels, caption_of, same_scale, shown_marks
from landscape.figures.solids import azimuth
from landscape.store.results import Result
from landscape.web.markup import Markup, tag
from landscape.web.page import document
from landscape.web.report import require_free

__all__ = ["interactive"]

#: Height of the box, as a share of its longer side; points a side at most.
_TALL, _POINTS = 0.6, 250
#: Colours of plotly's scale; what is drawn on the surface, how far above, as a share of its height, and in how many
#: pieces between two checkpoints.
_SHADES, _BRIGHT, _LIFT, _BETWEEN = 32, "#D55E00", 0.004, 24
#: The same of networks, which would be half sunk in it.
_ABOVE = 0.01
_STYLE = """
body { margin: 0; font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; }
h1, p { margin: 0.6rem 1rem; }
h1 { font-size: 1.1rem; }
#surface { height: 78vh; min-height: 24rem; }
"""
_SCRIPT = """
const { traces, layout } = JSON.parse(document.getElementById("data").textContent);
Plotly.newPlot("surface", traces, layout, { responsive: true, displaylogo: false, showTips: false });
"""


def interactive(
    result: Result, save: str | PathLike[str], *, caption: str | None = None, overwrite: bool = False
) -> Path:
    """Write the loss over a plane as a surface that turns, in one page that needs no network.

    Networks stand at the height of their own loss, and a trajectory is a line through its checkpoints. Pointing tells
    coordinates and loss. The page holds plotly.js, 4.8 MB of its size.

    Args:
        result: What `landscape.plane` gave.
        save: The page, a file that ends in .html.
        caption: Text below; None: composed from the result.
        overwrite: Replace what is at `save`.

    Returns:
        The path of the page.

    Raises:
        Unsupported: plotly is not installed (extra `interactive`), or the result is no plane.
        LandscapeError: No loss is finite, or the file is in the way.

    ::

        landscape.interactive(landscape.plane(a, b, c, problem=problem), "plane.html")
    """
    require(interactive, locals())
    path = require_free(save, overwrite=overwrite)
    if result.kind != "plane":
        raise Unsupported(f"a surface is drawn of a plane, this is a {result.kind}: give what `landscape.plane` gave")
    scale = Scale.of(result)
    library = _plotly()
    title = printable(result.about.get("title", "")) or "Loss on a plane"
    said = _caption(result, scale) if caption is None else caption
    data = {"traces": _traces(result, scale), "layout": _layout(result, scale)}
    content = json.dumps(data, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    body = [
        tag("h1", title),
        tag("div", id="surface", role="img", aria_label=f"{title}: the loss as a height"),
        tag("p", said),
        tag("p", f"Made by landscape {__version__} from: {_origin(result)}. Loads nothing and sends nothing."),
        tag("script", Markup(content), type="application/json", id="data"),
    ]
    page = document(title, body, style=_STYLE, scripts=[library, _SCRIPT], free=True)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _plotly() -> str:
    """The source of plotly.js."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise Unsupported(
            "plotly, which draws a surface that turns, is not installed: pip install 'landscape-walks[interactive]'"
        ) from error
    return str(get_plotlyjs())


def _caption(surface: Result, scale: Scale) -> str:
    said = caption_of(surface, scale, flat=False)
    said = re.sub(r"(Dots: the networks), at ([^;]*);[^.]*", r"\1, on the surface; pointing tells \2 too", said)
    rows, columns = _thinned(surface)
    if len(rows) * len(columns) < surface.loss.size:
        said = said.replace(" scale.", f" scale. Drawn: {len(columns)} x {len(rows)} of them.", 1)
    return said


def _origin(result: Result) -> str:
    """The command that made it."""
    command = result.about.get("command")
    return " ".join(map(str, command)) if isinstance(command, list) and command else "Python"


def _traces(surface: Result, scale: Scale) -> list[dict[str, Any]]:
    """The surface, the trajectory and the networks, as plotly has them."""
    rows, columns = _thinned(surface)
    loss = surface.loss[np.ix_(rows, columns)]
    xs, ys = ([f"{each:.4g}" for each in axis] for axis in (surface["x"][columns], surface["y"][rows]))
    shades = np.linspace(0, 1, _SHADES)
    colors = [
        [share, f"rgb({','.join(str(round(255 * part)) for part in MAP(share)[:3])})"] for share in shades.tolist()
    ]
    ticks = scale.ticks()
    field = {
        "type": "surface",
        "name": "plane",
        "x": _numbers(surface["x"][columns]),
        "y": _numbers(surface["y"][rows]),
        "z": [_numbers(row) for row in scale(loss)],
        "text": [
            [f"x {x}, y {y}<br>loss {each:.4g}" for x, each in zip(xs, row, strict=True)]
            for y, row in zip(ys, loss.tolist(), strict=True)
        ],
        "cmin": float(scale.levels[0]),
        "cmax": float(scale.levels[-1]),
        "colorscale": colors,
        "colorbar": {
            "title": {"text": _label(with_unit("loss", surface.about.get("loss_unit"))), "side": "right"},
            "tickvals": list(ticks),
            "ticktext": list(ticks.values()),
            "thickness": 14,
            "len": 0.7,
        },
        "hoverinfo": "text",  # a template would take the text of another point: plotly exchanges rows and columns there
    }
    return [field, *_marked(surface, scale)]


def _marked(surface: Result, scale: Scale) -> list[dict[str, Any]]:
    """Networks on the surface, and the trajectory along it."""
    ground = scipy.interpolate.RegularGridInterpolator(
        (surface["y"], surface["x"]), scale(surface.loss), bounds_error=False
    )
    high = float(np.ptp(scale.levels))

    def on(x: np.ndarray, y: np.ndarray, above: float = _LIFT) -> dict[str, list[float | None]]:
        return {"x": _numbers(x), "y": _numbers(y), "z": _numbers(ground(np.stack([y, x], axis=1)) + above * high)}

    at = np.array([(mark.x, mark.y) for mark in surface.trajectory]).reshape(-1, 2)
    drawn: list[dict[str, Any]] = []
    if len(at) > 1:
        share = np.linspace(0, 1, _BETWEEN, endpoint=False)[:, None]
        way = np.concatenate([*(a + share * (b - a) for a, b in itertools.pairwise(at)), at[-1:]])
        look = {"mode": "lines", "line": {"color": _BRIGHT, "width": 5}, "hoverinfo": "skip"}
        drawn.append({"type": "scatter3d", "name": "trajectory", **on(*way.T), **look})
    marks = shown_marks(surface)
    if marks:
        steps = [mark.trajectory is not None for mark in marks]
        across, along = np.array([(mark.x, mark.y) for mark in marks]).T
        told = [f"own loss {mark.loss:.4g}<br>loss here, on the plane, {mark.plane_loss:.4g}" for mark in marks]
        drawn.append(
            {
                "type": "scatter3d",
                "name": "networks",
                "mode": "markers+text",
                **on(across, along, _ABOVE),
                "text": ["" if step else _label(mark.name) for mark, step in zip(marks, steps, strict=True)],
                "textposition": "top center",
                "hovertext": [_label(mark.name) for mark in marks],
                "customdata": told,
                "marker": {
                    "color": [_BRIGHT if step else "#FFFFFF" for step in steps],
                    "size": 4,
                    "line": {"color": INK, "width": 2},
                },
                "hovertemplate": "%{hovertext}<br>x %{x:.4g}, y %{y:.4g}<br>%{customdata}<extra></extra>",
            }
        )
    return drawn


def _layout(surface: Result, scale: Scale) -> dict[str, Any]:
    sides = np.array([np.ptp(surface["x"]), np.ptp(surface["y"])]) if same_scale(surface) else np.ones(2)
    across, along = (sides / sides.max()).tolist()
    xlabel, ylabel = map(_beside, axis_labels(surface))
    ticks, view = scale.ticks(), float(np.radians(azimuth(scale(surface.loss))))
    height = {"tickvals": list(ticks), "ticktext": list(ticks.values())}
    zlabel = _beside(with_unit("loss", surface.about.get("loss_unit")))
    return {
        "scene": {
            "xaxis": {"title": {"text": xlabel}},
            "yaxis": {"title": {"text": ylabel}},
            "zaxis": {"title": {"text": zlabel}, **height},
            "aspectmode": "manual",
            "aspectratio": {"x": across, "y": along, "z": _TALL},
            "camera": {
                "eye": {"x": 1.8 * np.cos(view), "y": 1.8 * np.sin(view), "z": 1.1},
                "center": {"x": 0, "y": 0, "z": -0.15},
            },
        },
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "showlegend": False,
    }


def _thinned(surface: Result) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are drawn: every so many, the last too."""
    counts = len(surface["y"]), len(surface["x"])
    rows, columns = (np.unique(np.append(np.arange(0, n, -(-n // _POINTS)), n - 1)) for n in counts)
    return rows, columns


def _numbers(values: np.ndarray) -> list[float | None]:
    """As JSON; none for what is not finite."""
    return [float(f"{each:.7g}") if np.isfinite(each) else None for each in values.tolist()]


def _label(words: str) -> str:
    """A text for plotly, which reads some markup."""
    return html.escape(printable(words), quote=False)


def _beside(words: str) -> str:
    """The name of an axis for plotly, in lines: in space it reads tags, but no `&lt;`, and what is no tag it draws."""
    return "<br>".join(textwrap.wrap(printable(words).replace("<", "<\u200b"), 46, max_lines=2))
