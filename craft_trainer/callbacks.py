"""What CRaFT remembers between steps: λ, in and out of checkpoints, and the history of every retention pass."""

import csv
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

HISTORY_FILE = "lambda_history.csv"
LOGGED = ("retention_loss", "multiplier", "epsilon", "violation", "cosine", "conflict")


class CraftStep(NamedTuple):
    """One retention pass: what was measured and what was done. Losses and ε are in units of the teacher's variance."""

    step: int
    task_loss: float
    retention_loss: float
    multiplier: float  # λ that weighted this step
    epsilon: float
    violation: float  # retention_loss − epsilon
    cosine: float  # of the task gradient and the retention gradient
    conflict: bool
    task_grad_norm: float
    retention_grad_norm: float


class DualState(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not typed
    """λ, saved with every checkpoint and restored by ``resume_from_checkpoint``."""

    def __init__(self, initial: float = 0.0) -> None:
        self.initial = initial
        self.multiplier = initial

    def state(self) -> dict[str, dict[str, float]]:
        """What Trainer writes into ``trainer_state.json``."""
        return {"args": {"initial": self.initial}, "attributes": {"multiplier": self.multiplier}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start λ anew, unless a run is resumed.

        Raises:
            ValueError: the checkpoint that is resumed holds no λ.
        """
        del args, control, kwargs
        name = type(self).__name__
        if state.global_step == 0:
            self.multiplier = self.initial
            state.stateful_callbacks[name] = self.state()
        elif name not in state.stateful_callbacks:
            raise ValueError(
                f"the checkpoint of step {state.global_step} was saved without anchors and holds no λ: resume it "
                "without anchors, or start a new run from its weights"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the final λ in the state that Trainer saves."""
        del args, control, kwargs
        state.stateful_callbacks[type(self).__name__] = self.state()


class RetentionHistory(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """``lambda_history.csv`` in the output folder: a line per retention pass, continued by a resumed run."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._since_log: list[CraftStep] = []
        self._task_loss: Tensor | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file, or drop what a killed run wrote after the checkpoint that is being resumed."""
        del control, kwargs
        self._since_log, self._task_loss = [], None
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / HISTORY_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = rows_until(path, state.global_step)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([CraftStep._fields, *kept])
        self._path = partial.replace(path)

    def add(self, step: CraftStep) -> None:
        """Write one line, at once, so that a killed run leaves its history."""
        self._since_log.append(step)
        if self._path is not None:
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerow([int(value) if isinstance(value, bool) else value for value in step])

    def add_task_loss(self, loss: Tensor) -> None:
        """The task loss of one micro-batch, already divided by their number; it stays on its device."""
        self._task_loss = loss if self._task_loss is None else self._task_loss + loss

    def take_task_loss(self) -> float:
        """The task loss of the optimizer step that ends here."""
        assert self._task_loss is not None
        loss, self._task_loss = self._task_loss, None
        return float(loss)

    def take_means(self) -> dict[str, float]:
        """Means over the retention passes since the last call; empty if there was none."""
        steps, self._since_log = self._since_log, []
        return {name: fmean(getattr(step, name) for step in steps) for name in LOGGED} if steps else {}


def rows_until(path: Path, last_step: int) -> list[list[str]]:
    """Complete rows of a history file with ``step`` ≤ ``last_step``; none if there is no file."""
    if last_step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(CraftStep._fields) and row[0].isdigit()]
    return [row for row in rows if int(row[0]) <= last_step]
