"""How a problem's objective is computed: on what, where, in which numbers and by which means."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch

from landscape.core.devices import chosen_device
from landscape.core.errors import Unsupported
from landscape.core.fields import check, option
from landscape.engine.objective import CALIBRATION_BATCH, BatchNorm, Objective
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.program.layers import has_statistics
from landscape.engine.spectral import spectral_norms
from landscape.engine.stacked import Backend
from landscape.problems.base import Problem, require_sampled
from landscape.problems.places import Place, device_of
from landscape.problems.registry import record
from landscape.space.groups import learning

__all__ = ["BACKENDS", "Compute", "Engine"]

#: How networks are computed: one after another by their own forward; many at once, layer by layer; by torch.vmap;
#: the Game of Life in compiled loops, which evaluate one step and train any; or as suits the network.
Engine = Literal["auto", "plain", "stacked", "vmap", "fused"]

#: What serves stacks with each.
BACKENDS: Mapping[Engine, Backend | None] = {
    "auto": None,
    "plain": "loop",
    "stacked": "stacked",
    "vmap": "vmap",
    "fused": "stacked",
}

_log = logging.getLogger("landscape")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """What a user may choose of how an objective is computed; None leaves the choice to the problem.

    Where there is no exact loss, `samples` of `sample_seed` are drawn. With `autocast` the network, but not the loss,
    runs in bfloat16 or float16 where PyTorch deems it safe. `batchnorm` is that of `Objective`. A loss that draws
    random numbers is averaged over `draws` states of all generators, which `sample_seed` decides. `l2` adds so much
    times half of the sum of squares of the parameters that learn to the loss.
    """

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    samples: int | None = option(None, "Samples that are drawn.", at_least=1)
    sample_seed: int = option(0, "Seed of the sample.", syntax="seed")
    batchnorm: BatchNorm | None = None
    engine: Engine = "auto"
    autocast: torch.dtype | None = None
    draws: int | None = option(None, "Average a random loss over so many draws, the same at each point.", at_least=1)
    l2: float = option(0.0, "L2 penalty of the parameters that learn, added to the loss.", at_least=0)

    def __post_init__(self) -> None:
        check(self)
        if self.dtype not in (torch.float32, torch.float64):
            raise Unsupported(f"`dtype` is {self.dtype}: compute in torch.float32 or torch.float64")
        if self.autocast not in (None, torch.bfloat16, torch.float16):
            raise Unsupported(f"`autocast` is {self.autocast}: choose torch.bfloat16 or torch.float16")
        chosen_device(self.device)

    @classmethod
    def chosen(
        cls,
        a: Place,
        *,
        device: str | torch.device | None,
        dtype: torch.dtype,
        batchnorm: BatchNorm | None,
        engine: Engine,
        autocast: torch.dtype | None,
        samples: int | None,
        seed: int,
        draws: int | None = None,
        l2: float = 0.0,
    ) -> "Compute":
        """What the arguments of a verb choose; without a `device` the one where the network `a` is, else the CPU."""
        return cls(
            device=chosen_device(device_of(a) if device is None else device),
            dtype=dtype,
            samples=samples,
            sample_seed=seed,
            batchnorm=batchnorm,
            engine=engine,
            autocast=autocast,
            draws=draws,
            l2=l2,
        )

    @property
    def drawn(self) -> dict[str, Any]:
        """What problems are asked for, and landmarks verified with."""
        return {"device": self.device, "dtype": self.dtype, "samples": self.samples, "seed": self.sample_seed}

    def objective(self, problem: Problem) -> AnyObjective:
        """The problem's objective, computed in this way; raises `Unsupported` for a policy without BatchNorm."""
        objective = self._objective(problem)
        if self.samples is not None:
            require_sampled(problem, objective, "samples")
        return objective

    def require_drawing(self, problem: Problem, objective: AnyObjective) -> None:
        """Raise `Unsupported` for a seed of samples where nothing is drawn, because the loss is exact."""
        if self.sample_seed and not self.draws:
            require_sampled(problem, objective, "seed")

    def _objective(self, problem: Problem) -> AnyObjective:
        chosen = self.engine
        for name in ("draws", "l2"):
            if getattr(self, name) and chosen not in ("auto", "plain"):
                raise Unsupported(f'`{name}` goes with the plain engine: leave `engine="{chosen}"` out')
        if chosen == "auto" and (self.draws or self.l2):
            chosen = "plain"
        if chosen == "auto":
            chosen = "stacked" if problem.prefers_stacks(torch.device(self.device)) else "plain"
        if chosen != "plain":
            if problem.evaluates_more:
                raise Unsupported(
                    f'`test` data is evaluated along with the rest by the plain engine: leave `engine="{chosen}"` out'
                )
            if spectral_norms(problem.prototype):
                raise Unsupported(
                    "the singular vectors of spectral norms are found anew at each point by the plain engine alone: "
                    f'leave `engine="{chosen}"` out'
                )
            return self.stacks(problem).with_fused() if chosen == "fused" else self.stacks(problem)
        self._require_batchnorm(problem)
        objective = problem.plain(**self.drawn, batchnorm=self.batchnorm, autocast=self.autocast)
        if self.draws:
            objective = dataclasses.replace(objective, draws=self.draws, draw_seed=self.sample_seed)
        if self.l2:
            learns = learning(problem.prototype)
            objective = dataclasses.replace(objective, l2=objective.l2 + self.l2, learning=learns)
        return objective

    def stacks(self, problem: Problem) -> Objective:
        """The same for stacks of many networks; raises `Unsupported` where a loss reads one network at a time."""
        objective = problem.objective(**self.drawn, backend=BACKENDS[self.engine])
        if self.batchnorm is not None:
            self._require_batchnorm(problem)
            objective = dataclasses.replace(objective, batchnorm=self.batchnorm)
        if self.autocast is not None:
            objective = dataclasses.replace(objective, autocast=self.autocast)
        return objective

    def _require_batchnorm(self, problem: Problem) -> None:
        if self.batchnorm is not None and not any(map(has_statistics, problem.prototype.modules())):
            raise Unsupported(f"{problem.title()} has no BatchNorm with running statistics: leave `batchnorm` out")

    def describe(self, problem: Problem, objective: AnyObjective) -> dict[str, Any]:
        """What a file says of the numbers in it: problem, samples, unit, and what BatchNorm normalises by."""
        about = {
            **record(problem),
            "title": problem.title(),
            "sampled": objective.sampled,
            "samples": objective.samples,
            "sample_seed": self.sample_seed if objective.sampled else None,
            "loss_unit": objective.unit,
        }
        about["engine_asked"] = self.engine
        if isinstance(objective, PlainObjective) and objective.over_batches and not objective.one_chunk:
            about["means_over_batches"] = list(objective.over_batches)
        if self.draws:
            about["draws"] = {"count": self.draws, "seed": self.sample_seed}
        if penalty := getattr(objective, "l2", 0.0):
            about["l2"] = penalty
        if objective.batchnorm is not None:
            about["batchnorm"] = {"policy": objective.batchnorm, **_estimated(objective)}
        return about


def _estimated(objective: AnyObjective) -> dict[str, int]:
    """On how many samples statistics are estimated, and on how many at once."""
    if objective.batchnorm != "recalibrate":
        return {}
    return {"samples": objective.calibration_samples, "batch": CALIBRATION_BATCH}
