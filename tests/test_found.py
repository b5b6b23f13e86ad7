"""Checkpoints as they are found: whatever a file holds serves as a place, what was done to it is said, once."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result as Outcome
from torch import Tensor, nn

import landscape
from landscape import Problem
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.engine.stack import Stack
from landscape.problems.importing import import_run
from landscape.problems.places import held
from landscape.store.checkpoints import Run, fitted, load
from landscape.store.names import naming
from landscape.store.results import Result

Tensors = dict[str, Tensor]
Program = Callable[..., Outcome]


class Net(nn.Module):
    """Two layers, a norm between them, and a buffer that files may lack."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, classes)
        self.register_buffer("position_ids", torch.arange(5))

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.tanh(self.norm(self.body(x)))[:, self.position_ids])


class Around(nn.Module):
    """A network that holds another, as those of Lightning and of backbones do."""

    def __init__(self, inner: nn.Module, name: str = "backbone") -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x: Tensor) -> Any:
        return getattr(self, self.name)(x)


def made(seed: int, make: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def problem_of(model: nn.Module) -> Problem:
    torch.manual_seed(9)
    return Problem.from_model(model, (torch.randn(16, 4), torch.randint(0, 3, (16,))), "cross_entropy")


def state(seed: int, make: Callable[[], nn.Module] = Net) -> Tensors:
    return {name: tensor.clone() for name, tensor in made(seed, make).state_dict().items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def losses(*places: Any, problem: Problem, **options: Any) -> list[float]:
    """Losses at the ends of a walk."""
    result = landscape.walk(*places, problem=problem, points=3, **options)
    return [float(result["loss"][0, 0]), float(result["loss"][0, -1])]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of checkpoints."""
    said = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    return [line for line in said if not line.startswith("BatchNorm")]


@pytest.fixture
def problem() -> Problem:
    return problem_of(made(0))


# More and fewer tensors -----------------------------------------------------------------------------------------------


def test_tensors_that_the_network_lacks_are_left_out_with_one_remark(
    tmp_path: Path, problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    more = {f"aux.{number}.weight": torch.ones(2) for number in range(9)}
    torch.save(state(1) | more, tmp_path / "more.pt")
    assert losses(tmp_path / "more.pt", state(2), problem=problem) == losses(state(1), state(2), problem=problem)
    (said,) = warnings(caplog)
    assert said == (
        f"{tmp_path}/more.pt: 9 of its tensors, which the network has no place for, left out: aux.0.weight, "
        "aux.1.weight, aux.2.weight, aux.3.weight, aux.4.weight, aux.5.weight and 3 more"
    )


def test_buffers_that_are_missing_are_the_networks_own(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    whole = state(1)
    less = {name: tensor for name, tensor in whole.items() if name not in ("position_ids", "norm.num_batches_tracked")}
    assert losses(less, state(2), problem=problem) == losses(whole, state(2), problem=problem)
    (said,) = warnings(caplog)
    assert said.endswith("2 buffers that it lacks are the network's own: position_ids, norm.num_batches_tracked")


def test_buffers_of_another_shape_are_the_networks_own(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    stale = {**state(1), "position_ids": torch.arange(9)}
    assert losses(stale, state(2), problem=problem) == losses(state(1), state(2), problem=problem)
    (said,) = warnings(caplog)
    assert said.endswith("1 buffers that it has in another shape are the network's own: position_ids")


@pytest.mark.parametrize("policy", ["interpolate", "keep"])
def test_statistics_that_are_missing_are_needed_unless_they_are_estimated_anew(problem: Problem, policy: Any) -> None:
    less = {name: tensor for name, tensor in state(1).items() if "running" not in name}
    assert losses(less, state(2), problem=problem) == losses(state(1), state(2), problem=problem)
    wanted = (
        r"lacks statistics of BatchNorm: norm\.running_mean, norm\.running_var; save them too, or estimate them anew"
    )
    with pytest.raises(Mismatch, match=wanted):
        losses(less, state(2), problem=problem, batchnorm=policy)
    with pytest.raises(Mismatch, match=wanted):
        landscape.curvature(less, problem=problem, batchnorm=policy)
    with pytest.raises(Mismatch, match=wanted):
        fitted(held(less, "a"), Net())  # type: ignore[arg-type]


def test_parameters_that_are_missing_are_an_error_that_names_them(problem: Problem) -> None:
    less = {name: tensor for name, tensor in state(1).items() if not name.startswith("head")}
    with pytest.raises(Mismatch, match=r"missing: head\.weight, head\.bias; unexpected: other"):
        losses(less | {"other": torch.ones(1)}, state(2), problem=problem)


def test_what_a_training_script_saves_is_a_place_in_memory_too(
    problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    saved = {"state_dict": state(1), "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    assert losses(saved, state(2), problem=problem) == losses(state(1), state(2), problem=problem)
    assert losses({**state(1), "epoch": 3}, state(2), problem=problem) == losses(state(1), state(2), problem=problem)


# Prefixes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.module._orig_mod.", "a.b.c."])
def test_a_prefix_of_the_checkpoint_goes_and_one_of_the_network_comes(tmp_path: Path, prefix: str) -> None:
    torch.save(prefixed(prefix, state(1)), tmp_path / "net.pt")
    for network, path in ((Net(), tmp_path / "net.pt"), (Around(Net()), tmp_path / "net.pt"), (Around(Net()), None)):
        place = held(state(1), "a") if path is None else load(path)
        got = fitted(place, network)  # type: ignore[arg-type]
        wanted = state(1).values()
        assert list(got.stack.state_dict(0)) == [*got.stack.tensors, *got.stack.buffers]
        found = {name.removeprefix("backbone."): tensor for name, tensor in got.stack.state_dict(0).items()}
        assert all(torch.equal(found[name], tensor) for name, tensor in zip(state(1), wanted, strict=True))
        assert got.remarks or prefix == "backbone."


def test_a_prefix_is_said_and_what_lies_beside_it_is_left_out(
    problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    gan = {**prefixed("generator.", state(1)), "discriminator.weight": torch.ones(3)}
    assert losses(gan, state(2), problem=problem) == losses(state(1), state(2), problem=problem)
    first, second = warnings(caplog)
    assert first.endswith("9 names begin with generator. and fit the network without it") or "names begin" in first
    assert second.endswith("1 of its tensors, which the network has no place for, left out: discriminator.weight")


def test_several_ways_to_fit_are_not_guessed_among(tmp_path: Path, problem: Problem) -> None:
    both = {**prefixed("online.", state(1)), **prefixed("target.", state(2))}
    with pytest.raises(Mismatch, match=r"in several ways, under online\., target\.: choose one, such as PATH::online$"):
        losses(both, state(2), problem=problem)
    torch.save(both, tmp_path / "both.pt")
    wanted = losses(state(1), state(2), problem=problem)
    assert losses(f"{tmp_path}/both.pt::online", f"{tmp_path}/both.pt::target", problem=problem) == wanted


def test_shapes_tell_which_of_several_fits(problem: Problem) -> None:
    both = {**prefixed("big.", state(1, lambda: Net(7))), **prefixed("small.", state(1))}
    assert losses(both, state(2), problem=problem) == losses(state(1), state(2), problem=problem)


def test_wrappers_within_names_go_from_both_sides() -> None:
    network = Stack({"net._orig_mod.0.weight": torch.zeros(1, 2), "net._orig_mod.1.weight": torch.zeros(1, 3)})
    found = naming({"model.net.module.0.weight": (2,), "model.net.1.weight": (3,)}, network, {})
    assert found is not None
    assert list(found.own.values()) == list(network.tensors)
    assert found.remark
    back = naming(network.shapes, Stack({f"net.{n}.weight": torch.zeros(1, 2 + n) for n in range(2)}), {})
    assert back is not None
    assert list(back.own.values()) == ["net.0.weight", "net.1.weight"]
    assert back.remark == "all names fit the network with net. in place of net._orig_mod."
    inside = naming({"a.x": (2,), "b._orig_mod.x": (2,)}, Stack({k: torch.zeros(1, 2) for k in ("a.x", "b.x")}), {})
    assert inside is not None
    assert inside.remark == "names are read without what wrappers put into them: b._orig_mod.x as b.x"


def test_a_module_that_is_called_like_a_wrapper_keeps_its_name() -> None:
    network = Stack({"module.weight": torch.zeros(1, 2), "weight": torch.zeros(1, 2)})
    found = naming({"module.weight": (2,), "weight": (2,)}, network, {})
    assert found is not None
    assert found.own == {"module.weight": "module.weight", "weight": "weight"}
    assert naming({"other": (2,)}, network, {}) is None


def test_every_verb_takes_what_is_found(tmp_path: Path, problem: Problem) -> None:
    torch.save({"ema": prefixed("net.", state(1)) | {"more": torch.ones(1)}, "other": state(2)}, tmp_path / "ckpt.pt")
    found = f"{tmp_path}/ckpt.pt::ema"
    rows = [
        (
            landscape.curvature(place, problem=problem).eigenvalues,
            landscape.connect(place, state(2), problem=problem, method="bezier", steps=2, points=3)["loss"],
            landscape.plane(place, state(2), state(3), problem=problem, points=2)["loss"],
        )
        for place in (found, state(1))
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*rows, strict=True))


# Keys in a file -------------------------------------------------------------------------------------------------------


def test_a_key_chooses_inside_a_file(tmp_path: Path, problem: Problem) -> None:
    torch.save({"model": state(1), "ema": state(2), "epoch": 1}, tmp_path / "ckpt.pt")
    torch.save({"generator": {"state_dict": state(1)}, "critic": {"deep": {"er": state(2)}}}, tmp_path / "gan.pt")
    wanted = losses(state(1), state(2), problem=problem)
    for one, other in (
        ("ckpt.pt", "ckpt.pt::ema"),
        ("gan.pt::generator.state_dict", "gan.pt::critic.deep.er"),
        ("gan.pt::generator", "gan.pt::critic"),
    ):
        assert losses(f"{tmp_path}/{one}", f"{tmp_path}/{other}", problem=problem) == wanted
    assert load(f"{tmp_path}/ckpt.pt::ema").sources[0].path == f"{tmp_path}/ckpt.pt::ema"
    torch.save({"state_dict": prefixed("online.", state(1)) | prefixed("ema.", state(2))}, tmp_path / "flat.pt")
    assert losses(f"{tmp_path}/flat.pt::online", f"{tmp_path}/flat.pt::ema", problem=problem) == wanted


def test_several_candidates_without_a_key_are_listed(tmp_path: Path) -> None:
    adam = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    torch.save({"generator": {"net": state(1)}, "critic": state(2), "opt": adam}, tmp_path / "gan.pt")
    wanted = r"under generator\.net, critic: choose one, such as .*gan\.pt::generator\.net$"
    with pytest.raises(Unsupported, match=wanted):
        load(f"{tmp_path}/gan.pt")
    with pytest.raises(LandscapeError, match=r"has no state dict under generater; there are generator\.net, critic$"):
        load(f"{tmp_path}/gan.pt::generater")
    torch.save({"model": state(1), "critic": state(2), "opt": adam}, tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").remarks == ("it is read under model: ::critic behind the path chooses others",)
    torch.save({"critic": state(2), "opt": adam}, tmp_path / "one.pt")
    assert load(tmp_path / "one.pt").remarks == ("its only state dict is read, under critic",)
    with pytest.raises(LandscapeError, match=r"none\.pt does not exist"):
        load(f"{tmp_path}/none.pt::generator")


@pytest.fixture
def ones() -> Tensors:
    from landscape.problems.life import Life

    return {name: torch.ones_like(tensor) for name, tensor in Life().network().state_dict().items()}


def test_the_option_key_chooses_in_all_files_of_a_command(landscape: Program, ones: Tensors) -> None:
    def at(number: float) -> Tensors:
        return {name: number * torch.arange(1.0, t.numel() + 1).reshape(t.shape) for name, t in ones.items()}

    bent = {name: tensor.square() for name, tensor in at(1).items()}
    for name, ema in (("a", at(0.1)), ("b", at(0.2)), ("c", bent)):
        torch.save({"model": ones, "ema": ema, "other": {"deep": ema}}, f"{name}.pt")
    for verb in (
        ["walk", "--from", "a.pt", "--to", "b.pt", "--via", "c.pt", "--points", "3", "-o", "walk.h5"],
        ["walk", "--from", "presolve", "--to", "a.pt", "--points", "2", "-o", "mark.h5"],
        ["plane", "--through", "a.pt", "b.pt", "c.pt::other.deep", "--points", "2", "-o", "plane.h5"],
        [
            "connect",
            "--from",
            "a.pt",
            "--to",
            "b.pt",
            "--method",
            "bezier",
            "--steps",
            "1",
            "--points",
            "2",
            "-o",
            "curve.h5",
        ],
        ["analyse", "curvature", "a.pt", "--top", "1", "-o", "curvature.json"],
    ):
        result = landscape(*verb, "--key", "ema", "--problem", "life")
        assert result.exit_code == 0, result.output
    walked = Result.read(Path("walk.h5"))
    assert [source.path for source in walked.sources] == ["a.pt::ema", "c.pt::ema", "b.pt::ema"]
    assert [mark.source.path for mark in Result.read(Path("plane.h5")).marks][2] == "c.pt::other.deep"
    assert json.loads(Path("curvature.json").read_text())["place"] == "a.pt::ema"


def test_the_option_key_goes_with_files(landscape: Program, ones: Tensors, run: Run) -> None:
    for place in ("presolve", f"{run.path}/@20#3", str(run.path)):
        result = landscape("walk", "--from", place, "--to", place, "--key", "ema", "--problem", "life")
        assert result.exit_code == 2
        assert "--key goes with checkpoint files: landmarks and runs have no keys" in result.output
    with pytest.raises(LandscapeError, match="is a run, which has no keys: leave ::ema out"):
        load(f"{run.path}::ema")
    Path("folder").mkdir()
    for number in (2, 10):
        torch.save({"model": ones, "ema": ones}, f"folder/{number}.pt")
    assert [source.path for source in load("folder::ema").sources] == ["folder/2.pt::ema", "folder/10.pt::ema"]


# Lists of places ------------------------------------------------------------------------------------------------------


def epochs(folder: Path, numbers: tuple[int, ...] = (10, 2, 1)) -> Path:
    """Checkpoints whose weights are far apart, epoch by epoch."""
    folder.mkdir(parents=True)
    for number in numbers:
        torch.save(state(number), folder / f"epoch_{number}.pt")
    return folder


def test_a_pattern_gives_several_members_in_natural_order(tmp_path: Path, problem: Problem) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"run{number}").mkdir()
        torch.save(state(number), tmp_path / f"run{number}" / "last.pt")
    found = load(f"{tmp_path}/run*/last.pt")
    assert [source.label for source in found.sources] == [f"{tmp_path}/run{number}/last.pt" for number in (1, 2, 10)]
    result = landscape.walk(f"{tmp_path}/run*/last.pt", state(5), problem=problem, points=2)
    assert result["loss"].shape == (3, 2)
    with pytest.raises(LandscapeError, match=r"none\*\.pt matches no file"):
        load(f"{tmp_path}/none*.pt")
    torch.save({"ema": state(1), "model": state(2)}, tmp_path / "run1" / "last.pt")
    torch.save({"ema": state(3), "model": state(4)}, tmp_path / "run2" / "last.pt")
    assert len(load(f"{tmp_path}/run[12]/last.pt::ema").stack) == 2


def test_a_folder_is_a_trajectory_in_natural_order(tmp_path: Path, problem: Problem) -> None:
    folder = epochs(tmp_path / "epochs")
    result = landscape.plane(folder, directions="trajectory", problem=problem, points=3, batchnorm="keep")
    assert [mark.name for mark in result.marks] == ["epoch_1", "epoch_2", "epoch_10"]
    listed = [made(number) for number in (1, 2, 10)]
    for places in (listed, [each.state_dict() for each in listed], [folder / f"epoch_{n}.pt" for n in (1, 2, 10)]):
        same = landscape.plane(places, directions="trajectory", problem=problem, points=3, batchnorm="keep")
        assert np.array_equal(same["loss"], result["loss"])
    with pytest.raises(LandscapeError, match=r"a trajectory needs RUN#seed, such as .*, or a folder of checkpoints$"):
        landscape.plane(folder / "epoch_1.pt", directions="trajectory", problem=problem, points=3)


def test_the_program_draws_the_trajectory_of_a_folder(landscape: Program) -> None:
    from landscape.problems.life import Life

    network = Life().network()
    Path("epochs").mkdir()
    for number in (10, 2, 1):
        torch.manual_seed(number)
        torch.save({name: torch.randn_like(t) for name, t in network.state_dict().items()}, f"epochs/e_{number}.pt")
    for place in ("epochs/", "epochs/*.pt"):
        result = landscape("plane", "--trajectory", place, "--problem", "life", "--points", "2")
        assert result.exit_code == 0, result.output


def test_a_list_in_python_is_several_members(tmp_path: Path, problem: Problem) -> None:
    torch.save(state(3), tmp_path / "net.pt")
    listed = [made(1), state(2), tmp_path / "net.pt"]
    result = landscape.walk(listed, state(5), problem=problem, points=2)
    for number, place in enumerate(listed):
        alone = landscape.walk(place, state(5), problem=problem, points=2)
        assert np.array_equal(result["loss"][number], alone["loss"][0])
    assert [source.label for source in result.sources] == ["a[0]", "a[1]", "net", "b"]
    with pytest.raises(LandscapeError, match="a is a list with nothing in it: give networks or paths"):
        landscape.walk([], state(5), problem=problem, points=2)
    with pytest.raises(LandscapeError, match="a is a list with a landmark in it"):
        landscape.walk(["presolve"], state(5), problem=problem, points=2)


def test_info_reads_a_key(landscape: Program) -> None:
    torch.save({"generator": state(1), "critic": {"a": torch.ones(2)}}, "gan.pt")
    assert "parameters: 2\n" in landscape("info", "gan.pt::critic").stdout
    assert "gan.pt has no state dict under x; there are generator, critic" in landscape("info", "gan.pt::x").stderr


def test_a_folder_of_epochs_becomes_a_run_with_these_as_steps(landscape: Program, ones: Tensors) -> None:
    Path("epochs").mkdir()
    for number in (10, 2, 1):
        bent = {name: torch.linspace(1, 2, t.numel()).pow(number).reshape(t.shape) for name, t in ones.items()}
        torch.save({"state_dict": prefixed("model.", bent), "epoch": number}, f"epochs/epoch_{number}.pt")
    told = landscape("import", "epochs", "--as", "steps", "--problem", "life", "-o", "run")
    assert told.exit_code == 0, told.output
    assert (
        "3 files imported as the steps 1, 2, 10 of one member (epochs/epoch_1.pt first, epochs/epoch_10.pt last)"
        in (told.stderr)
    )
    run = Run.open("run")
    assert (run.steps(), run.seeds) == ([1, 2, 10], [0])
    assert [load(f"run/@{step}#0").sources[0].step for step in run.steps()] == [1, 2, 10]
    first = [load(place).stack.flatten() for place in ("run/@2", "epochs/epoch_2.pt")]
    assert torch.equal(*first)
    drawn = landscape("plane", "--trajectory", "run#0", "--points", "2", "-o", "plane.h5")
    assert drawn.exit_code == 0, drawn.output
    assert [mark.name for mark in Result.read(Path("plane.h5")).marks] == ["step 1", "step 2", "step 10"]


def test_an_import_says_once_what_was_done_to_all_files_and_writes_it_down(landscape: Program) -> None:
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape import Problem\n\n"
        "x = torch.linspace(-1, 1, 8)[:, None]\nPROBLEM = Problem.from_model(nn.Linear(1, 1), (x, x), 'mse')\n"
    )
    for number in range(3):
        torch.save({**prefixed("backbone.", nn.Linear(1, 1).state_dict()), "aux": torch.ones(1)}, f"{number}.pt")
    told = landscape("import", "0.pt", "1.pt", "2.pt", "--problem", "net.py:PROBLEM", "-o", "run")
    assert told.exit_code == 0, told.output
    imported = Run.open("run").imported
    assert imported is not None
    first, second = imported["reading"]
    assert first == "2 names begin with backbone. and fit the network without it"
    assert second == "1 of its tensors, which the network has no place for, left out: aux"
    assert [line for line in told.stderr.splitlines() if "place for" in line] == [f"3 files, 0.pt first: {second}"]


def test_steps_are_those_of_the_names_where_they_ascend(tmp_path: Path, ones: Tensors) -> None:
    for name in ("best", "last", "net-7"):
        torch.save(ones, tmp_path / f"{name}.pt")
    run = import_run([tmp_path], tmp_path / "run", problem="life", taken_as="steps", seeds=[4])
    assert (run.steps(), run.seeds) == ([0, 1, 2], [4])
    assert run.imported is not None
    assert run.imported["steps"] == [0, 1, 2]
    with pytest.raises(LandscapeError, match="2 seeds for the steps of one member: give one, or none for 0"):
        import_run([tmp_path / "best.pt"], tmp_path / "other", problem="life", taken_as="steps", seeds=[1, 2])


# Adapters -------------------------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A layer with an adapter, named as peft names them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 5)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 5, bias=False)})

    def forward(self, x: Tensor) -> Any:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Saved(nn.Module):
    """A layer that is trained whole beside adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.original_module = nn.Linear(5, 3)
        self.modules_to_save = nn.ModuleDict({"default": nn.Linear(5, 3)})

    def forward(self, x: Tensor) -> Any:
        return self.modules_to_save["default"](x)


def peft_model() -> nn.Module:
    return Around(Around(nn.Sequential(Adapted(), nn.Tanh(), Saved()), "model"), "base_model")


def adapter(folder: Path, seed: int, start: str = "base_model.model.", **more: Tensor) -> Path:
    """What peft's `save_pretrained` writes."""
    folder.mkdir()
    tensors = {
        start + name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): tensor
        for name, tensor in state(seed, peft_model).items()
        if "default" in name
    }
    safetensors.torch.save_file({**tensors, **more}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return folder


def test_an_adapter_lies_on_the_weights_of_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = made(0, peft_model)
    problem = problem_of(model)
    folder = adapter(tmp_path / "checkpoint-100", 1)
    assert set(safetensors.torch.load_file(folder / "adapter_model.safetensors")) >= {
        "base_model.model.0.lora_A.weight",
        "base_model.model.2.weight",
    }
    trained = {name: tensor for name, tensor in state(1, peft_model).items() if "default" in name}
    whole = {**model.state_dict(), **trained}
    wanted = losses(whole, model, problem=problem)
    for place in (folder, folder / "adapter_model.safetensors"):
        caplog.clear()
        assert losses(place, model, problem=problem) == wanted
        assert "4 parameters that an adapter does not have are the network's own: base_model" in warnings(caplog)[-1]
    adapter(tmp_path / "checkpoint-20", 2)
    result = landscape.walk(f"{tmp_path}/checkpoint-*", model, problem=problem, points=2)
    assert result["loss"].shape == (2, 2)
    assert [source.label for source in result.sources][:2] == ["checkpoint-20", "checkpoint-100"]


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    problem = problem_of(made(0, peft_model))
    more = adapter(tmp_path / "more", 1, **{"base_model.model.7.lora_A.weight": torch.ones(2, 4)})
    with pytest.raises(Mismatch, match=r"the problem's network has no such adapter: it has no place for all of base_"):
        losses(more, made(0, peft_model), problem=problem)
    less = tmp_path / "less"
    less.mkdir()
    (less / "adapter_config.json").write_text("{}")
    safetensors.torch.save_file(
        {"base_model.model.0.lora_A.weight": torch.ones(2, 4)}, less / "adapter_model.safetensors"
    )
    with pytest.raises(Mismatch, match="has no such adapter"):
        losses(less, made(0, peft_model), problem=problem)


def test_an_adapter_on_a_model_without_pefts_wrappers(tmp_path: Path) -> None:
    inner = made(0, lambda: nn.Sequential(Adapted(), nn.Tanh(), Saved()))
    folder = adapter(tmp_path / "a", 1)
    got = fitted(load(folder), inner).stack
    wanted = state(1, peft_model)["base_model.model.0.lora_A.default.weight"]
    assert torch.equal(got["0.lora_A.default.weight"][0], wanted)
    assert torch.equal(got["0.base_layer.weight"][0], inner.state_dict()["0.base_layer.weight"])


# Types of numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_goes_with_float32(problem: Problem, kind: torch.dtype) -> None:
    half = {name: t.to(kind) if t.is_floating_point() else t for name, t in state(1).items()}
    full = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    for a, b in ((0, 1), (1, 0)):
        mixed, plain = ([each, state(2)] for each in (half, full))
        found, wanted = (losses(each[a], each[b], problem=problem) for each in (mixed, plain))
        assert found == wanted
    for order in ((half, state(2), state(3)), (state(2), half, state(3))):
        every = [[{n: t.float() if t.is_floating_point() else t for n, t in s.items()} for s in order], order]
        rows = [landscape.plane(*each, problem=problem, points=3)["loss"] for each in every]
        assert np.allclose(*rows, rtol=1e-5)
        rows = [landscape.plane(list(each), problem=problem, points=3)["loss"] for each in every]
        assert np.allclose(*rows, rtol=1e-5)
    assert landscape.curvature(half, problem=problem).eigenvalues.shape == (1, 1)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_directions_and_networks_at_points_are_those_of_the_wider_type(problem: Problem, kind: torch.dtype) -> None:
    half = {name: t.to(kind) if t.is_floating_point() else t for name, t in state(1).items()}
    full = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    rays = [landscape.walk(each, problem=problem, rays=[0, 1], points=5)["loss"] for each in (half, full)]
    assert np.array_equal(*rays)
    planes = [landscape.plane(each, problem=problem, points=3)["loss"] for each in (half, full)]
    assert np.array_equal(*planes)
    lines = (landscape.walk(each, state(2), problem=problem, points=3) for each in (half, full))
    one, other = (line.model_at(0.5).state_dict() for line in lines)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_complex_tensors_keep_their_imaginary_part() -> None:
    stack = Stack({"weight": torch.ones(1, 2)}, {"freqs": torch.tensor([[1 + 2j]], dtype=torch.complex64).conj()})
    moved = stack.to(torch.float64)
    assert moved.buffers["freqs"].dtype == torch.complex128
    assert moved.buffers["freqs"].tolist() == [[1 - 2j]]
    assert stack.to("cpu").buffers["freqs"].dtype == torch.complex64
    assert moved.to(torch.float32).buffers["freqs"].dtype == torch.complex64


def test_a_complex_buffer_is_read_from_a_file(tmp_path: Path) -> None:
    network = nn.Linear(4, 3)
    network.register_buffer("freqs", torch.polar(torch.ones(4), torch.arange(4.0)))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    found = fitted(load(tmp_path / "net.pt"), network).stack.to(torch.float64)
    assert torch.equal(found.buffers["freqs"][0].to(torch.complex64), network.state_dict()["freqs"])


def test_numbers_of_the_wrong_kind_are_named(problem: Problem) -> None:
    wrong = {**state(1), "head.bias": torch.ones(3, dtype=torch.complex64)}
    with pytest.raises(Mismatch, match=r"head\.bias hold complex numbers, the network's are real: convert them first"):
        losses(wrong, state(2), problem=problem)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_tensors_are_refused_by_name(problem: Problem) -> None:
    wrong = {**state(1), "head.weight": torch.quantize_per_tensor(torch.ones(3, 5), 0.1, 0, torch.qint8)}
    with pytest.raises(Unsupported, match=r"a holds other tensors than .*: head\.weight \(quantized\); convert"):
        losses(wrong, state(2), problem=problem)


# Other shapes, held ---------------------------------------------------------------------------------------------------


def test_tensors_of_another_shape_that_only_leaves_out_are_held(
    problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    other = state(1, lambda: Net(7))
    own = made(0).state_dict()
    fits = {name: own[name] if name.startswith("head") else tensor for name, tensor in other.items()}
    found = landscape.walk(other, state(2), problem=problem, points=3, only=["body.*"])
    assert warnings(caplog)[0].endswith(
        "2 tensors of another shape, which `only` leaves out, held at the network's own values: head.weight, head.bias"
    )
    wanted = landscape.walk(fits, state(2), problem=problem, points=3, only=["body.*"])
    assert np.array_equal(found["loss"], wanted["loss"])
    bent = landscape.curvature(other, problem=problem, only=["body.*"])
    assert bent.eigenvalues == pytest.approx(landscape.curvature(fits, problem=problem, only=["body.*"]).eigenvalues)
    for only in ([], ["head.*"]):
        with pytest.raises(Mismatch, match=r"head\.weight has shape \[7, 5\] where the network has \[3, 5\]"):
            landscape.walk(other, state(2), problem=problem, points=3, only=only)
