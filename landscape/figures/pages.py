"""Pages: the one style, sheets of axes with captions, and files. Nothing here touches pyplot's global state."""

import contextlib
import dataclasses
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterSciNotation

from landscape.core.errors import Unsupported, printable
from landscape.core.files import replacing

__all__ = [
    "COLORS",
    "FAINT",
    "GREY",
    "INK",
    "ON_PAPER",
    "SCREEN",
    "WIDTH",
    "Format",
    "Style",
    "branch_width",
    "figure_of",
    "group_color",
    "group_opacity",
    "literal",
    "page",
    "paper",
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
#: White around letters that lie on lines.
ON_PAPER: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="white")]
WIDTH = 7.2
#: What figures are written as.
Format = Literal["png", "pdf", "svg"]
#: What savefig is told of each, so that neither a date nor a version is in it.
_UNDATED: Mapping[str, Mapping[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
#: Curves of more points than this in one figure are pictures in its SVG: as paths they would take more than 300 kB.
_VECTOR_POINTS = 10_500

#: A decorator of what draws into axes of the user's: texts of files are drawn as they are, a dollar sign as a dollar
#: sign. So are they in the project's style, and so no text of ours is mathematics.
literal = matplotlib.rc_context({"text.parse_math": False})

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class Style:
    """For what a figure is drawn.

    Args:
        width: Inches that it takes at most.
        files: Style files of matplotlib, the last one first.
        tall: Heights, as a share of the usual ones.
        dpi: Dots per inch of what is no vector.
        captions: Whether captions are drawn.
    """

    width: float = WIDTH
    files: tuple[Path, ...] = (STYLE,)
    tall: float = 1.0
    dpi: int = 200
    captions: bool = True

    def fit(self, columns: int) -> int:
        """How many of so many columns of axes have room side by side."""
        return max(1, round(columns * self.width / WIDTH))

    def require_wide(self, what: str) -> None:
        """Raise `Unsupported` for what does not fit one column of a paper."""
        if self.fit(2) < 2:
            raise Unsupported(f"{what} take the width of two columns: ask for `columns=2`")


#: For a screen, or the whole width of a page: with a caption.
SCREEN = Style()


def paper(columns: int = 2) -> Style:
    """For a paper of two columns: over one or two of them, in sizes that are printed as they are (nothing below 7
    points), without the caption, which is the paper's own.
    """
    files = STYLE, STYLE.with_name("paper.mplstyle")
    return Style({1: 3.5, 2: WIDTH}[columns], files, tall={1: 0.8, 2: 0.9}[columns], dpi=300, captions=False)


def page(
    draw: Callable[[Axes], object],
    *,
    size: tuple[float, float] = (WIDTH, 3.6),
    caption: str = "",
    style: Style = SCREEN,
) -> Figure:
    """A figure of one axes, drawn by `draw`, in the project's style; `size` in inches, to which the caption adds."""
    with sheet(size, caption, style=style) as (figure, (ax,)):
        draw(ax)
    return figure


def save(figure: Figure, path: Path, *, formats: Sequence[Format] = (), style: Style = SCREEN) -> list[Path]:
    """Write `targets` of a figure that was drawn in this style; the same bytes for the same figure. Fonts are embedded
    in PDF, in SVG text stays text.
    """
    written = targets(path, formats)
    drawn = [each for ax in figure.axes for each in ax.collections]
    count = sum(len(path) for each in drawn if isinstance(each, LineCollection) for path in each.get_paths())
    for each in drawn:
        each.set_rasterized(count > _VECTOR_POINTS or bool(each.get_rasterized()))
    made: list[bytes] = []
    with matplotlib.style.context([*style.files]):
        # Laid out once: a second time would move everything by a hair.
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))  # XML has no control characters
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for target in written:
            kind, file = target.suffix[1:], io.BytesIO()
            dpi = 110 if kind == "svg" and style.captions else style.dpi
            figure.savefig(file, format=kind, dpi=dpi, metadata=_UNDATED[kind])
            made.append(_shorter(file.getvalue()) if kind == "svg" else file.getvalue())
    for target, content in zip(written, made, strict=True):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return written


def _shorter(svg: bytes) -> bytes:
    """Coordinates to a hundredth of a point: half the size."""
    return re.sub(rb' (d|x|y)="[^"]*"', lambda place: re.sub(rb"(\.\d\d)\d+", rb"\1", place[0]), svg)


