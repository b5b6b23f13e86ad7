"""Training many seeds in one stack, resumable, each member independent of its companions."""

import bisect
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.core.devices import using_threads
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, TooMuch
from landscape.core.fields import Field, fields_of, require
from landscape.core.files import differences, is_there, require_vacant, write_document
from landscape.core.interrupts import between_steps
from landscape.core.locks import writing
from landscape.core.notebook import Listener, listening_to
from landscape.core.reading import parsed, read_bytes, read_document
from landscape.core.resources import paced, require_disk
from landscape.core.shares import Sharing, balanced, in_order, threads_each
from landscape.core.unfinished import Progress
from landscape.core.workers import Call, Crew, Perform, Tell
from landscape.engine.data import Data
from landscape.engine.determinism import preserved
from landscape.engine.lessons import Lessons
from landscape.engine.memory import Chunk, choose_chunk, keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.program.products import ceil_div
from landscape.engine.stack import Stack, concatenate, finite
from landscape.engine.stacked import Backend
from landscape.problems.base import Problem
from landscape.problems.compute import BACKENDS, Engine
from landscape.problems.registry import Sent, code_of, name_of, received, sent
from landscape.store.checkpoints import SCHEMA, Run, read_tensors, write_tensors
from landscape.training.logs import open_logs, require_logs
from landscape.training.plain import PlainTrainer
from landscape.training.plan import Plan, Training, completed, planned, save_steps
from landscape.training.trainer import Trainer

__all__ = ["Training", "default_output", "save_steps", "merge", "train", "unusual"]

_log = logging.getLogger("landscape")

#: By stacks of many networks, or by each network's own forward.
AnyTrainer = Trainer | PlainTrainer

#: Bytes of what an optimizer remembers up to which it is kept at the end.
_KEPT_MOMENTS = 2**26

#: Times that losses are logged, about, and how many of them at most, but for ten times.
_LOGGED, _LOGGED_LOSSES = 100, 10**7

#: What says how the members of a run were parted among workers.
_PARTS = "parts.json"


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
    workers: int = 1,
    shard: str | None = None,
    overwrite: bool = False,
    keep: bool = False,
    logs: Sequence[str] = (),
    yes: bool = False,
    progress: Listener = None,
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
            own forward with the loss as it was given; fused trains Life in compiled loops.
        resume_every: Seconds between resume states, which a kill loses at most.
        workers: Processes that share the members and this machine's threads; one that dies is replaced. Tensors are
            those of one process with as many threads and chunks as the run's `computation` says: small networks, which
            are trained many at once, are trained in chunks that are small enough for all workers to have one.
        shard: Only a part of the members, such as `1/4`, the first of four, as a run that says so; `landscape merge`
            makes one run of all.
        overwrite: Begin anew in the place of the run that is there.
        keep: Give a run that is there, finished, as it is, instead of an error.
        logs: Where losses go too, `tensorboard` or `wandb`.
        yes: Go on where memory or disk seem not to be there, or time: more than a year, by the first seconds.
        progress: A function, called with (steps done, steps in all), or True for a bar (extra `progress`, tqdm).

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
    sharing = Sharing(workers=workers, shard=shard)
    plan = planned(problem, training, seeds, data_seeds, device=device, start=start, yes=yes)
    path = sharing.named(default_output(plan.problem)) if output is None else Path(output)
    with using_threads(threads_each(workers, torch.get_num_threads())):
        if shard is not None:
            unit = _unit(_teacher(plan, engine, {}, sharing.parts))
            plan = plan.members(sharing.part(len(plan.seeds), unit=unit, what="seeds"), shard)
        found = _found(path, plan, overwrite=overwrite) if keep else None
        if found is not None and plan.training.batches in found.steps():
            return dataclasses.replace(found, trained_on=plan.problem)
        saved = len(plan.training.save_at or ()) + 2  # what the optimizer remembers, too
        size = len(plan.seeds) * plan.initial.parameters * plan.initial.dtype.itemsize * saved
        require_disk(size, path / "run.json", "the checkpoints", "save fewer steps with `save_at`", yes=yes)
        told = paced(listening_to(progress), "take fewer `batches` or `seeds`", yes=yes)
        with writing(path, directory=True):
            run, trainer = _begun(path, plan, engine, overwrite=overwrite, parts=sharing.parts)
            fresh = not run.steps() and not is_there(run.parts_path / _PARTS)
            try:
                if workers == 1 and not is_there(run.parts_path / _PARTS):
                    return _run(plan, trainer, run, logs=logs, resume_every=resume_every, progress=told)
                how: dict[str, Any] = {
                    "problem": sent(plan.problem),
                    "training": plan.training,
                    "start": start,
                    "device": plan.device,
                }
                how |= {"engine": engine, "resume_every": resume_every}
                return _shared(plan, _unit(trainer.teacher), run, how, workers=workers, logs=logs, progress=told)
            except TooMuch:
                if fresh:
                    run.remove_parts()
                    Run.remove(path)
                raise


