"""Reports: what stands in the page, and that it is what was computed; `test_browser` looks at it in a browser."""

import base64
import dataclasses
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from pages import Parsed, hills, pairs, places, valley

import landscape
from landscape.analysis.barriers import barriers
from landscape.analysis.incidence import incidence
from landscape.analysis.outcomes import outcomes
from landscape.analysis.passes import passes
from landscape.core.errors import LandscapeError
from landscape.core.files import write_json
from landscape.core.provenance import Source
from landscape.figures.passes import merge_order
from landscape.figures.planes import Scale
from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.store.formats import write_safetensors
from landscape.store.hdf5 import SEAL_BYTES
from landscape.store.results import Result
from landscape.web.curves import _bands
from landscape.web.data import SAMPLE
from landscape.web.members import PALETTE
from landscape.web.svg import UNIT, Axis, cells, path

Program = Callable[..., Outcome]

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> & \u202eevil'


def written(tmp_path: Path, *sources: object, **options: object) -> tuple[str, Parsed]:
    """A page and its elements."""
    page = landscape.report(*sources, save=tmp_path / "page.html", overwrite=True, **options).read_text("utf-8")
    return page, Parsed(page)


def rows_of(page: Parsed, title: str) -> list[dict[str, str]]:
    """Rows of a table by their heads."""
    heads = [each["text"] for each in page.all("th", scope="col") if _within(each, title)]
    rows = [each for each in page.all("tr") if _within(each, title) and each["of"]["tag"] == "tbody"]
    cells_of = {id(row): [] for row in rows}
    for cell in page.all("td"):
        if id(cell["of"]) in cells_of:
            cells_of[id(cell["of"])].append(cell["text"])
    return [
        {"line": row.get("data-l", ""), "members": row["data-m"], **dict(zip(heads, cells_of[id(row)], strict=True))}
        for row in rows
    ]


def _within(element: dict, title: str) -> bool:
    while element is not None:
        if element["tag"] == "table":
            return element["aria-label"] == title
        element = element["of"]
    return False


def test_the_script_is_short() -> None:
    script = Path(landscape.__file__).parent / "web" / "report.js"
    assert len(script.read_text().splitlines()) < 300


def test_a_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    page, parsed = written(tmp_path, hills(), valley())
    assert page.startswith("<!doctype html>\n")
    (policy,) = parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy["content"]
    assert not parsed.all("link")
    (script,) = parsed.all("script")
    assert "src" not in script
    for element in parsed.elements:
        for name in ("src", "href"):
            assert element.get(name, "data:").startswith("data:")
        assert "style" not in element, "the policy would refuse it"
        assert not any(name.startswith("on") for name in element if isinstance(name, str))
    # A namespace is a name, and nothing else may lead anywhere.
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in page
    assert "@import" not in page


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path, hills(), pairs(), valley())[0] == written(tmp_path, hills(), pairs(), valley())[0]


def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    result = hills(3, title=EVIL, name=EVIL + "{}", command=["landscape", EVIL])
    surface = valley()
    marks = [dataclasses.replace(mark, name=EVIL) for mark in surface.marks]
    surface = dataclasses.replace(surface, marks=marks, about={**surface.about, "title": EVIL})
    page, parsed = written(tmp_path, result, surface, title="!" + EVIL)
    assert len(parsed.all("script")) == 1
    assert not parsed.all("img")
    assert "\u202e" not in page
    shown = EVIL.replace("\u202e", "\\u202e")
    assert parsed.all("h1")[0]["text"] == "!" + shown
    assert parsed.all("h2")[0]["text"] == shown
    assert {row["to"] for row in rows_of(parsed, "Lines")} == {f"{shown}{k}" for k in range(3)}


def test_every_line_has_a_curve_and_a_row_with_its_barrier(tmp_path: Path) -> None:
    result = hills(7)
    found = barriers(result)
    _, parsed = written(tmp_path, result)
    rows = rows_of(parsed, "Lines")
    assert [row["barrier"] for row in rows] == [f"{value:.4g}" for value in found.above_chord]
    assert [row["above higher end"] for row in rows] == [f"{value:.4g}" for value in found.above_higher_end]
    assert [row["peak alpha"] for row in rows] == [f"{value:.3g}" for value in found.peak_alpha]
    assert [row["L2 length"] for row in rows] == [f"{10 + k:g}" for k in range(7)]
    assert [row["checkpoint"] for row in rows] == ["one/@9"] * 7
    assert [row["group"] for row in rows] == ["not solved" if k % 3 == 2 else "solved" for k in range(7)]
    assert sorted(each["data-l"] for each in parsed.all("path", "data-l")) == sorted(row["line"] for row in rows)


