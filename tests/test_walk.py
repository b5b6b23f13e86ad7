"""Walks: every point against the plain module, closed forms, refusals, and interruptions that leave no trace."""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from symmetries import orders_alone
from torch import nn

from landscape import walk
from landscape.analysis.barriers import barriers
from landscape.analysis.line_curvature import line_curvature
from landscape.core.errors import LandscapeError, Mismatch, Unverified
from landscape.core.files import write_json
from landscape.core.provenance import Source
from landscape.engine.memory import Chunk
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked
from landscape.evaluation import evaluate as evaluating
from landscape.evaluation.routes import Align, Lines, Route, along, connect, rays
from landscape.figures import walk_figure
from landscape.problems.life import Life
from landscape.problems.model import from_model
from landscape.problems.places import Place
from landscape.space.alignment import match
from landscape.space.directions import random_directions
from landscape.space.family import Family, bezier, grid, line, polyline, ray
from landscape.store.checkpoints import Checkpoint, Run, load
from landscape.store.results import Result


def checkpoint(stack: Stack, name: str = "x") -> Checkpoint:
    sources = tuple(Source(name, None, i, "", f"{name} {i}") for i in range(len(stack)))
    return Checkpoint(stack, sources, None)


@pytest.fixture
def presolve(life: Life) -> Checkpoint:
    return checkpoint(life.landmark("presolve").to(torch.float32), "presolve")


