"""Rows of multiple-choice data: a file of JSON lines, a dataset in a folder, or a dataset of the Hub."""

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from craft_trainer.evaluation.question_rows import BadRowError, shown
from craft_trainer.hub.errors import plain_errors
from craft_trainer.hub.resolve_path import HubPlace, parse
from craft_trainer.hub.saved_datasets import open_saved

Row = tuple[int, Any]  # its number from 1, and its value or the BadRowError that says why it has none

USUAL_IMAGES = ("image", "images", "file_name")  # of JSON lines elsewhere, the last of datasets' imagefolder
SAVED = ("state.json", "dataset_dict.json", "dataset_info.json")  # what save_to_disk leaves


@dataclass(frozen=True)
class QuestionData:
    """Rows that are not checked yet.

    Attributes:
        place: what to call it in errors.
        rows: numbers and values.
        columns: the names that rows have.
        has_images: there is an image column named ``image``.
        image_columns: those of ``columns`` that hold images, by their type or their usual name.
        roots: folders that images may come from; relative paths start at the first.
        description: of the source, ready for JSON.
    """

    place: str
    rows: Iterable[Row]
    columns: Sequence[str]
    has_images: bool
    image_columns: Sequence[str]
    roots: Sequence[Path]
    description: dict[str, str | int | None] = field(default_factory=dict)

    def missing_column(self, ours: str, theirs: str) -> str:
        """Write the message for data that has no column ``theirs`` for our field ``ours``."""
        close = difflib.get_close_matches(theirs, self.columns, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        columns = ", ".join(shown(name) for name in self.columns[:40])
        return (
            f"{self.place} has no column {theirs!r}{hint} Its columns are {columns}. "
            f"Say which one is the {ours} with --columns {ours}=NAME"
        )


def open_data(
    data: str | Path, *, split: str | None, revision: str | None, config: str | None, limit: int | None
) -> QuestionData:
    """Rows of ``data``; see :func:`craft_trainer.evaluation.questions.read_questions`."""
    found = parse(data)
    if isinstance(found, HubPlace):
        revision = found.at(revision).revision
        return _open_dataset(None, found.repo, split=split, revision=revision, config=config, limit=limit)
    place = found
    if place.is_file():
        _refuse_options(place, split=split, revision=revision, config=config)
        return _open_lines(place, limit)
    if revision is not None:
        raise ValueError(f"{place} is a folder: a revision is for datasets of the Hub")
    return _open_dataset(place, str(data), split=split, revision=revision, config=config, limit=limit)


def _refuse_options(place: Path, **options: str | None) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{place} is a file of JSON lines: it has no {given[0]}; leave --{given[0]} out")


def _open_lines(path: Path, limit: int | None) -> QuestionData:
    content = path.read_bytes()
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # not at U+2028, which JSON allows in text
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:limit]
    rows = [(number, _parse(line)) for number, line in numbered]
    keys = dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row)
    return QuestionData(
        place=str(path),
        rows=rows,
        columns=list(keys),
        has_images=False,
        image_columns=[name for name in USUAL_IMAGES if name in keys],
        roots=[path.parent],
        description={"path": str(path), "sha256": hashlib.sha256(content).hexdigest(), "num_rows": len(rows)},
    )


