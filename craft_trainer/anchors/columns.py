"""Columns of a memory-mapped Arrow dataset as arrays: rows are gathered without decoding the rest."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class ArrayColumn:
    """A numeric column whose rows all have the same shape; a gather reads only the rows asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [_as_numpy(chunk) for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])[:-1]

    def gather(self, rows: Sequence[int]) -> NDArray[Any]:
        """The values at ``rows``, stacked."""
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        return np.stack([self._chunks[c][row - self._starts[c]] for c, row in zip(chunk_of_row, rows, strict=True)])


class StringColumn:
    """A column of strings."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def gather(self, rows: Sequence[int]) -> list[str]:
        """The strings at ``rows``."""
        strings: list[str] = self._column.take(pa.array(rows)).to_pylist()
        return strings


def open_columns(dataset: datasets.Dataset) -> dict[str, ArrayColumn | StringColumn]:
    """Every column of ``dataset``, ready to gather rows from."""
    if dataset._indices is not None:  # selected or shuffled
        dataset = dataset.flatten_indices()
    table = dataset.data.table
    return {
        name: (StringColumn if _is_string(dataset.features[name]) else ArrayColumn)(table.column(name))
        for name in dataset.column_names
    }


def _is_string(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype == "string"


def _as_numpy(chunk: pa.Array) -> NDArray[Any]:
    """One chunk as an array of shape (rows, *shape); a view of the memory map, except for bit-packed booleans."""
    shape = [len(chunk)]
    values = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        inner = values.flatten()
        shape.append(len(inner) // max(1, len(values)))
        values = inner
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
    return flat.reshape(shape)
