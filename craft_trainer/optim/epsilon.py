"""The path of ε, the budget of the constraint L_retain ≤ ε, over the optimizer steps."""

import math
from collections.abc import Callable


def constant(_progress: float, start: float, _end: float) -> float:
    """ε stays at its start."""
    return start


def linear(progress: float, start: float, end: float) -> float:
    """ε moves at constant speed."""
    return start + (end - start) * progress


def cosine(progress: float, start: float, end: float) -> float:
    """ε moves slowly at both ends: half a period of a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def exponential(progress: float, start: float, end: float) -> float:
    """ε changes by a constant factor per step."""
    return start * math.pow(end / start, progress)


EpsilonSchedule = Callable[[float, float, float], float]
SCHEDULES: dict[str, EpsilonSchedule] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
}


def epsilon_at(step: int, first: int, last: int, *, schedule: str, start: float, end: float) -> float:
    """ε at optimizer step ``step``: ``start`` up to step ``first``, ``end`` from step ``last`` on.

    Progress is (step − first) / (last − first) in [0, 1]. Where ``first`` is ``last``, that one step has ``start``.
    """
    progress = min(1.0, max(0, step - first) / max(1, last - first))
    return SCHEDULES[schedule](progress, start, end)
