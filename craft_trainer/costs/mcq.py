"""Measure the cost of scoring choices: beside lm-evaluation-harness, and beside one pass for every choice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from craft_trainer.costs.llama import Size, language_model
from craft_trainer.costs.measurement import BenchArguments, Quantity, Step, paired_ratios
from craft_trainer.evaluation.choices.opening import reader
from craft_trainer.evaluation.encoding import EncodedQuestion
from craft_trainer.evaluation.scoring import ChoiceModel, Scored, score

Scores = Callable[[], list[float]]  # a step that gives the log-likelihoods of all choices

EXAMPLE = "craft-trainer bench mcq --json outputs/mcq.json"
NUM_WORDS = 2000
LM_EVAL_BATCH = 8
SHORT: dict[str, Any] = {"num_words": 14, "num_choices": (2, 8), "answer_words": (3, 14)}
LONG: dict[str, Any] = {"num_words": 150, "num_choices": (4, 4), "answer_words": (3, 14)}
QUANTITIES = (
    Quantity("short_over_lmeval", 1 / 1.8, "time: short questions, 2 to 8 choices / lm-evaluation-harness"),
    Quantity("long_over_lmeval", 1 / 3.5, "time: contexts of over 130 tokens, 4 choices / lm-evaluation-harness"),
    Quantity("bf16_short_over_lmeval", 1.0, "time: the short ones in bfloat16 / lm-evaluation-harness in bfloat16"),
    Quantity("bf16_long_over_lmeval", 1.0, "time: the long ones in bfloat16 / lm-evaluation-harness in bfloat16"),
    Quantity("image_over_naive", 1 / 3.2, "time: 256 image tokens, 4 choices / one whole pass for every choice"),
)


SMOLLM2 = Size(hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, vocabulary=49152, tokens=1024)


@dataclass(frozen=True)
class McqSize:
    """Shape of the language model, what a small PaliGemma beside it has otherwise, and how much they are asked."""

    text: Size = SMOLLM2
    tower_hidden: int = 384
    tower_layers: int = 12
    image_layers: int = 12
    image_vocabulary: int = 8192
    image_size: int = 224  # 16 × 16 patches of 14 pixels: 256 tokens
    num_short: int = 16
    num_long: int = 6
    num_images: int = 4


FULL = McqSize()
QUICK = McqSize(
    text=Size(hidden=32, intermediate=64, layers=2, heads=2, kv_heads=1, vocabulary=2200, tokens=1024),
    tower_hidden=16,
    tower_layers=1,
    image_layers=2,
    image_vocabulary=4000,
    image_size=28,
    num_short=4,
    num_long=2,
    num_images=2,
)


def run(arguments: BenchArguments) -> None:
    """Take every one of ``QUANTITIES``, the two sides of each one right after the other."""
    size = QUICK if arguments.quick else FULL
    arguments.bench(QUANTITIES, lambda _, *where: measure(size, *where))


def measure(size: McqSize, device: torch.device, repeats: int) -> tuple[str, dict[str, list[float]]]:
    """Take every one of ``QUANTITIES``."""
    tokenizer = word_tokenizer()
    questions = {"short": ask(size.num_short, **SHORT), "long": ask(size.num_long, **LONG)}
    pairs: dict[str, tuple[Step, Step]] = {}
    for prefix, dtype in (("", torch.float32), ("bf16_", torch.bfloat16)):
        model = language_model(size.text).eval().to(device, dtype)
        for kind, asked in questions.items():
            theirs = lm_eval(model, tokenizer, asked)
            if theirs is not None:
                pairs[f"{prefix}{kind}_over_lmeval"] = ours(reader(model, tokenizer), asked), theirs
    pairs["image_over_naive"] = with_images(size, device)
    setting = (
        f"random weights in the shape of SmolLM2-135M, {size.num_short} short and {size.num_long} long questions; a "
        f"small PaliGemma, {size.num_images} images; lm-evaluation-harness in batches of {LM_EVAL_BATCH}"
    )
    return setting, paired_ratios(pairs, repeats, device)


@dataclass(frozen=True)
class Asked:
    """A prompt and what may follow it."""

    prompt: str
    continuations: list[str]


def ask(num: int, *, num_words: int, num_choices: tuple[int, int], answer_words: tuple[int, int]) -> list[Asked]:
    """Questions of random words: how many words a question has, its choices and their words, from … to."""
    random = Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{random.randrange(NUM_WORDS)}" for _ in range(count))

    return [
        Asked(
            f"Question: {words(num_words)} Answer:",
            [f" {words(random.randint(*answer_words))}" for _ in range(random.randint(*num_choices))],
        )
        for _ in range(num)
    ]


def ours(model: ChoiceModel, asked: Sequence[Asked]) -> Scores:
    """Everything from text to log-likelihoods."""
    return lambda: _in_order(score(model, [model.encode(one.prompt, one.continuations) for one in asked]))


def lm_eval(model: Any, tokenizer: Any, asked: Sequence[Asked]) -> Scores | None:
    """The same by lm-evaluation-harness's own model class; None if it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=LM_EVAL_BATCH)

    def step() -> list[float]:
        requests = [
            Instance("loglikelihood", {}, (one.prompt, continuation), number)
            for one in asked
            for number, continuation in enumerate(one.continuations)
        ]
        return [found for found, _ in harness.loglikelihood(requests, disable_tqdm=True)]

    return step


