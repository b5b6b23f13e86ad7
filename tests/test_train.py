"""Training: the optimizers are PyTorch's, a member depends on its seed alone, an interruption changes nothing."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

from landscape.core import philox
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.stack import Stack
from landscape.problems.initialisation import initialise
from landscape.problems.life import Life
from landscape.problems.life.boards import PackedBoards, random_boards
from landscape.problems.life.patterns import PATTERNS, answers, probabilities
from landscape.problems.life.rules import Rule
from landscape.store.checkpoints import Run, load
from landscape.training.optimizers import OPTIMIZERS, Optimizer
from landscape.training.train import Training, save_steps, train

SEEDS = [3, 0, 2**40, 17, 8]
TWO_STEPS = Life(steps=2, board="5x5")
ALONE: dict[str, tuple[Life, dict[str, Any]]] = {
    "exact": (Life(), {}),
    "sgd": (Life(m_factor=4, activation="elu"), {"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.01}),
    "float64": (Life(activation="gelu", sigmoid=False), {"init": "normal", "dtype": "float64"}),
    "boards": (Life(m_factor=3, activation="rrelu"), {"data": "batches", "batch_size": 7}),
    "two steps": (TWO_STEPS, {"data": "batches", "batch_size": 10}),
}


def final(problem: Life, training: Training, path: Path, seeds: list[int], **options: Any) -> Stack:
    return train(problem, training, path, seeds=seeds, **options).checkpoint().stack


@functools.cache
def forty(name: str, folder: Path) -> Run:
    """Forty members, SEEDS in their midst, trained once for every company that is compared with them."""
    problem, options = ALONE[name]
    seeds = [*range(100, 120), *SEEDS, *range(200, 215)]
    return train(problem, Training(batches=12, **options), folder / name, seeds=seeds)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


def digests(run: Path) -> list[str]:
    return [load(f"{run}/@{step}").sources[0].digest for step in Run.open(run).steps()]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"lr": 0.02}, lambda p: torch.optim.Adam(p, lr=0.02)),
        ({"lr": 0.02, "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1)),
        ({"optimizer": "sgd", "lr": 0.5}, lambda p: torch.optim.SGD(p, lr=0.5)),
        (
            {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
    ],
    ids=["adam", "adam with decay", "sgd", "sgd with momentum and decay"],
)
def test_optimizers_are_pytorchs(tmp_path: Path, options: dict[str, Any], reference: Any) -> None:
    problem = Life(activation="gelu", m_factor=2)
    run = train(problem, Training(batches=50, dtype="float64", save_at=(0, 50), **options), tmp_path / "run", seeds=[4])
    network = problem.network().double()
    network.load_state_dict(run.checkpoint(0).stack.state_dict(0))
    optimizer = reference(network.parameters())
    inputs = torch.from_numpy(PATTERNS[:, None]).double()
    targets = torch.from_numpy(answers(Rule.parse(problem.rule))).double()
    weights = torch.from_numpy(probabilities(10, 10))
    for _ in range(50):
        optimizer.zero_grad()
        outputs = network(inputs)[:, 0, 1, 1]
        F.binary_cross_entropy(outputs, targets, weight=weights, reduction="sum").backward()
        optimizer.step()
    for name, tensor in run.checkpoint(50).stack.state_dict(0).items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=1e-7, atol=1e-10)


@pytest.mark.bitwise
@pytest.mark.parametrize("company", [1, 2, 5])
@pytest.mark.parametrize("name", ALONE)
def test_a_member_is_bitwise_the_same_alone_and_among_forty(
    tmp_path: Path, trained: Path, name: str, company: int
) -> None:
    problem, options = ALONE[name]
    many = forty(name, trained)
    alone = train(problem, Training(batches=12, **options), tmp_path / "few", seeds=SEEDS[:company])
    places = [many.seeds.index(seed) for seed in alone.seeds]
    assert torch.equal(alone.checkpoint().stack.flatten(), many.checkpoint().stack.select(places).flatten())
    told, among = (
        [json.loads(line)["loss"] for line in (run.path / "log.jsonl").read_text().splitlines()]
        for run in (alone, many)
    )
    assert told == [[losses[place] for place in places] for losses in among]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "options"),
    [(Life(), {}), (TWO_STEPS, {"data": "batches", "optimizer": "sgd", "momentum": 0.9, "batch_size": 16})],
    ids=["exact", "boards"],
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, problem: Life, options: dict[str, Any]
) -> None:
    batches = 120
    training = Training(batches=batches, save_at=(0, 10, 60, batches), **options)
    train(problem, training, tmp_path / "whole", seeds=SEEDS)
    # A process that has imported everything makes those that are killed: to start one takes longer than to train.
    program = f"""
