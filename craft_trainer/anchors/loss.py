"""Retention losses: how far the student has moved from its teacher on anchors, in units of the teacher's variance."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import Features

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]


def mse(
    student: Float[Tensor, "batch *rest"], teacher: Float[Tensor, "batch *rest"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """mean((s − t)²) / Var(t): the fraction of the teacher's variance that the student misses."""
    return (student.float() - teacher).square().mean() / variance


def cosine(
    student: Float[Tensor, "batch *rest dim"], teacher: Float[Tensor, "batch *rest dim"], variance: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """mean(1 − cos(s, t)) over the last dimension; already free of units, so ``variance`` is not used."""
    del variance
    return (1 - torch.cosine_similarity(student.float(), teacher, dim=-1)).mean()


DISTANCES: dict[str, Distance] = {"mse": mse, "cosine": cosine}
TERMS = ("hidden", "output")


def retention_loss(
    student: Features,
    teacher: Features,
    variance: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float],
    hidden_distance: str,
) -> Float[Tensor, ""]:
    """Σ w_term · L_term over the terms in ``weights``.

    ``hidden`` is the mean of ``hidden_distance`` over the cached layers, ``output`` the MSE of the model's output; both
    are divided by the teacher's variance, so a value of 0.05 with unit weight means 5 % of it.

    Raises:
        KeyError: the teacher's features lack a term.
    """
    total = torch.zeros(())
    for term, weight in weights.items():
        total = total + weight * _term(term, student, teacher, variance, hidden_distance)
    return total


def _term(term: str, student: Features, teacher: Features, variance: Mapping[str, Tensor], distance: str) -> Tensor:
    if term == "output":
        if student.output is None or teacher.output is None:
            raise KeyError("retention term 'output' needs the teacher's output in the anchor cache")
        return mse(student.output, teacher.output, variance["output"])
    if not teacher.hidden:
        raise KeyError("retention term 'hidden' needs hidden features in the anchor cache")
    losses = [
        DISTANCES[distance](student.hidden[column], target, variance[column])
        for column, target in teacher.hidden.items()
    ]
    return torch.stack(losses).mean()
