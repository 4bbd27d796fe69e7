"""Models of a few thousand parameters of the shapes that HuggingFace has beside decoders and encoders; their samples.

Encoder–decoders, heads with a distribution at every token, and a text's encoder beside a picture's.
"""

import torch
from tiny_encoders import LABELS, PAD, PIXELS, TEXT, TOKENS, VOCABULARY, collate
from torch.utils.data import Dataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    CLIPConfig,
    CLIPModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.families import as_anchored_model

FRAMES, MELS, WRITTEN = 12, 4, 8
END, START = 1, 2
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "init_std": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
    "decoder_start_token_id": START,
}
AUDIO = BART | {"num_mel_bins": MELS, "max_source_positions": FRAMES // 2, "max_target_positions": 32}
AUDIO.pop("max_position_embeddings")
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "initializer_factor": 0.5,
}
TOWER = {"projection_dim": 8}
MODELS = {
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART)),
    "bart_classifier": lambda: BartForSequenceClassification(BartConfig(**BART, num_labels=LABELS)),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT | {"eos_token_id": END}, vision_config=PIXELS, **TOWER)),
    "masked": lambda: BertForMaskedLM(BertConfig(**TEXT)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "t5_bare": lambda: T5Model(T5Config(**T5)),
    "tags": lambda: BertForTokenClassification(BertConfig(**TEXT, num_labels=LABELS)),
    "whisper": lambda: WhisperForConditionalGeneration(WhisperConfig(**AUDIO)),
    "whisper_classifier": lambda: WhisperForAudioClassification(WhisperConfig(**AUDIO, num_labels=LABELS)),
}
WRITES = {"bart", "t5", "whisper"}
DISTRIBUTIONS = WRITES | {"masked", "tags"}


def paths(*stacks):
    return [f"{path}.{layer}" for path, count in stacks for layer in range(count)]


BERT = paths(("bert.encoder.layer", 3))
BOTH = paths(("model.encoder.layers", 2), ("model.decoder.layers", 3))
BLOCKS = paths(("encoder.block", 2), ("decoder.block", 3))
LAYERS = {  # first to last
    "bart": BOTH,
    "bart_classifier": BOTH,
    "clip": paths(("text_model.encoder.layers", 3), ("vision_model.encoder.layers", 3)),
    "masked": BERT,
    "t5": BLOCKS,
    "t5_bare": BLOCKS,
    "tags": BERT,
    "whisper": BOTH,
    "whisper_classifier": paths(("encoder.layers", 2)),
}


def tiny(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]()


class Samples(Dataset):
    """Texts, sounds or texts with their pictures, and what is to be written or said of them."""

    def __init__(self, name, size=64, seed=1):
        self.name, self.size = name, size
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(5, VOCABULARY - 1, (size, TOKENS), generator=generator)
        self.written = torch.randint(5, VOCABULARY - 1, (size, WRITTEN), generator=generator)
        self.tags = torch.randint(LABELS, (size, TOKENS), generator=generator)
        self.pixels = torch.randn(size, 3, 8, 8, generator=generator)
        self.sounds = torch.randn(size, MELS, FRAMES, generator=generator)

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        text = self.ids[row, : TOKENS - row % 5].clone()
        text[-1] = END
        sample = {"input_ids": text, "attention_mask": torch.ones_like(text)}
        match self.name:
            case "whisper" | "whisper_classifier":
                sample = {"input_features": self.sounds[row]}
            case "clip":
                sample |= {"pixel_values": self.pixels[row]}
        return sample | self._target(row, len(text))

    def _target(self, row, length):
        match self.name:
            case "clip":
                return {}
            case "t5_bare":
                written = self.written[row, : WRITTEN - row % 3]
                return {"decoder_input_ids": written, "decoder_attention_mask": torch.ones_like(written)}
            case "masked":
                hidden = torch.arange(length) % 3 == row % 3
                return {"labels": self.ids[row, :length].masked_fill(~hidden, -100)}
            case "tags":
                return {"labels": self.tags[row, :length]}
            case "bart_classifier" | "whisper_classifier":
                return {"labels": self.tags[row, 0]}
        return {"labels": self.written[row, : WRITTEN - row % 3]}


def batch_of(name, samples):
    """Samples together, filled up on the right: labels by −100, the rest by 0, as a batch of anchors is."""
    batch = collate(samples)
    if "labels" in batch and batch["labels"].ndim > 1:
        labels = [sample["labels"] for sample in samples]
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return batch | ({"return_loss": True} if name == "clip" else {})


def old_rows(name):
    task = Samples(name, seed=2)
    return lambda rows: batch_of(name, [task[row] for row in rows])


def shape_anchors(folder, name, model=None, *, layers=(-2,), pooling="mean_masked", size=24, **options):
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
