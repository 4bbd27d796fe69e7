"""What a language model needs and is not there: PEFT, or a way to read the texts that a cache refers to."""

import sys
from types import SimpleNamespace

import pytest

from craft_trainer.language.checkpoints import Lora
from craft_trainer.language.source import followed
from craft_trainer.models import pretrained


def test_an_adapter_needs_peft(lm, lm_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"a LoRA adapter needs PEFT: pip install 'craft-trainer\[peft\]'"):
        Lora(2).wrapped(lm.model, None)
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"is a PEFT adapter: pip install 'craft-trainer\[peft\]'"):
        pretrained.base_of_adapter(lm_folder)


def test_references_that_cannot_be_followed_are_refused(lm):
    provenance = SimpleNamespace(storage={"inputs": "reference"}, data={"dataset": "texts.jsonl"})
    cache = SimpleNamespace(folder="anchors", provenance=provenance, holds_inputs=lambda dataset: False)
    with pytest.raises(ValueError, match=r"anchors refers to texts\.jsonl but does not say how to read it: rebuild"):
        followed(cache, lm)
