"""Other people's checkpoints: what they hold is read, what was done to it is said, and nothing in them runs."""

import argparse
import json
import logging
import os
import pathlib
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import Result as Outcome
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import landscape
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported, few
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.problems.importing import import_run
from landscape.problems.life import Life
from landscape.problems.places import held
from landscape.store import formats
from landscape.store.checkpoints import Run, fitted, load
from landscape.store.formats import leading, model_weights, read_state_dict, state_dict_of

Program = Callable[..., Outcome]
Tensors = dict[str, Tensor]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Equal names in equal order, types, shapes and numbers."""
    return list(one) == list(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.fixture
def plain() -> Tensors:
    torch.manual_seed(0)
    return Life().network().state_dict()


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


# Keys and prefixes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        *["", "state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "network", "module"],
        *["params", "model state_dict", "model module model_state_dict"],
    ],
)
def test_the_usual_keys_also_nested(tmp_path: Path, plain: Tensors, keys: str) -> None:
    document: Any = plain
    for key in reversed(keys.split()):
        document = {key: document, "epoch": 3, "rng": torch.zeros(3, dtype=torch.uint8), "optimizer": {"state": {}}}
    torch.save(document, tmp_path / "net.bin")
    found = read_state_dict(tmp_path / "net.bin")
    assert same(found.tensors, plain)
    assert found.remarks == ()


def test_averaged_weights_are_read_where_there_are_no_others(tmp_path: Path, plain: Tensors) -> None:
    averaged = {name: tensor + 1 for name, tensor in plain.items()}
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "both.pt")
    both = read_state_dict(tmp_path / "both.pt")
    assert same(both.tensors, plain)
    assert both.remarks == (
        "it holds averaged weights too, which are not read: ::state_dict_ema behind the path chooses them",
    )
    torch.save({"ema": averaged}, tmp_path / "ema.pt")
    alone = read_state_dict(tmp_path / "ema.pt")
    assert same(alone.tensors, averaged)
    assert alone.remarks == ("its weights are averaged ones, under ema",)


def test_several_state_dicts_are_not_guessed_among(tmp_path: Path, plain: Tensors) -> None:
    torch.save({"model": plain, "net": plain}, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match=r"net\.pt holds several state dicts, under model, net: choose one, such as"):
        read_state_dict(tmp_path / "net.pt")
    torch.save({"state_dict": plain, "model": {"name": "resnet"}}, tmp_path / "net.pt")  # a configuration is none
    assert same(read_state_dict(tmp_path / "net.pt").tensors, plain)


@given(prefixes=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4), others=st.booleans())
def test_prefixes_go_where_all_names_carry_them(prefixes: list[str], others: bool) -> None:
    names = {"a.weight": torch.zeros(1), "modules.b": torch.zeros(2), "module": torch.zeros(3)}
    wrapped = prefixed("".join(prefixes), names) | ({"criterion.weight": torch.zeros(2)} if others else {})
    found = state_dict_of(Path("x.pt"), wrapped)
    assert same(found.tensors, wrapped if others else names)
    assert len(found.remarks) == (0 if others else len(prefixes))
    for remark, prefix in zip(found.remarks, prefixes, strict=not others):
        assert re.fullmatch(rf"all names begin with {re.escape(prefix)} \(.*\) and are read without it", remark)


@pytest.mark.slow
def test_real_wrappers(tmp_path: Path, plain: Tensors, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "landscape")
    network = Life().network()
    network.load_state_dict(plain)
    for number, (wrapped, said) in enumerate(
        [
            (nn.DataParallel(network), "begin with module. (DataParallel or DistributedDataParallel)"),
            (torch.compile(network, backend="eager"), "begin with _orig_mod. (torch.compile)"),
            (torch.optim.swa_utils.AveragedModel(network), "(AveragedModel) are read without their counter n_averaged"),
        ]
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(wrapped.state_dict(), path)  # type: ignore[attr-defined]
        checkpoint = load(str(path))
        assert same(fitted(checkpoint, Life().network()).stack.state_dict(0), plain)
        assert said in checkpoint.remarks[0]
        assert [record.getMessage() for record in caplog.records] == [f"{path}: {text}" for text in checkpoint.remarks]
        caplog.clear()


@pytest.mark.slow
def test_a_network_that_is_itself_wrapped(plain: Tensors, tmp_path: Path) -> None:
    torch.save(prefixed("_orig_mod.", plain), tmp_path / "net.pt")
    for network in (torch.compile(Life().network(), backend="eager"), nn.DataParallel(Life().network())):
        assert isinstance(network, nn.Module)
        got = fitted(load(str(tmp_path / "net.pt")), network)
        assert list(got.stack.tensors) == [name for name, _ in network.named_parameters()]
        assert torch.equal(got.stack.flatten()[0], torch.cat([tensor.flatten() for tensor in plain.values()]))


# Lightning ------------------------------------------------------------------------------------------------------------


def lightning(tensors: Mapping[str, Tensor], **more: Any) -> dict[str, Any]:
    """What Lightning's Trainer writes."""
    return {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": dict(tensors),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x.ckpt", "best_k_models": {}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(20.0)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "layers": [3, 4]},
        **more,
    }


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "model._orig_mod.", "anything.module._orig_mod."])
def test_a_lightning_checkpoint(tmp_path: Path, plain: Tensors, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "landscape")
    path = tmp_path / "epoch=1-step=20.ckpt"
    torch.save(lightning(prefixed(prefix, plain)), path)
    got = fitted(load(str(path)), Life().network())
    assert same(got.stack.state_dict(0), plain)
    remark = f"all names begin with {prefix} and fit the network without it"
    assert got.remarks == ((remark,) if prefix else ())
    assert [record.getMessage() for record in caplog.records] == ([f"{path}: {remark}"] if prefix else [])


