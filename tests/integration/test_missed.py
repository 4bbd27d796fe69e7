"""A script's training ends with one warning if L_retain ended above ε, as the command ends with a verdict."""

import logging

import pytest
from command_words import flags
from lm_folders import save_lines, save_tiny_lm
from runs import BASE, run
from toy import ToyModel, ToyTask, toy_anchors

from craft_trainer.cli.main import main
from craft_trainer.hub.facts import RunFacts
from craft_trainer.language import auto
from craft_trainer.report.outcome import outcome
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.trainer import CraftTrainer

FAST = {"max_steps": 20, "learning_rate": 0.05, "retention_terms": ["hidden"]}  # L_retain leaves a small ε at once
SHORT = "λ can hardly follow"


def end_of(folder, caplog, *, anchors=True, begin=None, **settings):
    """Train, and return what is said of the constraint when it ends."""
    held = toy_anchors(folder / "anchors") if anchors else None
    given = FAST | {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"} | settings
    config = CraftConfig(output_dir=str(folder / "run"), **given)
    trainer = CraftTrainer(ToyModel(), config, anchors=held, train_dataset=ToyTask())
    (begin or (lambda _: None))(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    return [record.message for record in caplog.records if "constraint" in record.message]


def test_a_missed_constraint_is_told_once_with_the_way_out(tmp_path, caplog):
    """Seen to fail: a script was told nothing."""
    (told,) = end_of(tmp_path, caplog, epsilon=1e-4, multiplier_lr=200.0)
    assert SHORT not in caplog.text
    assert told.startswith("the constraint was NOT met: L_retain ")
    assert "ε 0.01 %" in told
    assert "to meet it: train longer, raise multiplier_lr" in told
    assert "larger epsilon" in told


def test_what_the_start_said_is_not_said_again(tmp_path, caplog):
    (told,) = end_of(tmp_path, caplog, epsilon=1e-4, multiplier_lr=0.1)
    assert caplog.text.count("multiplier_lr: ") == 1
    assert "NOT met" in told
    assert "train longer" not in told
    assert told.endswith("an earlier warning says what to change")


@pytest.mark.parametrize(
    ("settings", "anchors"),
    [
        ({"epsilon": 0.9}, True),
        ({"method": "replay", "epsilon": 1e-4}, True),
        ({"method": "weighted_sum", "epsilon": 1e-4, "multiplier_init": 0.1}, True),
        ({}, False),
    ],
    ids=["met", "replay", "weighted_sum", "plain"],
)
def test_nothing_else_is_told(tmp_path, caplog, settings, anchors):
    """A baseline has no ε. Seen to fail with baselines told to raise a multiplier_lr that they do not have."""
    assert not end_of(tmp_path, caplog, anchors=anchors, **settings)


def test_an_interrupted_run_is_told_nothing(tmp_path, caplog):
    def interrupt(trainer):
        after = trainer.training_step

        def step(*given):
            if trainer.state.global_step == 10:
                raise KeyboardInterrupt
            return after(*given)

        trainer.training_step = step

    with pytest.raises(KeyboardInterrupt):
        end_of(tmp_path, caplog, epsilon=1e-4, begin=interrupt)
    assert "constraint" not in caplog.text


def test_the_stuck_constraint_is_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("craft_trainer.training.retention.PASSES_VIOLATED", 5)
    told = end_of(tmp_path, caplog, epsilon=1e-4, multiplier_lr=200.0)
    assert len(told) == 2
    assert "cannot be met like this" in told[0]
    assert told[1].endswith("an earlier warning says what to change")


def test_the_command_says_it_once(tmp_path, caplog, capsys, monkeypatch):
    """Seen to fail with the warning above the verdict."""
    monkeypatch.setattr(auto, "NUM_TEXTS", 6)
    save_tiny_lm(tmp_path / "model")
    save_lines(tmp_path / "new.jsonl", [{"text": f"the puck {n} is left of the goal"} for n in range(16)])
    given = {"model": tmp_path / "model", "dataset": tmp_path / "new.jsonl", "output_dir": tmp_path / "run"}
    given |= {"anchors": "auto", "epsilon": 1e-6, "max_steps": 5, "learning_rate": 0.01, "use_cpu": True}
    assert main(["train", *flags(**given, report_to="none", save_strategy="no")]) == 0
    assert capsys.readouterr().out.count("the constraint was NOT met") == 1
    assert "the constraint was NOT met" not in caplog.text


def test_the_verdict_is_on_the_weights_that_are_kept(tmp_path, caplog):
    """And the card is of them. Seen to fail: the best of 40 steps was kept, that of step 32, and verdict and card were
    on the last, which met ε."""
    saves = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    given = {"load_best_model_at_end": True, "epsilon": 0.2, "multiplier_init": 0.0, "multiplier_lr": 20.0}
    config = CraftConfig(
        output_dir=str(tmp_path / "run"), **BASE | saves | given | {"max_steps": 40, "lr_scheduler_type": "constant"}
    )
    anchors = toy_anchors(tmp_path / "anchors")
    trainer = CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask(), eval_dataset=ToyTask())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    kept = trainer.state.best_global_step
    assert kept < 40
    (told,) = [record.message for record in caplog.records if "constraint" in record.message]
    assert told.startswith(f"the constraint was NOT met at step {kept}, whose weights are kept: L_retain ")
    assert outcome(tmp_path / "run")[0] in told
    trainer.save_model()
    for folder, step in (tmp_path / "run", kept), (tmp_path / "run/checkpoint-40", 40):
        assert RunFacts.read(folder).step == step
        assert f"At step {step}. L_retain" in (folder / "README.md").read_text()


def test_a_probe_of_the_whole_run_is_refused(tmp_path):
    """Seen to fail: it was plain training."""
    with pytest.raises(ValueError, match="epsilon_probe_steps is 6, and the run has 6 steps: nothing would be held"):
        run(tmp_path / "run", toy_anchors(tmp_path / "anchors"), epsilon_probe_steps=6)


def test_a_probe_of_every_group_ends_with_a_verdict(tmp_path, caplog):
    """There is no ε while it is probed. Seen to fail: a finished training ended in a ZeroDivisionError."""
    found = end_of(tmp_path, caplog, constraints="per_group", epsilon_probe_steps=4, epsilon=0.5)
    assert len(found) <= 1
