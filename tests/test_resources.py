"""Work that needs more memory, disk or time than there is ends in one line with both numbers, before it begins."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from landscape.core import resources
from landscape.core.errors import TooMuch
from landscape.core.resources import exhausted, free_memory, in_words, paced, require_disk, require_memory

SPACE = 8 * 2**30


def ended(line: str, folder: Path, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """How the program ends under `ulimit -v` of 8 GB, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "landscape", *line.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LANDSCAPE_CONFIG_HOME": str(folder / ".config")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE)),
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three members, and one of 100,000."""
    made: Path = tmp_path_factory.mktemp("resources")
    for line in ("train life --seeds 0:3 --batches 2 -o run", "train life --seeds 0:100000 --batches 0 -o many"):
        done = ended(line, made, 120)
        assert done.returncode == 0, done.stderr
    return made


_GRID = " ".join(f"--grid {key}={','.join(map(str, range(1, 1001)))}" for key in ("batch_size", "lr"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train life --m-factor 1000000 -o new", "parameters take 8,000 GB of memory, of which"),
        ("walk --from presolve --to run --problem life -O m_factor=1000000 -o new.h5", "take 8,000 GB of memory"),
        ("train functions --width 1000000 --depth 2 -o new", "take 4,000 GB of memory"),
        ("train life --steps 1000000 -o new", "1,000,000 steps, floor(1000000 x 1) blocks, are too many"),
        ("train life --seeds 0:10000000 -o new", "at most 2000000 fit a run"),
        ("train life --data batches --batch-size 1000000000000 -o new", "batches of 1,000,000,000,000 boards take"),
        ("train life --steps 2 --batch-size 1000000000000 -o new", "batches of 1,000,000,000,000 boards take"),
        ("train life --batches 1000000000000 -o new", "the rest would take"),
        (
            "walk --from presolve --to run --samples 1000000000000 -o new.h5",
            "no samples are drawn: leave --samples",
        ),
        ("walk --from presolve --to run --sample-seed 3 -o new.h5", "no samples are drawn: leave --sample-seed out"),
        ("verify life --samples 1000000000000", "no samples are drawn: leave --samples"),
        ("verify life --steps 2 --samples 1000000000000", "1,000,000,000,000 boards of 10x10 take"),
        ("walk --from run --rays 0:10000000 -o new.h5", "at most 2000000"),
        ("plane --through presolve run/#0 run/#1 --points 100000 -o new.h5", "the values take 640 GB, and the disk of"),
        ("connect --from many --to many --pairs all -o new.h5", "4,999,950,000 paths of up to 7 bends"),
        (f"sweep life {_GRID} --seeds 0:2 --batches 1 -o new", "the grid has 1,000,000 cells"),
        ("analyse clusters many", "distances of 100,000 members, each from each, take 320 GB"),
    ],
)
def test_what_is_not_there_is_said_in_one_line_and_nothing_is_begun(folder: Path, line: str, said: str) -> None:
    before = {file: file.stat().st_size for file in folder.rglob("*")}
    done = ended(line, folder)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode in (1, 2), done.stderr
    assert last.startswith("Error: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert {file: file.stat().st_size for file in folder.rglob("*")} == before


@pytest.mark.slow
def test_what_is_moot_is_said_and_long_work_says_at_once_how_long_it_is(folder: Path) -> None:
    line = "train life --seeds 0:2 --batches 1000000 --batch-size 7 -o long"
    with subprocess.Popen(
        [sys.executable, "-m", "landscape", *line.split()],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        moot, left = process.stderr.readline(), process.stderr.readline()
        process.kill()
    assert "each step sees all data, exactly: --batch-size goes with --data batches" in moot
    assert left.startswith("train: ")
    assert " of 1000000 steps (0%), " in left
    assert left.endswith(" left\n")


def test_memory_that_is_there_is_less_than_the_address_space_has_left() -> None:
    program = """
import resource
from landscape.core.resources import free_memory
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
first = free_memory()
block = bytearray(2**30)
print(2**31 > first > free_memory() + 2**30 - 2**24)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("first", [True, False])
def test_the_limit_of_a_control_group_counts_less_what_is_used_but_for_its_cache(tmp_path: Path, first: bool) -> None:
    names = (
        ("limit_in_bytes", "usage_in_bytes", "total_inactive_file") if first else ("max", "current", "inactive_file")
    )
    for name, number in zip(names[:2], ("1000", "700"), strict=True):
        (tmp_path / f"memory.{name}").write_text(f"{number}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{names[2]} 200\n")
    assert resources._left(tmp_path, first=first) == 500
    (tmp_path / f"memory.{names[0]}").write_text("max\n")
    assert resources._left(tmp_path, first=first) == sys.maxsize


def test_a_refusal_has_both_numbers_and_what_to_write_instead(tmp_path: Path) -> None:
    require_memory(free_memory() / 2, "boards", "take fewer")
    with pytest.raises(TooMuch, match=r"boards take 1,000,000 GB of memory, of which .+ are free: take fewer$"):
        require_memory(1e15, "boards", "take fewer")
    with pytest.raises(TooMuch, match=r"take fewer, or go on all the same with `yes=True`$"):
        require_memory(1e15, "boards", "take fewer", estimated=True)
    require_memory(1e15, "boards", "take fewer", yes=True)
    with pytest.raises(TooMuch, match=rf"values take 1e\+09 GB|values take .* GB, and the disk of {tmp_path} has"):
        require_disk(1e18, tmp_path / "not" / "there", "values", "take fewer")
    with pytest.raises(TooMuch, match=r"take fewer$"):
        require_disk(1e18, tmp_path / "not" / "there", "values", "take fewer", yes=None)
    assert [in_words(size) for size in (5e6, 2.5e9, 4e11)] == ["5 MB", "2.5 GB", "400 GB"]
    assert exhausted(MemoryError())
    assert exhausted(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not exhausted(RuntimeError("shapes differ"))


def test_years_are_refused_by_the_first_seconds_and_what_was_done_before_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told: list[tuple[int, int]] = []

    def work(total: int, *, yes: bool = False) -> None:
        tell = paced(lambda *done: told.append(done), "take fewer", yes=yes)
        for step in range(5):  # one a second, after 500 that were done before
            now[0] += 1
            tell(500 + step, total)

    work(365 * 86400)
    assert len(told) == 5
    with pytest.raises(TooMuch, match=r"502 of 94,608,000 are done, .+ would take 3 years: take fewer, or go on"):
        work(3 * 365 * 86400)
    work(3 * 365 * 86400, yes=True)


def test_of_work_that_tells_twice_of_the_same_nothing_is_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[tuple[int, int]]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tell = paced(lambda *done: told.append(done), "take fewer")
    for done in (0, 0, 51):
        now[0] += 10
        tell(done, 51)
    assert told == [(0, 51), (0, 51), (51, 51)]
