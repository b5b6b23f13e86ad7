"""Training by a network's own forward and its user's own loss: the ten lines that the user would write are the twin."""

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import Result as Outcome
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from landscape.analysis.curvature import curvature
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.backends import plain_layers
from landscape.engine.stack import template_of
from landscape.evaluation.connect import connect
from landscape.problems.model import Model, from_model
from landscape.problems.supervised import Samples
from landscape.store.checkpoints import Run
from landscape.training.optimizers import OPTIMIZERS
from landscape.training.train import Training, train

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(90, 4, generator=GENERATOR)
Y = X[:, :3].argmax(1)
TOKENS = torch.randint(1, 12, (90, 5), generator=GENERATOR)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Tied(nn.Module):
    """A language model whose output layer is its embedding, with dropout, and statistics of BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(12, 6), nn.Linear(6, 12, bias=False)
        self.out.weight = self.embed.weight
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.3)
        self.unused = nn.Linear(2, 2)

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(self.drop(self.norm(self.embed(ids))))
        return {"loss": F.cross_entropy(logits.transpose(1, 2), labels), "logits": logits}


class Frozen(nn.Module):
    """A body that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6).requires_grad_(False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


def of_dict(model: nn.Module, batch: Any) -> dict[str, Any]:
    loss = F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
    return {"loss": (loss, len(batch["y"])), "further": loss}


def of_tuple(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def steepness(model: nn.Module, batch: Any) -> Tensor:
    """A loss that takes derivatives in the inputs."""
    x = batch.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[:, 0].sum(), x, create_graph=True)
    return (slope - 1).square().mean()


def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of pairs of samples."""
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


CASES: dict[str, Callable[[], Model]] = {
    "dicts": lambda: from_model(Net, {"x": X, "y": Y}, batch_loss=of_dict),
    "tuples": lambda: from_model(Net, (X, Y), batch_loss=of_tuple),
    "parts": lambda: from_model(Net, (X, Y), batch_loss=of_tuple, batch_size=20),
    "loader": lambda: from_model(Net, DataLoader(TensorDataset(X, Y), 32), batch_loss=of_tuple),
    "own loss, ties, dropout and BatchNorm": lambda: from_model(Tied, (TOKENS, TOKENS), batch_loss="own"),
    "derivatives in the inputs": lambda: from_model(Net, X, batch_loss=steepness),
    "frozen": lambda: from_model(Frozen, (X, Y), batch_loss=of_tuple),
    "pairs": lambda: from_model(Net, (X, Y), contrast),
    "a sum": lambda: from_model(Net, (X, Y), nn.CrossEntropyLoss(reduction="sum")),
    "a penalty": lambda: from_model(Net, (X, Y), "cross_entropy", l2=0.1),
}
OPTIONS: dict[str, tuple[dict[str, Any], Callable[..., torch.optim.Optimizer]]] = {
    "adam": ({"lr": 0.02}, lambda p: torch.optim.Adam(p, lr=0.02)),
    "sgd": (
        {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CASES)
def test_training_is_the_loop_that_its_user_would_write(tmp_path: Path, name: str, options: str) -> None:
    problem, (given, optimizer_of), steps, size = CASES[name](), OPTIONS[options], 8, 20
    run = train(problem, Training(batches=steps, batch_size=size, **given), tmp_path / "run", seeds=[5, 2**40])
    assert run.document["computation"]["backend"] == "plain"
    for member, seed in enumerate(run.seeds):
        network = problem.network().train()
        network.load_state_dict(run.checkpoint(0).stack.state_dict(member), strict=False)
        optimizer = optimizer_of(network.parameters())
        for step in range(steps):
            batch = batch_of(problem, seed, step, size)
            optimizer.zero_grad()
            loss = loss_of(problem, network, batch, seed, step)
            loss.backward()
            optimizer.step()
        found = run.checkpoint().stack.state_dict(member)
        assert network.state_dict().keys() - found.keys() <= {"out.weight"}
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, network.state_dict()[key], rtol=1e-4, atol=1e-6)
    log = [json.loads(line)["loss"] for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert log[-1][1] == pytest.approx(float(loss.detach()), rel=1e-4)
    if name == "frozen":
        first, last = run.checkpoint(0).stack, run.checkpoint().stack
        assert {each for each in first.tensors if torch.equal(first[each], last[each])} == {"body.weight", "body.bias"}


def batch_of(problem: Model, seed: int, step: int, size: int) -> Any:
    """The batch of a seed's step, from the order of its epoch."""
    epoch, place = divmod(step, 90 // size)
    index = problem._order((seed,), epoch, 90)[0, place * size : (place + 1) * size]
    given = (TOKENS, TOKENS) if problem.label == "Tied" else (X, Y)
    x, y = (each[index] for each in given)
    name = problem.batch_loss.name if problem.batch_loss else ""
    return {"x": x, "y": y} if name == "of_dict" else x if name == "steepness" else (x, y)


def loss_of(problem: Model, network: nn.Module, batch: Any, seed: int, step: int) -> Tensor:
    """The user's loss; the random numbers of Tied's dropout are those of seed and step."""
    from landscape.engine.determinism import reseed

    if problem.label == "Tied":
        reseed(seed % 2**32, seed >> 32, step)
        return torch.as_tensor(network(*batch)["loss"])
    if problem.batch_loss is not None:
        found: Any = problem.batch_loss.function(network, batch)
        return torch.as_tensor(found["loss"][0] / found["loss"][1] if isinstance(found, dict) else found)
    assert problem.chosen is not None
    assert problem.chosen.own is not None
    penalty = sum((each.square().sum() for each in network.parameters()), torch.zeros(())) * problem.l2 / 2
    return problem.chosen.own(network(batch[0]), batch[1]) + penalty


def test_all_data_at_each_step_is_the_ratio_of_sums(tmp_path: Path) -> None:
    """In batches of unequal size, a scalar of each."""
    problem = from_model(Net, [(X[:70], Y[:70]), (X[70:], Y[70:])], batch_loss=of_tuple)
    training = Training(batches=5, data="exact", optimizer="sgd", lr=0.3)
    run = train(problem, training, tmp_path / "run", seeds=[3])
    network = problem.network()
    network.load_state_dict(run.checkpoint(0).stack.state_dict(0))
    for _ in range(5):
        network.zero_grad()
        F.cross_entropy(network(X), Y).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter -= 0.3 * parameter.grad
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(run.checkpoint().stack[name][0], tensor, rtol=1e-4, atol=1e-6)


def test_batches_of_ones_own_are_taken_whole(tmp_path: Path) -> None:
    """One a step, each once an epoch, in an order of each seed."""
    seen: list[int] = []

    def noted(model: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[0]))
        return of_tuple(model, batch)

    problem = from_model(Net, [(X[:n], Y[:n]) for n in (11, 22, 33)], batch_loss=noted)
    seen.clear()
    train(problem, Training(batches=6), tmp_path / "run", seeds=[0])
    assert sorted(seen[1:4]) == sorted(seen[4:7]) == [11, 22, 33]  # after a trial
    with pytest.raises(LandscapeError, match="batches of its own, one a step: leave `batch_size` out"):
        train(problem, Training(batches=6, batch_size=5), tmp_path / "other", seeds=[0])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("data", ["batches", "exact"])
def test_labelled_batches_of_ones_own_are_trained_on_too(tmp_path: Path, data: Any) -> None:
    problem = from_model(Net, [(X[:45], Y[:45]), (X[45:], Y[45:])], "cross_entropy")
    run = train(problem, Training(batches=4, data=data, lr=0.05), tmp_path / "run", seeds=[0])
    assert run.document["computation"]["backend"] == "plain"
    network, losses = problem.network(), []
    for step in run.steps():
        network.load_state_dict(run.checkpoint(step).stack.state_dict(0))
        losses.append(F.cross_entropy(network(X), Y).item())
    assert losses[-1] < losses[0]


def test_training_in_float64_is_that_of_the_model_in_float64(tmp_path: Path) -> None:
    """Weights of classes that a loss holds in float32 come along."""
    weight = torch.tensor([1.0, 2.0, 3.0])
    for number, loss in enumerate((nn.CrossEntropyLoss(weight), lambda o, t: F.cross_entropy(o, t, weight=weight))):
        problem = from_model(Net, (X, Y), loss)
        training = Training(batches=3, batch_size=30, dtype="float64", optimizer="sgd", lr=0.1)
        run = train(problem, training, tmp_path / str(number), seeds=[0], engine="plain")
        network = problem.network().double()
        network.load_state_dict(run.checkpoint(0).stack.state_dict(0))
        for step in range(3):
            x, y = batch_of(problem, 0, step, 30)
            network.zero_grad()
            F.cross_entropy(network(x.double()), y, weight=weight.double()).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.1 * parameter.grad
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(run.checkpoint().stack[name][0], tensor, rtol=1e-12, atol=1e-14)


class Noisy(Dataset[Any]):
    """Samples with random augmentation."""

    def __len__(self) -> int:
        return 90

    def __getitem__(self, number: int) -> Any:
        return {"x": X[number] + torch.randn(4), "y": Y[number]}


def resumed(problem: Model, path: Path, **options: Any) -> tuple[Run, Run]:
    """A run, and the same one interrupted and taken up."""
    training = Training(batches=9, batch_size=16, save_at=(0, 3, 9))

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    whole = train(problem, training, path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(problem, training, path / "cut", resume_every=0, progress=interrupt, **options)
    return whole, train(problem, training, path / "cut", **options)


@pytest.mark.parametrize(
    "problem",
    [
        from_model(Tied, (TOKENS, TOKENS), batch_loss="own"),
        from_model(Net, {"x": X, "y": Y}, train=DataLoader(Noisy(), 10), batch_loss=of_dict),
    ],
    ids=["dropout and BatchNorm", "augmented data"],
)
def test_a_member_is_bitwise_the_same_alone_interrupted_and_in_any_company(tmp_path: Path, problem: Model) -> None:
    whole, cut = resumed(problem, tmp_path, seeds=[4, 9, 1])
    torch.manual_seed(7)
    before = torch.get_rng_state()
    alone = train(problem, whole.document["training"], tmp_path / "alone", seeds=[9])
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in ((whole, cut), (dict_of(whole, 1), dict_of(alone, 0))):
        one, other = (each if isinstance(each, dict) else dict_of(each, slice(None)) for each in (one, other))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not torch.equal(dict_of(whole, 0)["losses"], dict_of(whole, 1)["losses"])


def dict_of(run: Run, members: Any) -> dict[str, Tensor]:
    """Tensors, buffers and logged losses of some members."""
    stack = run.checkpoint().stack
    lines = (run.path / "log.jsonl").read_text().splitlines()
    losses = torch.tensor([json.loads(line)["loss"] for line in lines])
    return {name: each[members] for name, each in {**stack.tensors, **stack.buffers}.items()} | {
        "losses": losses[:, members]
    }


def test_what_gets_no_gradient_stays_as_in_pytorch(tmp_path: Path) -> None:
    problem = from_model(Tied, (TOKENS, TOKENS), batch_loss="own")
    run = train(problem, Training(batches=3, weight_decay=0.5), tmp_path / "run", seeds=[0])
    first, last = run.checkpoint(0).stack, run.checkpoint().stack
    assert torch.equal(first["unused.weight"], last["unused.weight"])
    assert not torch.equal(first["embed.weight"], last["embed.weight"])


def test_frozen_parameters_stay_in_stacks_too(tmp_path: Path) -> None:
    problem = from_model(Frozen, (X, Y), "cross_entropy")
    runs = [
        train(
            problem, Training(batches=4, batch_size=30, weight_decay=0.1), tmp_path / engine, seeds=[1], engine=engine
        )
        for engine in ("stacked", "plain")
    ]
    first, stacked, plain = runs[0].checkpoint(0).stack, runs[0].checkpoint().stack, runs[1].checkpoint().stack
    assert torch.equal(first["body.weight"], stacked["body.weight"])
    torch.testing.assert_close(stacked.flatten(), plain.flatten(), rtol=1e-4, atol=1e-6)


def test_long_rows_are_stepped_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit as whole."""
    monkeypatch.setattr("landscape.training.optimizers._PART", 7)
    for optimizer in OPTIMIZERS.values():
        whole, parts = torch.randn(2, 23, generator=GENERATOR), torch.zeros(2, 23)
        parts.copy_(whole)
        memory, remembered = optimizer.begin(whole), optimizer.begin(whole)
        for step in range(3):
            gradient = torch.randn(2, 23, generator=GENERATOR)
            whole = optimizer.step(whole, gradient, memory, Training(), step)
            optimizer.advance(parts, gradient, remembered, Training(), step)
        assert torch.equal(whole, parts)
        assert all(torch.equal(memory[name], remembered[name]) for name in memory)


def fails(model: nn.Module, batch: Any) -> Tensor:
    if model.training:
        raise ValueError("no training here")
    return of_tuple(model, batch)


@pytest.mark.parametrize(
    ("problem", "options", "error", "message"),
    [
        (
            lambda: from_model(Net, (X, Y), batch_loss=fails),
            {},
            Mismatch,
            "the loss does not run in training: ValueError: no training here",
        ),
        (
            lambda: from_model(Net, (X, Y), batch_loss=lambda m, b: of_tuple(m, b).detach()),
            {},
            Unsupported,
            "the loss does not depend on any parameter that learns",
        ),
        (
            lambda: from_model(Net, {"x": X, "y": Y, "z": X[:3]}, batch_loss=of_dict, batch_weight=lambda b: 1.0),
            {"data": "batches"},
            Unsupported,
            'differ in their first axis does not offer: .* or take all data at each step with `data="exact"`',
        ),
        (lambda: from_model(Net, (X, Y), batch_loss=of_tuple), {"engine": "stacked"}, Unsupported, "reads one network"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    tmp_path: Path, problem: Callable[[], Model], options: dict[str, Any], error: Any, message: str
) -> None:
    engine = options.pop("engine", "auto")
    with pytest.raises(error, match=message):
        train(problem(), Training(batches=2, **options), tmp_path / "run", seeds=[0], engine=engine)
    assert not (tmp_path / "run").exists()


def test_a_batch_without_samples_is_trained_on_whole(tmp_path: Path) -> None:
    problem = from_model(Net, {"x": X, "y": Y, "z": X[:3]}, batch_loss=of_dict, batch_weight=lambda b: 1.0)
    assert train(problem, {"batches": 2}, tmp_path / "run", seeds=[0]).document["training"]["data"] == "exact"


@pytest.mark.slow
def test_a_loss_of_ones_own_is_trained_and_walked_on_the_command_line(landscape: Callable[..., Outcome]) -> None:
    Path("own.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape import Problem\n"
        "x = torch.linspace(-1, 1, 64)[:, None]\n"
        "def net(): return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))\n"
        "def loss(model, batch): return (model(batch['x']) - batch['y']).square().mean()\n"
        "PROBLEM = Problem.from_model(net, {'x': x, 'y': x**2}, batch_loss=loss)\n"
    )
    result = landscape("train", "own.py:PROBLEM", "--seeds", "0,1", "--batches", "20", "-o", "run")
    assert result.exit_code == 0, result.stderr
    assert "median loss" in result.stderr
    diverged = landscape("train", "own.py:PROBLEM", "--seeds", "0,1", "--batches", "20", "--lr", "1e30", "-o", "far")
    assert "2 of 2 members diverged: their parameters are NaN or infinite. Lower --lr" in diverged.stderr
    walked = landscape("walk", "--from", "run/#0", "--to", "run/#1", "--points", "3")
    assert walked.exit_code == 0, walked.stderr


class Unused(Net):
    """With parameters that its forward does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 2)


def looped(
    problem: Model, run: Run, make: Callable[..., torch.optim.Optimizer], loss: Callable[[nn.Module], Tensor]
) -> list[Tensor]:
    """By the loop that a user would write on all data: the parameters of the first member after all steps."""
    network = problem.network().train()
    network.load_state_dict(run.checkpoint(0).stack.state_dict(0), strict=False)
    optimizer = make(network.parameters())
    for _ in range(run.steps()[-1]):
        optimizer.zero_grad()
        loss(network).backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def close(run: Run, wanted: list[Tensor]) -> None:
    for found, each in zip(run.checkpoint().stack.tensors.values(), wanted, strict=True):
        torch.testing.assert_close(found[0], each, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "plain", "stacked", "vmap"])
