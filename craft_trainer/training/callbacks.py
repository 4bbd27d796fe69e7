"""Remember CRaFT's state between steps: the multipliers, in and out of checkpoints, and the history of every pass."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from craft_trainer.files import write_atomically
from craft_trainer.optim.angle import UpdateAngle
from craft_trainer.optim.constraints import EVERYTHING, GroupConstraintState
from craft_trainer.optim.dual import Constraint
from craft_trainer.optim.surgery import NOISE_FLOOR
from craft_trainer.training.config import retention_settings
from craft_trainer.training.run_record import now
from craft_trainer.training.schedule import warn_of_another_end

HISTORY_FILE = "lambda_history.csv"
GROUP_HISTORY_FILE = "lambda_history_groups.csv"


class CraftStep(NamedTuple):
    """One retention pass: what was measured and what was done. Losses and ε are in units of the teacher's variance.

    With ``backward`` joint nothing is known of the two gradients: all that is said of them is None.
    """

    step: int
    task_loss: float
    retention_loss: float
    multiplier: float  # λ that weighted this step; Σ λ_k with a constraint per group
    epsilon: float
    violation: float  # retention_loss − epsilon; of the worst group
    cosine: float | None = None  # of the task gradient and the retention gradient
    conflict: float | None = None  # fraction of the parameter blocks whose gradients conflict: 0 or 1 for the model
    task_grad_norm: float | None = None
    retention_grad_norm: float | None = None
    projected_energy: float | None = None  # |what surgery changed in g_task|² / |g_task|²
    update_cosine: float | None = None  # of the optimizer's step and g_retain, where measured; positive raises L_retain


LOGGED = {  # the columns that Trainer logs → their names there: with a slash, loggers show them as a group of their own
    "retention_loss": "retention/loss",
    "multiplier": "retention/lambda",
    "epsilon": "retention/epsilon",
    "violation": "retention/violation",
    "cosine": "retention/cosine",
    "conflict": "retention/conflict",
    "task_grad_norm": "retention/task_grad_norm",
    "retention_grad_norm": "retention/grad_norm",
    "projected_energy": "retention/projected_energy",
    "update_cosine": "retention/update_cosine",
}
LOGGED_OF_A_GROUP = ("retention_loss", "multiplier", "epsilon")
TASK_KL = "retention/task_kl"


class DualState(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not typed
    """The multipliers and when the next retention pass is due; saved with checkpoints, restored by resuming.

    Attributes:
        begun: when the run began, as ``run.json`` has it.
        max_steps: optimizer steps of the run, as far as the schedule of ε goes; 0 before it begins.
        warned: whether it was said that a constraint cannot be met.
        rounding: L_retain before the first step, where the student equals its teacher but for rounding.
    """

    def __init__(self, initial: float = 0.0, groups: Sequence[str] = (EVERYTHING,)) -> None:
        self.initial = initial
        self.groups = list(groups)
        self._begin()

    def _begin(self) -> None:
        self.constraints = {group: Constraint(self.initial) for group in self.groups}
        self.begun = ""
        self.max_steps = 0
        self.warned = False
        self.rounding = 0.0
        self._take_step: Callable[[], None] | None = None

    def step_with_optimizer(self, take_step: Callable[[], None]) -> None:
        """Keep the step of the multipliers for when the optimizer takes its own: a checkpoint may come before that."""
        self._take_step = take_step

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        """Take the step of the multipliers, unless the optimizer has skipped its own (fp16)."""
        take_step, self._take_step = self._take_step, None
        if take_step is not None and not getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            take_step()

    @property
    def constraints(self) -> dict[str, Constraint]:
        """The constraint of every group; resuming sets them as plain values."""
        return self._constraints

    @constraints.setter
    def constraints(self, saved: Mapping[str, Constraint | dict[str, Any]]) -> None:
        self._constraints = {
            group: value if isinstance(value, Constraint) else Constraint(**value) for group, value in saved.items()
        }

    @property
    def multiplier(self) -> float:
        """Σ λ_k: λ itself where there is a single constraint."""
        return sum(constraint.multiplier for constraint in self.constraints.values())

    def state(self) -> dict[str, dict[str, Any]]:
        """The state that Trainer writes into ``trainer_state.json``."""
        saved = {group: asdict(constraint) for group, constraint in self.constraints.items()}
        plain = {name: getattr(self, name) for name in ("begun", "max_steps", "warned", "rounding")}
        return {"args": {"initial": self.initial, "groups": self.groups}, "attributes": {"constraints": saved, **plain}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Start λ anew, or take it from the checkpoint that is resumed.

        Trainer itself would restore it only together with the settings of every other callback.

        Raises:
            ValueError: the checkpoint that is resumed holds no λ.
        """
        name = type(self).__name__
        self._take_step = None  # of a pass whose optimizer step was interrupted
        if state.global_step == 0:
            self._begin()
            self.begun, self.max_steps = now(), state.max_steps
            state.stateful_callbacks[name] = self.state()
        elif name not in state.stateful_callbacks:
            raise ValueError(
                f"the checkpoint of step {state.global_step} was saved without anchors and holds no λ: resume it "
                "without anchors, or start a new run from its weights"
            )
        else:
            saved = state.stateful_callbacks[name]["attributes"]
            _require_possible(saved["constraints"])
            if saved["constraints"].keys() != set(self.groups):
                raise ValueError(
                    f"the checkpoint has multipliers for {sorted(saved['constraints'])}, this run needs {self.groups}: "
                    "resume with the same anchors and constraints, or start a new run from its weights"
                )
            for attribute, value in saved.items():
                setattr(self, attribute, value)
            before, self.max_steps = self.max_steps, state.max_steps
            if before and state.is_world_process_zero:
                warn_of_another_end(retention_settings(args), state.global_step, before, state.max_steps)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Leave the final λ in the state that Trainer saves."""
        state.stateful_callbacks[type(self).__name__] = self.state()


def _require_possible(constraints: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, constraints of a checkpoint that no run has."""
    for group, given in constraints.items():
        saved = given if isinstance(given, dict) else {}
        counts: list[Any] = [saved.get(name) for name in ("passes_at_ceiling", "passes_violated")]
        sizes: list[Any] = [saved.get(name) for name in ("multiplier", "drift")]
        measured = [*sizes, 0.0 if saved.get("smoothed") is None else saved["smoothed"]]
        possible = (
            saved.keys() == {field.name for field in fields(Constraint)}
            and all(type(value) is int and value >= 0 for value in counts)
            and all(isinstance(value, int | float) and math.isfinite(value) for value in measured)
            and all(value >= 0 for value in sizes)
        )
        if not possible:
            raise ValueError(
                f"trainer_state.json of the checkpoint has a constraint of {group} that no run has: {given}. Resume "
                "another checkpoint"
            )


