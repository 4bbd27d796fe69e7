"""Rows of a dataset of texts: a file of JSON lines, a folder, or a dataset of the Hub."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from craft_trainer.evaluation.question_data import open_data, open_split, undecoded
from craft_trainer.evaluation.question_images import ImageFolder
from craft_trainer.evaluation.question_rows import BadRowError
from craft_trainer.hub.resolve_path import parse
from craft_trainer.language.streaming import streamed_rows

LINE, JSON, REASON = "line", "json", "reason"  # columns of what a file of JSON lines is turned into
DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class Rows:
    """Rows that are not checked yet.

    Attributes:
        place: what to call the data in errors.
        source: the rows as a ``datasets`` dataset; of a file of JSON lines its lines.
        columns: the names that rows have.
        images: finds the images that rows name.
        revision: what identifies the data where it comes from: of a Hub dataset what was asked for, or "".
    """

    place: str
    source: datasets.Dataset
    columns: Sequence[str]
    images: ImageFolder
    revision: str

    def __len__(self) -> int:
        return len(self.source)

    def versions(self, columns: Sequence[str]) -> list[tuple[str, int, int, int]]:
        """Name, size and times of change of the files that hold the rows, and of those they name in ``columns``."""
        files = [Path(file["filename"]) for file in self.source.cache_files]
        table = self.source.data.table
        for column in set(columns) & set(self.source.column_names):
            named = {name for chunk in table.column(column).chunks for name in _named_files(chunk)}
            files += [root / name for root in self.images.roots[:1] for name in named]
        found = ((path, path.stat()) for path in sorted(set(files)) if path.is_file())
        return [(str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in found]

    @property
    def are_lines(self) -> bool:
        """True if the source holds lines of JSON, not columns."""
        return JSON in self.source.column_names and REASON in self.source.column_names

    def number(self, index: int) -> int:
        """The row's number for a person: its line in a file, else its place from 1."""
        return int(self.source[index][LINE]) if self.are_lines else index + 1

    def value(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Read the row ``raw`` of the source; a BadRowError if it says nothing."""
        if not self.are_lines:
            return raw
        if raw[REASON]:
            raise BadRowError(raw[REASON])
        value = json.loads(raw[JSON])
        if not isinstance(value, dict):
            raise BadRowError("it is not a JSON object")
        return value


def open_rows(
    name: str, *, config: str | None = None, split: str | None = None, streamed: int = 0, seed: int = 0
) -> Rows:
    """Rows of ``name``: JSON lines, a folder, or a Hub dataset ``org/name``, ``org/name@revision``.

    ``split`` is ``train`` or the only one if None. Of a dataset that is ``streamed`` so many rows are read, and no more
    is downloaded; see :func:`craft_trainer.language.streaming.streamed_rows`.

    Raises:
        FileNotFoundError: there is no such data.
        ValueError: it cannot be read, it is empty, or the split is missing; or it is a file, and ``streamed``.
    """
    found = parse(name)
    place, revision = (found, None) if isinstance(found, Path) else (None, found.revision)
    if place is not None and place.is_file():
        if streamed:
            raise ValueError(f"{place} is a file of JSON lines, which is read whole: streamed_rows is for datasets")
        rows = _lines(place, config, split)
    else:
        called = str(found) if isinstance(found, Path) else found.repo
        options = {"revision": revision, "config": config, "split": split, "default": DEFAULT_SPLIT}
        label, dataset, roots = open_split(place, called, **options, streaming=bool(streamed))
        dataset = streamed_rows(dataset, label, streamed, seed=seed) if streamed else dataset
        rows = Rows(label, undecoded(dataset), dataset.column_names, ImageFolder(roots), revision or "")
    if not len(rows):
        raise ValueError(f"{rows.place} is empty")
    return rows


def _lines(path: Path, config: str | None, split: str | None) -> Rows:
    for name, value in (("dataset_config", config), ("split", split)):
        if value is not None:
            raise ValueError(f"{path} is a file of JSON lines: it has no {name} ({value!r}); leave it out")
    data = open_data(path, split=None, revision=None, config=None, limit=None)
    numbers, values, reasons = [], [], []
    for number, value in data.rows:
        bad = isinstance(value, BadRowError)
        numbers.append(number)
        values.append("" if bad else json.dumps(value))
        reasons.append(str(value) if bad else "")
    source = datasets.Dataset.from_dict({LINE: numbers, JSON: values, REASON: reasons})
    return Rows(str(path), source, data.columns, ImageFolder(data.roots), "")


def _named_files(column: pa.Array) -> list[str]:
    """The files that a column of images, or of lists of them, names but does not hold.

    A text is relative to the data, and the ``path`` of a struct to the working folder, as `ImageFolder` has them.
    """
    if isinstance(column, pa.ListArray | pa.LargeListArray):
        column = column.flatten()
    if isinstance(column, pa.StructArray):
        fields = {field.name: column.field(field.name) for field in column.type}
        named = fields.get("path", pa.array([], pa.string()))
        if "bytes" in fields and "path" in fields:
            named = named.filter(fields["bytes"].is_null())
        return [str(Path(name).absolute()) for name in named.to_pylist() if isinstance(name, str)]
    return [name for name in column.to_pylist() if isinstance(name, str)]


def image_digest(images: Sequence[Any]) -> str:
    """SHA-256 of the bytes of image files, "" of none."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.read_bytes() if isinstance(image, Path) else image.content)
    return digest.hexdigest() if images else ""
