"""Long work that can be interrupted: its finished parts are kept in a directory, and it goes on behind them."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from landscape.core.errors import Mismatch
from landscape.core.files import differences, is_there, write_json
from landscape.core.reading import conforming, read_json

__all__ = ["Part", "Progress", "Shards"]

#: Progress callback of long work, called with (done, total).
Progress = Callable[[int, int], None]


#: The file that says what a directory keeps.
_PLAN = "plan.json"


@runtime_checkable
class Part(Protocol):
    """Some consecutive items of a result."""

    def __len__(self) -> int:
        """Number of items."""


P = TypeVar("P", bound=Part)


@dataclasses.dataclass(frozen=True)
class Shards(Generic[P]):
    """A directory with the plan of unfinished work and files of its finished items, called `unit` (`rows`), which
    `save` writes atomically, joined, and `read` reads.
    """

    path: Path
    unit: str
    read: Callable[[Path], P]
    save: Callable[[Sequence[P], Path], None]
    ending: str = ".h5"

    def gather(
        self,
        plan: Mapping[str, Any],
        go_on: Callable[[Sequence[P]], Iterator[P]],
        *,
        total: int,
        force: bool,
        seconds: float,
        on_progress: Progress,
    ) -> list[P]:
        """All items, part by part: those that are kept, and the rest as `go_on`, given what is kept, yields them.

        Keeps what is new every `seconds`, and when it is interrupted; of that no more is in memory than `read` takes.
        Raises `Mismatch`, saying what differs, if what is kept belongs to another plan; with `force` it is forgotten
        then.
        """
        finished = self._open(plan, force=force)
        fresh: list[P] = []
        last_kept = time.monotonic()
        try:
            for part in go_on(finished):
                fresh.append(part)
                on_progress(sum(map(len, finished + fresh)), total)
                if time.monotonic() - last_kept >= seconds:
                    kept = self._keep(plan, sum(map(len, finished)), fresh)
                    finished, fresh, last_kept = [*finished, kept], [], time.monotonic()
        except BaseException:
            if fresh:
                self._keep(plan, sum(map(len, finished)), fresh)
            raise
        return finished + fresh

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the directory for a plan if it is not there."""
        if not is_there(self.path / _PLAN):
            write_json(self.path / _PLAN, plan)

    def recorded(self) -> Mapping[str, Any] | None:
        """How what is kept was computed, the plan's `computation`; None if nothing is kept."""
        return self._plan().get("computation") if is_there(self.path / _PLAN) else None

    def remove(self) -> None:
        """Forget all."""
        if is_there(self.path):
            shutil.rmtree(self.path)

    def _open(self, plan: Mapping[str, Any], *, force: bool) -> list[P]:
        """What is kept, from the first item on; nothing if there is no directory."""
        if not is_there(self.path / _PLAN):
            return []
        different = differences(self._plan(), plan)
        if different and force:
            self.remove()
            return []
        if different:
            raise Mismatch(
                f"{self.path} keeps {self.unit} of other work: {different}. Repeat that, choose another output "
                "with `save`, or start anew with `overwrite=True`"
            )
        shards: list[P] = []
        while is_there(file := self._file(sum(map(len, shards)))):
            shards.append(self.read(file))
        return shards

    def _plan(self) -> dict[str, Any]:
        """The plan that is kept."""
        path = self.path / _PLAN
        return conforming(read_json(path), {"computation?": (dict, None)}, path)

    def _keep(self, plan: Mapping[str, Any], first: int, parts: Sequence[P]) -> P:
        """Write items that begin with item `first`."""
        self.begin(plan)
        self.save(parts, self._file(first))
        return self.read(self._file(first))

    def _file(self, first: int) -> Path:
        return self.path / f"{self.unit}-{first:08d}{self.ending}"
