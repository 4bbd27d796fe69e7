"""Columns of a dataset that the model does not read: left out as by Trainer, if the model is one of HuggingFace."""

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import BASE, ONLY_CRAFT
from tiny_encoders import Samples, tiny
from tiny_lm import TokenTask, collate, tiny_llama
from toy import ToyModel, ToyTask
from transformers import Trainer, TrainingArguments

from craft_trainer import CraftConfig, CraftTrainer

GIVEN = {name: value for name, value in BASE.items() if name not in ONLY_CRAFT}


def mapped(name):
    """A dataset as ``map(tokenize)`` leaves it: with its texts and its numbers beside the tokens."""
    samples = Samples(name)
    return datasets.Dataset.from_dict(
        {
            "sentence": [f"text {index}" for index in range(len(samples))],
            "idx": list(range(len(samples))),
            "input_ids": samples.ids.tolist(),
            "labels": samples.labels.tolist(),
        }
    )


def as_tensors(samples):
    return {key: torch.tensor([sample[key] for sample in samples]) for key in samples[0]}


def test_a_dataset_with_its_texts_is_trained_as_by_trainer(tmp_path):
    """Seen to fail: ``too many dimensions 'str'``, because the texts reached the collator."""
    found = []
    for kind, config in ((Trainer, TrainingArguments), (CraftTrainer, CraftConfig)):
        trainer = kind(
            tiny("bert_classifier"),
            config(output_dir=str(tmp_path), **GIVEN),
            train_dataset=mapped("bert_classifier"),
            data_collator=as_tensors,
        )
        trainer.train()
        found.append(trainer.model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class OfThisPackage(TokenTask):
    """Samples that this package reads have all that their collator needs."""

    def fingerprint(self):
        return ""

    def rows_in_common(self, inputs, learned=None):
        return []


def Raw():  # noqa: N802
    """Texts that the collator makes tokens of; Trainer refuses them."""
    return datasets.Dataset.from_dict({"sentence": ["a text", "another"]})


@pytest.mark.parametrize(
    ("make", "data", "resolved"),
    [
        (tiny_llama, TokenTask, True),
        (lambda: get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"])), TokenTask, True),
        (tiny_llama, OfThisPackage, None),
        (tiny_llama, Raw, None),
        (ToyModel, ToyTask, None),
    ],
)
def test_columns_are_left_out_of_huggingfaces_models_only(make, data, resolved, tmp_path):
    """What is given holds, and the arguments stay as they are for another trainer."""
    config = CraftConfig(output_dir=str(tmp_path), **GIVEN)
    collator = collate if data is not ToyTask else None
    trainer = CraftTrainer(make(), config, collator, data())
    assert trainer.args.remove_unused_columns is resolved
    assert config.remove_unused_columns is None
    for given in (True, False):
        config = CraftConfig(output_dir=str(tmp_path), **GIVEN, remove_unused_columns=given)
        assert CraftTrainer(make(), config, collator, data()).args.remove_unused_columns is given
