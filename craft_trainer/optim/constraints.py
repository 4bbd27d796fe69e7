"""The constraints of a run, L_k ≤ ε_k for every group k of anchors, and what they make of one batch of losses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from craft_trainer.optim.dual import Constraint, Controller

EVERYTHING = "all anchors"  # the group of a run with a single constraint


class ConstraintState(NamedTuple):
    """The constraints at one retention pass, as one: means over the groups in the batch, weighted as their losses."""

    retention_loss: float
    multiplier: float  # Σ λ_k
    epsilon: float
    violation: float  # of the group that violates most


class GroupConstraintState(NamedTuple):
    """One constraint at one retention pass."""

    group: str
    num_anchors: int
    retention_loss: float
    multiplier: float  # λ_k that weighted this step
    epsilon: float
    violation: float


def group_weights(constraints: Mapping[str, Constraint], groups: Sequence[str]) -> dict[str, float]:
    """Weight of every group's mean loss in L = Σ λ_k L_k / Σ λ_k, over the groups of a batch; equal if all λ_k are 0.

    Scaled by Σ λ_k (:func:`total_multiplier`), its gradient is that of the Lagrangian's Σ λ_k L_k.
    """
    present = sorted(set(groups))
    total = total_multiplier(constraints, groups)
    if total == 0:
        return dict.fromkeys(present, 1 / len(present))
    return {group: constraints[group].multiplier / total for group in present}


def total_multiplier(constraints: Mapping[str, Constraint], groups: Sequence[str]) -> float:
    """Σ λ_k over the groups of a batch."""
    return sum(constraints[group].multiplier for group in sorted(set(groups)))


def measure_constraints(
    constraints: Mapping[str, Constraint],
    losses: Mapping[str, float],
    epsilons: Mapping[str, float],
    groups: Sequence[str],
) -> tuple[ConstraintState, list[GroupConstraintState]]:
    """Measure every constraint on one batch, before the multipliers move."""
    weights, counts = group_weights(constraints, groups), Counter(groups)
    group_states = [
        GroupConstraintState(
            group,
            counts[group],
            losses[group],
            constraints[group].multiplier,
            epsilons[group],
            losses[group] - epsilons[group],
        )
        for group in weights
    ]
    whole = ConstraintState(
        sum(weights[state.group] * state.retention_loss for state in group_states),
        total_multiplier(constraints, groups),
        sum(weights[state.group] * state.epsilon for state in group_states),
        max(state.violation for state in group_states),
    )
    return whole, group_states


def step_multipliers(
    constraints: Mapping[str, Constraint], group_states: Sequence[GroupConstraintState], controller: Controller
) -> None:
    """One step of the multiplier of every group that was in the batch."""
    for state in group_states:
        constraints[state.group].step(state.violation, controller)
