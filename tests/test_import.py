"""Other people's checkpoints become runs: what tensors say is read, the rest is told, and misfits are refused."""

import dataclasses
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result as Outcome
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.engine.stack import fingerprint
from landscape.problems.base import Renaming
from landscape.problems.importing import import_run as _import_run
from landscape.problems.life import Life
from landscape.store.checkpoints import Run, load
from landscape.store.results import Result

Program = Callable[..., Outcome]
Tensors = dict[str, Tensor]


def import_run(files: Sequence[Path], path: Path, *, problem: str = "life", **options: Any) -> Run:
    """Files of the study's problem, unless told."""
    return _import_run(files, path, problem=problem, **options)


def fails(result: Outcome, text: str, status: int = 1) -> None:
    """One clear line on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert text in result.stderr.splitlines()[-1]
    assert result.stderr.count("Error: ") == 1
    assert result.stdout == ""


def trained(seed: int = 0, **config: Any) -> Tensors:
    """Parameters of a network, by the names of the study's code."""
    torch.manual_seed(seed)
    return Life(**config).network().state_dict()


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint as the study's code wrote them."""
    document = {
        "model_dict": dict(tensors),
        "optim_dict": torch.optim.Adam([torch.nn.Parameter(tensor) for tensor in tensors.values()]).state_dict(),
        "py_random_state": random.getstate(),
        "np_random_state": np.random.get_state(),  # noqa: NPY002
        "torch_rng_state": torch.get_rng_state(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)
    return path


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


Shapes = dict[str, tuple[int, ...]]


def study(blocks: int, m: int) -> Shapes:
    """Shapes of the study's network, written out."""
    layers = {"0": (2 * m, 1, 3, 3), "2": (m, 2 * m, 1, 1), "4": (1, m, 1, 1)}
    return with_biases({f"net.{block}.{layer}": shape for block in range(blocks) for layer, shape in layers.items()})


def paper(blocks: int, m: int) -> Shapes:
    """Shapes of the other architecture: blocks hand on m channels, one layer at the end reads them."""
    layers = {f"net.{block}.0": (2 * m, m if block else 1, 3, 3) for block in range(blocks)}
    layers |= {f"net.{block}.2": (m, 2 * m, 1, 1) for block in range(blocks)}
    return with_biases({**layers, "out": (1, m, 1, 1)})


def with_biases(weights: Shapes) -> Shapes:
    biases = {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    return {f"{name}.weight": shape for name, shape in weights.items()} | biases


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 7])
@pytest.mark.parametrize("blocks", [1, 2, 12])
@pytest.mark.parametrize("architecture", ["study", "paper"])
def test_architecture_width_and_depth_are_read_off_the_tensors(architecture: Any, blocks: int, m: int) -> None:
    fields = {"architecture": architecture, "steps": blocks, "m_factor": m}
    network = Life(**fields).network().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.items()}
    assert shapes == {"study": study, "paper": paper}[architecture](blocks, m)
    assert Life.infer(shapes) == fields


@given(blocks=st.integers(1, 40), steps=st.integers(1, 200))
@example(blocks=1, steps=49)  # 49 * (1 / 49) is less than 1
@example(blocks=3, steps=1)
def test_the_depth_factor_of_given_steps_gives_the_blocks_exactly(blocks: int, steps: int) -> None:
    found = Life.infer(study(blocks, 1), steps=steps)
    assert found.keys() == {"architecture", "m_factor", "d_factor"}
    assert math.floor(steps * found["d_factor"]) == blocks
    assert Life(steps=steps, **json.loads(json.dumps(found))).blocks == blocks
    assert found["d_factor"] == pytest.approx(blocks / steps, rel=1e-15)


def test_steps_and_depth_factor_that_are_given() -> None:
    assert Life.infer(study(2, 1), d_factor=1.0) == {"architecture": "study", "m_factor": 1, "steps": 2}
    assert Life.infer(study(3, 1), steps=2, d_factor=1.5) == {"architecture": "study", "m_factor": 1}
    with pytest.raises(Mismatch, match=r"2 blocks with d_factor=0\.5 do not say the steps: give .*N.* as well"):
        Life.infer(study(2, 1), d_factor=0.5)
    with pytest.raises(
        Mismatch, match=r"steps=3 and d_factor=1\.0 make floor\(3 x 1\.0\) = 3 blocks, .* tensors have 2"
    ):
        Life.infer(study(2, 1), steps=3, d_factor=1.0)