def test_what_lies_beside_the_network_in_a_lightning_module_is_named(tmp_path: Path, plain: Tensors) -> None:
    torch.save(lightning(prefixed("model.", plain) | {"criterion.weight": torch.ones(2)}), tmp_path / "x.ckpt")
    got = fitted(load(str(tmp_path / "x.ckpt")), Life().network())
    assert same(got.stack.state_dict(0), plain)
    assert got.remarks == (
        f"{len(plain)} names begin with model. and fit the network without it",
        "1 of its tensors, which the network has no place for, left out: criterion.weight",
    )


def test_an_attribute_that_does_not_help_is_kept_in_the_message(tmp_path: Path, plain: Tensors) -> None:
    torch.save(lightning(prefixed("model.", plain)), tmp_path / "y.ckpt")
    with pytest.raises(Mismatch, match=r"where the network has \[1, 4, 1, 1\]$"):
        fitted(load(str(tmp_path / "y.ckpt")), Life(m_factor=4).network())
    few_of_them = dict(list(prefixed("model.", plain).items())[1:])
    torch.save(lightning(few_of_them), tmp_path / "x.ckpt")
    with pytest.raises(Mismatch, match=r"missing: net\.0\.0\.weight, .*; unexpected: model\.net\.0\.0\.bias"):
        fitted(load(str(tmp_path / "x.ckpt")), Life().network())


def test_options_paths_versions_and_numbers_are_read(tmp_path: Path, plain: Tensors) -> None:
    harmless = {
        "options": argparse.Namespace(lr=0.1, out=Path("a/b"), more=pathlib.PurePosixPath("c")),
        "elsewhere": pathlib.PureWindowsPath("C:/x"),
        "version": torch.__version__,
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "history": np.ones((2, 3), np.float32),
    }
    torch.save(lightning(plain, hyper_parameters=harmless), tmp_path / "x.ckpt")
    assert same(read_state_dict(tmp_path / "x.ckpt").tensors, plain)


def test_a_path_of_another_system_is_read(tmp_path: Path) -> None:
    """A Windows path cannot be made here, so its name is written into the pickle."""
    path = tmp_path / "net.pt"
    torch.save({"at": pathlib.PurePosixPath("x"), "a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cpathlib\nPurePosixPath\n", b"cpathlib\nWindowsPath\n"))
    found = read_state_dict(path)
    assert list(found.tensors) == ["a"]
    assert found.remarks == ("1 of its entries are no tensors and left out: at (PureWindowsPath)",)


class AttributeDict(dict):  # type: ignore[type-arg]
    """Stands for what rich hyperparameters are made of."""


def test_a_rich_lightning_checkpoint_is_refused_with_advice(tmp_path: Path, plain: Tensors) -> None:
    torch.save(lightning(plain, hyper_parameters=AttributeDict(lr=0.1)), tmp_path / "x.ckpt")
    wanted = (
        r"x\.ckpt is refused: its pickle wants to run (tests\.)?test_formats\.AttributeDict; if you trust this "
        r"Lightning checkpoint, keep its weights alone: torch\.save\(torch\.load\(FILE, weights_only=False\)"
    )
    with pytest.raises(Unsupported, match=wanted):
        load(str(tmp_path / "x.ckpt"))


