"""One retention pass as surgery sees it, and as the history has it."""

from craft_trainer.optim.merging import BlockRule, Merged
from craft_trainer.optim.surgery import MERGES, Surgery, Weights, none, surgery_rule
from craft_trainer.training.callbacks import CraftStep
from craft_trainer.training.retention import RetentionPass
from craft_trainer.training.settings import RetentionSettings


def block_rule(settings: RetentionSettings, retention_pass: RetentionPass) -> BlockRule:
    """Return the surgery rule of one step: a block's Gramian → the weights of its two gradients."""
    constraint = retention_pass.constraint
    if retention_pass.probing:
        return lambda gram: none(gram, Weights(1.0, 0.0), settings.conflict_threshold)
    weights, is_barrier = MERGES[settings.merge](constraint.multiplier), settings.recipe.surgery == "barrier"
    if retention_pass.rounding and not (is_barrier and constraint.violation > 0):  # beyond ε it pushes back, whatever
        weights = Weights(1.0, 0.0) if is_barrier else weights  # which has no λ of its own
        return lambda _gram: Surgery(*weights, cosine=0.0, conflict=False)
    rule = surgery_rule(
        settings.recipe.surgery,
        excess=constraint.violation / constraint.epsilon,
        strength=settings.barrier_strength,
        maximum=settings.multiplier_max,
    )
    return lambda gram: rule(gram, weights, settings.conflict_threshold)


def joint_weight(settings: RetentionSettings, retention_pass: RetentionPass) -> float:
    """Return what L_retain is multiplied by in L_task + λ·L_retain: λ, or 0 while the drift is probed."""
    return 0.0 if retention_pass.probing else MERGES[settings.merge](retention_pass.constraint.multiplier).retain


def joint_step(retention_pass: RetentionPass, *, step: int) -> CraftStep:
    """Return what was measured at optimizer step ``step``, all that is known where one backward pass is both losses."""
    constraint = retention_pass.constraint
    return CraftStep(
        step=step,
        task_loss=retention_pass.task_loss,
        retention_loss=constraint.retention_loss,
        multiplier=0.0 if retention_pass.probing else constraint.multiplier,
        epsilon=constraint.epsilon,
        violation=constraint.violation,
    )


def craft_step(
    settings: RetentionSettings, retention_pass: RetentionPass, merged: Merged, *, scale: float, step: int
) -> CraftStep:
    """Return what was measured and done at optimizer step ``step``; ``scale`` multiplied both losses (fp16)."""
    task_norm, retention_norm = (merged.gram.diagonal().sqrt() / scale).tolist()
    implied = settings.recipe.surgery == "barrier" and not retention_pass.probing
    measured = joint_step(retention_pass, step=step)
    return measured._replace(
        multiplier=merged.retain_weight if implied else measured.multiplier,
        cosine=0.0 if retention_pass.rounding and merged.finite else merged.cosine,
        conflict=merged.conflict,
        task_grad_norm=task_norm,
        retention_grad_norm=retention_norm,
        projected_energy=merged.projected_energy,
    )
