"""The paths of ε, by closed forms."""

import math

import numpy as np
import pytest

from craft_trainer.optim.epsilon import SCHEDULES, epsilon_at

MOVING = ["linear", "cosine", "exponential"]


@pytest.mark.parametrize("schedule", MOVING)
@pytest.mark.parametrize(("start", "end"), [(0.2, 0.05), (0.05, 0.2)])
def test_a_moving_epsilon_goes_from_start_to_end_and_never_back(schedule: str, start: float, end: float) -> None:
    """Fails when progress is step / (last + 1), which never reaches the end, and when start and end change places."""
    path = [epsilon_at(step, 0, 40, schedule=schedule, start=start, end=end) for step in range(41)]
    assert path[0] == pytest.approx(start)
    assert path[-1] == pytest.approx(end)
    assert (np.diff(path) * (end - start) > 0).all()
    assert min(start, end) <= min(path) + 1e-15
    assert max(path) <= max(start, end) + 1e-15


@pytest.mark.parametrize(
    ("schedule", "quarter", "middle"),
    [
        ("linear", 0.2 + (0.8 - 0.2) / 4, (0.2 + 0.8) / 2),
        ("cosine", 0.2 + (0.8 - 0.2) * math.sin(math.pi / 8) ** 2, (0.2 + 0.8) / 2),
        ("exponential", (0.2**3 * 0.8) ** 0.25, math.sqrt(0.2 * 0.8)),  # geometric means
        ("constant", 0.2, 0.2),
    ],
)
def test_closed_forms_at_a_quarter_and_in_the_middle(schedule: str, quarter: float, middle: float) -> None:
    """Fails when the cosine runs through a whole period, and when exponential moves at constant speed."""
    assert epsilon_at(10, 0, 40, schedule=schedule, start=0.2, end=0.8) == pytest.approx(quarter)
    assert epsilon_at(20, 0, 40, schedule=schedule, start=0.2, end=0.8) == pytest.approx(middle)


@pytest.mark.parametrize("schedule", MOVING)
def test_the_end_is_kept_after_the_last_step(schedule: str) -> None:
    """Fails when progress is not limited to 1: the cosine comes back."""
    for step in (10, 11, 1000):
        assert epsilon_at(step, 0, 10, schedule=schedule, start=0.2, end=0.8) == pytest.approx(0.8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_of_one_step_has_the_epsilon_of_its_start(schedule: str) -> None:
    """Fails with a division by zero when last − first is not kept above 0."""
    assert epsilon_at(0, 0, 0, schedule=schedule, start=0.2, end=0.8) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", MOVING)
def test_before_its_first_step_a_moving_epsilon_has_its_start(schedule: str) -> None:
    """Fails when progress is not limited to 0: the cosine would begin before its peak."""
    path = [epsilon_at(step, 4, 12, schedule=schedule, start=0.2, end=0.8) for step in (0, 3, 4, 8, 12)]
    assert path[:3] == pytest.approx([0.2] * 3)
    assert path[3] == pytest.approx(0.4 if schedule == "exponential" else 0.5)
    assert path[4] == pytest.approx(0.8)


def test_a_constant_epsilon_ignores_its_end() -> None:
    assert {epsilon_at(step, 0, 4, schedule="constant", start=0.2, end=0.8) for step in range(9)} == {0.2}
