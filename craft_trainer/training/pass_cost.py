"""Compare the cost of a retention pass with the task's over the first steps, and say it in one line."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState, TrainingArguments

from craft_trainer.training.config import samples_per_device
from craft_trainer.training.retention import Retention

MEASURED = 3  # retention passes after the first one, which opens files and chooses kernels


class PassCost(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Says once, after the first retention passes, how much longer retention makes the run.

    Seconds are of the wall clock, the device waited for; each figure is the median over the steps that were measured.
    Whatever a step does besides its retention pass (reading samples, the optimizer) belongs to the plain step.
    """

    def __init__(self, retention: Retention) -> None:
        self._passes = retention
        self._ended, self._waits = False, False
        self._start()

    def _start(self) -> None:
        self._task: list[float] = []  # seconds of every optimizer step's task passes
        self._retention: list[float] = []  # of every retention pass, with surgery
        self._plain: list[float] = []  # of every optimizer step without its retention pass
        self._begun: float | None = None  # when the optimizer step began; None where nothing is measured
        self._pause = 0.0

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Forget an earlier training."""
        self._start()
        self._ended = False
        self._waits = args.device.type != "cpu"

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """End the measurement of the step before; say the cost when enough was seen."""
        if self._ended:
            return
        now = self._now()
        if self._begun is not None:
            self._plain.append(now - self._begun - self._pause)
        if len(self._retention) > MEASURED:
            self._say(args, state)
            return
        self._begun, self._pause = now, 0.0
        self._task.append(0.0)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Say what a short training has shown."""
        if self._begun is not None and self._retention:
            self._plain.append(self._now() - self._begun - self._pause)
            self._say(args, state)

    @contextmanager
    def task_pass(self) -> Iterator[None]:
        """Time a micro-batch of the task."""
        if self._begun is None:
            yield
            return
        begun = self._now()
        yield
        self._task[-1] += self._now() - begun

    @contextmanager
    def retention_pass(self) -> Iterator[None]:
        """Time a retention pass with its surgery."""
        if self._begun is None:
            yield
            return
        begun = self._now()
        yield
        self._pause = self._now() - begun
        self._retention.append(self._pause)

    def _now(self) -> float:
        if self._waits:
            torch.accelerator.synchronize()
        return time.perf_counter()

    def _say(self, args: TrainingArguments, state: TrainerState) -> None:
        self._ended, self._begun = True, None
        retention, task, plain = (median(times[1:] or times) for times in (self._retention, self._task, self._plain))
        if state.is_world_process_zero:
            samples = samples_per_device(args, state.train_batch_size) * args.gradient_accumulation_steps
            passes = self._passes
            tqdm.write(told(passes.batch_size, samples, passes.every, retention / task, retention / plain))


def told(anchors: int, samples: int, every: int, of_task: float, of_step: float) -> str:
    """Say what a retention pass costs, in seconds of a task pass and of a whole plain step.

    >>> told(16, 64, 5, of_task=0.4, of_step=0.3)
    'a retention pass (16 anchors) costs 0.40 of a task pass (64 samples): one in 5 steps makes the run 1.06 times as long'
    """  # noqa: E501
    often = "one at every step" if every == 1 else f"one in {every} steps"
    return (
        f"a retention pass ({anchors} anchors) costs {of_task:.2f} of a task pass ({samples} samples): {often} makes "
        f"the run {1 + of_step / every:.2f} times as long"
    )