@pytest.fixture
def lines(run: Run, presolve: Checkpoint) -> Lines:
    return connect(presolve, run.checkpoint())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lines of 11 points a block, of the default problem in float32: 24 lines are 8 blocks."""
    monkeypatch.setattr(evaluating, "_BLOCK_BYTES", 33 * 25 * 4)


def same_numbers(one: Result, other: Result) -> bool:
    a, b = ({**each.axes, **each.values, **each.columns} for each in (one, other))
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_every_point_is_what_the_plain_module_says(life: Life, lines: Lines, small_blocks: None) -> None:
    alphas = grid(11, -0.2, 1.2)
    curves = along(life.objective(dtype=torch.float64), lines, alphas)
    objective = life.objective(dtype=torch.float64)
    assert len(curves) == 24
    assert curves.done.all()
    for number in (0, 7, 23):
        start, end = (
            {name: tensor.double() for name, tensor in side.state_dict(number).items()}
            for side in (lines.family.stack(0), lines.family.stack(1))
        )
        for point, alpha in enumerate(alphas):
            here = {name: (1 - alpha) * start[name] + alpha * end[name] for name in start}
            wanted = objective.plain(here)
            for name in ("loss", "accuracy", "right", "solved"):
                np.testing.assert_allclose(curves.values[name][number, point], wanted[name], rtol=1e-10, atol=1e-14)
        difference = torch.cat([(end[name] - start[name]).flatten() for name in start])
        np.testing.assert_allclose(curves["l1"][number], float(difference.abs().sum()), rtol=1e-12)
        np.testing.assert_allclose(curves["l2"][number], float(difference.norm()), rtol=1e-12)


def test_the_ends_are_the_checkpoints_bit_for_bit(life: Life, run: Run, presolve: Checkpoint) -> None:
    objective = life.objective()
    curves = along(objective, connect(presolve, run.checkpoint()), grid(5, -1, 2))
    trained, solution = objective(run.checkpoint().stack), objective(presolve.stack)
    for name, values in curves.values.items():
        np.testing.assert_array_equal(values[:, curves.alpha == 1][:, 0], trained[name])
        np.testing.assert_array_equal(values[:, curves.alpha == 0][:, 0], np.repeat(solution[name].numpy(), 24))


def test_a_line_does_not_depend_on_the_others(life: Life, run: Run, presolve: Checkpoint, small_blocks: None) -> None:
    whole = along(life.objective(), connect(presolve, run.checkpoint()), grid(11))
    few = Checkpoint(run.checkpoint().stack.select([9, 4]), run.checkpoint().sources[:2], None)
    part = along(life.objective(), connect(presolve, few), grid(11))
    assert part.loss.tobytes() == whole.loss[[9, 4]].tobytes()


def test_a_quadratic_landscape(squares: Callable[..., Objective]) -> None:
    """A linear model under squared error: the loss along a line is a parabola known by three of its points."""
    module = nn.Sequential(nn.Linear(3, 2))
    numbers = torch.linspace(-2, 2, 50 * 5, dtype=torch.float64).sin().view(50, 5)
    objective = squares(module, numbers[:, :3].contiguous(), numbers[:, 3:].contiguous())
    ends = torch.linspace(-1, 3, 4 * 8, dtype=torch.float64).cos().view(4, 8)
    start, end = (objective.network.template.unflatten(part) for part in (ends[:2], ends[2:]))
    alphas = grid(9, -1, 2)
    curves = along(objective, connect(checkpoint(start), checkpoint(end)), alphas)
    inputs = torch.cat([numbers[:, :3], torch.ones(50, 1, dtype=torch.float64)], 1)
    for number in range(2):

        def residual(flat: torch.Tensor) -> torch.Tensor:
            return inputs @ torch.cat([flat[:6].view(2, 3), flat[6:, None]], 1).T - numbers[:, 3:]

        r, d = residual(ends[number]), residual(ends[number + 2]) - residual(ends[number])
        a, b, c = (float((x * y).sum(1).mean()) for x, y in ((d, d), (r, d), (r, r)))
        np.testing.assert_allclose(curves.loss[number], a * alphas**2 + 2 * b * alphas + c, rtol=1e-10)


def test_the_callers_stacks_stay_as_they_are(life: Life, lines: Lines) -> None:
    before = [side.flatten().clone() for side in (lines.family.stack(0), lines.family.stack(1))]
    along(life.objective(dtype=torch.float64), lines, grid(3))
    for side, kept in zip((lines.family.stack(0), lines.family.stack(1)), before, strict=True):
        assert torch.equal(side.flatten(), kept)
        assert side.dtype == torch.float32


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_wrong_engine_is_caught_at_the_ends(
    life: Life, lines: Lines, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    right = Stacked.trace
    objective = life.objective()
    objective(lines.family.stack(0))  # compared with the plain module by now

    def wrong(self: Stacked, *arguments: Any, **options: Any) -> Any:
        for name, outputs in right(self, *arguments, **options):
            yield name, outputs + error * (name == "net.0.4")

    monkeypatch.setattr(Stacked, "trace", wrong)
    with pytest.raises(Unverified, match=r"line 0 does not reproduce its own end: .* stacked engine is wrong"):
        along(objective, lines, grid(3))


def test_an_objective_that_changes_is_caught(life: Life, lines: Lines) -> None:
    objective = life.objective()
    calls: list[None] = []

    def restless(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return objective.metrics["loss"].per_sample(outputs, targets) + len(calls) / 1e6

    metrics = {**objective.metrics, "loss": dataclasses.replace(objective.metrics["loss"], per_sample=restless)}
    with pytest.raises(Unverified, match="not deterministic"):
        along(dataclasses.replace(objective, metrics=metrics), lines, grid(3))


# ----------------------------------------------------------------------------------------------------------------------


def interrupted(path: Path, after: int, *arguments: Any, **options: Any) -> None:
    def on_progress(done: int, total: int) -> None:
        if done >= after * 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        along(*arguments, save=path, on_progress=on_progress, **options)
    assert not path.exists()


@pytest.mark.parametrize("keep_seconds", [0.0, 1e9])
def test_an_interrupted_walk_goes_on_where_it_was(
    life: Life, lines: Lines, tmp_path: Path, small_blocks: None, keep_seconds: float
) -> None:
    alphas, about = grid(11), {"problem": {"name": "life"}, "pair": (1, 2)}
    whole = along(life.objective(), lines, alphas)
    path = tmp_path / "walk.h5"
    for after in (3, 10, 12):
        interrupted(path, after, life.objective(), lines, alphas, about=about, keep_seconds=keep_seconds)
    told: list[tuple[int, int]] = []
    got = along(life.objective(), lines, alphas, about=about, save=path, on_progress=lambda *now: told.append(now))
    # Kept after 3 lines, then up to 12, then up to 15 in blocks of three.
    assert told == [(18 * 11, 24 * 11), (21 * 11, 24 * 11), (24 * 11, 24 * 11)]
    assert same_numbers(got, whole)
    assert same_numbers(Result.read(path, plane=False), whole)
    assert [item.name for item in tmp_path.iterdir()] == ["walk.h5"]


def test_kept_lines_of_another_walk_are_refused(
    life: Life, run: Run, lines: Lines, presolve: Checkpoint, tmp_path: Path, small_blocks: None
) -> None:
    path = tmp_path / "walk.h5"
    asked: dict[str, Any] = {"objective": life.objective(), "lines": lines, "alphas": grid(11)}
    interrupted(path, 6, *asked.values(), about={"problem": {"name": "life"}})
    for changes, message in (
        ({"alphas": grid(12)}, r"keeps lines of other work: grid is .* there and .* here"),
        ({"lines": connect(presolve, run.checkpoint(20))}, r"points\.vertex 1 is .* there"),
        (
            {"objective": life.objective(dtype=torch.float64)},
            r"computation\.dtype is \"float32\" there and \"float64\"",
        ),
        ({"about": {"problem": {"name": "death"}}}, r"objective\.problem\.name is \"life\" there and \"death\" here"),
    ):
        with pytest.raises(Mismatch, match=message):
            along(save=path, **{**asked, "about": {"problem": {"name": "life"}}, **changes})
    got = along(save=path, **{**asked, "alphas": grid(12)}, overwrite=True)
    assert same_numbers(got, along(life.objective(), lines, grid(12)))


def test_a_damaged_plan_or_shard_is_no_absent_one(life: Life, lines: Lines, tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "walk.h5"
    interrupted(path, 6, life.objective(), lines, grid(11), keep_seconds=0.0)
    parts = tmp_path / "walk.h5.parts"
    shard = parts / "lines-00000000.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    with pytest.raises(LandscapeError, match=r"lines-00000000\.h5 is damaged"):
        along(life.objective(), lines, grid(11), save=path)
    shard.write_bytes(content)
    plan = json.loads((parts / "plan.json").read_text())
    (parts / "plan.json").write_text("{")
    with pytest.raises(LandscapeError, match=r"plan\.json is damaged"):
        along(life.objective(), lines, grid(11), save=path)
    write_json(parts / "plan.json", plan)
    along(life.objective(), lines, grid(11), save=path)


def test_files_of_finished_lines_go_without_the_sources_of_all(
    life: Life, lines: Lines, tmp_path: Path, small_blocks: None
) -> None:
    path = tmp_path / "walk.h5"
    interrupted(path, 6, life.objective(), lines, grid(11), keep_seconds=0.0)
    shards = [Result.read(each) for each in sorted((tmp_path / "walk.h5.parts").glob("lines-*.h5"))]
    assert len(shards) > 1
    assert [shard.sources for shard in shards] == [[]] * len(shards)
    got = along(life.objective(), lines, grid(11), save=path)
    assert list(got.sources) == list(lines.sources)
    np.testing.assert_array_equal(got["to_member"], lines.columns["to_member"])
    assert Result.read(path).sources == list(lines.sources)


def test_an_existing_output_is_left_alone(life: Life, lines: Lines, tmp_path: Path) -> None:
    path = tmp_path / "walk.h5"
    path.write_text("precious")
    with pytest.raises(LandscapeError, match=r"walk\.h5 exists: choose another"):
        along(life.objective(), lines, grid(3), save=path)
    assert path.read_text() == "precious"
    along(life.objective(), lines, grid(3), save=path, overwrite=True)
    assert len(Result.read(path, plane=False)) == 24


def test_what_the_curves_say_of_themselves(life: Life, lines: Lines) -> None:
    objective = life.objective()
    curves = along(objective, lines, grid(3), about={"problem": "life"})
    assert curves.about["problem"] == "life"
    assert curves.about["chunk"] == dataclasses.asdict(objective.chunk)
    assert (curves.about["device"], curves.about["dtype"]) == ("cpu", "float32")
    assert curves.about["backend"] == "stacked"
    assert curves.about["threads"] == torch.get_num_threads()
    assert curves.about["end_check"] == {"lines": 24, "relative_tolerance": 1e-4}
    assert {"created", "command", "versions"} <= curves.about.keys()
    assert [curves.sources[i].label for i in curves["from_member"]] == ["presolve 0"] * 24
    assert [curves.sources[i].seed for i in curves["to_member"]] == list(range(24))


# ----------------------------------------------------------------------------------------------------------------------


def ends(lines: Lines) -> list[tuple[str, str]]:
    return [
        (lines.sources[i].label, lines.sources[j].label)
        for i, j in zip(lines.columns["from_member"], lines.columns["to_member"], strict=True)
    ]


def test_pairings(run: Run) -> None:
    stack = run.checkpoint().stack
    one, two, three = (checkpoint(stack.select(list(range(n))), name) for n, name in ((1, "a"), (2, "b"), (3, "c")))
    assert ends(connect(three, three)) == [("c 0", "c 0"), ("c 1", "c 1"), ("c 2", "c 2")]
    assert ends(connect(one, three)) == [("a 0", "c 0"), ("a 0", "c 1"), ("a 0", "c 2")]
    assert ends(connect(three, one)) == [("c 0", "a 0"), ("c 1", "a 0"), ("c 2", "a 0")]
    every = connect(two, three, pairs="all")
    assert ends(every) == [(f"b {i}", f"c {j}") for j in range(3) for i in range(2)]
    assert torch.equal(every.family.stack(0).flatten(), stack.flatten()[[0, 1] * 3])
    assert torch.equal(every.family.stack(1).flatten(), stack.flatten()[[0, 0, 1, 1, 2, 2]])
    with pytest.raises(Mismatch, match=r"2 members and 3 members do not pair: choose single ones with RUN/#seed, or"):
        connect(two, three)


def nearest_order(life: Life) -> Align:
    """Each member's representative by its own walk through all."""
    symmetry = orders_alone(life.symmetry())
    return lambda members, reference, rows: match(members, reference, symmetry, rows=rows).stack


