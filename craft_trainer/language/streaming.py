"""Some rows of a dataset that stays where it is."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory

SHUFFLE_BUFFER = 10_000  # rows held at once, from which the next one is drawn


def streamed_rows(
    stream: datasets.IterableDataset | datasets.Dataset, place: str, count: int, *, seed: int
) -> datasets.Dataset:
    """The first ``count`` rows of ``stream``, mixed by ``seed``, in a file of this machine that memory maps.

    Shards come in random order, and rows through a buffer of ``SHUFFLE_BUFFER``, so that the rows are not those of the
    first file alone. The same seed gives the same rows. All of them, if there are no more.

    Raises:
        ValueError: what is called ``place`` cannot be read.
    """
    if isinstance(stream, datasets.Dataset):
        stream = stream.to_iterable_dataset()
    chosen = stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(count)

    def rows() -> Iterator[dict[str, Any]]:
        yield from chosen

    try:
        features = chosen.features or chosen._resolve_features().features
        return datasets.Dataset.from_generator(
            rows,
            features=features,
            cache_dir=get_temporary_cache_files_directory(),  # which goes with the process
            fingerprint=uuid4().hex[:16],  # datasets would hash the stream
        )
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:400]
        raise ValueError(f"{place} cannot be read as a stream: {reason}") from error
