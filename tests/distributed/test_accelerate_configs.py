"""Every file of configs/accelerate starts one run of as many processes as it says, on what this machine has.

There is no GPU in CI: processes meet by gloo on the CPU, and FSDP2 runs there by ``sharded_on_cpu.py``.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from craft_trainer.cli.main import main
from craft_trainer.models.lerobot import PolicyModel

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
SHARDED_ON_CPU = Path(__file__).with_name("sharded_on_cpu.py")
STEPS, BATCH = 3, 4
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_policy, tiny_dataset):
    folder = tmp_path_factory.mktemp("given")
    tiny_policy().save_pretrained(folder / "teacher")
    places = {"--teacher": folder / "teacher", "--dataset": tiny_dataset, "--output_dir": folder / "anchors"}
    words = [str(word) for pair in places.items() for word in pair]
    assert main(["cache", "build", "--anchors", "16", *words]) == 0
    return {"--model": folder / "teacher", "--dataset": tiny_dataset, "--anchors": folder / "anchors"}


def launched(config, program, given, output_dir, **more):
    """What ``accelerate launch --config_file config … train …`` leaves behind."""
    options = (
        given
        | {
            "--output_dir": output_dir,
            "--max_steps": STEPS,
            "--per_device_train_batch_size": BATCH,
            "--retention_batch_size": 2,
            "--learned_inputs": "allow",  # the same data is known and learned
            "--report_to": "none",
            "--disable_tqdm": True,
            "--dataloader_pin_memory": False,
            "--save_steps": 2,
        }
        | more
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    words = [str(word) for pair in options.items() for word in pair]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*map(str, launch), *map(str, program), "train", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_starts_one_run_of_all_its_processes(config, given, tmp_path, tiny_dataset):
    """Seen to fail when CraftConfig leaves use_cpu alone, and fsdp2 when a gathered tensor is saved with its buffer;
    single_gpu with bf16 in its file, and with the precision left out of run.json."""
    sharded, halved = config.stem == "fsdp2", config.stem == "ddp"
    program = [SHARDED_ON_CPU] if sharded else ["-m", "craft_trainer"]
    done = launched(config, program, given, tmp_path, **{"--bf16": halved})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    num_processes = yaml.safe_load(config.read_text())["num_processes"]
    with (tmp_path / "lambda_history.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, STEPS + 1))
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    frames = json.loads((tiny_dataset / "meta" / "info.json").read_text())["total_frames"]
    steps_per_epoch = -(-frames // (BATCH * num_processes))
    assert state["log_history"][-1]["epoch"] == pytest.approx(STEPS / steps_per_epoch, abs=1e-3)
    assert (tmp_path / "checkpoint-2" / "pytorch_model_fsdp.bin").exists() == sharded
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["provenance"]["mixed_precision"] == ("bf16" if halved else "no"), "the command decides, not the file"
    PolicyModel.from_pretrained(tmp_path)
    assert done.stdout.count("LeRobot checkpoint:") == 1, "said by the main process only"


@pytest.mark.slow
def test_whole_weights_are_saved_where_states_are_sharded(given, tmp_path):
    """accelerate's own choice where a file does not say ``fsdp_state_dict_type``; the run goes on from its shards. Seen
    to fail with Trainer's ``save_model``: no weights anywhere, and status 0."""
    lines = (CONFIGS / "fsdp2.yaml").read_text().splitlines(keepends=True)
    config, run = tmp_path / "own.yaml", tmp_path / "run"
    config.write_text("".join(line for line in lines if "fsdp_state_dict_type" not in line))
    done = launched(config, [SHARDED_ON_CPU], given, run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (run / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()
    first, last = (PolicyModel.from_pretrained(folder).state_dict() for folder in (run / "checkpoint-2", run))
    assert any((first[name] != last[name]).any() for name in first)
    again = launched(config, [SHARDED_ON_CPU], given, run, **{"--resume_from_checkpoint": run / "checkpoint-2"})
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    resumed = PolicyModel.from_pretrained(run).state_dict()
    assert all((last[name] == resumed[name]).all() for name in last)


@pytest.mark.slow
def test_sharding_is_not_replaced_in_silence(given, tmp_path):
    """Where accelerate has no FSDP it would train by DDP and say nothing. Seen to fail without the check."""
    done = launched(CONFIGS / "fsdp2.yaml", ["-m", "craft_trainer"], given, tmp_path)
    assert done.returncode != 0
    assert "asks for FSDP, which accelerate has on GPUs only" in done.stderr
