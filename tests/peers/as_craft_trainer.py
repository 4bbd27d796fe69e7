"""A pytest plugin that gives CraftTrainer to whoever asks transformers for Trainer, with the arguments as they are.

    PYTHONPATH=tests/peers pytest -p as_craft_trainer tests/trainer   # in a checkout of transformers

Load it with ``-p``: it must act before a test is imported.
"""

import sys

import pytest
from transformers.trainer import Trainer
from transformers.trainer_seq2seq import Seq2SeqTrainer

from craft_trainer import retaining

RETAINING = {"Trainer": retaining(Trainer), "Seq2SeqTrainer": retaining(Seq2SeqTrainer)}
THEIRS = (Trainer, Seq2SeqTrainer)


def replace_trainers() -> None:
    """Put the trainers with retention in the place of those without, in every module of transformers."""
    vars(sys.modules["transformers"]).update(RETAINING)  # after `import transformers`, that name is another module
    for module_name, module in list(sys.modules.items()):
        for name, made in RETAINING.items():
            if module_name.startswith("transformers.") and vars(module).get(name) in THEIRS:
                setattr(module, name, made)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop if a test module has got hold of Trainer itself: its tests would say nothing of CraftTrainer."""
    for module in {item.module for item in session.items}:
        for name, made in RETAINING.items():
            if vars(module).get(name, made) is not made:
                raise pytest.UsageError(f"{module.__name__}.{name} is not {made.__name__}")


replace_trainers()