def test_curves_are_where_a_plain_loop_puts_them(tmp_path: Path) -> None:
    result = hills(4, points=51)
    _, parsed = written(tmp_path, result)
    (drawing,) = parsed.all("svg", **{"class": "curves"})
    width, height = map(int, drawing["viewbox"].split()[2:])
    labels = [each for each in parsed.all("text", "x", "y") if each["of"]["of"] is drawing]
    ticks = {each["text"]: int(each["y"]) - 4 * UNIT for each in labels}
    one, ten = ticks["10⁰"], 2 * ticks["10⁰"] - ticks["10⁻¹"]
    for curve in parsed.all("path", "data-l"):
        (stroke,) = places(curve["d"])
        assert (stroke >= 0).all()
        assert (stroke <= [width, height]).all()
        left, right = stroke[0, 0], stroke[-1, 0]
        loss = result.loss[int(curve["data-l"])]
        for alpha, value in zip(result.alpha, loss, strict=True):
            up = one + (ten - one) * np.log10(value)
            drawn = np.interp(left + alpha * (right - left), stroke[:, 0], stroke[:, 1])
            assert abs(drawn - up) <= 4, "more than a point of the text away"
        peak = np.array(list(map(int, curve["data-p"].split())))
        top = int(np.argmax(loss - (1 - result.alpha) * loss[0] - result.alpha * loss[-1]))
        assert abs(peak[0] - (left + result.alpha[top] * (right - left))) <= 1


@given(st.lists(st.floats(0, 500), min_size=2, max_size=60), st.sets(st.integers(0, 59), max_size=5))
def test_a_shortened_curve_passes_near_all_points_and_gaps_stay(heights: list[float], gaps: set[int]) -> None:
    x, y = np.arange(len(heights)) * 7.0, np.array(heights)
    y[[gap for gap in gaps if gap < len(y)]] = np.nan
    strokes = places(path(x, y))
    there = np.isfinite(y)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]))).reshape(-1, 2)
    assert len(strokes) == len(runs)
    for stroke, (first, last) in zip(strokes, runs, strict=True):
        drawn = np.interp(x[first:last], stroke[:, 0], stroke[:, 1])
        assert np.abs(drawn - y[first:last]).max() <= 2.5
    assert sum(map(len, strokes)) <= there.sum()


def test_bands_of_many_lines_are_quantiles_of_a_plain_loop() -> None:
    values = np.random.default_rng(0).lognormal(size=(401, 5))
    values[3, 2], values[7, 4] = np.nan, np.inf
    found = np.concatenate(list(_bands(values)))
    for row, level in enumerate((0.05, 0.95, 0.25, 0.75, 0.5)):
        for point in range(5):
            there = sorted(value for value in values[:, point] if not np.isnan(value))
            assert found[row, point] == there[int(level * (len(there) - 1) + 0.5)]


def test_very_many_lines_are_bands_and_it_says_so(tmp_path: Path) -> None:
    page, parsed = written(tmp_path, hills(2500, points=5))
    assert len(page) < 1_000_000
    rows = rows_of(parsed, "Lines")
    assert len(rows) == SAMPLE == len(parsed.all("path", "data-l"))
    assert len(parsed.all("path", **{"class": "band"})) == 2
    assert "Of 2,500 curves the bands hold 90 % and 50 % at each point" in page
    assert "200 of 2500 lines" in page
    heights = [float(row["barrier"]) for row in rows]
    found = barriers(hills(2500, points=5)).above_chord
    assert [min(heights), max(heights)] == [float(f"{value:.4g}") for value in (found.min(), found.max())]
    assert "2,501 members, and they are drawn of up to 2,000" in page


def test_a_thousand_lines_are_below_two_megabytes(tmp_path: Path) -> None:
    page, parsed = written(tmp_path, hills(1000, points=51))
    assert len(page) < 2_000_000
    assert len(parsed.all("path", "data-l")) == 1000


