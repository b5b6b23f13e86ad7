"""Where an artefact comes from: who made it, when and with what, and the sources of its members."""

import dataclasses
import datetime
import functools
import importlib.metadata
import platform
import sys
from pathlib import Path

from landscape import __version__
from landscape.core.errors import printable

__all__ = ["Source", "stamp", "versions"]

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "safetensors")


@dataclasses.dataclass(frozen=True, slots=True)  # there are as many as members
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable(self.label))  # it is drawn and shown; the path leads to the file


@functools.cache  # it reads the metadata of installed packages: 20 ms, as much as a short walk
def versions() -> dict[str, str]:
    """Version of Python and of each package that can change a number."""
    own = {"python": platform.python_version(), "landscape": __version__}
    return own | {name: importlib.metadata.version(name) for name in _PACKAGES}


def stamp() -> dict[str, object]:
    """UTC time, command line and versions, for an artefact's header."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": dict(versions()),
    }
