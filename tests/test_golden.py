"""Committed numbers: two small trainings, and walks, planes and curves of them, as an earlier version of the code had
them. What is computed today is compared with them, through the public verbs.

They were made by PyTorch 2.13 on a CPU; the files say by which commands.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symmetries import orders_alone

from landscape import connect, plane, walk
from landscape.analysis.barriers import representatives
from landscape.problems.base import Problem
from landscape.problems.life import Life
from landscape.problems.registry import create
from landscape.store.checkpoints import Run
from landscape.store.results import Result
from landscape.training.train import Training, train

GOLDEN = Path(__file__).parent / "golden"

#: How far losses may be from the committed ones, relative to them.
NEAR = 1e-6

#: Losses so small are not those of today: when these were made, the cross-entropy of a dead cell was taken from its
#: logit, to the rounding of that in float32. `test_small_losses.py` has them exactly.
SMALL = 2e-7

#: Trained points of Bézier curves share bit for bit what their ends share, which they did not when these were made.
BENT = 1e-4


def matched() -> Result:
    """Lines to ends whose units are reordered, no more: scales were not known then, and the closest was taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.space.alignment._LOWER", 1.0)
        known = Life.symmetry
        patch.setattr(Life, "symmetry", lambda self: orders_alone(known(self)))
        curves = walk("presolve", "exact", align=True, span=(-0.25, 1.25), points=21)
    return representatives(curves)["aligned"]


WALKS: dict[str, Callable[[], Result]] = {
    "walk_matched": lambda: matched(),
    "walk_boards": lambda: walk("boards/@0", "boards", points=11, samples=50),
    "polyline": lambda: walk("exact/@0", "exact", via=["presolve"], points=21),
    "layers": lambda: walk("exact/@0", "exact", per="layer", points=11, hold="end"),
    "rays": lambda: walk("exact#1", rays=range(3), span=(-1, 1), points=11),
    "plane": lambda: plane("presolve", "exact#1", "exact#3", points=(9, 7)),
    "plane_trajectory": lambda: plane("exact#2", directions="trajectory", points=(7, 5)),
    "bezier": lambda: connect("exact#1", "exact", method="bezier", steps=30, points=11),
    "chain": lambda: connect("exact#1", "exact", steps=30, points=11, method="polyline", bends=2),
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands named runs relative to their folder."""
    monkeypatch.chdir(GOLDEN)


def test_every_committed_file_is_computed_again() -> None:
    assert sorted(WALKS) == sorted(path.stem for path in GOLDEN.glob("*.h5"))


@pytest.mark.parametrize("name", WALKS)
def test_results_are_those_that_were_committed(name: str) -> None:
    was, now = Result.read(f"{name}.h5"), WALKS[name]()
    near = BENT if name == "bezier" else NEAR
    assert (now.kind, list(now.axes)) == (was.kind, list(was.axes))
    assert now.values.keys() == was.values.keys()
    for axis, places in was.axes.items():
        np.testing.assert_allclose(now[axis], places, rtol=NEAR, atol=NEAR * np.abs(places).max())
    for loss in ("loss", "loss_straight", "loss_se", "accuracy"):
        if loss in was.values:
            np.testing.assert_allclose(now[loss], was[loss], rtol=near, atol=SMALL)
    for column in ("l1", "l2"):
        if column in was.columns:
            np.testing.assert_allclose(now[column], was[column], rtol=near)
    if name == "walk_matched":  # in which the start was reordered, not the end
        return
    for column in ("from_member", "to_member", "via_member", "moves", "done"):
        assert now.columns.get(column, np.array(())).tolist() == was.columns.get(column, np.array(())).tolist()

    def said(result: Result) -> list[Any]:
        """Where members came from; files that hold the bends are not written here, and have no digest."""
        return [(s.step, s.seed, s.label, s.order, "" if "bend" in s.label else s.digest) for s in result.sources]

    assert said(now) == said(was)
    for mark, before in zip(now.marks, was.marks, strict=True):
        assert (mark.name, mark.trajectory, mark.source) == (before.name, before.trajectory, before.source)
        for number in ("x", "y", "loss", "plane_loss", "off_plane"):
            np.testing.assert_allclose(
                getattr(mark, number), getattr(before, number), rtol=NEAR, atol=SMALL if "loss" in number else 1e-9
            )


@pytest.mark.parametrize("name", ["exact", "boards"])
def test_trainings_are_those_that_were_committed(name: str, tmp_path: Path) -> None:
    was = Run.open(GOLDEN / name)
    problem: Problem = create(*was.problem)
    asked: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in was.document["training"].items()
    }
    now = train(problem, Training(**asked), tmp_path / name, seeds=was.seeds)
    written = json.loads((tmp_path / name / "run.json").read_text())["training"]
    assert {key: written[key] for key in was.document["training"]} == was.document["training"]
    for step in was.steps():
        before, today = (run.checkpoint(step).stack.flatten() for run in (was, now))
        np.testing.assert_allclose(today.numpy(), before.numpy(), rtol=NEAR, atol=NEAR)
