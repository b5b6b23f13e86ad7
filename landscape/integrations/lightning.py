"""A callback of Lightning that records a training as a run."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from landscape.core.errors import LandscapeError
from landscape.problems.base import Problem
from landscape.training.recorder import Recorder

__all__ = ["RecorderCallback"]


def _itself(module: nn.Module) -> nn.Module:
    return module


class RecorderCallback(Callback):
    """Record a training: `Trainer(callbacks=[RecorderCallback("runs/0", problem, seed=0, network=lambda m: m.net)])`.

    Args:
        output, problem, seed, data_seed, overwrite: As in `landscape.Recorder`.
        network: Where in the Lightning module the problem's network is; the module itself without it.

    A training that goes on from a checkpoint (`fit(ckpt_path=...)`) goes on with its recording. Of several processes
    the first records.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        problem: Problem | str,
        *,
        seed: int = 0,
        data_seed: int | None = None,
        overwrite: bool = False,
        network: Callable[[Any], nn.Module] = _itself,
    ) -> None:
        if not callable(network):
            raise LandscapeError(
                f"`network` is {network!r}: give a function of the Lightning module, such as lambda module: module.net"
            )
        self._options: dict[str, Any] = {"seed": seed, "data_seed": data_seed}
        self._output, self._problem, self._overwrite, self._network = output, problem, overwrite, network
        self._recorder: Recorder | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run, and save where the training starts."""
        if trainer.is_global_zero:
            network = self._trained(pl_module)
            goes_on = trainer.global_step > 0
            self._recorder = Recorder(
                self._output, self._problem, **self._options, overwrite=self._overwrite and not goes_on, resume=goes_on
            )
            self._recorder(trainer.global_step, network)
            self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tell the recorder, if the optimizer has made a step: not each batch is one where gradients accumulate."""
        if self._recorder is not None and trainer.global_step > self._seen:
            self._seen = trainer.global_step
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self._recorder(trainer.global_step, self._trained(pl_module), loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the last step."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save what there is."""
        self._close(finished=False)

    def _trained(self, module: Any) -> nn.Module:
        found = self._network(module)
        if not isinstance(found, nn.Module):
            raise LandscapeError(f"`network` gave {type(found).__name__}: give the network in the Lightning module")
        return found

    def _close(self, *, finished: bool = True) -> None:
        if self._recorder is not None:
            self._recorder.close(finished=finished)
            self._recorder = None
