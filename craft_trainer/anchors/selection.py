"""Choose the samples that become anchors: uniform, stratified, or spread over what the teacher makes of them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

RULES = ("uniform", "stratified", "k_center")
NUM_PHASES = 4


def chosen_rows(
    rule: str,
    strata: Sequence[tuple[Hashable, ...]],
    num_rows: int,
    *,
    seed: int,
    features: Callable[[], Float[Tensor, "samples dim"]],
) -> list[int]:
    """The rows that become anchors by ``rule``, one of ``RULES``; sorted.

    Args:
        strata: of every sample, as in :func:`stratified_rows`.
        features: makes those of :func:`k_center_rows`, for which alone it is called.

    Raises:
        ValueError: there is no such rule, or there are fewer rows than asked for.
    """
    if rule not in RULES:
        raise ValueError(f"selection is {rule!r}: it must be one of {', '.join(RULES)}")
    if rule == "uniform":
        return uniform_rows(len(strata), num_rows, seed=seed)
    if rule == "stratified":
        return stratified_rows(strata, num_rows, seed=seed)
    return k_center_rows(features(), num_rows, seed=seed)


def uniform_rows(num_samples: int, num_rows: int, *, seed: int) -> list[int]:
    """``num_rows`` distinct rows of ``num_samples``, all equally likely; sorted."""
    _require_enough(num_samples, num_rows)
    return sorted(np.random.default_rng(seed).choice(num_samples, num_rows, replace=False).tolist())


def stratified_rows(strata: Sequence[tuple[Hashable, ...]], num_rows: int, *, seed: int) -> list[int]:
    """``num_rows`` distinct rows, shared out as evenly as there are rows at every level of their strata; sorted.

    ``strata[row]`` names the row's stratum from the outermost level inwards, like (task, phase, episode): first every
    task gets the same number of rows, then within a task every phase, then every episode. What is left over goes to
    strata drawn at random.

    Raises:
        ValueError: there are fewer rows than asked for.
    """
    _require_enough(len(strata), num_rows)
    chosen = _share(list(range(len(strata))), strata, 0, num_rows, np.random.default_rng(seed))
    return sorted(chosen)


def k_center_rows(features: Float[Tensor, "samples dim"], num_rows: int, *, seed: int) -> list[int]:
    """``num_rows`` distinct rows whose features cover all others: greedy k-centre; sorted.

    Starting from a random sample, always the sample farthest from those chosen so far, by Euclidean distance of
    features with unit variance. The largest distance of any sample to its nearest anchor is then at most twice the
    smallest possible. Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; as a coreset
    of training data in Sener & Savarese 2018, arXiv 1708.00489.
    """
    _require_enough(len(features), num_rows)
    scaled = features / features.var(dim=0, correction=0).clamp_min(1e-12).sqrt()
    chosen = [int(np.random.default_rng(seed).integers(len(features)))]
    nearest = torch.full((len(features),), torch.inf)
    while len(chosen) < num_rows:
        nearest = torch.minimum(nearest, (scaled - scaled[chosen[-1]]).square().sum(dim=1))
        nearest[chosen[-1]] = -1.0  # identical samples are chosen only when nothing else is left
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def phases(episodes: Sequence[int], num_phases: int = NUM_PHASES) -> list[int]:
    """Part of its episode, of ``num_phases`` equal ones, that each frame lies in; episodes are consecutive."""
    numbers = np.asarray(episodes)
    _, starts, counts = np.unique(numbers, return_index=True, return_counts=True)
    position: NDArray[Any] = np.empty(len(numbers), dtype=np.int64)
    for start, count in zip(starts, counts, strict=True):
        position[start : start + count] = np.arange(count) * num_phases // count
    return [int(phase) for phase in position]


def _share(
    rows: list[int], strata: Sequence[tuple[Hashable, ...]], level: int, num_rows: int, generator: np.random.Generator
) -> list[int]:
    """``num_rows`` of ``rows``, shared out over the strata at ``level`` and below."""
    if level == len(strata[rows[0]]):
        return [rows[index] for index in generator.choice(len(rows), num_rows, replace=False)]
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        parts[strata[row][level]].append(row)
    sizes = np.array([len(part) for part in parts.values()])
    counts = _even_counts(sizes, num_rows, generator)
    return [
        row
        for part, count in zip(parts.values(), counts, strict=True)
        if count > 0
        for row in _share(part, strata, level + 1, int(count), generator)
    ]


def _even_counts(sizes: NDArray[Any], total: int, generator: np.random.Generator) -> NDArray[Any]:
    """As many from each as from any other, as far as ``sizes`` allow; what is left over, one each of some at random."""
    even = max(level for level in range(total + 1) if np.minimum(sizes, level).sum() <= total)
    counts: NDArray[Any] = np.minimum(sizes, even)
    more = generator.choice(np.flatnonzero(sizes > even), total - counts.sum(), replace=False)
    counts[more] += 1
    return counts


def _require_enough(num_samples: int, num_rows: int) -> None:
    if not 0 < num_rows <= num_samples:
        raise ValueError(f"{num_rows} anchors asked of {num_samples} samples: ask for 1 to {num_samples}")
