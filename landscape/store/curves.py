"""Values along lines through a landscape, and the HDF5 file that holds them. The schema is in `docs/schema.md`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from landscape.core.errors import Mismatch
from landscape.core.provenance import Source
from landscape.store.hdf5 import Kind, create, reading, sources_of, table, writing

__all__ = ["Curves", "Source", "join"]

SCHEMA = 1

_CURVES = Kind("curves", content="curves", writer="a walk", remedy="walk again")


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
        sizes = {"line": len(self), "point": len(self.alpha), "source": len(self.sources)}
        if self.via_member is not None:
            sizes["via"] = self.via_member.shape[1]
        with writing(path, _CURVES, schema=SCHEMA, attributes=self.attributes) as file:
            for axis, size in sizes.items():
                file.create_dataset(axis, data=np.arange(size, dtype=np.int64))
                file[axis].make_scale(axis)
            for name, array in self._arrays().items():
                second = "via" if name == "via_member" else "point"
                axes = ("point",) if name == "alpha" else ("line", second) if array.ndim == 2 else ("line",)
                create(file, name, array, axes)
            for name, array in table(self.sources).items():
                create(file, name, array, ("source",))

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """Read such a file; raises `DamagedFile` unless its digest fits."""
        with reading(path, _CURVES, schema=SCHEMA) as (file, attributes):
            arrays = {
                name: data[()] for name, data in file.items() if not data.is_scale and not name.startswith("source_")
            }
            single = {field.name for field in dataclasses.fields(cls)}
            if "moves" in arrays:
                arrays["moves"] = np.array([text.decode() for text in arrays["moves"]], dtype=object)
            values = {name: arrays.pop(name) for name in list(arrays) if name not in single}
            return cls(values=values, sources=sources_of(file), attributes=attributes, **arrays)

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