# Pickles that want to run something -----------------------------------------------------------------------------------


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "torch": torch.save,
    "torch, protocol 4": lambda thing, path: torch.save(thing, path, pickle_protocol=4),
    "torch before 1.6": lambda thing, path: torch.save(thing, path, _use_new_zipfile_serialization=False),
    **{
        f"pickle, protocol {protocol}": lambda thing, path, protocol=protocol: path.write_bytes(  # type: ignore[misc]
            pickle.dumps(thing, protocol)
        )
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("ending", [".pt", ".bin"])
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_in_a_malicious_pickle_runs(tmp_path: Path, plain: Tensors, writer: str, ending: str) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / f"net{ending}"
    WRITERS[writer]({"state_dict": plain, "extra": Payload(mark)}, path)
    with pytest.raises(Unsupported, match=r"net\.\w+ is refused: its pickle wants to run (posix|nt)\.system\b.*; save"):
        load(str(path))
    with pytest.raises(Unsupported, match="is refused"):
        import_run([path], tmp_path / "run", problem="life")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


def test_an_archive_behind_a_pickle_hides_nothing(tmp_path: Path, plain: Tensors) -> None:
    torch.save(plain, tmp_path / "good.pt")
    mark = tmp_path / "it-ran"
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Payload(mark)) + (tmp_path / "good.pt").read_bytes())
    with pytest.raises(Unsupported, match=r"is refused: its pickle wants to run (posix|nt)\.system; save"):
        load(str(tmp_path / "net.pt"))
    assert not mark.exists()


def test_a_name_that_is_computed_is_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(b"\x80\x04" + b"\x8c\x02os" + b"\x94" + b"\x88" + b"\x93" + b".")
    with pytest.raises(Unsupported, match=r"wants to run a global whose name is computed; save"):
        load(str(path))
    path.write_bytes(b"(ios\nsystem\n.")
    with pytest.raises(Unsupported, match=r"wants to run os\.system; save"):
        load(str(path))
    # Names that were memoised before: module and function by reference.
    path.write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x30\x30h\x00h\x01\x93.")
    with pytest.raises(Unsupported, match=r"wants to run os\.system; save"):
        load(str(path))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_pickled_module_is_named(tmp_path: Path, writer: str, wrapped: bool) -> None:
    network = Life().network()
    WRITERS[writer]({"epoch": 3, "model": network} if wrapped else network, tmp_path / "net.pt")
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    with pytest.raises(
        Unsupported, match=rf"is refused: it holds a whole pickled module, {kind}, and .*; save model\.state_dict\(\)"
    ):
        load(str(tmp_path / "net.pt"))


def test_a_plain_pickle_and_a_script_are_told_apart_from_damage(tmp_path: Path, plain: Tensors) -> None:
    for protocol in (2, 4):
        (tmp_path / "net.pt").write_bytes(pickle.dumps({"epoch": 3}, protocol))
        with pytest.raises(Unsupported, match=rf"is a pickle \(protocol {protocol}\) that PyTorch does not read"):
            load(str(tmp_path / "net.pt"))
    torch.save(plain, tmp_path / "net.pt", pickle_protocol=4)
    with pytest.raises(Unsupported, match=r"is a pickle \(protocol 4\) that PyTorch does not read .*torch\.save"):
        load(str(tmp_path / "net.pt"))
    shutil.copy(Path(__file__).parent / "test_formats.py", tmp_path / "net.pt")
    with pytest.raises(DamagedFile, match=r"net\.pt is damaged or no PyTorch checkpoint"):
        load(str(tmp_path / "net.pt"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_script_holds_code(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(Unsupported, match=r"is a TorchScript archive, which holds code: keep torch\.jit\.load"):
        load(str(tmp_path / "net.pt"))


@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3))
@pytest.mark.parametrize("writer", ["torch", "torch before 1.6", "pickle, protocol 4"])
def test_a_damaged_pickle_is_one_line(tmp_path: Path, writer: str, cut: float, flips: list[tuple[float, int]]) -> None:
    """Whatever is in a file, it is read or refused as one of our errors; never anything else."""
    path = tmp_path / "net.pt"
    WRITERS[writer]({"model": {"a": torch.ones(40)}, "epoch": 3}, path)
    content = bytearray(path.read_bytes())
    for place, flip in flips:
        content[int(place * len(content))] ^= flip
    path.write_bytes(bytes(content[: int((1 - cut) * len(content))]))
    try:
        load(str(path))
    except LandscapeError as error:
        said = str(error)
    else:
        said = str(path)
    assert re.search(re.escape(str(path)), said)
    assert "\n" not in said


# What is no state dict ------------------------------------------------------------------------------------------------


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b._extra_state": None, "epoch": 3}, tmp_path / "net.pt")
    remark = "2 of its entries are no tensors and left out: b._extra_state (NoneType), epoch (int)"
    assert load(str(tmp_path / "net.pt")).remarks == (remark,)
    torch.save({"epoch": 3, "weights": {"a": 1}}, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match=r"holds no state dict.*; its keys are epoch, weights"):
        load(str(tmp_path / "net.pt"))


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(2, device="meta"), "without data, on the meta device"),
    ],
)
def test_tensors_that_are_no_parameters_are_named(tmp_path: Path, tensor: Tensor, what: str) -> None:
    torch.save({"a": torch.ones(2), "b": tensor}, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match=rf"other tensors than dense ones of plain numbers: b \({what}\); convert"):
        load(str(tmp_path / "net.pt"))