def _parse(line: bytes) -> Any:
    """The value of a line of JSON, or the reason why it has none."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except BadRowError as reason:
        return reason
    except UnicodeDecodeError as error:
        return BadRowError(f"it is not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}")
    except json.JSONDecodeError as error:
        return BadRowError(f"it is not JSON: {error.msg}, at character {error.pos + 1} of the line")
    except RecursionError:
        return BadRowError("it is nested too deeply")
    except ValueError as error:  # an int of thousands of digits
        return BadRowError(f"it is not JSON that can be read: {shown(str(error))}")


def _no_constant(name: str) -> None:
    raise BadRowError(f"it is not JSON: {name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise BadRowError(f"it has the key {shown(twice)} twice")
    return keys


def _open_dataset(
    place: Path | None, name: str, *, split: str | None, revision: str | None, config: str | None, limit: int | None
) -> QuestionData:
    import datasets

    label, dataset, roots = open_split(place, name, split=split, revision=revision, config=config)
    chosen = undecoded(dataset)
    chosen = chosen if limit is None else chosen.select(range(min(limit, len(dataset))))
    return QuestionData(
        place=label,
        rows=enumerate(chosen, 1),
        columns=dataset.column_names,
        has_images=isinstance(dataset.features.get("image"), datasets.Image),
        image_columns=[name for name, feature in dataset.features.items() if _holds_images(feature)],
        roots=roots,
        description={
            "path" if place is not None else "name": name,
            "config": config,
            "split": split or (str(dataset.split) if dataset.split else None),
            "revision": revision,
            "fingerprint": dataset._fingerprint,
            "num_rows": len(chosen),
        },
    )


def open_split(
    place: Path | None,
    name: str,
    *,
    split: str | None,
    revision: str | None,
    config: str | None,
    default: str | None = None,
    streaming: bool = False,
) -> tuple[str, Any, list[Path]]:
    """Its name in errors, the split (``default`` or the only one if None), and the folders of its images."""
    loaded = load_any(place, name, revision=revision, config=config, streaming=streaming)
    if split is None and isinstance(loaded, dict) and default in loaded:
        split = default
    dataset = _one_split(loaded, split, name)
    label = f"{name} ({split or dataset.split or 'its only split'})"
    return label, dataset, [place] if place is not None else _cached_folders(name)


def undecoded(dataset: Any) -> Any:
    """``dataset`` with its images as the bytes of their files."""
    import datasets

    plain = datasets.Image(decode=False)
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, plain)
        elif _holds_images(feature):
            dataset = dataset.cast_column(column, datasets.List(plain))
    return dataset


def _holds_images(feature: Any) -> bool:
    """True of an image and of a list of them."""
    import datasets

    return isinstance(feature, datasets.Image) or isinstance(getattr(feature, "feature", None), datasets.Image)


def _cached_folders(name: str) -> list[Path]:
    """List the local folders of a Hub dataset: its snapshots, and its archives unpacked."""
    import datasets
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return [snapshots, Path(datasets.config.HF_DATASETS_CACHE) / "downloads"]


def load_any(
    place: Path | None, name: str, *, revision: str | None, config: str | None, streaming: bool = False
) -> Any:
    """A dataset or its splits: what ``save_to_disk`` left in the folder ``place``, other files in it, or ``name``.

    ``streaming`` leaves it where it is; what is on this machine anyway is opened as it is.
    """
    import datasets

    if place is not None and any((place / file).exists() for file in SAVED):
        if config is not None:
            raise ValueError(f"{place} was written by save_to_disk and has no configuration {config!r}: leave that out")
        return open_saved(place, "save it again")
    try:  # absolute: `text`, like other names of builders, is a builder before it is a folder
        called = str(place.absolute() if place else name)
        return datasets.load_dataset(called, config, revision=revision, streaming=streaming)
    except datasets.exceptions.DatasetNotFoundError:
        with plain_errors(name, "dataset", revision):
            raise
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:400]
        way_out = "" if place is None else ". Name a file of JSON lines itself to learn its bad rows"
        raise ValueError(f"{name} cannot be read as a dataset: {reason}{way_out}") from error


def _one_split(loaded: Any, split: str | None, name: str) -> Any:
    """The split called ``split``, or the only one there is."""
    import datasets

    splits: dict[str, Any] = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    if isinstance(loaded, datasets.Dataset) and split is None:
        return loaded
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split in splits:
        return splits[split]
    if split is None or re.split(r"[\[+]", split)[0] not in splits:
        given = "which one is meant must be said" if split is None else f"there is no split {split!r}"
        raise ValueError(f"{name}: {given}; its splits are {', '.join(splits)} (--split)")
    return _part(splits, split, name)


def _part(splits: Mapping[str, Any], split: str, name: str) -> Any:
    """The rows that ``split`` names in datasets' own words: ``train[:100]``, ``train[10%:]``, ``train[:9]+test``."""
    import datasets

    if not all(isinstance(dataset, datasets.Dataset) for dataset in splits.values()):
        raise ValueError(f"{name}: {split!r} is a part of a split, and streamed rows have no numbers: name a whole one")
    try:
        ranges = datasets.ReadInstruction.from_spec(split).to_absolute({key: len(splits[key]) for key in splits})
    except (AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: split {split!r} cannot be read: {reason}. Write e.g. train[:100]") from error
    parts = [splits[one.splitname].select(range(one.from_, one.to)) for one in ranges]
    if not sum(map(len, parts)):
        raise ValueError(f"{name}: split {split!r} has no rows")
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
