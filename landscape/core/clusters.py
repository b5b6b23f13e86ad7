"""Jobs on other machines, or as if they were: SLURM by submitit (extra `slurm`), Dask (extra `dask`).

A job is a function without arguments, which leaves what it makes on a file system that all machines share, and takes up
what an earlier try has left. What is told here is that a job has ended, not how: whoever asked looks at its output.
Nothing that a job's machine writes is unpickled here.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from landscape.core.errors import LandscapeError
from landscape.core.interrupts import asked

__all__ = ["Cluster", "Jobs", "On", "opened"]

On = Literal["local", "slurm", "dask"]

#: What is done, by its number.
Jobs = Mapping[int, Callable[[], None]]

#: Seconds between looks at jobs that are not on this machine, and at those that are.
_FAR, _NEAR = 10.0, 0.2

#: Seconds that jobs which are stopped have to keep what they have, and of these to come to the end of a step.
_PATIENCE, _STEP = 30.0, 5.0


@runtime_checkable
class Cluster(Protocol):
    """What runs jobs."""

    def known(self, ids: Mapping[int, str]) -> Mapping[int, str]:
        """Those of an earlier process's jobs that are still waiting or running."""

    def submit(self, jobs: Jobs) -> Mapping[int, str]:
        """Begin some jobs; what those are called that go on without this process."""

    def ended(self) -> Iterator[int]:
        """Jobs as they end, however they do; more may be submitted meanwhile."""

    def close(self, *, cancel: bool) -> None:
        """Let go of the jobs, or stop those on this machine."""


