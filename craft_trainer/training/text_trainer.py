"""CraftTrainer of texts: a loss that is evaluated is the one that is optimised."""

from typing import Any

import torch
from torch import Tensor, nn

from craft_trainer.training.trainer import CraftTrainer


class TextTrainer(CraftTrainer):
    """A trainer whose ``eval_loss`` is the mean over all tokens that have a label, whatever the batches.

    Trainer's own is the mean over samples of the means of their batches: another number at another batch size.
    """

    _evaluated: Tensor

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Any, Any]:
        """As Trainer's; remember the sum of the losses of the labels, and their number."""
        labels = inputs["labels"]
        loss, logits, targets = super().prediction_step(model, inputs, *args, **kwargs)
        count = (labels[:, 1:] != -100).sum().to(loss.device)
        self._evaluated = self._evaluated.to(loss.device) + torch.stack([loss.double() * count, count.double()])
        return loss, logits, targets

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As Trainer's, with the mean over the tokens of all processes."""
        self._evaluated = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if f"{metric_key_prefix}_loss" in output.metrics:
            total, count = self.accelerator.reduce(self._evaluated.to(self.args.device)).tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = total / count
        return output
