"""What is to be trained: options, seeds and the place where members begin, checked before any work."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.core.devices import chosen_device
from landscape.core.errors import LandscapeError, Mismatch, Unsupported
from landscape.core.fields import MOST_MEMBERS, Field, as_json, check, make, option, require_seeds
from landscape.core.files import is_there, json_text
from landscape.core.resources import require_memory
from landscape.engine.memory import OWN_MEMBERS
from landscape.engine.stack import Stack, aliases, fingerprint, in_order, template_of
from landscape.problems.base import Problem
from landscape.problems.initialisation import Scheme, initialise
from landscape.problems.places import is_landmark, place_of, verified_landmark
from landscape.problems.registry import chosen, record
from landscape.space.groups import learning
from landscape.store.checkpoints import Run, load, read_tensors
from landscape.training.optimizers import OPTIMIZERS

__all__ = [
    "Continued",
    "Plan",
    "Training",
    "completed",
    "learning_names",
    "nothing_counts",
    "planned",
    "presolved_names",
    "save_steps",
    "trial",
    "initial_moments",
]


#: Copies of all parameters in training beside two of each moment, and bytes of a member whatever its parameters are.
_COPIES, _MEMBER_BYTES = 5, 500

_log = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a run is trained; raises `LandscapeError` for values that make no sense.

    `data` is all there is (`exact`), random samples (`batches`), or `auto`: exact where there is an exact loss and
    nothing is dropped. Members start at random (`init`), at `start`, a landmark or a place as `store.load` reads it;
    then the blocks of `presolve_blocks` are put at the landmark `presolve`, and with `freeze` kept there.
    """

    optimizer: str = option("adam", "Optimizer.", choices=OPTIMIZERS)
    lr: float = option(1e-2, "Learning rate.", above=0)
    momentum: float = option(0.0, "Momentum of sgd.", at_least=0, below=1)
    weight_decay: float = option(0.0, "L2 penalty, added to the gradient.", at_least=0)
    batches: int = option(3000, "Optimizer steps.", at_least=0)
    data: Literal["auto", "exact", "batches"] = option(
        "auto", "Gradient of the loss on all there is, or on random batches; auto is exact where the loss is."
    )
    batch_size: int = option(128, "Samples of a batch.", at_least=1)
    shared_data: bool = option(False, "All members see the batches of the first data seed.")
    init: Scheme = option(
        "default",
        "PyTorch's default; N(0, std^2); or weights N(0, std^2) and biases uniform within 1, which with "
        "`init_std=0.02` is what the study's --normalize does.",
    )
    init_std: float = option(0.1, 'Standard deviation of `init="normal"` and normal_uniform.', above=0)
    init_scale: float = option(1.0, "Factor on all initial parameters.", above=0)
    start: str | None = option(
        None,
        "Begin at a landmark (presolve), a run, RUN/@step, RUN/#seed or a checkpoint file, not at random. From a run's "
        "last step its optimizer goes on, with what it remembers and the batches that are next. The study's "
        "--presolve and --resume_from.",
        metavar="PLACE",
    )
    reset_optimizer: bool = option(False, "At `start` the optimizer begins anew, with the first batch.")
    presolve_blocks: tuple[int, ...] = option(
        (),
        "Blocks that begin at the known solution, such as 0,2 or 0+2; the rest begins at random. The study's "
        "--solve_layers.",
        syntax="blocks",
    )
    freeze: bool = option(False, "Keep the blocks of `presolve_blocks` as they are.")
    save_at: tuple[int, ...] | None = option(
        None, "Steps to save. [default: 0, 1-2-5 per decade, and the last]", syntax="seeds"
    )
    dtype: Literal["float32", "float64"] = option("float32", "Precision.")

    def __post_init__(self) -> None:
        check(self)
        if self.momentum and self.optimizer != "sgd":
            raise LandscapeError(f'`momentum` goes with `optimizer="sgd"`, not {self.optimizer}')
        if self.start is not None and (self.init != "default" or self.init_scale != 1):
            raise LandscapeError(
                f'`start="{self.start}"` leaves nothing to `init` and `init_scale`: leave one of them out'
            )
        if self.reset_optimizer and self.start is None:
            raise LandscapeError("`reset_optimizer` is for a `start`, from which an optimizer would go on: name one")
        if self.freeze and not self.presolve_blocks:
            raise LandscapeError("there is nothing to freeze: name the blocks with `presolve_blocks`")
        if self.save_at is None:
            object.__setattr__(self, "save_at", save_steps(self.batches))
        elif outside := [step for step in self.save_at if not 0 <= step <= self.batches]:
            raise LandscapeError(f"`save_at` names step {outside[0]}: the run has steps 0 to {self.batches}")


