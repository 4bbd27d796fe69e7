"""Surgery and multiplier together on min ½|x − a|² s.t. ½|x − b|² ≤ ε, whose answer is known.

λ* = |a − b|/√(2ε) − 1 and x* = (a + λ* b)/(1 + λ*).
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from craft_trainer.optim.dual import Constraint, Controller
from craft_trainer.optim.surgery import Weights, surgery_rule

A, B, EPSILON = np.array([3.0, 0.0]), np.array([0.0, 1.0]), 0.5  # B is the teacher
MULTIPLIER = float(np.linalg.norm(A - B) / math.sqrt(2 * EPSILON) - 1)  # λ* = 2.16…
SOLUTION = (A + MULTIPLIER * B) / (1 + MULTIPLIER)
STARTS = {"teacher": B, "task": A, "elsewhere": np.array([1.0, 2.0])}

ASCENT = Controller("ascent", 0.02, 10.0, 0.9, 100.0)
PI = ASCENT._replace(rule="pi")
PLAIN_PI = PI._replace(smoothing=0.0)
FIXED = ASCENT._replace(rule="fixed")


class Path(NamedTuple):
    """What a run leaves: where it ended, and λ, w_retain and the violation after every step."""

    x: np.ndarray
    multiplier: np.ndarray
    retain_weight: np.ndarray
    violation: np.ndarray


def descend(
    surgery: str,
    controller: Controller,
    start: str,
    *,
    learning_rate: float = 0.05,
    strength: float = 1.0,
    num_steps: int = 2000,
) -> Path:
    """Gradient descent on the surgery's merge of the two gradients, λ moving after every step."""
    x, constraint, trace = STARTS[start].copy(), Constraint(0.0), []
    for _ in range(num_steps):
        task, retain = x - A, x - B
        violation = 0.5 * float(retain @ retain) - EPSILON
        rows = np.stack([task, retain])
        rule = surgery_rule(surgery, excess=violation / EPSILON, strength=strength, maximum=100.0)
        merged = rule(torch.from_numpy(rows @ rows.T), Weights(1.0, constraint.multiplier), 0.0)
        x = x - learning_rate * (merged.task_weight * task + merged.retain_weight * retain)
        constraint.step(violation, controller)
        trace.append((constraint.multiplier, merged.retain_weight, violation))
    return Path(x, *np.array(trace).T)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("controller", [ASCENT, PI, PLAIN_PI], ids=["ascent", "pi", "pi without smoothing"])
def test_without_surgery_the_multiplier_finds_the_constrained_optimum(controller: Controller, start: str) -> None:
    """Fails when λ follows ε − L_retain."""
    path = descend("none", controller, start)
    assert path.multiplier[-1] == pytest.approx(MULTIPLIER, rel=1e-4)
    np.testing.assert_allclose(path.x, SOLUTION, rtol=1e-4)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_the_barrier_finds_the_constrained_optimum_and_implies_its_multiplier(start: str, strength: float) -> None:
    """No multiplier moves. Fails when a conflict inside ε is forbidden too: excess clipped to [0, 1]."""
    path = descend("barrier", FIXED, start, strength=strength, num_steps=3000)
    assert path.retain_weight[-1] == pytest.approx(MULTIPLIER, rel=1e-6)
    np.testing.assert_allclose(path.x, SOLUTION, rtol=1e-6)
    assert set(path.multiplier) == {0.0}


def test_the_barrier_never_leaves_the_budget_it_started_in() -> None:
    """Up to the curvature of one step."""
    path = descend("barrier", FIXED, "teacher", learning_rate=0.01, num_steps=5000)
    assert path.violation.max() < 1e-3 * EPSILON


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("controller", [ASCENT, PI], ids=["ascent", "pi"])
def test_one_sided_surgery_is_known_not_to_reach_it(controller: Controller, start: str) -> None:
    """At the optimum the gradients oppose each other, so it deletes the whole task gradient: λ decays to 0, x stalls.

    Fails for the rule none.
    """
    path = descend("one_sided", controller, start, num_steps=4000)
    assert path.multiplier[-1] == 0.0
    assert path.violation[-1] < -0.4 * EPSILON  # well inside the budget
    assert np.ptp(path.violation[-500:]) < 1e-12  # and not on its way
    assert 0.5 * np.sum((path.x - A) ** 2) > 1.1 * 0.5 * np.sum((SOLUTION - A) ** 2)  # the task loss it leaves lying


@pytest.mark.parametrize("start", ["teacher", "task"])
@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_pi_overshoots_less_than_ascent(start: str, smoothing: float) -> None:
    """At η = 0.1, where ascent overshoots λ* by a sixth (teacher) to a factor of two (task). κ = 0 fails."""
    ascent = descend("none", ASCENT._replace(learning_rate=0.1), start, learning_rate=0.02)
    pi = descend("none", PI._replace(learning_rate=0.1, smoothing=smoothing), start, learning_rate=0.02)
    for path in (ascent, pi):
        assert path.multiplier[-1] == pytest.approx(MULTIPLIER, rel=1e-4)
    assert ascent.multiplier.max() - MULTIPLIER > 0.15 * MULTIPLIER
    assert pi.multiplier.max() - MULTIPLIER < 0.5 * (ascent.multiplier.max() - MULTIPLIER)
