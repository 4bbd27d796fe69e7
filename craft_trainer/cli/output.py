"""The folder that a training command writes into: a new run's own, or that of a run which goes on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list

from craft_trainer.hub.manifest import newest_whole, require_whole
from craft_trainer.hub.resolve_path import resolve_checkpoint
from craft_trainer.hub.run_folder import (
    CHECKPOINT_PREFIX,
    LOCK,
    STATE_FILE,
    begun,
    checkpoints,
    in_use,
    model_of_run,
)
from craft_trainer.models.saved import require_loadable
from craft_trainer.options import refuse_idle
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.distribution import has_whole_shapes
from craft_trainer.training.same_run import ended

if TYPE_CHECKING:
    from craft_trainer.training.trainer import CraftTrainer

LAST = ("last", "true")  # of resume_from_checkpoint; Trainer's own word for it is True
NONE = "false"
SHOWN = 3  # files that an error names
logger = logging.getLogger(__name__)


@contextmanager
def claimed_output(config: CraftConfig) -> Iterator[str | None]:
    """Keep ``output_dir`` for this run, and yield the checkpoint to resume from; None for a run from the beginning.

    A folder that holds another run, or in which one is at work, is refused: two would be a mixture, of checkpoints or
    of an adapter and full weights, of which every tool reads the older. So is a checkpoint that is not there, or ended.
    """
    refuse_idle_pushes(config)
    folder, is_main = Path(config.output_dir), config.process_index == 0
    was_begun = begun(folder) or (folder / LOCK).is_file()  # a lock that a killed process has left
    with in_use(folder) if is_main else nullcontext():  # the launcher ends the other processes with the main one
        claimed = [_claim(config, folder, was_begun=was_begun) if is_main else None]
        yield broadcast_object_list(claimed)[0]


def _claim(config: CraftConfig, folder: Path, *, was_begun: bool) -> str | None:
    checkpoint = _checkpoint_to_resume(config, folder, was_begun=was_begun)
    found = None if checkpoint is None else resolve_checkpoint(checkpoint)
    is_of_this_run = found is not None and found.resolve().parent == folder.resolve()
    was_killed = is_of_this_run and not (folder / STATE_FILE).is_file()  # if at its end, its model is written now
    if found is not None and not was_killed:
        _require_unfinished(config, found)
    if found is not None and is_of_this_run:
        _warn_of_later_ones(folder, found)
    else:
        _require_free(folder)
    return checkpoint


def refuse_idle_pushes(config: CraftConfig) -> None:
    """Refuse, by a ValueError, settings of a push to the Hub that another setting leaves without effect."""
    if not config.push_to_hub:
        names = [field.name for field in fields(config) if field.name.startswith("hub_")]
        refuse_idle(config, names, "it is of a push to the Hub, and push_to_hub is not true")
    if config.hub_strategy == "end":
        refuse_idle(config, ["hub_always_push"], "hub_strategy is end, so the end alone is pushed")
    elif config.save_strategy == "no":
        refuse_idle(config, ["hub_strategy", "hub_always_push"], "save_strategy is no, so the end alone is pushed")


def save_and_push(trainer: "CraftTrainer") -> None:
    """The model and the state of the Trainer into ``output_dir``, and to the Hub if that is asked for.

    Raises:
        PushError: it is here, but not on the Hub.
        RuntimeError: what was saved cannot be loaded.
    """
    trainer.save_model(_internal_call=True)  # or Trainer would push it already
    _require_loadable(trainer)
    trainer.save_state()  # what is written last: the run is whole
    if not trainer.args.push_to_hub:
        return
    trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print(f"on the Hub: {trainer.hub_model_id}")


def _require_loadable(trainer: "CraftTrainer") -> None:
    if not trainer.is_world_process_zero() or not has_whole_shapes(trainer.accelerator):
        return
    folder = Path(trainer.args.output_dir)
    try:
        require_loadable(folder, trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False))
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"training has ended, but the model saved in {folder} cannot be loaded: {error}. If the disk is full, make "
            "room; then go on from the last checkpoint with --resume_from_checkpoint"
        ) from error


def _checkpoint_to_resume(config: CraftConfig, folder: Path, *, was_begun: bool) -> str | None:
    given: str | None = config.resume_from_checkpoint
    if given is None or str(given).lower() == NONE:
        return None
    if str(given).lower() not in LAST:
        require_whole(resolve_checkpoint(given), model_only=config.save_only_model)
        return str(given)
    found = newest_whole(folder, model_only=config.save_only_model)
    if found is not None:
        return str(found)
    if was_begun and not _parts(folder):
        logger.warning("the run in %s was ended before its first checkpoint was whole: it begins anew", folder)
        return None
    way_out = "start again in another folder" if _parts(folder) else "drop it to start"
    raise ValueError(f"resume_from_checkpoint is {given}, but {folder} holds no whole {CHECKPOINT_PREFIX}*: {way_out}")


def _parts(folder: Path) -> list[Path]:
    """List the files that make ``folder`` that of a run."""
    return [*model_of_run(folder), *checkpoints(folder)]


def _warn_of_later_ones(folder: Path, resumed: Path) -> None:
    names = [path.name for path in checkpoints(folder)]
    if resumed.name in names[:-1]:
        later = ", ".join(names[names.index(resumed.name) + 1 :])
        logger.warning("%s goes on; %s stay, and `last` will mean the latest of all", resumed, later)


def _require_free(folder: Path) -> None:
    there = _parts(folder)
    if there:
        can_go_on = any((path / STATE_FILE).is_file() for path in checkpoints(folder))
        names = ", ".join(path.name for path in there[:SHOWN]) + (", …" if len(there) > SHOWN else "")
        going_on = ", go on with it by --resume_from_checkpoint last" if can_go_on else ""
        raise FileExistsError(
            f"{folder} holds a run already ({names}): give another --output_dir{going_on}, or delete that folder"
        )


def _require_unfinished(config: CraftConfig, checkpoint: Path) -> None:
    """Nothing would be trained."""
    if said := ended(config, checkpoint):
        raise ValueError(said)