def test_the_matrix_and_the_graph_stand_in_the_order_of_merges(tmp_path: Path) -> None:
    result = pairs()
    found = passes(result)
    order = merge_order(5, found.merges, found.loss)
    _, parsed = written(tmp_path, result)
    (matrix,) = parsed.all("svg", **{"class": "matrix"})
    rows = {row["member"]: row["members"] for row in rows_of(parsed, "Members")}
    assert matrix["data-members"].split() == [rows[f"seed {k}"] for k in order]
    (graph,) = parsed.all("svg", **{"class": "marks graph"})
    leaves = [each for each in parsed.all("g", "data-m") if each["of"] is graph]
    assert [each["data-m"] for each in leaves] == matrix["data-members"].split()
    # Feet stand on the members' own losses, the lowest loss lowest.
    feet = [int(next(c for c in parsed.all("circle") if c["of"] is leaf)["cy"]) for leaf in leaves]
    assert np.array_equal(np.argsort(feet)[::-1], np.argsort(found.loss[order]))
    tops = {k: int(re.search(r"V(-?\d+)", _leg(parsed, each))[1]) for k, each in zip(order, leaves, strict=True)}
    merged = {k: merge.height for merge in found.merges for k in (merge.first, merge.second) if k < 5}
    ranked = sorted(range(5), key=lambda k: (merged[k], k))
    assert [tops[k] for k in ranked] == sorted(tops.values(), reverse=True)


def _leg(parsed: Parsed, leaf: dict) -> str:
    return next(each for each in parsed.all("path") if each["of"] is leaf)["d"]


def drawn_cells(markup: str, shape: tuple[int, int]) -> np.ndarray:
    """The colour of each cell, read back one by one; empty where there is none."""
    colors = np.full(shape, "", dtype=object)
    for d, color in re.findall(r'<path d="([^"]*)" fill="([^"]*)"', markup):
        for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", d):
            for column in range(int(x), int(x) + int(width)):
                assert not colors[int(y), column], "a cell is drawn twice"
                colors[int(y), column] = color
    return colors


def test_cells_have_the_colours_of_their_values() -> None:
    shares = np.random.default_rng(1).uniform(size=(7, 9))
    shares[2, 3] = np.nan
    found = drawn_cells(cells(shares, PALETTE, (0, 0, 90, 70)), shares.shape)
    for row in range(7):
        for column in range(9):
            share = shares[row, column]
            if np.isnan(share):
                assert found[row, column] == ""
                continue
            expected = PALETTE[round(share * (len(PALETTE) - 1))][:3]
            assert found[row, column] == "#" + "".join(f"{round(255 * each):02x}" for each in expected)


def test_more_than_ten_thousand_cells_are_a_picture_of_the_same_colours() -> None:
    shares = np.random.default_rng(2).uniform(size=(101, 100))
    shares[0, 0] = np.nan
    link = re.search(r'href="data:image/png;base64,([^"]*)"', cells(shares, PALETTE, (0, 0, 10, 10)))
    assert link is not None
    picture = imread(io.BytesIO(base64.b64decode(link[1])))
    assert picture.shape == (101, 100, 4)
    assert picture[0, 0, 3] == 0
    shade = np.rint(shares[1:] * (len(PALETTE) - 1)).astype(int)
    np.testing.assert_allclose(picture[1:, :, :3], PALETTE[shade][..., :3], atol=1 / 255)


def test_a_plane_has_its_values_marks_and_a_slider(tmp_path: Path) -> None:
    surface = valley()
    page, parsed = written(tmp_path, surface)
    (drawing,) = parsed.all("svg", **{"class": "marks plane"})
    values = np.array(drawing["data-values"].split(), dtype=float).reshape(9, 12)
    np.testing.assert_allclose(values[::-1], surface.loss, rtol=5e-3)
    scale, dots = Scale.of(surface), list(parsed.all("circle", "fill"))
    for mark, dot in zip(surface.marks, dots, strict=True):
        share = (np.log10(mark.loss) - scale.levels[0]) / (scale.levels[-1] - scale.levels[0])
        assert scale.log
        color = PALETTE[round(min(share, 1) * (len(PALETTE) - 1))][:3]
        assert dot["fill"] == "#" + "".join(f"{round(255 * each):02x}" for each in color)
    first, *_ = parsed.all("g", **{"class": "mark"})
    assert first["data-t"].startswith("step 0: loss 0.5, 0.75 off")
    (slide,) = parsed.all("input", type="range")
    assert (slide["min"], slide["max"], slide["value"]) == ("0", "3", "3")
    assert "Grid of 12 x 9 points" in page
    large, parsed = written(tmp_path, valley(120, 100))
    assert len(parsed.all("image")) == 1
    assert "Drawn as a picture of 120 x 100 points" in large
    assert len(large) < 300_000


