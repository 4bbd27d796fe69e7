"""A Llama of a few thousand parameters, a task of token sequences, and anchors of it."""

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.families import as_anchored_model

VOCABULARY, TOKENS = 40, 12
CHECKPOINTING = next(  # of activations; transformers ≥ 5.2x has the second name and warns of the first
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


def tiny_llama(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=TOKENS, **sizes | options))


class TokenTask(Dataset):
    """Sequences of which the first few tokens are a prompt, more of them from sample to sample."""

    def __init__(self, size=64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(VOCABULARY, (size, TOKENS), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index]
        labels = ids.clone()
        labels[: index % (TOKENS - 2)] = -100
        mask = torch.ones_like(ids)
        mask[TOKENS - index % 3 :] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(mask == 0, -100)}


def collate(samples):
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def old_rows(rows):
    task = TokenTask(seed=2)
    return collate([task[row] for row in rows])


def lm_anchors(folder, *, model=None, layers=(-2,), pooling="mean_masked", size=24, num_tokens=8):
    teacher = as_anchored_model(model or tiny_llama())
    return build_anchor_cache(
        teacher,
        old_rows,
        folder,
        rows=range(size),
        groups=["old"] * size,
        specs=[FeatureSpec(teacher.module_path(layer), pooling) for layer in layers],
        batch_size=8,
        source={"dataset": "tokens", "frames": size},
        teacher_path="tiny",
        num_tokens=num_tokens,
    )
