"""Which backend evaluates a network fastest? Measured, because it depends on the network and the machine."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence

import torch

from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.data import SAMPLE_MULTIPLE, Batch, Stream
from landscape.engine.memory import AUTOMATIC
from landscape.engine.objective import Objective
from landscape.engine.stack import Stack
from landscape.engine.stacked import Backend, Stacked

__all__ = ["fastest"]

_BACKENDS: Sequence[Backend] = ("stacked", "vmap", "loop")

#: Members and samples of the measurement, at most; and seconds after which a backend is not tried again.
_MEMBERS, _SAMPLES, _SECONDS = 64, 512, 0.2

#: So many times as fast as one before it in the order of `_BACKENDS` must a backend be to be preferred: the noise of a
#: busy machine must not decide, since results depend on the backend in their last digits.
_CLEARLY = 1.3

#: Relative difference of losses up to which backends agree.
_AGREE = 1e-3

_log = logging.getLogger("landscape")


def fastest(objective: Objective) -> Backend:
    """The backend that evaluates an objective fastest, as a short measurement on a part of the data says.

    Backends that cannot run the network, or whose losses are not those of the plain module, are left out; the choice
    is logged.
    """
    module = objective.network.module
    few = _few(objective)
    # A whole chunk: a part of one would be filled up, which only some backends pay for.
    count = min(objective.chunk.members, _MEMBERS)
    stack = _near(objective.network.template.to(objective.device, objective.dtype), count)
    expected = few.plain(stack)["loss"]
    found: dict[Backend, Objective] = {}
    for backend in _BACKENDS if objective.network.backend == "stacked" else _BACKENDS[1:]:
        try:
            network = Stacked(module, backend=backend, table=objective.network.table)
            one = dataclasses.replace(few, network=network, chunk=AUTOMATIC)
            losses = one(stack)["loss"]
            if not torch.allclose(losses, expected, rtol=_AGREE, atol=1e-5, equal_nan=True):
                _log.warning("backend %s gives other losses than the plain module: it is not used", backend)
                continue
            found[backend] = one
        except (Unsupported, RuntimeError, NotImplementedError) as error:
            _log.info("backend %s cannot run %s: %s", backend, type(module).__name__, str(error).splitlines()[0][:120])
    if not found:
        raise LandscapeError(f"{type(module).__name__} runs neither alone nor stacked: does it draw random numbers?")
    times = _seconds(found, stack)
    best = next(backend for backend, seconds in times.items() if seconds <= _CLEARLY * min(times.values()))
    text = ", ".join(f"{backend} {1e3 * seconds / len(stack):.3g} ms" for backend, seconds in times.items())
    _log.info("backend %s for %s (a member on %d samples: %s)", best, type(module).__name__, few.samples, text)
    return best


def _few(objective: Objective) -> Objective:
    """The objective on a part of its data."""
    data = objective.data.first if isinstance(objective.data, Stream) else objective.data
    stop = min(len(data), _SAMPLES // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE)
    part = data.samples(0, stop)
    total = part.weights.sum()
    part = Batch(part.inputs, part.targets, part.weights / torch.where(total > 0, total, 1))
    calibration = objective.calibration.samples(0, stop) if objective.calibration is not None else None
    return dataclasses.replace(objective, data=part, calibration=calibration, chunk=AUTOMATIC)


def _near(template: Stack, count: int) -> Stack:
    """Members near the template."""
    generator = torch.Generator().manual_seed(0)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        many = tensor.repeat(count, *[1] * (tensor.ndim - 1))
        noise = torch.rand(many.shape, generator=generator, dtype=torch.float64).to(many) * 0.02 + 0.99
        return many * noise if many.is_floating_point() else many

    return template.map(spread)


def _seconds(objectives: Mapping[Backend, Objective], stack: Stack) -> dict[Backend, float]:
    """The shortest of a few runs of each, taken in turns, so that a busy moment hits all alike."""
    times: dict[Backend, list[float]] = {backend: [] for backend in objectives}
    for _ in range(3):
        for backend, objective in objectives.items():
            if sum(times[backend]) >= _SECONDS:
                continue
            begun = time.perf_counter()
            objective(stack)
            if objective.device.type == "cuda":
                torch.cuda.synchronize()
            times[backend].append(time.perf_counter() - begun)
    return {backend: min(each) for backend, each in times.items()}
