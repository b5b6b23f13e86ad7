"""Parts of work: how it is divided among processes on this machine, and among jobs on many."""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape.core.errors import DamagedFile, Idle, LandscapeError, Mismatch, few, plural
from landscape.core.fields import check, option

__all__ = ["PART", "Sharing", "balanced", "in_order", "parts_of", "threads_each"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who does the work: so many processes here, and which part of it; raises `LandscapeError` for no part.

    >>> Sharing(shard="2/4").part(10, unit=1, what="lines")
    range(2, 5)
    """

    workers: int = option(
        1,
        "Processes that share the work and the threads of this machine; one that dies is replaced. Numbers are those "
        "of one process with as many threads as each has.",
        at_least=1,
        at_most=1024,
    )
    shard: str | None = option(
        None,
        "Do only the I-th of N parts, counted from 1, as jobs of an array do; `landscape merge` makes one of them.",
        metavar="I/N",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.shard is not None:
            found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
            if not found or not 1 <= int(found[1]) <= int(found[2]):
                raise LandscapeError(
                    f"`shard` cannot be {self.shard!r}: write I/N, such as 1/4, the first of four parts"
                )

    @property
    def parts(self) -> int:
        """Into how many parts all work is divided, by jobs and their workers."""
        return self.workers * (1 if self.shard is None else int(self.shard.partition("/")[2]))

    def part(self, count: int, *, unit: int, what: str) -> range:
        """Which of so many items are this part's, in whole units; raises `Idle` where none are left for it.

        `what` they are is told then.
        """
        if self.shard is None:
            return range(count)
        number, parts = map(int, self.shard.split("/"))
        found = balanced(range(count), parts, unit)
        if number > len(found):
            whole = "" if unit == 1 else f", which are computed {unit} at a time"
            most = plural(len(found), "part")
            raise Idle(f"`shard={self.shard!r}` has nothing to do: there are {count} {what}{whole}: take {most}")
        return found[number - 1]

    def named(self, path: Path) -> Path:
        """The usual output of a part: that of all with the part behind its name."""
        if self.shard is None:
            return path
        ending = path.suffix if path.suffix == ".h5" else ""
        return path.with_name(f"{path.name.removesuffix(ending)}-shard-{self.shard.replace('/', '-of-')}{ending}")


#: What stands in a file of a part.
PART = {"shard": str, "begin": int, "of": int, "work": str}


def parts_of(part: Mapping[str, Any]) -> int:
    """How many parts there are, of what one says of itself; raises `DamagedFile` where it does not say."""
    if not re.fullmatch(r"\d{1,9}/0*[1-9]\d{0,8}", part["shard"]):
        raise DamagedFile(f"a shard of the name {part['shard']!r} is damaged: make it again")
    return int(part["shard"].partition("/")[2])


def balanced(items: range, parts: int, unit: int = 1) -> list[range]:
    """Items in at most so many consecutive parts of nearly one size, which begin at multiples of `unit`; none is empty.

    >>> balanced(range(10), 3), balanced(range(10), 3, unit=4)
    ([range(0, 3), range(3, 6), range(6, 10)], [range(0, 4), range(4, 8), range(8, 10)])
    """
    units = -(-len(items) // unit)
    parts = max(1, min(parts, units))
    ends = [items.start + min(len(items), units * part // parts * unit) for part in range(parts + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(ends)]


def in_order(parts: Sequence[tuple[str, Any]]) -> list[int]:
    """In which order parts are the whole, of the name of each and what it says of itself, `shard`, `begin`, `end`, `of`
    and `work`; raises `Mismatch`, by their names, for what is no part, missing, doubled or of other work.
    """
    for name, part in parts:
        if part is None:
            raise Mismatch(f"{name} is no shard, but whole: leave it out")
        if part["work"] != parts[0][1]["work"] or part["of"] != parts[0][1]["of"]:
            raise Mismatch(f"{name} is a shard of other work than {parts[0][0]}: other networks, points or options")
        if part["shard"].partition("/")[2] != parts[0][1]["shard"].partition("/")[2]:
            raise Mismatch(f"{name} is shard {part['shard']}, and {parts[0][0]} {parts[0][1]['shard']}: both of one N")
    order = sorted(range(len(parts)), key=lambda number: parts[number][1]["begin"])
    for before, after in itertools.pairwise(order):
        if parts[before][1]["begin"] == parts[after][1]["begin"]:
            raise Mismatch(f"{parts[before][0]} and {parts[after][0]} are both shard {parts[after][1]['shard']}")
    last = parts[order[-1]][1]
    gaps = [a for a, b in itertools.pairwise(order) if parts[a][1].get("end") != parts[b][1]["begin"]]
    if "end" in last and not parts[order[0]][1]["begin"] and last["end"] == last["of"] and not gaps:
        return order  # some of them had nothing to do
    count = parts_of(parts[0][1])
    there = {part["shard"] for _, part in parts}
    missing = [
        shard
        for shard in (f"{number}/{count}" for number in range(1, min(count, last["of"]) + 1))
        if shard not in there
    ]
    if missing:
        raise Mismatch(f"{plural(len(missing), 'shard')} of {count} missing: {few(missing)}; give all of them")
    return order


def threads_each(workers: int, threads: int) -> int:
    """Threads of each of several processes that share the processors, of as many as one would have."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads if workers == 1 else max(1, min(threads, here // workers))
