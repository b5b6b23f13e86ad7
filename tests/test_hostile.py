"""Files that were made to do harm, or are odd: each verb that reads one ends in one line, soon, and takes no memory."""

import collections
import dataclasses
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from landscape.cli import main
from landscape.core.unfinished import Shards
from landscape.store.checkpoints import _digest, read_tensors, write_tensors
from landscape.store.formats import write_safetensors
from landscape.store.hdf5 import seal
from landscape.store.results import Result

Make = Callable[[Path], object]

#: Seconds of the processor and bytes that one refusal takes at most, the import of modules aside.
SECONDS, BYTES = 2.0, 200 * 2**20
#: As long as checks at run time and a busy machine make it.
SLACK = 1.0 if os.environ.get("LANDSCAPE_UNCHECKED") else 30.0  # checks at every call


def resident(key: str) -> int:
    """Bytes of memory of this process now (VmRSS), or at most since it was asked to begin anew (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def call(*arguments: str | Path) -> tuple[int, list[str], str]:
    """Exit status, lines on stderr and all of stdout of a command that may not hang, nor fail but by a line."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"{arguments} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    try:
        found = CliRunner().invoke(main, list(map(str, arguments)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if not isinstance(found.exception, SystemExit | None):
        raise AssertionError(f"{arguments}: {found.exception!r}") from found.exception
    assert "unexpected" not in found.stderr, found.stderr
    return found.exit_code, found.stderr.splitlines(), found.stdout


def refused(*arguments: str | Path, words: str = "") -> str:
    """The one line in which a command ends with status 1 or 2, within its time and memory."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    held, started = resident("VmRSS"), time.process_time()
    status, lines, out = call(*arguments)
    seconds, grown = time.process_time() - started, resident("VmHWM") - held
    assert (status in (1, 2), out) == (True, ""), (arguments, status, lines, out)
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, lines
    assert len(errors[0]) < 1000
    assert errors[0].isprintable()
    assert words in errors[0], errors[0]
    assert seconds < SLACK * SECONDS, (arguments, seconds)
    assert grown < BYTES, (arguments, grown)
    return errors[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small artefact of each kind."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = ("--batches", "3", "--batch-size", "8", "--seeds", "0:2", "--save-at", "0")
        for arguments in (
            ("train", "functions", *short, "-o", "run"),
            ("sweep", "functions", *short[:6], "--grid", "lr=0.1,0.01", "-o", "swept"),
            ("walk", "--from", "run/@0", "--to", "run", "--points", "3", "-o", "line.h5"),
            ("plane", "--at", "run/#0", "--points", "2", "-o", "plane.h5"),
            ("average", "run/#0", "run/#1", "-o", "one.safetensors"),
            ("plot", "walk", "line.h5"),  # imports what figures need
            ("analyse", "outcomes", "run"),
        ):
            status, lines, _ = call(*arguments)
            assert status == 0, lines
    return folder


@pytest.fixture
def sound(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sound"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


#: Commands that read a file of each kind, in place of FILE.
VERBS: dict[str, list[tuple[str, ...]]] = {
    "checkpoint": [
        ("info", "FILE"),
        ("walk", "--from", "FILE", "--to", "run/#0", "--points", "2", "-o", "new.h5"),
        ("plane", "--at", "FILE", "--problem", "functions", "--points", "2", "-o", "new.h5"),
        ("import", "FILE", "--problem", "functions", "-o", "new"),
        ("average", "FILE", "run/#0", "-o", "new.safetensors"),
        ("analyse", "outcomes", "FILE", "--problem", "functions"),
        ("polish", "FILE", "--problem", "functions", "--steps", "10", "-o", "new"),
    ],
    "result": [
        ("info", "FILE"),
        ("analyse", "barriers", "FILE"),
        ("analyse", "passes", "FILE"),
        ("plot", "walk", "FILE"),
        ("plot", "barriers", "FILE"),
        ("plot", "plane", "FILE"),
    ],
    "run": [
        ("info", "run"),
        ("walk", "--from", "run/@0", "--to", "run", "--points", "2", "-o", "new.h5"),
        ("plane", "--trajectory", "run/#0", "--points", "2", "-o", "new.h5"),
        ("analyse", "outcomes", "run"),
        ("plot", "outcomes", "run"),
        ("average", "run/#0", "run/#1", "-o", "new.safetensors"),
        ("polish", "run", "--steps", "10", "-o", "new"),
        ("train", "functions", "--start", "run/#0", "--batches", "1", "-o", "new"),
    ],
    "sweep": [("info", "swept"), ("analyse", "success", "swept"), ("plot", "success", "swept")],
}

# Pickles --------------------------------------------------------------------------------------------------------------


def archive(path: Path, pickled: bytes, *, packed: bool = False, declared: int = 0) -> None:
    """An archive as `torch.save` writes it, with any pickle in it, which may say that it has another size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/version", "3\n")
    if declared:
        content = path.read_bytes()
        path.write_bytes(content.replace(struct.pack("<I", len(pickled)), struct.pack("<I", declared)))


class Calls:
    """An object that a pickle makes by a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def itself() -> dict[str, Any]:
    whole: dict[str, Any] = {"weight": torch.zeros(2)}
    whole["model"] = whole
    return whole


def shared(levels: int = 60) -> dict[str, Any]:
    inner: dict[str, Any] = {"weight": torch.zeros(2)}
    for _ in range(levels):
        inner = {"model": inner, "net": inner, "more": inner}
    return inner


class Attributes:
    """A dictionary whose own methods are replaced."""

    def __reduce__(self) -> Any:
        return collections.OrderedDict, (), {"items": 3}


HUGE = torch.zeros(1).expand(10**10)
DEEP = 10**5

PICKLES: dict[str, Make] = {
    "holds itself": lambda path: torch.save(itself(), path),
    "holds itself, old format": lambda path: torch.save(itself(), path, _use_new_zipfile_serialization=False),
    "shared along many keys": lambda path: torch.save(shared(), path),
    "shared, old format": lambda path: torch.save(shared(), path, _use_new_zipfile_serialization=False),
    "lists in lists": lambda path: archive(path, b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."),
    "dictionaries in dictionaries": lambda path: archive(
        path, b"\x80\x02" + b"}X\x01\x00\x00\x00a" * DEEP + b"}" + b"s" * DEEP + b"."
    ),
    "tuples in tuples": lambda path: archive(path, b"\x80\x02)" + b"\x85" * DEEP + b"."),
    "a key of tuples in tuples": lambda path: archive(path, b"\x80\x02})" + b"\x85" * 10 * DEEP + b"K\x01s."),
    "ten million opcodes": lambda path: archive(path, b"\x80\x02" + b"N0" * 5_000_000 + b"}."),
    "ten million opcodes, old format": lambda path: path.write_bytes(b"\x80\x02" + b"N0" * 5_000_000 + b"}."),
    "ten million opcodes, packed": lambda path: archive(path, b"\x80\x02" + b"N0" * 5_000_000 + b"}.", packed=True),
    "inflates": lambda path: archive(path, bytes(2**28), packed=True),
    "says it inflates": lambda path: archive(path, b"\x80\x02}.", declared=2**31),
    "expanded tensor": lambda path: torch.save({"weight": HUGE}, path),
    "expanded tensor, old format": lambda path: torch.save(
        {"weight": HUGE}, path, _use_new_zipfile_serialization=False
    ),
    "many expanded tensors": lambda path: torch.save({f"w{i}": torch.zeros(1).expand(10**8) for i in range(9)}, path),
    "bytes without end": lambda path: torch.save({"weight": torch.zeros(2), "x": Calls(bytearray, 10**10)}, path),
    "counts an expanded tensor": lambda path: torch.save({"x": Calls(collections.Counter, HUGE)}, path),
    "a set of an expanded tensor": lambda path: torch.save({"x": Calls(set, HUGE)}, path),
    "a dictionary of an expanded tensor": lambda path: torch.save({"x": Calls(collections.OrderedDict, [HUGE])}, path),
    "a size of an expanded tensor": lambda path: torch.save({"x": Calls(torch.Size, HUGE)}, path),
    "a call through a call": lambda path: torch.save(
        {"x": Calls(torch._tensor._rebuild_from_type_v2, bytearray, bytearray, (10**10,), {})}, path
    ),
    "a large array": lambda path: torch.save({"x": Calls(np.ndarray, (10**5, 10**5))}, path),
    "a large tensor": lambda path: torch.save({"x": Calls(torch.Tensor, 10**5, 10**5)}, path),
    "a codec": lambda path: torch.save({"x": Calls(__import__("_codecs").encode, "a" * 10**5, "punycode")}, path),
    "a dictionary with attributes": lambda path: torch.save({"x": Attributes()}, path),
    "a call": lambda path: torch.save({"x": Calls(os.system, "touch sang")}, path),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "a plain pickle": lambda path: path.write_bytes(pickle.dumps({"x": Calls(os.system, "touch sang")})),
    "nothing": lambda path: path.touch(),
    "text": lambda path: path.write_text("weight\n" * 9),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_is_refused_in_a_line(sound: Path, name: str) -> None:
    PICKLES[name](sound / "theirs.pt")
    for verb in VERBS["checkpoint"] if "ten million" not in name else VERBS["checkpoint"][:2]:
        refused(*("theirs.pt" if word == "FILE" else word for word in verb), words="theirs.pt")
    assert not Path("sang").exists()
    assert not Path("new").exists()
    assert not Path("new.h5").exists()


def test_what_is_shared_a_little_and_tied_is_no_harm(sound: Path) -> None:
    tied = torch.zeros(4, 4)
    torch.save({"model": {"w": tied, "v": tied, "u": tied.expand(4, 4, 4)}, "ema": {"w": tied}}, "tied.pt")
    status, lines, out = call("info", "tied.pt")
    assert (status, "kind: checkpoint" in out) == (0, True), lines


# Safetensors ----------------------------------------------------------------------------------------------------------


def headed(path: Path, header: bytes, data: bytes = b"", *, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def tensor(begin: int, end: int, shape: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end], **more}


NESTED = "[" * DEEP + "]" * DEEP


def with_document(path: Path, document: str) -> None:
    path.write_bytes(save({"w": torch.zeros(1, 2)}, {"landscape": document}))


SAFETENSORS: dict[str, Make] = {
    "a nested document": lambda path: with_document(path, NESTED),
    "a nested field": lambda path: with_document(path, f'{{"sha256": "", "x": {NESTED}}}'),
    "a nested header": lambda path: headed(path, f'{{"w": {NESTED}}}'.encode()),
    "a list as a document": lambda path: with_document(path, '["sha256"]'),
    "no digest": lambda path: with_document(path, '{"schema": 1}'),
    "a digest that is a number": lambda path: with_document(path, '{"sha256": 3}'),
    "many small lists": lambda path: with_document(path, f'{{"sha256": "", "x": [{"[]," * 2_000_000}[]]}}'),
    "a header beyond the file": lambda path: headed(path, b"{}", length=2**60),
    "a header longer than the file": lambda path: headed(path, b"{}", length=3),
    "a header of zeros": lambda path: headed(path, bytes(100)),
    "a header of 40 MiB": lambda path: headed(path, b"{}" + b" " * 40 * 2**20),
    "tensors that overlap": lambda path: headed(
        path, json.dumps({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}).encode(), bytes(12)
    ),
    "a tensor beyond the file": lambda path: headed(path, json.dumps({"a": tensor(0, 4 * 10**10, [10**10])}).encode()),
    "a tensor of no size": lambda path: headed(path, json.dumps({"a": tensor(0, 8, [-1])}).encode(), bytes(8)),
    "a shape that overflows": lambda path: headed(path, json.dumps({"a": tensor(0, 8, [2**63, 4])}).encode(), bytes(8)),
    "a type that there is not": lambda path: headed(
        path, json.dumps({"a": {**tensor(0, 8, [2]), "dtype": "evil"}}).encode(), bytes(8)
    ),
    "metadata that is no text": lambda path: headed(path, b'{"__metadata__": {"landscape": {"a": 1}}}'),
    "no tensors": lambda path: headed(path, b"{}"),
    "nothing": lambda path: path.touch(),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused_in_a_line(sound: Path, name: str) -> None:
    SAFETENSORS[name](sound / "theirs.safetensors")
    for verb in VERBS["checkpoint"]:
        refused(*("theirs.safetensors" if word == "FILE" else word for word in verb), words="theirs.safetensors")


# Results --------------------------------------------------------------------------------------------------------------


def sealed(path: Path, change: Callable[[h5py.File], object]) -> None:
    """The sound result, changed by one who knows how results are sealed."""
    shutil.copy("line.h5", path)
    with h5py.File(path, "r+") as file:
        change(file)
    with path.open("r+b") as made:
        seal(made, "0" * 64)


def replaced(name: str, **how: Any) -> Callable[[h5py.File], object]:
    """A variable in place of the one of this name."""

    def change(file: h5py.File) -> None:
        axes = [] if file[name].is_scale else [dim[0] for dim in file[name].dims]
        del file[name]
        made = file.create_dataset(name, **how)
        for dim, axis in zip(made.dims, axes, strict=False):
            if len(axis) == made.shape[list(axes).index(axis)]:
                dim.attach_scale(axis)

    return change


def linked(name: str, link: Any) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return change


def cycle(file: h5py.File) -> None:
    linked("l1", h5py.SoftLink("/l2"))(file)
    linked("l2", h5py.SoftLink("/l1"))(file)


def virtual(file: h5py.File) -> None:
    del file["loss"]
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource("line.h5", "loss", (2, 3))
    file.create_virtual_dataset("loss", layout)


def about(**changes: Any) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        file.attrs["about"] = json.dumps({**json.loads(file.attrs["about"]), **changes})

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], object]:
    return lambda file: file.attrs.__setitem__(name, value)


RESULTS: dict[str, Callable[[h5py.File], object]] = {
    "an external link": linked("loss", h5py.ExternalLink("plane.h5", "loss")),
    "a soft link": linked("l1", h5py.SoftLink("/l2")),
    "soft links in a cycle": cycle,
    "a virtual variable": virtual,
    "values in another file": replaced("loss", shape=(2, 3), dtype="f8", external=[("line.h5", 0, 48)]),
    "10^15 elements": replaced("loss", shape=(10**8, 10**7), dtype="f8", chunks=(100, 100)),
    "10^15 lines": replaced("l1", shape=(10**15,), dtype="f8", chunks=(10**4,)),
    "4e8 elements that were never written": replaced("loss", shape=(4 * 10**8, 1), dtype="f8", chunks=(10**6, 1)),
    "4e7 zeros, packed": lambda file: file.create_dataset(
        "more", data=np.zeros(4 * 10**7), compression="gzip", chunks=(10**6,)
    ),
    "records": replaced("loss", data=np.zeros((2, 3), dtype=[("a", "f8"), ("b", "i4")])),
    "lists of any length": replaced("l1", shape=(2,), dtype=h5py.vlen_dtype(np.float64)),
    "references": replaced("l1", shape=(2,), dtype=h5py.ref_dtype),
    "raw bytes": replaced("l1", data=np.zeros(2, dtype="V8")),
    "texts where numbers should be": replaced("l1", data=["a", "b"]),
    "numbers where texts should be": replaced("source_label", data=np.zeros(4)),
    "complex numbers": replaced("loss", data=np.zeros((2, 3), dtype=np.complex128)),
    "a group": lambda file: file.create_group("evil"),
    "a named type": lambda file: file.__setitem__("evil", np.dtype("f8")),
    "another filter": replaced("loss", data=np.zeros((2, 3)), compression="lzf", chunks=(2, 3)),
    "two thousand variables": lambda file: [file.create_dataset(f"v{n}", data=0.0) for n in range(2000)],
    "a variable without axes": replaced("l1", data=1.0),
    "one line less": replaced("l1", data=np.zeros(1)),
    "no variable": lambda file: [file.__delitem__(name) for name in list(file)],
    "a nested document": attribute("about", NESTED[: 10**4] + NESTED[-(10**4) :]),
    "a document that is no JSON": attribute("about", "{"),
    "a document that is a number": attribute("about", 3.0),
    "a document that is a list": attribute("about", "[]"),
    "a kind that there is not": attribute("kind", "evil"),
    "a kind that is a number": attribute("kind", 3),
    "axes that are not there": attribute("axes", ["x", "evil"]),
    "axes that are a number": attribute("axes", 3),
    "a later schema": attribute("schema", 99),
    "a schema in words": attribute("schema", "one"),
    "no alpha 0": replaced("alpha", data=np.array([0.1, 0.5, 1.0])),
    "an alpha that is a text": replaced("alpha", data=["a", "b", "c"]),
    "a member that is not there": replaced("to_member", data=np.array([9, 99])),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_hostile_result_is_refused_in_a_line(sound: Path, name: str) -> None:
    sealed(sound / "theirs.h5", RESULTS[name])
    for verb in VERBS["result"]:
        refused(*("theirs.h5" if word == "FILE" else word for word in verb), words="theirs.h5")


def test_a_result_that_others_touched_is_told_from_a_damaged_one(sound: Path) -> None:
    before = call("info", "line.h5")[2]
    with h5py.File("line.h5", "r+") as file:
        file["loss"].attrs["note"] = "mine"
    status, lines, out = call("info", "line.h5")
    assert (status, out) == (0, before)
    assert lines == [
        "line.h5 was changed after it was written (attribute note of loss); its values are those that were written"
    ]
    with h5py.File("line.h5", "r+") as file:
        file["loss"][0, 1] += 1e-9
    refused("info", "line.h5", words="line.h5 is damaged: its bytes do not match their SHA-256")


def test_a_result_that_is_open_elsewhere_is_not_called_damaged(sound: Path) -> None:
    program = "import h5py, sys; f = h5py.File('line.h5', 'r+'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            refused("info", "line.h5", words="line.h5 is open elsewhere for writing")
        finally:
            other.communicate(b"")


# Documents ------------------------------------------------------------------------------------------------------------

ODD: list[Any] = [None, -1, 1e308, float("nan"), "x", [], {}, True]


def fields(document: Any, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a document, the first of the items of each list for all."""
    inside = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document[:1])
        if isinstance(document, list)
        else ()
    )
    for key, value in inside:
        yield (*above, key)
        yield from fields(value, *above, key)


