"""Figures: what is drawn where, read back from the artists; files that are the same each time."""

import dataclasses
import inspect
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from scipy.cluster import hierarchy

from landscape import figures
from landscape.analysis.barriers import DEFINITIONS, Definition, barriers
from landscape.cli import main
from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.intervals import Proportion
from landscape.core.provenance import Source
from landscape.figures.scales import floor_below, log_axis
from landscape.figures.walks import _quantiles
from landscape.problems.life.patterns import PATTERNS, answers
from landscape.problems.life.rules import Rule
from landscape.store.results import Result

BLUE, ORANGE = "#0072b2", "#e69f00"


def arcs(lines: int = 6, *, solved: int = 2, points: int = 11, orders: int = 1, **values: Any) -> Result:
    """Lines from one landmark to seeds, each a hill of its own height; the first `solved` of them end low."""
    alpha = np.linspace(0, 1, points)
    seeds = np.tile(np.arange(lines), orders)
    height = 1.0 + np.arange(lines * orders)
    end = np.where(seeds < solved, 1e-3, 0.3)
    loss = 1e-4 * (1 - alpha) + end[:, None] * alpha + height[:, None] * np.sin(np.pi * alpha) ** 2
    starts = [Source("landmark:top", None, None, "", "top", f"order {k}" if k else "") for k in range(orders)]
    ends = [Source("run", 9, seed, "d", f"seed {seed}") for seed in range(lines)]
    return Result(
        "line",
        {"line": np.arange(len(seeds)), "alpha": alpha},
        values={"loss": loss, "solved": np.repeat((seeds < solved)[:, None], points, axis=1).astype(float)} | values,
        columns={
            "done": np.ones(len(seeds), dtype=bool),
            "l1": 20.0 + seeds,
            "l2": 10.0 + seeds,
            "from_member": np.repeat(np.arange(orders), lines),
            "to_member": orders + seeds,
        },
        sources=[*starts, *ends],
        about={"title": "Hills", "loss_unit": "nats", "from": "top", "landmarks": {"top": "top:flat"}},
    )


def with_loss(curves: Result, loss: np.ndarray) -> Result:
    return dataclasses.replace(curves, values={**curves.values, "loss": loss})


def with_columns(curves: Result, **columns: np.ndarray) -> Result:
    return dataclasses.replace(curves, columns={**curves.columns, **columns})


def axes() -> Axes:
    return Figure().add_subplot()


def segments(ax: Axes) -> list[np.ndarray]:
    # Not `get_segments`, which leaves out what is not finite.
    return [path.vertices for each in ax.collections if isinstance(each, LineCollection) for path in each.get_paths()]


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def floor_of(ax: Axes) -> float | None:
    lines = [line for line in ax.lines if line.get_gid() == "floor"]
    return float(lines[0].get_ydata()[0]) if lines else None


def ticks(ax: Axes) -> dict[str, float]:
    return {label.get_text(): float(place) for label, place in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}


@pytest.mark.parametrize(
    ("x", "lengths", "label"), [("l2", 10.0, "L2 norm"), ("l1", 20.0, "L1 norm"), ("alpha", None, "alpha")]
)
def test_walk_curves_draws_every_line_over_its_distance(x: Any, lengths: float | None, label: str) -> None:
    curves = arcs()
    ax = axes()
    assert figures.walk_curves(ax, curves, x=x) is ax
    assert ax.get_yscale() == "log"
    assert ax.get_xscale() == "linear"
    assert label in ax.get_xlabel()
    assert ax.get_ylabel() == "loss (nats)"
    drawn = sorted(segments(ax), key=lambda line: float(line[:, 1].max()))
    assert len(drawn) == len(curves)
    for i, line in enumerate(drawn):
        np.testing.assert_allclose(line[:, 0], curves.alpha * (lengths + i if lengths else 1))
        np.testing.assert_allclose(line[:, 1], curves.loss[i])


def test_the_smaller_group_lies_in_front_and_shares_are_named() -> None:
    ax = figures.walk_curves(axes(), arcs(6, solved=2))
    groups = sorted((each for each in ax.collections if isinstance(each, LineCollection)), key=lambda c: c.get_zorder())
    assert [(len(each.get_segments()), to_hex(each.get_color()[0])) for each in groups] == [(4, ORANGE), (2, BLUE)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "solved: 2 of 6 (95 % interval 9.7 to 70.0 %)",
        "not solved: 4",
    ]


def test_own_groups_and_unfinished_lines() -> None:
    curves = with_columns(arcs(6), done=np.arange(6) != 5)
    ax = figures.walk_curves(axes(), curves, color_by=np.array([0, 1, 2, 2, 2, 0]), names=("a", "b", "c"))
    assert len(segments(ax)) == 5
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["a", "b", "c"]


def test_without_solved_there_is_one_group_without_a_name() -> None:
    ax = figures.walk_curves(axes(), dataclasses.replace(arcs(), values={"loss": arcs().loss}))
    assert ax.get_legend() is None
    assert len(segments(ax)) == 6


def test_zeros_lie_on_a_marked_floor_below_everything_else() -> None:
    loss = arcs().loss.copy()
    loss[0, -1] = loss[3, 4] = 0
    ax = figures.walk_curves(axes(), with_loss(arcs(), loss))
    floor = floor_of(ax)
    assert floor is not None
    assert ax.get_ylim()[0] < floor < loss[loss > 0].min() / 2
    assert ticks(ax)["0"] == floor
    assert sum(float((line[:, 1] == floor).sum()) for line in segments(ax)) == 2


def test_without_zeros_there_is_no_floor() -> None:
    ax = figures.walk_curves(axes(), arcs())
    assert floor_of(ax) is None
    assert "0" not in ticks(ax)
    low, high = ax.get_ylim()
    assert low < 1e-4 < 7 < high


def test_what_is_not_finite_leaves_a_gap() -> None:
    loss = arcs().loss.copy()
    loss[0, 3], loss[1, 5] = np.nan, np.inf
    ax = figures.walk_curves(axes(), with_loss(arcs(), loss))
    assert sum(int(np.isnan(line[:, 1]).sum()) for line in segments(ax)) == 2
    assert np.isfinite(ax.get_ylim()).all()


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_no_finite_loss_is_an_error(nothing: float) -> None:
    with pytest.raises(LandscapeError, match="none of the lines has a finite loss: walk again"):
        figures.walk_curves(axes(), with_loss(arcs(), np.full_like(arcs().loss, nothing)))


