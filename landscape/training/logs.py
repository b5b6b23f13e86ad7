"""What training tells while it runs: a JSONL file always, TensorBoard and W&B where they are asked for."""

import contextlib
import dataclasses
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from landscape.core.errors import DamagedFile, Unsupported
from landscape.core.files import is_there, replacing
from landscape.core.reading import parsed, read_bytes
from landscape.store.checkpoints import Run

__all__ = ["JsonLines", "Scalars", "open_log", "open_logs", "require_logs", "step_of"]

#: Members whose losses are drawn one by one in TensorBoard and W&B; of more only quartiles.
_ONE_BY_ONE = 20

#: The loss of each member on its batch.
_Losses = Float[np.ndarray, " member"]

_LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


@dataclasses.dataclass
class JsonLines:
    """`log.jsonl` in the run's directory: an object a line, `step` and the `loss` of each member; null if not finite.

    Opened again at step `first`, it goes on there: what an interrupted training wrote beyond is dropped.
    """

    path: Path
    first: int = 0

    def __post_init__(self) -> None:
        kept = []
        if self.first and is_there(self.path):
            kept = [line for line in read_bytes(self.path).splitlines() if step_of(line) < self.first]
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        self._file = self.path.open("a")

    def write(self, step: int, loss: _Losses) -> None:
        """Add a line, which is on disk when this returns."""
        values = [value if math.isfinite(value) else None for value in loss.tolist()]
        self._file.write(json.dumps({"step": step, "loss": values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Scalars:
    """A log that is told scalars: quartiles over members, and the losses of few members one by one."""

    seeds: Sequence[int]
    tell: Callable[[dict[str, float], int], object]
    close: Callable[[], object]

    def write(self, step: int, loss: _Losses) -> None:
        """Tell the scalars of a step."""
        finite = loss[np.isfinite(loss)]
        levels = {"min": 0, "q1": 0.25, "median": 0.5, "q3": 0.75, "max": 1}
        scalars = {f"loss/{name}": float(np.quantile(finite, level)) for name, level in levels.items() if len(finite)}
        if len(self.seeds) <= _ONE_BY_ONE:
            scalars |= {f"loss of seed/{seed}": float(value) for seed, value in zip(self.seeds, loss, strict=True)}
        self.tell(scalars, step)


@contextlib.contextmanager
def open_logs(run: Run, first: int, names: Sequence[str]) -> Iterator[Callable[[int, _Losses], None]]:
    """`log.jsonl` of a run and the logs of these names, from step `first` on, as one function that tells them all."""
    with contextlib.ExitStack() as closing:
        logs: list[JsonLines | Scalars] = [JsonLines(run.path / "log.jsonl", first)]
        closing.callback(logs[0].close)
        for name in names:
            logs.append(open_log(name, run.path, run.seeds, run.document))
            closing.callback(logs[-1].close)

        def write(step: int, loss: _Losses) -> None:
            for log in logs:
                log.write(step, loss)

        yield write


def open_log(name: str, path: Path, seeds: Sequence[int], config: Mapping[str, Any]) -> Scalars:
    """The log `tensorboard` of a run, event files in its directory, or `wandb`, whose settings are the environment's.

    Raises `Unsupported` where it is not installed, or not known.
    """
    library = _imported(name)
    if name == "tensorboard":
        writer = library.SummaryWriter(str(path / "tensorboard"))

        def tell(scalars: dict[str, float], step: int) -> None:
            for key, value in scalars.items():
                writer.add_scalar(key, value, step)

        return Scalars(seeds, tell, writer.close)
    run = library.init(project="landscape", name=path.name, dir=str(path), config=dict(config))
    return Scalars(seeds, lambda scalars, step: run.log(scalars, step=step), run.finish)


def require_logs(names: Sequence[str]) -> None:
    """Raise `Unsupported` unless each of these logs is known and installed."""
    for name in names:
        _imported(name)


def _imported(name: str) -> Any:
    """The library of a log, which nothing else needs."""
    if name not in _LIBRARIES:
        raise Unsupported(f"there is no log '{name}': choose {' or '.join(_LIBRARIES)}; log.jsonl is always written")
    try:
        return importlib.import_module(_LIBRARIES[name])
    except ImportError as error:
        raise Unsupported(f"{name} is not installed: pip install '.[{name}]' in the clone") from error


def step_of(line: bytes) -> float:
    """The step of a line of a log; infinite for one that is none."""
    if whole := re.fullmatch(rb'\{"step": (\d{1,12}), "loss": \[[^][]*\]\}', line):  # of a million members, too
        return int(whole[1])
    try:
        return int(parsed(line, "a line")["step"])
    except (DamagedFile, ValueError, KeyError, TypeError, OverflowError):  # a line cut short, or of somebody else's
        return math.inf
