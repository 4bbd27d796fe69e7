"""A checkpoint is finished beside the training: whoever needs it waits, and nobody else."""

import json
import math
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from runs import BASE, assert_same_weights, run, weights
from toy import ToyModel, ToyTask
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.hub.manifest import require_whole, seal
from craft_trainer.training.finishing import finish_beside, wait_for

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


class BeforeStep(TrainerCallback):
    """Does something before a step: it does not listen to saves."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step + 1 == self.step:
            self.do(model)


@pytest.fixture
def sealing(monkeypatch):
    """Has ``seal`` do something first, for the checkpoint of step 2."""

    def put(do):
        def slowly(folder):
            if folder.name == "checkpoint-2":
                do()
            seal(folder)

        monkeypatch.setattr("craft_trainer.training.checkpoints.seal", slowly)

    return put


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith((".saving", "checkpoint")))


def test_the_training_goes_on_meanwhile(tmp_path, sealing):
    """Step 4 begins before the checkpoint of step 2 is there, which is that of step 2 all the same."""
    expected, goes_on, seen = weights(run(tmp_path / "plain", None, **SAVES)), threading.Event(), []
    sealing(lambda: seen.append(goes_on.wait(60)))

    def go_on(_):
        seen.append(names(tmp_path / "run"))
        goes_on.set()

    trainer = run(tmp_path / "run", None, callbacks=[BeforeStep(4, go_on)], **SAVES)
    assert seen == [[".saving"], True]
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-4"]
    assert_same_weights(weights(trainer), expected)
    for name in ("model.safetensors", "optimizer.pt"):
        first, second = (tmp_path / one / "checkpoint-2" / name for one in ("run", "plain"))
        assert first.read_bytes() == second.read_bytes()
    for step in (2, 4):
        require_whole(tmp_path / f"run/checkpoint-{step}")


def test_who_listens_to_saves_finds_the_checkpoint(tmp_path, sealing):
    """Loggers upload it from ``on_save``."""
    seen = []

    class Listening(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(names(tmp_path))

    sealing(lambda: time.sleep(0.2))
    run(tmp_path, None, callbacks=[Listening()], **SAVES)
    assert seen == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"]]


def fails():
    raise OSError(28, "No space left on device", "manifest.json")


def test_what_fails_meanwhile_is_told_before_the_next_save(tmp_path, sealing, monkeypatch):
    """With what is left, and the run goes on from there to the same weights."""
    every = SAVES | {"save_steps": 1}
    expected = weights(run(tmp_path / "plain", None, **every))
    sealing(fails)
    with pytest.raises(OSError, match="No space left") as raised:
        run(tmp_path / "run", None, **every)
    (note,) = raised.value.__notes__
    assert f"{tmp_path}/run/checkpoint-2 could not be saved (" in note
    assert f"go on from {tmp_path}/run/checkpoint-1" in note
    assert names(tmp_path / "run") == ["checkpoint-1"]
    monkeypatch.undo()
    assert_same_weights(weights(run(tmp_path / "run", None, resume=True, **every)), expected)


def test_what_fails_in_the_last_save_is_told_at_the_end(tmp_path, sealing):
    sealing(fails)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, None, **SAVES | {"max_steps": 2})
    assert names(tmp_path) == []


def poison(model):
    with torch.no_grad():
        model.head.weight.fill_(math.nan)


def test_an_error_of_the_training_knows_the_checkpoint_that_was_being_finished(tmp_path, sealing):
    sealing(lambda: time.sleep(0.5))
    with pytest.raises(FloatingPointError, match=f"go on from {tmp_path}/checkpoint-2"):
        run(tmp_path, None, callbacks=[BeforeStep(3, poison)], **SAVES)
    require_whole(tmp_path / "checkpoint-2")


def test_an_error_of_the_training_tells_that_of_the_save_as_well(tmp_path, sealing):
    sealing(fails)
    with pytest.raises(FloatingPointError, match="no checkpoint was saved before") as raised:
        run(tmp_path, None, callbacks=[BeforeStep(3, poison)], **SAVES)
    assert "checkpoint-2 could not be saved" in raised.value.__notes__[-1]


def test_a_model_saved_meanwhile_leaves_the_draft(tmp_path, sealing):
    """Both are written in ``.saving``."""
    sealing(lambda: time.sleep(0.3))

    class Saving(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                trainer.save_model()

    config = CraftConfig(output_dir=str(tmp_path), **BASE | SAVES)
    trainer = CraftTrainer(ToyModel(), config, train_dataset=ToyTask(), callbacks=[Saving()])
    trainer.train()
    require_whole(tmp_path / "checkpoint-2")
    assert (tmp_path / "model.safetensors").is_file()


def test_the_best_is_loaded_when_it_is_there(tmp_path, sealing):
    """And no other stays."""
    sealing(lambda: time.sleep(0.3))
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | SAVES | options | {"max_steps": 2})
    trainer = CraftTrainer(ToyModel(), config, train_dataset=ToyTask(), eval_dataset=ToyTask(8))
    trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]
    written = json.loads((tmp_path / "checkpoint-2/trainer_state.json").read_text())
    assert written["best_model_checkpoint"] == trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")


def test_a_fork_waits(tmp_path):
    """A worker of a DataLoader would inherit locks that the thread holds."""
    done = tmp_path / "done"
    finish_beside(tmp_path, lambda: (time.sleep(0.3), done.touch()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of others
        child = os.fork()
    if child == 0:
        os._exit(0 if done.is_file() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_is_told_once(tmp_path):
    finish_beside(Path(tmp_path), fails)
    with pytest.raises(OSError, match="No space left"):
        wait_for(tmp_path)
    wait_for(tmp_path)


def test_a_signal_while_a_checkpoint_is_finished_saves_the_next_step(tmp_path, sealing):
    """Both are whole when the process ends."""
    sealing(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.3)))
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, None, callbacks=[BeforeStep(3, lambda _: time.sleep(0.2))], **SAVES | {"max_steps": 100})
    assert ended.value.code == 143
    saved = names(tmp_path)
    assert saved[0] == "checkpoint-2"
    assert len(saved) <= 2
    for name in saved:
        require_whole(tmp_path / name)
