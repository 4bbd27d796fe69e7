"""Where L_retain is rounding error, the two gradients are added by their weights and nothing is projected."""

import pytest
import torch

from craft_trainer.optim.constraints import ConstraintState
from craft_trainer.optim.surgery import Surgery
from craft_trainer.training.retention import RetentionPass
from craft_trainer.training.settings import RetentionSettings
from craft_trainer.training.step import block_rule, joint_step

CONFLICTING = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])


@pytest.mark.parametrize(
    ("surgery", "weight"), [("none", 5.0), ("one_sided", 5.0), ("symmetric", 5.0), ("barrier", 0.0)]
)
def test_rounding_error_is_no_conflict_whatever_the_rule(surgery: str, weight: float) -> None:
    """λ weights g_r as ever; the barrier has no λ, and nothing to push against. Seen to fail with λ for the barrier."""
    constraint = ConstraintState(1e-14, 5.0, 0.1, 1e-14 - 0.1)
    done = RetentionPass(torch.tensor(1e-14), 1.0, constraint, [], probing=False, rounding=True)
    rule = block_rule(RetentionSettings(surgery=surgery), done)
    assert rule(CONFLICTING) == Surgery(1.0, weight, cosine=0.0, conflict=False)


def test_the_barrier_pushes_back_beyond_epsilon_even_where_that_is_rounding() -> None:
    """Seen to fail in bfloat16: L_retain rose to four times that of the start, and its weight was 0."""
    constraint = ConstraintState(0.02, 5.0, 0.01, 0.01)
    done = RetentionPass(torch.tensor(0.02), 1.0, constraint, [], probing=False, rounding=True)
    assert block_rule(RetentionSettings(surgery="barrier"), done)(CONFLICTING).retain_weight > 0


def test_a_pass_of_the_probe_has_weight_zero_in_the_history() -> None:
    """Seen to fail: it was `multiplier_init`."""
    constraint = ConstraintState(0.02, 7.0, 0.01, 0.01)
    probed, held = (
        joint_step(RetentionPass(torch.tensor(0.02), 1.0, constraint, [], probing=probing, rounding=False), step=1)
        for probing in (True, False)
    )
    assert (probed.multiplier, held.multiplier) == (0.0, 7.0)
