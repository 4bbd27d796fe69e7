"""YAML files of a command's options: every key once."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is refused; PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build the mapping; a ValueError if a key is repeated."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise ValueError(f"line {line}: {key.value!r} stands in line {lines[key.value]} as well: keep one")
            if isinstance(key.value, str):
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def mapping_in(path: Path) -> dict[Any, Any]:
    """Read the YAML mapping in ``path``.

    Raises:
        ValueError: it is not YAML, not a mapping, or has a key twice; with the file, and the line.
    """
    try:
        values = UniqueKeys(path.read_text("utf-8")).get_single_data() or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values
