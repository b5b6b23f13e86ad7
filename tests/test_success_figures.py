"""Tables of success as curves, and `landscape plot success`: what is drawn is what was counted."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result as Outcome
from matplotlib.figure import Figure

from landscape import figures
from landscape.analysis.success import Row, Success, of_sweep
from landscape.core.errors import LandscapeError
from landscape.core.intervals import Proportion, mean_interval
from landscape.figures.success import NAMES, rate_labels, success_series
from landscape.problems.life import Life
from landscape.training.sweep import Sweep, sweep

Program = Callable[..., Outcome]
RATES = rate_labels(Life.nouns, 512)

MEMBERS = 6


def row(dead: tuple[float, float] = (0.25, 0.7), exact: bool = True, **values: Any) -> Row:
    """A cell whose numbers are its own: they follow from its values."""
    rng = np.random.default_rng(list(str(values).encode()))
    found = Success(
        samples=100,
        sample_rate=np.where(rng.random(MEMBERS) < 0.5, 1.0, rng.random(MEMBERS)),
        cell_rate=rng.random(MEMBERS),
        baselines={"all dead": dead, "all alive": (0.0, 1 - dead[1])},
        exact=rng.random(MEMBERS) < 0.5 if exact else None,
    )
    return Row(values, found)


GRID = [row(d_factor=d, m_factor=m) for d in (1.0, 2.0) for m in (1, 5, 10)]


@pytest.mark.parametrize("rate", ["solved", "exact"])
def test_shares_of_networks_have_wilsons_interval(rate: Any) -> None:
    curves = success_series(GRID, x="m_factor", by="d_factor", rate=rate)
    assert [curve.label for curve in curves] == ["depth factor d = 1.0", "depth factor d = 2.0"]
    for curve, rows in zip(curves, (GRID[:3], GRID[3:]), strict=True):
        known = [each.success.solved if rate == "solved" else each.success.exact for each in rows]
        shares = [Proportion(int(np.sum(each)), MEMBERS) for each in known]
        assert curve.x.tolist() == [1, 5, 10]
        assert curve.value.tolist() == [share.value for share in shares]
        np.testing.assert_array_equal(np.stack([curve.low, curve.high], 1), [share.interval for share in shares])
        assert curve.seeds is None
        assert curve.baseline is None
        assert curve.original is None


@pytest.mark.parametrize(("rate", "dead"), [("samples", 0.25), ("cells", 0.7)])
def test_rates_have_their_seeds_and_what_dead_boards_get(rate: Any, dead: float) -> None:
    curves = success_series(GRID, x="m_factor", by="d_factor", rate=rate)
    for curve, rows in zip(curves, (GRID[:3], GRID[3:]), strict=True):
        seeds = [each.success.sample_rate if rate == "samples" else each.success.cell_rate for each in rows]
        assert curve.seeds is not None
        np.testing.assert_array_equal(curve.seeds, np.stack(seeds, axis=1))
        np.testing.assert_allclose(curve.value, [each.mean() for each in seeds])
        np.testing.assert_array_equal(
            np.stack([curve.low, curve.high], 1), [mean_interval(each, within=(0, 1)) for each in seeds]
        )
        assert curve.baseline == dead


def test_one_curve_is_called_after_its_rate() -> None:
    for rate, label in rate_labels().items():
        (curve,) = success_series(GRID[:3], x="m_factor", rate=rate)
        assert f"{curve.label} (%)" == label


def test_labels_may_be_given_and_are_the_keys_else() -> None:
    curves = success_series(GRID, x="m_factor", by="d_factor", label=lambda d: f"{d:g} blocks a step")
    assert [curve.label for curve in curves] == ["1 blocks a step", "2 blocks a step"]
    (alone,) = success_series(GRID[:3], x="m_factor", label=lambda value: f"networks of {value}")
    assert alone.label == "networks of None"
    (other,) = success_series([row(optimizer="sgd", lr=0.1)], x="lr", by="optimizer")
    assert other.label == "optimizer = sgd"


def test_baselines_are_chosen_by_name_and_drawn_where_they_are_one() -> None:
    def levels(rows: list[Row], **how: Any) -> list[float | None]:
        return [curve.baseline for curve in success_series(rows, x="steps", rate="cells", **how)]

    same, differing = [row(steps=1), row(steps=2)], [row(steps=1), row(dead=(0.3, 0.8), steps=2)]
    assert levels(same) == [0.7]
    assert levels(same, baseline="all alive") == [pytest.approx(0.3)]
    assert levels(same, baseline=None) == levels(same, baseline="all grey") == [None]
    assert levels(differing) == [None]
    assert levels(differing, by="steps") == [0.7, 0.8]


def test_originals_are_asked_for_by_value() -> None:
    marks = {1.0: (np.array([1.0, 5.0]), np.array([0.1, 1.0])), 2.0: None}
    for rate in RATES:
        curves = success_series(GRID, x="m_factor", by="d_factor", rate=rate, original=marks.__getitem__)
        assert [curve.original for curve in curves] == [marks[1.0], None]
    asked: list[Any] = []
    success_series(GRID[:3], x="m_factor", original=asked.append)
    assert asked == [None]


def test_places_that_are_lists_are_categories_in_their_order() -> None:
    blocks: list[Any] = [(), (0,), (0, 1)]
    rows = [row(m_factor=m, presolve_blocks=each) for m in (1, 4) for each in blocks]
    for curve in success_series(rows, x="presolve_blocks", by="m_factor"):
        assert curve.x.tolist() == [0, 1, 2]
    curves = success_series(rows, x="m_factor", by="presolve_blocks")
    assert [curve.label for curve in curves] == [
        f"{NAMES['presolve_blocks']} = {text}" for text in ("none", "0", "0+1")
    ]
    as_lists = [row(m_factor=m, presolve_blocks=[0, 1]) for m in (1, 4)]
    (curve,) = success_series(as_lists, x="m_factor", by="presolve_blocks")
    assert curve.label == f"{NAMES['presolve_blocks']} = 0+1"
    assert curve.x.tolist() == [1, 4]


@pytest.mark.parametrize("values", [["sgd", "adam"], [True, False], [None, "presolve"]])
def test_what_is_no_number_is_a_category_in_its_order(values: list[Any]) -> None:
    (curve,) = success_series([row(key=value) for value in values], x="key")
    assert curve.x.tolist() == [0, 1]


@pytest.mark.parametrize("by", [None, "steps"])
def test_several_steps_have_no_exact_rate(by: str | None) -> None:
    rows = [row(steps=1), row(steps=2, exact=False)]
    with pytest.raises(LandscapeError, match="all there is is known only where it can be listed: draw 'solved'"):
        success_series(rows, x="steps", by=by, rate="exact")


@pytest.mark.parametrize("keys", [{"x": "lr"}, {"x": "m_factor", "by": "lr"}])
def test_a_key_that_is_not_varied_is_told(keys: dict[str, str]) -> None:
    with pytest.raises(LandscapeError, match="the table does not vary 'lr': it has d_factor, m_factor"):
        success_series(GRID, **keys)


def test_a_key_that_some_cells_lack_is_told() -> None:
    with pytest.raises(LandscapeError, match="the table does not vary 'm_factor': it has steps, m_factor"):
        success_series([row(steps=1, m_factor=1), row(steps=2)], x="m_factor")


@pytest.mark.parametrize("twice", [GRID, [GRID[0], GRID[0]]])
def test_several_cells_at_one_place_are_refused(twice: list[Row]) -> None:
    with pytest.raises(LandscapeError, match="several cells at the same m_factor: separate them by another key"):
        success_series(twice, x="m_factor")


# ----------------------------------------------------------------------------------------------------------------------

TRAINING = {"batches": 3, "data": "batches", "batch_size": 2}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Each figure that would be saved."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path, **how: Any) -> list[Path]:
        kept.append(figure)
        return [path]

    monkeypatch.setattr(figures, "save", keep)
    return kept


def small(path: Path, grid: dict[str, list[Any]], **options: Any) -> Path:
    return sweep("life", path, **{"grid": grid, "training": TRAINING, "seeds": [0, 1, 2], **options}).path


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three options. To be read, never to be changed."""
    grid: dict[str, list[Any]] = {"optimizer": ["adam", "sgd"], "m_factor": [1, 2], "lr": [0.01, 0.1]}
    return small(tmp_path_factory.mktemp("sweeps") / "cube", grid)


