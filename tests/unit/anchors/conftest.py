"""A Llama small enough for one thread, rows of padded tokens, and an anchor cache of its likeliest tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from craft_trainer.anchors.cache import AnchorCache

VOCABULARY, TOKENS, ROWS = 40, 6, 11
LENGTHS = [6, 3, 5, 6, 1, 4, 6, 2, 6, 5, 4]


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Makes a fresh two-layer Llama: ``tiny_llama(seed=0)``; ``sharpness`` scales its logits."""
    import tiny_lm

    def make(*, seed: int = 0, sharpness: float = 20.0) -> LlamaForCausalLM:
        model = tiny_lm.tiny_llama(seed, num_hidden_layers=2, attention_dropout=0.1)
        with torch.no_grad():
            model.lm_head.weight *= sharpness  # logits of a fresh model are all alike
        return model

    return make


@pytest.fixture(scope="session")
def lora() -> Callable[..., Any]:
    """Wraps a tiny Llama by a fresh LoRA adapter; ``moved`` gives it an effect."""
    from peft import LoraConfig, get_peft_model

    def wrap(model: LlamaForCausalLM, *, moved: bool = False) -> Any:
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
        wrapped = get_peft_model(model, config)
        if moved:
            with torch.no_grad():
                for name, parameter in wrapped.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_()
        return wrapped

    return wrap


@pytest.fixture(scope="session")
def load_tokens() -> Callable[[list[int]], dict[str, torch.Tensor]]:
    """Samples at some rows of eleven: six tokens, padded on the right to the lengths above; and a key nobody reads."""
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(7))
    mask = (torch.arange(TOKENS) < torch.tensor(LENGTHS)[:, None]).long()

    def load(rows: list[int]) -> dict[str, torch.Tensor]:
        labels = ids.masked_fill(mask == 0, -100)
        return {"input_ids": ids[rows], "attention_mask": mask[rows], "labels": labels[rows], "row": torch.tensor(rows)}

    return load


@pytest.fixture(scope="session")
def build_token_anchors(load_tokens: Callable[..., Any]) -> Callable[..., AnchorCache]:
    """Builds a cache of all rows: ``build_token_anchors(model, folder, layers=(0, -1), pooling=..., num_tokens=5)``."""
    from craft_trainer.anchors.building import build_anchor_cache
    from craft_trainer.anchors.features import FeatureSpec
    from craft_trainer.models.families import as_anchored_model

    def build(
        model: Any,
        folder: Path,
        *,
        layers: tuple[int, ...] = (0, -1),
        pooling: str = "mean_masked",
        num_tokens: int = 5,
        batch_size: int = 4,
    ) -> AnchorCache:
        view = as_anchored_model(model)
        return build_anchor_cache(
            view,
            load_tokens,
            folder,
            rows=range(ROWS),
            groups=["verse" if row % 3 else "prose" for row in range(ROWS)],
            specs=[FeatureSpec(view.module_path(layer), pooling) for layer in layers],
            batch_size=batch_size,
            source={"dataset": "tokens", "frames": ROWS},
            teacher_path="tiny llama",
            num_tokens=num_tokens,
        )

    return build


@pytest.fixture(scope="session")
def token_anchors(
    tiny_llama: Callable[..., Any], build_token_anchors: Callable[..., AnchorCache], tmp_path_factory: Any
) -> AnchorCache:
    """The anchors of ``tiny_llama()``: the mean of both layers, and the five likeliest tokens."""
    return build_token_anchors(tiny_llama(), tmp_path_factory.mktemp("tokens") / "cache")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> AnchorCache:
    """A cache of the seer that was never interrupted."""
    from seer import build

    return build(tmp_path_factory.mktemp("whole") / "cache")
