"""Causal language models as the anchors see them, and which models may be anchored at all."""

from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, TrainableTokensConfig, get_peft_model
from tiny_lm import VOCABULARY, TokenTask, collate, tiny_llama
from torch import nn
from toy import ToyModel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from craft_trainer.models.base import AnchoredModel, SupportsCheckpointing, weights_digest
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.families import as_anchored_model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    task = TokenTask(size=4)
    return collate([task[row] for row in range(4)])


def with_lora(model: LlamaForCausalLM, **options: Any) -> Any:
    torch.manual_seed(3)
    settings = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(**settings | options))


def test_a_model_of_the_protocol_passes_as_it_is() -> None:
    model = ToyModel()
    assert as_anchored_model(model) is model


def test_a_causal_lm_is_viewed() -> None:
    model = tiny_llama()
    view = as_anchored_model(model)
    assert isinstance(view, CausalLM)
    assert isinstance(view, AnchoredModel)
    assert view.network is model
    assert view.output_kind == "logits"


def test_a_peft_model_is_viewed_without_its_wrapping() -> None:
    """Layers have the names they have without PEFT, so that a cache of the base model fits."""
    base = tiny_llama()
    wrapped = with_lora(base)
    view = as_anchored_model(wrapped)
    assert view.network is base
    assert view.wrapper is wrapped
    assert any("lora_A" in name for name, _ in view.network.named_parameters())
    assert [view.module_path(layer) for layer in range(3)] == [f"model.layers.{layer}" for layer in range(3)]


def test_other_modules_are_refused_with_the_ways_out() -> None:
    with pytest.raises(TypeError, match=r"^Linear cannot be trained with anchors: wrap a LeRobot policy in .*PolicyM"):
        as_anchored_model(nn.Linear(1, 1))


T5 = {"d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8, "d_kv": 4, "vocab_size": 20}
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}


@pytest.mark.parametrize(
    "model", [BertForMaskedLM(BertConfig(**BERT)), T5ForConditionalGeneration(T5Config(**T5))], ids=["bert", "t5"]
)
def test_language_models_that_are_not_causal_are_no_causal_family(model: nn.Module) -> None:
    """They have a head of tokens too, but do not predict the next one at every position of their input."""
    view = as_anchored_model(model)
    assert not isinstance(view, CausalLM)
    assert view.output_kind == "logits"


def test_a_trained_prompt_is_refused() -> None:
    model = get_peft_model(tiny_llama(), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(TypeError, match=r"PROMPT_TUNING trains a prompt, which the retention pass does not see: use L"):
        as_anchored_model(model)


def test_logits_are_the_models_own(batch: dict[str, torch.Tensor]) -> None:
    """With the adapter in effect, and whatever the labels."""
    for model in (tiny_llama().eval(), with_lora(tiny_llama(), init_lora_weights=False).eval()):
        expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert torch.equal(as_anchored_model(model).predict(batch), expected)
        assert torch.equal(as_anchored_model(model).predict(batch | {"labels": -batch["labels"]}), expected)
        without_mask = as_anchored_model(model).predict({"input_ids": batch["input_ids"]})
        assert torch.equal(without_mask[0], expected[0])  # a row without padding
        assert not torch.equal(without_mask[2], expected[2])


def test_layers_by_index_and_by_name() -> None:
    view = as_anchored_model(tiny_llama())
    assert [view.module_path(layer) for layer in (0, 2, -1, -3)] == [f"model.layers.{i}" for i in (0, 2, 2, 0)]
    assert view.module_path("model.norm") == "model.norm"
    for layer in (3, -4, "model.layers.3", "norm"):
        with pytest.raises(ValueError, match=rf"LlamaForCausalLM has no layer {layer!r}; it has 3: \['model.layers.0'"):
            view.module_path(layer)


def test_only_the_mask_says_what_is_padding(batch: dict[str, torch.Tensor]) -> None:
    view = as_anchored_model(tiny_llama())
    layout = view.token_layout("model.layers.0", batch, torch.Size([2, 12, 16]))
    assert layout.batch_dim == 0
    assert layout.image is None
    assert torch.equal(layout.valid, batch["attention_mask"] == 1)
    assert layout.valid.dtype == torch.bool
    assert view.token_layout("", {"input_ids": batch["input_ids"]}, torch.Size([2, 12, 16])).valid is None


def test_a_fresh_adapter_does_not_change_the_digest() -> None:
    """It has no effect. Seen to fail when the digest held all of the state."""
    digest = as_anchored_model(tiny_llama()).fingerprint()["weights"]
    assert digest == weights_digest(tiny_llama())
    assert as_anchored_model(with_lora(tiny_llama())).fingerprint()["weights"] == digest
    assert weights_digest(with_lora(tiny_llama())) == digest  # by PEFT's names as well
    assert weights_digest(tiny_llama(seed=1)) != digest
    assert weights_digest(with_lora(tiny_llama(seed=1))) != digest


def test_a_fresh_adapter_of_embeddings_does_not_change_the_digest() -> None:
    adapted = with_lora(tiny_llama(), target_modules=["embed_tokens"])
    assert any("lora_embedding_B" in name for name in adapted.state_dict())
    assert weights_digest(adapted) == weights_digest(tiny_llama())
    with torch.no_grad():  # of embeddings A is the factor that starts at zero
        for name, parameter in adapted.named_parameters():
            if "lora_embedding_" in name:
                parameter.fill_(1e-3)
    assert weights_digest(adapted) != weights_digest(tiny_llama())


def tiny_mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_local_experts": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=20, num_attention_heads=2, num_key_value_heads=1, **sizes))


FRESH = {
    "of experts": (tiny_mixtral, LoraConfig(r=2, target_parameters=["experts.gate_up_proj", "experts.down_proj"])),
    "and tokens": (tiny_llama, LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 30])),
    "and tied tokens": (
        lambda: tiny_llama(tie_word_embeddings=True),
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 30]),
    ),
    "tokens alone": (tiny_llama, TrainableTokensConfig(token_indices=[1, 30], target_modules=["embed_tokens"])),
    "ia3": (tiny_llama, IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])),
}


