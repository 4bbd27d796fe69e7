"""Checkpoints of models with a format of their own, which Trainer cannot read and write; the card beside weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from craft_trainer.hub.readme import text_of
from craft_trainer.models.base import SupportsCheckpointing
from craft_trainer.models.pretrained import restore
from craft_trainer.training.distribution import splits_parameters, whole_weights

Base: Any = Trainer if TYPE_CHECKING else object


class CheckpointMixin(Base):  # type: ignore[misc]  # transformers is not typed
    """Saves and loads a model that supports it by the model's own methods, and writes card and lineage beside it."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, of whole weights however FSDP keeps its states."""
        with whole_weights(self.accelerator):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        before = text_of(folder)  # PEFT writes a card of its own
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, SupportsCheckpointing):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:  # newer transformers come here with every process
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder, state_dict)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
        if self.args.should_save:
            self._write_lineage(folder)
            self._write_card(folder, before)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *model: nn.Module) -> None:
        target = self.accelerator.unwrap_model(model[0] if model else self.model)
        if splits_parameters(self.accelerator) or not restore(target, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *model)  # sentence-transformers' takes no model

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or splits_parameters(self.accelerator) or not restore(self.model, best):
            super()._load_best_model()
