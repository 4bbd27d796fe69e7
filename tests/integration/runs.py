"""Short runs of the toy, and what they leave."""

import csv
from dataclasses import fields
from pathlib import Path

import torch
from toy import ToyModel, ToyTask
from transformers import Trainer, TrainingArguments

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

TIMES = ("runtime", "per_second", "preparation_time", "flos")  # ends of names in the logs


class OwnStep(Trainer):
    """A trainer whose step does not reach Trainer's own, as TRL's Online DPO."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs)) / self.current_gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.detach()


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


def logs(trainer):
    """What was logged, without clocks and retention."""
    return [
        {name: value for name, value in log.items() if not name.startswith("retention/") and not name.endswith(TIMES)}
        for log in trainer.state.log_history
    ]


def outcome(trainer):
    """All that a run leaves: weights, logs without clocks and retention, when it ended, which checkpoint was best."""
    state = trainer.state
    best = state.best_model_checkpoint and state.best_model_checkpoint.rsplit("/", maxsplit=1)[1]
    folders = sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))
    weights = {name: value.tolist() for name, value in trainer.model.state_dict().items()}
    return {
        "logs": logs(trainer),
        "weights": weights,
        "steps": state.global_step,
        "best": best,
        "checkpoints": folders,
    }
