"""A callback of Hugging Face's Trainer that records a training as a run."""

import os
from typing import Any

from transformers import TrainerCallback

from landscape.problems.base import Problem
from landscape.training.recorder import Recorder

__all__ = ["RecorderCallback"]


class RecorderCallback(TrainerCallback):
    """Record a training: `Trainer(..., callbacks=[RecorderCallback("runs/0", problem, seed=0)])`.

    Args:
        output, problem, seed, data_seed, overwrite: As in `landscape.Recorder`.

    A training that goes on from a checkpoint goes on with its recording. Losses are those that the Trainer logs
    (`logging_steps`), means over the steps since the last. Of several processes the first records.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        problem: Problem | str,
        *,
        seed: int = 0,
        data_seed: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {"seed": seed, "data_seed": data_seed}
        self._output, self._problem, self._overwrite = output, problem, overwrite
        self._recorder: Recorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **others: Any) -> None:
        """Open the run, and save where the training starts."""
        if state.is_world_process_zero:
            goes_on = state.global_step > 0
            self._recorder = Recorder(
                self._output, self._problem, **self._options, overwrite=self._overwrite and not goes_on, resume=goes_on
            )
            self._recorder(state.global_step, model)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any = None, **others: Any) -> None:
        """Tell the recorder; the loss of the step is logged after it."""
        if self._recorder is not None:
            self._recorder(state.global_step, model)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, **others: Any) -> None:
        """Log the loss."""
        if self._recorder is not None and logs and "loss" in logs:
            self._recorder.log(state.global_step, logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Save the last step."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
