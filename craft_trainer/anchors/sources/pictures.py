"""Stand-ins for pictures of old tasks where nobody kept any: noise with the colours of other frames."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.sources.source import AnchorSource

STREAM = 3  # of random numbers, beside those of drawn states and of views

type Picture = Float[Tensor, "*frames 3 rows columns"]


class Pictures:
    """One picture of each camera in ``keys`` for every row: noise with the colours of a frame of ``source``.

    Each pixel is independently normal, with the mean and the deviation that its channel has in the frame. Which frame
    it is and what is drawn is a function of ``seed`` and the row alone. The result has 8 bits a colour.
    """

    def __init__(self, source: AnchorSource, keys: Collection[str], *, seed: int) -> None:
        self._source, self._keys, self._seed = source, sorted(keys), seed

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The pictures of ``rows``."""
        generators = [np.random.default_rng([self._seed, row, STREAM]) for row in rows]
        shown = self._source.batch([int(generator.integers(len(self._source))) for generator in generators])
        return {
            key: torch.stack([noise(frame, generator) for frame, generator in zip(shown[key], generators, strict=True)])
            for key in self._keys
        }

    def description(self) -> Mapping[str, Any]:
        """The data whose colours the pictures have."""
        told = self._source.description()
        digest = hashlib.sha256(json.dumps([told["fingerprint"], self._keys, self._seed]).encode()).hexdigest()
        return {"pictures": "noise", "pictures_of": told["dataset"], "fingerprint": digest}


def noise(picture: Picture, generator: np.random.Generator) -> Picture:
    """Draw μ + σ·z with z ~ N(0, I), where μ and σ are those of each channel of ``picture``; 8 bits a colour."""
    spread, mean = torch.std_mean(picture, dim=(-2, -1), keepdim=True)
    drawn = mean + spread * torch.from_numpy(generator.standard_normal(picture.shape)).to(picture)
    return (drawn.clamp(0, 1) * 255).round() / 255
