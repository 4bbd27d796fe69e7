"""Replay as a constraint: by how much the task loss on an anchor's own labels has risen."""

import pytest
import torch

from craft_trainer.anchors.features import TASK_SCALE, Features
from craft_trainer.anchors.statistics import task_scale
from craft_trainer.losses.task import Task

SCALES = {"output": torch.tensor(4.0), "token": torch.tensor(0.5)}


def test_it_is_the_increase_of_the_loss_in_its_unit() -> None:
    """By hand; below 0 where the student does better than its teacher."""
    student, teacher = (Features({}, None, task=torch.tensor(values)) for values in ([3.0, 1.0, 0.0], [1.0, 1.0, 1.0]))
    assert Task()(student, teacher, {TASK_SCALE: torch.tensor(4.0)}).tolist() == [0.5, 0.0, -0.25]


@pytest.mark.parametrize(("unit", "scale"), [("variance", 4.0), ("standard deviation", 2.0), ("mean entropy", 0.5)])
def test_its_unit_is_that_of_the_terms_beside_it(unit: str, scale: float) -> None:
    """A squared error is measured in variances, an absolute one in standard deviations, nats in the mean entropy."""
    assert task_scale(unit, SCALES).item() == scale
