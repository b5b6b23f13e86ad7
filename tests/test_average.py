"""Averages of networks: against a plain loop in NumPy, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

import landscape
from landscape.core.errors import LandscapeError, Mismatch
from landscape.store.checkpoints import Run
from landscape.store.results import Result

Tensors = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.norm(self.body(x))))
        return outputs


def network(seed: int) -> Net:
    torch.manual_seed(seed)
    net = Net()
    net(torch.randn(20, 4))
    net.norm.num_batches_tracked.fill_(seed)  # type: ignore[operator]
    return net


@pytest.mark.parametrize("weights", [None, (0.5, 0.25, 0.25), (-1.0, 1.0, 1.0), (0.2, 0.4, 0.4)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_average_is_the_weighted_sum(weights: Any, dtype: torch.dtype) -> None:
    nets = [network(seed).to(dtype).state_dict() for seed in range(3)]
    found = landscape.average(nets, weights=weights)
    assert list(found) == list(nets[0])
    for name, tensor in found.items():
        assert tensor.dtype == nets[0][name].dtype
        if name == "norm.num_batches_tracked":
            assert int(tensor) == {None: 2, (0.5, 0.25, 0.25): 0}.get(weights, 2)
        elif name == "mask":
            assert torch.equal(tensor, nets[0]["mask"]), "what all share stays"
        else:
            parts = [each[name].double().numpy() for each in nets]
            wanted = sum(w * part for w, part in zip(weights or [1 / 3] * 3, parts, strict=True))
            np.testing.assert_allclose(tensor.double().numpy(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)
    network(0).to(dtype).load_state_dict(found)


def test_an_average_of_equal_networks_is_that_network_bit_for_bit() -> None:
    net = network(3).double().state_dict()
    for weights in (None, (0.1, 0.2, 0.7)):
        found = landscape.average([net, net, net], weights=weights)
        assert all(torch.equal(tensor, net[name]) for name, tensor in found.items())
        assert all(tensor.data_ptr() != net[name].data_ptr() for name, tensor in found.items())


def test_places_of_every_sort_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    nets = [network(seed) for seed in range(3)]
    for seed, net in enumerate(nets):
        torch.save({"epoch": 3, "model": net.state_dict(), "ema": net.state_dict()}, f"seed{seed}.pt")
    wanted = landscape.average(nets)
    for places in ("seed*.pt", tmp_path, ["seed0.pt::ema", "seed1.pt", nets[2].state_dict()], ["seed[01].pt", nets[2]]):
        found = landscape.average(places)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items()), places
    stack, found = run.checkpoint().stack, landscape.average(run)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, stack[name].double().mean(0).float())


def test_the_program_makes_a_place_to_walk_to(
    landscape: Callable[..., Outcome], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("average", f"{run.path}/#3", f"{run.path}/#7", "--weights", "0.25,0.75")
    result = landscape(*call, "-o", "soup.safetensors")
    assert (result.exit_code, result.stdout) == (0, "soup.safetensors\n"), result.output
    walked = landscape("walk", "--from", f"{run.path}/#3", "--to", "soup.safetensors", "--points", "5", "-o", "w.h5")
    assert walked.exit_code == 0, walked.output
    whole = landscape("walk", "--from", f"{run.path}/#3", "--to", f"{run.path}/#7", "--points", "5", "-o", "v.h5")
    assert whole.exit_code == 0, whole.output
    np.testing.assert_allclose(Result.read("w.h5")["loss"][0, -1], Result.read("v.h5")["loss"][0, 3], rtol=1e-5)
    with safetensors.safe_open("soup.safetensors", framework="pt") as file:
        made_of = json.loads(file.metadata()["average"])
    assert [each["weight"] for each in made_of] == [0.25, 0.75]
    assert "exists" in landscape(*call, "-o", "soup.safetensors").stderr
    assert landscape(*call, "-o", "soup.safetensors", "--force").exit_code == 0
    Path("soup.toml").write_text("weights = [-1, 2]\n")
    assert landscape(*call[:3], "--config", "soup.toml", "-o", "t.safetensors").exit_code == 0


def test_statistics_of_batchnorm_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="landscape"):
        landscape.average([network(0), network(1)])
    assert "2 statistics of BatchNorm are means of the networks' own, not those of their mean" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "1,1"), "the --weights have the sum 2: a mean needs weights with the sum 1, such as [0.5, 0.5]"),
        (("--weights", "1,-1"), "the --weights have the sum 0: a mean needs weights with the sum 1"),
        (("--weights", "inf,1"), "inf is no weight: give finite --weights"),
        (("--weights", "0.5"), "the --weights have the sum 0.5"),
        (("--weights", "1"), "there are more networks than the 1 --weights: give one a network"),
        (("--weights", "0.5,0.25,0.25"), "there are 3 --weights for 2 networks: give one a network"),
        (("--weights", "a,b"), "'a,b' is no list of numbers"),
        (("-o", "soup.pt"), "soup.pt is to hold tensors: end -o in .safetensors"),
        (("presolve",), "presolve does not exist: averages are of networks, their state dicts and files"),
        (("nowhere.pt",), "nowhere.pt does not exist"),
    ],
)
def test_averages_that_make_no_sense(
    landscape: Callable[..., Outcome], run: Run, options: tuple[str, ...], message: str
) -> None:
    before = sorted(Path().iterdir())
    result = landscape("average", f"{run.path}/#3", f"{run.path}/#7", "-o", "x.safetensors", *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert sorted(Path().iterdir()) == before


def test_networks_that_do_not_fit_are_named() -> None:
    with pytest.raises(Mismatch, match=r"places\[0\] and places\[1\] are of different architectures"):
        landscape.average([nn.Linear(2, 3), nn.Linear(3, 2)])
    broken = {"weight": torch.tensor([float("nan")])}
    with pytest.raises(LandscapeError, match=r"places\[0\] has NaN in weight: leave it out"):
        landscape.average([broken, broken])
    with pytest.raises(LandscapeError, match="there is nothing to average"):
        landscape.average([])
