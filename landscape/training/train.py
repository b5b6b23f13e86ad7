"""Training many seeds in one stack, resumable, each member independent of its companions."""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, TooMuch, Unsupported
from landscape.core.fields import Field, fields_of, require
from landscape.core.files import differences, is_there, require_vacant
from landscape.core.interrupts import between_steps
from landscape.core.locks import writing
from landscape.core.resources import paced, require_disk
from landscape.core.unfinished import Progress
from landscape.engine.data import Data
from landscape.engine.determinism import preserved
from landscape.engine.memory import Chunk, choose_chunk, keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, finite
from landscape.engine.stacked import Backend
from landscape.problems.base import Problem
from landscape.problems.compute import BACKENDS, Engine
from landscape.problems.registry import code_of, name_of
from landscape.store.checkpoints import Run, read_tensors, write_tensors
from landscape.training.logs import open_logs, require_logs
from landscape.training.plain import PlainTrainer
from landscape.training.plan import Plan, Training, completed, planned, save_steps
from landscape.training.trainer import Trainer

__all__ = ["Training", "default_output", "save_steps", "train", "unusual"]

_log = logging.getLogger("landscape")

#: By stacks of many networks, or by each network's own forward.
AnyTrainer = Trainer | PlainTrainer

#: Bytes of what an optimizer remembers up to which it is kept at the end.
_KEPT_MOMENTS = 2**26

#: Times that losses are logged, about, and how many of them at most, but for ten times.
_LOGGED, _LOGGED_LOSSES = 100, 10**7


def train(
    problem: Problem | str,
    training: Training | Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    seeds: Sequence[int] = range(20),
    data_seeds: Sequence[int] | None = None,
    start: Stack | None = None,
    device: str | torch.device | None = None,
    engine: Engine = "auto",
    resume_every: float = 10.0,
    overwrite: bool = False,
    keep: bool = False,
    logs: Sequence[str] = (),
    yes: bool = False,
    progress: Progress = lambda done, total: None,
) -> Run:
    """Train one member a seed and write their checkpoints to a directory, a run.

    A directory that holds an interrupted run of the same configuration is taken up where it was stopped, or, if it was
    killed, where its last resume state left it; the tensors are the same as without the interruption. Losses of the
    members on their batches go to `log.jsonl` there, about a hundred times (those of a million members ten times). All
    arguments are checked before any work.

    Args:
        problem: What is learnt, or its name.
        training: Optimizer, data, initialisation and what else `Training` has, or a mapping of some of its fields.
        output: Directory of the run; without it `checkpoints/` with the name of the problem.
        seeds: Seeds of the initial parameters, each a member.
        data_seeds: Seeds of the data: as many, or one for all; without them the seeds.
        start: A stack of one member for all or of one each, where they begin, as with `Training.start` by name.
        device: Where to compute: auto, cpu or cuda; the CPU if none is given.
        engine: As in `landscape.walk`; auto is stacked for small networks that stacks can train, else each network's
            own forward with the loss as it was given.
        resume_every: Seconds between resume states, which a kill loses at most.
        overwrite: Begin anew in the place of the run that is there.
        keep: Give a run that is there, finished, as it is, instead of an error.
        logs: Where losses go too, `tensorboard` or `wandb`.
        yes: Go on where memory or disk seem not to be there, or time: more than a year, by the first seconds.
        progress: Called with (steps done, steps in all).

    Returns:
        The run, with its last step saved.

    Raises:
        LandscapeError: For what makes no sense, and if `output` holds something else, or this run, finished.
        Busy: If somebody else is writing it.
        TooMuch: If memory, disk or time are not there; nothing was written then.
        Mismatch: If `output` holds another run; it says what differs.

    Example:
        >>> import tempfile
        >>> run = train("life", {"batches": 2}, tempfile.mkdtemp(), seeds=range(3))
        >>> run.steps(), len(run.checkpoint().stack)
        ([0, 1, 2], 3)
    """
    require(train, locals(), Field("resume_every", float, 10.0, at_least=0))
    require_logs(logs)
    plan = planned(problem, training, seeds, data_seeds, device=device, start=start, yes=yes)
    path = default_output(plan.problem) if output is None else Path(output)
    if keep and (run := _found(path, plan, overwrite=overwrite)) is not None and plan.training.batches in run.steps():
        return dataclasses.replace(run, trained_on=plan.problem)
    saved = len(plan.training.save_at or ()) + 2  # what the optimizer remembers, too
    size = len(plan.seeds) * plan.initial.parameters * plan.initial.dtype.itemsize * saved
    require_disk(size, path / "run.json", "the checkpoints", "save fewer steps with `save_at`", yes=yes)
    progress = paced(progress, "take fewer `batches` or `seeds`", yes=yes)
    with writing(path, directory=True):
        run, trainer = _begun(path, plan, engine, overwrite=overwrite)
        fresh = not run.steps()
        try:
            return _run(plan, trainer, run, logs=logs, resume_every=resume_every, progress=progress)
        except TooMuch:
            if fresh:
                Run.remove(path)
            raise


