"""Runs of trainings that somebody else's loop does: checkpoints and losses in the format of our own."""

import contextlib
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Mismatch
from landscape.core.fields import LAST_SEED, Field, as_path
from landscape.core.files import differences, is_there
from landscape.core.locks import writing
from landscape.core.reading import read_bytes
from landscape.problems.base import Problem
from landscape.problems.places import fitting, held
from landscape.problems.registry import chosen, record
from landscape.store.checkpoints import Checkpoint, Run
from landscape.training.logs import JsonLines, step_of

__all__ = ["Recorder"]

#: Losses are logged when the step has grown by this share, some 120 a decade.
_SHARE = 0.02

_LOG = logging.getLogger(__name__)


class Recorder:
    """Record the training of one network as a run: steps 0, 1, 2, 5, 10, 20, 50, ... and the last, and losses between.

    Call it after each step of the optimizer, and before the first with step 0. Most calls do nothing. What it writes is
    a run like those of `landscape.train`, so `landscape walk`, `landscape plane --trajectory` and the analyses take it.
    A run of several seeds is several recordings: `landscape walk --from presolve --to 'runs/*'`.

    Args:
        output: Directory of the run.
        problem: What is learnt, from `Problem.from_model`, or its name, such as `my_model.py:PROBLEM`: how the
            checkpoints are evaluated.
        seed: Of the initial parameters, by which the member is called.
        data_seed: Of the order of the data; without it `seed`.
        overwrite: Begin anew in the place of the run that is there.
        resume: Go on with the recording that is there, if one is, of a training that was interrupted: what it has
            beyond the step of the next call is dropped.

    Raises:
        LandscapeError: If `output` holds something else, or a recording without `overwrite` and `resume`.
        Busy: If somebody else is writing it.
        Mismatch: If the recording that is to go on is another; it says what differs.

    Example:
        >>> import tempfile, torch
        >>> from landscape import Problem, Recorder
        >>> net, x = torch.nn.Linear(2, 1), torch.randn(8, 2)
        >>> problem = Problem.from_model(net, (x, x.sum(1, keepdim=True)), "mse")
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with Recorder(tempfile.mkdtemp(), problem, seed=3) as record:
        ...     record(0, net)
        ...     for step in range(1, 8):
        ...         loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
        ...         record(step, net, loss)
        >>> record.run.steps()
        [0, 1, 2, 5, 7]
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        problem: Problem | str,
        *,
        seed: int = 0,
        data_seed: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        seed = Field("seed", int, None, syntax="seed").check(seed)
        data_seed = seed if data_seed is None else Field("data_seed", int, None, syntax="seed").check(data_seed)
        path, self.problem = as_path(output, "output"), chosen(problem)
        if overwrite and resume:
            raise LandscapeError("`overwrite` begins anew, and `resume` goes on: leave one of them out")
        document = {
            **record(self.problem, look=True),
            "training": {"recorded": "begun"},
            "seeds": [seed],
            "data_seeds": [data_seed],
            "computation": {},
        }
        there = Run.open(path) if is_there(path / "run.json") else None
        if there is not None and "recorded" in there.document["training"] and not there.steps():
            overwrite = not resume  # nothing was recorded there
        goes_on = resume and there is not None
        if not goes_on:
            Run.require_free(path, overwrite=overwrite)
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            opening.enter_context(writing(path, directory=True))
            self.run = _taken_up(path, document) if goes_on else _begun(path, document)
            self._closing = opening.pop_all()
        self._log: JsonLines | None = None
        self._logged, self._saved, self._is_closed = -math.inf, -1, False
        self._last: tuple[int, nn.Module] | None = None
        self._changes = 0

    def __call__(self, step: int, model: nn.Module, loss: Tensor | float | None = None) -> None:
        """Tell that the network has been trained for so many steps, and its loss on the last batch.

        Args:
            step: Steps of the optimizer that are done.
            model: The network, as it is trained: wrapped, compiled or bare.
            loss: A number, or a tensor of one.

        Raises:
            LandscapeError: The step is not beyond the last one.
            Mismatch: The network is not that of the problem.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise LandscapeError(f"`step` is {step!r}: it counts the optimizer's steps, 0, 1, 2, ...")
        if step > LAST_SEED:
            raise LandscapeError(f"`step` is {step}: steps end at 2^63 - 1")
        if not isinstance(model, nn.Module):
            raise LandscapeError(f"`model` is {type(model).__name__}: give the network as it is trained")
        if loss is not None:
            _require_number(loss)
        if self._is_closed:
            raise LandscapeError(f"the recording of {self.run.path} is closed: record within its `with` block")
        if self._last is None:
            self._begin(step, logged=step if loss is None else max(step - 1, 0))
        elif step <= self._last[0]:
            raise LandscapeError(f"step {step} was told after step {self._last[0]}: tell each once, in order")
        self._last, self._changes = (step, model), _changes(model)
        if loss is not None and step:
            self.log(step - 1, loss)  # that of the network before the step, as in a run of `train`
        if _is_round(step):
            self._save(step, model)

    def log(self, step: int, loss: Tensor | float) -> None:
        """Keep the loss that the network had after so many steps, unless one of nearly as many is kept."""
        _require_number(loss)
        if self._log is not None and step >= self._logged * (1 + _SHARE):
            self._log.write(step, np.array([float(loss.detach() if isinstance(loss, Tensor) else loss)]))
            self._logged = step

    def close(self, *, finished: bool = True) -> None:
        """Save the last step, say whether that was the end, and let go of the run; of one without a step nothing stays.

        Args:
            finished: Whether training came to its end.
        """
        if self._is_closed:
            return
        self._is_closed = True
        with self._closing:
            if self._last is not None and self._last[0] > self._saved:
                self._save_last(*self._last)
            if self._log is not None:
                self._log.close()
            if not self.run.steps():
                Run.remove(self.run.path)
            elif finished:
                own = ("schema", "created", "command", "versions", "sha256")
                document = {key: value for key, value in self.run.document.items() if key not in own}
                self.run = Run.create(self.run.path, {**document, "training": {"recorded": "ended"}})

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *what: object) -> None:
        self.close(finished=kind is None)

    def _begin(self, step: int, *, logged: int) -> None:
        for later in [each for each in self.run.steps() if each >= step]:
            self.run.checkpoint_path(later).unlink()
        path = self.run.path / "log.jsonl"
        self._log = JsonLines(path, logged)
        if lines := read_bytes(path).splitlines():
            self._logged = step_of(lines[-1])

    def _save_last(self, step: int, model: nn.Module) -> None:
        if _changes(model) == self._changes:
            self._save(step, model)
        else:  # such as by an optimizer that was interrupted
            _LOG.warning(
                "%s: the network has changed since step %d was told, which is not saved; the last that is, is step %s",
                self.run.path,
                step,
                self._saved if self._saved >= 0 else "none",
            )

    def _save(self, step: int, model: nn.Module) -> None:
        found = held(model, "the network")
        assert isinstance(found, Checkpoint)
        self.run.save(step, fitting(self.problem, found, finite=False, quiet=self._saved >= 0).stack)
        self._saved = step


