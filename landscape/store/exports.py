"""Results in the formats of other programs: tables (.csv), arrays (.npz), and geometry of VTK (.vtp, .vts)."""

import base64
import csv
import dataclasses
import json
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool, Int, Shaped

from landscape.core.errors import LandscapeError, Unsupported, printable
from landscape.core.fields import as_path, did_you_mean, require
from landscape.core.files import refuse_existing, replacing
from landscape.core.resources import require_disk
from landscape.store.results import Result, table

__all__ = ["export"]

#: Numbers of the points of all cells, one cell after another, and how many each has.
Cells = tuple[Int[np.ndarray, " corner"], Int[np.ndarray, " cell"]]

#: Bytes of a number in a table, and of base64 or as it is, at most.
_WRITTEN = 25
#: What VTK's programs do not draw: `vtkDataSetAttributes::HIDDENPOINT` and `HIDDENCELL`.
_HIDDEN_POINT, _HIDDEN_CELL = 2, 32


def export(result: Result, save: str | PathLike[str], *, height: str | None = None, overwrite: bool = False) -> None:
    """Write a result for other programs, in the format that the name ends in.

    - `.csv`: a table for spreadsheets and R. A row a point, lines one after another; coordinates, metrics, then the
      columns of its line, with the labels of its ends (`from`, `to`).
    - `.npz`: arrays as `result["loss"]` gives them: axes, values and columns, the table of members at the ends
      (`source_label`, ...), marks (`mark_x`, ...), and `about/json`. None is pickled.
    - `.vtp` (VTK's polygons, for ParaView and PyVista): a plane as a surface of x, y (L2 distance) and `height`, lines
      as curves of alpha, the number of the line and `height`. All metrics are data of the points. Where the height is
      not finite there is a hole.
    - `.vts` (VTK's structured grids): a plane, with its hidden points.

    Args:
        result: What `landscape.walk`, `plane` or `connect` gave, or `Result.read`.
        save: The file.
        height: The metric that is the height of `.vtp` and `.vts`; None: the loss.
        overwrite: Replace what is at `save`.

    Raises:
        Unsupported: The name ends in none of these, or in one that cannot hold the result.
        LandscapeError: There is such a file, the result has no such metric, or none of its heights is finite.

    Source: *VTK XML file formats*, https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html.

    >>> import landscape, pathlib, tempfile, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    >>> state = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    >>> result = landscape.walk(state, {name: 1 + zero for name, zero in state.items()}, problem=problem, points=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     landscape.export(result, f"{folder}/line.csv")
    ...     pathlib.Path(folder, "line.csv").read_text().splitlines()[0]
    'line,alpha,loss,loss_se,done,from_member,l1,l2,to_member,from,to'
    """
    require(export, locals())
    path = as_path(save, "save")
    if not isinstance(result, Result):
        raise LandscapeError(f"`result` is {type(result).__name__}: give what `landscape.walk` or `Result.read` gave")
    values, columns = (dict(sorted(each.items())) for each in (result.values, result.columns))
    result = dataclasses.replace(result, values={"loss": result.loss, **values}, columns=columns)
    writer = _writer(result, path, height)
    refuse_existing(path, force=overwrite)
    size = _WRITTEN * sum(array.nbytes // 8 for array in result.values.values())
    require_disk(size, path, "the values", "choose fewer lines, or another disk", yes=None)
    with replacing(path) as temporary:
        writer(temporary)


def _writer(result: Result, path: Path, height: str | None) -> Callable[[Path], None]:
    """What writes the format that a file is called by; raises `LandscapeError` for what it cannot hold."""
    ending, plane = path.suffix.lower(), result.kind == "plane"
    there = (".csv", ".npz", ".vtp", ".vts") if plane else (".csv", ".npz", ".vtp")
    ends = f"end the name in {', '.join(there[:-1])} or {there[-1]}"
    if ending == ".vts" and not plane:
        raise Unsupported(f"lines are no surface, which .vts files hold: {ends}")
    if ending not in there:
        raise Unsupported(f"nothing is exported as {ending or path}: {ends}")
    if ending in (".csv", ".npz"):
        if height is not None:
            raise Unsupported(f"`height` is for .vtp and .vts: {ending} has all metrics, leave it out")
        return (lambda file: _write_table(result, file)) if ending == ".csv" else lambda file: _zip(result, file)
    name = "loss" if height is None else height
    if name not in result.values:
        raise LandscapeError(f"the result has no metric '{name}': {did_you_mean(name, result.values)}")
    if not np.isfinite(result.values[name]).any():
        raise LandscapeError(f"no {printable(name)} is finite: choose another `height`")
    return lambda file: _write_geometry(result, name, file, structured=ending == ".vts")


def _write_table(result: Result, path: Path) -> None:
    """A row a point; of one line, or row of a plane, after another, so that no more is in memory."""
    columns: dict[str, np.ndarray] = {}
    for name, column in result.columns.items():
        parts = {f"{name}_{place}": part for place, part in enumerate(column.T)} if column.ndim > 1 else {name: column}
        columns |= parts
    for end in ("from", "to"):
        if f"{end}_member" in columns and end not in result.values:
            labels = np.array([source.label for source in result.sources], dtype=object)
            columns[end] = labels[columns[f"{end}_member"]]
    (_, first), (_, second) = result.axes.items()
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(map(printable, [*result.axes, *result.values, *columns]))
        for number, place in enumerate(first.tolist()):
            own = [_text(column[number]) for column in columns.values()]
            values = [array[number].tolist() for array in result.values.values()]
            write.writerows([place, at, *row, *own] for at, *row in zip(second.tolist(), *values, strict=True))


def _text(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value.item() if isinstance(value, np.generic) else value


def _zip(result: Result, path: Path) -> None:
    """What `numpy.savez_compressed` writes, but of arrays that may be called anything, `file` too."""
    arrays = {**result.axes, **result.values, **result.columns}
    for rows, prefix in ((result.sources, "source"), (result.marks, "mark")):
        arrays |= table(rows, prefix)
    arrays["about/json"] = np.array(json.dumps(dict(result.about), sort_keys=True, default=np.generic.item))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            # Text as NumPy has it: objects would be pickled. Names of files may have bytes that are no text.
            plain = np.array([printable(text) for text in array], dtype=np.str_) if array.dtype == object else array
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(plain, order="C"), allow_pickle=False)


def _write_geometry(result: Result, height: str, path: Path, *, structured: bool) -> None:
    """A VTK file of points at their heights, with all metrics."""
    (slow, first), (fast, second) = result.axes.items()
    heights = np.asarray(result.values[height], dtype=np.float64)
    there = np.isfinite(heights)
    # What is not drawn counts in the bounds of what is.
    heights = np.where(there, heights, heights[there].min())
    across, up = np.meshgrid(second, first)
    points = np.stack([across, up, heights], axis=-1).reshape(-1, 3).astype(np.float64)
    data: dict[str, np.ndarray] = {name: np.ravel(array) for name, array in result.values.items()}
    if result.kind != "plane":
        data |= {slow: np.ravel(up), fast: np.ravel(across)}
    faces = there[:-1, :-1] & there[1:, :-1] & there[:-1, 1:] & there[1:, 1:]
    extent = f"0 {len(second) - 1} 0 {len(first) - 1} 0 0"
    kind = "StructuredGrid" if structured else "PolyData"
    count = f'NumberOfPoints="{len(points)}"'
    with path.open("w", encoding="ascii", newline="\n") as file:
        say = file.write
        say('<?xml version="1.0"?>\n')
        say(f'<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n')
        if structured:
            say(f'<{kind} WholeExtent="{extent}">\n<Piece Extent="{extent}">\n')
            data["vtkGhostType"] = np.where(there, 0, _HIDDEN_POINT).astype(np.uint8).ravel()
        else:
            corners, sizes = _quads(faces) if result.kind == "plane" else _curves(there)
            what = "Polys" if result.kind == "plane" else "Lines"
            say(f'<{kind}>\n<Piece {count} Number{"Of" + what}="{len(sizes)}">\n')
        say(f"<PointData Scalars={_quoted(height)}>\n")
        for name, array in data.items():
            say(_array(name, array))
        say("</PointData>\n")
        if structured:
            hidden = np.where(faces, 0, _HIDDEN_CELL).astype(np.uint8)
            say(f"<CellData>\n{_array('vtkGhostType', hidden.ravel())}</CellData>\n")
        say(f"<Points>\n{_array('points', points, components=3)}</Points>\n")
        if not structured:
            say(f"<{what}>\n{_array('connectivity', corners)}{_array('offsets', sizes.cumsum())}</{what}>\n")
        say(f"</Piece>\n</{kind}>\n</VTKFile>\n")


def _quads(faces: Bool[np.ndarray, "row column"]) -> Cells:
    """The faces of a grid that are there."""
    rows, columns = np.nonzero(faces)
    wide = faces.shape[1] + 1
    corner = (rows * wide + columns).astype(np.int64)
    around = np.stack([corner, corner + 1, corner + wide + 1, corner + wide], axis=1)
    return around.ravel(), np.full(len(corner), 4)


def _curves(there: Bool[np.ndarray, "line point"]) -> Cells:
    """The stretches of two and more points of a line that are there."""
    # Between any two lines is a gap.
    edges = np.diff(np.pad(there, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (lines, begins), (_, ends) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    kept = ends - begins > 1
    runs = [line * there.shape[1] + np.arange(*run) for line, *run in zip(lines, begins, ends, strict=True)]
    chosen = [run for run, long in zip(runs, kept, strict=True) if long]
    return np.concatenate([np.zeros(0, dtype=np.int64), *chosen]), (ends - begins)[kept]


def _array(name: str, array: Shaped[np.ndarray, "*any"], components: int = 1) -> str:
    """An array of VTK's: base64 of its size in bytes and what it holds."""
    if array.dtype.kind not in "iuf":
        array = array.astype(np.uint8)  # truth values
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    kinds = {"i": "Int", "u": "UInt", "f": "Float"}
    kind = f"{kinds[array.dtype.kind]}{8 * array.dtype.itemsize}"
    text = base64.b64encode(np.uint64(len(raw)).astype("<u8").tobytes() + raw).decode()
    how = f'NumberOfComponents="{components}" format="binary"'
    return f'<DataArray type="{kind}" Name={_quoted(name)} {how}>{text}</DataArray>\n'


def _quoted(name: str) -> str:
    """A name as an attribute of XML in ASCII."""
    return quoteattr(printable(name)).encode("ascii", "xmlcharrefreplace").decode()
