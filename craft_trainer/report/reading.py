"""A JSON file that a command wrote, or what is wrong with it."""

import json
from pathlib import Path
from typing import Any


def json_object(path: Path, maker: str) -> dict[str, Any]:
    """The object in ``path``, which the command ``maker`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass what {maker} wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); run {maker} again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; pass what {maker} wrote")
    return content
