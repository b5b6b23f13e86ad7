"""Passes: what is found against what is known, chains of paths against brute force, and many pairs in little memory."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from matplotlib.text import Text
from scipy.signal import find_peaks
from torch import Tensor, nn

import landscape
from landscape import Checkpoint, Problem, Result, connect, convergence, curvature, figures, load, walk
from landscape.analysis import barriers as barriers_module
from landscape.analysis.passes import Merge, Passes, passes
from landscape.core.errors import LandscapeError, Mismatch, TooMuch, Unsupported
from landscape.core.provenance import Source
from landscape.engine.stack import Stack
from landscape.evaluation import bending as bending_module
from landscape.evaluation.bending import Bending, Emphasis
from landscape.evaluation.bottleneck import MOST_GRADIENTS
from landscape.figures.pages import branch_width
from landscape.figures.passes import branch_sizes
from landscape.space.family import bent, bezier, line, polyline
from landscape.store import results as results_module

RUN = Path(__file__).parents[1] / "checkpoints" / "one-step-m1-B3S23V"


class Ring(nn.Module):
    """With a target of 0 and squared error the loss is (|w|^2 - 1)^2: its minima are a circle around a hill of 1."""

    def __init__(self, angle: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(_at(angle))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w.square().sum() - 1).expand(len(x), 1)


def _at(angle: float) -> Tensor:
    return torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)


RING = Problem.from_model(Ring, (torch.zeros(1, 1), torch.zeros(1, 1)), "mse")


def some(*rows: int) -> Checkpoint:
    every = load(str(RUN))
    return Checkpoint(every.stack.select(list(rows)), tuple(every.sources[row] for row in rows), every.problem)


# What connect finds


def test_around_a_hill_the_lowest_path_lies_far_below_the_line_and_costs_what_is_said() -> None:
    found = connect(Ring(), Ring(np.pi), problem=RING, budget=2000, points=101)
    assert found["loss_straight"].max() == pytest.approx(1)
    assert found.loss.max() < 5e-3
    assert 0 < found["gradients"][0] <= 2000
    assert found["evaluations"][0] > 101
    assert found["method"][0].split()[0] in ("bezier", "polyline")
    assert int(found["method"][0].split()[1]) == found["bends"][0]


def test_no_path_is_higher_than_the_line_and_level_lines_cost_nothing() -> None:
    found = connect(some(0, 1, 2, 3), some(4, 5, 6, 0), budget=400, points=101)
    assert (found.loss.max(1) <= found["loss_straight"].max(1) * (1 + 1e-5)).all()
    level = (found["loss_straight"].max(1) == np.maximum(found.loss[:, 0], found.loss[:, -1])).tolist()
    assert level == [method == "straight" for method in found["method"]]
    assert (found["gradients"][level] == 0).all()


def test_where_the_loss_hardly_rises_large_steps_throw_no_path_off() -> None:
    """The straight line rises by 1.4e-4, and curves that are trained by large steps by more."""
    found = connect(some(74), some(174), budget=2000, points=101)
    assert 1e-4 < found["loss_straight"].max() - found.loss[0, 0] < 2e-4
    assert found.loss.max() <= found.loss[0, 0] + 1e-6


def test_of_few_gradients_one_curve_has_all() -> None:
    ends = some(0, 1, 2, 3), some(4, 5, 6, 0)
    found = connect(*ends, budget=800, points=1001)
    assert (found["gradients"] <= 800).all()
    plain = connect(*ends, method="bezier", bends=1, steps=(800 - MOST_GRADIENTS) // 8, points=1001)
    assert (found.loss.max(1) <= plain.loss.max(1) * (1 + 1e-6)).all()
    assert connect(Ring(), Ring(np.pi), problem=RING, budget=800, points=101)["method"].tolist() == ["bezier 1"]


def test_bends_of_which_none_was_trained_are_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the files of bends and the result: the same call goes on."""
    x = torch.linspace(-1, 1, 8)[:, None]
    problem = Problem.from_model(torch.nn.Linear(1, 1), (x, x), "mse")
    ends = [{"weight": torch.full((1, 1), at), "bias": torch.zeros(1)} for at in (1.0, 2.0)]  # the loss rises all along

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("landscape.evaluation.connect.along", stopped)
        with pytest.raises(KeyboardInterrupt):
            connect(*ends, problem=problem, budget=400, points=11, save=tmp_path / "x.h5")
    assert (tmp_path / "x.bend-1.safetensors").exists()
    assert connect(*ends, problem=problem, budget=400, points=11, save=tmp_path / "x.h5")["gradients"][0] == 0


