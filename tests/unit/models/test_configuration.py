"""A fingerprint sees what decides outputs beside weights, and nothing that only says how or where a model runs."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_lm import CHECKPOINTING, TokenTask, collate, old_rows, tiny_llama
from tiny_vlm import FAMILIES, tiny_vlm
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Trainer, TrainingArguments

from craft_trainer.models.families import as_anchored_model


def digest(model):
    return as_anchored_model(model).fingerprint()["configuration"]


def weights(model):
    return as_anchored_model(model).fingerprint()["weights"]


def with_lora(model, *, moved=False, **options):
    torch.manual_seed(3)
    options = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options
    wrapped = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if moved and "lora_B" in name:
                parameter.normal_()
    return wrapped


@pytest.mark.parametrize(
    "options",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"rms_norm_eps": 0.1},
        {"hidden_act": "relu"},
        {"num_attention_heads": 4, "head_dim": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_same_weights_with_another_function_are_another_teacher(options):
    """With the same names, shapes and bytes, and other logits."""
    one, other = tiny_llama().eval(), tiny_llama(**options).eval()
    other.load_state_dict(one.state_dict())
    assert weights(one) == weights(other)
    batch = old_rows(range(3))
    assert not torch.allclose(*(as_anchored_model(model).predict(batch) for model in (one, other)), atol=1e-6)
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("name", "part", "field", "value"),
    [
        ("qwen2_vl", None, "image_token_id", 5),
        ("paligemma", None, "image_token_id", 5),
        ("idefics3", None, "image_token_id", 5),
        ("gemma3", "text_config", "sliding_window", 2),
        ("qwen2_5_vl", "vision_config", "window_size", 14),
        ("qwen2_5_vl", "text_config", "rope_parameters", {"rope_type": "default", "mrope_section": [2, 1, 1]}),
    ],
)
def test_fields_of_parts_count(name, part, field, value):
    """Seen to fail with the outer configuration alone."""
    model = tiny_vlm(name)
    before = digest(model)
    config = getattr(model.config, part) if part else model.config
    assert getattr(config, field) != value
    setattr(config, field, value)
    assert digest(model) != before


@pytest.mark.parametrize("name", FAMILIES)
def test_a_vision_language_model_that_was_saved_is_the_same(name, tmp_path):
    model = tiny_vlm(name)
    model.save_pretrained(tmp_path)
    before = as_anchored_model(model).fingerprint()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="eager")
    assert as_anchored_model(loaded).fingerprint() == before
    assert digest(loaded.to(torch.bfloat16)) == before["configuration"]
    assert digest(AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="bfloat16")) == before["configuration"]


def test_a_language_model_that_runs_otherwise_is_the_same(tmp_path):
    """Seen to fail with every field of the configuration in the digest."""
    model = tiny_llama()
    before = as_anchored_model(model).fingerprint()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attention_dropout=0.2, attn_implementation="eager")
    assert as_anchored_model(loaded).fingerprint() == before
    getattr(loaded, f"{CHECKPOINTING}_enable")()
    loaded.config.use_cache = False
    loaded.config.pad_token_id = 3
    assert as_anchored_model(loaded).fingerprint() == before
    assert digest(AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16")) == before["configuration"]


def test_a_field_that_a_later_version_adds_changes_nothing(monkeypatch):
    """With its default; a checkpoint that sets it is another teacher. Seen to fail with the defaults in the digest."""
    before = digest(tiny_llama())
    monkeypatch.setattr(type(tiny_llama().config), "attention_sinks", 0, raising=False)
    original = type(tiny_llama().config).to_dict
    monkeypatch.setattr(
        type(tiny_llama().config), "to_dict", lambda self: original(self) | {"attention_sinks": self.attention_sinks}
    )
    model = tiny_llama()
    assert digest(model) == before
    model.config.attention_sinks = 4
    assert digest(model) != before


def test_training_changes_nothing_of_it(tmp_path):
    model = tiny_llama()
    before = digest(model)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", **{CHECKPOINTING: True}
    )
    Trainer(model, arguments, train_dataset=TokenTask(8), data_collator=collate).train()
    assert digest(model) == before


def test_an_adapter_counts_once_it_has_an_effect():
    """Its scale is not among the weights. Seen to fail with the configuration of the base model alone."""
    before = digest(tiny_llama())
    assert digest(with_lora(tiny_llama())) == digest(with_lora(tiny_llama(), lora_alpha=99)) == before
    one, other = (with_lora(tiny_llama(), moved=True, lora_alpha=alpha).eval() for alpha in (8, 16))
    assert weights(one) == weights(other)
    batch = old_rows(range(3))
    assert not torch.allclose(*(as_anchored_model(model).predict(batch) for model in (one, other)), atol=1e-6)
    assert len({digest(one), digest(other), before}) == 3
