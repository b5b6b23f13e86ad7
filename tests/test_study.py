"""Studies: what their recipes share, and that each recipe says what it does, what it takes and where it is listed."""

import ast
import csv
import json
import re
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from landscape.analysis.barriers import barriers
from landscape.analysis.success import Row, Success, as_csv, as_document, of_sweep
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.files import json_text
from landscape.core.intervals import Proportion
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.training.sweep import sweep
from landscape.training.train import Training
from study import Study, barrier, curve, descend, spread

ROOT = Path(__file__).parent.parent
RECIPES = sorted(set((ROOT / "analyses").glob("*.py")) - {ROOT / "analyses" / "study.py"})
CPU = "cpu"

Parse = Callable[..., Study]


def study(*, quick: bool = True, force: bool = False) -> Study:
    return Study("widths", quick, force, CPU, time.monotonic())


def stamps(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Reads a command line as the recipe `analyses/widths.py` of an empty repository would, from elsewhere."""
    for folder in ("analyses", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which is set anew

    def call(*arguments: str) -> Study:
        file = tmp_path / "analyses" / "widths.py"
        monkeypatch.setattr(sys, "argv", [str(file), *arguments])
        return Study.from_command_line(str(file), "Does width help?", quick="2 minutes", full="an hour, 100 % of it")

    return call


@pytest.mark.parametrize(
    ("quick", "label", "setting", "figure"),
    [(True, "widths-quick", "quick", "widths-loss-quick"), (False, "widths", "full", "widths-loss")],
)
def test_places_and_names(
    here: Path, capsys: pytest.CaptureFixture[str], quick: bool, label: str, setting: str, figure: str
) -> None:
    own = study(quick=quick)
    assert own.label == label
    assert own.runs == Path("checkpoints") / label
    assert own.results == Path("analyses/widths")
    assert own.result("json") == Path(f"analyses/widths/{setting}.json")
    assert own.result("h5", "m4") == Path(f"analyses/widths/{setting}-m4.h5")
    assert own.progress("train", "batches").what == f"{label}: train"
    own.draw(Figure(), "loss")
    own.draw(Figure())
    there = [f"{name}.{kind}" for name in (figure, label) for kind in ("png", "svg")]
    assert capsys.readouterr().out.split() == [f"plots/{name}" for name in there]
    assert sorted(path.name for path in Path("plots").iterdir()) == sorted(there)


def test_the_command_line_says_how_and_works_from_anywhere(parse: Parse, tmp_path: Path) -> None:
    found = parse()
    assert Path.cwd() == tmp_path.resolve()
    assert (found.name, found.quick, found.force) == ("widths", False, False)
    assert found.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert 0 <= time.monotonic() - found.begun < 60
    found = parse("--quick", "--force", "--device", "cpu")
    assert (found.name, found.quick, found.force, found.device) == ("widths", True, True, "cpu")


@pytest.mark.parametrize("hours", ["nan", "-1", "inf", "two"])
def test_hours_are_a_number(parse: Parse, capsys: pytest.CaptureFixture[str], hours: str) -> None:
    assert parse("--hours", "0.5").hours == 0.5
    with pytest.raises(SystemExit) as end:
        parse("--hours", hours)
    assert end.value.code == 2
    assert f"'{hours}' is no number of hours" in capsys.readouterr().err


def test_an_error_that_explains_itself_is_one_line(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    parse()
    sys.excepthook(Mismatch, Mismatch("two runs: choose one"), None)
    assert capsys.readouterr().err == "Error: two runs: choose one\n"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "Error: interrupted: repeat the same command to go on\n"
    sys.excepthook(ZeroDivisionError, ZeroDivisionError("a fault of ours"), None)
    assert "ZeroDivisionError: a fault of ours" in capsys.readouterr().err


def test_help_says_what_both_settings_are(parse: Parse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("Does width help?", "--quick 2 minutes", "--force", "--device", "full setting: an hour, 100 % of it"):
        assert words in text
    assert Path.cwd() == (tmp_path / "elsewhere").resolve()


def test_an_unknown_option_is_told(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--quik-look")
    assert end.value.code == 2
    assert "unrecognized arguments: --quik-look" in capsys.readouterr().err


@pytest.mark.parametrize("quick", [True, False])
def test_a_result_says_how_it_was_made(here: Path, quick: bool) -> None:
    study(quick=quick).keep({"share": np.float64(0.5), "curve": np.array([1.0, np.nan])}, "part")
    (file,) = Path("analyses/widths").iterdir()
    assert file.name == f"{'quick' if quick else 'full'}-part.json"
    document = json.loads(file.read_text())
    assert (document["share"], document["curve"]) == (0.5, [1.0, None])
    made = document["made"]
    assert made["study"] == "widths"
    assert made["setting"] == ("quick" if quick else "full")
    assert made["device"] == "cpu"
    assert 0 <= made["seconds"] < 60
    assert {"created", "command", "versions"} <= made.keys()
    assert made["versions"]["torch"] == torch.__version__
    before = file.read_text()
    study(quick=quick).keep({"share": 0.5, "curve": [1.0, None]}, "part")
    assert file.read_text() == before, "who only draws it again has not made it"
    study(quick=quick).keep({"share": 0.6}, "part")
    assert json.loads(file.read_text())["share"] == 0.6


def small(own: Study, **changes: Any) -> Any:
    how: dict[str, Any] = {"grid": {"m_factor": (1, 2)}, "seeds": range(3), "training": {"batches": 3}}
    return own.sweep(**{**how, **changes})


def test_cells_are_kept_as_they_come_and_asked_for_once(here: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def find(width: int, at: tuple[int, ...]) -> dict[str, Any]:
        asked.append((width, at))
        if width == 2 and len(asked) == 3:
            raise KeyboardInterrupt
        return {"share": np.float64(width / 2), "none": np.nan}

    grid = {"width": (1, 2), "at": ((), (0, 1))}
    with pytest.raises(KeyboardInterrupt):
        study().cells(grid, find, "part", seeds=range(3))
    assert asked == [(1, ()), (1, (0, 1)), (2, ())]
    path = Path("analyses/widths/quick-part.json")
    there = json.loads(path.read_text())
    assert [each["cell"] for each in there["cells"]] == [{"at": [], "width": 1}, {"at": [0, 1], "width": 1}]
    assert there["not_run"] == [{"at": [], "width": 2}, {"at": [0, 1], "width": 2}]
    assert study().not_run("part") == " Not run: 2 of 4 cells."
    found = study().cells(grid, find, "part", seeds=range(3))
    assert asked[3:] == [(2, ()), (2, (0, 1))]
    assert [tuple(each["cell"].values()) for each in found] == asked[:2] + asked[3:]
    assert [each["found"] for each in found][2:] == [{"share": 1.0, "none": None}] * 2
    assert study().not_run("part") == ""
    for each in found:
        assert each["made"]["versions"]["torch"] == torch.__version__
    path.write_text(path.read_text()[:-9])
    with pytest.raises(LandscapeError, match=r"quick-part.json is no table of cells, or damaged: restore it, or"):
        study().cells(grid, find, "part", seeds=range(3))
    path.write_text(json.dumps({"setting": {"seeds": [0, 1, 2]}, "cells": [{"cell": {"width": 1}}], "not_run": []}))
    with pytest.raises(LandscapeError, match=r"is no table of cells, or damaged"):
        study().cells(grid, find, "part", seeds=range(3))
    path.write_text(json.dumps({"setting": {"seeds": [0, 1, 2]}, "cells": [], "not_run": []}))
    with pytest.raises(LandscapeError, match=r"made under another setting: seeds is \[0, 1, 2\] there and \[0\] here"):
        study().cells(grid, find, "part", seeds=[0])
    assert len(asked) == 5
    study(force=True).cells(grid, find, "part", seeds=[0])
    assert len(asked) == 9


def test_after_its_hours_no_cell_is_begun(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study that cannot draw a part of its cells ends there, in one line and well; one that can goes on."""
    late = Study("widths", True, False, CPU, time.monotonic() - 7200, 1.0)
    with pytest.raises(SystemExit) as end:
        late.cells({"width": (1, 2)}, lambda width: {})
    assert end.value.code == 0
    line = "widths-quick: 0 of 2 cells are there; drawn once all are: go on another time"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert late.cells({"width": (1, 2)}, lambda width: {}, partial=True) == []
    with pytest.raises(SystemExit):
        late.not_run()  # nothing to draw, so nothing to say below it
    study().cells({"width": (1,)}, lambda width: {}, "other")
    assert late.not_run("", "other") == " Not run: 2 of 3 cells."
    assert late.success({"m_factor": (1,)}, "table", seeds=[0], training={"batches": 1}) == []


def test_force_keeps_old_answers_until_there_is_a_new_one(here: Path) -> None:
    grid, path = {"width": (1, 2)}, Path("analyses/widths/quick.json")
    study().cells(grid, lambda width: {"found": "old"})
    before = path.read_text()
    with pytest.raises(SystemExit):
        Study("widths", True, True, CPU, time.monotonic() - 7200, 1.0).cells(grid, lambda width: {})
    assert path.read_text() == before

    def find(width: int) -> dict[str, Any]:
        if width == 2:
            raise KeyboardInterrupt
        return {"found": "new"}

    with pytest.raises(KeyboardInterrupt):
        study(force=True).cells(grid, find)
    asked: list[int] = []
    found = study().cells(grid, lambda width: asked.append(width) or {"found": "new"})
    assert asked == [2], "without --force it goes on"
    assert [each["found"] for each in found] == [{"found": "new"}] * 2


def test_an_interrupted_study_says_how_to_go_on(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    for options, again in (((), "the same command"), (("--force",), "the same command without --force")):
        parse(*options)
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert capsys.readouterr().err == f"Error: interrupted: repeat {again} to go on\n"


def test_a_table_of_success_is_that_of_a_sweep(here: Path) -> None:
    grid, how = {"m_factor": (1, 2), "lr": (1e-2, 1e-1)}, {"batches": 3}
    rows = study().success(grid, "table", seeds=range(3), training=how, options={"rule": "B3/S23"})
    done = sweep("life", "elsewhere", grid=grid, options={"rule": "B3/S23"}, training=how, seeds=range(3))
    expected = of_sweep(done)
    assert json_text(as_document(rows)) == json_text(as_document(expected))
    text = Path("analyses/widths/quick-table.csv").read_text()
    assert text == as_csv(expected)
    assert [line["m_factor"] for line in csv.DictReader(text.splitlines())] == ["1", "1", "2", "2"]
    again = study().rows_of("widths", "table")
    assert [dict(row.values) for row in again] == [dict(row.values) for row in rows]
    assert [row.success.sample_rate.tolist() for row in again] == [row.success.sample_rate.tolist() for row in rows]


def test_descent_of_a_study_is_that_of_training(here: Path) -> None:
    problem = Life(m_factor=2)
    start = initialise(problem.prototype, range(3))
    done = study().train(problem, Training(batches=20), "run", range(3))
    found = descend(problem.objective(), start, 20)
    torch.testing.assert_close(found.flatten(), done.checkpoint().stack.flatten())
    free = (torch.arange(start.flatten().shape[1]) % 2).float().expand(3, -1)
    assert (descend(problem.objective(), start, 5, free=free).flatten()[free == 0] == 0).all()
    drawn = descend(problem.objective(), start, 1, l1=1e6)
    assert (drawn.flatten() == 0).all()


def test_the_barrier_of_a_study_is_that_of_a_walk(here: Path) -> None:
    run = small(study(), grid={"m_factor": [1]}).cells()[0].path
    curves = study().walk("presolve", str(run), "m1")
    problem, end = Life(), Run.open(run).checkpoint().stack
    start = problem.landmark("presolve").flatten().float().expand(3, -1)
    np.testing.assert_allclose(
        barrier(problem.objective(), end.unflatten(start), end), barriers(curves).above_higher_end, rtol=1e-5, atol=1e-7
    )


def test_a_finished_sweep_is_trained_again_only_with_force(here: Path) -> None:
    done = small(study())
    assert done.path == Path("checkpoints/widths-quick")
    assert all(cell.finished for cell in done.cells())
    before = stamps(done.path)
    assert small(study()).document == done.document
    assert stamps(done.path) == before
    with pytest.raises(Mismatch, match="batches is 3 there and 4 here"):
        small(study(), training={"batches": 4})
    assert stamps(done.path) == before
    again = small(study(force=True))
    after = stamps(again.path)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)
    parts = [small(study(quick=quick), part="wide", grid={"m_factor": [4]}).path for quick in (True, False)]
    assert parts == [Path("checkpoints/widths-quick/wide"), Path("checkpoints/widths/wide")]


def test_a_run_starts_where_it_is_told_and_is_trained_once(here: Path) -> None:
    problem, training = Life(), Training(batches=2)
    start = initialise(problem.network(), [5, 6])

    def train(start: Stack, **how: Any) -> Run:
        return study(**how).train(problem, training, "changed", range(2), start=start)

    done = train(start)
    assert done.path == Path("checkpoints/widths-quick/changed")
    assert torch.equal(done.checkpoint(0).stack.flatten(), start.flatten())
    assert not torch.equal(done.checkpoint().stack.flatten(), start.flatten())
    before = stamps(done.path)
    assert torch.equal(train(start).checkpoint().stack.flatten(), done.checkpoint().stack.flatten())
    assert stamps(done.path) == before
    other = initialise(problem.network(), [7, 8])
    with pytest.raises(Mismatch, match="changed holds another run: start is"):
        train(other)
    assert stamps(done.path) == before
    again = train(other, force=True)
    assert torch.equal(again.checkpoint(0).stack.flatten(), other.flatten())


def test_one_start_serves_all_seeds(here: Path) -> None:
    problem = Life()
    start = problem.landmark("presolve").to(torch.float32)
    done = study().train(problem, Training(batches=1, data="batches", batch_size=2), "known", range(3), start=start)
    assert torch.equal(done.checkpoint(0).stack.flatten(), start.flatten().expand(3, -1))


def test_a_walk_is_made_once(here: Path) -> None:
    run = str(small(study(), grid={"m_factor": [1]}).cells()[0].path)
    curves = study().walk("presolve", run, "m1", points=5)
    path = Path("analyses/widths/quick-m1.h5")
    assert curves.loss.shape == (3, 5)
    assert (curves.about["from"], curves.about["to"]) == ("presolve", run)
    before = stamps(path.parent)
    assert list(before) == [str(path)]
    again = study().walk("presolve", run, "m1", points=5)
    assert stamps(path.parent) == before
    np.testing.assert_array_equal(again.loss, curves.loss)
    forced = study(force=True).walk("presolve", run, "m1", points=7)
    assert forced.loss.shape == (3, 7)
    assert stamps(path.parent)[str(path)] > before[str(path)]
    np.testing.assert_array_equal(forced.loss[:, [0, -1]], curves.loss[:, [0, -1]])


def test_answers_of_cells_become_a_curve_with_their_own_intervals(here: Path) -> None:
    own, values = study(), np.arange(6.0)

    def find(m: int) -> dict[str, Any]:
        return {"share": Proportion(3, 4), "mean": [0.5, 0.25, 1.0], "median": spread(values)}

    (told,) = own.cells({"m": (2,)}, find)
    kept = told["found"]
    found = curve("mine", [1, 2, 4, 8], [kept["share"], None, kept["mean"], kept["median"]])
    np.testing.assert_array_equal(found.value, [0.75, np.nan, 0.5, 2.5])
    np.testing.assert_array_equal(found.low, [Proportion(3, 4).interval[0], np.nan, 0.25, spread(values)["low"]])
    np.testing.assert_array_equal(found.high, [Proportion(3, 4).interval[1], np.nan, 1.0, spread(values)["high"]])


def test_what_was_found_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Study("widths", False, False, CPU, time.monotonic() - 65).done("solved: 3 of 4")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"widths: solved: 3 of 4 \(6[5-9] s\)\n", printed.err)


