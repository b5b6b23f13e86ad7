"""`landscape.walk`: an objective along lines through parameter space."""

import dataclasses
from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch

from landscape.core.devices import using_threads
from landscape.core.errors import LandscapeError
from landscape.core.fields import require
from landscape.core.notebook import Listener, listening_to
from landscape.core.shares import Sharing, threads_each
from landscape.core.workers import Call
from landscape.engine.objective import BatchNorm
from landscape.evaluation.accuracy import LineAccuracy
from landscape.evaluation.certify import Certifying, certified, forgotten
from landscape.evaluation.compare import Comparing, Comparison
from landscape.evaluation.evaluate import Work, evaluated, serving
from landscape.evaluation.lines import Lines
from landscape.evaluation.routes import Order, Pairs, Path, Prepared, Route, prepare
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place, held
from landscape.problems.registry import Sent, received, sent
from landscape.space.directions import Normalise
from landscape.space.family import Hold, grid
from landscape.space.groups import Per
from landscape.store.results import Result, target

__all__ = ["walk"]


def walk(
    a: Place,
    b: Place | None = None,
    *,
    problem: Problem | str | None = None,
    via: Sequence[Place] = (),
    path: Path = "straight",
    points: int | Sequence[float] | np.ndarray = 51,
    span: tuple[float, float] = (0.0, 1.0),
    rays: Sequence[int] = (),
    normalise: Normalise = "filter",
    only: Sequence[str] = (),
    per: Per | None = None,
    hold: Hold = "start",
    all_parameters: bool = False,
    pairs: Pairs = "matched",
    order: Order = "stored",
    align: bool = False,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batchnorm: BatchNorm | None = None,
    engine: Engine = "auto",
    autocast: torch.dtype | None = None,
    samples: int | None = None,
    seed: int = 0,
    draws: int | None = None,
    l2: float = 0.0,
    tolerance: float | str | None = None,
    floor: float = LineAccuracy.floor,
    above: float | None = None,
    budget: float | None = None,
    population: bool = False,
    certify: float | None = None,
    certify_cells: int = Certifying.certify_cells,
    disagreement: bool = False,
    cka: Sequence[str] = (),
    workers: int = 1,
    shard: str | None = None,
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: Listener = None,
) -> Result:
    """Evaluate the loss, and all other metrics, along lines from `a` to `b`: straight, at (1 - alpha) a + alpha b.

    Args:
        a, b: Networks (`nn.Module`), state dicts, checkpoint files, runs, or names of the problem's landmarks. Many
            members at a place make many lines.
        problem: Model, data and loss. None: that of the run or checkpoint, which says what it was trained on.
        via: Places that the lines lead through, in order.
        path: How a line leads from `a` to `b`: `straight`, or `slerp`, with each tensor of parameters on the arc
            between its ends, sin((1 - alpha) angle) / sin(angle) a + sin(alpha angle) / sin(angle) b, as mergekit does;
            buffers, and tensors without an arc, go straight.
        points: How many evenly spaced alphas, or the alphas themselves; 0 and 1 are added where they are missing.
        span: Range of alpha.
        rays: In place of `b`, seeds of random directions, a line each.
        normalise: Length of random directions: that of each filter of the network, of each layer, or as drawn.
        only: Glob patterns of names of the tensors that alone move; the rest is held.
        per: Beside the full line one for each `layer`, or `module` at the top, on which only that one moves.
        hold: Where what does not move is held: at the `start` or the `end`.
        all_parameters: Let random directions move frozen parameters (`requires_grad=False`) too.
        pairs: `matched` pairs member with member (a single one with all), `all` each with each, those that lead to one
            end after another; of a place with itself each two members once.
        order: Order of the start's units: as `stored`, or a line from `all` equivalent ones, where they are few.
        align: Beside each line (naive) walk one to another representative of its end (`result["aligned"]`): of all
            networks that compute the same (units in another order, positive scales and signs that make no difference)
            one close to the start. `landscape.align` says how it is found.
        device: Where to compute; None: where the module `a` is, else the CPU.
        dtype: Element type of the computation.
        batchnorm: What BatchNorm normalises by at a point: `recalibrate` estimates statistics there anew on training
            data, `interpolate` mixes those of the ends, `keep` leaves the first ones.
        engine: How it is computed; one network after another by its own forward (`plain`), many at once, layer by layer
            (`stacked`), or by `vmap`; `auto` is plain but for small networks, which are faster stacked.
        autocast: Run the network, but not the loss, in bfloat16 or float16 where PyTorch deems it safe.
        samples: Samples that are drawn where there is no exact loss; None: all, or what the problem draws usually.
        seed: Seed of that sample, and of draws.
        draws: Average a loss that draws random numbers over so many draws, the same at each point; `loss_draw_se` is
            the standard error. None: a random loss is an error.
        l2: Adds `l2 / 2` times the sum of squares of the parameters that learn to the loss, as weight decay does;
            `test_loss` goes without.
        tolerance: In place of all points find each line's barrier above the chord to this share of it, such as 0.01,
            or, written "0.01:loss", its loss everywhere to this share of its range: half the width of a 95 % interval.
            Points and samples are chosen for that; `points` are then those that the curve is drawn with.
        floor: Share of a line's range of losses that is tolerated whatever its barrier is.
        above: With a tolerance: decide of each line whether its barrier is above this height, and end where that is
            sure: `result["decision"]` is `above`, `below` or `open`, and at most 5 % of the decisions are wrong.
        budget: Seconds that all lines may take, in place of a tolerance or with it: intervals are then as narrow as
            that allows.
        population: Whether intervals are of the loss over the distribution that the data is a sample of, not over the
            data itself; those of a problem that draws its samples always are.
        certify: Bound the highest loss between alpha 0 and 1, and the barriers, from below and above, until the bounds
            are this share of it (and 1e-12) apart, such as 1e-6: see Returns. None: the points alone.
        certify_cells: Pieces into which a line is parted for that, at most; what is not reached is said.
        disagreement: Find the share of decisions (classes, sides) that differ from those of the network at alpha 0,
            `disagreement_start`, and at alpha 1, `disagreement_end`. Each counts once, whatever its sample weighs.
        cka: Names of layers (`named_modules()`) whose outputs are compared with those at alpha 0, `cka_start[layer]`,
            and at alpha 1, `cka_end[layer]`: the unbiased linear CKA, on up to 1000 samples, evenly spaced, of which an
            end keeps the square. Both take the plain engine and data in memory, which is read once more for each point;
            a wide layer takes longer still, for its features of each two samples.
        workers: Processes that share the work and this machine's threads; one that dies is replaced. They read what is
            on disk for themselves. Numbers are those of one process with as many threads, which the result says.
        shard: Only a part of the lines, such as `1/4`, the first of four; `landscape merge` makes one file of all.
        save: HDF5 file to write, beside which unfinished work, bounds too, is kept, so that calling again goes on.
        overwrite: Replace what is at `save`.
        yes: Go on where memory or disk seem not to be there for it, or time: more than a year.
        progress: A function, called with (points done, points in all), or True for a bar (extra `progress`, tqdm);
            before that, with `certify`, with (lines bounded, lines).

    Returns:
        A result over `line` and `alpha`: `result["loss"]`, `result["l2"]` (lengths of the lines), ... Interrupted
        (Ctrl-C) without `save`, what is `done` by then.

        With `tolerance` or `budget` the loss and `loss_error`, half the width of its band, and of each line `barrier`
        above the chord, its 95 % interval from `barrier_low` to `barrier_high`, the alpha of its `peak`, `points_used`,
        `samples_used`, and whether the tolerance was `reached`; `result.about["accuracy"]` sums it up. No other metric
        is found. Samples are the same for all points and lines, drawn without replacement class by class; the interval
        of all of them has no error of theirs (but with `population`).

        With `certify` of each line also `max_lower` and `max_upper`, between which the highest loss is, in exact
        arithmetic, `peak_low` and `peak_high`, between which its alpha is, and bounds of the barriers,
        `above_chord_lower`, `above_chord_upper` and so on. This is for networks that are linear piece by piece (ReLU,
        PReLU, maxima, hard limits; BatchNorm whose statistics are kept or interpolated), or products of such parts, on
        data in memory, of which it is the loss that is bounded, under PyTorch's binary cross-entropy of logits,
        cross-entropy or squared error in any setting.

    Raises:
        TooMuch: Memory, disk or time are not there.
        LandscapeError: In one line, what is wrong and what to write instead; nothing was written then.

    Source: I. Goodfellow, O. Vinyals, A. Saxe, *Qualitatively characterizing neural network optimization problems*,
    ICLR 2015; S. Kornblith et al., *Similarity of neural network representations revisited*, ICML 2019 (CKA); K.
    Shoemake, *Animating rotation with quaternion curves*, SIGGRAPH 1985 (slerp); W. Cochran, *Sampling Techniques*,
    1977 (intervals of samples of a data set).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    >>> ends = torch.tensor([[0.0, 0], [2, 1]])
    >>> zero, solution = ({"weight": end[:1, None], "bias": end[1:]} for end in ends)
    >>> result = landscape.walk(zero, solution, problem=problem, points=3)
    >>> result
    Result(line: line x alpha 1x3; loss, loss_se)
    >>> result["loss"].round(3).tolist()
    [[2.419, 0.605, 0.0]]
    """
    require(walk, locals())
    sharing = Sharing(workers=workers, shard=shard)
    certifying = Certifying(certify=certify, certify_cells=certify_cells)
    accuracy = LineAccuracy(tolerance=tolerance, floor=floor, above=above, budget=budget, population=population)
    if accuracy and certify is not None:
        raise LandscapeError("`certify` bounds what `tolerance` and `budget` estimate: leave it, or both of them, out")
    if accuracy and span != (0.0, 1.0):
        raise LandscapeError("lines are measured from alpha 0 to 1: leave `span`, or `tolerance` and `budget`, out")
    if (sharing.workers > 1 or sharing.shard) and (accuracy or certify is not None):
        raise LandscapeError(
            "`tolerance`, `budget` and `certify` look at all lines in one process: leave them out, or `workers` and "
            "`shard`"
        )
    comparing = Comparing(disagreement=disagreement, cka=tuple(cka))
    if comparing and accuracy:
        raise LandscapeError(
            "`tolerance` and `budget` find no other metric than the loss: leave them, or `disagreement` and `cka`, out"
        )
    if comparing and engine not in ("auto", "plain"):
        raise LandscapeError(f'`disagreement` and `cka` are of the plain engine: leave `engine="{engine}"` out')
    route = Route(
        a=held(a, "a"),
        b=None if b is None else held(b, "b"),
        via=tuple(held(place, f"via {number}") for number, place in enumerate(via, start=1)),
        path=path,
        rays=tuple(rays),
        normalise=normalise,
        all_parameters=all_parameters,
        pairs=pairs,
        order=order,
        align=align,
        only=tuple(only),
        per=per,
        hold=hold,
    )
    knots = [i / (len(via) + 1) for i in range(len(via) + 2)]
    alphas = grid(points, *span, knots=knots)
    file = None if save is None else target(save, overwrite=overwrite)
    compute = Compute.chosen(
        a,
        device=device,
        dtype=dtype,
        batchnorm=batchnorm,
        engine="plain" if comparing else engine,
        autocast=autocast,
        samples=samples,
        seed=seed,
        draws=draws,
        l2=l2,
    )
    told = listening_to(progress)
    with using_threads(threads_each(sharing.workers, torch.get_num_threads())):
        prepared = prepare(route, compute, problem=problem)
        if not accuracy:  # which orders samples by their seed
            compute.require_drawing(prepared.problem, prepared.objective)
        if certifying.certify is not None:
            prepared = certified(prepared, certifying, save=file, overwrite=overwrite, on_progress=told)
        work = dataclasses.replace(_work(prepared, alphas, comparing), yes=yes)
        if accuracy:
            lines = Lines(prepared.objective, accuracy, prepared.problem, prepared.compute, total=len(prepared.lines))
            work = dataclasses.replace(work, measuring=lines)
        again = {"route": route, "compute": compute, "problem": sent(prepared.problem), "alphas": alphas}
        result = evaluated(
            work,
            save=file,
            overwrite=overwrite,
            sharing=sharing,
            again=Call(serving, {"make": _again, "comparing": comparing, **again}),
            on_progress=told,
        )
    if file is not None:
        forgotten(file)
    return result


def _work(prepared: Prepared, alphas: np.ndarray, comparing: Comparing) -> Work:
    """What `evaluate` does of a route's lines."""
    lines, axes = prepared.lines, {"line": np.arange(len(prepared.lines)), "alpha": alphas}
    comparison = Comparison(prepared.objective, comparing) if comparing else None
    about = {**prepared.about, **({} if comparison is None else {"compared": comparison.about()})}
    return Work(prepared.objective, lines.family, axes, lines.columns, lines.sources, (), about, comparing=comparison)


def _again(route: Route, compute: Compute, problem: Problem | Sent, alphas: np.ndarray, comparing: Comparing) -> Work:
    """The same in a worker."""
    return _work(prepare(route, compute, problem=received(problem)), alphas, comparing)
