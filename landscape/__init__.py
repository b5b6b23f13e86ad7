"""What separates the solutions that training finds: walks, barriers and clusters of minima, many networks at once.

The public names are loaded when they are first used: `import landscape` alone needs neither torch nor matplotlib.
Functions that share their module's name are imported from it: `from landscape.evaluation.walk import walk`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.core.errors import LandscapeError as LandscapeError
    from landscape.core.provenance import Source as Source
    from landscape.engine.objective import Objective as Objective
    from landscape.engine.stack import Stack as Stack
    from landscape.evaluation.connect import Bending as Bending
    from landscape.evaluation.connect import bend as bend
    from landscape.evaluation.routes import Connection as Connection
    from landscape.evaluation.routes import Route as Route
    from landscape.evaluation.routes import connect as connect
    from landscape.evaluation.walk import walk_to_file as walk_to_file
    from landscape.problems.base import Problem as Problem
    from landscape.problems.base import create as create
    from landscape.problems.base import verify as verify
    from landscape.problems.setting import Setting as Setting
    from landscape.space.family import Bezier as Bezier
    from landscape.space.family import Line as Line
    from landscape.space.family import Polyline as Polyline
    from landscape.space.family import grid as grid
    from landscape.space.planes import Plane as Plane
    from landscape.store.checkpoints import Checkpoint as Checkpoint
    from landscape.store.checkpoints import Run as Run
    from landscape.store.checkpoints import load as load
    from landscape.store.curves import Curves as Curves
    from landscape.store.surfaces import Surface as Surface
    from landscape.training.train import Training as Training

_HOMES = {
    "evaluation.connect": ("Bending", "bend"),
    "core.provenance": ("Source",),
    "store.curves": ("Curves",),
    "core.errors": ("LandscapeError",),
    "engine.objective": ("Objective",),
    "engine.stack": ("Stack",),
    "space.family": ("Bezier", "Line", "Polyline", "grid"),
    "space.planes": ("Plane",),
    "problems.base": ("Problem", "create", "verify"),
    "evaluation.routes": ("Connection", "Route", "connect"),
    "problems.setting": ("Setting",),
    "store.checkpoints": ("Checkpoint", "Run", "load"),
    "store.surfaces": ("Surface",),
    "training.train": ("Training",),
    "evaluation.walk": ("walk_to_file",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    raise AttributeError(f"module 'landscape' has no attribute '{name}'")