def test_a_table_is_drawn_line_by_line_and_says_what_was_found(here: Path) -> None:
    found = {"solved": {"count": 1, "total": 4, "interval": [0.05, 0.7], "value": 0.25}, "loss": [0.5, 0.25, 1.0]}
    told = Study.told({**found, "few": [0.5, None, None], "lowest": [0.125]})
    assert told.split("\n") == ["solved: 1 of 4 (5 to 70 %)", "loss: 0.5 (0.25 to 1)", "few: 0.5", "lowest: 0.125"]
    study().draw_table([("result", "here"), ("a long name", told)], "Caption.", columns=((0, 8), (0.4, 40)))
    drawn = Path("plots/widths-quick.svg").read_text()
    assert all(word in drawn for word in ("a long", "name", "loss: 0.5 (0.25 to 1)", "Caption."))


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in the repository."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("quantity", "where", "marks"),
    [
        ("success", {"steps": 1, "d_factor": 1.0}, {1: 0.1, 5: 1, 10: 1, 20: 1, 30: 1, 40: 1}),
        ("success", {"steps": 2, "d_factor": 2.0}, {10: 0, 20: 0.25, 30: 0.3, 40: 0.15}),
        ("board_rate", {"steps": 5, "d_factor": 1.0}, {1: 0.44, 25: 0.64, 50: 0.74, 100: 0.69}),
        ("board_rate", {"x": "steps", "m_factor": 1, "d_factor": 1.0}, {2: 0.14, 3: 0.26, 5: 0.44}),
    ],
)
def test_published_marks(root: None, quantity: str, where: dict[str, Any], marks: dict[float, float]) -> None:
    found = Study.original(quantity, **where)
    assert found is not None
    assert dict(zip(found[0].tolist(), found[1].tolist(), strict=True)) == marks


