"""Encoders with a head or none, and SentenceTransformers, as the anchors see them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_encoders import LABELS, LISTS, MODELS, TEXT, Samples, collate, encoder_anchors, sentence_transformer, tiny
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertModel,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SmolVLMConfig,
    SmolVLMModel,
)

from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.verification import deviations
from craft_trainer.models.base import AnchoredModel, SupportsCheckpointing
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.general import GeneralModel

SENTENCES = "sentence_transformer"
EVERY = [*MODELS, SENTENCES]
Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes any of ``EVERY``."""

    def made(name: str, seed: int = 0) -> Any:
        return sentence_transformer(tmp_path / f"parts{seed}", seed) if name == SENTENCES else tiny(name, seed)

    return made


def batch_of(name: str, rows: range = range(6)) -> dict[str, Tensor]:
    task = Samples("bert" if name == SENTENCES else name)
    return collate([task[row] for row in rows])


def specs_of(view: AnchoredModel, pooling: str = "none") -> list[FeatureSpec]:
    return [FeatureSpec(view.module_path(layer), pooling) for layer in range(3)]


@pytest.mark.parametrize("name", EVERY)
def test_it_is_viewed(make: Make, name: str) -> None:
    model = make(name)
    view = as_anchored_model(model)
    assert type(view) is GeneralModel
    assert isinstance(view, AnchoredModel)
    assert view.network is model
    assert view.output_kind == "numbers"
    assert not isinstance(model, SupportsCheckpointing)
    where = "0.model.encoder.layer" if name == SENTENCES else LISTS[name]
    assert [view.module_path(layer) for layer in (0, 1, 2, -1)] == [f"{where}.{i}" for i in (0, 1, 2, 2)]
    assert view.module_path(f"{where}.1") == f"{where}.1"
    with pytest.raises(ValueError, match=rf"has no layer 3; it has 3: \['{where}.0'"):
        view.module_path(3)


@pytest.mark.parametrize("name", EVERY)
def test_features_are_the_models_hidden_states(make: Make, name: str) -> None:
    """Without the last one: HuggingFace gives some of these after the norm that follows the layers."""
    model, batch = make(name).eval(), batch_of(name)
    view = as_anchored_model(model)
    specs = specs_of(view)
    found = extract(view, batch, specs, output=False)
    inner = model[0].auto_model if name == SENTENCES else model
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    expected = inner(**inputs, output_hidden_states=True).hidden_states
    mask = batch.get("attention_mask", torch.ones(expected[0].shape[:2]))[..., None]
    for number, spec in enumerate(specs[:-1]):
        torch.testing.assert_close(found.hidden[spec.column], expected[number + 1] * mask, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_the_output_is_the_models_own(make: Make, name: str) -> None:
    """Logits, the library's embedding, or the mean by hand; of samples alone, so without padding."""
    model = make(name).eval()
    view = as_anchored_model(model)
    for row in range(5):
        sample = batch_of(name, range(row, row + 1))
        inputs = {key: value for key, value in sample.items() if key != "labels"}
        if name == SENTENCES:
            expected = model(dict(inputs))["sentence_embedding"]
        else:
            given = model(**inputs)
            expected = given.logits if "logits" in given else given.last_hidden_state.mean(dim=1)
        found = view.predict(view.prepare(sample))
        assert found.shape == (1, {"labels": LABELS, "reward": 1}.get(name.rpartition("_")[2], expected.shape[1]))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert "sentence_embedding" not in sample  # the library writes into the features that it is given


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_does_not_depend_on_its_batch_or_its_padding(make: Make, name: str) -> None:
    """Seen to fail for Llama without its own padding token: it took the zeros for the sample's end."""
    view = as_anchored_model(make(name))
    specs = specs_of(view)
    together = extract(view, batch_of(name), specs, output=True)
    for row in range(6):
        alone = extract(view, batch_of(name, range(row, row + 1)), specs, output=True)
        torch.testing.assert_close(alone.output[0], together.output[row], rtol=1e-5, atol=1e-5)
        for column, state in alone.hidden.items():
            tokens = state.shape[1]
            torch.testing.assert_close(state[0], together.hidden[column][row, :tokens], rtol=1e-5, atol=1e-5)
            assert not together.hidden[column][row, tokens:].any()


@pytest.mark.parametrize("name", EVERY)
def test_a_pass_that_ends_early_equals_a_whole_one(make: Make, name: str) -> None:
    view = as_anchored_model(make(name))
    specs = specs_of(view, "mean_masked")[:2]
    early, whole = (extract(view, batch_of(name), specs, output=output) for output in (False, True))
    assert early.output is None
    assert early.hidden.keys() == whole.hidden.keys()
    assert all(torch.equal(state, whole.hidden[column]) for column, state in early.hidden.items())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("pooling", ["none", "last_token"])
def test_a_cache_holds_what_its_teacher_makes(make: Make, tmp_path: Path, name: str, pooling: str) -> None:
    """In other batches than it was built with, which are padded otherwise."""
    model = make(name)
    samples = "bert" if name == SENTENCES else name
    cache = encoder_anchors(tmp_path / "cache", samples, model, layers=(0, -1), pooling=pooling)
    found = deviations(cache, as_anchored_model(model), num_rows=24, batch_size=5)
    assert set(found) == {spec.column for spec in cache.specs} | {"output"}
    assert max(found.values()) < 1e-4
    assert cache.check_teacher(as_anchored_model(make(name))) == ["weights", "processors", "configuration"]
    with pytest.raises(ValueError, match="was made by a teacher with weights"):
        cache.check_teacher(as_anchored_model(make(name, seed=1)))


@pytest.mark.parametrize("name", EVERY)
def test_inputs_are_the_arguments_of_forward(make: Make, name: str) -> None:
    keys = as_anchored_model(make(name)).input_keys()
    assert {*batch_of(name)} <= set(keys)
    assert not {"self", "kwargs", "position_ids", "use_cache", "return_dict"} & set(keys)


def test_how_an_embedding_is_made_is_part_of_the_teacher(tmp_path: Path) -> None:
    """Its weights do not show it. Seen to fail with the configurations of HuggingFace models alone."""
    mean, same, first = (
        as_anchored_model(sentence_transformer(tmp_path / str(number), pooling=pooling)).fingerprint()
        for number, pooling in enumerate(["mean", "mean", "cls"])
    )
    assert mean == same
    assert mean["weights"] == first["weights"]
    assert mean["configuration"] != first["configuration"]


def test_the_padding_token_is_part_of_the_teacher() -> None:
    """It says where Llama's head of classes reads; a causal language model does not look at it."""
    one, other = tiny("llama_reward"), tiny("llama_reward")
    other.config.pad_token_id = 0
    digests = [as_anchored_model(model).fingerprint()["configuration"] for model in (one, other)]
    assert digests[0] != digests[1]


def with_lora(model: Any) -> Any:
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))


