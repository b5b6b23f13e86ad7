"""Values over a family of points, and the HDF5 file that holds them. The schema is in `docs/schema.md`."""

import dataclasses
import functools
import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported, printable
from landscape.core.fields import Field, as_path
from landscape.core.files import refuse_existing, replacing
from landscape.core.notebook import table as table_of
from landscape.core.provenance import Source
from landscape.core.reading import conforming, parsed
from landscape.core.resources import require_disk
from landscape.core.shares import PART
from landscape.store.hdf5 import SEAL_BYTES, content_of, opened_file, seal, texts

__all__ = [
    "LARGE",
    "Kind",
    "Mark",
    "Result",
    "join",
    "require_lines",
    "require_room",
    "save_joined",
    "table",
    "target",
    "unfinished",
]

SCHEMA = 2

#: What the points lie on: straight lines, lines through vertices, trained curves, arcs, random directions, a plane.
Kind = Literal["line", "polyline", "curve", "arc", "ray", "plane"]

#: Step or seed of a source that has none, and place on the trajectory of a mark that lies on none; real ones are never
#: negative.
_NONE = -1

#: Bytes of all values from which on they lie in a file as they are, so that they can be mapped in place of read.
LARGE = 2**23

#: What a file says of how its values were obtained, as far as anything depends on it.
_PLACE = (str, None)
_ABOUT: Mapping[str, Any] = {
    "title?": str,
    "problem?": {"name": str, "config?": dict},
    "part?": PART,
    "from?": _PLACE,
    "to?": _PLACE,
    "via?": [str],
    "landmarks?": dict,
    "path?": str,
    "orders?": str,
    "ends?": str,
    "only?": [str],
    "per?": str,
    "hold?": ("start", "end"),
    "normalise?": ("filter", "layer", "none"),
    "sampled?": bool,
    "samples?": (int, None),
    "sample_seed?": (int, None),
    "loss_unit?": _PLACE,
    "means_over_batches?": [str],
    "l2?": float,
    "draws?": dict,
    "batchnorm?": ({"policy": str, "samples?": int, "batch?": (int, None)}, None),
    "device?": str,
    "dtype?": str,
    "autocast?": _PLACE,
    "threads?": int,
    "certified?": {"tolerance": float},
    "accuracy?": dict,
    "align?": {
        **{f"{name}?": int for name in ("units", "scales", "signs", "dead", "duplicates", "networks")},
        "refused?": [str],
        "unquotiented?": [str],
    },
    "curve?": {"method?": str, "kind?": str, "budget?": (int, None), "bends?": (int, None), "steps?": (int, None)},
    "plane?": {
        "kind?": str,
        "places?": [str],
        "landmarks?": dict,
        "normalise?": ("filter", "layer", "none", None),
        "seed?": (int, None),
        "eigenvalues?": [float],
        "explained?": [float],
        "align?": object,
    },
    "command?": [str],
    "created?": str,
    "versions?": dict,
}

#: How the columns of tables begin.
_TABLES = ("source_", "mark_")

#: Columns that name members, as rows of the table of sources.
_MEMBERS = ("from_member", "to_member", "via_member")

#: How files end that no result is written to.
_PICTURES = {".png", ".svg", ".pdf", ".jpg", ".jpeg", ".eps", ".ps", ".gif", ".tif", ".tiff", ".webp", ".bmp"}


