"""Networks of every kind through the stacked engine, against their own forward, member by member."""

import logging
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS
from torch import Tensor, nn

from landscape.core.errors import Mismatch, Unsupported
from landscape.engine.program.graph import Program
from landscape.engine.stack import Stack, template_of
from landscape.engine.stacked import Stacked, Statistics

MEMBERS, SAMPLES = 3, 7


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def stack_of(module: nn.Module) -> Stack:
    """Random members; variances are positive, masks stay."""
    template = template_of(module)
    tensors = {name: numbers(MEMBERS, *tensor.shape[1:]) / 2 for name, tensor in template.tensors.items()}
    buffers = {}
    for name, tensor in template.buffers.items():
        own = tensor.expand(MEMBERS, *tensor.shape[1:])
        random = numbers(*own.shape, seed=1)
        buffers[name] = random.exp() if name.endswith("var") else random if name.endswith("_mean") else own.clone()
    return Stack(tensors, buffers)


def data_of(name: str, *, shared: bool) -> Tensor:
    """[1 or member, *feature, sample]; tokens for language models."""
    shape = (1 if shared else MEMBERS, *NETWORKS[name][1], SAMPLES)
    if name.startswith("gpt"):
        return torch.randint(11, shape, generator=torch.Generator().manual_seed(0))
    return numbers(*shape)


def referee(module: nn.Module, stack: Stack, inputs: Tensor) -> Tensor:
    """From PyTorch alone, in the module's present mode; differentiable in the stack."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = [
            torch.func.functional_call(module, stack.state_dict(i), (inputs[i % len(inputs)].movedim(-1, 0).clone(),))
            for i in range(len(stack))
        ]
    return torch.stack([each.movedim(0, -1) for each in outputs])


def network_of(name: str, backend: str | None = None) -> tuple[Stacked, nn.Module, Stack]:
    torch.manual_seed(0)
    module = NETWORKS[name][0]().double().eval()
    return Stacked(module, backend=backend), module, stack_of(module)  # type: ignore[arg-type]


def derivatives(function: Callable[[Stack], Tensor], stack: Stack) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, the gradient of a probe of them, and a product of its Hessian with a vector."""
    flat = stack.flatten().requires_grad_()
    outputs = function(Stack(stack.unflatten(flat).tensors, stack.buffers))
    (gradient,) = torch.autograd.grad((outputs * numbers(*outputs.shape)).sin().sum(), flat, create_graph=True)
    (product,) = torch.autograd.grad((gradient * numbers(*gradient.shape, seed=2)).sum(), flat)
    return outputs.detach(), gradient.detach(), product


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="landscape")


#: Forwards that cannot be traced, since they make tensors of sizes or change some in place, and what serves them.
OPAQUE = {"torch's encoder": "vmap", "in place": "vmap"}


@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "data a member"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_derivatives_are_the_modules_own(name: str, shared: bool, caplog: pytest.LogCaptureFixture) -> None:
    network, module, stack = network_of(name)
    inputs = data_of(name, shared=shared)
    before = inputs.clone()
    with torch.no_grad():
        values = network(stack, inputs)
    assert network.backend == OPAQUE.get(name, "stacked")
    assert not caplog.records
    got = derivatives(lambda moved: network(moved, inputs), stack)
    wanted = derivatives(lambda moved: referee(module, moved, inputs), stack)
    torch.testing.assert_close(values, got[0], rtol=1e-12, atol=1e-13)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert torch.equal(inputs, before)
    for position, result in network.trace(stack, inputs) if network.backend == "stacked" else ():
        assert result.ndim > 1, position


@pytest.mark.parametrize("backend", ["vmap", "loop"])
@pytest.mark.parametrize("name", ["resnet", "encoder", "gpt", "functional", "tied", "norms on shared data"])
def test_the_other_backends_have_derivatives_too(name: str, backend: str) -> None:
    network, module, stack = network_of(name, backend)
    inputs = data_of(name, shared=True)
    got = derivatives(lambda moved: network(moved, inputs), stack)
    wanted = derivatives(lambda moved: referee(module, moved, inputs), stack)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("unknown layer", ["1"]),
        ("recurrent", ["lstm"]),
        ("u-net", ["down1.1", "down2.2", "interpolate", "up", "transposed"]),
        ("depthwise", ["depthwise", "multiplied", "grouped"]),
        ("resnet", []),
        ("functional", ["prelu"]),
    ],
)
def test_only_what_no_table_knows_runs_member_by_member(name: str, steps: list[str]) -> None:
    assert [step.name for step in Program.of(NETWORKS[name][0]().eval()).by_member] == steps