def targets(path: Path, formats: Sequence[Format] = ()) -> list[Path]:
    """The files of a figure that is saved at `path`: in the `formats`, else PDF where it ends so, else PNG and SVG.

    Raises `Unsupported` for a name of another kind.
    """
    ending = path.suffix.lower()
    ours = ending[1:] in _UNDATED
    if not path.name or (not ours and path.suffix[1:2].isalpha()):  # what follows a point may be decimals
        exported = f"; landscape export writes {ending}" if ending in (".vtp", ".vts", ".csv", ".npz") else ""
        raise Unsupported(
            f"figures are written as PNG, PDF and SVG, not {path.suffix or path}: end the name in .png, .pdf or "
            f".svg{exported}"
        )
    if ours and formats and ending[1:] not in formats:
        raise Unsupported(f"{path} ends in {ending}, and `format` asks for {' and '.join(formats)}: leave one out")
    base = path.with_suffix("") if ours else path
    kinds = dict.fromkeys(formats or (("pdf",) if ending == ".pdf" else ("png", "svg")))
    return [base.with_name(f"{base.name}.{kind}") for kind in kinds]


@contextlib.contextmanager
def sheet(
    size: tuple[float, float],
    caption: str,
    panels: int = 1,
    ratios: Sequence[float] = (1,),
    *,
    style: Style = SCREEN,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Within the block the style holds, for an empty figure with so many axes, row by row, and its caption, wrapped,
    below them; `ratios` are of columns, of which there are as many as fit.
    """
    # Sizes stay on one line: `textwrap` breaks at no no-break space.
    caption = re.sub(r"(?<=\d) x (?=\d)", "\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}", printable(caption))
    text = textwrap.fill(caption, int(15.1 * size[0])) if style.captions else ""
    rows, across = -(-panels // len(ratios)), style.fit(len(ratios))
    ratios = ratios if across == len(ratios) else (1,) * across
    rows, before = -(-panels // across), rows
    width, height = min(size[0], style.width), style.tall * size[1] * rows / before
    with matplotlib.style.context([*style.files]):
        figure = Figure(figsize=(width, height + (0.15 * (text.count("\n") + 1) if text else 0)))
        grid = figure.add_gridspec(rows, across, width_ratios=ratios)
        if text:
            # A label, not a text, because the layout makes room for labels.
            figure.supxlabel(text, x=0.012, ha="left", size=8.5, linespacing=1.25)
        axes = [figure.add_subplot(grid[divmod(panel, across)]) for panel in range(panels)]
        yield figure, axes
        if figure.legends or not style.captions:
            _fit(figure)


def _fit(figure: Figure) -> None:
    """Titles and labels in as many lines as it takes for none to leave the page, or to run into a legend above."""
    page = figure.bbox
    figure.draw_without_rendering()
    titles = {ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")} | {figure.get_suptitle()}
    for text in figure.findobj(lambda each: isinstance(each, Text) and each.get_text() in titles - {""}):
        assert isinstance(text, Text)
        box = text.get_window_extent()
        _break(text, page.x1 - max(box.x0, 0), box.width if box.x1 > page.x1 or box.x0 < 0 else 0)
    for ax in figure.axes:
        wide, high = (label.get_window_extent() for label in (ax.xaxis.label, ax.yaxis.label))
        frame = ax.get_window_extent()
        above = any(high.overlaps(legend.get_window_extent()) for legend in figure.legends)
        _break(ax.xaxis.label, frame.width, wide.width if wide.x1 > page.x1 or wide.x0 < 0 else 0)
        _break(ax.yaxis.label, frame.height, high.height if above or high.y1 > page.y1 or high.y0 < 0 else 0)


def _break(text: Text, room: float, length: float) -> None:
    """Text of a length that is too long for the room, in lines that are not."""
    if length > room:
        lines = text.get_text().split("\n")
        most = int(max(map(len, lines)) * room / length)
        text.set_text("\n".join(textwrap.fill(line, max(most, 8)) for line in lines))


def group_color(index: int | np.integer) -> str:
    """Colour of a group; faint beyond the ones that there are."""
    return COLORS[index] if index < len(COLORS) else FAINT


def group_opacity(count: int | np.integer, most: float = 1.0) -> float:
    """Few are solid, many shine through one another."""
    return float(np.clip(3.5 / np.sqrt(max(count, 1)), 0.08, most))


def branch_width(members: float | np.number[Any] | np.ndarray, of: int) -> np.ndarray:
    """Points that a branch of a tree is wide: a hairline with one member, 5.5 with all of so many, by area between."""
    return np.asarray(0.5 * min(1.0, np.sqrt(200 / of)) + 5 * (np.sqrt(members) - 1) / max(np.sqrt(of) - 1, 1e-9))


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