def _begun(path: Path, plan: Plan, engine: Engine, *, overwrite: bool) -> tuple[Run, AnyTrainer]:
    """The run at a path, made if it is not there or is replaced, and what trains it."""
    run = _found(path, plan, overwrite=overwrite)
    if run is not None and plan.training.batches in run.steps():
        run.resume_path.unlink(missing_ok=True)  # a kill left it
        raise LandscapeError(
            f"{path} is finished: choose another run with `output`, or replace it with `overwrite=True`"
        )
    keep_freed_memory()
    begun = {} if run is None else run.document["computation"]
    trainer = _trainer(plan, engine, begun)
    if run is None:
        Run.remove(path)
        run = Run.create(path, {**plan.document(), **code_of(plan.problem), "computation": _computation(trainer)})
    else:
        _require_same_computation(run, trainer)
    return dataclasses.replace(run, trained_on=plan.problem), trainer


def unusual(problem: Problem) -> dict[str, Any]:
    """The options of a problem that are not at their defaults."""
    fields = fields_of(type(problem))
    return {key: value for key, value in problem.config().items() if key in fields and value != fields[key].default}


def default_output(problem: Problem) -> Path:
    """Where a run goes that is given no place: named for the problem, and for what is not as usual in it."""
    name = "-".join([name_of(problem), *(f"{key}={value}" for key, value in unusual(problem).items())])
    return Path("checkpoints") / name.replace("/", "").replace(":", "-")


def _found(path: Path, plan: Plan, *, overwrite: bool) -> Run | None:
    """The run that is to be taken up at `path`, None for a new one; raises `LandscapeError` for what is not the plan's.

    Computation apart, which nothing says before it is prepared.
    """
    if not is_there(path / "run.json"):
        require_vacant(path, "run")
        return None
    if overwrite:
        return None
    run, wanted = Run.open(path), plan.document()
    if run.imported is not None:
        raise LandscapeError(
            f"{path} holds imported checkpoints, whose training cannot be taken up: choose another run with `output` "
            "(and begin at these with `start`), or replace it with `overwrite=True`"
        )
    there = {key: run.document.get(key) for key in wanted}
    there["training"] = completed(there["training"])
    if different := differences(there, wanted):
        raise Mismatch(
            f"{path} holds another run: {different}. Choose another with `output`, or replace it with `overwrite=True`"
        )
    return run


def _trainer(plan: Plan, engine: Engine, begun: Mapping[str, Any]) -> AnyTrainer:
    """What trains: by the engine that is asked for, or as the run was begun, or as serves best."""
    if engine == "fused":
        raise Unsupported('`engine="fused"` evaluates losses and does not train: use `engine="stacked"`')
    training = plan.training
    backend = begun.get("backend") if engine == "auto" else BACKENDS[engine]
    one_by_one = engine == "plain" or backend == "plain"
    if backend is None and engine == "auto":
        one_by_one = not plan.problem.trains_in_stacks(training.data, training.batch_size, plan.device)
    if one_by_one:
        lessons = plan.problem.lessons(device=plan.device, dtype=getattr(torch, training.dtype))
        if lessons is not None:
            return PlainTrainer(plan, lessons)
    return Trainer(plan, _prepare(plan, backend, begun.get("chunk")))


