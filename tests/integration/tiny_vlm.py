"""Vision-language models of a few thousand parameters, one for each way of handing over images, and samples for them.

Texts are random tokens; images of 28 × 28 pixels are random numbers. The towers have as many layers as the language
models, so that one cannot be told from the other by its length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

WORDS, IMAGE, VIDEO, PAD = 40, 41, 42, 0
VOCABULARY, SIDE, PATCH, LAYERS = 48, 28, 7, 3
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_TOWER = {"depth": LAYERS, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 43, "vision_end_token_id": 44}


@dataclass(frozen=True)
class Family:
    """How one model type is built, and what its processor makes of the images of a batch.

    Attributes:
        make: the model, of configuration alone.
        entry: what the first dimension of ``pixel_values`` counts: samples, images or patches.
        image_tokens: of an image in the text.
        decoder: where its language model is.
    """

    make: Callable[[], PreTrainedModel]
    entry: str
    image_tokens: int
    decoder: str = "model.language_model"


def _paligemma() -> PreTrainedModel:
    text = GemmaConfig(**TEXT, head_dim=8, attention_dropout=0.1)
    tower = SiglipVisionConfig(**TOWER, projection_dim=16, vision_use_head=False)
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            text_config=text, vision_config=tower, image_token_index=IMAGE, projection_dim=16, hidden_size=16
        )
    )


def _gemma3() -> PreTrainedModel:
    text = Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8, attention_dropout=0.1)
    tower = SiglipVisionConfig(**TOWER, vision_use_head=False)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=tower, image_token_index=IMAGE, mm_tokens_per_image=4)
    )


def _idefics(config: type, model: type) -> PreTrainedModel:
    text = LlamaConfig(**TEXT, attention_dropout=0.1)
    return model(config(text_config=text, vision_config=TOWER, image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD))


def _qwen2() -> PreTrainedModel:
    tower = QWEN_TOWER | {"embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2}
    text = TEXT | {"rope_parameters": ROPE, "attention_dropout": 0.1}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=tower, **QWEN_TOKENS))


def _qwen25() -> PreTrainedModel:
    tower = QWEN_TOWER | {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 32, "window_size": 28}
    text = TEXT | {"rope_parameters": ROPE, "attention_dropout": 0.1}
    tower |= {"fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=tower, **QWEN_TOKENS))


FAMILIES = {
    "paligemma": Family(_paligemma, "image", 16),
    "gemma3": Family(_gemma3, "image", 4),
    "idefics3": Family(
        lambda: _idefics(Idefics3Config, Idefics3ForConditionalGeneration), "sample", 4, "model.text_model"
    ),
    "smolvlm": Family(
        lambda: _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration), "sample", 4, "model.text_model"
    ),
    "qwen2_vl": Family(_qwen2, "patch", 4),
    "qwen2_5_vl": Family(_qwen25, "patch", 4),
}


def tiny_vlm(name: str, seed: int = 0) -> PreTrainedModel:
    """A fresh model with logits that differ from token to token."""
    torch.manual_seed(seed)
    model = FAMILIES[name].make()
    with torch.no_grad():
        for parameter in model.parameters():  # the initial values differ by family, and some are very small
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def samples(name: str, num_images: list[int], *, seed: int = 0, length: int = 0) -> dict[str, Any]:
    """A batch in the shape of the family's processor: a sample for each number of images, padded on the right.

    The first half of a text is its prompt. All of the images of a sample stand at its beginning, with a word between
    them; ``length`` pads to at least so many tokens.
    """
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for row, images in enumerate(num_images):
        words = torch.randint(3, WORDS, (5 + row % 3 + images,), generator=generator).tolist()
        start = [token for word in words[:images] for token in (word, *[IMAGE] * family.image_tokens)]
        texts.append(start + words[images:])
    longest = max(length, *(len(text) for text in texts))
    ids = torch.tensor([text + [PAD] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    answer = (torch.arange(longest) >= mask.sum(1, keepdim=True) - 3) & mask.bool()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~answer, -100)}
    if name == "paligemma":
        batch["token_type_ids"] = answer.long()
    if name == "gemma3":
        batch["token_type_ids"] = (ids == IMAGE).long()
    if family.entry == "patch":
        batch["mm_token_type_ids"] = (ids == IMAGE).int()
    images = torch.randn(sum(num_images), 3, SIDE, SIDE, generator=generator)
    return batch | (_pixels(family.entry, images, num_images) if num_images and sum(num_images) else {})


def _pixels(entry: str, images: Tensor, num_images: list[int]) -> dict[str, Tensor]:
    if entry == "image":
        return {"pixel_values": images}
    if entry == "patch":  # numbers in place of the pixels of a patch: the model only ever sees them as a row
        grid = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]] * len(images))
        patches = images.repeat(1, 2, 1, 1).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        return {"pixel_values": patches, "image_grid_thw": grid}
    pixels = images.new_zeros(len(num_images), max(num_images), 3, SIDE, SIDE)
    mask = torch.zeros(len(num_images), max(num_images), SIDE, SIDE, dtype=torch.bool)
    for row, part in enumerate(images.split(num_images)):
        pixels[row, : len(part)], mask[row, : len(part)] = part, True
    return {"pixel_values": pixels, "pixel_attention_mask": mask}
