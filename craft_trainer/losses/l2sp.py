"""Hold the weights that training started from."""

from collections.abc import Iterator
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from craft_trainer.anchors.features import AnchorBatch
from craft_trainer.losses.loss import RetentionLoss, TrainingStart
from craft_trainer.losses.term import Need
from craft_trainer.models.base import AnchoredModel


class L2SPLoss(RetentionLoss):
    """½·Σ (θ − θ_0)² over the trainable parameters, θ_0 the teacher's.

    Source: L²-SP, Li, Grandvalet & Davoine 2018, arXiv 1802.01483, section 3.
    """

    needs = Need.NOTHING
    supports_sharding = False

    def __init__(self, network: nn.Module) -> None:
        """Copy the trainable parameters of ``network``, which is still the teacher."""
        self._start = {name: parameter.detach().clone() for name, parameter in trainable(network)}

    @classmethod
    def begin(cls, start: TrainingStart) -> Self:
        """Start from the student as it is."""
        return cls(start.model.network)

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " 1"]:
        """Compute the penalty, whatever the anchors.

        Raises:
            ValueError: a parameter is trained that was frozen at the start.
        """
        now = dict(trainable(model.network))
        if later := sorted(now.keys() - self._start.keys()):
            raise ValueError(
                f"{later[0]} was frozen when the run began and is trained now: methods l2 and ewc hold the parameters "
                "that are trained from the start, so unfreeze it before"
            )
        squares = [(name, (value - self._start[name]).square()) for name, value in now.items()]
        return torch.stack([self._weighted(name, square).sum() for name, square in squares]).sum().view(1) / 2

    def _weighted(self, name: str, square: Tensor) -> Tensor:
        """Weigh the squares of the parameter ``name`` by how much each matters: here all the same."""
        return square


def trainable(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the parameters of ``network`` that are trained."""
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
