"""Planes: the loss as a heat map, with the networks on it, and a slider along the steps of a trajectory."""

import json

import numpy as np

from landscape.figures.pages import with_unit
from landscape.figures.planes import Scale, axis_labels, caption_of, same_scale, shown_marks
from landscape.store.results import Mark, Result
from landscape.web.curves import drawing, figure
from landscape.web.data import Members
from landscape.web.markup import Markup, number, tag
from landscape.web.members import PALETTE, color_bar
from landscape.web.svg import MOST_CELLS, UNIT, Axis, Frame, cells, path, rgb

__all__ = ["plane_view"]

#: Width of a drawing, and its height where axes are not to scale; points a side of a picture, at most.
_WIDTH, _HEIGHT, _PICTURE = 640 * UNIT, 440 * UNIT, 400


def plane_view(name: str, surface: Result, members: Members, place: int) -> Markup:
    """The loss over a plane as cells around its points, on the scale of the figures, with marks and trajectory."""
    scale = Scale.of(surface)
    beside = 100 * UNIT
    (left, across), _ = Frame.sides(_WIDTH - beside, _HEIGHT)
    xs, ys = surface["x"], surface["y"]
    height = _HEIGHT
    if same_scale(surface):
        ratio = float(np.ptp(ys)) / float(np.ptp(xs))
        height = round(min(max(ratio * across, 0.4 * across), 1.4 * across)) + Frame.ABOVE + Frame.BELOW
    (bottom, up) = Frame.sides(_WIDTH, height)[1]
    x, y = (_axis(each, *side) for each, side in ((xs, (left, across)), (ys, (bottom, up))))
    labels = axis_labels(surface)
    frame = Frame(_WIDTH - beside, height, x, y, *labels)
    step = [-(-len(each) // _PICTURE) if surface.loss.size > MOST_CELLS else 1 for each in (ys, xs)]
    loss = surface.loss[:: step[0], :: step[1]]
    low, high = float(scale.levels[0]), float(scale.levels[-1])
    shares = (scale(loss) - low) / (high - low)
    box = (left, bottom + up, across, -up)
    heat = cells(shares[::-1], PALETTE, box)
    ticks = [((at - low) / (high - low), label) for at, label in scale.ticks().items()]
    marks = shown_marks(surface)
    track = np.array([(mark.x, mark.y) for mark in surface.trajectory]).reshape(-1, 2)
    drawn = [tag("path", d=path(x(track[:, 0]), y(track[:, 1])), class_="track")] if len(track) else []
    for mark in marks:
        share = (float(scale(np.array(mark.loss))) - low) / (high - low)
        shade = PALETTE[round(np.clip(share, 0, 1) * (len(PALETTE) - 1))] if np.isfinite(share) else np.ones(4)
        drawn.append(_mark(mark, x, y, members, rgb(shade)))
    steps = [mark for mark in surface.trajectory if mark in marks]
    values: dict[str, str] = {}
    if loss.size <= MOST_CELLS:
        values = {
            "data_values": " ".join(f"{each:.3g}" for each in loss[::-1].ravel()),
            "data_box": " ".join(map(str, box)),
            "data_shape": f"{loss.shape[1]} {loss.shape[0]}",
            "data_range": f"{xs[0]:.4g} {xs[-1]:.4g} {ys[0]:.4g} {ys[-1]:.4g}",
        }
    title = f"Plane of {name}"
    here = [tag("circle", r=8 * UNIT, class_="here", id=f"here{place}", cx=-99 * UNIT, cy=-99 * UNIT)] if steps else []
    unit = surface.about.get("loss_unit")
    svg = drawing(
        (_WIDTH, height),
        f"{title}: {with_unit('loss', unit)} and {len(marks)} networks",
        tag("rect", x=left, y=bottom + up, width=across, height=-up, class_="holes"),
        frame.axes(),
        heat,
        color_bar(ticks, _WIDTH - beside + 20 * UNIT, bottom + up, -up),
        *drawn,
        *here,
        kind="marks plane",
        **values,
    )
    caption = caption_of(surface, scale, flat=True).replace("Hatched: ", "Grey: ")
    if surface.loss.size > MOST_CELLS:
        caption += f" Drawn as a picture of {loss.shape[1]} x {loss.shape[0]} points."
    return figure(title, caption, svg, _slider(steps, x, y, members, place) if len(steps) > 1 else "")


def _axis(places: np.ndarray, start: int, length: int) -> Axis:
    """From half a cell before the first place to half a cell behind the last."""
    half = (places[-1] - places[0]) / max(len(places) - 1, 1) / 2 or 0.5
    return Axis(float(places[0] - half), float(places[-1] + half), start, length)


def _told(mark: Mark) -> str:
    off = f", {number(mark.off_plane, 3)} off the plane, where the plane has {number(mark.plane_loss)}"
    return f"{mark.name}: loss {number(mark.loss)}" + (off if mark.off_plane > 0 else "")


def _mark(mark: Mark, x: Axis, y: Axis, members: Members, fill: str) -> Markup:
    at = {"cx": x.at(mark.x), "cy": y.at(mark.y)}
    radius = (6 if mark.trajectory is None else 4) * UNIT
    dot = tag("circle", tag("title", _told(mark)), r=radius, fill=fill, **at)
    name = "" if mark.trajectory is not None else tag("text", mark.name, x=at["cx"] + 8 * UNIT, y=at["cy"] + 4 * UNIT)
    known = members.of(mark.source)
    members.tell(known, loss=mark.loss)
    return tag("g", dot, name, class_="mark", data_m=known, data_t=_told(mark))


def _slider(steps: list[Mark], x: Axis, y: Axis, members: Members, place: int) -> Markup:
    """Chooses one of the checkpoints on the trajectory."""
    places = [[x.at(mark.x), y.at(mark.y), members.of(mark.source)] for mark in steps]
    told = tag("output", _told(steps[-1]), for_=f"slide{place}")
    slide = tag(
        "input",
        type="range",
        id=f"slide{place}",
        min=0,
        max=len(steps) - 1,
        value=len(steps) - 1,
        data_here=f"here{place}",
        data_at=json.dumps(places),
        data_told=json.dumps([*map(_told, steps)], ensure_ascii=False),
        aria_label="checkpoint on the trajectory",
    )
    return tag("p", tag("label", "Checkpoint ", slide), told, class_="slider")
