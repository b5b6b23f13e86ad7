"""Outcome against steps: who is solved at, and by, how many steps of training."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from landscape.figures.pages import COLORS, GREY, literal, powers_along

if TYPE_CHECKING:
    from landscape.analysis.incidence import Incidence
else:
    # Its module imports torch, which a figure does not need.
    Incidence = Any

__all__ = ["incidence"]


@literal
def incidence(ax: Axes, found: Incidence) -> Axes:
    """Cumulative incidence of solved and dead as stairs with their bands, and the share solved at each saved step."""
    steps = np.asarray(found.steps, float)
    beyond = np.append(steps, 1.3 * steps[-1])  # the last step has a stair, too
    for cause, (label, color) in enumerate((("solved by", COLORS[0]), ("dead by", GREY))):
        share, low, high = (100 * np.append(each[cause], each[cause, -1]) for each in (found.by, found.low, found.high))
        if cause and not share.any():
            label = "dead by: none"
        ax.fill_between(beyond, low, high, step="post", color=color, alpha=0.2, linewidth=0)
        ax.plot(beyond, share, drawstyle="steps-post", color=color, label=label)
    at = 100 * np.array([each.value for each in found.at])
    ends = 100 * np.array([each.interval for each in found.at])
    errors = np.clip([at - ends[:, 0], ends[:, 1] - at], 0, None)
    ax.errorbar(steps, at, errors, fmt="o", markersize=3, color=COLORS[1], elinewidth=0.8, label="solved at")
    ax.set_xscale("symlog", linthresh=1)
    powers_along(ax.xaxis)
    ax.set_xlim(0, 1.3 * steps[-1])
    ax.set_ylim(0, min(100.0, 1.15 * max(float(ends.max()), float(100 * found.high[0].max()), 5.0)))
    ax.set_xlabel("steps of training (saved ones; linear below 1)")
    ax.set_ylabel("members (%)")
    ax.legend(loc="upper left")
    return ax
