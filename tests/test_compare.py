"""Decisions and representations along lines, against what a plain loop finds, and closed forms."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import landscape
from landscape.cli import main
from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.batches import parted
from landscape.evaluation.compare import SAMPLES, centred_gram, linear_cka
from landscape.store.results import Result


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """Two layers of convolutions that are looked at by name, the first of them worked over in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.first(x)).mean((2, 3)))
        return out


def problem_of(samples: int = 24, model: Any = Net, loss: Any = "cross_entropy") -> landscape.Problem:
    x = draws(samples, 1, 5, 5).float()
    return landscape.Problem.from_model(model, (x, torch.arange(samples) % 4), loss)


def ends(model: Any = Net) -> list[nn.Module]:
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append(model())
        made[-1].last.bias.data.zero_()  # else it decides alone
    return made


def mixed(one: nn.Module, other: nn.Module, alpha: float) -> Net:
    here = Net()
    there = other.state_dict()
    here.load_state_dict({name: (1 - alpha) * each + alpha * there[name] for name, each in one.state_dict().items()})
    return here


def slow_cka(one: Tensor, other: Tensor) -> float:
    """From averages over all four different samples, of which the estimator of Song et al. is the closed form."""
    count = len(one)

    def hsic(k: Tensor, m: Tensor) -> float:
        total = 0.0
        for i, j, q, r in itertools.permutations(range(count), 4):
            total += float(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]))
        return total

    k, m = one @ one.T, other @ other.T
    return hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5


def test_cka_is_the_ratio_of_averages_over_four_samples_each() -> None:
    one, other = draws(7, 3), draws(7, 5, seed=1)
    assert linear_cka(one, other) == pytest.approx(slow_cka(one, other), rel=1e-10)
    alike = one @ draws(3, 4, seed=2) + 0.1 * draws(7, 4, seed=3)
    assert linear_cka(one, alike) == pytest.approx(slow_cka(one, alike), rel=1e-10)


def test_cka_of_a_representation_turned_scaled_and_moved_is_one() -> None:
    one, turn = draws(30, 6), torch.linalg.qr(draws(6, 6, seed=1))[0]
    assert linear_cka(one, one) == pytest.approx(1, abs=1e-12)
    assert linear_cka(one, 3.7 * one @ turn - 100) == pytest.approx(1, abs=1e-9)
    assert linear_cka(one, one @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 0.1]).double())) < 0.9
    other = draws(30, 4, seed=2)
    assert linear_cka(one, other) == pytest.approx(linear_cka(other, one @ turn), rel=1e-9)
    assert np.isnan(linear_cka(one, torch.ones(30, 2)))


def test_cka_of_what_has_nothing_in_common_is_zero_on_average_however_many_features() -> None:
    found = [linear_cka(draws(20, 500, seed=k), draws(20, 500, seed=1000 + k)) for k in range(50)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 50**0.5
    biased = []
    for k in range(3):  # the plain estimator, near 1
        x, y = (each - each.mean(0) for each in (draws(20, 500, seed=k), draws(20, 500, seed=1000 + k)))
        biased.append(float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())))
    assert min(biased) > 0.9


