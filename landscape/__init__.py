"""What separates the solutions that training finds: walks, barriers and clusters of minima, many networks at once.

The public names are loaded when they are first used: `import landscape` alone needs neither torch nor matplotlib.
Functions that share their module's name are imported from it: `from landscape.walk import walk`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.bends import Bending as Bending
    from landscape.bends import bend as bend
    from landscape.curves import Curves as Curves
    from landscape.curves import Source as Source
    from landscape.errors import LandscapeError as LandscapeError
    from landscape.objective import Objective as Objective
    from landscape.params import Stack as Stack
    from landscape.paths import Bezier as Bezier
    from landscape.paths import Line as Line
    from landscape.paths import Polyline as Polyline
    from landscape.paths import grid as grid
    from landscape.planes import Plane as Plane
    from landscape.problem import Problem as Problem
    from landscape.problem import create as create
    from landscape.problem import verify as verify
    from landscape.routes import Connection as Connection
    from landscape.routes import Route as Route
    from landscape.routes import connect as connect
    from landscape.setting import Setting as Setting
    from landscape.store import Checkpoint as Checkpoint
    from landscape.store import Run as Run
    from landscape.store import load as load
    from landscape.surfaces import Surface as Surface
    from landscape.train import Training as Training
    from landscape.walk import walk_to_file as walk_to_file

_HOMES = {
    "bends": ("Bending", "bend"),
    "curves": ("Curves", "Source"),
    "errors": ("LandscapeError",),
    "objective": ("Objective",),
    "params": ("Stack",),
    "paths": ("Bezier", "Line", "Polyline", "grid"),
    "planes": ("Plane",),
    "problem": ("Problem", "create", "verify"),
    "routes": ("Connection", "Route", "connect"),
    "setting": ("Setting",),
    "store": ("Checkpoint", "Run", "load"),
    "surfaces": ("Surface",),
    "train": ("Training",),
    "walk": ("walk_to_file",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    raise AttributeError(f"module 'landscape' has no attribute '{name}'")
