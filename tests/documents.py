"""The examples of the documents and of every `--help`, and what it takes to run them as a reader would, in order.

An example is a command in an indented block (or in a block fenced as `sh`), an indented command of a `--help`, or a
block of Python. Every one is run, made shorter by `SHORTER` where it would take long, or stands in `NOT_RUN` with the
reason; a block that is neither stands in `NO_COMMANDS`.
"""

import contextlib
import dataclasses
import io
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
from click.testing import CliRunner

from landscape.cli import main

if TYPE_CHECKING:  # an environment that has the wheel alone reads the documents as well
    import pytest

ROOT = Path(__file__).parent.parent

#: What a command begins with.
PROGRAMS = ("landscape", "python", "python3", "make", ".", ".venv/bin/pip", "pip", "git")

#: Languages of fenced blocks that are shown, not run.
SHOWN = ("toml", "json", "text", "bibtex")

#: Indented blocks that are no commands: document, and what their first line begins with (empty: any such block).
NO_COMMANDS = (("ARCHITECTURE.md", ""),)

SUITE = "continuous integration is what runs it"
_START = "`make start` follows the page from there, in an environment of its own"

#: Examples that are not run: document, what the command begins with, and why. A reason holds only where its last entry
#: is true.
NOT_RUN = (
    ("README.md", "make demo", "its commands are a document of their own here, `make demo`", True),
    ("README.md", "make test", SUITE, True),
    ("CONTRIBUTING.md", "make test-quick", "a part of `make test`", True),
    ("CONTRIBUTING.md", "make start", "gets torch anew, twice", True),
    ("CONTRIBUTING.md", "make", SUITE, True),
    ("CONTRIBUTING.md", ".venv/bin/pip install", "installs hooks in the repository of who runs the tests", True),
    ("docs/cite.md", "git worktree", "needs the tag of an older version that has pages", True),
    ("docs/cite.md", "make -C ../older docs", "needs the tag of an older version that has pages", True),
    ("docs/start.md", "python3 -m venv", _START, True),
    ("docs/start.md", ". .venv/bin/activate", _START, True),
    ("docs/start.md", "pip install", _START, True),
    ("plots/README.md", "make demo", "its commands are a document of their own here, `make demo`", True),
    ("landscape submit --help", "landscape submit --on slurm", "no SLURM", shutil.which("sbatch") is None),
    ("landscape submit --help", "landscape submit --on dask", "no Dask", find_spec("distributed") is None),
    ("landscape submit --help", "landscape submit --jobs", "no submitit", find_spec("submitit") is None),
    ("docs/howto.md", "landscape plot plane plane.h5 --interactive", "no plotly", find_spec("plotly") is None),
    ("docs/clusters.md", "landscape submit", "no submitit", find_spec("submitit") is None),
    ("landscape validate --help", "landscape validate --device cuda", "no GPU", not torch.cuda.is_available()),
)

#: What makes long examples short: document (empty: all), what is replaced, and by what. Python blocks are included.
SHORTER = (
    ("", r"^(landscape (?:train|sweep) (?!.*(?:--batches|--help)).*)$", r"\1 --batches 20"),
    ("", r"--batches (?:\d{3,})\b", "--batches 20"),
    ("", r"--seeds 0:100\b", "--seeds 0:5"),
    ("", r"^(landscape connect .*--method .*)$", r"\1 --steps 10"),
    ("", r"^(landscape connect (?!.*--method ).*)$", r"\1 --budget 400 --points 51"),
    ("", r"^(landscape polish .*)$", r"\1 --steps 10"),
    ("", r"^(landscape plane (?!.*--points).*)$", r"\1 --points 5"),
    ("", r"^landscape validate(?: --dtype both)?$", r"\g<0> --only linear-loss --only stream"),
    ("", r"(?<=--trace-per layer --density )", "--density-probes 2 --density-steps 5 --tol 0.5 --rtol 0.5 "),
    ("", r"--points (?:61x41|41x31|51)\b", "--points 5"),
    ("", r"^(python analyses/\w+\.py)(?: --quick)?$", r"\1 --help"),
    ("README.md", r"\bbatches=300\b", "batches=20"),
    ("", r"\bbudget=4000\b", "budget=400"),
    (
        "README.md",
        r"\btop=5, trace=True, density=True\b",
        r"\g<0>, density_probes=2, density_steps=5, tolerance=0.5, rtol=0.5",
    ),
    ("README.md", r"\brange\(20\)", "range(5)"),
    ("docs/life.md", r"\bbatches=3000?\b", "batches=20"),
    ("docs/life.md", r"\brange\(100\)", "range(5)"),
    ("docs/own_model.md", r"\brange\(200\)", "range(5)"),
    ("plots/README.md", r"--save-at \S+", "--save-at 0,5,10,20"),
    ("landscape animate --help", r"--save-at \S+", "--save-at 0,2,5,10,20"),
    ("docs/report.md", r"--save-at \S+", "--save-at 0,2,5,10,20"),
    ("docs/report.md", r"\bbatches=300\b", "batches=20"),
)

