"""What TensorBoard, Weights & Biases (offline) and Trackio hold after a run is what the history files hold."""

import csv
import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from statistics import fmean

import pytest
import yaml

RUN = Path(__file__).with_name("logged_run.py")
STEPS, EVERY = 6, 3
GROUPS = {"drawer", "push the puck"}
NAMES = {  # column of lambda_history.csv → what a user finds in the logger
    "retention_loss": "train/retention/loss",
    "multiplier": "train/retention/lambda",
    "epsilon": "train/retention/epsilon",
    "violation": "train/retention/violation",
    "cosine": "train/retention/cosine",
    "conflict": "train/retention/conflict",
    "task_grad_norm": "train/retention/task_grad_norm",
    "retention_grad_norm": "train/retention/grad_norm",
    "projected_energy": "train/retention/projected_energy",
    "update_cosine": "train/retention/update_cosine",
}


def tensorboard(folder):
    """Step → tag → value, of a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (folder / "run/runs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    logs = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            logs.setdefault(event.step, {})[tag] = event.value
    return logs


def wandb(folder):
    """The same, of the record file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    logs = {}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            logs.setdefault(row["train/global_step"], {}).update(row)
    return logs


def leveldb_records(content, *, block=32768):
    """Records of a log in LevelDB's format, which W&B writes: blocks of fragments, each with a checksum (4 bytes), a
    length (2) and a type (whole, first, middle, last)."""
    place, record = 7, b""  # behind W&B's own header
    while place + 7 <= len(content):
        if block - place % block < 7:  # too little for a fragment's head: zeros
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def trackio(folder):
    """The same, of its database of the project."""
    logs = {}
    with closing(sqlite3.connect(folder / "craft.db")) as database:
        for (metrics,) in database.execute("select metrics from metrics order by id"):
            row = json.loads(metrics)
            logs.setdefault(row["train/global_step"], {}).update(row)
    return logs


READERS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    """Holds a folder for each logger that is installed, of a run that reported to it."""
    folder = tmp_path_factory.mktemp("runs")
    loggers = [name for name in READERS if importlib.util.find_spec(name)]
    places = {"WANDB_DIR": str(folder / "wandb"), "TRACKIO_DIR": str(folder / "trackio")}
    for name in loggers:
        (folder / name).mkdir()
    given = os.environ | places | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, RUN, folder, *loggers], check=True, env=given, cwd=folder, timeout=300)
    return folder


@pytest.fixture(scope="module", params=READERS)
def run(request, runs_folder):
    """The folder of a run that reported to a logger, and what the logger wrote."""
    folder = runs_folder / request.param
    if not folder.is_dir():
        pytest.skip(f"{request.param} is not installed: pip install -e '.[dev]'")
    if (folder / "error.txt").is_file():
        pytest.fail((folder / "error.txt").read_text())
    return folder, READERS[request.param](folder)


def rows(folder, name="lambda_history.csv"):
    with (folder / "run" / name).open() as file:
        return list(csv.DictReader(file))


def test_the_logger_holds_the_means_of_the_history(run):
    """λ, ε, L_retain, cosine, conflict, … of steps 1–3 and 4–6. Seen to fail with λ and ε exchanged in LOGGED."""
    folder, logs = run
    written = rows(folder)
    assert len(written) == STEPS
    for last in range(EVERY, STEPS + 1, EVERY):
        passes = written[last - EVERY : last]
        for column, name in NAMES.items():
            known = [float(row[column]) for row in passes if row[column]]
            expected = fmean(known)
            assert logs[last][name] == pytest.approx(expected, rel=1e-6), (last, name)


def test_every_old_task_has_its_own_curves(run):
    """Of a constraint per group. Seen to fail with groups left out of the logs."""
    folder, logs = run
    written = rows(folder, "lambda_history_groups.csv")
    assert {row["group"] for row in written} == GROUPS
    for group in GROUPS:
        of_group = [row for row in written if row["group"] == group and int(row["step"]) > EVERY]
        for column, name in (("multiplier", "lambda"), ("retention_loss", "loss"), ("epsilon", "epsilon")):
            expected = fmean(float(row[column]) for row in of_group)
            assert logs[STEPS][f"train/retention/{name}/{group}"] == pytest.approx(expected, rel=1e-6)


def test_retention_is_a_group_of_its_own_between_trainers_names(run):
    """Nothing of ours lies among Trainer's `train/loss`, and all of Trainer's is where it was."""
    _, logs = run
    names = {name for name in logs[EVERY] if not name.startswith("_")}
    ours = {name for name in names if name.startswith("train/retention/")}
    trainers = {"loss", "grad_norm", "learning_rate", "epoch", "global_step"}
    assert names - ours - {f"train/{name}" for name in trainers} == {
        f"eval/{name}" for name in ("loss", "runtime", "samples_per_second", "steps_per_second")
    }
    assert len(ours) == len(NAMES) + 3 * len(GROUPS)


@pytest.mark.slow
def test_a_policy_reports_to_all_of_them_from_a_yaml_file(tmp_path, tiny_policy, tiny_anchors, tiny_dataset):
    """`craft-trainer train`: a policy has no configuration of transformers. Seen to fail with one logger only."""
    for name in READERS:
        pytest.importorskip(name)
    tiny_policy().save_pretrained(tmp_path / "teacher")
    settings = {
        "model": str(tmp_path / "teacher"),
        "dataset": str(tiny_dataset),
        "anchors": str(tiny_anchors.folder),
        "learned_inputs": "allow",  # the same data is known and learned
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "logging_steps": 1,
        "report_to": list(READERS),
        "project": "craft",
        "trackio_space_id": None,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    given = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "craft_trainer", "train", "--config", tmp_path / "train.yaml"]
    subprocess.run(command, check=True, env=given | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path, timeout=300)
    written = [float(row["retention_loss"]) for row in rows(tmp_path)]
    for read in READERS.values():
        logs = read(tmp_path)
        assert [logs[step]["train/retention/loss"] for step in (1, 2)] == pytest.approx(written, rel=1e-6)
