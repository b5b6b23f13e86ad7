"""`landscape.plane`: an objective on a plane through parameter space."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from landscape.core.devices import using_threads
from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.fields import require
from landscape.core.files import is_there
from landscape.core.notebook import Listener, listening_to
from landscape.core.provenance import Source
from landscape.core.shares import Sharing, threads_each
from landscape.core.workers import Call
from landscape.engine.objective import BatchNorm
from landscape.engine.spectrum import eigenpairs
from landscape.engine.stack import Stack, concatenate
from landscape.evaluation.accuracy import PlaneAccuracy
from landscape.evaluation.evaluate import Work, evaluated, serving
from landscape.evaluation.representatives import Aligner
from landscape.evaluation.routes import buffers_between, networks, with_statistics
from landscape.evaluation.surfaces import Surface
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place, checkpoint_at, held, is_landmark, label_of, short
from landscape.problems.registry import Sent, received, sent
from landscape.space import planes
from landscape.space.directions import Normalise
from landscape.space.family import Family, Marked
from landscape.space.groups import frozen
from landscape.store.checkpoints import Checkpoint, Run, load
from landscape.store.results import Mark, Result, target

__all__ = ["Directions", "plane", "plane_name"]

#: What spans a plane: three places; a place and two others as tasks; two random directions; the directions along which
#: a training moved most; the two leading eigenvectors of the Hessian; or the gradient and the leading one.
Directions = Literal["through", "tasks", "random", "trajectory", "eigenvectors", "gradient"]

#: Those that begin at a single place.
_AT_ONE = ("random", "eigenvectors", "gradient")

#: A gradient of which a smaller share lies across the eigenvector spans no plane with it.
_PARALLEL = 1e-6

_log = logging.getLogger("landscape")


def plane(
    a: Place | Sequence[Place],
    b: Place | None = None,
    c: Place | None = None,
    *,
    problem: Problem | str | None = None,
    directions: Directions | None = None,
    direction_seed: int = 0,
    normalise: Normalise = "filter",
    all_parameters: bool = False,
    align: bool = False,
    points: int | tuple[int, int] = 31,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batchnorm: BatchNorm | None = None,
    engine: Engine = "auto",
    autocast: torch.dtype | None = None,
    samples: int | None = None,
    seed: int = 0,
    draws: int | None = None,
    l2: float = 0.0,
    tolerance: float | None = None,
    budget: float | None = None,
    population: bool = False,
    workers: int = 1,
    shard: str | None = None,
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: Listener = None,
) -> Result:
    """Evaluate the loss, and all other metrics, on a plane through parameter space.

    Args:
        a, b, c: Places, as in `landscape.walk`, each a single network. All three: the plane through them, with
            orthonormal axes, so that coordinates are L2 distances; or, with `directions="tasks"`,
            a + x (b - a) + y (c - a), whose coordinates are how much is added of what each was tuned to. `a` alone: two
            random directions there, or others of `directions`; or, if it is a member of a run (`RUN#seed`), or a folder
            of checkpoints, with `directions="trajectory"`, or a sequence of places, the plane closest to all its
            checkpoints.
        problem: Model, data and loss. None: that of the run or checkpoint.
        directions: What spans the plane; None: what the places that are given say. `eigenvectors`: x and y are those of
            the Hessian's two eigenvalues of the largest magnitude, which are the second derivatives along them.
            `gradient`: y is the leading eigenvector, x the part of the gradient across it. Coordinates are L2
            distances. The Hessian is found in float64 on the same data, with statistics of BatchNorm held fixed.
        direction_seed: Seed of random directions.
        normalise: Length of random directions: that of each filter of the network, of each layer, or as drawn.
        all_parameters: Let these directions move frozen parameters (`requires_grad=False`) too.
        align: Lay the plane through those representatives of `b` and `c` that lie close to `a`, as in `landscape.walk`.
            The plane through `a`, `b` and `landscape.align(a, b).network` has both lines.
        points: Points along x and y; the coordinates of places are added to them.
        x, y: Ranges; None: around the places, or -1 to 1 for random directions.
        device, dtype, batchnorm, engine, autocast, samples, seed, draws, l2, save, overwrite, yes: As in
            `landscape.walk`.
        tolerance: In place of evaluating each point, find the loss at all of them to this share of its range over the
            plane, such as 0.01: half the width of a 95 % band for all at once. Points and samples are chosen for that.
        budget: Seconds that the plane may take, in place of a tolerance or with it: the band is as narrow as that
            allows.
        population: Whether the band is of the loss over the distribution that the data is a sample of, not over the
            data itself; that of a problem that draws its samples always is.
        workers, shard: As there, of the rows of the plane.
        progress: A function, called with (points done, points in all), or True for a bar (extra `progress`, tqdm).

    Returns:
        A result over `y` and `x`, with `marks` at the places.

        With `tolerance` or `budget` the loss at all points, which of them were `evaluated`, and `loss_error`, half the
        width of the band: of samples, which are the same for all points, drawn without replacement class by class, and
        of interpolation between the points. Marks are evaluated on all samples. `result.about["accuracy"]` sums it up:
        the `interval` from the lowest to the highest end of the band, the `error`, half its width where it is widest,
        `points` and `samples`, at most, that were `read`, as a share of all samples at all points, and whether the
        tolerance was `reached`. No other metric is found.

    Raises:
        LandscapeError: In one line, what is wrong and what to write instead; nothing was written then.

    Source: T. Garipov et al., NeurIPS 2018, appendix (three places); G. Ilharco et al., ICLR 2023 (tasks); H. Li et
    al., NeurIPS 2018 (random directions, trajectories); J. Duchon, 1977 (splines between points).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    >>> ends = torch.tensor([[0.0, 0], [2, 0], [2, 1]])
    >>> places = [{"weight": end[:1, None], "bias": end[1:]} for end in ends]
    >>> result = landscape.plane(*places, problem=problem, points=2, x=(0, 2), y=(0, 1))
    >>> result["loss"].round(3).tolist()
    [[2.419, 1.0], [1.419, 0.0]]
    """
    require(plane, locals())
    sharing = Sharing(workers=workers, shard=shard)
    accuracy = PlaneAccuracy(tolerance=tolerance, budget=budget, population=population)
    if (sharing.workers > 1 or sharing.shard) and accuracy:
        raise LandscapeError(
            "`tolerance` and `budget` look at the whole plane in one process: leave them out, or `workers` and `shard`"
        )
    several = isinstance(a, Sequence) and not isinstance(a, str)  # a path or a network is none
    kind = directions or ("trajectory" if several else "random" if b is None else "through")
    _check(kind, a, b, c, several=several, random=normalise != "filter" or direction_seed != 0)
    if all_parameters and kind not in _AT_ONE:
        raise LandscapeError("`all_parameters` is for random directions, eigenvectors and the gradient")
    if align and kind not in ("through", "tasks"):
        raise LandscapeError("`align` moves places towards the first of three: leave it out of planes at one")
    path = None if save is None else target(save, overwrite=overwrite)
    counts = int(np.broadcast_to(points, 2)[0]), int(np.broadcast_to(points, 2)[1])
    for count, span in zip(counts, (x, y), strict=True):  # before anything is computed
        planes.grid(count, *((-1.0, 1.0) if span is None else span))
    places: list[Place] = list(a) if isinstance(a, Sequence) and not isinstance(a, str) else [a]
    compute = Compute.chosen(
        places[0],
        device=device,
        dtype=dtype,
        batchnorm=batchnorm,
        engine=engine,
        autocast=autocast,
        samples=samples,
        seed=seed,
        draws=draws,
        l2=l2,
    )
    if kind in ("through", "tasks"):
        assert b is not None
        assert c is not None
        places = [held(each, name) for each, name in zip([*places, b, c], "abc", strict=True)]
    elif kind in _AT_ONE:
        places = [held(places[0], "a")]
    elif several:
        places = [held(each, str(number)) for number, each in enumerate(places)]
    laid = _Laid(kind, several, direction_seed, normalise, all_parameters, align)
    with using_threads(threads_each(sharing.workers, torch.get_num_threads())):
        problem, work = _work(places, laid, counts, (x, y), compute, problem)
        if accuracy:
            total = math.prod(map(len, work.axes.values()))
            surface = Surface(work.objective, accuracy, problem, compute, total=total)
            work = dataclasses.replace(work, measuring=surface)
        else:  # an accuracy orders samples by their seed
            compute.require_drawing(problem, work.objective)
        again = {"places": places, "laid": laid, "counts": counts, "spans": (x, y), "compute": compute}
        return evaluated(
            dataclasses.replace(work, yes=yes),
            save=path,
            overwrite=overwrite,
            sharing=sharing,
            again=Call(serving, {"make": _again, **again, "problem": sent(problem)}),
            on_progress=listening_to(progress),
        )


@dataclasses.dataclass(frozen=True)
class _Laid:
    """How a plane is laid through its places."""

    kind: Directions
    several: bool
    seed: int
    normalise: Normalise
    all_parameters: bool
    align: bool


def _again(problem: Problem | Sent, **arguments: Any) -> Work:
    """What a worker evaluates."""
    return _work(**arguments, problem=received(problem))[1]


def _work(
    places: Sequence[Place],
    laid: _Laid,
    counts: tuple[int, int],
    spans: tuple[tuple[float, float] | None, tuple[float, float] | None],
    compute: Compute,
    problem: Problem | str | None,
) -> tuple[Problem, Work]:
    """The problem, and what `evaluate` does of a plane through these places."""
    kind, several = laid.kind, laid.several
    about: dict[str, Any] = {"kind": kind}
    if kind == "random":
        about |= {"seed": laid.seed, "normalise": laid.normalise}
    found = _trajectory(places[0]) if kind == "trajectory" and not several else places
    problem, at = networks(found, compute, problem)
    files = {source.path for source in at[0].sources}
    if kind == "trajectory" and len(at) == 1 and len(files) == len(at[0].stack):  # a folder, or a pattern
        at = at[0].members()
    else:
        for place, one in zip(found, at, strict=True):
            _require_single(label_of(place), one)
    about["places"] = list(map(label_of, places))
    about["landmarks"] = {
        label_of(place): problem.describe_landmark(label_of(place)) for place in places if is_landmark(place)
    }
    if laid.align:
        aligner, first = Aligner.of(problem, compute), at[0]
        moved = [aligner(one.stack, first.stack, np.zeros((2, 1), dtype=np.int64)) for one in at[1:]]
        at[1:] = [
            dataclasses.replace(one, stack=stack, sources=(dataclasses.replace(one.sources[0], order="aligned"),))
            for one, stack in zip(at[1:], moved, strict=True)
        ]
        about["align"] = aligner.about()
    stacks = [one.stack for one in at]
    if compute.batchnorm == "keep":
        kept = stacks[-1 if kind == "trajectory" else 0].buffers
        stacks = [with_statistics(stack, kept) for stack in stacks]
    network = problem.prototype
    still = frozen(network, taken=laid.all_parameters) if kind in _AT_ONE else frozenset[str]()
    if kind in ("eigenvectors", "gradient"):
        family, told = _bent(
            kind, dataclasses.replace(compute, dtype=torch.float64, autocast=None), problem, stacks[0], still
        )
        marks, about = _marks(found, at), {**about, **told}
    else:
        family, marks = _family(kind, found, at, stacks, laid.seed, laid.normalise, still)
    family = dataclasses.replace(family, mapped=tuple(file for one in at for file in one.mapped))
    assert family.marked is not None
    if family.marked.explained is not None:
        about["explained"] = family.marked.explained
    fate = "those of the last checkpoint" if kind == "trajectory" else "interpolated"
    buffers = buffers_between([stack.buffers for stack in stacks], network, fate=fate)
    objective = compute.objective(problem)
    columns, rows = _grid(family.marked, counts, *spans)
    about = {**compute.describe(problem, objective), **buffers, "plane": about}
    return problem, Work(objective, family, {"y": rows, "x": columns}, {}, (), marks, about)


def plane_name(places: Sequence[Place], directions: Directions, seed: int = 0, *, align: bool = False) -> str:
    """The plane as a file name, without an ending."""
    last = {"through": "", "random": f"--random-{seed}"}.get(directions, f"--{directions}")
    return f"plane-{'--'.join(short(label_of(place)) for place in places)}{last}{'--aligned' if align else ''}"


def _check(
    kind: Directions, a: Place | Sequence[Place], b: Place | None, c: Place | None, *, several: bool, random: bool
) -> None:
    """Raise `LandscapeError` for arguments that do not go together."""
    if (kind in ("through", "tasks")) != (b is not None and c is not None) or (b is None) != (c is None):
        raise LandscapeError(
            "a plane goes through three places, `a`, `b` and `c`, or through `a` alone with `directions` that are "
            "random, trajectory, eigenvectors or gradient; those that are tasks take three too"
        )
    if several and not a:
        raise LandscapeError("there is no place in `a`: a trajectory needs at least three")
    if several and kind != "trajectory":
        raise LandscapeError('several places in `a` are a trajectory: leave `directions="..."` out, or give one place')
    if random and kind != "random":
        raise LandscapeError("`direction_seed` and `normalise` are for random directions")


def _family(
    kind: Directions,
    places: Sequence[Place],
    at: Sequence[Checkpoint],
    stacks: Sequence[Stack],
    seed: int,
    normalise: Normalise,
    still: frozenset[str],
) -> tuple[Family, list[Mark]]:
    """The plane, and the names of what is marked on it."""
    sources = [one.sources[0] for one in at]
    if kind == "trajectory":
        names = [f"step {s.step}" if s.step is not None else s.label for s in sources]
        marks = [Mark(name, source, trajectory=k) for k, (name, source) in enumerate(zip(names, sources, strict=True))]
        return planes.trajectory(concatenate(stacks)), marks
    marks = _marks(places, at)
    if kind == "random":
        return planes.random(stacks[0], seed, normalise=normalise, still=still), marks
    a, b, c = stacks
    return (planes.tasks if kind == "tasks" else planes.through)(a, b, c), marks


def _marks(places: Sequence[Place], at: Sequence[Checkpoint]) -> list[Mark]:
    sources = [one.sources[0] for one in at]
    return [Mark(name, source) for name, source in zip(_names(places, sources), sources, strict=True)]


def _bent(
    kind: Directions, compute: Compute, problem: Problem, stack: Stack, still: frozenset[str]
) -> tuple[Family, dict[str, Any]]:
    """The plane of the leading eigenvectors of the Hessian, or of gradient and the leading one; what a file says."""
    objective, double = compute.objective(problem), stack.to(compute.device, torch.float64)
    free = double.moving(frozenset(double.tensors) - still)
    pairs = eigenpairs(objective, free, k=2 if kind == "eigenvectors" else 1)
    if not np.isfinite(pairs.values).all():
        raise LandscapeError(
            f"the leading eigenvectors of the Hessian were not found in {pairs.products[0]} products: take fewer "
            'samples or another plane, such as `directions="random"`'
        )
    if not pairs.converged.all():
        _log.warning("an eigenvector is uncertain: its residual is %.2g", pairs.residuals.max())
    vectors = torch.from_numpy(pairs.vectors[0]).to(double.device)
    # The largest entry of each is positive: an eigenvector leaves the sign open.
    axes = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    told: dict[str, Any] = {"eigenvalues": pairs.values[0].tolist(), "residuals": pairs.residuals[0].tolist()}
    if kind == "gradient":
        slope = objective.gradient(free)[1].flatten()[0].double()
        across = slope - (axes[0] @ slope) * axes[0]
        across = across - (axes[0] @ across) * axes[0]
        if not across.norm() > _PARALLEL * slope.norm():
            raise LandscapeError(
                "the gradient is zero or lies along the leading eigenvector, so that they span no plane: take "
                '`directions="eigenvectors"`'
            )
        axes = torch.stack([across / across.norm(), axes[0]])
        told["gradient"] = (axes @ slope).tolist()
    zero = {name: torch.zeros_like(tensor) for name, tensor in double.tensors.items() if name in still}
    x, y = (dict(free.unflatten(axis[None]).tensors) | zero for axis in axes)
    x, y = ({name: each[name].to(stack.device) for name in stack.tensors} for each in (x, y))
    return planes.spanned(stack, Stack(x), Stack(y)), told


def _trajectory(place: Place) -> list[Place]:
    """All checkpoints of one member of a run, or those of a folder or pattern, in natural order, as one."""
    if isinstance(place, Run):
        return [place.checkpoint(step) for step in place.steps()]
    path, _, seed = label_of(place).partition("#")
    folder = path.rstrip("/")
    if not is_there(Path(folder) / "run.json"):
        found = None if seed else checkpoint_at(place)
        if found is None or len(found.stack) == 1:
            raise LandscapeError(
                f"{path} is no run (no run.json): a trajectory needs RUN#seed, such as checkpoints/first#0, or a "
                "folder of checkpoints"
            )
        return [found]
    steps = Run.open(Path(folder)).steps()
    return [load(f"{folder}/@{step}" + (f"#{seed}" if seed else "")) for step in steps]


def _grid(
    marked: Marked, counts: tuple[int, int], *ranges: tuple[float, float] | None
) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"]]:
    """Coordinates of the columns and of the rows; those of the marks that lie on the plane are among them."""
    on_plane = (marked.off_plane == 0).cpu().numpy()
    axes = zip(counts, ranges, planes.span(marked), (marked.x, marked.y), strict=True)
    x, y = (
        planes.grid(count, *(default if given is None else given), places=place.cpu().numpy()[on_plane])
        for count, given, default, place in axes
    )
    return x, y


def _require_single(place: str, checkpoint: Checkpoint) -> None:
    if len(checkpoint.stack) != 1:
        raise Mismatch(
            f"{place} has {len(checkpoint.stack)} members, and a plane is laid through single ones: choose one with "
            "RUN/#seed"
        )


def _names(places: Sequence[Place], sources: Sequence[Source]) -> list[str]:
    """What networks are called on a figure: as briefly as it tells them apart."""
    brief = [
        label_of(place) if is_landmark(place) else source.label for place, source in zip(places, sources, strict=True)
    ]
    steps = [
        name if source.step is None else f"{name}, step {source.step}"
        for name, source in zip(brief, sources, strict=True)
    ]
    full = [short(label_of(place)) for place in places]
    return next((names for names in (brief, steps) if len(set(names)) == len(names)), full)