def test_a_pair_does_not_depend_on_its_companions() -> None:
    both = connect(some(0, 2), some(4, 6), budget=400, points=11)
    alone = connect(some(2), some(6), budget=400, points=11)
    assert alone["method"][0] == both["method"][1]
    assert alone.loss.tobytes() == both.loss[1].tobytes()


def test_of_every_order_of_units_the_lowest_path_is_kept() -> None:
    stored, every = (connect(some(2), some(6), order=order, budget=400, points=51) for order in ("stored", "all"))
    assert len(every) == 1
    assert every.loss.max() <= stored.loss.max()
    assert every["gradients"][0] > stored["gradients"][0]


def test_bounds_enclose_the_highest_point_of_paths_of_straight_pieces() -> None:
    found = connect(some(0, 2), some(4, 6), budget=400, points=101, certify=1e-3)
    assert found.kind == "polyline"
    assert (found["max_lower"] <= found["max_upper"]).all()
    assert (found.loss.max(1) <= found["max_upper"] * (1 + 1e-6)).all()
    assert np.allclose(found["max_upper"], found["max_lower"], rtol=2e-3)
    known = passes(found).known
    np.testing.assert_array_equal(known, found["max_upper"])


def test_paths_are_reported_on_other_samples_than_they_are_sought_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape.problems.life import Life

    seeds: list[int] = []
    right = Life.objective

    def asked(self: Life, **options: Any) -> Any:
        seeds.append(options["seed"])
        return right(self, **options)

    monkeypatch.setattr(Life, "objective", asked)
    problem = Life(steps=2)
    one, other = (problem.network() for _ in range(2))
    for k, network in enumerate((one, other)):
        torch.manual_seed(k)
        for parameter in network.parameters():
            nn.init.normal_(parameter)
    connect(one, other, problem=problem, samples=16, seed=5, budget=400, points=5)
    assert len(set(seeds)) == 2
    assert 5 in seeds


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": 400, "points": 51}
    whole = connect(some(0, 2), some(4, 6), **options, save=tmp_path / "whole.h5")
    total: list[int] = []

    def stop(done: int, of: int) -> None:
        total.append(of)
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(some(0, 2), some(4, 6), **options, save=tmp_path / "c.h5", progress=stop)
    assert [path.name for path in tmp_path.glob("c.*")] == ["c.h5.resume.safetensors"]
    told: list[int] = []
    found = connect(
        some(0, 2), some(4, 6), **options, save=tmp_path / "c.h5", progress=lambda *now: told.append(now[0])
    )
    assert told[0] == 10
    assert told[-1] <= total[0]
    assert found.loss.tobytes() == whole.loss.tobytes()
    for name in ("gradients", "evaluations", "method"):
        assert found[name].tolist() == whole[name].tolist()
    part = connect(some(0, 2), some(4, 6), **options, progress=stop)
    assert (part.loss.max(1) <= part["loss_straight"].max(1) * (1 + 1e-5)).all()


def test_the_gradient_weighs_each_alpha_by_how_near_its_loss_is_to_the_highest() -> None:
    objective = RING.objective(dtype=torch.float64)
    ends = [Stack({"w": torch.stack([_at(a), _at(a + 1)]).double()}) for a in (0.0, 2.5)]
    lines, bending, emphasis = line(*ends), Bending(bends=2, samples_per_step=5), Emphasis((3.0, 3.0))
    state = bending_module.State.of(bending_module.begin(lines, bending))
    found = bending_module._gradient(objective, lines, bending, state, emphasis)
    leaf = state.rows.clone().requires_grad_()
    seeds = torch.tensor([0])
    uniform = bending_module.philox.uniform(seeds, stream=bending_module._ALPHA_STREAM, step=0, count=5)[0].double()
    alphas = (torch.arange(5) + uniform) / 5
    points = [ends[0]["w"], *leaf.view(2, 2, 2), ends[1]["w"]]
    losses = []
    for t in alphas:
        layer = points
        while len(layer) > 1:
            layer = [(1 - t) * a + t * b for a, b in itertools.pairwise(layer)]
        losses.append((layer[0].square().sum(1) - 1) ** 2)
    loss = torch.stack(losses, 1)
    low, high = loss.detach().min(1, keepdim=True).values, loss.detach().max(1, keepdim=True).values
    weights = torch.exp(3 * (loss.detach() - high) / (high - low))
    ((weights / weights.sum(1, keepdim=True)) * loss).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad, rtol=1e-9, atol=1e-12)


