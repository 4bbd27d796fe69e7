"""A JSON file that a command wrote, checked against what should be in it."""

import json
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from sys import float_info
from typing import Any, NamedTuple

from craft_trainer.files import CHECKSUM, checksum


class Rule(NamedTuple):
    """A rule for one value, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


type Schema = Rule | Mapping[str, Schema] | Sequence[Schema]  # of a list: the schema of each item

NAME = Rule("a name", lambda value: isinstance(value, str) and value != "")
TEXT = Rule("text", lambda value: isinstance(value, str))
ANY_KEY = "*"
ANYTHING = Rule("anything", lambda _: True)
FLAG = Rule("true or false", lambda value: type(value) is bool)
SHA256 = Rule("a SHA-256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)


def one_of(names: Sequence[str]) -> Rule:
    """Make the rule of one of ``names``."""
    return Rule(f"one of {', '.join(names)}", lambda value: value in list(names))


def integer(low: int, high: float = inf) -> Rule:
    """Make the rule of an integer from ``low`` to ``high``, both included."""
    expected = f"an integer ≥ {low}" if high == inf else f"an integer from {low} to {high}"
    return Rule(expected, lambda value: type(value) is int and low <= value <= high)


def number(low: float = -inf, high: float = inf) -> Rule:
    """Make the rule of a finite number from ``low`` to ``high``, both included."""
    bounds = f"a number ≥ {low:g}" if high == inf else f"a number from {low:g} to {high:g}"
    bounds = f"a number ≤ {high:g}" if low == -inf else bounds
    expected = "a finite number" if (low, high) == (-inf, inf) else bounds
    low, high = max(low, -float_info.max), min(high, float_info.max)
    return Rule(expected, lambda value: type(value) in (int, float) and low <= value <= high)


def json_object(path: Path, way_out: str) -> dict[str, Any]:
    """Read the object in ``path``; an error (no file, not JSON, not an object) ends with the ``way_out``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {way_out}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); {way_out}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object; {way_out}")
    return content


def without_checksum(content: dict[str, Any], path: Path, way_out: str) -> dict[str, Any]:
    """``content`` without its checksum, a ValueError if there is one that does not fit: results may be put together."""
    if CHECKSUM in content:
        require_checksum(content, path, way_out)
    return {key: value for key, value in content.items() if key != CHECKSUM}


def require_checksum(content: Mapping[str, Any], path: Path, way_out: str) -> None:
    """Raise a ValueError unless ``content`` is what a command wrote to ``path``, with its checksum."""
    if content.get(CHECKSUM) != checksum(content):
        raise ValueError(f"{path}: {CHECKSUM} does not fit the rest, so it was changed or damaged; {way_out}")


def check(value: Any, schema: Schema, place: str, *, exact: bool = False, again: str = "write the file again") -> None:
    """Raise a ValueError that begins with ``place``, and ends with ``again``, unless ``value`` is as ``schema`` says.

    An object must have the keys of its schema, and no others where it is ``exact``; the key ANY_KEY stands for any. A
    list must have an item.
    """
    if isinstance(schema, Rule):
        if not schema.holds(value):
            raise ValueError(f"{place} is {reprlib.repr(value)}, expected {schema.expected}; {again}")
    elif isinstance(schema, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is a {type(value).__name__}, expected an object; {again}")
        inside = place if place.endswith(": ") else f"{place}."
        for key in dict.fromkeys((*schema, *value)):
            if key not in value and key != ANY_KEY:
                raise ValueError(f"{inside}{key} is missing; expected the keys {', '.join(schema)}; {again}")
            if key in value and (key in schema or ANY_KEY in schema):
                check(value[key], schema.get(key, schema.get(ANY_KEY, {})), f"{inside}{key}", exact=exact, again=again)
            elif key in value and exact and schema:
                raise ValueError(f"{inside}{key} is unknown; expected the keys {', '.join(schema)}; {again}")
    elif not isinstance(value, list) or not value:
        raise ValueError(f"{place} is {reprlib.repr(value)}, expected a list of at least one; {again}")
    else:
        for index, one in enumerate(value):
            check(one, schema[0], f"{place}[{index}]", exact=exact, again=again)