@pytest.fixture(scope="module")
def tested(cube: Path) -> list[Row]:
    """Success of its cells on 20 boards."""
    return of_sweep(Sweep.open(cube), samples=20)


@pytest.fixture
def known(tested: list[Row], monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The same, where it is not to be counted again."""
    monkeypatch.setattr("landscape.analysis.success.of_sweep", lambda sweep, samples: tested)
    return tested


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one option, with two steps. To be read, never to be changed."""
    return small(tmp_path_factory.mktemp("sweeps") / "deep", {"steps": [1, 2]})


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for each in (*figure.legends,) for text in each.get_texts()] or [
        text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()
    ]


def values(figure: Figure) -> list[list[np.ndarray]]:
    """Places and heights of the curves of each panel."""
    return [[np.asarray(line.get_xydata()) for line in ax.lines if line.get_gid() == "value"] for ax in figure.axes]


def words(figure: Figure) -> str:
    """The caption."""
    assert figure._supxlabel is not None
    return " ".join(figure._supxlabel.get_text().split())


def titles(figure: Figure) -> list[str]:
    return [ax.get_title("left") for ax in figure.axes]


@pytest.mark.slow
def test_figures_are_files_that_say_what_they_show(landscape: Program, cube: Path, known: list[Row]) -> None:
    result = landscape("plot", "success", cube, "--boards", "5")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["plots/cube-solved.png", "plots/cube-solved.svg"]
    assert Path("plots/cube-solved.png").read_bytes().startswith(b"\x89PNG")
    svg = " ".join(Path("plots/cube-solved.svg").read_text().split())
    for text in ("optimizer = adam", "optimizer = sgd", "width m = 1", "width m = 2", "learning rate", "networks that"):
        assert text in svg
    assert [path.name for path in Path().iterdir()] == ["plots"]


