"""Print a training's progress in a terminal: one short line for each of its logs, which loggers get whole."""

from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from craft_trainer.training.callbacks import LOGGED

LOSS, LAMBDA, EPSILON = (LOGGED[name] for name in ("retention_loss", "multiplier", "epsilon"))
CONFLICT = LOGGED["conflict"]
SHORT = {"learning_rate": "lr", "grad_norm": "|g|"}  # of Trainer's own names
SAID = ("loss", "epoch", "total_flos")  # elsewhere in the line, or of no use in it


class Lines(PrinterCallback):  # type: ignore[misc]  # transformers is not typed
    """Trainer's lines without a progress bar, each a short one."""

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Print it."""
        if logs and state.is_local_process_zero:
            print(line(logs, state.global_step, state.max_steps), flush=True)


class Bar(ProgressCallback):  # type: ignore[misc]
    """Trainer's progress bar, whose lines are short ones."""

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Print it above the bar."""
        if logs and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line(logs, state.global_step, state.max_steps))


def write_short_lines(trainer: Trainer) -> None:
    """Let ``trainer`` write short lines where it would write Trainer's own; a notebook's table stays."""
    instead: dict[type[TrainerCallback], type[TrainerCallback]] = {PrinterCallback: Lines, ProgressCallback: Bar}
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) in instead:
            trainer.remove_callback(callback)
            trainer.add_callback(instead[type(callback)])


def line(logs: Mapping[str, Any], step: int, num_steps: int) -> str:
    """Write what was logged at ``step``: the task loss, what retention did, the rest as it is called.

    >>> line({"loss": 0.5, "retention/loss": 0.004, "retention/epsilon": 0.01, "retention/lambda": 2.5,
    ...       "retention/conflict": 0.25, "learning_rate": 1e-4}, 40, 200)
    'step 40/200  loss 0.5  L_retain/ε 0.4  λ 2.5  conflicts 25 %  lr 0.0001'
    """
    if "train_runtime" in logs:
        return f"trained {step} steps in {logs['train_runtime']:.4g} s"
    parts = [f"step {step}/{num_steps}"]
    parts += [f"loss {_number(logs['loss'])}"] if "loss" in logs else []
    parts += _retention(logs) if LOSS in logs else []
    others = [name for name in logs if name not in SAID and not name.startswith("retention/")]
    return "  ".join([*parts, *(f"{SHORT.get(name, name)} {_number(logs[name])}" for name in others)])


def _retention(logs: Mapping[str, Any]) -> list[str]:
    """L_retain as a multiple of ε, of the worst of several groups; λ, the sum of theirs; conflicts."""
    groups = [name.removeprefix(f"{LOSS}/") for name in logs if name.startswith(f"{LOSS}/")]
    ratios = {group: _ratio(logs, f"/{group}") for group in groups}
    if len(ratios) > 1:
        worst = max(ratios, key=lambda group: ratios[group])
        parts = [f"L_retain/ε {ratios[worst]:.3g} (worst of {len(ratios)}: {worst})", f"Σλ {logs[LAMBDA]:.3g}"]
    else:
        parts = [f"L_retain/ε {_ratio(logs, ''):.3g}", f"λ {logs[LAMBDA]:.3g}"]
    return [*parts, *([f"conflicts {100 * logs[CONFLICT]:.0f} %"] if CONFLICT in logs else [])]


def _ratio(logs: Mapping[str, Any], of: str) -> float:
    """L_retain / ε of a group; ε is 0 while the drift is probed."""
    loss, epsilon = float(logs[LOSS + of]), float(logs[EPSILON + of])
    return loss / epsilon if epsilon else float("inf") if loss else 0.0


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
