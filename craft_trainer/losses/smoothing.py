"""Label smoothing of the next token, which Trainer's own does for some models and settings only."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100


class SmoothedLoss:
    """The loss of a model that predicts the next token, with smoothed labels: for ``compute_loss_func`` of a Trainer.

    (1 − s)·(−log p(label)) + s·mean over the vocabulary of −log p, over the number of labels, as the model's own loss
    has it: also of several micro-batches together, on several devices, compiled or sharded. Of a mixture of experts
    that returns one, plus c·(auxiliary loss of its routers), c ``router_aux_loss_coef``. In the sum over several
    micro-batches that is the mean of theirs, weighted by labels.
    """

    def __init__(self, smoothing: float, *, router_aux_loss_coef: float | None = None) -> None:
        """``smoothing`` is s, in [0, 1); c is needed of a model that returns an auxiliary loss.

        Raises:
            ValueError: ``smoothing`` lies elsewhere.
        """
        if not 0 <= smoothing < 1:
            raise ValueError(f"label_smoothing_factor is {smoothing:g}: it must lie in [0, 1)")
        self.smoothing = smoothing
        self.router_aux_loss_coef = router_aux_loss_coef

    @classmethod
    def of(cls, config: Any, smoothing: float) -> "SmoothedLoss":
        """The loss of a model of this ``config``, which says how much the auxiliary loss of its routers weighs."""
        text = config.get_text_config()
        weight = getattr(text, "router_aux_loss_coef", getattr(text, "aux_loss_coef", None))  # JetMoE has the second
        return cls(smoothing, router_aux_loss_coef=weight)

    def __call__(
        self,
        outputs: dict[str, Tensor],
        labels: Int[Tensor, "batch tokens"],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a micro-batch: its part of the mean over ``num_items_in_batch`` labels, or its own mean.

        Raises:
            ValueError: the model returns an auxiliary loss, and its weight is not known.
        """
        logits, targets = outputs["logits"][:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        total = cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=self.smoothing)
        loss: Tensor = total / ((targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
        auxiliary = outputs.get("aux_loss")
        if auxiliary is None:
            return loss
        if self.router_aux_loss_coef is None:
            raise ValueError(
                "the model returns an auxiliary loss of its routers, and SmoothedLoss does not know its weight: make "
                f"it by SmoothedLoss.of(model.config, {self.smoothing:g}), or set output_router_logits: false"
            )
        share = 1.0 if num_items_in_batch is None else (labels != IGNORED).sum() / num_items_in_batch
        return loss + self.router_aux_loss_coef * share * auxiliary.to(loss.device)
