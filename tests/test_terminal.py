"""What people see on a terminal, and scripts do not: colours, hints, completion; and a module to begin with."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from landscape.cli import main


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "landscape", *arguments],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", **environment},
    ) as process:
        os.close(theirs)
        text = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        process.wait()
    os.close(ours)
    return text.decode()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert CliRunner().invoke(main, ["train", "life", "--seeds", "0:2", "--batches", "1", "-o", "run"]).exit_code == 0
    return "run"


def test_heads_of_tables_are_bold_on_a_terminal_alone(run: str) -> None:
    said = on_terminal("analyse", "outcomes", run)
    bold = re.findall(r"\x1b\[1m(.*?)\x1b\[0m", said)
    assert len(bold) >= 1
    assert all("---" not in line for line in bold)
    assert "\x1b" not in on_terminal("analyse", "outcomes", run, NO_COLOR="1")
    assert "\x1b" not in on_terminal("analyse", "outcomes", run, TERM="dumb")
    assert "\x1b" not in CliRunner().invoke(main, ["analyse", "outcomes", run]).output


def test_errors_are_red_on_a_terminal_alone(run: str) -> None:
    assert "\x1b[31m\x1b[1mError:\x1b[0m nowhere does not exist" in on_terminal("info", "nowhere")
    assert "\x1b" not in on_terminal("info", "nowhere", NO_COLOR="1")
    assert CliRunner().invoke(main, ["info", "nowhere"]).output.startswith("Error: nowhere does not exist")


def test_what_may_be_wanted_next_is_said_on_a_terminal_and_can_be_done(run: str) -> None:
    walked = on_terminal("walk", "--from", "presolve", "--to", run, "--points", "3", "-o", "w.h5", NO_COLOR="1")
    lines = re.findall(r"landscape (analyse|plot) (.*?)\r", walked)
    assert len(lines) == 2
    for verb, rest in lines:
        found = CliRunner().invoke(main, [verb, *rest.split()])
        assert found.exit_code == 0, found.output
    quiet = CliRunner().invoke(main, ["walk", "--from", "presolve", "--to", "run", "--points", "3", "-o", "v.h5"])
    assert "next:" not in quiet.output


def test_a_verb_that_is_not_there_is_answered_with_one_that_is() -> None:
    found = CliRunner().invoke(main, ["wlak"])
    assert found.exit_code == 2
    assert "Did you mean 'walk'?" in found.output
    assert "Did you mean" not in CliRunner().invoke(main, ["xyzzy"]).output


def test_the_version_says_torch_and_where_it_computes() -> None:
    first, second = CliRunner().invoke(main, ["--version"]).output.splitlines()
    assert first.startswith("landscape, version ")
    assert re.match(r"torch \d+\.\S+ on .+ with \d+ threads?$", second)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str) -> None:
    found = CliRunner().invoke(main, ["completion", shell])
    assert found.exit_code == 0
    assert f"_LANDSCAPE_COMPLETE={shell}_complete" in found.output


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("landscape wa", "walk"), ("landscape walk --poi", "--points"), ("landscape plot pl", "plane")],
)
def test_bash_is_told_verbs_and_options(words: str, wanted: str) -> None:
    environment = {"_LANDSCAPE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    found = CliRunner().invoke(main, [], env=environment, prog_name="landscape")
    assert f"plain,{wanted}" in found.output.splitlines()


def test_the_example_is_a_problem_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["example"]).output == "my_model.py\n"
    again = CliRunner().invoke(main, ["example"])
    assert again.exit_code == 1
    assert "my_model.py exists" in again.output
    assert CliRunner().invoke(main, ["example", "--force"]).exit_code == 0
    assert "end the name of a module in .py" in CliRunner().invoke(main, ["example", "-o", "other"]).output
    for line, wanted in (
        ("train my_model.py:PROBLEM --seeds 0:2 --batches 200 -o mine", "over 2 members"),
        ("walk --from mine --to mine --pairs all --points 3 -o w.h5", "w.h5"),
    ):
        command = [sys.executable, "-m", "landscape", *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout + done.stderr
