"""What CRaFT remembers between steps: λ, in and out of checkpoints, and the history of every retention pass."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

HISTORY_FILE = "lambda_history.csv"


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

    def __init__(self, multiplier: float = 0.0) -> None:
        self.multiplier = multiplier

    def state(self) -> dict[str, dict[str, float]]:
        """What Trainer writes into ``trainer_state.json``."""
        return {"args": {}, "attributes": {"multiplier": self.multiplier}}


class RetentionHistory(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """``lambda_history.csv`` in the output folder: a line per retention pass, continued by a resumed run."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file, or drop what a killed run wrote after the checkpoint that is being resumed."""
        del control, kwargs
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / HISTORY_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = rows_until(path, state.global_step)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([CraftStep._fields, *kept])
        self._path = path

    def add(self, step: CraftStep) -> None:
        """Write one line, at once, so that a killed run leaves its history."""
        if self._path is not None:
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerow([int(value) if isinstance(value, bool) else value for value in step])


def rows_until(path: Path, last_step: int) -> list[list[str]]:
    """Complete rows of a history file with ``step`` ≤ ``last_step``; none if there is no file."""
    if last_step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(CraftStep._fields) and row[0].isdigit()]
    return [row for row in rows if int(row[0]) <= last_step]
