"""Each layer of the stacked engine against PyTorch's own, over its options and the shapes of its data."""

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given
from test_graph import derivatives, noise, numbers, referee, stack_of
from torch import Tensor, nn

from landscape.core.errors import Mismatch
from landscape.engine.program.products import shared_product
from landscape.engine.stack import Stack
from landscape.engine.stacked import Stacked

MEMBERS = 3


def assert_same(module: nn.Module, *shape: int, shared: bool = True, integers: int = 0) -> None:
    """Values, gradients and Hessian products of a layer between others, all members at once and one by one.

    The layer before gives each member data of its own and makes derivatives in the data count.
    """
    module = nn.Sequential(nn.PReLU(1, init=0.9), module, nn.PReLU(1, init=1.1)).double().eval()
    stack, inputs = stack_of(module), numbers(1 if shared else MEMBERS, *shape, 4)
    if integers:  # as after an activation: many are equal
        inputs = (inputs * integers).round()
    network = Stacked(module, backend="stacked")
    assert network.backend == "stacked"
    got = derivatives(lambda moved: network(moved, inputs), stack)
    wanted = derivatives(lambda moved: referee(module, moved, inputs), stack)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(network(stack, inputs), got[0], rtol=1e-12, atol=1e-12)


def known(module: nn.Module) -> bool:
    """Whether the layer runs for all members at once."""
    program = Stacked(nn.Sequential(nn.PReLU(), module), backend="stacked")._program
    assert program is not None
    return not program.by_member


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    dims = draw(st.sampled_from((1, 2)))
    groups = draw(st.sampled_from((1, 2, 4)))
    same = draw(st.booleans())
    options: dict[str, Any] = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(dims)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(("zeros", "reflect", "replicate", "circular"))),
        "stride": 1 if same else tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        "padding": "same" if same else draw(st.sampled_from(("valid", 0, 1, 2))),
    }
    module = (nn.Conv1d, nn.Conv2d)[dims - 1](4, groups * draw(st.integers(1, 2)), **options)
    return module, (4, *(draw(st.integers(5, 7)) for _ in range(dims)))


@given(convolutions(), st.booleans())
def test_convolutions(case: tuple[nn.Module, tuple[int, ...]], shared: bool) -> None:
    module, shape = case
    fast = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    assert known(module) is (fast and not isinstance(module.padding, str))
    assert_same(module, *shape, shared=shared)
    # Without an activation before, data is shared by all members.
    alone, stack, inputs = Stacked(module.double()), stack_of(module), numbers(1, *shape, 4)
    torch.testing.assert_close(alone(stack, inputs), referee(module, stack, inputs), rtol=1e-9, atol=1e-11)


@st.composite
def pools(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    dims = draw(st.sampled_from((1, 2)))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.sampled_from((None, *(tuple(range(k, k + dims)) for k in (1, 2))))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options["dilation"] = draw(st.integers(1, 2))
        module = (nn.MaxPool1d, nn.MaxPool2d)[dims - 1](**options)
    else:
        options["count_include_pad"] = draw(st.booleans())
        if dims == 2 and draw(st.booleans()):
            options["divisor_override"] = 3
        module = (nn.AvgPool1d, nn.AvgPool2d)[dims - 1](**options)
    return module, (2, *(draw(st.integers(4, 8)) for _ in range(dims)))


@given(pools())
def test_pools(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    module, shape = case
    try:
        module(torch.zeros(1, *shape))
    except RuntimeError:  # windows larger than the data
        assume(False)
    whole = getattr(module, "count_include_pad", True) or not any(module.padding)  # type: ignore[arg-type]
    fast = isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and not module.ceil_mode and whole
    assert known(module) is (fast and not getattr(module, "divisor_override", None))
    assert_same(module, *shape)


def test_of_equal_numbers_the_first_is_the_largest() -> None:
    """The derivative goes to one number of a window, in PyTorch's order."""
    assert_same(nn.Sequential(nn.MaxPool2d(2), nn.Tanh()), 2, 4, 6, integers=1)
    assert_same(nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Tanh()), 2, 4, 5, integers=1)


def test_what_is_not_a_number_stays_in_its_windows() -> None:
    inputs = numbers(1, 1, 4, 4, 2)
    inputs[0, 0, 1, 2, 0] = math.nan
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2)).double()
    stack = stack_of(module)
    wanted = referee(module, stack, inputs)
    with torch.no_grad():
        torch.testing.assert_close(Stacked(module)(stack, inputs), wanted, equal_nan=True)
    flat = stack.flatten().requires_grad_()
    torch.testing.assert_close(Stacked(module)(stack.unflatten(flat), inputs), wanted, equal_nan=True)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, (2, None), (None, 3), (1, 1)]))
