"""Figures of curves, barriers, outcomes, clusters and rules. A function draws into `ax` and returns it.

`page` and `walk_figure` make figures, `save` writes them.
"""

from landscape.figures.pages import COLORS, page, save
from landscape.figures.runs import dendrogram, outcomes, rule_examples
from landscape.figures.walks import barrier_distribution, walk_curves, walk_figure

__all__ = [
    "COLORS",
    "barrier_distribution",
    "dendrogram",
    "outcomes",
    "page",
    "rule_examples",
    "save",
    "walk_curves",
    "walk_figure",
]
