"""Signals that ask a program to stop: Ctrl-C, a scheduler's SIGTERM, a terminal that is gone."""

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Stopped", "asked", "between_steps", "listening"]

#: SIGHUP is not on every system.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


#: Set, all work in other threads than the main one, of which signals reach none, is to stop between two steps.
asked = threading.Event()


class Stopped(KeyboardInterrupt):
    """Somebody wants the program to end: by which signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Interrupt; a little later where Python would print what is raised and go on."""
    if _is_lost(frame):
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
        return
    raise Stopped(number)


def _is_lost(frame: FrameType | None) -> bool:
    """Whether what is raised here is lost, as in `__del__` and where weak references are cleared away."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def _handled(numbers: list[int], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Within the block a handler has these signals; outside of the main thread, where that cannot be, nothing is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP interrupt as Ctrl-C does, by a `Stopped`; ignored signals stay ignored."""
    numbers = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    with _handled(numbers, _stop):
        yield


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Within the block an interruption waits until what is given is called, which raises it: a step is done whole, or
    not at all. A second one does not wait.

    Only signals that would raise an exception wait; what ends the process at once, still does.
    """
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if waiting:
            waiting.clear()
            raise_now(number, frame)
        waiting.append(number)

    def raise_now(number: int, frame: FrameType | None = None) -> None:
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    def check() -> None:
        if waiting:
            raise_now(waiting.pop())
        if asked.is_set() and threading.current_thread() is not threading.main_thread():
            raise Stopped

    with _handled([number for number, handler in before.items() if callable(handler)], note):
        yield check
    check()