def changed(text: str) -> Iterator[tuple[str, str]]:
    """A document without each of its fields, and with something odd in the place of each."""
    document = json.loads(text)
    document.pop("sha256", None)  # as one who knows how they are made would: older documents have none
    for place in fields(document):
        for odd in ["dropped", *ODD]:
            other = json.loads(json.dumps(document))
            inner = other
            for key in place[:-1]:
                inner = inner[key]
            if odd == "dropped":
                del inner[place[-1]]
            else:
                inner[place[-1]] = odd
            yield f"{'.'.join(map(str, place))} {odd}", json.dumps(other)


def told_or_done(*arguments: str) -> None:
    """A command that ends well, or in one line."""
    status, lines, _ = call(*arguments)
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == (status != 0), (arguments, status, lines)
    for made in ("new", "new.safetensors", "new.h5", "plots"):
        shutil.rmtree(made, ignore_errors=True)
        Path(made).unlink(missing_ok=True)


def documents(kind: str) -> tuple[Path, str, list[tuple[str, ...]]]:
    """The file of a document, what is in it, and the commands that read it."""
    if kind == "about":
        with h5py.File("line.h5") as file:
            return Path("theirs.h5"), file.attrs["about"], VERBS["result"]
    if kind == "plane":
        with h5py.File("plane.h5") as file:
            return Path("theirs.h5"), file.attrs["about"], VERBS["result"]
    path = Path({"run": "run/run.json", "sweep": "swept/sweep.json", "step": "run/step-00000003.safetensors"}[kind])
    if kind == "step":
        return path, json.dumps(read_tensors(path)[1]), VERBS["run"]
    return path, path.read_text(), VERBS[kind]


