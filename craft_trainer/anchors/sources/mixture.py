"""Several sources in one cache, with a group for each."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from craft_trainer.anchors.cache import INPUT_PREFIX, PADDING
from craft_trainer.anchors.sources.source import AnchorSource


def mixed(parts: Mapping[str, tuple[AnchorSource, Sequence[int]]]) -> tuple[AnchorSource, Sequence[int]]:
    """The one part there is, or the mixture of several; with the rows of it that are chosen."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    mixture = Mixture(parts)
    return mixture, range(len(mixture))


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """Share ``count`` anchors out over the parts in proportion to their ``weights``, to the largest remainders.

    Raises:
        ValueError: a part would get none.
    """
    exact = [count * weight / sum(weights) for weight in weights]
    found = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: found[part] - exact[part])
    for part in by_remainder[: count - sum(found)]:
        found[part] += 1
    if not all(found):
        raise ValueError(
            f"{count} anchors of {len(weights)} sources would be {found}: ask for at least one of each, "
            "by more anchors or closer weights"
        )
    return found


class Mixture:
    """The chosen inputs of every part, one part after the other; the group of an input is the name of its part.

    A key that not every part has (the labels of old demonstrations) is left out.

    Args:
        parts: the source and the rows that are chosen of it, by name.
    """

    def __init__(self, parts: Mapping[str, tuple[AnchorSource, Sequence[int]]]) -> None:
        self._parts = dict(parts)
        keys = [source.batch([rows[0]]).keys() for source, rows in parts.values()]
        self._keys = [key for key in keys[0] if all(key in others for others in keys)]
        self._ends = list(accumulate(len(rows) for _, rows in parts.values()))
        self.groups = [name for name, (_, rows) in parts.items() for _ in rows]
        self.strata = [(group,) for group in self.groups]

    def __len__(self) -> int:
        return self._ends[-1]

    def batch(self, rows: list[int]) -> dict[str, Any]:
        """The inputs at ``rows``, with the keys that all parts have."""
        numbers = [next(number for number, end in enumerate(self._ends) if row < end) for row in rows]
        found: list[tuple[list[int], dict[str, Any]]] = []
        for number, ((source, chosen), end) in enumerate(zip(self._parts.values(), self._ends, strict=True)):
            places = [place for place, other in enumerate(numbers) if other == number]
            if places:
                start = end - len(chosen)
                found.append((places, source.batch([chosen[rows[place] - start] for place in places])))
        order = [place for places, _ in found for place in places]
        back = [order.index(place) for place in range(len(rows))]
        return {key: _joined(key, [batch[key] for _, batch in found], back) for key in self._keys}

    def description(self) -> Mapping[str, Any]:
        """Every part's own, under ``parts``."""
        parts = {name: {**source.description(), "anchors": len(rows)} for name, (source, rows) in self._parts.items()}
        digest = hashlib.sha256(
            repr([(part["fingerprint"], list(self._parts[name][1])) for name, part in parts.items()]).encode()
        )
        told = {"dataset": " + ".join(self._parts), "frames": len(self), "fingerprint": digest.hexdigest()}
        return told | {"parts": parts}


def _joined(key: str, values: Sequence[Any], order: list[int]) -> Any:
    """The values of one ``key``, one part's after the other's, put into ``order``; tokens are padded on the right."""
    if isinstance(values[0], Tensor):
        if values[0].ndim == 2 and not values[0].is_floating_point():
            longest = max(value.shape[1] for value in values)
            fill = PADDING.get(INPUT_PREFIX + key, 0)
            values = [pad(value, (0, longest - value.shape[1]), value=fill) for value in values]
        return torch.cat(list(values))[order]
    every = [value for part in values for value in part]
    return [every[place] for place in order]
