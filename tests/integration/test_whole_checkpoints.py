"""A checkpoint is there whole or not at all, and only a whole one is resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import BASE, assert_same_weights, run, weights
from toy import ToyModel, ToyTask, toy_anchors
from transformers import TrainerCallback

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.hub.manifest import DamagedCheckpointError, require_whole

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    return toy_anchors(tmp_path_factory.mktemp("anchors") / "cache")


@pytest.fixture(scope="module")
def whole(anchors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, anchors, **SAVES), folder


def cut(whole, folder, steps=(1, 2, 3)):
    """The folder of a run that was ended after the last of ``steps``."""
    for step in steps:
        shutil.copytree(whole[1] / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    shutil.copy(whole[1] / "lambda_history.csv", folder)
    return folder


def test_what_a_run_saves_is_whole_and_nothing_else_is_left(whole):
    names = sorted(path.name for path in whole[1].iterdir())
    assert names == [*(f"checkpoint-{step}" for step in (1, 2, 3, 4)), "lambda_history.csv", "run.json"]
    for step in (1, 2, 3, 4):
        checkpoint = whole[1] / f"checkpoint-{step}"
        require_whole(checkpoint)
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"} <= set(
            json.loads((checkpoint / "manifest.json").read_text())["files"]
        )


def test_true_takes_the_newest_whole_one(whole, anchors, tmp_path, caplog):
    """A script's ``resume_from_checkpoint=True``: Trainer takes the newest, whole or not."""
    cut(whole, tmp_path)
    (tmp_path / "checkpoint-3/optimizer.pt").unlink()
    resumed = run(tmp_path, anchors, resume=True, **SAVES)
    assert "checkpoint-3 is not whole: optimizer.pt is missing" in caplog.text
    assert_same_weights(weights(whole[0]), weights(resumed))
    require_whole(tmp_path / "checkpoint-3")


def test_a_run_that_was_killed_after_its_last_checkpoint_takes_no_step_more(anchors, tmp_path):
    """Trainer's loop takes one, which changes the weights unless the learning rate has come down to 0. Seen to fail."""
    options = SAVES | {"lr_scheduler_type": "constant"}
    ended = run(tmp_path, anchors, **options)
    resumed = run(tmp_path, anchors, resume=True, **options)
    assert resumed.state.global_step == ended.state.global_step
    assert_same_weights(weights(ended), weights(resumed))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "model.safetensors", "trainer_state.json"])
def test_a_damaged_one_is_refused_by_name(whole, anchors, tmp_path, name):
    """Trainer goes on without an optimizer, and with any weights."""
    file = cut(whole, tmp_path, [3]) / "checkpoint-3" / name
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 16]) + data[-8:])
    with pytest.raises(DamagedCheckpointError, match=f"checkpoint-3 is not whole: {name} "):
        run(tmp_path, anchors, resume=str(tmp_path / "checkpoint-3"), **SAVES)
    with pytest.raises(ValueError, match=f"no checkpoint in {tmp_path} is whole"):
        run(tmp_path, anchors, resume=True, **SAVES)


def test_the_best_and_the_newest_stay_where_old_ones_go(tmp_path):
    """By their places, not those in which they were written, in the file as well."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "save_total_limit": 2}
    trainer = CraftTrainer(
        ToyModel(),
        CraftConfig(output_dir=str(tmp_path), **BASE | SAVES | options | {"learning_rate": 0.5}),
        train_dataset=ToyTask(),
        eval_dataset=ToyTask(8),
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    left = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert left == {"checkpoint-4", best.name if best.name != "checkpoint-4" else "checkpoint-3"}
    written = json.loads((tmp_path / "checkpoint-4/trainer_state.json").read_text())
    assert written["best_model_checkpoint"] == str(best)


@pytest.mark.parametrize("fault", ["flipped", "gone"])
def test_the_best_model_is_loaded_from_a_whole_checkpoint(tmp_path, fault):
    """Seen to fail: changed weights were loaded at the end, and a folder that had vanished was passed over."""

    class Damaging(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            if "train_runtime" not in logs:
                return
            best = Path(state.best_model_checkpoint)
            if fault == "gone":
                shutil.rmtree(best)
            else:
                data = bytearray((best / "model.safetensors").read_bytes())
                data[-1] ^= 1
                (best / "model.safetensors").write_bytes(data)

    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.5}
    config = CraftConfig(output_dir=str(tmp_path), **BASE | SAVES | options)
    trainer = CraftTrainer(ToyModel(), config, train_dataset=ToyTask(), eval_dataset=ToyTask(8), callbacks=[Damaging()])
    said = "model.safetensors was changed" if fault == "flipped" else "trainer_state.json is missing"
    with pytest.raises(DamagedCheckpointError, match=f"is not whole: {said}"):
        trainer.train()


KILLED = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runs import run
from toy import toy_anchors
from craft_trainer.anchors.cache import AnchorCache

place, saves, count = sys.argv[4], torch.save, 0
def save(state, path, *args, **kwargs):
    global count
    count += Path(path).name == place
    if Path(path).name == place and count == int(sys.argv[5]):
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    saves(state, path, *args, **kwargs)
torch.save = save
run(Path(sys.argv[2]), AnchorCache(sys.argv[3]), max_steps=4, save_strategy="steps", save_steps=1)
"""


@pytest.mark.parametrize(("place", "count"), [("optimizer.pt", 1), ("scheduler.pt", 3)])
def test_killed_in_the_midst_of_a_save(whole, anchors, tmp_path, place, count):
    """In the first save the run begins anew, later it goes on."""
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "run"), str(anchors.folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, place, str(count)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in range(1, count)
    ]
    resumed = run(tmp_path / "run", anchors, resume=True, **SAVES)
    assert_same_weights(weights(whole[0]), weights(resumed))
    assert not (tmp_path / "run/.saving").exists()


def test_a_model_is_never_half_written(whole, tmp_path, monkeypatch):
    """Weights that are there stay until the new ones are whole."""
    trainer = whole[0]
    trainer.save_model(str(tmp_path / "model"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "README.md", "lineage.json"} <= before.keys()

    def fails_half_way(state, path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("toy.save_file", fails_half_way)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_model(str(tmp_path / "model"))
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert after == before
    trainer.save_model(str(tmp_path / "model"))
    assert {path.name for path in (tmp_path / "model").iterdir()} == before.keys()
