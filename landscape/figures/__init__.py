"""Figures of curves, surfaces, densities of eigenvalues, barriers, outcomes, clusters, incidence, rules and series.

A function draws into `ax` and returns it. `page` and what ends in `_figure` make pages of their own, of one or several
of these axes, in a `Style`: `SCREEN`, with a caption, or `paper(1)` and `paper(2)`, for one or two columns. Of cards
and of parts of networks, whose panels share their scales, nothing is drawn alone. `save` writes pages, `animate` films.
"""

from landscape.figures.animation import Pace, animate
from landscape.figures.density import density_figure, spectral_density
from landscape.figures.incidence import incidence
from landscape.figures.mechanism import BarrierTable, barrier_table, mechanism_figure
from landscape.figures.pages import COLORS, SCREEN, Format, Style, page, paper, save, targets
from landscape.figures.passes import disconnectivity, passes_figure
from landscape.figures.planes import contours, plane_figure
from landscape.figures.runs import (
    clusters_figure,
    dendrogram,
    group_cards,
    groups_against_threshold,
    outcomes,
    rule_examples,
    shares,
)
from landscape.figures.series import Series, series, series_figure
from landscape.figures.solids import heights, surface_figure
from landscape.figures.walks import Draw, barrier_distribution, part_figure, walk_curves, walk_figure

__all__ = [
    "BarrierTable",
    "COLORS",
    "SCREEN",
    "Draw",
    "Format",
    "Pace",
    "Style",
    "Series",
    "animate",
    "barrier_distribution",
    "barrier_table",
    "clusters_figure",
    "contours",
    "dendrogram",
    "disconnectivity",
    "density_figure",
    "group_cards",
    "groups_against_threshold",
    "heights",
    "incidence",
    "mechanism_figure",
    "outcomes",
    "page",
    "paper",
    "passes_figure",
    "part_figure",
    "plane_figure",
    "rule_examples",
    "save",
    "series",
    "series_figure",
    "shares",
    "spectral_density",
    "surface_figure",
    "targets",
    "walk_curves",
    "walk_figure",
]
