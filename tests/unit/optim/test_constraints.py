"""The constraints of a batch by hand, and the gradient of their Lagrangian by autograd."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.optim.constraints import (
    EVERYTHING,
    GroupConstraintState,
    group_weights,
    measure_constraints,
    step_multipliers,
    total_multiplier,
)
from craft_trainer.optim.dual import Constraint, Controller

ASCENT = Controller("ascent", 0.1, 10.0, 0.9, 10.0)
MULTIPLIERS = {"push": 3.0, "open": 1.0, "absent": 6.0, "idle": 0.0}
BATCH = ["push", "open", "push", "idle", "push"]  # four anchors of three groups; nothing of "absent"
LOSSES = {"push": 0.3, "open": 0.1, "idle": 0.02}
EPSILONS = {"push": 0.2, "open": 0.05, "absent": 0.7, "idle": 0.05}


def constraints_with(multipliers: Mapping[str, float]) -> dict[str, Constraint]:
    return {group: Constraint(multiplier) for group, multiplier in multipliers.items()}


def test_a_group_weighs_as_its_multiplier_among_those_in_the_batch() -> None:
    """Fails when the weights are divided by the multipliers of all groups, or multiplied by the number of anchors."""
    constraints = constraints_with(MULTIPLIERS)
    assert group_weights(constraints, BATCH) == {"idle": 0.0, "open": 0.25, "push": 0.75}
    assert total_multiplier(constraints, BATCH) == 4.0


def test_groups_weigh_the_same_while_all_multipliers_are_zero() -> None:
    """So that L_retain is still measured; the multipliers' sum, 0, still says how much it counts."""
    constraints = constraints_with(dict.fromkeys(MULTIPLIERS, 0.0) | {"absent": 2.0})
    assert group_weights(constraints, BATCH) == pytest.approx({"idle": 1 / 3, "open": 1 / 3, "push": 1 / 3})
    assert total_multiplier(constraints, BATCH) == 0.0


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 100), min_size=1), st.data())
def test_the_weights_are_a_distribution_over_the_groups_of_the_batch(
    multipliers: dict[str, float], data: st.DataObject
) -> None:
    batch = data.draw(st.lists(st.sampled_from(sorted(multipliers)), min_size=1))
    weights = group_weights(constraints_with(multipliers), batch)
    assert set(weights) == set(batch)
    assert min(weights.values()) >= 0
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("multipliers", [MULTIPLIERS, dict.fromkeys(MULTIPLIERS, 0.0), dict.fromkeys(MULTIPLIERS, 2.5)])
def test_scaled_by_the_total_the_gradient_is_that_of_the_lagrangian(multipliers: dict[str, float]) -> None:
    """(Σ λ_k)·∇Σ w_k L_k = ∇Σ λ_k L_k over the groups in the batch; fails for weights that do not sum to 1."""
    constraints = constraints_with(multipliers)
    theta = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    losses = {
        "push": (theta**2).sum(),
        "open": (theta - 1).pow(4).sum(),
        "idle": theta.prod(),
    }
    weights = group_weights(constraints, BATCH)
    mean = sum(weights[group] * losses[group] for group in weights)
    lagrangian = sum(multipliers[group] * losses[group] for group in losses)
    (merged,) = torch.autograd.grad(mean, theta, retain_graph=True)
    (expected,) = torch.autograd.grad(lagrangian, theta)
    torch.testing.assert_close(total_multiplier(constraints, BATCH) * merged, expected)


def test_a_reading_of_three_groups_by_hand() -> None:
    """Fails when the violation is that of the means, 0.25 − 0.1625, not of the group that violates most."""
    whole, groups = measure_constraints(constraints_with(MULTIPLIERS), LOSSES, EPSILONS, BATCH)
    assert [tuple(reading) for reading in groups] == [
        ("idle", 1, 0.02, 0.0, 0.05, pytest.approx(-0.03)),
        ("open", 1, 0.1, 1.0, 0.05, pytest.approx(0.05)),
        ("push", 3, 0.3, 3.0, 0.2, pytest.approx(0.1)),
    ]
    assert tuple(whole) == pytest.approx((0.75 * 0.3 + 0.25 * 0.1, 4.0, 0.75 * 0.2 + 0.25 * 0.05, 0.1))


def test_a_single_constraint_is_read_as_it_is() -> None:
    whole, groups = measure_constraints(
        {EVERYTHING: Constraint(2.0)}, {EVERYTHING: 0.3}, {EVERYTHING: 0.5}, [EVERYTHING] * 4
    )
    assert tuple(whole) == pytest.approx((0.3, 2.0, 0.5, -0.2))
    assert groups == [GroupConstraintState(EVERYTHING, 4, 0.3, 2.0, 0.5, pytest.approx(-0.2))]


def test_reading_moves_nothing_and_observing_moves_what_was_in_the_batch() -> None:
    """λ ← λ + 0.1·violation per group, clipped at 0; fails when every group takes the violation of the worst."""
    constraints = constraints_with(MULTIPLIERS)
    _, groups = measure_constraints(constraints, LOSSES, EPSILONS, BATCH)
    assert constraints == constraints_with(MULTIPLIERS)
    step_multipliers(constraints, groups, ASCENT)
    moved = {group: constraint.multiplier for group, constraint in constraints.items()}
    assert moved == pytest.approx({"push": 3.01, "open": 1.005, "absent": 6.0, "idle": 0.0})
    assert constraints["absent"] == Constraint(6.0)
