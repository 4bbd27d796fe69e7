"""Gradient surgery as a function of three inner products: which weights merge the two gradients.

With t = <g_t, g_t>, c = <g_t, g_r>, r = <g_r, g_r> every rule gives the weights of ``w_task · g_t + w_retain · g_r``.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

NOISE_FLOOR = 1e-6  # a retention gradient this much shorter than the task gradient is rounding error


class Weights(NamedTuple):
    """Weights of the two gradients, before any projection."""

    task: float
    retain: float


class Surgery(NamedTuple):
    """The weights of the merged gradient and what led to them."""

    task_weight: float
    retain_weight: float
    cosine: float  # of the two gradients; 0 when the retention gradient is below NOISE_FLOOR
    conflict: bool  # cosine below the threshold
    projection: float = 0.0  # how much of g_r was added to one g_t to make it agree: −c/r for a projection


def cosine(gram: Float[Tensor, "2 2"]) -> float:
    """The cosine c / √(t·r) of the two gradients, in [−1, 1].

    It is 0 when either gradient is zero, and when √r < ``NOISE_FLOOR``·√t: where the student still equals its teacher,
    g_r is 0 up to rounding, and its direction means nothing.
    """
    t, c, r = _entries(gram)
    norm_t, norm_r = math.sqrt(t), math.sqrt(r)
    if norm_t == 0 or norm_r <= NOISE_FLOOR * norm_t:
        return 0.0
    return max(-1.0, min(1.0, c / norm_t / norm_r))


def none(gram: Float[Tensor, "2 2"], weights: Weights, threshold: float) -> Surgery:
    """The weighted sum, whatever the conflict; with weights (1, λ) the gradient of the Lagrangian."""
    cos = cosine(gram)
    return Surgery(*weights, cos, cos < threshold)


def one_sided(gram: Float[Tensor, "2 2"], weights: Weights, threshold: float) -> Surgery:
    """Project the task gradient off the retention gradient when they conflict, then add the two.

    If c / √(t·r) < ``threshold`` (a cosine in [−1, 0]): w = (w_t, w_r − w_t·c/r), so that the task part of the step is
    orthogonal to g_r; otherwise w = (w_t, w_r). With r = 0, as at the first step of training, there is no conflict.
    Source: Yu et al. 2020, arXiv 2001.06782, Algorithm 1, restricted to the task gradient.
    """
    cos = cosine(gram)
    if cos >= threshold:
        return Surgery(*weights, cos, conflict=False)
    _, c, r = _entries(gram)
    return Surgery(weights.task, weights.retain - weights.task * c / r, cos, conflict=True, projection=-c / r)


def symmetric(gram: Float[Tensor, "2 2"], weights: Weights, threshold: float) -> Surgery:
    """Project each gradient off the other when they conflict, then add the two.

    If c / √(t·r) < ``threshold``: w = (w_t − w_r·c/t, w_r − w_t·c/r). The step then also gives up what retention asks
    against the task. Source: PCGrad, Yu et al. 2020, arXiv 2001.06782, Algorithm 1, on w_t·g_t and w_r·g_r.
    """
    cos = cosine(gram)
    if cos >= threshold:
        return Surgery(*weights, cos, conflict=False)
    t, c, r = _entries(gram)
    merged = Weights(weights.task - weights.retain * c / t, weights.retain - weights.task * c / r)
    return Surgery(*merged, cos, conflict=True, projection=-c / r)


def barrier(
    gram: Float[Tensor, "2 2"],
    weights: Weights,
    threshold: float,
    *,
    excess: float,
    strength: float,
    maximum: float,
) -> Surgery:
    """The smallest change of the task gradient after which <g, g_r> ≥ β·r·clip(excess, −1, 1).

    w = (1, clip(β·clip(excess, −1, 1) − c/r, 0, ``maximum``)) with ``excess`` = (L_retain − ε)/ε and β = ``strength``:
    conflict is allowed while L_retain is well inside ε, forbidden at ε, reversed beyond it. ``weights`` are not used:
    there is no multiplier to tune, and at the constrained optimum w_retain is λ*.
    Source: Gong, Liu and Liu, NeurIPS 2021 ("Automatic and harmless regularization with constrained and lexicographic
    optimization: a dynamic barrier approach"), eq. (5), with the barrier φ = β·r·clip(excess, −1, 1).
    """
    del weights
    cos = cosine(gram)
    t, c, r = _entries(gram)
    if math.sqrt(r) <= NOISE_FLOOR * math.sqrt(t) or r == 0:
        return Surgery(1.0, 0.0, cos, conflict=False)
    push = min(max(strength * min(max(excess, -1.0), 1.0) - c / r, 0.0), maximum)
    return Surgery(1.0, push, cos, cos < threshold, projection=push)


SurgeryRule = Callable[[Float[Tensor, "2 2"], Weights, float], Surgery]
RULES: dict[str, SurgeryRule | Callable[..., Surgery]] = {
    "none": none,
    "one_sided": one_sided,
    "symmetric": symmetric,
    "barrier": barrier,
}
MERGES: dict[str, Callable[[float], Weights]] = {
    "weighted": lambda multiplier: Weights(1.0, multiplier),
    "equal": lambda _multiplier: Weights(0.5, 0.5),
    "task_priority": lambda multiplier: Weights(1.0, min(multiplier, 1.0)),
}


def surgery_rule(name: str, *, excess: float, strength: float, maximum: float) -> SurgeryRule:
    """The rule ``name``; what only the barrier needs is bound to it."""
    if name == "barrier":
        return partial(barrier, excess=excess, strength=strength, maximum=maximum)
    return RULES[name]


def _entries(gram: Float[Tensor, "2 2"]) -> tuple[float, float, float]:
    (t, c), (_, r) = gram.tolist()
    return t, c, r