@given(st.floats(1e-12, 1e6), st.floats(1, 1e8), st.booleans(), st.booleans())
def test_every_axis_has_two_labels_or_more_that_differ(low: float, times: float, close: bool, zero: bool) -> None:
    times = 1 + (times - 1) * 1e-9 if close else times
    values = np.array([low, low * times, *([0.0] if zero else [])])
    for axis in (Axis.of_losses([values], 0, 500), Axis.of_losses([-values], 0, 500), Axis.of_steps(values, 0, 500)):
        places, labels = zip(*axis.ticks(), strict=True)
        assert 2 <= len(labels) <= 13
        assert len(set(labels)) == len(labels)
        assert sorted(places) == list(places)
        assert -1 <= places[0] <= places[-1] <= 501


def test_a_graph_tells_how_many_members_its_branches_hold_and_where_zeros_are(tmp_path: Path) -> None:
    """Two groups of six, low within and high between."""
    result = pairs(12)
    apart = (result["from_member"] < 6) != (result["to_member"] < 6)
    curve = np.sin(np.pi * result.alpha)
    loss = np.where(apart, 9.0, 0.5)[:, None] * curve + 0.1
    page, parsed = written(tmp_path, dataclasses.replace(result, values={"loss": loss}))
    (counts,) = [each for each in parsed.all("g") if "counts" in each.get("class", "")]
    assert [each["text"] for each in parsed.all("text") if each["of"] is counts] == ["6", "6"]
    assert "large ones have their number" in page
    wide = [each["class"] for each in parsed.all("path") if each.get("class", "").startswith("legs w")]
    assert wide == sorted(wide)
    assert len(wide) > 1
    assert "Zeros" not in page
    page, _ = written(tmp_path, dataclasses.replace(result, values={"loss": loss - 0.1}))
    assert page.count("Zeros lie at the lower edge of the log axis.") == 2


def test_log_axes_have_zeros_at_their_foot_and_linear_ones_where_losses_are_negative() -> None:
    axis = Axis.of_losses([np.array([0.0, 1e-3, 1.0, np.inf])], 100, -90)
    assert axis.log
    assert float(axis(np.array(0.0))) == 100
    assert np.isnan(axis(np.array(np.inf)))
    assert axis.ticks()[0] == (100, "0")
    low, middle, high = (float(axis(np.array(value))) for value in (1e-3, np.sqrt(1e-3), 1.0))
    assert middle == pytest.approx((low + high) / 2)
    assert not Axis.of_losses([np.array([-1.0, 1.0])], 100, -90).log
    steps = Axis.of_steps([0, 1, 10, 100], 0, 100)
    assert float(steps(np.array(0.0))) == 0 < float(steps(np.array(1.0)))


def test_intervals_of_barriers_stand_beside_them(tmp_path: Path) -> None:
    result = hills(3)
    low, high = (barriers(result).above_chord * factor for factor in (0.9, 1.1))
    bounded = dataclasses.replace(
        result, columns={**result.columns, "above_chord_lower": low, "above_chord_upper": high}
    )
    page, parsed = written(tmp_path, bounded)
    assert rows_of(parsed, "Lines")[1]["barrier"] == f"2 [{low[1]:.4g}, {high[1]:.4g}]"
    assert "certified bounds" in page
    measured = {**result.columns, "barrier": low, "barrier_low": low, "barrier_high": high}
    page, parsed = written(tmp_path, dataclasses.replace(result, columns=measured))
    assert rows_of(parsed, "Lines")[1]["barrier"] == f"2 [{low[1]:.4g}, {high[1]:.4g}]"
    assert "its 95 % interval" in page
    assert "read off the 11 points" in written(tmp_path, result)[0]