def test_a_fresh_adapter_has_the_base_as_its_teacher() -> None:
    """PEFT trains a copy of a classifier's head; until that has moved it is the base. Seen to fail with the copy
    counted as another weight."""
    base = as_anchored_model(tiny("bert_classifier").eval())
    model = with_lora(tiny("bert_classifier")).eval()
    view = as_anchored_model(model)
    assert view.module_path(-2) == base.module_path(-2)
    assert view.fingerprint() == base.fingerprint()
    batch = batch_of("bert_classifier")
    torch.testing.assert_close(view.predict(batch), base.predict(batch))
    with torch.no_grad():
        model.get_base_model().classifier.modules_to_save["default"].bias[0] += 1e-3
    assert view.fingerprint()["weights"] != base.fingerprint()["weights"]


def test_an_adapter_inside_of_a_sentence_transformer(tmp_path: Path) -> None:
    model = sentence_transformer(tmp_path)
    before = as_anchored_model(model).fingerprint()
    model.add_adapter(LoraConfig(r=2, target_modules=["query"], task_type="FEATURE_EXTRACTION"))
    view = as_anchored_model(model)
    assert view.fingerprint() == before
    assert view.module_path(-2) == "0.model.encoder.layer.1"
    with torch.no_grad():
        model.get_parameter(next(name for name in model.state_dict() if "lora_B" in name)).fill_(0.1)
    assert view.fingerprint()["weights"] != before["weights"]


def test_a_head_of_another_shape_is_no_output() -> None:
    """Its hidden layers can be held."""
    sizes = {"hidden_sizes": [4, 4], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [1, 1]}
    each = {"num_attention_heads": [1, 1], "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [1, 1]}
    view = as_anchored_model(SegformerForSemanticSegmentation(SegformerConfig(**sizes, **each, decoder_hidden_size=4)))
    batch = {"pixel_values": torch.randn(2, 3, 16, 16)}
    assert extract(view, batch, [FeatureSpec("segformer.encoder.block.0.0", "none")], output=False).hidden
    with pytest.raises(ValueError, match=r"gives logits of shape \(2, 2, .*\), not one vector per sample: hold hidden"):
        view.predict(batch)


def test_a_layer_that_runs_more_than_once_is_refused() -> None:
    """ALBERT has one layer for all of its depth. Seen to fail: an early end saw the first run, a whole pass another."""
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    model = AlbertForSequenceClassification(AlbertConfig(**sizes, vocab_size=40, num_hidden_layers=3))
    view = as_anchored_model(model)
    with pytest.raises(ValueError, match=r"has no list of 3 layers: name a module path"):
        view.module_path(-1)
    path = view.module_path("albert.encoder.albert_layer_groups.0")
    with pytest.raises(ValueError, match=rf"{path} runs more than once in a pass, so it has no single state: choose"):
        extract(view, batch_of("bert"), [FeatureSpec(path, "mean_masked")], output=True)


def test_a_network_of_convolutions_holds_its_output() -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], num_labels=LABELS)
    view = as_anchored_model(ResNetForImageClassification(config))
    assert extract(view, {"pixel_values": torch.randn(2, 3, 32, 32)}, [], output=True).output.shape == (2, LABELS)
    with pytest.raises(ValueError, match="has no list of None layers: name a module path"):
        view.module_path(-1)


SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
VLM = {"text_config": SMALL | {"vocab_size": 20}, "vision_config": SMALL | {"image_size": 8, "patch_size": 4}}


@pytest.mark.parametrize(
    "made",
    [
        lambda: SmolVLMModel(SmolVLMConfig(**VLM)),  # two towers, one inside the other: whose layers, whose tokens?
        lambda: BertModel(BertConfig(**TEXT)).encoder,  # no PreTrainedModel
    ],
    ids=["part of a smolvlm", "part of a bert"],
)
def test_others_are_refused(made: Callable[[], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"cannot be trained with anchors: .* or encoder \(of one kind of input, or a text"
    ):
        as_anchored_model(made())


def test_a_sentence_transformer_that_leaves_out_its_prompts_is_refused(tmp_path: Path) -> None:
    """How long a prompt is, no anchor says."""
    with pytest.raises(TypeError, match="a SentenceTransformer of texts that pools their prompts too"):
        as_anchored_model(sentence_transformer(tmp_path, include_prompt=False))
