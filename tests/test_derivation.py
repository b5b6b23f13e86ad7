"""The symmetry of any network: what is derived is exact, complete by other ways of counting, or refused by name."""

import dataclasses
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import landscape
from landscape.analysis.symmetry import caption, rows
from landscape.cli import main
from landscape.core.errors import Mismatch, Unsupported
from landscape.problems.digits import Digits
from landscape.problems.functions import Functions
from landscape.problems.life import Life
from landscape.space.derivation import derive
from landscape.space.symmetry import Axis, Group, Symmetry

# Networks -------------------------------------------------------------------------------------------------------------


def perceptron(activation: type[nn.Module], *sizes: int) -> nn.Sequential:
    layers = [each for pair in itertools.pairwise(sizes) for each in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Two blocks, the second with a projection on its shortcut."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.second, self.short = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.norms = nn.ModuleList([norm(size) for size in (4, 6, 8)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        inner = F.relu(self.norms[1](self.first(x)))
        x = F.relu(self.norms[2](self.second(inner)) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 5, 3, padding=1)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.one, self.two):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.head(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(9, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.leaky_relu(self.down(x))
        deep = F.relu(self.deep(F.max_pool2d(wide, 2)))
        return self.out(torch.cat([wide, F.relu(self.up(deep))], 1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)
        self.out = nn.Linear(8 if options.get("bidirectional") else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True, **options)
        self.embed, self.body = nn.Linear(5, 6), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.embed(x)).mean(1))


class Decoder(nn.Module):
    """Packed queries, keys and values by chunk; the last layer is the embedding."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 6), nn.Parameter(torch.randn(5, 6))
        self.before, self.after = nn.LayerNorm(6), nn.LayerNorm(6)
        self.packed, self.merge = nn.Linear(6, 18), nn.Linear(6, 6)
        self.wide, self.narrow = nn.Linear(6, 7), nn.Linear(7, 6)
        self.last = nn.Linear(6, 9, bias=False)
        if tied:
            self.last.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places[: ids.shape[1]]
        q, k, v = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in self.packed(self.before(x)).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) / 3**0.5).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
        x = x + self.merge((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.last(x + self.narrow(F.gelu(self.wide(self.after(x)))))


def tokens() -> Tensor:
    return torch.arange(10).reshape(2, 5) % 9


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 8, 8)


def normalised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return module


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its inputs, and by hand (size, scales and signs of each unit) of each group, with how many of these
    any linear map could mix.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    groups: tuple[tuple[int, int, int], ...]
    linear: int = 0


CASES = {
    "relu": Case(lambda: perceptron(nn.ReLU, 3, 5, 4, 2), lambda: torch.randn(6, 3), ((5, 1, 0), (4, 1, 0))),
    "tanh": Case(lambda: perceptron(nn.Tanh, 3, 5, 4, 2), lambda: torch.randn(6, 3), ((5, 0, 1), (4, 0, 1))),
    "gelu": Case(lambda: perceptron(nn.GELU, 3, 5, 4, 2), lambda: torch.randn(6, 3), ((5, 0, 0), (4, 0, 0))),
    "softsign": Case(lambda: perceptron(nn.Softsign, 3, 5, 2), lambda: torch.randn(6, 3), ((5, 0, 1),)),
    "linear": Case(lambda: perceptron(nn.Identity, 4, 3, 4), lambda: torch.randn(6, 4), ((3, 1, 1),), linear=1),
    "dropout": Case(
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(5, 2)),
        lambda: torch.randn(6, 3),
        ((5, 1, 0),),
    ),
    "flatten": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)),
        images,
        ((4, 1, 0),),
    ),
    "separable": Case(  # depthwise units are those of the layer before; between them nothing bends
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU6(), nn.Conv2d(8, 2, 6), nn.Flatten()
        ),
        images,
        ((4, 1, 0), (2, 0, 0)),
    ),
    "batchnorm": Case(  # a block's last sum is rectified: no signs, and its norm's outputs scale with it
        lambda: normalised(Residual(nn.BatchNorm2d)), images, ((4, 1, 1), (6, 1, 1), (8, 1, 1))
    ),
    "groupnorm": Case(  # two groups each: whole groups change places, and units inside each
        lambda: normalised(Residual(lambda size: nn.GroupNorm(2, size))),
        images,
        ((2, 0, 1), (2, 1, 0), (2, 1, 0), (2, 0, 1), (3, 1, 0), (3, 1, 0), (2, 0, 1), (4, 1, 0), (4, 1, 0)),
    ),
    "dense": Case(Dense, images, ((4, 1, 0), (5, 1, 0))),
    "unet": Case(UNet, lambda: images(1), ((4, 1, 0), (6, 1, 0), (5, 1, 0))),
    "lstm": Case(lambda: Recurrent(nn.LSTM), lambda: torch.randn(2, 4, 3), ((4, 0, 1),)),
    "lstms": Case(
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), lambda: torch.randn(2, 3, 3), ((4, 0, 1),) * 4
    ),
    "gru": Case(lambda: Recurrent(nn.GRU), lambda: torch.randn(2, 4, 3), ((4, 0, 1),)),
    "rnn": Case(lambda: Recurrent(nn.RNN, nonlinearity="relu"), lambda: torch.randn(2, 4, 3), ((4, 1, 0),)),
    # The stream, free behind the last norm alone; heads with two kinds of scales and signs, units of queries and keys,
    # of values and outputs, and the wide layer.
    "encoder": Case(
        lambda: normalised(Encoder()),
        lambda: torch.randn(2, 4, 5),
        ((6, 1, 1), *((2, 2, 2), (3, 1, 1), (3, 1, 1), (10, 1, 0)) * 2),
        linear=4,
    ),
    # The residual stream bends in norms alone, behind each of which its scales and signs are free.
    "decoder": Case(
        lambda: normalised(Decoder(tied=False)), tokens, ((6, 2, 2), (2, 2, 2), (3, 1, 1), (3, 1, 1), (7, 0, 0)), 2
    ),
    "tied": Case(
        lambda: normalised(Decoder(tied=True)), tokens, ((6, 2, 2), (2, 2, 2), (3, 1, 1), (3, 1, 1), (7, 0, 0)), 2
    ),
    "weight norm": Case(  # the length of a direction is free, and its sign goes with that of the scale
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 5)), nn.ReLU(), nn.Linear(5, 2)),
        lambda: torch.randn(6, 3),
        ((5, 2, 1),),
    ),
    "glu": Case(  # a half that is gated scales with what reads it
        lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2)), lambda: torch.randn(6, 3), ((4, 1, 1),)
    ),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return CASES[name].make().double().eval(), CASES[name].inputs()


def moved(state: dict[str, Tensor], group: Group, rng: np.random.Generator) -> dict[str, Tensor]:
    """A random element of a group applied unit by unit, place by place."""
    order = rng.permutation(group.size) if group.permutes else np.arange(group.size)
    scales = [rng.uniform(0.5, 2, group.size) for _ in group.scalings]
    signs = [rng.choice([-1.0, 1.0], group.size) for _ in group.flips]
    found = dict(state)
    for number, axis in enumerate(group.axes):
        old, new = found[axis.name].movedim(axis.dim, 0), found[axis.name].clone()
        for unit in range(group.size):
            factor = float(
                np.prod([s[unit] ** row[number] for s, row in zip(scales, group.scalings, strict=True)])
                * np.prod([s[unit] ** row[number] for s, row in zip(signs, group.flips, strict=True)])
            )
            for o, i in itertools.product(range(axis.outer), range(axis.inner)):
                here, there = (
                    axis.start + (o * group.size + each) * axis.inner + i for each in (unit, int(order[unit]))
                )
                new.movedim(axis.dim, 0)[here] = old[there] * factor
        found[axis.name] = new
    return found


# What is derived is a symmetry ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_random_elements_of_each_group_leave_the_outputs(name: str) -> None:
    network, inputs = made(name)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    before, rng = network(inputs), np.random.default_rng(1)
    found = derive(network, inputs)
    for groups in [*([group] for group in found), list(found)]:
        other = state
        for group in groups:
            other = moved(other, group, rng)
        for alias in ("last.weight",) if name == "tied" else ():
            other[alias] = other["tokens.weight"]
        assert any(not torch.equal(other[key], state[key]) for key in state) or len(groups) == 1
        network.load_state_dict(other)
        assert float((network(inputs) - before).abs().max()) < 1e-10 * float(before.abs().max())


class Chain(nn.Module):
    """Steps drawn at random between two layers, on 12 units, with parameters made as they ask for them."""

    STEPS: ClassVar[dict[str, Callable[[Any, Tensor], Tensor]]] = {
        "relu": lambda w, x: F.relu(x),
        "tanh": lambda w, x: torch.tanh(x),
        "square": lambda w, x: x * x,
        "layer": lambda w, x: x @ w(12, 12) + w(12),
        "tied": lambda w, x: F.relu(x @ w(12, 12, name="t")) @ w(12, 12, name="t").T,
        "residual": lambda w, x: x + F.relu(x @ w(12, 12)) @ w(12, 12),
        "scaled": lambda w, x: x * w(3, 12)[1],
        "layer norm": lambda w, x: F.layer_norm(x, (12,), w(12), w(12)),
        "group norm": lambda w, x: F.group_norm(x, 3, w(12), w(12)),
        "crossed": lambda w, x: torch.cat([x[:, 5:], x[:, :5].sin()], 1),
        "doubled": lambda w, x: torch.cat([x, x.tanh()], 1) @ w(24, 12),
        "heads": lambda w, x: (x.view(-1, 3, 4) @ w(4, 4)).reshape(-1, 12),
        "shuffled": lambda w, x: x.view(-1, 3, 4).transpose(1, 2).reshape(-1, 12),
        "folded": lambda w, x: sum(x.chunk(3, 1), torch.zeros(())).repeat(1, 3),
        "gated": lambda w, x: torch.cat([x[:, :6] * x[:, 6:], x[:, :6]], 1),
        "parts": lambda w, x: torch.stack([x, x @ w(12, 12)]).unbind(0)[1],
        "attention": lambda w, x: (
            F.scaled_dot_product_attention(*(x @ w(12, 36)).view(1, -1, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0))
            .transpose(1, 2)
            .reshape(-1, 12)
        ),
        "groups": lambda w, x: F.conv1d(x[:, :, None], w(12, 4, 1), groups=3)[:, :, 0],
        "depthwise": lambda w, x: F.conv1d(x[:, :6, None], w(12, 1, 1), groups=6)[:, :, 0],
        "padded": lambda w, x: F.pad(x[:, :8], (1, 3)),
        "over": lambda w, x: F.pad(x, (0, 0)).clone()[:, :6].relu_().repeat_interleave(2, 1),
        "masked": lambda w, x: x.masked_fill(torch.arange(12) > 5, 0.0),
        "unit length": lambda w, x: F.normalize(x, dim=1),
        "in order": lambda w, x: x.cumsum(1),
        "outer": lambda w, x: (x[:, :3, None] * x[:, None, :4]).flatten(1),
    }

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__()
        self.steps, self.weights = steps, nn.ParameterDict()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)
        self(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for number, step in enumerate(self.steps):
            calls = itertools.count()

            def weight(*shape: int, name: str = "", number: int = number, calls: Any = calls) -> Tensor:
                key = f"{number}_{name or next(calls)}"
                if key not in self.weights:
                    self.weights[key] = nn.Parameter(torch.randn(*shape) / 2)
                return self.weights[key]

            x = self.STEPS[step](weight, x)
        return self.last(x)


@pytest.mark.parametrize("seed", range(8))
def test_chains_of_steps_drawn_at_random_keep_their_outputs(seed: int) -> None:
    """`derive` tries what it finds on the network, and raises an error where it was wrong."""
    rng, groups = random.Random(seed), 0
    for _ in range(12):
        steps = rng.choices(list(Chain.STEPS), k=rng.choice([1, 2, 3]))
        torch.manual_seed(seed)
        groups += len(derive(Chain(steps), torch.randn(4, 5)))
    assert groups > 5


# It is complete -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_stated_by_hand(name: str) -> None:
    network, inputs = made(name)
    found = derive(network, inputs)
    told = Counter((group.size, len(group.scalings), len(group.flips)) for group in found)
    assert told == Counter(CASES[name].groups)
    assert all(group.permutes for group in found)
    assert len(found.unquotiented) == CASES[name].linear
    assert not found.refused


@pytest.mark.parametrize(
    ("name", "further"),
    [("relu", 0), ("tanh", 0), ("glu", 0), ("flatten", 0), ("linear", 3), ("rnn", 4), ("lstm", 16)],
)
def test_directions_in_which_nothing_changes_are_as_many_as_scales(name: str, further: int) -> None:
    """Of a generic network the outputs on much data have derivatives in all directions but those of rescalings, of
    linear maps where any would do, and those `further` ones of biases: two that are added, or one behind another with
    nothing between."""
    network, inputs = made(name)
    parameters = dict(network.named_parameters())
    torch.manual_seed(4)  # at which no unit is off, or on, for all of the data
    for tensor in parameters.values():
        nn.init.normal_(tensor, std=0.5)
    count = sum(tensor.numel() for tensor in parameters.values())
    samples = 3 * count // network(inputs.double())[0].numel() + 1
    inputs = 2 * torch.randn(samples, *inputs.shape[1:], dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(network, p, (inputs,)).flatten())(parameters)
    matrix = torch.cat([jacobian[key].flatten(1) for key in parameters], 1).detach()
    values = torch.linalg.svdvals(matrix)
    still = count - int((values > 1e-9 * values[0]).sum())
    sizes = [group.size ** (2 if name == "linear" else 1) * len(group.scalings) for group in derive(network, inputs)]
    assert still == sum(sizes) + further


def test_no_other_order_or_sign_keeps_a_tiny_network() -> None:
    torch.manual_seed(0)
    network = perceptron(nn.Tanh, 2, 3, 1).double()
    x = torch.randn(20, 2, dtype=torch.float64)
    weight, bias, last, _ = (each.detach() for each in network.parameters())
    signed = [
        (list(order), torch.tensor(signs, dtype=torch.float64))
        for order in itertools.permutations(range(3))
        for signs in itertools.product([1.0, -1.0], repeat=3)
    ]
    wanted, kept = torch.tanh(x @ weight.T + bias) @ last.T, 0
    for (order, signs), (reading, back) in itertools.product(signed, repeat=2):
        hidden = torch.tanh(x @ (weight[order] * signs[:, None]).T + bias[order] * signs)
        kept += bool((hidden @ (last[:, reading] * back).T - wanted).abs().max() < 1e-9)
    (group,) = derive(network, x)
    assert kept == 6 * 2 ** (3 * len(group.flips)) == 48


def test_by_hand_the_shipped_problems_have_these_groups() -> None:
    """What they stated before it was derived."""

    def units(size: int, here: str, following: str, *along: str) -> tuple[int, frozenset[Axis]]:
        axes = (Axis(f"{here}.weight", 0), Axis(f"{here}.bias", 0), Axis(f"{following}.weight", 1))
        return size, frozenset((*axes, *(Axis(name, 0) for name in along)))

    def told(symmetry: Symmetry) -> list[tuple[int, frozenset[Axis]]]:
        return [(group.size, frozenset(group.axes)) for group in symmetry]

    assert told(Functions(width=4, depth=2).symmetry()) == [
        units(4, "hidden1", "hidden2"),
        units(4, "hidden2", "out"),
    ]
    assert told(Digits(width=5, depth=1).symmetry()) == [units(5, "hidden1", "out")]
    kinds = ("weight", "bias", "running_mean", "running_var")
    assert told(Digits(width=3, architecture="cnn_bn").symmetry()) == [
        units(3, "conv1", "conv2", *(f"norm1.{kind}" for kind in kinds)),
        units(6, "conv2", "out", *(f"norm2.{kind}" for kind in kinds)),
    ]
    assert told(Life(m_factor=2).symmetry()) == [units(4, "net.0.0", "net.0.2"), units(2, "net.0.2", "net.0.4")]
    paper = Life(m_factor=2, steps=2, architecture="paper", board="5x5", activation="gelu")
    assert told(paper.symmetry()) == [
        units(4, "net.0.0", "net.0.2"),
        units(2, "net.0.2", "net.1.0"),
        units(4, "net.1.0", "net.1.2"),
        units(2, "net.1.2", "out"),
    ]
    # The channel between two blocks has no order, but a scale.
    assert Life(m_factor=2, steps=2, board="5x5").symmetry().sizes == (4, 2, 1, 4, 2)


# What cannot be derived is refused by name ----------------------------------------------------------------------------


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2


class Calling(nn.Module):
    """Two layers and something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.other, self.between = nn.Linear(3, 4), nn.Linear(4, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.between(self.one(x)))


def of(between: Callable[[Tensor], Tensor]) -> Symmetry:
    torch.manual_seed(0)
    return derive(Calling(between), torch.randn(5, 3))


def test_an_operation_without_a_rule_holds_what_it_reads_and_is_named() -> None:
    found = of(torch.i0)
    assert not found
    assert found.refused == ("Calling: no rule for aten.i0, so 4 units stay in their order",)


def test_an_operator_of_ones_own_is_refused_by_its_name() -> None:
    @torch.library.custom_op("landscape_test::mirror", mutates_args=())
    def mirror(x: Tensor) -> Tensor:
        return x.flip(-1)

    assert of(lambda x: mirror(x)).refused == (
        "Calling: no rule for landscape_test.mirror, so 4 units stay in their order",
    )


def test_a_function_with_a_derivative_of_its_own_is_what_it_performs() -> None:
    (group,) = of(Twice.apply)
    assert (group.size, len(group.scalings)) == (4, 1)


def test_a_constant_that_tells_units_apart_is_named() -> None:
    table = torch.arange(4.0)
    found = of(lambda x: torch.tanh(x + table.to(x.dtype)))
    assert not found
    assert found.refused == ("Calling: a constant of shape [4] tells 4 units apart",)
    (group,) = of(lambda x: torch.relu(x * (table.to(x.dtype) + 1)))
    assert not group.permutes
    assert group.scalings == ((1, 1, -1),)


def test_order_along_a_dimension_that_matters_holds_it() -> None:
    for between in (lambda x: x.cumsum(-1), lambda x: x.flip(-1), lambda x: x.sort(-1).values):
        assert not of(between)


def test_an_activation_is_followed_piece_by_piece() -> None:
    """Whatever is made of operations with rules needs none of its own."""
    cases: list[tuple[Callable[[Tensor], Tensor], int, int]] = [
        (lambda x: x * (x > 0), 1, 0),
        (lambda x: x.clamp(min=0), 1, 0),
        (lambda x: x.abs(), 1, 1),
        (lambda x: x.square(), 1, 1),
        (lambda x: x / (1 + x.abs()), 0, 1),
        (lambda x: x.clamp(-1, 1), 0, 1),
        (lambda x: x.clamp(0, 6), 0, 0),
        (lambda x: torch.where(x > 0, x, 0.1 * x), 1, 0),
        (lambda x: x * torch.sigmoid(x), 0, 0),
        (lambda x: x.sin(), 0, 1),
        (lambda x: x.cos(), 0, 1),
        (lambda x: torch.maximum(x, -x / 3), 1, 0),
        (lambda x: x * x * x, 1, 1),
    ]
    for number, (between, scales, signs) in enumerate(cases):
        (group,) = of(between)
        assert (len(group.scalings), len(group.flips)) == (scales, signs), number
        assert group.permutes


def test_a_square_halves_the_power_that_is_read() -> None:
    assert of(torch.square)[0].scalings == ((1, 1, -2),)


def test_a_forward_that_looks_at_values_of_parameters_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"Calling looks at values that depend on parameters in Python"):
        of(lambda x: x if x.sum() > 0 else -x)