def test_marks_of_both_posts_are_joined(root: None) -> None:
    found = Study.original("success", steps=2, d_factor=1.0)
    assert found is not None
    assert sorted(found[0].tolist()) == [1, 5, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    ("quantity", "where"),
    [("success", {"steps": 7}), ("success", {"steps": 1, "d_factor": 3.0}), ("cell_rate", {"steps": 1})],
)
def test_where_nothing_was_published_there_are_no_marks(root: None, quantity: str, where: dict[str, float]) -> None:
    assert Study.original(quantity, **where) is None


def test_shares_agree_with_published_ones_where_their_intervals_overlap(
    root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the plots: 0.35 at one step, m = 5, d = 2, and 1 at d = 1; nothing at m = 7. Boards right at two steps,
    m = 20: 0.945, which a mean of 0.975 +- 0.01 is too far from, and one of 0.95 is not.
    """
    kept: dict[str, Any] = {}
    monkeypatch.setattr(Study, "keep", lambda self, document, part: kept.update({part: document}))

    def row(solved: int, m: int, d: float) -> Row:
        rates = np.array([1.0] * solved + [0.5] * (20 - solved))
        told = Success(samples=1000, sample_rate=rates, cell_rate=rates, baselines={}, exact=None)
        return Row({"steps": 1, "m_factor": m, "d_factor": d}, told)

    def of_boards(mean: float) -> Success:
        rates = np.linspace(mean - 0.01, mean + 0.01, 20)
        return Success(samples=1000, sample_rate=rates, cell_rate=rates, baselines={}, exact=None)

    rows = [row(12, 5, 2.0), row(16, 5, 2.0), row(20, 5, 1.0), row(13, 5, 1.0), row(3, 7, 1.0)]
    assert study(quick=False).agreement(rows) == "agrees with the posts in 2 of 4 cells (success)"
    cells = kept["agreement"]["cells"]
    assert [each["agrees"] for each in cells] == [True, False, True, False]
    assert [each["theirs"].count for each in cells] == [7, 7, 20, 20]
    boards = [Row({"steps": 2, "m_factor": 20}, rates) for rates in (of_boards(0.975), of_boards(0.95))]
    told = study(quick=False).agreement(boards)
    assert told == "agrees with the posts in 0 of 2 cells (success), 1 of 2 cells (board_rate)"
    theirs = [each["theirs"] for each in kept["agreement"]["cells"] if each["quantity"] == "board_rate"]
    assert theirs == [{"value": 0.945, "interval": pytest.approx((0.925, 0.965))}] * 2
    assert study(quick=False).agreement(rows[-1:]) == "the posts show none of these cells"


def test_published_values_are_shares_each_of_one_place() -> None:
    text = (ROOT / "analyses/study_values.csv").read_text()
    lines = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert all(0 <= float(line["value"]) <= 1 for line in lines)
    places = [tuple(line[key] for key in ("quantity", "steps", "d_factor", "m_factor")) for line in lines]
    assert len(set(places)) == len(places)


# ----------------------------------------------------------------------------------------------------------------------

recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def opening(recipe: Path) -> str:
    return ast.get_docstring(ast.parse(recipe.read_text())) or ""


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 12


@recipes
def test_each_recipe_tells_what_it_does_and_how_long_it_takes(
    recipe: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(recipe), "--help"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(recipe), run_name="__main__")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    (quick,) = re.findall(r"--quick (?!\[|\])([^\]]*?) --force", text)
    assert re.search(r"\d+ (second|minute)s?\b|\ba minute\b", quick), quick
    limited = re.search(r"study\.(cells|success)\(", recipe.read_text())
    assert ("--hours" in text) == bool(limited)  # an option of a study that it can limit, and of no other
    assert opening(recipe).splitlines()[0].split()[:4] == text[text.index(opening(recipe)[:10]) :].split()[:4]
    assert not list(here.iterdir())


@recipes
def test_each_recipe_asks_a_question_and_is_short(recipe: Path) -> None:
    assert opening(recipe).splitlines()[0].count("?") == 1
    lines = recipe.read_text().replace(opening(recipe), "").splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith(("import ", "from "))]) <= 80


@recipes
@pytest.mark.parametrize("index", ["analyses/README.md", "plots/README.md"])
def test_each_recipe_is_listed(recipe: Path, index: str) -> None:
    assert re.search(rf"(?<!\w){recipe.stem}\.py\b", (ROOT / index).read_text())
