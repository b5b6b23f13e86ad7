"""What separates the solutions that training finds: walks, barriers and clusters of solutions, many networks at once.

>>> import landscape
>>> sorted(name for name in dir(landscape) if name.islower())
['align', 'animate', 'average', 'barriers', 'clusters', 'connect', 'convergence', 'curvature', 'export', \
'interactive', 'load', 'passes', 'plane', 'plot', 'polish', 'report', 'symmetry', 'train', 'walk']

The public names are loaded when they are first used: `import landscape` alone needs neither torch nor matplotlib.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.analysis.barriers import barriers as barriers
    from landscape.analysis.clusters import clusters as clusters
    from landscape.analysis.convergence import convergence as convergence
    from landscape.analysis.curvature import curvature as curvature
    from landscape.analysis.passes import passes as passes
    from landscape.analysis.polish import polish as polish
    from landscape.analysis.symmetry import symmetry as symmetry
    from landscape.core.errors import LandscapeError as LandscapeError
    from landscape.engine.stack import Stack as Stack
    from landscape.evaluation.align import Alignment as Alignment
    from landscape.evaluation.align import align as align
    from landscape.evaluation.connect import connect as connect
    from landscape.evaluation.plane import plane as plane
    from landscape.evaluation.walk import walk as walk
    from landscape.figures.animation import animate as animate
    from landscape.figures.plot import plot as plot
    from landscape.problems.averaging import average as average
    from landscape.problems.base import Problem as Problem
    from landscape.store.checkpoints import Checkpoint as Checkpoint
    from landscape.store.checkpoints import Run as Run
    from landscape.store.checkpoints import load as load
    from landscape.store.exports import export as export
    from landscape.store.results import Result as Result
    from landscape.training.recorder import Recorder as Recorder
    from landscape.training.train import Training as Training
    from landscape.training.train import train as train
    from landscape.web.report import report as report
    from landscape.web.solid import interactive as interactive

#: Where each public name lives.
_HOMES = {
    "Problem": "problems.base",
    "Training": "training.train",
    "train": "training.train",
    "Recorder": "training.recorder",
    "walk": "evaluation.walk",
    "plane": "evaluation.plane",
    "connect": "evaluation.connect",
    "align": "evaluation.align",
    "Alignment": "evaluation.align",
    "average": "problems.averaging",
    "barriers": "analysis.barriers",
    "curvature": "analysis.curvature",
    "clusters": "analysis.clusters",
    "convergence": "analysis.convergence",
    "plot": "figures.plot",
    "animate": "figures.animation",
    "export": "store.exports",
    "report": "web.report",
    "interactive": "web.solid",
    "passes": "analysis.passes",
    "polish": "analysis.polish",
    "symmetry": "analysis.symmetry",
    "Result": "store.results",
    "Run": "store.checkpoints",
    "Checkpoint": "store.checkpoints",
    "load": "store.checkpoints",
    "Stack": "engine.stack",
    "LandscapeError": "core.errors",
}

__version__ = "0.2.0"
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"landscape.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'landscape' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