def test_the_last_options_are_the_axis_the_curves_and_the_panels(
    landscape: Program, cube: Path, tested: list[Row], drawn: list[Figure]
) -> None:
    result = landscape("plot", "success", cube, "--boards", "20", "--rate", "cells")
    assert result.exit_code == 0, result.output
    (figure,) = drawn
    heights = [height for panel in values(figure) for curve in panel for height in curve[:, 1]]
    np.testing.assert_allclose(heights, [100 * each.success.cell_rate.mean() for each in tested])
    assert titles(figure) == ["optimizer = adam", "optimizer = sgd"]
    assert legend(figure) == ["width m = 1", "width m = 2"]
    caption = words(figure)
    for text in (
        f"{cube}, its first cell: {Sweep.open(cube).cells()[0].problem.title()}.",
        "3 members a cell",
        "share of the cells of all test boards that are right",
        "20 test boards",
        "intervals: of their mean. No intervals: too few seeds.",
    ):
        assert text in caption


@pytest.mark.parametrize("rate", list(RATES))
def test_every_rate_is_drawn_as_counted(
    landscape: Program, cube: Path, known: list[Row], drawn: list[Figure], rate: str
) -> None:
    result = landscape("plot", "success", cube, "--rate", rate, "--boards", "20")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"plots/cube-{rate}.png\n"
    (figure,) = drawn
    for panel, optimizer in zip(values(figure), ("adam", "sgd"), strict=True):
        for curve, m in zip(panel, (1, 2), strict=True):
            own = [each for each in known if (each.values["optimizer"], each.values["m_factor"]) == (optimizer, m)]
            heights = {
                "solved": [each.success.solved.mean() for each in own],
                "exact": [each.success.exact.mean() for each in own if each.success.exact is not None],
                "samples": [each.success.sample_rate.mean() for each in own],
                "cells": [each.success.cell_rate.mean() for each in own],
            }[rate]
            np.testing.assert_allclose(curve, np.stack([[0.01, 0.1], 100 * np.array(heights)], axis=1))
    dotted = [line.get_ydata()[0] for ax in figure.axes for line in ax.lines if line.get_gid() == "baseline"]
    if rate in ("solved", "exact"):
        assert not dotted
    else:
        level = known[0].success.baselines["all dead"][0 if rate == "samples" else 1]
        np.testing.assert_allclose(dotted, 100 * level)
        assert "all dead" in [text.get_text() for ax in figure.axes for text in ax.texts]


