"""What lies between each two members, those with the same signature side by side."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from landscape.core.errors import LandscapeError
from landscape.figures.pages import COLORS, SCREEN, WIDTH, Style, literal, power, powers_along, sheet

__all__ = ["BarrierTable", "barrier_table", "mechanism_figure"]

#: Least and greatest height that have a colour of their own.
_LEAST, _MOST = 1e-4, 10.0


class BarrierTable(NamedTuple):
    """Upper bounds of the heights between each two members, and the signature of each, a number, with its name."""

    heights: Float[np.ndarray, "member member"]
    signature: Int[np.ndarray, " member"]
    name: str


@literal
def barrier_table(ax: Axes, found: BarrierTable) -> Axes:
    """The heights between each two members, in the order of their signature, its groups framed."""
    order = np.argsort(found.signature, kind="stable")
    high = np.clip(found.heights[np.ix_(order, order)], _LEAST, _MOST)
    np.fill_diagonal(high, _LEAST)
    ax.imshow(high, cmap="Greys", norm=LogNorm(_LEAST, _MOST), interpolation="nearest")
    edges = np.append(0, np.cumsum(np.bincount(found.signature))) - 0.5
    for low, top in itertools.pairwise(edges):
        ax.plot([low, top, top, low, low], [low, low, top, top, low], color=COLORS[1], lw=1.0)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(f"{len(order)} members, by {found.name}")
    return ax


def mechanism_figure(panels: Sequence[tuple[str, BarrierTable]], *, caption: str = "", style: Style = SCREEN) -> Figure:
    """A table of barriers for each panel, of its title and what is between its members, with one scale.

    Raises `LandscapeError` without panels.
    """
    if not panels:
        raise LandscapeError("there is nothing to draw: give at least one population")
    between = [found.heights[~np.eye(len(found.heights), dtype=bool)] for _, found in panels]
    if caption and any((heights <= 0).any() for heights in between):
        caption += f" Pairs without a height have the colour of {power(round(np.log10(_LEAST)))}."
    columns = min(2, len(panels), style.fit(2))
    size = WIDTH, (0.8 * style.width / columns + 0.3) * -(-len(panels) // columns)
    with sheet(size, caption, len(panels), (1,) * columns, style=style) as (figure, axes):
        for ax, (title, found) in zip(axes, panels, strict=True):
            barrier_table(ax, found).set_title(title)
        shown = axes[-1].images[0]
        bar = figure.colorbar(
            shown, ax=axes, label="height above the higher end\n(nats per cell)", extend="both", shrink=0.85
        )
        powers_along(bar.ax.yaxis)
    return figure
