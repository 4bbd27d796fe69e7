"""The commands on a real LeRobot policy: train, kill, resume, cache, and what LeRobot makes of the result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_words import flags
from lerobot.policies.act.modeling_act import ACTPolicy

from craft_trainer.cli.main import main

TRAIN = {
    "max_steps": 60,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 10,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "retention_batch_size": 4,
    "epsilon": 1e-3,
    "epsilon_final": 1e-2,
    "epsilon_schedule": "cosine",
    "save_steps": 20,
    "learned_inputs": "allow",  # the tiny dataset is both what is known and what is learned
}


@pytest.fixture(scope="module")
def anchors(tmp_path_factory, teacher, tiny_dataset):
    folder = tmp_path_factory.mktemp("anchors") / "cache"
    assert main(["cache", "build", *flags(teacher=teacher, dataset=tiny_dataset, output_dir=folder, anchors=40)]) == 0
    return folder


@pytest.fixture(scope="module")
def craft_run(tmp_path_factory, teacher, anchors, tiny_dataset):
    """Folder of an uninterrupted CRaFT run, and the command line that made it but for the folder."""
    command = ["train", *flags(model=teacher, anchors=anchors, dataset=tiny_dataset, **TRAIN)]
    folder = tmp_path_factory.mktemp("craft")
    assert main([*command, "--output_dir", str(folder)]) == 0
    return folder, command


def killed_after(checkpoint, command):
    """Start ``command`` as a process of its own and kill it once ``checkpoint`` is complete."""
    process = subprocess.Popen([sys.executable, "-m", "craft_trainer", *command], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (checkpoint / "trainer_state.json").is_file():
        assert process.poll() is None, "the run ended before it wrote a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed_bit_for_bit(craft_run, tmp_path):
    whole, command = craft_run
    command = [*command, "--output_dir", str(tmp_path)]
    killed_after(tmp_path / "checkpoint-20", command)
    assert not (tmp_path / "model.safetensors").exists()
    assert main([*command, "--resume_from_checkpoint", "last"]) == 0
    for name in ("model.safetensors", "lambda_history.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert len((whole / "lambda_history.csv").read_text().splitlines()) == 1 + TRAIN["max_steps"]


def test_a_run_tells_what_it_was_told_and_can_be_reported(craft_run, teacher, anchors):
    """Seen to fail with the record left out of CraftTrainer, and with the arguments of the command left out of it."""
    folder, _ = craft_run
    told = json.loads((folder / "run.json").read_text("utf-8"))
    given = {
        "model": str(teacher),
        "anchors": str(anchors),
        "epsilon": 1e-3,
        "epsilon_schedule": "cosine",
        "max_steps": 60,
    }
    assert given.items() <= told["settings"].items()
    assert ([start["step"] for start in told["starts"]], told["end"]["step"]) == ([0], 60)
    assert main(["report", "--run", str(folder)]) == 0
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3
    assert "epsilon_schedule" in page


def test_the_checkpoint_acts_the_same_through_lerobots_own_api(craft_run, tiny_dataset):
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    from craft_trainer.models.lerobot import PolicyModel
    from craft_trainer.models.lerobot_dataset import PolicyDataset

    folder, _ = craft_run
    policy = ACTPolicy.from_pretrained(folder)
    preprocess, postprocess = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    ours = PolicyModel.from_pretrained(folder)
    batch = PolicyDataset(str(tiny_dataset), ours.policy_config).batch([0, 30, 60])
    observation = {key: value for key, value in batch.items() if key.startswith("observation.") or key == "task"}
    expected = postprocess(policy.select_action(preprocess(dict(observation))))
    assert expected.abs().sum() > 0
    assert torch.equal(ours.select_action(observation), expected)


def test_the_readmes_script_runs(teacher, anchors, tiny_dataset, tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    places = {
        "outputs/teacher": teacher,
        "outputs/anchors": anchors,
        "outputs/data/new": tiny_dataset,
        "outputs/craft": tmp_path,
        "max_steps=800": "max_steps=2, learned_inputs='allow', report_to='none', use_cpu=True, disable_tqdm=True, "
        "dataloader_pin_memory=False",
    }
    for place, replacement in places.items():
        assert place in script
        script = script.replace(place, str(replacement))
    exec(script, {})
    assert (tmp_path / "model.safetensors").is_file()
    assert len((tmp_path / "lambda_history.csv").read_text().splitlines()) == 3


def test_the_statistics_of_the_teacher_stay(craft_run, teacher):
    folder, _ = craft_run
    name = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    assert (folder / name).read_bytes() == (teacher / name).read_bytes()


def test_plain_training_and_its_resume(teacher, tiny_dataset, tmp_path):
    def train(folder, *more):
        given = flags(model=teacher, dataset=tiny_dataset, output_dir=folder, **TRAIN | {"max_steps": 40})
        assert main(["train", *given, *more]) == 0

    train(tmp_path / "whole")
    train(tmp_path / "resumed")
    train(tmp_path / "resumed", "--resume_from_checkpoint", str(tmp_path / "resumed" / "checkpoint-20"))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    assert weights[0] != (teacher / "model.safetensors").read_bytes()
    assert not (tmp_path / "whole" / "lambda_history.csv").exists()


def test_a_run_goes_on_from_its_own_model(teacher, tiny_policy, tiny_dataset, tmp_path, capsys):
    """Which may be elsewhere now. Seen to fail: another model was named in run.json, and the weights were the
    checkpoint's."""
    given = TRAIN | {"dataset": tiny_dataset, "output_dir": tmp_path / "run", "save_steps": 2}
    assert main(["train", *flags(**given | {"model": teacher, "max_steps": 2})]) == 0
    shutil.copytree(teacher, tmp_path / "moved")
    tiny_policy(seed=5).save_pretrained(tmp_path / "other")
    given |= {"max_steps": 4, "resume_from_checkpoint": "last"}
    assert main(["train", *flags(**given | {"model": tmp_path / "other"})]) == 1
    error = capsys.readouterr().err
    assert f"model is {tmp_path / 'other'}, and {tmp_path / 'run' / 'run.json'} says {teacher}: a run that" in error
    assert main(["train", *flags(**given | {"model": tmp_path / "moved"})]) == 0