def test_axis_curves_and_panels_may_be_chosen(
    landscape: Program, cube: Path, known: list[Row], drawn: list[Figure]
) -> None:
    for options in (("--x", "m_factor", "--by", "optimizer", "--panels", "lr"), ("--x", "m_factor", "--panels", "lr")):
        result = landscape("plot", "success", cube, "--boards", "5", *options)
        assert result.exit_code == 0, result.output
        figure = drawn.pop()
        assert titles(figure) == ["learning rate = 0.01", "learning rate = 0.1"]
        assert legend(figure) == ["optimizer = adam", "optimizer = sgd"]
        assert [curve[:, 0].tolist() for panel in values(figure) for curve in panel] == [[1, 2]] * 4
    result = landscape("plot", "success", cube, "--boards", "5", "--by", "lr")
    assert result.exit_code == 0, result.output
    assert titles(drawn[0]) == ["optimizer = adam", "optimizer = sgd"]
    assert legend(drawn[0]) == ["learning rate = 0.01", "learning rate = 0.1"]


def test_one_option_is_one_curve_with_names_for_its_axes(landscape: Program, deep: Path, drawn: list[Figure]) -> None:
    result = landscape("plot", "success", deep, "--rate", "cells", "--boards", "5")
    assert result.exit_code == 0, result.output
    ((curve,),) = values(drawn[0])
    assert curve[:, 0].tolist() == [1, 2]
    (ax,) = drawn[0].axes
    assert ax.get_xlabel() == NAMES["steps"]
    assert " ".join(ax.get_ylabel().split()) == RATES["cells"]
    assert titles(drawn[0]) == [""]


