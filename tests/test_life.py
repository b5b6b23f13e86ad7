"""Rules, patterns, boards and the exact loss of Life, against slow and obvious twins."""

import dataclasses
import functools
import itertools
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from processes import printed

from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life, network
from landscape.problems.life.boards import (
    PackedBoards,
    advance,
    pattern_codes,
    pattern_counts,
    random_boards,
    random_words,
    unpack,
)
from landscape.problems.life.patterns import PATTERNS, answers, multiplicities, probabilities
from landscape.problems.life.rules import Rule
from landscape.space import symmetry as align

CONWAY, STUDY = Rule.parse("B3/S23"), Rule.parse("B3/S23V")


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    neighbourhood, most = draw(st.sampled_from([("moore", 8), ("von Neumann", 4)]))
    counts = st.frozensets(st.integers(0, most))
    return Rule(draw(counts), draw(counts), neighbourhood)


BOARDS = hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 1))


def slow_step(rule: Rule, board: np.ndarray) -> np.ndarray:
    """Cell by cell."""
    near = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    if rule.neighbourhood == "von Neumann":
        near = [(i, j) for i, j in near if i * j == 0]
    after = np.zeros_like(board)
    for (y, x), cell in np.ndenumerate(board):
        around = [(y + i, x + j) for i, j in near]
        live = sum(board[p] for p in around if 0 <= p[0] < board.shape[0] and 0 <= p[1] < board.shape[1])
        after[y, x] = live in (rule.survival if cell else rule.birth)
    return after


def slow_codes(board: np.ndarray) -> np.ndarray:
    padded = np.pad(board, 1)
    codes = np.zeros_like(board)
    for y, x in np.ndindex(*board.shape):
        patch = padded[y : y + 3, x : x + 3].flatten()
        codes[y, x] = sum(int(cell) << bit for bit, cell in enumerate(patch))
    return codes


@functools.cache
def every_board(height: int, width: int) -> np.ndarray:
    cells = height * width
    return (np.arange(2**cells)[:, None] >> np.arange(cells) & 1).reshape(-1, height, width)


@functools.cache
def every_boards_codes(height: int, width: int) -> np.ndarray:
    """Codes of all cells of all boards, by shifting whole boards."""
    padded = np.pad(every_board(height, width), [(0, 0), (1, 1), (1, 1)])
    shifted = [padded[:, i : i + height, j : j + width] << (3 * i + j) for i in range(3) for j in range(3)]
    return sum(shifted[1:], start=shifted[0])


# ----------------------------------------------------------------------------------------------------------------------


@given(rule=rules())
def test_rulestrings_round_trip(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule
    assert Rule.parse(f" {str(rule).lower()} ") == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no rule: write B<digits>/S<digits>"),
        ("23/3", "is no rule"),
        ("B3S23", "is no rule"),
        ("B3/S23W", "is no rule"),
        ("B9/S23", "counts 9 neighbours, but a cell has 8"),
        ("B3/S25V", r"counts 5 neighbours, but a cell has 4 \(von Neumann neighbourhood\)"),
    ],
)
def test_what_is_no_rule(text: str, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        Rule.parse(text)


@given(rule=rules(), board=BOARDS)
def test_the_next_generation_cell_by_cell(rule: Rule, board: np.ndarray) -> None:
    np.testing.assert_array_equal(rule.step(board), slow_step(rule, board))
    np.testing.assert_array_equal(rule.step(np.stack([board, 1 - board]))[1], slow_step(rule, 1 - board))
    np.testing.assert_array_equal(rule.steps(board, 2), slow_step(rule, slow_step(rule, board)))
    np.testing.assert_array_equal(rule.steps(board, 0), board)


def test_conways_blinker_and_glider() -> None:
    blinker = np.zeros((5, 5), dtype=int)
    blinker[2, 1:4] = 1
    np.testing.assert_array_equal(CONWAY.step(blinker), blinker.T)
    np.testing.assert_array_equal(CONWAY.steps(blinker, 2), blinker)
    glider = np.zeros((9, 9), dtype=int)
    glider[[0, 1, 2, 2, 2], [1, 2, 0, 1, 2]] = 1
    np.testing.assert_array_equal(CONWAY.steps(glider, 4), np.roll(glider, (1, 1), axis=(0, 1)))
    assert STUDY.step(blinker).sum() == 1  # four neighbours do not blink


def test_answers_are_the_rule_on_the_patch() -> None:
    for rule in (CONWAY, STUDY, Rule.parse("B/S"), Rule.parse("B012345678/S012345678")):
        assert answers(rule).tolist() == [bool(slow_step(rule, patch)[1, 1]) for patch in PATTERNS]


# ----------------------------------------------------------------------------------------------------------------------


def closed_formula(height: int, width: int) -> np.ndarray:
    """In units of 1 / (512 height width), for both sides at least 2."""
    top, bottom, left, right = (
        (PATTERNS[:, 0] == 0).all(1),
        (PATTERNS[:, 2] == 0).all(1),
        *((PATTERNS[:, :, j] == 0).all(1) for j in (0, 2)),
    )
    inner = (height - 2) * (width - 2) + 8 * (width - 2) * (top * 1 + bottom) + 8 * (height - 2) * (left * 1 + right)
    return inner + 32 * sum((side & end).astype(int) for side in (top, bottom) for end in (left, right))


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (5, 2), (3, 3), (10, 10), (4, 17)])
def test_multiplicities_are_those_of_the_closed_formula(size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(multiplicities(*size), closed_formula(*size))
    assert multiplicities(*size).sum() == 512 * size[0] * size[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4)])
