"""CRaFT and what it is compared with: every method is a retention loss, a surgery rule and a way to set λ."""

from typing import NamedTuple


class Method(NamedTuple):
    """What a method fixes; None leaves it to the configuration.

    Attributes:
        source: what g_retain is the gradient of: features, task, l2 or ewc (``sources.py``); None for no retention.
        surgery: a rule of ``optim.surgery.RULES``.
        multiplier: a rule of ``optim.dual.RULES``.
        multiplier_init: λ at the start, for those that fix it.
    """

    source: str | None
    surgery: str | None = None
    multiplier: str | None = None
    multiplier_init: float | None = None


class Recipe(NamedTuple):
    """A method with everything that it leaves to the configuration filled in."""

    source: str | None
    surgery: str
    multiplier: str
    multiplier_init: float


METHODS: dict[str, Method] = {
    # constrained retention fine-tuning: everything as configured
    "craft": Method("features"),
    # the task loss alone
    "plain": Method(None),
    # L_task + λ·L_retain with λ = multiplier_init
    "weighted_sum": Method("features", surgery="none", multiplier="fixed"),
    # experience replay: L_task(new data) + λ·L_task(anchors)
    "replay": Method("task", surgery="none", multiplier="fixed"),
    # A-GEM, Chaudhry et al. 2019, arXiv 1812.00420, eq. (11): g_t projected off the gradient of L_task(anchors)
    "agem": Method("task", surgery="one_sided", multiplier="fixed", multiplier_init=0.0),
    # L_task + λ/2·|θ − θ_teacher|²
    "l2": Method("l2", surgery="none", multiplier="fixed"),
    # elastic weight consolidation, Kirkpatrick et al. 2017, arXiv 1612.00796, eq. (3): λ/2·Σ F·(θ − θ_teacher)²
    "ewc": Method("ewc", surgery="none", multiplier="fixed"),
}
