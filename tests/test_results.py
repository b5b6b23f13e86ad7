"""Results and their file: what is written is read again, by others too, and what is damaged is refused."""

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

import landscape
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.provenance import Source
from landscape.store import hdf5
from landscape.store.results import Kind, Mark, Result, join, unfinished

NUMBERS = st.floats(width=64, allow_nan=True, allow_infinity=True)
#: HDF5's strings hold no NUL, and UTF-8 no lone surrogates.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NATURAL = st.none() | st.integers(0, 2**63 - 1)
SOURCES = st.fixed_dictionaries(
    {"path": TEXT, "step": NATURAL, "seed": NATURAL, "digest": TEXT, "label": TEXT, "order": TEXT}
)
MARKS = st.fixed_dictionaries(
    {
        "name": TEXT,
        "source": SOURCES,
        "trajectory": st.none() | st.integers(0, 1000),
        **dict.fromkeys(("x", "y", "loss", "plane_loss", "off_plane"), NUMBERS),
    }
)
ABOUT = st.dictionaries(TEXT, st.integers() | TEXT | st.lists(st.booleans(), max_size=2), max_size=3)

#: Files that the version before this schema wrote.
GOLDEN = Path(__file__).parent / "golden"
FIRST = sorted(GOLDEN.glob("*.h5"))


def lines(count: int = 3, points: int = 5, *, alpha: np.ndarray | None = None, **columns: np.ndarray) -> Result:
    """Straight lines with made-up numbers."""
    rng = np.random.default_rng(0)
    return Result(
        "line",
        {"line": np.arange(count), "alpha": np.linspace(0, 1, points) if alpha is None else alpha},
        {"loss": rng.random((count, points)), "accuracy": rng.random((count, points))},
        {
            "done": np.ones(count, dtype=bool),
            "l1": rng.random(count),
            "l2": rng.random(count),
            "from_member": np.zeros(count, dtype=np.int64),
            "to_member": np.arange(count) + 1,
            **columns,
        },
        {"problem": {"name": "life"}, "threads": 2},
        tuple(Source("run", 60, i, "ab" * 32, f"seed {i}") for i in range(count + 1)),
    )


def mark(name: str, x: float, y: float, *, trajectory: int | None = None, step: int | None = None) -> Mark:
    return Mark(name, Source("run", step, 3, "ab" * 32, "seed 3"), trajectory, x, y, 0.25, 0.5, 0.125)


def surface(columns: int = 5, rows: int = 3, **changes: Any) -> Result:
    """A plane with made-up numbers."""
    rng = np.random.default_rng(0)
    made = Result(
        "plane",
        {"y": np.linspace(2, 3, rows), "x": np.linspace(-1, 1, columns)},
        {"loss": rng.random((rows, columns)), "accuracy": rng.random((rows, columns))},
        {"done": np.ones(rows, dtype=bool)},
        {"problem": {"name": "life"}, "threads": 2},
        marks=[mark("a", 0.0, 2.0), mark("b", 0.5, 3.0)],
    )
    return dataclasses.replace(made, **changes)


def same(one: Result, other: Result) -> bool:
    """Every array bit for bit, and all else; NaN is NaN."""

    def arrays(result: Result) -> dict[str, Any]:
        every = {**result.axes, **result.values, **result.columns}
        return {
            name: array.tolist() if array.dtype == object else (array.dtype, array.shape, array.tobytes())
            for name, array in every.items()
        }

    def rest(result: Result) -> tuple[Any, ...]:
        names = tuple(map(sorted, (result.values, result.columns)))
        return result.kind, list(result.axes), names, list(result.sources), repr(list(result.marks)), result.about

    return arrays(one) == arrays(other) and rest(one) == rest(other)


# Round trips ----------------------------------------------------------------------------------------------------------