# Statistics of the batch ----------------------------------------------------------------------------------------------

NORMALISED = ["mlp", "cnn", "norms on shared data", "resnet", "depthwise", "one dimension", "features of a sequence"]


def in_training(module: nn.Module) -> nn.Module:
    """BatchNorm in training, which keeps only the newest batch."""
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.train()
            each.momentum = 1.0
    return module


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "data a member"])
@pytest.mark.parametrize("name", NORMALISED)
def test_statistics_of_the_batch_are_those_of_training(name: str, shared: bool, backend: str) -> None:
    network, module, stack = network_of(name, backend)
    inputs = data_of(name, shared=shared)
    real = torch.tensor([True, True, False, True, True, True, False])
    before = {key: tensor.clone() for key, tensor in stack.buffers.items()}
    collector = Statistics(real)
    got = derivatives(lambda moved: network(moved, inputs, statistics=collector)[..., real], stack)
    wanted = derivatives(lambda moved: referee(in_training(module), moved, inputs[..., real]), with_copies(stack))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert all(torch.equal(tensor, before[key]) for key, tensor in stack.buffers.items())

    assert set(collector.found) == {
        f"{each}.{key}" for each in network.normalises for key in ("running_mean", "running_var")
    }
    trained = with_copies(stack)
    with torch.no_grad():
        referee(module, trained, inputs[..., real])
    for key, found in collector.found.items():
        assert not found.requires_grad
        torch.testing.assert_close(found, trained.buffers[key], rtol=1e-10, atol=1e-12)

    every, all_real = Statistics(), Statistics(torch.ones(SAMPLES, dtype=torch.bool))
    with torch.no_grad():
        outputs = [network(stack, inputs, None, each) for each in (every, all_real)]
    assert torch.equal(*outputs)
    assert not torch.allclose(outputs[0][..., real], got[0])
    assert all(torch.equal(every.found[key], all_real.found[key]) for key in collector.found)


def with_copies(stack: Stack) -> Stack:
    """The stack with buffers of its own, which a forward in training writes over."""
    return Stack(stack.tensors, {key: tensor.clone() for key, tensor in stack.buffers.items()})


def test_names_and_momentum_of_normalisations() -> None:
    network, *_ = network_of("resnet")
    assert network.normalises == (
        "stem.1", "layers.0.bn1", "layers.0.bn2", "layers.1.bn1", "layers.1.bn2", "layers.1.downsample.1",
    )  # fmt: skip
    module = nn.Sequential(nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=0.3))
    assert Stacked(module).momentum == {"0": None, "1": 0.3}
    assert network_of("statistics of the batch")[0].normalises == ()
    assert Stacked(nn.BatchNorm1d(3)).normalises == ("",)


def test_one_number_has_no_variance() -> None:
    network, _, stack = network_of("mlp")
    with pytest.raises(Mismatch, match=r"BatchNorm layer 1 needs two numbers or more of each feature"):
        network(stack, numbers(1, 5, 1), None, Statistics())


class Hidden(nn.Module):
    """Normalisation inside a layer that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) if x.ndim == 2 else x


def test_statistics_that_the_stacked_engine_cannot_reach_come_from_the_loop() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Hidden()).double()
    stack, inputs, collector = stack_of(module), numbers(1, 4, SAMPLES), Statistics()
    network = Stacked(module)
    got = network(stack, inputs, None, collector)
    assert network.backend == "stacked"
    wanted = Statistics()
    torch.testing.assert_close(got, Stacked(module, backend="loop")(stack, inputs, None, wanted))
    assert collector.found.keys() == {"1.norm.running_mean", "1.norm.running_var"}
    with pytest.raises(Unsupported, match='finds no statistics inside 1: use `engine="plain"`'):
        Stacked(module, backend="stacked")(stack, inputs, None, collector)


# Randomness of training -----------------------------------------------------------------------------------------------


def noise(seed: int = 0) -> Callable[[int, tuple[int, ...]], Tensor]:
    def draw(layer: int, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(MEMBERS, *shape, generator=torch.Generator().manual_seed(1000 * seed + layer))

    return draw


@pytest.mark.parametrize("name", ["functional", "encoder", "torch's encoder", "gpt", "cnn"])
def test_dropout_anywhere_is_drawn_from_the_noise(name: str) -> None:
    network, _, stack = network_of(name)
    inputs = data_of(name, shared=True)
    assert network.stochastic
    with torch.no_grad():
        plain, one, again, other = (network(stack, inputs, each) for each in (None, noise(), noise(), noise(1)))
    assert network.backend == OPAQUE.get(name, "stacked")
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, plain)
    assert network_of("resnet")[0].stochastic is False


class DropsAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def test_dropout_keeps_the_mean_of_attention() -> None:
    module = DropsAttention()
    stack, inputs = stack_of(module.double()), numbers(1, 3, 4, 1).expand(1, 3, 4, 20_000)
    network = Stacked(module)
    with torch.no_grad():
        got, wanted = network(stack, inputs, noise()), network(stack, inputs[..., :1])
    torch.testing.assert_close(got.mean(-1, keepdim=True), wanted, rtol=0.05, atol=0.05)


class Noisy(nn.Module):
    """Randomness of its own in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


