"""The words of a command line."""

from typing import Any


def flags(**values: Any) -> list[str]:
    """``--key value`` for each; a list becomes several words."""
    words: list[str] = []
    for key, value in values.items():
        words += [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}", str(value)]
    return words