def test_few_lines_have_bands_of_their_errors(tmp_path: Path) -> None:
    result = hills(4)
    wide = dataclasses.replace(result, values={**result.values, "loss_se": 0.1 * result.loss})
    page, parsed = written(tmp_path, wide)
    areas = [each for each in parsed.all("path") if each.get("class", "").startswith("area")]
    assert len(areas) == 4
    assert "Bands: one standard error." in page
    many = hills(11)
    many = dataclasses.replace(many, values={**many.values, "loss_se": 0.1 * many.loss})
    assert "Bands: one standard error." not in written(tmp_path, many)[0]


def test_what_values_depend_on_is_said(tmp_path: Path) -> None:
    policy = {"policy": "recalibrate", "samples": 640, "batch": 64}
    page, _ = written(tmp_path, hills(3, batchnorm=policy, samples=1000, sampled=True, device="cpu"))
    assert "Statistics of BatchNorm estimated anew at each point on 640 training samples" in page
    assert "<dt>samples<dd>1,000, drawn" in page
    assert "<code>landscape walk</code>" in page


def test_results_of_two_problems_have_a_section_each(tmp_path: Path) -> None:
    page, parsed = written(tmp_path, hills(3), hills(4, title="Dales"))
    assert [each["text"] for each in parsed.all("h2")] == ["Hills", "Dales"]
    assert "Of 2 problems, a section each" in page
    assert len(parsed.all("table")) == 4


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    unfinished = hills(3)
    unfinished = dataclasses.replace(unfinished, columns={**unfinished.columns, "done": np.zeros(3, dtype=bool)})
    page, _ = written(tmp_path, hills(4), unfinished)
    assert "<li>result 2: none of the lines is finished: walk again to complete them" in page
    with pytest.raises(LandscapeError, match="there is nothing to show: result 1: none of the lines is finished"):
        landscape.report(unfinished, save=tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_results_that_do_not_agree_are_not_put_into_one_graph(tmp_path: Path) -> None:
    one, other = pairs(), pairs()
    other = dataclasses.replace(other, values={"loss": 2 * other.loss})
    page, parsed = written(tmp_path, one, other)
    assert re.search("<li>disconnectivity graph and matrix: seed 0 has the loss 0.01 on one line and 0.02", page)
    assert [each["class"] for each in parsed.all("svg", "tabindex")] == ["curves", "curves"]


def test_infinite_and_missing_losses_leave_gaps(tmp_path: Path) -> None:
    result = hills(3)
    loss = result.loss.copy()
    loss[0, 5], loss[1, 5] = np.inf, np.nan
    _, parsed = written(tmp_path, dataclasses.replace(result, values={**result.values, "loss": loss}))
    strokes = {each["data-l"]: len(places(each["d"])) for each in parsed.all("path", "data-l")}
    assert strokes == {"0": 2, "1": 2, "2": 1}
    assert [row["barrier"] for row in rows_of(parsed, "Lines")][:2] == ["inf", "–"]


def test_a_run_shows_what_its_members_compute(run: Run, life: Life, tmp_path: Path) -> None:
    found, happened = outcomes(life, run.checkpoint().stack), incidence(run)
    page, parsed = written(tmp_path, run)
    cards = parsed.all("article", **{"class": "card"})
    for card, group, number in zip(cards, found.groups, range(8), strict=False):
        assert card["data-t"].startswith(f"{number + 1}. {group.share.count} member")
        assert len(card["data-m"].split()) == group.share.count
    rows = rows_of(parsed, "Members")
    assert [row["loss"] for row in rows] == [f"{value:.4g}" for value in found.loss]
    assert [row["right"] for row in rows] == [f"{value} of 512" for value in found.right]
    points = parsed.all("g", **{"class": "at"})
    assert [point["data-t"].split(" solved")[0] for point in points] == [
        f"step {step:,}: {at.count} of 24" for step, at in zip(happened.steps, happened.at, strict=True)
    ]
    curves = [each for each in parsed.all("path", "data-m") if each["of"].get("class") != "top"]
    assert {each["data-m"] for each in curves} == {row["members"] for row in rows}
    assert "as training logged it" in page


def test_lines_to_a_run_name_the_members_of_the_run(run: Run, tmp_path: Path) -> None:
    walked = landscape.walk("presolve", run, points=5)
    _, parsed = written(tmp_path, walked, run.path)
    members = {row["member"]: row for row in rows_of(parsed, "Members")}
    assert len(members) == 25
    for row in rows_of(parsed, "Lines"):
        assert row["members"].split()[1] == members[row["to"]]["members"]
        assert members[row["to"]]["right"].endswith("of 512")


def test_a_result_writes_its_own_report(tmp_path: Path) -> None:
    assert hills().report(tmp_path / "own.html") == tmp_path / "own.html"
    with pytest.raises(LandscapeError, match=r"own\.html exists: choose another output with `save`"):
        hills().report(tmp_path / "own.html")


def test_a_report_of_results_needs_no_torch(tmp_path: Path) -> None:
    hills().save(tmp_path / "a.h5")
    code = (
        "import sys, landscape; landscape.report(sys.argv[1], save=sys.argv[2]); "
        "sys.exit('torch' in sys.modules and 'torch was imported')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5"), str(tmp_path / "a.html")]
    subprocess.run(command, check=True)


