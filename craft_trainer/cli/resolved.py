"""Show the values that a command would work with, and the origin of each."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

SECRET = "token"  # values of fields whose names end so are not shown


def document(
    filled: Sequence[Any],
    given: Mapping[str, Any],
    *,
    words: Container[str],
    file: Path | None,
    in_file: Container[str],
) -> str:
    """Write the options in ``filled`` as YAML that ``--config`` reads, with the origin of each as a comment.

    The command line gave the fields ``words``, ``file`` gave ``in_file``: they come first. ``given`` are the values
    before the dataclasses made something else of them; both are shown.
    """
    origins: dict[str, list[str]] = {"command line": [], str(file): [], "default": []}
    for arguments in filled:
        for field in dataclasses.fields(arguments):
            if field.init and field.name in given:
                name = field.name
                origin = "command line" if name in words else str(file) if name in in_file else "default"
                origins[origin].append(_line(name, given[name], getattr(arguments, name), origin))
    return "\n".join(line for lines in origins.values() for line in lines)


def _line(name: str, given: Any, used: Any, origin: str) -> str:
    if name.endswith(SECRET) and given is not None:
        return f"# {name}: (not shown)  # {origin}"
    before, after = _text(given), _text(used)
    return f"{name}: {before}  # {origin}" + ("" if before == after else f", which becomes {after}")


def _text(value: Any) -> str:
    """``value`` on one line of YAML."""
    listed: str = yaml.safe_dump([_plain(value)], default_flow_style=True, allow_unicode=True, width=10**6)
    return listed.strip()[1:-1]


def _plain(value: Any) -> Any:
    """``value`` in YAML's own types."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