def with_images(size: McqSize, device: torch.device) -> tuple[Scores, Scores]:
    """A prefix of an image and a short question: each prompt once, and one whole pass for every choice."""
    model = reader(image_model(size).to(device), image_processor(size))
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (size.num_images, size.image_size, size.image_size, 3))
    asked = ask(size.num_images, num_words=10, num_choices=(4, 4), answer_words=(3, 8))
    encoded: list[EncodedQuestion] = [
        model.encode(f"{model.placeholder}{one.prompt}", one.continuations, Image.fromarray(image.astype(np.uint8)))
        for one, image in zip(asked, pixels, strict=True)
    ]
    return (lambda: _in_order(score(model, encoded)), lambda: _in_order(score(model, encoded, method="separate")))


def _in_order(scored: Iterable[Scored]) -> list[float]:
    """Log-likelihoods of all choices of all questions, in their order."""
    return [sum(tokens) for _, choices in sorted(scored) for tokens in choices]


def image_model(size: McqSize) -> PaliGemmaForConditionalGeneration:
    """Random weights: a SigLIP tower and a Gemma."""
    tower = SiglipVisionConfig(
        hidden_size=size.tower_hidden,
        intermediate_size=4 * size.tower_hidden,
        num_hidden_layers=size.tower_layers,
        num_attention_heads=max(1, size.tower_hidden // 64),
        image_size=size.image_size,
        patch_size=14,
        projection_dim=size.text.hidden,
        vision_use_head=False,
    )
    text = GemmaConfig(
        vocab_size=size.image_vocabulary,
        hidden_size=size.text.hidden,
        intermediate_size=size.text.intermediate,
        num_hidden_layers=size.image_layers,
        num_attention_heads=size.text.heads,
        num_key_value_heads=size.text.kv_heads,
        head_dim=64,
    )
    image_token = len(word_tokenizer()) - 1
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            text_config=text, vision_config=tower, image_token_index=image_token, projection_dim=size.text.hidden
        )
    ).eval()


def image_processor(size: McqSize) -> PaliGemmaProcessor:
    """Its processor, with a tokenizer of words."""
    images = SiglipImageProcessor(size={"height": size.image_size, "width": size.image_size})
    images.image_seq_length = (size.image_size // 14) ** 2
    return PaliGemmaProcessor(images, word_tokenizer())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """``w0`` … ``w1999`` and a few more words, one token each; the last one stands for images."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<bos>", "<eos>", "<unk>", "Question:", "Answer:", "\n"]
    words += [f"w{number}" for number in range(NUM_WORDS)] + ["<image>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
