"""Bytes per anchor at the shape of PI0-FAST, as the cache really writes them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.base import Batch, TokenLayout
from craft_trainer.models.general import GeneralModel

CAMERAS, IMAGE_TOKENS, TEXT_TOKENS, ACTION_TOKENS, WIDTH = 2, 256, 200, 256, 2048
VOCABULARY = 1024  # an index takes four bytes whatever it is
NUM_ANCHORS = 8
POOLED, EVERY = FeatureSpec("layer", "mean_image_tokens"), FeatureSpec("layer", "none")


class Shape(GeneralModel):
    """Hidden states and logits of PI0-FAST's shape: two cameras, text and action tokens; the numbers are random."""

    def __init__(self) -> None:
        self._layer = nn.Identity()
        self._model = self._encoder = nn.ModuleDict({"layer": self._layer, "weights": nn.Linear(1, 1)})

    @property
    def output_kind(self) -> str:
        """Of tokens."""
        return "logits"

    def prepare(self, batch: Batch) -> Batch:
        """Nothing to prepare."""
        return batch

    def predict(self, inputs: Batch) -> Tensor:
        """Random hidden states go through the layer; random logits come out."""
        num_samples = len(inputs["row"])
        self._layer(torch.randn(num_samples, CAMERAS * IMAGE_TOKENS + TEXT_TOKENS + ACTION_TOKENS, WIDTH))
        return torch.randn(num_samples, ACTION_TOKENS, VOCABULARY)

    def module_path(self, layer: int | str) -> str:
        """Its only layer."""
        return "layer"

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        """Images first."""
        del path, inputs
        return TokenLayout(image=(torch.arange(shape[1]) < CAMERAS * IMAGE_TOKENS).expand(shape[0], -1))

    def input_keys(self) -> list[str]:
        """Nothing that would be stored: inputs are the same whatever is held."""
        return ["row"]

    def label_keys(self) -> list[str]:
        """None."""
        return []

    def fingerprint(self) -> dict[str, str]:
        """Of nothing."""
        return {"weights": "none", "processors": ""}


def bytes_per_anchor() -> dict[str, float]:
    """Count the bytes that the cache stores per anchor, for every way to hold PI0-FAST's behaviour."""
    kinds: dict[str, dict[str, Any]] = {
        "hidden, mean over image tokens": {"specs": [POOLED], "output": False},
        "hidden, every token": {"specs": [EVERY], "output": False},
        "tokens, the likeliest 32 at every position": {"specs": [], "num_tokens": 32},
        "tokens, the likeliest one at every position": {"specs": [], "num_tokens": 1},
    }
    with TemporaryDirectory() as folder:
        return {name: _stored(Path(folder) / str(index), kind) for index, (name, kind) in enumerate(kinds.items())}


def storage_table(sizes: dict[str, float]) -> str:
    """The sizes, and what the pooled features take of each, as lines."""
    pooled = next(iter(sizes.values()))
    lines = [f"{name:<46} {size:>12,.0f} {pooled / size - 1:>+9.1%}" for name, size in sizes.items()]
    heading = f"{'bytes per anchor at the shape of PI0-FAST':<46} {'bytes':>12} {'pooled':>9}"
    return "\n".join([heading, *lines])


def _stored(folder: Path, kind: dict[str, Any]) -> float:
    torch.manual_seed(0)
    cache = build_anchor_cache(
        Shape(),
        lambda rows: {"row": torch.tensor(rows)},
        folder,
        rows=range(NUM_ANCHORS),
        groups=["old"] * NUM_ANCHORS,
        batch_size=2,
        source={"dataset": "none", "frames": NUM_ANCHORS},
        teacher_path="none",
        **kind,
    )
    held = [size for name, size in cache.provenance.sizes.items() if name.split("/")[0] in ("hidden", "token")]
    return sum(held) / NUM_ANCHORS