@pytest.mark.parametrize(("lines", "bands"), [(10, 10), (11, 0)])
def test_few_sampled_lines_have_bands(lines: int, bands: int) -> None:
    curves = arcs(lines, loss_se=0.1 * arcs(lines).loss)
    ax = figures.walk_curves(axes(), curves)
    found = [each for each in ax.collections if type(each).__name__ in ("FillBetweenPolyCollection", "PolyCollection")]
    assert len(found) == bands


def test_the_start_is_marked_where_there_is_one() -> None:
    ax = figures.walk_curves(axes(), arcs(orders=2))
    (star,) = [line for line in ax.lines if line.get_gid() == "start"]
    assert star.get_xydata().tolist() == [[0, arcs().loss[0, 0]]]
    assert "top:flat" in texts(ax.figure)
    several = arcs(orders=2)
    other = dataclasses.replace(several.sources[1], seed=5)
    ax = figures.walk_curves(
        axes(), dataclasses.replace(several, sources=[several.sources[0], other, *several.sources[2:]])
    )
    assert not [line for line in ax.lines if line.get_gid() == "start"]


def test_barriers_are_dots_with_a_median() -> None:
    heights = barriers(arcs(21, solved=1))
    group = np.array([0] + [1] * 20)
    ax = figures.barrier_distribution(axes(), heights, color_by=group, names=("solved", "not solved"), unit="nats")
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "barrier above the chord (nats)"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["solved\nn = 1", "not solved\nn = 20"]
    first, second = (np.asarray(each.get_offsets()) for each in ax.collections)
    np.testing.assert_allclose(np.concatenate([first, second])[:, 1], heights.above_chord)
    assert abs(second[:, 0] - 1).max() < 0.3
    # One line has no median, twenty have one with its interval.
    bars = [np.asarray(line.get_ydata()) for line in ax.lines]
    assert len(bars) == 2
    np.testing.assert_allclose(bars[0], np.median(heights.above_chord[1:]))
    assert bars[1][0] < bars[0][0] < bars[1][1]
    dependent = dataclasses.replace(heights, independent=False)
    again = figures.barrier_distribution(axes(), dependent, color_by=group)
    assert np.array_equal(np.asarray(again.collections[1].get_offsets()), second)
    assert len(again.lines) == 1


def test_lines_without_a_barrier_lie_on_the_floor() -> None:
    loss = arcs().loss.copy()
    loss[0] = np.linspace(1, 0, 11) ** 2
    ax = figures.barrier_distribution(axes(), barriers(with_loss(arcs(), loss)))
    assert np.asarray(ax.collections[0].get_offsets())[0, 1] == floor_of(ax) == ticks(ax)["0"]


def test_an_unknown_barrier_is_named() -> None:
    with pytest.raises(Unsupported, match="there is no barrier 'top': choose above_chord, above_mean, above_higher"):
        figures.barrier_distribution(axes(), barriers(arcs()), definition="top")


def ends(counts: dict[tuple[str, int], int]) -> SimpleNamespace:
    total = sum(counts.values())
    groups = [
        SimpleNamespace(kind=kind, right=right, share=Proportion(n, total), loss=0.1, example=0)
        for (kind, right), n in counts.items()
    ]
    return SimpleNamespace(kind=np.zeros(total, dtype=int), right=np.zeros(total), groups=tuple(groups), total=512)


def test_outcomes_are_bars_with_intervals_and_one_for_the_tail() -> None:
    tail = {("partly right", right): 1 for right in range(400, 412)}
    found = ends({("partly right", 480): 60, ("solved", 512): 25, ("constant", 372): 3, **tail})
    ax = figures.outcomes(axes(), found, most=3, samples="patterns")
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "partly right, 480 of 512",
        "solved, 512 of 512",
        "constant, 372 of 512",
        "12 more functions",
    ]
    bars = [bar for each in ax.containers if hasattr(each, "patches") for bar in each.patches]
    assert [bar.get_width() for bar in bars] == pytest.approx([60, 25, 3, 12])
    assert [to_hex(bar.get_facecolor()) for bar in bars][:2] == [ORANGE, BLUE]
    assert [text.get_text() for text in ax.texts] == ["n = 60", "n = 25", "n = 3", "n = 12"]
    whisker = segments(ax)[1][:, 0] / 100
    assert tuple(whisker) == pytest.approx(Proportion(25, 100).interval_at(1 - 0.05 / 4))  # all four bars at once
    assert ax.yaxis_inverted()


def tree_of(members: int, *, tables: int = 8) -> SimpleNamespace:
    points = np.random.default_rng(0).normal(size=(members, 3)) + 9 * (np.arange(members) % 2)[:, None]
    tree = hierarchy.linkage(points, "single")
    label = hierarchy.fcluster(tree, 2.0, "distance") - 1
    group = np.sort(np.arange(members) % tables)
    sizes = np.bincount(label)
    return SimpleNamespace(tree=tree, threshold=2.0, label=label, sizes=sizes, predictions=group, unit="distance")


@pytest.mark.parametrize(("members", "leaves"), [(2, 2), (30, 30), (100, 100), (250, 100)])
def test_a_dendrogram_shows_tables_below_a_tree_of_limited_size(members: int, leaves: int) -> None:
    tree = tree_of(members)
    ax = figures.dendrogram(axes(), tree, names=["first"], solved=1)
    assert len(ax.lines) == 3 * (leaves - 1) + 1  # a bar and two branches a merge, and the threshold
    assert f"{members} networks" in ax.get_xlabel()
    assert (f"in {leaves} branches" in ax.get_xlabel()) == (members > leaves)
    assert f"2: {len(tree.sizes)} groups" in texts(ax.figure)
    told = [int(each.get_text()) for each in ax.texts if each.get_gid() == "members"]
    assert bool(told) == (members > leaves)
    if told:  # members below each leaf, counted where the tree is cut into as many branches
        assert max(told) == np.bincount(hierarchy.fcluster(tree.tree, leaves, "maxclust")).max()
    # The columns below the leaves have the same height each, and all of it below the axes.
    areas = sum(patch.get_height() for patch in ax.patches)
    assert areas == pytest.approx(leaves * 0.08)
    assert max(patch.get_y() + patch.get_height() for patch in ax.patches) < 0
    assert to_hex(ax.get_legend().get_patches()[1].get_facecolor()) == BLUE
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0].startswith("first (n = ")
    assert labels[-1].startswith("3 more (n = " if members > 5 else "table 2")


