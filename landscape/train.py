"""Training many seeds in one stack, resumable, each member independent of its companions."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from landscape import philox
from landscape.allocator import keep_freed_memory
from landscape.errors import LandscapeError, Mismatch, Unsupported
from landscape.files import differences
from landscape.initialisation import Scheme, initialise
from landscape.objective import Batch, Chunk, Objective, choose_chunk
from landscape.params import Stack
from landscape.problem import Problem
from landscape.stacked import Noise
from landscape.store import Run, read_tensors, write_tensors

__all__ = ["Training", "save_steps", "train"]

#: What is told of long work: (done, total).
Progress = Callable[[int, int], None]

#: What each optimizer remembers of a parameter.
_MOMENTS = {"adam": ("mean", "square"), "sgd": ("velocity",)}

#: Stream of the random numbers of layer 0 in training (dropout, RReLU); layer n has the n-th after it.
_NOISE_STREAM = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a run is trained; raises `LandscapeError` for values that make no sense."""

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    batches: int = 3000
    data: Literal["exact", "boards"] = "exact"
    batch_size: int = 128
    shared_data: bool = False
    init: Scheme = "default"
    init_std: float = 0.1
    init_scale: float = 1.0
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
    resume_every: float = 30.0,
    force: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Run:
    """Train one member a seed and write their checkpoints to the run directory `path`.

    A directory that holds an interrupted run with the same configuration is taken up where its last resume state left
    it, which is at most `resume_every` seconds of work back; the tensors are the same as without the interruption.
    Raises `Mismatch`, saying what differs, if it holds another run, unless `force` begins anew in its place.
    """
    if not resume_every >= 0:
        raise LandscapeError(f"resume states every {resume_every} seconds make no sense: give 0 or more")
    keep_freed_memory()
    data_seeds = list(seeds if data_seeds is None else data_seeds)
    data_seeds = data_seeds * len(seeds) if len(data_seeds) == 1 else data_seeds
    _check_seeds(seeds, data_seeds, exact=training.data == "exact")
    dtype = getattr(torch, training.dtype)
    objective = problem.objective(device=device, dtype=dtype)
    if training.data == "exact" and objective.sampled:
        raise Unsupported(f"{problem.title()} has no exact loss to train on: use --data boards")
    chunk = choose_chunk(objective.network, objective.data, training=True)
    objective = dataclasses.replace(objective, chunk=chunk)
    replaces = force and Run.remove(path)
    run = _open(path, problem, training, seeds, data_seeds, objective, replaces=replaces)
    objective = dataclasses.replace(objective, chunk=Chunk(**run.document["computation"]["chunk"]))
    trainer = _Trainer(problem, training, objective, data_seeds)
    resume = path / "resume.safetensors"
    start = trainer.restore(*read_tensors(resume)) if resume.exists() else trainer.begin(seeds)
    assert training.save_at is not None
    last_saved = time.monotonic()
    for step in range(start, training.batches + 1):
        if step in training.save_at or step == training.batches:
            run.save(step, trainer.stack)
        if step == training.batches:
            break
        trainer.step(step)
        on_progress(step + 1, training.batches)
        if time.monotonic() - last_saved >= resume_every:
            write_tensors(resume, trainer.state(), {"kind": "resume", "step": step + 1})
            last_saved = time.monotonic()
    resume.unlink(missing_ok=True)
    return run


