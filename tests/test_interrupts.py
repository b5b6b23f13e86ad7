"""Signals that ask to stop: between steps, never lost, and as before afterwards."""

import os
import signal
import time

import pytest

from landscape.core.interrupts import Stopped, between_steps, listening


def test_a_step_is_done_whole_and_the_interruption_comes_after_it() -> None:
    before, done = signal.getsignal(signal.SIGTERM), list[int]()

    def steps() -> None:
        with listening(), between_steps() as heed:
            for step in range(5):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                done.append(step)
                heed()

    with pytest.raises(Stopped) as caught:
        steps()
    assert done == [0, 1, 2]
    assert caught.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_one_does_not_wait() -> None:
    done = list[str]()

    def twice() -> None:
        with listening(), between_steps():
            for which in ("after the first", "after the second"):
                os.kill(os.getpid(), signal.SIGTERM)
                done.append(which)

    with pytest.raises(Stopped):
        twice()
    assert done == ["after the first"]


class Falling:
    """Something whose end brings a signal."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_one_that_comes_where_exceptions_are_lost_is_raised_later() -> None:
    def fall() -> None:
        with listening():
            Falling()
            time.sleep(5)  # which the signal ends

    with pytest.raises(Stopped):
        fall()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(), between_steps() as heed:
            os.kill(os.getpid(), signal.SIGHUP)
            heed()
    finally:
        signal.signal(signal.SIGHUP, before)