@pytest.mark.filterwarnings("ignore:.*target_parameters.*")
@pytest.mark.parametrize("kind", FRESH)
def test_a_fresh_adapter_of_every_known_kind_is_the_base_model(kind: str) -> None:
    """And each of its numbers counts once it has moved. Seen to fail: every one had another digest than its base.

    Also seen to fail with ``base_layer`` left out of the names of factors: one of two around the same experts was lost.
    """
    make, config = FRESH[kind]
    expected = as_anchored_model(make()).fingerprint()
    model = get_peft_model(make(), config)
    assert as_anchored_model(model).fingerprint() == expected
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    seen = [expected["weights"]]
    for _, parameter in sorted(trained, key=lambda named: "lora_A" in named[0]):  # of no effect while B is 0
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        seen.append(weights_digest(model))
    assert len(set(seen)) == len(seen) > 1


def test_a_trained_row_that_becomes_another_tokens_has_an_effect() -> None:
    """Seen to fail with rows looked for anywhere in the table."""
    model = with_lora(tiny_llama(), trainable_token_indices=[1, 30])
    embeddings = model.get_base_model().model.embed_tokens.token_adapter
    with torch.no_grad():
        embeddings.trainable_tokens_delta["default"][0] = embeddings.base_layer.weight[VOCABULARY - 1]
    assert weights_digest(model) != weights_digest(tiny_llama())


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_an_adapter_with_an_effect_changes_the_digest(factor: str) -> None:
    """One number of the second factor is enough; then the first factor counts as well."""
    model = with_lora(tiny_llama())
    before = weights_digest(model)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        model.get_parameter(names[-1]).view(-1)[-1] = 1e-6
        moved = weights_digest(model)
        assert moved != before
        model.get_parameter(names[0].replace("lora_B", factor)).view(-1)[0] += 1e-3
    assert weights_digest(model) not in (before, moved)


def test_the_base_weights_count_under_an_adapter() -> None:
    model = with_lora(tiny_llama())
    before = weights_digest(model)
    with torch.no_grad():
        model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight[0, 0] += 1e-3
    assert weights_digest(model) != before


def test_its_checkpoints_are_trainers_business() -> None:
    """Trainer saves and loads HuggingFace models by itself; only models with a format of their own do that here."""
    model = tiny_llama()
    assert not isinstance(model, SupportsCheckpointing)
    assert not isinstance(as_anchored_model(model), SupportsCheckpointing)
    assert isinstance(ToyModel(), SupportsCheckpointing)


def test_the_task_loss_is_the_models(batch: dict[str, torch.Tensor]) -> None:
    view = as_anchored_model(tiny_llama().eval())
    inputs = {key: batch[key] for key in view.input_keys() if key in batch}
    logits = view.predict(batch)[:, :-1].double()
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    assert view.network(**inputs)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
