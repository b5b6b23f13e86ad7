"""What a page shows: sections of one problem each, with lines, planes and runs, and the members that they name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Int

from landscape.analysis.barriers import Barriers
from landscape.core.errors import LandscapeError
from landscape.core.provenance import Source
from landscape.store.results import Result

if TYPE_CHECKING:
    from landscape.analysis.cards import Cards
    from landscape.analysis.incidence import Incidence
    from landscape.store.checkpoints import Run
else:
    Cards = Incidence = Run = Any  # their modules import torch, which results alone do not need

__all__ = [
    "CARDS",
    "MOST",
    "MOST_PASSES",
    "SAMPLE",
    "Lines",
    "Members",
    "Section",
    "Traces",
    "Training",
    "few",
    "spread",
]

T = TypeVar("T")

#: Curves that a page draws one by one, and how many of more are drawn upon the bands of all.
MOST, SAMPLE = 2000, 200
#: Points of the curves of one drawing.
_MOST_POINTS = 120_000
#: Cards of functions, and members of which passes are looked for.
CARDS, MOST_PASSES = 8, 2000


@dataclasses.dataclass
class Members:
    """The members that a page names, by their numbers: known by digest and seed, wherever their files lie."""

    numbers: dict[tuple[Any, ...], int] = dataclasses.field(default_factory=dict)
    sources: list[Source] = dataclasses.field(default_factory=list)
    facts: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def of(self, source: Source) -> int:
        """The number of a member, a new one if it was not named before; the order of its units does not count."""
        found = self.known(source)
        if found is None:
            found = self.numbers[self._key(source)] = len(self.sources)
            self.sources.append(source)
        return found

    def known(self, source: Source) -> int | None:
        """Its number, None if it was not named."""
        return self.numbers.get(self._key(source))

    def tell(self, member: int, *, surely: bool = False, **facts: Any) -> None:
        """What is known of a member: `surely`, or unless something is known already."""
        before = self.facts.get(member, {})
        self.facts[member] = before | facts if surely else facts | before

    def names(self) -> list[str]:
        """What each is called: by its label, behind the folder that it is from where those of several have the same."""
        folders: dict[str, set[Path]] = {}
        for source in self.sources:
            folders.setdefault(source.label, set()).add(Path(source.path).parent)
        found = []
        for source in self.sources:
            there, own = folders[source.label], Path(source.path).parent
            short = len({each.name for each in there}) == len(there) and own.name
            found.append(f"{short or own}/{source.label}" if len(there) > 1 else source.label)
        return found

    @staticmethod
    def _key(source: Source) -> tuple[Any, ...]:
        return source.digest, source.seed, "" if source.digest and source.seed is not None else source.label


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """Finished lines of a result, of several orders of a start the lowest, and the `shown` ones, which are drawn one by
    one and numbered on the page from `first` on. `group` says of each line which of `names` it is, if there are any;
    `unfinished` how far the result is, if it is not finished.
    """

    name: str
    result: Result
    found: Barriers
    group: Int[np.ndarray, " line"]
    names: tuple[str, ...]
    shown: Int[np.ndarray, " some"]
    first: int
    ends: tuple[tuple[int, int], ...]
    unfinished: str

    @property
    def all_shown(self) -> bool:
        """Whether each line is drawn."""
        return len(self.shown) == len(self.result)


@dataclasses.dataclass(frozen=True, eq=False)
class Traces:
    """Losses of members against steps: [member, step], and those `shown`; `how` they were found, in words."""

    steps: np.ndarray
    loss: np.ndarray
    shown: Int[np.ndarray, " some"]
    how: str


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A run, and what could be found of it; `members` are the numbers of the `shown` ones on the page."""

    name: str
    run: Run
    sources: Sequence[Source]
    members: Mapping[int, int]
    cards: Cards | None
    incidence: Incidence | None
    traces: Traces | None


@dataclasses.dataclass(eq=False)
class Section:
    """All that is of one problem; `remarks` say what could not be shown, and why, in errors as they are
    `said`.
    """

    title: str
    lines: list[Lines] = dataclasses.field(default_factory=list)
    planes: list[tuple[str, Result]] = dataclasses.field(default_factory=list)
    runs: list[Training] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    files: list[tuple[str, Mapping[str, Any]]] = dataclasses.field(default_factory=list)
    said: Callable[[str], str] = str

    def tried(self, what: str, find: Callable[[], T]) -> T | None:
        """What `find` gives; None, with a remark, where it raises `LandscapeError`."""
        try:
            return find()
        except LandscapeError as error:
            self.remarks.append(f"{what}: {' '.join(self.said(str(error)).split())}")
            return None


def few(curves: int, points: int, most: int) -> bool:
    """Whether so many curves of so many points are drawn one by one, `most` of them at most."""
    return curves <= most and curves * points <= _MOST_POINTS


def spread(values: np.ndarray, most: int) -> Int[np.ndarray, " some"]:
    """Numbers of at most so many values, in their order: all of them, or those at evenly spaced ranks, the lowest and
    the highest among them; what is NaN ranks highest.

    >>> spread(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), 3).tolist()
    [0, 1, 4]
    """
    if len(values) <= most:
        return np.arange(len(values))
    ranks = np.linspace(0, len(values) - 1, most).astype(np.int64)
    return np.sort(np.argsort(values, kind="stable")[ranks])
