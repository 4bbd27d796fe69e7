"""Multiple-choice questions from JSON lines or a dataset: all of them checked before anything is computed."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from craft_trainer.evaluation.question_data import QuestionData, Row, open_data
from craft_trainer.evaluation.question_images import ImageFolder, StoredImage
from craft_trainer.evaluation.question_rows import (
    FIELDS,
    IMAGES,
    NEEDED,
    BadRowError,
    Refused,
    checked_fields,
    listed,
    shown,
)


@dataclass(frozen=True)
class Question:
    """A question with n ≥ 2 different choices, one of them right.

    Attributes:
        id: unique in its data; the number of the row where the data has none.
        question: the text, not blank.
        choices: the n texts, none blank.
        answer_index: the right one, in 0 … n − 1.
        image: a file that opens as an image, an image of a dataset, or ``None``.
        row: from 1; the line of a file of JSON lines.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer_index: int
    image: Path | StoredImage | None
    row: int


@dataclass(frozen=True)
class Questions:
    """The questions of a data set, in its order.

    Attributes:
        items: what can be asked.
        refused: rows left out because of ``on_bad_row="skip"``; empty otherwise.
        source: where they come from, ready for JSON: ``path`` and ``sha256`` of a file; ``path`` or ``name``,
            ``config``, ``split``, ``revision`` and ``fingerprint`` of a dataset; ``num_rows``. Images that a file
            names are not part of its sha256.
    """

    items: tuple[Question, ...]
    refused: tuple[Refused, ...]
    source: dict[str, str | int | None]


def read_questions(
    data: str | Path,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: int | None = None,
    revision: str | None = None,
    config: str | None = None,
) -> Questions:
    """Read and check multiple-choice questions.

    A row has ``question``, ``choices`` (2 or more, as many as it likes), ``answer_index`` (from 0), and may have ``id``
    and ``image_path`` (relative to the file or folder, and inside it). A dataset may have an image column ``image``
    instead. Other keys are ignored, but not images: which column holds them, or that none does, must then be said.

    Args:
        data: a file of JSON lines, a folder of a dataset (``save_to_disk``, or files that ``load_dataset`` reads), or
            the name ``owner/name`` of a dataset on the Hub.
        split: of a dataset; may be left out if there is one.
        columns: our names to the data's, such as ``{"question": "prompt"}``; every row has what is named here, be it as
            null. With ``{"image": ""}`` questions are asked without images.
        on_bad_row: "error" refuses the data if any row is bad; "skip" lists these rows in ``refused``.
        limit: read the first ``limit`` ≥ 1 rows only.
        revision: of a dataset on the Hub.
        config: of a dataset that has several.

    Raises:
        FileNotFoundError: there is no such data.
        ValueError: bad rows, with row and reason; no question left; unknown columns; images in a column that nothing
            names; a split that must be named.
    """
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row must be 'error' or 'skip', not {on_bad_row!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    source = open_data(data, split=split, revision=revision, config=config, limit=limit)
    names = _columns(columns or {}, source)
    needed = dict.fromkeys((*NEEDED, *(name for name in columns or {} if names[name])))
    items, refused = _check_rows(source.rows, names, needed, ImageFolder(source.roots))
    if refused and on_bad_row == "error":
        num_bad = f"{len(refused)} bad row" + ("s" if len(refused) > 1 else "")
        way_out = "Mend them, or leave them out with --on-bad-row skip; the result then lists them."
        raise ValueError("\n".join([f"{source.place} has {num_bad}:", *listed(refused), way_out]))
    if not items:
        first = "".join(f"; row {one.row}: {one.reason}" for one in refused[:1])
        raise ValueError(f"{source.place}: no question can be used, of {len(refused)} rows{first}")
    return Questions(items=tuple(items), refused=tuple(refused), source=source.description)


def _check_rows(
    rows: Iterable[Row], names: Mapping[str, str], needed: Collection[str], images: ImageFolder
) -> tuple[list[Question], list[Refused]]:
    items: dict[str, Question] = {}
    refused: list[Refused] = []
    for number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            fields = checked_fields(row, names, number, needed)
            item = Question(**fields, image=images.find(row.get(names["image"]) if names["image"] else None))
            if item.id in items:
                raise BadRowError(f"its id {shown(item.id)} is that of row {items[item.id].row}")
        except BadRowError as reason:
            refused.append(Refused(number, "", str(reason)))
        else:
            items[item.id] = item
    return list(items.values()), refused


def _columns(chosen: Mapping[str, str], source: QuestionData) -> dict[str, str]:
    """The data's names of our fields; ``image`` is the chosen column, an image column, or else ``image_path``."""
    unknown = [name for name in chosen if name not in FIELDS]
    if unknown:
        raise ValueError(f"columns: {unknown[0]!r} is not a field of a question; the fields are {', '.join(FIELDS)}")
    names = {name: chosen.get(name, name) for name in FIELDS}
    needed = {*NEEDED, *(name for name in chosen if name not in IMAGES or chosen[name])}
    for name in (name for name in FIELDS if name in needed and source.columns):
        if names[name] not in source.columns:
            raise ValueError(source.missing_column(name, names[name]))
    if set(IMAGES) <= set(chosen):
        raise ValueError("columns: a question has one image; choose image or image_path")
    if "image_path" in chosen:
        return names | {"image": names["image_path"]}
    if "image" in chosen or source.has_images:
        return names
    if source.image_columns and "image_path" not in source.columns:
        name = source.image_columns[0]
        raise ValueError(
            f"{source.place} has images in the column {name!r}, and questions would be asked without them: choose it "
            f"by --columns image={name}, or ask without images by --columns image="
        )
    return names | {"image": names["image_path"]}
