"""What is asked for where values are found to a stated accuracy, not point by point, and in words what was reached."""

import abc
import dataclasses
import re
from typing import ClassVar, Literal

from landscape.core.errors import LandscapeError, plural
from landscape.core.fields import check, option
from landscape.store.results import Result

__all__ = ["Accuracy", "LineAccuracy", "PlaneAccuracy", "Quantity", "reached"]

#: What is measured: the barrier above the chord, or the loss at each point.
Quantity = Literal["barrier", "loss"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(abc.ABC):
    """How accurate values are to be, or how long they may take; raises `LandscapeError` for what makes no sense."""

    tolerance: float | str | None = None
    budget: float | None = option(
        None,
        "In place of a tolerance, or with it: the time that all of it may take, such as 60s, 10m or 2h, for intervals "
        "as narrow as that allows.",
        above=0,
        syntax="seconds",
        metavar="TIME",
    )
    population: bool = option(
        False,
        "Intervals of the loss over the distribution that the data is a sample of, not over the data itself.",
    )

    #: What is measured.
    on: ClassVar[str]

    def __post_init__(self) -> None:
        check(self)
        self._require_asked("population")

    def __bool__(self) -> bool:
        return self.tolerance is not None or self.budget is not None

    @property
    @abc.abstractmethod
    def share(self) -> float | None:
        """What is tolerated; None where it is not said."""

    @property
    @abc.abstractmethod
    def quantity(self) -> Quantity:
        """What is measured."""

    @property
    def decides(self) -> bool:
        """Whether a decision alone is asked for, which few samples may make."""
        return False

    def _require_asked(self, name: str) -> None:
        """Raise `LandscapeError` for what is given and would be ignored."""
        if getattr(self, name) != getattr(type(self), name) and not self:
            raise LandscapeError(
                f"`{name}` is for {self.on} to a stated accuracy: ask for one with `tolerance` or `budget`"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineAccuracy(Accuracy):
    """That of lines."""

    tolerance: float | str | None = option(
        None,
        "In place of the loss at each point, find each line's barrier above the chord to this share of it, such as "
        "0.01, or, written 0.01:loss, its loss everywhere to this share of its range: half the width of a 95 % "
        "interval. Points and samples are chosen for it; `points` are those that the curve is drawn with.",
        syntax="tolerance",
        metavar="SHARE[:loss]",
    )
    floor: float = option(
        1e-3,
        "Share of a line's range of losses that is tolerated whatever its barrier is, so that a line without one ends.",
        above=0,
        below=1,
    )
    above: float | None = option(
        None,
        "With a tolerance: decide of each line, such as those of all pairs, whether its barrier is above this height, "
        "and end where that is sure (at most 5 % of the decisions are wrong).",
        at_least=0,
        metavar="HEIGHT",
    )

    on = "lines"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance is not None and not 0 < (self.share or 0) < 1:
            raise LandscapeError(
                f"`tolerance` is {self.tolerance}, it must be a share between 0 and 1, such as 0.01, or 0.01:loss"
            )
        self._require_asked("floor")
        if self.above is not None and (self.tolerance is None or self.quantity == "loss"):
            raise LandscapeError(
                "`above` is a height of barriers, and ends where `tolerance` is reached at the latest: give one of the "
                "barrier, such as 0.05"
            )
        if self.floor != type(self).floor and self.quantity == "loss":
            raise LandscapeError("`floor` is for barriers, and this `tolerance` is of the range already: leave it out")

    @property
    def share(self) -> float | None:
        """What is tolerated; None where it is not said, or not well."""
        if isinstance(self.tolerance, str):
            found = re.fullmatch(r"([^:]+)(?::(?:loss|barrier))?", self.tolerance)
            try:
                return float(found[1]) if found else None
            except ValueError:
                return None
        return self.tolerance

    @property
    def quantity(self) -> Quantity:
        """The barrier, or where it is asked for the loss everywhere."""
        return "loss" if isinstance(self.tolerance, str) and self.tolerance.endswith(":loss") else "barrier"

    @property
    def decides(self) -> bool:
        """Whether barriers are above a height."""
        return self.above is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaneAccuracy(Accuracy):
    """That of planes."""

    tolerance: float | None = option(
        None,
        "In place of evaluating each point, find the loss at all of them to this share of its range over the plane, "
        "such as 0.01: half the width of a 95 % band for all at once. Points and samples are chosen for it, the rest "
        "is interpolated; marked networks are evaluated on all samples.",
        above=0,
        below=1,
        metavar="SHARE",
    )

    on = "planes"

    @property
    def share(self) -> float | None:
        """What is tolerated, of the range of losses."""
        return self.tolerance

    @property
    def quantity(self) -> Quantity:
        """The loss everywhere."""
        return "loss"


def reached(result: Result) -> str:
    """In a line what lines, or a plane, that were measured to an accuracy reached, and from what."""
    said = result.about["accuracy"]
    if result.kind == "plane":
        asked = f": tolerance {said['tolerance']:g} of the range of losses " if said["tolerance"] is not None else ""
        asked += "" if not asked else "reached" if said["reached"] else "not reached"
        samples = "all" if said["all_samples"] else f"up to {said['samples']:,} of {said['of_samples']:,}"
        return (
            f"loss over the plane within {said['error']:.4g} ({said['level']:.0%}, all points at once){asked}, from "
            f"{said['points']:,} of {result.loss.size:,} points on {samples} samples ({said['read']:.1%} of all) in "
            f"{said['seconds']:.3g} s"
        )
    of_one = said["lines"] == 1
    noun = "barrier" if said["quantity"] == "barrier" else "loss"

    def span(name: str) -> str:
        low, high = (said[name], said[name]) if of_one else said[name]
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    text = f"{noun} of {plural(said['lines'], 'line')}"
    if of_one:
        done = result.select(result.done)
        low, high = said["interval"]
        text = (
            f"barrier {said['barrier']:.4g} ({said['level']:.0%} interval {low:.4g} to {high:.4g}) at alpha "
            f"{done['peak'][0]:.3g}"
        )
    if said["above"] is not None:
        counts = ", ".join(f"{count} {name}" for name, count in said["decisions"].items())
        text += f": against the height {said['above']:g} {counts}, at most {1 - said['level']:.0%} of it wrong"
    elif said["tolerance"] is not None:
        share = f"tolerance {said['tolerance']:g} of the {'barrier' if noun == 'barrier' else 'range of losses'}"
        text += f": {share} " + ("" if said["reached"] == said["lines"] else "not ") + "reached"
        text += "" if of_one else f" on {said['reached']} of {said['lines']}"
    of_samples = "all" if said["all_samples"] else f"{span('samples')} of {said['of_samples']:,}"
    return f"{text}, from {span('points')} points on {of_samples} samples in {said['seconds']:.3g} s"