import os, sys, torch
from pathlib import Path
from landscape.problems.life import Life
from landscape.training.train import Training, train
torch.set_num_threads({torch.get_num_threads()})
tell = lambda done, total: print(done, flush=True)
output = Path({str(tmp_path / "killed")!r})
for _ in sys.stdin:
    child = os.fork()
    if not child:
        print("pid", os.getpid(), flush=True)
        train({problem!r}, {training!r}, output, seeds={SEEDS}, resume_every=0.0, progress=tell)
        os._exit(0)
    print("killed by", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    for kill_at in (1, 30, 80):
        print("another", file=parent.stdin)
        child = int(parent.stdout.readline().removeprefix("pid "))
        begun = None
        for line in parent.stdout:
            begun = begun or int(line)
            if int(line) >= kill_at:
                break
        time.sleep(0.001 * kill_at % 0.007)  # somewhere within a step
        os.kill(child, signal.SIGKILL)
        said = next(line for line in parent.stdout if not line.strip().isdigit())
        assert said == f"killed by {-signal.SIGKILL}\n"
        assert begun is not None
        assert begun >= min(kill_at, 1)
    parent.stdin.close()
    parent.stdout.close()
    assert parent.wait() == 0
    kept = Run.open(tmp_path / "killed")
    assert batches not in kept.steps()
    steps: list[int] = []
    train(problem, training, tmp_path / "killed", seeds=SEEDS, progress=lambda done, total: steps.append(done))
    assert steps[0] >= 80  # taken up, not begun again
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir() if not path.name.startswith(".")) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": Training(batches=9, lr=0.5)}, r"holds another run: training\.lr is 0\.01 there and 0\.5 here"),
        ({"seeds": [1, 3]}, r"seeds is \[1, 2\] there and \[1, 3\] here"),
        ({"data_seeds": [5]}, r"data_seeds is \[1, 2\] there and \[5, 5\] here"),
        ({"problem": Life(m_factor=2)}, r"problem\.config\.m_factor is 1 there and 2 here"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"problem": Life(), "training": Training(batches=9), "output": tmp_path, "seeds": [1, 2]}
    train(**asked)
    with pytest.raises(Mismatch, match=message):
        train(**{**asked, **changes})
    with pytest.raises(
        LandscapeError, match="is finished: choose another run with `output`, or replace it with `overwrite=True`"
    ):
        train(**asked)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(LandscapeError, match="exists and is no run: choose another directory"):
        train(Life(), Training(batches=1), tmp_path, seeds=[0])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "there are no seeds to train"),
        ({"seeds": [1, 2, 1]}, "seed 1 is repeated with the same data"),
        ({"seeds": [1, 2], "data_seeds": [1, 2, 3]}, "2 seeds but 3 data seeds"),
        ({"seeds": [-1]}, "seed"),
        ({"seeds": [2**63]}, "seed"),
    ],
)
def test_seeds_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        train(Life(), Training(batches=1), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "`lr` is 0.0, it must be positive"),
        ({"lr": float("nan")}, "`lr` is nan"),
        ({"batch_size": 0}, "`batch_size` is 0, it must be at least 1"),
        ({"batches": -1}, "`batches` is -1, it must be at least 0"),
        ({"weight_decay": -0.1}, "`weight_decay` is -0.1, it must be at least 0 and finite"),
        ({"momentum": 0.9}, '`momentum` goes with `optimizer="sgd"`, not adam'),
        ({"momentum": 1.0, "optimizer": "sgd"}, "at least 0 and below 1"),
        ({"batches": 5, "save_at": (0, 6)}, "`save_at` names step 6: the run has steps 0 to 5"),
    ],
)
def test_training_that_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        Training(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": {"lrr": 1}}, r"there is no option 'lrr' of Training: did you mean lr\?"),
        ({"training": {"lr": "fast"}}, "`lr` cannot be 'fast': it takes a number"),
        ({"training": {"optimizer": "adan"}}, "`optimizer` cannot be 'adan': it takes one of adam, sgd"),
        ({"problem": "lif"}, r"there is no problem 'lif': did you mean life\?"),
        ({"seeds": [0, 0]}, "seed 0 is repeated"),
        ({"logs": ["mlflow"]}, "there is no log 'mlflow'"),
        ({"device": "gpu"}, "there is no device 'gpu': `device` is auto, cpu or cuda"),
        ({"resume_every": -1.0}, "`resume_every` is -1.0, it must be at least 0"),
        ({"output": "taken"}, "taken exists and is no run: choose another directory with `output`"),
        ({"output": "taken", "overwrite": True}, "taken exists and is no run"),
        ({"output": "finished"}, "finished is finished: choose another run with `output`, or replace it with `over"),
        ({"output": "finished", "seeds": [7]}, r"holds another run: seeds is \[0\] there and \[7\] here"),
    ],
    ids=str,
)
def test_all_is_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("taken/thesis.tex").touch()
    train("life", {"batches": 1}, "finished", seeds=[0])
    before = sorted(tmp_path.rglob("*"))

    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Life, "training_objective", work)
    asked: dict[str, Any] = {"problem": "life", "training": {"batches": 1}, "output": "new", "seeds": [0]}
    with pytest.raises(LandscapeError, match=message):
        train(**{**asked, **options})
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(AssertionError, match="work was begun"):
        train(**asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match='there is no CUDA device here: use `device="cpu"`, or auto'):
        train("life", {"batches": 1}, tmp_path / "run", seeds=[0], device="cuda")
    run = train("life", {"batches": 1}, tmp_path / "run", seeds=[0], device="auto")
    assert run.document["computation"]["device"] == "cpu"


