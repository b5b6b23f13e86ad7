"""Symmetry: no change of the function, the nearest representative found, distances between classes."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.optimize
import symmetries
import torch
from hypothesis import given
from hypothesis import strategies as st
from symmetries import orders_alone

from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack, concatenate
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.space import alignment
from landscape.space import symmetry as align

PROBLEMS = {m: Life(m_factor=m) for m in (1, 2, 4)}

#: Their filters, whose scales and signs stay as they are.
ORDERS = {m: orders_alone(problem.symmetry()) for m, problem in PROBLEMS.items()}


def members(m: int, seeds: range = range(6)) -> Stack:
    return initialise(PROBLEMS[m].network(), seeds).to(torch.float64)


def shuffled(stack: Stack, m: int, seed: int = 0) -> Stack:
    """Each member in another order of its own."""
    rng = np.random.default_rng(seed)
    symmetry = ORDERS[m]
    parts = [
        align.reorder(stack.select([i]), symmetry, tuple(rng.permutation(size) for size in symmetry.sizes)).flatten()
        for i in range(len(stack))
    ]
    return stack.unflatten(torch.cat(parts))


def nearest(one: Stack, other: Stack, m: int) -> float:
    """Brute force over every order of one network against another."""
    groups = [itertools.permutations(range(size)) for size in ORDERS[m].sizes]
    candidates = [
        align.reorder(other, ORDERS[m], tuple(np.array(order) for order in orders)).flatten()
        for orders in itertools.product(*groups)
    ]
    return min(float((one.flatten() - candidate).norm()) for candidate in candidates)


@pytest.mark.slow
@pytest.mark.parametrize("m", PROBLEMS)
@given(seed=st.integers(0, 10**6))
def test_another_order_is_the_same_function(m: int, seed: int) -> None:
    stack = members(m)
    other = shuffled(stack, m, seed)
    assert other.tensors.keys() == stack.tensors.keys()
    assert torch.equal(other.flatten().sort().values, stack.flatten().sort().values)
    objective = PROBLEMS[m].objective(dtype=torch.float64)
    torch.testing.assert_close(objective(other)["loss"], objective(stack)["loss"], rtol=1e-12, atol=0)


def test_new_unit_i_is_old_unit_order_i() -> None:
    stack = members(2)
    symmetry = ORDERS[2]
    got = align.reorder(stack, symmetry, (np.array([2, 0, 3, 1]), np.array([1, 0])))
    assert torch.equal(got["net.0.0.bias"], stack["net.0.0.bias"][:, [2, 0, 3, 1]])
    assert torch.equal(got["net.0.2.weight"], stack["net.0.2.weight"][:, [1, 0]][:, :, [2, 0, 3, 1]])
    assert torch.equal(got["net.0.4.weight"], stack["net.0.4.weight"][:, :, [1, 0]])
    assert torch.equal(got["net.0.4.bias"], stack["net.0.4.bias"])


def test_every_order_begins_with_the_present_one() -> None:
    orders = list(align.every_order(ORDERS[1]))
    assert [[list(order) for order in each] for each in orders] == [[[0, 1], [0]], [[1, 0], [0]]]
    two_steps = Life(steps=2).symmetry()
    assert align.count_orders(two_steps) == len(list(align.every_order(two_steps))) == 4
    with pytest.raises(LandscapeError, match=r"10\^6\.0 orders of filters are too many to walk each"):
        next(align.every_order(Life(m_factor=4).symmetry()))


@pytest.mark.parametrize("m", PROBLEMS)
def test_a_permuted_copy_comes_back_exactly(m: int) -> None:
    stack = members(m, range(20))
    assert torch.equal(alignment.match(shuffled(stack, m), stack, ORDERS[m]).stack.flatten(), stack.flatten())
    one = stack.select([3])
    got = alignment.match(shuffled(one, m), stack, ORDERS[m]).stack
    assert torch.equal(got.flatten()[3], one.flatten()[0])
    assert len(got) == 20
    got = alignment.match(shuffled(stack, m), one, ORDERS[m]).stack
    assert torch.equal(got.flatten()[3], one.flatten()[0])


def test_the_exhaustive_match_is_the_nearest() -> None:
    stack, reference = members(1), members(1, range(10, 16))
    got = alignment.match(stack, reference, ORDERS[1]).stack
    for i in range(6):
        found = float((got.flatten()[i] - reference.flatten()[i]).norm())
        assert found == pytest.approx(nearest(reference.select([i]), stack.select([i]), 1), rel=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_weight_matching_never_moves_away(m: int) -> None:
    stack, reference = members(m), members(m, range(10, 16))
    got = alignment.match(stack, reference, ORDERS[m]).stack
    before, after = ((s.flatten() - reference.flatten()).norm(dim=1) for s in (stack, got))
    assert (after <= before + 1e-12).all()
    assert torch.equal(got.flatten().sort().values, stack.flatten().sort().values)


@pytest.mark.parametrize("m", PROBLEMS)
def test_distances(m: int) -> None:
    stack = members(m)
    pairs = alignment.distances(stack, ORDERS[m])
    assert pairs.shape == (6, 6)
    assert pairs.dtype == np.float64
    np.testing.assert_array_equal(pairs, pairs.T)
    np.testing.assert_array_equal(np.diag(pairs), np.zeros(6))
    straight = torch.cdist(stack.flatten(), stack.flatten()).numpy()
    assert (pairs <= straight + 1e-9).all()
    assert (pairs + np.eye(6) > 0.1).all()
    if m <= 2:  # 2 and 48 orders
        best = np.array([[nearest(stack.select([i]), stack.select([j]), m) for j in range(6)] for i in range(6)])
        assert (pairs >= best - 1e-12).all()
        if m == 1:
            np.testing.assert_allclose(pairs, best, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("m", PROBLEMS)
def test_permuted_copies_are_at_distance_zero(m: int) -> None:
    stack = members(m)
    copies = stack.unflatten(torch.cat([stack.flatten(), shuffled(stack, m).flatten()]))
    pairs = alignment.distances(copies, ORDERS[m])
    np.testing.assert_array_equal(pairs[:6, 6:].diagonal(), np.zeros(6))


def test_distances_of_close_members_keep_their_digits() -> None:
    stack = members(1).select([0, 0])
    moved = stack.flatten().clone()
    moved[1, 0] += 1e-9
    wanted = float(moved[1, 0] - moved[0, 0])
    assert alignment.distances(stack.unflatten(moved), ORDERS[1])[0, 1] == pytest.approx(wanted, rel=1e-12)


def by_loops(stack: Stack, symmetry: align.Symmetry, element: align.Element) -> Stack:
    """What `act` does to a stack of one, number by number."""
    there = {name: tensor.clone() for part in (stack.tensors, stack.buffers) for name, tensor in part.items()}
    for move in element:
        group = symmetry[move.group]
        for number, axis in enumerate(group.axes):
            old, new = there[axis.name][0].movedim(axis.dim, 0), there[axis.name].clone()
            for unit in range(group.size):
                source = unit if move.order is None else int(move.order[unit])
                factor = 1.0
                for row, powers in enumerate(group.scalings):
                    if move.scales is not None:
                        factor *= float(move.scales[row, unit]) ** powers[number]
                for row, powers in enumerate(group.flips):
                    if move.signs is not None:
                        factor *= float(move.signs[row, unit]) ** powers[number]
                for o, i in itertools.product(range(axis.outer), range(axis.inner)):
                    here, was = (axis.start + (o * group.size + u) * axis.inner + i for u in (unit, source))
                    new[0].movedim(axis.dim, 0)[here] = old[was] * factor
            there[axis.name] = new
    return Stack(*({name: there[name] for name in part} for part in (stack.tensors, stack.buffers)))


@pytest.mark.parametrize("name", symmetries.NETWORKS)
def test_an_element_keeps_the_function_and_its_inverse_takes_it_back(name: str) -> None:
    net, symmetry, inputs = symmetries.made(name)
    stack = symmetries.stack_of(net)
    for seed in range(3):
        element = symmetries.element(symmetry, seed)
        moved = align.act(stack, symmetry, element)
        assert not torch.equal(moved.flatten(), stack.flatten())
        twin = by_loops(stack, symmetry, element)
        for part, other in ((moved.tensors, twin.tensors), (moved.buffers, twin.buffers)):
            for key, tensor in part.items():
                torch.testing.assert_close(tensor, other[key], rtol=1e-15, atol=0)
        was, now = (symmetries.outputs(net, each, inputs) for each in (stack, moved))
        torch.testing.assert_close(now, was, rtol=0, atol=1e-14 * float(was.abs().max()))
        back = align.act(moved, symmetry, align.inverse(element))
        torch.testing.assert_close(back.flatten(), stack.flatten(), rtol=1e-15, atol=0)
        for key, buffer in stack.buffers.items():
            assert torch.equal(back.buffers[key], buffer)


def test_few_elements_are_all_there_the_present_one_first() -> None:
    group = align.Group(2, (align.Axis("w", 0),), flips=((1,),))
    elements = list(align.every_element(align.Symmetry((group,))))
    assert align.count_elements(align.Symmetry((group,))) == len(elements) == 8
    stack = Stack({"w": torch.tensor([[1.0, 2.0]])})
    found = {tuple(align.act(stack, align.Symmetry((group,)), each)["w"][0].tolist()) for each in elements}
    assert found == {(s * a, t * b) for a, b in ((1, 2), (2, 1)) for s in (1, -1) for t in (1, -1)}
    assert torch.equal(align.act(stack, align.Symmetry((group,)), elements[0])["w"], stack["w"])
    held = align.Symmetry((dataclasses.replace(group, permutes=False),))
    assert (align.count_orders(held), align.count_elements(held)) == (1, 4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "batch_resnet", "encoder"])
def test_the_balanced_network_is_the_shortest_and_the_same_for_all_of_its_class(name: str) -> None:
    net, symmetry, _ = symmetries.made(name)
    stack = symmetries.stack_of(net)
    balanced = align.act(stack, symmetry, alignment.balance(stack, symmetry))
    scales_alone = [
        dataclasses.replace(move, order=None, signs=None) for move in symmetries.element(symmetry, 4, spread=2.0)
    ]
    other = align.act(stack, symmetry, tuple(scales_alone))
    again = align.act(other, symmetry, alignment.balance(other, symmetry))
    torch.testing.assert_close(again.flatten(), balanced.flatten(), rtol=1e-8, atol=0)
    # The twin: descend the norm in the logarithms of all scales at once.
    groups = [(n, g) for n, g in enumerate(symmetry) if g.scalings]

    def scaled(logs: np.ndarray) -> Stack:
        parts = np.split(logs, np.cumsum([len(g.scalings) * g.size for _, g in groups])[:-1])
        moves = (align.Move(n, scales=np.exp(p.reshape(-1, g.size))) for (n, g), p in zip(groups, parts, strict=True))
        return align.act(other, symmetry, tuple(moves))

    start = np.zeros(sum(len(g.scalings) * g.size for _, g in groups))
    found = scipy.optimize.minimize(lambda logs: float(scaled(logs).flatten().square().sum()), start, tol=1e-14)
    least = float(balanced.flatten().square().sum())
    assert least == pytest.approx(found.fun, rel=1e-6)
    assert least <= found.fun * (1 + 1e-12)


def test_all_members_are_balanced_as_each_is() -> None:
    net, symmetry, _ = symmetries.made("mlp")
    stack = symmetries.stack_of(net)
    several = stack.unflatten(torch.cat([stack.flatten() * scale for scale in (1.0, 3.0, 0.1)]))
    together = align.act(several, symmetry, alignment.balance(several, symmetry))
    for k, single in enumerate(several.chunks(1)):
        alone = align.act(single, symmetry, alignment.balance(single, symmetry))
        torch.testing.assert_close(together.flatten()[k], alone.flatten()[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", symmetries.NETWORKS)
def test_planted_copies_are_recovered(name: str, seed: int) -> None:
    net, symmetry, _ = symmetries.made(name, seed)
    stack, element = symmetries.stack_of(net), symmetries.element(symmetry, seed)
    found = alignment.match(align.act(stack, symmetry, element), stack, symmetry)
    assert found.how != ("stored",)
    assert float(found.stack.subtract(stack).norms()[1] / stack.norms()[1]) < 1e-9
    for key, buffer in stack.buffers.items():
        torch.testing.assert_close(found.stack.buffers[key], buffer, rtol=1e-12, atol=1e-14)
    # With noise each unit comes back to its place: another there would be far away.
    noisy = symmetries.noisy(stack, 0.01, seed)
    found = alignment.match(align.act(noisy, symmetry, element), stack, symmetry)
    assert float(found.stack.subtract(noisy).norms()[1] / stack.norms()[1]) < 0.02


@pytest.mark.parametrize("side", [0, 1])
def test_a_unit_with_nothing_on_one_side_is_rescaled_back(side: int) -> None:
    """It does nothing, so that what is on its other side may have any length."""
    net, symmetry, _ = symmetries.made("mlp")
    stack = symmetries.stack_of(net)
    number, group = next((n, g) for n, g in enumerate(symmetry) if g.scalings)
    for axis, power in zip(group.axes, group.scalings[0], strict=True):
        if (power < 0) == bool(side):
            stack[axis.name].select(axis.dim + 1, 2).zero_()
    scales = np.ones((1, group.size))
    scales[0, 2] = 7.0
    copy = align.act(stack, symmetry, (align.Move(number, scales=scales),))
    assert float(copy.subtract(stack).norms()[1]) > 0.1
    found = alignment.match(copy, stack, symmetry)
    assert float(found.stack.subtract(stack).norms()[1] / stack.norms()[1]) < 1e-9


def test_of_several_representatives_that_with_the_lowest_loss_in_the_middle_is_taken() -> None:
    symmetry = symmetries.made("mlp")[1]
    one, other = (symmetries.stack_of(symmetries.made("mlp", seed)[0]) for seed in (1, 2))
    offered: list[torch.Tensor] = []

    def far(members: Stack, reference: Stack) -> torch.Tensor:
        """The farther the lower; what is close to a copy is never asked for."""
        offered.append(members.flatten())
        return 1 / (members.flatten() - reference.flatten()).norm(dim=1)

    def moved(members: Stack, reference: Stack) -> torch.Tensor:
        """The same, but for the network as it is."""
        still = (members.flatten() == one.flatten()).all(1)
        return torch.where(still, torch.inf, far(members, reference))

    closest = alignment.match(one, other, symmetry).stack.flatten()[0]
    found = alignment.match(one, other, symmetry, middle=moved).stack.flatten()[0]
    lengths = (offered[0] - other.flatten()).norm(dim=1)
    assert len(lengths) > 2
    assert torch.equal(offered[0][-1:], one.flatten())
    assert torch.equal(found, offered[0][lengths[:-1].argmax()])
    assert torch.equal(closest, offered[0][lengths.argmin()])
    assert (found - other.flatten()).norm() < (one.flatten() - other.flatten()).norm()
    stored = alignment.match(one, other, symmetry, middle=far)
    assert torch.equal(stored.stack.flatten(), one.flatten())
    assert stored.how == ("stored",)
    copy = align.act(one, symmetry, symmetries.element(symmetry, 3))
    alignment.match(copy, one, symmetry, middle=far)
    assert len(offered) == 2


@pytest.mark.parametrize("name", ["mlp", "odd_mlp", "normalised_cnn"])
def test_distances_are_between_classes(name: str) -> None:
    net, symmetry, _ = symmetries.made(name)
    stack = symmetries.stack_of(net)
    copies = [align.act(stack, symmetry, symmetries.element(symmetry, seed)) for seed in range(3)]
    pairs = alignment.distances(concatenate([stack, *copies]), symmetry)
    np.testing.assert_allclose(pairs, np.zeros((4, 4)), atol=1e-8)
    other = symmetries.stack_of(symmetries.made(name, 9)[0])
    moved = align.act(other, symmetry, symmetries.element(symmetry, 5))
    one, same = (alignment.distances(concatenate([stack, each]), symmetry)[0, 1] for each in (other, moved))
    assert one > 0.1
    assert same == pytest.approx(one, rel=0.05)  # each a local optimum


def test_signs_and_scales_of_few_units_are_tried_one_by_one() -> None:
    """A hidden unit or two of tanh, against a walk through all elements by hand."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()
    axes = (align.Axis("0.weight", 0), align.Axis("0.bias", 0), align.Axis("2.weight", 1))
    symmetry = align.Symmetry((align.Group(2, axes, flips=((1, 1, 1),)),))
    one, other = symmetries.stack_of(net), initialise(net, [5]).to(torch.float64)
    found = alignment.match(other, one, symmetry)
    lengths = []
    for order, signs in itertools.product(([0, 1], [1, 0]), itertools.product((1.0, -1.0), repeat=2)):
        weight, bias, out = (other[name][0] for name in ("0.weight", "0.bias", "2.weight"))
        sign = torch.tensor(signs).double()
        moved = [weight[order] * sign[:, None], bias[order] * sign, out[:, order] * sign, other["2.bias"][0]]
        lengths.append(float((torch.cat([each.flatten() for each in moved]) - one.flatten()[0]).norm()))
    assert float(found.stack.subtract(one).norms()[1]) == pytest.approx(min(lengths), rel=1e-12)
    assert alignment.distances(concatenate([one, other]), symmetry)[0, 1] == pytest.approx(min(lengths), rel=1e-12)


