"""What the user sees while waiting and at the end: progress on stderr, tables on stdout."""

import contextlib
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import click

from landscape.core.errors import printable
from landscape.core.interrupts import Stopped
from landscape.core.resources import Rate

__all__ = [
    "Failure",
    "Interruption",
    "Progress",
    "coloured",
    "hint",
    "interruptible",
    "remark",
    "remark_unfinished",
    "say",
    "table",
]

#: Exit status that asks for another try, EX_TEMPFAIL.
_TRY_AGAIN = 75

#: Seconds after which it is first said that long work will be long.
_AT_ONCE = 1.0


def say(text: object, *, err: bool = False, end: str = "\n", **style: Any) -> None:
    """Write lines to stdout or stderr: all output goes through this, so that nothing of a file steers a terminal.

    On one, heads of tables are bold, and all is of a `style` of `click.style`.
    """
    lines = list(map(printable, str(text).split("\n")))
    if coloured(sys.stderr if err else sys.stdout):
        heads = [below.startswith("-") and not below.strip("- ") for below in [*lines[1:], ""]]
        lines = [
            click.style(line, **({"bold": True} if head else style)) for line, head in zip(lines, heads, strict=True)
        ]
    click.echo("\n".join(lines) + end, err=err, nl=False)


def coloured(stream: IO[str] | None) -> bool:
    """Whether it is a terminal, and nobody has asked for plain text: https://no-color.org."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream is not None and stream.isatty()


def hint(*commands: Sequence[object]) -> None:
    """What may be wanted next, command by command, for who looks at a terminal; scripts read nothing of it."""
    if sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(OSError):
            lines = [shlex.join(["landscape", *map(str, words)]) for words in commands]
            say("next: " + "\n      ".join(lines), err=True, dim=True)


class Failure(click.ClickException):
    """An error in one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, in red on a terminal."""
        style: dict[str, Any] = {"fg": "red", "bold": True} if coloured(sys.stderr) else {}
        click.echo(
            f"{click.style('Error:', **style) if style else 'Error:'} {self.format_message()}", file=file, err=True
        )


class Progress:
    """A bar on a terminal, elsewhere a line every 30 s, the first at once where it will take longer than that.

    Call it with (done, total); `what` may change on the way.
    """

    def __init__(self, what: str, unit: str, *, every: float = 30.0) -> None:
        self.what, self.unit, self.every = what, unit, every
        self.last = time.monotonic()
        self.rate, self.told = Rate(), False
        self.first: int | None = None
        self.terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        left = self.rate.left(done, total)
        long = self.rate.spent >= _AT_ONCE and left > self.every and not self.told
        every = 0.1 if self.terminal else 0.0 if long else self.every
        if now - self.last < every and not (self.terminal and done == total):
            return
        self.last, self.told = now, True
        text = f": {done} of {total} {self.unit} ({done / total:.0%})"
        text += f", {_duration(left)} left" if left < math.inf else ""
        if self.terminal:
            filled = round(24 * done / total)
            # A line that breaks could not be written over.
            what = self.what[: max(shutil.get_terminal_size().columns - 26 - len(text), 0)]
            bar = "█" * filled + "░" * (24 - filled)
            with contextlib.suppress(OSError):
                click.echo(f"\r{bar} {printable(what)}{text}\x1b[K", err=True, nl=done == total)
        else:
            remark(self.what + text)


def _duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 3 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


class Interruption(Failure):
    """An end that somebody wished for, by Ctrl-C or another signal; `how` to go on, if what was done is kept.

    The exit status is 130 after Ctrl-C; after other signals 75, for "try again", if anything is kept, else 128 and the
    signal's number, as of any program.
    """

    def __init__(self, error: KeyboardInterrupt, how: str = "") -> None:
        number = error.signal if isinstance(error, Stopped) else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {number.name}"
        super().__init__(f"interrupted{by}{how and f': {how}'}")
        self.exit_code = _TRY_AGAIN if how and number != signal.SIGINT else 128 + number  # type: ignore[misc]


@contextlib.contextmanager
def interruptible(how: str) -> Iterator[None]:
    """Within the block, Ctrl-C ends in a line that says how to go on with what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interruption(error, how) from error


def remark(text: str) -> None:
    """A line for the reader, on stderr; nothing is lost where that is closed or full."""
    with contextlib.suppress(OSError):
        say(text, err=True)


def remark_unfinished(*places: str) -> None:
    """A line for each place that is a run still in training."""
    from landscape.store.checkpoints import unfinished

    for place in places:
        if line := unfinished(place):
            remark(line)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns under their names, numbers to the right."""
    cells = [list(header)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))
