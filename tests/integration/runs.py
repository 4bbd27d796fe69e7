"""Short runs of the toy, and what they leave."""

import csv
from dataclasses import fields

import torch
from toy import ToyModel, ToyTask
from transformers import TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer

BASE = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.05,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "retention_batch_size": 8,
    "epsilon": 1e-3,
    "multiplier_lr": 5.0,
    "update_angle_every": 1,
}
ONLY_CRAFT = {field.name for field in fields(CraftConfig)} - {field.name for field in fields(TrainingArguments)}


def run(tmp_path, anchors, *, callbacks=(), resume=None, **changes):
    trainer = CraftTrainer(
        ToyModel(),
        CraftConfig(output_dir=str(tmp_path), **BASE | changes),
        anchors=anchors,
        train_dataset=ToyTask(),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def history(folder):
    with (folder / "lambda_history.csv").open() as file:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
