"""Checkpoints that are not whole are refused by name; those that only look so are not."""

import json

import pytest
import torch
from bpe import bpe_tokenizer
from lm_folders import save_tiny_lm
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_vlm import FAMILIES, tiny_vlm
from transformers import AutoConfig, AutoModel

from craft_trainer.language.checkpoints import load_checkpoint
from craft_trainer.models.pretrained import load_adapter, load_model, load_processor, restore

UP = "model.layers.1.mlp.up_proj.weight"
LORA_B = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
NOT_WHOLE = "are not those of the model that its configuration describes"


@pytest.fixture
def folder(tmp_path):
    return save_tiny_lm(tmp_path / "model")


def change(folder, edit, name="model.safetensors"):
    tensors = load_file(folder / name)
    edit(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


def declare(folder, **fields):
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | fields))


@pytest.mark.parametrize(
    ("fields", "edit", "fault"),
    [
        ({}, lambda tensors: tensors.pop(UP), f"missing {UP}. "),
        ({}, lambda tensors: tensors.pop("lm_head.weight"), "missing lm_head.weight. "),
        ({}, lambda tensors: tensors.update({"v_head.weight": torch.ones(1)}), "unexpected v_head.weight. "),
        ({"num_hidden_layers": 10}, None, "missing model.layers.3.input_layernorm.weight, .* and 60 more"),
        ({"num_hidden_layers": 1}, None, "unexpected model.layers.1.input_layernorm.weight, .* and 15 more"),
        ({"intermediate_size": 8}, None, r"another shape .*up_proj.weight \(\[32, 16\] instead of \[8, 16\]\)"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(folder, fields, edit, fault):
    """Seen to fail with transformers' own loading, which draws what is missing at random and drops the rest."""
    declare(folder, **fields)
    if edit is not None:
        change(folder, edit)
    with pytest.raises(ValueError, match=f"{folder} {NOT_WHOLE}: .*{fault}"):
        load_model(folder, None)


@pytest.mark.parametrize("kind", ["t5", "vit", "bart"])
def test_a_model_of_another_shape_is_refused_by_its_name(kind, tmp_path):
    """BART's configuration is also that of a causal language model: its decoder alone."""
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    fault = f"holds a {kind}, and commands take causal language models, .* in a script"
    with pytest.raises(ValueError, match=rf"^{tmp_path} {fault}"):
        load_model(tmp_path, None)
    with pytest.raises(ValueError, match=rf"is no language or .* model of HuggingFace, and no policy is .* {fault}"):
        load_checkpoint(str(tmp_path), dtype=None)


def test_what_a_model_does_without_may_be_missing(folder, tmp_path):
    """A tied head; buffers of older checkpoints, by any name. Seen to fail with every name compared."""
    constants = [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.attn.masked_bias",
        "rotary_emb.inv_freq",
    ]
    change(folder, lambda tensors: tensors.update({name: torch.ones(4) for name in constants}))
    load_model(folder, None)
    tied = save_tiny_lm(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    AutoModel.from_pretrained(tied).save_pretrained(tmp_path / "headless")
    for name in ("tied", "headless"):
        model = load_model(tmp_path / name, None)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_tied_head_does_not_stand_for_its_embeddings(tmp_path):
    folder = save_tiny_lm(tmp_path / "model", tie_word_embeddings=True)
    change(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    with pytest.raises(ValueError, match=r"missing lm_head.weight, model.embed_tokens.weight"):
        load_model(folder, None)


@pytest.mark.parametrize(
    "written", ["[]", "{", "5", '{"model_type": 5}', '{"model_type": "llama", "hidden_size": "x"}', ""]
)
def test_a_configuration_that_is_none_is_named(folder, written):
    """Seen to fail with an AttributeError, and with a line of JSON's that named no file."""
    (folder / "config.json").write_text(written)
    with pytest.raises((ValueError, OSError), match=str(folder)):
        load_model(folder, None)


@pytest.mark.parametrize("written", ["[]", "{", "5", ""])
def test_an_adapters_description_that_is_none_is_named(folder, written):
    (folder / "adapter_config.json").write_text(written)
    with pytest.raises(ValueError, match=r"adapter_config\.json: (not JSON|holds a)"):
        load_adapter(folder, None)


@pytest.mark.parametrize("written", ["[]", "{", '{"model": 5}', ""])
def test_a_damaged_tokenizer_is_named(folder, written):
    """tokenizers raises a bare Exception, which was a traceback."""
    bpe_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(written)
    with pytest.raises(FileNotFoundError, match="no tokenizer for the model"):
        load_processor(load_model(folder, None), folder)


def test_a_file_that_was_cut_is_named(folder):
    """Seen to fail with the error of safetensors, which does not say which file it is about."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"the weights in {folder} cannot be loaded"):
        load_model(folder, None)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_vision_language_model_is_restored_whole_or_not_at_all(tmp_path, name):
    """Seen to fail with Trainer's loading by name: of four families only the vision tower was restored."""
    saved, model = tiny_vlm(name), tiny_vlm(name, seed=1)
    saved.save_pretrained(tmp_path)
    assert restore(model, tmp_path)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in saved.state_dict().items())
    lost = next(key for key in load_file(tmp_path / "model.safetensors") if "layers.1." in key)
    change(tmp_path, lambda tensors: tensors.pop(lost))
    for load in (lambda: load_model(tmp_path, None), lambda: restore(model, tmp_path)):
        with pytest.raises(ValueError, match=rf"{NOT_WHOLE}: missing .*layers.1."):
            load()


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda tensors: tensors.pop(LORA_B), f"{NOT_WHOLE}: missing .*layers.1.mlp.up_proj.lora_B"),
        (
            lambda tensors: tensors.update({LORA_B.replace("1", "7"): torch.ones(1)}),
            "unexpected .*layers.7.mlp.up_proj",
        ),
        (lambda tensors: tensors.update({LORA_B: torch.ones(3)}), "cannot be loaded: .*size mismatch for .*up_proj"),
        (lambda tensors: tensors.pop("base_model.model.lm_head.weight"), "cannot be loaded: .*lm_head.weight"),
    ],
    ids=["missing", "unexpected", "shape", "a module beside it"],
)
def test_an_adapter_that_is_not_whole_is_refused(folder, tmp_path, edit, fault):
    """Seen to fail with PEFT's own loading, which warns of what is missing and is silent of the rest."""
    base = load_model(folder, None)
    base.name_or_path = str(folder)
    settings = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", modules_to_save=["lm_head"])
    student, adapter = get_peft_model(base, settings), tmp_path / "adapter"
    student.save_pretrained(adapter)
    loaded, _ = load_adapter(adapter, None, trainable=True)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in student.state_dict().items())
    assert restore(student, adapter)
    change(adapter, edit, "adapter_model.safetensors")
    for load in (lambda: load_adapter(adapter, None), lambda: restore(student, adapter)):
        with pytest.raises(ValueError, match=f"(?s)the weights in {adapter} .*{fault}"):
            load()