def test_curves_and_polylines_side_by_side_are_those_that_each_is_alone() -> None:
    torch.manual_seed(0)
    stacks = [Stack({"w": torch.randn(4, 3, dtype=torch.float64)}) for _ in range(5)]
    bends, curved = torch.tensor([0, 1, 3, 2]), torch.tensor([False, True, False, True])
    family = bent(stacks, bends, curved)
    alphas = torch.linspace(0, 1, 13, dtype=torch.float64)
    for number, (count, bow) in enumerate(zip(bends.tolist(), curved.tolist(), strict=True)):
        own = [stack.select([number]) for stack in (stacks[0], *stacks[1 : count + 1], stacks[-1])]
        alone = (bezier if bow else polyline)(own)
        zero = torch.zeros(13, dtype=torch.int64)
        torch.testing.assert_close(family.at(zero + number, alphas)["w"], alone.at(zero, alphas)["w"])
        length = alone.lengths()[1]
        torch.testing.assert_close(family.lengths()[1][number : number + 1], length, rtol=1e-3, atol=0)
    for alpha, k in ((0.0, 0), (1.0, -1)):
        at = family.at(torch.arange(4), torch.full((4,), alpha, dtype=torch.float64))
        assert torch.equal(at["w"], stacks[k]["w"])


# Chains of paths


def lines_between(heights: dict[tuple[int, int], float], loss: np.ndarray) -> Result:
    """A walk of three points whose middle is so high."""
    pairs = np.array(list(heights))
    middle = np.array(list(heights.values()))
    values = np.stack([loss[pairs[:, 0]], middle, loss[pairs[:, 1]]], axis=1)
    columns = {"from_member": pairs[:, 0], "to_member": pairs[:, 1], "done": np.ones(len(pairs), dtype=bool)}
    columns |= {"l1": middle, "l2": middle}
    sources = [Source("run", 1, k, f"{k}", f"#{k}") for k in range(len(loss))]
    axes = {"line": np.arange(len(pairs)), "alpha": np.array([0, 0.5, 1])}
    return Result("line", axes, {"loss": values}, columns, {"title": "Hills", "loss_unit": "nats"}, sources)


@pytest.mark.parametrize("seed", range(4))
def test_the_lowest_chain_is_that_of_all_chains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 9
    loss = rng.random(count)
    kept = [pair for pair in itertools.combinations(range(count), 2) if rng.random() < 0.3 + 0.1 * seed]
    heights = {pair: float(max(loss[list(pair)]) + rng.exponential()) for pair in kept}
    found = passes(lines_between(heights, loss))
    best = np.full((count, count), np.inf)
    for (i, j), height in heights.items():
        best[i, j] = best[j, i] = height
    for k in range(count):  # Floyd and Warshall, with max in the place of sums
        best = np.minimum(best, np.maximum(best[:, [k]], best[[k]]))
    order = [int(name[1:]) for name in found.members]
    for (i, j), through, known in zip(found.pairs.tolist(), found.through, found.known, strict=True):
        assert through == best[order[i], order[j]]
        assert through <= known
    assert len(found.missing) == len(order) * (len(order) - 1) // 2 - len(kept)
    height = float(np.median(list(heights.values())))
    joined = (best[np.ix_(order, order)] <= height) | np.eye(len(order), dtype=bool)
    below = loss[order] <= height
    assert found.groups(height) == len({tuple(row) for row, here in zip(joined.tolist(), below, strict=True) if here})


def test_of_several_files_the_lowest_path_of_a_pair_counts_and_costs_add_up() -> None:
    straight = walk(some(0, 2), some(4, 6), points=51)
    curves = connect(some(0, 2), some(4, 6), budget=400, points=51)
    found = passes(straight, curves)
    assert len(found) == 2
    np.testing.assert_allclose(found.straight, straight.loss.max(1), rtol=1e-6)
    np.testing.assert_allclose(found.known, np.minimum(curves.loss.max(1), straight.loss.max(1)))
    assert found.gradients.tolist() == curves["gradients"].tolist()
    assert len(found.missing) == 4
    assert (found.barrier(found.known) >= 0).all()