def written(kind: str, path: Path, text: str) -> None:
    """The artefact with another document, and the digests that its writer would have given it."""
    if kind in ("about", "plane"):
        shutil.copy("plane.h5" if kind == "plane" else "line.h5", path)
        with h5py.File(path, "r+") as file:
            file.attrs["about"] = text
        with path.open("r+b") as made:
            seal(made, "0" * 64)
    elif kind == "step":
        tensors, _ = read_tensors(Path("run/step-00000000.safetensors"))
        document = json.loads(text)
        write_safetensors(path, tensors, {"landscape": json.dumps({**document, "sha256": _digest(tensors, document)})})
    else:
        path.write_text(text)


@pytest.mark.parametrize("share", [pytest.param(25, id="some"), pytest.param(5, id="more", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["run", "sweep", "step", "about", "plane"])
def test_any_field_that_is_missing_or_odd_is_told_in_a_line(sound: Path, kind: str, share: int) -> None:
    path, text, verbs = documents(kind)
    wrong, number = [], -1
    for number, (what, document) in enumerate(changed(text)):
        if (number + len(kind)) % share:
            continue
        written(kind, path, document)
        for verb in dict.fromkeys([verbs[0], verbs[1 + number // share % (len(verbs) - 1)]]):
            try:
                told_or_done(*("theirs.h5" if word == "FILE" else word for word in verb))
            except AssertionError as error:
                if "TypeCheckError" not in str(error):  # run-time checks are first to see some of it
                    wrong.append((what, verb, str(error)[:300]))
    assert number > 100
    assert not wrong, "\n".join(map(str, wrong))


def test_any_change_of_a_document_is_noticed(sound: Path) -> None:
    """Its digest covers all that it says."""
    for path, verb in ((Path("run/run.json"), ("info", "run")), (Path("swept/sweep.json"), ("info", "swept"))):
        text = path.read_text()
        digest = json.loads(text)["sha256"]
        for what, other in changed(text):
            if json.loads(other) != {key: each for key, each in json.loads(text).items() if key != "sha256"}:
                path.write_text(json.dumps({**json.loads(other), "sha256": digest}))
                assert "is damaged" in refused(*verb) or "has schema" in refused(*verb), what
        path.write_text(json.dumps({key: each for key, each in json.loads(text).items() if key != "sha256"}))
        assert "sha256: none, as it was written before documents had one" in call(*verb)[2]


# What lies in place of a file -----------------------------------------------------------------------------------------


def in_a_circle(path: Path) -> None:
    path.symlink_to("back")
    path.with_name("back").symlink_to(path.name)


IN_PLACE: dict[str, tuple[Make, str]] = {
    "a pipe": (os.mkfifo, "is a pipe, no file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, no file"),
    "links in a circle": (in_a_circle, "is a link that leads back to itself"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is a link to a file that is not there"),
    "a directory": (Path.mkdir, "is a directory"),
    "a file of 2^41 holes": (lambda path: (path.touch(), os.truncate(path, 2**41)), "bytes, and at most"),
}

WALK = ("walk", "--from", "run/@0", "--to", "run", "--points", "3", "--engine", "plain")
TRAIN = ("train", "functions", "--batches", "3", "--batch-size", "8", "--seeds", "0:2", "--save-at", "0", "-o", "run")

#: Where it lies, and commands that would read it there.
ARTEFACTS: dict[str, list[tuple[str, ...]]] = {
    "run/run.json": VERBS["run"],
    "run/step-00000003.safetensors": VERBS["run"],
    "run/optimizer.safetensors": [("train", "functions", "--start", "run/#0", "--batches", "1", "-o", "new")],
    "run/resume.safetensors": [TRAIN],
    "swept/sweep.json": VERBS["sweep"],
    "swept/lr=0.1/run.json": [("analyse", "success", "swept")],
    "theirs.h5": [tuple("theirs.h5" if word == "FILE" else word for word in verb) for verb in VERBS["result"]],
    "theirs.pt": [tuple("theirs.pt" if word == "FILE" else word for word in verb) for verb in VERBS["checkpoint"]],
    "theirs.bin": [("info", "theirs.bin")],
    "theirs.ckpt": [("info", "theirs.ckpt")],
    "theirs.safetensors": [
        tuple("theirs.safetensors" if word == "FILE" else word for word in verb) for verb in VERBS["checkpoint"]
    ],
    "hub/model.safetensors.index.json": [("info", "hub")],
    "theirs.json": [("plot", "density", "theirs.json")],
    "theirs.toml": [(*WALK, "--config", "theirs.toml", "-o", "new.h5")],
    "new.h5.parts/plan.json": [(*WALK, "-o", "new.h5")],
    "new.h5.parts/lines-00000000.h5": [(*WALK, "-o", "new.h5")],
    "new.h5.parts/points-00000000.npz": [(*WALK, "-o", "new.h5")],
    "new.resume.safetensors": [("polish", "run", "--steps", "10", "-o", "new")],
}


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_what_is_no_file_is_called_what_it_is_wherever_it_lies(sound: Path, name: str, what: str) -> None:
    make, words = IN_PLACE[what]
    if name.startswith("new.h5.parts/") and name != "new.h5.parts/plan.json":
        interrupted(sound)
    path = Path(name)
    if path.name == "resume.safetensors":
        Path("run/step-00000003.safetensors").unlink()
    if path.exists():
        path.unlink()
    path.parent.mkdir(exist_ok=True)
    make(path)
    for verb in ARTEFACTS[name]:
        said = refused(*verb)
        assert words in said or (what == "a directory" and ("director" in said or "no checkpoints" in said)), said


def interrupted(folder: Path) -> None:
    """A walk of which nothing is done yet but its plan."""

    with pytest.MonkeyPatch.context() as patch:

        def stop(self: Shards[Any], plan: Any, go_on: Any, **_: Any) -> Any:
            self.begin(plan)
            raise KeyboardInterrupt

        patch.setattr(Shards, "gather", stop)
        CliRunner().invoke(main, [*WALK, "-o", "new.h5"])
    assert (folder / "new.h5.parts" / "plan.json").exists()


def bomb(path: Path, *, shape: tuple[int, ...] = (2**28,), pickled: bool = False) -> None:
    """An npz file whose array says it is large, or is a pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("loss.npy", "w") as member:
        if pickled:
            np.lib.format.write_array(member, np.array([Calls(os.system, "touch sang")], dtype=object))
        else:
            np.lib.format.write_array_header_1_0(member, {"shape": shape, "fortran_order": False, "descr": "<f8"})


@pytest.mark.parametrize(
    "make",
    [bomb, lambda path: bomb(path, shape=(2**62, 2**62)), lambda path: bomb(path, pickled=True), Path.touch,
     lambda path: path.write_bytes(b"PK\x03\x04"), lambda path: path.write_text("text")],
    ids=["large", "beyond all", "pickled", "empty", "cut", "text"],
)  # fmt: skip
def test_hostile_points_of_unfinished_work_are_refused(sound: Path, make: Make) -> None:
    interrupted(sound)
    make(Path("new.h5.parts/points-00000000.npz"))
    refused(*WALK, "-o", "new.h5", words="points-00000000.npz is damaged")
    assert not Path("sang").exists()


DOCUMENTS = {
    "nested": NESTED,
    "nested objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "many lists": "[" + "[]," * 3_000_000 + "[]]",
    "no UTF-8": b'{"schema": 1, "a": "\xff\xfe"}',
    "a number of a million digits": '{"schema": ' + "9" * 10**6 + "}",
    "too large": " " * 17 * 2**20 + "{}",
    "zeros": bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("what", DOCUMENTS)
@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("run/run.json", ("info", "run")),
        ("swept/sweep.json", ("info", "swept")),
        ("new.h5.parts/plan.json", (*WALK, "-o", "new.h5")),
        ("hub/model.safetensors.index.json", ("info", "hub")),
        ("theirs.json", ("plot", "density", "theirs.json")),
        ("theirs.toml", (*WALK, "--config", "theirs.toml", "-o", "new.h5")),
    ],
)
def test_hostile_documents_are_refused(sound: Path, name: str, verb: tuple[str, ...], what: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    content = DOCUMENTS[what]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if (what, name) == ("nothing", "theirs.toml"):
        return  # a file without options is one
    refused(*verb, words=Path(name).name)


def test_a_toml_file_cannot_nest_deeply(sound: Path) -> None:
    for text in ("a = " + NESTED, "a." * DEEP + "b = 1", "a = " + "{a = " * DEEP + "1" + "}" * DEEP):
        Path("theirs.toml").write_text(text)
        refused(*WALK, "--config", "theirs.toml", "-o", "new.h5", words="theirs.toml")


def test_lines_of_a_log_that_are_no_text_are_left_out(sound: Path) -> None:
    Path("run/step-00000003.safetensors").unlink()

    tensors, _ = read_tensors(Path("run/optimizer.safetensors"))
    first, _ = read_tensors(Path("run/step-00000000.safetensors"))
    flat = torch.cat([each.flatten(1) for each in first.values()], 1)
    write_tensors(Path("run/resume.safetensors"), {"parameters": flat, **tensors}, {"kind": "resume", "step": 2})
    good = Path("run/log.jsonl").read_bytes().splitlines()[0]
    odd = [b"\xff\xfe", NESTED.encode(), b'{"step": 1e999}', b'{"step": "x"}', b"[]", b"3"]
    Path("run/log.jsonl").write_bytes(b"\n".join([good, *odd]))
    status, lines, _ = call(*TRAIN)
    assert status == 0, lines
    assert Path("run/log.jsonl").read_bytes().splitlines()[0] == good
    assert [json.loads(line)["step"] for line in Path("run/log.jsonl").read_text().splitlines()] == [0, 2]


def test_limits_can_be_raised_and_are_named(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_MAX_BYTES", "1K")
    said = refused("info", "run/step-00000003.safetensors", words="bytes, and at most 1,024 are read")
    assert "landscape --max-bytes 1G, or LANDSCAPE_MAX_BYTES" in said
    assert call("--max-bytes", "1G", "info", "run/step-00000003.safetensors")[0] == 0
    assert os.environ["LANDSCAPE_MAX_BYTES"] == "1K"  # as it was
    refused("--max-bytes", "0", "info", "run", words="is '0': write a number")
    monkeypatch.setenv("LANDSCAPE_MAX_BYTES", "1 G i B")
    refused("info", "run", words="LANDSCAPE_MAX_BYTES, is '1 G i B': write a number, such as 200G")
    for written in ("200G", "1T", "100000000000", "128GiB"):
        monkeypatch.setenv("LANDSCAPE_MAX_BYTES", written)
        assert call("info", "run/step-00000003.safetensors")[0] == 0


# Texts ----------------------------------------------------------------------------------------------------------------

TEXTS = [
    r"$\frac$",
    "$x",
    "a\x1b[2Jb",
    "\x1b]0;title\x07",
    "a\nError: b",
    "\x00",
    "\u202egnp",
    "\udcff",
    "\x9b31m",
    "%s {0}",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_of_files_neither_steer_terminals_nor_break_figures(sound: Path, text: str) -> None:
    for name in ("line.h5", "plane.h5"):
        found = Result.read(name)
        told = {**found.about, "title": text, "from": text, "loss_unit": text, "odd " + text: text}
        sources = [dataclasses.replace(each, label=text) for each in found.sources]
        marks = [dataclasses.replace(each, name=text) for each in found.marks]
        dataclasses.replace(found, about=told, sources=sources, marks=marks).save(name, overwrite=True)
    for verb in (
        ("info", "line.h5"),
        ("analyse", "barriers", "line.h5"),
        ("plot", "walk", "line.h5", "--force"),
        ("plot", "barriers", "line.h5"),
        ("plot", "plane", "plane.h5"),
    ):
        status, lines, out = call(*verb)
        assert status == 0, (verb, lines)
        for line in (*lines, *out.split("\n")):
            assert line.isprintable(), (verb, line)
    for drawn in Path("plots").glob("*.svg"):
        ElementTree.fromstring(drawn.read_text())
        assert "\x1b" not in drawn.read_text()


@pytest.mark.parametrize("name", [b"a\xff.pt", b"a\x1b[2J.pt", b"a$\\frac$.pt", b"a\nb.pt"], ids=ascii)
def test_names_of_files_may_have_any_bytes(sound: Path, name: bytes) -> None:
    place = os.fsdecode(name)
    shutil.copy("one.safetensors", place.replace(".pt", ".safetensors"))
    place = place.replace(".pt", ".safetensors")
    for verb in (
        ("info", place),
        ("walk", "--from", place, "--to", "run/#0", "--points", "2", "-o", "new.h5"),
        ("info", "new.h5"),
        ("analyse", "barriers", "new.h5"),
        ("plot", "walk", "new.h5"),
    ):
        status, lines, out = call(*verb)
        assert status == 0, (verb, lines)
        assert all(line.isprintable() for line in (*lines, *out.split("\n"))), (verb, out)
    Path(place).write_bytes(b"no checkpoint")
    refused("info", place)
