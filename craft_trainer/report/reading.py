"""A JSON file that a command wrote, or what is wrong with it."""

import json
from pathlib import Path
from typing import Any


def json_object(path: Path, way_out: str) -> dict[str, Any]:
    """The object in ``path``; an error ends with the ``way_out``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {way_out}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {way_out}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object; {way_out}")
    return content
