"""ε over the passes of a run: exact values at its first and last pass, after a probe, and after a resume."""

import logging
from pathlib import Path

import pytest
from one_number import Run
from transformers import TrainerControl, TrainerState

from craft_trainer.training.callbacks import DualState
from craft_trainer.training.schedule import scheduled_epsilon
from craft_trainer.training.settings import RetentionSettings
from craft_trainer.training.short_run import ShortRun

FALLING = {"epsilon_schedule": "linear", "epsilon": 0.9, "epsilon_final": 0.1}


def path(num_steps: int, **settings: int) -> list[float]:
    """ε of every retention pass of a run of ``num_steps``."""
    given = RetentionSettings(**FALLING, **settings)
    return [scheduled_epsilon(given, step, num_steps) for step in range(0, num_steps, given.retention_every)]


@pytest.mark.parametrize("num_steps", [11, 12, 13, 14, 15])
def test_the_last_pass_has_the_epsilon_of_the_end(num_steps: int) -> None:
    """With a pass at every fifth step. Seen to fail: 0.173 at the last of 12 steps."""
    assert path(num_steps, retention_every=5) == pytest.approx([0.9, 0.5, 0.1])


def test_after_a_probe_the_schedule_is_run_through_whole() -> None:
    """Seen to fail: it began with the probe's steps, so the first pass that held had 0.5."""
    assert path(9, epsilon_probe_steps=4) == pytest.approx([0.9] * 5 + [0.7, 0.5, 0.3, 0.1])
    assert path(20, epsilon_probe_steps=4, retention_every=3) == pytest.approx([0.9, 0.9, 0.9, 0.7, 0.5, 0.3, 0.1])


def test_a_run_of_one_pass_has_the_epsilon_of_its_start() -> None:
    assert path(3, retention_every=5) == [0.9]


def test_a_pass_has_the_epsilon_of_the_schedule(tmp_path: Path) -> None:
    """Of 100 steps; of the probe's drift after it. Seen to fail: 0.1 + 0.8/99 at the last pass."""
    run = Run(tmp_path, **FALLING, retention_every=2)
    assert [run.forward(step).constraint.epsilon for step in (0, 98)] == pytest.approx([0.9, 0.1])
    run = Run(tmp_path, **FALLING, epsilon_probe_steps=50)
    run.forward(0)
    (constraint,) = run.state.constraints.values()
    found = [run.forward(step).constraint.epsilon / constraint.drift for step in (50, 99)]
    assert found == pytest.approx([0.9, 0.1])


def test_a_probe_after_which_no_pass_comes_is_refused(tmp_path: Path) -> None:
    """Passes at steps 0 and 5 of 8 are both the probe's. Seen to fail: the run was plain training."""
    args = Run(tmp_path, retention_every=5, epsilon_probe_steps=6).args
    with pytest.raises(ValueError, match="is 6, and the run has 8 steps with retention_every 5: nothing would be held"):
        ShortRun().on_train_begin(args, TrainerState(max_steps=8), TrainerControl())
    ShortRun().on_train_begin(args, TrainerState(max_steps=11), TrainerControl())


def resumed(run: Run, step: int, before: int, now: int) -> None:
    """Begin a run of ``before`` steps, and go on from its checkpoint as one of ``now``."""
    state = TrainerState(max_steps=before, stateful_callbacks={})
    DualState().on_train_begin(run.args, state, TrainerControl())
    state.global_step, state.max_steps = step, now
    DualState().on_train_begin(run.args, state, TrainerControl())


def test_a_jump_of_epsilon_at_a_resume_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seen to fail: ε went from 0.1 back to 0.3 without a word."""
    caplog.set_level(logging.WARNING)
    resumed(Run(tmp_path, **FALLING), 6, 6, 9)
    said = "ε jumps from 0.1 to 0.3 at step 7: epsilon_schedule linear ends with the last retention pass"
    assert said in caplog.text
    assert "set epsilon_schedule: constant and epsilon: 0.1" in caplog.text


def test_where_retention_sets_epsilon_it_must_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seen to fail: the advice was refused, because epsilon and retention exclude each other."""
    caplog.set_level(logging.WARNING)
    resumed(Run(tmp_path, retention=0.9, epsilon=0.9, epsilon_schedule="linear"), 6, 6, 9)
    assert "set epsilon_schedule: constant and epsilon: 0.1 in place of retention" in caplog.text


def test_where_epsilon_goes_on_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    resumed(Run(tmp_path, **FALLING), 4, 6, 6)
    resumed(Run(tmp_path, epsilon=0.5), 6, 6, 9)
    assert not caplog.text
