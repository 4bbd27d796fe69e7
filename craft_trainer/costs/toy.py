"""A toy for `bench run`: a small language model that has learned old texts, new ones, anchors with and without old."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from craft_trainer.costs.llama import Size, language_model
from craft_trainer.costs.mcq import NUM_WORDS, word_tokenizer
from craft_trainer.files import write_atomically

SIZE = Size(hidden=128, intermediate=352, layers=4, heads=2)
NUM_TEXTS, NUM_ANCHORS, TEXT_WORDS = 512, 128, 48
TRAINING = """\
max_steps: 60
per_device_train_batch_size: 16
learning_rate: 0.001
logging_steps: 30
save_strategy: "no"
report_to: none
"""


class Toy(NamedTuple):
    """Folders and files of the toy, and the commands that make the rest of them."""

    model: str
    dataset: str
    training: str
    anchors: list[str]
    held_out: str
    commands: list[tuple[str, ...]]


def make_toy(folder: Path) -> Toy:
    """Write a model with random weights, old and new texts of different words, and the settings of its training.

    The first of the commands trains it on the old texts: one that knows nothing has nothing to forget.
    """
    folder.mkdir(parents=True)
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    model = language_model(replace(SIZE, vocabulary=len(tokenizer)))
    model.save_pretrained(folder / "untrained")
    tokenizer.save_pretrained(folder / "untrained")
    half = NUM_WORDS // 2
    for name, words, num_texts in (
        ("learned", range(half), NUM_TEXTS),
        ("old", range(half), NUM_ANCHORS),
        ("held_out", range(half), NUM_ANCHORS),
        ("new", range(half, NUM_WORDS), NUM_TEXTS),
    ):
        write_texts(folder / f"{name}.jsonl", words, num_texts)
    write_atomically(folder / "training.yaml", TRAINING)
    held_out, old, own = (str(folder / name) for name in ("held_out_texts", "old_texts", "own_texts"))
    teacher, training = str(folder / "model"), str(folder / "training.yaml")
    learn = ("train", "--config", training, "--method", "plain", "--model", str(folder / "untrained"))
    build = ("cache", "build", "--teacher", teacher, "--anchors", str(NUM_ANCHORS))
    return Toy(
        teacher,
        str(folder / "new.jsonl"),
        training,
        [old, own],
        held_out,
        [
            (*learn, "--dataset", str(folder / "learned.jsonl"), "--output_dir", teacher),
            (*build, "--dataset", str(folder / "old.jsonl"), "--output_dir", old),
            (*build, "--source", "own_texts", "--own_tokens", str(TEXT_WORDS), "--output_dir", own),
            (*build, "--dataset", str(folder / "held_out.jsonl"), "--output_dir", held_out),
        ],
    )


def write_texts(file: Path, words: range, num_texts: int) -> None:
    """Write texts of random ``words``, a line each; others for another name of the ``file``."""
    random = Random(file.name)
    texts = (" ".join(f"w{random.choice(words)}" for _ in range(TEXT_WORDS)) for _ in range(num_texts))
    write_atomically(file, "".join(json.dumps({"text": text}) + "\n" for text in texts))