def test_randomness_that_cannot_be_drawn_comes_from_the_loop() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Noisy()).double()
    stack, inputs = stack_of(module), numbers(1, 4, 3000)
    network = Stacked(module)
    assert network.stochastic
    plain = network(stack, inputs)
    one, again, other = (network(stack, inputs, each) for each in (noise(), noise(), noise(1)))
    assert network.backend == "stacked"
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    difference = one - plain  # which has the statistics of evaluation in it
    assert abs(float(difference.mean())) < 0.03
    assert abs(float(difference.std()) - 1) < 0.03
    assert not torch.equal(difference[0], difference[1])
    with pytest.raises(Unsupported, match='cannot draw the random numbers of randn_like: use `engine="plain"`'):
        Stacked(module, backend="stacked")(stack, inputs, noise())


class Drops(nn.Module):
    """Dropout in code that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training) if x.sum() != 0 else x


def test_randomness_inside_a_step_that_cannot_be_traced_comes_from_the_loop() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Drops()).double()
    network, stack, inputs = Stacked(module), stack_of(module), numbers(1, 4, SAMPLES)
    plain = network(stack, inputs)
    assert network.backend == "stacked"
    assert network.stochastic
    one, again, other = (network(stack, inputs, each) for each in (noise(), noise(), noise(1)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain)
    with pytest.raises(Unsupported, match='cannot draw the random numbers of 1: use `engine="plain"`'):
        Stacked(module, backend="stacked")(stack, inputs, noise())


@pytest.mark.parametrize("random", [True, False])
def test_randomness_of_what_cannot_be_traced_is_seen_once_there_is_data(random: bool) -> None:
    module = nn.Sequential(OrderedDict(branch=Branch(), drops=Drops() if random else nn.Identity())).double()
    network, stack, inputs = Stacked(Wrapped(module)), stack_of(Wrapped(module)), numbers(1, 4, SAMPLES)
    network.widest(inputs)
    assert network.backend == "loop"
    assert network.stochastic is random
    one, other = (network(stack, inputs, noise(seed)) for seed in (0, 1))
    assert torch.equal(one, other) is not random


@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_functional_dropout_is_seen_by_every_backend(backend: str) -> None:
    assert network_of("functional", backend)[0].stochastic


class Wrapped(nn.Module):
    """Control flow around another module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() < 1e9 else x


# The choice of a backend ----------------------------------------------------------------------------------------------


class Branch(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if y.sum() > 0 else -y


class Alias(nn.Module):
    """A view whose changes the program does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        F.relu(y[:, :1], inplace=True)
        return y


def test_control_flow_by_data_falls_back_to_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    module = Branch().double()
    network, stack, inputs = Stacked(module), stack_of(module), numbers(1, 4, SAMPLES)
    assert network.backend == "vmap"
    torch.testing.assert_close(network(stack, inputs), referee(module, stack, inputs))
    assert network.backend == "loop"
    assert len(caplog.records) == 1
    assert "torch.func.vmap cannot run this module" in caplog.text
    assert caplog.text.rstrip().endswith("falling back to backend loop")
    with pytest.raises(Unsupported, match=r'cannot trace Branch.forward \(TraceError: .* use `engine="plain"`'):
        Stacked(module, backend="stacked")


class Asserts(nn.Module):
    """A condition on the data's size, which a tracer cannot decide."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(1) <= 4, "too long"
        return self.inner(x)


def test_what_asserts_is_left_to_vmap(caplog: pytest.LogCaptureFixture) -> None:
    """Alone by vmap; within another network that layer by itself, member by member."""
    inputs = numbers(1, 4, SAMPLES)
    for module, backend in ((Asserts().double(), "vmap"), (nn.Sequential(nn.ReLU(), Asserts()).double(), "stacked")):
        network, stack = Stacked(module), stack_of(module)
        torch.testing.assert_close(network(stack, inputs), referee(module, stack, inputs))
        assert network.backend == backend
    assert not caplog.records


class ReadsLater(nn.Module):
    """A layer in place whose data is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return self.relu(y) + y


def test_what_is_changed_in_place_and_read_later_is_left_to_vmap(caplog: pytest.LogCaptureFixture) -> None:
    module = ReadsLater().double()
    network, stack, inputs = Stacked(module), stack_of(module), numbers(1, 4, SAMPLES)
    torch.testing.assert_close(network(stack, inputs), referee(module, stack, inputs))
    assert network.backend == "vmap"
    assert not caplog.records
    with pytest.raises(Unsupported, match='relu changes in place what is read later: use `engine="plain"`'):
        Stacked(module, backend="stacked")


class PadsTokens(nn.Module):
    """An embedding with padding in code that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3, padding_idx=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x) if x.shape[-1] < 9 else x


