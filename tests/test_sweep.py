"""Sweeps: cells are ordinary runs, all are checked before any is trained, and an interruption loses nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result as Outcome

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.problems.life import Life
from landscape.store.checkpoints import Run, load
from landscape.training.sweep import Cell, Sweep, sweep
from landscape.training.train import Training, train

GRID: dict[str, list[Any]] = {"m_factor": [1, 2], "lr": [0.01, 0.1]}
NAMES = ["m_factor=1,lr=0.01", "m_factor=1,lr=0.1", "m_factor=2,lr=0.01", "m_factor=2,lr=0.1"]
INSTANCE = Life(m_factor=2)

Program = Callable[..., Outcome]


def small(path: Path, grid: dict[str, list[Any]] | None = None, **options: Any) -> Sweep:
    settings: dict[str, Any] = {"training": {"batches": 3}, "seeds": [0, 1], **options}
    return sweep("life", path, grid=GRID if grid is None else grid, **settings)


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def stamps(run: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in run.iterdir()}


def test_cells_are_plain_runs_in_the_order_of_the_grid(tmp_path: Path) -> None:
    begun: list[Cell] = []
    done = small(tmp_path / "sweep", options={"sigmoid": False}, data_seeds=[7], on_cell=begun.append)
    cells = done.cells()
    assert [cell.path.name for cell in cells] == NAMES
    assert [dict(cell.values) for cell in cells] == [{"m_factor": m, "lr": lr} for m in (1, 2) for lr in (0.01, 0.1)]
    assert begun == cells
    assert all(cell.finished for cell in cells)
    for number, cell in enumerate(cells):
        problem = Life(m_factor=cell.values["m_factor"], sigmoid=False)
        training = Training(batches=3, lr=cell.values["lr"], save_at=(0, 3))
        assert (cell.problem, cell.training) == (problem, training)
        plain = train(problem, training, tmp_path / str(number), seeds=[0, 1], data_seeds=[7])
        assert Run.open(cell.path).steps() == plain.steps() == [0, 3]
        for step in (0, 3):
            ours, theirs = (load(f"{path}/@{step}") for path in (cell.path, plain.path))
            assert ours.sources[0].digest == theirs.sources[0].digest
        assert torch.equal(cell.stack().flatten(), plain.checkpoint().stack.flatten())


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    done = small(tmp_path)
    again = Sweep.open(tmp_path)
    assert again.document == done.document
    assert again.cells() == done.cells()
    assert again.document["grid"] == [{"key": key, "values": values} for key, values in GRID.items()]
    assert again.document["problem"] == {"name": "life", "config": {
        key: value for key, value in Life().config().items() if key != "m_factor"
    }}  # fmt: skip
    assert again.document["training"]["batches"] == 3
    assert again.document["training"]["optimizer"] == "adam"
    assert "lr" not in again.document["training"]
    assert (again.document["seeds"], again.document["data_seeds"]) == ([0, 1], [0, 1])
    assert {"created", "command", "versions"} <= again.document.keys()


@pytest.mark.parametrize("resume_every", [0.0, 30.0])
def test_an_interrupted_sweep_goes_on(tmp_path: Path, resume_every: float) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    small(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "sweep", progress=stop, resume_every=resume_every)
    cells = Sweep.open(tmp_path / "sweep").cells()
    assert [cell.finished for cell in cells] == [True, False, False, False]
    before = stamps(cells[0].path)
    told: list[tuple[int, int]] = []
    begun: list[str] = []
    small(
        tmp_path / "sweep",
        progress=lambda *now: told.append(now),
        on_cell=lambda cell: begun.append(cell.path.name),
    )
    assert stamps(cells[0].path) == before
    assert begun == NAMES[1:]
    assert told == [(done, 12) for done in range(6, 13)]
    for name in NAMES:
        ours, theirs = (load(str(tmp_path / path / name)).sources[0].digest for path in ("sweep", "whole"))
        assert ours == theirs


def test_a_finished_sweep_is_left_as_it_is(tmp_path: Path) -> None:
    small(tmp_path)
    before = [stamps(tmp_path / name) for name in NAMES]
    told: list[tuple[int, int]] = []
    small(tmp_path, progress=lambda *now: told.append(now))
    assert not told
    assert [stamps(tmp_path / name) for name in NAMES] == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"grid": {"m_factor": [1, 4, 5], "lr": [0.01, 0.1]}}, "m_factor is 2 only there and 4, 5 only here"),
        ({"grid": {"m_factor": [1, 2, 3], "lr": [0.01, 0.1]}}, "another sweep: m_factor is 3 only here. Choose"),
        (
            {"grid": {"m_factor": [1, 2]}},
            "another sweep: lr is swept only there. Choose another directory with `output`",
        ),
        ({"grid": {**GRID, "steps": [1]}}, "another sweep: steps is swept only here. Choose"),
        ({"grid": {"m_factor": [2, 1], "lr": [0.01, 0.1]}}, "m_factor has its values in another order"),
        ({"grid": {"lr": [0.01, 0.1], "m_factor": [1, 2]}}, "the keys are m_factor, lr there and lr, m_factor here"),
        ({"training": {"batches": 4}}, "another sweep: batches is 3 there and 4 here. Choose another directory with"),
        ({"options": {"rule": "B3/S23"}}, 'rule is "B3/S23V" there and "B3/S23" here'),
        ({"seeds": [0, 2]}, r"seeds is \[0, 1\] there and \[0, 2\] here; data_seeds is"),
    ],
)
def test_another_sweep_is_refused_with_what_differs(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    small(tmp_path)
    with pytest.raises(Mismatch, match=text):
        small(tmp_path, **changes)
    assert all(cell.finished for cell in Sweep.open(tmp_path).cells())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"grid": {"m_facter": [1]}}, "there is no option 'm_facter' to sweep: did you mean m_factor?"),
        ({"grid": {"qqq": [1]}}, "there is no option 'qqq' to sweep: there are rule, steps"),
        ({"grid": {"seeds": [1]}}, "no option 'seeds' to sweep: every cell has the same seeds"),
        ({"training": {"batchez": 1}}, "there is no option 'batchez' of training: did you mean batches?"),
        ({"options": {"m_facter": 1}}, "has no option 'm_facter': did you mean m_factor?"),
        ({"options": {"m_factor": 1}}, "m_factor is both in the grid and given on its own: leave one out"),
        ({"training": {"lr": 0.1}}, "lr is both in the grid and given on its own"),
        ({"grid": {}}, "there is nothing to sweep"),
        ({"grid": {"steps": []}}, "steps has no values to sweep"),
        ({"grid": {"rule": "B3/S23"}}, "the values of rule are the text 'B3/S23': give a list"),
        ({"grid": {"lr": [1, 0.1, 1.0]}}, "lr has the value 1.0 twice in the grid: leave one out"),
        ({"grid": {"steps": [1, "two"]}}, "`steps` cannot be 'two': it takes a whole number"),
        ({"grid": {"steps": [True]}}, "`steps` cannot be True: it takes a whole number"),
        ({"grid": {"optimizer": ["adam", "adan"]}}, "`optimizer` cannot be 'adan': it takes one of adam, sgd"),
        ({"grid": {"presolve_blocks": [0]}}, "`presolve_blocks` cannot be 0: it takes a list of values"),
        ({"grid": {"rule": ["B3/S23", "b3/s23"]}}, "cells rule=B3S23~.* and rule=b3s23~.* are the same"),
        ({"grid": {"steps": [2, 1], "d_factor": [1, 0.5]}}, "cell steps=1,d_factor=0.5: .* leaves no block"),
        ({"grid": {"lr": [0.1, -1]}}, "cell lr=-1.0: `lr` is -1.0, it must be positive"),
        ({"grid": {"presolve_blocks": [[], [0, 2]]}}, r"cell presolve_blocks=0\+2: there is no block 2 to presolve"),
        ({"grid": {"steps": [1, 2]}, "training": {"data": "exact"}}, "cell steps=2: .* no exact loss to train on"),
        ({"grid": {"start": [None, "nowhere/"]}}, "cell start=nowhere: nowhere does not exist"),
        (
            {"grid": {"start": [None, "presolve"]}},
            "cell start=presolve: of 2 seeds only 1 would differ",
        ),
        ({"seeds": []}, "there are no seeds to train"),
        ({"seeds": [1, 1]}, "seed 1 is repeated"),
        ({"data_seeds": [1, 2, 3]}, "2 seeds but 3 data seeds"),
    ],
)
def test_bad_options_are_told_before_anything_is_trained(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(LandscapeError, match=text):
        small(tmp_path / "sweep", **options)
    assert names(tmp_path) == []


def test_a_problem_and_a_training_themselves_may_be_swept(tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {"m_factor": [1, 2], "lr": [0.1]}
    done = sweep(Life(sigmoid=False, m_factor=5), tmp_path, grid=grid, training=Training(batches=1), seeds=[0])
    assert [(cell.problem, cell.training) for cell in done.cells()] == [
        (Life(sigmoid=False, m_factor=m), Training(batches=1, lr=0.1, save_at=(0, 1))) for m in (1, 2)
    ]


def test_a_sweep_is_named_for_what_it_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = sweep("life", grid={"lr": [0.1]}, training={"batches": 0}, seeds=[0])
    assert done.path == Path("checkpoints/life-sweep-lr")


def test_names_of_cells_are_short_safe_and_unique(tmp_path: Path) -> None:
    def cells(**grid: list[Any]) -> list[str]:
        document = {
            "problem": {"name": "life", "config": {}},
            "training": {"batches": 3000},
            "grid": [{"key": key, "values": values} for key, values in grid.items()],
        }
        return [cell.path.name for cell in Sweep(tmp_path, document).cells()]

    assert cells(rule=["B3/S23V", "B3/S23"], sigmoid=[True]) == [
        "rule=B3S23V,sigmoid=true", "rule=B3S23,sigmoid=true"
    ]  # fmt: skip
    assert cells(presolve_blocks=[[], [0], [0, 1]]) == [f"presolve_blocks={text}" for text in ("none", "0", "0+1")]
    assert cells(lr=[1e-5, 0.1]) == ["lr=1e-05", "lr=0.1"]
    assert cells(start=[None, "checkpoints/a/@5#3", "../b"]) == ["start=none", "start=checkpointsa53", "start=..b"]
    folded = cells(start=["a/b", "ab", "A/B", "c", "/"])
    assert len({name.lower() for name in folded}) == 5
    assert folded[3] == "start=c"
    assert all(name.startswith("start=") and "/" not in name for name in folded)
    steps = list(range(100))
    long = cells(save_at=[steps, [*steps, 100]])
    assert len(set(long)) == 2
    assert all(len(name) == len("save_at=") + 40 for name in long)
    board = "0" * 60 + "5x5"
    many = cells(save_at=[steps], presolve_blocks=[steps], start=["x" * 60], board=[board], lr=[0.123456789, 0.1234567])
    assert len(set(many)) == 2
    assert all(len(name) == 200 for name in many)


def test_what_is_saved_may_be_said(tmp_path: Path) -> None:
    (cell,) = small(tmp_path / "given", {"lr": [0.1]}, training={"batches": 3, "save_at": [1]}).cells()
    assert Run.open(cell.path).steps() == [1, 3]
    zero, three = small(tmp_path / "swept", {"batches": [0, 3]}, training={}).cells()
    assert [Run.open(cell.path).steps() for cell in (zero, three)] == [[0], [0, 3]]


def test_a_ready_instance_is_swept_over_training_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"batches": 1}, "seeds": [0]}
    done = sweep(f"{__name__}:INSTANCE", tmp_path, grid={"lr": [0.1]}, **options)
    assert done.document["problem"]["config"]["m_factor"] == 2
    assert [cell.problem for cell in Sweep.open(tmp_path).cells()] == [INSTANCE]
    with pytest.raises(LandscapeError, match="there is no option 'm_factor' to sweep"):
        sweep(f"{__name__}:INSTANCE", tmp_path, grid={"m_factor": [1]}, **options)


def test_force_removes_its_own_runs_and_nothing_else(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / NAMES[0] / "notes.txt").write_text("mine")
    (tmp_path / NAMES[3] / "notes.txt").write_text("mine")
    train(Life(), Training(batches=1), tmp_path / "other", seeds=[0])
    with pytest.raises(LandscapeError, match="seed 1 is repeated"):
        small(tmp_path, seeds=[1, 1], overwrite=True)
    assert all(cell.finished for cell in Sweep.open(tmp_path).cells()), "force checks first"

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    grid = {"m_factor": [1], "lr": [0.01, 0.1]}
    with pytest.raises(StopError):
        small(tmp_path, grid, seeds=[5], overwrite=True, progress=stop)
    assert names(tmp_path) == sorted([NAMES[0], NAMES[3], "notes.txt", "other", "sweep.json"])
    small(tmp_path, grid, seeds=[5])
    assert [Run.open(tmp_path / name).seeds for name in NAMES[:2]] == [[5], [5]]
    assert all(cell.finished for cell in Sweep.open(tmp_path).cells())
    assert names(tmp_path / NAMES[0]) == [
        "log.jsonl",
        "notes.txt",
        "optimizer.safetensors",
        "run.json",
        "step-00000000.safetensors",
        "step-00000003.safetensors",
    ]
    assert names(tmp_path / NAMES[3]) == ["notes.txt"]
    assert Run.open(tmp_path / "other").steps() == [0, 1]


def test_what_is_not_of_the_sweep_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(
            LandscapeError, match="folder exists and is no sweep: choose another directory with `output`"
        ):
            small(folder, overwrite=force)
    assert names(folder) == ["thesis.tex"]
    path = tmp_path / "sweep"
    small(path)
    shutil.rmtree(path / NAMES[2])
    (path / NAMES[2]).mkdir()
    (path / NAMES[2] / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(LandscapeError, match=f"{NAMES[2]} exists and is no run: move it elsewhere"):
            small(path, overwrite=force)
    shutil.rmtree(path / NAMES[2])
    (path / NAMES[2]).touch()
    with pytest.raises(LandscapeError, match=f"{NAMES[2]} exists and is no run"):
        small(path)
    (path / NAMES[2]).unlink()
    train(Life(), Training(batches=1), path / NAMES[2], seeds=[0])
    with pytest.raises(Mismatch, match=f"{NAMES[2]} holds another run: .*m_factor is 1 there and 2 here"):
        small(path)
    assert Run.open(path / NAMES[2]).steps() == [0, 1]
    assert [cell.finished for cell in Sweep.open(path).cells()] == [True, True, False, True]


def test_what_cannot_be_read_is_not_absent(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="nowhere does not exist: give the directory of a sweep"):
        Sweep.open(tmp_path / "nowhere")
    small(tmp_path)
    file, run = tmp_path / "sweep.json", tmp_path / NAMES[0] / "run.json"
    good = file.read_text()
    without = {key: value for key, value in json.loads(good).items() if key != "sha256"}  # as older ones are
    for changes, wrong in (
        ({"grid": []}, "grid is empty"),
        ({"grid": [{"key": "lr"}]}, r"grid\[0\] lacks values"),
        ({"seeds": ["0"]}, r'seeds\[0\] is "0", not a whole number'),
        ({"training": None}, "training is null, not an object"),
        ({"problem": "life"}, 'problem is "life", not an object'),
    ):
        file.write_text(json.dumps({**without, **changes}))
        with pytest.raises(DamagedFile, match=rf"sweep\.json is damaged: {wrong}"):
            Sweep.open(tmp_path)
        file.write_text(json.dumps({**json.loads(good), **changes}))
        with pytest.raises(DamagedFile, match=r"sweep\.json is damaged: it does not match its SHA-256"):
            Sweep.open(tmp_path)
    for text, wrong in (("{}", "it lacks data_seeds, grid"), ("[]", "it lacks"), (good[:-20], "it is no JSON")):
        file.write_text(text)
        for force in (False, True):
            with pytest.raises(DamagedFile, match=rf"sweep\.json is damaged: {wrong}"):
                small(tmp_path, overwrite=force)
    file.write_text(json.dumps({**json.loads(good), "schema": 99}))
    with pytest.raises(Unsupported, match="has schema 99, this version reads 1"):
        Sweep.open(tmp_path)
    file.write_text(good)
    run.write_text("{")
    with pytest.raises(DamagedFile, match=r"run\.json is damaged"):
        small(tmp_path)
    with pytest.raises(DamagedFile, match=r"run\.json is damaged"):
        _ = Sweep.open(tmp_path).cells()[0].finished


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".sweep.json.0123abcd.tmp").touch()
    small(tmp_path)
    shutil.rmtree(tmp_path / NAMES[1])
    (tmp_path / NAMES[1]).mkdir()
    (tmp_path / NAMES[1] / ".run.json.0123abcd.tmp").touch()
    assert all(cell.finished for cell in small(tmp_path).cells())


def test_a_place_to_start_must_stay_what_it_was(tmp_path: Path) -> None:
    start, path = tmp_path / "start", tmp_path / "sweep"
    options: dict[str, Any] = {"grid": {"lr": [0.01, 0.1]}, "training": {"batches": 2, "start": str(start)}}
    train(Life(), Training(batches=1), start, seeds=[0, 1])
    first, second = small(path, **options).cells()
    shutil.rmtree(start)
    small(path, **options)  # all is finished
    shutil.rmtree(second.path)
    train(Life(), Training(batches=1), start, seeds=[1, 2])
    with pytest.raises(Mismatch, match=r"cell lr=0\.01: .*start has changed since this cell began there"):
        small(path, **options)
    assert first.finished
    assert not second.path.exists()


def fails(result: Outcome, text: str, status: int = 1) -> None:
    """One clear line on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert text in result.stderr.splitlines()[-1]
    assert result.stdout == ""


