"""Whose code runs: what a file names never runs by itself, what its user has named does, until it changes."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from landscape.cli import main
from landscape.core.errors import LandscapeError, Untrusted
from landscape.problems.base import Problem
from landscape.problems.code import Code, configuration
from landscape.problems.registry import create, find, name_of, record, restore
from landscape.store.checkpoints import Run
from landscape.training.sweep import Sweep

CANARY = """
import pathlib
import canary_helper
from torch import linspace, nn
from landscape import Problem
pathlib.Path(__file__).with_name("sang").touch()
x = linspace(-1, 1, 16)[:, None]
def net(): return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
PROBLEM = Problem.from_model(net, (x, x**2), "mse")
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def forget() -> None:
    """As another process would begin."""
    for name in [name for name in sys.modules if name.startswith("canary")]:
        del sys.modules[name]


def fresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_CONFIG_HOME", str(folder))
    forget()
    Path("sang").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the canary, and with everything that its owner has made of it."""
    folder = tmp_path_factory.mktemp("theirs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LANDSCAPE_CONFIG_HOME", str(folder / "owners"))
        Path("canary.py").write_text(CANARY)
        Path("canary_helper.py").write_text("LAYERS = 2\n")
        forget()
        short = ("--batches", "2", "--batch-size", "8")
        for arguments in (
            ("train", "canary:PROBLEM", "--seeds", "0:2", *short, "-o", "run"),
            ("sweep", "canary:PROBLEM", "--seeds", "0:2", *short, "--grid", "lr=0.1,0.01", "-o", "swept"),
            ("walk", "--from", "run/@0", "--to", "run", "--points", "3", "-o", "line.h5"),
            ("plane", "--at", "run/#0", "--points", "2", "-o", "plane.h5"),
            (
                "connect",
                "--from",
                "run/#0",
                "--to",
                "run/#1",
                "--method",
                "bezier",
                "--steps",
                "1",
                "--points",
                "3",
                "-o",
                "curve.h5",
            ),
        ):
            result = run(*arguments)
            assert result.exit_code == 0, result.output
        assert Path("sang").exists()
        shutil.rmtree("owners")
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in the working directory of somebody who has named nothing."""
    folder = tmp_path / "theirs"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    fresh(tmp_path / "configuration", monkeypatch)
    return folder


STEP = "run/step-00000002.safetensors"

ASKING = [
    ("walk", "--from", "run/@0", "--to", "run", "-o", "new.h5"),
    ("walk", "--from", STEP, "--to", STEP, "-o", "new.h5"),
    ("walk", "--from", "curve.bend-1.safetensors", "--to", "run/#0", "-o", "new.h5"),
    ("plane", "--at", "run/#0", "-o", "new.h5"),
    ("plane", "--trajectory", "run/#0", "-o", "new.h5"),
    ("connect", "--from", "run/#0", "--to", "run/#1", "-o", "new.h5"),
    ("verify", "run"),
    ("verify", STEP),
    ("analyse", "outcomes", "run"),
    ("analyse", "clusters", "run"),
    ("analyse", "success", "run"),
    ("analyse", "success", "swept"),
    ("analyse", "curvature", "run"),
    ("analyse", "convergence", "run"),
    ("polish", "run", "-o", "new"),
    ("plot", "outcomes", "run"),
    ("plot", "clusters", "run"),
    ("plot", "success", "swept"),
]

QUIET = [
    ("analyse", "barriers", "line.h5"),
    ("analyse", "curvature", "line.h5"),
    ("plot", "walk", "line.h5"),
    ("plot", "barriers", "line.h5"),
    ("plot", "plane", "plane.h5"),
    ("info", "run"),
    ("info", STEP),
    ("info", "line.h5"),
    ("info", "swept"),
    ("train", "life", "--start", "run/#0", "--batches", "1", "-o", "new"),
    ("import", STEP, "--problem", "life", "-o", "new"),
    ("sweep", "life", "--grid", "lr=0.1,0.01", "-o", "swept"),
]


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_what_a_file_names_does_not_run_and_is_asked_for(theirs: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if "wants to run the code" in line]
    assert "problem 'canary:PROBLEM'" in line
    assert "which you have not named yet: if you trust it, name it with" in line
    assert "canary.py:PROBLEM" in line.partition("name it with")[2]
    assert not Path("sang").exists()
    assert "canary" not in sys.modules


@pytest.mark.parametrize("arguments", QUIET, ids=" ".join)
def test_what_needs_no_code_of_the_problem_runs_none(theirs: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit | None), result.output
    assert result.exit_code == (1 if arguments[0] in ("train", "import", "sweep") else 0), result.output
    assert not Path("sang").exists()
    assert "canary" not in sys.modules