def test_orders(life: Life, run: Run, presolve: Checkpoint) -> None:
    trained, symmetry = run.checkpoint(), life.symmetry()
    stored = connect(presolve, trained, symmetry=symmetry)
    every = connect(presolve, trained, order="all", symmetry=symmetry)
    assert ends(every)[:24] == ends(stored)
    assert ends(every)[24:] == ends(stored)
    assert [every.sources[i].order for i in every.columns["from_member"]] == [""] * 24 + ["order 1"] * 24
    assert torch.equal(every.family.stack(0).flatten()[:24], stored.family.stack(0).flatten())
    swapped = presolve.stack["net.0.0.weight"][:, [1, 0]]
    assert torch.equal(every.family.stack(0)["net.0.0.weight"][24:], swapped.expand(24, 2, 1, 3, 3))
    assert torch.equal(every.family.stack(1).flatten(), trained.stack.flatten().repeat(2, 1))

    aligned = connect(presolve, trained, align=nearest_order(life))
    assert ends(aligned) == 2 * ends(stored)
    assert aligned.columns["aligned"].tolist() == [False] * 24 + [True] * 24
    assert [aligned.sources[i].order for i in aligned.columns["to_member"]] == [""] * 24 + ["aligned"] * 24
    assert torch.equal(aligned.family.stack(0).flatten(), presolve.stack.flatten().expand(48, -1))
    lengths = every.family.lengths()[1].view(2, 24)
    torch.testing.assert_close(
        aligned.family.lengths()[1], torch.cat([lengths[0], lengths.min(0).values]), rtol=1e-12, atol=0
    )
    assert (lengths[0] != lengths[1]).any()


