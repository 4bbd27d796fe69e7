"""Samples of a stream, read in their order when they are needed."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import default_collate, get_worker_info


class StreamSource:
    """The first ``count`` samples of ``stream``, which is a ``datasets.IterableDataset`` or one of torch.

    Every process reads the stream for itself and passes over the shards of the others, so it has to give the same
    samples whenever it is iterated over: ``StreamingLeRobotDataset(…, shuffle=False)`` does.

    Args:
        name: what the provenance calls it; with its revision, since nothing else tells two streams apart.
        collate: makes a batch from samples.
        group: the old task that the samples belong to.
    """

    def __init__(
        self,
        stream: Iterable[Mapping[str, Any]],
        count: int,
        *,
        name: str,
        collate: Callable[[list[Any]], dict[str, Any]] = default_collate,
        group: str = "stream",
    ) -> None:
        self._stream, self._count, self._name, self._collate = stream, count, name, collate
        self.groups = [group] * count
        self.strata = [(group,)] * count
        self._samples: Iterator[Mapping[str, Any]] = iter(())
        self._next = count

    def __len__(self) -> int:
        return self._count

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The samples at ``rows``; the stream begins anew for one that has passed.

        Raises:
            ValueError: the stream ends before, or it is read by a DataLoader's worker, which gets a part of it only.
        """
        if get_worker_info() is not None:
            raise ValueError(f"{self._name} is a stream, of which every worker would read a part: set num_workers to 0")
        found = {row: self._sample(row) for row in sorted(set(rows))}
        return self._collate([found[row] for row in rows])

    def description(self) -> Mapping[str, Any]:
        """The name, and how many samples are read."""
        digest = hashlib.sha256(repr((self._name, self._count)).encode()).hexdigest()
        return {"dataset": self._name, "frames": self._count, "fingerprint": digest}

    def _sample(self, row: int) -> Mapping[str, Any]:
        if row < self._next:
            self._samples, self._next = iter(self._stream), 0
        sample = next(itertools.islice(self._samples, row - self._next, None), None)
        if sample is None:
            raise ValueError(f"{self._name} has no sample {row}: it ends before, so ask for fewer")
        self._next = row + 1
        return sample
