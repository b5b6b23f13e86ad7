"""Memory, disk and time: what there is, and one refusal of work that needs more than that."""

import contextlib
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from landscape.core.errors import TooMuch

__all__ = ["Rate", "announced", "exhausted", "free_memory", "in_words", "paced", "require_disk", "require_memory"]

_log = logging.getLogger("landscape")

#: Bytes that need no look at what there is, and seconds that need none at the clock.
_SMALL, _SOON = 2**26, 2.0

#: Longest work that is begun unasked, in seconds: a year.
_LONGEST = 365 * 86400.0

#: What ends a refusal of what was estimated.
_ANYWAY = "or go on all the same with `yes=True`"

#: How PyTorch and C++ say that there is no memory, or no number for so much of it.
_FULL = ("can't allocate memory", "out of memory", "bad_alloc", "Storage size calculation overflowed")


def free_memory() -> int:
    """Bytes of memory that this process can still have: the least of what the system would give up for it, what its
    control groups (v1 and v2) leave, and what its address space may grow by (`ulimit -v`).
    """
    return max(0, min(_system(), _group(), _address_space()))


def require_memory(size: float, what: str, instead: str, *, yes: bool = False, estimated: bool = False) -> None:
    """Raise `TooMuch` if so many bytes of memory are not there.

    Args:
        size: Bytes, at the peak.
        what: What takes them, in the plural.
        instead: What to write instead, an imperative.
        yes: Go on whatever there is.
        estimated: Whether `yes` is offered.
    """
    if not yes and size > _SMALL and size > (free := free_memory()):
        offer = f", {_ANYWAY}" if estimated else ""
        raise TooMuch(f"{what} take {in_words(size)} of memory, of which {in_words(free)} are free: {instead}{offer}")


def require_disk(size: float, path: Path, what: str, instead: str, *, yes: bool | None = False) -> None:
    """Raise `TooMuch` if so many bytes are not free on the disk of an output, which need not be there yet; other
    arguments as of `require_memory`. With None for `yes` it is not offered. What is no disk, as /sys, says itself that
    it takes no file.
    """
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    disk = shutil.disk_usage(there)
    if not yes and disk.total and size > disk.free:
        offer = "" if yes is None else f", {_ANYWAY}"
        raise TooMuch(
            f"{what} take {in_words(size)}, and the disk of {there} has {in_words(disk.free)} free: {instead}{offer}"
        )


class Rate:
    """How fast work goes on, from when it is first told of: what was done before that, by an interrupted process too,
    does not count, nor its time. `spent` are the seconds since.
    """

    def __init__(self) -> None:
        self.begun: tuple[float, int] | None = None
        self.spent = 0.0

    def left(self, done: int, total: int) -> float:
        """Seconds that the rest will take; infinite before anything is known of it."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = now, done
        self.spent = now - self.begun[0]
        return self.spent / (done - self.begun[1]) * (total - done) if done > self.begun[1] else math.inf


def paced(progress: Callable[[int, int], None], instead: str, *, yes: bool = False) -> Callable[[int, int], None]:
    """Progress that raises `TooMuch` once, soon after its first call, it can be seen that the work takes longer than a
    year.
    """
    if yes:
        return progress
    rate, known = Rate(), False

    def tell(done: int, total: int) -> None:
        nonlocal known
        left, fresh = rate.left(done, total), not known
        known = known or (rate.spent >= _SOON and left < math.inf)
        if fresh and known and left > _LONGEST:
            raise TooMuch(
                f"{done:,} of {total:,} are done, and by the time they took the rest would take "
                f"{left / _LONGEST:,.3g} years: {instead}, {_ANYWAY}"
            )
        progress(done, total)

    return tell


def announced(what: str, total: int) -> Callable[[int], None]:
    """What is to be called with how many are done of something that no progress is told of: once, after a while, it
    says how long all will take.
    """
    began, told = time.monotonic(), False

    def tell(done: int) -> None:
        nonlocal told
        if not told and (spent := time.monotonic() - began) >= _SOON:
            told = True
            _log.info("%s first: %s take %.0f s", what, f"{total:,}", spent / max(1, done) * total)

    return tell


def in_words(size: float) -> str:
    """Bytes as people say them.

    >>> in_words(8e12), in_words(1_500_000)
    ('8,000 GB', '1.5 MB')
    """
    number, unit = (size / 1e9, "GB") if size >= 1e8 else (size / 1e6, "MB")
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.2g} {unit}"


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory for what was asked."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(e in str(error) for e in _FULL))


def _system() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize  # where nobody says


def _group() -> int:
    """What the memory limits of control groups leave, of this process's and those that it is in; what they can give up
    of their caches included.
    """
    found = [sys.maxsize]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
            here = root / name.lstrip("/")
            groups = [folder for folder in (here, *here.parents) if folder.is_relative_to(root)]
            found += [_left(folder, first=bool(controllers)) for folder in groups]
    return min(found)


def _left(folder: Path, *, first: bool) -> int:
    """What the limit of one control group, of the first version or the second, leaves."""
    limit, used, cache = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if first
        else ("memory.max", "memory.current", "inactive_file")
    )
    with contextlib.suppress(OSError, ValueError, StopIteration):  # no limit is a word
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        lines = (folder / "memory.stat").read_text().splitlines()
        return most - now + next(int(line.split()[1]) for line in lines if line.startswith(f"{cache} "))
    return sys.maxsize


def _address_space() -> int:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return sys.maxsize
