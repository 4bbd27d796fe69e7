"""Which anchors a step uses: pure functions of seeds, so resume needs no state."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def anchor_rows(
    num_anchors: int, batch_size: int, *, seed: int, draw: int, rank: int = 0, world_size: int = 1
) -> list[int]:
    """Rows of the anchor batch number ``draw`` (0, 1, …) of ``rank``: each epoch is a new permutation of all anchors.

    The batches of all ranks are consecutive slices of one endless sequence, so that within an epoch no anchor is seen
    twice, on any rank.
    """
    start = (draw * world_size + rank) * batch_size
    epochs, offsets = np.divmod(np.arange(start, start + batch_size), num_anchors)
    return [int(_permutation(num_anchors, seed, int(e))[o]) for e, o in zip(epochs, offsets, strict=True)]


def proportional_rows(
    groups: Sequence[str],
    shares: Mapping[str, float],
    batch_size: int,
    *,
    seed: int,
    draw: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[int]:
    """Rows of the anchor batch number ``draw`` of ``rank``, as many from every group as its share asks for.

    The batches of all ranks together hold at least one anchor of every group (if they have room), and the rest by
    largest remainder of ``shares``; equal shares if all are zero. Within a group anchors are drawn without replacement,
    unless it has too few.
    """
    rows_of = _rows_by_group(tuple(groups))
    generator = np.random.default_rng([seed, draw])
    names = sorted(rows_of)
    weights = np.array([max(0.0, shares[name]) for name in names])
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names))
    total = batch_size * world_size
    if total < len(names):
        order = generator.permutation(len(names))
        counts = np.bincount(order[np.argsort(-weights[order], kind="stable")][:total], minlength=len(names))
    else:
        exact = weights * (total - len(names))
        counts = 1 + np.floor(exact).astype(int)
        missing = total - counts.sum()
        counts[np.argsort(np.floor(exact) - exact, kind="stable")[:missing]] += 1
    rows = [
        generator.choice(rows_of[name], size=count, replace=bool(count > len(rows_of[name])))
        for name, count in zip(names, counts, strict=True)
    ]
    return [int(row) for row in generator.permutation(np.concatenate(rows))[rank * batch_size :][:batch_size]]


@lru_cache(maxsize=4)
def _rows_by_group(groups: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    return {group: np.array(rows) for group, rows in rows_of.items()}


@lru_cache(maxsize=4)
def _permutation(num_anchors: int, seed: int, epoch: int) -> NDArray[Any]:
    return np.random.default_rng([seed, epoch]).permutation(num_anchors)
