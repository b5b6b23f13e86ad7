"""The errors a user meets; each message says what is wrong, where, and what to do."""

import unicodedata
from collections.abc import Collection

__all__ = [
    "Busy",
    "DamagedFile",
    "Idle",
    "LandscapeError",
    "Mismatch",
    "TooMuch",
    "Unsupported",
    "Untrusted",
    "Unverified",
    "few",
    "loss_in",
    "plural",
    "printable",
]


class LandscapeError(Exception):
    """Something the user can mend. The command line prints the message in one line and exits with 1.

    What it quotes of files is `printable`.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


class DamagedFile(LandscapeError):
    """A file that is there but cannot be read as what it should be. Never treated as an absent file."""


class Busy(LandscapeError):
    """An output that somebody else is writing."""


class Idle(LandscapeError):
    """A part of some work that has nothing in it."""


class Mismatch(LandscapeError):
    """Two things that must agree, such as a checkpoint and an architecture, do not."""


class TooMuch(LandscapeError):
    """More memory, disk or time than there is; the message has both numbers."""


class Unsupported(LandscapeError):
    """A combination that has no meaning, or no implementation; the message names the nearest one that has."""


class Untrusted(LandscapeError):
    """Code that a file wants to run and its reader has not named."""


class Unverified(LandscapeError):
    """A landmark that does not solve its problem, or a curve that does not reproduce its own end points."""


def few(items: Collection[str], most: int = 6) -> str:
    """The first of many things that a message names, and how many more there are.

    >>> few(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    shown = ", ".join(list(items)[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def plural(count: int, noun: str) -> str:
    """How many there are of something: 1 line, 2 lines.

    >>> plural(1, "line"), plural(3, "line")
    ('1 line', '3 lines')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def unfinished_in(place: object, how_far: str) -> str:
    """That something is not finished, and how far it is.

    >>> unfinished_in("line.h5", "35 of 1000 lines are finished")
    'line.h5 is not finished, or was interrupted: 35 of 1000 lines are finished'
    """
    return f"{place} is not finished, or was interrupted: {how_far}"


def loss_in(unit: str | None) -> str:
    """The loss and its unit, where it has one.

    >>> loss_in("nats per sample"), loss_in("")
    ('loss in nats per sample', 'loss')
    """
    return f"loss in {unit}" if unit else "loss"


def printable(text: str) -> str:
    """A text of others with what would steer a terminal written out: control and format characters, bytes of no text.

    >>> printable("a\\x1b[2Jb"), printable("\\udcff"), printable("Größe 5 µm")
    ('a\\\\x1b[2Jb', '\\\\xff', 'Größe 5 µm')
    """
    return text if text.isprintable() else "".join(map(_written_out, text))


def _written_out(sign: str) -> str:
    if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return sign
    code = ord(sign)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("unicode_escape").decode()
