"""Policies with adapters under the trainer: they hold their base, and the adapter alone is saved."""

import json
import re
from typing import Any

import pytest
import torch
from runs import assert_same_weights, history, weights
from safetensors.torch import load_file

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.features import feature_specs
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.lerobot_dataset import PolicyDataset, collate

SETTINGS = {"r": 2, "target_modules": ["linear1", "linear2", "action_head"]}
RUN = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.02,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}
HELD = {"retention_batch_size": 8, "epsilon": 1e-3, "learned_inputs": "allow"}  # one dataset is both


def adapted(folder):
    model = PolicyModel.from_pretrained(folder)
    torch.manual_seed(1)
    model.add_adapter(SETTINGS)
    return model


def old_samples(model, folder):
    """Every fifth sample of the tiny dataset, with its group."""
    samples = PolicyDataset.of(model, str(folder))
    rows = list(range(0, len(samples), 5))
    tasks = samples.task_of_frame
    return samples, rows, [tasks[row] for row in rows]


def live(model, folder, specs):
    samples, rows, groups = old_samples(model, folder)
    return AdapterAnchors(model, lambda chosen: samples.batch([rows[row] for row in chosen]), groups, specs)


def trainer_of(model, dataset, folder, anchors=None, **changes):
    return CraftTrainer(
        model,
        CraftConfig(output_dir=str(folder), **RUN | (HELD if anchors is not None else {}) | changes),
        anchors=anchors,
        train_dataset=PolicyDataset.of(model, str(dataset)),
        data_collator=collate,
    )


@pytest.fixture
def specs(teacher):
    return feature_specs([PolicyModel.from_pretrained(teacher).module_path(-1)], ["none"])


def test_it_holds(teacher, tiny_dataset, specs, tmp_path):
    """With the same steps L_retain ends lower than it does under λ = 0."""
    ends = []
    for multiplier in (5.0, 0.0):
        model, folder = adapted(teacher), tmp_path / str(multiplier)
        changes = {"multiplier": "fixed", "multiplier_init": multiplier, "surgery": "none", "max_steps": 12}
        trainer_of(model, tiny_dataset, folder, live(model, tiny_dataset, specs), **changes).train()
        ends.append(history(folder)[-1]["retention_loss"])
    assert ends[0] < 0.8 * ends[1]


def test_the_adapter_alone_is_saved_and_loads(teacher, tiny_dataset, tmp_path):
    """Its base stays as it was. LeRobot once went on from a fresh adapter without a word (lerobot#3459)."""
    model = adapted(teacher)
    trainer = trainer_of(model, tiny_dataset, tmp_path, save_strategy="steps", save_steps=3)
    trainer.train()
    base = PolicyModel.from_pretrained(teacher).policy.state_dict()
    for name, tensor in model.policy.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(tensor, base[name.replace(".base_layer.", ".")]), name
    assert not (tmp_path / "checkpoint-3/model.safetensors").exists()
    assert all(".lora_" in name for name in load_file(tmp_path / "checkpoint-3/adapter_model.safetensors"))
    assert_same_weights(weights(trainer), PolicyModel.from_pretrained(tmp_path / "checkpoint-6").state_dict())


def test_the_code_of_the_card_loads_it(teacher, tiny_dataset, tmp_path, monkeypatch):
    """Without this package. The card of a policy was written for it, whose code looks for model.safetensors."""
    model = adapted(teacher)
    trainer = trainer_of(model, tiny_dataset, tmp_path)
    trainer.train()
    trainer.save_model()
    assert json.loads((tmp_path / "card.json").read_text())["adapter"] is True
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    loaded: dict[str, Any] = {}
    exec(code, loaded)
    assert_same_weights(loaded["policy"].get_base_model().state_dict(), model.policy.state_dict())
