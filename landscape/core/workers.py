"""Processes that work on tasks, started anew; what a dead one had begun is given to another.

A process of `multiprocessing` would run the script of its user once more, and a pool of `concurrent.futures` is broken
when one of its processes dies. So each worker is an interpreter of its own at the other end of a pair of sockets, whose
closed end says at once that it is gone, however that happened; so does its parent's, which ends the worker.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from landscape.core.errors import LandscapeError

__all__ = ["Call", "Crew", "Perform", "Tell"]

#: Deaths of workers at one task, without any progress, after which it is given up.
_DEATHS = 3

#: What a worker runs: landscape comes from where its parent has it, whatever lies beside the user.
_PROGRAM = """
import json, sys
said = json.loads(sys.argv[1])
sys.path[:] = [said["root"], *said["path"]]
from landscape.core.workers import _work
sys.path[:], sys.argv[:] = said["path"], said["argv"]
_work(int(said["channel"]))
"""

#: Sends what is no answer, such as progress.
Tell = Callable[[Any], None]

#: Does a task, part by part: gives each answer with the task that is left then, None at the end, which is done by
#: another worker if this one dies.
Perform = Callable[[Any, Tell], Iterator[tuple[Any, Any]]]

_log = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True)
class Call:
    """What a worker does first, once: `function(**arguments)` gives what performs its tasks."""

    function: Callable[..., Perform]
    arguments: Mapping[str, Any]


@dataclasses.dataclass(eq=False)
class _Worker:
    process: "subprocess.Popen[bytes]"
    channel: Connection
    task: Any = None
    deaths: int = 0


class Crew:
    """Up to so many workers with so many threads each, from `with` to its end, which stops them all."""

    def __init__(self, call: Call, *, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self._call = _pickled(call)
        self._crew: list[_Worker] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Let idle workers go, and others, as if interrupted, keep what they have; a second interruption kills them."""
        try:
            for worker in self._crew:
                with contextlib.suppress(OSError):
                    worker.channel.send_bytes(_pickled("stop" if worker.task is not None else None))
            for worker in self._crew:
                while worker.process.poll() is None:  # a worker that sends its answers is not kept waiting
                    if worker.channel in wait([worker.channel], timeout=0.05):
                        try:
                            worker.channel.recv_bytes()
                        except (EOFError, OSError):
                            break
                worker.process.wait()
        finally:
            for worker in self._crew:
                worker.process.kill()
                worker.process.wait()
                worker.channel.close()

    def perform(self, tasks: Iterator[Any], named: Callable[[Any], str]) -> Iterator[tuple[Any, bool, Any]]:
        """Let tasks be done, in any order: gives (task, whether that is an answer, answer, or what was told) as they
        come. What a worker raises, is raised. `named` says a task in words.

        Raises:
            LandscapeError: Several workers have died at one task.
        """
        again: list[tuple[Any, int]] = []
        while True:
            self._hand_out(tasks, again)
            busy = [worker for worker in self._crew if worker.task is not None]
            if not busy:
                return
            for channel in wait([worker.channel for worker in busy]):
                worker = next(each for each in busy if each.channel is channel)
                try:
                    kind, *said = pickle.loads(worker.channel.recv_bytes())
                except (EOFError, OSError, pickle.UnpicklingError):
                    again.append(self._buried(worker, named))
                    continue
                if kind == "log":
                    _log.log(*said)
                elif kind == "error":
                    worker.task = None
                    raise said[0]
                elif kind == "told":
                    yield worker.task, False, said[0]
                else:
                    before, worker.task, worker.deaths = worker.task, said[1], 0
                    if said[0] is not None:
                        yield before, True, said[0]

    def _hand_out(self, tasks: Iterator[Any], again: list[tuple[Any, int]]) -> None:
        """Give each idle worker a task, and begin more workers while there are tasks."""
        while idle := next((each for each in self._crew if each.task is None), len(self._crew) < self.workers):
            task, deaths = again.pop(0) if again else (next(tasks, None), 0)
            if task is None:
                return
            worker = idle if isinstance(idle, _Worker) else self._started()
            worker.task, worker.deaths = task, deaths
            with contextlib.suppress(OSError):  # it is dead: its closed channel tells
                worker.channel.send_bytes(_pickled(task))

    def _started(self) -> _Worker:
        ours, theirs = socket.socketpair()
        said = {
            "root": str(Path(__file__).parents[2]),
            "path": sys.path,
            "argv": sys.argv,
            "channel": theirs.fileno(),
        }
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps(said)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **threads},
                start_new_session=True,  # signals of a terminal reach the parent alone, which stops it
            )
        worker = _Worker(process, Connection(ours.detach()))
        self._crew.append(worker)
        with contextlib.suppress(OSError):
            worker.channel.send_bytes(self._call)
        return worker

    def _buried(self, worker: _Worker, named: Callable[[Any], str]) -> tuple[Any, int]:
        """What a dead worker leaves to be done, and how many have died at it."""
        worker.channel.close()
        worker.process.kill()  # it may have closed its end alone
        status = worker.process.wait()
        self._crew.remove(worker)
        deaths, what = worker.deaths + 1, named(worker.task)
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        if deaths == _DEATHS:
            raise LandscapeError(
                f"{deaths} workers have died at {what}, the last {how}: it may be too large for the memory of this "
                "machine; take fewer `workers`, or one to see what goes wrong (what is finished is kept for that)"
            )
        _log.warning("a worker has died at %s %s: another goes on with it", what, how)
        return worker.task, deaths


