"""Encoders of a few thousand parameters, with and without heads, samples for them, and anchors of these."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.families import as_anchored_model

VOCABULARY, TOKENS, PAD, LABELS = 40, 12, 39, 3
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = SIZES | {"vocab_size": VOCABULARY, "max_position_embeddings": TOKENS, "initializer_range": 0.3}
PIXELS = SIZES | {"image_size": 8, "patch_size": 4, "initializer_range": 0.3}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**TEXT)),
    "bert_classifier": lambda: BertForSequenceClassification(BertConfig(**TEXT, num_labels=LABELS)),
    "llama": lambda: LlamaModel(LlamaConfig(**TEXT)),
    "llama_reward": lambda: LlamaForSequenceClassification(LlamaConfig(**TEXT, num_labels=1, pad_token_id=PAD)),
    "roberta_classifier": lambda: RobertaForSequenceClassification(
        # RoBERTa counts positions from its padding token on, which takes two of them
        RobertaConfig(**TEXT | {"max_position_embeddings": TOKENS + 2}, num_labels=LABELS)
    ),
    "vit": lambda: ViTModel(ViTConfig(**PIXELS)),
    "vit_classifier": lambda: ViTForImageClassification(ViTConfig(**PIXELS, num_labels=LABELS)),
}
LISTS = {  # where HuggingFace keeps the layers
    "bert": "encoder.layer",
    "bert_classifier": "bert.encoder.layer",
    "llama": "layers",
    "llama_reward": "model.layers",
    "roberta_classifier": "roberta.encoder.layer",
    "vit": "encoder.layer",
    "vit_classifier": "vit.encoder.layer",
}


def tiny(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]()


def sentence_transformer(folder, seed=0, *, pooling="mean", **options):
    """A BERT with words for tokens, whose embeddings are pooled and normalised; ``folder`` takes its parts."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCABULARY - 5))]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    tiny("bert", seed).save_pretrained(folder)
    parts = [Transformer(str(folder)), Pooling(SIZES["hidden_size"], pooling, **options), Normalize()]
    return SentenceTransformer(modules=parts, device="cpu")


class Samples(Dataset):
    """Pixels, or tokens of sequences that differ in length, with the class of each."""

    def __init__(self, name, size=64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.sees = name.startswith("vit")
        shape = (size, 3, 8, 8) if self.sees else (size, TOKENS)
        self.pixels = torch.randn(shape, generator=generator)
        self.ids = torch.randint(5, VOCABULARY - 1, (size, TOKENS), generator=generator)
        classes = torch.randint(LABELS, (size,), generator=generator)
        self.labels = None if name in ("bert", "llama", "vit") else classes
        self.labels = torch.randn(size, 1, generator=generator) if name == "llama_reward" else self.labels

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        length = TOKENS - index % 5
        target = {} if self.labels is None else {"labels": self.labels[index]}
        if self.sees:
            return {"pixel_values": self.pixels[index]} | target
        return {"input_ids": self.ids[index, :length], "attention_mask": torch.ones(length, dtype=torch.long)} | target


def collate(samples):
    """Shorter sequences are filled up with zeros, which are no padding token of Llama's and of RoBERTa's."""

    def together(values):
        if values[0].ndim == 1 and values[0].dtype == torch.long:
            return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        return torch.stack(values)

    return {key: together([sample[key] for sample in samples]) for key in samples[0]}


def old_rows(name):
    task = Samples(name, seed=2)
    return lambda rows: collate([task[row] for row in rows])


def encoder_anchors(folder, name, model=None, *, layers=(-2,), pooling="mean_masked", size=24, **options):
    teacher = as_anchored_model(model or tiny(name))
    return build_anchor_cache(
        teacher,
        old_rows(name),
        folder,
        rows=range(size),
        groups=["old"] * size,
        specs=[FeatureSpec(teacher.module_path(layer), pooling) for layer in layers],
        batch_size=8,
        source={"dataset": name, "frames": size},
        teacher_path="tiny",
        **options,
    )
