"""What a notebook shows of objects, in which names of others stay text; and bars of progress."""

import dataclasses
import io
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from test_results import lines, surface

import landscape
from landscape.core.errors import Unsupported
from landscape.core.notebook import listening_to
from landscape.core.notebook import table as table_of
from landscape.problems.life import Life
from landscape.store.checkpoints import Run

MARKUP = "<script>alert(1)</script> & \"'\x1b"
WRITTEN = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;&#x27;\\x1b"


def rows(html: str) -> dict[str, str]:
    """The table that a text begins with, read as XML."""
    tree = ElementTree.fromstring(html[: html.index("</table>") + 8])
    return {row[0].text or "": row[1].text or "" for row in tree.iter("tr")}


def test_text_of_others_stays_text() -> None:
    html = table_of(MARKUP, {MARKUP: MARKUP, "long": "x" * 500})
    assert html.startswith(f"<table><caption>{WRITTEN}</caption><tr><th>{WRITTEN}</th><td>{WRITTEN}</td></tr>")
    assert rows(html)["long"] == "x" * 197 + "..."


@pytest.mark.parametrize("result", [lines(), surface()])
def test_a_result_is_a_table_and_a_figure_without_scripts(result: landscape.Result) -> None:
    about = {**result.about, "title": MARKUP, "from": MARKUP}
    html = dataclasses.replace(result, about=about)._repr_html_()
    assert rows(html)["from"].startswith("<script>")
    assert rows(html)["finished"] == f"{len(result)} of {len(result)}"
    assert rows(html)["loss"] == f"{result.loss.min():.4g} to {result.loss.max():.4g}"
    assert "<svg" in html
    assert not re.search(r"<script|\son\w+=|javascript:", html)


def test_a_result_without_a_finite_loss_is_a_table_alone() -> None:
    made = surface(marks=())
    html = dataclasses.replace(made, values={"loss": made.loss * float("nan")})._repr_html_()
    assert rows(html)["loss"] == "none finite"
    assert "<svg" not in html


def test_a_run_says_on_what_and_how_it_was_trained(tmp_path: Path) -> None:
    run = landscape.train("life", {"batches": 2}, tmp_path / "<b>", seeds=range(3))
    found = rows(run._repr_html_())
    assert {"problem": "life", "members": "3", "saved steps": "3, from 0 to 2", "batches": "2"}.items() <= found.items()
    assert f"run {tmp_path}/&lt;b&gt;" in run._repr_html_()
    assert "<script" not in Run(run.path, {**run.document, "created": MARKUP})._repr_html_()


def test_a_problem_says_its_size_and_its_known_points() -> None:
    assert rows(Life()._repr_html_())["parameters"] == str(sum(p.numel() for p in Life().network().parameters()))
    assert "presolve" in rows(Life()._repr_html_())["known points"]
    x = torch.linspace(-1, 1, 8)[:, None]
    own = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, x), "mse", title=MARKUP)
    assert own._repr_html_().startswith(f"<table><caption>{WRITTEN}</caption>")
    assert rows(own._repr_html_())["parameters"] == "2"


class Drawn:
    """In the place of tqdm's bar: what it was told."""

    made: list["Drawn"]

    def __init__(self, total: int) -> None:
        self.total, self.n, self.closed = total, 0, False
        Drawn.made.append(self)

    def update(self, more: int) -> None:
        self.n += more

    def refresh(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    Drawn.made = []
    monkeypatch.setattr(pytest.importorskip("tqdm.auto"), "tqdm", Drawn)
    return Drawn.made


def test_a_bar_follows_the_work_and_begins_anew_with_it(drawn: list[Drawn]) -> None:
    tell = listening_to(True)
    for done, total in ((1, 3), (3, 3), (3, 3), (0, 10), (4, 12)):
        tell(done, total)
    assert [(bar.n, bar.total) for bar in drawn] == [(3, 3), (4, 12)]
    del tell
    assert all(bar.closed for bar in drawn)
    heard: list[tuple[int, int]] = []
    listening_to(lambda done, total: heard.append((done, total)))(1, 2)
    listening_to(None)(1, 2)
    listening_to(False)(1, 2)
    assert heard == [(1, 2)]
    assert len(drawn) == 2


def test_every_verb_draws_a_bar_where_it_is_asked_to(drawn: list[Drawn], tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 16)[:, None]
    problem = landscape.Problem.from_model(lambda: torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    run = landscape.train(problem, {"batches": 3}, tmp_path / "run", seeds=range(2), progress=True)
    assert (drawn[-1].n, drawn[-1].total) == (3, 3)
    one, other = (f"{run.path}/#{seed}" for seed in (0, 1))
    verbs: list[Any] = [
        lambda: landscape.walk(one, other, problem=problem, points=3, progress=True),
        lambda: landscape.plane(one, problem=problem, points=3, progress=True),
        lambda: landscape.connect(one, other, problem=problem, method="bezier", steps=5, points=3, progress=True),
        lambda: landscape.curvature(one, problem=problem, top=1, progress=True),
        lambda: landscape.convergence(one, problem=problem, progress=True),
        lambda: landscape.polish(str(run.path), tmp_path / "polished", problem=problem, progress=True),
        lambda: landscape.clusters(str(run.path), problem=problem, by="barrier", progress=True),
    ]
    for verb in verbs:
        before = len(drawn)
        verb()
        assert len(drawn) > before
        assert 0 < drawn[-1].n <= drawn[-1].total


def test_the_bar_of_tqdm_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    tell = listening_to(True)
    tell(5, 5)
    del tell
    assert "5/5" in shown.getvalue()


def test_without_tqdm_a_bar_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(Unsupported, match=r"tqdm is not installed, which draws `progress=True`: from a clone, pip"):
        landscape.walk("presolve", "presolve:hat", problem="life", progress=True)
