"""CRaFT on vision-language models: images in anchors, with a cache and without one."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import BASE, history
from tiny_vlm import FAMILIES, samples, tiny_vlm

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.families import as_anchored_model

ANCHORS = 8
SETTINGS = BASE | {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "retention_batch_size": 4,
    "retention_terms": ["hidden", "token_kl"],
    "learning_rate": 0.01,
    "remove_unused_columns": False,
}


def old_rows(name):
    """Loads anchors: an image in each sample, all samples of one length, so that their batches can be cached."""
    return lambda rows: {
        key: torch.cat([samples(name, [1], seed=100 + row, length=24)[key] for row in rows])
        for key in samples(name, [1])
    }


def specs(model):
    path = as_anchored_model(model).module_path(-2)
    return [FeatureSpec(path, "mean_image_tokens"), FeatureSpec(path, "mean_masked")]


def train(folder, name, model, anchors, **changes):
    trainer = CraftTrainer(
        model,
        CraftConfig(output_dir=str(folder), **SETTINGS | changes),
        anchors=anchors,
        train_dataset=list(range(16)),
        data_collator=lambda rows: samples(name, [1 + row % 2 for row in rows], seed=sum(rows)),
    )
    trainer.train()
    return trainer


def assert_retention_sets_in(folder):
    """It starts at the teacher, whose own features it recomputes, and leaves it."""
    rows = history(folder)
    assert len(rows) == 3
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert all(row["retention_loss"] > 1e-5 for row in rows[1:])
    assert all(row["retention_grad_norm"] > 0 for row in rows[1:])


@pytest.mark.parametrize("terms", [["hidden"], ["token_kl"], ["hidden", "token_kl"]])
@pytest.mark.parametrize("name", ["paligemma", "qwen2_vl"])
def test_three_steps_with_an_adapter(tmp_path, name, terms):
    """Two images of the new task and one of the old, in models whose batches are rows of images or of patches. Seen to
    fail with the teacher's features taken in training mode."""
    base = tiny_vlm(name)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    anchors = AdapterAnchors(as_anchored_model(model), old_rows(name), ["old"] * ANCHORS, specs(model), num_tokens=8)
    before = {path: value.detach().clone() for path, value in base.named_parameters() if "lora_" not in path}
    train(tmp_path, name, model, anchors, retention_terms=terms)
    assert_retention_sets_in(tmp_path)
    assert all(torch.equal(value, base.get_parameter(path)) for path, value in before.items())


def mixed_rows(name):
    """Loads anchors of one or two images and of different lengths, padded to the longest of their batch."""
    return lambda rows: samples(name, [1 + row % 2 for row in rows], seed=sum(rows))


@pytest.mark.parametrize("name", FAMILIES)
def test_three_steps_with_a_cache(tmp_path, name):
    """Samples with other numbers of images and tokens meet in a batch. Seen to fail with pixels that the cache leaves
    out, and with patches cut at the wrong sample."""
    teacher = as_anchored_model(tiny_vlm(name))
    anchors = build_anchor_cache(
        teacher,
        mixed_rows(name),
        tmp_path / "cache",
        rows=range(ANCHORS),
        groups=["old"] * ANCHORS,
        specs=specs(tiny_vlm(name)),
        batch_size=4,
        source={"dataset": "images", "frames": ANCHORS},
        teacher_path="tiny",
        num_tokens=8,
    )
    for rows in ([0, 1, 2, 3], [7, 2, 5], [4]):
        batch = anchors.batch(rows)
        live = extract(teacher, batch.inputs, anchors.specs, output=True)
        for column, cached in batch.teacher.hidden.items():
            torch.testing.assert_close(live.hidden[column], cached, rtol=1e-4, atol=1e-5)
    assert max(deviations(anchors, teacher, num_rows=8, batch_size=3).values()) < 1e-4
    trainer = train(tmp_path / "run", name, tiny_vlm(name), anchors)
    assert_retention_sets_in(tmp_path / "run")
    start = dict(tiny_vlm(name).named_parameters())
    moved = {path for path, value in trainer.model.named_parameters() if not torch.equal(value, start[path])}
    assert any(path.startswith(FAMILIES[name].decoder) for path in moved)
    assert any("vis" in path for path in moved)
