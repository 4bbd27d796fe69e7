"""SIGTERM and SIGINT, sent for real: the run ends with a checkpoint, and the resumed one equals a run never ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import BASE, assert_same_weights, run, weights
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.cli.main import main

NUMBERS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A shell ignores SIGINT in what it starts in the background, and so would these tests and their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache")


@pytest.fixture(scope="module")
def whole(anchors, tmp_path_factory):
    return weights(run(tmp_path_factory.mktemp("whole"), anchors))


class Sent(TrainerCallback):
    """A signal in the midst of step ``step``: after the backward pass, before the optimizer."""

    def __init__(self, number, step, event="on_pre_optimizer_step"):
        setattr(self, event, self.send)
        self.number, self.step = number, step

    def send(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("anchored", [True, False])
def test_the_step_is_finished_and_saved(number, anchored, anchors, whole, tmp_path, capsys):
    """Although ``save_strategy`` is no."""
    before = signal.getsignal(number)
    with pytest.raises(NUMBERS[number]) as ended:
        run(tmp_path, anchors if anchored else None, callbacks=[Sent(number, 3)])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert signal.getsignal(number) is before
    told = capsys.readouterr().err + "".join(getattr(ended.value, "__notes__", []))
    assert f"{number.name}: this optimizer step is finished and saved" in told
    assert f"saved {tmp_path}/checkpoint-3; go on by resume_from_checkpoint" in told
    if number == signal.SIGTERM:
        assert ended.value.code == 143
    resumed = run(tmp_path, anchors if anchored else None, resume=True)
    if anchored:
        assert_same_weights(whole, weights(resumed))


def test_in_the_last_step_the_run_ends_as_it_would_have(anchors, whole, tmp_path):
    assert_same_weights(whole, weights(run(tmp_path, anchors, callbacks=[Sent(signal.SIGTERM, 6)])))
    assert not list(tmp_path.glob("checkpoint-*"))


class Evaluated(TrainerCallback):
    """A signal in the first batch of an evaluation; the second is not evaluated."""

    batches = 0

    def on_prediction_step(self, args, state, control, **kwargs):
        self.batches += 1
        if self.batches == 1:
            signal.raise_signal(signal.SIGTERM)


def test_an_evaluation_is_left_at_its_next_batch(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 8}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | options)
    evaluated = Evaluated()
    data = {"train_dataset": ToyTask(), "eval_dataset": ToyTask()}
    trainer = CraftTrainer(ToyModel(), config, callbacks=[evaluated], **data)
    with pytest.raises(SystemExit):
        trainer.train()
    assert (tmp_path / "checkpoint-2/manifest.json").is_file()
    assert evaluated.batches <= 2
    trainer.evaluate()  # outside of a training nothing is saved


def test_a_handler_of_the_script_stays(anchors, tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        run(tmp_path, anchors, callbacks=[Sent(signal.SIGTERM, 3)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


class Slow(Sent):
    """The second signal comes while the step goes on."""

    def send(self, args, state, control, **kwargs):
        super().send(args, state, control, **kwargs)
        if state.global_step == self.step - 1:
            signal.raise_signal(self.number)  # passed on by a launcher: the same
            time.sleep(1.1)
            super().send(args, state, control, **kwargs)


def test_the_second_one_stops_at_once(anchors, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, anchors, callbacks=[Slow(signal.SIGINT, 3)])
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_with_the_status_of_the_signal(tiny_policy, tiny_dataset, tmp_path, number, status):
    """`craft-trainer train`, and again with `--resume_from_checkpoint last`."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    words = ["train", "--model", str(tmp_path / "policy"), "--dataset", str(tiny_dataset), "--use_cpu", "true"]
    words += ["--output_dir", str(tmp_path / "out"), "--report_to", "none", "--save_strategy", "no"]
    words += ["--per_device_train_batch_size", "2"]
    command = [sys.executable, "-m", "craft_trainer", *words, "--max_steps", "100000", "--logging_steps", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while "step 1/" not in (tmp_path / "log").read_text() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            assert process.wait(timeout=120) == status, (tmp_path / "log").read_text()
        finally:
            process.kill()
    (saved,) = (tmp_path / "out").glob("checkpoint-*")
    assert f"saved {saved}; go on by resume_from_checkpoint" in (tmp_path / "log").read_text()
    steps = int(saved.name.removeprefix("checkpoint-")) + 2
    assert main([*words, "--max_steps", str(steps), "--resume_from_checkpoint", "last"]) == 0
    assert Path(tmp_path / "out/model.safetensors").is_file()