#: What the reader of a document has before its first command, made by Python in the folder where it is read.
READER_HAS = {
    "README.md": """
        import os
        import torch
        from landscape.problems.life import Life
        from my_model import model

        for name in "abc":
            torch.save(model().state_dict(), f"{name}.pt")
        os.mkdir("epochs")
        for number in range(3):
            torch.save(model().state_dict(), f"epochs/epoch_{number}.pt")
        os.mkdir("their-checkpoints")
        for number in (1, 2):
            torch.save(Life().network().state_dict(), f"their-checkpoints/net-{number}.pt")
        """,
    "docs/howto.md": """
        import os
        import shutil
        import subprocess
        import sys
        import torch

        subprocess.run([sys.executable, "-m", "landscape", "example"], check=True)
        sys.path.insert(0, ".")
        from my_model import network

        for name in "abc":
            torch.save(network().state_dict(), f"{name}.pt")
        os.mkdir("epochs")
        for number in range(3):
            torch.save(network().state_dict(), f"epochs/epoch_{number}.pt")
        os.remove("my_model.py")
        """,
    "docs/life.md": """
        import os
        import torch
        from landscape.problems.life import Life

        os.mkdir("their-checkpoints")
        for number in (1, 2):
            torch.save(Life().network().state_dict(), f"their-checkpoints/net-{number}.pt")
        """,
    "landscape average --help": """
        from pathlib import Path
        import torch

        Path("my_module.py").write_text('''
        import torch
        from landscape import Problem

        x = torch.linspace(-1, 1, 30).reshape(10, 3)
        PROBLEM = Problem.from_model(torch.nn.Linear(3, 3), (x, x.sin()), "mse")
        '''.replace("\\n        ", "\\n"))
        for name in ("seed0", "seed1", "base", "one", "other"):
            torch.save(torch.nn.Linear(3, 3).state_dict(), f"{name}.pt")
        """,
    "landscape import --help": """
        import os
        import torch
        from landscape.problems.life import Life

        os.mkdir("theirs")
        for file in ("theirs/one.pt", "theirs/two.pt"):
            torch.save(Life(steps=2).network().state_dict(), file)
        for file in ("net-3.pyt", "net-5.pyt"):
            torch.save(Life().network().state_dict(), file)
        """,
    "landscape plane --help": """
        import os
        from pathlib import Path
        import torch

        Path("my_module.py").write_text('''
        import torch
        from landscape import Problem

        x = torch.linspace(-1, 1, 30).reshape(10, 3)
        PROBLEM = Problem.from_model(torch.nn.Linear(3, 3), (x, x.sin()), "mse")
        '''.replace("\\n        ", "\\n"))
        os.mkdir("epochs")
        for number in range(3):
            torch.save(torch.nn.Linear(3, 3).state_dict(), f"epochs/epoch_{number}.pt")
        for name in ("base", "one", "other"):
            torch.save(torch.nn.Linear(3, 3).state_dict(), f"{name}.pt")
        """,
    "landscape walk --help": """
        import os
        from pathlib import Path
        import torch
        from landscape.problems.life import Life

        Path("net.py").write_text('''
        import torch
        from torch import nn
        from landscape import Problem

        def model():
            layers = {name: nn.Linear(3, 3) for name in ("layer1", "layer4", "fc")}
            return nn.Sequential(__import__("collections").OrderedDict(layers))

        x = torch.linspace(-1, 1, 96).reshape(32, 3)
        PROBLEM = Problem.from_model(model, (x, x.sin()), "mse")
        '''.replace("\\n        ", "\\n"))
        os.mkdir("folder-of-state-dicts")
        for number in (1, 2):
            torch.save(Life(m_factor=4).network().state_dict(), f"folder-of-state-dicts/net-{number}.pt")
        """,
}

_FIRST = "landscape train life --seeds 0:20 --batches 20 -o checkpoints/first"

