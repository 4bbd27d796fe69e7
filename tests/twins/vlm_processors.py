"""The real processors of the vision-language families, over a tokenizer of 48 words, for the models of ``tiny_vlm``."""

import tempfile

import torch
from smolvlms import save_smolvlm
from tiny_vlm import PATCH, SIDE, VOCABULARY, tiny_vlm
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoProcessor,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipImageProcessor,
    SmolVLMForConditionalGeneration,
)

TEXT = ["<pad>", "<bos>", "<eos>", "<unk>", "push", "the", "red", "puck", "open", "door", ":", "12", "13", "14"]
QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "start": "<|vision_start|>",
    "end": "<|vision_end|>",
}
IDEFICS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance": "<end_of_utterance>",
}
GEMMA = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def _tokenizer(special):
    """``special`` tokens from 41 on, as the configurations of ``tiny_vlm`` have them."""
    words = [*TEXT, *(f"w{index}" for index in range(len(TEXT), 41)), *special.values()]
    words += [f"w{index}" for index in range(len(words), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=special, **names)


def _smolvlm():
    with tempfile.TemporaryDirectory() as folder:
        save_smolvlm(folder)
        return SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(folder)), AutoProcessor.from_pretrained(
            folder
        )


def _qwen(name, kind):
    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": 42 * 42}
    images = Qwen2VLImageProcessor(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=pixels)
    return tiny_vlm(name), kind(images, _tokenizer(QWEN), Qwen2VLVideoProcessor())


def _gemma3(window):
    config = tiny_vlm("gemma3").config
    config.text_config.sliding_window = window
    images = Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    return Gemma3ForConditionalGeneration(config), Gemma3Processor(images, _tokenizer(GEMMA), image_seq_length=4)


def _paligemma():
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, _tokenizer({"image_token": "<image>"}))  # which adds a thousand places
    model = tiny_vlm("paligemma")
    model.resize_token_embeddings(len(processor.tokenizer))
    return model, processor


def _idefics3():
    images = Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return tiny_vlm("idefics3"), Idefics3Processor(images, _tokenizer(IDEFICS), image_seq_len=4)


FAMILIES = {
    "paligemma": _paligemma,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "qwen2_vl": lambda: _qwen("qwen2_vl", Qwen2VLProcessor),
    "qwen2_5_vl": lambda: _qwen("qwen2_5_vl", Qwen2_5_VLProcessor),
    "gemma3": lambda: _gemma3(window=64),
    "gemma3 (window within)": lambda: _gemma3(window=8),
}


def vlm_and_processor(name, seed=0):
    """A model with weights that make every token and pixel matter, and its processor."""
    model, processor = FAMILIES[name]()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval(), processor
