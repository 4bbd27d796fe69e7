"""A tiny language model with its tokenizer, and files of texts for it."""

import pytest
from lm_folders import save_lines, save_tiny_lm

from craft_trainer.language.checkpoints import load_checkpoint


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory):
    return save_tiny_lm(tmp_path_factory.mktemp("lm") / "model")


@pytest.fixture(scope="session")
def lm(lm_folder):
    """Model and tokenizer; do not train it."""
    return load_checkpoint(str(lm_folder), dtype="float32")


@pytest.fixture
def lines(tmp_path):
    """Writes rows as a file of JSON lines and returns its name."""
    return lambda rows, name="texts.jsonl": str(save_lines(tmp_path / name, rows))