def test_many_features_are_multiplied_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    one = draws(9, 25)
    whole = centred_gram(one)
    monkeypatch.setattr("landscape.evaluation.compare._FEATURES", 4)
    torch.testing.assert_close(centred_gram(one), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.sum(0), torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_walk_finds_what_a_loop_over_networks_and_hooks_does(dtype: torch.dtype) -> None:
    problem, (one, other) = problem_of(), ends()
    layers = ["first", "act", "last"]
    result = landscape.walk(one, other, problem=problem, points=5, disagreement=True, cka=layers, dtype=dtype)
    x = draws(24, 1, 5, 5).float()

    def looked(alpha: float) -> tuple[Tensor, dict[str, Tensor]]:
        net = mixed(one, other, alpha)
        first = net.first(x)
        act = first.clamp(min=0)
        last = net.last(act.mean((2, 3)))
        return last.argmax(1), {"first": first.flatten(1), "act": act.flatten(1), "last": last}

    with torch.no_grad():
        every = [looked(float(alpha)) for alpha in result.alpha]
    for name, end in (("start", every[0]), ("end", every[-1])):
        wanted = [float((here[0] != end[0]).double().mean()) for here in every]
        assert result[f"disagreement_{name}"][0].tolist() == pytest.approx(wanted)
        for layer in layers:
            cka = [linear_cka(here[1][layer].double(), end[1][layer].double()) for here in every]
            assert result[f"cka_{name}[{layer}]"][0].tolist() == pytest.approx(cka, abs=1e-4)
    assert result["disagreement_start"][0, 0] == result["disagreement_end"][0, -1] == 0
    assert result["disagreement_start"][0, -1] == result["disagreement_end"][0, 0] > 0
    assert result["cka_start[first]"][0, 0] == pytest.approx(1)
    assert result.about["compared"] == {
        "disagreement": True,
        "cka": {"layers": layers, "samples": 24, "estimator": "linear, unbiased (U-centred)"},
    }
    alone = landscape.walk(one, other, problem=problem, points=5, engine="plain", dtype=dtype)
    assert np.array_equal(alone.loss, result.loss)


def test_samples_are_evenly_spaced_beyond_the_most_and_batches_make_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = SAMPLES + 500
    x = draws(count, 1, 5, 5).float()
    one, other = ends()
    problem = landscape.Problem.from_model(Net, (x, loader_targets(count)), "cross_entropy")
    index = np.linspace(0, count - 1, SAMPLES).round().astype(int)
    with torch.no_grad():
        middle, end = (mixed(one, other, alpha)(x[index]) for alpha in (0.5, 1.0))
        every = [mixed(one, other, alpha)(x).argmax(1) for alpha in (0.5, 1.0)]

    def require() -> None:
        result = landscape.walk(one, other, problem=problem, points=3, cka=["last"], disagreement=True)
        assert result.about["compared"]["cka"]["samples"] == SAMPLES
        assert result["cka_end[last]"][0, 1] == pytest.approx(linear_cka(middle, end), abs=1e-4)
        assert result["disagreement_end"][0, 1] == float((every[0] != every[1]).double().mean())

    require()
    plain = type(problem).plain

    def in_batches(self: Any, **asked: Any) -> Any:
        made = plain(self, **asked)
        return dataclasses.replace(made, data=[part for batch in made.data for part in parted(batch, 400)])

    monkeypatch.setattr(type(problem), "plain", in_batches)
    require()


def loader_targets(count: int) -> Tensor:
    return torch.arange(count) % 4


def test_lines_have_ends_of_their_own_and_workers_and_files_change_nothing(tmp_path: Path) -> None:
    run = landscape.train("life", {"batches": 20}, tmp_path / "run", seeds=range(3))
    asked: dict[str, Any] = {"points": 3, "disagreement": True, "cka": ["net.0.2"], "dtype": torch.float64}
    result = landscape.walk("presolve", run, problem="life", **asked)
    assert result["disagreement_end"][:, -1].tolist() == [0, 0, 0]
    for line in range(3):
        alone = landscape.walk("presolve", f"{run.path}/#{line}", problem="life", **asked)
        for name in ("disagreement_start", "disagreement_end", "cka_start[net.0.2]", "cka_end[net.0.2]"):
            np.testing.assert_allclose(alone[name][0], result[name][line], atol=1e-12)
    landscape.walk("presolve", run, problem="life", **asked, save=tmp_path / "w.h5")
    assert np.array_equal(Result.read(tmp_path / "w.h5")["cka_end[net.0.2]"], result["cka_end[net.0.2]"])
    assert set(result.to_pandas()) == set(result.values)


@pytest.mark.slow
def test_workers_find_the_same(tmp_path: Path) -> None:
    run = landscape.train("life", {"batches": 20}, tmp_path / "run", seeds=range(2))
    asked: dict[str, Any] = {"points": 3, "disagreement": True, "cka": ["net.0.2"], "problem": "life"}
    shared = landscape.walk("presolve", run, workers=2, **asked)
    alone = landscape.walk("presolve", run, **asked)
    for name in alone.values:
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-4, atol=1e-6)


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(-x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cka": ["frist"]}, "there is no layer 'frist' for `cka`: near it are first"),
        ({"engine": "stacked"}, '`disagreement` and `cka` are of the plain engine: leave `engine="stacked"` out'),
        ({"tolerance": 0.1}, "find no other metric than the loss: leave them, or `disagreement` and `cka`, out"),
        ({"problem": problem_of(3)}, "`cka` is estimated on 4 samples at least, and there are 3"),
        (
            {"problem": problem_of(model=Twice)},
            "the layer 'first' gives 48 rows for 24 samples: name one that is called",
        ),
        (
            {"problem": problem_of(loss=lambda outputs, targets: outputs.square().mean(1)), "disagreement": True},
            "`disagreement` is of classes and sides, and these outputs are numbers: leave it out",
        ),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(change: dict[str, Any], said: str) -> None:
    asked = {"problem": problem_of(), "points": 3, "cka": ["first"], **change}
    model = Twice if "48" in said else Net
    with pytest.raises(LandscapeError, match=said.replace("(", r"\(")):
        landscape.walk(*ends(model), **asked)


def test_streams_are_not_read_again_for_every_point() -> None:
    x = draws(24, 1, 5, 5).float()
    data = torch.utils.data.TensorDataset(x, loader_targets(24))
    problem = landscape.Problem.from_model(Net, torch.utils.data.DataLoader(data, 8), "cross_entropy")
    with pytest.raises(Unsupported, match="compare data in memory, and this is a stream: give the problem tensors"):
        landscape.walk(*ends(), problem=problem, points=3, disagreement=True)


def test_the_command_line_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["walk", "--from", "presolve", "--to", "presolve:hat", "--problem", "life", "--points", "3", "-o", "w.h5"]
    found = CliRunner().invoke(main, [*asked, "--disagreement", "--cka", "net.0", "--cka", "net.0.2"])
    assert found.exit_code == 0, found.output
    names = {"disagreement_start", "cka_end[net.0]", "cka_start[net.0.2]"}
    assert names <= set(Result.read("w.h5").values)
    wrong = CliRunner().invoke(main, [*asked, "--force", "--cka", "nte.0"])
    assert wrong.exit_code == 1
    assert wrong.output.startswith("Error: there is no layer 'nte.0' for --cka: near it are net.0")