@st.composite
def along(draw: st.DrawFn) -> dict[str, Any]:
    """What lines are made of. Not the lines: checking shapes draws random numbers, which strategies must not."""
    count, inner, members = draw(st.integers(0, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 3))

    def array(kind: Any, shape: int | tuple[int, int], elements: Any) -> np.ndarray:
        return draw(hnp.arrays(kind, shape, elements=elements))

    between = draw(st.lists(st.floats(0.01, 0.99), min_size=inner, max_size=inner, unique=True))
    ends = st.integers(0, members - 1)
    columns = {
        "done": array(bool, count, st.booleans()),
        "l1": array(np.float64, count, NUMBERS),
        "l2": array(np.float64, count, NUMBERS),
        "from_member": array(np.int64, count, ends),
        "to_member": array(np.int64, count, ends),
    }
    if draw(st.booleans()):
        columns["via_member"] = array(np.int64, (count, draw(st.integers(1, 3))), ends)
    if draw(st.booleans()):
        columns["moves"] = np.array(draw(st.lists(TEXT, min_size=count, max_size=count)), dtype=object)
    names = ("loss", *draw(st.sets(st.sampled_from(["loss_se", "loss_straight", "accuracy"]))))
    return {
        "kind": draw(st.sampled_from(["line", "polyline", "curve", "ray"])),
        "axes": {"line": np.arange(count), "alpha": np.array([0.0, *sorted(between), 1.0])},
        "values": {name: array(np.float64, (count, inner + 2), NUMBERS) for name in names},
        "columns": columns,
        "about": draw(ABOUT),
        "sources": draw(st.lists(SOURCES, min_size=members, max_size=members)),
    }


@st.composite
def across(draw: st.DrawFn) -> dict[str, Any]:
    """What planes are made of."""
    coordinates = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True).map(
        lambda places: np.array(sorted(places))
    )
    y, x = draw(coordinates), draw(coordinates)
    names = ("loss", *draw(st.sets(st.sampled_from(["loss_se", "accuracy"]))))
    return {
        "kind": "plane",
        "axes": {"y": y, "x": x},
        "values": {name: draw(hnp.arrays(np.float64, (len(y), len(x)), elements=NUMBERS)) for name in names},
        "columns": {"done": draw(hnp.arrays(bool, len(y)))},
        "about": draw(ABOUT),
        "marks": draw(st.lists(MARKS, max_size=3)),
    }


@given(fields=along() | across())
def test_round_trip(tmp_path: Path, fields: dict[str, Any]) -> None:
    sources = [Source(**row) for row in fields.get("sources", ())]
    marks = [Mark(**{**row, "source": Source(**row["source"])}) for row in fields.get("marks", ())]
    written = Result(**{**fields, "sources": sources, "marks": marks})
    written.save(tmp_path / "x.h5", overwrite=True)
    assert same(Result.read(tmp_path / "x.h5", plane=written.kind == "plane"), written)
    assert same(Result.read(str(tmp_path / "x.h5")), written)


def test_lines_may_say_what_they_lead_through_and_what_moves(tmp_path: Path) -> None:
    moves = np.array(["", "größe", "b.*, c"], dtype=object)
    written = lines(via_member=np.array([[1, 2], [3, 0], [0, 0]]), moves=moves)
    written.save(tmp_path / "x.h5")
    read = Result.read(tmp_path / "x.h5", plane=False)
    assert same(read, written)
    assert read.moves.tolist() == ["", "größe", "b.*, c"]
    both = join([read.select(np.array([2])), read.select(slice(0, 2))])
    assert (both.via_member.tolist(), both.moves.tolist()) == ([[0, 0], [1, 2], [3, 0]], ["b.*, c", "", "größe"])
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["via_member"].dims == ("line", "via")
        assert data["moves"].values.tolist() == ["", "größe", "b.*, c"]
    with pytest.raises(Mismatch, match="ends at member 4, but there are 4 sources"):
        lines(via_member=np.array([[4], [0], [0]]))


def test_lines_that_say_nothing_of_it_lead_through_nothing_and_move_as_a_whole() -> None:
    plain = lines()
    assert plain.via_member.shape == (3, 0)
    assert plain.moves.tolist() == ["", "", ""]


# Others read it -------------------------------------------------------------------------------------------------------


