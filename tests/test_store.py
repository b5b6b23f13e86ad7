"""Checkpoints on disk: what is written is read again, what is damaged is refused, what is foreign is understood."""

import errno
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.files import replacing, write_json
from landscape.core.reading import read_json
from landscape.problems.life import Life
from landscape.store.checkpoints import (
    Run,
    fitted,
    load,
    read_tensors,
    unfinished,
    write_tensors,
)
from landscape.store.formats import read_state_dict
from landscape.training.sweep import sweep
from landscape.training.train import Training, train


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal names in equal order, types, shapes and bytes."""
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(one.values(), other.values(), strict=True)
    )


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    arrays=st.dictionaries(st.text("abc.0", min_size=1), ARRAYS, min_size=1, max_size=4),
    document=st.dictionaries(st.text("xyz"), JSON, max_size=3),
)
def test_round_trip(tmp_path: Path, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    sha = write_tensors(tmp_path / "x.safetensors", tensors, document)
    got, header = read_tensors(tmp_path / "x.safetensors")
    assert same(got, tensors)
    assert header == {**document, "schema": 1, "names": list(arrays), "sha256": sha}


def test_views_of_one_tensor_are_kept_apart(tmp_path: Path) -> None:
    """A stack of one member holds contiguous views of its flat parameters."""
    flat = torch.arange(6.0)[None]
    views = {"b": flat[:, 4:], "a": flat[:, :4].view(1, 2, 2).mT}
    write_tensors(tmp_path / "x.safetensors", views, {})
    assert same(read_tensors(tmp_path / "x.safetensors")[0], {k: v.contiguous() for k, v in views.items()})


# ----------------------------------------------------------------------------------------------------------------------


def refused_or_identical(path: Path, content: bytes, wanted: Any) -> bool:
    path.write_bytes(content)
    try:
        got = load(str(path))
    except Exception as error:
        return isinstance(error, DamagedFile)
    return (
        same(dict(got.stack.tensors), dict(wanted.stack.tensors))
        and [(s.step, s.seed, s.digest) for s in got.sources] == [(s.step, s.seed, s.digest) for s in wanted.sources]
        and got.problem == wanted.problem
    )


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path, run: Run, flip: int) -> None:
    content = run.checkpoint_path(20).read_bytes()
    wanted = load(f"{run.path}/@20")
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), *range(header, len(content), 97)]
    damaged = tmp_path / "step-00000020.safetensors"
    missed = []
    for place in places:
        changed = bytearray(content)
        changed[place] ^= flip
        if not refused_or_identical(damaged, bytes(changed), wanted):
            missed.append(place)
    assert not missed, [content[max(0, place - 20) : place + 8] for place in missed[:5]]


def test_nor_does_a_truncated_file(tmp_path: Path, run: Run) -> None:
    content = run.checkpoint_path(20).read_bytes()
    for length in [*range(0, len(content), 61), len(content) - 1]:
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"cut\.safetensors is damaged"):
            load(str(tmp_path / "cut.safetensors"))


def test_members_are_chosen_with_their_sources(run: Run) -> None:
    """In the order asked for, also twice; by a numpy index, as studies make them."""
    whole = run.checkpoint()
    chosen = whole.select(np.array([1, 0, 1]))
    assert [source.seed for source in chosen.sources] == [whole.sources[k].seed for k in (1, 0, 1)]
    assert chosen.stack.flatten().equal(whole.stack.flatten()[[1, 0, 1]])
    assert [one.sources for one in whole.members()] == [(source,) for source in whole.sources]


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("landscape.store.checkpoints.SCHEMA", 2)
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(Unsupported, match="has schema 2, this version reads 1: update landscape"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "disk full"), LandscapeError), (None, None)],
)
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, failure: BaseException | None, seen: Any) -> None:
    target = tmp_path / "x"
    target.write_text("old")

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("new")
            if failure:
                raise failure

    with target.open() as reader:
        if failure:
            with pytest.raises(seen, match="cannot write .*disk full" if seen is LandscapeError else None):
                write()
        else:
            write()
        assert reader.read() == "old"  # who has it open keeps what is whole
    assert target.read_text() == ("old" if failure else "new")
    assert os.listdir(tmp_path) == ["x"]


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Life().network().state_dict()


@pytest.mark.parametrize("refusing", ["open", "fsync"])
def test_a_system_that_syncs_no_folders_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    """Windows opens no folder; some file systems open one and do not sync it."""
    folders: set[int] = set()
    really_open, really_sync = os.open, os.fsync

    def open_(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if Path(path).is_dir() and refusing == "open":
            raise PermissionError(errno.EACCES, "Permission denied")
        descriptor = really_open(path, flags, *more, **options)
        if Path(path).is_dir():
            folders.add(descriptor)
        return descriptor

    def sync(descriptor: int) -> None:
        if descriptor in folders:
            raise OSError(code, os.strerror(code))
        really_sync(descriptor)

    code = errno.EINVAL
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", sync)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    code = errno.EIO
    if refusing == "fsync":
        with pytest.raises(LandscapeError, match=r"cannot write .*b\.json: Input/output error"):
            write_json(tmp_path / "b.json", {})


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pyt", ".ckpt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_foreign_checkpoints(
    tmp_path: Path, plain: dict[str, Tensor], ending: str, wrapper: str | None, prefix: str
) -> None:
    named = {prefix + name: tensor for name, tensor in plain.items()}
    path = tmp_path / f"net{ending}"
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, path)
    assert same(dict(read_state_dict(path).tensors), plain)
    checkpoint = load(str(path))
    assert same(checkpoint.stack.state_dict(0), plain)
    assert (len(checkpoint.stack), checkpoint.problem, checkpoint.sources[0].label) == (1, None, "net")
    assert same(fitted(checkpoint, Life().network()).stack.state_dict(0), plain)


def test_foreign_safetensors(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(plain, tmp_path / "net.safetensors")
    checkpoint = load(str(tmp_path / "net.safetensors"))
    assert same(fitted(checkpoint, Life().network()).stack.state_dict(0), plain)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_half_precision_and_trainable_tensors_load(tmp_path: Path, ending: str) -> None:
    tensors = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.nn.Parameter(torch.ones(3))}
    if ending == ".pt":
        torch.save(tensors, tmp_path / "net.pt")
    else:
        safetensors.torch.save_file({k: v.detach() for k, v in tensors.items()}, tmp_path / "net.safetensors")
    stack = load(str(tmp_path / f"net{ending}")).stack
    assert {name: stack[name].double().sum().item() for name in "ab"} == {"a": 2.0, "b": 3.0}


def test_the_studys_checkpoints(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    optimizer = torch.optim.Adam(Life().network().parameters())
    document = {
        "model_dict": plain,
        "optim_dict": optimizer.state_dict(),
        "py_random_state": random.getstate(),
        "np_random_state": np.random.get_state(),  # noqa: NPY002
        "torch_rng_state": torch.get_rng_state(),
    }
    torch.save(document, tmp_path / "net.pyt")
    assert same(dict(read_state_dict(tmp_path / "net.pyt").tensors), plain)


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    torch.save({"state_dict": plain, "extra": Malicious()}, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match=r"refused: its pickle wants to run \w+\.system; save model\.state_dict"):
        load(str(tmp_path / "net.pt"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_pickle_is_damaged(tmp_path: Path, plain: dict[str, Tensor], share: float) -> None:
    torch.save(plain, tmp_path / "net.pt")
    content = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedFile, match=r"net\.pt is damaged"):
        load(str(tmp_path / "net.pt"))


@pytest.mark.parametrize("found", [{"epoch": 3}, {}, [1], {"state_dict": {"a": 3}}])
def test_what_holds_no_state_dict(tmp_path: Path, found: Any) -> None:
    torch.save(found, tmp_path / "net.pt")
    with pytest.raises(Unsupported, match="holds no state dict"):
        load(str(tmp_path / "net.pt"))


# ----------------------------------------------------------------------------------------------------------------------


def test_places_in_a_run(run: Run) -> None:
    for place, step, seeds in (
        (f"{run.path}", 60, range(24)),
        (f"{run.path}/", 60, range(24)),
        (f"{run.path}/@20", 20, range(24)),
        (f"{run.path}/#7", 60, [7]),
        (f"{run.path}#7", 60, [7]),
        (f"{run.path}/@0#23", 0, [23]),
        (f"{run.checkpoint_path(20)}", 20, range(24)),
        (f"{run.checkpoint_path(20)}#5", 20, [5]),
    ):
        got = load(place)
        assert [(s.step, s.seed) for s in got.sources] == [(step, seed) for seed in seeds], place
        assert same(dict(got.stack.tensors), dict(run.checkpoint(step).stack.select(list(seeds)).tensors)), place
        assert got.problem == run.problem == ("life", Life().config())


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/@21", r"has no checkpoint of step 21; it has 0, 20, 60"),
        ("/#24", r"has no member with seed 24; it has seeds 0 to 23"),
        ("/#-1", r"has no member with seed -1; it has seeds 0 to 23"),
        ("/step-00000020.safetensors/@20", r"is a single checkpoint file and has no steps"),
        ("/nowhere", r"nowhere does not exist: give a landmark, a run directory"),
    ],
)
def test_places_that_are_not_there(run: Run, place: str, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        load(f"{run.path}{place}")


def test_a_folder_of_state_dicts_in_the_order_of_names(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    for name, factor in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        torch.save({key: factor * tensor for key, tensor in plain.items()}, tmp_path / f"{name}.pt")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    checkpoint = load(str(tmp_path))
    assert [source.label for source in checkpoint.sources] == ["a", "b", "c"]
    for i in range(3):
        assert same(checkpoint.stack.state_dict(i), {key: (i + 1.0) * tensor for key, tensor in plain.items()})
    with pytest.raises(LandscapeError, match="folder of state dicts, no run: it has no steps"):
        load(f"{tmp_path}/@3")
    with pytest.raises(LandscapeError, match="its members have no known seeds"):
        load(f"{tmp_path}/#3")
    torch.save({"other": torch.zeros(1)}, tmp_path / "d.pt")
    with pytest.raises(Mismatch, match=r"a\.pt and .*d\.pt are of different architectures"):
        load(str(tmp_path))


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"is no run .* and holds no checkpoints"):
        load(str(tmp_path))


def test_an_empty_run(tmp_path: Path, run: Run) -> None:
    shutil.copy(run.path / "run.json", tmp_path)
    with pytest.raises(LandscapeError, match="is an empty run, it has no checkpoint yet"):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "\xff", "{}", "[]", "[1]", "5", "null", '"text"', '{"schema": 1}'])
def test_a_damaged_run_json(tmp_path: Path, run: Run, text: str) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFile, match=r"run\.json is damaged"):
        load(str(tmp_path / "run"))


def test_a_run_of_another_schema(tmp_path: Path, run: Run) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**run.document, "schema": 7}))
    with pytest.raises(Unsupported, match="has schema 7, this version reads 1"):
        load(str(tmp_path))


def test_members_that_are_not_finite_are_named(run: Run) -> None:
    checkpoint = run.checkpoint()
    checkpoint.require_finite()
    checkpoint.stack["net.0.2.bias"][3] = float("nan")
    checkpoint.stack["net.0.4.weight"][5] = float("inf")
    with pytest.raises(LandscapeError, match=r"2 of 24 members .* NaN or infinite, first seed 3 in net\.0\.2\.bias"):
        checkpoint.require_finite()


def test_another_architecture_is_refused_by_name(run: Run) -> None:
    wide = Life(m_factor=2).network()
    with pytest.raises(Mismatch, match=r": net\.0\.0\.weight has shape \[2, 1, 3, 3\] where the network .*4, 1"):
        fitted(run.checkpoint(), wide)


def test_a_run_still_in_training_is_told(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    path = tmp_path / "run"
    training = Training(batches=5, save_at=(0, 2))
    with pytest.raises(KeyboardInterrupt):
        train(Life(), training, path, seeds=[0], progress=stop)
    assert unfinished(f"{path}#0") == f"{path} is not finished: this is its step 2 of 5"
    assert unfinished(f"{path}/@2") == ""
    train(Life(), training, path, seeds=[0])
    assert unfinished(str(path)) == ""


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LandscapeError, match=r"cannot write .*a\.safetensors: No space left on device"):
        write_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_no_run(tmp_path: Path) -> None:
    done = sweep("life", tmp_path / "sweep", grid={"m_factor": [1]}, training={"batches": 1}, seeds=[0])
    with pytest.raises(LandscapeError, match=r"is a sweep, a directory of runs: name one of its cells, such as .*=1"):
        load(str(done.path))


def test_a_folder_of_others_is_left_as_it_is_by_what_makes_runs(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "log.jsonl").write_text("my only notes")
    for overwrite in (False, True):
        with (
            pytest.raises(LandscapeError, match="exists and is no run"),
            Run.made(tmp_path / "mine", overwrite=overwrite),
        ):
            raise AssertionError("never")
        assert (tmp_path / "mine" / "log.jsonl").read_text() == "my only notes"
        assert len(list((tmp_path / "mine").iterdir())) == 1


def test_many_seeds_that_follow_one_another_take_no_room_in_documents(tmp_path: Path) -> None:
    seeds = range(7, 5007)
    run = train("life", {"batches": 1}, tmp_path / "run", seeds=seeds)
    text = (tmp_path / "run" / "run.json").read_text()
    assert json.loads(text)["seeds"] == {"first": 7, "count": 5000}
    assert len(text) < 4000
    again = Run.open(tmp_path / "run")
    assert again.seeds == list(seeds)
    assert again.digest == run.digest
    assert [source.seed for source in load(tmp_path / "run").sources] == list(seeds)
    assert load(f"{tmp_path / 'run'}/#4000").sources[0].seed == 4000
    with pytest.raises(LandscapeError, match="is finished"):
        train("life", {"batches": 1}, tmp_path / "run", seeds=seeds)
    document = json.loads(text)
    for count in (0, -1, 10**15):
        document["seeds"] = {"first": 7, "count": count}
        document.pop("sha256", None)
        (tmp_path / "run" / "run.json").write_text(json.dumps(document))
        with pytest.raises(DamagedFile, match=rf"seeds are {count}, and a run has 1 to"):
            Run.open(tmp_path / "run")


def test_many_seeds_with_gaps_are_written_one_by_one(tmp_path: Path) -> None:
    seeds = [*range(1500), 1501]
    train("life", {"batches": 1}, tmp_path / "run", seeds=seeds)
    assert Run.open(tmp_path / "run").seeds == seeds
    assert [source.seed for source in load(tmp_path / "run").sources] == seeds