@pytest.mark.parametrize("options", OPTIONS)
def test_weight_decay_leaves_alone_what_the_loss_does_not_reach_by_every_engine(
    tmp_path: Path, engine: Any, options: str
) -> None:
    given, optimizer_of = OPTIONS[options]
    if options == "adam":
        given = {**given, "weight_decay": 0.1}

        def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=0.02, weight_decay=0.1)

    problem = from_model(Unused, (X, Y), "cross_entropy")
    run = train(problem, Training(batches=6, data="exact", **given), tmp_path / "run", seeds=[0, 1], engine=engine)
    first, last = run.checkpoint(0).stack, run.checkpoint().stack
    assert torch.equal(first["unused.weight"], last["unused.weight"])
    close(run, looped(problem, run, optimizer_of, lambda network: F.cross_entropy(network(X), Y)))


def test_a_penalty_of_the_problem_shrinks_what_the_loss_does_not_reach_as_its_value_says(tmp_path: Path) -> None:
    problem = from_model(Unused, (X, Y), "cross_entropy", l2=0.2)

    def loss(network: nn.Module) -> Tensor:
        return F.cross_entropy(network(X), Y) + 0.1 * sum((each**2).sum() for each in network.parameters())

    training = Training(batches=6, data="exact", optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.05)
    run = train(problem, training, tmp_path / "run", seeds=[0])

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05)

    close(run, looped(problem, run, sgd, loss))
    logged = json.loads((run.path / "log.jsonl").read_text().splitlines()[0])["loss"][0]
    assert logged == pytest.approx(float(problem.plain()(run.checkpoint(0).stack)["loss"][0]), rel=1e-6)


