"""Hold the teacher's hidden features."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import Features
from craft_trainer.losses.term import LossSettings, Need, RetentionTerm, Scales
from craft_trainer.models.task_loss import mean_valid

Distance = Callable[[Tensor, Tensor, Tensor], Float[Tensor, " batch"]]


def mse(
    student: Float[Tensor, "batch *rest"], teacher: Float[Tensor, "batch *rest"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """Compute mean((s − t)²) / Var(t): the fraction of the teacher's variance that the student misses."""
    return _mean_tokens((student.float() - teacher).square().mean(dim=-1), teacher) / variance


def l1(
    student: Float[Tensor, "batch *rest"], teacher: Float[Tensor, "batch *rest"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """Compute mean(|s − t|) / √Var(t): the distance in standard deviations of the teacher."""
    return _mean_tokens((student.float() - teacher).abs().mean(dim=-1), teacher) / variance.sqrt()


def cosine(
    student: Float[Tensor, "batch *rest dim"], teacher: Float[Tensor, "batch *rest dim"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """Compute mean(1 − cos(s, t)) over the last dimension, in [0, 2]; it has no unit, so ``variance`` is not used."""
    return _mean_tokens(1 - torch.cosine_similarity(student.float(), teacher, dim=-1), teacher)


DISTANCES: dict[str, Distance] = {"mse": mse, "cosine": cosine, "l1": l1}
UNITS = {"mse": "variance", "cosine": "cosine distance", "l1": "standard deviation"}


@dataclass(frozen=True)
class Hidden(RetentionTerm):
    """Mean of ``distance`` over the cached layers and poolings, each in units of its own variance.

    Tokens whose vector is 0 in the teacher are padding and do not count.
    Source: hints of FitNets, Romero et al. 2015, arXiv 1412.6550, eq. (3), here in units of the teacher's variance.
    """

    name = "hidden"
    needs = Need.HIDDEN

    distance: str = "mse"

    @classmethod
    def configured(cls, settings: LossSettings) -> Self:
        """Take the distance that ``settings`` name."""
        return cls(settings.hidden_distance)

    @property
    def unit(self) -> str:
        """That of the distance."""
        return UNITS[self.distance]

    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare every cached feature."""
        distance = DISTANCES[self.distance]
        losses = [distance(student.hidden[name], target, scales[name]) for name, target in teacher.hidden.items()]
        return torch.stack(losses).mean(dim=0)


def _mean_tokens(distances: Float[Tensor, "batch *tokens"], teacher: Float[Tensor, "batch *tokens dim"]) -> Tensor:
    return mean_valid(distances.view(len(distances), -1), teacher.any(dim=-1).view(len(distances), -1))
