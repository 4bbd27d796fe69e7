"""The multiplier by hand, against the positional form of PI control, and at its two ends."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craft_trainer.optim.dual import RULES, Constraint, Controller

ALMOST_ONE = math.nextafter(1.0, 0.0)
ASCENT = Controller("ascent", 0.1, 10.0, 0.9, 10.0)
PI = ASCENT._replace(rule="pi")
FIXED = ASCENT._replace(rule="fixed")
VIOLATIONS = st.lists(st.floats(-5, 5), min_size=1, max_size=30)
GAINS = st.floats(0, 50)
SMOOTHINGS = st.floats(0, 0.99)


def follow(constraint: Constraint, violations: Sequence[float], controller: Controller) -> list[float]:
    """λ after every violation."""
    multipliers = []
    for violation in violations:
        constraint.step(violation, controller)
        multipliers.append(constraint.multiplier)
    return multipliers


def moving_average(violations: Sequence[float], smoothing: float) -> np.ndarray:
    """ξ as an explicit sum, ν^t·e_0 + (1 − ν)·Σ ν^(t−s)·e_s, s from 1 to t."""
    e, age = np.asarray(violations), np.subtract.outer(np.arange(len(violations)), np.arange(len(violations)))
    kernel = np.where(age >= 0, (1 - smoothing) * np.power(smoothing, np.maximum(age, 0), dtype=float), 0.0)
    kernel[:, 0] = np.power(smoothing, np.arange(len(e)), dtype=float)
    return kernel @ e


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
@pytest.mark.parametrize("rule", ["ascent", "pi"])  # whose first steps are the same
def test_the_first_step(rule: str, multiplier: float, violation: float, learning_rate: float, expected: float) -> None:
    """For pi it fails when ξ starts at 0 instead of e_0: η·(1 + κ·(1 − ν))·e_0."""
    constraint = Constraint(multiplier)
    constraint.step(violation, ASCENT._replace(rule=rule, learning_rate=learning_rate))
    assert constraint.multiplier == pytest.approx(expected)
    assert constraint.smoothed == pytest.approx(violation)


def test_three_steps_of_pi_by_hand() -> None:
    """η = 0.1, κ = 10, ν = 0.5; e = 1, 3, −1 gives ξ = 1, 2, 0.5 and steps of 0.1·(1 + 0, 3 + 10, −1 − 15)."""
    constraint = Constraint(1.0)
    assert follow(constraint, [1.0, 3.0, -1.0], PI._replace(smoothing=0.5)) == pytest.approx([1.1, 2.4, 0.8])
    assert constraint.smoothed == pytest.approx(0.5)


@given(VIOLATIONS, st.sampled_from([0.0, 0.3, 10.0]))
def test_a_fixed_multiplier_stays(violations: list[float], multiplier: float) -> None:
    assert set(follow(Constraint(multiplier), violations, FIXED)) == {multiplier}


@given(VIOLATIONS)
def test_ascent_is_the_sum_of_the_violations_while_nothing_clips(violations: list[float]) -> None:
    controller = ASCENT._replace(maximum=1e9)
    np.testing.assert_allclose(follow(Constraint(1e3), violations, controller), 1e3 + 0.1 * np.cumsum(violations))


@given(VIOLATIONS, GAINS, SMOOTHINGS)
def test_pi_is_the_positional_form_while_nothing_clips(violations: list[float], gain: float, smoothing: float) -> None:
    """λ_t = λ_0 + K_p·(ξ_t − e_0) + K_i·Σ e with K_i = η, K_p = η·κ.

    Fails when the P part takes ξ_t instead of its change, when e and ξ change places, and when η does not multiply κ.
    """
    controller = PI._replace(gain=gain, smoothing=smoothing, maximum=1e9)
    error = np.asarray(violations)
    expected = 1e4 + 0.1 * gain * (moving_average(error, smoothing) - error[0]) + 0.1 * np.cumsum(error)
    np.testing.assert_allclose(follow(Constraint(1e4), violations, controller), expected, rtol=1e-12)


@given(VIOLATIONS, GAINS, SMOOTHINGS, st.floats(0, 10))
def test_pi_is_the_projected_recursion_of_nupi(
    violations: list[float], gain: float, smoothing: float, start: float
) -> None:
    """The paper's Algorithm 1 with ξ_{−1} = e_0: θ ← clip(θ + κ_i·e + κ_p·(1 − ν)·(e − ξ), 0, λ_max).

    Fails when the I part and the P part are clipped each on its own.
    """
    theta, xi, expected = start, violations[0], []
    for error in violations:
        theta = min(10.0, max(0.0, theta + 0.1 * error + 0.1 * gain * (1 - smoothing) * (error - xi)))
        xi = smoothing * xi + (1 - smoothing) * error
        expected.append(theta)
    multipliers = follow(Constraint(start), violations, PI._replace(gain=gain, smoothing=smoothing))
    assert multipliers == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("gain", "smoothing"), [(0.0, 0.9), (10.0, ALMOST_ONE)])
@given(violations=VIOLATIONS)
def test_pi_without_its_proportional_part_is_ascent(gain: float, smoothing: float, violations: list[float]) -> None:
    controller = PI._replace(gain=gain, smoothing=smoothing)
    assert follow(Constraint(2.0), violations, controller) == pytest.approx(
        follow(Constraint(2.0), violations, ASCENT), abs=1e-9
    )


@given(VIOLATIONS, GAINS, SMOOTHINGS, st.floats(0, 10), st.sampled_from(["ascent", "pi"]))
def test_the_multiplier_stays_feasible(
    violations: list[float], gain: float, smoothing: float, start: float, rule: str
) -> None:
    controller = Controller(rule, 100.0, gain, smoothing, 10.0)
    assert all(0 <= multiplier <= 10 for multiplier in follow(Constraint(start), violations, controller))


@pytest.mark.parametrize("controller", [ASCENT, PI], ids=lambda controller: controller.rule)
@pytest.mark.parametrize(("saturating", "end"), [(1.0, 10.0), (-1.0, 0.0)])
def test_no_wind_up_at_either_end(controller: Controller, saturating: float, end: float) -> None:
    """After 1000 passes at its end λ leaves it on the first step the other way, by just that step.

    Fails when the sum of the violations is kept unclipped and λ is its clipped reading.
    """
    constraint = Constraint(5.0)
    follow(constraint, [saturating] * 1000, controller)
    assert constraint.multiplier == end
    constraint.step(-0.5 * saturating, controller)
    change = -0.5 * saturating - saturating  # of e; that of ξ is a tenth
    step = -0.05 * saturating + (0.1 * 10 * 0.1 * change if controller.rule == "pi" else 0.0)
    assert constraint.multiplier == pytest.approx(end + step)


def test_pi_leaves_the_ceiling_while_the_violation_still_falls() -> None:
    """Where ascent must wait for e < 0: 0.1·(0.5 + 10·(−0.5)) < 0."""
    constraint, integral = Constraint(10.0), Constraint(10.0)
    follow(constraint, [1.0] * 50, PI._replace(smoothing=0.0))
    follow(integral, [1.0] * 50, ASCENT)
    constraint.step(0.5, PI._replace(smoothing=0.0))
    integral.step(0.5, ASCENT)
    assert (constraint.multiplier, integral.multiplier) == (pytest.approx(9.55), 10.0)


def test_passes_at_the_ceiling_are_counted_in_a_row() -> None:
    """Fails when the count is not reset, when satisfied passes count, and when it starts a pass early or late."""
    constraint, counts = Constraint(9.85), []
    for violation in [1.0, 1.0, 1.0, math.nan, 1.0, 0.0, 1.0, -0.1, 0.5, 3.0]:
        constraint.step(violation, ASCENT)
        counts.append(constraint.passes_at_ceiling)
    # 9.95; 10, 10; unknown; 10; at the ceiling but satisfied; 10; 9.99; 10 again, twice
    assert counts == [0, 1, 2, 2, 3, 0, 1, 0, 1, 2]


def test_passes_that_violate_are_counted_in_a_row_wherever_lambda_is() -> None:
    constraint, counts = Constraint(1.0), []
    for violation in [1.0, 0.5, math.nan, 0.1, 0.0, 2.0, -0.1]:
        constraint.step(violation, ASCENT)
        counts.append(constraint.passes_violated)
    assert counts == [1, 2, 2, 3, 0, 1, 0]


@pytest.mark.parametrize("violation", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_violation_that_is_not_finite_changes_nothing(rule: str, violation: float) -> None:
    """Fails when it reaches ξ, which then stays NaN, or λ, which then jumps to an end."""
    constraint = Constraint(0.7, smoothed=0.2, passes_at_ceiling=3, drift=0.4)
    before = asdict(constraint)
    constraint.step(violation, ASCENT._replace(rule=rule))
    assert asdict(constraint) == before


def test_a_first_violation_that_is_not_finite_leaves_the_start_to_the_second() -> None:
    constraint = Constraint(1.0)
    assert follow(constraint, [math.inf, 2.0], PI) == pytest.approx([1.0, 1.2])
    assert constraint.smoothed == 2.0


@given(VIOLATIONS, VIOLATIONS, st.sampled_from(sorted(RULES)))
def test_resumed_equals_uninterrupted(before: list[float], after: list[float], rule: str) -> None:
    """Bit for bit from the fields alone; fails when ξ is not among them."""
    controller = ASCENT._replace(rule=rule)
    whole, first = Constraint(3.0), Constraint(3.0)
    follow(whole, before + after, controller)
    follow(first, before, controller)
    second = Constraint(**asdict(first))
    follow(second, after, controller)
    assert second == whole
