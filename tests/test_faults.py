"""A small part of the campaign of faults (`make faults`), and that it sees what it looks for."""

import random
import subprocess
import sys
from pathlib import Path

import faults
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "part",
    ["--kills 45", "--signals 10", "--mutations 90", "--lines 100", "--pairs 15", "--workers 4"],
    ids=lambda part: part[2:6],
)
def test_nothing_is_lost_and_nothing_wrong_is_accepted(part: str) -> None:
    none = [
        word for name in ("kills", "signals", "mutations", "lines", "pairs", "workers") for word in (f"--{name}", "0")
    ]
    done = subprocess.run(
        [sys.executable, faults.__file__, *none, *part.split(), "--seed", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_is_left_half_written_is_seen(tmp_path: Path) -> None:
    """A verb of which other bytes stay after a kill, and one that prints a traceback."""
    table = faults.Table()
    (tmp_path / "left").touch()
    verb = faults.Verb("plot", "plot rule B3/S23 -o out.png")
    faults.repeated(table, "kill", verb, tmp_path, {"out.png": "0", "out.svg": "1"}, "")
    assert list(table.counts["kill"]) == ["other bytes"]
    assert not faults.Ended(1, "", "Traceback (most recent call last)", 0).clean
    assert not faults.Ended(-11, "", "", 0).clean
    changed = [faults.mutated(b'{"a": 1}', "x.json", random.Random(seed))[1] for seed in range(20)]
    assert len(set(changed)) > 10