@dataclasses.dataclass(frozen=True)
class Mark:
    """A network marked on a plane.

    `loss` is its own, `plane_loss` that of the point of the plane at its `x` and `y`; the two differ where it lies
    `off_plane`, an L2 distance. `trajectory` is its place on the plane's trajectory, None if it lies on none.
    """

    name: str
    source: Source
    trajectory: int | None = None
    x: float = np.nan
    y: float = np.nan
    loss: float = np.nan
    plane_loss: float = np.nan
    off_plane: float = np.nan

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Values of an objective over points of parameter space, as `landscape.walk`, `plane` and `connect` give them.

    Args:
        kind: What the points lie on.
        axes: Coordinates by name, slowest first: `line` and `alpha`, or `y` and `x` of a plane.
        values: One array a metric over all axes, `loss` among them; its standard error, if it was sampled, is
            `loss_se`, and along trained curves `loss_straight` is the loss on the straight lines.
        columns: Arrays of the first axis. `done` says what is finished: zero and NaN are values, unfinished is neither.
            Lines have their lengths `l1` and `l2`, and their ends `from_member` and `to_member`, rows of `sources`;
            where they lead through others, `via_member`; and where only some tensors move, their names, `moves`.
        sources: Where the members at the ends of lines came from.
        marks: Networks on or near a plane.
        about: How the values were obtained, as JSON.

    Raises:
        Mismatch: The arrays do not fit together, or coordinates are not what they must be.

    `result["loss"]` is an array by its name, whichever of these it is. What is on `axes` makes an axis of the same name
    in the file, so that `xarray` finds values by coordinates.
    """

    kind: Kind
    axes: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    about: Mapping[str, Any]
    sources: Sequence[Source] = ()
    marks: Sequence[Mark] = ()
    models: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        shape = tuple(map(len, self.axes.values()))
        for name, array in self.values.items():
            if array.shape != shape:
                raise Mismatch(f"result: {name} has shape {array.shape}, expected {shape}, {' x '.join(self.axes)}")
        for name, array in self.columns.items():
            if array.shape[:1] != shape[:1] or array.ndim > 1 + (name == "via_member"):
                raise Mismatch(f"result: {name} has shape {array.shape}, expected {shape[:1]}")
        if "loss" not in self.values:
            raise Mismatch("result: there is no loss")
        taken = {*self.axes, *self.columns, "via", "source", "mark"}
        if clash := [name for name in self.values if name in taken or "/" in name or name.startswith(_TABLES)]:
            raise Mismatch(
                f"a metric may not be called '{clash[0]}', the file has that name for something else: rename it"
            )
        if "alpha" in self.axes and not {0.0, 1.0} <= set(self.alpha.tolist()):
            raise Mismatch("result: alpha 0 and 1, the ends of the lines, must be in the grid")
        for name, axis in self.axes.items():
            if name in "xy" and not (np.isfinite(axis).all() and (np.diff(axis) > 0).all()):
                raise Mismatch(f"result: {name} must be finite and increase")
        for ends in (self.columns[name] for name in _MEMBERS if name in self.columns):
            if ends.size and not (ends.min() >= 0 and ends.max() < len(self.sources)):
                raise Mismatch(f"result: a line ends at member {ends.max()}, but there are {len(self.sources)} sources")

    def __len__(self) -> int:
        return len(next(iter(self.axes.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        for arrays in (self.values, self.axes, self.columns):
            if isinstance(name, str) and name in arrays:
                return arrays[name]
        there = ", ".join([*self.values, *self.axes, *self.columns])
        raise LandscapeError(f"the result has no '{name}': there are {there}")

    def __contains__(self, name: object) -> bool:
        return any(name in arrays for arrays in (self.values, self.axes, self.columns))

    def __repr__(self) -> str:
        points = "x".join(str(len(axis)) for axis in self.axes.values())
        done = "" if self.done.all() else f", {self.done.sum()} finished"
        return f"Result({self.kind}: {' x '.join(self.axes)} {points}{done}; {', '.join(self.values)})"

    def _repr_html_(self) -> str:
        """A table, and the figure where there is something to draw."""
        finite = self.loss[np.isfinite(self.loss)]
        said = {
            **{
                name: f"{len(axis)}, from {axis.min():g} to {axis.max():g}"
                for name, axis in self.axes.items()
                if len(axis)
            },
            "finished": f"{self.done.sum()} of {len(self)}",
            "metrics": ", ".join(self.values),
            "loss": f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "none finite",
            **{name: self.about[name] for name in ("from", "to", "created") if name in self.about},
        }
        shown = table_of(f"{self.about.get('title', '')} ({self.kind})".lstrip(), said)
        drawn = io.StringIO()
        try:
            self.plot().savefig(drawn, format="svg")
        except LandscapeError:
            return shown
        return shown + drawn.getvalue()[drawn.getvalue().index("<svg") :]

    @property
    def loss(self) -> Float[np.ndarray, "first second"]:
        """Loss over the axes: [line, alpha], or [y, x]."""
        return self.values["loss"]

    @property
    def alpha(self) -> Float[np.ndarray, " alpha"]:
        """Places along the lines: 0 at the start, 1 at the end."""
        return self.axes["alpha"]

    @property
    def done(self) -> Bool[np.ndarray, " first"]:
        """Which lines, or rows of a plane, are finished."""
        return self.columns["done"]

    @property
    def unfinished(self) -> str:
        """How far it is, in words, where it is not finished or was interrupted; else empty."""
        what = "rows" if self.kind == "plane" else "lines"
        return "" if self.done.all() else f"{self.done.sum()} of {len(self)} {what} are finished"

    @property
    def moves(self) -> np.ndarray:
        """What moves on each line; empty where all does."""
        return self.columns.get("moves", np.full(len(self), "", dtype=object))

    @property
    def via_member(self) -> Int[np.ndarray, "line via"]:
        """Members in between, as rows of `sources`; of straight lines none."""
        return self.columns.get("via_member", np.empty((len(self), 0), dtype=np.int64))

    @property
    def inside(self) -> slice:
        """The points from alpha 0 to alpha 1, both included."""
        first, last = np.flatnonzero(self.alpha == 0)[0], np.flatnonzero(self.alpha == 1)[0]
        return slice(int(first), int(last) + 1)

    @property
    def trajectory(self) -> list[Mark]:
        """The marks that lie on the trajectory, in its order."""
        return sorted((m for m in self.marks if m.trajectory is not None), key=lambda m: m.trajectory or 0)

    def select(self, index: Int[np.ndarray, " index"] | Bool[np.ndarray, " first"] | slice) -> "Result":
        """Some of the lines, or rows of a plane; the table of sources stays whole."""
        first = next(iter(self.axes))
        lines = np.arange(len(self))[index]
        if np.array_equal(lines, np.arange(len(self))):
            return self  # nothing large is copied
        kept, models = self.axes[first][index], self.models
        if models is not None and first == "line":
            models = functools.partial(_of_line, models, lines)
        return dataclasses.replace(
            self,
            models=models,
            axes={**self.axes, first: np.arange(len(kept)) if first == "line" else kept},
            values={name: array[index] for name, array in self.values.items()},
            columns={name: array[index] for name, array in self.columns.items()},
        )

    def model_at(self, *coordinates: float, line: int = 0) -> Any:
        """The network at a point: `model_at(alpha)` of a line, `model_at(x, y)` of a plane, as an `nn.Module`.

        Args:
            coordinates: Any within the range that was evaluated, on the grid or between.
            line: Number of the line.

        Raises:
            LandscapeError: There is no such point, or the result was read from a file, which holds no parameters.
        """
        if self.models is None:
            raise LandscapeError("the networks are not in the file: evaluate again, and ask the result of that")
        plane = self.kind == "plane"
        if len(coordinates) != 1 + plane or (plane and line):
            how = "a plane: write model_at(x, y)" if plane else "lines: write model_at(alpha), or with `line=3` too"
            raise LandscapeError(f"the points of this result are on {how}")
        names = ("x", "y") if plane else ("alpha",)
        place = [
            Field(name, float, None, above=-np.inf).check(each) for name, each in zip(names, coordinates, strict=True)
        ]
        for name, each in zip(names, place, strict=True):
            low, high = self.axes[name].min(), self.axes[name].max()
            if not low <= each <= high:
                wider = f"`{name}`" if plane else "`span`"
                raise LandscapeError(
                    f"{name} {each:g} is not in what was evaluated, {low:g} to {high:g}: evaluate more with {wider}"
                )
        number = Field("line", int, 0, at_least=0, at_most=len(self) - 1).check(line)
        return self.models(*(place[::-1] if plane else (number, *place)))

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw it: a figure, or into the matplotlib axes `ax`, with the options of `landscape.plot`."""
        import landscape  # figures lie above this room: what draws is asked for by its public name

        return landscape.plot(self, ax=ax, **options)

    def animate(self, path: str | PathLike[str], **options: Any) -> Path:
        """Write the training on its plane as GIF, with the options of `landscape.animate`; returns its path."""
        import landscape

        return landscape.animate(self, path, **options)

    def report(self, path: str | PathLike[str], **options: Any) -> Path:
        """Write an interactive page about it, in one file, with the options of `landscape.report`; returns its path."""
        import landscape

        return landscape.report(self, save=path, **options)

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` with the axes as coordinates (extra `xarray`)."""
        xarray = _library("xarray")
        first = next(iter(self.axes))
        columns = {name: ((first, "via")[: array.ndim], array) for name, array in self.columns.items()}
        values = {name: (tuple(self.axes), array) for name, array in self.values.items()}
        return xarray.Dataset({**values, **columns}, coords=dict(self.axes), attrs=dict(self.about))

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`: a row a point, the axes as its index, a column a metric (extra `xarray`)."""
        pandas = _library("pandas")
        index = pandas.MultiIndex.from_product(list(self.axes.values()), names=list(self.axes))
        return pandas.DataFrame({name: array.ravel() for name, array in self.values.items()}, index=index)

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write to an HDF5 file, atomically; raises `LandscapeError` if there is one, unless `overwrite`.

        From 8 MiB of values on they are not compressed, and `read` maps them: no more is in memory than is looked at.
        """
        save_joined([self], path, overwrite=overwrite)

    @classmethod
    def read(cls, path: str | PathLike[str], *, plane: bool | None = None) -> "Result":
        """Read such a file, also one of schema 1.

        Args:
            path: The file.
            plane: Whether it must be of a plane, or must not; None: it may be either.

        Raises:
            DamagedFile: Its bytes are not those that were written.
            Unsupported: It is something else, of another kind or of a later schema.
        """
        path = as_path(path, "path")
        try:
            with opened_file(path) as file:
                schema = int(file.attrs["schema"])
                if schema not in _READERS:
                    raise Unsupported(f"{path} has schema {schema}, this version reads {SCHEMA}: update landscape")
                result = _READERS[schema](file)
        except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, Mismatch) as error:
            raise DamagedFile(f"{path} is damaged ({error}): restore it, or evaluate again") from error
        if plane is not None and plane != (result.kind == "plane"):
            content, writer = ("lines", "landscape walk") if result.kind == "plane" else ("a plane", "landscape plane")
            drawn = "plane" if result.kind == "plane" else "walk"
            raise Unsupported(
                f"{path} is of the kind '{result.kind}', not {content}: give a file written by {writer}; "
                f"landscape plot {drawn} draws this one"
            )
        return result