@pytest.mark.slow
def test_lines_on_which_one_layer_moves(landscape: Callable[..., Outcome], life: Life, run: Run) -> None:
    def walked(*more: str) -> Result:
        called = landscape("walk", "--from", "presolve", "--to", f"{run.path}/#7", "--points", "5", *more)
        assert called.exit_code == 0, called.output
        return Result.read(Path(called.stdout.strip()))

    whole, per, held = walked(), walked("--per", "layer"), walked("--per", "layer", "--hold", "end")
    only = walked("--only", "net.0.2.*", "--only", "net.0.0.bias")
    assert sorted(path.name for path in Path("analyses").iterdir()) == [
        "presolve--small-7-only-net.0.2-net.0.0.bias.h5",
        "presolve--small-7-per-layer-hold-end.h5",
        "presolve--small-7-per-layer.h5",
        "presolve--small-7.h5",
    ]
    assert "moves" not in whole.columns
    assert "moves" in per.columns
    assert "moves" in held.columns
    assert per.moves.tolist() == held.moves.tolist() == ["", "net.0.0", "net.0.2", "net.0.4"]
    assert (per.about["per"], per.about["hold"], held.about["hold"]) == ("layer", "start", "end")
    assert only.about["only"] == ["net.0.2.*", "net.0.0.bias"]
    assert "moves" in only.columns
    assert only.moves.tolist() == ["net.0.2.*, net.0.0.bias"]
    assert per.loss[0].tobytes() == held.loss[0].tobytes() == whole.loss[0].tobytes()
    assert (per.loss[:, 0] == whole.loss[0, 0]).all()
    assert (held.loss[:, -1] == whole.loss[0, -1]).all()
    np.testing.assert_allclose((per["l2"][1:] ** 2).sum(), whole["l2"][0] ** 2, rtol=1e-12)
    start, end = life.landmark("presolve").state_dict(0), run.checkpoint().stack.state_dict(7)
    moved = {name: end[name] if name.startswith("net.0.2") else start[name].float() for name in end}
    np.testing.assert_allclose(per.loss[2, -1], life.objective().plain(moved)["loss"], rtol=1e-5)
    result = landscape("analyse", "barriers", "analyses/presolve--small-7-per-layer.h5")
    assert result.exit_code == 0, result.output
    assert "\nnet.0.2 " in result.stdout
    document = landscape("analyse", "barriers", "analyses/presolve--small-7-per-layer.h5", "--json").stdout
    assert [line["moves"] for line in json.loads(document)["lines"]] == per.moves.tolist()
    result = landscape("plot", "walk", "analyses/presolve--small-7-per-layer.h5", "--small-multiples")
    assert result.stdout.split()[0] == "plots/presolve--small-7-per-layer-parts.png"
    result = landscape("plot", "walk", "analyses/presolve--small-7.h5", "--small-multiples")
    assert (result.exit_code, "these lines move as a whole" in result.stderr) == (1, True)
    result = landscape("plot", "walk", "a.h5", "b.h5", "--small-multiples")
    assert (result.exit_code, "--small-multiples draws one FILE" in result.stderr) == (2, True)