def test_a_run_is_named_for_what_is_not_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(Life(m_factor=2, rule="B3/S23"), {"batches": 0}, seeds=[0]).path == Path(
        "checkpoints/life-rule=B3S23-m_factor=2"
    )


def test_another_optimizer_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(flat: torch.Tensor, gradient: torch.Tensor, moments: Any, rates: Any, step: int) -> torch.Tensor:
        return flat - rates.lr * gradient.sign()

    monkeypatch.setitem(OPTIMIZERS, "sign", Optimizer((), sign))
    run = train("life", {"batches": 1, "optimizer": "sign", "lr": 0.5}, tmp_path / "run", seeds=[0, 1])
    moved = run.checkpoint().stack.flatten() - run.checkpoint(0).stack.flatten()
    torch.testing.assert_close(moved.abs().max(), torch.tensor(0.5))


def test_no_exact_loss_of_two_steps(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"2 steps.* has no exact loss to train on: use `data=\"batches\"`"):
        train(TWO_STEPS, Training(batches=1, data="exact"), tmp_path / "run", seeds=[0])


def test_steps_that_are_saved(tmp_path: Path) -> None:
    assert save_steps(0) == (0,)
    assert save_steps(1) == (0, 1)
    assert save_steps(100) == (0, 1, 2, 5, 10, 20, 50, 100)
    assert save_steps(3000) == (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 3000)
    run = train(Life(), Training(batches=7), tmp_path / "run", seeds=[0])
    assert run.steps() == [0, 1, 2, 5, 7]
    assert train(Life(), Training(batches=7, save_at=()), tmp_path / "last", seeds=[0]).steps() == [7]


def test_shared_data_are_the_first_data_seeds(tmp_path: Path) -> None:
    def boards(path: str, seeds: list[int], **options: Any) -> torch.Tensor:
        training = Training(batches=5, data="batches", shared_data=options.pop("shared_data", False))
        return final(Life(), training, tmp_path / path, seeds, **options).flatten()

    shared = boards("shared", [1, 2], shared_data=True)
    assert torch.equal(shared, boards("one", [1, 2], data_seeds=[1]))
    own = boards("own", [1, 2])
    assert torch.equal(shared[0], own[0])
    assert not torch.equal(shared[1], own[1])


