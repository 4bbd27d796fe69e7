"""A causal language model of Llama's shape with random weights, an encoder of its size, their batches and anchors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec, extract
from craft_trainer.anchors.sampling import anchor_rows
from craft_trainer.losses.hidden import Hidden
from craft_trainer.models.families import as_anchored_model
from craft_trainer.training.config import CraftConfig

NUM_GROUPS = 16


@dataclass(frozen=True)
class Size:
    """A causal language model of Llama's shape with tied embeddings, and the batches it sees."""

    hidden: int = 320
    intermediate: int = 880
    layers: int = 10
    heads: int = 5
    kv_heads: int | None = None  # as many as heads
    vocabulary: int = 4096
    large_vocabulary: int = 50_000  # of the model that shows what the early end of the retention pass saves
    samples: int = 4
    tokens: int = 128


FULL = Size()
QUICK = Size(hidden=32, intermediate=64, layers=2, heads=2, vocabulary=64, large_vocabulary=512, tokens=32)


def language_model(size: Size) -> Any:
    """A Llama with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(**_sizes(size), num_key_value_heads=size.kv_heads or size.heads, tie_word_embeddings=True)
    )


def encoder(size: Size) -> Any:
    """A BERT of that size with random weights, which predicts words; without dropout."""
    return BertForMaskedLM(BertConfig(**_sizes(size), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def _sizes(size: Size) -> dict[str, int]:
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": size.tokens,
    }


def token_batch(size: Size, num_samples: int) -> dict[str, Tensor]:
    """Random tokens, without padding."""
    ids = torch.randint(size.vocabulary, (num_samples, size.tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def anchor_cache(
    teacher: Any,
    folder: Path,
    size: Size,
    num_anchors: int,
    *,
    layer: int = -1,
    poolings: Sequence[str] = ("none",),
    output: bool = True,
) -> AnchorCache:
    """Anchors of random tokens, of 16 groups in turn, with the hidden states after ``layer``: by default every one."""
    view, samples = as_anchored_model(teacher), token_batch(size, num_anchors)
    return build_anchor_cache(
        view,
        lambda rows: {key: value[rows] for key, value in samples.items()},
        folder,
        rows=range(num_anchors),
        groups=[f"task {row % NUM_GROUPS}" for row in range(num_anchors)],
        specs=[FeatureSpec(view.module_path(layer), pooling) for pooling in poolings],
        batch_size=size.samples,
        source={"dataset": "random tokens", "frames": num_anchors},
        teacher_path="random weights",
        output=output,
    )


def retention(model: Any, anchors: AnchorCache, num_anchors: int, *, to_the_end: bool = False) -> Callable[[], Tensor]:
    """L_retain on the anchors of a run's first pass, read beforehand; ``to_the_end`` does not stop at their layer."""
    rows = anchor_rows(len(anchors), num_anchors, seed=CraftConfig.seed, draw=0)
    view, batch = as_anchored_model(model), send_to_device(anchors.batch(rows), model.device)
    scales = {name: value.to(model.device) for name, value in anchors.scales().items()}

    def loss() -> Tensor:
        student = extract(view, batch.inputs, anchors.specs, output=to_the_end)
        return Hidden()(student, batch.teacher, scales).mean()

    return loss