def _begun(
    path: Path,
    plan: Plan,
    engine: Engine,
    *,
    overwrite: bool,
    parts: int = 1,
    computation: Mapping[str, Any] | None = None,
) -> tuple[Run, AnyTrainer]:
    """The run at a path, made if it is not there or is replaced, and what trains it, by a certain `computation` or in
    chunks that make so many `parts`.
    """
    run = _found(path, plan, overwrite=overwrite)
    if run is not None and plan.training.batches in run.steps():
        run.resume_path.unlink(missing_ok=True)  # a kill left it
        run.remove_parts()
        raise LandscapeError(
            f"{path} is finished: choose another run with `output`, or replace it with `overwrite=True`"
        )
    keep_freed_memory()
    begun = (computation or {}) if run is None else run.document["computation"]
    trainer = _trainer(plan, engine, begun, parts)
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
    if run.imported is not None or "recorded" in run.document["training"]:
        raise LandscapeError(
            f"{path} holds imported checkpoints, or recorded ones, whose training cannot be taken up: choose another "
            "run with `output` (and begin at these with `start`), or replace it with `overwrite=True`"
        )
    there = {key: run.document.get(key) for key in wanted}
    there["training"] = completed(there["training"])
    if part := run.document.get("part"):
        there["part"] = part
    if different := differences(there, wanted):
        raise Mismatch(
            f"{path} holds another run: {different}. Choose another with `output`, or replace it with `overwrite=True`"
        )
    return run


def _trainer(plan: Plan, engine: Engine, begun: Mapping[str, Any], parts: int) -> AnyTrainer:
    """What trains the members of a plan."""
    teacher = _teacher(plan, engine, begun, parts)
    return Trainer(plan, teacher) if isinstance(teacher, Objective) else PlainTrainer(plan, teacher)


def _unit(teacher: Objective | Lessons) -> int:
    """How many members are trained together, whatever others there are."""
    return teacher.chunk.members if isinstance(teacher, Objective) and teacher.fused is None else 1


def _teacher(plan: Plan, engine: Engine, begun: Mapping[str, Any], parts: int) -> Objective | Lessons:
    """What is descended: by the engine that is asked for, or as the run was begun, or as serves best."""
    training = plan.training
    backend = begun.get("backend") if engine == "auto" else BACKENDS[engine]
    if engine == "fused" or backend == "fused":
        return _prepare(plan, BACKENDS["fused"], begun.get("chunk"), parts).with_fused(training=True)
    one_by_one = engine == "plain" or backend == "plain"
    if backend is None and engine == "auto":
        one_by_one = not plan.problem.trains_in_stacks(training.data, training.batch_size, plan.device)
    if one_by_one:
        lessons = plan.problem.lessons(device=plan.device, dtype=getattr(torch, training.dtype))
        if lessons is not None:
            return lessons
    return _prepare(plan, backend, begun.get("chunk"), parts)