def without(shapes: Shapes, *names: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name not in names}


@pytest.mark.parametrize(
    ("shapes", "expected", "found"),
    [
        ({"fc.weight": (3, 4)}, "expected net.0.0.weight [2m, 1, 3, 3], net.0.2.weight", "found fc.weight [3, 4]"),
        (without(study(3, 1), "net.1.0.weight"), "expected net.0.0.weight [2m, 1", "found net.0.0.weight [2, 1, 3, 3]"),
        ({**study(1, 1), "net.0.2.weight": (2,)}, "net.0.2.weight [m, 2m, 1, 1]", "net.0.2.weight [2]"),
        (
            {**study(1, 1), "net.0.2.weight": (0, 2, 1, 1)},
            "net.0.2.weight [m, 2m, 1, 1]",
            "net.0.2.weight [0, 2, 1, 1]",
        ),
        (
            {**study(2, 4), "net.1.0.weight": (8, 4, 3, 3)},
            "expected with 2 blocks and m = 4 net.1.0.weight [8, 1, 3, 3]",
            "found net.1.0.weight [8, 4, 3, 3]",
        ),
        (without(study(1, 2), "net.0.4.bias"), "with 1 block and m = 2 net.0.4.bias [1]", "found no net.0.4.bias"),
        (
            {**study(1, 2), "bn.weight": (2,)},
            "expected 6 tensors, net.0.0.weight to net.0.4.bias",
            "found bn.weight [2]",
        ),
        ({**study(1, 2), "out.weight": (1, 2, 1, 1)}, "m = 2 out.bias [1]", "found no out.bias"),
        (
            study(7, 1) | {"net.0.2.weight": (2, 2, 1, 1)},
            "net.0.2.bias [2] and 31 more; found net.0.0.weight [2, 1, 3, 3]",
            "and 31 more",
        ),
    ],
    ids=range(9),
)
def test_tensors_of_something_else(shapes: Shapes, expected: str, found: str) -> None:
    with pytest.raises(Mismatch) as caught:
        Life.infer(shapes)
    message = str(caught.value)
    assert message.startswith("a checkpoint whose architecture cannot be inferred: expected ")
    assert expected in message
    assert found in message
    assert len(message) < 600


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "config", [{}, {"m_factor": 3, "steps": 2}, {"architecture": "paper", "m_factor": 2, "steps": 3}]
)
def test_one_file(tmp_path: Path, prefix: str, config: dict[str, Any]) -> None:
    tensors = trained(**config)
    wrapper = "DataParallel or DistributedDataParallel"
    file = save(tmp_path / "net.pyt", {prefix + name: tensor for name, tensor in tensors.items()})
    run = import_run([file], tmp_path / "run")
    assert Run.open(tmp_path / "run").document == run.document
    assert run.problem == ("life", Life(**config).config())
    assert (run.seeds, run.steps()) == ([0], [0])
    assert same(run.checkpoint().stack.state_dict(0), tensors)
    assert run.imported == {
        "files": [str(file)],
        "sha256": [fingerprint(tensors)],
        "given": [],
        "named": [],
        "inferred": ["architecture", "m_factor", "steps"],
        "assumed": sorted(Life().config().keys() - {"architecture", "m_factor", "steps"}),
        **({"reading": [f"all names begin with {prefix} ({wrapper}) and are read without it"]} if prefix else {}),
    }