@pytest.mark.parametrize("members", [2, 6, 60, 250])
def test_numbers_of_groups_have_several_ticks_that_are_whole(members: int) -> None:
    ax = figures.groups_against_threshold(
        axes(),
        SimpleNamespace(
            **vars(tree_of(members)), plateaus=(), against_threshold=lambda at: [(t, 1, 1, 0.5) for t in at]
        ),
    )
    ax.figure.draw_without_rendering()
    told = [label.get_text() for label in ax.get_yticklabels() if label.get_text()]
    assert told[:2] in (["1", "2"], ["1", "10"])


def test_zeros_are_explained_where_there_are_any() -> None:
    sentence = "Zeros lie on the dotted line at the lower edge of the log axis."
    hill, level = arcs(), arcs()
    zero = with_loss(level, np.where(level.alpha == 0, 0.0, level.loss))
    falling = with_loss(level, np.broadcast_to(2 - level.alpha, level.loss.shape).copy())  # a barrier of zero
    for curves, told in ((hill, False), (zero, True), (falling, True)):
        assert (sentence in flat(figures.walk_figure([curves]).get_supxlabel())) == told
    parts = with_columns(zero, moves=np.array(["a"] * 3 + ["b"] * 3))
    assert sentence in flat(figures.part_figure(parts).get_supxlabel())
    losses = np.array([[0.0, 1.0], [0.1, 3.0]])
    options: dict[str, Any] = {"xlabel": "x", "ylabel": "y", "caption": "Some.", "percent": False}
    curve = figures.Series.of_seeds("a", [1, 2], losses)
    assert sentence in flat(figures.series_figure([("", [curve])], yscale="log", **options).get_supxlabel())
    assert sentence not in flat(figures.series_figure([("", [curve])], **options).get_supxlabel())
    joined = tree_of(30)
    joined.tree[0, 2] = 0.0
    tied = SimpleNamespace(**vars(joined), plateaus=(), against_threshold=lambda at: [(t, 1, 1, 0.5) for t in at])
    assert "a distance of zero meet at the lower edge" in flat(
        figures.clusters_figure(tied, caption="A tree.").get_supxlabel()
    )
    heights = np.array([[0.0, 0.0], [0.0, 0.0]])
    table = figures.BarrierTable(heights, np.array([0, 1]), "sign")
    told = flat(figures.mechanism_figure([("a", table)], caption="Heights.").get_supxlabel())
    assert "Pairs without a height have the colour of 10⁻⁴" in told


def test_of_more_lines_than_are_drawn_none_counts_as_infinite() -> None:
    ax = figures.barrier_distribution(axes(), barriers(arcs(2500)))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["n = 2500"]


@pytest.mark.parametrize("solved", [None, 0, 3])
@pytest.mark.parametrize("most", [5, 20])
def test_no_two_tables_of_a_dendrogram_have_one_colour_or_one_name(solved: int | None, most: int) -> None:
    tree = tree_of(60, tables=15)
    ax = figures.dendrogram(axes(), tree, names=["failed, 9 right"] * 15, solved=solved, most=most)
    legend = ax.get_legend()
    colors = [np.array(to_rgb(patch.get_facecolor())) for patch in legend.get_patches()]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colors, 2)) > 0.2
    names = [text.get_text() for text in legend.get_texts()]
    assert len({name.partition(" (n")[0] for name in names}) == len(names)
    assert names[1] == "failed, 9 right, no. 2 (n = 4)"
    assert sum(int(re.search(r"n = (\d+)", name)[1]) for name in names) == 60


@pytest.mark.parametrize(("rule", "live", "dead", "hatched"), [("B3/S23V", 3, 7, 40), ("B3/S23", 3, 15, 0)])
def test_rule_examples_show_each_case_once(rule: str, live: int, dead: int, hatched: int) -> None:
    parsed = Rule.parse(rule)
    ax = figures.rule_examples(axes(), PATTERNS, answers(parsed), parsed.kernel)
    assert len(ax.patches) == 10 * (live + dead)
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == hatched
    words = [text.get_text() for text in ax.texts]
    assert words[: live + 2] == ["2", "3", "3", "live next", "live neighbours"]
    assert sum(word.isdigit() for word in words) == live + dead


def test_a_walk_figure_has_two_axes_a_panel_on_one_scale() -> None:
    loss = arcs().loss.copy()
    loss[0, -1] = 0
    figure = figures.walk_figure([arcs(4), with_loss(arcs(6), loss)], unit="bits")
    assert len(figure.axes) == 4
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert [floor_of(ax) is not None for ax in figure.axes] == [False, False, True, False]
    assert figure.axes[0].get_title(loc="left") == "Hills: 4 seeds"
    assert figure.axes[1].get_title(loc="left") == "barrier above the chord\n(bits)"
    assert figure.axes[0].get_ylabel() == "loss (bits)"
    caption = flat(figure.get_supxlabel())
    assert (
        "Exact loss on the straight lines in parameter space from top:flat (star) to each end (dot), 11 points"
        in caption
    )
    assert "max over alpha of L(alpha) - ((1 - alpha) L0 + alpha L1)" in caption
    assert "depends on which representative" in caption
    assert "orders" not in caption


def test_the_caption_tells_sampled_losses_and_matched_orders_of_older_files() -> None:
    curves = arcs(loss_se=0.1 * arcs().loss)
    told = dataclasses.replace(curves, about={"samples": 500, "orders": "matched"})
    caption = flat(figures.walk_figure([told]).get_supxlabel())
    assert caption.startswith("Loss on 500 samples on the straight lines in parameter space from top (star)")
    assert "Each start has the order of its filters that lies closest to the end." in caption


def test_of_several_filter_orders_the_lowest_line_is_drawn() -> None:
    figure = figures.walk_figure([arcs(5, orders=2)], caption="Mine.")
    assert len(segments(figure.axes[0])) == 5
    assert max(line[:, 1].max() for line in segments(figure.axes[0])) < 6
    expected = (
        "Mine. Of 2 filter orders of the start, the line with the lower barrier is drawn. Median barrier above the "
        "higher end: 2.85."
    )
    assert flat(figure.get_supxlabel()) == expected


