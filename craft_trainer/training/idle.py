"""Refuse settings of retention that another setting leaves without effect."""

from typing import TYPE_CHECKING

from craft_trainer.options import refuse_idle

if TYPE_CHECKING:
    from craft_trainer.training.settings import RetentionSettings

OF_A_MULTIPLIER = ("multiplier", "multiplier_init", "multiplier_lr", "dual_kp", "dual_ema")
OF_A_MOVING_ONE = ("multiplier_lr", "dual_kp", "dual_ema")
OF_PI = ("dual_kp", "dual_ema")
OF_THE_BUDGET = ("retention", "epsilon_final", "epsilon_per_group")  # epsilon alone may be what a fixed λ is judged by


def refuse_idle_settings(settings: "RetentionSettings") -> None:
    """Refuse what was changed and would change nothing, by a ValueError that names both settings.

    A baseline has its own surgery and multiplier, and is run from the file of a CRaFT run: those settings are let pass.
    """
    if "hidden" not in settings.retention_terms:
        refuse_idle(settings, ["hidden_distance"], f"retention_terms {settings.retention_terms} hold no hidden term")
    if settings.method != "craft":
        return
    surgery, multiplier = settings.surgery, settings.multiplier
    if settings.merge == "equal" and settings.constraints == "single":  # λ weighs the groups among themselves
        without_lambda = [*OF_A_MULTIPLIER, "multiplier_max", "retention", "epsilon_final"]
        refuse_idle(settings, without_lambda, "merge equal weighs the two gradients ½ and ½, whatever λ is")
    if surgery == "barrier":
        refuse_idle(settings, OF_A_MULTIPLIER, "surgery barrier weighs g_retain by itself, without a multiplier")
    else:
        refuse_idle(settings, ["barrier_strength"], f"it is of surgery barrier, and surgery is {surgery}")
    if multiplier == "fixed":
        refuse_idle(settings, OF_A_MOVING_ONE, "multiplier fixed keeps λ at multiplier_init")
        if surgery != "barrier":
            refuse_idle(settings, OF_THE_BUDGET, "multiplier fixed keeps λ at multiplier_init, whatever ε is")
    if multiplier == "ascent":
        refuse_idle(settings, OF_PI, "it is of multiplier pi, and multiplier is ascent")
