"""A teacher that looks at pixels and hears sounds, its samples, and a cache of them in seven shards."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.anchors.cache import AnchorCache
from craft_trainer.anchors.features import FeatureSpec
from craft_trainer.models.base import Batch, TokenLayout

NUM_ROWS, BATCH = 100, 2  # seven shards of eight batches, the last one short

GROUPS = ["odd" if row % 3 else "even" for row in range(NUM_ROWS)]


class Seer(nn.Module):
    """Looks at pixels and at a sequence of vectors; ``seconds`` are what every pass takes."""

    output_kind = "numbers"

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.eye, self.ear = nn.Linear(3, 4), nn.Linear(2, 4)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.seconds = seconds
        self.passes = 0

    @property
    def network(self) -> nn.Module:
        return self

    def prepare(self, batch: Batch) -> Batch:
        sounds = batch["sounds"]
        return {**batch, "sounds": sounds.view(len(batch["pixels"]), -1, 2)} if sounds.ndim == 2 else batch

    def predict(self, inputs: Batch) -> Tensor:
        self.passes += 1
        time.sleep(self.seconds)
        return self.eye(inputs["pixels"].mean(dim=(-1, -2)))[:, None] + self.ear(inputs["sounds"]).sum(dim=1)[:, None]

    def module_path(self, layer: int | str) -> str:
        return str(layer)

    def token_layout(self, path: str, inputs: Batch, shape: torch.Size) -> TokenLayout:
        return TokenLayout(valid=inputs["sounds"].any(dim=-1))

    def input_keys(self) -> list[str]:
        return ["pixels", "sounds", "heard"]

    def label_keys(self) -> list[str]:
        return ["heard"]

    def image_keys(self) -> list[str]:
        return ["pixels"]

    def noise(self, rows: Any) -> dict[str, Tensor]:
        return {"noise/row": torch.tensor(rows)}

    def packed(self, batch: Batch) -> dict[str, list[int]]:
        return {"sounds": [3] * len(batch["pixels"])} if batch["sounds"].ndim == 2 else {}

    def fingerprint(self) -> dict[str, str]:
        return {"weights": "w", "processors": "p"}


def samples(rows: list[int], *, lengths: Callable[[int], int] = lambda _row: 3) -> dict[str, Any]:
    """Pixels of 8 bits, and sounds of so many steps, padded to the longest of the batch."""
    drawn = [torch.Generator().manual_seed(row) for row in rows]
    pixels = [torch.randint(256, (3, 4, 5), generator=generator) for generator in drawn]
    sounds = [torch.randn(lengths(row), 2, generator=generator) for row, generator in zip(rows, drawn, strict=True)]
    return {
        "pixels": torch.stack(pixels).float() / 255,
        "sounds": nn.utils.rnn.pad_sequence(sounds, batch_first=True),
        "name": [f"row {row}" for row in rows],
    }


def packed_samples(rows: list[int]) -> dict[str, Any]:
    """The same, with the sounds of one sample after those of the other."""
    batch = samples(rows)
    return batch | {"sounds": batch["sounds"].flatten(0, 1)}


def build(folder: Path | str, teacher: Seer | None = None, load: Any = samples, **options: Any) -> AnchorCache:
    settings: dict[str, Any] = {
        "rows": list(range(0, 2 * NUM_ROWS, 2)),
        "groups": GROUPS,
        "specs": [FeatureSpec("ear", "none"), FeatureSpec("ear", "mean_masked")],
        "batch_size": BATCH,
        "source": {"dataset": "seen and heard", "frames": 1000},
        "teacher_path": "seer",
    }
    return build_anchor_cache(teacher or Seer(), load, folder, **settings | options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
