"""Curves and their file: what is written is read again, by others too, and what is damaged is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import jaxtyping
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.provenance import Source
from landscape.store.results import Result, join

NUMBERS = st.floats(width=64, allow_nan=True, allow_infinity=True)
#: HDF5's strings hold no NUL, and UTF-8 no lone surrogates.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NATURAL = st.none() | st.integers(0, 2**63 - 1)


def make(lines: int = 3, points: int = 5, **changes: Any) -> Result:
    rng = np.random.default_rng(0)
    fields = {
        "alpha": np.linspace(0, 1, points),
        "values": {"loss": rng.random((lines, points)), "accuracy": rng.random((lines, points))},
        "done": np.ones(lines, dtype=bool),
        "l1": rng.random(lines),
        "l2": rng.random(lines),
        "from_member": np.zeros(lines, dtype=np.int64),
        "to_member": np.arange(lines) + 1,
        "sources": tuple(Source("run", 60, i, "ab" * 32, f"seed {i}") for i in range(lines + 1)),
        "attributes": {"problem": {"name": "life"}, "threads": 2},
    }
    return Result(**(fields | changes))


def same(one: Result, other: Result) -> bool:
    """Every array bit for bit, and all else."""
    a, b = ({**c.values, **{f.name: getattr(c, f.name) for f in dataclasses.fields(c)}} for c in (one, other))
    arrays = all(
        x.dtype == b[name].dtype and x.shape == b[name].shape and x.tobytes() == b[name].tobytes()
        for name, x in a.items()
        if isinstance(x, np.ndarray)
    )
    return arrays and list(one.sources) == list(other.sources) and one.about == other.about


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    lines, inner, members = draw(st.integers(0, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 3))

    def array(kind: Any, shape: int | tuple[int, int], elements: Any) -> np.ndarray:
        return draw(hnp.arrays(kind, shape, elements=elements))

    between = draw(st.lists(st.floats(0.01, 0.99), min_size=inner, max_size=inner, unique=True))
    points = inner + 2
    return {
        "alpha": np.array([0.0, *sorted(between), 1.0]),
        "values": {
            name: array(np.float64, (lines, points), NUMBERS)
            for name in ("loss", *draw(st.sets(st.sampled_from(["loss_se", "accuracy"]))))
        },
        "done": array(bool, lines, st.booleans()),
        "l1": array(np.float64, lines, NUMBERS),
        "l2": array(np.float64, lines, NUMBERS),
        "from_member": array(np.int64, lines, st.integers(0, members - 1)),
        "to_member": array(np.int64, lines, st.integers(0, members - 1)),
        "sources": [draw(st.tuples(TEXT, NATURAL, NATURAL, TEXT, TEXT, TEXT)) for _ in range(members)],
        "attributes": draw(
            st.dictionaries(TEXT, st.integers() | TEXT | st.lists(st.booleans(), max_size=2), max_size=3)
        ),
    }


@given(fields=fields())
def test_round_trip(tmp_path: Path, fields: dict[str, Any]) -> None:
    written = Result(**{**fields, "sources": [Source(*row) for row in fields["sources"]]})
    written.write(tmp_path / "x.h5")
    assert same(Result.read(tmp_path / "x.h5", plane=False), written)


def test_lines_may_say_what_they_lead_through_and_what_moves(tmp_path: Path) -> None:
    written = make(via_member=np.array([[1, 2], [3, 0], [0, 0]]), moves=np.array(["", "größe", "b.*, c"], dtype=object))
    written.write(tmp_path / "x.h5")
    read = Result.read(tmp_path / "x.h5", plane=False)
    assert same(dataclasses.replace(read, moves=None), dataclasses.replace(written, moves=None))
    assert "moves" in read.columns
    assert read.moves.tolist() == ["", "größe", "b.*, c"]
    both = join([read.select(np.array([2])), read.select(slice(0, 2))])
    assert "via_member" in both.columns
    assert "moves" in both.columns
    assert (both.via_member.tolist(), both.moves.tolist()) == ([[0, 0], [1, 2], [3, 0]], ["b.*, c", "", "größe"])
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["via_member"].dims == ("line", "via")
        assert data["moves"].values.tolist() == ["", "größe", "b.*, c"]
    with pytest.raises(Mismatch, match="ends at member 4, but there are 4 sources"):
        make(via_member=np.array([[4], [0], [0]]))


def test_xarray_opens_it_as_it_is(tmp_path: Path) -> None:
    written = make()
    written.write(tmp_path / "x.h5")
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["loss"].dims == ("line", "point")
        assert data["alpha"].dims == ("point",)
        assert data["done"].dims == data["l1"].dims == data["from_member"].dims == ("line",)
        assert data["source_label"].dims == ("source",)
        assert dict(data.sizes) == {"line": 3, "point": 5, "source": 4}
        np.testing.assert_array_equal(data["loss"], written.loss)
        np.testing.assert_array_equal(data["done"].astype(bool), written.done)
        assert data["source_label"].values.tolist() == ["seed 0", "seed 1", "seed 2", "seed 3"]
        assert json.loads(data.attrs["attributes"]) == written.about


def misread(content: bytes, flip: int, folder: Path) -> list[tuple[int, str]]:
    """Places at which a flipped byte is neither harmless nor refused."""
    (folder / "whole.h5").write_bytes(content)
    whole, missed = Result.read(folder / "whole.h5", plane=False), []
    for place in range(flip % 5, len(content), 71):
        changed = bytearray(content)
        changed[place] ^= flip
        (folder / "flipped.h5").write_bytes(changed)
        try:
            if not same(Result.read(folder / "flipped.h5", plane=False), whole):
                missed.append((place, "read as something else"))
        except (DamagedFile, Unsupported):  # another kind or number of the schema makes it another file
            pass
        except Exception as error:
            missed.append((place, repr(error)))
    return missed


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path, flip: int) -> None:
    make(40, 11).write(tmp_path / "x.h5")
    # In a process of its own: a library that trusts the file may bring the process down.
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_curves import misread
folder = Path({str(tmp_path)!r})
print(misread((folder / "x.h5").read_bytes(), {flip}, folder))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    make().write(tmp_path / "x.h5")
    content = (tmp_path / "x.h5").read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 1]:
        (tmp_path / "y.h5").write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"y\.h5 is damaged"):
            Result.read(tmp_path / "y.h5", plane=False)


def test_a_changed_number_is_damage(tmp_path: Path) -> None:
    for name in ("loss", "alpha", "done", "l1", "to_member", "source_seed"):
        make().write(tmp_path / "x.h5")
        with h5py.File(tmp_path / "x.h5", "r+") as file:
            last = (*(size - 1 for size in file[name].shape),)
            file[name][last] = 0 if name != "alpha" else 1 + 1e-15
            if name == "alpha":
                file[name][1] = 1.0
        with pytest.raises(DamagedFile, match="do not match their SHA-256"):
            Result.read(tmp_path / "x.h5", plane=False)


def test_files_that_are_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("landscape.store.curves.SCHEMA", 2)
        make().write(tmp_path / "x.h5")
    with pytest.raises(Unsupported, match="has schema 2, this version reads 1: update landscape"):
        Result.read(tmp_path / "x.h5", plane=False)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("loss")
    with pytest.raises(Unsupported, match="is an HDF5 file, but none of curves"):
        Result.read(tmp_path / "other.h5", plane=False)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DamagedFile, match="is damaged or no file of curves"):
        Result.read(tmp_path / "text.h5", plane=False)
    with pytest.raises(LandscapeError, match=r"absent.h5 does not exist"):
        Result.read(tmp_path / "absent.h5", plane=False)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    written = make()
    written.write(tmp_path / "x.h5")
    with pytest.raises(TypeError, match="not JSON serializable"):
        make(attributes={"bad": object()}).write(tmp_path / "x.h5")
    assert same(Result.read(tmp_path / "x.h5", plane=False), written)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": np.linspace(0, 0.9, 5)}, "alpha 0 and 1, the ends of the lines, must be in the grid"),
        ({"values": {"accuracy": np.zeros((3, 5))}}, "there is no loss"),
        ({"values": {"loss": np.zeros((3, 4))}}, r"loss has shape \(3, 4\), expected \(3, 5\)"),
        ({"l2": np.zeros(2)}, r"l2 has shape \(2,\), expected \(3,\)"),
        ({"to_member": np.array([1, 2, 4])}, "a line ends at member 4, but there are 4 sources"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # these checks serve where shapes are not checked
    with pytest.raises(Mismatch, match=message):
        make(**changes)


def test_selecting_and_joining() -> None:
    whole = make(6)
    assert same(join([whole.select(slice(0, 2)), whole.select(np.array([2])), whole.select(np.arange(6) > 2)]), whole)
    assert same(whole.select(np.array([4, 1])).select(np.array([1, 0])), whole.select(np.array([1, 4])))
    assert len(whole.select(np.zeros(6, dtype=bool))) == 0


def test_inside_is_what_lies_between_the_ends() -> None:
    alpha = np.array([-0.5, 0.0, 0.25, 1.0, 1.5])
    assert make(alpha=alpha).inside == slice(1, 4)