def _taken_up(path: Path, document: dict[str, Any]) -> Run:
    run = Run.open(path)
    there = {key: run.document.get(key) for key in document if key != "training"}
    if different := differences(there, {key: document[key] for key in there}):
        raise Mismatch(f"{path} holds another run: {different}. Choose another with `output`")
    if "recorded" not in run.document["training"]:
        raise Mismatch(f"{path} holds a run that was not recorded: choose another with `output`")
    return Run.create(path, document) if run.document["training"] != document["training"] else run


def _begun(path: Path, document: dict[str, Any]) -> Run:
    Run.remove(path)
    return Run.create(path, document)


def _require_number(loss: Any) -> None:
    """Raise `LandscapeError` for what is no loss, without a look at its value, for which a GPU would be waited."""
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise LandscapeError(f"`loss` has {loss.numel()} numbers: give the one that the step descended")
    if not hasattr(loss, "__float__") or (isinstance(loss, Tensor) and loss.is_complex()):
        raise LandscapeError(f"`loss` is {loss!r}: give a number, or a tensor of one")


def _changes(model: nn.Module) -> int:
    """How often the parameters have been written to, as autograd counts it."""
    return sum(parameter._version for parameter in model.parameters())


def _is_round(step: int) -> bool:
    """Whether a step is one of 0, 1, 2, 5, 10, 20, 50, ...

    >>> [step for step in range(101) if _is_round(step)]
    [0, 1, 2, 5, 10, 20, 50, 100]
    """
    digits = str(step).rstrip("0")
    return digits in ("", "1", "2", "5")