def test_lines_of_different_starts_are_all_drawn_without_an_interval() -> None:
    curves = arcs(8, orders=2)
    starts = [dataclasses.replace(source, seed=seed) for seed, source in enumerate(curves.sources[:2])]
    figure = figures.walk_figure([dataclasses.replace(curves, sources=[*starts, *curves.sources[2:]])])
    assert len(segments(figure.axes[0])) == 16
    assert figure.axes[0].get_title(loc="left") == "Hills: 16 lines"
    # A median in each strip and no whisker.
    assert len([line for line in figure.axes[1].lines if line.get_gid() is None]) == 2


def alone(**about: Any) -> Result:
    """One line between two checkpoint files, with losses from 0.4 to 2."""
    one = arcs(1)
    loss = 0.4 + 0.1 * one.alpha + 1.5 * np.sin(np.pi * one.alpha) ** 2
    told = {"title": "Hill", "loss_unit": "nats", "from": "a.pt", "to": "b.pt", **about}
    ends = [Source("file", None, None, "", label) for label in ("a.pt", "b.pt")]
    return dataclasses.replace(one, values={"loss": loss[None]}, sources=ends, about=told)


def words(ax: Axes, gid: str) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_gid() == gid]


def test_one_line_has_its_barrier_marked_on_it() -> None:
    figure = figures.walk_figure([alone()])
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "Hill: 1 line"
    assert ax.get_legend() is None
    assert words(ax, "height") == ["barrier above the chord: 1.5 nats at alpha 0.5 (above the higher end: 1.45)"]
    (bar,) = [line for line in ax.lines if line.get_gid() == "barrier"]
    np.testing.assert_allclose(bar.get_xydata(), [[5, 0.45], [5, 1.95]])
    caption = flat(figure.get_supxlabel())
    assert caption.startswith(
        "Exact loss on the straight line in parameter space from a.pt (star) to b.pt (dot), 11 points. Dotted: the "
        "barrier, max over alpha of L(alpha)"
    )
    assert "bars" not in caption
    assert "Statistics" not in caption


@pytest.mark.parametrize(
    ("definition", "base", "text"),
    [
        ("above_mean", 0.45, "barrier above the mean of the ends: 1.5 nats at alpha 0.5 (above the higher end: 1.45)"),
        ("above_higher_end", 0.5, "barrier above the higher end: 1.45 nats at alpha 0.5 (above the chord: 1.5)"),
    ],
)
def test_other_barriers_are_marked_from_where_they_are_measured(definition: str, base: float, text: str) -> None:
    (ax,) = figures.walk_figure([alone()], definition=definition, x="alpha").axes
    assert words(ax, "height") == [text]
    (bar,) = [line for line in ax.lines if line.get_gid() == "barrier"]
    np.testing.assert_allclose(bar.get_xydata(), [[0.5, base], [0.5, 1.95]])


def test_one_line_without_a_barrier_says_so() -> None:
    flat_line = with_loss(alone(), np.linspace(1, 3, 11)[None])
    figure = figures.walk_figure([flat_line])
    assert words(figure.axes[0], "height") == ["no barrier above the chord"]
    assert "The barrier is max over alpha" in flat(figure.get_supxlabel())
    loss = alone().loss.copy()
    loss[0, 4] = np.nan
    (ax,) = figures.walk_figure([with_loss(alone(), loss)]).axes
    assert words(ax, "height") == ["no barrier above the chord: a loss on the line is NaN, or one at its ends infinite"]


def test_one_line_says_whether_its_end_is_solved_without_a_share() -> None:
    figure = figures.walk_figure([arcs(1, solved=1)])
    assert words(figure.axes[0], "height")[0].endswith("; the end is solved")
    assert "interval" not in texts(figure)
    assert [text.get_text() for text in figures.walk_curves(axes(), arcs(1)).get_legend().get_texts()] == ["solved"]


def test_one_trained_curve_tells_the_barrier_of_the_straight_line_too() -> None:
    curve = {"kind": "polyline", "bends": 1, "steps": 70}
    curves = with_columns(alone(curve=curve), via_member=np.zeros((1, 1), dtype=int))
    curves = dataclasses.replace(curves, values={"loss": curves.loss, "loss_straight": 2 * curves.loss})
    figure = figures.walk_figure([curves])
    assert figure.axes[0].get_title(loc="left") == "Hill: 1 curve"
    assert words(figure.axes[0], "height") == ["barrier above the chord: 1.5 nats at alpha 0.5; of the straight line 3"]
    assert "on a polyline with 1 bend (diamond) from a.pt (star) to b.pt (dot), trained" in flat(figure.get_supxlabel())


@pytest.mark.slow
def test_panels_of_one_line_each_have_no_strips() -> None:
    figure = figures.walk_figure([alone(), alone()])
    assert len(figure.axes) == 2
    assert len(figures.walk_figure([alone(), arcs()]).axes) == 4


@pytest.mark.parametrize(
    ("lines", "said"), [(6, "bars: median and its interval, all of them with 95 % at once."), (5, "bars: median.")]
)
def test_the_caption_tells_intervals_only_where_there_are_some(lines: int, said: str) -> None:
    caption = flat(figures.walk_figure([arcs(lines, solved=0)]).get_supxlabel())
    assert f"; {said} A barrier's height" in caption


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"policy": "recalibrate", "samples": 1400, "batch": 512},
            "Statistics of BatchNorm estimated anew at each point on 1,400 training samples.",
        ),
        ({"policy": "interpolate"}, "Statistics of BatchNorm interpolated between the ends."),
        (
            {"policy": "keep"},
            "Statistics of BatchNorm kept as at the start: only there the loss is the network's own.",
        ),
    ],
)
def test_captions_tell_what_batchnorm_normalised_by(policy: dict[str, Any], said: str) -> None:
    told = alone(batchnorm=policy, autocast="bfloat16")
    assert f" {said} The network ran in bfloat16. Dotted" in flat(figures.walk_figure([told]).get_supxlabel())
    parts = layers(["a"], batchnorm=policy)
    assert f" {said} Grey" in flat(figures.part_figure(parts).get_supxlabel())