@pytest.mark.parametrize("data", ["batches", "exact"])
def test_a_loss_that_reads_another_network_than_its_own_is_refused_and_leaves_no_gradients(
    tmp_path: Path, data: Any
) -> None:
    other = Net()
    closed = from_model(Net, (X, Y), batch_loss=lambda model, batch: of_tuple(other, batch))
    with pytest.raises(Unsupported, match=r"does not depend on any parameter that learns.*: let it read the model"):
        train(closed, Training(batches=2, data=data), tmp_path / "run", seeds=[0])
    assert not (tmp_path / "run").exists()
    both = from_model(Net, (X, Y), batch_loss=lambda m, b: F.mse_loss(m(b[0]), other(b[0])))
    train(both, Training(batches=2, data=data), tmp_path / "both", seeds=[0])
    assert all(each.grad is None for each in other.parameters())


def test_a_network_whose_forward_detaches_everything_is_refused_by_every_engine(tmp_path: Path) -> None:
    class Detached(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    for engine in ("auto", "plain", "stacked", "vmap"):
        with pytest.raises(Unsupported, match="the loss does not depend on any parameter"):
            train(from_model(Detached, (X, Y), "cross_entropy"), {"batches": 2}, tmp_path / "run", engine=engine)
        assert not (tmp_path / "run").exists()


def test_checkpoints_that_are_reentrant_are_trained_through(tmp_path: Path) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            inner: Any = torch.utils.checkpoint.checkpoint(self.second, self.first(x).tanh(), use_reentrant=True)
            return torch.as_tensor(inner)

    training = Training(batches=4, data="exact", lr=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of evaluation, whose inputs need no gradient
        problem = from_model(Checkpointed, (X, Y), batch_loss=of_tuple)
        run = train(problem, training, tmp_path / "run", seeds=[0])
        close(run, looped(problem, run, OPTIONS["adam"][1], lambda network: of_tuple(network, (X, Y))))


LATE = Y.clone()
LATE[:40] = -100
CODES = torch.randint(0, 10, (90, 1), generator=GENERATOR)


def pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), (batch[1] != -100).sum()


def parts(targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(10), targets.split(10), strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_model(Net, (X, LATE), "cross_entropy"),
        lambda: from_model(Net, (X, torch.where(torch.arange(90) == 41, Y, -100)), "cross_entropy"),
        lambda: from_model(Net, (X, torch.where(torch.arange(90) == 41, Y, -100)), lambda o, t: F.cross_entropy(o, t)),
        lambda: from_model(Net, DataLoader(TensorDataset(X, LATE), 7), "cross_entropy"),
        lambda: from_model(Net, parts(LATE), batch_loss=pair),
    ],
    ids=["memory", "one of all", "a function", "loader", "pairs"],
)
def test_data_whose_first_samples_do_not_count_is_taken(tmp_path: Path, make: Callable[[], Model]) -> None:
    problem = make()
    run = train(problem, {"batches": 3, "data": "exact"}, tmp_path / "run", seeds=[0])
    network = problem.network()
    network.load_state_dict(run.checkpoint().stack.state_dict(0))
    given = problem.source.targets if isinstance(problem.source, Samples) else LATE
    wanted = F.cross_entropy(network(X), given).item()
    assert problem.plain()(run.checkpoint().stack)["loss"].item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_do_not_count_either_where_they_are_ignored(smoothing: float) -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    loader = DataLoader(TensorDataset(X, LATE), 7)
    for problem in (from_model(Net, (X, LATE), loss), from_model(Net, loader, loss)):
        stack = template_of(problem.network())
        wanted = loss(problem.network()(X), LATE).item()
        assert problem.plain()(stack)["loss"].item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: from_model(Net, (X, Y * 0 - 100), "cross_entropy"),
            "nothing counts in the data: over all its samples",
        ),
        (lambda: from_model(Net, parts(Y * 0 - 100), "cross_entropy"), "nothing counts in the data: over all its samp"),
        (
            lambda: from_model(Net, parts(Y * 0 - 100), batch_loss=pair),
            "nothing counts in the data: over all its batch",
        ),
        (lambda: from_model(Net, (X, Y), lambda o, t: o.sum(1).sqrt() * torch.nan), "is NaN on its first samples"),
        (lambda: from_model(Net, (X, Y), batch_loss=lambda m, b: m(b[0]).sum() * torch.nan), "NaN on its first batch"),
    ],
)
def test_data_in_which_nothing_counts_and_losses_that_are_no_numbers_are_refused(
    make: Callable[[], Model], message: str
) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


