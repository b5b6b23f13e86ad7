"""Representatives: of all networks that compute the same, those that lie close to others, checked on data."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Unverified, few, plural
from landscape.engine.plain import PlainObjective
from landscape.engine.stack import Stack, fingerprint
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.space.alignment import Activity, idle, match
from landscape.space.family import line
from landscape.space.symmetry import Group, Move, Symmetry, act

__all__ = ["Aligner"]

#: Outputs of two representatives differ by less than this share of the largest, in float64.
_SAME = 1e-8

#: Of more representatives than this, so many evenly spaced ones are checked.
_CHECKED = 256

#: Samples on which outputs are compared, and numbers a unit, on samples and places, by which its activity is known; of
#: all units at most so many.
_SAMPLES, _COLUMNS, _MOST = 256, 1024, 2**24

_log = logging.getLogger("landscape")


@dataclasses.dataclass(eq=False)
class Aligner:
    """Chooses representatives of members, and counts what it has found."""

    problem: Problem
    symmetry: Symmetry
    objective: PlainObjective
    #: Dead and duplicate units of each network, by its fingerprint.
    idle: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    how: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, compute: Compute) -> "Aligner":
        """That of a problem; raises `LandscapeError` if no unit of its network is known to have representatives."""
        symmetry = problem.symmetry()
        if not symmetry.groups:
            why = f" ({few(symmetry.refused)})" if symmetry.refused else ""
            raise LandscapeError(
                f"no symmetry of {problem.title()} is known{why}, so its units have no other order: leave `align` out"
            )
        if symmetry.refused:
            count = plural(len(symmetry.refused), "module")
            _log.warning("units of %s stay as they are: %s", count, few(symmetry.refused))
        objective = problem.plain(**{**compute.drawn, "dtype": torch.float64})
        if compute.draws:
            objective = dataclasses.replace(objective, draws=compute.draws, draw_seed=compute.sample_seed)
        return cls(problem, symmetry, objective)

    def __call__(self, members: Stack, reference: Stack, rows: Int[np.ndarray, "2 pair"]) -> Stack:
        """For each pair of a member and one of the reference the member's representative close to that one, in its
        type; outputs on samples are the same, or `Unverified` is raised.
        """
        (outputs, active), (_, others) = map(self._seen, (members, reference))
        if not self.idle:  # later references are representatives
            self._survey(reference, others)
        self._survey(members, active)
        wide = members.to("cpu", torch.float64)
        found = match(
            wide,
            reference.to("cpu", torch.float64),
            self.symmetry,
            rows=rows,
            active=(active, others),
            middle=self._middle,
        )
        for way in found.how:
            self.how[way] = self.how.get(way, 0) + 1
        self._check(found.stack, wide, outputs, rows[0])
        stored = found.stack.to(members.device)
        return Stack(
            {name: tensor.to(members[name].dtype) for name, tensor in stored.tensors.items()},
            {name: tensor.to(members.buffers[name].dtype) for name, tensor in stored.buffers.items()},
        )

    def _middle(self, members: Stack, reference: Stack) -> Tensor:
        """The loss in the middle of the line from each member to the one reference."""
        rows = torch.stack([torch.arange(len(members)), torch.zeros(len(members), dtype=torch.int64)])
        family = line(members, reference.to(members.dtype), rows).to(self.objective.device, torch.float64)
        every = torch.arange(len(members), device=self.objective.device)
        return self.objective(family.at(every, torch.full((len(members),), 0.5, device=every.device)))["loss"]

    def about(self) -> dict[str, Any]:
        """What a result says of it, which is logged too."""
        groups, told = self.symmetry.groups, self.symmetry
        count = {
            "units": sum(group.size for group in groups if group.permutes),
            "scales": sum(group.size * len(group.scalings) for group in groups),
            "signs": sum(group.size * len(group.flips) for group in groups),
        }
        kinds = {"units": "the order of {} units", "scales": "{} positive scales", "signs": "{} signs"}
        what = ", ".join(kinds[name].format(number) for name, number in count.items() if number)
        _log.info("aligned up to %s, in %s", what, plural(len(groups), "group"))
        dead, double = (sum(each[kind] for each in self.idle.values()) for kind in (0, 1))
        if dead or double:
            which = "%d dead units and %d duplicates in %s, on %d samples: their order and scale are arbitrary"
            _log.info(which, dead, double, plural(len(self.idle), "network"), min(_SAMPLES, self.objective.samples))
        idle_units = {"dead": dead, "duplicates": double, "networks": len(self.idle)}
        lists = {"refused": list(told.refused), "unquotiented": list(told.unquotiented)}
        return {"groups": len(groups), **count, "found_by": self.how, **idle_units, **lists}

    @functools.cached_property
    def _readers(self) -> dict[int, tuple[str, int, np.ndarray]]:
        """Of groups, by number, a module that reads its units, along which axis of its input, and their places there;
        of some there is none that is known to.
        """
        modules = dict(self.problem.prototype.named_modules())
        found: dict[int, tuple[str, int, np.ndarray]] = {}
        for number, group in enumerate(self.symmetry):
            for axis in group.axes:
                name, _, tensor = axis.name.rpartition(".")
                layer = modules.get(name)
                ours = isinstance(layer, nn.Linear) or (
                    isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
                )
                if ours and tensor == "weight" and axis.dim == 1:
                    along = -1 if isinstance(layer, nn.Linear) else -(layer.weight.ndim - 1)  # type: ignore[union-attr]
                    found.setdefault(number, (name, along, axis.places(group.size)))
        return found

    def _survey(self, stack: Stack, active: Sequence[Activity]) -> None:
        """Count dead and duplicate units of networks that were not looked at before."""
        for single, dead, double in zip(stack.chunks(1), *idle(stack, self.symmetry, active=active), strict=True):
            self.idle[fingerprint(single.tensors)] = (int(dead), int(double))

    def _seen(self, stack: Stack) -> tuple[list[list[Tensor]], list[Activity]]:
        """Of each member the outputs, and what its units do."""
        columns = min(_COLUMNS, max(64, _MOST // max(1, sum(self.symmetry.sizes))))
        outputs, active = list[list[Tensor]](), list[Activity]()
        for found, read in self.objective.looked_at(stack, _SAMPLES, {name for name, *_ in self._readers.values()}):
            outputs.append(found)
            active.append(
                {
                    number: _activity(read[name], along, places, columns)
                    for number, (name, along, places) in self._readers.items()
                    if name in read  # it may be called in another way than by its forward
                }
            )
        return outputs, active

    def _check(
        self, moved: Stack, members: Stack, outputs: Sequence[list[Tensor]], rows: Int[np.ndarray, " pair"]
    ) -> None:
        """Raise `Unverified`, naming the module, if outputs have changed."""
        count = len(moved)
        lines = np.unique(np.linspace(0, count - 1, min(count, _CHECKED)).round().astype(int))
        seen = self.objective.looked_at(moved.select(lines.tolist()), _SAMPLES)
        for row, (now, _) in zip(rows[lines], seen, strict=True):
            if (off := _difference(outputs[row], now)) > _SAME:
                where = self._culprit(members.select([int(row)]), outputs[row])
                raise Unverified(
                    f"another representative does not compute what the network computes: outputs differ by {off:.2g} "
                    f"of the largest, because of the units of {where}: leave `align` out"
                )

    def _culprit(self, member: Stack, outputs: list[Tensor]) -> str:
        """The modules of the first group that alone changes the outputs."""
        for number, group in enumerate(self.symmetry):
            moved = act(member, self.symmetry, (_some(number, group),))
            ((now, _),) = self.objective.looked_at(moved, _SAMPLES)
            if _difference(outputs, now) > _SAME:
                return few(list(dict.fromkeys(axis.name.rpartition(".")[0] or axis.name for axis in group.axes)))
        return "several modules together"


def _some(number: int, group: Group) -> Move:
    """Units in reverse, each by another factor and sign."""
    scales = np.tile(1 + np.arange(group.size) / group.size, (len(group.scalings), 1))
    signs = np.tile((-1.0) ** np.arange(group.size), (len(group.flips), 1))
    order = np.arange(group.size)[::-1].copy() if group.permutes else None
    return Move(number, order, scales if group.scalings else None, signs if group.flips else None)


def _activity(read: Tensor, along: int, places: Int[np.ndarray, "unit place"], columns: int) -> np.ndarray:
    """Rows of units with mean 0 and length 1, of at most so many numbers, and of zeros where nothing is done."""
    units = read.double().movedim(along, 0).flatten(1)[torch.as_tensor(places, device=read.device)].flatten(1)
    units = units[:, :: max(1, -(-units.shape[1] // columns))].cpu()
    still = ~units.any(1)
    units = units - units.mean(1, keepdim=True)
    norms = units.norm(dim=1, keepdim=True)
    # What is constant but not 0 does something, though it tells nothing.
    rows = torch.where(norms > 0, units / norms, torch.where(still[:, None], 0.0, 1e-9))
    return np.asarray(rows.numpy())


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of outputs as a share of the largest; NaN is as NaN."""
    worst = 0.0
    for a, b in _real(one, other):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            off = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
            size = float(a.abs().nan_to_num(posinf=0.0).max()) or 1.0
            worst = max(worst, float(off.nan_to_num(nan=float("inf")).max()) / size)
    return worst


def _real(one: Sequence[Tensor], other: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((a.double(), b.double()) for a, b in itertools.zip_longest(one, other, fillvalue=torch.empty(0)))