def _prepare(plan: Plan, backend: Backend | None, chunk: Mapping[str, Any] | None) -> Objective:
    """What the plan's training descends, by the backend and in chunks as the run was begun, or as serves best."""
    problem, training = plan.problem, plan.training
    objective = problem.training_objective(training.data, device=plan.device, dtype=getattr(torch, training.dtype))
    if backend is None and objective.network.stochastic and objective.network.backend == "vmap":
        backend = "loop"  # vmap draws for all members at once
    objective = objective.with_backend(backend)
    if chunk is not None:
        return dataclasses.replace(objective, chunk=Chunk(**chunk))
    probe = _probe(problem, training, objective)
    chosen = choose_chunk(objective.network, probe, training=True, most=len(plan.seeds))
    if objective.network.normalises:  # by the statistics of the whole batch
        chosen = dataclasses.replace(chosen, samples=len(probe))
    return dataclasses.replace(objective, chunk=chosen)


def _probe(problem: Problem, training: Training, objective: Objective) -> Data:
    """Data of the kind that training sees: that of all, or such as each of two members has."""
    if training.data == "exact":
        return objective.memory
    keys = torch.zeros(1 if training.shared_data else 2, dtype=torch.int64, device=objective.device)
    return problem.training_batch(keys, 0, training.batch_size, device=objective.device, dtype=objective.dtype)


def _computation(trainer: AnyTrainer) -> dict[str, Any]:
    """What changes the last digits of a run, as it stands in its `run.json`."""
    return {"threads": torch.get_num_threads(), **trainer.computation}


def _require_same_computation(run: Run, trainer: AnyTrainer) -> None:
    """Raise `Mismatch` if a run was begun where it would come to other digits."""
    here = _computation(trainer)
    begun = {"backend": here["backend"], **run.document["computation"]}
    if different := differences(begun, here):
        raise Mismatch(
            f"{run.path} was begun elsewhere: {different}. Go on as it was begun (`device`, `engine`, OMP_NUM_THREADS) "
            "or use `overwrite=True`"
        )


def _keep_moments(run: Run, trainer: AnyTrainer, plan: Plan) -> None:
    """Keep what the optimizer remembers, for a training that goes on from there, unless that is large."""
    moments = {name: each for name, each in trainer.state().items() if name in trainer.optimizer.moments}
    if moments and sum(each.nbytes for each in moments.values()) <= _KEPT_MOMENTS:
        steps = plan.training.batches + (plan.continued.step if plan.continued else 0)
        write_tensors(
            run.optimizer_path, moments, {"kind": "optimizer", "optimizer": plan.training.optimizer, "step": steps}
        )


def _resumed(run: Run, resume: Path, trainer: AnyTrainer) -> int:
    """Take up the state that an interrupted training left; returns the next step."""
    try:
        tensors, document = read_tensors(resume)
    except DamagedFile as error:
        raise DamagedFile(f"{resume} is damaged: delete it to begin this run anew") from error
    if document.get("run", run.digest) != run.digest:
        raise Mismatch(f"{resume} is the state of another run than {run.path / 'run.json'} says: delete one of them")
    return trainer.restore(tensors, document)


def _run(
    plan: Plan, trainer: AnyTrainer, run: Run, *, logs: Sequence[str], resume_every: float, progress: Progress
) -> Run:
    """Go on with a run to its last step."""
    training, resume = plan.training, run.resume_path
    first = _resumed(run, resume, trainer) if is_there(resume) else trainer.begin(plan.initial)
    saved = {*(training.save_at or ()), training.batches}
    times = max(10, min(_LOGGED, _LOGGED_LOSSES // len(plan.seeds)))
    logged = {*saved, *range(0, training.batches, max(1, training.batches // times))}
    last_kept = time.monotonic()

    def keep(step: int) -> None:
        write_tensors(resume, trainer.state(), {"kind": "resume", "step": step, "run": run.digest})

    with open_logs(run, first, logs) as log, preserved(), between_steps() as heed:
        for step in range(first, training.batches + 1):
            if step == training.batches:  # before the last step, with which a run is finished
                _keep_moments(run, trainer, plan)
            if step in saved:
                run.save(step, trainer.stack)
            if step == training.batches:
                break
            trainer.step(step, with_loss=step in logged)
            try:
                if step in logged:
                    log(step, trainer.loss.double().cpu().numpy())
                progress(step + 1, training.batches)
                heed()
            except BaseException:
                keep(step + 1)
                raise
            if time.monotonic() - last_kept >= resume_every:
                keep(step + 1)
                last_kept = time.monotonic()
    resume.unlink(missing_ok=True)
    if diverged := int(finite(trainer.stack.flatten()).logical_not().sum()):
        _log.warning(
            "%d of %d members diverged: their parameters are NaN or infinite. Lower `lr`", diverged, len(plan.seeds)
        )
    return run
