"""Results in other programs' formats: what is written is read again by plain code, and holes stay holes."""

import base64
import csv
import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from test_results import lines, surface

import landscape
from landscape.cli import main
from landscape.core.errors import LandscapeError, Unsupported
from landscape.store.results import Result

TYPES = {"Float64": "<f8", "Float32": "<f4", "Int64": "<i8", "UInt8": "u1"}


def geometry(path: Path) -> tuple[ElementTree.Element, dict[str, np.ndarray]]:
    """The piece of a VTK file, and its arrays by where they stand and what they are called."""
    root = ElementTree.parse(path).getroot()
    assert root.attrib["byte_order"] == "LittleEndian"
    assert root.attrib["header_type"] == "UInt64"
    piece = root[0][0]
    arrays = {}
    for section in piece:
        for array in section:
            raw = base64.b64decode(array.text or "")
            assert int.from_bytes(raw[:8], "little") == len(raw) - 8
            found = np.frombuffer(raw[8:], TYPES[array.attrib["type"]])
            width = int(array.attrib["NumberOfComponents"])
            name = f"{section.tag}/{array.attrib['Name']}"
            arrays[name] = found.reshape(-1, width) if width > 1 else found
    return piece, arrays


def with_hole(result: Result, *where: tuple[int, int]) -> Result:
    loss = result.loss.copy()
    for place in where:
        loss[place] = np.nan
    return dataclasses.replace(result, values={**result.values, "loss": loss})


def test_a_table_has_a_row_a_point_with_the_numbers_to_the_last_digit(tmp_path: Path) -> None:
    result = with_hole(lines(count=2, points=3, moves=np.array(["a\n,", ""], dtype=object)), (0, 1))
    landscape.export(result, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("line", "alpha", "loss", "accuracy", "done", "from_member", "l1", "l2", "moves", "to_member"),
        *("from", "to"),
    ]
    for number, row in enumerate(rows):
        line, point = divmod(number, 3)
        assert int(row["line"]) == line
        assert float(row["alpha"]) == result.alpha[point]
        assert float(row["accuracy"]) == result["accuracy"][line, point]
        assert float(row["l2"]) == result["l2"][line]
        assert (row["from"], row["to"]) == ("seed 0", f"seed {line + 1}")
        assert row["moves"] == ["a\\n,", ""][line]
    assert [row["loss"] == "nan" for row in rows] == [False, True, False, False, False, False]


def test_a_table_of_a_plane_goes_row_by_row(tmp_path: Path) -> None:
    result = surface()
    landscape.export(result, tmp_path / "t.csv")
    table = np.genfromtxt(tmp_path / "t.csv", delimiter=",", names=True, usecols=(0, 1, 2, 3))
    assert table.dtype.names == ("y", "x", "loss", "accuracy")
    points = [(y, x, result.loss[i, j]) for i, y in enumerate(result["y"]) for j, x in enumerate(result["x"])]
    assert [tuple(row)[:3] for row in table.tolist()] == points


def test_members_in_between_have_a_column_each(tmp_path: Path) -> None:
    landscape.export(lines(via_member=np.array([[1, 2], [2, 3], [3, 0]])), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::5]
    assert [(row["via_member_0"], row["via_member_1"]) for row in rows] == [("1", "2"), ("2", "3"), ("3", "0")]