def test_the_data_seed_is_apart_from_that_of_the_weights(tmp_path: Path) -> None:
    training = Training(batches=3, data="batches")
    run = train(Life(), training, tmp_path / "run", seeds=[1, 1], data_seeds=[1, 2])
    first, last = run.checkpoint(0).stack.flatten(), run.checkpoint(3).stack.flatten()
    assert torch.equal(first[0], first[1])
    assert not torch.equal(last[0], last[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("problem", "data"), [(Life(), "exact"), (Life(activation="rrelu"), "batches"), (TWO_STEPS, "batches")]
)
def test_the_loss_falls(tmp_path: Path, problem: Life, data: Any, dtype: Any) -> None:
    training = Training(batches=30, data=data, dtype=dtype, batch_size=32)
    run = train(problem, training, tmp_path / "run", seeds=SEEDS)
    before, after = run.checkpoint(0).stack, run.checkpoint().stack
    assert after.dtype == getattr(torch, dtype)
    objective = problem.objective(samples=200)
    assert (objective(after)["loss"] < objective(before)["loss"]).all()


def test_progress_counts_the_steps(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    train(Life(), Training(batches=4), tmp_path / "run", seeds=[0], progress=lambda *now: told.append(now))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


# ----------------------------------------------------------------------------------------------------------------------

DEEP = {
    "two steps": Life(steps=2, board="5x5"),
    "dropout": Life(steps=2, board="4x4", m_factor=2, dropout=0.25),
    "rrelu": Life(activation="rrelu", m_factor=2, board="4x4"),
    "paper": Life(steps=2, board="4x4", m_factor=2, architecture="paper", activation="elu"),
    "wide": Life(steps=2, m_factor=10),
    "wide with dropout": Life(steps=2, m_factor=10, dropout=0.1),
}


@pytest.mark.bitwise
@pytest.mark.parametrize("name", DEEP)
def test_a_member_is_bitwise_the_same_in_another_order_and_company(tmp_path: Path, name: str) -> None:
    """More than a chunk of members and, for wide networks, more than a chunk of boards."""
    training = Training(batches=2 if "wide" in name else 4, data="batches", batch_size=90)
    few, many = list(range(7)), [12, 5, 30, 3, 1, 20, 6, 2, 2**50, 4, 11, 0, 13, 14]
    got = final(DEEP[name], training, tmp_path / "few", few)
    wanted = final(DEEP[name], training, tmp_path / "many", many).select([many.index(seed) for seed in few])
    assert torch.equal(got.flatten(), wanted.flatten())
    one = final(DEEP[name], training, tmp_path / "one", [3])
    assert torch.equal(one.flatten()[0], got.flatten()[3])


def test_dropout_is_trained_on_boards(tmp_path: Path) -> None:
    for life in (Life(dropout=0.2), Life(steps=2, dropout=0.2, board="4x4")):
        with pytest.raises(Unsupported, match='has no exact loss to train on: use `data="batches"`'):
            train(life, Training(batches=1, data="exact"), tmp_path / "exact", seeds=[0])
    with pytest.raises(Unsupported, match="or `dropout=0`"):
        train(Life(dropout=0.2), Training(batches=1, data="exact"), tmp_path / "exact", seeds=[0])
    assert not (tmp_path / "exact").exists()


@pytest.mark.parametrize(
    ("problem", "data"),
    [
        (Life(), "exact"),
        (Life(activation="rrelu"), "exact"),
        (Life(dropout=0.2), "batches"),
        (Life(steps=2, board="4x4"), "batches"),
        (Life(d_factor=2, board="4x4"), "batches"),
    ],
    ids=["exact", "rrelu", "dropout", "two steps", "two blocks"],
)
def test_what_auto_data_are(tmp_path: Path, problem: Life, data: Any) -> None:
    run = train(problem, Training(batches=2, batch_size=8), tmp_path / "auto", seeds=[0, 1])
    assert run.document["training"]["data"] == data
    named = final(problem, Training(batches=2, batch_size=8, data=data), tmp_path / "named", [0, 1])
    assert torch.equal(run.checkpoint().stack.flatten(), named.flatten())


def test_what_is_drawn_is_drawn_for_each_cell_of_each_board(tmp_path: Path) -> None:
    """One step of sgd with dropout of channels and slopes of RReLU, against the network written out."""
    life = Life(activation="rrelu", dropout=0.3, m_factor=2, board="4x3", normalize=True)
    boards = life.training_batch(torch.tensor([5, 6]), 0, 32, device="cpu", dtype=torch.float64)
    assert isinstance(boards, PackedBoards)
    assert not boards.codes
    training = Training(optimizer="sgd", lr=1.0, batches=1, batch_size=32, dtype="float64", data="batches")
    run = train(life, training, tmp_path / "run", seeds=[1, 2], data_seeds=[5, 6])
    for member, seed in enumerate((5, 6)):
        key = torch.tensor([seed])

        def drawn(layer: int, *shape: int, key: torch.Tensor = key) -> torch.Tensor:
            numbers = philox.uniform(key, stream=2**16 + layer, step=0, count=torch.Size(shape).numel())
            return numbers.view(*shape).movedim(-1, 0)  # samples are last in the engine, first in PyTorch

        def rrelu(x: torch.Tensor, layer: int, drawn: Any = drawn) -> torch.Tensor:
            return torch.where(x >= 0, x, x * (1 / 8 + (1 / 3 - 1 / 8) * drawn(layer, *x.shape[1:], len(x))))

        state = {k: v.clone().requires_grad_() for k, v in run.checkpoint(0).stack.state_dict(member).items()}
        weights = {name: (state[f"net.0.{name}.weight"], state[f"net.0.{name}.bias"]) for name in "024"}
        now = random_boards(key, 0, 32, 4, 3, 0.5)[0].movedim(-1, 0)
        x = F.conv2d(F.pad(now[:, None].double() - 0.5, (1, 1, 1, 1), value=-0.5), *weights["0"])
        x = rrelu(x * (drawn(2, 4, 1, 1, 32) >= 0.3) / 0.7, 3)
        logits = F.conv2d(rrelu(F.conv2d(x, *weights["2"]), 5), *weights["4"])[:, 0]
        later = torch.from_numpy(Rule.parse(life.rule).step(now.numpy().astype(int))).double()
        F.binary_cross_entropy_with_logits(logits, later).backward()
        for name, tensor in run.checkpoint(1).stack.state_dict(member).items():
            torch.testing.assert_close(tensor, state[name].detach() - state[name].grad, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three seeds of two steps, to begin at."""
    return train(
        TWO_STEPS, Training(batches=2, batch_size=8), tmp_path_factory.mktemp("runs") / "begun", seeds=[4, 5, 6]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", [Life(), Life(steps=2, board="4x4", architecture="paper", activation="relu")])
def test_a_training_begins_at_a_landmark(tmp_path: Path, problem: Life, dtype: Any) -> None:
    training = Training(batches=1, start="presolve", dtype=dtype, batch_size=8, data="batches")
    run = train(problem, training, tmp_path / "run", seeds=[0, 1], data_seeds=[2, 3])
    landmark = problem.landmark("presolve").to(getattr(torch, dtype))
    first = run.checkpoint(0).stack
    assert list(first.tensors) == list(problem.network().state_dict())
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, landmark[name].expand_as(tensor))
    objective = problem.objective(samples=100, dtype=getattr(torch, dtype))
    assert objective(first)["loss"].tolist() == objective(landmark)["loss"].tolist() * 2
    assert run.document["training"]["start"] == "presolve"


@pytest.mark.parametrize("options", [{"presolve_blocks": (0, 1), "data": "batches"}, {"start": "presolve"}], ids=str)
@pytest.mark.parametrize("seeds", [{"data_seeds": [4]}, {"data_seeds": [4, 4, 5]}], ids=str)
def test_nor_may_data_seeds_make_them_equal(tmp_path: Path, options: dict[str, Any], seeds: dict[str, Any]) -> None:
    training = Training(batches=1, batch_size=8, **options)
    with pytest.raises(LandscapeError, match=r"of 3 seeds only [12] would differ"):
        train(TWO_STEPS, training, tmp_path / "run", seeds=[0, 1, 2], **seeds)


def test_all_blocks_frozen_leave_nothing_to_train(tmp_path: Path) -> None:
    training = Training(batches=1, presolve_blocks=(0, 1), freeze=True)
    with pytest.raises(LandscapeError, match="all blocks are frozen: leave at least one to train"):
        train(TWO_STEPS, training, tmp_path / "run", seeds=[0])


def test_a_start_and_an_initialisation_exclude_one_another() -> None:
    with pytest.raises(LandscapeError, match='`start="presolve"` leaves nothing to `init` and `init_scale`'):
        Training(start="presolve", init="normal")


@pytest.mark.parametrize("training", [{"data": "exact"}, {"data": "batches", "shared_data": True}], ids=str)
def test_seeds_that_would_be_equal_are_refused(tmp_path: Path, training: dict[str, Any]) -> None:
    with pytest.raises(LandscapeError, match="of 2 seeds only 1 would differ: the others start at the same point"):
        train(Life(), Training(batches=1, start="presolve", **training), tmp_path / "run", seeds=[0, 1])
    assert not (tmp_path / "run").exists()
    train(Life(), Training(batches=1, start="presolve", **training), tmp_path / "run", seeds=[0])


def test_the_order_of_tensors_of_a_start_does_not_matter(tmp_path: Path) -> None:
    landmark = TWO_STEPS.landmark("presolve")
    reversed_ = Stack(dict(reversed(landmark.tensors.items())))
    training = Training(batches=0, batch_size=8)
    first = train(TWO_STEPS, training, tmp_path / "run", seeds=[0], start=reversed_).checkpoint(0).stack
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, landmark[name].float())
    with pytest.raises(Mismatch, match=r"the stack and the problem's network are of different architectures"):
        train(TWO_STEPS, training, tmp_path / "other", seeds=[0], start=Life(steps=3).landmark("presolve"))


def test_a_training_begins_at_another(tmp_path: Path, begun: Run) -> None:
    there = begun.checkpoint().stack.flatten()

    def first(start: str, seeds: list[int]) -> torch.Tensor:
        training = Training(batches=1, start=start, batch_size=8)
        return (
            train(TWO_STEPS, training, tmp_path / str(len(list(tmp_path.iterdir()))), seeds=seeds)
            .checkpoint(0)
            .stack.flatten()
        )

    assert torch.equal(first(f"{begun.path}", [7, 8, 9]), there)
    assert torch.equal(first(f"{begun.path}/#5", [7, 8]), there[[1, 1]])
    assert torch.equal(first(f"{begun.path}/@0", [0, 1, 2]), begun.checkpoint(0).stack.flatten())
    words = "2 seeds cannot start from 3 members: choose one with RUN/#seed, or as many"
    with pytest.raises(Mismatch, match=words):
        first(f"{begun.path}", [0, 1])
    with pytest.raises(Mismatch, match="different architectures"):
        train(Life(), Training(batches=1, start=str(begun.path)), tmp_path / "other", seeds=[0, 1, 2])
    with pytest.raises(Unsupported, match="life has no landmark 'presolved'"):
        first("presolved", [0])
    assert not (tmp_path / "other").exists()


def test_a_training_that_begins_at_another_goes_its_own_way(tmp_path: Path, begun: Run) -> None:
    """From there on it is the same as from these very parameters, given as a stack."""
    stack = begun.checkpoint().stack
    training = Training(batches=3, start=str(begun.path), batch_size=8, reset_optimizer=True)
    named = final(TWO_STEPS, training, tmp_path / "a", [7, 8, 9])
    given = final(TWO_STEPS, Training(batches=3, batch_size=8), tmp_path / "b", [7, 8, 9], start=stack)
    assert torch.equal(named.flatten(), given.flatten())
    assert not torch.equal(named.flatten(), stack.flatten())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("data", ["exact", "batches"])
def test_two_trainings_in_a_row_are_one(tmp_path: Path, optimizer: str, data: str) -> None:
    """Bit for bit: moments, the number of the step and the batches go on."""
    given = {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0, "data": data, "batch_size": 8}
    problem, seeds = Life(), [3, 4]
    final(problem, Training(batches=4, **given), tmp_path / "first", seeds)
    second = final(problem, Training(batches=3, start=str(tmp_path / "first"), **given), tmp_path / "second", seeds)
    third = final(problem, Training(batches=2, start=str(tmp_path / "second"), **given), tmp_path / "third", seeds)
    whole = final(problem, Training(batches=9, **given), tmp_path / "whole", seeds)
    assert torch.equal(third.flatten(), whole.flatten())
    assert Run.open(tmp_path / "third").document["continues"]["step"] == 7
    alone = final(problem, Training(batches=2, start=f"{tmp_path}/second/#4", **given), tmp_path / "alone", [4])
    assert torch.equal(alone.flatten()[0], third.flatten()[1])
    assert not torch.equal(second.flatten(), third.flatten())


def test_an_optimizer_that_cannot_go_on_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    final(Life(), Training(batches=2, save_at=(0, 1, 2)), tmp_path / "run", [0, 1])

    def said(place: str, **changed: object) -> str:
        caplog.clear()
        training = Training(**{"batches": 1, "start": place, **changed})
        train(Life(), training, tmp_path / "other", seeds=[0, 1], overwrite=True)
        return " ".join(record.getMessage() for record in caplog.records)

    run = str(tmp_path / "run")
    assert said(run) == "" == said(run, reset_optimizer=True) == said(run, optimizer="adam", lr=0.1)
    assert "adam begins anew (the run keeps what its optimizer remembered at its last step, 2, alone)" in said(
        f"{run}/@1"
    )
    assert "sgd begins anew (the run was trained by adam)" in said(run, optimizer="sgd", momentum=0.5)
    (tmp_path / "run" / "optimizer.safetensors").unlink()
    assert "adam begins anew (the run keeps nothing of its optimizer)" in said(run)
    (tmp_path / "run" / "run.json").rename(tmp_path / "run" / "gone.json")
    assert "begins anew (a checkpoint file says nothing of an optimizer)" in said(f"{run}/step-00000002.safetensors")
    with pytest.raises(LandscapeError, match="`reset_optimizer` is for a `start`"):
        Training(reset_optimizer=True)


@pytest.mark.parametrize("architecture", ["study", "paper"])
@pytest.mark.parametrize("blocks", [(0,), (1,), (0, 1)])
def test_blocks_begin_at_the_known_solution(tmp_path: Path, blocks: tuple[int, ...], architecture: Any) -> None:
    problem = Life(steps=2, board="4x4", activation="relu", architecture=architecture)
    training = Training(batches=6, presolve_blocks=blocks, batch_size=16, init="normal", init_std=0.5, lr=0.1)
    seeds = [3, 4]
    free = train(problem, training, tmp_path / "free", seeds=seeds)
    runs = [free]
    if blocks != (0, 1):
        kept = dataclasses.replace(training, freeze=True, weight_decay=0.1)
        runs.append(train(problem, kept, tmp_path / "frozen", seeds=seeds))
    known = problem.landmark("presolve")
    random = initialise(problem.network(), seeds, scheme="normal", std=0.5)
    chosen = {name for block in blocks for name in problem.parts()[block]}
    assert any(name.startswith("out.") for name in chosen) == (architecture == "paper" and 1 in blocks)
    for run in runs:
        for name, tensor in run.checkpoint(0).stack.tensors.items():
            wanted = known[name].float().expand_as(tensor) if name in chosen else random[name]
            assert torch.equal(tensor, wanted), name
    if blocks == (0, 1):
        return
    first, last = runs[1].checkpoint(0).stack, runs[1].checkpoint().stack
    stayed = {name for name in first.tensors if torch.equal(first[name], last[name])}
    assert stayed == chosen
    moved = free.checkpoint().stack
    assert any(not torch.equal(first[name], moved[name]) for name in chosen)


def test_blocks_of_a_run_are_replaced(tmp_path: Path, begun: Run) -> None:
    training = Training(batches=0, start=str(begun.path), presolve_blocks=(1,))
    stack = final(TWO_STEPS, training, tmp_path / "run", [0, 1, 2])
    known = TWO_STEPS.landmark("presolve")
    for name, tensor in stack.tensors.items():
        there = begun.checkpoint().stack[name]
        assert torch.equal(tensor, known[name].float().expand_as(tensor) if name.startswith("net.1.") else there)


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (TWO_STEPS, {"presolve_blocks": (0, 2)}, "there is no block 2 to presolve: the network has blocks 0 to 1"),
        (TWO_STEPS, {"presolve_blocks": (-1,)}, "there is no block -1 to presolve"),
        (Life(rule="B36/S23"), {"presolve_blocks": (0,)}, "no solution of B36/S23 is known"),
        (Life(architecture="paper", activation="elu"), {"presolve_blocks": (0,)}, "known for the paper's architecture"),
    ],
)
def test_blocks_that_are_not_known(tmp_path: Path, problem: Life, options: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        train(problem, Training(batches=1, **options), tmp_path / "run", seeds=[0])
    assert not (tmp_path / "run").exists()


def test_nothing_to_freeze() -> None:
    with pytest.raises(LandscapeError, match="there is nothing to freeze: name the blocks with `presolve_blocks`"):
        Training(freeze=True)


def test_a_frozen_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    training = Training(batches=8, presolve_blocks=(1,), freeze=True, batch_size=16, save_at=(0, 3, 8))

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    train(TWO_STEPS, training, tmp_path / "whole", seeds=SEEDS)
    with pytest.raises(KeyboardInterrupt):
        train(TWO_STEPS, training, tmp_path / "cut", seeds=SEEDS, resume_every=0, progress=interrupt)
    assert Run.open(tmp_path / "cut").steps() == [0, 3]
    steps: list[int] = []
    train(TWO_STEPS, training, tmp_path / "cut", seeds=SEEDS, progress=lambda done, total: steps.append(done))
    assert steps[0] == 6  # nothing is done twice
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_another_start_in_the_same_place_is_refused(tmp_path: Path, begun: Run) -> None:
    path, stack = tmp_path / "run", begun.checkpoint().stack
    asked: dict[str, Any] = {"problem": TWO_STEPS, "output": path, "seeds": [0, 1, 2]}
    train(**asked, training=Training(batches=1, batch_size=8), start=stack)
    with pytest.raises(Mismatch, match=r"holds another run: start is .* there and .* here"):
        train(**asked, training=Training(batches=1, batch_size=8), start=stack.select([1, 0, 2]))
    with pytest.raises(Mismatch, match=r"start is .* there and null here"):
        train(**asked, training=Training(batches=1, batch_size=8))
    with pytest.raises(Mismatch, match=r"training\.start is null there and \"presolve\" here"):
        train(**asked, training=Training(batches=1, batch_size=8, start="presolve"))
    with pytest.raises(Mismatch, match=r"training\.presolve_blocks is \[\] there and \[0\] here"):
        train(**asked, training=Training(batches=1, batch_size=8, presolve_blocks=(0,)), start=stack)


# ----------------------------------------------------------------------------------------------------------------------


def test_normal_weights_and_uniform_biases() -> None:
    network = Life(m_factor=40, steps=2).network()
    stack = initialise(network, [1, 2, 3], scheme="normal_uniform", std=0.02)
    weights = torch.cat([t.flatten(1) for name, t in stack.tensors.items() if name.endswith("weight")], 1).double()
    biases = torch.cat([t.flatten(1) for name, t in stack.tensors.items() if name.endswith("bias")], 1).double()
    count = weights[0].numel()
    assert abs(weights.mean()) < 4 * 0.02 / (3 * count) ** 0.5
    assert abs(weights.std() / 0.02 - 1) < 4 / (6 * count) ** 0.5
    within = [(weights.abs() < k * 0.02).double().mean().item() for k in (1, 2)]
    assert within == pytest.approx([0.6827, 0.9545], abs=4 * (0.25 / (3 * count)) ** 0.5)
    assert biases.min() >= -1
    assert biases.max() <= 1
    assert biases.abs().max() > 0.98
    assert abs(biases.mean()) < 4 / (3 * biases.numel()) ** 0.5
    assert abs(biases.square().mean() - 1 / 3) < 4 * (4 / 45 / biases.numel()) ** 0.5
    assert torch.equal(stack.flatten(), initialise(network, [1, 2, 3], scheme="normal_uniform", std=0.02).flatten())
    other = initialise(network, [9, 3, 1], scheme="normal_uniform", std=0.02)
    assert torch.equal(other.flatten()[[2, 1]], stack.flatten()[[0, 2]])
    doubled = initialise(network, [1, 2, 3], scheme="normal_uniform", std=0.02, scale=2.0)
    assert torch.equal(doubled.flatten(), 2 * stack.flatten())
    wide = initialise(network, [1, 2, 3], scheme="normal_uniform", std=0.2)
    torch.testing.assert_close(wide["net.0.0.weight"], 10 * stack["net.0.0.weight"])
    assert torch.equal(wide["net.0.0.bias"], stack["net.0.0.bias"])


@pytest.mark.gpu
@pytest.mark.parametrize("problem", [TWO_STEPS, Life(steps=2, activation="rrelu", dropout=0.2)], ids=Life.title)
def test_a_gpu_trains_as_the_cpu_does(tmp_path: Path, problem: Life) -> None:
    training = Training(batches=5, batch_size=40, dtype="float64")
    runs = [train(problem, training, tmp_path / device, seeds=range(5), device=device) for device in ("cpu", "cuda")]
    here, there = (run.checkpoint().stack.flatten() for run in runs)
    torch.testing.assert_close(there, here, rtol=1e-8, atol=1e-10)


@pytest.mark.gpu
def test_training_on_a_gpu_takes_bounded_memory(tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    training = Training(batches=2, batch_size=128)
    train(Life(steps=3, m_factor=40), training, tmp_path / "run", seeds=range(500), device="cuda")
    assert torch.cuda.max_memory_allocated() < 3e10


def test_seeds_are_whole_numbers(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # this serves where types are not checked
    wrong: Any
    for wrong in ([0.5], ["a"], 3):
        with pytest.raises(LandscapeError, match=r"`seeds` cannot be .*: it takes a "):
            train(life, {"batches": 2}, tmp_path / "run", seeds=wrong)
    assert not (tmp_path / "run").exists()
    numbers: Any = torch.arange(2).numpy()
    assert Run.open(train(life, {"batches": 2}, tmp_path / "run", seeds=numbers).path).seeds == [0, 1]
    with pytest.raises(LandscapeError, match="`engine` cannot be 'fast': it takes one of "):
        train(life, {"batches": 2}, tmp_path / "other", seeds=[0], engine="fast")  # type: ignore[arg-type]


def test_an_interrupted_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Options that it does not know have their defaults."""
    training = Training(batches=4, save_at=(0, 2, 4))
    whole = train(Life(), training, tmp_path / "whole", seeds=[0, 1]).checkpoint().stack.flatten()
    train(Life(), training, tmp_path / "run", seeds=[0, 1])
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    del document["training"]["reset_optimizer"], document["training"]["freeze"], document["sha256"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(document))
    (tmp_path / "run" / "step-00000004.safetensors").unlink()
    assert torch.equal(train(Life(), training, tmp_path / "run", seeds=[0, 1]).checkpoint().stack.flatten(), whole)


def test_a_state_of_another_run_is_not_taken_up(tmp_path: Path) -> None:
    """As where a run's files were copied over another's."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for name, lr in (("one", 0.01), ("other", 0.02)):
        with pytest.raises(KeyboardInterrupt):
            train(Life(), Training(batches=4, lr=lr), tmp_path / name, seeds=[0, 1], progress=stop)
    (tmp_path / "other" / "resume.safetensors").replace(tmp_path / "one" / "resume.safetensors")
    with pytest.raises(Mismatch, match=r"resume\.safetensors is the state of another run than"):
        train(Life(), Training(batches=4, lr=0.01), tmp_path / "one", seeds=[0, 1])
