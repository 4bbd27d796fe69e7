"""The task loss of single samples as a function of the model's output: what of it can be held beside the output."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from craft_trainer.models.base import Batch

UNLEARNED = -100  # the label of a token that is no target


class TaskLoss(NamedTuple):
    """The task loss of every sample, without randomness: in evaluation mode, at the noise that comes with the sample.

    Attributes:
        losses: prepared inputs with their targets, and what ``predict`` gave for them → one number per sample.
        unit: what of the teacher it is measured in: the ``variance`` or the ``standard deviation`` of its output, or
            the ``mean entropy`` of its tokens.
    """

    losses: Callable[[Batch, Tensor], Float[Tensor, " batch"]]
    unit: str


@runtime_checkable
class SupportsTaskLoss(Protocol):
    """A model whose loss is a mean over samples, each a function of its own output and targets."""

    @property
    def task_loss(self) -> TaskLoss | None:
        """The loss that the term ``task`` holds; None of a kind of model whose loss is known of whole batches only."""


def next_token_losses(
    labels: Int[Tensor, "batch tokens"], logits: Float[Tensor, "batch tokens vocabulary"]
) -> Float[Tensor, " batch"]:
    """Compute mean(−log q(label)) in nats over the labels of every sample; 0 if it has none.

    The logits at a position are for the label at the next one, as in HuggingFace's own loss, which is the mean over
    the labels of a batch instead.
    """
    return token_losses(labels[:, 1:], logits[:, :-1])


def token_losses(
    labels: Int[Tensor, "batch tokens"], logits: Float[Tensor, "batch tokens classes"]
) -> Float[Tensor, " batch"]:
    """Compute mean(−log q(label)) in nats over the labels of every sample, each at its own position; 0 if none."""
    targets = labels.long()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=UNLEARNED, reduction="none"
    )
    return mean_valid(losses.view(targets.shape), targets != UNLEARNED)


def step_losses(
    errors: Float[Tensor, "batch steps dim"], padding: Bool[Tensor, "batch steps"] | None
) -> Float[Tensor, " batch"]:
    """Average the ``errors`` of an action chunk over its numbers, without the steps that are ``padding``."""
    each = errors.mean(dim=-1)
    return mean_valid(each, torch.ones_like(each, dtype=torch.bool) if padding is None else ~padding)


def mean_valid(values: Float[Tensor, "batch tokens"], valid: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    """Average each sample's ``values`` over its valid tokens; 0 if it has none.

    Padding does not count, so the loss of a sample does not depend on those it is batched with.
    """
    return (values * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)
