"""Series and shares: what is drawn where, read back from the artists; what cannot be drawn is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from landscape import figures
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import Proportion, mean_interval, median_interval, pairs_interval, together
from landscape.figures import Series, series, series_figure, shares

X = np.array([1.0, 5.0, 10.0, 40.0])
WORDS = {"xlabel": "width", "ylabel": "solved (%)"}


def axes() -> Axes:
    return Figure(figsize=(7.2, 3.6)).add_subplot()


def solved(label: str = "d = 1", counts: tuple[int, ...] = (0, 5, 10, 20), x: Any = X, **more: Any) -> Series:
    return Series.of_proportions(label, x, [Proportion(count, 20) for count in counts], **more)


def plain(label: str = "loss", value: Any = (1.0, 2.0, 4.0, 8.0), **more: Any) -> Series:
    value = np.array(value)
    return Series(**({"label": label, "x": X, "value": value, "low": value / 2, "high": value * 2} | more))


def lines(ax: Axes, gid: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in ax.lines if line.get_gid() == gid]


def bands(ax: Axes) -> list[np.ndarray]:
    return [path.vertices for each in ax.collections if isinstance(each, PolyCollection) for path in each.get_paths()]


def bars(ax: Axes) -> list[np.ndarray]:
    found = [each for each in ax.collections if isinstance(each, LineCollection) and each.get_gid() != "seed"]
    return [path.vertices for each in found for path in each.get_paths()]


def entries(legend: Any) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def where(ax: Axes, gid: str = "value") -> list[np.ndarray]:
    """Where marks stand in the picture, in pixels."""
    return [line.get_transform().transform(line.get_xydata()) for line in ax.lines if line.get_gid() == gid]


def test_proportions_have_wilsons_interval_as_a_band() -> None:
    curve = solved()
    np.testing.assert_array_equal(curve.value, [0, 0.25, 0.5, 1])
    np.testing.assert_array_equal(
        np.stack([curve.low, curve.high], 1), [Proportion(n, 20).interval for n in (0, 5, 10, 20)]
    )
    ax = axes()
    assert series(ax, [curve], **WORDS) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "solved (%)")
    (drawn,) = lines(ax, "value")
    np.testing.assert_allclose(drawn, np.stack([X, 100 * curve.value], axis=1))
    (band,) = bands(ax)
    for x, low, high in zip(X, curve.low, curve.high, strict=True):
        heights = band[band[:, 0] == x, 1]
        assert (heights.min(), heights.max()) == pytest.approx((100 * low, 100 * high))
    assert not bars(ax)
    low, high = ax.get_ylim()
    assert -6 < low < 0
    assert 100 < high < 106


@pytest.mark.parametrize(
    ("statistic", "of", "interval"), [("mean", np.mean, mean_interval), ("median", np.median, median_interval)]
)
def test_seeds_have_an_interval_and_faint_lines(statistic: Any, of: Any, interval: Any) -> None:
    seeds = np.random.default_rng(0).uniform(size=(12, 4))
    seeds[3, 1] = np.nan
    curve = Series.of_seeds("d = 1", [1, 5, 10, 40], seeds, statistic=statistic)
    for place, column in enumerate(seeds.T):
        there = column[np.isfinite(column)]
        assert curve.value[place] == of(there)
        np.testing.assert_array_equal([curve.low[place], curve.high[place]], interval(there))
    ax = series(axes(), [curve], **WORDS)
    (faint,) = (each for each in ax.collections if each.get_gid() == "seed")
    drawn = [path.vertices for path in faint.get_paths()]
    np.testing.assert_allclose([line[:, 1] for line in drawn], 100 * seeds)
    assert faint.get_alpha() < 0.3
    assert to_hex(faint.get_color()[0]) == to_hex(ax.lines[0].get_color())


def test_few_seeds_have_no_interval() -> None:
    curve = Series.of_seeds("d = 1", X, np.full((4, 4), 0.5))
    assert np.isnan(curve.low).all()
    assert np.isnan(curve.high).all()
    assert not bars(series(axes(), [curve], **WORDS))


@pytest.mark.parametrize(("statistic", "of"), [("mean", np.mean), ("median", np.median)])
def test_pairs_have_the_seeds_of_each_and_from_twenty_seeds_on_an_interval(statistic: Any, of: Any) -> None:
    pairs = list(np.random.default_rng(0).uniform(size=(4, 21, 21)))
    pairs[1][3, 4] = np.nan
    curve = Series.of_pairs("d = 1", X, pairs, statistic=statistic)
    for place, table in enumerate(pairs):
        off = {(i, j): table[i, j] for i in range(21) for j in range(21) if i != j and not np.isnan(table[i, j])}
        assert curve.value[place] == pytest.approx(of(list(off.values())))
        np.testing.assert_array_equal([curve.low[place], curve.high[place]], pairs_interval(table, statistic))
        assert curve.seeds is not None
        wanted = [of([value for pair, value in off.items() if seed in pair]) for seed in range(21)]
        np.testing.assert_allclose(curve.seeds[:, place], wanted)
    few = Series.of_pairs("d = 1", X, [each[:19, :19] for each in pairs], statistic=statistic)
    assert np.isnan(few.low).all()


def test_the_intervals_of_a_figure_hold_all_at_once() -> None:
    seeds = np.random.default_rng(0).uniform(size=(30, 4))
    shares = [Proportion(n, 20) for n in (0, 5, 10, 20)]
    curves = [Series.of_seeds("mean", X, seeds, within=(0, 1)), Series.of_proportions("share", X, shares)]
    bare = dataclasses.replace(curves[0], label="bare", ends=None)
    figure = series_figure([("", curves), ("", [bare])], caption="About.", **WORDS)
    assert " ".join(figure.get_supxlabel().split()).startswith(
        "About. The 8 intervals hold all at once with 95 % (Bonferroni)."
    )
    for number, (curve, found) in enumerate(
        zip([*curves, bare], bands(figure.axes[0]) + bands(figure.axes[1]), strict=True)
    ):
        wanted = curve if number == 2 else curve.covering(together(8))
        heights = [found[found[:, 0] == x, 1] for x in X]
        np.testing.assert_allclose([each.min() for each in heights], 100 * wanted.low)
        np.testing.assert_allclose([each.max() for each in heights], 100 * wanted.high)
    for low, share in zip(curves[1].covering(together(8)).low, shares, strict=True):
        assert low == share.interval_at(1 - 0.05 / 8)[0]
    medians = [Series.of_seeds("median", X, seeds[:6], statistic="median")]
    figure = series_figure([("", medians)], caption="About.", **WORDS)
    each = "About. The 4 intervals hold with 95 % each: too few seeds for all at once."
    assert " ".join(figure.get_supxlabel().split()).startswith(each)
    (found,) = bands(figure.axes[0])
    assert found[:, 1].min() == 100 * medians[0].low.min()
    few = [Series.of_seeds("median", X, seeds[:3], statistic="median")]
    figure = series_figure([("", few)], caption="About.", **WORDS)
    assert "About. No intervals: too few seeds." in " ".join(figure.get_supxlabel().split())
    assert not bands(figure.axes[0]) or np.isnan(bands(figure.axes[0])[0]).all()


def test_what_is_nan_leaves_a_gap_and_a_lone_place_has_a_bar() -> None:
    curve = Series.of_proportions(
        "d = 1", range(5), [Proportion(n, m) for n, m in ((1, 9), (2, 9), (0, 0), (5, 9), (0, 0))]
    )
    ax = series(axes(), [curve], **WORDS)
    (drawn,) = lines(ax, "value")
    assert np.isnan(drawn[:, 1]).tolist() == [False, False, True, False, True]
    assert max(band[:, 0].max() for band in bands(ax) if np.ptp(band[:, 0])) == 1
    (bar,) = bars(ax)
    np.testing.assert_allclose(bar, [[3, 100 * bound] for bound in Proportion(5, 9).interval])


def test_places_are_drawn_from_left_to_right() -> None:
    ax = series(axes(), [solved(x=X[::-1])], **WORDS)
    np.testing.assert_array_equal(lines(ax, "value")[0], [[1, 100], [5, 50], [10, 25], [40, 0]])


def test_original_values_are_open_marks_with_one_entry() -> None:
    original = np.array([1.0, 20.0]), np.array([0.1, 0.9])
    ax = series(axes(), [solved(original=original), solved("d = 2", original=original)], **WORDS)
    marks = [line for line in ax.lines if line.get_gid() == "original"]
    values = [line for line in ax.lines if line.get_gid() == "value"]
    assert [line.get_xydata().tolist() for line in marks] == 2 * [[[1, 10], [20, 90]]]
    for mark, value in zip(marks, values, strict=True):
        assert mark.get_markerfacecolor() == "white"
        assert (mark.get_markeredgecolor(), mark.get_marker()) == (value.get_color(), value.get_marker())
    assert len({line.get_color() for line in values}) == len({line.get_marker() for line in values}) == 2
    assert entries(ax.get_legend()) == ["d = 1", "d = 2", "original study (read off its plots)"]


def test_baselines_are_dotted_lines_named_once() -> None:
    ax = series(axes(), [solved(baseline=0.86), solved("d = 2", baseline=0.86)], **WORDS, baseline="all dead")
    dotted = [line for line in ax.lines if line.get_gid() == "baseline"]
    assert {line.get_linestyle() for line in dotted} == {":"}
    assert {line.get_ydata()[0] for line in dotted} == {86}
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("all dead", (1, 86))]
    apart = series(axes(), [solved(baseline=0.0), solved("d = 2", baseline=0.5)], **WORDS)
    assert [(text.get_text(), text.xy[1]) for text in apart.texts] == [("baseline", 0), ("baseline", 50)]


def test_marks_that_would_coincide_stand_apart_by_a_few_points() -> None:
    one, other = where(series(axes(), [solved(), solved("d = 2")], **WORDS))
    np.testing.assert_allclose(other - one, [[4 * 100 / 72, 0]] * 4, atol=1e-6)
    far = solved(counts=(0, 0, 0, 0)), solved("d = 2", (20, 20, 20, 20))
    one, other = where(series(axes(), far, **WORDS))
    np.testing.assert_allclose(one[:, 0], other[:, 0])
    # Where places lie close, by less: no curve is to seem another one that is shifted along x.
    rates, same = 10.0 ** np.linspace(-4, 0, 20), np.full(20, 0.5)
    curves = [Series(label=f"m = {m}", x=rates, value=same, low=same, high=same) for m in (1, 2, 4, 8)]
    places = where(series(axes(), curves, **WORDS, xscale="log"))
    assert 0 < (places[-1] - places[0])[0, 0] <= 0.2 * np.diff(places[0][:, 0]).min() + 1e-6


def test_categories_have_bars_side_by_side_and_no_lines() -> None:
    names = ["none", "0", "1", "0 + 1"]
    curves = [solved("2 steps", x=range(4)), solved("3 steps", (20, 10, 5, 0), x=range(4))]
    ax = series(axes(), curves, **WORDS, xscale="category", categories=names)
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert not bands(ax)
    assert {line.get_linestyle() for line in ax.lines if line.get_gid() == "value"} == {"None"}
    drawn = bars(ax)
    assert len(drawn) == 8
    np.testing.assert_allclose(drawn[1], [[1, 100 * bound] for bound in Proportion(5, 20).interval])
    one, other = where(ax)
    assert (other[:, 0] - one[:, 0] > 5).all()
    assert (one[1:, 0] - other[:-1, 0] > 20).all()


def test_categories_without_names_are_the_places_themselves() -> None:
    seeds = np.tile([0.1, 0.2, 0.3, 0.4], (6, 1))
    ax = series(axes(), [Series.of_seeds("d = 1", X, seeds)], **WORDS, xscale="category")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "5", "10", "40"]
    np.testing.assert_allclose(lines(ax, "value")[0], [[0, 10], [1, 20], [2, 30], [3, 40]])
    assert len(lines(ax, "seed")) == 6


def test_a_single_place_has_bars() -> None:
    ax = series(axes(), [solved(counts=(5,), x=[40]), solved("d = 2", (6,), x=[40])], **WORDS)
    assert not bands(ax)
    assert len(bars(ax)) == 2
    one, other = where(ax)
    assert other[0, 0] - one[0, 0] > 5
    assert [label.get_text() for label in ax.get_xticklabels()] == ["40"]


@pytest.mark.parametrize(
    ("x", "texts"),
    [((1, 5, 10, 40), ["1", "5", "10", "40"]), ((1e-5, 3e-4, 0.01, 1), ["0.00001", "0.0003", "0.01", "1"])],
)
def test_a_log_axis_has_plain_numbers(x: Any, texts: list[str]) -> None:
    ax = series(axes(), [solved(x=np.array(x))], **WORDS, xscale="log")
    assert ax.get_xscale() == "log"
    assert {
        label.get_text(): place for label, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)
    } == dict(zip(texts, x, strict=True))


def test_ticks_without_room_have_no_label() -> None:
    ax = series(axes(), [solved(x=np.array([1, 2, 3, 1000]))], **WORDS)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "1000"]
    assert ax.get_xticks(minor=True).tolist() == [2, 3]


def test_zeros_lie_on_the_floor_of_a_log_axis() -> None:
    ax = series(axes(), [plain(value=(1.0, 0.1, 0.01, 0.0))], **WORDS, percent=False, yscale="log", floor=1e-4)
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(lines(ax, "value")[0][:, 1], [1, 0.1, 0.01, 1e-4])
    assert lines(ax, "floor")[0][0, 1] == 1e-4


def test_the_legend_lies_above_the_axes_and_the_title_above_it() -> None:
    curves = [solved(f"a rather long name of variant {k}") for k in range(8)]
    figure = figures.page(lambda ax: series(ax, curves, **WORDS, title="Many"))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    legend, title = ax.get_legend().get_window_extent(), ax.title if ax.title.get_text() else ax._left_title
    assert legend.y0 >= ax.get_window_extent().y1 - 1
    assert legend.x1 <= figure.bbox.x1
    assert title.get_window_extent().y0 >= legend.y1 - 1
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 8


def test_panels_share_looks_an_axis_and_one_legend() -> None:
    panels = [("1 step", [solved(), solved("d = 2")]), ("2 steps", [solved("d = 2")]), ("3 steps", [solved()])]
    figure = series_figure(panels, **WORDS, caption="What is drawn.")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["1 step", "2 steps", "3 steps"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert [ax.get_ylabel() for ax in figure.axes] == ["solved (%)", "", ""]
    assert [entries(legend) for legend in figure.legends] == [["d = 1", "d = 2"]]
    assert not any(ax.get_legend() for ax in figure.axes)
    colors = [[line.get_color() for line in ax.lines if line.get_gid() == "value"] for ax in figure.axes]
    assert colors[1:] == [[colors[0][1]], [colors[0][0]]]
    beside = "Marks of several curves at one place stand side by side."
    assert (
        " ".join(figure.get_supxlabel().split())
        == f"What is drawn. The 16 intervals hold all at once with 95 % (Bonferroni). {beside}"
    )


def test_panels_of_other_curves_have_legends_of_their_own() -> None:
    figure = series_figure(
        [("a", [plain("a")]), ("b", [plain("b", (10.0, 20.0, 40.0, 80.0))])], **WORDS, caption="", percent=False
    )
    assert not figure.legends
    assert [entries(ax.get_legend()) for ax in figure.axes] == [["a"], ["b"]]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_ylim()[1] > 160


def test_rows_of_panels_have_no_empty_axes() -> None:
    figure = series_figure([(f"{k}", [solved(baseline=0.5)]) for k in range(5)], **WORDS, caption="")
    assert len(figure.axes) == 5
    # Where nothing is below, the words stand there; the last panel of a row names the dotted line.
    told = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert told == [[], [], ["baseline", "width"], [], ["baseline"]]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "", "width", "width"]


def test_dense_curves_have_few_marks() -> None:
    value = np.linspace(0, 1, 101)
    ax = series(axes(), [plain(x=value, value=value, low=value, high=value)], **WORDS)
    (line,) = (line for line in ax.lines if line.get_gid() == "value")
    assert len(line.get_xdata()) / line.get_markevery() < 10


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": np.ones(3)}, "the curve 'loss' has 4 x, 3 values, 4 low and 4 high ends: give one of each"),
        ({"x": np.ones(0), "value": np.ones(0), "low": np.ones(0), "high": np.ones(0)}, "'loss' is empty: give it"),
        ({"value": np.full(4, np.nan)}, "the curve 'loss' has no finite value: leave the curve out"),
        ({"x": np.array([1, 2, np.nan, 4])}, "the curve 'loss' has an x that is not finite"),
        ({"low": np.full(4, 99.0)}, "the curve 'loss' has a low end above its high end"),
        ({"seeds": np.ones((2, 3))}, r"the curve 'loss' has seeds of shape \(2, 3\): give \[seed, 4 places\]"),
        ({"original": (np.ones(2), np.ones(3))}, "the curve 'loss' has 2 x but 3 original values"),
    ],
)
def test_curves_that_are_not_whole_are_refused(fields: dict[str, Any], words: str) -> None:
    made = object.__new__(Series)
    # The tests' shape checker would be the first to complain; a user has none.
    for name, value in (vars(plain()) | fields).items():
        object.__setattr__(made, name, value)
    with pytest.raises(LandscapeError, match=words) as caught:
        made.__post_init__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("curves", "options", "words"),
    [
        ([], {}, "there are no curves to draw: give at least one"),
        ([plain()], {}, "the curve 'loss' reaches from 0.5 to 16, but per cent are drawn of shares from 0 to 1"),
        ([solved(baseline=86.0)], {}, "reaches from 0 to 86"),
        ([solved(original=(X, 100 * X))], {}, "reaches from 0 to 4000"),
        ([solved(), solved()], {}, "two curves are called 'd = 1': give each a label of its own"),
        ([solved(x=X - 1)], {"xscale": "log"}, "the curve 'd = 1' has x = 0, which no log axis has"),
        ([solved()], {"xscale": "category", "categories": ["a", "b"]}, "an x that is none of the 2 categories"),
        ([solved()], {"categories": ["a", "b"]}, "give xscale='category' too"),
        ([solved()], {"yscale": "log"}, "per cent have no log axis: give percent=False or yscale='linear'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(curves: list[Series], options: dict[str, Any], words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        series(axes(), curves, **WORDS, **options)
    with pytest.raises(LandscapeError, match=words):
        series_figure([("panel", curves)], **WORDS, caption="", **options)


def test_a_figure_needs_panels() -> None:
    with pytest.raises(LandscapeError, match="a figure of series needs panels: give at least one"):
        series_figure([], **WORDS, caption="")


def test_shares_are_bars_with_intervals() -> None:
    rows = [("width", 0.62, 0.55, 0.69), ("steps", 0.05, -0.01, 0.1), ("rest", 0.2, np.nan, np.nan)]
    ax = axes()
    assert shares(ax, rows, title="Solved") is ax
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([62, 5, 20])
    assert [bar[:, 0].tolist() for bar in bars(ax)] == [pytest.approx([55, 69]), pytest.approx([-1, 10])]
    assert [text.get_text() for text in ax.texts] == ["62 %", "5.0 %", "20 %"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["width", "steps", "rest"]
    assert ax.yaxis_inverted()
    assert ax.get_xlim()[0] < -1
    points = shares(axes(), rows[:1], xlabel="difference (points)", unit="")
    assert [text.get_text() for text in points.texts] == ["62"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there are no shares to draw"),
        (
            [("width", 62.0, 55.0, 69.0)],
            "the share 'width' is 62 with an interval from 55 to 69: give shares of at most 1",
        ),
        ([("width", np.nan, 0.0, 1.0)], "the share 'width' is nan"),
        ([("width", 0.5, 0.6, 0.4)], "the share 'width' is 0.5 with an interval from 0.6 to 0.4"),
    ],
)
def test_what_is_no_share_is_refused(rows: Any, words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        shares(axes(), rows)


@pytest.mark.slow
def test_the_same_bytes_for_the_same_figure(tmp_path: Path) -> None:
    seeds = np.random.default_rng(0).uniform(size=(9, 4))

    def make() -> Figure:
        curves = [
            Series.of_seeds("d = 1", X, seeds, within=(0, 1), baseline=0.5, original=(X, seeds[0])),
            solved("d = 2"),
        ]
        return series_figure([("a", curves), ("b", curves)], **WORDS, caption="words " * 40)

    one, other = (figures.save(make(), tmp_path / name) for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_an_unknown_statistic_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # choices are types, and checked before
    with pytest.raises(Unsupported, match="there is no statistic 'mode': choose mean or median"):
        Series.of_seeds("d = 1", X, np.ones((5, 4)), statistic="mode")