def test_tensors_of_one_storage_are_written_each_for_itself(tmp_path: Path) -> None:
    storage = torch.arange(10.0)
    formats.write_safetensors(tmp_path / "a.safetensors", {"a": storage[:6], "b": storage[4:], "c": storage[:6]}, {})
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert found["a"].tolist() == found["c"].tolist() == list(range(6))
    assert found["b"].tolist() == list(range(4, 10))


def test_tensors_in_pieces_are_named_in_memory_and_in_files(tmp_path: Path) -> None:
    import torch.distributed.tensor

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        weight = torch.distributed.tensor.distribute_tensor(torch.ones(2), mesh)
        torch.save({"b": torch.ones(1), "w": weight}, tmp_path / "c.pt")
        for read in (lambda: load(str(tmp_path / "c.pt")), lambda: held({"w": weight}, "a")):
            with pytest.raises(Unsupported, match=r"w \(DTensor, gather it: full_tensor\(\)\)"):
                read()
        held({"w": weight.full_tensor()}, "a")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"b": torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)}, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match=r"b \(quantized\)"):
        load(str(tmp_path / "net.pt"))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_files_that_are_none(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    path.touch()
    with pytest.raises(DamagedFile, match=r"is damaged: it is empty; restore it or save it again"):
        load(str(path))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DamagedFile, match=r"is a pointer of Git LFS, not the file itself: fetch .* `git lfs pull`"):
        load(str(path))
    path.unlink()
    with pytest.raises(LandscapeError, match=r"net\.\w+ does not exist"):
        import_run([path], tmp_path / "run", problem="life")
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(LandscapeError, match=r"is a link to a file that is not there"):
        load(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(LandscapeError, match=r"is no run \(no run\.json\) and holds no checkpoints"):
        load(str(path))
    with pytest.raises(LandscapeError, match=r"is a directory: give a checkpoint file in it"):
        read_state_dict(path)


def test_what_cannot_be_read_is_not_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LandscapeError, match=r"cannot read .*: File name too long"):
        load(str(tmp_path / ("x" * 300 + ".pt")))
    (tmp_path / "net.pt").write_bytes(b"x")

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("landscape.core.reading.os.open", denied)
    with pytest.raises(LandscapeError, match=r"^cannot read .*net\.pt: Permission denied$"):
        load(str(tmp_path / "net.pt"))


# Directories in the Hugging Face layout -------------------------------------------------------------------------------


def shards(directory: Path, tensors: Mapping[str, Tensor], count: int, ending: str = ".safetensors") -> Path:
    """A model in shards with an index, as `save_pretrained` writes it."""
    directory.mkdir()
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    where = {
        name: f"{stem}-{number % count + 1:05d}-of-{count:05d}{ending}" for number, name in enumerate(sorted(tensors))
    }
    for file in set(where.values()):
        part = {name: tensors[name].contiguous() for name, shard in where.items() if shard == file}
        if ending == ".safetensors":
            safetensors.torch.save_file(part, directory / file, metadata={"format": "pt"})
        else:
            torch.save(part, directory / file)
    index = directory / f"{stem}{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 100}, "weight_map": where}))
    (directory / "config.json").write_text("{}")
    return index


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
@given(count=st.integers(1, 5))
def test_shards_are_one_member(tmp_path_factory: pytest.TempPathFactory, ending: str, count: int) -> None:
    torch.manual_seed(0)
    plain = Life().network().state_dict()
    directory = tmp_path_factory.mktemp("hub") / "model-7b"
    index = shards(directory, plain, min(count, len(plain)), ending)
    for place in (directory, f"{directory}/", index):
        checkpoint = load(str(place))
        assert same(fitted(checkpoint, Life().network()).stack.state_dict(0), plain)
    assert [source.label for source in load(str(directory)).sources] == ["model-7b"]


