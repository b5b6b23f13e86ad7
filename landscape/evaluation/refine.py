"""From the highest point of each path to the saddle nearby, where the loss is smooth."""

import dataclasses

import numpy as np
import torch

from landscape.core.errors import Unsupported
from landscape.engine.descent import Whole
from landscape.engine.hessian import MOST_PARAMETERS
from landscape.engine.kinks import kinked
from landscape.engine.plain import PlainObjective
from landscape.engine.saddle import follow
from landscape.evaluation.routes import Prepared
from landscape.store.results import Result

__all__ = ["require_smooth", "saddles"]


def require_smooth(prepared: Prepared) -> None:
    """Raise `Unsupported`, naming what is in the way, where a pass need be no saddle, or none can be sought."""
    stack = prepared.lines.family.vertices[0]
    if stack.parameters > MOST_PARAMETERS:
        raise Unsupported(
            f"`refine` decomposes whole Hessians, of up to {MOST_PARAMETERS} parameters, and the network has "
            f"{stack.parameters}: leave `refine` out"
        )
    if prepared.objective.batchnorm == "recalibrate":
        raise Unsupported(
            "`refine` needs derivatives of the loss, and statistics of BatchNorm are estimated anew at each point: "
            'choose `batchnorm="interpolate"`, or keep'
        )
    one, objective = stack.select([0]), prepared.objective
    layer = kinked(lambda: objective(one) if isinstance(objective, PlainObjective) else objective.plain(one))
    if layer:
        raise Unsupported(
            f"`refine` needs smooth activations, and {layer} has a kink, where the top of a path is no saddle: leave "
            "`refine` out"
        )


def saddles(prepared: Prepared, result: Result) -> dict[str, np.ndarray]:
    """Columns: what a search for a saddle, in float64, has come to from the highest point of each path, in the path's
    direction there; NaN where that is an end.
    """
    objective = dataclasses.replace(prepared.compute, dtype=torch.float64, autocast=None).objective(prepared.problem)
    family = prepared.lines.family.to(objective.device, torch.float64)
    inside = result.inside
    losses, alphas = result.loss[:, inside], result.alpha[inside]
    columns = {f"saddle_{name}": np.full(len(result), np.nan) for name in ("loss", "gradient", "negative")}
    found = columns | {f"saddle_{name}": np.zeros(len(result), dtype=bool) for name in ("converged", "below")}
    for line in range(len(result)):
        top = int(np.argmax(np.where(np.isnan(losses[line]), -np.inf, losses[line])))
        if not losses[line, top] > max(losses[line, 0], losses[line, -1]):
            continue
        three = torch.tensor(alphas[top - 1 : top + 2], dtype=torch.float64, device=family.rows.device)
        points = family.at(torch.full((3,), line, device=three.device), three)
        before, here, after = points.flatten().cpu()
        surface = Whole(objective, points.select([1]))
        saddle = follow(surface, here, after - before)
        for name in ("loss", "gradient", "negative", "converged"):
            found[f"saddle_{name}"][line] = getattr(saddle, name)
        found["saddle_below"][line] = saddle.loss <= surface.at(here[None]).loss[0]
    return found
