"""Gradient surgery as a function of three inner products: which weights merge the two gradients.

With t = <g_t, g_t>, c = <g_t, g_r>, r = <g_r, g_r> the merged gradient is ``w_task · g_t + w_retain · g_r``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

NOISE_FLOOR = 1e-6  # a retention gradient this much shorter than the task gradient is rounding error


class Surgery(NamedTuple):
    """The weights of the merged gradient and what led to them."""

    task_weight: float
    retain_weight: float
    cosine: float  # of the two gradients; 0 when the retention gradient is below NOISE_FLOOR
    conflict: bool  # cosine below the threshold


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


def none(gram: Float[Tensor, "2 2"], multiplier: float, threshold: float) -> Surgery:
    """The λ-weighted sum, w = (1, λ), whatever the conflict."""
    cos = cosine(gram)
    return Surgery(1.0, multiplier, cos, cos < threshold)


def one_sided(gram: Float[Tensor, "2 2"], multiplier: float, threshold: float) -> Surgery:
    """Project the task gradient off the retention gradient when they conflict, then add the λ-weighted one.

    If c / √(t·r) < ``threshold`` (a cosine in [−1, 0]): w = (1, λ − c/r), so that the task part of the step is
    orthogonal to g_r; otherwise w = (1, λ). With r = 0, as at the first step of training, there is no conflict.
    Source: Yu et al. 2020, arXiv 2001.06782, Algorithm 1, restricted to the task gradient.
    """
    cos = cosine(gram)
    if cos >= threshold:
        return Surgery(1.0, multiplier, cos, conflict=False)
    _, c, r = _entries(gram)
    return Surgery(1.0, multiplier - c / r, cos, conflict=True)


SurgeryRule = Callable[[Float[Tensor, "2 2"], float, float], Surgery]
RULES: dict[str, SurgeryRule] = {"none": none, "one_sided": one_sided}


def _entries(gram: Float[Tensor, "2 2"]) -> tuple[float, float, float]:
    (t, c), (_, r) = gram.tolist()
    return t, c, r
