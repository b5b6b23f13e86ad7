"""Batched layers against the module's own forward, network by network and by `vmap`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from landscape.errors import Mismatch, Unsupported
from landscape.initialisation import initialise
from landscape.params import Stack
from landscape.problems.life import network
from landscape.stacked import Stacked, features_first

MEMBERS, SAMPLES = 4, 6


def numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def life(activation: str, sigmoid: bool, normalize: bool) -> nn.Module:
    return network.build(blocks=2, m_factor=2, activation=activation, sigmoid=sigmoid, normalize=normalize)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{f"life {name}": (life(name, True, name == "elu"), (1, 5, 4)) for name in network.ACTIVATIONS},
    "life without sigmoid": (life("relu", False, True), (1, 4, 4)),
    "mlp": (
        nn.Sequential(
            nn.Linear(5, 7),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Linear(7, 6, bias=False),
            nn.SiLU(),
            nn.Sequential(nn.Linear(6, 3), nn.Softplus()),
        ),
        (5,),
    ),
    "single layer": (nn.Linear(5, 2), (5,)),
    "cnn": (
        nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)),
            nn.ReLU(inplace=True),
            nn.ZeroPad2d((1, 0, 2, 1)),
            nn.Conv2d(3, 4, 3, dilation=(1, 2), bias=False),
            nn.ELU(inplace=True),
            nn.Conv2d(4, 2, 1, stride=2),
            nn.Identity(),
            nn.Flatten(),
            nn.Linear(18, 3),
            nn.Sigmoid(),
        ),
        (2, 7, 6),
    ),
    "flatten first": (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (2, 3, 2)),
}


def shared_activation() -> nn.Module:
    """One activation object between all layers, as many write it."""
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(5, 7), act, nn.Linear(7, 6), act, nn.Linear(6, 2), act)


MODULES["one activation object"] = (shared_activation(), (5,))


def random_stack(module: nn.Module) -> Stack:
    state = module.state_dict()
    return Stack({name: numbers(MEMBERS, *tensor.shape) / 2 for name, tensor in state.items()})


def referee(module: nn.Module, stack: Stack, samples: Tensor) -> Tensor:
    """[member, out, ..., sample] from PyTorch alone; `samples` is [1 or member, sample, feature, ...]."""
    outputs = []
    for i in range(len(stack)):
        module.double().eval().load_state_dict(stack.state_dict(i))
        outputs.append(module(samples[i % len(samples)].clone()).movedim(0, -1))
    return torch.stack(outputs)


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared data", "data a member"])
@pytest.mark.parametrize("name", MODULES)
def test_every_backend_gives_the_modules_own_outputs_and_gradients(name: str, shared: bool, backend: str) -> None:
    module, shape = MODULES[name]
    network = Stacked(module.double(), backend=backend)  # type: ignore[arg-type]
    stack = random_stack(module)
    samples = numbers(1 if shared else MEMBERS, SAMPLES, *shape)
    inputs = samples.movedim(1, -1)
    if shared:
        assert torch.equal(inputs, features_first(samples[0]))
    before = inputs.clone()
    flat = stack.flatten().requires_grad_()
    if (name, backend) == ("life rrelu", "vmap"):
        with pytest.raises(Unsupported, match=r"cannot run this module .*rrelu.*: use backend loop"):
            network(stack, inputs)
        return
    outputs = network(stack.unflatten(flat), inputs)
    with torch.no_grad():
        torch.testing.assert_close(outputs, referee(module, stack, samples), rtol=1e-10, atol=1e-12)
    assert torch.equal(inputs, before)

    probe = numbers(*outputs.shape)
    (gradient,) = torch.autograd.grad((outputs * probe).sum(), flat)
    for i in range(MEMBERS):
        module.load_state_dict(stack.state_dict(i))
        module.zero_grad()
        (module.requires_grad_()(samples[i % len(samples)].clone()).movedim(0, -1) * probe[i]).sum().backward()
        wanted = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient[i], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_the_known_layers_need_no_fallback(name: str) -> None:
    assert Stacked(MODULES[name][0]).backend == "stacked"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


UNKNOWN = {
    "1 (Residual)": (nn.Sequential(nn.Linear(3, 3), Residual()), (3,)),
    "module (Residual)": (Residual(), (3,)),
    "0 (MaxPool2d)": (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)), (2, 4, 4)),
    "0 (Conv2d)": (nn.Sequential(nn.Conv2d(2, 4, 1, groups=2)), (2, 2, 2)),
    "0.0 (Conv2d)": (nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"))), (2, 3, 3)),
    "1 (Flatten)": (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(2)), (2, 2, 2)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_layer_falls_back_or_is_refused_by_name(name: str) -> None:
    module, shape = UNKNOWN[name]
    network = Stacked(module.double())
    assert network.backend == "vmap"
    stack, samples = random_stack(module), numbers(1, SAMPLES, *shape)
    with torch.no_grad():
        got, wanted = network(stack, features_first(samples[0])), referee(module, stack, samples)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    escaped = name.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(Unsupported, match=f"does not know layer {escaped}: use backend vmap or loop"):
        Stacked(module, backend="stacked")


def test_the_callers_module_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.ReLU(inplace=True)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for backend in ("stacked", "vmap", "loop"):
        network = Stacked(module, backend=backend)  # type: ignore[arg-type]
        network(Stack({name: torch.zeros(2, *tensor.shape) for name, tensor in before.items()}), torch.ones(1, 3, 4))
    assert module.training
    assert module[1].training
    assert module[2].inplace
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# ----------------------------------------------------------------------------------------------------------------------


def noise(seed: int = 0) -> Callable[[int, tuple[int, ...]], Tensor]:
    def draw(layer: int, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(2, *shape, generator=torch.Generator().manual_seed(1000 * seed + layer))

    return draw


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    network = Stacked(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.3)))
    stack = Stack({"0.weight": torch.ones(2, 1, 1), "0.bias": torch.zeros(2, 1)})
    inputs = torch.ones(1, 1, 50_000)
    got = network(stack, inputs, noise())
    assert set(got.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert abs((got == 0).double().mean() - 0.3) < 4 * (0.21 / 100_000) ** 0.5
    assert not torch.equal(got[0], got[1])
    assert torch.equal(got, network(stack, inputs, noise()))
    assert not torch.equal(got, network(stack, inputs, noise(1)))
    assert torch.equal(network(stack, inputs), torch.ones(2, 1, 50_000))


def test_rrelu_draws_its_slopes() -> None:
    network = Stacked(nn.Sequential(nn.Linear(1, 1), nn.RReLU(0.125, 0.375)))
    stack = Stack({"0.weight": torch.ones(2, 1, 1), "0.bias": torch.zeros(2, 1)})
    inputs = torch.cat([-torch.ones(1, 1, 50_000), torch.ones(1, 1, 10)], 2)
    got = network(stack, inputs, noise())
    slopes = -got[..., :50_000]
    assert slopes.min() >= 0.125
    assert slopes.max() < 0.375
    assert abs(slopes.double().mean() - 0.25) < 4 * 0.25 / (12 * 100_000) ** 0.5
    assert (got[..., 50_000:] == 1).all()
    assert torch.equal(got, network(stack, inputs, noise()))
    assert torch.equal(network(stack, inputs)[..., 0], torch.full((2, 1), -0.25))


def test_each_layer_draws_from_its_own_stream() -> None:
    network = Stacked(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5), nn.Dropout(0.5)))
    stack = Stack({"0.weight": torch.ones(2, 1, 1), "0.bias": torch.zeros(2, 1)})
    kept = (network(stack, torch.ones(1, 1, 10_000), noise()) != 0).double().mean()
    assert abs(kept - 0.25) < 0.02


def test_other_backends_draw_no_noise() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    stack = initialise(module, [0, 1])
    with pytest.raises(Unsupported, match="backend loop cannot draw random numbers for training: use stacked"):
        Stacked(module, backend="loop")(stack, torch.ones(1, 1, 3), noise())


def test_stacks_and_data_that_do_not_fit() -> None:
    network = Stacked(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(Mismatch, match=r"the checkpoint and the problem's network .* 0\.weight \[2, 4\] against"):
        network.check(initialise(nn.Sequential(nn.Linear(4, 2)), [0]))
    with pytest.raises(Mismatch, match=r"a linear layer reads .* got 5 axes: flatten first"):
        network(initialise(nn.Sequential(nn.Linear(3, 2)), [0]), torch.ones(1, 3, 2, 1, 1))