def test_each_shard_is_read_once(tmp_path: Path, plain: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = safetensors.safe_open

    def counted(path: Path, **how: Any) -> Any:
        read.append(Path(path).name)
        return real(path, **how)

    monkeypatch.setattr(safetensors, "safe_open", counted)
    shards(tmp_path / "model", plain, 3)
    load(str(tmp_path / "model"))
    assert sorted(read) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    read.clear()
    safetensors.torch.save_file(plain, tmp_path / "single.safetensors")
    import_run([tmp_path / "single.safetensors"], tmp_path / "run", problem="life")
    assert read == ["single.safetensors"]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("delete", LandscapeError, r"m lacks 1 of 3 shards that its index lists: model-00002-of-00003\.safetensors"),
        ("no json", DamagedFile, r"index\.json is damaged: it is no JSON"),
        ("no map", DamagedFile, r"index\.json is damaged: it has no weight_map from tensors to files"),
        ("list", DamagedFile, r"index\.json is damaged: it has no weight_map from tensors to files"),
        ("outside", DamagedFile, r'index\.json is damaged: "\.\./x\.safetensors" is no file beside it'),
        ("listed", DamagedFile, r"of-00003\.safetensors lacks tensors that the index lists: other\.weight; fetch"),
        ("unlisted", DamagedFile, r"holds tensors that the index does not list there: net\.0\.0\.bias; index and"),
        ("empty", DamagedFile, r"model-00002-of-00003\.safetensors is damaged: it is empty"),
        ("no index", LandscapeError, r"m holds shards of one model \(model-00001-of-00003.*\) without their index"),
    ],
)
def test_shards_that_are_not_whole(tmp_path: Path, plain: Tensors, change: str, error: Any, text: str) -> None:
    index = shards(tmp_path / "m", plain, 3)
    second = tmp_path / "m" / "model-00002-of-00003.safetensors"
    document = json.loads(index.read_text())
    if change == "delete":
        second.unlink()
    elif change == "empty":
        second.write_bytes(b"")
    elif change == "no index":
        index.unlink()
    elif change == "no json":
        index.write_text("{")
    else:
        if change == "no map":
            del document["weight_map"]
        elif change == "outside":
            document["weight_map"]["a"] = "../x.safetensors"
        elif change == "listed":
            document["weight_map"]["other.weight"] = second.name
        elif change == "unlisted":
            del document["weight_map"]["net.0.0.bias"]
        index.write_text(json.dumps([document] if change == "list" else document))
    model = tmp_path / "m"
    for read in (lambda: load(str(model)), lambda: import_run([model], tmp_path / "run", problem="life")):
        with pytest.raises(error, match=text):
            read()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("others", [(), ("optimizer.pt", "scheduler.bin", "training_args.bin", "rng_state_0.pth")])
def test_a_whole_model_among_its_companions(tmp_path: Path, plain: Tensors, name: str, others: tuple[str, ...]) -> None:
    if name.endswith(".bin"):
        torch.save(plain, tmp_path / name)
    else:
        safetensors.torch.save_file(plain, tmp_path / name)
    for other in others:
        torch.save({"state": [1]}, tmp_path / other)
    checkpoint = load(str(tmp_path))
    assert same(fitted(checkpoint, Life().network()).stack.state_dict(0), plain)
    assert len(checkpoint.stack) == 1
    with pytest.raises(LandscapeError, match="is a single model, no run: it has no steps to choose from"):
        load(f"{tmp_path}/@3")
    run = import_run([tmp_path], tmp_path / "run", problem="life")
    assert same(run.checkpoint().stack.state_dict(0), plain)
    assert run.imported is not None
    assert run.imported["files"] == [str(tmp_path)]