def target(save: str | PathLike[str], *, overwrite: bool) -> Path:
    """The file that a result is written to; raises `LandscapeError` if that cannot be, or is not meant."""
    path = as_path(save, "save")
    if path.suffix.lower() in _PICTURES:
        raise LandscapeError(f"{path} is called like a picture, and a result is HDF5: end `save` in .h5, then plot it")
    refuse_existing(path, force=overwrite)
    return path


def require_lines(curves: Result, what: str) -> None:
    """Raise `LandscapeError` unless these are lines, `what` is read off them, and some of them are finished."""
    if not isinstance(curves, Result) or curves.kind == "plane":
        given = "a plane" if isinstance(curves, Result) else type(curves).__name__
        raise Unsupported(f"{what} are read off lines, not {given}: give what `landscape.walk` or `connect` gave")
    if not curves.done.any():
        raise LandscapeError("none of the lines is finished: walk again to complete them")


def _of_line(models: Callable[..., Any], lines: Int[np.ndarray, " line"], line: int, *coordinates: float) -> Any:
    """The network on a line that was chosen, by its old number."""
    return models(int(lines[line]), *coordinates)


def join(parts: Sequence[Result]) -> Result:
    """The lines, or rows, of several parts that share all else, in their order."""
    axes, columns = _joined(parts)
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    return dataclasses.replace(parts[0], axes=axes, values=values, columns=columns)