def test_patterns_of_all_boards(size: tuple[int, int]) -> None:
    codes, cells = every_boards_codes(*size), size[0] * size[1]
    counts = np.bincount(codes.flatten(), minlength=512)
    np.testing.assert_array_equal(counts * 512, multiplicities(*size) * 2**cells)
    live = every_board(*size).sum((1, 2))
    for density in (0.0, 0.1, 0.3, 0.5, 0.9, 1.0):
        chance = density**live * (1 - density) ** (cells - live)
        weighted = np.bincount(codes.flatten(), np.repeat(chance, cells), minlength=512) / cells
        np.testing.assert_allclose(probabilities(*size, density), weighted, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(probabilities(*size) * 512 * cells, multiplicities(*size), rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "a board of 0 x 3 has no cells"),
        ((3, 3, 1.5), "1.5 is no probability"),
        ((3, 3, -0.1), "no probability"),
    ],
)
def test_boards_that_make_no_sense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        probabilities(*arguments)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------


@given(height=st.integers(1, 7), width=st.integers(1, 7), count=st.integers(1, 9), step=st.integers(0, 2**40))
def test_boards_and_their_patterns_against_a_slow_twin(height: int, width: int, count: int, step: int) -> None:
    seeds = torch.tensor([0, 5, 2**62])
    boards = random_boards(seeds, step, count, height, width, 0.4)
    assert boards.shape == (3, height, width, count)
    assert boards.max() <= 1
    for i in range(3):
        assert torch.equal(random_boards(seeds[i : i + 1], step, count, height, width, 0.4)[0], boards[i])
    before = boards.clone()
    codes = pattern_codes(boards)
    assert torch.equal(boards, before)
    boards, codes = boards.movedim(-1, 1), codes.movedim(-1, 1)
    wanted = np.array([[slow_codes(board) for board in own.numpy().astype(int)] for own in boards])
    np.testing.assert_array_equal(codes, wanted)
    counts = pattern_counts(seeds, step, count, height, width, 0.4)
    np.testing.assert_array_equal(counts, [np.bincount(own.flatten(), minlength=512) for own in wanted])
    table = answers(STUDY)
    later = [[slow_step(STUDY, board) for board in own.numpy().astype(int)] for own in boards]
    np.testing.assert_array_equal(table[codes.numpy()], np.array(later) == 1)


@pytest.mark.parametrize("density", [0.0, 0.2, 0.5, 1.0])
def test_the_density_of_boards(density: float) -> None:
    boards = random_boards(torch.tensor([1]), 0, 1000, 10, 10, density)
    assert abs(boards.double().mean() - density) <= 4 * (density * (1 - density) / 1e5) ** 0.5 + 2**-17


