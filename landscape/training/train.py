"""Training many seeds in one stack, resumable, each member independent of its companions."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core import philox
from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.files import differences
from landscape.core.unfinished import Progress
from landscape.engine.data import Data
from landscape.engine.memory import Chunk, choose_chunk, keep_freed_memory
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack, aliases, fingerprint, in_order, template_of
from landscape.engine.stacked import Backend, Noise
from landscape.problems.base import Problem
from landscape.problems.initialisation import Scheme, initialise
from landscape.problems.places import place_of, verified_landmark
from landscape.store.checkpoints import Run, read_tensors, write_tensors
from landscape.training.logs import JsonLines, Log, open_log, require_logs
from landscape.training.optimizers import ADAM_MOMENTS, adam

__all__ = ["Training", "check", "save_steps", "train"]

#: What each optimizer remembers of a parameter.
_MOMENTS = {"adam": ADAM_MOMENTS, "sgd": ("velocity",)}

#: Stream of the random numbers of layer 0 in training (dropout, RReLU); layer n has the n-th after it.
_NOISE_STREAM = 2**16

#: Times that losses are logged, about.
_TOLD = 100

#: Boards, or other samples, drawn at once for as many members as they serve: bounds the memory of a step.
_DRAWN = 2**17


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a run is trained; raises `LandscapeError` for values that make no sense.

    `data` is all there is (`exact`), random samples (`batches`), or `auto`: exact where there is an exact loss and
    nothing is dropped. Members start at random (`init`), at `start`, a landmark or a place as `store.load` reads it;
    then the blocks of `presolve_blocks` are put at the landmark `presolve`, and with `freeze` kept there.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    batches: int = 3000
    data: Literal["auto", "exact", "batches"] = "auto"
    batch_size: int = 128
    shared_data: bool = False
    init: Scheme = "default"
    init_std: float = 0.1
    init_scale: float = 1.0
    start: str | None = None
    presolve_blocks: tuple[int, ...] = ()
    freeze: bool = False
    save_at: tuple[int, ...] | None = None
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        positive = {
            "lr": self.lr,
            "batch size": self.batch_size,
            "init std": self.init_std,
            "init scale": self.init_scale,
        }
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise LandscapeError(f"{name} is {value}, it must be positive and finite")
        for name, value in {"weight decay": self.weight_decay, "batches": self.batches}.items():
            if not 0 <= value < float("inf"):
                raise LandscapeError(f"{name} is {value}, it must not be negative")
        if not 0 <= self.momentum < 1:
            raise LandscapeError(f"momentum is {self.momentum}, it must be at least 0 and below 1")
        if self.momentum and self.optimizer != "sgd":
            raise LandscapeError(f"momentum goes with optimizer sgd, not {self.optimizer}")
        if self.start is not None and (self.init != "default" or self.init_scale != 1):
            raise LandscapeError(
                f"--start {self.start} leaves nothing to --init and --init-scale: leave one of them out"
            )
        if self.freeze and not self.presolve_blocks:
            raise LandscapeError("there is nothing to freeze: name the blocks with --presolve-blocks")
        if self.save_at is None:
            object.__setattr__(self, "save_at", save_steps(self.batches))
        elif outside := [step for step in self.save_at if not 0 <= step <= self.batches]:
            raise LandscapeError(f"cannot save at step {outside[0]}: the run has steps 0 to {self.batches}")


def save_steps(last: int) -> tuple[int, ...]:
    """Step 0, then 1-2-5 per decade, and the last.

    >>> save_steps(30)
    (0, 1, 2, 5, 10, 20, 30)
    """
    steps = {0, last} | {digit * 10**decade for decade in range(len(str(last))) for digit in (1, 2, 5)}
    return tuple(sorted(step for step in steps if step <= last))


def train(
    problem: Problem,
    training: Training,
    path: Path,
    *,
    seeds: Sequence[int],
    data_seeds: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    start: Stack | None = None,
    resume_every: float = 30.0,
    force: bool = False,
    keep: bool = False,
    logs: Sequence[str] = (),
    backend: Backend | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Run:
    """Train one member a seed and write their checkpoints to the run directory `path`.

    Losses of the members on their batches go to `log.jsonl`, about a hundred times, and to `logs`, `tensorboard` or
    `wandb`. `backend` forces one; without it the stacked engine serves what it can. With `start`, a stack of one member
    for all or of one each, they begin there, as with `training.start` by name.

    A directory that holds an interrupted run with the same configuration is taken up where its last resume state left
    it, which is at most `resume_every` seconds of work back; the tensors are the same as without the interruption.
    Raises `Mismatch`, saying what differs, if it holds another run, unless `force` begins anew in its place, and
    `LandscapeError` if it holds this run finished, unless that is to `keep`.
    """
    if not resume_every >= 0:
        raise LandscapeError(f"resume states every {resume_every} seconds make no sense: give 0 or more")
    require_logs(logs)
    keep_freed_memory()
    data_seeds = list(seeds if data_seeds is None else data_seeds)
    data_seeds = data_seeds * len(seeds) if len(data_seeds) == 1 else data_seeds
    training, start, initial = check(problem, training, seeds, data_seeds, device=device, start=start)
    dtype = getattr(torch, training.dtype)
    objective = problem.training_objective(training.data, device=device, dtype=dtype)
    backend = backend or _begun_with(path, force=force)
    if backend is not None and backend != objective.network.backend:
        objective = objective.with_backend(backend)
    elif objective.network.stochastic and objective.network.backend == "vmap":  # which draws for all members at once
        objective = objective.with_backend("loop")
    probe = _probe(problem, training, objective)
    chunk = choose_chunk(objective.network, probe, training=True, most=len(seeds))
    if objective.network.normalises:  # by the statistics of the whole batch
        chunk = dataclasses.replace(chunk, samples=len(probe))
    objective = dataclasses.replace(objective, chunk=chunk)
    replaces = force and Run.remove(path)
    run = _open(path, problem, training, seeds, data_seeds, objective, start, replaces=replaces, keep=keep)
    if training.batches in run.steps():
        return run
    objective = dataclasses.replace(objective, chunk=Chunk(**run.document["computation"]["chunk"]))
    trainer = _Trainer(problem, training, objective, data_seeds)
    resume = path / "resume.safetensors"
    try:
        first = trainer.restore(*read_tensors(resume)) if resume.exists() else trainer.begin(initial)
    except DamagedFile as error:
        raise DamagedFile(f"{resume} is damaged: delete it to begin this run anew") from error
    assert training.save_at is not None
    told = {*training.save_at, *range(0, training.batches, max(1, training.batches // _TOLD))}
    last_saved = time.monotonic()
    with contextlib.ExitStack() as stack:
        listening: list[Log] = [JsonLines(path / "log.jsonl", first)]
        stack.callback(listening[0].close)
        for name in logs:
            listening.append(open_log(name, path, seeds, run.document))
            stack.callback(listening[-1].close)
        for step in range(first, training.batches + 1):
            if step in training.save_at or step == training.batches:
                run.save(step, trainer.stack)
            if step == training.batches:
                break
            trainer.step(step, with_loss=step in told)
            if step in told:
                losses = trainer.loss.double().cpu().numpy()
                for each in listening:
                    each.write(step, losses)
            on_progress(step + 1, training.batches)
            if time.monotonic() - last_saved >= resume_every:
                write_tensors(resume, trainer.state(), {"kind": "resume", "step": step + 1})
                last_saved = time.monotonic()
    resume.unlink(missing_ok=True)
    return run


def _begun_with(path: Path, *, force: bool) -> Backend | None:
    """The backend of a run that is there to be taken up, if it says one."""
    if force or not (path / "run.json").exists():
        return None
    backend: Backend | None = Run.open(path).document["computation"].get("backend")
    return backend


def check(
    problem: Problem,
    training: Training,
    seeds: Sequence[int],
    data_seeds: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    start: Stack | None = None,
) -> tuple[Training, Stack | None, Stack]:
    """What `train` makes sure of before its first step: the training with its kind of data decided, the place where it
    starts if that is not random, and its members there. Raises `LandscapeError` for what makes no sense.
    """
    training = _with_data(problem, training)
    _check_seeds(seeds, data_seeds, exact=training.data == "exact")
    if start is None and training.start is not None:
        start = place_of(problem, training.start)
    initial = _initial(problem, training, seeds, start)
    if training.freeze and _presolved_names(problem, training) >= initial.tensors.keys():
        raise LandscapeError("all blocks are frozen: leave at least one to train")
    shared = training.data == "exact" or training.shared_data
    data = [0] * len(seeds) if shared else data_seeds
    members = {(row.numpy().tobytes(), key) for row, key in zip(initial.flatten().cpu(), data, strict=True)}
    if len(members) < len(seeds):
        raise LandscapeError(
            f"of {len(seeds)} seeds only {len(members)} would differ: the others start at the same point and see the "
            "same data. Give one seed, or each its own batches with --data batches"
        )
    return training, start, initial


def _with_data(problem: Problem, training: Training) -> Training:
    """The training with its kind of data decided."""
    drops = any(isinstance(layer, nn.Dropout | nn.Dropout2d) and layer.p for layer in problem.network().modules())
    kinds = problem.training_kinds()
    if training.data == "auto":
        usual: Any = "batches" if drops else kinds[0]
        return dataclasses.replace(training, data=usual)
    if training.data not in kinds:
        raise Unsupported(f"{problem.title()} has no exact loss to train on: use --data batches")
    if training.data == "exact" and drops:
        remedy = ", or --dropout 0" if "dropout" in problem.config() else ""
        raise Unsupported(f"dropout has no exact loss to train on: use --data batches{remedy}")
    return training


def _probe(problem: Problem, training: Training, objective: Objective) -> Data:
    """Data of the kind that training sees: that of all, or such as each of two members has."""
    if training.data == "exact":
        return objective.memory
    keys = torch.zeros(1 if training.shared_data else 2, dtype=torch.int64, device=objective.device)
    return problem.training_batch(keys, 0, training.batch_size, device=objective.device, dtype=objective.dtype)


def _initial(problem: Problem, training: Training, seeds: Sequence[int], start: Stack | None) -> Stack:
    """Where each member starts."""
    network, dtype = problem.network(), getattr(torch, training.dtype)
    plain = training.init == "default" and training.init_scale == 1
    if start is None and plain and (own := problem.initial(seeds)) is not None:
        stack = own
    elif start is None:
        stack = initialise(network, seeds, scheme=training.init, std=training.init_std, scale=training.init_scale)
    elif len(start) in (1, len(seeds)):
        stack = start.select([0] * len(seeds) if len(start) == 1 else list(range(len(seeds))))
        stack = in_order(stack, template_of(network), aliases=aliases(network))
    else:
        raise Mismatch(
            f"{len(seeds)} seeds cannot start from {len(start)} members: choose one with RUN/#seed, or as many"
        )
    stack = stack.to(dtype)
    if names := _presolved_names(problem, training):
        known = verified_landmark(problem, "presolve").to(dtype)
        stack = Stack(
            {
                name: known[name].expand(tensor.shape) if name in names else tensor
                for name, tensor in stack.tensors.items()
            },
            stack.buffers,
        )
    return stack


def _presolved_names(problem: Problem, training: Training) -> set[str]:
    """Tensors of the blocks that start at the known solution."""
    parts = problem.parts()
    if not training.presolve_blocks:
        return set()
    if wrong := [block for block in training.presolve_blocks if not 0 <= block < len(parts)]:
        there = f"the network has blocks 0 to {len(parts) - 1}" if parts else "this problem has no blocks"
        raise LandscapeError(f"there is no block {wrong[0]} to presolve: {there}")
    return {name for block in training.presolve_blocks for name in parts[block]}


class _Trainer:
    """Parameters of all members, one row each, and what the optimizer remembers of them."""

    def __init__(self, problem: Problem, training: Training, objective: Objective, data_seeds: Sequence[int]) -> None:
        self.problem, self.training, self.objective = problem, training, objective
        self.keys = torch.tensor(data_seeds, dtype=torch.int64, device=objective.device)
        assert objective.chunk is not None
        chunk = objective.chunk.members
        self.group = max(chunk, _DRAWN // training.batch_size // chunk * chunk)
        frozen = _presolved_names(problem, training) if training.freeze else set()
        template = objective.network.template
        flags = {name: torch.full_like(tensor, name in frozen) for name, tensor in template.tensors.items()}
        self.frozen = Stack(flags).flatten().bool().to(objective.device) if frozen else None
        self.loss = torch.zeros(0)

    def begin(self, initial: Stack) -> int:
        """Start at the first step, which is returned."""
        self.flat = initial.flatten().to(self.objective.device, self.objective.dtype)
        self.moments = {name: torch.zeros_like(self.flat) for name in _MOMENTS[self.training.optimizer]}
        self.buffers = dict(initial.to(self.objective.device, self.objective.dtype).buffers)
        return 0

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> int:
        """Take up what `state` gave; returns the next step."""
        moved = {name: tensor.to(self.objective.device) for name, tensor in tensors.items()}
        self.flat = moved.pop("parameters")
        self.moments = {name: moved.pop(name) for name in _MOMENTS[self.training.optimizer]}
        self.buffers = moved
        return int(document["step"])

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: one row a member of parameters and of each moment, and buffers."""
        return {"parameters": self.flat, **self.moments, **self.buffers}

    @property
    def stack(self) -> Stack:
        """The parameters as they are now."""
        return dataclasses.replace(self.objective.network.template.unflatten(self.flat), buffers=self.buffers)

    def step(self, step: int, *, with_loss: bool) -> None:
        """One optimizer step of every member; `loss` is then that of the batch before it, if it is asked for."""
        found = [
            self._gradient(slice(first, first + self.group), step, with_loss)
            for first in range(0, len(self.flat), self.group)
        ]
        losses, gradients, statistics = zip(*found, strict=True)
        gradient, self.loss = torch.cat(gradients), torch.cat(losses)
        if statistics[0]:
            self._follow({name: torch.cat([each[name] for each in statistics]) for name in statistics[0]})
        flat = _update(self.flat, gradient, self.moments, self.training, step)
        self.flat = flat if self.frozen is None else torch.where(self.frozen, self.flat, flat)

    def _gradient(self, group: slice, step: int, with_loss: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss and gradient of a group of members on its data, and the statistics of BatchNorm there."""
        random = self.training.data == "batches" and self.objective.network.stochastic
        noise = self._noise(step, self.keys[group]) if random else None
        buffers = {name: tensor[group] for name, tensor in self.buffers.items()}
        stack = dataclasses.replace(self.objective.network.template.unflatten(self.flat[group]), buffers=buffers)
        statistics: dict[str, Tensor] = {}
        loss, gradient = self.objective.gradient(
            stack,
            self._batch(step, group),
            noise,
            with_loss=with_loss,
            statistics=statistics if self.objective.network.normalises else None,
        )
        return loss, gradient.flatten(), statistics

    def _follow(self, statistics: Mapping[str, Tensor]) -> None:
        """Running statistics of BatchNorm, as PyTorch keeps them."""
        for layer, momentum in self.objective.network.momentum.items():
            prefix = f"{layer}." if layer else ""
            counter = self.buffers[f"{prefix}num_batches_tracked"] = self.buffers[f"{prefix}num_batches_tracked"] + 1
            share = 1 / counter[:, None] if momentum is None else momentum
            for name in (f"{prefix}running_mean", f"{prefix}running_var"):
                self.buffers[name] = self.buffers[name] * (1 - share) + statistics[name] * share

    def _batch(self, step: int, group: slice) -> Data:
        if self.training.data == "exact":
            return self.objective.memory
        # A batch with a leading axis of 1 is shared by all. A lone member's own batch comes twice, so that its
        # numbers go the way of many members' own batches.
        keys = self.keys[:1] if self.training.shared_data else self.keys[group]
        if len(keys) == 1 and not self.training.shared_data:
            keys = keys.repeat(2)
        return self.problem.training_batch(
            keys, step, self.training.batch_size, device=self.objective.device, dtype=self.objective.dtype
        )

    def _noise(self, step: int, all_keys: Tensor) -> Callable[[Tensor], Noise]:
        def of_members(index: Tensor) -> Noise:
            keys = all_keys[index]

            def draw(layer: int, shape: tuple[int, ...]) -> Tensor:
                count = torch.Size(shape).numel()
                numbers = philox.uniform(keys, stream=_NOISE_STREAM + layer, step=step, count=count)
                return numbers.view(len(keys), *shape)

            return draw

        return of_members


def _update(
    flat: Float[Tensor, "member parameter"],
    gradient: Float[Tensor, "member parameter"],
    moments: dict[str, Tensor],
    training: Training,
    step: int,
) -> Float[Tensor, "member parameter"]:
    """Adam or SGD with momentum, as in PyTorch, weight decay added to the gradient; each operation rounds once."""
    if training.weight_decay:
        gradient = gradient + flat * training.weight_decay
    if training.optimizer == "sgd":
        moments["velocity"] = moments["velocity"] * training.momentum + gradient
        return flat - moments["velocity"] * training.lr
    return adam(flat, gradient, moments, lr=training.lr, step=step)


def _check_seeds(seeds: Sequence[int], data_seeds: Sequence[int], *, exact: bool) -> None:
    if not seeds:
        raise LandscapeError("there are no seeds to train: give at least one, such as --seeds 0:20")
    if wrong := [seed for seed in (*seeds, *data_seeds) if not 0 <= seed < 2**63]:
        raise LandscapeError(f"{wrong[0]} is no seed: seeds go from 0 to 2^63 - 1")
    if len(data_seeds) != len(seeds):
        raise LandscapeError(f"{len(seeds)} seeds but {len(data_seeds)} data seeds: give as many, or one for all")
    pairs = list(zip(seeds, [0] * len(seeds) if exact else data_seeds, strict=True))
    if repeated := [pair for pair in pairs if pairs.count(pair) > 1] if len(set(pairs)) < len(pairs) else []:
        raise LandscapeError(f"seed {repeated[0][0]} is repeated with the same data: such members would be equal")


def _open(
    path: Path,
    problem: Problem,
    training: Training,
    seeds: Sequence[int],
    data_seeds: Sequence[int],
    objective: Objective,
    start: Stack | None,
    *,
    replaces: bool,
    keep: bool,
) -> Run:
    """The run at `path`: new, also in the place of a removed one, or an interrupted one of the same configuration."""
    wanted = {
        "problem": {"name": problem.name, "config": problem.config()},
        "training": json.loads(json.dumps(dataclasses.asdict(training))),
        "seeds": list(seeds),
        "data_seeds": list(data_seeds),
        "start": fingerprint(start.tensors) if start is not None else None,
    }
    computation = {
        "device": objective.device.type,
        "threads": torch.get_num_threads(),
        "backend": objective.network.backend,
        "chunk": dataclasses.asdict(objective.chunk) if objective.chunk else None,
    }
    if not (path / "run.json").exists():
        if path.exists() and not replaces and (not path.is_dir() or any(path.iterdir())):
            raise LandscapeError(f"{path} exists and is no run: choose another directory with -o")
        return Run.create(path, {**wanted, "computation": computation})
    run = Run.open(path)
    if run.imported is not None:
        raise LandscapeError(
            f"{path} holds imported checkpoints, whose training cannot be taken up: choose another run with -o (and "
            "begin at these with --start), or replace it with --force"
        )
    if different := differences({key: run.document.get(key) for key in wanted}, wanted):
        raise Mismatch(f"{path} holds another run: {different}. Choose another with -o, or replace it with --force")
    if training.batches in run.steps() and keep:
        return run
    if training.batches in run.steps():
        raise LandscapeError(f"{path} is finished: choose another run with -o, or replace it with --force")
    begun = {"backend": computation["backend"], **run.document["computation"], "chunk": computation["chunk"]}
    if different := differences(begun, computation):
        raise Mismatch(
            f"{path} was begun elsewhere: {different}. Go on as it was begun (--device, --backend, OMP_NUM_THREADS) or "
            "use --force"
        )
    for left_over in (*path.glob(".*.tmp"), *path.glob(".tmp*")):  # of a writer that was killed
        left_over.unlink()
    return run
