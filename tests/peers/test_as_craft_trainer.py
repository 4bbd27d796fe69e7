"""The plugin that runs the tests of transformers against CraftTrainer does replace Trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPLACED = """
import transformers
from transformers import Seq2SeqTrainer, Trainer

from craft_trainer import CraftTrainer, retaining

def test_everyone_gets_it():
    assert Trainer is transformers.Trainer is transformers.trainer.Trainer is CraftTrainer
    assert Seq2SeqTrainer is retaining(transformers.trainer_seq2seq.Seq2SeqTrainer)
    assert Seq2SeqTrainer.__name__ == "CraftSeq2SeqTrainer"
"""
KEPT = """
from craft_trainer.hub.hub_trainer import Trainer

def test_of_trainer_itself():
    pass
"""


@pytest.mark.parametrize(("text", "code", "printed"), [(REPLACED, 0, "1 passed"), (KEPT, 4, "Trainer is not Craft")])
def test_a_test_module_gets_craft_trainer_or_is_refused(tmp_path, text, code, printed):
    """`import transformers` in the plugin would be another module object than that of the tests."""
    (tmp_path / "test_theirs.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "as_craft_trainer", "-c", os.devnull, str(tmp_path)]
    folders = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": folders}, check=False
    )
    assert (run.returncode, printed in run.stdout + run.stderr) == (code, True), run.stdout + run.stderr
