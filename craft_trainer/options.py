"""Options: dataclass fields with a help text, and mappings that a command line gives as JSON."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any


def option(help_text: str, default: Any = dataclasses.MISSING) -> Any:
    """Make a dataclass field with its help text; a list is its own default factory."""
    metadata = {"help": help_text.replace("%", "%%")}  # argparse formats help texts
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def help_of(field: "dataclasses.Field[Any]") -> str:
    """The help text that :func:`option` was given."""
    return str(field.metadata["help"]).replace("%%", "%")


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default value of a field; ``dataclasses.MISSING`` of one that must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def json_mapping(name: str, value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Read a mapping option: from YAML as it is, from the command line as JSON.

    Raises:
        ValueError: it is not a JSON object.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is not JSON ({error}): give it as '{{\"key\": value}}'") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, like '{{\"key\": value}}'")
    return value or {}


def pairs_or_json(name: str, value: dict[str, Any] | str | None) -> dict[str, str]:
    """Read ``text=content,group=topic`` or JSON as a mapping.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return json_mapping(name, value)
    pairs = [part.split("=", 1) for part in value.split(",") if part]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{name} is {value!r}: give it as OURS=THEIRS,OURS=THEIRS")
    return {ours.strip(): theirs.strip() for ours, theirs in pairs}


def refuse_idle(arguments: Any, names: Iterable[str], reason: str) -> None:
    """Refuse the options ``names`` of ``arguments`` where they are given: they would change nothing.

    Raises:
        ValueError: one of them is not its default; ``reason`` says why that has no effect.
    """
    known = {field.name: field for field in dataclasses.fields(arguments)}
    for name in names:
        if getattr(arguments, name) not in (default_of(known[name]), {}):
            raise ValueError(f"{name} has no effect here: {reason}. Leave it out")


def require_at_least(arguments: Any, least: int, names: Iterable[str]) -> None:
    """Refuse, by a ValueError, an option among ``names`` of ``arguments`` that is given and smaller than ``least``."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")


def refuse_twice(name: str, values: Sequence[str], said: str = "") -> None:
    """Refuse, by a ValueError, an option ``name`` in which one of the ``values`` stands twice."""
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{name} has {', '.join(twice)} twice{said}: name each once")


def split_list(values: Sequence[Any]) -> list[str]:
    """List the items of an option, given as words, as one comma-separated word, or in YAML."""
    return [item for value in values for item in str(value).split(",") if item]
