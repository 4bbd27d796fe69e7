"""What of a run's folder is the model, and what is only needed to resume."""

import os
from dataclasses import replace

from runs import BASE
from toy import ToyModel, ToyTask

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.hub import hub_trainer
from craft_trainer.hub.run_folder import checkpoints, clear_stages, model_files, run_files, staged

MODEL = [
    "config.json",
    "model.safetensors",
    "policy_preprocessor.json",
    "training_args.bin",
    "README.md",
    "figures/a.png",
]
STATES = ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_1.pth", "optimizer_0/x.distcp"]
OTHERS = ["checkpoint-5/model.safetensors", "_push-3/model.safetensors", ".cache/x", "lambda_history.csv.partial"]


def filled(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_the_model_goes_and_states_stay(tmp_path):
    filled(tmp_path, [*MODEL, *STATES, *OTHERS, "trainer_state.json"])
    assert set(run_files(tmp_path)) == {*MODEL, "trainer_state.json"}
    assert set(model_files(tmp_path)) == set(MODEL)


def test_paths_and_machine_stay(tmp_path):
    """`craft-trainer report --run` puts its page, with all of run.json, beside it; rollouts name the policy's folder.

    Seen to fail: they were pushed.
    """
    filled(tmp_path, [*MODEL, "run.json", "report.html", "rollout.json", "rollouts-new.json"])
    assert set(run_files(tmp_path)) == set(MODEL)


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    filled(
        tmp_path, [f"checkpoint-{step}/x" for step in (100, 20, 3)] + ["checkpoint-best/x", "checkpoint-7.partial/x"]
    )
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]


def test_a_stage_outlives_its_checkpoint_and_takes_no_room(tmp_path, monkeypatch):
    checkpoint = filled(tmp_path / "checkpoint-5", ["model.safetensors", "sub/x"])
    stage = staged(checkpoint, 5)
    assert (stage / "model.safetensors").stat().st_ino == (checkpoint / "model.safetensors").stat().st_ino
    (checkpoint / "model.safetensors").unlink()
    assert (stage / "model.safetensors").read_text() == "model.safetensors"
    assert (stage / "sub/x").read_text() == "sub/x"
    clear_stages(tmp_path)
    assert not stage.exists()

    def no_links(source, target):
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", no_links)
    assert (staged(checkpoint, 5) / "sub/x").read_text() == "sub/x"


def test_a_trainer_that_is_only_made_leaves_the_stages_of_a_run_that_pushes(tmp_path, monkeypatch):
    """Seen to fail: a second script that evaluated in the same folder deleted what was being uploaded."""
    monkeypatch.setattr(hub_trainer.Repository, "opened", lambda self: replace(self, name="me/x"))
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"0123456789")
    stage = staged(checkpoint, 3)
    config = CraftConfig(output_dir=str(tmp_path), **BASE, push_to_hub=True, hub_model_id="me/x")
    CraftTrainer(ToyModel(), config, train_dataset=ToyTask())
    assert (stage / "model.safetensors").is_file()