def test_xarray_opens_lines_as_they_are(tmp_path: Path) -> None:
    written = lines()
    written.save(tmp_path / "x.h5")
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["loss"].dims == ("line", "alpha")
        assert {"line", "alpha"} <= set(data.coords)
        assert data["done"].dims == data["l1"].dims == data["from_member"].dims == ("line",)
        assert data["source_label"].dims == ("source",)
        assert dict(data.sizes) == {"line": 3, "alpha": 5, "source": 4}
        np.testing.assert_array_equal(data["loss"], written.loss)
        np.testing.assert_array_equal(data["alpha"], written.alpha)
        np.testing.assert_array_equal(data["done"].astype(bool), written.done)
        # By coordinates, not by places: what xarray finds is what stands there.
        np.testing.assert_array_equal(data["loss"].sel(alpha=0.5), written.loss[:, 2])
        assert data["loss"].sel(line=1, alpha=0.75) == written.loss[1, 3]
        assert data["source_label"].values.tolist() == ["seed 0", "seed 1", "seed 2", "seed 3"]
        assert (data.attrs["kind"], json.loads(data.attrs["about"])) == ("line", written.about)


def test_xarray_opens_planes_as_they_are(tmp_path: Path) -> None:
    written = surface()
    written.save(tmp_path / "x.h5")
    with xarray.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["loss"].dims == ("y", "x")
        assert dict(data.sizes) == {"x": 5, "y": 3, "mark": 2}
        np.testing.assert_array_equal(data["loss"], written.loss)
        np.testing.assert_array_equal(data["x"], written["x"])
        assert data["loss"].sel(x=-0.5, y=3.0) == written.loss[2, 1]
        assert data["mark_name"].values.tolist() == ["a", "b"]
        assert data["mark_x"].values.tolist() == [0.0, 0.5]
        assert data["mark_source_seed"].values.tolist() == [3, 3]
        assert json.loads(data.attrs["about"]) == written.about


@pytest.mark.parametrize("made", [lines(moves=np.array(["", "a", "b"], dtype=object)), surface()])
def test_in_memory_it_is_a_dataset_and_a_table(made: Result) -> None:
    data, table = made.to_xarray(), made.to_pandas()
    first, second = made.axes
    assert data["loss"].dims == (first, second)
    assert set(data.data_vars) == {*made.values, *made.columns}
    assert data["done"].dims == (first,)
    assert data.attrs == made.about
    assert list(table.columns) == list(made.values)
    assert table.index.names == [first, second]
    assert len(table) == made.loss.size
    for i, j in np.ndindex(made.loss.shape):
        here = {first: made[first][i], second: made[second][j]}
        assert data["loss"].sel(here) == table.loc[tuple(here.values()), "loss"] == made.loss[i, j]


@pytest.mark.parametrize(("library", "method"), [("xarray", "to_xarray"), ("pandas", "to_pandas")])
def test_a_library_that_is_not_installed_is_named(library: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unsupported, match=rf"{library} is not installed: from a clone, pip install '\.\[xarray\]'"):
        getattr(lines(), method)()


def test_in_words() -> None:
    made = lines()
    assert repr(made) == "Result(line: line x alpha 3x5; loss, accuracy)"
    part = dataclasses.replace(made, columns={**made.columns, "done": np.array([True, False, True])})
    assert repr(part) == "Result(line: line x alpha 3x5, 2 finished; loss, accuracy)"
    assert repr(surface()) == "Result(plane: y x x 3x5; loss, accuracy)"
    assert made._repr_html_().startswith("<table>")


def test_arrays_by_their_names() -> None:
    made = lines()
    assert made["loss"] is made.loss is made.values["loss"]
    assert made["alpha"] is made.alpha is made.axes["alpha"]
    assert made["l2"] is made.columns["l2"]
    assert made["done"] is made.done
    with pytest.raises(LandscapeError, match="no 'losses': there are loss, accuracy, line, alpha, done, l1, l2, from_"):
        made["losses"]


def test_a_file_holds_no_networks(tmp_path: Path) -> None:
    lines().save(tmp_path / "x.h5")
    with pytest.raises(LandscapeError, match="the networks are not in the file: evaluate again, and ask the result of"):
        Result.read(tmp_path / "x.h5").model_at(0.5)


# Damage and refusals --------------------------------------------------------------------------------------------------


