"""Data runs no code: each place that could is in the table of SECURITY.md; nothing beside the user is imported."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import landscape

PACKAGE = Path(landscape.__file__).parent
ROOT = PACKAGE.parent

#: Functions by which data becomes code, or an object of a kind that the data chooses, or a program that runs.
CALLS = {
    "eval", "exec", "compile", "__import__", "import_module", "find_spec", "spec_from_file_location", "exec_module",
    "run_module", "run_path", "entry_points", "literal_eval", "system", "popen", "Popen", "run", "call", "check_output",
    "fork", "loads", "load", "load_module", "safe_open", "load_file", "File", "get_attr", "attrgetter", "methodcaller",
    "setattr", "genops", "ZipFile", "ElementTree", "CDLL",
}  # fmt: skip

#: Of these only the functions of certain modules.
OF = {
    "eval": ("",), "exec": ("",), "compile": ("",), "run": ("subprocess",), "call": ("subprocess",),
    "load": ("torch", "np", "numpy", "pickle", "json", "tomllib"), "loads": ("pickle", "json", "tomllib", "marshal"),
    "File": ("h5py",), "system": ("os",),
}  # fmt: skip


def calls(source: str) -> Iterator[str]:
    """Such calls in a source text, and `getattr` by a name that is no constant."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in CALLS and owner in OF.get(name, (owner,)):
            yield f"{owner}.{name}".lstrip(".")
        elif name == "getattr" and not isinstance(node.args[1], ast.Constant):
            yield name


def found() -> set[tuple[str, str]]:
    return {
        (str(file.relative_to(PACKAGE)), call)
        for file in sorted(PACKAGE.rglob("*.py"))
        for call in calls(file.read_text())
    }


def listed() -> dict[tuple[str, str], str]:
    """Rows of the table: files and calls, and the rest of the row."""
    text = (ROOT / "SECURITY.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \| (`[^|]*) \| (.*) \|$", text, flags=re.MULTILINE)
    return {
        (file, call): rest
        for files, every, rest in rows
        for file in re.findall(r"`([^`]+)`", files)
        for call in re.findall(r"`([^`]+)`", every)
    }


def test_the_table_names_every_place_that_could_run_code() -> None:
    there, told = found(), listed()
    assert there - told.keys() == set(), "name these in SECURITY.md, with the check that guards them"
    assert told.keys() - there == set(), "these are gone: leave them out of SECURITY.md"


def test_a_new_place_would_be_noticed() -> None:
    source = "import pickle\npickle.loads(x)\neval(y)\ngetattr(a, b)\ngetattr(a, 'b')\nre.compile('x')\nmodel.eval()\n"
    assert sorted(calls(source)) == ["eval", "getattr", "pickle.loads"]


def test_the_tests_that_the_table_names_are_there() -> None:
    tests = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    names = {name for rest in listed().values() for name in re.findall(r"`(test_\w+)`", rest)}
    assert names
    assert {name for name in names if f"def {name}(" not in tests} == set()
    assert [place for place, rest in listed().items() if "`test_" not in rest] == []


BESIDE = ("torch", "numpy", "landscape", "json", "h5py", "safetensors", "click", "fractions", "sitecustomize", "scipy")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["program", "module"])
def test_modules_beside_the_user_are_not_imported(tmp_path: Path, start: str) -> None:
    """`python -m` looks for the package itself where it is called, and from then on nowhere there."""
    for name in BESIDE if start == "program" else set(BESIDE) - {"landscape"}:
        (tmp_path / f"{name}.py").write_text("open('sang', 'w').close()\nraise SystemExit('beside the user')\n")
    program = tmp_path / "bin" / "landscape"  # as pip writes it for `landscape = landscape.cli:main`
    program.parent.mkdir()
    program.write_text("import sys\nfrom landscape.cli import main\nsys.exit(main())\n")
    command = [sys.executable, *([program] if start == "program" else ["-m", "landscape"]), "info", "nowhere/"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: nowhere does not exist\n")
    assert not (tmp_path / "sang").exists()


def test_the_installed_program_begins_in_its_own_folder() -> None:
    """And not in the working directory, as `python -m` does."""
    scripts = Path(sysconfig.get_path("scripts"))
    program = scripts / "landscape"
    if program.exists():
        assert "-m" not in program.read_text().splitlines()[0]
