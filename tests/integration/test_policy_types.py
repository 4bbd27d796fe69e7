"""Every LeRobot policy type the whole way: teacher, anchors of every pooling, verify, three CRaFT steps, reload."""

import pytest
import torch
from policies import SIZE, batch_of, tiny_policy_maker
from runs import BASE, history

from craft_trainer import CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.lerobot import PolicyModel
from craft_trainer.models.pooling import POOLINGS

CAMERAS = ("front", "wrist")
NUM_ANCHORS = 9
SETTINGS = BASE | {"max_steps": 3, "retention_batch_size": 4, "learning_rate": 0.01, "epsilon": 1e-4}


@pytest.fixture(scope="module")
def make_twin(tmp_path_factory):
    with tiny_policy_maker(tmp_path_factory.mktemp("tiny")) as make:
        yield make


def samples(model, seed):
    """Three raw samples, without noise."""
    return {key: value for key, value in batch_of(model, CAMERAS, seed=seed).items() if not key.startswith("noise/")}


def loader(model):
    """Loads the samples at some rows: three of each batch."""
    batches = [samples(model, seed) for seed in range(NUM_ANCHORS // 3)]

    def load(rows):
        chosen = [{key: value[row % 3] for key, value in batches[row // 3].items()} for row in rows]
        return {
            key: [sample[key] for sample in chosen] if key == "task" else torch.stack([s[key] for s in chosen])
            for key in chosen[0]
        }

    return load


@pytest.mark.parametrize("kind", sorted(SIZE))
def test_a_policy_type_goes_the_whole_way(kind, make_twin, tmp_path):
    """Seen to fail with a checkpoint whose weights were not loaded."""
    empty = {} if kind == "diffusion" else {"empty_cameras": 1}
    make_twin(kind, cameras=CAMERAS, **empty).save_pretrained(tmp_path / "teacher")
    teacher = PolicyModel.from_pretrained(tmp_path / "teacher")
    specs = [FeatureSpec(teacher.module_path(-2), p) for p in POOLINGS if p != "mean_image_tokens"]
    if kind != "diffusion":
        specs.append(FeatureSpec(teacher.module_path(0), "mean_image_tokens"))
    cache = build_anchor_cache(
        teacher,
        loader(teacher),
        tmp_path / "anchors",
        rows=range(NUM_ANCHORS),
        groups=["old"] * NUM_ANCHORS,
        specs=specs,
        batch_size=4,
        source={"dataset": "toy", "frames": NUM_ANCHORS},
        teacher_path=str(tmp_path / "teacher"),
    )
    found = deviations(cache, PolicyModel.from_pretrained(tmp_path / "teacher"), num_rows=NUM_ANCHORS, batch_size=5)
    kept = "output" if teacher.output_kind == "numbers" else "tokens"
    assert set(found) == {*(spec.column for spec in specs), kept, "task"}
    assert max(found.values()) < 1e-4

    student = PolicyModel.from_pretrained(tmp_path / "teacher")
    terms = ["hidden", "output" if student.output_kind == "numbers" else "token_kl", "task"]
    trainer = CraftTrainer(
        student,
        CraftConfig(output_dir=str(tmp_path / "craft"), **SETTINGS | {"retention_terms": terms}),
        anchors=cache,
        train_dataset=list(range(24)),
        data_collator=lambda rows: samples(student, seed=100 + rows[0]),
    )
    trainer.train()
    trainer.save_model()
    rows = history(tmp_path / "craft")
    start = 2e-3 if kind == "diffusion" else 1e-5  # its BatchNorm has seen a batch of the task before the first pass
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=start)
    assert len(rows) == 3
    assert all(abs(row["retention_loss"]) > 1e-4 for row in rows[1:])
    assert all(row["retention_grad_norm"] > 0 for row in rows[1:])

    reloaded = PolicyModel.from_pretrained(tmp_path / "craft")
    batch = cache.batch([1, 7]).inputs
    with torch.no_grad():
        ours, theirs = (m.eval().predict(m.prepare(batch)) for m in (student, reloaded))
        before = teacher.eval().predict(teacher.prepare(batch))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)
