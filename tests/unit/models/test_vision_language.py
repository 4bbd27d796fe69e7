"""Vision-language models as the anchors see them, against what HuggingFace gives by itself."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_vlm import FAMILIES, IMAGE, LAYERS, SIDE, VIDEO, samples, tiny_vlm
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.models.base import AnchoredModel
from craft_trainer.models.families import as_anchored_model
from craft_trainer.models.vision_language import ENTRIES, VisionLanguage

IMAGES = [1, 2, 0, 1]  # of the samples: one, several and none
every_family = pytest.mark.parametrize("name", FAMILIES)
with_token_types = pytest.mark.parametrize("name", ["paligemma", "gemma3"])


def view(model: Any) -> VisionLanguage:
    seen = as_anchored_model(model)
    assert isinstance(seen, VisionLanguage)
    return seen


def hidden(model: VisionLanguage, batch: dict[str, Tensor], pooling: str, *, output: bool = False) -> Tensor:
    spec = FeatureSpec(model.module_path(-2), pooling)
    return extract(model, batch, [spec], output=output).hidden[spec.column]


@torch.no_grad()
def oracle(model: Any, batch: dict[str, Tensor]) -> Any:
    """HuggingFace's own pass with labels, in evaluation mode."""
    return model.eval()(**batch, output_hidden_states=True)


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


def one_by_one(model: VisionLanguage, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The samples of a batch, each as a batch of its own."""
    rows = len(batch["input_ids"])
    packed = model.packed(batch)
    parts = {key: value.split(packed.get(key, [1] * rows)) for key, value in batch.items()}
    return [{key: parts[key][row] for key in batch} for row in range(rows)]


@every_family
def test_every_known_family_is_viewed(name: str) -> None:
    model = tiny_vlm(name)
    seen = view(model)
    assert isinstance(seen, AnchoredModel)
    assert seen.network is model
    assert seen.output_kind == "logits"
    assert seen.image_keys() == []
    assert seen.noise([0, 1]) == {}
    assert name in ENTRIES
    assert set(samples(name, IMAGES)) <= set(seen.input_keys())
    assert not {"past_key_values", "use_cache", "inputs_embeds", "kwargs", "self"} & set(seen.input_keys())


def test_the_table_holds_no_family_that_is_not_tested() -> None:
    assert set(ENTRIES) == set(FAMILIES)


def test_other_vision_language_models_are_refused_with_those_that_are_known() -> None:
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = tower | {"model_type": "llama", "vocab_size": 20}
    config = LlavaConfig(text_config=text, vision_config=tower | {"model_type": "clip_vision_model"})
    headless = tiny_vlm("paligemma").model
    for model in (LlavaForConditionalGeneration(config), headless):
        with pytest.raises(TypeError, match=r"cannot be trained with anchors: .* vision-language model \(gemma3, idef"):
            as_anchored_model(model)


@every_family
def test_logits_are_the_models_own(name: str) -> None:
    """With what goes into the task loss but the labels. Seen to fail with the pixels left out."""
    model, batch = tiny_vlm(name), samples(name, IMAGES)
    expected = oracle(model, batch).logits
    assert torch.equal(view(model).predict(batch), expected)
    assert torch.equal(extract(view(model.train()), batch, [], output=True).output, expected)


@every_family
def test_the_retention_pass_sees_what_the_task_loss_sees(name: str) -> None:
    """Who attends to whom is the same in training mode with labels, and in evaluation mode without. Seen to fail for
    PaliGemma and Gemma 3 without token types in evaluation."""
    model, batch = without_dropout(tiny_vlm(name)).train(), samples(name, IMAGES)
    trained = model(**batch).logits
    torch.testing.assert_close(extract(view(model), batch, [], output=True).output, trained)
    assert model.training


@with_token_types
def test_token_types_must_be_there(name: str) -> None:
    """HuggingFace takes the batch without them in evaluation mode, and makes something else of it."""
    model, batch = tiny_vlm(name), samples(name, [1, 1])
    with_types = oracle(model, batch).logits
    del batch["token_type_ids"]
    assert not torch.allclose(oracle(model, batch).logits, with_types, atol=1e-2)
    with pytest.raises(
        ValueError, match=rf"^{type(model).__name__} reads token_type_ids, .* pass what the processor g"
    ):
        extract(view(model), batch, [], output=True)


def test_the_answer_is_not_seen_before_it_is_given() -> None:
    """PaliGemma's prefix does not depend on its suffix. Seen to fail without token types."""
    model, batch = view(tiny_vlm("paligemma")), samples("paligemma", [1])
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, -1] = 3 + (other["input_ids"][0, -1] - 2) % 30
    first, second = (hidden(model, sample, "none") for sample in (batch, other))
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