def test_what_makes_no_passes_is_refused() -> None:
    one = lines_between({(0, 1): 3.0}, np.array([1.0, 2.0]))
    other = lines_between({(0, 1): 3.0}, np.array([1.5, 2.0]))
    with pytest.raises(Mismatch, match=r"#0 has the loss 1 on one line and 1\.5 on another"):
        passes(one, other)
    with pytest.raises(Unsupported, match="leave out random directions"):
        passes(walk(some(0), rays=[0], points=3))
    with pytest.raises(Mismatch, match="at least one result"):
        passes()


def test_the_graph_has_a_leg_for_each_member_and_says_what_is_missing(tmp_path: Path) -> None:
    loss = np.array([0.1, 0.2, 0.3, 0.4])
    found = passes(lines_between({(0, 1): 1.0, (0, 2): 2.0}, loss[:3]))
    figure = figures.passes_figure(found)
    known, straight = figure.axes
    assert known.get_title(loc="left") == "from known paths"
    assert straight.get_title(loc="left") == "from straight lines"
    assert known.get_ylabel() == "loss (nats)"
    (tree, apart) = known.collections[:2]
    assert len(tree.get_segments()) == 3 * 2
    assert not apart.get_segments()
    assert "2 pairs with a known path, 1 without" in figure.get_supxlabel().replace("\n", " ")
    assert [text.get_text() for text in known.get_xticklabels()] == ["#0", "#1", "#2"]
    apart_too = passes(lines_between({(0, 1): 1.0, (2, 3): 2.0}, loss))
    figure = figures.passes_figure(apart_too)
    assert len(figure.axes[0].collections[1].get_segments()) == 2
    assert "Dotted: not connected by any path that is known" in figure.get_supxlabel().replace("\n", " ")


def test_from_pairs_to_a_table_and_a_graph(landscape: Callable[..., Outcome]) -> None:
    ends = ("--from", f"{RUN}/#2", "--to", f"{RUN}/#6", "--budget", "400", "--points", "51")
    assert landscape("connect", *ends, "-o", "c.h5").exit_code == 0
    shown = landscape("analyse", "passes", "c.h5")
    assert shown.exit_code == 0, shown.output
    assert "2 members, 1 pair with a known path" in shown.stdout
    assert "through others" in shown.stdout
    assert landscape("plot", "passes", "c.h5").stdout == "plots/c-passes.png\nplots/c-passes.svg\n"
    for verb in (("plot", "walk"), ("info",), ("analyse", "barriers")):
        assert landscape(*verb, "c.h5").exit_code == 0
    assert landscape("walk", "--from", f"{RUN}/#2", "--rays", "0:2", "--points", "3", "-o", "r.h5").exit_code == 0
    refused = landscape("analyse", "passes", "r.h5")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "passes lead from member to member" in refused.stderr


# Many pairs


def test_large_values_stay_on_the_disk_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = some(*range(6))
    small = walk(members, members, pairs="all", points=11)
    assert len(small) == 15
    monkeypatch.setattr(results_module, "LARGE", 1)
    monkeypatch.setattr("landscape.evaluation.evaluate.LARGE", 1)
    monkeypatch.setattr("landscape.evaluation.evaluate._BLOCK_BYTES", 2 * 11 * 25 * 4)

    def stop(done: int, total: int) -> None:
        if done == 5 * 11:
            raise KeyboardInterrupt

    monkeypatch.setattr("landscape.evaluation.evaluate._BLOCK_CHUNKS", 0)
    with pytest.raises(KeyboardInterrupt):
        walk(members, members, pairs="all", points=11, save=tmp_path / "w.h5", progress=stop)
    told: list[int] = []
    found = walk(
        *(members, members),
        pairs="all",
        points=11,
        save=tmp_path / "w.h5",
        progress=lambda *now: told.append(now[0]),
    )
    assert told[0] > 5 * 11
    assert isinstance(found.loss, np.memmap)
    read = Result.read(tmp_path / "w.h5")
    for name in ("loss", "accuracy", "l2", "from_member", "to_member"):
        np.testing.assert_array_equal(read[name], small[name])
        np.testing.assert_array_equal(found[name], small[name])
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]
    heights = landscape.barriers(small)
    monkeypatch.setattr(barriers_module, "_BLOCK_POINTS", 22)
    for name, values in landscape.barriers(read).quantities.items():
        np.testing.assert_array_equal(values, heights.quantities[name])
    content = bytearray((tmp_path / "w.h5").read_bytes())
    content[content.index(np.ascontiguousarray(small.loss[-1]).tobytes())] ^= 1
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(LandscapeError, match="do not match their SHA-256"):
        Result.read(tmp_path / "w.h5")