def test_plain_folders_stay_plain(tmp_path: Path, plain: Tensors) -> None:
    for name in ("a", "b", "model"):
        safetensors.torch.save_file(plain, tmp_path / f"{name}.safetensors")
    (tmp_path / "data.bin").write_bytes(b"\0" * 100)
    assert model_weights(tmp_path) is None
    assert [source.label for source in load(str(tmp_path)).sources] == ["a", "b", "model"]
    (tmp_path / "config.json").write_text("{}")  # now it says that it is one model
    assert len(load(str(tmp_path)).stack) == 1


def test_a_folder_of_bin_files(tmp_path: Path, plain: Tensors) -> None:
    for name in ("a", "b"):
        torch.save(prefixed("module.", plain) if name == "b" else plain, tmp_path / f"{name}.bin")
    checkpoint = load(str(tmp_path))
    assert [source.label for source in checkpoint.sources] == ["a", "b"]
    (remark,) = checkpoint.remarks
    assert remark.endswith("are read without it (in 1 of 2 files)")


def test_runs_stay_runs(tmp_path: Path, run: Run, plain: Tensors) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    safetensors.torch.save_file(plain, tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert len(load(str(tmp_path / "run")).stack) == 24
    assert [source.seed for source in load(f"{tmp_path / 'run'}/@20#3").sources] == [3]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_is_refused_with_the_command(tmp_path: Path, plain: Tensors) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp.save(dict(plain), checkpoint_id=tmp_path / "dcp", no_dist=True)
    wanted = (
        rf"is a distributed checkpoint: convert it with `python -m torch.distributed.checkpoint.format_utils "
        rf"dcp_to_torch {tmp_path}/dcp FILE\.pt`"
    )
    place = tmp_path / "dcp"
    for read in (lambda: load(str(place)), lambda: import_run([place], tmp_path / "run", problem="life")):
        with pytest.raises(Unsupported, match=wanted):
            read()
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "net.pt")  # what the command calls
    assert same(dict(sorted(read_state_dict(tmp_path / "net.pt").tensors.items())), dict(sorted(plain.items())))


# Fitting a network ----------------------------------------------------------------------------------------------------


