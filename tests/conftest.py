"""What all tests share: shapes checked at run time, reproducible examples, and one small trained run."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported: threads that wait for one another spin otherwise, on cores that other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import shapes

# Before the package is imported for the first time; `make test-quick` goes without.
if not os.environ.get("LANDSCAPE_UNCHECKED"):
    shapes.check("landscape")

import torch
from click.testing import CliRunner
from click.testing import Result as Outcome
from torch import Tensor, nn

from landscape.cli import main
from landscape.engine.data import Batch
from landscape.engine.objective import Metric, Objective
from landscape.engine.stacked import Stacked, features_first
from landscape.problems.life import Life
from landscape.store.checkpoints import Run
from landscape.training.train import Training, train

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=5 if os.environ.get("LANDSCAPE_UNCHECKED") else 25,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile("few", parent=hypothesis.settings.get_profile("repeatable"), max_examples=5)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


# A suite begun in the background inherits that Ctrl-C is ignored, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests share the cores among themselves.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    shapes.begin_test()
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch.cuda.is_available() is false")


@pytest.fixture(scope="session", autouse=True)
def _configuration(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests name is remembered apart from what the developer has named."""
    os.environ["LANDSCAPE_CONFIG_HOME"] = str(tmp_path_factory.mktemp("configuration"))


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads given by `parametrize(..., indirect=True)`, for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def life() -> Life:
    return Life()


@pytest.fixture(scope="session")
def run(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """24 seeds of the default problem, 60 steps. To be read, never to be changed."""
    path = tmp_path_factory.mktemp("runs") / "small"
    return train(life, Training(batches=60, save_at=(0, 20, 60)), path, seeds=range(24))


@pytest.fixture(scope="session")
def squares() -> Callable[..., Objective]:
    """Makes the mean over samples of the summed squared error, from data in PyTorch's layout."""

    def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1, -2).sum(1)

    def close(outputs: Tensor, targets: Tensor) -> Tensor:
        return per_sample(outputs, targets) < 0.5

    def make(module: nn.Module, inputs: Tensor, targets: Tensor, *, backend: str | None = None, **options) -> Objective:
        return Objective(
            network=Stacked(module, backend=backend),
            data=Batch.padded(features_first(inputs), features_first(targets)),
            metrics={"loss": Metric(per_sample), "near": Metric(close, "count"), "all_near": Metric(close, "all")},
            predict=lambda outputs: outputs > 0,
            **options,
        )

    return make


@pytest.fixture
def landscape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the program in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call
