"""CRaFT on classifiers, reward models, and SentenceTransformers: they learn while their anchors are held."""

import pytest
import torch
from runs import BASE, assert_same_weights, history, weights
from tiny_encoders import Samples, collate, encoder_anchors, old_rows, sentence_transformer, tiny
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from craft_trainer import CraftConfig, CraftTrainer, retaining, retaining_config
from craft_trainer.anchors.features import extract
from craft_trainer.losses.replay import task_loss
from craft_trainer.models.families import as_anchored_model

RUN = BASE | {"learning_rate": 5e-3, "max_steps": 12}
HEADS = ("bert_classifier", "llama_reward", "vit_classifier")


def settings_of(anchors):
    return RUN if anchors is None else RUN | {"retention_terms": ["hidden", "output"]}


def train(folder, name, anchors, *, model=None, resume=None, **changes):
    trainer = CraftTrainer(
        model or tiny(name),
        CraftConfig(output_dir=str(folder), **settings_of(anchors) | changes),
        anchors=anchors,
        train_dataset=Samples(name),
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def moved(model, anchors):
    """How far it is from its teacher: mean over anchors, in the teacher's variance."""
    batch = anchors.batch(range(len(anchors)))
    with torch.no_grad():
        now = extract(as_anchored_model(model), batch.inputs, anchors.specs, output=True)
    pairs = {"output": (now.output, batch.teacher.output)}
    pairs |= {column: (now.hidden[column], value) for column, value in batch.teacher.hidden.items()}
    return sum(((a - b).square().mean() / anchors.scales()[name]).item() for name, (a, b) in pairs.items())


@pytest.mark.parametrize("name", HEADS)
def test_it_learns_and_keeps(tmp_path, name):
    """Both trainings take the same steps on the same samples; without anchors more is lost."""
    anchors = encoder_anchors(tmp_path / "cache", name)
    held = train(tmp_path / "held", name, anchors)
    plain = train(tmp_path / "plain", name, None)
    assert moved(held.model, anchors) < 0.5 * moved(plain.model, anchors)
    rows = history(tmp_path / "held")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["retention_loss"] > 1e-6
    start = dict(tiny(name).named_parameters())
    assert all(not torch.equal(value, start[key]) for key, value in held.model.named_parameters() if "score" in key)


def test_the_task_loss_of_anchors_does_not_depend_on_their_padding(tmp_path):
    """What replay and EWC are made of. Seen to fail: Llama took the zeros that fill up a batch for its end."""
    anchors, model = encoder_anchors(tmp_path / "cache", "llama_reward"), tiny("llama_reward").eval()
    view = as_anchored_model(model)
    alone = [model(**old_rows("llama_reward")([row])).loss for row in range(8)]
    assert task_loss(view, anchors.batch(range(8))).item() == pytest.approx(sum(alone).item() / 8, rel=1e-5)
    train(tmp_path / "run", "llama_reward", anchors, method="replay", max_steps=2, retention_terms=["hidden"])
    assert history(tmp_path / "run")[-1]["retention_loss"] > 0


@pytest.mark.parametrize(
    ("name", "loader"),
    [("bert_classifier", AutoModelForSequenceClassification), ("vit_classifier", AutoModelForImageClassification)],
)
def test_its_card_says_what_loads_it(tmp_path, name, loader):
    """Seen to fail: a BERT of any head was said to be a causal language model."""
    trainer = train(tmp_path, name, None, max_steps=1)
    trainer.save_model()
    assert f"model = {loader.__name__}.from_pretrained(place)" in (tmp_path / "README.md").read_text()
    assert_same_weights(weights(trainer), loader.from_pretrained(tmp_path).state_dict())


def test_a_sentence_transformer_is_saved_as_one_and_cannot_be_replayed(tmp_path):
    """By the library's own trainer, which calls a loss and not the model, on pairs; its anchors are texts alone."""
    pytest.importorskip("sentence_transformers")
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    pairs = Dataset.from_dict({"left": ["w1 w2", "w4"], "right": ["w3", "w4 w2"], "score": [1.0, 0.0]})

    def run(folder, **held):
        model = sentence_transformer(tmp_path / "parts")
        arguments = retaining_config(SentenceTransformerTrainingArguments)(output_dir=str(folder), **RUN | held)
        given = {"model": model, "args": arguments, "train_dataset": pairs, "loss": CosineSimilarityLoss(model)}
        return retaining(SentenceTransformerTrainer)(**given, anchors=anchors if held else None)

    trainer = run(tmp_path / "saved")
    trainer.train()
    trainer.save_model()
    assert_same_weights(weights(trainer), SentenceTransformer(str(tmp_path / "saved"), device="cpu").state_dict())
    assert "model = SentenceTransformer(place)" in (tmp_path / "saved" / "README.md").read_text()
    anchors = encoder_anchors(tmp_path / "cache", "bert", sentence_transformer(tmp_path / "parts"))
    with pytest.raises(
        ValueError, match=r"method replay takes the model's own loss on the anchors, which .*compute_loss"
    ):
        run(tmp_path / "replay", method="replay", retention_terms=["hidden"])