def test_dead_and_duplicate_units_are_counted() -> None:
    net, symmetry, _ = symmetries.made("mlp")
    stack = symmetries.stack_of(net)
    assert [each.tolist() for each in alignment.idle(stack, symmetry)] == [[0], [0]]
    tensors = {name: tensor.clone() for name, tensor in stack.tensors.items()}
    tensors["2.weight"][0, :, 3] = 0  # what unit 3 of the first layer does is read by nobody
    tensors["2.weight"][0, 5], tensors["2.bias"][0, 5] = 2.5 * tensors["2.weight"][0, 1], 2.5 * tensors["2.bias"][0, 1]
    idle = Stack(tensors)
    assert [each.tolist() for each in alignment.idle(idle, symmetry)] == [[1], [1]]
    still = np.ones((8, 4))
    still[[0, 6]] = 0
    assert [each.tolist() for each in alignment.idle(idle, symmetry, active=[{2: still}])] == [[3], [1]]
    # The rest of such a network is recovered all the same.
    moved = align.act(idle, symmetry, symmetries.element(symmetry))
    back = alignment.match(moved, idle, symmetry).stack
    kept = [unit for unit in range(9) if unit != 3]
    torch.testing.assert_close(back["0.weight"][:, kept], idle["0.weight"][:, kept], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(back["6.weight"], idle["6.weight"], rtol=1e-8, atol=1e-10)


def test_what_units_do_is_a_start_too() -> None:
    """With it alone the planted order is found, whatever the weights say."""
    net, symmetry, inputs = symmetries.made("mlp")
    stack, element = symmetries.stack_of(net), symmetries.element(symmetry, 2)

    def activity(of: Stack) -> dict[int, np.ndarray]:
        x, found = inputs, {}
        for number, layer in enumerate((0, 2, 4)):
            x = torch.relu(x @ of[f"{layer}.weight"][0].T + of[f"{layer}.bias"][0])
            rows = (x - x.mean(0)).T
            found[number] = np.asarray(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300))
        return found

    moved = align.act(stack, symmetry, element)
    a, b = ({name: t[0].numpy() for name, t in each.tensors.items()} for each in (stack, moved))
    matching = alignment._Matching(a, b, symmetry).by_activity(activity(stack), activity(moved))
    for move, planted in zip(matching.moves, element, strict=True):
        assert move.order is not None
        assert planted.order is not None
        assert (planted.order[move.order] == np.arange(len(move.order))).all()
    active = [activity(moved)], [activity(stack)]
    assert float(alignment.match(moved, stack, symmetry, active=active).stack.subtract(stack).norms()[1]) < 1e-9