@every_family
def test_layers_are_those_of_the_language_model(name: str) -> None:
    """The vision tower has as many. Seen to fail with the first list of that length, which is the tower's."""
    model = tiny_vlm(name)
    seen = view(model)
    assert [seen.module_path(layer) for layer in range(-LAYERS, LAYERS)] == [
        f"{FAMILIES[name].decoder}.layers.{layer}" for layer in range(LAYERS)
    ] * 2
    states = oracle(model, samples(name, IMAGES)).hidden_states
    assert len(states) == LAYERS + 1
    mask = samples(name, IMAGES)["attention_mask"][..., None]
    assert torch.equal(hidden(seen, samples(name, IMAGES), "none"), states[-2] * mask)


@every_family
def test_the_vision_tower_is_refused(name: str) -> None:
    """Its tokens are patches of images, not positions of samples. Seen to fail without the check."""
    seen, batch = view(tiny_vlm(name)), samples(name, IMAGES)
    outside = [path for path, _ in seen.network.named_modules() if path.endswith(".1") and "vis" in path]
    assert outside
    for path in outside:
        with pytest.raises(ValueError, match=rf"^{path} is outside of {FAMILIES[name].decoder}: its tokens are not"):
            seen.module_path(path)
        with pytest.raises(ValueError, match="choose a layer of the language model"):
            seen.token_layout(path, batch, torch.Size([4, 16, 8]))
    assert seen.module_path(f"{FAMILIES[name].decoder}.norm") == f"{FAMILIES[name].decoder}.norm"


@every_family
def test_image_tokens_are_averaged_by_themselves(name: str) -> None:
    """Of two images in a sample all tokens, of a sample without images none (zero). Seen to fail with all
    tokens averaged."""
    model, batch = tiny_vlm(name), samples(name, IMAGES)
    states = oracle(model, batch).hidden_states[-2]
    pooled = hidden(view(model), batch, "mean_image_tokens")
    for row, num_images in enumerate(IMAGES):
        places = [place for place, token in enumerate(batch["input_ids"][row].tolist()) if token == IMAGE]
        assert len(places) == num_images * FAMILIES[name].image_tokens
        expected = sum((states[row, place] for place in places), torch.zeros(16)) / max(len(places), 1)
        torch.testing.assert_close(pooled[row], expected)


@every_family
def test_padding_changes_nothing(name: str) -> None:
    """Also where PaliGemma's padding follows a prefix that attends to all of itself. Seen to fail with padding that
    counts as valid, and, for PaliGemma, without an attention mask."""
    seen, batch, padded = view(tiny_vlm(name)), samples(name, IMAGES), samples(name, IMAGES, length=50)
    if name == "paligemma":
        batch["token_type_ids"], padded["token_type_ids"] = (torch.zeros_like(b["input_ids"]) for b in (batch, padded))
    longest = batch["input_ids"].shape[1]
    assert padded["input_ids"].shape[1] == 50 > longest
    assert seen.token_layout("", padded, torch.Size([4, 50, 8])).valid.sum() == batch["attention_mask"].sum()
    states = hidden(seen, padded, "none")
    torch.testing.assert_close(states[:, :longest], hidden(seen, batch, "none"), atol=1e-5, rtol=1e-5)
    assert not states[:, longest:].any()


@every_family
def test_an_early_end_gives_the_same_features_and_gradients_up_to_there(name: str) -> None:
    """The tower and the layers below learn from retention, the last layer does not run. Seen to fail with
    ``stop=False`` and under no_grad."""
    seen, batch = view(tiny_vlm(name)), samples(name, IMAGES)
    calls: list[int] = []
    last = seen.network.get_submodule(seen.module_path(-1))
    last.register_forward_hook(lambda *_: calls.append(1))
    ended = hidden(seen, batch, "mean_image_tokens")
    assert not calls
    assert torch.equal(ended, hidden(seen, batch, "mean_image_tokens", output=True))
    ended.square().sum().backward()
    reached = {path for path, value in seen.network.named_parameters() if value.grad is not None and value.grad.any()}
    for path in (seen.module_path(0), seen.module_path(-2), "model.vis"):
        assert any(other.startswith(path) for other in reached), path
    assert not any(path.startswith((seen.module_path(-1), "lm_head")) for path in reached - {"lm_head.weight"})


