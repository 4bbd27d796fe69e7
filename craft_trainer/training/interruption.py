"""SIGTERM and SIGINT end a run after its optimizer step, with a checkpoint of it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from craft_trainer.hub.run_folder import CHECKPOINT_PREFIX
from craft_trainer.termination import is_unhandled
from craft_trainer.training.finite import require_finite_run

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_S = 1.0  # a launcher passes on what the terminal has sent to every process already: that is one signal
FIRST = "{name}: this optimizer step is finished and saved; a second one, {after:g} s later, stops at once\n"


class Interruption(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Saves and ends the run of a trainer when one of its processes has received a signal that nobody else handles.

    The step is finished first, and an evaluation is left at its next batch. ``save_strategy: no`` saves as well. In the
    last step the run ends as it would have.

    Raises:
        KeyboardInterrupt: it was SIGINT.
        SystemExit: it was SIGTERM; the exit status is 143.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._listens = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals inside, in the main thread."""
        self._received, self._before, self._process, self._listens = 0, {}, os.getpid(), True
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if in_main_thread else ():
            if is_unhandled(number):  # with enable_jit_checkpoint SIGTERM is transformers'
                self._before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            self._stop_listening()
            self._listens = False

    def _stop_listening(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _receive(self, number: int, _frame: Any) -> None:
        now = time.monotonic()
        if self._received and now - self._since >= AGAIN_S:
            self._stop_listening()
            signal.raise_signal(number)
        elif not self._received:
            self._received, self._since = number, now
            if os.getpid() == self._process and self._trainer.is_world_process_zero():  # no worker of a DataLoader
                sys.stderr.write(FIRST.format(name=signal.Signals(number).name, after=AGAIN_S))

    def _agreed(self) -> int:
        """The signal that some process has received; all processes ask at the same place. 0 if there is none."""
        if self._trainer.args.world_size == 1:
            return self._received
        received = torch.tensor(self._received, device=self._trainer.args.device)
        dist.all_reduce(received, dist.ReduceOp.MAX)
        return int(received)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the step saved. It is again asked for where ``save_strategy: best`` leaves it out."""
        if state.global_step < state.max_steps and self._agreed():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """End the run: the checkpoint is there."""
        if state.global_step < state.max_steps and (number := self._agreed()):
            self._end(number, f"saved {args.output_dir}/{CHECKPOINT_PREFIX}{state.global_step}")

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Leave an evaluation of the training: save the step before it, and end the run."""
        if not self._listens or state.is_hyper_param_search or not (number := self._agreed()):
            return
        if state.global_step == 0:
            self._end(number, "no step was taken, so nothing is saved")
        require_finite_run(args, state, model=self._trainer.model, optimizer=self._trainer.optimizer)
        self._trainer._save_checkpoint(self._trainer.model, trial=None)
        self._end(number, f"saved {args.output_dir}/{CHECKPOINT_PREFIX}{state.global_step}")

    def _end(self, number: int, told: str) -> None:
        self._trainer.finish_saving()
        name = signal.Signals(number).name
        way_on = "go on by resume_from_checkpoint: last in a command, True in a script"
        if number == signal.SIGTERM:
            if self._trainer.is_world_process_zero():
                sys.stderr.write(f"ended by {name}; {told}; {way_on}\n")
            raise SystemExit(128 + number)
        interrupt = KeyboardInterrupt(name)
        interrupt.add_note(f"{told}; {way_on}")
        raise interrupt