def test_lines_through_several_places(landscape: Callable[..., Outcome], life: Life, run: Run) -> None:
    result = landscape(
        *("walk", "--from", f"{run.path}/#3", "--via", "presolve", "--via", f"{run.path}/@20", "--to", run.path),
        *("--points", "5"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == "analyses/small-3--presolve--small@20--small.h5\n"
    curves = Result.read(Path(result.stdout.strip()))
    np.testing.assert_array_equal(curves.alpha, [0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1])
    assert curves.about["via"] == ["presolve", f"{run.path}/@20"]
    labels = [[curves.sources[i].label for i in row] for row in curves.via_member]
    assert [row[1] for row in labels] == [f"seed {seed}" for seed in range(24)]
    assert {row[0] for row in labels} == {life.describe_landmark("presolve")}
    objective = life.objective()
    stacks = run.checkpoint().stack.select([3]), life.landmark("presolve"), run.checkpoint(20).stack
    for place, stack in zip((0, 2, 4, 6), (*stacks, run.checkpoint().stack), strict=True):
        np.testing.assert_array_equal(curves.loss[:, place], np.resize(objective(stack)["loss"].numpy(), 24))
    legs = [end.subtract(start).norms()[1] for start, end in itertools.pairwise((*stacks, run.checkpoint().stack))]
    np.testing.assert_allclose(curves["l2"], sum(leg.expand(24) for leg in legs), rtol=1e-6)
    for verb in (("analyse", "barriers"), ("info",)):
        assert landscape(*verb, "analyses/small-3--presolve--small@20--small.h5").exit_code == 0


def test_members_on_the_way_are_aligned_from_the_start_on(life: Life, run: Run, presolve: Checkpoint) -> None:
    trained, symmetry, align = run.checkpoint(), life.symmetry(), nearest_order(life)
    found = connect(presolve, trained, via=[run.checkpoint(20)], align=align)
    first = connect(presolve, run.checkpoint(20), align=align)
    assert torch.equal(found.family.stack(1).flatten(), first.family.stack(1).flatten())
    between = Checkpoint(found.family.stack(1).select(slice(24, None)), run.checkpoint(20).sources, None)
    last = connect(between, trained, align=align)
    assert torch.equal(found.family.stack(2).flatten()[24:], last.family.stack(1).flatten()[24:])
    assert [found.sources[row[0]] for row in found.columns["via_member"]] == [
        first.sources[i] for i in first.columns["to_member"]
    ]
    each = connect(trained, presolve, via=[presolve], pairs="all")
    assert len(each) == 24
    with pytest.raises(Mismatch, match="each with each goes via single members, not 24"):
        connect(presolve, trained, via=[trained], pairs="all")
    with pytest.raises(Mismatch, match="in one order of their units: not in all"):
        connect(presolve, trained, via=[presolve], order="all", symmetry=symmetry)


def test_each_tensor_goes_on_an_arc(landscape: Callable[..., Outcome], life: Life, run: Run) -> None:
    """The slow twin: slerp of two tensors as those write it who merge models, by the cosine of their angle."""

    def slerp(t: float, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a.double(), b.double()
        angle = torch.arccos((a / a.norm() * (b / b.norm())).sum())
        return torch.sin((1 - t) * angle) / torch.sin(angle) * a + torch.sin(t * angle) / torch.sin(angle) * b

    call = ("walk", "--from", f"{run.path}/#3", "--to", f"{run.path}/#7", "--path", "slerp", "--points", "5")
    result = landscape(*call)
    assert result.exit_code == 0, result.output
    assert result.stdout == "analyses/small-3--small-7-slerp.h5\n"
    curves = Result.read(Path(result.stdout.strip()))
    assert (curves.kind, curves.about["path"]) == ("arc", "slerp")
    a, b = (load(f"{run.path}/#{seed}").stack.state_dict(0) for seed in (3, 7))
    single = [name for name in a if a[name].numel() == 1]
    assert single, "a vector of one number has no angle but 0 or pi"
    objective = life.objective(dtype=torch.float64)
    for alpha, loss in zip(curves.alpha.tolist(), curves.loss[0], strict=True):
        here = {name: slerp(alpha, a[name], b[name]) for name in a}
        here |= {name: (1 - alpha) * a[name].double() + alpha * b[name].double() for name in single}
        np.testing.assert_allclose(loss, objective.plain(here)["loss"], rtol=1e-5)
    kept = walk(f"{run.path}/#3", f"{run.path}/#7", path="slerp", points=5)
    np.testing.assert_array_equal(kept["loss"], curves["loss"])
    straight = walk(f"{run.path}/#3", f"{run.path}/#7", points=5)
    assert kept["l2"][0] > straight["l2"][0]
    found = landscape("analyse", "barriers", "analyses/small-3--small-7-slerp.h5")
    assert found.exit_code == 0, found.output
    caption = " ".join(walk_figure([kept]).get_supxlabel().split())
    assert "on arcs, one for each tensor (slerp), in parameter space from" in caption
    with pytest.raises(LandscapeError, match="along a path that bends cannot be read off"):
        line_curvature(kept)
    parts = walk(f"{run.path}/#3", run, path="slerp", points=5, per="layer")
    assert parts["moves"][0] == ""
    np.testing.assert_array_equal(parts["loss"][7], kept["loss"][0])


def test_random_directions(landscape: Callable[..., Outcome], life: Life, run: Run) -> None:
    call = ("walk", "--from", f"{run.path}/#3", "--rays", "0:4,9", "--range", "-1:1", "--points", "5")
    assert landscape(*call, "--normalise", "none").stdout == "analyses/small-3-rays-none.h5\n"
    result = landscape(*call)
    assert result.exit_code == 0, result.output
    curves = Result.read(Path(result.stdout.strip()))
    stack = run.checkpoint().stack.select([3])
    directions = random_directions(stack, [0, 1, 2, 3, 9])
    assert [curves.sources[i].seed for i in curves["to_member"]] == [0, 1, 2, 3, 9]
    assert {curves.sources[i].path for i in curves["to_member"]} == {"direction:filter"}
    assert (curves.about["normalise"], curves.about["to"]) == ("filter", None)
    np.testing.assert_array_equal(curves["l1"], directions.norms()[0])
    np.testing.assert_array_equal(curves["l2"], directions.norms()[1])
    objective = life.objective()
    for alpha, loss in zip(curves.alpha, curves.loss.T, strict=True):
        flat = stack.flatten().double() + alpha * directions.flatten().double()
        np.testing.assert_allclose(loss, objective(stack.unflatten(flat.float()))["loss"], rtol=1e-5)
    np.testing.assert_array_equal(curves.loss[:, 2], np.repeat(objective(stack)["loss"].numpy(), 5))


def test_each_member_has_its_own_directions(run: Run) -> None:
    found = rays(run.checkpoint(), [5, 7])
    assert ends(found)[:3] == [("seed 0", "direction 5"), ("seed 0", "direction 7"), ("seed 1", "direction 5")]
    wanted = random_directions(run.checkpoint().stack.select([1]), [5, 7])
    assert torch.equal(found.family.stack(1).flatten()[2:4], wanted.flatten())


def test_walks_written_before_move_as_a_whole() -> None:
    files = sorted((Path(__file__).parents[1] / "analyses").glob("*/*.h5"))
    assert files
    assert not any("moves" in Result.read(file, plane=False).columns for file in files)


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (("--only", "a", "--per", "layer"), "--only and --per both say what moves", 1),
        (("--hold", "end"), "name what moves with --only or --per", 1),
        (("--via", "presolve", "--per", "layer"), "with --via everything moves: leave --only and --per out", 1),
        (("--via", "presolve", "--filter-order", "all"), "--via goes with the --filter-order stored, not with all", 1),
        (("--rays", "0:3"), "--rays lead from the start to no other place: leave --to out, or --rays", 1),
        (("--normalise", "none"), "--normalise is for random directions: give them with --rays", 1),
        (("--via", "presolve", "--path", "slerp"), "--path slerp leads from one place to another: leave --via", 1),
        (("--rays", "x"), "'x' is no seed", 2),
        (("--via", "nowhere/"), "nowhere does not exist", 1),
        (("--only", "net.9.*"), "'net.9.*' matches no parameter: there are net.0.0.weight, net.0.0.bias", 1),
    ],
)
def test_routes_that_make_no_sense(
    landscape: Callable[..., Outcome], run: Run, options: tuple[str, ...], message: str, status: int
) -> None:
    result = landscape("walk", "--from", "presolve", "--to", run.path, *options)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert not Path("analyses").exists()


def test_rays_that_make_no_sense(landscape: Callable[..., Outcome], run: Run) -> None:
    for options in (("--via", "presolve"), ("--only", "*"), ("--per", "layer"), ("--pairs", "all")):
        result = landscape("walk", "--from", run.path, "--rays", "0", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "--rays go straight from each start: leave --via, --only" in result.stderr
    with pytest.raises(LandscapeError, match="lines need an end: name it with `b`, or random directions with `rays`"):
        Route(a="presolve")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_curves_in_bounded_memory(life: Life, lines: Lines) -> None:
    alphas = grid(51)
    here = along(life.objective(), lines, alphas)
    torch.cuda.reset_peak_memory_stats()
    there = along(life.objective(device="cuda"), lines, alphas)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(there.values[name], here.values[name], rtol=1e-4, atol=1e-6)
    precise = [along(life.objective(device=device, dtype=torch.float64), lines, alphas) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(precise[1].loss, precise[0].loss, rtol=1e-10)
    objective = life.objective(device="cuda")
    objective(objective.network.template.unflatten(torch.linspace(-1, 1, 25_000_000).view(1_000_000, 25)))
    assert torch.cuda.max_memory_allocated() < 4e9


#: Paths of three lines through the first of nine members, or along them.
PATHS: dict[str, Callable[[Stack], Family]] = {
    "line": lambda nine: line(nine.select([0, 1, 2]), nine.select([3, 4, 5])),
    "line from one": lambda nine: line(nine.select([0]), nine, torch.tensor([[0, 0, 0], [3, 4, 5]])),
    "polyline": lambda nine: polyline([nine.select(range(k, k + 3)) for k in (0, 3, 6)]),
    "bezier": lambda nine: bezier([nine.select(range(k, k + 3)) for k in (0, 3, 6)]),
    "ray": lambda nine: ray(nine.select([0, 1, 2]), random_directions(nine.select([7]), [3, 4, 5])),
}


def some(family: Family, number: int) -> Family:
    """One of the lines alone."""
    rows = family.rows[:, [number]].tolist()
    vertices = tuple(vertex.select(row) for vertex, row in zip(family.vertices, rows, strict=True))
    return dataclasses.replace(family, vertices=vertices, rows=torch.zeros(len(rows), 1, dtype=torch.int64))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["mlp", "flattened", "cnn"])
def test_points_between_ends_need_no_first_layer_of_their_own(kind: str, path: str) -> None:
    """What is linear in the parameters is taken between the ends; the point by itself is its slow twin."""
    data = torch.randn(70, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    made: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)),
        "flattened": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 3)),
        "cnn": lambda: nn.Sequential(nn.Conv2d(1, 8, 6, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
    }
    inputs = data.flatten(1) if kind == "mlp" else data
    problem = from_model(made[kind], (inputs, torch.arange(70) % 3), "cross_entropy")
    objective = problem.objective(dtype=torch.float64).with_backend("stacked")
    lines = PATHS[path](problem.initial(range(9)).to(torch.float64))
    which, alphas = torch.arange(3).repeat_interleave(21), torch.linspace(-0.5, 1.5, 21).double().repeat(3)
    points = lines.points(which, alphas)
    assert len(objective._entered(points, objective.memory, objective.network)) == 1
    found, expected = objective(points), objective(lines.at(which, alphas))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-11, atol=1e-13)
    alone = objective(some(lines, 1).points(torch.zeros(21, dtype=torch.int64), alphas[:21]))
    assert torch.equal(alone["loss"], found["loss"][21:42])


