"""What has to agree before a tag is put on a commit."""

import re
from configparser import ConfigParser
from pathlib import Path

import landscape

ROOT = Path(__file__).parent.parent
CITATION = dict(re.findall(r"^([a-z-]+): \"?(.*?)\"?$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))


def test_one_version_stands_in_the_package_the_changelog_and_the_citation() -> None:
    changes = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert changes[0] == (CITATION["version"], CITATION["date-released"])
    assert CITATION["version"] == landscape.__version__


def test_the_package_takes_its_version_from_itself_and_the_citation_its_licence_from_the_package() -> None:
    metadata = ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    assert metadata["metadata"]["version"] == "attr: landscape.__version__"
    assert metadata["metadata"]["license"] == CITATION["license"]
    assert CITATION["license"] in (ROOT / "LICENSE").read_text()


def test_the_citation_has_what_its_schema_requires() -> None:
    assert {"cff-version", "message", "title"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert "authors:\n  - name: The landscape developers\n" in (ROOT / "CITATION.cff").read_text()
