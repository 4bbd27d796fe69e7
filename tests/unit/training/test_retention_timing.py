"""When a retention pass is made, from what ε is measured, and when it is said that a constraint cannot be met."""

import logging
import math
from pathlib import Path

import pytest
from one_number import GROUPS, PER_GROUP, Run, loss_of, mean_losses

from craft_trainer.optim.constraints import EVERYTHING
from craft_trainer.training.retention import PASSES_AT_CEILING, PASSES_VIOLATED


def test_a_pass_is_due_at_every_kth_step(tmp_path: Path) -> None:
    assert Run(tmp_path).passes(4) == [0, 1, 2, 3]
    assert Run(tmp_path, retention_every=3).passes(8) == [0, 3, 6]


# the probe that measures ε


def test_epsilon_is_a_fraction_of_the_largest_drift_of_the_probe(tmp_path: Path) -> None:
    """While it lasts nothing is learnt. Seen to fail with the last drift in place of the largest."""
    run = Run(tmp_path, epsilon=0.2, epsilon_probe_steps=4)
    for step, theta in enumerate([1.0, 1.3, 1.5, 1.1]):
        run.set_theta(theta)
        retention_pass = run.forward(step)
        assert retention_pass.probing
        run.retention.step(run.state, retention_pass, finite=True)
        assert run.state.constraints[EVERYTHING].multiplier == 1.0
        assert run.state.constraints[EVERYTHING].smoothed is None
    drift = sum(map(loss_of, range(10))) / 10
    assert run.state.constraints[EVERYTHING].drift == pytest.approx(drift)
    run.set_theta(9.0)
    retention_pass = run.forward(4)
    assert not retention_pass.probing
    assert retention_pass.constraint.epsilon == pytest.approx(0.2 * drift)
    run.retention.step(run.state, retention_pass, finite=True)
    assert run.state.constraints[EVERYTHING].drift == pytest.approx(drift)
    assert run.state.constraints[EVERYTHING].multiplier > 1.0


def test_every_group_has_its_own_drift_and_fraction(tmp_path: Path) -> None:
    run = Run(tmp_path, **PER_GROUP, epsilon=0.2, epsilon_probe_steps=2, epsilon_per_group={"door": 0.5})
    run.passes(2)
    losses = mean_losses(range(10), GROUPS)
    epsilons = {constraint.group: constraint.epsilon for constraint in run.forward(2).group_states}
    assert epsilons == pytest.approx(
        {"door": 0.5 * losses["door"], "drawer": 0.2 * losses["drawer"], "push": 0.2 * losses["push"]}
    )


def test_a_probe_that_shows_no_drift_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path, theta=1.0, epsilon_probe_steps=2)
    assert run.passes(2) == [0, 1]
    with pytest.raises(ValueError, match="probe of 2 steps showed no drift of all anchors: raise epsilon_probe_steps"):
        run.forward(2)


def test_a_group_that_the_probe_never_saw_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = Run(tmp_path, **PER_GROUP, retention_batch_size=1, epsilon_probe_steps=2)
    run.passes(2)
    unseen = {"door", "drawer", "push"} - {GROUPS[row] for rows in run.anchors.asked for row in rows}
    with pytest.raises(ValueError, match=rf"showed no drift of ({'|'.join(unseen)}): "):
        run.forward(2)


@pytest.mark.parametrize("theta", [math.nan, math.inf, 1e30])
def test_a_probe_does_not_believe_losses_that_are_not_finite(tmp_path: Path, theta: float) -> None:
    """Such as fp16 makes them when it overflows: ε would be infinite, and nothing held."""
    run = Run(tmp_path, epsilon_probe_steps=2)
    run.advance(0)
    drift = run.state.constraints[EVERYTHING].drift
    run.set_theta(theta)
    run.advance(1, finite=False)
    assert run.state.constraints[EVERYTHING].drift == drift


# a constraint that cannot be met


def test_a_constraint_that_cannot_be_met_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the group that is worst off and what to change. Seen to fail when it was told in every pass."""
    run = Run(tmp_path, **PER_GROUP, multiplier_max=2.0, epsilon_per_group={"door": 100.0})
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        run.passes(PASSES_AT_CEILING - 1)
        assert not run.state.warned
        assert caplog.messages == []
        for step in range(PASSES_AT_CEILING, PASSES_AT_CEILING + 20):
            run.advance(step)
    (message,) = caplog.messages
    assert run.state.warned
    assert message.startswith("push: λ has been at its ceiling (multiplier_max = 2) for 100 retention passes")
    assert f"L_retain = {loss_of(9):.3g} is still above ε = 0.1" in message
    assert all(knob in message for knob in ("raise epsilon or multiplier_max", "learning_rate", "retention_terms"))


def test_a_short_run_is_told_after_half_of_its_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seen to fail: of a run of 90 passes, 81 were at the ceiling and above ε, and nothing was said."""
    run = Run(tmp_path, multiplier_max=2.0, retention_every=2)
    run.state.max_steps = 180
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        run.passes(180)
    (message,) = caplog.messages
    assert "at its ceiling (multiplier_max = 2) for 45 retention passes" in message


def test_a_violation_that_lasts_is_told_wherever_lambda_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of terms that hold the teacher's answers with a likely cause: the anchors' inputs are those that are learned."""
    run = Run(tmp_path, multiplier_lr=1e-6)
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        run.passes(PASSES_VIOLATED - 1)
        assert caplog.messages == []
        for step in range(PASSES_VIOLATED, PASSES_VIOLATED + 20):
            run.advance(step)
    (message,) = caplog.messages
    assert message.startswith("all anchors: λ has risen to 1 over 500 retention passes in a row and L_retain = ")
    assert "raise epsilon or multiplier_lr" in message
    assert "Are the anchors' inputs among the data that is learned?" in message
    assert "retention_terms: [hidden]" in message


def test_a_violation_that_ends_is_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, multiplier_lr=1e-6)
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        for theta in (1.5, 1.0, 1.5):
            run.set_theta(theta)
            run.passes(PASSES_VIOLATED - 100 if theta > 1 else 1)
    assert caplog.messages == []


def test_a_resumed_run_does_not_tell_it_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, multiplier_max=1.0)
    run.state.constraints[EVERYTHING].passes_at_ceiling = PASSES_AT_CEILING
    run.state.warned = True
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        run.advance(0)
    assert caplog.messages == []


def test_a_ceiling_at_which_the_constraint_is_met_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, theta=1.001, multiplier_max=1.0, multiplier_lr=1e-9)
    with caplog.at_level(logging.WARNING, logger="craft_trainer.training.retention"):
        run.passes(PASSES_AT_CEILING + 10)
    assert caplog.messages == []
    assert run.state.constraints[EVERYTHING].multiplier == pytest.approx(1.0)
