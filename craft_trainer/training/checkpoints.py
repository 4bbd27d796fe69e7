"""Checkpoints: whole or not there, of models with a format of their own as well; the card beside weights."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints

from craft_trainer.files import write_atomically
from craft_trainer.hub.manifest import make_durable, newest_whole, require_whole, seal
from craft_trainer.hub.readme import text_of
from craft_trainer.hub.resolve_path import resolve_checkpoint
from craft_trainer.hub.run_folder import (
    CHECKPOINT_PREFIX,
    DRAFT,
    MODEL,
    STATE_FILE,
    all_files,
    begun,
    checkpoints,
    in_use,
    model_of_run,
)
from craft_trainer.models.base import SupportsCheckpointing
from craft_trainer.models.pretrained import restore, tensors_only
from craft_trainer.training.distribution import splits_parameters, whole_weights
from craft_trainer.training.finishing import finish_beside, move_sealed, wait_for
from craft_trainer.training.finite import last_saved
from craft_trainer.training.interruption import Interruption
from craft_trainer.training.run_record import write_lineage
from craft_trainer.training.same_run import require_same_run, warn_if_ended

Base: Any = Trainer if TYPE_CHECKING else object
logger = logging.getLogger(__name__)


class CheckpointMixin(Base):  # type: ignore[misc]  # transformers is not typed
    """Saves and loads a model that supports it by the model's own methods, and writes card and lineage beside it.

    A checkpoint is written beside its place, gets a manifest, and is moved there in one step when the disk holds it.
    Training goes on when it is written: a thread does the rest. Whatever looks for checkpoints waits for that.
    """

    _draft: Path | None = None  # where the checkpoint is written that is being saved
    _unfinished = False  # whether a checkpoint was written that some process may still be finishing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(Interruption(self))

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, from a whole checkpoint: of a folder, of the Hub (``org/name@revision``), or the newest (True).

        SIGINT and SIGTERM end it as :class:`craft_trainer.training.interruption.Interruption` says.

        Raises:
            ValueError: the checkpoint is damaged or of another run, or no checkpoint of the run is whole.
        """
        found = None
        if resume_from_checkpoint not in (None, False):
            found = self._of_main_process(lambda: self._checkpoint_of_this_run(resume_from_checkpoint))
        with self.callback_of(Interruption).listening(), self._finished_at_the_end():
            return super().train(found, *args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, which takes a step more than ``max_steps`` from a checkpoint of the last one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    @contextmanager
    def _finished_at_the_end(self) -> Iterator[None]:
        """The last checkpoint is whole after the training, also if an error ends it."""
        try:
            yield
            self.finish_saving()
        except BaseException as error:
            try:
                wait_for(Path(self.args.output_dir))  # other processes may not come to wait with this one
            except (OSError, RuntimeError) as of_saving:
                error.add_note("\n".join([str(of_saving), *getattr(of_saving, "__notes__", [])]))
            raise

    def finish_saving(self) -> None:
        """Wait until the checkpoint that was written last is whole; every process must call it at the same place.

        Raises:
            OSError: it could not be saved.
        """
        unfinished, self._unfinished = self._unfinished, False
        if unfinished:
            wait_for(Path(self.args.output_dir))
            self.accelerator.wait_for_everyone()

    def _of_main_process[Found](self, find: Callable[[], Found]) -> Found:
        """Give the main process's result, or its OSError or ValueError, to every process."""
        chosen: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                chosen[0] = find()
            except (OSError, ValueError) as error:
                chosen[1] = error
        found, refusal = broadcast_object_list(chosen)  # so that no process waits for one that has stopped
        if refusal is not None:
            raise refusal
        return cast(Found, found)

    def callback_of[Kind](self, kind: type[Kind]) -> Kind:
        """Give the callback of a kind that the run has."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, kind))

    def _checkpoint_of_this_run(self, asked: str | Path | bool | None) -> str | bool | None:
        """As the next one, compared with this run; a warning where its run has ended."""
        found = self._whole_checkpoint(asked)
        if isinstance(found, str):
            require_same_run(self, Path(found))
            warn_if_ended(self.args, Path(found))
        return found

    def _whole_checkpoint(self, asked: str | Path | bool | None) -> str | bool | None:
        """The folder of the checkpoint ``asked`` for; None where the run begins anew; True leaves it to Trainer."""
        folder, model_only = Path(self.args.output_dir), self.args.save_only_model
        if not isinstance(asked, bool):
            assert asked is not None
            named = resolve_checkpoint(asked, folder)
            require_whole(named, model_only=model_only)
            return str(named)
        newest = newest_whole(folder, model_only=model_only)
        if newest is not None:
            return str(newest)
        if checkpoints(folder):
            raise ValueError(f"no checkpoint in {folder} is whole: begin anew in another folder, or delete them")
        if model_of_run(folder) or not begun(folder):
            return True  # Trainer says that there is none
        logger.warning("%s: the run was ended before its first checkpoint was whole, so it begins anew", folder)
        return None

    def _get_output_dir(self, trial: Any) -> str:
        """As Trainer's, with whole checkpoints in it; while one is written, the folder beside them in which it is."""
        if self._draft is not None:
            return str(self._draft)
        self.finish_saving()
        return super()._get_output_dir(trial)  # type: ignore[no-any-return]  # not typed

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As Trainer's, into a folder that becomes the checkpoint in one step when it is whole."""
        folder, args = Path(self._get_output_dir(trial)), self.args
        draft, checkpoint = folder / DRAFT, folder / f"{CHECKPOINT_PREFIX}{self.state.global_step}"
        if args.should_save:
            shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        with self._saving(draft, checkpoint):
            self._draft = draft
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._draft = None
            self._write_state(draft, checkpoint)
        self.accelerator.wait_for_everyone()
        self._unfinished = True
        if args.should_save:
            finish_beside(
                Path(args.output_dir), partial(self._finish, draft, checkpoint, self.state.best_model_checkpoint)
            )
        if args.push_to_hub or self._is_watched() or not self.is_in_train:
            self.finish_saving()
        if args.push_to_hub:
            super()._push_from_checkpoint(str(checkpoint))

    def _is_watched(self) -> bool:
        """Whether a callback of somebody else's comes when a checkpoint is saved, and may look for it."""
        others = (one for one in self.callback_handler.callbacks if not isinstance(one, Interruption))
        return any(getattr(one.on_save, "__func__", None) is not TrainerCallback.on_save for one in others)

    @contextmanager
    def _saving(self, draft: Path, checkpoint: Path) -> Iterator[None]:
        """What a save fails by, of a full disk for instance, says what is left, and its draft takes no room."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(draft, ignore_errors=True)
            place = next(one for one in (checkpoint.parent, *checkpoint.parents) if one.is_dir())
            free = shutil.disk_usage(place).free / 1e9
            error.add_note(f"{checkpoint} could not be saved ({free:.2f} GB are free there); {last_saved(self.args)}")
            raise

    def _write_state(self, draft: Path, checkpoint: Path) -> None:
        """Write the state again: Trainer has looked for the best checkpoint in the draft."""
        best = checkpoint.with_name(f"{CHECKPOINT_PREFIX}{self.state.best_global_step}")
        if best == checkpoint or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(draft / checkpoint.name / STATE_FILE))

    def _finish(self, draft: Path, checkpoint: Path, best: str | None) -> None:
        """Make a complete draft the checkpoint, and delete the oldest beyond the limit. No tensor is touched here."""
        with self._saving(draft, checkpoint):
            seal(draft / checkpoint.name)
            move_sealed(draft / checkpoint.name, checkpoint)
        rotate_checkpoints(str(checkpoint.parent), self.args.save_total_limit, best, use_mtime=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the base's, once the checkpoint is whole."""
        if self._draft is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, of whole weights however FSDP keeps its states."""
        with whole_weights(self.accelerator):
            super().save_model(output_dir, _internal_call)

    def save_state(self) -> None:
        """As Trainer's; the file appears whole, because what it says is that the run is."""
        if self.is_world_process_zero():
            state = json.dumps(asdict(self.state), indent=2, sort_keys=True) + "\n"
            write_atomically(Path(self.args.output_dir) / STATE_FILE, state)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """As Trainer's; outside of a checkpoint files appear whole, weights last, where no other process trains."""
        folder = Path(output_dir or self.args.output_dir)
        whole = self.args.should_save and self._draft is None
        if whole:
            wait_for(Path(self.args.output_dir))  # its draft may have the same place
        with in_use(folder) if whole else nullcontext(), _replaced(folder) if whole else nullcontext(folder) as place:
            self._save_into(place, text_of(folder), state_dict)  # PEFT writes a card of its own

    def _save_into(self, folder: Path, card: str | None, state_dict: dict[str, Tensor] | None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, SupportsCheckpointing):
            super()._save(str(folder), state_dict)
        elif self.args.should_save:  # newer transformers come here with every process
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder, state_dict)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
        if self.args.should_save:
            write_lineage(self, folder)
            self._write_card(folder, card)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *model: nn.Module) -> None:
        target = self.accelerator.unwrap_model(model[0] if model else self.model)
        if splits_parameters(self.accelerator) or not restore(target, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *model)  # sentence-transformers' takes no model

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer's; a state that is no tensor is refused by the name of the checkpoint, as in the next two."""
        with tensors_only(f"the optimizer's or the scheduler's state in {checkpoint}"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with tensors_only(f"the scaler's state in {checkpoint}"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with tensors_only(f"the random state in {checkpoint}"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        """As Trainer's, of a whole checkpoint; a damaged one is refused, and the last one stays."""
        self.finish_saving()
        best = self.state.best_model_checkpoint
        if best is not None:
            self._of_main_process(lambda: require_whole(Path(best), model_only=self.args.save_only_model))
        if best is None or splits_parameters(self.accelerator) or not restore(self.model, best):
            super()._load_best_model()


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder to write a model into, whose files then replace those of ``folder``, the weights last."""
    draft = folder / DRAFT / folder.name  # the card has its name
    shutil.rmtree(folder / DRAFT, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    files = all_files(draft)
    for file in files.values():
        make_durable(file)
    weights = {name for name in files if any(fnmatch(Path(name).name, one) for one in MODEL)}
    for name in sorted(files, key=lambda name: (name in weights, name.endswith(".index.json"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files[name].replace(folder / name)
    for earlier in folder.glob("model-*-of-*.safetensors") if "model.safetensors.index.json" in files else ():
        if earlier.name not in files:
            earlier.unlink()
    make_durable(folder)
    shutil.rmtree(folder / DRAFT)
