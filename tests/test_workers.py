"""Walks, planes, trainings and sweeps by several workers, and by shards: the bytes are those of one process."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.core import provenance
from landscape.core.errors import LandscapeError, Mismatch
from landscape.evaluation import evaluate
from landscape.problems.registry import create
from landscape.store.checkpoints import Run, read_tensors
from landscape.store.results import Result
from landscape.training import sweep as sweeps
from landscape.training import train as trainings
from landscape.training.sweep import sweep

pytestmark = pytest.mark.slow

CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
OTHERS: set[str] = set()

#: A problem of one's own, with dropout, statistics and data of its own, in a file.
OWN = """
import torch, landscape
from torch import nn
torch.manual_seed(0)
x = torch.randn(40, 3)
model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 1))
PROBLEM = landscape.Problem.from_model(model, (x, x[:, :1] * 2), "mse")
"""


@pytest.fixture(autouse=True)
def _same_stamp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files say the same time and command, and are made in a folder of their own."""
    monkeypatch.setattr(provenance, "stamp", lambda: {"created": "now", "command": [], "versions": {}})
    monkeypatch.chdir(tmp_path)


def contents(folder: Path, *without: str) -> Mapping[str, Any]:
    """The bytes of all files of a directory; documents of runs without what depends on the hour, and `without` more."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != ".lock":
            name = str(file.relative_to(folder))
            found[name] = file.read_bytes()
            if file.suffix == ".json":
                own = ("created", "command", "versions", "sha256", *without)
                found[name] = {key: value for key, value in json.loads(found[name]).items() if key not in own}
    return found


@pytest.fixture(autouse=True)
def others() -> None:
    """What another test has left running in this process is no worker of these."""
    OTHERS.clear()
    OTHERS.update(children() if CHILDREN.exists() else ())


def children() -> list[str]:
    """The processes that this one has begun since its test did."""
    return [each for each in CHILDREN.read_text().split() if each not in OTHERS]


def killing(times: int = 1) -> Callable[[int, int], None]:
    """A progress callback that kills a worker of this process, now and then."""
    left = [times]

    def progress(done: int, total: int) -> None:
        workers = children()
        if left[0] and workers:
            left[0] -= 1
            os.kill(int(workers[-1]), signal.SIGKILL)

    return progress


def interrupting(done: int, total: int) -> None:
    if done > total / 5:
        raise KeyboardInterrupt


needs_proc = pytest.mark.skipif(not CHILDREN.exists(), reason=f"needs {CHILDREN}")


@pytest.mark.parametrize("options", [{"pairs": "all"}, {"per": "layer"}], ids=lambda each: next(iter(each)))
def test_a_walk_of_two_workers_has_the_bytes_of_one(run: Run, options: dict[str, Any]) -> None:
    given = dict(problem="life", points=11, **options)
    end = run if "pairs" in options else "presolve"
    one = landscape.walk(run, end, **given, save="one.h5")
    two = landscape.walk(run, end, **given, save="two.h5", workers=2)
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
    for name, value in one.values.items():
        np.testing.assert_array_equal(value, two[name])
    assert sorted(file.name for file in Path().iterdir()) == ["one.h5", "two.h5"]
    if "per" in options:
        np.testing.assert_array_equal(landscape.walk(run, end, **given, workers=3).loss, one.loss)


@needs_proc
def test_a_worker_that_is_killed_costs_nothing_but_time(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    landscape.walk(run, run, pairs="all", points=11, save="one.h5")
    landscape.walk(run, run, pairs="all", points=11, save="two.h5", workers=2, progress=killing(2))
    assert "by SIGKILL: another goes on with it" in caplog.text
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
    assert not children()


@needs_proc
def test_an_interrupted_walk_goes_on_with_what_is_kept(run: Run) -> None:
    landscape.walk(run, run, pairs="all", points=11, save="one.h5")
    told: list[int] = []
    for _ in range(10):  # what is answered out of its order is not kept
        with pytest.raises(KeyboardInterrupt):
            landscape.walk(run, run, pairs="all", points=11, save="two.h5", workers=2, progress=interrupting)
        assert not children()
        if list(Path("two.h5.parts").glob("lines-*.h5")):
            break
    landscape.walk(
        run, run, pairs="all", points=11, save="two.h5", workers=2, progress=lambda done, _: told.append(done)
    )
    assert told[0] > 11
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()


def test_shards_of_walks_are_merged_to_the_bytes_of_the_whole(run: Run) -> None:
    given: dict[str, Any] = {"pairs": "all", "points": 11}
    whole = landscape.walk(run, run, **given, save="one.h5")
    files = [Path(f"{number}.h5") for number in (1, 2, 3)]
    parts = [landscape.walk(run, run, **given, save=file, shard=f"{file.stem}/3") for file in files]
    assert sum(map(len, parts)) == len(Result.read("one.h5"))
    assert all(part["line"][0] == 0 and part.about["part"]["of"] == 276 for part in parts)
    middle = parts[1].model_at(0.5, line=0)
    line = parts[1].about["part"]["begin"]
    assert torch.equal(next(middle.parameters()), next(whole.model_at(0.5, line=line).parameters()))
    evaluate.merge([files[2], files[0], files[1]], Path("merged.h5"))
    assert Path("one.h5").read_bytes() == Path("merged.h5").read_bytes()
    with pytest.raises(LandscapeError, match=r"merged.h5 exists"):
        evaluate.merge(files, Path("merged.h5"))
    landscape.walk(run, run, pairs="all", points=13, save="other.h5", shard="2/3")
    with pytest.raises(Mismatch, match=r"^other.h5 is a shard of other work than 1.h5"):
        evaluate.merge([files[0], Path("other.h5"), files[2]], Path("new.h5"))
    assert not Path("new.h5").exists()


def test_a_plane_of_two_workers_and_of_shards_has_the_bytes_of_one(run: Run) -> None:
    places = [run.checkpoint().members()[number] for number in range(3)]
    given = {"problem": "life", "points": 7}
    landscape.plane(*places, **given, save="one.h5")
    landscape.plane(*places, **given, save="two.h5", workers=2)
    for number in (1, 2):
        landscape.plane(*places, **given, save=f"{number}.h5", shard=f"{number}/2")
    evaluate.merge([Path("1.h5"), Path("2.h5")], Path("merged.h5"))
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes() == Path("merged.h5").read_bytes()


def test_a_problem_of_ones_own_is_found_by_its_file_and_its_statistics_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    problem = create(f"{folder / 'mine.py'}:PROBLEM")
    for name, workers in (("one", 1), ("two", 2)):
        made = landscape.train(problem, {"batches": 4, "batch_size": 8}, name, seeds=range(3), workers=workers)
    assert contents(Path("one"), "computation") == contents(Path("two"), "computation")
    ends = made.checkpoint().members()
    for name, workers in (("one", 1), ("two", 2)):
        landscape.walk(ends, ends, pairs="all", problem=problem, points=5, workers=workers, save=f"{name}.h5")
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
    assert "start_stored" in Result.read("two.h5").columns


def test_what_cannot_be_given_to_workers_is_told_in_one_line() -> None:
    x = torch.linspace(-1, 1, 8)[:, None]
    problem = landscape.Problem.from_model(nn.Linear(1, 1), (x, x), loss=lambda out, y: (out - y).square().mean())
    ends = [nn.Linear(1, 1).state_dict() for _ in range(3)]
    with pytest.raises(LandscapeError, match=r"cannot be given what was made in this one .+ leave `workers` out$"):
        landscape.walk(ends, ends, pairs="all", problem=problem, points=3, workers=2)
    for options in ({"tolerance": 0.1}, {"certify": 0.1}, {"budget": 5.0}):
        with pytest.raises(LandscapeError, match="look at all lines in one process"):
            landscape.walk(ends, ends, pairs="all", problem=problem, workers=2, **options)


TRAININGS = {
    "exact": ("life", {"batches": 12}),
    "batches": ("life", {"batches": 12, "data": "batches", "batch_size": 16}),
    "dropout": ("digits", {"batches": 3, "batch_size": 16, "shared_data": True}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_of_two_workers_has_the_tensors_of_one(name: str) -> None:
    problem, training = TRAININGS[name]
    for output, workers in (("one", 1), ("two", 2)):
        landscape.train(problem, training, output, seeds=range(3, 43), workers=workers)
    one, two = Run.open("one"), Run.open("two")
    chunks = [run.document["computation"].get("chunk") for run in (one, two)]
    if chunks[0] == chunks[1]:
        assert contents(Path("one")) == contents(Path("two"))
    assert contents(Path("one"), "computation").keys() == contents(Path("two"), "computation").keys()
    for step in one.steps():
        there, here = one.checkpoint(step).stack.flatten(), two.checkpoint(step).stack.flatten()
        torch.testing.assert_close(there, here)


@needs_proc
def test_a_run_outlives_its_workers_and_interruptions() -> None:
    training = {"batches": 200, "data": "batches", "batch_size": 16}
    landscape.train("life", training, "one", seeds=range(40), workers=2)
    with pytest.raises(KeyboardInterrupt):
        landscape.train("life", training, "two", seeds=range(40), workers=2, progress=interrupting)
    assert not children()
    kept = []
    for file in Path("two/parts").glob("*/resume.safetensors"):
        begin, end = map(int, file.parent.name.split("-"))
        kept.append(read_tensors(file)[1]["step"] * (end - begin) // 40)  # a part's share in what is told
    assert min(kept) > 0
    told: list[int] = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        kill(done, total)

    kill = killing()
    landscape.train("life", training, "two", seeds=range(40), workers=2, progress=progress)
    rises = [after - before for before, after in zip([0, *told], told, strict=False)]
    assert max(rises) >= min(kept)  # a part that goes on tells of all it has at once
    assert contents(Path("one")) == contents(Path("two"))


def test_a_run_that_one_process_began_is_not_taken_up_by_two() -> None:
    with pytest.raises(KeyboardInterrupt):
        landscape.train("life", {"batches": 20}, "out", seeds=range(40), progress=interrupting)
    with pytest.raises(Mismatch, match=r"^out was begun by one process: go on as it was begun, without `workers`"):
        landscape.train("life", {"batches": 20}, "out", seeds=range(40), workers=2)
    landscape.train("life", {"batches": 20}, "out", seeds=range(40), workers=2, overwrite=True)


def test_shards_of_runs_are_merged_to_the_run_of_all() -> None:
    training = {"batches": 5, "data": "batches", "batch_size": 16, "save_at": [0, 2, 5]}
    landscape.train("life", training, "one", seeds=range(40))
    for number in (1, 2):
        landscape.train("life", training, str(number), seeds=range(40), shard=f"{number}/2")
    with pytest.raises(LandscapeError, match="holds another run"):
        landscape.train("life", training, "1", seeds=range(40), shard="2/2")
    trainings.merge([Path("2"), Path("1")], Path("merged"))
    assert contents(Path("merged"), "computation").keys() == contents(Path("one")).keys()
    one, merged = Run.open("one"), Run.open("merged")
    assert one.seeds == merged.seeds
    assert "part" not in merged.document
    for step in one.steps():
        torch.testing.assert_close(one.checkpoint(step).stack.flatten(), merged.checkpoint(step).stack.flatten())
    landscape.train("life", training, "other", seeds=range(40, 80), shard="2/2")
    with pytest.raises(Mismatch, match=r"^other is a shard of other work than 1"):
        trainings.merge([Path("1"), Path("other")], Path("new"))
    with pytest.raises(Mismatch, match=r"^merged is no shard, but whole: leave it out"):
        trainings.merge([Path("1"), Path("merged")], Path("new"))
    with pytest.raises(LandscapeError, match=r"`shard='9/9'` has nothing to do: there are 40 seeds"):
        landscape.train("life", training, "new", seeds=range(40), shard="9/9")
    assert not Path("new").exists()


def test_members_of_a_part_are_those_of_the_whole_bit_for_bit() -> None:
    """Where chunks are the same, as they are of the plain engine, which has none; here with dropout and statistics."""
    Path("mine.py").write_text(OWN)
    training = {"batches": 3, "batch_size": 8, "shared_data": True}
    for output, workers in (("one", 1), ("two", 2)):
        landscape.train("mine.py:PROBLEM", training, output, seeds=range(5), workers=workers, engine="plain")
    assert contents(Path("one")) == contents(Path("two"))
    for number in (1, 2):
        landscape.train("mine.py:PROBLEM", training, str(number), seeds=range(5), shard=f"{number}/2", engine="plain")
    trainings.merge([Path("2"), Path("1")], Path("merged"))
    assert contents(Path("one")) == contents(Path("merged"))


def test_a_sweep_of_two_workers_and_of_shards_has_the_bytes_of_one(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {
        "grid": {"m_factor": [1, 2], "lr": [0.1, 0.01]},
        "seeds": range(2),
        "training": {"batches": 6},
    }
    told: list[tuple[int, int]] = []
    sweep("life", "one", **given)
    sweep("life", "two", **given, workers=2, progress=lambda *each: told.append(each))
    assert told[-1] == (24, 24)
    for number in (1, 2, 3):
        part = sweep("life", str(number), **given, shard=f"{number}/3")
        assert len(part.cells()) == (2 if number == 1 else 1)
    done = sweeps.merge([Path("3"), Path("1"), Path("2")], Path("merged"))
    assert contents(Path("one")) == contents(Path("two")) == contents(Path("merged"))
    assert all(cell.finished for cell in done.cells())
    with pytest.raises(LandscapeError, match="exists"):
        sweeps.merge([Path("3"), Path("1"), Path("2")], Path("merged"))
    with pytest.raises(Mismatch, match="shard is 1/3 there and 2/3 here"):
        sweep("life", "1", **given, shard="2/3")
    with pytest.raises(Mismatch, match="1 shard of 3 missing: 2/3"):
        sweeps.merge([Path("3"), Path("1")], Path("new"))
    Run.remove(Path("2/m_factor=1,lr=0.01"))
    with pytest.raises(LandscapeError, match=r"m_factor=1,lr=0.01 is not finished: repeat the command"):
        sweeps.merge([Path("3"), Path("1"), Path("2")], Path("new"))


@needs_proc
def test_a_sweep_outlives_its_workers() -> None:
    given: dict[str, Any] = {"grid": {"lr": [0.1, 0.01, 0.02]}, "seeds": range(2), "training": {"batches": 100}}
    sweep("life", "one", **given)
    sweep("life", "two", **given, workers=2, progress=killing())
    assert contents(Path("one")) == contents(Path("two"))


def test_shards_have_names_of_their_own_on_the_command_line(landscape: Callable[..., Any], run: Run) -> None:
    for number in (1, 2):
        done = landscape("walk", "--from", "presolve", "--to", run.path, "--points", 5, "--shard", f"{number}/2")
        assert done.exit_code == 0, done.output
    files = sorted(Path("analyses").iterdir())
    assert [file.name[-15:] for file in files] == ["shard-1-of-2.h5", "shard-2-of-2.h5"]
    assert landscape("merge", *files, "-o", "all.h5").stdout == "all.h5\n"
    again = landscape("merge", *files, "-o", "all.h5")
    assert (again.exit_code, again.stderr) == (
        1,
        "Error: all.h5 exists: choose another output with -o, or replace it with --force\n",
    )
    assert "1 shard of 2 missing: 2/2" in landscape("merge", files[0], "-o", "new.h5").stderr
    assert "Missing option '-o'" in landscape("merge", *files).stderr
    assert "a run: give shards of one kind" in landscape("merge", files[0], run.path, "-o", "new.h5").stderr
    wrong = landscape("walk", "--from", "presolve", "--to", run.path, "--shard", "3/2")
    assert "--shard cannot be '3/2': write I/N" in wrong.stderr
    assert not Path("new.h5").exists()
