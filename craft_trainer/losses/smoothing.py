"""Label smoothing of the next token, which Trainer's own does for some models and settings only."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100


class SmoothedLoss:
    """The loss of a model that predicts the next token, with smoothed labels: for ``compute_loss_func`` of a Trainer.

    (1 − s)·(−log p(label)) + s·mean over the vocabulary of −log p, over the number of labels, as the model's own loss
    has it: also of several micro-batches together, on several devices, compiled or sharded.
    """

    def __init__(self, smoothing: float) -> None:
        """``smoothing`` is s, in [0, 1).

        Raises:
            ValueError: it is not.
        """
        if not 0 <= smoothing < 1:
            raise ValueError(f"label_smoothing_factor is {smoothing:g}: it must lie in [0, 1)")
        self.smoothing = smoothing

    def __call__(
        self,
        outputs: dict[str, Tensor],
        labels: Int[Tensor, "batch tokens"],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a micro-batch: its part of the mean over ``num_items_in_batch`` labels, or its own mean."""
        logits, targets = outputs["logits"][:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        total = cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=self.smoothing)
        return total / ((targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
