"""Values along lines through a landscape, and the HDF5 file that holds them. The schema is in `docs/schema.md`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from landscape.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.files import digest, replacing

__all__ = ["Curves", "Source", "join"]

SCHEMA = 1

#: Step or seed of a source that has none. Real ones are never negative.
_NONE = -1


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a member came from. `step` and `seed` are None where the file does not say."""

    path: str
    step: int | None
    seed: int | None
    digest: str
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Values at the same `alpha` of many lines; line i leads from `sources[from_member[i]]` to `sources[to_member[i]]`.

    `values` holds one array a metric, `loss` among them; its standard error, if it was sampled, is `loss_se`. `l1`
    and `l2` are the lengths of the lines in parameter space. A line counts only where `done` is set: zero and NaN are
    values, unfinished is neither. `attributes` say how the values were obtained.

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

    def __post_init__(self) -> None:
        lines, points = len(self.done), len(self.alpha)
        for name, array in self._arrays().items():
            shape = (points,) if name == "alpha" else (lines, points) if name in self.values else (lines,)
            if array.shape != shape:
                raise Mismatch(f"curves: {name} has shape {array.shape}, expected {shape}")
        if not {0.0, 1.0} <= set(self.alpha.tolist()):
            raise Mismatch("curves: alpha 0 and 1, the ends of the lines, must be in the grid")
        if "loss" not in self.values:
            raise Mismatch("curves: there is no loss")
        ends = np.concatenate([self.from_member, self.to_member])
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
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            for axis, size in (("line", len(self)), ("point", len(self.alpha)), ("source", len(self.sources))):
                file.create_dataset(axis, data=np.arange(size, dtype=np.int64))
                file[axis].make_scale(axis)
            for name, array in self._arrays().items():
                axes = ("point",) if name == "alpha" else ("line", "point") if array.ndim == 2 else ("line",)
                _create(file, name, array, axes)
            for name, array in _table(self.sources).items():
                _create(file, f"source_{name}", array, ("source",))
            header = json.dumps(dict(self.attributes), sort_keys=True)
            file.attrs["schema"] = SCHEMA
            file.attrs["kind"] = "curves"
            file.attrs["attributes"] = header
            file.attrs["sha256"] = self._digest(header)

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """Read such a file; raises `DamagedFile` unless its digest fits."""
        if not path.exists():
            raise LandscapeError(f"{path} does not exist")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("kind") != "curves":
                    raise Unsupported(f"{path} is an HDF5 file, but none of curves: it was not written by a walk")
                if file.attrs["schema"] != SCHEMA:
                    raise Unsupported(
                        f"{path} has schema {file.attrs['schema']}, this version reads {SCHEMA}: update landscape"
                    )
                header, sha = str(file.attrs["attributes"]), file.attrs["sha256"]
                arrays = {
                    name: data[()]
                    for name, data in file.items()
                    if not data.is_scale and not name.startswith("source_")
                }
                fields = [field.name for field in dataclasses.fields(Source)]
                table = {name: file[f"source_{name}"][()].tolist() for name in fields}
            sources = [Source(*_row(row)) for row in zip(*table.values(), strict=True)]
            single = {field.name for field in dataclasses.fields(cls)}
            values = {name: arrays.pop(name) for name in list(arrays) if name not in single}
            curves = cls(values=values, sources=sources, attributes=json.loads(header), **arrays)
        except PermissionError as error:
            raise LandscapeError(f"cannot read {path}: {error.strerror}") from error
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, Mismatch) as error:
            raise DamagedFile(f"{path} is damaged or no HDF5 file ({error}): restore it or walk again") from error
        if curves._digest(header) != sha:
            raise DamagedFile(f"{path} is damaged: its values do not match their SHA-256; restore it or walk again")
        return curves

    def _arrays(self) -> dict[str, np.ndarray]:
        single = {name: getattr(self, name) for name in ("alpha", "done", "l1", "l2", "from_member", "to_member")}
        return single | dict(self.values)

    def _digest(self, header: str) -> str:
        table = json.dumps([dataclasses.astuple(source) for source in self.sources])
        texts = {"attributes": header, "sources": table}
        return digest(self._arrays() | {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()})


def join(parts: Sequence[Curves]) -> Curves:
    """The lines of several parts that share grid, sources and attributes."""
    arrays: dict[str, Any] = {
        name: np.concatenate([part._arrays()[name] for part in parts]) for name in parts[0]._arrays() if name != "alpha"
    }
    values = {name: arrays.pop(name) for name in parts[0].values}
    return dataclasses.replace(parts[0], values=values, **arrays)


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
