"""One writer at a time: who holds an output is said, a dead holder holds nothing, and nothing stays."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import filelock
import pytest
from click.testing import Result as Outcome
from pages import valley

from landscape.core.errors import Busy, LandscapeError
from landscape.core.locks import LOCK, writing

Program = Callable[..., Outcome]


@contextlib.contextmanager
def held(output: Path, *, directory: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes."""
    program = f"""
import pathlib, sys
from landscape.core.locks import writing
with writing(pathlib.Path({str(output)!r}), directory={directory}):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == "held\n"
        yield other
    finally:
        other.kill() if other.poll() is None else None
        other.wait()
        other.stdin.close()
        other.stdout.close()


@pytest.mark.parametrize("directory", [False, True])
def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path, directory: bool) -> None:
    output = tmp_path / "out"
    with held(output, directory=directory) as other:
        told = rf"out is being written by process {other.pid} on .+ since .+: wait for it"
        with pytest.raises(Busy, match=told), writing(output, directory=directory):
            pass
        with writing(tmp_path / "other"):
            pass
        other.communicate("")
        assert other.returncode == 0
    with writing(output, directory=directory) as died:
        assert not died
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_writer_is_taken_over_and_its_death_told(tmp_path: Path) -> None:
    with held(tmp_path / "run", directory=True) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == other.pid
    with writing(tmp_path / "run", directory=True) as died:
        assert died
        (tmp_path / "run" / "here").touch()
    (tmp_path / "run" / ".here.0123.tmp").touch()
    with writing(tmp_path / "run", directory=True) as died:
        assert not died
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["here"]


def test_many_threads_write_one_after_another(tmp_path: Path) -> None:
    """Each reads, adds one and writes; whoever finds the lock held tries again."""
    output, inside, most = tmp_path / "out", [0], [0]
    (tmp_path / "count").write_text("0")

    def add() -> None:
        for _ in range(20):
            while True:
                try:
                    with writing(output):
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                        (tmp_path / "count").write_text(str(int((tmp_path / "count").read_text()) + 1))
                        inside[0] -= 1
                    break
                except Busy:
                    os.sched_yield()

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ((tmp_path / "count").read_text(), most[0]) == ("100", 1)


def test_without_locks_of_the_system_a_file_says_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLocks(filelock.FileLock):  # type: ignore[misc, valid-type]
        def acquire(self, *args: object, **options: object) -> None:
            raise NotImplementedError

    monkeypatch.setattr(filelock, "FileLock", NoLocks)
    told = rf"process {os.getpid()} on .+delete .+\.out\.lock"
    with writing(tmp_path / "out"), futures.ThreadPoolExecutor() as pool:
        with writing(tmp_path / "out"):
            pass  # what a thread holds it may use
        with pytest.raises(Busy, match=told):
            pool.submit(writing(tmp_path / "out").__enter__).result()
    with writing(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LandscapeError, match=r"cannot write .*file/out: File exists"), writing(tmp_path / "file/out"):
        pass
    with pytest.raises(RuntimeError), writing(tmp_path / "a" / "b", directory=True):
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("verb", [("animate",), ("report",), ("plot", "plane")])
def test_a_folder_that_takes_no_files_is_not_called_locked(
    landscape: Program, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    valley().save(tmp_path / "plane.h5")
    ending = {"animate": "gif", "report": "html", "plot": "png"}[verb[0]]
    done = landscape(*verb, "plane.h5", "-o", f"/proc/none.{ending}")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: cannot write /proc/none.{ending}: ")
    assert "another process" not in done.stderr


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="there is no /sys")
def test_what_is_no_disk_is_not_called_full(landscape: Program, tmp_path: Path) -> None:
    valley(100, 100).save(tmp_path / "plane.h5")
    done = landscape("export", "plane.h5", "-o", "/sys/none.csv")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: cannot write /sys/none.csv: ")