@pytest.mark.parametrize("points", [5, 7, 8, 9])
def test_lines_of_few_points_do_not_depend_on_their_companions(points: int) -> None:
    """Whether a first layer is shared must not be decided by how many lines lead from one start."""
    inputs = torch.randn(70, 36, generator=torch.Generator().manual_seed(0))
    problem = from_model(lambda: nn.Linear(36, 8), (inputs, torch.arange(70) % 8), "cross_entropy")
    objective, stack = problem.objective().with_backend("stacked"), problem.initial(range(9))
    together = connect(checkpoint(stack.select([0])), checkpoint(stack))
    alone = connect(checkpoint(stack.select([0])), checkpoint(stack.select([7])))
    whole, part = (along(objective, lines, grid(points)) for lines in (together, alone))
    assert part.loss.tobytes() == whole.loss[[7]].tobytes()


def test_no_first_layer_is_shared_where_a_sum_is_not_finite() -> None:
    problem = from_model(lambda: nn.Linear(40, 8), (torch.ones(9, 40), torch.zeros(9).long()), "cross_entropy")
    start, end = problem.initial([0]), problem.initial([1])
    end["weight"].fill_(torch.inf)
    points = line(start, end).points(torch.zeros(11, dtype=torch.int64), torch.linspace(0, 1, 11).double())
    objective = problem.objective().with_backend("stacked")
    assert points.ends is not None
    assert objective._entered(points, objective.memory, objective.network) == []
    assert objective(points)["loss"][0] == objective(start)["loss"][0]


# Blocks ---------------------------------------------------------------------------------------------------------------


def blocks(objective: Objective, lines: Lines, alphas: np.ndarray) -> list[int]:
    """How many lines were done after each block."""
    told: list[int] = []
    along(objective, lines, alphas, on_progress=lambda done, total: told.append(done // len(alphas)))
    return told


@pytest.mark.slow
def test_blocks_grow_until_they_take_long(life: Life, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = dataclasses.replace(life.objective(), chunk=Chunk(12, 512))
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 1e9)
    assert blocks(objective, lines, grid(11)) == [1, 3, 7, 15, 24]
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 0)
    assert blocks(objective, lines, grid(11)) == list(range(1, 25))
    assert blocks(objective, lines, grid(101)) == list(range(1, 25)), "at least a line"
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 10_000)
    assert blocks(objective, lines, grid(11)) == [24]


