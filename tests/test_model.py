"""A problem made of one's own model, data and loss: from Python and from the command line."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape import Problem
from landscape.core.errors import LandscapeError, Mismatch, Unsupported, Unverified
from landscape.evaluation.walk import walk
from landscape.problems.model import Model, from_model
from landscape.problems.registry import create, find, name_of
from landscape.store.checkpoints import Run
from landscape.store.results import Result
from landscape.training.train import Training, train

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(150, 4, generator=GENERATOR)
Y = (X @ torch.randn(4, 3, generator=GENERATOR)).argmax(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def loss_of(module: nn.Module) -> float:
    return nn.functional.cross_entropy(module(X), Y).item()


def test_the_height_is_the_loss_and_the_model_is_never_changed() -> None:
    model = Net().train()
    before = copy.deepcopy(model.state_dict())
    problem = Problem.from_model(model, (X, Y), nn.CrossEntropyLoss())
    assert isinstance(problem, Model)
    stack = problem.initial([0, 1])
    objective = problem.objective()
    values = objective(stack)
    for member in range(2):
        other = Net()
        other.load_state_dict(stack.state_dict(member))
        assert values["loss"][member].item() == pytest.approx(loss_of(other), rel=1e-5)
        assert values["right"][member] == (other(X).argmax(1) == Y).sum()
    assert 0 < values["loss_se"][0] < values["loss"][0]
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(stack["first.weight"][0], stack["first.weight"][1])
    assert torch.equal(problem.initial([1])["first.weight"][0], stack["first.weight"][1])


def test_seeds_leave_the_random_state_alone() -> None:
    problem = from_model(Net, (X, Y), "cross_entropy")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    problem.initial(range(3))
    problem.network()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X.numpy(), Y.numpy()],
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=64),
        [(X[:100], Y[:100]), (X[100:], Y[100:])],
    ],
    ids=["tensors", "arrays", "dataset", "loader", "list of batches"],
)
def test_data_in_any_form(data: Any) -> None:
    problem = from_model(Net, data, "cross_entropy")
    stack = problem.initial([3])
    module = Net()
    module.load_state_dict(stack.state_dict(0))
    assert problem.objective()(stack)["loss"].item() == pytest.approx(loss_of(module), rel=1e-5)


def test_training_goes_through_the_data_epoch_by_epoch() -> None:
    marked = torch.arange(150.0)[:, None].expand(150, 4)
    problem = from_model(Net, (marked, Y), "cross_entropy")
    seeds = torch.tensor([3, 8])
    batches = [problem.training_batch(seeds, step, 40, device="cpu", dtype=torch.float32) for step in range(6)]
    seen = [torch.cat([batch.samples(0, 40).inputs[:, 0] for batch in batches[i : i + 3]], 1) for i in (0, 3)]
    for epoch in seen:
        assert all(len(set(member.tolist())) == 120 for member in epoch)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])
    again = problem.training_batch(seeds[1:], 4, 40, device="cpu", dtype=torch.float32)
    assert torch.equal(again.samples(0, 64).inputs[0], batches[4].samples(0, 64).inputs[1])
    loader = from_model(Net, DataLoader(TensorDataset(marked, Y), batch_size=7), "cross_entropy")
    streamed = loader.training_batch(seeds, 4, 40, device="cpu", dtype=torch.float32)
    assert torch.equal(streamed.samples(0, 40).inputs, batches[4].samples(0, 40).inputs)
    assert torch.equal(streamed.samples(0, 40).targets, batches[4].samples(0, 40).targets)


def test_training_is_that_of_pytorch(tmp_path: Path) -> None:
    """SGD with momentum on the same batches, one network after another."""
    problem = from_model(Net, (X, Y), "cross_entropy")
    training = Training(optimizer="sgd", lr=0.1, momentum=0.9, batches=12, batch_size=40)
    run = train(problem, training, tmp_path / "run", seeds=[4, 9])
    for member, seed in enumerate([4, 9]):
        module = Net()
        module.load_state_dict(problem.initial([seed]).state_dict(0))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for step in range(12):
            batch = problem.training_batch(torch.tensor([seed]), step, 40, device="cpu", dtype=torch.float32)
            few = batch.samples(0, 40)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(few.inputs[0].T), few.targets[0]).backward()
            optimizer.step()
        found = run.checkpoint().stack.state_dict(member)
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(12))
    assert log[-1]["loss"][0] < log[0]["loss"][0]


@pytest.mark.slow
def test_a_strangers_model_on_the_command_line(landscape: Callable[..., Outcome]) -> None:
    Path("strange_model.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape import Problem\n"
        "x = torch.linspace(-1, 1, 64)[:, None]\n"
        "def net(): return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))\n"
        "PROBLEM = Problem.from_model(net, (x, x**2), 'mse')\n"
    )
    problem = find("strange_model:PROBLEM")
    assert isinstance(problem, Model)
    assert name_of(problem) == "strange_model:PROBLEM"
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.save(problem.initial([seed]).state_dict(0), name)
    result = landscape("walk", "--from", "a.pt", "--to", "b.pt", "--problem", "strange_model:PROBLEM")
    assert result.exit_code == 0, result.output
    curves = Result.read(Path(result.stdout.strip()))
    assert curves.loss.shape == (1, 51)
    assert curves.about["backend"] in ("stacked", "plain")
    result = landscape("plot", "walk", result.stdout.strip())
    assert result.exit_code == 0, result.output
    result = landscape("train", "strange_model:PROBLEM", "--seeds", "0:3", "--batches", "5", "-o", "run")
    assert result.exit_code == 0, result.output
    assert Run.open(Path("run")).problem == ("strange_model:PROBLEM", problem.config())
    result = landscape("walk", "--from", "run/@0", "--to", "run")
    assert result.exit_code == 0, result.output
    assert np.isfinite(Result.read(Path(result.stdout.strip())).values["loss_se"]).all()


def test_a_run_is_not_evaluated_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moving_data.py").write_text(
        "from torch import nn, ones\nfrom landscape import Problem\n"
        "P = Problem.from_model(nn.Linear(2, 1), (ones(4, 2), ones(4, 1)), 'mse')\n"
    )
    problem = find("moving_data:P")
    assert isinstance(problem, Problem)
    config = problem.config()
    assert create("moving_data:P", config) is problem
    with pytest.raises(Mismatch, match=r"ready instance, and not the one that is asked for: .*samples"):
        create("moving_data:P", {**config, "samples": 5})


def test_a_problem_that_says_not_where_it_is(tmp_path: Path) -> None:
    run = train(from_model(Net, (X, Y), "cross_entropy"), Training(batches=1), tmp_path / "run", seeds=[0])
    with pytest.raises(LandscapeError, match="made in Python and says not where: name it with `problem="):
        walk(run.path, run.path)
    named = from_model(Net, (X, Y), "cross_entropy", name="my.models:NET")
    assert name_of(named) == "my.models:NET"


class Dead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Pair(Net):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class Direct(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def spoilt() -> Net:
    net = Net()
    net.first.bias.data[0] = float("nan")
    return net


@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        (Dead, (X, Y), LandscapeError, "Dead has no parameters: there is no landscape"),
        (3, (X, Y), Unsupported, "int is no model"),
        (lambda: 3, (X, Y), Unsupported, "gives int, not an nn.Module"),
        (spoilt(), (X, Y), LandscapeError, r"parameters first\.bias of the model are NaN or infinite"),
        (
            Pair(),
            (X, Y),
            Unsupported,
            "gives dict, not a tensor that CrossEntropyLoss could read: give a function",
        ),
        (Net(), (X[:, :3], Y), Mismatch, r"Net does not run on inputs of shape \[8, 3\]"),
        (Net(), (X, Y[:-1]), Mismatch, f"the data has {len(X)} inputs and {len(X) - 1} targets: they must pair"),
        (Net(), (X, torch.tensor(1.0)), Mismatch, "the data has targets that are a single number"),
        (
            Net(),
            (X, Y, torch.ones(len(X), 1)),
            Mismatch,
            rf"weights of shape \[{len(X)}, 1\]: give one number",
        ),
        (
            Net(),
            (X, Y, torch.ones(1, len(X))),
            Mismatch,
            rf"weights of shape \[1, {len(X)}\]: give one number",
        ),
        (Net(), (X, Y, torch.ones(3)), Mismatch, f"{len(X)} targets and 3 weights: they must pair"),
        (Net(), (X, Y, torch.ones(len(X)) * 1j), Mismatch, "weights of shape .* of complex numbers"),
        (Net(), (X[:0], Y[:0]), LandscapeError, "the data has no samples"),
        (Net(), (X / 0, Y), LandscapeError, "the data's inputs are NaN or infinite"),
        (Net(), X, Unsupported, r"data is Tensor: give \(inputs, targets\)"),
        (Net(), "cifar10", Unsupported, r"data is str: give \(inputs, targets\)"),
        (Net(), [], LandscapeError, "the list gives no batches"),
        (Net(), (X, Y, -torch.ones(150)), LandscapeError, "weights must be at least 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_makes_no_problem_is_refused(model: Any, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_model(model, data, "cross_entropy")


def test_a_model_that_cannot_start_anew_says_so() -> None:
    problem = from_model(Direct(), (X, Y), "cross_entropy")
    with pytest.raises(
        Unsupported, match=r"layer module \(Direct\) has no reset_parameters.*give the class or function"
    ):
        problem.initial([0])
    assert len(from_model(Direct, (X, Y), "cross_entropy").initial([0])) == 1


def test_tests_and_parts_of_the_data() -> None:
    problem = from_model(Net, (X[:100], Y[:100]), "cross_entropy", test=(X[100:], Y[100:]))
    stack = problem.initial([0])
    module = Net()
    module.load_state_dict(stack.state_dict(0))
    expected = (module(X[100:]).argmax(1) == Y[100:]).sum()
    assert problem.test_objective()(stack)["right"] == expected
    assert problem.objective(samples=30, seed=1).samples == 30
    with pytest.raises(LandscapeError, match="101 samples are asked for, the data has 100"):
        problem.objective(samples=101)
    with pytest.raises(Unsupported, match="has no test data"):
        from_model(Net, (X, Y), "cross_entropy").test_objective()


class Centred(Net):
    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs - outputs.mean(0)


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x)


def test_a_model_that_mixes_samples_is_named() -> None:
    """Its loss would depend on how the data is parted, and on the samples that fill up a chunk."""
    problem = from_model(Centred, (X, Y), "cross_entropy")
    with pytest.raises(Unverified, match="the answer of Centred to a sample depends on the samples beside it"):
        problem.objective().check_deterministic(problem.initial([0]))


def test_the_plain_module_never_sees_padding() -> None:
    shown = []

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            shown.append(len(x))
            return super().forward(x)

    problem = from_model(Watched, (X, Y), "cross_entropy")
    objective = problem.objective()
    shown.clear()
    objective.plain(problem.initial([0]))
    assert shown == [150]


def test_a_model_that_changes_its_buffers_runs() -> None:
    problem = from_model(Counting, (X, Y), "cross_entropy")
    stack = problem.initial([2])
    module = Net()
    module.load_state_dict(stack.state_dict(0), strict=False)
    assert problem.objective()(stack)["loss"].item() == pytest.approx(loss_of(module), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "loss", "error", "message"),
    [
        (
            lambda: torch.jit.trace(Net(), X[:2]),
            "cross_entropy",
            Unsupported,
            "TorchScript modules cannot be evaluated",
        ),
        (nn.DataParallel(Net()), "cross_entropy", Unsupported, r"wrapped in DataParallel: give its \.module"),
        (nn.Sequential(nn.LazyLinear(3)), "cross_entropy", Unsupported, "have no shape yet: run the model on a batch"),
        (Net(), nn.CrossEntropyLoss, Unsupported, r"CrossEntropyLoss is a class: give a loss made of it"),
        (Net(), lambda o, t: o.mean() * float("nan"), LandscapeError, "is NaN on its first samples"),
    ],
    ids=["script", "parallel", "lazy", "class", "nan"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_what_cannot_be_served_says_why(model: Any, loss: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_model(model, (X, Y), loss)


def test_a_problem_in_a_file_that_prints_and_one_that_exits(landscape: Callable[..., Outcome]) -> None:
    Path("talking.py").write_text(
        "from torch import nn, ones\nfrom landscape import Problem\nprint('hello')\n"
        "P = Problem.from_model(nn.Linear(2, 1), (ones(4, 2), ones(4, 1)), 'mse')\n"
    )
    torch.save(nn.Linear(2, 1).state_dict(), "a.pt")
    for place in ("talking.py:P", str(Path("talking.py").resolve()) + ":P"):
        result = landscape("walk", "--from", "a.pt", "--to", "a.pt", "--problem", place, "--force", "-o", "line.h5")
        assert result.exit_code == 0, result.output
        assert result.stdout == "line.h5\n"
    Path("leaving.py").write_text("raise SystemExit(3)")
    result = landscape("walk", "--from", "a.pt", "--to", "a.pt", "--problem", "leaving:P")
    assert result.exit_code == 1
    assert "cannot load problem 'leaving:P': SystemExit: 3" in result.stderr
    assert "missing.py does not exist" in landscape("train", "missing.py:P").stderr


def test_training_keeps_to_its_backend(tmp_path: Path) -> None:
    """Random numbers of layers depend on the backend."""

    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))

    training = Training(batches=4, batch_size=32)
    problem = from_model(dropping, (X, Y), "cross_entropy")
    stacked = train(problem, training, tmp_path / "a", seeds=[0, 1])
    assert stacked.document["computation"]["backend"] == "stacked"
    plain = train(problem, training, tmp_path / "b", seeds=[0, 1], engine="plain")
    assert plain.document["computation"]["backend"] == "plain"
    for step in (tmp_path / "b").glob("step-*4.safetensors"):
        step.unlink()
    with pytest.raises(Mismatch, match='backend is "plain" there and "stacked" here'):
        train(problem, training, tmp_path / "b", seeds=[0, 1], engine="stacked")
    train(problem, training, tmp_path / "b", seeds=[0, 1])
