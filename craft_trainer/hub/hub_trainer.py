"""A Trainer whose run goes to the Hub whole, with its card, and that tells which push has failed."""

import logging
import shutil
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from craft_trainer.hub.card import write_card
from craft_trainer.hub.readme import text_of
from craft_trainer.hub.repository import Files, Repository
from craft_trainer.hub.run_folder import (
    HISTORIES,
    LAST_CHECKPOINT,
    WEIGHTS,
    all_files,
    clear_stages,
    model_files,
    run_files,
    staged,
)

Base: Any = Trainer if TYPE_CHECKING else object
MODEL = "model"  # what is pushed besides checkpoints
logger = logging.getLogger(__name__)


class PushError(OSError):
    """Something of the run is on this machine and not on the Hub."""


class Push(NamedTuple):
    """One commit on its way: ``parts`` of the repository as they were after optimizer step ``step``."""

    step: int
    parts: tuple[str, ...]
    job: "Future[CommitInfo]"

    @property
    def error(self) -> BaseException | None:
        """Why it failed; None while it goes on, and if it arrived."""
        return self.job.exception() if self.job.done() else None


class HubMixin(Base):  # type: ignore[misc]  # transformers is not typed
    """Pushes of a Trainer made whole: those of Trainer know its own files only, and their errors are not seen.

    Every push is one commit: the model as its own library saves it, its card, the histories of λ, and with
    ``hub_strategy`` checkpoint or all_checkpoints the state to resume from. Only the main process pushes.
    """

    push_in_progress: Any  # Trainer's: the pushes that it waits for

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pushes: list[Push] = []
        self._repository: Repository | None = None
        self._hub = HfApi()  # whose thread makes one push after the other
        super().__init__(*args, **kwargs)

    @property
    def failed_pushes(self) -> list[Push]:
        """Pushes that failed, whether or not a later one made good for them."""
        return [push for push in self._pushes if push.error is not None]

    @property
    def missing_parts(self) -> dict[str, Push]:
        """Files of the run that are not on the Hub as they are here → the last push that failed to bring it there."""
        missing: dict[str, Push] = {}
        for push in self._pushes:
            for part in push.parts:
                missing.pop(part, None)
                if push.error is not None:
                    missing[part] = push
        return missing

    def require_pushed(self) -> None:
        """Wait for all pushes; PushError if something is missing on the Hub. It is all in ``output_dir``."""
        wait([push.job for push in self._pushes])
        if self.missing_parts:
            raise PushError(self.push_report())

    def push_report(self) -> str:
        """List the pushes that failed, why, and what to do about it."""
        folder, missing = self.args.output_dir, self.missing_parts
        failed = [f"  step {push.step} ({', '.join(push.parts)}): {push.error}" for push in self.failed_pushes]
        if not missing:
            done = "later pushes brought everything that was to be there"
        else:
            more = " --checkpoints" if set(missing) - {MODEL} else ""
            done = f"nothing is lost, it is all in {folder}; to try again: craft-trainer push --run {folder}{more}"
        return "\n".join([f"{len(failed)} of {len(self._pushes)} pushes to the Hub failed:", *failed, done])

    def init_hf_repo(self, token: str | None = None) -> None:
        """Make the repository and its branch, and ask whether the token may write: before any training.

        Raises:
            PermissionError: it may not.
            OSError: the repository cannot be made or reached.
        """
        if not self.is_world_process_zero():
            return
        args = self.args
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        private, token = args.hub_private_repo, token or args.hub_token
        self._repository = Repository(name, "model", args.hub_revision, private, token).opened()
        self.hub_model_id = self._repository.name
        self.push_in_progress = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; tells which pushes failed. What earlier pushes have left goes first, as the folder is ours."""
        if self.args.push_to_hub and self.is_world_process_zero():
            clear_stages(Path(self.args.output_dir))
        try:
            output = super().train(*args, **kwargs)
        except BaseException as error:
            if self.failed_pushes:
                error.add_note(self.push_report())
            raise
        if self.failed_pushes:
            logger.warning("%s", self.push_report())
        return output

    def create_model_card(self, **kwargs: Any) -> None:
        """Write the card into ``output_dir`` unless there is one by hand; keywords are more lines for its header."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._write_card(folder, text_of(folder), kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and push ``output_dir``, without checkpoints.

        Returns:
            The commit, or its future unless ``blocking``.

        Raises:
            PushError: it did not arrive, or something of an earlier push did not; everything is saved here.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self._repository is None:
            self.init_hf_repo(token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        if (there := self._repository) is not None:
            asked = replace(there, revision=revision or there.revision, token=token or there.token)
            self._repository = there if asked == there else asked.opened()
        files: Files = run_files(Path(self.args.output_dir))
        push = self._push(files, commit_message or "End of training", (MODEL,))
        if not blocking:
            return push.job
        self.require_pushed()
        return push.job.result()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background, unless the last one is still on its way."""
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        running: PushInProgress | None = self.push_in_progress
        busy = running is not None and not running.is_done()
        if busy and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        output, checkpoint = Path(args.output_dir), Path(checkpoint_folder)
        stage = staged(checkpoint, self.state.global_step)
        histories = {name: (output / name).read_bytes() for name in HISTORIES if (output / name).is_file()}
        files: dict[str, Path | bytes] = {**model_files(stage), **histories}
        parts = [MODEL]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = args.hub_strategy == HubStrategy.CHECKPOINT
            parts.append(LAST_CHECKPOINT if is_last else checkpoint.name)
            files |= all_files(stage, prefix=f"{parts[-1]}/")
        push = self._push(files, f"Training in progress, step {self.state.global_step}", tuple(parts))
        push.job.add_done_callback(lambda _: shutil.rmtree(stage, ignore_errors=True))
        earlier = running.jobs if busy and running is not None else []
        self.push_in_progress = PushInProgress([*earlier, push.job])

    def _push(self, files: Files, message: str, parts: tuple[str, ...]) -> Push:
        assert self._repository is not None
        if not self._pushes and (told := self.run_facts().local_base):
            logger.warning("%s", told)
        job = self._hub.run_as_future(self._repository.commit, files, message, replaces=WEIGHTS)
        self._pushes.append(Push(self.state.global_step, parts, job))
        return self._pushes[-1]

    def _write_card(self, folder: Path, before: str | None, extra: dict[str, Any] | None = None) -> None:
        output_dir = Path(self.args.output_dir)
        before = before or text_of(output_dir)  # one by hand goes into every checkpoint
        history = output_dir / HISTORIES[0]
        if not write_card(folder, self.run_facts(), before=before, history=history, extra=extra):
            logger.warning("%s/README.md is by hand and stays as it is", folder)
