"""A log is one short line in a terminal, with what matters of retention; loggers get every number."""

from craft_trainer.training.console import Bar, Lines, line, write_short_lines

LOGS = {"loss": 1.584, "grad_norm": 17.3, "learning_rate": 1e-3, "epoch": 0.1}
RETAINED = {"retention/loss": 0.02, "retention/lambda": 0.5, "retention/epsilon": 0.01, "retention/violation": 0.01}
GROUPS = {
    "retention/loss/push the puck": 0.003,
    "retention/epsilon/push the puck": 0.01,
    "retention/loss/open the door": 0.04,
    "retention/epsilon/open the door": 0.01,
}


def test_a_line_has_the_loss_and_what_retention_did():
    told = line(LOGS | RETAINED | {"retention/conflict": 0.125, "retention/cosine": -0.2}, 20, 300)
    assert told == "step 20/300  loss 1.584  L_retain/ε 2  λ 0.5  conflicts 12 %  |g| 17.3  lr 0.001"
    assert line(LOGS, 20, 300) == "step 20/300  loss 1.584  |g| 17.3  lr 0.001"


def test_with_a_constraint_per_group_the_line_says_whose_it_is():
    """retention/violation is the worst group's, retention/loss the mean: a reader cannot tell. λ is the sum."""
    told = line(LOGS | RETAINED | GROUPS, 20, 300)
    assert "  L_retain/ε 4 (worst of 2: open the door)  Σλ 0.5  " in told
    assert len(told) < 120


def test_with_joint_backward_there_are_no_conflicts_and_a_probe_has_no_budget():
    assert "conflicts" not in line(LOGS | RETAINED, 1, 2)
    assert "  L_retain/ε inf  " in line(LOGS | RETAINED | {"retention/epsilon": 0.0}, 1, 2)


def test_other_logs_are_lines_too():
    assert line({"eval_loss": 2.5, "epoch": 1.0}, 5, 9) == "step 5/9  eval_loss 2.5"
    assert line({"train_runtime": 7.747, "train_loss": 1.0, "total_flos": 0.0}, 9, 9) == "trained 9 steps in 7.747 s"


def trainer(tmp_path, **options):
    from runs import BASE
    from toy import ToyModel, ToyTask, toy_anchors

    from craft_trainer import CraftConfig, CraftTrainer

    config = CraftConfig(**BASE | {"output_dir": str(tmp_path / "run"), "logging_steps": 2} | options)
    anchors = toy_anchors(tmp_path / "anchors")
    return CraftTrainer(ToyModel(), config, anchors=anchors, train_dataset=ToyTask())


def test_a_training_prints_them(tmp_path, capsys):
    """Seen to fail: a dictionary of 14 numbers for each log."""
    run = trainer(tmp_path, disable_tqdm=True)
    run.train()
    lines = [text for text in capsys.readouterr().out.splitlines() if text.startswith("step ")]
    assert lines
    assert all("  L_retain/ε " in text and "{" not in text and len(text) < 120 for text in lines)
    assert any(type(callback) is Lines for callback in run.callback_handler.callbacks)


def test_a_progress_bar_writes_them_above_itself(tmp_path, capsys):
    run = trainer(tmp_path, disable_tqdm=False)
    assert any(type(callback) is Bar for callback in run.callback_handler.callbacks)
    run.train()
    written = capsys.readouterr()
    assert "  L_retain/ε " in written.out + written.err
    assert "'loss'" not in written.out + written.err


def test_a_callback_of_ones_own_stays(tmp_path):
    from transformers import PrinterCallback

    class Mine(PrinterCallback):
        """Another printer."""

    run = trainer(tmp_path, disable_tqdm=True)
    run.add_callback(Mine)
    write_short_lines(run)
    assert any(type(callback) is Mine for callback in run.callback_handler.callbacks)