class RetentionHistory(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """``lambda_history.csv`` in the output folder: a line per retention pass, continued by a resumed run.

    With a constraint per group, ``lambda_history_groups.csv`` has a line per pass and group.
    """

    def __init__(self, *, by_group: bool = False) -> None:
        self.by_group = by_group
        self._folder: Path | None = None
        self._since_log: list[CraftStep] = []
        self._groups_since_log: list[GroupConstraintState] = []
        self._task_loss: Tensor | None = None
        self._pending: tuple[CraftStep, UpdateAngle | None] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Start the files, or drop what a killed run wrote after the checkpoint that is being resumed."""
        self._since_log, self._groups_since_log, self._task_loss, self._pending = [], [], None, None
        if not state.is_world_process_zero:
            return
        self._folder = Path(args.output_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        _begin_file(self._folder / HISTORY_FILE, CraftStep._fields, state.global_step)
        if self.by_group:
            _begin_file(self._folder / GROUP_HISTORY_FILE, ("step", *GroupConstraintState._fields), state.global_step)

    def add(self, step: CraftStep, angle: UpdateAngle | None, groups: Sequence[GroupConstraintState] = ()) -> None:
        """Take one pass; its line is written as soon as the optimizer has stepped and ``angle`` can be known."""
        self._pending = (step, angle)
        if not self.by_group:
            return
        self._groups_since_log += groups
        if self._folder is not None:
            _append(self._folder / GROUP_HISTORY_FILE, [(step.step, *row) for row in groups])

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Write the line of this step's retention pass, if there was one: at once, so that a killed run leaves it."""
        if self._pending is None:
            return
        (step, angle), self._pending = self._pending, None
        if angle is not None and step.retention_grad_norm is not None and step.task_grad_norm is not None:
            pulls = step.retention_grad_norm > NOISE_FLOOR * step.task_grad_norm
            step = step._replace(update_cosine=angle.cosine() if pulls else 0.0)
        self._since_log.append(step)
        if self._folder is not None:
            _append(self._folder / HISTORY_FILE, [step])

    def add_task_loss(self, loss: Tensor) -> None:
        """The task loss of one micro-batch, already divided by their number; it stays on its device."""
        self._task_loss = loss if self._task_loss is None else self._task_loss + loss

    def take_task_loss(self) -> Tensor:
        """The task loss of the optimizer step that ends here."""
        assert self._task_loss is not None
        loss, self._task_loss = self._task_loss, None
        return loss

    def take_means(self) -> dict[str, float]:
        """Means over the retention passes since the last call by their names in the logs; empty if there was none.

        That of ``update_cosine`` is over the passes at which it was measured, and left out if there was none. With a
        constraint per group, those of a group are over the passes that it was in.
        """
        steps, self._since_log = self._since_log, []
        groups, self._groups_since_log = self._groups_since_log, []
        if not steps:
            return {}
        logs = {LOGGED[column]: mean for column, mean in _means(steps, LOGGED).items()}
        for group in sorted({row.group for row in groups}):
            means = _means([row for row in groups if row.group == group], LOGGED_OF_A_GROUP)
            logs |= {f"{LOGGED[column]}/{group}": mean for column, mean in means.items()}
        return logs


def _means(rows: Sequence[NamedTuple], columns: Iterable[str]) -> dict[str, float]:
    """The mean of every column over the rows that have it."""
    values = {column: [getattr(row, column) for row in rows] for column in columns}
    known = {column: [value for value in found if value is not None] for column, found in values.items()}
    return {column: fmean(found) for column, found in known.items() if found}


def rows_until(path: Path, last_step: int, num_columns: int = len(CraftStep._fields)) -> list[list[str]]:
    """Complete rows of a history file with ``step`` ≤ ``last_step``; none if there is no file."""
    if last_step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == num_columns and row[0].isdigit()]
    return [row for row in rows if int(row[0]) <= last_step]


def _begin_file(path: Path, columns: Sequence[str], last_step: int) -> None:
    kept = rows_until(path, last_step, len(columns))
    table = io.StringIO(newline="")
    csv.writer(table).writerows([columns, *kept])
    write_atomically(path, table.getvalue())


def _append(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerows(rows)