@pytest.mark.slow
def test_from_the_command_line(landscape: Program) -> None:
    call = ("sweep", "life", "--grid", "m-factor=1, 2", "--grid", "presolve_blocks=none,0+1")
    call += ("--steps", "2", "--board", "5x5", "--batches", "2", "--batch-size", "4", "--seeds", "3:5")
    result = landscape(*call)
    assert result.exit_code == 0, result.output
    assert result.stdout == "checkpoints/life-sweep-m_factor-presolve_blocks\n"
    assert result.stderr.splitlines()[-1] == "4 of 4 cells trained"
    path = Path(result.stdout.strip())
    cells = Sweep.open(path).cells()
    assert [dict(cell.values) for cell in cells] == [
        {"m_factor": m, "presolve_blocks": blocks} for m in (1, 2) for blocks in ((), (0, 1))
    ]
    assert cells[3].path.name == "m_factor=2,presolve_blocks=0+1"
    assert cells[3].problem == Life(m_factor=2, steps=2, board="5x5")
    assert Run.open(cells[3].path).seeds == [3, 4]
    assert landscape(*call).stderr.splitlines()[-1] == "0 of 4 cells trained, 4 skipped: finished before"
    walk = ("walk", "--from", "presolve", "--to", cells[3].path, "--points", "2", "--boards", "8", "-o", "x.h5")
    result = landscape(*walk)
    assert result.exit_code == 0, result.output
    fails(landscape(*call, "--lr", "0.5"), "holds another sweep: lr is 0.01 there and 0.5 here. Choose another")
    assert landscape(*call, "--lr", "0.5", "--force").stderr.splitlines()[-1] == "4 of 4 cells trained"