def opened(
    on: On,
    folder: Path,
    *,
    processors: int,
    minutes: int,
    at_once: int,
    address: str | None,
    options: Mapping[str, Any],
) -> Cluster:
    """A cluster whose own files go to a folder.

    Args:
        on: SLURM; Dask, here or at an `address`; or local, submitit's own processes here.
        folder: Made if it is not there, for this user alone.
        processors: Of each job.
        minutes: That a job may take, until it is begun again.
        at_once: Jobs that run at a time on this machine, if on any.
        address: Of a Dask scheduler that runs.
        options: Of `sbatch`, by their long names.

    Raises:
        LandscapeError: It, or its library, is not there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if on == "dask":
        return _Dask(processors, at_once, address)
    return _Submitit(on, folder, processors, minutes, at_once, options)


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LandscapeError(f"this needs {name}: pip install 'landscape-walks[{extra}]'") from error


class _Submitit:
    """Jobs of submitit: an array of SLURM, or processes of this machine."""

    def __init__(
        self, on: On, folder: Path, processors: int, minutes: int, at_once: int, options: Mapping[str, Any]
    ) -> None:
        submitit = _library("submitit", "slurm")
        # A job that comes to the end of its time is begun again, as often as it takes.
        try:
            self.executor = submitit.AutoExecutor(folder, cluster=on, slurm_max_num_timeout=10_000)
        except RuntimeError as error:
            raise LandscapeError(f"{' '.join(str(error).split())} Try it here with `on=local`") from error
        own = {"slurm_additional_parameters": dict(options)} if on == "slurm" else {}
        self.executor.update_parameters(
            timeout_min=minutes, cpus_per_task=processors, tasks_per_node=1, name="landscape", **own
        )
        self.here, self.at_once = on == "local", at_once
        self.running: dict[int, Any] = {}
        self.waiting: dict[int, Callable[[], None]] = {}  # which have no queue but this here

    def known(self, ids: Mapping[int, str]) -> Mapping[int, str]:
        if self.here:  # they are no children of this process; who holds a lock there is waited for
            return {}
        folder, kind = self.executor.folder, self.executor._executor.job_class
        jobs = {number: kind(folder, name) for number, name in ids.items()}
        self.running |= {number: job for number, job in jobs.items() if not job.done(force_check=True)}
        return {number: ids[number] for number in self.running}

    def submit(self, jobs: Jobs) -> Mapping[int, str]:
        if self.here:
            self.waiting |= jobs
            return {}
        begun = dict(zip(jobs, self.executor.submit_array(list(jobs.values())), strict=True))
        self.running |= begun
        return {number: str(job.job_id) for number, job in begun.items()}

    def ended(self) -> Iterator[int]:
        while self.running or self.waiting:
            while self.waiting and len(self.running) < self.at_once:
                number = next(iter(self.waiting))
                with _deaf():
                    self.running[number] = self.executor.submit(self.waiting.pop(number))
            done = [number for number, job in self.running.items() if job.done()]
            for number in done:
                del self.running[number]
                yield number
            if not done:
                time.sleep(_NEAR if self.here else _FAR)

    def close(self, *, cancel: bool) -> None:
        if self.here and cancel:
            processes = [job._process for job in self.running.values() if job._process is not None]
            for process in processes:  # hands it on to its job, which keeps what it has
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)


class _Dask:
    """Tasks of a Dask scheduler, which gives those of a worker that dies to another."""

    def __init__(self, processors: int, at_once: int, address: str | None) -> None:
        self.distributed = _library("distributed", "dask")
        self.cluster = None
        if address is None:
            _library("cryptography", "dask")
            # Whoever connects to a scheduler, or a worker, can run code there: on this machine alone, and only who has
            # the certificate that is made here and never written.
            with _deaf():
                self.cluster = self.distributed.LocalCluster(
                    n_workers=at_once,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=None,
                    security=self.distributed.Security.temporary(),
                    env={"OMP_NUM_THREADS": str(processors)},
                    silence_logs=50,
                )
        try:
            self.client = self.distributed.Client(self.cluster or address, timeout=30)
        except (OSError, ValueError) as error:
            raise LandscapeError(f"there is no Dask scheduler at {address}: {error}") from error
        self.running: dict[int, Any] = {}

    def known(self, ids: Mapping[int, str]) -> Mapping[int, str]:
        return {}  # a scheduler forgets the tasks of a client that is gone

    def submit(self, jobs: Jobs) -> Mapping[int, str]:
        for number, job in jobs.items():
            name = f"landscape-{uuid.uuid4()}"
            self.running[number] = self.client.submit(_Quiet(job, name), key=name)
        return {}

    def ended(self) -> Iterator[int]:
        while self.running:
            self.distributed.wait(list(self.running.values()), return_when="FIRST_COMPLETED")
            for number in [number for number, future in self.running.items() if future.done()]:
                del self.running[number]
                yield number

    def _await(self, end: float) -> None:
        while any(self.client.run(_is_busy).values()) and time.monotonic() < end:
            time.sleep(_NEAR)

    def close(self, *, cancel: bool) -> None:
        if cancel and self.running:
            names = [future.key for future in self.running.values()]
            with contextlib.suppress(Exception):  # whatever a scheduler that goes down raises
                end = time.monotonic() + _PATIENCE
                self.client.run(_ask, names)
                self._await(end - _PATIENCE + _STEP)
                self.client.run(_interrupt)
                self._await(end)
            self.client.cancel(list(self.running.values()), force=True)
        self.client.close()
        if self.cluster is not None:
            self.cluster.close()


#: Threads of a worker of Dask that do a job, by its name there, and jobs that it is not to begin.
_threads: dict[str, int] = {}
_stopped: set[str] = set()


def _ask(names: Sequence[str]) -> None:
    """On a worker: begin none of these jobs, and let what trains stop after its step, as after Ctrl-C."""
    _stopped.update(names)
    if _stopped & _threads.keys():
        asked.set()


def _interrupt() -> None:
    """On a worker: stop at once what is not between two steps, as walks are: they keep what they have."""
    for name, thread in list(_threads.items()):
        if name in _stopped:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))


def _is_busy() -> bool:
    """On a worker: does it do a job?"""
    return bool(_threads)


@dataclasses.dataclass(frozen=True)
class _Quiet:
    """A job whose errors stay where it ran: it says itself what went wrong."""

    job: Callable[[], None]
    name: str

    def __call__(self) -> None:
        if self.name in _stopped:
            return
        try:
            with contextlib.suppress(Exception, KeyboardInterrupt):
                _threads[self.name] = threading.get_ident()
                self.job()
        finally:
            _threads.pop(self.name, None)
            asked.clear()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Within the block processes are begun that a Ctrl-C at the terminal does not reach: this one tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