@pytest.mark.slow
def test_exact_and_sampled_panels_are_told_apart() -> None:
    sampled = arcs(loss_se=0.1 * arcs().loss)
    sampled = dataclasses.replace(sampled, about={"samples": 1500})
    caption = flat(figures.walk_figure([arcs(), sampled]).get_supxlabel())
    assert caption.startswith("Exact loss, and loss on 1,500 samples on the straight lines")


@pytest.mark.parametrize("scale", ["low", "high"])
@pytest.mark.parametrize("x", ["l2", "alpha"])
def test_names_of_the_ends_lie_where_no_curve_runs(scale: str, x: Any) -> None:
    curves = alone()
    if scale == "high":
        curves = with_loss(curves, 1 / curves.loss)
    figure = figures.walk_figure([curves], x=x)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    names = [text for text in ax.texts if text.get_gid() == "name"]
    assert [name.get_text() for name in names] == ["a.pt", "b.pt"]
    (line,) = segments(ax)
    dense = np.linspace(line[0, 0], line[-1, 0], 2000)
    height = 10 ** np.interp(dense, line[:, 0], np.log10(line[:, 1]))
    places = ax.transData.transform(np.stack([dense, height], axis=-1))
    frame = ax.get_window_extent()
    for name in names:
        box = name.get_window_extent()
        assert not box.count_contains(places)
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def test_rounding_is_no_barrier_on_a_log_axis() -> None:
    loss = arcs().loss.copy()
    loss[0] = np.linspace(1, 2, 11)
    loss[0, 5] += 1e-15
    heights = barriers(with_loss(arcs(), loss))
    assert 0 < heights.above_chord[0] < 1e-14
    ax = figures.barrier_distribution(axes(), heights)
    assert ax.get_ylim()[0] > 1e-3
    assert np.asarray(ax.collections[0].get_offsets())[0, 1] == floor_of(ax)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.5, 2.0, ["0.5", "1", "2"]),
        (0.3, 3.0, ["0.5", "1", "2"]),
        (0.01, 0.3, ["0.01", "0.02", "0.05", "0.1", "0.2"]),
        (0.41, 0.45, ["0.3", "0.4", "0.5", "0.6"]),
        (1.2, 1.9, ["1", "1.5", "2"]),
        (1e-6, 3e-6, ["10⁻⁶", "2 × 10⁻⁶", "3 × 10⁻⁶"]),
        (0.009, 11.0, ["10⁻²", "10⁻¹", "10⁰", "10¹"]),
    ],
)
def test_ticks_are_plain_numbers_on_few_decades(low: float, high: float, labels: list[str]) -> None:
    ax = Figure(figsize=(7.2, 2.9)).add_subplot()
    figures.walk_curves(ax, with_loss(arcs(1), np.linspace(low, high, 11)[None]))
    assert list(ticks(ax)) == labels


def test_a_label_stays_clear_of_a_legend_of_several_rows() -> None:
    """Which takes its place only after the label was measured against the axes."""
    marks = np.linspace(0, 1, 3)
    names = [f"a curve with quite a long name, number {n}" for n in range(6)]
    curves = [figures.Series(label=name, x=marks, value=marks, low=marks, high=marks) for name in names]
    label = "networks that get all test boards right (%)"
    figure = figures.series_figure([("", curves)] * 3, xlabel="width", ylabel=label, height=2.9, caption="About.")
    figure.draw_without_rendering()
    (legend,), first = figure.legends, figure.axes[0]
    assert first.get_ylabel().split() == label.split()
    assert not first.yaxis.label.get_window_extent().overlaps(legend.get_window_extent())


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.floats(-12, 6), st.floats(0, 14), st.booleans(), st.sampled_from([1.2, 2.0, 2.9, 5.0]))
def test_every_log_axis_has_ticks_that_do_not_overlap(low: float, span: float, zeros: bool, inches: float) -> None:
    values = np.append(10 ** np.array([low, low + span]), [0.0] if zeros else [])
    ax = Figure(figsize=(4, inches)).add_subplot()
    log_axis(ax, values, floor_below([values]), [values])
    bottom, top = ax.get_ylim()
    assert bottom < values[values > 0].min() <= values.max() < top
    found = ticks(ax)
    assert len([place for place in found.values() if bottom <= place <= top]) == len(found) >= 3 + zeros - (inches < 2)
    assert not any("-0}" in label for label in found)
    heights = np.sort(ax.transData.transform([(0, place) for place in found.values()])[:, 1])
    assert np.diff(heights).min() > 7 * ax.figure.dpi / 72


@pytest.mark.slow
def test_panels_in_small_multiples_leave_few_holes_and_label_the_lowest() -> None:
    figure = figures.part_figure(layers([f"block.{number}" for number in range(5)]))
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "alpha", "alpha", "alpha"]
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in figure.axes] == [False, False, True, True, True]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss\n(nats)", "", "", "loss\n(nats)", ""]
    for count, columns in ((1, 1), (4, 4), (7, 4), (9, 3), (10, 4)):
        axes = figures.part_figure(layers([f"block.{number}" for number in range(count)], lines=1)).axes
        assert len(axes) == count
        assert axes[0].get_subplotspec().get_gridspec().ncols == columns


def test_a_single_line_a_panel_has_no_median() -> None:
    figure = figures.part_figure(layers(["a", "b"], lines=1))
    caption = flat(figure.get_supxlabel())
    assert "1 line a panel" in caption
    assert "Grey: the full line, on" in caption
    assert "Above the panels: the barrier" in caption
    assert figure.get_suptitle() == "Hills: 1 seed"


def test_a_walk_figure_needs_finished_lines() -> None:
    with pytest.raises(LandscapeError, match="give at least one file"):
        figures.walk_figure([])
    with pytest.raises(LandscapeError, match="none of the lines is finished"):
        figures.walk_figure([with_columns(arcs(), done=np.zeros(6, dtype=bool))])


@pytest.mark.slow
def test_save_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    figure = figures.walk_figure([arcs()])
    written = figures.save(figure, tmp_path / "a")
    first, again, afresh = (
        [path.read_bytes() for path in paths]
        for paths in (
            written,
            figures.save(figure, tmp_path / "b"),
            figures.save(figures.walk_figure([arcs()]), tmp_path / "c"),
        )
    )
    assert first == again == afresh
    assert imread(written[0]).shape[1] == 7.2 * 200
    assert ElementTree.fromstring(written[1].read_text()).tag.endswith("svg")