@pytest.mark.parametrize("engine", ["stacked", "plain", "own"])
def test_a_batch_in_which_nothing_counts_is_an_error_that_names_it_and_spoils_no_checkpoint(
    tmp_path: Path, engine: Any
) -> None:
    if engine == "own":
        problem, options, where = from_model(Net, parts(LATE), batch_loss=pair), {}, r" \(batch [0-3] of the data\)"
        engine = "plain"
    else:
        problem, options, where = from_model(Net, (X, LATE), "cross_entropy"), {"batch_size": 1}, ""
    message = f"nothing counts in the batch of step \\d+ of seed \\d+{where}, so that its loss is 0 / 0"
    empty = [seed for seed in range(20) if LATE[problem._order((seed,), 0, 90)[0, 0]] == -100]
    seeds = empty[:1] if options else [0]  # one whose first batch is empty, if batches are of one sample
    with pytest.raises(LandscapeError, match=message):
        train(problem, Training(batches=9, **options), tmp_path / "run", seeds=seeds, engine=engine)
    if options:
        assert not (tmp_path / "run").exists()
        seeds = [seed for seed in range(20) if seed not in empty][:1]
        with pytest.raises(LandscapeError, match=message):
            train(problem, Training(batches=90, **options), tmp_path / "run", seeds=seeds, engine=engine)
    if (tmp_path / "run").exists():
        run = Run.open(tmp_path / "run")
        assert all(run.checkpoint(step).stack.flatten().isfinite().all() for step in run.steps())


