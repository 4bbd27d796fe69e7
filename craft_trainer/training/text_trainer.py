"""CraftTrainer of texts: a loss that is evaluated is the one that is optimised."""

from collections.abc import Iterator
from contextlib import contextmanager
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
        """As Trainer's; remember the sum of the losses of the labels, and their number.

        Samples that fill up the last batches of several processes, for a second time, do not count.
        """
        labels, end = inputs["labels"], self.accelerator.gradient_state
        if self.args.world_size > 1 and end.end_of_dataloader and end.remainder > 0:
            num_own = end.remainder - self.args.process_index * len(labels)
            again = torch.arange(len(labels), device=labels.device) >= num_own
            inputs["labels"] = labels = labels.masked_fill(again[:, None], -100)
        with self._mean_of_own_labels():
            loss, logits, targets = super().prediction_step(model, inputs, *args, **kwargs)
        count = (labels[:, 1:] != -100).sum().to(loss.device)
        total = torch.where(count > 0, loss.double(), 0.0) * count  # without any label the mean is NaN
        self._evaluated = self._evaluated.to(loss.device) + torch.stack([total, count.double()])
        return loss, logits, targets

    @contextmanager
    def _mean_of_own_labels(self) -> Iterator[None]:
        """Let Trainer divide by the labels of this process, not by those of all, and not scale by their number."""
        average, self.args.average_tokens_across_devices = self.args.average_tokens_across_devices, False
        try:
            yield
        finally:
            self.args.average_tokens_across_devices = average

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As Trainer's, with the mean over the tokens of all processes."""
        self._evaluated = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if f"{metric_key_prefix}_loss" in output.metrics:
            total, count = self.accelerator.reduce(self._evaluated.to(self.args.device)).tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = total / count
        return output