@pytest.mark.parametrize("name", ["figure", "figure.png", "figure.svg", "m0.5", "m0.5.png"])
def test_save_writes_both_formats_whichever_is_named(tmp_path: Path, name: str) -> None:
    stem = name.removesuffix(".png").removesuffix(".svg")
    expected = [tmp_path / "new" / f"{stem}.png", tmp_path / "new" / f"{stem}.svg"]
    assert figures.save(Figure(figsize=(1, 1)), tmp_path / "new" / name) == expected
    assert sorted((tmp_path / "new").iterdir()) == expected


@pytest.mark.slow
def test_many_lines_are_a_picture_in_the_svg(tmp_path: Path) -> None:
    few, many = (
        figures.save(figures.walk_figure([arcs(n, points=51)], draw="lines"), tmp_path / f"{n}")[1] for n in (100, 300)
    )
    assert "<image" not in few.read_text()
    assert "<image" in many.read_text()
    assert max(few.stat().st_size, many.stat().st_size) < 300_000


def test_other_formats_are_refused(tmp_path: Path) -> None:
    said = r"written as PNG, PDF and SVG, not \.\w*: end the name in \.png, \.pdf or \.svg"
    with pytest.raises(Unsupported, match=said):
        figures.save(Figure(), tmp_path / "figure.eps")
    for name in ("x.xyz", "."):
        with pytest.raises(Unsupported, match=said + "$"):
            figures.targets(Path(name))
    for ending in (".vtp", ".vts", ".csv", ".npz"):
        with pytest.raises(Unsupported, match=said + f"; landscape export writes {ending}$"):
            figures.targets(Path("x" + ending))


def test_formats_are_those_that_are_asked_for(tmp_path: Path) -> None:
    assert figures.targets(Path("a.pdf")) == [Path("a.pdf")]
    assert figures.targets(Path("a"), ("pdf", "png", "pdf")) == [Path("a.pdf"), Path("a.png")]
    assert figures.targets(Path("m0.5"), ("svg",)) == [Path("m0.5.svg")]
    with pytest.raises(Unsupported, match=r"a\.png ends in \.png, and `format` asks for pdf and svg: leave one out"):
        figures.targets(Path("a.png"), ("pdf", "svg"))
    assert figures.save(Figure(figsize=(1, 1)), tmp_path / "b", formats=["pdf"]) == [tmp_path / "b.pdf"]
    assert [file.name for file in tmp_path.iterdir()] == ["b.pdf"]


def test_a_page_draws_one_axes_with_a_caption() -> None:
    figure = figures.page(lambda ax: figures.walk_curves(ax, arcs()), size=(7.2, 3), caption="word " * 60)
    assert len(figure.axes) == 1
    assert figure.get_supxlabel().count("\n") == 2
    assert figure.get_size_inches().tolist() == pytest.approx([7.2, 3.45])


@pytest.mark.slow
def test_neither_torch_nor_pyplot_nor_its_settings_are_touched() -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import numpy as np; from scipy.cluster import hierarchy; from types import SimpleNamespace as N\n"
        "from landscape import figures\n"
        "of = np.arange(3); tree = N(tree=hierarchy.linkage(np.eye(3)), threshold=1.0, unit='', label=of, sizes=of)\n"
        "tree.predictions = of\n"
        "figures.page(lambda ax: figures.dendrogram(ax, tree))\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def layers(names: Sequence[str], *, lines: int = 3, **about: Any) -> Result:
    """Lines on which each of some layers moves, after those on which all do; the later the layer, the higher."""
    curves = arcs(lines)
    parts = ["", *names]
    loss = np.concatenate([curves.loss * (number + 1) for number in range(len(parts))])
    return dataclasses.replace(
        curves,
        axes={**curves.axes, "line": np.arange(len(loss))},
        values={"loss": loss, "solved": np.tile(curves.values["solved"], (len(parts), 1))},
        columns={name: np.tile(column, len(parts)) for name, column in curves.columns.items()}
        | {"moves": np.repeat(np.array(parts, dtype=object), lines)},
        about={**curves.about, "to": "runs/a", "per": "layer", "hold": "start", **about},
    )


def test_a_panel_for_each_layer_that_moves() -> None:
    names = [f"block.{number}" for number in range(6)]
    figure = figures.part_figure(layers(names))
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left").strip() for ax in panels] == names
    assert len(figure.axes) == 6
    assert len({ax.get_ylim() for ax in panels}) == len({ax.get_xlim() for ax in panels}) == 1
    for number, ax in enumerate(panels, start=2):
        behind, *front = sorted(
            (each for each in ax.collections if isinstance(each, LineCollection)), key=lambda each: each.get_zorder()
        )
        assert behind.get_gid() == "behind"
        np.testing.assert_allclose([line[:, 1] for line in behind.get_segments()], arcs(3).loss)
        drawn = sorted((line[:, 1] for each in front for line in each.get_segments()), key=max)
        np.testing.assert_allclose(drawn, number * arcs(3).loss)
        height = number * np.median(barriers(arcs(3)).above_chord)
        assert [text.get_text() for text in ax.texts] == [f"barrier {height:.3g}, end {number * 1e-3:.3g}"]
    caption = flat(figure.get_supxlabel())
    assert "straight lines from top:flat (alpha 0) to runs/a (alpha 1), on which only the layer above" in caption
    assert "held at the start; 3 lines a panel, 11 points a line. Grey: the full lines" in caption
    assert "the loss at the end, where the network is mixed" in caption
    assert figure.get_suptitle() == "Hills: 3 seeds"


def test_what_is_held_at_the_end_is_mixed_at_the_start() -> None:
    figure = figures.part_figure(layers(["a"], hold="end"))
    assert figure.axes[0].texts[0].get_text().endswith(", start 0.0002")
    assert "held at the end" in flat(figure.get_supxlabel())
    only = layers(["a"])
    figure = figures.part_figure(only.select(only.moves == "a"))
    assert [each.get_gid() for each in figure.axes[0].collections if each.get_gid()] == []
    assert "Grey" not in figure.get_supxlabel()
    with pytest.raises(LandscapeError, match='these lines move as a whole: walk with `per="layer"`'):
        figures.part_figure(arcs())
    with pytest.raises(LandscapeError, match="none of the lines has a finite loss"):
        figures.part_figure(with_loss(only, np.full_like(only.loss, np.nan)))


