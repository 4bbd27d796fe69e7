"""Columns of a memory-mapped Arrow dataset as arrays: rows are gathered without decoding the rest."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

NO_IMAGE = (OSError, ValueError, SyntaxError, TypeError, EOFError, IndexError, struct.error, zlib.error)  # by Pillow


class ArrayColumn:
    """A numeric column whose rows all have the same shape; a gather reads only the rows asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [_as_numpy(chunk) for chunk in column.chunks]
        self._starts = _starts(column)

    def gather(self, rows: Sequence[int]) -> NDArray[Any]:
        """The values at ``rows``, stacked."""
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        return np.stack([self._chunks[c][row - self._starts[c]] for c, row in zip(chunk_of_row, rows, strict=True)])


class RaggedColumn:
    """A numeric column whose rows differ in their first dimension, as token sequences do."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._lengths = [np.asarray(pc.list_value_length(_storage(chunk))) for chunk in column.chunks]
        self._ends = [np.cumsum(lengths) for lengths in self._lengths]
        self._chunks = [_as_numpy(_storage(chunk).flatten()) for chunk in column.chunks]
        self._starts = _starts(column)

    def gather(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        """The values at ``rows``, one array for each."""
        gathered = []
        for row in rows:
            chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
            place = row - self._starts[chunk]
            end = self._ends[chunk][place]
            gathered.append(self._chunks[chunk][end - self._lengths[chunk][place] : end].copy())
        return gathered


class StringColumn:
    """A column of strings."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column, self._starts = column, _starts(column)

    def gather(self, rows: Sequence[int]) -> Any:
        """The strings at ``rows``, one by one: Arrow's ``take`` would join all chunks first, memory or not."""
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        places = zip(chunk_of_row, rows, strict=True)
        return [self._column.chunk(c)[int(row - self._starts[c])].as_py() for c, row in places]


class ImageColumn(StringColumn):
    """A column of encoded images, one or a list of them in every row."""

    def gather(self, rows: Sequence[int]) -> Any:
        """The images at ``rows``: (rows, 3, height, width), or (rows, images, 3, height, width), in [0, 1].

        Raises:
            ValueError: one cannot be read, or they differ in size.
        """
        try:
            return np.stack([_decoded(value) for value in super().gather(rows)])
        except (*NO_IMAGE, Image.DecompressionBombError) as error:
            raise ValueError(f"an image of the rows {list(rows)[:8]} cannot be read ({error})") from error


type Column = ArrayColumn | RaggedColumn | StringColumn


def open_columns(dataset: datasets.Dataset) -> dict[str, Column]:
    """Every column of ``dataset``, ready to gather rows from."""
    if dataset._indices is not None:  # selected or shuffled
        dataset = dataset.flatten_indices()
    table = dataset.data.table
    return {name: _open(table.column(name), dataset.features[name]) for name in dataset.column_names}


def encoded(pixels: NDArray[Any], name: str) -> Any:
    """Turn float images (…, 3, height, width) in [0, 1] into what ``datasets.Image`` encodes: 8 bits a colour.

    Raises:
        ValueError: the values are not multiples of 1/255, so that encoding would change them.
    """
    if pixels.ndim > 3:
        return [encoded(image, name) for image in pixels]
    levels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.shape[0] != 3 or not np.array_equal(levels.astype(np.float32) / 255, pixels):
        raise ValueError(
            f"{name} holds an image of shape {pixels.shape} with values from {pixels.min():g} to {pixels.max():g}, not "
            "3 colours in steps of 1/255: build the cache with inputs=reference"
        )
    return Image.fromarray(levels.transpose(1, 2, 0))


def _decoded(value: Any) -> NDArray[np.float32]:
    if isinstance(value, list):
        return np.stack([_decoded(image) for image in value])
    with Image.open(io.BytesIO(value["bytes"])) as image:
        pixels: NDArray[np.float32] = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        return pixels


def _open(column: pa.ChunkedArray, feature: Any) -> Column:
    if isinstance(feature, datasets.Value) and feature.dtype == "string":
        return StringColumn(column)
    if isinstance(getattr(feature, "feature", feature), datasets.Image):
        return ImageColumn(column)
    lists = [storage for storage in map(_storage, column.chunks) if pa.types.is_list(storage.type)]
    lengths = {length for storage in lists for length in pc.unique(pc.list_value_length(storage)).to_pylist()}
    return RaggedColumn(column) if len(lengths) > 1 else ArrayColumn(column)


def _starts(column: pa.ChunkedArray) -> NDArray[Any]:
    """The row at which every chunk starts."""
    return np.cumsum([0, *(len(chunk) for chunk in column.chunks)])[:-1]


def _storage(chunk: pa.Array) -> pa.Array:
    return chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk


def _as_numpy(chunk: pa.Array) -> NDArray[Any]:
    """One chunk as an array of shape (rows, *shape); a view of the memory map, except for bit-packed booleans."""
    shape = [len(chunk)]
    values = _storage(chunk)
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        inner = values.flatten()
        shape.append(len(inner) // max(1, len(values)))
        values = inner
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
    return flat.reshape(shape)