def test_the_program_writes_a_page_and_says_where(landscape: Program, tmp_path: Path) -> None:
    hills().save(tmp_path / "a.h5")
    done = landscape("report", "a.h5", "-o", "new/folder/a.html", "--title", "Three hills")
    assert (done.exit_code, done.stdout) == (0, "new/folder/a.html\n")
    assert "<title>Three hills</title>" in (tmp_path / "new/folder/a.html").read_text("utf-8")
    assert landscape("report", "a.h5").stdout == "report.html\n"
    assert "report.html exists" in landscape("report", "a.h5").stderr
    assert landscape("report", "a.h5", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ((), "Missing argument 'RUN|FILE...'", 2),
        (("nothing.h5",), "nothing.h5 does not exist", 1),
        (("a.json",), "a.json is what landscape analyse barriers wrote", 1),
        (("a.txt",), "a.txt", 1),
        (("a.h5", "a.h5"), "a.h5 is given twice: leave one out", 1),
        (("a.h5", "-o", "a.png"), "a.png is not called like a page: end -o in .html", 1),
        (("newer.h5",), "newer.h5", 1),
        (
            ("empty",),
            "empty is no run, it has no run.json: give a run directory, or what landscape walk, plane or connect wrote",
            1,
        ),
        (("seed.safetensors",), "seed.safetensors is a checkpoint", 1),
        (("a.h5", "--problem", "life"), "each of these says what problem it is of: leave --problem out", 1),
        (("a.h5", "-O", "m_factor=4"), "-O goes with --problem", 2),
        (("a.h5", "-o", "a.txt/page.html"), "cannot write a.txt/page.html", 1),
    ],
)
def test_bad_input_is_one_line(
    landscape: Program, tmp_path: Path, arguments: tuple[str, ...], said: str, status: int
) -> None:
    hills().save(tmp_path / "a.h5")
    write_json(tmp_path / "a.json", {"barriers": {}})
    (tmp_path / "a.txt").write_text("nothing\n")
    (tmp_path / "empty").mkdir()
    write_safetensors(tmp_path / "seed.safetensors", {"weight": torch.zeros(2)}, {})
    newer(tmp_path / "newer.h5")
    before = sorted(tmp_path.rglob("*"))
    done = landscape("report", *arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == status
    assert len(lines) == 1
    assert said in lines[0]
    assert not lines[0].endswith(",")
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def newer(path: Path) -> None:
    """A result as a later version would write it."""
    import h5py

    from landscape.store.hdf5 import content_of, seal

    made = io.BytesIO()
    with h5py.File(made, "w", userblock_size=SEAL_BYTES) as file:
        file.attrs["schema"] = 99
        values = content_of(file)
    seal(made, values)
    path.write_bytes(made.getvalue())


def test_what_is_no_run_or_result_is_told_in_python(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="a report of nothing: give at least one run or result"):
        landscape.report(save=tmp_path / "a.html")
    with pytest.raises(LandscapeError, match="a report of int: give runs, results or their paths"):
        landscape.report(3, save=tmp_path / "a.html")


def test_lines_of_a_log_that_are_cut_short_or_odd_are_left_out(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    log = copy / "log.jsonl"
    whole = log.read_bytes()
    clean = written(tmp_path, copy)[0]
    odd = [b'{"step": 3', b'{"step": "a", "loss": []}', b'{"loss": 3}', b"[]", b"\xff", b'{"step": 9, "loss": [1, 2]}']
    log.write_bytes(whole + b"\n".join(odd))
    assert written(tmp_path, copy)[0] == clean
    log.write_bytes(b"nothing\n")
    assert "log.jsonl has no losses of these members" in written(tmp_path, copy)[0]
    log.unlink()
    assert "Loss at the saved steps (exact), as there is no log" in written(tmp_path, copy)[0]


def test_the_page_in_the_gallery_is_of_these_files_and_small() -> None:
    plots = Path(__file__).parent.parent / "plots"
    page = (plots / "reference_report.html").read_text("utf-8")
    assert len(page.encode()) < 700_000
    parsed = Parsed(page)
    seeds = [row["to"] for row in rows_of(parsed, "Lines")]
    assert sorted(seeds) == sorted(f"seed {k}" for k in range(1000))
    assert len(parsed.all("article", **{"class": "card"})) == 8
    for kind in ("css", "js"):
        source = (plots.parent / "landscape" / "web" / f"report.{kind}").read_text()
        assert source in page, "make it anew: its command is in plots/README.md"


def test_members_are_the_same_wherever_their_file_lies() -> None:
    from landscape.web.data import Members

    members = Members()
    one = members.of(Source("here/step-1.safetensors", 1, 5, "abc", "seed 5"))
    assert members.of(Source("there/step-1.safetensors", 1, 5, "abc", "seed 5", "order 1")) == one
    assert members.of(Source("here/step-1.safetensors", 1, 6, "abc", "seed 6")) != one
    assert members.of(Source("here/step-2.safetensors", 2, 5, "def", "seed 5")) != one


def test_a_mixed_page_holds_results_of_a_walk_in_memory_and_on_disk(tmp_path: Path) -> None:
    result: Result = hills(3)
    result.save(tmp_path / "a.h5")
    _, parsed = written(tmp_path, tmp_path / "a.h5", pairs(), valley())
    assert [len(rows_of(parsed, "Lines")), len(parsed.all("main")), len(parsed.all("h2"))] == [13, 1, 0]


def partly(result: Result, done: int) -> Result:
    """The same as it is kept when it is interrupted: of what is not finished there are no values."""
    rest = np.arange(len(result)) >= done
    values = {name: np.where(rest[:, None], np.nan, each) for name, each in result.values.items()}
    return dataclasses.replace(result, values=values, columns={**result.columns, "done": ~rest})


def test_what_is_not_finished_is_called_so_everywhere(landscape: Program, tmp_path: Path) -> None:
    partly(hills(9, title="Nine hills"), 4).save(tmp_path / "a.h5")
    partly(pairs(), 7).save(tmp_path / "b.h5")
    partly(valley(), 5).save(tmp_path / "c.h5")
    lines, some, rows = (f"{count} are finished" for count in ("4 of 9 lines", "7 of 10 lines", "5 of 9 rows"))
    done = landscape("report", "a.h5", "b.h5", "c.h5")
    said = [
        f"{name}.h5 is not finished, or was interrupted: {each}"
        for name, each in zip("abc", (lines, some, rows), strict=True)
    ]
    assert done.stderr.splitlines() == said
    page = Parsed((tmp_path / "report.html").read_text("utf-8"))
    titles = [each["text"] for each in page.all("h3")]
    assert "4 lines of a.h5, which is not finished" in titles
    captions = " ".join(each["text"] for each in page.all("figcaption"))
    assert (captions.count(lines), captions.count(some)) == (2, 3), "lines, graph, and of pairs the matrix"
    assert rows in captions
    told = landscape("analyse", "barriers", "a.h5", "--bound-lines", "0").stdout
    assert told.splitlines()[:2] == ["Nine hills: 4 lines, 11 points each; loss in nats", said[0]]
    assert "over filter orders" not in told
    assert said[1] in landscape("analyse", "passes", "b.h5").stdout
    assert said[0] in landscape("analyse", "curvature", "a.h5").stdout
    for verb, name, how_far in (("walk", "a", lines), ("barriers", "a", lines), ("passes", "b", some)):
        landscape("plot", verb, f"{name}.h5", "-o", f"{verb}.svg")
        assert how_far in re.sub(r"\s+", " ", (tmp_path / f"{verb}.svg").read_text("utf-8")), verb


def test_what_is_finished_is_not_called_unfinished(landscape: Program, tmp_path: Path) -> None:
    hills().save(tmp_path / "a.h5")
    assert landscape("report", "a.h5").stderr == ""
    assert "finished" not in (tmp_path / "report.html").read_text("utf-8")


def test_the_table_calls_its_columns_what_they_are(tmp_path: Path) -> None:
    _, parsed = written(tmp_path, pairs())
    heads = {each["text"]: each.get("title", "") for each in parsed.all("th", scope="col") if _within(each, "Lines")}
    assert "group" not in heads, "no line has one"
    assert "not the highest loss on it" in heads["loss at the peak"]
    found = barriers(pairs())
    rows = rows_of(parsed, "Lines")
    assert [row["loss at the peak"] for row in rows] == [f"{value:.4g}" for value in found.peak_loss]
    assert "group" in rows_of(written(tmp_path, hills())[1], "Lines")[0]


def test_a_data_set_all_of_which_is_used_is_not_called_drawn(tmp_path: Path) -> None:
    fixed = {"samples": 1000, "sampled": True, "problem": {"name": "model", "config": {"samples": 1000}}}
    assert "1,000, all there are" in written(tmp_path, hills(**fixed))[0]
    assert "1,000, drawn" in written(tmp_path, hills(samples=1000, sampled=True))[0]


def test_captions_say_between_what_lines_lie_and_which_have_gaps(tmp_path: Path) -> None:
    inside = dataclasses.replace(pairs(), about={**pairs().about, "from": "checkpoints/mine", "to": None})
    page = written(tmp_path, inside)[0]
    assert "on the straight lines in parameter space between members of checkpoints/mine, 9 points a line" in page
    assert "to each end" not in page
    loss = hills().loss.copy()
    loss[2, 4] = np.nan
    assert (
        "1 line with NaN on the way: gaps." in written(tmp_path, dataclasses.replace(hills(), values={"loss": loss}))[0]
    )
    assert "NaN" not in written(tmp_path, hills())[0].partition("<script>")[0]


def recorded(folder: Path, losses: list[float]) -> Path:
    """A run of one seed that was recorded, with these losses."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Linear(3, 1)
    problem = landscape.Problem.from_model(torch.nn.Linear(3, 1), (x, x[:, :1]), "mse")
    with landscape.Recorder(folder, problem) as record:
        record(0, net)
        for step, loss in enumerate(losses, start=1):
            with torch.no_grad():
                net.bias += 0.01
            record(step, net, loss)
    return folder


def test_training_without_finite_losses_says_so_and_one_loss_is_seen(tmp_path: Path) -> None:
    lost = written(tmp_path, recorded(tmp_path / "lost", [float("nan")] * 3))[0]
    assert "Not drawn: 1 member without a finite loss." in lost
    page, parsed = written(tmp_path, recorded(tmp_path / "one", [0.5]))
    assert "Not drawn" not in page
    (curve,) = [each for each in parsed.all("path", "data-m") if each["of"].get("class") != "top"]
    assert re.fullmatch(r"M\d+ \d+l16 0", curve["d"])


def test_members_of_several_folders_are_told_apart(tmp_path: Path) -> None:
    places = [recorded(tmp_path / "rr" / name, [0.5, 0.4]) for name in "01"]
    _, parsed = written(tmp_path, *places)
    assert [row["member"] for row in rows_of(parsed, "Members")] == ["0/seed 0", "1/seed 0"]
    _, parsed = written(tmp_path, places[0])
    assert [row["member"] for row in rows_of(parsed, "Members")] == ["seed 0"]


@pytest.mark.parametrize("steps", [[0, 1], [0, 1, 2], [1, 2, 3], [0, 5], [0], [7], [0, 1, 2, 5, 10, 3000]])
def test_steps_are_labelled_with_whole_numbers(steps: list[int]) -> None:
    labels = [label for _, label in Axis.of_steps(steps, 0, 1000).ticks()]
    assert labels
    assert not any("." in label or "-" in label for label in labels), labels


@pytest.mark.parametrize("members", [3, 5, 6, 40])
def test_the_graph_has_labels_of_members_alone(tmp_path: Path, members: int) -> None:
    _, parsed = written(tmp_path, pairs(members))
    (graph,) = [each for each in parsed.all("svg") if "graph" in each.get("class", "")]
    axes = [each for each in parsed.all("text") if each["of"]["of"] is graph and each.get("text-anchor") == "middle"]
    labels = [each["text"] for each in axes if re.fullmatch(r"[-−.\d]+", each["text"])]
    assert labels
    assert all(0 <= int(label) < members for label in labels)