class Words(nn.Sequential):
    def __init__(self, **options: Any) -> None:
        super().__init__(nn.Embedding(10, 3, **options), nn.Flatten(), nn.Linear(3, 3))


@pytest.mark.parametrize("engine", ["auto", "plain", "stacked"])
@pytest.mark.parametrize("options", OPTIONS)
def test_embeddings_with_sparse_gradients_are_trained_as_with_dense_ones(
    tmp_path: Path, engine: Any, options: str
) -> None:
    def run(sparse: bool) -> Run:
        problem = from_model(lambda: Words(sparse=sparse), (CODES, Y), "cross_entropy")
        training = Training(batches=4, data="exact", **OPTIONS[options][0])
        return train(problem, training, tmp_path / str(sparse), seeds=[0, 1], engine=engine)

    assert torch.equal(run(sparse=True).checkpoint().stack.flatten(), run(sparse=False).checkpoint().stack.flatten())


@pytest.mark.parametrize("engine", ["auto", "plain", "stacked"])
def test_embeddings_with_sparse_gradients_have_curvature_and_curves(engine: Any) -> None:
    one, other = Words(sparse=True), Words(sparse=True)
    found = []
    for sparse in (True, False):
        problem = from_model(lambda sparse=sparse: Words(sparse=sparse), (CODES, Y), "cross_entropy")
        curve = connect(one, other, problem=problem, method="bezier", steps=2, points=3, engine=engine)
        found.append((curvature(one, problem=problem, engine=engine).eigenvalues, curve.loss))
    for sparse, dense in zip(*found, strict=True):
        assert (sparse == dense).all()
    assert one[0].sparse