def test_a_second_run_does_not_fall_upon_the_first(craft_run, capsys):
    """Seen to fail with the output folder not asked for."""
    folder, command = craft_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([*command, "--output_dir", str(folder)]) == 1
    assert "holds a run already (model.safetensors, " in capsys.readouterr().err
    assert main([*command, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]) == 1
    assert "checkpoint-60: its run has ended, at optimizer step 60" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_that_was_killed_before_its_model_was_written_writes_it(craft_run, tmp_path):
    """The same call as for any interrupted run. Seen to fail with `its run has ended`."""
    folder, command = craft_run
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    for name in ("model.safetensors", "config.json", "trainer_state.json"):
        (killed / name).unlink()
    assert main([*command, "--output_dir", str(killed), "--resume_from_checkpoint", "last"]) == 0
    for name in ("model.safetensors", "config.json", "lambda_history.csv"):
        assert (killed / name).read_bytes() == (folder / name).read_bytes()


def test_settings_of_retention_are_not_ignored_in_silence(teacher, anchors, tiny_dataset, tmp_path, caplog):
    """Seen to fail without the warning."""
    given = TRAIN | {"max_steps": 1, "model": teacher, "dataset": tiny_dataset}
    held = {"anchors": anchors, "learned_inputs": given.pop("learned_inputs")}
    for name, more in (("none", {}), ("plain", {"method": "plain"}), ("anchors", held)):
        assert main(["train", *flags(**given | {"output_dir": tmp_path / name} | more)]) == 0
    told = [record.getMessage() for record in caplog.records if "no anchors" in record.getMessage()]
    assert told == [
        "no anchors: this is plain training, without effect of retention_batch_size, epsilon, epsilon_final, "
        "epsilon_schedule"
    ]


def test_a_retention_pass_without_weight_leaves_batches_and_dropout_as_they_were(
    teacher, anchors, tiny_dataset, tmp_path
):
    off = {"method": "weighted_sum", "multiplier_init": 0, "retention_every": 2}
    for name, more in (("plain", {}), ("craft", {"anchors": anchors} | off)):
        given = TRAIN | {"max_steps": 15, "model": teacher, "dataset": tiny_dataset, "output_dir": tmp_path / name}
        assert main(["train", *flags(**given | more)]) == 0
    assert (tmp_path / "craft" / "lambda_history.csv").is_file()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "craft")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nowhere/at/all"}, "nowhere/at/all"),
        ({"dataset": os.devnull}, "not a LeRobot dataset"),
        ({"anchors": "missing"}, "missing"),
        ({"policy_type": "act"}, "either model"),
        (
            {"policy_min_std": 0.5},
            "policy_min_std has no effect here: it is of a new policy, or of statistics: dataset",
        ),
        (
            {"model": "null", "anchors": "null", "policy_type": "act", "statistics": "dataset"},
            "statistics has no effect here: a new policy",
        ),
        ({"anchors": "null", "anchors_dataset": "org/x"}, "anchors_dataset has no effect here: no anchors are given"),
        ({"epsilon": -1}, "epsilon is -1.0"),
        ({"resume_from_checkpoint": "last"}, "holds no whole checkpoint"),
        ({"gradient_checkpointing": True}, """--policy_options '{"gradient_checkpointing": true}'"""),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha has no place in a LeRobot policy"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor has no place in a LeRobot policy"),
        ({"eval_strategy": "epoch"}, "no part of the dataset is held out"),
        ({"eval_on_start": True}, "no part of the dataset is held out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line_that_names_it(teacher, anchors, tiny_dataset, tmp_path, capsys, change, message):
    given = {"model": teacher, "anchors": anchors, "dataset": tiny_dataset, "output_dir": tmp_path, **TRAIN}
    assert main(["train", *flags(**given | change)]) == 1
    assert message in capsys.readouterr().err


def test_a_policy_with_a_second_network_is_left_to_lerobot(teacher, tiny_dataset, tmp_path, capsys, monkeypatch):
    """LeRobot's training calls ``update`` after every step: TD-MPC's target network would never have moved."""
    monkeypatch.setattr(ACTPolicy, "update", lambda _: None, raising=False)
    given = flags(model=teacher, dataset=tiny_dataset, output_dir=tmp_path / "out", **TRAIN)
    assert main(["train", *given]) == 1
    assert "updates another network after every step" in capsys.readouterr().err


def test_training_from_another_teacher_is_refused(teacher, anchors, tiny_dataset, tiny_policy, tmp_path, capsys):
    tiny_policy(seed=1).save_pretrained(tmp_path / "other")
    given = flags(model=tmp_path / "other", anchors=anchors, dataset=tiny_dataset, output_dir=tmp_path, **TRAIN)
    assert main(["train", *given]) == 1
    error = capsys.readouterr().err
    assert "teacher with weights" in error
    assert "craft-trainer cache" in error
    assert main(["train", *given, "--teacher_mismatch", "allow", "--max_steps", "1"]) == 0