#: What the reader of a `--help` has made before, by commands.
READER_RAN = {
    "landscape average --help": [_FIRST],
    "landscape connect --help": [_FIRST],
    "landscape export --help": [
        _FIRST,
        "landscape walk --from presolve --to checkpoints/first/",
        "landscape plane --at presolve --random 0 --points 5 --problem life -o plane.h5",
    ],
    "landscape merge --help": [_FIRST],
    "landscape plane --help": [_FIRST],
    "landscape report --help": [_FIRST, "landscape walk --from presolve --to checkpoints/first --points 5"],
    "landscape submit --help": [_FIRST],
    "docs/life.md": ["landscape train digits --width 32 --seeds 0:6 --batches 20 -o checkpoints/digits"],
    "landscape walk --help": [
        _FIRST,
        "landscape train net.py:PROBLEM --seeds 0:2 --batches 5 -o run-a",
        "landscape train net.py:PROBLEM --seeds 2:4 --batches 5 -o run-b",
    ],
}


class Unknown(Exception):
    """A block of which nobody has said what it is."""


@dataclasses.dataclass
class Example:
    """A command (`sh`), a block of Python, or a `file`, with what it is called; `prints` is what a command has to."""

    document: str
    line: int
    text: str
    language: str = "sh"
    file: str = ""
    prints: list[str] = dataclasses.field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def shorter(self) -> str:
        """The example as it is run."""
        text = self.text
        for document, pattern, replacement in SHORTER:
            if document in ("", self.document):
                text = re.sub(pattern, replacement, text)
        return text

    @property
    def not_run(self) -> str:
        """Why it is not run; empty if it is."""
        return next((why for name, begins, why, true in NOT_RUN if true and self._is(name, begins)), "")

    def _is(self, document: str, begins: str) -> bool:
        return self.document == document and self.text.startswith(begins)


def markdown(document: str, text: str) -> list[Example]:
    """The examples of a page; raises `Unknown` at a block that is neither a command nor listed as none."""
    examples: list[Example] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].startswith("```"))
            examples += _fenced(document, lines, number, end)
            number = end
        elif line.startswith("    ") and not lines[number - 1].strip():
            end = next((n for n in range(number, len(lines)) if not lines[n].startswith("    ")), len(lines))
            examples += _commands(document, number, [each[4:] for each in lines[number:end]])
            number = end
        number += 1
    return examples


def _fenced(document: str, lines: list[str], begin: int, end: int) -> list[Example]:
    """The block between two fences; its file is what the paragraph before it names last."""
    language, inside = lines[begin][3:].strip(), lines[begin + 1 : end]
    if language == "sh":
        return _commands(document, begin + 1, inside)
    if language == "python":
        before = "\n".join(lines[:begin]).rstrip().rpartition("\n\n")[2]
        names = re.findall(r"`(\w+\.py)`", before)
        return [Example(document, begin + 1, "\n".join(inside), "python", names[-1] if names else "")]
    if language.startswith("{"):  # what the site makes of it
        return []
    if language not in SHOWN:
        raise Unknown(f"{document}:{begin + 1}: a block of {language!r}: say python, sh, or one of {', '.join(SHOWN)}")
    return []


def _commands(document: str, first: int, block: list[str]) -> list[Example]:
    """The commands of a block; a line after `>` is what the one above prints, a quotation may go over lines."""
    listed = any(document == name and block[0].startswith(begins) for name, begins in NO_COMMANDS)
    if listed and block[0].split()[0] not in PROGRAMS:
        return []
    examples: list[Example] = []
    open_quotation = False
    for number, line in enumerate(block, first + 1):
        if open_quotation:
            examples[-1].text += "\n" + line
        elif line.startswith("> ") and examples:
            examples[-1].prints.append(line[2:])
            continue
        elif line.split()[0] in PROGRAMS:
            examples.append(Example(document, number, line))
        else:
            raise Unknown(
                f"{document}:{number}: {line.strip()[:60]!r} begins with none of {', '.join(PROGRAMS)}: if it is no "
                "command, list its block in NO_COMMANDS of tests/documents.py"
            )
        open_quotation = _quotation_is_open(examples[-1].text)
        if not open_quotation:
            examples[-1].text = re.sub(r"\s+# [^'\"]*$", "", examples[-1].text)
    return examples


