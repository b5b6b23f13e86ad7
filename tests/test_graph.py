"""Networks of every kind through the stacked engine, against their own forward, member by member."""

import logging
from collections.abc import Callable

import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn

from landscape.graph import Program
from landscape.params import Stack, template_of
from landscape.stacked import Stacked

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


@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "data a member"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_derivatives_are_the_modules_own(name: str, shared: bool, caplog: pytest.LogCaptureFixture) -> None:
    network, module, stack = network_of(name)
    inputs = data_of(name, shared=shared)
    before = inputs.clone()
    assert network.backend == "stacked"
    with torch.no_grad():
        values = network(stack, inputs)
    assert network.backend == "stacked"
    assert not caplog.records
    got = derivatives(lambda moved: network(moved, inputs), stack)
    wanted = derivatives(lambda moved: referee(module, moved, inputs), stack)
    torch.testing.assert_close(values, got[0], rtol=1e-12, atol=1e-13)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert torch.equal(inputs, before)
    for position, result in network.trace(stack, inputs):
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
    ("name", "steps"), [("unknown layer", ["1"]), ("recurrent", ["lstm"]), ("u-net", ["transposed"]), ("resnet", [])]
)
def test_only_what_no_table_knows_runs_member_by_member(name: str, steps: list[str]) -> None:
    assert list(Program.of(NETWORKS[name][0]().eval()).by_member) == steps
