"""Who made an artefact, when and with what."""

import datetime
import importlib.metadata
import platform
import sys
from pathlib import Path

__all__ = ["stamp", "versions"]

_PACKAGES = ("landscape", "torch", "numpy", "scipy", "h5py", "safetensors")


def versions() -> dict[str, str]:
    """Version of Python and of each package that can change a number."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def stamp() -> dict[str, object]:
    """UTC time, command line and versions, for an artefact's header."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(),
    }
