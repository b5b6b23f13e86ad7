"""Surfaces and their file: what is written is read again, by others too, and what is damaged is refused."""

import dataclasses
import json
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
from landscape.store.results import Mark, Result, join

NUMBERS = st.floats(width=64, allow_nan=True, allow_infinity=True)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NATURAL = st.none() | st.integers(0, 2**63 - 1)
SOURCES = st.builds(dict, path=TEXT, step=NATURAL, seed=NATURAL, digest=TEXT, label=TEXT, order=TEXT)
MARKS = st.builds(
    dict,
    name=TEXT,
    x=NUMBERS,
    y=NUMBERS,
    loss=NUMBERS,
    plane_loss=NUMBERS,
    off_plane=NUMBERS,
    trajectory=st.none() | st.integers(0, 1000),
    source=SOURCES,
)


def mark(name: str, x: float, y: float, *, trajectory: int | None = None, step: int | None = None) -> Mark:
    source = Source("run", step, 3, "ab" * 32, "seed 3")
    return Mark(name, x, y, 0.25, 0.5, 0.125, trajectory, source)


def make(columns: int = 5, rows: int = 3, **changes: Any) -> Result:
    rng = np.random.default_rng(0)
    fields = {
        "x": np.linspace(-1, 1, columns),
        "y": np.linspace(2, 3, rows),
        "values": {"loss": rng.random((rows, columns)), "accuracy": rng.random((rows, columns))},
        "marks": [mark("a", 0.0, 2.0), mark("b", 0.5, 3.0)],
        "attributes": {"problem": {"name": "life"}, "threads": 2},
    }
    return Result(**(fields | changes))


def same(one: Result, other: Result) -> bool:
    """Every array bit for bit, and all else; NaN is NaN."""
    a, b = ({"x": each.x, "y": each.y, **each.values} for each in (one, other))
    arrays = a.keys() == b.keys() and all(
        a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes() for name in a
    )
    return arrays and repr(list(one.marks)) == repr(list(other.marks)) and one.about == other.about


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    coordinates = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True).map(
        lambda places: np.array(sorted(places))
    )
    x, y = draw(coordinates), draw(coordinates)
    names = ("loss", *draw(st.sets(st.sampled_from(["loss_se", "accuracy"]))))
    values = {name: draw(hnp.arrays(np.float64, (len(y), len(x)), elements=NUMBERS)) for name in names}
    attributes = draw(st.dictionaries(TEXT, st.integers() | TEXT, max_size=3))
    return {"x": x, "y": y, "values": values, "marks": draw(st.lists(MARKS, max_size=3)), "attributes": attributes}


@given(fields=fields())
def test_round_trip(tmp_path: Path, fields: dict[str, Any]) -> None:
    # Made here: checking shapes draws random numbers, which strategies must not.
    marks = [Mark(**{**row, "source": Source(**row["source"])}) for row in fields["marks"]]
    written = Result(**{**fields, "marks": marks})
    written.write(tmp_path / "x.h5")
    assert same(Result.read(tmp_path / "x.h5", plane=True), written)


def test_xarray_opens_it_as_it_is(tmp_path: Path) -> None:
    written = make()
    written.write(tmp_path / "x.h5")
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["loss"].dims == ("y", "x")
        assert dict(data.sizes) == {"x": 5, "y": 3, "mark": 2}
        np.testing.assert_array_equal(data["loss"], written.loss)
        np.testing.assert_array_equal(data["x"], written.x)
        # By coordinates, not by places: what xarray finds is what stands there.
        assert data["loss"].sel(x=-0.5, y=3.0) == written.loss[2, 1]
        assert data["mark_name"].values.tolist() == ["a", "b"]
        assert data["source_seed"].values.tolist() == [3, 3]
        assert json.loads(data.attrs["attributes"]) == written.about


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path, flip: int) -> None:
    make(11, 40).write(tmp_path / "x.h5")
    content = (tmp_path / "x.h5").read_bytes()
    for place in [*range(60), *range(60, len(content), 211)]:
        changed = bytearray(content)
        changed[place] ^= flip
        (tmp_path / "y.h5").write_bytes(changed)
        with pytest.raises(DamagedFile, match=r"y\.h5 is damaged"):
            Result.read(tmp_path / "y.h5", plane=True)
    (tmp_path / "y.h5").write_bytes(content[:-7])
    with pytest.raises(DamagedFile, match="do not match their SHA-256; restore it or evaluate the plane again"):
        Result.read(tmp_path / "y.h5", plane=True)


def test_files_that_are_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().write(tmp_path / "x.h5")
    assert kind_of(tmp_path / "x.h5") == "surface"
    with pytest.raises(Unsupported, match=r"is of the kind 'surface', not 'curves': give a file written by a walk"):
        Result.read(tmp_path / "x.h5", plane=False)
    with monkeypatch.context() as later:
        later.setattr("landscape.store.surfaces.SCHEMA", 2)
        make().write(tmp_path / "x.h5")
    with pytest.raises(Unsupported, match="has schema 2, this version reads 1: update landscape"):
        Result.read(tmp_path / "x.h5", plane=True)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("loss")
    assert kind_of(tmp_path / "other.h5") is None
    with pytest.raises(Unsupported, match="but none of a surface: it was not written by landscape plane"):
        Result.read(tmp_path / "other.h5", plane=True)
    with pytest.raises(LandscapeError, match=r"absent\.h5 does not exist"):
        Result.read(tmp_path / "absent.h5", plane=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {"accuracy": np.zeros((3, 5))}}, "there is no loss"),
        ({"values": {"loss": np.zeros((5, 3))}}, r"loss has shape \(5, 3\), expected \(3, 5\), one row for each y"),
        ({"x": np.array([0.0, 1, 2, 2, 3])}, "x must be finite and increase"),
        ({"y": np.array([0.0, np.nan, 3])}, "y must be finite and increase"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # these checks serve where shapes are not checked
    with pytest.raises(Mismatch, match=message):
        make(**changes)


def test_rows_are_joined_in_their_order() -> None:
    whole = make(rows=6)
    parts = [
        dataclasses.replace(whole, y=whole.y[some], values={name: value[some] for name, value in whole.values.items()})
        for some in (slice(0, 2), slice(2, 3), slice(3, 6))
    ]
    assert same(join(parts), whole)


def test_the_trajectory_is_in_its_own_order() -> None:
    marks = [mark("b", 0, 2, trajectory=1), mark("other", 0, 2), mark("a", 0, 2, trajectory=0)]
    assert [each.name for each in make(marks=marks).trajectory] == ["a", "b"]
