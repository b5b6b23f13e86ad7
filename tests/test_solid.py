"""Surfaces that turn: what the page holds, and what a browser shows of it."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from click.testing import Result as Outcome
from pages import browsers
from test_plane_figures import VALLEY, X, Y, mark, surface, through, trajectory

from landscape.core.errors import LandscapeError, Unsupported
from landscape.store.results import Result
from landscape.web import solid
from landscape.web.solid import interactive

Program = Callable[..., Outcome]

EVIL = '"><script>document.title = "evil"</script><img src=x onerror="document.title = 1"><b>b</b> %{x}'


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plotly that draws nothing, so that pages are looked at where there is none."""
    monkeypatch.setattr(solid, "_plotly", lambda: "var Plotly = { newPlot() {} };")


def held(result: Result, folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """A page, and the data in it."""
    page = interactive(result, folder / "page.html", overwrite=True, **options).read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id=data>(.*?)</script>', page)
    return page, json.loads(data)


@pytest.mark.usefixtures("without")
def test_the_surface_has_the_losses_at_their_places(tmp_path: Path) -> None:
    page, data = held(through(), tmp_path)
    field, networks = data["traces"]
    np.testing.assert_allclose(field["x"], X, rtol=1e-6)
    np.testing.assert_allclose(field["y"], Y, rtol=1e-6)
    np.testing.assert_allclose(10 ** np.array(field["z"]), VALLEY, rtol=1e-5)
    assert field["text"][3][7] == f"x {X[7]:.4g}, y {Y[3]:.4g}<br>loss {VALLEY[3, 7]:.4g}"
    assert networks["text"] == ["a", "b", "c"]
    # Above the surface by a hundredth of its height, so that none is half sunk in it.
    ground = scipy.interpolate.RegularGridInterpolator((Y, X), np.log10(VALLEY))
    above = np.array(networks["z"]) - ground(np.stack([networks["y"], networks["x"]], axis=1))
    np.testing.assert_allclose(above, np.ptp(np.log10(VALLEY)) / 100, rtol=0.2)
    assert networks["customdata"][0] == "own loss 0.1<br>loss here, on the plane, 0.2"
    layout = data["layout"]["scene"]
    assert layout["xaxis"]["title"]["text"] == "from a to b (L2 distance)"
    assert layout["zaxis"]["title"]["text"] == "loss (nats)"
    assert layout["zaxis"]["ticktext"] == field["colorbar"]["ticktext"]
    assert layout["aspectratio"]["y"] / layout["aspectratio"]["x"] == pytest.approx(3 / 5)
    assert "Dots: the networks, on the surface; pointing tells their own loss too." in page
    assert "<h1>Hills</h1>" in page
    assert "://" not in page


@pytest.mark.usefixtures("without")
def test_the_trajectory_lies_on_the_surface_also_between_checkpoints(tmp_path: Path) -> None:
    result = trajectory(6)
    _, data = held(result, tmp_path)
    field, path, networks = data["traces"]
    x, y, z = (np.array(path[axis]) for axis in "xyz")
    at = {(float(f"{each.x:.7g}"), float(f"{each.y:.7g}")) for each in result.trajectory}
    assert at <= set(zip(x.tolist(), y.tolist(), strict=True))
    rise = np.ptp([field["cmin"], field["cmax"]])
    for across, along, height in zip(x, y, z, strict=True):  # the slow way: the four corners around each place
        column, row = min(int((across + 2) / (X[1] - X[0])), 39), min(int((along + 1) / (Y[1] - Y[0])), 25)
        corners = np.array(field["z"])[row : row + 2, column : column + 2]
        assert corners.min() - 1e-6 <= height <= corners.max() + 0.01 * rise
    assert networks["marker"]["color"] == ["#D55E00"] * 6


@pytest.mark.usefixtures("without")
def test_holes_zeros_and_networks_outside(tmp_path: Path) -> None:
    loss = VALLEY.copy()
    loss[2, 3], loss[4, 5] = np.inf, 0.0
    marks = (mark("in", 0, 0, np.nan), mark("out", 99, 0))
    page, data = held(surface(loss, marks), tmp_path)
    field, networks = data["traces"]
    assert field["z"][2][3] is None
    assert field["z"][4][5] == pytest.approx(field["cmin"])
    assert field["text"][4][5].endswith("loss 0")
    assert field["colorbar"]["ticktext"][0] == "0"
    assert networks["text"] == ["in"]
    assert networks["customdata"] == ["own loss nan<br>loss here, on the plane, 0.2"]
    assert "Holes: the loss is not finite (1 point)" in page


@pytest.mark.usefixtures("without")
def test_a_fine_grid_is_thinned_and_keeps_its_edges(tmp_path: Path) -> None:
    x, y = np.linspace(0, 1, 601), np.linspace(0, 1, 11)
    result = dataclasses.replace(
        surface(),
        axes={"y": y, "x": x},
        values={"loss": 5 + y[:, None] + x},
        columns={"done": np.ones(11, dtype=bool)},
    )
    page, data = held(result, tmp_path)
    assert len(data["traces"][0]["x"]) == 201
    assert (data["traces"][0]["x"][0], data["traces"][0]["x"][-1], len(data["traces"][0]["y"])) == (0, 1, 11)
    assert "Grid of 601 x 11 points; linear scale. Drawn: 201 x 11 of them." in page


def evil() -> Result:
    result = through()
    marks = [dataclasses.replace(each, name=EVIL + each.name) for each in result.marks]
    about = {**result.about, "title": EVIL, "loss_unit": "<b>nats</b>", "command": ["landscape", EVIL]}
    return dataclasses.replace(result, marks=marks, about=about)


@pytest.mark.usefixtures("without")
def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    page, data = held(evil(), tmp_path)
    assert page.count("<script") == 3
    assert "<img" not in page
    assert "&lt;script&gt;" in data["traces"][1]["text"][0]
    assert not re.search("<(?!br>|\u200b)", data["layout"]["scene"]["xaxis"]["title"]["text"])
    assert data["traces"][0]["colorbar"]["title"]["text"] == "loss (&lt;b&gt;nats&lt;/b&gt;)"


def test_without_plotly_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landscape: Program) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    through().save(tmp_path / "plane.h5")
    done = landscape("plot", "plane", "plane.h5", "--interactive")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'landscape-walks[interactive]'" in done.stderr
    assert not list(tmp_path.glob("**/*.html"))