def test_blocks_do_not_grow_where_a_first_layer_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is may depend on the size of a block, and numbers must not depend on time."""
    inputs = torch.randn(70, 36, generator=torch.Generator().manual_seed(0))
    problem = from_model(lambda: nn.Linear(36, 8), (inputs, torch.arange(70) % 8), "cross_entropy")
    objective = dataclasses.replace(problem.objective().with_backend("stacked"), chunk=Chunk(12, 80))
    assert objective.network.entrance is not None
    stack = problem.initial(range(9))
    monkeypatch.setattr(evaluating, "_BLOCK_CHUNKS", 1)
    monkeypatch.setattr(evaluating, "_BLOCK_SECONDS", 1e9)
    assert blocks(objective, connect(checkpoint(stack), checkpoint(stack)), grid(11)) == list(range(1, 10))


# The public verb ------------------------------------------------------------------------------------------------------


def module_of(life: Life, run: Run, member: int) -> nn.Module:
    module = life.network()
    module.load_state_dict(run.checkpoint().stack.state_dict(member))
    return module


def test_places_of_every_sort_give_the_same_numbers(
    life: Life, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = (module_of(life, run, member) for member in (3, 7))
    checkpoints = [load(f"{run.path}/#{member}") for member in (3, 7)]
    places: list[tuple[Place, Place]] = [
        (a, b),
        (a.state_dict(), b.state_dict()),
        (f"{run.path}/#3", f"{run.path}/#7"),
        (run.path / "#3", run.path / "#7"),
        (checkpoints[0], checkpoints[1]),
        (a, f"{run.path}/#7"),
    ]
    found = [walk(*pair, problem=life, points=11) for pair in places]
    assert {result["loss"].tobytes() for result in found} == {found[0].loss.tobytes()}
    assert {result["l2"].tobytes() for result in found} == {found[0]["l2"].tobytes()}
    every = walk("presolve", run, points=11)
    assert same_numbers(walk("presolve", str(run.path), points=11), every)
    assert walk("presolve", b, problem=life, points=11).loss.tobytes() == every.loss[[7]].tobytes()
    assert walk(checkpoints[0], via=["presolve"], b=b, points=11)["loss"].shape == (1, 11)
    assert not list(tmp_path.iterdir()), "nothing is written unasked"


def test_a_result_is_written_where_it_is_asked_for(life: Life, run: Run, tmp_path: Path) -> None:
    result = walk("presolve", run, points=5, save=str(tmp_path / "w.h5"))
    assert same_numbers(Result.read(tmp_path / "w.h5"), result)
    assert [path.name for path in tmp_path.iterdir()] == ["w.h5"]


def test_alphas_may_be_given(run: Run) -> None:
    alphas = [0.25, 0.75, 1.5]
    found = walk(f"{run.path}/#0", f"{run.path}/#1", points=alphas)
    assert found.alpha.tolist() == [0, 0.25, 0.75, 1, 1.5]
    again = walk(f"{run.path}/#0", f"{run.path}/#1", points=np.array(alphas))
    assert again.loss.tobytes() == found.loss.tobytes()


def test_each_with_each_holds_each_member_once(run: Run, presolve: Checkpoint) -> None:
    trained = run.checkpoint()
    every = connect(trained, trained, pairs="all")
    assert (len(every), [len(vertex) for vertex in every.family.vertices]) == (24 * 23 // 2, [24, 24])
    assert all(vertex["net.0.0.weight"] is trained.stack["net.0.0.weight"] for vertex in every.family.vertices)
    pairs = np.stack([every.columns["from_member"], every.columns["to_member"]], axis=1)
    assert sorted(map(tuple, pairs.tolist())) == list(itertools.combinations(range(24), 2))
    assert len(every.sources) == 24
    assert len(connect(trained, run.checkpoint(20), pairs="all")) == 24 * 24
    with pytest.raises(Mismatch, match="a place of one member has no pairs with itself"):
        connect(presolve, presolve, pairs="all")
    one = connect(presolve, trained, via=[run.checkpoint(20)])
    assert [len(vertex) for vertex in one.family.vertices] == [1, 24, 24]


def test_an_interrupted_walk_without_a_file_gives_what_is_done(
    life: Life, run: Run, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def stop(done: int, total: int) -> None:
        if done == 9 * 11:
            raise KeyboardInterrupt

    whole = walk("presolve", run, points=11)
    part = walk("presolve", run, points=11, progress=stop)
    assert part.done.tolist() == [True] * 9 + [False] * 15
    assert same_numbers(part.select(part.done), whole.select(slice(0, 9)))
    assert np.isnan(part.loss[9:]).all()
    assert repr(part) == "Result(line: line x alpha 24x11, 9 finished; loss, accuracy, right, solved)"
    assert barriers(part.select(part.done)).above_chord.shape == (9,)
    assert not list(tmp_path.iterdir())

    def at_once(self: Objective, stack: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "check_deterministic", at_once)
    with pytest.raises(KeyboardInterrupt):  # of nothing there is no part
        walk("presolve", run, points=11)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.net(x)
        return outputs


@pytest.mark.parametrize("batchnorm", ["recalibrate", "interpolate", "keep"])
def test_the_network_at_a_point_has_the_loss_of_ones_own_loop(batchnorm: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs, targets = torch.randn(96, 4), torch.randint(3, (96,))
        nets = [Normalised() for _ in range(3)]
        for net in nets:
            net(3 * torch.randn(50, 4) + 1)  # statistics of its own
    problem = from_model(nets[0], (inputs, targets), "cross_entropy")
    result = walk(nets[0], nets[1], problem=problem, via=[nets[2]], points=[0.3], batchnorm=batchnorm)

    def loop(model: nn.Module) -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, 96, 32):
                outputs = model.eval()(inputs[start : start + 32])
                total += float(nn.functional.cross_entropy(outputs, targets[start : start + 32])) * 32
        return total / 96

    for alpha, loss in zip(result.alpha, result.loss[0], strict=True):
        model = result.model_at(alpha)
        assert isinstance(model, Normalised)
        np.testing.assert_allclose(loop(model), loss, rtol=1e-5)
    assert all(parameter.requires_grad for parameter in result.model_at(0.3).parameters())
    before = loop(result.model_at(0))
    with torch.no_grad():
        for model in (nets[0], result.model_at(0)):  # the caller goes on with its own
            next(model.parameters()).add_(1)
    assert loop(result.model_at(0)) == before
    plain = {name: tensor for name, tensor in nets[1].state_dict().items() if "running" not in name}
    if batchnorm == "interpolate":
        assert all(torch.equal(tensor, result.model_at(1).state_dict()[name]) for name, tensor in plain.items())


def test_networks_are_those_of_points_within_what_was_walked(run: Run) -> None:
    result = walk("presolve", run, points=[0.5])
    wide = walk("presolve", run, points=3, span=(-0.5, 1.5))
    start, end = run.checkpoint().stack.select([5]), wide.model_at(0, line=5).state_dict()
    found = wide.model_at(1.25, line=5).state_dict()
    for name, tensor in start.state_dict(0).items():
        torch.testing.assert_close(found[name], -0.25 * end[name] + 1.25 * tensor)
    with pytest.raises(LandscapeError, match=r"alpha 1\.25 is not in what was evaluated, 0 to 1: .* with `span`"):
        result.model_at(1.25)
    for wrong in (-0.6, 1.6):
        with pytest.raises(LandscapeError, match=r"is not in what was evaluated, -0\.5 to 1\.5"):
            wide.model_at(wrong)
    with pytest.raises(LandscapeError, match="`line` is 24, it must be at least 0 and at most 23"):
        result.model_at(0.5, line=24)


def test_the_network_of_a_line_stays_that_of_the_line(run: Run, small_blocks: None, tmp_path: Path) -> None:
    def of(result: Result, number: int) -> bytes:
        weight: torch.Tensor = result.model_at(1, line=number).state_dict()["net.0.0.weight"]
        return weight.numpy().tobytes()

    wanted = [weight.numpy().tobytes() for weight in run.checkpoint().stack["net.0.0.weight"]]
    whole = walk("presolve", run, points=11)
    assert [of(whole, number) for number in range(24)] == wanted
    some = whole.select(np.array([9, 4])).select(np.array([False, True]))
    assert of(some, 0) == wanted[4]
    assert of(whole.select(slice(20, None)), 3) == wanted[23]

    def stop(done: int, total: int) -> None:
        if done == 9 * 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk("presolve", run, points=11, save=tmp_path / "w.h5", progress=stop)
    assert of(walk("presolve", run, points=11, save=tmp_path / "w.h5"), 2) == wanted[2], "and if it was resumed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "a line needs at least 2 points, got 1"),
        ({"points": [0.5, float("nan")]}, "`points` is a whole number of points, or a list of finite alphas"),
        ({"span": (0.5, 1.0)}, r"the range 0\.5:1\.0 must contain both ends"),
        ({"points": [0.5], "span": (-1.0, 2.0)}, "`span` is for a number of `points`"),
        ({"b": None}, "lines need an end: name it with `b`, or random directions with `rays`"),
        ({"rays": (0, 1)}, "`rays` lead from the start to no other place: leave `b` out"),
        ({"b": None, "rays": (0,), "per": "layer"}, "`rays` go straight from each start: leave `via`, `only`"),
        ({"normalise": "none"}, "`normalise` is for random directions: give them with `rays`"),
        ({"only": ("a",), "per": "layer"}, "`only` and `per` both say what moves"),
        ({"hold": "end"}, "name what moves with `only` or `per`"),
        ({"via": ("presolve",), "per": "layer"}, "with `via` everything moves: leave `only` and `per` out"),
        ({"via": ("presolve",), "order": "all"}, "`via` goes with the `order` stored"),
        ({"align": True, "order": "all"}, '`align` chooses one order, `order="all"` takes all'),
        ({"only": ("net.9.*",)}, r"'net\.9\.\*' matches no parameter"),
        ({"b": "THREE"}, r'24 members and 3 members do not pair: .* or `pairs="all"`'),
        ({"b": "nowhere/"}, "nowhere does not exist"),
        ({"dtype": torch.float16}, "`dtype` is torch.float16: compute in torch.float32 or torch.float64"),
        ({"device": "cuda:99"}, "CUDA device"),
        ({"samples": 0}, "`samples` is 0, it must be at least 1"),
        ({"save": "THERE"}, r"there\.h5 exists: choose another"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    life: Life, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    def worked(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the objective was asked")

    monkeypatch.setattr(Life, "objective", worked)
    monkeypatch.chdir(tmp_path)
    Path("there.h5").write_text("precious")
    three = checkpoint(run.checkpoint().stack.select([0, 1, 2]))
    known: dict[str, Any] = {"THREE": three, "THERE": Path("there.h5")}
    chosen = {key: known.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(LandscapeError, match=message):
        walk(**{"a": run, "b": f"{run.path}/@20", **chosen})
    assert [path.name for path in tmp_path.iterdir()] == ["there.h5"]
    assert Path("there.h5").read_text() == "precious"


def test_arguments_of_another_kind_are_one_line(life: Life, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # these checks serve where types are not checked
    place: Any = run.path
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"b": {3}}, "set is no place: give a network, its state dict, a path, a run or a landmark's name"),
        ({"b": {"w": 3}}, "b holds no state dict, neither at top level nor under state_dict, "),
        ({"b": place, "problem": 3}, "`problem` is int: give what `Problem.from_model` made, or a name"),
        ({"b": place, "points": 5.0}, "`points` is a whole number of points, or a list of finite alphas"),
        ({"b": place, "points": "5"}, "`points` is a whole number"),
        ({"b": place, "via": "presolve"}, "`via` cannot be 'presolve': it takes a list of values"),
        ({"b": place, "only": "net.*"}, "`only` cannot be 'net.*': it takes a list"),
    ]
    for options, message in wrong:
        with pytest.raises(LandscapeError, match=re.escape(message)):
            walk("presolve", **options)
    by_name = walk("presolve", place, problem="life", points=2)
    np.testing.assert_array_equal(by_name.loss, walk("presolve", place, points=2).loss)


def test_numbers_of_numpy_are_numbers(run: Run, tmp_path: Path) -> None:
    result = walk("presolve", run.path, points=3)
    dataclasses.replace(result, about={**result.about, "seed": np.int64(5)}).save(tmp_path / "n.h5")
    assert Result.read(tmp_path / "n.h5").about["seed"] == 5