def test_a_forward_that_looks_at_its_inputs_says_so() -> None:
    class Reading(Calling):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.max() > 0 else -x)

    found = derive(Reading(torch.relu), torch.randn(5, 3))
    assert found.sizes == (4,)
    assert found.refused == (
        "Reading looks at values of its inputs in Python: the symmetry is that on inputs like these",
    )


def test_what_leaves_pytorch_is_found_by_trying() -> None:
    with pytest.raises(Unsupported, match="computes something outside of PyTorch's operations"):
        of(lambda x: torch.relu(x) + torch.from_numpy(x.numpy()[:, :1]))


def test_a_network_that_does_not_run_is_an_error_of_one_line() -> None:
    with pytest.raises(Mismatch, match=r"Linear does not run where its symmetry is derived.*: RuntimeError: mat1"):
        derive(nn.Linear(3, 2), torch.randn(5, 4))


def test_writing_over_tensors_is_followed_or_refused() -> None:
    def over(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1).relu_()
        return x.mul_(2).add_(x)

    def into(x: Tensor) -> Tensor:
        found = torch.zeros(len(x), 6, dtype=x.dtype)
        found[:, 1:5] = x
        return found[:, 1:5]

    assert of(over)[0].scalings == ((1, 1, -1),)
    found = of(into)
    assert not found
    assert found.refused[0].startswith("Calling: no rule for writing into a part of a tensor of shape")