def test_lists_are_named_on_the_axis(landscape: Program, tmp_path: Path, drawn: list[Figure]) -> None:
    place = small(tmp_path / "sweep", {"presolve_blocks": [(), (0,)]})
    result = landscape("plot", "success", place, "--boards", "5")
    assert result.exit_code == 0, result.output
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["none", "0"]
    assert values(drawn[0])[0][0][:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--x", "widht"), "does not vary 'widht': it varies steps"),
        (("--x", "steps", "--by", "lr"), "does not vary 'lr': it varies steps"),
        (("--x", "steps", "--panels", "lr"), "does not vary 'lr': it varies steps"),
        (("--x", "steps", "--by", "steps"), "steps is asked for twice: --x, --by and --panels take different options"),
        (("--by", "steps"), "varies nothing but steps: leave one for --x"),
        (("--rate", "exact"), "success on all there is is known only where it can be listed: draw 'solved'"),
    ],
)
def test_what_cannot_be_drawn_is_told(landscape: Program, deep: Path, options: tuple[str, ...], text: str) -> None:
    result = landscape("plot", "success", deep, "--boards", "5", *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("plots").exists()


def test_more_than_three_options_are_too_many(landscape: Program, tmp_path: Path) -> None:
    grid = {"steps": [1], "board": ["5x5"], "m_factor": [1], "lr": [0.1]}
    place = small(tmp_path / "four", grid)
    result = landscape("plot", "success", place, "--boards", "5")
    assert result.exit_code == 1
    assert f"{place} varies steps too: a figure shows three options, sweep fewer" in result.stderr
    result = landscape("plot", "success", place, "--boards", "5", "--x", "steps", "--by", "lr")
    assert "varies board too" in result.stderr


def interrupted(path: Path, after: int) -> Path:
    """A sweep of three cells, stopped after so many steps."""

    def stop(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(path, {"m_factor": [1, 2, 3]}, progress=stop)
    return path


@pytest.mark.parametrize("verb", ["plot", "analyse"])
def test_a_sweep_without_a_finished_cell_has_nothing_to_show(landscape: Program, tmp_path: Path, verb: str) -> None:
    place = interrupted(tmp_path / "begun", 1)
    result = landscape(verb, "success", place)
    assert result.exit_code == 1
    assert f"{place} has no finished cell yet: repeat the command that began it" in result.stderr
    assert not Path("plots").exists()


def test_finished_cells_are_shown_before_the_last_is(landscape: Program, tmp_path: Path, drawn: list[Figure]) -> None:
    place = interrupted(tmp_path / "begun", 7)
    result = landscape("plot", "success", place, "--boards", "5")
    assert result.exit_code == 0, result.output
    ((curve,),) = values(drawn[0])
    assert curve[:, 0].tolist() == [1, 2]
    result = landscape("analyse", "success", place, "--boards", "5", "--json")
    assert "1 of 3 cells are not finished and left out" in result.stderr
    assert [cell["m_factor"] for cell in json.loads(result.stdout)["cells"]] == [1, 2]


def test_only_a_sweep_is_drawn(landscape: Program, tmp_path: Path, run: Any) -> None:
    for place, text in (
        (tmp_path, "is no sweep, it has no sweep.json: give the directory of a sweep"),
        (run.path, "is a run: landscape plot outcomes draws it; give the directory of a sweep here"),
        (tmp_path / "nowhere", "does not exist: give the directory of a sweep"),
    ):
        result = landscape("plot", "success", place)
        assert result.exit_code == 1
        assert f"{place} {text}" in result.stderr


def test_figures_are_replaced_only_with_force(landscape: Program, deep: Path) -> None:
    asked = ("plot", "success", deep, "--boards", "5", "-o", "found.svg")
    for mine in (Path("found.png"), Path("found.svg")):
        mine.write_text("mine")
        result = landscape(*asked)
        assert result.exit_code == 1
        assert f"{mine} exists: choose another output with -o, or replace it with --force" in result.stderr
        assert [path.read_text() for path in Path().iterdir()] == ["mine"]
        mine.unlink()
    Path("found.svg").write_text("mine")
    assert landscape(*asked, "--force").exit_code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["found.png", "found.svg"]
    assert "<svg" in Path("found.svg").read_text()


def test_a_sweeps_table_is_written_as_json_and_csv(landscape: Program, cube: Path, tested: list[Row]) -> None:
    result = landscape("analyse", "success", cube, "--boards", "20", "-o", "found.json")
    assert result.exit_code == 0, result.output
    header, _, *lines = result.stdout.splitlines()
    assert header.split()[:3] == ["optimizer", "m_factor", "lr"]
    assert len(lines) == len(tested) == 8
    cells = json.loads(Path("found.json").read_text())["cells"]
    table = list(csv.DictReader(Path("found.csv").read_text().splitlines()))
    for cell, line, each in zip(cells, table, tested, strict=True):
        for key, value in each.values.items():
            assert cell[key] == value
            assert line[key] == str(value)
        assert cell["solved"]["count"] == int(line["solved_count"]) == each.success.share.count
        assert float(line["cell_rate"]) == pytest.approx(each.success.cell_rate.mean())


def test_a_curve_without_a_middle_category_keeps_the_others_places(
    landscape: Program, tmp_path: Path, drawn: list[Figure]
) -> None:
    place = small(tmp_path / "sweep", {"m_factor": [1, 2], "optimizer": ["adam", "sgd"]})
    shutil.rmtree(place / "m_factor=2,optimizer=adam")
    result = landscape("plot", "success", place, "--boards", "5")
    assert result.exit_code == 0, result.output
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["adam", "sgd"]
    assert [curve[:, 0].tolist() for curve in values(drawn[0])[0]] == [[0, 1], [1]]


def test_an_empty_table_cannot_be_drawn() -> None:
    with pytest.raises(LandscapeError, match="the table has no rows"):
        success_series([], x="m_factor")