def test_many_files_and_folders_in_their_order(tmp_path: Path) -> None:
    files = {name: trained(number) for number, name in enumerate(["a-2.pyt", "a-10.pyt", "a-1.pyt", "last.pth"])}
    for name in ("a-2.pyt", "a-10.pyt", "a-1.pyt"):
        save(tmp_path / "theirs" / name, files[name])
    (tmp_path / "theirs" / "notes.txt").write_text("no checkpoint")
    torch.save(files["last.pth"], tmp_path / "last.pth")
    run = import_run([tmp_path / "last.pth", tmp_path / "theirs"], tmp_path / "run", seeds=[7, 3, 5, 0])
    order = ["last.pth", "a-1.pyt", "a-2.pyt", "a-10.pyt"]
    assert run.imported is not None
    assert [Path(file).name for file in run.imported["files"]] == order
    for number, (seed, name) in enumerate(zip([7, 3, 5, 0], order, strict=True)):
        member = load(f"{run.path}/#{seed}")
        assert same(member.stack.state_dict(0), files[name])
        assert same(run.checkpoint().stack.state_dict(number), files[name])
        assert (member.sources[0].seed, member.sources[0].step) == (seed, None), "how far it was trained is not known"


def test_state_dicts_in_safetensors_and_in_another_order(tmp_path: Path) -> None:
    tensors = trained()
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    torch.save(dict(reversed(tensors.items())), tmp_path / "b.pt")
    run = import_run([tmp_path / "a.safetensors", tmp_path / "b.pt"], tmp_path / "run")
    assert list(run.checkpoint().stack.tensors) == list(tensors)
    assert same(run.checkpoint().stack.state_dict(1), tensors)


