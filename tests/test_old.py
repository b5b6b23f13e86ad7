"""Files of older versions: what the code of their time wrote opens with each verb that reads it, and means the same.

`data/old/` has all kinds of files of schema 1, and of schema 2 a walk as it was when that was new. They were written by
the code as it then was, by

    train life --seeds 0:3 --batches 4 -o run          walk --from presolve --to run --points 5 -o walk.h5
    sweep life --grid lr=0.01,0.001 --seeds 0:2 --batches 2 -o sweep
    plane --through presolve run/#0 run/#1 --points 3 -o plane.h5
    connect --from run/#0 --to run/#1 --steps 5 --points 5 -o curve.h5
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import landscape
from landscape.cli import main
from landscape.core.errors import Unsupported
from landscape.store.checkpoints import Run
from landscape.store.results import Result

_RUN, _SWEEP = "schema1/run", "schema1/sweep"
_WALKS = ("schema1/walk.h5", "schema2/walk.h5")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, in which the program works."""
    shutil.copytree(Path(__file__).parent / "data" / "old", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize(
    "line",
    [
        *(f"info {name}" for name in (_RUN, _SWEEP, *_WALKS, "schema1/plane.h5", "schema1/curve.h5")),
        "info schema1/curve.bend-1.safetensors",
        *(f"analyse barriers {name}" for name in (*_WALKS, "schema1/curve.h5")),
        *(f"analyse {what} {_RUN}" for what in ("outcomes", "clusters", "curvature", "convergence")),
        f"analyse success {_SWEEP} --samples 10",
        f"analyse passes {_WALKS[0]}",
        *(f"plot walk {name} -o new.png" for name in (*_WALKS, "schema1/curve.h5")),
        "plot plane schema1/plane.h5 -o new.png",
        f"verify {_RUN}",
        f"walk --from {_RUN}/@0 --to {_RUN} --points 3 -o new.h5",
        f"walk --from {_RUN}/#0 --via schema1/curve.bend-1.safetensors --to {_RUN}/#1 --points 3 -o new.h5",
        f"plane --trajectory {_RUN}#0 --points 3 -o new.h5",
        f"connect --from {_RUN}/#0 --to {_RUN}/#1 --method bezier --steps 2 --points 5 -o new.h5",
        f"average {_RUN}/#0 {_RUN}/#1 -o new.safetensors",
        f"polish {_RUN}/#0 --steps 10 -o new",
        f"walk --from {_SWEEP}/lr=0.01 --to {_SWEEP}/lr=0.001 --points 3 -o new.h5",
        f"train life --start {_RUN} --seeds 0:3 --batches 2 -o new",
    ],
)
def test_an_old_file_opens_with_each_verb_that_reads_it(old: Path, line: str) -> None:
    done = CliRunner().invoke(main, line.split())
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", _WALKS)
def test_an_old_walk_says_what_the_same_walk_says_now(old: Path, name: str) -> None:
    there = Result.read(old / name)
    now = landscape.walk("presolve", Run.open(old / _RUN), points=5)
    assert there.kind == now.kind == "line"
    for metric in ("loss", "accuracy", "right", "solved", "l2"):
        np.testing.assert_allclose(there[metric], now[metric], rtol=1e-3, atol=1e-6)


def test_what_a_newer_version_wrote_is_refused_by_its_number(old: Path) -> None:
    file = old / _RUN / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(Unsupported, match=r"run\.json has schema 99, this version reads 1: update landscape"):
        Run.open(old / _RUN)