def test_too_many_values_are_refused_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = some(*range(6))
    monkeypatch.setattr("landscape.evaluation.evaluate.LARGE", 1)
    monkeypatch.setattr("landscape.core.resources._SMALL", 0)
    monkeypatch.setattr("landscape.evaluation.routes._LINE_BYTES", 0)
    monkeypatch.setattr("landscape.core.resources.free_memory", lambda: 1000)
    with pytest.raises(TooMuch, match=r"165 points with 4 metrics take 0\.011 MB of memory, of which 0\.001 MB are"):
        walk(members, members, pairs="all", points=11)
    full = dataclasses.make_dataclass("Usage", ["total", "free"])(10**12, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    with pytest.raises(TooMuch, match=r"the values take 0\.011 MB, and the disk of .* has 0\.001 MB free"):
        walk(members, members, pairs="all", points=11, save=tmp_path / "w.h5")
    assert len(walk(members, members, pairs="all", points=11, save=tmp_path / "w.h5", yes=True)) == 15
    (tmp_path / "w.h5").unlink()
    monkeypatch.setattr("landscape.evaluation.routes._LINE_BYTES", 2**40)
    monkeypatch.setattr("landscape.core.resources.free_memory", lambda: 2**34)
    with pytest.raises(TooMuch, match=r"15 lines take 16,493 GB of memory, of which 17 GB are free: choose fewer"):
        walk(members, members, pairs="all", points=11)
    assert not list(tmp_path.iterdir())


def test_peaks_and_crossings_are_those_of_one_line_after_another() -> None:
    rng = np.random.default_rng(0)
    loss = np.cumsum(rng.normal(size=(400, 31)), axis=1) * rng.choice([0.0, 1.0, 1e-3], size=(400, 1))
    loss[::5] = np.round(loss[::5], 0)
    loss[7, 3] = np.inf
    found = barriers_module._count_peaks(loss)
    for row, count in zip(loss, found, strict=True):
        if not np.isfinite(row).all():
            assert np.isnan(count)
            continue
        spread = np.ptp(row)
        sloped = row + np.linspace(0, 1e-3 * barriers_module.PROMINENCE, len(row)) * spread
        wanted = len(find_peaks(sloped, prominence=barriers_module.PROMINENCE * spread)[0]) if spread else 0
        assert count == wanted
    alpha, heights = np.linspace(0, 1, 31), np.maximum(loss - loss[:, :1], 0)[:7]
    crossings = barriers_module._first_crossing(alpha, heights, heights.max(1) / 2)
    for row, found_at in zip(heights, crossings, strict=True):
        if row.max() <= 0:
            assert np.isnan(found_at)
            continue
        after = next(k for k in range(31) if row[k] >= row.max() / 2)
        share = (row.max() / 2 - row[after - 1]) / (row[after] - row[after - 1])
        assert found_at == pytest.approx(alpha[after - 1] + share / 30)


def test_results_of_several_problems_are_refused() -> None:
    x = torch.linspace(-1, 1, 16)[:, None]
    ends = [{"weight": torch.tensor([[w]])} for w in (0.0, 1.0)]
    lines = [
        landscape.walk(
            *ends, problem=landscape.Problem.from_model(torch.nn.Linear(1, 1, bias=False), data, loss), points=3
        )
        for data, loss in (((x, x), "mse"), ((x, (x > 0).float()), "bce"))
    ]
    with pytest.raises(landscape.LandscapeError, match="the results are of several problems"):
        landscape.passes(*lines)


def test_a_path_to_a_representative_is_called_aligned_and_is_no_straight_line() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    first, last, order = net[0], net[2], [2, 3, 1, 0]
    copy = {
        "0.weight": 2 * first.weight[order] + 1e-3,  # nearly a copy: two ends of one loss are an error
        "0.bias": 2 * first.bias[order],
        "2.weight": last.weight[:, order] / 2,
        "2.bias": last.bias,
    }
    x = torch.randn(32, 2)
    problem = landscape.Problem.from_model(net, (x, net(x).detach()), "mse")
    walked = landscape.walk(net, {name: tensor.detach() for name, tensor in copy.items()}, problem=problem, align=True)
    naive, aligned = walked.loss.max(1)
    assert aligned < 1e-3 * naive
    caption = " ".join(" ".join(text.get_text() for text in figures.walk_figure([walked]).findobj(Text)).split())
    height = naive - walked.loss[0, [0, -1]].max()
    assert f"barrier above the higher end: stored {height:.3g} and aligned " in caption
    found = landscape.passes(walked)
    assert (found.straight[0], found.known[0]) == (naive, aligned)
    assert found.method == ("straight, aligned",)


def test_no_text_has_an_empty_unit_where_the_loss_has_none(landscape: Callable[..., Outcome]) -> None:
    """The loss of a `batch_loss` has no unit that anybody knows."""
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))

    def loss(module: nn.Module, batch: Tensor) -> Tensor:
        return module(batch).square().mean()

    problem = Problem.from_model(nn.Linear(2, 1), torch.utils.data.DataLoader(x, 8), batch_loss=loss)
    torch.manual_seed(0)
    ends = [nn.Linear(2, 1) for _ in range(3)]
    walk(ends, ends, problem=problem, pairs="all", points=9, save="lines.h5")
    for verb in ("analyse barriers", "analyse passes", "analyse curvature", "plot walk", "plot passes"):
        found = landscape(*verb.split(), "lines.h5")
        assert found.exit_code == 0, found.output
    text = "".join(landscape("analyse", name, "lines.h5").stdout for name in ("barriers", "passes", "curvature"))
    text += "".join(path.read_text() for path in Path("plots").glob("*.svg"))
    assert "; loss, heights above the higher end" in text
    assert "9 points each; loss per L2^2" in text
    assert not any(odd in text for odd in (" in ,", " in ;", " in \n", "()", "None"))
    captions = [convergence(ends, problem=problem), curvature(ends, problem=problem, top=1)]
    assert all(re.search(r", loss(;| on 16 samples)", each.caption()) for each in captions)


