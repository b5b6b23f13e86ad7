"""Workers: each task is done once, whoever dies at it, and nobody is left behind."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.shares import Sharing, balanced, in_order, threads_each
from landscape.core.workers import Call, Crew, Perform, Tell

#: A task: numbers from one to another, and a folder.
Task = tuple[int, int, str]


def squaring(dies: tuple[int, ...] = (), always: bool = False, fails: str = "", waits: bool = False) -> Perform:
    """Squares of numbers, one after another; some, the first time or always, kill their worker."""

    def perform(task: Task, tell: Tell) -> Iterator[tuple[Any, Task | None]]:
        begin, end, folder = task
        if fails:
            raise {"ours": Mismatch, "another": ValueError}[fails](f"task {begin} is wrong")
        if waits:
            Path(folder, f"{os.getpid()}.begun").touch()
            try:
                tell("begun")
                time.sleep(60)
            except KeyboardInterrupt:
                Path(folder, f"{os.getpid()}.kept").touch()
                raise
        for number in range(begin, end):
            seen = Path(folder, str(number))
            if number in dies and (always or not seen.exists()):
                seen.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            logging.getLogger("landscape").warning("number %d", number)
            tell(number)
            yield (number, number**2), ((number + 1, end, folder) if number + 1 < end else None)

    return perform


def squares(folder: Path, workers: int = 2, tasks: int = 4, **options: Any) -> list[tuple[int, int]]:
    every = ((3 * number, 3 * number + 3, str(folder)) for number in range(tasks))
    with Crew(Call(squaring, options), workers=workers, threads=1) as crew:
        return [said for _, is_answer, said in crew.perform(every, lambda task: f"number {task[0]}") if is_answer]


def alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_task_is_done_once_by_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    assert sorted(squares(tmp_path, workers)) == [(number, number**2) for number in range(12)]


def test_what_a_dead_worker_leaves_is_done_by_another_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sorted(squares(tmp_path, dies=(0, 4, 8, 11))) == [(number, number**2) for number in range(12)]
    assert caplog.text.count("a worker has died at number") == 4
    assert "by SIGKILL: another goes on with it" in caplog.text
    assert all(f"number {number}" in caplog.messages for number in range(12))


def test_a_task_at_which_workers_die_again_and_again_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"^3 workers have died at number 4, the last by SIGKILL: .+`workers`"):
        squares(tmp_path, dies=(4,), always=True)


@pytest.mark.parametrize(("fails", "kind"), [("ours", Mismatch), ("another", ValueError)])
def test_what_a_worker_raises_is_raised(tmp_path: Path, fails: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^task 0 is wrong$"):
        squares(tmp_path, fails=fails, tasks=1)


def test_what_cannot_be_given_to_another_process_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"^other processes cannot be given what was made in this one .+ module"):
        squares(tmp_path, dies=lambda: None)


def test_a_script_is_not_run_again_and_what_it_holds_is_told_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from landscape.core.workers import Call, Crew\n"
        "from landscape.core.errors import LandscapeError\n"
        "def mine():\n    return lambda task, tell: iter([(task, None)])\n"
        "print('once')\n"
        "try:\n"
        "    with Crew(Call(mine, {}), workers=1, threads=1) as crew:\n"
        "        list(crew.perform(iter([1]), str))\n"
        "except LandscapeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second = done.stdout.splitlines()
    assert first == "once"
    assert "cannot be given what was made in this one" in second


def test_what_lies_in_the_working_directory_is_not_taken_for_landscape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "landscape").mkdir()
    (tmp_path / "landscape" / "__init__.py").write_text("raise SystemExit('not me')")
    (tmp_path / "json.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    assert len(squares(tmp_path)) == 12


def test_who_is_interrupted_lets_workers_keep_what_they_have(tmp_path: Path) -> None:
    tasks = iter([(number, number + 1, str(tmp_path)) for number in range(2)])
    with contextlib.suppress(KeyboardInterrupt), Crew(Call(squaring, {"waits": True}), workers=2, threads=1) as crew:
        for number, _ in enumerate(crew.perform(tasks, str)):
            if number == 1:
                raise KeyboardInterrupt
    begun, kept = ({file.stem for file in tmp_path.glob(f"*.{name}")} for name in ("begun", "kept"))
    assert len(begun) == 2
    assert kept == begun
    assert not any(alive(int(each)) for each in begun)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})
import test_crew
from landscape.core.workers import Call, Crew
tasks = iter([(0, 1, {os.fspath(tmp_path)!r}), (1, 2, {os.fspath(tmp_path)!r})])
with Crew(Call(test_crew.squaring, {{"waits": True}}), workers=2, threads=1) as crew:
    list(crew.perform(tasks, str))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
        workers = [int(file.stem) for file in tmp_path.glob("*.begun")]
        assert all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(map(alive, workers)))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("unit", [1, 4, 7])
@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_are_all_there_is_in_whole_units(parts: int, unit: int) -> None:
    for items in (range(1), range(3, 24), range(100)):
        found = balanced(items, parts, unit)
        assert [item for part in found for item in part] == list(items)
        assert all(found)
        assert all((part.start - items.start) % unit == 0 for part in found)
        units = [-(-len(part) // unit) for part in found]
        assert max(units) - min(units) <= 1
        assert len(found) == min(parts, -(-len(items) // unit))


def test_shards_are_parts_and_wrong_ones_are_refused() -> None:
    shards = [Sharing(shard=f"{number}/3").part(10, unit=2, what="lines") for number in (1, 2, 3)]
    assert [item for part in shards for item in part] == list(range(10))
    for wrong in ("0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(LandscapeError, match=r"^`shard` cannot be '.+': write I/N, such as 1/4"):
            Sharing(shard=wrong)
    with pytest.raises(LandscapeError, match=r"nothing to do: there are 3 lines, which are computed 2 at a time"):
        Sharing(shard="3/3").part(3, unit=2, what="lines")
    with pytest.raises(LandscapeError, match="workers"):
        Sharing(workers=0)
    assert Sharing(shard="2/3").named(Path("a/b.h5")) == Path("a/b-shard-2-of-3.h5")
    assert Sharing(shard="2/3").named(Path("a/b=0.5")) == Path("a/b=0.5-shard-2-of-3")


def test_threads_are_shared_among_workers() -> None:
    assert threads_each(1, 7) == 7
    assert threads_each(1000, 7) == 1


def said(shard: str, begin: int, **other: Any) -> dict[str, Any]:
    return {"shard": shard, "begin": begin, "of": 9, "work": "x", **other}


def test_shards_are_put_in_order_and_wrong_sets_are_refused_by_name() -> None:
    a, b, c = (("a", said("1/3", 0)), ("b", said("2/3", 3)), ("c", said("3/3", 6)))
    assert in_order([b, c, a]) == [2, 0, 1]
    for parts, why in [
        ((a, c), r"1 shard of 3 missing: 2/3"),
        ((a, b, c, b), r"b and b are both shard 2/3"),
        ((a, b, ("d", None)), r"d is no shard, but whole"),
        ((a, b, ("d", said("3/3", 6, work="y"))), r"d is a shard of other work than a"),
        ((a, b, ("d", said("3/4", 6))), r"d is shard 3/4, and a 1/3"),
    ]:
        with pytest.raises(Mismatch, match=why):
            in_order(parts)