def save_joined(parts: Sequence[Result], path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write several parts as the one result that `join` makes of them; their values are never in memory at once.

    Small ones are made in memory, because on a full disk the HDF5 library crashes the program; for large ones the disk
    must have room, else `LandscapeError` is raised.
    """
    path = target(path, overwrite=overwrite)
    size = sum(array.nbytes for part in parts for array in part.values.values())
    made: Any = io.BytesIO()
    if size < LARGE:
        with h5py.File(made, "w", userblock_size=SEAL_BYTES) as file:
            _fill(file, parts, packed=True)
            values = content_of(file)
        seal(made, values)
        with replacing(path) as temporary:
            temporary.write_bytes(made.getbuffer())
        return
    require_room(path, size)
    with replacing(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=SEAL_BYTES) as file:
            _fill(file, parts, packed=False)
            values = content_of(file)
        with temporary.open("r+b") as made:
            seal(made, values)


def require_room(path: Path, size: int, *, yes: bool = False) -> None:
    """Raise `TooMuch` if so many bytes of values do not fit on the disk of a file."""
    require_disk(size, path, "the values", "walk fewer lines or fewer `points`, or `save` elsewhere", yes=yes)


def _joined(parts: Sequence[Result]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Axes and columns of several parts."""
    first = next(iter(parts[0].axes))
    whole = np.concatenate([part.axes[first] for part in parts])
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return {**parts[0].axes, first: np.arange(len(whole)) if first == "line" else whole}, columns


def unfinished(parts: Sequence[Result], axis: np.ndarray) -> Result:
    """What `join` gives, filled up to all places of the first axis; what is not done is NaN."""
    found = join(parts)
    missing = len(axis) - len(found)

    def filled(array: np.ndarray) -> np.ndarray:
        blank = np.nan if array.dtype.kind == "f" else "" if array.dtype == object else 0
        return np.concatenate([array, np.full((missing, *array.shape[1:]), blank, array.dtype)])

    return dataclasses.replace(
        found,
        axes={**found.axes, next(iter(found.axes)): axis},
        values={name: filled(array) for name, array in found.values.items()},
        columns={name: filled(array) for name, array in found.columns.items()},
    )


def _number(value: Any) -> Any:
    """A number of NumPy's as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(f"{name} is not installed: from a clone, pip install '.[xarray]'") from error


# The file -------------------------------------------------------------------------------------------------------------


def _fill(file: h5py.File, parts: Sequence[Result], *, packed: bool) -> None:
    """Write what `join` makes of the parts, the values compressed (`packed`) or as they are."""
    one, (axes, columns) = parts[0], _joined(parts)
    file.attrs["schema"], file.attrs["kind"], file.attrs["axes"] = SCHEMA, one.kind, list(axes)
    file.attrs["about"] = json.dumps(dict(one.about), sort_keys=True, default=_number)
    first = next(iter(axes))
    via = columns["via_member"].shape[1] if "via_member" in columns else 0
    sizes = {"via": via, "source": len(one.sources), "mark": len(one.marks)}
    for axis, places in {**axes, **{name: np.arange(size) for name, size in sizes.items() if size}}.items():
        file.create_dataset(axis, data=places)
        file[axis].make_scale(axis)
    for name in sorted(
        one.values
    ):  # in the order in which finished parts are read again: their bytes are then the same
        _create(file, name, [part.values[name] for part in parts], tuple(axes), packed=packed)
    for name, array in sorted(columns.items()):
        _create(file, name, [array], (first, "via")[: array.ndim])
    for axis, rows in (("source", one.sources), ("mark", one.marks)):
        for name, array in table(rows, axis).items():
            _create(file, name, [array], (axis,))


def _create(
    file: h5py.File, name: str, parts: Sequence[np.ndarray], axes: tuple[str, ...], *, packed: bool = True
) -> None:
    """One variable, given part by part, with its dimension scales; compressed and with checksums where it has elements,
    unless it is not to be.
    """
    text = parts[0].dtype == object
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    packed = packed and not text and 0 not in shape
    packing = {"compression": "gzip", "shuffle": True, "fletcher32": True} if packed else {}
    data = file.create_dataset(name, shape, h5py.string_dtype() if text else parts[0].dtype, **packing)
    begin = 0
    for part in parts:
        if part.size:  # names of files may have bytes that are no text
            data[begin : begin + len(part)] = [each.encode(errors="surrogateescape") for each in part] if text else part
        begin += len(part)
    for place, axis in enumerate(axes):
        data.dims[place].attach_scale(file[axis])


Row = TypeVar("Row", Source, Mark)


def table(rows: Sequence[Source | Mark], prefix: str) -> dict[str, np.ndarray]:
    """Dataclasses as columns, called `source_path` and so on, those of their sources among them; none without rows."""
    columns: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(rows[0]) if rows else ():
        name, column = f"{prefix}_{field.name}", [getattr(row, field.name) for row in rows]
        if field.type is Source:
            columns |= table(column, name)
        elif field.type in (str, float):
            columns[name] = np.array(column, dtype=object if field.type is str else np.float64)
        else:
            columns[name] = np.array([_NONE if value is None else value for value in column], dtype=np.int64)
    return columns


def _rows(file: h5py.File, kind: type[Row], prefix: str, **given: Sequence[Any]) -> list[Row]:
    """Dataclasses of their columns, and of fields that are `given`; none where there are no columns."""
    fields = {field.name: field.type for field in dataclasses.fields(kind) if field.name not in given}
    if f"{prefix}_{next(iter(fields))}" not in file:
        return []
    columns: dict[str, list[Any]] = {}
    for name, of in fields.items():
        data = file[f"{prefix}_{name}"]
        columns[name] = texts(data) if of is str else _column(of, data[()])
    rows = zip(*columns.values(), *given.values(), strict=True)
    return [kind(**dict(zip((*columns, *given), row, strict=True))) for row in rows]


def _column(kind: Any, column: np.ndarray) -> list[Any]:
    """The numbers of a column as a field of this type holds them."""
    values: list[Any] = column.tolist()
    return values if kind is float else [None if value == _NONE else value for value in values]


def _marks_of(file: h5py.File, sources: str) -> list[Mark]:
    return _rows(file, Mark, "mark", source=_rows(file, Source, sources))


def _array(data: h5py.Dataset) -> np.ndarray:
    if data.chunks is None and data.ndim == 2 and data.nbytes and (at := data.id.get_offset()) is not None:
        # Values of a large file, of which no more is read than is looked at.
        return np.memmap(data.file.filename, data.dtype, "r", offset=at, shape=data.shape)
    return np.array(texts(data), dtype=object) if data.dtype == object else data[()]


def _about(file: h5py.File, name: str) -> dict[str, Any]:
    """How values were obtained, as `docs/schema.md` has it; raises `DamagedFile` for anything else."""
    return conforming(parsed(str(file.attrs[name]), file.filename), _ABOUT, file.filename)


def _read(file: h5py.File) -> Result:
    axes = [str(axis) for axis in file.attrs["axes"]]
    arrays = {name: data for name, data in file.items() if not data.is_scale and not name.startswith(_TABLES)}
    values = {name for name, data in arrays.items() if [dim[0].name.strip("/") for dim in data.dims] == axes}
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    return Result(
        kinds[str(file.attrs["kind"])],
        {axis: file[axis][()] for axis in axes},
        {name: _array(arrays[name]) for name in arrays if name in values},
        {name: _array(data) for name, data in arrays.items() if name not in values},
        _about(file, "about"),
        _rows(file, Source, "source"),
        _marks_of(file, "mark_source"),
    )


def _read_first(file: h5py.File) -> Result:
    """A file of schema 1: curves, or the surface over a plane."""
    about = _about(file, "attributes")
    arrays = {
        name: _array(data)
        for name, data in file.items()
        if not name.startswith(_TABLES) and (not data.is_scale or name in "xy")
    }
    if file.attrs["kind"] == "surface":
        axes = {name: arrays.pop(name) for name in ("y", "x")}
        columns = {"done": np.ones(len(axes["y"]), dtype=bool)}
        return Result("plane", axes, arrays, columns, about, marks=_marks_of(file, "source"))
    kinds: dict[str, Kind] = {"normalise": "ray", "curve": "curve", "via": "polyline"}
    kind: Kind = next((kind for key, kind in kinds.items() if key in about), "line")
    names = ("done", "l1", "l2", *_MEMBERS, "moves")
    columns = {name: arrays.pop(name) for name in names if name in arrays}
    axes = {"line": np.arange(len(columns["done"])), "alpha": arrays.pop("alpha")}
    return Result(kind, axes, arrays, columns, about, _rows(file, Source, "source"))


_READERS: dict[int, Callable[[h5py.File], Result]] = {1: _read_first, SCHEMA: _read}