def slow_sizes(count: int, merges: Sequence[Merge]) -> list[int]:
    """Members of each branch, counted one by one."""
    inside: list[set[int]] = [{member} for member in range(count)]
    for merge in merges:
        inside.append(inside[merge.first] | inside[merge.second])
    return list(map(len, inside))


def many(groups: Sequence[int] = (60, 30, 10)) -> Passes:
    """Groups of members with low paths within and high ones between."""
    group = np.repeat(np.arange(len(groups)), groups)
    heights = {
        (i, j): (1.0 if group[i] == group[j] else 5.0) + 1e-3 * (i + j)
        for i, j in itertools.combinations(range(len(group)), 2)
        if j == i + 1 or group[i] != group[j]
    }
    return passes(lines_between(heights, np.linspace(0.01, 0.02, len(group))))


def test_branches_are_as_wide_as_they_have_members_and_large_ones_have_their_number() -> None:
    found = many()
    count = len(found.members)
    sizes = branch_sizes(count, found.merges)
    assert sizes.tolist() == slow_sizes(count, found.merges)
    figure = figures.passes_figure(found)
    ax = figure.axes[0]
    tree = ax.collections[0]
    for merge, widths in zip(found.merges, np.reshape(tree.get_linewidths(), (-1, 3)), strict=True):
        np.testing.assert_allclose(widths[:2], branch_width(sizes[[merge.first, merge.second]], count))
    told = {each.get_text() for each in ax.texts if each.get_gid() == "members"}
    assert {"60", "30", "10"} <= told
    assert "large ones have their number" in figure.get_supxlabel().replace("\n", " ")
    widths = branch_width(np.arange(1, 1001), 1000)
    assert (np.diff(widths) > 0).all()
    assert widths[0] < 0.3 < 5 < widths[-1] < 6


def test_numbers_of_large_branches_do_not_lie_on_one_another() -> None:
    ax = figures.passes_figure(many((30, *[20] * 8))).axes[0]
    ax.figure.draw_without_rendering()
    boxes = [each.get_window_extent() for each in ax.texts if each.get_gid() == "members"]
    assert len(boxes) > 3
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_zeros_of_a_graph_are_explained_where_there_are_any() -> None:
    loss = np.array([0.0, 0.2, 0.3])
    told = figures.passes_figure(passes(lines_between({(0, 1): 1.0, (0, 2): 2.0}, loss))).get_supxlabel()
    assert "Zeros lie on the dotted line at the lower edge" in told.replace("\n", " ")
    assert "Zeros" not in figures.passes_figure(many()).get_supxlabel()