def test_a_sweep_of_unknown_code_is_described_without_it(theirs: Path) -> None:
    result = run("info", "swept")
    assert "lr=0.1 lr=0.01" in result.stdout
    assert "finished: unknown: swept wants to run the code of problem 'canary:PROBLEM'" in result.stdout


def test_code_that_was_named_once_runs_until_it_or_what_it_imports_changes(theirs: Path) -> None:
    walk = ("walk", "--from", "run/@0", "--to", "run", "--points", "3", "-o", "new.h5", "--force")
    assert run(*walk, "--problem", "canary:PROBLEM").exit_code == 0
    assert Path("sang").exists()
    for file in ("canary.py", "canary_helper.py"):
        forget()
        result = run(*walk)
        assert result.exit_code == 0, result.output
        forget()
        Path("sang").unlink()
        with Path(file).open("a") as text:
            text.write("# changed\n")
        result = run(*walk)
        assert result.exit_code == 1
        assert "which has changed since you named it" in result.stderr
        assert not Path("sang").exists()
        named = run("verify", theirs / "canary.py:PROBLEM")
        assert "has no known solutions" in named.stderr, "but it was named"
        assert Path("sang").exists()
    forget()
    assert run("analyse", "success", "swept").exit_code == 1
    assert "has no test data" in run("analyse", "success", "swept").stderr


