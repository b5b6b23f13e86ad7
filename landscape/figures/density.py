"""The spectral density of a Hessian: how many of its eigenvalues lie where."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.core.errors import LandscapeError, plural
from landscape.core.intervals import FEWEST_OF_MEANS
from landscape.figures.pages import COLORS, GREY, INK, SCREEN, Style, group_opacity, literal, page, powers_along

__all__ = ["density_figure", "spectral_density"]

#: Up to so many members have a colour and a band each.
_FEW = 4
_COLORS = tuple(COLORS[k] for k in (0, 1, 4, 6))
#: What lies below this share of one eigenvalue's height is not drawn.
_LEAST = 0.1
#: What the matrices are called.
_NAMES = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix"}


@literal
def spectral_density(ax: Axes, document: Mapping[str, Any]) -> Axes:
    """The density of the eigenvalues at each member, on a log axis, with its 95 % band over probes.

    Args:
        ax: Where to draw.
        document: What `landscape analyse curvature --density -o FILE.json` writes, or `Curvature.document()`.

    Returns:
        The axes.

    Raises:
        LandscapeError: There is no density in it.
    """
    found = _density(document)
    grid, values, lows, highs = (np.asarray(found[key], dtype=float) for key in ("grid", "values", "low", "high"))
    one = 1 / (document["parameters"] * found["width"] * np.sqrt(2 * np.pi))
    floor = _LEAST * one
    few = len(values) <= _FEW
    for number, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        color = _COLORS[number] if few else COLORS[0]
        label = document["members"][number] if few and len(values) > 1 else None
        ax.plot(
            grid,
            value,
            color=color,
            lw=1.3 if few else 0.8,
            alpha=1 if few else group_opacity(len(values)),
            label=label,
        )
        if few and (high > low).any():
            ax.fill_between(grid, np.maximum(low, floor / 10), high, color=color, alpha=0.25, lw=0, gid="band")
        leading = np.asarray(document["eigenpairs"]["values"][number], dtype=float)
        if few:
            marks = leading[np.isfinite(leading)]
            ax.plot(
                marks, np.full(len(marks), 1.25 * floor), "^", color=color, ms=5, mew=0, clip_on=False, gid="leading"
            )
    ax.axhline(one, color=GREY, lw=0.8, ls=":", zorder=1, gid="one")
    ax.annotate(
        "one eigenvalue",
        (1, one),
        (-2, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        size="small",
        color=INK,
    )
    ax.set_yscale("log")
    powers_along(ax.yaxis)
    ax.set_xlim(grid[0], grid[-1])
    ax.set_ylim(floor, 2 * values.max())
    unit = document.get("loss_unit")
    ax.set_xlabel(f"eigenvalue ({unit} per squared L2 distance)" if unit else "eigenvalue")
    ax.set_ylabel("density of eigenvalues")
    if few and len(values) > 1:
        ax.legend()
    return ax


def density_figure(document: Mapping[str, Any], *, caption: str | None = None, style: Style = SCREEN) -> Figure:
    """The density on a page of its own; without `caption` it says what is drawn and how it was found."""
    text = _caption(document) if caption is None else caption

    def draw(ax: Axes) -> None:
        spectral_density(ax, document).set_title(str(document.get("title") or ""))

    return page(draw, caption=text, style=style)


def _density(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("density")
    if found is None:
        raise LandscapeError("there is no density of eigenvalues: ask `curvature` for it with `density`")
    return found if isinstance(found, Mapping) else vars(found)


def _caption(document: Mapping[str, Any]) -> str:
    found = _density(document)
    members: Sequence[str] = document["members"]
    who = f"at {members[0]}" if len(members) == 1 else f"at {len(members)} members"
    on = f", loss on {document['samples']:,} samples" if document["sampled"] else ""
    name = _NAMES[document["matrix"]]
    sentences = [
        f"Density of the {document['parameters']:,} eigenvalues of the {name} {who}{on}; each is broadened to a "
        f"Gaussian of standard deviation {found['width']:.3g}."
    ]
    if found["exact"]:
        sentences.append("All are known, from the whole matrix.")
    else:
        steps = sorted(set(np.asarray(found["steps"]).tolist()))
        count = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        probes = len(np.asarray(found["nodes"])[0])
        band = ""
        if len(members) <= _FEW:
            known = probes >= FEWEST_OF_MEANS
            band = "; band: 95 %, from the spread over probes alone" if known else ", too few for a band"
        sentences.append(f"By stochastic Lanczos quadrature, {plural(probes, 'probe')} of {count} steps{band}.")
    chance = "" if found["exact"] else ", or chance of the probes"
    sentences.append(f"Dotted: the height of one eigenvalue alone; what lies lower is a tail{chance}.")
    if len(members) <= _FEW:
        sentences.append("Triangles: the leading eigenvalues that were searched for.")
    return " ".join(sentences)
