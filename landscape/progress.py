"""What long work tells whoever waits for it."""

from collections.abc import Callable

__all__ = ["Progress"]

#: Called with (done, total) as work goes on.
Progress = Callable[[int, int], None]
