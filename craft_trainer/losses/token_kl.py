"""Hold the teacher's distribution of the next token."""

import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.features import TOKEN_SCALE, Features, TokenTargets
from craft_trainer.losses.term import Need, RetentionTerm, Scales
from craft_trainer.models.task_loss import mean_valid


class TokenKL(RetentionTerm):
    """KL(teacher‖student) / H, H the teacher's mean entropy; see :func:`token_divergence`.

    Source: distillation at temperature 1, Hinton et al. 2015, arXiv 1503.02531, section 2.
    """

    name = "token_kl"
    needs = Need.TOKENS
    unit = "mean entropy"

    def __call__(self, student: Features, teacher: Features, scales: Scales) -> Float[Tensor, " batch"]:
        """Compare the two distributions."""
        assert student.output is not None
        assert teacher.tokens is not None
        return token_divergence(student.output, teacher.tokens) / scales[TOKEN_SCALE]


def token_divergence(
    logits: Float[Tensor, "batch tokens vocabulary"], targets: TokenTargets
) -> Float[Tensor, " batch"]:
    """Compute KL(teacher‖student) in nats, mean over valid positions, from the teacher's k most probable tokens.

    Σ_k p·log(p/q) + p_rest·log(p_rest/q_rest), where all other tokens count as one: a lower bound of the KL over the
    whole vocabulary (data processing inequality), equal to it when k is the size of the vocabulary.
    """
    log_q, log_p = log_probs_at(logits, targets), targets.log_probs
    kept = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    p_rest, q_rest = _rest(log_p), _rest(log_q)
    return mean_valid(kept + torch.xlogy(p_rest, p_rest) - torch.xlogy(p_rest, q_rest), targets.valid)


def log_probs_at(
    logits: Float[Tensor, "batch tokens vocabulary"], targets: TokenTargets
) -> Float[Tensor, "batch tokens k"]:
    """Read the student's log-probabilities of the teacher's tokens, without a second copy of the logits' size."""
    chosen = logits.gather(-1, targets.indices).float()
    return chosen - logits.float().logsumexp(dim=-1, keepdim=True)


def _rest(log_probs: Float[Tensor, "batch tokens k"]) -> Float[Tensor, "batch tokens"]:
    """Sum the probability of all tokens that are not among the k; not below what float32 resolves."""
    return (1 - log_probs.exp().sum(dim=-1)).clamp_min(torch.finfo(torch.float32).eps)
