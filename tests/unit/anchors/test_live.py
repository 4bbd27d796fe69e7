"""A PEFT model without its adapter is its own teacher: equal to the base model, and to a cache of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, FeatureSpec, TokenTargets, extract, teacher_features
from craft_trainer.anchors.live import AdapterAnchors
from craft_trainer.losses.distillation import retention_loss
from craft_trainer.losses.hidden import Hidden
from craft_trainer.losses.token_kl import TokenKL
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.families import as_anchored_model
from craft_trainer.training.config import CraftConfig
from craft_trainer.training.trainer import CraftTrainer

ROWS = 11
GROUPS = ["verse" if row % 3 else "prose" for row in range(ROWS)]
type Make = Callable[..., Any]


def specs(model: CausalLM) -> list[FeatureSpec]:
    return [FeatureSpec(model.module_path(layer), "mean_masked") for layer in (0, -1)]


@pytest.fixture
def peft_model(tiny_llama: Make, lora: Make) -> Any:
    """A Llama whose adapter has moved, in training mode."""
    return lora(tiny_llama(), moved=True).train()


@pytest.fixture
def live(peft_model: Any, load_tokens: Make) -> AdapterAnchors:
    model = as_anchored_model(peft_model)
    return AdapterAnchors(model, load_tokens, GROUPS, specs(model), num_tokens=5, batch_size=4)


def test_the_teacher_is_the_base_model_whatever_the_adapter(
    live: AdapterAnchors, peft_model: Any, tiny_llama: Make, load_tokens: Make
) -> None:
    """Bit for bit. Seen to fail without disable_adapter."""
    base = as_anchored_model(tiny_llama())
    rows = [4, 0, 9, 9]
    expected = teacher_features(base, load_tokens(rows), specs(base), num_tokens=5)
    anchors = live.batch(rows)
    assert anchors.teacher.output is None
    for name in TokenTargets._fields:
        assert torch.equal(getattr(anchors.teacher.tokens, name), getattr(expected.tokens, name)), name
    for mine, theirs in zip(anchors.teacher.hidden.values(), expected.hidden.values(), strict=True):
        assert torch.equal(mine, theirs)
    assert anchors.groups == ["verse", "prose", "prose", "prose"]
    assert anchors.inputs.keys() == {"input_ids", "attention_mask", "labels"}


def test_afterwards_the_adapter_acts_and_is_trained_as_before(live: AdapterAnchors, peft_model: Any) -> None:
    """Modes, requires_grad, gradients and predictions. Seen to fail when the adapter stays disabled."""
    model = as_anchored_model(peft_model)
    inputs = live.batch([0, 1]).inputs
    trained = {name: p.requires_grad for name, p in peft_model.named_parameters()}
    before = extract(model, inputs, [], output=True).output
    before.square().mean().backward()
    gradients = {name: p.grad for name, p in peft_model.named_parameters() if p.grad is not None}
    assert gradients

    live.batch([2, 3])
    assert {name: p.requires_grad for name, p in peft_model.named_parameters()} == trained
    assert all(p.grad is gradients.get(name) for name, p in peft_model.named_parameters())
    assert all(module.training for module in peft_model.modules())
    assert torch.equal(extract(model, inputs, [], output=True).output, before)


def test_what_is_frozen_stays_frozen(live: AdapterAnchors, peft_model: Any) -> None:
    """PEFT makes the whole adapter trainable again when it enables it, also what its user had frozen (as LoRA-FA does).

    The scales are taken before Trainer makes its optimizer, so such a parameter would then be trained.
    """
    for name, parameter in peft_model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    live.batch([0])
    live.scales()
    assert all(parameter.requires_grad is ("lora_B" in name) for name, parameter in peft_model.named_parameters())


def test_the_loss_is_zero_with_a_fresh_adapter_and_not_with_a_moved_one(
    tiny_llama: Make, lora: Make, load_tokens: Make
) -> None:
    """And its gradient reaches the adapter alone: nothing flows through the teacher."""
    for moved in (False, True):
        model = as_anchored_model(lora(tiny_llama(), moved=moved))
        live = AdapterAnchors(model, load_tokens, GROUPS, specs(model))
        anchors = live.batch([0, 5])
        student = extract(model, anchors.inputs, live.specs, output=True)
        losses = retention_loss(student, anchors.teacher, live.scales(), {Hidden(): 1.0, TokenKL(): 1.0})
        losses.sum().backward()
        touched = {name for name, p in model.network.named_parameters() if p.grad is not None}
        assert all("lora_" in name for name in touched)
        assert (losses.max() < 1e-6) is not moved


def test_scales_are_those_of_a_cache_of_the_base_model(live: AdapterAnchors, token_anchors: AnchorCache) -> None:
    """By the same names. Seen to fail with the mean of the batches' variances, and with padding among the tokens."""
    mine, theirs = live.scales(), token_anchors.scales()
    assert mine.keys() == theirs.keys()
    for name, scale in mine.items():
        torch.testing.assert_close(scale, theirs[name], rtol=1e-5, atol=0)
        assert scale.shape == ()


def test_anchors_of_an_adapter_and_of_a_cache_are_the_same(live: AdapterAnchors, token_anchors: AnchorCache) -> None:
    """A student with an adapter may be held by either."""
    assert live.specs == token_anchors.specs
    assert live.groups == token_anchors.groups
    mine, theirs = live.batch([0, 1, 2, 3]), token_anchors.batch([0, 1, 2, 3])
    assert torch.equal(mine.teacher.tokens.log_probs, theirs.teacher.tokens.log_probs)
    assert all(torch.equal(mine.teacher.hidden[name], theirs.teacher.hidden[name]) for name in theirs.teacher.hidden)
    assert all(torch.equal(mine.inputs[key], theirs.inputs[key]) for key in theirs.inputs)


