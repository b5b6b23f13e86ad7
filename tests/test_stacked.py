"""Batched layers against the module's own forward, network by network and by `vmap`."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from landscape.core.errors import Mismatch, Unsupported
from landscape.engine.program.products import fold, windows
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked, features_first, look_up
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life, network
from landscape.problems.life.patterns import PATTERNS

MEMBERS, SAMPLES = 4, 6


def numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def life_network(activation: str, sigmoid: bool, normalize: bool) -> nn.Module:
    return network.build(blocks=2, m_factor=2, activation=activation, sigmoid=sigmoid, normalize=normalize)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{f"life {name}": (life_network(name, True, name == "elu"), (1, 5, 4)) for name in network.ACTIVATIONS},
    "life without sigmoid": (life_network("relu", False, True), (1, 4, 4)),
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
        with pytest.raises(Unsupported, match=r'cannot run this module .*rrelu.*: use `engine="plain"`'):
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


def test_dropout2d_drops_whole_channels_of_a_sample() -> None:
    network = Stacked(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Dropout2d(0.3)))
    stack = Stack({"0.weight": torch.ones(2, 3, 1, 1, 1), "0.bias": torch.zeros(2, 3)})
    inputs = torch.ones(1, 1, 4, 5, 10_000)
    got = network(stack, inputs, noise())
    channels = got[:, :, 0, 0]
    assert torch.equal(got, channels[:, :, None, None].expand_as(got))
    assert set(channels.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert abs((channels == 0).double().mean() - 0.3) < 4 * (0.21 / 60_000) ** 0.5
    together = (channels == 0).double().flatten(0, 1)  # channels and members are dropped independently
    assert (torch.corrcoef(together) - torch.eye(6)).abs().max() < 4 / 10_000**0.5
    assert torch.equal(got, network(stack, inputs, noise()))
    assert not torch.equal(got, network(stack, inputs, noise(1)))
    assert torch.equal(network(stack, inputs), torch.ones(2, 3, 4, 5, 10_000))


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


def test_vmap_draws_no_noise() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    stack = initialise(module, [0, 1])
    with pytest.raises(
        Unsupported, match='the vmap backend cannot draw random numbers for training: use `engine="stacked"`, or loop'
    ):
        Stacked(module, backend="vmap")(stack, torch.ones(1, 1, 3), noise())


def test_the_loop_seeds_pytorchs_own_randomness() -> None:
    network = Stacked(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.3)), backend="loop")
    stack = Stack({"0.weight": torch.ones(2, 1, 1), "0.bias": torch.zeros(2, 1)})
    inputs = torch.ones(1, 1, 50_000)
    before = torch.get_rng_state()
    got = network(stack, inputs, noise())
    assert torch.equal(torch.get_rng_state(), before)
    assert set(got.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert abs((got == 0).double().mean() - 0.3) < 4 * (0.21 / 100_000) ** 0.5
    assert not torch.equal(got[0], got[1])
    assert torch.equal(got, network(stack, inputs, noise()))
    assert not torch.equal(got, network(stack, inputs, noise(1)))
    assert torch.equal(network(stack, inputs), torch.ones(2, 1, 50_000))


def test_stacks_and_data_that_do_not_fit() -> None:
    network = Stacked(nn.Sequential(nn.Linear(3, 2)))
    stack = initialise(nn.Sequential(nn.Linear(3, 2)), [0])
    wrong = torch.ones(1, 3, 2, 1, 1)
    with pytest.raises(Mismatch, match=r"own forward fails on torch.float32 data of shape \[3, 3, 2, 1\]"):
        network(stack, wrong)
    network(stack, torch.ones(1, 3, 1))
    with pytest.raises(Mismatch, match=r"linear layer 0 reads 3 features along the last axis, got .* \[1, 3, 2, 1\]"):
        network(stack, wrong)


def test_the_order_of_the_datas_memory_does_not_matter() -> None:
    """Data whose channels are neighbours in memory, which padding would keep so."""
    module = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)).double()
    stack, samples = random_stack(module), numbers(1, 4, 5, SAMPLES, 3).permute(0, 3, 4, 1, 2)
    inputs = numbers(1, 4, 5, SAMPLES, 3).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(Stacked(module)(stack, inputs), referee(module, stack, samples))


# ----------------------------------------------------------------------------------------------------------------------

WINDOWS = {
    "one place": nn.Conv2d(2, 1, 1),
    "square": nn.Conv2d(2, 1, 3),
    "padded": nn.Conv2d(2, 1, 3, padding=(1, 2)),
    "strides and gaps": nn.Conv2d(2, 1, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1)),
    "gaps between windows": nn.Conv2d(2, 1, (1, 2), stride=(3, 4)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_and_fold_against_a_place_by_place_twin(name: str) -> None:
    layer = WINDOWS[name]
    x = numbers(2, 2, 5, 6, 3)
    got = windows(layer, x)
    (high, wide), (down, right), (gap_down, gap_right) = layer.kernel_size, layer.stride, layer.dilation
    top, left = layer.padding  # type: ignore[misc]
    padded = torch.zeros(2, 2, 5 + 2 * top, 6 + 2 * left, 3, dtype=torch.float64)
    padded[:, :, top : top + 5, left : left + 6] = x
    pull, folded = numbers(*got.shape), torch.zeros_like(padded)
    for i in range(got.shape[2]):
        for j in range(got.shape[3]):
            rows = [i * down + k * gap_down for k in range(high)]
            columns = [j * right + k * gap_right for k in range(wide)]
            assert torch.equal(got[:, :, i, j], padded[:, :, rows][:, :, :, columns].flatten(1, 3))
            for number, (row, column) in enumerate((row, column) for row in rows for column in columns):
                folded[:, :, row, column] += pull[:, number :: high * wide, i, j]
    wanted = folded[:, :, top : top + 5, left : left + 6]
    torch.testing.assert_close(fold(layer, pull, x.shape), wanted, rtol=1e-13, atol=1e-14)
    assert torch.equal(windows(layer, x.requires_grad_()), got)


@pytest.mark.parametrize("name", WINDOWS)
def test_derivatives_of_windows_and_fold(name: str) -> None:
    layer = WINDOWS[name]
    x = numbers(1, 2, 5, 6, 1).requires_grad_()
    read = windows(layer, x)
    assert torch.autograd.gradcheck(lambda data: windows(layer, data).sin(), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda data: windows(layer, data).sin(), x, fast_mode=True)
    pull = numbers(*read.shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda back: fold(layer, back, x.shape).sin(), pull, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda back: fold(layer, back, x.shape).sin(), pull, fast_mode=True)


@pytest.mark.parametrize("shared", [True, False], ids=["shared codes", "codes a member"])
def test_looking_up_place_by_place(shared: bool) -> None:
    rows = numbers(3, 2, 1, 1, 7).requires_grad_()
    codes = torch.randint(7, (1 if shared else 3, 1, 2, 3, 5), generator=torch.Generator().manual_seed(0))
    got = look_up(rows, codes)
    assert got.shape == (3, 2, 2, 3, 5)
    for member in range(3):
        for i, j, sample in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
            code = codes[0 if shared else member, 0, i, j, sample]
            assert torch.equal(got[member, :, i, j, sample], rows[member, :, 0, 0, code])
    assert torch.autograd.gradgradcheck(lambda table: look_up(table, codes).sin(), rows, fast_mode=True)


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize(
    "life",
    [
        Life(steps=2, activation="gelu"),
        Life(steps=2, normalize=True, m_factor=2, activation="relu"),
        Life(steps=2, normalize=True, m_factor=2, architecture="paper", activation="elu", dropout=0.1),
        Life(steps=2, d_factor=0.5),
    ],
    ids=Life.title,
)
def test_patterns_by_number_are_the_boards_themselves(life: Life, backend: str) -> None:
    on_boards = life.objective(samples=1).network
    network = Stacked(on_boards.module, backend=backend, table=on_boards.table)  # type: ignore[arg-type]
    assert network.table is not None
    stack, keys = random_stack(network.module), torch.arange(MEMBERS)
    for number, (height, width) in enumerate([(1, 1), (1, 6), (5, 1), (2, 2), (3, 4)]):
        of_size = dataclasses.replace(life, board=f"{height}x{width}")
        codes, cells = (
            of_size.boards(keys[: 1 if number % 2 else MEMBERS], 0, 20, torch.float64, codes=known)
            .samples(0, 32)
            .inputs
            for known in (True, False)
        )
        assert not codes.is_floating_point()
        assert torch.equal(network.table.decode(codes).double(), cells)
        got, wanted = network(stack, codes), network(stack, cells)
        assert got.shape == (MEMBERS, 1, height, width, 32)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)


def test_the_middle_of_a_pattern_is_the_place_itself() -> None:
    table = Life(steps=2).objective(samples=1).network.table
    assert table is not None
    codes = torch.arange(512).view(1, 1, 1, 1, 512)
    assert table.decode(codes).flatten().tolist() == PATTERNS[:, 1, 1].tolist()
    shifted = Life(steps=2, normalize=True).objective(samples=1).network.table
    assert shifted is not None
    assert torch.equal(shifted.decode(codes), table.decode(codes) - 0.5)


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
def test_whole_numbers_reach_a_network_without_a_table_as_they_are(backend: str) -> None:
    network = Stacked(nn.Conv2d(1, 1, 1), backend=backend)  # type: ignore[arg-type]
    message = "fails on torch.int16 data of shape|vmap cannot run this module"
    with pytest.raises(Mismatch if backend != "vmap" else Unsupported, match=message):
        network(random_stack(nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 2, 2, 3, dtype=torch.int16))


def test_what_is_dropped_differs_from_place_to_place_though_patterns_are_equal() -> None:
    """With noise a table serves as data only: equal patterns must not share what is drawn for them."""
    life = Life(steps=2, activation="rrelu", board="4x4")
    network = life.objective(samples=1).network
    stack = initialise(life.network(), [0, 1])
    stack["net.0.0.bias"].fill_(-1.0)
    codes, cells = (
        life.boards(torch.tensor([1]), 0, 64, torch.float32, codes=known).samples(0, 64).inputs
        for known in (True, False)
    )
    got = network(stack, codes, noise())
    assert torch.equal(got, network(stack, cells, noise()))
    empty = (codes == 0).squeeze()
    first = dict(zip(["pad", "0", "1"], (x for _, x in network.trace(stack, codes, noise())), strict=False))
    assert len(first["1"][0, 0][empty].unique()) > 0.9 * int(empty.sum()) > 10