def test_every_kind_of_value_is_read_as_its_option_reads_it(landscape: Program) -> None:
    grids = ("sigmoid=true,no", "save_at=0,0:2+3", "rule=B3/S23,B3/S23V", "freeze=false", "optimizer=sgd", "lr=1e-2")
    arguments = [part for grid in grids for part in ("--grid", grid)]
    result = landscape("sweep", "life", *arguments, "--batches", "3", "--seeds", "0", "-o", "sweep")
    assert result.exit_code == 0, result.output
    last = Sweep.open(Path("sweep")).cells()[-1]
    assert dict(last.values) == {
        "sigmoid": False, "save_at": (0, 1, 3), "rule": "B3/S23V", "freeze": False, "optimizer": "sgd", "lr": 0.01
    }  # fmt: skip
    assert last.path.name == "sigmoid=false,save_at=0+1+3,rule=B3S23V,freeze=false,optimizer=sgd,lr=0.01"
    assert Run.open(last.path).steps() == [0, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        ((), "Missing option '--grid'", 2),
        (("--grid", "m_facter=1"), "there is no option 'm_facter' to sweep: did you mean m_factor?", 1),
        (("--grid", "seeds=1"), "no option 'seeds' to sweep: every cell has the same seeds", 1),
        (("--grid", "m_factor"), "'m_factor' is no KEY=VALUE,VALUE,...: write such as", 2),
        (("--grid", "m_factor="), "'m_factor=' is no KEY=VALUE", 2),
        (("--grid", "m_factor=1,,2"), "'m_factor=1,,2' is no KEY=VALUE", 2),
        (("--grid", "m_factor=1,x"), "'--grid m_factor': 'x' is not a valid integer", 2),
        (("--grid", "optimizer=adan"), "'--grid optimizer': 'adan' is not one of", 2),
        (("--grid", "sigmoid=perhaps"), "'--grid sigmoid': 'perhaps' is not a valid boolean", 2),
        (("--grid", "presolve_blocks=a"), "'--grid presolve_blocks': 'a' is no block", 2),
        (("--grid", "m_factor=1,1"), "m_factor has the value 1 twice in the grid", 1),
        (("--grid", "steps=1", "--grid", "steps=2"), "steps is in the grid twice: put all its values into one", 2),
        (("--grid", "m_factor=1", "--m-factor", "1"), "both in the grid and given as --m-factor: leave one out", 2),
        (("--grid", "freeze=false", "--freeze"), "freeze is both in the grid and given as --freeze", 2),
        (("--grid", "d_factor=1,0.5"), "cell d_factor=0.5: floor(1 x 0.5) leaves no block", 1),
        (("--grid", "presolve_blocks=none,0+1"), "cell presolve_blocks=0+1: there is no block 1 to presolve", 1),
        (("--grid", "batches=5,9", "--save-at", "0,9"), "cell batches=5: --save-at names step 9", 1),
    ],
)
def test_bad_commands(landscape: Program, arguments: tuple[str, ...], text: str, status: int) -> None:
    fails(landscape("sweep", "life", *arguments), text, status)
    assert list(Path().iterdir()) == []