def test_adaptive_pools(height: int, width: int, size: Any) -> None:
    assert_same(nn.AdaptiveAvgPool2d(size), 2, height, width)
    if isinstance(size, int):
        assert_same(nn.AdaptiveAvgPool1d(size), 2, width)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.ELU(0.5), nn.SELU(), nn.CELU(0.7), nn.GELU(), nn.GELU("tanh"),
    nn.SiLU(), nn.Mish(), nn.Softplus(2.0), nn.Softsign(), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Tanhshrink(),
    nn.Hardtanh(-0.5, 0.8), nn.Hardswish(), nn.Hardshrink(), nn.Softshrink(), nn.Threshold(0.1, 0.2),
    nn.Identity(), nn.RReLU(), nn.PReLU(5), nn.Softmax(1), nn.Softmax(-1), nn.LogSoftmax(dim=1), nn.Dropout(0.5),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations(activation: nn.Module) -> None:
    assert known(activation)
    assert_same(activation, 5)
    assert_same(activation, 5, 3, 2)
    for over in (False, True):
        if hasattr(activation, "inplace"):
            activation.inplace = over
        module = nn.Sequential(nn.Linear(5, 5), activation).double().eval()
        stack, inputs = stack_of(module), numbers(1, 5, 4)
        with torch.no_grad():
            wanted = referee(module, stack, inputs)
            torch.testing.assert_close(Stacked(module)(stack, inputs), wanted, rtol=1e-12, atol=1e-13)
            traced = [result.clone() for _, result in Stacked(module).trace(stack, inputs)]
            linear = referee(module[0], Stack({key[2:]: stack[key] for key in ("0.weight", "0.bias")}), inputs)
            torch.testing.assert_close(traced[0], linear, rtol=1e-12, atol=1e-13)


NORMALISATIONS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.BatchNorm1d(4), (4,)),
    (nn.BatchNorm1d(4, affine=False), (4, 3)),
    (nn.BatchNorm2d(4, eps=0.1), (4, 3, 2)),
    (nn.BatchNorm3d(2), (2, 3, 2, 2)),
    (nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 2)),
    (nn.LayerNorm(4), (4,)),
    (nn.LayerNorm(4, bias=False), (3, 4)),
    (nn.LayerNorm((3, 4), elementwise_affine=False), (2, 3, 4)),
]


@pytest.mark.parametrize(("module", "shape"), NORMALISATIONS, ids=str)
def test_normalisations(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert known(module)
    assert_same(module, *shape)
    assert_same(module, *shape, shared=False)


@pytest.mark.parametrize("product", [nn.Linear(5, 4), nn.Linear(5, 4, bias=False)], ids=str)
def test_a_normalisation_that_is_done_along_with_a_product(product: nn.Module) -> None:
    module = nn.Sequential(product, nn.BatchNorm1d(4), nn.ReLU())
    program = Stacked(module)._program
    assert program is not None
    assert program.steps[0].normalised_by is program.steps[1]
    assert_same(module, 5)


SHAPES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Flatten(), (2, 3, 2)),
    (nn.Flatten(2), (2, 3, 2)),
    (nn.Flatten(-2, -1), (2, 3, 2)),
    (nn.ZeroPad2d((1, 0, -1, 2)), (2, 3, 4)),
    (nn.ConstantPad1d(2, 0.5), (2, 3)),
]


@pytest.mark.parametrize(("module", "shape"), SHAPES, ids=str)
def test_shapes(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert known(module)
    assert_same(module, *shape)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 2)),
        (nn.ConvTranspose1d(2, 3, 2, stride=2), (2, 4)),
        (nn.MaxPool3d(2), (1, 4, 2, 2)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
        (nn.Upsample(scale_factor=(1, 3)), (2, 3, 4)),
        (nn.Unflatten(-1, (2, 3)), (2, 6)),
        (nn.GroupNorm(2, 4), (4,)),
        (nn.GroupNorm(2, 4), (4, 3, 2)),
        (nn.InstanceNorm2d(4, affine=True), (4, 3, 2)),
        (nn.InstanceNorm1d(2, track_running_stats=True), (2, 5)),
        (nn.AdaptiveMaxPool2d(2), (2, 4, 5)),
        (nn.Softmin(dim=1), (4,)),
    ],
    ids=str,
)
def test_layers_without_a_fast_path(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert not known(nn.Sequential(nn.Identity(), module))
    assert_same(module, *shape)


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["shared tokens", "tokens a member"])
def test_embeddings(shared: bool, padding: int | None) -> None:
    module = nn.Sequential(nn.Embedding(7, 3, padding_idx=padding), nn.Linear(3, 2)).double()
    stack = stack_of(module)
    codes = torch.randint(7, (1 if shared else MEMBERS, 5, 4), generator=torch.Generator().manual_seed(0))
    got = derivatives(lambda moved: Stacked(module)(moved, codes), stack)
    wanted = derivatives(lambda moved: referee(module, moved, codes), stack)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    network = Stacked(module)
    network(stack, codes)
    with pytest.raises(Mismatch, match=r"embedding 0 reads whole numbers, got torch.float64"):
        network(stack, codes.double())


MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "booleans": {"attn_mask": torch.ones(3, 3, dtype=torch.bool).triu(1)},
    "numbers": {"attn_mask": numbers(3, 3)},
    "padding": {"key_padding_mask": torch.tensor([[False, False, True]])},
    "both": {
        "attn_mask": torch.ones(3, 3, dtype=torch.bool).triu(1),
        "key_padding_mask": torch.tensor([[False, True, False]]),
    },
}


class Attention(nn.Module):
    def __init__(self, masks: dict[str, Tensor], self_attention: bool, weights: bool, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, **options)
        self.masks, self.self_attention, self.weights = masks, self_attention, weights

    def forward(self, x: Tensor) -> Tensor:
        other = x if self.self_attention else x.flip(-1)
        masks = self.masks.copy()
        if "key_padding_mask" in masks:
            masks["key_padding_mask"] = masks["key_padding_mask"].expand(x.shape[0], -1)
        outputs, weights = self.inner(x, other, other * 1.0, need_weights=self.weights, **masks)
        return weights.flatten(1) if self.weights else outputs


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("self_attention", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "outputs"])
def test_attention(name: str, self_attention: bool, weights: bool) -> None:
    assert_same(Attention(MASKS[name], self_attention, weights, batch_first=True), 3, 4)


@pytest.mark.parametrize("options", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_attentions_of_other_kinds(options: dict[str, bool]) -> None:
    assert_same(Attention({}, True, False, batch_first=True, **options), 3, 4)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    network = Stacked(nn.Sequential(nn.Linear(1, 1), nn.AlphaDropout(0.3)))
    stack = Stack({"0.weight": torch.ones(MEMBERS, 1, 1), "0.bias": torch.zeros(MEMBERS, 1)})
    inputs = torch.randn(1, 1, 60_000, generator=torch.Generator().manual_seed(0))
    got = network(stack, inputs, noise())
    assert abs(float(got.mean())) < 0.02
    assert abs(float(got.std()) - 1) < 0.02
    dropped = got[inputs.expand_as(got) > 1].unique()  # what is kept grows with its input
    saturated = float(dropped.min())
    assert abs(float((got == saturated).double().mean()) - 0.3) < 4 * (0.21 / 180_000) ** 0.5
    torch.manual_seed(0)
    wanted = torch.nn.functional.alpha_dropout(inputs, 0.3, training=True)
    assert abs(saturated - float(wanted[inputs > 1].min())) < 1e-6


@pytest.mark.parametrize("kind", [nn.Dropout1d, nn.Dropout2d])
def test_channels_are_dropped_whole(kind: type[nn.Module]) -> None:
    shape = (2, 5) if kind is nn.Dropout1d else (2, 5, 3)
    network = Stacked(nn.Sequential(nn.PReLU(1), kind(0.4)))
    stack = Stack({"0.weight": torch.ones(MEMBERS, 1)})
    got = network(stack, torch.ones(1, *shape, 10_000), noise())
    channels = got.flatten(2, -2)
    assert torch.equal(channels, channels[:, :, :1].expand_as(channels))
    assert abs(float((channels[:, :, 0] == 0).double().mean()) - 0.4) < 4 * (0.24 / 60_000) ** 0.5


def test_dropping_all_leaves_nothing() -> None:
    network = Stacked(nn.Sequential(nn.PReLU(1), nn.Dropout(1.0)))
    stack = Stack({"0.weight": torch.ones(MEMBERS, 1)})
    assert torch.equal(network(stack, torch.ones(1, 2, 5), noise()), torch.zeros(MEMBERS, 2, 5))


@pytest.mark.bitwise
@pytest.mark.parametrize("threads", [1, 2, 3, 4], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("inner", "columns"), [(10, 512), (28, 2048), (65, 96)])
def test_rows_of_a_shared_product_do_not_depend_on_how_many_others_there_are(
    threads: int, dtype: torch.dtype, inner: int, columns: int
) -> None:
    """Neither the product nor, in the other direction, its derivative, a sum over many columns."""
    rows, shared = numbers(40, 2, inner).to(dtype), numbers(inner, columns, seed=1).to(dtype)
    pull = numbers(40, 2, columns, seed=2).to(dtype)

    def both(index: list[int]) -> tuple[Tensor, Tensor]:
        leaf = rows[index].requires_grad_()
        result = shared_product(leaf, shared)
        (derivative,) = torch.autograd.grad(result, leaf, pull[index])
        return result.detach(), derivative

    every = both(list(range(40)))
    torch.testing.assert_close(every[0], rows @ shared)
    exact = pull.double() @ shared.double().T
    torch.testing.assert_close(
        every[1].double(), exact, rtol=0, atol=50 * torch.finfo(dtype).eps * float(exact.abs().max())
    )
    for index in ([7], [3, 7], [39, 0, 7, 7, 1], list(range(20, 40))):
        assert all(torch.equal(got, wanted[index]) for got, wanted in zip(both(index), every, strict=True))
