"""Compare a checkpoint with the run that is to go on from it."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from craft_trainer.anchors.lineage import LINEAGE_FILE
from craft_trainer.hub.run_folder import RUN_FILE, STATE_FILE
from craft_trainer.report.reading import json_object
from craft_trainer.training.callbacks import DualState
from craft_trainer.training.run_record import RunRecord, recorded, told_settings

OF_THE_CHECKPOINT = (  # what a resumed run has from its optimizer, its schedule and its λ, whatever it is told
    *("method", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "multiplier_init"),
    *("optim", "optim_args"),
)
OF_LAMBDA = ("retention_terms", "retention_weights", "hidden_distance")  # the units of L_retain, to which λ belongs
OVERRULED = "a run that goes on has it from its checkpoint, so the new one would have no effect"
NEW_RUN = "start a new run from its weights in another output_dir"
logger = logging.getLogger(__name__)


def require_same_run(trainer: Any, checkpoint: Path) -> None:
    """Refuse a checkpoint of another run than that of ``trainer``, as far as the files in and beside it tell.

    Raises:
        ValueError: its run had other anchors, or other settings that the checkpoint overrules, or it is older than the
            run that is in its folder now.
    """
    saved = recorded(checkpoint / STATE_FILE, "stateful_callbacks", DualState.__name__, "attributes")
    if saved is not None and trainer.anchors is None:
        raise ValueError(
            f"{checkpoint} holds λ, because its run had anchors, and this run has none: give them, or {NEW_RUN}"
        )
    record = next((one for one in trainer.callback_handler.callbacks if isinstance(one, RunRecord)), None)
    if record is None or not (record.anchored or record.inputs):
        return
    run_file = checkpoint.parent / RUN_FILE
    if isinstance(saved, dict):
        _require_younger(checkpoint, run_file, saved.get("begun"))
    now = told_settings(record.inputs, trainer.args, anchored=record.anchored)
    _require_same_settings(run_file, now, OF_THE_CHECKPOINT, OVERRULED)
    _require_same_settings(run_file, now, OF_LAMBDA, "λ of the checkpoint belongs to L_retain as it was")
    learned, held_out = ((one or {}).get("held_out") or 0.0 for one in (recorded(run_file, "settings"), now))
    if learned != held_out:
        raise ValueError(
            f"held_out is {held_out:g}, and {run_file} says {learned:g}: the run has learned from episodes that would "
            f"then count as held out, or the other way round. Give what it was, or {NEW_RUN}"
        )
    began_with = recorded(checkpoint / LINEAGE_FILE, "lineage", -1, "weights")
    if record.lineage is None or began_with != record.lineage.start["weights"]:  # or the same weights elsewhere
        _require_same_settings(run_file, now, ["model"], OVERRULED)
    before = recorded(checkpoint / LINEAGE_FILE, "anchors", "fingerprint")
    if before is not None and record.lineage is not None:
        now = (record.lineage.anchors or {}).get("fingerprint", "")
        if now != before:
            raise ValueError(
                f"{checkpoint} was trained with anchors of the fingerprint {str(before)[:12]}…, and these have "
                f"{now[:12] or 'none'}…: its λ is of those. Give those anchors, or {NEW_RUN}"
            )


def _require_younger(checkpoint: Path, run_file: Path, begun: Any) -> None:
    """Refuse a checkpoint whose run began before that of ``run_file``, which is in its folder now."""
    first, time = (recorded(run_file, "starts", 0, key) for key in ("step", "time"))
    if first == 0 and isinstance(begun, str) and isinstance(time, str) and "" < begun < time:
        raise ValueError(
            f"{checkpoint} is of an earlier run, which began at {begun}: the one in {run_file.parent} began at {time}. "
            "Delete the checkpoints of the earlier run, or give another output_dir"
        )


def _require_same_settings(run_file: Path, now: dict[str, Any], names: Iterable[str], why: str) -> None:
    """Compare with the settings that the run in ``run_file`` began with; nothing where there is no such file."""
    before = recorded(run_file, "settings")
    for name in names if isinstance(before, dict) and before else ():
        if before.get(name) != now.get(name):
            was, given = (one.get(name, "not given") for one in (before, now))
            raise ValueError(
                f"{name} is {given}, and {run_file} says {was}: {why}. Give what it was, or start a new run in another "
                "output_dir"
            )


def ended(args: TrainingArguments, checkpoint: Path) -> str | None:
    """Say that the run of a checkpoint has ended and what to raise; None where a step is left to train."""
    state = json_object(checkpoint / STATE_FILE, "give an earlier checkpoint")
    step, epoch = int(state.get("global_step") or 0), float(state.get("epoch") or 0)
    knob, has_ended = "max_steps", step >= args.max_steps
    if args.max_steps <= 0:
        knob, has_ended = "num_train_epochs", epoch >= args.num_train_epochs
    return (
        f"{checkpoint}: its run has ended, at optimizer step {step}, and its model is in that folder; to go on, raise "
        f"{knob}, which is {getattr(args, knob):g}"
        if has_ended
        else None
    )


def warn_if_ended(args: TrainingArguments, checkpoint: Path) -> None:
    """Log a warning where nothing is left to train."""
    if said := ended(args, checkpoint):
        logger.warning("%s. Nothing is trained now", said)
