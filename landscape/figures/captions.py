"""Titles and captions of figures, composed of what results say of themselves."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landscape.analysis.barriers import DEFINITIONS, Barriers
from landscape.core.errors import plural, printable
from landscape.core.provenance import Source
from landscape.store.results import Result

__all__ = [
    "courses_caption",
    "end_of",
    "obtained",
    "orders_caption",
    "part_caption",
    "plane_caption",
    "start_of",
    "starts_of",
    "unfinished_caption",
    "walk_caption",
    "walk_title",
    "zeros_caption",
]

#: Random directions by how they are normalised: of lines, and of planes.
_RAYS = {
    "filter": "in random directions, each filter as long as that of the network",
    "layer": "in random directions, each layer as long as that of the network",
    "none": "in random directions, standard normal in each parameter",
}
_NORMS = {
    "filter": "each filter as long as the network's own; biases and BatchNorm stay as they are",
    "layer": "each tensor as long as the network's own; biases and BatchNorm stay as they are",
    "none": "standard normal in every parameter",
}


def starts_of(curves: Result) -> list[Source]:
    """The start of each line, whatever the order of its units, which only the label says."""
    return [dataclasses.replace(curves.sources[member], order="") for member in curves["from_member"]]


def _ends_of(curves: Result) -> list[Source]:
    return [dataclasses.replace(curves.sources[member], order="") for member in curves["to_member"]]


def start_of(curves: Result) -> str:
    """The start by its full name, as far as the file knows it."""
    if (place := curves.about.get("from")) is None:
        return curves.sources[curves["from_member"][0]].label if len(set(starts_of(curves))) == 1 else "each start"
    return _full(curves, place)


def end_of(curves: Result) -> str:
    """The end by its full name, if all lines have the same."""
    if "normalise" in curves.about or len(set(_ends_of(curves))) > 1:
        return "each end"
    return _full(curves, curves.about.get("to", curves.sources[curves["to_member"][0]].label))


def walk_title(curves: Result) -> str:
    """The problem and how many lines there are; they are seeds where each leads to one of its own."""
    every = curves if "aligned" not in curves.columns else curves.select(~curves["aligned"])
    ends = np.unique(every["to_member"])
    directions = "normalise" in curves.about
    seeds = not directions and len(ends) == len(every) and all(curves.sources[end].seed is not None for end in ends)
    what = "seed" if seeds else "direction" if directions else "curve" if "curve" in curves.about else "line"
    count = plural(len(every), what)
    return f"{printable(curves.about['title'])}: {count}" if "title" in curves.about else count


def walk_caption(panels: Sequence[Result], definition: str, *, barrier: bool, bars: str) -> str:
    """Which lines are drawn, and how: whether any has a `barrier`, and what is drawn of the medians (`bars`)."""
    count = " and ".join(dict.fromkeys(str(len(curves.alpha)) for curves in panels))
    each = "" if all(len(curves) == 1 for curves in panels) else " a line"
    formula = DEFINITIONS[definition].formula.replace(" - ", "\N{NO-BREAK SPACE}-\N{NO-BREAK SPACE}")
    solved = any("solved" in curves.values and "normalise" not in curves.about for curves in panels)
    matched = any(curves.about.get("orders") == "matched" for curves in panels)  # in older files
    aligned = any("aligned" in curves.columns for curves in panels)
    alone = any(curves.about.get("ends") == "aligned" for curves in panels)
    measured = any("accuracy" in curves.about for curves in panels)
    between = ", between those that were evaluated" if measured else ""
    told = f"Dotted: the barrier, {formula}." if barrier else f"The barrier is {formula}."
    return _sentences(
        f"{_loss(panels)} {_lines(panels)}, {count} points{each}{between}.",
        _computed([curves.about for curves in panels]),
        "Aligned: the end is another network that computes the same, close to the start; stored: as it is."
        if aligned
        else "",
        "Each end is replaced by the network that computes the same and lies close to the start." if alone else "",
        "Each start has the order of its filters that lies closest to the end." if matched else "",
        "Dashed: on the test data." if any("test_loss" in curves.values for curves in panels) else "",
        "Solved: the end gets every sample right." if solved and not aligned else "",
        f"Right: the barrier of each line, {formula}{bars}." if each else told,
        _accuracy(panels),
        "A barrier's height is read off these points, and depends on which representative of a solution the line "
        "starts from and ends at.",
    )


def obtained(curves: Result) -> str:
    """Which loss the values along lines are, where they lead, and how they were obtained."""
    measured = ", between those that were evaluated" if "accuracy" in curves.about else ""
    # Without what only a figure has.
    course = re.sub(r" \((?:star|diamonds?|dot(?:: (?:alpha 1|the end))?)\)", "", _lines([curves]))
    return _sentences(
        f"{_loss([curves])} {course}, {plural(len(curves.alpha), 'point')} a line{measured}.",
        _computed([curves.about]),
        _accuracy([curves]),
    )


def orders_caption(orders: Sequence[int]) -> str:
    """Which of the equivalent orders of filters are drawn, and in which panels, if that is not the one stored."""
    if max(orders) == 1:
        return ""
    where = [f"panel {number}" for number, count in enumerate(orders, start=1) if count > 1]
    places = "" if len(where) == len(orders) else f"In {' and '.join(where)}, of "
    text = f"{places or 'Of '}{max(orders)} filter orders of the start, the line with the lower barrier is drawn"
    return f" {text}; elsewhere the order is the stored one." if places else f" {text}."


def courses_caption(kinds: Sequence[Mapping[str, Barriers]], definition: str) -> str:
    """What the barriers of lines with unequal ends depend on: the other definition, lines that go one way, and lines
    whose height is infinite or NaN. Of each panel the lines of each kind, by name: stored and aligned are apart.
    """
    other = "above_higher_end" if definition != "above_higher_end" else "above_chord"
    panels = [found for panel in kinds for found in panel.values()]
    every = [found.summary()[other] for found in panels]
    if sum(len(found) for found in panels) == len(panels) == len(kinds):
        medians = ""  # it stands on the line itself
    else:
        names = [name and f"{name} " for panel in kinds for name in panel]
        values = " and ".join(f"{name}{each['median']:.3g}" for name, each in zip(names, every, strict=True))
        medians = f" Median {DEFINITIONS[other].label}: {values}."
    ways = [{name: count for name, count in found.courses().items() if name != "neither" and count} for found in panels]
    one_way = " and ".join(", ".join(f"{count} {name}" for name, count in each.items()) or "none" for each in ways)
    text = medians
    if any("falling" in each or "rising" in each for each in ways):
        text += f" Monotone lines: {one_way}; what rises above their chord is concavity, no barrier."
    if infinite := sum(each["infinite"] for each in every):
        text += f" {plural(infinite, 'line')} with an infinite loss between the ends: infinite heights, in the medians."
    if lost := sum(each["nan"] for each in every):
        text += f" {plural(lost, 'line')} with NaN, or an infinite end: without a height."
    return text


def part_caption(curves: Result, parts: Sequence[str], definition: str, *, full: bool, others: Sequence[float]) -> str:
    """What is drawn in a figure with a panel for each part, with the `full` lines behind if there are any; `others` are
    the heights above the higher end.
    """
    told, count = curves.about, len(curves) // (len(parts) + full)
    hold, mixed = ("end", "start") if told.get("hold") == "end" else ("start", "end")
    line = "line" if count == 1 else "lines"
    way = "arcs (slerp)" if told.get("path") == "slerp" else f"the straight {line}"
    return _sentences(
        f"{_loss([curves])} on {way} from {start_of(curves)} (alpha 0) to {told.get('to', 'each end')} "
        f"(alpha 1), on which only the {told.get('per', 'part')} above the panel moves and the rest is held at the "
        f"{hold}; {plural(count, 'line')} a panel, {len(curves.alpha)} points a line.",
        _computed([told]),
        f"Grey: the full {line}, on which everything moves." if full else "",
        "Blue: the end gets every sample right; orange: not." if "solved" in curves.values else "",
        f"Above the panels{'' if count == 1 else ', medians over lines'}: the barrier, "
        f"{DEFINITIONS[definition].formula}, and the loss at the {mixed}, where the network is mixed.",
        f"Barriers above the higher end: {', '.join(f'{height:.3g}' for height in others)}.",
    )


def plane_caption(surface: Result, *, shown: int, log: bool, one_scale: bool, flat: bool) -> str:
    """Which plane is drawn, and how: with how many of its marks, and whether `flat` or as heights."""
    about, total = surface.about, len(surface.marks)
    alone = about.get("plane", {}).get("kind") in ("random", "eigenvectors", "gradient")
    policy = about.get("batchnorm", {}).get("policy")
    # With directions at one network there are its statistics alone.
    told = {**about, "batchnorm": {"policy": "keep"}} if alone and policy == "interpolate" else about
    own = "their loss with these statistics" if policy == "keep" else "their own loss"
    dots = f"in the colour of {own}" if flat else f"at {own}; pale below a dotted stem: hidden"
    missing, zeros = (~np.isfinite(surface.loss)).sum(), (surface.loss == 0).sum() if log else 0
    return _sentences(
        f"{_loss([surface])} {_plane(surface)}.",
        _plane_accuracy(surface),
        _computed([told], between="the networks", start="the network" if alone else "the first network"),
        f"Grid of {len(surface['x'])} x {len(surface['y'])} points; {'logarithmic' if log else 'linear'} scale.",
        f"Dots: the networks, {dots}." if shown else "",
        f"{'Hatched' if flat else 'Holes'}: the loss is not finite ({plural(int(missing), 'point')})."
        if missing
        else "",
        f"The loss is exactly zero at {plural(int(zeros), 'point')}, "
        f"{'the lowest colour' if flat else 'at the lower edge'}, marked 0."
        if zeros
        else "",
        f"{total - shown} of {total} networks lie outside of the ranges." if shown < total else "",
        "" if one_scale else "The axes are not drawn to one scale.",
        unfinished_caption([surface.unfinished]).strip(),
    )


def unfinished_caption(words: Sequence[str]) -> str:
    """That what is drawn is a part of results that are not finished, and how far these are; empty where all are.

    >>> unfinished_caption(["35 of 1000 lines are finished", ""])
    ' Not finished, or interrupted: 35 of 1000 lines are finished.'
    """
    told = " and ".join(filter(None, words))
    return f" Not finished, or interrupted: {told}." if told else ""


def zeros_caption(values: Sequence[np.ndarray]) -> str:
    """Where a log axis has what no logarithm has; empty where there is none of it."""
    flat = np.concatenate([np.ravel(each) for each in values])
    low = float(np.nanmin(flat, initial=np.inf))
    what = "Zeros" if low == 0 else "Zeros and negative values"
    return f" {what} lie on the dotted line at the lower edge of the log axis." if low <= 0 else ""


def _sentences(*each: str) -> str:
    return " ".join(filter(None, each))


def _full(result: Result, place: str | None) -> str:
    """A landmark with its design; other places as they are."""
    return printable(str(result.about.get("landmarks", {}).get(place, place)))


def _loss(results: Sequence[Result]) -> str:
    """Which loss is drawn."""
    parts = [
        result.about["accuracy"] for result in results if not result.about.get("accuracy", {}).get("all_samples", True)
    ]
    if parts and len(parts) == len(results):
        return f"Loss estimated from up to {' and '.join(f'{_most(said):,}' for said in parts)} samples"
    sampled = {result.about.get("samples") for result in results if "loss_se" in result.values}
    counts = [f"{count:,}" if count else "some" for count in sorted(sampled, key=lambda count: count or 0)]
    exact = "Exact loss" if any("loss_se" not in result.values for result in results) else ""
    penalties = dict.fromkeys(result.about.get("l2", 0.0) for result in results)
    added = " and ".join(f"{each:g}" for each in penalties if each)
    behind = f" with an L2 penalty ({added})" if added else ""
    if not sampled:
        return exact + behind
    return f"{'Exact loss, and loss' if exact else 'Loss'} on {' and '.join(counts)} samples{behind}"


def _most(said: Mapping[str, Any]) -> int:
    """Samples of a line, at most."""
    found = said.get("samples", 0)
    return int(np.max(found or 0))


def _accuracy(panels: Sequence[Result]) -> str:
    """What lines that were measured to an accuracy reached; empty for others."""
    told = []
    for said in (curves.about["accuracy"] for curves in panels if "interval" in curves.about.get("accuracy", {})):
        of = "barrier" if said["quantity"] == "barrier" else "range of losses"
        asked = f" to {said['tolerance']:g} of the {of}" if said["tolerance"] is not None else ""
        count = f"{said['reached']} of {said['lines']}"
        reached = "" if said["reached"] == said["lines"] else f" (reached on {count}; the band is the width so far)"
        if said.get("above") is not None:
            counts = ", ".join(f"{count} {name}" for name, count in said["decisions"].items())
            asked, reached = f" until it was sure whether the barrier is above {said['above']:g} ({counts})", ""
        low, high = said["interval"]
        barriers = "barrier" if said["lines"] == 1 else "barriers, the lowest and highest ends of their intervals,"
        told.append(
            f"Measured{asked}{reached}; band: {said['level']:.0%} for all points of a line, of samples and "
            f"interpolation; {barriers} {low:.4g} to {high:.4g}."
        )
    return _sentences(*dict.fromkeys(told))


def _plane_accuracy(surface: Result) -> str:
    """The same of a plane."""
    said = surface.about.get("accuracy", {})
    if "interval" not in said:
        return ""
    asked = f" to {said['tolerance']:g} of the range of losses" if said["tolerance"] is not None else ""
    return (
        f"Measured{asked}{'' if said['reached'] else ' (not reached)'}: {said['points']:,} points were evaluated, the "
        f"rest is interpolated; each is within {said['error']:.3g} ({said['level']:.0%} for all at once)."
    )


def _computed(files: Sequence[Mapping[str, Any]], *, between: str = "the ends", start: str = "the start") -> str:
    """By which statistics BatchNorm normalised, and whether in fewer digits than usual; empty where there is nothing
    to say. `between` and `start` are what the networks of these files are called.
    """
    told = []
    for about in files:
        policy: Mapping[str, Any] = about.get("batchnorm") or {}
        how = {
            "recalibrate": f"estimated anew at each point on {policy.get('samples', 0):,} training samples",
            "interpolate": f"interpolated between {between}",
            "keep": f"kept as at {start}: only there the loss is the network's own",
        }.get(policy.get("policy", ""))
        told.append(f"Statistics of BatchNorm {how}." if how else "")
        told.append(f"The network ran in {about['autocast']}." if about.get("autocast") else "")
    return _sentences(*dict.fromkeys(told))


def _lines(panels: Sequence[Result]) -> str:
    """Where the lines lead; said once for all panels whose lines are of one kind."""
    kinds: dict[str, list[Result]] = {}
    for curves in panels:
        kind = [curves.about.get(key) for key in ("via", "curve", "path", "only", "hold", "normalise")]
        kinds.setdefault(str(kind), []).append(curves)
    return "; and ".join(dict.fromkeys(map(_course, kinds.values())))


def _course(panels: Sequence[Result]) -> str:
    """Where the lines of panels of one kind lead."""
    told = panels[0].about
    starts = " and ".join(dict.fromkeys(map(start_of, panels)))
    star = " (star)" if all(len(set(starts_of(curves))) == 1 for curves in panels) else ""
    ends = " and ".join(dict.fromkeys(map(end_of, panels)))
    single = len(panels) == len(panels[0]) == 1
    line, a = ("line", "a ") if single else ("lines", "")
    if "normalise" in told:
        return f"on the straight {line} from {starts}{star} {_RAYS[told['normalise']]} (dot: alpha 1)"
    if "curve" in told:
        curve = told["curve"]
        method = curve.get("method") or curve["kind"]  # as it was called before
        if method == "auto":
            paths = "path that was found" if single else "paths that were found"
            return (
                f"on the lowest {paths} from {starts}{star} to {ends} (dot), of Bézier curves and polylines on "
                f"{curve['budget']} gradients of the loss a line, and on the straight {line} (grey)"
            )
        bezier, few = method == "bezier", single and curve["bends"] == 1
        marks = "" if bezier else " (diamond)" if few else " (diamonds)"
        kind = ("Bézier curve" if bezier else "polyline") + ("" if single else "s")
        return (
            f"on {a}{kind} with {plural(curve['bends'], 'bend')}{marks} from {starts}{star} to {ends} (dot), trained "
            f"to a low mean loss in {curve['steps']} steps of Adam, and on the straight {line} (grey)"
        )
    if "via" in told:
        names = [_full(panels[0], place) for place in told["via"]]
        marks = "diamond" if single and len(names) == 1 else "diamonds"
        return f"on straight segments from {starts}{star} via {', '.join(names)} ({marks}) to {ends} (dot)"
    moving = ""
    if "only" in told:
        moving = f", on which only {', '.join(told['only'])} move and the rest is held at the {told['hold']}"
    way = "arcs, one for each tensor (slerp)," if told.get("path") == "slerp" else f"the straight {line}"
    course = f"from {starts}{star} to {ends} (dot)"
    if not star and ends == "each end" and "from" in told and told.get("to") in (None, told["from"]):
        course = f"between members of {starts} (dot: the end)"
    return f"on {way} in parameter space {course}{moving}"


def _plane(surface: Result) -> str:
    """Which plane it is, and what its axes are."""
    plane, marks = surface.about.get("plane", {}), surface.marks
    full = plane.get("landmarks", {})
    names = [full.get(place, mark.name) for place, mark in zip(plane.get("places", []), marks, strict=False)]
    match plane.get("kind"):
        case "through":
            return f"on the plane through {names[0]}, {names[1]} and {names[2]}, with orthonormal axes (L2 distances)"
        case "tasks":
            return (
                f"at {names[0]} plus multiples of two task vectors, from there to {names[1]} (along x) and to "
                f"{names[2]} (along y)"
            )
        case "random":
            norms = _NORMS[plane["normalise"]]
            return f"at {names[0]} plus multiples of two random directions (seed {plane['seed']}), {norms}"
        case "eigenvectors":
            first, second = plane["eigenvalues"]
            return (
                f"at {names[0]} along the leading eigenvectors of the Hessian (L2 distances), with the eigenvalues "
                f"{first:.4g} (x) and {second:.4g} (y)"
            )
        case "gradient":
            return (
                f"at {names[0]} along the leading eigenvector of the Hessian (y), with the eigenvalue "
                f"{plane['eigenvalues'][0]:.4g}, and the part of the gradient across it (x); L2 distances"
            )
        case "trajectory":
            farthest, path = max(mark.off_plane for mark in marks), surface.trajectory
            return (
                f"on the plane through {path[-1].name} of {plane['places'][0]} that lies closest to all its "
                f"{len(path)} checkpoints: it holds {100 * sum(plane['explained']):.3g} % of their squared distances "
                f"from that step. The checkpoints are projected: they lie up to {farthest:.3g} off the plane, where "
                "losses differ"
            )
    return "on a plane"
