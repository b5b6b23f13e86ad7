"""What the documents and every `--help` show works as it stands there."""

import importlib.util
import pkgutil
import re
import runpy
import subprocess
from pathlib import Path

import documents
import pytest
from documents import NO_COMMANDS, NOT_RUN, READER_HAS, READER_RAN, ROOT, SHORTER, Reader, Unknown, markdown

DOCUMENTS, UNKNOWN = documents.documents()


@pytest.mark.smoke
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_run_one_after_another(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    reader = Reader(document, tmp_path, monkeypatch)
    if document.endswith(".md"):
        reader.clone()
    reports = reader.read(DOCUMENTS[document])
    assert not reports, "\n".join(["", *reports])
    if document == "docs/own_model.md":
        tables = [reader.command(f"landscape analyse barriers {file}")[1] for file in ("line.h5", "again.h5")]
        (peak,) = [line for line in tables[0].splitlines() if line.startswith("peak_loss")]
        assert documents.shows(tables[1], peak), "\n".join(tables)


def test_every_block_is_an_example_and_no_entry_of_the_tables_is_stale() -> None:
    assert UNKNOWN == []
    examples = [example for document in DOCUMENTS.values() for example in document]
    assert len(examples) > 100
    assert {"README.md", "docs/own_model.md", "landscape walk --help", "make demo"} <= DOCUMENTS.keys()
    for entry in NOT_RUN:
        assert any(example._is(*entry[:2]) for example in examples), f"nothing is left of {entry}"
    for document, pattern, _ in SHORTER:
        texts = [example.text for example in examples if document in ("", example.document)]
        assert any(re.search(pattern, text) for text in texts), f"nothing is made shorter by {document} {pattern}"
    assert all(f"\n\n    {begins}" in documents.pages()[document] for document, begins in NO_COMMANDS)
    assert DOCUMENTS.keys() >= READER_HAS.keys() | READER_RAN.keys()


def test_what_continuous_integration_is_said_to_run_it_runs() -> None:
    ran = re.findall(r"\bmake ([a-z-]+)", (ROOT / ".ci" / "run").read_text())
    for example in (example for examples in DOCUMENTS.values() for example in examples):
        if example.not_run == documents.SUITE:
            assert example.text.split()[1] in ran, example.place
    assert {"smoke", "test-extras"} <= set(ran)


def test_commands_in_running_text_have_the_options_of_their_verbs() -> None:
    found = 0
    for document, text in documents.pages().items():
        if document != "CHANGELOG.md":  # which tells what was
            for command in documents.shown_commands(text):
                found += 1
                assert not documents.unknown_words(command), f"{document}: {command}"
    assert found > 40
    assert documents.unknown_words("landscape analyse barriers x.h5 --certyfy --json") == ["--certyfy"]


def test_each_figure_is_in_the_gallery_with_the_command_that_makes_it() -> None:
    listed = subprocess.run(["git", "ls-files", "plots"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    committed = {Path(line).name for line in listed.splitlines()} - {"README.md"}
    shown = set()
    for section in re.split(r"^#+ ", documents.pages()["plots/README.md"], flags=re.MULTILINE):
        commands = [example.text for example in markdown("plots/README.md", section)]
        for figure in re.findall(r"\((?:\.\./plots/)?([^)/]+\.(?:png|html))\)", section):
            stem = figure.partition(".")[0]
            recipes = re.findall(r"python analyses/(\w+)\.py|make (\w+)", "\n".join(commands))
            by_recipe = any(stem.startswith(name) for names in recipes for name in names if name)
            assert by_recipe or any(stem in command for command in commands), f"no command makes {figure}"
            shown.add(figure)
    assert shown == committed


def test_targets_of_make_that_documents_name_are_there_and_listed() -> None:
    named = {
        name
        for text in documents.pages().values()
        for name in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)
    }
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    targets = set(phony[1].split())
    assert named <= targets
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"^make (\S+)", listed, re.MULTILINE)) | {"help"} == targets


