"""Removal of units: against a plain loop over copies of modules, and against networks that are built without them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from landscape import Problem
from landscape.analysis.pruning import left, prune, units
from landscape.core.errors import LandscapeError
from landscape.engine.stack import Stack, concatenate
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life

LIFE = Life(m_factor=3)
LAYERS = [
    (("net.0.0.weight", "net.0.0.bias"), "net.0.2.weight"),
    (("net.0.2.weight", "net.0.2.bias"), "net.0.4.weight"),
]


def known(noise: float, members: int = 4) -> Stack:
    """Solutions with spare filters, a little off."""
    start = LIFE.landmark("presolve+zero").flatten().repeat(members, 1)
    generator = torch.Generator().manual_seed(1)
    return LIFE.landmark("presolve").unflatten(start + noise * torch.randn(start.shape, generator=generator))


def by_hand(stack: Stack, member: int) -> list[int]:
    """Units that go, in their order, by copies of the module, one at a time."""
    module = LIFE.network()
    module.load_state_dict(stack.state_dict(member))
    inputs, targets, weights = LIFE._pattern_data
    boards = F.pad(inputs[0].movedim(-1, 0), (0, 0))

    def value(network: torch.nn.Module) -> tuple[bool, float]:
        # The middle of a padded 3 x 3 board sees the whole pattern.
        with torch.no_grad():
            probability = network(boards)[:, 0, 1, 1].double()
        target = targets.flatten().double()
        right = bool(((probability > 0.5) == (target > 0.5)).all())
        return right, float((F.binary_cross_entropy(probability, target, reduction="none") * weights[0]).sum())

    def without(network: torch.nn.Module, unit: int) -> torch.nn.Module:
        smaller = copy.deepcopy(network)
        first, second, third = (smaller.get_submodule(f"net.0.{layer}") for layer in (0, 2, 4))
        made, reader, place = (first, second, unit) if unit < 6 else (second, third, unit - 6)
        for tensor in (made.weight.data[place], made.bias.data[place : place + 1], reader.weight.data[:, place]):
            tensor.zero_()
        return smaller

    there, gone = set(range(9)), list[int]()
    while value(module)[0]:
        tried = {unit: without(module, unit) for unit in there}
        fine = {unit: value(each)[1] for unit, each in tried.items() if value(each)[0]}
        if not fine:
            break
        chosen = min(fine, key=fine.__getitem__)
        there.remove(chosen)
        gone.append(chosen)
        module = tried[chosen]
    return gone


def test_a_plain_loop_over_copies_removes_the_same_units_in_the_same_order() -> None:
    stack = known(0.02)
    pruned, there = prune(LIFE.objective(), stack, LAYERS)
    gone = [by_hand(stack, k) for k in range(len(stack))]
    assert [set((~row).nonzero()[:, 0].tolist()) for row in there] == [set(each) for each in gone]
    _, some = prune(LIFE.objective(), stack, LAYERS, most=2)
    assert [set((~row).nonzero()[:, 0].tolist()) for row in some] == [set(each[:2]) for each in gone]
    assert (LIFE.objective()(pruned)["right"] == 512).all()
    assert (units(pruned, LAYERS) == there).all()


def test_what_is_left_computes_what_a_network_built_without_the_rest_does() -> None:
    stack = known(0.3, 1)
    there = torch.tensor([[True, False, True, True, False, True, True, False, True]])
    own, patterns = left(stack, LAYERS, there).tensors, LIFE._pattern_data[0][0, 0].flatten(0, 1).T.float()
    first, second = there[0, :6], there[0, 6:]
    state = {name: tensor[0].float() for name, tensor in stack.tensors.items()}
    hidden = F.leaky_relu(patterns @ state["net.0.0.weight"][first].flatten(1).T + state["net.0.0.bias"][first])
    weight = state["net.0.2.weight"][second][:, first, 0, 0]
    hidden = F.leaky_relu(hidden @ weight.T + state["net.0.2.bias"][second])
    logits = hidden @ state["net.0.4.weight"][0, second, 0, 0] + state["net.0.4.bias"]
    assert all((own[f"net.0.{layer}.bias"][0, ~kept] == 0).all() for layer, kept in ((0, first), (2, second)))
    answers = LIFE.objective().predictions(Stack(own))
    assert answers.flatten().tolist() == (logits > 0).tolist()


def test_members_that_are_wrong_keep_their_units_unless_a_number_of_them_is_to_go() -> None:
    wrong = initialise(LIFE.prototype, [0, 1])
    stack = concatenate([wrong, known(0.0, 1)])
    _, there = prune(LIFE.objective(), stack, LAYERS)
    assert there.sum(1).tolist() == [9, 9, 3]
    _, there = prune(LIFE.objective(), stack, LAYERS, most=2, right=False)
    assert there.sum(1).tolist() == [7, 7, 1]  # of the solution, which reads three, two
    _, there = prune(LIFE.objective(), known(0.02), LAYERS, most=1)
    assert (there.sum(1) == 8).all()


def test_an_objective_that_counts_nothing_as_right_is_refused() -> None:
    data = (torch.zeros(4, 1), torch.zeros(4, 1))
    line = Problem.from_model(torch.nn.Linear(1, 1), data=data, loss="mse")
    with pytest.raises(LandscapeError, match="no samples as `right`"):
        prune(line.objective(), initialise(line.prototype, [0]), [])