def completed(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a training as a file says them; those that were added since have their defaults."""
    return {**as_json(Training()), **(document or {})}


def save_steps(last: int) -> tuple[int, ...]:
    """Step 0, then 1-2-5 per decade, and the last.

    >>> save_steps(30)
    (0, 1, 2, 5, 10, 20, 30)
    """
    steps = {0, last} | {digit * 10**decade for decade in range(len(str(last))) for digit in (1, 2, 5)}
    return tuple(sorted(step for step in steps if step <= last))


@dataclasses.dataclass(frozen=True, eq=False)
class Continued:
    """What an optimizer remembers of each member, a row each by the names of its moments, after so many steps; `sha256`
    is that of the file it comes from.
    """

    step: int
    moments: Mapping[str, Tensor]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training that makes sense: its kind of data is decided, its members are where they begin.

    `start` is the place where they begin if that is not random; `continued`, if an optimizer goes on there, is what it
    remembers. A `part` of the members of a `whole` plan sees what they see there, and computes as they do.
    """

    problem: Problem
    training: Training
    seeds: list[int]
    data_seeds: list[int]
    device: torch.device
    start: Stack | None
    initial: Stack
    continued: Continued | None = None
    whole: "Plan | None" = None
    part: Mapping[str, Any] | None = None

    @property
    def all(self) -> "Plan":
        """The plan of all members."""
        return self.whole or self

    def members(self, chosen: range, shard: str) -> "Plan":
        """The plan of some consecutive members of this one, which is whole, called so."""
        rows = slice(chosen.start, chosen.stop)
        continued = self.continued
        if continued is not None:
            moments = {name: each[rows] for name, each in continued.moments.items()}
            continued = dataclasses.replace(continued, moments=moments)
        return dataclasses.replace(
            self,
            seeds=self.seeds[rows],
            data_seeds=self.data_seeds[rows],
            initial=self.initial.select(list(chosen)),
            continued=continued,
            whole=self,
            part={
                "shard": shard,
                "begin": chosen.start,
                "end": chosen.stop,
                "of": len(self.seeds),
                "work": self.digest,
            },
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what makes the run what it is."""
        return hashlib.sha256(json_text(self.document()).encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """What makes the run what it is, as it stands in its `run.json`."""
        return {
            "problem": record(self.problem)["problem"],
            "training": as_json(self.training),
            "seeds": self.seeds,
            "data_seeds": self.data_seeds,
            "start": None if self.start is None else fingerprint(self.start.tensors),
            **({"continues": {"step": self.continued.step, "sha256": self.continued.sha256}} if self.continued else {}),
            **({"part": dict(self.part)} if self.part else {}),
        }


def planned(
    problem: Problem | str,
    training: Training | Mapping[str, Any] | None = None,
    seeds: Sequence[int] = range(20),
    data_seeds: Sequence[int] | None = None,
    *,
    device: str | torch.device | None = None,
    start: Stack | None = None,
    yes: bool = False,
) -> Plan:
    """The arguments of `train`, checked; raises `LandscapeError` for what makes no sense, `TooMuch` for what memory has
    no room for unless `yes`.
    """
    device = chosen_device(device)
    problem = chosen(problem)
    if not isinstance(training, Training | Mapping | None):
        raise LandscapeError(f"`training` is a Training, or its options by name, not {type(training).__name__}")
    if not isinstance(start, Stack | None):
        raise LandscapeError(
            f"`start` is a Stack, not {type(start).__name__}: a place by its name is the option `start` of Training"
        )
    training = training if isinstance(training, Training) else make(Training, training or {})
    seeds = _numbers(seeds, "seeds")
    own = seeds if data_seeds is None else _numbers(data_seeds, "data_seeds")
    own = own * len(seeds) if len(own) == 1 else own
    training = _with_data(problem, training)
    if training.data == "exact":
        _say_what_is_moot(training, data_seeds is not None and own != seeds)
    _check_seeds(seeds, own, exact=training.data == "exact")
    _require_room(problem, training, seeds, yes=yes)
    continued = None
    if start is None and training.start is not None:
        start = place_of(problem, training.start)
        continued = _continued(training.start, training, len(seeds))
    initial = _initial(problem, training, seeds, start)
    if training.freeze and presolved_names(problem, training) >= initial.tensors.keys():
        raise LandscapeError("all blocks are frozen: leave at least one to train")
    shared = training.data == "exact" or training.shared_data
    if (members := _different(initial, None if shared else own)) < len(seeds):
        raise LandscapeError(
            f"of {len(seeds)} seeds only {members} would differ: the others start at the same point and see the "
            'same data. Give one seed, or each its own batches with `data="batches"`'
        )
    return Plan(problem, training, seeds, own, device, start, initial, continued)


def _say_what_is_moot(training: Training, own_data: bool) -> None:
    """A line on what is of batches, `own_data` seeds too, where each step sees all there is. No error: of a sweep other
    cells may heed it.
    """
    given = [name for name in ("batch_size", "shared_data") if getattr(training, name) != getattr(Training, name)]
    if given := [f"`{name}`" for name in (*given, *["data_seeds"] * own_data)]:
        _log.warning('each step sees all data, exactly: %s goes with `data="batches"`, and changes nothing', given[0])


def _require_room(problem: Problem, training: Training, seeds: Sequence[int], *, yes: bool) -> None:
    """Raise `TooMuch` for members, or batches of them, that memory has no room for."""
    parameters = sum(tensor.numel() for tensor in problem.prototype.parameters())
    copies = _COPIES + 2 * len(OPTIMIZERS[training.optimizer].moments)
    size = len(seeds) * (copies * parameters * getattr(torch, training.dtype).itemsize + _MEMBER_BYTES)
    what = f"{len(seeds):,} networks of {parameters:,} parameters, their gradients and what the optimizer remembers,"
    require_memory(size, what, "train fewer `seeds` at a time", yes=yes, estimated=True)
    if training.data == "batches":
        size = problem.batch_bytes(min(len(seeds), OWN_MEMBERS), training.batch_size)
        what = f"batches of {training.batch_size:,} {problem.nouns.drawn}"
        require_memory(size, what, "lower `batch_size`", yes=yes, estimated=True)


def _different(initial: Stack, data: Sequence[int] | None) -> int:
    """How many members differ in where they start, bit for bit, or in their data."""
    keys = np.zeros((len(initial), 1), dtype=np.int64) if data is None else np.array(data, dtype=np.int64)[:, None]
    parts = np.ascontiguousarray(initial.flatten().cpu().numpy()), keys
    rows = np.concatenate([each.view(np.uint8) for each in parts], axis=1)
    return len(np.unique(rows.view(f"V{rows.shape[1]}")))


def initial_moments(
    moments: Mapping[str, Tensor], continued: Continued | None, member: int | None = None
) -> dict[str, Tensor]:
    """What an optimizer remembers, which would be `moments` at the beginning, where it goes on: of all members, or of
    one. Raises `Mismatch` if other parameters learn now.
    """
    if continued is None:
        return dict(moments)
    rows = slice(None) if member is None else slice(member, member + 1)
    found = {name: continued.moments[name][rows].to(each.device, each.dtype) for name, each in moments.items()}
    if different := [name for name, each in moments.items() if found[name].shape != each.shape]:
        raise Mismatch(
            f"the optimizer remembers {found[different[0]].shape[1]} parameters, and {moments[different[0]].shape[1]} "
            "learn now: let it begin anew with `reset_optimizer=True`"
        )
    return found


def _continued(place: str, training: Training, count: int) -> Continued | None:
    """What the optimizer of the run at a place remembers of its members; None, and a line that says why, if it begins
    anew.
    """
    if is_landmark(place) or training.reset_optimizer or not OPTIMIZERS[training.optimizer].moments:
        return None
    sources = load(place).sources
    path, step = Path(sources[0].path).parent, sources[0].step
    run = Run.open(path) if is_there(path / "run.json") else None
    why = ""
    if run is None:
        why = "a checkpoint file says nothing of an optimizer"
    elif not is_there(run.optimizer_path):
        why = "the run keeps nothing of its optimizer"
    elif step != run.steps()[-1]:
        why = f"the run keeps what its optimizer remembered at its last step, {run.steps()[-1]}, alone"
    elif training.presolve_blocks:
        why = "`presolve_blocks` moves the members"
    else:
        tensors, document = read_tensors(run.optimizer_path)
        if document["optimizer"] == training.optimizer:
            chosen_seeds = {source.seed for source in sources}
            rows = [row for row, seed in enumerate(run.seeds) if seed in chosen_seeds]
            rows = rows * count if len(rows) == 1 else rows
            return Continued(document["step"], {name: each[rows] for name, each in tensors.items()}, document["sha256"])
        why = f"the run was trained by {document['optimizer']}"
    _log.warning("%s: %s begins anew (%s)", place, training.optimizer, why)
    return None


def _numbers(seeds: Sequence[int], name: str) -> list[int]:
    """The seeds of this argument as Python's whole numbers; raises `LandscapeError` for what is none."""
    numbers = list(Field(name, Sequence[int], ()).convert(seeds))
    require_seeds(*numbers, name=name)
    return numbers


def _with_data(problem: Problem, training: Training) -> Training:
    """The training with its kind of data decided."""
    drops, kinds = problem.drops(), problem.training_kinds()
    if training.data == "auto":
        usual: Any = "batches" if drops else kinds[0]
        return dataclasses.replace(training, data=usual)
    if training.data not in kinds:
        raise Unsupported(f'{problem.title()} has no exact loss to train on: use `data="batches"`')
    if training.data == "exact" and drops:
        remedy = ", or `dropout=0`" if "dropout" in problem.config() else ""
        raise Unsupported(f'dropout has no exact loss to train on: use `data="batches"`{remedy}')
    return training


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
    if names := presolved_names(problem, training):
        known = verified_landmark(problem, "presolve").to(dtype)
        stack = Stack(
            {
                name: known[name].expand(tensor.shape) if name in names else tensor
                for name, tensor in stack.tensors.items()
            },
            stack.buffers,
        )
    return stack


def presolved_names(problem: Problem, training: Training) -> set[str]:
    """Tensors of the blocks that start at the known solution."""
    parts = problem.parts()
    if not training.presolve_blocks:
        return set()
    if wrong := [block for block in training.presolve_blocks if not 0 <= block < len(parts)]:
        there = f"the network has blocks 0 to {len(parts) - 1}" if parts else "this problem has no blocks"
        raise LandscapeError(f"there is no block {wrong[0]} to presolve: {there}")
    return {name for block in training.presolve_blocks for name in parts[block]}


def learning_names(plan: Plan) -> frozenset[str]:
    """Names of the parameters that training changes: those that learn, but for blocks that are frozen."""
    kept = presolved_names(plan.problem, plan.training) if plan.training.freeze else set()
    return learning(plan.problem.network()) - kept


@contextlib.contextmanager
def trial() -> Iterator[None]:
    """Raises `Mismatch`, in one line, for whatever a model or a loss of the user's raises."""
    try:
        yield
    except LandscapeError:
        raise
    except Exception as error:  # whatever a model or a loss of the user's may raise
        line = (str(error).splitlines() or ["no message"])[0]
        raise Mismatch(f"the loss does not run in training: {type(error).__name__}: {line}") from error


def nothing_counts(batch: str | None) -> LandscapeError:
    """The error of a batch that is called so, or of all data, whose loss would be 0 / 0 and make all parameters NaN."""
    if batch is None:
        return LandscapeError("nothing counts in the training data, whose loss is 0 / 0: look at targets and weights")
    return LandscapeError(
        f"nothing counts in {batch}, so that its loss is 0 / 0: leave out what does not count, take larger batches, "
        'or all data at each step with `data="exact"`'
    )


def _check_seeds(seeds: Sequence[int], data_seeds: Sequence[int], *, exact: bool) -> None:
    if not seeds:
        raise LandscapeError("there are no seeds to train: give at least one with `seeds`")
    if len(data_seeds) != len(seeds):
        raise LandscapeError(f"{len(seeds)} seeds but {len(data_seeds)} data seeds: give as many, or one for all")
    if len(seeds) > MOST_MEMBERS:
        raise LandscapeError(
            f"{len(seeds):,} seeds are too many for one run, whose files hold {MOST_MEMBERS:,} members at most: train "
            f"them in parts, runs of their own, such as the `seeds` {seeds[0]}:{seeds[MOST_MEMBERS]} first"
        )
    pairs = Counter(zip(seeds, [0] * len(seeds) if exact else data_seeds, strict=True))
    if len(pairs) < len(seeds):
        repeated = next(seed for (seed, _), count in pairs.items() if count > 1)
        raise LandscapeError(f"seed {repeated} is repeated with the same data: such members would be equal")
