"""Streams that are closed or full, disks that cannot be written: results are whole, and what cannot be is one line."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.store.results import Result
from landscape.training.train import Training, train

pytestmark = pytest.mark.slow

PROGRAM = f"{shlex.quote(sys.executable)} -m landscape"


def shell(command: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in which L is the program."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; L() {{ {PROGRAM} "$@"; }}; {command}'],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surroundings")
    train(Life(), Training(batches=20), path / "run", seeds=range(4))
    done = shell("L walk --from presolve --to run -o walk.h5", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>/dev/full", "2>&1 | head -0"])
def test_results_are_whole_whatever_becomes_of_the_streams(place: Path, streams: str) -> None:
    done = shell(f"L walk --from presolve --to run --force -o again.h5 {streams}", place)
    assert done.returncode in ((0, 1) if "head" in streams else (0,)), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (Result.read(place / "again.h5").loss == Result.read(place / "walk.h5").loss).all()
    done = shell(f"rm -rf more; L train life --seeds 0:4 --batches 20 -o more {streams}", place)
    assert "Traceback" not in done.stdout + done.stderr
    assert (
        Run.open(place / "more").checkpoint().sources[0].digest
        == Run.open(place / "run").checkpoint().sources[0].digest
    )


def test_a_full_standard_output_is_one_line(place: Path) -> None:
    done = shell("L info run > /dev/full", place)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: cannot read or write standard output: No space left on device\n",
    )
    done = shell("L info run | head -1", place)
    assert (done.stdout, done.stderr) == ("kind: run\n", "")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, which mounts a read-only disk")
def test_read_only_is_enough_to_read(place: Path, tmp_path: Path) -> None:
    """Runs and results of others on a disk that cannot be written, without a home and in a directory without rights."""
    reads = ["info run", f"walk --from presolve --to run -o {tmp_path}/walk.h5"]
    reads += [f"plot walk walk.h5 -o {tmp_path}/walk.png"]
    writes = ["walk --from presolve --to run", "train life --seeds 0:2"]
    lines = [f"L {verb} > /dev/null || echo FAILED {verb}" for verb in reads]
    lines += [f"L {verb} > /dev/null 2>> {tmp_path}/said && echo WROTE {verb}" for verb in writes]
    inside = "; ".join(
        [
            f"mount --bind {place} {place} && mount -o remount,ro,bind {place} || exit 77",
            f"cd {place}",
            f'L() {{ {PROGRAM} "$@"; }}',
            *lines,
            "true",
        ]
    )
    done = shell(f"unshare -rm bash -c {shlex.quote(inside)}", place, HOME="/nonexistent", XDG_CONFIG_HOME="")
    if "Operation not permitted" in done.stderr or done.returncode == 77:
        pytest.skip("needs the right to mount a read-only disk")
    assert done.stdout == "", done.stderr
    assert (tmp_path / "walk.h5").exists()
    assert (tmp_path / "walk.svg").exists()
    said = (tmp_path / "said").read_text().splitlines()
    assert [line.startswith("Error: cannot write ") for line in said] == [True] * len(writes)
