"""One row of multiple-choice data: its fields, or why it is no question."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIELDS = ("question", "choices", "answer_index", "id", "image_path", "image")
IMAGES = ("image", "image_path")  # names of one field
NEEDED = ("question", "choices", "answer_index")
MOST_LISTED = 10  # rows in an error
MOST_NAMED = 6  # fields of a row


class BadRowError(ValueError):
    """Why a row is no question, in words that can be printed and written as JSON."""


@dataclass(frozen=True)
class Refused:
    """A row or question that was left out, and why."""

    row: int
    id: str
    reason: str


def listed(refused: Sequence[Refused]) -> list[str]:
    """A line for each of the first ``MOST_LISTED``, and one for how many more there are."""
    lines = [f"  row {one.row}{f' ({one.id})' if one.id else ''}: {one.reason}" for one in refused[:MOST_LISTED]]
    return lines + ([f"  … and {len(refused) - MOST_LISTED} more"] if len(refused) > MOST_LISTED else [])


def checked_fields(row: Any, names: Mapping[str, str], number: int, needed: Collection[str] = NEEDED) -> dict[str, Any]:
    """The fields of ``row``, whose columns are ``names``; ``number`` is its id where it has none.

    ``needed`` are the fields that it must have, be it as null.

    BadRowError: a missing field, a wrong type, blank text, fewer than two choices, two that are the same, an answer
    that is none of them.
    """
    if not isinstance(row, Mapping):
        raise BadRowError(f"it is {kind_of(row)}, not an object with question, choices and answer_index")
    for field in needed:
        if names[field] not in row:
            fields = ", ".join([shown(name) for name in row][:MOST_NAMED]) + (", …" if len(row) > MOST_NAMED else "")
            raise BadRowError(f"it has no {names[field]!r}; it has {fields or 'no fields'}")
    question, choices = checked_text(row[names["question"]], "question"), _choices(row[names["choices"]])
    answer, name = _answer(row[names["answer_index"]], len(choices)), _id(row.get(names["id"]), number)
    return {"id": name, "question": question, "choices": choices, "answer_index": answer, "row": number}


def shown(value: Any) -> str:
    """``value`` in a few printable characters, whatever it holds."""
    return reprlib.repr(value)


def checked_text(value: Any, what: str) -> str:
    """``value`` if it is text that says something, BadRowError if not."""
    if not isinstance(value, str):
        raise BadRowError(f"{what} must be text, not {kind_of(value)}")
    if not value.strip():
        raise BadRowError(f"{what} is {'blank' if value else 'empty'}")
    if "\0" in value:
        raise BadRowError(f"{what} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{what} holds half a character (a lone surrogate): {shown(value)}") from error
    return value


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise BadRowError(f"choices must be a list, not {kind_of(value)}")
    if len(value) < 2:
        raise BadRowError(f"choices must be two or more, not {len(value)}")
    choices = tuple(checked_text(choice, f"choice {index}") for index, choice in enumerate(value))
    first: dict[str, int] = {}
    for index, choice in enumerate(choices):
        if first.setdefault(choice.strip(), index) != index:
            raise BadRowError(f"choices {first[choice.strip()]} and {index} are the same: {shown(choice)}")
    return choices


def _answer(value: Any, num_choices: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRowError(f"answer_index must be a whole number, not {kind_of(value)}")
    if not 0 <= value < num_choices:
        raise BadRowError(f"answer_index {shown(value)} is none of the {num_choices} choices; 0 is the first")
    return value


def _id(value: Any, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return checked_text(value, "id")


def kind_of(value: Any) -> str:
    """Name the type of ``value`` in words of JSON."""
    kinds = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "bool": "true or false"}
    name = type(value).__name__
    return f"{kinds.get(name, f'a {name}')} ({shown(value)})" if value is not None else "null"