def test_a_function_whose_gradients_are_sparse_is_one_line_that_says_what_to_write(tmp_path: Path) -> None:
    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 3))

        def forward(self, codes: Tensor) -> Tensor:
            return F.embedding(codes, self.weight, sparse=True).flatten(1)

    problem = from_model(Function, (CODES, Y), "cross_entropy")
    for engine in ("stacked", "plain"):
        with pytest.raises(Unsupported, match="write `sparse=False`"):
            curvature(Function(), problem=problem, engine=engine)
    with pytest.raises(Unsupported, match="write `sparse=False`"):
        train(problem, {"batches": 2}, tmp_path / "run", seeds=[0], engine="stacked")
    assert train(problem, {"batches": 2}, tmp_path / "run", seeds=[0], engine="plain").steps() == [0, 1, 2]


def hooked() -> nn.Module:
    network = Net()
    network.first.register_forward_hook(lambda layer, given, found: found * 2)
    return network


def exchanged() -> nn.Module:
    network: Any = Net()
    network.first.forward = functools.partial(F.linear, weight=torch.ones(6, 4))
    return network


def normed() -> nn.Module:
    network = Net()
    torch.nn.utils.parametrizations.weight_norm(network.first)
    return network


@pytest.mark.parametrize(
    ("build", "data"),
    [
        (hooked, X),
        (exchanged, X),
        (normed, X),
        (lambda: Words(max_norm=0.5), CODES),
        (lambda: Words(max_norm=0.5, padding_idx=0), CODES),
    ],
)
def test_what_stacks_do_not_know_of_a_layer_is_trained_and_evaluated_by_its_own_forward(
    tmp_path: Path, build: Callable[[], nn.Module], data: Tensor
) -> None:
    assert not plain_layers(build())
    problem = from_model(build, (data, Y), "cross_entropy")
    assert not problem.prefers_stacks(torch.device("cpu"))
    run = train(problem, Training(batches=4, data="exact", lr=0.02), tmp_path / "run", seeds=[0])
    assert run.document["computation"]["backend"] == "plain"
    close(run, looped(problem, run, OPTIONS["adam"][1], lambda network: F.cross_entropy(network(data), Y)))