def test_of_walks_per_layer_a_walk_figure_draws_the_full_lines() -> None:
    figure = figures.walk_figure([layers(["a", "b"])])
    assert len(segments(figure.axes[0])) == 3
    assert figure.axes[0].get_title(loc="left") == "Hills: 3 seeds"
    only = layers(["a.*"])
    only = dataclasses.replace(only.select(only.moves == "a.*"), about={"only": ["a.*"], "hold": "start", "from": "x"})
    caption = flat(figures.walk_figure([only]).get_supxlabel())
    assert "to each end (dot), on which only a.* move and the rest is held at the start, 11 points" in caption


def bent(kind: str, via: int, **about: Any) -> Result:
    curves = arcs(4, points=13, loss_straight=9 * arcs(4, points=13).loss)
    told = {"curve": {"kind": kind, "bends": via, "steps": 70}} if kind else {"via": ["x", "y"]}
    curves = with_columns(curves, via_member=np.full((4, via), 2))
    return dataclasses.replace(curves, about={**curves.about, **told, **about})


def vertices(ax: Axes) -> list[np.ndarray]:
    return [line.get_xydata() for line in ax.lines if line.get_gid() == "vertex"]


@pytest.mark.slow
def test_trained_curves_before_straight_lines() -> None:
    polyline, bezier = (figures.walk_figure([bent(kind, 2)]) for kind in ("polyline", "bezier"))
    for figure in (polyline, bezier):
        left, right = figure.axes
        assert left.get_xlabel().startswith("alpha")
        (behind,) = [each for each in left.collections if each.get_gid() == "behind"]
        np.testing.assert_allclose([line[:, 1] for line in behind.get_segments()], 9 * arcs(4, points=13).loss)
        labels = [label.get_text() for label in right.get_xticklabels()]
        assert labels == ["solved\nn = 2", "not solved\nn = 2", "straight\nn = 4"]
        heights = np.concatenate([np.asarray(each.get_offsets())[:, 1] for each in right.collections])
        wanted = barriers(arcs(4, points=13)).above_chord
        np.testing.assert_allclose(np.sort(heights), np.sort(np.append(wanted, 9 * wanted)))
    assert not vertices(bezier.axes[0])
    diamonds = np.concatenate(vertices(polyline.axes[0]))
    assert len(diamonds) == 8
    for x, y in diamonds:
        assert y in arcs(4, points=13).loss[:, round(x * 12)]
    assert "polylines with 2 bends (diamonds) from top:flat (star) to each end" in flat(polyline.get_supxlabel())
    assert "Bézier curves with 2 bends from" in flat(bezier.get_supxlabel())
    assert "trained to a low mean loss in 70 steps of Adam, and on the straight lines (grey)" in flat(
        bezier.get_supxlabel()
    )


def test_lines_via_other_places_show_their_vertices() -> None:
    curves = bent("", 2, landmarks={"top": "top:flat", "x": "x:known"})
    curves = dataclasses.replace(curves, values={"loss": curves.loss})
    figure = figures.walk_figure([curves])
    assert sorted(set(np.concatenate(vertices(figure.axes[0]))[:, 0])) == pytest.approx([1 / 3, 2 / 3])
    assert "on straight segments from top:flat (star) via x:known, y (diamonds) to each end (dot)" in flat(
        figure.get_supxlabel()
    )


def test_random_directions_end_nowhere() -> None:
    curves = dataclasses.replace(arcs(), about={**arcs().about, "normalise": "layer", "to": None})
    figure = figures.walk_figure([curves])
    assert figure.axes[0].get_legend() is None
    assert figure.axes[0].get_title(loc="left") == "Hills: 6 directions"
    caption = flat(figure.get_supxlabel())
    assert "in random directions, each layer as long as that of the network (dot: alpha 1), 11 points" in caption
    assert "Solved" not in caption


def test_a_long_name_of_the_start_is_cut() -> None:
    long = {"from": "/a/long/way/to/the/checkpoints/of/first/#3", "landmarks": {}}
    figure = figures.walk_figure([dataclasses.replace(arcs(), about=long)])
    assert "first/#3" in [text.get_text() for text in figure.axes[0].texts]


def test_a_definition_of_a_barrier_is_added_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above_start = Definition("barrier above the start", "max over alpha of L(alpha) - L0", lambda _, loss: loss[:, :1])
    monkeypatch.setitem(DEFINITIONS, "above_start", above_start)
    curves, file = arcs(1), tmp_path / "walk.h5"
    found = barriers(curves)
    np.testing.assert_array_equal(found.above_start, curves.loss.max(axis=1) - curves.loss[:, 0])
    assert found.summary()["above_start"]["max"] == found.above_start[0]
    curves.save(file)
    told = CliRunner().invoke(main, ["analyse", "barriers", str(file)]).output
    assert re.search(rf"^above_start +{found.above_start[0]:.4g}", told, re.MULTILINE)
    assert "above_start: max over alpha of L(alpha) - L0" in told
    figure = figures.walk_figure([curves], definition="above_start")
    assert f"barrier above the start: {found.above_start[0]:.3g} nats" in texts(figure)
    drawn = figures.barrier_distribution(axes(), found, definition="above_start")
    assert drawn.get_ylabel() == "barrier above the start"


# Papers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "width"), [(1, 3.5), (2, 7.2)])
def test_a_figure_for_a_paper_is_as_wide_as_its_columns_and_printed_as_it_is(columns: int, width: float) -> None:
    figure = figures.walk_figure([arcs(), arcs()], style=figures.paper(columns))
    assert figure.get_size_inches()[0] == width
    assert figure.get_supxlabel() == ""
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    assert 7 <= min(sizes) <= max(sizes) <= 8.5
    titles = [text for ax in figure.axes for text in ax.get_children() if isinstance(text, Text) and text.get_text()]
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 + 1 for text in titles)
    assert len({ax.get_position().x0.round(2) for ax in figure.axes}) == columns  # panels below one another, or beside


def test_titles_of_papers_are_wrapped_and_the_interval_gives_way() -> None:
    curves = dataclasses.replace(arcs(30), about={**arcs().about, "title": "word " * 14})
    figure = figures.walk_figure([curves], style=figures.paper(1))
    assert figure.axes[0].get_title(loc="left").count("\n") >= 1
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["solved: 2 of 30", "not solved: 28"]


