"""Pages: the one style, sheets of axes with captions, and files. Nothing here touches pyplot's global state."""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterSciNotation

from landscape.core.errors import Unsupported, printable
from landscape.core.files import replacing

__all__ = [
    "COLORS",
    "FAINT",
    "GREY",
    "INK",
    "STYLE",
    "WIDTH",
    "figure_of",
    "group_color",
    "group_opacity",
    "literal",
    "page",
    "points",
    "power",
    "powers_along",
    "save",
    "sheet",
    "targets",
    "with_unit",
]

#: Colours of groups (M. Okabe, K. Ito, 2008), solved first; neighbours differ in grey too.
COLORS = ("#0072B2", "#E69F00", "#888888", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")
STYLE = Path(__file__).with_name("landscape.mplstyle")
INK, GREY, FAINT = "#222222", "#888888", "#BBBBBB"
WIDTH = 7.2
#: Curves of more points than this in one figure are pictures in its SVG: as paths they would take more than 300 kB.
_VECTOR_POINTS = 10_500

#: A decorator of what draws into axes of the user's: texts of files are drawn as they are, a dollar sign as a dollar
#: sign. So are they in the project's style, and so no text of ours is mathematics.
literal = matplotlib.rc_context({"text.parse_math": False})

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def page(draw: Callable[[Axes], object], *, size: tuple[float, float] = (WIDTH, 3.6), caption: str = "") -> Figure:
    """A figure of one axes, drawn by `draw`, in the project's style; `size` in inches, to which the caption adds."""
    with matplotlib.style.context(STYLE):
        figure, (ax,) = sheet(size, caption)
        draw(ax)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG (200 dpi) and SVG side by side, whichever `path` names; the same bytes for the same figure."""
    written = targets(path)
    drawn = [each for ax in figure.axes for each in ax.collections]
    count = sum(len(path) for each in drawn if isinstance(each, LineCollection) for path in each.get_paths())
    for each in drawn:
        each.set_rasterized(count > _VECTOR_POINTS or bool(each.get_rasterized()))
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.style.context(STYLE):
        # Laid out once: a second time would move everything by a hair.
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))  # XML has no control characters
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=110, metadata={"Date": None, "Creator": None})
    # Coordinates to a hundredth of a point: half the size.
    shorter = re.sub(r' (d|x|y)="[^"]*"', lambda place: re.sub(r"(\.\d\d)\d+", r"\1", place[0]), svg.getvalue())
    for target, content in zip(written, (png.getvalue(), shorter.encode()), strict=True):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return written


def targets(path: Path) -> list[Path]:
    """The files of a figure that is saved at `path`, PNG and SVG; raises `Unsupported` for a name of another kind."""
    ours = path.suffix.lower() in (".png", ".svg")
    if not path.name or (not ours and path.suffix[1:2].isalpha()):  # what follows a point may be decimals
        raise Unsupported(
            f"figures are written as PNG and SVG, not {path.suffix or path}: end the name in .png or .svg"
        )
    base = path.with_suffix("") if ours else path
    return [base.with_name(base.name + suffix) for suffix in (".png", ".svg")]


def sheet(
    size: tuple[float, float], caption: str, panels: int = 1, ratios: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes]]:
    """An empty figure with so many axes, row by row, and its caption, wrapped, below them; `ratios` are of columns."""
    # Sizes stay on one line: `textwrap` breaks at no no-break space.
    text = textwrap.fill(
        re.sub(r"(?<=\d) x (?=\d)", "\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}", printable(caption)), int(15.6 * size[0])
    )
    figure = Figure(figsize=(size[0], size[1] + (0.15 * (text.count("\n") + 1) if text else 0)))
    grid = figure.add_gridspec(-(-panels // len(ratios)), len(ratios), width_ratios=ratios)
    if text:
        # A label, not a text, because the layout makes room for labels.
        figure.supxlabel(text, x=0.012, ha="left", size=8.5, linespacing=1.25)
    return figure, [figure.add_subplot(grid[divmod(panel, len(ratios))]) for panel in range(panels)]


def group_color(index: int | np.integer) -> str:
    """Colour of a group; faint beyond the ones that there are."""
    return COLORS[index] if index < len(COLORS) else FAINT


def group_opacity(count: int | np.integer, most: float = 1.0) -> float:
    """Few are solid, many shine through one another."""
    return float(np.clip(3.5 / np.sqrt(max(count, 1)), 0.08, most))


def with_unit(text: str, unit: str | None) -> str:
    """A label with its unit, if there is one."""
    return f"{text} ({printable(unit)})" if unit else text


def power(exponent: int, factor: str = "") -> str:
    """A power of ten, or a multiple of it.

    >>> power(-3), power(2, "5")
    ('10⁻³', '5 × 10²')
    """
    return (f"{factor} × " if factor else "") + "10" + str(exponent).translate(_RAISED)


class _Powers(LogFormatterSciNotation):
    """Matplotlib's labels of a log axis, without its mathematics."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a place."""
        text = re.sub(r"\^\{([^}]*)\}", lambda found: found[1].translate(_RAISED), super().__call__(x, pos))
        return re.sub(r"\$|\\mathdefault|[{}]", "", text.replace(r"\times", " × "))


def powers_along(axis: Axis) -> None:
    """Let the labels of a log axis be powers of ten."""
    axis.set_major_formatter(_Powers())
    axis.set_minor_formatter(_Powers(labelOnlyBase=False))


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are in, however deep."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes are always drawn in one
    return figure


def points(ax: Axes, pixels: float) -> float:
    """Pixels of an axes' figure in points."""
    return float(72 * pixels / figure_of(ax).dpi)
