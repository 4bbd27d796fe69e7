"""A tiny suite from end to end, killed in the middle: what was finished stays, the rest is done by the same command."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from craft_trainer.cli.main import main

pytest.importorskip("metaworld")
pytestmark = pytest.mark.slow

TRAINING = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "per_device_train_batch_size": 4,
    "dataloader_pin_memory": False,
    "seed": "{seed}",
}
SUITE = {
    "streams": {"tiny": {"old": ["push-v3"], "new": ["window-close-v3"]}},
    "seeds": [0],
    "budgets": [12],
    "commands": {
        "old_data": {"run": "record", "tasks": ["{old}"], "episodes": 1},
        "new_data": {"run": "record", "tasks": ["{new}"], "episodes": 1},
        "teacher": TRAINING
        | {
            "run": "train",
            "dataset": "{old_data}",
            "max_steps": 2,
            "policy_type": "act",
            "policy_options": {"chunk_size": 4, "n_action_steps": 2, "dim_model": 16, "n_heads": 2}
            | {"dim_feedforward": 16, "n_encoder_layers": 1, "n_decoder_layers": 1, "use_vae": False, "dropout": 0.0},
        },
        "anchors": {"run": "cache build", "teacher": "{teacher}", "dataset": "{old_data}", "anchors": "{budget}"},
        "student": TRAINING | {"run": "train", "model": "{teacher}", "dataset": "{new_data}", "max_steps": 2},
        "score": {"run": "rollout", "policy": "{student}", "tasks": ["{old}", "{new}"], "episodes": 2, "max_steps": 3},
    },
    "evaluations": ["score"],
    "methods": {
        "plain": {},
        "replay": {"student": {"method": "replay", "anchors": "{anchors}", "retention_batch_size": 4}},
    },
}


def words(folder):
    return ["suite", "run", str(folder / "tiny.yaml"), "--output", str(folder / "out")]


def killed_while(folder, log):
    """Start the suite, and kill it as soon as the command with this log is at work."""
    command = [sys.executable, "-m", "craft_trainer", *words(folder), "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            if log.is_file() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it was killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_suite_goes_on_and_a_finished_one_stays(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SUITE))
    out = tmp_path / "out"
    killed_while(tmp_path, out / "logs/tiny-seed0-student.log")
    assert (out / "tiny/seed0/teacher/trainer_state.json").is_file()
    assert not (out / "raw").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "tiny/seed0/teacher").iterdir()}

    assert main([*words(tmp_path), "--jobs", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    raws = {
        path.relative_to(out / "raw/tiny").as_posix(): json.loads(path.read_text())
        for path in out.glob("raw/**/*.json")
    }
    assert set(raws) == {"tiny/plain/seed0.json", "tiny/replay-12/seed0.json"}
    for raw in raws.values():
        rows = raw["evaluations"]["score"]["rows"]
        assert [(row["task"], row["episodes"], len(row["outcomes"])) for row in rows] == [
            ("push-v3", 2, 2),
            ("window-close-v3", 2, 2),
        ]

    capsys.readouterr()
    assert main(words(tmp_path)) == 0
    assert "tiny: 2 cells, 2 of them finished" in capsys.readouterr().out
    changed = SUITE | {"seeds": [0], "methods": {"plain": {"student": {"max_steps": 1}}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(changed))
    assert main(words(tmp_path)) == 1
    refused = capsys.readouterr().err
    assert "plain/seed0.json was made by other settings (then " in refused
    assert "--max_steps 1" in refused
