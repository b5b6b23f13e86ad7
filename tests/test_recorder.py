"""Trainings of others, recorded: in a loop, by Lightning and by Hugging Face's Trainer."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

import landscape
from benchmarks.zoo import declare_operators
from landscape import LandscapeError, Problem, Recorder, Run, walk
from landscape.core.errors import Busy, Mismatch

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = X.prod(1, keepdim=True)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def problem() -> Problem:
    return Problem.from_model(network, (X, Y), "mse")


def loss_of(net: nn.Module) -> Tensor:
    loss: Tensor = (net(X) - Y).square().mean()
    return loss


def trained(record: Recorder, net: nn.Module, first: int, last: int) -> list[float]:
    """Losses before each step of plain gradient descent."""
    losses = []
    for step in range(first + 1, last + 1):
        loss = loss_of(net)
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
        record(step, net, loss)
        losses.append(float(loss.detach()))
    return losses


def logged(run: Run) -> dict[int, float]:
    lines = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"][0] for line in lines}


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
def test_a_loop_of_ones_own_is_a_run_that_verbs_take(tmp_path: Path, wrap: Any) -> None:
    net = wrap(network(5))
    with Recorder(tmp_path / "run", problem(), seed=5) as record:
        record(0, net)
        losses = trained(record, net, 0, 37)
    run = Run.open(tmp_path / "run")
    assert run.steps() == [0, 1, 2, 5, 10, 20, 37]
    assert run.seeds == [5]
    for step in (0, 10, 20):
        walked = landscape.walk(f"{run.path}/@{step}", run.path, problem=problem(), points=3)
        assert walked["loss"][0, 0] == pytest.approx(losses[step], rel=1e-5)
        assert walked["loss"][0, -1] == pytest.approx(float(loss_of(net).detach()), rel=1e-5)
        assert walked.sources[0].seed == 5
    assert logged(run) == pytest.approx(dict(enumerate(losses)))
    plane = landscape.plane(run.path, directions="trajectory", problem=problem(), points=(5, 5))
    assert [mark.loss for mark in plane.marks][:2] == pytest.approx(losses[:2], rel=1e-5)


def test_of_many_losses_some_are_kept(tmp_path: Path) -> None:
    net = network()
    with Recorder(tmp_path / "run", problem()) as record:
        for step in range(1, 2001):
            record(step, net, 1.0)
    steps = np.array(list(logged(record.run)))
    assert len(steps) < 300
    assert (np.diff(steps) <= 1 + 0.02 * steps[:-1]).all()
    assert record.run.steps()[-1] == 2000


def test_an_interrupted_recording_goes_on_and_loses_what_was_done_twice(tmp_path: Path) -> None:
    whole, begun = network(), network()
    with Recorder(tmp_path / "whole", problem()) as record:
        record(0, whole)
        trained(record, whole, 0, 30)
    with Recorder(tmp_path / "run", problem()) as record:
        record(0, begun)
        trained(record, begun, 0, 12)
        kept = {name: tensor.clone() for name, tensor in begun.state_dict().items()}
        trained(record, begun, 12, 25)
    begun.load_state_dict(kept)  # what a checkpoint of step 12 brings back
    with Recorder(tmp_path / "run", problem(), resume=True) as record:
        record(12, begun)
        trained(record, begun, 12, 30)
    one, other = Run.open(tmp_path / "whole"), Run.open(tmp_path / "run")
    assert other.steps() == one.steps()
    assert logged(other) == logged(one)
    for step in one.steps():
        assert one.checkpoint_path(step).read_bytes() == other.checkpoint_path(step).read_bytes()


def test_what_makes_no_sense_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    net, place = network(), tmp_path / "run"
    with Recorder(place, problem()) as record:
        record(0, net)
        with pytest.raises(LandscapeError, match=r"step 0 was told after step 0"):
            record(0, net)
        with pytest.raises(Mismatch, match=r"2\.weight"):
            record(1, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)))
        record(2, net)
    with pytest.raises(LandscapeError, match=r"exists|is there"):
        Recorder(place, problem())
    with pytest.raises(Mismatch, match=r"seeds\[0\] is 0 there and 1 here|seeds"):
        Recorder(place, problem(), seed=1, resume=True)
    with pytest.raises(LandscapeError, match=r"leave one of them out"):
        Recorder(place, problem(), resume=True, overwrite=True)
    with pytest.raises(LandscapeError, match=r"no_such"):
        Recorder(place, "no_such.py:THING")
    assert Run.open(place).steps() == [0, 2]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(LandscapeError):
        Recorder(tmp_path / "other", problem(), overwrite=True)
    with Recorder(place, problem(), overwrite=True) as record:
        assert record.run.steps() == []


def test_a_recording_says_whether_it_ended_and_goes_on_without_a_line_twice(tmp_path: Path) -> None:
    from landscape.store.checkpoints import unfinished

    net = network()

    def interrupted() -> None:
        with Recorder(tmp_path / "run", problem()) as record:
            for step in range(1, 34):
                record(step, net, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "is not finished, or was interrupted: this is its step 33" in unfinished(str(tmp_path / "run"))
    with Recorder(tmp_path / "run", problem(), resume=True) as record:
        for step in range(28, 41):  # which tells the loss before its first step
            record(step, net, 1.0)
    assert unfinished(str(tmp_path / "run")) == ""
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(40))


def test_a_resumed_log_keeps_as_few_losses_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    net = network()
    for name, stops in (("whole", [400]), ("run", [300, 400])):
        first = 1
        for last in stops:
            with Recorder(tmp_path / name, problem(), resume=True) as record:
                for step in range(first, last + 1):
                    record(step, net, float(step))
            first = 281
    assert logged(Run.open(tmp_path / "run")) == logged(Run.open(tmp_path / "whole"))


def test_a_network_that_was_written_to_since_is_not_saved_as_the_step_that_was_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()

    def interrupted() -> None:
        with Recorder(tmp_path / "run", problem()) as record:
            record(0, net)
            trained(record, net, 0, 3)
            with torch.no_grad():
                next(net.parameters()).add_(1.0)  # half of the step to come
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Run.open(tmp_path / "run").steps() == [0, 1, 2]
    assert "the network has changed since step 3 was told, which is not saved" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.5,), "`step` is 1.5"),
        ((-1,), "`step` is -1"),
        ((10**20,), r"steps end at 2\^63 - 1"),
        ((2, torch.tensor([1.0, 2.0])), "`loss` has 2 numbers"),
        ((2, "x"), "`loss` is 'x': give a number"),
        ((2, torch.tensor(1j)), "`loss` is .*: give a number"),
    ],
)
def test_what_is_told_wrongly_is_one_line_and_leaves_nothing(tmp_path: Path, arguments: Any, words: str) -> None:
    if landscape_is_checked() and (isinstance(arguments[0], float) or "x" in map(str, arguments)):
        pytest.skip("types are checked at the door")
    step, *loss = arguments
    record = Recorder(tmp_path / "run", problem())
    with pytest.raises(LandscapeError, match=words):
        record(step, network(), *loss)
    record.close()
    assert not (tmp_path / "run").exists()
    with pytest.raises(LandscapeError, match="is closed"):
        record(1, network())


def test_wrong_seeds_and_networks_are_one_line(tmp_path: Path) -> None:
    for wrong in ({"seed": "a"}, {"data_seed": "a"}, {"seed": 1.5}):
        (name,) = wrong
        if not landscape_is_checked():
            with pytest.raises(LandscapeError, match=f"`{name}` cannot be .*: it takes a whole number"):
                Recorder(tmp_path / "run", problem(), **wrong)
    with pytest.raises(LandscapeError, match="-1 is no seed: `seed` goes from 0"):
        Recorder(tmp_path / "run", problem(), seed=-1)
    if not landscape_is_checked():
        record = Recorder(tmp_path / "run", problem())
        with pytest.raises(LandscapeError, match="`model` is NoneType"):
            record(0, None)
        record.close()
    assert not (tmp_path / "run").exists()


def test_how_names_were_read_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = nn.ModuleDict({"net": network()})
    with Recorder(tmp_path / "run", problem()) as record:
        for step in range(11):
            record(step, net)
    assert len(Run.open(tmp_path / "run").steps()) == 5
    assert caplog.text.count("all names begin with net. and fit the network without it") == 1


def test_a_run_says_where_its_problem_was_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landscape: Callable[..., Outcome]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = "import torch\nfrom torch import nn\nfrom landscape import Problem\nX = torch.randn(9, 3)\n"
    text += "OWN = Problem.from_model(lambda: nn.Linear(3, 1), (X, X[:, :1]), 'mse')\n"
    Path("my_recorded.py").write_text(text)
    own, other = importlib.import_module("my_recorded").OWN, problem()
    monkeypatch.setattr(sys.modules["__main__"], "OTHER", other, raising=False)  # which no other program can import
    for name, each in (("own", own), ("other", other)):
        with Recorder(tmp_path / name, each) as record:
            record(0, nn.Linear(3, 1) if name == "own" else network())
    run = Run.open(tmp_path / "own")
    assert run.problem[0] == "my_recorded:OWN"
    assert Run.open(tmp_path / "other").problem[0] == "model"
    assert run.document["code"]["file"] == str(tmp_path / "my_recorded.py")
    assert walk(run.path, run.path, problem=own, points=3).loss.shape == (1, 3)
    done = landscape("walk", "--from", "own", "--to", "own", "-o", "a.h5")
    assert f"if you trust it, name it with --problem {tmp_path}/my_recorded.py:OWN" in done.stderr
    assert landscape("report", "own", "other", "-o", "a.html").exit_code == 0
    page = Path("a.html").read_text("utf-8")
    assert "--problem pkg.module:NAME" in page
    assert f"--problem {tmp_path}/my_recorded.py:OWN" in page
    assert "problem=" not in page


def landscape_is_checked() -> bool:
    return not os.environ.get("LANDSCAPE_UNCHECKED")


def test_a_run_that_is_being_recorded_is_busy(tmp_path: Path) -> None:
    import threading

    said: list[BaseException] = []

    def other() -> None:
        try:
            Recorder(tmp_path / "run", problem(), overwrite=True)
        except Busy as error:
            said.append(error)

    with Recorder(tmp_path / "run", problem()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_records_where_it_trains(tmp_path: Path) -> None:
    declare_operators()
    lightning = pytest.importorskip("lightning.pytorch")
    from landscape.integrations.lightning import RecorderCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network(3)

        def training_step(self, batch: Any, number: int) -> Tensor:
            loss: Tensor = (self.net(batch[0]) - batch[1]).square().mean()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(module: Any, epochs: int, where: str, **options: Any) -> Any:
        callback = RecorderCallback(where, problem(), seed=3, network=lambda module: module.net)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=64)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            accumulate_grad_batches=1,
        )
        trainer.fit(module, loader, **options)
        return trainer

    net = network(3)
    with Recorder(tmp_path / "loop", problem(), seed=3) as record:
        record(0, net)
        losses = trained(record, net, 0, 12)
    trainer = fit(Module(), 7, str(tmp_path / "run"))
    trainer.save_checkpoint(tmp_path / "seven.ckpt")
    fit(Module(), 12, str(tmp_path / "run"), ckpt_path=tmp_path / "seven.ckpt")
    run, loop = Run.open(tmp_path / "run"), Run.open(tmp_path / "loop")
    assert run.steps() == [0, 1, 2, 5, 10, 12]  # 7 was the last of the first, and is no round one
    for step in loop.steps():
        ours, theirs = run.checkpoint(step).stack, loop.checkpoint(step).stack
        for name in ours.tensors:
            assert torch.allclose(ours[name], theirs[name], atol=1e-6)
    assert logged(run) == pytest.approx(dict(enumerate(losses)), rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_hugging_face_records_where_it_trains(tmp_path: Path) -> None:
    declare_operators()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from landscape.integrations.transformers import RecorderCallback

    config = transformers.GPT2Config(
        vocab_size=13, n_positions=8, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(0, 13, (16, 8))
    data = [{"input_ids": row, "labels": row} for row in ids]
    own = Problem.from_model(
        lambda: transformers.GPT2LMHeadModel(config), [{"input_ids": ids, "labels": ids}], batch_loss="own"
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        max_steps=6,
        per_device_train_batch_size=16,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = RecorderCallback(tmp_path / "run", own, seed=2)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    run = Run.open(tmp_path / "run")
    assert run.steps() == [0, 1, 2, 5, 6]
    walked = landscape.walk(f"{run.path}/@0", run.path, problem=own, points=3)
    model.eval()
    with torch.no_grad():
        last = float(model(input_ids=ids, labels=ids).loss)
    assert walked["loss"][0, -1] == pytest.approx(last, rel=1e-5)
    assert walked["loss"][0, -1] < walked["loss"][0, 0]
    assert sorted(logged(run)) == [1, 2, 3, 4, 5, 6]
