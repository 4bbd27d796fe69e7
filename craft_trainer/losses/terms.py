"""Retention losses: how far the student has moved from its teacher on every anchor, in units of the teacher's own.

Every term is one function of the student's features, the teacher's, and the scales of the latter; it gives one number
per anchor, 0 where the student equals its teacher. Tokens whose vector is 0 in the teacher are padding: they do not
count, so that the loss of an anchor does not depend on the samples it is batched with.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from craft_trainer.anchors.features import TOKEN_SCALE, Features, TokenTargets

Distance = Callable[[Tensor, Tensor, Tensor], Float[Tensor, " batch"]]
RetentionTerm = Callable[[Features, Features, Mapping[str, Tensor]], Float[Tensor, " batch"]]


def mse(
    student: Float[Tensor, "batch *rest"], teacher: Float[Tensor, "batch *rest"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """mean((s − t)²) / Var(t): the fraction of the teacher's variance that the student misses."""
    return _mean_tokens((student.float() - teacher).square().mean(dim=-1), teacher) / variance


def l1(
    student: Float[Tensor, "batch *rest"], teacher: Float[Tensor, "batch *rest"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """mean(|s − t|) / √Var(t): the distance in standard deviations of the teacher."""
    return _mean_tokens((student.float() - teacher).abs().mean(dim=-1), teacher) / variance.sqrt()


def cosine(
    student: Float[Tensor, "batch *rest dim"], teacher: Float[Tensor, "batch *rest dim"], variance: Float[Tensor, ""]
) -> Float[Tensor, " batch"]:
    """mean(1 − cos(s, t)) over the last dimension; already free of units, so ``variance`` is not used."""
    del variance
    return _mean_tokens(1 - torch.cosine_similarity(student.float(), teacher, dim=-1), teacher)


DISTANCES: dict[str, Distance] = {"mse": mse, "cosine": cosine, "l1": l1}


def hidden(
    student: Features, teacher: Features, scale: Mapping[str, Tensor], *, distance: str
) -> Float[Tensor, " batch"]:
    """Mean of ``distance`` over the cached layers and poolings, each in units of its own variance."""
    if not teacher.hidden:
        raise KeyError("retention term 'hidden' needs hidden features in the anchor cache")
    losses = [
        DISTANCES[distance](student.hidden[column], target, scale[column]) for column, target in teacher.hidden.items()
    ]
    return torch.stack(losses).mean(dim=0)


def output(student: Features, teacher: Features, scale: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """MSE of the model's output (an action chunk), as a fraction of its variance."""
    if student.output is None or teacher.output is None:
        raise KeyError("retention term 'output' needs the teacher's output in the anchors; of tokens hold token_kl")
    return (student.output.float() - teacher.output).square().flatten(1).mean(dim=1) / scale["output"]


def token_ce(student: Features, teacher: Features, scale: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """Cross-entropy against the teacher's likeliest token, above the teacher's own, per mean entropy of the teacher.

    mean(log p_teacher(y) − log p_student(y)) / H, y = argmax p_teacher, over the valid positions. It may be negative:
    a student surer than its teacher has kept what it knew.
    """
    logits, targets = _token_pair(student, teacher, "token_ce")
    log_probs = _log_probs(logits, targets)[..., 0]
    return _mean_valid(targets.log_probs[..., 0] - log_probs, targets.valid) / scale[TOKEN_SCALE]


def token_kl(student: Features, teacher: Features, scale: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """KL(teacher‖student) per mean entropy of the teacher, over the valid positions; see :func:`token_divergence`."""
    logits, targets = _token_pair(student, teacher, "token_kl")
    return token_divergence(logits, targets) / scale[TOKEN_SCALE]


def token_divergence(
    logits: Float[Tensor, "batch tokens vocabulary"], targets: TokenTargets
) -> Float[Tensor, " batch"]:
    """KL(teacher‖student) in nats, mean over valid positions, from the teacher's k likeliest tokens.

    Σ_k p·log(p/q) + p_rest·log(p_rest/q_rest), where all other tokens count as one: a lower bound of the KL over the
    whole vocabulary (data processing inequality), equal to it when k is the size of the vocabulary.
    """
    log_q, log_p = _log_probs(logits, targets), targets.log_probs
    kept = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    p_rest, q_rest = _rest(log_p), _rest(log_q)
    return _mean_valid(kept + torch.xlogy(p_rest, p_rest) - torch.xlogy(p_rest, q_rest), targets.valid)


def retention_terms(distance: str) -> dict[str, RetentionTerm]:
    """Every term by name; ``distance`` is that of hidden features."""
    return {
        "hidden": partial(hidden, distance=distance),
        "output": output,
        "token_ce": token_ce,
        "token_kl": token_kl,
    }


TERMS = tuple(retention_terms("mse"))


def retention_loss(
    student: Features,
    teacher: Features,
    scale: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float],
    hidden_distance: str,
) -> Float[Tensor, " batch"]:
    """Σ w_term · L_term of every anchor, over the terms in ``weights``, each in units of the teacher's own ``scale``.

    So a value of 0.05 with unit weight means 5 % of the teacher's variance (of its entropy, for tokens).

    Raises:
        KeyError: the teacher's features lack a term.
    """
    terms = retention_terms(hidden_distance)
    return torch.stack([weight * terms[name](student, teacher, scale) for name, weight in weights.items()]).sum(dim=0)


def _token_pair(student: Features, teacher: Features, term: str) -> tuple[Tensor, TokenTargets]:
    if student.output is None or teacher.tokens is None:
        raise KeyError(f"retention term {term!r} needs the teacher's tokens in the anchor cache")
    return student.output, teacher.tokens


def _log_probs(logits: Tensor, targets: TokenTargets) -> Float[Tensor, "batch tokens k"]:
    """The student's log-probabilities of the teacher's tokens, without a second copy of the logits' size."""
    chosen = logits.gather(-1, targets.indices).float()
    return chosen - logits.float().logsumexp(dim=-1, keepdim=True)


def _rest(log_probs: Tensor) -> Tensor:
    """Probability of all tokens that are not among the k; not below what float32 resolves."""
    return (1 - log_probs.exp().sum(dim=-1)).clamp_min(torch.finfo(torch.float32).eps)


def _mean_tokens(distances: Float[Tensor, "batch *tokens"], teacher: Float[Tensor, "batch *tokens dim"]) -> Tensor:
    """Mean over the tokens that are not padding; 0 if there is none."""
    return _mean_valid(distances.view(len(distances), -1), teacher.any(dim=-1).view(len(distances), -1))


def _mean_valid(values: Float[Tensor, "batch tokens"], valid: Bool[Tensor, "batch tokens"]) -> Float[Tensor, " batch"]:
    return (values * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)