def test_arrays_are_those_of_the_result_and_none_is_a_pickle(tmp_path: Path) -> None:
    result = lines(moves=np.array(["a", "", "\udcff"], dtype=object))
    values = {**result.values, "file": result["accuracy"], "allow_pickle": result.loss}  # arguments of `numpy.savez`
    result = dataclasses.replace(result, values=values)
    landscape.export(result, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        for name, array in {**result.axes, **result.values, **result.columns}.items():
            if name == "moves":
                assert arrays[name].tolist() == ["a", "", "\\xff"]
            else:
                assert arrays[name].dtype == array.dtype
                assert np.array_equal(arrays[name], array), name
        assert arrays["source_label"].tolist() == ["seed 0", "seed 1", "seed 2", "seed 3"]
        assert json.loads(str(arrays["about/json"])) == result.about
    before = (tmp_path / "a.npz").read_bytes()
    landscape.export(result, tmp_path / "a.npz", overwrite=True)
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_plane_is_a_surface_of_quadrilaterals_at_the_height_of_the_metric(tmp_path: Path) -> None:
    result = surface()
    landscape.export(result, tmp_path / "p.vtp", height="accuracy")
    piece, arrays = geometry(tmp_path / "p.vtp")
    points = [(x, y, result["accuracy"][i, j]) for i, y in enumerate(result["y"]) for j, x in enumerate(result["x"])]
    assert arrays["Points/points"].tolist() == [list(point) for point in points]
    assert arrays["PointData/loss"].tolist() == result.loss.ravel().tolist()
    assert (piece.attrib["NumberOfPoints"], piece.attrib["NumberOfPolys"]) == ("15", "8")
    quads = [[5 * i + j, 5 * i + j + 1, 5 * i + j + 6, 5 * i + j + 5] for i in range(2) for j in range(4)]
    assert arrays["Polys/connectivity"].reshape(-1, 4).tolist() == quads
    assert arrays["Polys/offsets"].tolist() == list(range(4, 33, 4))


@pytest.mark.parametrize("ending", ["vtp", "vts"])
def test_where_the_height_is_not_finite_a_surface_has_a_hole(ending: str, tmp_path: Path) -> None:
    result = with_hole(surface(), (0, 0), (1, 3))
    landscape.export(result, tmp_path / f"p.{ending}")
    piece, arrays = geometry(tmp_path / f"p.{ending}")
    there = np.isfinite(result.loss)
    faces = [(i, j) for i in range(2) for j in range(4) if there[i : i + 2, j : j + 2].all()]
    heights = arrays["Points/points"][:, 2]
    assert np.array_equal(heights[there.ravel()], result.loss[there])
    assert (heights[~there.ravel()] == np.nanmin(result.loss)).all()
    assert np.array_equal(arrays["PointData/loss"], result.loss.ravel(), equal_nan=True)
    if ending == "vtp":
        assert arrays["Polys/connectivity"].reshape(-1, 4)[:, 0].tolist() == [5 * i + j for i, j in faces]
        return
    assert piece.attrib["Extent"] == "0 4 0 2 0 0"
    assert np.array_equal(arrays["PointData/vtkGhostType"] == 2, ~there.ravel())
    cells = arrays["CellData/vtkGhostType"].reshape(2, 4)
    assert [(i, j) for i in range(2) for j in range(4) if cells[i, j] == 0] == faces


def test_lines_are_curves_side_by_side_that_end_at_holes(tmp_path: Path) -> None:
    result = with_hole(lines(count=3, points=5), (1, 1), (2, 2))
    landscape.export(result, tmp_path / "l.vtp")
    piece, arrays = geometry(tmp_path / "l.vtp")
    assert piece.attrib["NumberOfLines"] == "4"
    cells = np.split(arrays["Lines/connectivity"], arrays["Lines/offsets"][:-1])
    assert [cell.tolist() for cell in cells] == [[0, 1, 2, 3, 4], [7, 8, 9], [10, 11], [13, 14]]
    x, y, z = arrays["Points/points"].T
    assert np.array_equal(x.reshape(3, 5), np.broadcast_to(result.alpha, (3, 5)))
    assert y.reshape(3, 5)[:, 0].tolist() == [0, 1, 2]
    assert np.array_equal(z.reshape(3, 5)[0], result.loss[0])
    assert {"PointData/alpha", "PointData/line", "PointData/accuracy"} <= arrays.keys()


def test_names_of_metrics_stay_text_in_xml(tmp_path: Path) -> None:
    name = '<loss> of "A&B"\x1b µ'
    result = surface()
    result = dataclasses.replace(result, values={**result.values, name: result.loss > 0.5})
    landscape.export(result, tmp_path / "p.vtp", height=name)
    _, arrays = geometry(tmp_path / "p.vtp")
    assert np.array_equal(arrays['PointData/<loss> of "A&B"\\x1b µ'], (result.loss > 0.5).ravel())


@pytest.mark.parametrize(
    ("result", "name", "height", "said"),
    [
        (lines(), "a.vts", None, "lines are no surface, which .vts files hold: end the name in .csv, .npz or .vtp"),
        (surface(), "a.xlsx", None, "nothing is exported as .xlsx: end the name in .csv, .npz, .vtp or .vts"),
        (surface(), "a", None, "nothing is exported as .*a: end the name in .csv, .npz, .vtp or .vts"),
        (lines(), "a.csv", "loss", "`height` is for .vtp and .vts: .csv has all metrics, leave it out"),
        (lines(), "a.vtp", "los", "the result has no metric 'los': did you mean loss?"),
        (with_hole(lines(1, 2), (0, 0), (0, 1)), "a.vtp", None, "no loss is finite: choose another `height`"),
        (surface(), "there.csv", None, "there.csv exists: choose another output with `save`"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_in_one_line_and_nothing_is_written(
    result: Result, name: str, height: str | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "there.csv").touch()
    with pytest.raises(LandscapeError, match=said):
        landscape.export(result, tmp_path / name, height=height)
    assert [file.name for file in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_bytes() == b""


@pytest.mark.parametrize("ending", ["csv", "npz", "vtp", "vts"])
def test_the_command_writes_what_the_function_does(ending: str, tmp_path: Path) -> None:
    surface().save(tmp_path / "p.h5")
    asked = ["export", str(tmp_path / "p.h5"), "-o", str(tmp_path / f"p.{ending}")]
    found = CliRunner().invoke(main, asked)
    assert found.output == f"{tmp_path / f'p.{ending}'}\n"
    landscape.export(surface(), tmp_path / f"q.{ending}")
    assert (tmp_path / f"p.{ending}").read_bytes() == (tmp_path / f"q.{ending}").read_bytes()
    again = CliRunner().invoke(main, asked)
    assert again.exit_code == 1
    assert re.fullmatch(r"Error: .* exists: choose another output with -o, or replace it with --force\n", again.output)
    assert CliRunner().invoke(main, [*asked, "--force"]).exit_code == 0


def test_unknown_endings_are_an_error_of_one_line_on_the_command_line(tmp_path: Path) -> None:
    lines().save(tmp_path / "l.h5")
    found = CliRunner().invoke(main, ["export", str(tmp_path / "l.h5"), "-o", str(tmp_path / "l.vts")])
    assert found.exit_code == 1
    assert found.output == ("Error: lines are no surface, which .vts files hold: end the name in .csv, .npz or .vtp\n")
    with pytest.raises(Unsupported):
        landscape.export(lines(), tmp_path / "l.VTS")
