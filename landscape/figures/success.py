"""Tables of success as curves: shares of members, and rates of samples, over what a sweep varied."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from landscape.core.errors import LandscapeError
from landscape.figures.series import Series

if TYPE_CHECKING:
    from landscape.analysis.success import Row
else:
    # Its module imports torch, which a figure does not need.
    Row = Any

__all__ = ["BANDS", "NAMES", "is_number", "rate_labels", "success_series", "text_of"]

Rate = Literal["solved", "exact", "samples", "cells"]

#: Names of what sweeps vary, for axes and legends.
NAMES = {
    "m_factor": "width m",
    "steps": "steps n",
    "d_factor": "depth factor d",
    "lr": "learning rate",
    "density": "density of the training boards",
    "presolve_blocks": "blocks that start presolved",
}
#: What is drawn around them.
BANDS = {
    **dict.fromkeys(("solved", "exact"), "Intervals: exact, of shares."),
    **dict.fromkeys(("samples", "cells"), "Faint: seeds; intervals: of their mean."),
}


def rate_labels(
    nouns: Sequence[str] = ("samples", "samples", "outputs"), everything: int | None = None
) -> dict[Rate, str]:
    """Labels of the rates, where samples have a problem's `nouns`, and there are `everything` of them in all."""
    return {
        "solved": f"networks that get all test {nouns[0]} right (%)",
        "exact": f"networks that get all {f'{everything} ' if everything else ''}{nouns[1]} right (%)",
        "samples": f"test {nouns[0]} entirely right (%)",
        "cells": f"{nouns[2]} of test {nouns[0]} right (%)",
    }


def success_series(
    rows: Sequence[Row],
    *,
    x: str,
    by: str | None = None,
    rate: Rate = "solved",
    baseline: str | None = "",
    original: Callable[[Any], Any] | None = None,
    label: Callable[[Any], str] | None = None,
    places: Sequence[Any] | None = None,
) -> list[Series]:
    """One curve for each value of `by`, over `x`: shares with Wilson's interval, or rates with their seeds.

    Rates have the `baseline` of that name, by default the first that their problem names. `original` gives the
    published marks for a value of `by`, `label` its name in the legend. Values of `x` that are no numbers stand at
    their index in `places`, by default in the order of the rows. Raises `LandscapeError` if the rows lack a key or have
    a place twice.
    """
    if not rows:
        raise LandscapeError("the table has no rows: finish at least one cell")
    if lacking := [key for key in (x, by) if key and any(key not in row.values for row in rows)]:
        raise LandscapeError(f"the table does not vary '{lacking[0]}': it has {', '.join(rows[0].values)}")
    names = [text_of(place) for place in (places or [row.values[x] for row in rows])]
    index = {name: float(number) for number, name in enumerate(dict.fromkeys(names))}
    curves = []
    for value in dict.fromkeys(_plain(row.values[by]) if by else None for row in rows):
        own = [row for row in rows if by is None or _plain(row.values[by]) == value]
        own_places = [row.values[x] for row in own]
        if len({str(place) for place in own_places}) < len(own):
            raise LandscapeError(f"the table has several cells at the same {x}: separate them by another key")
        name = f"{NAMES.get(by, by)} = {text_of(value)}" if by else rate_labels()[rate].removesuffix(" (%)")
        name = label(value) if label else name
        more: dict[str, Any] = {"original": original(value)} if original else {}
        numbers = [float(place) if is_number(place) else index[text_of(place)] for place in own_places]
        if rate in ("solved", "exact"):
            known = [row.success.share if rate == "solved" else row.success.exact_share for row in own]
            shares = [share for share in known if share is not None]
            if len(shares) < len(known):
                raise LandscapeError("success on all there is is known only where it can be listed: draw 'solved'")
            curves.append(Series.of_proportions(name, numbers, shares, **more))
            continue
        which = 0 if rate == "samples" else 1
        seeds = np.stack([row.success.sample_rate if which == 0 else row.success.cell_rate for row in own], axis=1)
        if baseline is not None:
            levels: list[Mapping[str, tuple[float, float]]] = [row.success.baselines for row in own]
            chosen = [each[baseline or next(iter(each))] for each in levels if each and baseline in ("", *each)]
            heights = {level[which] for level in chosen}
            more["baseline"] = heights.pop() if len(heights) == 1 else None
        curves.append(Series.of_seeds(name, numbers, seeds, within=(0.0, 1.0), **more))
    return curves


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis; true and false have none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_of(value: Any) -> str:
    """A value of a sweep as a label: blocks as `0+1`, or `none`."""
    return "+".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
