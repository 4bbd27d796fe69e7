"""The folder that a training command writes into: a new run's own, or that of a run which goes on."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from craft_trainer.config import CraftConfig
from craft_trainer.hub.resume import STATE_FILE, checkpoint_folder
from craft_trainer.hub.run_folder import CHECKPOINT_PREFIX, checkpoints, model_of_run, run_leavings
from craft_trainer.report.reading import json_object

if TYPE_CHECKING:
    from craft_trainer.trainer import CraftTrainer

LAST = ("last", "true")  # of resume_from_checkpoint; Trainer's own word for it is True
NONE = "false"
SHOWN = 3  # files that an error names


def claim_output(config: CraftConfig, start: str | None, *, overwrite: bool) -> str | None:
    """The checkpoint to resume from; None for a run from the beginning, in whose ``output_dir`` is then no other.

    Two runs in one folder would be a mixture: of checkpoints, or of an adapter and full weights, of which every tool
    reads the older.

    Args:
        start: what the run starts from.
        overwrite: remove an earlier run.

    Raises:
        FileExistsError: ``output_dir`` holds a run; or what ``start`` names is what would be removed.
        FileNotFoundError: there is no such checkpoint.
        ValueError: there is no checkpoint yet, or its run has ended.
    """
    folder, main = Path(config.output_dir), config.process_index == 0
    checkpoint = _checkpoint_to_resume(config, folder)
    if checkpoint is not None:
        found = checkpoint_folder(checkpoint, folder if main else None)
        _require_unfinished(config, found)
        return str(found)
    there = [*model_of_run(folder), *checkpoints(folder)]
    if not main or not there:  # the launcher ends the other processes with the main one
        return None
    if not overwrite:
        names = ", ".join(path.name for path in there[:SHOWN]) + (", …" if len(there) > SHOWN else "")
        raise FileExistsError(
            f"{folder} holds a run ({names}): give another --output_dir, go on with that run by "
            "--resume_from_checkpoint last, or remove it by --overwrite_output_dir true"
        )
    if start is not None and Path(start).exists() and Path(start).resolve().is_relative_to(folder.resolve()):
        raise FileExistsError(f"{start} is what the run starts from, and would be removed: give another --output_dir")
    for path in run_leavings(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def save_and_push(trainer: "CraftTrainer") -> None:
    """The model and the state of the Trainer into ``output_dir``, and to the Hub if that is asked for.

    Raises:
        PushError: it is here, but not on the Hub.
    """
    trainer.save_state()
    if not trainer.args.push_to_hub:
        trainer.save_model()
        return
    trainer.push_to_hub()  # saves it first
    if trainer.is_world_process_zero():
        print(f"on the Hub: {trainer.hub_model_id}")


def _checkpoint_to_resume(config: CraftConfig, folder: Path) -> str | None:
    given: str | None = config.resume_from_checkpoint
    if given is None or str(given).lower() == NONE:
        return None
    if str(given).lower() not in LAST:
        return str(given)
    found = checkpoints(folder)
    if not found:
        raise ValueError(
            f"resume_from_checkpoint is {given}, but {folder} holds no {CHECKPOINT_PREFIX}*: drop it to start"
        )
    return str(found[-1])


def _require_unfinished(config: CraftConfig, checkpoint: Path) -> None:
    """Transformers' loop would take one step more."""
    if not (checkpoint / STATE_FILE).is_file():
        return  # Trainer says that it is no checkpoint
    state = json_object(checkpoint / STATE_FILE, "give an earlier checkpoint")
    step, epoch = int(state["global_step"]), float(state.get("epoch") or 0)
    knob, ended = ("max_steps", step >= config.max_steps)
    if config.max_steps <= 0:
        knob, ended = ("num_train_epochs", epoch >= config.num_train_epochs)
    if ended:
        raise ValueError(
            f"{checkpoint}: its run has ended, at optimizer step {step} (the model is in that folder as well); to go "
            f"on, raise {knob}, which is {getattr(config, knob):g}"
        )