def test_a_new_block_that_nobody_runs_is_named() -> None:
    with pytest.raises(
        Unknown, match=r"x\.md:3: 'frobnicate --all' begins with none of .* list its block in NO_COMMANDS"
    ):
        markdown("x.md", "Words.\n\n    frobnicate --all\n")
    with pytest.raises(Unknown, match=r"x\.md:1: a block of 'rust': say python, sh, or one of"):
        markdown("x.md", "```rust\n```\n")


def test_examples_are_read_as_they_stand() -> None:
    commands = "    python -c 'a\n    b'  # note\n    > 1 2\n    landscape info 'a#b'\n"
    page = f"In `one.py`:\n\n```python\nx = 1\n```\n\n{commands}"
    block, quoted, plain = markdown("x.md", page)
    assert (block.file, block.text, block.line) == ("one.py", "x = 1", 3)
    assert (quoted.text, quoted.prints) == ("python -c 'a\nb'", ["1 2"])
    assert plain.text == "landscape info 'a#b'"


def test_a_failing_example_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "    landscape info nothing.h5\n    python -c 'print(1)'\n    > 2\n    python -c 'print(3)'\n    > 3\n"
    first, second = Reader("x.md", tmp_path, monkeypatch).read(markdown("x.md", "\n" + page))
    assert first.startswith("x.md:2: exit status 1\n    landscape info nothing.h5\n    | Error: ")
    assert second.startswith("x.md:3: does not print '2'")


def test_files_and_python_names_in_documents_are_there() -> None:
    for document, text in documents.pages().items():
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (ROOT / document).parent.joinpath(link).exists(), f"{document} leads to {link}"
        for name in re.findall(r"\blandscape(?:\.[A-Za-z_]\w*)+", text):
            if name.startswith("landscape.integrations."):  # which needs other libraries
                assert importlib.util.find_spec(name), name
            else:
                pkgutil.resolve_name(name)


def test_pages_of_each_version_learn_of_the_others(tmp_path: Path) -> None:
    program, mark = runpy.run_path(str(ROOT / "docs" / "versions.py")), "<!--versions-->{}<!--/versions-->"
    for version, pages in {"0.9.0": ("index", "api/a"), "0.10.0": ("index", "api/a"), "1.0rc1": ("index",)}.items():
        for page in pages:
            path = tmp_path / version / f"{page}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"before {mark.format(version)} after")
        program["main"](tmp_path)  # as each version is built after the others
    (tmp_path / "no version").mkdir()
    (tmp_path / "no version" / "index.html").write_text(mark)
    program["main"](tmp_path)
    assert program["versions"](tmp_path) == ["1.0rc1", "0.10.0", "0.9.0"]
    text = (tmp_path / "0.9.0" / "api" / "a.html").read_text()
    assert text.startswith("before <!--versions--><details><summary>Version 0.9.0; the newest is 1.0rc1</summary>")
    assert re.findall('href="(.*?)"', text) == ["../../1.0rc1/index.html", "../../0.10.0/api/a.html"]
    assert text.endswith("<li>0.9.0</li></ul></details><!--/versions--> after")
    assert "url=1.0rc1/index.html" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "no version" / "index.html").read_text() == mark


def test_every_claim_of_the_sources_has_a_row_and_a_study() -> None:
    lines = (ROOT / "docs/sources.md").read_text().splitlines()
    rows = [[part.strip() for part in line.strip("|").split(" | ")] for line in lines if re.match(r"\| \d+ \|", line)]
    assert {int(row[0]) for row in rows} == set(range(1, 59))
    assert len(rows) >= 58
    assert all(len(row) == 5 and all(row) for row in rows)
    for row in rows:
        for study in row[2].split(", "):
            assert study.startswith("`landscape ") or (ROOT / f"analyses/{study}.py").is_file(), study
    assert not re.search(r"\{\w+\}", "\n".join(lines))