def _pickled(what: Any) -> bytes:
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise LandscapeError(_unsendable(error)) from error


def _unsendable(error: Exception) -> str:
    line = " ".join(str(error).split())[:200]
    return (
        f"other processes cannot be given what was made in this one ({line}): put it into a module, name that with "
        '`problem="pkg.module:NAME"`, and give networks as files; or leave `workers` out'
    )


# In the worker --------------------------------------------------------------------------------------------------------


class _Channel(logging.Handler):
    """The worker's end: what it is given, and what it says; what it logs at a task is logged by its parent."""

    def __init__(self, number: int) -> None:
        super().__init__(logging.INFO)
        self.connection, self.tasks = Connection(number), queue.SimpleQueue[Any]()
        self.sending, self.at_task = threading.Lock(), False

    def say(self, *what: Any) -> None:
        message = pickle.dumps(what)
        with self.sending:
            self.connection.send_bytes(message)

    def emit(self, record: logging.LogRecord) -> None:
        if self.at_task:
            self.say("log", record.levelno, record.getMessage())

    def listen(self) -> None:
        """Take what comes; without its parent a worker ends at once."""
        while True:
            try:
                message = self.connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)
            if message == pickle.dumps("stop"):
                os.kill(os.getpid(), signal.SIGINT)
            else:
                self.tasks.put(message)


def _work(channel_number: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler sends them to all; the parent stops its workers
        signal.signal(number, signal.SIG_IGN)
    channel = _Channel(channel_number)
    log = logging.getLogger("landscape")
    log.setLevel(logging.INFO)
    log.addHandler(channel)
    log.propagate = False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=channel.listen, daemon=True).start()
        _serve(channel)
    except KeyboardInterrupt:
        pass
    except OSError:  # nobody listens
        os._exit(1)
    sys.stderr.flush()
    os._exit(0)  # whatever threads there are


def _serve(channel: _Channel) -> None:
    try:
        try:
            call = pickle.loads(channel.tasks.get())
        except (AttributeError, ImportError, pickle.UnpicklingError) as error:
            raise LandscapeError(_unsendable(error)) from error
        perform = call.function(**call.arguments)
        while (task := pickle.loads(channel.tasks.get())) is not None:
            channel.at_task = True
            for answer, rest in perform(task, lambda what: channel.say("told", what)):
                channel.say("answer", answer, rest)
            channel.at_task = False
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of its user's own kind
            error = RuntimeError(f"{type(error).__name__}: {error}")
        if not isinstance(error, LandscapeError) and os.environ.get("LANDSCAPE_DEBUG"):
            import traceback

            traceback.print_exc()
        channel.say("error", error)