def misread(content: bytes, flip: int, folder: Path) -> list[tuple[int, str]]:
    """Places at which a flipped byte is neither harmless nor refused."""
    (folder / "whole.h5").write_bytes(content)
    whole, missed, look = Result.read(folder / "whole.h5"), [], hdf5._looked_at
    for number, place in enumerate([*range(60), *range(60 + flip % 5, len(content), 71)]):
        hdf5._looked_at = look if number % 200 == 0 else lambda path: None  # it takes a process each time
        changed = bytearray(content)
        changed[place] ^= flip
        (folder / "flipped.h5").write_bytes(changed)
        try:
            if not same(Result.read(folder / "flipped.h5"), whole):
                missed.append((place, "read as something else"))
        except DamagedFile as error:
            if "flipped.h5 is damaged" not in str(error):
                missed.append((place, str(error)))
        except Exception as error:
            missed.append((place, repr(error)))
    return missed


@pytest.mark.slow
def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    lines(40, 11).save(tmp_path / "lines.h5")
    surface(11, 40).save(tmp_path / "plane.h5")
    # In a process of its own, one for all: a library that trusts the file may bring the process down.
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_results import misread
folder = Path({str(tmp_path)!r})
for name in ("lines.h5", "plane.h5"):
    print([misread((folder / name).read_bytes(), flip, folder) for flip in (0x01, 0x80)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[[], []]\n[[], []]"), done.stderr


@pytest.mark.parametrize("kind", ["lines", "plane"])
def test_a_truncated_file_is_damaged(tmp_path: Path, kind: str) -> None:
    (lines() if kind == "lines" else surface()).save(tmp_path / "x.h5")
    content = (tmp_path / "x.h5").read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 7, len(content) - 1]:
        (tmp_path / "y.h5").write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"y\.h5 is damaged"):
            Result.read(tmp_path / "y.h5")
    with pytest.raises(DamagedFile, match="its bytes do not match their SHA-256; restore it, or evaluate again"):
        Result.read(tmp_path / "y.h5")


def test_a_changed_number_is_damage(tmp_path: Path) -> None:
    for name in ("loss", "alpha", "done", "l1", "to_member", "source_seed"):
        lines().save(tmp_path / "x.h5", overwrite=True)
        with h5py.File(tmp_path / "x.h5", "r+") as file:
            last = (*(size - 1 for size in file[name].shape),)
            file[name][last] = 0 if name != "alpha" else 1 + 1e-15
            if name == "alpha":
                file[name][1] = 1.0
        with pytest.raises(DamagedFile, match="do not match their SHA-256"):
            Result.read(tmp_path / "x.h5")


