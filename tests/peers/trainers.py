"""Trainers of other libraries, each with a toy to train: one short description for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from datasets import Dataset
from lm_folders import save_tiny_lm
from smolvlms import save_smolvlm
from tiny_encoders import sentence_transformer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.families import as_anchored_model

huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would count these toys
NUM_ANCHORS = 16
TEXTS = [f"The red puck is left of the goal, hello world {number}" for number in range(24)]
PROMPTS = {"prompt": ["Where is the puck? "] * 24}
PICTURES = {"prompt": ["<image>push the"] * 24, "completion": [" red puck", " open door"] * 12}
PAIRS = PROMPTS | {"chosen": ["left of the goal"] * 24, "rejected": ["open, the answer"] * 24}


class Toys:
    """A model of every kind that the peers train, saved once, and its anchors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def lm(self) -> Path:
        """A Llama with its tokenizer."""
        return save_tiny_lm(self.folder / "lm", num_hidden_layers=2)

    @cached_property
    def vlm(self) -> Path:
        """A SmolVLM with its processor."""
        folder = save_smolvlm(self.folder / "vlm")
        torch.manual_seed(0)
        SmolVLMForConditionalGeneration(SmolVLMConfig.from_pretrained(folder)).save_pretrained(folder)
        return folder

    @cached_property
    def t5(self) -> Path:
        """A T5 with the Llama's tokenizer."""
        folder, tokenizer = self.folder / "t5", AutoTokenizer.from_pretrained(self.lm)
        torch.manual_seed(0)
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 0.5}
        ends = {
            "decoder_start_token_id": 0,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    @cached_property
    def sentences(self) -> Path:
        """A SentenceTransformer of a BERT."""
        folder = self.folder / "sentences"
        sentence_transformer(self.folder / "bert").save(str(folder))
        return folder

    def model(self, kind: str) -> Any:
        """Load the model of a kind as it was saved."""
        return LOAD[kind](getattr(self, kind))

    def processing_class(self, kind: str) -> dict[str, Any]:
        """Give the tokenizer or processor of a kind, where the trainer does not take it from the model."""
        reader = {"lm": AutoTokenizer, "t5": AutoTokenizer, "vlm": AutoProcessor}.get(kind)
        return {} if reader is None else {"processing_class": reader.from_pretrained(getattr(self, kind))}

    def anchors(self, kind: str) -> AnchorCache:
        """Give the anchors of a kind, built when they are first asked for."""
        folder = self.folder / f"anchors_{kind}"
        if folder.exists():
            return AnchorCache(folder)
        teacher = as_anchored_model(self.model(kind))
        samples = OLD[kind](getattr(self, kind))
        return build_anchor_cache(
            teacher,
            lambda rows: {key: value[list(rows)] for key, value in samples.items()},
            folder,
            rows=range(NUM_ANCHORS),
            groups=["old"] * NUM_ANCHORS,
            specs=[FeatureSpec(teacher.module_path(-2), "mean_masked")],
            batch_size=8,
            source={"dataset": "old", "frames": NUM_ANCHORS},
            teacher_path=kind,
            num_tokens=16,
        )


def load_language_model(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder)


def load_encoder_decoder(folder: Path) -> nn.Module:
    return AutoModelForSeq2SeqLM.from_pretrained(folder)


def load_adapter(folder: Path) -> nn.Module:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder)


def load_vision_language_model(folder: Path) -> nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder)


def load_sentence_transformer(folder: Path) -> nn.Module:
    return pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")


def tokens(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    return dict(tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))


