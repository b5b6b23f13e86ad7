"""`landscape.polish`: every member taken to where it can go no further, or a reason why not."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.analysis.convergence import KINDS, NEARLY, STOP, Descent, prepared
from landscape.core.errors import Mismatch
from landscape.core.fields import Field, as_path, require
from landscape.core.files import differences, is_there
from landscape.core.notebook import Listener, listening_to
from landscape.core.unfinished import Progress
from landscape.engine.descent import AT_END
from landscape.engine.stack import Stack, fingerprint
from landscape.problems.base import Problem
from landscape.problems.compute import Engine
from landscape.problems.places import Place, checkpoint_at, label_of
from landscape.problems.registry import code_of, record
from landscape.store.checkpoints import Run, read_tensors, write_tensors

__all__ = ["polish", "polished"]

#: Members that go down together, and whose result is then kept: of few, the last ones would cost as much as many.
_TOGETHER = 256

_STEPS = Field("steps", int, 200, at_least=10)


def polish(
    a: Place,
    output: str | os.PathLike[str],
    *,
    problem: Problem | str | None = None,
    steps: int = 200,
    engine: Engine = "auto",
    overwrite: bool = False,
    progress: Listener = None,
) -> Run:
    """Take every member to where it can go no further, and write them as a run that says which kind each is.

    The descent is that of `landscape.convergence`, to where what its model sees left is below 1e-9 of the loss.
    Members that get every target right, whose loss has its infimum 0 at infinity, have their last layer multiplied
    until the loss is 1e-9 and stop there; others that go towards infinity stop where less than 1e-9 of the loss is
    left. The kind of each is what `landscape.convergence` says of it where it came to, with a tolerance of 1e-6:
    those that fall by more are called falling. It is not `sure` of members with more than 1e-9 left. A member that
    ten steps bring less than 1e-7 of its loss goes no further, and is said to have `stalled`. Large networks that
    can hardly fall go on until the L2 norm of the gradient is 1e-8, if rounding lets them.

    Args:
        a: A place, as in `landscape.walk`, of one or several members.
        output: Directory of the new run.
        problem: Model, data and loss. None: that of the run or checkpoint. The loss must be exact.
        steps: Newton's steps at most (of networks of more than 400 parameters truncated ones, and before them ten of
            L-BFGS for each), at least a decade.
        engine: As in `landscape.walk`.
        overwrite: Replace the run that is there, and forget other work that was begun for it. What is finished, 256
            members after another, is kept beside `output`: an interrupted call goes on there when it is repeated.
        progress: A function, called with (members done, members in all), or True for a bar (extra `progress`, tqdm).

    Returns:
        The run, with one checkpoint in float64, of the members' own step; `run.document["polished"]` says what was
        done, and of each member its kind, loss, limit, gradient norm, whether it has stalled, and the fall that is left
        as a share of the loss (half Newton's decrement squared over the loss).

    Raises:
        Mismatch: What was left beside `output` belongs to other work, and `overwrite` is not given.
        LandscapeError: In one line, what is wrong and what to write instead; for sampled and random losses. Nothing is
            written then.

    Source: J. Nocedal, S. J. Wright, *Numerical Optimization*, 2006, chapters 3 and 7; R. Mifflin, C. Sagastizábal,
    Math. Program. 104, 2005 (kinks).

    >>> import landscape, tempfile, torch
    >>> x = torch.linspace(-1, 1, 3)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    >>> run = landscape.polish(torch.nn.Linear(1, 1), tempfile.mkdtemp(), problem=problem)
    >>> run.document["polished"]["members"][0]["kind"]
    'converged'
    """
    require(polish, locals(), _STEPS)
    path = as_path(output, "output")
    Run.require_free(path, overwrite=overwrite)
    descent = prepared(a, problem, engine)
    checkpoint = checkpoint_at(a)
    sources = () if checkpoint is None else checkpoint.sources
    seeds = [source.seed for source in sources if source.seed is not None]
    if len(seeds) < len(descent.stack) or len(set(seeds)) < len(seeds):
        seeds = list(range(len(descent.stack)))
    step = next((source.step for source in sources if source.step is not None), 0)
    work = {
        "from": label_of(a),
        "sha256": fingerprint({**descent.stack.tensors, **descent.stack.buffers}),
        "steps": steps,
        "method": descent.about["method"],
        "at_end": AT_END,
        "loss_at_infinity": STOP,
    }
    plan = {**work, **record(descent.problem), "threads": torch.get_num_threads()}
    resume = path.with_name(f"{path.name}.resume.safetensors")
    with Run.made(path, overwrite=overwrite):
        rows = _taken_up(resume, plan, force=overwrite)
        stack, columns = polished(descent, steps, rows, functools.partial(_keep, resume, plan), listening_to(progress))
        run = Run(path, _document(descent, step, work, columns, seeds))
        Run.remove(path)
        run.save(step, stack)
        run = Run.create(path, run.document)
    resume.unlink(missing_ok=True)
    return Run(path, run.document, descent.problem)


def _document(
    descent: Descent, step: int, work: Mapping[str, Any], columns: Mapping[str, np.ndarray], seeds: list[int]
) -> dict[str, Any]:
    """What `run.json` says."""
    members = [
        {"member": label, **{name: _plain(name, values[number]) for name, values in columns.items()}}
        for number, label in enumerate(descent.labels)
    ]
    return {
        **record(descent.problem),
        **code_of(descent.problem),
        "training": {"polished": True, "batches": step},
        "polished": {**work, "tolerance": NEARLY, "members": members},
        "seeds": seeds,
        "data_seeds": seeds,
        "computation": {"device": "cpu", "dtype": "float64", "threads": torch.get_num_threads()},
    }


def polished(
    descent: Descent,
    steps: int,
    rows: Mapping[str, torch.Tensor] | None = None,
    keep: Callable[[dict[str, torch.Tensor]], None] = lambda rows: None,
    progress: Progress | None = None,
) -> tuple[Stack, dict[str, np.ndarray]]:
    """All members where they can go no further, some together, and the columns of what they are; `rows` are of those
    that were done before, and `keep` is called with those that are done.
    """
    stack, total, rows = descent.stack, len(descent.stack), dict(rows or {})
    done = len(rows["flat"]) if rows else 0
    for first in range(done, total, _TOGETHER):
        part = stack.select(range(first, min(first + _TOGETHER, total)))
        tell = None if progress is None else functools.partial(_offset, progress, first, total)
        new = _block(descent, part, steps, tell or (lambda done, total: None))
        rows = {name: torch.cat([rows[name], each]) for name, each in new.items()} if rows else new
        keep(rows)
    whole = stack.unflatten(rows["flat"])
    network = descent.problem.prototype
    tensors = {**whole.tensors, **stack.buffers}
    names = [name for name, _ in network.named_parameters()]
    kept = Stack(
        {name: tensors[name] for name in names if name in tensors},
        {name: each for name, each in tensors.items() if name not in names},
    )
    return kept, {name: each.numpy() for name, each in rows.items() if name != "flat"}


def _block(descent: Descent, part: Stack, steps: int, progress: Progress) -> dict[str, torch.Tensor]:
    """Some members: where they came to, and what they are; those that are not finite stay."""
    finite = descent.finite(part)
    flat, index = part.flatten().clone(), finite.nonzero()[:, 0]
    missing = {"kind": list(KINDS).index("diverged"), "sure": 1, "stalled": 0, "kinks": -1, "negative": -1}
    rows = {name: torch.full((len(part),), missing.get(name, torch.nan), dtype=torch.float64) for name in _COLUMNS}
    if len(index):
        found, went = descent.judged(part.select(index), tolerance=0.5, steps=steps, whole=True, on_progress=progress)
        flat[index] = went.flatten()
        for name in _COLUMNS:
            rows[name][index] = torch.from_numpy(found[name]).double()
    return {"flat": flat, **rows}


#: What is said of each member.
_COLUMNS = (
    "kind",
    "loss",
    "limit",
    "limit_error",
    "fall",
    "radial",
    "sure",
    "stalled",
    "gradient_norm",
    "pull",
    "kinks",
    "negative",
)


def _plain(name: str, value: float) -> Any:
    if name == "kind":
        return list(KINDS)[int(value)]
    if name in ("sure", "stalled"):
        return bool(value)
    return int(value) if name in ("kinks", "negative") else float(value)


def _offset(progress: Progress, first: int, whole: int, done: int, total: int) -> None:
    progress(first + done, whole)


def _keep(resume: Path, plan: Mapping[str, Any], rows: dict[str, torch.Tensor]) -> None:
    write_tensors(resume, rows, {"kind": "polish", "plan": plan})


def _taken_up(resume: Path, plan: Mapping[str, Any], *, force: bool) -> dict[str, torch.Tensor]:
    """What an interrupted call left; raises `Mismatch` if it belongs to other work."""
    if not is_there(resume):
        return {}
    rows, document = read_tensors(resume)
    different = (
        differences(document.get("plan", {}), plan) if document.get("kind") == "polish" else "it is no such state"
    )
    if not different:
        return rows
    if force:
        return {}
    raise Mismatch(
        f"{resume} keeps members of other work: {different}. Repeat that, choose another `output`, or start anew with "
        "`overwrite=True`"
    )
