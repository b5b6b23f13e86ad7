"""Random directions: their norms, their numbers, and pictures that do not change when the network is rescaled."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.stack import Stack, template_of
from landscape.space.directions import random_directions

NORMALISE = ("filter", "layer", "none")


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """Every kind of parameter: filters, BatchNorm, rows, biases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


@pytest.fixture(scope="module")
def stack(network: nn.Sequential) -> Stack:
    return template_of(network)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filters_have_the_norm_of_the_networks(stack: Stack, dtype: torch.dtype) -> None:
    direction = random_directions(stack.to(dtype), [3, 4])
    assert (len(direction), direction.shapes, direction.dtype) == (2, stack.shapes, dtype)
    assert direction.buffers == {}
    for member in range(2):
        for name in ("0.weight", "4.weight"):
            for of_direction, of_network in zip(direction[name][member], stack[name][0], strict=True):
                assert math.isclose(of_direction.norm(), of_network.norm(), rel_tol=1e-5)
    for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
        assert not direction[name].any()


def test_layers_have_the_norm_of_the_networks(stack: Stack) -> None:
    direction = random_directions(stack, [3], normalise="layer")
    for name in ("0.weight", "4.weight"):
        assert math.isclose(direction[name].norm(), stack[name].norm(), rel_tol=1e-5)
        # One factor a tensor: the drawn numbers keep their proportions.
        drawn = random_directions(stack, [3], normalise="none")[name]
        torch.testing.assert_close(direction[name] / direction[name].norm(), drawn / drawn.norm())
    assert not any(direction[name].any() for name in ("0.bias", "1.weight", "1.bias", "4.bias"))


def test_without_normalisation_all_is_standard_normal() -> None:
    stack = Stack({"weight": torch.zeros(1, 30, 100), "bias": torch.zeros(1, 2000)})
    flat = random_directions(stack, [0, 1], normalise="none").flatten()
    assert stats.kstest(flat.flatten().numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(flat.numpy())[0, 1]) < 0.05
    assert len(np.unique(flat.numpy())) > 9900


@pytest.mark.parametrize("normalise", NORMALISE)
def test_a_direction_depends_on_its_seed_alone(stack: Stack, normalise: str) -> None:
    both = random_directions(stack, [5, 2**62], normalise=normalise)
    for member, seed in enumerate((5, 2**62)):
        assert torch.equal(random_directions(stack, [seed], normalise=normalise).flatten()[0], both.flatten()[member])
    assert not torch.equal(both.flatten()[0], both.flatten()[1])


def test_the_numbers_are_no_other_stream_of_the_seed(stack: Stack) -> None:
    drawn = random_directions(stack, [7], normalise="none")["0.weight"].flatten()
    for stream in (0, 1, 2**16):
        other = philox.normal(torch.tensor([7]), stream=stream, step=0, count=len(drawn))[0]
        assert not torch.isclose(drawn.double(), other).any()


@pytest.mark.parametrize("normalise", ["filter", "layer"])
def test_what_is_zero_stays_zero(normalise: str) -> None:
    direction = random_directions(
        Stack({"dead": torch.zeros(1, 2, 3), "half": torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])}),
        [0],
        normalise=normalise,
    )
    assert not direction["dead"].any()
    assert direction["half"].isfinite().all()
    assert direction["half"][0, 0].any() == (normalise == "layer")


def test_a_rescaled_network_has_the_same_picture() -> None:
    """relu(c z) = c relu(z): layers scaled by c and 1/c are the same function, and so are points along directions."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        inputs = torch.randn(20, 3, dtype=torch.float64)
    stack = template_of(network)
    scale = {"0.weight": 8.0, "0.bias": 8.0, "2.weight": 1 / 8, "2.bias": 1.0}
    rescaled = Stack({name: tensor * scale[name] for name, tensor in stack.tensors.items()})

    def picture(at: Stack, normalise: str) -> list[torch.Tensor]:
        direction = random_directions(at, [0], normalise=normalise)
        points = ({name: at[name][0] + x * direction[name][0] for name in at.tensors} for x in (-1.0, 0.3, 1.0))
        return [torch.func.functional_call(network, point, (inputs,)) for point in points]

    for normalise in ("filter", "layer"):
        torch.testing.assert_close(picture(rescaled, normalise), picture(stack, normalise), rtol=1e-12, atol=1e-12)
    difference = picture(rescaled, "none")[2] - picture(stack, "none")[2]
    assert difference.abs().max() > 0.1


def test_refusals(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mismatch, match="belong to one network, and here are 2: choose one with RUN/#seed"):
        random_directions(stack.select([0, 0]), [0])
    with pytest.raises(LandscapeError, match="need at least one seed"):
        random_directions(stack, [])
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for where types are not checked
    with pytest.raises(Unsupported, match="not normalised by 'rows': choose filter, layer, none"):
        random_directions(stack, [0], normalise="rows")
