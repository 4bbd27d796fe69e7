"""Features of a HuggingFace causal LM against its own ``output_hidden_states``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from craft_trainer.anchors.features import DEFAULT_TOP_K, FeatureSpec, extract, teacher_features
from craft_trainer.models.causal_lm import CausalLM

SPECS = [FeatureSpec("model.layers.0", "none"), FeatureSpec("model.layers.1", "none")]


@pytest.fixture
def model(tiny_llama: Callable[..., Any]) -> CausalLM:
    return CausalLM(tiny_llama().train())


@pytest.fixture
def batch(load_tokens: Callable[..., Any]) -> dict[str, Tensor]:
    return load_tokens(list(range(5)))


@torch.no_grad()
def oracle(model: CausalLM, batch: dict[str, Tensor]) -> Any:
    """What HuggingFace gives by itself, in evaluation mode."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    training = model.network.training
    outputs = model.network.eval()(**inputs, output_hidden_states=True)
    model.network.train(training)
    return outputs


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("output", [True, False])
def test_hidden_layers_are_huggingfaces_before_the_final_norm(
    model: CausalLM, batch: dict[str, Tensor], output: bool
) -> None:
    """HuggingFace's last hidden state is after the norm; layer −1 here is the layer's own output. Padding is zero."""
    states = oracle(model, batch).hidden_states
    assert len(states) == 3  # embeddings, layer 0, layer 1 with the norm
    mask = batch["attention_mask"][..., None]
    hidden = extract(model, batch, SPECS, output=output).hidden
    assert torch.equal(hidden["hidden/model.layers.0/none"], states[1] * mask)
    last = hidden["hidden/model.layers.1/none"]
    assert torch.equal(model.network.model.norm(last) * mask, states[2] * mask)
    assert not torch.allclose(last, states[2] * mask)


def test_the_norm_itself_may_be_asked_for(model: CausalLM, batch: dict[str, Tensor]) -> None:
    spec = FeatureSpec(model.module_path("model.norm"), "last_token")
    (hidden,) = extract(model, batch, [spec], output=False).hidden.values()
    last = batch["attention_mask"].sum(dim=1) - 1
    assert torch.equal(hidden, oracle(model, batch).hidden_states[2][torch.arange(5), last])


@pytest.mark.parametrize(("deepest", "expected"), [(0, [1, 0, 0, 0]), (1, [1, 1, 0, 0])])
def test_without_output_later_layers_and_the_head_do_not_run(
    model: CausalLM, batch: dict[str, Tensor], deepest: int, expected: list[int]
) -> None:
    """And the hidden states are the same to the last bit. Seen to fail with ``stop=False``."""
    calls = [count_calls(model.network.get_submodule(path)) for path in ("model.layers.0", "model.layers.1")]
    calls += [count_calls(model.network.model.norm), count_calls(model.network.lm_head)]
    specs = SPECS[: deepest + 1]
    ended = extract(model, batch, specs, output=False)
    assert [len(made) for made in calls] == expected
    assert ended.output is None
    whole = extract(model, batch, specs, output=True)
    assert all(torch.equal(ended.hidden[name], whole.hidden[name]) for name in whole.hidden)


@pytest.mark.parametrize("output", [True, False])
def test_nothing_stays_behind(model: CausalLM, batch: dict[str, Tensor], output: bool) -> None:
    """Modes, hooks, and HuggingFace's own capture of hidden states are as before, also after an early end."""
    model.network.model.layers[1].eval()
    modes = {name: module.training for name, module in model.network.named_modules()}
    before = oracle(model, batch)
    model.network.model.layers[1].eval()
    hooks = {name: len(module._forward_hooks) for name, module in model.network.named_modules()}
    extract(model, batch, SPECS, output=output)
    assert {name: module.training for name, module in model.network.named_modules()} == modes
    assert {name: len(module._forward_hooks) for name, module in model.network.named_modules()} == hooks
    after = oracle(model, batch)
    assert torch.equal(after.logits, before.logits)
    assert all(torch.equal(*pair) for pair in zip(after.hidden_states, before.hidden_states, strict=True))


def test_features_are_made_in_evaluation_mode_and_are_differentiable(model: CausalLM, batch: dict[str, Tensor]) -> None:
    """The tiny Llama has dropout in its attention, so two passes in training mode differ."""
    assert not torch.equal(model.predict(batch), model.predict(batch))
    features = extract(model, batch, SPECS, output=True)
    assert torch.equal(features.output, oracle(model, batch).logits)
    features.hidden["hidden/model.layers.0/none"].square().sum().backward()
    layers = model.network.model.layers
    assert layers[0].mlp.down_proj.weight.grad is not None
    assert layers[1].mlp.down_proj.weight.grad is None


def test_a_teacher_of_tokens_gives_them_in_place_of_its_logits(model: CausalLM, batch: dict[str, Tensor]) -> None:
    features = teacher_features(model, batch, SPECS, num_tokens=3)
    log_p = oracle(model, batch).logits.log_softmax(-1)
    assert features.output is None
    assert features.tokens.indices.shape == (5, 6, 3)
    assert torch.equal(features.tokens.indices[..., 0], log_p.argmax(-1))
    torch.testing.assert_close(features.tokens.log_probs, log_p.gather(-1, features.tokens.indices))
    assert torch.equal(features.tokens.valid, batch["attention_mask"].bool())
    assert not features.tokens.log_probs.requires_grad


def test_a_small_vocabulary_is_kept_whole(model: CausalLM, batch: dict[str, Tensor]) -> None:
    assert teacher_features(model, batch, []).tokens.indices.shape[-1] == DEFAULT_TOP_K
    tokens = teacher_features(model, batch, [], num_tokens=10**6).tokens
    assert tokens.indices.shape[-1] == 40
    torch.testing.assert_close(tokens.log_probs.exp().sum(-1), torch.ones(5, 6))


def test_a_batch_without_a_mask_has_no_padding(model: CausalLM, batch: dict[str, Tensor]) -> None:
    batch = {"input_ids": batch["input_ids"]}
    features = teacher_features(model, batch, [FeatureSpec("model.layers.0", "last_token")])
    assert features.tokens.valid.all()
    with torch.no_grad():
        states = model.network.eval()(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(features.hidden["hidden/model.layers.0/last_token"], states[1][:, -1])


def test_a_module_that_is_no_layer_is_refused(model: CausalLM, batch: dict[str, Tensor]) -> None:
    spec = FeatureSpec("model.rotary_emb", "none")
    with pytest.raises(ValueError, match=r"model\.rotary_emb has shape .* choose a transformer layer"):
        extract(model, batch, [spec], output=True)
