"""Where L_retain is rounding error, the two gradients are added by their weights and nothing is projected."""

import pytest
import torch

from craft_trainer.optim.constraints import ConstraintState
from craft_trainer.optim.surgery import Surgery
from craft_trainer.training.retention import RetentionPass
from craft_trainer.training.settings import RetentionSettings
from craft_trainer.training.step import block_rule

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