def _quotation_is_open(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return True
    return False


def verbs(command: click.Command = main, name: str = "landscape") -> Iterator[tuple[str, click.Command]]:
    """The program and all its verbs, by what a user types."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for verb in command.list_commands(context):
            inner = command.get_command(context, verb)
            assert inner is not None
            yield from verbs(inner, f"{name} {verb}")


def shown_commands(text: str) -> Iterator[str]:
    """The commands of `landscape` in running text and in blocks that are shown and not run, up to a `|`."""
    blocks = re.findall(rf"^```(?:{'|'.join(SHOWN)})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for command in (
        *re.findall(r"(?<!`)`(landscape [^`]+)`(?!`)", text),
        *re.findall(r"^.*?\b(landscape [a-z-]+ -.*)", "\n".join(blocks).replace("\\\n", " "), re.MULTILINE),
    ):
        yield re.split(r"\s[|&>]", " ".join(command.split()))[0]


def unknown_words(command: str) -> list[str]:
    """The options of a command that its verb does not have."""
    known, words = dict(verbs()), command.split()
    verb = words.pop(0)
    options: set[str] = set()
    while True:
        options |= {flag for each in known[verb].params for flag in (*each.opts, *each.secondary_opts)}
        if not words or f"{verb} {words[0]}" not in known:
            break
        verb += f" {words.pop(0)}"
    if verb == "landscape submit":  # what it divides is a command of its own
        inner = next((number for number, word in enumerate(words) if f"landscape {word}" in known), len(words))
        words, divided = words[:inner], words[inner:]
        if divided:
            return unknown_words(f"{verb} {' '.join(words)}") + unknown_words(f"landscape {' '.join(divided)}")
    flags = {word.partition("=")[0].rstrip(",;.") for word in words if word.startswith("-")}
    return sorted(flags - options - {"--help", "-h", "--version"})


def epilog(document: str, text: str) -> list[Example]:
    """The examples that a `--help` ends with: what is below `Examples:`, and files that are shown for them."""
    examples: list[Example] = []
    for number, paragraph in enumerate(textwrap.dedent(text).replace("\b", "").split("\n\n")):
        title, _, below = textwrap.dedent(paragraph).strip("\n").partition("\n")
        lines = textwrap.dedent(below)
        if re.fullmatch("Examples?:", title.strip()):
            examples += _commands(document, number, lines.splitlines())
        elif file := re.match(r"The file (\S+)\b.*:$", title.strip()):
            examples.insert(0, Example(document, number, lines, "file", file[1]))
    return examples


def demo() -> list[Example]:
    """What `make demo` runs."""
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    return _commands("make demo", 0, recipe[1].replace("\t", "").replace("$(RUN)", "landscape").splitlines())


def pages() -> dict[str, str]:
    """The text of all documents, by their names."""
    paths = sorted([*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md")])
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def documents() -> tuple[dict[str, list[Example]], list[str]]:
    """All documents that have examples, those with most examples first; and the blocks of which nobody said what they
    are.
    """
    found, unknown = {"make demo": demo()}, []
    for name, text in pages().items():
        try:
            found[name] = markdown(name, text)
        except Unknown as error:
            unknown.append(str(error))
    epilogs = {command.epilog or "": f"{name} --help" for name, command in reversed([*verbs()])}
    found |= {document: epilog(document, text) for text, document in epilogs.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: -len(found[name])) if found[name]}, unknown


class Reader:
    """Runs examples one after another in `folder`, as somebody would who has just cloned the repository there."""

    def __init__(self, document: str, folder: Path, monkeypatch: "pytest.MonkeyPatch") -> None:
        self.document, self.folder, self.monkeypatch = document, folder, monkeypatch
        self.notebook: dict[str, object] = {"__name__": "__main__"}
        monkeypatch.chdir(folder)
        for variable, value in {
            "LANDSCAPE_CONFIG_HOME": str(folder / ".config"),
            "MPLBACKEND": "agg",
            "PATH": f"{self._programs()}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }.items():
            monkeypatch.setenv(variable, value)

    def _programs(self) -> Path:
        """A folder in which `landscape` and `python` are those of the tests."""
        programs = self.folder / ".programs"
        programs.mkdir()
        for name, arguments in {"python": "", "landscape": "-m landscape "}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
            (programs / name).chmod(0o755)
        return programs

    def clone(self) -> None:
        """Put here what a fresh clone has beside the package."""
        listed = ["git", "ls-files", "-z", "analyses", "checkpoints", "plots"]
        for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)

    def read(self, examples: list[Example]) -> list[str]:
        """Run them; one report for each that failed, or did not print what is said below it."""
        reports = []
        prepared = False
        for number, example in enumerate(examples):
            if example.not_run:
                continue
            if example.language == "sh" and not prepared:
                prepared = True
                self.prepare()
            later = "\n".join(each.text for each in examples[number + 1 :] if not each.not_run)
            status, output = self.run(example, is_used=bool(example.file) and Path(example.file).stem in later)
            if problem := self.judge(example, status, output):
                ran = example.shorter if example.language == "sh" else f"Python block {example.file}"
                reports.append(f"{example.place}: {problem}\n    {ran}\n{textwrap.indent(output[-1500:], '    | ')}")
        return reports

    def prepare(self) -> None:
        """Make what the reader has before the first command."""
        if code := READER_HAS.get(self.document):
            self.check(*self.python(textwrap.dedent(code), {"__name__": "__main__"}))
        for command in READER_RAN.get(self.document, []):
            self.check(*self.command(command))

    @staticmethod
    def check(status: int, output: str) -> None:
        assert status == 0, output

    @staticmethod
    def judge(example: Example, status: int, output: str) -> str:
        """What is wrong with how it went; empty if nothing is."""
        wanted = any("Error" in line for line in example.prints)
        if bool(status) != wanted and "|" not in example.text:
            return f"exit status {status}"
        if example.shorter == example.text:
            for line in example.prints:
                if not shows(output, line):
                    return f"does not print {line!r}"
        return ""

    def run(self, example: Example, *, is_used: bool) -> tuple[int, str]:
        """Exit status and output; of what has a name, only the file is written, unless it is Python that none uses."""
        if example.language == "sh":
            return self.command(example.shorter)
        if example.file:
            Path(example.file).write_text(example.shorter + "\n")
            return (0, "") if is_used or example.language == "file" else self.command(f"python {example.file}")
        return self.python(example.shorter, self.notebook)

    def command(self, command: str) -> tuple[int, str]:
        """Run a command, in this process where no shell is needed: starting Python and torch takes seconds."""
        words = shlex.split(command)
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.commenters, lexer.whitespace_split = "", True
        if set(lexer) & {"|", "&&", "&", ">", ";"} or words[0] not in ("landscape", "python"):
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            return done.returncode, done.stdout
        with self.own_modules():
            if words[0] == "landscape":
                result = CliRunner().invoke(main, words[1:], prog_name="landscape")
                trace = result.exception and not isinstance(result.exception, SystemExit)
                lines = traceback.format_exception(result.exception) if trace else []
                return result.exit_code, result.output + "".join(lines)
            if words[1] == "-c":
                return self.python(words[2], {"__name__": "__main__"})
            return self.script(words[1:])

    def python(self, code: str, namespace: dict[str, object]) -> tuple[int, str]:
        """Run Python as a notebook here would."""
        with self.own_modules(self.folder):
            return self._captured(lambda: exec(compile(code, "<example>", "exec"), namespace))

    def script(self, arguments: list[str]) -> tuple[int, str]:
        """Run a file of Python."""
        self.monkeypatch.setattr(sys, "argv", arguments)
        with self.own_modules(Path(arguments[0]).resolve().parent):
            return self._captured(lambda: runpy.run_path(arguments[0], run_name="__main__"))

    def _captured(self, function: Callable[[], object]) -> tuple[int, str]:
        output, status = io.StringIO(), 0
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                function()
            except SystemExit as exit_:
                status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            except Exception:
                status = 1
                traceback.print_exc()
        os.chdir(self.folder)
        return status, output.getvalue()

    @contextlib.contextmanager
    def own_modules(self, first: Path | None = None) -> Iterator[None]:
        """Afterwards nothing is imported that was found in `folder`; `first` is searched before all else."""
        before, modules = list(sys.path), set(sys.modules)
        sys.path[:0] = [str(first)] if first else []
        try:
            yield
        finally:
            sys.path[:] = before
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.folder)):
                    del sys.modules[name]


def shows(output: str, line: str) -> bool:
    """Is the line in the output? Spaces and brackets do not count, and fractions may differ by 1 in 1,000.

    >>> shows("loss  [0.12345, 3]", "0.12346 3"), shows("loss 3", "loss 4")
    (True, False)
    """
    found, wanted = (re.findall(r"[^\s()\[\],]+", text) for text in (output, line))
    pairs = (zip(found[at:], wanted, strict=False) for at in range(len(found) - len(wanted) + 1))
    return any(all(_same(*pair) for pair in these) for these in pairs)


def _same(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        return "." in wanted + found and math.isclose(float(found), float(wanted), rel_tol=1e-3)
    except ValueError:
        return False
