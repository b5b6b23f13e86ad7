"""`landscape.align`: of all networks that compute what a network computes, one that lies close to another."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from landscape.core.fields import require
from landscape.core.provenance import Source
from landscape.engine.stack import Stack, fingerprint
from landscape.evaluation.representatives import Aligner
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute
from landscape.problems.places import Place, device_of, held
from landscape.store.checkpoints import Checkpoint

__all__ = ["Alignment", "align"]


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """A representative and how it was found.

    Args:
        network: The representative of `b`, of the kind that `b` was: a module, a state dict, a `Stack`; of a file, a
            run or a landmark a `Checkpoint`.
        before, after: L2 distance to `a` of `b` as it was and of its representative, a number a member.
        about: How many `units` can change their order, `scales` and `signs` their value; what is `refused`, a line a
            module; what more there is that is not taken out (`unquotiented`); how representatives were `found_by`; and
            how many units of how many `networks` are `dead` or `duplicates`.
    """

    network: Any
    before: Float[np.ndarray, " member"]
    after: Float[np.ndarray, " member"]
    about: Mapping[str, Any]

    def __repr__(self) -> str:
        kinds = ", ".join(f"{self.about[name]} {name}" for name in ("units", "scales", "signs") if self.about[name])
        held = f"; {len(self.about['refused'])} modules held" if self.about["refused"] else ""
        return f"Alignment(L2 {np.median(self.before):.4g} -> {np.median(self.after):.4g}, up to {kinds}{held})"


def align(
    a: Place | Stack,
    b: Place | Stack,
    *,
    problem: Problem | str | None = None,
    device: str | torch.device | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Alignment:
    """Of all networks that compute what `b` computes, one that lies close to `a`: `a` stays.

    Units change their order; where activations let it through, they are rescaled or change their sign. Of few units
    (24 orders and signs) all representatives are tried; else units are matched by their weights, in coordinate descent
    over groups from several starts, one of which is by correlations of what they do on the data. Of each order the
    member's own scales and those of `a` (both brought to the least L2 norm, which is unique) are tried. Where
    not all representatives are, the closest of each way is a local optimum, and of these and `b` itself the one with
    the lowest loss half way to `a` is taken (up to 2^24 parameters); else the closest of all, and `b` itself. Outputs
    on up to 256 samples are compared with those of `b`, in float64.

    Args:
        a, b: Places, as in `landscape.walk`, or stacks; of many members member by member, a single one with all.
        problem: Model, data and loss. None: that of the run or checkpoint.
        device: Where to compute outputs; None: where the module `a` is, else the CPU.
        samples: Samples that are drawn where there is no exact loss; None: what the problem draws usually.
        seed: Seed of that sample.

    Returns:
        An `Alignment`: the `network`, distances `before` and `after`, and `about`.

    Raises:
        LandscapeError: In one line, what is wrong, such as a network no symmetry of which is known.
        Unverified: The representative computes something else; the error names the module.

    Source: S. Ainsworth, J. Hayase, S. Srinivasa, *Git Re-Basin*, ICLR 2023; Y. Li et al., *Convergent learning*, ICLR
    2016; P. Stock et al., *Equi-normalization of neural networks*, ICLR 2019 (scales).

    >>> import landscape
    >>> problem = landscape.problems.registry.create("digits", {"width": 4})
    >>> one, other = problem.network(), problem.network()
    >>> found = landscape.align(one, other, problem=problem)
    >>> bool(found.after[0] <= found.before[0]), type(found.network).__name__
    (True, 'Sequential')
    """
    require(align, locals())
    device = device_of(a) if device is None and not isinstance(a, Stack) else device
    compute = Compute(device=device or "cpu", samples=samples, sample_seed=seed)
    places = [_held(place, name) for place, name in ((a, "a"), (b, "b"))]
    problem, (one, other) = networks(places, compute, problem)
    aligner = Aligner.of(problem, compute)
    lines = np.arange(max(len(one.stack), len(other.stack)))
    rows = np.stack([lines * (len(each.stack) > 1) for each in (other, one)])
    found = aligner(other.stack, one.stack, rows)
    reference = one.stack.select(rows[1].tolist())
    before, after = (
        each.subtract(reference).norms()[1].cpu().numpy() for each in (other.stack.select(rows[0].tolist()), found)
    )
    return Alignment(_like(b, other, found, rows[0].tolist()), before, after, aligner.about())


def _held(place: Place | Stack, name: str) -> Place:
    if not isinstance(place, Stack):
        return held(place, name)
    sources = tuple(
        Source("memory", None, None, fingerprint(single.tensors), f"{name} {row}")
        for row, single in enumerate(place.chunks(1))
    )
    return Checkpoint(place, sources, None)


def _like(given: Place | Stack, checkpoint: Checkpoint, found: Stack, rows: list[int]) -> Any:
    """The representative, of the kind that was given."""
    if isinstance(given, Stack) or (len(found) > 1 and isinstance(given, nn.Module | Mapping)):
        return found
    if isinstance(given, nn.Module):
        made = copy.deepcopy(given)
        made.load_state_dict(found.state_dict(0), strict=False)  # what is tied is there once
        return made
    if isinstance(given, Mapping):
        return found.state_dict(0)
    sources = tuple(dataclasses.replace(checkpoint.sources[row], order="aligned") for row in rows)
    return dataclasses.replace(checkpoint, stack=found, sources=sources)
