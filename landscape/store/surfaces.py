"""Values on a plane through a landscape, and the HDF5 file that holds them. The schema is in `docs/schema.md`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from landscape.core.errors import Mismatch
from landscape.core.provenance import Source
from landscape.store.hdf5 import Kind, create, reading, sources_of, table, writing

__all__ = ["Mark", "Surface", "join"]

SCHEMA = 1

_SURFACE = Kind("surface", content="a surface", writer="landscape plane", remedy="evaluate the plane again")

#: Place on a trajectory of a mark that lies on none.
_NONE = -1

#: Columns of the table of marks that are numbers, by the fields of a mark.
_NUMBERS = ("x", "y", "loss", "plane_loss", "off_plane")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A network marked on a plane.

    `loss` is its own, `plane_loss` that of the point of the plane at its `x` and `y`; the two differ where it lies
    `off_plane`, an L2 distance. `trajectory` is its place on the plane's trajectory, None if it lies on none.
    """

    name: str
    x: float
    y: float
    loss: float
    plane_loss: float
    off_plane: float
    trajectory: int | None
    source: Source


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Values over a grid on a plane: `values["loss"][j, i]` is the loss at `x[i]` and `y[j]`.

    `values` holds one array a metric, `loss` among them; its standard error, if it was sampled, is `loss_se`. `marks`
    are networks on or near the plane. `attributes` say how the values were obtained.

    Raises `Mismatch` if the arrays do not fit together or a coordinate does not increase.
    """

    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    values: Mapping[str, Float[np.ndarray, "y x"]]
    marks: Sequence[Mark]
    attributes: Mapping[str, Any]

    def __post_init__(self) -> None:
        shape = (len(self.y), len(self.x))
        for name, array in self.values.items():
            if array.shape != shape:
                raise Mismatch(f"surface: {name} has shape {array.shape}, expected {shape}, one row for each y")
        if "loss" not in self.values:
            raise Mismatch("surface: there is no loss")
        for name, axis in (("x", self.x), ("y", self.y)):
            if not (np.isfinite(axis).all() and (np.diff(axis) > 0).all()):
                raise Mismatch(f"surface: {name} must be finite and increase")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def loss(self) -> Float[np.ndarray, "y x"]:
        """Loss over the grid."""
        return self.values["loss"]

    @property
    def trajectory(self) -> list[Mark]:
        """The marks that lie on the trajectory, in its order."""
        return sorted((m for m in self.marks if m.trajectory is not None), key=lambda m: m.trajectory or 0)

    def write(self, path: Path) -> None:
        """Write to an HDF5 file, atomically."""
        with writing(path, _SURFACE, schema=SCHEMA, attributes=self.attributes) as file:
            for axis, places in (("x", self.x), ("y", self.y), ("mark", np.arange(len(self.marks), dtype=np.int64))):
                file.create_dataset(axis, data=places)
                file[axis].make_scale(axis)
            for name, array in self.values.items():
                create(file, name, array, ("y", "x"))
            columns = {name: np.array([getattr(mark, name) for mark in self.marks], np.float64) for name in _NUMBERS}
            columns["name"] = np.array([mark.name for mark in self.marks], dtype=object)
            order = [_NONE if mark.trajectory is None else mark.trajectory for mark in self.marks]
            columns["trajectory"] = np.array(order, dtype=np.int64)
            columns = {f"mark_{name}": array for name, array in columns.items()}
            for name, array in (columns | table([mark.source for mark in self.marks])).items():
                create(file, name, array, ("mark",))

    @classmethod
    def read(cls, path: Path) -> "Surface":
        """Read such a file; raises `DamagedFile` unless its digest fits."""
        with reading(path, _SURFACE, schema=SCHEMA) as (file, attributes):
            columns = {name: file[f"mark_{name}"][()].tolist() for name in ("name", *_NUMBERS, "trajectory")}
            columns["name"] = [name.decode() for name in columns["name"]]
            columns["trajectory"] = [None if place == _NONE else place for place in columns["trajectory"]]
            columns["source"] = sources_of(file)
            marks = [Mark(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
            values = {
                name: data[()]
                for name, data in file.items()
                if not data.is_scale and not name.startswith(("mark_", "source_"))
            }
            return cls(x=file["x"][()], y=file["y"][()], values=values, marks=marks, attributes=attributes)


def join(parts: Sequence[Surface]) -> Surface:
    """The rows of several parts that share columns, marks and attributes, in their order."""
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    return dataclasses.replace(parts[0], y=np.concatenate([part.y for part in parts]), values=values)