def test_a_grid_from_a_file(landscape: Program) -> None:
    file = Path("sweep.toml")
    file.write_text(
        'batches = 1\ndata = "batches"\nseeds = "0:2"\nm-factor = 2\nsteps = 3\n[grid]\n'
        "sigmoid = [true, false]\nlr = [0.1, 1]\npresolve-blocks = [[], [0]]\n"
    )
    result = landscape("sweep", "life", "--config", file, "--grid", "lr=0.5", "--grid", "steps=1", "-o", "sweep")
    assert result.exit_code == 0, result.output
    done = Sweep.open(Path("sweep"))
    assert done.document["grid"] == [
        {"key": "sigmoid", "values": [True, False]},
        {"key": "lr", "values": [0.5]},
        {"key": "presolve_blocks", "values": [[], [0]]},
        {"key": "steps", "values": [1]},
    ]
    assert {cell.problem.config()["m_factor"] for cell in done.cells()} == {2}
    file.write_text("batches = 1\nlr = 0.1\n[grid]\nlr = [0.1, 1]\n")
    fails(
        landscape("sweep", "life", "--config", file), "lr is both in the grid and given in the file: leave one out", 2
    )
    file.write_text("batches = 1\n[grid]\nlr = [0.1, 1]\n")
    fails(landscape("sweep", "life", "--config", file, "--lr", "1"), "lr is both in the grid and given as --lr", 2)
    file.write_text("batches = 1\n[grid]\nlr = []\n")
    fails(landscape("sweep", "life", "--config", file), "lr has no values to sweep")
    file.write_text("batches = 1\n[grid]\nm_factor = [1, 2.5]\n")
    fails(landscape("sweep", "life", "--config", file), "'--grid m_factor': '2.5' is not a valid integer", 2)
    file.write_text("batches = 1\n[grid.lr]\nx = 1\n")
    fails(landscape("sweep", "life", "--config", file), "option 'grid' has lists of values", 2)


@pytest.mark.parametrize(
    ("force", "same"), [((), "the same command"), (("--force",), "the same command without --force")]
)
def test_ctrl_c_says_how_to_go_on(
    landscape: Program, monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...], same: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> Sweep:
        raise KeyboardInterrupt

    monkeypatch.setattr("landscape.cli.sweep.sweep", interrupted)
    result = landscape("sweep", "life", "--grid", "lr=1", "-o", "here", *force)
    fails(result, f"interrupted: repeat {same} to go on with here", status=130)