def test_what_is_given_comes_before_what_is_inferred_and_assumed(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pyt", trained(m_factor=2))
    run = import_run([file], tmp_path / "run", options={"activation": "relu", "steps": 49, "m_factor": 2})
    name, config = run.problem
    assert (name, config["activation"], config["steps"], config["m_factor"]) == ("life", "relu", 49, 2)
    assert Life(**config).blocks == 1
    assert run.imported is not None
    assert run.imported["given"] == ["activation", "m_factor", "steps"]
    assert run.imported["inferred"] == ["architecture", "d_factor"]


# ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mute(Life):
    """A problem that cannot read tensors."""

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        return super(Life, cls).infer(shapes, **given)


READY = Life(m_factor=2)


def test_a_problem_that_cannot_tell_its_architecture(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pyt", trained(m_factor=2))
    text = r"net\.pyt: Mute cannot tell its architecture .* name it with `options`"
    with pytest.raises(Unsupported, match=text):
        import_run([file], tmp_path / "run", problem="test_import:Mute")
    with pytest.raises(Mismatch, match=r"net\.0\.0\.weight has shape \[4, 1, 3, 3\] where .* \[2, 1, 3, 3\]"):
        import_run([file], tmp_path / "run", problem="test_import:Mute", options={"steps": 1})
    run = import_run([file], tmp_path / "run", problem="test_import:Mute", options={"m_factor": 2})
    assert run.problem == ("test_import:Mute", Life(m_factor=2).config())


def test_a_problem_that_is_ready(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pyt", trained(m_factor=2))
    run = import_run([file], tmp_path / "run", problem="test_import:READY")
    assert run.problem == ("life", READY.config())
    assert run.imported is not None
    assert run.imported["inferred"] == []


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def broken(folder: Path, name: str) -> Path:
    """A good file and a bad one beside it; returns the bad one."""
    file = folder / f"{name}.pyt"
    tensors = trained()
    if name == "nan":
        tensors["net.0.2.bias"][:] = float("nan")
    if name == "wide":
        tensors = trained(m_factor=2)
    save(file, tensors)
    if name == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    if name == "malicious":
        torch.save({"state_dict": tensors, "extra": Malicious()}, file)
    if name == "missing":
        file.unlink()
    if name == "ours":
        file = import_run([file], folder / "other").checkpoint_path(0)
    if name == "run":
        file = import_run([file], folder / "other").path
    if name == "empty":
        file = folder / "nothing"
        file.mkdir()
    return file


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("nan", LandscapeError, r"nan\.pyt have parameters that are NaN or infinite, first nan in net\.0\.2\.bias"),
        ("wide", Mismatch, r"good\.pyt and .*wide\.pyt are of different architectures: .* net\.0\.0\.weight \[2, 1, 3"),
        ("damaged", DamagedFile, r"damaged\.pyt is damaged or no PyTorch checkpoint"),
        ("malicious", Unsupported, r"malicious\.pyt is refused: its pickle wants to run \w+\.system"),
        ("missing", LandscapeError, r"missing\.pyt does not exist"),
        ("ours", Unsupported, r"step-00000000\.safetensors belongs to a run already: walk to it as it is"),
        ("run", Unsupported, r"other is a run already: walk to it as it is"),
        (
            "empty",
            LandscapeError,
            r"nothing holds no checkpoints \(\.safetensors, \.pt, .*: give files, or their folder",
        ),
        ("good", LandscapeError, r"good\.pyt is given twice: leave one out"),
    ],
)
def test_files_that_do_not_fit_leave_nothing(tmp_path: Path, name: str, error: Any, text: str) -> None:
    good = save(tmp_path / "good.pyt", trained())
    bad = broken(tmp_path, name)
    with pytest.raises(error, match=text):
        import_run([good, bad], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seeds": [1, 2]}, "2 seeds for 1 files: give one a file, or none for 0 to 0"),
        ({"seeds": [-1]}, "-1 is no seed: `seeds` goes from 0"),
        ({"options": {"m_factor": 2}}, r"net\.pyt: m_factor=2 does not fit its tensors, .* m_factor=1: leave it out"),
        ({"options": {"architecture": "paper"}}, "architecture=paper does not fit its tensors, .*=study: leave it out"),
        ({"options": {"m_facto": 2}}, "problem 'life' has no option 'm_facto': did you mean m_factor"),
        ({"options": {"steps": 0}}, "`steps` is 0, it must be at least 1"),
        (
            {"options": {"steps": 2, "d_factor": 1.0}},
            r"net\.pyt: .* = 2 blocks, but the tensors have 1: leave d_factor",
        ),
        ({"problem": "lif"}, "there is no problem 'lif': did you mean life"),
    ],
)
def test_settings_that_make_no_sense_leave_nothing(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    file = save(tmp_path / "net.pyt", trained())
    with pytest.raises(LandscapeError, match=text):
        import_run([file], tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_repeated_seeds_and_no_files(tmp_path: Path) -> None:
    files = [save(tmp_path / name, trained()) for name in ("a.pyt", "b.pyt")]
    with pytest.raises(LandscapeError, match="seed 4 is repeated: members are told apart by their seeds"):
        import_run(files, tmp_path / "run", seeds=[4, 4])
    with pytest.raises(LandscapeError, match="there are no files to import"):
        import_run([], tmp_path / "run")


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    one, other = (save(tmp_path / f"{seed}.pyt", trained(seed)) for seed in (0, 1))
    path = import_run([one], tmp_path / "run").path
    words = "run exists: choose another output with `output`, or replace it with `overwrite=True`"
    with pytest.raises(LandscapeError, match=words):
        import_run([other], path)
    assert same(Run.open(path).checkpoint().stack.state_dict(0), trained(0))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(LandscapeError, match="does not exist"):
        import_run([tmp_path / "none.pyt"], path, overwrite=True)
    assert same(Run.open(path).checkpoint().stack.state_dict(0), trained(0)), "replaced only by what fits"
    import_run([other], path, overwrite=True)
    assert same(Run.open(path).checkpoint().stack.state_dict(0), trained(1))
    assert (path / "notes.txt").read_text() == "mine"
    with pytest.raises(LandscapeError, match="exists and is no run: choose another directory with `output`"):
        import_run([one], tmp_path, overwrite=True)


@pytest.mark.parametrize("function", ["save", "create"])
def test_an_interruption_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    file = save(tmp_path / "net.pyt", trained())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, function, interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_run([file], tmp_path / "run")
    assert [*(tmp_path / "run").glob("*")] == []
    assert import_run([file], tmp_path / "run").steps() == [0]


def test_the_checkpoint_of_a_killed_import_is_not_misread(tmp_path: Path) -> None:
    """Killed between the two files it leaves a checkpoint that says all that is needed, and no run."""
    run = import_run([save(tmp_path / "net.pyt", trained())], tmp_path / "run")
    (run.path / "run.json").unlink()
    left = load(str(run.path))
    assert (left.problem, left.sources[0].seed) == (("life", Life().config()), 0)
    with pytest.raises(LandscapeError, match="exists and is no run: choose another directory with `output`"):
        import_run([tmp_path / "net.pyt"], run.path)
    (run.path / ".lock").touch()  # which a killed import leaves, and nobody else
    shutil.copy(run.path / "step-00000000.safetensors", run.path / "step-00000007.safetensors")
    assert import_run([tmp_path / "net.pyt"], run.path).steps() == [0]
    assert not (run.path / ".lock").exists()


# ----------------------------------------------------------------------------------------------------------------------


def normalized(blocks: int, m: int, seed: int = 0) -> torch.nn.Module:
    """The study's --normalize, written out: dropout behind the first layer of all blocks but the last; a sigmoid."""
    torch.manual_seed(seed)
    net = torch.nn.ModuleList()
    for block in range(blocks):
        layers = [torch.nn.Conv2d(1, 2 * m, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(2 * m, m, 1)]
        layers += [torch.nn.LeakyReLU(), torch.nn.Conv2d(m, 1, 1)]
        if block < blocks - 1:
            layers.insert(1, torch.nn.Dropout2d(0.4))
            layers.append(torch.nn.LeakyReLU())
        net.append(torch.nn.Sequential(*layers))
    net.append(torch.nn.Sigmoid())
    module = torch.nn.Module()
    module.net = net
    return module


@pytest.mark.parametrize(("blocks", "m"), [(2, 1), (4, 3)])
def test_shifted_names_of_normalized_networks(tmp_path: Path, blocks: int, m: int) -> None:
    theirs = normalized(blocks, m)
    tensors = theirs.state_dict()
    assert "net.0.3.weight" in tensors
    assert f"net.{blocks - 1}.2.weight" in tensors
    files = [save(tmp_path / "a.pyt", tensors), save(tmp_path / "b.pyt", dict(reversed(tensors.items())))]
    run = import_run(files, tmp_path / "run")
    assert run.problem == ("life", Life(steps=blocks, m_factor=m, dropout=0.4, dropout_last=False).config())
    imported = run.imported
    assert imported is not None
    fields = ["architecture", "dropout", "dropout_last", "m_factor", "normalize", "sigmoid", "steps"]
    assert imported["inferred"] == fields
    assert imported["sha256"] == [fingerprint(tensors)] * 2, "of the tensors as they stand in the files"
    assert len(imported["renamed"]) == 4 * (blocks - 1)
    for member in range(2):
        found = run.checkpoint().stack.state_dict(member)
        for name, tensor in tensors.items():
            assert torch.equal(found[imported["renamed"].get(name, name)], tensor)
    ours = Life(**run.problem[1]).network().eval()
    dropped = [name for name, _ in ours.named_modules() if name.endswith("dropout")]
    assert dropped == [f"net.{block}.dropout" for block in range(blocks - 1)], "as theirs in training too"
    ours.load_state_dict(found)
    boards = torch.randint(0, 2, (5, 1, 6, 6)).float()
    outputs = boards
    for part in theirs.eval().net:  # type: ignore[union-attr]
        outputs = part(outputs)
    assert torch.equal(ours(boards), outputs)


def test_names_that_are_shifted_otherwise_are_not_guessed() -> None:
    shifted = {name: tuple(tensor.shape) for name, tensor in normalized(3, 1).state_dict().items()}
    found = Life.rename(shifted)
    assert found.remark.startswith("net.0.3, net.0.5 renamed to net.0.2, net.0.4 (and so in other blocks): ")
    assert found.apply(shifted) == study(3, 1)
    assert found.fields == {"sigmoid": True, "normalize": False, "dropout": 0.4, "dropout_last": False}
    assert "dropout" not in Life.rename(shifted, dropout=0.0).fields
    assert Life.rename(study(3, 1)) == Life.rename(paper(3, 1)) == Life.rename([]) == Renaming()
    names = {name.replace("net.2.2", "net.2.3").replace("net.2.4", "net.2.5"): name for name in shifted}
    for shapes in (
        {name: shifted[was] for name, was in names.items()},  # the last block too
        without(shifted, "net.1.5.bias"),
        shifted | {"net.0.2.weight": (1, 2, 1, 1)},
        shifted | {"net.3.0.weight": (2, 1, 3, 3)},
    ):
        assert Life.rename(shapes) == Renaming()
        with pytest.raises(Mismatch, match="a checkpoint whose architecture cannot be inferred"):
            Life.infer(shapes)


def test_shifted_names_of_other_shapes(tmp_path: Path) -> None:
    """Renamed first, then compared as any other."""
    tensors = normalized(3, 1).state_dict() | {"net.1.0.weight": torch.zeros(4, 1, 3, 3)}
    file = save(tmp_path / "net.pyt", tensors)
    with pytest.raises(Mismatch, match=r"expected with 3 blocks and m = 1 net\.1\.0\.weight \[2, 1, 3, 3\]; found"):
        import_run([file], tmp_path / "run")


def test_what_shifted_names_say_is_not_overruled_but_for_dropout(tmp_path: Path) -> None:
    file = save(tmp_path / "net.pyt", normalized(2, 1).state_dict())
    for key, value in (("normalize", True), ("sigmoid", False)):
        with pytest.raises(Mismatch, match=rf"{key}={value} does not fit its tensors, which say {key}={not value}"):
            import_run([file], tmp_path / "run", options={key: value})
    run = import_run([file], tmp_path / "run", options={"dropout": 0.0})
    assert run.problem == ("life", Life(steps=2).config())


@pytest.mark.parametrize(
    ("names", "seeds", "named"),
    [
        (["gol_model_steps2_m1_d1.0_seed3.pyt", "gol_model_steps2_m1_d1.0_seed10.pyt"], [3, 10], True),
        (["gol_model_presolve_steps2_m1_d1.0_seed100.pyt"], [100], True),
        (["gol_model_2_1_1_seed_7.pyt", "gol_model_steps2_m1_d1.0_seed5.pyt"], [7, 5], True),
        (["gol_model_steps2_m1_d1.0_seed3.pyt", "gol_model_presolve_steps2_m1_d1.0_seed3.pyt"], [0, 1], True),
        (["gol_model_steps2_m1_d1.0_seed3.pyt", "gol_model.pyt"], [0, 1], False),
        (["gol_model_steps2_m1_d1.0_seed3_old.pyt"], [0], False),
        (["gol_model_2_1_1.pyt"], [0], False),
        (["gol_model_steps2_m1_d1.0_seed3.pth"], [0], False),
    ],
)
def test_what_file_names_of_the_study_say(tmp_path: Path, names: list[str], seeds: list[int], named: bool) -> None:
    files = [save(tmp_path / name, trained(number, steps=2)) for number, name in enumerate(names)]
    run = import_run(files, tmp_path / "run")
    assert run.problem == ("life", Life(steps=2).config())
    assert run.seeds == seeds
    assert run.imported is not None
    fields = ["d_factor", "seeds", "steps"] if seeds[0] else ["d_factor", "steps"]
    assert run.imported["named"] == (fields if named else [])
    assert ("steps" in run.imported["inferred"]) is not named


def test_file_names_tell_steps_from_depth(tmp_path: Path) -> None:
    files = [save(tmp_path / f"gol_model_steps2_m1_d1.5_seed{seed}.pyt", trained(seed, steps=3)) for seed in (4, 5)]
    run = import_run(files, tmp_path / "run")
    assert run.problem == ("life", Life(steps=2, d_factor=1.5).config())
    run = import_run(files, tmp_path / "seeds", seeds=[8, 9], options={"d_factor": 1.5})
    assert (run.problem[1]["steps"], run.seeds) == (2, [8, 9])
    assert run.imported is not None
    assert (run.imported["named"], run.imported["given"]) == (["steps"], ["d_factor"])
    run = import_run(files, tmp_path / "given", options={"steps": 3})
    assert (run.problem[1]["d_factor"], run.seeds) == (1.0, [0, 1]), "given steps: names are not read"
    assert run.imported is not None
    assert run.imported["named"] == []
    file = save(tmp_path / "gol_model_steps3_m2_d1.0_seed1.pyt", normalized(3, 2).state_dict())
    assert import_run([file], tmp_path / "normalized").seeds == [1]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("steps3_m1_d1.0", {}, "says steps=3, m_factor=1, d_factor=1.0, but its tensors steps=2, m_factor=1"),
        ("steps2_m5_d1.0", {}, "says steps=2, m_factor=5, d_factor=1.0, but its tensors m_factor=1: rename"),
        ("steps2_m1_d1.5", {}, "says steps=2, m_factor=1, d_factor=1.5, but its tensors steps=2, m_factor=1, d_factor"),
        ("steps0_m1_d1.0", {}, "says steps=0, m_factor=1, d_factor=1.0, but its tensors steps=2"),
        ("steps2_m1_d1.0", {"d_factor": 0.5}, "says steps=2, m_factor=1, d_factor=1.0, not d_factor=0.5: rename"),
        (
            "steps1_m1_d2.0",
            {},
            r"are of different problems by their names, .*steps=1.* or give `options=.*` and names are",
        ),
    ],
)
def test_file_names_that_contradict(tmp_path: Path, name: str, options: dict[str, Any], text: str) -> None:
    bad = save(tmp_path / f"gol_model_{name}_seed1.pyt", trained(steps=2))
    files = [save(tmp_path / "gol_model_steps2_m1_d1.0_seed2.pyt", trained(steps=2)), bad]
    with pytest.raises(Mismatch, match=text):
        import_run(files[1:] if options else files, tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()
    assert import_run(files, tmp_path / "run", options={"steps": 2}).seeds == [0, 1]


def test_file_names_say_nothing_of_other_problems(tmp_path: Path) -> None:
    file = save(tmp_path / "gol_model_steps1_m2_d1.0_seed4.pyt", trained(m_factor=2))
    for name, options in (("READY", {}), ("Mute", {"m_factor": 2})):
        run = import_run([file], tmp_path / name, problem=f"test_import:{name}", options=options)
        assert run.imported is not None
        assert (run.seeds, run.imported["named"]) == ([0], [])
    with pytest.raises(Mismatch, match=r"seed4\.pyt: a checkpoint whose architecture cannot be inferred"):
        import_run([save(tmp_path / file.name, {"fc.weight": torch.zeros(3, 4)})], tmp_path / "other")


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_program_says_what_it_read_and_renamed(landscape: Program) -> None:
    for seed in (1, 2, 10):
        save(Path(f"theirs/gol_model_steps2_m1_d1.0_seed{seed}.pyt"), normalized(2, 1, seed).state_dict())
    result = landscape("import", "theirs", "--problem", "life", "-O", "rule=B3/S23")
    assert result.exit_code == 0, result.output
    first, names, renamed, assumed = result.stderr.splitlines()
    assert first == (
        "3 files imported; inferred from the tensors: architecture=study, dropout=0.4, dropout_last=False, m_factor=1, "
        "normalize=False, sigmoid=True; given: rule=B3/S23"
    )
    assert names == "read off the file names: d_factor=1.0, steps=2, seeds 1, 2, 10"
    assert renamed == (
        "net.0.3, net.0.5 renamed to net.0.2, net.0.4: they are of the study's --normalize, where dropout shifted the "
        "names; it meant other initial parameters, dropout, always a sigmoid, and no shift of the input, so that "
        "normalize stays False"
    )
    assert assumed == (
        "assumed, because tensors do not say: activation=leaky_relu, board=10x10, density=0.5, loss=bce; "
        "name others with -O KEY=VALUE"
    )
    assert landscape("verify", "checkpoints/theirs", "--landmark", "presolve").exit_code == 0
    assert landscape("walk", "--from", "presolve", "--to", "checkpoints/theirs", "--points", "3").exit_code == 0


@pytest.mark.slow
def test_from_import_to_figures(landscape: Program) -> None:
    for seed in (1, 2, 10):
        save(Path(f"theirs/net_{seed}.pyt"), trained(seed, m_factor=2))
    result = landscape("import", "theirs", "--problem", "life", "-O", "activation=relu")
    assert result.exit_code == 0, result.output
    assert result.stdout == "checkpoints/theirs\n"
    told, assumed = result.stderr.splitlines()
    assert told == (
        "3 files imported; seeds 0 to 2 in the order of the files (theirs/net_1.pyt first, theirs/net_10.pyt last); "
        "inferred from the tensors: architecture=study, m_factor=2, steps=1; given: activation=relu"
    )
    assert assumed.startswith("assumed, because tensors do not say: board=10x10, ")
    assert "rule=B3/S23V" in assumed
    assert "sigmoid=True" in assumed
    assert assumed.endswith("; name others with -O KEY=VALUE")

    result = landscape("walk", "--from", "presolve", "--to", "checkpoints/theirs", "--points", "5")
    assert result.exit_code == 0, result.output
    curves = Result.read(Path(result.stdout.strip()))
    assert [curves.sources[i].seed for i in curves["to_member"]] == [0, 1, 2]
    assert curves.about["problem"]["config"]["activation"] == "relu"
    for verb in (
        ("analyse", "barriers", "analyses/presolve--theirs.h5"),
        ("analyse", "outcomes", "checkpoints/theirs"),
        ("analyse", "clusters", "checkpoints/theirs"),
        ("verify", "checkpoints/theirs", "--landmark", "presolve"),
        ("plot", "walk", "analyses/presolve--theirs.h5"),
    ):
        result = landscape(*verb)
        assert result.exit_code == 0, result.output


def test_info_shows_the_files_of_an_imported_run(landscape: Program) -> None:
    for seed in range(2):
        save(Path(f"net_{seed}.pyt"), trained(seed))
    assert (
        landscape("import", "net_0.pyt", "net_1.pyt", "--problem", "life", "--seeds", "5,6").stdout
        == "checkpoints/net_0\n"
    )
    result = landscape("info", "checkpoints/net_0")
    assert result.stdout.startswith("kind: run\nimported:\n")
    assert "  files: net_0.pyt net_1.pyt\n" in result.stdout
    assert "finished" not in result.stdout
    document = json.loads(landscape("info", "checkpoints/net_0", "--json").stdout)
    assert document["imported"]["files"] == ["net_0.pyt", "net_1.pyt"]
    assert document["seeds"] == document["data_seeds"] == [5, 6]
    assert json.loads(landscape("info", "checkpoints/net_0/step-00000000.safetensors", "--json").stdout)["step"] is None


def test_an_imported_run_is_not_trained_on(landscape: Program) -> None:
    save(Path("net.pyt"), trained())
    assert landscape("import", "net.pyt", "--problem", "life", "-o", "run").exit_code == 0
    fails(landscape("train", "life", "--seeds", "0:1", "--batches", "0", "-o", "run"), "imported")
    assert same(Run.open(Path("run")).checkpoint().stack.state_dict(0), trained())


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        ((), "Missing argument 'FILE...'", 2),
        (("net.pyt", "--problem"), "Option '--problem' requires an argument", 2),
        (("net.pyt", "-O", "activation"), "-O activation: write KEY=VALUE", 2),
        (("net.pyt", "-O", "steps=x"), "'x' is not a valid integer", 2),
        (("net.pyt", "-O", "activation=tanh"), "'tanh' is not one of", 2),
        (("net.pyt", "-O", "activatoin=relu"), "did you mean activation?", 1),
        (("net.pyt", "--seeds", "0:2"), "2 seeds for 1 files", 1),
        (("net.pyt", "--problem", "lif"), "did you mean life?", 1),
        (("none.pyt",), "none.pyt does not exist", 1),
        (("other.pyt",), "other.pyt: a checkpoint whose architecture cannot be inferred: expected net.0.0.weight", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input(landscape: Program, arguments: tuple[str, ...], text: str, status: int) -> None:
    save(Path("net.pyt"), trained())
    save(Path("other.pyt"), {"fc.weight": torch.zeros(3, 4)})
    named = () if "--problem" in arguments else ("--problem", "life")
    fails(landscape("import", *arguments, *named), text, status)
    assert not Path("checkpoints").exists()