@pytest.mark.parametrize("alone", [False, True])
def test_padding_of_embeddings_is_not_left_to_vmap(alone: bool) -> None:
    """Whose derivatives of all members but the first ignore it where they read other tokens."""
    module = (PadsTokens() if alone else nn.Sequential(PadsTokens(), nn.Tanh())).double()
    network, stack = Stacked(module), stack_of(module)
    inputs = torch.tensor([[0, 1, 1], [1, 2, 1], [3, 1, 0]])[:, None]
    got = derivatives(lambda moved: network(moved, inputs), stack)
    wanted = derivatives(lambda moved: referee(module, moved, inputs), stack)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert network.backend == ("loop" if alone else "stacked")
    with pytest.raises(Unsupported, match='vmap forgets the `padding_idx` of embeddings: use `engine="plain"`'):
        Stacked(module, backend="vmap")(stack, inputs)


def test_a_program_that_is_wrong_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    module = Alias().double()
    network, stack, inputs = Stacked(module), stack_of(module), numbers(1, 4, SAMPLES)
    assert network.backend == "stacked"
    torch.testing.assert_close(network(stack, inputs), referee(module, stack, inputs))
    assert network.backend == "vmap"
    assert "stacked backend differs from the plain module by" in caplog.text
    with pytest.raises(Unsupported, match=r'differs from the plain module by .*: use `engine="plain"`'):
        Stacked(module, backend="stacked")(stack, inputs)


class Several(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> object:
        y = self.inner(x)
        return {"tuple": (y, x), "dict": {"logits": y}, "number": y.sum()}[self.kind]


@pytest.mark.parametrize("backend", [None, "vmap", "loop"])
@pytest.mark.parametrize("kind", ["tuple", "dict", "number"])
def test_what_a_forward_must_return(kind: str, backend: str | None) -> None:
    module = Several(kind).double()
    with pytest.raises(Unsupported, match=f"forward returns a {kind}: wrap the module in one that returns one tensor"):
        Stacked(module, backend=backend)(stack_of(module), numbers(1, 4, 3))  # type: ignore[arg-type]


def test_what_a_forward_must_take() -> None:
    with pytest.raises(Unsupported, match=r"takes 2 inputs \(input1, input2\): wrap the module in one whose forward"):
        Stacked(nn.Bilinear(2, 2, 2))


def test_widths() -> None:
    network, *_ = network_of("resnet")
    inputs = data_of("resnet", shared=True)
    assert network.widest(inputs) == 4 * 9 * 36  # what the second convolution reads
    assert network_of("resnet", "vmap")[0].widest(inputs) == 4 * 36
    network, *_ = network_of("gpt")
    assert network.widest(data_of("gpt", shared=True)) == 6 * 24
    assert network_of("depthwise")[0].widest(data_of("depthwise", shared=True)) == 4 * 7 * 6


def test_tied_parameters_and_buffers_of_the_module_serve_where_a_stack_lacks_them() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    stack = stack_of(module)
    alone = Stack(stack.tensors)
    for backend in ("stacked", "vmap", "loop"):
        network = Stacked(module, backend=backend)  # type: ignore[arg-type]
        inputs = numbers(1, 4, SAMPLES)
        torch.testing.assert_close(network(alone, inputs), referee(module.eval(), alone, inputs))
        collector = Statistics()
        network(alone, inputs, None, collector)
        assert collector.found["1.running_var"].shape == (MEMBERS, 4)
