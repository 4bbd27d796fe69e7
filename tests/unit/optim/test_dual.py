"""Projected ascent on λ, by hand and to the known multiplier of a small problem; the paths of ε."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.optim.dual import SCHEDULES, ascend, epsilon_at

MOVING = ["linear", "cosine", "exponential"]


@pytest.mark.parametrize(
    ("multiplier", "violation", "learning_rate", "expected"),
    [
        (1.0, 0.5, 0.1, 1.05),
        (1.0, -0.5, 0.1, 0.95),
        (0.01, -1.0, 0.1, 0.0),  # projected on λ ≥ 0
        (9.99, 1.0, 0.1, 10.0),  # and on λ ≤ λ_max
        (1.0, 3.0, 0.0, 1.0),
        (0.0, 0.0, 0.1, 0.0),
        (1.0, 1e300, 0.1, 10.0),
        (1.0, -1e300, 0.1, 0.0),
    ],
)
def test_one_step(multiplier: float, violation: float, learning_rate: float, expected: float) -> None:
    assert ascend(multiplier, violation, learning_rate=learning_rate, maximum=10.0) == pytest.approx(expected)


@pytest.mark.parametrize("violation", [math.nan, math.inf, -math.inf])
def test_a_violation_that_is_not_finite_leaves_the_multiplier(violation: float) -> None:
    assert ascend(0.7, violation, learning_rate=0.1, maximum=10.0) == 0.7


@given(st.floats(0, 10), st.floats(-1e6, 1e6), st.floats(0, 100))
def test_the_multiplier_stays_feasible(multiplier: float, violation: float, learning_rate: float) -> None:
    assert 0 <= ascend(multiplier, violation, learning_rate=learning_rate, maximum=10.0) <= 10


def test_ascent_with_gradient_descent_finds_the_multiplier_of_a_toy_problem() -> None:
    """min ½|x − a|² s.t. ½|x − b|² ≤ ε has λ* = |a − b|/√(2ε) − 1 and x* = (a + λ* b)/(1 + λ*)."""
    a, b, epsilon = np.array([3.0, 0.0]), np.array([0.0, 1.0]), 0.5
    x, multiplier = a.copy(), 0.0
    for _ in range(4000):
        x = x - 0.05 * ((x - a) + multiplier * (x - b))
        multiplier = ascend(multiplier, 0.5 * ((x - b) @ (x - b)) - epsilon, learning_rate=0.02, maximum=100.0)
    expected = np.linalg.norm(a - b) / math.sqrt(2 * epsilon) - 1
    assert multiplier == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(x, (a + expected * b) / (1 + expected), rtol=1e-6)


@pytest.mark.parametrize("schedule", MOVING)
@pytest.mark.parametrize(("start", "end"), [(0.2, 0.05), (0.05, 0.2)])
def test_a_moving_epsilon_goes_from_start_to_end_and_never_back(schedule: str, start: float, end: float) -> None:
    path = [epsilon_at(step, 41, schedule=schedule, start=start, end=end) for step in range(41)]
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
    assert epsilon_at(10, 41, schedule=schedule, start=0.2, end=0.8) == pytest.approx(quarter)
    assert epsilon_at(20, 41, schedule=schedule, start=0.2, end=0.8) == pytest.approx(middle)


@pytest.mark.parametrize("schedule", MOVING)
def test_the_end_is_kept_after_the_last_step(schedule: str) -> None:
    for step in (10, 11, 1000):
        assert epsilon_at(step, 11, schedule=schedule, start=0.2, end=0.8) == pytest.approx(0.8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_of_one_step_has_the_epsilon_of_its_start(schedule: str) -> None:
    assert epsilon_at(0, 1, schedule=schedule, start=0.2, end=0.8) == pytest.approx(0.2)


def test_a_constant_epsilon_ignores_its_end() -> None:
    assert {epsilon_at(step, 5, schedule="constant", start=0.2, end=0.8) for step in range(9)} == {0.2}
