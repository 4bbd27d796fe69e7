"""What quantised weights refuse; none of it needs bitsandbytes. tests/integration/test_quantized.py quantises."""

import json
import re
from importlib.machinery import ModuleSpec

import pytest
from lm_folders import save_tiny_lm

from craft_trainer.evaluation.choices.opening import open_choices
from craft_trainer.language.checkpoints import Lora, load_checkpoint
from craft_trainer.models import quantization
from craft_trainer.models.base import weights_digest
from craft_trainer.models.pretrained import load_adapter
from craft_trainer.models.quantization import RECORD, SETTINGS, method_of, record, recorded

NEEDED = re.escape("needs bitsandbytes: pip install 'craft-trainer[quantization]'")


@pytest.fixture
def folder(tmp_path):
    return save_tiny_lm(tmp_path / "model")


@pytest.fixture
def saved_quantised(folder):
    """A folder that says of itself what one with quantised weights says."""
    file = folder / "config.json"
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": said}))
    return folder


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)


@pytest.fixture
def installed(monkeypatch):
    """As far as it is only asked whether it is."""
    monkeypatch.setattr(quantization, "find_spec", lambda name: ModuleSpec(name, None))


def adapter_on(folder, place, said):
    """An adapter whose configuration has ``said`` of its base."""
    load_checkpoint(str(folder), dtype=None, lora=Lora(2)).model.save_pretrained(place)
    file = place / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": said}))
    return place


@pytest.mark.parametrize("load", [load_checkpoint, open_choices])
def test_another_number_of_bits_is_refused_with_those_there_are(folder, load):
    with pytest.raises(ValueError, match="quantization is '3bit': choose 4bit, 8bit, or leave it out"):
        load(str(folder), dtype=None, quantization="3bit")


@pytest.mark.usefixtures("without")
def test_without_bitsandbytes_it_is_named(folder, tmp_path):
    with pytest.raises(ImportError, match=f"quantization 4bit {NEEDED}"):
        load_checkpoint(str(folder), dtype=None, quantization="4bit")
    adapter = adapter_on(folder, tmp_path / "adapter", record("8bit"))
    with pytest.raises(ImportError, match=f"{re.escape(str(adapter))}, whose base was quantised .8bit., {NEEDED}"):
        load_checkpoint(str(adapter), dtype=None)


@pytest.mark.usefixtures("without")
def test_a_folder_of_quantised_weights_says_that_it_needs_bitsandbytes(saved_quantised):
    for load in (load_checkpoint, open_choices):
        with pytest.raises(ImportError, match=f"saved quantised .4bit., {NEEDED}"):
            load(str(saved_quantised), dtype=None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("bits", SETTINGS)
def test_quantised_weights_are_not_trained(folder, bits):
    """Nothing was loaded by then."""
    with pytest.raises(ValueError, match=rf"are quantised \({bits}\), so they cannot be trained.*\(lora_rank\)"):
        load_checkpoint(str(folder), dtype=None, quantization=bits, trainable=True)


@pytest.mark.usefixtures("installed")
def test_a_folder_of_quantised_weights_is_treated_the_same(saved_quantised):
    with pytest.raises(ValueError, match=r"are quantised \(4bit\), so they cannot be trained"):
        load_checkpoint(str(saved_quantised), dtype=None, trainable=True)
    for load in (load_checkpoint, open_choices):
        with pytest.raises(ValueError, match=r"are saved quantised \(4bit\) already: leave quantization out"):
            load(str(saved_quantised), dtype=None, quantization="8bit")


@pytest.mark.usefixtures("installed")
def test_an_adapter_stays_on_the_base_that_it_was_trained_on(folder, tmp_path):
    adapter = adapter_on(folder, tmp_path / "adapter", record("8bit"))
    with pytest.raises(ValueError, match="was trained on a 8bit base, and quantization is 4bit: leave it out"):
        load_adapter(adapter, None, quantization="4bit")
    strange = adapter_on(folder, tmp_path / "strange", {RECORD: {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}})
    with pytest.raises(ValueError, match=f"adapter_config.json: {RECORD} is .*fp4"):
        load_adapter(strange, None)


def test_what_is_recorded_is_read_again_and_other_methods_are_known_by_name(folder):
    assert [recorded({"auto_mapping": record(bits)}) for bits in SETTINGS] == list(SETTINGS)
    assert recorded({"auto_mapping": record(None)}) is recorded({}) is None
    assert method_of({"quantization_config": {"quant_method": "gptq", "bits": 4}}) == "gptq"
    plain = load_checkpoint(str(folder), dtype=None)
    adapted = load_checkpoint(str(folder), dtype=None, lora=Lora(2))
    assert adapted.model.active_peft_config.auto_mapping is None
    assert weights_digest(adapted.model) == weights_digest(plain.model)