def pictures(count: int) -> list[Any]:
    from PIL import Image

    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(256, size=(32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def old_texts(folder: Path) -> dict[str, Any]:
    return tokens(AutoTokenizer.from_pretrained(folder), [f"Is the gripper open {i}? Yes" for i in range(NUM_ANCHORS)])


def old_pairs(folder: Path) -> dict[str, Any]:
    written = tokens(AutoTokenizer.from_pretrained(folder), ["left of the goal"] * NUM_ANCHORS)
    return old_texts(folder) | {"labels": written["input_ids"]}


def old_pictures(folder: Path) -> dict[str, Any]:
    texts = ["<image>open the door"] * NUM_ANCHORS
    images = [[picture] for picture in pictures(NUM_ANCHORS)]
    return dict(AutoProcessor.from_pretrained(folder)(text=texts, images=images, return_tensors="pt"))


def old_sentences(folder: Path) -> dict[str, Any]:
    tokenizer = load_sentence_transformer(folder).tokenizer
    return tokens(tokenizer, [f"w{i} w{i + 3} w{2 * i + 1}" for i in range(NUM_ANCHORS)])


LOAD = {
    "lm": load_language_model,
    "t5": load_encoder_decoder,
    "vlm": load_vision_language_model,
    "sentences": load_sentence_transformer,
}
OLD = {"lm": old_texts, "t5": old_pairs, "vlm": old_pictures, "sentences": old_sentences}


@dataclass(frozen=True)
class Peer:
    """A Trainer that is not transformers' own, and a toy task for it.

    Attributes:
        library: the package that has it.
        trainer: its name there.
        config: the name of its arguments there.
        more: what it is given beside the model, the arguments of training and the tokenizer; made anew for each run.
        options: arguments of training.
        kind: of model.
        load: the peer's own way to load what it has saved.
        epsilon: what the bound of L_retain is called among its arguments.
        terms: what is held.
    """

    library: str
    trainer: str
    config: str
    more: Callable[[Toys, Any], dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "lm"
    load: Callable[[Path], nn.Module] = load_language_model
    epsilon: str = "epsilon"
    terms: tuple[str, ...] = ("hidden", "token_kl")

    @property
    def classes(self) -> tuple[type, type]:
        """The trainer and its arguments; skips the test where the library is not installed."""
        library = pytest.importorskip(self.library)
        return getattr(library, self.trainer), getattr(library, self.config)

    def given(self, toys: Toys) -> dict[str, Any]:
        """Make what the trainer is given beside the arguments of training."""
        model = toys.model(self.kind)
        return {"model": model, **toys.processing_class(self.kind), **self.more(toys, model)}


def rows(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict(columns)


def lora() -> Any:
    return pytest.importorskip("peft").LoraConfig(r=4, lora_alpha=32, task_type="CAUSAL_LM")


def tokenized(toys: Toys) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(toys.lm)
    samples = [{"input_ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    return {"train_dataset": samples, "data_collator": DataCollatorForLanguageModeling(tokenizer, mlm=False)}


def written(toys: Toys) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(toys.t5)
    samples = [dict(tokenizer("Where is the puck?", text_target=text, return_token_type_ids=False)) for text in TEXTS]
    return {"train_dataset": samples, "data_collator": DataCollatorForSeq2Seq(tokenizer)}


def sentence_pairs(model: Any) -> dict[str, Any]:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    firsts, seconds = ([f"w{i} w{i + step} w{i + 5}" for i in range(24)] for step in (1, 7))
    return {
        "train_dataset": rows(anchor=firsts, positive=seconds),
        "loss": losses.MultipleNegativesRankingLoss(model),
    }


def num_letters(completions: list[str], **_: Any) -> list[float]:
    """A toy reward."""
    return [float(len(set(completion))) for completion in completions]


def _trl(name: str, more: Callable[[Toys, Any], dict[str, Any]], **options: Any) -> Peer:
    own = {key: options.pop(key) for key in ("kind", "load", "epsilon") if key in options}
    return Peer("trl", f"{name}Trainer", f"{name}Config", more, options, **own)


CHAT = [[{"role": "user", "content": "Where is the puck?"}, {"role": "assistant", "content": text}] for text in TEXTS]
PEERS = {
    "sft": _trl("SFT", lambda toys, model: {"train_dataset": rows(text=TEXTS)}),
    "sft-completion": _trl("SFT", lambda toys, model: {"train_dataset": rows(**PROMPTS, completion=TEXTS)}),
    "sft-packing": _trl(
        "SFT",
        lambda toys, model: {"train_dataset": rows(text=TEXTS)},
        packing=True,
        packing_strategy="wrapped",
        max_length=20,
    ),
    "sft-assistant": _trl("SFT", lambda toys, model: {"train_dataset": rows(messages=CHAT)}, assistant_only_loss=True),
    "sft-lora": _trl(
        "SFT", lambda toys, model: {"train_dataset": rows(text=TEXTS), "peft_config": lora()}, load=load_adapter
    ),
    "sft-vision": _trl(
        "SFT",
        lambda toys, model: {"train_dataset": rows(**PICTURES, image=pictures(24))},
        kind="vlm",
        load=load_vision_language_model,
    ),
    "dpo": _trl("DPO", lambda toys, model: {"train_dataset": rows(**PAIRS)}),
    "dpo-reference": _trl("DPO", lambda toys, model: {"train_dataset": rows(**PAIRS), "ref_model": toys.model("lm")}),
    "dpo-lora": _trl(
        "DPO", lambda toys, model: {"train_dataset": rows(**PAIRS), "peft_config": lora()}, load=load_adapter
    ),
    "kto": _trl(
        "KTO", lambda toys, model: {"train_dataset": rows(**PROMPTS, completion=TEXTS, label=[True, False] * 12)}
    ),
    "grpo": _trl(
        "GRPO",
        lambda toys, model: {"train_dataset": rows(**PROMPTS), "reward_funcs": num_letters},
        epsilon="retention_epsilon",
        num_generations=4,
        max_completion_length=8,
    ),
    "seq2seq": Peer("transformers", "Seq2SeqTrainer", "Seq2SeqTrainingArguments", lambda toys, model: tokenized(toys)),
    "seq2seq-t5": Peer(
        "transformers",
        "Seq2SeqTrainer",
        "Seq2SeqTrainingArguments",
        lambda toys, model: written(toys),
        kind="t5",
        load=load_encoder_decoder,
    ),
    "sentences": Peer(
        "sentence_transformers",
        "SentenceTransformerTrainer",
        "SentenceTransformerTrainingArguments",
        lambda toys, model: sentence_pairs(model),
        kind="sentences",
        load=load_sentence_transformer,
        terms=("hidden", "output"),
    ),
}
