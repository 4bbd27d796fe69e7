"""What stands in for the pictures of a policy's old tasks where nobody kept any: those of other frames, changed."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from craft_trainer.anchors.sources.source import AnchorSource

STREAM = 3  # of random numbers, beside those of drawn states and of views
PATCHES = 4  # a shuffled picture is cut into so many rows and columns

type Picture = Float[Tensor, "*frames 3 rows columns"]
Change = Callable[[Picture, Picture, np.random.Generator], Picture]


def mixed(picture: Picture, other: Picture, generator: np.random.Generator) -> Picture:
    """(1 − a)·``picture`` + a·``other`` with a ~ U(0, 1)."""
    share = float(generator.uniform())
    return (1 - share) * picture + share * other


def shuffled(picture: Picture, other: Picture, generator: np.random.Generator) -> Picture:
    """The patches of ``picture``, 4 × 4 of equal size, in another order; a rest at the lower and right edge stays."""
    rows, columns = (size // PATCHES for size in picture.shape[-2:])
    cut = [
        (..., slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns))
        for row in range(PATCHES)
        for column in range(PATCHES)
    ]
    changed = picture.clone()
    for place, origin in zip(cut, generator.permutation(len(cut)).tolist(), strict=True):
        changed[place] = picture[cut[origin]]
    return changed


def noise(picture: Picture, other: Picture, generator: np.random.Generator) -> Picture:
    """Independent colours, each normal with the mean and the deviation of its channel in ``picture``."""
    spread, mean = torch.std_mean(picture, dim=(-2, -1), keepdim=True)
    return mean + spread * torch.from_numpy(generator.standard_normal(picture.shape)).to(picture)


CHANGES: Mapping[str, Change] = {
    "whole": lambda picture, other, generator: picture,
    "mixed": mixed,
    "shuffled": shuffled,
    "noise": noise,
}


class Pictures:
    """One picture of each camera in ``keys`` for every row: that of a frame of ``source``, changed by ``change``.

    ``change`` is one of ``CHANGES``. Which frame it is and how it changes is a function of ``seed`` and the row alone.
    The result has 8 bits a colour.
    """

    def __init__(self, source: AnchorSource, keys: Collection[str], *, change: str, seed: int) -> None:
        self._source, self._keys, self._change, self._seed = source, sorted(keys), change, seed

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The pictures of ``rows``."""
        generators = [np.random.default_rng([self._seed, row, STREAM]) for row in rows]
        pairs = [generator.integers(len(self._source), size=2).tolist() for generator in generators]
        first, second = (self._source.batch(list(chosen)) for chosen in zip(*pairs, strict=True))
        change = CHANGES[self._change]
        return {
            key: torch.stack(
                [
                    _of_8_bits(change(picture, other, generator))
                    for picture, other, generator in zip(first[key], second[key], generators, strict=True)
                ]
            )
            for key in self._keys
        }

    def description(self) -> Mapping[str, Any]:
        """The data that the pictures are from, and how they are changed."""
        told = self._source.description()
        content = json.dumps([told["fingerprint"], self._keys, self._change, self._seed])
        digest = hashlib.sha256(content.encode()).hexdigest()
        return {"pictures": self._change, "pictures_of": told["dataset"], "fingerprint": digest}


def _of_8_bits(picture: Picture) -> Picture:
    return (picture.clamp(0, 1) * 255).round() / 255