def test_misfits_are_told_in_the_words_of_pytorch(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    tensors = network.state_dict()
    tensors["head.weight"] = tensors.pop("2.weight")
    tensors["0.weight"] = torch.zeros(5, 3)
    torch.save(tensors, tmp_path / "net.pt")
    wanted = (
        r"net\.pt: the checkpoint and the problem's network are of different architectures: missing: 2\.weight; "
        r"unexpected: head\.weight; 0\.weight has shape \[5, 3\] where the network has \[4, 3\]$"
    )
    with pytest.raises(Mismatch, match=wanted):
        fitted(load(str(tmp_path / "net.pt")), network)


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    torch.save({f"layer.{number}": torch.zeros(1) for number in range(50)}, tmp_path / "net.pt")
    with pytest.raises(Mismatch, match=r"unexpected: layer\.0, .*, layer\.5 and 44 more$"):
        fitted(load(str(tmp_path / "net.pt")), nn.Linear(1, 1))
    assert few([]) == ""
    assert few(list("abcdef")) == "a, b, c, d, e, f"


class Tied(nn.Module):
    """A language model in small: the decoder's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.embedding.weight


@pytest.mark.parametrize("dropped", [(), ("decoder.weight",), ("embedding.weight",)])
def test_tied_tensors_are_there_once(tmp_path: Path, dropped: tuple[str, ...]) -> None:
    """Files keep both names, or, as safetensors do, one of them."""
    torch.manual_seed(0)
    network = Tied()
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name not in dropped}
    torch.save(prefixed("model.", tensors), tmp_path / "net.pt")
    got = fitted(load(str(tmp_path / "net.pt")), Tied())
    assert list(got.stack.tensors) == ["embedding.weight", "decoder.bias"]
    assert torch.equal(got.stack["embedding.weight"][0], network.embedding.weight)


def test_tied_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
    tensors["decoder.weight"] += 1
    torch.save(tensors, tmp_path / "net.pt")
    with pytest.raises(Mismatch, match=r"decoder\.weight and embedding\.weight differ, but .* ties them to be one"):
        fitted(load(str(tmp_path / "net.pt")), Tied())
    tensors["decoder.weight"] = tensors["embedding.weight"].fill_(float("nan")).clone()
    torch.save(tensors, tmp_path / "net.pt")
    with pytest.raises(LandscapeError, match=r"NaN or infinite, first net in embedding\.weight: leave that file out"):
        fitted(load(str(tmp_path / "net.pt")), Tied()).require_finite()


@pytest.mark.parametrize("counter", [True, False])
def test_batch_norm_with_and_without_its_counter(tmp_path: Path, counter: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network(torch.randn(8, 3))
    tensors = network.state_dict()
    if not counter:
        del tensors["1.num_batches_tracked"]
    torch.save(prefixed("net.", tensors), tmp_path / "net.pt")
    stack = fitted(load(str(tmp_path / "net.pt")), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).stack
    assert list(stack.tensors) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert torch.equal(stack.buffers["1.running_var"][0], network[1].running_var)  # type: ignore[arg-type]
    assert stack.buffers["1.num_batches_tracked"].tolist() == [int(counter)]
    tensors["1.running_var"][2] = float("inf")
    torch.save(tensors, tmp_path / "net.pt")
    with pytest.raises(LandscapeError, match=r"NaN or infinite, first net in 1\.running_var: leave that file out"):
        fitted(load(str(tmp_path / "net.pt")), network).require_finite()


@pytest.mark.parametrize("kinds", [[torch.bfloat16], [torch.float16], [torch.float64], [torch.bfloat16, torch.float16]])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_other_precisions_are_evaluated_in_float32(
    tmp_path: Path, squares: Callable[..., Objective], kinds: list[torch.dtype], ending: str
) -> None:
    """The loss is that of the plain module with the same weights in float32."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    tensors = {name: t.to(kinds[i % len(kinds)]) for i, (name, t) in enumerate(network.state_dict().items())}
    path = tmp_path / f"net{ending}"
    if ending == ".pt":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    stack = fitted(load(str(path)), network).stack
    assert {tensor.dtype for tensor in stack.tensors.values()} == set(kinds)

    inputs, targets = torch.randn(32, 3), torch.randn(32, 2)
    objective = squares(network, inputs, targets)
    network.load_state_dict(tensors)
    wanted = (network(inputs) - targets).square().sum(1).mean()
    assert objective(stack)["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2, 3, dtype=torch.int8), "bias": torch.ones(2)}
    torch.save(tensors, tmp_path / "net.pt")
    with pytest.raises(Mismatch, match=r"weight hold whole numbers, the network's are real: convert them first"):
        fitted(load(str(tmp_path / "net.pt")), nn.Linear(3, 2))


@given(names=st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
def test_a_leading_attribute_is_common_to_all_names(names: list[str]) -> None:
    for prefix in leading(names):
        rest = [name.removeprefix(prefix) for name in names]
        assert prefix.endswith(".")
        assert all(rest)
        assert [prefix + name for name in rest] == names


def test_an_empty_tensor_is_finite(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(0, 3), "b": torch.tensor(1.0)}, tmp_path / "net.pt")
    load(str(tmp_path / "net.pt")).require_finite()


# The program ----------------------------------------------------------------------------------------------------------


def test_remarks_reach_the_user_once(landscape: Program, plain: Tensors) -> None:
    torch.save(lightning(prefixed("model.", plain)), "a.ckpt")
    torch.save(prefixed("module.", plain), "b.pt")
    walked = landscape("walk", "--from", "a.ckpt", "--to", "a.ckpt", "--problem", "life", "--points", 3)
    said = "a.ckpt: all names begin with model. and fit the network without it"
    assert walked.exit_code == 0, walked.output
    assert walked.stderr.splitlines().count(said) == 1
    assert walked.stdout == "analyses/a.ckpt--a.ckpt.h5\n"
    wrapped = "all names begin with module. (DataParallel or DistributedDataParallel) and are read without it"
    for arguments in (
        ("info", "b.pt"),
        ("import", "b.pt", "--problem", "life"),
        ("analyse", "outcomes", "b.pt", "--problem", "life"),
    ):
        told = landscape(*arguments)
        assert told.exit_code == 0, told.output
        assert told.stderr.splitlines().count(f"b.pt: {wrapped}") == 1, arguments
        assert wrapped not in told.stdout
    assert landscape("info", "analyses/a.ckpt--a.ckpt.h5").stderr == ""
    log = logging.getLogger("landscape")
    assert (log.handlers, log.level) == ([], logging.NOTSET)


def test_an_import_takes_the_attribute_off(landscape: Program, plain: Tensors) -> None:
    for number in range(3):
        torch.save(lightning(prefixed("model.", plain)), f"{number}.ckpt")
    result = landscape("import", "0.ckpt", "1.ckpt", "2.ckpt", "--problem", "life", "-o", "run")
    assert result.exit_code == 0, result.output
    remark = "all names begin with model. and fit the problem without it"
    assert result.stderr.splitlines()[0] == f"3 files, 0.ckpt first: {remark}"
    run = Run.open(Path("run"))
    assert run.imported is not None
    assert run.imported["reading"] == [remark]
    assert same(run.checkpoint().stack.state_dict(2), plain)


def test_info_says_what_a_checkpoint_is(landscape: Program, plain: Tensors) -> None:
    shards(Path("model"), plain, 2)
    found = json.loads(landscape("info", "model", "--json").stdout)
    assert (found["kind"], found["members"], found["parameters"]) == ("checkpoint in the Hugging Face layout", 1, 25)
    names = list(plain)
    torch.save({name: plain[name].half() if name == names[0] else plain[name] for name in names}, "net.pt")
    assert json.loads(landscape("info", "net.pt", "--json").stdout)["dtype"] == "float16, float32"
    Path("gone.pt").symlink_to("nowhere")
    assert "Error: gone.pt is a link to a file that is not there" in landscape("info", "gone.pt").stderr


def test_stacks_are_renamed_with_their_buffers() -> None:
    stack = Stack({"a.w": torch.zeros(2, 1)}, {"a.b": torch.ones(2, 1)})
    renamed = stack.rename(lambda name: name.removeprefix("a."))
    assert (list(renamed.tensors), list(renamed.buffers)) == (["w"], ["b"])


# Large files ----------------------------------------------------------------------------------------------------------


def line_of_files(tmp_path: Path) -> tuple[landscape.Problem, list[Path]]:
    """A problem, and two checkpoints of it as safetensors."""
    x = torch.linspace(-1, 1, 30).reshape(10, 3)
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        safetensors.torch.save_file(nn.Linear(3, 3).state_dict(), file)
    return landscape.Problem.from_model(nn.Linear(3, 3), (x, x.sin()), "mse"), files


def changed(file: Path) -> None:
    """Other numbers in the same place, as a training that goes on writes them."""
    tensors = {name: tensor + 1 for name, tensor in safetensors.torch.load_file(file).items()}
    written = safetensors.torch.save(tensors)
    with file.open("r+b") as there:
        there.write(written)


def test_small_files_are_read_and_large_ones_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, (a, b) = line_of_files(tmp_path)
    loaded = load(a)
    before = loaded.stack["weight"].clone()
    changed(a)
    assert torch.equal(loaded.stack["weight"], before), "what is read stays"
    assert loaded.mapped == ()
    monkeypatch.setattr(formats, "MAPPED_BYTES", 1)
    assert [stamp.path for stamp in load(a).mapped] == [a]
    mapped = landscape.walk(a, b, problem=problem, points=3)
    monkeypatch.undo()
    assert mapped["loss"].tobytes() == landscape.walk(a, b, problem=problem, points=3)["loss"].tobytes()


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("how", ["written over", "removed"])
def test_a_mapped_file_that_changes_under_a_walk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, how: str
) -> None:
    monkeypatch.setattr(formats, "MAPPED_BYTES", 1)
    problem, files = line_of_files(tmp_path)
    ends = [load(file) for file in files]
    if how == "removed":
        files[1].unlink()
    else:
        time = files[1].stat().st_mtime_ns
        changed(files[1])
        os.utime(files[1], ns=(time + 1, time + 1))
    with pytest.raises(
        LandscapeError, match=r"b\.safetensors has changed while it was evaluated: begin again, with a c"
    ):
        landscape.walk(*ends, problem=problem, points=3, engine=engine)
    with pytest.raises(LandscapeError, match=r"b\.safetensors has changed"):
        landscape.plane(ends[1], problem=problem, points=3, engine=engine)


def test_a_change_between_two_points_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAPPED_BYTES", 1)
    problem, files = line_of_files(tmp_path)
    seen: list[int] = []

    def change(done: int, total: int) -> None:
        seen.append(done)
        changed(files[0])

    with pytest.raises(LandscapeError, match=r"a\.safetensors has changed"):
        landscape.walk(*files, problem=problem, points=9, engine="plain", progress=change)
    assert seen[0] < 9


def test_each_shard_of_a_large_model_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAPPED_BYTES", 1)
    state = nn.Linear(3, 3).state_dict()
    shards = {name: f"model-0000{k}-of-00002.safetensors" for k, name in enumerate(state, start=1)}
    for name, file in shards.items():
        safetensors.torch.save_file({name: state[name]}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert sorted(stamp.path.name for stamp in load(tmp_path).mapped) == sorted(shards.values())
