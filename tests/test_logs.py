"""What training tells: a line of JSON for each step that is told, TensorBoard and W&B only where they are asked for."""

import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result as Outcome

from landscape.core.errors import Unsupported
from landscape.problems.life import Life
from landscape.training.logs import JsonLines, open_log
from landscape.training.train import Training, train


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_goes_on_where_training_does(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    for step in range(4):
        log.write(step, np.array([step + 0.5, np.nan]))
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # cut short
    log = JsonLines(path, first=2)
    log.write(2, np.array([9.0, np.inf]))
    log.close()
    assert lines(path) == [
        {"step": 0, "loss": [0.5, None]},
        {"step": 1, "loss": [1.5, None]},
        {"step": 2, "loss": [9.0, None]},
    ]
    JsonLines(path).close()
    assert lines(path) == []


def test_an_interrupted_training_leaves_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise StopError

    training = Training(batches=12)
    whole = train(Life(), training, tmp_path / "whole", seeds=range(3))
    with pytest.raises(StopError):
        train(Life(), training, tmp_path / "parts", seeds=range(3), resume_every=0, progress=stop)
    parts = train(Life(), training, tmp_path / "parts", seeds=range(3))
    assert lines(whole.path / "log.jsonl") == lines(parts.path / "log.jsonl")
    assert [line["step"] for line in lines(whole.path / "log.jsonl")] == list(range(12))
    first = Life().objective()(whole.checkpoint(0).stack)["loss"]
    np.testing.assert_allclose(lines(whole.path / "log.jsonl")[0]["loss"], first.numpy(), rtol=1e-5)


def test_wandb_is_told_quartiles_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    fake = types.ModuleType("wandb")
    finished = []

    class FakeRun:
        def log(self, scalars: dict[str, float], step: int) -> None:
            told.append((step, scalars))

        def finish(self) -> None:
            finished.append(True)

    fake.init = lambda **how: FakeRun()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(Life(), Training(batches=3), tmp_path / "run", seeds=[2, 5], logs=["wandb"])
    assert [step for step, _ in told] == [0, 1, 2]
    scalars = told[0][1]
    expected = lines(tmp_path / "run" / "log.jsonl")[0]["loss"]
    assert [scalars["loss of seed/2"], scalars["loss of seed/5"]] == pytest.approx(expected)
    assert scalars["loss/median"] == pytest.approx(np.median(expected))
    assert finished == [True]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_not_installed_is_named(
    name: str, landscape: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(module: str, package: str | None = None) -> types.ModuleType:
        if "tensorboard" in module or module == "wandb":
            raise ImportError(module)
        return real(module, package)

    monkeypatch.setattr("landscape.training.logs.importlib.import_module", without)
    result = landscape("train", "life", "--seeds", "0:2", "--batches", "2", "--log", name, "-o", "run")
    assert result.exit_code == 1
    assert f"{name} is not installed: pip install '.[{name}]' in the clone" in result.stderr
    assert not Path("run").exists()


def test_other_logs_are_unknown(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="there is no log 'mlflow': choose tensorboard or wandb"):
        open_log("mlflow", tmp_path, [0], {})
