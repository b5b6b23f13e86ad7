"""Training: the optimizers are PyTorch's, a member depends on its seed alone, an interruption changes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from landscape.errors import LandscapeError, Mismatch, Unsupported
from landscape.params import Stack
from landscape.problems.life import Life
from landscape.problems.life.patterns import PATTERNS, answers, probabilities
from landscape.problems.life.rules import Rule
from landscape.store import Run, load
from landscape.train import Training, save_steps, train

SEEDS = [3, 0, 2**40, 17, 8]
TWO_STEPS = Life(steps=2, board="5x5")


def final(problem: Life, training: Training, path: Path, seeds: list[int], **options: Any) -> Stack:
    return train(problem, training, path, seeds=seeds, **options).checkpoint().stack


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


@pytest.mark.parametrize("company", [1, 2, 5])
@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (Life(), {}),
        (Life(m_factor=4, activation="elu"), {"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.01}),
        (Life(activation="gelu", sigmoid=False), {"init": "normal", "dtype": "float64"}),
        (Life(m_factor=3, activation="rrelu"), {"data": "boards", "batch_size": 7}),
        (TWO_STEPS, {"data": "boards", "batch_size": 10}),
    ],
    ids=["exact", "sgd", "float64", "boards", "two steps"],
)
def test_a_member_is_bitwise_the_same_alone_and_among_forty(
    tmp_path: Path, problem: Life, options: dict[str, Any], company: int
) -> None:
    training = Training(batches=12, **options)
    few = SEEDS[:company]
    many = [*range(100, 120), *SEEDS, *range(200, 215)]
    got = final(problem, training, tmp_path / "few", few)
    wanted = final(problem, training, tmp_path / "many", many).select([many.index(seed) for seed in few])
    assert torch.equal(got.flatten(), wanted.flatten())


@pytest.mark.parametrize(
    ("problem", "options"),
    [(Life(), {}), (TWO_STEPS, {"data": "boards", "optimizer": "sgd", "momentum": 0.9, "batch_size": 16})],
    ids=["exact", "boards"],
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, problem: Life, options: dict[str, Any]
) -> None:
    batches = 120
    training = Training(batches=batches, save_at=(0, 10, 60, batches), **options)
    train(problem, training, tmp_path / "whole", seeds=SEEDS)
    program = f"""
import torch
from pathlib import Path
from landscape.problems.life import Life
from landscape.train import Training, train
torch.set_num_threads({torch.get_num_threads()})
print("ready", flush=True)
tell = lambda done, total: print(done, flush=True)
train({problem!r}, {training!r}, Path({str(tmp_path / "killed")!r}), seeds={SEEDS}, resume_every=0.0, on_progress=tell)
"""
    for kill_at in (1, 30, 80):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        begun = None
        for line in child.stdout:
            begun = begun or (int(line) if line.strip().isdigit() else None)
            if line.strip().isdigit() and int(line) >= kill_at:
                break
        time.sleep(0.001 * kill_at % 0.007)  # somewhere within a step
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        assert begun is not None
        assert begun >= min(kill_at, 1)
    kept = Run.open(tmp_path / "killed")
    assert batches not in kept.steps()
    steps: list[int] = []
    train(problem, training, tmp_path / "killed", seeds=SEEDS, on_progress=lambda done, total: steps.append(done))
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
    asked: dict[str, Any] = {"problem": Life(), "training": Training(batches=9), "path": tmp_path, "seeds": [1, 2]}
    train(**asked)
    with pytest.raises(Mismatch, match=message):
        train(**{**asked, **changes})
    with pytest.raises(LandscapeError, match="is finished: choose another run with -o"):
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
        ({"lr": 0.0}, "lr is 0.0, it must be positive"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"batches": -1}, "batches is -1, it must not be negative"),
        ({"weight_decay": -0.1}, "weight decay is -0.1"),
        ({"momentum": 0.9}, "momentum goes with optimizer sgd, not adam"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "at least 0 and below 1"),
        ({"batches": 5, "save_at": (0, 6)}, "cannot save at step 6: the run has steps 0 to 5"),
    ],
)
def test_training_that_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        Training(**options)


def test_no_exact_loss_of_two_steps(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"2 steps.* has no exact loss to train on: use --data boards"):
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
        training = Training(batches=5, data="boards", shared_data=options.pop("shared_data", False))
        return final(Life(), training, tmp_path / path, seeds, **options).flatten()

    shared = boards("shared", [1, 2], shared_data=True)
    assert torch.equal(shared, boards("one", [1, 2], data_seeds=[1]))
    own = boards("own", [1, 2])
    assert torch.equal(shared[0], own[0])
    assert not torch.equal(shared[1], own[1])


def test_the_data_seed_is_apart_from_that_of_the_weights(tmp_path: Path) -> None:
    training = Training(batches=3, data="boards")
    run = train(Life(), training, tmp_path / "run", seeds=[1, 1], data_seeds=[1, 2])
    first, last = run.checkpoint(0).stack.flatten(), run.checkpoint(3).stack.flatten()
    assert torch.equal(first[0], first[1])
    assert not torch.equal(last[0], last[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("problem", "data"), [(Life(), "exact"), (Life(activation="rrelu"), "boards"), (TWO_STEPS, "boards")]
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
    train(Life(), Training(batches=4), tmp_path / "run", seeds=[0], on_progress=lambda *now: told.append(now))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