@every_family
def test_a_sample_alone_is_what_it_is_in_its_batch(name: str) -> None:
    """Taken out by ``packed``; put together again they are the batch. Seen to fail with as many entries for each."""
    seen, batch = view(tiny_vlm(name)), samples(name, IMAGES)
    alone = one_by_one(seen, batch)
    for key in batch:
        assert torch.equal(torch.cat([sample[key] for sample in alone]), batch[key])
    together = hidden(seen, batch, "none")
    for row, sample in enumerate(alone):
        torch.testing.assert_close(hidden(seen, sample, "none"), together[row : row + 1], atol=1e-5, rtol=1e-5)
        assert seen.packed(sample) == {key: [counts[row]] for key, counts in seen.packed(batch).items()}


@every_family
def test_what_is_packed(name: str) -> None:
    patches = (SIDE // 7) ** 2
    expected = {
        "sample": {},
        "image": {"pixel_values": IMAGES},
        "patch": {"image_grid_thw": IMAGES, "pixel_values": [images * patches for images in IMAGES]},
    }
    seen = view(tiny_vlm(name))
    assert seen.packed(samples(name, IMAGES)) == expected[FAMILIES[name].entry]
    assert seen.packed(samples(name, [0, 0])) == {}


def test_images_of_several_sizes_and_videos_are_packed() -> None:
    """By hand: a token is a square of four patches; a video of two frames is one grid."""
    image, video = [IMAGE], [VIDEO]
    texts = [image * 1 + [5] + image * 2, video * 2 + [5] * 2, image * 4]
    batch = {
        "input_ids": torch.tensor(texts),
        "image_grid_thw": torch.tensor([[1, 2, 2], [1, 2, 4], [1, 4, 4]]),
        "video_grid_thw": torch.tensor([[2, 2, 2]]),
        "pixel_values": torch.zeros(4 + 8 + 16, 3),
        "pixel_values_videos": torch.zeros(8, 3),
        "second_per_grid_ts": torch.ones(1),
    }
    seen = view(tiny_vlm("qwen2_5_vl"))
    assert seen.packed(batch) == {
        "image_grid_thw": [2, 0, 1],
        "pixel_values": [12, 0, 16],
        "video_grid_thw": [0, 1, 0],
        "pixel_values_videos": [0, 8, 0],
        "second_per_grid_ts": [0, 1, 0],
    }
    expected = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)  # frames are images
    assert torch.equal(seen.token_layout("", batch, torch.Size([3, 4, 8])).image, expected)


@every_family
def test_images_that_do_not_fit_the_tokens_are_refused(name: str) -> None:
    """Seen to fail with every sample ending at the nearest image."""
    seen = view(tiny_vlm(name))
    short = samples(name, IMAGES)
    short["input_ids"] = short["input_ids"].clone()
    short["input_ids"][1, 1] = 5  # a token of an image is gone
    missing = samples(name, IMAGES)
    del missing["pixel_values"]
    missing.pop("image_grid_thw", None)
    fewer = samples(name, IMAGES)
    fewer["pixel_values"] = fewer["pixel_values"][1:]
    textless = samples(name, [1, 1])  # images of which no text speaks
    textless["input_ids"][textless["input_ids"] == IMAGE] = 5
    uneven = samples(name, [1, 1])  # as many tokens in all, but half an image from one sample to the other
    uneven["input_ids"][0, 1], uneven["input_ids"][1, 0] = 5, IMAGE
    wrong = [fewer] if FAMILIES[name].entry == "sample" else [short, missing, fewer, textless, uneven]
    for batch in wrong:
        with pytest.raises(
            ValueError, match=r"image tokens|patches by image_grid_thw|of 3 samples with input_ids of 4"
        ):
            seen.packed(batch)


@every_family
def test_under_lora_it_is_the_model_with_its_adapter(name: str) -> None:
    """Seen to fail with the pass through the base model's own adapters disabled."""
    base, batch = tiny_vlm(name), samples(name, IMAGES)
    before = view(base.eval()).predict(batch)
    fingerprint = view(base).fingerprint()
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")).eval()
    seen = view(wrapped)
    assert seen.network is base
    assert seen.wrapper is wrapped
    assert seen.fingerprint() == fingerprint
    assert seen.input_keys() == view(tiny_vlm(name)).input_keys()
    assert seen.module_path(-2) == f"{FAMILIES[name].decoder}.layers.1"
    torch.testing.assert_close(seen.predict(batch), before)
    with torch.no_grad():
        for path, parameter in wrapped.named_parameters():
            if "lora_B" in path:
                parameter.normal_()
    assert torch.equal(seen.predict(batch), oracle(wrapped, batch).logits)
    assert not torch.allclose(seen.predict(batch), before, atol=1e-2)
    assert torch.equal(hidden(seen, batch, "cls_token"), oracle(wrapped, batch).hidden_states[-2][:, 0])