@pytest.mark.parametrize("engine", ["stacked", "vmap"])
def test_an_embedding_that_writes_over_its_weights_is_refused_where_many_share_them(
    tmp_path: Path, engine: Any
) -> None:
    problem = from_model(lambda: Words(max_norm=0.5), (CODES, Y), "cross_entropy")
    with pytest.raises(Unsupported, match=r'`max_norm` writes over its weights.*use `engine="plain"`'):
        train(problem, {"batches": 2}, tmp_path / "run", seeds=[0], engine=engine)


def test_dropout_that_is_off_in_a_model_that_is_left_as_it_is_has_an_exact_loss(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Linear(6, 3))

    exact = Training(batches=2, data="exact", lr=0.02)
    problem = from_model(lambda: build().eval(), (X, Y), "cross_entropy", mode="as_is")
    run = train(problem, exact, tmp_path / "run", seeds=[0])
    close(run, looped(problem, run, OPTIONS["adam"][1], lambda network: F.cross_entropy(network.eval()(X), Y)))
    for on in (from_model(build, (X, Y), "cross_entropy", mode=mode) for mode in ("as_is", "eval")):
        with pytest.raises(Unsupported, match="dropout has no exact loss to train on"):
            train(on, exact, tmp_path / "on", seeds=[0])


@pytest.mark.parametrize("engine", ["stacked", "plain"])
def test_members_that_diverge_are_counted_in_the_log(
    tmp_path: Path, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    problem = from_model(Net, (X, X[:, :3]), "mse")
    training = Training(batches=30, data="exact", optimizer="sgd", lr=1e6)
    train(problem, training, tmp_path / "run", seeds=[0, 1], engine=engine)
    assert "2 of 2 members diverged: their parameters are NaN or infinite. Lower `lr`" in caplog.messages


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch.py", "torch.py would hide the installed module torch"),
        ("random.py", "random.py would hide the installed module random"),
        ("1x.py", "1x.py cannot be imported"),
        ("my-model.py", "my-model.py cannot be imported"),
        ("class.py", "class.py cannot be imported"),
    ],
)
def test_an_example_has_a_name_that_can_be_imported_and_is_nobodys(
    landscape: Callable[..., Outcome], tmp_path: Path, name: str, words: str
) -> None:
    done = landscape("example", "-o", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {words}")
    assert not (tmp_path / name).exists()
