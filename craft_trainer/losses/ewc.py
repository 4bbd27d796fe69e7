"""Hold the weights that the old task depends on: elastic weight consolidation."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from craft_trainer.anchors.features import AnchorBatch, evaluating
from craft_trainer.losses.l2sp import L2SPLoss, trainable
from craft_trainer.losses.loss import TrainingStart
from craft_trainer.losses.replay import task_loss
from craft_trainer.losses.term import Need
from craft_trainer.models.base import AnchoredModel
from craft_trainer.optim.gradients import put, take

FISHER_ANCHORS = 128


class EWCLoss(L2SPLoss):
    """½·Σ F·(θ − θ_0)², F the Fisher information of the task loss on anchors at θ_0.

    Source: Kirkpatrick et al. 2017, arXiv 1612.00796, eq. (3).
    """

    needs = Need.LABELS

    def __init__(self, network: nn.Module, fisher: Mapping[str, Tensor]) -> None:
        """Weigh every trainable parameter of ``network``, which is still the teacher, by its ``fisher``."""
        super().__init__(network)
        self._fisher = fisher

    @classmethod
    def begin(cls, start: TrainingStart) -> Self:
        """Measure F on up to 128 anchors spread over all."""
        rows = torch.linspace(0, start.num_anchors - 1, min(start.num_anchors, FISHER_ANCHORS)).long().tolist()
        return cls(start.model.network, fisher_information(start.model, [start.read([row]) for row in rows]))

    def _weighted(self, name: str, square: Tensor) -> Tensor:
        return self._fisher[name] * square


def fisher_information(model: AnchoredModel, anchors: list[AnchorBatch]) -> dict[str, Tensor]:
    """Average the squared task gradient over ``anchors`` (one each): the diagonal of the empirical Fisher information.

    F = mean over anchors of (∂L_task/∂θ)², by the name of the parameter and in its shape; in evaluation mode.
    """
    names, parameters = zip(*trainable(model.network), strict=True)
    before = take(parameters)
    fisher = [torch.zeros_like(parameter) for parameter in parameters]
    with evaluating(model.network):
        for anchor in anchors:
            torch.autograd.backward(task_loss(model, anchor))
            for total, gradient in zip(fisher, take(parameters), strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient, value=1 / len(anchors))
    put(parameters, before)
    return dict(zip(names, fisher, strict=True))
