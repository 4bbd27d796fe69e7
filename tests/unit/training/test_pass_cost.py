"""The line that says what a retention pass costs: what it is made of, when it is said, and what it is said of."""

from pathlib import Path
from typing import Any

import pytest
from one_number import Run
from transformers import TrainerControl, TrainerState

from craft_trainer.training import pass_cost
from craft_trainer.training.config import CraftConfig, anchors_per_pass
from craft_trainer.training.pass_cost import MEASURED, PassCost


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(pass_cost.time, "perf_counter", lambda: self.now)


class Training:
    """The events of a training whose passes take known times, without a trainer."""

    def __init__(self, folder: Path, clock: Clock, **settings: Any) -> None:
        self.run, self.clock = Run(folder, **settings), clock
        self.cost = PassCost(self.run.retention)
        self.state, self.control = TrainerState(), TrainerControl()
        self.cost.on_train_begin(self.run.args, self.state, self.control)

    def step(self, *, task: float, retention: float, rest: float) -> None:
        self.cost.on_step_begin(self.run.args, self.state, self.control)
        for _ in range(self.run.args.gradient_accumulation_steps):
            with self.cost.task_pass():
                self.clock.now += task
        if self.run.retention.is_due(self.state.global_step):
            with self.cost.retention_pass():
                self.clock.now += retention
        self.clock.now += rest  # the optimizer, and reading the samples of the next step
        self.state.global_step += 1

    def end(self) -> None:
        self.cost.on_train_end(self.run.args, self.state, self.control)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_pass_is_compared_with_the_tasks_and_with_the_whole_step(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two micro-batches of 2 s are a task pass of 4 s; with 1 s of other work a plain step is 5 s."""
    sizes = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 2, "retention_every": 5}
    training = Training(tmp_path, clock, **sizes)
    training.step(task=20.0, retention=90.0, rest=30.0)  # the first one makes kernels and opens files
    for _ in range(5 * MEASURED):
        assert capsys.readouterr().out == ""
        training.step(task=2.0, retention=3.0, rest=1.0)
    training.step(task=2.0, retention=3.0, rest=1.0)
    assert capsys.readouterr().out == (
        "a retention pass (10 anchors) costs 0.75 of a task pass (64 samples): one in 5 steps makes the run 1.12 times "
        "as long\n"
    )
    training.step(task=9.0, retention=9.0, rest=9.0)
    training.end()
    assert capsys.readouterr().out == ""


def test_a_training_that_ends_early_says_what_it_has_seen(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(tmp_path, clock)
    training.step(task=2.0, retention=1.0, rest=2.0)
    training.end()
    assert (
        "costs 0.50 of a task pass (8 samples): one at every step makes the run 1.25 times" in capsys.readouterr().out
    )


def test_only_the_first_process_says_it(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(tmp_path, clock)
    training.state.is_world_process_zero = False
    training.step(task=2.0, retention=1.0, rest=2.0)
    training.end()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("samples", "anchors"), [(1, 1), (4, 4), (64, 64), (512, 64)])
def test_a_pass_has_no_more_anchors_than_the_task_has_samples(samples: int, anchors: int, tmp_path: Path) -> None:
    def config(**given: Any) -> CraftConfig:
        sizes = {"per_device_train_batch_size": samples, "gradient_accumulation_steps": 4}
        return CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **sizes, **given)

    assert anchors_per_pass(config()) == anchors
    assert anchors_per_pass(config(retention_batch_size=7)) == 7
    run = Run(tmp_path, *["door"] * 600, retention_batch_size=None, per_device_train_batch_size=samples)
    run.forward()
    assert [len(rows) for rows in run.anchors.asked] == [anchors]
