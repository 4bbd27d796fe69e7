"""The warning that λ can hardly move: for which runs it comes, and that what it says is enough."""

import re
from contextlib import nullcontext

import pytest
from one_number import Run
from transformers import TrainerState

from craft_trainer.training.settings import RetentionSettings
from craft_trainer.training.short_run import ADVISED, FORGOTTEN, ShortRun, warning


def risen(settings, passes):
    """How far λ rises by the controller's own steps while L_retain is FORGOTTEN times ε."""
    from craft_trainer.optim.dual import Constraint

    constraint = Constraint(settings.multiplier_init)
    for _ in range(passes):
        constraint.step((FORGOTTEN - 1) * settings.epsilon, settings.controller)
    return constraint.multiplier - settings.multiplier_init


@pytest.mark.parametrize("passes", [1, 3, 20, 100, 249])
def test_a_short_run_is_told_a_rate_that_is_enough(passes):
    said = warning(RetentionSettings(), passes)
    assert said is not None
    rate = float(re.search(r"Set multiplier_lr: ([\d.e+]+)", said)[1])
    assert f"rises by {risen(RetentionSettings(), passes):.2g} in all" in said
    assert ADVISED - 1e-9 <= risen(RetentionSettings(multiplier_lr=rate), passes) <= 2.001 * ADVISED
    assert warning(RetentionSettings(multiplier_lr=rate * (1 + 1e-9)), passes) is None


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 251),
        ({"multiplier_lr": 1.0}, 26),
        ({"epsilon": 0.05}, 51),
        ({"multiplier": "fixed"}, 1),
        ({"merge": "equal"}, 1),
        ({"method": "replay"}, 1),
        ({"epsilon_probe_steps": 5}, 20),
    ],
)
def test_no_other_run_is_warned(settings, passes):
    assert warning(RetentionSettings(**settings), passes) is None


@pytest.mark.parametrize(
    ("every", "steps", "is_refused"), [(12, 12, True), (13, 12, True), (11, 12, False), (1, 1, False)]
)
def test_a_run_whose_only_pass_comes_before_its_first_step_is_refused(tmp_path, every, steps, is_refused):
    """Seen to fail: the run was plain training."""
    args = Run(tmp_path, retention_every=every).args
    with (
        pytest.raises(ValueError, match=f"retention_every is {every}, and the run has {steps} ")
        if is_refused
        else nullcontext()
    ):
        ShortRun().on_train_begin(args, TrainerState(max_steps=steps), None)


def test_a_run_without_steps_is_refused_as_such(tmp_path):
    """Seen to fail: it was said to give fewer of epsilon_probe_steps, which were 0."""
    with pytest.raises(ValueError, match="the run has no steps: raise max_steps"):
        ShortRun().on_train_begin(Run(tmp_path).args, TrainerState(max_steps=0), None)


def test_steps_without_a_pass_do_not_count_and_a_resumed_run_is_not_warned(tmp_path, caplog):
    args = Run(tmp_path, retention_every=50, multiplier_lr=0.1, epsilon=0.01).args
    state = TrainerState(max_steps=1000)
    ShortRun().on_train_begin(args, state, None)
    assert "in 20 retention passes" in caplog.text
    caplog.clear()
    ShortRun().on_train_begin(args, TrainerState(max_steps=1000, global_step=3), None)
    assert not caplog.text
