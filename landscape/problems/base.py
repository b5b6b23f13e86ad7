"""What a problem is: an architecture, data, an objective, known solutions and symmetries.

A problem of one's own is a frozen dataclass that derives from `Problem`; its fields become command-line options.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from landscape.core.errors import Unsupported, Unverified
from landscape.core.fields import as_written, option
from landscape.core.intervals import Proportion
from landscape.core.notebook import table
from landscape.engine.data import Data
from landscape.engine.fused import BoardBatch, BoardBatches
from landscape.engine.lessons import Lessons
from landscape.engine.objective import BatchNorm, Metric, Objective
from landscape.engine.plain import PlainObjective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Backend
from landscape.space.symmetry import Symmetry

__all__ = ["Nouns", "Problem", "Renaming", "Verification", "option", "require_sampled", "require_verified", "verify"]


class Nouns(NamedTuple):
    """What a problem calls its samples where they are drawn, and where all there are are seen; parts of an answer."""

    drawn: str = "samples"
    all: str = "samples"
    outputs: str = "outputs"


@dataclasses.dataclass(frozen=True)
class Renaming:
    """Other names of a problem's tensors, with its own; fields they give away, not given ones; where they come from."""

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remark: str = ""

    def apply(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors, or their shapes, under the problem's names."""
        return {self.names.get(name, name): tensor for name, tensor in tensors.items()}


class Problem(abc.ABC):
    """An architecture with its data, objective, landmarks and symmetry. Derived classes are frozen dataclasses."""

    nouns: ClassVar[Nouns] = Nouns()

    #: A problem made of a model, data and a loss: `landscape.problems.model.from_model`.
    from_model: ClassVar[Callable[..., "Problem"]]

    @abc.abstractmethod
    def title(self) -> str:
        """The problem in a few words, for figures."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The plain network, with its own initial parameters; a new one at each call."""

    def _repr_html_(self) -> str:
        """A table: its size, its options, its known points."""
        shown = {name: value for name, value in self.config().items() if isinstance(value, str | int | float)}
        count = sum(each.numel() for each in self.prototype.parameters())
        landmarks = ", ".join(self.landmarks()) or "none"
        return table(self.title(), {"parameters": count, **shown, "known points": landmarks})

    @property
    def evaluates_more(self) -> bool:
        """Whether walks find numbers on further data than that of the loss."""
        return False

    @functools.cached_property
    def prototype(self) -> nn.Module:
        """The same, made once: to be looked at, never changed. To copy a large network takes as long as to run it."""
        return self.network()

    @abc.abstractmethod
    def objective(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
        backend: Backend | None = None,
    ) -> Objective:
        """The height of the landscape, computed by a `backend`: None is the one that the problem finds best.

        Its metrics are `loss` and, where they make sense, `accuracy` (mean), `right` (count of samples) and `solved`.
        Where the data has to be sampled, `samples` of them are drawn from `seed`; all calls see the same.
        """

    def plain(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
        batchnorm: BatchNorm | None = None,
        autocast: torch.dtype | None = None,
    ) -> PlainObjective:
        """The same height by the network's own forward, one point after another."""
        objective = self.objective(device=device, dtype=dtype, samples=samples, seed=seed, backend="loop")
        batchnorm = objective.batchnorm if batchnorm is None else batchnorm
        return PlainObjective.of(dataclasses.replace(objective, batchnorm=batchnorm, autocast=autocast))

    def prefers_stacks(self, device: torch.device) -> bool:
        """Whether many networks at once are faster than one after another."""
        return True

    def home(self) -> str:
        """Where the problem's class is defined, as `pkg.module:NAME`; the registry knows names that were given."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    def initial(self, seeds: Sequence[int]) -> Stack | None:
        """Where training begins with each seed, by the problem's own scheme; None where any network's serves."""
        return None

    def drops(self) -> bool:
        """Whether dropout is on in training."""
        return any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in self.prototype.modules())

    def training_kinds(self) -> tuple[str, ...]:
        """Kinds of data that training can see, the usual one first: `exact`, all there is, or `batches`."""
        return ("batches",) if self.objective().sampled else ("exact", "batches")

    @abc.abstractmethod
    def training_batch(
        self,
        seeds: Int[Tensor, " member"],
        step: int,
        size: int,
        *,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> Data:
        """Fresh training data of one step, a pure function of each seed and the step: a batch a seed."""

    def fused_batches(
        self, seeds: Int[Tensor, " member"], steps: range, size: int, dtype: torch.dtype
    ) -> Float[Tensor, "step member sample"] | BoardBatches:
        """What the fused engine reads of many steps' `training_batch`, on the CPU: weights of samples, or boards."""
        batches = [self.training_batch(seeds, step, size, device="cpu", dtype=dtype) for step in steps]
        if boards := [batch for batch in batches if isinstance(batch, BoardBatch)]:
            now, later = [each.now for each in boards], [each.later for each in boards]
            return BoardBatches(torch.stack(now), torch.stack(later), size)
        return torch.stack([batch.samples(0, len(batch)).weights for batch in batches])

    def batch_bytes(self, members: int, size: int) -> int:
        """Bytes that `training_batch` takes at its peak, about; 0 where that is little or not known."""
        return 0

    def training_objective(self, data: str, *, device: str | torch.device, dtype: torch.dtype) -> Objective:
        """What training descends: the objective, with a network that reads what `training_batch` gives."""
        return self.objective(device=device, dtype=dtype)

    def trains_in_stacks(self, data: str, size: int, device: torch.device) -> bool:
        """Whether many networks at once can be trained on this kind of data, in batches of this size, and are faster
        so.
        """
        return True

    def lessons(self, *, device: torch.device, dtype: torch.dtype) -> Lessons | None:
        """What one network after another learns by its own forward; None where stacks alone are trained."""
        return None

    def test_objective(
        self, *, samples: int = 1000, seed: int = 0, device: str | torch.device = "cpu", **conditions: Any
    ) -> Objective:
        """Fresh samples on which success is judged; raises `Unsupported` for conditions that the problem has not."""
        self.refuse_conditions(conditions)
        return self.objective(device=device, samples=samples, seed=seed)

    def refuse_conditions(self, conditions: Collection[str]) -> None:
        """Raise `Unsupported` for conditions of a test that the problem has not."""
        if conditions:
            raise Unsupported(f"{self.title()} is not tested under {', '.join(conditions)}: leave that out")

    def test_remark(self, **conditions: Any) -> str:
        """What a reader of the test's results should know, such as that its samples are too small; empty if nothing."""
        return ""

    def baselines(self, objective: Objective) -> dict[str, tuple[float, float]]:
        """Of constant answers, by name: share of samples entirely right, and share of cells (outputs) right."""
        return {}

    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Names of the tensors of each block, for training that starts some blocks at a known solution; none here."""
        return ()

    @abc.abstractmethod
    def landmarks(self) -> tuple[str, ...]:
        """Names of the known points that this problem has."""

    @abc.abstractmethod
    def landmark(self, name: str) -> Stack:
        """A known point as a stack of one member; raises `Unsupported`, with the reason, where there is none."""

    @abc.abstractmethod
    def describe_landmark(self, name: str) -> str:
        """The full name of a landmark, its design included, for figures and files."""

    @abc.abstractmethod
    def symmetry(self) -> Symmetry:
        """Groups of units whose order does not change the network's function."""

    def strata(self) -> Sequence[str] | None:
        """What each of all samples is, where these are all there are: equal names are one case. None: not said."""
        return None

    @abc.abstractmethod
    def exactness(self) -> Metric | None:
        """Metric that is nonzero where an output equals its target exactly, not only after rounding."""

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        """Fields that names and shapes of a checkpoint's tensors give away, beside those that are given.

        Raises `Unsupported` where the problem cannot tell, `Mismatch` where the tensors are not of its architecture.
        """
        raise Unsupported(
            f"{cls.__name__} cannot tell its architecture from a checkpoint's tensors: name it with `options`"
        )

    @classmethod
    def rename(cls, names: Collection[str], /, **given: Any) -> Renaming:
        """How to rename tensors of the problem's architecture that stand under other names; here none are known."""
        return Renaming()

    @classmethod
    def named_fields(cls, file_name: str) -> dict[str, Any]:
        """Fields, and `seed`, that a checkpoint's file name of a known form says; nothing for other names.

        An import that is given the first of the fields reads no names.
        """
        return {}

    def config(self) -> dict[str, Any]:
        """Every field, defaults included, as JSON values; what was added since files were first written only where it
        is no default, so that older files are of the same problem.
        """
        return as_written(self)


@dataclasses.dataclass(frozen=True)
class Verification:
    """Whether a landmark is what it says it is. `gradient_norm` is the L2 norm of the loss's gradient; both are
    computed in float64, whatever the decisions are.
    """

    landmark: str
    description: str
    right: Proportion
    sampled: bool
    loss: float
    loss_se: float | None
    gradient_norm: float
    exact_outputs: bool | None

    @property
    def solves(self) -> bool:
        """Every sample right."""
        return self.right.count == self.right.total


def verify(
    problem: Problem,
    landmark: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    samples: int | None = None,
    seed: int = 0,
) -> Verification:
    """Evaluate a landmark on the problem's objective, sampled with `samples` where there is no exact one: what it gets
    right in the type `dtype`, its loss and gradient in float64, which small ones need.
    """
    stack = problem.landmark(landmark)
    objective = problem.objective(device=device, dtype=dtype, samples=samples, seed=seed)
    if samples is not None:
        require_sampled(problem, objective, "samples")
    if (exactness := problem.exactness()) is not None:
        objective = dataclasses.replace(objective, metrics={**objective.metrics, "exact": exactness})
    values = {name: float(value[0]) for name, value in objective(stack).items()}
    precise = problem.objective(device=device, dtype=torch.float64, samples=samples, seed=seed)
    values |= {name: float(value[0]) for name, value in precise(stack).items() if name in ("loss", "loss_se")}
    _, gradient = precise.gradient(stack)
    return Verification(
        landmark=landmark,
        description=problem.describe_landmark(landmark),
        right=Proportion(int(values["right"]), objective.samples),
        sampled=objective.sampled,
        loss=values["loss"],
        loss_se=values.get("loss_se"),
        gradient_norm=float(gradient.norms()[1][0]),
        exact_outputs=bool(values["exact"]) if exactness else None,
    )


def require_sampled(problem: Problem, objective: Objective | PlainObjective, name: str) -> None:
    """Raise `Unsupported` for an argument of this name, which is of samples, where the loss is exact."""
    if not objective.sampled:
        raise Unsupported(f"the loss of {problem.title()} is exact, and no samples are drawn: leave `{name}` out")


def require_verified(verification: Verification, nouns: Nouns = Problem.nouns) -> None:
    """Raise `Unverified` unless the landmark solves its problem, whose samples are called `nouns`."""
    right = verification.right
    if not verification.solves:
        raise Unverified(
            f"landmark {verification.description} does not solve the problem: {right.total - right.count} of "
            f"{right.total} {f'sampled {nouns.drawn}' if verification.sampled else nouns.all} wrong. "
            "See `landscape verify` for the landmarks that do"
        )
