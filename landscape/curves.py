"""Values along lines through a landscape, and the HDF5 file that holds them. The schema is in `docs/schema.md`."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from landscape.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.files import replacing

__all__ = ["Curves", "Source", "join"]

SCHEMA = 1

#: Bytes in front of the HDF5 data (its user block), which hold the digest of the rest.
_SEAL_BYTES = 512
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Step or seed of a source that has none. Real ones are never negative.
_NONE = -1


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a member came from. `step` and `seed` are None where the file does not say; `order` is empty if the units
    stand in the order of the file, and says which they are in otherwise.
    """

    path: str
    step: int | None
    seed: int | None
    digest: str
    label: str
    order: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Values at the same `alpha` of many lines; line i leads from `sources[from_member[i]]` to `sources[to_member[i]]`.

    `values` holds one array a metric, `loss` among them; its standard error, if it was sampled, is `loss_se`. `l1`
    and `l2` are the lengths of the lines in parameter space. A line counts only where `done` is set: zero and NaN are
    values, unfinished is neither. `attributes` say how the values were obtained. A line through further members
    has them in `via_member`, as rows of `sources`. Where only some tensors move along a line, `moves` names them, and
    is empty where all do.

    Raises `Mismatch` if the arrays do not fit together or the ends, alpha 0 and 1, are not in the grid.
    """

    alpha: Float[np.ndarray, " point"]
    values: Mapping[str, Float[np.ndarray, "line point"]]
    done: Bool[np.ndarray, " line"]
    l1: Float[np.ndarray, " line"]
    l2: Float[np.ndarray, " line"]
    from_member: Int[np.ndarray, " line"]
    to_member: Int[np.ndarray, " line"]
    sources: Sequence[Source]
    attributes: Mapping[str, Any]
    via_member: Int[np.ndarray, "line via"] | None = None
    moves: Shaped[np.ndarray, " line"] | None = None

    def __post_init__(self) -> None:
        lines, points = len(self.done), len(self.alpha)
        for name, array in self._arrays().items():
            shape: tuple[int, ...] = (points,) if name == "alpha" else (lines,)
            shape += (points,) if name in self.values else array.shape[1:2] if name == "via_member" else ()
            if array.shape != shape:
                raise Mismatch(f"curves: {name} has shape {array.shape}, expected {shape}")
        if not {0.0, 1.0} <= set(self.alpha.tolist()):
            raise Mismatch("curves: alpha 0 and 1, the ends of the lines, must be in the grid")
        if "loss" not in self.values:
            raise Mismatch("curves: there is no loss")
        between = [] if self.via_member is None else [self.via_member.ravel()]
        ends = np.concatenate([self.from_member, self.to_member, *between])
        if len(ends) and not (ends.min() >= 0 and ends.max() < len(self.sources)):
            raise Mismatch(f"curves: a line ends at member {ends.max()}, but there are {len(self.sources)} sources")

    def __len__(self) -> int:
        return len(self.done)

    @property
    def loss(self) -> Float[np.ndarray, "line point"]:
        """Loss along each line."""
        return self.values["loss"]

    @property
    def inside(self) -> slice:
        """The points from alpha 0 to alpha 1, both included."""
        first, last = np.flatnonzero(self.alpha == 0)[0], np.flatnonzero(self.alpha == 1)[0]
        return slice(int(first), int(last) + 1)

    def select(self, lines: Int[np.ndarray, " index"] | Bool[np.ndarray, " line"] | slice) -> "Curves":
        """Some of the lines; the table of sources stays whole."""
        arrays: dict[str, Any] = {name: array[lines] for name, array in self._arrays().items() if name != "alpha"}
        values = {name: arrays.pop(name) for name in self.values}
        return dataclasses.replace(self, values=values, **arrays)

    def write(self, path: Path) -> None:
        """Write to an HDF5 file, atomically."""
        with replacing(path) as temporary:
            with h5py.File(temporary, "w", userblock_size=_SEAL_BYTES) as file:
                sizes = {"line": len(self), "point": len(self.alpha), "source": len(self.sources)}
                if self.via_member is not None:
                    sizes["via"] = self.via_member.shape[1]
                for axis, size in sizes.items():
                    file.create_dataset(axis, data=np.arange(size, dtype=np.int64))
                    file[axis].make_scale(axis)
                for name, array in self._arrays().items():
                    second = "via" if name == "via_member" else "point"
                    axes = ("point",) if name == "alpha" else ("line", second) if array.ndim == 2 else ("line",)
                    _create(file, name, array, axes)
                for name, array in _table(self.sources).items():
                    _create(file, f"source_{name}", array, ("source",))
                file.attrs["schema"] = SCHEMA
                file.attrs["kind"] = "curves"
                file.attrs["attributes"] = json.dumps(dict(self.attributes), sort_keys=True)
            with temporary.open("r+b") as raw:
                raw.write(_seal(raw))

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """Read such a file; raises `DamagedFile` unless its digest fits."""
        _check_seal(path)
        try:
            with h5py.File(path, "r") as file:
                if file.attrs["schema"] != SCHEMA:
                    raise Unsupported(
                        f"{path} has schema {file.attrs['schema']}, this version reads {SCHEMA}: update landscape"
                    )
                attributes = json.loads(str(file.attrs["attributes"]))
                arrays = {
                    name: data[()]
                    for name, data in file.items()
                    if not data.is_scale and not name.startswith("source_")
                }
                fields = [field.name for field in dataclasses.fields(Source)]
                table = {name: file[f"source_{name}"][()].tolist() for name in fields}
            sources = [Source(*_row(row)) for row in zip(*table.values(), strict=True)]
            single = {field.name for field in dataclasses.fields(cls)}
            if "moves" in arrays:
                arrays["moves"] = np.array([text.decode() for text in arrays["moves"]], dtype=object)
            values = {name: arrays.pop(name) for name in list(arrays) if name not in single}
            return cls(values=values, sources=sources, attributes=attributes, **arrays)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, Mismatch) as error:
            raise DamagedFile(f"{path} is damaged ({error}): restore it or walk again") from error

    def _arrays(self) -> dict[str, np.ndarray]:
        single = {name: getattr(self, name) for name in ("alpha", "done", "l1", "l2", "from_member", "to_member")}
        optional = {name: getattr(self, name) for name in ("via_member", "moves") if getattr(self, name) is not None}
        return single | optional | dict(self.values)


def join(parts: Sequence[Curves]) -> Curves:
    """The lines of several parts that share grid, sources and attributes."""
    arrays: dict[str, Any] = {
        name: np.concatenate([part._arrays()[name] for part in parts]) for name in parts[0]._arrays() if name != "alpha"
    }
    values = {name: arrays.pop(name) for name in parts[0].values}
    return dataclasses.replace(parts[0], values=values, **arrays)


def _seal(file: io.BufferedReader | io.BufferedRandom) -> bytes:
    """The block in front of the HDF5 data: what this is, and the SHA-256 of all that follows."""
    file.seek(_SEAL_BYTES)
    sha = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return f"landscape curves\nsha256 {sha}\n".encode().ljust(_SEAL_BYTES, b"\0")


def _check_seal(path: Path) -> None:
    """Raise an error unless the file's bytes are those that were written: damaged files can crash the HDF5 library."""
    try:
        with path.open("rb") as file:
            found = file.read(_SEAL_BYTES)
            if found == _seal(file):
                return
    except FileNotFoundError as error:
        raise LandscapeError(f"{path} does not exist") from error
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from error
    if found.startswith(_HDF5_SIGNATURE):
        raise Unsupported(f"{path} is an HDF5 file, but none of curves: it was not written by a walk")
    if not found.startswith(b"landscape curves\n"):
        raise DamagedFile(f"{path} is damaged or no file of curves: restore it or walk again")
    raise DamagedFile(f"{path} is damaged: its bytes do not match their SHA-256; restore it or walk again")


def _create(file: h5py.File, name: str, array: np.ndarray, axes: tuple[str, ...]) -> None:
    """One variable with its dimension scales, compressed and with checksums where it has elements."""
    packing = (
        {"compression": "gzip", "shuffle": True, "fletcher32": True} if array.size and array.dtype != object else {}
    )
    text = array.dtype == object
    data = file.create_dataset(name, data=array, dtype=h5py.string_dtype() if text else array.dtype, **packing)
    for place, axis in enumerate(axes):
        data.dims[place].attach_scale(file[axis])


def _table(sources: Sequence[Source]) -> dict[str, np.ndarray]:
    """Sources as columns."""
    columns: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(Source):
        column = [getattr(source, field.name) for source in sources]
        if field.name in ("step", "seed"):
            columns[field.name] = np.array([_NONE if value is None else value for value in column], dtype=np.int64)
        else:
            columns[field.name] = np.array(column, dtype=object)
    return columns


def _row(row: Sequence[Any]) -> list[Any]:
    """A row of the table as the fields of a `Source`."""
    decoded = [value.decode() if isinstance(value, bytes) else value for value in row]
    return [None if value == _NONE else value for value in decoded]