def bit_by_bit(words: torch.Tensor) -> np.ndarray:
    """[..., board] of 0 and 1 from [..., word]: board 32 k + b is bit b of word k."""
    numbers = words.numpy().view(np.uint32)
    boards = np.zeros((*numbers.shape[:-1], 32 * numbers.shape[-1]), dtype=int)
    for place in np.ndindex(*boards.shape):
        boards[place] = int(numbers[(*place[:-1], place[-1] // 32)]) >> place[-1] % 32 & 1
    return boards


@given(height=st.integers(1, 3), width=st.integers(1, 4), count=st.integers(1, 70), density=st.floats(0, 1))
def test_words_hold_boards_bit_by_bit(height: int, width: int, count: int, density: float) -> None:
    words = random_words(torch.tensor([3, 2**50]), 7, count, height, width, density)
    assert words.dtype == torch.int32
    assert words.shape == (2, height, width, -(-count // 32))
    boards = bit_by_bit(words)
    np.testing.assert_array_equal(unpack(words), boards)
    np.testing.assert_array_equal(unpack(words[:, :, :, -1:]), boards[..., -32:])
    few = random_boards(torch.tensor([3, 2**50]), 7, count, height, width, density)
    np.testing.assert_array_equal(few, boards[..., :count])


@given(rule=rules(), height=st.integers(1, 6), width=st.integers(1, 6), steps=st.integers(0, 3))
def test_boards_as_bits_advance_as_boards(rule: Rule, height: int, width: int, steps: int) -> None:
    now = random_words(torch.tensor([1, 2]), height, 40, height, width, 0.4)
    before = now.clone()
    later = unpack(advance(now, rule, steps)).movedim(-1, 1)
    wanted = rule.steps(unpack(now).movedim(-1, 1).numpy().astype(int), steps)
    np.testing.assert_array_equal(later, wanted)
    assert torch.equal(now, before)


@pytest.mark.parametrize("neighbourhood", ["moore", "von Neumann"])
def test_every_count_of_neighbours_on_every_board_as_bits(neighbourhood: str) -> None:
    """All 512 boards of 3 x 3 under the rules of one count each."""
    boards = torch.from_numpy(every_board(3, 3)).movedim(0, -1).view(3, 3, 16, 32)
    words = (boards << torch.arange(32)).sum(-1).to(torch.int32)[None]
    np.testing.assert_array_equal(unpack(words)[0].movedim(-1, 0), every_board(3, 3))
    for count in range(9 if neighbourhood == "moore" else 5):
        one, none = frozenset({count}), frozenset[int]()
        for rule in (Rule(one, none, neighbourhood), Rule(none, one, neighbourhood)):
            later = unpack(advance(words, rule, 1))[0].movedim(-1, 0)
            np.testing.assert_array_equal(later, rule.step(every_board(3, 3)))


@pytest.mark.parametrize("codes", [True, False], ids=["numbers of patterns", "cells"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("seeds", "count"), [([4], 70), ([4, 5, 6], 32), ([4, 5], 1)])
def test_packed_boards_against_plain_ones(codes: bool, normalize: bool, seeds: list[int], count: int) -> None:
    life = Life(steps=3, board="4x5", density=0.6, normalize=normalize)
    keys = torch.tensor(seeds)
    packed = life.boards(keys, 9, count, torch.float64, codes=codes)
    assert isinstance(packed, PackedBoards)
    filled = -(-count // 32) * 32
    assert len(packed) == filled
    whole = packed.samples(0, filled)
    cells = random_boards(keys, 9, filled, 4, 5, 0.6).movedim(-1, 1).numpy().astype(int)
    later = Rule.parse(life.rule).steps(cells, 3)
    shown = whole.inputs[:, 0].movedim(-1, 1).numpy()
    if codes:
        np.testing.assert_array_equal(shown, [[slow_codes(board) for board in own] for own in cells])
    else:
        np.testing.assert_array_equal(shown, cells - 0.5 * normalize)
        assert whole.inputs.dtype == torch.float64
    np.testing.assert_array_equal(whole.targets.movedim(-1, 1), later)
    assert whole.weights.tolist() == [[1 / count] * count + [0.0] * (filled - count)]
    for name in ("inputs", "targets", "weights"):
        parts = [getattr(packed.samples(start, start + 32), name) for start in range(0, filled, 32)]
        assert torch.equal(torch.cat(parts, -1), getattr(whole, name))
    index = torch.tensor([len(seeds) - 1, 0, 0])
    some = packed.members(index).samples(0, filled)
    assert torch.equal(some.inputs, whole.inputs if len(seeds) == 1 else whole.inputs[index])
    assert torch.equal(some.targets, whole.targets if len(seeds) == 1 else whole.targets[index])


def test_boards_that_fill_up_the_last_word_count_nowhere() -> None:
    life = Life(steps=2, board="4x5")
    objective = life.objective(samples=45, dtype=torch.float64)
    stack = initialise(life.network(), range(5), scale=2.0).to(torch.float64)
    packed = objective.data
    assert isinstance(packed, PackedBoards)
    board = torch.arange(64).view(2, 32)
    beyond = (torch.where(board >= 45, 1, 0) << torch.arange(32)).sum(1).to(torch.int32)
    spoilt = dataclasses.replace(packed, now=packed.now ^ beyond, later=packed.later | beyond)
    assert not torch.equal(spoilt.now, packed.now)
    other = dataclasses.replace(objective, data=spoilt)
    for name, value in objective(stack).items():
        assert torch.equal(other(stack)[name], value)
    for one, two in zip(objective.gradient(stack), other.gradient(stack), strict=True):
        mine, others = (x.flatten() if isinstance(x, Stack) else x for x in (one, two))
        torch.testing.assert_close(mine, others, rtol=1e-12, atol=1e-15)
    assert objective.predictions(stack).shape == (5, 4, 5, 45)


@pytest.mark.slow
def test_memory_holds_boards_as_bits() -> None:
    """300,000 boards of 100 cells: 30 million bits and as many answers; as numbers they would take 240 MB more than the
    50 MB of libraries and blocks, and the 90 MB in which boards are drawn.
    """
    program = """
import dataclasses, torch
from landscape.engine.memory import Chunk
from landscape.problems.life import Life
torch.set_num_threads(1)
Life(steps=2).objective(samples=32)
before = peak()
objective = dataclasses.replace(Life(steps=2).objective(samples=300_000), chunk=Chunk(1, 2048))
assert objective(objective.network.template)["right"].item() >= 0
print(peak() - before)
"""
    assert 0 < printed(program) < 220e6


# ----------------------------------------------------------------------------------------------------------------------

HEADS = [
    pytest.param(activation, sigmoid, normalize, marks=[pytest.mark.slow] if sigmoid != normalize else [])
    for activation, sigmoid, normalize in itertools.product(network.ACTIVATIONS, (False, True), (False, True))
]


def plain_losses(problem: Life, state: dict[str, torch.Tensor], boards: np.ndarray) -> dict[str, np.ndarray]:
    """Loss and accuracy of the convolution on each board."""
    net = problem.network().double().eval()
    net.load_state_dict(state)
    with torch.no_grad():
        outputs = net(torch.from_numpy(boards[:, None]).double() - 0.5 * problem.normalize)[:, 0]
    targets = torch.from_numpy(Rule.parse(problem.rule).step(boards)).double()
    outputs = outputs if problem.sigmoid else outputs.clamp(0, 1) if problem.loss == "bce" else outputs
    losses = (F.binary_cross_entropy if problem.loss == "bce" else F.mse_loss)(outputs, targets, reduction="none")
    right = (outputs > 0.5) == (targets > 0.5)
    return {"loss": losses.mean((1, 2)).numpy(), "accuracy": right.double().mean((1, 2)).numpy()}


def plain_loss(
    problem: Life, state: dict[str, torch.Tensor], boards: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """Loss and accuracy of the convolution on boards, each with its weight."""
    each = plain_losses(problem, state, boards)
    return {name: float((values * weights).sum()) for name, values in each.items()}


@pytest.mark.parametrize(("activation", "sigmoid", "normalize"), HEADS)
def test_the_exact_objective_is_the_mean_over_all_boards(activation: str, sigmoid: bool, normalize: bool) -> None:
    """Over the 512 boards of 3 x 3 with both losses, and the 65,536 of 4 x 4 with a density of 0.3."""
    base = Life(activation=activation, sigmoid=sigmoid, normalize=normalize, m_factor=2, rule="B3/S23")
    for size, density, loss in ((3, 0.5, "bce"), (3, 0.2, "mse"), (4, 0.3, "bce")):
        problem = dataclasses.replace(base, board=f"{size}x{size}", density=density, loss=loss)
        boards = every_board(size, size)
        live = boards.sum((1, 2))
        stack = initialise(problem.network(), [1, 2], scale=2.0).to(torch.float64)
        values = problem.objective(dtype=torch.float64)(stack)
        for i in range(2 if size == 3 else 1):
            weights = density**live * (1 - density) ** (size**2 - live)
            for name, wanted in plain_loss(problem, stack.state_dict(i), boards, weights).items():
                np.testing.assert_allclose(values[name][i], wanted, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_exact_objective_is_what_sampling_estimates(sigmoid: bool) -> None:
    problem = Life(sigmoid=sigmoid, density=0.4)
    stack = initialise(problem.network(), [4], scale=2.0).to(torch.float64)
    exact = problem.objective(dtype=torch.float64)(stack)
    boards = random_boards(torch.tensor([9]), 0, 2000, 10, 10, 0.4)[0].movedim(-1, 0).numpy().astype(int)
    for name, sample in plain_losses(problem, stack.state_dict(0), boards).items():
        assert abs(sample.mean() - float(exact[name][0])) < 4 * sample.std(ddof=1) / 2000**0.5


def test_right_and_solved_count_patterns() -> None:
    problem = Life(activation="relu", sigmoid=False)
    solution = problem.landmark("presolve")
    spoilt = Stack({name: tensor.clone() for name, tensor in solution.tensors.items()})
    spoilt["net.0.4.bias"].fill_(0.0)
    values = problem.objective(dtype=torch.float64)
    assert [float(values(solution)[name][0]) for name in ("loss", "right", "solved")] == [0, 512, 1]
    assert float(values(solution)["accuracy"][0]) == pytest.approx(1, abs=1e-12)
    wrong = int(answers(STUDY).sum())
    assert values(spoilt)["right"] == 512 - wrong
    assert values(spoilt)["solved"] == 0
    np.testing.assert_array_equal(values.predictions(solution)[0, 0, 0], answers(STUDY))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` is 0, it must be at least 1"),
        ({"m_factor": 0}, "`m_factor` is 0"),
        ({"d_factor": 0.5}, "leaves no block: raise `d_factor` to 1 or more"),
        ({"activation": "tanh"}, "`activation` cannot be 'tanh': it takes one of"),
        ({"loss": "hinge"}, "`loss` cannot be 'hinge': it takes one of"),
        ({"board": "10"}, "'10' is no board: write HEIGHTxWIDTH"),
        ({"board": "0x4"}, "is no board"),
        ({"density": 2.0}, "is no probability"),
        ({"rule": "life"}, "is no rule"),
        ({"dropout": 1.0}, "`dropout` is 1.0, it must be at least 0 and below 1"),
        ({"dropout": -0.1}, "`dropout` is -0.1"),
        ({"architecture": "resnet"}, "`architecture` cannot be 'resnet': it takes one of"),
    ],
)
def test_problems_that_make_no_sense(options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # choices are types, and checked before
    with pytest.raises(LandscapeError, match=message):
        Life(**options)  # type: ignore[arg-type]


def test_landmarks_that_are_not() -> None:
    with pytest.raises(Unsupported, match="life has no landmark 'presolv'"):
        Life().landmark("presolv")
    with pytest.raises(LandscapeError, match="0 boards are no sample"):
        Life(steps=2).objective(samples=0)


def test_the_config_makes_the_problem_again() -> None:
    problem = Life(rule="b3/s23", steps=3, m_factor=2, activation="gelu", sigmoid=False, board="4x6")
    assert problem.config()["rule"] == "B3/S23"
    assert Life(**problem.config()) == problem


def test_one_block_of_two_steps_is_judged_on_boards() -> None:
    """A patch of 3 x 3 cells does not say what becomes of its centre after two steps."""
    life = Life(steps=2, d_factor=0.5, board="5x5")
    objective = life.objective(samples=64)
    assert objective.sampled
    one = Life().objective()
    presolve = Life().landmark("presolve")
    assert one(presolve)["solved"].item() == 1
    assert objective(presolve)["solved"].item() == 0


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("m_factor", [1, 3])
def test_the_papers_network(steps: int, m_factor: int) -> None:
    """Conv3x3(. -> 2m) and Conv1x1(2m -> m) a step, then Conv1x1(m -> 1): with m = 1, 23 n + 2 parameters."""
    problem = Life(steps=steps, m_factor=m_factor, architecture="paper")
    state = problem.network().state_dict()
    shapes = {f"net.{block}.0.weight": (2 * m_factor, m_factor if block else 1, 3, 3) for block in range(steps)}
    shapes |= {f"net.{block}.2.weight": (m_factor, 2 * m_factor, 1, 1) for block in range(steps)}
    shapes["out.weight"] = (1, m_factor, 1, 1)
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    if m_factor == 1:
        assert sum(tensor.numel() for tensor in state.values()) == 23 * steps + 2
    assert problem.title().endswith("paper's architecture")
    blocks = problem.parts()
    assert sorted(name for block in blocks for name in block) == sorted(state)
    assert len(blocks) == steps
    assert {name for name in blocks[-1] if name.startswith("out.")} == {"out.weight", "out.bias"}


def test_the_tensors_of_each_block() -> None:
    tensors = ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias")
    assert Life(steps=2, d_factor=1.5).parts() == tuple(
        tuple(f"net.{block}.{name}" for name in tensors) for block in range(3)
    )


@pytest.mark.parametrize("architecture", ["study", "paper"])
@pytest.mark.parametrize("steps", [1, 3])
def test_another_order_of_filters_is_the_same_function(architecture: str, steps: int) -> None:
    problem = Life(steps=steps, m_factor=3, architecture=architecture, activation="gelu", board="5x5")
    symmetry = problem.symmetry()
    assert symmetry.sizes == (6, 3) * steps
    stack = initialise(problem.network(), range(4), scale=2.0).to(torch.float64)
    objective = problem.objective(dtype=torch.float64, samples=32)
    loss = objective(stack)["loss"]
    rng = np.random.default_rng(2)
    for _ in range(4):
        other = align.reorder(stack, symmetry, tuple(rng.permutation(size) for size in symmetry.sizes))
        assert not torch.equal(other.flatten(), stack.flatten())
        torch.testing.assert_close(objective(other)["loss"], loss, rtol=1e-12, atol=0)
    for group in symmetry:  # nor does one group alone, and each counts its own units
        assert {stack[axis.name].shape[axis.dim + 1] for axis in group.axes} == {group.size}


@pytest.mark.parametrize(("activation", "sigmoid", "normalize"), [("relu", False, True), ("elu", True, False)])
def test_the_exact_objective_of_the_papers_network(activation: str, sigmoid: bool, normalize: bool) -> None:
    problem = Life(
        activation=activation, sigmoid=sigmoid, normalize=normalize, m_factor=2, architecture="paper", board="4x3"
    )
    boards = every_board(4, 3)
    stack = initialise(problem.network(), [1], scale=2.0).to(torch.float64)
    values = problem.objective(dtype=torch.float64)(stack)
    wanted = plain_loss(problem, stack.state_dict(0), boards, np.full(len(boards), 1 / len(boards)))
    for name, number in wanted.items():
        np.testing.assert_allclose(values[name][0], number, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("options", [{"steps": 2}, {"dropout": 0.4}])
def test_an_option_that_would_do_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(LandscapeError, match=r"`dropout_last` is False, but no dropout is there for it to spare"):
        Life(dropout_last=False, **options)
