"""``train`` and ``cache build`` on texts with images: anchors, training, questions about pictures."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_words import flags
from lm_folders import save_lines
from PIL import Image
from runs import history
from test_language_commands import RUN as OF_TEXTS
from test_language_commands import assert_same_weights
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlm_processors import vlm_and_processor

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.cli.main import main
from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.language.encoding import EncodingSettings
from craft_trainer.language.samples import TextSamples

UNCUT = EncodingSettings(max_length=None)
FAMILIES = ["smolvlm", "qwen2_vl", "paligemma"]  # a sample's images, patches of all images, images of all samples

RUN = OF_TEXTS | {"learned_inputs": "allow"}  # to SmolVLM's tiny tokenizer the old and the new texts are the same


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures of two sizes, texts about them, questions, and a model of each family."""
    folder = tmp_path_factory.mktemp("vlm")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (28, 28 + 14 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    words = ["open", "red puck", "door 12 13"]
    for name, start in (("new", 0), ("old", 5)):
        rows = [
            {"prompt": f"push the w{start + n} :", "completion": words[n % 3], "image": f"{n % 4}.png"}
            for n in range(14, 26)
        ]
        save_lines(folder / f"{name}.jsonl", rows)
    asked = [
        {
            "question": f"the puck w{20 + n}",
            "choices": ["open", "door"],
            "answer_index": n % 2,
            "image_path": f"{n}.png",
        }
        for n in range(4)
    ]
    save_lines(folder / "questions.jsonl", asked)
    for name in FAMILIES:
        model, processor = vlm_and_processor(name)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::FutureWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_path(place, tmp_path, name, capsys):
    """Anchors verified, held in training, and what comes out asked about pictures. Seen to fail with pixels left out
    of the batches."""
    model, cache = place / name, tmp_path / "cache"
    built = flags(teacher=model, dataset=place / "old.jsonl", output_dir=cache, anchors=8, batch_size=4, num_tokens=8)
    assert main(["cache", "build", *built, *flags(layers=-1, pooling="mean_image_tokens", max_length=0)]) == 0
    assert main(["cache", "verify", *flags(cache=cache, teacher=model, batch_size=3)]) == 0
    assert capsys.readouterr().out.count(" recomputed on 8 anchors") == 3  # a feature, the task loss and the tokens
    assert any("pixel_values" in column for column in AnchorCache(cache).dataset.column_names)
    settings = RUN | {
        "model": model,
        "dataset": place / "new.jsonl",
        "anchors": cache,
        "output_dir": tmp_path / "craft",
    }
    settings |= {"retention_terms": ["hidden", "token_kl"], "per_device_train_batch_size": 4, "max_length": 0}
    settings |= {"mcq_data": place / "questions.jsonl", "mcq_steps": 2}
    assert main(["train", *flags(**settings)]) == 0
    rows = history(tmp_path / "craft")
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-5)
    assert all(row["retention_loss"] > 1e-5 for row in rows[1:])
    AutoModelForImageTextToText.from_pretrained(tmp_path / "craft")
    AutoProcessor.from_pretrained(tmp_path / "craft")
    words = flags(model=model, compare=tmp_path / "craft", data=place / "questions.jsonl", output=tmp_path / "mcq.json")
    assert main(["mcq", *words]) == 0
    document = json.loads((tmp_path / "mcq.json").read_text())
    assert document["comparison"]["num_items"] == 4
    assert any(
        one["log_likelihoods"] != two["log_likelihoods"]
        for one, two in zip(document["items"], document["compare"]["items"], strict=True)
    )


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["qwen2_vl", "paligemma"])
def test_resumed_is_never_interrupted(place, tmp_path, name):
    """Seen to fail with Trainer's own loading: the language model began again with the weights it had at the start."""
    settings = RUN | {"model": place / name, "dataset": place / "new.jsonl", "max_length": 0}
    settings |= {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    for run in ("whole", "cut"):
        assert main(["train", *flags(**settings, output_dir=tmp_path / run)]) == 0
    shutil.rmtree(tmp_path / "cut/checkpoint-4")
    (tmp_path / "cut/model.safetensors").unlink()
    assert main(["train", *flags(**settings, output_dir=tmp_path / "cut", resume_from_checkpoint="last")]) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::FutureWarning")
def test_an_adapter_without_a_cache(place, tmp_path):
    """The model without its adapter looks at the pictures of the old texts."""
    settings = RUN | {"model": place / "smolvlm", "dataset": place / "new.jsonl", "output_dir": tmp_path}
    settings |= {"anchors": "adapter", "anchors_dataset": place / "old.jsonl", "lora_rank": 2, "max_length": 0}
    settings |= {"layers": -1, "pooling": "mean_image_tokens", "retention_terms": ["hidden", "token_kl"]}
    assert main(["train", *flags(**settings | {"learning_rate": 0.05})]) == 0
    rows = history(tmp_path)
    assert rows[0]["retention_loss"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["retention_loss"] > 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::FutureWarning")
def test_references_are_followed_into_pictures(place, tmp_path, capsys):
    """No pixel is in the cache; another picture of the same size is another dataset. Seen
    to fail with a fingerprint of the texts alone."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (*place.glob("*.png"), place / "old.jsonl"):
        (folder / path.name).write_bytes(path.read_bytes())
    words = flags(teacher=place / "smolvlm", dataset=folder / "old.jsonl", output_dir=tmp_path / "cache", anchors=8)
    assert main(["cache", "build", *words, *flags(inputs="reference", batch_size=4)]) == 0
    check = ["cache", "verify", *flags(cache=tmp_path / "cache", teacher=place / "smolvlm", batch_size=3)]
    assert main(check) == 0
    (folder / "0.png").write_bytes((folder / "2.png").read_bytes())
    assert main(check) == 1
    assert "but the dataset found there has" in capsys.readouterr().err


def test_texts_to_evaluate_on_keep_their_own_pictures(place):
    """Trainer has one collator for both. Seen to fail with the rows of the collator's dataset read."""
    other = [{"prompt": "push the w20 :", "completion": "open", "image": f"{n}.png"} for n in (3, 2, 1)]
    save_lines(place / "other.jsonl", other)
    checkpoint = load_checkpoint(str(place / "smolvlm"), dtype="float32")
    learned, held_out = (
        TextSamples.open(str(place / name), checkpoint.model, checkpoint.processor, settings=UNCUT)
        for name in ("new.jsonl", "other.jsonl")
    )
    collated, own = learned.collate([held_out[row] for row in range(3)]), held_out.batch(range(3))
    assert collated.keys() == own.keys()
    assert all(torch.equal(collated[key], own[key]) for key in own)
    assert not torch.equal(own["pixel_values"], learned.batch(range(3))["pixel_values"])