def test_files_that_are_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("landscape.store.results.SCHEMA", 3)
        lines().save(tmp_path / "later.h5")
    with pytest.raises(Unsupported, match="has schema 3, this version reads 2: update landscape"):
        Result.read(tmp_path / "later.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("loss")
    with pytest.raises(Unsupported, match="is an HDF5 file, but no result: it was not written by landscape"):
        Result.read(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DamagedFile, match="is damaged, or no result: restore it, or evaluate again"):
        Result.read(tmp_path / "text.h5")
    with pytest.raises(LandscapeError, match=r"absent\.h5 does not exist"):
        Result.read(tmp_path / "absent.h5")
    with pytest.raises(LandscapeError, match=r"is a directory: give a file in it"):
        Result.read(tmp_path)


def test_a_plane_is_no_walk_and_a_walk_no_plane(tmp_path: Path) -> None:
    surface().save(tmp_path / "plane.h5")
    lines().save(tmp_path / "lines.h5")
    with pytest.raises(Unsupported, match="kind 'plane', not lines: give a file written by landscape walk"):
        Result.read(tmp_path / "plane.h5", plane=False)
    with pytest.raises(Unsupported, match="kind 'line', not a plane: give a file written by landscape plane"):
        Result.read(tmp_path / "lines.h5", plane=True)


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    first, second = lines(2), lines(4)
    first.save(tmp_path / "deep" / "x.h5")
    with pytest.raises(LandscapeError, match=r"x\.h5 exists: choose another"):
        second.save(tmp_path / "deep" / "x.h5")
    assert same(Result.read(tmp_path / "deep" / "x.h5"), first)
    second.save(str(tmp_path / "deep" / "x.h5"), overwrite=True)
    assert same(Result.read(tmp_path / "deep" / "x.h5"), second)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    written = lines()
    written.save(tmp_path / "x.h5")
    with pytest.raises(TypeError, match="not JSON serializable"):
        dataclasses.replace(written, about={"bad": object()}).save(tmp_path / "x.h5", overwrite=True)
    assert same(Result.read(tmp_path / "x.h5", plane=False), written)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [
        (lines, {"axes": {"line": np.arange(3), "alpha": np.linspace(0, 0.9, 5)}}, "alpha 0 and 1, the ends of the"),
        (lines, {"values": {"accuracy": np.zeros((3, 5))}}, "there is no loss"),
        (lines, {"values": {"loss": np.zeros((3, 4))}}, r"loss has shape \(3, 4\), expected \(3, 5\), line x alpha"),
        (lines, {"columns": {"done": np.ones(3, bool), "l2": np.zeros(2)}}, r"l2 has shape \(2,\), expected \(3,\)"),
        (lines, {"columns": {"l2": np.zeros((3, 2))}}, r"l2 has shape \(3, 2\), expected \(3,\)"),
        (lines, {"columns": {"to_member": np.array([1, 2, 4])}}, "ends at member 4, but there are 4 sources"),
        (surface, {"values": {"accuracy": np.zeros((3, 5))}}, "there is no loss"),
        (surface, {"values": {"loss": np.zeros((5, 3))}}, r"loss has shape \(5, 3\), expected \(3, 5\), y x x"),
        (surface, {"axes": {"y": np.arange(3.0), "x": np.array([0.0, 1, 2, 2, 3])}}, "x must be finite and increase"),
        (surface, {"axes": {"y": np.array([0.0, np.nan, 3]), "x": np.arange(5.0)}}, "y must be finite and increase"),
    ],
)
def test_arrays_that_do_not_fit(
    made: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # these checks serve where shapes are not checked
    with pytest.raises(Mismatch, match=message):
        dataclasses.replace(made(), **changes)


@pytest.mark.parametrize("name", ["line", "alpha", "done", "via", "source", "source_gap", "mark_size", "top/5"])
def test_a_metric_has_a_name_of_its_own(name: str) -> None:
    made = lines()
    with pytest.raises(Mismatch, match=f"a metric may not be called '{name}'.*: rename it"):
        dataclasses.replace(made, values={**made.values, name: made.loss})


# Parts ----------------------------------------------------------------------------------------------------------------


def test_selecting_and_joining_lines() -> None:
    whole = lines(6)
    assert same(join([whole.select(slice(0, 2)), whole.select(np.array([2])), whole.select(np.arange(6) > 2)]), whole)
    assert same(whole.select(np.array([4, 1])).select(np.array([1, 0])), whole.select(np.array([1, 4])))
    assert len(whole.select(np.zeros(6, dtype=bool))) == 0
    assert whole.select(np.array([4, 1]))["line"].tolist() == [0, 1]


def test_rows_are_joined_in_their_order() -> None:
    whole = surface(rows=6)
    parts = [whole.select(some) for some in (slice(0, 2), slice(2, 3), slice(3, 6))]
    assert same(join(parts), whole)
    assert parts[1]["y"].tolist() == whole["y"][2:3].tolist()


def test_what_is_not_finished_is_neither_zero_nor_a_value() -> None:
    whole = lines(6, moves=np.array([*"abcdef"], dtype=object), via_member=np.ones((6, 2), dtype=np.int64))
    part = unfinished([whole.select(slice(0, 2)), whole.select(slice(2, 3))], whole["line"])
    assert same(part.select(slice(0, 3)), whole.select(slice(0, 3)))
    assert part.done.tolist() == [True] * 3 + [False] * 3
    for name in ("loss", "accuracy", "l1", "l2"):
        assert np.isnan(part[name][3:]).all()
    assert part.moves[3:].tolist() == [""] * 3
    assert part.via_member.shape == (6, 2)
    rows = unfinished([surface(rows=6).select(slice(0, 4))], surface(rows=6)["y"])
    assert rows["y"].tolist() == surface(rows=6)["y"].tolist()
    assert rows.done.tolist() == [True] * 4 + [False] * 2
    assert np.isnan(rows.loss[4:]).all()


def test_inside_is_what_lies_between_the_ends() -> None:
    alpha = np.array([-0.5, 0.0, 0.25, 1.0, 1.5])
    assert lines(alpha=alpha).inside == slice(1, 4)


def test_the_trajectory_is_in_its_own_order() -> None:
    marks = [mark("b", 0, 2, trajectory=1), mark("other", 0, 2), mark("a", 0, 2, trajectory=0)]
    assert [each.name for each in surface(marks=marks).trajectory] == ["a", "b"]


# Files of before ------------------------------------------------------------------------------------------------------


def text(array: np.ndarray) -> list[Any]:
    """A column as a list, bytes as text."""
    return [each.decode() if isinstance(each, bytes) else each for each in array.tolist()]


@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_files_of_the_first_schema_are_read_as_they_are(path: Path, tmp_path: Path) -> None:
    with h5py.File(path) as file:
        schema, said = int(file.attrs["schema"]), json.loads(str(file.attrs["attributes"]))
        raw = {name: data[()] for name, data in file.items() if not data.is_scale or name in "xy"}
    assert schema == 1
    read = Result.read(path)
    assert read.about == said
    for name in [name for name in raw if not name.startswith(("source_", "mark_"))]:
        found, there = read[name], raw.pop(name)
        if there.dtype == object:
            assert found.tolist() == text(there)
        else:
            assert (found.dtype, found.shape, found.tobytes()) == (there.dtype, there.shape, there.tobytes())
    sources = [each.source for each in read.marks] if read.kind == "plane" else read.sources
    columns: dict[str, list[Any]] = {
        f"source_{field.name}": [getattr(each, field.name) for each in sources] for field in dataclasses.fields(Source)
    }
    numbers = ("trajectory", "x", "y", "loss", "plane_loss", "off_plane")
    if read.kind == "plane":
        columns |= {f"mark_{name}": [getattr(each, name) for each in read.marks] for name in ("name", *numbers)}
        assert read.done.all()
    told = {name: [-1 if each is None else each for each in column] for name, column in columns.items()}
    assert told == {name: text(there) for name, there in raw.items()}  # and nothing is left
    read.save(tmp_path / "now.h5")
    assert same(Result.read(tmp_path / "now.h5"), read)


def test_files_of_the_first_schema_know_their_kind() -> None:
    kinds: dict[str, Kind] = {path.stem: Result.read(path).kind for path in FIRST}
    assert kinds == {
        "bezier": "curve",
        "chain": "curve",
        "layers": "line",
        "plane": "plane",
        "plane_trajectory": "plane",
        "polyline": "polyline",
        "rays": "ray",
        "walk_boards": "line",
        "walk_matched": "line",
    }
    assert Result.read(GOLDEN / "layers.h5").moves.tolist()[::6] == ["", "net.0.0", "net.0.2", "net.0.4"]
    assert Result.read(GOLDEN / "chain.h5").via_member.shape == (6, 2)
    assert [each.name for each in Result.read(GOLDEN / "plane_trajectory.h5").trajectory] == [
        "step 0",
        "step 20",
        "step 60",
    ]


@pytest.mark.parametrize("flip", [0, 15, 500, 511, 512, 20_000, -1])
@pytest.mark.parametrize("name", ["rays.h5", "plane.h5"])
def test_damaged_files_of_the_first_schema_are_damaged(name: str, flip: int, tmp_path: Path) -> None:
    content = bytearray((GOLDEN / name).read_bytes())
    content[flip] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{name} is damaged"):
        Result.read(tmp_path / name)


def test_a_file_of_another_kind_of_the_first_schema_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"rays\.h5 is of the kind 'ray', not a plane"):
        Result.read(GOLDEN / "rays.h5", plane=True)


def test_a_result_is_no_checkpoint_and_not_called_damaged(tmp_path: Path) -> None:
    saved = tmp_path / "line.h5"
    landscape.walk("presolve", "presolve+zero", problem="life", points=3, save=saved)
    with pytest.raises(Unsupported, match=r"line\.h5 is a result, which holds curves and no networks: .*Result\.read"):
        landscape.load(saved)