@pytest.mark.usefixtures("without")
def test_wrong_surfaces_are_refused(tmp_path: Path, landscape: Program) -> None:
    through().save(tmp_path / "plane.h5")
    (tmp_path / "there.html").touch()
    for options, status, words in (
        (["-o", "a.png"], 1, "end -o in .html"),
        (["-o", "there.html"], 1, "there.html exists"),
        (["--format", "png"], 2, "leave --format out"),
        (["--style", "paper"], 2, "leave --style out"),
        (["--surface"], 2, "leave --surface out"),
    ):
        done = landscape("plot", "plane", "plane.h5", "--interactive", *options)
        assert done.exit_code == status, done.output
        assert words in done.stderr
    done = landscape("plot", "plane", "plane.h5", "--interactive", "--caption", "A < B")
    assert done.stdout == "plots/plane.html\n"
    assert "<p>A &lt; B</p>" in (tmp_path / "plots" / "plane.html").read_text()
    line = dataclasses.replace(through(), kind="line")
    with pytest.raises(Unsupported, match="drawn of a plane"):
        interactive(line, tmp_path / "a.html")
    with pytest.raises(LandscapeError, match="no loss on the plane is finite"):
        interactive(surface(np.full_like(VALLEY, np.nan)), tmp_path / "a.html")


def test_a_plane_without_a_finite_loss_is_refused_in_one_line_by_whatever_draws_it(
    landscape: Program, tmp_path: Path
) -> None:
    """Its networks have finite losses."""
    lost = dataclasses.replace(trajectory(), values={"loss": np.full_like(trajectory().loss, np.inf)})
    lost.save(tmp_path / "plane.h5")
    for verb in (["plot", "plane"], ["plot", "plane", "--surface"], ["plot", "plane", "--interactive"], ["animate"]):
        done = landscape(*verb, "plane.h5")
        assert done.exit_code == 1, verb
        assert done.stderr == "Error: no loss on the plane is finite: choose other points, or a smaller range\n", verb
    assert [each.name for each in tmp_path.iterdir()] == ["plane.h5"]
    assert not (tmp_path / "a.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("plotly", reason="plotly is not installed: the extra interactive has it")
    yield from browsers()


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_draws_it_and_tells_what_is_pointed_at(browser: Any, tmp_path: Path) -> None:
    said: list[str] = []
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: said.append(one.url) if not re.match("file|data|blob", one.url) else None)
    file = interactive(evil(), tmp_path / "page.html")
    assert 4.5e6 < file.stat().st_size < 5.5e6
    page.goto(file.as_uri())
    page.wait_for_selector("#surface canvas", timeout=60_000)
    page.evaluate("""() => document.getElementById("surface").on("plotly_hover", (event) => {
        const [at] = event.points; window.told = [at.x, at.y, at.z]; })""")
    for place in range(300, 700, 40):
        page.mouse.move(place, 330)
        page.wait_for_timeout(200)
        if page.evaluate("window.told"):
            break
    x, y, z = page.evaluate("window.told")
    assert 10**z == pytest.approx((x - 1) ** 2 + 4 * (y - 0.5) ** 2 + 0.01, rel=0.05)
    words = page.locator(".hovertext").first.text_content()
    assert f"{10**z:.4g}" in words or EVIL in words
    assert page.title() == EVIL
    assert page.locator("script").count() == 3
    assert page.locator("img").count() == 0
    assert said == []
    page.close()