class _Trainer:
    """Parameters of all members, one row each, and what the optimizer remembers of them."""

    def __init__(self, problem: Problem, training: Training, objective: Objective, data_seeds: Sequence[int]) -> None:
        self.problem, self.training, self.objective = problem, training, objective
        # A batch with a leading axis of 1 is shared by all. A lone member's own batch comes twice, so that its
        # numbers go the way of many members' own batches.
        keys = data_seeds[:1] if training.shared_data else [*data_seeds, *data_seeds[: 2 - len(data_seeds)]]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=objective.device)
        self.noise_keys = torch.tensor(data_seeds, dtype=torch.int64, device=objective.device)

    def begin(self, seeds: Sequence[int]) -> int:
        """Initialise; returns the first step."""
        how = self.training
        network = self.problem.network()
        stack = initialise(network, seeds, scheme=how.init, std=how.init_std, scale=how.init_scale)
        self.flat = stack.flatten().to(self.objective.device, self.objective.dtype)
        self.moments = {name: torch.zeros_like(self.flat) for name in _MOMENTS[how.optimizer]}
        return 0

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> int:
        """Take up what `state` gave; returns the next step."""
        moved = {name: tensor.to(self.objective.device) for name, tensor in tensors.items()}
        self.flat = moved.pop("parameters")
        self.moments = moved
        return int(document["step"])

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: one row a member of parameters and of each moment."""
        return {"parameters": self.flat, **self.moments}

    @property
    def stack(self) -> Stack:
        """The parameters as they are now."""
        return self.objective.network.template.unflatten(self.flat)

    def step(self, step: int) -> None:
        """One optimizer step of every member."""
        random = self.training.data == "boards" and self.objective.network.stochastic
        noise = self._noise(step) if random else None
        _, gradient = self.objective.gradient(self.stack, self._batch(step), noise)
        self.flat = _update(self.flat, gradient.flatten(), self.moments, self.training, step)

    def _batch(self, step: int) -> Batch:
        if self.training.data == "exact":
            return self.objective.data
        return self.problem.training_batch(
            self.keys, step, self.training.batch_size, device=self.objective.device, dtype=self.objective.dtype
        )

    def _noise(self, step: int) -> Callable[[Tensor], Noise]:
        def of_members(index: Tensor) -> Noise:
            keys = self.noise_keys[index]

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
    """Adam (D. Kingma, J. Ba, ICLR 2015) or SGD with momentum, as in PyTorch, weight decay added to the gradient.

    Written out in single additions, products and roots, each rounded once: fused kernels round by the place of a number
    in memory, and a member's result would depend on its companions.
    """
    if training.weight_decay:
        gradient = gradient + flat * training.weight_decay
    if training.optimizer == "sgd":
        moments["velocity"] = moments["velocity"] * training.momentum + gradient
        return flat - moments["velocity"] * training.lr
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    moments["mean"] = moments["mean"] * beta1 + gradient * (1 - beta1)
    moments["square"] = moments["square"] * beta2 + gradient * gradient * (1 - beta2)
    mean = moments["mean"] / (1 - beta1 ** (step + 1))
    square = moments["square"] / (1 - beta2 ** (step + 1))
    return flat - mean * training.lr / (square.sqrt() + epsilon)


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
    *,
    replaces: bool,
) -> Run:
    """The run at `path`: new, also in the place of a removed one, or an interrupted one of the same configuration."""
    wanted = {
        "problem": {"name": problem.name, "config": problem.config()},
        "training": {**dataclasses.asdict(training), "save_at": list(training.save_at or ())},
        "seeds": list(seeds),
        "data_seeds": list(data_seeds),
    }
    computation = {
        "device": objective.device.type,
        "threads": torch.get_num_threads(),
        "chunk": dataclasses.asdict(objective.chunk) if objective.chunk else None,
    }
    if not (path / "run.json").exists():
        if path.exists() and not replaces and (not path.is_dir() or any(path.iterdir())):
            raise LandscapeError(f"{path} exists and is no run: choose another directory with -o")
        return Run.create(path, {**wanted, "computation": computation})
    run = Run.open(path)
    if different := differences({key: run.document[key] for key in wanted}, wanted):
        raise Mismatch(f"{path} holds another run: {different}. Choose another with -o, or replace it with --force")
    if training.batches in run.steps():
        raise LandscapeError(f"{path} is finished: choose another run with -o, or replace it with --force")
    begun = {**run.document["computation"], "chunk": computation["chunk"]}
    if different := differences(begun, computation):
        raise Mismatch(
            f"{path} was begun elsewhere: {different}. Go on as it was begun (--device, OMP_NUM_THREADS) or use --force"
        )
    for left_over in path.glob(".*.tmp"):  # of a writer that was killed
        left_over.unlink()
    return run