def test_scales_are_taken_from_anchors_spread_over_all(live: AdapterAnchors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last row are among them, in batches no larger than asked for."""
    asked: list[list[int]] = []
    load = live._load_batch
    monkeypatch.setattr(live, "_load_batch", lambda rows: asked.append(rows) or load(rows))
    monkeypatch.setattr("craft_trainer.anchors.live.SCALE_ANCHORS", 6)
    live.scales()
    assert asked == [[0, 2, 4, 6], [8, 10]]


def test_rows_of_other_lengths_have_the_same_token_scale(
    live: AdapterAnchors, load_tokens: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches padded to their own longest sample, as a data collator makes them."""
    expected = live.scales()

    def trimmed(rows: list[int]) -> dict[str, torch.Tensor]:
        samples = load_tokens(rows)
        longest = int(samples["attention_mask"].sum(dim=1).max())
        return {key: value[:, :longest] if value.ndim == 2 else value for key, value in samples.items()}

    monkeypatch.setattr(live, "_load_batch", trimmed)
    monkeypatch.setattr(live, "_batch_size", 1)
    assert live.batch([4]).inputs["input_ids"].shape == (1, 1)
    for name, scale in live.scales().items():
        torch.testing.assert_close(scale, expected[name], rtol=1e-5, atol=0)


def test_tokens_alone_may_be_held(peft_model: Any, load_tokens: Make) -> None:
    live = AdapterAnchors(as_anchored_model(peft_model), load_tokens, GROUPS)
    assert len(live) == ROWS
    assert live.scales().keys() == {TOKEN_SCALE, TASK_SCALE}
    assert live.batch([0]).teacher.hidden == {}
    assert live.batch([0]).teacher.tokens.indices.shape == (1, 6, 32)


def test_for_hidden_features_alone_the_teacher_ends_at_the_deepest_layer(live: AdapterAnchors, peft_model: Any) -> None:
    """The same features bit for bit, and no head. Seen to fail with a teacher that goes on."""
    whole, heads = live.batch([4, 0]).teacher, heads_run(peft_model)
    early = live.batch([4, 0], output=False).teacher
    assert (early.output, early.tokens, early.task, heads) == (None, None, None, [])
    for name, hidden in whole.hidden.items():
        assert torch.equal(early.hidden[name], hidden), name


def test_a_run_that_holds_hidden_features_runs_the_head_for_its_task_alone(
    live: AdapterAnchors, peft_model: Any, load_tokens: Make, tmp_path: Path
) -> None:
    """Neither student nor teacher of a retention pass does. Seen to fail with a teacher that goes on."""
    samples = [load_tokens([row]) for row in range(ROWS)]
    learned: Any = [{key: value[0] for key, value in one.items() if key != "row"} for one in samples]
    options = {"retention_terms": ["hidden"], "task_kl_samples": 0, "max_steps": 3, "per_device_train_batch_size": 2}
    options |= {"teacher_mismatch": "allow"}  # the adapter has moved
    config = CraftConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", **options)
    trainer = CraftTrainer(peft_model, config, anchors=live, train_dataset=learned)
    heads = heads_run(peft_model)
    trainer.train()
    assert len(heads) == config.max_steps


def heads_run(peft_model: Any) -> list[str]:
    """A list that grows whenever the head runs."""
    calls: list[str] = []
    peft_model.get_base_model().lm_head.register_forward_hook(lambda *_: calls.append("head"))
    return calls


def test_its_own_model_is_accepted_as_any_view(live: AdapterAnchors, peft_model: Any) -> None:
    live.batch([0])  # disabling the adapter leaves nothing behind that would be refused
    live.check_teacher(as_anchored_model(peft_model))


def test_another_model_is_refused(live: AdapterAnchors, tiny_llama: Make, lora: Make) -> None:
    with pytest.raises(ValueError, match="made for another model object: pass the model that is trained to both"):
        live.check_teacher(as_anchored_model(lora(tiny_llama(), moved=True)))


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_a_trained_base_parameter_is_refused(live: AdapterAnchors, peft_model: Any, name: str) -> None:
    peft_model.get_base_model().get_parameter(name).requires_grad_()
    with pytest.raises(ValueError, match=rf"{name} is trained but is not part of the adapter.*freeze it, or build"):
        live.check_teacher(as_anchored_model(peft_model))


def test_trained_rows_of_embeddings_are_part_of_the_adapter(tiny_llama: Make, load_tokens: Make) -> None:
    """The teacher is the base without them. Seen to fail: "…trainable_tokens_delta.default is trained but is not …"."""
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2], task_type="CAUSAL_LM")
    peft_model = get_peft_model(tiny_llama(), config)
    view = as_anchored_model(peft_model)
    live = AdapterAnchors(view, load_tokens, GROUPS)
    live.check_teacher(view)
    base = as_anchored_model(tiny_llama())
    expected = teacher_features(base, load_tokens(list(range(ROWS))), []).tokens
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            parameter.add_(1.0 if "trainable_tokens_delta" in name else 0.0)
    assert torch.equal(live.batch(list(range(ROWS))).teacher.tokens.log_probs, expected.log_probs)
    student = teacher_features(view, load_tokens(list(range(ROWS))), []).tokens
    assert not torch.equal(student.log_probs, expected.log_probs)


def test_a_model_without_an_adapter_is_refused(tiny_llama: Make, load_tokens: Make) -> None:
    with pytest.raises(TypeError, match=r"LlamaForCausalLM has no disable_adapter: wrap it by peft\.get_peft_model"):
        AdapterAnchors(as_anchored_model(tiny_llama()), load_tokens, GROUPS)