def test_units_that_only_some_networks_tell_apart_are_held() -> None:
    """Parameters that are read by number are no units; those that nothing reads have no symmetry."""

    class Picking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.unused = nn.Parameter(torch.randn(5, 3)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.table[[0, 2]].T

    assert not derive(Picking(), torch.randn(4, 3))


def test_the_network_stays_as_it_is_and_settings_are_put_back() -> None:
    network, inputs = made("batchnorm")
    network.train()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    before = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    derive(network, inputs)
    assert network.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before[1:]
    assert torch.get_default_dtype() == torch.float32


# Problems, and the verb -----------------------------------------------------------------------------------------------


def test_a_model_of_ones_own_knows_its_symmetry() -> None:
    data = torch.randn(20, 3), torch.randn(20, 1)
    problem = landscape.Problem.from_model(perceptron(nn.ReLU, 3, 4, 1), data, "mse")
    assert landscape.symmetry(problem=problem).sizes == (4,)
    assert landscape.symmetry(perceptron(nn.ReLU, 3, 4, 1), problem=problem) is problem.symmetry()


def test_a_loss_of_a_batch_is_followed_where_it_reads_the_network() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = perceptron(nn.Tanh, 3, 4, 2), perceptron(nn.ReLU, 2, 5, 3)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        x = batch.pop("x")
        return (model.decode(model.encode(x)) - x).square().mean()

    problem = landscape.Problem.from_model(Parts(), {"x": torch.randn(20, 3)}, batch_loss=loss)
    assert problem.symmetry().sizes == (4, 2, 5)
    assert problem.symmetry().unquotiented == (
        "decode.0: any invertible linear map of the 2 units of encode.2.weight, encode.2.bias, decode.0.weight",
    )


def test_a_loss_with_derivatives_has_the_symmetry_of_the_forward() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return (torch.autograd.grad(model(x).sum(), x, create_graph=True)[0] - 1).square().mean()

    problem = landscape.Problem.from_model(perceptron(nn.Tanh, 3, 4, 1), torch.randn(20, 3), batch_loss=loss)
    (group,) = problem.symmetry()
    assert (group.size, len(group.flips)) == (4, 1)


def test_losses_are_no_operations_that_hold_units() -> None:
    """What follows the outputs of a network, which stay as they are, is not its symmetry's business."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1] % 3, weight=torch.tensor([1.0, 2.0, 3.0]))

    data = torch.randn(20, 3), torch.arange(20)
    problem = landscape.Problem.from_model(perceptron(nn.ReLU, 3, 4, 3), data, batch_loss=loss)
    assert problem.symmetry().sizes == (4,)
    assert not problem.symmetry().refused


def test_the_verb_shows_groups_and_what_is_held(tmp_path: Path) -> None:
    def shown(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["analyse", "symmetry", *arguments])

    told = shown("--problem", "life", "-O", "m_factor=2", "-o", str(tmp_path / "life.json")).stdout.splitlines()
    assert told[0] == "2 groups of 6 units: 48 orders, 6 scales and 0 signs that are free"
    assert " ".join(told[3].split()) == "0 4 yes 1 0 net.0.0.weight, net.0.0.bias, net.0.2.weight"
    document = json.loads((tmp_path / "life.json").read_text())["symmetry"]
    assert document["groups"][1]["axes"][2] == {"name": "net.0.4.weight", "dim": 1, "start": 0, "outer": 1, "inner": 1}
    nothing = shown()
    assert nothing.exit_code == 1
    assert nothing.stderr == "Error: networks have a symmetry: name a place, or a --problem\n"


def test_groups_without_orders_and_held_units_are_told() -> None:
    found = of(lambda x: torch.relu(x * torch.arange(1.0, 5).to(x.dtype)))
    assert caption(found) == "1 group of 4 units: 1 order, 4 scales and 0 signs that are free"
    assert rows(found) == [[0, 4, "no", 1, 0, "one.weight, one.bias, other.weight"]]
    assert caption(of(torch.i0)) == "no units are known whose order, scale or sign could be changed"


def test_a_problem_without_symmetry_says_why() -> None:
    def between(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    data = torch.randn(20, 3), torch.randn(20, 2)
    problem = landscape.Problem.from_model(Calling(between), data, "mse")
    assert not problem.symmetry()
    assert "looks at values that depend on parameters" in problem.symmetry().refused[0]
    with pytest.raises(landscape.LandscapeError, match=r"no symmetry of Calling is known \(Calling looks at values"):
        landscape.walk(Calling(between), Calling(between), problem=problem, points=3, align=True)
