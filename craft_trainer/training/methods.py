"""CRaFT and what it is compared with: every method is a retention loss, a surgery rule and a way to set λ."""

from typing import Any, NamedTuple

from craft_trainer.losses.distillation import DistillationLoss
from craft_trainer.losses.ewc import EWCLoss
from craft_trainer.losses.l2sp import L2SPLoss
from craft_trainer.losses.loss import RetentionLoss
from craft_trainer.losses.replay import ReplayLoss


class Recipe(NamedTuple):
    """The parts of a method.

    Attributes:
        loss: what g_retain is the gradient of; None for no retention.
        surgery: a rule of ``optim.surgery.RULES``.
        multiplier: a rule of ``optim.dual.RULES``.
        multiplier_init: λ at the start.
    """

    loss: type[RetentionLoss] | None
    surgery: str
    multiplier: str
    multiplier_init: float


METHODS: dict[str, dict[str, Any]] = {  # the part of its recipe that each fixes; the settings say the others
    # constrained retention fine-tuning: everything as configured
    "craft": {"loss": DistillationLoss},
    # the task loss alone
    "plain": {"loss": None},
    # L_task + λ·L_retain with λ = multiplier_init
    "weighted_sum": {"loss": DistillationLoss, "surgery": "none", "multiplier": "fixed"},
    # experience replay: L_task(new data) + λ·L_task(anchors)
    "replay": {"loss": ReplayLoss, "surgery": "none", "multiplier": "fixed"},
    # A-GEM, Chaudhry et al. 2019, arXiv 1812.00420, eq. (11): g_t projected off the gradient of L_task(anchors)
    "agem": {"loss": ReplayLoss, "surgery": "one_sided", "multiplier": "fixed", "multiplier_init": 0.0},
    # L_task + λ/2·|θ − θ_teacher|²
    "l2": {"loss": L2SPLoss, "surgery": "none", "multiplier": "fixed"},
    # L_task + λ/2·Σ F·(θ − θ_teacher)²
    "ewc": {"loss": EWCLoss, "surgery": "none", "multiplier": "fixed"},
}