def test_fonts_are_embedded_in_pdf_and_text_in_svg_is_text(tmp_path: Path) -> None:
    style = figures.paper(1)
    figure = figures.walk_figure([arcs()], style=style)
    pdf, svg = figures.save(figure, tmp_path / "a", formats=["pdf", "svg"], style=style)
    raw = pdf.read_bytes()
    assert b"/FontFile2" in raw  # TrueType
    assert b"/Type3" not in raw
    assert b"CreationDate" not in raw
    assert "Hills: 6 seeds</text>" in svg.read_text()
    again = figures.walk_figure([arcs()], style=style)
    assert figures.save(again, tmp_path / "b", formats=["pdf"], style=style)[0].read_bytes() == raw


def test_cards_are_not_squeezed_into_one_column() -> None:
    with pytest.raises(Unsupported, match="cards take the width of two columns: ask for `columns=2`"):
        figures.group_cards(SimpleNamespace(groups=[]), np.zeros((0, 1, 3, 3)), [], style=figures.paper(1))


def test_the_command_line_draws_for_papers(tmp_path: Path) -> None:
    file, out = tmp_path / "w.h5", tmp_path / "w"
    arcs().save(file)
    asked = ["plot", "walk", str(file), "-o", str(out), "--style", "paper"]
    found = CliRunner().invoke(main, [*asked, "--columns", "1", "--format", "pdf", "--format", "png"])
    assert found.output == f"{out}.pdf\n{out}.png\n"
    assert imread(f"{out}.png").shape[1] == 3.5 * 300
    for more, said in (
        (["--caption", "mine"], "Error: a paper has captions of its own: leave --caption or --style paper out"),
        (["--style", "screen", "--columns", "1"], "Error: --columns goes with --style paper"),
        (["-o", f"{out}.vtp"], "not .vtp: end the name in .png, .pdf or .svg; landscape export writes .vtp"),
        (["-o", f"{out}.png", "--format", "pdf"], "w.png ends in .png, and --format asks for pdf: leave one out"),
    ):
        wrong = CliRunner().invoke(main, [*asked, *more])
        assert wrong.exit_code in (1, 2)
        assert said in wrong.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.h5", "w.pdf", "w.png"]


# Many lines -----------------------------------------------------------------------------------------------------------


def bands(ax: Axes) -> dict[str, np.ndarray]:
    """Lower and upper edges of each band, and the median, by its name and colour."""
    found = {}
    for each in ax.collections:
        if isinstance(each, PolyCollection) and each.get_gid():
            x, y = each.get_paths()[0].vertices.T
            places = np.unique(x)
            edges = [[y[x == place].min() for place in places], [y[x == place].max() for place in places]]
            found[f"{each.get_gid()} {to_hex(each.get_facecolor()[0])}"] = np.array(edges)
    for line in ax.lines:
        if line.get_gid() == "median":
            found[f"median {to_hex(line.get_color())}"] = np.array(line.get_ydata())
    return found


def test_more_than_a_hundred_lines_are_bands_of_quantiles() -> None:
    curves = arcs(150, solved=40)
    found = bands(figures.walk_curves(axes(), curves))
    for loss, color in ((curves.loss[:40], BLUE), (curves.loss[40:], ORANGE)):
        low, lower, middle, upper, high = np.quantile(
            loss, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0, method="inverted_cdf"
        )
        np.testing.assert_array_equal(found[f"90 % {color}"], [low, high])
        np.testing.assert_array_equal(found[f"50 % {color}"], [lower, upper])
        np.testing.assert_array_equal(found[f"median {color}"], middle)
    assert bands(figures.walk_curves(axes(), arcs(100))) == {}
    assert bands(figures.walk_curves(axes(), curves, draw="lines")) == {}
    assert bands(figures.walk_curves(axes(), arcs(30), draw="bands")).keys() == {
        f"{name} {ORANGE}" for name in ("90 %", "50 %", "median")
    }


def test_few_lines_of_a_group_stay_lines_before_the_bands_and_all_are_over_alpha() -> None:
    ax = figures.walk_curves(axes(), arcs(150, solved=3))
    assert {name.split()[-1] for name in bands(ax)} == {ORANGE}
    (lines,) = [each for each in ax.collections if isinstance(each, LineCollection)]
    assert to_hex(lines.get_colors()[0]) == BLUE
    assert [line[:, 0].max() for line in lines.get_segments()] == [1.0] * 3
    assert ax.get_xlabel() == "alpha (0: start, 1: end of the line)"
    caption = flat(figures.walk_figure([arcs(150, solved=3)]).get_supxlabel())
    assert "groups of 20 and more are drawn over alpha: their median, and the ranges of their middle 50 % and 90 %" in (
        caption
    )


def test_infinite_values_count_in_bands_and_nan_do_not() -> None:
    loss = np.tile(np.arange(1.0, 41.0)[:, None], (1, 4))
    loss[30:, 1] = np.inf  # a quarter
    loss[:20, 2] = np.nan
    loss[:, 3] = np.nan
    found = _quantiles(loss)
    assert found[:, 0].tolist() == [2, 10, 20, 30, 38]
    assert found[:, 1].tolist() == [2, 10, 20, 30, np.inf]
    assert found[:, 2].tolist() == [21, 25, 30, 35, 39]
    assert np.isnan(found[:, 3]).all()


def test_what_draws_takes_axes_and_returns_them() -> None:
    pages = {name for name in figures.__all__ if name.endswith("_figure")}
    others = {
        "COLORS",
        "SCREEN",
        "Draw",
        "Format",
        "Style",
        "Series",
        "BarrierTable",
        "paper",
        "page",
        "save",
        "targets",
        "Pace",
        "animate",
    }
    for name in set(figures.__all__) - pages - others - {"group_cards"}:
        signature = inspect.signature(getattr(figures, name))
        assert next(iter(signature.parameters)) == "ax", name
        assert str(signature.return_annotation).rsplit(".", 1)[-1].rstrip("'>") in ("Axes", "Axes3D"), name
    for name in (*pages, "group_cards", "page"):
        assert "style" in inspect.signature(getattr(figures, name)).parameters, name
    ax = axes()
    assert figures.barrier_table(ax, figures.BarrierTable(np.ones((2, 2)), np.array([0, 1]), "signature")) is ax
