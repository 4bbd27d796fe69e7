"""Draw the anchors of a step: pure functions of seeds, so resume needs no state."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def anchor_rows(num_anchors: int, batch_size: int, *, seed: int, draw: int) -> list[int]:
    """Rows of the anchor batch number ``draw`` (0, 1, …): each epoch is a new permutation of all anchors.

    Batches are consecutive slices of one endless sequence, so that within an epoch no anchor is seen twice.
    """
    start = draw * batch_size
    epochs, offsets = np.divmod(np.arange(start, start + batch_size), num_anchors)
    return [int(_permutation(num_anchors, seed, int(e))[o]) for e, o in zip(epochs, offsets, strict=True)]


@lru_cache(maxsize=4)
def _permutation(num_anchors: int, seed: int, epoch: int) -> NDArray[Any]:
    return np.random.default_rng([seed, epoch]).permutation(num_anchors)
