"""What a problem is: an architecture, data, an objective, known solutions and symmetries; looked up by name.

A problem of one's own is a frozen dataclass that derives from `Problem`; its fields become command-line options.
"""

import abc
import contextlib
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch, Unsupported, Unverified
from landscape.core.fields import did_you_mean, option
from landscape.core.files import differences
from landscape.core.intervals import Proportion
from landscape.engine.data import Data
from landscape.engine.objective import Metric, Objective
from landscape.engine.stack import Stack
from landscape.space.symmetry import Symmetry

__all__ = ["BUILT_IN", "Problem", "Renaming", "Verification", "create", "find", "option", "verify"]

#: Problems that ship with the package, as import strings.
BUILT_IN = {
    "life": "landscape.problems.life:Life",
    "digits": "landscape.problems.digits:Digits",
    "functions": "landscape.problems.functions:Functions",
}


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

    #: Name under which the problem is found again: a key of `BUILT_IN`, or `pkg.module:NAME`.
    name: ClassVar[str]

    #: What samples are called where they are drawn, and where all there are are seen.
    nouns: ClassVar[tuple[str, str]] = ("samples", "samples")

    @abc.abstractmethod
    def title(self) -> str:
        """The problem in a few words, for figures."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The plain network, with its own initial parameters."""

    @abc.abstractmethod
    def objective(
        self,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        samples: int | None = None,
        seed: int = 0,
    ) -> Objective:
        """The height of the landscape.

        Its metrics are `loss` and, where they make sense, `accuracy` (mean), `right` (count of samples) and `solved`.
        Where the data has to be sampled, `samples` of them are drawn from `seed`; all calls see the same.
        """

    @staticmethod
    def from_model(
        model: Any, data: Any, loss: Any, metrics: Mapping[str, Any] | None = None, **options: Any
    ) -> "Problem":
        """A problem made of a model, data and a loss; see `landscape.problems.model.from_model`."""
        made: Problem = importlib.import_module("landscape.problems.model").from_model(
            model, data, loss, metrics, **options
        )
        return made

    def initial(self, seeds: Sequence[int]) -> Stack | None:
        """Where training begins with each seed, by the problem's own scheme; None where any network's serves."""
        return None

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

    def training_objective(self, data: str, *, device: str | torch.device, dtype: torch.dtype) -> Objective:
        """What training descends: the objective, with a network that reads what `training_batch` gives."""
        return self.objective(device=device, dtype=dtype)

    def test_objective(
        self, *, samples: int = 1000, seed: int = 0, device: str | torch.device = "cpu", **conditions: Any
    ) -> Objective:
        """Fresh samples on which success is judged; raises `Unsupported` for conditions that the problem has not."""
        if conditions:
            raise Unsupported(f"problem '{self.name}' is not tested under {', '.join(conditions)}: leave that out")
        return self.objective(device=device, samples=samples, seed=seed)

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

    @abc.abstractmethod
    def exactness(self) -> Metric | None:
        """Metric that is nonzero where an output equals its target exactly, not only after rounding."""

    @classmethod
    def infer(cls, shapes: Mapping[str, tuple[int, ...]], /, **given: Any) -> dict[str, Any]:
        """Fields that names and shapes of a checkpoint's tensors give away, beside those that are given.

        Raises `Unsupported` where the problem cannot tell, `Mismatch` where the tensors are not of its architecture.
        """
        raise Unsupported(
            f"problem '{cls.name}' cannot tell its architecture from a checkpoint's tensors: name it with -O KEY=VALUE"
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
        """Every field, defaults included, as JSON values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclasses.dataclass(frozen=True)
class Verification:
    """Whether a landmark is what it says it is. `gradient_norm` is the L2 norm of the loss's gradient."""

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
    """Evaluate a landmark on the problem's objective, sampled with `samples` where there is no exact one."""
    objective = problem.objective(device=device, dtype=dtype, samples=samples, seed=seed)
    if (exactness := problem.exactness()) is not None:
        objective = dataclasses.replace(objective, metrics={**objective.metrics, "exact": exactness})
    stack = problem.landmark(landmark)
    values = {name: float(value[0]) for name, value in objective(stack).items()}
    _, gradient = objective.gradient(stack)
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


def require_verified(verification: Verification, nouns: tuple[str, str] = Problem.nouns) -> None:
    """Raise `Unverified` unless the landmark solves its problem, whose samples are called `nouns`."""
    right = verification.right
    if not verification.solves:
        raise Unverified(
            f"landmark {verification.description} does not solve the problem: {right.total - right.count} of "
            f"{right.total} {f'sampled {nouns[0]}' if verification.sampled else nouns[1]} wrong. "
            "See `landscape verify` for the landmarks that do"
        )


def find(name: str) -> type[Problem] | Problem:
    """A problem's class, or a ready instance, from its name or `pkg.module:NAME`."""
    target = BUILT_IN.get(name, name)
    module_name, _, attribute = target.partition(":")
    if not attribute:
        if name == "model":
            raise LandscapeError(
                "the problem was made in Python and says not where: name it with --problem pkg.module:NAME, or give "
                "from_model a name"
            )
        hint = did_you_mean(name, BUILT_IN)
        own = "" if hint.endswith("?") else ", and your own as pkg.module:NAME"
        raise LandscapeError(f"there is no problem '{name}': {hint}{own}")
    try:
        with _from_here():
            found = getattr(_module(module_name), attribute)
    except LandscapeError as error:
        raise type(error)(f"problem '{name}': {error}") from error
    except (Exception, SystemExit) as error:  # a module of the user's can fail in any way
        raise LandscapeError(f"cannot load problem '{name}': {type(error).__name__}: {error}") from error
    if isinstance(found, type) and issubclass(found, Problem):
        if "name" not in vars(found):
            found.name = name
        return found
    if not isinstance(found, Problem):
        raise LandscapeError(f"'{name}' is {type(found).__name__}, not a landscape.Problem")
    if found.name not in BUILT_IN:
        object.__setattr__(found, "name", name)  # frozen, but where it is found is not its to know
    return found


def _module(name: str) -> ModuleType:
    """A module by its name, or by its file."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise LandscapeError(f"{name} does not exist")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path):
        return sys.modules[path.stem]
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    """Modules in the working directory can be imported, as for `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no result
            yield
    finally:
        sys.path.remove(here)


def create(name: str, config: Mapping[str, Any] | None = None) -> Problem:
    """The problem of this name with the given fields; raises `LandscapeError` for a field that it does not have."""
    found = find(name)
    config = dict(config or {})
    if isinstance(found, Problem):
        if config and (different := differences(dict(config), found.config())):
            raise Mismatch(
                f"problem '{name}' is a ready instance, and not the one that is asked for: {different}. Give the run's "
                "own model and data, or name another problem with --problem"
            )
        return found
    require_fields(name, found, config)
    return found(**config)


def require_fields(name: str, problem: type[Problem], keys: Iterable[str]) -> None:
    """Raise `LandscapeError`, with the nearest that there is, for a key that is no field of the problem."""
    fields: Sequence[str] = [field.name for field in dataclasses.fields(problem)]  # type: ignore[arg-type]
    for key in keys:
        if key not in fields:
            raise LandscapeError(f"problem '{name}' has no option '{key}': {did_you_mean(key, fields, 'it has')}")
