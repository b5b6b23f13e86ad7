"""Options mean what they say or are refused: what a user who tried them all found accepted and ignored."""

import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import landscape
from landscape import Problem
from landscape.cli import main
from landscape.core.errors import LandscapeError, Unsupported
from landscape.problems.importing import import_run
from landscape.problems.life import Life

RNG = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 4, generator=RNG), torch.randint(0, 3, (24,), generator=RNG)


def flat() -> nn.Module:
    return nn.Linear(4, 3)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def program(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, list(arguments))
    return found.exit_code, found.output


@pytest.mark.parametrize("engine", ["stacked", "vmap"])
def test_engines_of_stacks_do_not_drop_the_test_data(engine: str) -> None:
    problem = Problem.from_model(flat, (X, Y), "cross_entropy", test=(X[:5], Y[:5]))
    with pytest.raises(Unsupported, match=f'`test` data is evaluated along .* leave `engine="{engine}"` out'):
        landscape.walk(flat(), flat(), problem=problem, points=2, engine=engine)


def test_a_quantity_that_was_not_asked_for_has_no_options() -> None:
    problem = Problem.from_model(flat, (X, Y), "cross_entropy")
    with pytest.raises(LandscapeError, match="`rtol` is of the trace: ask for it with `trace`"):
        landscape.curvature(flat(), problem=problem, rtol=0.1)
    with pytest.raises(LandscapeError, match="`count_to` is of negative eigenvalues: ask for them with `negative`"):
        landscape.curvature(flat(), problem=problem, count_to=3)


def test_options_of_places_mean_nothing_to_curves(tmp_path: Path) -> None:
    problem = Problem.from_model(flat, (X, Y), "cross_entropy")
    file = tmp_path / "walk.h5"
    landscape.walk(flat(), flat(), problem=problem, points=11, save=file)
    status, text = program("analyse", "curvature", str(file), "--top", "3", "--l2", "0.1", "--repeats", "2")
    assert status == 1
    assert "holds curves: leave out --top, --repeats, --l2, which say how places are looked at" in text
    assert program("analyse", "curvature", str(file), "--json")[0] == 0


def test_curvature_of_a_checkpoint_with_its_own_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape import Problem\n"
        "torch.manual_seed(0)\nx, y = torch.randn(24, 4), torch.randint(0, 3, (24,))\n"
        "P = Problem.from_model(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (x, y), 'cross_entropy')\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    network = normalised().eval()
    torch.save(network.state_dict(), "a.pt")
    status, text = program("analyse", "curvature", "a.pt", "--problem", "my.py:P", "--batchnorm", "keep", "--json")
    assert status == 0
    torch.manual_seed(0)
    x, y = torch.randn(24, 4), torch.randint(0, 3, (24,))
    own = float(nn.functional.cross_entropy(network.double()(x.double()), y).detach())
    assert json.loads(text)["loss"][0] == pytest.approx(own, rel=1e-9)
    assert "kept as they are" not in text  # of one place there is no elsewhere


@pytest.mark.parametrize("bad", [{"l2": "a"}, {"batch_size": 0}, {"batch_size": -3}, {"metrics_all": len}])
def test_arguments_of_a_problem_are_checked(bad: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # where types are not checked at the door
    with pytest.raises(LandscapeError, match=next(iter(bad))):
        Problem.from_model(flat, (X, Y), "cross_entropy", **bad)  # type: ignore[arg-type]


def test_a_weight_of_a_batch_is_one_number() -> None:
    given = {"batch_loss": lambda model, batch: model(batch).sum(), "batch_weight": lambda batch: batch}
    with pytest.raises(LandscapeError, match=r"`batch_weight` gives a tensor of shape \[24, 4\] for a batch"):
        Problem.from_model(flat, X, **given)


def test_weights_of_an_average_are_finite() -> None:
    with pytest.raises(LandscapeError, match=r"inf is no weight: give finite `weights`"):
        landscape.average([flat(), flat()], weights=[np.inf, -np.inf])
    mask, zeros = {"m": torch.tensor([-torch.inf])}, {"m": torch.zeros(1)}
    assert landscape.average([mask, zeros], weights=[0, 1])["m"].tolist() == [0]


def test_a_result_says_what_is_in_it() -> None:
    result = landscape.walk(flat(), flat(), problem=Problem.from_model(flat, (X, Y), "cross_entropy"), points=2)
    assert "loss" in result
    assert "test_loss" not in result
    assert 0 not in result


def test_a_ready_problem_has_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text(
        "import torch\nfrom landscape import Problem\n"
        "P = Problem.from_model(torch.nn.Linear(1, 1), (torch.ones(4, 1), torch.ones(4, 1)), 'mse')\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(1, 1).state_dict(), "a.pt")
    status, text = program("walk", "--from", "a.pt", "--to", "a.pt", "--problem", "my.py:P", "-O", "foo=1")
    assert (status, "the problem is a ready one, which has no options" in text) == (2, True)


def test_what_stands_under_a_key_is_imported(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        torch.manual_seed(number)
        state = {name: torch.randn_like(each) for name, each in Life().network().state_dict().items()}
        torch.save({"ema": state, "model": {k: v * 0 for k, v in state.items()}}, tmp_path / f"epoch_{number}.pt")
    each = [f"{tmp_path}/epoch_{number}.pt::ema" for number in (1, 2, 10)]
    for places in ([f"{tmp_path}::ema"], [f"{tmp_path}/epoch_*.pt::ema"], each):
        run = import_run(places, tmp_path / "run", problem="life", taken_as="steps", overwrite=True)
        assert run.steps() == [1, 2, 10]
        assert run.imported is not None
        assert run.imported["files"][1] == f"{tmp_path}/epoch_2.pt::ema"
        assert float(run.checkpoint(10).stack.flatten().abs().sum()) > 0
    where = ["--problem", "life", "--as", "steps", "-o", str(tmp_path / "other")]
    assert program("import", f"{tmp_path}/epoch_*.pt", "--key", "ema", *where)[0] == 0
    with pytest.raises(LandscapeError, match="matches no file"):
        import_run([f"{tmp_path}/none_*.pt"], tmp_path / "run", problem="life", overwrite=True)


def test_an_average_has_the_widest_type() -> None:
    half, whole = ({"w": torch.tensor([1 / 3], dtype=kind)} for kind in (torch.float16, torch.float32))
    found = landscape.average([half, whole])["w"]
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx((float(half["w"]) + 1 / 3) / 2, rel=1e-6)
