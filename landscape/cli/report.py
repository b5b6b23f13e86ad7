"""What the user sees while waiting and at the end: progress on stderr, tables on stdout."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from landscape.core.errors import LandscapeError

__all__ = ["Progress", "interruptible", "remark", "remark_unfinished", "table"]


class Progress:
    """A bar on a terminal, elsewhere a line every 30 s. Call it with (done, total); `what` may change on the way."""

    def __init__(self, what: str, unit: str, *, every: float = 30.0) -> None:
        self.what, self.unit, self.every = what, unit, every
        self.start = self.last = time.monotonic()
        self.first: int | None = None
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        self.first = done - 1 if self.first is None else self.first
        if now - self.last < (0.1 if self.terminal else self.every) and not (self.terminal and done == total):
            return
        self.last = now
        left = (now - self.start) / max(done - self.first, 1) * (total - done)
        text = f": {done} of {total} {self.unit} ({done / total:.0%}), {left:.0f} s left"
        if self.terminal:
            filled = round(24 * done / total)
            # A line that breaks could not be written over.
            what = self.what[: max(shutil.get_terminal_size().columns - 26 - len(text), 0)]
            click.echo(f"\r{'█' * filled}{'░' * (24 - filled)} {what}{text}\x1b[K", err=True, nl=done == total)
        else:
            click.echo(self.what + text, err=True)


@contextlib.contextmanager
def interruptible(how: str) -> Iterator[None]:
    """Within the block, Ctrl-C ends in a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise LandscapeError(f"interrupted: {how}") from error


def remark(text: str) -> None:
    """A line for the reader, on stderr."""
    click.echo(text, err=True)


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
    return str(value)