def _prepare(plan: Plan, backend: Backend | None, chunk: Mapping[str, Any] | None, parts: int) -> Objective:
    """What the plan's training descends, by the backend and in chunks as the run was begun, or as serves best: in
    smaller ones where else there would not be one for each of so many parts.
    """
    problem, training = plan.problem, plan.training
    objective = problem.training_objective(training.data, device=plan.device, dtype=getattr(torch, training.dtype))
    if backend is None and objective.network.stochastic and objective.network.backend == "vmap":
        backend = "loop"  # vmap draws for all members at once
    objective = objective.with_backend(backend)
    if chunk is not None:
        return dataclasses.replace(objective, chunk=Chunk(**chunk))
    probe = _probe(problem, training, objective)
    count = len(plan.all.seeds)
    chosen = choose_chunk(objective.network, probe, training=True, most=count)
    if ceil_div(count, chosen.members) < parts:
        chosen = choose_chunk(objective.network, probe, training=True, most=ceil_div(count, parts))
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
    times = max(10, min(_LOGGED, _LOGGED_LOSSES // len(plan.all.seeds)))
    logged = {*saved, *range(0, training.batches, max(1, training.batches // times))}
    last_kept = time.monotonic()

    def keep(step: int) -> None:
        write_tensors(resume, trainer.state(), {"kind": "resume", "step": step, "run": run.digest})

    with open_logs(run, first, logs) as log, preserved(), between_steps() as heed:
        step, stops = first, sorted({*saved, *logged})
        while True:
            if step == training.batches:  # before the last step, with which a run is finished
                _keep_moments(run, trainer, plan)
            if step in saved:
                run.save(step, trainer.stack)
            if step == training.batches:
                break
            steps = range(step, min(step + trainer.at_once, stops[bisect.bisect(stops, step)]))
            trainer.advance(steps, with_loss=step in logged)
            try:
                if step in logged:
                    log(step, trainer.loss.double().cpu().numpy())
                progress(steps.stop, training.batches)
                heed()
            except BaseException:
                keep(steps.stop)
                raise
            step = steps.stop
            if time.monotonic() - last_kept >= resume_every:
                keep(step)
                last_kept = time.monotonic()
    resume.unlink(missing_ok=True)
    if diverged := int(finite(trainer.stack.flatten()).logical_not().sum()):
        _log.warning(
            "%d of %d members diverged: their parameters are NaN or infinite. Lower `lr`", diverged, len(plan.seeds)
        )
    return run


def _shared(
    plan: Plan, unit: int, run: Run, how: Mapping[str, Any], *, workers: int, logs: Sequence[str], progress: Progress
) -> Run:
    """Train the members of a run in workers, each part a run in `parts/`, and put them together."""
    file, total = run.parts_path / _PARTS, plan.training.batches
    if is_there(run.resume_path):
        raise Mismatch(
            f"{run.path} was begun by one process: go on as it was begun, without `workers`, or begin anew with "
            "`overwrite=True`"
        )
    if not is_there(file):
        found = balanced(range(len(plan.seeds)), workers, unit)
        write_document(
            file, {"schema": SCHEMA, "run": run.digest, "parts": [[each.start, each.stop] for each in found]}
        )
    document = read_document(file, SCHEMA, {"run": str, "parts": [[int, ...], ...]})
    if document["run"] != run.digest:
        raise Mismatch(
            f"{file} belongs to another run than {run.path / 'run.json'} says: begin anew with `overwrite=True`"
        )
    parts = [range(*each) for each in document["parts"]]
    if len(parts) < workers:
        _log.warning(
            "%d of %d workers have work: %d seeds are trained %d at a time", len(parts), workers, len(plan.seeds), unit
        )
    paths = {part.start: run.parts_path / f"{part.start:08d}-{part.stop:08d}" for part in parts}
    first = plan.part["begin"] if plan.part else 0
    tasks = [_Task(first + part.start, first + part.stop, paths[part.start]) for part in parts]
    whole = {"seeds": plan.all.seeds, "data_seeds": plan.all.data_seeds, "work": plan.all.digest}
    call = Call(serving, {**how, **whole, "computation": run.document["computation"]})
    done: dict[int, int] = {}
    with Crew(call, workers=min(workers, len(parts)), threads=torch.get_num_threads()) as crew:
        for task, is_answer, step in crew.perform(iter(tasks), lambda task: f"seeds {task.begin} to {task.end - 1}"):
            done[task.begin] = total if is_answer else step
            steps = sum(done.get(task.begin, 0) * (task.end - task.begin) for task in tasks)
            progress(steps // len(plan.seeds), total)
    _put_together(run, [Run.open(path) for path in paths.values()], logs)
    run.remove_parts()
    return run


@dataclasses.dataclass(frozen=True)
class _Task:
    """Some consecutive members, by their numbers in the whole, and where their run is."""

    begin: int
    end: int
    path: Path


def serving(
    problem: Problem | Sent,
    training: Training,
    seeds: Sequence[int],
    data_seeds: Sequence[int],
    start: Stack | None,
    device: torch.device,
    engine: Engine,
    work: str,
    computation: Mapping[str, Any],
    resume_every: float,
) -> Perform:
    """What a worker does for a run that is shared."""
    plan = planned(received(problem), training, seeds, data_seeds, device=device, start=start, yes=True)
    if plan.digest != work:
        raise Mismatch("a worker comes to another training than its parent: has the file at `start` changed?")

    def perform(task: _Task, tell: Tell) -> Iterator[tuple[Any, None]]:
        part = plan.members(range(task.begin, task.end), f"{task.begin} to {task.end - 1}")
        with writing(task.path, directory=True):
            found = _found(task.path, part, overwrite=False)
            if found is None or training.batches not in found.steps():
                run, trainer = _begun(task.path, part, engine, overwrite=False, computation=computation)
                if different := differences(computation, _computation(trainer)):
                    raise Mismatch(f"a worker computes otherwise than its parent: {different}")
                _run(part, trainer, run, logs=(), resume_every=resume_every, progress=lambda done, total: tell(done))
        yield training.batches, None

    return perform


def _put_together(run: Run, parts: Sequence[Run], logs: Sequence[str] = ()) -> None:
    """Write what the runs of all members' parts hold as that of one."""
    lines = [read_bytes(part.path / "log.jsonl").splitlines() for part in parts]
    with open_logs(run, 0, logs) as log:
        for row in zip(*lines, strict=True):
            found = [parsed(line, parts[0].path / "log.jsonl") for line in row]
            log(found[0]["step"], np.array([np.nan if x is None else x for each in found for x in each["loss"]]))
    kept = [read_tensors(part.optimizer_path) for part in parts if is_there(part.optimizer_path)]
    size = sum(each.nbytes for moments, _ in kept for each in moments.values())
    if len(kept) == len(parts) and size <= _KEPT_MOMENTS:
        moments = {name: torch.cat([each[name] for each, _ in kept]) for name in kept[0][0]}
        write_tensors(run.optimizer_path, moments, {key: kept[0][1][key] for key in ("kind", "optimizer", "step")})
    for step in parts[0].steps():
        run.save(step, concatenate([part.checkpoint(step).stack for part in parts]))


def merge(paths: Sequence[Path], output: Path, *, overwrite: bool = False) -> Run:
    """Write the run of which runs are shards, as if it had been trained at once, but for time and command.

    Raises:
        LandscapeError: One is not finished.
        Mismatch: One is missing, there twice, or of another training; it says which.
    """
    runs = [Run.open(path) for path in paths]
    order = in_order([(str(run.path), run.document.get("part")) for run in runs])
    parts = [runs[number] for number in order]
    for part in parts:
        if part.document["training"]["batches"] not in part.steps():
            raise LandscapeError(f"{part.path} is not finished: repeat the command that began it")
        if different := differences(parts[0].document["computation"], part.document["computation"]):
            raise Mismatch(f"{parts[0].path} and {part.path} were computed in different ways: {different}")
    own = ("part", "schema", "created", "command", "versions", "sha256")
    document = {key: value for key, value in parts[0].document.items() if key not in own}
    document |= {key: [seed for part in parts for seed in part.document[key]] for key in ("seeds", "data_seeds")}
    with Run.made(output, overwrite=overwrite):
        Run.remove(output)
        _put_together(Run(output, document), parts)
        return Run.create(output, document)
