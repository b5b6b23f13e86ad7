"""What a notebook shows: small tables, and bars of progress."""

import html
import importlib
from collections.abc import Mapping
from typing import Any

from landscape.core.errors import Unsupported, printable
from landscape.core.unfinished import Progress

__all__ = ["Listener", "listening_to", "table"]

#: Who hears of progress: a function of (done, total); a bar, if it is true; nobody.
Listener = Progress | bool | None

#: Longer cells are cut.
_LONGEST = 200


def table(caption: str, rows: Mapping[str, Any]) -> str:
    """Names and values as a table of HTML, in which text of others is text, and nothing runs.

    >>> table("a <b>", {"steps": 3})
    '<table><caption>a &lt;b&gt;</caption><tr><th>steps</th><td>3</td></tr></table>'
    """
    lines = "".join(f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in rows.items())
    return f"<table><caption>{_cell(caption)}</caption>{lines}</table>"


def _cell(value: Any) -> str:
    text = printable(str(value))
    return html.escape(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def listening_to(progress: Listener) -> Progress:
    """The function that hears of it; raises `Unsupported` where there is to be a bar and nothing draws one."""
    if progress is True:
        try:
            return _Bar(importlib.import_module("tqdm.auto").tqdm)
        except ImportError as error:
            raise Unsupported(
                "tqdm is not installed, which draws `progress=True`: from a clone, pip install '.[progress]', or give "
                "a function of (done, total)"
            ) from error
    return progress or _nobody


def _nobody(done: int, total: int) -> None:
    """Nobody listens."""


class _Bar:
    """A bar of tqdm's, in a notebook one of its own; another one where work begins anew."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None or done < self.bar.n:
            self._close()
            self.bar = self.make(total=total)
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.refresh()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __del__(self) -> None:
        self._close()
