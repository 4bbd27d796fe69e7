"""Every family in the same five ways: nothing without anchors, nothing at the start, then it is held, and goes on."""

import pytest
import torch
from every_family import FAMILIES
from peft import LoraConfig, get_peft_model
from runs import BASE, assert_same_weights, history, weights
from transformers import Trainer, TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.torch_model import TorchModel

NUM_ANCHORS = 16
PLAIN = {
    **{name: BASE[name] for name in ("report_to", "disable_tqdm", "use_cpu", "dataloader_pin_memory", "logging_steps")},
    "per_device_train_batch_size": 8,
    "save_strategy": "no",
    "learning_rate": 5e-3,
    "max_steps": 4,
    "remove_unused_columns": False,
}
HELD = {"retention_batch_size": 8, "epsilon": 1e-4, "multiplier_init": 10.0}
every_family = pytest.mark.parametrize("name", FAMILIES)


def old_rows(family):
    known = family.samples(seed=2)
    return lambda rows: family.collate([known[row] for row in rows])


def build(folder, family):
    teacher = as_anchored_model(family.make())
    return build_anchor_cache(
        teacher,
        old_rows(family),
        folder,
        rows=range(NUM_ANCHORS),
        groups=["old"] * NUM_ANCHORS,
        specs=[FeatureSpec(teacher.module_path(family.layer), "mean_masked")],
        batch_size=8,
        source={"dataset": "old", "frames": NUM_ANCHORS},
        teacher_path="tiny",
    )


def trainer(family, folder, *, anchors=None, model=None, **changes):
    held = HELD | {"retention_terms": list(family.terms)} if anchors is not None else {}
    return CraftTrainer(
        model or family.make(),
        CraftConfig(output_dir=str(folder), **PLAIN | held | changes),
        anchors=anchors,
        train_dataset=family.samples(),
        data_collator=family.collate,
    )


def trained(*args, resume=None, **kwargs):
    made = trainer(*args, **kwargs)
    made.train(resume_from_checkpoint=resume)
    return made


@every_family
def test_without_anchors_it_is_trainer(name, tmp_path):
    family = FAMILIES[name]
    plain = Trainer(
        family.make(),
        TrainingArguments(output_dir=str(tmp_path / "plain"), **PLAIN),
        train_dataset=family.samples(),
        data_collator=family.collate,
    )
    plain.train()
    assert_same_weights(weights(plain), weights(trained(family, tmp_path / "craft")))


@every_family
def test_an_untouched_student_has_lost_nothing_and_a_run_resumes(name, tmp_path):
    """L_retain is 0 at the first pass and not later; a run that was cut in two is the whole, bit for bit."""
    family = FAMILIES[name]
    anchors = build(tmp_path / "anchors", family)
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trained(family, tmp_path / "whole", anchors=anchors, **saving)
    rows = history(tmp_path / "whole")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert all(row["retention_loss"] > 1e-5 and row["retention_grad_norm"] > 0 for row in rows[1:])
    resumed = trained(family, tmp_path / "again", anchors=anchors, resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same_weights(weights(whole), weights(resumed))
    assert rows[2:] == history(tmp_path / "again")[-2:]


@every_family
def test_what_was_lost_comes_back(name, tmp_path):
    """L_retain falls from a student that has forgotten, where λ makes it count a hundred times the task."""
    family = FAMILIES[name]
    anchors, student = build(tmp_path / "anchors", family), family.make()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * parameter.std(correction=0) * noise)
    trained(
        family,
        tmp_path / "run",
        anchors=anchors,
        model=student,
        max_steps=12,
        learning_rate=family.recovery_rate,
        multiplier="fixed",
        multiplier_init=100.0,
        teacher_mismatch="allow",
    )
    rows = history(tmp_path / "run")
    assert rows[0]["retention_loss"] > 1e-3
    assert rows[-1]["retention_loss"] < 0.5 * rows[0]["retention_loss"]


def adapted(family):
    torch.manual_seed(4)
    settings = LoraConfig(r=2, target_modules=list(family.adapted), task_type=family.task_type, lora_dropout=0.0)
    model = family.make()
    if isinstance(model, TorchModel):
        model.wrapper = get_peft_model(model.wrapper, settings)
        return model
    return get_peft_model(model, settings)


@every_family
def test_a_cache_holds_what_a_live_teacher_does(name, tmp_path):
    """The base model of an adapter, asked beforehand or at every step."""
    family, model = FAMILIES[name], adapted(FAMILIES[name])
    view = as_anchored_model(model)
    spec = FeatureSpec(view.module_path(family.layer), "mean_masked")
    live = AdapterAnchors(view, old_rows(family), ["old"] * NUM_ANCHORS, [spec])
    cached = build(tmp_path / "anchors", family)
    assert cached.specs == live.specs
    runs = [
        trained(family, tmp_path / folder, anchors=anchors, model=student)
        for folder, anchors, student in (("live", live, model), ("cached", cached, adapted(family)))
    ]
    rows = [history(tmp_path / folder) for folder in ("live", "cached")]
    assert rows[0][-1]["retention_loss"] > 1e-6
    for mine, theirs in zip(*rows, strict=True):
        assert mine["retention_loss"] == pytest.approx(theirs["retention_loss"], rel=1e-3, abs=1e-6)
    for key, value in weights(runs[0]).items():
        torch.testing.assert_close(value, weights(runs[1])[key], rtol=1e-3, atol=1e-4)