def test_a_sweep_can_be_given_its_problem(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code may lie elsewhere now."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("canary.py", "canary_helper.py"):
        Path(name).rename(moved / name)
    assert "wants to run the code" in run("analyse", "success", "swept").stderr
    for verb in ("analyse", "plot"):
        result = run(verb, "success", "swept", "--problem", moved / "canary.py:PROBLEM")
        assert "has no test data" in result.stderr, "it ran"
    assert [cell.finished for cell in Sweep.open(Path("swept"), problem=f"{moved / 'canary.py'}:PROBLEM").cells()]


def test_a_file_of_options_names_no_code_either(theirs: Path) -> None:
    Path("walk.toml").write_text('from = "run/@0"\nto = "run"\npoints = 3\nproblem = "canary:PROBLEM"\n')
    result = run("walk", "--config", "walk.toml", "-o", "new.h5")
    assert result.exit_code == 1
    assert "the file given with" in result.stderr
    assert not Path("sang").exists()
    find("canary:PROBLEM")
    assert run("walk", "--config", "walk.toml", "-o", "new.h5").exit_code == 0


def test_a_name_alone_does_not_match(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of one folder was named; the same code in another folder, with a run that says its name, was not."""
    mine = tmp_path / "mine"
    shutil.copytree(theirs, mine)
    monkeypatch.chdir(mine)
    find("canary:PROBLEM")
    (mine / "sang").unlink()
    forget()
    monkeypatch.chdir(theirs)
    checkpoint = Run.open(theirs / "run").checkpoint()
    with pytest.raises(Untrusted, match=r"run wants to run the code of problem 'canary:PROBLEM'"):
        restore(*checkpoint.problem, None, wanted_by="run")
    assert not Path("sang").exists()
    assert not (mine / "sang").exists()
    # Where the file says that it is of the code that was named, that code runs, wherever one is.
    problem = restore(*checkpoint.problem, {"file": str(mine / "canary.py"), "sha256": ""}, wanted_by="run")
    assert (mine / "sang").exists()
    assert not Path("sang").exists()
    assert name_of(problem) == "canary:PROBLEM"


def test_a_configuration_that_cannot_be_written_breaks_nothing(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("LANDSCAPE_CONFIG_HOME", str(theirs / "file" / "below"))
    monkeypatch.setattr("landscape.problems.code._UNWRITTEN", {})
    walk = ("walk", "--from", "run/@0", "--to", "run", "--points", "3", "-o", "new.h5", "--force")
    assert run(*walk).exit_code == 1
    assert run(*walk, "--problem", "canary:PROBLEM").exit_code == 0
    forget()
    assert run(*walk).exit_code == 0, "this process remembers"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"code": 3}', '{"code": {"FILE": 3}}', '{"code": {"FILE": {}}}'])
def test_a_damaged_configuration_is_asked_for_again(theirs: Path, text: str) -> None:
    file = configuration()
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("FILE", str(theirs / "canary.py")))
    assert "wants to run the code" in run("walk", "--from", "run/@0", "--to", "run").stderr
    assert not Path("sang").exists()


def test_where_the_configuration_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LANDSCAPE_CONFIG_HOME", raising=False)
    if os.name != "nt":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        assert configuration() == tmp_path / "landscape" / "code.json"
        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert configuration() == tmp_path / ".config" / "landscape" / "code.json"
    monkeypatch.setenv("LANDSCAPE_CONFIG_HOME", str(tmp_path / "own"))
    assert configuration() == tmp_path / "own" / "code.json"


def test_the_digest_covers_every_local_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {
        "canary_pkg/__init__.py": "",
        "canary_pkg/top.py": "import torch, json, canary_beside\nfrom . import near\nfrom .deep.er import thing\n",
        "canary_pkg/near.py": "def late():\n    from canary_pkg.lazy import x\n",
        "canary_pkg/lazy.py": "import importlib\nimportlib.import_module('canary_called')\n",
        "canary_pkg/deep/__init__.py": "",
        "canary_pkg/deep/er.py": "from ..sibling import *\nthing = 1\n",
        "canary_pkg/sibling.py": "",
        "canary_pkg/unused.py": "",
        "canary_beside.py": "",
        "canary_called.py": "",
        "json.py": "raise SystemExit",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = Code.locate("canary_pkg.top")
    assert code == Code.locate("canary_pkg/top.py")
    assert {str(file.relative_to(tmp_path)) for file in code.files().values()} == texts.keys() - {
        "canary_pkg/unused.py",
        "json.py",
    }
    before = code.digest()
    for file in code.files().values():
        text = file.read_text()
        file.write_text(text + "# changed\n")
        assert code.digest() != before
        file.write_text(text)
    (tmp_path / "canary_pkg" / "unused.py").write_text("# changed\n")
    assert code.digest() == before
    assert "canary_pkg" not in sys.modules


@pytest.mark.slow
def test_an_installed_module_is_told_apart_from_what_lies_beside_it() -> None:
    code = Code.locate("click.core")
    assert {name.partition(".")[0] for name in code.files()} == {"click"}


def test_a_file_with_the_name_of_another_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from torch import nn, ones\nfrom landscape import Problem\n"
    text += "P = Problem.from_model(nn.Linear(2, 1), (ones(4, 2), ones(4, 1)), 'mse')\n"
    Path("random.py").write_text(text)
    problem = create("random.py:P")
    assert isinstance(problem, Problem)
    assert create("random.py:P") is problem
    assert sys.modules["random"] is random
    with pytest.raises(LandscapeError, match=r"cannot load problem 'random:P': AttributeError: module 'random' has no"):
        find("random:P")


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LandscapeError, match=r"'canary_none:P': there is no module 'canary_none' in .*, nor"):
        find("canary_none:P")
    for name in ("\0:P", "a..b:P", ":P", "../x.py:P", "x.py:P", "__main__:P", "model"):
        with pytest.raises(LandscapeError):
            restore(name, {}, {"file": "\0", "sha256": ""}, wanted_by="run")


def test_a_problem_of_ones_own_class_is_found_where_it_is_defined() -> None:
    """Nothing is written into the class."""
    import test_import

    before = dict(vars(test_import.Mute))
    said = record(test_import.Mute())
    assert said["problem"]["name"] == "test_import:Mute"
    assert Path(said["code"]["file"]) == Path(test_import.__file__).resolve()
    assert find("test_import:Mute") is test_import.Mute
    assert record(create("test_import:Mute")) == said
    assert dict(vars(test_import.Mute)) == before
    assert "code" not in record(create("life"))


@pytest.mark.slow
def test_modules_beside_the_user_do_not_run_for_a_built_in_problem(tmp_path: Path) -> None:
    for name in ("fractions", "decimal", "json", "click"):
        (tmp_path / f"{name}.py").write_text(f"open('sang', 'w')\nraise ImportError('{name} beside the user')\n")
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "a.pt")
    for start in (["-m", "landscape"], ["-P", "-c", "from landscape.cli import main; main()"]):
        command = [sys.executable, *start, "verify", "life"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "sang").exists()


def test_the_import_path_is_as_it_was(landscape: Callable[..., Result], tmp_path: Path) -> None:
    Path("canary_path.py").write_text(
        "import sys\nfrom torch import nn, ones\nfrom landscape import Problem\nLAST = sys.path[-1]\n"
        "P = Problem.from_model(nn.Linear(2, 1), (ones(4, 2), ones(4, 1)), 'mse')\n"
    )
    before = list(sys.path)
    find("canary_path:P")
    assert sys.path == before
    assert str(tmp_path.resolve()) == sys.modules["canary_path"].LAST
